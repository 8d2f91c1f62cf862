"""What all forms promise: fields as in the request, scripts, the keyboard, little room, words beside what is wrong."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import napari
import nibabel
import numpy as np
import pytest
from magicgui.widgets import Container
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QLabel, QLineEdit, QScrollArea, QWidget

from lsfm_core import CancelToken, ExportRequest, IngestRequest, InputError, LsfmError
from lsfm_core._request import Request, told
from lsfm_core.testing import write_phantom_file, write_series
from napari_lsfm._widgets.fields import (
    BoxField,
    Choice,
    ChoiceOrFile,
    Number,
    Numbers,
    OneOrThree,
    OrientationField,
    PathField,
    SpacePicture,
    Tick,
    make_field,
)
from napari_lsfm._widgets.forms._form import Form
from napari_lsfm._widgets.forms.ingest import IngestForm

from .conftest import edit_of

pytestmark = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)

MANUAL = Path(__file__).parents[2] / "docs" / "napari.md"
TIMEOUT_MS = 60_000
TITLES = ("Import an image", "Export", "Points", "Regions", "Information and log", "This level as a plain layer")


@pytest.fixture(scope="session")
def phantom_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("phantom") / "brain.h5"
    write_phantom_file(path)
    return path


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., napari.Viewer], npe2pm: Any, phantom_file: Path) -> Iterator[napari.Viewer]:
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        viewer = make_napari_viewer(show=True)
        viewer.window.resize(1280, 800)
        viewer.open(phantom_file, plugin="napari-lsfm")
        yield viewer


def open_form(viewer: napari.Viewer, title: str) -> Any:
    return viewer.window.add_plugin_dock_widget("napari-lsfm", title)[1]


def settle(form: Any, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not form.is_busy, timeout=TIMEOUT_MS)


# --- fields ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "text", "value"),
    [
        (Number, {"unit": "mm"}, "50 um", 0.05),
        (Number, {"unit": "mm"}, "0.05", 0.05),
        (Number, {"unit": "mm"}, "50µm", 0.05),
        (Number, {"unit": "mm", "optional": True}, "", None),
        (Number, {"whole": True}, "7", 7),
        (Number, {"unit": "GB", "whole": True}, "1.5", 1_500_000_000),
        (OneOrThree, {"unit": "mm"}, "50, 40, 40 um", (0.05, 0.04, 0.04)),
        (OneOrThree, {"unit": "mm"}, "0.1", 0.1),
        (OneOrThree, {"unit": "mm"}, "1 mm, 500 um, 2", (1, 0.5, 2)),
        (PathField, {}, " planes/img_*.tif ", "planes/img_*.tif"),
    ],
)
def test_what_is_typed_is_the_value(qtbot: QtBot, kind: type, options: dict[str, Any], text: str, value: Any) -> None:
    field = kind(name="length", **options)
    qtbot.addWidget(field.native)
    heard: list[Any] = []
    field.changed.connect(heard.append)
    edit_of(field).setText(text)
    assert field.value == value and (heard[-1:] == [value] or not text)
    # What is shown for a value is read as that value.
    field.value = value
    assert field.value == value


@pytest.mark.parametrize(("text", "words"), [("x", "'x' is no number"), ("", "expected a number"), ("1e400", "to count with")])
def test_a_number_that_is_none_says_so(qtbot: QtBot, text: str, words: str) -> None:
    field = Number(name="margin_mm", label="Margin (mm)", unit="mm")
    qtbot.addWidget(field.native)
    field.native.setText(text)
    with pytest.raises(InputError, match="^margin: .*" + re.escape(words)):
        field.value  # noqa: B018


def test_fields_work_in_any_container(qtbot: QtBot) -> None:
    container = Container(
        widgets=[
            Numbers((1, 2, 3), name="size", unit="mm"),
            Choice("b", name="letter", choices=["a", "b"]),
            Tick(True, name="yes", text="or no"),
            OrientationField("AIR", name="lies"),
        ]
    )
    qtbot.addWidget(container.native)
    assert container.asdict() == {"size": (1, 2, 3), "letter": "b", "yes": True, "lies": "AIR"}
    container.update({"letter": "a", "size": None, "yes": False})
    assert (container.letter.value, container.size.texts, container.yes.value) == ("a", ["", "", ""], False)


def test_choices_of_the_same_name_stay_apart_and_wishes_come_true(qtbot: QtBot) -> None:
    choice = Choice(name="file", choices=[("brain.h5", "/a/brain.h5"), ("brain.h5", "/b/brain.h5")])
    qtbot.addWidget(choice.native)
    choice.value = "/b/brain.h5"
    assert choice.value == "/b/brain.h5" and len(choice.choices) == 2
    choice.value = "/c/brain.h5"
    with pytest.raises(InputError, match=r"file: '/c/brain\.h5' is not there"):
        choice.value  # noqa: B018
    choice.offer([("a", "/a/brain.h5"), ("c", "/c/brain.h5")])
    assert choice.value == "/c/brain.h5"


def test_a_chosen_file_stays_when_choices_are_offered_anew(qtbot: QtBot) -> None:
    choice = ChoiceOrFile(name="reference", choices=[("none", None), "atlas"])
    qtbot.addWidget(choice.native)
    heard: list[Any] = []
    choice.changed.connect(heard.append)
    choice.value = Path("/a/template.nii.gz")
    assert choice.value == "/a/template.nii.gz" and heard == ["/a/template.nii.gz"]
    choice.offer([("none", None), "cfos"])
    assert choice.value == "/a/template.nii.gz" and choice.choices == [None, "cfos", "/a/template.nii.gz"]
    choice.value = "cfos"
    choice.offer([("none", None), "cfos", "atlas"])
    assert choice.value == "cfos" and "/a/template.nii.gz" in choice.choices


def test_a_box_is_a_field_of_any_container(qtbot: QtBot) -> None:
    container = Container(widgets=[BoxField(((1, 2, 3), (4, 5, 6)), name="box"), Tick(True, name="yes")])
    qtbot.addWidget(container.native)
    assert container.asdict()["box"] == ((1, 2, 3), (4, 5, 6))
    heard: list[Any] = []
    container.box.changed.connect(heard.append)
    corner, size = container.box.parts
    corner.edits[0].setText("500 um")
    assert container.box.value == ((0.5, 2, 3), (4, 5, 6)) == heard[-1]
    size.edits[2].setText("")
    with pytest.raises(InputError, match=r"^size: still to be given: S"):
        container.box.value  # noqa: B018
    container.box.value = (0, 0, 0), 2
    assert container.box.value == ((0, 0, 0), (2, 2, 2))


@pytest.mark.bindings
def test_a_box_is_drawn_in_the_viewer_that_it_is_told(viewer: napari.Viewer, qtbot: QtBot) -> None:
    container = Container(widgets=[BoxField(name="box", viewer=viewer)])
    viewer.window.add_dock_widget(container)
    ends = np.array([layer.extent.world for layer in viewer.layers])
    container.box.native.begin()
    # Half as long as what is shown, and in the middle of it.
    _, size = container.box.value
    np.testing.assert_allclose(sorted(size), sorted(np.ptp(ends, axis=(0, 1)) / 2), rtol=1e-3)
    layer = viewer.layers["export box"]
    qtbot.waitUntil(lambda: layer.nshapes == 1, timeout=TIMEOUT_MS)
    viewer.add_shapes([[[4, -3, 2], [4, -3, 4], [4, -1, 4], [4, -1, 2]]], ndim=3, units=("mm",) * 3)
    container.box.native.from_shape.click()
    corner, size = container.box.value
    # The layer's axes are A, I and R.
    assert (corner[0], corner[2], size[0], size[2]) == pytest.approx((2, 1, 2, 2))


@pytest.mark.parametrize("request_type", [IngestRequest, ExportRequest])
def test_labels_tips_and_defaults_are_those_of_the_request(qtbot: QtBot, request_type: Any) -> None:
    for name, info in request_type.model_fields.items():
        assert info.title and info.description, name
        if name in ("region", "transforms", "numeric_inverse", "via", "image"):
            continue
        field = make_field(request_type, name)
        qtbot.addWidget(field.native)
        assert (field.name, field.label, field.tooltip) == (name, info.title, info.description)
        assert info.is_required() or field.value == info.default, name


class _Wish(Request):
    path: Path = told(..., "File", "What to read")
    speed: int = told(3, "Speed", "How fast", ge=1, le=5, words={"5": "very fast"})
    width_mm: float | None = told(None, "Width (mm)", "How wide", unit="mm", ge=0)


class _WishForm(Form):
    request_type = _Wish
    operation = "wish"
    action = "Wish"
    sections = {"All": ("path", "speed", "width_mm")}  # noqa: RUF012

    def _plan(self, request: Any, cancel: CancelToken) -> Any:
        return request

    def _say_plan(self, plan: Any) -> None:
        self.outlook.say(f"{plan.path} {plan.speed} {plan.width_mm}")


def test_a_field_of_a_request_appears_by_its_name(viewer: napari.Viewer, qtbot: QtBot, tmp_path: Path) -> None:
    form = _WishForm(viewer)
    viewer.window.add_dock_widget(form, name="Wish")
    form.path.value = tmp_path
    form.speed.value = 5
    assert form.speed.native.currentText() == "very fast" and form.width_mm.tooltip == "How wide"
    form.width_mm.native.setText("-20 um")
    settle(form, qtbot)
    assert "width: must be at least 0" in form.outlook.text() and not form.button.isEnabled()
    form.width_mm.native.setText("20 um")
    settle(form, qtbot)
    assert form.request() == _Wish(path=tmp_path, speed=5, width_mm=0.02)
    form(_Wish(path=tmp_path / "other"))
    assert form.asdict() == {"path": str(tmp_path / "other"), "speed": 3, "width_mm": None}


# --- scripts --------------------------------------------------------------------------------------------------------------------


@pytest.mark.bindings
def test_the_script_in_the_manual(registered_viewer: Any, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (script,) = re.findall(r"```python\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
    names = {"viewer": registered_viewer}
    exec(script, names)
    form, job = names["form"], names["job"]
    with qtbot.waitSignal(job.finished, timeout=TIMEOUT_MS):
        assert names["request"].channel == "cfos" and form.panel.is_busy
    settle(form, qtbot)
    assert nibabel.load(tmp_path / "cfos_100um.nii.gz").header.get_zooms() == pytest.approx((0.1, 0.1, 0.1))
    assert form.asdict()["channel"] == "cfos"
    other = names["request"].model_copy(update={"level": 0, "fill": 7.0, "output": tmp_path / "b.nii"})
    form(other)
    settle(form, qtbot)
    assert form.request() == other


def test_an_import_comes_out_as_it_went_in(viewer: napari.Viewer, qtbot: QtBot, tmp_path: Path) -> None:
    series = write_series(tmp_path / "planes", np.arange(6 * 8 * 9, dtype=np.uint16).reshape(6, 8, 9))
    table = tmp_path / "table.csv"
    table.write_text("id,name\n1,one\n")
    form = open_form(viewer, "Import an image")
    common = {"path": tmp_path / "new.h5", "image": str(series), "voxel_size_mm": (0.05, 0.04, 0.03), "orientation": "AIL"}
    for fields in (
        {"channel": "a", "origin_mm": (1, -2, 3), "threads": 1, "compression": 3, "replace": True, "memory_bytes": 3 * 10**9},
        {"channel": "b", "kind": "labels", "labels": table, "space": "b", "uint16_as_int16": True, "planes_are": "time"},
    ):
        request = IngestRequest(**common, **fields)
        form(request)
        assert form.request() == request
        settle(form, qtbot)
        assert form.request() == request


# --- the window -----------------------------------------------------------------------------------------------------------------


@pytest.mark.bindings
def test_the_import_is_filled_in_and_begun_without_a_mouse(viewer: napari.Viewer, qtbot: QtBot, tmp_path: Path) -> None:
    series = write_series(tmp_path / "planes", np.arange(6 * 8 * 9, dtype=np.uint16).reshape(6, 8, 9))
    form = open_form(viewer, "Import an image")
    viewer.window._qt_window.activateWindow()
    qtbot.waitUntil(viewer.window._qt_window.isActiveWindow, timeout=TIMEOUT_MS)
    native = form.native
    passed: list[QWidget] = []

    def tab_to(widget: QWidget) -> QWidget:
        while (at := QApplication.focusWidget()) is not widget:
            assert len(passed) < 60 and at not in passed, "it can be reached"
            passed.append(at)
            qtbot.keyClick(at, Qt.Key.Key_Tab)
        passed.append(widget)
        return widget

    form.layer.native.setFocus()
    for field, text in (
        (form.image.edit, str(series)),
        *zip(form.voxel_size_mm.edits, ("50 um", "0.04", "0.04"), strict=True),
        (form.orientation.native.toward, "AIR"),
        (form.path.edit, str(tmp_path / "new.h5")),
        (form.channel.native, "typed"),
    ):
        qtbot.keyClicks(tab_to(field), text)
        passed.pop()
    qtbot.waitUntil(form.button.isEnabled, timeout=TIMEOUT_MS)
    qtbot.keyClick(tab_to(form.button), Qt.Key.Key_Space)
    settle(form, qtbot)
    assert form.panel.text.startswith("Channel 'typed' written"), form.panel.text
    # In the order in which they are read: row by row, and from left to right.
    area = native.findChild(QScrollArea).widget()
    places = [w.mapTo(area, w.rect().center()) for w in passed if area.isAncestorOf(w)]
    assert all(a.y() < b.y() - 8 or (abs(a.y() - b.y()) <= 8 and a.x() < b.x()) for a, b in pairwise(places))


@pytest.mark.parametrize("title", TITLES)
def test_tab_goes_on_as_one_reads(viewer: napari.Viewer, qtbot: QtBot, title: str) -> None:
    form = open_form(viewer, title)
    if hasattr(form, "is_busy"):
        settle(form, qtbot)
    if title == "Export":
        form.what.value = "box"
        settle(form, qtbot)
    qtbot.wait(50)
    native = form.native
    tab = Qt.FocusPolicy.TabFocus
    wanted = {
        w
        for w in native.findChildren(QWidget)
        if w.focusPolicy() & tab and w.isVisible() and w.isEnabled() and not w.focusProxy() and not w.findChildren(QLineEdit)
    }
    at, chain = native.nextInFocusChain(), []
    while at is not native:
        chain += [at] if at in wanted else []
        at = at.nextInFocusChain()
    assert set(chain) == wanted and len(chain) >= 5, "all can be reached"
    # Row by row, and from left to right; what scrolls comes before what stays in sight.
    body = native.findChild(QScrollArea)
    content = native if body is None else body.widget()

    def place(widget: QWidget) -> tuple[bool, int, int]:
        scrolls = content.isAncestorOf(widget)
        at = widget.mapTo(content if scrolls else native, widget.rect().center())
        return not scrolls, round(at.y() / 10), at.x()

    wrong = [(a, b) for a, b in pairwise(chain) if place(a) >= place(b)]
    assert not wrong, [[(w.accessibleName(), type(w).__name__, w.toolTip()[:20]) for w in pair] for pair in wrong]


def test_what_is_wrong_is_said_beside_its_field(viewer: napari.Viewer, qtbot: QtBot) -> None:
    form = open_form(viewer, "Export")
    settle(form, qtbot)
    assert form.button.isEnabled()

    def notes() -> list[str]:
        texts = [label for label in form.native.findChildren(QLabel) if label.accessibleName().startswith("what is wrong")]
        return [label.text() for label in texts if label.isVisible()]

    form.fill.native.setText("none")
    form.resolution_mm.native.setText("0.1, 0.2")
    settle(form, qtbot)
    assert notes() == ["expected one number or 3 numbers with commas, found '0.1, 0.2'", "'none' is no number"]
    assert "fill value: 'none' is no number" in form.outlook.text() and not form.button.isEnabled()
    assert "e5534b" in form.fill.native.styleSheet()
    # What the core finds, too.
    form.fill.native.setText("0")
    form.resolution_mm.native.setText("-1")
    settle(form, qtbot)
    assert len(notes()) == 1 and "positive" in notes()[0] and not form.button.isEnabled()
    form.resolution_mm.native.setText("")
    settle(form, qtbot)
    assert notes() == [] and form.button.isEnabled() and not form.resolution_mm.native.styleSheet()
    # A folded section opens where something is wrong in it.
    form.native.rows.fold("Output")
    form.memory_bytes.native.setText("much")
    settle(form, qtbot)
    assert form.memory_bytes.native.isVisible() and notes() == ["'much' is no number"]


@pytest.mark.parametrize("titles", [["Import an image"], ["Export"], ["Import an image", "Export"]])
@pytest.mark.parametrize("size", [(1280, 800), (990, 800), (800, 800)])
def test_nothing_is_cut_off(viewer: napari.Viewer, qtbot: QtBot, titles: list[str], size: tuple[int, int]) -> None:
    forms = [open_form(viewer, title) for title in titles]
    for form in forms:
        settle(form, qtbot)
    viewer.window.resize(*size)
    qtbot.wait(200)
    # napari itself needs some 640 pixels beside a form.
    assert viewer.window._qt_window.width() <= max(size[0], 920)
    for form in forms:
        # The picture of spaces scrolls by itself where its letters would become too small.
        body, foot = [area for area in form.native.findChildren(QScrollArea) if not isinstance(area, SpacePicture)][:2]
        assert body.viewport().height() >= 90, "some rows are seen"
        for what in form.what.choices if "what" in form.asdict() else (None,):
            if what is not None:
                form.what.value = what
                settle(form, qtbot)
                qtbot.wait(50)
            for area in (body, foot):
                assert area.widget().width() <= area.viewport().width()
                assert area.widget().minimumSizeHint().width() <= area.viewport().width()
            for edit in body.widget().findChildren(QLineEdit):
                assert not edit.isVisible() or edit.width() >= 30
        assert form.button.isVisible() and form.button.geometry().right() <= form.native.width()


def test_a_file_that_vanishes_is_told_in_the_form(
    viewer: napari.Viewer, qtbot: QtBot, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gone.h5"
    write_phantom_file(path)
    form = open_form(viewer, "Export")
    form.path.value = path
    qtbot.waitUntil(lambda: form._facts is not None and form._facts.path == path, timeout=TIMEOUT_MS)
    settle(form, qtbot)
    path.unlink()
    for extra in tmp_path.iterdir():
        extra.unlink()
    form.resolution_mm.value = 0.5
    settle(form, qtbot)
    assert "gone.h5" in form.outlook.text() and not form.button.isEnabled()
    form.path.value = tmp_path / "never.h5"
    with pytest.raises(LsfmError):
        form.request()
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err + captured.out


@pytest.mark.parametrize("title", TITLES)
def test_files_layers_and_viewers_may_go_at_any_time(
    viewer: napari.Viewer, qtbot: QtBot, phantom_file: Path, tmp_path: Path, title: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copy(phantom_file, tmp_path / "gone.h5"))
    viewer.layers.clear()
    viewer.open(path, plugin="napari-lsfm")
    viewer.add_points(np.ones((3, 3)), name="cells")
    viewer.add_image(np.zeros((4, 5, 6), np.uint16), name="mine")
    form = open_form(viewer, title)

    def rest() -> None:
        qtbot.waitUntil(lambda: not getattr(form, "is_busy", False), timeout=TIMEOUT_MS)
        qtbot.wait(50)

    rest()
    if title == "Export":
        form.what.value = "box"
    elif title == "Regions":
        form.select({8})
    rest()
    path.unlink()
    # All but the button that adds a layer.
    fields = [field for field in form if field.name != "add"]
    for field in fields:
        field.changed.emit(None)
    rest()
    for name in ("cells", "mine", "autofluo", "regions"):
        viewer.layers.remove(name)
        rest()
    for field in fields:
        field.changed.emit(None)
    viewer.close()
    qtbot.wait(200)
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err + captured.out and "Error" not in captured.err + captured.out


def test_a_layer_that_is_removed_is_no_image_any_more(viewer: napari.Viewer, qtbot: QtBot) -> None:
    layer = viewer.add_image(np.zeros((4, 5, 6), np.uint16), name="mine")
    form = open_form(viewer, "Import an image")
    form.layer.value = layer
    settle(form, qtbot)
    viewer.layers.remove(layer)
    assert form.layer.value is None and form.image.native.isVisible()
    settle(form, qtbot)
    assert "image" in form.outlook.text() and not form.button.isEnabled()


@pytest.mark.parametrize("title", ["Import an image", "Export"])
def test_a_form_that_is_closed_lets_go_of_the_viewer(viewer: napari.Viewer, qtbot: QtBot, title: str) -> None:
    form = open_form(viewer, title)
    with qtbot.waitSignal(form.native.destroyed, timeout=TIMEOUT_MS):
        viewer.window.remove_dock_widget(form.native)
    # Nobody listens any more.
    viewer.add_image(np.zeros((4, 5, 6), np.uint16))
    viewer.layers.clear()
    qtbot.wait(300)


def test_jobs_stand_in_the_activity_dock(viewer: napari.Viewer, qtbot: QtBot, tmp_path: Path) -> None:
    form = open_form(viewer, "Export")
    form.output.value = tmp_path / "a.nii"
    job = form.go()
    assert job._activity.desc.startswith("Export")
    with qtbot.waitSignal(job.finished, timeout=TIMEOUT_MS):
        pass
    assert (tmp_path / "a.nii").exists()


def test_a_form_of_ours_is_a_container_of_magicgui(viewer: napari.Viewer) -> None:
    form = open_form(viewer, "Import an image")
    assert isinstance(form, Container) and isinstance(form, IngestForm) and form.native._magic_widget is form
    assert form["channel"] is form.channel and form.labels.name == "labels" and form.orientation.name == "orientation"
