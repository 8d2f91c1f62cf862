"""The reader without a window: what it refuses, what its layers carry, what it reads from disk, and where voxels come to lie."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import h5py
import npe2
import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Layer

from lsfm_core import (
    BusyError,
    ChunkCache,
    DamagedError,
    InputError,
    MemoryBudgetError,
    Orientation,
    Space,
    StorageError,
    UnfinishedError,
    edit_lsfm,
)
from napari_lsfm._layers import LayerData
from napari_lsfm._reader import get_reader, read_layers

from .conftest import AXCODES, VOXEL_SIZE_MM, Specimen, alter_channel, ingest_volume


def read_layer(path: Path) -> LayerData:
    """The only layer tuple of a file."""
    (layer,) = read_layers(path)
    return cast(LayerData, layer)


def make_layers(path: Path) -> list[Layer]:
    """napari's own layers of a file."""
    return [Layer.create(*layer) for layer in read_layers(path)]


def write_foreign(path: Path, volume: np.ndarray[Any, Any], factors: list[tuple[float, float, float]]) -> Path:
    """A BigDataViewer file of another program: uint16 kept as int16, level sizes rounded down."""
    with h5py.File(path, "w") as h5:
        h5["s00/resolutions"] = np.array([factor[::-1] for factor in factors])
        h5["s00/subdivisions"] = np.full((len(factors), 3), 16)
        for index, factor in enumerate(factors):
            shape = [int(n / f) for n, f in zip(volume.shape, factor, strict=True)]
            places = [(np.arange(n) * f).astype(int) for n, f in zip(shape, factor, strict=True)]
            h5[f"t00000/s00/{index}/cells"] = volume[np.ix_(*places)].view(np.int16)
    return path


# --- manifest -------------------------------------------------------------------------------------------------------------------


