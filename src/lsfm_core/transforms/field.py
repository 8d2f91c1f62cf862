"""Displacement fields, and their numeric inverses.

A field moves a point of its domain by the displacement there, interpolated linearly between the voxel centres, as ITK's
DisplacementFieldTransform with its VectorLinearInterpolateImageFunction does [1]_: a point is inside while its continuous index is
in [-0.5, n - 0.5) along each axis; between the outermost centre and the face the outermost value holds; outside, nothing moves.

.. [1] https://itk.org/Doxygen/html/classitk_1_1DisplacementFieldTransform.html
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError
from lsfm_core.geometry import Shape3, Space, apply_affine, voxel_count
from lsfm_core.progress import Progress
from lsfm_core.threads import share_out
from lsfm_core.transforms.base import FloatArray, Transform

__all__ = ["DisplacementField", "FieldBox", "InverseField", "voxel_centres"]

IntArray = npt.NDArray[np.intp]

#: A point that lies on a face but for rounding counts as inside at the lower face and outside at the upper one, as in exact
#: arithmetic. Else the blocks of an image, whose rounding differs, could disagree there. Voxels.
FACE_SLACK = 1e-10
#: Rounding between two ways to an index, with room to spare. Voxels.
_INDEX_SLACK = 1e-6
#: Voxels of a field that are in memory at once: 24 MiB of float64 vectors.
_CROP_VOXELS = 2**20
#: Points that are interpolated at once: their temporaries stay in the processor's cache.
_POINTS_AT_ONCE = 2**15
_RESIDUAL_POINTS = 50_000
#: The inverse is sought until the field carries the point found to within this of the one given. Voxels.
_INVERSE_TOLERANCE = 1e-4
_FIXED_POINT_STEPS = 12
_NEWTON_STEPS = 30
#: So many points are worth that compiled loops are loaded for them, which takes as long as numpy takes for these.
_MANY_POINTS = 2**18
_MANY_INVERTED = 2**14


@dataclass(frozen=True)
class FieldBox:
    """A box of a field's voxels, in array order."""

    starts: Shape3
    stops: Shape3

    @property
    def shape(self) -> Shape3:
        """Voxels along each axis."""
        a, b, c = (stop - start for start, stop in zip(self.starts, self.stops, strict=True))
        return a, b, c

    @property
    def voxels(self) -> int:
        """How many there are."""
        return voxel_count(self.shape)

    def covers(self, other: FieldBox) -> bool:
        """Whether all voxels of `other` are in this box."""
        return all(a <= b for a, b in zip(self.starts + other.stops, other.starts + self.stops, strict=True))


