"""Which files are the planes, or the parts, of one volume, and in which order: told by the numbers in their names."""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import median

from lsfm_core.errors import InputError, SourceError
from lsfm_core.formats._files import check_members

__all__ = ["TIFF_SUFFIXES", "Selection", "Series", "are_parts", "check_parts", "find_series", "select_files"]

TIFF_SUFFIXES = {".tif", ".tiff", ".btf", ".tf2", ".tf8"}
_ADVICE = "name one series by a quoted glob (img_*_C01.tif) or a pattern (img_%04d.tif)"
#: A comma is one between decimals where a unit follows: elsewhere it may stand between two numbers.
_DECIMALS = r"(?:\.\d+|,\d+(?=[ _]?(?:nm|um|\u00b5m|\u03bcm|mm|mic)))?"
#: How a number may be written: with a sign or without, whole or with decimals.
_WRITINGS = tuple(
    re.compile(rf"({sign}\d+{decimals})") for sign, decimals in (("", ""), ("", _DECIMALS), ("[-+]?", ""), ("[-+]?", _DECIMALS))
)
_WIDEST = _WRITINGS[-1]
_PRINTF = re.compile(r"%[-+ 0]*\d*(?:\.\d+)?[dif]")
#: A part of a stack that follows the first.
_PART = re.compile(r"(.+)[@_-](\d+)", re.DOTALL)
_MAGIC = re.compile(r"[*?\[]")
#: Words before a number that counts something else than planes, and before one that counts planes.
_OTHER = re.compile(
    r"(?:^|[^a-z])(?:c|ch|chan|channel|chn|w|wave|wavelength|lambda|ex|em|filter|laser|t|time|timepoint|tp|frame_t|x|y|row|col|column|"
    r"tile|pos|position|xy|s|series|view|angle|stack|block|cycle|scan|roi|fov)[ _=-]*$",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"(?:^|[^a-z])(?:c|ch|chan|channel|chn|w|wave|wavelength|lambda|ex|em|filter|laser)[ _=-]*$", re.IGNORECASE)
#: Lines of lasers and lamps in nm: a few files that are numbered by such only are channels.
_LINES = frozenset((
    405, 445, 458, 473, 488, 490, 491, 505, 514, 515, 520, 532, 546, 552, 555, 561, 568, 588, 590, 592, 594, 630, 633, 635, 637,
    638, 639, 640, 642, 647, 650, 655, 660, 685, 690, 730, 750, 755, 780, 785, 790, 808,
))  # fmt: skip
_MOST_CHANNELS = 8
#: Words before a number that never counts the parts of one stack.
_NO_PART = re.compile(
    r"(?:^|[^a-z])(?:c|ch|chan|channel|chn|w|wave|wavelength|lambda|ex|em|filter|laser|t|time|timepoint|tp|x|y|row|col|column|tile|pos|"
    r"position|xy|view|angle|roi|fov|sample|brain|mouse|animal|subject)[ _=-]*$|\[$",
    re.IGNORECASE,
)
_PLANE = re.compile(r"(?:^|[^a-z])(?:z|zpos|slice|section|depth)[ _=-]*$", re.IGNORECASE)
#: A counter that starts anew has at least so many values; with fewer it may count channels.
_LEAST_CYCLE = 5
#: Dates and times have at least so many digits.
_LEAST_STAMP = 6
#: Steps from plane to plane may differ by so much of themselves: positions are measured, or rounded.
_UNEVEN = 0.3
#: So many files beside a series may be none of it.
_MOST_ODD = 2
_MOST_NAMED = 5
_MOST_MISSING = 10**4


