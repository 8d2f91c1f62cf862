"""What a viewer does with our layers: places told in R, A, S, letters at the edges, labels that are safe from the brush."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from napari._app_model import get_app_model
from napari.layers import Image, Labels
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QApplication

from lsfm_core import ExportRequest, InputError, export_channel, open_lsfm
from napari_lsfm._viewing import edge_letters, place_text
from napari_lsfm._writer import NotSavedError

from .conftest import Specimen, alter_channel, ingest_volume

pytestmark = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., napari.Viewer], npe2pm: Any) -> Iterator[napari.Viewer]:
    """A shown window with our plugin and napari's own readers and writers."""
    with npe2pm.tmp_plugin(package="napari"), npe2pm.tmp_plugin(package="napari-lsfm"):
        viewer = make_napari_viewer(show=True)
        viewer.window.resize(1200, 900)
        yield viewer


@pytest.fixture
def regions_file(tmp_path: Path) -> Path:
    """Labels of one level in another orientation than the image before them: their voxels are turned when they are read."""
    path = ingest_volume(tmp_path / "brain.h5", "autofluo", np.random.default_rng(0).integers(0, 999, (20, 30, 40)).astype("u2"))
    labels = np.zeros((30, 20, 40), np.uint16)
    labels[5:15, 4:12, 10:30] = 7
    ingest_volume(path, "regions", labels, (0.04, 0.05, 0.04), "SAR")
    alter_channel(path, "regions", kind="labels")
    return path


def run_command(identifier: str) -> Any:
    """What a menu or the command palette does."""
    return get_app_model().commands.execute_command(identifier).result()


def letters(viewer: napari.Viewer) -> str:
    """At the left, right, top and bottom edge; a stroke where there is none."""
    overlays = viewer.canvas.overlays
    names = [f"lsfm_{edge}" for edge in ("middle_left", "middle_right", "top_center", "bottom_center")]
    return "".join(overlays[name].text if name in overlays and overlays[name].visible else "-" for name in names)


# --- places ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.bindings
def test_the_status_tells_what_an_export_takes_as_origin(viewer: napari.Viewer, specimen_file: Path, specimen: Specimen) -> None:
    viewer.open(specimen_file, plugin="napari-lsfm")
    (layer,) = viewer.layers
    # 30 planes forward, 20 rows down, 50 columns to the right of the voxel that is first in each.
    status = layer.get_status(layer.data_to_world((30, 20, 50)), world=True)
    right, anterior, superior = 50 * 0.04, 30 * 0.05, (300 - 20) * 0.04
    assert status["coords"] == f"R,A,S {right:.3f},{anterior:.3f},{superior:.3f} mm"
    assert status["coordinates"].startswith(f"{status['coords']}: ")
    # A layer that is drawn over it, and does not tell by itself, says the same.
    drawn = viewer.add_shapes([np.zeros((4, 3))], name="drawn")
    assert drawn.get_status(layer.data_to_world((30, 20, 50)), world=True)["coords"] == status["coords"]
    # What stands there is where a voxel lies that is exported by it.
    text = status["coords"].split()[1]
    corner = np.array([float(number) for number in text.split(",")]) - (0.02, 0.025, 0.02)
    request = ExportRequest(
        path=specimen_file,
        channel="autofluo",
        origin_mm=tuple(corner),
        size_mm=(0.04, 0.05, 0.04),
        resolution_mm=(0.04, 0.05, 0.04),
    )
    assert export_channel(request).volume.array.ravel().tolist() == [specimen.volume[30, 20, 50]]


def test_the_place_under_the_mouse_can_be_copied(viewer: napari.Viewer, specimen_file: Path) -> None:
    with pytest.raises(InputError, match="does not tell"):
        run_command("napari-lsfm.copy_position")
    viewer.open(specimen_file, plugin="napari-lsfm")
    viewer.cursor.position = viewer.layers[0].data_to_world((30, 20, 50))
    run_command("napari-lsfm.copy_position")
    assert QApplication.clipboard().text() == "2.000,1.500,11.200"


@pytest.mark.parametrize(
    ("axcodes", "text"), [("RAS", "3.000,1.000,2.000"), ("AIR", "2.000,3.000,-1.000"), ("LPS", "-3.000,-1.000,2.000")]
)
def test_a_place_is_told_in_ras(axcodes: str, text: str) -> None:
    assert place_text((99, 3, 1, 2), axcodes) == text


# --- letters --------------------------------------------------------------------------------------------------------------------


