"""Export: a request and an open file become a plan, which can be shown before it runs; running it gives an array or a file.

The result is made slab by slab along its last axis, each slab in blocks, so memory does not grow with the image.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from lsfm_core._request import Request
from lsfm_core.errors import ExistsError, InputError, MemoryBudgetError
from lsfm_core.formats import OutputImage, open_sink
from lsfm_core.geometry import Orientation, Reorientation, Shape3, Space, Triple, check_voxel_size, voxel_count
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.pyramid import block_mean
from lsfm_core.resample import Interpolation, resample
from lsfm_core.store import Channel, ChunkCache, Level, LsfmFile, default_threads, open_lsfm

__all__ = ["ExportPlan", "ExportRequest", "ExportResult", "Volume", "export_channel", "plan_export"]

Array = npt.NDArray[Any]

#: The interpreter, numpy, HDF5, SimpleITK and the decoders, before any image data.
_BASE_BYTES = 160 * 2**20
#: Voxels of a block that is resampled at once: small beside the budget, large beside its margins.
_BLOCK_VOXELS = 2**20


class ExportRequest(Request):
    """What to take out of a file, and how.

    Attributes
    ----------
    path : Path
        The file to read.
    channel : str
    output : Path, optional
        ``.nii`` or ``.nii.gz``. Without it the voxels come back as a `Volume`.
    level : int, optional
        Pyramid level to read; default: the coarsest that is at least as fine as the resolution.
    resolution_mm : float or tuple of 3 float, optional
        Voxel size of the result, one number or one for each of its axes. Default: that of the level.
    output_orientation : str
        Axis codes of the result, or ``"native"`` for the order in which the image is stored.
    orientation : str, optional
        How the stored image lies, for files that do not record it.
    interpolation : {"linear", "nearest"}, optional
        Default: nearest for labels, else linear.
    antialias : bool
        Whether a source that is finer than the result by more than a factor of 2 is reduced to block means first.
    overwrite : bool
        Whether `output` may be replaced.
    memory_bytes : int
        Bound of the process' resident size.
    threads : int, optional
        Default: the cores this process may use.
    """

    path: Path
    channel: str
    output: Path | None = None
    level: int | None = Field(default=None, ge=0)
    resolution_mm: float | tuple[float, float, float] | None = None
    output_orientation: str = "RAS"
    orientation: str | None = None
    interpolation: Interpolation | None = None
    antialias: bool = True
    overwrite: bool = False
    memory_bytes: int = Field(default=2 * 10**9, gt=0)
    threads: int | None = Field(default=None, gt=0)

    @field_validator("resolution_mm")
    @classmethod
    def _check_resolution(cls, value: float | Triple | None) -> float | Triple | None:
        three = _three(value)
        if three is not None:
            check_voxel_size(three, "resolution")
        return value

    @field_validator("orientation")
    @classmethod
    def _check_orientation(cls, value: str | None) -> str | None:
        return None if value is None else Orientation(value).axcodes

    @field_validator("output_orientation")
    @classmethod
    def _check_output_orientation(cls, value: str) -> str:
        return "native" if value.lower() == "native" else Orientation(value).axcodes


@dataclass(frozen=True)
class Volume:
    """An image in memory: voxels in array order, and where they are."""

    array: Array
    space: Space


@dataclass(frozen=True)
class ExportPlan:
    """What an export will do, decided before it starts.

    Attributes
    ----------
    level : Level
        That is read.
    source : Space
        Of the level, in the orientation that the export works with.
    reduction : tuple of 3 int
        Voxels of the level, per axis, that are averaged before interpolation.
    target : Space
        Of the result.
    reorientation : Reorientation or None
        Where the result's voxels are the level's own, transposed and flipped; None where they are interpolated.
    interpolation : {"linear", "nearest"}
    slabs : tuple of (int, int)
        Ranges of the result's last axis that are made one after the other.
    block : tuple of 3 int
        Voxels of the result that are interpolated at once.
    cache_bytes : int
        For decoded chunks that neighbouring blocks share.
    """

    level: Level
    source: Space
    reduction: Shape3
    target: Space
    reorientation: Reorientation | None
    interpolation: Interpolation
    slabs: tuple[tuple[int, int], ...]
    block: Shape3
    cache_bytes: int

    @property
    def output_bytes(self) -> int:
        """Size of the result's voxels."""
        return voxel_count(self.target.shape) * self.level.dtype.itemsize

    def describe(self) -> str:
        """The plan in words, one fact per line."""
        target, size = self.target, self.target.bounds.size_mm
        how = "transposed and flipped only, every voxel value is kept"
        if self.reorientation is None:
            reduced = "" if self.reduction == (1, 1, 1) else f"mean of {_by(self.reduction)} voxels, then "
            how = f"{reduced}{self.interpolation} interpolation"
        return "\n".join(
            (
                f"reads   level {self.level.index}: {_by(self.source.shape)} voxels of {_mm(self.source.voxel_size_mm)}",
                f"        {self.source.orientation.describe()}",
                f"makes   {_by(target.shape)} voxels of {_mm(target.voxel_size_mm)}, {self.level.dtype}, {target.orientation}",
                f"extent  {size[0]:.3f} x {size[1]:.3f} x {size[2]:.3f} mm (R, A, S): {target.bounds}",
                f"how     {how}",
                f"size    {self.output_bytes / 1e6:.1f} MB uncompressed, in {len(self.slabs)} slab(s)",
            )
        )


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


