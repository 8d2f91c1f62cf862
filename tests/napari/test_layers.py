"""Labels, displacement fields, movies and looks as layers; the sample; the level for 3D. Without a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import npe2
import npy2bdv
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels, Layer

from lsfm_core import (
    ChunkCache,
    IngestRequest,
    InputError,
    Label,
    LabelTable,
    Orientation,
    Space,
    edit_lsfm,
    ingest_channel,
    open_lsfm,
)
from lsfm_core.testing import PHANTOM_REGIONS, phantom_warp, write_phantom_file
from napari_lsfm._arrows import field_layer
from napari_lsfm._commands import finest_level_3d, show_automatic, show_finest_3d
from napari_lsfm._reader import read_layers
from napari_lsfm._sample import open_sample

from .conftest import ingest_volume

# On a busy machine work takes long enough for a dialog, which cannot be without an application.
pytestmark = pytest.mark.usefixtures("qapp")


@pytest.fixture(scope="module")
def phantom_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom's image, regions and warp; not to be changed."""
    path = tmp_path_factory.mktemp("phantom") / "phantom.h5"
    write_phantom_file(path)
    return path


def read(path: Path, name: str) -> Layer:
    """napari's own layer of a channel."""
    (layer,) = [layer for layer in read_layers(path) if layer[1]["name"] == name]
    return Layer.create(*layer)


def write_labels(path: Path, voxels: np.ndarray[Any, Any], table: LabelTable) -> Labels:
    ingest_channel(
        IngestRequest(path=path, channel="regions", image=voxels, kind="labels", voxel_size_mm=(1, 1, 1), orientation="AIR")
    )
    with edit_lsfm(path) as editor:
        editor.set_label_table("regions", table.to_json())
    return read(path, "regions")


def status_at(layer: Layer, voxel: tuple[int, ...]) -> str:
    """What napari says of a voxel under the mouse."""
    viewer = ViewerModel()
    viewer.add_layer(layer)
    world = layer.data_to_world(voxel)
    viewer.dims.set_point(range(layer.ndim), world)
    return str(layer.get_status(world, world=True)["value"])


# --- labels ---------------------------------------------------------------------------------------------------------------------


def test_regions_have_their_colours_and_names(phantom_file: Path) -> None:
    layer = read(phantom_file, "regions")
    assert isinstance(layer, Labels)
    with open_lsfm(phantom_file) as file:
        true = np.asarray(file["regions"].levels[0].data)
    shown = np.asarray(layer.data)
    assert shown.dtype == np.uint16
    np.testing.assert_array_equal(layer.metadata["lsfm"]["ids"][shown], true)
    spot = tuple(np.argwhere(true == 614454277)[5])
    np.testing.assert_allclose(layer.colormap.map(shown[spot]), (*np.divide((255, 217, 70), 255), 1), atol=1e-6)
    assert np.allclose(layer.colormap.map(np.uint16(0)), 0), "the background is transparent"
    status = status_at(layer, spot)
    assert "region: SPT: Spot of the right side" in status and "id: 614454277" in status


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.uint64])
def test_ids_of_every_type_are_shown(tmp_path: Path, dtype: Any) -> None:
    voxels = np.zeros((6, 7, 8), dtype)
    voxels[1, 2, 3], voxels[4, 5, 6] = 7, 9
    table = LabelTable([Label(7, "seven", None, (255, 0, 0)), Label(5, "absent", "AB", None), Label(10**9, "too large for some")])
    layer = write_labels(tmp_path / "labels.h5", voxels, table)
    shown = np.asarray(layer.data)
    np.testing.assert_allclose(layer.colormap.map(shown[1, 2, 3]), (1, 0, 0, 1))
    assert "region: seven" in status_at(layer, (1, 2, 3))
    stranger = status_at(layer, (4, 5, 6))
    assert "seven" not in stranger and "absent" not in stranger
    assert not np.allclose(layer.colormap.map(shown[4, 5, 6]), 0), "what the table does not know is seen"
    assert ("ids" in layer.metadata["lsfm"]) == (np.dtype(dtype).itemsize > 2), "small ids are shown as they are"


def test_labels_without_a_table_keep_their_ids(tmp_path: Path) -> None:
    voxels = np.zeros((6, 7, 8), np.uint32)
    voxels[1, 2, 3] = 614454277
    layer = write_labels(tmp_path / "labels.h5", voxels, LabelTable())
    np.testing.assert_array_equal(np.asarray(layer.data), voxels)
    assert "ids" not in layer.metadata["lsfm"]


# --- looks and time -------------------------------------------------------------------------------------------------------------


def test_stored_looks_are_used(tmp_path: Path) -> None:
    path = ingest_volume(tmp_path / "brain.h5", "autofluo", np.arange(480, dtype=np.uint16).reshape(6, 8, 10))
    with edit_lsfm(path) as editor:
        editor.set_look("autofluo", display_range=(3, 77), colormap="#ff8000")
    layer = read(path, "autofluo")
    assert layer.contrast_limits == [3, 77]
    np.testing.assert_allclose(layer.colormap.colors[-1][:3], (1, 128 / 255, 0), atol=1e-6)


