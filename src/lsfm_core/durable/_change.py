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

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from isal import isal_zlib

from lsfm_core.durable._disk import RawFile, generation, reason_of, sync_directory, write_all, write_file
from lsfm_core.durable._journal import PAGE, Commit, Header, Journal, Survey
from lsfm_core.durable._lock import CAN_LOCK, Hold, flock, lock
from lsfm_core.durable._mark import MARK_SIZE, SIGNATURE, is_mark, is_marked, mark_of, new_mark, read_at
from lsfm_core.errors import BusyError, LsfmError, StorageError, UnfinishedError

__all__ = [
    "JournaledFile", "checkpoint_path", "give_up", "journal_path", "partial_path", "recover", "replacing", "unsettled",
    "waiting_xml", "waits",
    "xml_partial_path",
]  # fmt: skip


#: Begins the comment at the end of a waiting XML that tells where it belongs, from the HDF5 file's folder.
_PLACE = "<!--lsfm-core: for "


def journal_path(path: Path) -> Path:
    """Where the journal of a file stands."""
    real = _real(path)
    return real.with_name(real.name + "-journal")


def checkpoint_path(path: Path) -> Path:
    """Where the way back to the latest checkpoint stands."""
    real = _real(path)
    return real.with_name(real.name + "-checkpoint")


def partial_path(path: Path) -> Path:
    """Where a file is written before it exists."""
    real = _real(path)
    return real.with_name(real.name + ".partial")


def xml_partial_path(path: Path) -> Path:
    """Where the XML of a file waits for the change that it goes with."""
    return partial_path(_xml_path(path))


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Tell of what goes wrong before a file is changed as errors of ours."""
    try:
        yield
    except OSError as error:
        if isinstance(error, LsfmError):
            raise
        raise StorageError(
            f"{path}: what stands beside it cannot be put in order: {reason_of(error)}; nothing was changed"
        ) from error


def waiting_xml(data: bytes, path: Path, xml: Path) -> bytes:
    """What waits at `xml_partial_path` of `path` for an XML that need not have the file's stem: it says itself where it belongs."""
    xml = _real(xml)
    if xml == _xml_path(path):
        return data
    place = quote(Path(os.path.relpath(xml, _real(path).parent)).as_posix())
    return data.rstrip() + f"\n{_PLACE}{place}-->\n".encode("ascii")


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
        file = _opened(path)
        super().__init__(file, path)
        try:
            self._hold = lock(self._file, path)
            with _telling(path):
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
            _settle(self._file, path, undo_checkpoint=True)
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
            _place_xml(self.path)
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
            _finish(self._file, self.path, self._base, commit)
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
                    raise UnfinishedError(_damaged(self.path, self._base.path.name, survey.damage))
                _restore(self._file, self.path, self._base, survey)
            elif self._base is None:
                _remove_parts(self.path)
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
                    raise UnfinishedError(_damaged(self.path, name, survey.damage))
            if any((header.place, header.mark) != (place, mark) for header in headers):
                raise UnfinishedError(_foreign(self.path, checkpoint_path(self.path).name))
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
    with _telling(path):
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
        return False
    try:
        file = _opened(path)
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
        return bool(_settle(file, path))


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
    with _telling(path):
        return _give_up(path, force, discard)


def _give_up(path: Path, force: bool, discard: bool) -> tuple[str, ...]:
    places = [journal_path(path), checkpoint_path(path), partial_path(path)]
    if not any(place.exists() for place in places) and not is_marked(path):
        _drop_parts(path)
        return ()
    if not path.exists() and not partial_path(path).exists():
        return _drop_orphans(path, force or discard)
    file = _opened(path)
    with file, lock(file, path, force=force):
        try:
            return _settle(file, path, undo_checkpoint=True)
        except UnfinishedError:
            if force and journal_path(path).exists():
                return _force(file, path)
            if force or discard:
                return _discard(file, path)
            raise


def unsettled(folder: Path) -> list[Path]:
    """The files in a folder beside which something stands that an interrupted writer has left, or a writer is using."""
    endings = [place(Path("x")).name[1:] for place in (journal_path, checkpoint_path, partial_path)]
    endings += [f"{ending}.new" for ending in endings[:2]]
    found = {
        Path(folder, entry.name.removesuffix(ending))
        for ending in endings
        for entry in os.scandir(folder)
        if entry.name.endswith(ending) and entry.is_file() and Path(entry.name.removesuffix(ending)).suffix in (".h5", ".hdf5")
    }
    return sorted(found)


