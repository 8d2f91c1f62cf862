"""The rollback journal: a write completes, or leaves the file byte for byte as it was, also after kill -9 or a power cut.

HDF5 writes through a `JournaledFile`, which keeps the idea of SQLite's rollback journal: before a byte below the old end of the
file is overwritten for the first time, the page around it is copied to ``<file>-journal`` and synced. New data land past the old
end and need no copy. To commit, the file is synced and the journal removed; to roll back, the pages are put back and the file is
cut at its old length. Whoever opens the file and finds a journal whose writer is gone rolls back first (`recover`).

A file that did not exist, or that is to be replaced as a whole, is written as ``<file>.partial`` and renamed when complete.

The XML that goes with a change waits as ``<name>.xml.partial`` until the change is committed. Then its writer renames it, or, if
that has died, whoever opens the file next.

Long work may set checkpoints: a second journal, ``<file>-checkpoint``, then leads back to the latest of them, and carries a note of
how far the work had come. It lets an interrupted ingest be resumed.

Layout of both, little-endian: header ``magic(8) old_size(u64) note_length(u32) crc32(u32) note``, then records
``offset(u64) length(u32) crc32(u32) bytes``. The header's checksum covers the note, a record's its bytes, both what stands before.
A record that is cut short or does not match was never acted upon, so reading stops there. The note of the journal to roll back with
is the file's time of last change before the first write, in ns (i64): a reader that knows it may go on in the old bytes meanwhile.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from isal import isal_zlib

from lsfm_core.durable._disk import CAN_LOCK, Generation, RawFile, generation, lock, sync_directory, write_all, write_file
from lsfm_core.errors import BusyError, StorageError

__all__ = [
    "JournaledFile", "UndoLog", "checkpoint_path", "give_up", "journal_path", "partial_path", "place_xml", "recover", "replacing",
    "waiting_xml", "xml_partial_path",
]  # fmt: skip

_MAGIC = b"LSFMJRN1"
_HEADER = struct.Struct("<8sQII")
_RECORD = struct.Struct("<QII")
_CHANGED = struct.Struct("<q")
_PAGE = 4096
#: Begins the comment at the end of a waiting XML that tells where it belongs, from the HDF5 file's folder.
_PLACE = "<!--lsfm-core: for "


def journal_path(path: Path) -> Path:
    """Where the journal of a file stands."""
    return path.with_name(path.name + "-journal")


def checkpoint_path(path: Path) -> Path:
    """Where the way back to the latest checkpoint stands."""
    return path.with_name(path.name + "-checkpoint")


def partial_path(path: Path) -> Path:
    """Where a file is written before it exists."""
    return path.with_name(path.name + ".partial")


def xml_partial_path(path: Path) -> Path:
    """Where the XML of a file waits for the change that it goes with."""
    return partial_path(path.with_suffix(".xml"))


def waiting_xml(data: bytes, path: Path, xml: Path) -> bytes:
    """What waits at `xml_partial_path` of `path` for an XML that need not have the file's stem: it says itself where it belongs."""
    if xml == path.with_suffix(".xml"):
        return data
    place = quote(Path(os.path.relpath(xml, path.parent)).as_posix())
    return data.rstrip() + f"\n{_PLACE}{place}-->\n".encode("ascii")


def place_xml(path: Path) -> None:
    """Let the XML that waits for a change of `path`, now committed, take its place.

    Raises
    ------
    OSError
        Also if somebody has done it meanwhile.
    """
    partial = xml_partial_path(path)
    data, _, last = partial.read_bytes().rstrip().rpartition(b"\n")
    if not (last.startswith(_PLACE.encode()) and last.endswith(b"-->")):
        os.replace(partial, path.with_suffix(".xml"))
        return
    xml = path.parent / unquote(last[len(_PLACE) : -3].decode("ascii", "replace"))
    # Written by nobody but us it is the one that was read before; whatever else it may name stays as it is.
    if xml.suffix.lower() == ".xml" and xml.is_file() and b"<SpimData" in xml.read_bytes()[:4096]:
        write_file(xml, data + b"\n")
    partial.unlink()