class DisplacementField(Transform):
    """A field of displacements: a point goes to point + displacement(point).

    Parameters
    ----------
    space : Space
        Of the field's voxels: its domain.
    vectors : array-like (a, b, c, 3)
        In array order; components R, A, S in mm. Only ``np.asarray(vectors[slices])`` is used, so it may be lazy.
    name : str
    partner : DisplacementField, optional
        The field's inverse, registered as a pair with it; it gets this field for its own partner.
    may_invert : bool
        Whether a field without partner may be inverted numerically.
    note : str
        What else is to be told of it, in words.

    Raises
    ------
    InputError
        If the vectors are not one triple per voxel of `space`.
    """

    def __init__(
        self,
        space: Space,
        vectors: Any,
        *,
        name: str = "",
        partner: DisplacementField | None = None,
        may_invert: bool = False,
        note: str = "",
    ) -> None:
        if tuple(vectors.shape) != (*space.shape, 3):
            raise InputError(f"displacement field {name!r}: expected vectors of shape {(*space.shape, 3)}, found {vectors.shape}")
        self.space = space
        self.vectors = vectors
        self.name = name
        self.partner = partner
        self.may_invert = may_invert
        self.note = note
        self._last = np.array(space.shape) - 1
        if partner is not None:
            partner.partner = self

    def map_points(self, points: npt.ArrayLike) -> FloatArray:
        mapped: FloatArray = np.array(points, dtype=np.float64)
        index = apply_affine(self.space.voxel_from_world, mapped)
        if _is_many(len(mapped), _MANY_POINTS):
            self._move_many(mapped, index)
            return mapped
        inside = np.flatnonzero(self.contains(index))
        index = index[inside]
        for group in _groups(index, _CROP_VOXELS, self._last):
            box = self.box_around(index[group])
            mapped[inside[group]] += _interpolate(self.read(box), index[group] - box.starts)
        return mapped

    def _move_many(self, points: FloatArray, index: FloatArray) -> None:
        """As `map_points`, in place."""
        from lsfm_core.kernels.points import inside, move

        which = inside(index, np.array(self.space.shape))
        for group in _groups(index, _CROP_VOXELS, self._last, which):
            box = self.box_around(_extent(index, group))
            crop, start = np.require(self.read_stored(box), requirements=["C", "W"]), np.array(box.starts, np.float64)
            _in_threads(move, points, index, group, crop, start)

    def inverse(self) -> Transform:
        """The partner, or the numeric inverse where that is allowed.

        Raises
        ------
        InputError
            If there is no partner and numeric inversion is not allowed, or is too inexact.
        """
        if self.partner is not None:
            return self.partner
        if not self.may_invert:
            raise InputError(
                f"displacement field {self.name!r} has no inverse: store the field that inverts it and register the two as a pair "
                "(write-field --inverse-of), or allow its numeric inversion by name"
            )
        return self._numeric_inverse

    @cached_property
    def _numeric_inverse(self) -> InverseField:
        inverse = InverseField(self)
        inverse.check()
        return inverse

    def describe(self) -> str:
        size = " x ".join(map(str, self.space.shape))
        voxel = " x ".join(f"{v:.4g}" for v in self.space.voxel_size_mm)
        note = f"; {self.note}" if self.note else ""
        return f"displacement field of {size} voxels of {voxel} mm, moves nothing outside {self.space.bounds} mm{note}"

    def contains(self, index: FloatArray) -> npt.NDArray[np.bool_]:
        """Whether continuous indices (n, 3) are in the domain."""
        inside: npt.NDArray[np.bool_] = np.all((index >= -0.5 - FACE_SLACK) & (index < self._last + 0.5 - FACE_SLACK), axis=1)
        return inside

    def meets(self, reach: FloatArray) -> bool:
        """Whether a box of continuous indices, given as (2, 3), lower and upper, reaches into the domain."""
        return bool((reach[1] >= -0.5 - _INDEX_SLACK).all() and (reach[0] <= self._last + 0.5 + _INDEX_SLACK).all())

    def box_around(self, index: FloatArray) -> FieldBox:
        """The voxels that interpolation needs everywhere in the box around continuous indices (n, 3), clamped to the domain."""
        lower = np.floor(np.clip(index.min(axis=0) - _INDEX_SLACK, 0, self._last)).astype(int)
        upper = np.floor(np.clip(index.max(axis=0) + _INDEX_SLACK + 1, 0, self._last)).astype(int) + 1
        return FieldBox((lower[0], lower[1], lower[2]), (upper[0], upper[1], upper[2]))

    def read(self, box: FieldBox) -> FloatArray:
        """Displacements (a, b, c, 3) of a box, R, A, S mm.

        Raises
        ------
        InputError
            If some are not finite.
        """
        return self.read_stored(box).astype(np.float64)

    def read_stored(self, box: FieldBox) -> npt.NDArray[Any]:
        """As `read`, but as float32 where they are stored so."""
        slices = tuple(slice(start, stop) for start, stop in zip(box.starts, box.stops, strict=True))
        vectors = np.asarray(self.vectors[slices])
        if vectors.dtype != np.float32:
            vectors = vectors.astype(np.float64)
        if not np.isfinite(vectors).all():
            raise InputError(
                f"displacement field {self.name!r} has displacements that are not finite among its voxels from "
                f"{tuple(map(int, box.starts))} to {tuple(map(int, box.stops))}: nothing can be carried through it there"
            )
        return vectors

    @cached_property
    def longest_mm(self) -> float:
        """Length of the longest displacement."""
        last = np.subtract(self.space.shape, 1)
        longest = 0.0
        for plane in range(self.space.shape[0]):
            vectors = self.read(self.box_around(np.array([[plane, 0, 0], [plane, *last[1:]]], float)))
            longest = max(longest, float(np.linalg.norm(vectors, axis=-1).max()))
        return longest

    def shifts(self, reach: FloatArray, vectors: npt.NDArray[Any]) -> FloatArray:
        """Smallest and largest displacement (2, 3) of points in a box of continuous indices (2, 3); of that, `vectors` are read."""
        # In two steps: numpy compares whole rows ten times faster than one triple after the other.
        found = np.stack([vectors.min(axis=(0, 1)).min(axis=0), vectors.max(axis=(0, 1)).max(axis=0)])
        if not self.contains(reach).all():
            found = np.stack([np.minimum(found[0], 0), np.maximum(found[1], 0)])
        return found

    def folding(self, progress: Progress | None = None) -> tuple[int, int]:
        """Count the voxels where the field folds space: where the Jacobian determinant of x + u(x) is not positive.

        Derivatives are central differences between voxel centres, one-sided at the field's borders.

        Parameters
        ----------
        progress : Progress, optional
            Advanced by the bytes of each block of float32 vectors.

        Returns
        -------
        folded, total : int
        """
        folded = 0
        for starts in product(*(range(0, n, 64) for n in self.space.shape)):
            stops = [min(start + 64, n) for start, n in zip(starts, self.space.shape, strict=True)]
            # One voxel around the block, where there is one, makes its own differences central.
            low = [max(0, start - 1) for start in starts]
            high = [min(n, stop + 1) for stop, n in zip(stops, self.space.shape, strict=True)]
            vectors = self.read(FieldBox((low[0], low[1], low[2]), (high[0], high[1], high[2])))
            inner = tuple(slice(a - b, c - b) for a, b, c in zip(starts, low, stops, strict=True))
            # Columns are the images of steps along the array axes; the world's volume element is taken out at the end.
            steps = []
            for axis in range(3):
                change = np.gradient(vectors, axis=axis) if vectors.shape[axis] > 1 else np.zeros_like(vectors)
                steps.append(change[inner] + self.space.world_from_voxel[:3, axis])
            volume = (np.cross(steps[0], steps[1]) * steps[2]).sum(axis=-1)
            folded += int(np.count_nonzero(volume * np.linalg.det(self.space.world_from_voxel[:3, :3]) <= 0))
            if progress is not None:
                progress.advance(volume.size * 12)
        return folded, voxel_count(self.space.shape)