def test_letters_follow_what_is_shown(viewer: napari.Viewer, specimen_file: Path) -> None:
    assert letters(viewer) == "----"
    viewer.open(specimen_file, plugin="napari-lsfm")
    # Planes are counted toward anterior, rows toward inferior, columns toward right.
    assert letters(viewer) == "LRSI"
    viewer.dims.order = (1, 0, 2)
    assert letters(viewer) == "LRPA"
    viewer.dims.order = (2, 1, 0)
    assert letters(viewer) == "PASI"
    viewer.dims.order = (0, 2, 1)
    assert letters(viewer) == "SILR"
    viewer.dims.order = (0, 1, 2)
    viewer.scene.camera.orientation2d = ("up", "left")
    assert letters(viewer) == "RLIS"
    viewer.dims.ndisplay = 3
    assert letters(viewer) == "----"
    viewer.dims.ndisplay = 2
    run_command("napari-lsfm.toggle_letters")
    assert letters(viewer) == "----"
    run_command("napari-lsfm.toggle_letters")
    assert letters(viewer) == "RLIS"
    viewer.layers.clear()
    assert letters(viewer) == "----"


def test_letters_are_drawn(viewer: napari.Viewer, specimen_file: Path) -> None:
    viewer.open(specimen_file, plugin="napari-lsfm")
    viewer.layers[0].visible = False
    viewer.canvas.background_color_override = "black"
    pixels = viewer.screenshot(canvas_only=True, flash=False)[..., :3].max(axis=-1)
    height, width = pixels.shape
    middle_row, middle_column = slice(height // 2 - 30, height // 2 + 30), slice(width // 2 - 30, width // 2 + 30)
    for edge in (pixels[middle_row, :60], pixels[middle_row, -60:], pixels[:60, middle_column], pixels[-60:, middle_column]):
        assert edge.max() > 150


def test_time_has_no_letter() -> None:
    found = edge_letters("AIR", (0, 3), 4, ("down", "right"))
    assert found == {"top_center": "", "bottom_center": "", "middle_left": "L", "middle_right": "R"}


# --- painting -------------------------------------------------------------------------------------------------------------------


@pytest.mark.bindings
@pytest.mark.parametrize("mode", ["paint", "fill", "erase", "polygon"])
def test_regions_of_a_file_cannot_be_painted_on(viewer: napari.Viewer, regions_file: Path, mode: str) -> None:
    viewer.open(regions_file, plugin="napari-lsfm")
    regions = viewer.layers["regions"]
    assert not regions.multiscale and not regions.editable
    before = np.asarray(regions.data)
    regions.mode = mode
    assert regions.mode == "pan_zoom"
    # Nor through a duplicate, which shows the same voxels.
    viewer.layers.selection.active = regions
    run_command("napari.layer.duplicate")
    assert not viewer.layers[-1].editable
    # Who insists is told why not, and what to do.
    regions.editable = True
    with pytest.raises(InputError, match="Editable copy of this layer"):
        regions.paint((10, 15, 20), 3)
    np.testing.assert_array_equal(np.asarray(regions.data), before)


@pytest.mark.bindings
def test_a_copy_can_be_painted_on_and_saved(viewer: napari.Viewer, regions_file: Path, tmp_path: Path) -> None:
    viewer.open(regions_file, plugin="napari-lsfm")
    regions = viewer.layers["regions"]
    viewer.layers.selection.active = regions
    run_command("napari-lsfm.editable_copy")
    copy = viewer.layers.selection.active
    assert copy.name == "regions (copy)" and copy.editable and not regions.visible
    before = np.asarray(regions.data).copy()
    np.testing.assert_array_equal(copy.data, before)
    inside = tuple(np.argwhere(before == 7)[0])
    np.testing.assert_allclose(copy.data_to_world(inside), regions.data_to_world(inside))
    copy.mode, copy.brush_size = "paint", 1
    copy.paint(inside, 3)
    assert copy.data[inside] == 3
    copy.undo()
    assert copy.data[inside] == 7
    copy.fill(inside, 5)
    assert (copy.data == 5).any()
    copy.paint(inside, 0)
    np.testing.assert_array_equal(np.asarray(regions.data), before)
    viewer.layers.save(str(tmp_path / "copy.h5"), selected=True)
    with open_lsfm(tmp_path / "copy.h5") as file, open_lsfm(regions_file) as source:
        saved = file["regions (copy)"]
        np.testing.assert_array_equal(saved.levels[0].data, copy.data)
        turn = source["regions"].space.reorientation_to(saved.space.orientation)
        assert saved.space.same_grid(source["regions"].space.reoriented(turn))


def test_a_copy_leaves_the_padding_out(viewer: napari.Viewer, specimen_file: Path, specimen: Specimen) -> None:
    viewer.open(specimen_file, plugin="napari-lsfm")
    (layer,) = viewer.layers
    viewer.layers.selection.active = layer
    run_command("napari-lsfm.editable_copy")
    copy = viewer.layers.selection.active
    np.testing.assert_array_equal(copy.data, specimen.volume)
    start = [first for first, _ in layer.metadata["lsfm"]["box"]]
    np.testing.assert_allclose(copy.data_to_world((0, 0, 0)), layer.data_to_world(start))


def test_a_copy_keeps_colours(viewer: napari.Viewer) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (4, 20, 30, 3)).astype(np.uint8)
    layer = viewer.add_image(colours, rgb=True, scale=(2, 1, 1), translate=(5, 6, 7))
    viewer.layers.selection.active = layer
    run_command("napari-lsfm.editable_copy")
    copy = viewer.layers.selection.active
    assert copy.rgb and copy is not layer
    np.testing.assert_array_equal(copy.data, colours)
    np.testing.assert_allclose(copy.data_to_world((1, 1, 1)), layer.data_to_world((1, 1, 1)))


