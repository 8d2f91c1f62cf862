"""From planes to chunks: levels are made slab by slab, in one pass and within a memory budget.

Each level gathers planes until it has a slab as thick as its chunks. The slab is then cut into bands of chunk rows; each chunk is
encoded for the file and reduced into the slab of the next level, in threads. Sums, not means, travel from level to level. A slab
that does not fit the budget is kept in a scratch file instead, and its bands are read back: planes of any size can be ingested.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from glob import escape
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from lsfm_core.errors import InputError, MemoryBudgetError
from lsfm_core.formats import Source
from lsfm_core.geometry import Shape3, voxel_count
from lsfm_core.progress import Progress, size_text
from lsfm_core.pyramid import LevelPlan, Reducer
from lsfm_core.records import FileRecord
from lsfm_core.store import ChannelWriter

__all__ = ["DIGESTS", "IngestState", "MemoryPlan", "PyramidWriter", "digest_of", "plan_memory", "stamps_of"]

Array = npt.NDArray[Any]

#: The interpreter, numpy, HDF5 and the decoders, before any image data.
_BASE_BYTES = 96 * 2**20
#: Chunks per thread that are being encoded or wait to be written.
_IN_FLIGHT_PER_THREAD = 2
#: How many digests there are.
DIGESTS = 2**256
_PERCENTILES = (0.5, 99.8)
#: What may stand beside an image and change with the ingest.
_NO_IMAGES = frozenset({".h5", ".hdf5", ".xml", ".partial"})
_SAMPLE_VOXELS = 2_000_000


@dataclass
class IngestState:
    """How far an ingest has come: what a checkpoint has to note, besides what is in the file.

    Attributes
    ----------
    planes : int
        Planes of the source that are done.
    records : list of FileRecord
        The files that they came from.
    non_finite : int
        Voxels among them that are NaN or infinite.
    stored_bytes : int
        Encoded bytes that were written, of all levels.
    stamps : dict of str to (int, int)
        Size and time of last change, in ns, of each file of the image when the ingest began.
    digest : int
        Sum of `digest_of` level, first voxel and CRC-32 of every chunk that was written, modulo `DIGESTS`: whatever their order.
    """

    planes: int = 0
    records: list[FileRecord] = field(default_factory=list)
    non_finite: int = 0
    stored_bytes: int = 0
    digest: int = 0
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)

    def to_note(self, fingerprint: str) -> bytes:
        return json.dumps({"fingerprint": fingerprint, **asdict(self)}).encode()

    @classmethod
    def from_note(cls, note: bytes, fingerprint: str, path: Path) -> IngestState:
        values = json.loads(note)
        if values.pop("fingerprint") != fingerprint:
            raise InputError(
                f"{path}: the ingest that was interrupted had another image or other options: repeat its command line, or leave "
                "out --resume to undo it and start anew"
            )
        stamps = {name: (size, time) for name, (size, time) in values.get("stamps", {}).items()}
        return cls(**{**values, "records": [FileRecord(**record) for record in values["records"]], "stamps": stamps})

    def check_unchanged(self, stamps: Mapping[str, tuple[int, int]], image: str, path: Path) -> None:
        """Refuse to go on with an image of which something that was read is not what it was.

        Parameters
        ----------
        stamps : mapping
            As `IngestState.stamps`, of now.
        image : str
            For messages.
        path : Path

        Raises
        ------
        InputError
        """
        records = {record.name: record for record in self.records}
        for name, stamp in self.stamps.items():
            record = records.get(Path(name).name)
            # Of a series, files that were not read yet may change; and one that was only copied anew is the same.
            if stamps.get(name) == stamp or (records and record is None):
                continue
            if record is not None and name in stamps and _is_same(Path(name), record):
                continue
            raise InputError(
                f"{path}: {name} has changed since the interrupted ingest read it, so that old and new planes of {image} would be "
                "mixed: leave out --resume to start anew"
            )


def stamps_of(image: object) -> dict[str, tuple[int, int]]:
    """Size and time of last change, in ns, of the files of an image; nothing where it is none of files."""
    if not isinstance(image, str | os.PathLike):
        return {}
    place = Path(image)
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file())
    else:
        # A name with a pattern stands for files of its folder, and a header may have its voxels in a file of the same stem.
        alike = place.parent.glob(f"{escape(place.stem)}.*" if place.is_file() else f"*{escape(place.suffix)}")
        files = sorted(file for file in alike if file.is_file() and file.suffix.lower() not in _NO_IMAGES)
    status = {str(file): file.stat() for file in files}
    return {name: (one.st_size, one.st_mtime_ns) for name, one in status.items()}


def _is_same(file: Path, record: FileRecord) -> bool:
    crc, size = 0, 0
    with suppress(OSError), file.open("rb") as stream:
        while data := stream.read(2**22):
            crc, size = isal_zlib.crc32(data, crc), size + len(data)
    return (size, crc) == (record.size, record.crc32)


def digest_of(*facts: Any) -> int:
    """SHA-256 of facts that JSON can hold, as a number."""
    return int.from_bytes(hashlib.sha256(json.dumps(facts).encode()).digest(), "big")


# --- memory ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemoryPlan:
    """How the slabs of each level are kept.

    Attributes
    ----------
    heights : tuple of int
        Planes in each level's slab.
    read_ahead : bool
        Whether the next slab of level 0 is read while one is encoded.
    in_scratch : tuple of bool
        Which levels' slabs are in a scratch file.
    readers : int
        Planes that are read at the same time.
    rows : int
        Rows of a plane that are read at once; 0 for whole planes.
    in_flight : int
        Chunks that are being encoded or wait to be written at the same time.
    peak_bytes : int
        Estimate of the process' largest resident size; within the budget.
    """

    heights: tuple[int, ...]
    read_ahead: bool
    in_scratch: tuple[bool, ...]
    readers: int
    rows: int
    in_flight: int
    peak_bytes: int


def plan_memory(source: Source, reduce: Reducer, levels: Sequence[LevelPlan], threads: int, budget: int) -> MemoryPlan:
    """Decide how to keep slabs, so that the process stays within `budget` bytes.

    Raises
    ------
    MemoryBudgetError
        If no way does; says how much is needed.
    """
    itemsize = source.dtype.itemsize * source.components
    heights: list[int] = []
    slabs: list[int] = []
    bands: list[int] = []
    for index, level in enumerate(levels):
        chunk = level.chunks[0]
        height = chunk
        if index:
            # What one slab of the finer level gives must fit in.
            step = level.factors[0] // levels[index - 1].factors[0]
            height = max(chunk, -(-heights[-1] // step // chunk) * chunk)
        height = min(height, level.shape[0])
        heights.append(height)
        item = itemsize if index == 0 else reduce.carried_dtype(level.factors).itemsize * source.components
        slabs.append(height * level.shape[1] * level.shape[2] * item)
        bands.append(height * level.chunks[1] * level.shape[2] * item)
    plane = source.shape[1] * source.shape[2] * itemsize
    chunk_bytes = voxel_count(levels[0].chunks) * itemsize
    # Per task: the sums of a chunk and its temporaries, its shuffled bytes, its encoded bytes.
    fixed = _BASE_BYTES + source.read_bytes + 8 * chunk_bytes * (_IN_FLIGHT_PER_THREAD + 1) * threads
    plan = MemoryPlan(
        heights=tuple(heights),
        read_ahead=True,
        in_scratch=(False,) * len(levels),
        readers=1 if source.forward_only else threads,
        rows=0,
        in_flight=_IN_FLIGHT_PER_THREAD * threads,
        peak_bytes=0,
    )
    while True:
        # A plane that is being read is there twice: as the file's bytes and decoded.
        need = (
            fixed
            + 2 * (plane // source.shape[1] * plan.rows if plan.rows else plane) * plan.readers
            + sum(bands[k] * 2 if plan.in_scratch[k] else slabs[k] for k in range(len(levels)))
            + (slabs[0] if plan.read_ahead else 0)
        )
        if need <= budget:
            return replace(plan, peak_bytes=need)
        kept = [k for k in range(len(levels)) if not plan.in_scratch[k] and slabs[k] > 2 * bands[k]]
        if plan.read_ahead:
            plan = replace(plan, read_ahead=False)
        elif kept:
            largest = max(kept, key=lambda k: slabs[k])
            plan = replace(plan, in_scratch=tuple(flag or k == largest for k, flag in enumerate(plan.in_scratch)))
        elif plan.readers > 1:
            plan = replace(plan, readers=1)
        elif source.has_rows and plan.in_scratch[0] and not plan.rows:
            plan = replace(plan, rows=min(levels[0].chunks[1], source.shape[1]))
        else:
            whole = "" if source.has_rows else ", since they can only be read as a whole"
            raise MemoryBudgetError(
                f"{source.name}: planes of {source.shape[1]} x {source.shape[2]} need at least {size_text(need)} of memory{whole}, "
                f"{size_text(budget)} were given: raise the memory"
            )


class _Slab:
    """Consecutive planes of one level, in memory or in a scratch file."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], folder: Path | None) -> None:
        self.shape = shape
        self.dtype = dtype
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        if folder is None:
            self._array: Array | None = np.empty(shape, dtype)
        else:
            self._array = None
            # Without a name, so that it is gone with the process.
            self._file = tempfile.TemporaryFile(dir=folder, prefix=".lsfm-scratch-", buffering=0)  # noqa: SIM115

    @property
    def array(self) -> Array | None:
        """The planes themselves, where they are in memory."""
        return self._array

    def put(self, plane: int, row: int, block: Array) -> None:
        """Store whole rows of some planes."""
        if self._array is not None:
            place = self._array[plane : plane + block.shape[0], row : row + block.shape[1]]
            if place.ctypes.data != block.ctypes.data:
                place[...] = block
            return
        for offset, rows in enumerate(np.ascontiguousarray(block)):
            with self._lock:
                view = memoryview(rows).cast("B")
                file = self._at(plane + offset, row)
                while len(view):
                    view = view[file.write(view) :]

    def room(self, plane: int, row: int, shape: tuple[int, ...]) -> Array:
        """An array for whole rows of some planes; when it is filled, `put` stores it, where it is not already the slab itself."""
        if self._array is not None:
            return self._array[plane : plane + shape[0], row : row + shape[1]]
        return np.empty(shape, self.dtype)

    def band(self, planes: int, rows: slice) -> Array:
        """Rows of the first `planes` planes."""
        if self._array is not None:
            return self._array[:planes, rows]
        out = np.empty((planes, rows.stop - rows.start, *self.shape[2:]), self.dtype)
        for plane in range(planes):
            with self._lock:
                self._at(plane, rows.start).readinto(memoryview(out[plane]).cast("B"))
        return out

    def close(self) -> None:
        """Let go of the memory or the scratch file."""
        self._array = None
        if self._file is not None:
            self._file.close()

    def _at(self, plane: int, row: int) -> io.FileIO:
        file = cast(io.FileIO, self._file)
        file.seek((plane * self.shape[1] + row) * voxel_count(self.shape[2:]) * self.dtype.itemsize)
        return file


