"""The widgets of Qt beneath a form: rows, which scroll and fold, above what stays in sight."""

from __future__ import annotations

from typing import Any

from magicgui.backends._qtpy.widgets import Container as ContainerBackend
from magicgui.backends._qtpy.widgets import QBaseWidget
from magicgui.widgets import Widget
from qtpy.QtCore import QEvent, QSize, QTimer, Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QResizeEvent
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from napari_lsfm._widgets.fields import Rows, Scrolled

__all__ = ["FormBackend", "FormWidget"]

#: Of a form that can be used.
_LEAST_WIDTH, _LEAST_HEIGHT = 264, 280
#: Left and right of the rows.
_BESIDE = 10
#: Of a form's height, what the words at its foot may take at most.
_SHARE = 0.35


class FormWidget(QWidget):
    """The form's own widget: rows, which scroll, above what stays in sight."""

    left = Signal()
    dropped = Signal(list)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.width_hint = 400
        self.rows = Rows()
        self.places: dict[str, QWidget] = {}
        #: Width for labels beside their fields.
        self._needed = 0
        self._soon = QTimer(self, singleShot=True, interval=0)
        self._soon.timeout.connect(self._align)
        self._foot: Scrolled | None = None
        self._parts: tuple[QWidget, ...] = ()
        content = QWidget()
        self._stack = QVBoxLayout(content)
        self._stack.setContentsMargins(_BESIDE, 4, _BESIDE, 4)
        self._stack.addWidget(self.rows)
        self._stack.addStretch(1)
        self._body = Scrolled(content)
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(4, 4, 4, 4)
        self.column.addWidget(self._body, 1)
        self.rows.folded.connect(self.align_soon)

    def sizeHint(self) -> QSize:  # noqa: N802
        return QSize(self.width_hint, super().sizeHint().height())

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        # It scrolls and folds; only what stands below does not narrow.
        foot = max((part.minimumSizeHint().width() for part in self._parts), default=0)
        return QSize(max(_LEAST_WIDTH, foot + 8), _LEAST_HEIGHT)

    def align_soon(self) -> None:
        """Rows were shown or hidden."""
        self._needed = 0
        self._soon.start()

    def add(self, name: str, label: str, widget: QWidget, tip: str) -> None:
        """Add a row."""
        self.places[name] = self.rows.row(label, widget, tip)

    def grow(self, name: str) -> None:
        """Let a row take the height that is left."""
        self._stack.setStretch(0, 1)
        self._stack.setStretch(1, 0)
        self.places[name].setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def end(self, words: list[QWidget], *parts: QWidget) -> None:
        """What stands below: words, which scroll where they are many, and the rest."""
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(0, 0, 0, 0)
        for word in words:
            column.addWidget(word)
        column.addStretch(1)
        self._foot, self._parts = Scrolled(content, _SHARE), parts
        for part in (self._foot, *parts):
            self.column.addWidget(part)
        self._align()

    def event(self, event: QEvent) -> bool:
        """Align fields anew when napari's style, and with it the size of letters, comes; tell when the viewer is left."""
        done = bool(super().event(event))
        if event.type() in (QEvent.Type.Polish, QEvent.Type.Show, QEvent.Type.StyleChange, QEvent.Type.FontChange):
            self.align_soon()
        elif event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.left.emit()
        return done

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        super().resizeEvent(event)
        self._align()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:  # noqa: N802
        if any(url.isLocalFile() for url in event.mimeData().urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: N802
        event.acceptProposedAction()
        self.dropped.emit([url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()])

    def _align(self) -> None:
        """Let fields stand below each other; their labels above them where there is no room beside them."""
        room = self._body.viewport().width()
        if room >= self._needed:
            parts = self._lay_out(narrow=False)
            self._needed = max(rows.needed for rows in parts if rows.isVisible() or rows is self.rows) + 2 * _BESIDE
        if room < self._needed:
            self._lay_out(narrow=True)
        for part in (self._body, self._foot):
            if part is not None:
                part.fit()

    def _lay_out(self, *, narrow: bool) -> list[Rows]:
        parts = [self.rows, *self.rows.findChildren(Rows)]
        width = max(rows.label_width for rows in parts)
        for rows in parts:
            rows.align(width, narrow=narrow)
        return parts


class FormBackend(ContainerBackend):
    """Puts what is added to a container into a row of a form."""

    def __init__(self, layout: str = "vertical", scrollable: bool = False, **keywords: Any) -> None:
        QBaseWidget.__init__(self, FormWidget, **keywords)
        self._layout = self._qwidget.column

    def _mgui_insert_widget(self, position: int, widget: Widget) -> None:
        label = "" if getattr(widget, "is_wide", False) else widget.label
        self._qwidget.add(widget.name, label, widget.native, widget.tooltip or "")

    def _mgui_remove_widget(self, widget: Widget) -> None:
        self._qwidget.rows.take_out(self._qwidget.places.pop(widget.name))
