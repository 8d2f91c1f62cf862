"""Our own exports, ingested again: the same voxels at the same place, in every format that `export` writes."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsfm_core import (
    ExportRequest,
    IngestRequest,
    InputError,
    PlaneFunction,
    SourceError,
    Space,
    export_channel,
    ingest_channel,
    open_lsfm,
    plan_ingest,
)
from lsfm_core.formats import open_source

from .effort import examples

Array = np.ndarray[Any, Any]

FORMATS = (".nii", ".nii.gz", ".nrrd", ".mha", ".tif", ".ome.tif", ".ome.zarr", ".npy")
TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
HANDS = (np.eye(3), [[0, 0, -1], [-1, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]], [[-1, 0, 0], [0, -1, 0], [0, 0, -1]])


def noise(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    octets = np.random.default_rng(seed).integers(0, 256, int(np.prod(shape)) * np.dtype(dtype).itemsize, dtype=np.uint8)
    values = octets.view(dtype).reshape(shape)
    return values if values.dtype.kind != "f" else np.nan_to_num(values, posinf=1, neginf=-1)


def turned(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, c, -s], [0, s, c]]


def write(path: Path, channel: str, image: Any, **fields: Any) -> tuple[str, ...]:
    return ingest_channel(IngestRequest(path=path, channel=channel, image=image, threads=1, **fields)).warnings


def read(path: Path, channel: str) -> tuple[Array, Space]:
    """Voxels along R, A and S as nearly as they come, and where they are; by numpy alone."""
    with open_lsfm(path) as file:
        voxels, affine = np.asarray(file[channel].levels[0]), file[channel].space.world_from_voxel
    order = [int(np.argmax(np.abs(row))) for row in affine[:3, :3]]
    # Of an oblique image each stored axis goes to the world's axis that is nearest.
    nearest = [int(np.argmax(np.abs(column))) for column in affine[:3, :3].T]
    if sorted(nearest) == [0, 1, 2]:
        order = [nearest.index(axis) for axis in range(3)]
    voxels = voxels.transpose(*order, *range(3, voxels.ndim))
    affine = affine[:, [*order, 3]]
    for axis in range(3):
        if affine[axis, axis] < 0:
            affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
            affine[:3, axis] *= -1
            voxels = np.flip(voxels, axis)
    return voxels, Space(voxels.shape[:3], affine)


@settings(max_examples=examples(25), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    suffix=st.sampled_from(FORMATS),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    components=st.sampled_from([1, 1, 2, 3, 4, 5]),
    dtype=st.sampled_from(TYPES),
    hand=st.sampled_from(HANDS),
    angle=st.sampled_from([0, 0, 0.2, -0.1]),
    kind=st.sampled_from(["image", "labels", "vectors"]),
    seed=st.integers(0, 9),
)
def test_export_and_ingest_are_the_identity(
    suffix: str, shape: Any, components: int, dtype: str, hand: Any, angle: float, kind: Any, seed: int
) -> None:
    if kind == "labels":
        components, dtype = 1, "uint16"
    elif kind == "vectors":
        components, dtype = 3, "float32"
    elif components > 1:
        kind = "components"
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = turned(angle) @ np.asarray(hand) * rng.uniform(0.003, 0.2, 3).round(4)
    affine[:3, 3] = rng.uniform(-9, 9, 3).round(3)
    voxels = noise((*shape, components) if components > 1 else shape, dtype, seed)
    image = PlaneFunction(shape, dtype, list(voxels), components=components, space=Space(shape, affine))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "a.h5", "first", image, kind=kind)
        request = {"output_orientation": "native"} if angle else {}
        export_channel(ExportRequest(path=folder / "a.h5", channel="first", output=folder / f"out{suffix}", **request))
        # What holds several values is known by itself; labels and fields are asked for.
        write(folder / "a.h5", "second", folder / f"out{suffix}", kind="image" if kind == "components" else kind)
        (before, there), (after, here) = (read(folder / "a.h5", channel) for channel in ("first", "second"))
        with open_lsfm(folder / "a.h5") as file:
            assert file["second"].kind == kind
    np.testing.assert_array_equal(after, before)
    assert after.dtype == dtype
    # Formats keep 32-bit numbers, or decimals: a hundredth of a voxel is far above both.
    np.testing.assert_allclose(here.world_from_voxel, there.world_from_voxel, atol=2e-6, rtol=0)


def stored(path: Path, **fields: Any) -> Space:
    source = open_source(path, **fields)
    try:
        assert source.space is not None
        return source.space
    finally:
        source.close()


@pytest.fixture
def crop(tmp_path: Path) -> Path:
    """A file with a small image, of which pieces are exported."""
    image = noise((6, 7, 8), "uint16")
    write(tmp_path / "a.h5", "a", image, voxel_size_mm=(0.05, 0.04, 0.04), orientation="AIR", origin_mm=(2, -3, 1))
    return tmp_path / "a.h5"


def put(crop: Path, name: str, **fields: Any) -> Path:
    export_channel(ExportRequest(path=crop, channel="a", output=crop.with_name(name), **fields))
    return crop.with_name(name)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_piece_comes_back_where_it_was_cut(suffix: str, crop: Path) -> None:
    box = {"origin_mm": (2.04, -2.95, 1.04), "size_mm": (0.12, 0.15, 0.08)}
    space = stored(put(crop, f"piece{suffix}", **box))
    np.testing.assert_allclose(space.bounds.lower_mm, (2.04, -2.95, 1.04), atol=1e-5)
    np.testing.assert_allclose(space.bounds.size_mm, (0.12, 0.15, 0.08), atol=1e-5)


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".npy", ".ome.zarr"])
def test_what_the_user_says_wins(suffix: str, crop: Path) -> None:
    plan = plan_ingest(IngestRequest(path=crop, channel="b", image=put(crop, f"x{suffix}"), orientation="SPL", origin_mm=(0, 0, 0)))
    assert str(plan.space.orientation) == "SPL"
    assert any("own geometry was replaced" in warning for warning in plan.warnings)


def test_a_json_that_does_not_fit_is_not_believed(crop: Path) -> None:
    path = put(crop, "x.npy")
    array = np.load(path)
    for changed, words in ((array[:, :, :-1], "the file has 8 x 6 x 6"), (array.astype("u4"), "uint32")):
        np.save(path, changed)
        with pytest.raises(InputError, match="voxel size and orientation"):
            plan_ingest(IngestRequest(path=crop, channel="b", image=path))
        source = open_source(path)
        assert source.space is None
        assert words in str(source.facts["notes"])
        source.close()
    stack = put(crop, "x.tif")
    with tifffile.TiffFile(stack) as tiff:
        info, pages = tiff.imagej_metadata["Info"], tiff.asarray()
    tifffile.imwrite(
        stack, pages, imagej=True, resolution=(1 / 10, 1 / 10), metadata={"axes": "ZYX", "spacing": 50, "unit": "um", "Info": info}
    )
    source = open_source(stack)
    assert source.space is None
    assert source.voxel_size_mm == pytest.approx((0.05, 0.01, 0.01))
    assert "voxel size" in str(source.facts["notes"])
    source.close()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"format": "lsfm image"}', '{"format": "lsfm image", "version": 1, "shape": "x"}']
)
def test_other_json_is_no_business_of_ours(text: str, crop: Path) -> None:
    path = put(crop, "x.npy")
    path.with_suffix(".json").write_text(text)
    source = open_source(path)
    # Columns, planes, rows of the file are R, A and S.
    assert (source.space, source.shape) == (None, (8, 6, 7))
    source.close()


def test_npy_files_of_others(tmp_path: Path) -> None:
    voxels = noise((4, 5, 6), "uint16")
    for name, array in (("c", voxels), ("f", np.asfortranarray(voxels)), ("big", voxels.astype(">u2"))):
        np.save(tmp_path / f"{name}.npy", array)
        write(tmp_path / "a.h5", name, tmp_path / f"{name}.npy", voxel_size_mm=(1, 1, 1), orientation="SAR")
        with open_lsfm(tmp_path / "a.h5") as file:
            np.testing.assert_array_equal(file[name].levels[0], voxels)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "flat.npy", voxels[0])
    (tmp_path / "cut.npy").write_bytes((tmp_path / "c.npy").read_bytes()[:-7])
    (tmp_path / "none.npy").write_bytes(b"")
    for name in ("objects", "cut", "none"):
        with pytest.raises(SourceError, match=name):
            open_source(tmp_path / f"{name}.npy")
    with pytest.raises(InputError, match="expected planes, rows, columns"):
        open_source(tmp_path / "flat.npy")


def ngff(
    path: Path, orientations: list[Any], translation: tuple[float, ...] = (3, 2, 1), version: str = "0.5", **more: Any
) -> Path:
    """An OME-Zarr image as others write it: z, y, x in micrometres."""
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    for axis, value in zip(axes, orientations, strict=True):
        if value is not None:
            axis["orientation"] = value
    steps = [{"type": "scale", "scale": [5, 4, 3]}, {"type": "translation", "translation": [1000 * t for t in translation]}]
    multiscales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}], "version": version, **more}]
    own = {"multiscales": multiscales}
    group = zarr.create_group(
        path,
        zarr_format=2 if version == "0.4" else 3,
        attributes=own if version == "0.4" else {"ome": {"version": version, **own}},
    )
    group.create_array("0", data=noise((4, 5, 6), "uint8"))
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("values", "column", "first"),
    [
        # ITK's world, as ngff-zarr writes it: S from inferior, P from anterior, L from right.
        (("inferior-to-superior", "anterior-to-posterior", "right-to-left"), ("S", "P", "L"), (-1, -2, 3)),
        (("posterior-to-anterior", "superior-to-inferior", "left-to-right"), ("A", "I", "R"), (1, 3, -2)),
        (("ventral-to-dorsal", "rostral-to-caudal", "right-to-left"), ("S", "P", "L"), (-1, -2, 3)),
    ],
)
def test_orientation_of_axes(values: tuple[str, ...], column: tuple[str, ...], first: Any, version: str, tmp_path: Path) -> None:
    told = [{"type": "anatomical", "value": value} for value in values]
    space = stored(ngff(tmp_path / "a.zarr", told, version=version))
    assert space.orientation.axcodes == "".join(column)
    np.testing.assert_allclose(space.world_from_voxel[:3, 3], first)
    np.testing.assert_allclose(space.voxel_size_mm, (0.005, 0.004, 0.003))
    # As the RFC's drafts had it.
    np.testing.assert_allclose(
        stored(ngff(tmp_path / "b.zarr", list(values), version=version)).world_from_voxel, space.world_from_voxel
    )


def test_transformations_of_the_whole_image_come_last(tmp_path: Path) -> None:
    told = ["inferior-to-superior", "posterior-to-anterior", "left-to-right"]
    steps = [{"type": "scale", "scale": [2, 2, 2]}, {"type": "translation", "translation": [500, 0, 0]}]
    space = stored(ngff(tmp_path / "a.zarr", told, coordinateTransformations=steps))
    np.testing.assert_allclose(space.voxel_size_mm, (0.01, 0.008, 0.006))
    np.testing.assert_allclose(space.world_from_voxel[:3, 3], (2, 4, 6.5))


@pytest.mark.parametrize(
    "told", [[None] * 3, ["left-to-right"] * 3, ["left-to-right", "up", "down"], ["left-to-right", None, None]]
)
def test_orientations_that_are_none(told: list[Any], tmp_path: Path) -> None:
    source = open_source(ngff(tmp_path / "a.zarr", told))
    assert source.space is None
    assert "not used" in str(source.facts["notes"])
    source.close()


def test_axes_that_were_changed_win_over_our_json(crop: Path) -> None:
    path = put(crop, "x.ome.zarr")
    before = stored(path)
    group = zarr.open_group(path, mode="a")
    ome = json.loads(json.dumps(dict(group.attrs["ome"])))
    ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][1]["translation"][2] += 1
    group.attrs["ome"] = ome
    source = open_source(path)
    assert source.space is not None
    # Axes of an export are R, A and S, which are called z, y and x.
    np.testing.assert_allclose(source.space.world_from_voxel[:3, 3] - before.world_from_voxel[:3, 3], (0, 0, 1), atol=1e-9)
    assert "the axes were taken" in str(source.facts["notes"])
    source.close()


def test_files_that_lost_their_json_ask_again(crop: Path) -> None:
    path = put(crop, "x.npy")
    shutil.move(path.with_suffix(".json"), path.with_suffix(".txt"))
    with pytest.raises(InputError, match="voxel size and orientation"):
        plan_ingest(IngestRequest(path=crop, channel="b", image=path))


def test_labels_that_are_written_as_an_image_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", "a", noise((4, 5, 6), "uint16"), kind="labels", voxel_size_mm=(1, 1, 1), orientation="RAS")
    path = put(tmp_path / "a.h5", "x.tif")
    assert any("--kind labels" in warning for warning in write(tmp_path / "a.h5", "b", path))
    assert not any("--kind" in warning for warning in write(tmp_path / "a.h5", "c", path, kind="labels"))
