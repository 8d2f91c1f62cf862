"""A request and its image become a plan: every decision of an ingest, made before a voxel is read, and ready to be shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lsfm_core.errors import InputError, UnknownChannelError
from lsfm_core.formats import Source, kind_of
from lsfm_core.geometry import Orientation, Space, voxel_count
from lsfm_core.images import open_source
from lsfm_core.ingest._memory import MemoryPlan, plan_memory
from lsfm_core.ingest.request import IngestRequest
from lsfm_core.metadata import ImageMetadata, plain_json, read_metadata
from lsfm_core.progress import size_text
from lsfm_core.pyramid import Kind, LevelPlan, plan_levels, reducer
from lsfm_core.regions import LabelTable, read_label_table
from lsfm_core.spaces import UNKNOWN, resolve_space
from lsfm_core.store import (
    Channel,
    LsfmFile,
    Sides,
    check_folder,
    check_new_channel,
    is_setup,
    open_lsfm,
    own_space,
    target_path,
)
from lsfm_core.threads import default_threads

__all__ = ["IngestPlan", "check_target", "plan_ingest", "planned", "space_words"]

Makes = Literal["file", "channel", "replacement"]
_MAKES: dict[Makes, str] = {
    "file": "which is made",
    "channel": "which is there",
    "replacement": "in place of the one that is there",
}


@dataclass(frozen=True)
class IngestPlan:
    """What an ingest will do, decided before it starts.

    Attributes
    ----------
    path : Path
        The file that gets the channel.
    channel : str
    makes : {"file", "channel", "replacement"}
        Whether the file is new, or the channel is added to it, or takes the place of one.
    kind : {"image", "labels", "vectors", "components"}
    image, format : str
        What is read.
    image_channel : int, str or None
        Which channel of it.
    space : Space
        Of level 0.
    dtype : numpy.dtype
    components : int
        Values per voxel.
    levels : tuple of LevelPlan
    threads : int
    memory : MemoryPlan
        How slabs are kept, so that the process stays within its budget.
    labels : LabelTable or None
        What the ids of a labels channel mean.
    inverse_of : str or None
        The channel that holds the inverse of a displacement field.
    acquisition : dict
        What is known of it, as JSON can hold it.
    warnings : tuple of str
        What the user should look at.
    sides : Sides
        The space that it lies in, which is the outer one, and of a displacement field the inner one; None where not known.
    """

    path: Path
    channel: str
    makes: Makes
    kind: Kind
    image: str
    format: str
    image_channel: int | str | None
    space: Space
    dtype: np.dtype[Any]
    components: int
    levels: tuple[LevelPlan, ...]
    threads: int
    memory: MemoryPlan
    labels: LabelTable | None
    inverse_of: str | None
    acquisition: dict[str, Any]
    warnings: tuple[str, ...]
    sides: Sides

    @property
    def voxel_bytes(self) -> int:
        """Size of a voxel."""
        return self.dtype.itemsize * self.components

    @property
    def raw_bytes(self) -> int:
        """Size of the voxels of all levels, before compression."""
        return sum(voxel_count(level.shape) for level in self.levels) * self.voxel_bytes

    def describe(self) -> str:
        """The plan in words, one fact per line."""
        space, size = self.space, self.space.bounds.size_mm
        chosen = "" if self.image_channel is None else f", channel {self.image_channel!r}"
        components = f" of {self.components} components" if self.components > 1 else ""
        voxel = " x ".join(f"{v:.6g}" for v in space.voxel_size_mm)
        lines = [
            f"reads   {self.image} ({self.format}{chosen})",
            f"        {space.orientation.describe()}",
            f"makes   channel {self.channel!r} ({self.kind}) of {self.path}, {_MAKES[self.makes]}",
            f"        {_by(space.shape)} voxels of {voxel} mm, {self.dtype}{components}, {space.orientation}",
            f"extent  {size[0]:.3f} x {size[1]:.3f} x {size[2]:.3f} mm (R, A, S): {space.bounds}",
            *(
                f"level {index} {_by(level.shape)} voxels, each of {_by(level.factors)}, in chunks of {_by(level.chunks)}"
                for index, level in enumerate(self.levels)
            ),
            *([f"labels  {len(self.labels)} are explained"] if self.labels is not None else []),
            *([f"inverse of channel {self.inverse_of!r}"] if self.inverse_of is not None else []),
            f"space   {space_words(self.kind, self.sides)}",
            f"size    {size_text(self.raw_bytes)} uncompressed",
            f"memory  at most {size_text(self.memory.peak_bytes)}{_again(self.memory.amplification)}",
            *(f"warning {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)


def plan_ingest(request: IngestRequest) -> IngestPlan:
    """Decide everything about an ingest; nothing is made, locked or logged, and no voxel is read.

    Raises
    ------
    LsfmError
        As `lsfm_core.ingest_channel`, as far as it can be known beforehand.
    """
    with planned(request) as (_, plan):
        if not plan.path.exists():
            check_folder(plan.path)
            return check_target(plan, None, request)
        with open_lsfm(request.path, detached=True) as file:
            return check_target(plan, file, request)


@contextmanager
def planned(request: IngestRequest) -> Iterator[tuple[Source, IngestPlan]]:
    """The image of a request, open, and the plan for it as for a new file."""
    path = target_path(request.path)
    metadata = read_metadata(request.metadata) if request.metadata is not None else None
    channel = request.image_channel
    if channel is None and metadata is not None:
        channel = metadata.channel
    source = open_source(
        request.image,
        channel=channel,
        kind=request.kind,
        planes_are=request.planes_are,
        field_convention=request.field_convention,
    )
    try:
        kind = kind_of(source, request.kind)
        space, warnings = _resolve_space(source, request, kind, metadata)
        source.settle(space)
        if kind != request.kind:
            warnings.append(f"the image has {source.components} values per voxel: it is taken as kind {kind}")
        if source.facts.get("kind") == "labels" and kind == "image":
            warnings.append(
                "the file says that it holds labels, and they are written as an image: say --kind labels to keep them so"
            )
        table, doubts = read_label_table(request.labels, request.ontology)
        levels = plan_levels(source.shape, space.voxel_size_mm, source.dtype.itemsize * source.components)
        threads = request.threads or default_threads()
        told = metadata.acquisition if metadata is not None else {}
        yield (
            source,
            IngestPlan(
                path=path,
                channel=request.channel,
                makes="file",
                kind=kind,
                image=source.name,
                format=str(source.facts.get("format", "image")),
                image_channel=channel,
                space=space,
                dtype=source.dtype,
                components=source.components,
                levels=levels,
                threads=threads,
                memory=plan_memory(source, reducer(kind, source.dtype), levels, threads, request.memory_bytes),
                labels=table,
                inverse_of=request.inverse_of,
                acquisition={**plain_json(source.facts.get("acquisition", {})), **told},
                warnings=(*warnings, *doubts),
                sides=_sides(request, None),
            ),
        )
    finally:
        source.close()


def check_target(plan: IngestPlan, file: LsfmFile | None, request: IngestRequest) -> IngestPlan:
    """The plan for the file that is there, or None.

    Raises
    ------
    ExistsError, UnknownChannelError, InputError
    """
    partner = plan.inverse_of
    plan = replace(plan, sides=_sides(request, file))
    if file is None:
        if partner is not None:
            raise UnknownChannelError(f"{plan.path}: no channel {partner!r}; it has: none")
        return replace(plan, warnings=(*plan.warnings, *_about_other_programs(plan, {})))
    if partner is not None and file[partner].kind != "vectors":
        raise InputError(f"{plan.path}: channel {partner!r} is no displacement field, so it has no inverse")
    if partner is not None:
        _check_partner(plan, partner, file.field_sides(partner))
    check_new_channel(file, plan.channel, request.replace)
    plan = replace(plan, warnings=(*plan.warnings, *_about_other_programs(plan, file.channels)))
    if plan.channel not in file:
        return replace(plan, makes="channel")
    warnings, times = plan.warnings, file[plan.channel].timepoints
    if len(times) > 1:
        warnings = (*warnings, f"channel {plan.channel!r} has {len(times)} timepoints: all of them give way to one image")
    return replace(plan, makes="replacement", warnings=warnings)


def space_words(kind: Kind, sides: Sides) -> str:
    """Where a channel lies, by the names of spaces."""
    if kind == "vectors":
        return f"leads {_from_to(sides)}"
    return "not known" if sides.outer is None else f"lies in {sides.outer!r}"


def _sides(request: IngestRequest, file: LsfmFile | None) -> Sides:
    """The spaces that a request names."""
    names = (request.from_space, request.space)
    inner, outer = (None if text is None else resolve_space(file, text, new_channel=request.channel) for text in names)
    return Sides(inner, own_space(request.channel) if outer is None and request.kind in ("image", "components") else outer)


def _about_other_programs(plan: IngestPlan, channels: Mapping[str, Channel]) -> Iterator[str]:
    """Bio-Formats makes all setups channels of one image, which has the size, type and voxel size of the first."""
    fiji = "in Fiji, Plugins > BigDataViewer > Open XML/HDF5 opens it"
    if not channels and not plan.path.name.isascii():
        yield f"Bio-Formats opens no data set with other letters than ASCII in its name, {plan.path.name}: give another, or {fiji}"
    setups = [channel for channel in channels.values() if channel.setup is not None and channel.name != plan.channel]
    if not is_setup(plan.kind, plan.dtype):
        return
    traits: list[tuple[str, Callable[[IngestPlan | Channel], object]]] = [
        ("size", lambda image: image.space.shape),
        ("type", lambda image: image.dtype),
        ("voxel size", lambda image: tuple(round(size, 9) for size in image.space.voxel_size_mm)),
    ]
    unlike = [word for word, of in traits if any(of(other) != of(plan) for other in setups)]
    if unlike:
        yield f"channels of this file differ in {', '.join(unlike)}: Bio-Formats shows all but the first wrongly; {fiji} rightly"


def _check_partner(plan: IngestPlan, partner: str, sides: Sides) -> None:
    for given, known in zip(plan.sides, sides.swapped(), strict=True):
        if None not in (given, known) and given != known:
            raise InputError(
                f"{plan.path}: channel {plan.channel!r} is said to lead {_from_to(plan.sides)}, and its inverse {partner!r} is "
                f"recorded to lead {_from_to(sides)}: correct one of them (--from, --to; set-space --transform {partner})"
            )


def _from_to(sides: Sides) -> str:
    inner, outer = (UNKNOWN if name is None else repr(name) for name in sides)
    return f"from {inner} to {outer}"


def _resolve_space(source: Source, request: IngestRequest, kind: Kind, metadata: ImageMetadata | None) -> tuple[Space, list[str]]:
    """The space of level 0: the request's wishes, over the metadata file's, over the image's; and what the user should look at."""
    warnings = [str(note) for note in source.facts.get("notes", ())]
    own = source.space
    if metadata is not None:
        contradictions = metadata.contradictions(source, kind)
        if contradictions:
            listing = "; ".join(contradictions)
            raise InputError(
                f"{request.metadata}: contradicts {source.name}: {listing}: correct it, or give the image that it describes"
            )
        own = metadata.space(source.shape) or own
        wishes = {name: value for name, value in metadata.wishes(own).items() if getattr(request, name) is None}
        request = request.model_copy(update=wishes)
    if own is not None and request.voxel_size_mm is None and request.orientation is None:
        space = own
        if request.origin_mm is not None:
            affine = space.world_from_voxel.copy()
            affine[:3, 3] += np.subtract(request.origin_mm, space.first_voxel_mm)
            space = Space(space.shape, affine)
    else:
        voxel_size = request.voxel_size_mm or (own.voxel_size_mm if own else source.voxel_size_mm)
        orientation = Orientation(request.orientation) if request.orientation else own.orientation if own else None
        missing = [name for name, value in (("voxel size", voxel_size), ("orientation", orientation)) if not value]
        if missing or voxel_size is None or orientation is None:
            untold = source.facts.get("untold") if voxel_size is None else None
            options = {"voxel size": "--voxel-size P,R,C in mm", "orientation": "--orientation, such as AIR"}
            raise InputError(
                f"{source.name}: the image does not tell its {' and '.join(missing)}: {f'{untold}: ' if untold else ''}give "
                f"{' and '.join(options[name] for name in missing)}, or a metadata file (--metadata)"
            )
        placed = source.oriented(orientation, voxel_size) if request.origin_mm is None else None
        space = placed or Space.from_orientation(source.shape, voxel_size, orientation, request.origin_mm)
        if own is not None:
            warnings.append("the image's own geometry was replaced by the one that was given")
        if orientation.doubt is not None and request.orientation is not None:
            warnings.append(orientation.doubt)
    size = space.bounds.size_mm
    if max(size) > 1000 or max(size) < 0.1:
        extent = f"{size[0]:g} x {size[1]:g} x {size[2]:g} mm (R, A, S)"
        warnings.append(f"the image would be {extent} large: is the voxel size in mm?")
    return space, warnings


def _again(times: float) -> str:
    return "" if times < 1.05 else f", for which each voxel of the image is read {times:.1f} times on the average"


def _by(values: tuple[Any, ...]) -> str:
    return " x ".join(map(str, values))