def waits(path: Path) -> bool:
    """Whether an interrupted writer has left what it can be resumed from."""
    partial = partial_path(path)
    left = journal_path(path).exists() if path.exists() else partial.exists() and partial.stat().st_size > 0
    return left and checkpoint_path(path).exists()


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
    file = _opened(path)
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
                _finish(made, path, journal, commit)
        except OSError as error:
            if not committed:
                try:
                    _remove_parts(path)
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
                _remove_parts(path)
            raise


# --- what is found ---------------------------------------------------------------------------------------------------------------


def _settle(file: io.FileIO, path: Path, *, undo_checkpoint: bool = False) -> tuple[str, ...]:
    """Do what is left of a change to a file, and tell what was done; `file` is its partial one if it is not there, and locked."""
    place, found = mark_of(file)
    if not journal_path(path).exists():
        if path.exists() and is_mark(found):
            raise UnfinishedError(_lost(path))
        return _undo_new(path, undo_checkpoint)
    try:
        journal = Journal.open(journal_path(path))
    except UnfinishedError as error:
        raise UnfinishedError(_damaged(path, journal_path(path).name, str(error))) from error
    try:
        survey = journal.survey(file)
        if survey.commit is not None:
            return _complete(file, path, journal, survey.commit)
        if survey.damage:
            raise UnfinishedError(_damaged(path, journal.path.name, survey.damage))
        belongs = (place, found) == (journal.header.place, journal.header.mark)
        if not belongs and (is_mark(found) or not _is_as_before(file, journal, survey)):
            raise UnfinishedError(_foreign(path, journal.path.name))
        if belongs and checkpoint_path(path).exists() and not undo_checkpoint:
            raise BusyError(
                f"{path}: an interrupted ingest waits to be resumed: repeat its command line with --resume, or undo it with "
                "'lsfm-core recover'"
            )
        if belongs:
            _restore(file, path, journal, survey)
        else:
            _clear(path)
    finally:
        journal.close()
    return ("the interrupted change was undone",)


def _complete(file: io.FileIO, path: Path, journal: Journal, commit: Commit) -> tuple[str, ...]:
    """Bring a change to its end that was complete when its writer died."""
    partial = partial_path(path)
    if partial.exists():
        with open(partial, "r+b", buffering=0) as made:
            if _is_result(made, journal.header, commit):
                header = journal.header
                # It takes the place of none, or of that which it was to replace.
                if path.exists() and not os.path.samestat(os.fstat(file.fileno()), os.fstat(made.fileno())):
                    crc = isal_zlib.crc32(read_at(file, mark_of(file)[0], PAGE))
                    if (crc, os.fstat(file.fileno()).st_size) != (header.page_crc, header.size):
                        raise UnfinishedError(_foreign(path, journal.path.name))
                _finish(made, path, journal, commit)
                return ()
    if path.exists() and _is_result(file, journal.header, commit):
        _finish(file, path, journal, commit)
    elif is_mark(mark_of(file)[1]):
        raise UnfinishedError(_foreign(path, journal.path.name))
    else:
        _clear(path)  # of a change that is complete, to a file that is gone
    return ()


def _finish(file: io.FileIO, path: Path, journal: Journal, commit: Commit) -> None:
    """The last steps of a change that is complete; each may have been done before."""
    header = journal.header
    if mark_of(file)[1] == header.mark:
        file.truncate(max(commit.size, header.place + MARK_SIZE))
        write_all(file, header.place, commit.head)
        file.truncate(commit.size)
        os.fsync(file.fileno())
    for place in _unnamed(path):
        place.unlink(missing_ok=True)
    real, partial = _real(path), partial_path(path)
    if partial.exists() and (file.closed or os.path.samestat(partial.stat(), os.fstat(file.fileno()))):
        os.replace(partial, real)
        sync_directory(real.parent)
    checkpoint_path(path).unlink(missing_ok=True)
    _place_xml(path)
    sync_directory(real.parent)
    if journal.is_in_place:
        journal.path.unlink(missing_ok=True)
    journal.close()
    sync_directory(real.parent)


def _place_xml(path: Path) -> None:
    """Let the XML that waits for a change take its place, unless somebody has done it meanwhile."""
    partial = xml_partial_path(path)
    with suppress(FileNotFoundError):
        data, _, last = partial.read_bytes().rstrip().rpartition(b"\n")
        if not (last.startswith(_PLACE.encode()) and last.endswith(b"-->")):
            os.replace(partial, _xml_path(path))
            return
        xml = _real(path).parent / unquote(last[len(_PLACE) : -3].decode("ascii", "replace"))
        # Written by nobody but us it is the one that was read before; whatever else it may name stays as it is.
        if xml.suffix.lower() == ".xml" and xml.is_file() and b"<SpimData" in xml.read_bytes()[:4096]:
            write_file(xml, data + b"\n")
        partial.unlink()