class InverseField(Transform):
    """The numeric inverse of a displacement field u: the point y with y + u(y) = x.

    Found by the fixed-point iteration y <- x - u(y), as in [1]_, and where that does not converge, by Newton's method with damped
    steps. While it is sought, the outermost displacements hold outside the domain as well, so that what is sought exists; a point
    that is then found outside, where nothing moves, gives way to the given one if that is outside too.

    Parameters
    ----------
    field : DisplacementField

    References
    ----------
    .. [1] Chen M, Lu W, Chen Q, Ruchala KJ, Olivera GH. A simple fixed-point approach to invert a deformation field. Medical
       Physics 35 (2008), 81-88.
    """

    def __init__(self, field: DisplacementField) -> None:
        self.field = field
        self.name = f"inverse of {field.name}" if field.name else ""

    def map_points(self, points: npt.ArrayLike) -> FloatArray:
        mapped: FloatArray = np.array(points, dtype=np.float64)
        finite = np.isfinite(mapped).all(axis=1)
        if not finite.all():
            if finite.any():
                mapped[finite] = self.map_points(mapped[finite])
            return mapped
        space = self.field.space
        targets = apply_affine(space.voxel_from_world, mapped)
        work = self._invert_many if _is_many(len(mapped), _MANY_INVERTED) else self._invert
        for group in _groups(targets, _CROP_VOXELS // 2, np.array(space.shape) - 1):
            for part, box, crop in self._crops(group, targets):
                work(mapped, targets, part, crop, np.array(box.starts))
        return mapped

    def _invert(self, points: FloatArray, targets: FloatArray, which: IntArray, crop: npt.NDArray[Any], start: IntArray) -> None:
        """Move some of the points, through a crop of the field that begins at `start`."""
        space, target = self.field.space, targets[which]
        found = _invert(crop.astype(np.float64) @ space.voxel_from_world[:3, :3].T, start, target)
        moves = self.field.contains(found) | self.field.contains(target)
        points[which] += np.where(moves[:, None], found - target, 0) @ space.world_from_voxel[:3, :3].T

    def _invert_many(
        self, points: FloatArray, targets: FloatArray, which: IntArray, crop: npt.NDArray[Any], start: IntArray
    ) -> None:
        from lsfm_core.kernels.points import invert

        space = self.field.space
        given = np.require(crop, requirements=["C", "W"]), start.astype(np.float64), np.array(space.shape)
        linear = [np.ascontiguousarray(matrix[:3, :3]) for matrix in (space.voxel_from_world, space.world_from_voxel)]
        limits = _INVERSE_TOLERANCE, _FIXED_POINT_STEPS, _NEWTON_STEPS
        _in_threads(invert, points, targets, which, *given, *linear, *limits)

    def inverse(self) -> DisplacementField:
        return self.field

    def describe(self) -> str:
        median, maximum = self.residual()
        return f"numeric inverse of a {self.field.describe()}; residual {median:.3g} mm (median), {maximum:.3g} mm (maximum)"

    def residual(self) -> tuple[float, float]:
        """How far points of the field's domain are from where they started after the field and this inverse, mm.

        A regular grid of at most 50,000 of the field's voxel centres is tried. Where the field folds, several points go to one
        place, and no inverse can bring them all back.

        Returns
        -------
        median, maximum : float
        """
        return self._residual

    @cached_property
    def _residual(self) -> tuple[float, float]:
        shape = np.array(self.field.space.shape)
        step = 1
        while np.prod(-(-shape // step)) > _RESIDUAL_POINTS:
            step += 1
        index = np.stack(np.meshgrid(*(np.arange(0, n, step) for n in shape), indexing="ij"), axis=-1).reshape(-1, 3)
        points = apply_affine(self.field.space.world_from_voxel, index)
        distance = np.linalg.norm(self.map_points(self.field.map_points(points)) - points, axis=1)
        return float(np.median(distance)), float(distance.max())

    def check(self) -> tuple[float, float]:
        """The residual, if it is small enough.

        Raises
        ------
        InputError
            If its maximum is more than half a voxel.
        """
        median, maximum = self.residual()
        limit = min(self.field.space.voxel_size_mm) / 2
        if not maximum <= limit:
            raise InputError(
                f"displacement field {self.field.name!r} cannot be inverted numerically: the way there and back misses by "
                f"{median:.3g} mm (median) and {maximum:.3g} mm (maximum), more than half a voxel ({limit:.3g} mm); the field may "
                "fold: store its inverse and register the two as a pair (write-field --inverse-of)"
            )
        return median, maximum

    def shifts(self, points: FloatArray) -> FloatArray:
        """Between which two displacements (2, 3), mm, the inverse moves points in the box around some (n, 3), as far as it holds.

        A point x comes to a y with y + u(y) = x, so to x - u of a place that is no further away than the longest u.
        """
        field = self.field
        # By as much may the way there and back miss.
        slack = min(field.space.voxel_size_mm) / 2
        ends = np.stack([points.min(axis=0), points.max(axis=0)])
        bounds = np.array([[-field.longest_mm], [field.longest_mm]]) * np.ones(3)
        for _ in range(2):
            around = np.array(list(product(*(ends + bounds + np.array([[-slack], [slack]])).T)))
            index = apply_affine(field.space.voxel_from_world, around)
            reach = np.stack([index.min(axis=0), index.max(axis=0)])
            if not field.meets(reach):
                return np.zeros((2, 3))
            box = field.box_around(reach)
            if box.voxels > _CROP_VOXELS:
                break
            low, high = field.shifts(reach, field.read_stored(box)).astype(np.float64)
            # Where both lie outside, nothing moves.
            bounds = np.stack([np.minimum(-high, 0), np.maximum(-low, 0)])
        return np.asarray(bounds + np.array([[-slack], [slack]]))

    def _crops(self, group: IntArray, targets: FloatArray) -> Iterator[tuple[IntArray, FieldBox, npt.NDArray[Any]]]:
        """What of the field it takes to find y with y + u(y) = target for a group of targets, in parts that fit into memory."""
        bounds = _extent(targets, group)
        extent = np.ptp(bounds, axis=0)
        box = self.field.box_around(bounds)
        reach = None
        while True:
            crop = self.field.read_stored(box)
            # target - u maps any point into `needed`. Once that lies in the box itself, so does a solution (Brouwer), and no
            # fixed-point step leaves it.
            corners = np.array(list(product(*_extent(crop.reshape(-1, 3)).T))) @ self.field.space.voxel_from_world[:3, :3].T
            needed = np.stack([bounds[0] - corners.max(axis=0), bounds[1] - corners.min(axis=0)])
            if box.covers(self.field.box_around(needed)):
                break
            # The targets' own place is only the first guess; from the second on the box must grow, so that this comes to an end.
            reach = needed if reach is None else np.stack([np.minimum(reach[0], needed[0]), np.maximum(reach[1], needed[1])])
            wider = self.field.box_around(reach + np.array([[-1], [1]]))
            if wider.voxels > _CROP_VOXELS:
                if extent.max() <= 1:
                    break  # a field so wild that its residual will tell
                axis = int(extent.argmax())
                low = targets[group, axis] < bounds[:, axis].mean()
                yield from self._crops(group[low], targets)
                yield from self._crops(group[~low], targets)
                return
            box = wider
        yield group, box, crop


def voxel_centres(space: Space) -> FloatArray:
    """RAS mm positions (n, 3) of all voxel centres, the last array axis fastest."""
    index = np.indices(space.shape, dtype=np.float64).reshape(3, -1)
    centres: FloatArray = (space.world_from_voxel[:3, :3] @ index).T + space.world_from_voxel[:3, 3]
    return centres


def _groups(index: FloatArray, voxels: int, last: IntArray, which: IntArray | None = None) -> Iterator[IntArray]:
    """Split points into groups that lie in boxes of at most so many voxels, up to the `last`: boxes that hold more are halved."""
    if which is None:
        which = np.arange(len(index))
    stack = [which] if len(which) else []
    while stack:
        group = stack.pop()
        lower, upper = np.clip(_extent(index, group), 0, last)
        extent = np.floor(upper) - np.floor(lower) + 2
        if extent.prod() <= voxels:
            yield group
            continue
        axis = int(extent.argmax())
        low = index[group, axis] < (lower[axis] + upper[axis]) / 2
        stack += [group[low], group[~low]]


def _is_many(count: int, many: int) -> bool:
    """Whether compiled loops are worth it, or there already."""
    return count >= many or "lsfm_core.kernels.points" in sys.modules


def _in_threads(loop: Any, points: FloatArray, index: FloatArray, which: IntArray, *rest: Any) -> None:
    """A loop over those points that `which` numbers."""
    parts = -(-len(which) // _POINTS_AT_ONCE)
    share_out(lambda some: loop(points, index, some, *rest), np.array_split(which, parts))


def _extent(rows: FloatArray, which: IntArray | None = None) -> FloatArray:
    """Smallest and largest of each component (2, 3) of rows (n, 3), or of those that `which` (m,) numbers; there are some."""
    count = len(rows) if which is None else len(which)
    if _is_many(count, _MANY_POINTS):
        from lsfm_core.kernels.points import extent

        return np.asarray(extent(np.ascontiguousarray(rows), np.arange(count) if which is None else which))
    some = rows if which is None else rows[which]
    # Column by column, which numpy does several times as fast.
    return np.array([[column.min() for column in some.T], [column.max() for column in some.T]])


def _interpolate(vectors: FloatArray, index: FloatArray) -> FloatArray:
    """Linear interpolation of vectors (a, b, c, 3) at indices (n, 3), clamped to the outermost centres."""
    last = np.array(vectors.shape[:3]) - 1
    strides = np.array([vectors.shape[1] * vectors.shape[2], vectors.shape[2], 1])
    flat = vectors.reshape(-1, 3)
    result = np.empty((len(index), 3))
    for begin in range(0, len(index), _POINTS_AT_ONCE):
        place = np.clip(index[begin : begin + _POINTS_AT_ONCE], 0, last)
        base = np.minimum(place.astype(np.intp), np.maximum(last - 1, 0))
        upper = (place - base).T
        weights = np.stack([1 - upper, upper])
        first = base @ strides
        # An axis of one voxel has no next one; its upper weight is 0.
        stride = np.where(last > 0, strides, 0)
        total = np.zeros((len(place), 3))
        for corner in product((0, 1), repeat=3):
            weight = weights[corner[0], 0] * weights[corner[1], 1] * weights[corner[2], 2]
            total += weight[:, None] * flat.take(first + int(np.dot(corner, stride)), axis=0)
        result[begin : begin + _POINTS_AT_ONCE] = total
    return result


def _invert(crop: FloatArray, start: IntArray, target: FloatArray) -> FloatArray:
    """Indices y with y + u(y) = target, u given in index steps by a crop that begins at `start`."""
    found = target.copy()
    miss = found + _interpolate(crop, found - start) - target
    open_ = np.arange(len(target))
    for _ in range(_FIXED_POINT_STEPS):
        found[open_] -= miss[open_]
        miss[open_] = found[open_] + _interpolate(crop, found[open_] - start) - target[open_]
        open_ = open_[np.abs(miss[open_]).max(axis=1) > _INVERSE_TOLERANCE]
        if not len(open_):
            return found
    damping = np.ones(len(target))
    for _ in range(_NEWTON_STEPS):
        here = found[open_]
        # Linear interpolation is linear along each axis within a voxel, so a small step gives the derivative.
        columns = [(_interpolate(crop, here + step - start) - _interpolate(crop, here - start)) / 1e-4 for step in 1e-4 * np.eye(3)]
        jacobian = np.eye(3) + np.stack(columns, axis=-1)
        # The pseudo-inverse also has an answer where the field folds and the Jacobian is singular.
        step = (np.linalg.pinv(jacobian) @ miss[open_, :, None])[..., 0]
        trial = here - damping[open_, None] * step
        trial_miss = trial + _interpolate(crop, trial - start) - target[open_]
        better = np.linalg.norm(trial_miss, axis=1) < np.linalg.norm(miss[open_], axis=1)
        found[open_[better]] = trial[better]
        miss[open_[better]] = trial_miss[better]
        damping[open_] = np.where(better, np.minimum(1, 2 * damping[open_]), damping[open_] / 2)
        open_ = open_[np.abs(miss[open_]).max(axis=1) > _INVERSE_TOLERANCE]
        if not len(open_):
            break
    return found
