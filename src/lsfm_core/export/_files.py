"""Many output files at once: their names, and all of them or none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lsfm_core.errors import InputError
from lsfm_core.formats import new_files

__all__ = ["new_files_in_folder", "numbered"]

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


@contextmanager
def new_files_in_folder(paths: Sequence[Path], overwrite: bool) -> Iterator[list[Path]]:
    """As `lsfm_core.formats.new_files`, in a folder that is made if it is not there, and removed again if nothing comes of it.

    Raises
    ------
    ExistsError, StorageError
    """
    folder = paths[0].parent
    is_new = not folder.exists()
    folder.mkdir(exist_ok=True, parents=True)
    try:
        with new_files(paths, overwrite) as partials:
            yield partials
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()
