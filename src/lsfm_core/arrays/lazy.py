"""LazyArray: the one place where indices compose. Whatever an array is made of, indexing it is free, and ``np.asarray`` reads it.

A kind says what its whole is (shape, type, chunks) and fills a box of it. Which part of the whole a view shows, and in which order
its axes stand, is known here alone.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError, MemoryBudgetError
from lsfm_core.progress import size_text

__all__ = ["Box", "LazyArray", "Padded", "extents"]

Array = npt.NDArray[Any]
#: For each axis of a kind's whole, the indices that are wanted: at least one, upward or downward, all of which exist.
Box: TypeAlias = tuple[range, ...]

#: Scattered elements are read through boxes no larger than this, unless they fill larger ones.
_GATHER_BYTES = 8 * 2**20


class LazyArray(ABC):
    """An array that is read when asked. Indexing with integers, slices (any step), ``...`` and ``None`` gives another view of it.

    Arrays of integers and masks read at once, and give what numpy would. To make a new kind, call ``__init__`` with what the whole
    is, and write `_fill`.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    chunks : tuple of int
        How much of each axis is best read together.
    name : str
        For errors.
    max_read_bytes : int, optional
        More than this at once is refused by ``np.asarray``; `read` gives it.
    pieces : tuple of int, optional
        How much of each axis is read together, where that is not a chunk.

    Attributes
    ----------
    shape, ndim, size, dtype, nbytes
        As numpy's.
    chunks : tuple of int
        Extent of a chunk along each axis of this view, in zarr's form.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: npt.DTypeLike,
        chunks: Sequence[int],
        *,
        name: str = "an array",
        max_read_bytes: int | None = None,
        pieces: Sequence[int] | None = None,
    ) -> None:
        self._dtype = np.dtype(dtype)
        self._own_chunks = tuple(chunks)
        self._own_pieces = tuple(pieces or chunks)
        #: What errors call it.
        self.name = name
        self.max_read_bytes = max_read_bytes
        # For each axis of the whole the indices that are shown, or a single one, whose axis is dropped. Python's range composes
        # slices exactly as numpy does.
        self._picked: tuple[range | int, ...] = tuple(map(range, shape))
        # For each axis of this view the one of the whole, or the indices of an axis of length 1 that no kind knows.
        self._order: tuple[int | range, ...] = tuple(range(len(self._picked)))
        self._shape = tuple(shape)

    @abstractmethod
    def _fill(self, box: Box, out: Array, cached: bool) -> None:
        """Put a box of the whole into `out`, whose axes are the whole's and may lie in any order in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis of this view."""
        return self._shape

    @property
    def ndim(self) -> int:
        """Number of axes of this view."""
        return len(self._shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self._shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""
        return self._dtype

    @property
    def nbytes(self) -> int:
        """Bytes that reading this view gives."""
        return self.size * self.dtype.itemsize

    @property
    def chunks(self) -> tuple[int, ...]:
        """Extent of a chunk along each axis of this view."""
        return tuple(max(1, self._own_chunks[axis] // abs(run.step)) if isinstance(axis, int) else 1 for axis, run in self._runs())

    def __len__(self) -> int:
        if not self._shape:
            raise TypeError("len() of a view without axes")
        return self._shape[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Nothing of a view can be changed, and its elements are the file's: a copy could not differ from it.
        return self

    def __getitem__(self, index: Any) -> Any:
        items, gathers = self._spread(index)
        if gathers:
            return self._gather(items)
        picked, order = list(self._picked), []
        axes = iter(self._order)
        for item in items:
            if item is None:
                order.append(range(1))
                continue
            axis = next(axes)
            chosen = _select(self._picked[axis] if isinstance(axis, int) else axis, item)  # type: ignore[arg-type]
            if isinstance(axis, int):
                picked[axis] = chosen
            if isinstance(chosen, range):
                order.append(axis if isinstance(axis, int) else chosen)  # type: ignore[arg-type]
        return self._viewed(tuple(picked), tuple(order))

    def __setitem__(self, index: Any, value: Any) -> None:
        raise InputError(
            f"{self.name}: what is shown here is stored in a file, which no assignment would change: change a copy of it, "
            "np.array(…); in napari, Layers > Data > Editable copy of this layer"
        )

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError(f"{self.name} cannot be given without a copy: it is read when it is asked for")
        self._check_size(self.shape)
        array = self.read()
        return array if dtype is None else array.astype(dtype, copy=False)

    def read(self, *, cached: bool = True, out: Array | None = None) -> Array:
        """Read this view, whatever its size.

        Parameters
        ----------
        cached : bool
            Whether decoded chunks are kept for later reads; False for one sweep over more than the cache holds.
        out : array, optional
            Where the elements go, of this view's shape and type, in any order in memory; default: a new array.

        Raises
        ------
        ChecksumError
            If stored data are damaged; names the dataset and the place.
        """
        if out is None:
            out = np.empty(self._shape, self._dtype)
        if not out.size:
            return out
        kept = [axis for axis in self._order if isinstance(axis, int)]
        box = tuple(pick if isinstance(pick, range) else range(pick, pick + 1) for pick in self._picked)
        # With the whole's axes, in its order: those that were added go, and those that were dropped come back.
        own = out if len(kept) == len(self._order) else out[(*(slice(None) if isinstance(k, int) else 0 for k in self._order), ...)]
        if kept != sorted(kept):
            own = own.transpose(sorted(range(len(kept)), key=kept.__getitem__))
        if len(kept) < len(self._picked):
            own = own[tuple(slice(None) if isinstance(pick, range) else None for pick in self._picked)]
        self._fill(box, own, cached)
        return out

    def transpose(self, *axes: Any) -> Self:
        """The same with its axes in another order, as numpy's method: backward unless they are named."""
        named = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        turned = tuple(range(self.ndim))[::-1] if named in ((), None) else tuple(axis % max(1, self.ndim) for axis in named)
        if sorted(turned) != list(range(self.ndim)):
            raise ValueError(f"{named} does not name each of {self.ndim} axes once")
        return self._viewed(self._picked, tuple(self._order[axis] for axis in turned))

    def padded(self, shape: Sequence[int]) -> Padded:
        """This view as if it were larger (or smaller) at its far edges; what is not there reads as zero."""
        return Padded(self, shape)

    def to_dask(self) -> Any:
        """This view as a dask array with one block per chunk (needs dask); its workers may be other processes."""
        import dask.array

        lengths = tuple(
            tuple(length for _, length, _ in extents(run, self._own_pieces[axis] if isinstance(axis, int) else 1)) or (0,)
            for axis, run in self._runs()
        )
        return dask.array.from_array(self, chunks=lengths, name=False, asarray=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} shape={self.shape} dtype={self.dtype}>"

    @staticmethod
    def _part(array: Any, box: Sequence[range], cached: bool, out: Array | None = None) -> Array:
        """A box of another array, lazy or not: for kinds that are made of some; into `out` where it is given."""
        part = array[tuple(map(_slice, box))]
        if isinstance(part, LazyArray) and (out is None or out.dtype == part.dtype):
            return part.read(cached=cached, out=out)
        if out is None:
            return np.asarray(part)
        out[...] = part
        return out

    def _view_of(self, array: Any) -> Any:
        """What this view shows of its whole, of another array of that shape, lazy or not."""
        part = array[tuple(_slice(pick) if isinstance(pick, range) else pick for pick in self._picked)]
        kept = [axis for axis in self._order if isinstance(axis, int)]
        part = part.transpose([sorted(kept).index(axis) for axis in kept])
        part = part[tuple(slice(None) if isinstance(axis, int) else np.newaxis for axis in self._order)]
        return part[tuple(slice(None) if isinstance(axis, int) else _slice(axis) for axis in self._order)]

    def _viewed(self, picked: tuple[range | int, ...], order: tuple[int | range, ...]) -> Self:
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._picked, view._order = picked, order
        view._shape = tuple([len(picked[axis] if isinstance(axis, int) else axis) for axis in order])  # type: ignore[arg-type]
        return view

    def _runs(self) -> Iterator[tuple[int | range, range]]:
        """For each axis of this view: which it is, and its indices."""
        for axis in self._order:
            run = self._picked[axis] if isinstance(axis, int) else axis
            assert isinstance(run, range)
            yield axis, run

    def _check_size(self, shape: Sequence[int]) -> None:
        nbytes = math.prod(shape) * self.dtype.itemsize
        if self.max_read_bytes is not None and nbytes > self.max_read_bytes:
            raise MemoryBudgetError(
                f"{self.name}: reading {tuple(shape)} at once would take {size_text(nbytes)}, more than the limit of "
                f"{size_text(self.max_read_bytes)}: take a coarser level, a smaller box, or to_dask()"
            )

    def _spread(self, index: Any) -> tuple[list[Any], bool]:
        """One item for each axis of this view, and None for each new one; and whether there are arrays among them.

        Among arrays an ellipsis for no axis stays: it parts those on its sides.
        """
        items = list(index) if isinstance(index, tuple) else [index]
        place, given, gathers = None, 0, False
        for number, item in enumerate(items):
            if isinstance(item, slice) or type(item) is int:
                given += 1
            elif item is Ellipsis:
                if place is not None:
                    raise IndexError("an index can have only one ellipsis ('...')")
                place = number
            elif item is not None:
                items[number] = plain = _integers_or_mask(item)
                gathers = gathers or not isinstance(plain, int)
                given += plain.ndim if isinstance(plain, np.ndarray) and plain.dtype == bool else 1
        if given > self.ndim:
            raise IndexError(f"too many indices: the view has {self.ndim} axes, {given} were indexed")
        whole = [slice(None)] * (self.ndim - given)
        if place is None:
            items += whole
        elif whole or not gathers:
            items[place : place + 1] = whole
        return items, gathers

    def _gather(self, items: list[Any]) -> Array:
        """What numpy gives for an index with arrays: those are taken together, element by element."""
        basic: list[Any] = []
        arrays: dict[int, Array] = {}
        before = 0
        for item in items:
            if item is Ellipsis:
                before = len(arrays)
            elif item is None or isinstance(item, slice):
                basic.append(item)
            elif isinstance(item, np.ndarray) and item.dtype == bool:
                shape = self.shape[(done := sum(part is not None for part in basic)) : done + item.ndim]
                if any(mask not in (n, 0) or (mask == 0 and n != 0) for mask, n in zip(item.shape, shape, strict=True)):
                    raise IndexError(f"a mask of shape {item.shape} does not fit axes of shape {shape}")
                if item.ndim == 0:
                    arrays[len(basic)] = np.zeros(int(item), np.intp)
                    basic.append(None)
                for part in item.nonzero() if item.ndim else ():
                    arrays[len(basic)] = part
                    basic.append(slice(None))
            else:
                arrays[len(basic)] = np.asarray(item, np.intp)
                basic.append(slice(None))
        view: LazyArray = self[tuple(basic)]
        where = list(arrays)
        try:
            together = np.broadcast_arrays(*arrays.values())
        except ValueError as error:
            raise IndexError("the arrays of an index cannot be broadcast together") from error
        for axis, part in arrays.items():
            if not part.ndim:
                # Of nothing no array can be out of bounds, but an integer can: as in numpy.
                _in_bounds(part, view.shape[axis])
        places = [_in_bounds(part.reshape(-1), view.shape[axis]) for part, axis in zip(together, where, strict=True)]
        rest = [axis for axis in range(view.ndim) if axis not in arrays]
        view = view.transpose(*where, *rest)
        shape = together[0].shape
        view._check_size((*shape, *view.shape[len(where) :]))
        found = np.empty((places[0].size, *view.shape[len(where) :]), self.dtype)
        view._collect(places, np.arange(places[0].size), found)
        found = found.reshape((*shape, *found.shape[1:]))
        # As numpy: where the arrays stand, if they stand together.
        is_one = where[-1] - where[0] == len(where) - 1 and before in (0, len(where))
        first = where[0] if is_one else 0
        return np.moveaxis(found, range(len(shape)), range(first, first + len(shape)))

    def _collect(self, places: list[Array], wanted: Array, out: Array) -> None:
        """Elements of the first axes at `places`, of which those that are `wanted` are put into `out`."""
        if not out.size or not wanted.size:
            return
        chosen = [part[wanted] for part in places]
        low, high = [int(part.min()) for part in chosen], [int(part.max()) + 1 for part in chosen]
        count = math.prod(b - a for a, b in zip(low, high, strict=True))
        row = out[0].nbytes if out.ndim > 1 else out.itemsize
        if count > 2 * wanted.size and count * row > _GATHER_BYTES:
            chunks = self.chunks
            axis = max(range(len(low)), key=lambda k: ((high[k] - low[k]) / chunks[k], high[k] - low[k]))
            middle = (low[axis] + high[axis]) // 2
            edge = middle // chunks[axis] * chunks[axis]
            left = chosen[axis] < (edge if edge > low[axis] else middle)
            self._collect(places, wanted[left], out)
            self._collect(places, wanted[~left], out)
            return
        box = self[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].read()
        out[wanted] = box[tuple(part - a for part, a in zip(chosen, low, strict=True))]


class Padded(LazyArray):
    """A lazy array as if it were larger (or smaller) at its far edges; what is not there is zero."""

    def __init__(self, source: LazyArray, shape: Sequence[int]) -> None:
        super().__init__(shape, source.dtype, source.chunks, name=source.name, max_read_bytes=source.max_read_bytes)
        self._source = source

    def _fill(self, box: Box, out: Array, cached: bool) -> None:
        places, inside = [], []
        for run, n in zip(box, self._source.shape, strict=True):
            there = len(range(run.start, min(run.stop, n), run.step)) if run.step > 0 else len(range(run[-1], n, -run.step))
            there = min(there, len(run))
            first = 0 if run.step > 0 else len(run) - there
            places.append(slice(first, first + there))
            inside.append(run[first : first + there])
        if any(len(part) < len(run) for part, run in zip(inside, box, strict=True)):
            out.fill(0)
        if all(inside):
            self._part(self._source, inside, cached, out[tuple(places)])


def extents(run: range, chunk: int) -> Iterator[tuple[int, int, slice]]:
    """The parts of `run` that fall into one chunk each: chunk index, number of elements, slice inside the chunk."""
    position, step = 0, run.step
    while position < len(run):
        first = run[position]
        index = first // chunk
        start = index * chunk
        length = -(-(start + chunk - first) // step) if step > 0 else (first - start) // -step + 1
        length = min(length, len(run) - position)
        stop = first + (length - 1) * step - start + (1 if step > 0 else -1)
        yield index, length, slice(first - start, stop if stop >= 0 else None, step)
        position += length


def _slice(run: range) -> slice:
    """The slice that selects such indices."""
    # One that runs down to element 0 has no stop that could be written as a number.
    return slice(run.start, run.stop if run.stop >= 0 else None, run.step) if run else slice(0)


def _select(run: range, item: int | slice) -> range | int:
    try:
        return run[item]
    except IndexError:
        raise IndexError(f"index {item} is out of bounds for an axis of length {len(run)}") from None


def _integers_or_mask(item: Any) -> int | Array:
    """What is neither a slice nor a new axis: an integer, or an array of integers or booleans."""
    if not isinstance(item, (bool, np.bool_)):
        try:
            return operator.index(item)
        except TypeError:
            pass
    array = np.asarray(item)
    if not array.size and not isinstance(item, np.ndarray):
        array = array.astype(np.intp)
    if array.dtype.kind not in "iub":
        raise IndexError(
            f"integers, slices, '...', None, and arrays of integers or booleans can index a lazy array, {item!r} cannot"
        )
    return array


def _in_bounds(places: Array, n: int) -> Array:
    """Places along an axis, counted from its beginning."""
    if places.size and not (-n <= places.min() and places.max() < n):
        raise IndexError(f"indices from {places.min()} to {places.max()} are out of bounds for an axis of length {n}")
    return np.where(places < 0, places + n, places)
