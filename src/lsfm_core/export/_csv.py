"""Tables of points in CSV files: which columns hold the coordinates, what they say, and the same table with columns added."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from math import isfinite
from operator import methodcaller
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError, SourceError
from lsfm_core.tables import encoding_of, separator_of

__all__ = ["PointTable", "text_cell", "write_rows"]

_LISTED = 10
_FORMULA_SIGNS = "=+-@\t\r"
_BLOCK_BYTES = 2**24
_BATCH_CHARACTERS = 2**22
_BATCH_ROWS = 2**16


class PointTable:
    """A CSV file with a header, read anew whenever its rows are asked for: they may be many, and only their numbers are kept.

    Parameters
    ----------
    path : Path
        Text in an encoding that `encoding_of` finds; separated by whichever of comma, semicolon and tab is most frequent in the
        first line.

    Attributes
    ----------
    header : list of str
    separator : str
    decimal : str
        What stands before the decimals of the coordinates: a point or, where commas do not separate, a comma. Known once they
        were read.
    remarks : list of str
        What the user should look at.

    Raises
    ------
    SourceError, MissingError
        If it cannot be read, or is empty; if there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.decimal = "."
        self.remarks: list[str] = []
        self._encoding = encoding_of(path)
        with path.open("rb") as stream:
            self._has_quotes = any(b'"' in block for block in iter(lambda: stream.read(_BLOCK_BYTES), b""))
        with self._open() as stream:
            self.separator = separator_of(stream.readline())
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
            if wanted == ["axis-0", "axis-1", "axis-2"] and "axis-3" in names:
                raise InputError(
                    f"{self.path}: line 1: these points have more than three axes: {listing}: say which three are meant (--columns)"
                )
            a, b, c = (names.index(name) for name in wanted)
            return a, b, c
        raise InputError(
            f"{self.path}: line 1: expected columns {' or '.join(','.join(s) for s in spellings)}, found {listing}: name the "
            "columns in the first line, or say which three are meant (--columns)"
        )

    def read(self, columns: tuple[int, int, int]) -> npt.NDArray[np.float64]:
        """The coordinates (n, 3) in three columns.

        Raises
        ------
        SourceError
            That says what is wrong in each line (the first ten).
        """
        rows, is_whole = -1, True
        for batch, is_regular in self._batches():
            rows += len(batch)
            is_whole &= is_regular
        for decimal in (".", ",") if self.separator != "," else (".",):
            points = self._parsed(columns, decimal) if is_whole else None
            if points is not None and len(points) == rows and np.isfinite(points).all():
                self.decimal = decimal
                return points
        raise SourceError(f"{self.path}: {self._defects(columns)}: correct or remove them")

    def others(self, columns: tuple[int, int, int]) -> dict[str, Sequence[Any]]:
        """What stands in all columns but these, by their names: numbers where all of a column are, else texts."""
        import pandas

        rest = [k for k in range(len(self.header)) if k not in columns]
        frame = pandas.read_csv(
            self.path,
            sep=self.separator,
            decimal=self.decimal,
            header=0,
            names=list(range(len(self.header))),
            usecols=rest,
            index_col=False,
            encoding=self._encoding,
            encoding_errors="replace",
        )
        return {self.header[k].strip() or f"column {k + 1}": frame[k].tolist() for k in rest}

    def write(self, path: Path, names: Sequence[str], rows: Iterable[str]) -> None:
        """The same table with more columns: their names, and for each row their cells, separated and quoted.

        What the input has is copied as it stands, but for encoding (UTF-8) and line ends.
        """
        added = chain([self.separator.join(names)], rows)
        with path.open("w", newline="", encoding="utf-8") as stream:
            for batch, _ in self._batches():
                pairs = zip(batch, islice(added, len(batch)), strict=True)
                stream.write("".join([f"{row}{self.separator}{cells}\n" for row, cells in pairs]))

    def _parsed(self, columns: tuple[int, int, int], decimal: str) -> npt.NDArray[np.float64] | None:
        """The coordinates as pandas reads them, ten times as fast as cell by cell; None if some cell is no number."""
        import pandas

        try:
            frame = pandas.read_csv(
                self.path,
                sep=self.separator,
                decimal=decimal,
                header=0,
                names=list(range(len(self.header))),
                usecols=list(columns),
                index_col=False,
                dtype=np.float64,
                encoding=self._encoding,
                encoding_errors="replace",
            )
        except (ValueError, OverflowError):  # pandas' own errors of parsing are ValueErrors
            return None
        return np.ascontiguousarray(frame[list(columns)].to_numpy(np.float64))

    def _defects(self, columns: tuple[int, int, int]) -> str:
        """What is wrong in the first lines that are."""
        defects: list[str] = []
        count = 0
        # Commas are decimals where some coordinate has them and nothing but them.
        commas = self.separator != ","
        for line, row in self._rows():
            if len(row) == len(self.header) and all(_is_number(row[k], commas) for k in columns):
                continue
            count += 1
            if count <= _LISTED:
                defects.append(f"line {line}: {self._defect(row, columns, commas)}")
        if not defects:
            return "some coordinates have decimal points, others decimal commas"
        more = f" (and {count - _LISTED} more lines)" if count > _LISTED else ""
        return f"{'; '.join(defects)}{more}"

    def _defect(self, row: Sequence[str], columns: tuple[int, int, int], commas: bool) -> str:
        if len(row) != len(self.header):
            return f"{len(row)} cells, but the header has {len(self.header)}"
        wrong = [f"{self.header[k].strip()} is {row[k]!r}" for k in columns if not _is_number(row[k], commas)]
        return f"{', '.join(wrong)}, not a finite number"

    def _batches(self) -> Iterator[tuple[list[str], bool]]:
        """Texts of some rows after the other, the header's first, and whether all of them have as many cells as it has."""
        wanted = len(self.header)
        with self._open() as stream:
            if self._has_quotes:
                rows = self._quoted_rows(stream)
                while batch := list(islice(rows, _BATCH_ROWS)):
                    yield [row for row, _ in batch], all(cells == wanted for _, cells in batch)
                return
            while text := stream.read(_BATCH_CHARACTERS):
                text += stream.readline()
                # All at once, which takes a third of what it takes line by line.
                if "\r" in text:
                    text = text.replace("\r\n", "\n").replace("\r", "\n")
                # A blank line is no row.
                texts = [row for row in text.split("\n") if row]
                yield texts, {*map(methodcaller("count", self.separator), texts)} <= {wanted - 1}

    def _quoted_rows(self, stream: TextIO) -> Iterator[tuple[str, int]]:
        """Text and number of cells of each row, which may go on in the next line where a cell is quoted."""
        taken: list[str] = []

        def lines() -> Iterator[str]:
            for line in stream:
                taken.append(line)
                yield line

        for cells in csv.reader(lines(), delimiter=self.separator):
            if cells:
                yield "".join(taken).rstrip("\r\n"), len(cells)
            taken.clear()

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
        try:
            with self.path.open(newline="", encoding=self._encoding, errors="replace") as stream:
                yield stream
        except (OSError, csv.Error) as error:
            raise SourceError(f"{self.path}: cannot be read as a CSV file: {error}") from error


def text_cell(cell: str, separator: str) -> str:
    """A text as a cell of a CSV file, which no spreadsheet takes for a formula: such a one gets an apostrophe before it."""
    if cell[:1] in _FORMULA_SIGNS and cell and not _is_number(cell, commas=False):
        cell = f"'{cell}"
    return _quoted(cell, separator)


def _quoted(cell: str, separator: str) -> str:
    """A cell as a CSV file has it."""
    return '"' + cell.replace('"', '""') + '"' if {*cell} & {separator, '"', "\r", "\n"} else cell


def write_rows(path: Path, header: Sequence[str], rows: Iterable[str]) -> None:
    """A CSV file in UTF-8, of lines whose cells are separated and quoted."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        stream.writelines(f"{row}\n" for row in chain(header, rows))


def _is_number(text: str, commas: bool) -> bool:
    try:
        return isfinite(float(text.replace(",", ".") if commas else text))
    except ValueError:
        return False
