"""Carrying the import of a registration out: what is found becomes affines, channels and names of spaces, in one change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lsfm_core.errors import ContradictionError, ExistsError, InputError, MissingError, SourceError
from lsfm_core.formats import open_source
from lsfm_core.geometry import Space, voxel_count
from lsfm_core.ingest import IngestRequest, ingest_channel
from lsfm_core.progress import CancelToken, ProgressCallback
from lsfm_core.provenance import logged_files, recorded
from lsfm_core.register._brainglobe import find_brainglobe_registration, find_brainreg
from lsfm_core.register._found import AffineStep, FieldStep, Found, Result
from lsfm_core.register._images import Sampled, of_channel, of_file
from lsfm_core.register._itk import find_ants, find_elastix, find_transforms
from lsfm_core.register._others import find_bigwarp, find_niftyreg, find_spm
from lsfm_core.register._proof import LEAST, Proof, likeliest_cause, prove
from lsfm_core.register.request import ImportRegistrationRequest, Tool
from lsfm_core.spaces import TransformLink, describe_spaces, known_spaces, resolve_space, round_trip, stored_field
from lsfm_core.store import (
    Channel,
    LsfmEditor,
    LsfmFile,
    Sides,
    check_channel_name,
    check_new_affine,
    check_new_channel,
    edit_lsfm,
    open_lsfm,
)
from lsfm_core.transforms import Affine, DisplacementField, Transform, TransformChain

__all__ = ["ImportReport", "RegistrationPlan", "carried_out", "import_registration", "plan_registration"]

_MM = {"um": 0.001, "mm": 1.0}
#: Points at which it is looked whether space is mirrored.
_POINTS = 2000
#: Voxels of a level that is held in memory.
_HELD = 4_000_000
#: How far a field and its inverse may be from each other, in voxels, median.
_APART_VOX = 0.5
#: The same where the inverse was found by a registration of its own.
_REGISTERED_APART_VOX = 3


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


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes
    ----------
    path : Path
    tool : str
    transforms : tuple of TransformLink
        What was stored, with the spaces that they join.
    labels_channel : str or None
    proof : Proof or None
    not_proven : str
        Why there is no proof; "" if there is one.
    warnings : tuple of str
    notes : tuple of str
    seconds : float
    """

    path: Path
    tool: str
    transforms: tuple[TransformLink, ...]
    labels_channel: str | None
    proof: Proof | None
    not_proven: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float

    def describe(self) -> str:
        """In words, one fact per line."""
        labels = [f"  labels channel {self.labels_channel!r}"] if self.labels_channel is not None else []
        proof = self.proof.describe() if self.proof is not None else f"not proven: {self.not_proven}"
        return "\n".join(
            [
                f"{self.path}: registration of {self.tool}, {len(self.transforms)} transform(s)",
                *(f"  {link.describe()}" for link in self.transforms),
                *labels,
                *(f"  {note}" for note in self.notes),
                f"  {proof}",
            ]
        )


def plan_registration(request: ImportRegistrationRequest) -> RegistrationPlan:
    """What an import would do; nothing is written, and nothing compared.

    Raises
    ------
    LsfmError
        As `import_registration`, as far as it can be known beforehand.
    """
    with open_lsfm(request.path) as file:
        return _plan(file, request)


