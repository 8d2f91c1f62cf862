"""Where the ids of a labels channel lie: sweeps over its voxels, block by block, in bounded memory.

A sweep runs in the thread that asks for it. What takes time is to decode, and that a stored level does in threads of its own,
several chunks at once; so a block holds several chunks, and a chunk lies in one block only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError
from lsfm_core.geometry import Shape3, Space, voxel_count
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.regions.table import LabelTable

__all__ = [
    "Hemisphere",
    "LabelArray",
    "LabelSet",
    "RegionVoxels",
    "count_labels",
    "count_sides",
    "locate_region",
    "midline_mm",
    "surface_points",
    "sweep_blocks",
]

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

#: Voxels of a block, at 4 bytes or what they have more; to compare them takes some four times as much.
_BLOCK_BYTES = 8 * 2**20
#: Voxels that are enough to tell where the middle is.
_SAMPLE_VOXELS = 2**21
#: Up to this id a table that is asked by id is small beside a block.
_TABLE_IDS = 2**20
#: A voxel centre on the midline must not fall to either side by the dust of its computation.
_DUST_MM = 1e-9


class LabelArray(Protocol):
    """Ids in three axes that are read when they are asked for; a `LazyLevel` is one, and so is a numpy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """An integer type."""

    def __getitem__(self, index: Any, /) -> Any:
        """What numpy, or the `read` of a lazy level, takes for an array."""


class LabelSet:
    """Some ids, to ask of many voxels whether they are among them.

    Parameters
    ----------
    ids : iterable of int
        Up to 2**64 - 1.
    """

    def __init__(self, ids: Iterable[int]) -> None:
        self._ids = sorted({int(key) for key in ids})

    def mask(self, array: Array) -> Mask:
        """Whether each voxel of an array of integers has one of the ids; exact for every integer type.

        Raises
        ------
        InputError
            If the array holds no integers.
        """
        if array.dtype.kind not in "ui":
            raise InputError(f"labels are integers; the array holds {array.dtype}")
        limits = np.iinfo(array.dtype)
        ids = np.array([key for key in self._ids if limits.min <= key <= limits.max], array.dtype)
        if not ids.size:
            return np.zeros(array.shape, bool)
        if ids[0] >= 0 and ids[-1] < _TABLE_IDS:
            table = np.zeros(int(ids[-1]) + 2, bool)
            table[ids] = True
            # Without a sign, ids below zero are large ones, and all that are larger than the table share its last place.
            unsigned = array.view(f"{array.dtype.byteorder}u{array.dtype.itemsize}")
            if len(table) - 1 < np.iinfo(unsigned.dtype).max:
                unsigned = np.minimum(unsigned, len(table) - 1)
            listed: Mask = table[unsigned]
            return listed
        places = np.searchsorted(ids, array)
        places[places == ids.size] = 0
        found: Mask = ids[places] == array
        return found


@dataclass(frozen=True)
class Hemisphere:
    """One side of the brain: the voxels whose centres have R below the midline, or not below it.

    Attributes
    ----------
    side : {"left", "right"}
    midline_mm : float
        R of the plane between the sides; it belongs to the right.
    space : Space
        Of the labels, which may be oblique.
    """

    side: Literal["left", "right"]
    midline_mm: float
    space: Space

    def mask(self, starts: Sequence[int], stops: Sequence[int]) -> Mask:
        """Whether the centres of the voxels ``starts:stops`` are on this side; an array that broadcasts to their shape."""
        is_left = _right_mm(self.space, _box(starts, stops)) < self.midline_mm - _DUST_MM
        return is_left if self.side == "left" else ~is_left

    def __str__(self) -> str:
        return f"{self.side} of R = {self.midline_mm:.3f} mm"


@dataclass(frozen=True)
class RegionVoxels:
    """Where a region lies.

    Attributes
    ----------
    starts, stops : tuple of 3 int
        The box of voxel indices that just holds it; stops are exclusive.
    count : int
        Of its voxels.
    """

    starts: Shape3
    stops: Shape3
    count: int


