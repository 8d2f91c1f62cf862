"""Lazy arrays as napari shows them: with other values, or a time axis. Nothing of napari is imported here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core import LazyArray

__all__ = ["OverTime", "Recoded", "Shaded"]

Array = npt.NDArray[Any]
Box = tuple[range, ...]


class _Shown(LazyArray):
    """A kind that has other values in the place of an array's own, one for each, and of another type."""

    def __init__(self, source: Any, dtype: npt.DTypeLike) -> None:
        self._source = source
        super().__init__(
            source.shape,
            dtype,
            getattr(source, "chunks", source.shape),
            name=getattr(source, "name", "an array"),
            max_read_bytes=getattr(source, "max_read_bytes", None),
        )

    @property
    def source(self) -> Any:
        """The values themselves, of what is shown."""
        return self._view_of(self._source)


class Recoded(_Shown):
    """Labels whose ids are shown as small numbers.

    Parameters
    ----------
    source : array, lazy or not
    ids : array
        The id that each number stands for, 0 for 0. An id that is not listed becomes the number after the last one.
    """

    def __init__(self, source: Any, ids: Array) -> None:
        super().__init__(source, np.uint16)
        self._ids = ids
        self._order_of_ids = np.argsort(ids)
        self._sorted = ids[self._order_of_ids]

    def _fill(self, box: Box, out: Array, cached: bool) -> None:
        labels = self._part(self._source, box, cached)
        flat = labels.reshape(-1)
        # Regions are large: a number is looked up once for each run of an id, not for each voxel.
        starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        starts = np.concatenate([np.zeros(1, starts.dtype), starts])
        found = flat[starts]
        places = np.minimum(np.searchsorted(self._sorted, found), len(self._ids) - 1)
        numbers = np.where(self._sorted[places] == found, self._order_of_ids[places], len(self._ids)).astype(self.dtype)
        out[...] = np.repeat(numbers, np.diff(starts, append=flat.size)).reshape(labels.shape)


class Shaded(_Shown):
    """Colours in the 8 bits that napari shows.

    Parameters
    ----------
    source : array, lazy or not
    low, high : float
        What becomes dark, and what bright.
    """

    def __init__(self, source: Any, low: float, high: float) -> None:
        super().__init__(source, np.uint8)
        self._range = low, high

    def _fill(self, box: Box, out: Array, cached: bool) -> None:
        low, high = self._range
        values = (self._part(self._source, box, cached).astype(np.float32) - low) * (255 / (high - low))
        np.clip(np.rint(values), 0, 255, out=values)
        out[...] = values


class OverTime(LazyArray):
    """Arrays of one shape, one for each time, with time as the first axis.

    Parameters
    ----------
    at : callable
        The array of a time, lazy or not; called when something of it is read.
    times : range
    like : LazyArray
        One of them.
    """

    def __init__(self, at: Callable[[int], Any], times: range, like: LazyArray) -> None:
        super().__init__(
            (len(times), *like.shape), like.dtype, (1, *like.chunks), name=like.name, max_read_bytes=like.max_read_bytes
        )
        self._at = at
        self._times = times

    def __getstate__(self) -> dict[str, Any]:
        # What gives the arrays stays in this process; those that are shown go along.
        shown = self._picked[0]
        times = [self._times[place] for place in (shown if isinstance(shown, range) else (shown,))]
        return {**self.__dict__, "_at": {time: self._at(time) for time in times}.__getitem__}

    def _fill(self, box: Box, out: Array, cached: bool) -> None:
        for place, time in enumerate(box[0]):
            self._part(self._at(self._times[time]), box[1:], cached, out[place])
