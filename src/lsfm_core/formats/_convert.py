"""Values that the file cannot hold as they are: truth values, and whole-number floats as labels; and ids that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import SourceError
from lsfm_core.formats._source import Source, WrappedSource
from lsfm_core.geometry import Shape3

__all__ = ["converted"]


def converted(source: Source, kind: str) -> Source:
    """`source` itself, or one that gives its values in a type which can be stored.

    Truth values become uint8, and floats that are meant as labels uint32, which holds every id in use. Signed integers stay as
    they are, but negative ones are no labels.
    """
    if source.dtype == np.bool_:
        return _Converted(source, np.dtype(np.uint8))
    if kind == "labels" and source.dtype.kind == "f":
        return _Labels(source, np.dtype(np.uint32))
    if kind == "labels" and source.dtype.kind == "i":
        return _SignedLabels(source, source.dtype)
    return source


class _Converted(WrappedSource):
    """Another source's planes in another type."""

    def __init__(self, source: Source, dtype: np.dtype[Any]) -> None:
        is_same = dtype == source.dtype
        super().__init__(source, *([] if is_same else [f"values of type {source.dtype} were stored as {dtype}"]))
        self.dtype = dtype

    def _change(self, start: Shape3, values: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        self._check(start, values)
        if values is not out:
            out[...] = values

    def _check(self, start: Shape3, values: npt.NDArray[Any]) -> None:
        """Every value can be converted without loss."""


class _Labels(_Converted):
    """Labels that are stored as floats: each must be a whole number that its type can tell from its neighbours."""

    def _check(self, start: Shape3, values: npt.NDArray[Any]) -> None:
        # Beyond this a float type leaves out whole numbers: ids have been rounded, and regions may have been merged.
        limit = min(2.0 ** (np.finfo(values.dtype).nmant + 1), float(np.iinfo(self.dtype).max))
        # NaN fails every comparison.
        good = (values >= 0) & (values <= limit)
        good &= values == np.trunc(values)
        if not good.all():
            raise SourceError(
                f"{_place(self.name, start, values, ~good)}: labels must be whole numbers from 0 to {limit:.0f}, the largest that "
                f"{values.dtype} labels can hold exactly: save as integers"
            )


class _SignedLabels(_Converted):
    """Labels that are stored as signed integers: none may be negative."""

    def _check(self, start: Shape3, values: npt.NDArray[Any]) -> None:
        if values.size and values.min() < 0:
            raise SourceError(
                f"{_place(self.name, start, values, values < 0)}: labels must be whole numbers from 0 to "
                f"{np.iinfo(self.dtype).max}, the largest that {self.dtype} labels can hold: give what is no region the id 0"
            )


def _place(name: str, start: Shape3, values: npt.NDArray[Any], bad: npt.NDArray[np.bool_]) -> str:
    """Where the first bad value of a box is."""
    plane, row, column = np.argwhere(bad)[0]
    place = f"{name}: plane {start[0] + plane} has the value {values[plane, row, column]!s}"
    return f"{place} at row {start[1] + row}, column {start[2] + column}"
