"""Compiled loops against SimpleITK and numpy: whatever the chain, the voxels, the box, and however wild a field is."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lsfm_core
from lsfm_core import IngestRequest, InputError, MemoryBudgetError, Space, ingest_channel, open_lsfm
from lsfm_core.arrays import LazyArray
from lsfm_core.export.points import _cells
from lsfm_core.kernels.blocks import join_octets
from lsfm_core.kernels.digits import MOST_BYTES, decimals
from lsfm_core.pyramid import block_mode
from lsfm_core.resample import Resampled, VoxelSource
from lsfm_core.transforms import Affine, DisplacementField, InverseField, Transform, TransformChain

from .effort import examples

Array = np.ndarray[Any, Any]
LPS = np.array([-1.0, -1.0, 1.0])
KINDS = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}


def turn(rng: np.random.Generator) -> Array:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def placed(image: sitk.Image, matrix: Array) -> sitk.Image:
    """An image with the geometry of an array whose voxels a RAS matrix places."""
    lps = (np.diag([*LPS, 1]) @ matrix)[:, [2, 1, 0, 3]]
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def random_affine(rng: np.random.Generator, straight: bool) -> tuple[Transform, sitk.Transform]:
    linear = np.eye(3) if straight else turn(rng) @ (np.diag(rng.uniform(0.6, 1.6, 3)) + np.triu(rng.uniform(-0.3, 0.3, (3, 3)), 1))
    itk = sitk.AffineTransform(linear.ravel().tolist(), rng.normal(size=3).tolist(), rng.normal(size=3).tolist())
    return Affine.from_itk(itk.GetParameters(), itk.GetFixedParameters()), itk


def random_field(rng: np.random.Generator, straight: bool) -> tuple[Transform, sitk.Transform]:
    """Noise, now and then with a vector that leads far away, on a grid around the origin."""
    shape = rng.integers(1, 9, 3)
    vectors = rng.normal(size=(*shape, 3)) * rng.uniform(0.02, 0.4)
    if rng.random() < 0.5:
        vectors[tuple(rng.integers(0, shape))] = rng.normal(size=3) * rng.choice([3, 30])
    if rng.random() < 0.7:
        vectors = vectors.astype(np.float32)
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3)[rng.permutation(3)] if straight else turn(rng)) * rng.uniform(0.5, 1.5, 3)
    matrix[:3, 3] = rng.normal(size=3) - matrix[:3, :3] @ (shape / 2)
    image = placed(sitk.GetImageFromArray(vectors * LPS, isVector=True), matrix)
    return DisplacementField(Space(tuple(shape), matrix), vectors, name="noise"), sitk.DisplacementFieldTransform(image)


def random_chain(rng: np.random.Generator, kinds: str) -> tuple[TransformChain, sitk.Transform]:
    """A and F are turned, a and f lie along the axes."""
    pairs = [(random_affine if kind in "Aa" else random_field)(rng, kind.islower()) for kind in kinds]
    return TransformChain([ours for ours, _ in pairs]), sitk.CompositeTransform([sitk.Transform(), *(itk for _, itk in pairs)])


def random_grid(rng: np.random.Generator, straight: bool) -> Space:
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3)[rng.permutation(3)] if straight else turn(rng)) * rng.uniform(0.1, 0.9, 3)
    shape = rng.integers(1, 24, 3)
    matrix[:3, 3] = rng.normal(size=3) - matrix[:3, :3] @ (shape / 2)
    return Space(tuple(shape), matrix)


class Voxels:
    """An image that gives what is asked for, and nothing beyond it."""

    def __init__(self, array: Array, space: Space) -> None:
        self.array, self.space = array, space
        self.boxes: list[tuple[Sequence[int], Sequence[int]]] = []

    def read(self, low: Sequence[int], high: Sequence[int]) -> Array:
        self.boxes.append((low, high))
        return self.array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].copy()

    def source(self) -> VoxelSource:
        return VoxelSource(self.space, self.array.dtype, self.array.shape[3:], self.read, 2 * self.array.itemsize)

    def resampled(self, target: Space, chain: TransformChain | None = None, method: Any = "linear", fill: float = 0) -> Resampled:
        return Resampled(self.source(), target, chain, method, fill, max_bytes=10**9, loops=True)


def by_itk(voxels: Voxels, target: Space, transform: sitk.Transform, method: str, fill: float) -> Array:
    """In float64, or, of nearest voxels, in the image's own type."""
    image = placed(sitk.GetImageFromArray(voxels.array), voxels.space.world_from_voxel)
    grid = placed(sitk.Image([int(n) for n in reversed(target.shape)], sitk.sitkUInt8), target.world_from_voxel)
    pixel = sitk.sitkFloat64 if method == "linear" else image.GetPixelID()
    return sitk.GetArrayFromImage(sitk.Resample(image, grid, transform, KINDS[method], fill, pixel))


