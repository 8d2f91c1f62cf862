"""Carrying an export out: to an array, a file, or piece by piece to whoever asks for the next."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lsfm_core.arrays import ChunkCache
from lsfm_core.errors import InputError
from lsfm_core.export._blocks import iter_blocks, iter_slabs
from lsfm_core.export._names import named_files
from lsfm_core.export.plan import BASE_BYTES, ExportPlan, plan_export, plan_pieces
from lsfm_core.export.request import ExportRequest, TransformRequest
from lsfm_core.export.volume import Volume
from lsfm_core.formats import open_sink, output_paths
from lsfm_core.geometry import Shape3
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.provenance import Draft, LoggedFile, logged_files, recorded
from lsfm_core.store import LsfmFile, open_lsfm

__all__ = [
    "ExportResult",
    "export_blocks",
    "export_channel",
    "inputs_of",
    "open_logged",
    "open_planned",
    "opened",
    "read_volume",
    "write_volume",
]


@dataclass(frozen=True)
class ExportResult:
    """What an export gave.

    Attributes
    ----------
    plan : ExportPlan
    volume : Volume or None
        The voxels, where no output was named, or they were to be kept.
    path : Path or None
        The file that was written.
    seconds : float
    written : LoggedFile or None
        Size and checksum of what was written, as the log has them.
    """

    plan: ExportPlan
    volume: Volume | None
    path: Path | None
    seconds: float
    written: LoggedFile | None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should look at."""
        return self.plan.warnings


def export_channel(
    request: ExportRequest,
    *,
    file: LsfmFile | None = None,
    keep: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> ExportResult:
    """Carry a request out: the voxels come back, or stand in the output when the call is over.

    Parameters
    ----------
    request : ExportRequest
    file : LsfmFile, optional
        The request's file, where it is open already: several exports then share it, and the chunks that it has decoded.
    keep : bool
        Give the voxels back even if they stand in an output.
    progress : callable, optional
    cancel : CancelToken, optional

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    if request.grid is not None:
        raise InputError("grid: many pieces are no single export: use export_chunks, or iter_chunks to have them one by one")
    began = time.perf_counter()
    with open_logged("export", request, file=file, keep=keep) as (_, plan, record):
        report = Progress("export", plan.output_bytes, progress, cancel)
        volume = read_volume(plan, report) if keep or request.output is None else None
        if request.output is not None:
            slabs = iter_slabs(plan, report) if volume is None else [volume.array]
            write_volume(plan, request.output, slabs, overwrite=request.overwrite)
            record.output = logged_files(request.output, output_paths(request.output))
    return ExportResult(plan, volume, request.output, time.perf_counter() - began, record.output)


def export_blocks(
    request: ExportRequest,
    *,
    file: LsfmFile | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Iterator[tuple[Shape3, Volume]]:
    """The result block by block, for those who process more than memory holds; blocks are made as they are asked for.

    Yields
    ------
    start : tuple of 3 int
        Index of the block's first voxel in the whole result.
    block : Volume

    Raises
    ------
    LsfmError
    """
    with open_planned(request, axis=2, file=file) as (_, plan):
        report = Progress("export", plan.output_bytes, progress, cancel)
        for start, values in iter_blocks(plan, report):
            stop = [a + n for a, n in zip(start, values.shape[:3], strict=True)]
            yield start, Volume(values, plan.target.crop(start, stop), plan.kind)


@contextmanager
def open_planned(
    request: ExportRequest, *, axis: int | None = None, file: LsfmFile | None = None, keep: bool = False
) -> Iterator[tuple[LsfmFile, ExportPlan]]:
    """The file of a request, open, and the plan for it: for one result, or in pieces along `axis` of which none is kept."""
    with ExitStack() as stack:
        file = opened(request, file, stack)
        # A region is looked for while it is planned.
        with file.cache.limited(file.cache.max_bytes, request.memory_bytes - BASE_BYTES):
            plan = plan_export(file, request, keep=keep) if axis is None else plan_pieces(file, request, axis)
        stack.enter_context(file.cache.limited(plan.cache_bytes, request.memory_bytes - BASE_BYTES))
        yield file, plan


@contextmanager
def open_logged(
    operation: str, request: ExportRequest, *, axis: int | None = None, file: LsfmFile | None = None, keep: bool = False
) -> Iterator[tuple[LsfmFile, ExportPlan, Draft]]:
    """As `open_planned`, for what leaves an output: it is recorded in the file's log."""
    with ExitStack() as stack:
        if request.output is None:
            # What a program takes into its memory, piece after piece, leaves nothing whose origin would be asked for.
            draft = Draft(request.path, operation, request)
        else:
            draft = stack.enter_context(recorded(request.path, operation, request))
        file, plan = stack.enter_context(open_planned(request, axis=axis, file=file, keep=keep))
        draft.open(file.path, file.named_xml)
        draft.inputs = inputs_of(file, request, request.reference)
        yield file, plan, draft


def opened(request: TransformRequest, file: LsfmFile | None, stack: ExitStack) -> LsfmFile:
    """The file that was given open, or else the request's, until the stack ends."""
    if file is None:
        return stack.enter_context(open_lsfm(request.path, cache=ChunkCache(0)))
    if request.path.resolve() not in (file.path.resolve(), file.xml_path.resolve()):
        raise InputError(f"the request is for {request.path}, the open file is {file.path}")
    return file


def inputs_of(file: LsfmFile, request: TransformRequest, reference: str | None) -> list[LoggedFile]:
    """What a request reads, for the log."""
    own = LoggedFile(path=str(request.path), size=file.path.stat().st_size)
    return [own, *(logged_files(path, [path]) for path in named_files(file, request, reference))]


def read_volume(plan: ExportPlan, progress: Progress) -> Volume:
    """The result in memory."""
    # In the order of NIfTI files and nibabel: the first axis runs fastest.
    array: np.ndarray[Any, Any] = np.empty(plan.image.shape, plan.dtype, order="F")
    for _ in iter_slabs(plan, progress, array):
        pass
    return Volume(array, plan.target, plan.kind)


def write_volume(plan: ExportPlan, path: Path, slabs: Iterable[np.ndarray[Any, Any]], *, overwrite: bool) -> None:
    """The result in a file, in the format that its name says."""
    with open_sink(path, plan.image, overwrite=overwrite, threads=plan.threads, memory_bytes=plan.memory_bytes) as sink:
        for slab in slabs:
            sink.write(slab)
