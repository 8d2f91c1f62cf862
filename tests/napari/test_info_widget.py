"""The information panel in a real window: the facts are the file's own, and damage is found and told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import napari
import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtGui import QTextDocumentFragment
from qtpy.QtWidgets import QApplication, QLineEdit, QPushButton, QScrollArea

from lsfm_core import ExportRequest, edit_lsfm, export_channel, open_lsfm, size_text, verify_file
from lsfm_core.cli import main
from napari_lsfm._reader import read_layers
from napari_lsfm._widgets.forms import info
from napari_lsfm._widgets.forms._info_notes import NotesEditor
from napari_lsfm._widgets.forms.info import InfoPanel

from .conftest import ingest_volume

pytestmark = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)

TIMEOUT_MS = 20_000


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., napari.Viewer]) -> napari.Viewer:
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 800)
    return viewer


@pytest.fixture
def panel(viewer: napari.Viewer) -> InfoPanel:
    panel = InfoPanel(viewer)
    viewer.window.add_dock_widget(panel, area="right", name="Information")
    return panel


def show(viewer: Any, path: Path) -> None:
    for data, keywords, kind in read_layers(path):
        getattr(viewer, f"add_{kind}")(data, **keywords)


def rows(notes: NotesEditor) -> list[tuple[str, str, str]]:
    """Keys, kinds and values as they are shown."""
    table = notes.table
    return [
        (table.item(row, 0).text(), table.cellWidget(row, 1).currentText(), table.item(row, 2).text())
        for row in range(table.rowCount())
    ]


def click(button: QPushButton, qtbot: QtBot) -> None:
    assert button.isEnabled() and button.isVisible()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def type_into_cell(notes: NotesEditor, row: int, column: int, text: str, qtbot: QtBot) -> None:
    """With the keyboard: F2, the new text, Enter."""
    notes.table.setFocus()
    notes.table.setCurrentCell(row, column)
    editor = notes.table.focusWidget() if isinstance(notes.table.focusWidget(), QLineEdit) else None
    if editor is None:
        qtbot.keyClick(notes.table, Qt.Key.Key_F2)
    (editor,) = notes.table.findChildren(QLineEdit)
    editor.selectAll()
    qtbot.keyClicks(editor, text)
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: not notes.table.findChildren(QLineEdit), timeout=TIMEOUT_MS)


def choose_kind(notes: NotesEditor, row: int, kind: str, qtbot: QtBot) -> None:
    choice = notes.table.cellWidget(row, 1)
    choice.setFocus()
    # Keys that follow each other closely are one word to Qt.
    qtbot.wait(QApplication.keyboardInputInterval() + 50)
    qtbot.keyClicks(choice, kind)
    assert choice.read() == kind


def note(notes: NotesEditor, key: str, kind: str, text: str, qtbot: QtBot) -> None:
    click(notes.add, qtbot)
    row = notes.table.rowCount() - 1
    type_into_cell(notes, row, 0, key, qtbot)
    choose_kind(notes, row, kind, qtbot)
    type_into_cell(notes, row, 2, text, qtbot)


def save(panel: InfoPanel, notes: NotesEditor, qtbot: QtBot) -> None:
    click(notes.save, qtbot)
    settle(panel, qtbot)


def settle(panel: InfoPanel, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not (panel.panel.is_busy or panel._reader.is_busy), timeout=TIMEOUT_MS)


def levels(panel: InfoPanel) -> list[list[str]]:
    """The table's columns, of which each is a level."""
    rows, columns = range(panel.levels.rowCount()), range(panel.levels.columnCount())
    return [[panel.levels.item(row, column).text() for row in rows] for column in columns]


