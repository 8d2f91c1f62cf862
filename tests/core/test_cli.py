"""The command line: what a person types, and what comes back."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from lsfm_core.cli import main
from lsfm_core.cli._options import memory
from lsfm_core.testing import write_series


def test_the_main_job(
    brain_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], info_json: Callable[[Path], Any]
) -> None:
    path, output = tmp_path / "brain.h5", tmp_path / "brain_100um.nii.gz"
    write = [
        "write",
        str(path),
        "--channel",
        "autofluo",
        "--image",
        str(brain_data / "structural_tiff"),
        "--voxel-size",
        "0.05,0.04,0.04",
    ]
    assert main([*write, "--origin-orientation", "psl"]) == 0
    assert "posterior -> anterior" in capsys.readouterr().out
    assert main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    assert "AIR (origin at psl)" in text
    assert "270 x 193 x 271" in text
    facts = info_json(path)["channels"][0]
    assert facts["axcodes"] == "AIR"
    assert [level["shape"] for level in facts["levels"]] == [[270, 193, 271], [135, 97, 136]]
    export = ["export", str(path), "--channel", "autofluo", "--resolution", "0.1", "--output", str(output)]
    assert main([*export, "--dry-run"]) == 0
    assert "108 x 135 x 77 voxels of 0.1" in capsys.readouterr().out
    assert not output.exists()
    assert main(export) == 0
    image = nibabel.load(output)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.shape == (108, 135, 77)
    assert np.asarray(image.dataobj).max() > 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nowhere.h5"], "nowhere.h5: no such file"),
        (["info", __file__], "not an HDF5 file"),
        (
            ["write", "x.h5", "--channel", "a", "--image", "nowhere", "--voxel-size", "1,1,1", "--orientation", "AAR"],
            "names one body axis twice",
        ),
        (
            ["write", "x.h5", "--channel", "a", "--image", "nowhere", "--voxel-size", "1,0,1", "--orientation", "AIR"],
            "positive length",
        ),
        (
            ["write", "x.h5", "--channel", "a", "--image", "nowhere", "--voxel-size", "1,1,1", "--orientation", "AIR"],
            "nowhere: no file found",
        ),
    ],
)
def test_errors_are_one_line_and_a_code(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 3
    text = capsys.readouterr().err
    assert message in text
    assert text.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert main([*arguments, "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["write", "x.h5"],
        ["write", "x.h5", "--channel", "a", "--image", "b", "--voxel-size", "1,2", "--orientation", "AIR"],
        ["write", "x.h5", "--channel", "a", "--image", "b", "--voxel-size", "1,2,x", "--orientation", "AIR"],
        ["export", "x.h5", "--channel", "a", "--output", "b.nii", "--resolution", "1,2"],
        ["export", "x.h5", "--channel", "a", "--output", "b.nii", "--memory", "lots"],
    ],
)
def test_unreadable_command_lines_are_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert text.endswith(f"for usage see lsfm-core{' ' + arguments[0] if arguments[1:] else ''} --help\n")
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("500MB", 5 * 10**8), ("4GiB", 4 * 2**30), ("1.5g", 15 * 10**8), ("1000", 1000)]
)
def test_memory_sizes(text: str, size: int) -> None:
    assert memory(text) == size


def test_version_names_the_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    text = capsys.readouterr().out
    for name in ("lsfm-core", "Python", "HDF5", "numpy", "h5py", "SimpleITK", "tifffile", "nibabel", "zarr"):
        assert f"{name} " in text


def test_a_bar_is_shown_at_a_terminal_only(volume: np.ndarray, tmp_path: Path) -> None:
    series = write_series(tmp_path / "series", np.tile(volume, (8, 1, 4)))
    command = f"{sys.executable} -m lsfm_core.cli write brain.h5 --channel a --image {series} --voxel-size 1,1,1 --orientation AIR"
    plain = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert plain.stderr == ""
    (tmp_path / "brain.h5").unlink()
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen(command.split(), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=theirs) as child:
        os.close(theirs)
        shown = b""
        # Linux ends a terminal without users by an I/O error.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    assert child.returncode == 0
    assert b"ingest" in shown
    assert b"B/s" in shown


def test_help_comes_without_the_heavy_imports() -> None:
    script = "import sys; from lsfm_core.cli import build_parser; build_parser(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "h5py", "SimpleITK", "pydantic", "nibabel"} & set(modules)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "lsfm_core.cli", "--help"], capture_output=True, check=True)
    assert time.perf_counter() - began < 2, "a bound for broken imports, not a benchmark"
