"""Recipes: several requests from a YAML file, checked all at once, carried out against one open file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import nibabel
import numpy as np
import pytest
import yaml

from lsfm_core import (
    ExportRequest,
    IngestRequest,
    InputError,
    MissingError,
    SlicesRequest,
    export_channel,
    ingest_channel,
    open_lsfm,
)
from lsfm_core.arrays import ChunkCache
from lsfm_core.cli import main
from lsfm_core.export import _opened, export_chunks, export_slices, iter_chunks
from lsfm_core.recipes import read_recipe, recipe_schema

RECIPE = """
file: data/brain.h5
steps:
  - export: {channel: signal, resolution_mm: 0.1, output: a.nii.gz}
  - export:
      channel: signal
      transforms: [shift.txt:invert]
      output: b.nii
  - export-slices: {channel: signal, axis: 2, start: 3, stop: 5, output: planes/p_%02d.png}
  - export: {channel: signal, grid: [0, 0, 0], size_mm: 0.5, output: chunks}
  - merge: {manifest: chunks, output: c.npy}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with a recipe, its file below, and a transform."""
    folder = tmp_path / "study"
    (folder / "data").mkdir(parents=True)
    image = np.random.default_rng(11).integers(0, 65536, (19, 34, 27), dtype=np.uint16)
    path = folder / "data" / "brain.h5"
    ingest_channel(IngestRequest(path=path, channel="signal", image=image, voxel_size_mm=(0.05, 0.04, 0.04), orientation="AIR"))
    matrix = np.eye(4)
    matrix[0, 3] = 0.1
    np.savetxt(folder / "shift.txt", matrix)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_recipe_gives_what_its_steps_give_one_by_one(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The steps find the file open.
    monkeypatch.setattr(_opened, "open_lsfm", None)
    assert main(["run", str(study / "recipe.yaml")]) == 0
    monkeypatch.undo()
    assert "step 5 (merge): c.npy" in capsys.readouterr().out
    alone = study.parent / "alone"
    alone.mkdir()
    path, shift = study / "data" / "brain.h5", str(study / "shift.txt")
    export_channel(ExportRequest(path=path, channel="signal", resolution_mm=0.1, output=alone / "a.nii.gz"))
    export_channel(ExportRequest(path=path, channel="signal", transforms=f"{shift}:invert", output=alone / "b.nii"))
    export_slices(SlicesRequest(path=path, channel="signal", axis=2, start=3, stop=5, output=alone / "planes/p_%02d.png"))
    export_chunks(ExportRequest(path=path, channel="signal", grid=(0, 0, 0), size_mm=0.5, output=alone / "chunks"))
    made, expected = digests(study), digests(alone)
    expected.pop("chunks/manifest.json")
    assert {name: made[name] for name in expected} == expected
    whole = export_channel(ExportRequest(path=path, channel="signal")).volume
    assert whole is not None
    assert np.array_equal(np.load(study / "c.npy"), whole.array)
    with open_lsfm(path) as file:
        records = file.log()
    assert [record.operation for record in records[1:5]] == ["export", "export", "export-slices", "export"]
    assert records[1].command == f"lsfm-core run {study / 'recipe.yaml'}"


def test_a_dry_run_prints_every_plan_and_makes_nothing(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(study)
    assert main(["run", str(study / "recipe.yaml"), "--dry-run"]) == 0
    assert digests(study) == before
    text = capsys.readouterr().out
    assert [f"step {n}" in text for n in range(1, 6)] == [True] * 5
    assert "makes   11 x 10 x 14 voxels of 0.1 x 0.1 x 0.1 mm" in text
    assert "through" in text


def test_the_first_failure_ends_it_and_is_named(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [
        {"export": {"channel": "signal", "output": "first.nii"}},
        {"export": {"channel": "other", "output": "second.nii"}},
        {"export": {"channel": "signal", "output": "third.nii"}},
    ]
    recipe = study / "failing.yaml"
    recipe.write_text(yaml.safe_dump({"file": "data/brain.h5", "steps": steps}))
    assert main(["run", str(recipe)]) != 0
    message = capsys.readouterr().err
    assert f"{recipe}: step 2 (export): data/brain.h5: no channel 'other'" in message
    assert (study / "first.nii").exists()
    assert not (study / "third.nii").exists()


def test_all_defects_are_told_at_once(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        """
file: brain.h5
colour: red
steps:
  - export: {channel: signal, resolution_mm: -1, interpolation: cubic, output: a.nii}
  - export: {channel: signal, outptu: a.nii}
  - exprot: {}
  - export: {channel: signal, output: a.nii, path: other.h5, transforms: [{name: t, invert: perhaps}]}
  - [export]
  - merge: 3
