"""The plugin in a real window: the pixels on the canvas are the voxels of the file, in 2D at every level and in 3D."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import napari
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from app_model.types import MenuItem
from napari._app_model import get_app_model
from napari.errors import MultipleReaderError
from napari.settings import get_settings
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QPushButton

from lsfm_core import ChunkCache, InputError, open_lsfm
from lsfm_core.testing import PHANTOM_REGIONS, write_phantom_file
from napari_lsfm import _preference
from napari_lsfm._commands import show_field
from napari_lsfm._viewing import attend
from napari_lsfm._writer import NotSavedError

from .conftest import RAMP_MAX, VOXEL_SIZE_MM, Specimen, answer_dialog

pytestmark = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)

Pixels = npt.NDArray[Any]


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., napari.Viewer], npe2pm: Any) -> Iterator[napari.Viewer]:
    """A shown window in which our reader is the only one."""
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        viewer = make_napari_viewer(show=True)
        viewer.window.resize(1200, 900)
        yield viewer


def canvas(viewer: napari.Viewer) -> Pixels:
    """(height, width) brightness of what the canvas shows."""
    return viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(float).mean(axis=-1)


def canvas_position(viewer: napari.Viewer, pixels: Pixels, world: npt.ArrayLike) -> Pixels:
    """Row and column on the canvas of a world position (last axis: z, y, x), while y and x are shown."""
    centre = np.array(viewer.scene.camera.center)[-2:]
    middle = (np.array(pixels.shape) - 1) / 2
    return (np.asarray(world)[..., -2:] - centre) * viewer.scene.camera.zoom + middle


def rendered_voxels(viewer: napari.Viewer, pixels: Pixels, shape: tuple[int, ...]) -> tuple[Pixels, Pixels]:
    """Brightness of the canvas where each voxel of a plane should be, and whether that is on the canvas."""
    rows, columns = shape[1:]
    inferior = (np.arange(rows) - (rows - 1)) * VOXEL_SIZE_MM[1]
    right = np.arange(columns) * VOXEL_SIZE_MM[2]
    places = canvas_position(viewer, pixels, np.stack(np.meshgrid(inferior, right, indexing="ij"), axis=-1)).round().astype(int)
    inside = ((places >= 0) & (places < pixels.shape)).all(axis=-1)
    found = np.zeros((rows, columns))
    found[inside] = pixels[tuple(places[inside].T)]
    return found, inside


def centre_of_brightness(pixels: Pixels) -> Pixels:
    """In canvas pixels; what the contrast limits turned black has no weight."""
    return np.array([(axis * pixels).sum() for axis in np.indices(pixels.shape)]) / pixels.sum()


def look_at(viewer: napari.Viewer, voxel: tuple[int, int, int], pixels_per_mm: float) -> Pixels:
    """Put a voxel into the middle of a canvas that is black but for bright spots; its world position."""
    (layer,) = viewer.layers
    viewer.canvas.background_color_override = "black"
    layer.contrast_limits = (RAMP_MAX, 2500)
    world = np.array(layer.data_to_world(voxel))
    viewer.dims.set_point(range(3), world)
    viewer.scene.camera.center = world
    viewer.scene.camera.zoom = pixels_per_mm
    return world


def test_plane_is_drawn_where_it_belongs(viewer: napari.Viewer, specimen_file: Path, specimen: Specimen) -> None:
    viewer.open(specimen_file, plugin="napari-lsfm")
    viewer.reset_view()
    plane, *spot = specimen.spots[0]
    viewer.dims.set_current_step(0, plane)
    (layer,) = viewer.layers
    expected = np.clip(specimen.volume[plane], *layer.contrast_limits)
    for level in (None, 0, 1):
        layer.locked_data_level = level
        found, inside = rendered_voxels(viewer, canvas(viewer), specimen.volume.shape)
        assert inside.all(), "the whole plane is in view"
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98
        assert found[tuple(spot)] > 0.9 * found.max()


def test_levels_are_drawn_at_the_same_place(viewer: napari.Viewer, long_specimen_file: Path, long_specimen: Specimen) -> None:
    viewer.open(long_specimen_file, plugin="napari-lsfm")
    (layer,) = viewer.layers
    attend(viewer).toggle_letters()  # which are as bright as the spot
    world = look_at(viewer, long_specimen.spots[-1], 400)
    for level in range(4):
        layer.locked_data_level = level
        pixels = canvas(viewer)
        offset = centre_of_brightness(pixels) - canvas_position(viewer, pixels, world)
        # Within a voxel of level 0, though one of the coarsest level is eight of them wide.
        assert np.abs(offset).max() < 400 * VOXEL_SIZE_MM[1], f"level {level}"


def test_zoom_chooses_the_level_and_keeps_the_place(
    viewer: napari.Viewer, long_specimen_file: Path, long_specimen: Specimen
) -> None:
    viewer.open(long_specimen_file, plugin="napari-lsfm")
    (layer,) = viewer.layers
    attend(viewer).toggle_letters()  # which are as bright as the spot
    for zoom, coarse in ((400, False), (4, True)):
        world = look_at(viewer, long_specimen.spots[-1], zoom)
        pixels = canvas(viewer)
        assert (layer.data_level > 0) == coarse
        row, column = canvas_position(viewer, pixels, world)
        # The other spot lies 35 mm further left.
        pixels[:, : int(column - 15 * zoom) if coarse else 0] = 0
        assert np.abs(centre_of_brightness(pixels) - (row, column)).max() < max(1, zoom * VOXEL_SIZE_MM[1])


def test_volume_is_drawn_at_the_same_place_from_every_level(viewer: napari.Viewer, specimen_file: Path, specimen: Specimen) -> None:
    viewer.open(specimen_file, plugin="napari-lsfm")
    (layer,) = viewer.layers
    viewer.dims.ndisplay = 3
    look_at(viewer, specimen.spots[0], 300)
    assert layer.data_level == 1, "the coarsest, until another is asked for"
    for level in (None, 0):
        layer.locked_data_level = level
        pixels = canvas(viewer)
        offset = centre_of_brightness(pixels) - (np.array(pixels.shape) - 1) / 2
        assert np.abs(offset).max() < 300 * VOXEL_SIZE_MM[1], f"level {level}"
    viewer.dims.ndisplay = 2
    assert canvas(viewer).any()


def test_real_brain_is_drawn(viewer: napari.Viewer, brain_file: Path, brain_data: Path) -> None:
    viewer.open(brain_file, plugin="napari-lsfm")
    viewer.reset_view()
    viewer.dims.set_current_step(0, 135)
    (layer,) = viewer.layers
    plane = tifffile.imread(brain_data / "mouse_brain" / "structural_tiff" / "image_0135.tif")
    found, inside = rendered_voxels(viewer, canvas(viewer), (270, *plane.shape))
    assert inside.all()
    assert np.corrcoef(found.ravel(), np.clip(plane, *layer.contrast_limits).ravel())[0, 1] > 0.95


# --- the sample, in the window --------------------------------------------------------------------------------------------------


def test_regions_are_drawn_in_their_colours(viewer: napari.Viewer) -> None:
    viewer.open_sample("napari-lsfm", "brain")
    assert [layer.name for layer in viewer.layers] == ["autofluo", "regions", "warp"]
    image, regions, warp = viewer.layers
    image.visible = warp.visible = False
    regions.opacity = 1
    viewer.canvas.background_color_override = "black"
    viewer.reset_view()
    pixels = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
    numbers = np.asarray(regions.data)
    for label in PHANTOM_REGIONS.values():
        voxels = np.argwhere(regions.metadata["lsfm"]["ids"][numbers] == label.id)
        if len(voxels):
            # The voxel that is furthest inside: in the middle of its plane's region.
            plane = voxels[voxels[:, 0] == np.median(voxels[:, 0]).astype(int)]
            voxel = plane[np.abs(plane - np.median(plane, axis=0)).sum(axis=1).argmin()]
            world = regions.data_to_world(voxel)
            viewer.dims.set_point(range(3), world)
            pixels = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
            row, column = canvas_position(viewer, pixels[..., 0], world).round().astype(int)
            assert label.rgb is not None
            np.testing.assert_allclose(pixels[row, column], label.rgb, atol=2)
            assert f"{label.acronym}: {label.name}" in regions.get_status(world, world=True)["value"]


def test_arrows_are_drawn_along_the_push(viewer: napari.Viewer) -> None:
    viewer.open_sample("napari-lsfm", "brain")
    image, regions, warp = viewer.layers
    image.visible = regions.visible = False
    viewer.canvas.background_color_override = "black"
    strongest = warp.data[warp.features["length_mm"].argmax()]
    world = np.array([warp.data_to_world(strongest[0]), warp.data_to_world(strongest.sum(axis=0))])
    viewer.dims.set_point(range(3), world[0])
    viewer.scene.camera.center = world.mean(axis=0)
    viewer.scene.camera.zoom = 300
    pixels = canvas(viewer)
    (row, column), (end_row, end_column) = canvas_position(viewer, pixels, world).round().astype(int)
    assert row == end_row and end_column > column + 100, "it pushes to the right"
    assert (pixels[row, column + 20 : end_column - 20] > 30).all()


@pytest.mark.bindings
def test_finest_resolution_in_3d_and_back(viewer: napari.Viewer, specimen_file: Path, specimen: Specimen) -> None:
    viewer.open(specimen_file, plugin="napari-lsfm")
    (layer,) = viewer.layers
    run_command("napari-lsfm.show_finest_3d")
    assert (viewer.dims.ndisplay, layer.data_level) == (3, 0)
    look_at(viewer, specimen.spots[0], 300)
    pixels = canvas(viewer)
    offset = centre_of_brightness(pixels) - (np.array(pixels.shape) - 1) / 2
    assert np.abs(offset).max() < 300 * VOXEL_SIZE_MM[1]
    run_command("napari-lsfm.show_automatic")
    assert layer.locked_data_level is None


def while_reading(action: Callable[[Any], None]) -> QTimer:
    """Do something with the dialog of a volume that is being read."""
    timer = QTimer(QApplication.instance())

    def look() -> None:
        dialog = QApplication.activeModalWidget()
        if dialog is not None and dialog.isVisible():
            timer.stop()
            action(dialog)

    timer.timeout.connect(look)
    timer.start(20)
    return timer


@pytest.fixture
def slow_reads(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """In which threads chunks are read, each of which takes a while."""
    threads: list[threading.Thread] = []
    read = ChunkCache.put

    def slow(cache: ChunkCache, *arguments: Any) -> None:
        threads.append(threading.current_thread())
        time.sleep(0.06)
        read(cache, *arguments)

    monkeypatch.setattr(ChunkCache, "put", slow)
    return threads


def test_reading_a_volume_can_be_cancelled(
    viewer: napari.Viewer, specimen_file: Path, cache: ChunkCache, slow_reads: list[threading.Thread]
) -> None:
    viewer.open(specimen_file, plugin="napari-lsfm")
    (layer,) = viewer.layers
    titles = []

    def cancel(dialog: Any) -> None:
        titles.append(dialog.windowTitle())
        dialog.close()

    while_reading(cancel)
    run_command("napari-lsfm.show_finest_3d")
    assert titles == ["Read autofluo"]
    assert viewer.dims.ndisplay == 2 and layer.locked_data_level is None


def test_a_volume_is_read_beside_the_window(
    viewer: napari.Viewer, specimen_file: Path, cache: ChunkCache, slow_reads: list[threading.Thread]
) -> None:
    viewer.open(specimen_file, plugin="napari-lsfm")
    (layer,) = viewer.layers
    slow_reads.clear()
    run_command("napari-lsfm.show_finest_3d")
    assert (viewer.dims.ndisplay, layer.data_level) == (3, 0)
    assert slow_reads and threading.main_thread() not in slow_reads


def test_a_layer_that_is_closed_while_it_is_read_is_not_shown(
    viewer: napari.Viewer, specimen_file: Path, cache: ChunkCache, slow_reads: list[threading.Thread]
) -> None:
    viewer.open(specimen_file, plugin="napari-lsfm")
    while_reading(lambda _: viewer.layers.clear())
    run_command("napari-lsfm.show_finest_3d")
    assert not viewer.layers and viewer.dims.ndisplay == 2


# --- menus ----------------------------------------------------------------------------------------------------------------------


def run_command(name: str) -> None:
    """As a click in the menu does."""
    get_app_model().commands.execute_command(name).result()


def menu_titles(menu: str) -> set[str]:
    """What the plugin has put into a menu."""
    items = get_app_model().menus.get_menu(menu)
    return {item.command.title for item in items if isinstance(item, MenuItem) and item.command.id.startswith("napari-lsfm")}


def test_commands_stand_where_users_look(viewer: napari.Viewer) -> None:
    assert menu_titles("napari/layers/visualize") == {
        "Show finest resolution in 3D (LSFM)",
        "Choose resolution automatically (LSFM)",
        "Read planes in the background (on/off) (LSFM)",
        "Show displacement field… (LSFM)",
        "Letters at the edges (on/off) (LSFM)",
        "Show in the space of another channel… (LSFM)",
        "Show in another space (LSFM)",
        "Position (LSFM)",
    }
    assert menu_titles("napari/file/io_utilities") == {
        "Import an image (LSFM)",
        "Import a registration (LSFM)",
        "Export (LSFM)",
        "Information and log (LSFM)",
        "Save selected layers as LSFM channels… (LSFM)",
        "Show displacement field… (LSFM)",
        "Always open .h5, .hdf5 and BigDataViewer .xml with LSFM (LSFM)",
    }
    assert menu_titles("napari/layers/data") == {"Editable copy of this layer (LSFM)", "This level as a plain layer (LSFM)"}
    assert menu_titles("napari/layers/segment") == {"Points (LSFM)", "Regions (LSFM)"}
    assert menu_titles("napari/file/samples") == {"Synthetic brain with regions (LSFM)"}


def test_field_of_the_active_layer_is_shown(viewer: napari.Viewer, tmp_path: Path) -> None:
    path = tmp_path / "phantom.h5"
    write_phantom_file(path)
    viewer.open(path, plugin="napari-lsfm")
    offered: list[Any] = []
    answer_dialog(offered, "warp")
    run_command("napari-lsfm.show_field")
    # In napari's theme, which a window's dialogs take from it.
    assert offered == [(["inverse warp", "warp"], "inverse warp", viewer.window._qt_window)]
    # Nothing is to hold the window when it goes, and Qt lets go of what its timers call late.
    offered.clear()
    assert viewer.layers[-1].name == "warp"


def test_field_of_a_chosen_file_is_shown(viewer: napari.Viewer, specimen_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qtpy.QtWidgets.QFileDialog.getOpenFileName", lambda *args: (str(specimen_file), ""))
    with pytest.raises(InputError, match="has no displacement field"):
        show_field(viewer)
    monkeypatch.setattr("qtpy.QtWidgets.QFileDialog.getOpenFileName", lambda *args: ("", ""))
    show_field(viewer)
    assert not viewer.layers


@pytest.mark.bindings
def test_file_open_and_save(
    viewer: napari.Viewer, specimen_file: Path, specimen: Specimen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the actions of the File menu, with only the file dialogs' answers made up."""
    monkeypatch.setattr("qtpy.QtWidgets.QFileDialog.getOpenFileNames", lambda *args, **options: ([str(specimen_file)], ""))
    run_command("napari.window.file.open_files_dialog")
    (layer,) = viewer.layers
    assert layer.metadata["lsfm"]["channel"] == "autofluo"
    target = tmp_path / "saved.h5"
    monkeypatch.setattr("qtpy.QtWidgets.QFileDialog.getSaveFileName", lambda *args, **options: (str(target), "LSFM (*.h5)"))
    run_command("napari.window.file.save_layers_dialog")
    with open_lsfm(target) as file:
        np.testing.assert_array_equal(file["autofluo"].levels[0].data, specimen.volume)
    with pytest.raises(NotSavedError, match="two channels 'autofluo': rename the layer"):
        run_command("napari.window.file.save_layers_dialog")


