"""A recipe for many files: those that fail keep no other from it, and what is done is not done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from lsfm_core import open_lsfm
from lsfm_core.cli import main
from lsfm_core.testing import write_series

RECIPE = """
steps:
  - export: {channel: autofluo, output: x.nii}
  - region-table: {channel: autofluo, labels_channel: atlas, output: x.csv}
"""
SET = ["--set", "export.output={stem}.nii", "--set", "region-table.output={folder}/{stem}.csv"]


@pytest.fixture
def study(small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three files, of which the second is none, and a recipe elsewhere."""
    (tmp_path / "cohort").mkdir()
    (tmp_path / "recipes").mkdir()
    for name in ("a", "c"):
        (tmp_path / "cohort" / f"{name}.h5").write_bytes(small_file.read_bytes())
    (tmp_path / "cohort" / "b.h5").write_text("no HDF5")
    (tmp_path / "recipes" / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    return main(["run", "recipes/recipe.yaml", "--files", "cohort/*.h5", *words])


@pytest.mark.parametrize("how", [[], ["--jobs", "2"]], ids=["one by one", "two at a time"])
def test_each_file_gets_its_own(how: list[str], study: Path, small_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*SET, *how) == 1
    shown = capfd.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].split() == ["file", "steps", "seconds", "error"]
    assert [line.split()[:2] for line in lines[1:]] == [["a.h5", "2/2"], ["b.h5", "0/2"], ["c.h5", "2/2"]]
    assert "not an HDF5 file" in lines[2] and "1 of 3 files failed" in shown.err
    with open_lsfm(small_file) as file:
        voxels = np.asarray(file["autofluo"].levels[0]).transpose(2, 0, 1)[:, :, ::-1]
    for name in ("a", "c"):
        np.testing.assert_array_equal(np.asarray(nibabel.load(study / "recipes" / f"{name}.nii").dataobj), voxels)
        assert (study / "cohort" / f"{name}.csv").is_file()
    # Once it can be read, only that file is left to do.
    (study / "cohort" / "b.h5").write_bytes(small_file.read_bytes())
    made = {path: path.stat().st_mtime_ns for path in (study / "recipes" / "a.nii", study / "cohort" / "c.csv")}
    assert run(*SET, "--continue") == 0
    assert (study / "recipes" / "b.nii").is_file()
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_going_on_begins_at_the_step_that_failed(study: Path, small_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (study / "cohort" / "b.h5").unlink()
    (study / "cohort" / "a.csv").mkdir()
    assert run(*SET, "--json") == 1
    rows: list[dict[str, Any]] = json.loads(capfd.readouterr().out)
    assert [(row["steps"], row["of"]) for row in rows] == [(1, 2), (2, 2)]
    (study / "cohort" / "a.csv").rmdir()
    # The first step would find its output there.
    assert run(*SET, "--continue", "--quiet") == 0
    assert (study / "cohort" / "a.csv").is_file()
    # Of another recipe nothing is known.
    (study / "recipes" / "recipe.yaml").write_text(f"{RECIPE}# other\n")
    assert run(*SET, "--continue", "--quiet") == 1


def test_shards_take_parts_of_the_files(study: Path) -> None:
    (study / "cohort" / "b.h5").unlink()
    assert run(*SET, "--shard", "2/2", "--quiet") == 0
    assert [path.stem for path in (study / "recipes").glob("*.nii")] == ["c"]


def test_folders_of_planes_become_files(study: Path) -> None:
    planes = np.arange(2 * 6 * 7 * 8, dtype=np.uint16).reshape(2, 6, 7, 8)
    for number in range(2):
        write_series(study / "raw" / f"brain{number}", planes[number])
    (study / "recipes" / "recipe.yaml").write_text(
        "steps:\n  - write: {channel: s, image: x, voxel_size_mm: [0.05, 0.04, 0.04], orientation: AIR}\n"
    )
    words = ["--files", "raw/*", "--set", "file={stem}.h5", "--set", "image={path}", "--quiet"]
    assert main(["run", "recipes/recipe.yaml", *words]) == 0
    for number in range(2):
        with open_lsfm(study / "recipes" / f"brain{number}.h5") as file:
            np.testing.assert_array_equal(np.asarray(file["s"].levels[0]), planes[number])


def test_what_cannot_be_is_told_before_any_file_is_touched(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (SET[:2], r"step 2 \(region-table\)|x.csv would be made of a.h5 and of b.h5"),
        (["--set", "output={stem}.nii"], "output: steps 1, 2 have such a field: name the step"),
        (["--set", "frobs=1"], "frobs: no step has such a field"),
        (["--set", "export.output={step}.nii"], "{step} stands for nothing; there are {stem}"),
        (["--set", "x"], "expected FIELD=VALUE"),
        ([*SET, "--jobs", "0"], "--jobs: must be at least 1"),
        ([*SET, "--files", "none/*.h5"], "none/*.h5: there is no such file"),
    ):
        assert run(*words) == 3
        err = capsys.readouterr().err
        assert any(part in err for part in said.split("|")), (words, err)
    assert main(["run", "recipes/recipe.yaml", "--jobs", "2"]) == 3
    assert "--jobs: is for many files" in capsys.readouterr().err
    assert [path.name for path in (study / "recipes").iterdir()] == ["recipe.yaml"]
