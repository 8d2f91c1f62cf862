"""Files of other programs, changed by ours: what is theirs stays theirs, in the HDF5 file and in the XML.

npy2bdv makes the files and reads them again; h5py says what is in them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import nibabel
import npy2bdv
import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from lsfm_core import (
    ChecksumError,
    ChunkCache,
    ExistsError,
    FormatError,
    InputError,
    LsfmError,
    StorageError,
    edit_lsfm,
    open_lsfm,
    verify_file,
)
from lsfm_core.cli import main
from lsfm_core.export import ExportRequest, export_channel, plan_export
from lsfm_core.store import RepackRequest, repack_file, write_xml
from lsfm_core.store._xml import parse_xml

Array = npt.NDArray[Any]
Ingester = Callable[..., Any]
SHAPE = (10, 40, 50)
#: (timepoint, channel); the second channel was not imaged at the second timepoint.
VIEWS = ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1))
SHIFT = np.array([[1.0, 0, 0, 10], [0, 1, 0, 20], [0, 0, 1, 30]])


def stack(timepoint: int, channel: int) -> Array:
    """Noise of its own for each view."""
    return np.random.default_rng(10 * timepoint + channel).integers(0, 60_000, SHAPE, dtype=np.uint16)


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    """Two channels at three timepoints, shifted against each other in pixels, as BigStitcher keeps them."""
    path = tmp_path / "movie.h5"
    pyramid = {"subsamp": ((1, 1, 1), (1, 2, 2)), "blockdim": ((8, 16, 16), (8, 16, 16)), "compression": "gzip"}
    writer = npy2bdv.BdvWriter(str(path), nchannels=2, **pyramid)
    writer.set_attribute_labels("channel", ("488", "561"))
    for time, channel in VIEWS:
        place = {"m_affine": SHIFT * [[1, 1, 1, channel]], "calibration": (1, 1, 4)}
        size = {"voxel_size_xyz": (0.5, 0.5, 2), "voxel_units": "um"}
        writer.append_view(stack(time, channel), time=time, channel=channel, **size, **place)
    writer.write_xml()
    writer.close()
    return path


def names_of(path: Path) -> list[str]:
    with open_lsfm(path) as file:
        return list(file)


def xml_names(path: Path) -> list[str]:
    return [view.name for view in parse_xml(path.with_suffix(".xml").read_bytes(), "movie.xml").views]


def theirs(path: Path, setups: tuple[int, ...] = (0, 1), *, names: bool = True) -> dict[str, Any]:
    """All that the file and its XML say of others' setups."""
    found: dict[str, Any] = {}

    def keep(name: str, node: Any) -> None:
        parts = name.split("/")
        setup = parts[0] if parts[0].startswith("s") else parts[1] if parts[0].startswith("t") and len(parts) > 1 else ""
        if setup.startswith("s") and int(setup[1:]) in setups:
            found[name] = (dict(node.attrs), node[()].tobytes() if isinstance(node, h5py.Dataset) else None)

    with h5py.File(path) as file:
        file.visititems(keep)
    root = ElementTree.parse(path.with_suffix(".xml")).getroot()
    if not names:
        for element in root.iterfind("SequenceDescription/ViewSetups/ViewSetup"):
            element.remove(element.find("name"))  # type: ignore[arg-type]
    for element in root.iter():
        setup = element.findtext("id") if element.tag == "ViewSetup" else element.get("setup")
        if setup is not None and int(setup) in setups:
            key = (element.tag, setup, element.get("timepoint"))
            found[str(key)] = ElementTree.canonicalize(ElementTree.tostring(element, "unicode"), strip_text=True)
    used = {
        element.findtext("attributes/channel") for element in root.iter("ViewSetup") if int(element.findtext("id", "")) in setups
    }
    for item in root.iter("Channel"):
        if item.findtext("id") in used:
            found[f"channel {item.findtext('id')}"] = item.findtext("name")
    return found


def check_with_npy2bdv(path: Path, channels: int) -> None:
    editor = npy2bdv.BdvEditor(str(path), mode="r")
    assert (editor.ntimes, editor.nchannels) == (3, channels)
    for time, channel in VIEWS:
        np.testing.assert_array_equal(editor.read_view(time=time, channel=channel), stack(time, channel))
        np.testing.assert_allclose(editor.read_affine(time=time, channel=channel), SHIFT * [[1, 1, 1, channel]])
        np.testing.assert_allclose(editor.read_affine(time=time, channel=channel, index=1), np.diag([1, 1, 4, 1])[:3])
        assert editor.get_view_property("voxel_size", channel=channel) == (0.5, 0.5, 2)
    editor.finalize()


def add_mine(path: Path, series: Path, ingest: Ingester, name: str = "mine", **fields: Any) -> None:
    ingest(series, path=path, channel=name, **fields)


def add_metadata(path: Path) -> None:
    assert main(["add-metadata", str(path), "--channel", "setup 0", "stain=c-Fos", "--quiet"]) == 0


