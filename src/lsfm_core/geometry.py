"""Where voxels are: orientation codes, spaces, and the conversions between conventions.

World is NIfTI's RAS+ in millimetres: x grows to the subject's right, y to anterior, z to superior [1]_. Voxel indices are in
*array order* (axis 0, 1, 2 = planes, rows, columns as stored). Affines are named ``target_from_source`` so that products read
right. Every sign, flip and letter of the project is decided in this module.

.. [1] https://nifti.nimh.nih.gov/nifti-1/documentation/faq
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError, OrientationError

__all__ = [
    "LPS_FROM_RAS",
    "Box",
    "Orientation",
    "Reorientation",
    "Space",
    "apply_affine",
    "check_voxel_size",
    "mm_per",
    "voxel_count",
]

FloatArray = npt.NDArray[np.float64]
Triple = tuple[float, float, float]
Shape3 = tuple[int, int, int]

# Letter -> (world axis, sign); world axes are R, A, S.
_DIRECTION = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
_WORD = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}
_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))
# Metres by what stands before "m" and before "meter"; one letter may mean two things, by its case.
_PREFIXES = {
    "Y": ("yotta", 1e24), "Z": ("zetta", 1e21), "E": ("exa", 1e18), "P": ("peta", 1e15), "T": ("tera", 1e12), "G": ("giga", 1e9),
    "M": ("mega", 1e6), "k": ("kilo", 1e3), "h": ("hecto", 1e2), "da": ("deca", 10.0), "": ("", 1.0), "d": ("deci", 0.1),
    "c": ("centi", 1e-2), "m": ("milli", 1e-3), "µ": ("micro", 1e-6), "n": ("nano", 1e-9), "p": ("pico", 1e-12),
    "f": ("femto", 1e-15), "a": ("atto", 1e-18), "z": ("zepto", 1e-21), "y": ("yocto", 1e-24),
}  # fmt: skip
_MM_BY_SYMBOL = {f"{symbol}m": 1e3 * factor for symbol, (_, factor) in _PREFIXES.items()}
_MM_BY_WORD = {
    **{f"{word}{metre}": 1e3 * factor for word, factor in _PREFIXES.values() for metre in ("meter", "metre")},
    **dict.fromkeys(("um", "micron", "mum", "mcm"), 0.001), "mm": 1.0, "cm": 10.0, "m": 1e3, "nm": 1e-6, "µm": 1e-3, "dm": 100.0,
    **dict.fromkeys(("å", "angstrom", "ångström", "ångstrom"), 1e-07),
    **dict.fromkeys(("in", "inch", "inche", '"'), 25.4), **dict.fromkeys(("thou", "mil"), 0.0254), "li": 25.4 / 12,
    **dict.fromkeys(("pt", "point"), 25.4 / 72), **dict.fromkeys(("ft", "foot", "feet"), 304.8),
    **dict.fromkeys(("yd", "yard"), 914.4), **dict.fromkeys(("mi", "mile"), 1609344.0),
    "ua": 1.495978707e14, "ly": 9.4607304725808e18, **dict.fromkeys(("pc", "parsec"), 3.085677581491367e+19),
}  # fmt: skip
#: Along an axis; far beyond any image, and still exact as a float.
_MOST_VOXELS = 2.0**53
_AXIS_NAME = ("planes", "rows", "columns")
#: ITK's world differs from NIfTI's by the sign of the first two axes; the matrix is its own inverse.
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Orientation:
    """The direction in which each array axis' index grows, as nibabel's axis codes.

    Parameters
    ----------
    axcodes : str
        Three letters in array order out of R/L, A/P and S/I, one of each pair. ``"AIR"``: planes grow toward anterior, rows
        toward inferior, columns toward right.

    Raises
    ------
    OrientationError
        If the letters do not name three different body axes.
    """

    axcodes: str

    def __post_init__(self) -> None:
        code = self.axcodes.upper()
        if len(code) != 3 or any(letter not in _DIRECTION for letter in code):
            raise OrientationError(
                f"orientation {self.axcodes!r}: expected three letters, one each of R/L, A/P and S/I, in the order planes, "
                "rows, columns, each the side toward which the index grows (for example AIR)"
            )
        if len({_DIRECTION[letter][0] for letter in code}) != 3:
            raise OrientationError(
                f"orientation {self.axcodes!r} names one body axis twice: use one letter each of R/L, A/P and S/I"
            )
        object.__setattr__(self, "axcodes", code)

    @classmethod
    def from_origin(cls, letters: str) -> Orientation:
        """Read the other spelling, in which each letter is the side where index 0 lies (BrainGlobe, ITK-SNAP).

        ``Orientation.from_origin("psl") == Orientation("AIR")``.
        """
        upper = letters.upper()
        if any(letter not in _OPPOSITE for letter in upper):
            return cls(letters)  # raises, and names what was given
        return cls("".join(_OPPOSITE[letter] for letter in upper))

    @classmethod
    def from_user(cls, code: str) -> Orientation:
        """Read axis codes that a person gave: in capitals, for BrainGlobe's small letters name the other side.

        Raises
        ------
        OrientationError
            That tells both readings of small letters; or if it is no code.
        """
        letters = code.strip()
        if letters.islower() and len(letters) == 3:
            raise OrientationError(
                f"orientation {letters!r} in small letters is, as BrainGlobe has it, where the first voxel lies: give "
                f"{cls.from_origin(letters)} for that (or write's --origin-orientation {letters}), or "
                f"{letters.upper()} if the index grows toward these sides"
            )
        return cls(letters)

    @property
    def origin_letters(self) -> str:
        """BrainGlobe's spelling: the side where index 0 lies, in lower case."""
        return "".join(_OPPOSITE[letter] for letter in self.axcodes).lower()

    @property
    def is_mirrored(self) -> bool:
        """Whether columns, rows and planes, taken as x, y and z, form a left-handed frame.

        An image with x to the right, y downward and z into the depth is right-handed. A code that says otherwise is legal (the
        planes may come toward the viewer), but is more often a mistake that turns left into right.
        """
        return bool(np.linalg.det(self.direction[:, ::-1]) < 0)

    @property
    def doubt(self) -> str | None:
        """What a person should check of this code, in a sentence; None where there is nothing."""
        if not self.is_mirrored:
            return None
        return (
            f"orientation {self} is a mirror image of what a camera sees (columns, rows and planes form a left-handed frame): "
            "right and left may be swapped; check it against the specimen"
        )

    @property
    def direction(self) -> FloatArray:
        """(3, 3) matrix; column k is the RAS unit vector along which array axis k grows."""
        matrix = np.zeros((3, 3))
        for axis, letter in enumerate(self.axcodes):
            world_axis, sign = _DIRECTION[letter]
            matrix[world_axis, axis] = sign
        return matrix

    @property
    def directions(self) -> tuple[str, ...]:
        """Each axis in OME-Zarr's words: ``("posterior-to-anterior", …)``."""
        return tuple(f"{_WORD[_OPPOSITE[letter]]}-to-{_WORD[letter]}" for letter in self.axcodes)

    def describe(self) -> str:
        """Spell the code out: ``axis 0 planes: posterior -> anterior; axis 1 rows: …``."""
        return "; ".join(
            f"axis {axis} {_AXIS_NAME[axis]}: {_WORD[_OPPOSITE[letter]]} -> {_WORD[letter]}"
            for axis, letter in enumerate(self.axcodes)
        )

    def __str__(self) -> str:
        return self.axcodes


