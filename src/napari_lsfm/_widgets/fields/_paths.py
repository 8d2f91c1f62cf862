"""A folder, or several files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QLineEdit, QWidget

from napari_lsfm._widgets.fields._base import Field
from napari_lsfm._widgets.fields._rows import beside, small_button

__all__ = ["PathsField"]

_BETWEEN = "; "


class _PathsEdit(QWidget):
    edited = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.edit = QLineEdit()
        # What is dropped on the field is for the form, and no text with "file://" before it.
        self.edit.setAcceptDrops(False)
        self.edit.setMinimumWidth(60)
        self.marked = [self.edit]
        folder = small_button("Folder…", "Choose a folder", self._ask_for_folder, fixed=True)
        files = small_button("Files…", "Choose files", self._ask_for_files, fixed=True)
        beside(self.edit, folder, files, into=self)
        self.setFocusProxy(self.edit)
        self.edit.textChanged.connect(lambda _: self.edited.emit())

    def read(self) -> tuple[Path, ...] | None:
        """The paths; None if there are none."""
        text = self.edit.text().strip()
        parts = [text] if text and Path(text).exists() else text.split(_BETWEEN.strip())
        return tuple(Path(part.strip()) for part in parts if part.strip()) or None

    def write(self, value: Any) -> None:
        self.edit.setText(_BETWEEN.join(map(str, [value] if isinstance(value, (str, Path)) else value or ())))

    def _ask_for_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, self.accessibleName(), self._start)
        if path:
            self.write(path)

    def _ask_for_files(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, self.accessibleName(), self._start)
        if paths:
            self.write(paths)

    @property
    def _start(self) -> str:
        return str((self.read() or ("",))[0])


class PathsField(Field, editor=_PathsEdit):
    """Paths as a tuple, with semicolons between them, or None."""
