"""A box in the viewer: a rectangle in every plane that it reaches into, its edges in 3D."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QObject, QTimer, Signal

from lsfm_core import InputError

__all__ = ["BoxLayer", "plane_axis", "seen_ends", "selected_ends", "with_extent"]

FloatArray = npt.NDArray[np.float64]

_COLOUR = "#ffd23f"
#: Lines are so much thinner than the box is long.
_THIN = 300


class BoxLayer(QObject):
    """A box, in mm of the native frame, as a shapes layer.

    A shape of napari's lies in one plane. So the box is drawn anew for each plane that is looked at; what the user drags, or draws
    instead, changes the two axes that are seen.

    Parameters
    ----------
    viewer : napari.Viewer
    name : str
        Of the layer.
    editable : bool
        Whether the user may change it; ``changed(lower, upper)`` then tells of it.
    parent : QObject
    """

    changed = Signal(object, object)

    def __init__(self, viewer: Any, name: str, *, editable: bool, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._name = name
        self._editable = editable
        self._layer: Any = None
        self._box: FloatArray | None = None
        self._is_drawing = False
        #: What was worked on before the box appeared.
        self._active: Any = None
        #: What the layer holds, unless the user has changed it since.
        self._drawn: list[Any] | None = None
        # Several things change at once, and never within the mouse's own doing.
        self._soon = QTimer(self, singleShot=True, interval=0)
        self._soon.timeout.connect(self._draw)
        self._events = (viewer.dims.events.point, viewer.dims.events.ndisplay, viewer.dims.events.order)
        for event in self._events:
            event.connect(self._on_view)

    @property
    def layer(self) -> Any:
        """The shapes layer, or None while nothing is drawn."""
        return self._layer if self._layer in self._viewer.layers else None

    @property
    def box(self) -> FloatArray | None:
        """(2, 3) lower and upper corner, native mm."""
        return self._box

    def show(self, lower: npt.ArrayLike, upper: npt.ArrayLike, image: npt.ArrayLike, voxel_size_mm: Sequence[float]) -> None:
        """Draw the box; the first time this adds the layer. What reaches far beyond the image is cut off: napari counts in voxels.

        Parameters
        ----------
        lower, upper : array (3,)
        image : array (2, 3)
            Lower and upper corner of the image.
        voxel_size_mm : sequence of 3 float
            Of the image, along the native axes: napari steps through planes by the smallest that any layer has.
        """
        edges = np.asarray(image, dtype=float)
        margin = np.ptp(edges, axis=0)
        box = np.clip(np.array([lower, upper], dtype=float), edges[0] - margin, edges[1] + margin)
        if not (box[0] < box[1]).all():
            # It lies out there as a whole.
            self.hide()
            return
        appears = self._box is None
        self._box = box
        selection = self._viewer.layers.selection
        if appears:
            self._active = selection.active
        if self.layer is None:
            self._layer = self._viewer.add_shapes(
                ndim=3,
                name=self._name,
                scale=tuple(voxel_size_mm),
                units=("mm",) * 3,
                axis_labels=("z", "y", "x"),
                edge_color=_COLOUR,
                face_color="transparent",
                # In 3D it is seen inside of the brain, too.
                blending="translucent_no_depth",
            )
            self._layer.events.data.connect(self._on_data)
            self._drawn = None
            self._layer.editable = self._editable
            selection.active = self._active
        if appears:
            self._layer.visible = True
            if self._editable:
                selection.active = self._layer
                self._layer.mode = "select"
        self._draw()

    def hide(self) -> None:
        """Take the box out of sight; its layer waits for the next one, unless nothing else is there.

        With OpenGL in software, napari 0.9 does not survive an image that is added after shapes were removed.
        """
        self._soon.stop()
        self._box = None
        layer, layers = self.layer, self._viewer.layers
        if layer is None:
            return
        if len(layers) == 1:
            self._remove()
            return
        self._draw_shapes([], "rectangle", 1)
        self._drawn = None
        layer.visible = False
        # Not "is": napari hands a proxy of its own to a plugin each time.
        if layers.selection.active == layer:
            others = [other for other in layers if other != layer]
            layers.selection.active = self._active if self._active in others else others[-1]
        self._active = None

    def _remove(self) -> None:
        if self.layer is not None:
            self._viewer.layers.remove(self._layer)
        self._layer = self._active = None

    def close(self) -> None:
        """Let go of the viewer."""
        for event in self._events:
            event.disconnect(self._on_view)
        self._soon.stop()
        self._box = None
        self._remove()

    def _on_view(self, event: Any = None) -> None:
        if self._box is not None:
            self._soon.start()

    def _draw(self) -> None:
        layer = self.layer
        if layer is None or self._box is None:
            return
        across = plane_axis(self._viewer)
        # napari rounds to find the plane of a shape; where the plane is the layer's own origin, there is nothing to round.
        layer.translate = [self._plane if axis == across else 0.0 for axis in range(3)]
        lower, upper = (self._box - layer.translate) / layer.scale
        if self._viewer.dims.ndisplay == 3:
            corners = np.array(list(product(*zip(lower, upper, strict=True))))
            shapes = [corners[[i, j]] for i, j in _EDGES]
            kind = "line"
        else:
            shapes, kind = [], "rectangle"
            if lower[across] - 0.5 <= 0 <= upper[across] + 0.5:
                (u, v) = (axis for axis in range(3) if axis != across)
                rectangle = np.zeros((4, 3))
                rectangle[:, u] = lower[u], upper[u], upper[u], lower[u]
                rectangle[:, v] = lower[v], lower[v], upper[v], upper[v]
                shapes = [rectangle]
        width = max(0.5, (np.diff(self._box, axis=0) / layer.scale).max() / _THIN)
        drawn = [width, *(shape.tolist() for shape in shapes)]
        if drawn == self._drawn:
            # Another plane of the same box: to make its shapes anew would take longer than to read the plane.
            return
        self._draw_shapes(shapes, kind, width)
        self._drawn = drawn

    def _draw_shapes(self, shapes: Sequence[FloatArray], kind: str, width: float) -> None:
        """Have the layer show these shapes and no others."""
        layer = self._layer
        self._is_drawing = True
        try:
            layer.selected_data = set(range(layer.nshapes))
            layer.remove_selected()
            if shapes:
                layer.add(shapes, shape_type=kind, edge_width=width, edge_color=_COLOUR, face_color="transparent")
                if self._editable and kind == "rectangle" and layer.mode == "select":
                    layer.selected_data = {0}
        finally:
            self._is_drawing = False

    def _on_data(self, event: Any) -> None:
        if self._is_drawing or self._box is None or event.action.value not in ("added", "changed", "removed"):
            return
        self._drawn = None
        layer = self._layer
        if self._editable and layer.nshapes and self._viewer.dims.ndisplay == 2:
            # The last one: a rectangle that the user drew beside the box is the new box.
            points = np.asarray(layer.data[-1])
            ends = np.array([points.min(axis=0), points.max(axis=0)]) * layer.scale + layer.translate
            self._box = with_extent(self._box, ends, plane_axis(self._viewer), self._plane)
            layer.mode = "select"
            self.changed.emit(*self._box)
        self._soon.start()

    @property
    def _plane(self) -> float:
        """Where the plane on the screen is, mm along the axis that it is across."""
        return float(self._viewer.dims.point[-3:][plane_axis(self._viewer)])


def plane_axis(viewer: Any) -> int:
    """The native axis that planes on the screen are across."""
    return int(viewer.dims.order[-3]) - (viewer.dims.ndim - 3)


def seen_ends(viewer: Any, image: FloatArray | None = None) -> FloatArray:
    """(2, 3) lower and upper corner of what is seen on the screen, in the viewer's world; NaN across the screen.

    Parameters
    ----------
    viewer : napari.Viewer
    image : array (2, 3), optional
        No further than that.

    Raises
    ------
    InputError
        If no plane of it is in view.
    """
    if viewer.dims.ndisplay == 3:
        raise InputError("look at a plane first: only that has edges")
    half = np.array(viewer.canvas.viewbox_size(viewer.layers)) / viewer.scene.camera.zoom / 2
    middle = np.array(viewer.scene.camera.center[-2:])
    seen = [axis - (viewer.dims.ndim - 3) for axis in viewer.dims.displayed]
    ends = np.full((2, 3), np.nan)
    ends[:, seen] = middle - half, middle + half
    if image is not None:
        ends = np.clip(ends, *image)
    if (np.ptp(ends[:, seen], axis=0) <= 0).any():
        raise InputError("the image is out of view")
    return ends


def selected_ends(viewer: Any, own: Any = None) -> FloatArray:
    """(2, 3) lower and upper corner of the selected shapes, else of all of the active shapes layer, in the viewer's world.

    NaN along an axis that they are flat along: they tell nothing of it.

    Parameters
    ----------
    viewer : napari.Viewer
    own : Layer, optional
        One that does not count.

    Raises
    ------
    InputError
        If there are none.
    """
    for layer in (viewer.layers.selection.active, *reversed(viewer.layers)):
        if type(layer).__name__ == "Shapes" and layer != own and layer.nshapes:
            chosen = layer.selected_data or range(layer.nshapes)
            points = np.array([layer.data_to_world(vertex)[-3:] for index in chosen for vertex in layer.data[index]])
            ends = np.full((2, 3), np.nan)
            ends[:, 3 - points.shape[1] :] = points.min(axis=0), points.max(axis=0)
            ends[:, np.ptp(ends, axis=0) == 0] = np.nan
            return ends
    raise InputError("select a shape of a shapes layer first")


def with_extent(box: FloatArray, ends: FloatArray, across: int, at: float) -> FloatArray:
    """A box with other ends along the two axes that are seen; along the third it is moved to where it is looked at, if need be."""
    new = ends.copy()
    new[:, across] = box[:, across]
    if not new[0, across] <= at <= new[1, across]:
        new[:, across] += at - new[:, across].mean()
    return new


_CORNERS = list(product((0, 1), repeat=3))
_EDGES = [
    (i, j)
    for i, a in enumerate(_CORNERS)
    for j, b in enumerate(_CORNERS)
    if i < j and sum(x != y for x, y in zip(a, b, strict=True)) == 1
]
