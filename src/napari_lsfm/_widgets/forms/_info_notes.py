"""What users noted of a file or of a channel, as a table that can be changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QHeaderView, QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget

from lsfm_core import InputError, edit_lsfm
from napari_lsfm._widgets.fields import ChoiceEdit, Words, beside, small_button

__all__ = ["NotesEditor", "write_notes"]

_KEY, _KIND, _VALUE = range(3)
#: What a value can be, and how each is told from its JSON.
_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "true/false": lambda value: isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
    "JSON": lambda _: True,
}
_EXAMPLES = {"number": "0.05", "true/false": "true", "list": '["a", 1]', "JSON": '{"a": [1, 2]}'}
_MOST_ROWS = 6
_KEY_WIDTH, _KIND_WIDTH = 110, 95

#: A file, and one of its channels or None.
Owner = tuple[Path, str | None]


class NotesEditor(QWidget):
    """Keys and values; ``saved(owner, before, after)`` asks for them to be written.

    What is not saved stays while another file or channel is shown.
    """

    saved = Signal(object, object, object)

    def __init__(self, of_what: str) -> None:
        super().__init__()
        self._owner: Owner | None = None
        #: What the file had when what stands here was typed, and what it has now.
        self._before: dict[str, Any] = {}
        self._stored: dict[str, Any] = {}
        #: What was typed and not saved: what stood there before, and the rows.
        self._drafts: dict[Owner, tuple[dict[str, Any], list[tuple[str, str, str]]]] = {}
        self._is_locked = False
        self._is_right = True
        self.table = QTableWidget(0, 3)
        self.table.setHorizontalHeaderLabels(["Key", "Kind", "Value"])
        self.table.verticalHeader().hide()
        self.table.setTabKeyNavigation(False)
        self.table.setAccessibleName(f"metadata of the {of_what}")
        self.table.setToolTip(f"What was noted of the {of_what}; a double click, or F2, changes it")
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(_VALUE, QHeaderView.ResizeMode.Stretch)
        header.setHighlightSections(False)
        for column, width in ((_KEY, _KEY_WIDTH), (_KIND, _KIND_WIDTH)):
            self.table.setColumnWidth(column, width)
        self.add = small_button("Add", f"Note something more of the {of_what}")
        self.remove = small_button("Remove", "Take the chosen row out")
        self.undo = small_button("Undo", "Show what the file has, and forget what was typed here")
        self.save = small_button("Save", "Write all that was changed here into the file, as one change")
        self.message = Words()
        self.message.setToolTip("What is wrong with what was typed")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for part in (self.table, beside(self.add, self.remove, self.undo, self.save), self.message):
            column.addWidget(part)
        self.table.itemChanged.connect(lambda _: self._on_typed())
        self.table.itemSelectionChanged.connect(self._enable)
        self.add.clicked.connect(self._on_add)
        self.remove.clicked.connect(self._on_remove)
        self.undo.clicked.connect(self._on_undo)
        self.save.clicked.connect(self._on_save)
        self.show_notes(None, {})

    def show_notes(self, owner: Owner | None, notes: Mapping[str, Any]) -> None:
        """Show what a file has, or what was typed here and not saved; None for nothing at all."""
        self._owner = owner
        self._before, rows = self._drafts.get(owner, (dict(notes), [_row(*note) for note in notes.items()])) if owner else ({}, [])
        with QSignalBlocker(self.table):
            self.table.setRowCount(0)
            for row in rows:
                self._append(*row)
        self._stored = dict(notes)
        self._on_typed()

    def forget(self, owner: Owner) -> None:
        """Let what was typed for a file or channel go: it is written."""
        self._drafts.pop(owner, None)

    def lock(self, locked: bool) -> None:
        """Let nothing be saved for a while."""
        self._is_locked = locked
        self._enable()

    def notes(self) -> dict[str, Any]:
        """What stands in the table.

        Raises
        ------
        InputError
            That names the row.
        """
        notes: dict[str, Any] = {}
        for number, (key, kind, text) in enumerate(self._rows(), 1):
            if not key.strip():
                raise InputError(f"row {number}: its key is missing")
            if key in notes:
                raise InputError(f"{key}: this key exists already: choose another one")
            notes[key] = _value(key, kind, text)
        return notes

    def _rows(self) -> list[tuple[str, str, str]]:
        rows = range(self.table.rowCount())
        return [
            (self.table.item(row, _KEY).text(), self.table.cellWidget(row, _KIND).read(), self.table.item(row, _VALUE).text())
            for row in rows
        ]

    def _append(self, key: str, kind: str, text: str) -> None:
        row = self.table.rowCount()
        self.table.insertRow(row)
        choice = ChoiceEdit()
        choice.offer((name, name) for name in _KINDS)
        choice.setAccessibleName("kind of value")
        choice.setToolTip("How the value is meant: lists and JSON are typed as JSON")
        choice.write(kind)
        choice.edited.connect(self._on_typed)
        self.table.setItem(row, _KEY, QTableWidgetItem(key))
        self.table.setCellWidget(row, _KIND, choice)
        value = QTableWidgetItem(text)
        value.setToolTip(text)
        self.table.setItem(row, _VALUE, value)

    def _on_typed(self) -> None:
        rows = self._rows()
        try:
            is_changed = _texts(self.notes()) != _texts(self._before)
            self._is_right = True
            self.message.say("Not saved yet." if is_changed else "")
        except InputError as error:
            is_changed, self._is_right = True, False
            self.message.complain(str(error))
        self.message.setVisible(is_changed)
        if self._owner is not None:
            if is_changed:
                self._drafts[self._owner] = (self._before, rows)
            else:
                self.forget(self._owner)
        self._fit()
        self._enable()

    def _fit(self) -> None:
        rows = min(max(1, self.table.rowCount()), _MOST_ROWS)
        height = self.table.rowHeight(0) if self.table.rowCount() else self.table.verticalHeader().defaultSectionSize()
        self.table.setFixedHeight(self.table.horizontalHeader().sizeHint().height() + rows * height + 4)

    def _enable(self) -> None:
        is_there = self._owner is not None
        is_changed = is_there and self._owner in self._drafts
        self.table.setEnabled(is_there)
        self.add.setEnabled(is_there)
        self.remove.setEnabled(is_there and bool(self.table.selectedItems()))
        self.undo.setEnabled(is_changed)
        self.save.setEnabled(is_changed and self._is_right and not self._is_locked)

    def _on_add(self) -> None:
        with QSignalBlocker(self.table):
            self._append("", "text", "")
        self._on_typed()
        item = self.table.item(self.table.rowCount() - 1, _KEY)
        self.table.setCurrentItem(item)
        self.table.editItem(item)

    def _on_remove(self) -> None:
        for row in sorted({item.row() for item in self.table.selectedItems()}, reverse=True):
            self.table.removeRow(row)
        self._on_typed()

    def _on_undo(self) -> None:
        assert self._owner is not None
        self.forget(self._owner)
        self.show_notes(self._owner, self._stored)

    def _on_save(self) -> None:
        self.saved.emit(self._owner, self._before, self.notes())


def write_notes(owner: Owner, before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """Write what was changed, as one change of the file; how much that was. What others noted meanwhile stays.

    Raises
    ------
    InputError
        If another program has changed the same.
    LsfmError
        As `lsfm_core.edit_lsfm`.
    """
    path, channel = owner
    old, new = _texts(before), _texts(after)
    changed = [key for key in old | new if old.get(key) != new.get(key)]
    with edit_lsfm(path) as editor:
        now = _texts(editor.metadata(channel))
        disputed = [key for key in changed if now.get(key) not in (old.get(key), new.get(key))]
        if disputed:
            raise InputError(
                f"{path}: another program has changed {', '.join(map(repr, disputed))} meanwhile; nothing was written: Undo "
                "shows what is there now"
            )
        for key in changed:
            if key in after:
                editor.set_metadata(key, after[key], channel=channel, overwrite=True)
            elif key in now:
                editor.remove_metadata(key, channel=channel)
    return len(changed)


def _texts(notes: Mapping[str, Any]) -> dict[str, str]:
    """As JSON: in Python, 1 and 1.0 and True are equal."""
    return {key: json.dumps(value, sort_keys=True) for key, value in notes.items()}


def _row(key: str, value: Any) -> tuple[str, str, str]:
    kind = next(name for name, is_kind in _KINDS.items() if is_kind(value))
    return key, kind, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _value(key: str, kind: str, text: str) -> Any:
    if kind == "text":
        return text
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{key}: {text!r} is no {kind}, such as {_EXAMPLES[kind]} ({error})") from None
    if not _KINDS[kind](value):
        raise InputError(f"{key}: {text!r} is no {kind}, such as {_EXAMPLES[kind]}")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not finite")
