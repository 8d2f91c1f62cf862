"""The most frequent id of what a voxel of the result covers.

Each voxel of the image counts with the volume that it shares with the voxel of the result; what lies outside of the image does not
count. Of ids that share as much, but for a ten-thousandth of the voxel, the smallest is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.geometry import Shape3, Space
from lsfm_core.transforms import Affine, TransformChain

__all__ = ["Cover", "cover_of", "majority_of_covered", "majority_of_samples", "samples_of"]

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]

#: Lengths in voxels that are next to nothing: rounding must not decide what is covered.
_SLACK = 1e-9
#: Part of a voxel's volume by which ids may differ and still be as frequent: affines are often kept as float32.
_TIE = 1e-4
#: Candidates that are counted at once.
_AT_ONCE = 2**20


@dataclass(frozen=True)
class Cover:
    """How voxels of the result lie on an image whose axes are theirs.

    Attributes
    ----------
    axes : tuple of 3 int
        The result's axis along each axis of the image.
    steps, starts : tuple of 3 float
        Per axis of the image: the centre of the result's voxel j is at index ``start + step * j``.
    """

    axes: Shape3
    steps: tuple[float, float, float]
    starts: tuple[float, float, float]

    def part(self, start: npt.ArrayLike) -> Cover:
        """The cover of a box of the result that begins at a voxel."""
        first = np.asarray(start)
        a, b, c = (self.starts[axis] + self.steps[axis] * float(first[self.axes[axis]]) for axis in range(3))
        return Cover(self.axes, self.steps, (a, b, c))

    def along(self, axis: int, count: int) -> tuple[FloatArray, FloatArray]:
        """Where the first `count` voxels of the result begin and end along an axis of the image, as continuous indices."""
        centres = self.starts[axis] + self.steps[axis] * np.arange(count)
        half = abs(self.steps[axis]) / 2
        return np.asarray(centres - half, np.float64), np.asarray(centres + half, np.float64)


def cover_of(source: Space, chain: TransformChain, target: Space) -> Cover | None:
    """How a grid lies on an image, or None where its axes are not the image's own."""
    matrix = target.world_from_voxel
    for step in reversed(chain.folded):
        if not isinstance(step, Affine):
            return None
        matrix = step.matrix @ matrix
    matrix = source.voxel_from_world @ matrix
    linear = np.abs(matrix[:3, :3])
    axes = linear.argmax(axis=1)
    rest = linear.copy()
    rest[range(3), axes] = 0
    # Over all of the result a face may lean by a part of a voxel that rounding explains, and no more.
    if sorted(axes) != [0, 1, 2] or (rest * np.array(target.shape)).max() > 1e-6:
        return None
    a, b, c = axes.tolist()
    d, e, f = (float(matrix[axis, axes[axis]]) for axis in range(3))
    g, h, i = matrix[:3, 3].tolist()
    return Cover((a, b, c), (d, e, f), (g, h, i))


def samples_of(source: Space, chain: TransformChain, target: Space) -> Shape3:
    """Into how many points, along each axis of the result, its voxels are divided, no more than a voxel of the image apart."""
    steps = source.voxel_from_world[:3, :3] @ chain.linear @ target.world_from_voxel[:3, :3]
    a, b, c = (max(1, int(np.ceil(v - 1e-6))) for v in np.linalg.norm(steps, axis=0))
    return a, b, c