@dataclass(frozen=True)
class Series:
    """Files in the order of the volume.

    Attributes
    ----------
    files : tuple of Path
    notes : tuple of str
        What was left out, and how the names were understood where that is not plain.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selection:
    """TIFF files that the user named, by a folder or a pattern, whatever they are.

    Attributes
    ----------
    files : tuple of Path
        In alphabetical order.
    heads : tuple of Path
        The first file of each kind of name, that of the most frequent kind first.
    is_folder : bool
        Whether all files of a folder were named.
    """

    files: tuple[Path, ...]
    heads: tuple[Path, ...]
    is_folder: bool


@dataclass(frozen=True)
class _Order:
    """A way to understand the names of a group of files."""

    files: tuple[Path, ...]
    varying: int
    missing: tuple[str, ...]
    is_uneven: bool
    notes: tuple[str, ...]


def find_series(image: str | os.PathLike[str]) -> Series:
    """Files of a TIFF series, or of a stack in several parts, in the order of the number that counts them.

    Numbers are whole, or have decimals (``z_2.5um``), and may be negative. Beside the number that counts the planes, timestamps and
    counters that start anew may stand.

    Parameters
    ----------
    image : path
        A folder; one file of the series; a glob (``img_*_C01.tif``); a printf pattern (``img_%04d.tif``), or both in one
        (``*_z%03d.tif``). What exists is never a pattern.

    Raises
    ------
    InputError
        If nothing is there, or what is there is not one series.
    SourceError
        If a number is missing in the series.
    """
    path = Path(image)
    if path.is_dir():
        series = _main_series(path, _all_in(path))
    elif path.is_file():
        series = _around(path)
    else:
        series = _ordered(*_matching(path))
    check_members(series.files, path)
    return series


def select_files(image: Path) -> Selection:
    """What a folder, a glob or a pattern names, before it is known whether that is one series; a file names all like it.

    Raises
    ------
    InputError
        If nothing is there.
    """
    if image.is_file():
        shape = _name_shape(image.name)
        return Selection(tuple(f for f in _tiffs_in(image.parent) if _name_shape(f.name) == shape), (image,), False)
    files = _all_in(image) if image.is_dir() else _matching(image)[0]
    groups = _split(files, lambda file: _name_shape(file.name))
    return Selection(tuple(files), tuple(group[0] for group in groups), image.is_dir())


def _name_shape(name: str) -> str:
    """A file's name with ``#`` for its numbers."""
    return _WIDEST.sub("#", _stem(name)) + name[len(_stem(name)) :].lower()


# --- folders --------------------------------------------------------------------------------------------------------------------


def _all_in(folder: Path) -> list[Path]:
    files = _tiffs_in(folder)
    if not files:
        raise InputError(f"{folder}: no .tif or .tiff file in this folder")
    return files


def _tiffs_in(folder: Path) -> list[Path]:
    """Regular files only: to open a pipe would wait forever."""
    names = [f for f in folder.iterdir() if f.suffix.lower() in TIFF_SUFFIXES and not f.name.startswith(".")]
    # A link that leads nowhere is a plane that is missing.
    return sorted((f for f in names if f.is_file() or (f.is_symlink() and not f.exists())), key=lambda file: file.name)


def _main_series(folder: Path, files: Sequence[Path]) -> Series:
    """The series of a folder, if one of those that the names tell is clearly it."""
    firsts = _first_parts(files)
    groups = _split(files, lambda file: firsts.get(file) or _name_shape(file.name))
    if len(groups) == 1:
        try:
            return _ordered(files)
        except InputError as error:
            # A preview beside the planes may differ from them in another number only.
            groups = _by_other_numbers(files)
            if not _one_is_clear(groups):
                raise error
    if not _one_is_clear(groups):
        listing = "; ".join(_describe(group) for group in groups[:_MOST_NAMED]) + ("; …" if len(groups) > _MOST_NAMED else "")
        raise InputError(f"{folder}: the names are not one series, but {len(groups)}: {listing}: {_ADVICE}")
    chosen = _ordered(groups[0])
    odd = sorted(file.name for group in groups[1:] for file in group)
    note = f"left out, since it is not named as the others: {', '.join(odd)}"
    return replace(chosen, notes=(*chosen.notes, note))


def _first_parts(files: Iterable[Path]) -> dict[Path, str]:
    """Files that others continue (``scan.tif`` before ``scan@0001.tif``, ``scan_1.tif``), and the shape of these."""
    names = {file.name: file for file in files}
    found = {}
    for name in names:
        match = _PART.fullmatch(_stem(name))
        if match and int(match[2]) in (1, 2):
            first = match[1] + name[len(_stem(name)) :]
            if first in names and f"{match[1]}{match[0][len(match[1])]}{'0' * len(match[2])}" not in map(_stem, names):
                found[names[first]] = _name_shape(name)
    return found


def _part(first: Path, file: Path) -> bool:
    """Whether a file continues another."""
    match = _PART.fullmatch(_stem(file.name))
    return match is not None and match[1] == _stem(first.name)


def _split(files: Iterable[Path], key: Callable[[Path], Hashable]) -> list[list[Path]]:
    groups: dict[Hashable, list[Path]] = defaultdict(list)
    for file in files:
        groups[key(file)].append(file)
    return sorted(groups.values(), key=len, reverse=True)


