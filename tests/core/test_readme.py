"""The examples of the README and of the site's pages, run as they stand, in the folder that the README makes."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import lsfm_core
from lsfm_core import ExistsError, open_lsfm
from lsfm_core.cli import main
from lsfm_core.sample import write_sample

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: Pages whose examples go on from what the README's have made.
PAGES = [
    "exports.md",
    *(f"howto/{path.name}" for path in sorted(DOCS.glob("howto/*.md"))),
    "concepts/orientation.md",
    "concepts/spaces.md",
]
# What differs from run to run.
_TIMES = re.compile(r"[\d.]+ s( \([\d.]+ [kM]B/s\))?|at most \d+ MB")
#: A console block with what it prints, a line to paste, or an example in Python. What is fenced otherwise (``sh``) is not run.
_EXAMPLE = re.compile(
    r"```console\n\$ lsfm-core (?P<shown>.*?)\n(?P<printed>.*?)```"
    r"|^    lsfm-core (?P<line>[^#\n]*)"
    r"|```python\n(?P<code>.*?)```(?:\n\n```text\n(?P<told>.*?)```)?",
    re.DOTALL | re.MULTILINE,
)


def run_examples(page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run what a page shows from top to bottom, and give what each has printed; it must be what the page says that it is."""
    printed = []
    for example in _EXAMPLE.finditer(page.read_text("utf-8")):
        # Of the manual, only what is Python goes on from the README.
        if not example["code"] and page.name == "exports.md":
            continue
        words = shlex.split(example["shown"] or example["line"] or "")
        if words[:1] in (["--help"], ["--version"], ["COMMAND"]):
            continue
        capsys.readouterr()
        if words:
            assert main(words) == 0, (page.name, words, capsys.readouterr().err)
        else:
            exec(compile(example["code"], page.name, "exec"), {})
        said = capsys.readouterr().out
        if example["told"]:
            assert said.strip() == example["told"].strip()
        if example["shown"]:
            assert _TIMES.sub("#", said).strip() == _TIMES.sub("#", example["printed"]).strip()
        if words[:1] == ["sample"]:
            monkeypatch.chdir(words[1])
        printed.append(said)
    return printed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


@pytest.mark.slow
def test_the_readme_can_be_pasted_line_by_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    printed = run_examples(ROOT / "README.md", capsys, monkeypatch)
    assert len(printed) > 10
    assert "AIR (0.05, 0.04, 0.04)" in "".join(printed) and "(108, 135, 77)" in "".join(printed)
    # What the transforms of the sample say is true: the signal lies on the template, and its cells in its regions.
    template, carried = (np.asarray(nib.load(name).dataobj, float) for name in ("template_100um.nii.gz", "cfos_in_template.nii.gz"))
    assert np.corrcoef(template.ravel(), carried.ravel())[0, 1] > 0.97
    rows = Path("cells_in_template.csv").read_text().splitlines()[1:]
    assert len(rows) == 6000 and sum(row.endswith(",0,") for row in rows) < 60
    with open_lsfm("brain.h5") as file:
        assert set(file) >= {"autofluo", "cfos", "atlas", "autofluo_to_template_warp"}


@pytest.mark.parametrize("page", PAGES)
def test_the_page_goes_on_from_there(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    again = folder / "again"
    made = next((place for place in (folder / "specimen", again / "specimen") if (place / "brain.h5").is_file()), None)
    if made is None:
        # The README's own test is run by another process, later, or not at all.
        again.mkdir()
        monkeypatch.chdir(again)
        run_examples(ROOT / "README.md", capsys, monkeypatch)
        made = again / "specimen"
    monkeypatch.chdir(made)
    assert run_examples(DOCS / page, capsys, monkeypatch) or page.endswith(("index.md", "cluster.md", "network.md", "report.md"))


def test_the_first_hour_prints_what_it_says_of_the_real_brain(
    brain_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, real in runpy.run_path(str(DOCS / "pictures.py"))["NAMES"].items():
        (tmp_path / name).symlink_to(brain_data / real)
    monkeypatch.chdir(tmp_path)
    run_examples(DOCS / "first-hour.md", capsys, monkeypatch)
    # The thalamus has as much room as its voxels in the annotation, but for what the way to the atlas stretches.
    tree = pd.read_csv("structure_tree.csv").set_index("id")
    parts = {"TH"}
    while more := {*tree.acronym[tree.parent_structure_id.isin(tree.index[tree.acronym.isin(parts)])]} - parts:
        parts |= more
    named = re.findall(r'^\s*(\d+)\s.*\((.*)\)"$', Path("labels_itksnap.txt").read_text(), re.MULTILINE)
    ids = [int(number) for number, acronym in named if acronym in parts]
    native = np.isin(np.asarray(nib.load("annotation.nii.gz").dataobj), ids).sum() * 0.1**3
    carried = nib.load("thalamus.nii.gz")
    assert nib.aff2axcodes(carried.affine) == ("R", "A", "S")
    assert np.count_nonzero(carried.dataobj) * 0.05**3 == pytest.approx(native, rel=0.1)


def test_the_reference_has_every_public_name_once() -> None:
    pages = "".join(page.read_text("utf-8") for page in DOCS.glob("reference/*.md"))
    shown = re.findall(r"^::: lsfm_core\.(\w+)$", pages, re.MULTILINE)
    assert sorted(shown) == sorted(lsfm_core.__all__), "a public name belongs to one page of docs/reference/, as ::: lsfm_core.NAME"


def test_a_sample_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ExistsError, match="not empty: choose another folder"):
        write_sample(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