def test_files_are_opened_without_a_question(
    viewer: napari.Viewer, npe2pm: Any, specimen_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside napari's own reader, which claims HDF5 as well."""
    monkeypatch.setattr(get_settings().plugins, "extension2reader", {"*.tif": "napari"})
    monkeypatch.setattr("napari._qt.qt_viewer.handle_gui_reading", lambda *_, **__: pytest.fail("napari asks"))
    with npe2pm.tmp_plugin(package="napari"):
        with pytest.raises(MultipleReaderError):
            viewer.open(specimen_file, plugin=None)
        run_command("napari-lsfm.open_always")
        for path in (specimen_file, specimen_file.with_suffix(".xml")):
            # As from the command line, and as what is dropped on the window.
            viewer.window._qt_viewer._qt_open([str(path)], stack=False)
            assert [layer.metadata["lsfm"]["channel"] for layer in viewer.layers] == ["autofluo"]
            viewer.layers.clear()
    assert get_settings().plugins.extension2reader["*.tif"] == "napari", "what was chosen before stays"


def offer_buttons(viewer: napari.Viewer) -> dict[str, QPushButton]:
    """The buttons of messages on the canvas, by what stands on them."""
    canvas = viewer.window._qt_viewer.canvas.native
    return {button.text(): button for button in canvas.findChildren(QPushButton) if button.text() and button.isVisible()}


@pytest.mark.parametrize("answer", ["Yes, always", "No, ask me"])
def test_who_was_asked_is_offered_not_to_be_asked_again(
    viewer: napari.Viewer,
    npe2pm: Any,
    plugin_settings: Any,
    specimen_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    qtbot: QtBot,
    answer: str,
) -> None:
    chosen = {"*.h5": "napari"}
    monkeypatch.setattr(get_settings().plugins, "extension2reader", chosen)
    _preference._offer_once.cache_clear()
    # Where no other plugin reads such files, napari does not ask; nor where another was chosen.
    for alone in (True, False):
        with nullcontext() if alone else npe2pm.tmp_plugin(package="napari"):
            get_settings().plugins.extension2reader = {} if alone else chosen
            viewer.open(specimen_file, plugin="napari-lsfm")
            qtbot.wait(700)
            assert not offer_buttons(viewer)
    get_settings().plugins.extension2reader = {}
    with npe2pm.tmp_plugin(package="napari"):
        viewer.open(specimen_file, plugin="napari-lsfm")
        qtbot.waitUntil(lambda: answer in offer_buttons(viewer))
        offer_buttons(viewer)[answer].click()
        qtbot.waitUntil(lambda: answer not in offer_buttons(viewer))
        endings = dict.fromkeys(("*.h5", "*.hdf5", "*.xml"), "napari-lsfm")
        assert get_settings().plugins.extension2reader == (endings if answer.startswith("Yes") else {})
        # In the next session there is no offer, whatever the answer was.
        _preference._offer_once.cache_clear()
        viewer.open(specimen_file, plugin="napari-lsfm")
        qtbot.wait(700)
        assert answer not in offer_buttons(viewer)