def _one_is_clear(groups: Sequence[Sequence[Path]]) -> bool:
    odd = sum(len(group) for group in groups[1:])
    return bool(groups) and odd <= _MOST_ODD and len(groups[0]) >= max(3, 3 * odd)


def _describe(group: Sequence[Path]) -> str:
    return group[0].name if len(group) == 1 else f"{len(group)} files {group[0].name} … {group[-1].name}"


def _by_other_numbers(files: Sequence[Path]) -> list[list[Path]]:
    """Files that differ in the last number only."""
    numbers = {file: _WIDEST.findall(_stem(file.name)) for file in files}
    return _split(files, lambda file: tuple(numbers[file][:-1]))


def _around(path: Path) -> Series:
    """The series of which a file is a plane: what differs from it in the number that counts planes only."""
    files = _tiffs_in(path.parent)
    firsts = _first_parts(files)
    shape = firsts.get(path) or _name_shape(path.name)
    group = [file for file in files if (firsts.get(file) or _name_shape(file.name)) == shape] or [path]
    if any(file in firsts for file in group):
        # Of several stacks in parts, the one to which this part belongs.
        first = next((f for f in firsts if f == path or _part(f, path)), path)
        return _ordered([file for file in group if file == first or _part(first, file)] or [path])
    rows = {file: _WIDEST.split(_stem(file.name)) for file in group}
    own = rows.get(path, [])
    varying = [index for index in range(1, len(own), 2) if len({row[index] for row in rows.values()}) > 1]
    if len(varying) < 2:
        return _ordered(group)
    with suppress(InputError, SourceError):
        return _ordered(group)
    labelled = [index for index in varying if _PLANE.search(own[index - 1])]
    candidates = labelled or [index for index in varying if not _OTHER.search(own[index - 1])] or varying
    sets = []
    for index in candidates:
        others = [other for other in varying if other != index]
        sets.append([file for file in group if all(rows[file][other] == own[other] for other in others)])
    best = max(sets, key=len)
    if sum(len(found) == len(best) for found in sets) > 1 and len(best) > 1:
        raise InputError(
            f"{path}: the names beside it count along {len(varying)} numbers ({group[0].name} … {group[-1].name}): several "
            f"channels or tiles? {_ADVICE[0].upper()}{_ADVICE[1:]}"
        )
    return _ordered(best)


# --- patterns -------------------------------------------------------------------------------------------------------------------


def _matching(path: Path) -> tuple[list[Path], re.Pattern[str] | None]:
    """Files that a pattern names, and the pattern, if it says where their numbers are."""
    folders = list(_folders(path.parent))
    is_numbered = _PRINTF.search(path.name) is not None
    if not folders:
        raise InputError(f"{path}: there is no folder {path.parent}")
    for literal in (False, True):
        pattern = _regex(path.name, literal)
        files = [file for folder in folders for file in _tiffs_in(folder) if pattern.fullmatch(file.name)]
        if files:
            break
    else:
        raise InputError(f"{path}: no file found: give a folder, a file of the series, a glob, or a pattern such as img_%04d.tif")
    if len({file.parent for file in files}) > 1:
        raise InputError(f"{path}: matches files in several folders ({files[0].parent}, {files[-1].parent}): name one of them")
    return files, pattern if is_numbered else None


def _folders(path: Path) -> Iterator[Path]:
    """The folders that a path means, of which parts may be globs unless they are there as they stand."""
    if path.is_dir():
        yield path
    elif _MAGIC.search(path.name):
        pattern = _regex(path.name, literal=False)
        for parent in _folders(path.parent):
            yield from sorted(folder for folder in parent.iterdir() if folder.is_dir() and pattern.fullmatch(folder.name))
    elif path.parent != path:
        yield from (parent / path.name for parent in _folders(path.parent) if (parent / path.name).is_dir())


def _regex(name: str, literal: bool) -> re.Pattern[str]:
    """A glob with printf's numbers in it, which become groups; `literal` takes brackets as they stand."""
    text = ""
    start = 0
    for number in _PRINTF.finditer(name):
        text += _glob(name[start : number.start()], literal)
        text += r"([-+]?\d+\.\d+)" if number.group().endswith("f") else r"([-+]?\d+)"
        start = number.end()
    return re.compile(text + _glob(name[start:], literal), re.DOTALL)


def _glob(text: str, literal: bool) -> str:
    if literal:
        text = re.sub(r"\[", "[[]", text)
    # Without what it anchors the pattern by.
    return re.sub(r"^\(\?s:(.*)\)(?:\\Z|\\z)$", r"\1", fnmatch.translate(text), flags=re.DOTALL) if text else ""


