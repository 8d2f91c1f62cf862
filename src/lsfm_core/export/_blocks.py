"""Carrying a plan out: voxels of the result, block by block, in threads.

Whatever the blocks, the result is the same: each reads as much around itself as its voxels depend on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lsfm_core.export._majority import cover_of, majority_of_covered, majority_of_samples
from lsfm_core.export.plan import CopyPlan, ExportPlan
from lsfm_core.geometry import Shape3, Space, voxel_count
from lsfm_core.progress import Progress
from lsfm_core.resample import Resampled, VoxelSource, halves

__all__ = ["iter_blocks", "iter_slabs"]

Array = npt.NDArray[Any]
T = TypeVar("T")


def iter_slabs(plan: ExportPlan, progress: Progress, into: Array | None = None) -> Iterator[Array]:
    """The result in slabs along the plan's axis, in order; while one is used, the next is made.

    Parameters
    ----------
    plan : ExportPlan
    progress : Progress
        Advanced by the bytes of each block.
    into : array, optional
        Room for the whole result; the slabs are then parts of it.
    """
    voxels = _Voxels.of(plan)
    with _threads(plan) as pool:

        def begin(start: int, stop: int) -> tuple[Array, list[Future[Array]]]:
            low, high = [0, 0, 0], list(plan.target.shape)
            low[plan.axis], high[plan.axis] = start, stop
            if into is None:
                slab = np.empty(_shape(plan, low, high), plan.dtype, order="F" if plan.axis == 2 else "C")
            else:
                slab = into[_slices(low, high)]
            boxes = _boxes(plan, low, high)
            parts = [slab[_slices(np.subtract(a, low), np.subtract(b, low))] for a, b in boxes]
            return slab, [pool.submit(voxels.fill, part, *box) for part, box in zip(parts, boxes, strict=True)]

        for slab, blocks in _ahead((begin(*ends) for ends in plan.slabs), 1):
            for block in blocks:
                progress.advance(block.result().nbytes)
            yield slab


def iter_blocks(plan: ExportPlan, progress: Progress) -> Iterator[tuple[Shape3, Array]]:
    """The result in blocks of the plan's size: index of the first voxel, and the voxels."""
    voxels = _Voxels.of(plan)
    with _threads(plan) as pool:

        def begin(low: Shape3, high: Shape3) -> tuple[Shape3, Future[Array]]:
            return low, pool.submit(voxels.fill, np.empty(_shape(plan, low, high), plan.dtype), low, high)

        boxes = _boxes(plan, (0, 0, 0), plan.target.shape)
        for start, block in _ahead((begin(*box) for box in boxes), plan.threads):
            values = block.result()
            progress.advance(values.nbytes)
            yield start, values


