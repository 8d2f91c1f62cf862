"""Exports that cannot be carried out: what is said, and that nothing is left; and the command lines of the manual."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from lsfm_core import (
    CancelledError,
    CancelToken,
    ExportRequest,
    InputError,
    LsfmError,
    MergeRequest,
    RegionSelection,
    SlicesRequest,
    TransformStep,
    export_channel,
    export_chunks,
    export_slices,
    merge_chunks,
    open_lsfm,
    plan_export,
)
from lsfm_core.cli import main

from .test_exactness import WARP, assert_rounded, by_itk, read_field

BOX = "--origin 3,3,2 --size 2 --resolution 0.1"


@pytest.fixture(scope="module")
def folder(brain_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transforms that cannot be used, and an image that does not tell where it is."""
    folder = tmp_path_factory.mktemp("faulty")
    shift = np.eye(4)
    shift[0, 3] = 100
    np.savetxt(folder / "far.txt", shift)
    np.savetxt(folder / "flat.txt", np.diag([1, 0, 1, 1]))
    sitk.WriteTransform(sitk.BSplineTransform(3), str(folder / "spline.tfm"))
    np.savetxt(folder / "nan.txt", np.full((4, 4), np.nan))
    vectors = np.zeros((10, 11, 12, 3))
    vectors[..., 0] = 3 * np.sin(np.arange(12) * 2)
    field = sitk.GetImageFromArray(vectors, isVector=True)
    field.SetOrigin((-8.0, -8.0, 0.0))
    sitk.WriteImage(field, str(folder / "folding.mha"))
    tifffile.imwrite(folder / "bare.tif", np.zeros((9, 5, 6), np.uint8), photometric="minisblack")
    shutil.copy(brain_data / WARP, folder / "warp.nii.gz")
    (folder / "text.txt").write_text("no transform")
    return folder


