"""From planes to chunks: levels are made slab by slab, in one pass and within a memory budget.

Each level gathers planes until it has a slab as thick as its chunks. The slab is then cut into bands of chunks; each is encoded for
the file and reduced into the slab of the next level, in threads. Sums, not means, travel from level to level. A slab that does
not fit the budget is kept in a scratch file instead, and its bands are read back; that of level 0 may not be kept at all, and its
bands be read from the source as boxes. So planes of any size can be ingested.
"""

from __future__ import annotations

import io
import math
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from lsfm_core.errors import StorageError
from lsfm_core.formats import Source, cuts
from lsfm_core.geometry import Shape3, voxel_count
from lsfm_core.ingest._memory import PIECE_VOXELS, MemoryPlan
from lsfm_core.ingest._state import DIGESTS, IngestState, digest_of
from lsfm_core.progress import Progress
from lsfm_core.pyramid import LevelPlan, Reducer
from lsfm_core.records import FileRecord
from lsfm_core.store import ChannelWriter

__all__ = ["PyramidWriter"]

Array = npt.NDArray[Any]

_PERCENTILES = (0.5, 99.8)
_SAMPLE_VOXELS = 2_000_000


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

    def put(self, start: Shape3, block: Array) -> None:
        """Store a block of voxels, from a plane, row and column on."""
        if self._array is not None:
            place = self._array[tuple(slice(first, first + n) for first, n in zip(start, block.shape, strict=False))]
            if place.ctypes.data != block.ctypes.data:
                place[...] = block
            return
        for place_of, view in self._runs(start, np.ascontiguousarray(block)):
            rest = view
            with self._lock:
                file = self._at(place_of)
                while len(rest):
                    rest = rest[file.write(rest) :]

    def room(self, start: Shape3, shape: tuple[int, ...]) -> Array:
        """An array for a block of voxels; when it is filled, `put` stores it, where it is not already the slab itself."""
        if self._array is not None:
            return self._array[tuple(slice(first, first + n) for first, n in zip(start, shape, strict=False))]
        return np.empty(shape, self.dtype)

    def band(self, planes: int, rows: slice, columns: slice) -> Array:
        """Rows and columns of the first `planes` planes."""
        if self._array is not None:
            return self._array[:planes, rows, columns]
        out = np.empty((planes, rows.stop - rows.start, columns.stop - columns.start, *self.shape[3:]), self.dtype)
        for place_of, view in self._runs((0, rows.start, columns.start), out):
            rest = view
            with self._lock:
                file = self._at(place_of)
                while len(rest):
                    count = file.readinto(rest)
                    if not count:
                        raise StorageError("a scratch file ends before it should: the disk may be failing")
                    rest = rest[count:]
        return out

    def close(self) -> None:
        """Let go of the memory or the scratch file."""
        self._array = None
        if self._file is not None:
            self._file.close()

    def _runs(self, start: Shape3, block: Array) -> Iterator[tuple[int, memoryview]]:
        """What of a contiguous block stands together in the file: its number of the first voxel there, and its bytes."""
        whole_rows = block.shape[2] == self.shape[2]
        for plane, rows in enumerate(block):
            first = ((start[0] + plane) * self.shape[1] + start[1]) * self.shape[2] + start[2]
            if whole_rows:
                yield first, memoryview(rows).cast("B")
                continue
            for row, run in enumerate(rows):
                yield first + row * self.shape[2], memoryview(run).cast("B")

    def _at(self, voxel: int) -> io.FileIO:
        file = cast(io.FileIO, self._file)
        file.seek(voxel * voxel_count(self.shape[3:]) * self.dtype.itemsize)
        return file


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
        planes, state = self._source.shape[0], self._state
        self._replay()
        slabs = list(cuts(state.planes, planes, self._plan.heights[0]))
        reads = self._read(slabs[0]) if slabs else []
        for number, slab in enumerate(slabs):
            for read in reads:
                state.records.extend(record for record in read.result() if record is not None)
            following = slabs[number + 1] if number + 1 < len(slabs) else None
            self._slabs[0], self._spare = self._spare, self._slabs[0]
            if self._plan.read_ahead and following is not None:
                reads = self._read(following)
            self._filled[0] = slab.stop - slab.start
            self._flush(0)
            if self._plan.boxes is not None:
                records = map(self._source.plane_record, range(slab.start, slab.stop))
                state.records.extend(record for record in records if record is not None)
            state.planes = slab.stop
            if checkpoint is not None:
                checkpoint(state)
            if not self._plan.read_ahead and following is not None:
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
        for slab in cuts(first, done, height):
            if self._plan.places[0] != "source":
                for rows, columns in self._bands(0):
                    self._slabs[0].put((0, rows.start, columns.start), self._written(slab, rows, columns))
            self._filled[0] = slab.stop - slab.start
            self._flush(0)
        self._replaying = False

    def _written(self, planes: slice, rows: slice, columns: slice) -> Array:
        """What is in the file of level 0 already."""
        part: Array = self._writer.level(0)[planes, rows, columns].read(cached=False)
        return part

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
        return _Slab(shape, dtype, None if self._plan.places[level] == "memory" else folder)

    def _read(self, planes: slice) -> list[Future[list[FileRecord | None]]]:
        """Start to read a slab of level 0 into the spare slab."""
        slab, boxes = self._spare, self._plan.boxes
        turn = threading.BoundedSemaphore(self._plan.readers)

        def read(part: range) -> list[FileRecord | None]:
            with turn:
                return [self._read_plane(slab, plane, plane - planes.start) for plane in part]

        def read_boxes(parts: Sequence[tuple[slice, ...]]) -> list[FileRecord | None]:
            with turn:
                for part in parts:
                    block = np.empty((*(axis.stop - axis.start for axis in part), *self._components), slab.dtype)
                    self._source.read_box((part[0].start, part[1].start, part[2].start), block)
                    slab.put((part[0].start - planes.start, part[1].start, part[2].start), block)
            return []

        if self._plan.places[0] == "source":
            return []
        if boxes is None:
            step = planes.stop - planes.start if self._source.forward_only else 1
            return [self._pool.submit(read, range(part.start, part.stop)) for part in cuts(planes.start, planes.stop, step)]
        parts = list(product(*map(cuts, (planes.start, 0, 0), (planes.stop, *self._source.shape[1:]), boxes)))
        if self._source.forward_only:
            return [self._pool.submit(read_boxes, parts)]
        if self._source.rows_in_order:
            return [self._pool.submit(read_boxes, list(plane)) for _, plane in groupby(parts, key=lambda part: part[0].start)]
        return [self._pool.submit(read_boxes, [part]) for part in parts]

    def _read_plane(self, slab: _Slab, plane: int, place: int) -> FileRecord | None:
        if slab.array is not None:
            return self._source.read_plane(plane, slab.array[place])
        block = np.empty((1, *slab.shape[1:]), slab.dtype)
        record = self._source.read_plane(plane, block[0])
        slab.put((place, 0, 0), block)
        return record

    def _bands(self, level: int) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of a level's bands, in order."""
        (rows, columns), (_, height, width) = self._plan.bands[level], self._levels[level].shape
        return product(cuts(0, height, rows), cuts(0, width, columns))

    def _band(self, level: int, rows: slice, columns: slice) -> Array:
        """A band of what a level's slab holds."""
        planes = self._filled[level]
        if level or self._plan.places[0] != "source":
            return self._slabs[level].band(planes, rows, columns)
        start, unit = self._start[0], self._source.unit
        if self._replaying:
            return self._written(slice(start, start + planes), rows, columns)
        first = (start, rows.start, columns.start)
        stops = (start + planes, rows.stop, columns.stop)
        band = np.empty((*(b - a for a, b in zip(first, stops, strict=True)), *self._components), self._source.dtype)

        def read(part: tuple[slice, ...]) -> None:
            with turn:
                place = tuple(slice(axis.start - a, axis.stop - a) for axis, a in zip(part, first, strict=True))
                self._source.read_box((part[0].start, part[1].start, part[2].start), band[place])

        # Pieces of whole units, wide ones first, since these stand together.
        wide = max(1, min(-(-band.shape[2] // unit[2]), PIECE_VOXELS // voxel_count(unit))) * unit[2]
        tall = max(1, PIECE_VOXELS // (unit[0] * unit[1] * wide)) * unit[1]
        parts = product(*map(cuts, first, stops, (unit[0], tall, wide)))
        turn = threading.BoundedSemaphore(self._plan.readers)
        # In order, whatever was asked for before: the first error is the one that is told.
        for future in [self._pool.submit(read, part) for part in parts]:
            future.result()
        return band

    def _flush(self, level: int) -> None:
        """Encode what a level's slab holds, reduce it into the next level's, and go on there if that one is full."""
        plan, planes = self._levels[level], self._filled[level]
        coarser = level + 1 if level + 1 < len(self._levels) else None
        step = (1, 1, 1)
        if coarser is not None:
            a, b, c = (f // g for f, g in zip(self._levels[coarser].factors, plan.factors, strict=True))
            step = (a, b, c)
        for rows, columns in self._bands(level):
            self._flush_band(level, rows, columns, coarser, step)
        while self._pending:
            self._pending.popleft()()
        self._start[level] += planes
        self._filled[level] = 0
        if coarser is not None:
            self._filled[coarser] += -(-planes // step[0])
            complete = self._start[coarser] + self._filled[coarser] == self._levels[coarser].shape[0]
            if complete or self._filled[coarser] == self._plan.heights[coarser]:
                self._flush(coarser)

    def _flush_band(self, level: int, rows: slice, columns: slice, coarser: int | None, step: Shape3) -> None:
        chunks, start = self._levels[level].chunks, self._start[level]
        band = self._band(level, rows, columns)
        sums = None
        if coarser is not None:
            shape: tuple[int, ...] = tuple(-(-n // s) for n, s in zip(band.shape, step, strict=False))
            place = (self._filled[coarser], rows.start // step[1], columns.start // step[2])
            sums = self._slabs[coarser].room(place, (*shape, *self._components))
        for plane, row, column in product(*(range(0, n, chunk) for n, chunk in zip(band.shape, chunks, strict=False))):
            block = band[plane : plane + chunks[0], row : row + chunks[1], column : column + chunks[2]]
            target = None
            if sums is not None:
                target = sums[plane // step[0] :, row // step[1] :, column // step[2] :]
            self._submit(level, (start + plane, rows.start + row, columns.start + column), block, step, target)
        if coarser is not None and sums is not None:
            self._pending.append(partial(self._slabs[coarser].put, place, sums))

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
        octets = codec.octets(block, scratch=True)
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
