"""Disks that are full or fail, limits of the system, file systems without locks: by a library that lets system calls fail."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from lsfm_core import AddMetadataRequest, apply_edit
from lsfm_core.durable import journal_path, recover
from lsfm_core.ingest import IngestRequest, ingest_channel
from lsfm_core.store import verify_file

from . import children

#: How many of the calls of a change fail, one in each run.
SAMPLE = int(os.environ.get("LSFM_FAULTS", "12"))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    target = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", target, Path(__file__).with_name("faults.c"), "-ldl"], check=True)
    return target


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    image = np.random.default_rng(0).integers(0, 65536, (9, 40, 40), dtype=np.uint16)
    ingest_channel(
        IngestRequest(path=folder / "brain.h5", channel="first", image=image, voxel_size_mm=(1, 1, 1), orientation="AIR")
    )
    apply_edit(AddMetadataRequest(path=folder / "brain.h5", values={"specimen": "mouse-42"}))
    np.save(tmp_path / "image.npy", image)
    return folder / "brain.h5"


def run(*arguments: str | Path, library: Path, **faults: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LD_PRELOAD": str(library), **{f"FAULT_{k.upper()}": str(v) for k, v in faults.items()}}
    command = [sys.executable, "-m", "lsfm_core.cli", *map(str, arguments)]
    return children.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def content(folder: Path) -> dict[str, bytes]:
    """All files but BigDataViewer's settings, how it looks at first, which are made anew when they are missing."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and ".settings.xml" not in file.name}


def restore(folder: Path, files: Mapping[str, bytes]) -> None:
    for file in folder.iterdir():
        if file.is_file():
            file.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def assert_told(child: subprocess.CompletedProcess[str]) -> None:
    """One line, no traceback, no signal."""
    assert child.returncode == 1, child.stderr
    assert child.stderr.count("\n") == 1 and "bug" not in child.stderr and "Traceback" not in child.stderr, child.stderr


CHANGES = {
    "rename": ["rename-channel", "{path}", "--channel", "first", "--to", "renamed"],
    "add-metadata": ["add-metadata", "{path}", "key=value"],
    "repack": ["repack", "{path}", "--compression-level", "2"],
}