"""
    )
    with pytest.raises(InputError) as caught:
        read_recipe(recipe)
    message = str(caught.value)
    assert message.startswith(f"{recipe}: colour: unknown")
    for part in (
        "step 1 (export): resolution",
        "interpolation: must be 'linear'",
        "step 2 (export): output: is missing",
        "outptu: is unknown",
        "step 3: unknown operation 'exprot'; there are: write, write-affine, remove-channel, rename-channel, add-metadata, ",
        "step 4 (export): path: is the recipe's file",
        "invert: input should be a valid boolean",
        "step 5: expected one operation",
        "step 6 (merge): expected the fields",
    ):
        assert part in message, part


@pytest.mark.parametrize(
    "text",
    [
        "file: [",
        "just text",
        "file: a.h5",
        "file: a.h5\nsteps: []",
        "steps:\n- export: {channel: a, output: b.nii}",
        "file: a.h5\nsteps:\n- export: {channel: a, channel: b, output: b.nii}",
        "file: a.h5\nsteps:\n- export: {channel: a, output: b.nii}\n  export: {channel: a, output: c.nii}",
        'file: a.h5\nsteps:\n- !!python/object/apply:os.mkdir ["evaluated"]',
        "file: a.h5\nsteps:\n- export: {channel: a, output: !!python/name:os.sep }",
    ],
)
def test_what_is_no_recipe_is_refused_and_never_evaluated(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(InputError, match=r"recipe\.yaml: "):
        read_recipe(recipe)
    assert not (tmp_path / "evaluated").exists()
    with pytest.raises(MissingError, match=r"none\.yaml: no such file"):
        read_recipe(tmp_path / "none.yaml")


EXPORTS: dict[str, list[str]] = {
    "a cuboid": ["export", "--origin=0.1,0.2,0.3", "--size", "0.4,0.3,0.2", "--fill=7", "--output", "x.nii"],
    "a chain": ["export", "--transform", "shift.txt:invert", "--resolution", "0.07", "--output", "x.nii"],
    "chunks": ["export", "--grid", "0,0,0", "--size", "0.5", "--output", "c_%d_%d_%d.nii"],
    "planes": ["export-slices", "--axis", "1", "--range", "2,9,3", "--roi", "1,2,5,6", "--output", "p_%d.png"],
}


@pytest.mark.parametrize("name", EXPORTS)
def test_a_dry_run_of_an_export_gives_its_recipe(
    name: str, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(study)
    verb, *options = EXPORTS[name]
    words = [verb, "data/brain.h5", "--channel", "signal", *options]
    assert main([*words, "--dry-run"]) == 0
    plan, _, entry = capsys.readouterr().out.partition("\n\n")
    assert "makes" in plan
    steps = yaml.safe_load(entry)
    assert len(steps) == 1
    (study / "entry.yaml").write_text(f"file: data/brain.h5\nsteps:\n{entry}")
    jsonschema.validate({"file": "data/brain.h5", "steps": steps}, recipe_schema())
    before = digests(study)
    assert main(["run", "entry.yaml", "--quiet"]) == 0

    def made() -> dict[str, str]:
        return {key: value for key, value in digests(study).items() if key not in before and "log" not in key}

    by_recipe = made()
    assert by_recipe
    for file in by_recipe:
        (study / file).unlink()
    assert main([*words, "--quiet"]) == 0
    assert made() == by_recipe


def test_the_schema_takes_recipes_and_refuses_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--schema"])
    schema = json.loads(capsys.readouterr().out)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(yaml.safe_load(RECIPE))
    spoilt: list[Any] = [
        {"file": "a.h5"},
        {"file": "a.h5", "steps": []},
        {"file": "a.h5", "steps": [{"export": {"channel": "a"}}]},
        {"file": "a.h5", "steps": [{"export": {"channel": "a", "output": "b", "level": -1}}]},
        {"file": "a.h5", "steps": [{"export": {"channel": "a", "output": "b", "path": "c"}}]},
        {"file": "a.h5", "steps": [{"exprot": {"channel": "a", "output": "b"}}]},
    ]
    for recipe in spoilt:
        assert not validator.is_valid(recipe), recipe


def test_exports_share_an_open_file_and_what_it_has_decoded(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = study / "data" / "brain.h5"
    request = ExportRequest(path=path, channel="signal", output=study / "x.nii")
    with open_lsfm(path, cache=ChunkCache(10**8)) as file:
        first = export_channel(request, file=file)
        assert first.written is not None
        assert file.cache.max_bytes == 10**8
        assert file.cache.nbytes <= first.plan.cache_bytes
        second = export_channel(request.model_copy(update={"output": None}), file=file).volume
        chunk = next(iter_chunks(request.model_copy(update={"output": None, "grid": (0, 0, 0), "size_mm": 0.5}), file=file))
        with pytest.raises(InputError, match="the open file is"):
            export_channel(request.model_copy(update={"path": study / "other.h5"}), file=file)
        assert file["signal"].levels[0][0].shape == (34, 27)
    assert second is not None
    stored = np.asarray(nibabel.load(study / "x.nii").dataobj)
    assert np.array_equal(second.array, stored)
    box = tuple(slice(a, b) for a, b in zip(chunk.box.starts, chunk.box.stops, strict=True))
    assert np.array_equal(chunk.volume.array, stored[box])


def test_points_are_steps_too_and_can_be_replayed(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study / "cells.csv").write_text("z,y,x\n1,2,3\n4,5,6\n")
    (study / "points.yaml").write_text(
        "file: data/brain.h5\nsteps:\n- transform-points: {channel: signal, points: cells.csv, output: out.csv, counts: null}\n"
    )
    path = study / "data" / "brain.h5"
    assert main(["run", str(study / "points.yaml")]) == 0
    assert (
        main(
            [
                "transform-points",
                str(study / "cells.csv"),
                "--file",
                str(path),
                "--channel",
                "signal",
                "--output",
                str(study / "alone.csv"),
            ]
        )
        == 0
    )
    assert (study / "out.csv").read_bytes() == (study / "alone.csv").read_bytes()
    assert main(["replay", str(path), "2", "--output", str(study / "again.csv")]) == 0
    assert "identical" in capsys.readouterr().out
    with open_lsfm(path) as file:
        record = file.log()[1]
    assert (record.operation, record.channel) == ("transform-points", "signal")
    assert [Path(entry.path).name for entry in record.inputs] == ["brain.h5", "cells.csv"]


def test_a_kept_result_is_what_was_written(study: Path) -> None:
    request = ExportRequest(path=study / "data" / "brain.h5", channel="signal", resolution_mm=0.07, output=study / "x.nii.gz")
    kept = export_channel(request, keep=True)
    plain = export_channel(request.model_copy(update={"output": study / "y.nii.gz"}))
    assert kept.volume is not None
    assert np.array_equal(kept.volume.array, np.asarray(nibabel.load(study / "y.nii.gz").dataobj))
    assert kept.written is not None
    assert plain.written is not None
    assert kept.written.checksum == plain.written.checksum
    assert plain.volume is None
