"""Label tables: what the ids of a labels channel mean."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from lsfm_core.errors import InputError, SourceError, UnknownRegionError, check_file

__all__ = ["Label", "LabelTable", "read_label_table"]

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
        """Read an ITK-SNAP label description, the Allen structure tree, or another CSV with id and name.

        A CSV may have columns for acronym, colour (hex triplet) or r, g, b, and parent. Separators: comma, semicolon, tab.

        Raises
        ------
        SourceError
            That names every line that cannot be understood (the first ten).
        MissingError
            If there is no such file.
        """
        check_file(path)
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
