"""XML is read in the encoding that it has, not only in the one that it declares."""

from __future__ import annotations

import codecs

import pytest

from lsfm_core.xml_text import decode_xml

TEXT = '<Image name="Gehirn µm Ω €" unit="µm"/>'
WESTERN = '<Image name="Gehirn € 5 µm" unit="µm"/>'


def declared(encoding: str, text: str = TEXT) -> str:
    return f'<?xml version="1.0" encoding="{encoding}"?>\n{text}'


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (declared("UTF-8").encode(), TEXT),
        (declared("utf-16").encode(), TEXT),  # as .NET writes what it had as a string
        (declared("UTF-16").encode("utf-16"), TEXT),
        (declared("UTF-16").encode("utf-16-le"), TEXT),
        (declared("UTF-8").encode("utf-16-be"), TEXT),
        (codecs.BOM_UTF8 + declared("UTF-8").encode(), TEXT),
        (declared("ISO-8859-1").encode(), TEXT),
        (declared("UTF-8", WESTERN).encode("cp1252"), WESTERN),
        (declared("ISO-8859-1", WESTERN).encode("cp1252"), WESTERN),
        (declared("utf-16", "<a>5 µm</a>").encode("latin-1"), "<a>5 µm</a>"),
        (declared("Shift_JIS", "<a>脳 x</a>").encode("shift_jis"), "<a>脳 x</a>"),
        (declared("no-such-thing").encode(), TEXT),
        (TEXT.encode() + b"\0", TEXT),
        (b"<a>\x81\xb5</a>", "<a>\x81µ</a>"),
        (declared("utf-16"), TEXT),
    ],
)
def test_text_is_read_whatever_is_declared(data: bytes | str, expected: str) -> None:
    assert decode_xml(data).strip() == expected
