"""What people, networks and disks do to a file in the middle of a change: nothing is applied, or dropped, on a guess."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lsfm_core import BusyError, InputError, RepackRequest, UnfinishedError, open_lsfm, repack_file
from lsfm_core.cli import main
from lsfm_core.durable import JournaledFile, journal_path, recover
from lsfm_core.store import edit_lsfm, verify_file
from lsfm_core.testing import write_series

from . import children

Ingester = Callable[..., Any]

_DIES = """
import os, sys
import numpy as np
from lsfm_core.store import edit_lsfm
with edit_lsfm(sys.argv[1], resume=len(sys.argv) > 2) as editor:
    editor.remove_channel("signal")
    for number in range(30):
        editor.h5.create_dataset(f"junk {number}", data=np.full(50_000, number, np.uint8))
    editor.h5.flush()
    if len(sys.argv) > 2:
        editor.checkpoint(b"note")
    os._exit(9)
"""


@pytest.fixture
def path(series: Path, tmp_path: Path, ingest_series: Ingester) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    ingest_series(series, path=folder / "brain.h5")
    return folder / "brain.h5"


def die_in_a_change(path: Path, *options: str) -> None:
    """Removes the only channel and overwrites its chunks, then dies."""
    assert children.run([sys.executable, "-c", _DIES, str(path), *options], check=False).returncode == 9


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and ".settings.xml" not in file.name}


def refused(path: Path, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command names the fault, and leaves all as it is."""
    before = content(path.parent)
    for command in (
        ["info", str(path)],
        ["verify", str(path)],
        ["recover", str(path)],
        ["add-metadata", str(path), "key=value"],
        ["repack", str(path)],
        ["export", str(path), "--channel", "signal", "--output", str(path.parent / "x.nii")],
    ):
        assert main(command) == 4, command
        error = capsys.readouterr().err
        assert message in error and "recover --discard-journal" in error and error.count("\n") == 1
        assert content(path.parent) == before
    for detached in (True, False):
        with pytest.raises(UnfinishedError, match=message):
            open_lsfm(path, detached=detached)
    assert content(path.parent) == before


