"""Python objects in: arrays, lazy or not, and functions and iterators that give planes."""

from __future__ import annotations

import mmap
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError, LsfmError, SourceError
from lsfm_core.formats._source import Source, cuts
from lsfm_core.geometry import Shape3, Space, Triple, check_voxel_size
from lsfm_core.pyramid import Kind

__all__ = ["ArrayLike", "ArraySource", "PlaneFunction"]

#: Decoded planes that are kept of an array of chunks are cut to this, even if chunks must then be decoded more than once.
LAYER_BYTES = 128 * 2**20
#: Planes are asked for by several threads, in order: they need a layer of chunks and the following one.
_LAYERS = 2
#: Of a box so much is read at once, or one chunk: libraries decode all chunks of what they are asked for side by side.
_PIECE_BYTES = 4 * 2**20
#: Pages of a memory map that were read count as the process' memory, until so much has gathered.
_MAPPED_BYTES = 32 * 2**20


@runtime_checkable
class ArrayLike(Protocol):
    """What an array must have: numpy, dask, zarr, h5py, `LazyLevel` and others do."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, index: Any, /) -> Any: ...


class ArraySource(Source):
    """Planes of an array, which may be lazy.

    Of an array that stands in chunks, whole layers of chunks are read and kept, so that each chunk is decoded once and not for
    each of its planes.

    Parameters
    ----------
    array : array-like (planes, rows, columns), or (planes, rows, columns, values)
        Further axes may stand before. Of an image, a last axis of 3 or 4 values of type uint8 or uint16 are colours; other values
        have to be asked for as vectors (3 floats: RAS mm displacements) or components.
    name : str
        For messages.
    prefix : tuple of int
        Indices along the axes before.
    kind : {"image", "labels", "vectors", "components"}
    components_first : bool
        The components' axis stands before planes, rows and columns, not after them.
    voxel_size_mm, facts
        As in `Source`.

    Raises
    ------
    InputError
        If the array is of another shape or type.
    """

    def __init__(
        self,
        array: ArrayLike,
        *,
        name: str = "array",
        prefix: tuple[int, ...] = (),
        kind: Kind = "image",
        components_first: bool = False,
        voxel_size_mm: Triple | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        shape = tuple(int(n) for n in array.shape)[len(prefix) :]
        dtype = np.dtype(array.dtype)
        if components_first:
            shape = (*shape[1:], *shape[:1])
        several = len(shape) == 4 and (kind in ("vectors", "components") or _are_colours(shape[3], dtype))
        if (len(shape) != 3 and not several) or (kind == "vectors" and shape[3:] != (3,)) or 0 in shape:
            wanted = {"vectors": "planes, rows, columns, 3", "components": "planes, rows, columns, values"}
            advice = ": say kind components if the last axis are values of a voxel" if kind == "image" and len(shape) == 4 else ""
            raise InputError(f"{name}: has shape {shape}: expected {wanted.get(kind, 'planes, rows, columns')}{advice}")
        _check_dtype(name, dtype, kind == "vectors")
        self.name = name
        self.shape = (shape[0], shape[1], shape[2])
        self.components = shape[3] if several else 1
        self.dtype = dtype.newbyteorder("=")
        self.voxel_size_mm = voxel_size_mm
        self.facts = {"format": "array"} if facts is None else facts
        self._array = array
        self._prefix = prefix
        self._components_first = components_first
        plane = int(np.prod(shape[1:])) * dtype.itemsize
        chunks = [min(_chunk_size(array, len(prefix) + components_first + axis), n) for axis, n in enumerate(shape[:3])]
        self._unit = (chunks[0], chunks[1], chunks[2])
        self._height = max(1, min(chunks[0], LAYER_BYTES // plane))
        # Arrays in memory are read by all threads at once, others by one: what they are made of is not known.
        self._in_memory = isinstance(array, np.ndarray)
        self._mapping = _Mapping(array) if isinstance(array, np.memmap) else None
        self.box_bytes = 0 if self._mapping is None else _MAPPED_BYTES
        self.read_bytes = self.box_bytes if self._in_memory else _LAYERS * self._height * plane
        self._lock = threading.Lock()
        self._layers: OrderedDict[int, npt.NDArray[Any]] = OrderedDict()

    @property
    def unit(self) -> Shape3:
        return self._unit

    def read_plane(self, index: int, out: npt.NDArray[Any]) -> None:
        if self._in_memory:
            out[:] = self._taken((index,))
            self._let_go(out.nbytes)
            return
        layer, plane = divmod(index, self._height)
        with self._lock:
            out[:] = self._layer(layer)[plane]

    def read_box(self, start: Shape3, out: npt.NDArray[Any]) -> None:
        stops = [first + n for first, n in zip(start, out.shape, strict=False)]
        if self._in_memory:
            out[...] = self._taken(tuple(map(slice, start, stops)))
            self._let_go(out.nbytes)
            return
        planes, rows, columns = self._unit
        wide = max(1, _PIECE_BYTES // (planes * rows * columns * self.read_voxel_bytes))
        steps = (planes, rows, columns * wide)
        with self._lock:
            for box in product(*map(cuts, start, stops, steps)):
                place = tuple(slice(part.start - first, part.stop - first) for part, first in zip(box, start, strict=True))
                out[place] = self._read(box)

    def close(self) -> None:
        self._layers.clear()

    def _let_go(self, count: int) -> None:
        if self._mapping is not None:
            self._mapping.let_go(count)

    def _layer(self, layer: int) -> npt.NDArray[Any]:
        block = self._layers.get(layer)
        if block is None:
            while len(self._layers) >= _LAYERS:
                self._layers.popitem(last=False)
            start = layer * self._height
            stop = min(start + self._height, self.shape[0])
            block = self._layers[layer] = self._read((slice(start, stop),))
        return block

    def _read(self, box: tuple[slice, ...]) -> npt.NDArray[Any]:
        what = f"{self.name}: planes {box[0].start} to {box[0].stop - 1}"
        try:
            block = np.asarray(self._taken(box))
        except LsfmError:
            raise
        except Exception as error:  # arrays raise whatever they like on damaged data
            raise SourceError(f"{what} cannot be read: {type(error).__name__}: {error}") from error
        sizes = [part.stop - part.start for part in box]
        expected = (*sizes, *self.shape[len(box) :]) + ((self.components,) if self.components > 1 else ())
        return _check_block(what, block, expected, self.dtype)

    def _taken(self, box: tuple[int | slice, ...]) -> Any:
        """Some planes, or a box, with the components last."""
        if not self._components_first:
            return self._array[(*self._prefix, *box)]
        return np.moveaxis(np.asarray(self._array[(*self._prefix, slice(None), *box)]), 0, -1)


class _Mapping:
    """The mapped file of an array, whose pages are given back once they were read."""

    def __init__(self, array: Any) -> None:
        base = array
        while base is not None and not isinstance(base, mmap.mmap):
            base = getattr(base, "base", None)
        # What was changed in a private copy would be lost.
        can = hasattr(mmap, "MADV_DONTNEED") and getattr(array, "mode", "c") != "c"
        self._map = base if can else None
        self._lock = threading.Lock()
        self._read = 0

    def let_go(self, count: int) -> None:
        """Take note that so many bytes were read."""
        with self._lock:
            self._read += count
            if self._map is not None and self._read >= _MAPPED_BYTES:
                self._map.madvise(mmap.MADV_DONTNEED)
                self._read = 0


class PlaneFunction(Source):
    """Planes that are made one after the other, by a function or an iterator.

    Parameters
    ----------
    shape : tuple of 3 int
        Planes, rows, columns.
    dtype : data type
    function : callable or iterable
        ``function(index)`` gives plane `index`; it is called from one thread, once for each plane, in order. An iterable gives
        them in that order.
    components : int
        Where there are several, planes have the shape (rows, columns, components). 3 floats may be RAS mm displacements.
    voxel_size_mm : tuple of 3 float, optional
        Planes, rows, columns.
    space : Space, optional
    name : str
        For messages.

    Raises
    ------
    InputError
        If shape or type cannot be used.
    """

    forward_only = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: npt.DTypeLike,
        function: Callable[[int], npt.ArrayLike] | Iterable[npt.ArrayLike],
        *,
        components: int = 1,
        voxel_size_mm: Triple | None = None,
        space: Space | None = None,
        name: str = "planes",
    ) -> None:
        sizes = tuple(int(n) for n in shape)
        if len(sizes) != 3 or min(sizes) < 1:
            raise InputError(f"{name}: has shape {shape}: expected planes, rows, columns")
        if components < 1:
            raise InputError(f"{name}: has {components} components: expected 1 or more")
        self.dtype = np.dtype(dtype).newbyteorder("=")
        _check_dtype(name, self.dtype, False)
        self.name = name
        self.shape = (sizes[0], sizes[1], sizes[2])
        self.components = components
        self.space = space
        self.voxel_size_mm = space.voxel_size_mm if space else check_voxel_size(voxel_size_mm) if voxel_size_mm else None
        self.facts = {"format": "planes"}
        self._function = function if callable(function) else None
        self._planes = None if callable(function) else iter(function)
        self._next = 0

    def read_plane(self, index: int, out: npt.NDArray[Any]) -> None:
        what = f"{self.name}: plane {index}"
        if index < self._next:
            raise SourceError(f"{what} was asked for after plane {self._next - 1}: planes are made once, in order")
        try:
            if self._planes is None:
                plane = self._function(index) if self._function else None
            else:
                for _ in range(index - self._next):
                    next(self._planes)
                plane = next(self._planes)
        except LsfmError:
            raise
        except StopIteration as error:
            raise SourceError(f"{what} is missing: the iterator ended before {self.shape[0]} planes") from error
        except Exception as error:  # a user's own code
            raise SourceError(f"{what} could not be made: {type(error).__name__}: {error}") from error
        self._next = index + 1
        out[:] = _check_block(what, np.asarray(plane), out.shape, self.dtype)


def _are_colours(components: int, dtype: np.dtype[Any]) -> bool:
    return components in (3, 4) and dtype.name in ("uint8", "uint16")


def _check_dtype(name: str, dtype: np.dtype[Any], vectors: bool) -> None:
    if dtype.kind not in ("f" if vectors else "uifb") or dtype.itemsize > 8:
        wanted = "floats" if vectors else "integers and floats"
        raise InputError(f"{name}: has values of type {dtype}: only {wanted} of up to 64 bits can be used")


def _check_block(what: str, block: npt.NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if block.shape != shape or not np.can_cast(block.dtype, dtype, "safe"):
        raise SourceError(f"{what}: expected an array of shape {shape} and type {dtype}, found {block.shape} and {block.dtype}")
    return block


def _chunk_size(array: ArrayLike, axis: int) -> int:
    """What a chunk measures along an axis; 1 where there are no chunks."""
    chunks = getattr(array, "chunks", None)
    try:
        # dask lists the sizes of all chunks along an axis.
        return max(1, int(np.max(chunks[axis]))) if chunks is not None else 1
    except (TypeError, IndexError, ValueError):
        return 1