def add_affine(path: Path) -> None:
    matrix = path.with_name("affine.txt")
    np.savetxt(matrix, np.diag([1, 2, 3, 1]))
    assert main(["write-affine", str(path), "--channel", "setup 1", "--name", "to atlas", "--affine", str(matrix), "--quiet"]) == 0


def add_looks(path: Path) -> None:
    with edit_lsfm(path) as editor:
        editor.set_look("setup 0", display_range=(3, 500), colormap="magenta")
        editor.set_acquisition("setup 0", '{"objective": "4x"}')


def note_of_the_file(path: Path) -> None:
    assert main(["add-metadata", str(path), "specimen=42", "--quiet"]) == 0


def repack(path: Path) -> None:
    assert main(["repack", str(path), "--compression-level", "2", "--quiet"]) == 0


def make_xml(path: Path) -> None:
    write_xml(path)


@pytest.mark.parametrize("with_ours", [False, True])
@pytest.mark.parametrize("edit", [add_metadata, add_affine, add_looks, note_of_the_file, repack, make_xml])
def test_an_edit_leaves_others_setups_alone(
    edit: Callable[[Path], None], with_ours: bool, movie: Path, series: Path, ingest_series: Ingester
) -> None:
    before = theirs(movie)
    if with_ours:
        add_mine(movie, series, ingest_series)
    edit(movie)
    assert theirs(movie) == before
    assert names_of(movie) == ["setup 0", "setup 1"] + ["mine"] * with_ours
    assert verify_file(movie).defects == ()
    check_with_npy2bdv(movie, 2 + with_ours)


def test_what_is_given_to_a_foreign_channel_is_kept(movie: Path) -> None:
    add_metadata(movie)
    add_affine(movie)
    add_looks(movie)
    for path in (movie, movie.with_name("copy.h5")):
        if path != movie:
            repack_file(RepackRequest(path=movie, output=path))
        with open_lsfm(path) as file:
            channel = file["setup 0"]
            assert file.metadata("setup 0") == {"stain": "c-Fos"}
            assert (channel.display_range, channel.colormap) == ((3, 500), "magenta")
            assert file.acquisition("setup 0") == {"objective": "4x"}
            assert (channel.affines, file["setup 1"].affines) == ((), ("to atlas",))
            np.testing.assert_allclose(file.affine("setup 1", "to atlas").matrix, np.diag([1, 2, 3, 1]))
    assert main(["remove-metadata", str(movie), "--channel", "setup 0", "stain", "--quiet"]) == 0
    with open_lsfm(movie) as file:
        assert file.metadata("setup 0") == {}


def test_ours_stands_at_the_first_timepoint(movie: Path, series: Path, volume: Array, ingest_series: Ingester) -> None:
    before = theirs(movie)
    add_mine(movie, series, ingest_series)
    root = ElementTree.parse(movie.with_suffix(".xml")).getroot()
    missing = [(e.get("timepoint"), e.get("setup")) for e in root.iter("MissingView")]
    assert sorted(missing) == [("1", "1"), ("1", "2"), ("2", "2")]
    assert [e.get("timepoint") for e in root.iterfind("ViewRegistrations/ViewRegistration[@setup='2']")] == ["0"]
    with h5py.File(movie) as file:
        assert [name for name in file if f"{name}/s02" in file] == ["t00000"]
        np.testing.assert_array_equal(file["t00000/s02/0/cells"], volume)
    with open_lsfm(movie) as file:
        assert (file["mine"].timepoints, file["mine"].setup, file["mine"].foreign) == ((0,), 2, False)
        assert (file["setup 1"].timepoints, file["setup 1"].foreign) == ((0, 2), True)
    # Ours is renamed, replaced, and goes again.
    assert main(["rename-channel", str(movie), "--channel", "mine", "--to", "own", "--quiet"]) == 0
    add_mine(movie, series, ingest_series, "own", replace=True)
    assert theirs(movie) == before
    assert names_of(movie) == ["setup 0", "setup 1", "own"]
    assert verify_file(movie).defects == ()
    assert main(["remove-channel", str(movie), "--channel", "own", "--quiet"]) == 0
    assert theirs(movie) == before
    assert names_of(movie) == ["setup 0", "setup 1"]
    check_with_npy2bdv(movie, 2)


def shifted_to(path: Path, first: int) -> None:
    """Let the timepoints begin with another number."""
    with h5py.File(path, "r+") as file:
        for time in range(2, -1, -1):
            file.move(f"t{time:05d}", f"t{time + first:05d}")
    xml = path.with_suffix(".xml")
    root = ElementTree.parse(xml)
    for element in root.iter():
        if element.get("timepoint") is not None:
            element.set("timepoint", str(int(element.get("timepoint", "")) + first))
    times = root.find("SequenceDescription/Timepoints")
    assert times is not None
    times.clear()
    times.set("type", "pattern")
    ElementTree.SubElement(times, "integerpattern").text = f"{first}, {first + 1}-{first + 2}"
    root.write(xml)


