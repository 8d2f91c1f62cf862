"""The file as others see it, and others' files as we see them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import npy2bdv
import numpy as np
import pytest

from lsfm_core import BusyError, FormatError, IngestRequest, InputError, LsfmError, StorageError, ingest_channel, open_lsfm
from lsfm_core.store import edit_lsfm
from lsfm_core.store._xml import parse_xml


def test_layout_of_a_new_file(series: Path, tmp_path: Path, ingest_series: Callable[..., Any]) -> None:
    ingest_series(series)
    with open(tmp_path / "brain.h5", "rb") as raw:
        assert raw.read(9)[8] == 0, "superblock 0 survives a writer that died"
    with h5py.File(tmp_path / "brain.h5") as file:
        assert file["s00"].attrs["dataType"] == "uint16"
        assert file["s00/resolutions"].dtype == np.float64
        assert file["s00/subdivisions"].dtype == np.int32
        levels = file["LSFM/signal/IMAGE"]
        # Bio-Formats counts every member as a level.
        assert sorted(file["t00000/s00"]) == sorted(levels) == ["0", "1"]
        for index, level in levels.items():
            link = file["t00000/s00"][index].get("cells", getlink=True)
            assert link.path == level["cells"].name
            np.testing.assert_array_equal(file["s00/subdivisions"][int(index)][::-1], level["cells"].chunks)
            np.testing.assert_array_equal(file["s00/resolutions"][int(index)][::-1], level.attrs["factors"])


def test_xml_is_ascii_and_complete(series: Path, tmp_path: Path, ingest_series: Callable[..., Any]) -> None:
    ingest_series(series, channel="µ <kanał>", voxel_size_mm=(0.005, 0.004, 0.003))
    data = (tmp_path / "brain.xml").read_bytes()
    assert data.isascii()
    root = ElementTree.fromstring(data)
    assert root.findtext("SequenceDescription/ViewSetups/ViewSetup/name") == "µ <kanał>"
    assert root.findtext("SequenceDescription/ViewSetups/ViewSetup/size") == "83 301 37"
    assert root.findtext("SequenceDescription/ViewSetups/ViewSetup/voxelSize/size") == "0.003 0.004 0.005"
    assert {e.get("name") for e in root.iterfind(".//Attributes")} == {"illumination", "channel", "tile", "angle"}
    assert root.find("SequenceDescription/ImageLoader/hdf5").get("type") == "relative"  # type: ignore[union-attr]
    with open_lsfm(tmp_path / "brain.h5") as file:
        view = parse_xml(data, "brain.xml").views[0]
        np.testing.assert_allclose(view.world_from_voxel, file["µ <kanał>"].space.world_from_voxel)


def test_what_others_added_to_the_xml_stays(series: Path, tmp_path: Path, ingest_series: Callable[..., Any]) -> None:
    ingest_series(series)
    path = tmp_path / "brain.xml"
    tree = ElementTree.parse(path)
    root = tree.getroot()
    ElementTree.SubElement(root, "StitchingResults").text = "42"
    ElementTree.SubElement(root.find("SequenceDescription"), "MissingViews")  # type: ignore[arg-type]
    affine = root.find("ViewRegistrations/ViewRegistration/ViewTransform/affine")
    affine.text = "2.0 0.0 0.0 7.0 0.0 2.0 0.0 8.0 0.0 0.0 2.0 9.0"  # type: ignore[union-attr]
    tree.write(path)
    ingest_series(series, channel="second")
    root = ElementTree.parse(path).getroot()
    assert root.findtext("StitchingResults") == "42"
    assert root.find("SequenceDescription/MissingViews") is not None
    registrations = root.findall("ViewRegistrations/ViewRegistration")
    assert [r.get("setup") for r in registrations] == ["0", "1"]
    assert registrations[0].findtext("ViewTransform/affine") == affine.text  # type: ignore[union-attr]
    assert len(root.findall("SequenceDescription/ViewSetups/ViewSetup")) == 2


def test_registrations_multiply_with_the_last_acting_first() -> None:
    xml = b"""<SpimData version="0.2"><SequenceDescription><ImageLoader format="bdv.hdf5"><hdf5 type="relative">a.h5</hdf5>
    </ImageLoader><ViewSetups><ViewSetup><id>0</id><size>4 5 6</size><voxelSize><unit>micron</unit><size>1 2 3</size></voxelSize>
    </ViewSetup></ViewSetups></SequenceDescription><ViewRegistrations><ViewRegistration timepoint="0" setup="0">
    <ViewTransform type="affine"><affine>1 0 0 10 0 1 0 20 0 0 1 30</affine></ViewTransform>
    <ViewTransform type="affine"><affine>1 0 0 0 0 2 0 0 0 0 3 0</affine></ViewTransform>
    </ViewRegistration></ViewRegistrations></SpimData>"""
    view = parse_xml(xml, "a.xml").views[0]
    assert view.shape == (6, 5, 4)
    assert view.voxel_size_mm == (0.003, 0.002, 0.001)
    # Voxel (plane 1, row 1, column 1), in mm.
    np.testing.assert_allclose(view.world_from_voxel @ (1, 1, 1, 1), (0.011, 0.022, 0.033, 1))


@pytest.mark.parametrize(
    "xml",
    [
        b"",
        b"<SpimData>",
        b"<Other/>",
        b"<SpimData/>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><SpimData>&a;</SpimData>',
        b"<SpimData><SequenceDescription><ImageLoader><hdf5> </hdf5></ImageLoader></SequenceDescription></SpimData>",
    ],
)
def test_other_xml_is_refused(xml: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_bytes(xml)
    with pytest.raises(FormatError, match=r"x\.xml"):
        open_lsfm(tmp_path / "x.xml")


def test_an_xml_opens_its_file_but_none_outside_its_folder(series: Path, tmp_path: Path, ingest_series: Callable[..., Any]) -> None:
    ingest_series(series)
    with open_lsfm(tmp_path / "brain.xml") as file:
        assert list(file) == ["signal"]
    inner = tmp_path / "inner"
    inner.mkdir()
    text = (tmp_path / "brain.xml").read_text()
    for name in ("../brain.h5", str(tmp_path / "brain.h5")):
        (inner / "brain.xml").write_text(text.replace("brain.h5", name))
        with pytest.raises(FormatError, match="outside its folder"):
            open_lsfm(inner / "brain.xml")
    (inner / "brain.xml").write_text(text)
    with pytest.raises(StorageError, match="missing"):
        open_lsfm(inner / "brain.xml")


def test_a_file_of_npy2bdv(tmp_path: Path, volume: np.ndarray) -> None:
    path = tmp_path / "other.h5"
    writer = npy2bdv.BdvWriter(
        str(path),
        nchannels=2,
        subsamp=((1, 1, 1), (1, 2, 2)),
        blockdim=((8, 32, 32), (8, 16, 16)),
        compression="gzip",
        overwrite=True,
    )
    for channel in range(2):
        writer.append_view(volume + channel, channel=channel, voxel_size_xyz=(2, 3, 4), voxel_units="um")
    writer.write_xml()
    writer.close()
    with open_lsfm(path) as file:
        assert len(file) == 2
        for index, channel in enumerate(file.channels.values()):
            np.testing.assert_array_equal(np.asarray(channel.levels[0][...]), volume + np.uint16(index))
            np.testing.assert_allclose(channel.space.voxel_size_mm, (0.004, 0.003, 0.002))
            assert channel.levels[1].factors == (1, 2, 2)
            assert channel.orientation is None


def test_every_timepoint_can_be_read(tmp_path: Path, volume: np.ndarray) -> None:
    path = tmp_path / "movie.h5"
    writer = npy2bdv.BdvWriter(str(path), nchannels=2, subsamp=((1, 1, 1), (1, 2, 2)), blockdim=((8, 32, 32), (8, 16, 16)))
    for time, channel in ((0, 0), (2, 0), (2, 1)):
        writer.append_view(volume + time, time=time, channel=channel, voxel_size_xyz=(2, 3, 4), voxel_units="um")
    writer.write_xml()
    writer.close()
    with open_lsfm(path) as file:
        first, second = file
        assert (file[first].timepoints, file[second].timepoints) == ((0, 2), (2,))
        for name, time in ((first, 0), (first, 2), (second, 2)):
            levels = file.levels_at(name, time)
            np.testing.assert_array_equal(levels[0].data, volume + np.uint16(time))
            assert levels[1].factors == (1, 2, 2)
            np.testing.assert_array_equal(levels[1].space.world_from_voxel, file[name].levels[1].space.world_from_voxel)
        with pytest.raises(InputError, match="no timepoint 1; it has: 0, 2"):
            file.levels_at(first, 1)


def test_timepoints_that_are_registered_differently_are_remarked(tmp_path: Path, volume: np.ndarray) -> None:
    path = tmp_path / "drift.h5"
    writer = npy2bdv.BdvWriter(str(path), nchannels=2)
    for channel, time in product(range(2), range(2)):
        writer.append_view(volume, time=time, channel=channel, voxel_size_xyz=(2, 3, 4), voxel_units="um")
    writer.write_xml()
    writer.close()
    xml = ElementTree.parse(path.with_suffix(".xml"))
    affine = xml.find("ViewRegistrations/ViewRegistration[@timepoint='1'][@setup='0']/ViewTransform/affine")
    affine.text = "1 0 0 5 0 1 0 0 0 0 1 0"
    xml.write(path.with_suffix(".xml"))
    with open_lsfm(path) as file:
        drifting, still = (any("registered differently" in text for text in file[name].remarks) for name in file)
    assert (drifting, still) == (True, False)


def test_looks_are_kept(tmp_path: Path, series: Path, ingest_series: Callable[..., Any]) -> None:
    ingest_series(series)
    path = tmp_path / "brain.h5"
    with edit_lsfm(path) as editor:
        measured = editor["signal"].display_range
        assert measured is not None and measured[0] < measured[1] and editor["signal"].colormap is None
        editor.set_look("signal", display_range=(5, 700), colormap="magenta")
    with open_lsfm(path) as file:
        assert (file["signal"].display_range, file["signal"].colormap) == ((5.0, 700.0), "magenta")


def test_lsfmpys_file_tells_its_faults(legacy_file: Path) -> None:
    with open_lsfm(legacy_file) as file:
        assert {name: file[name].kind for name in file} == {
            "autofluo": "image",
            "inverse_warp": "vectors",
            "segmentation": "labels",
        }
        channel = file["autofluo"]
        assert channel.dtype == np.uint16
        np.testing.assert_allclose(channel.space.voxel_size_mm, (0.05, 0.04, 0.04))
        assert any("133" in remark and "128" in remark for remark in channel.remarks)
        assert any("32767" in remark for remark in channel.remarks)


@pytest.mark.parametrize(("count", "wrong"), [(0, True), (1, False), (2, True), (None, False)])
def test_a_wrong_count_of_channels_is_remarked(count: int | None, wrong: bool, tmp_path: Path) -> None:
    """lsfmpy's counter, planted in a file that holds one channel."""
    image = np.zeros((3, 4, 5), np.uint8)
    request = IngestRequest(path=tmp_path / "a.h5", channel="a", image=image, voxel_size_mm=(1, 1, 1), orientation="RAS")
    ingest_channel(request)
    with h5py.File(tmp_path / "a.h5", "r+") as raw:
        del raw["LSFM_DIGESTS"]
        if count is not None:
            raw.attrs["LSFM_setups_count"] = count
    with open_lsfm(tmp_path / "a.h5") as file:
        assert file.remarks == ((f"LSFM_setups_count says {count} channels, there are 1: lsfmpy counted wrongly",) if wrong else ())


