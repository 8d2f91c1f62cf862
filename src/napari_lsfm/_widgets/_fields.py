"""What forms are made of: aligned rows in sections, choices with values, and numbers that are read when they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QComboBox, QFormLayout, QGroupBox, QHBoxLayout, QLabel, QLineEdit, QScrollArea, QSizePolicy, QWidget

from lsfm_core import InputError

__all__ = ["Choice", "NumbersEdit", "Section", "beside", "numbers", "scrolled"]


class Section(QGroupBox):
    """A titled part of a form."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self._form = QFormLayout(self)
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self._form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self._form.setContentsMargins(8, 8, 8, 8)
        self._form.setVerticalSpacing(5)

    def row(self, label: str, field: QWidget, tip: str) -> QWidget:
        """Add a field; the tip tells what it is for, wherever the mouse rests."""
        field.setToolTip(tip)
        field.setAccessibleName(label)
        if not label:
            self._form.addRow(field)
            return field
        text = QLabel(label)
        text.setToolTip(tip)
        text.setMinimumWidth(_LABEL_WIDTH)
        text.setBuddy(field)
        self._form.addRow(text, field)
        return field

    def show_row(self, field: QWidget, visible: bool) -> None:
        """Show or hide a field with its label."""
        self._form.setRowVisible(field, visible)


#: So that the fields of all sections stand below each other.
_LABEL_WIDTH = 115


class Choice(QComboBox):
    """A choice among values, each with its text."""

    chosen = Signal()

    def __init__(self, items: Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__()
        # Long names are cut in the field, and whole in the list.
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.offer(items)
        self.currentIndexChanged.connect(lambda _: self.chosen.emit())

    @property
    def value(self) -> Any:
        """What is chosen; None if there is nothing to choose."""
        return self.currentData()

    @value.setter
    def value(self, value: Any) -> None:
        self.setCurrentIndex(next((i for i in range(self.count()) if self.itemData(i) == value), self.currentIndex()))

    @property
    def values(self) -> list[Any]:
        """All that can be chosen."""
        return [self.itemData(i) for i in range(self.count())]

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802
        """Keep a wheel that scrolls the form from changing a choice that happens to pass under it."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()

    def offer(self, items: Iterable[tuple[str, Any]]) -> None:
        """Set what can be chosen; what was chosen stays, if it still can be."""
        chosen = self.value
        self.blockSignals(True)
        self.clear()
        for text, value in items:
            self.addItem(text, value)
        self.value = chosen
        self.blockSignals(False)


class NumbersEdit(QWidget):
    """Three numbers in a row."""

    edited = Signal()

    def __init__(self, axes: Sequence[str] = "RAS", values: Sequence[float] | None = None) -> None:
        super().__init__()
        self._edits = [QLineEdit() for _ in range(3)]
        for axis, edit in zip(axes, self._edits, strict=True):
            edit.setPlaceholderText(axis)
            edit.setAccessibleName(axis)
            edit.setMinimumWidth(40)
            edit.textChanged.connect(lambda _: self.edited.emit())
        beside(*self._edits, into=self)
        self.setFocusProxy(self._edits[0])
        if values is not None:
            self.show_values(values)

    @property
    def edits(self) -> list[QLineEdit]:
        """The three fields."""
        return self._edits

    @property
    def texts(self) -> list[str]:
        """What stands there."""
        return [edit.text().strip() for edit in self._edits]

    def show_values(self, values: Sequence[float]) -> None:
        """Put numbers in, to a tenth of a micrometre; signals once."""
        self.blockSignals(True)
        for edit, value in zip(self._edits, values, strict=True):
            edit.setText(f"{round(float(value), 4) + 0.0:g}")
        self.blockSignals(False)
        self.edited.emit()

    def read(self, name: str) -> tuple[float, float, float]:
        """The numbers.

        Raises
        ------
        InputError
            If one is missing, or is none.
        """
        r, a, s = numbers(",".join(self.texts), name, 3)
        return r, a, s


def numbers(text: str, name: str, *counts: int) -> tuple[float, ...]:
    """Numbers that are separated by commas; as many as one of `counts`.

    Raises
    ------
    InputError
    """
    parts = text.split(",")
    if len(parts) not in counts or not all(part.strip() for part in parts):
        raise InputError(f"{name}: expected {' or '.join(map(str, counts))} number(s), found {text!r}")
    values = []
    for part in parts:
        try:
            values.append(float(part))
        except ValueError:
            raise InputError(f"{name}: {part.strip()!r} is no number") from None
    return tuple(values)


def beside(*widgets: QWidget, into: QWidget | None = None) -> QWidget:
    """Widgets in one row; the first is the one that the row's label leads to."""
    row = QWidget() if into is None else into
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(4)
    for widget in widgets:
        layout.addWidget(widget)
    if into is None:
        row.setFocusProxy(widgets[0])
    return row


def scrolled(content: QWidget) -> QScrollArea:
    """A part of a form that may be higher than the window, never wider."""
    area = QScrollArea()
    area.setWidget(content)
    area.setWidgetResizable(True)
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setMinimumWidth(content.minimumSizeHint().width() + area.verticalScrollBar().sizeHint().width())
    return area