def test_manifest_is_valid() -> None:
    command = [sys.executable, "-m", "npe2", "validate", "napari-lsfm", "--imports"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "valid" in run.stdout


@pytest.mark.parametrize("suffix", [".h5", ".xml"])
def test_npe2_finds_the_reader(npe2pm: Any, specimen_file: Path, suffix: str) -> None:
    path = str(specimen_file.with_suffix(suffix))
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        # Of an XML that of cells as well, which gives it back.
        assert {reader.plugin_name for reader in npe2pm.iter_compatible_readers([path])} == {"napari-lsfm"}
        layers = npe2.read([path], stack=False)
    assert [(layer[1]["name"], layer[2]) for layer in layers] == [("autofluo", "image")]


def test_importing_the_reader_loads_neither_napari_nor_hdf5() -> None:
    code = "import sys, napari_lsfm._reader; sys.exit(bool({'napari', 'h5py', 'qtpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- acceptance and refusal -----------------------------------------------------------------------------------------------------


def test_accepts_strings_paths_lists_and_xml(specimen_file: Path, long_specimen_file: Path) -> None:
    for path in (specimen_file, str(specimen_file), [str(specimen_file)], specimen_file.with_suffix(".xml")):
        assert get_reader(path) is read_layers
    both = [str(specimen_file), str(long_specimen_file)]
    assert get_reader(both) is read_layers
    assert len(read_layers(both)) == 2


def test_accepts_a_foreign_bigdataviewer_file(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "foreign.h5", np.zeros((8, 8, 8), np.uint16), [(1, 1, 1)])
    assert get_reader(path) is read_layers


def test_refuses_what_is_not_ours_and_never_raises(tmp_path: Path, specimen_file: Path) -> None:
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    empty = tmp_path / "empty.h5"
    empty.touch()
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as h5:
        h5["data"] = np.zeros(3)
    dangling = tmp_path / "dangling.h5"
    with h5py.File(dangling, "w") as h5:
        h5["s00"] = h5py.SoftLink("/nowhere")
    page = tmp_path / "page.xml"
    page.write_text("<html/>")
    tiff = tmp_path / "plane.tif"
    tifffile.imwrite(tiff, np.zeros((4, 4), np.uint8))
    refused: list[Any] = [text, empty, foreign, dangling, page, tiff, tmp_path, tmp_path / "missing.h5"]
    refused += [[specimen_file, text], [], "", "https://example.org/brain.h5", "nul\0.h5", None]
    for path in refused:
        assert get_reader(path) is None, path


def test_damage_is_told_by_napari(tmp_path: Path, specimen_file: Path, npe2pm: Any) -> None:
    cut = tmp_path / "cut.h5"
    cut.write_bytes(specimen_file.read_bytes()[:2000])
    with npe2pm.tmp_plugin(package="napari-lsfm"), pytest.raises(DamagedError, match="truncated file"):
        npe2.read([str(cut)], stack=False, plugin_name="napari-lsfm")


def test_sniffing_leaves_the_file_closed(specimen_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.h5"
    shutil.copy(specimen_file, path)
    assert get_reader(path)
    h5py.File(path, "r+").close()


def test_file_in_use_by_a_writer_is_accepted_and_reading_says_why_not(tmp_path: Path, specimen_file: Path) -> None:
    path = tmp_path / "busy.h5"
    shutil.copy(specimen_file, path)
    code = "import sys, h5py; h5 = h5py.File(sys.argv[1], 'r+'); print(flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=pipe, stdout=pipe) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert get_reader(path) is read_layers
        with pytest.raises(BusyError, match="another program"):
            read_layers(path)
        writer.communicate()


# --- what layers carry ----------------------------------------------------------------------------------------------------------


def test_single_image_channel(specimen_file: Path, specimen: Specimen) -> None:
    levels, keywords, kind = read_layer(specimen_file)
    assert kind == "image"
    assert [level.shape for level in levels] == [(90, 302, 424), (45, 151, 212)]
    low, high = keywords.pop("contrast_limits")
    assert specimen.volume.min() <= low < high <= specimen.volume.max()
    np.testing.assert_allclose(keywords.pop("scale"), VOXEL_SIZE_MM)
    # Rows grow toward inferior: in the native frame their first voxel lies as far above 0 as the image is high.
    np.testing.assert_allclose(keywords.pop("translate"), (0, -0.04 * 300, 0), atol=1e-12)
    assert keywords == {
        "name": "autofluo",
        "multiscale": True,
        "units": ("mm", "mm", "mm"),
        "axis_labels": ("z", "y", "x"),
        "colormap": "gray",
        "blending": "additive",
        "metadata": {
            "lsfm": {
                "path": str(specimen_file),
                "xml": None,
                "channel": "autofluo",
                "kind": "image",
                "axcodes": "AIR",
                "box": [[0, 89], [0, 301], [0, 423]],
            }
        },
    }


def test_several_channels_labels_and_vectors(tmp_path: Path) -> None:
    path = tmp_path / "brain.h5"
    image = np.random.default_rng(1).integers(0, 900, (12, 30, 300), dtype=np.uint16)
    ids = np.arange(image.size, dtype=np.uint32).reshape(image.shape)
    for channel, volume in {"first": image, "regions": ids, "warp": image, "second": image}.items():
        ingest_volume(path, channel, volume)
    alter_channel(path, "regions", kind="labels")
    alter_channel(path, "warp", kind="vectors")
    first, regions, second = make_layers(path)
    assert [first.colormap.name, second.colormap.name] == ["green", "magenta"]
    assert first.blending == second.blending == "additive"
    assert regions.as_layer_data_tuple()[2] == "labels"
    assert regions.multiscale
    assert len(regions.data) == 2
    assert regions.dtype == np.uint32
    np.testing.assert_array_equal(np.asarray(regions.data[0])[:, :, :300], ids)
    assert first.metadata["lsfm"] | {"channel": "regions", "kind": "labels"} == regions.metadata["lsfm"]
    viewer = ViewerModel()
    viewer.layers.extend([first, regions, second])
    assert [str(unit) for unit in viewer.layers.extent.units] == ["millimeter"] * 3


def test_single_level_channel_is_not_padded(tmp_path: Path) -> None:
    volume = np.random.default_rng(1).integers(0, 900, (5, 33, 71), dtype=np.uint16)
    path = ingest_volume(tmp_path / "small.h5", "small", volume)
    (layer,) = make_layers(path)
    assert not layer.multiscale
    np.testing.assert_array_equal(np.asarray(layer.data), volume)


def test_lsfmpy_file_shows_all_but_its_vectors(brain_data: Path) -> None:
    image, labels = make_layers(brain_data / "legacy_lsfmpy" / "mouse42.h5")
    assert (image.name, labels.name) == ("autofluo", "segmentation")
    assert image.metadata["lsfm"]["axcodes"] is None
    np.testing.assert_allclose(image.scale, VOXEL_SIZE_MM)
    np.testing.assert_array_equal(image.translate, 0)
    low, high = image.contrast_limits
    assert 0 <= low < high < 65536


def test_a_file_with_nothing_to_show_says_why(tmp_path: Path) -> None:
    path = ingest_volume(tmp_path / "field.h5", "warp", np.zeros((4, 8, 8), np.uint16))
    alter_channel(path, "warp", kind="vectors")
    with pytest.raises(InputError, match="only displacement fields \\(warp\\)"):
        read_layers(path)
    with h5py.File(tmp_path / "empty.h5", "w") as h5:
        h5["s00/resolutions"] = np.ones((1, 3))
    with pytest.raises(InputError, match="setups 0 have no voxels"):
        read_layers(tmp_path / "empty.h5")
    with edit_lsfm(path) as editor:
        editor.remove_channel("warp")
    with pytest.raises(InputError, match="no channels"):
        read_layers(path)


@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_a_master_file_shows_its_partitions(kind: str, tmp_path: Path) -> None:
    volume = np.random.default_rng(3).integers(0, 30000, (8, 16, 24), dtype=np.uint16)
    write_foreign(tmp_path / "part-00-00.h5", volume, [(1, 1, 1), (1, 2, 2)])
    with h5py.File(tmp_path / "master.h5", "w") as master, h5py.File(tmp_path / "part-00-00.h5") as part:
        part.copy("s00", master)
        for level in "01":
            place = f"t00000/s00/{level}/cells"
            if kind == "external":
                master[place] = h5py.ExternalLink("part-00-00.h5", place)
            else:
                layout = h5py.VirtualLayout(part[place].shape, part[place].dtype)
                layout[...] = h5py.VirtualSource("part-00-00.h5", place, part[place].shape, part[place].dtype)
                master.create_virtual_dataset(place, layout)
    (layer,) = make_layers(tmp_path / "master.h5")
    np.testing.assert_array_equal(np.asarray(layer.data[0]), volume)
    np.testing.assert_array_equal(np.asarray(layer.data[1]), volume[:, ::2, ::2])
    (tmp_path / "part-00-00.h5").unlink()
    if kind == "external":
        with pytest.raises(InputError, match=r"part-00-00\.h5, is missing"):
            read_layers(tmp_path / "master.h5")


def test_the_layer_names_the_xml_by_which_it_was_opened(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "data.h5", np.zeros((8, 8, 8), np.uint16), [(1, 1, 1)])
    xml = tmp_path / "aligned.xml"
    xml.write_text(
        """<SpimData version="0.2"><SequenceDescription><ImageLoader format="bdv.hdf5"><hdf5 type="relative">data.h5</hdf5>
        </ImageLoader><ViewSetups><ViewSetup><id>0</id><name>left</name><size>8 8 8</size><voxelSize><unit>um</unit>
        <size>2 2 4</size></voxelSize></ViewSetup></ViewSetups></SequenceDescription><ViewRegistrations>
        <ViewRegistration timepoint="0" setup="0"><ViewTransform type="affine"><affine>2 0 0 100 0 2 0 200 0 0 4 300</affine>
        </ViewTransform></ViewRegistration></ViewRegistrations></SpimData>"""
    )
    (layer,) = make_layers(xml)
    assert (layer.name, layer.metadata["lsfm"]["xml"], layer.metadata["lsfm"]["path"]) == ("left", str(xml), str(xml))
    np.testing.assert_allclose(layer.scale, (0.004, 0.002, 0.002))
    np.testing.assert_allclose(layer.translate, (0.3, 0.2, 0.1))
    (plain,) = make_layers(path)
    assert plain.metadata["lsfm"]["xml"] is None


def test_foreign_file_without_xml_is_in_pixels(tmp_path: Path) -> None:
    volume = np.random.default_rng(1).integers(0, 65536, (9, 21, 35), dtype=np.uint16)
    path = write_foreign(tmp_path / "foreign.h5", volume, [(1, 1, 1), (1, 1.5, 1.5), (1, 2, 2), (3, 6, 6)])
    (layer,) = make_layers(path)
    assert [str(unit) for unit in layer.units] == ["pixel"] * 3
    # The level that was reduced by one and a half cannot be placed exactly.
    np.testing.assert_array_equal(layer.downsample_factors, [(1, 1, 1), (1, 2, 2), (3, 6, 6)])
    np.testing.assert_array_equal(np.asarray(layer.data[0])[:, :21, :35], volume)


@pytest.mark.parametrize(
    ("volume", "limits"),
    [
        (np.zeros((4, 8, 8), np.uint16), (0, 1)),
        (np.pad([[[700]]], ((3, 3), (9, 9), (9, 9))).astype(np.uint16), (0, 700)),
        (np.full((4, 8, 8), np.nan, np.float32), (0, 1)),
    ],
    ids=["empty", "one bright voxel", "no number"],
)
def test_contrast_limits_are_never_equal(tmp_path: Path, volume: np.ndarray[Any, Any], limits: tuple[float, float]) -> None:
    (layer,) = make_layers(ingest_volume(tmp_path / "flat.h5", "flat", volume))
    assert tuple(layer.contrast_limits) == limits


# --- laziness -------------------------------------------------------------------------------------------------------------------


def test_reading_layers_reads_no_voxels(specimen_file: Path, cache: ChunkCache) -> None:
    read_layers(specimen_file)
    assert cache.nbytes == 0


def test_a_plane_step_reads_only_the_chunks_of_that_plane(specimen_file: Path, cache: ChunkCache) -> None:
    (layer,) = make_layers(specimen_file)
    finest = layer.data[0]
    depth, rows, columns = finest.chunks
    assert depth < finest.shape[0], "or there is nothing to tell apart"
    one_plane = depth * rows * columns * 2 * -(-finest.shape[1] // rows) * -(-finest.shape[2] // columns)
    viewer = ViewerModel()
    viewer.add_layer(layer)
    layer.locked_data_level = 0
    viewer.dims.set_current_step(0, depth - 1)
    before = cache.nbytes
    assert before >= one_plane
    viewer.dims.set_current_step(0, 1)
    assert cache.nbytes == before
    viewer.dims.set_current_step(0, depth)
    assert before < cache.nbytes <= before + one_plane


def test_a_tile_reads_only_its_chunks(specimen_file: Path, cache: ChunkCache) -> None:
    levels, _, _ = read_layer(specimen_file)
    np.asarray(levels[0][:, 0:9, 0:9][5])
    assert cache.nbytes == np.prod(levels[0].chunks) * 2


def test_too_large_a_read_is_refused(specimen_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_lsfm._reader.MAX_READ_BYTES", 10**6)
    levels, _, _ = read_layer(specimen_file)
    with pytest.raises(MemoryBudgetError, match="coarser level"):
        np.asarray(levels[0])


def test_layers_keep_no_writer_away(tmp_path: Path, specimen_file: Path, specimen: Specimen) -> None:
    path = tmp_path / "copy.h5"
    shutil.copy(specimen_file, path)
    (layer,) = make_layers(path)
    np.testing.assert_array_equal(np.asarray(layer.data[0][3])[:301, :423], specimen.volume[3])
    ingest_volume(path, "second", specimen.volume[:30])
    np.testing.assert_array_equal(np.asarray(layer.data[0][50])[:301, :423], specimen.volume[50])
    with edit_lsfm(path) as editor:
        editor.remove_channel("autofluo")
    with pytest.raises(StorageError, match="removed or renamed"):
        np.asarray(layer.data[0][80])
    assert [layer.name for layer in make_layers(path)] == ["second"]


def test_files_do_not_show_each_others_voxels(tmp_path: Path) -> None:
    paths = []
    for value in (1, 2):
        volume = np.full((4, 40, 40), value, np.uint16)
        paths.append(ingest_volume(tmp_path / f"{value}.h5", "flat", volume))
    for _ in range(20):
        for value, path in enumerate(paths, 1):
            data, _, _ = read_layer(path)
            assert (np.asarray(data) == value).all()
            del data
            gc.collect()


# --- places ---------------------------------------------------------------------------------------------------------------------


def centroid(voxels: np.ndarray[Any, Any], around: np.ndarray[Any, Any], radius: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Centre of brightness near a place, in voxel indices."""
    low = np.maximum(0, np.ceil(around - radius)).astype(int)
    high = np.minimum(voxels.shape, np.floor(around + radius) + 1).astype(int)
    box = voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(float)
    weight = np.where(box > (box.min() + box.max()) / 2, box - box.min(), 0)
    return np.array([(axis * weight).sum() / weight.sum() for axis in np.indices(box.shape)]) + low


@pytest.mark.parametrize(("name", "count"), [("specimen", 2), ("long_specimen", 4)])
def test_levels_are_aligned(name: str, count: int, request: pytest.FixtureRequest) -> None:
    specimen: Specimen = request.getfixturevalue(name)
    (layer,) = make_layers(request.getfixturevalue(f"{name}_file"))
    assert len(layer.data) == count
    for level, factor in enumerate(layer.downsample_factors):
        np.testing.assert_array_equal(factor, 2.0**level)
        voxels = np.asarray(layer.data[level])
        for spot in specimen.spots:
            # napari puts voxel i of a coarse level at f * i + (f - 1) / 2, in 2D and in 3D.
            at_level = (np.array(spot) - (factor - 1) / 2) / factor
            found = centroid(voxels, at_level, 12 / factor) * factor + (factor - 1) / 2
            assert np.abs(found - spot).max() < 1, f"level {level}, spot {spot}"


def test_world_is_the_native_frame_in_mm(specimen_file: Path, specimen: Specimen) -> None:
    (layer,) = make_layers(specimen_file)
    direction = Orientation(AXCODES).direction
    for spot in specimen.spots:
        world = specimen.space.world_from_voxel @ (*spot, 1)
        np.testing.assert_allclose(layer.data_to_world(spot), direction.T @ world[:3], atol=1e-12)


@pytest.mark.parametrize("axcodes", ["RAS", "ILP", "SRA", "AIL", "LPI"])
def test_channels_of_other_orientations_come_to_lie_on_the_first(
    tmp_path: Path, specimen: Specimen, specimen_file: Path, axcodes: str
) -> None:
    path = tmp_path / "two.h5"
    shutil.copy(specimen_file, path)
    turn = specimen.space.reorientation_to(Orientation(axcodes))
    turned = np.ascontiguousarray(turn.apply(specimen.volume))
    ingest_volume(path, "turned", turned, specimen.space.reoriented(turn).voxel_size_mm, axcodes)
    viewer = ViewerModel()
    viewer.layers.extend(make_layers(path))
    first, second = viewer.layers
    np.testing.assert_array_equal(first.scale, second.scale)
    np.testing.assert_array_equal(first.downsample_factors, second.downsample_factors)
    for spot in specimen.spots:
        world = first.data_to_world(spot)
        for axis in range(3):
            viewer.dims.order = (axis, *(k for k in range(3) if k != axis))
            viewer.dims.set_point(range(3), world)
            for layer in viewer.layers:
                layer.locked_data_level = 0
                assert layer.get_value(world, world=True) == (0, specimen.volume[spot])
    coarse = np.asarray(second.data[1][..., 100:140])
    assert coarse.shape == (45, 151, 40)
    centre = second.world_to_data(first.data_to_world(specimen.spots[0]))
    found = centroid(np.asarray(second.data[1]), (centre - 0.5) / 2, np.full(3, 6.0)) * 2 + 0.5
    assert np.abs(found - centre).max() < 1


def test_oblique_channel_lies_where_its_space_says(tmp_path: Path, specimen_file: Path) -> None:
    path = tmp_path / "oblique.h5"
    shutil.copy(specimen_file, path)
    angle = np.deg2rad(7)
    tilt = np.array([[1, 0, 0, 1], [0, np.cos(angle), -np.sin(angle), 2], [0, np.sin(angle), np.cos(angle), 3], [0, 0, 0, 1]])
    volume = np.ones((12, 30, 50), np.uint16)
    ingest_volume(path, "tilted", volume)
    alter_channel(path, "tilted", world_from_world=tilt)
    upright = Space.from_orientation(volume.shape, VOXEL_SIZE_MM, Orientation(AXCODES))
    # napari can show an oblique image truly in 3D only, and says so when it cuts a plane.
    with pytest.warns(UserWarning, match="Non-orthogonal slicing"):
        _, layer = make_layers(path)
    np.testing.assert_allclose(layer.scale, VOXEL_SIZE_MM)
    for voxel in np.ndindex(2, 2, 2):
        world = tilt @ upright.world_from_voxel @ (*voxel, 1)
        np.testing.assert_allclose(layer.data_to_world(voxel), Orientation(AXCODES).direction.T @ world[:3], atol=1e-9)


def test_real_brain(brain_file: Path, brain_data: Path) -> None:
    (layer,) = make_layers(brain_file)
    assert [level.shape for level in layer.data] == [(270, 194, 272), (135, 97, 136)]
    np.testing.assert_array_equal(layer.downsample_factors, [(1, 1, 1), (2, 2, 2)])
    plane = tifffile.imread(brain_data / "mouse_brain" / "structural_tiff" / "image_0135.tif")
    np.testing.assert_array_equal(np.asarray(layer.data[0][135, :193, :271]), plane)


_DIES = """
import os, sys
from lsfm_core.store import edit_lsfm
with edit_lsfm(sys.argv[1]) as editor:
    editor.rename_channel(next(iter(editor)), "renamed")
    editor.h5.flush()
    os._exit(9)
"""


def test_a_file_in_the_middle_of_a_change_is_restored_or_told(tmp_path: Path, specimen_file: Path, npe2pm: Any) -> None:
    """Its writer is dead. With the journal it is what it was; moved away from it, the message says what to do."""
    path, elsewhere = tmp_path / "brain.h5", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(specimen_file, path)
    before = path.read_bytes()
    assert subprocess.run([sys.executable, "-c", _DIES, str(path)], check=False).returncode == 9
    assert path.read_bytes() != before and not h5py.is_hdf5(path)
    shutil.copy(path, elsewhere)
    moved = elsewhere / path.name
    assert get_reader(moved) is read_layers
    with (
        npe2pm.tmp_plugin(package="napari-lsfm"),
        pytest.raises(UnfinishedError, match=r"is in the middle of a change.*brain\.h5-journal is not there.*--discard-journal"),
    ):
        npe2.read([str(moved)], stack=False, plugin_name="napari-lsfm")
    names = [metadata["name"] for _, metadata, _ in read_layers(path)]
    assert path.read_bytes() == before
    assert names == [metadata["name"] for _, metadata, _ in read_layers(specimen_file)]