FAULTS = {
    "no such channel": ("--channel nope", r"no channel 'nope'; it has: autofluo"),
    "wrong chain": (
        f"--channel autofluo --transform far.txt {BOX}",
        r"wholly outside.*Result: R 3\.000\.\.5\.000 .*image: R -0\.020\.\.10\.820 .*comes to R 10\d.*inverted.*order wrong",
    ),
    "wrong chain through a field": (
        f"--channel autofluo --transform structural_to_template --transform warp --transform far.txt {BOX}",
        r"field 'warp' covers R .* lies in R 10\d.*inverted.*order wrong",
    ),
    "no inverse": (f"--channel autofluo --transform warp.nii.gz:invert {BOX}", r"'warp\.nii\.gz' has no inverse.*--inverse-of"),
    "inverse of another name": (
        f"--channel autofluo --transform warp --numeric-inverse other {BOX}",
        r"'other': no transform of the chain",
    ),
    "folding": (
        f"--channel autofluo --transform folding.mha:invert --numeric-inverse folding.mha {BOX}",
        r"cannot be inverted numerically.*median.*maximum.*may fold",
    ),
    "singular": (f"--channel autofluo --transform flat.txt {BOX}", r"flat\.txt.*singular"),
    "not finite": (f"--channel autofluo --transform nan.txt {BOX}", r"nan\.txt.*finite"),
    "not a transform": (f"--channel autofluo --transform text.txt {BOX}", r"text\.txt.*transform"),
    "unknown transform": (
        f"--channel autofluo --transform nope {BOX}",
        r"'nope': neither a file, nor stored: it has affines autofluo/structural_to_template.*fields inverse_warp, warp",
    ),
    "spline": (
        f"--channel autofluo --transform spline.tfm {BOX}",
        r"spline\.tfm.*BSpline.*only affine transforms and displacement",
    ),
    "field for an affine": (f"--channel autofluo --transform name=warp,type=affine {BOX}", r"'warp'.*says affine, but it is"),
    "affine for a field": (
        f"--channel autofluo --transform name=structural_to_template,type=field {BOX}",
        r"says field, but it is",
    ),
    "orders": (
        f"--channel autofluo --transform name=warp,order=1 --transform name=structural_to_template,order=1 {BOX}",
        r"1 \(nearest to the image\) to 2; found warp: 1, structural_to_template: 1",
    ),
    "an order missing": (f"--channel autofluo --transform name=warp,order=1 --transform far.txt {BOX}", "all need theirs"),
    "order of zero": (f"--channel autofluo --transform name=warp,order=0 {BOX}", "order"),
    "unknown key": (f"--channel autofluo --transform name=warp,invrt=yes {BOX}", "found 'invrt=yes'"),
    "an image is no transform": (f"--channel autofluo --transform cfos {BOX}", "'cfos': neither a file, nor stored"),
    "unknown region": ("--channel autofluo --region CA11 --labels-channel atlas", r"no region 'CA11': did you mean .*CA1"),
    "region without voxels": ("--channel autofluo --region Isocortex --labels-channel atlas", r"Isocortex.*parts"),
    "no such id": ("--channel autofluo --region 999999 --labels-channel atlas", "no region '999999'"),
    "no labels named": ("--channel autofluo --region CA1", "--labels-channel"),
    "no labels there": (
        "--channel autofluo --region CA1 --labels-channel cfos",
        r"'cfos' holds image, not labels; channels with labels: atlas",
    ),
    "no such labels": ("--channel autofluo --region CA1 --labels-channel nope", "no channel 'nope'"),
    "region and cuboid": (f"--channel autofluo --region CA1 --labels-channel atlas {BOX}", "or a place by its origin, not both"),
    "midline of no side": (
        "--channel autofluo --region CA1 --labels-channel atlas --midline 5",
        "midline: only a side is cut off there",
    ),
    "nothing on that side": (
        "--channel autofluo --region CA1 --labels-channel atlas --side left --midline=-5",
        r"no voxel lies left of R = -5\.000",
    ),
    "resolution 0": ("--channel autofluo --resolution 0", "resolution"),
    "resolution below 0": ("--channel autofluo --resolution=-0.1", "resolution"),
    "resolution not a number": ("--channel autofluo --resolution nan", "resolution"),
    "two resolutions": ("--channel autofluo --resolution 1,2", "resolution"),
    "origin not a number": ("--channel autofluo --origin nan,0,0 --size 1", "origin"),
    "origin infinite": ("--channel autofluo --origin inf,0,0 --size 1", "origin"),
    "size infinite": ("--channel autofluo --origin 0,0,0 --size inf", "size"),
    "size 0": ("--channel autofluo --origin 0,0,0 --size 0,1,1", "size"),
    "size alone": ("--channel autofluo --size 1", r"needs both: --origin \(R, A, S of its smallest corner, mm\) and --size"),
    "wholly outside": (
        "--channel autofluo --origin 30,30,30 --size 1",
        r"wholly outside.*Result: R 30\.000\.\.31\.000 x A 30\.000\.\.31\.000 x S .*image: R -0\.020\.\.10\.820",
    ),
    "more than memory": ("--channel autofluo --resolution 0.0001 --output x.npy", r"free on its disk|memory"),
    "grid without size": ("--channel autofluo --grid 0,0,0", "needs the size of a chunk"),
    "grid without origin": ("--channel autofluo --grid 2,2,2 --size 1", "needs the origin"),
    "half a grid": ("--channel autofluo --grid 0,2,2 --size 1 --origin 1,1,1", "three positive numbers"),
    "overlap": ("--channel autofluo --grid 0,0,0 --size 1 --overlap 1,0,0", "overlap"),
    "overlap below 0": ("--channel autofluo --grid 0,0,0 --size 1 --overlap=-0.1", "overlap"),
    "overlap after rounding": ("--channel autofluo --grid 0,0,0 --size 0.1 --overlap 0.09", "overlap.*make it less"),
    "chunks without number": ("--channel atlas --grid 0,0,0 --size 5 --output c_%d.nii", r"expected 3 number\(s\)"),
    "overlap without a grid": ("--channel autofluo --overlap 0.1", "overlap: only chunks have one"),
    "chunks under an image's name": ("--channel autofluo --grid 0,0,0 --size 5 --output chx/a.TIF", "many files: name a folder"),
    "chunks in an image's folder": ("--channel autofluo --grid 0,0,0 --size 5 --output a.ome.zarr", "many files: name a folder"),
    "too many chunks": ("--channel autofluo --grid 0,0,0 --size 0.04,0.05,0.04", "more than 1000000: make them larger"),
    "too many given chunks": ("--channel autofluo --grid 200,200,200 --size 0.04 --origin 0,0,0", "more than 1000000"),
    "snap": ("--channel autofluo --origin 3,3,2 --size 2 --resolution 0.1 --snap", "snap"),
    "fill too large": ("--channel autofluo --fill 70000", "uint16, which cannot be 70000"),
    "fill below 0": ("--channel autofluo --fill=-1", "uint16, which cannot be -1"),
    "fill between": ("--channel autofluo --fill 0.5", r"uint16, which cannot be 0\.5"),
    "fill not a number": ("--channel autofluo --fill nan", "uint16, which cannot be nan"),
    "fill too large for a float": ("--channel warp --fill 1e300", r"float32, which cannot be 1e\+300"),
    "linear labels": ("--channel atlas --resolution 0.2 --interpolation linear", "nearest or mode, not linear"),
    "mode of an image": ("--channel autofluo --interpolation mode", "linear, nearest or bspline, not mode"),
    "nearest vectors": ("--channel warp --interpolation nearest", "linear, not nearest"),
    "bspline of vectors": ("--channel warp --interpolation bspline", "not bspline"),
    "reference without geometry": ("--channel autofluo --reference bare.tif", "does not tell where its voxels are"),
    "reference that is none": ("--channel autofluo --reference nope.nii", "no such channel, and there is no such file"),
    "level": ("--channel autofluo --level 9", r"levels 0 to 1, not 9"),
    "level below 0": ("--channel autofluo --level=-1", "level"),
    "orientation recorded": ("--channel autofluo --orientation RAS", "recorded as AIR"),
    "no orientation": ("--channel autofluo --output-orientation RAR", "names one body axis twice"),
    "output format": ("--channel autofluo --output x.jpg", "unknown output format"),
    "no folder": ("--channel autofluo --output nowhere/x.nii", "no folder"),
    "no memory": ("--channel autofluo --memory 0", "export: --memory: must be more than 0$"),
    "no transform": ("--channel autofluo --transform=", "transform '': give the name"),
    "astronomic": ("--channel autofluo --resolution 1e-9 --output x.npy", r"may need \d\.\de\+\d+ TB, and"),
    "memory": ("--channel autofluo --memory 1MB", "needs at least"),
    "not bytes": ("--channel autofluo --memory x", "expected a size"),
}


