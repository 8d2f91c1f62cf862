"""Texts, and paths with buttons that ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from magicgui.types import Undefined
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QPushButton, QWidget

from lsfm_core import InputError
from napari_lsfm._widgets.fields._base import Field
from napari_lsfm._widgets.fields._rows import small_button

__all__ = ["Listed", "PathEdit", "PathField", "Text", "TextEdit", "Texts"]


class TextEdit(QLineEdit):
    """A text; empty is None."""

    edited = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.textChanged.connect(lambda _: self.edited.emit())

    def read(self) -> Any:
        """The text without space around it, or None."""
        return self.text().strip() or None

    def write(self, value: Any) -> None:
        """Show a text."""
        self.setText("" if value is None else str(value))


class Text(Field, editor=TextEdit):
    """A text, or None.

    Parameters
    ----------
    value : str, optional
    empty : str
        What is meant where nothing stands, or an example.
    """

    def __init__(self, value: Any = Undefined, *, empty: str = "", **keywords: Any) -> None:
        super().__init__(**keywords)
        self.native.setPlaceholderText(empty)
        if value is not Undefined:
            self.value = value


class _TextsEdit(TextEdit):
    def read(self) -> tuple[str, ...]:
        parts = tuple(part.strip() for part in self.text().split(";") if part.strip())
        if not parts:
            raise InputError("name at least one, by its id, acronym or name")
        return parts

    def write(self, value: Any) -> None:
        self.setText("; ".join(map(str, value or ())))


class Texts(Text, editor=_TextsEdit):
    """At least one text, with semicolons between them."""


class _ListedEdit(TextEdit):
    kind: type = str

    def read(self) -> tuple[Any, ...] | None:
        parts = [part.strip() for part in self.text().split(",") if part.strip()]
        try:
            return tuple(map(self.kind, parts)) or None
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
    """

    def __init__(self, value: Any = Undefined, *, kind: type = str, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.native.kind = kind
        if value is not Undefined:
            self.value = value


class PathEdit(QWidget):
    """A path or a pattern, and buttons that ask for one; where it is not the whole path, the mouse finds that."""

    edited = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.edit = QLineEdit()
        # What is dropped on the field is for the form, and no text with "file://" before it.
        self.edit.setAcceptDrops(False)
        self.edit.setMinimumWidth(60)
        self.suffix = self._tip = self.start = ""
        #: Asked for instead of what the button says.
        self.mode: str | None = None
        self._row = QHBoxLayout(self)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.setSpacing(4)
        self._row.addWidget(self.edit, 1)
        self.setFocusProxy(self.edit)
        self.edit.textChanged.connect(lambda _: self._on_text())

    @property
    def marked(self) -> list[QLineEdit]:
        """What gets a frame."""
        return [self.edit]

    @property
    def whole(self) -> str:
        """The path with all its folders; empty where nothing stands."""
        text = self.edit.text().strip()
        return str(Path(text).absolute()) if text else ""

    def setToolTip(self, tip: str) -> None:  # noqa: N802
        """Say what the field is for."""
        super().setToolTip(tip)
        self._tip = tip
        self._on_text(tell=False)

    def add_button(self, text: str, mode: str, title: str, pattern: str) -> QPushButton:
        """A button that asks for a path: ``"folder"``, ``"file"``, or ``"save"`` for one that need not be there."""
        tip = f"Choose: {title[0].lower()}{title[1:]}"
        button = small_button(text, tip, lambda: self.ask(mode, title, pattern), fixed=True)
        self._row.addWidget(button)
        return button

    def ask(self, mode: str, title: str, pattern: str) -> None:
        """Ask for a path in a dialog."""
        start, mode = self.edit.text() or self.start, self.mode or mode
        if mode == "folder":
            path = QFileDialog.getExistingDirectory(self, title, start)
        elif mode == "save":
            # It may be there: what that means, the form says.
            path, _ = QFileDialog.getSaveFileName(self, title, start, pattern, options=QFileDialog.Option.DontConfirmOverwrite)
        else:
            path, _ = QFileDialog.getOpenFileName(self, title, start, pattern)
        if path:
            self.edit.setText(f"{path}{self.suffix}" if mode == "save" and not Path(path).suffix else path)

    def read(self) -> Any:
        """The path as text, or None."""
        return self.edit.text().strip() or None

    def write(self, value: Any) -> None:
        """Show a path."""
        self.edit.setText("" if value is None else str(value))

    def _on_text(self, *, tell: bool = True) -> None:
        self.edit.setToolTip(f"{self._tip}\n{self.whole}".strip())
        if tell:
            self.edited.emit()


class PathField(Field, editor=PathEdit):
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

    def __init__(
        self,
        value: Any = Undefined,
        *,
        empty: str = "",
        modes: Sequence[str] = ("file",),
        pattern: str = "All files (*)",
        suffix: str = "",
        **keywords: Any,
    ) -> None:
        super().__init__(**keywords)
        edit: PathEdit = self.native
        edit.edit.setPlaceholderText(empty)
        edit.suffix = suffix
        for mode in modes:
            edit.add_button(f"{mode.capitalize()}…" if len(modes) > 1 else "…", mode, self.label, pattern)
        if value is not Undefined:
            self.value = value

    @property
    def edit(self) -> QLineEdit:
        """Where it is typed."""
        return self.native.edit  # type: ignore[no-any-return]
