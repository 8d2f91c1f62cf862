"""Peak resident size of whole commands, of more data than is allowed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import zarr
from isal import igzip_threaded

from lsfm_core import IngestRequest, PlaneFunction, ingest_channel
from lsfm_core.cli import main

from .effort import exhaustive

BUDGET = 200_000_000
#: Below the least budget, what libraries take besides weighs most.
ALLOWED = BUDGET + 100_000_000


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(200, 400, shape, dtype=np.uint16)


def _series(folder: Path, planes: int, *size: int) -> Path:
    """Planes (rows, columns; or rows, columns, 3 of colours) most of which are links to the same few files."""
    for index, plane in enumerate(_noise(4, *size)):
        tifffile.imwrite(folder / f"{index:04d}.tif", plane)
    for index in range(4, planes):
        os.link(folder / f"{index % 4:04d}.tif", folder / f"{index:04d}.tif")
    return folder


def _stack(folder: Path) -> Path:
    planes = _noise(4, 1024, 1024)
    with tifffile.TiffWriter(folder / "stack.tif", bigtiff=True) as tiff:
        for index in range(168):
            tiff.write(planes[index % 4], contiguous=False, compression="zlib" if index % 50 == 0 else None)
    return folder / "stack.tif"


def _nifti(folder: Path, shape: tuple[int, ...], dtype: type, intent: int, step: float = 1) -> Path:
    """A compressed NIfTI, written without holding it."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_sform(np.diag([0.02, 0.02, 0.02, 1]), code=1)
    header["intent_code"] = intent
    header["vox_offset"] = 352
    values = (step * np.arange(64)).astype(dtype).repeat(shape[0] * shape[1] // 64)
    with igzip_threaded.open(folder / "image.nii.gz", "wb", compresslevel=0, threads=2) as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(int(np.prod(shape[2:]))):
            file.write(values.tobytes())
    return folder / "image.nii.gz"


def _nrrd(folder: Path) -> Path:
    header = "NRRD0004\ntype: uint16\ndimension: 3\nsizes: 1024 1024 168\nencoding: gzip\nendian: little\n\n"
    with (folder / "image.nrrd").open("wb") as file:
        file.write(header.encode())
    plane = _noise(1, 1024, 1024).tobytes()
    with (folder / "image.nrrd").open("ab") as file, igzip_threaded.open(file, "wb", compresslevel=0, threads=2) as stream:
        for _ in range(168):
            stream.write(plane)
    return folder / "image.nrrd"


def _zarr(folder: Path) -> Path:
    array = zarr.create_array(folder / "image.zarr", shape=(160, 1024, 1024), chunks=(16, 256, 256), dtype=np.uint16)
    layer = _noise(32, 64, 64).repeat(16, axis=1).repeat(16, axis=2)
    for start in range(0, 160, 32):
        array[start : start + 32] = layer
    return folder / "image.zarr"


INPUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "many planes": (lambda folder: _series(folder, 168, 1024, 1024), "image"),
    "large planes": (lambda folder: _series(folder, 14, 3500, 3500), "image"),
    "colours": (lambda folder: _series(folder, 56, 1024, 1024, 3), "image"),
    "one stack": (_stack, "image"),
    "NRRD, gzip": (_nrrd, "image"),
    "Zarr": (_zarr, "image"),
    "labels, .nii.gz": (lambda folder: _nifti(folder, (1024, 1024, 84), np.uint32, 0), "labels"),
    "vectors, .nii.gz": (lambda folder: _nifti(folder, (512, 512, 90, 1, 3), np.float32, 1007), "vectors"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_ingest_keeps_its_budget(name: str, tmp_path: Path, peak_memory: Callable[..., int]) -> None:
    make, kind = INPUTS[name]
    path, folder = tmp_path / "brain.h5", tmp_path / "image"
    folder.mkdir()
    geometry = [] if "nii" in name else ["--voxel-size", "0.004,0.004,0.004", "--orientation", "AIR"]
    arguments = ["write", path, "--channel", "x", "--image", make(folder), "--kind", kind, *geometry, "--memory", BUDGET]
    # To deflate them is the same for all.
    packing = [] if kind == "labels" else ["--compression-level", "0"]
    assert peak_memory(*arguments, *packing) < ALLOWED
    if name == "many planes":
        output = tmp_path / "x.nii"
        export = ["export", path, "--channel", "x", "--output", output, "--memory", BUDGET, "--overwrite"]
        assert peak_memory(*export) < ALLOWED
        assert output.stat().st_size > 1.7 * BUDGET
        assert peak_memory(*export, "--resolution", "0.01", "--level", "0") < ALLOWED
    # Half of a run's temporary folders would stay on the disk otherwise.
    shutil.rmtree(folder)
    for file in (path, *tmp_path.glob("*.nii")):
        file.unlink()


def _affine(path: Path) -> Path:
    """Turns about all axes by a few degrees, about the middle of the image."""
    turn = np.eye(4)
    turn[:3, :3] = np.array(sitk.Euler3DTransform((0, 0, 0), 0.1, -0.08, 0.12).GetMatrix()).reshape(3, 3)
    middle = np.array([2.0, 2.0, 1.2])
    turn[:3, 3] = middle - turn[:3, :3] @ middle
    np.savetxt(path, turn)
    return path


@pytest.mark.slow
def test_an_export_through_an_affine_and_a_field_keeps_its_budget(tmp_path: Path, peak_memory: Callable[..., int]) -> None:
    """520 MB of voxels; a field of 350 MB of vectors, stored, and as a file that is compressed."""
    path, folder = tmp_path / "brain.h5", tmp_path / "image"
    folder.mkdir()
    write = ["write", path, "--voxel-size", "0.0064,0.004,0.004", "--orientation", "SAR", "--quiet", "--compression-level", "0"]
    peak_memory(*write, "--channel", "x", "--image", _series(folder, 250, 1024, 1024))
    field = _nifti(tmp_path, (512, 512, 110, 1, 3), np.float32, 1007, step=0.002)
    with nibabel.openers.Opener(field) as file:
        assert int(np.prod(nibabel.Nifti1Header.from_fileobj(file).get_data_shape())) * 4 > 300e6
    peak_memory("write-field", path, "--channel", "field", "--image", field, "--quiet", "--compression-level", "0")
    shutil.rmtree(folder)
    box = ["--origin", "0.2,0.2,0.3", "--size", "3.6,3.6,1.2", "--resolution", "0.024", "--level", "0", "--no-antialias"]
    turn = _affine(tmp_path / "turn.txt")
    export = ["export", path, "--channel", "x", *box, "--memory", 250_000_000, "--quiet", "--transform", turn]
    for name in ("field", field):
        output = tmp_path / "x.nii"
        peak = peak_memory(*export, "--transform", name, "--output", output, "--overwrite")
        assert peak < 400_000_000
        assert np.asarray(nibabel.load(output).dataobj[75, 75]).min() >= 200
    for file in (path, field, output):
        file.unlink()


def _one_chunk(path: Path, size: int, layout: str) -> None:
    """A BigDataViewer file whose voxels, all of them 7, are one chunk."""
    options = {
        "packed": {"chunks": (size,) * 3, "compression": "gzip", "shuffle": True},
        "plain": {"chunks": (size,) * 3},
        "whole": {},
    }
    with h5py.File(path, "w") as file:
        cells = file.create_dataset("t00000/s00/0/cells", (size,) * 3, np.int16, **options[layout])
        if layout == "packed":
            packer = zlib.compressobj(1)
            # Shuffled: all low bytes, then all high ones.
            data = [packer.compress(byte * size**2) for byte in (b"\7", b"\0") for _ in range(size)]
            cells.id.write_direct_chunk((0, 0, 0), b"".join(data) + packer.flush())
        else:
            for plane in range(size):
                cells[plane] = np.full((size, size), 7, np.int16)
        file["s00/resolutions"] = np.ones((1, 3))
        file["s00/subdivisions"] = np.full((1, 3), size, np.int32)


def _commands(path: Path, folder: Path) -> dict[str, list[str]]:
    place = ["--voxel-size", "0.01,0.01,0.01", "--orientation", "RAS"]
    source = [str(path), "--channel", "setup 0", *place]
    return {
        "export": ["export", *source, "--output", str(folder / "x.nii"), "--overwrite"],
        "export-slices": ["export-slices", *source, "--range", "0,2,1", "--output", str(folder / "s_%d.tif"), "--overwrite"],
        "preview": ["preview", str(path), *place, "--output", str(folder / "x.png"), "--overwrite"],
        "verify": ["verify", str(path)],
    }


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["plain", "whole"])
def test_what_nothing_packs_is_read_in_pieces(layout: str, tmp_path: Path, peak_memory: Callable[..., int]) -> None:
    path = tmp_path / "one.h5"
    _one_chunk(path, 512, layout)
    assert path.stat().st_size > 2**28
    memory = ["--memory", "250000000"]
    commands = _commands(path, tmp_path)
    assert peak_memory(*commands["export"], *memory) < 300_000_000
    assert np.asarray(nibabel.load(tmp_path / "x.nii").dataobj[::64, 5]).min() == 7
    assert peak_memory(*commands["export-slices"], *memory) < 300_000_000
    assert tifffile.imread(tmp_path / "s_1.tif").min() == 7
    assert peak_memory(*commands["preview"]) < 450_000_000


@pytest.mark.slow
def test_a_chunk_that_is_too_large_to_decode_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], peak_memory: Callable[..., int]
) -> None:
    path = tmp_path / "one.h5"
    _one_chunk(path, 1024, "packed")
    assert path.stat().st_size < 20_000_000
    for name, words in _commands(path, tmp_path).items():
        tracemalloc.start()
        try:
            assert main([*words, "--quiet"]) == 1, name
            assert tracemalloc.get_traced_memory()[1] < 100_000_000
        finally:
            tracemalloc.stop()
        told = capsys.readouterr().err
        assert "1024 x 1024 x 1024" in told and "6.4 GB" in told and told.count("\n") == 1, told
    assert {file.name for file in tmp_path.iterdir()} <= {"one.h5", "one.h5-log"}
    path.unlink()
    _one_chunk(path, 400, "packed")
    words = _commands(path, tmp_path)["export"]
    assert main([*words, "--quiet", "--memory", "500MB"]) == 1
    assert "400 x 400 x 400" in capsys.readouterr().err
    assert peak_memory(*words, "--memory", "600000000") < 600_000_000
    assert np.asarray(nibabel.load(tmp_path / "x.nii").dataobj[::64, 5]).min() == 7


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An image and labels, each larger than the budget, of noise: the worst for whoever counts ids."""
    folder = tmp_path_factory.mktemp("large")
    path = folder / "brain.h5"
    for name, dtype, count in (("image", np.uint16, 110), ("labels", np.uint32, 56)):
        planes = np.random.default_rng(1).integers(1, 2000, (4, 1024, 1024)).astype(dtype)
        image = PlaneFunction((count, 1024, 1024), planes.dtype, (planes[index % 4] for index in range(count)), name=name)
        ingest_channel(
            IngestRequest(
                path=path, channel=name, image=image, kind=name, voxel_size_mm=(0.004,) * 3, orientation="AIR", compression=1
            )
        )
    yield path
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channel", "ending"),
    [exhaustive("image", "ome.zarr"), ("labels", "ome.zarr"), ("image", "nii.gz"), ("image", "nrrd"), ("image", "tif")],
)
def test_each_output_keeps_its_budget(
    channel: str, ending: str, large_file: Path, tmp_path: Path, peak_memory: Callable[..., int]
) -> None:
    output = tmp_path / f"x.{ending}"
    # OME-Zarr has a library of its own, and layers of chunks that are being filled.
    memory = 260_000_000 if ending == "ome.zarr" else 220_000_000
    assert peak_memory("export", large_file, "--channel", channel, "--output", output, "--memory", memory) < memory + 60_000_000
    if ending == "ome.zarr":
        shutil.rmtree(output)
    else:
        output.unlink()


def _result(path: Path, shape: tuple[int, int, int], value: int) -> None:
    """A labels NIfTI of a single value, nearly all of which is no more than the file's length, and zero."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint16)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with path.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        file.truncate(352 + 2 * int(np.prod(shape)))
        file.seek(352 + 2 * (shape[0] * shape[1] * 9 + shape[0] * 8 + 7))
        file.write(np.uint16(value).tobytes())


