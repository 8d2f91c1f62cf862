"""Where a point of a viewer is in the brain: in voxels and mm of its channel, in mm of other spaces, and in which region."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from lsfm_core import (
    ChunkCache,
    InputError,
    LabelTable,
    LsfmError,
    MissingError,
    Orientation,
    TransformChain,
    chain_to,
    known_spaces,
    open_lsfm,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

__all__ = [
    "Anchor",
    "Locator",
    "anchor_of",
    "anchor_shown",
    "carry",
    "describe",
    "locator",
    "mm_text",
    "move_viewer",
    "note_pose",
    "place_shown",
]

FloatArray = npt.NDArray[np.float64]
#: Transforms themselves, or by their names, or the name of the space that they lead to.
_Way = TransformChain | tuple[str, ...] | str

#: Of decoded chunks of fields and labels, for single points.
_CACHE_BYTES = 32 * 2**20
#: Of labels, to look for a region in them.
_MAX_READ_BYTES = 2**30
_AXES = 3
#: Where layers stood when they came.
_poses: WeakKeyDictionary[Any, FloatArray] = WeakKeyDictionary()


@dataclass(frozen=True)
class Anchor:
    """What a viewer's world is to a file: a channel's own world, or what transforms lead to from there.

    Attributes
    ----------
    path, channel : str
    through : tuple of str
        From the channel outward; empty in its own world.
    space : str or None
        What it is called where they lead.
    axcodes : str
        Where the world's axes grow toward.
    chain : TransformChain or None
        The transforms as they are seen through, whatever the file has by those names since then.
    """

    path: str
    channel: str
    through: tuple[str, ...]
    space: str | None
    axcodes: str
    chain: TransformChain | None = field(default=None, compare=False)

    @property
    def way(self) -> TransformChain | tuple[str, ...]:
        """What leads from the channel to the viewer's world."""
        return self.through if self.chain is None else self.chain

    def to_ras(self, position: npt.ArrayLike) -> FloatArray:
        """R, A, S of a position in the viewer."""
        return np.asarray(Orientation(self.axcodes).direction @ np.asarray(position, float)[-_AXES:])

    def to_world(self, ras: npt.ArrayLike) -> FloatArray:
        """The way back, along the axes of space."""
        return np.asarray(Orientation(self.axcodes).direction.T @ np.asarray(ras, float))


def anchor_of(layer: Layer | None) -> Anchor | None:
    """What a layer's world is to its file; None of layers that do not tell, or that an affine has moved elsewhere."""
    about = {} if layer is None else layer.metadata.get("lsfm", {})
    seen = about.get("view") or (about if "path" in about else None)
    if layer is None or seen is None or about.get("axcodes") is None or not _stands_as_read(layer):
        return None
    through = tuple(seen.get("through", ()))
    return Anchor(seen["path"], seen["channel"], through, seen.get("space"), about["axcodes"], seen.get("chain"))


def anchor_shown(viewer: ViewerModel) -> Anchor | None:
    """The active layer's, else that of the first layer that has one."""
    found = map(anchor_of, (viewer.layers.selection.active, *viewer.layers))
    return next((anchor for anchor in found if anchor is not None), None)


def note_pose(layer: Layer) -> None:
    """Remember where a layer stands; what is moved afterwards no longer shows where its voxels lie."""
    _poses[layer] = _pose(layer)


def _stands_as_read(layer: Any) -> bool:
    return layer not in _poses or np.allclose(_poses[layer], _pose(layer), atol=1e-9)


def _pose(layer: Any) -> FloatArray:
    """Where the first voxel lies, and its neighbours."""
    return np.array([layer.data_to_world(corner) for corner in (*np.eye(layer.ndim), np.zeros(layer.ndim))])


def carry(start: Anchor, end: Anchor, position: npt.ArrayLike) -> FloatArray:
    """Where a position of one viewer is in another, along the axes of space.

    Raises
    ------
    LsfmError
        If what they show has nothing to do with each other, or the way is not known in this direction.
    """
    ras = start.to_ras(position)
    if start.space is not None and start.space == end.space:
        return end.to_world(ras)
    if start.path != end.path:
        raise InputError("the windows show different specimens, and not in the same space: show both in one, such as the atlas'")
    # What a file's own world is, its channels share.
    channel = (end if end.through else start).channel
    places = locator(start.path, channel)
    return end.to_world(places.from_native(end.way, places.to_native(start.way, ras)))


