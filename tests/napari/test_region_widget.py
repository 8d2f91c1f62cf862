"""The region form in a real window: what is searched for, ticked or clicked at is what is measured, shown and exported."""

from __future__ import annotations

import csv
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import h5py
import napari
import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication, QWidget

from lsfm_core import ExportRequest, RegionSelection, export_channel, open_lsfm
from lsfm_core.cli import main
from napari_lsfm._widgets.forms.regions import RegionsForm

from .conftest import copy_as

pytestmark = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)

LEFT = Qt.MouseButton.LeftButton
CHECKED, PARTLY, UNCHECKED = Qt.CheckState.Checked, Qt.CheckState.PartiallyChecked, Qt.CheckState.Unchecked


@pytest.fixture
def viewer(registered_viewer: napari.Viewer) -> napari.Viewer:
    return registered_viewer


@pytest.fixture
def form(viewer: napari.Viewer, qtbot: QtBot) -> RegionsForm:
    _, form = viewer.window.add_plugin_dock_widget("napari-lsfm", "Regions")
    form._soon.setInterval(0)
    form._sweeper._timer.setInterval(0)
    settle(form, qtbot)
    return form


@pytest.fixture(scope="module")
def atlas(brain_data: Path) -> Any:
    """The labels as nibabel reads them, RAS."""
    return nibabel.load(brain_data / "mouse_brain" / "annotation_in_structural_100um.nii.gz")


@pytest.fixture(scope="module")
def thalamus(brain_data: Path) -> list[int]:
    """Ids of the thalamus and its parts, from the ontology's own column of paths; large ones have others in the labels."""
    text = (brain_data / "mouse_brain" / "allen_labels_itksnap.txt").read_text()
    ids = {acronym: int(key) for key, acronym in re.findall(r'^\s*(\d+) .*\(([^()]+)\)"\s*$', text, re.MULTILINE)}
    with (brain_data / "mouse_brain" / "allen_structure_tree.csv").open() as file:
        parts = [row for row in csv.DictReader(file) if "/549/" in row["structure_id_path"]]
    return [ids.get(row["acronym"], int(row["id"])) for row in parts]


def settle(form: RegionsForm, qtbot: QtBot) -> None:
    at_work = (form.path.native, form, form._asker, form._sweeper)
    qtbot.waitUntil(lambda: not any(one.is_busy for one in at_work), timeout=60_000)


def click(button: QWidget, qtbot: QtBot) -> None:
    assert button.isEnabled() and button.isVisible()
    qtbot.mouseClick(button, LEFT)


def is_error(form: RegionsForm) -> bool:
    return "color" in form.outlook.styleSheet()


def search(form: RegionsForm, text: str, qtbot: QtBot) -> None:
    form.regions.native.search.clear()
    qtbot.keyClicks(form.regions.native.search, text)


def tick(form: RegionsForm, key: int, qtbot: QtBot) -> None:
    """Click at the box of a region's row."""
    index = form.regions.native.model.index_of(key)
    form.regions.native.tree.scrollTo(index)
    row = form.regions.native.tree.visualRect(index)
    before = form.regions.native.model.state(key)
    for x in range(row.left() + 4, row.left() + 24, 4):
        qtbot.mouseClick(form.regions.native.tree.viewport(), LEFT, pos=QPoint(x, row.center().y()))
        if form.regions.native.model.state(key) != before:
            return
    pytest.fail("the row has no box")


def current(form: RegionsForm) -> int | None:
    return form.regions.native.model.key_at(form.regions.native.tree.currentIndex())


def inside(atlas: Any, ids: list[int], *, left: bool = False) -> npt.NDArray[np.bool_]:
    """Which voxels of the labels, RAS, belong to some ids; the left ends at the median of all that is labelled."""
    labels = np.asarray(atlas.dataobj)
    mask = np.isin(labels, ids)
    if left:
        mask[np.arange(len(mask)) >= np.median(np.nonzero(labels)[0])] = False
    return mask