@pytest.mark.slow
@pytest.mark.parametrize("relabel", [False, True])
def test_a_merge_keeps_its_budget(
    relabel: bool, tmp_path: Path, peak_memory: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two results of 105 MB each, for an image of 210."""
    shape, half = (1024, 256, 400), 200
    rows = []
    for number in range(2):
        start = (0, 0, half * number)
        rows.append({"file": f"c{number}.nii.gz", "index_ras": (0, 0, number), "start": start, "shape": (*shape[:2], half)})
        _result(tmp_path / f"c{number}.nii", (*shape[:2], half), 5 + number)
    facts = {"format": "lsfm chunks", "version": 1, "name": "x", "kind": "labels", "shape": shape, "chunks": rows}
    (tmp_path / "manifest.json").write_text(json.dumps(facts | {"world_from_voxel": np.eye(4).tolist()}))
    output, words = tmp_path / "whole.nii", ["--relabel"] if relabel else []
    merge = ["merge", str(tmp_path), *words, "--output", str(output)]
    assert main([*merge, "--memory", "150MB", "--quiet"]) == 1
    assert "needs at least" in capsys.readouterr().err
    assert peak_memory(*merge, "--memory", "300MB") < 300_000_000
    whole = np.asarray(nibabel.load(output).dataobj)
    assert {tuple(map(int, place)): int(whole[tuple(place)]) for place in np.argwhere(whole)} == (
        {(7, 8, 9): 1, (7, 8, 209): 2} if relabel else {(7, 8, 9): 5, (7, 8, 209): 6}
    )
    for file in tmp_path.iterdir():
        file.unlink()


@pytest.mark.slow
def test_a_grid_of_zarr_keeps_its_budget(large_file: Path, tmp_path: Path, peak_memory: Callable[..., int]) -> None:
    """One chunk, as large as the image: its layers count."""
    output = tmp_path / "c_%d_%d_%d.ome.zarr"
    grid = ["--grid", "0,0,0", "--size", "5", "--output", str(output), "--channel", "labels"]
    assert peak_memory("export", large_file, *grid, "--memory", 260_000_000) < 320_000_000
    shutil.rmtree(tmp_path / "c_0_0_0.ome.zarr")


def _pattern(plane: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Repeats itself every 512 rows and columns but for the place of that square: such tiles are packed once."""
    square = (rows // 512 * 3 + columns // 512 * 5 + plane) % 4
    return (300 * square + rows % 512 // 4 + columns % 512 // 8).astype(np.uint16)


def _wide(path: Path, planes: int, rows: int, columns: int, layout: str) -> Path:
    """A TIFF of `_pattern`, made without holding a plane."""
    options: dict[str, dict[str, int | tuple[int, int]]] = {"tiles": {"tile": (512, 512)}, "one strip": {"rowsperstrip": rows}}

    def tiles(plane: int) -> Iterator[bytes]:
        packed: dict[int, bytes] = {}
        for row in range(0, rows, 512):
            for column in range(0, columns, 512):
                tile = _pattern(plane, np.arange(row, row + 512)[:, None], np.arange(column, column + 512))
                key = int(tile[0, 0])
                if key not in packed:
                    packed[key] = zlib.compress(tile.tobytes(), 1)
                yield packed[key]

    def strip(plane: int) -> Iterator[bytes]:
        packer = zlib.compressobj(1)
        yield (
            b"".join(
                packer.compress(_pattern(plane, np.arange(row, min(row + 512, rows))[:, None], np.arange(columns)).tobytes())
                for row in range(0, rows, 512)
            )
            + packer.flush()
        )

    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for plane in range(planes):
            data = tiles(plane) if layout == "tiles" else strip(plane)
            tiff.write(data, shape=(rows, columns), dtype=np.uint16, compression="zlib", contiguous=False, **options[layout])
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "planes", "rows", "columns", "memory"),
    [("tiles", 1, 22000, 22000, 300_000_000), ("one strip", 2, 16000, 6000, 200_000_000)],
)
def test_planes_may_be_larger_than_memory(
    layout: str, planes: int, rows: int, columns: int, memory: int, tmp_path: Path, peak_memory: Callable[..., int]
) -> None:
    """A plane of 970 MB within 300 MB; planes of 192 MB, which only a stream unpacks, within 200."""
    image = _wide(tmp_path / "x.tif", planes, rows, columns, layout)
    path = tmp_path / "x.h5"
    place = ["--voxel-size", "0.004,0.004,0.004", "--orientation", "AIR", "--quiet"]
    assert peak_memory("write", path, "--channel", "x", "--image", image, *place, "--memory", memory) < memory + 20_000_000
    with h5py.File(path) as file:
        cells = file["t00000/s00/0/cells"]
        last = planes - 1
        for plane, row, column in ((0, 0, 0), (last, rows - 700, columns - 700), (last, rows // 2, 0), (0, 400, columns - 300)):
            box = np.arange(row, min(row + 700, rows)), np.arange(column, min(column + 700, columns))
            found = cells[plane, box[0][0] : box[0][-1] + 1, box[1][0] : box[1][-1] + 1].view(np.uint16)
            np.testing.assert_array_equal(found, _pattern(plane, box[0][:, None], box[1]))
        # Of each block of planes, rows and columns its mean remains.
        factors = file["s00/resolutions"][:][:, ::-1].astype(int)
        level = len(factors) // 2
        a, b, c = factors[level]
        block = np.concatenate([_pattern(plane, np.arange(b)[:, None], np.arange(c)).ravel() for plane in range(min(a, planes))])
        assert file[f"t00000/s00/{level}/cells"][0, 0, 0] == np.rint(block.mean())
    path.unlink()
    image.unlink()


@pytest.mark.slow
def test_a_plane_need_not_fit_where_its_rows_stand_together(tmp_path: Path, peak_memory: Callable[..., int]) -> None:
    """Planes of 162 MB, within 200."""
    voxels = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint16, (2, 27000, 3000))
    for plane in range(2):
        voxels[plane] = _noise(2700, 3000).repeat(10, axis=0) + plane
    voxels.flush()
    path = tmp_path / "x.h5"
    place = ["--voxel-size", "0.004,0.004,0.004", "--orientation", "AIR", "--compression-level", "0"]
    assert peak_memory("write", path, "--channel", "x", "--image", tmp_path / "x.npy", *place, "--memory", BUDGET) < ALLOWED
    with h5py.File(path) as file:
        cells = file["t00000/s00/0/cells"]
        np.testing.assert_array_equal(cells[1, 26900:].view(np.uint16), voxels[1, 26900:])
        np.testing.assert_array_equal(cells[0, :50].view(np.uint16), voxels[0, :50])
    assert main(["verify", str(path), "--levels", "--quiet"]) == 0
    path.unlink()
    (tmp_path / "x.npy").unlink()


_MANY_VOXELS = """
import sys
from lsfm_core import ExportRequest, export_channel
from lsfm_core.resample import _resampled
_resampled._FEW_VOXELS = _resampled._FEW_VOXELS_STRAIGHT = 0
wanted = dict(zip(("path", "memory_bytes", "output"), sys.argv[1:]))
report = export_channel(ExportRequest(channel="x", resolution_mm=0.03, **wanted))
status = open("/proc/self/status").read()
print(int(report.plan.loops), report.plan.peak_bytes, int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


@pytest.mark.slow
def test_compiled_loops_count_as_memory_and_give_way_where_there_is_little(tmp_path: Path) -> None:
    """As if some hundred thousand voxels were many: what loops take does not depend on how many there are."""
    path = tmp_path / "brain.h5"
    image = _noise(60, 70, 80)
    ingest_channel(IngestRequest(path=path, channel="x", image=image, voxel_size_mm=(0.02, 0.02, 0.02), orientation="RAS"))
    images = []
    for budget, uses_loops in ((300_000_000, False), (600_000_000, True)):
        output = tmp_path / f"{budget}.nii"
        child = subprocess.run([sys.executable, "-c", _MANY_VOXELS, path, str(budget), output], capture_output=True, check=True)
        loops, planned, peak = map(int, child.stdout.split())
        assert (bool(loops), planned <= budget) == (uses_loops, True)
        assert peak < budget
        images.append(np.asarray(nibabel.load(output).dataobj))
    np.testing.assert_array_equal(*images)
