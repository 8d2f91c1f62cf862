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

from lsfm_core.kernels._compiled import FACE_SLACK, compiled, prefetch

__all__ = ["linear_values", "nearest_values", "reach"]

Array = npt.NDArray[Any]

#: Rounding must not give a neighbour weight that has none, since NaN times next to nothing is NaN. Voxels.
_DUST = 1e-8
#: Of so many voxels along a row, one asks for what it is made of ahead: its neighbours lie beside that.
_PREFETCH_EVERY = 2


@compiled
def reach(starts: Array, stops: Array, linear: Array, pushes: Array, vectors: Array, boxes: Array, aligned: bool) -> Array:
    """Smallest and largest index to which a way leads from the voxels of a box, (2, 3), but for rounding."""
    voxels = np.arange(starts[2], stops[2]).astype(np.float64)
    planes, lines = np.arange(starts[0], stops[0]), np.arange(starts[1], stops[1])
    if aligned and len(boxes) == 1:
        # Between voxel centres of the field it is linear along each axis, so that only the ends of such pieces matter.
        planes, lines = planes[_ends(linear[0], boxes[0], 0, planes)], lines[_ends(linear[0], boxes[0], 1, lines)]
        voxels = voxels[_ends(linear[0], boxes[0], 2, voxels)]
    total, places, parts, line = _prepared(linear, boxes, voxels, aligned)
    rows, cell = np.empty((3, len(voxels))), np.empty((8, 3))
    found = np.empty((2, 3))
    found[0] = np.inf
    found[1] = -np.inf
    for i in planes:
        for j in lines:
            _carry(rows, i, j, voxels, linear, pushes, vectors, boxes, aligned, total, places, parts, line, cell)
            for axis in range(3):
                low, high = found[0, axis], found[1, axis]
                for k in range(rows.shape[1]):
                    low, high = min(low, rows[axis, k]), max(high, rows[axis, k])
                found[0, axis], found[1, axis] = low, high
    return found


