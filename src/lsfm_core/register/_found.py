"""What was found of a registration: its transforms, in the order of a chain, and what tells whether they are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import SourceError
from lsfm_core.formats import FieldConvention, Source
from lsfm_core.formats._source import WrappedSource
from lsfm_core.formats.arrays import ArraySource
from lsfm_core.geometry import Shape3, Space, voxel_count
from lsfm_core.transforms import Affine, DisplacementField, Transform
from lsfm_core.transforms.staged import StagedTransform

__all__ = ["AffineStep", "FieldStep", "Found", "PlacedSource", "Result", "flattened", "one_affine", "placed", "spline_domain"]

Array = npt.NDArray[Any]
Side = Literal["atlas", "channel"]

#: Largest error that a field may have that stands for something smoother, in voxels of the fixed image.
MOST_ERROR_VOX = 0.1
_HALVINGS = 3
#: Voxels of a field that may be divided further although its error is small enough already.
SMALL = 2**24
#: A halving quarters the error of what is smooth; what leaves more of it, at less than this share of the places, is a jump.
_CONVERGING, _JUMPING = 0.6, 0.1
#: What leaves more than this share of it is not worth more voxels, if it is small enough.
_SMOOTH = 0.4
#: Voxels of a field that are made at once.
_PIECE = 2**18
#: Cells in which the error of a field is measured.
_CELLS = 4096


@dataclass(frozen=True)
class AffineStep:
    """An affine of a registration."""

    affine: Affine

    def describe(self) -> str:
        return f"affine of {self.affine.name}: {self.affine.describe()}"


@dataclass(frozen=True)
class FieldStep:
    """A displacement field of a registration.

    Attributes
    ----------
    image : path or callable
        Its file, or what makes a source of its vectors.
    name : str
        In messages.
    convention : FieldConvention, optional
        What its vectors mean, where the file does not say, or says what is not so.
    inverse : FieldStep, optional
    note : str
        How exact it is, where it stands for something else.
    """

    image: Path | Callable[[], Source]
    name: str
    convention: FieldConvention | None = None
    inverse: FieldStep | None = None
    note: str = ""

    def open(self) -> Path | Source:
        """What an ingest takes."""
        return self.image if isinstance(self.image, Path) else self.image()

    def describe(self) -> str:
        inverse = f", with its inverse {self.inverse.name}" if self.inverse is not None else ", without an inverse"
        return f"displacement field {self.name}{inverse}{f'; {self.note}' if self.note else ''}"


@dataclass(frozen=True)
class Result:
    """An image that the tool has made with its own transforms.

    Attributes
    ----------
    path : Path
    space : Space, optional
        Where its voxels are, if the file does not tell.
    inner : bool
        Whether it lies on the transforms' inner side (an image that was looked up for it lies on the outer one), and not on the
        outer one.
    """

    path: Path
    space: Space | None = None
    inner: bool = False


@dataclass(frozen=True)
class Found:
    """A registration as a tool has left it.

    Attributes
    ----------
    tool : str
    steps : tuple of AffineStep or FieldStep
        From the image that was moved outward, to the one that stayed.
    files : tuple of Path
        All that was read.
    fixed : {"atlas", "channel"}, optional
        The image that stayed, whose points are mapped to the other one; None: the tool's files do not tell.
    result : Result, optional
    moved : Path, optional
        The image that the tool has moved.
    labels : callable, optional
        Makes a source of the annotation in the channel's space.
    atlas : str, optional
        What the tool calls the atlas.
    notes : tuple of str
    """

    tool: str
    steps: tuple[AffineStep | FieldStep, ...]
    files: tuple[Path, ...]
    fixed: Side | None = None
    result: Result | None = None
    moved: Path | None = None
    labels: Callable[[], Source] | None = None
    atlas: str | None = None
    notes: tuple[str, ...] = field(default=())


class PlacedSource(WrappedSource):
    """Another source, with the place of its voxels."""

    def __init__(self, source: Source, space: Space) -> None:
        if source.shape != space.shape:
            raise SourceError(f"{source.name}: has {source.shape} voxels, expected {space.shape}")
        super().__init__(source)
        self.space, self.voxel_size_mm = space, space.voxel_size_mm

    def _change(self, start: Shape3, values: Array, out: Array) -> None:
        pass


def placed(field: DisplacementField) -> Source:
    """A field as a source."""
    return PlacedSource(ArraySource(field.vectors, name=field.name, kind="vectors"), field.space)


def one_affine(affines: Sequence[Affine], name: str) -> Affine:
    """Affines of a chain as one, from the image outward."""
    matrix = np.eye(4)
    for affine in affines:
        matrix = matrix @ affine.matrix
    return Affine(matrix, affines[0].centre if len(affines) == 1 else np.zeros(3), name)


def spline_domain(transform: Any) -> Space:
    """A grid that fills the domain of a B-spline of SimpleITK's, with ten voxels from node to node."""
    import SimpleITK as sitk

    spline = sitk.BSplineTransform(transform)
    size = [10 * n for n in spline.GetTransformDomainMeshSize()]
    spacing = np.array(spline.GetTransformDomainPhysicalDimensions()) / size
    direction = spline.GetTransformDomainDirection()
    # Its faces are those of the domain.
    origin = np.array(spline.GetTransformDomainOrigin()) + np.reshape(direction, (3, 3)) @ spacing / 2
    return Space.from_itk(size[::-1], origin.tolist(), spacing.tolist(), direction)


