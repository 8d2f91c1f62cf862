"""Images of several values per voxel: colours and others, from what labs save them in to what we export, against other readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import zarr
from PIL import Image

from lsfm_core import (
    ExportRequest,
    IngestRequest,
    InputError,
    PreviewRequest,
    SlicesRequest,
    SourceError,
    export_channel,
    export_slices,
    ingest_channel,
    open_lsfm,
    preview_file,
    verify_file,
)
from lsfm_core.cli import main
from lsfm_core.formats import open_source

Array = np.ndarray[Any, Any]


def noise(shape: tuple[int, ...], dtype: str = "uint8") -> Array:
    values = np.random.default_rng(0).integers(0, 200, shape)
    return (values / 7).astype(dtype) if np.dtype(dtype).kind == "f" else values.astype(dtype)


@pytest.fixture
def rgb() -> Array:
    return noise((5, 8, 9, 3))


def write(path: Path, image: Any, **fields: Any) -> tuple[str, ...]:
    """As channel ``a``; what does not tell where it lies is a millimetre large and lies as told here."""
    options = {"channel": "a", "voxel_size_mm": (1, 1, 1), "orientation": "SAR", "threads": 1} | fields
    return ingest_channel(IngestRequest(path=path, image=image, **options)).warnings


def check(path: Path, image: Any, expected: Array, **fields: Any) -> None:
    warnings = write(path, image, **fields)
    with open_lsfm(path) as file:
        assert file["a"].kind == "components"
        assert file["a"].dtype == expected.dtype
        np.testing.assert_array_equal(np.asarray(file["a"].levels[0]), expected)
    if fields.get("kind", "image") == "image":
        assert any(f"{expected.shape[3]} values per voxel" in warning for warning in warnings)


# --- in ---------------------------------------------------------------------------------------------------------------------------

TIFFS: dict[str, dict[str, Any]] = {
    "chunky": {"photometric": "rgb"},
    "planar": {"photometric": "rgb", "planarconfig": "separate"},
    "compressed": {"photometric": "rgb", "compression": "zlib", "predictor": True},
    "tiles": {"photometric": "rgb", "tile": (16, 16)},
    "big-endian": {"photometric": "rgb", "byteorder": ">"},
    "ome": {"photometric": "rgb", "ome": True, "metadata": {"axes": "ZYXS"}},
    "ome planar": {"photometric": "rgb", "ome": True, "planarconfig": "separate", "metadata": {"axes": "ZSYX"}},
    "imagej": {"imagej": True, "photometric": "rgb", "metadata": {"axes": "ZYXS"}},
    "several values": {"photometric": "minisblack", "planarconfig": "contig"},
}


@pytest.mark.parametrize("make", TIFFS)
@pytest.mark.parametrize(("dtype", "components"), [("uint8", 3), ("uint16", 3), ("uint8", 4)])
def test_tiff_stacks(make: str, dtype: str, components: int, tmp_path: Path) -> None:
    if make == "imagej" and (dtype, components) != ("uint8", 3):
        pytest.skip("ImageJ has no other colours")
    voxels = noise((5, 8, 9, components), dtype)
    options = TIFFS[make] | ({"extrasamples": ["unassalpha"]} if components == 4 and TIFFS[make]["photometric"] == "rgb" else {})
    stored = np.moveaxis(voxels, -1, 1) if options.get("planarconfig") == "separate" else voxels
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    check(tmp_path / "a.h5", tmp_path / "a.tif", voxels)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("components", [3, 4])
def test_tiff_series(components: int, planar: bool, tmp_path: Path) -> None:
    voxels = noise((5, 8, 9, components), "uint16")
    (tmp_path / "s").mkdir()
    for index, plane in enumerate(voxels):
        options: dict[str, Any] = {"extrasamples": ["unassalpha"]} if components == 4 else {}
        stored = np.moveaxis(plane, -1, 0) if planar else plane
        options |= {"planarconfig": "separate"} if planar else {}
        tifffile.imwrite(tmp_path / "s" / f"{index:03d}.tif", stored, photometric="rgb", **options)
    check(tmp_path / "a.h5", tmp_path / "s", voxels)
    tifffile.imwrite(tmp_path / "s" / "003.tif", voxels[3, ..., 0])
    with pytest.raises(SourceError, match=r"003\.tif: is 8 x 9 uint16, but 000\.tif is 8 x 9 x \d uint16"):
        write(tmp_path / "b.h5", tmp_path / "s")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("letters", ["RGB", "RGBA"])
def test_nifti_colours(suffix: str, letters: str, tmp_path: Path) -> None:
    voxels = noise((9, 8, 5, len(letters)))
    packed = voxels.view([(letter, "u1") for letter in letters])[..., 0]
    nibabel.save(nibabel.Nifti1Image(packed, np.diag([0.1, 0.2, 0.3, 1])), tmp_path / f"a{suffix}")
    with_own_place = {"voxel_size_mm": None, "orientation": None}
    check(tmp_path / "a.h5", tmp_path / f"a{suffix}", voxels.transpose(2, 1, 0, 3), **with_own_place)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("shape", "dtype", "intent", "kind"),
    [
        ((9, 8, 5, 1, 2), "int16", 1007, "image"),
        ((9, 8, 5, 1, 4), "float32", 1007, "image"),
        ((9, 8, 5, 1, 3), "uint8", 1007, "image"),
        ((9, 8, 5, 1, 3), "float32", 1007, "components"),
        ((9, 8, 5, 1, 3), "float64", 0, "components"),
        ((9, 8, 5, 3), "float32", 0, "components"),
        ((9, 8, 5, 6), "uint16", 0, "components"),
    ],
)
def test_nifti_of_more_axes(shape: tuple[int, ...], dtype: str, intent: int, kind: str, suffix: str, tmp_path: Path) -> None:
    voxels = noise(shape, dtype)
    image = nibabel.Nifti1Image(voxels, np.diag([0.1, 0.2, 0.3, 1]))
    image.header["intent_code"] = intent
    nibabel.save(image, tmp_path / f"a{suffix}")
    expected = voxels.reshape(*shape[:3], shape[-1]).transpose(2, 1, 0, 3)
    check(tmp_path / "a.h5", tmp_path / f"a{suffix}", expected, kind=kind, voxel_size_mm=None, orientation=None)
    if kind == "components":
        with pytest.raises(SourceError, match="--kind components"):
            write(tmp_path / "b.h5", tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("components", "dtype"), [(2, "float32"), (3, "uint8"), (4, "uint16"), (4, "float64"), (7, "int16")])
def test_itk_vectors(suffix: str, compressed: bool, components: int, dtype: str, tmp_path: Path) -> None:
    voxels = noise((5, 8, 9, components), dtype)
    sitk.WriteImage(sitk.GetImageFromArray(voxels, isVector=True), tmp_path / f"a{suffix}", useCompression=compressed)
    check(tmp_path / "a.h5", tmp_path / f"a{suffix}", voxels)
    for kind in ("labels", "vectors"):
        with pytest.raises(SourceError, match=r"displacement field|whole number"):
            write(tmp_path / "b.h5", tmp_path / f"a{suffix}", kind=kind)


@pytest.mark.parametrize(("kinds", "asked"), [("RGB-color", False), ("vector", False), ("list", True), ("time", True)])
@pytest.mark.parametrize("last", [False, True])
def test_kinds_of_nrrd(kinds: str, asked: bool, last: bool, tmp_path: Path) -> None:
    voxels = noise((3, 9, 8, 5))
    words = [kinds, "domain", "domain", "domain"]
    stored = np.moveaxis(voxels, 0, -1) if last else voxels
    nrrd.write(str(tmp_path / "a.nrrd"), stored, {"kinds": [*words[1:], kinds] if last else words})
    if asked:
        with pytest.raises(SourceError, match="--kind components"):
            write(tmp_path / "b.h5", tmp_path / "a.nrrd")
    check(tmp_path / "a.h5", tmp_path / "a.nrrd", voxels.T, kind="components" if asked else "image")


def test_arrays(rgb: Array, tmp_path: Path) -> None:
    check(tmp_path / "a.h5", rgb, rgb)
    floats = noise((5, 8, 9, 2), "float32")
    check(tmp_path / "b.h5", floats, floats, kind="components")
    check(tmp_path / "c.h5", zarr.array(floats, chunks=(2, 8, 9, 1)), floats, kind="components")
    np.save(tmp_path / "a.npy", floats)
    check(tmp_path / "d.h5", tmp_path / "a.npy", floats, kind="components")
    for image in (floats, tmp_path / "a.npy"):
        with pytest.raises(InputError, match="say kind components"):
            open_source(image)
    with pytest.raises(SourceError, match="1 value per voxel"):
        open_source(rgb[..., :1], kind="components")


def test_channels_of_ome_zarr_as_components(tmp_path: Path) -> None:
    voxels = noise((3, 5, 8, 9), "uint16")
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "millimeter"} for n in "zyx")]
    steps = [{"type": "scale", "scale": [1, 1, 1, 1]}]
    multiscales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}]
    group = zarr.create_group(tmp_path / "a.zarr", attributes={"ome": {"version": "0.5", "multiscales": multiscales}})
    group.create_array("0", data=voxels)
    check(tmp_path / "a.h5", tmp_path / "a.zarr", np.moveaxis(voxels, 0, -1), kind="components")
    write(tmp_path / "b.h5", tmp_path / "a.zarr", image_channel=1)
    with open_lsfm(tmp_path / "b.h5") as file:
        np.testing.assert_array_equal(np.asarray(file["a"].levels[0]), voxels[1])


# --- in the file ------------------------------------------------------------------------------------------------------------------


def test_levels_are_means_of_each_component(tmp_path: Path) -> None:
    voxels = noise((4, 300, 6, 3))
    write(tmp_path / "a.h5", voxels)
    with open_lsfm(tmp_path / "a.h5") as file:
        channel = file["a"]
        assert (channel.setup, len(channel.levels)) == (None, 2)
        factors = tuple(int(f) for f in channel.levels[1].factors)
        a, b, c = factors
        blocks = voxels.reshape(4 // a, a, 300 // b, b, 6 // c, c, 3).mean(axis=(1, 3, 5), dtype=float)
        np.testing.assert_array_equal(np.asarray(channel.levels[1]), np.rint(blocks))
    assert verify_file(tmp_path / "a.h5", levels=True).defects == ()
    assert main(["repack", str(tmp_path / "a.h5"), "--compression-level", "3", "--quiet"]) == 0
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["LSFM/a/IMAGE/0/cells"][()], voxels)


def test_channels_and_files_are_no_arrays(rgb: Array, tmp_path: Path) -> None:
    write(tmp_path / "a.h5", rgb)
    with open_lsfm(tmp_path / "a.h5") as file:
        assert np.asarray(file["a"].levels[0], dtype=float).dtype == float
        with pytest.raises(InputError, match=r"channel\.levels\[0\]"):
            np.asarray(file["a"])
        with pytest.raises(InputError, match=r"\.levels\[0\]"):
            np.asarray(file)


# --- out --------------------------------------------------------------------------------------------------------------------------


def _nifti(path: Path) -> Array:
    voxels = np.asanyarray(nibabel.load(path).dataobj)
    return voxels[:, :, :, 0] if voxels.dtype.names is None else np.stack([voxels[n] for n in voxels.dtype.names], -1)


READERS: dict[str, Callable[[Path], Array]] = {
    ".nii": _nifti,
    ".nii.gz": _nifti,
    ".nrrd": lambda path: np.moveaxis(nrrd.read(str(path))[0], 0, -1),
    ".mha": lambda path: sitk.GetArrayFromImage(sitk.ReadImage(path)).transpose(2, 1, 0, 3),
    ".tif": tifffile.imread,
    ".ome.tif": tifffile.imread,
    ".ome.zarr": lambda path: np.moveaxis(zarr.open_group(path, mode="r")["0"][...], 0, -1),
    ".npy": np.load,
}


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize(("components", "dtype"), [(3, "uint8"), (4, "uint16"), (2, "float32"), (3, "float32")])
def test_exports(suffix: str, components: int, dtype: str, tmp_path: Path) -> None:
    voxels = noise((5, 8, 9, components), dtype)
    write(tmp_path / "a.h5", voxels, kind="components")
    export_channel(ExportRequest(path=tmp_path / "a.h5", channel="a", output=tmp_path / f"x{suffix}"))
    np.testing.assert_array_equal(READERS[suffix](tmp_path / f"x{suffix}"), voxels.transpose(2, 1, 0, 3))
    if suffix in (".nii", ".nrrd", ".mha"):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / f"x{suffix}")), voxels)


@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_resampling_takes_each_component_by_itself(method: str, rgb: Array, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, rgb)
    for index in range(3):
        write(path, np.ascontiguousarray(rgb[..., index]), channel=f"c{index}")
    request = {"path": path, "resolution_mm": 0.7, "interpolation": method, "origin_mm": (1, 1, 1), "size_mm": (5, 4, 3)}
    whole = export_channel(ExportRequest(channel="a", **request)).volume
    assert whole is not None
    assert whole.kind == "components"
    for index in range(3):
        part = export_channel(ExportRequest(channel=f"c{index}", **request)).volume
        assert part is not None
        np.testing.assert_array_equal(whole.array[..., index], part.array)


def test_slices_and_previews_in_colour(tmp_path: Path) -> None:
    red = np.zeros((6, 40, 40, 3), np.uint8)
    red[..., 0] = 200
    red[..., 1] = 10
    write(tmp_path / "a.h5", red)
    request = SlicesRequest(path=tmp_path / "a.h5", channel="a", output=tmp_path / "s_%d.tif", axis=2)
    paths = export_slices(request).paths
    np.testing.assert_array_equal(tifffile.imread(paths[0]), red[0])
    picture = preview_file(PreviewRequest(path=tmp_path / "a.h5", output=tmp_path / "p.png")).image
    assert picture is not None
    pixels = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).reshape(-1, 3).astype(int)
    assert (pixels[:, 0] - pixels[:, 1:].max(axis=1) > 150).sum() > 1000


@pytest.mark.parametrize(("components", "dtype"), [(4, "uint8"), (4, "uint16"), (2, "float32"), (5, "uint8")])
def test_slices_of_any_number_of_values(components: int, dtype: str, tmp_path: Path) -> None:
    voxels = noise((3, 8, 9, components), dtype)
    write(tmp_path / "a.h5", voxels, kind="components")
    request = {"path": tmp_path / "a.h5", "channel": "a", "axis": 2, "as_stored": True}
    (path, *_) = export_slices(SlicesRequest(output=tmp_path / "s_%d.tif", **request)).paths
    np.testing.assert_array_equal(tifffile.imread(path), voxels[0].transpose(1, 0, 2))
    if components == 5:
        with pytest.raises(InputError, match="1, 3 or 4 values"):
            export_slices(SlicesRequest(output=tmp_path / "s_%d.png", **request))


def test_regions_are_cut_out(rgb: Array, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    labels = np.zeros((5, 8, 9), np.uint8)
    labels[1:3, 2:5, 3:7] = 1
    labels[1, 2, 3] = 0
    write(path, rgb)
    write(path, labels, channel="l", kind="labels")
    assert main(["export", str(path), "--channel", "a", "--region", "1", "--labels-channel", "l", "--mask", "--fill", "0",
                 "--output", str(tmp_path / "x.npy"), "--quiet"]) == 0  # fmt: skip
    expected = np.where((labels == 1)[..., None], rgb, 0)[1:3, 2:5, 3:7].transpose(2, 1, 0, 3)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)


def test_chunks_are_merged(rgb: Array, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, rgb)
    assert main(["export", str(path), "--channel", "a", "--grid", "2,2,1", "--origin", "-0.5,-0.5,-0.5", "--size", "5,5,5",
                 "--overlap", "1", "--output", str(tmp_path / "c" / "c_%d_%d_%d.tif"), "--quiet"]) == 0  # fmt: skip
    assert main(["merge", str(tmp_path / "c"), "--output", str(tmp_path / "m.npy"), "--quiet"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy")[:, :8], rgb.transpose(2, 1, 0, 3))
