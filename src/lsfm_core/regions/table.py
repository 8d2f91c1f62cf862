"""Label tables: what the ids of a labels channel mean."""

from __future__ import annotations

import colorsys
import csv
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from lsfm_core.errors import InputError, SourceError, UnknownRegionError
from lsfm_core.tables import read_text, separator_of, whole_number

__all__ = ["Label", "LabelTable", "read_label_table", "rgb_of"]

_ITKSNAP_LINE = re.compile(r"\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+(\d+)\s+(\d+)\s+\"(.*)\"\s*$")
#: FreeSurfer's and 3D Slicer's: id, name, red, green, blue, opacity, or rather transparency.
_COLOUR_TABLE_LINE = re.compile(r"\s*(\d+)\s+(\"[^\"]+\"|\S.*?)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s*$")
_NAME_WITH_ACRONYM = re.compile(r"(.*\S)\s*\(([^()]+)\)$")
# Column names that people use, most specific first.
_ID = ("id", "label", "index", "idx", "structure_id", "labelvalue", "label value", "integer label")
_NAME = ("name", "structure_name", "region", "safe_name", "text label")
_ACRONYM = ("acronym", "abbreviation", "abbrev")
_PARENT = ("parent_structure_id", "parent_id", "parent")
_PATH = ("structure_id_path", "id_path")
_COLOUR = ("color_hex_triplet", "rgb_triplet", "colour", "color", "hex", "rgb")
_RGB = (("r", "g", "b"), ("red", "green", "blue"), ("color_r", "color_g", "color_b"))
_DARKEST_REGION = 0.35
#: Characters of a structure that an error shows.
_SHOWN = 100

Rgb = tuple[int, int, int]


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

    def __str__(self) -> str:
        return f"{self.name!r} ({f'{self.acronym}, ' if self.acronym else ''}id {self.id})"


