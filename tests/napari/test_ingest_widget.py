"""The ingest form in a real window: what it finds, says and refuses, and the file and layers that come of it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari
import nibabel as nib
import numpy as np
import pytest
import tifffile
import yaml
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication, QScrollArea

from lsfm_core import CancelToken, IngestRequest, InputError, Orientation, ingest_channel, open_lsfm, plan_ingest
from lsfm_core.testing import write_series
from napari_lsfm._reader import present_layers
from napari_lsfm._widgets.fields import OrientationEdit, edge_letters, phantom_slices
from napari_lsfm._widgets.forms import _ingest_work
from napari_lsfm._widgets.forms.ingest import IngestForm
from napari_lsfm._words import ERROR_STYLE, WARNING_STYLE
from napari_lsfm._workers import in_words

from .conftest import VOXEL_SIZE_MM, Specimen, copy_as, edit_of, ingest_volume

pytestmark = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)

TIMEOUT_MS = 20_000
ALL_CODES = ["".join(axcodes) for axcodes in ("RAS", "LPS", "AIR", "PIR", "SRA", "ILP", "ARI", "PSL")]


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., napari.Viewer]) -> napari.Viewer:
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 800)
    return viewer


@pytest.fixture
def form(viewer: napari.Viewer) -> Iterator[IngestForm]:
    """The form in its dock."""
    form = IngestForm(viewer)
    viewer.window.add_dock_widget(form, area="right", name="Import an image")
    return form


@pytest.fixture(scope="session")
def small(specimen: Specimen) -> np.ndarray[Any, Any]:
    """A piece of the specimen that differs in every direction."""
    return np.ascontiguousarray(specimen.volume[30:60, 60:130, 90:190])


@pytest.fixture(scope="session")
def series(small: np.ndarray[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_series(tmp_path_factory.mktemp("series") / "planes", small)


@pytest.fixture(scope="session")
def long_series(specimen: Specimen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that takes several steps."""
    return write_series(tmp_path_factory.mktemp("long series") / "planes", specimen.volume)


def type_into(qtbot: QtBot, field: Any, text: str) -> None:
    """As a person does it: what stood there gives way."""
    field = edit_of(field)
    field.setFocus()
    field.selectAll()
    qtbot.keyClicks(field, text) if text else qtbot.keyClick(field, Qt.Key.Key_Delete)


def fill_in(qtbot: QtBot, form: IngestForm, series: Path, target: Path, channel: str = "autofluo") -> None:
    """All that a TIFF series needs."""
    type_into(qtbot, form.image, str(series))
    for edit, text in zip(form.voxel_size_mm.edits, ("50 um", "0.04", "40µm"), strict=True):
        type_into(qtbot, edit, text)
    type_into(qtbot, form.orientation.native.toward, "air")
    type_into(qtbot, form.path, str(target))
    type_into(qtbot, form.channel, channel)


def expect(qtbot: QtBot, form: IngestForm, words: str) -> None:
    """Wait until the form says something of what will come."""
    qtbot.waitUntil(lambda: words in form.outlook.text(), timeout=TIMEOUT_MS)


