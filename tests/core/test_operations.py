"""Every operation alike: shown before it runs, asked for by a recipe, done again; and the file in between."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import jsonschema
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lsfm_core
from lsfm_core import (
    AddMetadataRequest,
    AffineRequest,
    IngestRequest,
    InputError,
    LsfmError,
    RemoveChannelRequest,
    RemoveMetadataRequest,
    RenameChannelRequest,
    apply_edit,
    describe_edit,
    edit_lsfm,
    ingest_channel,
    open_lsfm,
    plan_repack,
)
from lsfm_core.cli import build_parser, main
from lsfm_core.edits import Edit
from lsfm_core.recipes import OPERATIONS, read_recipe, recipe_entry, recipe_schema
from lsfm_core.store import RepackRequest
from lsfm_core.testing import write_series

from . import children
from .effort import examples

VOXELS = np.random.default_rng(4).integers(0, 65536, (19, 34, 27), dtype=np.uint16)
FIELD = np.random.default_rng(5).normal(0, 0.01, (8, 9, 10, 3)).astype(np.float32)


def write_field(path: Path) -> None:
    """A displacement field as ANTs writes it."""
    import SimpleITK as sitk

    sitk.WriteImage(sitk.GetImageFromArray(FIELD, isVector=True), str(path))


def write_atlas(folder: Path) -> None:
    """A template, and an atlas as BrainGlobe keeps it."""
    import SimpleITK as sitk
    import tifffile

    template = sitk.GetImageFromArray(VOXELS)
    template.SetSpacing((0.04, 0.04, 0.05))
    # Where the channel is, which lies in L, P, S between these and 0.
    template.SetOrigin([-(n - 1) * s for n, s in zip(template.GetSize()[:2], (0.04, 0.04), strict=True)] + [0.0])
    sitk.WriteImage(template, str(folder / "template.nrrd"))
    (folder / "atlas").mkdir()
    tifffile.imwrite(folder / "atlas" / "reference.tiff", VOXELS)
    tifffile.imwrite(folder / "atlas" / "annotation.tiff", (VOXELS % 2).astype(np.uint32))
    (folder / "atlas" / "metadata.json").write_text('{"name": "small", "resolution": [100, 100, 100], "orientation": "asr"}')
    (folder / "atlas" / "structures.csv").write_text("id,acronym,name,structure_id_path\n1,A,first,/1/\n")


def write_legacy(path: Path) -> None:
    """A file as lsfmpy wrote it, of one channel."""
    with h5py.File(path, "w") as h5:
        image = h5.create_group("LSFM/old/IMAGE")
        image.attrs.update({"spacing": [[0.05, 0.04, 0.04]], "is_segmentation": False, "is_multichannel": False, "pixel_type": 3})
        image.create_dataset("0/cells", data=VOXELS.astype(np.int16), chunks=(8, 8, 8))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that a study begins with, but no HDF5 file. Not to be changed: `study` is a copy."""
    folder = tmp_path_factory.mktemp("begun")
    write_series(folder / "planes", VOXELS)
    write_series(folder / "signal", VOXELS[::-1])
    write_field(folder / "warp.nrrd")
    np.savetxt(folder / "shift.txt", np.array([[1, 0, 0, 0.1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    write_atlas(folder)
    write_legacy(folder / "legacy.h5")
    (folder / "cells.csv").write_text("z,y,x\n1,2,3\n4,5,6\n")
    (folder / "more.json").write_text('{"weeks": 12, "deep": {"a": [1, null]}}')
    return folder


@pytest.fixture(scope="module")
def ingested(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a file: a channel with an affine and metadata, chunks of it, and labels."""
    folder = Path(shutil.copytree(begun, tmp_path_factory.mktemp("ingested"), dirs_exist_ok=True))
    with contextlib.chdir(folder):
        ingest_channel(of_planes())
        apply_edit(AffineRequest(path="brain.h5", channel="a", name="old", affine="shift.txt"))
        apply_edit(
            AffineRequest(path="brain.h5", channel="a", name="aside", affine="shift.txt", from_space="left", to_space="right")
        )
        apply_edit(AddMetadataRequest(path="brain.h5", values={"specimen": "7"}))
        assert (
            main(["export", "brain.h5", "--channel", "a", "--grid", "0,0,0", "--size", "0.5", "--output", "chunks", "--quiet"]) == 0
        )
        ingest_channel(of_planes(channel="ids", image=VOXELS // 16384, kind="labels"))
    return folder


@pytest.fixture
def study(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with all that a study begins with, but no HDF5 file."""
    monkeypatch.chdir(shutil.copytree(begun, tmp_path, dirs_exist_ok=True))
    return tmp_path


@pytest.fixture
def brain(ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with a file: a channel with an affine and metadata, chunks of it, and labels."""
    monkeypatch.chdir(shutil.copytree(ingested, tmp_path, dirs_exist_ok=True))
    return tmp_path / "brain.h5"


def of_planes(**fields: Any) -> IngestRequest:
    values = {"path": "brain.h5", "channel": "a", "image": "planes", "voxel_size_mm": (0.05, 0.04, 0.04), "orientation": "AIR"}
    return IngestRequest(**{**values, **fields})


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def operations(path: Path | str) -> list[str]:
    with open_lsfm(path) as file:
        return [record.operation for record in file.log()]


# --- shown before it runs ---------------------------------------------------------------------------------------------------

LINES = {
    "write": "write brain.h5 --channel b --image planes --voxel-size 0.05,0.04,0.04 --orientation AIR --compression-level 2",
    "write a new file": "write new.h5 --channel b --image planes --voxel-size 0.05,0.04,0.04 --origin-orientation psl",
    "write-field": "write-field brain.h5 --channel warp --image warp.nrrd --from a --to atlas",
    "write-affine": "write-affine brain.h5 --channel a --name new --affine shift.txt --to atlas",
    "remove-channel": "remove-channel brain.xml --channel a",
    "rename-channel": "rename-channel brain.h5 --channel a --to 'b c'",
    "set-space": "set-space brain.h5 --transform old --to atlas",
    "set-space of a channel": "set-space brain.h5 --channel a --space 'b c'",
    "rename-space": "rename-space brain.h5 --space a --to atlas",
    "link-spaces": "link-spaces brain.h5 --space left --to a",
    "import-registration": "import-registration brain.h5 warp.nrrd --tool itk --channel a --atlas-space atlas",
    "register": "register brain.h5 --channel a --to-image template.nrrd --space atlas --transform Translation",
    "registration-inputs": "registration-inputs brain.h5 --channel a --resolution 0.1 --output reg",
    "add-atlas": "add-atlas brain.h5 --atlas atlas",
    "seal": "seal brain.h5",
    "upgrade": "upgrade legacy.h5 upgraded.h5 --orientation old=AIR --origin old=1,2,3",
    "add-metadata": "add-metadata brain.h5 specimen=8 'a b=c=d' --overwrite",
    "add-metadata json": "add-metadata brain.h5 --from-json more.json --channel a",
    "remove-metadata": "remove-metadata brain.h5 specimen",
    "repack": "repack brain.h5 --compression-level 3 --rechunk 8,8,8",
    "xml": "xml brain.h5",
    "link": "link all.h5 brain.h5",
    "export": "export brain.h5 --channel a --transform shift.txt:invert --resolution 0.1 --output x.nii.gz",
    "export-slices": "export-slices brain.h5 --channel a --axis 2 --range 2,9,3 --output 'p/%02d.png'",
    "transform-points": "transform-points cells.csv --file brain.h5 --channel a --transform old --output out.csv",
    "export-transform": "export-transform brain.h5 --channel a --transform old --output x.tfm",
    "region-table": "region-table brain.h5 --channel a --labels-channel ids --side --percentiles 1,99 --output out.tsv",
    "merge": "merge chunks --output whole.npy",
    "preview": "preview brain.h5 --channel a --projection max --output x.png",
}


@pytest.fixture(scope="module")
def schema() -> jsonschema.Validator:
    """That of recipes, which is looked at once."""
    kind = jsonschema.validators.validator_for(recipe_schema())
    kind.check_schema(recipe_schema())
    return kind(recipe_schema())


def test_every_operation_is_tried_here() -> None:
    verbs = {name.split()[0] for name in LINES}
    assert OPERATIONS.keys() == verbs - {"write-field"}


@pytest.mark.parametrize("name", LINES)
def test_a_dry_run_changes_nothing_and_its_entry_asks_for_the_same(
    name: str, brain: Path, schema: jsonschema.Validator, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(LINES[name])
    before = content(brain.parent)
    assert main([*words, "--dry-run"]) == 0
    assert content(brain.parent) == before
    plan, _, entry = capsys.readouterr().out.partition("\n\n")
    assert plan.strip()
    arguments = build_parser().parse_args(words)
    request = arguments.request_of(arguments)
    Path("recipe.yaml").write_text(f"file: {getattr(request, 'path', 'brain.h5')}\nsteps:\n{entry}")
    schema.validate(yaml.safe_load(Path("recipe.yaml").read_text()))
    (step,) = read_recipe(Path("recipe.yaml")).steps
    assert step.request == request
    Path("p").mkdir(exist_ok=True)
    assert main(["run", "recipe.yaml", "--quiet"]) == 0
    Path("recipe.yaml").unlink()
    assert content(brain.parent) != before
    capsys.readouterr()
    main([*words, "--dry-run", "--quiet"])
    assert capsys.readouterr().out == ""


REFUSED = {
    "write brain.h5 --channel a --image planes --voxel-size 0.05,0.04,0.04 --orientation AIR": 1,
    "write brain.h5 --channel b --image planes": 3,
    "write-field brain.h5 --channel warp --image warp.nrrd --inverse-of a": 3,
    "write-affine brain.h5 --channel a --name old --affine shift.txt": 1,
    "write-affine brain.h5 --channel a --name new --affine cells.csv": 3,
    "write-affine brain.h5 --channel a --name new/er --affine shift.txt": 3,
    "write-affine nowhere.h5 --channel a --name new --affine shift.txt": 3,
    "set-space brain.h5 --channel a": 3,
    "set-space brain.h5 --channel b --space a": 3,
    "set-space brain.h5 --channel a --space ' x'": 3,
    "set-space brain.h5 --channel a --transform old --to x": 3,
    "set-space brain.h5 --transform new --to x": 3,
    "write brain.h5 --channel b --image planes --voxel-size 0.05,0.04,0.04 --orientation AIR --from x": 3,
    "remove-channel brain.h5 --channel b": 3,
    "rename-channel brain.h5 --channel b --to c": 3,
    "rename-channel brain.h5 --channel a --to a": 1,
    "rename-channel brain.h5 --channel a --to ' '": 3,
    "add-metadata brain.h5 specimen=8": 1,
    "add-metadata brain.h5 --channel b specimen=8": 3,
    "remove-metadata brain.h5 other": 3,
    "repack brain.h5 --output brain.xml": 1,
    "export brain.h5 --channel a --resolution 1e-300 --output x.nii": 3,
    "export brain.h5 --channel a --origin=-1,1,1 --size 1e300,1,1 --output x.nii": 3,
    "repack brain.h5 --output chunks/none/x.h5": 1,
    "upgrade legacy.h5 brain.h5 --orientation AIR": 1,
    "upgrade legacy.h5 new.h5": 3,
    "upgrade legacy.h5 new.h5 --orientation AIR --orientation b=AIR": 3,
    "upgrade brain.h5 new.h5 --orientation AIR": 3,
    "transform-points cells.csv --file brain.h5 --channel a --output cells.csv": 1,
    "transform-points cells.csv --file brain.h5 --channel a --columns p,q,r --output x.csv": 3,
    "merge planes --output whole.npy": 3,
    "merge chunks --output chunks/chunk_00_00_00.nii.gz --overwrite": 3,
    "export brain.h5 --channel a --reference warp.nrrd --output warp.nrrd --overwrite": 3,
    "preview brain.h5 --labels-channel a --output x.png": 3,
    "preview brain.h5 --channel b --output x.html": 3,
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_dry_run_fails_as_the_command_does(line: str, brain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line)
    before = content(brain.parent)
    assert main([*words, "--dry-run"]) == REFUSED[line]
    planned = capsys.readouterr().err
    assert content(brain.parent) == before
    assert main(words) == REFUSED[line]
    assert capsys.readouterr().err == planned


def test_edits_from_python_are_as_those_of_the_command_line(brain: Path) -> None:
    matrix = ((1, 0, 0, 0.5), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
    edits: list[Edit] = [
        AffineRequest(path=brain, channel="a", name="inline", affine=matrix),
        RenameChannelRequest(path=brain.with_suffix(".xml"), channel="a", new_name="b"),
        RemoveMetadataRequest(path=brain, key="specimen"),
        RemoveChannelRequest(path=brain, channel="b"),
    ]
    for edit in edits:
        assert describe_edit(edit) == apply_edit(edit).text
        with pytest.raises(LsfmError) as caught:
            apply_edit(edit)
        with pytest.raises(LsfmError) as planned:
            describe_edit(edit)
        assert str(caught.value) == str(planned.value)
    with open_lsfm(brain) as file:
        done = [record for record in file.log() if record.outcome == "done"][-4:]
        failed = [record for record in file.log() if record.outcome == "failed"]
    assert [record.operation for record in done] == [edit.operation for edit in edits] == [record.operation for record in failed]
    assert [record.request for record in done] == [edit.model_dump(mode="json") for edit in edits]


def test_a_plan_of_a_repack_is_no_worse_than_it_says(brain: Path) -> None:
    request = RepackRequest(path=brain, compression=0)
    before = content(brain.parent)
    plan = plan_repack(request)
    assert content(brain.parent) == before
    assert main(["repack", "brain.h5", "--compression-level", "0"]) == 0
    assert plan.old_bytes == len(before["brain.h5"])
    assert brain.stat().st_size <= plan.new_bytes


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3),
    max_leaves=6,
)
CHANNEL = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/"), min_size=1).filter(
    lambda name: name not in (".", "..")
)
MADE = st.one_of(
    st.builds(
        AddMetadataRequest, path=st.just("x.h5"), channel=st.none() | CHANNEL, values=st.dictionaries(st.text(), VALUES, min_size=1)
    ),
    st.builds(RenameChannelRequest, path=st.just("x.h5"), channel=CHANNEL, new_name=CHANNEL),
    st.builds(
        IngestRequest,
        path=st.just("x.h5"),
        channel=CHANNEL,
        image=st.text(min_size=1),
        image_channel=st.none() | st.integers(0, 9) | st.text(min_size=1),
        voxel_size_mm=st.none() | st.tuples(*[st.floats(1e-6, 10)] * 3),
        origin_mm=st.none() | st.tuples(*[st.floats(-1e3, 1e3)] * 3),
        orientation=st.none() | st.sampled_from(["AIR", "RAS"]),
        compression=st.integers(0, 3),
        resume=st.booleans(),
    ),
)


@given(request=MADE)
@settings(
    max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_what_is_printed_for_a_recipe_is_read_as_the_same_request(request: Any, tmp_path: Path) -> None:
    name = "write" if isinstance(request, IngestRequest) else request.operation
    (tmp_path / "recipe.yaml").write_text(f"file: x.h5\nsteps:\n{recipe_entry(name, request)}", "utf-8")
    (step,) = read_recipe(tmp_path / "recipe.yaml").steps
    assert step.request == request


# --- recipes that change the file -------------------------------------------------------------------------------------------

RECIPE = """
file: brain.h5
steps:
  - write: {channel: a, image: planes, voxel_size_mm: [0.05, 0.04, 0.04], orientation: AIR}
  - write: {channel: b, image: signal, voxel_size_mm: [0.05, 0.04, 0.04], orientation: AIR}
  - write-affine: {channel: a, name: shift, affine: shift.txt}
  - write: {channel: warp, image: warp.nrrd, kind: vectors}
  - export: {channel: a, transforms: [shift], output: shifted.nii}
  - export: {channel: b, output: plain.nii}
  - write: {channel: c, image: shifted.nii}
  - rename-channel: {channel: a, new_name: autofluo}
  - add-metadata: {channel: autofluo, values: {specimen: mouse-42, weeks: 12}}
  - preview: {channels: [autofluo, c], output: x.png}
  - remove-channel: {channel: c}
  - repack: {compression: 2}
  - xml: {}
  - export: {channel: autofluo, output: last.npy}
"""


def test_a_recipe_makes_a_whole_file(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(RECIPE)
    before = content(study)
    assert main(["run", "recipe.yaml", "--dry-run"]) == 0
    assert content(study) == before
    text = capsys.readouterr().out
    assert "step 1 (write)\nreads   planes" in text
    assert "step 5 (export): shifted.nii\ncannot be planned before step 1 (write) is done: brain.h5: no such file" in text
    assert "step 7 (write)\ncannot be planned before step 5 (export) is done: shifted.nii" in text
    assert main(["run", "recipe.yaml"]) == 0
    assert "step 14 (export): last.npy in" in capsys.readouterr().out
    with open_lsfm("brain.h5") as file:
        assert list(file) == ["autofluo", "b", "warp"]
        assert file["autofluo"].affines == ("shift",)
        assert dict(file.metadata("autofluo")) == {"specimen": "mouse-42", "weeks": 12}
        steps = yaml.safe_load(RECIPE)["steps"]
        logged = [record.operation for record in file.log()]
        assert logged == [name for step in steps for name in step if name != "preview"]
        assert {record.command for record in file.log()} == {"lsfm-core run recipe.yaml"}
    stored = VOXELS.transpose(2, 0, 1)[:, :, ::-1]
    assert np.array_equal(np.load("last.npy"), stored)
    assert main(["verify", "brain.h5", "--levels", "--quiet"]) == 0
    assert main(["run", "recipe.yaml", "--dry-run"]) == 1
    assert "step 2 (write): brain.h5: channel 'b' exists already" in capsys.readouterr().err


def test_a_plan_says_that_it_is_of_the_file_before_a_change(brain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(
        "file: brain.h5\nsteps:\n- export: {channel: a, output: 1.nii}\n- rename-channel: {channel: a, new_name: b}\n"
        "- export: {channel: b, output: 2.nii}\n- export: {channel: a, output: 3.nii}\n"
    )
    assert main(["run", "recipe.yaml", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "step 1 (export): 1.nii\nreads" in text
    assert "step 3 (export): 2.nii\ncannot be planned before step 2 (rename-channel) is done: brain.h5: no channel 'b'" in text
    assert "step 4 (export): 3.nii\n(as the file is before step 2 (rename-channel))\nreads" in text


@pytest.mark.parametrize(
    ("steps", "code", "message"),
    [
        (["export: {channel: a, output: 1.nii}", "export: {channel: b, output: 2.nii}"], 3, "brain.h5: no channel 'b'"),
        (["rename-channel: {channel: a, new_name: b}", "export: {channel: b, output: cells.csv.nii}"], 0, ""),
        (["rename-channel: {channel: a, new_name: b}", "export: {channel: a, output: there.nii}"], 1, "there.nii: exists already"),
        (["remove-metadata: {key: specimen}", "add-metadata: {values: {specimen: 8}}"], 0, ""),
        (["add-metadata: {values: {x: 8}}", "add-metadata: {values: {specimen: 8}}"], 1, "exist already"),
        (["add-metadata: {values: {x: 8}}", "write: {channel: b, image: nowhere}"], 3, "nowhere: no file found"),
        (["add-metadata: {values: {x: 8}}", "export: {channel: a, output: nowhere/x.nii}"], 3, "there is no folder nowhere"),
        (["export: {channel: a, output: made.nii}", "write: {channel: b, image: made.nii}"], 0, ""),
        (["export: {channel: a, output: 1.nii}", "export: {channel: a, reference: 1.nii, output: 2.nii}"], 0, ""),
    ],
)
def test_what_no_earlier_step_brings_about_is_an_error(
    steps: list[str], code: int, message: str, brain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.nii").touch()
    Path("recipe.yaml").write_text("file: brain.h5\nsteps:\n" + "".join(f"- {step}\n" for step in steps))
    assert main(["run", "recipe.yaml", "--dry-run"]) == code
    shown = capsys.readouterr()
    if code:
        assert "step 2" in shown.err
        assert message in shown.err
    else:
        assert "cannot be planned before step 1" in shown.out
        assert main(["run", "recipe.yaml"]) == 0


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        (
            "- export: {channel: a, output: x.nii}\n- export: {channel: a, level: 0, output: x.nii}",
            "step 2 (export): output: step 1",
        ),
        ("- write: {channel: b, image: planes}\n- write: {channel: b, image: planes}", "step 2 (write): channel: step 1 (write)"),
        ("- write: {channel: b, image: planes}\n- rename-channel: {channel: a, new_name: b}", "step 2 (rename-channel): new_name"),
        ("- write: {channel: b, image: planes}\n- write: {channel: b, image: planes, replace: true}", ""),
        ("- write: {channel: b, image: planes}\n- remove-channel: {channel: b}\n- write: {channel: b, image: planes}", ""),
        ("- export: {channel: a, output: x.nii}\n- export: {channel: a, output: x.nii, overwrite: true}", ""),
    ],
)
def test_steps_that_make_the_same_are_told_beforehand(steps: str, complaint: str, study: Path) -> None:
    Path("twice.yaml").write_text(f"file: brain.h5\nsteps:\n{steps}\n")
    if complaint:
        with pytest.raises(InputError, match=re.escape(complaint)):
            read_recipe(Path("twice.yaml"))
    else:
        read_recipe(Path("twice.yaml"))


def test_a_step_that_fails_ends_it_and_what_was_done_stays(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(RECIPE.replace("affine: shift.txt", "affine: none.txt"))
    assert main(["run", "recipe.yaml"]) == 3
    message = capsys.readouterr().err
    assert "step 3 (write-affine): none.txt" in message
    assert message.endswith("; done before it, and kept: step 1 (write), step 2 (write)\n")
    with open_lsfm("brain.h5") as file:
        assert list(file) == ["a", "b"]
    assert operations("brain.h5") == ["write", "write", "write-affine"]
    assert not Path("shifted.nii").exists()


_SLOW = """
import os, sys, time
from lsfm_core.cli import main
from lsfm_core.formats.tiff import TiffSeries
read = TiffSeries.read_plane
def slowly(self, index, out):
    if "signal" in str(self.name):
        os.write(1, b"reading\\n")  # at once, for several threads read
        time.sleep(0.2)
    return read(self, index, out)
TiffSeries.read_plane = slowly
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("again", [False, True])
def test_an_interrupt_tells_which_steps_are_done(again: bool, study: Path) -> None:
    recipe = RECIPE.replace("image: signal,", "image: signal, resume: true,") if again else RECIPE
    Path("recipe.yaml").write_text(recipe)
    command = [sys.executable, "-c", _SLOW, "run", "recipe.yaml", "--quiet"]
    with children.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "reading\n"
        child.send_signal(signal.SIGINT)
        message = child.communicate(timeout=60)[1]
    assert child.returncode == 130
    resumed = ", which can be resumed" if again else ""
    assert message == f"lsfm-core run: interrupted in step 2 (write){resumed}; done before it, and kept: step 1 (write)\n"
    with contextlib.suppress(LsfmError):
        main(["recover", "brain.h5", "--quiet"])
    with open_lsfm("brain.h5") as file:
        assert list(file) == ["a"]


def test_an_interrupt_of_the_first_step_changes_nothing(study: Path) -> None:
    Path("recipe.yaml").write_text(RECIPE.replace("image: planes", "image: signal"))
    before = content(study)
    command = [sys.executable, "-c", _SLOW, "run", "recipe.yaml", "--quiet"]
    with children.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "reading\n"
        child.send_signal(signal.SIGINT)
        message = child.communicate(timeout=60)[1]
    assert message == "lsfm-core run: interrupted in step 1 (write); nothing was changed\n"
    assert content(study) == before


# --- done again -------------------------------------------------------------------------------------------------------------


def test_an_ingest_is_replayed_bit_for_bit(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write = "write brain.h5 --channel a --image planes --voxel-size 0.05,0.04,0.04 --orientation AIR"
    children.run([sys.executable, "-m", "lsfm_core.cli", *write.split()], check=True, capture_output=True)
    assert main(["replay", "brain.h5", "1", "--output", "other.h5"]) == 0
    assert "other.h5: identical to what record 1 made: chunks:" in capsys.readouterr().out
    with open_lsfm("brain.h5") as file, open_lsfm("other.h5") as other:
        assert np.array_equal(np.asarray(file["a"].levels[0][...]), np.asarray(other["a"].levels[0][...]))
        (record,) = other.log()
        assert record.output is not None
        assert record.output.checksum == file.log()[0].output.checksum  # type: ignore[union-attr]
    before = Path("brain.h5").read_bytes()
    assert main(["replay", "brain.h5", "1"]) == 1
    assert "channel 'a' exists already" in capsys.readouterr().err
    assert Path("brain.h5").read_bytes() == before
    # From elsewhere, in the folder where it was done.
    os.chdir("/")
    assert main(["replay", str(study / "brain.h5"), "1", "--overwrite"]) == 0
    assert "identical" in capsys.readouterr().out


def test_a_replay_of_an_ingest_whose_input_has_changed_says_so(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ingest_channel(of_planes())
    changed = VOXELS.copy()
    changed[7, 8, 9] ^= 1
    write_series(study / "planes", changed)
    assert main(["replay", "brain.h5", "1", "--output", "other.h5"]) == 1
    message = capsys.readouterr().err
    assert "differs from what record 1 made" in message
    assert "(planes has changed)" in message


def test_a_resumed_ingest_has_the_checksum_of_one_in_one_go(tmp_path: Path) -> None:
    tall = np.random.default_rng(1).integers(0, 65536, (300, 70, 70), dtype=np.uint16)
    series = write_series(tmp_path / "tall", tall)
    request = IngestRequest(
        path=tmp_path / "brain.h5",
        channel="a",
        image=str(series),
        voxel_size_mm=(1, 1, 1),
        orientation="AIR",
        resume=True,
        checkpoint_seconds=1e-6,
    )

    def stop(stage: str, done: int, total: int) -> None:
        if done > total / 2:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        ingest_channel(request, progress=stop)
    whole = ingest_channel(request.model_copy(update={"path": tmp_path / "whole.h5"})).written
    assert ingest_channel(request).written.checksum == whole.checksum


def test_other_changes_are_done_again(brain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    affine, added = (str(1 + operations(brain).index(name)) for name in ("write-affine", "add-metadata"))
    assert main(["remove-metadata", "brain.h5", "specimen"]) == 0
    assert main(["replay", "brain.h5", added]) == 0
    assert f"record {added} (add-metadata): done again; it has no checksum to compare with" in capsys.readouterr().out
    with open_lsfm(brain) as file:
        assert file.metadata()["specimen"] == "7"
    assert main(["replay", "brain.h5", affine]) == 1
    assert main(["replay", "brain.h5", affine, "--overwrite"]) == 0
    assert main(["replay", "brain.h5", affine, "--output", "other.h5"]) == 3
    assert "has changed the file itself" in capsys.readouterr().err
    with pytest.raises(LsfmError):
        apply_edit(RemoveChannelRequest(path=brain, channel="none"))
    failed = len(operations(brain))
    assert main(["replay", "brain.h5", str(failed)]) == 3
    assert "failed: only what was done can be replayed" in capsys.readouterr().err


def test_the_log_gives_a_line_or_an_entry_for_everything(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matrix = ((1, 0, 0, 0.5), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
    ingest_channel(of_planes())
    apply_edit(AffineRequest(path="brain.h5", channel="a", name="t", affine="shift.txt", replace=True))
    apply_edit(AffineRequest(path="brain.h5", channel="a", name="u", affine=matrix))
    apply_edit(AddMetadataRequest(path="brain.h5", channel="a", values={"x": "y z", "k": "v"}))
    apply_edit(AddMetadataRequest(path="brain.h5", values={"x": [1, {"a": None}]}, overwrite=True))
    apply_edit(RemoveMetadataRequest(path="brain.h5", key="x"))
    apply_edit(RenameChannelRequest(path="brain.h5", channel="a", new_name="b"))
    lsfm_core.repack_file(RepackRequest(path="brain.h5", compression=2, rechunk=(8, 8, 8)))
    lsfm_core.write_xml("brain.h5", overwrite=True)
    with edit_lsfm("brain.h5") as editor:
        editor.set_metadata("specimen", "7")
        editor.rename_channel("b", "c")
    with edit_lsfm("brain.h5") as editor:
        editor.set_acquisition("c", "{}")
    assert main(["log", "brain.h5", "--command"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "lsfm-core write brain.h5 --channel=a --image=planes --voxel-size=0.05,0.04,0.04 --orientation=AIR  # 1",
        "lsfm-core write-affine brain.h5 --channel=a --name=t --affine=shift.txt --overwrite  # 2",
        f"# 3 write-affine: for a recipe in {study}",
    ]
    reason = "set-acquisition: is no operation that a recipe can ask for"
    rest = [line for line in lines[3:] if not line.startswith("#  ")]
    assert rest == [
        "lsfm-core add-metadata brain.h5 --channel=a 'x=y z' k=v  # 4",
        "lsfm-core add-metadata brain.h5 --overwrite --type=json 'x=[1, {\"a\": null}]'  # 5",
        "lsfm-core remove-metadata brain.h5 x  # 6",
        "lsfm-core rename-channel brain.h5 --channel=a --to=b  # 7",
        "lsfm-core repack brain.h5 --compression-level=2 --rechunk=8,8,8  # 8",
        "lsfm-core xml brain.h5 --overwrite  # 9",
        f"# 10 edit: for a recipe in {study}",
        f"# 11 set-acquisition: no command line or recipe does the same ({reason}); log --json shows what is recorded",
    ]
    entries = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines[lines.index(rest[-2]) + 1 : -1]))
    assert entries == [{"add-metadata": {"values": {"specimen": "7"}}}, {"rename-channel": {"channel": "b", "new_name": "c"}}]


def test_steps_that_read_share_a_file_which_a_change_finds_closed(
    brain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lsfm_core import recipes

    opened = []
    monkeypatch.setattr(recipes, "open_lsfm", lambda path: opened.append(open_lsfm(path)) or opened[-1])
    steps = ["export: {channel: a, output: 1.npy}", "export: {channel: a, output: 2.npy}", "add-metadata: {values: {x: 1}}"]
    steps += [
        "export: {channel: a, output: 3.npy}",
        "merge: {manifest: chunks, output: 4.npy}",
        "export: {channel: a, output: 5.npy}",
    ]
    Path("recipe.yaml").write_text("file: brain.h5\nsteps:\n" + "".join(f"- {step}\n" for step in steps))
    assert main(["run", "recipe.yaml"]) == 0
    assert len(opened) == 2
    with h5py.File("brain.h5", "r+"):
        pass  # nobody holds it any more
