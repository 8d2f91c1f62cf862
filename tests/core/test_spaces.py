"""Names of spaces: how they are recorded, and what is refused by them."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from lsfm_core import (
    ExportRequest,
    InputError,
    PointsRequest,
    PreviewRequest,
    RegionSelection,
    check_spaces,
    command_line,
    edit_lsfm,
    export_channel,
    open_lsfm,
    plan_export,
    preview_file,
    transform_points,
)
from lsfm_core.cli import main
from lsfm_core.spaces import find_way, linear_way, resolve_space
from lsfm_core.store import LsfmFile, Sides
from lsfm_core.testing import write_series

VOXELS = np.random.default_rng(8).integers(1, 9, (12, 16, 14), dtype=np.uint16)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two images of one specimen in a file, and all else beside it. Not to be changed."""
    import SimpleITK as sitk

    folder = tmp_path_factory.mktemp("images")
    with contextlib.chdir(folder):
        write_series(folder / "planes", VOXELS)
        np.savetxt("shift.txt", np.array([[1, 0, 0, 0.1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6, 7, 3), np.float32), isVector=True), "warp.nrrd")
        write("autofluo", "")
        write("cfos", "")
    return folder


@pytest.fixture(scope="module")
def joined(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same: the second image is shifted, and there are labels of the first; with all names recorded."""
    folder = Path(shutil.copytree(images, tmp_path_factory.mktemp("joined"), dirs_exist_ok=True))
    with contextlib.chdir(folder):
        write("atlas", "--kind labels --space autofluo")
        run("write-affine brain.h5 --channel cfos --name to_structural --affine shift.txt --to autofluo")
        run("write-affine brain.h5 --channel autofluo --name to_template --affine shift.txt --to aligned")
        run("write-field brain.h5 --channel inverse_warp --image warp.nrrd")
        run("write-field brain.h5 --channel warp --image warp.nrrd --from aligned --to template --inverse-of inverse_warp")
        Path("cells.csv").write_text("z,y,x\n1,2,3\n4,5,6\n")
    return folder


@pytest.fixture
def brain(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory's file: two images of one specimen, with all else beside it."""
    monkeypatch.chdir(shutil.copytree(images, tmp_path, dirs_exist_ok=True))
    return tmp_path / "brain.h5"


def write(channel: str, options: str) -> None:
    run(f"write brain.h5 --channel {channel} --image planes --voxel-size 0.1,0.1,0.1 --orientation SAR {options}")


def run(line: str, code: int = 0) -> None:
    assert main([*shlex.split(line), "--quiet"]) == code, line


def spaces(path: Path) -> dict[str, str | None]:
    with open_lsfm(path) as file:
        return {name: channel.space_name for name, channel in file.channels.items()}


def sides(path: Path, *affine: str) -> Sides:
    with open_lsfm(path) as file:
        return file.affine_sides(*affine) if len(affine) == 2 else file.field_sides(*affine)


# --- records ----------------------------------------------------------------------------------------------------------------


def test_a_channel_records_where_it_lives(brain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("atlas", "--kind labels --space autofluo")
    write("parcels", "--kind labels --space 'Allen CCFv3'")
    write("spots", "--kind labels")
    write("second", "--space cfos")
    assert spaces(brain) == {
        "autofluo": "native of autofluo",
        "cfos": "native of cfos",
        "atlas": "native of autofluo",
        "parcels": "Allen CCFv3",
        "spots": None,
        "second": "native of cfos",
    }
    with h5py.File(brain) as file:
        assert file["LSFM/atlas"].attrs["space"] == "native of autofluo"
        assert "space" not in file["LSFM/spots"].attrs
    # The channel that stands for a space must have one.
    run("write brain.h5 --channel more --image planes --voxel-size 1,1,1 --orientation SAR --space spots", 3)
    assert "set-space --channel spots" in capsys.readouterr().err
    assert main(shlex.split("write brain.h5 --channel k --image planes --voxel-size 1,1,1 --orientation SAR --space atlas")) == 0
    assert "lies in 'native of autofluo'" in capsys.readouterr().out


def test_a_channel_does_not_hide_the_space_of_its_name(brain: Path) -> None:
    run("write-affine brain.h5 --channel autofluo --name moved --affine shift.txt --to template")
    write("template", "")
    with open_lsfm(brain) as file:
        assert file["template"].space_name == "native of template"
        assert resolve_space(file, "template") == "template"
        assert find_way(file, "autofluo", "template").steps == ("moved",)
    run("set-space brain.h5 --channel template --space template")
    assert spaces(brain)["template"] == "template"


def test_a_space_can_be_set_afterwards_and_taken_back(brain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("atlas", "--kind labels")
    assert main(["set-space", str(brain), "--channel", "atlas", "--space", "cfos"]) == 0
    assert "'native of cfos'" in capsys.readouterr().out
    assert spaces(brain)["atlas"] == "native of cfos"
    assert main(["set-space", str(brain), "--channel", "atlas", "--space", "autoflou"]) == 0
    assert "new in this file" in capsys.readouterr().out
    run("set-space brain.h5 --channel atlas --space ?")
    run("set-space brain.h5 --channel autofluo --space template")
    assert (spaces(brain)["atlas"], spaces(brain)["autofluo"]) == (None, "template")
    run("set-space brain.h5 --channel autofluo --space autofluo")
    assert spaces(brain)["autofluo"] == "native of autofluo"
    with h5py.File(brain) as file:
        assert "space" not in file["LSFM/atlas"].attrs


def test_transforms_record_what_they_join(brain: Path) -> None:
    run("write-affine brain.h5 --channel cfos --name to_structural --affine shift.txt --to autofluo")
    run("write-affine brain.h5 --channel cfos --name other --affine shift.txt --from template")
    assert sides(brain, "cfos", "to_structural") == ("native of cfos", "native of autofluo")
    assert sides(brain, "cfos", "other") == ("template", None)
    run("write-field brain.h5 --channel inverse_warp --image warp.nrrd")
    assert sides(brain, "inverse_warp") == (None, None)
    run("write-field brain.h5 --channel warp --image warp.nrrd --from aligned --to template --inverse-of inverse_warp")
    assert sides(brain, "warp") == ("aligned", "template")
    assert sides(brain, "inverse_warp") == ("template", "aligned")
    # An inverse that leads elsewhere is none.
    run("write-field brain.h5 --channel third --image warp.nrrd --from template --to aligned --inverse-of inverse_warp", 3)
    run("set-space brain.h5 --transform cfos/other --to cfos")
    run("set-space brain.h5 --transform warp --from ?")
    assert sides(brain, "cfos", "other") == ("template", "native of cfos")
    assert sides(brain, "warp") == (None, "template")
    # Without a record, an affine goes with its channel.
    run("set-space brain.h5 --channel cfos --space other")
    assert sides(brain, "cfos", "to_structural").inner == "other"


def test_names_follow_their_channel(brain: Path) -> None:
    write("atlas", "--kind labels --space autofluo")
    run("write-affine brain.h5 --channel cfos --name to_structural --affine shift.txt --to autofluo")
    run("write-field brain.h5 --channel warp --image warp.nrrd --from autofluo --to template")
    run("rename-channel brain.h5 --channel autofluo --to structural")
    assert spaces(brain)["atlas"] == spaces(brain)["structural"] == "native of structural"
    assert sides(brain, "cfos", "to_structural").outer == sides(brain, "warp").inner == "native of structural"
    # Another image that is given the name of a removed one must not seem to lie where that lay.
    run("remove-channel brain.h5 --channel structural")
    write("structural", "")
    assert spaces(brain)["structural"] == "native of structural"
    assert spaces(brain)["atlas"] == sides(brain, "warp").inner == "native of structural, removed"
    # One that takes its place does.
    write("atlas", "--kind labels --space structural --replace")
    write("structural", "--replace")
    assert spaces(brain)["atlas"] == spaces(brain)["structural"] == "native of structural"


def test_what_python_has_set_is_in_the_log_and_can_be_said_again(brain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with edit_lsfm(brain) as editor:
        editor.set_space("cfos", "elsewhere")
    run("write-affine brain.h5 --channel cfos --name a --affine shift.txt")
    with edit_lsfm(brain) as editor:
        editor.set_sides("cfos", "a", Sides(None, "template"))
    run("set-space brain.h5 --channel cfos --space ?")
    capsys.readouterr()
    assert main(["log", str(brain), "--operation", "set-space", "--command"]) == 0
    lines = [line.split("  #")[0].partition("lsfm-core ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines[0].endswith("--channel=cfos --space=elsewhere")
    assert lines[1].endswith("--transform=cfos/a --to=template")
    for line in lines[:2]:
        run(line)
    assert spaces(brain)["cfos"] == "elsewhere"
    assert sides(brain, "cfos", "a") == ("elsewhere", "template")
    before: Any = brain.read_bytes()
    run("set-space brain.h5 --channel cfos --space autofluo --dry-run")
    assert brain.read_bytes() == before


def test_repacking_and_foreign_readers_keep_the_records(brain: Path) -> None:
    write("atlas", "--kind labels --space autofluo")
    run("write-affine brain.h5 --channel cfos --name to_structural --affine shift.txt --to autofluo")
    run("repack brain.h5")
    assert spaces(brain)["atlas"] == "native of autofluo"
    assert sides(brain, "cfos", "to_structural") == ("native of cfos", "native of autofluo")


def test_files_without_records_are_read(brain: Path) -> None:
    write("atlas", "--kind labels")
    with h5py.File(brain, "r+") as file:
        for name in file["LSFM"]:
            file["LSFM"][name].attrs.pop("space", None)
        # As such files are, which are older than these.
        del file["LSFM_DIGESTS"], file.attrs["LSFM_has_digests"]
    assert spaces(brain) == {"autofluo": "native of autofluo", "cfos": "native of cfos", "atlas": None}
    with open_lsfm(brain) as opened:
        assert isinstance(opened, LsfmFile)
        assert opened["cfos"].inner_space is None


# --- labels -----------------------------------------------------------------------------------------------------------------


def why(capsys: pytest.CaptureFixture[str], line: str) -> str:
    """Why a command line is refused, in one line."""
    capsys.readouterr()
    run(f"{line} --overwrite", 3)
    (text,) = capsys.readouterr().err.splitlines()
    return text


def warned(capsys: pytest.CaptureFixture[str], line: str) -> list[str]:
    """What a command line warns of."""
    capsys.readouterr()
    run(f"{line} --overwrite")
    return [text for text in capsys.readouterr().err.splitlines() if text.startswith("warning: ")]


@pytest.fixture
def study(joined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory's file with all that `joined` has."""
    monkeypatch.chdir(shutil.copytree(joined, tmp_path, dirs_exist_ok=True))
    return tmp_path / "brain.h5"


EXPORT = "export brain.h5 --channel cfos --output x.npy"
POINTS = "transform-points cells.csv --file brain.h5 --channel cfos --output y.csv"


@pytest.mark.parametrize(
    "command", [f"{EXPORT} --region 1", f"{POINTS}", "export-slices brain.h5 --channel cfos --region 1 --output %d.tif"]
)
def test_labels_of_another_space_are_refused_with_what_would_be_right(
    command: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = why(capsys, f"{command} --labels-channel atlas")
    assert "'native of autofluo'" in text and "'native of cfos'" in text
    (advice,) = re.findall(r"They are met with (.*?)\. ", text)
    assert advice == "--transform to_structural --labels-in output"
    assert not list(study.parent.glob("[xy%0-9]*.*"))
    assert warned(capsys, f"{command} --labels-channel atlas {advice}") == []
    # Further on, they are met on the way.
    chain = "--transform to_structural --transform to_template --transform warp"
    text = why(capsys, f"{command} --labels-channel atlas {chain}")
    assert "They are met with --labels-in to_structural." in text
    text = why(capsys, f"{command} --labels-channel atlas {chain} --labels-in output")
    assert "'template'" in text and "--labels-in to_structural" in text
    assert warned(capsys, f"{command} --labels-channel atlas {chain} --labels-in to_structural") == []
    # A way round, where the chain does not lead through their space.
    run("write-affine brain.h5 --channel cfos --name straight --affine shift.txt --to aligned")
    text = why(capsys, f"{command} --labels-channel atlas --transform straight")
    (advice,) = re.findall(r"They are met with (.*?)\. ", text)
    assert advice == "--transform to_structural --transform to_template --labels-in to_structural"
    assert warned(capsys, f"{command} --labels-channel atlas {advice}") == []


def test_two_ways_of_equal_length_are_both_named(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("write-affine brain.h5 --channel cfos --name other --affine shift.txt --to autofluo")
    text = why(capsys, f"{EXPORT} --region 1 --labels-channel atlas")
    assert "Several ways lead there: --transform other; --transform to_structural." in text
    # An inverse is one as well, and a name that several channels have is given in full.
    run("set-space brain.h5 --transform other --to elsewhere")
    run("write-affine brain.h5 --channel autofluo --name to_structural --affine shift.txt --from autofluo --to cfos")
    run("set-space brain.h5 --transform cfos/to_structural --to ?")
    text = why(capsys, f"{EXPORT} --region 1 --labels-channel atlas")
    assert "--transform autofluo/to_structural:invert --labels-in output" in text
    assert (
        warned(capsys, f"{EXPORT} --region 1 --labels-channel atlas --transform autofluo/to_structural:invert --labels-in output")
        == []
    )


def test_a_way_names_affines_so_that_each_is_the_one_that_is_meant(study: Path) -> None:
    run("write-affine brain.h5 --channel autofluo --name to_structural --affine shift.txt --to elsewhere")
    with open_lsfm(study) as file:
        assert find_way(file, "cfos", "autofluo").steps == ("to_structural",)
        # Its own of that name leads elsewhere.
        assert find_way(file, "autofluo", "cfos").steps == ("cfos/to_structural:invert",)
        assert find_way(file, "autofluo", "elsewhere").steps == ("to_structural",)
        with pytest.raises(InputError, match=r"no affines .*: through to_structural, to_template, warp only, which is not linear"):
            linear_way(file, "cfos", "template")
        # Each affine moves by 0.1 mm.
        for start, end, moved in (("cfos", "aligned", 0.2), ("autofluo", "cfos", -0.1), ("cfos", "cfos", 0)):
            np.testing.assert_allclose(linear_way(file, start, end).map_points([(1, 2, 3)]), [(1 + moved, 2, 3)], atol=1e-12)


@pytest.mark.parametrize(
    ("chain", "advice"),
    [
        ("--transform to_template --transform warp", "--transform to_structural --transform to_template --transform warp"),
        ("--transform to_structural --transform warp", "--transform to_structural --transform to_template --transform warp"),
        ("--transform to_template --transform to_structural", "--transform to_structural"),
        ("--transform to_structural:invert --transform to_template", "--transform to_structural --transform to_template"),
        ("--transform to_structural --transform to_template:invert", "--transform to_structural"),
        (
            "--transform to_structural --transform to_template --transform inverse_warp",
            "--transform to_structural --transform to_template",
        ),
        (
            "--transform to_structural --transform to_template --transform warp:invert",
            "--transform to_structural --transform to_template",
        ),
    ],
)
def test_a_chain_that_does_not_join_is_refused(chain: str, advice: str, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (EXPORT, POINTS):
        text = why(capsys, f"{command} {chain}")
        assert "is one left out" in text
        assert f"leads {advice}." in text
        assert warned(capsys, f"{command} {advice}") == []


def test_a_reference_of_another_space_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = why(capsys, f"{EXPORT} --reference autofluo")
    assert "'native of autofluo'" in text and "--transform to_structural." in text
    assert warned(capsys, f"{EXPORT} --transform to_structural --reference autofluo") == []
    assert warned(capsys, f"{EXPORT} --reference cfos") == []
    points = f"{POINTS} --reference autofluo --to output-voxel"
    assert "--transform to_structural." in why(capsys, points)
    assert warned(capsys, f"{points} --transform to_structural") == []
    run("set-space brain.h5 --transform to_structural --to ?")
    (warning,) = warned(capsys, f"{EXPORT} --transform to_structural --reference autofluo")
    run(re.findall(r"this records it: lsfm-core (.*)", warning)[0])
    assert warned(capsys, f"{EXPORT} --transform to_structural --reference autofluo") == []
    write("spots", "--kind labels")
    (warning,) = warned(capsys, f"{EXPORT} --reference spots")
    run(re.findall(r"this records it: lsfm-core (.*)", warning)[0])
    assert warned(capsys, f"{EXPORT} --reference spots") == []


def test_what_is_not_recorded_is_warned_of_once_with_what_settles_it(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("set-space brain.h5 --channel atlas --space ?")
    for command in (f"{EXPORT} --region 1", POINTS):
        (warning,) = warned(capsys, f"{command} --labels-channel atlas")
        assert "not recorded" in warning and "that of 'autofluo' as well" in warning
    assert main(shlex.split(f"{EXPORT} --region 1 --labels-channel atlas --dry-run --overwrite")) == 0
    assert "\nwarning the space that the labels" in capsys.readouterr().out
    assert main(shlex.split(f"{EXPORT} --region 1 --labels-channel atlas --overwrite")) == 0
    shown = capsys.readouterr()
    assert "not recorded" not in shown.out
    assert shown.err.count("not recorded") == 1
    run(re.findall(r"this records it: lsfm-core (.*)", warning)[0])
    assert warned(capsys, f"{EXPORT} --region 1 --labels-channel atlas") == []
    # Where a transform leads is settled at it.
    run("set-space brain.h5 --channel atlas --space autofluo")
    run("set-space brain.h5 --transform to_structural --to ?")
    line = f"{EXPORT} --region 1 --labels-channel atlas --transform to_structural --labels-in to_structural"
    (warning,) = warned(capsys, line)
    run(re.findall(r"this records it: lsfm-core (.*)", warning)[0])
    assert sides(study, "cfos", "to_structural").outer == "native of autofluo"
    assert warned(capsys, line) == []
    # Of a file nobody can record anything.
    (warning,) = warned(capsys, f"{EXPORT} --region 1 --labels-channel atlas --transform shift.txt --labels-in output")
    assert "stored in the file" in warning


def test_labels_without_a_record_that_have_the_box_of_another_image_are_refused(
    brain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("write-affine brain.h5 --channel cfos --name to_structural --affine shift.txt --to autofluo")
    # Nearly the box of the one image, while the other is smaller by more than a voxel of theirs.
    write_series(Path("small"), VOXELS[:, :, 2:])
    run("write brain.h5 --channel cfos --image small --voxel-size 0.1,0.1,0.1 --orientation SAR --replace")
    run("write brain.h5 --channel atlas --kind labels --image planes --voxel-size 0.099,0.101,0.1 --orientation SAR")
    text = why(capsys, f"{EXPORT} --region 1 --labels-channel atlas")
    first, second = re.findall(r"this records it: lsfm-core (.*?--space \w+)", text)
    assert "--transform to_structural --labels-in output" in text
    run(first)
    assert spaces(brain)["atlas"] == "native of autofluo"
    run("set-space brain.h5 --channel atlas --space ?")
    run(second)
    assert spaces(brain)["atlas"] == "native of cfos"
    assert warned(capsys, f"{EXPORT} --region 1 --labels-channel atlas") == []
    run("set-space brain.h5 --channel atlas --space ?")
    # Labels that fit it are taken, with a warning; others as well, for nothing tells against them.
    run("write brain.h5 --channel own --kind labels --image small --voxel-size 0.1,0.1,0.1 --orientation SAR")
    (warning,) = warned(capsys, f"{EXPORT} --region 1 --labels-channel own")
    assert "(their box is that of channel 'cfos', as it should be)" in warning
    write_series(Path("piece"), VOXELS[3:6, 3:9, 3:9])
    run("write brain.h5 --channel piece --kind labels --image piece --voxel-size 0.1,0.1,0.1 --orientation SAR")
    (warning,) = warned(capsys, f"{EXPORT} --region 1 --labels-channel piece")
    assert "box" not in warning


@pytest.mark.slow
def test_outlines_are_drawn_over_images_of_their_own_space_only(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = why(capsys, "preview brain.h5 --channel cfos --labels-channel atlas --output p.png")
    assert "They fit --channel autofluo." in text
    assert not Path("p.png").exists()
    assert warned(capsys, "preview brain.h5 --channel autofluo --labels-channel atlas --output p.png") == []
    (warning,) = warned(capsys, "preview brain.h5 --labels-channel atlas --output p.png")
    assert "no outlines are drawn over channel 'cfos'" in warning
    fields: dict[str, Any] = {"path": study, "labels_channel": "atlas"}
    both = preview_file(PreviewRequest(**fields))
    assert both.layout is not None and both.image is not None
    texts = [text.text for text in both.layout.texts]
    assert sum("outlines: atlas" in text for text in texts) == 1
    plain = preview_file(PreviewRequest(path=study))
    assert plain.layout is not None and plain.image is not None
    for panel in plain.layout.panels:
        left, top, right, bottom = panel.box
        same = (both.image[top:bottom, left:right] == plain.image[top:bottom, left:right]).all()
        assert same == (panel.channel == "cfos"), panel
    assert len(warned(capsys, "preview brain.h5 --labels-channel atlas --output p.html")) == 1
    run("set-space brain.h5 --channel atlas --space ?")
    assert len(warned(capsys, "preview brain.h5 --channel cfos --labels-channel atlas --output p.png")) == 1


def test_the_check_can_be_asked_for_alone(study: Path) -> None:
    with open_lsfm(study) as file:
        request = ExportRequest(path=study, channel="cfos")
        assert check_spaces(file, request) == ()
        with pytest.raises(InputError, match="wrong anatomy"):
            check_spaces(file, request, labels=("atlas", "native"))
        assert plan_export(file, request).warnings == ()


# --- the real brain ---------------------------------------------------------------------------------------------------------


def lps_affine(brain_data: Path) -> npt.NDArray[np.float64]:
    """The affine of the real specimen that maps a structural point to the signal's, 4 x 4, RAS mm, read by SimpleITK."""
    import SimpleITK as sitk

    read = sitk.AffineTransform(sitk.ReadTransform(str(brain_data / "transforms" / "structural_to_signal_affine.txt")))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(read.GetMatrix(), (3, 3))
    matrix[:3, 3] = read.TransformPoint((0.0, 0.0, 0.0))
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return flip @ matrix @ flip


@pytest.mark.slow
def test_cells_of_the_real_brain_get_their_regions_or_none(
    registered_file: Path, brain_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = brain_data / "signal_cells_voxel_zyx.csv"
    request: dict[str, Any] = {"path": registered_file, "channel": "cfos", "points": cells, "labels_channel": "atlas"}
    with pytest.raises(InputError, match="--transform signal_to_structural --labels-in output"):
        transform_points(PointsRequest(**request))
    found = transform_points(PointsRequest(**request, transforms=("signal_to_structural",), labels_in="output"))
    # By numpy and nibabel: planes toward A, rows toward I, columns toward R; the voxel first in R, A and S lies at 0.
    z, y, x = np.loadtxt(cells, delimiter=",", skiprows=1, unpack=True)
    signal = np.stack([0.05 * x, 0.06 * z, 0.05 * (153 - y)], axis=1)
    inverse = np.linalg.inv(lps_affine(brain_data))
    structural = signal @ inverse[:3, :3].T + inverse[:3, 3]
    np.testing.assert_allclose(found.points, structural, atol=1e-9)
    labels = nib.load(brain_data / "annotation_in_structural_100um.nii.gz")
    voxel_from_world = np.linalg.inv(labels.affine)
    index = np.floor(structural @ voxel_from_world[:3, :3].T + voxel_from_world[:3, 3] + 0.5).astype(int)
    inside = ((index >= 0) & (index < labels.shape)).all(axis=1)
    expected = np.zeros(len(index), int)
    expected[inside] = np.asarray(labels.dataobj)[tuple(index[inside].T)]
    assert found.region_ids is not None
    assert np.count_nonzero(expected) == 5635
    np.testing.assert_array_equal(found.region_ids, expected)
    assert found.warnings == ()


def test_a_region_of_the_real_signal_is_that_of_brute_force(registered_file: Path, brain_data: Path) -> None:
    import SimpleITK as sitk

    region: dict[str, Any] = {"labels_channel": "atlas", "select": "CA1", "mask": True}
    request: dict[str, Any] = {"path": registered_file, "channel": "cfos"}
    with pytest.raises(InputError, match="--transform signal_to_structural --labels-in output"):
        export_channel(ExportRequest(**request, region=RegionSelection(**region)))
    chosen = RegionSelection(**region, labels_in="output")
    volume = export_channel(
        ExportRequest(**request, region=chosen, transforms=("signal_to_structural",), reference="atlas", level=0, antialias=False)
    ).volume
    assert volume is not None
    # The signal as SimpleITK reads it, placed by hand, and carried onto the grid of the annotation.
    image = sitk.ReadImage(str(brain_data / "signal_stack.tif"))
    image.SetSpacing((0.05, 0.05, 0.06))
    image.SetDirection((-1, 0, 0, 0, 0, -1, 0, -1, 0))
    image.SetOrigin((0, 0, 0.05 * 153))
    annotation = sitk.ReadImage(str(brain_data / "annotation_in_structural_100um.nii.gz"))
    affine = sitk.ReadTransform(str(brain_data / "transforms" / "structural_to_signal_affine.txt"))
    carried = sitk.Resample(sitk.Cast(image, sitk.sitkFloat64), annotation, affine, sitk.sitkLinear)
    lines = (brain_data / "allen_labels_itksnap.txt").read_text().splitlines()
    (key,) = (int(line.split()[0]) for line in lines if line.endswith('(CA1)"'))
    mask = sitk.GetArrayFromImage(annotation) == key
    box = tuple(slice(found.min(), found.max() + 1) for found in np.nonzero(mask))
    expected = np.where(mask, np.rint(sitk.GetArrayFromImage(carried)), 0)[box].T
    assert volume.array.shape == expected.shape
    apart = np.abs(volume.array.astype(float) - expected)
    assert apart.max() <= 1
    assert np.count_nonzero(apart) < 1e-3 * apart.size
    assert np.count_nonzero(expected) > 1000


# --- ways -------------------------------------------------------------------------------------------------------------------


def test_the_graph_tells_what_lies_where_and_how_good_inverses(registered_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spaces", str(registered_file), "--json"]) == 0
    graph = json.loads(capsys.readouterr().out)
    assert {space["name"]: [channel["name"] for channel in space["channels"]] for space in graph["spaces"]} == {
        "aligned": [],
        "native of autofluo": ["autofluo", "atlas"],
        "native of cfos": ["cfos"],
        "template": ["template_atlas"],
    }
    links = {link["name"]: link for link in graph["transforms"]}
    assert {name: (link["inner"], link["outer"], link["inverse"]) for name, link in links.items()} == {
        "structural_to_template": ("native of autofluo", "aligned", "structural_to_template:invert"),
        "signal_to_structural": ("native of cfos", "native of autofluo", "signal_to_structural:invert"),
        "warp": ("aligned", "template", "inverse_warp"),
        "inverse_warp": ("template", "aligned", "warp"),
    }
    # ANTs' inverse is good to a fraction of a voxel (0.1 mm).
    median, most = links["warp"]["residual_mm"]
    assert 0 < median < most < 0.1 and links["warp"]["sampled"] == 27 * 64
    assert main(["spaces", str(registered_file)]) == 0
    assert "'aligned' -> 'template': warp, a displacement field with the inverse inverse_warp" in capsys.readouterr().out


def test_an_export_to_a_space_is_that_through_the_transforms(registered_file: Path, tmp_path: Path) -> None:
    named = export_channel(ExportRequest(path=registered_file, channel="cfos", to_space="template", resolution_mm=0.4))
    steps = ("signal_to_structural", "structural_to_template", "warp")
    listed = export_channel(ExportRequest(path=registered_file, channel="cfos", transforms=steps, resolution_mm=0.4))
    assert [step.name for step in named.plan.chain.transforms] == [step.name for step in listed.plan.chain.transforms]
    assert named.volume is not None and listed.volume is not None
    np.testing.assert_array_equal(named.volume.array, listed.volume.array)
    # Labels that lie on the way are met there; a channel stands for the space that it lives in.
    region = RegionSelection(labels_channel="atlas", select="CP", include_descendants=True)
    met = {"transforms": steps, "region": region.model_copy(update={"labels_in": "signal_to_structural"})}
    pieces = [plan_export_of(registered_file, **fields) for fields in ({"to_space": "template_atlas", "region": region}, met)]
    assert pieces[0].target.same_grid(pieces[1].target)
    home = plan_export_of(registered_file, to_space="cfos")
    assert home.chain.transforms == ()


def plan_export_of(path: Path, **fields: Any) -> Any:
    with open_lsfm(path) as file:
        return plan_export(file, ExportRequest(path=path, channel="cfos", resolution_mm=0.4, **fields))


def test_points_go_to_a_space_and_back(registered_file: Path, tmp_path: Path) -> None:
    points = [[20.0, 50, 60], [100, 60, 80]]
    fields = {"path": registered_file, "channel": "cfos", "points": points}
    there = transform_points(PointsRequest(**fields, to_space="template")).points
    steps = ("signal_to_structural", "structural_to_template", "warp")
    np.testing.assert_array_equal(there, transform_points(PointsRequest(**fields, transforms=steps)).points)
    np.savetxt(tmp_path / "cells.csv", points, delimiter=",", header="z,y,x", comments="")
    run(
        f"transform-points {tmp_path / 'cells.csv'} --file {registered_file} --channel cfos --to template "
        f"--output {tmp_path / 'out.csv'}"
    )
    np.testing.assert_allclose(np.loadtxt(tmp_path / "out.csv", delimiter=",", skiprows=1)[:, -3:], there, atol=1e-6)
    run(f"transform-points {tmp_path / 'cells.csv'} --file {registered_file} --channel cfos --to nowhere --output out.csv", 3)


def test_two_ways_of_equal_length_are_both_named_and_via_decides(brain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for middle, shift in (("left", 0.1), ("right", 0.2)):
        np.savetxt(f"{middle}.txt", np.array([[1, 0, 0, shift], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
        run(f"write-affine brain.h5 --channel autofluo --name to_{middle} --affine {middle}.txt --to {middle}")
        run(f"write-affine brain.h5 --channel cfos --name from_{middle} --affine {middle}.txt --from {middle} --to atlas")
    run("export brain.h5 --channel autofluo --to atlas --output out.nii", 3)
    message = capsys.readouterr().err
    assert "to_left, from_left; to_right, from_right" in message and "--via" in message
    for via, shift in (("right", 0.4), ("left", 0.2), ("from_right", 0.4), ("to_left", 0.2)):
        run(f"export brain.h5 --channel autofluo --to atlas --via {via} --output {via}.nii")
        # A result point goes inward by the sum of both shifts.
        assert nib.load(f"{via}.nii").affine[0, 3] == pytest.approx(-shift), via
    run("export brain.h5 --channel autofluo --to atlas --via nowhere --output out.nii", 3)
    run("export brain.h5 --channel autofluo --to moon --output out.nii", 3)
    assert "lsfm-core spaces brain.h5" in capsys.readouterr().err
    run("export brain.h5 --channel autofluo --to atlas --transform to_left --output out.nii", 3)
    assert "--to: name the space, or the transforms" in capsys.readouterr().err
    run("export brain.h5 --channel autofluo --via left --output out.nii", 3)
    assert not Path("out.nii").exists()
    # The log can say it again.
    with open_lsfm(brain) as file:
        record = next(record for record in file.log() if record.operation == "export" and record.outcome == "done")
    assert record.request["to_space"] == "atlas" and record.request["transforms"] == []
    line = command_line(record.model_copy(update={"command": None}), "brain.h5")
    assert line is not None and "--to-space=atlas --via=right" in line


def test_a_space_is_renamed_wherever_it_stands(brain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("atlas", "--kind labels --space template")
    write("parcels", "--kind labels --space autofluo")
    run("write-affine brain.h5 --channel autofluo --name moved --affine shift.txt --to template")
    run("write-field brain.h5 --channel warp --image warp.nrrd --from template --to far")
    run("rename-space brain.h5 --space template --to allen")
    assert spaces(brain)["atlas"] == sides(brain, "autofluo", "moved").outer == sides(brain, "warp").inner == "allen"
    # One that is an image's own, without a record.
    run("rename-space brain.h5 --space autofluo --to mouse")
    assert spaces(brain)["autofluo"] == spaces(brain)["parcels"] == sides(brain, "autofluo", "moved").inner == "mouse"
    for old, new in (("allen", "mouse"), ("allen", "cfos"), ("moon", "x"), ("allen", "?"), ("allen", " ")):
        assert main(["rename-space", str(brain), "--space", old, "--to", new]) == 3, (old, new)
    assert "Traceback" not in capsys.readouterr().err
    with open_lsfm(brain) as file:
        assert file.differences() == ()


def test_two_spaces_that_are_one_are_linked(brain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("parcels", "--kind labels --space cfos")
    run("write-affine brain.h5 --channel cfos --name moved --affine shift.txt --to atlas")
    run("export brain.h5 --channel autofluo --to atlas --output out.nii", 3)
    assert main(shlex.split("link-spaces brain.h5 --space cfos --to autofluo --dry-run")) == 0
    assert "channels cfos, parcels; transforms moved" in capsys.readouterr().out
    run("link-spaces brain.h5 --space cfos --to autofluo")
    own = "native of autofluo"
    assert {name: spaces(brain)[name] for name in ("autofluo", "cfos", "parcels")} == dict.fromkeys(
        ("autofluo", "cfos", "parcels"), own
    )
    assert sides(brain, "cfos", "moved") == (own, "atlas")
    run("export brain.h5 --channel autofluo --to atlas --output out.nii")
    # The shift of the affine is the other channel's as well.
    shift = np.loadtxt("shift.txt")[:3, 3]
    run("export brain.h5 --channel autofluo --output own.nii")
    moved = nib.load("out.nii").affine[:3, 3] - nib.load("own.nii").affine[:3, 3]
    np.testing.assert_allclose(moved, -shift, atol=1e-6)
    # A transform that moves points says that they are two; one that moves none does not.
    np.savetxt("nothing.txt", np.eye(4))
    run("write-affine brain.h5 --channel autofluo --name same --affine nothing.txt --to elsewhere")
    for first, second in (("atlas", "autofluo"), ("autofluo", "atlas"), ("moon", "atlas"), ("atlas", "?"), ("cfos", "autofluo")):
        assert main(["link-spaces", str(brain), "--space", first, "--to", second]) == 3, (first, second)
    told = capsys.readouterr().err
    assert "cfos/moved" in told or "moved" in told
    assert "moves points" in told and "one space already" in told
    run("link-spaces brain.h5 --space elsewhere --to autofluo")
    with open_lsfm(brain) as file:
        assert file.differences() == ()