# --- the work -------------------------------------------------------------------------------------------------------------------


class PyramidWriter:
    """Moves planes from a source through all levels into a channel."""

    def __init__(
        self,
        source: Source,
        levels: Sequence[LevelPlan],
        reduce: Reducer,
        writer: ChannelWriter,
        plan: MemoryPlan,
        pool: ThreadPoolExecutor,
        folder: Path,
        progress: Progress,
        state: IngestState,
    ) -> None:
        self._source = source
        self._levels = levels
        self._reducer = reduce
        self._writer = writer
        self._plan = plan
        self._pool = pool
        self._progress = progress
        self._components = (source.components,) if source.components > 1 else ()
        self._slabs = [self._new_slab(level, folder) for level in range(len(levels))]
        self._spare = self._new_slab(0, folder) if plan.read_ahead else self._slabs[0]
        # First plane, and number of planes, of what each level's slab holds now.
        self._start = [0] * len(levels)
        self._filled = [0] * len(levels)
        # What is left to do when tasks are done, in order: so the file does not depend on which thread was faster.
        self._pending: deque[Callable[[], None]] = deque()
        self._state = state
        self._count_lock = threading.Lock()
        # While what an interrupted ingest has written is read again, to have the slabs of the coarser levels back.
        self._replaying = False

    def run(self, checkpoint: Callable[[IngestState], None] | None) -> None:
        """Do it all, or what is left to do; `checkpoint` is called after each slab of level 0."""
        planes, height, state = self._source.shape[0], self._plan.heights[0], self._state
        self._replay()
        reads = self._read(state.planes) if state.planes < planes else []
        for start in range(state.planes, planes, height):
            for read in reads:
                state.records.extend(record for record in read.result() if record is not None)
            following = start + height
            self._slabs[0], self._spare = self._spare, self._slabs[0]
            if self._plan.read_ahead and following < planes:
                reads = self._read(following)
            self._filled[0] = min(height, planes - start)
            self._flush(0)
            state.planes = min(following, planes)
            if checkpoint is not None:
                checkpoint(state)
            if not self._plan.read_ahead and following < planes:
                reads = self._read(following)
        state.records.extend(self._source.file_records())
        self._writer.finish(
            percentiles=self._percentiles(),
            non_finite=state.non_finite,
            sources=state.records,
        )

    def _replay(self) -> None:
        """Bring the slabs of the coarser levels to where they were after the planes that are done."""
        done, height = self._state.planes, self._plan.heights[0]
        # The last plane before which no slab holds a part of what follows.
        spans = [h * level.factors[0] for h, level in zip(self._plan.heights, self._levels, strict=True)]
        first = done // math.lcm(*spans) * math.lcm(*spans)
        self._start = [first // level.factors[0] for level in self._levels]
        self._replaying = True
        level, rows = self._writer.level(0), self._levels[0].chunks[1]
        for start in range(first, done, height):
            stop = min(start + height, done)
            for row in range(0, self._source.shape[1], rows):
                self._slabs[0].put(0, row, level[start:stop, row : row + rows].read(cached=False))
            self._filled[0] = stop - start
            self._flush(0)
        self._replaying = False

    def _percentiles(self) -> list[float]:
        """Of the coarsest level, or every so many voxels of it."""
        level = self._writer.level(len(self._levels) - 1)
        stride = max(1, round((level.size / _SAMPLE_VOXELS) ** (1 / 3)))
        sample = level[::stride, ::stride, ::stride].read(cached=False)
        sample = sample[np.isfinite(sample)]
        return np.percentile(sample, _PERCENTILES).tolist() if sample.size else []

    def close(self) -> None:
        """Let go of slabs and scratch files."""
        for slab in (*self._slabs, self._spare):
            slab.close()

    def _new_slab(self, level: int, folder: Path) -> _Slab:
        plan = self._levels[level]
        dtype = self._source.dtype if level == 0 else self._reducer.carried_dtype(plan.factors)
        shape = (self._plan.heights[level], *plan.shape[1:], *self._components)
        return _Slab(shape, dtype, folder if self._plan.in_scratch[level] else None)

    def _read(self, start: int) -> list[Future[list[FileRecord | None]]]:
        """Start to read a slab of level 0 into the spare slab."""
        slab = self._spare
        stop = min(start + self._plan.heights[0], self._source.shape[0])
        turn = threading.BoundedSemaphore(self._plan.readers)

        def read(planes: range) -> list[FileRecord | None]:
            with turn:
                return [self._read_plane(slab, plane, plane - start) for plane in planes]

        if self._source.forward_only:
            return [self._pool.submit(read, range(start, stop))]
        return [self._pool.submit(read, range(plane, plane + 1)) for plane in range(start, stop)]

    def _read_plane(self, slab: _Slab, plane: int, place: int) -> FileRecord | None:
        if slab.array is not None:
            return self._source.read_plane(plane, slab.array[place])
        if self._plan.rows:
            for start in range(0, slab.shape[1], self._plan.rows):
                part = np.empty((1, min(self._plan.rows, slab.shape[1] - start), *slab.shape[2:]), slab.dtype)
                self._source.read_rows(plane, start, part[0])
                slab.put(place, start, part)
            return None
        rows = np.empty((1, *slab.shape[1:]), slab.dtype)
        record = self._source.read_plane(plane, rows[0])
        slab.put(place, 0, rows)
        return record

    def _flush(self, level: int) -> None:
        """Encode what a level's slab holds, reduce it into the next level's, and go on there if that one is full."""
        plan, slab, start, planes = self._levels[level], self._slabs[level], self._start[level], self._filled[level]
        coarser = level + 1 if level + 1 < len(self._levels) else None
        step = (1, 1, 1)
        if coarser is not None:
            a, b, c = (f // g for f, g in zip(self._levels[coarser].factors, plan.factors, strict=True))
            step = (a, b, c)
        for row in range(0, plan.shape[1], plan.chunks[1]):
            rows = slice(row, min(row + plan.chunks[1], plan.shape[1]))
            band = slab.band(planes, rows)
            sums = None
            if coarser is not None:
                shape: tuple[int, ...] = tuple(-(-n // s) for n, s in zip(band.shape, step, strict=False))
                shape = (*shape, *self._components)
                sums = self._slabs[coarser].room(self._filled[coarser], row // step[1], shape)
            for plane in range(0, planes, plan.chunks[0]):
                for column in range(0, plan.shape[2], plan.chunks[2]):
                    block = band[plane : plane + plan.chunks[0], :, column : column + plan.chunks[2]]
                    target = None
                    if sums is not None:
                        target = sums[plane // step[0] :, :, column // step[2] :]
                    self._submit(level, (start + plane, row, column), block, step, target)
            if coarser is not None and sums is not None:
                self._pending.append(partial(self._slabs[coarser].put, self._filled[coarser], row // step[1], sums))
        while self._pending:
            self._pending.popleft()()
        self._start[level] += planes
        self._filled[level] = 0
        if coarser is not None:
            self._filled[coarser] += -(-planes // step[0])
            complete = self._start[coarser] + self._filled[coarser] == self._levels[coarser].shape[0]
            if complete or self._filled[coarser] == self._plan.heights[coarser]:
                self._flush(coarser)

    def _submit(self, level: int, start: Shape3, block: Array, step: Shape3, target: Array | None) -> None:
        future = self._pool.submit(self._encode, level, start, block, step, target)
        self._pending.append(partial(self._store, level, start, block.nbytes, future))
        while len(self._pending) > self._plan.in_flight:
            self._pending.popleft()()

    def _encode(self, level: int, start: Shape3, block: Array, step: Shape3, target: Array | None) -> tuple[bytes, int]:
        """Bytes of one chunk, and CRC-32 of them before they are packed; sums for the next level go to `target`. In the pool."""
        if target is not None:
            carried = self._reducer.reduce(block, step, target.dtype)
            target[: carried.shape[0], : carried.shape[1], : carried.shape[2]] = carried
        if self._replaying:
            return b"", 0
        if level:
            block = self._reducer.finish(block, self._levels[level].factors, start, self._source.shape)
        elif block.dtype.kind == "f":
            odd = block.size - int(np.count_nonzero(np.isfinite(block)))
            with self._count_lock:
                self._state.non_finite += odd
        codec = self._writer.codec(level)
        octets = codec.octets(block)
        # While the processor's cache still holds them.
        crc = isal_zlib.crc32(octets)
        return codec.pack(octets), crc

    def _store(self, level: int, start: Shape3, size: int, future: Future[tuple[bytes, int]]) -> None:
        data, crc = future.result()
        if data:
            self._writer.write_chunk(level, start, data)
            self._state.stored_bytes += len(data)
            self._state.digest = (self._state.digest + digest_of(level, start, crc)) % DIGESTS
        if level == 0:
            self._progress.advance(size)
