"""Interpolation at the voxels of a grid, from which affines and displacement fields lead to an image.

All positions are continuous indices of voxels, in array order. A *way* leads from voxel (i, j, k) of the result inward: through the
grids of its fields, the outermost first, to the image. Arrays tell it, so that one compiled loop serves chains of any length:

``linear`` : array (f + 1, 3, 4)
    The first maps (i, j, k) to an index of the first field, or without fields of the image; each of the others an index of a field
    to one of the next, or of the image.
``pushes`` : array (f, 3, 3)
    What a displacement of that field adds to where its linear map leads.
``vectors`` : array (n,), float32 or float64
    Displacements of crops of the fields, one after the other, each (a, b, c, 3) in array order.
``boxes`` : array (f, 10), int64
    Of each field: where its crop begins in `vectors`, the crop's first voxel (3), the crop's shape (3), the field's shape (3).
``aligned`` : bool
    Whether rows of the result (k) run along an axis of the first field, and across the two others: it is evaluated row by row then.

A point is inside a field or an image of n voxels while its index is in [-0.5, n - 0.5), but for `FACE_SLACK`; between the outermost
centre and the face the outermost value holds. Outside, a field moves nothing, and an image has the fill value.

What a voxel gets depends on (i, j, k), the way, and the values around where it leads alone, to the last bit: not on the box that is
computed, nor on the crops.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.kernels._compiled import FACE_SLACK, compiled

__all__ = ["linear_values", "nearest_values", "reach"]

Array = npt.NDArray[Any]

#: Rounding must not give a neighbour weight that has none, since NaN times next to nothing is NaN. Voxels.
_DUST = 1e-8


@compiled
def reach(starts: Array, stops: Array, linear: Array, pushes: Array, vectors: Array, boxes: Array, aligned: bool) -> Array:
    """Smallest and largest index to which a way leads from the voxels of a box, (2, 3), but for rounding."""
    voxels = np.arange(starts[2], stops[2]).astype(np.float64)
    total, places, parts, line = _prepared(linear, boxes, voxels, aligned)
    if aligned and len(boxes) == 1:
        # Between voxel centres of the field a row goes straight on, so that only the ends of such pieces matter.
        ends = parts == 0
        ends[0] = ends[-1] = True
        for k in range(1, len(voxels) - 1):
            for beside in (k - 1, k + 1):
                ends[k] |= places[k] != places[beside] or parts[beside] == 0
        voxels, places, parts = voxels[ends], places[ends], parts[ends]
    rows, cell = np.empty((3, len(voxels))), np.empty((8, 3))
    found = np.empty((2, 3))
    found[0] = np.inf
    found[1] = -np.inf
    for i in range(starts[0], stops[0]):
        for j in range(starts[1], stops[1]):
            _carry(rows, i, j, voxels, linear, pushes, vectors, boxes, aligned, total, places, parts, line, cell)
            for axis in range(3):
                low, high = found[0, axis], found[1, axis]
                for k in range(rows.shape[1]):
                    low, high = min(low, rows[axis, k]), max(high, rows[axis, k])
                found[0, axis], found[1, axis] = low, high
    return found


@compiled
def linear_values(
    out: Array,
    starts: Array,
    linear: Array,
    pushes: Array,
    vectors: Array,
    boxes: Array,
    aligned: bool,
    image: Array,
    low: Array,
    size: Array,
    fill: float,
    finite: bool,
) -> None:
    """Linear interpolation, as ITK's: a neighbour without weight is not looked at.

    Parameters
    ----------
    out : array (a, b, c), float32 or float64
        Gets the values of the voxels from `starts` on: float32 from uint16 and float32, float64 from float64.
    starts : array (3,)
    linear, pushes, vectors, boxes, aligned
        The way.
    image : array (d, e, f), C-contiguous, uint16, float32 or float64
        All voxels that the box depends on.
    low, size : array (3,)
        First voxel of `image` in the whole image, and the shape of that.
    fill : float
    finite : bool
        Whether `image` holds neither infinity nor NaN, which spread from neighbours without weight.
    """
    voxels = np.arange(starts[2], starts[2] + out.shape[2]).astype(np.float64)
    total, places, parts, line = _prepared(linear, boxes, voxels, aligned)
    rows, cell, offsets = np.empty((3, len(voxels))), np.empty((8, 3)), np.empty(len(voxels))
    flat = image.reshape(-1)
    along1 = image.shape[2]
    along0 = image.shape[1] * along1
    first = low[0] * along0 + low[1] * along1 + low[2]
    last0, last1, last2 = size[0] - 1, size[1] - 1, size[2] - 1
    one, next1, next0 = np.uint64(1), np.uint64(along1), np.uint64(along0)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            _carry(
                rows,
                starts[0] + i,
                starts[1] + j,
                voxels,
                linear,
                pushes,
                vectors,
                boxes,
                aligned,
                total,
                places,
                parts,
                line,
                cell,
            )
            low0 = low1 = low2 = np.inf
            high0 = high1 = high2 = -np.inf
            for k in range(len(voxels)):
                x, y, z = rows[0, k], rows[1, k], rows[2, k]
                low0, low1, low2 = min(low0, x), min(low1, y), min(low2, z)
                high0, high1, high2 = max(high0, x), max(high1, y), max(high2, z)
            if finite and low0 >= 0 and low1 >= 0 and low2 >= 0 and high0 < last0 and high1 < last1 and high2 < last2:
                # All of the row lies between voxel centres: no face matters, and vector registers do half of the work.
                for k in range(len(voxels)):
                    x, y, z = rows[0, k], rows[1, k], rows[2, k]
                    a, b, c = np.floor(x), np.floor(y), np.floor(z)
                    offsets[k] = a * along0 + b * along1 + c - first
                    rows[0, k], rows[1, k], rows[2, k] = x - a, y - b, z - c
                for k in range(len(voxels)):
                    x, y, z = rows[0, k], rows[1, k], rows[2, k]
                    n00 = np.uint64(np.int64(offsets[k]))
                    n01 = n00 + next1
                    n10 = n00 + next0
                    n11 = n01 + next0
                    v00, v01, v10, v11 = np.float64(flat[n00]), np.float64(flat[n01]), np.float64(flat[n10]), np.float64(flat[n11])
                    v00 += (flat[n00 + one] - v00) * z
                    v01 += (flat[n01 + one] - v01) * z
                    v10 += (flat[n10 + one] - v10) * z
                    v11 += (flat[n11 + one] - v11) * z
                    v00 += (v01 - v00) * y
                    v10 += (v11 - v10) * y
                    out[i, j, k] = v00 + (v10 - v00) * x
                continue
            for k in range(len(voxels)):
                x, y, z = rows[0, k], rows[1, k], rows[2, k]
                value = fill
                if x >= -0.5 and y >= -0.5 and z >= -0.5 and x < last0 + 0.5 and y < last1 + 0.5 and z < last2 + 0.5:
                    x, y, z = min(max(x, 0.0), last0), min(max(y, 0.0), last1), min(max(z, 0.0), last2)
                    x, y, z = _without_dust(x), _without_dust(y), _without_dust(z)
                    p, q, r = int(x), int(y), int(z)
                    x, y, z = x - p, y - q, z - r
                    at = p * along0 + q * along1 + r - first
                    value = np.float64(flat[at])
                    if z > 0:
                        value += (flat[at + 1] - value) * z
                    if y > 0:
                        beside = np.float64(flat[at + along1])
                        if z > 0:
                            beside += (flat[at + along1 + 1] - beside) * z
                        value += (beside - value) * y
                    if x > 0:
                        at += along0
                        behind = np.float64(flat[at])
                        if z > 0:
                            behind += (flat[at + 1] - behind) * z
                        if y > 0:
                            beside = np.float64(flat[at + along1])
                            if z > 0:
                                beside += (flat[at + along1 + 1] - beside) * z
                            behind += (beside - behind) * y
                        value += (behind - value) * x
                out[i, j, k] = value


@compiled
def _without_dust(x: float) -> float:
    """A whole number, if it is one but for rounding."""
    whole = np.floor(x + 0.5)
    return whole if abs(x - whole) < _DUST else x


@compiled
def nearest_values(
    out: Array,
    starts: Array,
    linear: Array,
    pushes: Array,
    vectors: Array,
    boxes: Array,
    aligned: bool,
    image: Array,
    low: Array,
    size: Array,
    fill: Array,
) -> None:
    """Values of the nearest voxels, of which ITK takes the one with the larger index where two are as near.

    As `linear_values`, but `out`, `image` and `fill`, which is an array (1,), are of one type, whichever it is.
    """
    voxels = np.arange(starts[2], starts[2] + out.shape[2]).astype(np.float64)
    total, places, parts, line = _prepared(linear, boxes, voxels, aligned)
    rows, cell = np.empty((3, len(voxels))), np.empty((8, 3))
    last0, last1, last2 = size[0] - 1, size[1] - 1, size[2] - 1
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            _carry(
                rows,
                starts[0] + i,
                starts[1] + j,
                voxels,
                linear,
                pushes,
                vectors,
                boxes,
                aligned,
                total,
                places,
                parts,
                line,
                cell,
            )
            for k in range(len(voxels)):
                x, y, z = rows[0, k], rows[1, k], rows[2, k]
                value = fill[0]
                if x >= -0.5 and y >= -0.5 and z >= -0.5 and x < last0 + 0.5 and y < last1 + 0.5 and z < last2 + 0.5:
                    a, b, c = min(int(x + 0.5), last0), min(int(y + 0.5), last1), min(int(z + 0.5), last2)
                    value = image[a - low[0], b - low[1], c - low[2]]
                out[i, j, k] = value


@compiled
def _prepared(linear: Array, boxes: Array, voxels: Array, aligned: bool) -> tuple[Array, Array, Array, Array]:
    """What `_along` needs of all rows: the linear map to behind the first field, where in its crop voxels lie along it, and room.

    Returns
    -------
    total : array (3, 4)
    places : array (n,), int64
        Voxel of the crop below each voxel of a row, along the field's axis; negative outside of the field.
    parts : array (n,)
        How far it is beyond that voxel.
    line : array (3, m)
        Room for the displacements along a row.
    """
    total = np.zeros((3, 4))
    places, parts = np.full(len(voxels), -1), np.zeros(len(voxels))
    if not aligned:
        return total, places, parts, np.empty((3, 0))
    for row in range(3):
        for column in range(4):
            for k in range(3):
                total[row, column] += linear[1, row, k] * linear[0, k, column]
        total[row, 3] += linear[1, row, 3]
    axis = _axis(linear[0])
    first, last = boxes[0, 1 + axis], boxes[0, 7 + axis] - 1
    for k in range(len(voxels)):
        x = linear[0, axis, 3] + linear[0, axis, 2] * voxels[k]
        if x >= -0.5 - FACE_SLACK and x < last + 0.5 - FACE_SLACK:
            x = min(max(x, 0.0), last)
            place = int(x)
            places[k], parts[k] = place - first, x - place
    return total, places, parts, np.empty((3, boxes[0, 4 + axis] + 1))


@compiled
def _axis(matrix: Array) -> int:
    """The axis along which rows run."""
    return 0 if matrix[0, 2] != 0 else 1 if matrix[1, 2] != 0 else 2


@compiled
def _carry(
    rows: Array,
    i: int,
    j: int,
    voxels: Array,
    linear: Array,
    pushes: Array,
    vectors: Array,
    boxes: Array,
    aligned: bool,
    total: Array,
    places: Array,
    parts: Array,
    line: Array,
    cell: Array,
) -> None:
    """Put where the way leads from a row of voxels (i, j, k) into `rows` (3, n); `cell` (8, 3) is room."""
    matrix = total if aligned else linear[0]
    for row in range(3):
        base = matrix[row, 0] * i + matrix[row, 1] * j + matrix[row, 3]
        step = matrix[row, 2]
        for k in range(len(voxels)):
            rows[row, k] = base + step * voxels[k]
    if aligned:
        _along(rows, i, j, linear[0], pushes[0], vectors, boxes[0], places, parts, line)
    for step in range(1 if aligned else 0, len(boxes)):
        _through(rows, linear[step + 1], pushes[step], vectors, boxes[step], cell)


@compiled
def _along(
    rows: Array,
    i: int,
    j: int,
    matrix: Array,
    push: Array,
    vectors: Array,
    box: Array,
    places: Array,
    parts: Array,
    line: Array,
) -> None:
    """Add the displacements of a field along one of whose axes a row of voxels runs."""
    axis = _axis(matrix)
    b, c = (1 if axis == 0 else 0), (1 if axis == 2 else 2)
    y = matrix[b, 0] * i + matrix[b, 1] * j + matrix[b, 3]
    z = matrix[c, 0] * i + matrix[c, 1] * j + matrix[c, 3]
    last_y, last_z = box[7 + b] - 1, box[7 + c] - 1
    lower = -0.5 - FACE_SLACK
    if not (y >= lower and z >= lower and y < last_y + 0.5 - FACE_SLACK and z < last_z + 0.5 - FACE_SLACK):
        return
    low, high = box[4 + axis], -1
    for k in range(len(places)):
        if places[k] >= 0:
            low, high = min(low, places[k]), max(high, places[k])
    if high < 0:
        return
    y, z = min(max(y, 0.0), last_y), min(max(z, 0.0), last_z)
    at_y, at_z = int(y), int(z)
    y, z = y - at_y, z - at_z
    along = (box[5] * box[6] * 3, box[6] * 3, 3)
    at_y, at_z = at_y - box[1 + b], at_z - box[1 + c]
    # A neighbour that is not in the crop has no weight.
    n00 = box[0] + at_y * along[b] + at_z * along[c]
    n01 = n00 + (along[c] if at_z + 1 < box[4 + c] else 0)
    n10 = n00 + (along[b] if at_y + 1 < box[4 + b] else 0)
    n11 = n10 + (n01 - n00)
    w00, w01, w10, w11 = (1 - y) * (1 - z), (1 - y) * z, y * (1 - z), y * z
    for place in range(low, high + 2):
        at = min(place, box[4 + axis] - 1) * along[axis]
        d0 = w00 * vectors[at + n00] + w01 * vectors[at + n01] + w10 * vectors[at + n10] + w11 * vectors[at + n11]
        at += 1
        d1 = w00 * vectors[at + n00] + w01 * vectors[at + n01] + w10 * vectors[at + n10] + w11 * vectors[at + n11]
        at += 1
        d2 = w00 * vectors[at + n00] + w01 * vectors[at + n01] + w10 * vectors[at + n10] + w11 * vectors[at + n11]
        for row in range(3):
            line[row, place] = push[row, 0] * d0 + push[row, 1] * d1 + push[row, 2] * d2
    for k in range(len(places)):
        if places[k] >= 0:
            before = np.uint64(places[k])
            after = before + np.uint64(1)
            part = parts[k]
            rest = 1 - part
            rows[0, k] += rest * line[0, before] + part * line[0, after]
            rows[1, k] += rest * line[1, before] + part * line[1, after]
            rows[2, k] += rest * line[2, before] + part * line[2, after]


@compiled
def _through(rows: Array, matrix: Array, push: Array, vectors: Array, box: Array, cell: Array) -> None:
    """Lead a row of positions through a field."""
    low0, low1, low2 = box[1], box[2], box[3]
    last0, last1, last2 = box[7] - 1, box[8] - 1, box[9] - 1
    along1 = box[6] * 3
    along0 = box[5] * along1
    lower = -0.5 - FACE_SLACK
    upper0, upper1, upper2 = last0 + 0.5 - FACE_SLACK, last1 + 0.5 - FACE_SLACK, last2 + 0.5 - FACE_SLACK
    held = -1
    for k in range(rows.shape[1]):
        x, y, z = rows[0, k], rows[1, k], rows[2, k]
        p = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]
        q = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]
        r = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
        if x >= lower and y >= lower and z >= lower and x < upper0 and y < upper1 and z < upper2:
            x, y, z = min(max(x, 0.0), last0), min(max(y, 0.0), last1), min(max(z, 0.0), last2)
            a, b, c = int(x), int(y), int(z)
            x, y, z = x - a, y - b, z - c
            a, b, c = a - low0, b - low1, c - low2
            corner = box[0] + a * along0 + b * along1 + c * 3
            if corner != held:
                # Within a cell displacements are a polynomial, in which a row stays for a while.
                held = corner
                # A neighbour that is not in the crop has no weight.
                steps = (along0 if a + 1 < box[4] else 0, along1 if b + 1 < box[5] else 0, 3 if c + 1 < box[6] else 0)
                _cell(cell, push, vectors, corner, steps)
            xy, xz, yz = x * y, x * z, y * z
            p += _polynomial(cell[:, 0], x, y, z, xy, xz, yz)
            q += _polynomial(cell[:, 1], x, y, z, xy, xz, yz)
            r += _polynomial(cell[:, 2], x, y, z, xy, xz, yz)
        rows[0, k], rows[1, k], rows[2, k] = p, q, r


@compiled
def _polynomial(c: Array, x: float, y: float, z: float, xy: float, xz: float, yz: float) -> Any:
    return ((c[0] + c[1] * x) + (c[2] * y + c[3] * z)) + ((c[4] * xy + c[5] * xz) + (c[6] * yz + c[7] * (xy * z)))


@compiled
def _cell(cell: Array, push: Array, vectors: Array, corner: int, steps: tuple[int, int, int]) -> None:
    """Coefficients of 1, x, y, z, xy, xz, yz, xyz (8, 3) of what the displacements add within a cell."""
    cell[:] = 0
    for component in range(3):
        n000 = corner + component
        n100 = n000 + steps[0]
        v000, v001 = np.float64(vectors[n000]), np.float64(vectors[n000 + steps[2]])
        v010, v011 = np.float64(vectors[n000 + steps[1]]), np.float64(vectors[n000 + steps[1] + steps[2]])
        v100, v101 = np.float64(vectors[n100]), np.float64(vectors[n100 + steps[2]])
        v110, v111 = np.float64(vectors[n100 + steps[1]]), np.float64(vectors[n100 + steps[1] + steps[2]])
        x, y, z = v100 - v000, v010 - v000, v001 - v000
        xy, xz, yz = (v110 - v010) - x, (v101 - v001) - x, (v011 - v001) - y
        xyz = ((v111 - v011) - (v101 - v001)) - xy
        for row in range(3):
            f = push[row, component]
            cell[0, row] += f * v000
            cell[1, row] += f * x
            cell[2, row] += f * y
            cell[3, row] += f * z
            cell[4, row] += f * xy
            cell[5, row] += f * xz
            cell[6, row] += f * yz
            cell[7, row] += f * xyz
