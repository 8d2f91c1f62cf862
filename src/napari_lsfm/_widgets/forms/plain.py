"""The form of a plain layer: one level of a layer, or a piece of it, for plugins that take ordinary images only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import ComboBox, Container, Label, PushButton, SpinBox

from lsfm_core import CancelledError, InputError, LsfmError, size_text
from napari_lsfm._plain import PlainPiece, plain_levels, plain_piece
from napari_lsfm._widgets._box import plane_axis, seen_ends, selected_ends
from napari_lsfm._widgets.fields import Tick
from napari_lsfm._words import ERROR_STYLE
from napari_lsfm._workers import in_words, wait_for

if TYPE_CHECKING:
    import napari.layers
    import napari.viewer

__all__ = ["PlainLayerForm"]

_AXES = 3
_MOST_PLANES = 100_000


class PlainLayerForm(Container[Any]):
    """Choose a level of a layer, and how much of it; ``go()`` adds it as a layer.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(labels=True)
        self._viewer = napari_viewer
        self.layer = ComboBox(
            name="layer", label="Layer", choices=self._layers, tooltip="The layer that another plugin is to work on"
        )
        self.level = ComboBox(name="level", choices=self._levels, label="Resolution", tooltip="Planes, rows and columns of each")
        self.piece = ComboBox(
            name="piece",
            label="Piece",
            choices=[("all of it", "all"), ("what is in view", "view"), ("selected shape", "shape")],
            tooltip="How much of each plane is taken",
        )
        self.planes = SpinBox(
            name="planes",
            min=0,
            max=_MOST_PLANES,
            label="Planes (0: all)",
            tooltip="So many planes, around the one that is looked at; 0 takes all of them",
        )
        tip = "Read it now, and keep it; else it is read whenever it is needed"
        self.in_memory = Tick(False, name="in_memory", text="read now, and keep", label="Memory", tooltip=tip)
        self.takes = Label(name="takes", label="Takes", tooltip="What the array takes in memory as a whole")
        self.button = PushButton(name="add", text="Add as a layer")
        self.extend([self.layer, self.level, self.piece, self.planes, self.in_memory, self.takes, self.button])
        self.takes.native.setWordWrap(True)
        self.takes.native.setAccessibleName("takes")
        active = napari_viewer.layers.selection.active
        if active in self.layer.choices:
            self.layer.value = active
        self.layer.changed.connect(self._on_layer)
        for field in (self.level, self.piece, self.planes, self.in_memory):
            field.changed.connect(self._tell)
        self.button.changed.connect(lambda _: self._add())
        heard = {
            napari_viewer.dims.events.point: self._on_view,
            napari_viewer.scene.camera.events: self._on_view,
            # When all layers go at once, napari tells of none of them.
            napari_viewer.layers.selection.events.active: self.reset_choices,
        }
        for event, slot in heard.items():
            event.connect(slot)
        self.native.destroyed.connect(partial(_forget, heard))
        self._on_layer()

    def chosen(self) -> PlainPiece:
        """What would be added.

        Raises
        ------
        LsfmError
            If there is none, and why.
        """
        layer = self.layer.value
        # The viewer tells of its axes before it tells that a layer has gone.
        if layer is None or layer not in self._viewer.layers:
            raise InputError("open an image or labels of three axes first")
        point = self._viewer.dims.point
        return plain_piece(layer, self.level.value or 0, self._box(layer), point)

    def go(self) -> napari.layers.Layer:
        """Add the layer, and give it.

        Raises
        ------
        LsfmError
        """
        piece = self.chosen()
        made = wait_for(piece.loaded, f"Read {piece.keywords['name']}") if self.in_memory.value else piece.lazy()
        data, keywords, layer_type = made
        source, added = self.layer.value, getattr(self._viewer, f"add_{layer_type}")(data, **keywords)
        # Two images that add up are twice as bright.
        source.visible = False
        return added

    def _add(self) -> None:
        try:
            self.go()
        except CancelledError:
            return
        except LsfmError as error:
            self._say(in_words(error), ERROR_STYLE)

    def reset_choices(self, *_: Any) -> None:
        """Look again at what layers there are: napari calls it when these change."""
        super().reset_choices()
        self._on_layer()

    # --- what can be chosen -------------------------------------------------------------------------------------------------

    def _layers(self, widget: Any = None) -> list[Any]:
        from napari.layers import Image, Labels

        return [layer for layer in self._viewer.layers if isinstance(layer, Image | Labels) and layer.ndim >= _AXES]

    def _levels(self, widget: Any = None) -> list[tuple[str, int]]:
        layer = self.layer.value
        if layer is None:
            return []
        return [(f"{level}: {' x '.join(map(str, shape))}", level) for level, shape in enumerate(plain_levels(layer))]

    def _on_layer(self, layer: Any = None) -> None:
        self.level.reset_choices()
        self._tell()

    def _on_view(self, event: Any = None) -> None:
        if self.piece.value == "view" or self.planes.value:
            self._tell()

    # --- what it takes ------------------------------------------------------------------------------------------------------

    def _tell(self, value: Any = None) -> None:
        try:
            piece = self.chosen()
        except LsfmError as error:
            self._say(in_words(error), ERROR_STYLE)
            self.button.enabled = False
            return
        shape = " x ".join(map(str, piece.data.shape[:_AXES]))
        how = "read now, and kept" if self.in_memory.value else "as a whole; read when it is needed"
        self._say(f"{size_text(piece.nbytes)} ({shape} voxels of {np.dtype(piece.data.dtype)}), {how}", "")
        self.button.enabled = True

    def _say(self, text: str, style: str) -> None:
        self.takes.native.setStyleSheet(style)
        self.takes.value = text

    def _box(self, layer: Any) -> Any:
        """(2, 3) of the viewer's world; None for all of the layer."""
        if self.piece.value == "all" and not self.planes.value:
            return None
        box = np.array([[-np.inf] * _AXES, [np.inf] * _AXES])
        if self.piece.value != "all":
            ends = (seen_ends if self.piece.value == "view" else selected_ends)(self._viewer)
            box = np.where(np.isnan(ends), box, ends)
        if self.planes.value:
            axis = plane_axis(self._viewer)
            step = float(np.asarray(layer.scale)[-_AXES:][axis]) * self._factor(layer)[axis]
            half = self.planes.value * step / 2
            at = float(self._viewer.dims.point[-_AXES:][axis])
            box[:, axis] = at - half, at + half
        # What has no end reaches beyond all that is stored.
        extent = np.asarray(layer.extent.world)[:, -_AXES:]
        return np.clip(box, extent[0] - 1, extent[1] + 1)

    def _factor(self, layer: Any) -> Any:
        finest, *_ = shapes = plain_levels(layer)
        return np.maximum(1, np.round(np.divide(finest, shapes[self.level.value or 0])))


def _forget(heard: dict[Any, Callable[..., None]], _: Any = None) -> None:
    for event, slot in heard.items():
        event.disconnect(slot)
