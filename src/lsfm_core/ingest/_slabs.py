"""From planes to chunks: levels are made slab by slab, in one pass and within a memory budget.

Each level gathers planes until it has a slab as thick as its chunks. The slab is then cut into bands of chunks; each is encoded for
the file and reduced into the slab of the next level, in threads. Sums, not means, travel from level to level. A slab that does
not fit the budget is kept in a scratch file instead, and its bands are read back; that of level 0 may not be kept at all, and its
bands be read from the source as boxes. So planes of any size can be ingested.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from glob import escape
from itertools import groupby, pairwise, product
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from lsfm_core.errors import InputError, MemoryBudgetError, StorageError
from lsfm_core.formats import Source, cuts
from lsfm_core.geometry import Shape3, voxel_count
from lsfm_core.progress import Progress, size_text
from lsfm_core.pyramid import LevelPlan, Reducer
from lsfm_core.records import FileRecord
from lsfm_core.store import ChannelWriter

__all__ = ["DIGESTS", "IngestState", "MemoryNeeds", "MemoryPlan", "PyramidWriter", "digest_of", "plan_memory", "stamps_of"]

Array = npt.NDArray[Any]
Place = Literal["memory", "scratch", "source"]

#: The interpreter, numpy, HDF5 and the decoders, before any image data.
_BASE_BYTES = 96 * 2**20
#: Chunks per thread that are being encoded or wait to be written.
_IN_FLIGHT_PER_THREAD = 2
#: A tile, strip or chunk that is being read is there so often besides: as the file's bytes, decoded, and put in order.
_UNIT_COPIES = 3
#: Of a band so much is read at once, at least, by whoever cannot read straight into it.
_PIECE_VOXELS = 2**20
#: Ways of which it is found out how little they need, when none fits.
_MOST_TRIED = 8
#: What it costs to take all voxels through a scratch file, in readings of the source.
_SCRATCH_COST = 0.75
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
    places : tuple of {"memory", "scratch", "source"}
        Where each level's slabs are: in memory, in a scratch file, or, of level 0, nowhere but in the source, of which each band is
        read when its turn comes.
    bands : tuple of (int, int)
        Rows and columns of the bands in which each level's slabs are gone through.
    readers : int
        Threads that read at the same time.
    boxes : tuple of 3 int, optional
        Planes, rows, columns that are read at once; None for whole planes.
    amplification : float
        How often each voxel of the source is read.
    in_flight : int
        Chunks that are being encoded or wait to be written at the same time.
    peak_bytes : int
        Estimate of the process' largest resident size; within the budget.
    """

    heights: tuple[int, ...]
    read_ahead: bool
    places: tuple[Place, ...]
    bands: tuple[tuple[int, int], ...]
    readers: int
    boxes: Shape3 | None
    amplification: float
    in_flight: int
    peak_bytes: int