def test_facts_of_the_active_layer(
    qtbot: QtBot, viewer: Any, panel: InfoPanel, specimen_file: Path, tmp_path: Path, capsys: Any
) -> None:
    assert "Open an LSFM file" in panel.file_facts.text()
    assert not panel.verify.isEnabled()
    path = tmp_path / "two.h5"
    shutil.copy(specimen_file, path)
    ingest_volume(path, "other", np.ones((4, 20, 30), np.uint8), (0.1, 0.2, 0.3), "LPS")
    with h5py.File(path, "r+") as h5:
        h5.require_group("extended_metadata").attrs["specimen"] = "mouse 42"
        del h5["LSFM_DIGESTS"]
    show(viewer, path)
    qtbot.waitUntil(lambda: panel.channel.value == "other", timeout=TIMEOUT_MS)
    assert panel.file.value == path
    assert "LPS (origin at rai)" in panel.channel_facts.text() and "uint8" in panel.channel_facts.text()
    assert levels(panel)[0][:2] == ["4 x 20 x 30", "0.1 x 0.2 x 0.3"]
    assert rows(panel.file_notes) == [("specimen", "text", "mouse 42")]
    shown = QTextDocumentFragment.fromHtml(panel.channel_facts.text()).toPlainText()
    assert main(["info", str(path), "--channel", "other"]) == 0
    printed = capsys.readouterr().out
    for line in ("image, uint8, BigDataViewer setup 1, written by", "LPS (origin at rai): axis 0", "mm (R, A, S): R", "4 file(s)"):
        assert line in shown and line in printed, "the panel says what the command says"
    assert panel.levels.verticalHeaderItem(1).text() == "voxel (mm)"
    viewer.layers.selection.active = viewer.layers["autofluo"]
    qtbot.waitUntil(lambda: panel.channel.value == "autofluo", timeout=TIMEOUT_MS)
    with open_lsfm(path) as file:
        for shown, level in zip(levels(panel), file["autofluo"].levels, strict=True):
            assert shown[0] == " x ".join(map(str, level.shape))
            assert shown[5] == size_text(level.stored_bytes)
        assert f"{len(file['autofluo'].sources)} file(s)" in panel.channel_facts.text()
    panel.channel.native.setFocus()
    qtbot.keyClicks(panel.channel.native, "other")
    qtbot.waitUntil(lambda: "LPS" in panel.channel_facts.text(), timeout=TIMEOUT_MS)
    area = panel.native.findChild(QScrollArea)
    assert area.widget().width() <= area.viewport().width(), "nothing is cut off at the right"
    viewer.layers.clear()
    assert "Open an LSFM file" in panel.file_facts.text()
    assert panel.levels.isHidden()


def test_file_without_orientation_tells_so(qtbot: QtBot, viewer: Any, panel: InfoPanel, brain_data: Path) -> None:
    show(viewer, brain_data / "legacy_lsfmpy" / "mouse42.h5")
    qtbot.waitUntil(lambda: "not recorded" in panel.channel_facts.text(), timeout=TIMEOUT_MS)
    assert "written by lsfmpy" in panel.channel_facts.text()