@dataclass(frozen=True)
class Reorientation:
    """A transposition and flips: ``out[j0, j1, j2]`` takes its axis k from source axis ``axes[k]``, reversed if ``flips[k]``."""

    axes: Shape3
    flips: tuple[bool, bool, bool]

    def source_ranges(self, starts: Sequence[int], stops: Sequence[int], source_shape: Sequence[int]) -> tuple[slice, ...]:
        """Slices of the source (in its own axis order) that hold the box ``starts:stops`` of the result."""
        slices = [slice(None)] * 3
        for axis, flip, start, stop in zip(self.axes, self.flips, starts, stops, strict=True):
            size = source_shape[axis]
            slices[axis] = slice(size - stop, size - start) if flip else slice(start, stop)
        return tuple(slices)

    def apply(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """View of `array` with its first three axes transposed and flipped; further axes (components) stay last."""
        rest = tuple(range(3, array.ndim))
        return array.transpose(*self.axes, *rest)[self._steps]

    def undo(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """View of a result in the order of its source: ``undo(apply(array))`` is `array`."""
        rest = range(3, array.ndim)
        return array[self._steps].transpose(*(self.axes.index(axis) for axis in range(3)), *rest)

    @property
    def _steps(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in RAS mm, from its outer corner with the smallest R, A, S to the one with the largest."""

    lower_mm: Triple
    upper_mm: Triple

    @property
    def size_mm(self) -> Triple:
        """Edge lengths along R, A, S."""
        r, a, s = (high - low for low, high in zip(self.lower_mm, self.upper_mm, strict=True))
        return r, a, s

    @classmethod
    def of(cls, points: npt.ArrayLike) -> Box:
        """The smallest box that holds all `points` (n, 3), RAS mm."""
        low, high = np.min(points, axis=0), np.max(points, axis=0)
        return cls((float(low[0]), float(low[1]), float(low[2])), (float(high[0]), float(high[1]), float(high[2])))

    @classmethod
    def around(cls, boxes: Iterable[Box]) -> Box:
        """The smallest box that holds all `boxes`."""
        return cls.of([corner for box in boxes for corner in (box.lower_mm, box.upper_mm)])

    @property
    def corners(self) -> FloatArray:
        """(8, 3) RAS mm."""
        return np.array(list(product(*zip(self.lower_mm, self.upper_mm, strict=True))))

    def meets(self, other: Box) -> bool:
        """Whether the two share more than a face."""
        return all(a < d and c < b for a, b, c, d in zip(self.lower_mm, self.upper_mm, other.lower_mm, other.upper_mm, strict=True))

    def grown(self, margin_mm: float) -> Box:
        """This box with every face moved outward."""
        return Box.of([np.subtract(self.lower_mm, margin_mm), np.add(self.upper_mm, margin_mm)])

    def __str__(self) -> str:
        return " x ".join(
            f"{name} {low:.3f}..{high:.3f}" for name, low, high in zip("RAS", self.lower_mm, self.upper_mm, strict=True)
        )


@dataclass(frozen=True, eq=False)
class Space:
    """The geometry of a voxel array: its shape and the affine from voxel indices to the world.

    Parameters
    ----------
    shape : tuple of 3 int
        In array order.
    world_from_voxel : array (4, 4), float64
        Maps (i, j, k, 1), indices in array order, to RAS mm; voxel centres have whole indices.
    """

    shape: Shape3
    world_from_voxel: FloatArray

    def __post_init__(self) -> None:
        affine = np.array(self.world_from_voxel, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], (0, 0, 0, 1)):
            raise InputError(f"world_from_voxel: expected a finite 4 x 4 affine with last row 0 0 0 1, found {affine.tolist()}")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-30:
            raise InputError(f"world_from_voxel is singular, it flattens the image: {affine.tolist()}")
        affine.setflags(write=False)
        object.__setattr__(self, "world_from_voxel", affine)
        object.__setattr__(self, "shape", _triple_of_int(self.shape))

    @classmethod
    def from_orientation(
        cls,
        shape: Sequence[int],
        voxel_size_mm: Sequence[float],
        orientation: Orientation,
        origin_mm: Sequence[float] | None = None,
    ) -> Space:
        """Space of an image that brings no geometry of its own, such as a TIFF series.

        Parameters
        ----------
        shape, voxel_size_mm : sequence of 3
            In array order.
        orientation : Orientation
        origin_mm : sequence of 3 float, optional
            R, A, S position of the centre of the voxel that is first in R, A and S. Default 0, 0, 0.
        """
        size = np.asarray(check_voxel_size(voxel_size_mm))
        scaled = orientation.direction * size
        affine = np.eye(4)
        affine[:3, :3] = scaled
        # An axis that grows toward L, P or I has its RAS-first voxel at its far end.
        last = np.asarray(shape, dtype=np.float64) - 1
        affine[:3, 3] = -np.minimum(scaled, 0) @ last
        if origin_mm is not None:
            affine[:3, 3] += np.asarray(origin_mm, dtype=np.float64)
        return cls(_triple_of_int(shape), affine)

    @classmethod
    def from_itk(cls, shape: Sequence[int], origin: Sequence[float], spacing: Sequence[float], direction: Sequence[float]) -> Space:
        """Space of an ITK image of `shape` (array order); the rest is what `to_itk` gives."""
        lps_from_xyz = np.eye(4)
        lps_from_xyz[:3, :3] = np.reshape(direction, (3, 3)) * spacing
        lps_from_xyz[:3, 3] = origin
        return cls(_triple_of_int(shape), LPS_FROM_RAS @ lps_from_xyz[:, [2, 1, 0, 3]])

    @classmethod
    def from_box(cls, box: Box, resolution_mm: Sequence[float], orientation: Orientation) -> Space:
        """Axis-aligned grid in a box: its outer faces lie on the box's faces with the smallest R, A and S.

        An extent e at resolution r gets ``max(1, round(e / r))`` voxels of exactly r.

        Parameters
        ----------
        box : Box
        resolution_mm : sequence of 3 float
            Along the axes of the result.
        orientation : Orientation
            Of the result.
        """
        size = check_voxel_size(resolution_mm, "resolution")
        order = [_DIRECTION[letter][0] for letter in orientation.axcodes]
        count = _counts(np.asarray(box.size_mm)[order], size)
        first = [box.lower_mm[world] + 0.5 * r for world, r in sorted(zip(order, size, strict=True))]
        return cls.from_orientation(_triple_of_int(count), size, orientation, first)

    @property
    def voxel_size_mm(self) -> Triple:
        """Edge lengths of a voxel along the array axes."""
        i, j, k = np.linalg.norm(self.world_from_voxel[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of a voxel, whatever angles its edges make."""
        return float(abs(np.linalg.det(self.world_from_voxel[:3, :3])))

    @property
    def orientation(self) -> Orientation:
        """The code nearest to the axes' true directions (exact unless the affine is oblique)."""
        direction = self.world_from_voxel[:3, :3] / np.asarray(self.voxel_size_mm)
        best = max(permutations(range(3)), key=lambda p: sum(abs(direction[p[axis], axis]) for axis in range(3)))
        letters = ("RL", "AP", "SI")
        return Orientation("".join(letters[best[axis]][int(direction[best[axis], axis] < 0)] for axis in range(3)))

    @property
    def is_axis_aligned(self) -> bool:
        """Whether each array axis runs along one world axis (to 1e-4 of a voxel over the whole image)."""
        nearest = self.orientation.direction * np.asarray(self.voxel_size_mm)
        drift = np.abs(self.world_from_voxel[:3, :3] - nearest) * np.asarray(self.shape)
        return bool(drift.max() < 1e-4 * min(self.voxel_size_mm))

    @property
    def voxel_from_world(self) -> FloatArray:
        """(4, 4) inverse of `world_from_voxel`."""
        return np.linalg.inv(self.world_from_voxel).astype(np.float64, copy=False)

    @property
    def bounds(self) -> Box:
        """The RAS box around the image, to the voxels' outer faces."""
        return Box.of(self.to_world(list(product(*[(-0.5, n - 0.5) for n in self.shape]))))

    @property
    def first_voxel_mm(self) -> Triple:
        """R, A, S of the centre of the corner voxel that is first in all three (of an oblique image: of the corners' box)."""
        return Box.of(self.to_world(list(product(*[(0, n - 1) for n in self.shape])))).lower_mm

    def to_world(self, index: npt.ArrayLike) -> FloatArray:
        """RAS mm (n, 3) of voxel indices (n, 3) in array order."""
        return apply_affine(self.world_from_voxel, index)

    def to_voxel(self, points_mm: npt.ArrayLike) -> FloatArray:
        """Voxel indices (n, 3) in array order, with fractions, of RAS mm (n, 3)."""
        return apply_affine(self.voxel_from_world, points_mm)

    @property
    def offset_mm(self) -> Triple:
        """Where the first voxel's centre is along each array axis, for formats that know no more than a scale and an offset.

        It is measured in the direction in which the axis grows: 3 mm to the left on an axis that grows toward left is 3.
        """
        i, j, k = self.orientation.direction.T @ self.world_from_voxel[:3, 3]
        return float(i), float(j), float(k)

    def level(self, factors: Sequence[float], shape: Sequence[int]) -> Space:
        """Space of a pyramid level: voxel i of it is centred on voxel ``f * i + (f - 1) / 2`` of this one.

        This is the block mean's own position, and BigDataViewer's mipmap convention.
        """
        f = np.asarray(factors, dtype=np.float64)
        this_from_level = np.eye(4)
        this_from_level[:3, :3] = np.diag(f)
        this_from_level[:3, 3] = 0.5 * (f - 1)
        return Space(_triple_of_int(shape), self.world_from_voxel @ this_from_level)

    def divided(self, counts: Sequence[int]) -> Space:
        """The same box with each voxel divided into ``counts`` voxels along the axes."""
        affine = self.world_from_voxel.copy()
        affine[:3, :3] /= np.asarray(counts)
        affine[:3, 3] -= (self.world_from_voxel[:3, :3] - affine[:3, :3]).sum(axis=1) / 2
        a, b, c = (n * count for n, count in zip(self.shape, counts, strict=True))
        return Space((a, b, c), affine)

    def crop(self, starts: npt.ArrayLike, stops: npt.ArrayLike) -> Space:
        """Space of the box of voxels ``starts:stops``; it may reach outside."""
        affine = self.world_from_voxel.copy()
        affine[:3, 3] = self.world_from_voxel[:3, :3] @ np.asarray(starts, dtype=np.float64) + self.world_from_voxel[:3, 3]
        return Space(_triple_of_int(np.subtract(stops, starts)), affine)

    def reorientation_to(self, orientation: Orientation) -> Reorientation:
        """The transposition and flips that bring the array nearest to `orientation`, without touching a value."""
        own = [_DIRECTION[letter] for letter in self.orientation.axcodes]
        axes, flips = [], []
        for letter in orientation.axcodes:
            world_axis, sign = _DIRECTION[letter]
            axis = next(k for k, (candidate, _) in enumerate(own) if candidate == world_axis)
            axes.append(axis)
            flips.append(own[axis][1] != sign)
        return Reorientation((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))

    def reoriented(self, reorientation: Reorientation) -> Space:
        """Space of ``reorientation.apply(array)``."""
        this_from_new = np.zeros((4, 4))
        this_from_new[3, 3] = 1
        for new_axis, (axis, flip) in enumerate(zip(reorientation.axes, reorientation.flips, strict=True)):
            this_from_new[axis, new_axis] = -1 if flip else 1
            this_from_new[axis, 3] = self.shape[axis] - 1 if flip else 0
        shape = tuple(self.shape[axis] for axis in reorientation.axes)
        return Space(_triple_of_int(shape), self.world_from_voxel @ this_from_new)

    def with_resolution(self, resolution_mm: Sequence[float]) -> Space:
        """Grid over the same extent, along the same axes, with other voxels.

        An extent e (edge to edge) at resolution r gets ``max(1, round(e / r))`` voxels of exactly r; the first one's outer face
        lies on the image's first outer face, so the last face moves by less than r / 2.

        Parameters
        ----------
        resolution_mm : sequence of 3 float
            In array order.
        """
        target = np.asarray(check_voxel_size(resolution_mm, "resolution"))
        own = np.asarray(self.voxel_size_mm)
        count = _counts(own * self.shape, target)
        ratio = target / own
        this_from_new = np.eye(4)
        this_from_new[:3, :3] = np.diag(ratio)
        this_from_new[:3, 3] = 0.5 * ratio - 0.5
        return Space(_triple_of_int(count), self.world_from_voxel @ this_from_new)

    def around(self, box: Box) -> Space:
        """This grid's voxels, or their continuation outside of it, that have any part of `box` inside."""
        index = self.to_voxel(box.corners)
        # A face that lies on a voxel's face, but for rounding, does not reach into the next one.
        starts = np.floor(np.round(index.min(axis=0) + 0.5, 4))
        stops = np.maximum(starts + 1, np.ceil(np.round(index.max(axis=0) + 0.5, 4)))
        return self.crop(starts, stops)

    def same_grid(self, other: Space) -> bool:
        """Whether both have the same shape and put every voxel at the same place (to 1e-4 of a voxel)."""
        if self.shape != other.shape:
            return False
        difference = np.abs(self.world_from_voxel - other.world_from_voxel)
        drift = difference[:3, :3] @ np.asarray(self.shape, dtype=np.float64) + difference[:3, 3]
        return bool(drift.max() < 1e-4 * min(self.voxel_size_mm))

    def offset_in(self, other: Space) -> Shape3 | None:
        """Index in `other` of this grid's first voxel, if all of this grid's voxels are voxels of `other` or its continuation.

        To 1e-4 of a voxel; None where the two grids do not coincide.
        """
        start = np.rint(other.to_voxel([self.world_from_voxel[:3, 3]])[0])
        offset = _triple_of_int(start)
        same = other.crop(offset, np.add(offset, self.shape)).same_grid(self)
        return offset if same else None

    def to_itk(self) -> tuple[Triple, Triple, tuple[float, ...]]:
        """Origin, spacing and direction for ITK: LPS mm, index order x, y, z = array axes 2, 1, 0.

        Direction is row-major, 9 numbers, as ``SimpleITK.Image.SetDirection`` takes it.
        """
        lps_from_xyz = (LPS_FROM_RAS @ self.world_from_voxel)[:, [2, 1, 0, 3]]
        spacing = np.linalg.norm(lps_from_xyz[:3, :3], axis=0)
        direction = lps_from_xyz[:3, :3] / spacing
        origin = lps_from_xyz[:3, 3]
        return (
            (float(origin[0]), float(origin[1]), float(origin[2])),
            (float(spacing[0]), float(spacing[1]), float(spacing[2])),
            tuple(float(v) for v in direction.ravel()),
        )


def apply_affine(matrix: FloatArray, points: npt.ArrayLike) -> FloatArray:
    """Points (n, 3) under a matrix (4, 4)."""
    values = np.asarray(points, dtype=np.float64)
    # Column by column, which is several times as fast as a product of so narrow a matrix, and the same for a point among others.
    x, y, z = values.reshape(-1, 3).T
    mapped = np.empty((len(x), 3))
    for axis, (a, b, c, d) in enumerate(matrix[:3].tolist()):
        mapped[:, axis] = ((a * x + b * y) + c * z) + d
    return mapped


def check_voxel_size(values: Sequence[float], name: str = "voxel size") -> Triple:
    """Three positive, finite numbers in mm, or an `InputError` that says what was given."""
    sizes = [float(v) for v in values]
    if len(sizes) != 3:
        raise InputError(f"{name}: expected three numbers in mm (planes, rows, columns), found {len(sizes)}: {sizes}")
    if not all(np.isfinite(v) and v > 0 for v in sizes):
        raise InputError(f"{name}: every number must be a positive length in mm, found {sizes}")
    return sizes[0], sizes[1], sizes[2]


def _counts(extent_mm: npt.NDArray[np.float64], resolution_mm: npt.ArrayLike) -> FloatArray:
    """How many voxels an extent gets, per axis."""
    # Nine decimals first: 7.75 / 0.1 is 77.50000000000001, and a half must not depend on such dust.
    with np.errstate(over="ignore"):
        counts: FloatArray = np.maximum(1, np.rint(np.round(extent_mm / np.asarray(resolution_mm), 9)))
    if not (counts < _MOST_VOXELS).all():
        raise InputError("the result would have more voxels along an axis than can be counted: give a coarser resolution, or less")
    return counts


def mm_per(unit: object) -> float | None:
    """Millimetres in a unit of length, by any of its usual names, OME's and NGFF's; None for what is no such name (``pixel``)."""
    # ImageJ escapes the micro sign, there are two of them in Unicode, and UTF-8's is often read byte by byte.
    name = re.sub(r"\\u00b5|\\u03bc|\u03bc|\xc2\xb5|\xce\xbc", "µ", str(unit).strip(" \t\r\n\0."), flags=re.IGNORECASE)
    name = name.replace("\u212b", "å").replace("A\u030a", "å")
    if name in _MM_BY_SYMBOL:
        return _MM_BY_SYMBOL[name]
    name = name.lower()
    return _MM_BY_WORD.get(name, _MM_BY_WORD.get(name.removesuffix("s")))


def voxel_count(shape: Sequence[int]) -> int:
    """Product of a shape as a Python int, which does not overflow."""
    count = 1
    for n in shape:
        count *= int(n)
    return count


def _triple_of_int(values: Sequence[float] | npt.NDArray[Any]) -> Shape3:
    a, b, c = (int(v) for v in values)
    return a, b, c
