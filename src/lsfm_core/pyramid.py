"""The resolution pyramid: which levels an image gets, and how their voxels are made.

A level of an image (or of vectors or components) with factor f holds, at index i, the mean of level-0 voxels
``f*i … f*i + f - 1`` along each axis, for each component by itself; the last block averages only the voxels that exist. Means are
taken from sums of level 0, never from rounded means, so a level does not depend on the levels or slabs it came through. A level of
labels holds the most frequent id of the finer level's block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lsfm_core.geometry import Shape3, voxel_count

__all__ = [
    "Kind",
    "LevelPlan",
    "Reducer",
    "block_mean",
    "block_mode",
    "block_sum",
    "plan_levels",
    "reducer",
    "sum_dtype",
    "sums_to_mean",
]

Array = npt.NDArray[Any]
Kind = Literal["image", "labels", "vectors", "components"]

#: Size of a chunk before compression: large enough that a viewer needs few of them, small enough to decode in a millisecond.
CHUNK_BYTES = 2**20
#: BigDataViewer's ProposeMipmaps stops when the longest axis has come down to this.
COARSEST_SIZE = 256
#: Labels that are worth that the compiled loop is loaded for them.
_MANY_VOXELS = 2**22


@dataclass(frozen=True)
class LevelPlan:
    """One level of a pyramid; everything in array order.

    Attributes
    ----------
    factors : tuple of 3 int
        Level-0 voxels per voxel of this level.
    shape : tuple of 3 int
        ``ceil(level-0 size / factor)``.
    chunks : tuple of 3 int
        Voxels per chunk.
    """

    factors: Shape3
    shape: Shape3
    chunks: Shape3


def plan_levels(
    shape: Sequence[int], voxel_size_mm: Sequence[float], itemsize: int, chunk_bytes: int = CHUNK_BYTES
) -> tuple[LevelPlan, ...]:
    """Plan a pyramid whose voxels become isotropic, by the rule of BigDataViewer's ProposeMipmaps.

    From one level to the next an axis is halved if its voxel is at most twice as long as the shortest one; levels are added until
    the longest axis has at most 256 voxels. Chunks have power-of-two sides and come as near to a cube in the world as they can.

    Parameters
    ----------
    shape, voxel_size_mm : sequence of 3
        Of level 0, in array order.
    itemsize : int
        Bytes per voxel, components included.
    chunk_bytes : int
        Upper limit of a chunk's uncompressed size.
    """
    size = (int(shape[0]), int(shape[1]), int(shape[2]))
    voxel = [float(v) for v in voxel_size_mm]
    factors = [1, 1, 1]
    levels = []
    while True:
        level_shape = _ceil_divide(size, factors)
        chunks = _plan_chunks(level_shape, voxel, max(1, chunk_bytes // itemsize))
        levels.append(LevelPlan((factors[0], factors[1], factors[2]), level_shape, chunks))
        if max(level_shape) <= COARSEST_SIZE:
            return tuple(levels)
        splittable = [axis for axis in range(3) if level_shape[axis] > 1]
        halved = [axis for axis in splittable if voxel[axis] <= 2 * min(voxel)] or splittable
        for axis in halved:
            factors[axis] *= 2
            voxel[axis] *= 2


def _ceil_divide(size: Sequence[int], factors: Sequence[int]) -> Shape3:
    a, b, c = (-(-n // f) for n, f in zip(size, factors, strict=True))
    return a, b, c


def _plan_chunks(shape: Shape3, voxel: Sequence[float], max_voxels: int) -> Shape3:
    chunk = [1, 1, 1]
    while True:
        growable = [axis for axis in range(3) if chunk[axis] < shape[axis]]
        if not growable or 2 * voxel_count(chunk) > max_voxels:
            break
        # Columns before rows before planes where they tie: longer runs in memory.
        axis = min(growable, key=lambda k: (chunk[k] * voxel[k], -k))
        chunk[axis] *= 2
    a, b, c = (min(n, limit) for n, limit in zip(chunk, shape, strict=True))
    return a, b, c


def sum_dtype(dtype: npt.DTypeLike, voxels: int) -> np.dtype[Any]:
    """The dtype in which blocks of so many `voxels` are summed without loss.

    Integers of up to 32 bits are summed in 32 or 64 bits; everything else in float64, so means of 64-bit integers are exact up to
    2**53 only.
    """
    dtype = np.dtype(dtype)
    if dtype.kind in "ui" and dtype.itemsize <= 4:
        bits = 8 * dtype.itemsize + (voxels - 1).bit_length()
        return np.dtype(f"{dtype.kind}{4 if bits <= 32 else 8}")
    return np.dtype(np.float64)


def block_sum(array: Array, factors: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """Sums of blocks of ``factors`` voxels along the first three axes; the last block may be smaller.

    Parameters
    ----------
    array : array (a, b, c[, components])
    factors : sequence of 3 int
    dtype : dtype
        Of the sums; see `sum_dtype`.
    """
    result = array
    rest = list(factors)
    if rest[:2] == [2, 2] and not (array.shape[0] % 2 or array.shape[1] % 2):
        # The usual case: four rows at once, each in one run through memory.
        result = np.add(array[0::2, 0::2], array[0::2, 1::2], dtype=dtype)
        result += array[1::2, 0::2]
        result += array[1::2, 1::2]
        rest[:2] = [1, 1]
    for axis, factor in enumerate(rest):
        if factor == 1:
            continue
        # Axis 0 first: whole planes are added before the strided work on rows and columns, which then has less to do.
        if factor == 2:
            result = _pair_sum(result, axis, np.dtype(dtype))
        else:
            starts = np.arange(0, result.shape[axis], factor)
            result = np.add.reduceat(result, starts, axis=axis, dtype=dtype)
    return result.astype(dtype, copy=False)


def _pair_sum(array: Array, axis: int, dtype: np.dtype[Any]) -> Array:
    before = (slice(None),) * axis
    size = array.shape[axis]
    half = size // 2
    out = np.empty((*array.shape[:axis], size - half, *array.shape[axis + 1 :]), dtype)
    even, odd = array[(*before, slice(0, 2 * half, 2))], array[(*before, slice(1, 2 * half, 2))]
    np.add(even, odd, out=out[(*before, slice(0, half))], dtype=dtype)
    if size % 2:
        out[(*before, half)] = array[(*before, size - 1)]
    return out


def sums_to_mean(
    sums: Array, factors: Sequence[int], dtype: npt.DTypeLike, start: Sequence[int], full_shape: Sequence[int]
) -> Array:
    """Block sums to means of the image's own dtype, rounded to nearest with ties to even (as `numpy.rint`).

    Parameters
    ----------
    sums : array (a, b, c[, components])
        Part of a level.
    factors : sequence of 3 int
        Of that level.
    dtype : dtype
        Of the result.
    start : sequence of 3 int
        Index of ``sums[0, 0, 0]`` in the level.
    full_shape : sequence of 3 int
        Of level 0: tells which blocks at the far edges are smaller.
    """
    dtype = np.dtype(dtype)
    counts = []
    for axis in range(3):
        first = (start[axis] + np.arange(sums.shape[axis])) * factors[axis]
        counts.append(np.minimum(factors[axis], full_shape[axis] - first))
    whole = voxel_count(factors)
    if all((c == f).all() for c, f in zip(counts, factors, strict=True)) and sums.dtype.kind in "ui" and whole & (whole - 1) == 0:
        return _shift_divide(sums, whole.bit_length() - 1).astype(dtype)
    count = counts[0][:, None, None] * counts[1][:, None] * counts[2]
    if sums.ndim > 3:
        count = count[..., None]
    mean: Array = sums / count
    if dtype.kind in "ui":
        np.rint(mean, out=mean)
    return mean.astype(dtype)


def _shift_divide(sums: Array, bits: int) -> Array:
    # Division by 2**bits, ties to even, in integers: add just under a half, plus the bit that decides a tie.
    if bits == 0:
        return sums
    scalar = sums.dtype.type
    result: Array = sums >> scalar(bits)
    result &= scalar(1)
    result += scalar((1 << (bits - 1)) - 1)
    result += sums
    result >>= scalar(bits)
    return result


def block_mean(array: Array, factors: Sequence[int]) -> Array:
    """Block means of a whole array, in its own dtype; the kernel that makes a level from level 0."""
    sums = block_sum(array, factors, sum_dtype(array.dtype, voxel_count(factors)))
    return sums_to_mean(sums, factors, array.dtype, (0, 0, 0), array.shape[:3])


def block_mode(labels: Array, step: Sequence[int]) -> Array:
    """Most frequent id of each block of 1 or 2 voxels per axis; of several equally frequent ones the smallest.

    Parameters
    ----------
    labels : array (a, b, c), integers
    step : sequence of 3 int
        1 or 2 along each axis. The last block may be smaller.
    """
    if labels.size >= _MANY_VOXELS:
        from lsfm_core.kernels.blocks import modes

        out = np.empty([-(-n // s) for n, s in zip(labels.shape, step, strict=True)], labels.dtype)
        modes(out, np.require(labels, requirements=["C", "W"]), (int(step[0]), int(step[1]), int(step[2])))
        return out
    # To repeat the last voxel doubles each count of its block, and leaves the winner.
    padded = np.pad(labels, [(0, -n % s) for n, s in zip(labels.shape, step, strict=True)], mode="edge")
    views = [
        padded[a :: step[0], b :: step[1], c :: step[2]] for a in range(step[0]) for b in range(step[1]) for c in range(step[2])
    ]
    result = views[0].copy()
    # Inside a region all are the same, and only its boundary is left to count.
    mixed = np.zeros(result.shape, bool)
    for view in views[1:]:
        mixed |= view != result
    candidates = np.sort(np.stack([view[mixed] for view in views]), axis=0)
    counts = np.stack([(candidates == candidate).sum(axis=0) for candidate in candidates])
    result[mixed] = np.take_along_axis(candidates, counts.argmax(axis=0)[None], axis=0)[0]
    return result


class Reducer(ABC):
    """How voxels of one kind become those of the next level, block by block.

    What travels from level to level is *carried*: sums for means, ids for labels.
    """

    @abstractmethod
    def carried_dtype(self, factors: Sequence[int]) -> np.dtype[Any]:
        """Type of what a level with these factors carries."""

    @abstractmethod
    def reduce(self, carried: Array, step: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """What the next level carries, from a part of this one that begins at a block's edge."""

    @abstractmethod
    def finish(self, carried: Array, factors: Sequence[int], start: Sequence[int], full_shape: Sequence[int]) -> Array:
        """Voxels of a part of a level; arguments as of `sums_to_mean`."""