def click_at(viewer: napari.Viewer, ras: npt.ArrayLike, qtbot: QtBot, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
    """With the mouse on the canvas, in the plane of a point."""
    world = np.array([ras[1], -ras[2], ras[0]])
    viewer.dims.set_point(range(3), world)
    qtbot.wait(100)
    native = viewer.window._qt_viewer.canvas.native
    middle = np.array([native.height(), native.width()]) / 2
    row, column = (world[1:] - viewer.scene.camera.center[1:]) * viewer.scene.camera.zoom + middle
    qtbot.mouseMove(native, QPoint(round(column), round(row)))
    qtbot.wait(100)
    qtbot.mouseClick(native, LEFT, modifier, pos=QPoint(round(column), round(row)))


def test_searching_and_ticking(form: RegionsForm, qtbot: QtBot, thalamus: list[int]) -> None:
    state, is_seen = (
        form.regions.native.model.state,
        lambda key: not form.regions.native.tree.visualRect(form.regions.native.model.index_of(key)).isEmpty(),
    )
    assert not form.button.isEnabled() and not is_error(form)
    search(form, "thalam", qtbot)
    for key in (549, 1129):
        form.regions.native.tree.scrollTo(form.regions.native.model.index_of(key))
        assert is_seen(key), "what is found, and what it is part of"
    assert not form.regions.native.model.index_of(382).isValid()
    search(form, "th", qtbot)
    assert current(form) == 549 and is_seen(549), "the best of many"
    qtbot.keyClick(form.regions.native.search, Qt.Key.Key_Return)
    assert form.selected == {*thalamus}
    assert state(549) == state(864) == CHECKED
    assert state(1129) == state(997) == PARTLY
    assert form.selection().select == ("TH",) and form.selection().include_descendants
    # One nucleus less: now all that is left is named.
    search(form, "718", qtbot)
    tick(form, 718, qtbot)
    assert form.selected == {*thalamus} - {718}
    assert state(549) == state(709) == PARTLY
    with open_lsfm(form.path.value) as file:
        assert form.request().region.include_descendants is False and "atlas" in file
    assert "VPL" not in form.selection().select and "VPM" in form.selection().select
    # A part may be ticked on its own, and with its last part a region is whole again.
    tick(form, 718, qtbot)
    assert form.selection().select == ("TH",)
    click(form.clear, qtbot)
    assert not form.selected and state(549) == UNCHECKED and not form.button.isEnabled()
    search(form, "nothing of that name", qtbot)
    qtbot.keyClick(form.regions.native.search, Qt.Key.Key_Return)
    assert is_error(form) and "nothing of that name" in form.outlook.text()


def test_a_region_that_is_searched_for_comes_into_view(
    form: RegionsForm, viewer: napari.Viewer, qtbot: QtBot, atlas: Any, thalamus: list[int]
) -> None:
    mask = inside(atlas, thalamus)

    def is_met() -> bool:
        """Whether the middle of the viewer lies in the thalamus, by the labels as nibabel reads them."""
        anterior, inferior, right = viewer.dims.point
        index = np.linalg.inv(atlas.affine)[:3] @ (right, anterior, -inferior, 1)
        return bool(mask[tuple(index.round().astype(int))])

    viewer.dims.set_point(range(3), (0.5, -1, 1))
    assert not is_met()
    search(form, "th", qtbot)
    qtbot.keyClick(form.regions.native.search, Qt.Key.Key_Return)
    settle(form, qtbot)
    assert is_met()
    # Again when it is asked for, the camera too, in whatever way the axes lie.
    for order in ((0, 1, 2), (1, 2, 0)):
        viewer.dims.order = order
        viewer.dims.set_point(range(3), (0.5, -1, 1))
        viewer.scene.camera.center = (0, 50, 50)
        click(form.find, qtbot)
        assert is_met()
        np.testing.assert_allclose(viewer.scene.camera.center[1:], np.array(viewer.dims.point)[list(order[1:])])
    # One that is clicked at, or is in view already, moves nothing.
    viewer.dims.order = (0, 1, 2)
    click(form.find, qtbot)
    plane = viewer.dims.point[0] + 0.05
    viewer.dims.set_point(0, plane)
    form.regions.native.model.ticked.emit(1129, True)
    settle(form, qtbot)
    assert viewer.dims.point[0] == pytest.approx(plane, abs=0.03)
    click(form.clear, qtbot)
    assert not form.find.isEnabled()


def test_names_are_not_cut(form: RegionsForm, qtbot: QtBot) -> None:
    search(form, "layer 6b", qtbot)
    bar = form.regions.native.tree.verticalScrollBar()
    for value in (bar.minimum(), bar.maximum() // 2, bar.maximum()):
        bar.setValue(value)
        index = form.regions.native.tree.indexAt(QPoint(5, form.regions.native.tree.viewport().height() // 2))
        room = form.regions.native.tree.visualRect(index).width()
        assert room >= form.regions.native.tree.fontMetrics().horizontalAdvance(index.data()) + 16, index.data()
    # The best is in sight, with the beginning of its name.
    search(form, "barrel", qtbot)
    place = form.regions.native.tree.visualRect(form.regions.native.tree.currentIndex())
    assert form.regions.native.tree.viewport().rect().contains(place.topLeft())


def test_a_region_is_measured_and_shown(
    form: RegionsForm, viewer: napari.Viewer, qtbot: QtBot, atlas: Any, thalamus: list[int]
) -> None:
    active = viewer.layers.selection.active
    search(form, "th", qtbot)
    qtbot.keyClick(form.regions.native.search, Qt.Key.Key_Return)
    for side, margin in ((None, "0"), ("left", "0.3")):
        form.side.value = side
        form.margin_mm.native.setText(margin)
        settle(form, qtbot)
        mask = inside(atlas, thalamus, left=side == "left")
        where = np.argwhere(mask)
        low = (where.min(axis=0) - 0.5) * 0.1 - float(margin)
        high = (where.max(axis=0) + 0.5) * 0.1 + float(margin)
        ends = ", ".join(f"{axis} {a:.2f} to {b:.2f}" for axis, a, b in zip("RAS", low, high, strict=True))
        assert f"{mask.sum() / 1000:.4g} mm³, {mask.sum():,} voxels" in form.outlook.text() and ends in form.outlook.text()
        # What is highlighted is the region, and the rectangle goes around it.
        shown = viewer.layers["selected region"]
        assert np.count_nonzero(shown.data) == mask.sum()
        for voxel, value in ((where[len(where) // 2], 1), (where.min(axis=0), 0)):
            assert mask[tuple(voxel)] == value
            world = voxel[[1, 2, 0]] * [0.1, -0.1, 0.1]
            viewer.dims.set_point(range(3), world)
            assert bool(shown.get_value(world, world=True)) == bool(value)
        rectangle = viewer.layers["region box"]
        qtbot.waitUntil(lambda rectangle=rectangle: rectangle.nshapes == 1)
        corners = np.array([rectangle.data_to_world(vertex) for vertex in rectangle.data[0]])[:, [2, 0, 1]] * [1, 1, -1]
        assert corners[:, [0, 2]].min(axis=0) == pytest.approx(low[[0, 2]], abs=1e-3)
        assert corners[:, [0, 2]].max(axis=0) == pytest.approx(high[[0, 2]], abs=1e-3)
        # In another plane of the same box nothing is drawn anew, and yet the rectangle is there.
        drawn = []
        rectangle.events.data.connect(drawn.append)
        viewer.dims.set_point(0, (low[1] + high[1]) / 2)
        qtbot.waitUntil(lambda: not form._box._soon.isActive())
        assert not drawn and len(rectangle._data_view.displayed_vertices)
    assert viewer.layers.selection.active is active, "one goes on with what one was at"
    form.margin_mm.native.setText("-1")
    settle(form, qtbot)
    assert is_error(form) and "margin" in form.outlook.text() and not form.button.isEnabled()
    assert "selected region" not in viewer.layers and not viewer.layers["region box"].visible


def test_clicking_at_a_region(form: RegionsForm, viewer: napari.Viewer, qtbot: QtBot, atlas: Any) -> None:
    labels = np.asarray(atlas.dataobj)
    # Voxels well inside of a region, so that no half pixel matters.
    (first,), (second,) = (np.argwhere(_core(labels == key))[:1] for key in (382, 672))
    click_at(viewer, first * 0.1, qtbot)
    qtbot.waitUntil(lambda: form.selected == {382})
    assert current(form) == 382
    assert form.regions.native.model.state(382) == PARTLY, "its layers are other regions"
    settle(form, qtbot)
    click_at(viewer, second * 0.1, qtbot)
    qtbot.waitUntil(lambda: form.selected == {672})
    assert form.regions.native.model.state(672) == CHECKED and form.regions.native.model.state(382) == UNCHECKED
    settle(form, qtbot)
    click_at(viewer, first * 0.1, qtbot, Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: form.selected == {382, 672})
    settle(form, qtbot)
    form.pick.value = False
    click_at(viewer, second * 0.1, qtbot)
    settle(form, qtbot)
    assert form.selected == {382, 672}


def _core(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Voxels whose neighbours along R and S are inside as well."""
    core = mask.copy()
    for axis in (0, 2):
        for step in (-2, -1, 1, 2):
            core &= np.roll(mask, step, axis)
    return core


def test_a_masked_hemisphere_is_exported_by_way_of_the_export_form(
    form: RegionsForm,
    viewer: napari.Viewer,
    qtbot: QtBot,
    registered_file: Path,
    tmp_path: Path,
    atlas: Any,
    thalamus: list[int],
) -> None:
    search(form, "th", qtbot)
    qtbot.keyClick(form.regions.native.search, Qt.Key.Key_Return)
    form.side.value = "left"
    form.channel.value = "atlas"
    click(form.mask.native, qtbot)
    settle(form, qtbot)
    click(form.button, qtbot)
    _, export = viewer.window.add_plugin_dock_widget("napari-lsfm", "Export")
    qtbot.waitUntil(lambda: export.native.isVisible() and export.button.isEnabled(), timeout=30_000)
    region = RegionSelection(labels_channel="atlas", select=("TH",), include_descendants=True, side="left", mask=True)
    assert export.request() == ExportRequest(path=registered_file, channel="atlas", region=region)
    export.output.value = str(tmp_path / "th.nii")
    qtbot.waitUntil(lambda: not export.is_busy)
    click(export.button, qtbot)
    qtbot.waitUntil(lambda: not export.panel.is_busy, timeout=30_000)
    image = nibabel.load(tmp_path / "th.nii")
    mask = inside(atlas, thalamus, left=True)
    box = tuple(slice(a, b) for a, b in zip(np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0) + 1, strict=True))
    assert np.array_equal(np.asarray(image.dataobj), np.where(mask, np.asarray(atlas.dataobj), 0)[box])
    # Set up once, the way to the template stays for the next region.
    export.channel.value = "autofluo"
    for name in ("structural_to_template", "warp"):
        export.transforms.native.add(name)
    form.channel.value = "autofluo"
    form.select({382})
    settle(form, qtbot)
    form.button.click()
    assert [str(step) for step in export.request().transforms] == ["structural_to_template", "warp"]
    assert export.request().region.select == ("CA1",)


@pytest.mark.bindings
def test_the_copied_command_does_the_same(form: RegionsForm, qtbot: QtBot, tmp_path: Path, registered_file: Path) -> None:
    copy_as(form.copy, "Command line", qtbot)
    assert "Choose a region" in form.panel.text
    form.select({382, 423})
    form.margin_mm.native.setText("0.2")
    settle(form, qtbot)
    words = shlex.split(copy_as(form.copy, "Command line", qtbot))
    (output,) = [word for word in words if word.startswith("--output=")]
    assert output == f"--output={registered_file.parent / 'brain_autofluo_CA1_CA2.nii.gz'}"
    words[words.index(output)] = f"--output={tmp_path / 'out.nii'}"
    assert main([*words[1:], "--quiet"]) == 0
    region = RegionSelection(labels_channel="atlas", select=(382, 423), margin_mm=0.2)
    wanted = export_channel(ExportRequest(path=registered_file, channel="autofluo", region=region)).volume
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "out.nii").dataobj), wanted.array)


def test_regions_without_voxels_are_grey_but_can_be_chosen(
    form: RegionsForm, viewer: napari.Viewer, qtbot: QtBot, atlas: Any
) -> None:
    ids = {*np.unique(np.asarray(atlas.dataobj)).tolist()}
    table = form.regions.native.table
    with_parts = {key: {*table.descendants(key)} for key in table}
    empty = {key for key, parts in with_parts.items() if not parts & ids}
    assert {key for key in table if form.regions.native.model.is_empty(key)} == empty
    assert 100 < len(empty) < len(table) - 100
    faint = form.regions.native.model.data(form.regions.native.model.index_of(min(empty)), Qt.ItemDataRole.ForegroundRole)
    assert (
        faint is not None
        and form.regions.native.model.data(form.regions.native.model.index_of(549), Qt.ItemDataRole.ForegroundRole) is None
    )
    assert "No voxel" in form.regions.native.model.data(form.regions.native.model.index_of(min(empty)), Qt.ItemDataRole.ToolTipRole)
    form.select({min(empty)})
    settle(form, qtbot)
    assert form.selected == {min(empty)} and is_error(form) and "no voxel" in form.outlook.text()


def test_a_large_ontology_is_shown_at_once(form: RegionsForm, qtbot: QtBot) -> None:
    assert len(form.regions.native.model.keys) > 1000
    form.regions.native.search.clear()
    form.clear.setFocus()
    QApplication.processEvents()
    asked: list[object] = []
    data = type(form.regions.native.model).data

    def counting(model: Any, index: Any, role: Any = Qt.ItemDataRole.DisplayRole) -> Any:
        asked.append(index)
        return data(model, index, role)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(form.regions.native.model), "data", counting)
        form._on_labels()
        form.regions.native.tree.repaint()
    # Qt asks for some ten facts of each row that is seen, and for none of the others.
    assert asked and len(asked) < 5 * len(form.regions.native.model.keys)


def test_labels_without_a_table(
    viewer: napari.Viewer, form: RegionsForm, qtbot: QtBot, registered_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bare.h5"
    path.write_bytes(registered_file.read_bytes())
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(lambda name: names.append(name) if "LABELS" in name.upper() and "atlas" in name else None)
        del file[names[0]], file["LSFM_DIGESTS"]
    form.path.value = path
    settle(form, qtbot)
    assert form.regions.native.model.rowCount() == 0
    search(form, "382", qtbot)
    qtbot.keyClick(form.regions.native.search, Qt.Key.Key_Return)
    settle(form, qtbot)
    assert form.selected == {382} and "voxels" in form.outlook.text() and not is_error(form)
    assert "selected region" not in viewer.layers, "another file is shown"


def test_without_a_file_there_is_nothing_to_export(form: RegionsForm, viewer: napari.Viewer, qtbot: QtBot) -> None:
    form.select({549})
    form.margin_mm.native.setText("-1")
    settle(form, qtbot)
    assert form.outlook.text().startswith("margin: must be at least 0") and not form.button.isEnabled()
    form.margin_mm.native.setText("1e9")
    settle(form, qtbot)
    assert form.button.isEnabled() and viewer.layers["region box"].nshapes == 1, form.outlook.text()
    viewer.layers.clear()
    assert not form.button.isEnabled() and "Open a file" in form.outlook.text()


def test_closing_the_form_leaves_nothing_in_the_viewer(form: RegionsForm, viewer: napari.Viewer, qtbot: QtBot) -> None:
    layers, callbacks = list(viewer.layers), len(viewer.mouse_drag_callbacks)
    form.select({382})
    settle(form, qtbot)
    assert list(viewer.layers) != layers
    with qtbot.waitSignal(form.native.destroyed, timeout=10_000):
        viewer.window.remove_dock_widget(form.native)
    assert list(viewer.layers) == layers and len(viewer.mouse_drag_callbacks) == callbacks - 1
    viewer.theme = "light"
    del viewer.layers[0]
