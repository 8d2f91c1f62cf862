"""Several BigDataViewer XMLs for one HDF5 file: the one that is opened counts, and is the one that changes are written to."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import nibabel
import npy2bdv
import numpy as np
import pytest

from lsfm_core import (
    ExportRequest,
    IngestRequest,
    allow_outside,
    describe_file,
    edit_lsfm,
    export_channel,
    ingest_channel,
    open_lsfm,
)
from lsfm_core.cli import main
from lsfm_core.errors import FormatError, MissingError

from . import children

#: Appended transforms act last, in units of the smallest edge of a voxel.
MOVED = '<ViewTransform type="affine"><Name>moved</Name><affine>1 0 0 100 0 1 0 200 0 0 1 300</affine></ViewTransform>'


@pytest.fixture
def voxels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(20).integers(0, 30000, (8, 20, 24), dtype=np.uint16)


@pytest.fixture
def folder(tmp_path: Path, voxels: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """dataset.h5 and dataset.xml by npy2bdv: voxels of 5 x 4 x 4 um; and aligned.xml, the same but moved."""
    writer = npy2bdv.BdvWriter(
        str(tmp_path / "dataset.h5"), subsamp=((1, 1, 1), (1, 2, 2)), blockdim=((4, 8, 8), (4, 8, 8)), overwrite=True
    )
    writer.append_view(voxels, time=0, channel=0, voxel_size_xyz=(4, 4, 5), voxel_units="um", calibration=(1, 1, 1.25))
    writer.write_xml()
    writer.close()
    text = (tmp_path / "dataset.xml").read_text()
    moved = text.replace("<ViewTransform", MOVED + "<ViewTransform", 1).replace(">setup 0<", ">left side<")
    (tmp_path / "aligned.xml").write_text(moved)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def first_voxel(path: Path | str) -> list[float]:
    """Where BigDataViewer has the first voxel: x, y, z in mm."""
    with open_lsfm(path) as file:
        (channel,) = file.channels.values()
        return [round(v, 6) for v in channel.space.world_from_voxel[:3, 3].tolist()]


def test_the_xml_that_is_opened_counts(folder: Path) -> None:
    assert first_voxel("dataset.h5") == first_voxel("dataset.xml") == [0, 0, 0]
    assert first_voxel("aligned.xml") == [0.4, 0.8, 1.2]
    with open_lsfm("aligned.xml") as file:
        assert list(file) == ["left side"]
        assert file.named_xml == file.xml_path == file.opened_as == Path("aligned.xml")
        facts = describe_file(file)
    assert (facts.xml.name, facts.xml.named, facts.xml.state) == ("aligned.xml", True, "present")
    assert "aligned.xml" in facts.xml.words
    with open_lsfm("dataset.h5") as file:
        assert file.opened_as == Path("dataset.h5")
        assert not describe_file(file).xml.named


def test_an_export_lies_where_the_opened_xml_says(folder: Path, voxels: np.ndarray[Any, Any]) -> None:
    common = ["--orientation", "IAR", "--resolution", "0.005,0.004,0.004"]
    assert main(["export", "dataset.h5", "--channel", "setup 0", *common[:2], "--output", "plain.nii"]) == 0
    assert main(["export", "aligned.xml", "--channel", "left side", *common[:2], "--output", "moved.nii"]) == 0
    plain, moved = (nibabel.load(name) for name in ("plain.nii", "moved.nii"))
    # Columns grow to the right, rows forward, planes downward.
    np.testing.assert_array_equal(np.asarray(moved.dataobj), np.flip(voxels.T, 2))
    np.testing.assert_array_equal(np.asarray(plain.dataobj), np.asarray(moved.dataobj))
    np.testing.assert_allclose(plain.affine[:3, 3], 0, atol=1e-6)
    np.testing.assert_allclose(moved.affine[:3, 3], (0.4, 0.8, -1.2), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "hdf5", "base"),
    [
        ("raw/data.h5", '<hdf5 type="relative">raw/data.h5</hdf5>', "."),
        ("raw/data.h5", '<hdf5 type="relative">raw\\data.h5</hdf5>', "."),
        ("raw/data.h5", '<hdf5 type="relative">data.h5</hdf5>', "raw"),
        ("raw/deep/data.h5", '<hdf5 type="relative">deep\\data.h5</hdf5>', ".\\raw"),
        ("raw/data.h5", '<hdf5 type="absolute">{folder}/raw/data.h5</hdf5>', "elsewhere"),
        ("dåta & 1.h5", '<hdf5 type="relative">dåta &amp; 1.h5</hdf5>', "."),
    ],
)
def test_the_hdf5_file_is_found_as_the_xml_names_it(
    name: str, hdf5: str, base: str, folder: Path, voxels: np.ndarray[Any, Any]
) -> None:
    (folder / name).parent.mkdir(exist_ok=True, parents=True)
    shutil.move("dataset.h5", name)
    text = Path("aligned.xml").read_text().replace('<hdf5 type="relative">dataset.h5</hdf5>', hdf5.format(folder=folder))
    Path("aligned.xml").write_text(text.replace('<BasePath type="relative">.<', f'<BasePath type="relative">{base}<'), "utf-8")
    with open_lsfm("aligned.xml") as file:
        assert file.path.samefile(name)
        np.testing.assert_array_equal(np.asarray(file["left side"].levels[0].data), voxels)
    assert main(["rename-channel", "aligned.xml", "--channel", "left side", "--to", "right"]) == 0
    assert b"right" in Path("aligned.xml").read_bytes()
    assert first_voxel("aligned.xml") == [0.4, 0.8, 1.2]
    # With what was written anew, BigDataViewer's own rules find the file as well.
    root = ElementTree.parse("aligned.xml").getroot()
    assert (folder / str(root.findtext("BasePath")) / str(root.findtext(".//hdf5"))).samefile(name)


def test_what_an_xml_names_elsewhere_is_refused(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    text = Path("aligned.xml").read_text()
    (inner / "base.xml").write_text(text.replace('<BasePath type="relative">.<', '<BasePath type="relative">..<'))
    (inner / "windows.xml").write_text(text.replace(">dataset.h5<", ">..\\dataset.h5<"))
    for name in ("base.xml", "windows.xml"):
        with pytest.raises(FormatError, match="outside its folder"):
            open_lsfm(inner / name)
        with allow_outside():
            assert first_voxel(inner / name) == [0.4, 0.8, 1.2]
    (inner / "lost.xml").write_text(text.replace('"relative">dataset.h5<', '"absolute">C:\\data\\dataset.h5<'))
    with pytest.raises(MissingError, match="missing"):
        open_lsfm(inner / "lost.xml")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16"])
def test_an_xml_may_have_another_encoding_than_it_says(encoding: str, folder: Path) -> None:
    body = Path("aligned.xml").read_text("utf-8").partition("?>")[2].replace("<unit>um<", "<unit>µm<")
    Path("windows.xml").write_bytes(('<?xml version="1.0" encoding="UTF-8"?>' + body).encode(encoding))
    assert first_voxel("windows.xml") == [0.4, 0.8, 1.2]


def test_changes_are_written_to_the_xml_that_was_opened(folder: Path, voxels: np.ndarray[Any, Any]) -> None:
    before = Path("dataset.xml").read_bytes()
    np.save("own.npy", voxels)
    request = IngestRequest(path="aligned.xml", channel="own", image=voxels, voxel_size_mm=(0.005, 0.004, 0.004), orientation="IAR")
    ingest_channel(request)
    assert main(["rename-channel", "aligned.xml", "--channel", "left side", "--to", "side"]) == 0
    assert main(["xml", "aligned.xml"]) == 0
    assert Path("dataset.xml").read_bytes() == before
    assert sorted(path.name for path in folder.glob("*.xml*")) == ["aligned.xml", "dataset.xml"]
    root = ElementTree.parse("aligned.xml").getroot()
    assert [e.text for e in root.iterfind(".//ViewSetup/name")] == ["side", "own"]
    assert "lsfm-core: for" not in Path("aligned.xml").read_text()
    with open_lsfm("aligned.xml") as file:
        np.testing.assert_allclose(file["side"].space.world_from_voxel[:3, 3], (0.4, 0.8, 1.2))
        assert {record.xml for record in file.log()} == {"aligned.xml"}
        assert file["own"].remarks == ()


def test_a_copy_has_the_xml_that_was_opened(folder: Path) -> None:
    assert main(["repack", "aligned.xml", "--output", "copy.h5"]) == 0
    assert first_voxel("copy.h5") == [0.4, 0.8, 1.2]


def test_the_log_replays_with_the_same_xml(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_channel(ExportRequest(path="aligned.xml", channel="left side", orientation="IAR", output="a.nii"))
    (folder / "elsewhere").mkdir()
    with edit_lsfm("aligned.xml") as editor:
        editor.set_metadata("specimen", "7")
    capsys.readouterr()
    assert main(["log", "dataset.h5", "--json"]) == 0
    assert [record["xml"] for record in json.loads(capsys.readouterr().out)] == ["aligned.xml", "aligned.xml"]
    assert main(["log", "dataset.h5", "--command"]) == 0
    assert capsys.readouterr().out.count("aligned.xml") == 2
    assert main(["replay", "dataset.h5", "1", "--output", "again.nii"]) == 0
    assert "identical" in capsys.readouterr().out
    Path("recipe.yaml").write_text(
        "file: aligned.xml\nsteps:\n- export: {channel: left side, orientation: IAR, output: by_recipe.nii}\n"
    )
    assert main(["run", "recipe.yaml"]) == 0
    for name in ("again.nii", "by_recipe.nii"):
        np.testing.assert_allclose(nibabel.load(name).affine[:3, 3], (0.4, 0.8, -1.2), atol=1e-6)


def test_ours_lies_where_an_xml_has_moved_it(tmp_path: Path, voxels: np.ndarray[Any, Any]) -> None:
    ingest_channel(
        IngestRequest(path=tmp_path / "brain.h5", channel="a", image=voxels, voxel_size_mm=(0.005, 0.004, 0.004), orientation="SAR")
    )
    xml = tmp_path / "brain.xml"
    with open_lsfm(xml) as file:
        assert file["a"].remarks == ()
    root = ElementTree.parse(xml)
    registration = root.find(".//ViewRegistration")
    assert registration is not None
    move = ElementTree.fromstring('<ViewTransform type="affine"><affine>1 0 0 7 0 1 0 8 0 0 1 9</affine></ViewTransform>')
    registration.insert(0, move)
    root.write(tmp_path / "aligned.xml")
    with open_lsfm(tmp_path / "aligned.xml") as file:
        np.testing.assert_allclose(file["a"].space.world_from_voxel[:3, 3], (7, 8, 9))
        assert "aligned.xml" in file["a"].remarks[0]
        for level in file["a"].levels:
            np.testing.assert_allclose(level.space.bounds.lower_mm, file["a"].space.bounds.lower_mm)
    with open_lsfm(tmp_path / "brain.h5") as file:
        np.testing.assert_allclose(file["a"].space.world_from_voxel[:3, 3], 0)


def test_a_replaced_image_leaves_no_registration_behind(tmp_path: Path, voxels: np.ndarray[Any, Any]) -> None:
    request = IngestRequest(path=tmp_path / "brain.h5", channel="a", image=voxels, voxel_size_mm=(1, 1, 1), orientation="SAR")
    ingest_channel(request)
    ingest_channel(request.model_copy(update={"voxel_size_mm": (2.0, 2.0, 2.0), "replace": True}))
    with open_lsfm(tmp_path / "brain.xml") as file:
        assert file["a"].remarks == ()
        assert file["a"].space.voxel_size_mm == (2, 2, 2)


# Renames a channel by way of an XML, and dies when a file is to take that XML's place, or the change is to be committed.
_KILLED = """
import os, sys
from lsfm_core import RenameChannelRequest, apply_edit
replace = os.replace
def die(source, target, **options):
    if os.fspath(target).endswith("aligned.xml"):
        os._exit(9)
    replace(source, target, **options)
