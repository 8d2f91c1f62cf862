"""A file that is open detached: writers come and go, and its levels are what they were, or say that they are gone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lsfm_core import BusyError, ChecksumError, ChunkCache, LazyLevel, RepackRequest, StorageError, open_lsfm, repack_file
from lsfm_core.durable import Snapshot, _disk, journal_path, recover
from lsfm_core.store import edit_lsfm
from lsfm_core.testing import write_series

from . import children

Volume = np.ndarray[Any, np.dtype[np.uint16]]


@pytest.fixture
def path(series: Path, ingest_series: Callable[..., Any], tmp_path: Path) -> Path:
    """A file whose only channel, signal, is `volume`."""
    ingest_series(series)
    return tmp_path / "brain.h5"


def open_level(path: Path, channel: str = "signal") -> LazyLevel:
    """Level 0 of a channel, detached, and without memory of what it read."""
    return open_lsfm(path, cache=ChunkCache(0), detached=True)[channel].levels[0].data


def add_channel(path: Path, image: Path, name: str, ingest_series: Callable[..., Any], **fields: Any) -> None:
    ingest_series(image, path=path, channel=name, **fields)


def test_a_channel_is_added_while_planes_are_read(
    path: Path, series: Path, volume: Volume, ingest_series: Callable[..., Any]
) -> None:
    level = open_level(path)
    np.testing.assert_array_equal(level[0], volume[0])
    with edit_lsfm(path) as editor:
        editor.h5.create_dataset("big", data=np.arange(10**6))
        for number in range(300):
            editor.h5[f"group {number}"] = number
        editor.h5.flush()
        assert journal_path(path).stat().st_size > 4096, "or nothing has been overwritten yet"
        np.testing.assert_array_equal(level, volume)
        np.testing.assert_array_equal(open_level(path), volume)
        assert "big" not in open_lsfm(path, detached=True).h5
        assert len(level.written_chunks()) > 0 and level.stored_bytes > 0
    np.testing.assert_array_equal(level, volume)
    add_channel(path, series, "second", ingest_series)
    np.testing.assert_array_equal(level, volume)
    file = open_lsfm(path, detached=True)
    assert list(file) == ["signal", "second"] and "big" in file.h5


def test_what_a_writer_removes_is_there_until_it_is_done(path: Path, volume: Volume, tmp_path: Path) -> None:
    level = open_level(path)
    with edit_lsfm(path) as editor:
        editor.remove_channel("signal")
        editor.h5.flush()
        # HDF5 puts these where the chunks were.
        for number in range(40):
            editor.h5.create_dataset(f"junk {number}", data=np.full(50_000, number, np.uint8))
        editor.h5.flush()
        assert journal_path(path).stat().st_size > 10**6, "or no chunk was overwritten"
        np.testing.assert_array_equal(level, volume)
    with pytest.raises(StorageError, match=r"signal.* was removed or renamed since it was opened: open the file again"):
        np.asarray(level)


@pytest.mark.parametrize("compression", [0, 1])
def test_a_replaced_channel_is_never_taken_for_the_old_one(
    path: Path, volume: Volume, tmp_path: Path, ingest_series: Callable[..., Any], compression: int
) -> None:
    level = open_level(path)
    image = write_series(tmp_path / "other", volume[::-1])
    # In two steps: the second one's chunks lie where the first one's were.
    with edit_lsfm(path) as editor:
        editor.remove_channel("signal")
    add_channel(path, image, "signal", ingest_series, compression=compression)
    with pytest.raises(StorageError, match="was replaced since it was opened: open the file again"):
        np.asarray(level)
    np.testing.assert_array_equal(open_level(path), volume[::-1])


@pytest.mark.parametrize("end", ["error", "kill"])
def test_a_change_that_is_undone_was_never_seen(path: Path, volume: Volume, end: str) -> None:
    level = open_level(path)
    code = """
import os, sys
import numpy as np
from lsfm_core.store import edit_lsfm
with edit_lsfm(sys.argv[1]) as editor:
    editor.remove_channel("signal")
    editor.h5["junk"] = np.ones(10**6, np.uint8)
    editor.h5.flush()
    print("flushed", flush=True)
    sys.stdin.read()
    if sys.argv[2] == "kill":
        os._exit(9)
    raise RuntimeError
"""
    pipe = subprocess.PIPE
    with children.Popen([sys.executable, "-c", code, str(path), end], stdin=pipe, stdout=pipe, stderr=pipe) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"flushed\n"
        np.testing.assert_array_equal(level, volume)
        child.communicate()
    np.testing.assert_array_equal(level, volume)
    assert recover(path) == (end == "kill")
    np.testing.assert_array_equal(level, volume)


def test_a_file_that_waits_to_be_resumed_can_be_looked_at(path: Path, volume: Volume) -> None:
    code = """
