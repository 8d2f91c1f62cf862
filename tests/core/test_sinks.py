"""Outputs: what their customary readers see, and that they are complete or not there at all."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from lsfm_core import pyramid
from lsfm_core.errors import ExistsError, InputError, StorageError
from lsfm_core.formats import (
    OUTPUT_SUFFIXES,
    OutputImage,
    _sink,
    check_output,
    open_sink,
    open_source,
    output_notes,
    tiff_output,
    write_plane,
)
from lsfm_core.geometry import Space

from .effort import examples

Array = np.ndarray[Any, Any]
WORLD = (".nii", ".nii.gz", ".nrrd", ".mha")
DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")


def oblique(shape: tuple[int, ...]) -> Space:
    """Turned about two axes, mirrored, with a different voxel size along each axis."""
    turns = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(turns, (3, 3)) @ np.diag([0.02, -0.03, 0.05])
    affine[:3, 3] = 1.5, -2.25, 3.125
    return Space((shape[0], shape[1], shape[2]), affine)


def noise(shape: tuple[int, ...], dtype: str = "u2", seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    # Extreme values too: whoever goes through another type loses them.
    info = np.iinfo(dtype)
    voxels = rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    voxels.flat[:2] = info.min, info.max
    return voxels


def image_of(voxels: Array, **fields: Any) -> OutputImage:
    components = voxels.shape[3] if voxels.ndim == 4 else 1
    return OutputImage(oblique(voxels.shape[:3]), voxels.dtype, components=components, **fields)


def put(path: Path, voxels: Array, thicknesses: Iterator[int] | None = None, **fields: Any) -> Path:
    """Write in slabs of the given thicknesses."""
    image = image_of(voxels, **fields)
    axis = check_output(path, image, overwrite=False)
    with open_sink(path, image, overwrite=False, threads=2) as sink:
        assert sink.axis == axis
        start = 0
        while start < voxels.shape[axis]:
            thickness = next(thicknesses or itertools.repeat(3))
            sink.write(np.take(voxels, range(start, min(start + thickness, voxels.shape[axis])), axis))
            start += thickness
    return path


def get(path: Path, shape: tuple[int, ...]) -> Array:
    """Read with the customary reader; tifffile leaves axes of one voxel out."""
    name = path.name
    if ".nii" in name:
        found = np.asanyarray(nibabel.load(path).dataobj)
        if found.dtype.names:
            found = np.stack([found[field] for field in found.dtype.names], axis=-1)
        return found.reshape(shape)
    if name.endswith(".nrrd"):
        found = nrrd.read(str(path))[0]
        return np.moveaxis(found, 0, -1) if found.ndim == 4 else found
    if name.endswith(".mha"):
        found = sitk.GetArrayFromImage(sitk.ReadImage(path))
        return found.transpose(2, 1, 0, *range(3, found.ndim))
    if name.endswith((".tif", ".tiff")):
        return tifffile.imread(path).reshape(shape)
    if name.endswith(".npy"):
        return np.load(path)
    found = zarr.open_group(path, mode="r")["0"][...]
    return np.moveaxis(found, 0, -1) if found.ndim == 4 else found


def same(found: Array, wanted: Array) -> bool:
    return found.dtype == wanted.dtype and found.shape == wanted.shape and found.tobytes() == wanted.tobytes()


def content(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too; OME-TIFF has an identifier that is never the same."""
    return {
        str(file.relative_to(folder)): re.sub(rb"urn:uuid:[-0-9a-f]+", b"", file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file()
    }


# --- voxels ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_type_is_kept_or_refused(suffix: str, dtype: str, tmp_path: Path) -> None:
    voxels = noise((4, 5, 6), dtype)
    refused = {".tif": "f2 u8 i8", ".npy": "", ".ome.zarr": ""}.get(suffix.replace("tiff", "tif").replace(".ome.tif", ".tif"), "f2")
    if dtype in refused.split():
        with pytest.raises(InputError, match=rf"cannot hold voxels of type {voxels.dtype}.*\.npy and \.ome\.zarr"):
            put(tmp_path / f"x{suffix}", voxels)
        assert not content(tmp_path)
    else:
        assert same(get(put(tmp_path / f"x{suffix}", voxels), voxels.shape), voxels)


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_other_types_are_refused_by_all(suffix: str, tmp_path: Path) -> None:
    for dtype in ("c8", "?"):
        with pytest.raises(InputError, match="cannot hold"):
            check_output(tmp_path / f"x{suffix}", image_of(np.zeros((2, 3, 4), dtype)), overwrite=False)


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_big_endian_voxels_become_little_endian(suffix: str, tmp_path: Path) -> None:
    voxels = noise((4, 5, 6))
    put(tmp_path / f"x{suffix}", voxels.astype(">u2"))
    put(tmp_path / f"y{suffix}", voxels)
    assert same(get(tmp_path / f"x{suffix}", voxels.shape), voxels)


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
@settings(max_examples=examples(25), deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    components=st.sampled_from([1, 1, 2, 3, 4]),
    dtype=st.sampled_from(["u1", "u2", "f4"]),
    kind=st.sampled_from(["image", "labels"]),
    thicknesses=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    piece=st.sampled_from([1, 300, 2**24]),
)
def test_slabs_of_any_thickness_give_the_same_bytes(
    suffix: str, shape: tuple[int, ...], components: int, dtype: str, kind: str, thicknesses: list[int], piece: int
) -> None:
    if kind == "labels":
        components, dtype = 1, "u2"
    voxels = noise((*shape, components) if components > 1 else shape, dtype)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        # Pyramids of several levels, of images that are small.
        patch.setattr(pyramid, "COARSEST_SIZE", 2)
        whole, parts = Path(folder, "whole"), Path(folder, "parts")
        whole.mkdir()
        parts.mkdir()
        put(whole / f"x{suffix}", voxels, itertools.repeat(100), kind=kind, name="x")
        patch.setattr(_sink, "_PIECE_BYTES", piece)
        put(parts / f"x{suffix}", voxels, itertools.cycle(thicknesses), kind=kind, name="x")
        assert content(whole) == content(parts)
        assert same(get(parts / f"x{suffix}", voxels.shape), voxels)


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_slabs_must_fit(suffix: str, tmp_path: Path) -> None:
    voxels = noise((4, 5, 6))
    path = tmp_path / f"x{suffix}"
    axis = check_output(path, image_of(voxels), overwrite=False)
    for wrong in (voxels[:, :, :, None], voxels.astype("f4"), np.concatenate([voxels, voxels], axis), voxels[:3, :4, :5]):
        with pytest.raises(InputError, match="does not fit"), open_sink(path, image_of(voxels), overwrite=False, threads=1) as sink:
            sink.write(wrong)
    with (
        pytest.raises(InputError, match="planes were given"),
        open_sink(path, image_of(voxels), overwrite=False, threads=1) as sink,
    ):
        sink.write(np.take(voxels, range(2), axis))
    assert not content(tmp_path)


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_colours(suffix: str, tmp_path: Path) -> None:
    for dtype, components in itertools.product(("u1", "u2"), (3, 4)):
        voxels = noise((4, 5, 6, components), dtype)
        path = put(tmp_path / f"{dtype}{components}{suffix}", voxels)
        assert same(get(path, voxels.shape), voxels)
        if suffix in WORLD:
            pixels = sitk.GetArrayFromImage(sitk.ReadImage(path))
            np.testing.assert_array_equal(pixels.transpose(2, 1, 0, 3), voxels)
        if ".nii" in suffix:
            header = nibabel.load(path).header
            assert header.get_data_shape() == ((4, 5, 6) if dtype == "u1" else (4, 5, 6, 1, components))
            assert int(header["datatype"]) == ({3: 128, 4: 2304}[components] if dtype == "u1" else 512)
            assert int(header["intent_code"]) == (0 if dtype == "u1" else 1007)
        if suffix == ".nrrd":
            assert nrrd.read_header(str(path))["kinds"] == [{3: "RGB-color", 4: "RGBA-color"}[components], *["domain"] * 3]
        if ".tif" in suffix:
            with tifffile.TiffFile(path) as tiff:
                assert tiff.series[0].axes == "ZYXS"
                assert tiff.pages.first.photometric == tifffile.PHOTOMETRIC.RGB
                assert tiff.is_imagej == (suffix in (".tif", ".tiff") and (dtype, components) == ("u1", 3))
        if suffix == ".ome.zarr":
            ome = zarr.open_group(path).attrs["ome"]
            assert [channel["color"] for channel in ome["omero"]["channels"]][:3] == ["FF0000", "00FF00", "0000FF"]
            yaozarrs.validate_zarr_store(str(path))


# --- vectors --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_itk_reads_one_displacement_field_from_all(dtype: str, tmp_path: Path) -> None:
    ras = noise((4, 5, 6, 3), dtype)
    ras[0, 0, 0] = np.nan, np.inf, -np.inf
    for suffix in WORLD:
        path = put(tmp_path / f"x{suffix}", ras, kind="vectors")
        field = sitk.ReadImage(path)
        assert (field.GetDimension(), field.GetNumberOfComponentsPerPixel()) == (3, 3)
        # ITK's displacements point along L, P, S; it reads 0 for NaN from NIfTI.
        lps = sitk.GetArrayFromImage(field).transpose(2, 1, 0, 3)
        np.testing.assert_array_equal((lps * (-1, -1, 1)).reshape(-1, 3)[1:], ras.reshape(-1, 3)[1:])
        source = open_source(path, kind="vectors")
        try:
            found = np.empty((6, 5, 4, 3), dtype)
            for index, plane in enumerate(found):
                source.read_plane(index, plane)
        finally:
            source.close()
        np.testing.assert_array_equal(found.transpose(2, 1, 0, 3), ras)


def test_the_callers_vectors_are_left_alone(tmp_path: Path) -> None:
    ras = noise((4, 5, 6, 3), "f4")
    image = image_of(ras, kind="vectors")
    for suffix in WORLD:
        given = ras.copy()
        with open_sink(tmp_path / f"x{suffix}", image, overwrite=False, threads=1) as sink:
            sink.write(given)
        np.testing.assert_array_equal(given, ras)


def test_vectors_as_they_are(tmp_path: Path) -> None:
    ras = noise((4, 5, 6, 3), "f4")
    for suffix in (".tif", ".ome.tif", ".npy", ".ome.zarr"):
        path = put(tmp_path / f"x{suffix}", ras, kind="vectors")
        assert same(get(path, ras.shape), ras)
    assert json.loads((tmp_path / "x.json").read_text())["vector_frame"] == "RAS"
    assert zarr.open_group(tmp_path / "x.ome.zarr").attrs["lsfm"]["vector_frame"] == "RAS"
    with tifffile.TiffFile(tmp_path / "x.tif") as tiff:
        assert tiff.pages.first.photometric == tifffile.PHOTOMETRIC.MINISBLACK
        (text,) = re.findall("<Description>(.*)</Description>", tiff.ome_metadata)
        assert json.loads(text.replace("&quot;", '"'))["vector_frame"] == "RAS"


# --- where the voxels are -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("components", [1, 3])
def test_itk_and_nibabel_agree_on_every_corner(components: int, tmp_path: Path) -> None:
    voxels = noise((4, 5, 6, components) if components > 1 else (4, 5, 6), "f4")
    world = oblique(voxels.shape).world_from_voxel
    for suffix in WORLD:
        path = put(tmp_path / f"x{suffix}", voxels)
        itk = sitk.ReadImage(path)
        for index in itertools.product((0, 3), (0, 4), (0, 5)):
            ras = np.multiply(itk.TransformIndexToPhysicalPoint(index), (-1, -1, 1))
            np.testing.assert_allclose(ras, (world @ (*index, 1))[:3], atol=1e-6)
            assert np.array_equal(np.ravel(itk[index]), np.ravel(voxels[index]))
        if ".nii" in suffix:
            np.testing.assert_allclose(nibabel.load(path).affine, world, atol=1e-6)
            np.testing.assert_allclose(nibabel.load(path).get_qform(), world, atol=1e-6)
            assert nibabel.load(path).header.get_xyzt_units()[0] == "mm"


def test_our_own_reader_finds_the_same_place(tmp_path: Path) -> None:
    voxels = noise((4, 5, 6))
    for suffix in WORLD:
        source = open_source(put(tmp_path / f"x{suffix}", voxels))
        source.close()
        assert source.space is not None
        # It lists the axes slowest first.
        np.testing.assert_allclose(
            source.space.world_from_voxel[:, [2, 1, 0, 3]], oblique(voxels.shape).world_from_voxel, atol=1e-6
        )


def test_nrrd_header(tmp_path: Path) -> None:
    voxels = noise((4, 5, 6), "f4")
    header = nrrd.read_header(str(put(tmp_path / "x.nrrd", voxels, name="signal\nkinds: none")))
    lps = np.diag([-1, -1, 1, 1]) @ oblique(voxels.shape).world_from_voxel
    assert (header["type"], header["space"], header["content"]) == ("float", "left-posterior-superior", "signal kinds: none")
    np.testing.assert_array_equal(header["space directions"], lps[:3, :3].T)
    np.testing.assert_array_equal(header["space origin"], lps[:3, 3])
    vectors = nrrd.read_header(str(put(tmp_path / "v.nrrd", noise((4, 5, 6, 3), "f4"), kind="vectors")))
    assert vectors["kinds"] == ["vector", "domain", "domain", "domain"]
    assert np.isnan(vectors["space directions"][0]).all()


def test_a_long_side_makes_nifti_2(tmp_path: Path) -> None:
    for side, header in ((2**15 - 1, nibabel.Nifti1Image), (2**15, nibabel.Nifti2Image)):
        voxels = noise((side, 2, 3), "u1")
        path = put(tmp_path / f"{side}.nii", voxels)
        assert type(nibabel.load(path)) is header
        assert same(get(path, voxels.shape), voxels)


# --- TIFF -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_tiff_is_imagejs_where_it_can_be(dtype: str, tmp_path: Path) -> None:
    path = put(tmp_path / "x.tif", noise((4, 5, 6), dtype), name="signal")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_imagej and not tiff.is_ome
        assert (tiff.series[0].axes, len(tiff.pages)) == ("ZYX", 4)
        metadata = tiff.imagej_metadata
        assert (metadata["spacing"], metadata["unit"]) == (20, "um")
        for tag, pixels_per_um in (("YResolution", 1 / 30), ("XResolution", 1 / 50)):
            numerator, denominator = tiff.pages.first.tags[tag].value
            assert numerator / denominator == pytest.approx(pixels_per_um, rel=1e-7)
        assert json.loads(metadata["Info"])["name"] == "signal"
    source = open_source(path)
    source.close()
    assert source.voxel_size_mm == pytest.approx((0.02, 0.03, 0.05))


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".tif", "i2"), (".tif", "u4"), (".tif", "f8"), (".ome.tif", "u2"), (".ome.tiff", "u1")]
)
def test_ome_tiff(suffix: str, dtype: str, tmp_path: Path) -> None:
    path = put(tmp_path / f"x{suffix}", noise((4, 5, 6), dtype), name="Käse & <b>")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome and not tiff.is_bigtiff
        assert (tiff.series[0].axes, len(tiff.pages)) == ("ZYX", 4)
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert [pixels[f"PhysicalSize{axis}"] for axis in "ZYX"] == [20, 30, 50]
        assert {pixels[f"PhysicalSize{axis}Unit"] for axis in "ZYX"} == {"µm"}
        assert pixels["Channel"]["Name"] == "Käse & <b>"
        # ImageJ takes centimetres from the tags, and nothing from the XML.
        assert tiff.pages.first.tags["ResolutionUnit"].value == 3
        for tag, pixels_per_cm in (("YResolution", 1e4 / 30), ("XResolution", 1e4 / 50)):
            numerator, denominator = tiff.pages.first.tags[tag].value
            assert numerator / denominator == pytest.approx(pixels_per_cm, rel=1e-7)
    source = open_source(path)
    source.close()
    assert source.voxel_size_mm == pytest.approx((0.02, 0.03, 0.05))


