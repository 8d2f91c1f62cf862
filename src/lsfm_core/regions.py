"""Label tables: what the ids of a labels channel mean."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lsfm_core.errors import SourceError

__all__ = ["Label", "LabelTable"]

_ITKSNAP_LINE = re.compile(r"\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+(\d+)\s+(\d+)\s+\"(.*)\"\s*$")
_NAME_WITH_ACRONYM = re.compile(r"(.*\S)\s*\(([^()]+)\)$")
# Column names that people use, most specific first.
_ID = ("id", "label", "index", "idx", "structure_id")
_NAME = ("name", "structure_name", "region", "safe_name")
_ACRONYM = ("acronym", "abbreviation", "abbrev")
_PARENT = ("parent_structure_id", "parent_id", "parent")
_COLOUR = ("color_hex_triplet", "colour", "color", "rgb_triplet")


@dataclass(frozen=True)
class Label:
    """One id of a labels channel.

    Attributes
    ----------
    id : int
    name : str
    acronym : str or None
    rgb : tuple of 3 int, or None
        0 to 255.
    parent : int or None
        The region that this one is a part of.
    """

    id: int
    name: str
    acronym: str | None = None
    rgb: tuple[int, int, int] | None = None
    parent: int | None = None


class LabelTable(Mapping[int, Label]):
    """Labels by id, in the order in which they were listed."""

    def __init__(self, labels: Iterable[Label]) -> None:
        self._labels = {label.id: label for label in labels}

    def __getitem__(self, key: int) -> Label:
        return self._labels[key]

    def __iter__(self) -> Iterator[int]:
        return iter(self._labels)

    def __len__(self) -> int:
        return len(self._labels)

    @classmethod
    def read(cls, path: Path) -> LabelTable:
        """Read an ITK-SNAP label description, the Allen structure tree, or another CSV with id and name.

        A CSV may have columns for acronym, colour (hex triplet) or r, g, b, and parent. Separators: comma, semicolon, tab.

        Raises
        ------
        SourceError
            That names every line that cannot be understood (the first ten).
        """
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{path}: cannot be read as a label table: {error}") from error
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if not lines:
            raise SourceError(f"{path}: holds no label")
        defects: list[str] = []
        if _ITKSNAP_LINE.match(lines[0]):
            labels = list(_read_itksnap(lines, defects))
        else:
            labels = list(_read_csv(path, "\n".join(lines), defects))
        ids = [label.id for label in labels]
        defects += (
            [f"id {key} is listed twice" for key in sorted({key for key in ids if ids.count(key) > 1})]
            if len(set(ids)) < len(ids)
            else []
        )
        if defects:
            more = f" (and {len(defects) - 10} more)" if len(defects) > 10 else ""
            raise SourceError(f"{path}: {'; '.join(defects[:10])}{more}")
        return cls(labels)

    @classmethod
    def from_json(cls, text: str) -> LabelTable:
        """Read back what `to_json` gave."""
        return cls(Label(**{**row, "rgb": tuple(row["rgb"]) if row["rgb"] else None}) for row in json.loads(text))

    def to_json(self) -> str:
        """The table as a JSON list of objects with the fields of `Label`."""
        return json.dumps([asdict(label) for label in self.values()])


def _read_itksnap(lines: list[str], defects: list[str]) -> Iterator[Label]:
    for line in lines:
        match = _ITKSNAP_LINE.match(line)
        if match is None:
            defects.append(f"not a line of an ITK-SNAP label description: {line.strip()!r}")
            continue
        # ITK-SNAP has no acronyms; the Allen labels carry them in parentheses.
        parts = _NAME_WITH_ACRONYM.match(match[8])
        name, acronym = (parts[1], parts[2]) if parts else (match[8], None)
        yield Label(int(match[1]), name, acronym, (int(match[2]), int(match[3]), int(match[4])))


def _read_csv(path: Path, text: str, defects: list[str]) -> Iterator[Label]:
    header = text.splitlines()[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=separator)
    columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}

    def column(names: tuple[str, ...]) -> str | None:
        return next((columns[name] for name in names if name in columns), None)

    id_column, name_column = column(_ID), column(_NAME)
    if id_column is None or name_column is None:
        raise SourceError(f"{path}: no label table: expected columns id and name, found {', '.join(columns) or 'none'}")
    acronym, parent, colour = column(_ACRONYM), column(_PARENT), column(_COLOUR)
    for number, row in enumerate(reader, 2):
        try:
            rgb = _colour(row[colour]) if colour else None
            if rgb is None and {"r", "g", "b"} <= set(columns):
                rgb = (int(row[columns["r"]]), int(row[columns["g"]]), int(row[columns["b"]]))
            yield Label(
                int(row[id_column]),
                row[name_column].strip(),
                (row[acronym] or "").strip() or None if acronym else None,
                rgb,
                int(float(row[parent])) if parent and row[parent] else None,
            )
        except (ValueError, TypeError, AttributeError):
            defects.append(f"line {number} is no label: {separator.join(v for v in row.values() if isinstance(v, str))!r}")


def _colour(text: str | None) -> tuple[int, int, int] | None:
    if not text:
        return None
    value = bytes.fromhex(text.strip().lstrip("#").zfill(6))
    return value[0], value[1], value[2]
