"""A write completes, or the file is byte for byte what it was: errors, a full disk, kill -9."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsfm_core import StorageError, open_lsfm
from lsfm_core.durable import JournaledFile, journal_path, recover
from lsfm_core.store import edit_lsfm, verify_file
from lsfm_core.testing import write_series

from . import children


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def write_command(path: Path, image: Path, channel: str) -> list[str]:
    options = ["--voxel-size", "0.005,0.004,0.004", "--orientation", "AIR"]
    return [sys.executable, "-m", "lsfm_core.cli", "write", str(path), "--channel", channel, "--image", str(image), *options]


def die(file: JournaledFile) -> None:
    """As if killed: no commit, no rollback, only the operating system's close."""
    file._disk.shutdown()
    file._file.close()
    if file._base is not None:
        file._base.close()
    file._hold.release()


def test_an_error_inside_an_edit_restores_every_byte(series: Path, tmp_path: Path, ingest_series: Callable[..., Any]) -> None:
    ingest_series(series)
    before = files(tmp_path)

    def spoil() -> None:
        with edit_lsfm(tmp_path / "brain.h5") as file:
            del file.h5["LSFM/signal"]
            file.h5.create_dataset("junk", data=np.arange(10**6))
            file.h5.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        spoil()
    assert files(tmp_path) == before


