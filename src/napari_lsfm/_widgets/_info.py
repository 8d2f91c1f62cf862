"""What is in a file: the facts of a channel, what was noted, and whether all of it is whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QHeaderView,
    QLabel,
    QListWidget,
    QPlainTextEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from lsfm_core import Channel, LsfmFile, VerifyReport, open_lsfm, verify_file
from napari_lsfm._widgets._facts import lsfm_paths
from napari_lsfm._widgets._fields import Choice, Scrolled, Section, beside, stacked
from napari_lsfm._workers import ERROR_STYLE, WARNING_STYLE, JobPanel, Latest

if TYPE_CHECKING:
    import napari

__all__ = ["InfoWidget"]

_WIDTH = 400
_LEVEL_FACTS = ("shape", "voxel", "factors", "chunk", "MB", "stored MB")
_NOTES_HEIGHT = 130
_TITLE_WIDTH = 115
#: What a log entry tells, in the order in which it is read.
_HEADING, _BODY = ("time", "operation", "channel", "outcome"), ("command", "message", "text")


@dataclass(frozen=True)
class _Info:
    """What is shown of a file, and of one of its channels.

    Attributes
    ----------
    path : Path
    channels : tuple of str
    chosen : str or None
        None if there is no channel.
    file_facts, channel_facts : tuple of (str, str)
        Titles and texts.
    levels : tuple of tuple of str
        Columns of the table.
    unit : str
        Of lengths.
    remarks : tuple of str
    metadata, log : tuple of (str, str)
        Titles and texts.
    """

    path: Path
    channels: tuple[str, ...]
    chosen: str | None
    file_facts: tuple[tuple[str, str], ...]
    channel_facts: tuple[tuple[str, str], ...]
    levels: tuple[tuple[str, ...], ...]
    unit: str
    remarks: tuple[str, ...]
    metadata: tuple[tuple[str, str], ...]
    log: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, path: Path, wanted: str | None) -> _Info:
        """Look into a file; for a thread, since every chunk is asked for its size."""
        with open_lsfm(path) as file:
            names = tuple(file)
            chosen = wanted if wanted in names else names[0] if names else None
            channel = file[chosen] if chosen is not None else None
            return cls(
                path=file.path,
                channels=names,
                chosen=chosen,
                file_facts=tuple(_file_facts(file)),
                channel_facts=tuple(_channel_facts(channel)) if channel is not None else (),
                levels=tuple(_level_facts(channel)) if channel is not None else (),
                unit=channel.unit if channel is not None else "",
                remarks=channel.remarks if channel is not None else (),
                metadata=tuple(_notes(file.metadata)),
                log=tuple(_notes(file.log)),
            )


class InfoWidget(QWidget):
    """What is in the file of the active layer.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._reader = Latest(self)
        self._reader.answered.connect(self._show)
        self._reader.failed.connect(self._complain)
        self._build()
        self.file.chosen.connect(self._read)
        self.channel.chosen.connect(self._read)
        self.verify.clicked.connect(self._verify)
        self.panel.finished.connect(lambda: self.verify.setEnabled(self.file.value is not None))
        for emitter in self._emitters():
            emitter.connect(self._on_layers)
        self._on_layers()

    def sizeHint(self) -> QSize:  # noqa: N802
        """As wide as it needs to be, and leave the rest to the canvas."""
        return QSize(_WIDTH, super().sizeHint().height())

    def _build(self) -> None:
        file = Section("File")
        self.file = Choice()
        file.row("File", self.file, "The files that this viewer shows; that of the active layer comes first")
        self.file_facts = _text()
        file.row("", self.file_facts, "About the file")
        channel = Section("Channel")
        self.channel = Choice()
        channel.row("Channel", self.channel, "All channels of the file, also those that have no layer")
        self.channel_facts = _text()
        channel.row("", self.channel_facts, "About the channel")
        self.levels = QTableWidget(len(_LEVEL_FACTS), 0)
        self.levels.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        for header in (self.levels.horizontalHeader(), self.levels.verticalHeader()):
            header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.levels.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.levels.setTabKeyNavigation(False)
        channel.row("", self.levels, "The pyramid; level 0 is the finest. Planes, rows, columns")
        metadata, log = Section("Metadata"), Section("Log")
        self.metadata, self.log = _pages(), _pages()
        metadata.row("", self.metadata, "What was noted about the whole file")
        log.row("", self.log, "What was noted about each change")
        content = stacked(file, channel, metadata, log)
        self.thorough = QCheckBox("coarse levels too")
        self.thorough.setToolTip("Also compute every coarser level anew, and compare; takes longer")
        self.verify = QPushButton("Verify")
        self.verify.setToolTip("Check the file: its structure, its XML, and every chunk's checksum")
        self.defects = QListWidget()
        self.defects.setAccessibleName("defects")
        self.defects.setToolTip("What is wrong with the file")
        self.defects.setWordWrap(True)
        self.defects.setFixedHeight(_NOTES_HEIGHT)
        self.defects.hide()
        self.panel = JobPanel()
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.addWidget(Scrolled(content), 1)
        column.addWidget(self.defects)
        column.addWidget(beside(self.verify, self.thorough))
        column.addWidget(self.panel)

    def _emitters(self) -> tuple[Any, ...]:
        layers = self._viewer.layers
        return layers.events.inserted, layers.events.removed, layers.selection.events.active

    def _on_layers(self, event: Any = None) -> None:
        paths = lsfm_paths(self._viewer)
        self.file.offer((path.name, path) for path in paths)
        for row, path in enumerate(paths):
            self.file.setItemData(row, str(path), Qt.ItemDataRole.ToolTipRole)
        active = self._viewer.layers.selection.active
        origin = active.metadata.get("lsfm") if active is not None else None
        if origin is not None:
            self.file.blockSignals(True)
            self.file.value = Path(origin["path"])
            self.file.blockSignals(False)
        self._read(wanted=origin["channel"] if origin is not None else None)

    def _read(self, wanted: str | None = None) -> None:
        path = self.file.value
        self.verify.setEnabled(path is not None and not self.panel.is_busy)
        if path is None:
            self._reader.forget()
            self._clear("Open an LSFM file to see what is in it.")
        else:
            channel = wanted or self.channel.value
            self._reader.ask(lambda _: _Info.read(path, channel))

    def _clear(self, text: str, style: str = "") -> None:
        self.channel.offer(())
        self.levels.setColumnCount(0)
        self.levels.hide()
        for field in (self.channel_facts, self.metadata, self.log):
            field.clear()
        self.file_facts.setStyleSheet(style)
        self.file_facts.setText(escape(text))

    def _complain(self, text: str) -> None:
        self._clear(text, ERROR_STYLE)

    def _show(self, info: _Info) -> None:
        self.channel.offer((name, name) for name in info.channels)
        self.channel.blockSignals(True)
        self.channel.value = info.chosen
        self.channel.blockSignals(False)
        self.file_facts.setStyleSheet("")
        self.file_facts.setText(_table(info.file_facts))
        remarks = "".join(f'<p style="{WARNING_STYLE}">{escape(remark)}</p>' for remark in info.remarks)
        self.channel_facts.setText(_table(info.channel_facts) + remarks)
        self._show_levels(info)
        for field, notes in ((self.metadata, info.metadata), (self.log, info.log)):
            field.setPlainText("\n\n".join(f"{title}\n{text}".strip() for title, text in notes))
            field.setFixedHeight(min(_NOTES_HEIGHT, (field.blockCount() + 1) * field.fontMetrics().lineSpacing()))

    def _show_levels(self, info: _Info) -> None:
        self.levels.show()
        self.levels.setColumnCount(len(info.levels))
        self.levels.setHorizontalHeaderLabels([f"level {index}" for index in range(len(info.levels))])
        self.levels.setVerticalHeaderLabels([f"voxel ({info.unit})" if fact == "voxel" else fact for fact in _LEVEL_FACTS])
        for column, texts in enumerate(info.levels):
            for row, text in enumerate(texts):
                self.levels.setItem(row, column, QTableWidgetItem(text))
        height = self.levels.horizontalHeader().height() + self.levels.verticalHeader().length()
        self.levels.setFixedHeight(height + self.levels.horizontalScrollBar().sizeHint().height() + 4)

    def _verify(self) -> None:
        path = self.file.value
        self.defects.clear()
        self.defects.hide()
        self.panel.run(partial(verify_file, path, levels=self.thorough.isChecked()), f"Verify {path.name}", self._on_verified)
        self.verify.setEnabled(False)

    def _on_verified(self, report: VerifyReport) -> str:
        if not report.defects:
            return f"{report.path.name}: all well: {report.chunks} chunks, {_mb(report.raw_bytes)} MB, every checksum right."
        self.defects.addItems([str(defect) for defect in report.defects])
        self.defects.show()
        return f"{report.path.name}: {len(report.defects)} defect(s) found."

    def event(self, event: QEvent) -> bool:
        """Let go of the viewer when napari takes the panel out of its window."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            for emitter in self._emitters():
                emitter.disconnect(self._on_layers)
            self.panel.cancel()
            self.deleteLater()
        return bool(super().event(event))


def _file_facts(file: LsfmFile) -> Iterator[tuple[str, str]]:
    yield "Folder", str(file.path.parent)
    yield "Size", f"{_mb(file.path.stat().st_size)} MB, {len(file)} channel(s)"
    yield "BigDataViewer", file.xml_path.name if file.xml_path.exists() else "no XML"


def _channel_facts(channel: Channel) -> Iterator[tuple[str, str]]:
    yield "Kind", f"{channel.kind}, {channel.dtype}"
    if channel.orientation is None:
        yield "Orientation", "not recorded"
    else:
        yield "Orientation", f"{channel.orientation} (origin at {channel.orientation.origin_letters})"
        yield "", channel.orientation.describe().replace("->", "→").replace("; ", "\n")
        yield "Extent", f"{_by(channel.space.bounds.size_mm, '.3f')} mm (R, A, S)"
        yield "", str(channel.space.bounds).replace(" x ", "\n")
    if channel.display_range is not None:
        yield "Display range", " to ".join(f"{value:g}" for value in channel.display_range)
    yield "Setup", "not in BigDataViewer" if channel.setup is None else f"{channel.setup} in BigDataViewer"
    if channel.affines:
        yield "Affines", ", ".join(channel.affines)
    if channel.partner:
        yield "Inverse", channel.partner
    if channel.sources:
        first, last = channel.sources[0].name, channel.sources[-1].name
        names = first if len(channel.sources) == 1 else f"{first} … {last}"
        yield "Sources", f"{len(channel.sources)} file(s), {_mb(sum(source.size for source in channel.sources))} MB\n{names}"
    if channel.written_by:
        yield "Written by", channel.written_by


def _level_facts(channel: Channel) -> Iterator[tuple[str, ...]]:
    for level in channel.levels:
        yield (
            _by(level.shape),
            _by(level.space.voxel_size_mm),
            _by(level.factors),
            _by(level.data.chunks),
            _mb(level.data.nbytes),
            _mb(level.stored_bytes),
        )


def _notes(stored: Any) -> Iterator[tuple[str, str]]:
    """Metadata or a log as titles and texts: a mapping of texts, a function that gives one, or records of changes."""
    notes = stored() if callable(stored) else stored
    if isinstance(notes, Mapping):
        yield from ((str(name), str(text)) for name, text in notes.items())
        return
    for record in notes:
        heading = (getattr(record, name, None) for name in _HEADING)
        body = (getattr(record, name, None) for name in _BODY)
        yield ", ".join(str(part) for part in heading if part), "\n".join(str(part) for part in body if part)


def _table(facts: tuple[tuple[str, str], ...]) -> str:
    rows = (
        f"<tr><td width={_TITLE_WIDTH}>{title}</td><td>{escape(text).replace(chr(10), '<br>')}</td></tr>" for title, text in facts
    )
    return f"<table>{''.join(rows)}</table>"


def _text() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard)
    return label


def _pages() -> QPlainTextEdit:
    pages = QPlainTextEdit()
    pages.setReadOnly(True)
    pages.setPlaceholderText("nothing")
    pages.setTabChangesFocus(True)
    pages.setFixedHeight(2 * pages.fontMetrics().lineSpacing())
    return pages


def _by(values: Any, form: str = "g") -> str:
    return " x ".join(format(value, form) for value in values)


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f}"