def describe(anchor: Anchor, position: npt.ArrayLike, space: str | None = None) -> dict[str, str]:
    """A position in words: ``voxel``, ``native`` (mm), ``space`` and ``there`` (its mm), ``region``; empty where one is not known.

    Parameters
    ----------
    anchor : Anchor
    position : array (n,)
        In the viewer; the last three are of space.
    space : str, optional
        Which other space is meant; default: that of the anchor, or else the first one with labels.

    Raises
    ------
    LsfmError
        If the file cannot be read, or the way to the channel's world is not known.
    """
    places = locator(anchor.path, anchor.channel)
    ras = anchor.to_ras(position)
    native = places.to_native(anchor.way, ras)
    chosen = space or anchor.space or next(iter(places.spaces), None)
    there = ""
    if chosen is not None:
        try:
            there = mm_text(ras if chosen == anchor.space else places.from_native(chosen, native))
        except LsfmError:
            # A field without an inverse: only the way from there is known.
            there = ""
    return {
        "voxel": places.voxel_text(native),
        "native": mm_text(native),
        "space": chosen or "",
        "there": there,
        "region": places.region(native),
    }


def move_viewer(viewer: ViewerModel, world: npt.ArrayLike) -> None:
    """Show a place: its plane, in the middle of the canvas."""
    lead = viewer.dims.ndim - _AXES
    target = np.asarray(world, float)
    viewer.dims.set_point(range(lead, viewer.dims.ndim), target.tolist())
    seen = [target[axis - lead] for axis in viewer.dims.displayed if axis >= lead]
    centre = list(viewer.scene.camera.center)
    centre[-len(seen) :] = seen
    viewer.scene.camera.center = tuple(centre)


def place_shown(viewer: ViewerModel) -> FloatArray:
    """The place in the middle of the canvas, in the plane that is shown."""
    lead = viewer.dims.ndim - _AXES
    place = np.array(viewer.dims.point[lead:], float)
    seen = [axis - lead for axis in viewer.dims.displayed if axis >= lead]
    place[seen] = viewer.scene.camera.center[-len(seen) :]
    return place


