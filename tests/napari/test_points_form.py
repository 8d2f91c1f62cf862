"""The form of points: what it says is what the core carries and counts."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pandas
import pytest
from napari._qt.qt_main_window import _QtMainWindow
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QScrollArea

from lsfm_core import PointsRequest, TransformStep, open_lsfm, transform_points, write_points
from lsfm_core.cli import main
from napari_lsfm._plain import plain_piece
from napari_lsfm._widgets.forms.points import PointsForm

from .conftest import copy_as

pytestmark = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)

CHAIN = ("signal_to_structural", "structural_to_template", "warp")


@pytest.fixture
def viewer(registered_viewer: napari.Viewer) -> napari.Viewer:
    return registered_viewer


@pytest.fixture
def form(viewer: napari.Viewer, qtbot: QtBot) -> PointsForm:
    return open_form(viewer, qtbot)


@pytest.fixture
def cells(registered_file: Path, tmp_path: Path) -> Path:
    """Cells in the voxels of cfos."""
    with open_lsfm(registered_file) as file:
        shape = np.array(file["cfos"].space.shape)
    path = tmp_path / "cells.csv"
    write_points(path, np.random.default_rng(0).uniform(0.3 * shape, 0.7 * shape, (200, 3)), {"kind": ["a", "b"] * 100})
    return path


@pytest.fixture
def other_windows(viewer: napari.Viewer) -> Iterator[list[napari.Viewer]]:
    """Those that the form opens; closed afterwards."""
    found: list[napari.Viewer] = []
    yield found
    for window in list(_QtMainWindow._instances):
        if window._qt_viewer.viewer is not viewer:
            window._qt_viewer.viewer.close()


def open_form(viewer: napari.Viewer, qtbot: QtBot) -> PointsForm:
    """As the menu opens it, and ready."""
    _, form = viewer.window.add_plugin_dock_widget("napari-lsfm", "Points")
    assert isinstance(form, PointsForm)
    form._soon.setInterval(0)
    settle(form, qtbot)
    return form


def settle(form: PointsForm, qtbot: QtBot) -> None:
    """Wait until the form has nothing more to say."""
    qtbot.waitUntil(lambda: not (form.path.native.is_busy or form.is_busy), timeout=60_000)


def carry(form: PointsForm, qtbot: QtBot) -> None:
    settle(form, qtbot)
    assert form.button.isEnabled(), form.outlook.text()
    form.button.click()
    settle(form, qtbot)


def is_error(form: PointsForm) -> bool:
    return "color" in form.outlook.styleSheet()


@pytest.mark.bindings
def test_a_layer_gets_its_regions(form: PointsForm, viewer: napari.Viewer, qtbot: QtBot, registered_file: Path) -> None:
    assert "Open cells" in form.outlook.text() and not form.button.isEnabled() and not is_error(form)
    with open_lsfm(registered_file) as file:
        space = file["autofluo"].space
    voxels = np.random.default_rng(1).uniform(0.3 * np.array(space.shape), 0.7 * np.array(space.shape), (50, 3))
    # napari's world is along A, I and R.
    native = space.to_world(voxels)[:, [1, 2, 0]] * (1, -1, 1)
    layer = viewer.add_points(native, name="drawn", units="mm", features={"score": np.arange(50)})
    assert form.points.value == layer
    form.channel.value, form.labels_channel.value = "autofluo", "atlas"
    carry(form, qtbot)
    result = transform_points(
        PointsRequest(path=registered_file, channel="autofluo", points=voxels, labels_channel="atlas", labels_in="native")
    )
    shown = viewer.layers["drawn [1]"]
    np.testing.assert_allclose([shown.data_to_world(point) for point in shown.data], native, atol=1e-6)
    assert result.region_ids is not None and shown.features["region_id"].tolist() == result.region_ids.tolist()
    assert shown.features["score"].tolist() == list(range(50))
    assert f"{np.count_nonzero(result.region_ids)} of them in" in form.panel.text
    # They are the file's now: saved in its voxels.
    viewer.layers.selection = {shown}
    target = registered_file.with_name("saved.csv")
    viewer.layers.save(str(target), selected=True, plugin="napari-lsfm")
    frame = pandas.read_csv(target)
    np.testing.assert_allclose(frame[["z", "y", "x"]], voxels, atol=1e-5)
    assert frame["region_id"].tolist() == result.region_ids.tolist()


@pytest.mark.bindings
def test_a_table_is_carried_through_a_chain_and_counted(
    form: PointsForm,
    viewer: napari.Viewer,
    qtbot: QtBot,
    registered_file: Path,
    cells: Path,
    tmp_path: Path,
    other_windows: list[napari.Viewer],
) -> None:
    form.points.value, form.channel.value = str(cells), "cfos"
    form.transforms.value = [TransformStep(name=name) for name in CHAIN]
    form.labels_channel.value, form.labels_in.value = "atlas", "signal_to_structural"
    form.output.value, form.counts.value = str(tmp_path / "form.csv"), str(tmp_path / "form_counts.csv")
    settle(form, qtbot)
    assert "200 points" in form.outlook.text(), form.outlook.text()
    program, *arguments = shlex.split(copy_as(form.copy, "Command line", qtbot))
    assert program == "lsfm-core", form.panel.text
    carry(form, qtbot)
    made = [(tmp_path / name).read_bytes() for name in ("form.csv", "form_counts.csv")]
    (other,) = [w._qt_viewer.viewer for w in _QtMainWindow._instances if w._qt_viewer.viewer is not viewer]
    table = pandas.read_csv(tmp_path / "form.csv")
    (points,) = other.layers
    ras = table[["R_mm", "A_mm", "S_mm"]].to_numpy()
    np.testing.assert_allclose(points.data, ras[:, [1, 2, 0]] * (1, -1, 1), atol=1e-5)
    assert points.features["kind"].tolist() == table["kind"].tolist()
    # As the command does that was copied.
    for name in ("form.csv", "form_counts.csv"):
        (tmp_path / name).unlink()
    assert main([*arguments, "--quiet"]) == 0
    assert [(tmp_path / name).read_bytes() for name in ("form.csv", "form_counts.csv")] == made


def test_points_in_voxels_of_another_layer(form: PointsForm, viewer: napari.Viewer, qtbot: QtBot, registered_file: Path) -> None:
    """As cellfinder leaves them: with the scale of what it worked on, but in a corner of the world."""
    image = viewer.layers["autofluo"]
    corners = [image.data_to_world((20, 30, 40)), image.data_to_world((60, 90, 120))]
    data, keywords, _ = plain_piece(image, 0, corners).lazy()
    plain = viewer.add_image(data, **{**keywords, "name": "piece"})
    found = np.array([[1, 2, 3], [10, 20, 30]])
    viewer.add_points(found, name="Detected", scale=plain.scale, metadata={"point_type": 2})
    form.points.value = viewer.layers["Detected"]
    assert form.voxels_of.value == plain
    form.channel.value = "autofluo"
    request = form.request()
    start = np.array(image.metadata["lsfm"]["box"])[:, 0]
    np.testing.assert_allclose(request.points, np.add(found, (20, 30, 40)) - start, atol=1e-6)
    form.voxels_of.value = None
    assert not np.allclose(form.request().points, request.points)


def test_what_is_wrong_is_said_in_the_form(form: PointsForm, viewer: napari.Viewer, qtbot: QtBot, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    form.points.value = str(tmp_path / "other.csv")
    settle(form, qtbot)
    assert is_error(form) and "expected columns" in form.outlook.text() and not form.button.isEnabled()
    viewer.add_points([[1.0, 2.0, 3.0]], name="few", units="mm")
    form.points.value = viewer.layers["few"]
    form.output.value = str(tmp_path / "points.doc")
    settle(form, qtbot)
    assert is_error(form) and ".csv" in form.outlook.text()
    form.output.value = None
    form.transforms.value = [TransformStep(name="nowhere")]
    settle(form, qtbot)
    assert is_error(form) and "nowhere" in form.outlook.text()
    form.transforms.value = []
    settle(form, qtbot)
    assert not is_error(form) and form.button.isEnabled()
    # A layer that goes is no longer asked for.
    viewer.layers.remove("few")
    settle(form, qtbot)
    assert not form.button.isEnabled() or form.points.value != "few"


def test_a_request_comes_out_as_it_went_in(
    form: PointsForm, qtbot: QtBot, registered_file: Path, cells: Path, tmp_path: Path
) -> None:
    request = PointsRequest(
        path=registered_file,
        channel="cfos",
        points=cells,
        columns=("z", "y", "x"),
        transforms=CHAIN[:1],
        target="output-voxel",
        reference="autofluo",
        labels_channel="atlas",
        labels_in="output",
        midline_mm=4.5,
        counts=tmp_path / "counts.csv",
        output=tmp_path / "out.csv",
        overwrite=True,
    )
    form(request)
    settle(form, qtbot)
    assert form.request() == request


def test_closing_the_form_leaves_nothing(form: PointsForm, viewer: napari.Viewer, qtbot: QtBot) -> None:
    root = form.native
    with qtbot.waitSignal(root.destroyed, timeout=10_000):
        viewer.window.remove_dock_widget(root)
    viewer.add_points(np.ones((1, 3)))
    viewer.layers.clear()


def test_all_can_be_reached_with_the_keyboard(form: PointsForm, viewer: napari.Viewer, qtbot: QtBot) -> None:
    viewer.add_points(np.ones((1, 3)), units="mm")
    form.labels_channel.value = "atlas"
    form.transforms.value = [TransformStep(name="inverse_warp")]
    settle(form, qtbot)
    root = form.native
    root.activateWindow()
    seen: list[Any] = []
    widget = form.points.native.focusProxy()
    while widget not in seen:
        seen.append(widget)
        widget = widget.nextInFocusChain()
        while not (widget.isVisible() and root.isAncestorOf(widget) and widget.focusPolicy().value & 1) and widget not in seen:
            widget = widget.nextInFocusChain()
    # What stands below all that scrolls comes last.
    content = root.findChild(QScrollArea).widget()
    rows = [part for part in seen if content.isAncestorOf(part)]
    tops = [part.mapTo(content, part.rect().topLeft()).y() for part in rows]
    assert form.button in seen
    # Reading order: nobody is sent up by more than a row, but at the end.
    ups = [(type(one), one.toolTip()) for a, b, one in zip(tops, tops[1:], rows, strict=False) if b < a - 12]
    assert len(ups) <= 1, ups
