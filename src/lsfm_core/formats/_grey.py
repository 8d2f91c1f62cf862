"""Grey images that were saved in colours, as many programs do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import SourceError
from lsfm_core.formats._source import Source, WrappedSource
from lsfm_core.geometry import Shape3

__all__ = ["as_grey"]

_THREADS = 4
_PART_BYTES = 32 * 2**20


def as_grey(source: Source) -> Source:
    """`source`, or its grey values where it is in colours that are none: red, green and blue the same in all of three planes.

    The others are looked at when they are read: a plane that has colours is an error then. What tells its own place, as our exports
    do, stays as it is.
    """
    if source.components not in (3, 4) or source.facts.get("kind") != "components" or source.space is not None:
        return source
    grey = _Grey(source)
    for index in sorted({0, source.shape[0] // 2, source.shape[0] - 1}):
        try:
            is_grey = all(grey.holds((index, 0, 0), part) for part in _parts(source, index))
        except BaseException:
            source.close()
            raise
        if not is_grey:
            return source
    return grey


def _parts(source: Source, index: int) -> Iterator[npt.NDArray[Any]]:
    """A plane, in bands of rows."""
    _, rows, columns = source.shape
    plane_bytes = rows * columns * source.components * source.dtype.itemsize
    height = max(1, min(rows, rows * _PART_BYTES // plane_bytes) // source.unit[1]) * source.unit[1]
    for row in range(0, rows, height):
        part = np.empty((1, min(height, rows - row), columns, source.components), source.dtype)
        source.read_box((index, row, 0), part)
        yield part


class _Grey(WrappedSource):
    """The red of colours that are all grey."""

    def __init__(self, source: Source) -> None:
        super().__init__(source, "a grey image that was saved in colours: it is read as grey")
        self.components = 1
        plane = source.shape[1] * source.shape[2] * source.components * source.dtype.itemsize
        self.read_bytes += _THREADS * plane
        self.facts = {key: fact for key, fact in self.facts.items() if key != "kind"}
        self._opacity: dict[int, Any] = {}

    def holds(self, start: Shape3, values: npt.NDArray[Any]) -> bool:
        """Whether all colours of a box are the same, and nothing is more opaque than the rest of its plane."""
        if not (values[..., 1:3] == values[..., :1]).all():
            return False
        if values.shape[-1] == 3:
            return True
        return all(
            bool((plane[..., 3] == self._opacity.setdefault(start[0] + offset, plane[0, 0, 3])).all())
            for offset, plane in enumerate(values)
        )

    def _change(self, start: Shape3, values: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        if not self.holds(start, values):
            raise SourceError(f"{self.name}: plane {start[0]} has colours, others are grey: say --kind components to keep them")
        out[...] = values[..., 0]
