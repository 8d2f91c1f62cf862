"""Carrying a plan out: voxels of the result, block by block, in threads.

Whatever the blocks, the result is the same: each reads as much around itself as its voxels depend on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import MemoryBudgetError
from lsfm_core.export._majority import cover_of, majority_of_covered, majority_of_samples
from lsfm_core.export._region import RegionMask
from lsfm_core.export.plan import CopyPlan, ExportPlan
from lsfm_core.geometry import Shape3, Space, voxel_count
from lsfm_core.progress import Progress, size_text
from lsfm_core.pyramid import block_mean
from lsfm_core.resample import Interpolation, itk_bytes_per_voxel, reach, resample
from lsfm_core.transforms import TransformChain

__all__ = ["iter_blocks", "iter_slabs"]

Array = npt.NDArray[Any]
T = TypeVar("T")

# Faces of the image are moved outward by this part of their distance from the centre: a voxel of the result whose centre lies
# exactly on one (an extent of 13.5 voxels gives 14) is then inside for ITK, which counts one of two opposite faces as outside.
_OUTWARD = 1e-12
# For nearest neighbours it also decides ties, the same in every block: far above the rounding of coordinates.
_OUTWARD_NEAREST = 1e-9
# No voxel lies here (in voxels from the centre), so none is left undecided.
_OFF_CENTRE = 0.1


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
            return slab, [pool.submit(_fill, part, plan, *box) for part, box in zip(parts, boxes, strict=True)]

        for slab, blocks in _ahead((begin(*ends) for ends in plan.slabs), 1):
            for block in blocks:
                progress.advance(block.result().nbytes)
            yield slab


def iter_blocks(plan: ExportPlan, progress: Progress) -> Iterator[tuple[Shape3, Array]]:
    """The result in blocks of the plan's size: index of the first voxel, and the voxels."""
    with _threads(plan) as pool:

        def begin(low: Shape3, high: Shape3) -> tuple[Shape3, Future[Array]]:
            return low, pool.submit(_fill, np.empty(_shape(plan, low, high), plan.dtype), plan, low, high)

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


def _fill(out: Array, plan: ExportPlan, starts: Shape3, stops: Shape3) -> Array:
    """Put a block's voxels into `out`."""
    target = plan.target.crop(starts, stops)
    if plan.copy is not None:
        _copy(out, plan, plan.copy, starts, stops)
    elif plan.method == "mode":
        _count(out, plan, target)
    else:
        _sample(out, _Image.of_plan(plan), target, plan.chain, plan.interpolation, plan.fill, plan.block_bytes, plan.name)
    if plan.region is not None:
        inside = np.empty(target.shape, np.uint8)
        _sample(inside, _Image.of_mask(plan.region), target, plan.region.chain, "nearest", 0, plan.block_bytes, plan.name)
        out[inside == 0] = plan.fill
    return out


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


