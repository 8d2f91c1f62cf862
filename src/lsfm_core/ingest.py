"""Ingest: source -> levels -> store, slab by slab, in one pass over the planes and within a memory budget.

Each level gathers planes until it has a slab as thick as its chunks. The slab is then cut into bands of chunk rows; each chunk is
encoded for the file and reduced into the slab of the next level, in threads. Sums, not means, travel from level to level. A slab
that does not fit the budget is kept in a scratch file instead, and its bands are read back: planes of any size can be ingested.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from lsfm_core._request import Request
from lsfm_core.errors import InputError, MemoryBudgetError
from lsfm_core.formats import FileRecord, Source, open_source
from lsfm_core.geometry import Orientation, Shape3, Space, Triple, check_voxel_size, voxel_count
from lsfm_core.metadata import ImageMetadata, plain_json, read_metadata
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.pyramid import Kind, LevelPlan, Reducer, plan_levels, reducer
from lsfm_core.regions import LabelTable
from lsfm_core.store import ChannelWriter, LsfmEditor, SourceFile, check_channel_name, default_threads, edit_lsfm

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

    Voxel size, orientation and origin may be left out where the metadata file or the image tells them; given ones win over the
    file's, and those over the image's.

    Attributes
    ----------
    path : Path
        The HDF5 file; made if it is not there, else the channel is added.
    channel : str
        Name of the new channel.
    image : str, path, or array-like
        What `lsfm_core.formats.open_source` takes: a TIFF series or stack, OME-TIFF, NIfTI, NRRD, MHA, Zarr, or in Python any array
        or a function that gives planes.
    image_channel : int or str, optional
        Which channel of an image that has several.
    kind : {"image", "labels", "vectors"}
    voxel_size_mm : tuple of 3 float, optional
        Planes, rows, columns.
    orientation : str, optional
        Axis codes in array order: where each index grows toward, as ``AIR``.
    origin_mm : tuple of 3 float, optional
        R, A, S position of the centre of the voxel that is first in R, A and S. Default: the image's own, or 0, 0, 0.
    metadata : Path, optional
        JSON file that tells of the image, as `lsfm_core.metadata.describe_image` makes it. It must not contradict the image's shape
        and type.
    labels : Path, optional
        For labels: a table of what the ids mean, as `LabelTable.read` takes it.
    inverse_of : str, optional
        For vectors: the channel that holds the inverse of this displacement field.
    replace : bool
        Whether a channel of that name gives way.
    resume : bool
        If the ingest is interrupted, keep what is finished, for the same request to go on from there; and go on from what an
        interrupted one has left. Otherwise an interrupted ingest is rolled back.
    checkpoint_seconds : float
        How often a resumable ingest secures what it has done.
    memory_bytes : int
        Bound of the process' resident size.
    threads : int, optional
        Default: the cores this process may use.
    compression : int
        Deflate level 0 (none) to 3.
    uint16_as_int16 : bool
        Keep uint16 as the same bits in int16, for BigDataViewer before 10.4.6.
    """

    path: Path
    channel: str
    image: Any
    image_channel: int | str | None = None
    kind: Kind = "image"
    voxel_size_mm: tuple[float, float, float] | None = None
    orientation: str | None = None
    origin_mm: tuple[float, float, float] | None = None
    metadata: Path | None = None
    labels: Path | None = None
    inverse_of: str | None = None
    replace: bool = False
    resume: bool = False
    checkpoint_seconds: float = Field(default=30.0, gt=0)
    memory_bytes: int = Field(default=2 * 10**9, gt=0)
    threads: int | None = Field(default=None, gt=0)
    compression: int = Field(default=1, ge=0, le=3)
    uint16_as_int16: bool = False

    @field_validator("orientation")
    @classmethod
    def _check_orientation(cls, value: str | None) -> str | None:
        return None if value is None else Orientation(value).axcodes

    @field_validator("voxel_size_mm")
    @classmethod
    def _check_voxel_size(cls, value: Triple | None) -> Triple | None:
        return None if value is None else check_voxel_size(value)

    @field_validator("channel")
    @classmethod
    def _check_channel(cls, value: str) -> str:
        check_channel_name(value)
        return value

    @model_validator(mode="after")
    def _check_kind(self) -> IngestRequest:
        if self.labels is not None and self.kind != "labels":
            raise InputError(f"labels: only a channel of kind labels has a label table, not {self.kind}")
        if self.inverse_of is not None and self.kind != "vectors":
            raise InputError(f"inverse_of: only a channel of kind vectors can be the inverse of another, not {self.kind}")
        return self


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did.

    Attributes
    ----------
    path : Path
    channel : str
    kind : {"image", "labels", "vectors"}
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
    kind: Kind
    space: Space
    dtype: np.dtype[Any]
    levels: tuple[LevelPlan, ...]
    raw_bytes: int
    stored_bytes: int
    seconds: float
    warnings: tuple[str, ...]


