"""What every input format offers to the ingest: planes, one after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lsfm_core.geometry import Orientation, Shape3, Space, Triple
from lsfm_core.records import FileRecord

if TYPE_CHECKING:
    from lsfm_core.formats._field import FieldWords

__all__ = ["Source", "WrappedSource", "cuts", "with_notes"]


class Source(ABC):
    """A volume that gives its planes (axis 0) on request.

    Attributes
    ----------
    name : str
        For messages.
    shape : tuple of 3 int
        Planes, rows, columns: array order as stored, slowest axis first.
    dtype : numpy.dtype
        Native byte order.
    components : int
        Values per voxel: 1, or 3 for vectors (RAS mm displacements in the order R, A, S).
    space : Space, optional
        Where the file itself tells voxel size and orientation.
    voxel_size_mm : tuple of 3 float, optional
        Planes, rows, columns, where the file tells at least that; equal to the space's where there is one.
    forward_only : bool
        Each plane can be read only once, in increasing order, by one thread.
    rows_in_order : bool
        The boxes of a plane must have its full width, and follow each other from the first row on: what holds it is a stream.
    read_bytes : int
        Memory that the source holds besides the planes that it is asked for.
    box_bytes : int
        Memory that it holds besides the boxes, where it is asked for these.
    facts : mapping
        What the file tells of itself, ready for JSON: ``format``, ``channel``, ``channel_names``, ``acquisition``, ``notes``;
        ``untold``: what it says in place of a voxel size.
    palette : array (3, values), optional
        Red, green and blue of uint16 that each value stands for.
    words : FieldWords, optional
        What it says of its vectors, which come as they are stored until they were turned to displacements.
    """

    name: str
    shape: Shape3
    dtype: np.dtype[Any]
    components: int = 1
    space: Space | None = None
    voxel_size_mm: Triple | None = None
    forward_only: bool = False
    rows_in_order: bool = False
    read_bytes: int = 0
    box_bytes: int = 0
    facts: Mapping[str, Any] = MappingProxyType({})
    palette: npt.NDArray[Any] | None = None
    words: FieldWords | None = None

    @abstractmethod
    def read_plane(self, index: int, out: npt.NDArray[Any]) -> FileRecord | None:
        """Fill `out` with plane `index`; called from several threads at once unless `forward_only`.

        Parameters
        ----------
        index : int
        out : array (rows, columns), or (rows, columns, components) where there are several

        Returns
        -------
        FileRecord or None
            The file that was read, where a plane has one of its own.

        Raises
        ------
        SourceError
            If the plane is missing, damaged, or not like the others.
        """

    @property
    def unit(self) -> Shape3:
        """Planes, rows, columns that are read together: a chunk, a tile, a strip; a whole plane unless the format has less."""
        return (1, *self.shape[1:])

    @property
    def read_voxel_bytes(self) -> int:
        """What a voxel takes while it is read, from the file's own values to those that are given."""
        return self.dtype.itemsize * self.components

    def read_box(self, start: Shape3, out: npt.NDArray[Any]) -> None:
        """Fill `out` with a box of voxels, so that a plane need not fit into memory; otherwise as `read_plane`.

        Every `unit` that it meets is read for it: who reads all of the volume in boxes of whole units reads everything once.

        Parameters
        ----------
        start : tuple of 3 int
            Plane, row and column of its first voxel.
        out : array (planes, rows, columns[, components])

        Raises
        ------
        SourceError
        """
        for offset in range(len(out)):
            plane = np.empty((*self.shape[1:], *out.shape[3:]), self.dtype)
            self.read_plane(start[0] + offset, plane)
            out[offset] = plane[start[1] : start[1] + out.shape[1], start[2] : start[2] + out.shape[2]]

    def plane_record(self, index: int) -> FileRecord | None:
        """The file of plane `index`, where it has one of its own, for who has read the plane in boxes."""
        return None

    def settle(self, space: Space) -> None:  # noqa: B027 (only those whose values are places ask for it)
        """Tell where the voxels are taken to be, before the first plane is read; it may be elsewhere than the file says."""

    def oriented(self, orientation: Orientation, voxel_size_mm: Triple) -> Space | None:
        """Space of an image that lies somewhere, but does not tell how the specimen lay; None where it tells neither, or both."""
        return None

    def file_records(self) -> Sequence[FileRecord]:
        """Files that were not reported plane by plane; to be asked for after the last plane."""
        return ()

    def close(self) -> None:  # noqa: B027 (many have none)
        """Let go of open files."""


class WrappedSource(Source):
    """Another source, whose values a subclass changes; all else is the other's, until the subclass says so.

    Parameters
    ----------
    source : Source
    notes : str
        What the user should know besides.
    """

    def __init__(self, source: Source, *notes: str) -> None:
        self._source = source
        self.name = source.name
        self.shape = source.shape
        self.dtype = source.dtype
        self.components = source.components
        self.space = source.space
        self.voxel_size_mm = source.voxel_size_mm
        self.forward_only = source.forward_only
        self.rows_in_order = source.rows_in_order
        self.read_bytes = source.read_bytes
        self.box_bytes = source.box_bytes
        self.facts = with_notes(source.facts, *notes)

    @abstractmethod
    def _change(self, start: Shape3, values: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        """Fill `out` with what becomes of a box of the other's values.

        Parameters
        ----------
        start : tuple of 3 int
            Plane, row and column of its first voxel.
        values : array (planes, rows, columns[, components of the other])
            `out` itself, where the other has values of the same type, and as many.
        out : array (planes, rows, columns[, components])
        """

    @property
    def unit(self) -> Shape3:
        return self._source.unit

    @property
    def read_voxel_bytes(self) -> int:
        return self._source.read_voxel_bytes + self.dtype.itemsize * self.components

    def read_plane(self, index: int, out: npt.NDArray[Any]) -> FileRecord | None:
        values = self._room(out[None])
        record = self._source.read_plane(index, values[0])
        self._change((index, 0, 0), values, out[None])
        return record

    def read_box(self, start: Shape3, out: npt.NDArray[Any]) -> None:
        values = self._room(out)
        self._source.read_box(start, values)
        self._change(start, values, out)

    def plane_record(self, index: int) -> FileRecord | None:
        return self._source.plane_record(index)

    def settle(self, space: Space) -> None:
        self._source.settle(space)

    def oriented(self, orientation: Orientation, voxel_size_mm: Triple) -> Space | None:
        return self._source.oriented(orientation, voxel_size_mm)

    def file_records(self) -> Sequence[FileRecord]:
        return self._source.file_records()

    def close(self) -> None:
        self._source.close()

    def _room(self, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if (self._source.dtype, self._source.components) == (self.dtype, self.components):
            return out
        components = (self._source.components,) if self._source.components > 1 else ()
        return np.empty((*out.shape[:3], *components), self._source.dtype)


def cuts(start: int, stop: int, step: int) -> Iterator[slice]:
    """The parts of an axis between two places, cut at the multiples of a step."""
    while start < stop:
        end = min((start // step + 1) * step, stop)
        yield slice(start, end)
        start = end


def with_notes(facts: Mapping[str, Any], *notes: str) -> dict[str, Any]:
    """`Source.facts` with more for the user to know."""
    return {**facts, "notes": [*facts.get("notes", ()), *notes]}
