"""What is done about a change whose writer is dead: it is undone, or brought to its end, if journal and file belong together."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path

from isal import isal_zlib

from lsfm_core.durable._disk import write_all
from lsfm_core.durable._journal import PAGE, Commit, Journal
from lsfm_core.durable._lock import drop_dead_lock, lock, lock_path
from lsfm_core.durable._mark import SIGNATURE, is_mark, is_marked, mark_of, read_at
from lsfm_core.durable._places import (
    checkpoint_path,
    clear,
    journal_path,
    opened,
    partial_path,
    real_path,
    remove_parts,
    telling,
    unnamed,
    waits,
    xml_partial_path,
)
from lsfm_core.durable._steps import damaged, finish, foreign, is_as_before, is_result, lost, restore
from lsfm_core.errors import BusyError, StorageError, UnfinishedError

__all__ = [
    "give_up",
    "recover",
    "settle",
]


def recover(path: Path) -> bool:
    """Do what a dead writer left undone: roll its change to `path` back, or bring it to its end if it was complete.

    Returns
    -------
    bool
        True if there was something to roll back.

    Raises
    ------
    BusyError
        If the writer is alive, or can be resumed.
    UnfinishedError
        If the file is in the middle of a change and its journal is missing or damaged, or a journal is there that is not its own.
    StorageError
        If the file needs rolling back, but cannot be written.
    """
    with telling(path):
        return _recover(path)


def _recover(path: Path) -> bool:
    journal = journal_path(path)
    if journal.exists() and not path.exists() and not partial_path(path).exists():
        _drop_orphans(path, False)
    if not journal.exists():
        if is_marked(path):
            _check_whole(path)
        else:
            _drop_parts(path)
            # Whoever only reads need not wait for who is alive, nor be able to remove anything.
            with suppress(BusyError, OSError):
                drop_dead_lock(path)
        return False
    try:
        file = opened(path)
    except StorageError as error:
        if _is_settled(path):
            return False
        raise StorageError(
            f"{path}: an interrupted write left {journal.name}, and the file cannot be written to undo it "
            f"({error.__cause__ or error}): open it once where it is writable"
        ) from error
    with file, lock(file, path):
        if not journal.exists():  # its writer finished in the meantime
            return False
        return bool(settle(file, path))


def give_up(path: Path, *, force: bool = False, discard: bool = False) -> tuple[str, ...]:
    """Roll back an interrupted writer even if it could be resumed.

    Parameters
    ----------
    path : Path
    force : bool
        Apply a journal that is damaged, or does not belong to the file, as far as it goes; and take the lock from a writer of whom
        cannot be known whether it is alive.
    discard : bool
        Where its journal is missing, damaged or another file's, take the file as it is.

    Returns
    -------
    tuple of str
        What was done, in words; empty if there was nothing to do.

    Raises
    ------
    BusyError, UnfinishedError, StorageError
    """
    with telling(path):
        return _give_up(path, force, discard)


def _give_up(path: Path, force: bool, discard: bool) -> tuple[str, ...]:
    places = [journal_path(path), checkpoint_path(path), partial_path(path)]
    if not any(place.exists() for place in places) and not is_marked(path):
        _drop_parts(path)
        return (f"{lock_path(path).name} was removed: who made it is dead",) if drop_dead_lock(path, force=force) else ()
    if not path.exists() and not partial_path(path).exists():
        return _drop_orphans(path, force or discard)
    file = opened(path)
    with file, lock(file, path, force=force):
        try:
            return settle(file, path, undo_checkpoint=True)
        except UnfinishedError:
            if force and journal_path(path).exists():
                return _force(file, path)
            if force or discard:
                return _discard(file, path)
            raise


# --- what is found ---------------------------------------------------------------------------------------------------------------


def settle(file: io.FileIO, path: Path, *, undo_checkpoint: bool = False) -> tuple[str, ...]:
    """Do what is left of a change to a file, and tell what was done; `file` is its partial one if it is not there, and locked."""
    place, found = mark_of(file)
    if not journal_path(path).exists():
        if path.exists() and is_mark(found):
            raise UnfinishedError(lost(path))
        return _undo_new(path, undo_checkpoint)
    try:
        journal = Journal.open(journal_path(path))
    except UnfinishedError as error:
        raise UnfinishedError(damaged(path, journal_path(path).name, str(error))) from error
    try:
        survey = journal.survey(file)
        if survey.commit is not None:
            return _complete(file, path, journal, survey.commit)
        if survey.damage:
            raise UnfinishedError(damaged(path, journal.path.name, survey.damage))
        belongs = (place, found) == (journal.header.place, journal.header.mark)
        if not belongs and (is_mark(found) or not is_as_before(file, journal, survey)):
            raise UnfinishedError(foreign(path, journal.path.name))
        if belongs and checkpoint_path(path).exists() and not undo_checkpoint:
            raise BusyError(
                f"{path}: an interrupted ingest waits to be resumed: repeat its command line with --resume, or undo it with "
                "'lsfm-core recover'"
            )
        if belongs:
            restore(file, path, journal, survey)
        else:
            clear(path)
    finally:
        journal.close()
    return ("the interrupted change was undone",)


def _complete(file: io.FileIO, path: Path, journal: Journal, commit: Commit) -> tuple[str, ...]:
    """Bring a change to its end that was complete when its writer died."""
    partial = partial_path(path)
    if partial.exists():
        with open(partial, "r+b", buffering=0) as made:
            if is_result(made, journal.header, commit):
                header = journal.header
                # It takes the place of none, or of that which it was to replace.
                if path.exists() and not os.path.samestat(os.fstat(file.fileno()), os.fstat(made.fileno())):
                    crc = isal_zlib.crc32(read_at(file, mark_of(file)[0], PAGE))
                    if (crc, os.fstat(file.fileno()).st_size) != (header.page_crc, header.size):
                        raise UnfinishedError(foreign(path, journal.path.name))
                finish(made, path, journal, commit)
                return ()
    if path.exists() and is_result(file, journal.header, commit):
        finish(file, path, journal, commit)
    elif is_mark(mark_of(file)[1]):
        raise UnfinishedError(foreign(path, journal.path.name))
    else:
        clear(path)  # of a change that is complete, to a file that is gone
    return ()


def _is_settled(path: Path) -> bool:
    """Whether a file that cannot be written is whole beside its journal: all but the last step was done, or not the first."""
    with suppress(OSError):
        journal = Journal.open(journal_path(path), read_only=True)
        try:
            with open(path, "rb", buffering=0) as file:
                survey = journal.survey(file)
                if is_mark(mark_of(file)[1]) or survey.damage:
                    return False
                if survey.commit is not None:
                    return is_result(file, journal.header, survey.commit)
                return is_as_before(file, journal, survey)
        finally:
            journal.close()
    return False


def _check_whole(path: Path) -> None:
    """Refuse a marked file without journal, unless a writer is at work on it."""
    try:
        file = opened(path)
    except StorageError:
        raise UnfinishedError(lost(path)) from None
    with file, lock(file, path):
        if not journal_path(path).exists() and is_mark(mark_of(file)[1]):
            raise UnfinishedError(lost(path))
    if journal_path(path).exists():
        recover(path)


# --- what is left over -----------------------------------------------------------------------------------------------------------


def _force(file: io.FileIO, path: Path) -> tuple[str, ...]:
    """Apply a journal, whatever the file is."""
    try:
        journal = Journal.open(journal_path(path), mend=True)
    except UnfinishedError as error:
        raise UnfinishedError(
            f"{path}: {error}, so that it cannot be applied; what is left is 'lsfm-core recover --discard-journal', which takes "
            "the file as it is"
        ) from error
    with_damage = journal.survey(file, mend=True)
    if with_damage.commit is not None:
        partial = partial_path(path)
        made = open(partial, "r+b", buffering=0) if partial.exists() else file  # noqa: SIM115
        with made:
            finish(made, path, journal, with_damage.commit)
        return ("the interrupted change was brought to its end",)
    place, found = mark_of(file)
    if is_mark(found):
        write_all(file, place, SIGNATURE)
    write_all(file, journal.header.place, journal.header.mark)
    restore(file, path, journal, with_damage)
    if with_damage.damage:
        return (
            f"the journal was applied as far as it goes ({with_damage.damage}): 'lsfm-core verify' tells whether the file is whole",
        )
    return ("the journal was applied",)


def _discard(file: io.FileIO, path: Path) -> tuple[str, ...]:
    """Take a file as it is."""
    place, found = mark_of(file)
    if is_mark(found) and path.exists():
        write_all(file, place, SIGNATURE)
        os.fsync(file.fileno())
    clear(path)
    return ("the file was taken as it is: 'lsfm-core verify' tells whether it is whole",)


def _undo_new(path: Path, undo_checkpoint: bool) -> tuple[str, ...]:
    """Remove what is left of a file that was being made, and a checkpoint of which nothing is left."""
    partial, checkpoint = partial_path(path), checkpoint_path(path)
    if waits(path) and not undo_checkpoint:
        return ()
    done: tuple[str, ...] = ()
    if partial.exists() and (path.exists() or partial.stat().st_size):
        done = ("the interrupted change was undone",)
    elif checkpoint.exists():
        done = (f"{checkpoint.name} was removed: what it led back to is gone",)
    remove_parts(path)
    return done


def _drop_orphans(path: Path, decided: bool) -> tuple[str, ...]:
    """Remove what stands beside a file that is gone, with its partial one."""
    journal = journal_path(path)
    if journal.exists() and not decided:
        raise UnfinishedError(
            f"{path}: there is no such file, but {journal.name}, by which an interrupted change to it could be undone: put the "
            "file back beside it, or remove the journal with 'lsfm-core recover --discard-journal'"
        )
    names = [place.name for place in (journal, checkpoint_path(path)) if place.exists()]
    clear(path)
    return tuple(f"{name} was removed: what it led back to is gone" for name in names)


def _drop_parts(path: Path) -> None:
    """Remove what somebody who died has left of a file, or an XML, that was to take its place."""
    partial = partial_path(path)
    if not path.exists() or not any(place.exists() for place in (partial, xml_partial_path(path), *unnamed(path))):
        return
    if partial.exists() and checkpoint_path(path).exists():
        return  # it can be resumed, should the file go
    # Whoever makes such a file holds the lock on `path`. If it is still being made, or we may not remove it, it stays.
    with suppress(OSError), open(real_path(path), "r+b", buffering=0) as file, lock(file, path):
        if not journal_path(path).exists():
            remove_parts(path)