# What a child does to a file that holds the channel "first", once it has said "go". The last two go on until they are killed.
_PREAMBLE = """
import sys, numpy
from lsfm_core import IngestRequest, ingest_channel
from lsfm_core.store import edit_lsfm
path, series = sys.argv[1:]
def ingest(**fields):
    request = IngestRequest(path=path, image=series, voxel_size_mm=(1, 1, 1), orientation="AIR", **fields)
    print("go", flush=True)
    ingest_channel(request)
def edit_forever(change):
    print("go", flush=True)
    for number in range(10**9):
        with edit_lsfm(path) as editor:
            change(editor, number)
"""
_CHANGES = {
    "add": "ingest(channel='second')",
    "make": "ingest(channel='second')",
    "replace": "ingest(channel='first', replace=True)",
    "affine": """
def change(editor, number):
    matrix = numpy.diag([number + 1.0, 1, 1, 1])
    editor.write_affine('first', 'a' * (1 + number % 50), matrix, (range(12), range(3)), True)
edit_forever(change)""",
    "metadata": "edit_forever(lambda editor, number: editor.set_metadata(f'key {number % 50}', 'x' * number, overwrite=True))",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", _CHANGES)
def test_a_killed_writer_loses_nothing(what: str, tmp_path: Path, volume: np.ndarray, ingest_series: Callable[..., Any]) -> None:
    """kill -9 at random moments; then the old bytes or the complete change, every checksum, and the next write."""
    new = np.tile(volume, (3, 1, 4))
    series = write_series(tmp_path / "series", new)
    path = tmp_path / "data" / "brain.h5"
    path.parent.mkdir()
    if what != "make":
        ingest_series(write_series(tmp_path / "first", volume), path=path, channel="first")
    before = files(path.parent)
    dice = random.Random(what)
    rolled_back = 0
    kills = int(os.environ.get("LSFM_KILLS", "3"))
    for kill in range(10 * kills):
        if kill >= kills and rolled_back:
            break  # on a busy machine the first ones may all come before the write begins
        command = [sys.executable, "-c", _PREAMBLE + _CHANGES[what], str(path), str(series)]
        with children.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"go\n"
            time.sleep(dice.uniform(0, 0.25))
            child.send_signal(signal.SIGKILL)
        if not path.exists():
            rolled_back += 1
            continue
        recover(path)
        if what in {"affine", "metadata"}:
            assert verify_file(path).defects == ()
            with open_lsfm(path) as file:
                np.testing.assert_array_equal(np.asarray(file["first"].levels[0][...]), volume)
            rolled_back += path.read_bytes() != before["brain.h5"]
        elif path.read_bytes() == before.get("brain.h5"):
            rolled_back += 1
        else:
            # Too late: the change is complete.
            assert verify_file(path).defects == ()
            with open_lsfm(path) as file:
                name = "first" if what == "replace" else "second"
                np.testing.assert_array_equal(np.asarray(file[name].levels[0][...]), new)
            restore(path.parent, before)
    assert rolled_back, "no kill hit a running write: change the delays"
    ingest_series(series, path=path, channel="third")
    assert verify_file(path).defects == ()


@pytest.mark.parametrize("committed", [True, False])
def test_the_xml_goes_with_the_change(
    committed: bool, tmp_path: Path, volume: np.ndarray, ingest_series: Callable[..., Any]
) -> None:
    """A writer dies just after its commit, or just before it, when the new XML is written already."""
    path = tmp_path / "brain.h5"
    ingest_series(write_series(tmp_path / "first", volume), path=path, channel="first")
    before = files(tmp_path)
    step = "os.replace" if committed else "durable.JournaledFile.commit"
    script = f"""
import os, sys
from lsfm_core import durable
from lsfm_core.store import edit, edit_lsfm
with edit_lsfm(sys.argv[1]) as editor:
    editor.rename_channel("first", "renamed")
    really = os.replace
    def die(*names):
        really(*names) if str(names[0]).endswith(".new") else os._exit(9)
    edit.{step} = die
"""
    assert children.run([sys.executable, "-c", script, str(path)], check=False).returncode == 9
    assert (tmp_path / "brain.xml.partial").exists()
    assert (tmp_path / "brain.xml").read_bytes() == before["brain.xml"]
    with open_lsfm(path) as file:
        assert list(file) == (["renamed"] if committed else ["first"])
    assert verify_file(path).defects == ()
    assert not (tmp_path / "brain.xml.partial").exists()
    assert ((tmp_path / "brain.xml").read_bytes() == before["brain.xml"]) is not committed


def restore(folder: Path, content: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, data in content.items():
        (folder / name).write_bytes(data)


def test_a_journal_undoes_every_kind_of_change(tmp_path: Path) -> None:
    """Overwrite, append and cut at random, die, recover: the bytes are back."""
    dice = random.Random(5)
    for _ in range(40):
        path = tmp_path / "x"
        old = dice.randbytes(dice.choice([0, 1, 4095, 4096, 50_000]))
        path.write_bytes(old)
        file = JournaledFile(path)
        for _ in range(dice.randrange(12)):
            if dice.random() < 0.15:
                file.truncate(dice.randrange(60_000))
            file.seek(dice.randrange(60_000))
            file.write(dice.randbytes(dice.randrange(1, 9000)))
        die(file)
        # A record cut short was not acted upon.
        if dice.random() < 0.3:
            with open(journal_path(path), "ab") as journal:
                journal.write(dice.randbytes(dice.randrange(32)))
        assert recover(path)
        assert path.read_bytes() == old
        assert not recover(path)
        path.unlink()


@pytest.mark.slow
def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path, volume: np.ndarray, ingest_series: Callable[..., Any]) -> None:
    """On a file system of a few MB, in a mount namespace of its own."""
    series = write_series(tmp_path / "series", np.tile(volume, (2, 1, 2)))
    ingest_series(write_series(tmp_path / "first", volume[:9]), channel="first")
    first = {name: data for name, data in files(tmp_path).items() if name in ("brain.h5", "brain.xml")}
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
set -e
mount -t tmpfs -o size=2m tmpfs {disk}
cp {tmp_path}/brain.h5 {tmp_path}/brain.xml {disk}
set +e
{" ".join(write_command(disk / "brain.h5", series, "second"))}; echo "code $?"
{" ".join(write_command(disk / "new.h5", series, "second"))}; echo "code $?"
{sys.executable} -m lsfm_core.cli export {disk}/brain.h5 --channel first --resolution 0.002 --output {disk}/x.nii; echo "code $?"
ls -A {disk}
cp -r {disk}/* {tmp_path}/after
"""
    (tmp_path / "after").mkdir()
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system allows no mount namespaces")
    run = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["code", "1", "code", "1", "code", "1", "brain.h5", "brain.h5-log", "brain.xml"], run.stderr
    # What an export takes is known before it begins.
    assert run.stderr.count("the disk is full") == 2 and run.stderr.count("make room") == 1
    assert "Traceback" not in run.stderr
    assert files(tmp_path / "after") == first


def test_a_file_that_needs_recovery_and_cannot_be_written_says_so(
    series: Path, tmp_path: Path, ingest_series: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest_series(series)
    path = tmp_path / "brain.h5"
    file = JournaledFile(path)
    file.write(b"changed")
    die(file)
    if os.geteuid() == 0:  # root may write everything, so take the file system's word away
        real = open
        monkeypatch.setattr("builtins.open", lambda f, mode="r", *a, **k: _refuse(f) if "+" in mode else real(f, mode, *a, **k))
    else:
        path.chmod(0o444)
    with pytest.raises(StorageError, match="interrupted write"):
        open_lsfm(path)


def _refuse(path: object) -> None:
    raise PermissionError(13, "Permission denied", path)


@pytest.mark.slow
def test_ctrl_c_undoes_and_says_so(tmp_path: Path, volume: np.ndarray) -> None:
    series = write_series(tmp_path / "series", np.tile(volume, (30, 1, 3)))
    for code in (signal.SIGINT, signal.SIGTERM):
        child = children.Popen(write_command(tmp_path / "brain.h5", series, "x"), stderr=subprocess.PIPE, text=True)
        while not list(tmp_path.glob("brain.h5*")):
            time.sleep(0.02)
        child.send_signal(code)
        message = child.communicate(timeout=30)[1]
        assert child.returncode == 130
        assert "interrupted; nothing was changed" in message
        assert not list(tmp_path.glob("brain*"))