class LabelTable(Mapping[int, Label]):
    """Labels by id, in the order in which they were listed, and the tree that their parents make.

    An empty table is that of a channel which has none: it takes every id for a region.
    """

    def __init__(self, labels: Iterable[Label] = ()) -> None:
        self._labels = {label.id: label for label in labels}

    def __getitem__(self, key: int) -> Label:
        return self._labels[key]

    def __iter__(self) -> Iterator[int]:
        return iter(self._labels)

    def __len__(self) -> int:
        return len(self._labels)

    @classmethod
    def read(cls, path: Path) -> LabelTable:
        """Read an ITK-SNAP label description, a colour table, a CSV with id and name, or JSON.

        Colour tables are FreeSurfer's and 3D Slicer's (.ctbl); JSON may be BrainGlobe's structures or Allen's structure graph.

        Beside id and name there may be acronym, colour (hex, a list, or r, g, b) and parent (its id, or the path of ids from the
        top). Separators of a CSV: comma, semicolon, tab. In JSON, structures are listed, or nested as each other's children.

        Raises
        ------
        SourceError
            That names every line that cannot be understood (the first ten).
        MissingError
            If there is no such file.
        """
        text = read_text(path)
        defects: list[str] = []
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if not lines:
            raise SourceError(f"{path}: holds no label")
        if lines[0].lstrip()[:1] in ("[", "{"):
            labels = list(_read_json(path, text, defects))
        elif _ITKSNAP_LINE.match(lines[0]):
            labels = list(_read_itksnap(lines, defects))
        elif _COLOUR_TABLE_LINE.match(lines[0]):
            labels = list(_read_colour_table(lines, defects))
        else:
            labels = list(_read_csv(path, "\n".join(lines), defects))
        twice = [key for key, times in Counter(label.id for label in labels).items() if times > 1]
        defects += [f"id {key} is listed twice" for key in sorted(twice)]
        defects += [f"a region is a part of itself: {' -> '.join(map(str, circle))}" for circle in _circles(labels)]
        if defects:
            more = f" (and {len(defects) - 10} more)" if len(defects) > 10 else ""
            raise SourceError(f"{path}: {'; '.join(defects[:10])}{more}")
        return cls(labels)

    @classmethod
    def from_json(cls, text: str | None) -> LabelTable:
        """Read back what `to_json` gave; an empty table for None, which a channel without a table has."""
        return cls(Label(**{**row, "rgb": tuple(row["rgb"]) if row["rgb"] else None}) for row in json.loads(text or "[]"))

    def to_json(self) -> str:
        """The table as a JSON list of objects with the fields of `Label`."""
        return json.dumps([asdict(label) for label in self.values()])

    # --- naming regions -----------------------------------------------------------------------------------------------------

    def find(self, selector: str | int) -> Label:
        """The region of an id, else of an acronym (its case may differ if that is unambiguous), else of a name in any case.

        Raises
        ------
        UnknownRegionError
            That suggests the nearest acronyms and names.
        InputError
            If several regions are meant; lists them.
        """
        text = str(selector).strip()
        if re.fullmatch(r"-?\d+", text) and (int(text) in self or not self):
            return self.get(int(text)) or Label(int(text), text)
        if not self:
            raise UnknownRegionError(f"no region {text!r}: the channel has no label table, so a region is named by its id only")
        folded = text.casefold()
        for matches in (
            [label for label in self.values() if label.acronym == text],
            [label for label in self.values() if label.acronym is not None and label.acronym.casefold() == folded],
            [label for label in self.values() if label.name.casefold() == folded],
        ):
            if len(matches) > 1:
                raise InputError(f"region {text!r} may be {' or '.join(map(str, matches))}: name it by its id")
            if matches:
                return matches[0]
        names: dict[str, list[Label]] = defaultdict(list)
        for label in self.values():
            for name in (label.acronym, label.name):
                names[(name or "").casefold()].append(label)
        near = dict.fromkeys(label for name in get_close_matches(folded, names) for label in names[name])
        hint = f"did you mean {' or '.join(map(str, near))}?" if near else f"the label table has {len(self)} others"
        raise UnknownRegionError(f"no region {text!r}: {hint}")

    def select(self, selectors: Iterable[str | int], include_descendants: bool) -> tuple[int, ...]:
        """Ids of all that `find` finds, in order and each once; if wanted, with all that is part of them.

        Raises
        ------
        UnknownRegionError, InputError
            As `find`.
        """
        found = [self.find(selector).id for selector in selectors]
        if include_descendants:
            found = [part for key in found for part in self.descendants(key)]
        return tuple(dict.fromkeys(found))

    def search(self, text: str, limit: int) -> tuple[Label, ...]:
        """What somebody who types `text` may mean, best first.

        What equals it comes before what begins with it, and that before what contains it; ids come before acronyms and these
        before names; else the table's order holds.
        """
        folded = text.strip().casefold()
        ranked = []
        for label in self.values():
            keys = [key.casefold() for key in (str(label.id), label.acronym or "", label.name)]
            degrees = [0 if key == folded else 1 if key.startswith(folded) else 2 for key in keys]
            ranks = [rank for rank, key in zip(zip(degrees, range(3), strict=True), keys, strict=True) if folded in key]
            if ranks:
                ranked.append((min(ranks), label))
        ranked.sort(key=lambda pair: pair[0])
        return tuple(label for _, label in ranked[:limit])

    # --- the tree -----------------------------------------------------------------------------------------------------------

    def children(self, key: int) -> tuple[int, ...]:
        """Ids of the regions that are directly part of one, in the table's order."""
        return tuple(self._children.get(key, ()))

    def descendants(self, key: int) -> tuple[int, ...]:
        """Ids of a region and of all that is part of it; each before its parts."""
        found: dict[int, None] = {}
        stack = [key]
        while stack:
            part = stack.pop()
            # A table in a file from elsewhere may run in a circle.
            if part not in found:
                found[part] = None
                stack.extend(reversed(self.children(part)))
        return tuple(found)

    def path(self, key: int) -> tuple[int, ...]:
        """Ids from the top of the tree down to a region, itself included."""
        found: dict[int, None] = {}
        above: int | None = key
        while above is not None and above not in found:
            found[above] = None
            above = self[above].parent if above in self else None
        return tuple(reversed(found))

    @cached_property
    def _children(self) -> dict[int, list[int]]:
        children = defaultdict(list)
        for label in self.values():
            if label.parent is not None:
                children[label.parent].append(label.id)
        return children


