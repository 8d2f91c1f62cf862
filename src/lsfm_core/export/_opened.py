"""The file of a request, open, with the plan for it; recorded in the file's log where something is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from lsfm_core.arrays import ChunkCache
from lsfm_core.errors import InputError
from lsfm_core.export._names import named_files
from lsfm_core.export.plan import BASE_BYTES, ExportPlan, plan_export, plan_pieces
from lsfm_core.export.request import ExportRequest, TransformRequest
from lsfm_core.provenance import Draft, LoggedFile, logged_files, recorded
from lsfm_core.store import LsfmFile, open_lsfm

__all__ = ["inputs_of", "open_logged", "open_planned", "opened"]


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
