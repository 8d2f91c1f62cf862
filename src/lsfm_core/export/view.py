"""A channel in another space, or on another grid, without exporting it: reading any part of a view computes that part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.arrays import Box, LazyArray
from lsfm_core.errors import InputError
from lsfm_core.export._names import open_chain, with_way
from lsfm_core.export.plan import ExportPlan, plan_view
from lsfm_core.export.request import ExportRequest, TransformRequest, TransformStep
from lsfm_core.export.volume import Volume
from lsfm_core.geometry import Space, Triple, voxel_count
from lsfm_core.pyramid import Kind
from lsfm_core.resample import Interpolation, Resampled, VoxelSource
from lsfm_core.store import LsfmFile
from lsfm_core.threads import default_threads, share_out
from lsfm_core.transforms import Transform, TransformChain

__all__ = ["ChannelView", "ViewLevel", "chain_to", "view_channel"]

Array = npt.NDArray[Any]

#: What is computed at once has no longer edge, and no more voxels: a plane of the view lies askew in the image, and the box around
#: all of it would be thick.
_TILE = 256
_TILE_VOXELS = 2**19
#: What reading may take beside the result and the cache, of all threads together.
_MEMORY_BYTES = 64 * 2**20
_Steps = str | TransformStep | Transform | Sequence[str | TransformStep]


@dataclass(frozen=True)
class ViewLevel:
    """One level of a view; 0 is the finest.

    Attributes
    ----------
    data : LazyArray (a, b, c), or (a, b, c, components)
        The voxels; ``level[...]`` is the same as ``level.data[...]``.
    factors : tuple of 3 float
        Level-0 voxels per voxel of this level.
    space : Space
        In the world of the view.
    source_level : int
        Which level of the channel it reads.
    """

    data: LazyArray
    factors: Triple
    space: Space
    source_level: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in array order; vectors and components have their values last."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        return self.data.dtype

    def __getitem__(self, index: Any) -> Any:
        return self.data[index]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        return self.data.__array__(dtype, copy)


@dataclass(frozen=True)
class ChannelView:
    """A channel through transforms, or on another grid: a pyramid of which nothing is stored. Get it from `view_channel`.

    ``view[100]`` is a plane of the finest level, which ``np.asarray`` reads. That needs the view's file open; what goes to another
    process opens the file itself.

    Attributes
    ----------
    path : Path
    channel : str
    kind : {"image", "labels", "vectors", "components"}
    levels : tuple of ViewLevel
        Finest first.
    chain : TransformChain
        From the image outward.
    through : tuple of str
        Its transforms, as `TransformStep` spells them; none of those that a program has made.
    warnings : tuple of str
        What the user should look at.
    """

    path: Path
    channel: str
    kind: Kind
    levels: tuple[ViewLevel, ...]
    chain: TransformChain
    through: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def space(self) -> Space:
        """Space of level 0."""
        return self.levels[0].space

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of level 0."""
        return self.levels[0].shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        return self.levels[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        return self.levels[0][index]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        return self.levels[0].__array__(dtype, copy)

    def to_dask(self, level: int = 0) -> Any:
        """A level as a dask array (needs dask); its workers may be other processes."""
        return self.levels[level].data.to_dask()

    def to_xarray(self, level: int = 0) -> Any:
        """A level as an xarray DataArray over a dask array (needs both).

        Dimensions, coordinates (RAS mm) and attributes are those of `Volume.to_xarray`.
        """
        return Volume(self.to_dask(level), self.levels[level].space, self.kind).to_xarray()


def view_channel(
    file: LsfmFile,
    channel: str,
    *,
    through: _Steps = (),
    to: str | None = None,
    via: Sequence[str] = (),
    grid: Space | str | Path | None = None,
    **fields: Any,
) -> ChannelView:
    """See a channel as an export of it would be, without making it.

    Parameters
    ----------
    file : LsfmFile
        Stays open as long as the view is read.
    channel : str
    through : names of transforms, or a TransformChain, optional
        From the image outward: affines and displacement fields of the file, or paths of such, as `TransformStep.parse` reads them;
        or transforms that a program has made.
    to : str, optional
        The space to go to, instead: the only shortest way through the transforms of the file. A name, or a channel that lives
        there.
    via : sequence of str
        Spaces or transforms on that way, where several are equally short.
    grid : Space, or a channel or the path of an image, optional
        Whose voxels the view has. Default: as an export's; those of the outermost displacement field, else of the image.
    **fields
        Others of an `ExportRequest`, as ``resolution_mm``, ``origin_mm`` and ``size_mm``, ``output_orientation``,
        ``interpolation``, ``fill``, ``timepoint``, ``numeric_inverse``.

    Returns
    -------
    ChannelView
        Its finest level has the voxels of the export, value for value; each of the others lies on a grid of whole multiples of it,
        by the rule of a stored pyramid. Each reads the coarsest level of the channel that is at least as fine as itself, and means
        of that where it is finer still by more than a factor of 2, so that nothing aliases. Of labels a voxel is the nearest one.

    Raises
    ------
    LsfmError
        `UnknownChannelError`; `InputError` if the transforms do not meet, one has no inverse where one is needed, or folds where
        it is inverted numerically, or if the result would lie outside of the image, or have more than 2^31 planes. Later, whatever
        reading the file raises, as `StorageError` if it was replaced meanwhile.
    """
    unknown = sorted({"output", "region", "level", "overlap_mm", "overwrite"} & fields.keys())
    if unknown or fields.get("interpolation") == "mode":
        raise InputError(f"{file.path}: a view has no {unknown[0] if unknown else 'mode'}: leave it out, or export the channel")
    chain = None
    if isinstance(through, Transform):
        chain = through if isinstance(through, TransformChain) else TransformChain([through])
        if to is not None:
            raise InputError("to: name the space, or the transforms that lead there, not both")
    else:
        fields["transforms"] = (through,) if isinstance(through, str | TransformStep) else tuple(through)
    space = grid if isinstance(grid, Space) else None
    reference = None if grid is None or space is not None else str(grid)
    request = ExportRequest(path=file.opened_as, channel=channel, to_space=to, via=tuple(via), reference=reference, **fields)
    request = with_way(file, request)
    plans = plan_view(file, request, chain=chain, grid=space)
    finest = plans[0][1]
    levels = tuple(
        ViewLevel(_Tiled(_resampled(plan)), (float(a), float(b), float(c)), plan.target, plan.level.index)
        for (a, b, c), plan in ((level.factors, plan) for level, plan in plans)
    )
    steps = tuple(map(str, request.transforms))
    return ChannelView(file.opened_as, channel, finest.kind, levels, finest.chain, steps, finest.warnings)


def chain_to(
    file: LsfmFile,
    channel: str,
    *,
    through: str | TransformStep | Sequence[str | TransformStep] = (),
    to: str | None = None,
    via: Sequence[str] = (),
    numeric_inverse: Sequence[str] = (),
) -> TransformChain:
    """The transforms between a channel's world and another space, ready to carry points.

    Parameters
    ----------
    file : LsfmFile
        Stays open as long as points are carried through displacement fields.
    channel, through, to, via, numeric_inverse
        As `view_channel` takes them.

    Returns
    -------
    TransformChain
        ``map_points`` takes points of that space to the channel's world, RAS mm; ``inverse().map_points`` takes them there.

    Raises
    ------
    LsfmError
        As `view_channel`; its ``inverse()`` if that is not known.
    """
    steps = (through,) if isinstance(through, str | TransformStep) else tuple(through)
    request = TransformRequest(
        path=file.opened_as,
        channel=channel,
        transforms=steps,  # type: ignore[arg-type]
        to_space=to,
        via=tuple(via),
        numeric_inverse=tuple(numeric_inverse),
    )
    return open_chain(file, with_way(file, request))


def _resampled(plan: ExportPlan) -> Resampled:
    # Where the export copies voxels, those nearest to the centres are the same ones.
    interpolation: Interpolation = "nearest" if plan.copy is not None else plan.interpolation
    source = VoxelSource.of(plan.level.data, plan.source, plan.reduction)
    room = _MEMORY_BYTES // default_threads()
    image = Resampled(source, plan.target, plan.chain, interpolation, plan.fill, max_bytes=room, name=plan.name)
    image.max_read_bytes = plan.level.data.max_read_bytes
    return image


class _Tiled(LazyArray):
    """A lazy image that is computed tile by tile, in threads."""

    def __init__(self, image: LazyArray) -> None:
        super().__init__(image.shape, image.dtype, image.chunks, name=image.name, max_read_bytes=image.max_read_bytes)
        self._image = image

    def _fill(self, box: Box, out: Array, cached: bool) -> None:
        size = [min(len(run), _TILE) for run in box[:3]]
        while voxel_count(size) > _TILE_VOXELS:
            longest = size.index(max(size))
            size[longest] = -(-size[longest] // 2)
        edges = [
            [(start, min(start + step, len(run))) for start in range(0, len(run), step)]
            for run, step in zip(box, size, strict=False)
        ]
        tiles = list(product(*edges))
        # Threads that begin next to each other would decode the same chunks at the same time.
        half = -(-len(tiles) // 2)
        order = [tile for pair in zip(tiles[:half], [*tiles[half:], None], strict=False) for tile in pair if tile is not None]

        def compute(tile: tuple[tuple[int, int], ...]) -> None:
            part = [run[a:b] for run, (a, b) in zip(box, tile, strict=False)] + list(box[3:])
            self._part(self._image, part, cached, out[tuple(slice(a, b) for a, b in tile)])

        share_out(compute, order)
