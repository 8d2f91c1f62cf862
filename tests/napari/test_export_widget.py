"""The export form in a real window: what is clicked and typed is what the core exports, and what is wrong is said in the form."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import napari
import nibabel
import npy2bdv
import numpy as np
import pytest
import yaml
from napari._qt.qt_main_window import _QtMainWindow
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, Qt, QThreadPool
from qtpy.QtWidgets import QApplication, QLineEdit, QScrollArea, QWidget

from lsfm_core import (
    ExportRequest,
    IngestRequest,
    Orientation,
    RegionSelection,
    export_channel,
    export_chunks,
    ingest_channel,
    open_lsfm,
)
from lsfm_core.cli import main
from napari_lsfm._widgets._facts import layers_of
from napari_lsfm._widgets.forms import _export_work
from napari_lsfm._widgets.forms.export import ExportForm
from napari_lsfm._writer import write_layers

from .conftest import copy_as, edit_of

pytestmark = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)

LEFT = Qt.MouseButton.LeftButton
NATIVE = Orientation("AIR").direction


@pytest.fixture
def viewer(registered_viewer: napari.Viewer) -> napari.Viewer:
    return registered_viewer


@pytest.fixture(autouse=True)
def _no_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was measured yet."""
    monkeypatch.setattr(_export_work, "_slowness", {})


@pytest.fixture
def form(viewer: napari.Viewer, qtbot: QtBot) -> ExportForm:
    return open_form(viewer, qtbot)


def open_form(viewer: napari.Viewer, qtbot: QtBot) -> ExportForm:
    """As the menu opens it; ready, and without a pause before each dry run."""
    _, form = viewer.window.add_plugin_dock_widget("napari-lsfm", "Export")
    form._soon.setInterval(0)
    settle(form, qtbot)
    return form


def settle(form: ExportForm, qtbot: QtBot) -> None:
    """Wait until the form has nothing more to say."""
    qtbot.waitUntil(lambda: not (form.path.native.is_busy or form.is_busy), timeout=60_000)


def type_into(field: QWidget, text: str, qtbot: QtBot) -> None:
    """With the keyboard, in the place of what is there."""
    field = edit_of(field)
    assert isinstance(field, QLineEdit)
    field.setFocus()
    field.selectAll()
    qtbot.keyClick(field, Qt.Key.Key_Delete)
    qtbot.keyClicks(field, text)


def click(button: QWidget, qtbot: QtBot) -> None:
    button = edit_of(button)
    assert button.isEnabled() and button.isVisible()
    qtbot.mouseClick(button, LEFT)


def export(form: ExportForm, qtbot: QtBot) -> None:
    settle(form, qtbot)
    click(form.button, qtbot)
    settle(form, qtbot)


def value_at(viewer: napari.Viewer, layer: Any, ras: Any) -> Any:
    """What a layer shows at a point of the brain."""
    world = NATIVE.T @ ras
    viewer.dims.set_point(range(3), world)
    return layer.get_value(world, world=True)


@contextmanager
def other_window(viewer: napari.Viewer) -> Iterator[napari.Viewer]:
    """The window that the form has opened."""
    (other,) = [window._qt_viewer.viewer for window in _QtMainWindow._instances if window._qt_viewer.viewer is not viewer]
    try:
        yield other
    finally:
        other.close()


def is_error(form: ExportForm) -> bool:
    return "color" in form.outlook.styleSheet()


def assert_same_image(path: Path, request: ExportRequest) -> None:
    """The file holds what the core gives for a request, at the same place."""
    found, wanted = nibabel.load(path), export_channel(request).volume.to_nibabel()
    assert found.get_data_dtype() == wanted.get_data_dtype()
    assert np.array_equal(np.asarray(found.dataobj), np.asarray(wanted.dataobj)) and np.asarray(found.dataobj).any()
    np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-5)


