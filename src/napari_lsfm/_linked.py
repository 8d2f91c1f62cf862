"""Two viewers that show the same place of a brain, each in its own space; and a cross where the mouse is in the other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from lsfm_core import InputError, LsfmError
from napari_lsfm._positions import Anchor, anchor_shown, carry, move_viewer, place_shown
from napari_lsfm._viewing import is_open

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["link", "partner_of", "unlink"]

_CURSOR = "linked cursor"
#: Not at every pixel.
_PAUSE_S = 0.03
_links: list[_Link] = []


def link(first: ViewerModel, second: ViewerModel) -> str:
    """Let two viewers show the same place from now on, that of the first; what was linked with either is linked no more.

    Returns
    -------
    str
        In words, whether it goes both ways.

    Raises
    ------
    LsfmError
        If the place of one is not known in the other.
    """
    one, other = (getattr(viewer, "__wrapped__", viewer) for viewer in (first, second))
    made = _Link(one, other)
    unlink(one)
    unlink(other)
    _links.append(made)
    made.begin()
    return "linked with the first window" if made.goes_back else "linked, one way only: the inverse of a field is not known"


def unlink(viewer: ViewerModel) -> None:
    """Let a viewer go its own way again."""
    own = getattr(viewer, "__wrapped__", viewer)
    for made in [made for made in _links if own in made.viewers]:
        made.end()
        _links.remove(made)


def partner_of(viewer: ViewerModel) -> ViewerModel | None:
    """The viewer that another is linked with."""
    own = getattr(viewer, "__wrapped__", viewer)
    found = (other for made in _links if own in made.viewers for other in made.viewers if other is not own)
    return next(found, None)


class _Link:
    def __init__(self, first: ViewerModel, second: ViewerModel) -> None:
        self.viewers = (first, second)
        self._is_moving = False
        self._moved_at = 0.0
        start, end = (self._anchor(viewer) for viewer in self.viewers)
        place = place_shown(first)
        self._begins_at = self._try(start, end, place)
        self.goes_back = True
        try:
            carry(end, start, place if self._begins_at is None else self._begins_at)
        except LsfmError:
            self.goes_back = False
            if self._begins_at is None:
                raise
        self._slots = [_Follower(self, here, there) for here, there in ((first, second), (second, first))]

    @staticmethod
    def _try(start: Anchor, end: Anchor, place: Any) -> Any:
        try:
            return carry(start, end, place)
        except LsfmError:
            return None

    @staticmethod
    def _anchor(viewer: ViewerModel) -> Anchor:
        found = anchor_shown(viewer)
        if found is None:
            raise InputError(f"{viewer.title}: shows nothing of a file that tells where it lies")
        return found

    def begin(self) -> None:
        for slot in self._slots:
            slot.begin()
        if self._begins_at is not None:
            self._move(self.viewers[1], self._begins_at)

    def end(self) -> None:
        for slot in self._slots:
            slot.end()
        for viewer in self.viewers:
            if is_open(viewer) and _CURSOR in viewer.layers:
                viewer.layers.remove(_CURSOR)

    def follow(self, here: ViewerModel, there: ViewerModel) -> None:
        """Go where the other has gone."""
        if self._is_moving:
            return
        place = self._carried(here, there, place_shown(here))
        if place is not None:
            self._move(there, place)

    def point(self, here: ViewerModel, there: ViewerModel, position: Any) -> None:
        """Show the mouse in the other."""
        now = time.monotonic()
        if now - self._moved_at < _PAUSE_S:
            return
        self._moved_at = now
        place = self._carried(here, there, position)
        if place is None:
            return
        # In the plane that is shown, though the mouse's may lie beside it: planes of one are no planes of the other.
        whole = np.array(there.dims.point, float)
        lead = there.dims.ndim - 3
        for axis in there.dims.displayed:
            if axis >= lead:
                whole[axis] = place[axis - lead]
        if _CURSOR not in there.layers:
            active = there.layers.selection.active
            there.add_points([whole], name=_CURSOR, symbol="cross", size=12, face_color="yellow", border_width=0)
            there.layers[_CURSOR].size = 0.02 * float(np.ptp(there.layers.extent.world, axis=0)[-3:].max())
            there.layers.selection.active = active
        else:
            there.layers[_CURSOR].data = [whole]

    def _carried(self, here: ViewerModel, there: ViewerModel, position: Any) -> Any:
        if not is_open(here) or not is_open(there):
            unlink(here)
            return None
        start, end = anchor_shown(here), anchor_shown(there)
        # Where one shows nothing any more, or the way is not known, the other stays where it is.
        return None if start is None or end is None else self._try(start, end, position)

    def _move(self, viewer: ViewerModel, place: Any) -> None:
        self._is_moving = True
        try:
            move_viewer(viewer, place)
        finally:
            self._is_moving = False


class _Follower:
    """What one viewer does to the other."""

    def __init__(self, owner: _Link, here: ViewerModel, there: ViewerModel) -> None:
        self._owner, self._here, self._there = owner, here, there

    def begin(self) -> None:
        self._here.dims.events.point.connect(self._on_point)
        self._here.scene.camera.events.center.connect(self._on_point)
        self._here.mouse_move_callbacks.append(self._on_mouse)

    def end(self) -> None:
        self._here.dims.events.point.disconnect(self._on_point)
        self._here.scene.camera.events.center.disconnect(self._on_point)
        if self._on_mouse in self._here.mouse_move_callbacks:
            self._here.mouse_move_callbacks.remove(self._on_mouse)

    def _on_point(self, event: Any = None) -> None:
        self._owner.follow(self._here, self._there)

    def _on_mouse(self, viewer: Any, event: Any) -> None:
        self._owner.point(self._here, self._there, event.position)
