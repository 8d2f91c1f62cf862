"""Affine transforms."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from operator import matmul
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError, SourceError
from lsfm_core.geometry import LPS_FROM_RAS, apply_affine
from lsfm_core.transforms.base import FloatArray, Transform

__all__ = ["Affine"]


@dataclass(frozen=True, eq=False)
class Affine(Transform):
    """An affine transform.

    Parameters
    ----------
    matrix : array (4, 4)
        Maps a point of the output space to the input space, RAS mm.
    centre : array (3,)
        ITK's centre of rotation (LPS mm): only a way of writing the same transform down.
    name : str

    Raises
    ------
    InputError
        If the matrix is not an invertible affine.
    """

    matrix: FloatArray
    centre: FloatArray = field(default_factory=lambda: np.zeros(3))
    name: str = ""

    def __post_init__(self) -> None:
        if self.matrix.shape != (4, 4) or not np.isfinite(self.matrix).all() or not np.allclose(self.matrix[3], (0, 0, 0, 1)):
            raise InputError(f"an affine must be a finite 4 x 4 matrix with last row 0 0 0 1, found {self.matrix.tolist()}")
        if abs(np.linalg.det(self.matrix[:3, :3])) < 1e-12:
            raise InputError(f"the affine is singular, it flattens space: {self.matrix.tolist()}")

    @classmethod
    def from_itk(cls, parameters: npt.ArrayLike, centre: npt.ArrayLike, name: str = "") -> Affine:
        """From ITK's 12 parameters (matrix row by row, translation) and centre, LPS mm: offset = t + c - A c."""
        values, c = np.asarray(parameters, dtype=np.float64), np.asarray(centre, dtype=np.float64)
        lps = np.eye(4)
        lps[:3, :3] = values[:9].reshape(3, 3)
        lps[:3, 3] = values[9:] + c - lps[:3, :3] @ c
        return cls(LPS_FROM_RAS @ lps @ LPS_FROM_RAS, c, name)

    @classmethod
    def read(cls, path: Path) -> Affine:
        """Read an ITK file (.txt, .tfm, .mat, .xfm, .h5) or a plain 4 x 4 text matrix (RAS mm).

        Raises
        ------
        SourceError
            If the file cannot be read, or holds anything but affine transforms.
        """
        from lsfm_core.transforms.files import read_transforms

        affines = []
        for part in read_transforms(path):
            if not isinstance(part, Affine):
                raise SourceError(f"{path}: holds a {part.describe()}; expected affine transforms only")
            affines.append(part)
        return reduce(matmul, affines) if affines else cls(np.eye(4))

    def __matmul__(self, other: Affine) -> Affine:
        """This transform after `other`: ``(a @ b).map_points(p)`` is ``a.map_points(b.map_points(p))``."""
        return Affine(self.matrix @ other.matrix, name=" @ ".join(name for name in (self.name, other.name) if name))

    def map_points(self, points: npt.ArrayLike) -> FloatArray:
        return apply_affine(self.matrix, points)

    def inverse(self) -> Affine:
        return Affine(
            np.linalg.inv(self.matrix).astype(np.float64, copy=False), self.centre, self.name and f"inverse of {self.name}"
        )

    def to_itk(self) -> tuple[FloatArray, FloatArray]:
        """ITK's 12 parameters (matrix row by row, translation) and centre, LPS mm."""
        lps = LPS_FROM_RAS @ self.matrix @ LPS_FROM_RAS
        translation = lps[:3, 3] - self.centre + lps[:3, :3] @ self.centre
        return np.concatenate([lps[:3, :3].ravel(), translation]), self.centre

    def describe(self) -> str:
        """What the transform does, in words."""
        linear = self.matrix[:3, :3]
        u, stretch, vt = np.linalg.svd(linear)
        rotation = u @ vt * np.sign(np.linalg.det(u @ vt))
        angle = np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
        mirrored = ", mirrors space" if np.linalg.det(linear) < 0 else ""
        shift = ", ".join(f"{v:.3f}" for v in self.matrix[:3, 3])
        scale = " x ".join(f"{v:.4f}" for v in stretch)
        return f"rotates by {angle:.2f} degrees, stretches by {scale}{mirrored}, moves the origin by ({shift}) mm R, A, S"
