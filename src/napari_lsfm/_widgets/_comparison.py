"""Two images that are to be alike, in a window of their own: over each other, as a checkerboard, or in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from magicgui.widgets import Container, Label, RadioButtons
from qtpy.QtCore import QTimer

from lsfm_core import Comparison, Volume
from napari_lsfm._layers import volume_layer
from napari_lsfm._viewing import attend

if TYPE_CHECKING:
    import napari

    from napari_lsfm._widgets._facts import Frame

__all__ = ["checkerboard", "show_comparison"]

_TILES, _TURN_MS = 10, 600
_WAYS = {"overlay": "green and magenta: white where they agree", "checkerboard": "", "flicker": "one after the other"}


def show_comparison(comparison: Comparison, frame: Frame, title: str, proof: str) -> napari.viewer.Viewer:
    """Open a window with both images, and the choice how they are to be compared.

    Parameters
    ----------
    comparison : Comparison
    frame : Frame
        How the file's image is shown; the window shows these in the same way.
    title, proof : str
        What the window is called, and says of the two.
    """
    import napari

    theirs, ours = (_scaled(volume.array) for volume in (comparison.result, comparison.made))
    space = frame.place(comparison.result.space)
    images = (
        (theirs, f"result: {comparison.result_name}", {"colormap": "green", "blending": "additive"}),
        (ours, f"as imported: {comparison.made_name}", {"colormap": "magenta", "blending": "additive"}),
        (checkerboard(theirs, ours), "checkerboard", {"colormap": "gray", "visible": False}),
    )
    viewer = napari.Viewer(title=title)
    attend(viewer)
    for array, name, looks in images:
        data, keywords, _ = volume_layer(Volume(array, space), name, (0.0, 1.0), axcodes=frame.axcodes)
        viewer.add_image(data, **keywords | looks)
    viewer.window.add_dock_widget(_Ways(viewer, proof), name="Compare", area="bottom")
    return viewer


class _Ways(Container[Any]):
    """How the layers of such a window are shown."""

    def __init__(self, viewer: napari.viewer.Viewer, proof: str) -> None:
        tip = "; ".join(f"{name}: {what}" for name, what in _WAYS.items() if what)
        self.way = RadioButtons(label="Show", choices=list(_WAYS), value="overlay", orientation="horizontal", tooltip=tip)
        super().__init__(widgets=[self.way, Label(label="Proof", value=proof)])
        self._layers = list(viewer.layers)
        self._timer = QTimer(self.native, interval=_TURN_MS)
        self._timer.timeout.connect(self._turn)
        self.way.changed.connect(self._show)

    def _show(self, way: str) -> None:
        theirs, ours, board = self._layers
        theirs.visible, ours.visible, board.visible = way != "checkerboard", way == "overlay", way == "checkerboard"
        for layer, colour in ((theirs, "green"), (ours, "magenta")):
            layer.colormap = "gray" if way == "flicker" else colour
        if way == "flicker":
            self._timer.start()
        else:
            self._timer.stop()

    def _turn(self) -> None:
        theirs, ours, _ = self._layers
        theirs.visible, ours.visible = not theirs.visible, theirs.visible


def checkerboard(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Blocks of two arrays (a, b, c) in turn, along each axis."""
    edge = max(1, max(first.shape) // _TILES)
    parity = sum(np.arange(n).reshape([-1 if k == axis else 1 for k in range(3)]) // edge for axis, n in enumerate(first.shape))
    return np.where(np.asarray(parity) % 2 == 0, first, second)


def _scaled(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Values from 0 to 1, so that images of different brightness can be compared."""
    finite = np.nan_to_num(array)
    low, high = np.percentile(finite, (0.5, 99.8))
    return ((finite - low) / max(high - low, 1e-12)).clip(0, 1).astype(np.float32)
