"""Carrying an ingest out: one image becomes one channel."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from lsfm_core.errors import InputError
from lsfm_core.geometry import Space, voxel_count
from lsfm_core.ingest._slabs import PyramidWriter
from lsfm_core.ingest._state import DIGESTS, IngestState, digest_of, stamps_of
from lsfm_core.ingest.plan import IngestPlan, check_target, planned, space_words
from lsfm_core.ingest.request import IngestRequest
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.provenance import Draft, LoggedFile, logged_files, recorded
from lsfm_core.pyramid import Kind, LevelPlan, reducer
from lsfm_core.records import FileRecord
from lsfm_core.store import LsfmEditor, Sides, edit_lsfm, target_path
from lsfm_core.transforms import DisplacementField

__all__ = ["IngestReport", "ingest_channel"]


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did.

    Attributes
    ----------
    path : Path
    channel : str
    kind : {"image", "labels", "vectors", "components"}
    space : Space
    dtype : numpy.dtype
    levels : tuple of LevelPlan
    raw_bytes, stored_bytes : int
        Of all levels, before and after compression.
    seconds : float
    warnings : tuple of str
        What the user should look at.
    inputs : tuple of LoggedFile
        What was read, as the log has it.
    written : LoggedFile
        Size and checksum of the channel, as the log has them.
    sides : Sides
        The space that it lies in, which is the outer one, and of a displacement field the inner one; None where not known.
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
    inputs: tuple[LoggedFile, ...]
    written: LoggedFile
    sides: Sides

    @property
    def in_space(self) -> str:
        """Where it lies, by the names of spaces."""
        return space_words(self.kind, self.sides)


def ingest_channel(
    request: IngestRequest,
    *,
    editor: LsfmEditor | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> IngestReport:
    """Write one image into a file as a new channel.

    Parameters
    ----------
    request : IngestRequest
    editor : LsfmEditor, optional
        Of the request's file, where the channel is part of a larger change: it is there when that is over, and the log tells of
        that as a whole.
    progress : callable, optional
    cancel : CancelToken, optional

    Raises
    ------
    LsfmError
        `InputError`, `SourceError`, `ExistsError`, `StorageError`, `MemoryBudgetError` or `CancelledError`; in every case the file
        is as it was before.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        path = target_path(request.path)
        draft = nullcontext(Draft(path, "write", request)) if editor is not None else recorded(path, "write", request)
        record = stack.enter_context(draft)
        source, plan = stack.enter_context(planned(request))
        if editor is None:
            editor = stack.enter_context(edit_lsfm(request.path, resume=request.resume))
        elif request.resume:
            raise InputError(f"{path}: what is part of a larger change cannot be resumed by itself")
        plan = check_target(plan, editor, request)
        warnings = [*plan.warnings, *editor.recovered]
        fingerprint = _fingerprint(request, plan)
        if editor.note is not None:
            state = IngestState.from_note(editor.note, fingerprint, path)
            state.check_unchanged(stamps_of(request.image), plan.image, path)
            writer = editor.resume_channel(request.channel)
        else:
            state = IngestState(stamps=stamps_of(request.image) if request.resume else {})
            writer = editor.create_channel(
                request.channel,
                kind=plan.kind,
                dtype=plan.dtype,
                components=plan.components,
                levels=plan.levels,
                space=plan.space,
                compression=request.compression,
                replace=request.replace,
                uint16_as_int16=request.uint16_as_int16,
            )
        pool = ThreadPoolExecutor(plan.threads, thread_name_prefix="lsfm-ingest")
        stack.callback(pool.shutdown, cancel_futures=True)
        voxels = voxel_count(source.shape)
        report = Progress("ingest", voxels * plan.voxel_bytes, progress, cancel)
        reduce = reducer(plan.kind, plan.dtype)
        pyramid = PyramidWriter(source, plan.levels, reduce, writer, plan.memory, pool, path.parent, report, state)
        stack.callback(pyramid.close)
        if request.resume and not source.forward_only:
            pyramid.run(_Checkpoints(editor, fingerprint, request.checkpoint_seconds).offer)
        else:
            pyramid.run(None)
        record.inputs += _inputs(request, editor[request.channel].sources)
        table = None if plan.labels is None else plan.labels.to_json()
        if plan.acquisition:
            editor.set_acquisition(request.channel, json.dumps(plan.acquisition))
        if table is not None:
            editor.set_label_table(request.channel, table)
        editor.set_space(request.channel, plan.sides.outer, plan.sides.inner)
        if plan.inverse_of is not None:
            editor.set_partners(request.channel, plan.inverse_of)
        if plan.kind == "vectors":
            search = Progress("look for folds", voxels * 12, progress, cancel)
            folded, total = DisplacementField(plan.space, editor[request.channel].levels[0].data).folding(search)
            if folded:
                warnings.append(
                    f"the displacement field folds space in {folded} of {total} voxels (Jacobian determinant not positive): it has "
                    "no inverse there"
                )
        space = plan.space
        content = digest_of(plan.kind, str(plan.dtype), space.shape, space.world_from_voxel.tolist(), plan.acquisition, table)
        checksum = f"chunks:{(state.digest + content) % DIGESTS:064x}"
        record.output = written = LoggedFile(path=str(path), size=plan.raw_bytes, checksum=checksum)
    if state.non_finite:
        warnings.append(f"{state.non_finite} voxel(s) are NaN or infinite: kept, and left out of statistics")
    return IngestReport(
        path=path,
        channel=request.channel,
        kind=plan.kind,
        space=plan.space,
        dtype=plan.dtype,
        levels=plan.levels,
        raw_bytes=plan.raw_bytes,
        stored_bytes=state.stored_bytes,
        seconds=time.perf_counter() - began,
        warnings=tuple(warnings),
        inputs=tuple(record.inputs),
        written=written,
        sides=plan.sides,
    )


def _fingerprint(request: IngestRequest, plan: IngestPlan) -> str:
    """Equal for two ingests that would write the same channel."""
    facts = [
        plan.channel,
        plan.image_channel,
        plan.kind,
        request.compression,
        request.uint16_as_int16,
        plan.image,
        plan.dtype.str,
        plan.space.world_from_voxel.tolist(),
        plan.acquisition,
        plan.sides,
        [asdict(level) for level in plan.levels],
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