def locate_region(
    labels: LabelArray,
    ids: Sequence[int],
    *,
    keep: Hemisphere | None = None,
    table: LabelTable | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> RegionVoxels:
    """Find the box and the number of the voxels that have one of some ids.

    Parameters
    ----------
    labels : LabelArray
        Level 0 of a labels channel; each chunk is read once.
    ids : sequence of int
        As `LabelTable.select` gives them.
    keep : Hemisphere, optional
        Only its voxels count.
    table : LabelTable, optional
        To name regions in an error, and to tell whether their parts have voxels.

    Raises
    ------
    InputError
        If there is no such voxel; says whether there are some on the other side, or of the regions' parts.
    """
    found = _locate(labels, ids, keep, Progress("locate", _nbytes(labels, (0, 0, 0), labels.shape), progress, cancel))
    if found is None:
        # Nobody waits for an error: to explain it may take another sweep.
        table = table or LabelTable()
        unheard = Progress("locate", _nbytes(labels, (0, 0, 0), labels.shape), None, cancel)
        one = ", ".join(str(table.get(key, f"id {key}")) for key in ids[:5]) + (", …" if len(ids) > 5 else "")
        if keep is not None and _locate(labels, ids, None, unheard) is not None:
            raise InputError(f"{one}: no voxel lies {keep}: choose the other side, or another midline")
        parts = {part for key in ids for part in table.descendants(key)} - {*ids}
        if parts and _locate(labels, list(parts), None, unheard) is not None:
            raise InputError(f"{one}: no voxels of its own, but its parts have some: include them (include_descendants)")
        raise InputError(f"{one}: no voxel of the channel belongs to it")
    return found


def surface_points(
    labels: LabelArray,
    ids: Sequence[int],
    *,
    region: RegionVoxels | None = None,
    keep: Hemisphere | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Iterator[npt.NDArray[np.float64]]:
    """Give the corners of a region's outline: of every voxel face that has the region on one side only.

    Whatever a transform does to the region, its outline goes along; the corners of its box would not tell.

    Parameters
    ----------
    labels : LabelArray
    ids : sequence of int
    region : RegionVoxels, optional
        What `locate_region` found, so that only its box is looked at.
    keep : Hemisphere, optional
        Only its voxels belong to the region.

    Yields
    ------
    array (n, 3)
        Indices, all halves: voxel i reaches from i - 0.5 to i + 0.5. Each corner is given once.
    """
    starts, stops = (region.starts, region.stops) if region is not None else ((0, 0, 0), _shape(labels))
    wanted = LabelSet(ids)
    report = Progress("outline", _nbytes(labels, starts, stops), progress, cancel)
    # Corner c lies before voxel c, so that there is one corner more than there are voxels.
    for first, last in sweep_blocks(labels, starts, tuple(stop + 1 for stop in stops)):
        low = [max(corner - 1, start) for corner, start in zip(first, starts, strict=True)]
        high = [min(corner, stop) for corner, stop in zip(last, stops, strict=True)]
        mask = wanted.mask(_read(labels, _box(low, high)))
        report.advance(_nbytes(labels, first, high))
        if not mask.any():
            continue
        if keep is not None:
            mask &= keep.mask(low, high)
        # Nothing belongs to the region outside of its box.
        mask = np.pad(mask, [(a + 1 - f, b - h) for a, f, b, h in zip(low, first, last, high, strict=True)])
        some, every = mask, mask
        for axis in range(3):
            before, after = (slice(None),) * axis + (slice(-1),), (slice(None),) * axis + (slice(1, None),)
            some, every = some[before] | some[after], every[before] & every[after]
        corners = np.flatnonzero(some & ~every)
        for piece in np.array_split(corners, range(2**18, len(corners), 2**18)):
            yield np.stack(np.unravel_index(piece, some.shape), axis=-1) + (np.asarray(first) - 0.5)


def count_labels(
    labels: LabelArray, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> dict[int, int]:
    """Count the voxels of every id that occurs, 0 (the background) included; ids in order.

    Times `Space.voxel_volume_mm3` they are volumes.
    """
    return dict(sorted(_tally(labels, None, progress, cancel)[0].items()))


def count_sides(
    labels: LabelArray, left: Hemisphere, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> tuple[dict[int, int], dict[int, int]]:
    """As `count_labels`, of all voxels and of those on one side; each chunk is read once."""
    everywhere, there = _tally(labels, left, progress, cancel)
    return dict(sorted(everywhere.items())), dict(sorted(there.items()))


def midline_mm(labels: LabelArray, space: Space) -> float:
    """R of the plane between the hemispheres, from the labels: the median of R over all voxels with a label.

    Parameters
    ----------
    labels : LabelArray
        A coarse level is enough; of one with more than some million voxels only every second, third, … along each axis is taken.
    space : Space
        Of that level.

    Raises
    ------
    InputError
        If there is no voxel with a label.
    """
    shape = _shape(labels)
    step = 1
    while voxel_count([-(-n // step) for n in shape]) > _SAMPLE_VOXELS:
        step += 1
    box = _box((0, 0, 0), shape, step)
    labelled = _read(labels, box) != 0
    if not labelled.any():
        raise InputError("the labels are all 0, so they do not tell where the midline is: give its R in mm")
    return float(np.median(np.broadcast_to(_right_mm(space, box), labelled.shape)[labelled]))


def _tally(
    labels: LabelArray, side: Hemisphere | None, progress: ProgressCallback | None, cancel: CancelToken | None
) -> tuple[Counter[int], Counter[int]]:
    """Voxels of every id: of all, and of those on a side, if there is one."""
    counts: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    report = Progress("count", _nbytes(labels, (0, 0, 0), labels.shape), progress, cancel)
    for starts, stops in sweep_blocks(labels, (0, 0, 0), _shape(labels)):
        block = _read(labels, _box(starts, stops))
        counts[0].update(_numbers(block.ravel()))
        if side is not None:
            counts[1].update(_numbers(block[np.broadcast_to(side.mask(starts, stops), block.shape)]))
        report.advance(_nbytes(labels, starts, stops))
    return counts


def _numbers(flat: Array) -> dict[int, int]:
    """How often each id is in an array of one axis."""
    if not flat.size:
        return {}
    if flat.min() >= 0 and flat.max() < _TABLE_IDS:
        # Several times as fast as to sort them.
        numbers = np.bincount(flat.astype(np.intp))
        ids = np.flatnonzero(numbers)
        numbers = numbers[ids]
    else:
        # Regions are large: there are far fewer runs of an id than voxels to be sorted.
        runs = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        ids, places = np.unique(flat[runs], return_inverse=True)
        numbers = np.zeros(len(ids), np.int64)
        np.add.at(numbers, places, np.diff(runs, append=flat.size))
    return dict(zip(ids.tolist(), numbers.tolist(), strict=True))


# --- sweeps ---------------------------------------------------------------------------------------------------------------------


def _locate(labels: LabelArray, ids: Sequence[int], keep: Hemisphere | None, report: Progress) -> RegionVoxels | None:
    wanted = LabelSet(ids)
    count = 0
    low, high = list(_shape(labels)), [0, 0, 0]
    for starts, stops in sweep_blocks(labels, (0, 0, 0), _shape(labels)):
        mask = wanted.mask(_read(labels, _box(starts, stops)))
        if keep is not None and mask.any():
            mask &= keep.mask(starts, stops)
        here = int(np.count_nonzero(mask))
        count += here
        for axis in range(3) if here else ():
            inside = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
            low[axis] = min(low[axis], starts[axis] + int(inside[0]))
            high[axis] = max(high[axis], starts[axis] + int(inside[-1]) + 1)
        report.advance(_nbytes(labels, starts, stops))
    return RegionVoxels((low[0], low[1], low[2]), (high[0], high[1], high[2]), count) if count else None


def sweep_blocks(array: LabelArray, starts: Sequence[int], stops: Sequence[int]) -> Iterator[tuple[Shape3, Shape3]]:
    """Give the box ``starts:stops`` in blocks of as many voxels as some chunks have, and of whole chunks if it starts at one."""
    chunks = getattr(array, "chunks", None) or (64, 64, 64)
    block = [min(chunk, n) for chunk, n in zip(chunks, array.shape, strict=True)]
    most = _BLOCK_BYTES // max(4, array.dtype.itemsize)
    while voxel_count(block) * 2 <= most and any(b < n for b, n in zip(block, array.shape, strict=True)):
        axis = min((k for k in range(3) if block[k] < array.shape[k]), key=lambda k: block[k])
        block[axis] *= 2
    runs = [
        [(edge, min(edge + size, stop)) for edge in range(start, stop, size)]
        for start, stop, size in zip(starts, stops, block, strict=True)
    ]
    for (a, b), (c, d), (e, f) in product(*runs):
        yield (a, c, e), (b, d, f)


def _right_mm(space: Space, box: tuple[slice, ...]) -> npt.NDArray[np.float64]:
    """R of the centres of a box of voxels, spread out only along those axes that change it."""
    right = space.world_from_voxel[0, 3]
    for index, slope in zip(np.ogrid[box], space.world_from_voxel[0, :3], strict=True):
        if slope:
            right = right + slope * index
    return np.asarray(right)


def _read(labels: LabelArray, box: tuple[slice, ...]) -> Array:
    part = labels[box]
    # One sweep over more than a cache holds would only drive out what others use.
    array: Array = part.read(cached=False) if hasattr(part, "read") else np.asarray(part)
    return array


def _box(starts: Sequence[int], stops: Sequence[int], step: int = 1) -> tuple[slice, ...]:
    return tuple(slice(start, stop, step) for start, stop in zip(starts, stops, strict=True))


def _shape(labels: LabelArray) -> Shape3:
    a, b, c = labels.shape
    return a, b, c


def _nbytes(labels: LabelArray, starts: Sequence[int], stops: Sequence[int]) -> int:
    return voxel_count([stop - start for start, stop in zip(starts, stops, strict=True)]) * labels.dtype.itemsize
