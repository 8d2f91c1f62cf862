"""The plan of an ingest: what it says comes true, what it refuses would fail, and it leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsfm_core import IngestRequest, LsfmError, MemoryBudgetError, edit_lsfm, ingest_channel, open_lsfm, plan_ingest
from lsfm_core.formats.tiff import TiffSeries
from lsfm_core.testing import write_series

VOXELS = np.random.default_rng(2).integers(0, 65536, (40, 300, 70), dtype=np.uint16)


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., IngestRequest]:
    series = write_series(tmp_path / "series", VOXELS)

    def make(**fields: Any) -> IngestRequest:
        values = {"path": tmp_path / "data" / "brain.h5", "channel": "a", "image": str(series), "voxel_size_mm": (0.05, 0.04, 0.04)}
        return IngestRequest(**{**values, "orientation": "AIR", **fields})

    (tmp_path / "data").mkdir()
    return make


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_a_plan_comes_true_and_leaves_no_trace(
    request_of: Callable[..., IngestRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(TiffSeries, "read_plane", None)
        plan = plan_ingest(request_of())
    assert state(tmp_path) == before
    assert plan.makes == "file"
    report = ingest_channel(request_of())
    assert (plan.dtype, plan.levels, plan.raw_bytes) == (report.dtype, report.levels, report.raw_bytes)
    np.testing.assert_array_equal(plan.space.world_from_voxel, report.space.world_from_voxel)
    assert plan.memory.peak_bytes < request_of().memory_bytes
    with open_lsfm(request_of().path) as file:
        # A reader, with whom a writer could not begin.
        assert plan_ingest(request_of(channel="b")).makes == "channel"
        assert plan_ingest(request_of(replace=True)).makes == "replacement"
        assert [level.shape for level in file["a"].levels] == [level.shape for level in plan.levels]
    text = plan.describe()
    for part in (
        "TIFF series",
        "which is made",
        "40 x 300 x 70 voxels of 0.05 x 0.04 x 0.04 mm, uint16",
        "posterior -> anterior",
        "level 1",
    ):
        assert part in text, part
    assert "times on the average" not in text


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"channel": "b", "voxel_size_mm": None},
        {"channel": "b", "orientation": None},
        {"channel": "b", "memory_bytes": 10**6},
        {"channel": "b", "image": "nowhere"},
        {"channel": "b", "image_channel": 3},
        {"channel": "b", "kind": "labels", "labels": "nowhere.txt"},
        {"channel": "f", "image": np.zeros((3, 3, 3, 3), np.float32), "kind": "vectors", "inverse_of": "a"},
        {"channel": "f", "image": np.zeros((3, 3, 3, 3), np.float32), "kind": "vectors", "inverse_of": "none"},
        {"path": "nowhere/brain.h5"},
        {"path": __file__},
        {"metadata": "nowhere.json"},
    ],
)
def test_a_plan_fails_as_its_ingest_would(fields: dict[str, Any], request_of: Callable[..., IngestRequest], tmp_path: Path) -> None:
    ingest_channel(request_of())
    before = state(tmp_path)
    with pytest.raises(LsfmError) as planned:
        plan_ingest(request_of(**fields))
    assert state(tmp_path) == before
    with pytest.raises(LsfmError) as tried:
        ingest_channel(request_of(**fields))
    assert type(planned.value) is type(tried.value)
    assert str(planned.value) == str(tried.value)


def test_the_checksum_of_a_channel_tells_its_content(request_of: Callable[..., IngestRequest], tmp_path: Path) -> None:
    def checksum(name: str, **fields: Any) -> str | None:
        return ingest_channel(request_of(path=tmp_path / "data" / f"{name}.h5", **fields)).written.checksum

    first = checksum("first")
    assert first is not None
    assert first.startswith("chunks:")
    assert checksum("other threads", threads=1, memory_bytes=170_000_000) == first
    assert checksum("other level", compression=3) == first
    assert checksum("other space", orientation="AIL") != first
    changed = VOXELS.copy()
    changed[-1, -1, -1] ^= 1
    assert checksum("other voxel", image=changed) != first
    assert checksum("moved", image=np.roll(VOXELS, 64, axis=1)) != first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("new.xml", r"new\.xml: no such file: name the HDF5 file, .*new\.h5"),
        ("brain.tif", r"brain\.tif: is no name of an HDF5 file: it ends in \.h5 or \.hdf5"),
        ("brain", "is no name of an HDF5 file"),
        ("folder.h5", "is a folder, not a file"),
        ("lost.xml", r"its HDF5 file brain\.h5 is missing"),
    ],
)
def test_a_name_that_no_file_can_have(
    name: str, message: str, request_of: Callable[..., IngestRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.h5").mkdir()
    ingest_channel(request_of())
    (tmp_path / "data" / "brain.xml").rename(tmp_path / "lost.xml")
    before = state(tmp_path)
    for attempt in (plan_ingest, ingest_channel):
        with pytest.raises(LsfmError, match=message):
            attempt(request_of(path=tmp_path / name))
    with pytest.raises(LsfmError, match=message), edit_lsfm(tmp_path / name):
        pass
    assert state(tmp_path) == before


@pytest.mark.parametrize("name", ["brain.H5", "brain.hdf5"])
def test_an_xml_stands_for_its_file(name: str, request_of: Callable[..., IngestRequest], tmp_path: Path) -> None:
    path, xml = tmp_path / "data" / name, tmp_path / "data" / "brain.xml"
    ingest_channel(request_of(path=path))
    assert plan_ingest(request_of(path=xml, channel="b")).path == path
    assert ingest_channel(request_of(path=xml, channel="b")).path == path
    with open_lsfm(path) as file:
        assert list(file) == ["a", "b"]
        # The one record of each is in the file.
        assert [(record.operation, record.channel) for record in file.log()] == [("write", "a"), ("write", "b")]


def test_a_file_of_another_name_can_get_a_channel(request_of: Callable[..., IngestRequest], tmp_path: Path) -> None:
    ingest_channel(request_of())
    path = (tmp_path / "data" / "brain.h5").rename(tmp_path / "data" / "brain.bdv")
    ingest_channel(request_of(path=path, channel="b"))
    with open_lsfm(path) as file:
        assert list(file) == ["a", "b"]


class _Planned:
    """An array that is only planned for."""

    def __init__(self, shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
        self.shape, self.dtype, self.chunks = shape, np.dtype(np.uint16), chunks

    def __getitem__(self, index: object) -> np.ndarray:
        raise AssertionError("a plan reads no voxel")


def test_the_plan_says_what_little_memory_costs(tmp_path: Path) -> None:
    fields = {"path": tmp_path / "x.h5", "channel": "x", "voxel_size_mm": (0.004,) * 3, "orientation": "AIR"}
    for chunks, words in (((64, 64, 64), None), ((1, 8, 30000), None), ((100, 100, 100), "is read 1.5 times on the average")):
        request = IngestRequest(image=_Planned((200, 30000, 30000), chunks), memory_bytes=300_000_000, **fields)
        plan = plan_ingest(request)
        assert plan.memory.peak_bytes <= 300_000_000
        assert (words in plan.describe()) if words else ("on the average" not in plan.describe())
    whole = IngestRequest(image=_Planned((200, 30000, 30000), (1, 30000, 30000)), memory_bytes=300_000_000, **fields)
    with pytest.raises(MemoryBudgetError, match=r"needs at least \d\.\d GB of memory.* 1 x 30000 x 30000 voxels .*\(--memory\)"):
        plan_ingest(whole)
