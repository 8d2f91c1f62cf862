"""Boxes of voxels, read from every kind of source: the same values as in the array that was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import zarr

from lsfm_core import IngestRequest, PlaneFunction, ingest_channel
from lsfm_core.errors import SourceError
from lsfm_core.formats import Source, _tiff_boxes
from lsfm_core.images import open_source

SHAPE = (9, 70, 90)


def _volume(dtype: Any = np.uint16, *more: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=(*SHAPE, *more)).astype(dtype)
    return rng.integers(0, 250, (*SHAPE, *more)).astype(dtype)


def _stack(**options: Any) -> Callable[[Path], tuple[Any, np.ndarray]]:
    def make(folder: Path) -> tuple[Any, np.ndarray]:
        volume = options.pop("volume", _volume())
        tifffile.imwrite(folder / "stack.tif", volume, **{"photometric": "minisblack", "contiguous": False, **options})
        # What JPEG makes of it is for tifffile to say.
        return folder / "stack.tif", tifffile.imread(folder / "stack.tif") if "jpeg" in options.values() else volume

    return make


def _series(**options: Any) -> Callable[[Path], tuple[Any, np.ndarray]]:
    def make(folder: Path) -> tuple[Any, np.ndarray]:
        volume = options.pop("volume", _volume())
        for index, plane in enumerate(volume):
            tifffile.imwrite(folder / f"z{index:03d}.tif", plane, **{"photometric": "minisblack", **options})
        return folder, volume

    return make


def _parts(folder: Path) -> tuple[Any, np.ndarray]:
    volume = _volume()
    for index, part in enumerate((volume[:4], volume[4:8], volume[8:])):
        tifffile.imwrite(folder / f"scan_{index:03d}.tif", part, tile=(32, 48), compression="zlib", photometric="minisblack")
    return folder, volume


def _sparse(folder: Path) -> tuple[Any, np.ndarray]:
    """Tiles that are not there read as zero."""
    volume = _volume()
    volume[:, :32, 32:64] = 0
    path = folder / "sparse.tif"
    tifffile.imwrite(path, volume, tile=(32, 32), compression="zlib", photometric="minisblack", contiguous=False)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for page in tiff.pages:
            for code in (324, 325):
                values = list(page.tags[code].value)
                values[1] = 0
                page.tags[code].overwrite(values)
    return path, volume


def _raw(ending: str, dtype: Any = np.int16) -> Callable[[Path], tuple[Any, np.ndarray]]:
    def make(folder: Path) -> tuple[Any, np.ndarray]:
        volume = _volume(dtype)
        image = sitk.GetImageFromArray(volume)
        sitk.WriteImage(image, str(folder / f"image.{ending}"), useCompression="gz" in ending or ending == "nrrd")
        return folder / f"image.{ending}", volume

    return make


def _scaled(folder: Path) -> tuple[Any, np.ndarray]:
    volume = _volume(np.int16).transpose(2, 1, 0)
    image = nibabel.Nifti1Image(volume, np.diag([0.01, 0.01, 0.01, 1]))
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, folder / "scaled.nii.gz")
    return folder / "scaled.nii.gz", (_volume(np.int16) * 0.5 + 3).astype(np.float32)


def _colours(folder: Path) -> tuple[Any, np.ndarray]:
    """One component after the other."""
    volume = _volume(np.float32, 3)
    image = nibabel.Nifti1Image(volume.transpose(2, 1, 0, 3)[:, :, :, None], np.diag([0.01, 0.01, 0.01, 1]))
    nibabel.save(image, folder / "colours.nii.gz")
    return folder / "colours.nii.gz", volume


def _npy(folder: Path) -> tuple[Any, np.ndarray]:
    volume = _volume(">u2")
    np.save(folder / "x.npy", volume)
    return folder / "x.npy", volume


def _mapped(folder: Path) -> tuple[Any, np.ndarray]:
    volume = _volume()
    np.save(folder / "x.npy", volume)
    return np.load(folder / "x.npy", mmap_mode="r"), volume


def _zarr(folder: Path) -> tuple[Any, np.ndarray]:
    volume = _volume()
    zarr.create_array(folder / "x.zarr", data=volume[None], chunks=(1, 4, 32, 16))
    return folder / "x.zarr", volume


def _hdf5(**options: Any) -> Callable[[Path], tuple[Any, np.ndarray]]:
    def make(folder: Path) -> tuple[Any, np.ndarray]:
        with h5py.File(folder / "x.h5", "w") as file:
            file.create_dataset("image", data=_volume(), **options)
        return folder / "x.h5", _volume()

    return make


def _dask(folder: Path) -> tuple[Any, np.ndarray]:
    return dask.array.from_array(_volume(), chunks=((2, 7), (30, 40), (50, 40))), _volume()


def _own(folder: Path) -> tuple[Any, np.ndarray]:
    request = IngestRequest(
        path=folder / "own.h5", channel="x", image=_volume(), voxel_size_mm=(0.01,) * 3, orientation="RAS", compression=1
    )
    ingest_channel(request)
    return folder / "own.h5", _volume()


def _grey(folder: Path) -> tuple[Any, np.ndarray]:
    volume = _volume(np.uint8)
    tifffile.imwrite(folder / "grey.tif", np.stack([volume] * 3, -1), photometric="rgb", tile=(32, 32), compression="lzw")
    return folder / "grey.tif", volume


def _function(folder: Path) -> tuple[Any, np.ndarray]:
    return PlaneFunction(SHAPE, np.uint16, iter(_volume())), _volume()


SOURCES: dict[str, Callable[[Path], tuple[Any, np.ndarray]]] = {
    "plain": _stack(),
    "plain, big-endian": _stack(byteorder=">", rowsperstrip=7),
    "ImageJ": _stack(imagej=True, contiguous=True, metadata={"axes": "ZYX"}),
    "strips": _stack(compression="zlib", predictor=True, rowsperstrip=11),
    "strips, big-endian": _stack(compression="lzw", rowsperstrip=16, byteorder=">"),
    "tiles": _stack(compression="zstd", tile=(32, 48)),
    "tiles as they are": _stack(tile=(32, 32)),
    "tiles, JPEG": _stack(volume=_volume(np.uint8), compression="jpeg", tile=(32, 32)),
    "bits": _stack(volume=_volume() > 100, rowsperstrip=16),
    "one strip": _stack(compression="zlib", rowsperstrip=70),
    "one strip, differences": _stack(compression="zlib", predictor=True, rowsperstrip=70, byteorder=">"),
    "one strip, floats": _stack(volume=_volume(np.float32), compression="zlib", predictor=3, rowsperstrip=70),
    "one strip of LZW": _stack(compression="lzw", rowsperstrip=70),
    "colours": _stack(volume=_volume(np.uint8, 3), photometric="rgb", tile=(32, 32), compression="zlib"),
    "colours in one strip": _stack(
        volume=_volume(np.uint8, 3), photometric="rgb", compression="zlib", predictor=2, rowsperstrip=70
    ),
    "colours, plane by plane": _series(
        volume=_volume(np.uint8, 3).transpose(0, 3, 1, 2), photometric="rgb", planarconfig="separate", rowsperstrip=16,
        compression="zlib",
    ),
    "series": _series(),
    "series of tiles": _series(tile=(32, 32), compression="zlib"),
    "series of one strip": _series(compression="zlib", rowsperstrip=70),
    "parts": _parts,
    "tiles left out": _sparse,
    "grey as colours": _grey,
    ".nii": _raw("nii"),
    ".nii.gz": _raw("nii.gz"),
    ".nii.gz, scaled": _scaled,
    ".nii.gz, components": _colours,
    ".nrrd": _raw("nrrd"),
    ".mha": _raw("mha"),
    ".npy": _npy,
    "memory": lambda folder: (_volume(), _volume()),
    "memory map": _mapped,
    "dask": _dask,
    "Zarr": _zarr,
    "HDF5": _hdf5(chunks=(4, 32, 16), compression="gzip"),
    "HDF5, whole": _hdf5(),
    "own": _own,
    "function": _function,
}  # fmt: skip


IN_ORDER = {
    "one strip", "one strip, differences", "one strip, floats", "colours in one strip", "series of one strip",
    ".nii.gz", ".nii.gz, scaled", ".nii.gz, components", ".nrrd",
}  # fmt: skip


def _boxes(source: Source) -> list[tuple[slice, slice, slice]]:
    """All of it, in pieces that are no units; in order, and of whole rows, where that has to be."""
    planes, rows, columns = source.shape
    in_order = source.rows_in_order or source.forward_only
    if in_order and source.unit[1] == rows:
        return [(slice(z, z + 1), slice(0, rows), slice(0, columns)) for z in range(planes)]
    deep, wide = (1, columns) if in_order else (4, 37)
    return [
        (slice(z, min(z + deep, planes)), slice(r, min(r + 23, rows)), slice(c, min(c + wide, columns)))
        for z in range(0, planes, deep)
        for r in range(0, rows, 23)
        for c in range(0, columns, wide)
    ]


@pytest.mark.parametrize("name", SOURCES)
def test_boxes_are_parts_of_the_image(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tiff_boxes, "_LARGEST_STRIP", 1000)
    image, volume = SOURCES[name](tmp_path)
    if name == "colours, plane by plane":
        volume = np.moveaxis(volume, 1, -1)
    kind = "components" if volume.ndim == 4 else "image"
    source = open_source(image, kind=kind)
    try:
        assert source.shape == SHAPE
        assert source.rows_in_order == (name in IN_ORDER)
        found = np.zeros(volume.shape, source.dtype)
        for box in _boxes(source):
            source.read_box((box[0].start, box[1].start, box[2].start), found[box])
        np.testing.assert_array_equal(found, volume)
        if isinstance(image, Path):
            # Every file that was read is told of once.
            records = [record for index in range(SHAPE[0]) if (record := source.plane_record(index)) is not None]
            names = [record.name for record in (*records, *source.file_records())]
            assert len(names) == len(set(names))
            assert names or image.suffix in (".h5", ".zarr")
    finally:
        source.close()


def test_the_unit_is_what_the_file_has(tmp_path: Path) -> None:
    for name, unit in {
        "plain": (1, 1, 1),
        "strips": (1, 11, 90),
        "tiles": (1, 32, 48),
        "one strip of LZW": (1, 70, 90),
        "parts": (1, 32, 48),
        "Zarr": (4, 32, 16),
        "dask": (7, 40, 50),
        "HDF5": (4, 32, 16),
        "grey as colours": (1, 32, 32),
        "function": (1, 70, 90),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        source = open_source(SOURCES[name](folder)[0])
        assert source.unit == unit, name
        source.close()


def test_a_damaged_tile_is_told(tmp_path: Path) -> None:
    path, _ = _stack(compression="zlib", tile=(32, 48), volume=_volume())(tmp_path)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[3].dataoffsets[1]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 30)
    source = open_source(path)
    out = np.empty((1, 32, 42), source.dtype)
    with pytest.raises(SourceError, match=r"stack\.tif: page 3 cannot be decoded, the file is damaged"):
        source.read_box((3, 0, 48), out)
    source.read_box((3, 32, 48), out)
    source.close()


def test_an_error_names_the_place_in_the_image(tmp_path: Path) -> None:
    volume = np.zeros(SHAPE, np.float32)
    volume[5, 60, 80] = 0.5
    source = open_source(volume, kind="labels")
    with pytest.raises(SourceError, match=r"plane 5 has the value 0\.5 at row 60, column 80"):
        source.read_box((4, 50, 70), np.empty((3, 15, 15), source.dtype))