@pytest.mark.bindings
def test_what_is_typed_is_exported_and_shown_in_place(
    viewer: napari.Viewer, form: ExportForm, qtbot: QtBot, registered_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "it is a brain.nii.gz"
    type_into(form.resolution_mm, "0.2, 0.1, 0.15", qtbot)
    type_into(form.output, str(output), qtbot)
    settle(form, qtbot)
    assert "54 x 135 x 51 voxels of 0.2 x 0.1 x 0.15 mm" in form.outlook.text()
    assert "uint16, RAS" in form.outlook.text() and "of memory" in form.outlook.text() and "about 1 s" in form.outlook.text()
    assert "744 kB on disk before compression" in form.outlook.text()
    request = ExportRequest(path=registered_file, channel="autofluo", resolution_mm=(0.2, 0.1, 0.15))
    assert form.request() == request.model_copy(update={"output": output})
    export(form, qtbot)
    assert_same_image(output, request)
    # A voxel of the file is seen where the voxel of the image is that lies there.
    layer = viewer.layers[output.name]
    image = nibabel.load(output)
    index = np.array([20, 60, 30])
    assert value_at(viewer, layer, image.affine[:3] @ [*index, 1]) == np.asarray(image.dataobj)[tuple(index)]
    assert [f"{unit:~}" for unit in layer.units] == ["mm"] * 3
    assert layer.contrast_limits == pytest.approx(viewer.layers["autofluo"].contrast_limits)
    # The rate is known by now, and the file is in the way.
    form._changed()
    settle(form, qtbot)
    assert is_error(form) and "it is a brain.nii.gz" in form.outlook.text() and not form.button.isEnabled()
    click(form.overwrite, qtbot)
    settle(form, qtbot)
    assert not is_error(form) and "about" in form.outlook.text()


def test_the_copied_command_does_the_same(form: ExportForm, qtbot: QtBot, registered_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "my $brain's.nii.gz"
    form.channel.value = "atlas"
    form.interpolation.value = "mode"
    type_into(form.resolution_mm, "0.3", qtbot)
    copy_as(form.copy, "Recipe entry", qtbot)
    assert "name one" in form.panel.text
    type_into(form.output, str(output), qtbot)
    entry = yaml.safe_load(copy_as(form.copy, "Recipe entry", qtbot))
    assert ExportRequest(path=registered_file, **entry[0]["export"]) == form.request()
    program, *arguments = shlex.split(copy_as(form.copy, "Command line", qtbot))
    assert program == "lsfm-core" and not output.exists()
    assert main([*arguments, "--quiet"]) == 0
    assert_same_image(output, ExportRequest(path=registered_file, channel="atlas", resolution_mm=0.3, interpolation="mode"))


@pytest.mark.bindings
def test_what_is_wrong_is_said_in_the_form(form: ExportForm, qtbot: QtBot, tmp_path: Path) -> None:
    def wrong(field: QWidget, text: str, *words: str) -> None:
        before = edit_of(field).text()
        type_into(field, text, qtbot)
        settle(form, qtbot)
        assert is_error(form) and all(word in form.outlook.text() for word in words), form.outlook.text()
        assert not form.button.isEnabled()
        assert QApplication.activeModalWidget() is None
        type_into(field, before, qtbot)
        settle(form, qtbot)
        assert not is_error(form) and form.button.isEnabled()

    wrong(form.resolution_mm, "0.1, x", "resolution", "3 numbers")
    wrong(form.resolution_mm, "-1", "resolution", "positive")
    wrong(form.fill, "0.5", "fill", "uint16")
    wrong(form.memory_bytes, "0.1", "memory")
    wrong(form.output, str(tmp_path / "brain.jpg"), "unknown output format")
    wrong(form.output, str(tmp_path / "nowhere" / "brain.nii"), "nowhere")
    form.what.value = "box"
    wrong(form.origin_mm.edits[1], "one", "corner", "one")
    wrong(form.size_mm.edits[2], "", "size: still to be given: S")
    wrong(form.origin_mm.edits[0], "99", "outside")
    form.what.value = "region"
    type_into(form.select, "TH; CA1", qtbot)
    click(form.include_descendants, qtbot)
    settle(form, qtbot)
    wrong(form.select, "thalamusus", "thalamusus", "did you mean")
    wrong(form.margin_mm, "1.x", "margin")
    wrong(form.margin_mm, "-1", "margin: must be at least 0")
    form.what.value = "grid"
    wrong(form.overlap_mm, "1", "overlap")
    wrong(form.grid.edits[0], "1.5", "whole numbers")


def test_the_time_is_guessed_and_then_learned(form: ExportForm, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds() -> int:
        settle(form, qtbot)
        return int(form.outlook.text().rpartition("about ")[2].removesuffix(" s"))

    copied = seconds()
    type_into(form.resolution_mm, "0.02", qtbot)
    interpolated = seconds()
    assert 1 <= copied < interpolated < 600
    monkeypatch.setattr(_export_work, "_slowness", {("linear", ""): 5.0, ("copied", ".nii"): 100.0})
    type_into(form.resolution_mm, "0.0200", qtbot)
    assert seconds() == pytest.approx(5 * interpolated, rel=0.2)
    # What was measured of an export replaces it.
    type_into(form.resolution_mm, "0.1", qtbot)
    export(form, qtbot)
    assert _export_work._slowness["linear", ""] != 5.0


@pytest.mark.bindings
def test_cancelling_leaves_nothing(
    form: ExportForm, viewer: napari.Viewer, qtbot: QtBot, tmp_path: Path, held: threading.Event
) -> None:
    layers = list(viewer.layers)
    type_into(form.output, str(tmp_path / "brain.nii.gz"), qtbot)
    settle(form, qtbot)
    click(form.button, qtbot)
    qtbot.waitUntil(held.is_set)
    assert list(tmp_path.iterdir()), "it has begun"
    assert form.panel.is_busy and not form.button.isEnabled()
    # The form can be used meanwhile.
    type_into(form.resolution_mm, "0.5", qtbot)
    qtbot.waitUntil(lambda: "0.5 x 0.5 x 0.5" in form.outlook.text())
    click(form.panel._stop, qtbot)
    settle(form, qtbot)
    assert not list(tmp_path.iterdir())
    assert "Cancelled" in form.panel.text
    assert list(viewer.layers) == layers and form.button.isEnabled()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Exports stop after the first bytes until they are cancelled; the event tells that one is there."""
    reached = threading.Event()

    def slowly(request: ExportRequest, *, progress: Callable[..., None], cancel: Any) -> Any:
        def hold(stage: str, done: int, total: int) -> None:
            progress(stage, done, total)
            if done:
                reached.set()
                assert cancel._event.wait(30)

        return export_channel(request, progress=hold, cancel=cancel)

    monkeypatch.setattr(_export_work, "export_channel", slowly)
    yield reached
    assert QThreadPool.globalInstance().waitForDone(30_000)


@pytest.mark.bindings
def test_the_timepoint_that_is_seen_is_exported(viewer: napari.Viewer, qtbot: QtBot, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 999, (11, 40, 50), np.uint16)
    path = tmp_path / "movie.h5"
    writer = npy2bdv.BdvWriter(str(path))
    for time in (1, 2, 4):
        writer.append_view(image + time, time=time, voxel_size_xyz=(2, 3, 4), voxel_units="um")
    writer.write_xml()
    writer.close()
    viewer.layers.clear()
    viewer.open(path, plugin="napari-lsfm")
    viewer.dims.set_point(0, 2)
    form = open_form(viewer, qtbot)
    assert form.timepoint.native.isVisible() and form.timepoint.choices == [1, 2, 4] and form.timepoint.value == 2
    form.timepoint.native.setFocus()
    qtbot.keyClicks(form.timepoint.native, "4")
    type_into(form.orientation, "AIR", qtbot)
    form.what.value = "box"
    click(form.box.native.from_view, qtbot)
    type_into(form.output, str(tmp_path / "last.nii"), qtbot)
    settle(form, qtbot)
    assert not is_error(form), form.outlook.text()
    assert "export box" in viewer.layers
    form.what.value = "whole"
    assert not viewer.layers["export box"].visible and not viewer.layers["export box"].nshapes
    export(form, qtbot)
    assert_same_image(tmp_path / "last.nii", ExportRequest(path=path, channel=form.channel.value, orientation="AIR", timepoint=4))


def test_closing_the_window_stops_the_work(
    form: ExportForm, viewer: napari.Viewer, qtbot: QtBot, tmp_path: Path, held: threading.Event
) -> None:
    threads = threading.active_count()
    type_into(form.output, str(tmp_path / "brain.nii.gz"), qtbot)
    settle(form, qtbot)
    click(form.button, qtbot)
    qtbot.waitUntil(held.is_set)
    viewer.close()
    qtbot.waitUntil(lambda: QThreadPool.globalInstance().activeThreadCount() == 0, timeout=20_000)
    assert not list(tmp_path.iterdir())
    assert threading.active_count() <= threads + (os.cpu_count() or 1), "the core keeps threads that decode for all files"


def test_closing_the_form_leaves_nothing_in_the_viewer(form: ExportForm, viewer: napari.Viewer, qtbot: QtBot) -> None:
    form.what.value = "box"
    settle(form, qtbot)
    assert "export box" in viewer.layers
    with qtbot.waitSignal(form.native.destroyed, timeout=10_000):
        viewer.window.remove_dock_widget(form.native)
    assert "export box" not in viewer.layers
    del viewer.layers[0]
    viewer.dims.set_current_step(0, 100)


@pytest.mark.bindings
def test_dragging_the_box_changes_the_numbers_and_the_export(
    form: ExportForm, viewer: napari.Viewer, qtbot: QtBot, registered_file: Path, tmp_path: Path
) -> None:
    form.what.value = "box"
    settle(form, qtbot)
    before = np.array([form.origin_mm.value, form.size_mm.value])
    viewer.dims.set_point(range(3), NATIVE.T @ (before[0] + before[1] / 2))
    qtbot.wait(50)
    layer = viewer.layers["export box"]
    assert layer.nshapes == 1 and layer.mode == "select"
    drag(viewer, qtbot, NATIVE.T @ (before[0] + 0.3 * before[1]), across=(50, 30))
    moved = np.array([1, 0, -1]) * np.array([50, 0, 30]) / viewer.scene.camera.zoom
    qtbot.waitUntil(lambda: not np.allclose(form.origin_mm.value, before[0]))
    assert form.origin_mm.value == pytest.approx(before[0] + moved, abs=0.05)
    assert form.size_mm.value == pytest.approx(before[1], abs=1e-3)
    # And the other way round.
    for edit, text in zip([*form.origin_mm.edits, *form.size_mm.edits], ("3", "4", "2", "1.6", "2", "1.2"), strict=True):
        type_into(edit, text, qtbot)
    viewer.dims.set_point(0, 5)
    settle(form, qtbot)
    corners = np.array([layer.data_to_world(vertex) for vertex in layer.data[0]]) @ NATIVE.T
    assert corners.min(axis=0) == pytest.approx([3, 5, 2], abs=1e-3) and corners.max(axis=0) == pytest.approx(
        [4.6, 5, 3.2], abs=1e-3
    )
    viewer.dims.set_point(0, 7)
    qtbot.waitUntil(lambda: layer.nshapes == 0)
    viewer.dims.ndisplay = 3
    qtbot.waitUntil(lambda: layer.nshapes == 12)
    viewer.dims.ndisplay = 2
    type_into(form.output, str(tmp_path / "box.nii"), qtbot)
    export(form, qtbot)
    assert_same_image(
        tmp_path / "box.nii",
        ExportRequest(path=registered_file, channel="autofluo", origin_mm=(3, 4, 2), size_mm=(1.6, 2, 1.2)),
    )


def drag(viewer: napari.Viewer, qtbot: QtBot, world: Any, across: tuple[int, int]) -> None:
    """With the mouse on the canvas, from a point of the world, so many pixels to the right and down."""
    native = viewer.window._qt_viewer.canvas.native
    qtbot.wait(100)
    middle = np.array([native.height(), native.width()]) / 2
    row, column = (np.asarray(world)[1:] - viewer.scene.camera.center[1:]) * viewer.scene.camera.zoom + middle
    start = QPoint(round(column), round(row))
    end = start + QPoint(*across)
    qtbot.mouseMove(native, start)
    qtbot.wait(100)
    qtbot.mousePress(native, LEFT, pos=start)
    for part in (0.5, 1):
        qtbot.mouseMove(native, start + (end - start) * part)
        qtbot.wait(100)
    qtbot.mouseRelease(native, LEFT, pos=end)


def test_the_box_is_taken_from_the_view_and_from_a_shape(form: ExportForm, viewer: napari.Viewer, qtbot: QtBot) -> None:
    form.what.value = "box"
    settle(form, qtbot)
    thickness = form.size_mm.value[1]
    viewer.add_shapes([[[2, -5, 3], [2, -5, 6], [2, -2, 6], [2, -2, 3]]], ndim=3, units=("mm",) * 3)
    click(form.box.native.from_shape, qtbot)
    corner, size = np.array(form.origin_mm.value), np.array(form.size_mm.value)
    assert corner[[0, 2]] == pytest.approx([3, 2]) and size[[0, 2]] == pytest.approx([3, 3])
    assert size[1] == pytest.approx(thickness) and corner[1] < viewer.dims.point[0] < corner[1] + size[1]
    viewer.scene.camera.zoom = 200
    viewer.scene.camera.center = (0, -4, 5)
    qtbot.wait(100)
    click(form.box.native.from_view, qtbot)
    canvas = viewer.window._qt_viewer.canvas.native
    corner, size = np.array(form.origin_mm.value), np.array(form.size_mm.value)
    assert size[[0, 2]] == pytest.approx([canvas.width() / 200, canvas.height() / 200], abs=0.2)
    assert (corner + size / 2)[[0, 2]] == pytest.approx([5, 4], abs=0.1)


def test_a_box_without_bounds_is_drawn_as_far_as_the_image_goes(
    form: ExportForm, viewer: napari.Viewer, qtbot: QtBot, registered_file: Path
) -> None:
    form.what.value = "box"
    for edit, text in zip(form.origin_mm.edits, ("-1e9", "-1e9", "-1e9"), strict=True):
        type_into(edit, text, qtbot)
    for edit in form.size_mm.edits:
        type_into(edit, "2e9", qtbot)
    viewer.dims.set_point(0, 5)
    settle(form, qtbot)
    assert form.request().size_mm == (2e9,) * 3
    layer = viewer.layers["export box"]
    corners = np.array([layer.data_to_world(vertex) for vertex in layer.data[0]])
    with open_lsfm(registered_file) as file:
        extent = file["autofluo"].space.bounds.size_mm
    assert (np.ptp(corners, axis=0)[1:] < 3.01 * max(extent)).all()
    type_into(form.origin_mm.edits[0], "1e9", qtbot)
    qtbot.waitUntil(lambda: not layer.visible)
    assert viewer.layers.selection.active.name == "autofluo"
    type_into(form.origin_mm.edits[0], "-1e9", qtbot)
    qtbot.waitUntil(lambda: layer.visible)
    assert layer.nshapes == 1 and viewer.layers.selection.active is layer and layer.mode == "select"


def test_a_file_that_is_closed_takes_its_box_along(form: ExportForm, viewer: napari.Viewer, qtbot: QtBot) -> None:
    form.what.value = "box"
    settle(form, qtbot)
    viewer.layers.selection = {layer for layer in viewer.layers if layer.name != "export box"}
    viewer.layers.remove_selected()
    assert not viewer.layers
    assert (
        form.box.native.from_view.isVisible()
        and not form.box.native.from_view.isEnabled()
        and not form.box.native.from_shape.isEnabled()
    )
    assert "Open a file" in form.outlook.text() and not form.button.isEnabled()


def test_exported_regions_look_as_in_their_file(
    form: ExportForm, viewer: napari.Viewer, qtbot: QtBot, registered_file: Path, tmp_path: Path
) -> None:
    form.channel.value = "atlas"
    export(form, qtbot)
    stored, exported = viewer.layers["atlas"], viewer.layers["atlas [1]"]
    assert form.panel.text.endswith("shown as layer 'atlas [1]'")
    assert exported.features.equals(stored.features)
    middle = np.array(exported.data.shape) // 2
    world = exported.data_to_world(middle)
    viewer.dims.set_point(range(3), world)
    value, same = (layer.get_value(world, world=True) for layer in (exported, stored))
    assert value == same
    told = [layer.get_status(world, world=True)["coordinates"].partition("; voxel")[0] for layer in (exported, stored)]
    assert told[0] == told[1] and "region: " in told[0]
    np.testing.assert_allclose(exported.get_color(value), stored.get_color(value))
    # It shows no file, and is saved with its ids and names.
    assert layers_of(viewer, registered_file) == [viewer.layers[name] for name in ("autofluo", "cfos", "atlas")]
    write_layers(tmp_path / "copy.h5", [exported.as_layer_data_tuple()])
    with open_lsfm(tmp_path / "copy.h5") as copy, open_lsfm(registered_file) as file:
        (name,) = copy
        assert copy.label_table(name) == file.label_table("atlas")
        assert set(np.unique(copy[name].levels[0].data)) == set(np.unique(file["atlas"].levels[0].data))


def test_a_chain_to_the_template(
    form: ExportForm, viewer: napari.Viewer, qtbot: QtBot, registered_file: Path, brain_data: Path, tmp_path: Path
) -> None:
    reference = str(brain_data / "mouse_brain" / "template_100um.nii.gz")
    chain = form.transforms.native

    def add(name: str) -> None:
        chain._offer()
        (action,) = [a for a in chain._menu.actions() if a.text().startswith(name)]
        action.trigger()
        settle(form, qtbot)

    add("structural_to_template")
    assert "structural_to_template" not in chain.names, "once is enough"
    add("inverse_warp")
    assert chain._invert.isEnabled(), "its partner is stored"
    click(chain._up, qtbot)
    click(chain._invert, qtbot)
    assert [str(step) for step in form.request().transforms] == ["inverse_warp:invert", "structural_to_template"]
    click(chain._remove, qtbot)
    add("warp")
    form.reference.value = reference
    type_into(form.output, str(tmp_path / "there.nii.gz"), qtbot)
    settle(form, qtbot)
    assert "114 x 132 x 80" in form.outlook.text()
    words, picture = chain._words.text(), chain._picture.text()
    assert words.index("1. structural_to_template: rotates by 4.29") < words.index("2. warp: displacement field")
    assert picture.index("autofluo") < picture.index("structural_to_template") < picture.index("warp") < picture.index("output")
    qtbot.waitUntil(lambda: chain.height() >= chain.minimumSizeHint().height())
    layers = list(viewer.layers)
    export(form, qtbot)
    assert form.panel._text.height() >= form.panel._text.heightForWidth(form.panel._text.width()), "all of it can be read"
    transforms = ("structural_to_template", "warp")
    request = ExportRequest(path=registered_file, channel="autofluo", transforms=transforms, reference=reference)
    assert_same_image(tmp_path / "there.nii.gz", request)
    assert list(viewer.layers) == layers, "it lies elsewhere"
    with other_window(viewer) as other:
        below, layer = other.layers
        image, template = nibabel.load(tmp_path / "there.nii.gz"), nibabel.load(reference)
        index = np.array([60, 70, 40])
        assert value_at(other, below, template.affine[:3] @ [*index, 1]) == np.asarray(template.dataobj)[tuple(index)]
        assert "R,A,S 6.000,7.000,4.000" in layer.get_status(NATIVE.T @ [6, 7, 4], world=True)["coords"]
        shown = value_at(other, layer, image.affine[:3] @ [*index, 1])
        assert shown == np.asarray(image.dataobj)[tuple(index)]
        assert "own" in form.panel.text
    # A field from a file has no known inverse.
    chain.add(str(brain_data / "mouse_brain" / "transforms" / "template_to_structural_1Warp.nii.gz"))
    assert not chain._invert.isEnabled()
    chain._numeric.setChecked(True)
    assert chain._invert.isEnabled()
    chain._invert.click()
    assert form.request().numeric_inverse == (chain.read()[-1].name,)
    chain._numeric.setChecked(False)
    assert not chain.read()[-1].invert and form.request().numeric_inverse == ()


def test_chunks(form: ExportForm, qtbot: QtBot, registered_file: Path, tmp_path: Path) -> None:
    form.channel.value = "atlas"
    form.what.value = "grid"
    for edit, text in zip(form.block.edits, ("6", "7", "8"), strict=True):
        type_into(edit, text, qtbot)
    type_into(form.overlap_mm, "0.5", qtbot)
    type_into(form.output, str(tmp_path / "found"), qtbot)
    settle(form, qtbot)
    assert "in 4 blocks" in form.outlook.text()
    export(form, qtbot)
    assert "4 blocks" in form.panel.text
    request = ExportRequest(
        path=registered_file, channel="atlas", grid=(0, 0, 0), size_mm=(6, 7, 8), overlap_mm=0.5, output=tmp_path / "wanted"
    )
    export_chunks(request)
    names = sorted(path.name for path in (tmp_path / "wanted").iterdir())
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == names and len(names) == 5
    for name in names[:4]:
        found, wanted = (nibabel.load(tmp_path / folder / name) for folder in ("found", "wanted"))
        assert np.array_equal(np.asarray(found.dataobj), np.asarray(wanted.dataobj))
        assert np.array_equal(found.affine, wanted.affine)


@pytest.mark.parametrize(
    "fields",
    [
        {"level": 1, "resolution_mm": 0.1, "output_orientation": "LPS", "interpolation": "bspline", "fill": 7, "antialias": False,
         "memory_bytes": 3 * 10**9},
        {"origin_mm": (1, 2, 3), "size_mm": (2, 3, 1), "snap": True, "output_orientation": "native"},
        {"grid": (2, 1, 1), "origin_mm": (1, 1, 1), "size_mm": (3, 2, 1), "overlap_mm": (0.1, 0.2, 0.3)},
        {
            "transforms": ("cfos/signal_to_structural:invert", "warp"), "reference": "atlas", "overwrite": True,
            "region": RegionSelection(
                labels_channel="atlas", select=("TH", "CA1"), side="right", midline_mm=5.5, margin_vox=2, labels_in="output"
            ),
        },
    ],
)  # fmt: skip
def test_a_request_comes_out_as_it_went_in(
    fields: dict[str, Any], form: ExportForm, qtbot: QtBot, registered_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / ("chunks" if "grid" in fields else "out.nii")
    request = ExportRequest(path=registered_file, channel="autofluo", output=output, **fields)
    form(request)
    settle(form, qtbot)
    assert form.request() == request


def test_two_windows_do_not_disturb_each_other(
    form: ExportForm,
    viewer: napari.Viewer,
    qtbot: QtBot,
    make_napari_viewer: Callable[..., napari.Viewer],
    tmp_path: Path,
) -> None:
    path = tmp_path / "other.h5"
    ingest_channel(
        IngestRequest(path=path, channel="other", image=np.arange(24**3, dtype="u2").reshape(24, 24, 24), voxel_size_mm=(1, 1, 1),
                      orientation="RAS")
    )  # fmt: skip
    second = make_napari_viewer(show=True)
    second.open(path, plugin="napari-lsfm")
    other = open_form(second, qtbot)
    for one, size in ((form, "1"), (other, "2")):
        one.what.value = "box"
        for edit in one.size_mm.edits:
            type_into(edit, size, qtbot)
        settle(one, qtbot)
    assert (form.request().channel, other.request().channel) == ("autofluo", "other")
    assert form.request().size_mm == (1, 1, 1) and other.request().size_mm == (2, 2, 2)
    second.close()
    viewer.dims.set_point(0, 5)
    export(form, qtbot)
    assert viewer.layers["autofluo [1]"].data.shape == (20, 25, 25)


def test_all_can_be_reached_and_read(form: ExportForm, viewer: napari.Viewer, qtbot: QtBot) -> None:
    viewer.window.resize(1280, 800)
    qtbot.wait(50)
    area = form.native.findChild(QScrollArea)
    for piece in form.what.choices:
        form.what.value = piece
        settle(form, qtbot)
        assert area.widget().width() <= area.viewport().width(), "nothing is cut off"
        for field in area.widget().findChildren(QLineEdit):
            assert not field.isVisible() or field.width() >= 40
    # From the first field, Tab leads to the button that does it.
    form.what.value = "region"
    viewer.window._qt_window.activateWindow()
    widget, seen = form.path.native.focusProxy(), set()
    while widget not in seen:
        seen.add(widget)
        widget = widget.nextInFocusChain()
    fields = (form.channel, form.resolution_mm, form.select, form.margin_vox, form.transforms.native._add, form.fill, form.output)
    for field in (*map(edit_of, fields), form.button):
        assert field in seen and field.focusPolicy() & Qt.FocusPolicy.TabFocus
    fields = [
        f
        for f in form.native.findChildren(QWidget)
        if f.focusPolicy() & Qt.FocusPolicy.TabFocus and f.window() is form.native.window()
    ]
    fields = [f for f in fields if not isinstance(f, QScrollArea)]
    missing = [f for f in fields if not (f.toolTip() or f.parentWidget().toolTip() or f.parentWidget().parentWidget().toolTip())]
    assert not missing, missing


def test_a_file_without_orientation_asks_for_it(
    viewer: napari.Viewer, form: ExportForm, qtbot: QtBot, brain_data: Path, tmp_path: Path
) -> None:
    # What is done with a file is noted beside it.
    path = Path(shutil.copy(brain_data / "legacy_lsfmpy" / "mouse42.h5", tmp_path))
    form.path.value = path
    settle(form, qtbot)
    form.channel.value = "autofluo"
    settle(form, qtbot)
    assert is_error(form) and "orientation" in form.outlook.text() and form.orientation.native.isVisible()
    type_into(form.orientation, "AIR", qtbot)
    type_into(form.output, str(tmp_path / "old.nii"), qtbot)
    export(form, qtbot)
    with open_lsfm(path) as file:
        assert file["autofluo"].orientation is None
    assert_same_image(tmp_path / "old.nii", ExportRequest(path=path, channel="autofluo", orientation="AIR"))
    with other_window(viewer) as other:
        assert [layer.name for layer in other.layers] == ["old.nii"] and "something else" in form.panel.text


def test_a_search_that_nobody_waits_for_ends(form: ExportForm, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever types on need not wait for the plan of what stood there before."""
    tokens = []
    plan = _export_work.plan_export

    def slow(file: Any, request: ExportRequest, *, cancel: Any) -> Any:
        tokens.append(cancel)
        if request.region is not None and request.region.select == ("CA1",):
            while not cancel.cancelled:
                threading.Event().wait(0.01)
        return plan(file, request, cancel=cancel)

    monkeypatch.setattr(_export_work, "plan_export", slow)
    form.what.value = "region"
    type_into(form.select, "CA1", qtbot)
    qtbot.waitUntil(lambda: bool(tokens) and form._planner.is_busy, timeout=20_000)
    type_into(form.select, "CA2", qtbot)
    settle(form, qtbot)
    assert not is_error(form) and form.button.isEnabled()


def test_fields_of_all_sections_stand_below_each_other(form: ExportForm, qtbot: QtBot) -> None:
    qtbot.wait(50)
    fields = [field.native for field in (form.channel, form.what, form.reference, form.fill, form.memory_bytes)]
    lefts = {field.mapTo(form.native, field.rect().topLeft()).x() for field in fields}
    assert len(lefts) == 1
