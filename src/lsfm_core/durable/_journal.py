"""Journals: the pages of a file as they were at one moment, by which it is led back there.

Layout, little-endian, each part padded with zeros to a multiple of 32 bytes. First a header: ``magic(8) mark(8) place of the
mark(u64) bytes there before(8) their number(u8) 0(3) crc32 of the page there before(u32) old size(u64) time of last change
before, ns(i64) length of the note(u32) crc32(u32) note``. Then records: ``place(u64) length(u32) crc32 of the bytes(u32)
kind(u32) head(8) crc32(u32) bytes``. The last checksum of each covers what stands before it, that of the header also the note.
Kinds: 1, a page as it was; 2, the change is complete: ``place`` is the size that the file gets, ``head`` the bytes in place of
the mark, and the bytes' checksum that of the page around these.

A record is acted upon only when it is on the disk. So one that is cut short at the end, or is nothing but zeros there, was not;
nor was one whose bytes do not match, if those that it tells of still stand in the file. Any other one that does not match is
damage: then nothing is done on a guess.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from isal import isal_zlib

from lsfm_core.durable._disk import Generation, sync_directory, write_all
from lsfm_core.durable._mark import MARK_SIZE, mark_of, read_at
from lsfm_core.errors import UnfinishedError

__all__ = ["PAGE", "Commit", "Header", "Journal", "Survey", "UndoLog"]

PAGE = 4096
_MAGIC = b"LSFMJRN2"
_HEADER = struct.Struct("<8s8sQ8sB3xIQqI")
_RECORD = struct.Struct("<QIII8s")
_CRC = struct.Struct("<I")
_ALIGN = 32
_OLD_BYTES, _COMMIT = 1, 2
#: A record that is no longer than this is mended if one bit of it has flipped.
_MENDED_BYTES = 2**16


class Header(NamedTuple):
    """What a journal tells of its file.

    Attributes
    ----------
    mark : bytes
        What the file carries while the change goes on.
    place : int
        Where.
    head : bytes
        What stood there before.
    page_crc : int
        CRC-32 of the page around that.
    size : int
        Of the file before.
    changed_ns : int
        Its time of last change before.
    note : bytes
        Whoever resumes has to know this.
    """

    mark: bytes
    place: int
    head: bytes
    page_crc: int
    size: int
    changed_ns: int
    note: bytes = b""


class Commit(NamedTuple):
    """That a change is complete: what its file is known by when the mark is gone."""

    size: int
    head: bytes
    page_crc: int


@dataclass(frozen=True)
class Survey:
    """What was found in a journal.

    Attributes
    ----------
    pages : tuple of (int, int, int)
        Each record's place in the file, its length, and where its bytes stand in the journal.
    end : int
        Where what was acted upon ends.
    commit : Commit or None
    damage : str
        Where it does not match its checksums; "" if it does.
    """

    pages: tuple[tuple[int, int, int], ...]
    end: int
    commit: Commit | None
    damage: str


class Journal:
    """A journal that is open; `create` or `open` one.

    Attributes
    ----------
    path : Path
    header : Header
    """

    def __init__(self, path: Path, file: io.FileIO, header: Header, saved: set[int]) -> None:
        self.path = path
        self.header = header
        self._file = file
        self._saved = saved

    @classmethod
    def create(cls, path: Path, header: Header, commit: Commit | None = None) -> Journal:
        """Make a journal; it replaces one of that name only when it is complete.

        Parameters
        ----------
        path : Path
        header : Header
        commit : Commit, optional
            Let it say from the beginning that the change is complete.
        """
        fresh, stood = path.with_name(path.name + ".new"), path.exists()
        file = open(fresh, "w+b", buffering=0)  # noqa: SIM115
        try:
            data = _encoded(header)
            if commit is not None:
                data += _record(_COMMIT, commit.size, b"", commit.head, commit.page_crc)
            write_all(file, None, data)
            os.fsync(file.fileno())
            os.replace(fresh, path)
            sync_directory(path.parent)
        except BaseException:
            file.close()
            fresh.unlink(missing_ok=True)
            if not stood:
                path.unlink(missing_ok=True)
            raise
        return cls(path, file, header, set())

    @classmethod
    def open(cls, path: Path, *, mend: bool = False, read_only: bool = False) -> Journal:
        """A journal that somebody left.

        Parameters
        ----------
        path : Path
        mend : bool
            Accept a header of which one bit has flipped.
        read_only : bool

        Raises
        ------
        UnfinishedError
            If it cannot be read.
        FileNotFoundError
        """
        if path.exists() and not path.is_file():  # a pipe would let us wait forever
            raise UnfinishedError("it is no file")
        file = open(path, "rb" if read_only else "r+b", buffering=0)  # noqa: SIM115
        try:
            header = _decoded(file, mend)
        except BaseException:
            file.close()
            raise
        return cls(path, file, header, set())

    def survey(self, target: io.FileIO, *, mend: bool = False) -> Survey:
        """Look through all records, beside the file whose pages they are.

        Parameters
        ----------
        target : FileIO
        mend : bool
            Accept records of which one bit has flipped; of others, those before and behind.
        """
        pages: list[tuple[int, int, int]] = []
        commit, damage = None, ""
        place = _start(self.header)
        while True:
            raw = read_at(self._file, place, _ALIGN)
            if len(raw) < _ALIGN or not any(raw):
                break
            head = _parsed(raw) or (_parsed(_mended(raw)) if mend else None)
            if head is None:
                damage = damage or f"the head of its record at byte {place} does not match its checksum"
                break
            offset, length, crc, kind, octets = head
            if kind == _COMMIT:
                commit = Commit(offset, octets, crc)
                place += _ALIGN
                break
            data = read_at(self._file, place + _ALIGN, length)
            if isal_zlib.crc32(data) != crc:
                if isal_zlib.crc32(read_at(target, offset, length)) == crc:
                    if len(data) < length:
                        break
                else:
                    mended = _mended(data, crc) if mend and len(data) == length else b""
                    if mended:
                        write_all(self._file, place + _ALIGN, mended)
                    else:
                        damage = damage or f"its record at byte {place}, of bytes {offset} to {offset + length}, is damaged"
                        if not mend:
                            break
                        place += _ALIGN + _padded(length)
                        continue
            pages.append((offset, length, place + _ALIGN))
            place += _ALIGN + _padded(length)
        return Survey(tuple(pages), place, commit, damage)

    def resume(self, survey: Survey) -> None:
        """Go on behind what was found."""
        self._file.truncate(survey.end)
        self._file.seek(survey.end)
        self._saved = {n for offset, length, _ in survey.pages for n in page_numbers(offset, length)}

    def data(self, length: int, start: int) -> bytes:
        """The bytes of a record."""
        return read_at(self._file, start, length)

    def save(self, source: io.FileIO, start: int, size: int) -> None:
        """Copy what is about to be overwritten, once per page, and make it permanent."""
        stop = min(start + size, self.header.size)
        pages = [page for page in range(start // PAGE, -(-stop // PAGE)) if page not in self._saved] if start < stop else []
        if not pages:
            return
        self._file.seek(0, os.SEEK_END)
        for first, last in _runs(pages):
            offset = first * PAGE
            data = read_at(source, offset, min((last + 1) * PAGE, self.header.size) - offset)
            write_all(self._file, None, _record(_OLD_BYTES, offset, data, bytes(MARK_SIZE), isal_zlib.crc32(data)))
        os.fsync(self._file.fileno())
        self._saved.update(pages)

    def finish(self, commit: Commit) -> None:
        """Say that the change is complete. If that fails, it is as if it had not been said."""
        end = self._file.seek(0, os.SEEK_END)
        try:
            write_all(self._file, None, _record(_COMMIT, commit.size, b"", commit.head, commit.page_crc))
            os.fsync(self._file.fileno())
        except BaseException:
            self._file.truncate(end)
            os.fsync(self._file.fileno())
            raise

    @property
    def is_in_place(self) -> bool:
        """Whether it still stands under its name."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        self._file.close()


