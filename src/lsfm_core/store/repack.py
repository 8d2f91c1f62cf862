"""Repack: a file made anew, without the space of what was removed, and with other chunks or another compression if wanted.

Chunks that stay as they are stored are carried over without being decoded. The new file takes the old one's place, or appears, only
when everything has been read back from it and compared.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from pydantic import Field, PositiveInt

from lsfm_core import durable
from lsfm_core._request import Request
from lsfm_core.arrays import ChunkCache
from lsfm_core.arrays.chunks import DEFAULT_LEVEL, ChunkCodec, Grid, bits_dtype, check_identity, checksum_of
from lsfm_core.errors import ChecksumError, ExistsError, FormatError, LsfmError, MemoryBudgetError, StorageError
from lsfm_core.geometry import voxel_count
from lsfm_core.hdf5_damage import changing
from lsfm_core.hdf5_links import inside
from lsfm_core.progress import CancelToken, Progress, ProgressCallback, size_text
from lsfm_core.provenance import recorded
from lsfm_core.store import _digest, _paths
from lsfm_core.store._checks import check_stem
from lsfm_core.store._settings import render_settings, settings_path, write_settings
from lsfm_core.store._tree import TreeCopy, address, difference, has_pointers, nodes_of, read_box
from lsfm_core.store._xml import read_xml, renamed_xml
from lsfm_core.store.edit import LIBVER
from lsfm_core.store.file import LsfmFile
from lsfm_core.store.opening import open_lsfm, target_path
from lsfm_core.store.verify import box_text, structure_defects
from lsfm_core.threads import default_threads

__all__ = ["RepackReport", "RepackRequest", "plan_repack", "repack_file"]

Array = npt.NDArray[Any]
T = TypeVar("T")

#: Smaller chunks go through the threads together, until they have this size.
_BATCH_BYTES = 2**20
#: The interpreter, numpy, HDF5 and the decoders, before any chunk.
_BASE_BYTES = 80 * 2**20
#: A chunk as it is stored, decoded, shuffled, and encoded; and one that is only decoded, or carried over as it is stored.
_COPIES_OF_A_CHUNK, _COPIES_OF_A_DECODED = 4, 3
#: Larger chunks are decoded one at a time.
_LARGE_CHUNK_BYTES = 8 * 2**20
#: What a copy is made without: the remains of a killed write, and digests, which are made anew.
_LEFT_OUT = (_paths.INCOMPLETE, _paths.DIGESTS)
#: Side of the chunks that voxels get which are to be compressed and have none.
_SIDE = 64
#: Room for what an object has beside its data, and by which another deflate may be worse at the same data.
_OBJECT_BYTES = 4096
_WORSE = 1.15


class RepackRequest(Request):
    """What to make anew, and how.

    Attributes
    ----------
    path : Path
        The HDF5 file, or its BigDataViewer XML: ours, lsfmpy's, or any BigDataViewer HDF5.
    output : Path, optional
        A new file (.h5 or .hdf5), with its XML beside it. Default: the file itself is replaced.
    compression : int, optional
        Deflate level of all voxels, 0 (none) to 3, with shuffle and checksums. Default: as they are; only filters that
        BigDataViewer does not read give way.
    rechunk : tuple of 3 int, optional
        Chunk shape of all voxels (planes, rows, columns). Default: as they are.
    overwrite : bool
        Whether an output that is there gives way.
    memory_bytes : int
        Bound of the process' resident size.
    threads : int, optional
        Default: the cores this process may use.
    """

    path: Path
    output: Path | None = None
    compression: int | None = Field(default=None, ge=0, le=3)
    rechunk: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    overwrite: bool = False
    memory_bytes: int = Field(default=2 * 10**9, gt=0)
    threads: int | None = Field(default=None, gt=0)


@dataclass(frozen=True)
class RepackReport:
    """What a repack did, or would do.

    Attributes
    ----------
    path : Path
        The new file.
    old_bytes, new_bytes : int
        Size of the file before and now; before it is done, what it needs at most.
    copied_chunks, recoded_chunks : int
        Chunks that were carried over as they were stored, and those that were encoded anew.
    seconds : float
    """

    path: Path
    old_bytes: int
    new_bytes: int
    copied_chunks: int
    recoded_chunks: int
    seconds: float

    def describe(self) -> str:
        """What would be done, in words."""
        sizes = f"{size_text(self.old_bytes)} -> at most about {size_text(self.new_bytes)}"
        return f"{self.path}: {sizes}; {self.copied_chunks} chunks copied, {self.recoded_chunks} encoded anew"


def repack_file(
    request: RepackRequest, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> RepackReport:
    """Make a file anew; whatever happens meanwhile, the old one stays whole until the new one is complete and compared with it.

    Raises
    ------
    ExistsError
        If the output is there and may not be replaced.
    BusyError
        If another program has the file open.
    ChecksumError
        If stored data are damaged; names channel, level and voxels.
    FormatError
        If it is no file of ours or BigDataViewer's, or holds what BigDataViewer's HDF5 cannot.
    StorageError
        If there is too little room, or writing fails.
    MemoryBudgetError
        If a chunk is too large for the memory given.
    """
    with recorded(request.path, "repack", request), changing(request.path):
        return _repack(request, progress, cancel)


def plan_repack(request: RepackRequest) -> RepackReport:
    """Find out what there is to do; nothing is written.

    Raises
    ------
    LsfmError
        As `repack_file`, as far as it can be known beforehand.
    """
    began = time.monotonic()
    source, _, target, _ = _places_of(request)
    with changing(source), _opened(source) as h5:
        plan = _Plan(LsfmFile(source, h5, ChunkCache(0), None), request, target)
    return plan.report(target, plan.need_bytes, began)


def _places_of(request: RepackRequest) -> tuple[Path, Path, Path, bool]:
    """The file, its XML, the new file, and whether that takes the old one's place."""
    with open_lsfm(request.path) as file:
        source, xml = file.path, file.xml_path
    if request.output is None:
        return source, xml, source, True
    target = target_path(request.output)
    _check_output(target, request.overwrite)
    return source, xml, target, target.exists() and target.samefile(source)


