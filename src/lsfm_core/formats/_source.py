"""What every input format offers to the ingest: planes, one after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lsfm_core.geometry import Orientation, Shape3, Space, Triple
from lsfm_core.records import FileRecord

if TYPE_CHECKING:
    from lsfm_core.formats._field import FieldWords

__all__ = ["Source", "WrappedSource", "with_notes"]


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
    has_rows : bool
        Whether `read_rows` reads parts of planes, so that a plane need not fit into memory.
    read_bytes : int
        Memory that the source holds besides the planes that it is asked for.
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
    has_rows: bool = False
    read_bytes: int = 0
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

    def read_rows(self, index: int, start: int, out: npt.NDArray[Any]) -> None:
        """Fill `out` (rows, columns[, components]) with rows of plane `index`, from `start` on; where `has_rows`.

        Raises
        ------
        SourceError
        """
        raise NotImplementedError(f"{self.name}: gives whole planes only")

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
    """Another source, whose planes a subclass gives otherwise; all else is the other's, until the subclass says so.

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
        self.read_bytes = source.read_bytes
        self.facts = with_notes(source.facts, *notes)

    def settle(self, space: Space) -> None:
        self._source.settle(space)

    def oriented(self, orientation: Orientation, voxel_size_mm: Triple) -> Space | None:
        return self._source.oriented(orientation, voxel_size_mm)

    def file_records(self) -> Sequence[FileRecord]:
        return self._source.file_records()

    def close(self) -> None:
        self._source.close()


def with_notes(facts: Mapping[str, Any], *notes: str) -> dict[str, Any]:
    """`Source.facts` with more for the user to know."""
    return {**facts, "notes": [*facts.get("notes", ()), *notes]}
