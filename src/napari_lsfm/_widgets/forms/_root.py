"""The widgets of Qt beneath a form: sections, which scroll and fold, above what stays in sight."""

from __future__ import annotations

from typing import Any

from magicgui.backends._qtpy.widgets import Container as ContainerBackend
from magicgui.backends._qtpy.widgets import QBaseWidget
from magicgui.widgets import Widget
from qtpy.QtCore import QEvent, QSize, QTimer, Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QResizeEvent
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from napari_lsfm._widgets.fields import Rows, Scrolled, Section, align

__all__ = ["FormBackend", "FormWidget"]

#: Of a form that can be used.
_LEAST_WIDTH, _LEAST_HEIGHT = 264, 280
#: Left and right of the rows of a section.
_BESIDE = 24
#: Of a form's height, what the words at its foot may take at most.
_SHARE = 0.35


class FormWidget(QWidget):
    """The form's own widget: sections, which scroll, above what stays in sight."""

    left = Signal()
    dropped = Signal(list)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.width_hint = 400
        self.places: dict[str, tuple[Rows, QWidget]] = {}
        self._sections: list[Section] = []
        #: Width for labels beside their fields.
        self._needed = 0
        self._soon = QTimer(self, singleShot=True, interval=0)
        self._soon.timeout.connect(self._align)
        self._foot: Scrolled | None = None
        self._parts: tuple[QWidget, ...] = ()
        content = QWidget()
        self._stack = QVBoxLayout(content)
        self._stack.setContentsMargins(2, 2, 2, 2)
        self._stack.setSpacing(0)
        self._stack.addStretch(1)
        self._body = Scrolled(content)
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(4, 4, 4, 4)
        self.column.addWidget(self._body, 1)

    def sizeHint(self) -> QSize:  # noqa: N802
        """Of the width that was asked for."""
        return QSize(self.width_hint, super().sizeHint().height())

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Of what can be used: it scrolls and folds."""
        # What stands below the sections does not narrow.
        foot = max((part.minimumSizeHint().width() for part in self._parts), default=0)
        return QSize(max(_LEAST_WIDTH, foot + 8), _LEAST_HEIGHT)

    def align_soon(self) -> None:
        """Rows were shown or hidden."""
        self._needed = 0
        self._soon.start()

    def begin(self, title: str, *, is_open: bool) -> None:
        """Begin a section."""
        section = Section(title, is_open=is_open)
        section.folded.connect(self._fit)
        self._sections.append(section)
        self._stack.insertWidget(len(self._sections) - 1, section)

    def add(self, name: str, label: str, widget: QWidget, tip: str) -> None:
        """Add a row to the last section."""
        rows = self._sections[-1].rows
        rows.row(label, widget, tip)
        self.places[name] = (rows, widget)

    def take_out(self, name: str) -> None:
        """Remove a row."""
        rows, widget = self.places.pop(name)
        rows.take_out(widget)

    def grow(self, name: str) -> None:
        """Let the section of a row take the height that is left."""
        rows, widget = self.places[name]
        section = self._section(rows)
        self._stack.setStretch(self._sections.index(section), 1)
        self._stack.setStretch(len(self._sections), 0)
        widget.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def end(self, words: list[QWidget], *parts: QWidget) -> None:
        """What stands below the sections: words, which scroll where they are many, and the rest."""
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

    def unfold(self, rows: Rows) -> None:
        """Show a section, which has something to be seen."""
        section = self._section(rows)
        if not section.is_open:
            section.unfold()

    def event(self, event: QEvent) -> bool:
        """Align fields anew when napari's style, and with it the size of letters, comes; tell when the viewer is left."""
        done = bool(super().event(event))
        if event.type() in (QEvent.Type.Polish, QEvent.Type.Show, QEvent.Type.StyleChange, QEvent.Type.FontChange):
            self.align_soon()
        elif event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.left.emit()
        return done

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        """Put labels above their fields where there is no room beside them."""
        super().resizeEvent(event)
        self._align()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:  # noqa: N802
        """Take files and folders."""
        if any(url.isLocalFile() for url in event.mimeData().urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: N802
        """Tell their paths."""
        event.acceptProposedAction()
        self.dropped.emit([url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()])

    def _section(self, rows: Rows) -> Section:
        return next(section for section in self._sections if section.rows is rows)

    def _align(self) -> None:
        """Let fields stand below each other; their labels above them where there is no room beside them."""
        rows, room = self.findChildren(Rows), self._body.viewport().width()
        if room >= self._needed:
            align(rows, narrow=False)
            self._needed = max((part.needed for part in rows if part.isVisible()), default=0) + _BESIDE
        if room < self._needed:
            align(rows, narrow=True)
        self._fit()

    def _fit(self) -> None:
        for part in (self._body, self._foot):
            if part is not None:
                part.fit()


class FormBackend(ContainerBackend):
    """Puts what is added to a container into the last section of a form."""

    def __init__(self, layout: str = "vertical", scrollable: bool = False, **keywords: Any) -> None:
        QBaseWidget.__init__(self, FormWidget, **keywords)
        self._layout = self._qwidget.column

    def _mgui_insert_widget(self, position: int, widget: Widget) -> None:
        widget.native.setAccessibleName(widget.label)
        label = "" if getattr(widget, "is_wide", False) else widget.label
        self._qwidget.add(widget.name, label, widget.native, widget.tooltip or "")

    def _mgui_remove_widget(self, widget: Widget) -> None:
        self._qwidget.take_out(widget.name)
