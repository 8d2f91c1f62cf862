"""The information panel in a real window: the facts are the file's own, and damage is found and told."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import napari
import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QScrollArea

from lsfm_core import open_lsfm
from napari_lsfm._reader import read_layers
from napari_lsfm._widgets._info import InfoWidget, _notes

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
def panel(viewer: napari.Viewer) -> InfoWidget:
    panel = InfoWidget(viewer)
    viewer.window.add_dock_widget(panel, area="right", name="Information")
    return panel


def show(viewer: Any, path: Path) -> None:
    for data, keywords, kind in read_layers(path):
        getattr(viewer, f"add_{kind}")(data, **keywords)


def levels(panel: InfoWidget) -> list[list[str]]:
    """The table's columns, of which each is a level."""
    rows, columns = range(panel.levels.rowCount()), range(panel.levels.columnCount())
    return [[panel.levels.item(row, column).text() for row in rows] for column in columns]


def test_facts_of_the_active_layer(qtbot: QtBot, viewer: Any, panel: InfoWidget, specimen_file: Path, tmp_path: Path) -> None:
    assert "Open an LSFM file" in panel.file_facts.text()
    assert not panel.verify.isEnabled()
    path = tmp_path / "two.h5"
    shutil.copy(specimen_file, path)
    ingest_volume(path, "other", np.ones((4, 20, 30), np.uint8), (0.1, 0.2, 0.3), "LPS")
    with h5py.File(path, "r+") as h5:
        h5.require_group("extended_metadata").attrs["specimen"] = "mouse 42"
    show(viewer, path)
    qtbot.waitUntil(lambda: panel.channel.value == "other", timeout=TIMEOUT_MS)
    assert panel.file.value == path
    assert "LPS (origin at rai)" in panel.channel_facts.text() and "uint8" in panel.channel_facts.text()
    assert levels(panel)[0][:2] == ["4 x 20 x 30", "0.1 x 0.2 x 0.3"]
    assert panel.metadata.toPlainText() == "specimen\nmouse 42"
    assert panel.levels.verticalHeaderItem(1).text() == "voxel (mm)"
    viewer.layers.selection.active = viewer.layers["autofluo"]
    qtbot.waitUntil(lambda: panel.channel.value == "autofluo", timeout=TIMEOUT_MS)
    with open_lsfm(path) as file:
        for shown, level in zip(levels(panel), file["autofluo"].levels, strict=True):
            assert shown[0] == " x ".join(map(str, level.shape))
            assert shown[5] == f"{level.stored_bytes / 1e6:.1f}"
        assert f"{len(file['autofluo'].sources)} file(s)" in panel.channel_facts.text()
    panel.channel.setFocus()
    qtbot.keyClicks(panel.channel, "other")
    qtbot.waitUntil(lambda: "LPS" in panel.channel_facts.text(), timeout=TIMEOUT_MS)
    area = panel.findChild(QScrollArea)
    assert area.widget().width() <= area.viewport().width(), "nothing is cut off at the right"
    viewer.layers.clear()
    assert "Open an LSFM file" in panel.file_facts.text()
    assert panel.levels.isHidden()


def test_file_without_orientation_tells_so(qtbot: QtBot, viewer: Any, panel: InfoWidget, brain_data: Path) -> None:
    show(viewer, brain_data / "legacy_lsfmpy" / "mouse42.h5")
    qtbot.waitUntil(lambda: "not recorded" in panel.channel_facts.text(), timeout=TIMEOUT_MS)
    assert "written by lsfmpy" in panel.channel_facts.text()


def test_verify_finds_damage(qtbot: QtBot, viewer: Any, panel: InfoWidget, specimen_file: Path, tmp_path: Path) -> None:
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


def test_notes_are_read_in_whatever_form_they_come() -> None:
    assert list(_notes({"a": "1"})) == list(_notes(lambda: {"a": 1})) == [("a", "1")]
    record = SimpleNamespace(time=datetime(2020, 1, 2), operation="export", outcome="failed", message="disk full")
    assert list(_notes((record,))) == [("2020-01-02 00:00:00, export, failed", "disk full")]
