"""Displacement fields at points.

Positions are continuous indices of a field's voxels, in array order. A crop of a field, ``vectors`` (a, b, c, 3), begins at voxel
``start``; between the outermost centres and the faces, and beyond, the outermost vectors hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.kernels._compiled import FACE_SLACK, compiled, prefetch

__all__ = ["extent", "inside", "invert", "move"]

Array = npt.NDArray[Any]

#: Voxels, over which derivatives are taken.
_STEP = 1e-4
#: How many points ahead vectors are fetched.
_AHEAD = 8
#: Steps after which there is another way to go on.
_STEPS_NEARBY = 8
#: Where a voxel is squeezed to less than this, steps lead astray.
_LEAST_VOLUME = 0.05


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
    flat, size = vectors.reshape(-1), vectors.shape[:3]
    for m, n in enumerate(which):
        _expect(flat, size, index, which, m + _AHEAD, start)
        u, v, w = _at(flat, size, index[n, 0] - start[0], index[n, 1] - start[1], index[n, 2] - start[2])
        points[n, 0] += u
        points[n, 1] += v
        points[n, 2] += w


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
        How many are tried by y <- target - u(y), and then by Newton's method with steps that are halved where they lead astray,
        where the latter's full steps did not lead there.
    """
    slopes, miss, step = np.empty((3, 3)), np.empty(3), np.empty(3)
    # Numbers and one flat array are handed on, since views are counted, for which threads would wait for each other.
    flat, shape, matrix, back = vectors.reshape(-1), vectors.shape[:3], _numbers(voxel_from_world), _numbers(world_from_voxel)
    for m, n in enumerate(which):
        _expect(flat, shape, targets, which, m + _AHEAD, start)
        a, b, c = targets[n, 0] - start[0], targets[n, 1] - start[1], targets[n, 2] - start[2]
        x, y, z, is_found = _nearby(flat, shape, matrix, a, b, c, tolerance)
        if not is_found:
            x, y, z = _patiently(flat, shape, matrix, a, b, c, tolerance, steps, newton_steps, slopes, miss, step)
        # Nothing moves where the field moves nothing.
        i, j, k = x + start[0], y + start[1], z + start[2]
        if _is_inside(i, j, k, size) or _is_inside(targets[n, 0], targets[n, 1], targets[n, 2], size):
            u, v, w = _turned(back, x - a, y - b, z - c)
            points[n, 0] += u
            points[n, 1] += v
            points[n, 2] += w


@compiled
def _patiently(
    flat: Array,
    shape: tuple[int, int, int],
    matrix: Any,
    a: float,
    b: float,
    c: float,
    tolerance: float,
    steps: int,
    newton_steps: int,
    slopes: Array,
    miss: Array,
    step: Array,
) -> tuple[float, float, float]:
    """The position in the crop from which the field leads to (a, b, c), or as near as it does where it is wild."""
    x, y, z = a, b, c
    u, v, w = _step(flat, shape, matrix, x, y, z)
    for _ in range(steps):
        x, y, z = a - u, b - v, c - w
        u, v, w = _step(flat, shape, matrix, x, y, z)
        if _norm(x + u - a, y + v - b, z + w - c) <= tolerance:
            break
    miss[0], miss[1], miss[2] = x + u - a, y + v - b, z + w - c
    damping = 1.0
    for _ in range(newton_steps):
        if _norm(miss[0], miss[1], miss[2]) <= tolerance:
            break
        _slopes(slopes, flat, shape, matrix, x, y, z)
        _solve(step, slopes, miss)
        p, q, r = x - damping * step[0], y - damping * step[1], z - damping * step[2]
        u, v, w = _step(flat, shape, matrix, p, q, r)
        d, e, f = p + u - a, q + v - b, r + w - c
        if d * d + e * e + f * f < miss[0] ** 2 + miss[1] ** 2 + miss[2] ** 2:
            x, y, z = p, q, r
            miss[0], miss[1], miss[2] = d, e, f
            damping = min(1.0, 2 * damping)
        else:
            damping /= 2
    return x, y, z


