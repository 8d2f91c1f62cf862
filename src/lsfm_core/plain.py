"""Text from files, made fit to be shown: a terminal obeys control characters, and some turn the order of what is read."""

from __future__ import annotations

import re

__all__ = ["plain"]

#: Control characters; the marks that turn the direction of writing, by which a name looks like another; halves of characters.
_UNSHOWN = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
_IN_LINES = re.compile(f"[{_UNSHOWN}]")
_IN_A_LINE = re.compile(rf"[\t\n{_UNSHOWN}]")


def plain(text: str, *, lines: bool = False) -> str:
    """The text with every control character as its escape, as Python writes it; in `lines`, ends of lines and tabs stay."""
    return (_IN_LINES if lines else _IN_A_LINE).sub(lambda match: ascii(match[0])[1:-1], text)
