"""XML as bytes to text, whatever its declaration says: microscopes and editors often declare one encoding and write another."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

__all__ = ["decode_xml"]

_DECLARATION = re.compile(r"\s*<\?xml\b(?P<rest>[^>]*)\?>")
_ENCODING = re.compile(r"""encoding\s*=\s*["']([A-Za-z0-9._:-]+)["']""")
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: How "<" or "<?" begins a text without a mark.
_STARTS = ((b"<\0\0\0", "utf-32-le"), (b"\0\0\0<", "utf-32-be"), (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))
#: One byte each: every sequence of bytes is a text in them, so that they are no evidence against UTF-8.
_WESTERN = frozenset({"ascii", "iso8859-1", "iso8859-15", "cp1252"})


def decode_xml(data: bytes | str) -> str:
    """The text of an XML document, without its declaration, for a parser to read as it is.

    A byte order mark or the bytes of the first characters tell UTF-16 and UTF-32; else the declaration is tried, UTF-8, Windows'
    cp1252 and latin-1, of which the first that fits counts. UTF-8 comes before a declared western encoding, since bytes that happen
    to be right UTF-8 hardly ever mean anything else.

    Parameters
    ----------
    data : bytes or str
        A text that was decoded already only loses its declaration.

    Returns
    -------
    str
        Never fails: what is no XML, the parser says.
    """
    text = data if isinstance(data, str) else next(_readings(data))
    text = text.strip("\ufeff\0")
    found = _DECLARATION.match(text)
    return text if found is None else text[found.end() :]


def _readings(data: bytes) -> Iterator[str]:
    for codec in _codecs(data):
        try:
            yield data.decode(codec)
        except UnicodeError:
            continue
    yield data.decode("latin-1")


def _codecs(data: bytes) -> Iterator[str]:
    yield from (codec for mark, codec in _MARKS if data.startswith(mark))
    head = data.lstrip(b" \t\r\n")
    yield from (codec for start, codec in _STARTS if head.startswith(start))
    declared = _declared(data)
    if declared is not None and declared not in _WESTERN:
        yield declared
    yield "utf-8"
    # Windows' own characters stand where latin-1 has control codes, which no XML may hold.
    yield "cp1252"


def _declared(data: bytes) -> str | None:
    """The codec that the declaration names, if it is one that could have written it as it stands."""
    declaration = _DECLARATION.match(data[:200].decode("latin-1"))
    found = _ENCODING.search(declaration["rest"]) if declaration else None
    if found is None:
        return None
    try:
        codec = codecs.lookup(found[1])
        return codec.name if "<?".encode(codec.name) == b"<?" else None
    except (LookupError, UnicodeError):
        return None
