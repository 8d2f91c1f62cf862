"""The part of the brain that a request selects: its box in the output's world, and which voxels belong to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError
from lsfm_core.export._names import chains_around, native_space
from lsfm_core.export.request import RegionSelection, TransformRequest
from lsfm_core.export.volume import Volume
from lsfm_core.geometry import Box, Orientation, Space, Triple, voxel_count
from lsfm_core.progress import CancelToken, Progress
from lsfm_core.regions import Hemisphere, LabelSet, LabelTable, RegionVoxels, locate_region, midline_mm, surface_points
from lsfm_core.resample import Resampled, VoxelSource
from lsfm_core.store import Channel, Level, LsfmFile
from lsfm_core.transforms import DisplacementField, InverseField, TransformChain

__all__ = ["RegionMask", "find_midline", "find_region", "label_level"]

#: The midline is sought in the finest level that has no more voxels than this, else in the coarsest one.
_MIDLINE_VOXELS = 2**21
#: Voxels that are looked at together, and what may be held meanwhile of fields and labels.
_LOOK_VOXELS = 2**18
_LOOK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class RegionMask:
    """A region of a labels channel.

    Attributes
    ----------
    level : Level
        Level 0 of the labels.
    space : Space
        Of that level.
    voxels : RegionVoxels
        Where in it the region lies, and how many voxels it has.
    labels : LabelSet
        The ids that belong to the region.
    side : Hemisphere or None
    chain : TransformChain
        From the labels' world to the output's; empty where they are the same.
    box : Box
        Around the region, in the output's world.
    text : str
        The region in words.
    """

    level: Level
    space: Space
    voxels: RegionVoxels
    labels: LabelSet
    side: Hemisphere | None
    chain: TransformChain
    box: Box
    text: str

    @property
    def source(self) -> VoxelSource:
        """1 where the labels belong to the region."""
        return VoxelSource(self.space, np.dtype(np.uint8), (), self.read, self.voxel_bytes)

    @property
    def voxel_bytes(self) -> int:
        """What `read` takes for each voxel, at most."""
        return 2 * self.level.dtype.itemsize + 4

    def read(self, low: Sequence[int], high: Sequence[int]) -> npt.NDArray[np.uint8]:
        """1 where a box of the labels' voxels belongs to the region."""
        mask = self.labels.mask(self.level[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].read())
        if self.side is not None:
            mask &= self.side.mask(low, high)
        inside: npt.NDArray[np.uint8] = mask.view(np.uint8)
        return inside

    def look(self, levels: Sequence[Level], max_voxels: int) -> Volume:
        """The region as labels 0 and 1 in its own box, for a look: on the finest level on which that is not too large.

        Parameters
        ----------
        levels : sequence of Level
            Of the labels channel.
        max_voxels : int
            How many may come back; the coarsest level is taken in any case.
        """
        for level in levels:
            low = np.floor_divide(self.voxels.starts, level.factors).astype(int).tolist()
            high = np.minimum(np.ceil(np.divide(self.voxels.stops, level.factors)), level.shape[:3]).astype(int).tolist()
            if voxel_count(np.subtract(high, low).tolist()) <= max_voxels:
                break
        space = self.space.level(level.factors, level.shape[:3])
        side = None if self.side is None else replace(self.side, space=space)
        return Volume(replace(self, level=level, side=side).read(low, high), space.crop(low, high), "labels")

    def describe(self) -> str:
        """The region in words."""
        return f"{self.text}: {self.box}"


def find_region(
    file: LsfmFile,
    request: TransformRequest,
    selection: RegionSelection,
    *,
    grid: Callable[[], Space] | None = None,
    cancel: CancelToken | None = None,
) -> RegionMask:
    """Look the region up and find where it lies.

    Where affines, and fields whose partners are stored, lead from the labels to the output, the region's outline is carried: all
    corners of its surface voxels. Through other fields the output's voxels are asked for their labels.

    Parameters
    ----------
    file : LsfmFile
    request : TransformRequest
    selection : RegionSelection
    grid : callable, optional
        Gives the output's voxels, which go on outside of it. Default: of the labels' size.
    cancel : CancelToken, optional

    Raises
    ------
    InputError
        If there is no such region, or it has no voxels, or no place of the output comes to it.
    """
    channel = file[selection.labels_channel]
    level, space = label_level(file, channel, request)
    table = LabelTable.from_json(file.label_table(channel.name))
    if {str(selector).strip() for selector in selection.select} == {"0"}:
        raise InputError(
            f"{file.path}: channel {channel.name!r}: region 0 is the background, all that is in no region: is that meant? Name a "
            "region; without one the whole image is taken"
        )
    ids = table.select(selection.select, selection.include_descendants)
    side = None
    if selection.side is not None:
        middle = selection.midline_mm if selection.midline_mm is not None else find_midline(channel, space)
        side = Hemisphere(selection.side, middle, space)
    found = locate_region(level.data, ids, keep=side, table=table, cancel=cancel)
    names = ", ".join(str(table.get(int(s), s)) if str(s).isdigit() else str(table.find(s)) for s in selection.select)
    parts = f" and its parts ({len(ids)} ids)" if selection.include_descendants else ""
    text = f"{names}{parts}{f', {side}' if side is not None else ''}: {found.count} voxels of channel {channel.name!r}"
    chain = chains_around(file, request, selection.labels_in)[1]
    box = space.crop(found.starts, found.stops).bounds
    region = RegionMask(level, space, found, LabelSet(ids), side, chain, box, text)
    if not chain.transforms:
        return region
    if any(isinstance(step, DisplacementField) and step.partner is None for step in chain.transforms):
        whole = _whole(region)
        voxels = grid() if grid is not None else Space.from_box(whole, space.voxel_size_mm, Orientation("RAS"))
        return replace(region, box=_look_for(file, region, voxels.around(whole), cancel))
    outward = chain.inverse()
    corners = surface_points(level.data, ids, region=found, keep=side, cancel=cancel)
    return replace(region, box=Box.around(Box.of(outward.map_points(space.to_world(points))) for points in corners))


