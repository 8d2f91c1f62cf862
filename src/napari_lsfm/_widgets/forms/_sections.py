"""What forms and panels share: parts below each other in sections, and letting go of the viewer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from magicgui.widgets import Container, Widget
from magicgui.widgets.bases import ContainerWidget
from qtpy.QtWidgets import QWidget

from lsfm_core import LsfmError
from napari_lsfm._viewing import attend
from napari_lsfm._widgets.forms._root import FormBackend, FormWidget
from napari_lsfm._workers import JobPanel

if TYPE_CHECKING:
    import napari

__all__ = ["Sections", "peek"]


class Sections(Container[Widget]):
    """A container of magicgui's, whose widgets stand in sections; for napari's dock.

    Subclasses make each part in `_make`, and call ``self.native.end(…)`` with what stands below.

    Attributes
    ----------
    sections : mapping of str to sequence of str
        Titles, and the names of the parts below each, in reading order.
    folded : tuple of str
        Titles of the sections that are folded at first.

    Parameters
    ----------
    viewer : napari.Viewer
        Let go of when napari takes the form out of its window.
    """

    sections: ClassVar[Mapping[str, Sequence[str]]]
    folded: ClassVar[tuple[str, ...]] = ()
    width_hint: ClassVar[int] = 400

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self._heard: list[tuple[Any, Callable[..., None]]] = []
        self._hidden: set[str] = set()
        # Not magicgui's own backend for containers, whose labels align within one of them only.
        ContainerWidget.__init__(self, labels=False, widget_type=FormBackend)
        attend(viewer)
        root: FormWidget = self.native
        root.width_hint = self.width_hint
        self.panel = JobPanel()
        for title, names in self.sections.items():
            root.rows.title(title, is_open=title not in self.folded)
            for name in names:
                made = self._make(name)
                if isinstance(made, Widget):
                    self.append(made)
                else:
                    root.add(name, *made)
        root.left.connect(self._let_go)

    def asdict(self) -> dict[str, Any]:
        """Values of all fields by their names; None where what stands there cannot be read."""
        return {field.name: peek(field) for field in self}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.asdict()}>"

    @property
    def labels(self) -> Any:
        """The field of that name, which magicgui's containers have as well."""
        return self.get_widget("labels") or False

    @property
    def orientation(self) -> Any:
        """The field of that name, in the same way."""
        return self.get_widget("orientation")

    def _make(self, name: str) -> Widget | tuple[str, QWidget, str]:
        """A field by its name; or a row of something else: its label, widget and tip."""
        raise NotImplementedError

    def _insert_widget(self, index: int, widget: Widget) -> None:
        # Without magicgui's own labels.
        self._list.insert(index, widget)
        self._widget._mgui_insert_widget(index, widget)

    def _show_rows(self, visible: bool, *names: str) -> None:
        """Show or hide rows with their labels."""
        for name in names:
            short = name.rpartition(".")[2]
            self.native.rows.show_row(self.native.places[short], visible)
            (self._hidden.discard if visible else self._hidden.add)(short)
        self.native.align_soon()

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


def peek(field: Any) -> Any:
    """The value of a field, or None where what stands there cannot be read."""
    try:
        return field.value
    except LsfmError:
        return None
