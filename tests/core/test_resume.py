"""An interrupted ingest goes on where it was, or is undone: as the user chooses."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from lsfm_core import (
    BusyError,
    CancelledError,
    CancelToken,
    ExistsError,
    IngestRequest,
    InputError,
    ingest_channel,
    open_lsfm,
)
from lsfm_core.cli import main
from lsfm_core.durable import checkpoint_path
from lsfm_core.durable._journal import Journal
from lsfm_core.formats.tiff import TiffSeries
from lsfm_core.records import FileRecord
from lsfm_core.testing import write_series

from . import children
from .test_ingest import assert_levels


@pytest.fixture
def tall() -> np.ndarray:
    """Many slabs of several levels: chunks are 64 planes thick."""
    return np.random.default_rng(1).integers(0, 65536, (400, 70, 70), dtype=np.uint16)


@pytest.fixture
def request_of(tmp_path: Path, tall: np.ndarray) -> Callable[..., IngestRequest]:
    series = write_series(tmp_path / "series", tall)

    def make(**fields: Any) -> IngestRequest:
        values = {"path": tmp_path / "data" / "brain.h5", "channel": "tall", "image": str(series), "voxel_size_mm": (1, 1, 1)}
        return IngestRequest(**{**values, "orientation": "AIR", "checkpoint_seconds": 1e-6, "resume": True, **fields})

    (tmp_path / "data").mkdir()
    return make


def interrupt(request: IngestRequest, share: float) -> None:
    token = CancelToken()

    def stop(stage: str, done: int, total: int) -> None:
        if done > share * total:
            token.cancel()

    with pytest.raises(CancelledError):
        ingest_channel(request, progress=stop, cancel=token)


def secured(path: Path) -> int:
    """Planes that the latest checkpoint holds."""
    found = Journal.open(checkpoint_path(path))
    found.close()
    planes: int = json.loads(found.header.note)["planes"]
    return planes


@pytest.fixture
def planes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    read = TiffSeries.read_plane

    def counted(self: TiffSeries, index: int, out: np.ndarray) -> FileRecord | None:
        seen.append(index)
        return read(self, index, out)

    monkeypatch.setattr(TiffSeries, "read_plane", counted)
    return seen


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("memory_bytes", [2 * 10**9, 150_000_000])
def test_going_on_redoes_no_finished_slab(
    existing: bool, memory_bytes: int, request_of: Callable[..., IngestRequest], tall: np.ndarray, planes_read: list[int]
) -> None:
    request = request_of(memory_bytes=memory_bytes, threads=1)
    if existing:
        ingest_channel(request_of(channel="first", resume=False))
    interrupt(request, 0.3)
    first = secured(request.path)
    interrupt(request, 0.9)
    second = secured(request.path)
    assert 0 < first < second
    planes_read.clear()
    ingest_channel(request)
    assert min(planes_read) == second
    assert len(planes_read) == len(set(planes_read))
    assert_levels(request.path, "tall", tall)
    with open_lsfm(request.path) as file:
        assert [record.name for record in file["tall"].sources] == [f"plane_{index:04d}.tif" for index in range(400)]
    assert main(["verify", str(request.path), "--levels"]) == 0
    assert sorted(path.name for path in request.path.parent.iterdir()) == ["brain.h5", "brain.settings.xml", "brain.xml"]


def test_a_file_that_waits_says_so_and_can_be_recovered(
    request_of: Callable[..., IngestRequest], capsys: pytest.CaptureFixture[str]
) -> None:
    ingest_channel(request_of(channel="first", resume=False))
    path = request_of().path
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    interrupt(request_of(), 0.5)
    with pytest.raises(BusyError, match="--resume"):
        open_lsfm(path)
    with pytest.raises(InputError, match="other options"):
        ingest_channel(request_of(compression=0))
    assert main(["recover", str(path)]) == 0
    assert "undone" in capsys.readouterr().out
    # Beside them is the log of what failed.
    assert {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()} == before
    assert main(["recover", str(path)]) == 0
    assert "nothing to undo" in capsys.readouterr().out


def test_a_write_that_does_not_resume_starts_anew(
    request_of: Callable[..., IngestRequest], tall: np.ndarray, planes_read: list[int]
) -> None:
    interrupt(request_of(), 0.5)
    planes_read.clear()
    ingest_channel(request_of(resume=False, compression=0))
    assert len(planes_read) == 400
    assert_levels(request_of().path, "tall", tall)
    assert sorted(file.name for file in request_of().path.parent.iterdir()) == ["brain.h5", "brain.settings.xml", "brain.xml"]


@pytest.mark.slow
@pytest.mark.parametrize("existing", [False, True])
def test_kill_9_and_go_on(existing: bool, request_of: Callable[..., IngestRequest], tall: np.ndarray) -> None:
    request = request_of()
    if existing:
        ingest_channel(request_of(channel="first", resume=False))
    script = f"from lsfm_core import *; ingest_channel(IngestRequest.model_validate_json({request.model_dump_json()!r}))"
    dice = random.Random(existing)
    for kill in range(20):
        child = children.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
        time.sleep(dice.uniform(0.02, 0.25))
        child.send_signal(signal.SIGKILL)
        message = child.communicate()[1]
        if child.returncode == 0 or b"exists already" in message:
            assert kill, "no kill hit a running ingest: change the delays"
            break
        assert child.returncode == -signal.SIGKILL, message
    else:
        with suppress(ExistsError):  # the last kill may have come just after the commit
            ingest_channel(request)
    assert_levels(request.path, "tall", tall)
    if existing:
        assert_levels(request.path, "first", tall)
    assert main(["verify", str(request.path), "--levels"]) == 0


def test_a_forgotten_part_beside_a_complete_file_goes(request_of: Callable[..., IngestRequest]) -> None:
    path = request_of().path
    ingest_channel(request_of())
    path.with_name("brain.h5.partial").write_bytes(b"old")
    before = path.read_bytes()
    assert main(["recover", str(path)]) == 0
    assert sorted(file.name for file in path.parent.iterdir()) == ["brain.h5", "brain.h5-log", "brain.settings.xml", "brain.xml"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", ["other voxels", "copied anew", "not read yet"])
def test_an_image_that_has_changed_since_is_not_mixed(
    change: str, request_of: Callable[..., IngestRequest], tall: np.ndarray, tmp_path: Path
) -> None:
    interrupt(request_of(), 0.5)
    done = secured(request_of().path)
    plane = 390 if change == "not read yet" else 3
    assert (plane < done) == (plane == 3)
    if change != "copied anew":
        tall[plane] += 1
        tifffile.imwrite(tmp_path / "one.tif", tall[plane])
        (tmp_path / "one.tif").replace(tmp_path / "series" / f"plane_{plane:04d}.tif")
    else:
        (tmp_path / "series" / "plane_0003.tif").touch()
    if change == "other voxels":
        with pytest.raises(InputError, match=r"plane_0003.tif has changed since .* leave out --resume"):
            ingest_channel(request_of())
        assert secured(request_of().path) == done
        ingest_channel(request_of(resume=False))
    else:
        ingest_channel(request_of())
    assert_levels(request_of().path, "tall", tall)


def test_one_file_that_has_changed_since_is_not_gone_on_with(
    request_of: Callable[..., IngestRequest], tall: np.ndarray, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", tall)
    interrupt(request_of(image=tmp_path / "stack.tif"), 0.5)
    (tmp_path / "stack.tif").touch()
    with pytest.raises(InputError, match="has changed since"):
        ingest_channel(request_of(image=tmp_path / "stack.tif"))
