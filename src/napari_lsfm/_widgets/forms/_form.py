"""What all forms share: fields in sections, the outlook on what will come, the work, and letting go of the viewer."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from magicgui.backends._qtpy.widgets import Container as ContainerBackend
from magicgui.backends._qtpy.widgets import QBaseWidget
from magicgui.widgets import Container, Widget
from magicgui.widgets.bases import ContainerWidget
from qtpy.QtCore import QEvent, QSize, QTimer, Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QResizeEvent
from qtpy.QtWidgets import QApplication, QMenu, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from lsfm_core import CancelToken, LsfmError, recipe_entry, request_command
from napari_lsfm._viewing import attend
from napari_lsfm._widgets.fields import Rows, Scrolled, Section, Words, align, beside, make_field, nested
from napari_lsfm._workers import Job, JobPanel, Latest, in_words

if TYPE_CHECKING:
    import napari
    from pydantic import BaseModel

__all__ = ["Form"]

#: Below it labels stand above their fields.
_NARROW = 330
#: Of a form's height, what the words at its foot may take at most.
_SHARE = 0.35
#: Not at every key: to look at all fields takes longer than the next key.
_PAUSE_MS = 150


class Form(Container[Widget]):
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
        Titles, and the names of the fields below each, in reading order; ``region.side`` is a field of a nested request.
    folded : tuple of str
        Titles of the sections that are folded at first.

    Parameters
    ----------
    viewer : napari.Viewer
        Let go of when napari takes the form out of its window.
    """

    request_type: ClassVar[type[BaseModel]]
    operation: ClassVar[str]
    action: ClassVar[str]
    sections: ClassVar[Mapping[str, Sequence[str]]]
    folded: ClassVar[tuple[str, ...]] = ()
    width_hint: ClassVar[int] = 400
    least_lines: ClassVar[int] = 3

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self._heard: list[tuple[Any, Callable[..., None]]] = []
        self._hidden: set[str] = set()
        self._is_filling = self._is_ready = False
        # Not magicgui's own backend for containers, whose labels align within one of them only.
        ContainerWidget.__init__(self, labels=False, widget_type=_Backend)
        attend(viewer)
        root: _Root = self.native
        root.width_hint = self.width_hint
        self.outlook, self.doubts = Words(self.least_lines), Words()
        self.outlook.setAccessibleName("outlook")
        self.doubts.setAccessibleName("warnings")
        self.outlook.setToolTip("What will come, what is still to be given, or what is wrong")
        self.doubts.setToolTip("What should be looked at before")
        self.doubts.hide()
        self.panel = JobPanel()
        self._planner = Latest(root)
        self._planner.answered.connect(self._on_plan)
        self._planner.failed.connect(self._complain)
        self._soon = QTimer(root, singleShot=True, interval=_PAUSE_MS)
        self._soon.timeout.connect(self._look_ahead)
        for title, names in self.sections.items():
            root.begin(title, is_open=title not in self.folded)
            for name in names:
                made = self._make(name)
                if isinstance(made, Widget):
                    self.append(made)
                else:
                    root.add(name, *made)
        self.copy = QPushButton("Copy")
        self.copy.setToolTip("Put a command line that does the same, or an entry of a recipe, into the clipboard")
        self.copy.setMenu(self._copy_menu())
        self.button = QPushButton(self.action)
        self.button.setToolTip(f"{self.action}; the form can be changed meanwhile")
        self.button.clicked.connect(lambda _: self._on_button())
        root.end(_stacked(self.outlook, self.doubts), beside(self.copy, self.button), self.panel)
        self.panel.finished.connect(lambda: self._enable(ready=self._is_ready))
        self.changed.connect(self._changed)
        root.left.connect(self._let_go)

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

    def asdict(self) -> dict[str, Any]:
        """Values of all fields by their names; None where what stands there cannot be read."""
        return {field.name: _peek(field) for field in self}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.asdict()}>"

    def request(self) -> Any:
        """What the form says; fields that are not shown do not count.

        Raises
        ------
        InputError
            That says what is missing or wrong.
        """
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
    def labels(self) -> Any:
        """The field of that name, which magicgui's containers have as well."""
        return self.get_widget("labels") or False

    @property
    def orientation(self) -> Any:
        """The field of that name, in the same way."""
        return self.get_widget("orientation")

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
        for name in self._names():
            outer, _, inner = name.partition(".")
            if name not in self._hidden:
                (parts.setdefault(outer, {}) if inner else given)[inner or outer] = self[inner or outer].value
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

    def _insert_widget(self, index: int, widget: Widget) -> None:
        # Without magicgui's own labels.
        self._list.insert(index, widget)
        self._widget._mgui_insert_widget(index, widget)

    # --- fields -------------------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        """Those of the fields that are the request's."""
        names = [name for names in self.sections.values() for name in names]
        return [name for name in names if name.partition(".")[0] in self.request_type.model_fields]

    def _show_rows(self, visible: bool, *names: str) -> None:
        """Show or hide rows with their labels."""
        for name in names:
            rows, widget = self._place(name)
            rows.show_row(widget, visible)
            (self._hidden.discard if visible else self._hidden.add)(name)

    def _place(self, name: str) -> tuple[Rows, QWidget]:
        return self.native.places[name.rpartition(".")[2]]

    def _mark(self, message: str = "") -> None:
        """Say what is wrong beside the fields that it begins with, as ``memory: must be more than 0; fill: …``."""
        marks = {name: "" for names in self.sections.values() for name in names if name not in self._hidden}
        for part in message.split("; ") if message else ():
            begins = [
                (word, name)
                for name in marks
                for word in self._words_of(name)
                if re.match(rf"{re.escape(word)}(?![\w-])", part, re.IGNORECASE)
            ]
            if begins:
                _, name = max(begins, key=lambda found: len(found[0]))
                marks[name] = part
        for name, note in marks.items():
            rows, widget = self._place(name)
            rows.mark(widget, note, is_missing=not note and name in self._missing())
            if note:
                self.native.unfold(rows)

    def _missing(self) -> Sequence[str]:
        """Names of the fields that are still to be given."""
        return ()

    def _words_of(self, name: str) -> set[str]:
        field = self.get_widget(name.rpartition(".")[2])
        if field is None:
            return set()
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

    def _enable(self, *, ready: bool) -> None:
        self._is_ready = ready
        self.button.setEnabled(ready and not self.panel.is_busy)

    def _on_button(self) -> None:
        try:
            self.go()
        except LsfmError as error:
            self._complain(in_words(error))

    def _filling(self) -> _Filling:
        """While several fields are filled in that belong together."""
        return _Filling(self)

    # --- copying ------------------------------------------------------------------------------------------------------------

    def _copy_menu(self) -> QMenu:
        menu = QMenu(self.copy)
        ways: tuple[tuple[str, Callable[[Any], str]], ...] = (
            ("Command line", lambda request: shlex.join(request_command(request))),
            ("Recipe entry", partial(recipe_entry, self.operation)),
        )
        for title, put in ways:
            menu.addAction(title).triggered.connect(partial(self._copy, put))
        return menu

    def _copy(self, put: Callable[[Any], str], _: bool = False) -> None:
        try:
            text = put(self._nameable_request())
        except LsfmError as error:
            self.panel.complain(in_words(error))
            return
        QApplication.clipboard().setText(text)
        self.panel.say(f"In the clipboard: {text}")

    # --- the viewer ---------------------------------------------------------------------------------------------------------

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
        self.native.deleteLater()


