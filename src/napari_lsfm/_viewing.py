"""What a viewer does while it shows our layers: places in R, A, S, letters at the edges, labels that nobody paints on by accident.

`attend` begins it; the reader and the forms call that for the viewer that they work in.
"""

from __future__ import annotations

import threading
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import numpy as np
import numpy.typing as npt

from lsfm_core import InputError, LsfmError, Orientation
from napari_lsfm._failures import failure_of, mind_failures
from napari_lsfm._positions import anchor_of, anchor_shown, describe, note_pose
from napari_lsfm._window import current_viewer, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.components import ViewerModel
    from napari.layers import Layer

__all__ = ["attend", "attend_current", "attended", "axcodes_of", "edge_letters", "is_open", "place_text", "shown_axcodes"]

_ENDINGS = (".h5", ".hdf5")
_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))
_EDGES = ("top_center", "bottom_center", "middle_left", "middle_right")
_FONT_SIZE = 14.0
#: Of space; before them a viewer may have time.
_AXES = 3
#: Copies the position under the mouse: who goes to a menu for it has left that position.
_COPY_KEY = "Control-Alt-C"


def attend(viewer: ViewerModel) -> _Attendant:
    """Attend to a viewer's layers of ours from now on, those that are there and those that come."""
    # napari hands proxies to plugins, which go as soon as they are let go.
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _attendants:
        _attendants[viewer] = _Attendant(viewer)
    return _attendants[viewer]


def attend_current() -> None:
    """Attend to the window in front, if there is one and this is its thread."""
    viewer = current_viewer()
    if viewer is not None:
        attend(viewer)
        _load_ahead()


@cache
def _load_ahead() -> None:
    """Load beside the window what forms need, so that the first one does not keep it waiting."""
    rooms = ("export", "ingest", "metadata", "regions")
    threading.Thread(target=lambda: [import_module(f"lsfm_core.{room}") for room in rooms], name="lsfm-load").start()


def attended() -> list[ViewerModel]:
    """The viewers that are attended to, and open."""
    return [viewer for viewer in _attendants if is_open(viewer)]


def is_open(viewer: Any) -> bool:
    """Whether a viewer's window is there still; one without a window is."""
    window = getattr(viewer, "window", None)
    return window is None or hasattr(window, "_qt_window")


def axcodes_of(layer: Layer | None) -> str | None:
    """Where the spatial axes of a layer's world grow toward; None where it does not tell."""
    about = {} if layer is None else layer.metadata.get("lsfm", {})
    codes: str | None = about.get("axcodes")
    return codes


def shown_axcodes(viewer: ViewerModel) -> str | None:
    """Where the spatial axes of a viewer grow toward: as the active layer tells, or as all that tell agree; else None."""
    own = axcodes_of(viewer.layers.selection.active)
    told = {own} if own else {axcodes_of(layer) for layer in viewer.layers} - {None}
    return told.pop() if len(told) == 1 else None


def place_text(position: npt.ArrayLike, axcodes: str) -> str:
    """R, A, S of a position in the native frame, mm, as ``--origin`` takes it.

    Parameters
    ----------
    position : array (n,)
        The last three are along the axes that `axcodes` names.
    axcodes : str
    """
    ras = Orientation(axcodes).direction @ np.asarray(position, float)[-_AXES:]
    # Without minus before zero.
    return ",".join(f"{value + 0.0:.3f}" for value in ras.round(3))


def edge_letters(axcodes: str, displayed: tuple[int, ...], ndim: int, toward: tuple[str, str]) -> dict[str, str]:
    """The letter of each edge of a canvas in 2D.

    Parameters
    ----------
    axcodes : str
        Where the spatial axes grow toward.
    displayed : tuple of int
        The vertical and the horizontal axis.
    ndim : int
        Of the viewer; what exceeds three comes before the spatial axes.
    toward : tuple of str
        "down" or "up", and "right" or "left": where those two grow on the screen.

    Returns
    -------
    dict of str to str
        By napari's names of positions; empty for an axis that is not of space.
    """
    letters = dict.fromkeys(_EDGES, "")
    ends = {"down": ("top_center", "bottom_center"), "right": ("middle_left", "middle_right")}
    ends |= {"up": ends["down"][::-1], "left": ends["right"][::-1]}
    for axis, way in zip(displayed, toward, strict=True):
        place = axis - (ndim - _AXES)
        if place >= 0:
            first, last = ends[str(way)]
            letters[first], letters[last] = _OPPOSITE[axcodes[place]], axcodes[place]
    return letters


