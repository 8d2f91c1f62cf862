"""Orientation codes and spaces, against nibabel and SimpleITK."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from lsfm_core import ExportRequest, IngestRequest, InputError, Orientation, OrientationError, Space

CODES = ["".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)]
codes = st.sampled_from(CODES)
shapes = st.tuples(*[st.integers(1, 40)] * 3)
sizes = st.tuples(*[st.floats(0.001, 5)] * 3)
angles = st.tuples(*[st.floats(-0.6, 0.6)] * 3)


def oblique(space: Space, angle: tuple[float, float, float]) -> Space:
    rotation = np.array(sitk.Euler3DTransform((0, 0, 0), *angle).GetMatrix()).reshape(3, 3)
    affine = space.world_from_voxel.copy()
    affine[:3] = rotation @ affine[:3]
    return Space(space.shape, affine)


def test_there_are_48_codes() -> None:
    assert len(set(CODES)) == 48


@given(codes, shapes, sizes)
def test_affine_reads_as_its_code_in_nibabel(code: str, shape: tuple[int, int, int], size: tuple[float, float, float]) -> None:
    space = Space.from_orientation(shape, size, Orientation(code))
    assert "".join(nibabel.aff2axcodes(space.world_from_voxel)) == code == space.orientation.axcodes
    np.testing.assert_allclose(space.voxel_size_mm, nibabel.affines.voxel_sizes(space.world_from_voxel))


@given(codes, shapes, sizes)
def test_first_voxel_in_r_a_s_is_the_origin(code: str, shape: tuple[int, int, int], size: tuple[float, float, float]) -> None:
    space = Space.from_orientation(shape, size, Orientation(code))
    centres = nibabel.affines.apply_affine(space.world_from_voxel, np.array(list(product(*[(0, n - 1) for n in shape]))))
    np.testing.assert_allclose(centres.min(axis=0), 0, atol=1e-9)


def test_origin_is_where_it_was_asked_for() -> None:
    space = Space.from_orientation((4, 5, 6), (1, 1, 1), Orientation("PIL"), origin_mm=(10, 20, 30))
    np.testing.assert_allclose(space.world_from_voxel @ (3, 4, 5, 1), (10, 20, 30, 1))


@given(codes)
def test_origin_letters_are_the_opposite_sides(code: str) -> None:
    orientation = Orientation(code)
    assert Orientation.from_origin(orientation.origin_letters) == orientation
    assert all(a != b for a, b in zip(orientation.origin_letters.upper(), code, strict=True))


def test_both_spellings_of_the_real_specimen() -> None:
    assert Orientation("AIR").origin_letters == "psl"
    assert Orientation("air").describe() == (
        "axis 0 planes: posterior -> anterior; axis 1 rows: superior -> inferior; axis 2 columns: left -> right"
    )


def test_camera_frames_are_not_mirrored() -> None:
    # Coronal planes seen from behind, rows downward: what a camera sees with the nose in the depth.
    assert not Orientation("AIR").is_mirrored
    assert Orientation("AIL").is_mirrored


@pytest.mark.parametrize(
    ("code", "reason"),
    [("AIX", "three"), ("AAR", "twice"), ("AI", "three letters"), ("AIRS", "three letters"), ("", "three"), ("ALR", "twice")],
)
def test_impossible_codes_are_refused(code: str, reason: str) -> None:
    with pytest.raises(OrientationError, match=f"orientation {code!r}.*{reason}"):
        Orientation(code)


@given(codes, codes, shapes, sizes, angles)
def test_reorientation_keeps_every_voxel_where_it_is(
    code: str, target: str, shape: tuple[int, int, int], size: tuple[float, float, float], angle: tuple[float, float, float]
) -> None:
    space = oblique(Space.from_orientation(shape, size, Orientation(code)), angle)
    reorientation = space.reorientation_to(Orientation(target))
    moved = space.reoriented(reorientation)
    array = np.arange(np.prod(shape)).reshape(shape)
    image = nibabel.Nifti1Image(array.astype(np.int32), space.world_from_voxel)
    ornt = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(space.world_from_voxel), nibabel.orientations.axcodes2ornt(target)
    )
    expected = image.as_reoriented(ornt)
    if space.orientation.axcodes == "".join(nibabel.aff2axcodes(space.world_from_voxel)):
        np.testing.assert_array_equal(reorientation.apply(array), np.asarray(expected.dataobj))
        np.testing.assert_allclose(moved.world_from_voxel, expected.affine, atol=1e-9)


@given(codes, codes, shapes, st.data())
def test_a_box_of_the_result_is_that_box_of_the_source(
    code: str, target: str, shape: tuple[int, int, int], data: st.DataObject
) -> None:
    space = Space.from_orientation(shape, (1, 2, 3), Orientation(code))
    reorientation = space.reorientation_to(Orientation(target))
    array = np.arange(np.prod(shape)).reshape(shape)
    whole = reorientation.apply(array)
    starts = [data.draw(st.integers(0, n - 1)) for n in whole.shape]
    stops = [data.draw(st.integers(a + 1, n)) for a, n in zip(starts, whole.shape, strict=True)]
    part = reorientation.apply(array[reorientation.source_ranges(starts, stops, shape)])
    np.testing.assert_array_equal(part, whole[tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))])


@given(codes, shapes, sizes, angles, st.tuples(*[st.floats(0, 1)] * 3))
def test_itk_finds_a_voxel_where_nibabel_does(
    code: str,
    shape: tuple[int, int, int],
    size: tuple[float, float, float],
    angle: tuple[float, float, float],
    where: tuple[float, float, float],
) -> None:
    space = oblique(Space.from_orientation(shape, size, Orientation(code), (1, 2, 3)), angle)
    image = sitk.Image([int(n) for n in reversed(shape)], sitk.sitkUInt8)
    origin, spacing, direction = space.to_itk()
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    index = np.multiply(where, np.subtract(shape, 1))
    ras = nibabel.affines.apply_affine(space.world_from_voxel, index)
    lps = image.TransformContinuousIndexToPhysicalPoint([float(v) for v in reversed(index)])
    np.testing.assert_allclose(lps * np.array([-1, -1, 1]), ras, atol=1e-9 * max(1, *map(abs, ras)))


@given(shapes, sizes, st.tuples(*[st.floats(0.001, 5)] * 3), codes)
def test_grids_follow_the_contract(
    shape: tuple[int, int, int], size: tuple[float, float, float], resolution: tuple[float, float, float], code: str
) -> None:
    space = Space.from_orientation(shape, size, Orientation(code))
    grid = space.with_resolution(resolution)
    np.testing.assert_allclose(grid.voxel_size_mm, resolution)
    # The first voxel's outer face lies on the image's.
    face = grid.world_from_voxel @ (-0.5, -0.5, -0.5, 1)
    np.testing.assert_allclose(face, space.world_from_voxel @ (-0.5, -0.5, -0.5, 1), atol=1e-9)
    for n, extent, r in zip(grid.shape, np.multiply(shape, size), resolution, strict=True):
        assert n == max(1, round(round(extent / r, 9)))
        assert n == 1 or abs(n * r - extent) <= r / 2 * (1 + 1e-6)


def test_level_affine_is_bigdataviewers() -> None:
    space = Space.from_orientation((9, 9, 9), (1, 1, 1), Orientation("RAS"))
    level = space.level((2, 4, 1), (5, 3, 9))
    np.testing.assert_allclose(level.world_from_voxel @ (1, 1, 1, 1), (2.5, 5.5, 1, 1))


def test_oblique_images_get_a_bounding_grid() -> None:
    space = oblique(Space.from_orientation((20, 20, 20), (1, 1, 1), Orientation("AIR")), (0, 0, 0.4))
    assert not space.is_axis_aligned
    grid = Space.from_box(space.bounds, (0.5, 0.5, 0.5), Orientation("LPS"))
    assert grid.orientation.axcodes == "LPS"
    np.testing.assert_allclose(grid.bounds.lower_mm, space.bounds.lower_mm, atol=0.26)
    np.testing.assert_allclose(grid.bounds.upper_mm, space.bounds.upper_mm, atol=0.26)


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.eye(3), np.full((4, 4), np.nan), np.diag([1, 1, 0, 1])])
def test_impossible_affines_are_refused(affine: np.ndarray) -> None:
    with pytest.raises(InputError):
        Space((2, 2, 2), affine)


@pytest.mark.parametrize("size", [(1, 1), (1, 1, 0), (1, -1, 1), (1, 1, float("nan"))])
def test_impossible_voxel_sizes_are_refused(size: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="voxel size"):
        Space.from_orientation((2, 2, 2), size, Orientation("RAS"))


@pytest.mark.parametrize(
    "request_",
    [
        lambda code: IngestRequest(image="a.tif", path="a.h5", channel="a", orientation=code),
        lambda code: ExportRequest(path="a.h5", channel="a", output="a.tif", orientation=code),
    ],
)
def test_small_letters_are_asked_back_for_they_name_the_other_side_elsewhere(request_: Any) -> None:
    with pytest.raises(InputError, match=r"'psl' in small letters.*give AIR for that.*PSL if the index grows"):
        request_("psl")
    assert request_("AIR").orientation == "AIR"


def test_an_offset_is_measured_where_the_axes_grow() -> None:
    """The centre of the first voxel is 1 mm right, 2 mm anterior, 3 mm superior."""
    for code, offset in (("AIL", (2, -3, -1)), ("RAS", (1, 2, 3)), ("PSR", (-2, 3, 1))):
        space = Space.from_orientation((4, 5, 6), (0.1, 0.2, 0.3), Orientation(code))
        affine = space.world_from_voxel.copy()
        affine[:3, 3] = 1, 2, 3
        assert Space(space.shape, affine).offset_mm == pytest.approx(offset)