_TRIES = """
import contextlib, errno, io, os, sys
from pathlib import Path
from lsfm_core.cli import main
from lsfm_core.durable import recover
from lsfm_core.store import verify_file
folder, sample, *command = sys.argv[1:]
folder, errors = Path(folder), [errno.ENOSPC, errno.EIO, errno.EDQUOT]
path = folder / "brain.h5"
def content():
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and ".settings.xml" not in file.name}
before, number, outcomes = content(), 1, []
while number < 500 and 0 not in outcomes:
    for name in set(content()) - set(before):
        (folder / name).unlink()
    for name, data in before.items():
        (folder / name).write_bytes(data)
    told = io.StringIO()
    os.environ.update(FAULT_AT=str(number), FAULT_ERRNO=str(errors[number % 3]), **({"FAULT_ON": "1"} if number % 2 else {}))
    os.environ["FAULT_FOLDER"] = str(folder)
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        outcomes.append(main(command))
    del os.environ["FAULT_FOLDER"]
    os.environ.pop("FAULT_ON", None)
    text = told.getvalue()
    assert outcomes[-1] in (0, 1), (number, text)
    assert outcomes[-1] == 0 or (text.count("\\n") == 1 and "bug" not in text), (number, text)
    recover(path)
    if path.read_bytes() == before["brain.h5"]:
        assert outcomes[-1] == 1, (number, text)
        assert content() == before, (number, set(content()) ^ set(before), text)
    else:
        # Where the disk fails in the very moment of the commit, nobody can know.
        said = ("is in", "is complete", "finishes or undoes")
        assert outcomes[-1] == 0 or any(words in text for words in said), (number, text)
        assert verify_file(path).defects == (), number
    # The first calls, before anything is changed, are all tried, and of the others a sample.
    number += 1 if number < 8 else max(1, 60 // int(sample))
print(len(outcomes), outcomes[-1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_each_call_may_fail(change: str, path: Path, library: Path) -> None:
    """The old file or the new one, and one line that tells which; also if the disk does not recover."""
    command = [argument.format(path=path) for argument in CHANGES[change]]
    child = children.run(
        [sys.executable, "-c", _TRIES, str(path.parent), str(SAMPLE), *command],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    tries, last = map(int, child.stdout.split())
    assert tries > 10 and last == 0, "every call was made to fail, until none was left"


@pytest.mark.parametrize("extra", [0, 4])
@pytest.mark.parametrize("change", ["rename", "add-metadata"])
def test_a_limit_of_file_sizes(change: str, extra: int, path: Path) -> None:
    before = content(path.parent)
    limit = (len(before["brain.h5"]) // 1024 + extra) * 1024
    child = subprocess.run(
        [sys.executable, "-m", "lsfm_core.cli", *[argument.format(path=path) for argument in CHANGES[change]]],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    if child.returncode:
        assert_told(child)
        # With less than the file has already it cannot be put back at once.
        recover(path)
        assert content(path.parent) == before
    else:
        assert verify_file(path).defects == ()


_FEW = """
import contextlib, io, resource, sys
from lsfm_core.cli import main
command = ["rename-channel", sys.argv[1], "--channel", "first", "--to", "renamed"]
with contextlib.redirect_stdout(io.StringIO()):
    main([*command, "--dry-run"])  # whatever is imported for it, is now
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
sys.exit(main(command))
"""


def test_too_few_descriptors(path: Path) -> None:
    before = content(path.parent)
    seen = set()
    for limit in (4, 5, 6, 7, 30):
        child = children.run([sys.executable, "-c", _FEW, path, str(limit)], capture_output=True, text=True, check=False)
        seen.add(child.returncode)
        if child.returncode:
            assert_told(child)
            assert content(path.parent) == before
        restore(path.parent, before)
    assert seen == {0, 1}


#: Every command that changes a file or makes one, in a folder D where nothing can be changed; W is one where it can.
WRITES = {
    "write": "write D/brain.h5 --channel more --image W/image.npy --voxel-size 1,1,1 --orientation AIR",
    "write --replace": "write D/brain.h5 --channel first --image W/image.npy --voxel-size 1,1,1 --orientation AIR --overwrite",
    "write, resumable": "write D/brain.h5 --channel more --image W/image.npy --voxel-size 1,1,1 --orientation AIR --resume",
    "write, new": "write D/new.h5 --channel more --image W/image.npy --voxel-size 1,1,1 --orientation AIR",
    "write-field": "write-field D/brain.h5 --channel warp --image W/field.nrrd",
    "write-affine": "write-affine D/brain.h5 --channel first --name more --affine W/affine.txt",
    "import-registration": "import-registration D/brain.h5 W/field.nrrd --tool itk --channel first --atlas-space far",
    "set-space": "set-space D/brain.h5 --channel first --space atlas",
    "rename-space": "rename-space D/brain.h5 --space there --to elsewhere",
    "link-spaces": "link-spaces D/brain.h5 --space left --to first",
    "remove-channel": "remove-channel D/brain.h5 --channel first",
    "rename-channel": "rename-channel D/brain.h5 --channel first --to second",
    "add-metadata": "add-metadata D/brain.h5 key=value",
    "remove-metadata": "remove-metadata D/brain.h5 specimen",
    "repack": "repack D/brain.h5",
    "repack --output": "repack D/brain.h5 --output D/new.h5",
    "seal": "seal D/brain.h5",
    "xml": "xml D/brain.h5",
    "replay": "replay D/brain.h5 4 --output D/replayed",
    "run": "run W/recipe.yaml",
    "sample": "sample D/sample",
    "preview": "preview D/brain.h5 --output D/a.png",
    "preview --html": "preview D/brain.h5 --html --output D/a.html",
    "dump-metadata": "dump-metadata W/image.npy --output D/a.json",
    "export nii.gz": "export D/brain.h5 --channel first --output D/a.nii.gz",
    "export nrrd": "export D/brain.h5 --channel first --output D/a.nrrd",
    "export mha": "export D/brain.h5 --channel first --output D/a.mha",
    "export tif": "export D/brain.h5 --channel first --output D/a.tif",
    "export npy": "export D/brain.h5 --channel first --output D/a.npy",
    "export zarr": "export D/brain.h5 --channel first --output D/a.ome.zarr",
    "export, in its place": "export D/brain.h5 --channel first --output D/there.nii --overwrite",
    "export --grid": "export D/brain.h5 --channel first --grid 0,0,0 --size 20,20,20 --output D/chunks",
    "export-slices": "export-slices D/brain.h5 --channel first --axis 0 --output D/slices/s_%04d.tif",
    "merge": "merge W/chunks/manifest.json --output D/merged.nii",
    "transform-points": "transform-points W/points.csv --file D/brain.h5 --channel first --output D/points.csv",
}
READS = {
    "info": "info D/brain.h5",
    "info, by the XML": "info D/brain.xml",
    "verify": "verify D/brain.h5",
    "log": "log D/brain.h5",
    "spaces": "spaces D/brain.h5",
    "get-metadata": "get-metadata D/brain.h5",
    "recover": "recover D/brain.h5",
    "recover, a folder": "recover D",
    "export": "export D/brain.h5 --channel first --output W/a.nii",
    "preview": "preview D/brain.h5 --output W/a.png",
    "transform-points": "transform-points W/points.csv --file D/brain.h5 --channel first --output W/p.csv",
}

_COMMANDS = """
import contextlib, errno, io, json, os, resource, shutil, sys
from pathlib import Path
from lsfm_core.cli import main
folder = Path(sys.argv[1])
kept = folder.with_name("kept")
shutil.copytree(folder, kept)
def content(place):
    return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file() and "-log" not in str(p)}
