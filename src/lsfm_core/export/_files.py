"""Many output files at once: their names, and what forbids them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from lsfm_core.errors import InputError, StorageError
from lsfm_core.progress import size_text

__all__ = ["check_not_read", "check_room", "numbered"]

_NUMBER = re.compile(r"%(?:0?\d)?d")
_FOREIGN = re.compile(r"%(?!(?:0?\d)?d)")


def numbered(pattern: Path, numbers: Sequence[int]) -> Path:
    """A name with numbers put in the places of its ``%d`` or ``%04d``.

    Raises
    ------
    InputError
        If the name has not just as many places, or another ``%``.
    """
    name = pattern.name
    if len(_NUMBER.findall(name)) != len(numbers) or _FOREIGN.search(name):
        raise InputError(f"{pattern}: expected {len(numbers)} number(s) in the name, each written %d or %04d, and no other %")
    values = iter(numbers)
    return pattern.with_name(_NUMBER.sub(lambda match: match[0] % next(values), name))


def check_not_read(output: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that is read as well, even where it may be overwritten.

    Raises
    ------
    InputError
    """
    if output.exists() and any(path.exists() and path.samefile(output) for path in inputs):
        raise InputError(f"output: {output} is read for this as well, and would be lost: choose another name")


def check_room(path: Path, nbytes: int) -> None:
    """Refuse to begin what may need more bytes than are free on the disk of `path`, whose folder may not be there yet.

    Raises
    ------
    StorageError
    """
    free = shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir())).free
    if nbytes > free:
        raise StorageError(
            f"{path}: may need {size_text(nbytes)}, and {size_text(free)} are free on its disk: make room, or choose another folder"
        )