def read_label_table(labels: Path | None, ontology: Path | None) -> tuple[LabelTable | None, list[str]]:
    """The table of a labels channel: its labels, and the tree from an ontology.

    The ids are those of `labels`. A structure of the ontology is joined to the labels of its id, else of its acronym, and where it
    is a parent it is named by the label's id. Structures without a label stand in the table as well, under their own ids.

    Parameters
    ----------
    labels, ontology : Path, optional
        As `LabelTable.read` takes them; one alone is the table.

    Returns
    -------
    LabelTable or None
        None if neither was given.
    list of str
        What the user should look at.

    Raises
    ------
    SourceError
    """
    tables = [LabelTable.read(path) for path in (labels, ontology) if path is not None]
    if not tables:
        return None, []
    table, warnings = _joined(*tables) if len(tables) == 2 else (tables[0], [])
    orphans = [label for label in table.values() if label.parent is not None and label.parent not in table]
    if orphans:
        listing = _some([f"{label} is a part of {label.parent}" for label in orphans])
        warnings.append(f"{len(orphans)} region(s) are part of a region that is not listed, and now stand at the top: {listing}")
    tops = {label.id for label in orphans}
    return LabelTable(replace(label, parent=None) if label.id in tops else label for label in table.values()), warnings


def rgb_of(key: int, table: LabelTable) -> tuple[int, int, int]:
    """The table's colour, or one of our own for each id."""
    label = table.get(key)
    if label is not None and label.rgb is not None:
        return label.rgb
    # Steps of the golden ratio never come back to a hue.
    r, g, b = colorsys.hsv_to_rgb(key * 0.6180339887 % 1, 0.55, _DARKEST_REGION + (1 - _DARKEST_REGION) * (key * 0.7548 % 1))
    return round(r * 255), round(g * 255), round(b * 255)


def _joined(labels: LabelTable, ontology: LabelTable) -> tuple[LabelTable, list[str]]:
    """Both tables in one, in the ontology's order, and what did not fit."""
    structures: dict[str | None, list[Label]] = defaultdict(list)
    for structure in ontology.values():
        structures[structure.acronym].append(structure)
    owners: dict[int, list[Label]] = defaultdict(list)
    apart, doubtful = [], []
    for label in labels.values():
        namesakes = structures.get(label.acronym, []) if label.acronym is not None else []
        if label.id in ontology:
            # The label that has the structure's own id comes first: it is the one that parts refer to.
            owners[label.id].insert(0, label)
            if namesakes and ontology[label.id] not in namesakes:
                doubtful.append(label)
        elif len(namesakes) == 1:
            owners[namesakes[0].id].append(label)
        else:
            apart.append(label)
    ids = {key: own[0].id for key, own in owners.items()}
    joined = []
    for structure in ontology.values():
        parent = None if structure.parent is None else ids.get(structure.parent, structure.parent)
        joined += [
            replace(own, acronym=own.acronym or structure.acronym, rgb=own.rgb or structure.rgb, parent=parent)
            for own in owners.get(structure.id, [structure])
        ]
    warnings = []
    # Label descriptions list 0, the background, which is no structure.
    strangers = [str(label) for label in apart if label.id != 0]
    if strangers:
        warnings.append(
            f"{len(strangers)} label(s) are not in the ontology, neither by id nor by acronym, and stand outside its tree: "
            + _some(strangers)
        )
    if doubtful:
        listing = _some([str(label) for label in doubtful])
        warnings.append(
            f"{len(doubtful)} label(s) have the id of one structure and the acronym of another; the id counts: {listing}"
        )
    return LabelTable([*joined, *apart]), warnings


