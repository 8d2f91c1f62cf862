"""Chains of transforms, and how one is carried out block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.geometry import Space, apply_affine, voxel_count
from lsfm_core.transforms.affine import Affine
from lsfm_core.transforms.base import FloatArray, Transform
from lsfm_core.transforms.field import FACE_SLACK, DisplacementField, InverseField, voxel_centres

__all__ = ["BlockTransform", "TransformChain"]

_VECTOR_BYTES = 24
#: Voxel centres through which a numeric inverse is sought at once: that takes twelve times their own size.
_POINTS_AT_ONCE = 2**17
#: Points that stand for a block: more are replaced by the corners of the box around them.
_HULL_POINTS = 512


@dataclass(frozen=True)
class BlockTransform:
    """All that is needed to resample one block of the output.

    Attributes
    ----------
    itk : SimpleITK.Transform
        In LPS mm; maps the voxel centres of the block as the whole chain does.
    points : array (m, 3)
        RAS mm, in the native space: the images of the block's voxel centres lie in their convex hull, so also within their bounds
        along any axes.
    nbytes : int
        Bytes of displacements that `itk` holds.
    """

    itk: Any
    points: FloatArray
    nbytes: int


class TransformChain(Transform):
    """Transforms one after the other.

    Parameters
    ----------
    transforms : sequence of Transform
        From the image outward: the first is the one nearest to the native image. A point of the output space goes through the last
        first.
    name : str

    Attributes
    ----------
    folded : tuple of Transform
        The same with adjacent affines made one.
    """

    def __init__(self, transforms: Sequence[Transform] = (), name: str = "") -> None:
        self.transforms = tuple(transforms)
        self.name = name
        folded: list[Transform] = []
        for transform in self.transforms:
            last = folded[-1] if folded else None
            if isinstance(transform, Affine) and isinstance(last, Affine):
                folded[-1] = last @ transform
            else:
                folded.append(transform)
        self.folded = tuple(folded)

    @property
    def linear(self) -> FloatArray:
        """(3, 3) product of the affines' linear parts, RAS: how the chain stretches and turns, but for its fields."""
        return reduce(np.matmul, (t.matrix[:3, :3] for t in self.folded if isinstance(t, Affine)), np.eye(3))

    @property
    def domain(self) -> Space | None:
        """The grid of the outermost transform, if that is a displacement field."""
        outermost = self.transforms[-1] if self.transforms else None
        return outermost.space if isinstance(outermost, DisplacementField) else None

    def map_points(self, points: npt.ArrayLike) -> FloatArray:
        mapped: FloatArray = np.asarray(points, dtype=np.float64)
        for transform in reversed(self.folded):
            mapped = transform.map_points(mapped)
        return mapped if self.folded else mapped.copy()

    def inverse(self) -> TransformChain:
        """The chain that carries native points to the output.

        Raises
        ------
        InputError
            If a displacement field has no inverse.
        """
        return TransformChain([t.inverse() for t in reversed(self.transforms)], self.name and f"inverse of {self.name}")

    def describe(self) -> str:
        """One line per transform, from the image outward."""
        lines = [f"{i}. {t.name or 'unnamed'}: {t.describe()}" for i, t in enumerate(self.transforms, start=1)]
        return "\n".join(lines) or "no transform: the output space is the image's own"

    def reach(self, block: Space, max_bytes: int) -> FloatArray | None:
        """Points (m, 3) of the native space in whose hull the images of a block's voxel centres lie.

        As `on_block` gives them, but that numeric inverses are not sought for each voxel: it is told how far they move at most.

        Parameters
        ----------
        block : Space
        max_bytes : int
            Bytes of displacements that may be held.

        Returns
        -------
        array or None
            None if more would have to be held.
        """
        points = apply_affine(block.world_from_voxel, list(product(*((0, n - 1) for n in block.shape))))
        for step in reversed(self.folded):
            if isinstance(step, Affine):
                points = step.map_points(points)
            elif isinstance(step, InverseField):
                points = _shifted(points, step.shifts(points))
            elif isinstance(step, DisplacementField):
                index = apply_affine(step.space.voxel_from_world, points)
                reach = np.stack([index.min(axis=0), index.max(axis=0)])
                if not step.meets(reach):
                    continue
                box = step.box_around(reach)
                if box.voxels * _VECTOR_BYTES > max_bytes:
                    return None
                points = _shifted(points, step.shifts(reach, step.read_stored(box)))
            else:
                return None
        return points

    def on_block(self, block: Space, *, margin_vox: float = 0, max_bytes: int) -> BlockTransform | None:
        """What resampling one block of the output needs.

        Parameters
        ----------
        block : Space
            The block's voxels.
        margin_vox : float
            By how many of its voxels the block is enlarged on all sides, in what is held and in what `BlockTransform.points`
            stand for.
        max_bytes : int
            Bytes of displacements that may be held. While they are made ready up to twice as much is in use, or, with a numeric
            inverse, six times.

        Returns
        -------
        BlockTransform or None
            None if more would have to be held: split the block.

        Notes
        -----
        The block is followed inward as a set of points whose convex hull holds it. An affine maps the hull's points. A field moves
        each by something between the smallest and the largest displacement that occurs in the box around the hull; zero is among
        them if the box reaches out of the domain. A crop of that box stands for the field.

        ITK has no numeric inverse of a field. From the innermost one outward the chain is evaluated at the voxel centres, and a
        field on the block's own grid takes its place, which is exact at the centres.
        """
        import SimpleITK as sitk

        inverses = [i for i, step in enumerate(self.folded) if isinstance(step, InverseField)]
        inner = inverses[0] if inverses else len(self.folded)
        margin = int(np.ceil(margin_vox))
        held = 0
        parts: list[Any] = []
        if inner < len(self.folded):
            grid = block.crop([-margin] * 3, [n + margin for n in block.shape])
            held = voxel_count(grid.shape) * _VECTOR_BYTES
            if held > max_bytes:
                return None
            centres = voxel_centres(grid)
            outer = TransformChain(self.folded[inner:])
            pieces = np.array_split(centres, -(-len(centres) // _POINTS_AT_ONCE))
            points = np.concatenate([outer.map_points(piece) for piece in pieces])
            parts.append(_itk_field(grid, (points - centres).reshape(*grid.shape, 3)))
        else:
            corners = list(product(*((-margin_vox, n - 1 + margin_vox) for n in block.shape)))
            points = apply_affine(block.world_from_voxel, corners)
        for step in reversed(self.folded[:inner]):
            if isinstance(step, Affine):
                parameters, centre = step.to_itk()
                parts.append(sitk.AffineTransform(parameters[:9].tolist(), parameters[9:].tolist(), centre.tolist()))
                points = step.map_points(points)
            elif isinstance(step, DisplacementField):
                index = apply_affine(step.space.voxel_from_world, points)
                reach = np.stack([index.min(axis=0), index.max(axis=0)])
                if not step.meets(reach):
                    continue
                box = step.box_around(reach)
                held += box.voxels * _VECTOR_BYTES
                if held > max_bytes:
                    return None
                vectors = step.read(box)
                points = _shifted(points, step.shifts(reach, vectors))
                # The crop begins a trifle lower, so that ITK sees the domain's faces where `DisplacementField` does.
                parts.append(_itk_field(step.space.crop(box.starts, box.stops), vectors, FACE_SLACK))
        itk = sitk.CompositeTransform(parts[::-1]) if parts else sitk.Transform()
        return BlockTransform(itk, points, held)


def _shifted(points: FloatArray, shifts: FloatArray) -> FloatArray:
    """Points in whose hull those of a hull lie after each was moved by something between two displacements (2, 3)."""
    if len(points) * 8 > _HULL_POINTS:
        points = _corners(np.stack([points.min(axis=0), points.max(axis=0)]))
    return (points[:, None] + _corners(shifts)).reshape(-1, 3)


def _corners(bounds: FloatArray) -> FloatArray:
    """The 8 corners of a box given as (2, 3), lower and upper."""
    return np.array(list(product(*bounds.T)))


def _itk_field(space: Space, vectors: FloatArray, lowered: float = 0) -> Any:
    """ITK's form of displacements (a, b, c, 3) in R, A, S mm, which it overwrites; the grid is `lowered` by part of a voxel."""
    import SimpleITK as sitk

    vectors *= (-1, -1, 1)
    image = sitk.GetImageFromArray(vectors, isVector=True)
    shifted = space.world_from_voxel.copy()
    shifted[:3, 3] -= lowered * shifted[:3, :3].sum(axis=1)
    origin, spacing, direction = Space(space.shape, shifted).to_itk()
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return sitk.DisplacementFieldTransform(image)