def ingest_channel(
    request: IngestRequest, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> IngestReport:
    """Write one image into a file as a new channel.

    Raises
    ------
    LsfmError
        `InputError`, `SourceError`, `ExistsError`, `StorageError`, `MemoryBudgetError` or `CancelledError`; in every case the file
        is as it was before.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        metadata = read_metadata(request.metadata) if request.metadata is not None else None
        if metadata is not None and request.image_channel is None:
            request = request.model_copy(update={"image_channel": metadata.channel})
        source = open_source(request.image, channel=request.image_channel, kind=request.kind)
        stack.callback(source.close)
        space, warnings = _resolve_space(source, request, metadata)
        table = LabelTable.read(request.labels) if request.labels is not None else None
        itemsize = source.dtype.itemsize * source.components
        levels = plan_levels(source.shape, space.voxel_size_mm, itemsize)
        threads = request.threads or default_threads()
        plan = _plan_memory(source, request.kind, levels, threads, request.memory_bytes)
        editor = stack.enter_context(edit_lsfm(request.path, resume=request.resume))
        if request.inverse_of is not None and editor[request.inverse_of].kind != "vectors":
            raise InputError(f"{request.path}: channel {request.inverse_of!r} is no displacement field, so it has no inverse")
        facts = {**plain_json(source.facts.get("acquisition", {})), **(metadata.acquisition if metadata is not None else {})}
        acquisition = json.dumps(facts)
        fingerprint = _fingerprint(request, source, space, levels, acquisition)
        state = _Progress()
        if editor.note is not None:
            state = _Progress.from_note(editor.note, fingerprint, request.path)
            writer = editor.resume_channel(request.channel)
        else:
            writer = editor.create_channel(
                request.channel,
                kind=request.kind,
                dtype=source.dtype,
                components=source.components,
                levels=levels,
                space=space,
                compression=request.compression,
                replace=request.replace,
                uint16_as_int16=request.uint16_as_int16,
            )
        pool = ThreadPoolExecutor(threads, thread_name_prefix="lsfm-ingest")
        stack.callback(pool.shutdown, cancel_futures=True)
        report = Progress("ingest", voxel_count(source.shape) * itemsize, progress, cancel)
        pyramid = _PyramidWriter(
            source, levels, reducer(request.kind, source.dtype), writer, plan, pool, threads, request.path.parent, report, state
        )
        stack.callback(pyramid.close)
        if request.resume and not source.forward_only:
            pyramid.run(_Checkpoints(editor, fingerprint, request.checkpoint_seconds))
        else:
            pyramid.run(None)
        if facts:
            editor.set_acquisition(request.channel, acquisition)
        if table is not None:
            editor.set_label_table(request.channel, table.to_json())
        if request.inverse_of is not None:
            editor.set_partners(request.channel, request.inverse_of)
    if state.non_finite:
        warnings.append(f"{state.non_finite} voxel(s) are NaN or infinite: kept, and left out of statistics")
    return IngestReport(
        path=request.path,
        channel=request.channel,
        kind=request.kind,
        space=space,
        dtype=source.dtype,
        levels=levels,
        raw_bytes=sum(voxel_count(level.shape) for level in levels) * itemsize,
        stored_bytes=state.stored_bytes,
        seconds=time.perf_counter() - began,
        warnings=tuple(warnings),
    )


def _resolve_space(source: Source, request: IngestRequest, metadata: ImageMetadata | None) -> tuple[Space, list[str]]:
    """The space of level 0: the request's wishes, over the metadata file's, over the image's; and what the user should look at."""
    warnings = [str(note) for note in source.facts.get("notes", ())]
    own = source.space
    if metadata is not None:
        contradictions = metadata.contradictions(source, request.kind)
        if contradictions:
            listing = "; ".join(contradictions)
            raise InputError(
                f"{request.metadata}: contradicts {source.name}: {listing}: correct it, or give the image that it describes"
            )
        own = metadata.space(source.shape) or own
        wishes = {name: value for name, value in metadata.wishes(own).items() if getattr(request, name) is None}
        request = request.model_copy(update=wishes)
    if own is not None and request.voxel_size_mm is None and request.orientation is None:
        space = own
        if request.origin_mm is not None:
            affine = space.world_from_voxel.copy()
            affine[:3, 3] += np.subtract(request.origin_mm, space.first_voxel_mm)
            space = Space(space.shape, affine)
    else:
        voxel_size = request.voxel_size_mm or (own.voxel_size_mm if own else source.voxel_size_mm)
        orientation = Orientation(request.orientation) if request.orientation else own.orientation if own else None
        missing = [
            name
            for name, value in (("voxel size (--voxel-size)", voxel_size), ("orientation (--orientation)", orientation))
            if not value
        ]
        if missing or voxel_size is None or orientation is None:
            raise InputError(
                f"{source.name}: the image does not tell its {' and '.join(missing)}: give what is missing, or --metadata"
            )
        space = Space.from_orientation(source.shape, voxel_size, orientation, request.origin_mm)
        if own is not None:
            warnings.append("the image's own geometry was replaced by the one that was given")
        if orientation.is_mirrored and request.orientation is not None:
            warnings.append(
                f"orientation {orientation} is a mirror image of what a camera sees (columns, rows and planes form a left-handed "
                "frame): right and left may be swapped; check it against the specimen"
            )
    size = space.bounds.size_mm
    if max(size) > 1000 or max(size) < 0.1:
        extent = f"{size[0]:g} x {size[1]:g} x {size[2]:g} mm (R, A, S)"
        warnings.append(f"the image would be {extent} large: is the voxel size in mm?")
    return space, warnings


# --- resuming -------------------------------------------------------------------------------------------------------------------


@dataclass
class _Progress:
    """How far an ingest has come: what a checkpoint has to note, besides what is in the file."""

    planes: int = 0
    records: list[FileRecord] = field(default_factory=list)
    non_finite: int = 0
    stored_bytes: int = 0

    def to_note(self, fingerprint: str) -> bytes:
        return json.dumps({"fingerprint": fingerprint, **asdict(self)}).encode()

    @classmethod
    def from_note(cls, note: bytes, fingerprint: str, path: Path) -> _Progress:
        values = json.loads(note)
        if values.pop("fingerprint") != fingerprint:
            raise InputError(
                f"{path}: the ingest that was interrupted had another image or other options: repeat its command line, or leave "
                "out --resume to undo it and start anew"
            )
        return cls(**{**values, "records": [FileRecord(**record) for record in values["records"]]})


def _fingerprint(request: IngestRequest, source: Source, space: Space, levels: Sequence[LevelPlan], acquisition: str) -> str:
    """Equal for two ingests that would write the same channel."""
    chosen = request.model_dump(mode="json", include={"channel", "image_channel", "kind", "compression", "uint16_as_int16"})
    facts = [
        chosen,
        source.name,
        source.shape,
        source.dtype.str,
        space.world_from_voxel.tolist(),
        acquisition,
        [asdict(level) for level in levels],
    ]
    return json.dumps(facts)


class _Checkpoints:
    """Sets a checkpoint every so often, and so seldom that it takes a twentieth of the time at most."""

    def __init__(self, editor: LsfmEditor, fingerprint: str, seconds: float) -> None:
        self._editor = editor
        self._fingerprint = fingerprint
        self._seconds = seconds
        self._due = time.perf_counter() + seconds

    def offer(self, state: _Progress) -> None:
        began = time.perf_counter()
        if began >= self._due:
            self._editor.checkpoint(state.to_note(self._fingerprint))
            now = time.perf_counter()
            self._due = now + max(self._seconds, 20 * (now - began))


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


def _plan_memory(source: Source, kind: Kind, levels: Sequence[LevelPlan], threads: int, budget: int) -> _MemoryPlan:
    itemsize = source.dtype.itemsize * source.components
    reduce = reducer(kind, source.dtype)
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
    plan = _MemoryPlan(tuple(heights), True, (False,) * len(levels), 1 if source.forward_only else threads)
    while True:
        # A plane that is being read is there twice: as the file's bytes and decoded.
        need = (
            fixed
            + 2 * plane * plan.readers
            + sum(bands[k] * 2 if plan.in_scratch[k] else slabs[k] for k in range(len(levels)))
            + (slabs[0] if plan.read_ahead else 0)
        )
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


class _PyramidWriter:
    """Moves planes from a source through all levels into a channel."""

    def __init__(
        self,
        source: Source,
        levels: Sequence[LevelPlan],
        reduce: Reducer,
        writer: ChannelWriter,
        plan: _MemoryPlan,
        pool: ThreadPoolExecutor,
        threads: int,
        folder: Path,
        progress: Progress,
        state: _Progress,
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
        self._limit = _IN_FLIGHT_PER_THREAD * threads
        self._state = state
        self._count_lock = threading.Lock()
        # While what an interrupted ingest has written is read again, to have the slabs of the coarser levels back.
        self._replaying = False

    def run(self, checkpoints: _Checkpoints | None) -> None:
        """Do it all, or what is left to do."""
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
            if checkpoints is not None:
                checkpoints.offer(state)
            if not self._plan.read_ahead and following < planes:
                reads = self._read(following)
        state.records.extend(self._source.file_records())
        self._writer.finish(
            percentiles=self._percentiles(),
            non_finite=state.non_finite,
            sources=[SourceFile(record.name, record.size, record.crc32) for record in state.records],
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
        while len(self._pending) > self._limit:
            self._pending.popleft()()

    def _encode(self, level: int, start: Shape3, block: Array, step: Shape3, target: Array | None) -> bytes:
        """Bytes of one chunk; its sums for the next level go to `target`. Runs in the pool."""
        if target is not None:
            carried = self._reducer.reduce(block, step, target.dtype)
            target[: carried.shape[0], : carried.shape[1], : carried.shape[2]] = carried
        if self._replaying:
            return b""
        if level:
            block = self._reducer.finish(block, self._levels[level].factors, start, self._source.shape)
        elif block.dtype.kind == "f":
            odd = block.size - int(np.count_nonzero(np.isfinite(block)))
            with self._count_lock:
                self._state.non_finite += odd
        return self._writer.codec(level).encode(block)

    def _store(self, level: int, start: Shape3, size: int, future: Future[bytes]) -> None:
        data = future.result()
        if data:
            self._writer.write_chunk(level, start, data)
            self._state.stored_bytes += len(data)
        if level == 0:
            self._progress.advance(size)
