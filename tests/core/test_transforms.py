"""Transforms: SimpleITK says where a point goes, and numpy whether a box holds it."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lsfm_core import CancelledError, CancelToken, InputError, MissingError, SourceError, Space
from lsfm_core.progress import Progress
from lsfm_core.transforms import Affine, DisplacementField, InverseField, Transform, TransformChain, read_transforms

from .effort import examples

LPS = np.array([-1.0, -1.0, 1.0])  # of RAS, and the other way
WARP = "template_to_structural_1Warp.nii.gz"
INVERSE_WARP = "template_to_structural_1InverseWarp.nii.gz"
AFFINE = "template_to_structural_0GenericAffine.mat"
SIGNAL = "structural_to_signal_affine.txt"


def by_itk(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint((p * LPS).tolist()) for p in points]).reshape(-1, 3) * LPS


def by_matrix(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ affine[:3, :3].T + affine[:3, 3]


def centres(space: Space) -> np.ndarray:
    return by_matrix(space.world_from_voxel, np.array(list(np.ndindex(*space.shape)), dtype=float))


def rotation(rng: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def random_affine(rng: np.random.Generator) -> tuple[Affine, sitk.Transform]:
    """One that turns, stretches and shears, made in ITK's terms."""
    linear = rotation(rng) @ (np.diag(rng.uniform(0.6, 1.6, 3)) + np.triu(rng.uniform(-0.3, 0.3, (3, 3)), 1))
    itk = sitk.AffineTransform(linear.ravel().tolist(), rng.normal(size=3).tolist(), rng.normal(size=3).tolist())
    return Affine.from_itk(itk.GetParameters(), itk.GetFixedParameters()), itk