class _Attendant:
    """Listens to one viewer, which does not live longer for it."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = ref(viewer)
        self._has_letters = True
        for event in (
            viewer.dims.events.order,
            viewer.dims.events.ndisplay,
            viewer.dims.events.ndim,
            viewer.layers.events.removed,
            viewer.layers.selection.events.active,
            viewer.scene.camera.events.orientation,
        ):
            event.connect(self._show_letters)
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.bind_key(_COPY_KEY, copy_position, overwrite=True)
        _let_endings_decide(viewer)
        for layer in viewer.layers:
            self._take(layer)
        self._show_letters()

    def toggle_letters(self) -> None:
        """Show the letters, or hide them."""
        self._has_letters = not self._has_letters
        self._show_letters()

    def _on_inserted(self, event: Any) -> None:
        self._take(event.value)
        self._show_letters()

    def _take(self, layer: Layer) -> None:
        # All of them: what is drawn over an image is looked at to read off where it is.
        _tell_places(layer, self._viewer)
        if "lsfm" not in layer.metadata:
            return
        mind_failures(layer)
        note_pose(layer)
        finest = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
        from napari.layers import Labels

        if isinstance(layer, Labels) and not isinstance(finest, np.ndarray):
            # What is read from a file has nowhere to be painted to.
            layer.editable = False

    def _show_letters(self, event: Any = None) -> None:
        from napari.components.overlays import TextOverlay

        viewer = self._viewer()
        if viewer is None:
            return
        axcodes = shown_axcodes(viewer)
        letters = dict.fromkeys(_EDGES, "")
        if axcodes is not None and self._has_letters and viewer.dims.ndisplay == 2:
            letters = edge_letters(
                axcodes, tuple(viewer.dims.displayed), viewer.dims.ndim, tuple(map(str, viewer.scene.camera.orientation2d))
            )
        overlays = viewer.canvas.overlays
        for edge, letter in letters.items():
            name = f"lsfm_{edge}"
            if name not in overlays:
                if not letter:
                    continue
                overlays[name] = TextOverlay(position=edge, font_size=_FONT_SIZE, visible=True)
            overlays[name].text = letter
            overlays[name].visible = bool(letter)


def copy_position(viewer: ViewerModel) -> None:
    """Put the position under the mouse into the clipboard, as ``--origin`` takes it.

    Raises
    ------
    InputError
        If what is shown does not tell how it lies.
    """
    from qtpy.QtWidgets import QApplication

    axcodes = shown_axcodes(viewer)
    if axcodes is None:
        raise InputError("what is shown does not tell where right, anterior and superior are: there is no position to copy")
    text = place_text(viewer.cursor.position, axcodes)
    QApplication.clipboard().setText(text)
    tell(f"In the clipboard: {text} (R,A,S in mm)")


def _tell_places(layer: Layer, viewer_of: Callable[[], ViewerModel | None]) -> None:
    """Have a layer tell R, A, S where napari tells its own axes, while these are known."""
    plain: Callable[..., dict[str, str]] = layer.get_status

    def get_status(position: npt.ArrayLike | None = None, *, world: bool = False, **keywords: Any) -> dict[str, str]:
        status = plain(position, world=world, **keywords)
        viewer = viewer_of()
        axcodes = axcodes_of(layer) or (None if viewer is None else shown_axcodes(viewer))
        if position is not None and world and axcodes is not None:
            status["coords"] = f"R,A,S {place_text(position, axcodes)} mm"
            status["coordinates"] = f"{status['coords']}: {status['value']}{_more(layer, viewer, position)}"
        return status

    # An instance's own: napari asks layers, and has no place for other words than its own.
    layer.get_status = get_status


def _more(layer: Layer, viewer: ViewerModel | None, position: npt.ArrayLike) -> str:
    """What else the status bar tells of a place: the voxel, where it is in the atlas, the region; or why nothing is shown."""
    failure = failure_of(layer)
    if failure:
        return f"; cannot be shown here: {failure}"
    anchor = anchor_of(layer) or (None if viewer is None else anchor_shown(viewer))
    if anchor is None:
        return ""
    try:
        words = describe(anchor, position)
    except LsfmError:
        # A file that went away is told where something of it is to be shown.
        return ""
    parts = [f"voxel {words['voxel']} of {anchor.channel}" if words["voxel"][0].isdigit() else f"outside of {anchor.channel}"]
    if words["there"]:
        parts.append(f"{words['space']} {words['there']} mm")
    if anchor.through:
        parts[-1:] = [f"its own {words['native']} mm"]
    return "; ".join(["", *parts, *([words["region"]] if words["region"] else [])])


def _let_endings_decide(viewer: ViewerModel) -> None:
    """Let a name that ends as ours be saved by us, whatever kind of file the dialog stands at.

    At first it stands at napari's own writer of a single layer, which refuses the name.
    """
    plain: Callable[..., list[str]] = viewer.layers.save

    def save(path: Any, **keywords: Any) -> list[str]:
        if str(path).lower().endswith(_ENDINGS):
            keywords.pop("_writer", None)
        return plain(path, **keywords)

    viewer.layers.save = save


#: While a viewer lives.
_attendants: WeakKeyDictionary[Any, _Attendant] = WeakKeyDictionary()
