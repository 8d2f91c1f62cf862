"""Transforms that have no form of their own here, such as B-splines: as ITK evaluates them, one stage after the other.

They are brought to an affine and a displacement field (`lsfm_core.register`) before an image goes through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError
from lsfm_core.geometry import LPS_FROM_RAS, Space
from lsfm_core.transforms.affine import Affine
from lsfm_core.transforms.base import FloatArray, Transform

__all__ = ["Stage", "StagedTransform"]

_SIGNS = np.array((-1.0, -1.0, 1.0))


@dataclass(frozen=True)
class Stage:
    """One of several transforms.

    Attributes
    ----------
    itk : SimpleITK.Transform
        LPS mm.
    added : bool
        Whether its displacement of the given point is added to what the stages before it make of that point; else it takes up where
        those have led.
    """

    itk: Any
    added: bool = False


class StagedTransform(Transform):
    """Stages that a point goes through one after the other.

    Parameters
    ----------
    stages : sequence of Stage
        The one that is applied first to a point comes first.
    name : str
    """

    def __init__(self, stages: Sequence[Stage], name: str = "") -> None:
        self.stages = tuple(stages)
        self.name = name

    @property
    def is_linear(self) -> bool:
        """Whether all of it is affine."""
        return all(stage.itk.IsLinear() for stage in self.stages)

    @property
    def linear_part(self) -> Affine:
        """What its affine stages do by themselves."""
        matrix = np.eye(4)
        for stage in self.stages:
            if stage.itk.IsLinear():
                own = _matrix(stage.itk)
                matrix = own + matrix - np.eye(4) if stage.added else own @ matrix
        return Affine(LPS_FROM_RAS @ matrix @ LPS_FROM_RAS, name=self.name)

    def map_points(self, points: npt.ArrayLike) -> FloatArray:
        given = np.asarray(points, dtype=np.float64) * _SIGNS
        mapped = given
        for stage in self.stages:
            if stage.added:
                mapped = mapped + _through(stage.itk, given) - given
            else:
                mapped = _through(stage.itk, mapped)
        turned: FloatArray = mapped * _SIGNS
        return turned

    def positions(self, space: Space) -> FloatArray:
        """Where the voxel centres of a grid go: RAS mm (a, b, c, 3); faster than point by point."""
        centres = np.asarray(space.to_world(np.indices(space.shape).reshape(3, -1).T)).reshape(*space.shape, 3)
        if any(stage.added for stage in self.stages[1:-1]) or not self.stages:
            return self.map_points(centres.reshape(-1, 3)).reshape(centres.shape)
        moved = np.zeros((*space.shape, 3))
        last = self.stages[-1]
        composed = [stage.itk for stage in (self.stages[:-1] if last.added else self.stages)]
        for parts in (composed, [last.itk] if last.added else []):
            if parts:
                moved += _displacements(parts, space)
        positions: FloatArray = centres + moved * _SIGNS
        return positions

    def inverse(self) -> Transform:
        raise InputError(f"{self.name}: cannot be inverted as it stands: bring it to a displacement field first")

    def describe(self) -> str:
        return ", then ".join(f"{stage.itk.GetName()}{' (added)' if stage.added else ''}" for stage in self.stages)


def _through(itk: Any, points: FloatArray) -> FloatArray:
    return np.array([itk.TransformPoint(point) for point in points.tolist()]).reshape(-1, 3)


def _matrix(itk: Any) -> FloatArray:
    """LPS matrix (4, 4) of a linear transform, by what it does to four points."""
    matrix = np.eye(4)
    matrix[:3, 3] = itk.TransformPoint((0.0, 0.0, 0.0))
    matrix[:3, :3] = np.stack([np.array(itk.TransformPoint(axis)) - matrix[:3, 3] for axis in np.eye(3).tolist()], axis=1)
    return matrix


def _displacements(parts: Sequence[Any], space: Space) -> FloatArray:
    """Of transforms, the first of which is applied first: LPS mm, in array order."""
    import SimpleITK as sitk

    # Of a composite the last applies first.
    transform = reduce(_composed, reversed(parts), sitk.CompositeTransform(3))
    origin, spacing, direction = space.to_itk()
    size = [int(n) for n in reversed(space.shape)]
    image = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, size, origin, spacing, direction)
    vectors: FloatArray = sitk.GetArrayFromImage(image)
    return vectors


def _composed(composite: Any, part: Any) -> Any:
    composite.AddTransform(part)
    return composite