def random_field(rng: np.random.Generator, vectors: np.ndarray | None = None) -> tuple[DisplacementField, sitk.Transform]:
    """Noise, or what is given, on an oblique grid around the origin, made in ITK's terms."""
    if vectors is None:
        vectors = rng.normal(size=(*rng.integers(1, 9, 3), 3)) * rng.uniform(0.02, 0.4)
    shape = np.array(vectors.shape[:3])
    direction, spacing = rotation(rng), rng.uniform(0.5, 1.2, 3)
    origin = rng.normal(size=3) - direction @ (spacing * shape[::-1] / 2)
    image = sitk.GetImageFromArray(vectors * LPS, isVector=True)
    image.SetOrigin(origin.tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    matrix = np.eye(4)
    matrix[:3, :3] = (LPS[:, None] * direction * spacing)[:, ::-1]
    matrix[:3, 3] = LPS * origin
    return DisplacementField(Space(tuple(shape), matrix), vectors, name="noise"), sitk.DisplacementFieldTransform(image)


def random_chain(rng: np.random.Generator, kinds: str) -> tuple[TransformChain, sitk.Transform]:
    pairs = [random_affine(rng) if kind == "A" else random_field(rng) for kind in kinds]
    return TransformChain([ours for ours, _ in pairs]), sitk.CompositeTransform([sitk.Transform(), *(itk for _, itk in pairs)])


def random_block(rng: np.random.Generator) -> Space:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(rng) * rng.uniform(0.2, 1.5, 3)
    matrix[:3, 3] = rng.uniform(-4, 2, 3)
    return Space(tuple(rng.integers(1, 8, 3)), matrix)


def smooth_field(amplitude: float, shape: tuple[int, int, int] = (30, 28, 26), **options: Any) -> DisplacementField:
    """A bulge along each axis that fades toward the faces; folds once the amplitude is large."""
    grid = np.stack(np.meshgrid(*(np.linspace(0, np.pi, n) for n in shape), indexing="ij"), axis=-1)
    fade = np.sin(grid).prod(axis=-1, keepdims=True) ** 2
    matrix = np.diag([0.1, -0.12, 0.15, 1.0])
    return DisplacementField(Space(shape, matrix), amplitude * fade * np.sin(2 * grid), name="bulge", **options)


def nifti_field(path: Path, **options: Any) -> DisplacementField:
    """An ANTs file, turned by hand: x, y, z, 1, LPS becomes z, y, x, RAS."""
    image = nibabel.load(path)
    vectors = np.asarray(image.dataobj)[:, :, :, 0].transpose(2, 1, 0, 3) * LPS
    return DisplacementField(Space(vectors.shape[:3], image.affine[:, [2, 1, 0, 3]]), vectors, name=path.name, **options)


@pytest.fixture(scope="module")
def pair(brain_data: Path) -> DisplacementField:
    """The specimen's warp, with its stored inverse."""
    inverse = nifti_field(brain_data / "transforms" / INVERSE_WARP)
    return nifti_field(brain_data / "transforms" / WARP, partner=inverse)


@pytest.fixture(scope="module")
def brain_points(brain_data: Path) -> np.ndarray:
    """Voxel centres of the template that show brain."""
    image = nibabel.load(brain_data / "template_100um.nii.gz")
    data = np.asarray(image.dataobj)
    inside = np.argwhere(data > 0.2 * np.percentile(data, 99)).astype(float)
    return by_matrix(image.affine, inside[::7])


# --- points ---------------------------------------------------------------------------------------------------------------------


def test_points_go_through_the_real_chain_as_itk_takes_them(brain_data: Path, pair: DisplacementField) -> None:
    folder = brain_data / "transforms"
    chain = TransformChain([*read_transforms(folder / SIGNAL), *read_transforms(folder / AFFINE), pair])
    warp = sitk.DisplacementFieldTransform(sitk.ReadImage(str(folder / WARP), sitk.sitkVectorFloat64))
    itk = sitk.CompositeTransform([sitk.ReadTransform(str(folder / SIGNAL)), sitk.ReadTransform(str(folder / AFFINE)), warp])
    rng = np.random.default_rng(5)
    box = pair.space.bounds
    everywhere = rng.uniform(np.array(box.lower_mm) - 1, np.array(box.upper_mm) + 1, (5000, 3))
    index = rng.uniform(0, np.array(pair.space.shape) - 1, (3000, 3))
    axis = np.arange(3000) % 3
    faces = np.where(rng.random(3000) < 0.5, 0, np.array(pair.space.shape)[axis] - 1)
    index[np.arange(3000), axis] = faces + rng.uniform(-0.6, 0.6, 3000)
    points = np.concatenate([everywhere, by_matrix(pair.space.world_from_voxel, index)])
    np.testing.assert_allclose(chain.map_points(points), by_itk(itk, points), rtol=0, atol=1e-9)
    assert [len(TransformChain(part).folded) for part in ([], chain.transforms, chain.transforms[:2])] == [0, 2, 1]
    lines = chain.describe().splitlines()
    assert [line[:2] for line in lines] == ["1.", "2.", "3."]
    assert SIGNAL in lines[0] and "80 x 132 x 114" in lines[2]
    assert chain.domain is pair.space and TransformChain(chain.transforms[:2]).domain is None


@settings(deadline=None, max_examples=60)
@given(kinds=st.text("AFI", min_size=1, max_size=4), amplitude=st.floats(0.02, 0.12), seed=st.integers(0, 2**32))
def test_no_image_of_a_block_lies_beyond_its_reach(kinds: str, amplitude: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inverse = InverseField(smooth_field(amplitude, (12, 11, 10)))
    steps = [inverse if kind == "I" else random_chain(rng, kind)[0].transforms[0] for kind in kinds]
    chain, block = TransformChain(steps), random_block(rng)
    found = chain.map_points(block.to_world(np.argwhere(np.ones(block.shape, bool))))
    reach = chain.reach(block, 2**30)
    assert reach is not None
    # Along any direction, as a hull's.
    directions = rng.normal(size=(3, 20))
    assert ((found @ directions).min(axis=0) >= (reach @ directions).min(axis=0) - 1e-9).all()


def test_the_longest_displacement_of_a_field_is_known() -> None:
    vectors = np.random.default_rng(3).normal(size=(5, 4, 6, 3))
    vectors[3, 1, 2] = 7.0, -6.0, 6.0
    assert DisplacementField(Space((5, 4, 6), np.eye(4)), vectors).longest_mm == 11.0


@settings(deadline=None)
@given(kinds=st.text("AF", max_size=4), seed=st.integers(0, 2**32))
def test_points_go_through_any_chain_as_itk_takes_them(kinds: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chain, itk = random_chain(rng, kinds)
    points = rng.normal(size=(200, 3)) * 3
    np.testing.assert_allclose(chain.map_points(points), by_itk(itk, points), rtol=0, atol=1e-9)
    linear = np.eye(3)
    for transform in chain.transforms:
        linear = linear @ (transform.matrix[:3, :3] if isinstance(transform, Affine) else np.eye(3))
    np.testing.assert_allclose(chain.linear, linear, atol=1e-12)


def test_a_chain_of_affines_is_undone_by_its_inverse() -> None:
    rng = np.random.default_rng(1)
    chain, itk = random_chain(rng, "AAA")
    points = rng.normal(size=(50, 3)) * 5
    np.testing.assert_allclose(chain.inverse().map_points(points), by_itk(itk.GetInverse(), points), atol=1e-9)
    np.testing.assert_allclose(chain.inverse().map_points(chain.map_points(points)), points, atol=1e-9)


def test_the_stored_pair_undoes_the_real_chain_inside_the_brain(
    brain_data: Path, pair: DisplacementField, brain_points: np.ndarray
) -> None:
    folder = brain_data / "transforms"
    chain = TransformChain([*read_transforms(folder / SIGNAL), *read_transforms(folder / AFFINE), pair])
    back = chain.inverse()
    miss = np.linalg.norm(back.map_points(chain.map_points(brain_points)) - brain_points, axis=1) / 0.1
    assert np.percentile(miss, 99) < 0.05
    assert pair.partner is not None and pair.partner.inverse() is pair
    affine = sitk.ReadTransform(str(folder / AFFINE))
    inverse_warp = sitk.DisplacementFieldTransform(sitk.ReadImage(str(folder / INVERSE_WARP), sitk.sitkVectorFloat64))
    # The way that ANTs' own outputs are used to carry points outward.
    ants = sitk.CompositeTransform([inverse_warp, affine.GetInverse()])
    structural = TransformChain(chain.transforms[1:])
    native = structural.map_points(brain_points[:500])
    np.testing.assert_allclose(structural.inverse().map_points(native), by_itk(ants, native), atol=1e-9)


def test_a_numeric_inverse_brings_points_of_the_brain_back(brain_data: Path, brain_points: np.ndarray) -> None:
    warp = nifti_field(brain_data / "transforms" / WARP, may_invert=True)
    inverse = warp.inverse()
    assert isinstance(inverse, InverseField) and inverse.inverse() is warp
    for first, second in ((warp, inverse), (inverse, warp)):
        miss = np.linalg.norm(second.map_points(first.map_points(brain_points)) - brain_points, axis=1) / 0.1
        assert miss.max() < 1e-3
    median, maximum = inverse.residual()
    assert median <= maximum < 1e-4


def test_a_numeric_inverse_knows_where_the_field_moves_nothing() -> None:
    vectors = np.zeros((20, 10, 10, 3))
    vectors[..., 0] = 2.0
    shift = DisplacementField(Space((20, 10, 10), np.eye(4)), vectors, may_invert=True)
    inverse = shift.inverse()
    far = np.array([[-30.0, 5, 5], [5, 1e9, 5], [40, 5, 5], [np.nan, 5, 5], [1e300, 5, 5]])
    np.testing.assert_array_equal(inverse.map_points(far), far)
    # Points beyond the domain, to which the field moves some of its own.
    np.testing.assert_allclose(inverse.map_points([[20.5, 5, 5], [10.25, 3, 4]]), [[18.5, 5, 5], [8.25, 3, 4]], atol=1e-9)
    assert inverse.map_points(np.empty((0, 3))).shape == (0, 3)


@settings(deadline=None, max_examples=examples(20))
@given(amplitude=st.floats(-0.25, 0.25), seed=st.integers(0, 2**32))
def test_a_numeric_inverse_brings_back_what_any_smooth_field_moves(amplitude: float, seed: int) -> None:
    field = smooth_field(amplitude)
    inverse = InverseField(field)
    index = np.random.default_rng(seed).uniform(-3, np.array(field.space.shape) + 2, (500, 3))
    points = by_matrix(field.space.world_from_voxel, index)
    assert np.abs(inverse.map_points(field.map_points(points)) - points).max() < 1e-3 * 0.1
    assert np.abs(field.map_points(inverse.map_points(points)) - points).max() < 1e-3 * 0.1


@settings(deadline=None, max_examples=examples(20))
@example(seed=145762, steps=(0.2, 3.0))
@given(seed=st.integers(0, 2**32), steps=st.sampled_from([(0.3, 2.0), (0.2, 3.0)]))
def test_a_numeric_inverse_brings_back_what_stretches_and_squeezes_at_random(seed: int, steps: tuple[float, float]) -> None:
    """All points, up to a stretch of 2 and a squeeze of 0.3 side by side; beyond that a point in a thousand may stay astray."""
    rng = np.random.default_rng(seed)
    shape = (30, 28, 26)
    # Along each axis steps of so many voxels, where plain fixed-point iteration diverges; then some shear.
    places = [np.cumsum(rng.uniform(*steps, n)) - np.arange(n) - n / 2 for n in shape]
    moved = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1)
    moved[..., 0] += 0.5 * moved[..., 2]
    field = DisplacementField(Space(shape, np.diag([0.1, -0.12, 0.15, 1])), moved * (0.1, -0.12, 0.15))
    index = rng.uniform(-0.4, np.array(shape) - 0.6, (1000, 3))
    points = by_matrix(field.space.world_from_voxel, index)
    carried = field.map_points(points)
    found = InverseField(field).map_points(carried)
    astray = np.abs(found - points).max(axis=1) >= 1e-3 * 0.1
    assert astray.sum() <= (1 if steps == (0.2, 3.0) else 0)
    # Whoever carries such a point back sees that it is none.
    assert (np.abs(field.map_points(found) - carried).max(axis=1)[astray] > 1e-3 * 0.1).all()


def test_a_field_without_inverse_says_so() -> None:
    field = smooth_field(0.1)
    with pytest.raises(InputError, match=r"'bulge'.*--inverse-of"):
        TransformChain([field]).inverse()


# --- folding --------------------------------------------------------------------------------------------------------------------


def test_voxels_where_a_field_folds_are_counted() -> None:
    # Along axis 1 (which grows toward posterior) the points of rows 100 to 119 come to lie in reverse order.
    place = np.arange(150.0)
    place[100:120] = place[100:120][::-1]
    slopes = np.gradient(place)
    vectors = np.zeros((70, 150, 3, 3), np.float32)
    vectors[..., 1] = -0.5 * (place - np.arange(150))[:, None]
    field = DisplacementField(Space((70, 150, 3), np.diag([0.2, -0.5, 1, 1])), vectors, name="folded", may_invert=True)
    folded = int((slopes <= 0).sum())
    assert folded >= 18
    seen: list[int] = []
    progress = Progress("folding", vectors.nbytes, lambda stage, done, total: seen.append(done))
    assert field.folding(progress) == (folded * 70 * 3, 70 * 150 * 3)
    assert seen[-1] == vectors.nbytes and len(seen) > 4
    with pytest.raises(InputError, match=r"'folded'.*misses by .* mm \(median\) and .* mm \(maximum\)"):
        field.inverse()
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        field.folding(Progress("folding", vectors.nbytes, cancel=token))


def test_a_smooth_field_does_not_fold(pair: DisplacementField) -> None:
    assert pair.folding() == (0, 114 * 132 * 80)
    assert smooth_field(0.2).folding()[0] == 0
    # A field of one plane says nothing about the way across it.
    assert smooth_field(0.0, (1, 5, 5)).folding() == (0, 25)
    # Determinants as numpy has them, on an oblique grid.
    rng = np.random.default_rng(3)
    field, _ = random_field(rng, rng.normal(size=(66, 5, 70, 3)) * 0.6)
    per_index = np.stack(np.gradient(np.asarray(field.vectors), axis=(0, 1, 2)), axis=-1)
    jacobian = np.eye(3) + per_index @ np.linalg.inv(field.space.world_from_voxel[:3, :3])
    folded = int((np.linalg.det(jacobian) <= 0).sum())
    assert 0 < folded < 66 * 5 * 70
    assert field.folding() == (folded, 66 * 5 * 70)


# --- blocks ---------------------------------------------------------------------------------------------------------------------


def assert_held(points: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> None:
    for _ in range(4):
        frame = rng.normal(size=(3, 3))
        held, seen = points @ frame, inside @ frame
        assert (held.min(axis=0) <= seen.min(axis=0) + 1e-9).all()
        assert (held.max(axis=0) >= seen.max(axis=0) - 1e-9).all()


@settings(deadline=None, max_examples=examples(300))
@given(kinds=st.text("AF", max_size=5), seed=st.integers(0, 2**32), margin=st.sampled_from([0, 0.5, 2]))
def test_a_block_is_carried_as_the_whole_chain_carries_it(kinds: str, seed: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    chain, itk = random_chain(rng, kinds)
    block = random_block(rng)
    ours = chain.on_block(block, margin_vox=margin, max_bytes=10**9)
    assert ours is not None
    index = np.array(list(np.ndindex(*block.shape)), dtype=float)
    index = np.concatenate([index, rng.uniform(-margin, np.array(block.shape) - 1 + margin, (50, 3))])
    points = by_matrix(block.world_from_voxel, index)
    expected = by_itk(itk, points)
    np.testing.assert_allclose(by_itk(ours.itk, points), expected, rtol=0, atol=1e-9)
    assert_held(ours.points, expected, rng)
    assert len(ours.points) <= 512
    if ours.nbytes:
        assert chain.on_block(block, margin_vox=margin, max_bytes=ours.nbytes - 1) is None
    assert chain.on_block(block, margin_vox=margin, max_bytes=ours.nbytes) is not None


def test_a_bulge_between_a_blocks_corners_is_held() -> None:
    vectors = np.zeros((21, 21, 21, 3))
    vectors[10, 10, 10] = (5.0, -7.0, 9.0)
    chain = TransformChain([DisplacementField(Space((21, 21, 21), np.eye(4)), vectors)])
    ours = chain.on_block(chain.domain.crop((5, 5, 5), (16, 16, 16)), max_bytes=10**6)
    assert ours is not None
    assert_held(ours.points, np.array([[15.0, 3.0, 19.0]]), np.random.default_rng(0))
    beside = chain.on_block(chain.domain.crop((22, 5, 5), (30, 16, 16)), max_bytes=0)
    assert beside is not None and beside.nbytes == 0


@pytest.mark.parametrize("order", ["inner", "middle", "outer", "two"])
def test_a_numeric_inverse_is_carried_by_the_blocks_own_grid(order: str) -> None:
    rng = np.random.default_rng(2)
    affine, _ = random_affine(rng)
    noise, _ = random_field(rng)
    inverse: Transform = InverseField(smooth_field(0.2))
    transforms = {
        "inner": [inverse, affine, noise],
        "middle": [noise, affine, inverse, affine.inverse()],
        "outer": [affine, noise, inverse],
        "two": [affine, noise, inverse, affine, inverse],
    }[order]
    chain = TransformChain(transforms)
    block = random_block(rng)
    ours = chain.on_block(block, margin_vox=1, max_bytes=10**9)
    assert ours is not None
    points = centres(block.crop((-1, -1, -1), [n + 1 for n in block.shape]))
    expected = chain.map_points(points)
    np.testing.assert_allclose(by_itk(ours.itk, points), expected, rtol=0, atol=1e-9)
    assert_held(ours.points, expected, rng)
    assert chain.on_block(block, max_bytes=100) is None


@pytest.mark.parametrize("step", [0.1 / 3, 0.0123, 0.7 / 9, 0.05, 0.3])
def test_blocks_add_up_to_the_whole_even_where_voxels_lie_on_a_fields_face(step: float) -> None:
    # No float holds these steps, and which side of a face a voxel comes to lie on depends on how its place was computed.
    rng = np.random.default_rng(4)
    native = rng.normal(size=(24, 24, 24))
    image = sitk.GetImageFromArray(native)
    origin, spacing, direction = Space(native.shape, np.diag([step, step, step, 1])).to_itk()
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    matrix = np.diag([2 * step, 2 * step, 2 * step, 1])
    matrix[:3, 3] = 4 * step
    field = DisplacementField(Space((8, 8, 8), matrix), np.full((8, 8, 8, 3), 1.3 * step))
    affine = np.eye(4)
    affine[:3, 3] = 7 * step
    chain = TransformChain([field, Affine(affine)])
    target = Space((24, 24, 24), np.diag([step, step, step, 1])).crop((-7, -7, -7), (17, 17, 17))

    def carried(block: Space) -> np.ndarray:
        ours = chain.on_block(block, max_bytes=10**8)
        assert ours is not None
        place, size, turn = block.to_itk()
        return sitk.GetArrayFromImage(
            sitk.Resample(image, [*reversed(block.shape)], ours.itk, sitk.sitkLinear, place, size, turn, -9.0)
        )

    whole = carried(target)
    for edge in (5, 7, 11):
        pieces = np.empty_like(whole)
        for starts in product(range(0, 24, edge), repeat=3):
            stops = [min(start + edge, 24) for start in starts]
            pieces[tuple(map(slice, starts, stops))] = carried(target.crop(starts, stops))
        np.testing.assert_allclose(pieces, whole, rtol=0, atol=1e-9)
    # Lower faces belong to the field, upper ones do not: native points 3 … 18 are moved.
    native_points = chain.map_points(centres(target)).reshape(24, 24, 24, 3)
    moved = np.argwhere(~np.isclose(native_points[:, 12, 12, 0], np.arange(24) * step, atol=1e-6))
    np.testing.assert_array_equal(moved.ravel(), np.arange(3, 19))


# --- fields larger than memory --------------------------------------------------------------------------------------------------


class Ramp:
    """Displacements that are linear in the index, computed where they are asked for."""

    shape = (5000, 4000, 3000, 3)

    def __init__(self, slope: float, shift: float = 0) -> None:
        self.slope, self.shift = slope, shift
        self.reads: list[int] = []

    def at(self, index: np.ndarray) -> np.ndarray:
        i, j, k = np.moveaxis(index - np.array(self.shape[:3]) / 2, -1, 0)
        return self.shift + self.slope * np.stack([j - i, k, i], axis=-1)

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        index = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in slices), indexing="ij"), axis=-1)
        self.reads.append(index[..., 0].size)
        return self.at(index).astype(np.float32)


def test_of_a_huge_field_only_what_is_needed_is_read() -> None:
    ramp = Ramp(1e-4)
    field = DisplacementField(Space(ramp.shape[:3], np.diag([0.01, 0.01, 0.01, 1])), ramp)
    rng = np.random.default_rng(6)
    clusters = rng.uniform(200, 2800, (4, 1, 3)) + rng.uniform(-20, 20, (4, 500, 3))
    index = rng.permutation(clusters.reshape(-1, 3))
    points = index * 0.01
    expected = points + ramp.at(index)
    np.testing.assert_allclose(field.map_points(points), expected, atol=1e-6)
    assert max(ramp.reads) <= 2**20 and len(ramp.reads) <= 16
    ramp.reads.clear()
    block = field.space.crop((2000, 2000, 2000), (2050, 2060, 2040))
    ours = TransformChain([field]).on_block(block, max_bytes=10**7)
    assert ours is not None
    assert len(ramp.reads) == 1 and ramp.reads[0] <= 52 * 62 * 42
    ramp.reads.clear()
    assert TransformChain([field]).on_block(field.space, max_bytes=10**9) is None
    assert ramp.reads == []


@pytest.mark.parametrize(("slope", "shift"), [(1e-4, 0), (4e-3, 0), (1e-4, 3.0)])
def test_a_huge_field_is_inverted_by_reading_what_is_needed(slope: float, shift: float) -> None:
    ramp = Ramp(slope, shift)
    field = DisplacementField(Space(ramp.shape[:3], np.diag([0.01, 0.01, 0.01, 1])), ramp)
    index = np.array(ramp.shape[:3]) / 2 + np.random.default_rng(6).uniform(-24, 24, (3000, 3))
    points = index * 0.01
    np.testing.assert_allclose(InverseField(field).map_points(points + ramp.at(index)), points, atol=1e-5)
    assert max(ramp.reads) <= 2**20 and len(ramp.reads) <= 64


def test_not_even_a_wild_field_is_read_whole() -> None:
    ramp = Ramp(0.02)
    field = DisplacementField(Space(ramp.shape[:3], np.diag([0.01, 0.01, 0.01, 1])), ramp)
    InverseField(field).map_points([[26.0, 21, 16]] * 2)
    assert max(ramp.reads) <= 2**20


def test_faulty_fields_are_refused() -> None:
    space = Space((4, 5, 6), np.eye(4))
    with pytest.raises(InputError, match=r"'f'.*expected vectors of shape"):
        DisplacementField(space, np.zeros((4, 5, 6)), name="f")
    vectors = np.zeros((4, 5, 6, 3))
    vectors[2, 2, 2, 1] = np.nan
    with pytest.raises(InputError, match="not finite"):
        DisplacementField(space, vectors).map_points([[2.0, 2.0, 2.0]])


# --- files ----------------------------------------------------------------------------------------------------------------------


def linear_transforms() -> dict[str, sitk.Transform]:
    affine = sitk.AffineTransform([1.1, 0.1, 0, -0.1, 0.9, 0.05, 0, 0.02, 1.05], [1, 2, 3], [4, 5, 6])
    return {
        "affine": affine,
        "euler": sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (4, 5, 6)),
        "versor": sitk.VersorTransform((0, 0, 1), 0.4, (1, 2, 3)),
        "rigid": sitk.VersorRigid3DTransform((0, 0, 1), 0.4, (1, 2, 3), (4, 5, 6)),
        "similarity": sitk.Similarity3DTransform(1.2, (0, 1, 0), 0.3, (1, 2, 3), (4, 5, 6)),
        "scale": sitk.ScaleTransform(3, (1.1, 0.9, 1.2)),
        "scale versor": sitk.ScaleVersor3DTransform((1.1, 0.9, 1.2), (0, 0, 1), 0.4, (1, 2, 3), (4, 5, 6)),
        "skew": sitk.ScaleSkewVersor3DTransform((1.1, 0.9, 1.2), (0.1, 0, 0.1, 0, 0.2, 0), (0, 0, 1), 0.4, (1, 2, 3), (4, 5, 6)),
        "translation": sitk.TranslationTransform(3, (1, 2, 3)),
    }