@contextlib.contextmanager
def surroundings(case):
    if case in ("EACCES", "EROFS"):
        os.environ.update(FAULT_FOLDER=str(folder), FAULT_READONLY=str(getattr(errno, case)))
        yield
        del os.environ["FAULT_FOLDER"]
        return
    # A descriptor or two, of which a change takes more; room for no header.
    kind = getattr(resource, case)
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, ({"RLIMIT_NOFILE": len(os.listdir("/proc/self/fd")), "RLIMIT_FSIZE": 100}[case], hard))
    yield
    resource.setrlimit(kind, (soft, hard))
before = content(folder)
for what, words, case, reads in json.loads(sys.argv[2]):
    told, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out):
        if case.startswith("RLIMIT"):
            assert main(words) == 0, what  # whatever is imported for it, is now
            shutil.rmtree(folder)
            shutil.copytree(kept, folder)
    with surroundings(case), contextlib.redirect_stderr(told), contextlib.redirect_stdout(out):
        code, text = main(words), told.getvalue()
    where = (what, case, code, text)
    with contextlib.redirect_stdout(out):
        main(["recover", str(folder)])  # without descriptors nothing can be cleared away at once
    assert code == 0 if reads else code == 1 or (code == 0 and case == "RLIMIT_NOFILE"), where
    assert code == 0 or (text.count("\\n") == 1 and "bug" not in text), where
    assert case.startswith("RLIMIT") or reads or os.strerror(getattr(errno, case)) in text, where
    assert code == 0 or content(folder) == before, where
    if content(folder) != before:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
"""


@pytest.fixture
def surroundings(path: Path, tmp_path: Path) -> Path:
    """A file with something for each command, and what these need, in a folder of its own."""
    from lsfm_core.cli import main

    work = tmp_path / "work"
    work.mkdir()
    np.save(work / "image.npy", np.arange(9 * 40 * 40, dtype=np.uint16).reshape(9, 40, 40))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4, 3), np.float32), isVector=True), work / "field.nrrd")
    (work / "affine.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0.1\n0 0 0 1\n")
    (work / "points.csv").write_text("z,y,x\n1,2,3\n")
    (work / "recipe.yaml").write_text(f"file: {path}\nsteps:\n  - add-metadata: {{values: {{a: b}}}}\n")
    affine = ["--affine", str(work / "affine.txt")]
    assert main(["write-affine", str(path), "--channel", "first", "--name", "moved", "--to", "there", *affine]) == 0
    assert (
        main(["export", str(path), "--channel", "first", "--grid", "0,0,0", "--size", "20,20,20", "--output", str(work / "chunks")])
        == 0
    )
    sides = ["--from", "left", "--to", "right"]
    assert main(["write-affine", str(path), "--channel", "first", "--name", "aside", *sides, *affine]) == 0
    (path.parent / "there.nii").write_bytes(b"old")
    return work


@pytest.mark.slow
def test_every_command_where_nothing_can_be_changed(surroundings: Path, path: Path, library: Path) -> None:
    """A folder that is not ours, a file system that is read only, limits of the system: what reads works, all else is one line."""

    def words(line: str) -> list[str]:
        folders = {"D": str(path.parent), "W": str(surroundings)}
        return [folders.get(word) or re.sub("^([DW])/", lambda m: f"{folders[m[1]]}/", word) for word in line.split()]

    cases = ["EACCES", "EROFS", "RLIMIT_FSIZE", "RLIMIT_NOFILE"]
    tries = [(what, words(line), cases[number % 2], True) for number, (what, line) in enumerate(READS.items())]
    for number, (what, line) in enumerate(WRITES.items()):
        chosen = cases if SAMPLE > 12 else [cases[number % 2], cases[2 + number // 2 % 2]]
        tries += [(what, words(line), case, False) for case in chosen]
    child = children.run(
        [sys.executable, "-c", _COMMANDS, str(path.parent), json.dumps(tries)],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]


_WRITER = """
import sys, time
import numpy as np
from lsfm_core.store import edit_lsfm
with edit_lsfm(sys.argv[1]) as editor:
    editor.remove_channel("first")
    for number in range(30):
        editor.h5.create_dataset(f"junk {number}", data=np.full(5000, number, np.uint8))
    editor.h5.flush()
    print("changing", flush=True)
    sys.stdin.readline()
