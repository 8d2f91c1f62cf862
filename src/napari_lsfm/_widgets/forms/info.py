"""What is in a file: the facts of a channel, what was noted, what was done, and whether all of it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHeaderView, QListWidget, QTableWidget, QTableWidgetItem, QWidget

from lsfm_core import FileInfo, LogRecord, VerifyReport, describe_file, open_lsfm, size_text, verify_file
from napari_lsfm._widgets._facts import layers_of, lsfm_paths, origin_of
from napari_lsfm._widgets.fields import Choice, Tick, Words, beside, small_button
from napari_lsfm._widgets.forms._info_log import LogTable
from napari_lsfm._widgets.forms._info_notes import NotesEditor, Owner, write_notes
from napari_lsfm._widgets.forms._sections import Sections
from napari_lsfm._words import ERROR_STYLE, WARNING_STYLE
from napari_lsfm._workers import Job, Latest

if TYPE_CHECKING:
    import napari
    from magicgui.widgets import Widget

__all__ = ["InfoPanel"]

_DEFECTS_HEIGHT = 130
_TITLE_WIDTH = 90
_THOROUGH = "Also compute every coarser level anew, and compare; takes longer"


@dataclass(frozen=True)
class _Look:
    """What is shown of a file, and of one of its channels.

    Attributes
    ----------
    path : Path
        Of the HDF5 file.
    channels : tuple of str
        All there are.
    info : FileInfo
        With the chosen channel only; with none if there is none.
    log : tuple of LogRecord
    """

    path: Path
    channels: tuple[str, ...]
    info: FileInfo
    log: tuple[LogRecord, ...]

    @classmethod
    def take(cls, path: Path, wanted: str | None) -> _Look:
        """Look into a file; for a thread, since every chunk is asked for its size."""
        with open_lsfm(path) as file:
            names = tuple(file)
            chosen = wanted if wanted in names else next(iter(names), None)
            return cls(file.path, names, describe_file(file, chosen), file.log())


class InfoPanel(Sections):
    """What is in the file of the active layer."""

    width_hint = 400
    sections: ClassVar = {
        "File": ("file", "file_facts", "file_notes"),
        "Channel": ("channel", "channel_facts", "levels", "channel_notes"),
        "Log": ("log",),
    }

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        self._said_of: Path | None = None
        super().__init__(napari_viewer)
        root = self.native
        self._reader = Latest(root, answered=self._show, failed=self._complain)
        self.refresh = small_button("Refresh", "Look into the file again: another program may have changed it", self._read)
        self.verify = small_button("Verify", "Check the file: its structure, its XML, and every chunk's checksum", self._verify)
        tip = "Make an ordinary layer of a level of this channel, for plugins that take no more"
        self.plain = small_button("Plain layer…", tip, self._open_plain)
        self.thorough = Tick(False, name="thorough", text="coarse levels too", tooltip=_THOROUGH)
        self.defects = QListWidget()
        self.defects.setAccessibleName("defects")
        self.defects.setToolTip("What is wrong with the file")
        self.defects.setWordWrap(True)
        self.defects.setFixedHeight(_DEFECTS_HEIGHT)
        self.defects.hide()
        buttons = beside(self.refresh, self.plain, self.verify, self.thorough.native)
        root.end([], self.defects, buttons, self.panel)
        self.file.changed.connect(lambda _: self._read())
        self.channel.changed.connect(lambda _: self._read())
        for notes in (self.file_notes, self.channel_notes):
            notes.saved.connect(self._save)
        self.panel.finished.connect(self._enable)
        layers = napari_viewer.layers
        self._show_rows(False, "levels")
        self._listen(self._on_layers, layers.events.inserted, layers.events.removed, layers.selection.events.active)
        self._on_layers()

    def _make(self, name: str) -> Widget | tuple[str, QWidget, str]:
        match name:
            case "file":
                tip = "The files that this viewer shows; that of the active layer comes first"
                return Choice(name=name, label="File", tooltip=tip)
            case "file_facts":
                self.file_facts = Words()
                return "", self.file_facts, "About the file"
            case "file_notes":
                self.file_notes = NotesEditor("file")
                return "", self.file_notes, "What was noted of the whole file"
            case "channel":
                return Choice(name=name, label="Channel", tooltip="All channels of the file, also those that have no layer")
            case "channel_facts":
                self.channel_facts = Words()
                return "", self.channel_facts, "About the channel"
            case "levels":
                self.levels = QTableWidget()
                self.levels.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
                for header in (self.levels.horizontalHeader(), self.levels.verticalHeader()):
                    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
                self.levels.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
                self.levels.setTabKeyNavigation(False)
                return "", self.levels, "The pyramid; level 0 is the finest. Planes, rows, columns"
            case "channel_notes":
                self.channel_notes = NotesEditor("channel")
                return "", self.channel_notes, "What was noted of the channel"
        self.log = LogTable()
        return "", self.log, "What was done with the file"

    def _on_layers(self, event: Any = None) -> None:
        paths = lsfm_paths(self._viewer)
        self.file.offer((path.name, path) for path in paths)
        for row, path in enumerate(paths):
            self.file.native.setItemData(row, str(path), Qt.ItemDataRole.ToolTipRole)
        origin = origin_of(self._viewer.layers.selection.active)
        if origin is not None:
            with self.file.changed.blocked():
                self.file.value = Path(origin["path"])
        self._read(origin["channel"] if origin is not None else None)

    def _read(self, wanted: str | None = None) -> None:
        path = self.file.native.currentData()
        self._enable()
        if path != self._said_of and not self.panel.is_busy:
            # What was found of another file would be taken for this one's.
            self.defects.hide()
            self.panel.say("")
            self._said_of = path
        if path is None:
            self._reader.forget()
            self._clear("Open an LSFM file to see what is in it.")
        else:
            channel = wanted or self.channel.native.currentData()
            self._reader.ask(lambda _: _Look.take(path, channel))

    def _enable(self) -> None:
        has_file = self.file.native.currentData() is not None
        self.refresh.setEnabled(has_file)
        self.verify.setEnabled(has_file and not self.panel.is_busy)
        self.plain.setEnabled(bool(self._shown_layers()))
        for notes in (self.file_notes, self.channel_notes):
            notes.lock(self.panel.is_busy)

    def _clear(self, text: str, style: str = "") -> None:
        self.channel.offer(())
        self._show_rows(False, "levels")
        self.channel_facts.say("")
        for notes in (self.file_notes, self.channel_notes):
            notes.show_notes(None, {})
        self.log.show_log(Path(), ())
        self.file_facts.say(escape(text), style)

    def _complain(self, text: str) -> None:
        self._clear(text, ERROR_STYLE)

    def _show(self, look: _Look) -> None:
        info = look.info
        channel = next(iter(info.channels), None) if look.channels else None
        self.channel.offer((name, name) for name in look.channels)
        if channel is not None:
            with self.channel.changed.blocked():
                self.channel.value = channel.name
        self._enable()
        size = f"{len(look.channels)} channel(s), {size_text(info.bytes)}"
        facts = [("folder", str(look.path.absolute().parent)), ("size", size), ("XML", info.xml.words)]
        self.file_facts.say(_table(facts, info.warnings))
        self.file_notes.show_notes((look.path, None), info.metadata)
        self.log.show_log(look.path, look.log)
        if channel is None:
            self.channel_facts.say("")
            self._show_rows(False, "levels")
            self.channel_notes.show_notes(None, {})
            return
        self.channel_facts.say(_table([("", channel.summary), *channel.facts()], channel.warnings))
        self.channel_notes.show_notes((look.path, channel.name), channel.metadata)
        self._show_levels(channel.level_table())

    def _show_levels(self, table: list[tuple[str, ...]]) -> None:
        """Levels side by side, which is narrower than below each other."""
        titles, *levels = table
        self._show_rows(True, "levels")
        self.levels.setRowCount(len(titles) - 1)
        self.levels.setColumnCount(len(levels))
        self.levels.setHorizontalHeaderLabels([f"{titles[0]} {level[0]}" for level in levels])
        self.levels.setVerticalHeaderLabels(list(titles[1:]))
        for column, level in enumerate(levels):
            for row, text in enumerate(level[1:]):
                self.levels.setItem(row, column, QTableWidgetItem(text))
        height = self.levels.horizontalHeader().height() + self.levels.verticalHeader().length()
        self.levels.setFixedHeight(height + self.levels.horizontalScrollBar().sizeHint().height() + 4)

    def _save(self, owner: Owner, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        def done(count: int) -> str:
            for notes in (self.file_notes, self.channel_notes):
                notes.forget(owner)
            return f"{owner[0].name}: {count} note(s) changed."

        title = f"Save metadata of {owner[1] or owner[0].name}"
        job = self._run(lambda **_: write_notes(owner, before, after), title, done)
        # Also if it failed: another program may have changed the file.
        job.finished.connect(self._read)

    def _shown_layers(self) -> list[Any]:
        """Layers of the channel of which a plain one can be made."""
        path, channel = self.file.native.currentData(), self.channel.native.currentData()
        if path is None or channel is None:
            return []
        return [layer for layer in layers_of(self._viewer, path, channel) if origin_of(layer)["kind"] != "vectors"]

    def _open_plain(self) -> None:
        layers = self._shown_layers()
        _, form = self._viewer.window.add_plugin_dock_widget("napari-lsfm", "This level as a plain layer", tabify=True)
        form.layer.value = layers[0]

    def _verify(self) -> None:
        path = self.file.native.currentData()
        self.defects.clear()
        self.defects.hide()
        self._run(partial(verify_file, path, levels=self.thorough.value), f"Verify {path.name}", self._on_verified)

    def _run(self, work: Callable[..., Any], title: str, on_done: Callable[[Any], str]) -> Job:
        job = self.panel.run(work, title, on_done)
        self._enable()
        return job

    def _on_verified(self, report: VerifyReport) -> str:
        if not report.defects:
            return f"{report.path.name}: {report.describe()}."
        self.defects.addItems([str(defect) for defect in report.defects])
        self.defects.show()
        return f"{report.path.name}: {len(report.defects)} defect(s) found."


def _table(facts: Iterable[tuple[str, str]], warnings: Iterable[str]) -> str:
    rows = (
        f"<tr><td width={_TITLE_WIDTH}>{title.capitalize() if title.islower() else title}</td><td>{escape(text)}</td></tr>"
        for title, text in facts
    )
    doubts = (f'<p style="{WARNING_STYLE}">{escape(warning)}</p>' for warning in warnings)
    return f"<table>{''.join(rows)}</table>{''.join(doubts)}"
