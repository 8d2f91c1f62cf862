"""From planes to a file: every level, for every slab height, and nothing left behind when it fails."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isal import igzip

from lsfm_core import (
    CancelledError,
    CancelToken,
    ExistsError,
    IngestRequest,
    InputError,
    LsfmError,
    MemoryBudgetError,
    SourceError,
    StorageError,
    ingest_channel,
    open_lsfm,
)
from lsfm_core.formats import Source
from lsfm_core.ingest._memory import MemoryNeeds, MemoryPlan
from lsfm_core.pyramid import Reducer, plan_levels
from lsfm_core.testing import write_series

from .effort import examples
from .test_pyramid import naive_mean

DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", "f2"]


def assert_levels(path: Path, channel: str, volume: np.ndarray) -> None:
    """Every level, read by h5py alone, is the straightforward block mean."""
    with h5py.File(path) as file:
        image = file[f"LSFM/{channel}/IMAGE"]
        for level in image.values():
            factors = tuple(int(f) for f in level.attrs["factors"])
            if volume.dtype.kind == "f":
                np.testing.assert_allclose(
                    level["cells"][...], naive_mean(volume, factors), rtol=1e-3 if volume.dtype == "f2" else 1e-6
                )
            else:
                np.testing.assert_array_equal(level["cells"][...], naive_mean(volume, factors))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_is_kept_and_every_level_is_the_block_mean(
    dtype: str, tmp_path: Path, volume: np.ndarray, ingest_series: Callable[..., Any]
) -> None:
    # Half floats end at 65504, and their steps are coarse.
    values = volume.view(np.int16) if np.dtype(dtype).kind == "i" else volume / 7 if dtype == "f2" else volume
    typed = values.astype(dtype)
    ingest_series(write_series(tmp_path / "typed", typed))
    assert_levels(tmp_path / "brain.h5", "signal", typed)
    with open_lsfm(tmp_path / "brain.h5") as file:
        assert file["signal"].dtype == np.dtype(dtype)
        np.testing.assert_array_equal(np.asarray(file["signal"].levels[0][...]), typed)


def test_the_real_specimen(brain_data: Path, brain_file: Path) -> None:
    planes = sorted((brain_data / "structural_tiff").iterdir())
    volume = np.stack([tifffile.imread(plane) for plane in planes])
    assert_levels(brain_file, "autofluo", volume)
    with open_lsfm(brain_file) as file:
        channel = file["autofluo"]
        assert channel.orientation is not None
        assert channel.orientation.axcodes == "AIR"
        assert len(channel.sources) == 270
        assert channel.sources[7].size == planes[7].stat().st_size


class Chunked:
    """An array that tells of chunks, and counts the voxels of those that were read."""

    def __init__(self, array: np.ndarray, chunks: tuple[int, int, int]) -> None:
        self._array = array
        self.shape, self.dtype, self.chunks = array.shape, array.dtype, chunks
        self.read = 0

    def __getitem__(self, index: Any) -> np.ndarray:
        box = (*index, *[slice(None)] * 3)[:3]
        ends = [part.indices(n)[:2] for part, n in zip(box, self.shape, strict=True)]
        self.read += math.prod(
            min(-(-b // c) * c, n) - a // c * c for (a, b), c, n in zip(ends, self.chunks, self.shape, strict=True)
        )
        return self._array[index]


@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(1, 70)),
    voxel=st.tuples(*[st.sampled_from([1.0, 1.7, 2.0, 3.0, 9.0])] * 3),
    chunk_bytes=st.sampled_from([64, 512, 4096]),
    unit=st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40)),
    way=st.integers(0, 400),
    ease=st.integers(0, 40),
)
@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_slabs_leave_no_seam(
    shape: tuple[int, int, int],
    voxel: tuple[float, float, float],
    chunk_bytes: int,
    unit: tuple[int, int, int] | None,
    way: int,
    ease: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Any chunking, read in planes or boxes, with slabs in memory, in scratch files or in the source, gives the same levels."""
    volume = np.random.default_rng(5).integers(0, 65536, shape, dtype=np.uint16)
    image = volume if unit is None else Chunked(volume, unit)
    chosen: list[MemoryPlan] = []

    def plan(source: Source, reduce: Reducer, levels: Any, threads: int, budget: int) -> MemoryPlan:
        needs = MemoryNeeds(source, reduce, levels, threads)
        ways = [needs.start(), *needs.elsewhere()]
        plans = list(needs.eased(ways[way % len(ways)]))
        assert all(needs.need(plan) >= needs.floor(plans[0]) for plan in plans)
        chosen.append(plans[ease % len(plans)])
        return chosen[0]

    with monkeypatch.context() as patch:
        patch.setattr("lsfm_core.pyramid.COARSEST_SIZE", 9)
        patch.setattr("lsfm_core.ingest.plan.plan_levels", lambda s, v, i: plan_levels(s, v, i, chunk_bytes))
        patch.setattr("lsfm_core.ingest.plan.plan_memory", plan)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.h5"
        ingest_channel(IngestRequest(path=path, channel="x", image=image, voxel_size_mm=voxel, orientation="RAS"))
    assert_levels(path, "x", volume)
    if isinstance(image, Chunked) and chosen[0].boxes is not None:
        assert image.read == pytest.approx(chosen[0].amplification * volume.size)