# ITK writes only affine and rigid ones to MINC's files.
LINEAR_FILES = [*product(linear_transforms(), [".txt", ".tfm", ".mat", ".h5"]), ("affine", ".xfm"), ("euler", ".xfm")]


@pytest.mark.parametrize(("kind", "suffix"), LINEAR_FILES)
def test_every_linear_transform_is_read_as_an_affine(tmp_path: Path, kind: str, suffix: str) -> None:
    itk = linear_transforms()[kind]
    path = tmp_path / f"a{suffix}"
    sitk.WriteTransform(itk, str(path))
    (affine,) = read_transforms(path)
    assert isinstance(affine, Affine) and affine.name == path.name
    points = np.random.default_rng(0).normal(size=(5, 3)) * 10
    np.testing.assert_allclose(affine.map_points(points), by_itk(itk, points), atol=1e-5 if suffix == ".xfm" else 1e-9)


# As FreeSurfer and MINC's tools write them (RAS, from the moved image to the other), and FSL.
FOREIGN = {
    "talairach.xfm": "MNI Transform File\n% tkregister2\n\nTransform_Type = Linear;\nLinear_Transform =\n"
    " 1.1 0 0 2\n 0 1 0 3\n 0 0 1 4;\n",
    "flirt.mat": "1.1  0  0  2  \n0  1  0  3  \n0  0  1  4  \n0  0  0  1  \n",
}