@contextmanager
def _threads(plan: ExportPlan) -> Iterator[ThreadPoolExecutor]:
    """Threads that begin nothing more once they are left."""
    pool = ThreadPoolExecutor(plan.threads, thread_name_prefix="lsfm-export")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """The same items; `count` more than are asked for are drawn."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _boxes(plan: ExportPlan, starts: Sequence[int], stops: Sequence[int]) -> list[tuple[Shape3, Shape3]]:
    """First voxels and ends of the blocks of a box of the result, in an order in which the next ones share most with the last."""
    edges = [
        [(a, min(a + size, stop)) for a in range(start, stop, size)]
        for start, stop, size in zip(starts, stops, plan.block, strict=True)
    ]
    # Slowest along the axis with the most blocks: then the layer of chunks that two rows of blocks share is smallest.
    order = sorted(range(3), key=lambda axis: -len(edges[axis]))
    back = [order.index(axis) for axis in range(3)]
    ranges = ([ends[k] for k in back] for ends in product(*(edges[axis] for axis in order)))
    return [((a, b, c), (d, e, f)) for (a, d), (b, e), (c, f) in ranges]


@dataclass(frozen=True)
class _Voxels:
    """What a plan makes.

    Attributes
    ----------
    plan : ExportPlan
    image : Resampled or None
        What is interpolated, where voxels are; of a mode, the ids at all the points that are counted.
    presence : Resampled or None
        1 where those points lie in the image.
    inside : Resampled or None
        1 in the region that a mask leaves.
    """

    plan: ExportPlan
    image: Resampled | None
    presence: Resampled | None
    inside: Resampled | None

    @classmethod
    def of(cls, plan: ExportPlan) -> _Voxels:
        """All that is needed beside the plan."""

        def resampled(source: VoxelSource, target: Space, **options: Any) -> Resampled:
            given = {"chain": plan.chain, "interpolation": plan.interpolation, "fill": plan.fill} | options
            return Resampled(source, target, **given, max_bytes=plan.block_bytes, name=plan.name, loops=plan.loops)

        image = presence = inside = None
        if plan.copy is None and plan.method == "mode":
            if cover_of(plan.source, plan.chain, plan.target) is None:
                fine = plan.target.divided(plan.samples)
                image, presence = resampled(_source(plan), fine), resampled(_presence(plan), fine, fill=0)
        elif plan.copy is None:
            image = resampled(_source(plan), plan.target)
        if plan.region is not None:
            inside = resampled(plan.region.source, plan.target, chain=plan.region.chain, interpolation="nearest", fill=0)
        return cls(plan, image, presence, inside)

    def fill(self, out: Array, starts: Shape3, stops: Shape3) -> Array:
        """Put a block's voxels into `out`."""
        if self.plan.copy is not None:
            _copy(out, self.plan, self.plan.copy, starts, stops)
        elif self.plan.method == "mode":
            self._count(out, starts, stops)
        elif self.image is not None:
            self.image.read_box(starts, stops, out)
        if self.inside is not None:
            out[self.inside.read_box(starts, stops) == 0] = self.plan.fill
        return out

    def _count(self, out: Array, starts: Sequence[int], stops: Sequence[int]) -> None:
        """The most frequent id of what each voxel of a block covers; in halves, where the whole would take too much memory."""
        plan = self.plan
        itemsize, voxels = plan.dtype.itemsize, voxel_count(out.shape)
        if self.image is None or self.presence is None:
            cover = cover_of(plan.source, plan.chain, plan.target)
            assert cover is not None
            part = cover.part(starts)
            ends = [part.along(axis, out.shape[part.axes[axis]]) for axis in range(3)]
            read = voxel_count([int(high.max() - low.min()) + 2 for low, high in ends])
            # As read, and the smallest and largest of it on the way to the result.
            if voxels == 1 or 4 * itemsize * (read + voxels) <= plan.block_bytes:
                majority_of_covered(out, part, plan.source.shape, _source(plan).read, plan.fill)
                return
        else:
            counts = plan.samples
            if voxels == 1 or 4 * (itemsize + 1) * voxels * voxel_count(counts) <= plan.block_bytes:
                low, high = np.multiply(starts, counts).tolist(), np.multiply(stops, counts).tolist()
                there = self.presence.read_box(low, high)
                out[...] = majority_of_samples(self.image.read_box(low, high), None if there.all() else there, counts)
                return
        for half, low, high in halves(out, starts, stops):
            self._count(half, low, high)


def _source(plan: ExportPlan) -> VoxelSource:
    """The plan's level, reduced as it says."""
    return VoxelSource.of(plan.level.data, plan.source, plan.reduction)


def _presence(plan: ExportPlan) -> VoxelSource:
    """1 wherever the plan's level has a voxel."""

    def read(low: Sequence[int], high: Sequence[int]) -> Array:
        return np.ones(tuple(b - a for a, b in zip(low, high, strict=True)), np.uint8)

    return VoxelSource(plan.source, np.dtype(np.uint8), (), read, 2)


def _copy(out: Array, plan: ExportPlan, copy: CopyPlan, starts: Shape3, stops: Shape3) -> None:
    """Voxels of the level, transposed and flipped."""
    size = [plan.source.shape[axis] for axis in copy.reorientation.axes]
    low = np.add(starts, copy.offset)
    high = np.add(stops, copy.offset)
    inside_low = np.clip(low, 0, size)
    inside_high = np.clip(high, inside_low, size)
    if (inside_low > low).any() or (inside_high < high).any():
        out[...] = plan.fill
    box = copy.reorientation.source_ranges(inside_low.tolist(), inside_high.tolist(), plan.source.shape)
    part = out[_slices(inside_low - low, inside_high - low)]
    plan.level[box].read(out=copy.reorientation.undo(part))


def _shape(plan: ExportPlan, starts: Sequence[int], stops: Sequence[int]) -> tuple[int, ...]:
    """Of the array that holds a box of the result."""
    return (*(b - a for a, b in zip(starts, stops, strict=True)), *plan.level.shape[3:])


def _slices(starts: Iterable[int], stops: Iterable[int]) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
