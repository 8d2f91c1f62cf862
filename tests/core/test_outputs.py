"""Outputs are whole or not there: a process that is killed at any of its steps, full disks, and what the next one finds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lsfm_core import IngestRequest, ingest_channel
from lsfm_core.cli import main
from lsfm_core.durable import clear_folder, new_file, new_files, new_files_in_folder, settle_outputs
from lsfm_core.durable._lock import ourselves
from lsfm_core.errors import BusyError, ExistsError, StorageError, UnfinishedError
from lsfm_core.formats import open_source

from . import children

# Does an operation again and again, in children of which each is killed one step of the file system later; after each, what is seen
# in the folder, then what is left when it was cleared, are compared with what was there before and with what was to come.
_KILLER = """
import json, os, shutil, signal, sys
from pathlib import Path
from lsfm_core.cli import main
from lsfm_core.durable import clear_folder

root, arguments, again = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
place = root / "place"
os.chdir(root)

def seen():
    return {str(p.relative_to(place)): p.read_bytes() for p in sorted(place.rglob("*"))
            if p.is_file() and not any(part.startswith(".lsfm-") for part in p.relative_to(place).parts)}

def hidden():
    return [p.name for p in place.rglob("*") if p.name.startswith(".lsfm-")]

steps, NEVER = 0, 10**9
def run(words, at):
    global steps
    def hook(event, values):
        global steps
        if event not in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "open", "ctypes.dlsym") or (
            event != "ctypes.dlsym" and ".lsfm-" not in "".join(map(str, values))
        ):
            return
        steps += 1
        if steps == at:
            os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if child == 0:
        if at:
            sys.addaudithook(hook)
        code = main(words)
        if at == NEVER:
            (root / "steps").write_text(str(steps))
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

