"""Names of spaces: how they are recorded, and what is refused by them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lsfm_core import edit_lsfm, open_lsfm
from lsfm_core.cli import main
from lsfm_core.store import LsfmFile, Sides
from lsfm_core.testing import write_series

VOXELS = np.random.default_rng(8).integers(1, 9, (12, 16, 14), dtype=np.uint16)


@pytest.fixture
def brain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory's file: two images of one specimen, with all else beside it."""
    import SimpleITK as sitk

    monkeypatch.chdir(tmp_path)
    write_series(tmp_path / "planes", VOXELS)
    np.savetxt("shift.txt", np.array([[1, 0, 0, 0.1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6, 7, 3), np.float32), isVector=True), "warp.nrrd")
    write("autofluo", "")
    write("cfos", "")
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
    assert spaces(brain) == {"autofluo": "native of autofluo", "cfos": "native of cfos", "atlas": None}
    with open_lsfm(brain) as opened:
        assert isinstance(opened, LsfmFile)
        assert opened["cfos"].inner_space is None
