"""Files of points by themselves: what they hold, whatever image they belong to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
import numpy.typing as npt

from lsfm_core.durable import new_files
from lsfm_core.errors import InputError, LsfmError
from lsfm_core.export._csv import PointTable, text_cell, write_rows
from lsfm_core.export._markers import MarkerTable, write_markers

__all__ = [
    "COLUMNS",
    "Place",
    "PointList",
    "PointListTable",
    "is_markers",
    "is_point_file",
    "open_table",
    "read_points",
    "write_points",
]

FloatArray = npt.NDArray[np.float64]
PointListTable = PointTable | MarkerTable
Place = Literal["native-voxel", "native-mm", "output-mm", "output-voxel"]

#: What three columns may be called; those that we write come after those of others, and x, y, z, which can mean either, last.
COLUMNS: dict[Place, tuple[tuple[str, str, str], ...]] = {
    "native-voxel": (
        ("z", "y", "x"),
        ("axis-0", "axis-1", "axis-2"),
        ("0", "1", "2"),
        ("coordinate_raw_axis_0", "coordinate_raw_axis_1", "coordinate_raw_axis_2"),
        ("z_vox", "y_vox", "x_vox"),
    ),
    "native-mm": (("R", "A", "S"), ("R_mm", "A_mm", "S_mm"), ("x", "y", "z")),
    "output-mm": (("R", "A", "S"), ("R_mm", "A_mm", "S_mm"), ("x", "y", "z")),
    "output-voxel": (("i", "j", "k"), ("i_vox", "j_vox", "k_vox")),
}
#: In which a file that is read by itself can tell positions.
_ALONE: tuple[Place, ...] = ("native-voxel", "native-mm")
_MARKERS = ".xml"
_TABLES = (".csv", ".tsv", ".txt")
#: The XML declaration and a comment may precede the root.
_HEAD_BYTES = 4096
_ROOT = b"<CellCounter_Marker_File"
#: 1 nm, and a millionth of a voxel.
_DECIMALS = 6


@dataclass(frozen=True, eq=False)
class PointList:
    """What a file of points holds.

    Attributes
    ----------
    points : array (n, 3)
    place : {"native-voxel", "native-mm"}
        What the positions are: indices of voxels, planes, rows, columns; or R, A, S in mm.
    columns : dict of str to sequence
        All else that the file tells of each point, by the names of its columns.
    remarks : tuple of str
        What the user should look at.
    """

    points: FloatArray
    place: Place
    columns: dict[str, Sequence[Any]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def is_markers(path: Any) -> TypeGuard[Path]:
    """Whether a path is that of an XML file."""
    return isinstance(path, Path) and path.suffix.lower() == _MARKERS


def is_point_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file looks like one of points, of which only the beginning is read; False where it cannot be read.

    Parameters
    ----------
    path : path
        cellfinder's XML, or CSV whose first line names three columns as `read_points` knows them.
    """
    path = Path(path)
    try:
        if is_markers(path):
            with path.open("rb") as stream:
                return _ROOT in stream.read(_HEAD_BYTES).replace(b"\0", b"")
        if path.suffix.lower() not in _TABLES:
            return False
        _find(PointTable(path))
    except (OSError, LsfmError):
        return False
    return True


def read_points(
    path: str | os.PathLike[str], *, columns: tuple[str, str, str] | None = None, marker_type: Sequence[int] | None = None
) -> PointList:
    """Read the points of a file: cellfinder's XML or that of ImageJ's Cell Counter, or CSV.

    Parameters
    ----------
    path : path
    columns : tuple of 3 str, optional
        The columns of a CSV file with planes, rows and columns of voxels. Default: by their names, see docs/points.md.
    marker_type : sequence of int, optional
        Which markers of an XML file are meant. Default: 2, cellfinder's cells.

    Raises
    ------
    LsfmError
        If the file cannot be read, holds no such columns or markers, or a position that is no number.
    """
    path = Path(path)
    table = open_table(path, marker_type)
    place, three = _find(table) if columns is None else ("native-voxel", table.find(columns))
    points = table.read(three)
    return PointList(points, place, table.others(three), tuple(table.remarks))


def write_points(
    path: str | os.PathLike[str],
    points: npt.ArrayLike,
    columns: Mapping[str, Sequence[Any]] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write points as `read_points` reads them.

    Parameters
    ----------
    path : path
        A name that ends in .csv, .tsv or .txt: columns ``z,y,x``, and those that are given. In .xml: cellfinder's XML, which
        knows whole voxels only, and no more columns.
    points : array-like (n, 3)
        Indices of voxels: planes, rows, columns.
    columns : mapping of str to sequence, optional
    overwrite : bool
        Whether the file may be replaced.

    Raises
    ------
    InputError
        If the name ends in something else, points are not finite, or a column is called as a position is.
    ExistsError, StorageError
        If there is such a file, or it cannot be written.
    """
    path = Path(path)
    given = np.asarray(points, np.float64).reshape(-1, 3)
    if not np.isfinite(given).all():
        raise InputError(f"{path}: points are not finite: remove them")
    if not is_markers(path) and path.suffix.lower() not in _TABLES:
        raise InputError(f"{path}: points are written as CSV or XML: choose a name that ends in {', '.join((*_TABLES, _MARKERS))}")
    more = dict(columns or {})
    twice = sorted({"z", "y", "x"} & {name.strip().casefold() for name in more})
    if twice and not is_markers(path):
        raise InputError(f"{path}: there would be two columns {', '.join(twice)}: rename the feature of the points")
    with new_files([path], overwrite) as (partial,):
        if is_markers(path):
            write_markers(partial, given)
            return
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        header = separator.join(["z", "y", "x", *(text_cell(name, separator) for name in more)])
        # Zero is added because a rounded -0.0000001 would be written as -0.
        cells = zip(*(np.round(given, _DECIMALS) + 0.0).T.tolist(), *more.values(), strict=True)
        write_rows(
            partial,
            [header],
            (
                separator.join([f"{z:.15g}", f"{y:.15g}", f"{x:.15g}", *(text_cell(_text(v), separator) for v in rest)])
                for z, y, x, *rest in cells
            ),
        )


def open_table(path: Path, marker_type: Sequence[int] | None) -> PointListTable:
    """The table of a file, whose columns are still to be found."""
    return MarkerTable(path, marker_type) if is_markers(path) else PointTable(path)


def _find(table: PointListTable) -> tuple[Place, tuple[int, int, int]]:
    """What the positions of a table are, and which columns hold them."""
    for place in _ALONE[:-1]:
        try:
            return place, table.find(*COLUMNS[place])
        except InputError:
            continue
    try:
        return _ALONE[-1], table.find(*COLUMNS[_ALONE[-1]])
    except InputError:
        # Says what the most usual ones are called.
        table.find(*COLUMNS[_ALONE[0]])
        raise


def _text(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and isnan(value)) else str(value)
