"""Single planes: as files, one each, or one by one to whoever asks for the next."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from lsfm_core.durable import new_files_in_folder
from lsfm_core.errors import InputError
from lsfm_core.export._divided import (
    check_absent,
    files_of,
    logged_parts,
    put_part,
    refuse_shard,
    shared_plan,
    thickness_of,
)
from lsfm_core.export._files import check_room, numbered
from lsfm_core.export._look import Contrast, Shades, View, shades_for, view_of
from lsfm_core.export._opened import open_logged, open_planned
from lsfm_core.export.channel import read_volume
from lsfm_core.export.plan import ExportPlan, plan_pieces
from lsfm_core.export.request import ExportRequest
from lsfm_core.formats import check_plane, write_plane
from lsfm_core.parallel import Divided, Division, Item, Maker, Part, Share, make_with
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.provenance import LoggedFile, logged_files
from lsfm_core.store import LsfmFile

__all__ = [
    "SlicesPlan",
    "SlicesRequest",
    "SlicesResult",
    "divide_slices",
    "export_slices",
    "iter_slices",
    "plan_for",
    "plan_slices",
]

Array = npt.NDArray[Any]


class SlicesRequest(ExportRequest):
    """Planes of what an `ExportRequest` gives, of which all fields hold.

    Attributes
    ----------
    axis : int
        Array axis of the result that the planes are across: 0, 1 or 2.
    start, stop, step : int, optional
        Which planes, as in a Python slice. Default: all.
    as_stored : bool
        Give the planes of the result as they are: the first of the other two axes as rows. Else they are held as anatomists do it:
        superior up, in horizontal planes anterior; left at the left, in sagittal planes posterior.
    roi : tuple of 4 int, optional
        ox, oy, sx, sy: first column, first row, columns and rows of the planes that are kept, as they are held.
    contrast : "full" or tuple of 2 float, optional
        For PNG, which gets 8 bits: the values that become black and white; or all that the type can hold. Default: the channel's
        display range. TIFF keeps values, and labels get the colours of their table.
    output : Path, optional
        ``slices/s_%04d.tif`` or ``.png``; the number is the plane's index. Without it, use `iter_slices`.
    """

    axis: int = Field(default=0, ge=0, le=2)
    start: int | None = None
    stop: int | None = None
    step: int | None = Field(default=None, ge=1)
    as_stored: bool = False
    roi: tuple[int, int, int, int] | None = None
    contrast: Contrast = None

    @model_validator(mode="after")
    def _check_slices(self) -> SlicesRequest:
        if self.grid is not None:
            raise InputError("grid: planes are not made of chunks")
        if isinstance(self.contrast, tuple) and not 0 < self.contrast[1] - self.contrast[0] < inf:
            raise InputError(f"contrast: expected two numbers, of which the first is less, or full, found {self.contrast}")
        if self.contrast is not None and not _is_png(self.output):
            raise InputError("contrast: only PNG files get shades: TIFF keeps the values, leave it out")
        if self.roi is not None and (min(self.roi[:2]) < 0 or min(self.roi[2:]) < 1):
            raise InputError(f"roi: expected ox, oy (0 or more) and sx, sy (1 or more) in pixels, found {self.roi}")
        return self


@dataclass(frozen=True)
class SlicesPlan:
    """What an export of slices will do.

    Attributes
    ----------
    whole : ExportPlan
        Of what planes are taken of.
    indices : range
        Of the planes.
    rows, columns : range
        Of the pictures, as far as they are kept.
    view : View
        How planes are held.
    shades : Shades or None
        What values become; None where they stay.
    """

    whole: ExportPlan
    indices: range
    rows: range
    columns: range
    view: View
    shades: Shades | None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should look at."""
        return self.whole.warnings

    def describe(self) -> str:
        """The plan in words, one fact per line."""
        values = "as they are" if self.shades is None else self.shades.text
        size = f"{len(self.columns)} x {len(self.rows)} pixels"
        return f"{self.whole.describe()}\nplanes  {len(self.indices)} of {size}\nview    {self.view.text}\nvalues  {values}"


