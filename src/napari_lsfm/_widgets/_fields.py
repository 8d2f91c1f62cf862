"""What forms are made of: aligned rows in sections, choices with values, and numbers that are read when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from qtpy.QtCore import QEvent, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QResizeEvent, QWheelEvent
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from lsfm_core import InputError
from napari_lsfm._workers import ERROR_STYLE, SUCCESS_STYLE, WARNING_STYLE

__all__ = [
    "Choice",
    "NumbersEdit",
    "PathEdit",
    "Scrolled",
    "Section",
    "Text",
    "beside",
    "browse_button",
    "numbers",
    "one_or_three",
    "optional",
    "stacked",
]


class Section(QGroupBox):
    """A titled part of a form."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self._labels: list[QLabel] = []
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
        text.setBuddy(field)
        self._labels.append(text)
        self._form.addRow(text, field)
        return field

    @property
    def label_width(self) -> int:
        """Of the longest label."""
        return max((label.sizeHint().width() for label in self._labels), default=0)

    @label_width.setter
    def label_width(self, width: int) -> None:
        for label in self._labels:
            label.setMinimumWidth(width)

    def show_row(self, field: QWidget, visible: bool) -> None:
        """Show or hide a field with its label."""
        self._form.setRowVisible(field, visible)


class Text(QLabel):
    """Words of any length that are always seen whole.

    A plain label that wraps tells layouts its height as a function of its width, which nested ones ask for too early.
    """

    def __init__(self, least_lines: int = 0) -> None:
        super().__init__()
        self._least_lines = least_lines
        self._soon = QTimer(self, singleShot=True, interval=0)
        self._soon.timeout.connect(self._ask_for_room)
        self.setWordWrap(True)
        self.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setMinimumWidth(120)

    def hasHeightForWidth(self) -> bool:  # noqa: N802
        """No: it has the height that it needs at its present width."""
        return False

    def sizeHint(self) -> QSize:  # noqa: N802
        """As wide as may be, and as high as needed."""
        return QSize(super().sizeHint().width(), self.minimumHeight())

    def say(self, text: str) -> None:
        """Show a message."""
        self._show(text, "")

    def praise(self, text: str) -> None:
        """Show what was done."""
        self._show(text, SUCCESS_STYLE)

    def warn(self, text: str) -> None:
        """Show what is to be looked at."""
        self._show(text, WARNING_STYLE)

    def complain(self, text: str) -> None:
        """Show what is wrong."""
        self._show(text, ERROR_STYLE)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        """Take the height that the words need at the new width."""
        super().resizeEvent(event)
        self._fit()

    def _show(self, text: str, style: str) -> None:
        self.setStyleSheet(style)
        self.setText(text)
        self._fit()

    def _fit(self) -> None:
        height = max(self._least_lines * self.fontMetrics().lineSpacing(), self.heightForWidth(self.width()))
        if height != self.minimumHeight():
            self.setMinimumHeight(height)
            self._soon.start()

    def _ask_for_room(self) -> None:
        """Tell all layouts above, for what a widget tells them while they are at work is lost on the outer ones."""
        widget: QWidget | None = self
        while widget is not None and not isinstance(widget, Scrolled):
            widget.updateGeometry()
            widget = widget.parentWidget()
        if widget is not None:
            widget.fit()


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


class PathEdit(QLineEdit):
    """A path or a pattern; where it is not the whole path, the mouse finds that.

    Parameters
    ----------
    placeholder : str
        What stands there while it is empty.
    """

    def __init__(self, placeholder: str) -> None:
        super().__init__()
        self._tip = ""
        self.setPlaceholderText(placeholder)
        # What is dropped on the field is for the form, and no text with "file://" before it.
        self.setAcceptDrops(False)
        self.textChanged.connect(self._show_tip)

    @property
    def whole(self) -> str:
        """The path with all its folders; empty where nothing stands."""
        text = self.text().strip()
        return str(Path(text).absolute()) if text else ""

    def explain(self, tip: str) -> None:
        """Say what the field is for."""
        self._tip = tip
        self._show_tip()

    def _show_tip(self) -> None:
        self.setToolTip(f"{self._tip}\n{self.whole}".strip())