def plan_export(file: LsfmFile, request: ExportRequest) -> ExportPlan:
    """Decide everything about an export.

    Raises
    ------
    LsfmError
        `UnknownChannelError`, `InputError` for a request that this file cannot serve, `MemoryBudgetError`.
    """
    channel = file[request.channel]
    base = _oriented_space(file, channel, request)
    orientation = base.orientation if request.output_orientation == "native" else Orientation(request.output_orientation)
    resolution = _three(request.resolution_mm)
    level = _choose_level(file, channel, base, orientation, request)
    source = base.level(level.factors, level.shape[:3])
    aligned = source.reorientation_to(orientation)
    if not source.is_axis_aligned and request.output_orientation != "native":
        target = base.bounding_grid(resolution or source.reoriented(aligned).voxel_size_mm, orientation)
    elif resolution is None:
        target = source.reoriented(aligned)
    else:
        target = base.reoriented(base.reorientation_to(orientation)).with_resolution(resolution)
    copies = target.same_grid(source.reoriented(aligned))
    reduction: Shape3 = (1, 1, 1)
    kind: Interpolation = request.interpolation or ("nearest" if channel.kind == "labels" else "linear")
    if not copies and request.antialias and kind == "linear":
        reduction = _reduction(source, aligned, target)
    name = f"{file.path}: channel {channel.name!r}"
    return _plan_memory(
        name,
        level,
        source,
        reduction,
        target,
        aligned if copies else None,
        kind,
        request.memory_bytes,
        keeps_result=request.output is None,
    )


