"""The work of an export form, for threads: what an export will give, how long it may take, and the export with its look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lsfm_core import (
    CancelledError,
    CancelToken,
    ExportPlan,
    ExportRequest,
    MemoryBudgetError,
    SourceError,
    Volume,
    export_channel,
    export_chunks,
    lay_out_chunks,
    open_lsfm,
    open_source,
    plan_export,
    size_text,
)
from lsfm_core.transforms import Affine

__all__ = ["Done", "Outlook", "by", "export_and_look", "look_ahead"]

#: Larger results stay on the disk.
_MAX_SHOWN_BYTES = 10**9
#: Seconds on one core, as measured on a mouse brain: per GB that is read and decoded, written, and compressed in each format; per
#: billion voxels of the result that are interpolated, or carried through a displacement field. Only roughly right elsewhere.
_BEGIN_S, _READ_S, _WRITE_S, _FIELD_S = 0.1, 12.0, 3.0, 400.0
_COMPRESS_S = {".nii.gz": 12.0, ".nrrd": 12.0, ".ome.zarr": 45.0}
_METHOD_S = {"nearest": 30.0, "linear": 60.0, "mode": 600.0, "bspline": 2000.0}
#: How much longer than that it took, since napari was started, for each way and format.
_slowness: dict[tuple[str, str], float] = {}


@dataclass(frozen=True)
class Outlook:
    """What a dry run tells."""

    plan: ExportPlan
    chunks: int | None
    suffix: str

    @property
    def text(self) -> str:
        """In words."""
        plan = self.plan
        parts = "" if self.chunks is None else f" in {self.chunks} block{'s' if self.chunks > 1 else ''}"
        where = {"": "in memory", **dict.fromkeys(_COMPRESS_S, "on disk before compression")}.get(self.suffix, "on disk")
        how = _way(plan)
        seconds = _guess_seconds(plan, self.suffix) * _slowness.get((how, self.suffix), 1)
        return (
            f"{by(plan.target.shape)} voxels{parts} of {by(plan.target.voxel_size_mm)} mm\n"
            f"{plan.dtype}, {plan.target.orientation}, {how}, level {plan.level.index} is read\n"
            f"{size_text(plan.output_bytes)} {where}\n"
            f"at most {size_text(plan.peak_bytes)} of memory, about {max(1, round(seconds))} s"
        )


@dataclass(frozen=True)
class Done:
    """What came of an export."""

    plan: ExportPlan
    volume: Volume | None
    said: str
    reference: Volume | None = None


def look_ahead(request: ExportRequest, cancel: CancelToken) -> Outlook:
    """A dry run."""
    with open_lsfm(request.path) as file:
        plan = plan_export(file, request, cancel=cancel)
        chunks = len(lay_out_chunks(plan.target, request)) if request.grid is not None else None
    return Outlook(plan, chunks, _suffix(request))


def export_and_look(request: ExportRequest, show: bool) -> Callable[..., Done]:
    """The work itself, for a thread."""

    def work(progress: Any, cancel: Any) -> Done:
        if request.grid is not None:
            chunks = export_chunks(request, progress=progress, cancel=cancel)
            _learn(request, chunks.plan, chunks.seconds)
            return Done(chunks.plan, None, f"{chunks.manifest.parent}: {chunks.count} blocks in {chunks.seconds:.1f} s")
        result = export_channel(request, progress=progress, cancel=cancel)
        plan, volume = result.plan, result.volume
        _learn(request, plan, result.seconds)
        said = (
            f"{plan.channel if result.path is None else result.path.name}: {size_text(plan.output_bytes)} in {result.seconds:.1f} s"
        )
        if show and volume is None and plan.output_bytes <= _MAX_SHOWN_BYTES:
            in_memory = request.model_copy(update={"output": None})
            try:
                volume = export_channel(in_memory, progress=lambda _, *rest: progress("show", *rest), cancel=cancel).volume
            except (CancelledError, MemoryBudgetError):
                # The file is there; only the look at it is not.
                said += "; not shown"
        shown = volume if volume is not None and volume.array.ndim == 3 else None
        return Done(plan, shown, said, None if shown is None else _read_reference(request, cancel))

    return work


def _read_reference(request: ExportRequest, cancel: CancelToken) -> Volume | None:
    """The image whose space a result was carried into, to be shown beneath it; None if there is none, or it is not to be seen."""
    if request.reference is None or not (request.transforms or request.to_space):
        return None
    with open_lsfm(request.path) as file:
        if request.reference in file:
            channel = file[request.reference]
            finest = channel.levels[0]
            is_seen = channel.kind != "vectors" and finest.data.nbytes <= _MAX_SHOWN_BYTES
            return Volume(np.asarray(finest.data), finest.space, channel.kind) if is_seen else None
    try:
        source = open_source(request.reference)
    except SourceError:
        # A displacement field can be a reference as well.
        return None
    with closing(source):
        nbytes = np.prod(source.shape, dtype=float) * source.dtype.itemsize
        if source.space is None or source.components > 1 or nbytes > _MAX_SHOWN_BYTES:
            return None
        array = np.empty(source.shape, source.dtype)
        for index, plane in enumerate(array):
            if cancel.cancelled:
                return None
            source.read_plane(index, plane)
        return Volume(array, source.space)


def _learn(request: ExportRequest, plan: ExportPlan, seconds: float) -> None:
    suffix = _suffix(request)
    _slowness[_way(plan), suffix] = seconds / _guess_seconds(plan, suffix)


def _way(plan: ExportPlan) -> str:
    return "copied" if plan.copy is not None else plan.method


def _guess_seconds(plan: ExportPlan, suffix: str) -> float:
    """How long an export takes, before anything was measured."""
    shared = plan.read_bytes * _READ_S + plan.output_bytes * _COMPRESS_S.get(suffix, 0)
    if plan.copy is None:
        fields = sum(not isinstance(transform, Affine) for transform in plan.chain.transforms)
        shared += np.prod(plan.target.shape, dtype=float) * (_METHOD_S[plan.method] + fields * _FIELD_S)
    return float(_BEGIN_S + 1e-9 * (shared / plan.threads + plan.output_bytes * _WRITE_S))


def _suffix(request: ExportRequest) -> str:
    if request.output is None:
        return ""
    name = request.output.name.lower()
    return next((suffix for suffix in _COMPRESS_S if name.endswith(suffix)), ".nii.gz" if request.grid else Path(name).suffix)


def by(values: Sequence[float]) -> str:
    """``2 x 3 x 4``."""
    return " x ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
