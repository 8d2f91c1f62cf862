"""One image into one channel: the request, what it means for this image, and carrying it out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from pydantic import Field, field_serializer, field_validator, model_validator

from lsfm_core._request import Request
from lsfm_core.errors import InputError
from lsfm_core.formats import Source, open_source
from lsfm_core.geometry import Orientation, Space, Triple, check_voxel_size, voxel_count
from lsfm_core.ingest._slabs import IngestState, PyramidWriter, plan_memory
from lsfm_core.metadata import ImageMetadata, plain_json, read_metadata
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.provenance import LoggedFile, logged_files, recorded
from lsfm_core.pyramid import Kind, LevelPlan, plan_levels, reducer
from lsfm_core.records import FileRecord
from lsfm_core.regions import read_label_table
from lsfm_core.store import LsfmEditor, check_channel_name, default_threads, edit_lsfm
from lsfm_core.transforms import DisplacementField

__all__ = ["IngestReport", "IngestRequest", "ingest_channel"]


class IngestRequest(Request):
    """What to put into a file, and how.

    Voxel size, orientation and origin may be left out where the metadata file or the image tells them; given ones win over the
    file's, and those over the image's.

    Attributes
    ----------
    path : Path
        The HDF5 file; made if it is not there, else the channel is added.
    channel : str
        Name of the new channel.
    image : str, path, or array-like
        What `lsfm_core.formats.open_source` takes: a TIFF series or stack, OME-TIFF, NIfTI, NRRD, MHA, Zarr, or in Python any array
        or a function that gives planes.
    image_channel : int or str, optional
        Which channel of an image that has several.
    kind : {"image", "labels", "vectors"}
    voxel_size_mm : tuple of 3 float, optional
        Planes, rows, columns.
    orientation : str, optional
        Axis codes in array order: where each index grows toward, as ``AIR``.
    origin_mm : tuple of 3 float, optional
        R, A, S position of the centre of the voxel that is first in R, A and S. Default: the image's own, or 0, 0, 0.
    metadata : Path, optional
        JSON file that tells of the image, as `lsfm_core.metadata.describe_image` makes it. It must not contradict the image's shape
        and type.
    labels : Path, optional
        For labels: a table of what the ids mean, as `LabelTable.read` takes it.
    ontology : Path, optional
        For labels: a table of the structures that they belong to, with parents, which is joined to that of the labels by id, else
        by acronym. Without `labels` it is the label table itself.
    inverse_of : str, optional
        For vectors: the channel that holds the inverse of this displacement field.
    replace : bool
        Whether a channel of that name gives way.
    resume : bool
        If the ingest is interrupted, keep what is finished, for the same request to go on from there; and go on from what an
        interrupted one has left. Otherwise an interrupted ingest is rolled back.
    checkpoint_seconds : float
        How often a resumable ingest secures what it has done.
    memory_bytes : int
        Bound of the process' resident size.
    threads : int, optional
        Default: the cores this process may use.
    compression : int
        Deflate level 0 (none) to 3.
    uint16_as_int16 : bool
        Keep uint16 as the same bits in int16, for BigDataViewer before 10.4.6.
    """

    path: Path
    channel: str
    image: Any
    image_channel: int | str | None = None
    kind: Kind = "image"
    voxel_size_mm: tuple[float, float, float] | None = None
    orientation: str | None = None
    origin_mm: tuple[float, float, float] | None = None
    metadata: Path | None = None
    labels: Path | None = None
    ontology: Path | None = None
    inverse_of: str | None = None
    replace: bool = False
    resume: bool = False
    checkpoint_seconds: float = Field(default=30.0, gt=0)
    memory_bytes: int = Field(default=2 * 10**9, gt=0)
    threads: int | None = Field(default=None, gt=0)
    compression: int = Field(default=1, ge=0, le=3)
    uint16_as_int16: bool = False

    @field_validator("orientation")
    @classmethod
    def _check_orientation(cls, value: str | None) -> str | None:
        return None if value is None else Orientation(value).axcodes

    @field_validator("voxel_size_mm")
    @classmethod
    def _check_voxel_size(cls, value: Triple | None) -> Triple | None:
        return None if value is None else check_voxel_size(value)

    @field_validator("channel")
    @classmethod
    def _check_channel(cls, value: str) -> str:
        check_channel_name(value)
        return value

    @field_serializer("image", when_used="json")
    def _name_image(self, value: Any) -> str | dict[str, str]:
        # What Python held in its memory has no name.
        return os.fspath(value) if isinstance(value, str | os.PathLike) else {"type": type(value).__name__}

    @model_validator(mode="after")
    def _check_kind(self) -> IngestRequest:
        for name in ("labels", "ontology"):
            if getattr(self, name) is not None and self.kind != "labels":
                raise InputError(f"{name}: only a channel of kind labels has a label table, not {self.kind}")
        if self.inverse_of is not None and self.kind != "vectors":
            raise InputError(f"inverse_of: only a channel of kind vectors can be the inverse of another, not {self.kind}")
        return self


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did.

    Attributes
    ----------
    path : Path
    channel : str
    kind : {"image", "labels", "vectors"}
    space : Space
    dtype : numpy.dtype
    levels : tuple of LevelPlan
    raw_bytes, stored_bytes : int
        Of all levels, before and after compression.
    seconds : float
    warnings : tuple of str
        What the user should look at.
    """

    path: Path
    channel: str
    kind: Kind
    space: Space
    dtype: np.dtype[Any]
    levels: tuple[LevelPlan, ...]
    raw_bytes: int
    stored_bytes: int
    seconds: float
    warnings: tuple[str, ...]


