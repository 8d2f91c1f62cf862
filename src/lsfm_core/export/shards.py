"""One shard of an export, of slices or of a region table: for jobs that know nothing of each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lsfm_core.errors import InputError
from lsfm_core.export._opened import open_logged
from lsfm_core.export.channel import divide_slabs
from lsfm_core.export.chunks import ChunkLayout, divide_chunks
from lsfm_core.export.measures import RegionTableRequest, divide_table, open_table
from lsfm_core.export.request import ExportRequest
from lsfm_core.export.slices import SlicesRequest, divide_slices, plan_for
from lsfm_core.formats import output_axis, output_notes
from lsfm_core.parallel import Divided, ShardResult
from lsfm_core.parallel import make_shard as make
from lsfm_core.progress import CancelToken, ProgressCallback
from lsfm_core.provenance import Draft, recorded
from lsfm_core.store import LsfmFile

__all__ = ["make_shard"]


def make_shard(
    request: ExportRequest | RegionTableRequest,
    *,
    file: LsfmFile | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> ShardResult:
    """Make one shard of the items that a request is divided into; who finds that none is missing any more joins all.

    What is there of it and as it was made stays. Beside the output a folder ``OUTPUT.lsfm-shards`` keeps what was made by whom;
    docs/clusters.md tells.

    Parameters
    ----------
    request : ExportRequest, SlicesRequest or RegionTableRequest
        With its `shard`.
    file : LsfmFile, optional
        The request's file, where it is open already.
    progress : callable, optional
    cancel : CancelToken, optional

    Raises
    ------
    InputError
        If shards of another request, of another number, or of a file that has changed since are there.
    ExistsError
        If an output is there that was not made by these shards.
    LsfmError
        What was made of the items is kept.
    """
    if request.shard is None:
        raise InputError("shard: say which part of the work to make, such as 2/3")
    if request.output is None:
        raise InputError("shard: its parts stand beside an output: name one")
    with _divided(request, file) as (divided, record):
        result = make(divided, request.shard, overwrite=request.overwrite, progress=progress, cancel=cancel)
        record.output = result.written
    return result


@contextmanager
def _divided(request: ExportRequest | RegionTableRequest, file: LsfmFile | None) -> Iterator[tuple[Divided, Draft]]:
    assert request.output is not None
    if isinstance(request, RegionTableRequest):
        # Whether the output may be replaced is asked when the work is known.
        unnamed = request.model_copy(update={"output": None})
        with recorded(request.path, "region-table", request) as record, open_table(unnamed, file, record) as (_, table):
            yield divide_table(table, request), record
    elif isinstance(request, SlicesRequest):
        with open_logged("export-slices", request, axis=request.axis, file=file) as (opened, whole, record):
            yield divide_slices(plan_for(opened, request, whole), request), record
    elif request.grid is not None:
        layout_name = ChunkLayout.pattern(request.output)
        with open_logged("export", request, axis=output_axis(layout_name), file=file) as (_, plan, record):
            yield divide_chunks(plan, request, ChunkLayout.of(plan, request, request.output)), record
    else:
        with open_logged("export", request, axis=output_axis(request.output), file=file) as (_, plan, record):
            divided = divide_slabs(plan, request)
            notes = output_notes(request.output, plan.image)
            yield divided.warned(notes), record
