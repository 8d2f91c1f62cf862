"""The rollback journal: a write completes, or leaves the file byte for byte as it was, also after kill -9 or a power cut.

HDF5 writes through a `JournaledFile`, which keeps the idea of SQLite's rollback journal: before a byte below the old end of the
file is overwritten for the first time, the page around it is copied to ``<file>-journal`` and synced. New data land past the old
end and need no copy. To commit, the file is synced and the journal removed; to roll back, the pages are put back and the file is
cut at its old length. Whoever opens the file and finds a journal whose writer is gone rolls back first (`recover`).

A file that did not exist is written as ``<file>.partial`` and renamed when complete.

Journal layout, little-endian: header ``magic(8) old_size(u64) crc32(u32)``, then records ``offset(u64) length(u32) crc32(u32) bytes``.
A record that is cut short or does not match its checksum was never acted upon, so reading stops there.
"""

from __future__ import annotations

import errno
import io
import os
import struct
from pathlib import Path
from typing import Any

from isal import isal_zlib

from lsfm_core.errors import BusyError, StorageError

try:
    import fcntl
except ImportError:  # Windows: opening for writing is already exclusive enough to keep a second writer out
    fcntl = None  # type: ignore[assignment]

__all__ = ["JournaledFile", "journal_path", "recover"]

_MAGIC = b"LSFMJRN1"
_HEADER = struct.Struct("<8sQI")
_RECORD = struct.Struct("<QII")
_PAGE = 4096


def journal_path(path: Path) -> Path:
    """Where the journal of a file stands."""
    return path.with_name(path.name + "-journal")


def partial_path(path: Path) -> Path:
    """Where a file is written before it exists."""
    return path.with_name(path.name + ".partial")


