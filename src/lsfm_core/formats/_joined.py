"""A volume in several parts, one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy.typing as npt

from lsfm_core.errors import SourceError
from lsfm_core.formats._source import Source, with_notes
from lsfm_core.geometry import Shape3
from lsfm_core.records import FileRecord

__all__ = ["JoinedSource"]


class JoinedSource(Source):
    """The planes of several sources in their order; they are closed with it.

    Parameters
    ----------
    parts : sequence of Source

    Raises
    ------
    SourceError
        If they differ in anything but the number of planes.
    """

    def __init__(self, parts: Sequence[Source]) -> None:
        first = parts[0]
        self._parts = tuple(parts)
        self._ends = tuple(accumulate(part.shape[0] for part in parts))
        for part in parts:
            for what, own, other in (
                ("planes of", part.shape[1:], first.shape[1:]),
                ("voxels of type", part.dtype, first.dtype),
                ("values per voxel:", part.components, first.components),
                ("a voxel size in mm of", part.voxel_size_mm, first.voxel_size_mm),
            ):
                if own != other:
                    self.close()
                    raise SourceError(
                        f"{part.name}: has {what} {own}, {first.name} {other}: the parts of a stack must be alike; name one of "
                        "them if each is an image of its own"
                    )
        self.name = first.name
        self.shape = (self._ends[-1], *first.shape[1:])
        self.dtype = first.dtype
        self.components = first.components
        self.voxel_size_mm = first.voxel_size_mm
        self.palette = first.palette
        self.read_bytes = sum(part.read_bytes for part in parts)
        self.box_bytes = sum(part.box_bytes for part in parts)
        self.rows_in_order = any(part.rows_in_order for part in parts)
        note = f"{len(parts)} files were joined, of {', '.join(str(part.shape[0]) for part in parts[:20])} planes" + (
            " …" if len(parts) > 20 else ""
        )
        self.facts = with_notes(first.facts, note)

    @property
    def unit(self) -> Shape3:
        planes, rows, columns = (max(sizes) for sizes in zip(*(part.unit for part in self._parts), strict=True))
        return planes, rows, columns

    def read_plane(self, index: int, out: npt.NDArray[Any]) -> FileRecord | None:
        part, own = self._place(index)
        return part.read_plane(own, out)

    def read_box(self, start: Shape3, out: npt.NDArray[Any]) -> None:
        done = 0
        while done < len(out):
            part, own = self._place(start[0] + done)
            stop = min(done + part.shape[0] - own, len(out))
            part.read_box((own, *start[1:]), out[done:stop])
            done = stop

    def plane_record(self, index: int) -> FileRecord | None:
        part, own = self._place(index)
        return part.plane_record(own)

    def file_records(self) -> Sequence[FileRecord]:
        return [record for part in self._parts for record in part.file_records()]

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def _place(self, index: int) -> tuple[Source, int]:
        """The part that holds a plane, and the plane's number there."""
        number = bisect_right(self._ends, index)
        return self._parts[number], index - (self._ends[number - 1] if number else 0)
