"""Images whose values can be asked for anywhere: others' results, and channels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError, MemoryBudgetError
from lsfm_core.formats import open_source
from lsfm_core.geometry import Space, voxel_count
from lsfm_core.progress import size_text
from lsfm_core.store import Channel

__all__ = ["Sampled", "of_channel", "of_file"]

FloatArray = npt.NDArray[np.float64]
#: Voxels that are read for some points at once.
_BOX = 2**24
_FACE = 1e-6


class Sampled:
    """An array, lazy or not, and the place of its voxels; with coarser ones of the same image, if there are any."""

    def __init__(self, array: Any, space: Space, coarser: Sequence[Sampled] = ()) -> None:
        self.space = space
        self._array = array
        self._coarser = coarser

    def held(self, voxels: int) -> Sampled:
        """The same in memory, of so many voxels at most, if there is such a level."""
        fitting = (image for image in (self, *self._coarser) if voxel_count(image.space.shape) <= voxels)
        image = next(fitting, (self, *self._coarser)[-1])
        return Sampled(np.asarray(image._array[...]), image.space)

    def values(self, points: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Values at points (n, 3), RAS mm, interpolated linearly, and which of them lie between the outermost voxel centres."""
        index = self.space.to_voxel(points)
        last = np.array(self.space.shape) - 1
        inside = np.asarray(((index >= -_FACE) & (index <= last + _FACE)).all(axis=1))
        values = np.zeros(len(points))
        self._fill(values, np.flatnonzero(inside), np.clip(index, 0, last))
        return values, inside

    def _fill(self, values: FloatArray, group: npt.NDArray[np.intp], index: FloatArray) -> None:
        if not len(group):
            return
        own = index[group]
        low = np.floor(own.min(axis=0)).astype(int)
        high = np.minimum(np.floor(own.max(axis=0)).astype(int) + 2, self.space.shape)
        if np.prod(high - low, dtype=float) > _BOX and len(group) > 1:
            axis = int((high - low).argmax())
            below = own[:, axis] < (low[axis] + high[axis]) / 2
            if below.any() and not below.all():
                self._fill(values, group[below], index)
                self._fill(values, group[~below], index)
                return
        box = np.asarray(self._array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
        place = own - low
        base = np.minimum(place.astype(np.intp), np.maximum(np.array(box.shape) - 2, 0))
        part = place - base
        step = np.minimum(np.array(box.shape) - 1, 1)
        total = np.zeros(len(group))
        for corner in product((0, 1), repeat=3):
            at = base + np.array(corner) * step
            weight = np.where(np.array(corner) == 1, part, 1 - part).prod(axis=1)
            total += weight * box[at[:, 0], at[:, 1], at[:, 2]]
        values[group] = total


def of_file(path: Path, space: Space | None, memory_bytes: int) -> Sampled:
    """An image file.

    Raises
    ------
    InputError
        If it does not tell where its voxels are, and nobody else does.
    MemoryBudgetError
    MissingError, SourceError
    """
    source = open_source(path)
    try:
        place = source.space or space
        if place is None:
            raise InputError(f"{path}: does not tell where its voxels are, so that nothing can be compared with it")
        if place.shape != source.shape:
            raise InputError(f"{path}: has {source.shape} voxels, expected {place.shape}: is it of another run?")
        size = voxel_count(source.shape) * source.dtype.itemsize
        if size > memory_bytes // 3:
            raise MemoryBudgetError(f"{path}: takes {size_text(size)} in memory, more than a third of what may be used (--memory)")
        array = np.empty(source.shape, source.dtype)
        for index in range(source.shape[0]):
            source.read_plane(index, array[index])
    finally:
        source.close()
    return Sampled(array, place)


def of_channel(channel: Channel, voxel_mm: float) -> Sampled:
    """The level of a channel whose voxels are nearest in size to those of something else."""
    index = min(
        range(len(channel.levels)),
        key=lambda index: abs(np.log(np.prod(channel.levels[index].space.voxel_size_mm) ** (1 / 3) / voxel_mm)),
    )
    level, *coarser = channel.levels[index:]
    return Sampled(level.data, level.space, [Sampled(other.data, other.space) for other in coarser])
