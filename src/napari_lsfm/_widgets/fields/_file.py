"""The choice of a file: those that the viewer shows, and any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_lsfm._widgets._facts import FileFacts, lsfm_paths
from napari_lsfm._widgets.fields._base import Field
from napari_lsfm._widgets.fields._choice import ChoiceEdit
from napari_lsfm._widgets.fields._rows import beside, small_button
from napari_lsfm._workers import Latest

__all__ = ["FileField"]

_NOTHING = "Open a file with File > Open File(s)…, or choose one with the … button above."


class _FileEdit(QWidget):
    """Looks into the chosen file, in a thread: ``chosen(facts)`` when that is done, ``failed(message)`` if there is nothing to use.

    ``left()`` comes first.
    """

    edited = Signal()
    left = Signal()
    chosen = Signal(object)
    failed = Signal(str)

    def __init__(self, parent: QWidget | None = None, *, viewer: Any = None) -> None:
        super().__init__(parent)
        self._viewer: Any = None
        self._opened: list[Path] = []
        self._choice = ChoiceEdit()
        self.marked = [self._choice]
        beside(self._choice, small_button("…", "Choose a file that is not open here", self._browse, fixed=True), into=self)
        self._reader = Latest(self, answered=self.chosen.emit, failed=self.failed.emit)
        self._choice.edited.connect(self._read)
        if viewer is not None:
            self.start(viewer)

    @property
    def is_busy(self) -> bool:
        """Whether a file is being looked into."""
        return self._reader.is_busy

    def start(self, viewer: Any) -> None:
        """Offer a viewer's files, and choose that of the active layer; signals should be connected by now."""
        self._viewer = viewer
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            event.connect(self._on_layers)
        self._offer()
        self._read()

    def look_now(self) -> None:
        """Look into the chosen file at once, for a script that does not wait.

        Raises
        ------
        LsfmError
        """
        path = self.read()
        if path is not None:
            facts = FileFacts.read(path)
            self._reader.forget()
            self.chosen.emit(facts)

    def let_go(self) -> None:
        """Listen to the viewer no more."""
        if self._viewer is None:
            return
        for event in (self._viewer.layers.events.inserted, self._viewer.layers.events.removed):
            event.disconnect(self._on_layers)
        self._viewer = None

    def read(self) -> Path | None:
        path: Path | None = self._choice.chosen
        return path

    def write(self, value: Any) -> None:
        """Take a file, whether it is open in the viewer or not."""
        if value is None:
            return
        path = Path(value)
        if path not in self._choice.values:
            self._opened.append(path)
            # The first one to be offered is chosen thereby.
            self._on_layers()
        self._choice.write(path)

    def _on_layers(self, event: Any = None) -> None:
        before = self.read()
        self._offer()
        if self.read() != before:
            self._read()

    def _offer(self) -> None:
        paths = dict.fromkeys([*([] if self._viewer is None else lsfm_paths(self._viewer)), *self._opened])
        if set(paths) != set(self._choice.values):
            self._choice.offer((path.name, path) for path in paths)
            for row, path in enumerate(paths):
                self._choice.setItemData(row, str(path), Qt.ItemDataRole.ToolTipRole)

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Choose a file", "", "HDF5 and BigDataViewer (*.h5 *.hdf5 *.xml)")
        if path:
            self.write(path)

    def _read(self) -> None:
        self.left.emit()
        self.edited.emit()
        path = self.read()
        if path is None:
            self._reader.forget()
            self.failed.emit(_NOTHING)
        else:
            self._reader.ask(lambda _: FileFacts.read(path))


class FileField(Field, editor=_FileEdit):
    """One of the files that a viewer shows, or another.

    Parameters
    ----------
    value : path, optional
    viewer : napari.Viewer, optional
        Told to ``native.start`` later, where whoever wants to hear of the file must connect first.
    """
