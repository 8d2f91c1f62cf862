"""What an import of a registration would store: what is found, its names, and the spaces that it joins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lsfm_core.errors import ExistsError, InputError, MissingError
from lsfm_core.formats import open_source
from lsfm_core.geometry import Space
from lsfm_core.register._brainglobe import find_brainglobe_registration, find_brainreg
from lsfm_core.register._found import AffineStep, FieldStep, Found, Result
from lsfm_core.register._itk import find_ants, find_elastix, find_transforms
from lsfm_core.register._others import find_bigwarp, find_niftyreg, find_spm
from lsfm_core.register.request import ImportRegistrationRequest, Tool
from lsfm_core.spaces import known_spaces, resolve_space
from lsfm_core.store import LsfmFile, check_channel_name, check_new_affine, check_new_channel, open_lsfm

__all__ = ["RegistrationPlan", "plan_of", "plan_registration", "result_of"]

_MM = {"um": 0.001, "mm": 1.0}


@dataclass(frozen=True)
class RegistrationPlan:
    """What an import would store.

    Attributes
    ----------
    path : Path
    channel : str
    found : Found
        What the files hold.
    names : tuple of str
        Of the transforms, from the image outward: affines of the channel, and channels of kind vectors.
    inverses : tuple of str or None
        Of each transform the channel of its inverse, if it is a field that has one.
    places : tuple of str
        The spaces, from the inner side of the first transform to the outer side of the last.
    labels_channel : str or None
        The channel that the program's annotation becomes.
    labels : Path or None
        The table of what its ids mean.
    evidence : str
        What the import is compared with, in words.
    """

    path: Path
    channel: str
    found: Found
    names: tuple[str, ...]
    inverses: tuple[str | None, ...]
    places: tuple[str, ...]
    labels_channel: str | None
    labels: Path | None
    evidence: str

    def describe(self) -> str:
        """In words, one fact per line."""
        files = ", ".join(file.name for file in self.found.files)
        lines = [f"reads   {files} of {self.found.tool}"]
        for index, (name, step) in enumerate(zip(self.names, self.found.steps, strict=True)):
            lines.append(f"makes   {name}: {self.places[index]!r} -> {self.places[index + 1]!r}; {step.describe()}")
            if self.inverses[index] is not None:
                lines.append(f"        {self.inverses[index]}: {self.places[index + 1]!r} -> {self.places[index]!r}; its inverse")
        if self.labels_channel is not None:
            table = f", explained by {self.labels}" if self.labels is not None else ", without a table of what they mean (--labels)"
            lines.append(f"        labels channel {self.labels_channel!r}{table}")
        lines += [f"note    {note}" for note in self.found.notes]
        return "\n".join([*lines, f"proof   {self.evidence}"])


def plan_registration(request: ImportRegistrationRequest) -> RegistrationPlan:
    """What an import would do; nothing is written, and nothing compared.

    Raises
    ------
    LsfmError
        As `import_registration`, as far as it can be known beforehand.
    """
    with open_lsfm(request.path) as file:
        return plan_of(file, request)


def plan_of(file: LsfmFile, request: ImportRegistrationRequest) -> RegistrationPlan:
    """The same of an open file."""
    channel = file[request.channel]
    own = channel.space_name
    if channel.kind not in ("image", "labels", "components") or channel.orientation is None or channel.unit != "mm" or own is None:
        raise InputError(
            f"{file.path}: channel {request.channel!r} cannot have a registration: it must be an image whose orientation, "
            "voxel size "
            "and space are recorded"
        )
    atlas = None if request.atlas_space is None else resolve_space(file, request.atlas_space)
    grid = _atlas_grid(file, request, atlas)
    found = _find(request, channel.space, grid)
    if request.fixed is not None and found.fixed not in (None, request.fixed):
        raise InputError(f"{found.files[0]}: {found.tool} moves the atlas, and the channel stays: leave --fixed out")
    if atlas is None:
        if found.atlas is None or request.atlas_space is not None:
            raise InputError("atlas_space: name the space of the atlas, such as allen_mouse_25um, which the files do not tell")
        atlas = resolve_space(file, found.atlas)
    assert atlas is not None
    if atlas == own:
        raise InputError(f"{file.path}: channel {request.channel!r} lies in space {own!r} already: name that of the atlas")
    fixed = request.fixed or found.fixed or "atlas"
    inner, outer = (own, atlas) if (fixed == "atlas") != found.tool.endswith("(modelling)") else (atlas, own)
    name = request.name or f"{request.channel}_to_{atlas}".replace("/", "_")
    check_channel_name(name)
    names, inverses = _names(name, found.steps)
    between = [f"{name}_{index}" if len(names) > 2 else f"{name}_affine" for index in range(1, len(names))]
    taken = known_spaces(file).intersection(between)
    if taken and not request.replace:
        raise ExistsError(f"{file.path}: there is a space {min(taken)!r} already: choose another name (--name), or replace it")
    for part, inverse, step in zip(names, inverses, found.steps, strict=True):
        if isinstance(step, AffineStep):
            check_new_affine(file, request.channel, part, request.replace)
        for field in (part, inverse) if isinstance(step, FieldStep) else ():
            if field is not None:
                check_new_channel(file, field, request.replace)
    labels_channel = None
    if found.labels is not None:
        labels_channel = request.labels_channel or f"{name}_labels"
        check_new_channel(file, labels_channel, request.replace)
    elif request.labels is not None or request.labels_channel is not None:
        raise InputError(f"labels: {found.tool} has left no annotation beside its transforms: leave --labels out")
    table = request.labels or _structures(found.atlas)
    draft = RegistrationPlan(
        file.path, request.channel, found, names, inverses, (inner, *between, outer), labels_channel, table, ""
    )
    return replace(draft, evidence=_evidence(request, draft, own))


def _names(name: str, steps: Sequence[AffineStep | FieldStep]) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """Of the transforms, and of their inverses."""
    names: list[str] = []
    inverses: list[str | None] = []
    counts = {AffineStep: 0, FieldStep: 0}
    for step in steps:
        counts[type(step)] += 1
        number = f"_{counts[type(step)]}" if counts[type(step)] > 1 else ""
        if isinstance(step, AffineStep):
            names.append(f"{name}_affine{number}")
            inverses.append(None)
        else:
            names.append(f"{name}_warp{number}")
            inverses.append(f"{name}_inverse_warp{number}" if step.inverse is not None else None)
    return tuple(names), tuple(inverses)


def _find(request: ImportRegistrationRequest, native: Space, atlas: Space | None) -> Found:
    files = _files(request.registration)
    unit = _MM[request.landmark_unit] if request.landmark_unit is not None else None
    fallback = atlas or native
    in_voxels = request.tool is None and any(file.name == "brainglobe-registration.json" for file in files)
    error = request.field_error_vox
    finders: dict[str, Callable[[], Found | None]] = {
        "brainglobe-registration": lambda: find_brainglobe_registration(files, native, atlas, error),
        "brainreg": lambda: find_brainreg(files, native, atlas),
        "ants": lambda: find_ants(files, request.one_way, fallback, error),
        # Its parameter files are in voxels where brainglobe-registration has made them.
        "elastix": lambda: None if in_voxels else find_elastix(files, fallback, error),
        "niftyreg": lambda: find_niftyreg(files, _grid_of(request.result) or atlas, error),
        "spm": lambda: find_spm(files),
        "bigwarp": lambda: find_bigwarp(files, native, atlas, unit, error),
    }
    if request.tool in finders:
        asked = finders[request.tool]()
        if asked is None:
            raise InputError(f"{request.registration[0]}: holds nothing of {request.tool}")
        return asked
    if request.tool is None:
        several: dict[Tool | str, Found] = {}
        for tool, find in finders.items():
            found = find()
            if found is not None:
                several[tool] = found
        if len(several) > 1:
            raise InputError(
                f"{request.registration[0]}: holds registrations of {' and '.join(several)}: say which is meant (--tool), "
                "or name its files"
            )
        if several:
            return next(iter(several.values()))
    found = find_transforms([file for file in files if _may_be_transform(file, request)], fallback, error)
    if found is None:
        listing = ", ".join(file.name for file in files[:8]) or "nothing"
        raise InputError(
            f"{request.registration[0]}: no registration is found there (but {listing}): expected files of ANTs "
            "(…0GenericAffine.mat, "
            "…1Warp.nii.gz, …Composite.h5), elastix (TransformParameters.0.txt), brainreg (deformation_field_0..2.tiff), "
            "NiftyReg, SPM "
            "(y_….nii), BigWarp (landmarks), or ITK's and 3D Slicer's (.tfm, .h5, .nrrd)"
        )
    return found


def _grid_of(image: Path | None) -> Space | None:
    """Where the voxels of an image are, if it tells."""
    if image is None or not image.exists():
        return None
    source = open_source(image)
    source.close()
    return source.space


def _files(given: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            files += sorted(file for file in path.iterdir() if file.is_file())
        elif path.is_file():
            files.append(path)
        else:
            raise MissingError(f"{path}: no such file or folder")
    return list(dict.fromkeys(files))


def _may_be_transform(file: Path, request: ImportRegistrationRequest) -> bool:
    """Of files that were named one by one, all; of a folder those that are nothing else by their endings."""
    if file in request.registration:
        return True
    return file.suffix.lower() in (".tfm", ".mat", ".h5", ".xfm") or file.name.startswith("deformationField.")


def _atlas_grid(file: LsfmFile, request: ImportRegistrationRequest, atlas: str | None) -> Space | None:
    """Where the atlas' voxels are, if that is known."""
    if request.atlas_image is not None and request.atlas_image not in file:
        if not Path(request.atlas_image).exists():
            raise MissingError(f"{request.atlas_image}: {file.path} has no such channel, and there is no such file")
        source = open_source(request.atlas_image)
        source.close()
        if source.space is None:
            raise InputError(f"{request.atlas_image}: does not tell where its voxels are: use NIfTI, NRRD or MetaImage")
        return source.space
    names = [request.atlas_image] if request.atlas_image is not None else list(file)
    for channel in (file[name] for name in names):
        is_there = channel.space_name == atlas is not None and channel.kind in ("image", "labels")
        if channel.orientation is not None and (is_there or request.atlas_image is not None):
            return channel.space
    return None