def flattened(
    transform: Transform, linear: Affine, grid: Space, name: str, wanted_vox: float = MOST_ERROR_VOX, small: int = SMALL
) -> tuple[AffineStep, FieldStep]:
    """Any transform as an affine, nearest to the image, and a displacement field on a grid of the outer space.

    Outside of the grid only the affine is left. Where linear interpolation between the grid's voxels would be off by more than
    `wanted_vox` voxels of it, the field gets more of them; by a tenth of a voxel it may be off where more than
    `small` of them would be needed.

    Where the transform itself jumps, as B-splines do at the edge of their domain, no grid helps: then that is told.

    Raises
    ------
    SourceError
        If neither is so.
    """
    size, space, last = min(grid.voxel_size_mm), grid, np.inf
    first: tuple[Space, Array] | None = None
    good: tuple[Space, Array] | None = None
    for _ in range(_HALVINGS + 1):
        off = _Evaluated(transform, linear, space, name).errors_mm()
        first, most = first or (space, off), float(off.max())
        converges = most <= last * _CONVERGING
        if good is not None and most > last * _SMOOTH:
            break
        if most <= MOST_ERROR_VOX * size:
            good = space, off
        elif not converges and _share(first[1], size) < _JUMPING:
            good = first
            break
        last, tried = most, space
        space = space.divided([2 if n > 1 else 1 for n in space.shape])
        if good is not None and (most <= wanted_vox * size or voxel_count(space.shape) > small):
            break
    if good is None:
        raise SourceError(
            f"{name}: bends so much that a displacement field of {' x '.join(map(str, tried.shape))} voxels is still off by "
            f"{last:.2g} mm between them, more than {MOST_ERROR_VOX:g} voxel: it cannot be kept as a field"
        )
    space, off = good
    most, share = float(off.max()), _share(off, size)
    what = f", and at {share:.1%} of them by more than {MOST_ERROR_VOX:g} voxel: it jumps there" if share else ""
    note = (
        f"made on {' x '.join(map(str, space.shape))} voxels, and off by at most {most / size:.2g} voxel ({most:.2g} mm) between "
        f"them, as measured in {len(off)} places{what}"
    )
    return AffineStep(linear), FieldStep(partial(_Evaluated, transform, linear, space, name), name, note=note)


def _share(off: Array, size: float) -> float:
    """How many of some errors are too large."""
    return float((off > MOST_ERROR_VOX * size).mean())


class _Evaluated(Source):
    """A transform's displacements behind an affine, made as they are asked for."""

    components = 3

    def __init__(self, transform: Transform, linear: Affine, space: Space, name: str) -> None:
        self.name = name
        self.shape = space.shape
        self.dtype = np.dtype(np.float32)
        self.space = space
        self.voxel_size_mm = space.voxel_size_mm
        self.facts = {"format": "transform", "kind": "vectors"}
        self._transform, self._back = transform, linear.inverse()
        self._space = space

    @property
    def unit(self) -> Shape3:
        return 1, 1, 1

    def read_plane(self, index: int, out: Array) -> None:
        self.read_box((index, 0, 0), out[None])

    def read_box(self, start: Shape3, out: Array) -> None:
        rows = max(1, _PIECE // out.shape[2])
        for plane in range(len(out)):
            for row in range(0, out.shape[1], rows):
                place = out[plane : plane + 1, row : row + rows]
                low = (start[0] + plane, start[1] + row, start[2])
                place[...] = self._displacements(self._space.crop(low, [a + n for a, n in zip(low, place.shape, strict=False)]))

    def _displacements(self, space: Space) -> Array:
        centres = space.to_world(np.indices(space.shape).reshape(3, -1).T)
        if isinstance(self._transform, StagedTransform):
            there = self._transform.positions(space).reshape(-1, 3)
        else:
            there = self._transform.map_points(centres)
        moved: Array = (self._back.map_points(there) - centres).reshape(*space.shape, 3)
        return moved

    def errors_mm(self) -> Array:
        """By how much linear interpolation is off in the middle of cells all over the grid."""
        counts = np.array(self.shape)
        generator = np.random.default_rng(0)
        low = generator.integers(0, np.maximum(counts - 1, 1), (_CELLS, 3))
        step = np.minimum(counts - 1, 1)
        corners = low[:, None] + np.array(list(np.ndindex(2, 2, 2)))[None] * step
        middle = self._space.to_world(low + 0.5 * step)
        points = np.concatenate([middle, self._space.to_world(corners.reshape(-1, 3))])
        moved = self._back.map_points(self._transform.map_points(points)) - points
        between = moved[len(low) :].reshape(len(low), 8, 3).mean(axis=1)
        off: Array = np.linalg.norm(between - moved[: len(low)], axis=1)
        return off
