"""Words of any length, and how they look where something is wrong."""

from __future__ import annotations

from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QLabel, QSizePolicy, QWidget

__all__ = ["ERROR_STYLE", "SUCCESS_STYLE", "WARNING_STYLE", "Words"]

#: They can be read on napari's dark and light backgrounds.
ERROR_STYLE = "color: #e5534b;"
WARNING_STYLE = "color: #c77d0a;"
SUCCESS_STYLE = "color: #3fa45b;"


class Words(QLabel):
    """Words of any length that are always seen whole.

    A plain label that wraps tells layouts its height as a function of its width, which nested ones ask for too early.

    Parameters
    ----------
    least_lines : int
        Room that it takes in any case.
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
        return QSize(super().sizeHint().width(), self.minimumHeight())

    def say(self, text: str, style: str = "") -> None:
        """Show a message."""
        if style != self.styleSheet():
            self.setStyleSheet(style)
        self.setText(text)
        self._fit()

    def praise(self, text: str) -> None:
        """Show what was done."""
        self.say(text, SUCCESS_STYLE)

    def warn(self, text: str) -> None:
        """Show what is to be looked at."""
        self.say(text, WARNING_STYLE)

    def complain(self, text: str) -> None:
        """Show what is wrong."""
        self.say(text, ERROR_STYLE)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        height = max(self._least_lines * self.fontMetrics().lineSpacing(), self.heightForWidth(self.width()))
        if height != self.minimumHeight():
            self.setMinimumHeight(height)
            self._soon.start()

    def _ask_for_room(self) -> None:
        """Tell all layouts above, for what a widget tells them while they are at work is lost on the outer ones."""
        widget: QWidget | None = self
        while widget is not None and not hasattr(widget, "fit"):
            widget.updateGeometry()
            widget = widget.parentWidget()
        if widget is not None:
            widget.fit()