@pytest.mark.parametrize("replacement", ["made anew", "backup", "another file in a change"])
def test_a_journal_is_not_applied_to_another_file(
    replacement: str, path: Path, tmp_path: Path, volume: np.ndarray, ingest_series: Ingester, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other" / "brain.h5"
    other.parent.mkdir()
    if replacement == "backup":
        shutil.copy(path, other)
        with edit_lsfm(path) as editor:
            editor.set_metadata("later", "than the backup")
    else:
        ingest_series(write_series(tmp_path / "flipped", volume[::-1]), path=other)
    if replacement == "another file in a change":
        die_in_a_change(other)
    die_in_a_change(path)
    os.replace(other, path)
    found = path.read_bytes()
    refused(path, "another file, or to another state of this one", capsys)
    assert main(["recover", str(path), "--discard-journal"]) == 0
    assert "verify" in capsys.readouterr().out
    assert not journal_path(path).exists()
    if replacement != "another file in a change":
        assert path.read_bytes() == found
        assert main(["verify", str(path)]) == 0


def test_a_backup_of_just_the_state_before_needs_no_journal(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    die_in_a_change(path)
    path.write_bytes(before)
    open_lsfm(path).close()
    assert path.read_bytes() == before
    assert not journal_path(path).exists()


@pytest.mark.parametrize("how", ["moved", "copied", "hard link", "journal removed"])
def test_a_file_in_the_middle_of_a_change_says_so(
    how: str, path: Path, tmp_path: Path, volume: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    before = path.read_bytes()
    die_in_a_change(path)
    elsewhere = tmp_path / "elsewhere" / "mouse.h5"
    elsewhere.parent.mkdir()
    if how == "journal removed":
        (path.parent / "brain.h5-journal").rename(tmp_path / "saved")
        elsewhere = path
    else:
        {"moved": os.rename, "copied": shutil.copy, "hard link": os.link}[how](path, elsewhere)
    assert not h5py.is_hdf5(elsewhere), "other programs must not take it for a whole one"
    refused(elsewhere, "in the middle of a change, and its journal", capsys)
    if how == "hard link":
        recover(path)
        assert elsewhere.read_bytes() == before
        return
    # With the journal beside it all is well.
    shutil.copy(tmp_path / "saved" if how == "journal removed" else journal_path(path), journal_path(elsewhere))
    changed = elsewhere.read_bytes()
    assert main(["recover", str(elsewhere)]) == 0
    assert elsewhere.read_bytes() == before
    # Whoever has lost it can still open what there is.
    elsewhere.write_bytes(changed)
    assert main(["recover", str(elsewhere), "--discard-journal"]) == 0
    assert h5py.is_hdf5(elsewhere)


def test_a_journal_whose_file_is_gone_stays_until_somebody_decides(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = path.read_bytes()
    die_in_a_change(path)
    path.rename(tmp_path / "saved")
    beside = content(path.parent)
    assert "brain.h5-journal" in beside
    for command in (["recover", str(path)], ["add-metadata", str(path), "key=value"]):
        assert main(command) != 0
        error = capsys.readouterr().err
        assert "no such file" in error and error.count("\n") == 1
        assert content(path.parent) == beside
    shutil.copy(tmp_path / "saved", path)
    assert main(["recover", str(path)]) == 0
    assert path.read_bytes() == before
    path.unlink()
    for name, data in beside.items():
        (path.parent / name).write_bytes(data)
    capsys.readouterr()
    assert main(["recover", str(path), "--discard-journal"]) == 0
    assert "brain.h5-journal was removed" in capsys.readouterr().out
    assert not journal_path(path).exists()


def test_a_new_file_that_was_never_finished_says_so(
    path: Path, series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = path.with_name("new.h5")
    children.run([sys.executable, "-c", _DIES.replace('editor.remove_channel("signal")', ""), str(new)], check=False)
    path.with_name("new.h5.partial").rename(new)
    refused(new, "in the middle of a change, and its journal", capsys)


@pytest.mark.parametrize("where", ["header", "record", "record's head", "last record", "end of the header"])
def test_a_flipped_bit_in_a_journal_is_told_and_mended_if_wanted(
    where: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = path.read_bytes()
    die_in_a_change(path)
    journal = journal_path(path)
    data = bytearray(journal.read_bytes())
    places = {"header": 33, "end of the header": 62, "record's head": 70, "record": 64 + 32 + 1000, "last record": len(data) - 2000}
    data[places[where]] ^= 8
    journal.write_bytes(data)
    refused(path, "cannot be trusted", capsys)
    assert main(["recover", str(path), "--force"]) == 0
    capsys.readouterr()
    assert path.read_bytes() == before or where == "last record"
    assert not journal.exists()


def test_a_damaged_journal_can_be_left_out(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    die_in_a_change(path)
    journal_path(path).write_bytes(b"LSFMJRN2" + random.Random(0).randbytes(5000))
    refused(path, "cannot be trusted", capsys)
    assert main(["recover", str(path), "--force"]) == 4
    assert "cannot be applied" in capsys.readouterr().err
    assert main(["recover", str(path), "--discard-journal"]) == 0
    # It was in the middle of a change, which digests tell; it opens when somebody says so.
    assert main(["info", str(path)]) == 4
    assert main(["seal", str(path)]) == 0
    assert main(["info", str(path)]) == 0


def test_a_foreign_journal_can_be_applied_by_force(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    with edit_lsfm(path) as editor:
        editor.set_metadata("a", "b")
    later = path.read_bytes()
    die_in_a_change(path)
    path.write_bytes(later + b"grown")
    with pytest.raises(UnfinishedError):
        recover(path)
    assert main(["recover", str(path), "--force"]) == 0
    assert path.read_bytes() == later != before


def test_journals_stand_beside_the_file_and_not_beside_links(
    path: Path, tmp_path: Path, series: Path, ingest_series: Ingester
) -> None:
    link = tmp_path / "links" / "alias.h5"
    link.parent.mkdir()
    link.symlink_to(path)
    before, xml = path.read_bytes(), path.with_suffix(".xml").read_bytes()
    die_in_a_change(link)
    assert journal_path(path).exists() and journal_path(link) == journal_path(path)
    assert list(link.parent.iterdir()) == [link]
    assert recover(path)
    assert path.read_bytes() == before
    ingest_series(series, path=link, channel="second")
    assert link.is_symlink() and list(link.parent.iterdir()) == [link]
    assert path.with_suffix(".xml").read_bytes() != xml
    assert verify_file(path).defects == () == verify_file(link).defects
    assert main(["repack", str(link)]) == 0
    assert link.is_symlink() and list(open_lsfm(path)) == ["signal", "second"]


def test_a_checkpoint_that_leads_nowhere_goes_with_a_word(
    path: Path, series: Path, ingest_series: Ingester, capsys: pytest.CaptureFixture[str]
) -> None:
    new = path.with_name("new.h5")
    script = _DIES.replace('editor.remove_channel("signal")', "")
    for attempt in ("recover", "write"):
        children.run([sys.executable, "-c", script, str(new), "resume"], check=False)
        new.with_name("new.h5.partial").unlink()
        assert new.with_name("new.h5-checkpoint").exists()
        if attempt == "recover":
            assert main(["recover", str(new)]) == 0
            assert "new.h5-checkpoint was removed" in capsys.readouterr().out
        else:
            report = ingest_series(series, path=new, resume=True)
            assert any("new.h5-checkpoint was removed" in warning for warning in report.warnings)
        assert not new.with_name("new.h5-checkpoint").exists()
    assert verify_file(new).defects == ()


def test_what_waits_to_be_resumed_is_known_to_belong(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint of another change is not gone on from."""
    before = path.read_bytes()
    die_in_a_change(path, "resume")
    with pytest.raises(BusyError, match="waits to be resumed"):
        recover(path)
    checkpoint = path.with_name("brain.h5-checkpoint").read_bytes()
    assert main(["recover", str(path)]) == 0
    assert path.read_bytes() == before
    die_in_a_change(path, "resume")
    path.with_name("brain.h5-checkpoint").write_bytes(checkpoint)
    with pytest.raises(UnfinishedError, match="another file"):
        JournaledFile(path, resume=True)


@pytest.mark.parametrize("step", ["os.fsync", "os.replace", "durable._change.finish"])
def test_a_death_in_the_last_steps_is_brought_to_an_end(step: str, path: Path, tmp_path: Path) -> None:
    """Dies at each of the calls that a commit makes; then all of the change is in, or nothing, and the XML agrees."""
    script = f"""
import os, sys
from lsfm_core import durable
from lsfm_core.durable import _change, _disk, _journal
from lsfm_core.store import edit_lsfm
left = int(sys.argv[2])
really = {step}
def die(*arguments, **options):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    return really(*arguments, **options)
with edit_lsfm(sys.argv[1]) as editor:
    editor.rename_channel("signal", "renamed")
    editor.h5.flush()
    {step} = die
"""
    before = content(path.parent)
    seen = set()
    for number in range(40):
        for name, data in before.items():
            (path.parent / name).write_bytes(data)
        code = children.run([sys.executable, "-c", script, str(path), str(number)], check=False).returncode
        with open_lsfm(path) as file:
            names = list(file)
        seen.add(names[0])
        assert names in (["signal"], ["renamed"])
        assert verify_file(path).defects == ()
        assert {file.name for file in path.parent.iterdir() if file.suffix != ".h5-log"} <= {
            "brain.h5",
            "brain.settings.xml",
            "brain.xml",
        }
        if names == ["signal"]:
            assert content(path.parent) == before
        if code == 0:
            break
    else:
        pytest.fail("the change never came to its end")
    assert "renamed" in seen


def test_a_writer_whose_file_was_replaced_does_not_claim_success(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    shutil.copy(path, other)
    copy = other.read_bytes()

    def change() -> None:
        with edit_lsfm(path) as editor:
            editor.set_metadata("a", "b")
            os.replace(other, path)

    with pytest.raises(OSError, match="was moved, removed or replaced while it was changed"):
        change()
    assert path.read_bytes() == copy


def test_a_killed_change_of_a_file_with_a_user_block(tmp_path: Path, volume: np.ndarray) -> None:
    """Others may put something before HDF5's part: the mark stands in the place of the signature there, too."""
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w", userblock_size=1024) as file:
        file["s00/resolutions"], file["s00/subdivisions"] = np.ones((1, 3)), np.full((1, 3), 16, "i4")
        file.create_dataset("t00000/s00/0/cells", data=volume, chunks=(8, 64, 64))
    with open(path, "r+b") as file:
        file.write(b"a block of others")
    before = path.read_bytes()
    script = _DIES.replace('"signal"', '"setup 0"')
    assert children.run([sys.executable, "-c", script, str(path)], check=False).returncode == 9
    assert not h5py.is_hdf5(path)
    journal_path(path).rename(tmp_path / "saved")
    with pytest.raises(UnfinishedError):
        open_lsfm(path)
    (tmp_path / "saved").rename(journal_path(path))
    assert recover(path)
    assert path.read_bytes() == before


def test_two_files_do_not_share_an_xml(path: Path, series: Path, ingest_series: Ingester) -> None:
    before = content(path.parent)
    for run in (
        lambda: ingest_series(series, path=path.with_suffix(".hdf5")),
        lambda: repack_file(RepackRequest(path=path, output=path.with_suffix(".hdf5"), overwrite=True)),
    ):
        with pytest.raises(InputError, match=r"brain.xml beside it is that of brain.h5"):
            run()
        assert content(path.parent) == before
    ingest_series(series, path=path, channel="second")
