"""A file as it was when it was opened, for `h5py` to read through, while others change it: what a viewer holds.

HDF5's own lock would keep every writer away for as long as a layer is shown. A `Snapshot` holds none. Nothing it gives is taken on
trust: after each read it looks whether the file was written to since. If a journaled writer is at work (`_journal`), the journal
has the old bytes of every page that was overwritten, and they are put in place; whatever is past the old end does not exist yet. If
the change is complete, or came from a program without a journal, the snapshot is *stale*: it reads no more, and whoever holds it
opens the file anew.
"""

from __future__ import annotations

import atexit
import io
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import h5py

from lsfm_core.durable import _disk
from lsfm_core.durable._journal import UndoLog
from lsfm_core.durable._lock import LOCK_SECONDS
from lsfm_core.durable._places import journal_path
from lsfm_core.errors import BusyError, StorageError

__all__ = ["DatasetReader", "DetachedFile", "Snapshot"]

Result = TypeVar("Result")

_NOTHING = memoryview(bytearray())


class Snapshot(io.RawIOBase):
    """The bytes of a file at one moment; get it from `Snapshot.take`."""

    def __init__(self, path: Path, file: io.FileIO, generation: _disk.Generation, undo: UndoLog | None) -> None:
        self.path = path
        self._file = file
        self._generation = generation
        self._undo = undo
        self._position = 0
        # HDF5 reads one piece at a time, but others ask meanwhile whether the file has changed.
        self._lock = threading.Lock()

    @classmethod
    def take(cls, path: Path) -> Snapshot:
        """The file as it is, or as it was before a writer that is at work began.

        Raises
        ------
        BusyError
            If a program that keeps no journal is writing to it.
        StorageError
            If it cannot be opened.
        """
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                file = open(path, "rb", buffering=0)  # noqa: SIM115
            except OSError as error:
                raise StorageError(f"{path}: cannot be opened: {error.strerror}") from error
            settled = _disk.settled_generation(file, path)
            undo = UndoLog.find(journal_path(path), file)
            # All of this must be of one file: another may have taken its name meanwhile.
            is_same = _is_at(file, path)
            if is_same and undo is not None:
                return cls(path, file, undo.generation, undo)
            if is_same and settled is not None:
                return cls(path, file, settled, None)
            file.close()
            if undo is not None:
                undo.close()
            if not is_same:
                continue
            if time.monotonic() > deadline:
                raise BusyError(f"{path}: another program is writing to it: try again when it is done")
            time.sleep(LOCK_SECONDS / 20)

    def __repr__(self) -> str:
        return str(self.path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (0, self._position, self._generation.size)[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._generation.size - self._position)]
        self._file.seek(self._position)
        view = view[: self._file.readinto(view)]
        # In this order: what was written before the read is known of after it.
        if not self.restore(view):
            raise StorageError(f"{self.path}: was changed by another program")
        self._position += len(view)
        return len(view)

    def restore(self, view: memoryview = _NOTHING) -> bool:
        """Put the bytes that a writer at work has overwritten back into what was just read.

        Returns
        -------
        bool
            False if the file has changed for good, so that nothing more can be read.
        """
        if _disk.generation(self._file) == self._generation:
            return True
        with self._lock:
            if self._undo is None:
                undo = UndoLog.find(journal_path(self.path), self._file)
                if undo is None:
                    return False
                if undo.generation != self._generation:
                    undo.close()
                    return False
                self._undo = undo
            return self._undo.apply(self._position, view, self._file)

    def close(self) -> None:
        super().close()
        self._file.close()
        if self._undo is not None:
            self._undo.close()


def _is_at(file: io.FileIO, path: Path) -> bool:
    """Whether a name still stands for an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


class DetachedFile:
    """HDF5 through the latest snapshot of a file: opened anew whenever somebody has changed it.

    Raises
    ------
    BusyError, StorageError
        As `Snapshot.take`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._open()

    def _open(self) -> None:
        while True:
            snapshot = Snapshot.take(self.path)
            try:
                self._h5 = h5py.File(snapshot, "r")
            except Exception:
                was_changed = not snapshot.restore()
                snapshot.close()
                if not was_changed:
                    raise
            else:
                self._snapshot = snapshot
                return

    @property
    def h5(self) -> h5py.File:
        """The file as it is now."""
        with self._lock:
            if not self._snapshot.restore():
                self._open()
            return self._h5

    def close(self) -> None:
        """Close it; its datasets cannot be read any more."""
        self._h5.close()
        self._snapshot.close()


class DatasetReader:
    """A dataset of a `DetachedFile`, that is looked up again when the file has been changed.

    Parameters
    ----------
    file : DetachedFile
    dataset : h5py.Dataset
    identity : callable
        Takes a dataset; what it gives is different for another one that stands where this one stood.
    """

    def __init__(self, file: DetachedFile, dataset: h5py.Dataset, identity: Callable[[h5py.Dataset], object]) -> None:
        self._file = file
        self._dataset = dataset
        self._name: str = dataset.name
        self._identify = identity
        self._identity = identity(dataset)

    def __call__(self, work: Callable[[h5py.Dataset], Result]) -> Result:
        """Do `work` on the dataset, and anew on that of the changed file if it changes meanwhile.

        Raises
        ------
        BusyError, StorageError
            As `Snapshot.take`; or if the dataset is not there any more, or was replaced by another.
        """
        while True:
            dataset = self._dataset
            try:
                return work(dataset)
            except Exception:
                if dataset.file == self._file.h5:
                    raise
            self._dataset = self._look_up()

    def _look_up(self) -> h5py.Dataset:
        while True:
            h5 = self._file.h5
            try:
                dataset = h5[self._name]
                fate = "" if self._identify(dataset) == self._identity else "replaced"
            except Exception as error:
                if h5 != self._file.h5:
                    continue  # it was changed once more meanwhile
                if not isinstance(error, KeyError):
                    raise
                fate = "removed or renamed"
            if fate:
                raise StorageError(f"{self._file.path}: {self._name} was {fate} since it was opened: open the file again")
            return dataset


@atexit.register
def _close_all() -> None:
    """Close what is open through Python: HDF5 would do so when there is no Python any more."""
    for identifier in h5py.h5f.get_obj_ids(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE | h5py.h5f.OBJ_GROUP | h5py.h5f.OBJ_DATASET):
        if identifier.valid:
            file = h5py.h5i.get_file_id(identifier)
            if file.get_access_plist().get_driver() == h5py.h5fd.fileobj_driver:
                h5py.File(file).close()