def _whole(region: RegionMask) -> Box:
    """A box in the output outside of which no point comes to the region.

    A point meets a field in its domain, or passes it unmoved: so all fields' domains, and the region's own box, are carried outward
    past the fields that follow.
    """
    places = [region.space.crop(region.voxels.starts, region.voxels.stops).bounds.corners]
    for step in region.chain.transforms:
        if isinstance(step, DisplacementField):
            places.append(step.space.bounds.corners)
        elif isinstance(step, InverseField):
            # What comes to a point of the domain does so from where the field brings it.
            domain = step.field.space.bounds
            places.append(domain.grown(step.field.longest_mm).corners)
        else:
            places = [step.inverse().map_points(points) for points in places]
    return Box.of(np.concatenate(places))


def _look_for(file: LsfmFile, region: RegionMask, grid: Space, cancel: CancelToken | None) -> Box:
    """The box around all that belongs to the region, of points on a grid at most half a voxel of the labels apart.

    The voxels' centres are among the points. What cannot come to the region, and what lies in the box that was found so far, is
    passed over: no other point is left out, so that nothing thin is missed.
    """
    steps = region.space.voxel_from_world[:3, :3] @ region.chain.linear @ grid.world_from_voxel[:3, :3]
    parts = 2 * np.ceil(np.maximum(0, np.linalg.norm(steps, axis=0) - 0.5 - 1e-6)).astype(int) + 1
    i, j, k = (size / n for size, n in zip(grid.voxel_size_mm, parts.tolist(), strict=True))
    size: Triple = (i, j, k)
    points = grid.with_resolution(size)
    image = Resampled(region.source, points, region.chain, "nearest", max_bytes=_LOOK_BYTES, name="region", loops=False)
    report = Progress("look", 0, None, cancel)
    low, high = np.array(points.shape), np.zeros(3, int)
    waiting = [(np.zeros(3, int), np.array(points.shape))]
    while waiting:
        start, stop = waiting.pop()
        report.advance(0)
        if ((start >= low) & (stop <= high)).all() or not _may_reach(region, points.crop(start, stop)):
            continue
        if voxel_count((stop - start).tolist()) > _LOOK_VOXELS:
            across = np.arange(3) == np.argmax(stop - start)
            middle = (start + stop) // 2
            waiting += [(np.where(across, middle, start), stop), (start, np.where(across, middle, stop))]
            continue
        inside = np.argwhere(image.read_box(start.tolist(), stop.tolist()))
        if len(inside):
            low = np.minimum(low, inside.min(axis=0) + start)
            high = np.maximum(high, inside.max(axis=0) + start + 1)
    if (high <= low).any():
        raise InputError(
            f"{file.path}: {region.text}: no place of the result comes to it through the transforms: is one inverted that should "
            "not be, or not inverted that should, or their order wrong?"
        )
    return points.crop(low, high).bounds


def _may_reach(region: RegionMask, block: Space) -> bool:
    """Whether some voxel of a block of the output can come to the box around the region; certain only where it cannot."""
    points = region.chain.reach(block, _LOOK_BYTES)
    if points is None:
        return True
    index = region.space.to_voxel(points)
    # Nearest voxels are half a voxel away; rounding must not decide.
    is_past = (index.max(axis=0) < np.subtract(region.voxels.starts, 1)).any()
    return not (is_past or (index.min(axis=0) > region.voxels.stops).any())


def find_midline(channel: Channel, space: Space) -> float:
    """R of the plane between the hemispheres, from a labels channel whose level 0 has this space.

    Raises
    ------
    InputError
        If no voxel has a label.
    """
    # A coarse voxel is as wide as what the sides may then be out of balance.
    small = (item for item in channel.levels if voxel_count(item.shape) <= _MIDLINE_VOXELS)
    chosen = next(small, channel.levels[-1])
    return midline_mm(chosen.data, space.level(chosen.factors, chosen.shape[:3]))


def label_level(file: LsfmFile, channel: Channel, request: TransformRequest) -> tuple[Level, Space]:
    """Level 0 of a labels channel, and its space.

    Raises
    ------
    InputError
        If the channel holds no labels.
    """
    if channel.kind != "labels":
        labels = ", ".join(name for name, other in file.channels.items() if other.kind == "labels")
        raise InputError(
            f"{file.path}: channel {channel.name!r} holds {channel.kind}, not labels; channels with labels: {labels or 'none'}"
        )
    space = channel.space if channel.orientation is not None else native_space(file, channel, request)
    return channel.levels[0], space
