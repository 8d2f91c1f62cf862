"""The last steps of a change, forward or back: each may have been done before, by somebody who died."""

from __future__ import annotations

import io
import os
from pathlib import Path

from isal import isal_zlib

from lsfm_core.durable._disk import sync_directory, write_all
from lsfm_core.durable._journal import PAGE, Commit, Header, Journal, Survey
from lsfm_core.durable._mark import MARK_SIZE, mark_of, read_at
from lsfm_core.durable._places import checkpoint_path, clear, journal_path, partial_path, place_xml, real_path, unnamed

__all__ = [
    "damaged",
    "finish",
    "foreign",
    "is_as_before",
    "is_result",
    "lost",
    "restore",
]


def finish(file: io.FileIO, path: Path, journal: Journal, commit: Commit) -> None:
    """The last steps of a change that is complete; each may have been done before."""
    header = journal.header
    if mark_of(file)[1] == header.mark:
        file.truncate(max(commit.size, header.place + MARK_SIZE))
        write_all(file, header.place, commit.head)
        file.truncate(commit.size)
        os.fsync(file.fileno())
    for place in unnamed(path):
        place.unlink(missing_ok=True)
    real, partial = real_path(path), partial_path(path)
    if partial.exists() and (file.closed or os.path.samestat(partial.stat(), os.fstat(file.fileno()))):
        os.replace(partial, real)
        sync_directory(real.parent)
    checkpoint_path(path).unlink(missing_ok=True)
    place_xml(path)
    sync_directory(real.parent)
    if journal.is_in_place:
        journal.path.unlink(missing_ok=True)
    journal.close()
    sync_directory(real.parent)


def restore(file: io.FileIO, path: Path, journal: Journal, survey: Survey) -> None:
    """Put a journal's pages back, and at last what stood in place of the mark."""
    header = journal.header
    marked = mark_of(file) == (header.place, header.mark)
    if marked:
        for offset, length, start in survey.pages:
            data = bytearray(journal.data(length, start))
            low, high = max(offset, header.place), min(offset + length, header.place + MARK_SIZE)
            if low < high:
                data[low - offset : high - offset] = header.mark[low - header.place : high - header.place]
            write_all(file, offset, data)
        file.truncate(max(header.size, header.place + MARK_SIZE))
        os.fsync(file.fileno())
        write_all(file, header.place, header.head)
        file.truncate(header.size)
        os.fsync(file.fileno())
    journal.close()
    clear(path)


def is_as_before(file: io.FileIO, journal: Journal, survey: Survey) -> bool:
    """Whether a file is in the state that a journal leads back to, so that there is nothing to undo."""
    header = journal.header
    return (
        os.fstat(file.fileno()).st_size == header.size
        and isal_zlib.crc32(read_at(file, header.place, PAGE)) == header.page_crc
        and all(read_at(file, offset, length) == journal.data(length, start) for offset, length, start in survey.pages)
    )


def is_result(file: io.FileIO, header: Header, commit: Commit) -> bool:
    """Whether a file is what a change has made of it, with the mark or without."""
    place, found = mark_of(file)
    if found == header.mark:
        return True
    size = os.fstat(file.fileno()).st_size
    return (place, size) == (header.place, commit.size) and isal_zlib.crc32(read_at(file, place, PAGE)) == commit.page_crc


def lost(path: Path) -> str:
    names = path.stat().st_nlink
    where = (
        f"it has {names} names, and the journal stands beside another of them: open it by that"
        if names > 1
        else "if it was moved or copied, put the journal beside it under this name"
    )
    return (
        f"{path}: is in the middle of a change, and its journal {journal_path(path).name} is not there: {where}; without it, "
        "'lsfm-core recover --discard-journal' takes the file as it is, whole or not"
    )


def foreign(path: Path, journal: str) -> str:
    return (
        f"{path}: {journal} beside it was left by an interrupted change to another file, or to another state of this one: both are "
        "left as they are. If this file was put in the place of that one, 'lsfm-core recover --discard-journal' keeps it as it is; "
        "'lsfm-core recover --force' applies the journal all the same"
    )


def damaged(path: Path, journal: str, what: str) -> str:
    return (
        f"{path}: an interrupted change left {journal}, which cannot be trusted: {what}. Both are left as they are: "
        "'lsfm-core recover --force' applies what can be read of it, 'lsfm-core recover --discard-journal' takes the file as it is"
    )
