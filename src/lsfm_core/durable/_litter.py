"""What killed processes have left under names that tell of no owner: small files on their way, and outputs of earlier versions.

Nobody can be asked whether their makers live. So they are taken for litter when nothing of them has changed for far longer than
making them takes, and, where a name has the number of a process, when no process here has it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lsfm_core.durable._disk import reason_of
from lsfm_core.durable._lock import is_running
from lsfm_core.errors import StorageError

__all__ = ["SMALL_SECONDS", "clear_litter"]

#: A small file is made in far less than a second, an output of an earlier version changes while it is made.
SMALL_SECONDS, _LARGE_SECONDS = 600, 86400


class _Kind(NamedTuple):
    name: re.Pattern[str]
    seconds: int
    #: It is ours only where one of these, in the name's place, is beside it.
    owners: tuple[str, ...] = ()


_KINDS = (
    _Kind(re.compile(r"\.partial-(?P<process>\d+)-.+"), _LARGE_SECONDS),
    _Kind(re.compile(r"\.merge-[a-z0-9_]{8}"), _LARGE_SECONDS),
    _Kind(re.compile(r"(?P<stem>.+\.(h5|hdf5))-lock\.[0-9a-f]{8}"), SMALL_SECONDS),
    _Kind(re.compile(r"(?P<stem>.+?)(\.settings)?\.xml(\.partial)?\.new"), SMALL_SECONDS, (".h5", ".hdf5")),
)


def clear_litter(folder: Path, *, dry_run: bool = False, force: bool = False) -> Iterator[str]:
    """Remove such litter from a folder, but for what may be of somebody who is at work, and tell of each.

    Parameters
    ----------
    folder : Path
    dry_run : bool
        Only tell.
    force : bool
        Take makers for dead of whom that cannot be known.

    Raises
    ------
    StorageError
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        for kind in _KINDS:
            match = kind.name.fullmatch(entry.name)
            if match is None or entry.is_symlink():
                continue
            if kind.owners and not any(Path(folder, match["stem"] + suffix).exists() for suffix in kind.owners):
                continue
            yield _cleared(Path(entry.path), kind, match.groupdict().get("process"), dry_run=dry_run, force=force)


def _cleared(place: Path, kind: _Kind, process: str | None, *, dry_run: bool, force: bool) -> str:
    age = time.time() - _last_change(place)
    if process is not None and is_running(int(process)):
        return f"{place}: left alone: process {process} may be at work on it"
    if age < kind.seconds and not force:
        ago = f"changed {max(0, age) / 60:.0f} min ago"
        return f"{place}: left alone: {ago}; its maker may still be at work (--force takes it for dead)"
    if not dry_run:
        try:
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{place}: cannot be cleared away: {reason_of(error)}") from error
    return f"{place}: removed, which a killed process has left"


def _last_change(place: Path) -> float:
    """When something of a file, or of all that is in a folder, has changed last, in seconds since 1970."""
    inside = place.rglob("*") if place.is_dir() else ()
    times: list[float] = []
    for path in (place, *inside):
        try:
            times.append(path.lstat().st_mtime)
        except FileNotFoundError:
            times.append(time.time())  # so somebody is at it
    return max(times)
