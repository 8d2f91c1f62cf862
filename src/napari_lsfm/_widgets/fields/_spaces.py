"""The spaces of a file as a picture to click at, and the choice of one of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from qtpy.QtCore import QByteArray, QEvent, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from qtpy.QtSvg import QSvgRenderer
from qtpy.QtWidgets import QFrame, QLabel, QScrollArea, QSizePolicy, QToolTip, QVBoxLayout, QWidget

from lsfm_core import SpaceGraph, SpaceMap, lay_out_spaces
from napari_lsfm._widgets.fields._base import Field
from napari_lsfm._widgets.fields._choice import ChoiceEdit
from napari_lsfm._widgets.fields._rows import beside

__all__ = ["SpaceField", "SpacePicture"]

#: How small letters may become; what is larger then is scrolled.
_LEAST_SCALE = 0.8
_MOST_HEIGHT = 460
_STEPS = {Qt.Key.Key_Left: (-1, 0), Qt.Key.Key_Right: (1, 0), Qt.Key.Key_Up: (0, -1), Qt.Key.Key_Down: (0, 1)}
_TIP = "The spaces of the file, and the transforms between them. Choose with a click, or with the arrow keys and Enter"


class _Canvas(QWidget):
    """The picture itself."""

    picked = Signal(object)
    reached = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.map: SpaceMap | None = None
        self._renderer = QSvgRenderer(self)
        self._scale = 1.0
        #: Of the box that the keys have come to.
        self._at: int | None = None
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setAccessibleName("spaces")
        self.setToolTip(_TIP)

    def show_map(self, drawn: SpaceMap, scale: float, marked: tuple[Collection[str], Collection[str]]) -> None:
        if drawn != self.map:
            self.map, self._at = drawn, None
        self._scale = scale
        self._renderer.load(QByteArray(drawn.svg(*marked).encode("utf-8", "replace")))
        self.setFixedSize(QSize(round(drawn.width * scale), round(drawn.height * scale)))
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw it, and a frame where the keys are."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._renderer.render(painter, QRectF(self.rect()))
        if self.map is not None and self._at is not None and self.hasFocus():
            box = self.map.boxes[self._at]
            painter.scale(self._scale, self._scale)
            painter.setPen(QPen(self.palette().text(), 1, Qt.PenStyle.DashLine))
            painter.drawRect(QRectF(box.x - 4, box.y - 4, box.width + 8, box.height + 8))

    def event(self, event: QEvent) -> bool:
        """Tell the whole names of what is under the mouse."""
        if event.type() == QEvent.Type.ToolTip:
            box = self._under(QPointF(event.pos()))
            QToolTip.showText(event.globalPos(), _TIP if box is None else box.title, self)
            return True
        return bool(super().event(event))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        box = self._under(event.position())
        self.setCursor(Qt.CursorShape.ArrowCursor if box is None else Qt.CursorShape.PointingHandCursor)

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        box = self._under(event.position())
        if box is not None and self.map is not None:
            self._at = self.map.boxes.index(box)
            self.picked.emit(box)

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802
        """Go to the nearest box in the direction of an arrow; Enter and the space bar choose it."""
        boxes = () if self.map is None else self.map.boxes
        if event.key() in _STEPS and boxes:
            self._at = 0 if self._at is None else self._beside(*_STEPS[event.key()])
            box = boxes[self._at]
            self.setAccessibleDescription(box.title)
            self.reached.emit(QRectF(box.x, box.y, box.width, box.height))
            self.update()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space) and self._at is not None:
            self.picked.emit(boxes[self._at])
        else:
            super().keyPressEvent(event)

    def _under(self, place: QPointF) -> Any:
        return None if self.map is None else self.map.at(place.x() / self._scale, place.y() / self._scale)

    def _beside(self, right: int, down: int) -> int:
        assert self.map is not None and self._at is not None
        own = self.map.boxes[self._at]
        best = self._at, float("inf")
        for index, box in enumerate(self.map.boxes):
            x, y = box.x + box.width / 2 - own.x - own.width / 2, box.y + box.height / 2 - own.y - own.height / 2
            onward, aside = x * right + y * down, abs(x * down) + abs(y * right)
            if onward > 1 and onward + 2 * aside < best[1]:
                best = index, onward + 2 * aside
        return best[0]


class SpacePicture(QScrollArea):
    """The graph of a file's spaces; ``picked(box)`` tells of the `MapBox` that was clicked, or chosen by keys.

    It stands upright or lies, as its width suits it, and scrolls where letters would become too small.
    """

    picked = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._graph: SpaceGraph | None = None
        self._scale = 1.0
        self._marked: tuple[Collection[str], Collection[str]] = ((), ())
        self.canvas = _Canvas()
        self.canvas.picked.connect(self.picked)
        self.canvas.reached.connect(self._bring)
        self.setWidget(self.canvas)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setFocusProxy(self.canvas)
        self.setMinimumWidth(80)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.hide()

    def show_graph(self, graph: SpaceGraph | None) -> None:
        """Show a graph, or nothing."""
        self._graph = graph
        self.setVisible(graph is not None)
        self._draw()

    def mark(self, spaces: Collection[str] = (), transforms: Collection[str] = ()) -> None:
        """Mark some of the spaces and transforms."""
        self._marked = (spaces, transforms)
        self._draw()

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        super().resizeEvent(event)
        if event.size().width() != event.oldSize().width():
            self._draw()

    def _draw(self) -> None:
        if self._graph is None:
            return
        room = max(1, self.width() - 2)
        drawn = max((lay_out_spaces(self._graph, downward=way) for way in (False, True)), key=lambda m: min(1.0, room / m.width))
        self._scale = scale = max(_LEAST_SCALE, min(1.0, room / drawn.width, _MOST_HEIGHT / drawn.height))
        if drawn.height * scale > _MOST_HEIGHT:
            # Beside it stands what scrolls it.
            room -= self.verticalScrollBar().sizeHint().width()
            self._scale = scale = max(_LEAST_SCALE, min(scale, room / drawn.width))
        self.canvas.show_map(drawn, scale, self._marked)
        bar = self.horizontalScrollBar().sizeHint().height() if drawn.width * scale > room else 0
        self.setFixedHeight(min(_MOST_HEIGHT, self.canvas.height() + bar + 2))

    def _bring(self, box: QRectF) -> None:
        """Scroll to a box."""
        middle = box.center() * self._scale
        self.ensureVisible(round(middle.x()), round(middle.y()), round(box.width() * self._scale / 2) + 8, 30)


class _SpaceEdit(QWidget):
    """A list of spaces above their picture."""

    edited = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._choice = ChoiceEdit()
        self._label = QLabel()
        self._label.setBuddy(self._choice)
        self.marked = [self._choice]
        self.picture = SpacePicture()
        self.setFocusProxy(self._choice)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(beside(self._label, self._choice))
        column.addWidget(self.picture)
        self._choice.edited.connect(self.edited)
        self.picture.picked.connect(self._on_picked)

    def setAccessibleName(self, name: str) -> None:  # noqa: N802
        """Be called like that, for all to see: the row has no label of its own."""
        super().setAccessibleName(name)
        self._label.setText(name)
        self._choice.setAccessibleName(name)

    def read(self) -> str | None:
        space: str | None = self._choice.read()
        return space

    def write(self, value: Any) -> None:
        self._choice.write(value)

    def offer(self, items: Iterable[tuple[str, Any]]) -> None:
        """Set what can be chosen."""
        self._choice.offer(items)

    def _on_picked(self, box: Any) -> None:
        if box.kind == "space" and box.names[0] is not None:
            self._choice.write(box.names[0])


class SpaceField(Field, editor=_SpaceEdit):
    """The name of a space, or None: chosen in a list, or in a picture of the file's spaces."""

    is_wide = True

    @property
    def choices(self) -> list[Any]:
        """All that can be chosen."""
        return list(self.native._choice.values)

    def offer(self, items: Iterable[tuple[str, Any]]) -> None:
        """Set what can be chosen, pairs of a text and a value; what was chosen stays, if it still can be."""
        self.native.offer(items)
