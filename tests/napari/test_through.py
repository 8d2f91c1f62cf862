"""Channels shown through transforms, positions in every space, and windows that are linked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import napari
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from napari.settings import get_settings
from napari.utils.notifications import notification_manager
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QApplication

from lsfm_core import (
    ExportRequest,
    IngestRequest,
    InputError,
    LabelTable,
    MissingError,
    StorageError,
    UnknownRegionError,
    export_channel,
    ingest_channel,
    open_lsfm,
)
from lsfm_core.cli import main
from napari_lsfm import _linked
from napari_lsfm._linked import link, unlink
from napari_lsfm._positions import anchor_of, anchor_shown, describe, move_viewer, place_shown
from napari_lsfm._reader import read_layers
from napari_lsfm._through import add_view, open_view
from napari_lsfm._viewing import attend
from napari_lsfm._widgets.forms.position import PositionPanel
from napari_lsfm._widgets.forms.through import ThroughForm

from .conftest import ingest_volume

window = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)

#: What the atlas' R, A, S of a point have more than the image's.
MOVED_MM = (0.4, 0.5, -0.32)
ROWS = 60


@pytest.fixture
def brain(tmp_path: Path) -> Path:
    """An image with one bright voxel, and over it labels in the atlas' space, with ids that are shown under other numbers."""
    image = np.full((40, ROWS, 80), 100, np.uint16)
    image[20, 30, 50] = 60000
    labels = np.zeros((40, ROWS, 80), np.uint32)
    labels[15:25, 20:40, 40:60] = 700_000
    labels[:10, :10, :10] = 3
    path = ingest_volume(tmp_path / "brain.h5", "signal", image)
    (tmp_path / "labels.csv").write_text("id,acronym,name,r,g,b\n700000,TH,thalamus,250,0,0\n3,CB,cerebellum,0,250,0\n")
    # The labels' own grid begins in the atlas' world where the image's corner comes to lie.
    for name, matrix in (("to_atlas", -np.array(MOVED_MM)),):
        affine = np.eye(4)
        affine[:3, 3] = matrix
        np.savetxt(tmp_path / f"{name}.txt", affine)
        words = [f"--affine={tmp_path / f'{name}.txt'}", f"--name={name}", "--channel=signal", "--to=atlas", "--quiet"]
        assert main(["write-affine", str(path), *words]) == 0
    fields = {"voxel_size_mm": (0.05, 0.04, 0.04), "orientation": "AIR", "origin_mm": MOVED_MM, "space": "atlas"}
    ingest_channel(
        IngestRequest(path=path, channel="regions", kind="labels", image=labels, labels=tmp_path / "labels.csv", **fields)
    )
    return path


def request_for(path: Path, **fields: Any) -> ExportRequest:
    return ExportRequest(path=path, channel=fields.pop("channel", "signal"), **({"to_space": "atlas"} | fields))


def shown(viewer: ViewerModel, path: Path, **fields: Any) -> Any:
    request = request_for(path, **fields)
    return add_view(viewer, *open_view(request), request.to_space)[0]


def finest(layer: Any) -> Any:
    return layer.data[0] if layer.multiscale else layer.data


# --- layers ---------------------------------------------------------------------------------------------------------------------


def test_a_view_lies_where_the_atlas_has_it(brain: Path) -> None:
    viewer = ViewerModel()
    layer = shown(viewer, brain, reference="regions")
    volume = export_channel(request_for(brain, reference="regions")).volume
    assert volume is not None
    # The bright voxel, in napari's axes A, I, R: the atlas' mm turned.
    (bright,) = np.argwhere(np.asarray(finest(layer)) == 60000)
    right, anterior, superior = np.array([50 * 0.04, 20 * 0.05, (ROWS - 1 - 30) * 0.04]) + MOVED_MM
    np.testing.assert_allclose(layer.data_to_world(bright), (anterior, -superior, right), atol=1e-6)
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 3
    assert np.asarray(finest(layer)).sum() == volume.array.sum(dtype=np.int64)
    about = layer.metadata["lsfm"]
    # The voxels are not the channel's: nobody may take their numbers for its.
    assert "path" not in about and "channel" not in about
    told = {name: about["view"][name] for name in ("path", "channel", "through", "space")}
    assert told == {"path": str(brain), "channel": "signal", "through": ["to_atlas"], "space": "atlas"}


