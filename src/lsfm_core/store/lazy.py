"""LazyLevel: a read-only array over one stored level that composes indices and reads only when asked.

Why not h5py's own slicing: it decodes one chunk after the other under a global lock, forgets them, and a viewer that indexes in two
steps would read everything in the first. Here ``level[...]`` is free, ``np.asarray(level[...])`` reads each chunk it needs once,
decodes in threads, and keeps decoded chunks in a cache bounded in bytes.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from itertools import count, product
from typing import Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from lsfm_core.errors import ChecksumError, MemoryBudgetError
from lsfm_core.hdf5_filters import check_filters
from lsfm_core.progress import size_text
from lsfm_core.store._ahead import ReadAhead
from lsfm_core.store._broken import reading
from lsfm_core.store._chunks import ChunkCodec, Grid, share_out

__all__ = ["ChunkCache", "LazyLevel", "TableOf"]

Array = npt.NDArray[Any]
Index = int | slice | Any
Result = TypeVar("Result")
#: Does work on a dataset, and gives what comes of it.
Access = Callable[[Callable[[h5py.Dataset], Any]], Any]
TableOf = Callable[[h5py.Dataset], npt.NDArray[np.uint32] | None]

#: Decoded chunks that one file keeps unless its opener says otherwise.
DEFAULT_CACHE_BYTES = 256 * 2**20
#: What one chunk may take while it is decoded, unless a budget says otherwise; as the commands' own default.
DEFAULT_DECODE_BYTES = 2 * 10**9
#: Larger chunks count: they are decoded one at a time, and where nothing packs them they are read in pieces.
_LARGE_CHUNK_BYTES = 8 * 2**20
_PIECE = 64
#: The chunk's own bytes, shuffled and in order, and as they are stored, at worst.
_DECODE_COPIES = 3
_large_chunk = threading.Lock()
_STORE_NUMBERS = count()


class ChunkCache:
    """Decoded chunks, least recently used first out, bounded in bytes; safe to share between files and threads.

    Parameters
    ----------
    max_bytes : int
    reads_ahead : bool
        For who looks at planes: while one is stepped through after the other, the next ones' chunks are decoded in the background.
    """

    def __init__(self, max_bytes: int = DEFAULT_CACHE_BYTES, *, reads_ahead: bool = False) -> None:
        self.max_bytes = max_bytes
        #: What a single chunk may take while it is decoded: one that needs more is not read.
        self.decode_bytes = DEFAULT_DECODE_BYTES
        #: Who fills it in the background.
        self.ahead = ReadAhead() if reads_ahead else None
        self._bytes = 0
        self._chunks: OrderedDict[tuple[Any, ...], Array] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...]) -> Array | None:
        """The chunk, or None if it is not here."""
        with self._lock:
            chunk = self._chunks.get(key)
            if chunk is not None:
                self._chunks.move_to_end(key)
            return chunk

    def put(self, key: tuple[Any, ...], chunk: Array) -> None:
        """Keep a chunk, dropping the ones unused for longest."""
        if chunk.nbytes > self.max_bytes:
            return
        with self._lock:
            if key not in self._chunks:
                self._bytes += chunk.nbytes
            self._chunks[key] = chunk
            self._shrink()

    @contextmanager
    def limited(self, max_bytes: int, decode_bytes: int | None = None) -> Iterator[None]:
        """Hold at most so many bytes within the block, and let a single chunk take no more than `decode_bytes` to be decoded."""
        before, self.max_bytes = self.max_bytes, max_bytes
        decoding, self.decode_bytes = self.decode_bytes, self.decode_bytes if decode_bytes is None else decode_bytes
        with self._lock:
            self._shrink()
        try:
            yield
        finally:
            self.max_bytes, self.decode_bytes = before, decoding

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def _shrink(self) -> None:
        while self._bytes > self.max_bytes:
            _, dropped = self._chunks.popitem(last=False)
            self._bytes -= dropped.nbytes


class _Store:
    """One dataset with its codec and cache: what all views of it share."""

    def __init__(
        self,
        dataset: h5py.Dataset,
        dtype: np.dtype[Any],
        cache: ChunkCache,
        max_read_bytes: int | None,
        access: Access,
        table_of: TableOf | None,
    ) -> None:
        self._access = access
        self.codec = ChunkCodec.of(dataset)
        self._table_of = table_of
        self.has_checksums: bool = dataset.fletcher32
        self.dtype = dtype
        self.cache = cache
        self.max_read_bytes = max_read_bytes
        self.fill = np.asarray(dataset.fillvalue, dataset.dtype)
        self.shape: tuple[int, ...] = dataset.shape
        # What is read at once: a chunk, or one piece per block of this shape.
        self.chunks: tuple[int, ...] = dataset.chunks or _pieces_of(dataset.shape)
        self.stored_chunks = self.chunks
        chunk_bytes = math.prod(self.chunks) * dataset.dtype.itemsize
        #: What it takes to decode a chunk, where that matters.
        self.decode_bytes = 0
        if dataset.chunks is not None and not dataset.is_virtual and chunk_bytes > _LARGE_CHUNK_BYTES:
            if dataset.id.get_create_plist().get_nfilters() == 0:
                self.codec, self.chunks = None, _pieces_of(dataset.chunks)
            else:
                self.decode_bytes = _DECODE_COPIES * chunk_bytes
        self.name = f"{dataset.file.filename}:{dataset.name}"
        # Not id(): Python gives it to the next object, and a shared cache would show one file's chunks in another.
        self._key = (next(_STORE_NUMBERS),)

    def access(self, work: Callable[[h5py.Dataset], Result]) -> Result:
        """Do work on the dataset."""
        with reading(self.name, "its voxels cannot be read"):
            result: Result = self._access(work)
            return result

    @cached_property
    def table(self) -> npt.NDArray[np.uint32] | None:
        """What each chunk is known by, where that was kept."""
        return None if self._table_of is None else self.access(self._table_of)

    def cached(self, index: tuple[int, ...]) -> Array | None:
        """Decoded chunk of a chunk index, if the cache has it."""
        return self.cache.get((*self._key, *index))

    def chunk(self, index: tuple[int, ...], keep: bool) -> Array:
        """Decoded chunk of a chunk index; full size for our own codec, cut at the image's edge for HDF5's."""
        # Another thread may have decoded it since it was missed.
        chunk = self.cached(index)
        if chunk is not None:
            return chunk
        chunk = self._read(index)
        if keep:
            self.cache.put((*self._key, *index), chunk)
        return chunk

    def _read(self, index: tuple[int, ...]) -> Array:
        offset = tuple(i * c for i, c in zip(index, self.chunks, strict=True))
        if self.codec is None:
            box = tuple(slice(o, min(o + c, n)) for o, c, n in zip(offset, self.chunks, self.shape, strict=True))
            return self._present(self.access(lambda dataset: _read_box(dataset, box, self.name)))
        codec, table = self.codec, self.table
        expected = None if table is None else int(table[index])
        try:
            chunk = self.access(lambda dataset: codec.read(dataset, offset, expected))
        except ChecksumError as error:
            raise ChecksumError(f"{self.name}, voxels from {offset}: {error}") from error
        if chunk is None:
            chunk = np.full(self.chunks, self.fill)
        return self._present(chunk)

    def check_decodable(self) -> None:
        """Refuse to read what would take more memory than there may be.

        Raises
        ------
        MemoryBudgetError
            That names the chunk, and what it needs.
        """
        if self.decode_bytes > self.cache.decode_bytes:
            path, _, _ = self.name.rpartition(":")
            chunk = " x ".join(map(str, self.chunks))
            raise MemoryBudgetError(
                f"{self.name}: its chunks of {chunk} voxels can only be decoded as a whole, which needs "
                f"{size_text(self.decode_bytes)} of memory, and {size_text(max(0, self.cache.decode_bytes))} may be taken for it "
                f"here: give more (--memory), or make the chunks smaller ('lsfm-core repack {path} --rechunk 64,128,128')"
            )

    def _present(self, chunk: Array) -> Array:
        return chunk if chunk.dtype == self.dtype else chunk.view(self.dtype)


def _pieces_of(shape: Sequence[int]) -> tuple[int, ...]:
    """How much is read at once of what can be read in pieces."""
    return tuple(min(n, _PIECE) for n in shape)


def _read_box(dataset: h5py.Dataset, box: tuple[slice, ...], name: str) -> Array:
    try:
        return np.asarray(dataset[box])
    except OSError:
        # It would name a filter that it lacks by its number at best.
        check_filters(dataset, name)
        raise


class LazyLevel:
    """A view of one level. Indexing with integers, slices (any step) and ``...`` gives another view; ``np.asarray`` reads it.

    Attributes
    ----------
    shape, ndim, size, dtype, nbytes
        As numpy's.
    chunks : tuple of int
        Extent of a chunk along each axis of this view, in zarr's form.
    """

    def __init__(self, store: _Store, axes: tuple[range | int, ...]) -> None:
        self._store = store
        # One entry per stored axis: the indices that are selected, or a single one whose axis is dropped. Python's range
        # composes slices exactly as numpy does.
        self._axes = axes
        self._shape = tuple(len(axis) for axis in axes if isinstance(axis, range))

    @classmethod
    def of(
        cls,
        dataset: h5py.Dataset,
        *,
        cache: ChunkCache,
        dtype: npt.DTypeLike | None = None,
        max_read_bytes: int | None = None,
        access: Access | None = None,
        table_of: TableOf | None = None,
    ) -> LazyLevel:
        """View of a whole dataset.

        Parameters
        ----------
        dataset : h5py.Dataset
        cache : ChunkCache
        dtype : dtype, optional
            How the stored bits are to be understood, if not as they say themselves (BigDataViewer keeps uint16 as int16).
        max_read_bytes : int, optional
            Refuse to read more than this at once.
        access : callable, optional
            Given work, does it on the dataset as it is then; default: on `dataset`.
        table_of : callable, optional
            Takes the dataset and gives the checksum that the stored chunk at each place ends with, or None.
        """
        access = access or (lambda work: work(dataset))
        store = _Store(dataset, np.dtype(dtype or dataset.dtype), cache, max_read_bytes, access, table_of)
        return cls(store, tuple(range(n) for n in dataset.shape))

    def padded(self, shape: tuple[int, ...]) -> LazyLevel:
        """This level as if it were larger (or smaller) at its far edges; what is not stored reads as zero."""
        return LazyLevel(self._store, tuple(range(n) for n in shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis of this view."""
        return self._shape

    @property
    def ndim(self) -> int:
        """Number of axes of this view."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for n in self.shape:
            count *= n
        return count

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""
        return self._store.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that reading this view gives."""
        return self.size * self.dtype.itemsize

    @property
    def chunks(self) -> tuple[int, ...]:
        """Extent of a chunk along each axis of this view."""
        return tuple(
            max(1, chunk // abs(axis.step))
            for axis, chunk in zip(self._axes, self._store.stored_chunks, strict=True)
            if isinstance(axis, range)
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyLevel:
        # Nothing of a view can be changed, and its voxels are the file's: a copy could not differ from it.
        return self

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a view without axes")
        return self.shape[0]

    def __getitem__(self, index: Index | tuple[Index, ...]) -> LazyLevel:
        items = list(index) if isinstance(index, tuple) else [index]
        ellipses = [place for place, item in enumerate(items) if item is Ellipsis]
        if len(ellipses) > 1:
            raise IndexError("an index can have only one ellipsis ('...')")
        given = len(items) - len(ellipses)
        if given > self.ndim:
            raise IndexError(f"too many indices: the view has {self.ndim} axes, {given} were indexed")
        place = ellipses[0] if ellipses else given
        items[place : place + 1] = [slice(None)] * (self.ndim - given)
        remaining = iter(items)
        axes = tuple(_select(axis, next(remaining)) if isinstance(axis, range) else axis for axis in self._axes)
        return LazyLevel(self._store, axes)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a stored level cannot be given without a copy: it is read from the file")
        limit = self._store.max_read_bytes
        if limit is not None and self.nbytes > limit:
            raise MemoryBudgetError(
                f"{self._store.name}: reading {self.shape} at once would take {self.nbytes / 2**20:.0f} MiB, more than the limit "
                f"of {limit / 2**20:.0f} MiB: take a coarser level, a smaller box, or to_dask()"
            )
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
        store = self._store
        store.check_decodable()
        steps = [axis if isinstance(axis, range) else range(axis, axis + 1) for axis in self._axes]
        whole = all(
            axis.step > 0 and len(axis) and axis[-1] < n for axis, n in zip(steps, store.shape, strict=True)
        )  # every element is stored, so nothing needs a fill value
        if out is None:
            out = np.empty(self.shape, store.dtype)
        if not whole:
            out.fill(0)
        # With the axes that this view has dropped.
        full = out[tuple(slice(None) if isinstance(axis, range) else None for axis in self._axes)]

        def copy(piece: tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]) -> None:
            index, target, source = piece
            # One after the other, to the end: two that are large would not fit beside each other.
            with _large_chunk if store.decode_bytes else nullcontext():
                full[target] = store.chunk(index, cached)[source]

        # What is decoded already is copied at once; a thread would take longer to hear of it.
        missing = []
        pieces = list(self._pieces(steps))
        for piece in pieces:
            index, target, source = piece
            chunk = store.cached(index)
            if chunk is None:
                missing.append(piece)
            else:
                full[target] = chunk[source]
        ahead = store.cache.ahead
        if ahead and cached and not store.decode_bytes:
            ahead.follow(store, steps, [index for index, _, _ in pieces], store.cache.max_bytes)
        if missing:
            with ahead.paused() if ahead else nullcontext():
                share_out(copy, missing)
        return out

    def touch(self) -> None:
        """Read every chunk of this view, and keep nothing.

        Raises
        ------
        LsfmError
            As `read`.
        """
        store = self._store
        store.check_decodable()
        steps = [axis if isinstance(axis, range) else range(axis, axis + 1) for axis in self._axes]
        for index, _, _ in self._pieces(steps):
            with _large_chunk if store.decode_bytes else nullcontext():
                store.chunk(index, False)

    def _pieces(self, steps: list[range]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]]:
        """For each chunk that is needed: its index, where its voxels go, and which of its voxels they are."""
        per_axis = []
        for axis, chunk, size in zip(steps, self._store.chunks, self._store.shape, strict=True):
            # A padded view begins, or ends, with indices that are not stored.
            done, stored = 0, axis
            if axis.step < 0:
                done = min(len(axis), max(0, -(-(axis.start - size + 1) // -axis.step)))
                stored = axis[done:]
            elif axis.stop > size:
                stored = axis[: len(range(axis.start, size, axis.step))]
            hits = []
            for index, length, inside in _extents(stored, chunk):
                hits.append((index, slice(done, done + length), inside))
                done += length
            per_axis.append(hits)
        for combination in product(*per_axis):
            index, target, source = zip(*combination, strict=True)
            yield index, target, source

    @property
    def decode_bytes(self) -> int:
        """Memory that decoding a single chunk takes, where chunks are so large that it matters; else 0."""
        return self._store.decode_bytes

    def check_decodable(self) -> None:
        """Refuse what would take more memory than there may be, before anything is read.

        Raises
        ------
        MemoryBudgetError
            That names the chunk, and what it needs.
        """
        self._store.check_decodable()

    @property
    def stored_bytes(self) -> int:
        """Size of the whole level in the file, compressed; asks about every chunk."""
        return int(self._store.access(lambda dataset: dataset.id.get_storage_size()))

    @property
    def has_checksums(self) -> bool:
        """Whether the chunks of the level carry a checksum each."""
        return self._store.has_checksums

    def written_chunks(self) -> npt.NDArray[np.int64] | None:
        """Numbers, in array order, of the chunks of the whole level that were ever written; the others read as the fill value.

        None where the level has no chunks of its own; walks the whole index.
        """

        def ask(dataset: h5py.Dataset) -> npt.NDArray[np.int64] | None:
            return None if dataset.chunks is None or dataset.is_virtual else Grid(dataset.shape, dataset.chunks).written(dataset)

        return self._store.access(ask)

    def to_dask(self) -> Any:
        """This view as a dask array with one block per chunk (needs dask)."""
        import dask.array

        extents = tuple(
            tuple(length for _, length, _ in _extents(axis, chunk)) or (0,)
            for axis, chunk in zip(self._axes, self._store.chunks, strict=True)
            if isinstance(axis, range)
        )
        return dask.array.from_array(self, chunks=extents, name=False, asarray=True)

    def __repr__(self) -> str:
        return f"<LazyLevel {self._store.name} shape={self.shape} dtype={self.dtype}>"


def _select(axis: range, item: Index) -> range | int:
    if isinstance(item, slice):
        return axis[item]
    try:
        return axis[item.__index__()]
    except AttributeError:
        raise IndexError(f"only integers, slices and '...' can index a stored level, not {item!r}") from None
    except IndexError:
        raise IndexError(f"index {item} is out of bounds for an axis of length {len(axis)}") from None


def _extents(axis: range, chunk: int) -> Iterator[tuple[int, int, slice]]:
    """Runs of `axis` that fall into one chunk: chunk index, number of elements, slice inside the chunk."""
    position, step = 0, axis.step
    while position < len(axis):
        first = axis[position]
        index = first // chunk
        start = index * chunk
        length = -(-(start + chunk - first) // step) if step > 0 else (first - start) // -step + 1
        length = min(length, len(axis) - position)
        stop = first + (length - 1) * step - start + (1 if step > 0 else -1)
        # A slice that runs down to element 0 has no stop that could be written as a number.
        yield index, length, slice(first - start, stop if stop >= 0 else None, step)
        position += length