class NumbersEdit(QWidget):
    """Three numbers in a row."""

    edited = Signal()

    def __init__(self, axes: Sequence[str] = "RAS", values: Sequence[float] | None = None) -> None:
        super().__init__()
        self._edits = [QLineEdit() for _ in range(3)]
        self._axes = axes
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
        missing = [axis for axis, text in zip(self._axes, self.texts, strict=True) if not text]
        if missing:
            raise InputError(f"{name}: still to be given: {', '.join(missing)}")
        r, a, s = numbers(",".join(self.texts), name, 3)
        return r, a, s


def numbers(text: str, name: str, *counts: int, finite: bool = True) -> tuple[float, ...]:
    """Numbers that are separated by commas; as many as one of `counts`, and none that is infinite or NaN unless that is allowed.

    Raises
    ------
    InputError
    """
    parts = text.split(",")
    if len(parts) not in counts or not all(part.strip() for part in parts):
        expected = " or ".join("one number" if count == 1 else f"{count} numbers with commas" for count in counts)
        raise InputError(f"{name}: expected {expected}, found {repr(text) if text.strip() else 'nothing'}")
    values = []
    for part in parts:
        try:
            values.append(float(part))
        except ValueError:
            raise InputError(f"{name}: {part.strip()!r} is no number") from None
        if finite and not isfinite(values[-1]):
            raise InputError(f"{name}: {part.strip()!r} is no number to count with")
    return tuple(values)


def optional(text: str, name: str) -> float | None:
    """A number, or None where nothing stands.

    Raises
    ------
    InputError
    """
    return numbers(text, name, 1)[0] if text.strip() else None


class _Stack(QWidget):
    def __init__(self, sections: Sequence[Section], growing: Section | None) -> None:
        super().__init__()
        self._sections = sections
        column = QVBoxLayout(self)
        column.setContentsMargins(2, 2, 2, 2)
        for section in sections:
            column.addWidget(section, int(section is growing))
        if growing is None:
            column.addStretch(1)
        self._align()

    def event(self, event: QEvent) -> bool:
        """Align the fields anew when napari's style, and with it the size of letters, comes."""
        done = bool(super().event(event))
        if event.type() in (QEvent.Type.Polish, QEvent.Type.Show, QEvent.Type.StyleChange, QEvent.Type.FontChange):
            self._align()
        return done

    def _align(self) -> None:
        width = max(section.label_width for section in self._sections)
        for section in self._sections:
            section.label_width = width


def one_or_three(text: str, name: str) -> float | tuple[float, ...]:
    """A number that holds for all axes, or one for each.

    Raises
    ------
    InputError
    """
    values = numbers(text, name, 1, 3)
    return values[0] if len(values) == 1 else values


def stacked(*sections: Section, growing: Section | None = None) -> QWidget:
    """Sections below each other, and so are their fields; one of them may take the height that is left."""
    return _Stack(sections, growing)


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


class Scrolled(QScrollArea):
    """A part of a form that may be higher than the window, never wider."""

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self.setWidget(content)
        self.setWidgetResizable(True)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumWidth(content.minimumSizeHint().width() + self.verticalScrollBar().sizeHint().width())

    def fit(self) -> None:
        """Give the content the height that it needs by now."""
        content = self.widget()
        content.resize(self.viewport().width(), max(self.viewport().height(), content.minimumSizeHint().height()))


def browse_button(tip: str, action: Callable[[], None]) -> QPushButton:
    """The small button beside a field that takes a path."""
    button = QPushButton("…")
    button.setFixedWidth(30)
    button.setToolTip(tip)
    button.setAccessibleName(tip)
    button.clicked.connect(lambda _: action())
    return button
