"""Texts, and paths with buttons that ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QLineEdit, QWidget

from lsfm_core import InputError
from napari_lsfm._widgets.fields._base import Field
from napari_lsfm._widgets.fields._rows import beside, small_button

__all__ = ["Listed", "PathField", "Text", "Texts"]

_TIPS = {"folder": "Choose a folder", "file": "Choose a file", "save": "Choose where to save it"}


class _TextEdit(QLineEdit):
    edited = Signal()

    def __init__(self, parent: QWidget | None = None, *, empty: str = "") -> None:
        super().__init__(parent)
        self.setPlaceholderText(empty)
        self.textChanged.connect(lambda _: self.edited.emit())

    def read(self) -> Any:
        return self.text().strip() or None

    def write(self, value: Any) -> None:
        self.setText("" if value is None else str(value))


class Text(Field, editor=_TextEdit):
    """A text, or None.

    Parameters
    ----------
    value : str, optional
    empty : str
        What is meant where nothing stands, or an example.
    """


class _TextsEdit(_TextEdit):
    def read(self) -> tuple[str, ...]:
        parts = tuple(part.strip() for part in self.text().split(";") if part.strip())
        if not parts:
            raise InputError("name at least one, by its id, acronym or name")
        return parts

    def write(self, value: Any) -> None:
        self.setText("; ".join(map(str, value or ())))


class Texts(Text, editor=_TextsEdit):
    """At least one text, with semicolons between them."""


class _ListedEdit(_TextEdit):
    def __init__(self, parent: QWidget | None = None, *, kind: type = str, empty: str = "") -> None:
        super().__init__(parent, empty=empty)
        self._kind = kind

    def read(self) -> tuple[Any, ...] | None:
        parts = [part.strip() for part in self.text().split(",") if part.strip()]
        try:
            return tuple(map(self._kind, parts)) or None
        except ValueError:
            raise InputError(f"expected whole numbers with commas between them, found {self.text()!r}") from None

    def write(self, value: Any) -> None:
        self.setText(", ".join(map(str, value or ())))


class Listed(Text, editor=_ListedEdit):
    """Texts or whole numbers, with commas between them, or None.

    Parameters
    ----------
    value : sequence, optional
    kind : {str, int}
    empty : str
        As for `Text`.
    """


class _PathEdit(QWidget):
    """Where the text is not the whole path, the mouse finds that."""

    edited = Signal()

    def __init__(
        self,
        parent: QWidget | None = None,
        *,
        empty: str = "",
        modes: Sequence[str] = ("file",),
        pattern: str = "All files (*)",
        suffix: str = "",
    ) -> None:
        super().__init__(parent)
        self._pattern, self._suffix, self._tip = pattern, suffix, ""
        #: Where the dialog begins; and what it asks for instead of what the button says.
        self.start = ""
        self.mode: str | None = None
        self.edit = QLineEdit()
        self.edit.setPlaceholderText(empty)
        # What is dropped on the field is for the form, and no text with "file://" before it.
        self.edit.setAcceptDrops(False)
        self.edit.setMinimumWidth(60)
        self.marked = [self.edit]
        buttons = [
            small_button(f"{mode.capitalize()}…" if len(modes) > 1 else "…", _TIPS[mode], partial(self._ask, mode), fixed=True)
            for mode in modes
        ]
        beside(self.edit, *buttons, into=self)
        self.edit.textChanged.connect(self._on_text)

    @property
    def whole(self) -> str:
        """The path with all its folders; empty where nothing stands."""
        text = self.edit.text().strip()
        return str(Path(text).absolute()) if text else ""

    def setToolTip(self, tip: str) -> None:  # noqa: N802
        super().setToolTip(tip)
        self._tip = tip
        self.edit.setToolTip(f"{tip}\n{self.whole}".strip())

    def read(self) -> Any:
        return self.edit.text().strip() or None

    def write(self, value: Any) -> None:
        self.edit.setText("" if value is None else str(value))

    def _ask(self, mode: str) -> None:
        start, mode, title = self.edit.text() or self.start, self.mode or mode, self.accessibleName()
        if mode == "folder":
            path = QFileDialog.getExistingDirectory(self, title, start)
        elif mode == "save":
            # It may be there: what that means, the form says.
            option = QFileDialog.Option.DontConfirmOverwrite
            path, _ = QFileDialog.getSaveFileName(self, title, start, self._pattern, options=option)
        else:
            path, _ = QFileDialog.getOpenFileName(self, title, start, self._pattern)
        if path:
            self.edit.setText(f"{path}{self._suffix}" if mode == "save" and not Path(path).suffix else path)

    def _on_text(self) -> None:
        self.setToolTip(self._tip)
        self.edited.emit()


class PathField(Field, editor=_PathEdit):
    """A path that may be a file, a folder, a pattern, or nothing.

    Parameters
    ----------
    value : path or str, optional
    empty : str
        What is meant where nothing stands.
    modes : sequence of str
        What its buttons ask for: ``"folder"``, ``"file"``, ``"save"``.
    pattern : str
        Of names that the dialog shows, as Qt spells it.
    suffix : str
        Of a name to be saved that has none.
    """

    @property
    def edit(self) -> QLineEdit:
        """Where it is typed."""
        return self.native.edit  # type: ignore[no-any-return]
