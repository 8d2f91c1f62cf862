"""The choice of a file: those that the viewer shows, and any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_lsfm._widgets._facts import FileFacts, lsfm_paths
from napari_lsfm._widgets._fields import Choice, beside, browse_button
from napari_lsfm._workers import Latest

__all__ = ["FilePicker"]

_NOTHING = "Open a file with File > Open File(s)…, or choose one with the … button above."


class FilePicker(QWidget):
    """Looks into the chosen file, in a thread: ``chosen(facts)`` when that is done, ``failed(message)`` if there is nothing to use.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    left = Signal()
    chosen = Signal(object)
    failed = Signal(str)

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self._opened: list[Path] = []
        self._choice = Choice()
        beside(self._choice, browse_button("Choose a file that is not open here", self._browse), into=self)
        self.setFocusProxy(self._choice)
        self._reader = Latest(self)
        self._reader.answered.connect(self.chosen)
        self._reader.failed.connect(self.failed)
        self._choice.chosen.connect(self._read)
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            event.connect(self._on_layers)

    @property
    def is_busy(self) -> bool:
        """Whether a file is being looked into."""
        return self._reader.is_busy

    @property
    def path(self) -> Path | None:
        """The chosen file."""
        path: Path | None = self._choice.value
        return path

    def start(self) -> None:
        """Choose the file of the active layer, or none; signals should be connected by now."""
        self._offer()
        self._read()

    def choose(self, path: Path) -> None:
        """Take a file, whether it is open in the viewer or not."""
        if path not in self._choice.values:
            self._opened.append(path)
            # The first one to be offered is chosen thereby.
            self._on_layers()
        self._choice.value = path

    def let_go(self) -> None:
        """Listen to the viewer no more."""
        for event in (self._viewer.layers.events.inserted, self._viewer.layers.events.removed):
            event.disconnect(self._on_layers)

    def _on_layers(self, event: Any = None) -> None:
        before = self.path
        self._offer()
        if self.path != before:
            self._read()

    def _offer(self) -> None:
        paths = dict.fromkeys([*lsfm_paths(self._viewer), *self._opened])
        if set(paths) != set(self._choice.values):
            self._choice.offer((path.name, path) for path in paths)
            for row, path in enumerate(paths):
                self._choice.setItemData(row, str(path), Qt.ItemDataRole.ToolTipRole)

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Choose a file", "", "HDF5 and BigDataViewer (*.h5 *.hdf5 *.xml)")
        if path:
            self.choose(Path(path))

    def _read(self) -> None:
        self.left.emit()
        path = self.path
        if path is None:
            self._reader.forget()
            self.failed.emit(_NOTHING)
        else:
            self._reader.ask(lambda _: FileFacts.read(path))