def import_registration(
    request: ImportRegistrationRequest, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> ImportReport:
    """Store a registration that another program has made, with its inverse, its labels and the names of the spaces.

    Raises
    ------
    LsfmError
        In every case the file is as it was before. `ContradictionError` if the program's own result is not what its transforms
        make.
    """
    with open_lsfm(request.path) as file:
        path = file.path
    with recorded(path, "import-registration", request) as record, edit_lsfm(request.path) as editor:
        files = _plan(editor, request).found.files
        others = [file for file in (request.result, request.moved, request.labels) if file is not None]
        record.inputs += [logged_files(file, [file]) for file in dict.fromkeys((*files, *others))]
        return carried_out(editor, request, progress, cancel)


def carried_out(
    editor: LsfmEditor,
    request: ImportRegistrationRequest,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> ImportReport:
    """The same as part of a change; the log tells of that as a whole."""
    began = time.perf_counter()
    plan = _plan(editor, request)
    warnings = _store(editor, request, plan, progress, cancel)
    chain, coarse = _chain(editor, plan), _coarse(editor, plan)
    warnings += _check_inverses(plan, chain)
    _check_mirrored(request, plan, coarse, editor[request.channel].space)
    proof, reason = _proof(editor, request, plan, (chain, coarse), progress, cancel)
    stored = {*plan.names, *plan.inverses}
    links = tuple(link for link in describe_spaces(editor).transforms if link.name.removeprefix(f"{plan.channel}/") in stored)
    return ImportReport(
        editor.path,
        plan.found.tool,
        links,
        plan.labels_channel,
        proof,
        reason,
        tuple(warnings),
        plan.found.notes,
        time.perf_counter() - began,
    )


# --- what there is -------------------------------------------------------------------------------------------------------------


def _plan(file: LsfmFile, request: ImportRegistrationRequest) -> RegistrationPlan:
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
    finders: dict[str, Callable[[], Found | None]] = {
        "brainglobe-registration": lambda: find_brainglobe_registration(files, native, atlas),
        "brainreg": lambda: find_brainreg(files, native, atlas),
        "ants": lambda: find_ants(files, request.one_way),
        # Its parameter files are in voxels where brainglobe-registration has made them.
        "elastix": lambda: None if in_voxels else find_elastix(files, fallback),
        "niftyreg": lambda: find_niftyreg(files, fallback),
        "spm": lambda: find_spm(files),
        "bigwarp": lambda: find_bigwarp(files, native, atlas, unit),
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
    found = find_transforms([file for file in files if _may_be_transform(file, request)], fallback)
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


# --- storing -------------------------------------------------------------------------------------------------------------------


def _store(
    editor: LsfmEditor,
    request: ImportRegistrationRequest,
    plan: RegistrationPlan,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> list[str]:
    warnings: list[str] = []

    def ingest(channel: str, **fields: Any) -> None:
        wanted = IngestRequest(
            path=request.path,
            channel=channel,
            replace=request.replace,
            memory_bytes=request.memory_bytes,
            threads=request.threads,
            **fields,
        )
        report = ingest_channel(wanted, editor=editor, progress=progress, cancel=cancel)
        # Nobody opens fields with Bio-Formats.
        warnings.extend(f"{channel}: {warning}" for warning in report.warnings if "Bio-Formats" not in warning)

    own = editor[request.channel].space_name
    for index, (name, step) in enumerate(zip(plan.names, plan.found.steps, strict=True)):
        inner, outer = plan.places[index], plan.places[index + 1]
        if isinstance(step, AffineStep):
            editor.write_affine(request.channel, name, step.affine.matrix, step.affine.to_itk(), request.replace)
            editor.set_sides(request.channel, name, Sides(None if inner == own else inner, outer))
            continue
        inverse = plan.inverses[index]
        for part, channel, sides in ((step.inverse, inverse, (outer, inner)), (step, name, (inner, outer))):
            if part is None or channel is None:
                continue
            ingest(
                channel,
                kind="vectors",
                image=part.open(),
                field_convention=part.convention,
                inverse_of=inverse if channel == name else None,
                from_space=_spelled(editor, sides[0]),
                space=_spelled(editor, sides[1]),
            )
    if plan.labels_channel is not None and plan.found.labels is not None:
        image = plan.found.labels()
        ingest(plan.labels_channel, kind="labels", image=image, labels=plan.labels, space=_spelled(editor, str(own)))
    return warnings


def _spelled(file: LsfmFile, space: str) -> str:
    """A space, whose name may be that of a channel which lives elsewhere, by one that lives there."""
    if space not in file:
        return space
    return next(name for name, channel in file.channels.items() if channel.space_name == space)


def _chain(file: LsfmFile, plan: RegistrationPlan) -> TransformChain:
    """What was stored, as it will be used."""
    transforms: list[Transform] = [
        file.affine(plan.channel, name) if isinstance(step, AffineStep) else stored_field(file, name)
        for name, step in zip(plan.names, plan.found.steps, strict=True)
    ]
    return TransformChain(transforms)


def _coarse(file: LsfmFile, plan: RegistrationPlan) -> TransformChain:
    """The same from levels of the fields that are small enough to be held, for what is asked of it many times over."""
    transforms: list[Transform] = []
    for name, inverse, step in zip(plan.names, plan.inverses, plan.found.steps, strict=True):
        if isinstance(step, AffineStep):
            affine = file.affine(plan.channel, name)
            transforms.append(Affine(affine.matrix, affine.centre, step.affine.name))
        else:
            field = _held(file[name], Path(step.name).name)
            if inverse is not None:
                field.partner = _held(file[inverse], inverse)
            transforms.append(field)
    return TransformChain(transforms)


def _held(channel: Channel, name: str) -> DisplacementField:
    fitting = (level for level in channel.levels if voxel_count(level.shape[:3]) <= _HELD)
    level = next(fitting, channel.levels[-1])
    return DisplacementField(level.space, np.asarray(level.data[...]), name=name)


# --- whether it is right -------------------------------------------------------------------------------------------------------


def _check_inverses(plan: RegistrationPlan, chain: TransformChain) -> Iterator[str]:
    """Refuse a field and an inverse that are not each other's; what is to be known of others."""
    for field in chain.transforms:
        if not isinstance(field, DisplacementField) or field.partner is None:
            continue
        partner = field.partner
        if plan.found.tool == "ANTs" and not field.space.same_grid(partner.space):
            raise SourceError(
                f"{plan.found.files[0].parent}: the field and its inverse lie on different grids ({field.space.shape} and "
                f"{partner.space.shape} voxels): the files are of two runs"
            )
        (median, most), count = round_trip(field, partner)
        voxel, registered = min(field.space.voxel_size_mm), plan.found.tool == "brainglobe-registration"
        limit = _REGISTERED_APART_VOX if registered else _APART_VOX
        if median > limit * voxel:
            raise SourceError(
                f"{plan.found.files[0].parent}: the field and its inverse are not each other's: there and back misses by "
                f"{median:.3g} mm "
                f"(median), {most:.3g} mm (maximum) at {count} points, more than {limit:g} voxel: the files are of two runs"
            )
        if median > _APART_VOX * voxel:
            yield (
                f"the inverse of {plan.found.tool} is a registration of its own, and not exact: there and back misses by "
                f"{median:.3g} mm "
                f"(median), {most:.3g} mm (maximum), {median / voxel:.2g} voxel"
            )


def _check_mirrored(request: ImportRegistrationRequest, plan: RegistrationPlan, chain: TransformChain, native: Space) -> None:
    """Refuse transforms that turn space into its mirror image."""
    if request.mirrored:
        return
    space = chain.domain or native
    index = np.random.default_rng(0).uniform(0.1, 0.9, (_POINTS, 3)) * (np.array(space.shape) - 1)
    points = space.to_world(index)
    step = min(space.voxel_size_mm) / 2
    columns = [(chain.map_points(points + step * axis) - chain.map_points(points - step * axis)) / (2 * step) for axis in np.eye(3)]
    mirrored = float((np.linalg.det(np.stack(columns, axis=-1)) < 0).mean())
    if mirrored > 0.5:
        raise SourceError(
            f"{plan.found.files[0].parent}: the transforms turn space into its mirror image (the determinant is negative at "
            f"{mirrored:.0%} of the points): is the orientation of channel {plan.channel!r} right? If the images are "
            "meant to be mirrored "
            "against each other, say so (--mirrored)"
        )


def _result(request: ImportRegistrationRequest, plan: RegistrationPlan) -> Result | None:
    if request.result is None:
        return plan.found.result
    own = plan.found.result
    return Result(request.result, own.space if own is not None else None, own.inner if own is not None else False)


def _evidence(request: ImportRegistrationRequest, plan: RegistrationPlan, own: str) -> str:
    """What a proof would compare, in words."""
    if not request.prove:
        return "none is asked for (--no-proof)"
    result = _result(request, plan)
    if result is None:
        return f"none: {plan.found.tool} has left no result beside its transforms (--result names one)"
    if result.inner:
        return f"{result.path.name}, looked up where channel {plan.channel!r} leads, is compared with it"
    if request.moved is None and plan.places[0] != own:
        return f"none: which image was moved is not known (--moved names it): {result.path.name} was made of it"
    moved = request.moved.name if request.moved is not None else f"channel {plan.channel!r}"
    return f"{moved} through the transforms is compared with {result.path.name}"


def _proof(
    file: LsfmFile,
    request: ImportRegistrationRequest,
    plan: RegistrationPlan,
    chains: tuple[TransformChain, TransformChain],
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> tuple[Proof | None, str]:
    """The proof, or why there is none; `chains` are what was stored, and the same from coarse levels.

    Raises
    ------
    ContradictionError
    """
    result, channel = _result(request, plan), file[plan.channel]
    if not request.prove or result is None or plan.evidence.startswith("none"):
        return None, plan.evidence.removeprefix("none: ")
    image = of_file(result.path, result.space, request.memory_bytes)
    chain, coarse = chains
    outer: Sampled
    inner: Sampled
    if result.inner:
        grid = chain.domain or channel.space
        outer, inner = of_channel(channel, float(np.prod(grid.voxel_size_mm) ** (1 / 3))), image
    else:
        grid, outer = image.space, image
        voxel = float(np.prod(grid.voxel_size_mm) ** (1 / 3))
        inner = of_file(request.moved, None, request.memory_bytes) if request.moved is not None else of_channel(channel, voxel)
    proof = prove(outer, inner, chain, grid, result.path.name, progress=progress, cancel=cancel)
    cause = likeliest_cause(outer.held(_HELD), inner.held(_HELD), coarse.transforms, grid)
    if proof.correlation >= LEAST and cause is None:
        return proof, ""
    reason = (
        f"likeliest: {cause[0]}; so read, r = {cause[1]:.4f}"
        if cause is not None
        else "no other reading of them comes nearer: is it the result of another run, or of another image (--moved names "
        "the one that "
        "was moved)? Without the proof: --no-proof"
    )
    raise ContradictionError(
        f"{result.path}: contradicts the transforms: what they make has r = {proof.correlation:.4f} with it ({proof.voxels} voxels "
        f"compared); {reason}; nothing was stored"
    )
