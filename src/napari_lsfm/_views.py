"""Lazy arrays over stored levels, as napari takes them: with other axes, other values, or a time axis.

Each composes indices and reads only in ``np.asarray``, as `lsfm_core.LazyLevel` does. Nothing of napari is imported here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core import InputError

__all__ = ["OverTime", "Recoded", "Shaded", "Transposed", "View"]

Array = npt.NDArray[Any]


class View(ABC):
    """What napari asks of an array."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for n in self.shape:
            count *= n
        return count

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        items = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis not in items:
            items.append(Ellipsis)
        place = items.index(Ellipsis)
        items[place : place + 1] = [slice(None)] * (self.ndim - len(items) + 1)
        return self._select(items)

    def __deepcopy__(self, memo: dict[int, Any]) -> View:
        # napari duplicates layers so: like the levels beneath, a view cannot be changed.
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        raise InputError(
            "this layer shows what is stored in a file, which nothing painted would change: paint on a copy of it "
            "(Layers > Data > Editable copy of this layer)"
        )

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a stored level cannot be given without a copy: it is read from the file")
        array = self._read()
        return array if dtype is None else array.astype(dtype, copy=False)

    @abstractmethod
    def _select(self, items: Sequence[Any]) -> Any:
        """A view of part of this; there is an integer or a slice for each axis."""

    @abstractmethod
    def _read(self) -> Array:
        """All of it."""


class Transposed(View):
    """A lazy array whose axes stand in another order; `axes` names for each axis the array's own."""

    def __init__(self, array: Any, axes: tuple[int, ...]) -> None:
        self._array = array
        self._axes = axes
        self.shape = tuple(array.shape[axis] for axis in axes)
        self.chunks = tuple(array.chunks[axis] for axis in axes)
        self.dtype = array.dtype

    def _select(self, items: Sequence[Any]) -> Transposed:
        own = [item for _, item in sorted(zip(self._axes, items, strict=True), key=lambda pair: pair[0])]
        kept = [axis for axis, item in zip(self._axes, items, strict=True) if isinstance(item, slice)]
        return Transposed(self._array[tuple(own)], tuple(sorted(kept).index(axis) for axis in kept))

    def _read(self) -> Array:
        return np.asarray(self._array).transpose(self._axes)


class Recoded(View):
    """A lazy array of labels whose ids are shown as small numbers.

    Parameters
    ----------
    source : array, lazy or not
    ids : array
        The id that each number stands for, 0 for 0. An id that is not listed becomes the number after the last one.
    """

    def __init__(self, source: Any, ids: Array) -> None:
        #: The labels with their own ids.
        self.source = source
        self._ids = ids
        self._order = np.argsort(ids)
        self._sorted = ids[self._order]
        self.shape = tuple(source.shape)
        self.chunks = tuple(getattr(source, "chunks", source.shape))
        self.dtype = np.dtype(np.uint16)

    def _select(self, items: Sequence[Any]) -> Recoded:
        return Recoded(self.source[tuple(items)], self._ids)

    def _read(self) -> Array:
        labels = np.asarray(self.source)
        flat = labels.reshape(-1)
        # Regions are large: a number is looked up once for each run of an id, not for each voxel.
        starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        starts = np.concatenate([np.zeros(min(flat.size, 1), starts.dtype), starts])
        found = flat[starts]
        places = np.minimum(np.searchsorted(self._sorted, found), len(self._ids) - 1)
        numbers = np.where(self._sorted[places] == found, self._order[places], len(self._ids)).astype(self.dtype)
        return np.repeat(numbers, np.diff(starts, append=flat.size)).reshape(labels.shape)


class Shaded(View):
    """A lazy array of colours in the 8 bits that napari shows.

    Parameters
    ----------
    source : array, lazy or not
    low, high : float
        What becomes dark, and what bright.
    """

    def __init__(self, source: Any, low: float, high: float) -> None:
        #: The colours as they are stored.
        self.source = source
        self._range = low, high
        self.shape = tuple(source.shape)
        self.chunks = tuple(getattr(source, "chunks", source.shape))
        self.dtype = np.dtype(np.uint8)

    def _select(self, items: Sequence[Any]) -> Shaded:
        return Shaded(self.source[tuple(items)], *self._range)

    def _read(self) -> Array:
        low, high = self._range
        values = (np.asarray(self.source, np.float32) - low) * (255 / (high - low))
        return np.clip(np.rint(values), 0, 255).astype(self.dtype)


class OverTime(View):
    """Lazy arrays of one shape, one for each timepoint, with time as the first axis.

    Parameters
    ----------
    at : callable
        The array of a timepoint; called when something of it is read.
    times : range
    like : lazy array
        One of them.
    """

    def __init__(self, at: Callable[[int], Any], times: range, like: Any) -> None:
        self._at = at
        self._times = times
        self._like = like
        self.shape = (len(times), *like.shape)
        self.chunks = (1, *like.chunks)
        self.dtype = like.dtype

    def _select(self, items: Sequence[Any]) -> Any:
        time, *rest = items
        if isinstance(time, slice):
            return OverTime(lambda t: self._at(t)[tuple(rest)], self._times[time], self._like[tuple(rest)])
        return self._at(self._times[time])[tuple(rest)]

    def _read(self) -> Array:
        movie = np.empty(self.shape, self.dtype)
        for place, time in enumerate(self._times):
            movie[place] = np.asarray(self._at(time))
        return movie
