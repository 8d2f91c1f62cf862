"""How forms are laid out: aligned rows in sections that fold and narrow, and words that are always seen whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from qtpy.QtCore import QSize, Qt, QTimer, Signal
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import (
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_lsfm._widgets.fields._base import marked
from napari_lsfm._workers import ERROR_STYLE, SUCCESS_STYLE, WARNING_STYLE

__all__ = ["Rows", "Scrolled", "Section", "Words", "align", "beside", "small_button"]

_WRONG_FRAME, _MISSING_FRAME = "border: 1px solid #e5534b;", "border: 1px solid #c77d0a;"


class Words(QLabel):
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
        self.setMinimumWidth(80)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)

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
        if style != self.styleSheet():
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


class Rows(QWidget):
    """Fields below each other, each with its label before it, or above it where there is little room."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._labels: list[QLabel] = []
        self._notes: dict[QWidget, Words] = {}
        self._framed: dict[QWidget, list[QWidget]] = {}
        self._form = QFormLayout(self)
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self._form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self._form.setContentsMargins(0, 0, 0, 0)
        self._form.setVerticalSpacing(5)

    def row(self, label: str, field: QWidget, tip: str) -> QWidget:
        """Add a field; the tip tells what it is for, wherever the mouse rests. Without a label it takes the whole width."""
        field.setToolTip(tip)
        if label or not field.accessibleName():
            field.setAccessibleName(label)
        if field.focusProxy() is not None and not field.focusProxy().accessibleName():
            field.focusProxy().setAccessibleName(field.accessibleName())
        if not label:
            self._form.addRow(field)
            return field
        text = QLabel(label)
        text.setToolTip(tip)
        text.setBuddy(field)
        self._labels.append(text)
        self._form.addRow(text, field)
        return field

    def rename(self, field: QWidget, label: str) -> None:
        """Give a row another label."""
        self._form.labelForField(field).setText(label)
        field.setAccessibleName(label)

    def show_row(self, field: QWidget, visible: bool) -> None:
        """Show or hide a field with its label."""
        self._form.setRowVisible(field, visible)
        if field in self._notes:
            self._form.setRowVisible(self._notes[field], visible)

    def take_out(self, field: QWidget) -> None:
        """Remove a row; the field itself stays alive."""
        label = self._form.labelForField(field)
        if label is not None:
            self._labels.remove(label)
        self._form.takeRow(field)
        if label is not None:
            label.deleteLater()
        field.setParent(None)

    def mark(self, field: QWidget, note: str = "", *, is_missing: bool = False) -> None:
        """Frame a field where something is wrong or missing, and say what below it; without either all is well."""
        frame = _WRONG_FRAME if note else _MISSING_FRAME if is_missing else ""
        parts = marked(field) if frame else []
        for part in {*self._framed.get(field, ()), *parts}:
            own = frame if part in parts else ""
            if part.styleSheet() != own:
                part.setStyleSheet(own)
        self._framed[field] = parts
        words = self._notes.get(field)
        if words is None and note:
            words = self._notes[field] = Words()
            words.setAccessibleName(f"what is wrong with {field.accessibleName()}")
            row, _ = self._form.getWidgetPosition(field)
            self._form.insertRow(row + 1, "", words)
        if words is not None:
            words.complain(note)
            self._form.setRowVisible(words, bool(note))

    @property
    def label_width(self) -> int:
        """Of the longest label."""
        return max((label.sizeHint().width() for label in self._labels), default=0)

    @property
    def needed(self) -> int:
        """Width that the rows need by now; what the widget itself says of that may lag behind."""
        self._form.invalidate()
        return self._form.minimumSize().width()

    def align(self, width: int, *, narrow: bool) -> None:
        """Give all labels a width, or put them above their fields."""
        for label in self._labels:
            label.setMinimumWidth(0 if narrow else width)
        policy = QFormLayout.RowWrapPolicy.WrapAllRows if narrow else QFormLayout.RowWrapPolicy.DontWrapRows
        if self._form.rowWrapPolicy() != policy:
            self._form.setRowWrapPolicy(policy)


class Section(QFrame):
    """A titled part of a form that folds away when its title is pressed."""

    folded = Signal()

    def __init__(self, title: str, *, is_open: bool = True) -> None:
        super().__init__()
        self.setFrameShape(QFrame.Shape.NoFrame)
        self._title = QToolButton()
        self._title.setText(title)
        self._title.setToolTip(f"{title}: show, or fold away")
        self._title.setCheckable(True)
        self._title.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._title.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        # A button of napari's theme is a box, and has no arrow.
        self._title.setStyleSheet("QToolButton { border: none; font-weight: bold; text-align: left; padding: 3px 0; }")
        self.rows = Rows()
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 2, 8, 6)
        column.setSpacing(4)
        column.addWidget(self._title)
        column.addWidget(self.rows, 1)
        self._title.toggled.connect(self.unfold)
        self.unfold(is_open)

    @property
    def is_open(self) -> bool:
        """Whether its fields are seen."""
        return self._title.isChecked()

    def unfold(self, is_open: bool = True) -> None:
        """Show the fields, or fold them away."""
        self._title.blockSignals(True)
        self._title.setChecked(is_open)
        self._title.blockSignals(False)
        self._title.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self.rows.setVisible(is_open)
        self.folded.emit()


class Scrolled(QScrollArea):
    """A part of a form that may be higher than the window, never wider.

    Parameters
    ----------
    content : QWidget
    share : float, optional
        Take as much height as the content needs, but no more than this share of the form.
    """

    def __init__(self, content: QWidget, share: float | None = None) -> None:
        super().__init__()
        self._share = share
        self.setWidget(content)
        self.setWidgetResizable(True)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumHeight(40)

    def fit(self) -> None:
        """Give the content the height that it needs by now."""
        content = self.widget()
        needed = content.minimumSizeHint().height()
        if self._share is not None and self.parentWidget() is not None:
            most = max(40, round(self._share * self.parentWidget().height()))
            height = min(needed + 2 * self.frameWidth(), most)
            if height != self.maximumHeight() or height != self.minimumHeight():
                self.setFixedHeight(height)
        content.resize(self.viewport().width(), max(self.viewport().height(), needed))


def align(all_rows: Iterable[Rows], *, narrow: bool) -> None:
    """Let the fields of several parts of a form stand below each other."""
    parts = list(all_rows)
    width = max((rows.label_width for rows in parts), default=0)
    for rows in parts:
        rows.align(width, narrow=narrow)


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


def small_button(text: str, tip: str, pressed: Callable[[], None] | None = None, *, fixed: bool = False) -> QPushButton:
    """A button that may be as narrow as its text, or always is."""
    button = QPushButton(text)
    button.setToolTip(tip)
    button.setAutoDefault(False)
    button.setMinimumWidth(max(26, button.fontMetrics().horizontalAdvance(text) + 14))
    if fixed:
        button.setFixedWidth(button.minimumWidth())
    if len(text) == 1:
        button.setAccessibleName(tip)
    if pressed is not None:
        button.clicked.connect(lambda _: pressed())
    return button