def _some(items: Sequence[str]) -> str:
    return "; ".join(items[:5]) + ("; …" if len(items) > 5 else "")


def _circles(labels: Iterable[Label]) -> Iterator[list[int]]:
    """Each circle of parents, once, as ids from one back to itself."""
    parents = {label.id: label.parent for label in labels}
    known: set[int] = set()
    for start in parents:
        trail: list[int] = []
        key: int | None = start
        while key in parents and key not in known:
            known.add(key)
            trail.append(key)
            key = parents[key]
        if key in trail:
            yield [*trail[trail.index(key) :], key]


def _read_itksnap(lines: list[str], defects: list[str]) -> Iterator[Label]:
    matches = [_ITKSNAP_LINE.match(line) for line in lines]
    names = [_NAME_WITH_ACRONYM.match(match[8]) for match in matches if match is not None]
    # ITK-SNAP has no acronyms; the Allen labels carry them in parentheses. Where only some have such, they are words of the names.
    have_acronyms = 2 * sum(parts is not None for parts in names) > len(names)
    for line, match in zip(lines, matches, strict=True):
        if match is None:
            defects.append(f"not a line of an ITK-SNAP label description: {line.strip()[:_SHOWN]!r}")
            continue
        parts = _NAME_WITH_ACRONYM.match(match[8]) if have_acronyms else None
        name, acronym = (parts[1], parts[2]) if parts else (match[8], None)
        yield Label(int(match[1]), name, acronym, (int(match[2]), int(match[3]), int(match[4])))


def _read_colour_table(lines: list[str], defects: list[str]) -> Iterator[Label]:
    for line in lines:
        match = _COLOUR_TABLE_LINE.match(line)
        if match is None or max(colour := [int(text) for text in match.groups()[2:5]]) > 255:
            defects.append(f"not a line of a colour table (id, name, red, green, blue, alpha): {line.strip()[:_SHOWN]!r}")
            continue
        r, g, b = colour
        yield Label(int(match[1]), match[2].strip('"'), None, (r, g, b))


def _read_csv(path: Path, text: str, defects: list[str]) -> Iterator[Label]:
    reader = csv.DictReader(io.StringIO(text), delimiter=separator_of(text.splitlines()[0]))
    columns = [name.strip().lower() for name in reader.fieldnames or () if name]
    if not {*_ID} & {*columns} or not {*_NAME} & {*columns}:
        raise SourceError(f"{path}: no label table: expected columns id and name, found {', '.join(columns)[:_SHOWN] or 'none'}")
    for number, row in enumerate(reader, 2):
        cells = [cell for cell in row.values() if isinstance(cell, str)]
        # Spreadsheets leave rows of nothing but separators.
        if not any(cell.strip() for cell in cells):
            continue
        try:
            if None in row:
                raise ValueError("more cells than columns")
            yield _label({key.strip().lower(): cell for key, cell in row.items() if key})
        except (ValueError, TypeError):
            defects.append(f"line {number} is no label: {reader.reader.dialect.delimiter.join(cells)[:_SHOWN]!r}")


def _read_json(path: Path, text: str, defects: list[str]) -> Iterator[Label]:
    try:
        # Ids may be written as 997.0, and no digit of them may be lost.
        content = json.loads(text, parse_float=Decimal)
    except (json.JSONDecodeError, RecursionError) as error:
        raise SourceError(f"{path}: begins as JSON, and is none: {error}") from error
    found = False
    for number, (row, parent) in enumerate(_structures(content, None), 1):
        found = True
        try:
            yield _label(row, parent)
        except (ValueError, TypeError):
            shown = {key: value for key, value in row.items() if not isinstance(value, (list, dict))}
            defects.append(f"structure {number} is no label: {json.dumps(shown, default=str)[:_SHOWN]}")
    if not found:
        raise SourceError(f"{path}: no label table: expected structures with id and name, found none")


