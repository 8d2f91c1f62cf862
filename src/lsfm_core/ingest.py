"""Ingest: source -> levels -> store, slab by slab, in one pass over the planes and within a memory budget.

Each level gathers planes until it has a slab as thick as its chunks. The slab is then cut into bands of chunk rows; each chunk is
encoded for the file and reduced into the slab of the next level, in threads. Sums, not means, travel from level to level. A slab
that does not fit the budget is kept in a scratch file instead, and its bands are read back: planes of any size can be ingested.
"""

from __future__ import annotations

import io
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from lsfm_core._request import Request
from lsfm_core.errors import MemoryBudgetError
from lsfm_core.formats import FileRecord, Source, open_source
from lsfm_core.geometry import Orientation, Shape3, Space, check_voxel_size, voxel_count
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.pyramid import LevelPlan, block_sum, plan_levels, sum_dtype, sums_to_mean
from lsfm_core.store import ChannelWriter, SourceFile, check_channel_name, default_threads, edit_lsfm

__all__ = ["IngestReport", "IngestRequest", "ingest_channel"]

Array = npt.NDArray[Any]

#: The interpreter, numpy, HDF5 and the decoders, before any image data.
_BASE_BYTES = 96 * 2**20
#: Chunks per thread that are being encoded or wait to be written.
_IN_FLIGHT_PER_THREAD = 2
_PERCENTILES = (0.5, 99.8)
_SAMPLE_VOXELS = 2_000_000


