"""The examples of the README and the docs, run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lsfm_core.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
EXPORTS = (ROOT / "docs" / "exports.md").read_text("utf-8")
# What differs from run to run.
_TIMES = re.compile(r"[\d.]+ s( \([\d.]+ MB/s\))?|at most \d+ MB")


@pytest.fixture
def beside_the_data(tmp_path: Path, brain_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for source in (*brain_data.iterdir(), *(brain_data / "transforms").iterdir()):
        name = source.name.replace("template_to_structural_", "").replace("annotation_in_structural_100um", "annotation")
        (tmp_path / name).symlink_to(source)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_print_what_the_readme_shows(beside_the_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        command, expected = block.split("\n", 1)
        assert main(shlex.split(command.removeprefix("$ lsfm-core "))) == 0
        assert _TIMES.sub("#", capsys.readouterr().out).strip() == _TIMES.sub("#", expected).strip()
    for line in re.findall(r"^    lsfm-core ([^#\n]*)", README, re.MULTILINE):
        assert main(shlex.split(line)) == 0, line
        capsys.readouterr()
    # The file that the README has made is the one of the page on exports.
    (code,) = re.findall(r"```python\n(.*?)```", EXPORTS, re.DOTALL)
    exec(compile(code, "exports.md", "exec"), {})


def test_the_python_example_runs(beside_the_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "AIR (0.05, 0.04, 0.04)" in shown
    assert "(108, 135, 77)" in shown
