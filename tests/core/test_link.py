"""A master file whose channels lie in others: what h5py, and we, find through its links."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import h5py
import nibabel
import numpy as np
import pytest

from lsfm_core import ExportRequest, IngestRequest, export_channel, ingest_channel, open_lsfm, verify_file
from lsfm_core.cli import main

PLACE = {"voxel_size_mm": (0.05, 0.04, 0.04), "orientation": "AIR"}
IMAGES = {name: np.random.default_rng(seed).integers(0, 60000, (20, 70, 34)).astype(np.uint16) for seed, name in enumerate("abc")}


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files, of which the second lies below and has two channels."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    for name, file in (("a", "one.h5"), ("b", "below/two.h5"), ("c", "below/two.h5")):
        ingest_channel(IngestRequest(path=file, channel=name, image=IMAGES[name], **PLACE))
    assert main(["link", "master.h5", "one.h5", "below/two.h5", "--quiet"]) == 0
    return tmp_path


def test_a_master_has_the_voxels_of_all_and_none_of_its_own(parts: Path) -> None:
    with h5py.File("master.h5") as h5:
        for setup, name in enumerate("abc"):
            link = h5.get(f"t00000/s{setup:02d}/0/cells", getlink=True)
            assert isinstance(link, h5py.ExternalLink)
            assert link.filename == ("one.h5" if name == "a" else "below/two.h5")
            np.testing.assert_array_equal(h5[f"t00000/s{setup:02d}/0/cells"][()], IMAGES[name])
            assert h5[f"s{setup:02d}"].attrs["dataType"] == "uint16"
            assert h5[f"s{setup:02d}/resolutions"].shape == h5[f"s{setup:02d}/subdivisions"].shape
    assert Path("master.h5").stat().st_size < 200_000
    for detached in (False, True):
        with open_lsfm("master.h5", detached=detached) as file:
            assert [*file] == ["a", "b", "c"]
            for name in file:
                np.testing.assert_array_equal(np.asarray(file[name].levels[0]), IMAGES[name])
                assert file[name].orientation is not None
            with open_lsfm("below/two.h5") as own:
                np.testing.assert_array_equal(file["c"].space.world_from_voxel, own["c"].space.world_from_voxel)
    report = verify_file("master.h5")
    assert report.defects == () and report.unchecked_chunks == 0
    export_channel(ExportRequest(path="master.h5", channel="c", output="c.nii", output_orientation="native"))
    np.testing.assert_array_equal(np.asarray(nibabel.load("c.nii").dataobj), IMAGES["c"])


def test_the_xml_lists_the_files_as_partitions(parts: Path) -> None:
    loader = ElementTree.parse("master.xml").find("SequenceDescription/ImageLoader")
    assert loader is not None and loader.findtext("hdf5") == "master.h5"
    found = [
        [item.findtext(tag) for tag in ("path", "timepoints", "setups", "setupsMapped")] for item in loader.findall("partition")
    ]
    assert found == [["one.h5", "0", "0", None], ["below/two.h5", "0", "1 2", "0 1"]]
    assert main(["xml", "master.h5", "--quiet"]) == 0
    assert len(ElementTree.parse("master.xml").findall("SequenceDescription/ImageLoader/partition")) == 2


def test_damage_is_found_through_the_links(parts: Path) -> None:
    with h5py.File("below/two.h5", "r+") as h5:
        place = h5["LSFM/b/IMAGE/0/cells"].id.get_chunk_info(0).byte_offset
    with open("below/two.h5", "r+b") as file:
        file.seek(place + 100)
        byte = file.read(1)
        file.seek(place + 100)
        file.write(bytes([byte[0] ^ 1]))
    assert [defect.channel for defect in verify_file("master.h5").defects] == ["b"]
    Path("one.h5").unlink()
    assert main(["verify", "master.h5", "--quiet"]) in (3, 4)


def test_what_cannot_be_linked_is_refused(
    parts: Path, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "far.h5"
    shutil.copy("one.h5", elsewhere)
    shutil.copy("one.h5", "twin.h5")
    with h5py.File("foreign.h5", "w") as h5:
        h5["s00/resolutions"], h5["s00/subdivisions"] = np.ones((1, 3)), np.full((1, 3), 4, np.int32)
        h5.create_dataset("t00000/s00/0/cells", data=np.zeros((4, 4, 4), np.int16), chunks=(4, 4, 4))
    before = Path("master.h5").read_bytes()
    for words, code, said in (
        (["master.h5", "one.h5"], 1, "exists already.*--overwrite"),
        (["new.h5", "one.h5", "twin.h5"], 3, "twin.h5: has a channel 'a', as one.h5 has"),
        (["new.h5", str(elsewhere)], 3, "outside of the folder"),
        (["new.h5", "foreign.h5"], 3, "is not one of ours"),
        (["new.h5", "none.h5"], 3, "none.h5: no such file"),
        (["new.tif", "one.h5"], 3, "ends in .h5"),
        (["master.h5", "master.h5", "--overwrite"], 3, "is the master itself"),
    ):
        assert main(["link", *words]) == code
        assert re.search(said, capsys.readouterr().err)
    assert not Path("new.h5").exists() and Path("master.h5").read_bytes() == before
    assert main(["link", "master.h5", "twin.h5", "--overwrite", "--quiet"]) == 0
    with open_lsfm("master.h5") as file:
        assert [*file] == ["a"]
        assert file.log()[-1].operation == "link"