@pytest.mark.parametrize(
    ("name", "message"), [("talairach.xfm", "FreeSurfer.*FILE:invert"), ("flirt.mat", "FLIRT.*c3d_affine_tool")]
)
def test_matrices_that_mean_something_else_are_refused_by_their_writers(name: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(FOREIGN[name])
    with pytest.raises(SourceError, match=message):
        read_transforms(path)


@pytest.mark.parametrize("suffix", [".h5", ".txt", ".tfm"])
def test_the_parts_of_a_composite_keep_their_order(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(9)
    _, itk = random_chain(rng, "AFAF")
    path = tmp_path / f"all{suffix}"
    sitk.WriteTransform(itk, str(path))
    parts = read_transforms(path)
    assert [type(part) for part in parts] == [Affine, Affine, DisplacementField, Affine, DisplacementField]
    assert parts[4].name == f"all{suffix} part 5"
    points = rng.normal(size=(300, 3)) * 4
    np.testing.assert_allclose(TransformChain(parts).map_points(points), by_itk(itk, points), rtol=0, atol=1e-9)
    with pytest.raises(SourceError, match="displacement field"):
        Affine.read(path)


def test_a_file_of_affines_is_read_as_one(tmp_path: Path) -> None:
    _, itk = random_chain(np.random.default_rng(3), "AAA")
    sitk.WriteTransform(itk, str(tmp_path / "all.h5"))
    points = np.random.default_rng(4).normal(size=(9, 3))
    np.testing.assert_allclose(Affine.read(tmp_path / "all.h5").map_points(points), by_itk(itk, points), atol=1e-9)


def test_what_is_no_usable_transform_is_refused_by_name(tmp_path: Path) -> None:
    def refused(name: str, match: str) -> None:
        with pytest.raises(SourceError, match=match) as caught:
            read_transforms(tmp_path / name)
        assert name in str(caught.value)

    sitk.WriteTransform(sitk.BSplineTransform(3), str(tmp_path / "spline.tfm"))
    refused("spline.tfm", "BSplineTransform")
    sitk.WriteTransform(sitk.CompositeTransform([sitk.Transform(), sitk.BSplineTransform(3)]), str(tmp_path / "spline.h5"))
    refused("spline.h5", "BSplineTransform")
    sitk.WriteTransform(sitk.ComposeScaleSkewVersor3DTransform(), str(tmp_path / "skew.mat"))
    refused("skew.mat", "ComposeScaleSkewVersor3DTransform")
    sitk.WriteTransform(sitk.CompositeTransform([sitk.ComposeScaleSkewVersor3DTransform()]), str(tmp_path / "skew.h5"))
    refused("skew.h5", "ComposeScaleSkewVersor3DTransform")
    sitk.WriteTransform(sitk.AffineTransform(2), str(tmp_path / "flat.txt"))
    refused("flat.txt", "2-D")
    (tmp_path / "singular.txt").write_text("1 0 0 0\n0 0 0 0\n0 0 1 0\n0 0 0 1\n")
    refused("singular.txt", "singular")
    affine = "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\nParameters: "
    (tmp_path / "singular.tfm").write_text(affine + "1 0 0 0 0 0 0 0 1 0 0 0\nFixedParameters: 0 0 0\n")
    refused("singular.tfm", "singular")
    (tmp_path / "damaged.h5").write_bytes(b"nothing")
    refused("damaged.h5", "not readable")
    (tmp_path / "damaged.mat").write_bytes(b"nothing")
    refused("damaged.mat", "not readable")
    (tmp_path / "picture.png").write_bytes(b"nothing")
    refused("picture.png", "not a transform")
    with pytest.raises(MissingError, match=r"missing\.txt: no such file"):
        read_transforms(tmp_path / "missing.txt")


@pytest.mark.parametrize("suffix", [".txt", ".mat", ".h5"])
def test_transforms_without_an_order_are_not_taken_for_the_first(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"two{suffix}"
    first, second = linear_transforms()["affine"], linear_transforms()["euler"]
    sitk.WriteTransform(first, str(path))
    if suffix == ".h5":
        import h5py

        with h5py.File(path, "a") as file:
            file.copy(file["TransformGroup/0"], file["TransformGroup"], "1")
    else:
        sitk.WriteTransform(second, str(tmp_path / f"second{suffix}"))
        path.write_bytes(
            path.read_bytes() + (tmp_path / f"second{suffix}").read_bytes().removeprefix(b"#Insight Transform File V1.0\n")
        )
    with pytest.raises(SourceError, match="2 transforms"):
        read_transforms(path)


def test_an_affine_is_told_in_words() -> None:
    turn = np.reshape(sitk.VersorTransform((0.0, 0.6, 0.8), np.radians(25)).GetMatrix(), (3, 3))
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([3.0, 2.0, 0.5])
    matrix[:3, 3] = 4, -5, 6.5
    words = (
        "rotates by 25.00 degrees, stretches by 3.0000 x 2.0000 x 0.5000{}, moves the origin by (4.000, -5.000, 6.500) mm R, A, S"
    )
    assert Affine(matrix).describe() == words.format("")
    matrix[:3, :3] = np.diag([3.0, 2.0, -0.5])
    assert ", mirrors space, moves" in Affine(matrix).describe()
