"""How forms are laid out: aligned rows under titles that fold them away, which scroll and narrow."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFormLayout, QHBoxLayout, QLabel, QPushButton, QScrollArea, QSizePolicy, QToolButton, QWidget

from napari_lsfm._widgets.fields._base import marked
from napari_lsfm._words import Words

__all__ = ["Rows", "Scrolled", "beside", "small_button"]

_WRONG_FRAME, _MISSING_FRAME = "border: 1px solid #e5534b;", "border: 1px solid #c77d0a;"


class Rows(QWidget):
    """Fields below each other, each with its label before it, or above it where there is little room.

    Titles among them fold away what stands below, when they are pressed; ``folded()`` tells of it.
    """

    folded = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._titles: dict[str, QToolButton] = {}
        #: Below which title a field stands, if there is one.
        self._title_of: dict[QWidget, QToolButton | None] = {}
        self._hidden: set[QWidget] = set()
        self._labels: dict[QWidget, QLabel] = {}
        self._notes: dict[QWidget, Words] = {}
        self._framed: dict[QWidget, list[QWidget]] = {}
        self._form = QFormLayout(self)
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self._form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self._form.setContentsMargins(0, 0, 0, 0)
        self._form.setVerticalSpacing(5)

    def title(self, text: str, *, is_open: bool = True) -> None:
        """Add a title, to which the fields after it belong."""
        title = self._titles[text] = QToolButton()
        title.setText(text)
        title.setToolTip(f"{text}: show, or fold away")
        title.setCheckable(True)
        title.setChecked(is_open)
        title.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        title.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        # A button of napari's theme is a box, and has no arrow.
        title.setStyleSheet("QToolButton { border: none; font-weight: bold; text-align: left; padding: 3px 0; }")
        self._form.addRow(title)
        title.toggled.connect(lambda _: self._on_folded(title))
        self._on_folded(title)

    def row(self, label: str, field: QWidget, tip: str) -> QWidget:
        """Add a field; the tip tells what it is for, wherever the mouse rests. Without a label it takes the whole width."""
        field.setToolTip(tip)
        if label or not field.accessibleName():
            field.setAccessibleName(label)
        if field.focusProxy() is not None and not field.focusProxy().accessibleName():
            field.focusProxy().setAccessibleName(field.accessibleName())
        self._title_of[field] = next(reversed(self._titles.values()), None)
        if label:
            text = self._labels[field] = QLabel(label)
            text.setToolTip(tip)
            text.setBuddy(field)
            self._form.addRow(text, field)
        else:
            self._form.addRow(field)
        self._update(field)
        return field

    def show_row(self, field: QWidget, visible: bool) -> None:
        """Show or hide a field with its label."""
        (self._hidden.discard if visible else self._hidden.add)(field)
        self._update(field)

    def fold(self, text: str, folded: bool = True) -> None:
        """Fold away what stands below a title, or show it."""
        self._titles[text].setChecked(not folded)

    def take_out(self, field: QWidget) -> None:
        """Remove a row; the field itself stays alive."""
        self.mark(field)
        self._form.takeRow(field)
        if field in self._labels:
            self._labels.pop(field).deleteLater()
        del self._title_of[field]
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
        if note:
            self._open(field)
        self._update(field)

    @property
    def label_width(self) -> int:
        """Of the longest label."""
        return max((label.sizeHint().width() for label in self._labels.values()), default=0)

    @property
    def needed(self) -> int:
        """Width that the rows need by now; what the widget itself says of that may lag behind."""
        self._form.invalidate()
        return self._form.minimumSize().width()

    def align(self, width: int, *, narrow: bool) -> None:
        """Give all labels a width, or put them above their fields."""
        for label in self._labels.values():
            label.setMinimumWidth(0 if narrow else width)
        policy = QFormLayout.RowWrapPolicy.WrapAllRows if narrow else QFormLayout.RowWrapPolicy.DontWrapRows
        if self._form.rowWrapPolicy() != policy:
            self._form.setRowWrapPolicy(policy)

    def _open(self, field: QWidget) -> None:
        title, above = self._title_of[field], self.parentWidget()
        if title is not None:
            title.setChecked(True)
        elif isinstance(above, Rows):
            above._open(self)

    def _on_folded(self, title: QToolButton) -> None:
        title.setArrowType(Qt.ArrowType.DownArrow if title.isChecked() else Qt.ArrowType.RightArrow)
        for field, above in self._title_of.items():
            if above is title:
                self._update(field)
        self.folded.emit()

    def _update(self, field: QWidget) -> None:
        title = self._title_of[field]
        visible = field not in self._hidden and (title is None or title.isChecked())
        self._form.setRowVisible(field, visible)
        if field in self._notes:
            self._form.setRowVisible(self._notes[field], visible and bool(self._notes[field].text()))


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


def beside(*widgets: QWidget, into: QWidget | None = None) -> QWidget:
    """Widgets in one row; the first is the one that the row's label leads to."""
    row = QWidget() if into is None else into
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(4)
    for widget in widgets:
        layout.addWidget(widget)
    row.setFocusProxy(widgets[0])
    return row


def small_button(text: str, tip: str, pressed: Callable[[], object] | None = None, *, fixed: bool = False) -> QPushButton:
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