class IngestRequest(Request):
    """What to put into a file, and how.

    Attributes
    ----------
    path : Path
        The HDF5 file; made if it is not there, else the channel is added.
    channel : str
        Name of the new channel.
    image : str
        A folder of TIFF planes, one of its files, a glob, or a printf pattern.
    voxel_size_mm : tuple of 3 float
        Planes, rows, columns.
    orientation : str
        Axis codes in array order: where each index grows toward, as ``AIR``.
    origin_mm : tuple of 3 float, optional
        R, A, S position of the centre of the voxel that is first in R, A and S. Default 0, 0, 0.
    memory_bytes : int
        Bound of the process' resident size.
    threads : int, optional
        Default: the cores this process may use.
    compression : int
        Deflate level 0 (none) to 3.
    """

    path: Path
    channel: str
    image: str
    voxel_size_mm: tuple[float, float, float]
    orientation: str
    origin_mm: tuple[float, float, float] | None = None
    memory_bytes: int = Field(2 * 10**9, gt=0)
    threads: int | None = Field(None, gt=0)
    compression: int = Field(1, ge=0, le=3)

    @field_validator("orientation")
    @classmethod
    def _check_orientation(cls, value: str) -> str:
        return Orientation(value).axcodes

    @field_validator("voxel_size_mm")
    @classmethod
    def _check_voxel_size(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        return check_voxel_size(value)

    @field_validator("channel")
    @classmethod
    def _check_channel(cls, value: str) -> str:
        check_channel_name(value)
        return value


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did.

    Attributes
    ----------
    path : Path
    channel : str
    space : Space
    dtype : numpy.dtype
    levels : tuple of LevelPlan
    raw_bytes, stored_bytes : int
        Of all levels, before and after compression.
    seconds : float
    warnings : tuple of str
        What the user should look at.
    """

    path: Path
    channel: str
    space: Space
    dtype: np.dtype[Any]
    levels: tuple[LevelPlan, ...]
    raw_bytes: int
    stored_bytes: int
    seconds: float
    warnings: tuple[str, ...]


def ingest_channel(request: IngestRequest, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None) -> IngestReport:
    """Write one image into a file as a new channel.

    Raises
    ------
    LsfmError
        `InputError`, `SourceError`, `ExistsError`, `StorageError`, `MemoryBudgetError` or `CancelledError`; in every case the file
        is as it was before.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        source = open_source(request.image)
        stack.callback(source.close)
        orientation = Orientation(request.orientation)
        space = Space.from_orientation(source.shape, request.voxel_size_mm, orientation, request.origin_mm)
        levels = plan_levels(source.shape, space.voxel_size_mm, source.dtype.itemsize)
        threads = request.threads or default_threads()
        plan = _plan_memory(source, levels, threads, request.memory_bytes)
        file = stack.enter_context(edit_lsfm(request.path))
        writer = file.create_channel(
            request.channel, kind="image", dtype=source.dtype, levels=levels, space=space, compression=request.compression
        )
        pool = ThreadPoolExecutor(threads, thread_name_prefix="lsfm-ingest")
        stack.callback(pool.shutdown, cancel_futures=True)
        total = voxel_count(source.shape) * source.dtype.itemsize
        pyramid = _PyramidWriter(source, levels, writer, plan, pool, threads, request.path.parent, Progress("ingest", total, progress, cancel))
        stack.callback(pyramid.close)
        pyramid.run()
    return IngestReport(
        path=request.path,
        channel=request.channel,
        space=space,
        dtype=source.dtype,
        levels=levels,
        raw_bytes=sum(voxel_count(level.shape) for level in levels) * source.dtype.itemsize,
        stored_bytes=pyramid.stored_bytes,
        seconds=time.perf_counter() - began,
        warnings=tuple(_warnings(space, orientation)),
    )


def _warnings(space: Space, orientation: Orientation) -> Iterator[str]:
    if orientation.is_mirrored:
        yield (
            f"orientation {orientation} is a mirror image of what a camera sees (columns, rows and planes form a left-handed frame): "
            "right and left may be swapped; check it against the specimen"
        )
    size = space.bounds.size_mm
    if max(size) > 1000 or max(size) < 0.1:
        yield f"the image would be {size[0]:g} x {size[1]:g} x {size[2]:g} mm (R, A, S) large: is the voxel size in mm?"


# --- memory ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _MemoryPlan:
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
    """

    heights: tuple[int, ...]
    read_ahead: bool
    in_scratch: tuple[bool, ...]
    readers: int


def _plan_memory(source: Source, levels: Sequence[LevelPlan], threads: int, budget: int) -> _MemoryPlan:
    itemsize = source.dtype.itemsize
    heights, slabs, bands = [], [], []
    for index, level in enumerate(levels):
        chunk = level.chunks[0]
        height = chunk
        if index:
            # What one slab of the finer level gives must fit in.
            step = level.factors[0] // levels[index - 1].factors[0]
            height = max(chunk, -(-heights[-1] // step // chunk) * chunk)
        height = min(height, level.shape[0])
        heights.append(height)
        item = itemsize if index == 0 else sum_dtype(source.dtype, voxel_count(level.factors)).itemsize
        slabs.append(height * level.shape[1] * level.shape[2] * item)
        bands.append(height * level.chunks[1] * level.shape[2] * item)
    plane = source.shape[1] * source.shape[2] * itemsize
    chunk_bytes = voxel_count(levels[0].chunks) * itemsize
    # Per task: the sums of a chunk and its temporaries, its shuffled bytes, its encoded bytes.
    fixed = _BASE_BYTES + 8 * chunk_bytes * (_IN_FLIGHT_PER_THREAD + 1) * threads
    plan = _MemoryPlan(tuple(heights), True, (False,) * len(levels), threads)
    while True:
        # A plane that is being read is there twice: as the file's bytes and decoded.
        need = fixed + 2 * plane * plan.readers + sum(
            bands[k] * 2 if plan.in_scratch[k] else slabs[k] for k in range(len(levels))
        ) + (slabs[0] if plan.read_ahead else 0)
        if need <= budget:
            return plan
        kept = [k for k in range(len(levels)) if not plan.in_scratch[k] and slabs[k] > 2 * bands[k]]
        if plan.read_ahead:
            plan = replace(plan, read_ahead=False)
        elif kept:
            largest = max(kept, key=lambda k: slabs[k])
            plan = replace(plan, in_scratch=tuple(flag or k == largest for k, flag in enumerate(plan.in_scratch)))
        elif plan.readers > 1:
            plan = replace(plan, readers=1)
        else:
            raise MemoryBudgetError(
                f"{source.name}: planes of {source.shape[1]} x {source.shape[2]} need at least {need / 1e6:.0f} MB of memory, "
                f"{budget / 1e6:.0f} MB were given: raise --memory"
            )


class _Slab:
    """Consecutive planes of one level, in memory or in a scratch file."""

    def __init__(self, shape: Shape3, dtype: np.dtype[Any], folder: Path | None) -> None:
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
            self._array[plane : plane + block.shape[0], row : row + block.shape[1]] = block
            return
        for offset, rows in enumerate(np.ascontiguousarray(block)):
            with self._lock:
                view = memoryview(rows).cast("B")
                file = self._at(plane + offset, row)
                while len(view):
                    view = view[file.write(view) :]

    def band(self, planes: int, rows: slice) -> Array:
        """Rows of the first `planes` planes."""
        if self._array is not None:
            return self._array[:planes, rows]
        out = np.empty((planes, rows.stop - rows.start, self.shape[2]), self.dtype)
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
        file.seek((plane * self.shape[1] + row) * self.shape[2] * self.dtype.itemsize)
        return file


# --- the work -------------------------------------------------------------------------------------------------------------------


class _PyramidWriter:
    """Moves planes from a source through all levels into a channel."""

    def __init__(
        self,
        source: Source,
        levels: Sequence[LevelPlan],
        writer: ChannelWriter,
        plan: _MemoryPlan,
        pool: ThreadPoolExecutor,
        threads: int,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._source = source
        self._levels = levels
        self._writer = writer
        self._plan = plan
        self._pool = pool
        self._progress = progress
        self._slabs = [self._new_slab(level, folder) for level in range(len(levels))]
        self._spare = self._new_slab(0, folder) if plan.read_ahead else self._slabs[0]
        # First plane, and number of planes, of what each level's slab holds now.
        self._start = [0] * len(levels)
        self._filled = [0] * len(levels)
        # What is left to do when tasks are done, in order: so the file does not depend on which thread was faster.
        self._pending: deque[Callable[[], None]] = deque()
        self._limit = _IN_FLIGHT_PER_THREAD * threads
        self._samples: list[Array] = []
        self._stride = max(1, round((voxel_count(levels[-1].shape) / _SAMPLE_VOXELS) ** (1 / 3)))
        self.stored_bytes = 0

    def run(self) -> None:
        """Do it all."""
        planes, height = self._source.shape[0], self._plan.heights[0]
        records = []
        reads = self._read(0)
        for start in range(0, planes, height):
            for future in reads:
                record = future.result()
                if record is not None:
                    records.append(SourceFile(record.name, record.size, record.crc32))
            following = start + height
            self._slabs[0], self._spare = self._spare, self._slabs[0]
            if self._plan.read_ahead and following < planes:
                reads = self._read(following)
            self._filled[0] = min(height, planes - start)
            self._flush(0)
            if not self._plan.read_ahead and following < planes:
                reads = self._read(following)
        self._writer.set_sources(records)
        sample = np.concatenate(self._samples)
        sample = sample[np.isfinite(sample)]
        if sample.size:
            self._writer.set_display_percentiles(np.percentile(sample, _PERCENTILES).tolist())

    def close(self) -> None:
        """Let go of slabs and scratch files."""
        for slab in (*self._slabs, self._spare):
            slab.close()

    def _new_slab(self, level: int, folder: Path) -> _Slab:
        plan = self._levels[level]
        dtype = self._source.dtype if level == 0 else sum_dtype(self._source.dtype, voxel_count(plan.factors))
        shape = (self._plan.heights[level], plan.shape[1], plan.shape[2])
        return _Slab(shape, dtype, folder if self._plan.in_scratch[level] else None)

    def _read(self, start: int) -> list[Future[FileRecord | None]]:
        """Start to read a slab of level 0 into the spare slab."""
        slab = self._spare
        stop = min(start + self._plan.heights[0], self._source.shape[0])
        turn = threading.BoundedSemaphore(self._plan.readers)

        def read(plane: int) -> FileRecord | None:
            if slab.array is not None:
                with turn:
                    return self._source.read_plane(plane, slab.array[plane - start])
            with turn:
                rows = np.empty((1, *self._source.shape[1:]), self._source.dtype)
                record = self._source.read_plane(plane, rows[0])
                slab.put(plane - start, 0, rows)
                return record

        return [self._pool.submit(read, plane) for plane in range(start, stop)]

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
                shape = [-(-n // s) for n, s in zip(band.shape, step, strict=True)]
                sums = np.empty(shape, self._slabs[coarser].dtype)
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
        while len(self._pending) > self._limit:
            self._pending.popleft()()

    def _encode(self, level: int, start: Shape3, block: Array, step: Shape3, target: Array | None) -> bytes:
        """Bytes of one chunk; its sums for the next level go to `target`. Runs in the pool."""
        if target is not None:
            sums = block_sum(block, step, target.dtype)
            target[: sums.shape[0], : sums.shape[1], : sums.shape[2]] = sums
        if level:
            block = sums_to_mean(block, self._levels[level].factors, self._source.dtype, start, self._source.shape)
        if level == len(self._levels) - 1:
            self._samples.append(block[:: self._stride, :: self._stride, :: self._stride].ravel())
        return self._writer.codec(level).encode(block)

    def _store(self, level: int, start: Shape3, size: int, future: Future[bytes]) -> None:
        data = future.result()
        self._writer.write_chunk(level, start, data)
        self.stored_bytes += len(data)
        if level == 0:
            self._progress.advance(size)
