"""A choice among values, each with its text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from magicgui.types import Undefined
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QComboBox, QFileDialog, QSizePolicy, QWidget

from lsfm_core import InputError
from napari_lsfm._widgets.fields._base import Field
from napari_lsfm._widgets.fields._rows import beside, small_button

__all__ = ["Choice", "ChoiceEdit", "ChoiceOrFile"]


class ChoiceEdit(QComboBox):
    """What is chosen stays when other values are offered, if it still can be.

    A value that is not offered (yet) is chosen as soon as it is; until then it is an error to read it.
    """

    edited = Signal()

    def __init__(self, parent: QWidget | None = None, *, choices: Iterable[Any] = (), typed: bool = False) -> None:
        super().__init__(parent)
        self._wish: Any = Undefined
        # Long names are cut in the field, and whole in the list.
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.currentIndexChanged.connect(self._on_chosen)
        if typed:
            self.setEditable(True)
            self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
            self.editTextChanged.connect(lambda _: self.edited.emit())
        self.offer(choices)

    @property
    def values(self) -> list[Any]:
        return [self.itemData(index) for index in range(self.count())]

    @property
    def chosen(self) -> Any:
        """What is chosen, whether it can be read or not."""
        return self.currentData()

    @property
    def has_wish(self) -> bool:
        """Whether a value was chosen that is not offered yet."""
        return self._wish is not Undefined

    def read(self) -> Any:
        """What is chosen, or was typed; None if there is nothing to choose."""
        if self.isEditable():
            text = self.currentText().strip()
            index = self.findText(text)
            return text or None if index < 0 else self.itemData(index)
        if self._wish is not Undefined:
            texts = [self.itemText(index) for index in range(self.count())]
            raise InputError(f"{self._wish!r} is not there; there is {', '.join(texts) or 'nothing to choose'}")
        return self.currentData()

    def write(self, value: Any) -> None:
        """Choose a value."""
        index = next((i for i, known in enumerate(self.values) if known == value), -1)
        if index >= 0:
            was_wish, self._wish = self._wish is not Undefined, Undefined
            if index != self.currentIndex():
                self.setCurrentIndex(index)
            elif was_wish:
                self.edited.emit()
            elif self.isEditable():
                self.setEditText(self.itemText(index))
        elif self.isEditable():
            self.setEditText("" if value is None else str(value))
        elif value is not None:
            self._wish = value
            self.edited.emit()

    def offer(self, items: Iterable[Any]) -> None:
        """Set what can be chosen: values, or pairs of a text and a value; without a word of it, whoever offers knows."""
        chosen = self._wish if self._wish is not Undefined else self.currentData()
        typed = self.currentText() if self.isEditable() else ""
        was_blocked = self.blockSignals(True)
        offered = [item if isinstance(item, tuple) else (str(item), item) for item in items]
        if offered != [(self.itemText(index), value) for index, value in enumerate(self.values)]:
            self.clear()
            for text, value in offered:
                self.addItem(text, value)
        if any(value == chosen for _, value in offered):
            self.write(chosen)
        if typed:
            self.setEditText(typed)
        self.blockSignals(was_blocked)

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802
        """Keep a wheel that scrolls the form from changing a choice that happens to pass under it."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()

    def _on_chosen(self, _: int) -> None:
        self._wish = Undefined
        if not self.isEditable():
            self.edited.emit()


class Choice(Field, editor=ChoiceEdit):
    """A choice; unlike magicgui's combo box it keeps values apart whose texts are the same, and the wheel from changing it unasked.

    Parameters
    ----------
    value : Any, optional
    choices : iterable
        Values, or pairs of a text and a value.
    typed : bool
        Whether other texts can be typed.
    """

    @property
    def choices(self) -> list[Any]:
        """All that can be chosen."""
        return list(self.native.values)

    def offer(self, items: Iterable[Any]) -> None:
        """Set what can be chosen, values or pairs of a text and a value; what was chosen stays, if it still can be."""
        self.native.offer(items)


class _ChoiceOrFileEdit(QWidget):
    """A choice, beside a button that adds a file to it; the file stays, whatever else is offered."""

    edited = Signal()

    def __init__(self, parent: QWidget | None = None, *, choices: Iterable[Any] = (), pattern: str = "All files (*)") -> None:
        super().__init__(parent)
        self._choice = ChoiceEdit()
        self._file: str | None = None
        self._pattern = pattern
        self.marked = [self._choice]
        beside(self._choice, small_button("…", "Choose a file", self._browse, fixed=True), into=self)
        self._choice.edited.connect(self.edited)
        self.offer(choices)

    @property
    def values(self) -> list[Any]:
        return self._choice.values

    @property
    def chosen(self) -> Any:
        return self._choice.chosen

    def read(self) -> Any:
        return self._choice.read()

    def write(self, value: Any) -> None:
        """Choose a value; one that is not offered is a file's path."""
        if value is None or value in self.values:
            self._choice.write(value)
            return
        self._file = str(value)
        with QSignalBlocker(self._choice):
            self._choice.write(self._file)
        self.offer(self._offered)
        self.edited.emit()

    def offer(self, items: Iterable[Any]) -> None:
        self._offered = list(items)
        self._choice.offer([*self._offered, *([] if self._file is None else [(Path(self._file).name, self._file)])])

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, self.accessibleName(), "", self._pattern)
        if path:
            self.write(path)


class ChoiceOrFile(Choice, editor=_ChoiceOrFileEdit):
    """A choice of values, or of a file.

    Parameters
    ----------
    value : Any, optional
    choices : iterable
        As for `Choice`.
    pattern : str
        Of files' names, as Qt spells it.
    """