@compiled
def _numbers(matrix: Array) -> Any:
    """Of a matrix (3, 3), row by row."""
    a, b, c = matrix[0], matrix[1], matrix[2]
    return a[0], a[1], a[2], b[0], b[1], b[2], c[0], c[1], c[2]


@compiled
def _turned(m: Any, u: float, v: float, w: float) -> tuple[float, float, float]:
    return m[0] * u + m[1] * v + m[2] * w, m[3] * u + m[4] * v + m[5] * w, m[6] * u + m[7] * v + m[8] * w


@compiled
def _expect(flat: Array, shape: tuple[int, int, int], index: Array, which: Array, m: int, start: Array) -> None:
    """Have the vectors around the position of a later point fetched: points lie anywhere, and memory is slow."""
    if m >= len(which):
        return
    n = which[m]
    last0, last1, last2 = shape[0] - 1, shape[1] - 1, shape[2] - 1
    a, b, c = index[n, 0] - start[0], index[n, 1] - start[1], index[n, 2] - start[2]
    a, b, c = min(max(a, 0.0), last0), min(max(b, 0.0), last1), min(max(c, 0.0), last2)
    along1 = shape[2] * 3
    along0 = shape[1] * along1
    at = int(a) * along0 + int(b) * along1 + int(c) * 3
    for corner in (at, at + along1, at + along0, at + along0 + along1):
        prefetch(flat, corner)
        prefetch(flat, corner + 5)


@compiled
def _nearby(
    flat: Array, shape: tuple[int, int, int], matrix: Any, a: float, b: float, c: float, tolerance: float
) -> tuple[float, float, float, bool]:
    """The position in the crop from which the field leads to (a, b, c), by Newton's method from there; and whether it was found.

    Where the field is smooth, three steps or four do. The slopes cost little, since the same eight voxels tell them.
    """
    x, y, z = a, b, c
    before = np.inf
    for _ in range(_STEPS_NEARBY):
        (u, v, w), (ux, vx, wx), (uy, vy, wy), (uz, vz, wz) = _with_slopes(flat, shape, matrix, x, y, z)
        p, q, r = x + u - a, y + v - b, z + w - c
        miss = _norm(p, q, r)
        if miss <= tolerance:
            return x, y, z, True
        if not miss < before:
            break
        before = miss
        ux, vy, wz = 1 + ux, 1 + vy, 1 + wz
        # Of a matrix of three rows: its inverse by cofactors.
        f, g, h = vy * wz - vz * wy, vz * wx - vx * wz, vx * wy - vy * wx
        det = ux * f + uy * g + uz * h
        if not det > _LEAST_VOLUME:
            break
        x -= (f * p + (uz * wy - uy * wz) * q + (uy * vz - uz * vy) * r) / det
        y -= (g * p + (ux * wz - uz * wx) * q + (uz * vx - ux * vz) * r) / det
        z -= (h * p + (uy * wx - ux * wy) * q + (ux * vy - uy * vx) * r) / det
    return x, y, z, False


@compiled
def _with_slopes(flat: Array, shape: tuple[int, int, int], matrix: Any, x: float, y: float, z: float) -> Any:
    """As `_step`, and the derivatives of each component; beyond the outermost voxels nothing changes."""
    last0, last1, last2 = shape[0] - 1, shape[1] - 1, shape[2] - 1
    i, j, k = min(max(x, 0.0), last0), min(max(y, 0.0), last1), min(max(z, 0.0), last2)
    in0, in1, in2 = 1.0 if i == x else 0.0, 1.0 if j == y else 0.0, 1.0 if k == z else 0.0
    a, b, c = int(i), int(j), int(k)
    along1 = shape[2] * 3
    along0 = shape[1] * along1
    at = a * along0 + b * along1 + c * 3
    # Behind the last voxel there is none, and no weight.
    next0, next1, next2 = along0 if a < last0 else 0, along1 if b < last1 else 0, 3 if c < last2 else 0
    x, y, z = i - a, j - b, k - c
    u, ux, uy, uz = _component(flat, at, next0, next1, next2, x, y, z)
    v, vx, vy, vz = _component(flat, at + 1, next0, next1, next2, x, y, z)
    w, wx, wy, wz = _component(flat, at + 2, next0, next1, next2, x, y, z)
    along_x = _turned(matrix, in0 * ux, in0 * vx, in0 * wx)
    along_y = _turned(matrix, in1 * uy, in1 * vy, in1 * wy)
    along_z = _turned(matrix, in2 * uz, in2 * vz, in2 * wz)
    return _turned(matrix, u, v, w), along_x, along_y, along_z