@compiled
def _ends(matrix: Array, box: Array, column: int, voxels: Array) -> Array:
    """Which of some successive voxels along an axis of the result (n,) are the first or last ones in a cell of the first field."""
    places, parts = _places(matrix, box, column, voxels)
    ends: Array = parts == 0
    ends[0] = ends[-1] = True
    for k in range(1, len(voxels) - 1):
        for beside in (k - 1, k + 1):
            ends[k] |= places[k] != places[beside] or parts[beside] == 0
    return ends


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
    whole: bool,
) -> None:
    """Linear interpolation, as ITK's: a neighbour without weight is not looked at.

    Parameters
    ----------
    out : array (a, b, c), C-contiguous; uint16, float32 or float64
        Gets the values of the voxels from `starts` on.
    starts : array (3,)
    linear, pushes, vectors, boxes, aligned
        The way.
    image : array (d, e, f), C-contiguous; uint16, float32 or float64
        All voxels that the box depends on.
    low, size : array (3,)
        First voxel of `image` in the whole image, and the shape of that.
    fill : float
    finite : bool
        Whether `image` holds neither infinity nor NaN, which spread from neighbours without weight. If not, that is heeded, which
        takes longer.
    whole : bool
        Whether values are rounded to the nearest whole numbers; before that to float32, which heals halves that rounding has moved.
    """
    count = out.shape[2]
    voxels = np.arange(starts[2], starts[2] + count).astype(np.float64)
    total, places, parts, line = _prepared(linear, boxes, voxels, aligned)
    # While a row is made, the voxels that the next one is made of are on their way from memory.
    two_rows, two_offsets, cell = np.empty((2, 3, count)), np.zeros((2, count), np.int64), np.empty((8, 3))
    two_runs = np.zeros((2, 2), np.int64)
    values = np.empty(count)
    flat = image.reshape(-1)
    along1 = image.shape[2]
    along0 = image.shape[1] * along1
    first = low[0] * along0 + low[1] * along1 + low[2]
    for n in range(out.shape[0] * out.shape[1] + 1):
        if n < out.shape[0] * out.shape[1]:
            rows, offsets = two_rows[n & 1], two_offsets[n & 1]
            i, j = starts[0] + n // out.shape[1], starts[1] + n % out.shape[1]
            _carry(rows, i, j, voxels, linear, pushes, vectors, boxes, aligned, total, places, parts, line, cell)
            begin, end = _run_between(rows, size) if finite else (0, 0)
            two_runs[n & 1, 0], two_runs[n & 1, 1] = begin, end
            _split(rows, offsets, begin, end, along0, along1, first)
            for k in range(begin, end, _PREFETCH_EVERY):
                at = offsets[k]
                prefetch(flat, at)
                prefetch(flat, at + along1)
                prefetch(flat, at + along0)
                prefetch(flat, at + along0 + along1)
        if n == 0:
            continue
        rows, offsets = two_rows[(n - 1) & 1], two_offsets[(n - 1) & 1]
        begin, end = two_runs[(n - 1) & 1, 0], two_runs[(n - 1) & 1, 1]
        _mix(values, flat, rows, offsets, begin, end, along0, along1)
        for k in range(begin):
            values[k] = _value(flat, rows[0, k], rows[1, k], rows[2, k], along0, along1, first, size, fill)
        for k in range(end, count):
            values[k] = _value(flat, rows[0, k], rows[1, k], rows[2, k], along0, along1, first, size, fill)
        row = out[(n - 1) // out.shape[1], (n - 1) % out.shape[1]]
        if whole:
            for k in range(count):
                row[k] = np.rint(np.float32(values[k]))
        else:
            for k in range(count):
                row[k] = values[k]


@compiled
def _split(rows: Array, offsets: Array, begin: int, end: int, along0: int, along1: int, first: int) -> None:
    """Of positions between voxels: where the lower ones lie in memory, and how far beyond these they are."""
    for k in range(begin, end):
        x, y, z = rows[0, k], rows[1, k], rows[2, k]
        a, b, c = np.floor(x + _DUST), np.floor(y + _DUST), np.floor(z + _DUST)
        offsets[k] = np.int64(a * along0 + b * along1 + c - first)
        x, y, z = x - a, y - b, z - c
        rows[0, k], rows[1, k], rows[2, k] = x if x > _DUST else 0.0, y if y > _DUST else 0.0, z if z > _DUST else 0.0


@compiled
def _mix(values: Array, flat: Array, rows: Array, offsets: Array, begin: int, end: int, along0: int, along1: int) -> None:
    """Values at positions that are split."""
    one, next1, next0 = np.uint64(1), np.uint64(along1), np.uint64(along0)
    for k in range(begin, end):
        x, y, z = rows[0, k], rows[1, k], rows[2, k]
        n00 = np.uint64(offsets[k])
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
        values[k] = v00 + (v10 - v00) * x


@compiled
def _run_between(rows: Array, size: Array) -> tuple[int, int]:
    """Begin and end of those of a row of positions (3, n) that lie between voxels on each side; none, if they do not adjoin."""
    count = rows.shape[1]
    top0, top1, top2 = size[0] - 1 - 2 * _DUST, size[1] - 1 - 2 * _DUST, size[2] - 1 - 2 * _DUST
    # Counted, which vector registers can do.
    found = 0
    for k in range(count):
        x, y, z = rows[0, k], rows[1, k], rows[2, k]
        found += (x >= 0) & (y >= 0) & (z >= 0) & (x < top0) & (y < top1) & (z < top2)
    if found == count:
        return 0, count
    begin, end = 0, 0
    for k in range(count):
        x, y, z = rows[0, k], rows[1, k], rows[2, k]
        if x >= 0 and y >= 0 and z >= 0 and x < top0 and y < top1 and z < top2:
            begin = begin if end else k
            end = k + 1
    return (begin, end) if found == end - begin else (0, 0)


@compiled
def _value(flat: Array, x: float, y: float, z: float, along0: int, along1: int, first: int, size: Array, fill: float) -> float:
    """Value at any position. Where all voxels around it are finite, it is what the quicker way gives, to the last bit."""
    last0, last1, last2 = size[0] - 1, size[1] - 1, size[2] - 1
    if not (x >= -0.5 and y >= -0.5 and z >= -0.5 and x < last0 + 0.5 and y < last1 + 0.5 and z < last2 + 0.5):
        return fill
    x, y, z = min(max(x, 0.0), last0), min(max(y, 0.0), last1), min(max(z, 0.0), last2)
    a, b, c = np.floor(x + _DUST), np.floor(y + _DUST), np.floor(z + _DUST)
    x, y, z = x - a, y - b, z - c
    at = np.int64(a) * along0 + np.int64(b) * along1 + np.int64(c) - first
    # Written out: with functions for a row and a plane, each of which counts the array, it takes two thirds longer.
    value = np.float64(flat[at])
    if z > _DUST:
        value += (flat[at + 1] - value) * z
    if y > _DUST:
        beside = np.float64(flat[at + along1])
        if z > _DUST:
            beside += (flat[at + along1 + 1] - beside) * z
        value += (beside - value) * y
    if x > _DUST:
        at += along0
        behind = np.float64(flat[at])
        if z > _DUST:
            behind += (flat[at + 1] - behind) * z
        if y > _DUST:
            beside = np.float64(flat[at + along1])
            if z > _DUST:
                beside += (flat[at + along1 + 1] - beside) * z
            behind += (beside - behind) * y
        value += (behind - value) * x
    return value


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
    count = out.shape[2]
    voxels = np.arange(starts[2], starts[2] + count).astype(np.float64)
    total, places, parts, line = _prepared(linear, boxes, voxels, aligned)
    rows, two_offsets, cell = np.empty((3, count)), np.zeros((2, count), np.int64), np.empty((8, 3))
    flat = image.reshape(-1)
    along1 = image.shape[2]
    along0 = image.shape[1] * along1
    first = low[0] * along0 + low[1] * along1 + low[2]
    last0, last1, last2 = size[0] - 1, size[1] - 1, size[2] - 1
    for n in range(out.shape[0] * out.shape[1] + 1):
        if n < out.shape[0] * out.shape[1]:
            offsets = two_offsets[n & 1]
            i, j = starts[0] + n // out.shape[1], starts[1] + n % out.shape[1]
            _carry(rows, i, j, voxels, linear, pushes, vectors, boxes, aligned, total, places, parts, line, cell)
            for k in range(count):
                x, y, z = rows[0, k], rows[1, k], rows[2, k]
                at = -1
                if x >= -0.5 and y >= -0.5 and z >= -0.5 and x < last0 + 0.5 and y < last1 + 0.5 and z < last2 + 0.5:
                    a, b, c = min(int(x + 0.5), last0), min(int(y + 0.5), last1), min(int(z + 0.5), last2)
                    at = a * along0 + b * along1 + c - first
                offsets[k] = at
            for k in range(0, count, _PREFETCH_EVERY):
                prefetch(flat, offsets[k])
        if n > 0:
            row, offsets = out[(n - 1) // out.shape[1], (n - 1) % out.shape[1]], two_offsets[(n - 1) & 1]
            for k in range(count):
                row[k] = flat[offsets[k]] if offsets[k] >= 0 else fill[0]


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
    if not aligned:
        return total, np.empty(0, np.int64), np.empty(0), np.empty((3, 0))
    for row in range(3):
        for column in range(4):
            for k in range(3):
                total[row, column] += linear[1, row, k] * linear[0, k, column]
        total[row, 3] += linear[1, row, 3]
    places, parts = _places(linear[0], boxes[0], 2, voxels)
    return total, places, parts, np.empty((3, boxes[0, 4 + _axis(linear[0], 2)] + 1))


@compiled
def _places(matrix: Array, box: Array, column: int, voxels: Array) -> tuple[Array, Array]:
    """Where voxels along an axis of the result lie in the field with which it is aligned: `places` and `parts` of `_prepared`."""
    places, parts = np.full(len(voxels), -1), np.zeros(len(voxels))
    axis = _axis(matrix, column)
    first, last = box[1 + axis], box[7 + axis] - 1
    for k in range(len(voxels)):
        x = matrix[axis, 3] + matrix[axis, column] * voxels[k]
        if x >= -0.5 - FACE_SLACK and x < last + 0.5 - FACE_SLACK:
            x = min(max(x, 0.0), last)
            place = int(x)
            places[k], parts[k] = place - first, x - place
    return places, parts


@compiled
def _axis(matrix: Array, column: int) -> int:
    """The axis of a field along which one of the result runs."""
    return 0 if matrix[0, column] != 0 else 1 if matrix[1, column] != 0 else 2


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
    axis = _axis(matrix, 2)
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
            p += _polynomial(cell, 0, x, y, z, xy, xz, yz)
            q += _polynomial(cell, 1, x, y, z, xy, xz, yz)
            r += _polynomial(cell, 2, x, y, z, xy, xz, yz)
        rows[0, k], rows[1, k], rows[2, k] = p, q, r


@compiled
def _polynomial(c: Array, row: int, x: float, y: float, z: float, xy: float, xz: float, yz: float) -> Any:
    near = (c[0, row] + c[1, row] * x) + (c[2, row] * y + c[3, row] * z)
    return near + ((c[4, row] * xy + c[5, row] * xz) + (c[6, row] * yz + c[7, row] * (xy * z)))


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