def test_a_movie_that_does_not_begin_with_zero(movie: Path, series: Path, ingest_series: Ingester) -> None:
    shifted_to(movie, 5)
    before = theirs(movie)
    add_mine(movie, series, ingest_series)
    assert main(["rename-channel", str(movie), "--channel", "mine", "--to", "own", "--quiet"]) == 0
    add_mine(movie, series, ingest_series, "own", replace=True)
    repack(movie)
    root = ElementTree.parse(movie.with_suffix(".xml")).getroot()
    assert [e.get("timepoint") for e in root.iterfind("ViewRegistrations/ViewRegistration[@setup='2']")] == ["5"]
    assert [e.get("timepoint") for e in root.iter("MissingView") if e.get("setup") == "2"] == ["6", "7"]
    assert theirs(movie) == before
    with open_lsfm(movie) as file:
        assert file["own"].timepoints == (5,)
    assert verify_file(movie).defects == ()


@pytest.mark.parametrize(("listed", "missing"), [("5-7, 9-13:2", "6 7 9 11 13"), ("7,5,6,20", "7 6 20"), ("5, 6-7", "6 7")])
def test_a_pattern_of_timepoints_says_where_a_new_channel_is_missing(
    listed: str, missing: str, movie: Path, series: Path, ingest_series: Ingester
) -> None:
    shifted_to(movie, 5)
    xml = movie.with_suffix(".xml")
    xml.write_text(xml.read_text().replace("5, 6-7", listed))
    add_mine(movie, series, ingest_series)
    root = ElementTree.parse(xml).getroot()
    assert [e.get("timepoint") for e in root.iter("MissingView") if e.get("setup") == "2"] == missing.split()


def test_a_foreign_channel_gets_another_name(movie: Path, series: Path, ingest_series: Ingester) -> None:
    before = theirs(movie, names=False)
    add_metadata(movie)
    for old, new in (("setup 0", "nuclei"), ("setup 1", "vessels"), ("nuclei", "c-Fos")):
        assert main(["rename-channel", str(movie), "--channel", old, "--to", new, "--quiet"]) == 0
    add_mine(movie, series, ingest_series)
    assert names_of(movie) == ["c-Fos", "vessels", "mine"]
    assert theirs(movie, names=False) == before
    assert xml_names(movie) == ["c-Fos", "vessels", "mine"]
    with open_lsfm(movie) as file:
        assert file.metadata("c-Fos") == {"stain": "c-Fos"}
    movie.with_suffix(".xml").unlink()
    write_xml(movie)
    assert xml_names(movie) == ["c-Fos", "vessels", "mine"]
    assert names_of(movie) == ["c-Fos", "vessels", "mine"]
    check_with_npy2bdv_voxels(movie)


def check_with_npy2bdv_voxels(path: Path) -> None:
    editor = npy2bdv.BdvEditor(str(path), mode="r")
    for time, channel in VIEWS:
        np.testing.assert_array_equal(editor.read_view(time=time, channel=channel), stack(time, channel))
    editor.finalize()


def test_a_foreign_channel_is_replaced(
    movie: Path, series: Path, volume: Array, ingest_series: Ingester, capsys: pytest.CaptureFixture[str]
) -> None:
    before = theirs(movie, (1,))
    add_metadata(movie)
    with pytest.raises(ExistsError, match="'setup 0' exists already"):
        add_mine(movie, series, ingest_series, "setup 0")
    options = ["--image", str(series), "--voxel-size", "0.01,0.01,0.01", "--orientation", "RAS", "--replace"]
    assert main(["write", str(movie), "--channel", "setup 0", *options]) == 0
    assert "3 timepoints" in capsys.readouterr().err
    assert theirs(movie, (1,)) == before
    with open_lsfm(movie) as file:
        channel = file["setup 0"]
        assert (channel.setup, channel.foreign, channel.timepoints) == (0, False, (0,))
        np.testing.assert_array_equal(channel.levels[0].data, volume)
        assert file.metadata("setup 0") == {"stain": "c-Fos"}
    view = parse_xml(movie.with_suffix(".xml").read_bytes(), "movie.xml").views[0]
    np.testing.assert_allclose(view.world_from_voxel, channel.space.world_from_voxel)
    root = ElementTree.parse(movie.with_suffix(".xml")).getroot()
    channels = {item.findtext("id"): item.findtext("name") for item in root.iter("Channel")}
    own = root.findtext("SequenceDescription/ViewSetups/ViewSetup[id='0']/attributes/channel")
    assert channels[own] == "setup 0"
    assert verify_file(movie).defects == ()


def test_nothing_of_a_replaced_view_of_the_same_size_is_kept(movie: Path, tmp_path: Path, ingest_series: Ingester) -> None:
    tifffile.imwrite(tmp_path / "same.tif", stack(9, 9))
    ingest_series(tmp_path / "same.tif", path=movie, channel="setup 1", replace=True)
    root = ElementTree.parse(movie.with_suffix(".xml")).getroot()
    assert len(root.findall("ViewRegistrations/ViewRegistration[@setup='1']")) == 1
    view = parse_xml(movie.with_suffix(".xml").read_bytes(), "movie.xml").views[1]
    with open_lsfm(movie) as file:
        np.testing.assert_allclose(view.world_from_voxel, file["setup 1"].space.world_from_voxel)
    assert verify_file(movie).defects == ()