@dataclass(frozen=True)
class _Image:
    """What is interpolated: a level, its block means, or a mask.

    Attributes
    ----------
    space : Space
    dtype : numpy.dtype
    components : tuple of int
        Shape of a voxel.
    read : callable
        ``read(low, high)`` gives the voxels of a box, in array order.
    voxel_bytes : int
        What reading takes for each voxel, at most.
    """

    space: Space
    dtype: np.dtype[Any]
    components: tuple[int, ...]
    read: Callable[[Sequence[int], Sequence[int]], Array]
    voxel_bytes: int

    @classmethod
    def of_plan(cls, plan: ExportPlan) -> _Image:
        """The plan's level, reduced as it says."""
        factors = plan.reduction
        shape = tuple(-(-n // f) for n, f in zip(plan.source.shape, factors, strict=True))

        def read(low: Sequence[int], high: Sequence[int]) -> Array:
            box = tuple(slice(a * f, min(b * f, n)) for a, b, f, n in zip(low, high, factors, plan.source.shape, strict=True))
            voxels = plan.level[box].read()
            return voxels if factors == (1, 1, 1) else block_mean(voxels, factors)

        # As read, ITK's copy, and the sums of block means.
        itemsize = plan.dtype.itemsize * plan.components
        each = 2 * itemsize if factors == (1, 1, 1) else voxel_count(factors) * (2 * itemsize + 8 * plan.components)
        return cls(plan.source.level(factors, shape), plan.dtype, _components(plan), read, each)

    @classmethod
    def of_mask(cls, region: RegionMask) -> _Image:
        """1 where the labels belong to the region."""
        return cls(region.space, np.dtype(np.uint8), (), region.read, region.voxel_bytes)

    @classmethod
    def of_presence(cls, plan: ExportPlan) -> _Image:
        """1 wherever the plan's level has a voxel."""

        def read(low: Sequence[int], high: Sequence[int]) -> Array:
            return np.ones(tuple(b - a for a, b in zip(low, high, strict=True)), np.uint8)

        return cls(plan.source, np.dtype(np.uint8), (), read, 2)


def _count(out: Array, plan: ExportPlan, target: Space) -> None:
    """The most frequent id of what each voxel of a block covers; in halves, where the whole would take too much memory."""
    image = _Image.of_plan(plan)
    cover = cover_of(plan.source, plan.chain, plan.target)
    itemsize, voxels = plan.dtype.itemsize, voxel_count(target.shape)
    if cover is not None:
        part = cover.part(np.rint(plan.target.to_voxel([target.world_from_voxel[:3, 3]])[0]))
        ends = [part.along(axis, target.shape[part.axes[axis]]) for axis in range(3)]
        read = voxel_count([int(high.max() - low.min()) + 2 for low, high in ends])
        # As read, and the smallest and largest of it on the way to the result.
        if voxels == 1 or 4 * itemsize * (read + voxels) <= plan.block_bytes:
            majority_of_covered(out, part, plan.source.shape, image.read, plan.fill)
            return
    else:
        counts = plan.samples
        fine = target.divided(counts)
        if voxels == 1 or 4 * (itemsize + 1) * voxel_count(fine.shape) <= plan.block_bytes:
            samples = np.empty(fine.shape, plan.dtype)
            _sample(samples, image, fine, plan.chain, "nearest", plan.fill, plan.block_bytes, plan.name)
            there = np.empty(fine.shape, np.uint8)
            _sample(there, _Image.of_presence(plan), fine, plan.chain, "nearest", 0, plan.block_bytes, plan.name)
            out[...] = majority_of_samples(samples, None if there.all() else there, counts)
            return
    for half, place in _halves(out, target):
        _count(half, plan, place)


def _sample(
    out: Array,
    image: _Image,
    target: Space,
    chain: TransformChain,
    interpolation: Interpolation,
    fill: float,
    max_bytes: int,
    name: str,
) -> None:
    """Values of an image at the voxels of one block of the result; in halves, where the whole would take too much memory."""
    voxels = voxel_count(target.shape)
    own = voxels * itk_bytes_per_voxel(image.dtype, interpolation) * int(np.prod(image.components))
    carried = chain.on_block(target, max_bytes=max(1, max_bytes - own))
    if carried is not None:
        index = image.space.to_voxel(carried.points)
        # One voxel more than the interpolation needs: rounding must not decide whether a voxel is there.
        margin = reach(interpolation)
        low = [max(0, int(np.floor(v)) - margin) for v in index.min(axis=0)]
        high = [min(n, int(np.ceil(v)) + margin + 1) for v, n in zip(index.max(axis=0), image.space.shape, strict=True)]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            out[...] = fill
            return
        source = voxel_count([b - a for a, b in zip(low, high, strict=True)])
        if own + carried.nbytes + source * image.voxel_bytes <= max_bytes:
            place = _outward(image.space, interpolation).crop(low, high)
            out[...] = resample(image.read(low, high), place, target, interpolation, fill, carried.itk)
            return
    if voxels == 1:
        raise MemoryBudgetError(f"{name}: a single voxel needs more than {size_text(max_bytes)} here: raise the memory")
    for part, half in _halves(out, target):
        _sample(part, image, half, chain, interpolation, fill, max_bytes, name)


def _halves(out: Array, target: Space) -> Iterator[tuple[Array, Space]]:
    """A block cut across its longest axis."""
    axis = int(np.argmax(target.shape))
    middle = target.shape[axis] // 2
    cut = (slice(None),) * axis
    ends = [middle if k == axis else n for k, n in enumerate(target.shape)]
    starts = [middle if k == axis else 0 for k in range(3)]
    yield out[(*cut, slice(middle))], target.crop((0, 0, 0), ends)
    yield out[(*cut, slice(middle, None))], target.crop(starts, target.shape)


def _outward(space: Space, interpolation: Interpolation) -> Space:
    """`space` enlarged by next to nothing."""
    factor = _OUTWARD_NEAREST if interpolation == "nearest" else _OUTWARD
    centre = space.to_world([[(n - 1) / 2 - _OFF_CENTRE for n in space.shape]])[0]
    affine = space.world_from_voxel.copy()
    affine[:3, :3] *= 1 + factor
    affine[:3, 3] += (affine[:3, 3] - centre) * factor
    return Space(space.shape, affine)


def _components(plan: ExportPlan) -> tuple[int, ...]:
    return plan.level.shape[3:]


def _shape(plan: ExportPlan, starts: Sequence[int], stops: Sequence[int]) -> tuple[int, ...]:
    """Of the array that holds a box of the result."""
    return (*(b - a for a, b in zip(starts, stops, strict=True)), *_components(plan))


def _slices(starts: Iterable[int], stops: Iterable[int]) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
