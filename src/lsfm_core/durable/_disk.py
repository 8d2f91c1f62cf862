"""A file on the disk: written through by HDF5, locked as HDF5 locks it, made permanent, and known again when it has changed."""

from __future__ import annotations

import errno
import io
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from lsfm_core.errors import BusyError, StorageError

try:
    import fcntl
except ImportError:  # Windows: opening for writing is already exclusive enough to keep a second writer out
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "CAN_LOCK", "LOCK_SECONDS", "Generation", "RawFile", "generation", "lock", "settled_generation", "sync_directory", "write_all",
    "write_file",
]  # fmt: skip

CAN_LOCK = fcntl is not None
#: Who looks in, or has just committed, holds the lock for less than this.
LOCK_SECONDS = 0.2
#: So many new bytes are handed to the disk at once while the work goes on.
_WRITEBACK_BYTES = 2**25


class RawFile(io.RawIOBase):
    """A file for ``h5py.File`` to write through.

    An error turns it deaf: HDF5 does not survive another one while it closes its side, so it is not told of any. Whoever lets it
    write calls `check` afterwards.

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
        self.touched = True
        if not self._detached:
            try:
                self._before_writing(size)
                write_all(self._file, self._position, data)
                self._start_writeback(size)
            except OSError as error:
                raise self._fail(error) from error
        self._position += size
        self._wanted_size = max(self._wanted_size, self._position)
        return size

    def truncate(self, size: int | None = None) -> int:
        self._wanted_size = self._position if size is None else size
        if not self._detached:
            try:
                self._file.truncate(max(self._wanted_size, self._kept_size()))
            except OSError as error:
                raise self._fail(error) from error
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
        """Raise the error of a write that HDF5 swallowed while it closed its side."""
        if self.error is not None:
            raise self._fail(self.error)

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

    def _fail(self, error: OSError) -> StorageError:
        self.error = error
        self._detached = True
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        return StorageError(f"{self.path}: writing failed: {reason}; the file is left as it was")


class Generation(NamedTuple):
    """What a file's bytes are known by, as long as nobody writes."""

    size: int
    changed_ns: int


def generation(file: io.FileIO) -> Generation:
    """The generation that an open file is in."""
    status = os.fstat(file.fileno())
    return Generation(status.st_size, status.st_mtime_ns)


def lock(file: io.FileIO, path: Path) -> None:
    """Take the lock that HDF5 itself takes for writing (flock), or raise `BusyError`."""
    if fcntl is None:
        return
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise BusyError(f"{path}: another program has the file open: close it there, or wait until it is done") from error
            time.sleep(LOCK_SECONDS / 20)
        except OSError as error:
            # Some network file systems have no locks; HDF5's own default is to go on there as well.
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                return
            raise StorageError(f"{path}: cannot be locked: {error.strerror}") from error
    # Who waited for the lock may have got that of a file which was replaced meanwhile.
    opened = Path(file.name)
    if not opened.exists() or not os.path.samestat(os.fstat(file.fileno()), opened.stat()):
        raise BusyError(f"{path}: another program has just replaced it: try again")


def settled_generation(file: io.FileIO) -> Generation | None:
    """The generation that an open file is in, or None if somebody holds the lock for writing."""
    if fcntl is None:
        return generation(file)
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:
        return generation(file)
    settled = generation(file)
    fcntl.flock(file.fileno(), fcntl.LOCK_UN)
    return settled


def sync_directory(path: Path) -> None:
    """Make a created, renamed or removed name in a directory permanent, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Write a small file and make it permanent; under its name it is there as a whole, or what was there before."""
    fresh = path.with_name(path.name + ".new")
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
