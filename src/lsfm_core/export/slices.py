"""Single planes: as files, one each, or one by one to whoever asks for the next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from lsfm_core.durable import new_files_in_folder
from lsfm_core.errors import InputError
from lsfm_core.export._files import check_room, numbered
from lsfm_core.export.channel import open_logged, open_planned, read_volume
from lsfm_core.export.plan import ExportPlan, plan_pieces
from lsfm_core.export.request import ExportRequest
from lsfm_core.formats import check_plane, write_plane
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.provenance import LoggedFile, logged_files
from lsfm_core.store import LsfmFile

__all__ = ["SlicesRequest", "SlicesResult", "export_slices", "iter_slices", "plan_slices"]

Array = npt.NDArray[Any]


class SlicesRequest(ExportRequest):
    """Planes of what an `ExportRequest` gives, of which all fields hold.

    Attributes
    ----------
    axis : int
        Array axis of the result that the planes are across: 0, 1 or 2.
    start, stop, step : int, optional
        Which planes, as in a Python slice. Default: all.
    roi : tuple of 4 int, optional
        ox, oy, sx, sy: first column, first row, columns and rows of the planes that are kept.
    output : Path, optional
        ``slices/s_%04d.tif`` or ``.png``; the number is the plane's index. Without it, use `iter_slices`.
    """

    axis: int = Field(default=0, ge=0, le=2)
    start: int | None = None
    stop: int | None = None
    step: int | None = Field(default=None, ge=1)
    roi: tuple[int, int, int, int] | None = None

    @model_validator(mode="after")
    def _check_slices(self) -> SlicesRequest:
        if self.grid is not None:
            raise InputError("grid: planes are not made of chunks")
        if self.roi is not None and (min(self.roi[:2]) < 0 or min(self.roi[2:]) < 1):
            raise InputError(f"roi: expected ox, oy (0 or more) and sx, sy (1 or more) in pixels, found {self.roi}")
        return self


@dataclass(frozen=True)
class SlicesResult:
    """What an export of slices gave.

    Attributes
    ----------
    plan : ExportPlan
        Of the whole.
    paths : tuple of Path
    shape : tuple of 2 int
        Rows and columns of each plane.
    seconds : float
    written : LoggedFile
        Size and checksum of the planes, as the log has them.
    """

    plan: ExportPlan
    paths: tuple[Path, ...]
    shape: tuple[int, int]
    seconds: float
    written: LoggedFile


def plan_slices(file: LsfmFile, request: SlicesRequest) -> ExportPlan:
    """The plan of the whole that planes are taken of.

    Raises
    ------
    LsfmError
        As `lsfm_core.export.plan_export`; also if there are no such planes, or their files cannot be named so.
    """
    plan = plan_pieces(file, request, request.axis)
    indices, *_ = _selection(plan, request)
    if request.output is not None:
        _names(plan, request.output, indices)
    return plan


def iter_slices(
    request: SlicesRequest,
    *,
    file: LsfmFile | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Iterator[tuple[int, Array]]:
    """Planes one by one, each with its index along the axis; made as they are asked for.

    A plane across axis 0 has axis 1 as rows and axis 2 as columns, and so on; components, if there are any, come last.

    Raises
    ------
    LsfmError
    """
    with open_planned(request, axis=request.axis, file=file) as (_, plan):
        yield from _planes(plan, request, progress, cancel)


def export_slices(
    request: SlicesRequest,
    *,
    file: LsfmFile | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> SlicesResult:
    """Write planes as files.

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    began = time.perf_counter()
    if request.output is None:
        raise InputError("slices: name the files (slices/s_%04d.tif), or use iter_slices to have the planes one by one")
    with open_logged("export-slices", request, axis=request.axis, file=file) as (_, plan, record):
        indices, rows, columns = _selection(plan, request)
        paths = _names(plan, request.output, indices)
        across = [size for axis, size in enumerate(plan.target.voxel_size_mm) if axis != request.axis]
        with new_files_in_folder(paths, request.overwrite) as partials:
            check_room(request.output, len(paths) * len(rows) * len(columns) * plan.dtype.itemsize * plan.components)
            for partial, (_, plane) in zip(partials, _planes(plan, request, progress, cancel), strict=True):
                write_plane(partial, plane, pixel_size_mm=(across[0], across[1]), overwrite=False)
        record.output = written = logged_files(request.output, paths)
    return SlicesResult(plan, tuple(paths), (len(rows), len(columns)), time.perf_counter() - began, written)


def _planes(
    plan: ExportPlan, request: SlicesRequest, progress: ProgressCallback | None, cancel: CancelToken | None
) -> Iterator[tuple[int, Array]]:
    indices, rows, columns = _selection(plan, request)
    report = Progress("slices", len(indices) * len(rows) * len(columns) * plan.dtype.itemsize * plan.components, progress, cancel)
    low, high = [rows.start, columns.start], [rows.stop, columns.stop]
    low.insert(request.axis, 0)
    high.insert(request.axis, 0)
    for slab in plan.slabs:
        # Planes of one slab lie in the same chunks: with few left out between them they are made together.
        wanted = [index for index in indices if slab[0] <= index < slab[1]]
        if not wanted:
            continue
        groups = [range(wanted[0], wanted[-1] + 1)] if indices.step <= 2 else [range(index, index + 1) for index in wanted]
        for group in groups:
            low[request.axis], high[request.axis] = group.start, group.stop
            planes = np.moveaxis(read_volume(plan.crop(low, high), report).array, request.axis, 0)
            for index, plane in zip(group, planes, strict=True):
                if index in indices:
                    yield index, plane
                    report.advance(0)


def _names(plan: ExportPlan, pattern: Path, indices: range) -> list[Path]:
    check_plane(pattern, plan.dtype)
    paths = [numbered(pattern, [index]) for index in indices]
    if len(set(paths)) < len(paths):
        raise InputError(f"{pattern}: gives several planes the same name")
    return paths


def _selection(plan: ExportPlan, request: SlicesRequest) -> tuple[range, range, range]:
    """Indices of the planes, and of their rows and columns."""
    shape = list(plan.target.shape)
    indices = range(shape.pop(request.axis))[slice(request.start, request.stop, request.step)]
    rows, columns = range(shape[0]), range(shape[1])
    if not indices:
        raise InputError(
            f"{plan.name}: no plane is in the range {request.start}, {request.stop}, {request.step}: axis {request.axis} has "
            f"{plan.target.shape[request.axis]}"
        )
    if request.roi is not None:
        ox, oy, sx, sy = request.roi
        if ox + sx > len(columns) or oy + sy > len(rows):
            raise InputError(
                f"{plan.name}: the roi reaches to column {ox + sx} and row {oy + sy}; the planes have {len(columns)} columns and "
                f"{len(rows)} rows"
            )
        rows, columns = rows[oy : oy + sy], columns[ox : ox + sx]
    return indices, rows, columns
