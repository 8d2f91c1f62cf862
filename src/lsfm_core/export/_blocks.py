"""Carrying a plan out: voxels of the result, block by block, in threads.

Whatever the blocks, the result is the same: each reads as much around itself as its voxels depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import MemoryBudgetError
from lsfm_core.export._region import RegionMask
from lsfm_core.export.plan import ExportPlan
from lsfm_core.geometry import Shape3, Space, voxel_count
from lsfm_core.progress import Progress
from lsfm_core.pyramid import block_mean, block_mode
from lsfm_core.resample import Interpolation, itk_bytes_per_voxel, reach, resample
from lsfm_core.transforms import TransformChain

__all__ = ["iter_blocks", "iter_slabs"]

Array = npt.NDArray[Any]

# Faces of the image are moved outward by this part of their distance from the centre: a voxel of the result whose centre lies
# exactly on one (an extent of 13.5 voxels gives 14) is then inside for ITK, which counts one of two opposite faces as outside.
_OUTWARD = 1e-12
# For nearest neighbours it also decides ties, the same in every block: far above the rounding of coordinates.
_OUTWARD_NEAREST = 1e-9
# No voxel lies here (in voxels from the centre), so none is left undecided.
_OFF_CENTRE = 0.1


def iter_slabs(plan: ExportPlan, progress: Progress) -> Iterator[Array]:
    """The result in slabs along the plan's axis, in order."""
    shape = plan.target.shape
    with ThreadPoolExecutor(plan.threads, thread_name_prefix="lsfm-export") as pool:
        for start, stop in plan.slabs:
            low = tuple(start if axis == plan.axis else 0 for axis in range(3))
            high = tuple(stop if axis == plan.axis else n for axis, n in enumerate(shape))
            size = tuple(b - a for a, b in zip(low, high, strict=True))
            slab = np.empty(size + _components(plan), plan.dtype, order="F" if plan.axis == 2 else "C")
            for box, values in _blocks(plan, low, high, pool, progress):
                slab[tuple(slice(a - c, b - c) for (a, b), c in zip(box, low, strict=True))] = values
            yield slab


def iter_blocks(plan: ExportPlan, progress: Progress) -> Iterator[tuple[Shape3, Array]]:
    """The result in blocks of the plan's size: index of the first voxel, and the voxels."""
    with ThreadPoolExecutor(plan.threads, thread_name_prefix="lsfm-export") as pool:
        for (i, j, k), values in _blocks(plan, (0, 0, 0), plan.target.shape, pool, progress):
            yield (i[0], j[0], k[0]), values


def _blocks(
    plan: ExportPlan, starts: Sequence[int], stops: Sequence[int], pool: ThreadPoolExecutor, progress: Progress
) -> Iterator[tuple[tuple[tuple[int, int], ...], Array]]:
    """Blocks of a box of the result, in order; as many are under way as there are threads."""
    edges = [
        [(a, min(a + size, stop)) for a in range(start, stop, size)]
        for start, stop, size in zip(starts, stops, plan.block, strict=True)
    ]
    boxes = list(product(*edges))
    waiting = []
    try:
        for number in range(len(boxes) + plan.threads):
            if number < len(boxes):
                low, high = zip(*boxes[number], strict=True)
                waiting.append(pool.submit(_block, plan, low, high))
            if number >= plan.threads:
                values = waiting.pop(0).result()
                yield boxes[number - plan.threads], values
                progress.advance(values.nbytes)
    finally:
        for future in waiting:
            future.cancel()


def _block(plan: ExportPlan, starts: Shape3, stops: Shape3) -> Array:
    target = plan.target.crop(starts, stops)
    if plan.copy is not None:
        values = _copied(plan, starts, stops)
    else:
        values = _sampled(_Image.of_plan(plan), target, plan.chain, plan.interpolation, plan.fill, plan.block_bytes, plan.name)
    if plan.region is not None:
        inside = _sampled(_Image.of_mask(plan.region), target, plan.region.chain, "nearest", 0, plan.block_bytes, plan.name)
        values[inside == 0] = plan.fill
    return values


def _copied(plan: ExportPlan, starts: Shape3, stops: Shape3) -> Array:
    """Voxels of the level, transposed and flipped."""
    assert plan.copy is not None
    reorientation, offset = plan.copy.reorientation, plan.copy.offset
    size = [plan.source.shape[axis] for axis in reorientation.axes]
    low = [a + o for a, o in zip(starts, offset, strict=True)]
    high = [b + o for b, o in zip(stops, offset, strict=True)]
    inside_low = [min(max(a, 0), n) for a, n in zip(low, size, strict=True)]
    inside_high = [max(min(b, n), a) for b, n, a in zip(high, size, inside_low, strict=True)]
    box = reorientation.source_ranges(inside_low, inside_high, plan.source.shape)
    values = reorientation.apply(plan.level[box].read())
    if (inside_low, inside_high) == (low, high):
        return values if plan.region is None else values.copy()
    out = np.full([b - a for a, b in zip(low, high, strict=True)] + list(_components(plan)), plan.fill, plan.dtype)
    out[tuple(slice(a - c, b - c) for a, b, c in zip(inside_low, inside_high, low, strict=True))] = values
    return out


@dataclass(frozen=True)
class _Image:
    """What is interpolated: a level, its block means or modes, or a mask.

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
            return voxels if factors == (1, 1, 1) else _reduced(voxels, factors, plan.method == "mode")

        # As read, ITK's copy, and the sums of block means.
        itemsize = plan.dtype.itemsize * plan.components
        each = 2 * itemsize if factors == (1, 1, 1) else voxel_count(factors) * (2 * itemsize + 8 * plan.components)
        return cls(plan.source.level(factors, shape), plan.dtype, _components(plan), read, each)

    @classmethod
    def of_mask(cls, region: RegionMask) -> _Image:
        """1 where the labels belong to the region."""
        return cls(region.space, np.dtype(np.uint8), (), region.read, region.voxel_bytes)


def _reduced(voxels: Array, factors: Shape3, mode: bool) -> Array:
    if not mode:
        return block_mean(voxels, factors)
    # Halved again and again, as the pyramid's own levels are.
    while max(factors) > 1:
        a, b, c = (min(2, f) for f in factors)
        voxels = block_mode(voxels, (a, b, c))
        factors = (-(-factors[0] // 2), -(-factors[1] // 2), -(-factors[2] // 2))
    return voxels


def _sampled(
    image: _Image, target: Space, chain: TransformChain, interpolation: Interpolation, fill: float, max_bytes: int, name: str
) -> Array:
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
            return np.full(target.shape + image.components, fill, image.dtype)
        source = voxel_count([b - a for a, b in zip(low, high, strict=True)])
        if own + carried.nbytes + source * image.voxel_bytes <= max_bytes:
            place = _outward(image.space, interpolation).crop(low, high)
            return resample(image.read(low, high), place, target, interpolation, fill, carried.itk)
    if voxels == 1:
        raise MemoryBudgetError(f"{name}: a single voxel needs more than {max_bytes / 1e6:.0f} MB here: raise the memory")
    axis = int(np.argmax(target.shape))
    middle = target.shape[axis] // 2
    ends = [middle if k == axis else n for k, n in enumerate(target.shape)]
    starts = [middle if k == axis else 0 for k in range(3)]
    halves = (target.crop((0, 0, 0), ends), target.crop(starts, target.shape))
    return np.concatenate([_sampled(image, half, chain, interpolation, fill, max_bytes, name) for half in halves], axis)


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