class _Journal:
    """Pages of a file as they were at one moment, and its size then."""

    def __init__(self, path: Path, old_size: int, saved: set[int], file: io.FileIO) -> None:
        self.path = path
        self.old_size = old_size
        self._saved = saved
        self._file = file

    @classmethod
    def start(cls, path: Path, old_size: int, note: bytes = b"") -> _Journal:
        """Make a journal; it replaces one of that name only when it is complete."""
        head = _MAGIC + old_size.to_bytes(8, "little") + len(note).to_bytes(4, "little")
        fresh = path.with_name(path.name + ".new")
        file = open(fresh, "w+b", buffering=0)  # noqa: SIM115
        try:
            write_all(file, None, head + isal_zlib.crc32(note, isal_zlib.crc32(head)).to_bytes(4, "little") + note)
            os.fsync(file.fileno())
            os.replace(fresh, path)
            sync_directory(path.parent)
        except BaseException:
            file.close()
            fresh.unlink(missing_ok=True)
            raise
        return cls(path, old_size, set(), file)

    @classmethod
    def read(cls, path: Path) -> tuple[_Journal, list[tuple[int, bytes]], bytes] | None:
        """A journal that somebody left, its pages (offset, bytes) and its note; None if it was never acted upon."""
        try:
            file = open(path, "r+b", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            return None
        data = file.readall()
        head = _parse_head(data)
        if head is None:
            file.close()
            return None
        old_size, note = head
        pages = []
        begin = end = _HEADER.size + len(note)
        for offset, start, page in _records(data[begin:]):
            pages.append((offset, page))
            end = begin + start + len(page)
        file.truncate(end)
        file.seek(end)
        saved = {n for offset, page in pages for n in _page_numbers(offset, len(page))}
        return cls(path, old_size, saved, file), pages, note

    def save(self, source: io.FileIO, start: int, size: int) -> None:
        """Copy what is about to be overwritten, once per page."""
        stop = min(start + size, self.old_size)
        pages = [page for page in range(start // _PAGE, -(-stop // _PAGE)) if page not in self._saved] if start < stop else []
        if not pages:
            return
        for first, last in _runs(pages):
            offset = first * _PAGE
            source.seek(offset)
            data = source.read(min((last + 1) * _PAGE, self.old_size) - offset)
            head = offset.to_bytes(8, "little") + len(data).to_bytes(4, "little")
            crc = isal_zlib.crc32(data, isal_zlib.crc32(head))
            write_all(self._file, None, head + crc.to_bytes(4, "little") + data)
        os.fsync(self._file.fileno())
        self._saved.update(pages)

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)
        sync_directory(self.path.parent)


class JournaledFile(RawFile):
    """A file for ``h5py.File`` to write through, that can be committed or rolled back as one.

    Parameters
    ----------
    path : Path
        The file. If it does not exist, `commit` makes it appear.
    resume : bool
        Go on from the checkpoint that an interrupted writer left, if there is one; else it is rolled back.

    Attributes
    ----------
    is_new : bool
        Whether the file begins empty.
    note : bytes or None
        What was noted at the checkpoint from which this goes on.

    Raises
    ------
    BusyError
        If another process has it open for writing, or for reading through HDF5.
    StorageError
        If it cannot be opened for writing.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.note: bytes | None = None
        self._appears = not path.exists()
        self._base: _Journal | None = None
        self._checkpoint: _Journal | None = None
        target = partial_path(path) if self._appears else path
        try:
            file = open(target, "r+b" if target.exists() else "x+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise StorageError(f"{path}: cannot be opened for writing: {error.strerror}") from error
        super().__init__(file, path)
        try:
            lock(self._file, path)
            if not (resume and self._go_on()):
                checkpoint_path(path).unlink(missing_ok=True)
                xml_partial_path(path).unlink(missing_ok=True)
                if self._appears:
                    self._file.truncate(0)
                else:
                    _restore(self._file, journal_path(path))
                    self._start_base()
        except BaseException:
            self.release()
            raise
        self.is_new = self._appears and self.note is None
        self._wanted_size = self._size()

    def checkpoint(self, note: bytes) -> None:
        """From now on, an interrupted writer can be resumed here; HDF5 must have been flushed.

        Parameters
        ----------
        note : bytes
            What the one who resumes has to know.
        """
        try:
            self.sync()
            fresh = _Journal.start(checkpoint_path(self.path), self._size(), note)
        except OSError as error:
            raise self._fail(error) from error
        if self._checkpoint is not None:
            self._checkpoint.close()
        self._checkpoint = fresh

    def commit(self) -> None:
        """Make everything that was written permanent. After this the journals are gone."""
        try:
            self.sync()
            if self._appears:
                os.replace(partial_path(self.path), self.path)
                sync_directory(self.path.parent)
            for journal in (self._base, self._checkpoint):
                if journal is not None:
                    journal.remove()
            if self._size() > self._wanted_size:
                self._file.truncate(self._wanted_size)
        except OSError as error:
            raise self._fail(error) from error
        self.release()

    def rollback(self, *, to_checkpoint: bool = False) -> None:
        """Put the old bytes back; a file that did not exist does not exist afterwards.

        Parameters
        ----------
        to_checkpoint : bool
            Leave everything so that the work can be resumed from its latest checkpoint, if there is one.
        """
        self.detach()
        if self._file.closed:
            return
        if to_checkpoint and self._checkpoint is not None:
            self.release()
            return
        if self._checkpoint is not None:
            self._checkpoint.remove()
        if self._appears:
            self.release()
            partial_path(self.path).unlink(missing_ok=True)
            return
        if self._base is not None:
            self._base.close()
            _restore(self._file, self._base.path)
        self.release()

    def release(self) -> None:
        """Close the descriptors, too; the journals stay."""
        super().release()
        for journal in (self._base, self._checkpoint):
            if journal is not None:
                journal.close()

    def _before_writing(self, size: int) -> None:
        for journal in (self._base, self._checkpoint):
            if journal is not None:
                journal.save(self._file, self._position, size)

    def _kept_size(self) -> int:
        # Bytes below the old end may be needed to roll back. `commit` cuts what is left over.
        return max((journal.old_size for journal in (self._base, self._checkpoint) if journal is not None), default=0)

    def _start_base(self) -> None:
        try:
            changed = _CHANGED.pack(generation(self._file).changed_ns)
            self._base = _Journal.start(journal_path(self.path), self._size(), changed)
        except OSError as error:
            path = journal_path(self.path)
            raise StorageError(f"{path}: the rollback journal cannot be written: {error.strerror}; nothing was changed") from error

    def _go_on(self) -> bool:
        """Take up the journals that an interrupted writer left, with the file as it was at the checkpoint."""
        found = _Journal.read(checkpoint_path(self.path))
        if found is None:
            return False
        checkpoint, pages, note = found
        if not self._appears:
            base = _Journal.read(journal_path(self.path))
            if base is None:
                # The writer died between removing the two: its work was complete.
                checkpoint.close()
                return False
            self._base = base[0]
        self._checkpoint, self.note = checkpoint, note
        for offset, page in pages:
            write_all(self._file, offset, page)
        self._file.truncate(checkpoint.old_size)
        return True


class UndoLog:
    """The journal of a writer that may be at work, read beside it.

    Attributes
    ----------
    generation : Generation
        Of the file before the writer changed it.
    """

    def __init__(self, path: Path, file: io.FileIO, before: Generation, end: int) -> None:
        self.generation = before
        self._path = path
        self._file = file
        self._end = end
        #: Page number -> where its old bytes stand in the journal, and how many they are.
        self._pages: dict[int, tuple[int, int]] = {}

    @classmethod
    def find(cls, path: Path) -> UndoLog | None:
        """The journal of a file; None if there is none, or it does not tell what it began with."""
        try:
            file = open(journal_path(path), "rb", buffering=0)  # noqa: SIM115
        except OSError:
            return None
        head = _parse_head(file.read(_HEADER.size + _CHANGED.size))
        if head is None or len(head[1]) != _CHANGED.size:
            file.close()
            return None
        return cls(journal_path(path), file, Generation(head[0], *_CHANGED.unpack(head[1])), _HEADER.size + _CHANGED.size)

    def apply(self, position: int, view: memoryview) -> bool:
        """Put old bytes in place of new ones in what was read from `position` on; whether the writer was at work until now."""
        begin = self._end
        self._file.seek(begin)
        for offset, start, page in _records(self._file.readall()):
            for number in _page_numbers(offset, len(page)):
                within = number * _PAGE - offset
                self._pages[number] = (begin + start + within, min(_PAGE, len(page) - within))
            self._end = begin + start + len(page)
        try:
            # Held open, it cannot give its number to the next writer's journal.
            if not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                return False
        except FileNotFoundError:
            return False
        for number in _page_numbers(position, len(view)):
            if number in self._pages:
                start, length = self._pages[number]
                self._file.seek(start)
                old = self._file.read(length)
                first = number * _PAGE - position
                low, high = max(0, first), min(len(view), first + length)
                view[low:high] = old[low - first : high - first]
        return True

    def close(self) -> None:
        self._file.close()


def recover(path: Path) -> bool:
    """Roll back what a dead writer left of a change to `path`, or let the XML of a change that was committed take its place.

    Returns
    -------
    bool
        True if there was something to roll back.

    Raises
    ------
    BusyError
        If the writer is alive, or can be resumed.
    StorageError
        If the file needs rolling back, but cannot be written.
    """
    journal = journal_path(path)
    _drop_partial(path)
    if not journal.exists():
        _settle_xml(path)
        return False
    try:
        file = open(path, "r+b", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise StorageError(
            f"{path}: an interrupted write left {journal.name}, and the file cannot be written to undo it ({error.strerror}): "
            "open it once where it is writable"
        ) from error
    with file:
        lock(file, path)
        if not journal.exists():  # its writer finished in the meantime
            return False
        if checkpoint_path(path).exists():
            raise BusyError(
                f"{path}: an interrupted ingest waits to be resumed: repeat its command line with --resume, or undo it with "
                "'lsfm-core recover'"
            )
        _restore(file, journal)
        xml_partial_path(path).unlink(missing_ok=True)
    return True


def give_up(path: Path) -> bool:
    """Roll back an interrupted writer even if it could be resumed; returns whether there was one."""
    found = any(place(path).exists() for place in (journal_path, checkpoint_path, partial_path))
    if found:
        JournaledFile(path).rollback()
        # One that stands beside the complete file is of no use to anybody.
        partial_path(path).unlink(missing_ok=True)
    return found


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Make a file anew as a whole: the block fills and closes the file whose path it gets, which then takes the place of `path`.

    If the block raises, or the process dies, `path` is what it was. Meanwhile the lock that writers hold is held.

    Raises
    ------
    BusyError
        If another program has the file open, or an interrupted ingest of it waits to be resumed.
    StorageError
        If it cannot be written.
    """
    recover(path)
    if checkpoint_path(path).exists():
        raise BusyError(f"{path}: an interrupted ingest waits to be resumed: resume it, or undo it with 'lsfm-core recover'")
    partial = partial_path(path)
    held = path if path.exists() else partial
    try:
        file = open(held, "r+b" if held.exists() else "x+b", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise StorageError(f"{path}: cannot be opened for writing: {error.strerror}") from error
    with file:
        lock(file, path)
        if journal_path(path).exists():
            raise BusyError(f"{path}: another program was writing to it just now: try again")
        if not CAN_LOCK:
            file.close()  # Windows replaces no file that is open
        try:
            yield partial
            if held == path:
                shutil.copymode(path, partial)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def _drop_partial(path: Path) -> None:
    """Remove what somebody who died has left of a file that was to take the place of `path`."""
    partial = partial_path(path)
    if path.exists() and partial.exists():
        # Whoever makes such a file holds the lock on `path`. If it is still being made, or we may not remove it, it stays.
        with suppress(OSError), open(path, "r+b", buffering=0) as file:
            lock(file, path)
            xml_partial_path(path).unlink(missing_ok=True)
            partial.unlink(missing_ok=True)


def _settle_xml(path: Path) -> None:
    """Let an XML take its place whose writer died between the commit and the last step."""
    partial = xml_partial_path(path)
    if path.exists() and partial.exists():
        # Where we may not write it waits on; and without the lock it may belong to a change that is not committed yet.
        with suppress(OSError, BusyError, StorageError), open(path, "r+b", buffering=0) as file:
            lock(file, path)
            if not journal_path(path).exists():
                place_xml(path)


def _restore(file: io.FileIO, journal: Path) -> None:
    """Put a journal's pages back, if there is one, and remove it; one that is incomplete was never acted upon."""
    if not journal.exists():
        return
    found = _Journal.read(journal)
    if found is not None:
        for offset, page in found[1]:
            write_all(file, offset, page)
        file.truncate(found[0].old_size)
        os.fsync(file.fileno())
        found[0].close()
    journal.unlink()
    sync_directory(journal.parent)


def _parse_head(data: bytes) -> tuple[int, bytes] | None:
    """Old size and note of a journal; None if it is incomplete."""
    if len(data) < _HEADER.size:
        return None
    magic, old_size, length, crc = _HEADER.unpack_from(data)
    note = data[_HEADER.size : _HEADER.size + length]
    intact = magic == _MAGIC and crc == isal_zlib.crc32(note, isal_zlib.crc32(data[: _HEADER.size - 4]))
    return (old_size, note) if intact else None


def _records(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Each record that is complete: its offset in the file, where its bytes begin in `data`, and these."""
    position = 0
    while position + _RECORD.size <= len(data):
        offset, length, crc = _RECORD.unpack_from(data, position)
        start = position + _RECORD.size
        page = data[start : start + length]
        if crc != isal_zlib.crc32(page, isal_zlib.crc32(data[position : start - 4])):
            return
        yield offset, start, page
        position = start + length


def _page_numbers(offset: int, size: int) -> range:
    """Pages that bytes from `offset` on lie in."""
    return range(offset // _PAGE, -(-(offset + size) // _PAGE))


def _runs(pages: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for page in pages:
        if runs and runs[-1][1] == page - 1:
            runs[-1] = (runs[-1][0], page)
        else:
            runs.append((page, page))
    return runs
