"""What a file may name: only files in its own folder or below, whoever wrote it.

A data set from a stranger can name any file of the person who opens it: as detached data of a header, as a link to another HDF5
file, as a plane that is a symbolic link. What is named so would go into exports. One function decides, after symbolic links are
resolved; whoever means it says so with `allow_outside`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

__all__ = ["allow_outside", "is_inside", "is_outside_allowed"]

_outside_allowed: ContextVar[bool] = ContextVar("lsfm_core_outside_allowed", default=False)


def is_inside(path: str | os.PathLike[str], owner: str | os.PathLike[str]) -> bool:
    """Whether a file may be opened because another one names it.

    Parameters
    ----------
    path : path
        What is named; relative paths are taken from the working directory.
    owner : path
        The file that names it, or that it belongs to; symbolic links are resolved in both.

    Returns
    -------
    bool
        True if it lies in the owner's folder or below, where the owner is named or where it really is; or within `allow_outside`.
    """
    if _outside_allowed.get():
        return True
    place = Path(os.path.realpath(path))
    owner = Path(owner)
    folders = {Path(os.path.realpath(owner.parent)), Path(os.path.realpath(owner)).parent}
    return any(place.is_relative_to(folder) for folder in folders)


def is_outside_allowed() -> bool:
    """Whether this is within `allow_outside`: for what is opened now, and looks for files later."""
    return _outside_allowed.get()


@contextmanager
def allow_outside() -> Iterator[None]:
    """Within the block, files that are opened may name files anywhere: for data sets whose makers are known.

    It counts for what this thread opens, and for as long as that stays open.
    """
    token = _outside_allowed.set(True)
    try:
        yield
    finally:
        _outside_allowed.reset(token)