def export_channel(
    request: ExportRequest, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> ExportResult:
    """Carry a request out.

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    began = time.perf_counter()
    if request.output is not None and request.output.exists() and not request.overwrite:
        raise ExistsError(f"{request.output}: exists already: choose another name, or allow to overwrite it")
    cache = ChunkCache(0)
    with open_lsfm(request.path, cache=cache) as file:
        plan = plan_export(file, request)
        cache.max_bytes = plan.cache_bytes
        report = Progress("export", plan.output_bytes, progress, cancel)
        dtype = plan.level.dtype
        if request.output is None:
            # In the order of NIfTI files and nibabel: the first axis runs fastest.
            array = np.empty(plan.target.shape, dtype, order="F")
            for (start, stop), slab in zip(plan.slabs, _slabs(plan, report), strict=True):
                array[:, :, start:stop] = slab
            return ExportResult(plan, Volume(array, plan.target), None, time.perf_counter() - began)
        image = OutputImage(plan.target, dtype, file[request.channel].kind, name=request.channel)
        with open_sink(request.output, image, overwrite=request.overwrite, threads=request.threads or default_threads()) as sink:
            for slab in _slabs(plan, report):
                sink.write(slab)
    return ExportResult(plan, None, request.output, time.perf_counter() - began)


# --- decisions ------------------------------------------------------------------------------------------------------------------


def _three(resolution: float | Triple | None) -> Triple | None:
    return (resolution, resolution, resolution) if isinstance(resolution, (int, float)) else resolution


def _oriented_space(file: LsfmFile, channel: Channel, request: ExportRequest) -> Space:
    """Space of level 0, with the orientation from the request where the file has none."""
    if channel.kind == "vectors":
        raise InputError(f"{file.path}: channel {channel.name!r} holds displacement vectors, which cannot be exported as an image")
    if channel.orientation is not None:
        if request.orientation not in (None, channel.orientation.axcodes):
            raise InputError(
                f"{file.path}: channel {channel.name!r} is recorded as {channel.orientation}, the request says "
                f"{request.orientation}: leave the orientation out"
            )
        return channel.space
    if request.orientation is None:
        raise InputError(
            f"{file.path}: channel {channel.name!r} has no orientation recorded: give one (--orientation), three letters for "
            "planes, rows, columns, each the side toward which the index grows"
        )
    if channel.unit != "mm":
        raise InputError(f"{file.path}: channel {channel.name!r} has no voxel size in a unit of length: ingest it anew with one")
    return Space.from_orientation(channel.space.shape, channel.space.voxel_size_mm, Orientation(request.orientation))


def _choose_level(file: LsfmFile, channel: Channel, base: Space, orientation: Orientation, request: ExportRequest) -> Level:
    if request.level is not None:
        if request.level >= len(channel.levels):
            raise InputError(
                f"{file.path}: channel {channel.name!r} has levels 0 to {len(channel.levels) - 1}, not {request.level}"
            )
        return channel.levels[request.level]
    resolution = _three(request.resolution_mm)
    if resolution is None:
        return channel.levels[0]
    wanted = _in_array_order(base.reorientation_to(orientation), resolution)
    fitting = [
        level
        for level in channel.levels
        if all(v <= w * (1 + 1e-6) for v, w in zip(base.level(level.factors, level.shape[:3]).voxel_size_mm, wanted, strict=True))
    ]
    return fitting[-1] if fitting else channel.levels[0]


def _reduction(source: Space, aligned: Reorientation, target: Space) -> Shape3:
    wanted = _in_array_order(aligned, target.voxel_size_mm)
    ratio = [w / v for v, w in zip(source.voxel_size_mm, wanted, strict=True)]
    a, b, c = (int(r + 1e-6) if r > 2 + 1e-6 else 1 for r in ratio)
    return a, b, c


def _in_array_order(reorientation: Reorientation, values: Triple) -> Triple:
    """Numbers along the axes of a result, as numbers along the axes of its source."""
    out = [0.0, 0.0, 0.0]
    for axis, value in zip(reorientation.axes, values, strict=True):
        out[axis] = value
    return out[0], out[1], out[2]


def _plan_memory(
    name: str,
    level: Level,
    source: Space,
    reduction: Shape3,
    target: Space,
    reorientation: Reorientation | None,
    interpolation: Interpolation,
    budget: int,
    *,
    keeps_result: bool,
) -> ExportPlan:
    itemsize = level.dtype.itemsize
    plane = target.shape[0] * target.shape[1] * itemsize
    result = plane * target.shape[2] if keeps_result else 0
    block = _block_shape(target.shape)
    # A block: what is read, its reduced copy, ITK's copies in and out, and the rounding's temporaries.
    ratio = float(np.prod(target.voxel_size_mm)) / float(np.prod(source.voxel_size_mm))
    source_voxels = voxel_count(block) * max(1.0, ratio) * 1.5
    working = 0 if reorientation is not None else int(source_voxels * itemsize * 2 + voxel_count(block) * 24)
    available = budget - _BASE_BYTES - result - working
    chunks = level.data.chunks[:3]
    axis = (reorientation or source.reorientation_to(target.orientation)).axes[2]
    thickness = chunks[axis] if reorientation is not None else block[2]
    # A slab is there twice, as voxels and in the order of the file; half of the rest keeps decoded chunks.
    thickness = min(thickness, available // (4 * plane))
    if thickness < 1:
        need = budget - available + 4 * plane
        raise MemoryBudgetError(
            f"{name}: this export needs at least {need / 1e6:.0f} MB of memory, {budget / 1e6:.0f} MB were given: raise the "
            "memory, " + ("name an output file, " if keeps_result else "") + "or take a coarser resolution"
        )
    # Slabs end where the source's chunks do, so that a chunk is decoded for one slab only.
    offset = 0
    if reorientation is not None and reorientation.flips[2] and thickness == chunks[axis]:
        offset = target.shape[2] % thickness
    edges = sorted({0, target.shape[2], *range(offset, target.shape[2], thickness)})
    return ExportPlan(
        level=level,
        source=source,
        reduction=reduction,
        target=target,
        reorientation=reorientation,
        interpolation=interpolation,
        slabs=tuple(pairwise(edges)),
        block=(block[0], block[1], min(block[2], thickness)),
        cache_bytes=max(0, (available - 2 * plane * thickness) // 2),
    )


def _block_shape(shape: Shape3) -> Shape3:
    """About `_BLOCK_VOXELS` voxels, near a cube."""
    block = [1, 1, 1]
    while voxel_count(block) * 2 <= _BLOCK_VOXELS and any(b < n for b, n in zip(block, shape, strict=True)):
        axis = min((k for k in range(3) if block[k] < shape[k]), key=lambda k: block[k])
        block[axis] *= 2
    a, b, c = (min(size, n) for size, n in zip(block, shape, strict=True))
    return a, b, c


# --- work -----------------------------------------------------------------------------------------------------------------------


def _slabs(plan: ExportPlan, progress: Progress) -> Iterator[Array]:
    """The result in pieces along its last axis, in order."""
    shape = plan.target.shape
    for start, stop in plan.slabs:
        if plan.reorientation is not None:
            box = plan.reorientation.source_ranges((0, 0, start), (shape[0], shape[1], stop), plan.source.shape)
            slab = plan.reorientation.apply(plan.level[box].read())
        else:
            slab = np.empty((shape[0], shape[1], stop - start), plan.level.dtype, order="F")
            for i, j, k in product(
                range(0, shape[0], plan.block[0]), range(0, shape[1], plan.block[1]), range(start, stop, plan.block[2])
            ):
                ends = (min(i + plan.block[0], shape[0]), min(j + plan.block[1], shape[1]), min(k + plan.block[2], stop))
                block = _interpolated(plan, (i, j, k), ends)
                slab[i : ends[0], j : ends[1], k - start : ends[2] - start] = block
                progress.advance(0)
        yield slab
        progress.advance(slab.nbytes)


def _interpolated(plan: ExportPlan, starts: Shape3, stops: Shape3) -> Array:
    """One block of the result."""
    target = plan.target.crop(starts, stops)
    # The image that is interpolated: the level, or its block means.
    shape = tuple(-(-n // f) for n, f in zip(plan.source.shape, plan.reduction, strict=True))
    image = plan.source.level(plan.reduction, shape)
    corners = np.array(list(product(*[(0, n - 1) for n in target.shape])), dtype=np.float64)
    world = corners @ target.world_from_voxel[:3, :3].T + target.world_from_voxel[:3, 3]
    index = world @ image.voxel_from_world[:3, :3].T + image.voxel_from_world[:3, 3]
    # One voxel more than linear interpolation needs: rounding must not decide whether a voxel is there.
    low = [max(0, int(np.floor(v)) - 1) for v in index.min(axis=0)]
    high = [min(n, int(np.ceil(v)) + 2) for v, n in zip(index.max(axis=0), image.shape, strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return np.zeros(target.shape, plan.level.dtype)
    box = tuple(slice(a * f, min(b * f, n)) for a, b, f, n in zip(low, high, plan.reduction, plan.source.shape, strict=True))
    voxels = plan.level[box].read()
    if plan.reduction != (1, 1, 1):
        voxels = block_mean(voxels, plan.reduction)
    return resample(voxels, image.crop(low, high), _inward(target, plan.source), plan.interpolation)


def _inward(target: Space, source: Space) -> Space:
    """`target` drawn toward the source's centre by 1e-12 of its distance.

    A voxel whose centre lies exactly on the image's outer face (an extent of 13.5 voxels gives 14) is then inside for ITK, which
    counts one of the two faces as outside.
    """
    centre = np.add(source.bounds.lower_mm, source.bounds.upper_mm) / 2
    affine = target.world_from_voxel.copy()
    affine[:3, :3] *= 1 - 1e-12
    affine[:3, 3] += (centre - affine[:3, 3]) * 1e-12
    return Space(target.shape, affine)


def _by(values: tuple[Any, ...]) -> str:
    return " x ".join(str(v) for v in values)


def _mm(values: Triple) -> str:
    return " x ".join(f"{v:.6g}" for v in values) + " mm"