before = seen()
shutil.copytree(place, root / "before")
assert run(arguments, NEVER) == 0
after = seen()
assert after != before and not hidden()
found, total, kills = [], int((root / "steps").read_text()), int(os.environ.get("LSFM_KILLS", "2"))
# All of the way, and where the names are given most; what is left of the last is cleared, however few they are.
chosen = {1 + total * k // kills for k in range(kills)} | {total - total // 3 + total * k // (3 * kills) for k in range(kills)}
chosen = sorted(chosen | {total})
for number, step in enumerate(chosen, len(chosen) % 2):
    shutil.rmtree(place)
    shutil.copytree(root / "before", place)
    code = run(arguments, step)
    assert code == -signal.SIGKILL, (step, total, code)
    journal = any(place.rglob(".lsfm-*/commit"))
    assert journal or seen() in (before, after), ("mixed", step)
    if number % 2:
        told = clear_folder(place) + (clear_folder(place / "slices") if (place / "slices").is_dir() else ())
        assert told or not hidden()
        assert seen() in (before, after), ("not whole", step, sorted(seen()))
        found.append(("journal " if journal else "") + ("after" if seen() == after else "before"))
    else:
        assert run(again, 0) == 0
        assert seen() == after, ("again", step)
    # What nobody has put a name to, since it died at once or in the very end, is empty, and stays for some seconds.
    assert all(not any(place.glob(f"**/{name}/*")) or step < 4 for name in hidden()), (step, total, hidden())
print(sorted(set(found)))
"""

_KILL_BEFORE_JSON = """
import os, signal, sys
from lsfm_core.cli import main

def hook(event, values):
    if event == "os.rename" and str(values[0]).endswith(".json") and "old" in str(values[1]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
main(sys.argv[1:])
"""

VOXELS = np.random.default_rng(5).integers(0, 65536, (12, 20, 16), dtype=np.uint16)


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two channels of the same form, and labels."""
    path = tmp_path_factory.mktemp("outputs") / "brain.h5"
    for name, voxels in (("old", VOXELS), ("new", VOXELS[::-1]), ("labels", VOXELS % 3)):
        kind = "labels" if name == "labels" else "image"
        ingest_channel(
            IngestRequest(path=path, channel=name, image=voxels, kind=kind, voxel_size_mm=(0.1, 0.1, 0.1), orientation="RAS")
        )
    return path


OPERATIONS = {
    "slices": ["export-slices", "--range", "2,6,1", "--output", "place/s_%02d.tif"],
    "slices in a new folder": ["export-slices", "--range", "2,6,1", "--output", "place/slices/s_%02d.tif"],
    "chunks": ["export", "--grid", "0,0,0", "--size", "1.1,1.3,2", "--output", "place/c_%d_%d_%d.npy"],
    "zarr": ["export", "--output", "place/x.ome.zarr"],
    "companions": ["export", "--output", "place/x.npy"],
    "one file": ["export", "--output", "place/x.nii.gz"],
    "tables": [
        *("transform-points", "points.csv", "--from", "native-voxel", "--to", "native-mm", "--labels-channel", "labels"),
        *("--output", "place/out.csv", "--counts", "place/counts.csv"),
    ],
}


@pytest.mark.parametrize("what", OPERATIONS)
def test_a_kill_at_any_step_leaves_the_old_or_the_new(
    what: str, brain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb, *options = OPERATIONS[what]
    place = tmp_path / "place"
    place.mkdir()
    (place / "mine.txt").write_text("not to be touched")
    at = 2 if what == "tables" else 1
    words = [verb, *options, "--quiet", "--overwrite"]
    words[at:at] = ["--file", str(brain)] if what == "tables" else [str(brain)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "points.csv").write_text("z,y,x\n1,2,3\n")
    if "new folder" not in what:
        assert main([*words, "--channel", "old"]) == 0
    (tmp_path / "points.csv").write_text("z,y,x\n4,5,6\n7,8,9\n")
    new = [*words, "--channel", "new"]
    child = children.run(
        [sys.executable, "-c", _KILLER, str(tmp_path), json.dumps(new), json.dumps(new)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    assert "before" in child.stdout and "after" in child.stdout


# Says that it is at work, and then goes on until it is killed; with "commit", after the first of two renames.
_MAKER = """
import os, sys, time
from pathlib import Path
from lsfm_core.durable import new_files
if "commit" in sys.argv:
    def hook(event, values):
        if event == "os.rename" and str(values[1]).endswith("b.txt"):
            print("go", flush=True)
            time.sleep(600)
    sys.addaudithook(hook)
with new_files([Path("a.txt"), Path("b.txt")], False) as partials:
    for partial in partials:
        partial.write_text("new")
    if "commit" not in sys.argv:
        print("go", flush=True)
        time.sleep(600)
"""


@pytest.fixture(params=["", "commit"])
def maker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A living process that makes a.txt and b.txt, or is just putting them in place."""
    child = children.Popen([sys.executable, "-c", _MAKER, request.param], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "go\n"
    yield child
    child.kill()
    child.communicate()


def test_nobody_touches_what_a_living_process_makes(maker: subprocess.Popen[str], tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    begun = (tmp_path / "a.txt").exists()
    with pytest.raises(BusyError, match=f"process {maker.pid}"), new_file(path, True):
        pass
    with new_file(tmp_path / "c.txt", True) as partial:
        partial.write_text("another")
    (told,) = clear_folder(tmp_path, force=True)
    assert "left alone" in told and str(maker.pid) in told
    if begun:
        with pytest.raises(BusyError):
            settle_outputs(path)
    else:
        settle_outputs(path)
    maker.kill()
    maker.wait()
    settle_outputs(path)
    assert path.exists() == begun
    with new_file(path, True) as partial:
        partial.write_text("mine")
    assert sorted(file.name for file in tmp_path.iterdir()) == (["a.txt"] if begun else []) + ["b.txt", "c.txt"]
    assert path.read_text() == "mine"


def test_recover_clears_a_folder_and_says_so(
    maker: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = (tmp_path / "a.txt").exists()
    maker.kill()
    maker.wait()
    (tmp_path / "brain.h5.partial").write_bytes(b"half")
    before = sorted(tmp_path.rglob("*"))
    for words in (["--dry-run"], []):
        assert sorted(tmp_path.rglob("*")) == before
        assert main(["recover", str(tmp_path), *words]) == 0
        told = capsys.readouterr().out
        assert "a.txt, b.txt" in told and "brain.h5" in told and ("put in place" in told) == begun
    assert sorted(file.name for file in tmp_path.iterdir()) == (["a.txt", "b.txt"] if begun else [])
    assert main(["recover", str(tmp_path)]) == 0
    assert "nothing to clear away" in capsys.readouterr().out


def test_what_others_have_changed_since_is_kept(maker: subprocess.Popen[str], tmp_path: Path) -> None:
    begun = (tmp_path / "a.txt").exists()
    maker.kill()
    maker.wait()
    (tmp_path / "b.txt").write_text("made by somebody else")
    (told,) = clear_folder(tmp_path)
    assert ("kept as they are: b.txt" in told) == begun
    assert [file.read_text() for file in sorted(tmp_path.iterdir())] == (["new"] if begun else []) + ["made by somebody else"]


def test_what_a_process_elsewhere_has_begun_is_not_touched(maker: subprocess.Popen[str], tmp_path: Path) -> None:
    """Neither alive nor dead, as far as can be known."""
    begun = (tmp_path / "a.txt").exists()
    maker.kill()
    maker.wait()
    (owner,) = tmp_path.glob(".lsfm-*/owner")
    owner.write_text(json.dumps(json.loads(owner.read_text()) | {"host": "elsewhere", "locked": False}))
    (told,) = clear_folder(tmp_path)
    assert "left alone" in told and "elsewhere" in told
    if begun:
        for touch in (lambda: settle_outputs(tmp_path / "b.txt"), lambda: new_file(tmp_path / "b.txt", True).__enter__()):
            with pytest.raises(UnfinishedError, match="recover --force"):
                touch()
    clear_folder(tmp_path, force=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == (["a.txt", "b.txt"] if begun else [])


def make(paths: list[Path], text: str, meanwhile: Callable[[], object] = lambda: None) -> None:
    with new_files(paths, len(paths) > 1) as partials:
        for partial in partials:
            partial.write_text(text)
        meanwhile()


def test_a_rename_that_fails_puts_all_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in ("a.txt", "b.txt", "c.txt")]
    for path in paths[:2]:
        path.write_text(f"old {path.name}")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if Path(target) == paths[1] and "new" in self.parts:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(StorageError, match=r"a.txt: cannot be written: Input/output error"):
        make(paths, "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old a.txt", "b.txt": "old b.txt"}


def test_what_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(ExistsError):
        make([path], "new", lambda: path.write_text("made meanwhile"))
    assert path.read_text() == "made meanwhile"
    made = tmp_path / "deep" / "folder"
    with new_files_in_folder([made / "b.txt", made / "c.txt"], False) as partials:
        for partial in partials:
            partial.write_text("new")
        made.mkdir(parents=True)
        (made / "other.txt").write_text("made meanwhile")
    assert sorted(file.name for file in made.iterdir()) == ["b.txt", "c.txt", "other.txt"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.txt", "deep"]


def test_a_set_that_waits_is_completed_before_it_is_read(brain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill, or a power cut, between the voxels' and the JSON's name."""
    path = tmp_path / "x.npy"
    words = ["export", str(brain), "--output", str(path), "--quiet", "--channel"]
    assert main([*words, "old"]) == 0
    child = children.run(
        [sys.executable, "-c", _KILL_BEFORE_JSON, *words, "new", "--overwrite"], capture_output=True, text=True, check=False
    )
    assert child.returncode == -9, child.stderr
    beside = path.with_suffix(".json")
    assert json.loads(beside.read_text())["name"] == "old"
    source = open_source(path)
    try:
        assert json.loads(beside.read_text())["name"] == "new"
        plane = np.empty(source.shape[1:], source.dtype)
        source.read_plane(0, plane)
        np.testing.assert_array_equal(plane, VOXELS[::-1][0])
    finally:
        source.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.json", "x.npy"]


def _old(path: Path, hours: float) -> None:
    """As if nothing of it had changed for so long."""
    for place in [*path.rglob("*"), path] if path.is_dir() else [path]:
        os.utime(place, (time.time() - 3600 * hours,) * 2)


def test_what_names_no_owner_is_litter_when_it_is_old(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Outputs of earlier versions, small files and records on their way, and locks: none of it of somebody who may be at work."""
    with children.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    (tmp_path / "brain.h5").write_bytes(b"")
    (tmp_path / "brain.h5-log").mkdir()
    record = ".2026-11-22T103121.204518Z_export-slices_9f01c2d3.partial"
    litter = {
        f".partial-{child.pid}-out.nii": 30,
        ".merge-a_3xyz89": 30,
        "brain.xml.new": 1,
        "brain.settings.xml.new": 1,
        "brain.h5-lock.0123abcd": 1,
        record: 1,
        f"brain.h5-log/{record}": 1,
    }
    for name, hours in litter.items():
        if "merge" in name:
            (tmp_path / name / "x").mkdir(parents=True)
            (tmp_path / name / "x/plane.raw").write_bytes(b"x")
        else:
            (tmp_path / name).write_bytes(b"x")
        _old(tmp_path / name, hours)
    kept = {
        f".partial-{os.getpid()}-out.nii": 30,  # its maker lives
        ".merge-notours": 30,
        ".merge-a_3xyz89.txt": 30,
        ".partial-notes": 30,
        "notes.xml.new": 30,
        ".2026-11-22.partial": 30,
        "brain.h5-log/note.partial": 30,
    }
    for name, hours in kept.items():
        (tmp_path / name).write_bytes(b"x")
        _old(tmp_path / name, hours)
    # These may be of a process on another machine.
    young = {f".partial-{child.pid}-young.nii": 23, "young.h5-lock.0123abcd": 0.1, record.replace("22T", "23T"): 0.1}
    for name, hours in young.items():
        (tmp_path / name).write_bytes(b"x")
        _old(tmp_path / name, hours)
    everything = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    assert main(["recover", str(tmp_path), "--dry-run"]) == 0
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == everything
    foretold = capsys.readouterr().out
    assert main(["recover", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert told == foretold
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {*kept, *young, "brain.h5", "brain.h5-log"}
    assert all(f"{name}: removed" in told for name in litter), told
    assert told.count("left alone") == 3 and f"process {os.getpid()} may be at work" in told
    assert main(["recover", str(tmp_path), "--force"]) == 0
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {*kept, "brain.h5", "brain.h5-log"}


def _copied(small_file: Path, folder: Path) -> Path:
    for file in small_file.parent.glob(f"{small_file.stem}.*"):
        shutil.copy(file, folder / f"brain{file.name.removeprefix(small_file.stem)}")
    return folder / "brain.h5"


def test_the_next_change_removes_records_that_were_not_completed(small_file: Path, tmp_path: Path) -> None:
    path = _copied(small_file, tmp_path)
    side = tmp_path / "brain.h5-log"
    side.mkdir(exist_ok=True)
    partial = side / ".2026-11-22T103121.204518Z_export_9f01c2d3.partial"
    partial.write_bytes(b"{")
    assert main(["add-metadata", str(path), "a=b"]) == 0
    assert partial.exists()  # it may be of somebody who is just writing it
    _old(partial, 1)
    assert main(["add-metadata", str(path), "c=d"]) == 0
    assert not side.exists()


@pytest.mark.parametrize("command", [["info"], ["recover"], ["add-metadata", "a=b"]], ids=["reader", "recover", "writer"])
def test_the_next_one_removes_the_lock_file_of_a_dead_writer(
    command: list[str], small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that was left where there are no locks; of a living one, or one that cannot be seen, it stays."""
    path = _copied(small_file, tmp_path)
    lock = path.with_name("brain.h5-lock")
    script = "import json; from lsfm_core.durable._lock import ourselves; print(json.dumps(ourselves()))"
    dead = children.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    words = [command[0], str(path), *command[1:]]
    for text in (dead.replace('"host": "', '"host": "node-'), json.dumps(ourselves())):
        lock.write_text(text)
        assert main(words) == (0 if command == ["info"] else 1)
        assert lock.read_text() == text
        capsys.readouterr()
        assert main(["recover", str(tmp_path)]) == 0
        assert "left alone" in capsys.readouterr().out and lock.read_text() == text
    lock.write_text(dead)
    assert main(words) == 0
    assert not lock.exists()
    if command == ["recover"]:
        assert "brain.h5-lock was removed" in capsys.readouterr().out
    lock.write_text(dead)
    assert main(["recover", str(tmp_path)]) == 0
    assert not lock.exists() and "brain.h5-lock was removed" in capsys.readouterr().out