def _stored(path: Path) -> dict[str, Any]:
    """All that a file holds of its only channel, but for names and times."""
    found: dict[str, Any] = {}

    def look(name: str, node: h5py.Group | h5py.Dataset) -> None:
        name = re.sub(r"[0-9a-f]{32}", "uuid", name)
        found.update({f"{name}@{key}": value for key, value in node.attrs.items() if key != "uuid"})
        if isinstance(node, h5py.Dataset) and not name.startswith("log/") and name != "LSFM_DIGESTS/structure":
            found[name] = node[()]
            found[f"{name}@chunks"] = node.chunks

    with h5py.File(path) as file:
        file.visititems(look)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("form", ["series", "tiles", "nii.gz"])
def test_a_small_budget_gives_the_same_file(form: str, tmp_path: Path, ingest_series: Callable[..., Any]) -> None:
    volume = np.random.default_rng(3).integers(0, 4000, (70, 600, 700), dtype=np.uint16)
    image = tmp_path / f"x.{'nii.gz' if form == 'nii.gz' else 'tif'}"
    if form == "series":
        image = write_series(tmp_path / "series", volume)
    elif form == "nii.gz":
        nifti = nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.diag([0.004, 0.004, 0.005, 1]))
        image.write_bytes(igzip.compress(nifti.to_bytes(), compresslevel=0))
    else:
        tifffile.imwrite(image, volume, photometric="minisblack", contiguous=False, tile=(256, 256))
    reports = []
    for name, memory in (("large", 4_000_000_000), ("small", 140_000_000)):
        reports.append(ingest_series(image, path=tmp_path / f"{name}.h5", memory_bytes=memory, threads=1))
    large, small = (_stored(tmp_path / f"{name}.h5") for name in ("large", "small"))
    assert large.keys() == small.keys()
    for name, value in large.items():
        np.testing.assert_array_equal(small[name], value, err_msg=name)
    assert reports[0].written.checksum == reports[1].written.checksum
    np.testing.assert_array_equal(large["LSFM/signal/IMAGE/0/cells"].view(np.uint16), volume)


def test_too_small_a_budget_says_how_much_is_needed(series: Path, ingest_series: Callable[..., Any]) -> None:
    with pytest.raises(MemoryBudgetError, match=r"needs at least \d+ MB"):
        ingest_series(series, memory_bytes=50_000_000)


def test_a_second_channel_joins_the_first(
    series: Path, volume: np.ndarray, tmp_path: Path, ingest_series: Callable[..., Any]
) -> None:
    ingest_series(series)
    ingest_series(series, channel="kanał µ", orientation="RAS")
    with open_lsfm(tmp_path / "brain.h5") as file:
        assert list(file) == ["signal", "kanał µ"]
        assert [file[name].setup for name in file] == [0, 1]
        for name in file:
            np.testing.assert_array_equal(np.asarray(file[name].levels[0][...]), volume)
    assert not list(tmp_path.glob("*journal*"))
    assert not list(tmp_path.glob("*partial*"))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zlib"},
        {"compression": "lzw", "predictor": True},
        {"compression": "zstd"},
        {"tile": (64, 64)},
        {"rowsperstrip": 7},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"photometric": "miniswhite"},
    ],
)
def test_tiffs_of_all_makes(options: dict[str, Any], tmp_path: Path, volume: np.ndarray, ingest_series: Callable[..., Any]) -> None:
    series = write_series(tmp_path / "made", volume[:5], **options)
    ingest_series(series)
    expected = np.stack([tifffile.imread(plane) for plane in sorted(series.iterdir())])
    with open_lsfm(tmp_path / "brain.h5") as file:
        np.testing.assert_array_equal(np.asarray(file["signal"].levels[0][...]), expected)