@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_what_is_no_hdf5_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    with pytest.raises(LsfmError, match=r"x\.h5"):
        open_lsfm(path)


def test_hdf5_of_another_kind_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = [1]
    with pytest.raises(FormatError, match="neither /LSFM nor"):
        open_lsfm(tmp_path / "x.h5")


def test_a_broken_structure_is_named(series: Path, tmp_path: Path, ingest_series: Callable[..., Any]) -> None:
    ingest_series(series)
    with h5py.File(tmp_path / "brain.h5", "r+") as file:
        del file["LSFM/signal/IMAGE/1"].attrs["factors"]
        del file["LSFM_DIGESTS"]
    with open_lsfm(tmp_path / "brain.h5") as file, pytest.raises(FormatError, match=r"brain\.h5: its structure is broken.*factors"):
        file.channels  # noqa: B018


def test_a_writer_keeps_readers_and_writers_out(series: Path, tmp_path: Path, ingest_series: Callable[..., Any]) -> None:
    ingest_series(series)
    before = (tmp_path / "brain.h5").read_bytes()
    with edit_lsfm(tmp_path / "brain.h5"):
        with pytest.raises(BusyError, match="another program"):
            ingest_series(series, channel="second")
        with pytest.raises(BusyError, match="another program"):
            open_lsfm(tmp_path / "brain.h5")
    with open_lsfm(tmp_path / "brain.h5"), pytest.raises(BusyError, match="another program has the file open"):
        ingest_series(series, channel="second")
    assert (tmp_path / "brain.h5").read_bytes() == before
    ingest_series(series, channel="second")