class _Filling:
    """Keeps a form from looking ahead; may be nested."""

    def __init__(self, form: Form) -> None:
        self._form = form

    def __enter__(self) -> None:
        self._before, self._form._is_filling = self._form._is_filling, True

    def __exit__(self, *_: object) -> None:
        self._form._is_filling = self._before


class _Root(QWidget):
    """The form's own widget: sections, which scroll, above what stays in sight."""

    left = Signal()
    dropped = Signal(list)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.width_hint = 400
        self.places: dict[str, tuple[Rows, QWidget]] = {}
        self._sections: list[Section] = []
        self._foot: Scrolled | None = None
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
        """Whatever it has to be: it scrolls and folds."""
        return QSize(180, 160)

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

    def end(self, words: QWidget, *parts: QWidget) -> None:
        """What stands below the sections."""
        self._foot = Scrolled(words, _SHARE)
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
            self._align()
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
        align(self.findChildren(Rows), narrow=self.width() < _NARROW)
        self._fit()

    def _fit(self) -> None:
        for part in (self._body, self._foot):
            if part is not None:
                part.fit()


class _Backend(ContainerBackend):
    """Puts what is added to a container into the last section of a form."""

    def __init__(self, layout: str = "vertical", scrollable: bool = False, **keywords: Any) -> None:
        QBaseWidget.__init__(self, _Root, **keywords)
        self._layout = self._qwidget.column

    def _mgui_insert_widget(self, position: int, widget: Widget) -> None:
        widget.native.setAccessibleName(widget.label)
        label = "" if getattr(widget, "is_wide", False) else widget.label
        self._qwidget.add(widget.name, label, widget.native, widget.tooltip or "")

    def _mgui_remove_widget(self, widget: Widget) -> None:
        self._qwidget.take_out(widget.name)


def _peek(field: Any) -> Any:
    try:
        return field.value
    except LsfmError:
        return None


def _stacked(*widgets: QWidget) -> QWidget:
    content = QWidget()
    column = QVBoxLayout(content)
    column.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        column.addWidget(widget)
    column.addStretch(1)
    return content
