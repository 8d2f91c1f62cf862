"""Affine transforms from files, in the project's world.

A transform maps a point of the output (fixed) space to the input (moving) space, as ITK's and ANTs' files do; resampling asks just
that. Files are in LPS mm, everything here is in RAS mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError, SourceError
from lsfm_core.geometry import LPS_FROM_RAS

__all__ = ["Affine"]

FloatArray = npt.NDArray[np.float64]

_ITK_SUFFIXES = {".txt", ".tfm", ".mat", ".xfm", ".h5", ".hdf5"}


@dataclass(frozen=True, eq=False)
class Affine:
    """An affine transform.

    Parameters
    ----------
    matrix : array (4, 4)
        Maps a point of the output space to the input space, RAS mm.
    centre : array (3,)
        ITK's centre of rotation (LPS mm): only a way of writing the same transform down.

    Raises
    ------
    InputError
        If the matrix is not an invertible affine.
    """

    matrix: FloatArray
    centre: FloatArray

    def __post_init__(self) -> None:
        if self.matrix.shape != (4, 4) or not np.isfinite(self.matrix).all() or not np.allclose(self.matrix[3], (0, 0, 0, 1)):
            raise InputError(f"an affine must be a finite 4 x 4 matrix with last row 0 0 0 1, found {self.matrix.tolist()}")
        if abs(np.linalg.det(self.matrix[:3, :3])) < 1e-12:
            raise InputError(f"the affine is singular, it flattens space: {self.matrix.tolist()}")

    @classmethod
    def from_itk(cls, parameters: npt.ArrayLike, centre: npt.ArrayLike) -> Affine:
        """From ITK's 12 parameters (matrix row by row, translation) and centre, LPS mm: offset = t + c - A c."""
        values, c = np.asarray(parameters, dtype=np.float64), np.asarray(centre, dtype=np.float64)
        lps = np.eye(4)
        lps[:3, :3] = values[:9].reshape(3, 3)
        lps[:3, 3] = values[9:] + c - lps[:3, :3] @ c
        return cls(LPS_FROM_RAS @ lps @ LPS_FROM_RAS, c)

    @classmethod
    def read(cls, path: Path) -> Affine:
        """Read an ITK file (.txt, .tfm, .mat, .xfm, .h5) or a plain 4 x 4 text matrix (RAS mm).

        Raises
        ------
        SourceError
            If the file cannot be read, or holds anything but affine transforms.
        """
        if not path.is_file():
            raise SourceError(f"{path}: no such file")
        plain = _read_matrix(path)
        if plain is not None:
            return cls(plain, np.zeros(3))
        if path.suffix.lower() not in _ITK_SUFFIXES:
            raise SourceError(
                f"{path}: not an affine: give an ITK transform file (.txt, .tfm, .mat, .xfm, .h5) or a 4 x 4 text matrix"
            )
        import SimpleITK as sitk

        try:
            transform = sitk.ReadTransform(str(path))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise SourceError(f"{path}: not readable as an ITK transform: {reason}") from error
        if transform.GetDimension() != 3 or not transform.IsLinear():
            raise SourceError(f"{path}: holds a {transform.GetDimension()}-D {transform.GetName()}, expected a 3-D affine")
        if len(transform.GetParameters()) == 12 and len(transform.GetFixedParameters()) == 3:
            return cls.from_itk(transform.GetParameters(), transform.GetFixedParameters())
        # Rigid, similarity and composite transforms: a linear map is known by what it does to four points.
        origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
        columns = [np.array(transform.TransformPoint(axis)) - origin for axis in np.eye(3).tolist()]
        return cls.from_itk([*np.stack(columns, axis=1).ravel(), *origin], np.zeros(3))

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


def _read_matrix(path: Path) -> FloatArray | None:
    """A plain text file of 16 numbers in 4 rows, or None."""
    try:
        text = path.read_text("ascii")
        rows = [
            [float(v) for v in line.replace(",", " ").split()]
            for line in text.splitlines()
            if line.strip() and line.lstrip()[0] != "#"
        ]
    except (UnicodeDecodeError, ValueError):
        return None
    return np.array(rows) if len(rows) == 4 and all(len(row) == 4 for row in rows) else None