#: They say how a region is cut out, so that none of them may pass unheard where there is none.
FAULTS |= {
    f"{option} without a region": (f"--channel autofluo {option}", f"^lsfm-core export: {option.split()[0]}: .*--region")
    for option in (
        "--mask",
        "--side left",
        "--labels-channel atlas",
        "--margin 0",
        "--include-descendants",
        "--midline 5",
        "--labels-in native",
    )
}


def complaint(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that is said; where the command line cannot be read, behind how it is used."""
    try:
        code = main(command)
    except SystemExit as error:
        code = error.code
    said = capsys.readouterr().err.splitlines()
    assert code in (1, 2, 3)
    if code == 2:
        del said[:-1]
    assert len(said) == 1, said
    return said[0]


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_told_in_one_line(
    name: str,
    folder: Path,
    registered_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, message = FAULTS[name]
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    before = sorted(Path().iterdir())
    if "--output " not in arguments:
        arguments += " --output " + ("chunks" if "--grid" in arguments else "out.nii.gz")
    command = ["export", str(registered_file), *arguments.split()]
    said = complaint(command, capsys)
    assert re.search(message, said), said
    assert sorted(Path().iterdir()) == before


SLICES = {
    "no plane": ("--range 900,901", "no plane is in the range 900, 901, None: axis 0 has 108"),
    "backwards": ("--range 5,1,-1", "--range: must be at least 1"),
    "no number": ("--output s.tif", r"expected 1 number\(s\)"),
    "two numbers": ("--output s_%d_%d.tif", r"expected 1 number\(s\)"),
    "text": ("--output s_%s.tif", r"expected 1 number\(s\)"),
    "roi too large": ("--roi 0,0,500,5", "the roi reaches to column 500 and row 5; the planes have 135 columns and 77 rows"),
    "contrast of words": ("--contrast a,b --output s_%d.png", r"expected 2 number\(s\)"),
    "roi of nothing": ("--roi 0,0,0,5", "roi"),
    "format": ("--output s_%d.jpg", r"export-slices: s_%d\.jpg: unknown format .* use \.tif or \.png"),
    "type": ("--channel warp --output s_%d.png", r"export-slices: s_%d\.png: PNG cannot hold pixels of type float32"),
    "axis": ("--axis 3", "axis"),
    "range of words": ("--range a,b", "expected START,STOP,STEP"),
    "roi of words": ("--roi a", "expected OX,OY,SX,SY"),
}


@pytest.mark.parametrize("name", SLICES)
def test_faults_of_slices_are_told_in_one_line(
    name: str, registered_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = SLICES[name]
    monkeypatch.chdir(tmp_path)
    if "--output" not in arguments:
        arguments += " --output new/folders/s_%d.tif"
    said = complaint(["export-slices", str(registered_file), "--channel", "atlas", *arguments.split()], capsys)
    assert re.search(message, said), said
    assert list(tmp_path.iterdir()) == []


def test_png_of_what_png_cannot_hold(registered_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="PNG cannot hold"):
        export_slices(SlicesRequest(path=registered_file, channel="warp", output=tmp_path / "new" / "s_%d.png"))
    assert list(tmp_path.iterdir()) == []


def test_a_numeric_inverse_that_is_allowed_tells_how_good_it_is(registered_file: Path, brain_data: Path) -> None:
    name = str(brain_data / WARP)
    fields: dict[str, Any] = {"path": registered_file, "channel": "template_atlas", "reference": "atlas", "numeric_inverse": name}
    request = ExportRequest(
        **{**fields, "numeric_inverse": (name,)}, transforms=(f"{name}:invert", "structural_to_template:invert"), resolution_mm=0.2
    )
    with open_lsfm(registered_file) as file:
        said = plan_export(file, request).describe()
    assert "numeric inverse" in said
    assert "residual" in said and "median" in said and "mm" in said
    volume = export_channel(request).volume
    stored = export_channel(
        ExportRequest(
            path=registered_file,
            channel="template_atlas",
            reference="atlas",
            transforms=("warp:invert", "structural_to_template:invert"),
            resolution_mm=0.2,
        )
    ).volume
    assert volume is not None and stored is not None
    assert (volume.array == stored.array).mean() > 0.97


def test_an_output_that_exists_is_kept_until_there_is_a_new_one(registered_file: Path, tmp_path: Path) -> None:
    def run(verb: str, output: str, *more: str) -> int:
        grid = ["--grid", "0,0,0", "--size", "8"] if output == "chunks" else []
        return main([verb, str(registered_file), "--channel", "atlas", "--output", str(tmp_path / output), *grid, *more, "--quiet"])

    def content() -> dict[str, bytes]:
        return {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    (tmp_path / "slices").mkdir()
    (tmp_path / "chunks").mkdir()
    for name in ("x.nii", "x.npy", "slices/s_070.tif", "chunks/chunk_01_01_00.nii.gz"):
        (tmp_path / name).write_text("precious")
    before = content()
    for verb, output in (("export", "x.nii"), ("export", "x.npy"), ("export-slices", "slices/s_%03d.tif"), ("export", "chunks")):
        assert run(verb, output) == 1
        assert content() == before
    for verb, output in (("export", "x.nii"), ("export-slices", "slices/s_%03d.tif"), ("export", "chunks")):
        assert run(verb, output, "--overwrite") == 0
    assert b"precious" not in {v for k, v in content().items() if k != "x.npy"}
    assert not list(tmp_path.rglob(".*"))


FORMATS = ("nii", "nii.gz", "nrrd", "mha", "tif", "ome.tif", "npy", "ome.zarr")


def _stop(how: str) -> tuple[Callable[[str, int, int], None], CancelToken]:
    token = CancelToken()

    def halfway(stage: str, done: int, total: int) -> None:
        if done > total // 3:
            if how == "raise":
                raise RuntimeError("by the caller")
            token.cancel()

    return halfway, token


@pytest.mark.parametrize("how", ["cancel", "raise"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_nothing_is_left_of_what_is_stopped(
    how: str, suffix: str, registered_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsfm_core.export.plan._BLOCK_VOXELS", 20_000)
    fields = {"path": registered_file, "channel": "autofluo", "resolution_mm": 0.2}
    error = CancelledError if how == "cancel" else RuntimeError
    halfway, token = _stop(how)
    with pytest.raises(error):
        export_channel(ExportRequest(**fields, output=tmp_path / f"x.{suffix}"), progress=halfway, cancel=token)
    assert list(tmp_path.iterdir()) == []
    halfway, token = _stop(how)
    pattern = tmp_path / "a" / "b" / f"c_%d_%d_%d.{suffix}"
    with pytest.raises(error):
        export_chunks(ExportRequest(**fields, grid=(0, 0, 0), size_mm=4, output=pattern), progress=halfway, cancel=token)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["cancel", "raise"])
@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_nothing_is_left_of_planes_that_are_stopped(how: str, suffix: str, registered_file: Path, tmp_path: Path) -> None:
    error = CancelledError if how == "cancel" else RuntimeError
    halfway, token = _stop(how)
    fields = {"path": registered_file, "channel": "autofluo", "resolution_mm": 0.2, "axis": 1}
    with pytest.raises(error):
        export_slices(SlicesRequest(**fields, output=tmp_path / "a" / "b" / f"s_%d.{suffix}"), progress=halfway, cancel=token)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["grid", "slices"])
def test_a_file_in_the_place_of_the_folder(
    verb: str, registered_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("precious")
    command = {
        "grid": ["export", "--grid", "0,0,0", "--size", "8", "--output", tmp_path / "file"],
        "slices": ["export-slices", "--output", tmp_path / "file" / "s_%d.tif"],
    }[verb]
    assert main([command[0], str(registered_file), "--channel", "atlas", *map(str, command[1:])]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no folder" in said
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.slow
def test_too_little_room_is_told_and_nothing_is_left(registered_file: Path, tmp_path: Path) -> None:
    """On a file system of 3 MB, in a mount namespace of its own."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system allows no mount namespaces")
    export_chunks(
        ExportRequest(path=registered_file, channel="autofluo", level=0, grid=(0, 0, 0), size_mm=8, output=tmp_path / "chunks")
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    source = f"{registered_file} --channel autofluo"
    lines = [f"export {source} --output {disk}/x.{s}" for s in ["nii", "nii.gz", "nrrd", "mha", "tif", "npy", "ome.zarr"]] + [
        f"export {source} --grid 0,0,0 --size 3 --output {disk}/a/chunks",
        f"export-slices {source} --output {disk}/a/s_%d.tif",
        f"merge {tmp_path}/chunks --memory 250MB --output {disk}/x.nii.gz",
    ]
    called = f"print([int(main(line.split())) for line in {lines}], os.listdir({str(disk)!r}))"
    (tmp_path / "lines.py").write_text(f"import os\nfrom lsfm_core.cli import main\n{called}")
    script = f"mount -t tmpfs -o size=3m tmpfs {disk} && {sys.executable} {tmp_path}/lines.py"
    run = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert run.stdout == f"{[1] * 10} []\n", run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    assert len(run.stderr.splitlines()) == 10
    assert all("make room" in line or "the disk is full" in line for line in run.stderr.splitlines()), run.stderr


def test_requests_of_scripts_are_checked_as_those_of_command_lines(registered_file: Path) -> None:
    for build in (
        lambda: RegionSelection(labels_channel="atlas", select=()),
        lambda: RegionSelection(labels_channel="atlas", select="CA1", margin_mm=-1),
        lambda: RegionSelection(labels_channel="atlas", select="CA1", margin_vox=-1),
        lambda: TransformStep(name=""),
        lambda: TransformStep.parse("name=a,order=x"),
        lambda: ExportRequest(path="x", channel="a", nonsense=1),
        lambda: ExportRequest(path="x", channel="a", memory_bytes=0),
        lambda: ExportRequest(path="x", channel="a", threads=0),
        lambda: SlicesRequest(path="x", channel="a", axis=3),
        lambda: SlicesRequest(path="x", channel="a", grid=(1, 1, 1), size_mm=1, origin_mm=(0, 0, 0)),
        lambda: export_channel(ExportRequest(path=registered_file, channel="atlas", grid=(0, 0, 0), size_mm=3)),
        lambda: export_chunks(ExportRequest(path=registered_file, channel="atlas", grid=(0, 0, 0), size_mm=3)),
        lambda: export_slices(SlicesRequest(path=registered_file, channel="atlas")),
        lambda: merge_chunks(MergeRequest(manifest="nowhere", output="x.nii")),
    ):
        with pytest.raises(LsfmError):
            build()


# --- the command lines of the manual --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workplace(registered_file: Path, brain_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the manual has it, with a file to which the labels are yet to be added."""
    folder = tmp_path_factory.mktemp("manual")
    shutil.copy(registered_file, folder / "brain.h5")
    for name, file in (
        ("annotation.nii.gz", "annotation_in_structural_100um.nii.gz"),
        ("allen_labels_itksnap.txt", "allen_labels_itksnap.txt"),
        ("allen_structure_tree.csv", "allen_structure_tree.csv"),
        ("template_100um.nii.gz", "template_100um.nii.gz"),
    ):
        shutil.copy(brain_data / file, folder / name)
    assert main(["remove-channel", str(folder / "brain.h5"), "--channel", "atlas", "--quiet"]) == 0
    return folder


@pytest.mark.slow
def test_the_command_lines_of_the_manual(
    workplace: Path, brain_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    structural = np.stack([tifffile.imread(plane) for plane in sorted((brain_data / "structural_tiff").iterdir())])
    ras = structural.transpose(2, 0, 1)[:, :, ::-1]

    def run(line: str) -> None:
        assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
        # A labels channel of another grid beside the images is what this file is about; Bio-Formats shows it wrongly.
        said = capsys.readouterr().err.splitlines()
        assert [text for text in said if not re.match("warning: channels of this file differ in .*: Bio-Formats", text)] == []

    def image(name: str) -> tuple[np.ndarray, np.ndarray]:
        read = nibabel.load(name)
        assert nibabel.aff2axcodes(read.affine) == ("R", "A", "S")
        return np.asarray(read.dataobj), read.affine

    run(
        "lsfm-core write brain.h5 --channel atlas --kind labels --image annotation.nii.gz --labels allen_labels_itksnap.txt "
        "--ontology allen_structure_tree.csv --space autofluo"
    )
    with open_lsfm("brain.h5") as file:
        assert file["atlas"].kind == "labels"
        np.testing.assert_array_equal(np.asarray(file["atlas"].levels[0][...]).transpose(2, 1, 0), image("annotation.nii.gz")[0])

    run("lsfm-core export brain.h5 --channel autofluo --level 0 --output native.nii.gz")
    array, affine = image("native.nii.gz")
    np.testing.assert_array_equal(array, ras)
    np.testing.assert_allclose(affine, np.diag([0.04, 0.05, 0.04, 1]), atol=1e-6)

    run("lsfm-core export brain.h5 --channel autofluo --resolution 0.05 --output ras_50um.nii.gz")
    array, affine = image("ras_50um.nii.gz")
    assert array.shape == (217, 270, 154)
    np.testing.assert_allclose(affine[:3, 3], (-0.02 + 0.025, -0.025 + 0.025, -0.02 + 0.025), atol=1e-6)
    assert abs(array[5:-5, 5:-5, 5:-5].mean() / ras[6:-6, 5:-5, 6:-6].mean() - 1) < 0.01

    run(
        "lsfm-core export brain.h5 --channel cfos --transform signal_to_structural --transform structural_to_template "
        "--transform warp --reference template_100um.nii.gz --no-antialias --output cfos_in_template.nii.gz"
    )
    array, affine = image("cfos_in_template.nii.gz")
    template, place = image("template_100um.nii.gz")
    np.testing.assert_allclose(affine, place, atol=1e-6)
    stack, transforms = tifffile.imread(brain_data / "signal_stack.tif"), brain_data / "transforms"
    chain = [
        sitk.ReadTransform(str(transforms / "structural_to_signal_affine.txt")),
        sitk.ReadTransform(str(transforms / "template_to_structural_0GenericAffine.mat")),
        read_field(brain_data / WARP),
    ]
    from_voxel = np.array([[0, 0, 0.05, 0], [0.06, 0, 0, 0], [0, -0.05, 0, 0.05 * (stack.shape[1] - 1)], [0, 0, 0, 1]])
    assert_rounded(array, by_itk(stack, from_voxel, template.shape, place, sitk.CompositeTransform(chain)))

    run("lsfm-core export brain.h5 --channel cfos --origin 1.76,6.91,2.01 --size 0.5,0.5,0.5 --level 0 --output cube.nii.gz")
    array, affine = image("cube.nii.gz")
    assert array.shape == (10, 8, 10)
    np.testing.assert_allclose(affine, [[0.05, 0, 0, 1.785], [0, 0.06, 0, 6.94], [0, 0, 0.05, 2.035], [0, 0, 0, 1]], atol=1e-6)

    run(
        "lsfm-core export brain.h5 --channel autofluo --region CA1 --labels-channel atlas --side left --mask --resolution 0.02 "
        "--output ca1.nii.gz"
    )
    array, affine = image("ca1.nii.gz")
    labels = image("annotation.nii.gz")[0] == 382
    half = labels[:54].sum()
    assert 0.97 < (array > 0).sum() / 125 / half < 1.001
    np.testing.assert_allclose(affine[0, 3] - 0.01, 0.1 * np.argwhere(labels)[:, 0].min() - 0.05, atol=1e-6)
    assert affine[0, 3] + 0.02 * array.shape[0] < 5.4

    run("lsfm-core export brain.h5 --channel autofluo --grid 0,0,0 --size 2,2,2 --overlap 0.1 --level 1 --output chunks/")
    assert (workplace / "chunks" / "manifest.json").exists()
    # Chunks of 25 x 20 x 25 voxels that share one, in 136 x 135 x 97.
    assert len(list((workplace / "chunks").glob("*.nii.gz"))) == 6 * 8 * 4
    run("lsfm-core merge chunks/ --output merged.nii.gz")
    run("lsfm-core export brain.h5 --channel autofluo --level 1 --output level1.nii.gz")
    np.testing.assert_array_equal(image("merged.nii.gz")[0], image("level1.nii.gz")[0])

    run(
        "lsfm-core export-slices brain.h5 --channel autofluo --axis 0 --level 1 --range 20,400,2 --roi 10,10,50,50 "
        "--output 'slices/s_%04d.tif'"
    )
    planes = sorted((workplace / "slices").iterdir())
    whole = image("level1.nii.gz")[0]
    assert [plane.name for plane in planes] == [f"s_{n:04d}.tif" for n in range(20, whole.shape[0], 2)]
    # Sagittal planes as they are looked at: superior up, anterior at the right.
    expected = whole[20::2].transpose(0, 2, 1)[:, ::-1][:, 10:60, 10:60]
    np.testing.assert_array_equal(np.stack([tifffile.imread(plane) for plane in planes]), expected)
