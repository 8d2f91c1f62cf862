"""A file on the disk: written through by HDF5, made permanent, and known again when it has changed."""

from __future__ import annotations

import errno
import io
import os
import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from lsfm_core.durable._lock import is_written
from lsfm_core.durable._mark import MARK_SIZE
from lsfm_core.errors import StorageError

__all__ = ["Generation", "RawFile", "generation", "reason_of", "settled_generation", "sync_directory", "write_all", "write_file"]

#: So many new bytes are handed to the disk at once while the work goes on.
_WRITEBACK_BYTES = 2**25


class RawFile(io.RawIOBase):
    """A file for ``h5py.File`` to write through.

    HDF5 does not survive an error of a write, so it is told of none: from the first one on, what it writes is kept in memory only.
    Whoever lets it write calls `check` soon afterwards, and gives up.

    Parameters
    ----------
    file : FileIO
        Opened without a buffer.
    path : Path
        What messages call it.

    Attributes
    ----------
    touched : bool
        Whether anything was written.
    """

    def __init__(self, file: io.FileIO, path: Path) -> None:
        self.path = path
        self.error: OSError | None = None
        self._file = file
        self.touched = False
        self._position = 0
        self._detached = False
        #: What was not written, since an earlier write failed.
        self._unwritten: list[tuple[int, bytes]] = []
        #: Where the mark of a change stands on the disk, which it is, and what HDF5 sees there.
        self._mark_at = 0
        self._mark: bytes | None = None
        self._head = bytearray(MARK_SIZE)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="lsfm-sync")
        self._writeback: Future[None] | None = None
        self._unsynced = 0
        self._wanted_size = self._size()

    # --- what HDF5 calls ----------------------------------------------------------------------------------------------------

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = max([self._size(), *(start + len(data) for start, data in self._unwritten)])
        base = (0, self._position, end)[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._position)
        view = memoryview(buffer).cast("B")
        try:
            count = self._file.readinto(view)
        except OSError as error:
            raise self._fail(error, "reading") from error
        for start, data in self._overlays():
            low, high = max(start, self._position), min(start + len(data), self._position + len(view))
            if low < high:
                view[low - self._position : high - self._position] = data[low - start : high - start]
                count = max(count, high - self._position)
        self._position += count
        return count

    def write(self, data: Any) -> int:
        size = len(data)
        self.touched = True
        if not self._detached:
            try:
                self._before_writing(size)
                write_all(self._file, self._position, self._marked(data))
                self._start_writeback(size)
            except OSError as error:
                self._fail(error)
        if self.error is not None:
            self._unwritten.append((self._position, bytes(data)))
        self._position += size
        self._wanted_size = max(self._wanted_size, self._position)
        return size

    def truncate(self, size: int | None = None) -> int:
        self._wanted_size = self._position if size is None else size
        if not self._detached:
            kept = self._kept_size() if self._mark is None else max(self._kept_size(), self._mark_at + MARK_SIZE)
            try:
                self._file.truncate(max(self._wanted_size, kept))
            except OSError as error:
                self._fail(error)
        return self._wanted_size

    def flush(self) -> None:
        """Nothing is buffered here; `sync` makes it permanent."""

    def close(self) -> None:
        """HDF5 closes its side; the descriptor stays open until `release`."""

    # --- what its owner calls -----------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Ignore all further writes, so that HDF5 can close its side of a file that is about to be given up."""
        self._detached = True

    def check(self) -> None:
        """Raise the error of a write that HDF5 was not told of."""
        if self.error is not None:
            raise self._told(self.error, "writing") from self.error

    def sync(self) -> None:
        """Make what is written permanent."""
        self._finish_writeback()
        os.fsync(self._file.fileno())

    def release(self) -> None:
        """Close the descriptor, too."""
        self._disk.shutdown()
        self._file.close()

    def _before_writing(self, size: int) -> None:
        """Called before `size` bytes are written at the position."""

    def _kept_size(self) -> int:
        """The file is not cut below this."""
        return 0

    def _marked(self, data: Any) -> Any:
        """What is to be written at the position, with the mark in it that stands on the disk instead."""
        low, high = max(self._position, self._mark_at), min(self._position + len(data), self._mark_at + MARK_SIZE)
        if self._mark is None or low >= high:
            return data
        octets = bytearray(data)
        inside = slice(low - self._position, high - self._position)
        self._head[low - self._mark_at : high - self._mark_at] = octets[inside]
        octets[inside] = self._mark[low - self._mark_at : high - self._mark_at]
        return octets

    def _overlays(self) -> list[tuple[int, bytes]]:
        """What HDF5 sees in other places than on the disk."""
        return self._unwritten if self._mark is None else [(self._mark_at, bytes(self._head)), *self._unwritten]

    def _start_writeback(self, size: int) -> None:
        """Let the disk begin while the processor goes on, so that `sync` has little left to wait for."""
        self._unsynced += size
        if self._unsynced >= _WRITEBACK_BYTES and (self._writeback is None or self._writeback.done()):
            self._finish_writeback()
            self._unsynced = 0
            self._writeback = self._disk.submit(os.fsync, self._file.fileno())

    def _finish_writeback(self) -> None:
        # The system tells of an error once only: it must not be lost here.
        if self._writeback is not None:
            self._writeback.result()

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _fail(self, error: OSError, what: str = "writing") -> StorageError:
        if self.error is None:
            self.error = error
        self._detached = True
        return self._told(error, what)

    def _told(self, error: OSError, what: str) -> StorageError:
        if isinstance(error, StorageError):
            return error
        return StorageError(f"{self.path}: {what} failed: {reason_of(error)}; the file is left as it was")


def reason_of(error: OSError) -> str:
    """Why the system could not do something, in words."""
    if error.errno == errno.ENOSPC:
        return "the disk is full"
    if error.errno == errno.EDQUOT:
        return "the disk is full to your quota"
    return error.strerror or str(error)


class Generation(NamedTuple):
    """What a file's bytes are known by, as long as nobody writes."""

    size: int
    changed_ns: int


def generation(file: io.FileIO) -> Generation:
    """The generation that an open file is in."""
    status = os.fstat(file.fileno())
    return Generation(status.st_size, status.st_mtime_ns)


def settled_generation(file: io.FileIO, path: Path) -> Generation | None:
    """The generation that an open file is in, or None if somebody holds the lock for writing."""
    return None if is_written(file, path) else generation(file)


def sync_directory(path: Path) -> None:
    """Make a created, renamed or removed name in a directory permanent, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes, *, shared: bool = False) -> None:
    """Write a small file and make it permanent; under its name it is there as a whole, or what was there before.

    Where it is `shared`, several may write it at once, on other machines too: the last one's stays.
    """
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(8)}" if shared else f"{path.name}.new")
    try:
        with open(fresh, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_all(file: io.FileIO, position: int | None, data: Any) -> None:
    """Write all of the data, at a position or where the file stands."""
    if position is not None:
        file.seek(position)
    view = memoryview(data).cast("B")
    while len(view):
        # On a nearly full disk write() takes a part, and only the next call raises.
        written = file.write(view)
        view = view[written:]
