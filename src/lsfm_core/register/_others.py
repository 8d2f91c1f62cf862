"""Registrations of NiftyReg and SPM, in RAS mm, and BigWarp's landmarks, in the units of the images."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError, SourceError
from lsfm_core.geometry import Space
from lsfm_core.register._found import SMALL, AffineStep, FieldStep, Found, Result, flattened, spline_domain
from lsfm_core.transforms import Affine, read_transforms
from lsfm_core.transforms.spline import ThinPlateSpline
from lsfm_core.transforms.staged import Stage, StagedTransform

__all__ = ["find_bigwarp", "find_niftyreg", "find_spm"]

FloatArray = npt.NDArray[np.float64]

_NIFTI = (".nii", ".nii.gz")
#: NiftyReg's kinds of transforms, by intent_p1.
_FIELDS = {0: "absolute positions", 1: "displacements"}
_SPLINE_GRID = 2
_OTHERS = {
    3: "a velocity field of absolute positions",
    4: "a velocity field",
    5: "a velocity grid (reg_f3d -vel)",
    6: "a grid of linear splines",
}
_TEXT = 4096
#: Landmarks are set by hand; tables of cells are larger.
_TABLE = 2**22
_SIGNS = np.array((-1.0, -1.0, 1.0))


def find_niftyreg(files: Sequence[Path], fixed: Space | None, error_vox: float) -> Found | None:
    """What reg_aladin, reg_f3d and reg_transform have written: an affine as text, a control-point grid, or a field.

    A control-point grid and a field have the affine in them; it then only says what is left outside of the grid.

    Parameters
    ----------
    fixed : Space, optional
        The grid of the image that stayed. Default: that of the result, else one that fills the domain of the control points.
    error_vox : float
        How far a field may be off that stands for control points.

    Raises
    ------
    InputError, SourceError
    """
    kinds = {file: kind for file in files if file.name.lower().endswith(_NIFTI) and (kind := _kind(file)) is not None}
    texts = [file for file in files if re.search(r"affine.*\.txt$|aladin.*\.txt$", file.name, re.IGNORECASE)]
    affines = [affine for file in texts if (affine := _affine(file)) is not None]
    if not kinds and not affines:
        return None
    backward = [file for file in kinds if re.search("backward|inverse", file.name, re.IGNORECASE)]
    forward = [file for file in kinds if file not in backward]
    if len(forward) > 1 or len(affines) > 1:
        names = ", ".join(str(file) for file in (forward if len(forward) > 1 else texts))
        raise InputError(f"several transforms of NiftyReg ({names}): name those of one run")
    result = next((Result(file) for file in files if re.match(r"(output|outputResult|res|result)\.nii(\.gz)?$", file.name)), None)
    used = (*forward, *texts[: len(affines)])
    if not forward:
        if backward:
            raise InputError(
                f"{backward[0]}: is a way back by its name, and the way there is not among the files: name that as well"
            )
        return Found("NiftyReg", (AffineStep(affines[0]),), used, result=result)
    file = forward[0]
    kind = kinds[file]
    if kind in _FIELDS:
        return Found("NiftyReg", (FieldStep(file, file.name),), used, result=result)
    if kind != _SPLINE_GRID:
        raise SourceError(
            f"{file}: holds {_OTHERS.get(kind, f'a transform of kind {kind}')} of NiftyReg: make a deformation field of "
            "it (reg_transform "
            "-ref … -def …), and import that"
        )
    itk = _spline(file)
    spline = StagedTransform([Stage(itk)], name=file.name)
    linear = affines[0] if affines else Affine(np.eye(4), name=f"{file.name} without its affine")
    return Found(
        "NiftyReg",
        flattened(spline, linear, fixed or _result_space(result) or spline_domain(itk), file.name, error_vox),
        used,
        result=result,
    )


def find_spm(files: Sequence[Path]) -> Found | None:
    """SPM's deformations, ``y_NAME.nii`` and ``iy_NAME.nii``: absolute positions, RAS mm."""
    there = [file for file in files if re.fullmatch(r"y_.*\.nii(\.gz)?", file.name)]
    back = [file for file in files if re.fullmatch(r"iy_.*\.nii(\.gz)?", file.name)]
    if not there and not back:
        return None
    if len(there) != 1 or len(back) > 1:
        found = ", ".join(file.name for file in (*there, *back))
        raise InputError(f"{files[0].parent}: found {found} of SPM: name one deformation y_… and, if there is one, its iy_…")
    inverse = FieldStep(back[0], back[0].name, "ras-position") if back else None
    return Found("SPM", (FieldStep(there[0], there[0].name, "ras-position", inverse=inverse),), (*there, *back))