def test_ours_is_a_channel_of_its_own_beside_tiles(tmp_path: Path, ingest_series: Ingester, series: Path) -> None:
    path = tmp_path / "tiles.h5"
    writer = npy2bdv.BdvWriter(str(path), ntiles=2)
    for tile in range(2):
        writer.append_view(stack(0, tile), tile=tile, voxel_size_xyz=(0.5, 0.5, 2), voxel_units="um")
    writer.write_xml()
    writer.close()
    add_mine(path, series, ingest_series, "setup 0", replace=True)
    setups = ElementTree.parse(path.with_suffix(".xml")).getroot().findall("SequenceDescription/ViewSetups/ViewSetup")
    ours, other = (setup.findtext("attributes/channel") for setup in setups)
    assert (ours != other, other) == (True, "0")


def test_what_was_given_to_a_lost_channel_is_in_no_ones_way(movie: Path, series: Path, ingest_series: Ingester) -> None:
    add_affine(movie)
    with h5py.File(movie, "r+") as file:
        for time in (0, 2):
            del file[f"t{time:05d}/s01"]
    assert names_of(movie) == ["setup 0"]
    with pytest.raises(InputError, match="what was given to a channel that has no voxels any more"):
        add_mine(movie, series, ingest_series, "setup 1")


def test_a_file_without_an_xml(movie: Path, series: Path, ingest_series: Ingester) -> None:
    before = {key: value for key, value in theirs(movie).items() if "/" in key}
    movie.with_suffix(".xml").unlink()
    add_mine(movie, series, ingest_series)
    add_metadata(movie)
    assert names_of(movie) == ["setup 0", "setup 1", "mine"]
    assert {key: value for key, value in theirs(movie).items() if "/" in key} == before
    assert [e.get("timepoint") for e in ElementTree.parse(movie.with_suffix(".xml")).iter("MissingView")] == ["1", "1", "2"]
    assert verify_file(movie).defects == ()
    check_with_npy2bdv_voxels(movie)
    with open_lsfm(movie) as file:
        assert {name: file[name].unit for name in file} == {"setup 0": "pixel", "setup 1": "pixel", "mine": "mm"}


def test_ours_need_no_xml_that_can_be_read(series: Path, tmp_path: Path, ingest_series: Ingester) -> None:
    ingest_series(series)
    (tmp_path / "brain.xml").write_text("<SpimData")
    assert names_of(tmp_path / "brain.h5") == ["signal"]


@pytest.mark.parametrize("noted", [False, True])
def test_foreign_channels_are_removed(noted: bool, movie: Path, series: Path, ingest_series: Ingester) -> None:
    before = theirs(movie, (1,))
    if noted:
        add_metadata(movie)
    assert main(["remove-channel", str(movie), "--channel", "setup 0", "--quiet"]) == 0
    assert names_of(movie) == ["setup 1"]
    assert theirs(movie, (1,)) == before
    assert theirs(movie, (0,)) == {}
    assert main(["remove-channel", str(movie), "--channel", "setup 1", "--quiet"]) == 0
    assert names_of(movie) == []
    add_mine(movie, series, ingest_series)
    assert names_of(movie) == ["mine"]
    assert verify_file(movie).defects == ()


def test_a_setup_without_voxels_stays_in_the_xml(movie: Path, series: Path, ingest_series: Ingester) -> None:
    with h5py.File(movie, "r+") as file:
        file.copy("s01", "s02")
    xml = movie.with_suffix(".xml")
    root = ElementTree.parse(xml)
    setups = root.find("SequenceDescription/ViewSetups")
    assert setups is not None
    text = "<ViewSetup><id>2</id><name>lost</name><size>50 40 10</size><attributes><channel>1</channel></attributes></ViewSetup>"
    setups.insert(2, ElementTree.fromstring(text))
    missing = root.find("SequenceDescription/MissingViews")
    assert missing is not None
    for time in range(3):
        ElementTree.SubElement(missing, "MissingView", timepoint=str(time), setup="2")
    root.write(xml)
    before = theirs(movie, (0, 1, 2))
    assert verify_file(movie).defects == ()
    add_mine(movie, series, ingest_series)
    assert theirs(movie, (0, 1, 2)) == before
    with open_lsfm(movie) as file:
        assert list(file) == ["setup 0", "setup 1", "mine"]
        assert file["mine"].setup == 3
    assert verify_file(movie).defects == ()


def rename_in_xml(path: Path, *names: str) -> None:
    xml = path.with_suffix(".xml")
    root = ElementTree.parse(xml)
    for element, name in zip(root.iterfind("SequenceDescription/ViewSetups/ViewSetup/name"), names, strict=True):
        element.text = name
    root.write(xml)


