"""Power cuts and kills: a change is recorded, and the folder built anew as it may be found after a crash at any point of it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest

from lsfm_core.durable import recover
from lsfm_core.store import verify_file

from . import children
from .test_faults import content, library, path, restore  # noqa: F401 (fixtures)

#: So many crashes of each change.
CRASHES = int(os.environ.get("LSFM_CRASHES", "16"))
#: So many kills of each change.
KILLS = int(os.environ.get("LSFM_KILLS", "1"))
_PLACED = "--image {image} --voxel-size 1,1,1 --orientation AIR"
CHANGES = {
    "rename": "rename-channel {path} --channel first --to renamed",
    "add-metadata": "add-metadata {path} key=value",
    "remove-metadata": "remove-metadata {path} specimen",
    "write-affine": "write-affine {path} --channel first --name to_atlas --affine {affine}",
    "write-field": "write-field {path} --channel warp --image {field}",
    "remove": "remove-channel {path} --channel first",
    "add": f"write {{path}} --channel second {_PLACED}",
    "add labels": f"write {{path}} --channel second --kind labels {_PLACED}",
    "replace": f"write {{path}} --channel first --replace {_PLACED}",
    "make": f"write {{new}} --channel second {_PLACED}",
    "repack": "repack {path} --compression-level 2",
    "repack to": "repack {path} --compression-level 2 --output {new}",
    "run": "run {recipe}",
    "replay": "replay {path} 2 --overwrite",
}


class Operation(NamedTuple):
    kind: str
    inode: int = 0
    place: int = 0
    data: bytes = b""
    names: tuple[str, ...] = ()


def operations(log: bytes) -> list[Operation]:
    found, position = [], 0
    while position < len(log):
        end = log.index(b"\n", position)
        kind, rest = log[position : position + 1].decode(), log[position + 2 : end].decode()
        position = end + 1
        if kind == "W":
            inode, place, size = map(int, rest.split())
            found.append(Operation(kind, inode, place, log[position : position + size]))
            position += size
        elif kind in "FDT":
            inode, place = map(int, rest.split())
            found.append(Operation(kind, inode, place))
        elif kind == "C":
            inode_text, name = rest.split(" ", 1)
            found.append(Operation(kind, int(inode_text), names=(Path(name).name,)))
        else:
            found.append(Operation(kind, names=tuple(Path(name).name for name in rest.split("\t"))))
    return found


def after_a_crash(done: list[Operation], names: dict[str, int], files: dict[int, bytes], dice: random.Random) -> dict[str, bytes]:
    """A folder as it may be found: all that was synced, and of the rest whatever happened to reach the disk."""
    synced = {}
    for operation in done:
        if operation.kind in "FD":
            # An order covers what was done before it was given.
            synced[operation.inode if operation.kind == "F" else -1] = operation.place
    share = dice.choice([0.0, 0.5, 1.0])
    names, contents = dict(names), {inode: bytearray(data) for inode, data in files.items()}
    reached = True
    for number, operation in enumerate(done):
        if operation.kind in "WT":
            if number >= synced.get(operation.inode, 0) and dice.random() >= share:
                continue
            data = contents.setdefault(operation.inode, bytearray())
            if operation.kind == "T":
                del data[operation.place :]
                data.extend(bytes(operation.place - len(data)))
            else:
                data.extend(bytes(max(0, operation.place - len(data))))
                data[operation.place : operation.place + len(operation.data)] = operation.data
        elif operation.kind in "CRU":
            # File systems keep the order of names.
            reached = number < synced.get(-1, 0) or (reached and dice.random() < max(share, 0.5))
            if not reached:
                continue
            if operation.kind == "C":
                names[operation.names[0]] = operation.inode
            elif operation.kind == "R" and operation.names[0] in names:
                names[operation.names[1]] = names.pop(operation.names[0])
            elif operation.kind == "U":
                names.pop(operation.names[0], None)
    return {name: bytes(contents.get(inode, b"")) for name, inode in names.items()}


def command_of(change: str, path: Path) -> list[str]:  # noqa: F811
    """A command line; beside the folder stands what it reads: an image, an affine, a field, a recipe."""
    beside = path.parent.parent
    files = {"image": "image.npy", "affine": "affine.txt", "field": "warp.nii", "recipe": "recipe.yaml"}
    places = {"path": path, "new": path.with_name("new.h5"), **{key: beside / name for key, name in files.items()}}
    places["affine"].write_text("# RAS mm\n1 0 0 5\n0 2 0 0\n0 0 1 0\n0 0 0 1\n")
    places["recipe"].write_text(f"file: {path}\nsteps:\n- rename-channel: {{channel: first, new_name: renamed}}\n")
    displacements = np.random.default_rng(0).normal(size=(9, 12, 10, 1, 3)).astype(np.float32)
    field = nib.Nifti1Image(displacements, np.diag([-1, -1, 1, 1]))
    field.header.set_intent("vector")
    nib.save(field, places["field"])
    return [argument.format(**places) for argument in CHANGES[change].split()]


@pytest.mark.parametrize("change", CHANGES)
def test_a_kill_at_any_moment(change: str, path: Path) -> None:  # noqa: F811
    folder = path.parent
    before = content(folder)
    target = path.with_name("new.h5") if "{new}" in CHANGES[change] else path
    usual = {*before, "brain.settings.xml"}
    dice = random.Random(change)
    for _ in range(KILLS):
        restore(folder, before)
        with children.Popen(
            [sys.executable, "-m", "lsfm_core.cli", *command_of(change, path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as child:
            # It takes long to begin, and is over soon then.
            while child.poll() is None and {file.name for file in folder.iterdir() if file.is_file()} <= usual:
                time.sleep(0.002)
            time.sleep(dice.uniform(0, 0.05))
            child.kill()
        recover(target)
        found = content(folder)
        if target.exists():
            assert verify_file(target).defects == ()
            assert set(found) == {*before, target.name, target.with_suffix(".xml").name}
        if target != path:
            assert {name: found.get(name) for name in before} == before
        elif found["brain.h5"] == before["brain.h5"]:
            assert found == before


@pytest.mark.parametrize("change", CHANGES)
def test_a_crash_at_any_point(change: str, path: Path, library: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = path.parent
    new = folder / "new.h5"
    before = content(folder)
    names = {file.name: file.stat().st_ino for file in folder.iterdir() if file.is_file()}
    files = {names[name]: data for name, data in before.items()}
    command = command_of(change, path)
    faults = {"LD_PRELOAD": str(library), "FAULT_FOLDER": str(folder), "FAULT_RECORD": str(tmp_path / "record")}
    children.run(
        [sys.executable, "-m", "lsfm_core.cli", *command], env={**os.environ, **faults}, check=True, stdout=subprocess.DEVNULL
    )
    after = content(folder)
    done = operations((tmp_path / "record").read_bytes())
    target = new if "{new}" in CHANGES[change] else path
    seen = set()
    dice = random.Random(change)
    for crash in range(CRASHES):
        # The last steps are few, and the most delicate.
        last = dice.randrange(len(done) + 1) if crash % 2 else len(done) - dice.randrange(min(len(done), 25))
        found = after_a_crash(done[:last], names, files, dice)
        shutil.rmtree(folder)
        folder.mkdir()
        for name, data in found.items():
            (folder / name).write_bytes(data)
        if target.exists() or any(name.startswith(f"{target.name}-journal") for name in found):
            recover(target)
        found = content(folder)
        wanted = after if target.exists() and found[target.name] == after[target.name] else before
        seen.add(wanted is after)
        for name in {*before, *wanted, target.name, target.with_suffix(".xml").name}:
            assert found.get(name) == wanted.get(name), (crash, last, len(done), name, sorted(found))
        if target.exists():
            assert set(found) == set(wanted), (crash, last)
            assert verify_file(target).defects == ()
    assert seen == {True, False}