def test_planes_come_in_natural_order(tmp_path: Path, volume: np.ndarray, ingest_series: Callable[..., Any]) -> None:
    series = write_series(tmp_path / "natural", volume[:12], "Z{}.tif")
    for image in (series, series / "Z3.tif", series / "Z*.tif", series / "Z%d.tif"):
        (tmp_path / "brain.h5").unlink(missing_ok=True)
        ingest_series(image)
        with open_lsfm(tmp_path / "brain.h5") as file:
            np.testing.assert_array_equal(np.asarray(file["signal"].levels[0][...]), volume[:12])
            assert file["signal"].sources[10].name == "Z10.tif"


def test_one_channel_among_several_is_named_by_one_file_or_a_pattern(
    tmp_path: Path, volume: np.ndarray, ingest_series: Callable[..., Any]
) -> None:
    folder = tmp_path / "two"
    write_series(folder, volume[:3], "C01_Z{:03d}.tif")
    write_series(folder, volume[3:6], "C02_Z{:03d}.tif")
    with pytest.raises(InputError, match="2 numbers"):
        ingest_series(folder)
    for image in (folder / "C02_Z000.tif", folder / "C02_Z%03d.tif", folder / "C02*.tif"):
        (tmp_path / "brain.h5").unlink(missing_ok=True)
        ingest_series(image)
        with open_lsfm(tmp_path / "brain.h5") as file:
            np.testing.assert_array_equal(np.asarray(file["signal"].levels[0][...]), volume[3:6])


def test_series_that_count_in_steps_are_whole(tmp_path: Path, volume: np.ndarray, ingest_series: Callable[..., Any]) -> None:
    folder = tmp_path / "steps"
    folder.mkdir()
    for index in range(6):
        tifffile.imwrite(folder / f"{index * 20:06d}.tif", volume[index])
    assert ingest_series(folder).space.shape[0] == 6
    (folder / "000060.tif").unlink()
    with pytest.raises(SourceError, match="number 60"):
        ingest_series(folder, channel="again")


# --- bad input ------------------------------------------------------------------------------------------------------------------


def _truncate(series: Path) -> None:
    plane = series / "plane_0020.tif"
    os.truncate(plane, plane.stat().st_size - 100)


def _replace(array: np.ndarray, **options: Any) -> Callable[[Path], None]:
    return lambda series: tifffile.imwrite(series / "plane_0020.tif", array, **options)


DEFECTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (_truncate, r"plane_0020\.tif: is cut short"),
    "empty": (lambda s: (s / "plane_0020.tif").write_bytes(b""), r"plane_0020\.tif"),
    "no TIFF": (lambda s: (s / "plane_0020.tif").write_text("no picture"), r"plane_0020\.tif"),
    "another shape": (_replace(np.zeros((301, 84), np.uint16)), r"plane_0020\.tif: is 301 x 84"),
    "the same size, another shape": (_replace(np.zeros((83, 301), np.uint16)), r"plane_0020\.tif: is 83 x 301"),
    "another type": (_replace(np.zeros((301, 83), np.uint8)), r"plane_0020\.tif: is 301 x 83 uint8"),
    "the same size, another type": (_replace(np.zeros((301, 83), np.int16)), r"plane_0020\.tif: is 301 x 83 int16"),
    "colour": (_replace(np.zeros((301, 83, 3), np.uint8), photometric="rgb"), r"plane_0020\.tif: is 301 x 83 x 3 uint8, but"),
    "missing": (lambda s: (s / "plane_0020.tif").unlink(), "number 20"),
    "several missing": (lambda s: [(s / f"plane_00{n}.tif").unlink() for n in (20, 21, 30)] and None, "3 plane"),
    "nothing": (lambda s: [plane.unlink() for plane in s.iterdir()] and None, "no .tif"),
}


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("existing", [False, True])
def test_bad_planes_are_named_and_nothing_is_left_or_changed(
    defect: str, existing: bool, series: Path, volume: np.ndarray, tmp_path: Path, ingest_series: Callable[..., Any]
) -> None:
    damage, message = DEFECTS[defect]
    if existing:
        ingest_series(write_series(tmp_path / "other", volume[:4]), channel="first")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    damage(series)
    with pytest.raises(LsfmError, match=message):
        ingest_series(series)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"voxel_size_mm": (0, 1, 1)}, "voxel size"),
        ({"voxel_size_mm": (1, 1)}, "voxel_size, value 3: is missing"),
        ({"orientation": "AIX"}, "AIX"),
        ({"orientation": "AAR"}, "AAR"),
        ({"channel": "a/b"}, "'a/b'"),
        ({"channel": ""}, "channel: is empty"),
        ({"image": "/does/not/exist"}, "/does/not/exist"),
        ({"image": "/does/not/exist_%03d.tif"}, "no folder"),
        ({"compression": 4}, "compression"),
        ({"threads": 0}, "threads"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_bad_requests_are_explained(fields: dict[str, Any], message: str, series: Path, tmp_path: Path) -> None:
    good = {"path": tmp_path / "brain.h5", "channel": "x", "image": str(series), "voxel_size_mm": (1, 1, 1), "orientation": "AIR"}
    with pytest.raises(InputError, match=message):
        ingest_channel(IngestRequest(**{**good, **fields}))
    assert not (tmp_path / "brain.h5").exists()


def test_all_defects_of_a_request_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        IngestRequest(path=tmp_path, channel="a/b", voxel_size_mm=(0, 1, 1), orientation="AAR")
    assert all(word in str(caught.value) for word in ("a/b", "voxel size", "AAR", "image: is missing"))


def test_a_channel_that_exists_is_not_touched(series: Path, tmp_path: Path, ingest_series: Callable[..., Any]) -> None:
    ingest_series(series)
    before = (tmp_path / "brain.h5").read_bytes()
    with pytest.raises(ExistsError, match="'signal' exists already"):
        ingest_series(series)
    assert (tmp_path / "brain.h5").read_bytes() == before


def test_other_files_are_not_overwritten(series: Path, tmp_path: Path, ingest_series: Callable[..., Any]) -> None:
    (tmp_path / "brain.h5").write_text("my notes")
    with pytest.raises(LsfmError, match="not an HDF5 file"):
        ingest_series(series)
    assert (tmp_path / "brain.h5").read_text() == "my notes"
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["mine"] = 1
    before = (tmp_path / "other.h5").read_bytes()
    with pytest.raises(LsfmError, match="neither /LSFM nor"):
        ingest_series(series, path=tmp_path / "other.h5")
    assert (tmp_path / "other.h5").read_bytes() == before


def test_folders_that_cannot_be_written(series: Path, ingest_series: Callable[..., Any]) -> None:
    with pytest.raises(StorageError, match="no folder"):
        ingest_series(series, path="/nowhere/brain.h5")
    with pytest.raises(StorageError, match="opened for writing"):
        ingest_series(series, path="/proc/brain.h5")


def test_cancelling_leaves_nothing(series: Path, tmp_path: Path) -> None:
    token = CancelToken()
    seen = []

    def progress(stage: str, done: int, total: int) -> None:
        seen.append((stage, done, total))
        if done > total // 2:
            token.cancel()

    request = IngestRequest(path=tmp_path / "brain.h5", channel="x", image=str(series), voxel_size_mm=(1, 1, 1), orientation="AIR")
    with pytest.raises(CancelledError):
        ingest_channel(request, progress=progress, cancel=token)
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []
    assert seen[0] == ("ingest", 0, 37 * 301 * 83 * 2)


def test_progress_reaches_the_end(series: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    request = IngestRequest(path=tmp_path / "brain.h5", channel="x", image=str(series), voxel_size_mm=(1, 1, 1), orientation="AIR")
    ingest_channel(request, progress=lambda stage, done, total: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == 37 * 301 * 83 * 2


def test_odd_geometry_is_warned_of(series: Path, ingest_series: Callable[..., Any]) -> None:
    assert not ingest_series(series).warnings
    assert "mirror" in ingest_series(series, channel="b", orientation="AIL").warnings[0]
    assert "large" in ingest_series(series, channel="c", voxel_size_mm=(50, 40, 40)).warnings[0]
