"""The mark that a file carries in the middle of a change, in the place of its HDF5 signature.

So no program takes such a file for a whole one, wherever it was moved or copied to; and the journal of the change, which has the
same mark, is known to belong to it. HDF5 itself, which writes through us meanwhile, is shown the signature.
"""

from __future__ import annotations

import io
import os
import secrets
from pathlib import Path

__all__ = ["MARK_SIZE", "SIGNATURE", "is_mark", "is_marked", "mark_of", "new_mark", "read_at"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MARK_SIZE = 8
_TAG = b"\x89LS"


def new_mark() -> bytes:
    """A mark that no other change has."""
    return _TAG + secrets.token_bytes(MARK_SIZE - len(_TAG))


def is_mark(data: bytes) -> bool:
    """Whether these bytes are somebody's mark."""
    return len(data) == MARK_SIZE and data.startswith(_TAG)


def mark_of(file: io.FileIO) -> tuple[int, bytes]:
    """Where a file has its signature, or a mark instead, and what stands there; its first bytes if it has neither."""
    size, place = os.fstat(file.fileno()).st_size, 0
    while place < size:
        found = read_at(file, place, MARK_SIZE)
        if found == SIGNATURE or is_mark(found):
            return place, found
        # There HDF5 looks for it, too: a block of somebody else's may come first.
        place = max(512, 2 * place)
    return 0, read_at(file, 0, MARK_SIZE)


def is_marked(path: Path) -> bool:
    """Whether a file is in the middle of a change; False where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return is_mark(mark_of(file)[1])
    except OSError:
        return False


def read_at(file: io.FileIO, place: int, size: int) -> bytes:
    """Bytes of a file; fewer at its end."""
    file.seek(place)
    data = file.read(size) or b""
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data