@compiled
def _component(
    flat: Array, at: int, next0: int, next1: int, next2: int, x: float, y: float, z: float
) -> tuple[float, float, float, float]:
    """One component of a vector in a cell, and its derivatives along x, y and z."""
    n00 = np.uint64(at)
    step2 = np.uint64(next2)
    n01, n10 = n00 + np.uint64(next1), n00 + np.uint64(next0)
    n11 = n10 + np.uint64(next1)
    v00, v01, v10, v11 = np.float64(flat[n00]), np.float64(flat[n01]), np.float64(flat[n10]), np.float64(flat[n11])
    d00, d01, d10, d11 = flat[n00 + step2] - v00, flat[n01 + step2] - v01, flat[n10 + step2] - v10, flat[n11 + step2] - v11
    v00, v01, v10, v11 = v00 + z * d00, v01 + z * d01, v10 + z * d10, v11 + z * d11
    along_y, behind_y = v01 - v00, v11 - v10
    v00, v10 = v00 + y * along_y, v10 + y * behind_y
    d00, d10 = d00 + y * (d01 - d00), d10 + y * (d11 - d10)
    return v00 + x * (v10 - v00), v10 - v00, along_y + x * (behind_y - along_y), d00 + x * (d10 - d00)


@compiled
def _is_inside(x: float, y: float, z: float, size: Array) -> bool:
    low, high = -0.5 - FACE_SLACK, -0.5 - FACE_SLACK
    return x >= low and y >= low and z >= low and x < size[0] + high and y < size[1] + high and z < size[2] + high


@compiled
def _step(flat: Array, shape: tuple[int, int, int], matrix: Any, x: float, y: float, z: float) -> tuple[float, float, float]:
    """As `_at`, in steps along the array axes."""
    u, v, w = _at(flat, shape, x, y, z)
    return _turned(matrix, u, v, w)


@compiled
def _norm(x: float, y: float, z: float) -> float:
    return max(abs(x), abs(y), abs(z))


@compiled
def _at(flat: Array, shape: tuple[int, int, int], x: float, y: float, z: float) -> tuple[float, float, float]:
    """The vector at a position in a crop of that shape, of which `flat` holds all numbers."""
    last0, last1, last2 = shape[0] - 1, shape[1] - 1, shape[2] - 1
    x, y, z = min(max(x, 0.0), last0), min(max(y, 0.0), last1), min(max(z, 0.0), last2)
    a, b, c = int(x), int(y), int(z)
    along1 = shape[2] * 3
    along0 = shape[1] * along1
    at = a * along0 + b * along1 + c * 3
    # Behind the last voxel there is none, and no weight.
    next0, next1, next2 = along0 if a < last0 else 0, along1 if b < last1 else 0, 3 if c < last2 else 0
    x, y, z = x - a, y - b, z - c
    u = _component(flat, at, next0, next1, next2, x, y, z)[0]
    v = _component(flat, at + 1, next0, next1, next2, x, y, z)[0]
    w = _component(flat, at + 2, next0, next1, next2, x, y, z)[0]
    return u, v, w


@compiled
def _slopes(out: Array, flat: Array, shape: tuple[int, int, int], matrix: Any, x: float, y: float, z: float) -> None:
    """Put the derivatives of `_step` at a position in the crop into `out` (3, 3), a row for each component."""
    u, v, w = _step(flat, shape, matrix, x, y, z)
    # Within a cell the vectors are linear along each axis, so that a small step tells.
    for axis in range(3):
        p, q, r = _step(flat, shape, matrix, x + (axis == 0) * _STEP, y + (axis == 1) * _STEP, z + (axis == 2) * _STEP)
        out[0, axis], out[1, axis], out[2, axis] = (p - u) / _STEP, (q - v) / _STEP, (r - w) / _STEP


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
