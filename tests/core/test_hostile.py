"""Files that are damaged, or made to harm: one error of ours, never a hang, a crash, or somebody else's file in an export."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lsfm_core import IngestRequest, ingest_channel
from lsfm_core.cli import main

#: Mutated files, and where the numbers that they are made from begin; a soak asks for more.
MUTANTS = int(os.environ.get("LSFM_MUTANTS", "24"))

# Does everything with each file that it is given, and names what was raised that is no LsfmError. A child: HDF5 may crash.
_USE = """
import faulthandler, shutil, signal, sys, traceback
from pathlib import Path
import numpy as np
from lsfm_core import *

faulthandler.enable()
faulthandler.dump_traceback_later(600, exit=True)

def look(path):
    with open_lsfm(path) as file:
        describe_file(file)
        file.log(), file.metadata(), file.remarks
        for name, channel in file.channels.items():
            channel.sources, file.label_table(name), file.acquisition(name), file.metadata(name)
            [file.affine(name, affine) for affine in channel.affines]

def export(path):
    output = path.with_name("out.nii")
    output.unlink(missing_ok=True)
    export_channel(ExportRequest(path=path, channel="autofluo", output=output, resolution_mm=0.1))

def region(path):
    selection = RegionSelection(select=("A",), labels_channel="atlas")
    export_channel(ExportRequest(path=path, channel="autofluo", region=selection))

def repack(path):
    repack_file(RepackRequest(path=path, output=path.with_name("repacked.h5"), overwrite=True))

def note(path):
    apply_edit(AddMetadataRequest(path=path, values={"k": "v"}))

def rename(path):
    apply_edit(RenameChannelRequest(path=path, channel="autofluo", new_name="other"))

def add(path):
    image = np.zeros((5, 6, 7), np.uint8)
    ingest_channel(IngestRequest(path=path, channel="new", image=image, voxel_size_mm=(1, 1, 1), orientation="AIR"))

for name in sys.argv[1:]:
    for use in (look, verify_file, export, region, repack, note, rename, add):
        path = Path(name).with_name("used") / "brain.h5"
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        shutil.copy(name, path)
        try:
            use(path)
        except LsfmError:
            pass
        except BaseException as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            print(f"{name}: {use.__name__}: {type(error).__name__}: {error} ({frame.filename}:{frame.lineno})")
"""


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file with some of everything."""
    folder = tmp_path_factory.mktemp("whole")
    path, table, affine = folder / "brain.h5", folder / "labels.csv", folder / "affine.txt"
    table.write_text("id,acronym,name\n1,A,first\n2,B,second\n")
    affine.write_text("1 0 0 0\n0 1 0 0\n0 0 1 0.1\n0 0 0 1\n")
    image = np.random.default_rng(0).integers(0, 1000, (12, 14, 16)).astype(np.uint16)
    place = {"voxel_size_mm": (0.05, 0.04, 0.04), "orientation": "AIR"}
    ingest_channel(IngestRequest(path=path, channel="autofluo", image=image, **place))
    ingest_channel(IngestRequest(path=path, channel="atlas", kind="labels", image=image % 3, labels=table, **place))
    assert main(["write-affine", str(path), "--channel", "autofluo", "--name", "moved", "--affine", str(affine)]) == 0
    assert main(["add-metadata", str(path), "specimen=mouse-42"]) == 0
    return path


def test_files_with_bytes_exchanged_at_random_raise_errors_of_ours_only(whole_file: Path, tmp_path: Path) -> None:
    data = whole_file.read_bytes()
    mutants = []
    for seed in range(MUTANTS):
        dice = random.Random(seed)
        mutant = bytearray(data)
        for _ in range(dice.choice([1, 4, 16, 64])):
            mutant[dice.randrange(len(data))] = dice.randrange(256)
        mutants.append(tmp_path / f"{seed}.h5")
        mutants[-1].write_bytes(mutant)
    done = subprocess.run(
        [sys.executable, "-c", _USE, *map(str, mutants)], capture_output=True, text=True, check=False, timeout=60 + 10 * MUTANTS
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stderr[-3000:]
