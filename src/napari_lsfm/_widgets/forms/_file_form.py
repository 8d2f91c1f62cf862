"""What forms share that ask about a file of ours: they wait until it was looked into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lsfm_core import InputError
from napari_lsfm._widgets._facts import FileFacts
from napari_lsfm._widgets.forms._form import Form

if TYPE_CHECKING:
    import napari

__all__ = ["FileForm"]


class FileForm(Form):
    """A form whose field ``path`` is a `FileField`; what else can be chosen is known once that file was looked into.

    Subclasses call ``path.native.start`` when they are ready to hear of files.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._facts: FileFacts | None = None
        self._failure = ""
        self._pending: Callable[[], None] | None = None
        super().__init__(viewer)
        self.path.native.left.connect(self._on_left)
        self.path.native.chosen.connect(self._on_facts)
        self.path.native.failed.connect(self._on_failed)

    @property
    def is_busy(self) -> bool:
        """Whether the form looks into its file, has not yet said what will come of what it says, or is at work."""
        return self.path.native.is_busy or super().is_busy

    def _await_choices(self) -> None:
        # A script need not wait for what its file tells.
        if self._facts is None:
            if self._failure or self.path.value is None:
                raise InputError(self._failure or "no file is chosen")
            self.path.native.look_now()

    def _on_left(self) -> None:
        """Another file was chosen."""
        self._facts, self._failure = None, ""
        self._planner.forget()
        self.outlook.say("…")
        self._enable(ready=False)

    def _on_failed(self, message: str) -> None:
        self._failure = message
        self._complain(message)

    def _on_facts(self, facts: FileFacts) -> None:
        """The file was looked into."""
        self._facts = facts

    def _once_known(self, path: Path, fill: Callable[[], None]) -> None:
        """Fill fields in as soon as a file was looked into, which is chosen where it was not."""
        if self._facts is not None and self._facts.path == path:
            fill()
        else:
            self._pending = fill
            self.path.value = path

    def _changed(self, *_: object) -> None:
        if self._facts is not None:
            super()._changed()

    def _look_ahead(self) -> None:
        if self._facts is not None:
            super()._look_ahead()

    def _let_go(self) -> None:
        self.path.native.let_go()
        super()._let_go()