print("done", flush=True)
"""


@pytest.mark.parametrize(
    ("end", "error"),
    [("commit", errno.ENOTSUP), ("kill", errno.ENOLCK), ("kill", errno.ENOSYS)],
    ids=["ENOTSUP", "ENOLCK", "ENOSYS"],
)
def test_without_file_locks(end: str, error: int, path: Path, library: Path) -> None:
    """Nobody undoes the change of a writer that lives, or touches its file; of a dead one everybody does."""
    before = content(path.parent)
    environment = {**os.environ, "LD_PRELOAD": str(library), "FAULT_FLOCK": str(error)}
    pipe = subprocess.PIPE
    with children.Popen([sys.executable, "-c", _WRITER, path], env=environment, stdin=pipe, stdout=pipe, text=True) as writer:
        assert writer.stdin is not None and writer.stdout is not None
        assert writer.stdout.readline() == "changing\n"
        during = content(path.parent)
        assert "brain.h5-lock" in during and during["brain.h5"] != before["brain.h5"]
        for command in (
            ["info", path],
            ["recover", path, "--force"],
            ["repack", path],
            ["rename-channel", path, "--channel", "first", "--to", "x"],
        ):
            child = run(*command, library=library, flock=error)
            assert child.returncode == 1 and f"process {writer.pid} on" in child.stderr, (command, child.stderr)
            assert content(path.parent) == during
        if end == "kill":
            writer.kill()
        else:
            assert writer.communicate("\n")[0] == "done\n"
    child = run("info", path, library=library, flock=error)
    assert child.returncode == 0, child.stderr
    assert verify_file(path).defects == ()
    after = content(path.parent)
    assert set(after) == {"brain.h5", "brain.xml"}
    if end == "kill":
        assert after == before
    else:
        with h5py.File(path) as file:
            assert "junk 29" in file
    assert run("add-metadata", path, "key=value", library=library, flock=error).returncode == 0
    assert run("repack", path, library=library, flock=error).returncode == 0
    assert set(content(path.parent)) == {"brain.h5", "brain.xml"}


def test_without_file_locks_another_machines_writer_is_not_given_up(path: Path, library: Path) -> None:
    """Its process cannot be seen, so it is the user who knows."""
    before = content(path.parent)
    environment = {**os.environ, "LD_PRELOAD": str(library), "FAULT_FLOCK": str(errno.ENOSYS)}
    with children.Popen(
        [sys.executable, "-c", _WRITER, path], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"changing\n"
        writer.kill()
    lock = path.with_name("brain.h5-lock")
    lock.write_text(lock.read_text().replace('"host": "', '"host": "node-'))
    during = content(path.parent)
    for command in (["info", path], ["recover", path]):
        child = run(*command, library=library, flock=errno.ENOSYS)
        assert child.returncode == 1 and "recover --force" in child.stderr and "on node-" in child.stderr, child.stderr
        assert content(path.parent) == during
    child = run("recover", path, "--force", library=library, flock=errno.ENOSYS)
    assert child.returncode == 0 and "undone" in child.stdout
    assert content(path.parent) == before


def test_without_file_locks_a_reader_is_never_given_a_mixture(path: Path, library: Path) -> None:
    script = """
import sys
import numpy as np
import lsfm_core
level = lsfm_core.open_lsfm(sys.argv[1], cache=lsfm_core.ChunkCache(0))["first"].levels[0]
truth = np.asarray(level[...])
print("open", flush=True)
for line in sys.stdin:
    try:
        assert np.array_equal(np.asarray(level[...]), truth)
        print("same", flush=True)
    except lsfm_core.LsfmError as error:
        print("told", flush=True)
"""
    environment = {**os.environ, "LD_PRELOAD": str(library), "FAULT_FLOCK": str(errno.ENOTSUP)}
    pipe = subprocess.PIPE
    with children.Popen([sys.executable, "-c", script, path], env=environment, stdin=pipe, stdout=pipe, text=True) as reader:
        assert reader.stdin is not None and reader.stdout is not None
        assert reader.stdout.readline() == "open\n"

        def look() -> str:
            reader.stdin.write("\n")
            reader.stdin.flush()
            return reader.stdout.readline()

        with children.Popen([sys.executable, "-c", _WRITER, path], env=environment, stdin=pipe, stdout=pipe, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "changing\n"
            assert look() == "same\n"
            writer.communicate("\n")
        assert look() == "told\n"
        reader.stdin.close()
    assert not journal_path(path).exists()
