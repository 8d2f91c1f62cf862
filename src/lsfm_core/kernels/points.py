"""Displacement fields at points.

Positions are continuous indices of a field's voxels, in array order. A crop of a field, ``vectors`` (a, b, c, 3), begins at voxel
``start``; between the outermost centres and the faces, and beyond, the outermost vectors hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.kernels._compiled import FACE_SLACK, compiled

__all__ = ["extent", "inside", "invert", "move"]

Array = npt.NDArray[Any]

#: Voxels, over which derivatives are taken.
_STEP = 1e-4


@compiled
def inside(index: Array, size: Array) -> Array:
    """Which (m,) of some positions (n, 3) are in a field of `size` voxels along each axis."""
    found = np.empty(len(index), np.int64)
    count = 0
    for n in range(len(index)):
        if _is_inside(index[n, 0], index[n, 1], index[n, 2], size):
            found[count] = n
            count += 1
    return found[:count]


@compiled
def extent(rows: Array, which: Array) -> Array:
    """Smallest and largest of each component, (2, 3), of those rows of an array (n, 3) that `which` (m,) numbers."""
    found = np.empty((2, 3))
    found[0] = np.inf
    found[1] = -np.inf
    for n in which:
        for axis in range(3):
            found[0, axis] = min(found[0, axis], rows[n, axis])
            found[1, axis] = max(found[1, axis], rows[n, axis])
    return found


@compiled
def move(points: Array, index: Array, which: Array, vectors: Array, start: Array) -> None:
    """Add to those of some points (n, 3) that `which` (m,) numbers the vectors at their positions, interpolated linearly."""
    u = np.empty(3)
    for n in which:
        _at(u, vectors, index[n, 0] - start[0], index[n, 1] - start[1], index[n, 2] - start[2])
        for axis in range(3):
            points[n, axis] += u[axis]


@compiled
def invert(
    points: Array,
    targets: Array,
    which: Array,
    vectors: Array,
    start: Array,
    size: Array,
    voxel_from_world: Array,
    world_from_voxel: Array,
    tolerance: float,
    steps: int,
    newton_steps: int,
) -> None:
    """Move points against a field u: each to y with y + u(y) = target, unless both lie where the field moves nothing.

    Parameters
    ----------
    points : array (n, 3)
        In the world; those that `which` numbers are moved.
    targets : array (n, 3)
        Their positions.
    which : array (m,)
    vectors, start
        The field, in the world.
    size : array (3,)
        The whole field's voxels along each axis.
    voxel_from_world, world_from_voxel : array (3, 3)
        The linear parts between the two.
    tolerance : float
        By how much y + u(y) may miss its target along an axis. Voxels.
    steps, newton_steps : int
        How many are tried by y <- target - u(y), and then by Newton's method with steps that are halved where they lead astray.
    """
    u, slopes, miss, step = np.empty(3), np.empty((3, 3)), np.empty(3), np.empty(3)
    for n in which:
        a, b, c = targets[n, 0] - start[0], targets[n, 1] - start[1], targets[n, 2] - start[2]
        x, y, z = a, b, c
        _step(u, vectors, voxel_from_world, x, y, z)
        for _ in range(steps):
            x, y, z = a - u[0], b - u[1], c - u[2]
            _step(u, vectors, voxel_from_world, x, y, z)
            if _norm(x + u[0] - a, y + u[1] - b, z + u[2] - c) <= tolerance:
                break
        miss[0], miss[1], miss[2] = x + u[0] - a, y + u[1] - b, z + u[2] - c
        damping = 1.0
        for _ in range(newton_steps):
            if _norm(miss[0], miss[1], miss[2]) <= tolerance:
                break
            _slopes(slopes, vectors, voxel_from_world, x, y, z)
            _solve(step, slopes, miss)
            p, q, r = x - damping * step[0], y - damping * step[1], z - damping * step[2]
            _step(u, vectors, voxel_from_world, p, q, r)
            d, e, f = p + u[0] - a, q + u[1] - b, r + u[2] - c
            if d * d + e * e + f * f < miss[0] ** 2 + miss[1] ** 2 + miss[2] ** 2:
                x, y, z = p, q, r
                miss[0], miss[1], miss[2] = d, e, f
                damping = min(1.0, 2 * damping)
            else:
                damping /= 2
        i, j, k = x + start[0], y + start[1], z + start[2]
        if _is_inside(i, j, k, size) or _is_inside(targets[n, 0], targets[n, 1], targets[n, 2], size):
            for axis in range(3):
                along = world_from_voxel[axis]
                points[n, axis] += along[0] * (x - a) + along[1] * (y - b) + along[2] * (z - c)


@compiled
def _is_inside(x: float, y: float, z: float, size: Array) -> bool:
    low, high = -0.5 - FACE_SLACK, -0.5 - FACE_SLACK
    return x >= low and y >= low and z >= low and x < size[0] + high and y < size[1] + high and z < size[2] + high


@compiled
def _step(out: Array, vectors: Array, matrix: Array, x: float, y: float, z: float) -> None:
    """As `_at`, in steps along the array axes."""
    _at(out, vectors, x, y, z)
    u, v, w = out[0], out[1], out[2]
    for axis in range(3):
        out[axis] = matrix[axis, 0] * u + matrix[axis, 1] * v + matrix[axis, 2] * w


@compiled
def _norm(x: float, y: float, z: float) -> float:
    return max(abs(x), abs(y), abs(z))


@compiled
def _at(out: Array, vectors: Array, x: float, y: float, z: float) -> None:
    """Put the vector at a position in the crop into `out` (3,)."""
    flat = vectors.reshape(-1)
    last0, last1, last2 = vectors.shape[0] - 1, vectors.shape[1] - 1, vectors.shape[2] - 1
    x, y, z = min(max(x, 0.0), last0), min(max(y, 0.0), last1), min(max(z, 0.0), last2)
    a, b, c = int(x), int(y), int(z)
    along1 = vectors.shape[2] * 3
    along0 = vectors.shape[1] * along1
    n00 = np.uint64(a * along0 + b * along1 + c * 3)
    # Behind the last voxel there is none, and no weight.
    step2 = np.uint64(3 if c < last2 else 0)
    n01 = n00 + np.uint64(along1 if b < last1 else 0)
    n10 = n00 + np.uint64(along0 if a < last0 else 0)
    n11 = n10 + (n01 - n00)
    x, y, z = x - a, y - b, z - c
    u, v, w = 1 - x, 1 - y, 1 - z
    for k in range(3):
        axis = np.uint64(k)
        near = v * (w * flat[n00 + axis] + z * flat[n00 + step2 + axis]) + y * (w * flat[n01 + axis] + z * flat[n01 + step2 + axis])
        far = v * (w * flat[n10 + axis] + z * flat[n10 + step2 + axis]) + y * (w * flat[n11 + axis] + z * flat[n11 + step2 + axis])
        out[k] = u * near + x * far


@compiled
def _slopes(out: Array, vectors: Array, matrix: Array, x: float, y: float, z: float) -> None:
    """Put the derivatives of `_step` at a position in the crop into `out` (3, 3), a row for each component."""
    here, there = np.empty(3), np.empty(3)
    _step(here, vectors, matrix, x, y, z)
    # Within a cell the vectors are linear along each axis, so that a small step tells.
    for axis in range(3):
        i, j, k = x + (axis == 0) * _STEP, y + (axis == 1) * _STEP, z + (axis == 2) * _STEP
        _step(there, vectors, matrix, i, j, k)
        for row in range(3):
            out[row, axis] = (there[row] - here[row]) / _STEP


@compiled
def _solve(out: Array, slopes: Array, miss: Array) -> None:
    """Put the s with (1 + slopes) s = miss into `out`, or nearly that where the field folds and there is none."""
    normal, right = np.zeros((3, 3)), np.zeros(3)
    for row in range(3):
        for k in range(3):
            weight = slopes[k, row] + (k == row)
            right[row] += weight * miss[k]
            for column in range(3):
                normal[row, column] += weight * (slopes[k, column] + (k == column))
    # With next to nothing added, the normal equations have an answer also then.
    some = 1e-12 * (normal[0, 0] + normal[1, 1] + normal[2, 2]) + 1e-300
    for row in range(3):
        normal[row, row] += some
    det = _det(normal[:, 0], normal[:, 1], normal[:, 2])
    out[0] = _det(right, normal[:, 1], normal[:, 2]) / det
    out[1] = _det(normal[:, 0], right, normal[:, 2]) / det
    out[2] = _det(normal[:, 0], normal[:, 1], right) / det


@compiled
def _det(a: Array, b: Array, c: Array) -> Any:
    """Determinant of a matrix of three columns."""
    return a[0] * (b[1] * c[2] - b[2] * c[1]) - b[0] * (a[1] * c[2] - a[2] * c[1]) + c[0] * (a[1] * b[2] - a[2] * b[1])
