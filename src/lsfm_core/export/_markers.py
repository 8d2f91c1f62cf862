"""Cells in the XML of cellfinder, which is that of ImageJ's Cell Counter: markers of several types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import numpy.typing as npt
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from lsfm_core.errors import InputError, SourceError, check_file

__all__ = ["CELL", "MarkerTable", "write_markers"]

#: cellfinder's types: 1 are candidates that are no cells, or were not classified; 2 are cells.
CELL = 2
_CANDIDATE = 1
_PLACES = ("MarkerZ", "MarkerY", "MarkerX")


class MarkerTable:
    """The markers of an XML file; columns, rows and planes of voxels, told as a table of z, y, x and type.

    Parameters
    ----------
    path : Path
    types : sequence of int, or None
        Those that are taken. Default: the cells, where there are no types but cellfinder's.

    Attributes
    ----------
    header, separator, decimal, remarks
        As `PointTable` has them.

    Raises
    ------
    SourceError, MissingError
        If it cannot be read.
    InputError
        If it has no marker of these types, or others than cellfinder's (or several, of ImageJ's Cell Counter) and nothing
        tells which are meant.
    """

    separator, decimal = ",", "."

    def __init__(self, path: Path, types: Sequence[int] | None) -> None:
        self.path = path
        self.header = ["z", "y", "x", "type"]
        self.remarks: list[str] = []
        self._is_imagej = False
        kinds, points = self._read()
        found = Counter(kinds)
        listing = ", ".join(f"{count} of type {kind}" for kind, count in sorted(found.items())) or "none at all"
        # In ImageJ's Cell Counter types mean what its user wants, unless there is but cellfinder's of cells.
        if types is None and ({*found} - {CELL, _CANDIDATE} or (self._is_imagej and len(found) > 1)):
            raise InputError(f"{path}: has markers {listing}: say which are meant (--marker-type)")
        wanted = {*(types or (CELL,))}
        if found and not wanted & {*found}:
            chosen = " or ".join(map(str, sorted(wanted)))
            raise InputError(f"{path}: has no marker of type {chosen}, but {listing}: say which are meant (--marker-type)")
        chosen_rows = np.isin(np.array(kinds, int), sorted(wanted))
        self._kinds = np.array(kinds, int)[chosen_rows]
        self._points = points[chosen_rows]
        left = [f"{count} of type {kind}" for kind, count in sorted(found.items()) if kind not in wanted]
        if left:
            self.remarks.append(
                f"{len(self._points)} markers of type {', '.join(map(str, sorted(wanted & {*found})))} were taken; left out: "
                f"{', '.join(left)}{' (no cells)' if {*found} - wanted == {_CANDIDATE} and types is None else ''}"
            )

    def find(self, *_: Sequence[str]) -> tuple[int, int, int]:
        """Places of the coordinates."""
        return 0, 1, 2

    def read(self, _: tuple[int, int, int]) -> npt.NDArray[np.float64]:
        """The coordinates (n, 3): planes, rows, columns."""
        return self._points

    def others(self, _: tuple[int, int, int]) -> dict[str, Sequence[Any]]:
        """What is known of each marker beside its place."""
        return {self.header[3]: self._kinds.tolist()}

    def write(self, path: Path, names: Sequence[str], rows: Iterable[str]) -> None:
        """The markers as CSV, with more columns, as `PointTable.write`."""
        with path.open("w", newline="", encoding="utf-8") as stream:
            stream.write(",".join([*self.header, *names]) + "\n")
            markers = zip(self._points.tolist(), self._kinds.tolist(), rows, strict=True)
            stream.writelines(f"{z:g},{y:g},{x:g},{kind},{cells}\n" for (z, y, x), kind, cells in markers)

    def _read(self) -> tuple[list[int], npt.NDArray[np.float64]]:
        """Type (n,) and planes, rows, columns (n, 3) of all markers."""
        check_file(self.path)
        kinds: list[int] = []
        places: list[tuple[float, ...]] = []
        kind, root, calibrated = 0, None, False
        try:
            for event, element in iterparse(self.path, events=("start", "end")):
                root = element if root is None else root
                if event == "start":
                    continue
                if element.tag == "Type":
                    kind = int(element.text or "")
                elif element.tag == "X_Calibration":
                    calibrated = True
                elif element.tag == "Marker":
                    kinds.append(kind)
                    places.append(tuple(map(float, _texts(element, len(kinds), self.path))))
                    element.clear()
        except (OSError, ParseError, DefusedXmlException, ValueError) as error:
            raise SourceError(f"{self.path}: cannot be read as cellfinder's XML: {error}") from error
        if root is None or root.tag != "CellCounter_Marker_File":
            name = "nothing" if root is None else f"<{root.tag}>"
            raise SourceError(f"{self.path}: is no XML of cellfinder: expected <CellCounter_Marker_File>, found {name}")
        points = np.array(places, np.float64).reshape(-1, 3)
        self._is_imagej = calibrated
        if calibrated:
            points[:, 0] -= 1
            self.remarks.append("written by ImageJ's Cell Counter, which counts planes from 1: they were counted from 0")
        return kinds, points


def _texts(marker: Element, number: int, path: Path) -> Iterator[str]:
    for name in _PLACES:
        text = (marker.findtext(name) or "").strip()
        try:
            good = isfinite(float(text))
        except ValueError:
            good = False
        if not good:
            raise SourceError(f"{path}: marker {number}: {name} is {text!r}, not a finite number: correct or remove it")
        yield text


def write_markers(path: Path, points: npt.NDArray[np.float64]) -> None:
    """Cells as cellfinder and napari's plugin of it read them; it knows whole voxels only.

    Parameters
    ----------
    path : Path
    points : array (n, 3)
        Planes, rows, columns.
    """
    with path.open("w", newline="", encoding="utf-8") as stream:
        stream.write('<?xml version="1.0" encoding="UTF-8"?>\n<CellCounter_Marker_File>\n')
        stream.write(" <Image_Properties><Image_Filename>placeholder.tif</Image_Filename></Image_Properties>\n <Marker_Data>\n")
        stream.write(f"  <Current_Type>{_CANDIDATE}</Current_Type>\n  <Marker_Type><Type>{_CANDIDATE}</Type></Marker_Type>\n")
        stream.write(f"  <Marker_Type>\n   <Type>{CELL}</Type>\n")
        stream.writelines(
            f"   <Marker><MarkerX>{x}</MarkerX><MarkerY>{y}</MarkerY><MarkerZ>{z}</MarkerZ></Marker>\n"
            for z, y, x in np.rint(points).astype(np.int64).tolist()
        )
        stream.write("  </Marker_Type>\n </Marker_Data>\n</CellCounter_Marker_File>\n")