def drop(form: IngestForm, *paths: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    buttons, keys = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    QApplication.sendEvent(form.native, QDragEnterEvent(QPoint(9, 9), Qt.DropAction.CopyAction, data, buttons, keys))
    QApplication.sendEvent(form.native, QDropEvent(QPointF(9, 9), Qt.DropAction.CopyAction, data, buttons, keys))


def ingest(qtbot: QtBot, form: IngestForm) -> None:
    qtbot.waitUntil(form.button.isEnabled, timeout=TIMEOUT_MS)
    qtbot.mouseClick(form.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not form.panel.is_busy, timeout=TIMEOUT_MS)


def show(viewer: Any, path: Path, **looks: Any) -> None:
    for data, keywords, _ in present_layers(path):
        viewer.add_image(data, **keywords | looks)


def voxels(layer: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Without the padding."""
    data = layer.data[0] if layer.multiscale else layer.data
    return np.asarray(data)[tuple(slice(n) for n in shape)]


# --- the happy ways -------------------------------------------------------------------------------------------------------------


def test_series_into_a_new_file(qtbot: QtBot, viewer: Any, form: IngestForm, series: Path, small: Any, tmp_path: Path) -> None:
    target = tmp_path / "it's new.h5"
    type_into(qtbot, form.image, str(series))
    qtbot.waitUntil(lambda: form.thumbnail.image is not None, timeout=TIMEOUT_MS)
    assert "TIFF series, 30 planes" in form.facts.text() and "30 x 70 x 100 voxels" in form.facts.text()
    assert "voxel size not known" in form.facts.text() and "orientation not known" in form.facts.text()
    expect(qtbot, form, "Still to be given: voxel size, orientation, target file, name of the channel.")
    assert np.corrcoef(form.thumbnail.image.ravel(), small[15].ravel())[0, 1] > 0.98
    assert not form.button.isEnabled()
    fill_in(qtbot, form, series, target)
    qtbot.waitUntil(form.button.isEnabled, timeout=TIMEOUT_MS)
    plan = plan_ingest(form.request())
    assert form.outlook.text().startswith(f"Makes it's new.h5 with channel 'autofluo': {len(plan.levels)} level")
    assert f"{plan.raw_bytes / 1e3:.0f} kB" in form.outlook.text()
    assert f"{plan.memory.peak_bytes / 1e6:.0f} MB of memory" in form.outlook.text()
    assert not form.doubts.isVisible()
    assert "1.5 x 2.8 x 4 mm" in form.facts.text()
    assert form.thumbnail.letters == ("L", "R", "S", "I")
    area = form.native.findChild(QScrollArea)
    assert area.widget().width() <= area.viewport().width(), "nothing is cut off at the right"
    request = form.request()
    expected = IngestRequest(path=target, channel="autofluo", image=str(series), voxel_size_mm=VOXEL_SIZE_MM, orientation="AIR")
    assert request == expected
    ingest(qtbot, form)
    assert form.panel.text.startswith("Channel 'autofluo' written")
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=TIMEOUT_MS)
    np.testing.assert_array_equal(voxels(viewer.layers["autofluo"], small.shape), small)
    # The form says so, and asks for nothing before another channel is begun.
    expect(qtbot, form, f"Done: {target} holds channel 'autofluo'.")
    assert WARNING_STYLE not in form.outlook.styleSheet() and ERROR_STYLE not in form.outlook.styleSheet()
    assert not any(edit_of(field).styleSheet() for field in (form.image, form.path, form.channel)) and not form.button.isEnabled()
    type_into(qtbot, form.channel, "second")
    expect(qtbot, form, "Adds channel 'second'")
    type_into(qtbot, form.channel, "")
    expect(qtbot, form, "Still to be given: name of the channel")
    other = tmp_path / "core.h5"
    ingest_channel(expected.model_copy(update={"path": other}))
    with open_lsfm(target) as ours, open_lsfm(other) as cores:
        np.testing.assert_array_equal(ours["autofluo"].space.world_from_voxel, cores["autofluo"].space.world_from_voxel)
        for a, b in zip(ours["autofluo"].levels, cores["autofluo"].levels, strict=True):
            np.testing.assert_array_equal(np.asarray(a.data), np.asarray(b.data))


def test_second_channel_of_a_file_that_is_shown(
    qtbot: QtBot, viewer: Any, form: IngestForm, series: Path, small: Any, tmp_path: Path
) -> None:
    target = ingest_volume(tmp_path / "brain.h5", "first", small)
    show(viewer, target, colormap="magma", opacity=0.5)
    viewer.dims.set_current_step(0, 7)
    viewer.scene.camera.zoom = 123
    viewer.scene.camera.center = (0, 0.5, 0.25)
    fill_in(qtbot, form, series, target, "second")
    qtbot.waitUntil(lambda: form.holds.text() == "first", timeout=TIMEOUT_MS)
    ingest(qtbot, form)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=TIMEOUT_MS)
    assert [layer.name for layer in viewer.layers] == ["first", "second"]
    first = viewer.layers["first"]
    assert (first.colormap.name, first.opacity) == ("magma", 0.5)
    assert viewer.dims.current_step[0] == 7
    assert viewer.scene.camera.zoom == pytest.approx(123)
    assert viewer.scene.camera.center[1:] == pytest.approx((0.5, 0.25))
    np.testing.assert_array_equal(voxels(first, small.shape), small)
    np.testing.assert_array_equal(voxels(viewer.layers["second"], small.shape), small)


def test_labels_with_a_table_that_tell_where_they_lie(qtbot: QtBot, viewer: Any, form: IngestForm, tmp_path: Path) -> None:
    ids = np.arange(6 * 8 * 10, dtype=np.uint16).reshape(6, 8, 10) % 5
    image = tmp_path / "atlas.nii.gz"
    nib.save(nib.Nifti1Image(ids, np.diag([-0.1, 0.2, 0.3, 1])), image)
    table, target = tmp_path / "table.csv", tmp_path / "brain.h5"
    table.write_text("id,name,acronym\n1,cortex,CTX\n2,thalamus,TH\n3,midbrain,MB\n4,pons,P\n")
    assert not form.labels.native.isVisible()
    form.kind.native.setFocus()
    qtbot.keyClicks(form.kind.native, "labels")
    type_into(qtbot, form.image, str(image))
    type_into(qtbot, form.labels, str(table))
    type_into(qtbot, form.path, str(target))
    type_into(qtbot, form.channel, "atlas")
    qtbot.waitUntil(form.button.isEnabled, timeout=TIMEOUT_MS)
    assert form.orientation.native.toward.text() == "SAL" and form.voxel_size_mm.texts == ["0.3", "0.2", "0.1"]
    assert form.request().voxel_size_mm is None and form.request().orientation is None
    ingest(qtbot, form)
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=TIMEOUT_MS)
    np.testing.assert_array_equal(voxels(viewer.layers["atlas"], ids.T.shape), ids.T)
    with open_lsfm(target) as file:
        assert "thalamus" in file.label_table("atlas")


def test_layer_is_ingested_with_its_scale(qtbot: QtBot, viewer: Any, form: IngestForm, small: Any, tmp_path: Path) -> None:
    for edit in form.voxel_size_mm.edits:
        type_into(qtbot, edit, "7")
    viewer.add_image(small, scale=(5, 4, 4.5), units=("um",) * 3, name="mine")
    form.layer.native.setFocus()
    qtbot.keyClicks(form.layer.native, "layer mine")
    type_into(qtbot, form.orientation.native.origin, "psl")
    type_into(qtbot, form.path, str(tmp_path / "brain.h5"))
    type_into(qtbot, form.channel, "mine too")
    qtbot.waitUntil(form.button.isEnabled, timeout=TIMEOUT_MS)
    assert not form.image.native.isVisible()
    assert form.request().voxel_size_mm == (0.005, 0.004, 0.0045)
    for title in ("Command line", "Recipe entry"):
        form.panel.say("")
        copy_as(form.copy, title, qtbot)
        assert "commands and recipes read files" in form.panel.text
    ingest(qtbot, form)
    with open_lsfm(tmp_path / "brain.h5") as file:
        np.testing.assert_array_equal(np.asarray(file["mine too"].levels[0].data), small)
        assert file["mine too"].orientation == Orientation("AIR")


def test_displacement_field_with_its_inverse(qtbot: QtBot, viewer: Any, form: IngestForm, tmp_path: Path) -> None:
    field = nib.Nifti1Image(np.zeros((5, 6, 7, 1, 3), np.float32), np.diag([0.1, 0.1, 0.1, 1]))
    field.header.set_intent(1007)
    image, target = tmp_path / "warp.nii.gz", tmp_path / "brain.h5"
    nib.save(field, image)
    ingest_channel(IngestRequest(path=target, channel="back", image=str(image), kind="vectors"))
    assert not form.inverse_of.native.isVisible()
    form.kind.value = "vectors"
    type_into(qtbot, form.image, str(image))
    type_into(qtbot, form.path, str(target))
    type_into(qtbot, form.channel, "warp")
    qtbot.waitUntil(lambda: form.inverse_of.choices == [None, "back"], timeout=TIMEOUT_MS)
    form.inverse_of.native.setFocus()
    qtbot.keyClicks(form.inverse_of.native, "back")
    ingest(qtbot, form)
    assert "not shown" in form.panel.text
    assert not viewer.layers
    with open_lsfm(target) as file:
        assert file["warp"].partner == "back"


def test_what_the_vectors_say_can_be_told(qtbot: QtBot, form: IngestForm, tmp_path: Path) -> None:
    vectors = np.broadcast_to(np.array([0.1, 0.2, 0.3], np.float32), (5, 6, 7, 1, 3))
    field = nib.Nifti1Image(vectors, np.diag([0.1, 0.1, 0.1, 1]))
    field.header.set_intent(1007)
    nib.save(field, tmp_path / "warp.nii.gz")
    assert not form.field_convention.native.isVisible()
    form.kind.value = "vectors"
    type_into(qtbot, form.image, str(tmp_path / "warp.nii.gz"))
    type_into(qtbot, form.path, str(tmp_path / "brain.h5"))
    type_into(qtbot, form.channel, "warp")
    form.field_convention.value = "ras-displacement"
    ingest(qtbot, form)
    with open_lsfm(tmp_path / "brain.h5") as file:
        # As they stand, and not with R and A turned round as those of ITK.
        np.testing.assert_array_equal(np.asarray(file["warp"].levels[0].data)[0, 0, 0], vectors[0, 0, 0, 0])


def test_planes_that_were_saved_as_time_points(qtbot: QtBot, form: IngestForm, small: Any, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.ome.tif", small, metadata={"axes": "TYX"})
    fill_in(qtbot, form, tmp_path / "stack.ome.tif", tmp_path / "brain.h5")
    assert form.planes_are.native.isVisible()
    form.planes_are.native.setFocus()
    qtbot.keyClicks(form.planes_are.native, "time points")
    ingest(qtbot, form)
    with open_lsfm(tmp_path / "brain.h5") as file:
        np.testing.assert_array_equal(np.asarray(next(iter(file.channels.values())).levels[0].data), small)


def test_errors_name_fields_as_the_form_does() -> None:
    said = in_words(InputError("voxel_size_mm: -1 is no length; field_convention (margin_mm): /a/voxel_size_mm.tif"))
    assert said == "voxel size: -1 is no length; field convention (margin): /a/voxel_size_mm.tif"


@pytest.mark.bindings
def test_copied_command_does_the_same(qtbot: QtBot, form: IngestForm, series: Path, small: Any, tmp_path: Path) -> None:
    fill_in(qtbot, form, series, tmp_path / "it's a brain.h5")
    entry = yaml.safe_load(copy_as(form.copy, "Recipe entry", qtbot))
    assert IngestRequest(path=form.path.edit.text(), **entry[0]["write"]) == form.request()
    words = shlex.split(copy_as(form.copy, "Command line", qtbot))
    assert words[:2] == ["lsfm-core", "write"]
    subprocess.run([sys.executable, "-m", "lsfm_core.cli", *words[1:], "--quiet"], check=True)
    with open_lsfm(tmp_path / "it's a brain.h5") as file:
        np.testing.assert_array_equal(np.asarray(file["autofluo"].levels[0].data), small)


@pytest.mark.bindings
def test_a_relative_path_shows_its_folder(
    qtbot: QtBot, form: IngestForm, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill_in(qtbot, form, series, Path("brain.h5"))
    expect(qtbot, form, str(tmp_path / "brain.h5"))
    assert str(tmp_path / "brain.h5") in form.path.edit.toolTip() and "The HDF5 file" in form.path.edit.toolTip()
    type_into(qtbot, form.path, "")
    assert str(tmp_path) not in form.path.edit.toolTip()


def test_what_is_dropped_is_taken(form: IngestForm, series: Path, tmp_path: Path) -> None:
    planes = sorted(series.iterdir())[:2]
    drop(form, *planes)
    assert "2 files were dropped, and none was taken" in form.panel.text
    assert not form.image.edit.text()
    drop(form, series, tmp_path / "brain.h5")
    assert form.image.edit.text() == str(series)
    assert form.path.edit.text() == str(tmp_path / "brain.h5")
    drop(form, planes[0])
    assert form.image.edit.text() == str(planes[0])


# --- what is wrong --------------------------------------------------------------------------------------------------------------


def test_gap_in_a_series_is_told_in_the_form(qtbot: QtBot, form: IngestForm, small: Any, tmp_path: Path) -> None:
    series = write_series(tmp_path / "planes", small[:6])
    (series / "plane_0003.tif").unlink()
    fill_in(qtbot, form, series, tmp_path / "brain.h5")
    qtbot.waitUntil(lambda: "1 plane(s) missing" in form.facts.text(), timeout=TIMEOUT_MS)
    assert "e5534b" in form.facts.styleSheet()
    expect(qtbot, form, "cannot be used")
    assert not form.button.isEnabled()


def test_wrong_fields_are_told_in_the_form(qtbot: QtBot, form: IngestForm, series: Path, specimen_file: Path) -> None:
    fill_in(qtbot, form, series, specimen_file, "second")
    qtbot.waitUntil(lambda: form.button.isEnabled() and form.holds.text() == "autofluo", timeout=TIMEOUT_MS)
    for field, text, message in (
        (form.voxel_size_mm.edits[1], "forty", "expected three numbers"),
        (form.voxel_size_mm.edits[1], "-4", "greater than 0"),
        (form.voxel_size_mm.edits[1], "", "expected three numbers"),
        (form.orientation.native.toward, "AAR", "one body axis twice"),
        (form.orientation.native.toward, "AI", "three letters"),
        (form.origin_mm.edits[0], "1", "origin"),
        (form.memory_bytes, "much", "no number"),
        (form.memory_bytes, "-1", "memory: must be more than 0"),
        (form.memory_bytes, "0.0001", "raise the memory"),
        (form.memory_bytes, "1e400", "no number to count with"),
        (form.threads, "1.5", "no whole number"),
        (form.channel, "a/b", "channel"),
        (form.channel, "autofluo", "channel 'autofluo' exists already"),
        (form.channel, "", "Still to be given: name of the channel"),
    ):
        before = edit_of(field).text()
        type_into(qtbot, field, text)
        expect(qtbot, form, message)
        assert not form.button.isEnabled()
        type_into(qtbot, field, before)
        qtbot.waitUntil(form.button.isEnabled, timeout=TIMEOUT_MS)
        assert form.outlook.text().startswith(f"Adds channel 'second' to {specimen_file.name}: ")
    type_into(qtbot, form.channel, "autofluo")
    form.replace.native.setFocus()
    qtbot.keyClick(form.replace.native, Qt.Key.Key_Space)
    expect(qtbot, form, "Replaces channel 'autofluo' of")
    assert form.button.isEnabled() and form.request().replace
    # What is no error, but should be looked at, stands there in orange.
    type_into(qtbot, form.orientation.native.toward, "ail")
    qtbot.waitUntil(form.doubts.isVisible, timeout=TIMEOUT_MS)
    assert "mirror" in form.doubts.text() and "c77d0a" in form.doubts.styleSheet()
    assert form.button.isEnabled()


def test_a_wrong_target_is_told_beforehand(qtbot: QtBot, form: IngestForm, series: Path, tmp_path: Path) -> None:
    picture, folder, nowhere = tmp_path / "picture.png", tmp_path / "folder", tmp_path / "nowhere" / "brain.h5"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    folder.mkdir()
    fill_in(qtbot, form, series, tmp_path / "brain.h5")
    for target in (picture, folder, nowhere):
        type_into(qtbot, form.path, str(tmp_path / "brain.h5"))
        qtbot.waitUntil(form.button.isEnabled, timeout=TIMEOUT_MS)
        type_into(qtbot, form.path, str(target))
        assert not form.button.isEnabled(), "not before it was looked at"
        qtbot.waitUntil(lambda: "e5534b" in form.outlook.styleSheet(), timeout=TIMEOUT_MS)
        assert not form.button.isEnabled()
    assert "there is no folder" in form.outlook.text()
    assert sorted(tmp_path.iterdir()) == [folder, picture]


def test_typing_does_not_look_at_all_fields_at_every_key(
    qtbot: QtBot, form: IngestForm, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_in(qtbot, form, series, tmp_path / "brain.h5")
    qtbot.waitUntil(form.button.isEnabled, timeout=TIMEOUT_MS)
    looks: list[None] = []
    show_facts = IngestForm._show_facts
    monkeypatch.setattr(IngestForm, "_show_facts", lambda form: (looks.append(None), show_facts(form)))
    form.channel.native.setFocus()
    for letter in 30 * "ab":
        form.channel.native.insert(letter)
    expect(qtbot, form, 30 * "ab")
    assert len(looks) == 1


# --- stopping -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def halted(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The core's own ingest, which waits in the middle until it is cancelled; set once it is there."""
    reached = threading.Event()

    def ingest_slowly(request: IngestRequest, *, progress: Any, cancel: CancelToken) -> Any:
        def halt(stage: str, done: int, total: int) -> None:
            progress(stage, done, total)
            if 0 < done < total:
                reached.set()
                while not cancel.cancelled:
                    threading.Event().wait(0.01)

        return ingest_channel(request, progress=halt, cancel=cancel)

    monkeypatch.setattr(_ingest_work, "ingest_channel", ingest_slowly)
    return reached


def test_cancel_leaves_nothing(
    qtbot: QtBot, viewer: Any, form: IngestForm, long_series: Path, tmp_path: Path, halted: threading.Event
) -> None:
    fill_in(qtbot, form, long_series, tmp_path / "brain.h5")
    qtbot.waitUntil(form.button.isEnabled, timeout=TIMEOUT_MS)
    qtbot.mouseClick(form.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(halted.is_set, timeout=TIMEOUT_MS)
    assert list(tmp_path.iterdir()), "it was at work"
    qtbot.waitUntil(lambda: "MB" in form.panel.text or "kB" in form.panel.text, timeout=TIMEOUT_MS)
    assert not form.button.isEnabled()
    qtbot.mouseClick(form.panel._stop, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not form.panel.is_busy, timeout=TIMEOUT_MS)
    assert "Cancelled" in form.panel.text
    assert list(tmp_path.iterdir()) == []
    assert not viewer.layers
    qtbot.waitUntil(form.button.isEnabled, timeout=TIMEOUT_MS)


def test_cancel_shows_again_what_was_shown(
    qtbot: QtBot, viewer: Any, form: IngestForm, long_series: Path, small: Any, tmp_path: Path, halted: threading.Event
) -> None:
    target = ingest_volume(tmp_path / "brain.h5", "first", small)
    show(viewer, target)
    # By another name than that by which it was opened.
    (tmp_path / "link").symlink_to(tmp_path)
    fill_in(qtbot, form, long_series, tmp_path / "link" / "brain.h5", "second")
    qtbot.waitUntil(form.button.isEnabled, timeout=TIMEOUT_MS)
    qtbot.mouseClick(form.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(halted.is_set, timeout=TIMEOUT_MS)
    form.panel.cancel()
    qtbot.waitUntil(lambda: not form.panel.is_busy and len(viewer.layers) == 1, timeout=TIMEOUT_MS)
    np.testing.assert_array_equal(voxels(viewer.layers["first"], small.shape), small)
    with open_lsfm(target) as file:
        assert list(file) == ["first"]


def test_closing_the_viewer_leaves_neither_threads_nor_files(
    qtbot: QtBot, viewer: Any, form: IngestForm, long_series: Path, tmp_path: Path, halted: threading.Event
) -> None:
    fill_in(qtbot, form, long_series, tmp_path / "brain.h5")
    qtbot.waitUntil(form.button.isEnabled, timeout=TIMEOUT_MS)
    qtbot.mouseClick(form.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(halted.is_set, timeout=TIMEOUT_MS)
    viewer.close()
    qtbot.waitUntil(lambda: not list(tmp_path.iterdir()), timeout=TIMEOUT_MS)
    qtbot.waitUntil(lambda: not any(thread.name.startswith("lsfm-ingest") for thread in threading.enumerate()), timeout=TIMEOUT_MS)


# --- the picture of the orientation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ALL_CODES)
def test_letters_and_brain_follow_the_code(code: str) -> None:
    # The judge is nibabel: an image whose axes have these codes, turned to RAS.
    to_ras = nib.orientations.axcodes2ornt(tuple(code))
    shape = tuple((43, 59, 32)[int(axis)] for axis, _ in to_ras)
    for axis, picture in enumerate(phantom_slices(Orientation(code))):
        down, right = (other for other in range(3) if other != axis)
        assert picture.shape == (shape[down], shape[right])
        left, right_letter, top, bottom = edge_letters(Orientation(code), axis)
        assert (bottom, right_letter) == (code[down], code[right])
        assert {left, right_letter} in ({"L", "R"}, {"A", "P"}, {"S", "I"})
        assert {top, bottom} in ({"L", "R"}, {"A", "P"}, {"S", "I"})
        # The only spot is in the right hemisphere, anterior of the middle, and below it.
        spot = np.argwhere(picture == picture.max()).mean(axis=0) / picture.shape
        sides = (bottom if spot[0] > 0.5 else top), (right_letter if spot[1] > 0.5 else left)
        assert set(sides) <= {"R", "A", "I"}


def test_one_way_to_choose_changes_the_others(qtbot: QtBot) -> None:
    section = OrientationEdit()
    qtbot.addWidget(section)
    type_into(qtbot, section.toward, "air")
    assert section.origin.text() == "psl"
    assert [choice.currentData() for choice in section.axes] == ["A", "I", "R"]
    assert "planes: posterior → anterior" in section.words.text()
    assert section.pictures[0].letters == ("L", "R", "S", "I")
    assert section.warning.isHidden()
    section.axes[2].write("L")
    assert (section.toward.text(), section.origin.text(), section.read()) == ("AIL", "psr", "AIL")
    assert section.pictures[0].letters == ("R", "L", "S", "I")
    assert not section.warning.isHidden() and "mirror image" in section.warning.text()
    type_into(qtbot, section.origin, "ras")
    assert (section.toward.text(), section.read()) == ("LPI", "LPI")
    type_into(qtbot, section.toward, "")
    assert section.read() is None and section.pictures[0].image is None
