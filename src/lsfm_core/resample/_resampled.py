"""The lazy image."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.arrays import Box, LazyArray
from lsfm_core.errors import MemoryBudgetError
from lsfm_core.geometry import Shape3, Space, voxel_count
from lsfm_core.progress import size_text
from lsfm_core.pyramid import block_mean
from lsfm_core.resample._itk import Interpolation, exact_float, itk_bytes_per_voxel, reach, resample, rounded
from lsfm_core.resample._way import BoxWay, Way
from lsfm_core.transforms import Affine, TransformChain

__all__ = ["LOOPS_BYTES", "Resampled", "VoxelSource", "halves", "is_worth_loops"]

Array = npt.NDArray[Any]

# Faces of the image are moved outward by this part of their distance from the centre: a voxel of the result whose centre lies
# exactly on one (an extent of 13.5 voxels gives 14) is then inside for ITK, which counts one of two opposite faces as outside.
_OUTWARD = 1e-12
# For nearest neighbours it also decides ties, the same in every block: far above the rounding of coordinates.
_OUTWARD_NEAREST = 1e-9
# No voxel lies here (in voxels from the centre), so none is left undecided.
_OFF_CENTRE = 0.1
#: Voxels that the loops make before they are rounded and put in their place: what they work on stays near the processor.
_TILE_VOXELS = 2**16
_TILE_ROWS = 32
#: To load the loops takes as long as ITK takes for so many voxels through fields, or through affines alone, for which it is quick.
_FEW_VOXELS = 2**23
_FEW_VOXELS_STRAIGHT = 2**25
#: What the loops take once they are loaded, and while they are compiled for a type of voxels: LLVM, for the most part.
LOOPS_BYTES = 176 * 2**20
#: A thread keeps no more than this for the next box.
_ROOM_BYTES = 32 * 2**20
#: Voxels along each axis that are best read together.
_CHUNK = 128


class _Room(threading.local):
    """Memory in which a thread reads one box after the other: to touch fresh memory takes as long as to copy voxels into it."""

    def __init__(self) -> None:
        self.kept = np.empty(0, np.uint8)

    @contextmanager
    def of(self, nbytes: int) -> Iterator[Array]:
        """Bytes that are good within the block; who asks meanwhile, for what is read from is resampled itself, gets others."""
        room, self.kept = self.kept, np.empty(0, np.uint8)
        if len(room) < nbytes:
            room = np.empty(nbytes, np.uint8)
        yield room[:nbytes]
        if len(room) <= _ROOM_BYTES:
            self.kept = room


_room = _Room()


@dataclass(frozen=True)
class _Reduced:
    """Boxes of an array's voxels, or of the means of blocks of so many."""

    array: Any
    factors: Shape3

    def __call__(self, low: Sequence[int], high: Sequence[int]) -> Array:
        voxels: Array = self._part(low, high).read()
        return voxels if self.factors == (1, 1, 1) else block_mean(voxels, self.factors)

    @contextmanager
    def box(self, low: Sequence[int], high: Sequence[int]) -> Iterator[Array]:
        """As a call, but the voxels are good within the block only."""
        part = self._part(low, high)
        with _room.of(part.nbytes) as room:
            voxels = room.view(part.dtype).reshape(part.shape)
            part.read(out=voxels)
            yield voxels if self.factors == (1, 1, 1) else block_mean(voxels, self.factors)

    def _part(self, low: Sequence[int], high: Sequence[int]) -> Any:
        ends = zip(low, high, self.factors, self.array.shape, strict=False)
        return self.array[tuple(slice(a * f, min(b * f, n)) for a, b, f, n in ends)]


