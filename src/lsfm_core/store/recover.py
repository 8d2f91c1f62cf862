"""What interrupted changes have left is undone, or brought to its end: of one file, or of all in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from lsfm_core import durable
from lsfm_core.errors import BusyError, MissingError, UnfinishedError, check_file
from lsfm_core.provenance import clear_partials
from lsfm_core.store.opening import target_path

__all__ = [
    "recover_folder",
    "recover_lsfm",
]


def recover_lsfm(path: str | os.PathLike[str], *, force: bool = False, discard_journal: bool = False) -> tuple[str, ...]:
    """Roll back what an interrupted change has left, even if it could be resumed.

    Parameters
    ----------
    path : path
    force : bool
        Apply a journal that is damaged, or does not belong to the file, as far as it goes; and take the lock from a writer of whom
        cannot be known whether it is alive.
    discard_journal : bool
        Where the file's journal is missing, damaged or another file's, take the file as it is.

    Returns
    -------
    tuple of str
        What was done, in words; empty if there was nothing to do.

    Raises
    ------
    BusyError
        If the change is still going on.
    UnfinishedError
        If what was left does not belong together, or is damaged, and nothing was said of that.
    MissingError
        If there is no such file, nor anything that an interrupted change has left.
    StorageError
    """
    target = target_path(path)
    found = durable.give_up(target, force=force, discard=discard_journal)
    if not found:
        check_file(target)
    return found


def recover_folder(path: str | os.PathLike[str], *, force: bool = False, dry_run: bool = False) -> tuple[str, ...]:
    """Complete or clear away what processes that are dead have left in a folder: of outputs, and of HDF5 files.

    What an interrupted write could be resumed from stays, and what belongs to a process that lives.

    Parameters
    ----------
    path : path
    force : bool
        Take processes for dead of whom that cannot be known.
    dry_run : bool
        Only tell.

    Returns
    -------
    tuple of str
        What was done, or would be, in words; empty if there was nothing to do.

    Raises
    ------
    MissingError
        If there is no such folder.
    StorageError
    """
    folder = Path(path)
    if not folder.is_dir():
        raise MissingError(f"{folder}: no such folder")
    done = [*durable.clear_folder(folder, dry_run=dry_run, force=force)]
    for place in (folder, *sorted(folder.glob("*-log"))):
        records = clear_partials(place, dry_run=dry_run, force=force)
        done += [f"{record}: removed, which a killed process has left of the log" for record in records]
    for file in durable.unsettled(folder):
        if durable.waits(file):
            done.append(f"{file}: left alone: a write of it can be resumed (--resume; 'lsfm-core recover {file}' undoes it)")
        elif dry_run:
            done.append(f"{file}: a write of it was interrupted, or is going on")
        else:
            try:
                done += [f"{file}: {line}" for line in durable.give_up(file, force=force)]
            except (BusyError, UnfinishedError) as error:
                done.append(f"left alone: {error}")
    return tuple(done)