def _structures(atlas: str | None) -> Path | None:
    """The structures of an atlas that BrainGlobe has downloaded, if it has."""
    folders = sorted(Path.home().glob(f".brainglobe/{atlas}_v*")) if atlas is not None else []
    return next((file for folder in reversed(folders) if (file := folder / "structures.json").is_file()), None)


def result_of(request: ImportRegistrationRequest, plan: RegistrationPlan) -> Result | None:
    """The image that the tool has made with its transforms."""
    if request.result is None:
        return plan.found.result
    own = plan.found.result
    return Result(request.result, own.space if own is not None else None, own.inner if own is not None else False)


def _evidence(request: ImportRegistrationRequest, plan: RegistrationPlan, own: str) -> str:
    """What a proof would compare, in words."""
    if not request.prove:
        return "none is asked for (--no-proof)"
    result = result_of(request, plan)
    if result is None:
        return f"none: {plan.found.tool} has left no result beside its transforms (--result names one)"
    if result.inner:
        return f"{result.path.name}, looked up where channel {plan.channel!r} leads, is compared with it"
    if request.moved is None and plan.places[0] != own:
        return f"none: which image was moved is not known (--moved names it): {result.path.name} was made of it"
    moved = request.moved.name if request.moved is not None else f"channel {plan.channel!r}"
    return f"{moved} through the transforms is compared with {result.path.name}"
