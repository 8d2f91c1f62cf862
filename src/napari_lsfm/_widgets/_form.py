"""What all forms share: where their parts stand, how they listen to the viewer and let go of it, and copying what they ask for."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QSize
from qtpy.QtWidgets import QApplication, QMenu, QPushButton, QVBoxLayout, QWidget

from lsfm_core import LsfmError, recipe_entry, request_command
from napari_lsfm._viewing import attend
from napari_lsfm._widgets._fields import Scrolled
from napari_lsfm._workers import JobPanel, in_words

if TYPE_CHECKING:
    import napari

__all__ = ["CopyButton", "Form"]


class Form(QWidget):
    """A form in napari's dock: what scrolls, above what stays in sight, above the panel of its work.

    Parameters
    ----------
    viewer : napari.Viewer
        Let go of when napari takes the form out of its window.
    width : int
        As narrow as all can be read, which leaves most of the window to the image.
    """

    def __init__(self, viewer: napari.viewer.Viewer, width: int = 400) -> None:
        super().__init__()
        self._viewer = viewer
        attend(viewer)
        self._width = width
        self._heard: list[tuple[Any, Callable[..., None]]] = []
        self.panel = JobPanel()

    def sizeHint(self) -> QSize:  # noqa: N802
        """Of the width that was asked for."""
        return QSize(self._width, super().sizeHint().height())

    def event(self, event: QEvent) -> bool:
        """Let go of the viewer when napari takes the form out of its window."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self._let_go()
        return bool(super().event(event))

    def _lay_out(self, content: QWidget, *foot: QWidget) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.addWidget(Scrolled(content), 1)
        for part in (*foot, self.panel):
            column.addWidget(part)

    def _listen(self, slot: Callable[..., None], *emitters: Any) -> None:
        """Have a slot called by events of the viewer, as long as the form is there."""
        for emitter in emitters:
            emitter.connect(slot)
            self._heard.append((emitter, slot))

    def _let_go(self) -> None:
        """Stop, and forget the viewer; forms that hold more of it let go of that as well."""
        while self._heard:
            emitter, slot = self._heard.pop()
            emitter.disconnect(slot)
        self.panel.cancel()
        self.deleteLater()


class CopyButton(QPushButton):
    """Puts what a form asks for into the clipboard, as a command line or as an entry of a recipe.

    Parameters
    ----------
    operation : str
        Its name in a recipe.
    request : callable
        Gives the request; if that cannot be, the error's words stand in the panel.
    panel : JobPanel
    """

    def __init__(self, operation: str, request: Callable[[], Any], panel: JobPanel) -> None:
        super().__init__("Copy")
        self.setToolTip("Put a command line that does the same, or an entry of a recipe, into the clipboard")
        self._request = request
        self._panel = panel
        menu = QMenu(self)
        for title, put in (
            ("Command line", lambda request: shlex.join(request_command(request))),
            ("Recipe entry", partial(recipe_entry, operation)),
        ):
            menu.addAction(title).triggered.connect(partial(self._copy, put))
        self.setMenu(menu)

    def _copy(self, put: Callable[[Any], str], _: bool = False) -> None:
        try:
            text = put(self._request())
        except LsfmError as error:
            self._panel.complain(in_words(error))
            return
        QApplication.clipboard().setText(text)
        self._panel.say(f"In the clipboard: {text}")
