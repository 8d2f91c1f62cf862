"""Tables of points in CSV files: which columns hold the coordinates, what they say, and the same table with columns added."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError, SourceError, check_file

__all__ = ["PointTable", "write_csv"]

_LISTED = 10


class PointTable:
    """A CSV file with a header, read anew whenever its rows are asked for: they may be many, and only their numbers are kept.

    Parameters
    ----------
    path : Path
        UTF-8, with or without byte order mark; separated by whichever of comma, semicolon and tab is most frequent in the first
        line.

    Raises
    ------
    SourceError, MissingError
        If it cannot be read, or is empty; if there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as stream:
            self.separator = max(",;\t", key=stream.readline().count)
        self.header = next((row for _, row in self._lines()), [])
        if not self.header:
            raise SourceError(f"{path}: holds no table: the first line must name the columns")

    def find(self, *spellings: Sequence[str]) -> tuple[int, int, int]:
        """Places of three columns.

        Parameters
        ----------
        *spellings : sequence of 3 str
            What they may be called, in any case; the first that the header has is taken.

        Raises
        ------
        InputError
            If the header has none of them, or has one of the names twice.
        """
        names = [name.strip().casefold() for name in self.header]
        listing = ", ".join(name.strip() for name in self.header)
        for spelling in spellings:
            wanted = [name.strip().casefold() for name in spelling]
            if not set(wanted) <= set(names):
                continue
            if any(names.count(name) > 1 for name in wanted):
                raise InputError(f"{self.path}: line 1: more than one column is called so: {listing}: rename the others")
            a, b, c = (names.index(name) for name in wanted)
            return a, b, c
        raise InputError(
            f"{self.path}: line 1: expected columns {' or '.join(','.join(s) for s in spellings)}, found {listing}: name the "
            "columns in the first line, or say which three are meant (columns)"
        )

    def read(self, columns: tuple[int, int, int]) -> npt.NDArray[np.float64]:
        """The coordinates (n, 3) in three columns.

        Raises
        ------
        SourceError
            That says what is wrong in each line (the first ten).
        """
        a, b, c = columns
        values = array("d")
        defects: list[str] = []
        count = 0
        for line, row in self._rows():
            try:
                point = (float(row[a]), float(row[b]), float(row[c]))
            except (ValueError, IndexError):
                point = (np.nan,) * 3
            if len(row) == len(self.header) and all(map(isfinite, point)):
                values.extend(point)
                continue
            count += 1
            if count <= _LISTED:
                defects.append(f"line {line}: {self._defect(row, columns)}")
        if defects:
            more = f" (and {count - _LISTED} more lines)" if count > _LISTED else ""
            raise SourceError(f"{self.path}: {'; '.join(defects)}{more}: correct or remove them")
        return np.array(values, np.float64).reshape(-1, 3)

    def write(self, path: Path, names: Sequence[str], columns: Iterable[Sequence[str]]) -> None:
        """The same table with more columns: their names, and their cells row by row."""
        added = zip(self._rows(), columns, strict=True)
        write_csv(path, [*self.header, *names], ([*row, *cells] for (_, row), cells in added), self.separator)

    def _defect(self, row: Sequence[str], columns: tuple[int, int, int]) -> str:
        if len(row) != len(self.header):
            return f"{len(row)} cells, but the header has {len(self.header)}"
        wrong = [f"{self.header[k].strip()} is {row[k]!r}" for k in columns if not _is_number(row[k])]
        return f"{', '.join(wrong)}, not a finite number"

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of each row below the header."""
        lines = self._lines()
        next(lines)
        return lines

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        with self._open() as stream:
            reader = csv.reader(stream, delimiter=self.separator)
            # A blank line is no row.
            yield from ((reader.line_num, row) for row in reader if row)

    @contextmanager
    def _open(self) -> Iterator[TextIO]:
        check_file(self.path)
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as stream:
                yield stream
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{self.path}: cannot be read as a CSV file in UTF-8: {error}") from error


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]], separator: str = ",") -> None:
    """A CSV file in UTF-8, of cells that are texts."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=separator, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False
