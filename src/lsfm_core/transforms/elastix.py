"""elastix' parameter files, ``TransformParameters.0.txt`` and the like: of affine kinds, and B-splines.

As in ITK, a transform maps a point of the fixed image to the moving one, in LPS mm; a file may name another that comes before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from lsfm_core.errors import MissingError, SourceError
from lsfm_core.geometry import LPS_FROM_RAS, Space
from lsfm_core.transforms.affine import Affine
from lsfm_core.transforms.base import FloatArray
from lsfm_core.transforms.staged import Stage, StagedTransform

__all__ = ["ElastixFile", "read_elastix", "read_elastix_stages"]

_LINE = re.compile(r"^\s*\((\w+)\s*(.*)\)\s*$", re.MULTILINE)
_VALUE = re.compile(r'"([^"]*)"|(\S+)')
_INITIAL = ("InitialTransformParameterFileName", "InitialTransformParametersFileName")
_COUNTS = {"TranslationTransform": 3, "EulerTransform": 6, "SimilarityTransform": 7, "AffineTransform": 12}
_SPLINES = ("BSplineTransform", "RecursiveBSplineTransform")

Fields = dict[str, list[str]]


def read_elastix(path: Path) -> Affine | None:
    """The affine of a parameter file, with those that come before it; None if it is no such file.

    Raises
    ------
    MissingError
        If a file that comes before it is not there.
    SourceError
        If the file is damaged, or its transform is no affine.
    """
    fields = _fields(path)
    if fields is None:
        return None
    return Affine(LPS_FROM_RAS @ _chain(path, fields) @ LPS_FROM_RAS, name=path.name)


def _fields(path: Path) -> Fields | None:
    try:
        text = path.read_bytes().decode("latin-1")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    # What begins otherwise may be large, and is not looked at further.
    if not re.match(r"(\s*//[^\n]*\n|\s)*\(", text[:4096]):
        return None
    lines = (line.partition("//")[0] if '"' not in line else line for line in text.splitlines())
    found = {m[1]: [quoted or plain for quoted, plain in _VALUE.findall(m[2])] for m in _LINE.finditer("\n".join(lines))}
    return found if "Transform" in found else None


@dataclass(frozen=True)
class ElastixFile:
    """What a parameter file holds, with all that comes before it.

    Attributes
    ----------
    transform : StagedTransform
    files : tuple of Path
        From the first to be applied to the one that was named.
    grid : Space or None
        Of the fixed image, as far as it is told.
    """

    transform: StagedTransform
    files: tuple[Path, ...]
    grid: Space | None


def read_elastix_stages(path: Path) -> ElastixFile:
    """A parameter file of affine kinds or B-splines, with those that come before it.

    Raises
    ------
    MissingError
        If a file that comes before it is not there.
    SourceError
        If the file is none of elastix', is damaged, or its transform is of another kind.
    """
    fields = _fields(path)
    if fields is None:
        raise SourceError(f"{path}: is no parameter file of elastix")
    stages: list[tuple[Path, Stage]] = []
    for file, found in reversed(list(_files(path, fields))):
        how = _one(found, "HowToCombineTransforms", "Compose")
        if how not in ("Compose", "Add"):
            raise SourceError(f"{file}: HowToCombineTransforms is {how!r}: expected Compose or Add")
        # What is first has nothing to be added to.
        stages.append((file, Stage(_itk(file, found), how == "Add" and bool(stages))))
    transform = StagedTransform([stage for _, stage in stages], name=path.name)
    return ElastixFile(transform, tuple(file for file, _ in stages), _grid(path, fields))


def _chain(path: Path, fields: Fields) -> FloatArray:
    """LPS matrix (4, 4) of a file and what comes before it."""
    matrix = None
    for file, found in reversed(list(_files(path, fields))):
        own, how = _matrix(file, found), _one(found, "HowToCombineTransforms", "Compose")
        if matrix is not None and how not in ("Compose", "Add"):
            raise SourceError(f"{file}: HowToCombineTransforms is {how!r}: expected Compose or Add")
        matrix = own if matrix is None else own @ matrix if how == "Compose" else own + matrix - np.eye(4)
    assert matrix is not None
    return matrix


def _files(path: Path, fields: Fields) -> Iterator[tuple[Path, Fields]]:
    """A file, and those that come before it, the first to be applied last."""
    seen: list[Path] = []
    while True:
        yield path, fields
        seen.append(path.resolve())
        name = next((fields[key][0] for key in _INITIAL if fields.get(key)), "NoInitialTransform")
        if name in ("", "NoInitialTransform"):
            return
        first = _before(path, name)
        if first.resolve() in seen:
            raise SourceError(f"{path}: names the initial transform {name}, which comes after it: they go in a circle")
        others = _fields(first)
        if others is None:
            raise SourceError(f"{path}: names the initial transform {first}, which is no parameter file of elastix")
        path, fields = first, others


def _itk(path: Path, fields: Fields) -> Any:
    """The transform of one file as SimpleITK's, LPS."""
    import SimpleITK as sitk

    kind = _one(fields, "Transform", "")
    if kind not in _SPLINES:
        matrix = _matrix(path, fields, (*_COUNTS, *_SPLINES))
        return sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    _check_frame(path, fields)
    if _one(fields, "UseCyclicTransform", "false") == "true":
        raise SourceError(
            f"{path}: holds a cyclic B-spline, which cannot be read: make a displacement field of it (transformix -def all -tp …)"
        )
    order = int(_numbers(path, fields, "BSplineTransformSplineOrder", 1, [3])[0])
    size = _numbers(path, fields, "GridSize", 3)
    spacing, origin = _numbers(path, fields, "GridSpacing", 3), _numbers(path, fields, "GridOrigin", 3)
    # elastix writes matrices column by column.
    direction = _numbers(path, fields, "GridDirection", 9, np.eye(3).ravel()).reshape(3, 3).T
    origin = origin + direction @ (spacing * _numbers(path, fields, "GridIndex", 3, np.zeros(3)))
    if order not in (1, 2, 3) or (size < order + 1).any():
        raise SourceError(
            f"{path}: holds a B-spline of order {order} with a grid of {size.astype(int).tolist()}: expected order 1 to 3"
        )
    values = _numbers(path, fields, "TransformParameters", 3 * int(size.prod()))
    transform = sitk.BSplineTransform(3, order)
    transform.SetFixedParameters([*size.tolist(), *origin.tolist(), *spacing.tolist(), *direction.ravel().tolist()])
    transform.SetParameters(values.tolist())
    return transform