def random_box(rng: np.random.Generator, shape: Sequence[int]) -> tuple[list[int], list[int]]:
    ends = np.sort([rng.integers(0, np.array(shape) + 1), rng.integers(0, np.array(shape) + 1)], axis=0)
    low = np.minimum(ends[0], np.array(shape) - 1)
    return low.tolist(), np.maximum(low + 1, ends[1]).tolist()


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(100))
@given(
    kinds=st.text("AaFf", max_size=4),
    dtype=st.sampled_from(["uint16", "uint16", "uint8", "float32", "int32"]),
    method=st.sampled_from(["linear", "linear", "nearest"]),
    straight=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_box_through_any_chain_holds_what_itk_makes_of_the_whole(
    kinds: str, dtype: str, method: str, straight: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    chain, itk = random_chain(rng, kinds)
    space, target = random_grid(rng, straight), random_grid(rng, straight)
    voxels = Voxels(rng.integers(0, 200 if dtype == "uint8" else 60000, space.shape).astype(dtype), space)
    lazy = voxels.resampled(target, chain, method, 7)
    whole = lazy.read_box((0, 0, 0), target.shape)
    assert (whole.shape, whole.dtype, lazy.shape, lazy.dtype) == (target.shape, dtype, target.shape, dtype)
    expected = by_itk(voxels, target, itk, method, 7)
    apart = np.abs(whole - expected.astype(np.float64))
    # A float32 can tell 65535.496 from 65535.5, but not more.
    assert apart.max() < 0.504 if np.dtype(dtype).kind in "ui" else apart.max() < 0.01
    for _ in range(4):
        low, high = random_box(rng, target.shape)
        part = whole[tuple(map(slice, low, high))]
        np.testing.assert_array_equal(lazy.read_box(low, high), part)
        np.testing.assert_array_equal(lazy.read_box(low, high, np.empty_like(part, order="F")), part)
    for low, high in voxels.boxes:
        assert (np.array(low) >= 0).all() and (np.array(high) <= space.shape).all() and (np.array(low) < high).all()


def test_what_is_resampled_is_resampled_again() -> None:
    """One thread reads for both, one within the other."""
    rng = np.random.default_rng(2)
    image = Voxels(rng.integers(0, 60000, (30, 31, 32), dtype=np.uint16), Space((30, 31, 32), np.diag([0.1, 0.1, 0.1, 1])))
    first, second = (Space((40, 41, 42), np.diag([*(step,) * 3, 1])) for step in (0.07, 0.06))
    inner = image.resampled(first)
    whole = inner.read()
    given = [VoxelSource.of(inner, first), Voxels(whole, first).source()]
    made = [Resampled(source, second, max_bytes=10**9, loops=True).read() for source in given]
    np.testing.assert_array_equal(*made)


def test_a_vector_between_the_voxels_of_a_box_leads_as_far_as_it_does() -> None:
    """One vector of a coarse field leads across the whole image; no corner of the box lies near it."""
    vectors = np.zeros((5, 5, 5, 3), np.float32)
    vectors[2, 2, 2] = (80.0, -70.0, 60.0)
    rng = np.random.default_rng(0)
    image = Voxels(rng.integers(0, 60000, (200, 190, 180), dtype=np.uint16), Space((200, 190, 180), np.eye(4)))
    for matrix in (np.diag([10.0, 10, 10, 1]), np.diag([10.0, 10, 10, 1])[:, [1, 2, 0, 3]]):
        matrix[:3, 3] = (75, 80, 55)
        chain = TransformChain([DisplacementField(Space((5, 5, 5), matrix), vectors)])
        itk = sitk.DisplacementFieldTransform(placed(sitk.GetImageFromArray(vectors.astype(float) * LPS, isVector=True), matrix))
        shifted = np.eye(4)
        shifted[:3, 3] = 60, 65, 40
        target = Space((75, 71, 73), shifted)
        found = image.resampled(target, chain).read_box((0, 0, 0), target.shape)
        assert np.abs(found - by_itk(image, target, itk, "linear", 0)).max() < 0.504
        assert np.ptp(image.boxes[-1], axis=0).min() > 70


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_what_is_not_finite_spreads_as_far_as_itk_lets_it(dtype: str) -> None:
    rng = np.random.default_rng(3)
    array = rng.normal(size=(9, 9, 9)).astype(dtype)
    array[4, 4, 4], array[2, 2, 2], array[6, 1, 0], array[8, 8, 8] = np.nan, np.inf, -np.inf, np.nan
    image = Voxels(array, Space(array.shape, np.eye(4)))
    for step in (1.0, 0.5, 0.375):
        target = Space((30, 30, 30), np.diag([step, step, step, 1])).crop((-3, -3, -3), (27, 27, 27))
        found = image.resampled(target, fill=-2).read_box((0, 0, 0), target.shape)
        wide = Voxels(array.astype(np.float64), image.space)
        with np.errstate(invalid="ignore"):
            expected = by_itk(wide, target, sitk.Transform(), "linear", -2).astype(dtype)
        # Of what lies on an upper face ITK says that it is outside.
        on_face = np.isclose(np.arange(-3, 27) * step, 8.5)
        expected[on_face], expected[:, on_face], expected[:, :, on_face] = -2, -2, -2
        found[on_face], found[:, on_face], found[:, :, on_face] = -2, -2, -2
        exact = 1e-3 if dtype == "float16" else 1e-6
        np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=exact, atol=1e-6)


TYPES = ("uint8", "int8", "bool", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_is_carried(dtype: str) -> None:
    rng = np.random.default_rng(4)
    kind = np.dtype(dtype)
    if kind.kind == "b":
        array = rng.random((9, 8, 7)) < 0.5
    elif kind.kind == "f":
        array = rng.normal(size=(9, 8, 7)).astype(kind)
    else:
        limits = np.iinfo(kind)
        array = rng.integers(limits.min, limits.max, (9, 8, 7), dtype=kind, endpoint=True)
        array[:2] = limits.max
        array[-2:] = limits.min
    image = Voxels(array, Space(array.shape, np.eye(4)))
    target = Space((16, 14, 12), np.diag([0.6, 0.6, 0.6, 1])).crop((-1, -1, -1), (15, 13, 11))
    index = [np.arange(-1, n - 1) * 0.6 for n in target.shape]
    inside = np.ix_(*(i < n - 0.5 for i, n in zip(index, array.shape, strict=True)))
    nearest = image.resampled(target, method="nearest", fill=1).read_box((0, 0, 0), target.shape)
    places = [np.floor(i + 0.5).astype(int) for i in index]
    expected = array[np.ix_(*(np.clip(p, 0, n - 1) for p, n in zip(places, array.shape, strict=True)))]
    first = [slice(1, None)] * 3
    np.testing.assert_array_equal(nearest[tuple(first)][:-2, :-2, :-2], expected[tuple(first)][:-2, :-2, :-2])
    assert (nearest[0] == 1).all()
    if kind.kind == "b":
        return
    linear = image.resampled(target).read_box((0, 0, 0), target.shape)
    values = array.astype(np.longdouble)
    for axis, (i, n) in enumerate(zip(index, array.shape, strict=True)):
        at = np.clip(i, 0, n - 1)
        base = np.minimum(at.astype(int), n - 2)
        part = (at - base).reshape([-1 if k == axis else 1 for k in range(3)])
        values = values.take(base, axis) * (1 - part) + values.take(base + 1, axis) * part
    assert linear.dtype == kind and inside[0].any()
    apart = np.abs(linear.astype(np.longdouble) - values)[1:-2, 1:-2, 1:-2]
    # Faces are moved by some 1e-12 of a voxel; what is interpolated of 64-bit integers is a float64.
    limit = {"f": 1e-6 if kind.itemsize == 4 else 1e-10, "u": 0.51, "i": 0.51}[kind.kind]
    assert apart.max() <= (limit if kind.itemsize < 8 or kind.kind == "f" else 1e-10 * 2**64)


def test_vectors_keep_their_components() -> None:
    rng = np.random.default_rng(5)
    array = rng.normal(size=(12, 11, 10, 3)).astype(np.float32)
    chain, itk = random_chain(rng, "AF")
    image = Voxels(array, random_grid(rng, False).crop((0, 0, 0), (12, 11, 10)))
    target = random_grid(rng, False)
    found = image.resampled(target, chain, fill=2).read_box((0, 0, 0), target.shape)
    for component in range(3):
        one = Voxels(np.ascontiguousarray(array[..., component]), image.space)
        np.testing.assert_allclose(found[..., component], by_itk(one, target, itk, "linear", 2), atol=1e-5)


@pytest.mark.parametrize("order", ["inner", "outer", "both"])
def test_a_numeric_inverse_in_a_chain_is_evaluated_at_each_voxel(order: str) -> None:
    rng = np.random.default_rng(6)
    grid = np.stack(np.meshgrid(*(np.linspace(0, np.pi, n) for n in (12, 13, 14)), indexing="ij"), axis=-1)
    bulge = 0.2 * np.sin(grid).prod(axis=-1, keepdims=True) ** 2 * np.sin(2 * grid)
    inverse = InverseField(DisplacementField(Space((12, 13, 14), np.diag([0.2, -0.2, 0.2, 1])), bulge))
    affine, _ = random_affine(rng, True)
    noise, _ = random_field(rng, False)
    orders = {"inner": [inverse, affine, noise], "outer": [noise, affine, inverse], "both": [inverse, inverse]}
    chain = TransformChain(orders[order])
    ramp = np.indices((60, 60, 60)).sum(axis=0).astype(np.float64)
    image = Voxels(ramp, Space(ramp.shape, np.diag([0.2, 0.2, 0.2, 1])).crop((-30, -30, -30), (30, 30, 30)))
    target = Space((13, 9, 11), np.diag([0.21, 0.2, 0.22, 1])).crop((-2, -9, 0), (11, 0, 11))
    whole = image.resampled(target, chain, fill=-1).read_box((0, 0, 0), target.shape)
    points = target.to_world(np.argwhere(np.ones(target.shape, bool)))
    index = image.space.to_voxel(chain.map_points(points))
    inside = np.all((index > -0.5) & (index < 59.5), axis=1)
    expected = np.where(inside, np.clip(index, 0, 59).sum(axis=1), -1).reshape(target.shape)
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    part = image.resampled(target, chain, fill=-1).read_box((3, 2, 4), (9, 8, 9))
    np.testing.assert_allclose(part, whole[3:9, 2:8, 4:9], atol=1e-9)


def test_a_box_takes_no_more_memory_than_it_may_and_comes_in_parts() -> None:
    rng = np.random.default_rng(7)
    chain, _ = random_chain(rng, "Ff")
    grid = Space((100, 101, 102), np.diag([0.1, 0.1, 0.1, 1])).crop((-50, -50, -50), (50, 51, 52))
    image = Voxels(rng.integers(0, 60000, grid.shape, dtype=np.uint16), grid)
    target = grid.crop((30, 30, 30), (60, 61, 62))
    whole = image.resampled(target, chain).read_box((0, 0, 0), target.shape)
    count = len(image.boxes)
    small = Resampled(image.source(), target, chain, max_bytes=150_000, loops=True)
    np.testing.assert_array_equal(small.read_box((0, 0, 0), target.shape), whole)
    assert len(image.boxes) > count + 2
    with pytest.raises(MemoryBudgetError, match="a single voxel needs more than"):
        Resampled(image.source(), target, chain, max_bytes=10, loops=True).read_box((0, 0, 0), target.shape)


def test_a_field_that_is_not_finite_is_refused_where_it_matters() -> None:
    vectors = np.zeros((9, 9, 9, 3), np.float32)
    vectors[8, 8, 8, 1] = np.nan
    chain = TransformChain([DisplacementField(Space((9, 9, 9), np.eye(4)), vectors, name="torn")])
    image = Voxels(np.arange(729, dtype=np.uint16).reshape(9, 9, 9), Space((9, 9, 9), np.eye(4)))
    lazy = image.resampled(Space((9, 9, 9), np.eye(4)), chain)
    np.testing.assert_array_equal(lazy.read_box((0, 0, 0), (7, 7, 7)), image.array[:7, :7, :7])
    with pytest.raises(InputError, match=r"'torn' has displacements that are not finite"):
        lazy.read_box((0, 0, 0), (9, 9, 9))


def test_loops_run_where_nothing_can_be_kept(tmp_path: Path) -> None:
    """A file stands where a folder for what was compiled would be made, beside the source and in the user's home."""
    package = tmp_path / "lsfm_core"
    shutil.copytree(Path(lsfm_core.__file__).parent / "kernels", package / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").touch()
    (package / "kernels" / "__pycache__").touch()
    (tmp_path / "home").touch()
    loop = "from lsfm_core.kernels._compiled import compiled\n\n\n@compiled\ndef more(x):\n    return x + 1\n"
    (package / "kernels" / "loop.py").write_text(loop)
    code = "from lsfm_core.kernels.loop import more; print(more(2))"
    homes = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), str(tmp_path / "home"))
    environment = {**os.environ, **homes, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert done.stdout == "3\n"


def test_numba_is_loaded_by_what_needs_it_only() -> None:
    code = "import sys, lsfm_core; lsfm_core.ExportRequest, lsfm_core.export_channel; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- points ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few points there are, loops take them, as they do with millions."""
    monkeypatch.setattr("lsfm_core.transforms.field._is_many", lambda count, many: True)
    monkeypatch.setattr("lsfm_core.transforms.field._POINTS_AT_ONCE", 90)


@settings(deadline=None, max_examples=examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.text("AaFf", max_size=4), seed=st.integers(0, 2**32))
def test_many_points_go_through_any_chain_as_itk_takes_them(kinds: str, seed: int, many: None) -> None:
    rng = np.random.default_rng(seed)
    chain, itk = random_chain(rng, kinds)
    points = rng.normal(size=(300, 3)) * 3
    points[-1] = np.nan
    expected = np.array([itk.TransformPoint((p * LPS).tolist()) for p in points]) * LPS
    np.testing.assert_allclose(chain.map_points(points), expected, rtol=0, atol=1e-9)
    assert np.isnan(points[-1]).all()


def test_many_points_of_a_large_field_are_carried_group_by_group(many: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsfm_core.transforms.field._CROP_VOXELS", 1000)
    rng = np.random.default_rng(8)
    vectors = 0.3 * rng.normal(size=(30, 31, 32, 3))
    matrix = np.diag([0.5, -0.6, 0.7, 1])
    field = DisplacementField(Space((30, 31, 32), matrix), vectors)
    itk = sitk.DisplacementFieldTransform(placed(sitk.GetImageFromArray(vectors * LPS, isVector=True), matrix))
    points = field.space.to_world(rng.uniform(-2, 33, (500, 3)))
    expected = np.array([itk.TransformPoint((p * LPS).tolist()) for p in points]) * LPS
    np.testing.assert_allclose(field.map_points(points), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("largest", [0.2, 3.0])
def test_many_points_are_brought_back(largest: float, many: None) -> None:
    """Along each axis steps up to so many voxels: beyond 2, plain fixed-point iteration diverges; then some shear."""
    rng = np.random.default_rng(9)
    shape = (30, 28, 26)
    places = [np.cumsum(rng.uniform(0.2 if largest > 2 else 0.9, max(largest, 1.1), n)) for n in shape]
    steps = np.stack(
        np.meshgrid(*(place - np.arange(len(place)) - place[len(place) // 2] / 2 for place in places), indexing="ij"), -1
    )
    steps[..., 0] += 0.5 * steps[..., 2]
    field = DisplacementField(Space(shape, np.diag([0.1, -0.12, 0.15, 1])), steps * (0.1, -0.12, 0.15))
    points = field.space.to_world(rng.uniform(-0.4, np.array(shape) - 0.6, (1000, 3)))
    assert np.abs(InverseField(field).map_points(field.map_points(points)) - points).max() < 1e-3 * 0.1


def test_many_points_stay_where_nothing_moves_them(many: None) -> None:
    vectors = np.zeros((20, 10, 10, 3))
    vectors[..., 0] = 2.0
    inverse = InverseField(DisplacementField(Space((20, 10, 10), np.eye(4)), vectors))
    far = np.array([[-30.0, 5, 5], [5, 1e9, 5], [40, 5, 5], [np.nan, 5, 5], [1e300, 5, 5]])
    np.testing.assert_array_equal(inverse.map_points(far), far)
    np.testing.assert_allclose(inverse.map_points([[20.5, 5, 5], [10.25, 3, 4]]), [[18.5, 5, 5], [8.25, 3, 4]], atol=1e-9)


def test_no_point_is_lost_where_a_field_folds(many: None) -> None:
    """Nothing can bring all of them back, but each comes to some place, and none to infinity."""
    vectors = 5 * np.random.default_rng(10).normal(size=(12, 12, 12, 3))
    vectors[:6] = -np.indices((6, 12, 12)).transpose(1, 2, 3, 0)  # all of a half to one point: the Jacobian is 0
    inverse = InverseField(DisplacementField(Space((12, 12, 12), np.eye(4)), vectors))
    found = inverse.map_points(np.random.default_rng(11).uniform(0, 11, (400, 3)))
    assert np.isfinite(found).all() and np.abs(found).max() < 1000


# --- bytes ----------------------------------------------------------------------------------------------------------------------


def test_bytes_are_joined() -> None:
    numbers = np.random.default_rng(1).integers(0, 2**16, 1001, dtype=np.uint16)
    out = np.empty_like(numbers)
    join_octets(out, np.stack([numbers % 256, numbers // 256]).astype(np.uint8))
    np.testing.assert_array_equal(out, numbers)


# --- numbers as text ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    rows=hnp.arrays(np.int64, st.tuples(st.integers(1, 5), st.just(3)), elements=st.integers(-(10**15), 10**15)),
    small=st.booleans(),
)
def test_numbers_are_told_as_decimals_are(rows: Array, small: bool) -> None:
    rows = rows // 10**13 if small else rows
    out = np.empty(rows.size * MOST_BYTES, np.uint8)
    length = decimals(out, rows, 6, ord(","), ord(";"))
    expected = "".join(";".join(f"{Decimal(int(v)).scaleb(-6):.6f}".replace(".", ",") for v in row) + "\n" for row in rows)
    assert out[:length].tobytes().decode() == expected


@pytest.mark.parametrize(("separator", "decimal"), [(",", "."), (";", ",")])
def test_rows_of_many_points_are_those_of_few(separator: str, decimal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(15)
    some = rng.normal(size=(500, 3)) * 10.0 ** rng.integers(-8, 8, (500, 1))
    points = np.concatenate([some, [[0.5e-6, -1e-9, 2.5e-6], [1e12, -0.0, 1]]])
    for part in (points[:-1], points):
        few = [row for rows in _cells(part, None, {}, separator, decimal) for row in rows]
        with monkeypatch.context() as patch:
            patch.setattr("lsfm_core.export.points._MANY_ROWS", 0)
            assert [row for rows in _cells(part, None, {}, separator, decimal) for row in rows] == few


# --- blocks of labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    step=st.tuples(*[st.integers(1, 2)] * 3),
    dtype=st.sampled_from(["uint16", "int64", "uint32"]),
    kinds=st.integers(1, 6),
    seed=st.integers(0, 2**32),
)
def test_modes_of_many_labels_are_the_most_frequent_then_the_smallest(
    shape: tuple[int, int, int], step: tuple[int, int, int], dtype: str, kinds: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsfm_core.pyramid._MANY_VOXELS", 0)
    rng = np.random.default_rng(seed)
    ids = np.array([np.iinfo(dtype).max, 7, 0, np.iinfo(dtype).min, 3, np.iinfo(dtype).max - 1]).astype(dtype)[:kinds]
    labels = rng.choice(ids, shape)
    found = block_mode(labels.transpose(2, 1, 0).copy().transpose(2, 1, 0), step)
    assert found.dtype == labels.dtype
    for index in np.ndindex(*found.shape):
        block = labels[tuple(slice(i * s, (i + 1) * s) for i, s in zip(index, step, strict=True))].ravel().tolist()
        assert found[index] == min(set(block), key=lambda label: (-block.count(label), label))


# --- a lazy array ---------------------------------------------------------------------------------------------------------------


def test_what_is_resampled_is_a_lazy_array_that_goes_to_other_processes(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    array = rng.integers(0, 60000, (40, 41, 42), dtype=np.uint16)
    ingest_channel(IngestRequest(path=tmp_path / "a.h5", channel="a", image=array, voxel_size_mm=(0.1,) * 3, orientation="PIR"))
    grid = Space((30, 31, 32), np.diag([0.1, 0.1, 0.1, 1]))
    chain, _ = random_chain(rng, "f")
    with open_lsfm(tmp_path / "a.h5") as file:
        level = file["a"].levels[0]
        for loops in (True, False):
            lazy = Resampled(VoxelSource.of(level.data, level.space), grid, chain, max_bytes=10**8, loops=loops)
            whole = np.asarray(lazy)
            image = Voxels(np.asarray(level.data), level.space)
            np.testing.assert_array_equal(whole, image.resampled(grid, chain).read_box((0, 0, 0), grid.shape))
            assert whole.any()
            for index in (3, np.s_[..., ::-1], np.s_[4:20:3, 5, ::-4], np.s_[:, None, 2:9], np.s_[[3, 8], 4]):
                np.testing.assert_array_equal(np.asarray(lazy[index]), whole[index])
            np.testing.assert_array_equal(np.asarray(lazy[2:9].transpose(2, 0, 1)), whole[2:9].transpose(2, 0, 1))
            np.testing.assert_array_equal(pickle.loads(pickle.dumps(lazy[5:8]))[...].read(), whole[5:8])
            np.testing.assert_array_equal(lazy[:4].to_dask().compute(scheduler="threads"), whole[:4])


def test_components_of_what_is_resampled_can_be_picked() -> None:
    rng = np.random.default_rng(13)
    image = Voxels(rng.normal(size=(12, 11, 10, 3)).astype(np.float32), Space((12, 11, 10), np.eye(4)))
    lazy = image.resampled(Space((9, 8, 7), np.diag([1.1, 1.2, 1.3, 1])))
    whole = np.asarray(lazy)
    for index in (np.s_[..., 1], np.s_[2:5, ::-1, :, ::-1], np.s_[..., ::2]):
        np.testing.assert_array_equal(np.asarray(lazy[index]), whole[index])


class InMemory(LazyArray):
    def __init__(self, array: Array) -> None:
        super().__init__(array.shape, array.dtype, array.shape)
        self.array = array

    def _fill(self, box: Sequence[range], out: Array, cached: bool) -> None:
        out[...] = self.array[np.ix_(*box)]


def test_means_of_blocks_are_interpolated_where_they_are_asked_for() -> None:
    array = np.random.default_rng(14).integers(0, 60000, (9, 8, 7), dtype=np.uint16)
    space = Space((9, 8, 7), np.eye(4))
    source = VoxelSource.of(InMemory(array), space, (2, 1, 3))
    assert (source.space.shape, source.space.voxel_size_mm) == ((5, 8, 3), (2, 1, 3))
    means = [[array[2 * i : 2 * i + 2, :, 3 * k : 3 * k + 3].mean(axis=(0, 2)) for k in range(3)] for i in range(5)]
    expected = np.rint(np.moveaxis(np.array(means), 1, 2))
    np.testing.assert_array_equal(source.read((0, 0, 0), (5, 8, 3)), expected)
    np.testing.assert_array_equal(source.read((1, 2, 1), (5, 4, 3)), expected[1:, 2:4, 1:])