def ingest_channel(
    request: IngestRequest, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> IngestReport:
    """Write one image into a file as a new channel.

    Raises
    ------
    LsfmError
        `InputError`, `SourceError`, `ExistsError`, `StorageError`, `MemoryBudgetError` or `CancelledError`; in every case the file
        is as it was before.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        record = stack.enter_context(recorded(request.path, "write", request))
        metadata = read_metadata(request.metadata) if request.metadata is not None else None
        if metadata is not None and request.image_channel is None:
            request = request.model_copy(update={"image_channel": metadata.channel})
        source = open_source(request.image, channel=request.image_channel, kind=request.kind)
        stack.callback(source.close)
        space, warnings = _resolve_space(source, request, metadata)
        table, doubts = read_label_table(request.labels, request.ontology)
        warnings += doubts
        itemsize = source.dtype.itemsize * source.components
        levels = plan_levels(source.shape, space.voxel_size_mm, itemsize)
        threads = request.threads or default_threads()
        reduce = reducer(request.kind, source.dtype)
        plan = plan_memory(source, reduce, levels, threads, request.memory_bytes)
        editor = stack.enter_context(edit_lsfm(request.path, resume=request.resume))
        if request.inverse_of is not None and editor[request.inverse_of].kind != "vectors":
            raise InputError(f"{request.path}: channel {request.inverse_of!r} is no displacement field, so it has no inverse")
        facts = {**plain_json(source.facts.get("acquisition", {})), **(metadata.acquisition if metadata is not None else {})}
        acquisition = json.dumps(facts)
        fingerprint = _fingerprint(request, source, space, levels, acquisition)
        state = IngestState()
        if editor.note is not None:
            state = IngestState.from_note(editor.note, fingerprint, request.path)
            writer = editor.resume_channel(request.channel)
        else:
            writer = editor.create_channel(
                request.channel,
                kind=request.kind,
                dtype=source.dtype,
                components=source.components,
                levels=levels,
                space=space,
                compression=request.compression,
                replace=request.replace,
                uint16_as_int16=request.uint16_as_int16,
            )
        pool = ThreadPoolExecutor(threads, thread_name_prefix="lsfm-ingest")
        stack.callback(pool.shutdown, cancel_futures=True)
        report = Progress("ingest", voxel_count(source.shape) * itemsize, progress, cancel)
        pyramid = PyramidWriter(source, levels, reduce, writer, plan, pool, request.path.parent, report, state)
        stack.callback(pyramid.close)
        if request.resume and not source.forward_only:
            pyramid.run(_Checkpoints(editor, fingerprint, request.checkpoint_seconds).offer)
        else:
            pyramid.run(None)
        record.inputs += _inputs(request, editor[request.channel].sources)
        if facts:
            editor.set_acquisition(request.channel, acquisition)
        if table is not None:
            editor.set_label_table(request.channel, table.to_json())
        if request.inverse_of is not None:
            editor.set_partners(request.channel, request.inverse_of)
        if request.kind == "vectors":
            search = Progress("look for folds", voxel_count(source.shape) * 12, progress, cancel)
            folded, total = DisplacementField(space, editor[request.channel].levels[0].data).folding(search)
            if folded:
                warnings.append(
                    f"the displacement field folds space in {folded} of {total} voxels (Jacobian determinant not positive): it has "
                    "no inverse there"
                )
    if state.non_finite:
        warnings.append(f"{state.non_finite} voxel(s) are NaN or infinite: kept, and left out of statistics")
    return IngestReport(
        path=request.path,
        channel=request.channel,
        kind=request.kind,
        space=space,
        dtype=source.dtype,
        levels=levels,
        raw_bytes=sum(voxel_count(level.shape) for level in levels) * itemsize,
        stored_bytes=state.stored_bytes,
        seconds=time.perf_counter() - began,
        warnings=tuple(warnings),
    )


def _resolve_space(source: Source, request: IngestRequest, metadata: ImageMetadata | None) -> tuple[Space, list[str]]:
    """The space of level 0: the request's wishes, over the metadata file's, over the image's; and what the user should look at."""
    warnings = [str(note) for note in source.facts.get("notes", ())]
    own = source.space
    if metadata is not None:
        contradictions = metadata.contradictions(source, request.kind)
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
        missing = [
            name
            for name, value in (("voxel size (--voxel-size)", voxel_size), ("orientation (--orientation)", orientation))
            if not value
        ]
        if missing or voxel_size is None or orientation is None:
            raise InputError(
                f"{source.name}: the image does not tell its {' and '.join(missing)}: give what is missing, or --metadata"
            )
        space = Space.from_orientation(source.shape, voxel_size, orientation, request.origin_mm)
        if own is not None:
            warnings.append("the image's own geometry was replaced by the one that was given")
        if orientation.doubt is not None and request.orientation is not None:
            warnings.append(orientation.doubt)
    size = space.bounds.size_mm
    if max(size) > 1000 or max(size) < 0.1:
        extent = f"{size[0]:g} x {size[1]:g} x {size[2]:g} mm (R, A, S)"
        warnings.append(f"the image would be {extent} large: is the voxel size in mm?")
    return space, warnings


def _fingerprint(request: IngestRequest, source: Source, space: Space, levels: Sequence[LevelPlan], acquisition: str) -> str:
    """Equal for two ingests that would write the same channel."""
    chosen = request.model_dump(mode="json", include={"channel", "image_channel", "kind", "compression", "uint16_as_int16"})
    facts = [
        chosen,
        source.name,
        source.shape,
        source.dtype.str,
        space.world_from_voxel.tolist(),
        acquisition,
        [asdict(level) for level in levels],
    ]
    return json.dumps(facts)


def _inputs(request: IngestRequest, sources: Sequence[FileRecord]) -> list[LoggedFile]:
    """What an ingest has read, for the log: the image's files all as one."""
    tables = [path for path in (request.metadata, request.labels, request.ontology) if path is not None]
    inputs = [logged_files(path, [path]) for path in tables]
    if sources:
        crc = 0
        for source in sources:
            crc = isal_zlib.crc32_combine(crc, source.crc32, source.size)
        size = sum(source.size for source in sources)
        inputs.insert(0, LoggedFile(path=str(request.image), count=len(sources), size=size, checksum=f"crc32:{crc:08x}"))
    return inputs


class _Checkpoints:
    """Sets a checkpoint every so often, and so seldom that it takes a twentieth of the time at most."""

    def __init__(self, editor: LsfmEditor, fingerprint: str, seconds: float) -> None:
        self._editor = editor
        self._fingerprint = fingerprint
        self._seconds = seconds
        self._due = time.perf_counter() + seconds

    def offer(self, state: IngestState) -> None:
        began = time.perf_counter()
        if began >= self._due:
            self._editor.checkpoint(state.to_note(self._fingerprint))
            now = time.perf_counter()
            self._due = now + max(self._seconds, 20 * (now - began))