def test_a_movie_has_a_time_axis(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 999, (11, 40, 50), np.uint16)
    path = tmp_path / "movie.h5"
    writer = npy2bdv.BdvWriter(str(path), nchannels=2, subsamp=((1, 1, 1), (1, 2, 2)), blockdim=((8, 32, 32), (8, 16, 16)))
    for time, channel in ((1, 0), (2, 0), (4, 0), (2, 1)):
        writer.append_view(volume + time, time=time, channel=channel, voxel_size_xyz=(2, 3, 4), voxel_units="um")
    writer.write_xml()
    writer.close()
    layers = [Layer.create(*layer) for layer in read_layers(path)]
    viewer = ViewerModel()
    viewer.layers.extend(layers)
    assert [layer.data[0].shape for layer in layers] == [(4, 11, 40, 50)] * 2
    for layer, times in zip(layers, ((1, 2, 4), (2,)), strict=True):
        assert layer.axis_labels == ("t", "z", "y", "x")
        np.testing.assert_allclose(layer.scale, (1, 0.004, 0.003, 0.002))
        for index, time in enumerate(range(1, 5)):
            wanted = volume + np.uint16(time) if time in times else np.zeros_like(volume)
            np.testing.assert_array_equal(layer.data[0][index], wanted)
            assert layer.data_to_world((index, 0, 0, 0))[0] == time
    layers[0].locked_data_level = 0
    assert status_at(layers[0], (3, 3, 10, 10)) == f"0, {volume[3, 10, 10] + 4}"


# --- displacement fields --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["AIR", "LPS"])
def test_a_field_is_shown_where_it_is_and_where_it_leads(tmp_path: Path, orientation: str) -> None:
    path = ingest_volume(tmp_path / "brain.h5", "autofluo", np.zeros((6, 8, 10), np.uint16), orientation="SRA")
    space = Space.from_orientation((30, 20, 40), (0.5, 0.6, 0.3), Orientation(orientation))
    field = phantom_warp(space) + np.float32(0.1) * np.array([0, 2, -3], np.float32)
    ingest_channel(
        IngestRequest(
            path=path, channel="warp", image=field, kind="vectors", voxel_size_mm=space.voxel_size_mm, orientation=orientation
        )
    )
    layer = Layer.create(*field_layer(path, "warp", max_vectors=1000))
    assert 300 < len(layer.data) < 3000
    native = Orientation("SRA").direction
    to_voxel = np.linalg.inv(space.world_from_voxel)
    for start, step in layer.data[::37]:
        origin, end = (native @ layer.data_to_world(place) for place in (start, start + step))
        voxel = to_voxel @ (*origin, 1)
        np.testing.assert_allclose(voxel, voxel.round(), atol=1e-4)
        np.testing.assert_allclose(end - origin, field[tuple(voxel[:3].round().astype(int))], atol=1e-4)
    assert layer.features["length_mm"].max() == pytest.approx(np.linalg.norm(field, axis=-1).max(), rel=0.1)


def test_only_fields_are_shown_as_arrows(phantom_file: Path) -> None:
    with pytest.raises(InputError, match="holds image, no displacement field"):
        field_layer(phantom_file, "autofluo")


# --- 3D, sample, memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "max_bytes", "max_edge", "level"),
    [
        (np.uint16, 2 * 400**3, 2048, 0),
        (np.uint16, 2 * 400**3 - 1, 2048, 1),
        (np.uint32, 2 * 400**3, 2048, 1),
        (np.uint8, 400**3, 399, 1),
        (np.uint16, 5, 2048, 2),
    ],
)
def test_the_finest_level_that_fits_is_taken(dtype: Any, max_bytes: int, max_edge: int, level: int) -> None:
    shapes = [(400, 400, 400), (200, 200, 200), (100, 100, 100)]
    assert finest_level_3d(shapes, dtype, max_bytes, max_edge) == level


def test_3d_and_back(phantom_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_lsfm._commands._max_texture_edge", lambda: 2048)
    viewer = ViewerModel()
    layer = viewer.add_layer(read(phantom_file, "autofluo"))
    show_finest_3d(viewer)
    assert (viewer.dims.ndisplay, layer.data_level) == (3, 0)
    show_automatic(viewer, layer)
    assert layer.locked_data_level is None
    viewer.add_layer(read(phantom_file, "regions"))
    with pytest.raises(InputError, match="several resolutions"):
        show_finest_3d(viewer)


def test_the_sample_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = open_sample()
    assert [(keywords["name"], kind) for _, keywords, kind in layers] == [
        ("autofluo", "image"),
        ("regions", "labels"),
        ("warp", "vectors"),
    ]
    assert len(layers[0][0]) == 2, "it shows how resolution follows the zoom"
    regions = layers[1][0]
    assert set(np.unique(regions.source)) == {0, *(key for key in PHANTOM_REGIONS if key not in (997, 8))}
    monkeypatch.setattr("lsfm_core.testing.write_phantom_file", None)
    assert len(open_sample()) == 3


def test_settings_bound_the_cache(phantom_file: Path, cache: ChunkCache, plugin_settings: Any, npe2pm: Any) -> None:
    from napari.settings import get_plugin_settings

    with npe2pm.tmp_plugin(package="napari-lsfm"):
        settings = get_plugin_settings("napari-lsfm")
        assert (settings.memory.cache_mib, settings.memory.volume_mib, settings.saving.orientation) == (512, 512, "AIR")
        settings.memory.cache_mib = 16
        (image, *_) = read_layers(phantom_file)
        rng = np.random.default_rng(0)
        for plane in rng.integers(0, 90, 60):
            np.asarray(image[0][0][plane])
            assert cache.nbytes <= 16 * 2**20
    assert cache.max_bytes == 16 * 2**20


def test_the_sample_is_listed(npe2pm: Any) -> None:
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        ((plugin, samples),) = npe2pm.iter_sample_data()
    assert plugin == "napari-lsfm"
    assert [sample.display_name for sample in samples] == ["Synthetic brain with regions"]
    assert isinstance(npe2pm, npe2.PluginManager)
