"""A request and an open file become a plan: every decision of an export, made before anything runs, and ready to be shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError, MemoryBudgetError
from lsfm_core.export._files import check_not_read
from lsfm_core.export._majority import cover_of, samples_of
from lsfm_core.export._names import named_files, native_space, open_chain, reference_space, with_way
from lsfm_core.export._region import RegionMask, find_region
from lsfm_core.export._spaces import check_spaces
from lsfm_core.export.request import ExportRequest, Method, three
from lsfm_core.formats import OutputImage, check_output, output_memory, output_notes
from lsfm_core.geometry import Box, Orientation, Reorientation, Shape3, Space, Triple, voxel_count
from lsfm_core.progress import CancelToken, size_text
from lsfm_core.pyramid import Kind, LevelPlan, plan_levels
from lsfm_core.resample import LOOPS_BYTES, Interpolation, is_worth_loops, itk_bytes_per_voxel
from lsfm_core.store import Channel, Level, LsfmFile
from lsfm_core.threads import default_threads
from lsfm_core.transforms import DisplacementField, InverseField, Transform, TransformChain

__all__ = ["CopyPlan", "ExportPlan", "chunk_voxels", "lattice", "plan_export", "plan_pieces", "plan_view"]

#: The interpreter, numpy, HDF5, SimpleITK and the decoders, before any image data.
BASE_BYTES = 160 * 2**20
#: Voxels of a block that is resampled at once: small beside the budget, large beside its margins.
_BLOCK_VOXELS = 2**20
_COUNTED = ("planes", "rows", "columns")
#: A block of the result that needs no more than this of everything can always be made.
_LEAST_BLOCK_BYTES = 4 * 2**20
# Points along each axis at which a chain is tried before it runs.
_PROBES = 9
#: Of what is only looked at: what viewers and arrays can count.
_MOST_PLANES = 2**31


@dataclass(frozen=True)
class CopyPlan:
    """Where the result's voxels are the level's own: transposed and flipped, from some voxel on."""

    reorientation: Reorientation
    offset: Shape3


@dataclass(frozen=True)
class ExportPlan:
    """What an export will do, decided before it starts.

    Attributes
    ----------
    path : Path
    channel : str
    kind : {"image", "labels", "vectors", "components"}
    level : Level
        That is read.
    timepoint : int or None
        BigDataViewer's number of the time at which it is read; None where the channel was imaged once.
    source : Space
        Of the level, in the orientation that the export works with.
    reduction : tuple of 3 int
        Voxels of the level, per axis, that become one before interpolation.
    chain : TransformChain
        From the image outward; empty where the result lies in the image's own world.
    target : Space
        Of the result.
    copy : CopyPlan or None
        Set where voxels are copied; None where they are interpolated.
    method : {"linear", "nearest", "bspline", "mode"}
    loops : bool
        Whether compiled loops interpolate; else ITK does, with the same values.
    fill : float
        Value of voxels where the image has none.
    region : RegionMask or None
        What is left of the box when it is masked, and of which labels.
    remarks : tuple of str
        Facts about the request that are not as one may think: which region is meant, sizes that are not whole voxels.
    axis : int
        Axis of the result along which slabs are made one after the other.
    slabs : tuple of (int, int)
        Their ranges along that axis.
    block : tuple of 3 int
        Voxels of the result that are made at once.
    threads : int
        Blocks that are made at the same time.
    memory_bytes : int
        The budget.
    block_bytes, cache_bytes : int
        Memory for each of these, and for decoded chunks that neighbouring blocks share.
    peak_bytes : int
        Estimate of the process' largest resident size; below the budget.
    read_bytes : int
        Estimate of what is read of the level, decoded.
    warnings : tuple of str
        What the user should look at.
    """

    path: Path
    channel: str
    kind: Kind
    level: Level
    timepoint: int | None
    source: Space
    reduction: Shape3
    chain: TransformChain
    target: Space
    copy: CopyPlan | None
    method: Method
    loops: bool
    fill: float
    region: RegionMask | None
    remarks: tuple[str, ...]
    axis: int
    slabs: tuple[tuple[int, int], ...]
    block: Shape3
    threads: int
    memory_bytes: int
    block_bytes: int
    cache_bytes: int
    peak_bytes: int
    read_bytes: int
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        """File and channel, for messages."""
        return f"{self.path}: channel {self.channel!r}"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the result, which is the image's own."""
        return self.level.dtype

    @property
    def components(self) -> int:
        """Values per voxel."""
        return self.level.shape[3] if len(self.level.shape) > 3 else 1

    @property
    def interpolation(self) -> Interpolation:
        """How values between voxels are found."""
        return "nearest" if self.method == "mode" else self.method

    @property
    def samples(self) -> Shape3:
        """Into how many points a voxel of the result is divided, where its axes are not the image's, to count ids."""
        return samples_of(self.source, self.chain, self.target)

    def _majority(self) -> str:
        cover = cover_of(self.source, self.chain, self.target)
        if cover is None:
            what = f"the nearest ids of {_by(self.samples)} points in each voxel"
        else:
            sizes = " x ".join(f"{size:.4g}" for size in (abs(cover.steps[cover.axes.index(axis)]) for axis in range(3)))
            what = f"the {sizes} voxels of level {self.level.index} that each voxel covers, by the volume shared"
        return f"most frequent id of {what}; of equally frequent ones the smallest"

    @property
    def image(self) -> OutputImage:
        """The result, as output formats see it."""
        return OutputImage(self.target, self.dtype, self.kind, self.components, self.channel)

    @property
    def output_bytes(self) -> int:
        """Size of the result's voxels."""
        return voxel_count(self.target.shape) * self.dtype.itemsize * self.components

    @property
    def block_count(self) -> int:
        """How many blocks are made."""
        along = [-(-n // b) for n, b in zip(self.target.shape, self.block, strict=True)]
        along[self.axis] = sum(-(-(stop - start) // self.block[self.axis]) for start, stop in self.slabs)
        return voxel_count(along)

    def describe(self) -> str:
        """The plan in words, one fact per line."""
        target, size = self.target, self.target.bounds.size_mm
        how = "transposed and flipped only, every voxel value is kept"
        if self.copy is None:
            averaged = [f"{n} {what}" for n, what in zip(self.reduction, _COUNTED, strict=True) if n > 1]
            reduced = f"averaged first, each {' x '.join(averaged)} to one, then " if averaged else ""
            how = self._majority() if self.method == "mode" else f"{reduced}{self.interpolation} interpolation"
        components = f" of {self.components} components" if self.components > 1 else ""
        when = "" if self.timepoint is None else f" of timepoint {self.timepoint}"
        stored = f"{_by(self.source.shape)} voxels of {_mm(self.source.voxel_size_mm)}"
        lines = [
            f"reads   level {self.level.index}{when}: {stored}, {size_text(self.read_bytes)} of it",
            f"        {self.source.orientation.describe()}",
            *(f"through {line}" for line in self.chain.describe().splitlines() if self.chain.transforms),
            *self.remarks,
            f"makes   {_by(target.shape)} voxels of {_mm(target.voxel_size_mm)}, {self.dtype}{components}, {target.orientation}",
            f"extent  {size[0]:.3f} x {size[1]:.3f} x {size[2]:.3f} mm (R, A, S): {target.bounds}",
            f"how     {how}",
            f"size    {size_text(self.output_bytes)} uncompressed, in {self.block_count} block(s) of {len(self.slabs)} slab(s)",
            f"memory  at most {size_text(self.peak_bytes)}",
            *(f"warning {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)

    def crop(self, starts: Sequence[int], stops: Sequence[int]) -> ExportPlan:
        """The plan for a box of the result's voxels: the same voxels with the same values."""
        copy = self.copy
        if copy is not None:
            i, j, k = (a + b for a, b in zip(copy.offset, starts, strict=True))
            copy = CopyPlan(copy.reorientation, (i, j, k))
        target = self.target.crop(starts, stops)
        a, b, c = (min(n, size) for n, size in zip(self.block, target.shape, strict=True))
        slabs = _slabs(target.shape[self.axis], self.block[self.axis])
        part = replace(self, target=target, copy=copy, block=(a, b, c), slabs=slabs)
        return replace(part, read_bytes=_read_bytes(part))


def plan_export(file: LsfmFile, request: ExportRequest, *, keep: bool = False, cancel: CancelToken | None = None) -> ExportPlan:
    """Decide everything about an export.

    Parameters
    ----------
    file : LsfmFile
    request : ExportRequest
    keep : bool
        Whether the voxels are kept in memory although an output is named.
    cancel : CancelToken, optional
        Stops the search for a region, which may read much.

    Raises
    ------
    CancelledError
    LsfmError
        `UnknownChannelError`, `InputError` for a request that this file cannot serve, `MemoryBudgetError`, and what can be known
        beforehand of the output: `ExistsError`, `StorageError`.
    """
    plan = _decide(file, request, cancel)
    if request.output is not None:
        check_not_read(request.output, named_files(file, request, request.reference))
    sink = 0
    if request.output is not None and request.grid is None:
        plan = replace(plan, axis=check_output(request.output, plan.image, overwrite=request.overwrite))
        plan = replace(plan, warnings=(*plan.warnings, *output_notes(request.output, plan.image)))
        sink = output_memory(request.output, plan.image, request.memory_bytes)
    keeps = keep or (request.output is None and request.grid is None)
    return _with_memory(plan, result_bytes=plan.output_bytes if keeps else 0, sink_bytes=sink)


def plan_pieces(file: LsfmFile, request: ExportRequest, axis: int) -> ExportPlan:
    """The plan of an export whose result goes away piece by piece, in slabs along `axis`; raises as `plan_export`."""
    plan = replace(_decide(file, request), axis=axis)
    if request.grid is None:
        return _with_memory(plan)
    # Of its pieces the first is as large as any.
    reorientation = plan.target.reorientation_to(Orientation("RAS"))
    ras = plan.target.reoriented(reorientation)
    size = [min(n, limit) for n, limit in zip(chunk_voxels(ras.voxel_size_mm, request)[0], ras.shape, strict=True)]
    ranges = reorientation.source_ranges([0, 0, 0], size, plan.target.shape)
    piece = plan.crop([part.start for part in ranges], [part.stop for part in ranges])
    if request.output is None:
        # One that is used, and the next.
        return _with_memory(plan, result_bytes=2 * piece.output_bytes)
    sink = output_memory(request.output, piece.image, request.memory_bytes) if "%" in request.output.name else 0
    return _with_memory(plan, sink_bytes=sink)


def plan_view(
    file: LsfmFile, request: ExportRequest, *, chain: TransformChain | None = None, grid: Space | None = None
) -> list[tuple[LevelPlan, ExportPlan]]:
    """Plans of a request's voxels, and of coarser grids over the same extent, by the rule of a stored pyramid.

    Nothing of the result is kept, so its size does not count. Each reads the coarsest level that is at least as fine as itself.

    Parameters
    ----------
    file : LsfmFile
    request : ExportRequest
    chain : TransformChain, optional
        Instead of the request's transforms.
    grid : Space, optional
        Instead of the request's reference.

    Raises
    ------
    LsfmError
        As `plan_export`, but for memory.
    """
    request = with_way(file, request)
    finest = _decide(file, request, chain=chain, grid=grid)
    target = finest.target
    if max(target.shape) > _MOST_PLANES:
        raise InputError(
            f"{finest.name}: the grid would have {_by(target.shape)} voxels, and along no axis it may have more than 2^31: give a "
            "coarser resolution, or a smaller piece"
        )
    channel = _channel_at(file, request)[0]
    base = native_space(file, channel, request)
    levels = plan_levels(target.shape, target.voxel_size_mm, finest.dtype.itemsize)
    plans = [(levels[0], finest)]
    for level in levels[1:]:
        grid = target.level(level.factors, level.shape)
        source, space = _choose_level(channel, base, finest.chain, grid, request, finest.method)
        reduction = _means(space, finest.chain, grid, request, finest.method)
        plans.append((level, replace(finest, level=source, source=space, reduction=reduction, target=grid, copy=None)))
    return plans


def _channel_at(file: LsfmFile, request: ExportRequest) -> tuple[Channel, int]:
    """The channel of a request with the levels of the timepoint that is meant, and that."""
    channel = file[request.channel]
    timepoint = channel.timepoints[0] if request.timepoint is None else request.timepoint
    return replace(channel, levels=file.levels_at(channel.name, timepoint)), timepoint


def _decide(
    file: LsfmFile,
    request: ExportRequest,
    cancel: CancelToken | None = None,
    *,
    chain: TransformChain | None = None,
    grid: Space | None = None,
) -> ExportPlan:
    """All but how the work is divided; `chain` and `grid` stand in the place of the request's transforms and its reference."""
    request = with_way(file, request)
    channel, timepoint = _channel_at(file, request)
    name = f"{file.path}: channel {channel.name!r}"
    method = _method(name, channel, request)
    _check_fill(name, channel, request.fill)
    base = native_space(file, channel, request)
    warnings: tuple[str, ...] = ()
    # Of a chain that is no part of the file, nothing is recorded that could be checked.
    if chain is None:
        chain = open_chain(file, request)
        warnings = check_spaces(file, request)
    if grid is None and request.reference is not None:
        grid = reference_space(file, request.reference)
    first = _given_level(file, channel, request)
    start = base.level(first.factors, first.shape[:3])
    region = None
    if request.region is not None:
        whole = partial(_whole_grid, request, base, start, chain, grid, None)
        region = find_region(file, request, request.region, grid=whole, cancel=cancel)
    target = _target(file, request, base, start, chain, grid, region.box if region is not None else None)
    level, source = _choose_level(channel, base, chain, target, request, method)
    aligned = source.reorientation_to(target.orientation)
    copy = None
    offset = target.offset_in(source.reoriented(aligned)) if not chain.transforms else None
    if offset is not None:
        copy = CopyPlan(aligned, offset)
    elif request.snap:
        raise InputError(
            f"{name}: lies oblique, so that no cuboid along R, A and S can be copied from it: leave out --snap to interpolate, or "
            "copy all of it with --output-orientation native"
        )
    _check_meeting(name, chain, base, target)
    return ExportPlan(
        path=file.path,
        channel=channel.name,
        # Where nothing tells how the vectors are meant (lsfmpy's files), their components are taken out as they stand.
        kind="components" if channel.kind == "vectors" and channel.orientation is None else channel.kind,
        level=level,
        timepoint=timepoint if len(channel.timepoints) > 1 else None,
        source=source,
        reduction=(1, 1, 1) if copy is not None else _means(source, chain, target, request, method),
        chain=chain,
        target=target,
        copy=copy,
        method=method,
        loops=is_worth_loops(target, chain, "nearest" if method == "mode" else method),
        fill=request.fill,
        region=region if request.region is not None and request.region.mask else None,
        remarks=tuple(_remarks(request, region, target)),
        axis=2,
        slabs=((0, target.shape[2]),),
        block=target.shape,
        threads=request.threads or default_threads(),
        memory_bytes=request.memory_bytes,
        block_bytes=0,
        cache_bytes=0,
        peak_bytes=0,
        read_bytes=0,
        warnings=warnings,
    )


def _remarks(request: ExportRequest, region: RegionMask | None, target: Space) -> Iterator[str]:
    if region is not None:
        yield f"region  {region.describe()}"
    if request.origin_mm is not None and request.corner_mm is None:
        yield "origin  passed over: 0,0,0 chunks take all there is"
    if request.size_mm is None:
        return
    voxel = target.reoriented(target.reorientation_to(Orientation("RAS"))).voxel_size_mm
    what, found = "size  ", target.bounds.size_mm
    if request.grid is not None:
        size = chunk_voxels(voxel, request)[0]
        what, found = "chunks", (size[0] * voxel[0], size[1] * voxel[1], size[2] * voxel[2])
    if not np.allclose(found, three(request.size_mm), rtol=1e-4, atol=0):
        yield f"{what}  {_mm(found)}, not {_mm(three(request.size_mm))}: whole voxels of {_mm(voxel)}"


# --- what is made of the voxels -------------------------------------------------------------------------------------------------


def _method(name: str, channel: Channel, request: ExportRequest) -> Method:
    method = request.interpolation or ("nearest" if channel.kind == "labels" else "linear")
    if channel.kind == "labels" and method not in ("nearest", "mode"):
        raise InputError(f"{name}: holds labels, whose ids cannot be mixed: interpolation must be nearest or mode, not {method}")
    if channel.kind != "labels" and method == "mode":
        raise InputError(f"{name}: holds no labels: interpolation must be linear, nearest or bspline, not mode")
    if len(channel.levels[0].shape) > 3 and method == "bspline":
        raise InputError(f"{name}: has several values per voxel: interpolation must be linear or nearest, not bspline")
    if channel.kind == "vectors" and method != "linear":
        raise InputError(f"{name}: holds displacement vectors: interpolation must be linear, not {method}")
    return method


def _check_fill(name: str, channel: Channel, fill: float) -> None:
    dtype = channel.dtype
    if dtype.kind in "ui":
        limits = np.iinfo(dtype)
        fits = np.isfinite(fill) and fill == int(fill) and limits.min <= fill <= limits.max
    else:
        fits = not np.isfinite(fill) or abs(fill) <= float(np.finfo(dtype).max)
    if not fits:
        raise InputError(f"{name}: has voxels of type {dtype}, which cannot be {fill:g} (fill)")


# --- where the result lies ------------------------------------------------------------------------------------------------------


def _given_level(file: LsfmFile, channel: Channel, request: ExportRequest) -> Level:
    if request.level is None:
        return channel.levels[0]
    if request.level >= len(channel.levels):
        raise InputError(f"{file.path}: channel {channel.name!r} has levels 0 to {len(channel.levels) - 1}, not {request.level}")
    return channel.levels[request.level]


def _target(
    file: LsfmFile,
    request: ExportRequest,
    base: Space,
    source: Space,
    chain: TransformChain,
    reference: Space | None,
    region: Box | None,
) -> Space:
    """Grid of the result; `source` is the level whose voxel size holds where none is given."""
    resolution = three(request.resolution_mm) if request.resolution_mm is not None else None
    box = region
    if region is not None and request.region is not None:
        box = region.grown(request.region.margin_mm)
    if request.corner_mm is not None and request.size_mm is not None:
        box = Box(request.corner_mm, _add(request.corner_mm, three(request.size_mm)))
    whole = _whole_grid(request, base, source, chain, reference, box)
    if box is None:
        return whole
    if reference is not None:
        grid = whole.around(box)
    elif not whole.is_axis_aligned:
        raise InputError(
            f"{file.path}: a box has its faces across R, A and S, but the result would be oblique: choose an output orientation, "
            "such as RAS"
        )
    else:
        grid = Space.from_box(box, whole.voxel_size_mm, whole.orientation)
        if request.region is not None:
            # All of the region, on the voxels of the whole where these are given.
            grid = (whole if resolution is None else grid).around(box)
        elif request.snap:
            start = np.rint(whole.to_voxel([grid.world_from_voxel[:3, 3]])[0])
            grid = whole.crop(start, start + grid.shape)
    if request.region is not None:
        margin = request.region.margin_vox
        grid = grid.crop([-margin] * 3, [n + margin for n in grid.shape])
    if request.grid is not None and request.grid != (0, 0, 0):
        ras = grid.reoriented(grid.reorientation_to(Orientation("RAS")))
        size, step = chunk_voxels(ras.voxel_size_mm, request)
        ras = ras.crop((0, 0, 0), [t * (count - 1) + s for s, t, count in zip(size, step, request.grid, strict=True)])
        return ras.reoriented(ras.reorientation_to(grid.orientation))
    return grid


def _whole_grid(
    request: ExportRequest, base: Space, source: Space, chain: TransformChain, reference: Space | None, box: Box | None
) -> Space:
    """Grid of everything: the reference's, the outermost displacement field's, or one around the image.

    Where nothing else tells, behind transforms, it is a grid in `box`.
    """
    resolution = three(request.resolution_mm) if request.resolution_mm is not None else None
    wanted = request.output_orientation
    orientation = Orientation("RAS" if wanted in (None, "native") else wanted)
    given = reference
    if given is not None:
        if wanted in (None, "native"):
            orientation = given.orientation
    elif chain.domain is not None and request.corner_mm is None and (box is None or chain.domain.is_axis_aligned):
        given = chain.domain
    if given is not None:
        grid = given.reoriented(given.reorientation_to(orientation))
        return grid if resolution is None else grid.with_resolution(resolution)
    if chain.transforms:
        if resolution is None:
            axes = _carried(source, chain).reorientation_to(orientation).axes
            i, j, k = (source.voxel_size_mm[axis] for axis in axes)
            resolution = (i, j, k)
        return Space.from_box(box or _carried_box(base, chain), resolution, orientation)
    if wanted == "native":
        orientation = base.orientation
    aligned = source.reorientation_to(orientation)
    if not source.is_axis_aligned and wanted != "native":
        return Space.from_box(base.bounds, resolution or source.reoriented(aligned).voxel_size_mm, orientation)
    if resolution is None:
        return source.reoriented(aligned)
    return base.reoriented(base.reorientation_to(orientation)).with_resolution(resolution)


def _carried_box(base: Space, chain: TransformChain) -> Box:
    """The box around the outermost displacement field's domain, or around the image, as the affines outside of it carry it."""
    outer: list[Transform] = []
    start = base
    for transform in reversed(chain.transforms):
        if isinstance(transform, DisplacementField):
            start = transform.space
            break
        outer.append(transform)
    points = lattice(start)
    for transform in reversed(outer):
        points = transform.inverse().map_points(points)
    return Box.of(points)


def chunk_voxels(voxel_size_mm: Triple, request: ExportRequest) -> tuple[Shape3, Shape3]:
    """Voxels of a chunk, and from the beginning of one to that of the next, both along R, A, S.

    Raises
    ------
    InputError
        If the chunks would overlap altogether.
    """
    assert request.size_mm is not None
    voxel = np.asarray(voxel_size_mm)
    size = np.maximum(1, np.rint(np.round(three(request.size_mm) / voxel, 9))).astype(int)
    step = size - np.rint(np.round(three(request.overlap_mm) / voxel, 9)).astype(int)
    if step.min() < 1:
        raise InputError(
            f"overlap: {three(request.overlap_mm)} mm are all of a chunk at a voxel size of {_mm(voxel_size_mm)}: make it less"
        )
    (a, b, c), (d, e, f) = size.tolist(), step.tolist()
    return (a, b, c), (d, e, f)


def _carried(source: Space, chain: TransformChain) -> Space:
    """A voxel of the image as the chain's affine parts turn it."""
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.inv(chain.linear) @ source.world_from_voxel[:3, :3]
    return Space((1, 1, 1), affine)


def lattice(space: Space) -> npt.NDArray[np.float64]:
    """Points all over a grid, to its outer faces, RAS mm."""
    along = [np.linspace(-0.5, n - 0.5, _PROBES) for n in space.shape]
    return space.to_world(np.stack(np.meshgrid(*along, indexing="ij"), axis=-1).reshape(-1, 3))


# --- which voxels are read ------------------------------------------------------------------------------------------------------


def _choose_level(
    channel: Channel, base: Space, chain: TransformChain, target: Space, request: ExportRequest, method: Method
) -> tuple[Level, Space]:
    """The level that was asked for, or the coarsest that is at least as fine as the result along every axis; and its space."""
    if request.level is not None:
        chosen = channel.levels[request.level]
    elif method == "mode":
        # A coarser level holds the most frequent ids of the most frequent ones.
        chosen = channel.levels[0]
    else:
        ratio = _ratio(base, chain, target)
        fitting = [level for level in channel.levels if all(f <= r * (1 + 1e-6) for f, r in zip(level.factors, ratio, strict=True))]
        chosen = fitting[-1] if fitting else channel.levels[0]
    return chosen, base.level(chosen.factors, chosen.shape[:3])


def _ratio(source: Space, chain: TransformChain, target: Space) -> Triple:
    """How many voxels of the source, along each of its axes, one voxel of the result is away from the next."""
    steps = source.voxel_from_world[:3, :3] @ chain.linear @ target.world_from_voxel[:3, :3]
    a, b, c = np.linalg.norm(steps, axis=1)
    return float(a), float(b), float(c)


def _means(source: Space, chain: TransformChain, target: Space, request: ExportRequest, method: Method) -> Shape3:
    """How many voxels of the source, along each axis, become one before they are interpolated."""
    if not request.antialias or method in ("nearest", "mode"):
        return 1, 1, 1
    a, b, c = (int(r + 1e-6) if r > 2 + 1e-6 else 1 for r in _ratio(source, chain, target))
    return a, b, c


def _check_meeting(name: str, chain: TransformChain, base: Space, target: Space) -> None:
    """Refuse a chain that leads nowhere near the image: an inversion or the order is wrong, and all would be fill."""
    points = lattice(target)
    advice = "is a transform inverted that should not be, or not inverted that should, or their order wrong?"
    for transform in reversed(chain.transforms):
        if isinstance(transform, DisplacementField) and not Box.of(points).meets(transform.space.bounds):
            raise InputError(
                f"{name}: displacement field {transform.name!r} covers {transform.space.bounds}, but what is to be carried "
                f"through it lies in {Box.of(points)}: {advice}"
            )
        points = transform.map_points(points)
    if not Box.of(points).meets(base.bounds):
        through = f" Through the transforms it comes to {Box.of(points)}: {advice}" if chain.transforms else ""
        raise InputError(
            f"{name}: the result lies wholly outside of the image. Result: {target.bounds}; image: {base.bounds}.{through}"
        )


def _read_bytes(plan: ExportPlan) -> int:
    """Decoded bytes of the chunks that the result's box reaches into."""
    index = plan.source.to_voxel(plan.chain.map_points(lattice(plan.target)))
    voxels = plan.components
    for axis, chunk in enumerate(plan.level.data.chunks[:3]):
        size = plan.source.shape[axis]
        low, high = (int(np.clip(v, 0, size)) for v in (np.floor(index[:, axis].min()), np.ceil(index[:, axis].max()) + 1))
        voxels *= max(0, min(-(-high // chunk) * chunk, size) - low // chunk * chunk)
    return voxels * plan.dtype.itemsize


# --- how much memory it takes ---------------------------------------------------------------------------------------------------


def _with_memory(plan: ExportPlan, *, result_bytes: int = 0, sink_bytes: int = 0) -> ExportPlan:
    """The plan with slabs and blocks that stay within the budget, beside what the output's format takes."""
    budget = plan.memory_bytes
    shape, axis = plan.target.shape, plan.axis
    plane = plan.output_bytes // shape[axis]
    # Whatever the blocks: a large chunk is decoded as a whole, one at a time; and what the format takes.
    fixed = plan.level.data.decode_bytes + sink_bytes
    available = budget - BASE_BYTES - result_bytes - fixed
    if plan.loops and plan.copy is not None and plan.region is None:
        plan = replace(plan, loops=False)
    if plan.loops:
        # Where they leave too little for the voxels, ITK does the same in less memory.
        plan = replace(plan, loops=available >= 2 * LOOPS_BYTES)
        fixed += LOOPS_BYTES if plan.loops else 0
        available = budget - BASE_BYTES - result_bytes - fixed
    chunks = plan.level.data.chunks[:3]
    if plan.copy is not None and plan.region is None:
        threads, block_bytes = 1, 0
    else:
        threads = plan.threads
        block_bytes = max(_LEAST_BLOCK_BYTES, available // (3 * threads))
    block = _block_shape(shape, max(1, min(_BLOCK_VOXELS, block_bytes // _voxel_bytes(plan))))
    # Blocks that turn out to need more than a few times what is expected are halved: see `_blocks`.
    block_bytes = min(block_bytes, max(_LEAST_BLOCK_BYTES, 4 * voxel_count(block) * _voxel_bytes(plan)))
    if plan.copy is not None:
        source_axis = plan.copy.reorientation.axes[axis]
        wanted = chunks[source_axis]
    else:
        wanted = block[axis]
    # Three slabs are there at a time, of which one is used, one is ready and one is being made, and what a format makes of a slab;
    # what is left keeps decoded chunks.
    thickness = min(wanted, (available - threads * block_bytes) // (4 * plane))
    if thickness < 1:
        need = BASE_BYTES + result_bytes + fixed + 4 * plane + (threads * _LEAST_BLOCK_BYTES * 3 // 2 if block_bytes else 0)
        raise MemoryBudgetError(
            f"{plan.name}: this export needs at least {size_text(need)} of memory{_of_chunks(plan)}, {size_text(budget)} were "
            "given: raise the memory, " + ("name an output file, " if result_bytes else "") + "or take a coarser resolution"
        )
    first = 0
    if plan.copy is not None:
        # Slabs of copied voxels end where the source's chunks do, so that a chunk is decoded for one slab only.
        if thickness == wanted:
            start = plan.copy.offset[axis]
            first = (plan.source.shape[source_axis] - start if plan.copy.reorientation.flips[axis] else -start) % wanted
        if plan.region is None:
            block = shape
    size = [min(n, thickness) if k == axis else n for k, n in enumerate(block)]
    cache = max(0, available - threads * block_bytes - 4 * plane * thickness)
    read = _read_bytes(plan)
    return replace(
        plan,
        slabs=_slabs(shape[axis], thickness, first),
        block=(size[0], size[1], size[2]),
        block_bytes=block_bytes,
        cache_bytes=cache,
        peak_bytes=BASE_BYTES + result_bytes + fixed + threads * block_bytes + 4 * plane * thickness + min(cache, read),
        read_bytes=read,
    )


def _of_chunks(plan: ExportPlan) -> str:
    """What large chunks have to do with the memory, in words."""
    data = plan.level.data
    if not data.decode_bytes:
        return ""
    return (
        f" ({size_text(data.decode_bytes)} of it for one chunk of {_by(data.chunks)} voxels, which can only be decoded as a whole)"
    )


def _voxel_bytes(plan: ExportPlan) -> int:
    """What is expected to be held for one voxel of the result while it is made: it, what is read for it, and displacements."""
    itemsize = plan.dtype.itemsize * plan.components
    steps = voxel_count([max(1, round(r)) for r in _ratio(plan.source, plan.chain, plan.target)])
    own = itemsize + 5 * steps * itemsize + (8 if plan.region is not None else 0)
    if not plan.loops:
        return own + itk_bytes_per_voxel(plan.dtype, plan.interpolation) * plan.components + 24 * len(plan.chain.transforms)
    # Loops work in small pieces, and hold of a field what they need, which of a coarse one is next to nothing.
    fields = [step.space for step in plan.chain.transforms if isinstance(step, DisplacementField)]
    held = sum(min(1, 2 * plan.target.voxel_volume_mm3 / space.voxel_volume_mm3) for space in fields)
    inverses = sum(isinstance(step, InverseField) for step in plan.chain.transforms)
    return own + int(24 * (held + 6 * inverses)) + 8


def _slabs(size: int, thickness: int, first: int = 0) -> tuple[tuple[int, int], ...]:
    return tuple(pairwise(sorted({0, size, *range(first, size, thickness)})))


def _block_shape(shape: Sequence[int], voxels: int) -> Shape3:
    """About so many voxels, near a cube."""
    block = [1, 1, 1]
    while voxel_count(block) * 2 <= voxels and any(b < n for b, n in zip(block, shape, strict=True)):
        axis = min((k for k in range(3) if block[k] < shape[k]), key=lambda k: block[k])
        block[axis] *= 2
    a, b, c = (min(size, n) for size, n in zip(block, shape, strict=True))
    return a, b, c


def _add(a: Triple, b: Triple) -> Triple:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _by(values: tuple[Any, ...]) -> str:
    return " x ".join(str(v) for v in values)


def _mm(values: Triple) -> str:
    return " x ".join(f"{v:.6g}" for v in values) + " mm"
