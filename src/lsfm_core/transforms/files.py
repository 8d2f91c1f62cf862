"""Transform files: ITK's, elastix' of affine kinds, and plain matrices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from lsfm_core.errors import InputError, SourceError, check_file
from lsfm_core.geometry import Space
from lsfm_core.transforms.affine import Affine
from lsfm_core.transforms.base import FloatArray, Transform
from lsfm_core.transforms.elastix import read_elastix
from lsfm_core.transforms.field import DisplacementField
from lsfm_core.transforms.hdf5 import read_parts, stored_kinds

__all__ = ["read_transforms", "transform_kinds"]

_HDF5_SUFFIXES = {".h5", ".hdf5"}
_ITK_SUFFIXES = {".txt", ".tfm", ".mat", ".xfm"} | _HDF5_SUFFIXES
_USABLE = "only affine transforms and displacement fields can be used"
#: What ITK writes into its own; others' .xfm look the same but for that.
_ITK_XFM = b"%ITK-XFM writer"
_XFM_HEAD = 4096
#: Two blanks after each number, the last of a line as well.
_FLIRT_LINES = re.compile(r"(?:[-+\d.e]+  [-+\d.e]+  [-+\d.e]+  [-+\d.e]+  \n){4}\s*")
#: How text and MATLAB files spell the kind of each transform that they hold.
_ITK_KIND = re.compile(rb"([A-Za-z0-9]+)_(?:double|float)_\d+_\d+")


def read_transforms(path: Path, *, in_pieces: bool = False) -> list[Transform]:
    """Read an ITK file (.txt, .tfm, .mat, .xfm, .h5), an affine of elastix (.txt), or a plain 4 x 4 text matrix (RAS mm).

    Parameters
    ----------
    path : Path
    in_pieces : bool
        Whether displacement fields of an HDF5 file are read when they are asked for, which is slow for what jumps to and fro.

    Returns
    -------
    list of Transform
        From the image outward. The parts of a composite transform are in its own order, in which ITK applies the last first.

    Raises
    ------
    MissingError
        If there is no such file.
    SourceError
        If the file cannot be read, or holds a transform that is neither an invertible affine nor a displacement field.
    """
    check_file(path)
    try:
        matrix = _read_matrix(path)
        if matrix is not None:
            return [Affine(matrix, name=path.name)]
        elastix = read_elastix(path) if path.suffix.lower() == ".txt" else None
        if elastix is not None:
            return [elastix]
        parts = _read_itk(path, in_pieces)
        names = [path.name] if len(parts) == 1 else [f"{path.name} part {i}" for i in range(1, len(parts) + 1)]
        return [_from_itk(path, part, name) for part, name in zip(parts, names, strict=True)]
    except InputError as error:
        raise SourceError(f"{path}: {error}") from error


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
    if len(rows) != 4 or any(len(row) != 4 for row in rows):
        return None
    if _FLIRT_LINES.fullmatch(text):
        raise SourceError(
            f"{path}: looks like a matrix of FSL's FLIRT, which is no map of mm in RAS, but of voxels of the two images that were "
            "registered: convert it (c3d_affine_tool -ref … -src … FILE -fsl2ras -oitk new.txt); if it is in RAS mm, save it with "
            "single blanks between its numbers"
        )
    return np.array(rows)


def _read_itk(path: Path, in_pieces: bool) -> list[Any]:
    suffix = path.suffix.lower()
    if suffix == ".xfm" and _ITK_XFM not in path.read_bytes()[:_XFM_HEAD]:
        raise SourceError(
            f"{path}: is an .xfm of MINC or FreeSurfer, not of ITK: those map from the image that was moved to the one that "
            "stayed, in RAS mm: save its matrix as text of 4 rows, with 0 0 0 1 as the last, and take its inverse (FILE:invert)"
        )
    if suffix not in _ITK_SUFFIXES:
        raise SourceError(
            f"{path}: not a transform: give an ITK transform file (.txt, .tfm, .mat, .xfm, .h5), elastix' "
            "TransformParameters.txt, or a 4 x 4 text matrix"
        )
    import SimpleITK as sitk

    kinds = transform_kinds(path)
    if len(kinds) > 1 and not kinds[0].startswith("CompositeTransform"):
        # Their order is nowhere defined, and SimpleITK takes the first.
        raise SourceError(
            f"{path}: holds {len(kinds)} transforms, but not in which order they apply: save them as one composite, or in files of "
            "their own"
        )
    try:
        in_pieces = in_pieces and suffix in _HDF5_SUFFIXES
        parts = read_parts(path) if in_pieces else _parts(sitk.ReadTransform(str(path)))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise SourceError(f"{path}: not readable as an ITK transform: {reason}") from error
    except (KeyError, TypeError) as error:  # SimpleITK has no class for some that ITK reads
        raise SourceError(f"{path}: holds {', '.join(kinds)}; {_USABLE}") from error
    for part in parts:
        if not isinstance(part, DisplacementField) and part.GetDimension() != 3:
            raise SourceError(f"{path}: holds a {part.GetDimension()}-D {part.GetName()}, expected a 3-D transform")
    return parts


def transform_kinds(path: Path) -> list[str]:
    """The kinds of the transforms in a file, in ITK's spelling; of MINC's files and others that are not ITK's, none."""
    if path.suffix.lower() in _HDF5_SUFFIXES:
        return stored_kinds(path)
    return [match[1].decode() for match in _ITK_KIND.finditer(path.read_bytes())]


def _parts(transform: Any) -> list[Any]:
    """The parts of a composite (in a file they are no composites themselves), else the transform alone."""
    import SimpleITK as sitk

    if transform.GetTransformEnum() != sitk.sitkComposite:
        return [transform]
    composite = sitk.CompositeTransform(transform)
    return [composite.GetNthTransform(index) for index in range(composite.GetNumberOfTransforms())]


def _from_itk(path: Path, transform: Any, name: str) -> Transform:
    import SimpleITK as sitk

    if isinstance(transform, DisplacementField):
        transform.name = name
        return transform
    if transform.GetTransformEnum() == sitk.sitkDisplacementField:
        image = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
        vectors = sitk.GetArrayFromImage(image) * (-1, -1, 1)
        space = Space.from_itk(vectors.shape[:3], image.GetOrigin(), image.GetSpacing(), image.GetDirection())
        return DisplacementField(space, vectors, name=name)
    if not transform.IsLinear():
        raise SourceError(f"{path}: holds a {transform.GetName()}; {_USABLE}")
    if transform.GetTransformEnum() == sitk.sitkAffine:
        return Affine.from_itk(transform.GetParameters(), transform.GetFixedParameters(), name)
    # Rigid, similarity and the like: a linear map is known by what it does to four points.
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(axis)) - origin for axis in np.eye(3).tolist()]
    return Affine.from_itk([*np.stack(columns, axis=1).ravel(), *origin], np.zeros(3), name)
