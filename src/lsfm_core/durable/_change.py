"""A change of a file completes, or leaves it byte for byte as it was, also after kill -9 or a power cut.

HDF5 writes through a `JournaledFile`, which keeps the idea of SQLite's rollback journal: before a byte below the old end of the
file is overwritten for the first time, the page around it is copied to ``<file>-journal`` and synced. New data land past the old
end and need no copy. From the first write on the file carries a mark in place of its signature (`_mark`), which the journal has,
too. To commit, the file is synced, the journal told that the change is complete, the mark taken away, and then the journal; to
roll back, the pages are put back, the file is cut at its old length, and the mark gives way to what stood there. Whoever opens
the file and finds a journal whose writer is gone does what is left of either (`recover`), if mark and journal belong together;
else nothing is done without the user's word.

A file that did not exist, or that is to be replaced as a whole, is written as ``<file>.partial``; when it is complete a journal
says so, and then it gets its name.

The XML that goes with a change waits as ``<name>.xml.partial`` until the change is complete, and gets its name before the journal
goes.

Long work may set checkpoints: a second journal, ``<file>-checkpoint``, then leads back to the latest of them, and carries a note
of how far the work had come. It lets an interrupted ingest be resumed.

All of these stand beside the file itself, not beside symbolic links to it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isal import isal_zlib

from lsfm_core.durable._disk import RawFile, generation, reason_of, sync_directory, write_all
from lsfm_core.durable._journal import PAGE, Commit, Header, Journal
from lsfm_core.durable._lock import CAN_LOCK, Hold, flock, lock
from lsfm_core.durable._mark import MARK_SIZE, mark_of, new_mark, read_at
from lsfm_core.durable._places import (
    checkpoint_path,
    journal_path,
    opened,
    partial_path,
    place_xml,
    remove_parts,
    telling,
    waits,
    xml_partial_path,
)
from lsfm_core.durable._recovery import recover, settle
from lsfm_core.durable._steps import damaged, finish, foreign, restore
from lsfm_core.errors import BusyError, StorageError, UnfinishedError

__all__ = [
    "JournaledFile",
    "replacing",
]


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
    is_committed : bool
        Whether the change is in, whatever else goes wrong.
    note : bytes or None
        What was noted at the checkpoint from which this goes on.

    Raises
    ------
    BusyError
        If another process has it open for writing, or for reading through HDF5.
    UnfinishedError
        If what an interrupted writer left does not belong to the file, or is damaged.
    StorageError
        If it cannot be opened for writing.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.note: bytes | None = None
        self.is_committed = False
        self._appears = not path.exists()
        self._base: Journal | None = None
        self._checkpoint: Journal | None = None
        self._hold = Hold()
        file = opened(path)
        super().__init__(file, path)
        try:
            self._hold = lock(self._file, path)
            with telling(path):
                self._start(resume)
        except BaseException:
            self.release()
            raise
        self.is_new = self._appears and self.note is None
        self._wanted_size = self._size()

    def _start(self, resume: bool) -> None:
        path = self.path
        if self._appears and journal_path(path).exists():
            raise BusyError(f"{path}: another program was making it just now: try again")
        if resume and self._go_on():
            return
        if self._appears:
            checkpoint_path(path).unlink(missing_ok=True)
            xml_partial_path(path).unlink(missing_ok=True)
            self._file.truncate(0)
        else:
            settle(self._file, path, undo_checkpoint=True)
            self._start_base()

    def checkpoint(self, note: bytes) -> None:
        """From now on, an interrupted writer can be resumed here; HDF5 must have been flushed.

        Parameters
        ----------
        note : bytes
            What the one who resumes has to know.
        """
        self.check()
        try:
            if self._mark is None:
                self._set_mark()
            self.sync()
            assert self._mark is not None
            size = self._size()
            crc = isal_zlib.crc32(read_at(self._file, self._mark_at, PAGE))
            fresh = Journal.create(
                checkpoint_path(self.path), Header(self._mark, self._mark_at, bytes(self._head), crc, size, 0, note)
            )
        except OSError as error:
            raise self._fail(error) from error
        if self._checkpoint is not None:
            self._checkpoint.close()
        self._checkpoint = fresh

    def commit(self) -> None:
        """Make everything that was written permanent. After this the journals are gone, and the XML that waited has its name.

        Raises
        ------
        StorageError
            If that fails; `is_committed` tells whether the change is in all the same.
        """
        self.check()
        if self._mark is None and not self._appears:
            assert self._base is not None
            self._drop(self._base)  # nothing was written
            self.is_committed = True
            place_xml(self.path)
            self.release()
            return
        try:
            if self._mark is None:
                self._set_mark()
            assert self._mark is not None
            if not self._appears:
                self._check_place()
            self.sync()
            commit = self._final()
            if self._base is None:
                if self.path.exists():
                    raise StorageError(f"{self.path}: somebody has made a file of this name meanwhile: nothing was written to it")
                header = Header(self._mark, self._mark_at, b"", 0, 0, 0)
                self._base = Journal.create(journal_path(self.path), header, commit)
            else:
                self._base.finish(commit)
        except OSError as error:
            raise self._fail(error) from error
        self.is_committed = True
        try:
            finish(self._file, self.path, self._base, commit)
        except OSError as error:
            raise StorageError(
                f"{self.path}: the change is in, but its last step failed: {error}; whoever opens the file next completes it"
            ) from error
        finally:
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
        try:
            if to_checkpoint and self._checkpoint is not None:
                return
            if self._base is not None and self._base.is_in_place:
                survey = self._base.survey(self._file)
                if survey.damage:
                    raise UnfinishedError(damaged(self.path, self._base.path.name, survey.damage))
                restore(self._file, self.path, self._base, survey)
            elif self._base is None:
                remove_parts(self.path)
        except UnfinishedError:
            raise
        except OSError as error:
            raise StorageError(
                f"{self.path}: could not be put back as it was: {reason_of(error)}; whoever opens it next finishes or "
                f"undoes the change, by {journal_path(self.path).name}"
            ) from error
        finally:
            self.release()

    def release(self) -> None:
        """Close the descriptors, too; the journals stay."""
        super().release()
        for journal in (self._base, self._checkpoint):
            if journal is not None:
                journal.close()
        self._hold.release()

    def _before_writing(self, size: int) -> None:
        if self._mark is None:
            if self._base is not None:
                # In one go with its neighbours, so that it takes one sync only.
                self._base.save(self._file, self._mark_at, MARK_SIZE)
            self._set_mark()
        for journal in (self._base, self._checkpoint):
            if journal is not None:
                journal.save(self._file, self._position, size)

    def _set_mark(self) -> None:
        """Mark the file on the disk, before anything else in it is changed."""
        if self._base is None:
            self._mark = new_mark()
        else:
            self._base.save(self._file, self._mark_at, MARK_SIZE)
            self._mark = self._base.header.mark
        write_all(self._file, self._mark_at, self._mark)
        if self._base is not None:
            os.fsync(self._file.fileno())

    def _kept_size(self) -> int:
        # Bytes below the old end may be needed to roll back. `commit` cuts what is left over.
        return max((journal.header.size for journal in (self._base, self._checkpoint) if journal is not None), default=0)

    def _final(self) -> Commit:
        """What the file is known by when the change is complete."""
        head = bytes(self._head)
        page = bytearray(read_at(self._file, self._mark_at, PAGE)[: max(0, self._wanted_size - self._mark_at)])
        page[:MARK_SIZE] = head[: len(page)]
        return Commit(self._wanted_size, head, isal_zlib.crc32(bytes(page)))

    def _check_place(self) -> None:
        """See that what was changed is still what the name stands for, and that nobody has undone it."""
        if self._hold.is_lost or (self._base is not None and not self._base.is_in_place):
            raise StorageError(f"{self.path}: another program has settled this change in the belief that it was given up")
        if not self.path.exists() or not os.path.samestat(self.path.stat(), os.fstat(self._file.fileno())):
            raise StorageError(f"{self.path}: was moved, removed or replaced while it was changed")

    def _start_base(self) -> None:
        place, head = mark_of(self._file)
        crc = isal_zlib.crc32(read_at(self._file, place, PAGE))
        header = Header(new_mark(), place, head, crc, self._size(), generation(self._file).changed_ns)
        try:
            self._base = Journal.create(journal_path(self.path), header)
        except OSError as error:
            raise StorageError(
                f"{journal_path(self.path)}: the rollback journal cannot be written: {reason_of(error)}; nothing was changed"
            ) from error
        self._mark_at, self._head = place, bytearray(head.ljust(MARK_SIZE, b"\0"))

    def _go_on(self) -> bool:
        """Take up the journals that an interrupted writer left, with the file as it was at the checkpoint."""
        if not waits(self.path):
            return False
        place, mark = mark_of(self._file)
        base = None if self._appears else Journal.open(journal_path(self.path))
        checkpoint = Journal.open(checkpoint_path(self.path))
        headers = [journal.header for journal in (base, checkpoint) if journal is not None]
        surveys = [journal.survey(self._file) for journal in (base, checkpoint) if journal is not None]
        try:
            if surveys[0].commit is not None:
                return False
            names = (journal_path(self.path).name, checkpoint_path(self.path).name)[-len(surveys) :]
            for name, survey in zip(names, surveys, strict=True):
                if survey.damage:
                    raise UnfinishedError(damaged(self.path, name, survey.damage))
            if any((header.place, header.mark) != (place, mark) for header in headers):
                raise UnfinishedError(foreign(self.path, checkpoint_path(self.path).name))
            for offset, length, start in surveys[-1].pages:
                write_all(self._file, offset, checkpoint.data(length, start))
            self._file.truncate(checkpoint.header.size)
        except BaseException:
            for journal in (base, checkpoint):
                if journal is not None:
                    journal.close()
            raise
        if base is not None:
            base.resume(surveys[0])
        checkpoint.resume(surveys[-1])
        self._base, self._checkpoint, self.note = base, checkpoint, checkpoint.header.note
        self._mark, self._mark_at, self._head = mark, place, bytearray(checkpoint.header.head)
        return True

    def _drop(self, journal: Journal) -> None:
        journal.close()
        journal.path.unlink(missing_ok=True)
        sync_directory(journal.path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Make a file anew as a whole: the block fills and closes the file whose path it gets, which then takes the place of `path`.

    If the block raises, or the process dies, `path` is what it was. Meanwhile the lock that writers hold is held. The block may
    leave an XML at `xml_partial_path`, which goes with the file.

    Raises
    ------
    BusyError
        If another program has the file open, or an interrupted ingest of it waits to be resumed.
    StorageError
        If it cannot be written.
    """
    recover(path)
    if waits(path):
        raise BusyError(f"{path}: an interrupted ingest waits to be resumed: resume it, or undo it with 'lsfm-core recover'")
    partial = partial_path(path)
    replaced = path.exists()
    committed = False
    file = opened(path)
    with file, lock(file, path):
        place, _ = mark_of(file)
        before = (isal_zlib.crc32(read_at(file, place, PAGE)), os.fstat(file.fileno()).st_size) if replaced else (0, 0)
        if journal_path(path).exists():
            raise BusyError(f"{path}: another program was writing to it just now: try again")
        if not CAN_LOCK:
            file.close()  # Windows replaces no file that is open
        try:
            yield partial
            if replaced:
                shutil.copymode(path, partial)
            with open(partial, "r+b", buffering=0) as made:
                # Whoever opens it under its name waits until it is settled. One that replaces nothing is locked already.
                if replaced:
                    flock(made, path)
                place, head = mark_of(made)
                size = os.fstat(made.fileno()).st_size
                commit = Commit(size, head, isal_zlib.crc32(read_at(made, place, PAGE)))
                os.fsync(made.fileno())
                journal = Journal.create(journal_path(path), Header(new_mark(), place, b"", *before, 0), commit)
                committed = True
                if not CAN_LOCK:
                    made.close()
                finish(made, path, journal, commit)
        except OSError as error:
            if not committed:
                try:
                    remove_parts(path)
                except OSError:
                    # The journal's last write may have come through, though its error says otherwise.
                    raise StorageError(
                        f"{path}: writing failed: {reason_of(error)}; whoever opens it next finishes or undoes the change"
                    ) from error
                raise
            raise StorageError(
                f"{path}: the new file is complete, but could not take its place: {error}; whoever opens it next does that"
            ) from error
        except BaseException:
            if not committed:
                remove_parts(path)
            raise