@dataclass(frozen=True)
class SlicesResult:
    """What an export of slices gave.

    Attributes
    ----------
    plan : SlicesPlan
    paths : tuple of Path
    shape : tuple of 2 int
        Rows and columns of each plane.
    seconds : float
    written : LoggedFile
        Size and checksum of the planes, as the log has them.
    """

    plan: SlicesPlan
    paths: tuple[Path, ...]
    shape: tuple[int, int]
    seconds: float
    written: LoggedFile

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should look at."""
        return self.plan.warnings


def plan_slices(file: LsfmFile, request: SlicesRequest) -> SlicesPlan:
    """Decide everything about an export of slices.

    Raises
    ------
    LsfmError
        As `lsfm_core.export.plan_export`; also if there are no such planes, or their files cannot be named so.
    """
    return plan_for(file, request, plan_pieces(file, request, request.axis))


def iter_slices(
    request: SlicesRequest,
    *,
    file: LsfmFile | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Iterator[tuple[int, Array]]:
    """Planes one by one, each with its index along the axis; made as they are asked for.

    They are held as the request says; components, if there are any, come last.

    Raises
    ------
    LsfmError
    """
    with open_planned(request, axis=request.axis, file=file) as (opened, plan):
        yield from _planes(plan_for(opened, request, plan), request.axis, progress, cancel)


def export_slices(
    request: SlicesRequest,
    *,
    file: LsfmFile | None = None,
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> SlicesResult:
    """Write planes as files.

    Parameters
    ----------
    request : SlicesRequest
    file : LsfmFile, optional
        The request's file, where it is open already.
    executor : concurrent.futures.Executor, optional
        Who makes the planes; docs/clusters.md tells what can be one. Default: threads of this process.
    progress : callable, optional
    cancel : CancelToken, optional

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    began = time.perf_counter()
    refuse_shard(request)
    if request.output is None:
        raise InputError("slices: name the files (slices/s_%04d.tif), or use iter_slices to have the planes one by one")
    with open_logged("export-slices", request, axis=request.axis, file=file) as (opened, whole, record):
        plan = plan_for(opened, request, whole)
        paths = _names(plan, request.output)
        if executor is not None:
            divided = divide_slices(plan, request)
            written = make_with(divided, executor, overwrite=request.overwrite, progress=progress, cancel=cancel)
        else:
            with new_files_in_folder(paths, request.overwrite) as partials:
                _check_room(plan, request.output, len(paths))
                for partial, (_, plane) in zip(partials, _planes(plan, request.axis, progress, cancel), strict=True):
                    _write(plan, request.axis, partial, plane)
            written = logged_files(request.output, paths)
        record.output = written
    shape = len(plan.rows), len(plan.columns)
    return SlicesResult(plan, tuple(paths), shape, time.perf_counter() - began, written)


def _check_room(plan: SlicesPlan, output: Path, planes: int) -> None:
    check_room(output, planes * _plane_bytes(plan))


def _plane_bytes(plan: SlicesPlan) -> int:
    return len(plan.rows) * len(plan.columns) * plan.whole.dtype.itemsize * plan.whole.components


def _write(plan: SlicesPlan, axis: int, path: Path, plane: Array) -> None:
    first, second = (size for k, size in enumerate(plan.whole.target.voxel_size_mm) if k != axis)
    pixels = plane if plan.shades is None else plan.shades.picture(plane)
    write_plane(path, pixels, pixel_size_mm=plan.view.turned((first, second)), overwrite=False)


@dataclass(frozen=True)
class _Planes(Division):
    request: SlicesRequest

    @contextmanager
    def opened(self, share: Share) -> Iterator[Maker]:
        request, axis = self.request, self.request.axis
        with shared_plan(request, share, axis) as (file, whole):
            plan = plan_for(file, request, whole)

            def make(item: Item, place: Path, cancel: CancelToken) -> list[Path]:
                own = replace(plan, indices=range(item.starts[axis], item.stops[axis], plan.indices.step))
                assert request.output is not None
                paths = [place / numbered(request.output, [index]).name for index in own.indices]
                for path, (_, plane) in zip(paths, _planes(own, axis, None, cancel), strict=True):
                    _write(plan, axis, path, plane)
                return paths

            yield make

    def inputs(self) -> list[Path]:
        return files_of(self.request)


