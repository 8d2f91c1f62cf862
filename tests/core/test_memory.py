"""Peak resident size of whole commands, at four times the budget's size of data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from isal import igzip_threaded

BUDGET = 300_000_000
ALLOWED = BUDGET + 300_000_000


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(200, 400, shape, dtype=np.uint16)


def _series(folder: Path, planes: int, rows: int, columns: int) -> Path:
    """Planes most of which are links to the same few files."""
    for index, plane in enumerate(_noise(4, rows, columns)):
        tifffile.imwrite(folder / f"{index:04d}.tif", plane)
    for index in range(4, planes):
        os.link(folder / f"{index % 4:04d}.tif", folder / f"{index:04d}.tif")
    return folder


def _stack(folder: Path) -> Path:
    planes = _noise(4, 1024, 1024)
    with tifffile.TiffWriter(folder / "stack.tif", bigtiff=True) as tiff:
        for index in range(600):
            tiff.write(planes[index % 4], contiguous=False, compression="zlib" if index % 50 == 0 else None)
    return folder / "stack.tif"


def _nifti(folder: Path, shape: tuple[int, ...], dtype: type, intent: int) -> Path:
    """A compressed NIfTI, written without holding it."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_sform(np.diag([0.02, 0.02, 0.02, 1]), code=1)
    header["intent_code"] = intent
    header["vox_offset"] = 352
    values = np.arange(64, dtype=dtype).repeat(shape[0] * shape[1] // 64)
    with igzip_threaded.open(folder / "image.nii.gz", "wb", compresslevel=0, threads=2) as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(int(np.prod(shape[2:]))):
            file.write(values.tobytes())
    return folder / "image.nii.gz"


def _nrrd(folder: Path) -> Path:
    header = "NRRD0004\ntype: uint16\ndimension: 3\nsizes: 1024 1024 600\nencoding: gzip\nendian: little\n\n"
    with (folder / "image.nrrd").open("wb") as file:
        file.write(header.encode())
    plane = _noise(1, 1024, 1024).tobytes()
    with (folder / "image.nrrd").open("ab") as file, igzip_threaded.open(file, "wb", compresslevel=0, threads=2) as stream:
        for _ in range(600):
            stream.write(plane)
    return folder / "image.nrrd"


def _zarr(folder: Path) -> Path:
    array = zarr.create_array(folder / "image.zarr", shape=(600, 1024, 1024), chunks=(16, 256, 256), dtype=np.uint16)
    layer = _noise(64, 1024, 1024)
    for start in range(0, 600, 64):
        array[start : start + 64] = layer[: min(64, 600 - start)]
    return folder / "image.zarr"


INPUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "many planes": (lambda folder: _series(folder, 600, 1024, 1024), "image"),
    "large planes": (lambda folder: _series(folder, 50, 3500, 3500), "image"),
    "one stack": (_stack, "image"),
    "NRRD, gzip": (_nrrd, "image"),
    "Zarr": (_zarr, "image"),
    "labels, .nii.gz": (lambda folder: _nifti(folder, (1024, 1024, 300), np.uint32, 0), "labels"),
    "vectors, .nii.gz": (lambda folder: _nifti(folder, (512, 512, 400, 1, 3), np.float32, 1007), "vectors"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_ingest_keeps_its_budget(name: str, tmp_path: Path, peak_memory: Callable[..., int]) -> None:
    make, kind = INPUTS[name]
    path, folder = tmp_path / "brain.h5", tmp_path / "image"
    folder.mkdir()
    geometry = [] if "nii" in name else ["--voxel-size", "0.004,0.004,0.004", "--orientation", "AIR"]
    arguments = ["write", path, "--channel", "x", "--image", make(folder), "--kind", kind, *geometry, "--memory", BUDGET]
    assert peak_memory(*arguments) < ALLOWED
    if name == "many planes":
        output = tmp_path / "x.nii"
        export = ["export", path, "--channel", "x", "--output", output, "--memory", BUDGET, "--overwrite"]
        assert peak_memory(*export) < ALLOWED
        assert output.stat().st_size > 4 * BUDGET
        assert peak_memory(*export, "--resolution", "0.006", "--level", "0") < ALLOWED
    # Half of a run's temporary folders would stay on the disk otherwise.
    shutil.rmtree(folder)
    for file in (path, *tmp_path.glob("*.nii")):
        file.unlink()
