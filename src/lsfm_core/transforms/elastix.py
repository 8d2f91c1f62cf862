"""elastix' parameter files of affine kinds: ``TransformParameters.0.txt`` and the like.

As in ITK, a transform maps a point of the fixed image to the moving one, in LPS mm; a file may name another that comes before it.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from lsfm_core.errors import MissingError, SourceError
from lsfm_core.geometry import LPS_FROM_RAS
from lsfm_core.transforms.affine import Affine
from lsfm_core.transforms.base import FloatArray

__all__ = ["read_elastix"]

_LINE = re.compile(r"^\s*\((\w+)\s*(.*)\)\s*$", re.MULTILINE)
_VALUE = re.compile(r'"([^"]*)"|(\S+)')
_INITIAL = ("InitialTransformParameterFileName", "InitialTransformParametersFileName")
_COUNTS = {"TranslationTransform": 3, "EulerTransform": 6, "SimilarityTransform": 7, "AffineTransform": 12}

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
    return Affine(LPS_FROM_RAS @ _chain(path, fields, ()) @ LPS_FROM_RAS, name=path.name)


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


def _chain(path: Path, fields: Fields, seen: tuple[Path, ...]) -> FloatArray:
    """LPS matrix (4, 4) of a file and what comes before it."""
    own = _matrix(path, fields)
    name = next((fields[key][0] for key in _INITIAL if fields.get(key)), "NoInitialTransform")
    if name in ("", "NoInitialTransform"):
        return own
    first = _before(path, name)
    if first.resolve() in seen or first.resolve() == path.resolve():
        raise SourceError(f"{path}: names the initial transform {name}, which comes after it: they go in a circle")
    others = _fields(first)
    if others is None:
        raise SourceError(f"{path}: names the initial transform {first}, which is no parameter file of elastix")
    before = _chain(first, others, (*seen, path.resolve()))
    how = _one(fields, "HowToCombineTransforms", "Compose")
    if how == "Compose":
        return own @ before
    if how == "Add":
        return own + before - np.eye(4)
    raise SourceError(f"{path}: HowToCombineTransforms is {how!r}: expected Compose or Add")


def _before(path: Path, name: str) -> Path:
    """The file that is named, or the one of its name beside: elastix writes where it was when it was made."""
    last = PureWindowsPath(name).name if "\\" in name else PurePosixPath(name).name
    for candidate in (path.parent / name, path.parent / last):
        if candidate.is_file():
            return candidate
    raise MissingError(f"{path}: its initial transform {name} is not there: put {last} beside it")


def _matrix(path: Path, fields: Fields) -> FloatArray:
    kind = _one(fields, "Transform", "")
    count = _COUNTS.get(kind)
    if count is None:
        raise SourceError(
            f"{path}: holds a {kind} of elastix; of its transforms only {', '.join(_COUNTS)} are affine: make a displacement field "
            "of it (transformix -def all -tp …)"
        )
    for key in ("FixedImageDimension", "MovingImageDimension"):
        if _one(fields, key, "3") != "3":
            raise SourceError(f"{path}: {key} is {_one(fields, key, '')}, expected a 3-D transform")
    turned = _numbers(path, fields, "Direction", 9, np.eye(3).ravel())
    if _one(fields, "UseDirectionCosines", "true") == "false" and not np.allclose(turned, np.eye(3).ravel()):
        raise SourceError(
            f"{path}: was made without the images' directions (UseDirectionCosines false), so that it does not lead from place to "
            "place: register again with them"
        )
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
