"""LazyLevel: a lazy array over one stored dataset.

Why not h5py's own slicing: it decodes one chunk after the other under a global lock, forgets them, and a viewer that indexes in two
steps would read everything in the first. Here ``np.asarray(level[...])`` reads each chunk it needs once, decodes in threads, and
keeps decoded chunks in a cache bounded in bytes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from itertools import count, product
from typing import Any, TypeAlias, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from lsfm_core.arrays._cache import ChunkCache
from lsfm_core.arrays.chunks import ChunkCodec, Grid
from lsfm_core.arrays.lazy import Box, LazyArray, extents
from lsfm_core.errors import ChecksumError, InputError, MemoryBudgetError
from lsfm_core.hdf5_damage import reading
from lsfm_core.hdf5_filters import check_filters
from lsfm_core.progress import size_text
from lsfm_core.threads import share_out

__all__ = ["LazyLevel", "TableOf"]

Array = npt.NDArray[Any]
Result = TypeVar("Result")
#: Does work on a dataset, and gives what comes of it.
Access = Callable[[Callable[[h5py.Dataset], Any]], Any]
TableOf = Callable[[h5py.Dataset], npt.NDArray[np.uint32] | None]
#: Takes the dataset as it is then, and gives what opens the level anew in another process, to which it goes by pickle.
Reopen: TypeAlias = "Callable[[h5py.Dataset], Callable[[], LazyLevel]]"

#: Larger chunks count: they are decoded one at a time, and where nothing packs them they are read in pieces.
_LARGE_CHUNK_BYTES = 8 * 2**20
_PIECE = 64
#: The chunk's own bytes, shuffled and in order, and as they are stored, at worst.
_DECODE_COPIES = 3
_large_chunk = threading.Lock()
_STORE_NUMBERS = count()


class _Store:
    """One dataset with its codec and cache: what all views of it share."""

    def __init__(
        self,
        dataset: h5py.Dataset,
        dtype: np.dtype[Any],
        cache: ChunkCache,
        access: Access,
        table_of: TableOf | None,
        reopen: Reopen | None,
    ) -> None:
        self._access = access
        self.codec = ChunkCodec.of(dataset)
        self._table_of = table_of
        self.has_checksums: bool = dataset.fletcher32
        self.dtype = dtype
        self.cache = cache
        self._reopen = reopen
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

    def __reduce__(self) -> Any:
        if self._reopen is None:
            raise InputError(f"{self.name}: is open to be changed, and cannot be read by another process meanwhile")
        return _reopened, (self.access(self._reopen),)

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


class LazyLevel(LazyArray):
    """One stored level, or a view of it.

    Attributes
    ----------
    shape, ndim, size, dtype, nbytes
        As numpy's.
    chunks : tuple of int
        Extent of a chunk along each axis of this view, in zarr's form.
    """

    def __init__(self, store: _Store, max_read_bytes: int | None) -> None:
        super().__init__(
            store.shape, store.dtype, store.stored_chunks, name=store.name, max_read_bytes=max_read_bytes, pieces=store.chunks
        )
        self._store = store

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
        reopen: Reopen | None = None,
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
        reopen : callable, optional
            Takes the dataset, and gives what opens the level anew in another process, to which it goes by pickle; default: it goes
            to none.
        """
        access = access or (lambda work: work(dataset))
        return cls(_Store(dataset, np.dtype(dtype or dataset.dtype), cache, access, table_of, reopen), max_read_bytes)

    def _fill(self, box: Box, out: Array, cached: bool) -> None:
        store = self._store
        store.check_decodable()

        def copy(piece: tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]) -> None:
            index, target, source = piece
            # One after the other, to the end: two that are large would not fit beside each other.
            with _large_chunk if store.decode_bytes else nullcontext():
                out[target] = store.chunk(index, cached)[source]

        # What is decoded already is copied at once; a thread would take longer to hear of it.
        missing = []
        pieces = list(self._pieces(box))
        for piece in pieces:
            index, target, source = piece
            chunk = store.cached(index)
            if chunk is None:
                missing.append(piece)
            else:
                out[target] = chunk[source]
        ahead = store.cache.ahead
        if ahead and cached and not store.decode_bytes:
            ahead.follow(store, box, [index for index, _, _ in pieces], store.cache.max_bytes)
        if missing:
            with ahead.paused() if ahead else nullcontext():
                share_out(copy, missing)

    def touch(self) -> None:
        """Read every chunk of this view, and keep nothing.

        Raises
        ------
        LsfmError
            As `read`.
        """
        store = self._store
        store.check_decodable()
        for index, _, _ in self._pieces([pick if isinstance(pick, range) else range(pick, pick + 1) for pick in self._picked]):
            with _large_chunk if store.decode_bytes else nullcontext():
                store.chunk(index, False)

    def _pieces(self, box: Sequence[range]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]]:
        """For each chunk that is needed: its index, where its voxels go, and which of its voxels they are."""
        per_axis = []
        for run, chunk in zip(box, self._store.chunks, strict=True):
            done, hits = 0, []
            for index, length, inside in extents(run, chunk):
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


def _reopened(opens: Callable[[], LazyLevel]) -> _Store:
    return opens()._store