def _repack(request: RepackRequest, progress: ProgressCallback | None, cancel: CancelToken | None) -> RepackReport:
    began = time.monotonic()
    source, xml, target, in_place = _places_of(request)
    new_xml = None if in_place else durable.xml_partial_path(target)
    try:
        with durable.replacing(target) as place, _opened(source, locked=in_place) as h5:
            file = LsfmFile(source, h5, ChunkCache(0), None)
            plan = _Plan(file, request, target)
            _make(plan, place, request, progress, cancel)
            if new_xml is not None:
                data = _xml_of_copy(file, xml, target.name)
                durable.write_file(new_xml, data)
                shown = settings_path(xml)
                settings = shown.read_bytes() if shown.is_file() else render_settings(data, str(xml), file.channels)
            report = plan.report(target, place.stat().st_size, began)
    except BaseException as error:
        if isinstance(error, OSError) and not isinstance(error, LsfmError):
            raise StorageError(f"{target}: writing failed: {error}; what was there is left as it was") from error
        raise
    if new_xml is not None:
        write_settings(target.with_suffix(".xml"), settings)
    return report


# --- what there is to do --------------------------------------------------------------------------------------------------------


class _Chunked:
    """A dataset whose chunks go through our hands: how they are stored, and how they will be.

    Attributes
    ----------
    copied : bool
        Whether chunks are carried over as they are stored.
    targets : array
        Numbers of the chunks of the copy, in the order in which they are made.
    table : array
        What the chunks of the copy are known by, as they are made.
    """

    def __init__(
        self,
        dataset: h5py.Dataset,
        decoder: ChunkCodec | None,
        encoder: ChunkCodec,
        place: str,
        known: npt.NDArray[np.uint32] | None,
    ) -> None:
        self.dataset = dataset
        self.encoder = encoder
        self._decoder = decoder
        self._place = place
        self.copied = encoder == decoder
        self.grid = Grid(dataset.shape, encoder.chunks)
        self._old = Grid(dataset.shape, dataset.chunks or encoder.chunks)
        if dataset.chunks is not None:
            self._written = self._old.written(dataset)
        else:
            self._written = np.arange(int(np.prod(self._old.counts)) if dataset.id.get_storage_size() else 0)
        self._known = known
        self._one_at_a_time = threading.Lock()
        if known is not None and len(self._written) < known.size:
            raise ChecksumError(f"{dataset.file.filename}: {place}: chunks are missing: the file is damaged")
        self.targets = self._written if self._old == self.grid else self._regrouped()
        self.table = np.zeros(self.grid.counts, np.uint32)
        fill = np.zeros((), dataset.dtype)
        dataset.id.get_create_plist().get_fill_value(fill)
        self._fill = np.frombuffer(fill.tobytes(), encoder.dtype)[0]

    @property
    def nbytes(self) -> int:
        """Decoded bytes of all chunks of the copy."""
        return len(self.targets) * self.encoder.nbytes

    @property
    def work_bytes(self) -> int:
        """Memory that a chunk of the copy takes while it is made."""
        if not self.copied or self.encoder.filters[-1:] != (h5py.h5z.FILTER_FLETCHER32,):
            # What has no checksum is decoded to find out whether it is whole.
            return _COPIES_OF_A_CHUNK * self.encoder.nbytes
        # No chunk is larger than all of them together.
        return _COPIES_OF_A_DECODED * max(1, min(self.encoder.nbytes, int(self.dataset.id.get_storage_size())))

    @property
    def old_bytes(self) -> int:
        """What a chunk of the old file takes when it is decoded, where chunks of the copy are put together of such; else 0."""
        return 0 if self._old == self.grid else voxel_count(self._old.chunks) * self.encoder.dtype.itemsize

    def decode_bytes(self, threads: int) -> int:
        """Memory that decoding chunks of the old file takes, beside those that are kept."""
        return _COPIES_OF_A_DECODED * self.old_bytes * (1 if self._is_large else threads)

    def check_memory(self, available: int, memory_bytes: int) -> None:
        """Refuse chunks that are too large for what is available beside the process itself.

        Raises
        ------
        MemoryBudgetError
        """
        least = self.decode_bytes(1) + 2 * max(self.old_bytes, self.work_bytes)
        if least > available:
            chunks = self._old.chunks if self.old_bytes > self.encoder.nbytes else self.encoder.chunks
            raise MemoryBudgetError(
                f"{self.dataset.file.filename}: {self.dataset.name}: its chunks of {' x '.join(map(str, chunks))} voxels need at "
                f"least {size_text(_BASE_BYTES + least)} of memory, {size_text(memory_bytes)} were given: raise the memory "
                "(--memory)"
            )

    @property
    def need_bytes(self) -> int:
        """What the copy may take on the disk."""
        stored = int(self.dataset.id.get_storage_size())
        if self.copied:
            return stored
        deflate = h5py.h5z.FILTER_DEFLATE
        if self._decoder is not None and deflate in self._decoder.filters and deflate in self.encoder.filters:
            return min(int(stored * _WORSE), self.nbytes)
        return self.nbytes

    def creation(self) -> h5py.h5p.PropDCID:
        """The properties that the copy is made with."""
        plist = self.dataset.id.get_create_plist()
        # Chunks that were never written are not to be made.
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_INCR)
        if not self.copied:
            plist.remove_filter(h5py.h5z.FILTER_ALL)
            for code in self.encoder.filters:
                if code == h5py.h5z.FILTER_SHUFFLE:
                    plist.set_shuffle()
                elif code == h5py.h5z.FILTER_DEFLATE:
                    plist.set_deflate(self.encoder.level)
                else:
                    plist.set_fletcher32()
        # This also makes HDF5 forget which kind of chunk index the dataset had: the newest ones cannot be read everywhere.
        plist.set_chunk(self.encoder.chunks)
        return plist

    def make(self, number: int, cache: ChunkCache) -> tuple[int, bytes, int]:
        """Filter mask and bytes of a chunk of the copy, and what they are known by when they are read again."""
        start, stop = self.grid.box(number)
        if self.copied:
            assert self._decoder is not None
            mask, data = self._stored(number)
            with self._naming(start, stop):
                self._decoder.check(data, mask)
            return mask, data, isal_zlib.crc32(data, mask)
        octets = self._octets(number, start, stop, cache)
        return 0, self.encoder.pack(octets), isal_zlib.crc32(octets)

    def known_by(self, mask: int, data: bytes) -> int:
        """What a stored chunk of the copy is known by."""
        if self.copied:
            return int(isal_zlib.crc32(data, mask))
        return int(isal_zlib.crc32(self.encoder.unpack(data, mask)[0]))

    def where(self, number: int) -> str:
        """Where a chunk of the copy lies, in words."""
        return f"{self._place}, voxels {box_text(*self.grid.box(number))}"

    def _octets(self, number: int, start: tuple[int, ...], stop: tuple[int, ...], cache: ChunkCache) -> Array:
        if self._old != self.grid:
            block = np.full(self.encoder.chunks, self._fill, self.encoder.dtype)
            for old in self._old.meeting(start, stop):
                if self._was_written(old):
                    self._insert(block, start, old, cache)
            return self.encoder.octets(block)
        if self._decoder is not None and self._decoder.shuffles == self.encoder.shuffles:
            mask, data = self._stored(number)
            with self._naming(start, stop):
                octets, shuffled = self._decoder.unpack(data, mask)
            if shuffled == self.encoder.shuffles:
                return octets  # which would be shuffled again at once
        return self.encoder.octets(self._decoded(number))

    @property
    def _is_large(self) -> bool:
        return self.old_bytes > _LARGE_CHUNK_BYTES

    def _insert(self, block: Array, start: tuple[int, ...], old: int, cache: ChunkCache) -> None:
        key = (address(self.dataset), old)
        chunk = cache.get(key)
        if chunk is None:
            with self._one_at_a_time if self._is_large else nullcontext():
                # Who has waited may find it decoded.
                chunk = cache.get(key) if self._is_large else None
                if chunk is None:
                    chunk = self._decoded(old)
                    cache.put(key, chunk)
        first, last = self._old.box(old)
        low = [max(a, b) for a, b in zip(start, first, strict=True)]
        high = [min(a + n, b) for a, n, b in zip(start, block.shape, last, strict=True)]
        into, out_of = (tuple(slice(a - o, b - o) for a, b, o in zip(low, high, origin, strict=True)) for origin in (start, first))
        block[into] = chunk[out_of]

    def _decoded(self, number: int) -> Array:
        start, stop = self._old.box(number)
        with self._naming(start, stop):
            if self._decoder is not None:
                mask, data = self._stored(number)
                return self._decoder.decode(data, mask)
            try:
                values, _ = read_box(self.dataset, (start, stop))
            except OSError as error:
                raise ChecksumError(f"cannot be decoded: {error}") from error
        block = np.full(self._old.chunks, self._fill, self.encoder.dtype)
        block[tuple(slice(n) for n in values.shape)] = values
        return block

    def _stored(self, number: int) -> tuple[int, bytes]:
        """Filter mask and bytes of a chunk as it is stored, if it is the one that was written there."""
        start, stop = self._old.box(number)
        mask, data = self.dataset.id.read_direct_chunk(start)
        if self._known is not None:
            with self._naming(start, stop):
                check_identity(data, mask, int(self._known.flat[number]))
        return mask, data

    def _was_written(self, number: int) -> bool:
        place = int(np.searchsorted(self._written, number))
        return place < len(self._written) and int(self._written[place]) == number

    def _regrouped(self) -> npt.NDArray[np.int64]:
        """The chunks of the copy that have a part of what was written, those together that share what has to be decoded."""
        numbers = np.unique([n for old in map(int, self._written) for n in self.grid.meeting(*self._old.box(old))])
        sides = [max(a, b) for a, b in zip(self.grid.chunks, self._old.chunks, strict=True)]
        starts = np.array([self.grid.box(int(n))[0] for n in numbers]).reshape(-1, len(sides))
        order: npt.NDArray[np.int64] = np.lexsort((starts // sides).T[::-1]) if len(numbers) else np.empty(0, np.int64)
        return numbers.astype(np.int64)[order]

    @contextmanager
    def _naming(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Iterator[None]:
        try:
            yield
        except ChecksumError as error:
            raise ChecksumError(f"{self.dataset.file.filename}: {self._place}, voxels {box_text(start, stop)}: {error}") from error


class _Plan:
    """Every object of a file, and which of its datasets go chunk by chunk."""

    def __init__(self, file: LsfmFile, request: RepackRequest, target: Path) -> None:
        self.file = file
        file.check_digests()
        self.nodes = nodes_of(file.h5, _LEFT_OUT)
        places = _places(file)
        #: The levels of ours, by the address of their dataset: the id of their channel, and their number.
        self.levels = _levels(file)
        # By any of their names; the others of an object may say something else.
        voxels = {
            address(node[_paths.CELLS])
            for node in self.nodes.values()
            if isinstance(node, h5py.Group) and isinstance(node.get(_paths.CELLS, getlink=True), h5py.HardLink)
        }
        self.chunked: dict[int, _Chunked] = {}
        self.restated: set[int] = set()
        self.need_bytes = len(self.nodes) * _OBJECT_BYTES
        for where, node in self.nodes.items():
            if not isinstance(node, h5py.Dataset):
                continue
            inside(node, file.path)
            codecs = _codecs(node, request, where in voxels)
            if codecs is None:
                self.need_bytes += int(node.id.get_storage_size())
                continue
            known = _digest.chunk_table(file.h5, file.digests, *self.levels[where]) if where in self.levels else None
            chunked = _Chunked(node, *codecs, places.get(where, node.name), known)
            chunked.check_memory(request.memory_bytes - _BASE_BYTES, request.memory_bytes)
            self.chunked[where] = chunked
            self.need_bytes += chunked.need_bytes
        self._old_bytes = file.path.stat().st_size
        free = shutil.disk_usage(target.resolve().parent).free
        if self.need_bytes > free:
            raise StorageError(
                f"{target}: may need {size_text(self.need_bytes)}, and {size_text(free)} are free on its disk: make room, or "
                "choose another folder as output"
            )

    def creation(self, dataset: h5py.Dataset) -> h5py.h5p.PropDCID:
        """The properties that the copy of a dataset is made with."""
        chunked = self.chunked.get(address(dataset))
        if chunked is not None:
            return chunked.creation()
        plist = dataset.id.get_create_plist()
        layout = plist.get_layout()
        if layout == h5py.h5d.CHUNKED:
            plist.set_chunk(dataset.chunks)
        elif layout != h5py.h5d.VIRTUAL:
            plist.set_layout(layout)
        return plist

    def report(self, path: Path, new_bytes: int, began: float) -> RepackReport:
        """What was done, or would be."""
        copied, recoded = (sum(len(c.targets) for c in self.chunked.values() if c.copied is kind) for kind in (True, False))
        return RepackReport(path, self._old_bytes, new_bytes, copied, recoded, time.monotonic() - began)


def _codecs(dataset: h5py.Dataset, request: RepackRequest, voxels: bool) -> tuple[ChunkCodec | None, ChunkCodec] | None:
    """How the chunks of a dataset are decoded (None: by HDF5 only) and encoded; None if HDF5 carries its values over."""
    kind = dataset.id.get_type()
    if dataset.is_virtual or dataset.external or not dataset.shape or has_pointers(kind):
        return None
    voxels = voxels and dataset.ndim >= 3
    plist = dataset.id.get_create_plist()
    decoder = ChunkCodec.of(dataset, bits=True)
    if decoder is not None:
        deflate = h5py.h5z.FILTER_DEFLATE
        decoder = replace(decoder, level=plist.get_filter_by_id(deflate)[1][0] if deflate in decoder.filters else 0)
    elif not plist.all_filters_avail():
        names = ", ".join(plist.get_filter(index)[3].decode() for index in range(plist.get_nfilters()))
        raise FormatError(f"{dataset.file.filename}: {dataset.name} is stored through filters ({names}) that are not all installed")
    chunks = dataset.chunks
    if voxels and (request.rechunk or (chunks is None and request.compression)):
        wanted = (*(request.rechunk or (_SIDE,) * 3), *dataset.shape[3:])
        chunks = tuple(max(1, min(c, n)) for c, n in zip(wanted, dataset.shape, strict=True))
    if chunks is None:
        return None
    if decoder is None or (voxels and request.compression is not None):
        level = DEFAULT_LEVEL if request.compression is None or not voxels else request.compression
        encoder = ChunkCodec(bits_dtype(kind), chunks, level=level)
        if level == 0:
            encoder = replace(encoder, filters=(h5py.h5z.FILTER_FLETCHER32,))
    else:
        encoder = replace(decoder, chunks=chunks)
    # ISA-L has no higher level to encode with.
    return decoder, encoder if encoder == decoder else replace(encoder, level=min(encoder.level, 3))


def _levels(file: LsfmFile) -> dict[int, tuple[str, int]]:
    """The levels of channels of ours, by the address of their dataset: the id of the channel, and the level's number."""
    return {address(cells): (uuid, level) for uuid, level, cells in file.own_levels()}


def _places(file: LsfmFile) -> dict[int, str]:
    """How the voxels of a channel's level are called, by the address of their dataset."""
    places = {}
    for channel in file.channels.values():
        for level in channel.levels:
            paths = {_paths.level(channel.name, level.index): ""}
            if channel.setup is not None:
                several = len(channel.timepoints) > 1
                for timepoint in channel.timepoints:
                    view = _paths.view_level(timepoint, channel.setup, level.index)
                    paths[view] = f", timepoint {timepoint}" if several else ""
            for path, when in paths.items():
                cells = file.h5.get(f"{path}/{_paths.CELLS}")
                if cells is not None:
                    places[address(cells)] = f"channel {channel.name!r}{when}, level {level.index}"
    return places


# --- doing it -------------------------------------------------------------------------------------------------------------------


def _make(plan: _Plan, place: Path, request: RepackRequest, progress: ProgressCallback | None, cancel: CancelToken | None) -> None:
    """Fill a new file, and compare it."""
    total = sum(chunked.nbytes for chunked in plan.chunked.values())
    threads = request.threads or default_threads()
    with ThreadPoolExecutor(threads, thread_name_prefix="lsfm-repack") as pool:
        # One half for the chunks that are being made, the other for those of the old file that are needed again.
        decoding = max((chunked.decode_bytes(threads) for chunked in plan.chunked.values()), default=0)
        room = request.memory_bytes - _BASE_BYTES
        if room < 2 * decoding:
            decoding = max((chunked.decode_bytes(1) for chunked in plan.chunked.values()), default=0)
        half = max(0, room - decoding) // 2
        run = partial(_in_order, pool, 2 * threads, half)
        cache = ChunkCache(half)
        raw = durable.RawFile(open(place, "w+b", buffering=0), place)  # noqa: SIM115
        try:
            advance = Progress("repack", total, progress, cancel).advance
            known = _write(plan, raw, cache, run, advance)
            synced = pool.submit(raw.sync)
            advance = Progress("verify", total, progress, cancel).advance
            with h5py.File(place, "r", locking=False) as target:
                _compare(plan, target, known, run, advance)
            synced.result()
            _seal(plan, raw)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            raw.release()


def _write(
    plan: _Plan, raw: durable.RawFile, cache: ChunkCache, run: Any, advance: Callable[[int], None]
) -> dict[int, npt.NDArray[np.uint32]]:
    """Fill a new file; returns by what the chunks of each dataset are known."""
    known = {}
    order = plan.file.h5["/"].id.get_create_plist().get_link_creation_order() != 0
    target = h5py.File(raw, "w", libver=LIBVER, track_order=order)
    try:
        tree = TreeCopy(plan.nodes, target, _LEFT_OUT)
        tree.build(plan.creation)
        for where, node in plan.nodes.items():
            if where in plan.chunked:
                known[where] = _copy_chunks(plan.chunked[where], tree.copy_of(node), cache, run, advance)
            elif isinstance(node, h5py.Dataset):
                tree.copy_values(node)
        plan.restated = _restate_subdivisions(plan, target)
        target.flush()
    except BaseException:
        raw.detach()
        raise
    finally:
        try:
            target.close()
        finally:
            raw.check()  # wins over what HDF5 makes of it
    return known


def _seal(plan: _Plan, raw: durable.RawFile) -> None:
    """Let the new file have digests, if any of it is ours."""
    if not plan.levels:
        return
    target = h5py.File(raw, "r+", libver=LIBVER)
    try:
        for where, level in plan.levels.items():
            _digest.put_chunk_table(target, *level, plan.chunked[where].table)
        _digest.write(target)
        target.flush()
    finally:
        try:
            target.close()
        finally:
            raw.check()
    raw.sync()


def _in_order(
    pool: ThreadPoolExecutor,
    most: int,
    memory_bytes: int,
    chunked: _Chunked,
    work: Callable[[int], T],
    finish: Callable[[int, T], None],
) -> None:
    """Work on every chunk of the copy in the pool, and finish each here, in their order."""
    size = max(1, _BATCH_BYTES // chunked.encoder.nbytes)
    most = max(1, min(most, memory_bytes // (size * chunked.work_bytes)))
    pending: deque[tuple[list[int], Future[list[T]]]] = deque()

    def settle() -> None:
        numbers, future = pending.popleft()
        for number, result in zip(numbers, future.result(), strict=True):
            finish(number, result)

    for first in range(0, len(chunked.targets), size):
        numbers = chunked.targets[first : first + size].tolist()
        pending.append((numbers, pool.submit(lambda batch: [work(number) for number in batch], numbers)))
        if len(pending) > most:
            settle()
    while pending:
        settle()


def _copy_chunks(
    chunked: _Chunked, copy: h5py.Dataset, cache: ChunkCache, run: Any, advance: Callable[[int], None]
) -> npt.NDArray[np.uint32]:
    """Fill the chunks of a copy; returns what each is known by."""
    known = np.empty(len(chunked.targets), np.uint32)
    done = 0

    def store(number: int, made: tuple[int, bytes, int]) -> None:
        nonlocal done
        mask, data, known[done] = made
        copy.id.write_direct_chunk(chunked.grid.box(number)[0], data, mask)
        chunked.table.flat[number] = checksum_of(data)
        done += 1
        advance(chunked.encoder.nbytes)

    run(chunked, lambda number: chunked.make(number, cache), store)
    return known


def _compare(
    plan: _Plan, target: h5py.File, known: dict[int, npt.NDArray[np.uint32]], run: Any, advance: Callable[[int], None]
) -> None:
    """Read the new file again, and compare it with what went into it."""
    name = target.filename
    place = difference(plan.nodes, target, _LEFT_OUT, lambda node: address(node) in plan.chunked.keys() | plan.restated)
    if place is not None:
        raise StorageError(f"{name}: reads back otherwise than it was written ({place}): the disk may be failing")
    for where, chunked in plan.chunked.items():
        copy = target[chunked.dataset.name]
        expected = iter(known[where].tolist())

        def read(number: int, chunked: _Chunked = chunked, copy: h5py.Dataset = copy) -> int:
            try:
                return chunked.known_by(*copy.id.read_direct_chunk(chunked.grid.box(number)[0]))
            except ChecksumError:
                return -1  # by which nothing is known

        def check(number: int, found: int, chunked: _Chunked = chunked, expected: Iterator[int] = expected) -> None:
            if found != next(expected):
                raise ChecksumError(f"{name}: {chunked.where(number)}: reads back otherwise than it was written")
            advance(chunked.encoder.nbytes)

        if not np.array_equal(chunked.grid.written(copy), np.sort(chunked.targets)):
            raise StorageError(f"{name}: {copy.name} has other chunks than were written: the disk may be failing")
        run(chunked, read, check)
    file = LsfmFile(plan.file.path, target, ChunkCache(0), None)
    old, new = ({str(d) for d in structure_defects(each, list(each.channels.values()))} for each in (plan.file, file))
    if list(file.channels) != list(plan.file.channels) or new - old:
        raise StorageError(f"{name}: its structure is not what it was: {'; '.join(sorted(new - old))}")


def _restate_subdivisions(plan: _Plan, target: h5py.File) -> set[int]:
    """Let BigDataViewer's tables say the chunk shapes that voxels have now; returns which tables of the old file were changed."""
    changed: set[int] = set()
    if all(chunked.dataset.chunks == chunked.encoder.chunks for chunked in plan.chunked.values()):
        return changed
    timepoints = [timepoint for timepoint in map(_paths.timepoint_index, target) if timepoint is not None]
    for name in target:
        setup = _paths.setup_index(name)
        table = target.get(f"{name}/{_paths.SUBDIVISIONS}") if setup is not None else None
        if not isinstance(table, h5py.Dataset) or setup is None:
            continue
        rows = table[()]
        for level, row in enumerate(rows):
            for timepoint in timepoints:
                cells = target.get(f"{_paths.view_level(timepoint, setup, level)}/{_paths.CELLS}")
                if isinstance(cells, h5py.Dataset) and cells.file == target and cells.chunks is not None:
                    row[:] = cells.chunks[2::-1]
        table[()] = rows
        changed.add(address(plan.file.h5[table.name]))
    return changed


# --- around it ------------------------------------------------------------------------------------------------------------------


def _opened(path: Path, *, locked: bool = False) -> h5py.File:
    """An HDF5 file to read, which this process holds the lock of already, or which is locked by this."""
    if not locked and not durable.has_locks(path):
        return h5py.File(durable.Snapshot.take(path), "r")
    try:
        return h5py.File(path, "r", locking=False if locked else None)
    except OSError as error:
        raise StorageError(f"{path}: cannot be opened as HDF5: {error}") from error


def _check_output(target: Path, overwrite: bool) -> None:
    check_stem(target)
    if not target.parent.is_dir():
        raise StorageError(f"{target}: there is no folder {target.parent}")
    for path in (target, target.with_suffix(".xml")):
        if path.exists() and not overwrite:
            raise ExistsError(f"{path}: exists already: choose another output, or allow to overwrite it")


def _xml_of_copy(file: LsfmFile, xml: Path, hdf5: str) -> bytes:
    """The XML for a copy: the one of the original with another name in it, or if that cannot be read a new one."""
    if xml.exists():
        with suppress(FormatError):
            return renamed_xml(read_xml(xml), str(xml), hdf5)
    return file.render_xml(None, hdf5)