# --- numbers --------------------------------------------------------------------------------------------------------------------


@lru_cache(2**14)
def _stem(name: str) -> str:
    """Without its endings, as .ome.tif: numbers in these count nothing."""
    stem = name
    while Path(stem).suffix.lower() in (*TIFF_SUFFIXES, ".ome"):
        stem = stem[: -len(Path(stem).suffix)]
    return stem


def _ordered(files: Sequence[Path], pattern: re.Pattern[str] | None = None) -> Series:
    """Files in the order of the number that counts them, as the most fitting way to read the numbers has it."""
    files = sorted(files, key=lambda file: file.name)
    if len(files) < 2:
        return Series(tuple(files))
    firsts = list(_first_parts(files))
    if len(firsts) == 1 and len(files) > 1:
        rest = _ordered([file for file in files if file != firsts[0]])
        note = f"{firsts[0].name} was taken for the part before {rest.files[0].name}"
        return Series((firsts[0], *rest.files), (*rest.notes, note))
    found: list[tuple[tuple[int, int, bool, int], _Order]] = []
    complaints: list[InputError] = []
    for rank, writing in enumerate(_WRITINGS):
        rows = [writing.split(_stem(file.name)) for file in files]
        if pattern is not None:
            rows = [_groups(pattern, file.name) for file in files]
        elif len({tuple(row[::2]) for row in rows}) > 1:
            continue
        try:
            order = _along(files, rows, told=pattern is not None)
        except InputError as error:
            complaints.append(error)
            continue
        found.append(((order.varying, len(order.missing), order.is_uneven, rank), order))
    if not found:
        if complaints:
            raise complaints[0]
        shapes = Counter(_name_shape(file.name) for file in files)
        odd = next(file for file in files if _name_shape(file.name) == shapes.most_common()[-1][0])
        raise InputError(
            f"{odd.parent}: the names are not one series: {odd.name} beside names like {shapes.most_common()[0][0]}: {_ADVICE}"
        )
    order = min(found, key=lambda entry: entry[0])[1]
    if order.missing:
        shown = ", ".join(order.missing[:_MOST_NAMED]) + (" …" if len(order.missing) > _MOST_NAMED else "")
        raise SourceError(
            f"{files[0].parent}: {len(order.missing)} plane(s) missing between {order.files[0].name} and {order.files[-1].name}: "
            f"number {shown}: find them, or ingest the part before or after"
        )
    return Series(order.files, order.notes)


def _groups(pattern: re.Pattern[str], name: str) -> list[str]:
    match = pattern.fullmatch(name)
    # As `re.split` has them: texts, and the numbers between.
    return [part for number in (match.groups() if match else ()) for part in ("", number)] + [""]


