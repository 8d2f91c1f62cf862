"""Grey images that were saved in colours, as many programs do."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import SourceError
from lsfm_core.formats._source import Source, WrappedSource
from lsfm_core.records import FileRecord

__all__ = ["as_grey"]

_THREADS = 4


def as_grey(source: Source) -> Source:
    """`source`, or its grey values where it is in colours that are none: red, green and blue the same in all of three planes.

    The others are looked at when they are read: a plane that has colours is an error then. What tells its own place, as our exports
    do, stays as it is.
    """
    if source.components not in (3, 4) or source.facts.get("kind") != "components" or source.space is not None:
        return source
    plane = np.empty((*source.shape[1:], source.components), source.dtype)
    for index in sorted({0, source.shape[0] // 2, source.shape[0] - 1}):
        try:
            source.read_plane(index, plane)
        except BaseException:
            source.close()
            raise
        if not _is_grey(plane):
            return source
    return _Grey(source)


def _is_grey(plane: npt.NDArray[Any]) -> bool:
    """Whether all colours are the same, and nothing is more opaque than the rest."""
    grey = plane[..., :1]
    is_same = bool((plane[..., 1:3] == grey).all())
    return is_same and (plane.shape[-1] == 3 or bool((plane[..., 3] == plane[0, 0, 3]).all()))


class _Grey(WrappedSource):
    """The red of colours that are all grey."""

    def __init__(self, source: Source) -> None:
        super().__init__(source, "a grey image that was saved in colours: it is read as grey")
        self.components = 1
        plane = source.shape[1] * source.shape[2] * source.components * source.dtype.itemsize
        self.read_bytes += _THREADS * plane
        self.facts = {key: fact for key, fact in self.facts.items() if key != "kind"}

    def read_plane(self, index: int, out: npt.NDArray[Any]) -> FileRecord | None:
        plane = np.empty((*out.shape, self._source.components), self.dtype)
        record = self._source.read_plane(index, plane)
        if not _is_grey(plane):
            raise SourceError(f"{self.name}: plane {index} has colours, others are grey: say --kind components to keep them")
        out[...] = plane[..., 0]
        return record