class MemoryNeeds:
    """What an ingest needs, by how its slabs are kept."""

    def __init__(self, source: Source, reduce: Reducer, levels: Sequence[LevelPlan], threads: int) -> None:
        self.source = source
        self.levels = levels
        self.in_flight = _IN_FLIGHT_PER_THREAD * threads
        itemsize = source.dtype.itemsize * source.components
        carried = [reduce.carried_dtype(level.factors).itemsize * source.components for level in levels[1:]]
        #: Of a voxel of each level.
        self.items = [itemsize, *carried]
        self.steps = [
            tuple(f // g for f, g in zip(coarser.factors, finer.factors, strict=True)) for finer, coarser in pairwise(levels)
        ]
        # Per task: the sums of a chunk and its temporaries, its shuffled bytes, its encoded bytes.
        chunk_bytes = voxel_count(levels[0].chunks) * itemsize
        self.fixed = _BASE_BYTES + 8 * chunk_bytes * (_IN_FLIGHT_PER_THREAD + 1) * threads
        #: The smallest bands of each level: chunks, and what the next level makes one voxel of.
        self.grains: list[tuple[int, int]] = []
        for index, level in enumerate(levels):
            _, down, across = self.steps[index] if index < len(self.steps) else (1, 1, 1)
            grain = math.lcm(level.chunks[1], down), math.lcm(level.chunks[2], across)
            self.grains.append((min(grain[0], level.shape[1]), min(grain[1], level.shape[2])))

    def heights(self, factor: int) -> tuple[int, ...]:
        """Planes of slabs, where those of level 0 are so many chunks thick."""
        heights: list[int] = []
        for index, level in enumerate(self.levels):
            chunk = level.chunks[0]
            # What one slab of the finer level gives must fit in.
            need = chunk * factor if not index else -(-heights[-1] // self.steps[index - 1][0] // chunk) * chunk
            heights.append(min(max(chunk, need), level.shape[0]))
        return tuple(heights)

    def need(self, plan: MemoryPlan) -> int:
        """Bytes that a plan takes at most."""
        kept, passing = 0, 0
        for k, (place, height, (rows, columns)) in enumerate(zip(plan.places, plan.heights, plan.bands, strict=True)):
            if place == "memory":
                kept += self.slab(plan, k) * (2 if k == 0 and plan.read_ahead else 1)
            band = 0 if place == "memory" else height * rows * columns * self.items[k]
            if k + 1 < len(self.levels) and plan.places[k + 1] != "memory":
                a, b, c = self.steps[k]
                band += -(-height // a) * -(-rows // b) * -(-columns // c) * self.items[k + 1]
            # One that is being filled, and those whose chunks are not yet encoded. The bands of a level are gone before the next
            # level's turn.
            level = self.levels[k]
            chunks = -(-height // level.chunks[0]) * -(-rows // level.chunks[1]) * -(-columns // level.chunks[2])
            passing = max(passing, band * (1 + -(-self.in_flight // chunks)))
        return self.fixed + self._reading(plan) + kept + passing

    def _reading(self, plan: MemoryPlan) -> int:
        source = self.source
        if plan.boxes is None:
            # A plane that is being read is there twice: as the file's bytes and decoded.
            return source.read_bytes + 2 * voxel_count(source.shape[1:]) * self.items[0] * plan.readers
        unit = voxel_count(source.unit)
        box = min(voxel_count(plan.boxes), voxel_count(source.shape))
        # What is not given away in boxes of its own is read into a band.
        piece = max(unit, box if plan.places[0] == "scratch" else min(box, _PIECE_VOXELS))
        once = piece if source.rows_in_order else unit
        return source.box_bytes + (piece + _UNIT_COPIES * once) * source.read_voxel_bytes * plan.readers

    def slab(self, plan: MemoryPlan, level: int) -> int:
        """Bytes of a level's slab."""
        return plan.heights[level] * voxel_count(self.levels[level].shape[1:]) * self.items[level]

    def floor(self, plan: MemoryPlan) -> int:
        """Bytes below which a plan does not come, whatever `eased` does to it."""
        least = []
        for k, place in enumerate(plan.places):
            rows, columns = (plan.bands if place == "source" else self.grains)[k]
            passing = 2 * plan.heights[k] * rows * columns * self.items[k]
            least.append(passing if place != "memory" else min(passing, self.slab(plan, k)))
        return self.fixed + self._reading(replace(plan, readers=1)) + max(least)

    def eased(self, plan: MemoryPlan) -> Iterator[MemoryPlan]:
        """The plan, and what becomes of it when it has to need less and less."""
        easier: MemoryPlan | None = plan
        while easier is not None:
            yield easier
            easier = self._eased_once(easier)

    def _eased_once(self, plan: MemoryPlan) -> MemoryPlan | None:
        """The plan with one change that saves memory; None where nothing is left to change."""
        if plan.read_ahead:
            return replace(plan, read_ahead=False)
        need = self.need(plan)
        changes = [
            replace(plan, places=(*plan.places[:k], "scratch", *plan.places[k + 1 :]))
            for k, place in enumerate(plan.places)
            if k and place == "memory"
        ]
        changes = [change for change in changes if self.need(change) < need]
        if changes:
            return min(changes, key=self.need)
        narrower = [
            replace(plan, bands=(*plan.bands[:k], (rows, self._narrow(columns, self.grains[k][1])), *plan.bands[k + 1 :]))
            for k, (rows, columns) in enumerate(plan.bands)
            if plan.places[k] == "scratch" and columns > self.grains[k][1]
        ]
        # Several may be as large.
        narrower = [change for change in narrower if self.need(change) <= need]
        if narrower:
            return min(narrower, key=lambda change: (self.need(change), -max(c for _, c in change.bands)))
        return replace(plan, readers=1) if plan.readers > 1 else None

    def _narrow(self, columns: int, grain: int) -> int:
        """About half of so many columns, in whole grains."""
        return max(grain, -(-columns // grain) // 2 * grain)

    def start(self, factor: int = 1) -> MemoryPlan:
        """Everything in memory, whole planes read."""
        source = self.source
        return MemoryPlan(
            heights=self.heights(factor),
            read_ahead=True,
            places=tuple("memory" for _ in self.levels),
            bands=tuple((rows, level.shape[2]) for (rows, _), level in zip(self.grains, self.levels, strict=True)),
            readers=1 if source.forward_only else self.in_flight // _IN_FLIGHT_PER_THREAD,
            boxes=None,
            amplification=1.0,
            in_flight=self.in_flight,
            peak_bytes=0,
        )

    def elsewhere(self) -> list[MemoryPlan]:
        """Ways to keep the slabs of level 0 out of memory, those first that read least."""
        source = self.source
        (planes, rows, columns), (depth, height, width) = source.unit, source.shape
        # Long runs are read faster.
        planewise = replace(self.start(), read_ahead=False)
        planewise = replace(planewise, places=("scratch", *planewise.places[1:]))
        found: list[tuple[tuple[float, int, int], MemoryPlan]] = [((1 + _SCRATCH_COST, -width, 0), planewise)]
        factor = 1
        while True:
            plan = replace(self.start(factor), read_ahead=False)
            deep = _amplification(depth, plan.heights[0], planes)
            grain_rows, grain_columns = self.grains[0]
            bands = []
            if not (source.rows_in_order or source.forward_only):
                tall = _multiples(grain_rows, rows, height)
                wide = _multiples(grain_columns, columns, width)
                bands = list(product(tall, wide))
            for band in bands:
                amplification = deep * _amplification(height, band[0], rows) * _amplification(width, band[1], columns)
                boxes = (plan.heights[0], *band)
                way = replace(plan, boxes=boxes, bands=(band, *plan.bands[1:]), amplification=amplification)
                way = replace(way, places=("source", *plan.places[1:]))
                found.append(((round(amplification, 1), -band[1], band[0]), way))
            # Through a scratch file, which is written and read once more.
            thick = 1 if source.rows_in_order else min(planes, plan.heights[0])
            for across in sorted({width, columns}):
                down = max(1, _PIECE_VOXELS // (thick * rows * across)) * rows
                way = replace(plan, boxes=(thick, down, across), amplification=deep, places=("scratch", *plan.places[1:]))
                found.append(((round(deep, 1) + _SCRATCH_COST, -across, down), way))
            if plan.heights[0] >= min(planes, depth):
                break
            factor *= 2
        return [way for _, way in sorted(found, key=itemgetter(0))]


def _amplification(size: int, step: int, unit: int) -> float:
    """How often an axis is read, on the average, that is gone through in steps and can only be read in units."""
    read: int = sum(min(-(-part.stop // unit) * unit, size) - part.start // unit * unit for part in cuts(0, size, step))
    return read / size


def _multiples(grain: int, unit: int, size: int) -> list[int]:
    """Lengths of bands, of whole grains, small ones first: in steps of two, those that are whole units as well, and all."""
    found = {size}
    for base in (grain, math.lcm(grain, unit)):
        length = base
        while length < size:
            found.add(length)
            length *= 2
    return sorted(found)


def plan_memory(source: Source, reduce: Reducer, levels: Sequence[LevelPlan], threads: int, budget: int) -> MemoryPlan:
    """Decide how to keep slabs, so that the process stays within `budget` bytes.

    Raises
    ------
    MemoryBudgetError
        If no way does; says how much is needed.
    """
    memory = MemoryNeeds(source, reduce, levels, threads)
    ways = [memory.start(), *memory.elsewhere()]
    for way in ways:
        if memory.floor(way) > budget:
            continue
        for plan in memory.eased(way):
            need = memory.need(plan)
            if need <= budget:
                return replace(plan, peak_bytes=need)
    thrifty = sorted(ways, key=memory.floor)[:_MOST_TRIED]
    least = min(memory.need(plan) for way in thrifty for plan in memory.eased(way))
    unit = " x ".join(map(str, source.unit))
    raise MemoryBudgetError(
        f"{source.name}: needs at least {size_text(least)} of memory, {size_text(budget)} were given: {unit} voxels of it "
        "(planes, rows, columns) can only be read together: raise the memory (--memory)"
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
        wide = max(1, min(-(-band.shape[2] // unit[2]), _PIECE_VOXELS // voxel_count(unit))) * unit[2]
        tall = max(1, _PIECE_VOXELS // (unit[0] * unit[1] * wide)) * unit[1]
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