# --- saving ---------------------------------------------------------------------------------------------------------------------


def answer_save_dialog(monkeypatch: pytest.MonkeyPatch, path: Path, chosen: str) -> None:
    monkeypatch.setattr("qtpy.QtWidgets.QFileDialog.getSaveFileName", lambda *args, **options: (str(path), chosen))


@pytest.mark.bindings
@pytest.mark.parametrize("chosen", ["napari lossless (*.tif", "LSFM LSFM channels (*.h5 *.hdf5)", ""])
@pytest.mark.parametrize("selected", [True, False])
def test_the_name_decides_how_a_layer_is_saved(
    viewer: napari.Viewer, specimen_file: Path, specimen: Specimen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str,
    selected: bool,
) -> None:  # fmt: skip
    viewer.open(specimen_file, plugin="napari-lsfm")
    viewer.layers.selection.active = viewer.layers[0]
    target = tmp_path / "name.h5"
    answer_save_dialog(monkeypatch, target, chosen)
    notification_manager.records.clear()
    run_command(f"napari.window.file.save_layers_dialog{'.selected' if selected else ''}")
    with open_lsfm(target) as file:
        np.testing.assert_array_equal(file["autofluo"].levels[0].data, specimen.volume)
    (record,) = notification_manager.records
    assert str(target) in record.message and "'autofluo' (image)" in record.message


def test_a_missing_ending_is_added(viewer: napari.Viewer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer.add_layer(Image(np.ones((4, 5, 6), np.uint16), name="drawn", units="um"))
    for name, made in (("first", "first.h5"), ("v1.2", "v1.2.h5"), ("other.hdf5", "other.hdf5")):
        answer_save_dialog(monkeypatch, tmp_path / name, "LSFM LSFM channels (*.h5 *.hdf5)")
        run_command("napari.window.file.save_layers_dialog")
        assert sorted(path.name for path in tmp_path.glob(f"{name}*") if path.suffix != ".xml") == [made]


def test_layers_are_saved_by_a_command_of_our_own(viewer: napari.Viewer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer.add_layer(Labels(np.ones((4, 5, 6), np.uint16), name="drawn", units="um"))
    viewer.add_points(np.zeros((1, 3)))
    answer_save_dialog(monkeypatch, tmp_path / "drawn", "")
    viewer.layers.selection.active = viewer.layers["drawn"]
    run_command("napari-lsfm.save_layers")
    with open_lsfm(tmp_path / "drawn.h5") as file:
        assert file["drawn"].kind == "labels"
    with pytest.raises(NotSavedError, match="rename the layer first"):
        run_command("napari-lsfm.save_layers")
    viewer.layers.selection = set(viewer.layers)
    with pytest.raises(InputError, match="'Points' cannot be saved so"):
        run_command("napari-lsfm.save_layers")


def test_layers_can_go_and_files_vanish(viewer: napari.Viewer, regions_file: Path) -> None:
    viewer.open(regions_file, plugin="napari-lsfm")
    status = viewer.layers["regions"].get_status((0, 0, 0), world=True)
    assert status["coords"].startswith("R,A,S ")
    notification_manager.records.clear()
    regions_file.unlink()
    shutil.rmtree(regions_file.parent, ignore_errors=True)
    for step in range(3):
        viewer.dims.set_current_step(0, step)
    viewer.layers.clear()
    QApplication.processEvents()
    assert not [record.message for record in notification_manager.records if "Traceback" in record.message]
