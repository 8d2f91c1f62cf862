"""A box of the brain: typed, dragged in the viewer, and taken from what is seen there or from a shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QWidget

from lsfm_core import ExportRequest, InputError
from napari_lsfm._viewing import axcodes_of
from napari_lsfm._widgets._box import BoxLayer, plane_axis, seen_ends, selected_ends, with_extent
from napari_lsfm._widgets._facts import Frame, Place
from napari_lsfm._widgets.fields._base import Field
from napari_lsfm._widgets.fields._make import make_field
from napari_lsfm._widgets.fields._numbers import Numbers
from napari_lsfm._widgets.fields._rows import Rows, beside, small_button

__all__ = ["BoxField"]


class _BoxEdit(Rows):
    """Numbers, and the same box in yellow in a viewer: one follows the other."""

    edited = Signal()

    def __init__(self, parent: QWidget | None = None, *, viewer: Any = None) -> None:
        super().__init__(parent)
        self.origin_mm = make_field(ExportRequest, "origin_mm", Numbers, unit="mm")
        self.size_mm = make_field(ExportRequest, "size_mm", Numbers, unit="mm")
        for field in (self.origin_mm, self.size_mm):
            self.row(field.label, field.native, field.tooltip)
            field.changed.connect(self._on_typed)
        tip = "Make the box what is seen on the screen; across the screen it keeps its thickness"
        self.from_view = small_button("Current view", tip, lambda: self._take(self._seen))
        tip = "Make the box go around the selected shapes of a shapes layer"
        self.from_shape = small_button("Selected shape", tip, lambda: self._take(self._selected))
        self._buttons = self.row(
            "Take", beside(self.from_view, self.from_shape), "Fill in the numbers from the viewer; or drag the yellow box there"
        )
        self.setFocusProxy(self.origin_mm.native)
        self._is_writing = False
        self._viewer = viewer
        self._layer = None if viewer is None else BoxLayer(viewer, "export box", editable=True, parent=self)
        if self._layer is not None:
            self._layer.changed.connect(self._on_dragged)
        self.look_at(None if viewer is None else lambda: _shown(viewer))

    def look_at(self, place: Callable[[], Place | None] | None) -> None:
        """Draw the box where a function tells, as long as that gives a place; None: it cannot be drawn."""
        self._where = place
        self.show_row(self._buttons, place is not None)
        self._draw()

    def begin(self) -> None:
        """Where nothing is typed yet, take the middle of the image, half as long."""
        place = None if self._where is None else self._where()
        if place is not None and not any(self.origin_mm.texts + self.size_mm.texts):
            self._on_dragged(*place.middle)

    def read(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.origin_mm.value, self.size_mm.value

    def write(self, value: Any) -> None:
        self._is_writing = True
        self.origin_mm.value, self.size_mm.value = value or (None, None)
        self._is_writing = False
        self._on_typed()

    def close_layer(self) -> None:
        """Let go of the viewer."""
        if self._layer is not None:
            self._layer.close()

    def _on_typed(self) -> None:
        if not self._is_writing:
            self.mark(self._buttons)
            self._draw()
            self.edited.emit()

    def _on_dragged(self, lower: Any, upper: Any) -> None:
        place = None if self._where is None else self._where()
        if place is not None:
            low, high = place.frame.box_to_ras(lower, upper)
            self.write((low, high - low))

    def _draw(self) -> None:
        place = None if self._where is None else self._where()
        self._buttons.setEnabled(place is not None)
        if self._layer is None:
            return
        if place is None:
            self._layer.hide()
            return
        try:
            origin, size = self.read()
        except InputError:
            # Whoever reads it is told.
            return
        lower, upper = place.frame.box_to_native(origin, np.add(origin, size))
        if np.isfinite([lower, upper]).all() and (lower < upper).all():
            self._layer.show(lower, upper, place.bounds, place.voxel_size_mm)

    def _seen(self, place: Place) -> Any:
        return seen_ends(self._viewer, place.bounds)

    def _selected(self, place: Place) -> Any:
        return selected_ends(self._viewer, self._layer and self._layer.layer)

    def _take(self, ends_at: Callable[[Place], Any]) -> None:
        """Reach from one corner to the other; along an axis of which nothing is told the box stays, or comes into view."""
        place = None if self._where is None else self._where()
        try:
            if place is None:
                raise InputError("open the image in this viewer first")
            ends = ends_at(place)
        except InputError as error:
            self.mark(self._buttons, str(error))
            return
        box = place.middle if self._layer is None or self._layer.box is None else self._layer.box
        taken = np.where(np.isnan(ends), box, ends)
        across = plane_axis(self._viewer)
        if np.isnan(ends[:, across]).any():
            taken = with_extent(box, taken, across, float(self._viewer.dims.point[-3:][across]))
        self._on_dragged(*taken)


class BoxField(Field, editor=_BoxEdit):
    """A box as its corner with the smallest R, A, S, and its size along these, both in mm.

    Parameters
    ----------
    value : (3,) and (3,) sequence of float, optional
    viewer : napari.Viewer, optional
        Where it is drawn, over what is shown there and tells how it lies. `_BoxEdit.look_at` has it elsewhere.
    """

    is_wide = True

    @property
    def parts(self) -> tuple[Numbers, Numbers]:
        """The fields of its corner and its size."""
        return self.native.origin_mm, self.native.size_mm

    def get_value(self) -> Any:
        """What stands there.

        Raises
        ------
        InputError
            That names the corner or the size, and says what is wrong with it.
        """
        return self.native.read()


def _shown(viewer: Any) -> Place | None:
    """What a viewer shows that tells how it lies."""
    layers = [layer for layer in viewer.layers if axcodes_of(layer) is not None]
    codes = {axcodes_of(layer) for layer in layers}
    if len(codes) != 1:
        return None
    ends = np.array([layer.extent.world[:, -3:] for layer in layers])
    steps = np.min([layer.extent.step[-3:] for layer in layers], axis=0)
    return Place(Frame.of(codes.pop() or ""), np.array([ends[:, 0].min(axis=0), ends[:, 1].max(axis=0)]), tuple(steps.tolist()))
