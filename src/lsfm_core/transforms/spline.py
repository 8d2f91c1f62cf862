"""Thin-plate splines through landmarks, as BigWarp makes them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError
from lsfm_core.geometry import apply_affine
from lsfm_core.transforms.affine import Affine
from lsfm_core.transforms.base import FloatArray, Transform

__all__ = ["ThinPlateSpline"]

#: Distances that are worked with at once: 8 MiB.
_DISTANCES = 2**20


class ThinPlateSpline(Transform):
    """The smoothest map that takes each of some points to its partner, with the kernel r**2 log r, also in three dimensions.

    Parameters
    ----------
    outer, inner : array (n, 3)
        RAS mm; points of the outer space, and where each of them goes.
    name : str

    Raises
    ------
    InputError
        If there are fewer than four pairs, or they lie in a plane, or two of the outer points are one.
    """

    def __init__(self, outer: npt.ArrayLike, inner: npt.ArrayLike, name: str = "") -> None:
        self.name = name
        points, goals = np.asarray(outer, dtype=np.float64), np.asarray(inner, dtype=np.float64)
        count = len(points)
        if count < 4:
            raise InputError(f"{name}: {count} pairs of landmarks: a map of space needs at least four")
        # Centred and scaled, since r**2 log r of large distances spoils the equations; the affine part takes it back.
        self._centre, self._scale = points.mean(axis=0), float(np.abs(points - points.mean(axis=0)).max())
        if self._scale == 0 or np.linalg.matrix_rank((points - self._centre) / self._scale, tol=1e-6) < 3:
            raise InputError(f"{name}: the landmarks lie in a plane, and do not tell what happens beside it")
        self._points = (points - self._centre) / self._scale
        system = np.zeros((count + 4, count + 4))
        system[:count, :count] = _kernel(self._points, self._points)
        system[:count, count:] = np.column_stack([self._points, np.ones(count)])
        system[count:, :count] = system[:count, count:].T
        if np.linalg.matrix_rank(system) < count + 4:
            raise InputError(f"{name}: two landmarks lie at one place")
        solution = np.linalg.solve(system, np.concatenate([goals, np.zeros((4, 3))]))
        self._weights, linear, shift = solution[:count], solution[count : count + 3], solution[count + 3]
        matrix = np.eye(4)
        matrix[:3, :3] = linear.T / self._scale
        matrix[:3, 3] = shift - matrix[:3, :3] @ self._centre
        self._affine = matrix

    @property
    def linear_part(self) -> Affine:
        """What remains far from all landmarks' pulls on each other."""
        return Affine(self._affine, name=self.name)

    def map_points(self, points: npt.ArrayLike) -> FloatArray:
        given = np.asarray(points, dtype=np.float64)
        mapped = apply_affine(self._affine, given)
        scaled = (given - self._centre) / self._scale
        step = max(1, _DISTANCES // len(self._points))
        for begin in range(0, len(given), step):
            part = slice(begin, begin + step)
            mapped[part] += _kernel(scaled[part], self._points) @ self._weights
        return mapped

    def inverse(self) -> Transform:
        raise InputError(f"{self.name}: cannot be inverted as it stands: exchange the landmarks' sides")

    def describe(self) -> str:
        return f"thin-plate spline through {len(self._points)} landmarks"


def _kernel(points: FloatArray, centres: FloatArray) -> FloatArray:
    """r**2 log r of all distances (n, m)."""
    square = np.zeros((len(points), len(centres)))
    for axis in range(3):
        square += (points[:, None, axis] - centres[None, :, axis]) ** 2
    logs = np.log(square, out=np.zeros_like(square), where=square > 0)
    kernel: FloatArray = square * logs / 2
    return kernel