def _grid(path: Path, fields: Fields) -> Space | None:
    """The fixed image's grid."""
    if not {"Size", "Spacing", "Origin"} <= fields.keys():
        return None
    size, spacing = _numbers(path, fields, "Size", 3), _numbers(path, fields, "Spacing", 3)
    direction = _numbers(path, fields, "Direction", 9, np.eye(3).ravel()).reshape(3, 3).T
    origin = _numbers(path, fields, "Origin", 3) + direction @ (spacing * _numbers(path, fields, "Index", 3, np.zeros(3)))
    return Space.from_itk(size[::-1].astype(int).tolist(), origin.tolist(), spacing.tolist(), direction.ravel().tolist())


def _before(path: Path, name: str) -> Path:
    """The file that is named, or the one of its name beside: elastix writes where it was when it was made."""
    last = PureWindowsPath(name).name if "\\" in name else PurePosixPath(name).name
    for candidate in (path.parent / name, path.parent / last):
        if candidate.is_file():
            return candidate
    raise MissingError(f"{path}: its initial transform {name} is not there: put {last} beside it")


def _matrix(path: Path, fields: Fields, readable: Sequence[str] = ()) -> FloatArray:
    kind = _one(fields, "Transform", "")
    count = _COUNTS.get(kind)
    if count is None and readable:
        raise SourceError(
            f"{path}: holds a {kind} of elastix; {', '.join(readable)} can be read: make a displacement field of it "
            "(transformix -def all -tp …), and import that"
        )
    if count is None:
        spline = "import-registration takes it, or " if kind in _SPLINES else ""
        raise SourceError(
            f"{path}: holds a {kind} of elastix; of its transforms only {', '.join(_COUNTS)} are affine: {spline}make a "
            "displacement field of it (transformix -def all -tp …)"
        )
    _check_frame(path, fields)
    values = _numbers(path, fields, "TransformParameters", count)
    if kind == "TranslationTransform":
        return _affine(np.eye(3), values)
    if "CenterOfRotationPoint" not in fields:
        raise SourceError(f"{path}: does not tell the centre of its rotation (CenterOfRotationPoint)")
    centre = _numbers(path, fields, "CenterOfRotationPoint", 3)
    if kind == "AffineTransform":
        linear, shift = values[:9].reshape(3, 3), values[9:]
    else:
        import SimpleITK as sitk

        transform: Any = sitk.Similarity3DTransform()
        if kind == "EulerTransform":
            transform = sitk.Euler3DTransform()
            transform.SetComputeZYX(_one(fields, "ComputeZYX", "false") == "true")
        transform.SetParameters(values.tolist())
        linear, shift = np.reshape(transform.GetMatrix(), (3, 3)), np.array(transform.GetTranslation())
    return _affine(linear, shift + centre - linear @ centre)


def _check_frame(path: Path, fields: Fields) -> None:
    """Refuse what is not in three dimensions, or was made without the images' directions."""
    for key in ("FixedImageDimension", "MovingImageDimension"):
        if _one(fields, key, "3") != "3":
            raise SourceError(f"{path}: {key} is {_one(fields, key, '')}, expected a 3-D transform")
    turned = _numbers(path, fields, "Direction", 9, np.eye(3).ravel())
    if _one(fields, "UseDirectionCosines", "true") == "false" and not np.allclose(turned, np.eye(3).ravel()):
        raise SourceError(
            f"{path}: was made without the images' directions (UseDirectionCosines false), so that it does not lead from place to "
            "place: register again with them"
        )


def _affine(linear: Any, offset: Any) -> FloatArray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, offset
    return matrix


def _one(fields: Fields, key: str, default: str) -> str:
    return (fields.get(key) or [default])[0]


def _numbers(path: Path, fields: Fields, key: str, count: int, default: Any = None) -> FloatArray:
    if key not in fields and default is not None:
        return np.asarray(default, np.float64)
    try:
        values = np.array([float(text) for text in fields.get(key, [])])
    except ValueError as error:
        raise SourceError(f"{path}: {key} is {' '.join(fields[key])}: expected numbers") from error
    if len(values) != count or not np.isfinite(values).all():
        raise SourceError(f"{path}: {key} has {len(values)} values: expected {count} numbers")
    return values