class UndoLog:
    """The journal of a writer that may be at work, read beside it.

    Attributes
    ----------
    generation : Generation
        Of the file before the writer changed it.
    """

    def __init__(self, path: Path, file: io.FileIO, header: Header) -> None:
        self.generation = Generation(header.size, header.changed_ns)
        self._header = header
        self._path = path
        self._file = file
        self._end = _start(header)
        self._is_complete = False
        #: Page number -> where its old bytes stand in the journal, and how many they are.
        self._pages: dict[int, tuple[int, int]] = {}

    @classmethod
    def find(cls, path: Path, target: io.FileIO) -> UndoLog | None:
        """The journal at a path, if its change is not complete and it is that of an open file; else None."""
        try:
            file = open(path, "rb", buffering=0)  # noqa: SIM115
        except OSError:
            return None
        try:
            undo = cls(path, file, _decoded(file, False))
        except UnfinishedError:
            undo = None
        if undo is None or not undo._is_of(target):
            file.close()
            return None
        return undo

    def _is_of(self, target: io.FileIO) -> bool:
        """Whether the change is one of this file, and goes on."""
        self._follow()
        if self._is_complete:
            return False
        place, found = mark_of(target)
        if (place, found) == (self._header.place, self._header.mark):
            return True
        # The writer has written nothing yet.
        status = os.fstat(target.fileno())
        return Generation(status.st_size, status.st_mtime_ns) == self.generation

    def _follow(self) -> None:
        """Read on to where the writer is."""
        while True:
            raw = read_at(self._file, self._end, _ALIGN)
            head = _parsed(raw) if len(raw) == _ALIGN else None
            if head is None:
                return
            offset, length, crc, kind, _ = head
            if kind == _COMMIT:
                self._is_complete = True
                return
            data = read_at(self._file, self._end + _ALIGN, length)
            if isal_zlib.crc32(data) != crc:
                return
            for number in page_numbers(offset, length):
                within = number * PAGE - offset
                self._pages[number] = (self._end + _ALIGN + within, min(PAGE, length - within))
            self._end += _ALIGN + _padded(length)

    def apply(self, position: int, view: memoryview, target: io.FileIO) -> bool:
        """Put old bytes in place of new ones in what was read from `position` on; whether the writer was at work until now."""
        self._follow()
        try:
            # Held open, it cannot give its number to the next writer's journal.
            if not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                return False
        except FileNotFoundError:
            return False
        if not self._is_of(target):
            return False
        for number in page_numbers(position, len(view)):
            if number in self._pages:
                start, length = self._pages[number]
                old = read_at(self._file, start, length)
                first = number * PAGE - position
                low, high = max(0, first), min(len(view), first + length)
                view[low:high] = old[low - first : high - first]
        return True

    def close(self) -> None:
        self._file.close()