def test_labels_keep_their_colours_and_names(brain: Path) -> None:
    viewer = ViewerModel()
    attend(viewer)
    layer = shown(viewer, brain, channel="regions", to_space="signal", reference="signal")
    assert isinstance(layer, Labels) and not layer.editable
    number = int(np.asarray(finest(layer))[20, 30, 50])
    about = layer.metadata["lsfm"]
    assert about["ids"][number] == 700_000
    row = layer.features.set_index("index").loc[number]
    assert (row["region"], row["id"]) == ("TH: thalamus", 700_000)
    np.testing.assert_allclose(layer.colormap.map(np.array([number], np.uint16))[0], (250 / 255, 0, 0, 1), atol=1e-6)
    with open_lsfm(brain) as file:
        assert about["table"] == LabelTable.from_json(file.label_table("regions"))


def test_several_specimens_lie_over_each_other_whatever_way_they_were_stored(brain: Path, tmp_path: Path) -> None:
    """The second one is stored with other axes, and in a pose of its own."""
    turned = np.full((80, 40, ROWS), 100, np.uint16)  # planes to R, rows to A, columns to I
    turned[50, 20, 30] = 50000
    other = ingest_volume(tmp_path / "other.h5", "cfos", turned, (0.04, 0.05, 0.04), "RAI")
    np.savetxt(tmp_path / "away.txt", np.array([[1, 0, 0, -0.4], [0, 1, 0, -0.5], [0, 0, 1, 0.32], [0, 0, 0, 1]]))
    words = [f"--affine={tmp_path / 'away.txt'}", "--name=mine", "--channel=cfos", "--to=atlas", "--quiet"]
    assert main(["write-affine", str(other), *words]) == 0
    viewer = ViewerModel()
    attend(viewer)
    first = shown(viewer, brain)
    second = shown(viewer, other, channel="cfos")
    places = [layer.data_to_world(np.argwhere(np.asarray(finest(layer)) > 40000)[0]) for layer in (first, second)]
    np.testing.assert_allclose(places[0], places[1], atol=1e-6)
    assert first.metadata["lsfm"]["axcodes"] == second.metadata["lsfm"]["axcodes"]


# --- what cannot be read --------------------------------------------------------------------------------------------------------


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., napari.Viewer], npe2pm: Any) -> Iterator[napari.Viewer]:
    """A shown window with our plugin as the only one."""
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        viewer = make_napari_viewer(show=True)
        viewer.window.resize(1200, 800)
        attend(viewer)
        yield viewer