@dataclass(frozen=True)
class VoxelSource:
    """What is interpolated.

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
    def of(cls, array: LazyArray, space: Space, factors: Shape3 = (1, 1, 1)) -> VoxelSource:
        """An array that is read when asked, of voxels in a space, or the means of blocks of ``factors`` of them."""
        a, b, c = (-(-n // f) for n, f in zip(space.shape, factors, strict=True))
        components = array.shape[3:]
        values = voxel_count(components)
        # As read, ITK's copy, and the sums of block means.
        whole = 2 * array.dtype.itemsize * values
        each = whole if factors == (1, 1, 1) else voxel_count(factors) * (whole + 8 * values)
        return cls(space.level(factors, (a, b, c)), array.dtype, components, _Reduced(array, factors), each)


def is_worth_loops(target: Space, chain: TransformChain, interpolation: Interpolation) -> bool:
    """Whether so many voxels are made that the compiled loops, which take a while to load, are done sooner than ITK."""
    straight = all(isinstance(step, Affine) for step in chain.folded)
    return interpolation != "bspline" and voxel_count(target.shape) > (_FEW_VOXELS_STRAIGHT if straight else _FEW_VOXELS)


class Resampled(LazyArray):
    """An image on another grid: reading any box computes that box.

    Values do not depend on the boxes that are read. It goes to other processes if what it is made of does.

    Parameters
    ----------
    source : VoxelSource
    target : Space
        Of the result.
    chain : TransformChain
        From the image outward.
    interpolation : {"linear", "nearest", "bspline"}
    fill : float
        Value outside the image's outer faces. Between them and the outermost voxel centres the outermost values hold.
    max_bytes : int
        What reading a box may take beside the box: larger ones are computed in parts.
    name : str
        What messages call it.
    loops : bool, optional
        Whether compiled loops compute it; else ITK does. Default: if that is done sooner, see `is_worth_loops`.
    """

    def __init__(
        self,
        source: VoxelSource,
        target: Space,
        chain: TransformChain | None = None,
        interpolation: Interpolation = "linear",
        fill: float = 0,
        *,
        max_bytes: int,
        name: str = "image",
        loops: bool | None = None,
    ) -> None:
        shape = (*target.shape, *source.components)
        super().__init__(shape, source.dtype, [min(n, _CHUNK) for n in target.shape] + list(source.components), name=name)
        self._source = source
        self._target = target
        self._chain = TransformChain() if chain is None else chain
        self._interpolation: Interpolation = interpolation
        self._outside = fill
        self._max_bytes = max_bytes
        self._place = _outward(source.space, interpolation)
        wanted = is_worth_loops(target, self._chain, interpolation) if loops is None else loops
        self._way = Way(self._place, self._chain, target) if wanted and interpolation != "bspline" else None

    def read_box(self, start: Sequence[int], stop: Sequence[int], out: Array | None = None) -> Array:
        """Voxels of a box.

        Parameters
        ----------
        start, stop : sequence of 3 int
            Its first voxel, and the one past its last.
        out : array, optional
            Where to put them, in memory of any order.

        Raises
        ------
        MemoryBudgetError
            If a single voxel needs more than may be taken.
        """
        size = [b - a for a, b in zip(start, stop, strict=True)]
        if out is None:
            out = np.empty((*size, *self._source.components), self.dtype)
        if voxel_count(size):
            self._compute(out, list(start), list(stop))
        return out

    def _fill(self, box: Box, out: Array, cached: bool) -> None:
        stepped = next((axis for axis in range(3) if abs(box[axis].step) != 1 and len(box[axis]) > 1), None)
        if stepped is not None:
            # Plane by plane, since what lies between them is not asked for.
            for n, index in enumerate(box[stepped]):
                part = (*box[:stepped], range(index, index + 1), *box[stepped + 1 :])
                self._fill(part, out[(slice(None),) * stepped + (slice(n, n + 1),)], cached)
            return
        upward = [run if run.step > 0 else run[::-1] for run in box[:3]]
        start, stop = [run[0] for run in upward], [run[-1] + 1 for run in upward]
        view = out[tuple(slice(None, None, 1 if run.step > 0 else -1) for run in box[:3])]
        if all(len(run) == n and run.step > 0 for run, n in zip(box[3:], self._source.components, strict=True)):
            self.read_box(start, stop, view)
        else:
            values = self.read_box(start, stop)
            for axis, run in enumerate(box[3:], start=3):
                values = values.take(list(run), axis=axis)
            view[...] = values

    def _compute(self, out: Array, start: list[int], stop: list[int]) -> None:
        voxels = voxel_count(out.shape[:3])
        if self._by_itk(out, start, stop) if self._way is None else self._by_loops(out, start, stop, self._way):
            return
        if voxels == 1:
            raise MemoryBudgetError(
                f"{self.name}: a single voxel needs more than {size_text(self._max_bytes)} here: raise the memory"
            )
        for half, low, high in halves(out, start, stop):
            self._compute(half, low, high)

    def _by_itk(self, out: Array, start: list[int], stop: list[int]) -> bool:
        """Whether the memory was enough."""
        block = self._target.crop(start, stop)
        each = itk_bytes_per_voxel(self.dtype, self._interpolation) * voxel_count(self._source.components)
        own = voxel_count(block.shape) * each
        carried = self._chain.on_block(block, max_bytes=max(1, self._max_bytes - own))
        if carried is None:
            return False
        index = self._source.space.to_voxel(carried.points)
        # One voxel more than the interpolation needs: rounding must not decide whether a voxel is there.
        margin = reach(self._interpolation)
        low = [max(0, int(np.floor(v)) - margin) for v in index.min(axis=0)]
        high = [min(n, int(np.ceil(v)) + margin + 1) for v, n in zip(index.max(axis=0), self._source.space.shape, strict=True)]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            out[...] = self._outside
            return True
        if own + carried.nbytes + self._read_bytes(low, high) > self._max_bytes:
            return False
        voxels = self._source.read(low, high)
        out[...] = resample(voxels, self._place.crop(low, high), block, self._interpolation, self._outside, carried.itk)
        return True

    def _by_loops(self, out: Array, start: list[int], stop: list[int], way: Way) -> bool:
        """Whether the memory was enough."""
        own = min(_TILE_VOXELS, voxel_count(out.shape[:3])) * 8
        found = way.on_box(start, stop, max(1, self._max_bytes - own))
        if found is None:
            return False
        # A position that is nearly negative is one of the first voxel, as ITK counts.
        shift = 0.5 if self._interpolation == "nearest" else 0.0
        after = 1 if self._interpolation == "nearest" else 2
        size = self._source.space.shape
        low = [int(np.clip(np.floor(v + shift), 0, n)) for v, n in zip(found.reach[0], size, strict=True)]
        high = [int(np.clip(np.floor(v + shift) + after, 0, n)) for v, n in zip(found.reach[1], size, strict=True)]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            out[...] = self._outside
            return True
        read = self._source.read
        # What is taken as it is has no copy, as ITK has one.
        as_it_is = self.dtype == np.uint16 and isinstance(read, _Reduced) and read.factors == (1, 1, 1) and out.ndim == 3
        if own + found.nbytes + self._read_bytes(low, high) // (2 if as_it_is else 1) > self._max_bytes:
            return False
        with read.box(low, high) if isinstance(read, _Reduced) else nullcontext(read(low, high)) as voxels:
            view = out.transpose(*way.order, *range(3, out.ndim))
            begin = np.array([start[axis] for axis in way.order], np.int64)
            if out.ndim == 3:
                self._tiles(view, begin, found, voxels, low)
            else:
                for component in range(out.shape[3]):
                    self._tiles(view[..., component], begin, found, voxels[..., component], low)
        return True

    def _tiles(self, out: Array, start: Array, way: BoxWay, voxels: Array, low: list[int]) -> None:
        """Values of a box, whose axes are in the way's order, tile by tile."""
        from lsfm_core.kernels.warp import linear_values, nearest_values

        rows = min(_TILE_ROWS, out.shape[1])
        planes = max(1, _TILE_VOXELS // (rows * out.shape[2]))
        first, size = np.array(low, np.int64), np.array(self._source.space.shape, np.int64)
        # Loops are compiled for each type that they get, so they get few: of nearest voxels the bits, of others an exact equal.
        bits = np.dtype(f"u{self.dtype.itemsize}")
        is_nearest = self._interpolation == "nearest"
        kind = bits if is_nearest else exact_float(self.dtype)
        is_short = not is_nearest and kind == np.float32 and self.dtype.kind in "ub"
        is_whole = is_short and self.dtype.kind == "u"
        if is_nearest:
            voxels, fill = voxels.view(bits), np.array([self._outside]).astype(self.dtype).view(bits)
        else:
            voxels = voxels.astype(np.uint16 if is_short else kind, copy=False)
            fill = rounded(np.array([self._outside], kind), self.dtype)
        voxels = np.require(voxels, requirements=["C", "W"])
        is_finite = self.dtype.kind in "uib" or (not is_nearest and _is_finite(voxels))
        for i in range(0, out.shape[0], planes):
            for j in range(0, out.shape[1], rows):
                part = out[i : i + planes, j : j + rows]
                tile = np.empty(part.shape, np.uint16 if is_whole else kind)
                at = start + np.array([i, j, 0])
                if is_nearest:
                    nearest_values(tile, at, *way.arguments, voxels, first, size, fill)
                    part[...] = tile.view(self.dtype)
                else:
                    linear_values(tile, at, *way.arguments, voxels, first, size, float(fill[0]), is_finite, is_whole)
                    part[...] = tile if is_whole else rounded(tile, self.dtype)

    def _read_bytes(self, low: Sequence[int], high: Sequence[int]) -> int:
        return voxel_count([b - a for a, b in zip(low, high, strict=True)]) * self._source.voxel_bytes


def halves(out: Array, start: Sequence[int], stop: Sequence[int]) -> Iterator[tuple[Array, list[int], list[int]]]:
    """A box cut across its longest axis: parts of an array that holds it, and where each begins and ends."""
    axis = int(np.argmax(out.shape[:3]))
    middle = out.shape[axis] // 2
    cut = (slice(None),) * axis
    ends, starts = list(stop), list(start)
    ends[axis] = starts[axis] = start[axis] + middle
    yield out[(*cut, slice(middle))], list(start), ends
    yield out[(*cut, slice(middle, None))], starts, list(stop)


def _is_finite(values: Array) -> bool:
    """Whether floats are neither infinite nor NaN; large ones, whose sum is infinite, may be taken for such."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(values.sum()))


def _outward(space: Space, interpolation: Interpolation) -> Space:
    """`space` enlarged by next to nothing."""
    factor = _OUTWARD_NEAREST if interpolation == "nearest" else _OUTWARD
    centre = space.to_world([[(n - 1) / 2 - _OFF_CENTRE for n in space.shape]])[0]
    affine = space.world_from_voxel.copy()
    affine[:3, :3] *= 1 + factor
    affine[:3, 3] += (affine[:3, 3] - centre) * factor
    return Space(space.shape, affine)