def find_bigwarp(
    files: Sequence[Path], native: Space, atlas: Space | None, unit_mm: float | None, error_vox: float
) -> Found | None:
    """BigWarp's landmarks, as CSV or JSON: pairs of points in the moving and the fixed image, along x, y, z from the first voxel.

    Parameters
    ----------
    native : Space
        Of the channel, which was moved.
    atlas : Space, optional
        Of the image that stayed, in its own order.
    unit_mm : float, optional
        Unit of the landmarks.
    error_vox : float
        How far the field may be off that stands for the spline.

    Raises
    ------
    InputError, SourceError
    """
    small = [file for file in files if file.suffix.lower() in (".csv", ".json") and file.stat().st_size <= _TABLE]
    tables = [(file, table) for file in small if (table := _landmarks(file)) is not None]
    if not tables:
        return None
    if len(tables) > 1:
        raise InputError(f"several tables of landmarks ({', '.join(str(file) for file, _ in tables)}): name one of them")
    file, (active, moving, fixed) = tables[0]
    if atlas is None:
        raise InputError(f"{file}: BigWarp counts from the first voxel of each image: give the image that stayed (--atlas-image)")
    if unit_mm is None:
        raise InputError(f"{file}: does not tell the unit of its landmarks: give it (--landmark-unit um, or mm)")
    if not active.any():
        raise SourceError(f"{file}: all of its {len(active)} landmarks are switched off")
    if not np.isfinite(moving[active]).all() or not np.isfinite(fixed[active]).all():
        raise SourceError(
            f"{file}: a landmark that counts has no place in one of the images: place it, or switch it off in BigWarp"
        )
    pairs = [_from_first_voxel(points[active] * unit_mm, space) for points, space in ((moving, native), (fixed, atlas))]
    spline = ThinPlateSpline(pairs[1], pairs[0], name=file.name)
    inactive = int((~active).sum())
    notes = (
        f"{file.name}: {int(active.sum())} landmarks count",
        *([f"{inactive} are switched off, and left out"] if inactive else []),
    )
    return Found(
        "BigWarp",
        flattened(spline, spline.linear_part, atlas, file.name, error_vox, SMALL // len(pairs[0])),
        (file,),
        notes=("; ".join(notes),),
    )


def _from_first_voxel(points: FloatArray, space: Space) -> FloatArray:
    """Points along x, y, z (columns, rows, planes) in mm from the first voxel's centre, as RAS mm."""
    placed: FloatArray = space.to_world(points[:, ::-1] / np.asarray(space.voxel_size_mm))
    return placed


def _landmarks(path: Path) -> tuple[npt.NDArray[np.bool_], FloatArray, FloatArray] | None:
    """Which count, and their places in the moving and in the fixed image (n, 3); None for other files."""
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".json":
            told = json.loads(text)
            told = told.get("Transform", told).get("landmarks", told) if isinstance(told, dict) else {}
            if told.get("type") != "BigWarpLandmarks":
                return None
            active, moving, fixed = told["active"], told["movingPoints"], told["fixedPoints"]
        else:
            rows = [row for row in csv.reader(text.splitlines()) if row]
            if not rows or not all(row[1].strip().lower() in ("true", "false") for row in rows if len(row) > 1):
                return None
            if {len(row) for row in rows} != {8}:
                if {len(row) for row in rows} == {6}:
                    raise SourceError(f"{path}: holds landmarks in a plane, expected three coordinates of each")
                return None
            active = [row[1].strip().lower() == "true" for row in rows]
            moving, fixed = [row[2:5] for row in rows], [row[5:8] for row in rows]
        return np.array(active, dtype=bool), _numbers(moving), _numbers(fixed)
    except UnicodeError:
        return None
    except (OSError, KeyError, ValueError) as error:
        if path.suffix.lower() == ".json" and "BigWarpLandmarks" not in path.read_bytes()[:4096].decode("latin-1"):
            return None
        raise SourceError(f"{path}: cannot be read as landmarks of BigWarp: {error}") from error


def _numbers(rows: Any) -> FloatArray:
    values = np.array([[float(str(value).replace("Infinity", "inf")) for value in row] for row in rows], dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 3:
        raise ValueError("expected three coordinates of each landmark")
    return values


def _affine(path: Path) -> Affine | None:
    """A matrix of 4 x 4 numbers, RAS mm; None for other texts, as those of ITK."""
    text = path.read_bytes()[:_TEXT].decode("latin-1")
    if re.match(r"\s*[-+\d.]", text) is None:
        return None
    found = read_transforms(path)
    return found[0] if len(found) == 1 and isinstance(found[0], Affine) else None


def _kind(path: Path) -> int | None:
    """NiftyReg's kind of transform; None for other files."""
    import nibabel as nib

    try:
        header: Any = nib.load(path).header
        name = bytes(header["intent_name"].item()).rstrip(b"\0 ")
    except (OSError, EOFError, ValueError, KeyError, nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError):
        return None
    return int(header["intent_p1"]) if name == b"NREG_TRANS" else None


def _spline(path: Path) -> Any:
    """A control-point grid of NiftyReg, whose values are positions, as ITK's B-spline, whose values are displacements, LPS."""
    import nibabel as nib
    import SimpleITK as sitk

    image: Any = nib.load(path)
    if image.ndim != 5 or image.shape[3:] != (1, 3):
        raise SourceError(f"{path}: a control-point grid has {' x '.join(map(str, image.shape))} values, expected x, y, z, 1, 3")
    values = np.asarray(image.dataobj, dtype=np.float64)[:, :, :, 0]
    # One more node on each side: the image ends where the grid's own domain does, and rounding must not put its faces outside.
    values = np.pad(values, [(1, 1)] * 3 + [(0, 0)], mode="reflect", reflect_type="odd")
    affine = image.affine.copy()
    affine[:3, 3] -= affine[:3, :3].sum(axis=1)
    nodes = np.indices(values.shape[:3]).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    shifts = (values - nodes.reshape(values.shape)) * _SIGNS
    grid = Space(values.shape[2::-1], affine[:, [2, 1, 0, 3]])
    origin, spacing, direction = grid.to_itk()
    spline = sitk.BSplineTransform(3, 3)
    spline.SetFixedParameters([*map(float, values.shape[:3]), *origin, *spacing, *direction])
    # x runs fastest, and one component comes after the other.
    spline.SetParameters(np.concatenate([shifts[..., k].ravel("F") for k in range(3)]).tolist())
    return spline


def _result_space(result: Result | None) -> Space | None:
    if result is None:
        return None
    from lsfm_core.formats import open_source

    source = open_source(result.path)
    source.close()
    return source.space