@pytest.mark.bindings
def test_verify_finds_damage(qtbot: QtBot, viewer: Any, panel: InfoPanel, specimen_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "brain.h5"
    shutil.copy(specimen_file, path)
    shutil.copy(specimen_file.with_suffix(".xml"), path.with_suffix(".xml"))
    show(viewer, path)
    for damaged in (False, True):
        if damaged:
            with h5py.File(path, "r") as h5:
                chunk = h5["t00000/s00/0/cells"].id.get_chunk_info(1)
            with path.open("r+b") as file:
                file.seek(chunk.byte_offset + chunk.size // 2)
                file.write(b"\xff" * 16)
        qtbot.waitUntil(panel.verify.isEnabled, timeout=TIMEOUT_MS)
        qtbot.mouseClick(panel.verify, Qt.MouseButton.LeftButton)
        assert not panel.verify.isEnabled()
        qtbot.waitUntil(lambda: not panel.panel.is_busy, timeout=TIMEOUT_MS)
        texts = [panel.defects.item(row).text() for row in range(panel.defects.count())]
        if damaged:
            assert "1 defect(s) found" in panel.panel.text
            assert len(texts) == 1 and "channel 'autofluo', level 0, voxels [" in texts[0]
            assert panel.defects.isVisible()
        else:
            assert "all well" in panel.panel.text and not texts


def test_a_plain_layer_is_a_click_away(
    make_napari_viewer: Callable[..., napari.Viewer], npe2pm: Any, specimen_file: Path, qtbot: QtBot
) -> None:
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        viewer = make_napari_viewer(show=True)
        _, panel = viewer.window.add_plugin_dock_widget("napari-lsfm", "Information and log")
        assert not panel.plain.isEnabled()
        viewer.open(specimen_file, plugin="napari-lsfm")
        qtbot.waitUntil(panel.plain.isEnabled, timeout=TIMEOUT_MS)
        click(panel.plain, qtbot)
        _, form = viewer.window.add_plugin_dock_widget("napari-lsfm", "This level as a plain layer")
        assert form.layer.value == viewer.layers["autofluo"]


@pytest.fixture
def brain(qtbot: QtBot, viewer: Any, panel: InfoPanel, specimen_file: Path, tmp_path: Path) -> Path:
    """A file that is shown, and that may be changed."""
    path = tmp_path / "brain.h5"
    shutil.copy(specimen_file, path)
    shutil.copy(specimen_file.with_suffix(".xml"), path.with_suffix(".xml"))
    show(viewer, path)
    settle(panel, qtbot)
    assert panel.channel.value == "autofluo"
    return path


def test_notes_of_every_kind_are_one_change(qtbot: QtBot, viewer: Any, panel: InfoPanel, brain: Path) -> None:
    before = len(open_log(brain))
    notes = panel.channel_notes
    assert rows(notes) == [] and not notes.save.isEnabled() and not notes.undo.isEnabled()
    expected = {
        "animal": ("text", "mouse 42", "mouse 42"),
        "digits": ("text", "0042", "0042"),
        "dose": ("number", "0.25", 0.25),
        "cleared": ("true/false", "true", True),
        "stains": ("list", '["c-Fos", 2]', ["c-Fos", 2]),
        "lens": ("JSON", '{"na": 0.2, "oil": null}', {"na": 0.2, "oil": None}),
    }
    for key, (kind, text, _) in expected.items():
        note(notes, key, kind, text, qtbot)
    assert "Not saved" in notes.message.text()
    save(panel, notes, qtbot)
    assert "6 note(s) changed" in panel.panel.text
    with open_lsfm(brain) as file:
        assert dict(file.metadata("autofluo")) == {key: value for key, (_, _, value) in expected.items()}
        assert not file.metadata()
    assert len(open_log(brain)) == before + 1, "one change"
    assert sorted(rows(notes)) == sorted((key, kind, text) for key, (kind, text, _) in expected.items()), "as it was typed"
    assert panel.log.table.rowCount() == before + 1
    # Change one, remove one.
    keys = [row[0] for row in rows(notes)]
    type_into_cell(notes, keys.index("dose"), 2, "1", qtbot)
    notes.table.setCurrentCell(keys.index("lens"), 0)
    click(notes.remove, qtbot)
    save(panel, notes, qtbot)
    with open_lsfm(brain) as file:
        assert "lens" not in file.metadata("autofluo") and file.metadata("autofluo")["dose"] == 1
        assert file.metadata("autofluo")["digits"] == "0042"
    note(panel.file_notes, "project", "text", "memory", qtbot)
    save(panel, panel.file_notes, qtbot)
    with open_lsfm(brain) as file:
        assert dict(file.metadata()) == {"project": "memory"}
    # The layers of the file were there all the time, and can still be read.
    assert np.asarray(viewer.layers[0].data[-1]).any()


def open_log(path: Path) -> tuple[Any, ...]:
    with open_lsfm(path) as file:
        return file.log()


def test_bad_notes_are_told_in_the_form_and_kept(qtbot: QtBot, viewer: Any, panel: InfoPanel, brain: Path) -> None:
    notes = panel.file_notes
    note(notes, "stain", "JSON", '{"a": ', qtbot)
    assert "stain" in notes.message.text() and "is no JSON" in notes.message.text() and not notes.save.isEnabled()
    for kind, text in (("number", "five"), ("number", "NaN"), ("number", "true"), ("true/false", "1"), ("list", "{}")):
        choose_kind(notes, 0, kind, qtbot)
        type_into_cell(notes, 0, 2, text, qtbot)
        assert f"is no {kind}" in notes.message.text() and not notes.save.isEnabled(), (kind, text)
    choose_kind(notes, 0, "text", qtbot)
    note(notes, "stain", "text", "other", qtbot)
    assert "exists already" in notes.message.text() and not notes.save.isEnabled()
    type_into_cell(notes, 1, 0, " ", qtbot)
    assert "key is missing" in notes.message.text() and not notes.save.isEnabled()
    # What the core refuses is told as well, and what was typed is still there.
    type_into_cell(notes, 1, 0, "k" * 300, qtbot)
    save(panel, notes, qtbot)
    assert "at most 255" in panel.panel.text
    assert [row[0] for row in rows(notes)] == ["stain", "k" * 300]
    with open_lsfm(brain) as file:
        assert not file.metadata(), "nothing was written, not even what is right"
    # It stays while something else is looked at.
    ingest_volume(brain, "other", np.ones((4, 20, 30), np.uint8), (0.1, 0.2, 0.3), "LPS")
    click(panel.refresh, qtbot)
    settle(panel, qtbot)
    assert panel.channel.choices == ["autofluo", "other"]
    assert [row[0] for row in rows(notes)] == ["stain", "k" * 300]
    click(notes.undo, qtbot)
    assert rows(notes) == [] and not notes.message.isVisible()


@pytest.mark.bindings
def test_what_others_noted_meanwhile_stays(qtbot: QtBot, viewer: Any, panel: InfoPanel, brain: Path) -> None:
    notes = panel.file_notes
    with edit_lsfm(brain) as editor:
        editor.set_metadata("mine", 1)
    click(panel.refresh, qtbot)
    settle(panel, qtbot)
    type_into_cell(notes, 0, 2, "2", qtbot)
    with edit_lsfm(brain) as editor:
        editor.set_metadata("theirs", "x")
        editor.set_metadata("mine", 5, overwrite=True)
    save(panel, notes, qtbot)
    assert "another program has changed 'mine'" in panel.panel.text
    with open_lsfm(brain) as file:
        assert dict(file.metadata()) == {"mine": 5, "theirs": "x"}
    assert rows(notes) == [("mine", "number", "2")], "what was typed is not lost"
    click(notes.undo, qtbot)
    assert rows(notes) == [("mine", "number", "5"), ("theirs", "text", "x")]
    type_into_cell(notes, 0, 2, "6", qtbot)
    with edit_lsfm(brain) as editor:
        editor.set_metadata("theirs", "y", overwrite=True)
    save(panel, notes, qtbot)
    with open_lsfm(brain) as file:
        assert dict(file.metadata()) == {"mine": 6, "theirs": "y"}
    assert rows(notes) == [("mine", "number", "6"), ("theirs", "text", "y")], "the panel shows what is there now"


def test_the_log_is_read_and_run_again(
    qtbot: QtBot, viewer: Any, panel: InfoPanel, brain: Path, tmp_path: Path, capsys: Any
) -> None:
    output = tmp_path / "it's out.nii"
    export_channel(ExportRequest(path=brain, channel="autofluo", resolution_mm=0.5, output=output))
    with edit_lsfm(brain) as editor:
        editor.set_look("autofluo", colormap="green")
    click(panel.refresh, qtbot)
    settle(panel, qtbot)
    table = panel.log.table
    shown = [[table.item(row, column).text() for column in range(5)] for row in range(table.rowCount())]
    records = open_log(brain)
    assert [row[0] for row in shown] == [str(number) for number in range(len(records), 0, -1)], "as lsfm-core log counts them"
    place = [row[2] for row in shown].index("export")
    assert shown[place][3:] == ["autofluo", "done"]
    assert not panel.log.copy.isEnabled() and not panel.log.details.isVisible()
    table.setFocus()
    table.setCurrentCell(place, 0)
    assert str(output) in panel.log.details.text()
    assert f"{records[int(shown[place][0]) - 1].time:%Y-%m-%d %H:%M:%S} UTC: done" in panel.log.details.text()
    written = output.read_bytes()
    output.unlink()
    click(panel.log.copy, qtbot)
    line = QApplication.clipboard().text()
    subprocess.run(["bash", "-c", line.replace("lsfm-core", f"{sys.executable} -m lsfm_core.cli")], check=True, cwd=Path.home())
    assert output.read_bytes() == written
    # Only Python can say this.
    table.setCurrentCell(0, 0)
    assert shown[0][2] == "edit" and not panel.log.copy.isEnabled()


def test_what_was_said_of_a_file_goes_with_it(qtbot: QtBot, viewer: Any, panel: InfoPanel, brain: Path) -> None:
    click(panel.verify, qtbot)
    qtbot.waitUntil(lambda: "all well" in panel.panel.text and not panel.panel.is_busy, timeout=20_000)
    viewer.layers.clear()
    assert not panel.panel.text and "Open an LSFM file" in panel.file_facts.text()


def test_verifying_can_be_cancelled(qtbot: QtBot, viewer: Any, panel: InfoPanel, brain: Path, monkeypatch: Any) -> None:
    going = threading.Event()

    def endless(path: Path, *, levels: bool, progress: Any, cancel: Any) -> Any:
        while not cancel.cancelled:
            going.set()
            time.sleep(0.01)
        return verify_file(path, levels=levels, progress=progress, cancel=cancel)

    monkeypatch.setattr(info, "verify_file", endless)
    click(panel.verify, qtbot)
    qtbot.waitUntil(going.is_set, timeout=TIMEOUT_MS)
    (stop,) = (button for button in panel.panel.findChildren(QPushButton) if button.text() == "Cancel")
    click(stop, qtbot)
    settle(panel, qtbot)
    assert "Cancelled" in panel.panel.text and panel.verify.isEnabled()
