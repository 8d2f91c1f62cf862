"""Exports into a real IPython: at a terminal, and as a magic."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lsfm_core
from lsfm_core import ExportRequest, IngestRequest, export_channel, ingest_channel
from lsfm_core.cli import interactive, main

pytest.importorskip("IPython")

VOXELS = np.random.default_rng(11).integers(0, 65536, (19, 34, 27), dtype=np.uint16)


@pytest.fixture
def brain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path(lsfm_core.__file__).parents[1]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    path = tmp_path / "brain.h5"
    ingest_channel(IngestRequest(path=path, channel="signal", image=VOXELS, voxel_size_mm=(0.05, 0.04, 0.04), orientation="AIR"))
    return path


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    "options",
    [
        ["export", "--interactive"],
        ["export", "--output", "x.nii.gz", "--", "--interactive"],
        ["export", "--grid", "0,0,0", "--size", "0.5", "--interactive"],
        ["export-slices", "--axis", "2", "--range", "3,4", "--interactive"],
    ],
    ids=["option", "as lsfmpy", "grid", "slices"],
)
def test_an_export_can_end_in_a_session(options: list[str], brain: Path) -> None:
    import pexpect

    verb, *rest = options
    words = ["-m", "lsfm_core.cli", verb, str(brain), "--channel", "signal", *rest]
    environment = {**os.environ, "TERM": "dumb", "PROMPT_TOOLKIT_NO_CPR": "1"}
    child = pexpect.spawn(sys.executable, words, cwd=str(brain.parent), env=environment, timeout=60, encoding="utf-8", echo=False)
    try:
        child.expect_exact("In [")
        code = {
            "export": "type(result).__name__, result.array.sum()",
            "export-slices": "(lambda p: (p[0], p[1].sum()))(next(result))",
        }[verb]
        if "--grid" in options:
            code = "'chunks', sum(chunk.volume.array.sum() for chunk in result)"
        child.sendline(f"print('found', *({code}), list(lsfm), lsfm['signal'].shape if 0 else lsfm.path)")
        plane = VOXELS.transpose(2, 0, 1)[:, :, ::-1][:, :, 3].sum()
        expected = {"export": f"Volume {VOXELS.sum()}", "export-slices": f"3 {plane}"}[verb]
        if "--grid" in options:
            expected = f"chunks {VOXELS.sum()}"
        child.expect_exact(f"found {expected} ['signal'] {brain}")
        child.sendline("exit")
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)
    assert child.exitstatus == 0
    assert (brain.parent / "x.nii.gz").exists() == ("--output" in options)


_NOTEBOOK = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
path = sys.argv[1]
def run(cell):
    result = shell.run_cell(cell)
    print("ok" if result.success else f"failed {type(result.error_in_exec).__name__}")
run("%load_ext lsfm_core")
run(f"volume = %lsfm export {path} --channel signal --resolution 0.1")
run("print(type(volume).__name__, volume.array.shape, volume.array.sum())")
run(f"chunks = %lsfm export {path} --channel signal --grid 0,0,0 --size 0.5")
run("print(sum(chunk.volume.array.sum() for chunk in chunks))")
run(f"planes = %lsfm export-slices {path} --channel signal --range 1,3")
run("print([index for index, plane in planes])")
run(f"written = %lsfm export {path} --channel signal --resolution 0.1 --output '{path}.nii.gz'")
run("print((written.array == volume.array).all())")
run(f"%lsfm rename-channel {path} --channel signal --to other")
run(f"volume = %lsfm export {path} --channel signal\\nprint('not reached')")
run(f"volume = %lsfm export {path}")
"""


def test_a_notebook_has_the_magic(brain: Path) -> None:
    volume = export_channel(ExportRequest(path=brain, channel="signal", resolution_mm=0.1)).volume
    assert volume is not None
    run = subprocess.run([sys.executable, "-c", _NOTEBOOK, brain], capture_output=True, text=True, check=False, timeout=120)
    assert run.stdout.split("\n")[:-1] == [
        "ok",
        "ok",
        f"Volume {volume.array.shape} {volume.array.sum()}",
        "ok",
        "ok",
        f"{VOXELS.sum()}",
        "ok",
        "ok",
        "[1, 2]",
        "ok",
        "ok",
        "True",
        "ok",
        f"{brain}: channel 'signal' becomes 'other'",
        "ok",
        "failed UsageError",
        "failed UsageError",
    ], run.stdout + run.stderr
    assert "no channel 'signal'; it has: other" in run.stderr
    assert "the following arguments are required: --channel" in run.stderr
    with lsfm_core.open_lsfm(brain) as file:
        records = file.log()
    assert [record.operation for record in records[1:3]] == ["export", "rename-channel"]
    assert records[1].command == (f"lsfm-core export {brain} --channel signal --resolution 0.1 --output {brain}.nii.gz")


def test_without_ipython_it_says_what_is_missing(
    brain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(interactive, "find_spec", lambda _: None)
    assert main(["export", str(brain), "--channel", "signal", "--interactive"]) != 0
    assert "napari-lsfm[interactive]" in capsys.readouterr().err


def test_an_export_without_a_session_needs_an_output(brain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("export", "export-slices"):
        with pytest.raises(SystemExit) as end:
            main([verb, str(brain), "--channel", "signal"])
        assert end.value.code == 2
        assert "--output" in capsys.readouterr().err