def test_names_that_are_taken_or_cannot_be(movie: Path, series: Path, ingest_series: Ingester) -> None:
    rename_in_xml(movie, "488", "488")
    assert names_of(movie) == ["488", "setup 1"]
    with edit_lsfm(movie) as editor:
        editor.set_metadata("stain", "x", channel="setup 1")
    assert xml_names(movie) == ["488", "488"], "nobody has renamed it"
    # Ours have the names that they were given; others give way.
    add_mine(movie, series, ingest_series, "A")
    rename_in_xml(movie, "A", "488", "A")
    assert names_of(movie) == ["setup 0", "setup 1", "A"]
    for new in ("setup 1", "A"):
        with pytest.raises(ExistsError, match=f"{new}' exists already"), edit_lsfm(movie) as editor:
            editor.rename_channel("setup 0", new)
    rename_in_xml(movie, "setup 1", "488", "A")
    assert names_of(movie) == ["setup 0", "setup 1", "A"]
    rename_in_xml(movie, "a/b", "488", "A")
    bytes_before = movie.read_bytes()
    with pytest.raises(InputError, match=r"no '/'.*rename the channel first"), edit_lsfm(movie) as editor:
        editor.set_metadata("stain", "x", channel="a/b")
    assert movie.read_bytes() == bytes_before
    with edit_lsfm(movie) as editor:
        editor.rename_channel("a/b", "ab")
        editor.set_metadata("stain", "y", channel="ab")
    assert names_of(movie) == ["ab", "setup 1", "A"]


def test_what_a_foreign_channel_cannot_have_is_refused(movie: Path) -> None:
    before = movie.read_bytes()
    with pytest.raises(InputError, match="holds image: only labels"), edit_lsfm(movie) as editor:
        editor.set_label_table("setup 0", "[]")
    with pytest.raises(InputError, match="holds image: only displacement fields"), edit_lsfm(movie) as editor:
        editor.set_partners("setup 0", "setup 1")
    assert movie.read_bytes() == before


def test_lsfmpys_and_others_channels_in_one_file(
    legacy_file: Path, movie: Path, series: Path, tmp_path: Path, ingest_series: Ingester
) -> None:
    path = tmp_path / "mixed.h5"
    shutil.copyfile(legacy_file, path)
    shutil.copyfile(legacy_file.with_suffix(".xml"), path.with_suffix(".xml"))
    with h5py.File(path, "r+") as file, h5py.File(movie) as other:
        other.copy("s01", file, "s01")
        other.copy("t00000/s01", file, "t00000/s01")
    lsfmpys = names_of(legacy_file)
    assert set(names_of(path)) == {*lsfmpys, "setup 1"}
    add_mine(path, series, ingest_series)
    with open_lsfm(path) as file:
        assert set(file) == {*lsfmpys, "setup 1", "mine"}
        assert (file["setup 1"].setup, file["mine"].setup) == (1, 2)
        np.testing.assert_array_equal(file["setup 1"].levels[0].data, stack(0, 1))


def test_a_detached_reader_sees_a_foreign_channel_go(movie: Path, tmp_path: Path, ingest_series: Ingester) -> None:
    tifffile.imwrite(tmp_path / "same.tif", stack(9, 9))
    add_mine(movie, tmp_path / "same.tif", ingest_series)
    uncached = {"cache": ChunkCache(0), "detached": True}
    with open_lsfm(movie, **uncached) as file, open_lsfm(movie, **uncached) as other:
        first, second = file["setup 0"].levels[0].data, other["setup 1"].levels[0].data
        add_metadata(movie)
        np.testing.assert_array_equal(first, stack(0, 0))
        np.testing.assert_array_equal(file.levels_at("setup 0", 2)[0].data, stack(2, 0))
        ingest_series(tmp_path / "same.tif", path=movie, channel="setup 0", replace=True)
        assert main(["remove-channel", str(movie), "--channel", "setup 1", "--quiet"]) == 0
        with pytest.raises(StorageError, match="was replaced since"):
            np.asarray(first[...])
        with pytest.raises(StorageError, match="was removed or renamed since"):
            np.asarray(second[...])
        with pytest.raises(StorageError, match="was removed since"):
            file.levels_at("setup 0", 2)


# --- verify --------------------------------------------------------------------------------------------------------------------


