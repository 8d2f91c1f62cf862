"""The box of an export in the viewer: drawn, dragged, and taken from what is seen or from a shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from qtpy.QtWidgets import QWidget

from lsfm_core import InputError, LsfmError, Orientation
from napari_lsfm._widgets._box import BoxLayer, plane_axis, with_extent
from napari_lsfm._widgets._facts import FileFacts, Frame, layers_of

__all__ = ["DrawnBox"]


class DrawnBox:
    """A box in a viewer, told and asked for in R, A, S of a channel's world.

    Parameters
    ----------
    viewer : napari.Viewer
    changed : callable
        Called with the lower and upper corner, R, A, S mm, when it was dragged.
    parent : QWidget
    """

    def __init__(self, viewer: Any, changed: Callable[[Any, Any], None], parent: QWidget) -> None:
        self._viewer = viewer
        self._changed = changed
        self._facts: FileFacts | None = None
        self._channel = ""
        self._orientation: str | None = None
        self._layer = BoxLayer(viewer, "export box", editable=True, parent=parent)
        self._layer.changed.connect(self._tell)
        self.hide, self.close = self._layer.hide, self._layer.close

    def look_at(self, facts: FileFacts, channel: str, orientation: str | None) -> None:
        """Let it be in the world of a channel, which lies as is said where its file does not tell."""
        self._facts, self._channel, self._orientation = facts, channel, orientation

    @property
    def frame(self) -> Frame:
        """What the viewer shows, against that world."""
        assert self._facts is not None
        return self._facts.frame(self._channel, self._orientation)

    def show(self, corner: Any, extent: Any) -> None:
        """Draw a box, R, A, S mm, if it can be drawn."""
        if self._facts is None or not layers_of(self._viewer, self._facts.path):
            self.hide()
            return
        try:
            lower, upper = self.frame.box_to_native(corner, np.add(corner, extent))
        except LsfmError:
            return
        if np.isfinite([lower, upper]).all() and (lower < upper).all():
            self._layer.show(lower, upper, self._bounds, self._voxel_size)

    def begin(self) -> None:
        """Tell of a box in the middle of the image, half as long."""
        self._tell(*self._middle)

    def from_view(self) -> None:
        """Make it what is seen on the screen.

        Raises
        ------
        InputError
            If no plane of the image is in view.
        """
        viewer = self._viewer
        if self._facts is None or viewer.dims.ndisplay == 3 or not layers_of(viewer, self._facts.path):
            raise InputError("Show a plane of the file first: only that has edges.")
        height, width = viewer.canvas.viewbox_size(viewer.layers)
        half = np.array([height, width]) / viewer.scene.camera.zoom / 2
        middle = np.array(viewer.scene.camera.center[-2:])
        seen = [axis - (viewer.dims.ndim - 3) for axis in viewer.dims.displayed]
        image = self._bounds
        ends = np.full((2, 3), np.nan)
        ends[:, seen] = np.clip([middle - half, middle + half], image[0, seen], image[1, seen])
        if (np.ptp(ends[:, seen], axis=0) <= 0).any():
            raise InputError("The image is out of view.")
        self._take(ends)

    def from_shape(self) -> None:
        """Make it go around the selected shapes.

        Raises
        ------
        InputError
            If there are none.
        """
        points = _selected_points(self._viewer, self._layer.layer)
        if points is None:
            raise InputError("Select a shape of a shapes layer first.")
        ends = np.full((2, 3), np.nan)
        known = min(3, points.shape[1])
        ends[0, -known:], ends[1, -known:] = points[:, -known:].min(axis=0), points[:, -known:].max(axis=0)
        # A flat shape tells nothing about the axis that it is flat along.
        ends[:, np.ptp(ends, axis=0) == 0] = np.nan
        self._take(ends)

    def _take(self, ends: Any) -> None:
        """Reach from one corner to the other, native mm; along an axis that is NaN it stays, or comes into view."""
        box = self._layer.box if self._layer.box is not None else self._middle
        seen = np.where(np.isnan(ends), box, ends)
        across = plane_axis(self._viewer)
        if np.isnan(ends[:, across]).any():
            seen = with_extent(box, seen, across, float(self._viewer.dims.point[-3:][across]))
        self._tell(*seen)

    def _tell(self, lower: Any, upper: Any) -> None:
        try:
            corners = self.frame.box_to_ras(lower, upper)
        except LsfmError:
            # Without an orientation nobody can tell; that is what the form says then.
            return
        self._changed(*corners)

    @property
    def _voxel_size(self) -> Sequence[float]:
        """Of the channel, along the native axes."""
        assert self._facts is not None
        space = self._facts.frame(self._channel).place(self._facts.channels[self._channel].space)
        return space.reoriented(space.reorientation_to(Orientation("RAS"))).voxel_size_mm

    @property
    def _bounds(self) -> Any:
        """(2, 3) lower and upper corner of the image, native mm."""
        assert self._facts is not None
        return self._facts.bounds(self._channel)

    @property
    def _middle(self) -> Any:
        return self._bounds + [[0.25], [-0.25]] * np.ptp(self._bounds, axis=0)


def _selected_points(viewer: Any, own: Any) -> Any:
    """World positions of the vertices of selected shapes, else of all of the active shapes layer; None without any."""
    for layer in (viewer.layers.selection.active, *reversed(viewer.layers)):
        if type(layer).__name__ == "Shapes" and layer is not own and layer.nshapes:
            chosen = layer.selected_data or range(layer.nshapes)
            return np.array([layer.data_to_world(vertex) for index in chosen for vertex in layer.data[index]])
    return None