@pytest.mark.parametrize("kind", ["image", "vectors"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "f4", "f8"])
def test_what_imagej_does_not_read_is_said(kind: pyramid.Kind, dtype: str) -> None:
    image = image_of(noise((4, 5, 6, 3) if kind == "vectors" else (4, 5, 6), dtype), kind=kind)
    notes = output_notes(Path("x.tif"), image)
    assert bool(notes) == (kind == "vectors" or dtype in {"i1", "f8"})
    assert all("ImageJ" in note and "Plugins > Bio-Formats" in note for note in notes)
    assert output_notes(Path("x.nii"), image) == ()


def test_a_tiff_beyond_4_gb_is_an_ome_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_output, "_CLASSIC_BYTES", 4 * 5 * 6 * 2 + 4 * tiff_output._PAGE_BYTES - 1)
    voxels = noise((4, 5, 6))
    with tifffile.TiffFile(put(tmp_path / "x.tif", voxels)) as tiff:
        assert tiff.is_bigtiff and tiff.is_ome
        assert same(tiff.asarray(), voxels)


# --- OME-Zarr -------------------------------------------------------------------------------------------------------------------


def blocks(array: Array, step: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Array]]:
    sizes = [-(-n // s) for n, s in zip(array.shape, step, strict=False)]
    for index in itertools.product(*map(range, sizes)):
        yield index, array[tuple(slice(i * s, i * s + s) for i, s in zip(index, step, strict=False))]


@pytest.mark.parametrize(("kind", "components"), [("image", 1), ("labels", 1), ("image", 3), ("vectors", 3)])
def test_zarr_has_a_pyramid(kind: str, components: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "COARSEST_SIZE", 4)
    shape = (9, 7, 21)
    if kind == "labels":
        voxels = np.random.default_rng(1).integers(0, 3, shape, dtype=np.uint32) * 2**30
    else:
        voxels = noise((*shape, components) if components > 1 else shape, "f4" if kind == "vectors" else "u2")
    path = put(tmp_path / "x.ome.zarr", voxels, kind=kind, name="signal")
    yaozarrs.validate_zarr_store(str(path))
    group = zarr.open_group(path, mode="r")
    ome = group.attrs["ome"]
    (multiscale,) = ome["multiscales"]
    assert ("image-label" in ome) == (kind == "labels")
    assert (ome["version"], multiscale["name"], multiscale["type"]) == ("0.5", "signal", "mode" if kind == "labels" else "mean")
    axes = [axis["name"] for axis in multiscale["axes"]]
    assert axes == (["c"] if components > 1 else []) + ["z", "y", "x"]
    assert multiscale["axes"][0]["type"] == ("channel" if components > 1 else "space")
    # The file's own words for R, P, S; x grows by -0.03 toward anterior.
    assert [axis["orientation"] for axis in multiscale["axes"][-3:]] == [
        {"type": "anatomical", "value": value} for value in ("left-to-right", "anterior-to-posterior", "inferior-to-superior")
    ]
    assert {axis["unit"] for axis in multiscale["axes"][-3:]} == {"millimeter"}
    levels = []
    for dataset in multiscale["datasets"]:
        array = group[dataset["path"]]
        assert array.metadata.dimension_names == tuple(axes)
        levels.append(np.moveaxis(array[...], 0, -1) if components > 1 else array[...])
        scale, translation = (step[step["type"]] for step in dataset["coordinateTransformations"])
        factor = np.divide(scale[-3:], (0.02, 0.03, 0.05))
        # The first voxel of a level lies in the middle of those that it stands for: R, P, S of the first voxel of all, and on.
        np.testing.assert_allclose(translation[-3:], np.add((1.5, 2.25, 3.125), (factor - 1) / 2 * (0.02, 0.03, 0.05)))
        whole = np.rint(factor).astype(int)
        if kind == "labels" and len(levels) > 1:
            step = np.ceil(np.divide(levels[-2].shape, levels[-1].shape)).astype(int)
            for index, block in blocks(levels[-2], tuple(step)):
                counts = Counter(block.ravel().tolist())
                assert levels[-1][index] == min(counts, key=lambda value: (-counts[value], value))
        elif kind != "labels":
            for index, block in blocks(voxels, tuple(whole)):
                mean = block.mean(axis=(0, 1, 2), dtype=np.float64)
                np.testing.assert_allclose(levels[-1][index], mean if kind == "vectors" else np.rint(mean), rtol=1e-5, atol=1e-6)
    assert len(levels) >= 3
    assert max(levels[-1].shape[:3]) <= 4
    assert same(levels[0], voxels)


def test_zarr_chunks_are_about_1_mb_and_layers_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lsfm_core.formats import ome_zarr

    voxels = noise((200, 300, 400))
    array = zarr.open_group(put(tmp_path / "x.ome.zarr", voxels))["0"]
    assert 2**19 <= np.prod(array.chunks) * 2 <= 2**20
    monkeypatch.setattr(ome_zarr, "_LAYER_BYTES", 2 * 300 * 400 * 10)
    flat = zarr.open_group(put(tmp_path / "y.ome.zarr", voxels))["0"]
    assert flat.chunks[0] <= 10
    assert 2**18 <= np.prod(flat.chunks) * 2 <= 2**20
    np.testing.assert_array_equal(flat[...], voxels)


def test_zarr_is_the_same_whatever_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lsfm_core.formats import ome_zarr

    monkeypatch.setattr(ome_zarr, "_LEAST_LAYER_BYTES", 100_000)
    images = {"image": noise((70, 130, 300)), "labels": noise((70, 130, 300)) // 9000, "vectors": noise((20, 90, 300, 3))}
    for kind, voxels in images.items():
        image, found = image_of(voxels.astype(np.float32) if kind == "vectors" else voxels, kind=kind), []
        for memory in (None, 10**6):
            path = tmp_path / f"{kind} {memory}.ome.zarr"
            with open_sink(path, image, overwrite=False, threads=2, memory_bytes=memory) as sink:
                for start in range(0, len(voxels), 7):
                    sink.write(voxels[start : start + 7].astype(image.dtype))
            found.append({str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()})
        assert found[0] == found[1]
        # The layers are larger than what one of the two kept of them.
        group = zarr.open_group(path)
        assert min(group["0"].chunks[-3], len(voxels)) * voxels[0].nbytes > 100_000
        level = np.moveaxis(group["0"][...], 0, -1) if kind == "vectors" else group["0"][...]
        np.testing.assert_array_equal(level, voxels)


# --- .npy -----------------------------------------------------------------------------------------------------------------------


def test_npy_has_its_geometry_beside_it(tmp_path: Path) -> None:
    voxels = noise((4, 5, 6))
    put(tmp_path / "x.npy", voxels, name="signal")
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "format": "lsfm image",
        "version": 1,
        "name": "signal",
        "kind": "image",
        "shape": [4, 5, 6],
        "dtype": "uint16",
        "components": 1,
        "vector_frame": None,
        "axcodes": "RPS",
        "unit": "mm",
        "voxel_size_mm": pytest.approx([0.02, 0.03, 0.05]),
        "world_from_voxel": oblique(voxels.shape).world_from_voxel.tolist(),
    }


# --- all or nothing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
@pytest.mark.parametrize("kind", ["image", "vectors"])
def test_an_error_leaves_nothing_or_what_was_there(suffix: str, kind: str, tmp_path: Path) -> None:
    old = noise((4, 5, 6, 3) if kind == "vectors" else (4, 5, 6), "f4")
    new = noise(old.shape, "f4", seed=1)
    path = tmp_path / f"x{suffix}"

    def spoil() -> None:
        with open_sink(path, image_of(new, kind=kind), overwrite=True, threads=2) as sink:
            sink.write(np.take(new, range(2), sink.axis))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spoil()
    assert not list(tmp_path.iterdir())
    put(path, old, kind=kind)
    before = content(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        spoil()
    assert content(tmp_path) == before
    with pytest.raises(ExistsError), open_sink(path, image_of(new, kind=kind), overwrite=False, threads=2):
        pass
    with open_sink(path, image_of(new, kind=kind), overwrite=True, threads=2) as sink:
        sink.write(new)
        assert {name: data for name, data in content(tmp_path).items() if not name.startswith(".")} == before
    assert set(content(tmp_path)) == set(before)
    if kind == "image":
        assert same(get(path, new.shape), new)
    else:
        assert content(tmp_path) != before


@pytest.mark.parametrize(("failing", "old"), [(1, True), (2, True), (3, True), (4, True), (1, False), (2, False)])
def test_a_pair_is_never_half_there(failing: int, old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the renames fails: both old files are there, or none is."""
    if old:
        put(tmp_path / "x.npy", noise((4, 5, 6)))
    before = content(tmp_path)
    real, calls = Path.rename, itertools.count(1)

    def rename(self: Path, target: Path) -> Path:
        if next(calls) == failing:
            raise PermissionError(13, "Permission denied")
        return real(self, target)

    voxels = noise((2, 2, 2))
    monkeypatch.setattr(Path, "rename", rename)
    with (
        pytest.raises(StorageError, match="Permission denied"),
        open_sink(tmp_path / "x.npy", image_of(voxels), overwrite=True, threads=1) as sink,
    ):
        sink.write(voxels)
    assert content(tmp_path) == before


def test_either_of_a_pair_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("somebody's")
    with pytest.raises(ExistsError, match=r"x\.json"):
        check_output(tmp_path / "x.npy", image_of(noise((4, 5, 6))), overwrite=False)


def test_folders_that_are_no_zarr_are_not_replaced(tmp_path: Path) -> None:
    for name in ("x.ome.zarr", "x.nii"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
        with pytest.raises(StorageError, match="choose another name"):
            check_output(tmp_path / name, image_of(noise((4, 5, 6))), overwrite=True)


def test_what_can_be_known_before(tmp_path: Path) -> None:
    image = image_of(noise((4, 5, 6)))
    for name in ("x.zarr", "x", "x.nhdr", "x.gz"):
        with pytest.raises(InputError, match=r"unknown output format.*\.nii\.gz, \.nrrd, .*\.ome\.zarr, \.npy"):
            check_output(tmp_path / name, image, overwrite=False)
    with pytest.raises(StorageError, match="there is no folder"):
        check_output(tmp_path / "nowhere" / "x.nii", image, overwrite=False)
    assert [check_output(tmp_path / f"X{suffix.upper()}", image, overwrite=False) for suffix in OUTPUT_SUFFIXES] == [
        *[2, 2, 2, 2],
        *[0, 0, 0, 0, 0, 0],
    ]


# --- disk and memory ------------------------------------------------------------------------------------------------------------

_ON_A_SMALL_DISK = """
import pathlib, re, sys
import numpy as np
from lsfm_core.errors import StorageError
from lsfm_core.formats import OUTPUT_SUFFIXES, OutputImage, check_output, open_sink
from lsfm_core.geometry import Space
folder = pathlib.Path(sys.argv[1])
for suffix in OUTPUT_SUFFIXES:
    path = folder / f"x{suffix}"
    too_large = OutputImage(Space((100, 100, 250), np.eye(4)), np.dtype("u2"))
    try:
        check_output(path, too_large, overwrite=False)
        sys.exit(f"{suffix}: not refused")
    except StorageError as error:
        need, free = map(float, re.search(r"need ([0-9.]+) MB, and ([0-9.]+) MB", str(error)).groups())
        assert 5 <= need < 6.1 and 3.9 < free < 4.3, error
    # What fitted when the work began does no longer.
    voxels = np.random.default_rng(0).integers(0, 2**16, (100, 100, 150), dtype=np.uint16)
    try:
        with open_sink(path, OutputImage(Space(voxels.shape, np.eye(4)), voxels.dtype), overwrite=False, threads=2) as sink:
            (folder / "other").write_bytes(bytes(2_500_000))
            sink.write(voxels)
        sys.exit(f"{suffix}: written")
    except StorageError as error:
        assert "the disk is full" in str(error), error
    assert [entry.name for entry in folder.iterdir()] == ["other"], suffix
    (folder / "other").unlink()
print("done")
"""


def test_a_full_disk_is_foreseen_or_told(tmp_path: Path) -> None:
    """On a file system of 4 MB, in a mount namespace of its own."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    (tmp_path / "disk").mkdir()
    (tmp_path / "script.py").write_text(_ON_A_SMALL_DISK)
    commands = f"mount -t tmpfs -o size=4m tmpfs {tmp_path}/disk && {sys.executable} {tmp_path}/script.py {tmp_path}/disk"
    child = subprocess.run(["unshare", "-rm", "sh", "-c", commands], capture_output=True, text=True, check=False, timeout=120)
    assert child.stdout == "done\n", child.stderr


_STREAM = """
import pathlib, sys
import numpy as np
from lsfm_core.formats import OutputImage, check_output, open_sink
from lsfm_core.geometry import Space
path, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
components, dtype = (3, np.dtype("f4")) if kind == "vectors" else (1, np.dtype("u2"))
shape = (96, 512, 512) if kind == "vectors" else (152, 1024, 1024)
image = OutputImage(Space(shape, np.diag([0.01, 0.01, 0.01, 1])), dtype, kind, components)
axis = check_output(path, image, overwrite=False)
slab = [*shape, components][: 4 if components > 1 else 3]
slab[axis] = 8
voxels = np.random.default_rng(0).integers(0, 1000, slab).astype(dtype)
with open_sink(path, image, overwrite=False, threads=2) as sink:
    for _ in range(0, shape[axis], 8):
        sink.write(voxels)
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024 / 1e6, image.nbytes / 1e6)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "kind"), [(".ome.zarr", "image"), (".tif", "image"), (".nrrd", "image"), (".nii.gz", "vectors"), (".nii", "vectors")]
)
def test_memory_is_bounded(suffix: str, kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _STREAM, str(tmp_path / f"x{suffix}"), kind]
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert child.returncode == 0, child.stderr
    peak, size = map(float, child.stdout.split())
    assert size > 300
    assert peak < (360 if suffix == ".ome.zarr" else 200) < size + 100


# --- planes ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("colour", [False, True])
def test_planes_as_tiff(dtype: str, colour: bool, tmp_path: Path) -> None:
    plane = noise((5, 7, 3) if colour else (5, 7), dtype)
    write_plane(tmp_path / "x.tif", plane, pixel_size_mm=(0.02, 0.03), overwrite=False)
    with tifffile.TiffFile(tmp_path / "x.tif") as tiff:
        assert same(tiff.asarray(), plane)
        assert tiff.pages.first.photometric == (tifffile.PHOTOMETRIC.RGB if colour else tifffile.PHOTOMETRIC.MINISBLACK)
    if not colour and dtype in {"u1", "u2"}:
        # ITK turns the resolution into mm, x first.
        assert sitk.ReadImage(tmp_path / "x.tif").GetSpacing() == pytest.approx((0.03, 0.02))


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("colour", [False, True])
def test_planes_as_png(dtype: str, colour: bool, tmp_path: Path) -> None:
    plane = noise((5, 7, 3) if colour else (5, 7), dtype)
    # Neither contiguous nor in the machine's byte order.
    for name, variant in (("a.png", plane), ("b.PNG", plane[::-1]), ("c.png", plane.astype(plane.dtype.newbyteorder(">")))):
        write_plane(tmp_path / name, variant, pixel_size_mm=None, overwrite=False)
        (tmp_path / name).rename(tmp_path / "x.png")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "x.png")), variant)


def test_planes_are_refused_and_atomic(tmp_path: Path) -> None:
    for dtype in set(DTYPES) - {"u1", "u2"}:
        with pytest.raises(InputError, match=rf"{np.dtype(dtype)}.*\.tif"):
            write_plane(tmp_path / "x.png", np.zeros((2, 3), dtype), pixel_size_mm=None, overwrite=False)
    with pytest.raises(InputError, match=r"complex64"):
        write_plane(tmp_path / "x.tif", np.zeros((2, 3), "c8"), pixel_size_mm=None, overwrite=False)
    for shape in ((2,), (2, 3, 3, 1)):
        with pytest.raises(InputError, match="is no plane"):
            write_plane(tmp_path / "x.png", np.zeros(shape, "u1"), pixel_size_mm=None, overwrite=False)
    with pytest.raises(InputError, match="unknown format"):
        write_plane(tmp_path / "x.jpg", np.zeros((2, 3), "u1"), pixel_size_mm=None, overwrite=False)
    assert not content(tmp_path)
    write_plane(tmp_path / "x.png", np.zeros((2, 3), "u1"), pixel_size_mm=None, overwrite=False)
    before = content(tmp_path)
    with pytest.raises(ExistsError):
        write_plane(tmp_path / "x.png", np.ones((2, 3), "u1"), pixel_size_mm=None, overwrite=False)
    assert content(tmp_path) == before
    write_plane(tmp_path / "x.png", np.ones((2, 3), "u1"), pixel_size_mm=None, overwrite=True)
    assert content(tmp_path) != before