class JournaledFile(io.RawIOBase):
    """A file for ``h5py.File`` to write through, that can be committed or rolled back as one.

    Parameters
    ----------
    path : Path
        The file. If it does not exist, `commit` makes it appear.

    Raises
    ------
    BusyError
        If another process has it open for writing, or for reading through HDF5.
    StorageError
        If it cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_new = not path.exists()
        self.error: OSError | None = None
        self._position = 0
        self._detached = False
        self._journal: io.FileIO | None = None
        self._saved: set[int] = set()
        target = partial_path(path) if self.is_new else path
        try:
            self._file = open(target, "r+b" if target.exists() else "x+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise StorageError(f"{path}: cannot be opened for writing: {error.strerror}") from error
        try:
            lock(self._file, path)
            if self.is_new:
                self._file.truncate(0)  # what a killed writer left
            self._old_size = os.fstat(self._file.fileno()).st_size
            if not self.is_new:
                self._start_journal()
        except BaseException:
            self._file.close()
            raise

    # --- what HDF5 calls ----------------------------------------------------------------------------------------------------

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._position, self._size())[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._position)
        count = self._file.readinto(buffer)
        self._position += count
        return count

    def write(self, data: Any) -> int:
        size = len(data)
        if not self._detached:
            try:
                self._save(self._position, size)
                _write_all(self._file, self._position, data)
            except OSError as error:
                raise self._fail(error) from error
        self._position += size
        return size

    def truncate(self, size: int | None = None) -> int:
        # Never below the old end: those bytes may be needed to roll back. `commit` cuts what is left over.
        self._wanted_size = self._position if size is None else size
        if not self._detached:
            try:
                self._file.truncate(max(self._wanted_size, self._old_size))
            except OSError as error:
                raise self._fail(error) from error
        return self._wanted_size

    def flush(self) -> None:
        """Nothing is buffered here; `commit` syncs."""

    # --- the transaction ----------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Ignore all further writes, so that HDF5 can close its side of a file that is about to be rolled back."""
        self._detached = True

    def check(self) -> None:
        """Raise the error of a write that HDF5 swallowed while it closed its side."""
        if self.error is not None:
            raise self._fail(self.error)

    def commit(self) -> None:
        """Make everything that was written permanent. After this the journal is gone."""
        try:
            os.fsync(self._file.fileno())
            if self.is_new:
                os.replace(partial_path(self.path), self.path)
                sync_directory(self.path.parent)
            else:
                self._drop_journal()
                if self._size() > self._wanted_size:
                    self._file.truncate(self._wanted_size)
        except OSError as error:
            raise self._fail(error) from error
        finally:
            if self.error is None:
                self._file.close()

    def rollback(self) -> None:
        """Put the old bytes back; a file that did not exist does not exist afterwards."""
        self.detach()
        if self._file.closed:
            return
        if self.is_new:
            self._file.close()
            partial_path(self.path).unlink(missing_ok=True)
            return
        if self._journal is not None:
            self._journal.close()
            _restore(self._file, journal_path(self.path))
        self._file.close()

    def close(self) -> None:
        """HDF5 closes its side; the descriptor stays open until `commit` or `rollback`."""

    _wanted_size = 0

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _fail(self, error: OSError) -> StorageError:
        self.error = error
        self._detached = True
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        return StorageError(f"{self.path}: writing failed: {reason}; the file is left as it was")

    def _start_journal(self) -> None:
        path = journal_path(self.path)
        self._wanted_size = self._old_size
        header = _MAGIC + self._old_size.to_bytes(8, "little")
        try:
            # The name must not be there: `recover` runs before, and the lock on the file keeps others out.
            self._journal = open(path, "x+b", buffering=0)  # noqa: SIM115
            self._journal.write(header + isal_zlib.crc32(header).to_bytes(4, "little"))
            os.fsync(self._journal.fileno())
            sync_directory(path.parent)
        except OSError as error:
            path.unlink(missing_ok=True) if self._journal else None
            raise StorageError(f"{path}: the rollback journal cannot be written: {error.strerror}; nothing was changed") from error

    def _save(self, start: int, size: int) -> None:
        """Copy to the journal what is about to be overwritten, once per page."""
        stop = min(start + size, self._old_size)
        if self._journal is None or start >= stop:
            return
        pages = [page for page in range(start // _PAGE, -(-stop // _PAGE)) if page not in self._saved]
        if not pages:
            return
        for first, last in _runs(pages):
            offset = first * _PAGE
            self._file.seek(offset)
            data = self._file.read(min((last + 1) * _PAGE, self._old_size) - offset)
            head = offset.to_bytes(8, "little") + len(data).to_bytes(4, "little")
            crc = isal_zlib.crc32(data, isal_zlib.crc32(head))
            _write_all(self._journal, None, head + crc.to_bytes(4, "little") + data)
        os.fsync(self._journal.fileno())
        self._saved.update(pages)

    def _drop_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()
            journal_path(self.path).unlink()
            sync_directory(self.path.parent)


def recover(path: Path) -> bool:
    """Roll back what a dead writer left of a change to `path`.

    Returns
    -------
    bool
        True if there was something to roll back.

    Raises
    ------
    BusyError
        If the writer is alive.
    StorageError
        If the file needs rolling back, but cannot be written.
    """
    journal = journal_path(path)
    if not journal.exists():
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
        _restore(file, journal)
    return True


def lock(file: io.FileIO, path: Path) -> None:
    """Take the lock that HDF5 itself takes for writing (flock), or raise `BusyError`."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BusyError(f"{path}: another program has the file open: close it there, or wait until it is done") from error
    except OSError as error:
        # Some network file systems have no locks; HDF5's own default is to go on there as well.
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise StorageError(f"{path}: cannot be locked: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Make a created, renamed or removed name in a directory permanent, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _restore(file: io.FileIO, journal: Path) -> None:
    data = journal.read_bytes()
    if len(data) >= _HEADER.size:
        magic, old_size, crc = _HEADER.unpack_from(data)
        if magic == _MAGIC and crc == isal_zlib.crc32(data[: _HEADER.size - 4]):
            position = _HEADER.size
            while position + _RECORD.size <= len(data):
                offset, length, crc = _RECORD.unpack_from(data, position)
                start = position + _RECORD.size
                page = data[start : start + length]
                if crc != isal_zlib.crc32(page, isal_zlib.crc32(data[position : start - 4])):
                    break
                _write_all(file, offset, page)
                position = start + length
            file.truncate(old_size)
            os.fsync(file.fileno())
    # A header that is incomplete means that the writer died before it changed anything.
    journal.unlink()
    sync_directory(journal.parent)


def _write_all(file: io.FileIO, position: int | None, data: Any) -> None:
    if position is not None:
        file.seek(position)
    view = memoryview(data).cast("B")
    while len(view):
        # On a nearly full disk write() takes a part, and only the next call raises.
        written = file.write(view)
        view = view[written:]


def _runs(pages: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for page in pages:
        if runs and runs[-1][1] == page - 1:
            runs[-1] = (runs[-1][0], page)
        else:
            runs.append((page, page))
    return runs