def majority_of_covered(
    out: Array, cover: Cover, size: Sequence[int], read: Callable[[Sequence[int], Sequence[int]], Array], fill: float
) -> None:
    """Put the majorities of a block of the result into `out`.

    Parameters
    ----------
    out : array (a, b, c), integers
    cover : Cover
        Of the block.
    size : sequence of 3 int
        Voxels of the image.
    read : callable
        ``read(low, high)`` gives the image's voxels of a box.
    fill : float
        Where the centre lies outside of the image.
    """
    index, weight, inside = zip(
        *(_covered(*cover.along(axis, out.shape[cover.axes[axis]]), size[axis]) for axis in range(3)), strict=True
    )
    low = [int(i.min()) for i in index]
    ids = read(low, [int(i.max()) + 1 for i in index])
    index = tuple(i - start for i, start in zip(index, low, strict=True))
    smallest, largest = ids, ids
    for axis, places in enumerate(index):
        smallest = _reduced(np.minimum, smallest, places, axis)
        largest = _reduced(np.maximum, largest, places, axis)
    result = smallest
    mixed = np.argwhere(smallest != largest)
    count = max(1, _AT_ONCE // int(np.prod([i.shape[1] for i in index])))
    for begin in range(0, len(mixed), count):
        i, j, k = mixed[begin : begin + count].T
        at = (index[0][i][:, :, None, None], index[1][j][:, None, :, None], index[2][k][:, None, None, :])
        volume = weight[0][i][:, :, None, None] * weight[1][j][:, None, :, None] * weight[2][k][:, None, None, :]
        result[i, j, k] = _most(ids[at].reshape(len(i), -1), volume.reshape(len(i), -1))
    result[~(inside[0][:, None, None] & inside[1][:, None] & inside[2])] = fill
    out[...] = result.transpose(np.argsort(cover.axes))


def majority_of_samples(samples: Array, inside: Array | None, counts: Shape3) -> Array:
    """The most frequent id of blocks of samples; what is not `inside` does not count, where anything is.

    Parameters
    ----------
    samples : array (a * counts[0], b * counts[1], c * counts[2]), integers
    inside : array of the same shape, or None
        Whether a sample lies in the image.
    counts : tuple of 3 int
    """
    blocks = _blocks(samples, counts)
    result = blocks[..., 0].copy()
    mixed = (blocks != result[..., None]).any(axis=-1)
    weights = None if inside is None else _blocks(inside, counts)[mixed].astype(np.float64)
    ids = blocks[mixed]
    found = np.empty(len(ids), samples.dtype)
    count = max(1, _AT_ONCE // blocks.shape[-1])
    for begin in range(0, len(ids), count):
        part = slice(begin, begin + count)
        found[part] = _most(ids[part], np.ones(ids[part].shape) if weights is None else weights[part])
    result[mixed] = found
    return result


def _blocks(array: Array, counts: Shape3) -> Array:
    """(a, b, c, samples of each)."""
    a, b, c = (n // count for n, count in zip(array.shape, counts, strict=True))
    split = array.reshape(a, counts[0], b, counts[1], c, counts[2]).transpose(0, 2, 4, 1, 3, 5)
    return split.reshape(a, b, c, -1)


def _covered(low: FloatArray, high: FloatArray, size: int) -> tuple[npt.NDArray[np.intp], FloatArray, npt.NDArray[np.bool_]]:
    """Indices (n, m) of the voxels that intervals (n) reach, how long each is within them, and whether the centre is inside."""
    first = np.floor(low + 0.5 + _SLACK).astype(np.intp)
    most = max(1, int((np.ceil(high + 0.5 - _SLACK) - first).max()))
    index = first[:, None] + np.arange(most)
    length = np.minimum(high[:, None], index + 0.5) - np.maximum(low[:, None], index - 0.5)
    length[(length < _SLACK) | (index < 0) | (index >= size)] = 0
    # What is not covered repeats what is, so that it is no other id.
    best = np.clip(index[np.arange(len(index)), length.argmax(axis=1)], 0, size - 1)
    index = np.where(length > 0, index, best[:, None])
    centre = (low + high) / 2
    return index, length, (centre >= -0.5 - _SLACK) & (centre <= size - 0.5 + _SLACK)


def _reduced(function: Any, array: Array, places: npt.NDArray[np.intp], axis: int) -> Array:
    """The smallest or largest of the voxels at (n, m) places along an axis."""
    result = array.take(places[:, 0], axis=axis)
    for column in places.T[1:]:
        function(result, array.take(column, axis=axis), out=result)
    return result


def _most(ids: Array, weights: FloatArray) -> Array:
    """Of each row of ids (n, m) the one with the largest sum of weights; of several the smallest."""
    order = np.argsort(ids, axis=1, kind="stable")
    ids, weights = np.take_along_axis(ids, order, axis=1), np.take_along_axis(weights, order, axis=1)
    sums = np.cumsum(weights, axis=1)
    ends = np.ones(ids.shape, bool)
    ends[:, :-1] = ids[:, 1:] != ids[:, :-1]
    before = np.zeros_like(sums)
    before[:, 1:] = np.maximum.accumulate(np.where(ends, sums, 0), axis=1)[:, :-1]
    totals = np.where(ends, sums - before, -1)
    enough = totals.max(axis=1, keepdims=True) - _TIE * sums[:, -1:]
    return np.take_along_axis(ids, (totals >= enough).argmax(axis=1)[:, None], axis=1)[:, 0]