def page_numbers(offset: int, size: int) -> range:
    """Pages that bytes from `offset` on lie in."""
    return range(offset // PAGE, -(-(offset + size) // PAGE))


def _encoded(header: Header) -> bytes:
    head = header.head.ljust(MARK_SIZE, b"\0")
    fields = (header.mark, header.place, head, len(header.head), header.page_crc, header.size, header.changed_ns, len(header.note))
    data = _HEADER.pack(_MAGIC, *fields)
    data += _CRC.pack(isal_zlib.crc32(header.note, isal_zlib.crc32(data))) + header.note
    return data.ljust(_padded(len(data)), b"\0")


def _decoded(file: io.FileIO, mend: bool) -> Header:
    data = read_at(file, 0, _HEADER.size + _CRC.size)
    name = Path(file.name).name
    if data.startswith(b"LSFMJRN") and not data.startswith(_MAGIC):
        raise UnfinishedError(f"{name} was written by another version of this program")
    if len(data) < _HEADER.size + _CRC.size:
        raise UnfinishedError(f"{name} is cut short, or none of ours")

    def fits(data: bytes) -> bool:
        length = _HEADER.unpack_from(data)[-1]
        if length > os.fstat(file.fileno()).st_size:
            return False
        crc = isal_zlib.crc32(read_at(file, len(data), length), isal_zlib.crc32(data[: _HEADER.size]))
        return bool(data.startswith(_MAGIC) and _CRC.unpack_from(data, _HEADER.size)[0] == crc)

    if not fits(data):
        mended = [turned for turned in _turned(data) if fits(turned)] if mend else []
        if len(mended) != 1:
            raise UnfinishedError(f"{name} is damaged: its header does not match its checksum")
        data = mended[0]
    _, mark, place, head, count, page_crc, size, changed_ns, length = _HEADER.unpack_from(data)
    return Header(mark, place, head[:count], page_crc, size, changed_ns, read_at(file, len(data), length))


def _start(header: Header) -> int:
    return _padded(_HEADER.size + _CRC.size + len(header.note))


def _record(kind: int, place: int, data: bytes, head: bytes, crc: int) -> bytes:
    raw = _RECORD.pack(place, len(data), crc, kind, head)
    raw += _CRC.pack(isal_zlib.crc32(raw)) + data
    return raw.ljust(_padded(len(raw)), b"\0")


def _parsed(raw: bytes) -> tuple[int, int, int, int, bytes] | None:
    """Place, length, checksum, kind and head of a record; None if its own checksum does not match."""
    if len(raw) < _ALIGN or isal_zlib.crc32(raw[: _RECORD.size]) != _CRC.unpack_from(raw, _RECORD.size)[0]:
        return None
    place, length, crc, kind, head = _RECORD.unpack_from(raw)
    return place, length, crc, kind, head


def _turned(data: bytes) -> Iterator[bytes]:
    """The same bytes, each time with another bit flipped."""
    octets = bytearray(data)
    for bit in range(8 * len(data)):
        octets[bit // 8] ^= 1 << bit % 8
        yield bytes(octets)
        octets[bit // 8] ^= 1 << bit % 8


def _mended(data: bytes, crc: int | None = None) -> bytes:
    """Bytes in which one flipped bit is turned back, so that they match their checksum; empty if no single one does it."""
    if len(data) > _MENDED_BYTES:
        return b""
    if crc is None:
        found = [turned for turned in _turned(data) if _parsed(turned) is not None]
    else:
        found = [turned for turned in _turned(data) if isal_zlib.crc32(turned) == crc]
    return found[0] if len(found) == 1 else b""


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _runs(pages: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for page in pages:
        if runs and runs[-1][1] == page - 1:
            runs[-1] = (runs[-1][0], page)
        else:
            runs.append((page, page))
    return runs