def test_verify_reads_every_timepoint(movie: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(movie) as file:
        cells = [file[f"t{t:05d}/s{s:02d}/{level}/cells"] for t, s in VIEWS for level in range(2)]
        chunks = sum(int(np.prod([-(-n // c) for n, c in zip(d.shape, d.chunks, strict=True)])) for d in cells)
        decoded = sum(d.id.get_num_chunks() * int(np.prod(d.chunks)) * d.dtype.itemsize for d in cells)
        place = file["t00002/s01/1/cells"].id.get_chunk_info_by_coord((0, 0, 16))
    report = verify_file(movie, levels=True)
    assert (report.chunks, report.unchecked_chunks, report.raw_bytes, report.defects) == (chunks, chunks, decoded, ())
    assert main(["verify", str(movie)]) == 0
    assert "none has a checksum" in capsys.readouterr().out
    with open(movie, "r+b") as raw:
        raw.seek(place.byte_offset)
        raw.write(bytes(place.size))
    assert main(["verify", str(movie), "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert (found["chunks"], found["unchecked_chunks"]) == (chunks, chunks)
    defect = {key: found["defects"][0][key] for key in ("channel", "timepoint", "level", "start")}
    assert defect == {"channel": "setup 1", "timepoint": 2, "level": 1, "start": [0, 0, 16]}
    assert main(["verify", str(movie)]) == 4
    assert "channel 'setup 1', timepoint 2, level 1, voxels [0:8, 0:16, 16:25]" in capsys.readouterr().out


def test_verify_counts_what_has_no_checksum(movie: Path, series: Path, ingest_series: Ingester) -> None:
    add_mine(movie, series, ingest_series)
    report = verify_file(movie)
    assert 0 < report.unchecked_chunks < report.chunks
    assert f"{report.unchecked_chunks} have none" in report.describe()
    repack(movie)
    assert verify_file(movie).unchecked_chunks == 0
    assert "every checksum right" in verify_file(movie).describe()


def test_levels_may_leave_out_the_last_voxels(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["s00/resolutions"] = np.array([[1.0, 1, 1], [2, 2, 2]])
        file["s00/subdivisions"] = np.array([[4, 4, 4], [2, 2, 2]])
        file.create_dataset("t00000/s00/0/cells", data=np.ones((5, 5, 5), "i2"), chunks=(4, 4, 4))
        file.create_dataset("t00000/s00/1/cells", data=np.ones((2, 2, 2), "i2"), chunks=(2, 2, 2))
    write_xml(tmp_path / "a.h5")
    assert verify_file(tmp_path / "a.h5", levels=True).defects == ()


def test_a_repack_names_the_timepoint_of_damage(movie: Path) -> None:
    with h5py.File(movie) as file:
        place = file["t00002/s01/1/cells"].id.get_chunk_info_by_coord((0, 0, 16))
    with open(movie, "r+b") as raw:
        raw.seek(place.byte_offset)
        raw.write(bytes(place.size))
    with pytest.raises(ChecksumError, match=r"channel 'setup 1', timepoint 2, level 1, voxels \[0:8, 0:16, 16:25\]"):
        repack_file(RepackRequest(path=movie))


def test_verify_misses_a_level_of_a_later_timepoint(movie: Path) -> None:
    with h5py.File(movie, "r+") as file:
        del file["t00002/s00/1"]
    assert [str(defect) for defect in verify_file(movie).defects] == [
        "channel 'setup 0', timepoint 2, level 1: BigDataViewer's t00002/s00/1/cells leads nowhere"
    ]


# --- where it lies --------------------------------------------------------------------------------------------------------------

TURN = "0 -1 0 7 1 0 0 8 0 0 1 9"


@pytest.mark.parametrize(
    ("unit", "affines", "point", "placed"),
    [
        # The world of voxel (plane 1, row 2, column 3), in µm along x, y, z.
        pytest.param("um", ["1 0 0 7 0 1 0 8 0 0 1 9", "0.5 0 0 0 0 0.5 0 0 0 0 2 0"], (8.5, 9, 11), True, id="lengths"),
        pytest.param("um", ["1 0 0 7 0 1 0 8 0 0 1 9", "1 0 0 0 0 1 0 0 0 0 4 0"], (5, 5, 6.5), True, id="smallest edge"),
        pytest.param("nm", ["1 0 0 7 0 1 0 8 0 0 1 9", "1 0 0 0 0 1 0 0 0 0 4 0"], (5e-3, 5e-3, 6.5e-3), True, id="in nm"),
        pytest.param("um", [TURN, "1 0 0 0 0 1 0 0 0 0 4 0"], (2.5, 5.5, 6.5), True, id="turned"),
        pytest.param("um", ["1.02 0 0 7 0 1 0 8 0 0 1 9", "1 0 0 0 0 1 0 0 0 0 4 0"], (5.03, 5, 6.5), True, id="stretched"),
        pytest.param("um", ["1 0 0 7 0 1 0 8 0 0 1 9", "0.1 0 0 0 0 0.1 0 0 0 0 0.4 0"], (36.5, 41, 47), True, id="another unit"),
        pytest.param("um", ["1 0 0 7 0 1 0 8 0 0 1 9"], (5, 5, 20), True, id="voxels as they are"),
        pytest.param("um", [], (1.5, 1, 2), True, id="not registered"),
        pytest.param("um", [TURN, "1 0 0 7 0 3 0 8 0 0 1 9"], (1.5, 1, 2), False, id="not to be understood"),
        pytest.param("um", ["1 1 0 7 0 0 0 8 0 0 4 9"], (1.5, 1, 2), False, id="flat"),
        pytest.param("px", ["1 0 0 7 0 1 0 8 0 0 1 9", "1 0 0 0 0 1 0 0 0 0 4 0"], (10e3, 10e3, 13e3), True, id="no length"),
    ],
)
def test_registrations_are_brought_to_mm(
    unit: str, affines: list[str], point: tuple[float, ...], placed: bool, movie: Path
) -> None:
    xml = movie.with_suffix(".xml")
    root = ElementTree.parse(xml)
    for element in root.iterfind("SequenceDescription/ViewSetups/ViewSetup/voxelSize/unit"):
        element.text = unit
    for registration in root.iterfind("ViewRegistrations/ViewRegistration"):
        for transform in list(registration):
            registration.remove(transform)
        for affine in affines:
            transform = ElementTree.SubElement(registration, "ViewTransform", type="affine")
            ElementTree.SubElement(transform, "affine").text = affine
    root.write(xml)
    with open_lsfm(movie) as file:
        channel = file["setup 0"]
        assert channel.unit == ("pixel" if unit == "px" else "mm")
        np.testing.assert_allclose(channel.space.to_world(np.array([[1, 2, 3]]))[0] * 1e3, point)
        assert any("does not tell the unit" in remark for remark in channel.remarks) != placed


def test_tiles_do_not_lie_on_each_other(movie: Path) -> None:
    with open_lsfm(movie) as file:
        first, second = (channel.space.world_from_voxel for channel in file.channels.values())
    np.testing.assert_allclose((second - first)[:3, 3], (0.005, 0.01, 0.015))


# --- timepoints ----------------------------------------------------------------------------------------------------------------


def test_info_lists_the_timepoints(
    movie: Path, info_json: Callable[[Path], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [channel["timepoints"] for channel in info_json(movie)["channels"]] == [[0, 1, 2], [0, 2]]
    assert main(["info", str(movie)]) == 0
    assert "timepoints   0, 2\n" in capsys.readouterr().out


def test_an_export_takes_the_timepoint_that_is_asked_for(movie: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = ExportRequest(path=movie, channel="setup 1", orientation="RAS", output_orientation="native")
    for timepoint in (None, 0, 2):
        asked = request.model_copy(update={"timepoint": timepoint})
        result = export_channel(asked)
        assert result.volume is not None
        np.testing.assert_array_equal(result.volume.array, stack(timepoint or 0, 1))
        assert f"level 0 of timepoint {timepoint or 0}:" in result.plan.describe()
    options = ["--channel", "setup 1", "--orientation", "RAS", "--output-orientation", "native"]
    assert main(["export", str(movie), *options, "--timepoint", "2", "--output", str(tmp_path / "t2.npy"), "--quiet"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "t2.npy"), stack(2, 1))
    assert main(["export", str(movie), *options, "--timepoint", "1", "--output", str(tmp_path / "t1.npy")]) == 3
    assert "channel 'setup 1' has no timepoint 1; it has: 0, 2" in capsys.readouterr().err
    assert not (tmp_path / "t1.npy").exists()
    assert main(["log", str(movie), "--command"]) == 0
    assert "--timepoint" in capsys.readouterr().out


def test_slices_and_previews_of_a_timepoint(movie: Path, tmp_path: Path) -> None:
    options = [str(movie), "--channel", "setup 0", "--orientation", "RAS", "--timepoint", "1", "--quiet"]
    pattern = str(tmp_path / "s_%02d.tif")
    assert (
        main(["export-slices", *options, "--output-orientation", "native", "--as-stored", "--range", "3,4", "--output", pattern])
        == 0
    )
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "s_03.tif"), stack(1, 0)[3])
    pictures = []
    for time in ("0", "1"):
        picture = tmp_path / f"{time}.png"
        assert main(["preview", *options, "--timepoint", time, "--output", str(picture)]) == 0
        pictures.append(picture.read_bytes())
    assert pictures[0] != pictures[1]


def test_a_command_line_says_the_timepoint(movie: Path, tmp_path: Path) -> None:
    from lsfm_core.cli import request_command

    request = ExportRequest(path=movie, channel="setup 0", orientation="RAS", timepoint=2, output=tmp_path / "a.nii")
    assert "--timepoint=2" in request_command(request)


def test_ours_has_one_timepoint_and_no_word_of_it(series: Path, tmp_path: Path, ingest_series: Ingester) -> None:
    ingest_series(series)
    with open_lsfm(tmp_path / "brain.h5") as file:
        plan = plan_export(file, ExportRequest(path=file.path, channel="signal"))
        assert plan.timepoint is None
        assert "timepoint" not in plan.describe()
        with pytest.raises(InputError, match="no timepoint 3"):
            plan_export(file, ExportRequest(path=file.path, channel="signal", timepoint=3))


# --- what cannot be read --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("at", [8, 9, 13, 14, 24, 40, 60, 64, 80])
def test_a_damaged_superblock_is_bad_input(at: int, detached: bool, movie: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(movie, "r+b") as raw:
        raw.seek(at)
        raw.write(b"\xa5" * 8)
    try:
        with open_lsfm(movie, detached=detached) as file:
            list(file)
    except LsfmError as error:
        assert isinstance(error, FormatError)  # noqa: PT017 - some damage is not seen
        assert main(["info", str(movie)]) == 3
        assert "movie.h5" in capsys.readouterr().err


def test_a_file_that_was_cut_is_bad_input(movie: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(movie, "r+b") as raw:
        raw.truncate(movie.stat().st_size // 2)
    with pytest.raises(FormatError, match=r"movie\.h5: cannot be opened as HDF5: the file is damaged"):
        open_lsfm(movie)
    assert main(["info", str(movie)]) == 3
    assert main(["add-metadata", str(movie), "a=b"]) == 3
    assert "damaged" in capsys.readouterr().err


# --- files in pixels, and what their setups are ---------------------------------------------------------------------------------


@pytest.fixture
def in_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """pixels.h5 as npy2bdv makes it by default: two tiles, the second moved by 24 voxels along x, without a unit of length."""
    monkeypatch.chdir(tmp_path)
    volume = np.random.default_rng(9).integers(0, 30000, (8, 20, 24), dtype=np.uint16)
    writer = npy2bdv.BdvWriter("pixels.h5", ntiles=2, overwrite=True)
    writer.append_view(volume, tile=0)
    writer.append_view(volume[::-1], tile=1, m_affine=np.array([[1, 0, 0, 24], [0, 1, 0, 0], [0, 0, 1, 0.0]]), name_affine="moved")
    writer.write_xml()
    writer.close()
    return volume


def test_a_file_in_pixels_takes_a_voxel_size(in_pixels: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--orientation", "SAR", "--voxel-size", "0.005,0.004,0.003"]
    for setup, corner in ((0, (0, 0, 0)), (1, (0.072, 0, 0))):
        name = f"setup {setup}"
        assert main(["export", "pixels.xml", "--channel", name, *place, "--output", f"{setup}.nii"]) == 0
        image = nibabel.load(f"{setup}.nii")
        np.testing.assert_array_equal(np.asarray(image.dataobj), (in_pixels if setup == 0 else in_pixels[::-1]).T)
        np.testing.assert_allclose(
            image.affine,
            [[*row, c] for row, c in zip(np.diag((0.003, 0.004, 0.005)), corner, strict=True)] + [[0, 0, 0, 1]],
            atol=1e-6,
        )
    capsys.readouterr()
    assert main(["export", "pixels.xml", "--channel", "setup 0", "--output", "no.nii"]) != 0
    assert "--orientation" in (said := capsys.readouterr().err)
    assert "--voxel-size" in said
    assert main(["info", "pixels.h5", *place[2:]]) == 0
    assert "0.005 x 0.004 x 0.003" in capsys.readouterr().out
    assert main(["preview", "pixels.h5", *place, "--output", "p.png"]) == 0
    assert main(["export-slices", "pixels.h5", "--channel", "setup 0", *place, "--output", "slice_%04d.tif"]) == 0
    Path("points.csv").write_text("z,y,x\n0,0,0\n1,2,3\n")
    points = ["transform-points", "points.csv", "--file", "pixels.h5", "--channel", "setup 0", *place, "--from", "native-voxel"]
    assert main([*points, "--output", "out.csv"]) == 0
    # A recipe, and the log, can say it.
    capsys.readouterr()
    assert main(["log", "pixels.h5", "--command"]) == 0
    assert "--voxel-size" in capsys.readouterr().out


def test_a_voxel_size_is_refused_where_there_is_one(series: Path, tmp_path: Path, ingest_series: Ingester) -> None:
    ingest_series(series)
    path = tmp_path / "brain.h5"
    for command in (
        ["export", path, "--channel", "signal", "--output", tmp_path / "a.nii"],
        ["info", path],
        ["preview", path, "--output", tmp_path / "a.png"],
    ):
        assert main([*map(str, command), "--voxel-size", "1,1,1"]) == 3


def test_setups_are_told_by_their_attributes(in_pixels: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("pixels.xml").read_text()
    root = ElementTree.fromstring(text)
    for setup in root.iterfind(".//ViewSetup"):
        setup.remove(setup.find("name"))
    root.find(".//Attributes[@name='tile']/Tile[id='1']/name").text = "left, upper"
    Path("pixels.xml").write_bytes(ElementTree.tostring(root))
    with open_lsfm("pixels.h5") as file:
        assert list(file) == ["tile 0", "tile left, upper"]
        assert dict(file["tile left, upper"].attributes) == {
            "illumination": "0",
            "channel": "0",
            "tile": "left, upper",
            "angle": "0",
        }
    assert main(["info", "pixels.h5"]) == 0
    assert "tile left, upper, angle 0" in capsys.readouterr().out


def test_a_file_without_voxels_has_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(tmp_path / "empty.h5", "w") as h5:
        h5["s00/resolutions"] = np.ones((1, 3))
    assert main(["preview", str(tmp_path / "empty.h5"), "--output", str(tmp_path / "a.png")]) == 3
    assert "setups 0 have no voxels" in capsys.readouterr().err