def _restore(file: io.FileIO, path: Path, journal: Journal, survey: Survey) -> None:
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
    _clear(path)


def _is_as_before(file: io.FileIO, journal: Journal, survey: Survey) -> bool:
    """Whether a file is in the state that a journal leads back to, so that there is nothing to undo."""
    header = journal.header
    return (
        os.fstat(file.fileno()).st_size == header.size
        and isal_zlib.crc32(read_at(file, header.place, PAGE)) == header.page_crc
        and all(read_at(file, offset, length) == journal.data(length, start) for offset, length, start in survey.pages)
    )


def _is_result(file: io.FileIO, header: Header, commit: Commit) -> bool:
    """Whether a file is what a change has made of it, with the mark or without."""
    place, found = mark_of(file)
    if found == header.mark:
        return True
    size = os.fstat(file.fileno()).st_size
    return (place, size) == (header.place, commit.size) and isal_zlib.crc32(read_at(file, place, PAGE)) == commit.page_crc


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
                    return _is_result(file, journal.header, survey.commit)
                return _is_as_before(file, journal, survey)
        finally:
            journal.close()
    return False


def _check_whole(path: Path) -> None:
    """Refuse a marked file without journal, unless a writer is at work on it."""
    try:
        file = _opened(path)
    except StorageError:
        raise UnfinishedError(_lost(path)) from None
    with file, lock(file, path):
        if not journal_path(path).exists() and is_mark(mark_of(file)[1]):
            raise UnfinishedError(_lost(path))
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
            _finish(made, path, journal, with_damage.commit)
        return ("the interrupted change was brought to its end",)
    place, found = mark_of(file)
    if is_mark(found):
        write_all(file, place, SIGNATURE)
    write_all(file, journal.header.place, journal.header.mark)
    _restore(file, path, journal, with_damage)
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
    _clear(path)
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
    _remove_parts(path)
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
    _clear(path)
    return tuple(f"{name} was removed: what it led back to is gone" for name in names)


def _drop_parts(path: Path) -> None:
    """Remove what somebody who died has left of a file, or an XML, that was to take its place."""
    partial = partial_path(path)
    if not path.exists() or not any(place.exists() for place in (partial, xml_partial_path(path), *_unnamed(path))):
        return
    if partial.exists() and checkpoint_path(path).exists():
        return  # it can be resumed, should the file go
    # Whoever makes such a file holds the lock on `path`. If it is still being made, or we may not remove it, it stays.
    with suppress(OSError), open(_real(path), "r+b", buffering=0) as file, lock(file, path):
        if not journal_path(path).exists():
            _remove_parts(path)


def _remove_parts(path: Path) -> None:
    checkpoint_path(path).unlink(missing_ok=True)
    for place in (*_unnamed(path), xml_partial_path(path), partial_path(path)):
        place.unlink(missing_ok=True)


def _unnamed(path: Path) -> list[Path]:
    """Where small files are written before they have their names."""
    return [place.with_name(place.name + ".new") for place in (journal_path(path), checkpoint_path(path), xml_partial_path(path))]


def _clear(path: Path) -> None:
    """Remove everything that stands beside a file, the journal last."""
    _remove_parts(path)
    journal_path(path).unlink(missing_ok=True)
    sync_directory(_real(path).parent)


def _opened(path: Path) -> io.FileIO:
    """A file to be written, or its partial one if it does not exist, which is made then."""
    target = _real(path) if path.exists() else partial_path(path)
    try:
        return open(target, "r+b" if target.exists() else "x+b", buffering=0)
    except OSError as error:
        raise StorageError(f"{path}: cannot be opened for writing: {reason_of(error)}") from error


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _xml_path(path: Path) -> Path:
    return _real(path).with_suffix(".xml")


# --- what is told ----------------------------------------------------------------------------------------------------------------


def _lost(path: Path) -> str:
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


def _foreign(path: Path, journal: str) -> str:
    return (
        f"{path}: {journal} beside it was left by an interrupted change to another file, or to another state of this one: both are "
        "left as they are. If this file was put in the place of that one, 'lsfm-core recover --discard-journal' keeps it as it is; "
        "'lsfm-core recover --force' applies the journal all the same"
    )


def _damaged(path: Path, journal: str, what: str) -> str:
    return (
        f"{path}: an interrupted change left {journal}, which cannot be trusted: {what}. Both are left as they are: "
        "'lsfm-core recover --force' applies what can be read of it, 'lsfm-core recover --discard-journal' takes the file as it is"
    )