@window
@pytest.mark.parametrize("in_background", [False, True])
def test_what_cannot_be_read_is_told_and_not_thrown(
    in_background: bool, viewer: napari.Viewer, brain: Path, qtbot: QtBot, cache: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    notification_manager.notification_ready.connect(lambda notification: told.append(notification.message))
    get_settings().experimental.async_ = in_background
    try:
        layer = shown(viewer, brain, reference="regions")
        qtbot.waitUntil(lambda: layer.loaded, timeout=20000)
        cache.max_bytes = 0
        with cache.limited(0):
            pass
        image = np.full((40, ROWS, 80), 5, np.uint16)
        ingest_channel(
            IngestRequest(
                path=brain, channel="signal", image=image, voxel_size_mm=(0.05, 0.04, 0.04), orientation="AIR", replace=True
            )
        )
        viewer.dims.set_current_step(0, 3)
        qtbot.waitUntil(lambda: any("open the file again" in text for text in told), timeout=20000)
        qtbot.waitUntil(lambda: layer.loaded, timeout=20000)
        status = layer.get_status(layer.data_to_world((3, 5, 5)), world=True)["coordinates"]
        assert "cannot be shown here" in status and "open the file again" in status
        # Whoever reads by himself gets the error, not zeros.
        with pytest.raises(Exception, match="open the file again"):
            np.asarray(finest(layer)[3])
        assert "Traceback" not in "".join(capsys.readouterr())
    finally:
        get_settings().experimental.async_ = False


@window
def test_planes_are_computed_beside_the_window(viewer: napari.Viewer, brain: Path, qtbot: QtBot) -> None:
    get_settings().experimental.async_ = True
    try:
        layer = shown(viewer, brain, reference="regions")
        viewer.dims.set_current_step(0, 20)
        qtbot.waitUntil(lambda: layer.loaded and bool((np.asarray(layer._data_view) == 60000).any()), timeout=20000)
    finally:
        get_settings().experimental.async_ = False


def test_what_cannot_be_read_from_the_beginning_is_not_shown(brain: Path, cache: Any) -> None:
    file, view = open_view(request_for(brain, channel="regions", to_space="signal", reference="signal"))
    labels = np.full((40, ROWS, 80), 5, np.uint32)
    place: dict[str, Any] = {"voxel_size_mm": (0.05, 0.04, 0.04), "orientation": "AIR", "kind": "labels"}
    ingest_channel(IngestRequest(path=brain, channel="regions", image=labels, replace=True, **place))
    viewer = ViewerModel()
    # The form says it.
    with pytest.raises(StorageError, match="open the file again"):
        add_view(viewer, file, view, "signal")
    assert not viewer.layers


# --- the form -------------------------------------------------------------------------------------------------------------------


@window
def test_the_form_shows_a_channel_by_the_name_of_a_space(viewer: napari.Viewer, brain: Path, qtbot: QtBot) -> None:
    viewer.open(brain, plugin="napari-lsfm")
    viewer.layers.selection.active = viewer.layers["signal"]
    _, form = viewer.window.add_plugin_dock_widget("napari-lsfm", "Show in another space")
    assert isinstance(form, ThroughForm)
    qtbot.waitUntil(form.button.isEnabled, timeout=20000)
    assert form.channel.value == "signal" and form.to_space.value == "atlas"
    assert "planes are computed when they are looked at" in form.outlook.text()
    form.window.value = viewer
    form.go()
    qtbot.waitUntil(lambda: "signal in atlas" in viewer.layers, timeout=20000)
    form.reference.value = "nowhere.nii"
    qtbot.waitUntil(lambda: "there is no such file" in form.outlook.text(), timeout=20000)
    assert not form.button.isEnabled()
    qtbot.waitUntil(lambda: not form.is_busy, timeout=20000)


@window
def test_other_forms_offer_it(viewer: napari.Viewer, brain: Path, qtbot: QtBot) -> None:
    viewer.open(brain, plugin="napari-lsfm")
    _, export = viewer.window.add_plugin_dock_widget("napari-lsfm", "Export")
    export(request_for(brain, channel="regions", to_space="signal", reference="signal", resolution_mm=0.1))
    qtbot.waitUntil(export.button.isEnabled, timeout=20000)
    export.look.click()
    form = next(viewer.window.dock_widgets[name] for name in viewer.window.dock_widgets if name.startswith("Show in another"))
    qtbot.waitUntil(form.button.isEnabled, timeout=20000)
    assert (form.channel.value, form.reference.value, form.resolution_mm.value) == ("regions", "signal", 0.1)
    assert [step.name for step in form.transforms.value] == ["to_atlas"] and form.transforms.value[0].invert
    form.window.value = viewer
    form.go()
    qtbot.waitUntil(lambda: any("regions in" in layer.name for layer in viewer.layers), timeout=20000)
    qtbot.waitUntil(lambda: not form.is_busy and not export.is_busy, timeout=20000)


def test_what_changed_in_the_file_is_heeded_by_places_but_not_by_what_is_seen(brain: Path, tmp_path: Path) -> None:
    viewer = ViewerModel()
    attend(viewer)
    layer = shown(viewer, brain, reference="regions")
    bright = layer.data_to_world(np.argwhere(np.asarray(finest(layer)) == 60000)[0])
    anchor = anchor_of(layer)
    assert anchor is not None
    assert describe(anchor, bright)["voxel"] == "20,30,50"
    np.savetxt(tmp_path / "other.txt", np.diag([2, 2, 2, 1]))
    words = ["--channel=signal", "--name=to_atlas", f"--affine={tmp_path / 'other.txt'}", "--to=atlas", "--replace", "--quiet"]
    assert main(["write-affine", str(brain), *words]) == 0
    # The layer was opened before, and still shows the brain through what was there.
    assert describe(anchor, bright)["voxel"] == "20,30,50"
    brain.unlink()
    with pytest.raises(MissingError, match="cannot be read any more"):
        describe(anchor, bright)
    # The status bar tells what it can.
    assert layer.get_status(bright, world=True)["coordinates"]


# --- positions ------------------------------------------------------------------------------------------------------------------


def native_layers(viewer: ViewerModel, path: Path) -> None:
    for data, keywords, kind in read_layers(path):
        getattr(viewer, f"add_{kind}")(data, **keywords)


@pytest.mark.parametrize("where", ["native", "atlas"])
def test_a_point_is_told_in_every_space(where: str, brain: Path) -> None:
    viewer = ViewerModel()
    attend(viewer)
    if where == "native":
        native_layers(viewer, brain)
        layer = viewer.layers["signal"]
        point = layer.data_to_world((20, 30, 50))
    else:
        layer = shown(viewer, brain, reference="regions")
        point = layer.data_to_world(np.argwhere(np.asarray(finest(layer)) == 60000)[0])
    anchor = anchor_of(layer)
    assert anchor is not None and anchor.channel == "signal"
    words = describe(anchor, point)
    own = np.array([50 * 0.04, 20 * 0.05, (ROWS - 1 - 30) * 0.04])
    assert words["voxel"] == "20,30,50"
    assert words["native"] == ",".join(f"{value:.3f}" for value in own)
    assert (words["space"], words["there"]) == ("atlas", ",".join(f"{value:.3f}" for value in own + MOVED_MM))
    assert words["region"] == "TH: thalamus"
    status = layer.get_status(point, world=True)["coordinates"]
    assert "voxel 20,30,50 of signal" in status and status.endswith("TH: thalamus")


def test_a_layer_that_was_moved_tells_no_places(brain: Path) -> None:
    viewer = ViewerModel()
    attend(viewer)
    native_layers(viewer, brain)
    layer = viewer.layers["signal"]
    layer.translate = np.add(layer.translate, 1)
    assert anchor_of(layer) is None


@window
def test_the_panel_tells_copies_and_goes(viewer: napari.Viewer, brain: Path, qtbot: QtBot) -> None:
    viewer.open(brain, plugin="napari-lsfm")
    viewer.layers.selection.active = signal = viewer.layers["signal"]
    _, panel = viewer.window.add_plugin_dock_widget("napari-lsfm", "Position")
    assert isinstance(panel, PositionPanel)
    panel.look(signal.data_to_world((20, 30, 50)))
    qtbot.waitUntil(lambda: panel.region.value == "TH: thalamus", timeout=20000)
    assert panel.voxel.value == "20,30,50" and panel.other.value == "atlas"
    panel.copied.value = "there"
    panel.copy.changed.emit(True)
    assert QApplication.clipboard().text() == "2.400,1.500,0.840"

    # A click with Alt does both at once, one without does nothing.
    panel.copied.value = "all"
    everything = "Voxel 3,4,5; mm 0.200,0.150,2.200; mm there 0.600,0.650,1.880; Region CB: cerebellum"
    for modifiers, text in (((), "2.400,1.500,0.840"), (("Alt",), everything)):
        event = SimpleNamespace(modifiers=modifiers, position=signal.data_to_world((3, 4, 5)))
        for clicked in [slot for slot in viewer.mouse_drag_callbacks if getattr(slot, "__self__", None) is panel]:
            clicked(viewer, event)
        assert QApplication.clipboard().text() == text

    def there() -> Any:
        return np.rint(signal.world_to_data(place_shown(viewer))).astype(int).tolist()

    for kind, text, voxel in (
        ("voxel", "3, 50 7", [3, 50, 7]),
        ("native_mm", "2,1,1.16", [20, 30, 50]),
        ("there", "0.4,0.5,-0.32", [0, 59, 0]),
        ("region", "thalamus", None),
    ):
        panel.kind.value, panel.place.value = kind, text
        panel.place.native.returnPressed.emit()
        if voxel is not None:
            assert there() == voxel, kind
        else:
            a, b, c = there()
            assert 15 <= a < 25 and 20 <= b < 40 and 40 <= c < 60
    for kind, text, error, words in (
        ("voxel", "3,4", InputError, "three numbers"),
        ("region", "no such thing", UnknownRegionError, "no such thing"),
    ):
        with pytest.raises(error, match=words):
            panel.go(kind, text)


# --- linked windows -------------------------------------------------------------------------------------------------------------


def test_two_viewers_show_the_same_place(brain: Path) -> None:
    first, second = ViewerModel(title="native"), ViewerModel(title="atlas")
    for viewer in (first, second):
        attend(viewer)
    native_layers(first, brain)
    shown(second, brain, reference="regions")
    first.layers.selection.active = first.layers["signal"]
    move_viewer(first, first.layers["signal"].data_to_world((10, 20, 30)))
    assert link(first, second) == "linked with the first window"

    def place(viewer: ViewerModel) -> Any:
        anchor = anchor_shown(viewer)
        assert anchor is not None
        return anchor.to_ras(place_shown(viewer))

    np.testing.assert_allclose(place(second) - place(first), MOVED_MM, atol=1e-6)
    move_viewer(first, first.layers["signal"].data_to_world((20, 30, 50)))
    np.testing.assert_allclose(place(second), np.array([2.0, 1.0, 1.16]) + MOVED_MM, atol=1e-6)
    # And the other way.
    second.dims.set_point(0, second.dims.point[0] + 0.25)
    np.testing.assert_allclose(place(second) - place(first), MOVED_MM, atol=1e-6)
    # The mouse in one is a cross in the other.
    second.layers.selection.active = second.layers[0]
    for moved in first.mouse_move_callbacks:
        moved(first, SimpleNamespace(position=first.layers["signal"].data_to_world((25, 30, 50))))
    anchor = anchor_shown(second)
    assert anchor is not None
    cross = second.layers["linked cursor"]
    np.testing.assert_allclose(anchor.to_ras(cross.data[0]), np.array([2.0, 1.25, 1.16]) + MOVED_MM, atol=1e-6)
    assert second.layers.selection.active is second.layers[0]
    unlink(second)
    assert "linked cursor" not in second.layers
    before = place(first)
    second.dims.set_point(0, second.dims.point[0] + 0.25)
    np.testing.assert_array_equal(place(first), before)
    assert not _linked._links


def test_viewers_of_other_brains_are_not_linked(brain: Path, tmp_path: Path) -> None:
    other = ingest_volume(tmp_path / "other.h5", "cfos", np.ones((9, 9, 9), np.uint16))
    first, second, empty = ViewerModel(), ViewerModel(), ViewerModel(title="nothing")
    native_layers(first, brain)
    native_layers(second, other)
    with pytest.raises(InputError, match="different specimens"):
        link(first, second)
    with pytest.raises(InputError, match="shows nothing"):
        link(first, empty)
    assert not _linked._links
