"""Outputs are whole or not there: a process that is killed at any of its steps, full disks, and what the next one finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lsfm_core import IngestRequest, ingest_channel
from lsfm_core.errors import BusyError, ExistsError, UnfinishedError
from lsfm_core.cli import main
from lsfm_core.durable import _outputs, clear_folder, new_file, new_files, new_files_in_folder, settle_outputs
from lsfm_core.formats import open_source

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
found, total, kills = [], int((root / "steps").read_text()), int(os.environ.get("LSFM_KILLS", "12"))
# All of the way, and where the names are given most.
chosen = {1 + total * k // kills for k in range(kills)} | {total - total // 3 + total * k // (3 * kills) for k in range(kills)}
for number, step in enumerate(sorted(chosen)):
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

VOXELS = np.random.default_rng(5).integers(0, 65536, (12, 20, 16), dtype=np.uint16)


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two channels of the same form."""
    path = tmp_path_factory.mktemp("outputs") / "brain.h5"
    for name, voxels in (("old", VOXELS), ("new", VOXELS[::-1])):
        ingest_channel(
            IngestRequest(path=path, channel=name, image=voxels, voxel_size_mm=(0.1, 0.1, 0.1), orientation="RAS", in_space="b")
            if "in_space" in IngestRequest.model_fields
            else IngestRequest(path=path, channel=name, image=voxels, voxel_size_mm=(0.1, 0.1, 0.1), orientation="RAS")
        )
    return path


OPERATIONS = {
    "slices": ["export-slices", "--range", "2,6,1", "--output", "place/s_%02d.tif"],
    "slices in a new folder": ["export-slices", "--range", "2,6,1", "--output", "place/slices/s_%02d.tif"],
    "chunks": ["export", "--grid", "0,0,0", "--size", "1.1,1.3,2", "--output", "place/c_%d_%d_%d.npy"],
    "zarr": ["export", "--output", "place/x.ome.zarr"],
    "companions": ["export", "--output", "place/x.npy"],
    "one file": ["export", "--output", "place/x.nii.gz"],
    "tables": ["transform-points", "--from", "native-voxel", "--to", "native-mm", "--labels-channel", "labels"],
}


@pytest.mark.parametrize("what", [name for name in OPERATIONS if name != "tables"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(what: str, brain: Path, tmp_path: Path) -> None:
    verb, *options = OPERATIONS[what]
    place = tmp_path / "place"
    place.mkdir()
    (place / "mine.txt").write_text("not to be touched")
    words = [verb, str(brain), *options, "--quiet", "--overwrite"]
    if "new folder" not in what:
        os.chdir(tmp_path)
        assert main([*words, "--channel", "old"]) == 0
    new = [*words, "--channel", "new"]
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _KILLER, str(tmp_path), json.dumps(new), json.dumps(new)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    print(what, child.stdout)
