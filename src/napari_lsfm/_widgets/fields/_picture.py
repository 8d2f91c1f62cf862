"""Grey pictures with the letters of the body's sides at their edges, as radiologists draw them: white on black in every theme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QRect, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QFont, QImage, QPainter, QPaintEvent
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["Picture", "as_grey"]

Grey = npt.NDArray[np.uint8]

_MARGIN = 18
_PERCENTILES = (0.5, 99.8)
#: Neighbouring ids differ clearly, and none is as dark as no label.
_LABEL_STEP, _LABEL_DARKEST = 61, 56


class Picture(QWidget):
    """A picture, and a letter at each of its edges.

    Parameters
    ----------
    edge : int
        Length of the picture's longer side, in pixels of the screen.
    """

    def __init__(self, edge: int) -> None:
        super().__init__()
        self._image: Grey | None = None
        self._letters: tuple[str, ...] = ()
        self._text = ""
        self._size = QSize(edge + 2 * _MARGIN, edge + 2 * _MARGIN)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(self._size.width() // 2)

    @property
    def image(self) -> Grey | None:
        """What is shown."""
        return self._image

    @property
    def letters(self) -> tuple[str, ...]:
        """Those at the left, right, upper and lower edge; none where the sides are not known."""
        return self._letters

    def sizeHint(self) -> QSize:  # noqa: N802
        """As large as the edge asks for."""
        return self._size

    def show_image(self, image: Grey | None, text: str = "") -> None:
        """Show a picture, or a text where there is none."""
        self._image, self._text = image, text
        self.update()

    def show_letters(self, letters: Sequence[str]) -> None:
        """Letters at the left, right, upper and lower edge."""
        self._letters = tuple(letters)
        self.setAccessibleDescription(", ".join(map(" ".join, zip(("left", "right", "top", "bottom"), letters, strict=False))))
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw everything anew; it is little."""
        painter = QPainter(self)
        painter.setRenderHints(QPainter.RenderHint.Antialiasing | QPainter.RenderHint.SmoothPixmapTransform)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor("black"))
        painter.drawRoundedRect(QRectF(self.rect()), 4, 4)
        painter.setPen(QColor("white"))
        inner = self.rect().adjusted(_MARGIN, _MARGIN, -_MARGIN, -_MARGIN)
        if self._image is None:
            painter.drawText(inner, Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap, self._text)
            return
        rows, columns = self._image.shape
        image = QImage(self._image.data, columns, rows, columns, QImage.Format.Format_Grayscale8)
        size = image.size().scaled(inner.size(), Qt.AspectRatioMode.KeepAspectRatio)
        place = QRect(inner.topLeft(), size)
        place.moveCenter(inner.center())
        painter.drawImage(place, image)
        if self._letters:
            font = QFont(self.font())
            font.setBold(True)
            painter.setFont(font)
            around = place.adjusted(-_MARGIN, -_MARGIN, _MARGIN, _MARGIN)
            left, right, top, bottom = self._letters
            middle, centre = Qt.AlignmentFlag.AlignVCenter, Qt.AlignmentFlag.AlignHCenter
            painter.drawText(around.adjusted(4, 0, -4, 0), Qt.AlignmentFlag.AlignLeft | middle, left)
            painter.drawText(around.adjusted(4, 0, -4, 0), Qt.AlignmentFlag.AlignRight | middle, right)
            painter.drawText(around, Qt.AlignmentFlag.AlignTop | centre, top)
            painter.drawText(around, Qt.AlignmentFlag.AlignBottom | centre, bottom)


def as_grey(plane: npt.NDArray[Any], kind: str, edge: int) -> Grey:
    """A plane of any type as a small grey picture.

    Parameters
    ----------
    plane : array (rows, columns), or (rows, columns, values) of vectors, which are shown by their lengths, or components, by their
        mean
    kind : {"image", "labels", "vectors", "components"}
    edge : int
        Longest side of the result.
    """
    step = -(-max(plane.shape[:2]) // edge)
    small = plane[::step, ::step]
    if kind == "labels":
        return np.where(small, small.astype(np.int64) * _LABEL_STEP % (256 - _LABEL_DARKEST) + _LABEL_DARKEST, 0).astype(np.uint8)
    values = np.linalg.norm(small, axis=-1) if kind == "vectors" else small.astype(np.float64)
    values = values.mean(axis=-1) if values.ndim > 2 else values
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, _PERCENTILES) if finite.size else (0.0, 1.0)
    scaled = np.nan_to_num((values - low) / max(high - low, 1e-12))
    return np.ascontiguousarray((255 * scaled.clip(0, 1)).astype(np.uint8))
