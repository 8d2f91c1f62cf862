"""Registrations in ITK's own words: ANTs' prefixes, composites, B-splines, 3D Slicer's fields, elastix' parameter files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from lsfm_core.errors import InputError, MissingError, SourceError
from lsfm_core.geometry import Space
from lsfm_core.register._found import AffineStep, FieldStep, Found, Result, flattened, one_affine, placed, spline_domain
from lsfm_core.transforms import Affine, DisplacementField, read_transforms
from lsfm_core.transforms.elastix import read_elastix_stages
from lsfm_core.transforms.files import transform_kinds
from lsfm_core.transforms.staged import Stage, StagedTransform

__all__ = ["find_ants", "find_elastix", "find_transforms"]

_ANTS = re.compile(
    r"(?P<prefix>.*)(?P<number>\d)(?P<what>GenericAffine|DerivedInitial\w+|Rigid|Similarity|Affine|Translation|BSpline|Warp|InverseWarp)"
    r"\.(mat|txt|nii\.gz|nii)"
)
_COMPOSITE = re.compile(r"(?P<prefix>.*?)(?P<inverse>Inverse)?Composite\.h5")
_ELASTIX = re.compile(r"TransformParameters\.(\d+)\.txt")
_IMAGES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".tif", ".tiff")
#: Files of ITK's that may hold B-splines.
_ITK = (".tfm", ".h5", ".txt", ".mat")
#: What an affine times its inverse may differ from one that moves nothing.
_APART = 1e-3
_TRANSFORMS = (".tfm", ".h5", ".mat", ".txt", ".xfm")
_FIELDS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
_MODELLING = re.compile(rb"displacement field type\s*:?=\s*modell?ing", re.IGNORECASE)
_HEADER = 2**16


def find_ants(files: Sequence[Path], one_way: bool, fallback: Space, error_vox: float) -> Found | None:
    """What ``antsRegistration`` has written under a prefix: an affine, a warp and its inverse; or both ways as composites.

    Parameters
    ----------
    one_way : bool
        Whether a field without its inverse will do.
    fallback : Space
        A grid for B-splines whose own cannot be known.
    error_vox : float
        How far fields may be off that stand for B-splines.

    Raises
    ------
    InputError
        If there are several prefixes.
    MissingError
        If one of the files is not there.
    """
    single = [(match, file) for file in files if (match := _ANTS.fullmatch(file.name))]
    composite = [(match, file) for file in files if (match := _COMPOSITE.fullmatch(file.name))]
    runs = {(file.parent, match["prefix"]) for match, file in (*single, *composite)}
    if not runs:
        return None
    if len(runs) > 1:
        listing = ", ".join(sorted(str(folder / prefix) for folder, prefix in runs))
        raise InputError(
            f"{files[0].parent}: holds what several runs of ANTs have written ({listing}): name the files of one of them"
        )
    ((folder, prefix),) = runs
    result = next((Result(folder / f"{prefix}Warped{end}") for end in _IMAGES if (folder / f"{prefix}Warped{end}").is_file()), None)
    if not single:
        read = partial(_read, fallback=fallback, error_vox=error_vox)
        return _ants_composite(folder / prefix, [file for _, file in composite], result, one_way, read)
    by_number = {
        int(number): {match["what"]: file for match, file in group}
        for number, group in groupby(
            sorted(single, key=lambda item: int(item[0]["number"])), key=lambda item: int(item[0]["number"])
        )
    }
    missing = [number for number in range(max(by_number) + 1) if number not in by_number]
    if missing:
        raise MissingError(
            f"{folder / prefix}{max(by_number)}…: ANTs numbers its transforms from 0, and there is none that begins with "
            f"{', '.join(f'{prefix}{number}' for number in missing)} (as {prefix}{missing[0]}GenericAffine.mat): put it beside"
        )
    steps: list[AffineStep | FieldStep] = []
    for number, parts in sorted(by_number.items()):
        warp, inverse = parts.pop("Warp", None), parts.pop("InverseWarp", None)
        if warp is None and inverse is not None:
            raise MissingError(f"{inverse}: its partner {prefix}{number}Warp.nii.gz is not there: put it beside")
        if warp is not None and inverse is None and not one_way:
            raise MissingError(
                f"{warp}: its partner {prefix}{number}InverseWarp.nii.gz is not there: put it beside, or say that the way "
                "back is not "
                "needed (--one-way)"
            )
        if len(parts) + (warp is not None) > 1:
            names = ", ".join(file.name for file in (*parts.values(), *([warp] if warp is not None else [])))
            raise InputError(f"{folder}: {names} have the same number: name the files of one run")
        for file in parts.values():
            steps += _read(file, fallback, error_vox)
        if warp is not None:
            back = FieldStep(inverse, inverse.name) if inverse is not None else None
            steps.append(FieldStep(warp, warp.name, inverse=back))
    used = tuple(file for _, file in single)
    return Found("ANTs", _folded(steps), used, result=result)


def _ants_composite(
    prefix: Path, files: Sequence[Path], result: Result | None, one_way: bool, read: Callable[[Path], list[AffineStep | FieldStep]]
) -> Found:
    there = next((file for file in files if "Inverse" not in file.name), None)
    back = next((file for file in files if "Inverse" in file.name), None)
    if there is None:
        raise MissingError(f"{back}: its partner {prefix.name}Composite.h5 is not there: put it beside")
    steps = read(there)
    # What stands for a spline has no inverse in ANTs either.
    has_inverse = any(isinstance(step, FieldStep) and not step.note for step in steps)
    if has_inverse and back is None and not one_way:
        raise MissingError(
            f"{there}: its partner {prefix.name}InverseComposite.h5 is not there: put it beside, or say that the way back "
            "is not needed (--one-way)"
        )
    inverses = list(reversed(read(back))) if back is not None else []
    if back is not None and [type(step) for step in inverses] != [type(step) for step in steps]:
        raise SourceError(f"{back}: holds other transforms than {there.name}: the files are of two runs")
    paired: list[AffineStep | FieldStep] = []
    for step, other in zip_longest(steps, inverses):
        if isinstance(step, FieldStep):
            paired.append(replace(step, inverse=other) if isinstance(other, FieldStep) else step)
            continue
        paired.append(step)
        if isinstance(other, AffineStep) and abs(other.affine.matrix @ step.affine.matrix - np.eye(4)).max() > _APART:
            raise SourceError(f"{back}: its affine is not the inverse of that of {there.name}: the files are of two runs")
    return Found("ANTs", _folded(paired), tuple(file for file in (there, back) if file is not None), result=result)


def find_elastix(files: Sequence[Path], fallback: Space, error_vox: float) -> Found | None:
    """What elastix has written: a chain of parameter files, of affine kinds and B-splines; the last one names those before it.

    Parameters
    ----------
    fallback : Space
        A grid for files that do not tell that of the fixed image.
    error_vox : float
        How far fields may be off that stand for B-splines.

    Raises
    ------
    SourceError
        If the files are no chain.
    """
    numbered = sorted((int(match[1]), file) for file in files if (match := _ELASTIX.fullmatch(file.name)))
    if not numbered:
        return None
    folders = {file.parent for _, file in numbered}
    if len(folders) > 1:
        raise InputError(f"TransformParameters of several folders ({', '.join(map(str, sorted(folders)))}): name those of one run")
    number, last = numbered[-1]
    chain = read_elastix_stages(last)
    read = {file.resolve() for file in chain.files}
    strange = [file.name for _, file in numbered if file.resolve() not in read]
    if strange:
        raise SourceError(
            f"{last}: does not name {', '.join(strange)} among what comes before it: the files are of two runs, or one of them is "
            "missing: name those of one run"
        )
    folder = last.parent
    result = next(
        (Result(folder / f"result.{number}{end}") for end in _IMAGES if (folder / f"result.{number}{end}").is_file()), None
    )
    if result is None:
        result = next((Result(folder / f"result{end}") for end in _IMAGES if (folder / f"result{end}").is_file()), None)
    return Found("elastix", _staged(chain.transform, chain.grid or fallback, last.name, error_vox), chain.files, result=result)


def find_transforms(files: Sequence[Path], fallback: Space, error_vox: float) -> Found | None:
    """ITK's transform files and displacement fields, as 3D Slicer and others write them, in the order in which they are named.

    A field of transformix, ``deformationField``, is one of them.
    """
    named = [file for file in files if file.name.lower().endswith((*_TRANSFORMS, *_FIELDS))]
    if not named:
        return None
    steps: list[AffineStep | FieldStep] = []
    modelling = [_is_modelling(file) for file in named]
    if any(modelling) and len(named) > 1:
        raise InputError(
            f"{named[modelling.index(True)]}: is a field of 3D Slicer whose type is modelling: it leads the other way "
            "than all others, "
            "so it can be imported by itself only"
        )
    for file in named:
        if file.name.lower().endswith(_FIELDS):
            # Of modelling fields the reader refuses what it takes for the wrong way.
            steps.append(FieldStep(file, file.name, "lps-displacement" if modelling[0] else None))
        else:
            steps += _read(file, fallback, error_vox)
    notes = (
        (f"{named[0].name}: is of type modelling: it maps points of the image that was moved to the one that stayed",)
        if modelling[0]
        else ()
    )
    return Found("3D Slicer (modelling)" if modelling[0] else "ITK", _folded(steps), tuple(named), notes=notes)


def _is_modelling(path: Path) -> bool:
    if not path.name.lower().endswith(".nrrd"):
        return False
    with path.open("rb") as file:
        return _MODELLING.search(file.read(_HEADER).partition(b"\n\n")[0]) is not None


def _read(path: Path, fallback: Space, error_vox: float) -> list[AffineStep | FieldStep]:
    """The parts of one file; what holds a B-spline as an affine and a field."""
    import SimpleITK as sitk

    if path.suffix.lower() in _ITK and any(kind.startswith("BSplineTransform") for kind in transform_kinds(path)):
        try:
            parts = _parts(sitk.ReadTransform(str(path)))
        except (RuntimeError, KeyError, TypeError) as error:
            raise SourceError(f"{path}: not readable as an ITK transform: {str(error).strip().splitlines()[-1]}") from error
        if any(part.GetDimension() != 3 for part in parts):
            raise SourceError(f"{path}: holds a {parts[0].GetDimension()}-D transform, expected a 3-D one")
        # The last part of a composite applies first.
        staged = StagedTransform([Stage(part) for part in reversed(parts)], name=path.name)
        return list(_staged(staged, _domain(parts) or fallback, path.name, error_vox))
    return [
        AffineStep(part) if isinstance(part, Affine) else FieldStep(partial(placed, part), part.name)
        for part in read_transforms(path, in_pieces=True)
        if isinstance(part, (Affine, DisplacementField))
    ]


def _parts(transform: Any) -> list[Any]:
    import SimpleITK as sitk

    if transform.GetTransformEnum() != sitk.sitkComposite:
        return [transform]
    composite = sitk.CompositeTransform(transform)
    return [composite.GetNthTransform(index) for index in range(composite.GetNumberOfTransforms())]


def _domain(parts: Sequence[Any]) -> Space | None:
    """A grid that fills the domain of the first B-spline."""
    import SimpleITK as sitk

    splines = (part for part in parts if part.GetTransformEnum() == sitk.sitkBSplineTransform)
    return next((spline_domain(spline) for spline in splines), None)


def _staged(transform: StagedTransform, grid: Space, name: str, error_vox: float) -> tuple[AffineStep | FieldStep, ...]:
    if transform.is_linear:
        return (AffineStep(transform.linear_part),)
    return flattened(transform, transform.linear_part, grid, name, error_vox)


def _folded(steps: Sequence[AffineStep | FieldStep]) -> tuple[AffineStep | FieldStep, ...]:
    """The same with neighbouring affines made one."""
    folded: list[AffineStep | FieldStep] = []
    for is_affine, group in groupby(steps, key=lambda step: isinstance(step, AffineStep)):
        found = list(group)
        if is_affine:
            affines = [step.affine for step in found if isinstance(step, AffineStep)]
            folded.append(AffineStep(one_affine(affines, " and ".join(affine.name for affine in affines))))
        else:
            folded += found
    return tuple(folded)