import os, sys
from lsfm_core.store import edit_lsfm
with edit_lsfm(sys.argv[1], resume=True) as editor:
    editor.remove_channel("signal")
    editor.checkpoint(b"note")
    os._exit(9)
"""
    children.run([sys.executable, "-c", code, str(path)], check=False)
    with pytest.raises(BusyError, match="waits to be resumed"):
        open_lsfm(path)
    np.testing.assert_array_equal(open_level(path), volume)


@pytest.mark.slow
def test_many_threads_read_beside_a_writer(path: Path, volume: Volume) -> None:
    levels = [open_level(path)] * 2 + [open_level(path)]
    with edit_lsfm(path) as editor, ThreadPoolExecutor(6) as pool:
        for number in range(30):
            editor.h5.create_dataset(f"data {number}", data=np.full(10**5, number))
            editor.h5.flush()
            planes = [(level, plane) for level in levels for plane in range(0, len(volume), 9)]
            for (_, plane), found in zip(planes, pool.map(lambda pair: np.asarray(pair[0][pair[1]]), planes), strict=True):
                np.testing.assert_array_equal(found, volume[plane])


def test_a_writer_without_journal_is_told_apart(path: Path, volume: Volume) -> None:
    level = open_level(path)
    with h5py.File(path, "r+") as h5:
        h5["more"] = np.arange(10**6)
        h5.flush()
        with pytest.raises(BusyError, match="another program is writing to it"):
            np.asarray(level)
        with pytest.raises(BusyError, match="another program is writing to it"):
            open_lsfm(path, detached=True)
    np.testing.assert_array_equal(level, volume)


@pytest.mark.parametrize("options", [{}, {"chunks": (8, 8, 8), "compression": "lzf"}], ids=["contiguous", "foreign filter"])
def test_what_only_hdf5_can_decode_is_read_through_it(tmp_path: Path, volume: Volume, options: dict[str, Any]) -> None:
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as h5:
        h5["s00/resolutions"] = np.ones((1, 3))
        h5.create_dataset("t00000/s00/0/cells", data=volume, **options)
    level = open_level(path, "setup 0")
    with edit_lsfm(path) as editor:
        for number in range(300):
            editor.h5[f"group {number}"] = number
        editor.h5.flush()
        np.testing.assert_array_equal(level, volume)
    np.testing.assert_array_equal(level, volume)


def test_damage_is_still_found(path: Path) -> None:
    with h5py.File(path) as h5:
        offset = h5["LSFM/signal/IMAGE/0/cells"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(offset + 100)
        file.write(b"damage")
    with pytest.raises(ChecksumError, match="checksum"):
        np.asarray(open_level(path))


@pytest.mark.slow
def test_random_planes_under_a_busy_writer(path: Path, volume: Volume, tmp_path: Path) -> None:
    level = open_level(path)
    code = """
import sys
import numpy as np
from lsfm_core import BusyError, IngestRequest, ingest_channel
from lsfm_core.store import edit_lsfm
noise = np.random.default_rng(1)
print("go", flush=True)
for number in range(12):
    ingest_channel(IngestRequest(
        path=sys.argv[1], channel="other", image=noise.integers(0, 999, (40, 90, 100), dtype=np.uint16), replace=True,
        compression=number % 2, voxel_size_mm=(1, 1, 1), orientation="AIR"))
    if number % 3 == 0:
        with edit_lsfm(sys.argv[1]) as editor:
            editor.remove_channel("other")
"""
    rng = np.random.default_rng(0)
    with children.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        reads = 0
        while child.poll() is None:
            plane = rng.integers(len(volume))
            np.testing.assert_array_equal(level[plane], volume[plane])
            reads += 1
            time.sleep(0.002)
    assert child.returncode == 0, "a reader keeps no writer away"
    assert reads > 20


def test_python_may_end_while_levels_are_open(path: Path) -> None:
    code = "import sys, lsfm_core; level = lsfm_core.open_lsfm(sys.argv[1], detached=True)['signal'].levels[0]; level[0].read()"
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0


def test_a_repack_and_the_next_writer_while_it_is_opened(path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptor of the old file, and the journal of the new one, are not taken for one."""
    real = _disk.settled_generation
    with ExitStack() as stack:

        def late(file: Any, place: Path) -> Any:
            monkeypatch.setattr(_disk, "settled_generation", real)
            settled = real(file, place)
            repack_file(RepackRequest(path=path, compression=0))
            editor = stack.enter_context(edit_lsfm(path))
            editor.remove_channel("signal")
            editor.h5["junk"] = np.ones(10**6, np.uint8)
            editor.h5.flush()
            return settled

        monkeypatch.setattr(_disk, "settled_generation", late)
        level = open_level(path)
        with h5py.File(Snapshot.take(path), "r") as file:
            assert file["LSFM/signal/IMAGE/0/cells"].compression is None, "or it is the old file"
        np.testing.assert_array_equal(level, volume)