def _structures(content: Any, parent: int | None) -> Iterator[tuple[dict[str, Any], int | None]]:
    """What has an id and a name in JSON, with the id of what it is nested in, if it is."""
    # Not by recursion: a file from elsewhere may be nested deeper than Python goes.
    stack = [(content, parent)]
    while stack:
        item, above = stack.pop()
        inner: list[Any] = []
        if isinstance(item, list):
            inner = item
        elif isinstance(item, dict):
            row = {str(key).strip().lower(): value for key, value in item.items()}
            if any(key in row for key in _ID) and any(key in row for key in _NAME):
                yield row, above
                inner = [row.get("children")]
                with suppress(ValueError, TypeError):
                    above = whole_number(_first(row, _ID))
            else:
                # A table by ids, or whatever Allen's interface wraps its answers into.
                inner = [{"id": key, **v} if str(key).isdigit() and isinstance(v, dict) else v for key, v in item.items()]
        stack += [(part, above) for part in reversed(inner) if isinstance(part, (list, dict))]


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    """What stands under the first of some names that the row has."""
    return next((row[name] for name in names if name in row), None)


def _label(row: Mapping[str, Any], parent: int | None = None) -> Label:
    """A row, by its names in small letters; raises ValueError or TypeError if it is none."""
    key, name = whole_number(_first(row, _ID)), _first(row, _NAME)
    if key is None or name is None:
        raise ValueError("neither id nor name may be missing")
    above = whole_number(_first(row, _PARENT))
    if above is None:
        above = parent
    if above is None:
        path = _path(_first(row, _PATH))
        # Paths end in the structure itself.
        path = path[:-1] if path[-1:] == [key] else path
        above = path[-1] if path else None
    acronym = str(_first(row, _ACRONYM) or "").strip()
    # That a region is a part of nothing is written as 0 or -1 as well.
    return Label(key, str(name).strip(), acronym or None, _colour(row), None if above is None or above <= 0 else above)


def _path(value: Any) -> list[int]:
    """Ids from the top of the tree down: a list, or a text such as ``/997/8/``."""
    items = value if isinstance(value, list) else re.findall(r"\d+(?:\.0*)?(?![\d.])", str(value or ""))
    return [key for key in map(whole_number, items) if key is not None]


def _colour(row: Mapping[str, Any]) -> Rgb | None:
    """A colour as six hexadecimal digits, three numbers in a list or a text, or r, g, b in places of their own."""
    value = _first(row, _COLOUR)
    if isinstance(value, str) and not value.strip():
        value = None
    if value is None:
        for names in _RGB:
            parts = [row.get(name) for name in names]
            if all(part not in (None, "") for part in parts):
                return _rgb(parts)
        return None
    if isinstance(value, (list, tuple)):
        return _rgb(value)
    text = str(value).strip()
    if re.fullmatch(r"(?:#|0[xX])?[0-9a-fA-F]{1,6}", text):
        # What a spreadsheet took for a number has lost its leading zeros.
        r, g, b = bytes.fromhex(re.sub(r"^(#|0[xX])", "", text).zfill(6))
        return r, g, b
    return _rgb(re.findall(r"[-+.\deE]+", re.sub(r"^\w+\(", "", text.strip("[]() "))))


def _rgb(parts: Sequence[Any]) -> Rgb:
    if len(parts) not in (3, 4):
        raise ValueError(f"{parts} is no colour")
    texts = [str(part).strip().replace(",", ".") for part in parts[:3]]
    values = [float(text) for text in texts]
    # Colours from 0 to 1 have a point in them.
    if max(values) <= 1 and any("." in text for text in texts):
        values = [round(255 * value) for value in values]
    r, g, b = map(whole_number, map(str, values))
    if r is None or g is None or b is None or not all(0 <= v <= 255 for v in (r, g, b)):
        raise ValueError(f"{parts} is no colour")
    return r, g, b
