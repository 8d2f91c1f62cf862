"""The panel of positions: where the mouse is in the brain, and the way to a place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import ComboBox, Container, Label, LineEdit, PushButton
from qtpy.QtWidgets import QApplication

from lsfm_core import InputError, LsfmError
from napari_lsfm._linked import link, partner_of, unlink
from napari_lsfm._positions import Anchor, anchor_shown, describe, locator, move_viewer
from napari_lsfm._viewing import attend, attended
from napari_lsfm._words import ERROR_STYLE
from napari_lsfm._workers import Latest, in_words

if TYPE_CHECKING:
    import napari

__all__ = ["PositionPanel"]

_PAUSE_MS = 40
_KINDS = [("voxel", "voxel"), ("mm of its own world", "native_mm"), ("mm of the other space", "there"), ("region", "region")]
_TITLES = [("Voxel", "voxel"), ("mm", "native_mm"), ("mm there", "there"), ("Region", "region")]
_TIPS = {
    "voxel": "Planes, rows and columns of the channel, as stored",
    "native_mm": "R, A, S in mm in the channel's own world",
    "there": "R, A, S in mm in the other space",
    "region": "By labels of the file that lie in any space to which the way is known",
}


class PositionPanel(Container[Any]):
    """Where the mouse is, in every space that is known; a click with Alt copies it. And the way to a place or a region.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(labels=True)
        self._viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        attend(self._viewer)
        self._anchor: Anchor | None = None
        self.channel = Label(name="channel", label="Channel", tooltip="That of the active layer, or else of the first")
        self.other = ComboBox(name="other", label="Other space", choices=self._spaces)
        rows = [LineEdit(name=name, label=title, tooltip=_TIPS[name], enabled=True) for title, name in _TITLES]
        self.voxel, self.native_mm, self.there, self.region = rows
        for row in rows:
            row.native.setReadOnly(True)
        self.copied = ComboBox(
            name="copied",
            label="Alt+click copies",
            choices=[*_KINDS, ("all of it", "all")],
            tooltip="What a click into the image with Alt puts into the clipboard; the button does so for what stands here",
        )
        self.copy = PushButton(name="copy", text="Copy")
        self.kind = ComboBox(name="kind", label="Go to", choices=_KINDS, tooltip="What is typed below")
        self.place = LineEdit(
            name="place", label=" ", tooltip="Three numbers, or a region by its id, acronym or name; Enter goes there"
        )
        self.go_there = PushButton(name="go_there", text="Go")
        self.window = ComboBox(name="window", label="Linked with", choices=self._windows, nullable=True)
        self.said = Label(name="said", label=" ")
        self.said.native.setWordWrap(True)
        shown = (self.channel, self.voxel, self.native_mm, self.other, self.there, self.region, self.copied, self.copy)
        self.extend([*shown, self.kind, self.place, self.go_there, self.window, self.said])
        self._asker = Latest(self.native, _PAUSE_MS)
        self._asker.answered.connect(self._show)
        self._asker.failed.connect(self._complain)
        self.copy.changed.connect(lambda _: self.copy_position())
        self.place.native.returnPressed.connect(self._go)
        self.go_there.changed.connect(lambda _: self._go())
        partner = partner_of(self._viewer)
        if partner in self.window.choices:
            self.window.value = partner
        self.window.changed.connect(self._on_window)
        self._viewer.mouse_move_callbacks.append(self._on_mouse)
        self._viewer.mouse_drag_callbacks.append(self._on_click)
        self._viewer.layers.selection.events.active.connect(self._on_layer)
        self.native.destroyed.connect(_leave(self._viewer, self._on_mouse, self._on_click, self._on_layer))
        self._on_layer()

    def go(self, kind: str, text: str) -> None:
        """Move the viewer.

        Parameters
        ----------
        kind : {"voxel", "native_mm", "there", "region"}
            What `text` is.
        text : str

        Raises
        ------
        LsfmError
            If it is no such thing, or the way there is not known.
        """
        anchor = self._known()
        places = locator(anchor.path, anchor.channel)
        what = text
        if kind == "region":
            what, native = places.find_region(text)
        else:
            numbers = _numbers(text)
            if kind == "voxel":
                native = places.at_voxel(numbers)
            elif kind == "native_mm":
                native = np.array(numbers)
            else:
                space = self.other.value or anchor.space
                if space is None:
                    raise InputError("other space: none is known: choose one")
                native = np.array(numbers) if space == places.own else places.to_native(space, numbers)
        move_viewer(self._viewer, anchor.to_world(places.from_native(anchor.through, native)))
        self._say(f"at {what}")

    def copy_position(self) -> None:
        """Put what stands in the panel into the clipboard."""
        fields = {"voxel": self.voxel, "native_mm": self.native_mm, "there": self.there, "region": self.region}
        chosen = self.copied.value
        if chosen == "all":
            text = "; ".join(f"{title} {fields[name].value}" for title, name in _TITLES if fields[name].value)
        else:
            text = fields[chosen].value
        QApplication.clipboard().setText(text)
        self._say(f"In the clipboard: {text}" if text else "there is nothing to copy")

    # --- what is shown ------------------------------------------------------------------------------------------------------

    def look(self, position: Any) -> None:
        """Tell of a position of the viewer."""
        anchor = anchor_shown(self._viewer)
        if anchor is None:
            return
        space = self.other.value
        place = tuple(position)
        self._asker.ask(lambda _: describe(anchor, place, space))

    def _show(self, words: dict[str, str]) -> None:
        self.voxel.value, self.native_mm.value = words["voxel"], words["native"]
        self.there.value, self.region.value = words["there"] or "not known: no inverse is stored", words["region"] or "none"
        if not words["space"]:
            self.there.value = ""
        # Of a long name the beginning.
        self.region.native.setCursorPosition(0)

    def _complain(self, text: str) -> None:
        self.said.native.setStyleSheet(ERROR_STYLE)
        self.said.value = text

    def _say(self, text: str) -> None:
        self.said.native.setStyleSheet("")
        self.said.value = text

    # --- the viewer ---------------------------------------------------------------------------------------------------------

    def reset_choices(self, *_: Any) -> None:
        """Look again at what there is: napari calls it when layers come and go."""
        super().reset_choices()
        self._on_layer()

    def _known(self) -> Anchor:
        anchor = anchor_shown(self._viewer)
        if anchor is None:
            raise InputError("open a file first whose channels tell how they lie")
        return anchor

    def _on_layer(self, event: Any = None) -> None:
        anchor = anchor_shown(self._viewer)
        if anchor != self._anchor:
            self._anchor = anchor
            self.channel.value = "" if anchor is None else anchor.channel
            self.other.reset_choices()
            if anchor is not None and anchor.space in self.other.choices:
                self.other.value = anchor.space

    def _spaces(self, widget: Any = None) -> list[str]:
        anchor = getattr(self, "_anchor", None)
        if anchor is None:
            return []
        try:
            places = locator(anchor.path, anchor.channel)
        except LsfmError as error:
            self._complain(in_words(error))
            return []
        return list(places.spaces)

    def _windows(self, widget: Any = None) -> list[tuple[str, Any]]:
        return [(viewer.title, viewer) for viewer in attended() if viewer is not self._viewer and viewer.layers]

    def _on_window(self, viewer: Any) -> None:
        try:
            if viewer is None:
                unlink(self._viewer)
            else:
                self._say(link(self._viewer, viewer))
        except LsfmError as error:
            self._complain(in_words(error))

    def _on_mouse(self, viewer: Any, event: Any) -> None:
        self.look(event.position)

    def _on_click(self, viewer: Any, event: Any) -> None:
        if "Alt" not in event.modifiers:
            return
        anchor = anchor_shown(self._viewer)
        if anchor is None:
            return
        try:
            self._show(describe(anchor, event.position, self.other.value))
            self.copy_position()
        except LsfmError as error:
            self._complain(in_words(error))

    def _go(self) -> None:
        try:
            self.go(self.kind.value, self.place.value.strip())
        except LsfmError as error:
            self._complain(in_words(error))


def _numbers(text: str) -> tuple[float, float, float]:
    parts = [part for part in re.split(r"[\s,;]+", text) if part]
    try:
        a, b, c = map(float, parts)
    except ValueError:
        raise InputError(f"go to {text!r}: expected three numbers, such as 12,34,56") from None
    if not np.isfinite([a, b, c]).all():
        raise InputError(f"go to {text!r}: expected three finite numbers")
    return a, b, c


def _leave(viewer: Any, on_mouse: Any, on_click: Any, on_layer: Any) -> Any:
    def leave(*_: Any) -> None:
        viewer.mouse_move_callbacks.remove(on_mouse)
        viewer.mouse_drag_callbacks.remove(on_click)
        viewer.layers.selection.events.active.disconnect(on_layer)

    return leave
