"""The chunk codec: what HDF5's shuffle, deflate and fletcher32 filters do, done outside HDF5's global lock.

Encoded chunks go into the file with ``write_direct_chunk`` and come out with ``read_direct_chunk``; any HDF5 program reads them
through its own filters. Deflate is ISA-L's [1]_: ten times faster than zlib at the same size. Shuffle puts the first bytes of all
elements before the second bytes, and so on [2]_.

.. [1] https://github.com/intel/isa-l
.. [2] https://support.hdfgroup.org/documentation/hdf5/latest/_h5_d__u_g.html (filters)
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import h5py
import imagecodecs
import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from lsfm_core.errors import ChecksumError

__all__ = [
    "DEFAULT_LEVEL",
    "ChunkCodec",
    "Grid",
    "bits_dtype",
    "check_identity",
    "checksum_of",
]

Array = npt.NDArray[Any]

_CHECKSUM_BYTES = 4
#: ISA-L's own levels are 0 to 3; HDF5 programs show this number as the gzip level.
DEFAULT_LEVEL = 1
#: What a thread keeps for each use of `_Scratch`, at most.
_SCRATCH_BYTES = 2 * 2**20


class _Scratch(threading.local):
    """Memory that a thread uses for one chunk after the other: to touch fresh memory takes longer than the checksum."""

    def __init__(self) -> None:
        self.kept: dict[str, memoryview] = {}

    def take(self, use: str, nbytes: int) -> memoryview:
        """Bytes that are good until this thread takes some for the same use again."""
        if nbytes > _SCRATCH_BYTES:
            return np.empty(nbytes, np.uint8).data
        if use not in self.kept:
            self.kept[use] = np.empty(_SCRATCH_BYTES, np.uint8).data  # resident only as far as it is written to
        return self.kept[use][:nbytes]


_scratch = _Scratch()


@dataclass(frozen=True)
class ChunkCodec:
    """Encodes and decodes the chunks of one dataset.

    Attributes
    ----------
    dtype : numpy.dtype
    chunks : tuple of int
        Shape of a chunk, in array order.
    filters : tuple of int
        HDF5 filter ids in the order in which they are applied when writing: shuffle, deflate, fletcher32, or some of these.
    """

    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    filters: tuple[int, ...] = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32)
    level: int = DEFAULT_LEVEL

    @classmethod
    def of(cls, dataset: h5py.Dataset, *, bits: bool = False) -> ChunkCodec | None:
        """Codec of an existing dataset, or None where only HDF5 itself can decode it (or it has no chunks of its own).

        Parameters
        ----------
        dataset : h5py.Dataset
        bits : bool
            Elements go in and come out as they are stored, without a meaning: so any type of fixed size will do, in any byte order.
        """
        if dataset.chunks is None or dataset.is_virtual or not (bits or dataset.dtype.isnative):
            return None
        plist = dataset.id.get_create_plist()
        filters = tuple(plist.get_filter(index)[0] for index in range(plist.get_nfilters()))
        known = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32)
        if filters != tuple(code for code in known if code in filters):  # or they stand in another order
            return None
        return cls(bits_dtype(dataset.id.get_type()) if bits else dataset.dtype, dataset.chunks, filters)

    def encode(self, block: Array) -> bytes:
        """Bytes of one chunk; a `block` smaller than the chunk (at the image's far edges) is padded with zeros.

        A block of another type of the same size is stored bit by bit (uint16 as int16).
        """
        return self.pack(self.octets(block, scratch=True))

    def octets(self, block: Array, *, scratch: bool = False) -> Array:
        """Bytes of one chunk before they are packed: padded, and shuffled where the dataset is.

        With `scratch`, they are good until this thread asks for the next.
        """
        block = block.view(self.dtype)
        if block.shape != self.chunks:
            full = np.zeros(self.chunks, self.dtype)
            full[tuple(slice(n) for n in block.shape)] = block
            block = full
        if not self.shuffles or self.dtype.itemsize == 1:
            return np.ascontiguousarray(block).view(np.uint8).reshape(-1)
        room = np.frombuffer(_scratch.take("octets", block.nbytes), np.uint8) if scratch else np.empty(block.nbytes, np.uint8)
        _shuffle(block, room.reshape(self.dtype.itemsize, *block.shape))
        return room

    def pack(self, octets: Array) -> bytes:
        """Deflate, and add the checksum, where the dataset has them."""
        deflates = h5py.h5z.FILTER_DEFLATE in self.filters
        data: bytes = isal_zlib.compress(octets, self.level) if deflates else octets.tobytes()
        if h5py.h5z.FILTER_FLETCHER32 in self.filters:
            data += imagecodecs.h5checksum_fletcher32(data).to_bytes(_CHECKSUM_BYTES, "little")
        return data

    def unpack(self, data: bytes | memoryview, filter_mask: int = 0, *, scratch: bool = False) -> tuple[Array, bool]:
        """Bytes of one chunk as `octets` gives them, from those that are stored; and whether they are shuffled.

        With `scratch`, they are good until this thread unpacks the next.

        Raises
        ------
        ChecksumError
        """
        raw: Any = data
        shuffled = False
        for index in reversed(range(len(self.filters))):
            if filter_mask >> index & 1:
                continue
            code = self.filters[index]
            if code == h5py.h5z.FILTER_FLETCHER32:
                raw = _checked(raw)
            elif code == h5py.h5z.FILTER_DEFLATE:
                raw = self._inflate(raw, scratch)
            else:
                shuffled = True
        flat = np.frombuffer(raw, np.uint8)
        if flat.size != self.nbytes:
            raise ChecksumError(f"a chunk holds {flat.size} bytes instead of {self.nbytes}: the file is damaged")
        return flat, shuffled

    def read(self, dataset: h5py.Dataset, offset: tuple[int, ...], expected: int | None = None) -> Array | None:
        """Array of the chunk that begins at `offset`, or None if it was never written.

        Parameters
        ----------
        dataset : h5py.Dataset
        offset : tuple of int
        expected : int, optional
            The checksum by which the chunk that belongs there is known.

        Raises
        ------
        ChecksumError
            As `decode`; or if it is not the chunk that is expected.
        """
        info = dataset.id.get_chunk_info_by_coord(offset)
        if info.byte_offset is None:
            if expected is not None:
                raise ChecksumError("a chunk is missing: the file is damaged")
            return None
        filter_mask, data = dataset.id.read_direct_chunk(offset, out=_scratch.take("stored", info.size))
        if expected is not None:
            check_identity(data, filter_mask, expected)
        return self.decode(data, filter_mask)

    def decode(self, data: bytes | memoryview, filter_mask: int = 0) -> Array:
        """Array of one chunk, in memory of its own, from the bytes that are stored.

        Parameters
        ----------
        data : bytes or memoryview
        filter_mask : int
            Bit i set: filter i of the pipeline was not applied to this chunk.

        Raises
        ------
        ChecksumError
            If the stored checksum does not match, or the bytes cannot be inflated.
        """
        flat, shuffled = self.unpack(memoryview(data), filter_mask, scratch=True)
        return (_unshuffle(flat, self.dtype) if shuffled else flat.view(self.dtype).copy()).reshape(self.chunks)

    def check(self, data: bytes, filter_mask: int = 0) -> None:
        """Find out whether a chunk is whole: by its checksum alone where it has one, else by decoding it.

        Raises
        ------
        ChecksumError
        """
        last = len(self.filters) - 1
        if last >= 0 and self.filters[last] == h5py.h5z.FILTER_FLETCHER32 and not filter_mask >> last & 1:
            _checked(data)
        else:
            self.decode(data, filter_mask)

    @property
    def shuffles(self) -> bool:
        """Whether the dataset is shuffled."""
        return h5py.h5z.FILTER_SHUFFLE in self.filters

    @property
    def nbytes(self) -> int:
        """Size of a decoded chunk."""
        return int(np.prod(self.chunks)) * self.dtype.itemsize

    def _inflate(self, data: Any, scratch: bool) -> Any:
        try:
            return imagecodecs.deflate_decode(data, out=_scratch.take("inflated", self.nbytes) if scratch else self.nbytes)
        except imagecodecs.DeflateError as error:
            raise ChecksumError(f"a chunk cannot be inflated: the file is damaged ({error})") from error


@dataclass(frozen=True)
class Grid:
    """The chunks of a dataset, numbered in array order.

    Attributes
    ----------
    shape, chunks : tuple of int
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """How many chunks there are along each axis."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))

    def number(self, index: Sequence[int]) -> int:
        """Number of the chunk of a chunk index."""
        number = 0
        for place, count in zip(index, self.counts, strict=True):
            number = number * count + place
        return number

    def box(self, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First element of a chunk, and the one past its last; the last chunks of an axis end with the dataset."""
        start = []
        for chunk, count in zip(reversed(self.chunks), reversed(self.counts), strict=True):
            number, place = divmod(number, count)
            start.append(place * chunk)
        start.reverse()
        return tuple(start), tuple(min(a + c, n) for a, c, n in zip(start, self.chunks, self.shape, strict=True))

    def meeting(self, start: Sequence[int], stop: Sequence[int]) -> Iterator[int]:
        """Numbers of the chunks that have a part in a box."""
        ranges = [range(a // c, -(-b // c)) for a, b, c in zip(start, stop, self.chunks, strict=True)]
        return map(self.number, product(*ranges))

    def written(self, dataset: h5py.Dataset) -> npt.NDArray[np.int64]:
        """Numbers of the dataset's chunks that were ever written, ascending."""
        numbers = array("q")
        dataset.id.chunk_iter(
            lambda chunk: numbers.append(self.number([o // c for o, c in zip(chunk.chunk_offset, self.chunks, strict=True)]))
        )
        return np.sort(np.frombuffer(numbers, np.int64)) if numbers else np.empty(0, np.int64)


def bits_dtype(kind: h5py.h5t.TypeID) -> np.dtype[Any]:
    """The type of numpy's that has the size of an HDF5 type, and no meaning."""
    return np.dtype((np.void, kind.get_size()))


def checksum_of(data: bytes | memoryview) -> int:
    """The checksum at the end of a stored chunk, by which it is known."""
    return int.from_bytes(data[-_CHECKSUM_BYTES:], "little")


def check_identity(data: bytes | memoryview, filter_mask: int, expected: int) -> None:
    """Refuse a stored chunk that is another than the one that was written at its place.

    Raises
    ------
    ChecksumError
    """
    if filter_mask or checksum_of(data) != expected:
        raise ChecksumError("a chunk is not the one that was written here: the file is damaged")


def _checked(data: bytes) -> bytes:
    """Bytes without the checksum at their end, if it is right."""
    raw, stored = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if imagecodecs.h5checksum_fletcher32(raw).to_bytes(_CHECKSUM_BYTES, "little") != stored:
        raise ChecksumError("a chunk does not match its checksum: the file is damaged")
    return raw


def _shuffle(block: Array, out: Array) -> None:
    """Put the first bytes of all elements before the second ones, and so on: (size, a, b, c)."""
    size = block.dtype.itemsize
    if size == 2:
        # Casts and shifts run in vector registers: three times faster than strided copies.
        words = block.view(np.uint16)
        np.copyto(out[0], words, casting="unsafe")
        np.right_shift(words, 8, out=out[1], casting="unsafe")
        return
    if block.strides[-1] != size:
        block = np.ascontiguousarray(block)
    octets = block.view(np.uint8)
    for index in range(size):
        out[index] = octets[..., index::size]


def _unshuffle(flat: Array, dtype: np.dtype[Any]) -> Array:
    size = dtype.itemsize
    if size == 1:
        return flat.view(dtype).copy()
    planes = flat.reshape(size, -1)
    if size == 2 and planes.flags.writeable and "lsfm_core.kernels._compiled" in sys.modules:
        # Where loops are loaded already: once through memory.
        from lsfm_core.kernels.blocks import join_octets

        joined = np.empty(planes.shape[1], np.uint16)
        join_octets(joined, planes)
        return joined.view(dtype)
    if size == 2:
        # One multiplication widens and shifts at once.
        words: Array = np.multiply(planes[1], 256, dtype=np.uint16)
        words |= planes[0]
        return words.view(dtype)
    out = np.empty((planes.shape[1], size), np.uint8)
    for index in range(size):
        out[:, index] = planes[index]
    return out.reshape(-1).view(dtype)
