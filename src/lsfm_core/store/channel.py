"""What a file holds, as models: channels, the levels of their pyramids, and the spaces that transforms join."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from lsfm_core.arrays import LazyLevel
from lsfm_core.errors import InputError
from lsfm_core.geometry import Orientation, Space, Triple
from lsfm_core.hdf5_damage import reading
from lsfm_core.pyramid import Kind
from lsfm_core.records import FileRecord

__all__ = ["Channel", "Level", "Sides", "own_space"]


class Sides(NamedTuple):
    """The names of the spaces that a transform joins; None where one is not known.

    It maps a point of the outer space to the inner one, as ITK's files do, and so carries an image from the inner to the outer one.

    Attributes
    ----------
    inner, outer : str or None
    """

    inner: str | None
    outer: str | None

    def swapped(self) -> Sides:
        """Those of the inverse."""
        return Sides(self.outer, self.inner)


def own_space(channel: str) -> str:
    """The name of the space that an image lives in which shares it with nothing else."""
    return f"native of {channel}"


@dataclass(frozen=True)
class Level:
    """One level of a channel's pyramid; 0 is the finest.

    Attributes
    ----------
    index : int
    data : LazyLevel
        The voxels, in array order; ``level[...]`` is the same as ``level.data[...]``.
    factors : tuple of 3 float
        Level-0 voxels per voxel of this level.
    space : Space
    """

    index: int
    data: LazyLevel
    factors: Triple
    space: Space

    @property
    def stored_bytes(self) -> int:
        """Size in the file, compressed; asks about every chunk."""
        return self.data.stored_bytes

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

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self.data.__array__(dtype, copy)


@dataclass(frozen=True)
class Channel:
    """A named image with one pyramid.

    Attributes
    ----------
    name : str
    kind : {"image", "labels", "vectors", "components"}
    levels : tuple of Level
        Finest first.
    orientation : Orientation or None
        None where the file does not record how the specimen lay; `Space` then only tells voxel sizes.
    unit : str
        Of the world: ``"mm"``, or ``"pixel"`` where the file gives no length.
    display_range : tuple of 2 float, or None
        Contrast limits for a first look.
    setup : int or None
        BigDataViewer's setup, if it has one.
    partner : str or None
        The channel that holds the inverse of this displacement field.
    affines : tuple of str
        Names of the affine transforms stored with the channel.
    written_by : str
        Program and version, or "" where unknown.
    remarks : tuple of str
        What is odd about this channel, in sentences.
    timepoints : tuple of int
        BigDataViewer's numbers of the times at which it was imaged; `levels` are those of the first. Ours have one.
    foreign : bool
        Whether it is a setup of another program's, with nothing in our part of the file but what users gave to it.
    colormap : str or None
        For a first look: a name that viewers know, or ``#rrggbb``.
    attributes : tuple of (str, str)
        What another program's setup is a view of (channel, tile, angle, illumination), by the names in the XML.
    space_name : str or None
        Of the space that it lives in: an image's own (`own_space`) unless another is recorded; None where that is not known. Of a
        displacement field the outer side, on which its grid lies.
    inner_space : str or None
        Of a displacement field: the inner side, as far as it is recorded.
    """

    name: str
    kind: Kind
    levels: tuple[Level, ...]
    orientation: Orientation | None
    unit: str
    display_range: tuple[float, float] | None
    setup: int | None
    partner: str | None
    affines: tuple[str, ...]
    written_by: str
    remarks: tuple[str, ...]
    timepoints: tuple[int, ...] = (0,)
    foreign: bool = False
    colormap: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    space_name: str | None = None
    inner_space: str | None = None
    _sources: h5py.Dataset | None = field(default=None, repr=False, compare=False)
    # Of the file's first setup of others: all of them get a world of R, A and S together.
    _first: Space | None = field(default=None, repr=False, compare=False)

    @cached_property
    def sources(self) -> tuple[FileRecord, ...]:
        """The files that it was made from; thousands for a series, so they are read when first asked for."""
        if self._sources is None:
            return ()
        with reading(self._sources.file.filename, f"the sources of channel {self.name!r} cannot be read"):
            return tuple(FileRecord(name.decode(), *rest) for name, *rest in self._sources[()].tolist())

    @property
    def space(self) -> Space:
        """Space of level 0."""
        return self.levels[0].space

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        return self.levels[0].dtype

    def oriented(self, orientation: Orientation) -> Space:
        """Space of level 0 in the world of R, A and S, for a channel that does not record how it lies.

        BigDataViewer's registrations keep their meaning: what they move, turn or scale is moved, turned or scaled, and several
        setups of a file keep their places to each other. An image that is not moved has its first voxel in R, A and S at 0.

        Parameters
        ----------
        orientation : Orientation
            Of planes, rows and columns; where a registration turns the image, of BigDataViewer's axes z, y and x.
        """
        first = self._first
        if first is None:
            return Space.from_orientation(self.space.shape, self.space.voxel_size_mm, orientation)
        unmoved = Space.from_orientation(first.shape, first.voxel_size_mm, orientation)
        # BigDataViewer's x, y and z are the axes of columns, rows and planes.
        ras_from_bdv = np.eye(4)
        ras_from_bdv[:3, :3] = orientation.direction[:, ::-1]
        ras_from_bdv[:3, 3] = unmoved.world_from_voxel[:3, 3]
        return Space(self.space.shape, ras_from_bdv @ self.space.world_from_voxel)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        raise InputError(
            f"channel {self.name!r} has {len(self.levels)} level(s), and is no array itself: take one of them, as channel.levels[0]"
        )