def _along(files: Sequence[Path], rows: Sequence[Sequence[str]], *, told: bool) -> _Order:
    """The order of files whose names are texts (even) and numbers (odd).

    Raises
    ------
    InputError
        If no number, or more than one, could count them.
    """
    folder = files[0].parent
    # Timestamps may be too long for floats.
    columns = {column: [Fraction(row[column].replace(",", ".")) for row in rows] for column in range(1, len(rows[0]), 2)}
    varying = [column for column, values in columns.items() if len(set(values)) > 1]
    unique = [column for column in varying if len(set(columns[column])) == len(files)]
    several = (
        f"{folder}: the names count along {len(varying)} numbers ({files[0].name} … {files[-1].name}): several channels or tiles? "
        f"{_ADVICE[0].upper()}{_ADVICE[1:]}"
    )
    if not unique:
        if len(varying) > 1:
            raise InputError(several)
        values = columns[varying[0]] if varying else [Fraction(0)] * len(files)
        twice = next(k for k in range(len(files)) if values[k] in values[:k])
        first = values.index(values[twice])
        raise InputError(f"{files[twice]}: its number occurs twice in the series, as in {files[first].name}: {_ADVICE}")
    labels = {column: rows[0][column - 1] for column in varying}
    others = [column for column in varying if column not in unique]
    if any(_OTHER.search(labels[column]) for column in others):
        raise InputError(several)
    gaps = {column: _missing(sorted(columns[column])) for column in unique}
    # Planes are counted evenly, timestamps are not; and the number of the plane stands last, as a rule.
    best = min(unique, key=lambda c: (bool(_OTHER.search(labels[c])), len(gaps[c]), not _PLANE.search(labels[c]), -c))
    order = sorted(range(len(files)), key=lambda k: columns[best][k])
    counters = [c for c in others if min(len(row[c]) for row in rows) < _LEAST_STAMP]
    # Others may begin again and again, or be rounded times; but several of them, or of few values, count tiles or channels.
    if (told and len(varying) > 1) or len(counters) > 1 or any(len(set(columns[c])) < _LEAST_CYCLE for c in counters):
        raise InputError(several)
    notes = []
    if all(row[best - 1].endswith("-") and row[best - 1][-2:-1].isalpha() for row in rows):
        notes.append(f"the '-' before the numbers ({files[0].name}) was taken for a hyphen, not for a minus")
    if len(varying) > 1:
        notes.append(
            f"several numbers in the names differ: the planes are in the order of number {best // 2 + 1} of each "
            f"({files[order[0]].name} … {files[order[-1]].name})"
        )
    label = "".join(rows[0][:best])
    if not told and len(files) <= _MOST_CHANNELS and (_CHANNEL.search(label) or set(columns[best]) <= _LINES):
        raise InputError(
            f"{folder}: the names count channels, or wavelengths ({files[order[0]].name} … {files[order[-1]].name}), not planes: "
            "name one file with all planes; or, if these are the planes of a volume, a pattern such as img_C%02d.tif"
        )
    if not told and _OTHER.search(label):
        notes.append(
            f"the files are taken for planes in the order of {label.strip(' _-=')[-20:]!r} "
            f"({files[order[0]].name} … {files[order[-1]].name})"
        )
    wording = [f"{float(value):.10g}" for value in gaps[best]]
    steps = [float(b - a) for a, b in pairwise(sorted(columns[best]))]
    step = median(steps)
    is_uneven = max(abs(width - step) for width in steps) > _UNEVEN * step
    return _Order(tuple(files[k] for k in order), len(varying), tuple(wording), is_uneven, tuple(notes))


def _missing(values: Sequence[Fraction]) -> list[Fraction]:
    """What is left out of sorted numbers that should be evenly spaced, but may have been rounded."""
    step = median(b - a for a, b in pairwise(values))
    missing: list[Fraction] = []
    for start, stop in pairwise(values):
        # Half a step more is still one, where positions were rounded.
        count = min(round((stop - start) / step - Fraction(1, 4)), _MOST_MISSING)
        missing += [start + (stop - start) * k / count for k in range(1, count)]
    return missing


def check_parts(files: Sequence[Path], planes: Sequence[int]) -> None:
    """Refuse stacks whose names do not count them as parts of one: from 0 or 1 on, or by the plane that each begins with.

    Parameters
    ----------
    files : sequence of Path
        As `find_series` has them.
    planes : sequence of int
        How many each holds.

    Raises
    ------
    InputError
    """
    rest = list(files)[1:] if files[0] in _first_parts(files) else list(files)
    rows = [_WRITINGS[0].split(_stem(file.name)) for file in rest]
    is_counted = len({tuple(row[::2]) for row in rows}) == 1
    varying = [column for column in range(1, len(rows[0]), 2) if len({row[column] for row in rows}) > 1] if is_counted else []
    labels = ["".join(rows[0][:column]) for column in varying]
    counted = [[int(row[column]) for row in rows] for column in varying] or ([[int(rows[0][-2])]] if len(rows[0]) > 1 else [])
    starts = list(planes[len(files) - len(rest) : -1])
    if any(_NO_PART.search(label) for label in labels) or not any(
        (all(b - a == 1 for a, b in pairwise(numbers)) and numbers[0] <= 2) or [b - a for a, b in pairwise(numbers)] == starts != []
        for numbers in counted
    ):
        shown = ", ".join(file.name for file in files[:_MOST_NAMED]) + (", …" if len(files) > _MOST_NAMED else "")
        raise InputError(
            f"{files[0].parent}: holds {len(files)} stacks of several planes, and their names do not count them as parts of one "
            f"({shown}): several channels, tiles or specimens? Name one of them"
        )


def are_parts(files: Sequence[Path]) -> bool:
    """Whether the names alone say that files continue each other, as cameras number them: from 0 or 1 on, with zeros before."""
    if len(_first_parts(files)) == 1 and any("@" in file.name or "MMStack" in file.name for file in files):
        return True
    numbers = [_WRITINGS[0].findall(_stem(file.name)) for file in files]
    return all(len(found) > 0 and len(found[-1]) >= 3 for found in numbers) and int(numbers[0][-1]) < 2