def divide_slices(plan: SlicesPlan, request: SlicesRequest) -> Divided:
    """Planes that lie beside each other are an item."""
    assert request.output is not None
    output, axis = request.output, request.axis
    paths = _names(plan, output)

    def check(overwrite: bool) -> None:
        if not overwrite:
            check_absent(paths, lambda _: None)
        _check_room(plan, output, len(paths))

    def join(parts: Iterable[Part], overwrite: bool) -> LoggedFile:
        made = []
        with new_files_in_folder(paths, overwrite) as partials:
            rest = iter(partials)
            for part in parts:
                for source in part.paths:
                    put_part(source, next(rest))
                made.append(part)
        return logged_parts(output, paths, made)

    shape = plan.whole.target.shape
    whole_plane = plan.whole.output_bytes // shape[axis]
    each = thickness_of(len(plan.indices), whole_plane * plan.indices.step)
    items = []
    for number, first in enumerate(range(0, len(plan.indices), each)):
        own = plan.indices[first : first + each]
        low, high = [0, 0, 0], list(shape)
        low[axis], high[axis] = own[0], own[-1] + 1
        name = f"plane {own[0]}" if len(own) == 1 else f"planes {own[0]} to {own[-1]}"
        items.append(Item(number, name, tuple(low), tuple(high), len(own) * _plane_bytes(plan)))
    return Divided(
        operation="export-slices",
        request=request,
        plan=plan,
        division=_Planes(request.model_copy(update={"shard": None})),
        items=items,
        output=output,
        folder=output.parent,
        outputs=(),
        check=check,
        join=join,
        threads=request.threads,
        warnings=plan.warnings,
    )


def _planes(
    plan: SlicesPlan, axis: int, progress: ProgressCallback | None, cancel: CancelToken | None
) -> Iterator[tuple[int, Array]]:
    whole, indices = plan.whole, plan.indices
    pixels = len(indices) * len(plan.rows) * len(plan.columns)
    report = Progress("slices", pixels * whole.dtype.itemsize * whole.components, progress, cancel)
    shape = [size for index, size in enumerate(whole.target.shape) if index != axis]
    rows, columns = plan.view.plane_ranges(plan.rows, plan.columns, plan.view.turned((shape[0], shape[1])))
    low, high = [rows.start, columns.start], [rows.stop, columns.stop]
    low.insert(axis, 0)
    high.insert(axis, 0)
    for slab in whole.slabs:
        # Planes of one slab lie in the same chunks: with few left out between them they are made together.
        wanted = [index for index in indices if slab[0] <= index < slab[1]]
        if not wanted:
            continue
        groups = [range(wanted[0], wanted[-1] + 1)] if indices.step <= 2 else [range(index, index + 1) for index in wanted]
        for group in groups:
            low[axis], high[axis] = group.start, group.stop
            planes = np.moveaxis(read_volume(whole.crop(low, high), report).array, axis, 0)
            for index, plane in zip(group, planes, strict=True):
                if index in indices:
                    yield index, plan.view.picture(plane)
                    report.advance(0)


def plan_for(file: LsfmFile, request: SlicesRequest, whole: ExportPlan) -> SlicesPlan:
    """The plan of slices, of the plan for what they are taken of."""
    view = view_of(whole.target.orientation, request.axis, request.as_stored)
    indices, rows, columns = _selection(whole, request, view)
    # Vectors have no shades: the format refuses their type.
    shades = shades_for(file, whole, request.contrast) if _is_png(request.output) and whole.kind != "vectors" else None
    plan = SlicesPlan(whole, indices, rows, columns, view, shades)
    if request.output is not None:
        _names(plan, request.output)
    return plan


def _is_png(path: Path | None) -> bool:
    return path is not None and path.suffix.lower() == ".png"


def _names(plan: SlicesPlan, pattern: Path) -> list[Path]:
    shaded = plan.shades is not None and (plan.shades.limits is not None or plan.shades.table is not None)
    check_plane(pattern, np.dtype(np.uint8) if shaded else plan.whole.dtype)
    paths = [numbered(pattern, [index]) for index in plan.indices]
    if len(set(paths)) < len(paths):
        raise InputError(f"{pattern}: gives several planes the same name")
    return paths


def _selection(plan: ExportPlan, request: SlicesRequest, view: View) -> tuple[range, range, range]:
    """Indices of the planes, and of the rows and columns of their pictures."""
    shape = list(plan.target.shape)
    indices = range(shape.pop(request.axis))[slice(request.start, request.stop, request.step)]
    height, width = view.turned((shape[0], shape[1]))
    rows, columns = range(height), range(width)
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
