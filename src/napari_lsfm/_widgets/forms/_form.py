"""What all forms share: fields of a request, the outlook on what will come, and the work."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from magicgui.widgets import Widget
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QMenu, QPushButton, QWidget

from lsfm_core import CancelToken, InputError, LsfmError
from napari_lsfm._widgets.fields import Words, beside, make_field, nested
from napari_lsfm._widgets.forms._root import FormWidget
from napari_lsfm._widgets.forms._sections import Sections
from napari_lsfm._workers import Job, Latest, in_words

if TYPE_CHECKING:
    import napari
    from pydantic import BaseModel

__all__ = ["Form"]

#: Not at every key: to look at all fields takes longer than the next key.
_PAUSE_MS = 150


class Form(Sections):
    """A form that fills a request, as a container of magicgui's: ``form.channel.value = "cfos"``, ``form.asdict()``.

    Subclasses name the request, and lay its fields out by their names. What the request does not tell of a field they tell in
    `_make`.

    Attributes
    ----------
    request_type : type of Request
    operation : str
        Its name in a recipe.
    action : str
        What the button says.
    sections : mapping of str to sequence of str
        As `Sections` has them; ``region.side`` is a field of a nested request.
    needed : mapping of str to str
        What is told where it is still to be given, and what it is called then.
    """

    request_type: ClassVar[type[BaseModel]]
    operation: ClassVar[str]
    action: ClassVar[str]
    least_lines: ClassVar[int] = 3
    needed: ClassVar[Mapping[str, str]] = {}

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._is_filling = self._is_ready = False
        #: What the form said when its work was done, and the words about that: as long as it says the same, nothing is to be done.
        self._done: tuple[Any, str] | None = None
        super().__init__(viewer)
        root: FormWidget = self.native
        self.outlook, self.doubts = Words(self.least_lines), Words()
        self.outlook.setAccessibleName("outlook")
        self.doubts.setAccessibleName("warnings")
        self.outlook.setToolTip("What will come, what is still to be given, or what is wrong")
        self.doubts.setToolTip("What should be looked at before")
        self.doubts.hide()
        self._planner = Latest(root, answered=self._on_plan, failed=self._complain)
        self._soon = QTimer(root, singleShot=True, interval=_PAUSE_MS)
        self._soon.timeout.connect(self._look_ahead)
        self.copy = QPushButton("Copy")
        self.copy.setToolTip("Put a command line that does the same, or an entry of a recipe, into the clipboard")
        self.copy.setMenu(self._copy_menu())
        self.button = QPushButton(self.action)
        self.button.setToolTip(f"{self.action}; the form can be changed meanwhile")
        self.button.clicked.connect(lambda _: self._on_button())
        root.end([self.outlook, self.doubts], beside(self.copy, self.button), self.panel)
        self.panel.finished.connect(lambda: self._enable(ready=self._is_ready))
        self.changed.connect(self._changed)

    # --- what scripts use ---------------------------------------------------------------------------------------------------

    def __call__(self, request: Any) -> None:
        """Show a request."""
        with self._filling():
            for name in self._names():
                outer, _, inner = name.partition(".")
                value = getattr(request, outer)
                if inner and value is not None:
                    value = getattr(value, inner)
                if not inner or value is not None:
                    self[inner or outer].value = value
        self._changed()

    def request(self) -> Any:
        """What the form says; fields that are not shown do not count.

        Raises
        ------
        InputError
            That says what is missing or wrong.
        """
        missing = self._missing()
        if missing:
            raise InputError(f"still to be given: {self._called(missing)}")
        self._await_choices()
        return self.request_type(**self._given())

    def go(self) -> Job:
        """Begin what the form says.

        Returns
        -------
        Job
            Whose signals tell how it goes; ``job.cancel()`` stops it.

        Raises
        ------
        InputError
            As `request`.
        """
        job = self._begin(self.request())
        self._enable(ready=self._is_ready)
        return job

    @property
    def is_busy(self) -> bool:
        """Whether the form has not yet said what will come of what it says, or is at work."""
        return self._soon.isActive() or self._planner.is_busy or self.panel.is_busy

    # --- what subclasses tell -----------------------------------------------------------------------------------------------

    def _make(self, name: str) -> Widget | tuple[str, QWidget, str]:
        """A field by its name; or a row of something else: its label, widget and tip."""
        return make_field(self.request_type, name)

    def _given(self) -> dict[str, Any]:
        """The fields of the request."""
        given: dict[str, Any] = {}
        parts: dict[str, dict[str, Any]] = {}
        errors = []
        for name in self._names():
            outer, _, inner = name.partition(".")
            if (inner or outer) in self._hidden:
                continue
            try:
                (parts.setdefault(outer, {}) if inner else given)[inner or outer] = self[inner or outer].value
            except InputError as error:
                errors.append(str(error))
        if errors:
            raise InputError("; ".join(errors))
        return given | {outer: nested(self.request_type, outer)(**fields) for outer, fields in parts.items()}

    def _hindrance(self) -> str:
        """Why there is no request yet, where that is no error."""
        return ""

    def _plan(self, request: Any, cancel: CancelToken) -> Any:
        """A dry run, in a thread."""
        raise NotImplementedError

    def _say_plan(self, plan: Any) -> None:
        """Tell what a dry run has found."""
        raise NotImplementedError

    def _begin(self, request: Any) -> Job:
        """Start the work."""
        raise NotImplementedError

    def _nameable_request(self) -> Any:
        """The request, if others can do it; else an `InputError` that says why not."""
        return self.request()

    # --- fields -------------------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        """Those of the fields that are the request's."""
        names = [name for names in self.sections.values() for name in names]
        return [name for name in names if name.partition(".")[0] in self.request_type.model_fields]

    def _mark(self, message: str = "") -> None:
        """Say what is wrong beside the fields that it begins with, as ``memory: must be more than 0; fill: …``."""
        shown = [field for field in self if field.name not in self._hidden]
        fields = [part for field in shown for part in getattr(field, "parts", (field,))]
        notes: dict[str, str] = {}
        for part in message.split("; ") if message else ():
            begins = [
                (word, field.name)
                for field in fields
                for word in self._words_of(field)
                if re.match(rf"{re.escape(word)}(?![\w-])", part, re.IGNORECASE)
            ]
            if begins:
                word, name = max(begins, key=lambda found: len(found[0]))
                # Beside the field nobody needs its name.
                notes[name] = part[len(word) :].removeprefix(":").strip() if part[len(word) :].startswith(":") else part
        for field in fields:
            note = notes.get(field.name, "")
            field.native.parentWidget().mark(field.native, note, is_missing=not note and field.name in self._missing())

    def _missing(self) -> Sequence[str]:
        """Names of the fields that are still to be given."""
        return ()

    def _await_choices(self) -> None:
        """Know what can be chosen."""

    def _called(self, names: Sequence[str]) -> str:
        return ", ".join(self.needed[name] for name in names)

    def _says(self) -> Any:
        """What the form asks for, as far as another choice of it is another wish."""
        return self.asdict()

    @property
    def _done_words(self) -> str:
        """What is told of work that is done, as long as the form says the same."""
        return self._done[1] if self._done is not None and self._done[0] == self._says() else ""

    def _words_of(self, field: Widget) -> set[str]:
        stem = re.sub("_(mm|vox|bytes)$", "", field.name)
        return {stem, stem.replace("_", " "), getattr(field, "words", stem)} - {""}

    # --- looking ahead ------------------------------------------------------------------------------------------------------

    def _changed(self, *_: object) -> None:
        if self._is_filling:
            return
        self._enable(ready=False)
        self._planner.forget()
        self._soon.start()

    def _look_ahead(self) -> None:
        """Say what is missing, or ask what the request will give."""
        self.doubts.hide()
        if self._done_words:
            self._mark()
            self.outlook.praise(self._done_words)
            return
        self._done = None
        hindrance = self._hindrance()
        if hindrance:
            self._mark()
            self.outlook.say(hindrance)
            return
        try:
            request = self.request()
        except LsfmError as error:
            self._complain(in_words(error))
            return
        self.outlook.say("…")
        self._planner.ask(lambda cancel: self._plan(request, cancel))

    def _on_plan(self, plan: Any) -> None:
        self._mark()
        self._say_plan(plan)
        self._enable(ready=True)

    def _complain(self, text: str) -> None:
        self._mark(text)
        self.outlook.complain(text)
        self._enable(ready=False)

    def _warn(self, warnings: Sequence[str]) -> None:
        self.doubts.warn("\n".join(f"Warning: {warning}" for warning in warnings))
        self.doubts.setVisible(bool(warnings))
        # The same words as before, which were hidden meanwhile, ask for no room by themselves.
        self.native.align_soon()

    def _enable(self, *, ready: bool) -> None:
        self._is_ready = ready
        self.button.setEnabled(ready and not self.panel.is_busy)

    def _on_button(self) -> None:
        try:
            self.go()
        except LsfmError as error:
            self._complain(in_words(error))

    @contextmanager
    def _filling(self) -> Iterator[None]:
        """While several fields are filled in that belong together; may be nested."""
        before, self._is_filling = self._is_filling, True
        try:
            yield
        finally:
            self._is_filling = before

    # --- copying ------------------------------------------------------------------------------------------------------------

    def _copy_menu(self) -> QMenu:
        menu = QMenu(self.copy)
        for title in ("Command line", "Recipe entry"):
            menu.addAction(title).triggered.connect(partial(self._copy, title))
        return menu

    def _copy(self, title: str, _: bool = False) -> None:
        # What knows of all operations takes its time to be loaded.
        from lsfm_core import recipe_entry, request_command

        try:
            request = self._nameable_request()
            is_line = title == "Command line"
            text = shlex.join(request_command(request)) if is_line else recipe_entry(self.operation, request)
        except LsfmError as error:
            self.panel.complain(in_words(error))
            return
        QApplication.clipboard().setText(text)
        self.panel.say(f"In the clipboard: {text}")