class _Mean(Reducer):
    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype

    def carried_dtype(self, factors: Sequence[int]) -> np.dtype[Any]:
        return sum_dtype(self._dtype, voxel_count(factors))

    def reduce(self, carried: Array, step: Sequence[int], dtype: np.dtype[Any]) -> Array:
        with np.errstate(invalid="ignore"):  # inf - inf in float images is NaN, as it should be
            return block_sum(carried, step, dtype)

    def finish(self, carried: Array, factors: Sequence[int], start: Sequence[int], full_shape: Sequence[int]) -> Array:
        return sums_to_mean(carried, factors, self._dtype, start, full_shape)


class _Mode(Reducer):
    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype

    def carried_dtype(self, factors: Sequence[int]) -> np.dtype[Any]:
        return self._dtype

    def reduce(self, carried: Array, step: Sequence[int], dtype: np.dtype[Any]) -> Array:
        return block_mode(carried, step)

    def finish(self, carried: Array, factors: Sequence[int], start: Sequence[int], full_shape: Sequence[int]) -> Array:
        return carried


def reducer(kind: Kind, dtype: np.dtype[Any]) -> Reducer:
    """The reducer for a channel of this kind and voxel type."""
    return _Mode(dtype) if kind == "labels" else _Mean(dtype)
