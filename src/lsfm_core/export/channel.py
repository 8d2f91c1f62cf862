"""Carrying an export out: to an array, a file, or piece by piece to whoever asks for the next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lsfm_core.errors import InputError
from lsfm_core.export._blocks import iter_blocks, iter_slabs
from lsfm_core.export.plan import ExportPlan, plan_export, plan_pieces
from lsfm_core.export.request import ExportRequest
from lsfm_core.export.volume import Volume
from lsfm_core.formats import open_sink
from lsfm_core.geometry import Shape3
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.store import ChunkCache, LsfmFile, open_lsfm

__all__ = ["ExportResult", "export_blocks", "export_channel", "open_planned", "read_volume", "write_volume"]


@dataclass(frozen=True)
class ExportResult:
    """What an export gave.

    Attributes
    ----------
    plan : ExportPlan
    volume : Volume or None
        The voxels, where no output was named.
    path : Path or None
        The file that was written.
    seconds : float
    """

    plan: ExportPlan
    volume: Volume | None
    path: Path | None
    seconds: float


def export_channel(
    request: ExportRequest, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> ExportResult:
    """Carry a request out: the voxels come back, or stand in the output when the call is over.

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    if request.grid is not None:
        raise InputError("grid: many pieces are no single export: use export_chunks, or iter_chunks to have them one by one")
    began = time.perf_counter()
    with open_planned(request) as (_, plan):
        report = Progress("export", plan.output_bytes, progress, cancel)
        if request.output is None:
            volume = read_volume(plan, report)
        else:
            volume = None
            write_volume(plan, request.output, report, overwrite=request.overwrite)
    return ExportResult(plan, volume, request.output, time.perf_counter() - began)


def export_blocks(
    request: ExportRequest, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
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
    with open_planned(request, axis=2) as (_, plan):
        report = Progress("export", plan.output_bytes, progress, cancel)
        for start, values in iter_blocks(plan, report):
            stop = [a + n for a, n in zip(start, values.shape[:3], strict=True)]
            yield start, Volume(values, plan.target.crop(start, stop), plan.kind)


@contextmanager
def open_planned(request: ExportRequest, *, axis: int | None = None) -> Iterator[tuple[LsfmFile, ExportPlan]]:
    """The file of a request, open, and the plan for it: for one result, or in pieces along `axis` of which none is kept."""
    cache = ChunkCache(0)
    with open_lsfm(request.path, cache=cache) as file:
        plan = plan_export(file, request) if axis is None else plan_pieces(file, request, axis)
        cache.max_bytes = plan.cache_bytes
        yield file, plan


def read_volume(plan: ExportPlan, progress: Progress) -> Volume:
    """The result in memory."""
    # In the order of NIfTI files and nibabel: the first axis runs fastest.
    array: np.ndarray[Any, Any] = np.empty(plan.image.shape, plan.dtype, order="F")
    for _ in iter_slabs(plan, progress, array):
        pass
    return Volume(array, plan.target, plan.kind)


def write_volume(plan: ExportPlan, path: Path, progress: Progress, *, overwrite: bool) -> None:
    """The result in a file, in the format that its name says."""
    with open_sink(path, plan.image, overwrite=overwrite, threads=plan.threads) as sink:
        for slab in iter_slabs(plan, progress):
            sink.write(slab)
