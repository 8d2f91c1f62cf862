"""A choice among values, each with its text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from magicgui.types import Undefined
from qtpy.QtCore import Qt, Signal
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

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._wish: Any = Undefined
        # Long names are cut in the field, and whole in the list.
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.currentIndexChanged.connect(self._on_chosen)

    @property
    def values(self) -> list[Any]:
        """All that can be chosen."""
        return [self.itemData(index) for index in range(self.count())]

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

    def offer(self, items: Iterable[tuple[str, Any]]) -> None:
        """Set what can be chosen; without a word of it, whoever offers knows."""
        chosen = self._wish if self._wish is not Undefined else self.currentData()
        typed = self.currentText() if self.isEditable() else ""
        was_blocked = self.blockSignals(True)
        offered = list(items)
        if offered != [(self.itemText(index), value) for index, value in enumerate(self.values)]:
            self.clear()
            for text, value in offered:
                self.addItem(text, value)
        if any(value == chosen for _, value in offered):
            self.write(chosen)
        if typed:
            self.setEditText(typed)
        self.blockSignals(was_blocked)

    def let_type(self) -> None:
        """Take texts that are not offered as well."""
        self.setEditable(True)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.editTextChanged.connect(lambda _: self.edited.emit())

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

    def __init__(self, value: Any = Undefined, *, choices: Iterable[Any] = (), typed: bool = False, **keywords: Any) -> None:
        super().__init__(**keywords)
        if typed:
            self.native.let_type()
        self.offer(item if isinstance(item, tuple) else (str(item), item) for item in choices)
        if value is not Undefined:
            self.value = value

    @property
    def choices(self) -> list[Any]:
        """All that can be chosen."""
        return list(self.native.values)

    def offer(self, items: Iterable[tuple[str, Any]]) -> None:
        """Set what can be chosen; what was chosen stays, if it still can be."""
        self.native.offer(items)


class _ChoiceOrFileEdit(QWidget):
    """A choice, beside a button that adds a file to it."""

    edited = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._choice = ChoiceEdit()
        self._offered: list[tuple[str, Any]] = []
        self.pattern = "All files (*)"
        self.title = "Choose a file"
        beside(self._choice, small_button("…", "Choose a file", self._browse, fixed=True), into=self)
        self.setFocusProxy(self._choice)
        self._choice.edited.connect(self.edited)

    @property
    def marked(self) -> list[QWidget]:
        return [self._choice]

    @property
    def values(self) -> list[Any]:
        return self._choice.values

    @property
    def chosen(self) -> Any:
        """What is chosen, whether it can be read or not."""
        return self._choice.currentData()

    def read(self) -> Any:
        return self._choice.read()

    def write(self, value: Any) -> None:
        """Choose a value; one that is not offered is a file's path."""
        before = self._choice.currentData()
        if value is not None and value not in self.values:
            # Where nothing else can be chosen, it is chosen thereby, without a word.
            self.offer(self._offered, value)
            if self._choice.currentData() == value != before:
                self.edited.emit()
        self._choice.write(value)

    def offer(self, items: Iterable[tuple[str, Any]], file: Any = None) -> None:
        self._offered = list(items)
        self._choice.offer([*self._offered, *([] if file is None else [(Path(file).name, str(file))])])

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, self.title, "", self.pattern)
        if path:
            self.write(path)


class ChoiceOrFile(Choice, editor=_ChoiceOrFileEdit):
    """A choice of values, or of a file.

    Parameters
    ----------
    value : Any, optional
    pattern : str
        Of files' names, as Qt spells it.
    """

    def __init__(self, value: Any = Undefined, *, pattern: str = "All files (*)", **keywords: Any) -> None:
        super().__init__(value, **keywords)
        self.native.pattern, self.native.title = pattern, self.label
