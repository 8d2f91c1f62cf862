"""The three views of a channel: middle slices or projections across R, A and S, with square pixels in world geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.export import ExportRequest, native_space, plan_export, plan_pieces, read_volume
from lsfm_core.geometry import Orientation, Space, Triple
from lsfm_core.preview.request import PreviewRequest
from lsfm_core.progress import Progress
from lsfm_core.pyramid import Kind
from lsfm_core.resample import resample
from lsfm_core.store import Channel, LsfmFile

__all__ = ["View", "export_request", "extent", "read_values", "read_views"]

Array = npt.NDArray[Any]

#: A voxel may be so much longer than a pixel: nobody sees it, and the next finer level would be up to eight times as much to read.
_VOXEL_PER_PIXEL = 1.5


@dataclass(frozen=True, eq=False)
class View:
    """One view of a channel.

    Attributes
    ----------
    across : int
        World axis that it looks along: 0, 1, 2 for R, A, S.
    space : Space
        Its pixels: a RAS grid of one voxel across.
    values : array (rows, columns)
        Rows from the top, that is from the far end of the later world axis; of displacement vectors their lengths, of components
        red, green and blue along a last axis, or their mean where they are no colours.
    level : int
        Pyramid level that was read.
    """

    across: int
    space: Space
    values: Array
    level: int

    @property
    def letters(self) -> dict[str, str]:
        """Which side of the body each edge is toward."""
        near, far = self.space.orientation.origin_letters.upper(), self.space.orientation.axcodes
        column, row = (axis for axis in range(3) if axis != self.across)
        return {"left": near[column], "right": far[column], "bottom": near[row], "top": far[row]}


def extent(file: LsfmFile, name: str, request: PreviewRequest) -> Triple:
    """Extent of a channel along R, A, S, mm.

    Raises
    ------
    LsfmError
        If it is not there, or nothing tells how it lies.
    """
    return native_space(file, file[name], export_request(request, name)).bounds.size_mm


def read_views(file: LsfmFile, name: str, request: PreviewRequest, pixel_mm: float) -> tuple[View, ...]:
    """Views of a channel across R, A and S, through the middle of its own extent."""
    native = native_space(file, file[name], export_request(request, name))
    grid = Space.from_box(native.bounds, (pixel_mm,) * 3, Orientation("RAS"))
    return read_values(file, name, request, [_middle(grid, across) for across in range(3)])


def read_values(file: LsfmFile, name: str, request: PreviewRequest, spaces: Sequence[Space]) -> tuple[View, ...]:
    """Views of a channel across R, A and S, at given pixels; 0 where it has none."""
    channel = file[name]
    native = native_space(file, channel, export_request(request, name))
    if request.projection == "max":
        return _projections(file, channel, native, request, spaces)
    views = []
    for across, space in enumerate(spaces):
        box, pixel_mm = space.bounds, space.voxel_size_mm[0]
        if not box.meets(native.bounds):
            views.append(View(across, space, _picture(np.zeros(space.shape, channel.dtype), across), 0))
            continue
        piece = {"origin_mm": box.lower_mm, "size_mm": box.size_mm, "resolution_mm": pixel_mm}
        plan = plan_export(file, export_request(request, name, level=_level(channel, native, pixel_mm), **piece))
        voxels = read_volume(plan, Progress("preview", plan.output_bytes)).array
        views.append(View(across, space, _picture(_shown(voxels, channel.kind), across), plan.level.index))
    return tuple(views)


def _projections(
    file: LsfmFile, channel: Channel, native: Space, request: PreviewRequest, spaces: Sequence[Space]
) -> tuple[View, ...]:
    """What is seen through the whole channel, slab by slab; found in the voxels of a level, and then brought to the pixels."""
    pixel_mm = spaces[0].voxel_size_mm[0]
    is_labels = channel.kind == "labels"
    look = _first_seen if is_labels else _brightest
    plan = plan_pieces(file, export_request(request, channel.name, level=_level(channel, native, pixel_mm)), axis=2)
    report = Progress("preview", plan.output_bytes)
    (right, anterior, _), whole = plan.target.shape, plan.target
    from_side: list[Array] = []
    from_behind: list[Array] = []
    from_above: list[Array] = []
    for start, stop in plan.slabs:
        slab = _shown(read_volume(plan.crop((0, 0, start), (right, anterior, stop)), report).array, channel.kind)
        from_side.append(look(slab, 0))
        from_behind.append(look(slab, 1))
        from_above = [look(np.concatenate([*from_above, look(slab, 2)], axis=2), 2)]
    projections = (np.concatenate(from_side, axis=2), np.concatenate(from_behind, axis=2), from_above[0])
    views = []
    for across, seen in enumerate(projections):
        size = [whole.bounds.size_mm[axis] if axis == across else v for axis, v in enumerate(whole.voxel_size_mm)]
        # As one voxel that reaches through the whole, so that pixels find it wherever they lie across.
        source = Space.from_box(whole.bounds, size, whole.orientation)
        values = resample(seen, source, spaces[across], "nearest" if is_labels else "linear")
        views.append(View(across, spaces[across], _picture(values, across), plan.level.index))
    return tuple(views)


def _level(channel: Channel, native: Space, pixel_mm: float) -> int:
    """The coarsest level that shows all that pixels can."""
    spaces = [native.level(level.factors, level.shape[:3]) for level in channel.levels]
    enough = [index for index, space in enumerate(spaces) if max(space.voxel_size_mm) <= _VOXEL_PER_PIXEL * pixel_mm]
    return enough[-1] if enough else 0


def _brightest(voxels: Array, across: int) -> Array:
    brightest: Array = voxels.max(axis=across, keepdims=True)
    return brightest


def _first_seen(labels: Array, across: int) -> Array:
    """The first label from the right, from behind or from above, which is where the viewer of each view stands."""
    toward = labels if across == 1 else np.flip(labels, across)
    seen: Array = np.take_along_axis(toward, np.argmax(toward != 0, axis=across, keepdims=True), across)
    return seen


def _middle(grid: Space, across: int) -> Space:
    index = [n // 2 if axis == across else 0 for axis, n in enumerate(grid.shape)]
    return grid.crop(index, [i + 1 if axis == across else n for axis, (i, n) in enumerate(zip(index, grid.shape, strict=True))])


def _shown(voxels: Array, kind: Kind) -> Array:
    """Lengths of vectors; of components red, green and blue, or their mean; anything else as it is."""
    if voxels.ndim == 3:
        return voxels
    if kind == "vectors":
        lengths: Array = np.linalg.norm(voxels, axis=3).astype(voxels.dtype)
        return lengths
    if voxels.shape[3] in (3, 4) and voxels.dtype.name in ("uint8", "uint16"):
        return voxels[..., :3]
    mean: Array = voxels.mean(axis=3, dtype=np.float64)
    return (np.rint(mean) if voxels.dtype.kind in "ui" else mean).astype(voxels.dtype)


def _picture(thin: Array, across: int) -> Array:
    """Rows from the top, columns: of a RAS array that is one voxel across."""
    rows: Array = np.swapaxes(thin.take(0, across), 0, 1)[::-1]
    return rows


def export_request(request: PreviewRequest, name: str, **fields: Any) -> ExportRequest:
    """An export of a channel as a preview takes it."""
    return ExportRequest(path=request.path, channel=name, orientation=request.orientation, timepoint=request.timepoint, **fields)
