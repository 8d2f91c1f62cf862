"""Tables as people save them: their encoding, what separates their cells, and the numbers in these."""

from __future__ import annotations

import codecs
from decimal import Decimal, InvalidOperation
from pathlib import Path

from lsfm_core.errors import SourceError, check_file

__all__ = ["encoding_of", "read_text", "separator_of", "whole_number"]

_SEPARATORS = ",;\t"
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_BLOCK_BYTES = 2**24
#: More than an id of 64 bits has; fewer than those with which `int` takes long.
_MOST_DIGITS = 20


def encoding_of(path: Path) -> str:
    """What a text file is encoded in: what its byte order mark says, else UTF-8 if it is that, else latin-1 (Excel's).

    Raises
    ------
    SourceError
        If it cannot be read, or is no text.
    MissingError
        If there is no such file.
    """
    check_file(path)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as stream:
            first = stream.read(3)
            for mark, encoding in _MARKS.items():
                if first.startswith(mark):
                    return encoding
            stream.seek(0)
            is_utf8 = True
            while block := stream.read(_BLOCK_BYTES):
                if b"\0" in block:
                    raise SourceError(f"{path}: is no text file: it holds zero bytes")
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    is_utf8 = False
                    decoder.reset()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    # latin-1 with the letters and quotes that Windows puts into its gap.
    return "utf-8" if is_utf8 else "cp1252"


def read_text(path: Path) -> str:
    """All of a text file; line ends as they are.

    Raises
    ------
    SourceError, MissingError
        As `encoding_of`.
    """
    encoding = encoding_of(path)
    try:
        # The few bytes that cp1252 leaves open are those of latin-1's controls: they are no reason to fail.
        return path.read_bytes().decode(encoding, "replace" if encoding == "cp1252" else "strict")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read as text: {error}") from error


def separator_of(header: str) -> str:
    """Whichever of comma, semicolon and tab is most frequent in the first line, outside of quotes."""
    bare = "".join(header.split('"')[::2])
    return max(_SEPARATORS, key=bare.count)


def whole_number(text: object) -> int | None:
    """The integer that a cell holds, however it is written (``997``, ``997.0``, ``997,0``); None for an empty one.

    Raises
    ------
    ValueError
        If it holds anything else.
    """
    if text is None or isinstance(text, int):
        return None if text is None else int(text)
    cell = str(text).strip()
    if cell.casefold() in ("", "nan", "none", "null", "na", "n/a"):
        return None
    try:
        # Not by floats: of integers beyond 2**53 no digit may be lost.
        value = Decimal(cell.replace(",", ".") if cell.count(",") == 1 else cell)
    except InvalidOperation:
        raise ValueError(f"{cell!r} is no number") from None
    if not value.is_finite() or value.adjusted() > _MOST_DIGITS or value != value.to_integral_value():
        raise ValueError(f"{cell!r} is not a whole number")
    return int(value)
