"""Carrying the import of a registration out: what is found becomes affines, channels and names of spaces, in one change."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lsfm_core.errors import ContradictionError, SourceError
from lsfm_core.geometry import Space, voxel_count
from lsfm_core.ingest import IngestRequest, ingest_channel
from lsfm_core.progress import CancelToken, ProgressCallback
from lsfm_core.provenance import logged_files, recorded
from lsfm_core.register._found import AffineStep, Result
from lsfm_core.register._images import Sampled, of_channel, of_file
from lsfm_core.register._proof import LEAST, Proof, likeliest_cause, prove
from lsfm_core.register.plan import RegistrationPlan, plan_of, result_of
from lsfm_core.register.request import ImportRegistrationRequest
from lsfm_core.spaces import TransformLink, describe_spaces, round_trip, stored_field
from lsfm_core.store import (
    Channel,
    LsfmEditor,
    LsfmFile,
    Sides,
    edit_lsfm,
    open_lsfm,
)
from lsfm_core.transforms import Affine, DisplacementField, Transform, TransformChain

__all__ = ["ImportReport", "carried_out", "chain_of", "images_of", "import_registration", "is_compared"]

#: What is kept with transforms of which there is no proof.
NOT_PROVEN = "not proven"
#: What a map leaves of a volume that it makes flat.
_FLAT = 1e-3
#: Points at which it is looked whether space is mirrored.
_POINTS = 2000
#: Voxels of a level that is held in memory.
_HELD = 4_000_000
#: How far a field and its inverse may be from each other, in voxels, median.
_APART_VOX = 0.5
#: The same where the inverse was found by a registration of its own.
_REGISTERED_APART_VOX = 3


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
        plan = plan_of(editor, request)
        others = [file for file in (request.result, request.moved, request.labels) if file is not None]
        record.inputs += [logged_files(file, [file]) for file in dict.fromkeys((*plan.found.files, *others))]
        return carried_out(editor, request, plan, progress, cancel)


def carried_out(
    editor: LsfmEditor,
    request: ImportRegistrationRequest,
    plan: RegistrationPlan,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> ImportReport:
    """The same as part of a change; the log tells of that as a whole."""
    began = time.perf_counter()
    warnings = _store(editor, request, plan, progress, cancel)
    chain, coarse = chain_of(editor, plan), _coarse(editor, plan)
    warnings += _check_inverses(plan, chain)
    _check_mirrored(request, plan, coarse, editor[request.channel].space)
    proof, reason = _proof(editor, request, plan, (chain, coarse), progress, cancel)
    _note(editor, plan, proof.short() if proof is not None else NOT_PROVEN)
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
                field_convention=part.convention if request.field_convention is None else request.field_convention,
                inverse_of=inverse if channel == name else None,
                from_space=_spelled(editor, sides[0]),
                space=_spelled(editor, sides[1]),
            )
    if plan.labels_channel is not None and plan.found.labels is not None:
        image = plan.found.labels()
        ingest(plan.labels_channel, kind="labels", image=image, labels=plan.labels, space=_spelled(editor, str(own)))
    return warnings


def _note(editor: LsfmEditor, plan: RegistrationPlan, text: str) -> None:
    """Keep with each transform whether it is proven."""
    for name, inverse, step in zip(plan.names, plan.inverses, plan.found.steps, strict=True):
        if isinstance(step, AffineStep):
            editor.set_proof(plan.channel, text, affine=name)
        else:
            for field in (name, inverse):
                if field is not None:
                    editor.set_proof(field, text)


def _spelled(file: LsfmFile, space: str) -> str:
    """A space, whose name may be that of a channel which lives elsewhere, by one that lives there."""
    if space not in file:
        return space
    return next(name for name, channel in file.channels.items() if channel.space_name == space)


def chain_of(file: LsfmFile, plan: RegistrationPlan) -> TransformChain:
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
    # Where all points come to one place, rounding has a sign as well.
    mirrored = float((np.linalg.det(np.stack(columns, axis=-1)) < -_FLAT).mean())
    if mirrored > 0.5:
        raise SourceError(
            f"{plan.found.files[0].parent}: the transforms turn space into its mirror image (the determinant is negative at "
            f"{mirrored:.0%} of the points): is the orientation of channel {plan.channel!r} right? If the images are "
            "meant to be mirrored "
            "against each other, say so (--mirrored)"
        )


def is_compared(request: ImportRegistrationRequest, plan: RegistrationPlan) -> bool:
    """Whether there is something to compare with, and that is asked for."""
    return request.prove and not plan.evidence.startswith("none")


def images_of(
    file: LsfmFile, request: ImportRegistrationRequest, plan: RegistrationPlan, result: Result, chain: TransformChain
) -> tuple[Sampled, Sampled, Space]:
    """What is compared: the image of the outer side, that of the inner one, and the voxels at which they are."""
    image, channel = of_file(result.path, result.space, request.memory_bytes), file[plan.channel]
    grid = (chain.domain or channel.space) if result.inner else image.space
    voxel = float(np.prod(grid.voxel_size_mm) ** (1 / 3))
    if result.inner:
        return of_channel(channel, voxel), image, grid
    moved = of_file(request.moved, None, request.memory_bytes) if request.moved is not None else of_channel(channel, voxel)
    return image, moved, grid


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
    result = result_of(request, plan)
    if result is None or not is_compared(request, plan):
        return None, plan.evidence.removeprefix("none: ")
    chain, coarse = chains
    outer, inner, grid = images_of(file, request, plan, result, chain)
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
