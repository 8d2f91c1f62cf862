"""Where an ingest keeps its slabs, so that it stays within its memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from operator import itemgetter
from typing import Literal

from lsfm_core.errors import MemoryBudgetError
from lsfm_core.formats import Source, cuts
from lsfm_core.geometry import Shape3, voxel_count
from lsfm_core.progress import size_text
from lsfm_core.pyramid import LevelPlan, Reducer

__all__ = ["PIECE_VOXELS", "MemoryNeeds", "MemoryPlan", "plan_memory"]

Place = Literal["memory", "scratch", "source"]

#: The interpreter, numpy, HDF5 and the decoders, before any image data.
_BASE_BYTES = 96 * 2**20
#: Chunks per thread that are being encoded or wait to be written.
_IN_FLIGHT_PER_THREAD = 2
#: A tile, strip or chunk that is being read is there so often besides: as the file's bytes, decoded, and put in order.
_UNIT_COPIES = 3
#: Of a band so much is read at once, at least, by whoever cannot read straight into it.
PIECE_VOXELS = 2**20
#: Ways of which it is found out how little they need, when none fits.
_MOST_TRIED = 8
#: What it costs to take all voxels through a scratch file, in readings of the source.
_SCRATCH_COST = 0.75


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
        piece = max(unit, box if plan.places[0] == "scratch" else min(box, PIECE_VOXELS))
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
                down = max(1, PIECE_VOXELS // (thick * rows * across)) * rows
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