os.replace = os.rename = die
if sys.argv[1] == "undone":
    from lsfm_core import durable
    durable.JournaledFile.commit = lambda self, *_: os._exit(9)
apply_edit(RenameChannelRequest(path="aligned.xml", channel="left side", new_name="new name!"))
"""


@pytest.mark.parametrize("moment", ["waits", "undone"])
def test_a_killed_writer_leaves_the_opened_xml_whole(moment: str, folder: Path) -> None:
    xml = Path("aligned.xml")
    before = xml.read_text()
    assert children.run([sys.executable, "-c", _KILLED, moment], check=False).returncode == 9
    assert xml.read_text() == before
    first_voxel("dataset.h5")
    # The change is committed: its XML takes its place; or it is undone.
    assert ("new name!" in xml.read_text()) == (moment == "waits")
    if moment == "undone":
        assert xml.read_text() == before
    assert sorted(path.name for path in Path().glob("*partial*")) == []


def make_master(folder: Path, link: str) -> Path:
    """A master file whose voxels lie in another file; its level 1 in dataset.h5."""
    path = folder / "master.h5"
    with h5py.File(path, "w") as master, h5py.File(folder / "dataset.h5") as data:
        data.copy("s00", master)
        master["t00000/s00/0/cells"] = h5py.ExternalLink(link, "t00000/s00/0/cells")
        master["t00000/s00/1/cells"] = h5py.ExternalLink("dataset.h5", "t00000/s00/1/cells")
    (folder / "master.xml").write_text((folder / "dataset.xml").read_text().replace(">dataset.h5<", ">master.h5<"))
    return path


@pytest.mark.parametrize("detached", [False, True])
def test_partitions_are_read_within_the_folder_only(detached: bool, folder: Path, voxels: np.ndarray[Any, Any]) -> None:
    shutil.copy("dataset.h5", "part.h5")
    make_master(folder, "part.h5")
    with open_lsfm("master.xml", detached=detached) as file:
        assert [level.shape for level in file["setup 0"].levels] == [(8, 20, 24), (8, 10, 12)]
        np.testing.assert_array_equal(np.asarray(file["setup 0"].levels[0].data), voxels)
    Path("part.h5").unlink()
    with open_lsfm("master.xml", detached=detached) as file:
        assert list(file) == []
        assert any("part.h5, is missing" in remark for remark in describe_file(file).warnings)
    (folder / "inner").mkdir()
    for path in ("dataset.xml", "dataset.h5"):
        shutil.copy(path, f"inner/{path}")
    for link in ("../dataset.h5", str(folder / "dataset.h5")):
        make_master(folder / "inner", link)
        with open_lsfm("inner/master.h5", detached=detached) as file, pytest.raises(FormatError, match="outside of the folder"):
            list(file)


def test_what_external_storage_names_elsewhere_is_refused(folder: Path) -> None:
    (folder / "inner").mkdir()
    Path("secret").write_bytes(bytes(8))
    with h5py.File("inner/x.h5", "w") as h5:
        h5["s00/resolutions"] = np.ones((1, 3))
        h5.create_dataset("t00000/s00/0/cells", (2, 2, 2), "u1", external=[("../secret", 0, 8)])
    with open_lsfm("inner/x.h5") as file, pytest.raises(FormatError, match="outside of the folder"):
        list(file)
