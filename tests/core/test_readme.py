"""The examples of the README and the docs, run as they stand, from top to bottom, in the folder that the README makes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lsfm_core import ExistsError, open_lsfm
from lsfm_core.cli import main
from lsfm_core.sample import write_sample

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
EXPORTS = (ROOT / "docs" / "exports.md").read_text("utf-8")
# What differs from run to run.
_TIMES = re.compile(r"[\d.]+ s( \([\d.]+ [kM]B/s\))?|at most \d+ MB")
#: A console block with what it prints, a line to paste, or an example in Python.
_EXAMPLE = re.compile(
    r"```console\n\$ lsfm-core (?P<shown>.*?)\n(?P<printed>.*?)```"
    r"|^    lsfm-core (?P<line>[^#\n]*)"
    r"|```python\n(?P<code>.*?)```",
    re.DOTALL | re.MULTILINE,
)


def test_the_readme_can_be_pasted_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = 0
    for example in _EXAMPLE.finditer(README):
        words = shlex.split(example["shown"] or example["line"] or "")
        if words[:1] in (["--help"], ["COMMAND"]):
            continue
        capsys.readouterr()
        if words:
            assert main(words) == 0, (words, capsys.readouterr().err)
        else:
            exec(compile(example["code"], "README.md", "exec"), {})
        said = capsys.readouterr().out
        if example["shown"]:
            assert _TIMES.sub("#", said).strip() == _TIMES.sub("#", example["printed"]).strip()
        if words[:1] == ["sample"]:
            monkeypatch.chdir(tmp_path / words[1])
        if example["code"]:
            assert "AIR (0.05, 0.04, 0.04)" in said and "(108, 135, 77)" in said
        done += 1
    assert done > 20
    # The file that the README has made is the one of the page on exports.
    (code,) = re.findall(r"```python\n(.*?)```", EXPORTS, re.DOTALL)
    exec(compile(code, "exports.md", "exec"), {})
    # What the transforms of the sample say is true: the signal lies on the template, and its cells in its regions.
    template, carried = (np.asarray(nib.load(name).dataobj, float) for name in ("template_100um.nii.gz", "cfos_in_template.nii.gz"))
    assert np.corrcoef(template.ravel(), carried.ravel())[0, 1] > 0.97
    rows = Path("cells_in_template.csv").read_text().splitlines()[1:]
    assert len(rows) == 6000 and sum(row.endswith(",0,") for row in rows) < 60
    with open_lsfm("brain.h5") as file:
        assert set(file) >= {"autofluo", "cfos", "atlas", "warp", "inverse_warp"}


def test_a_sample_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ExistsError, match="not empty: choose another folder"):
        write_sample(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
