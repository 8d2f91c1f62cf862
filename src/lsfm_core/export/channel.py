"""Carrying an export out: to an array, a file, or piece by piece to whoever asks for the next."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lsfm_core.errors import ChecksumError, InputError
from lsfm_core.export._blocks import iter_blocks, iter_slabs
from lsfm_core.export._divided import ITEM_BYTES, files_of, refuse_shard, shared_plan, thickness_of
from lsfm_core.export._opened import open_logged, open_planned
from lsfm_core.export.plan import ExportPlan
from lsfm_core.export.request import ExportRequest
from lsfm_core.export.volume import Volume
from lsfm_core.formats import check_output, open_sink, output_axis, output_paths
from lsfm_core.geometry import Shape3
from lsfm_core.parallel import PASSING, Divided, Division, Item, Maker, Part, Share, crc_of, make_with
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.provenance import LoggedFile, logged_files
from lsfm_core.store import LsfmFile
from lsfm_core.threads import default_threads

__all__ = ["ExportResult", "divide_slabs", "export_blocks", "export_channel", "read_volume", "write_volume"]


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
    executor: Executor | None = None,
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
    executor : concurrent.futures.Executor, optional
        Who makes the voxels of an output; docs/clusters.md tells what can be one. Default: threads of this process.
    progress : callable, optional
    cancel : CancelToken, optional

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    if request.grid is not None:
        raise InputError("grid: many pieces are no single export: use export_chunks, or iter_chunks to have them one by one")
    refuse_shard(request)
    if executor is not None and (keep or request.output is None):
        raise InputError("executor: makes what stands in an output: name one, and do not keep the voxels")
    began = time.perf_counter()
    with open_logged("export", request, file=file, keep=keep) as (_, plan, record):
        if executor is not None:
            divided = divide_slabs(plan, request)
            record.output = make_with(divided, executor, overwrite=request.overwrite, progress=progress, cancel=cancel)
            return ExportResult(plan, None, request.output, time.perf_counter() - began, record.output)
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


def read_volume(plan: ExportPlan, progress: Progress) -> Volume:
    """The result in memory."""
    # In the order of NIfTI files and nibabel: the first axis runs fastest.
    return Volume(_read(plan, progress, "F"), plan.target, plan.kind)


def _read(plan: ExportPlan, progress: Progress, order: Literal["C", "F"]) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = np.empty(plan.image.shape, plan.dtype, order=order)
    for _ in iter_slabs(plan, progress, array):
        pass
    return array


def write_volume(plan: ExportPlan, path: Path, slabs: Iterable[np.ndarray[Any, Any]], *, overwrite: bool) -> None:
    """The result in a file, in the format that its name says."""
    with open_sink(path, plan.image, overwrite=overwrite, threads=plan.threads, memory_bytes=plan.memory_bytes) as sink:
        for slab in slabs:
            sink.write(slab)


# --- in items -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slabs(Division):
    request: ExportRequest
    axis: int

    @contextmanager
    def opened(self, share: Share) -> Iterator[Maker]:
        with shared_plan(self.request, share, self.axis, ITEM_BYTES) as (_, plan):

            def make(item: Item, place: Path, cancel: CancelToken) -> list[Path]:
                path = place / f"{item.number:07d}{PASSING}"
                report = Progress("export", 0, None, cancel)
                array = _read(plan.crop(item.starts, item.stops), report, "F" if self.axis == 2 else "C")
                with path.open("wb") as file:
                    np.save(file, array)
                return [path]

            yield make

    def inputs(self) -> list[Path]:
        return files_of(self.request)


def divide_slabs(plan: ExportPlan, request: ExportRequest) -> Divided:
    """Planes that lie beside each other are an item; the output, whose format takes them in order, is written by who joins."""
    assert request.output is not None
    output, axis = request.output, output_axis(request.output)

    def join(parts: Iterable[Part], overwrite: bool) -> LoggedFile:
        with open_sink(
            output, plan.image, overwrite=overwrite, threads=request.threads or default_threads(), memory_bytes=plan.memory_bytes
        ) as sink:
            for part in parts:
                sink.write(_slab_of(part))
                if part.shard is None:
                    part.paths[0].unlink()
        return logged_files(output, output_paths(output))

    size = plan.target.shape[axis]
    plane = plan.output_bytes // size
    each = thickness_of(size, plane)
    first = 0
    if plan.copy is not None:
        # Where voxels are copied, an item ends where the image's chunks do.
        source = plan.copy.reorientation.axes[axis]
        chunk = plan.level.data.chunks[source]
        each = each // chunk * chunk or each
        start = plan.copy.offset[axis]
        first = (plan.source.shape[source] - start if plan.copy.reorientation.flips[axis] else -start) % min(each, chunk)
    items = []
    for number, (start, stop) in enumerate(pairwise(sorted({0, size, *range(first, size, each)}))):
        low, high = [0, 0, 0], list(plan.target.shape)
        low[axis], high[axis] = start, stop
        items.append(Item(number, f"planes {start} to {stop - 1}", tuple(low), tuple(high), (stop - start) * plane))
    return Divided(
        operation="export",
        request=request,
        plan=plan,
        division=_Slabs(request.model_copy(update={"shard": None}), axis),
        items=items,
        output=output,
        folder=None,
        outputs=tuple(output_paths(output)),
        check=lambda overwrite: _check(plan, output, overwrite),
        join=join,
        threads=request.threads,
        warnings=plan.warnings,
    )


def _check(plan: ExportPlan, output: Path, overwrite: bool) -> None:
    check_output(output, plan.image, overwrite=overwrite)


def _slab_of(part: Part) -> np.ndarray[Any, Any]:
    """The voxels that an item has made, if its file is as it was then."""
    (path,) = part.paths
    data = path.read_bytes()
    if crc_of(data) != part.digests[0]:
        raise ChecksumError(f"{path}: {part.item.name}: is not as it was made by {part.host}")
    array: np.ndarray[Any, Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return array
