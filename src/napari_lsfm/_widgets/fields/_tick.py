"""Yes or no, with words beside the box; magicgui's own check box has a label or words, not both."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QWidget

from napari_lsfm._widgets.fields._base import Field

__all__ = ["Tick"]


class _TickEdit(QCheckBox):
    edited = Signal()

    def __init__(self, parent: QWidget | None = None, *, text: str = "") -> None:
        super().__init__(text, parent)
        self.toggled.connect(lambda _: self.edited.emit())

    def read(self) -> bool:
        return self.isChecked()

    def write(self, value: Any) -> None:
        self.setChecked(bool(value))


class Tick(Field, editor=_TickEdit):
    """A check box.

    Parameters
    ----------
    value : bool, optional
    text : str
        What it says beside the box.
    """