class Locator:
    """The places of one channel, for any thread.

    Parameters
    ----------
    path, channel : str

    Raises
    ------
    LsfmError
    """

    def __init__(self, path: str, channel: str) -> None:
        self._file = open_lsfm(Path(path), detached=True, cache=ChunkCache(_CACHE_BYTES), max_read_bytes=_MAX_READ_BYTES)
        self._channel = self._file[channel]
        self._lock = threading.RLock()
        self._chains: dict[tuple[str, ...] | str, TransformChain | LsfmError] = {}
        self._tables: dict[str, LabelTable] = {}
        self.own = self._channel.space_name
        #: The spaces to which transforms lead; those with labels first, then those with images, then the farthest.
        self.spaces = self._reachable()

    def _reachable(self) -> tuple[str, ...]:
        others = sorted(known_spaces(self._file) - {self.own})
        found = [space for space in others if not isinstance(self._chain(space), LsfmError)]
        labels, lying = (
            {c.space_name for c in self._file.channels.values() if c.kind in kinds}
            for kinds in (("labels",), ("labels", "image", "components"))
        )
        # What only lies on the way comes last.
        steps = {space: len(chain.transforms) for space, chain in self._chains.items() if isinstance(chain, TransformChain)}
        return tuple(sorted(found, key=lambda space: (space not in labels, space not in lying, -steps[space])))

    def _chain(self, way: tuple[str, ...] | str) -> TransformChain | LsfmError:
        if way not in self._chains:
            fields: dict[str, Any] = {"to": way} if isinstance(way, str) else {"through": way}
            try:
                self._chains[way] = chain_to(self._file, self._channel.name, **fields)
            except LsfmError as error:
                self._chains[way] = error
        return self._chains[way]

    def to_native(self, way: _Way, ras: npt.ArrayLike) -> FloatArray:
        """A point of another space, or of what transforms lead to, in the channel's world, mm.

        Raises
        ------
        LsfmError
        """
        with self._lock:
            return self._carry(way, ras, inverse=False)

    def from_native(self, way: _Way, ras: npt.ArrayLike) -> FloatArray:
        """The way there.

        Raises
        ------
        LsfmError
            If an inverse is not known.
        """
        with self._lock:
            return self._carry(way, ras, inverse=True)

    def _carry(self, way: _Way, ras: npt.ArrayLike, *, inverse: bool) -> FloatArray:
        if way in ((), self.own):
            return np.asarray(ras, float)
        chain = way if isinstance(way, TransformChain) else self._chain(way)
        if isinstance(chain, LsfmError):
            raise chain
        carried = (chain.inverse() if inverse else chain).map_points([np.asarray(ras, float)])[0]
        return np.asarray(carried)

    def voxel(self, ras: npt.ArrayLike) -> FloatArray:
        """Planes, rows and columns of the finest level, of a point in the channel's world."""
        return np.asarray(self._channel.space.to_voxel([np.asarray(ras, float)])[0])

    def voxel_text(self, ras: npt.ArrayLike) -> str:
        """The voxel in words, as who types it; and that it is none, where the image has none there."""
        voxel = np.rint(self.voxel(ras)).astype(int)
        is_inside = (voxel >= 0).all() and (voxel < self._channel.space.shape).all()
        return ",".join(map(str, voxel.tolist())) if is_inside else "outside of the image"

    def at_voxel(self, voxel: npt.ArrayLike) -> FloatArray:
        """The way back."""
        return np.asarray(self._channel.space.to_world([np.asarray(voxel, float)])[0])

    def region(self, ras: npt.ArrayLike) -> str:
        """The region of a point in the channel's world, by labels to which the way is known; empty where there is none."""
        with self._lock:
            for labels in self._labels():
                try:
                    there = self._carry(str(labels.space_name), ras, inverse=True)
                except LsfmError:
                    continue
                index = np.rint(labels.space.to_voxel([there])[0]).astype(int)
                if (index < 0).any() or (index >= labels.space.shape).any():
                    continue
                number = int(np.asarray(labels.levels[0].data[tuple(int(i) for i in index)]))
                if number:
                    label = self._table(labels.name).get(number)
                    return f"{number}" if label is None else f"{label.acronym}: {label.name}" if label.acronym else label.name
        return ""

    def find_region(self, text: str) -> tuple[str, FloatArray]:
        """A region by its id, acronym or name: what it is called, and a point of it in the channel's world, mm.

        The point is the voxel of the region that is nearest to its centre, so that it lies in it; looked for on a coarse level.

        Raises
        ------
        LsfmError
            `UnknownRegionError`; `InputError` if there are no labels to which the way is known.
        """
        with self._lock:
            known = list(self._labels())
            if not known:
                raise InputError(f"{self._file.path}: no labels lie where a way from channel {self._channel.name!r} is known")
            errors: list[LsfmError] = []
            for labels in known:
                try:
                    table = self._table(labels.name)
                    label = table.find(text)
                    point = _inner_point(labels, table.select([label.id], include_descendants=True))
                    if point is None:
                        raise InputError(f"{self._file.path}: region {label} has no voxel in {labels.name!r}")
                    return str(label), self._carry(str(labels.space_name), point, inverse=False)
                except LsfmError as error:
                    errors.append(error)
            raise errors[0]

    def _labels(self) -> Sequence[Any]:
        known = (self.own, *self.spaces)
        found = [c for c in self._file.channels.values() if c.kind == "labels" and c.space_name in known and c.orientation]
        return sorted(found, key=lambda c: known.index(c.space_name))

    def _table(self, name: str) -> LabelTable:
        if name not in self._tables:
            self._tables[name] = LabelTable.from_json(self._file.label_table(name))
        return self._tables[name]


def locator(path: str, channel: str) -> Locator:
    """The places of a channel, as its file has them now; several ask for them.

    Raises
    ------
    LsfmError
        If the file is gone, or broken.
    """
    try:
        state = Path(path).stat()
    except OSError as error:
        raise MissingError(f"{path}: cannot be read any more: {error.strerror}") from error
    return _locator(path, channel, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=8)
def _locator(path: str, channel: str, state: tuple[int, ...]) -> Locator:  # noqa: ARG001 (tells one state from another)
    return Locator(path, channel)


def mm_text(ras: npt.ArrayLike) -> str:
    """R, A, S as ``--origin`` takes it."""
    return ",".join(f"{value + 0.0:.3f}" for value in np.asarray(ras, float).round(3))


def _inner_point(labels: Any, ids: Sequence[int]) -> FloatArray | None:
    """R, A, S of the voxel of a region that is nearest to its middle; None if it has none."""
    level = next((level for level in labels.levels if np.prod(level.space.shape) <= 2**24), labels.levels[-1])
    for tried in dict.fromkeys((level, labels.levels[0])):
        places = np.argwhere(np.isin(np.asarray(tried.data), list(ids)))
        if len(places):
            middle = places[np.linalg.norm(places - places.mean(axis=0), axis=1).argmin()]
            return np.asarray(tried.space.to_world([middle])[0])
    return None
