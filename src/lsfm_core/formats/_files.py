"""Files that are read while their checksum is taken, compressed streams, and the files that a header may name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
from isal import igzip_lib, igzip_threaded, isal_zlib

from lsfm_core.confinement import is_inside, is_outside_allowed
from lsfm_core.errors import SourceError
from lsfm_core.records import FileRecord

__all__ = [
    "MAX_DEFLATE_RATIO",
    "Checksum",
    "DataFile",
    "Inflater",
    "bytes_of",
    "check_inside",
    "check_members",
    "companion",
    "gzip_stream",
    "read_at",
    "read_head",
]

#: Deflate cannot do better than 1032:1; a header that needs more than this tells a lie.
MAX_DEFLATE_RATIO = 1100
_BLOCK = 2**20
# Its stub takes the class for an instance.
_DECODER_ERROR = cast(type[Exception], igzip_lib.error)
_GZIP = b"\x1f\x8b"


def bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """The memory of a contiguous array, whatever its type and byte order."""
    return memoryview(cast(bytes, array.reshape(-1).view(np.uint8)))


class Checksum:
    """CRC-32 of a file that somebody else reads.

    It follows the reader through bytes that the operating system still holds in memory, so that a file on a slow disk is not read
    twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._position = 0
        self._crc = 0

    def follow(self, offset: int) -> None:
        """Come along to `offset`, unless that is near, or another thread is at it."""
        if offset - self._position >= 4 * _BLOCK and self._lock.acquire(blocking=False):
            try:
                self._advance(offset)
            finally:
                self._lock.release()

    def record(self) -> FileRecord:
        """Finish, and tell name, size and CRC-32."""
        with self._lock:
            self._advance(None)
            return FileRecord(self.path.name, self._position, self._crc)

    def _advance(self, offset: int | None) -> None:
        block = bytearray(_BLOCK)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self._position)
                while offset is None or self._position < offset:
                    count = file.readinto(block)
                    if not count:
                        return
                    self._crc = isal_zlib.crc32(memoryview(block)[:count], self._crc)
                    self._position += count
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read: {error.strerror}") from error


@contextmanager
def read_at(path: Path) -> Iterator[Callable[[int, memoryview], None]]:
    """A function that fills a buffer with the bytes of a file from an offset on; for one thread.

    Raises
    ------
    SourceError
        If the file cannot be read, or ends too early.
    """
    try:
        with path.open("rb", buffering=0) as file:

            def read(offset: int, view: memoryview) -> None:
                end = offset + len(view)
                file.seek(offset)
                while view:
                    count = file.readinto(view)
                    if not count:
                        raise SourceError(f"{path}: is cut short: a piece of it ends at byte {end}: copy it again")
                    view = view[count:]

            yield read
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error


class DataFile:
    """A file of which any piece can be read, by several threads at once.

    Parameters
    ----------
    path : Path
    checksum : Checksum, optional
        Of the file, where others read it as well.

    Raises
    ------
    SourceError
        Here and in all methods: if the file cannot be read, or ends too early.
    """

    def __init__(self, path: Path, checksum: Checksum | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._checksum = checksum or Checksum(path)
        try:
            self._file = path.open("rb", buffering=0)
            self.size = path.stat().st_size
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from error

    def read_into(self, offset: int, out: npt.NDArray[Any]) -> None:
        """Fill the contiguous array `out` with the bytes from `offset` on."""
        view = bytes_of(out)
        wanted = len(view)
        while view:
            count = self._read(offset + wanted - len(view), view)
            if not count:
                raise SourceError(f"{self.path}: is cut short: its data end at byte {self.size}: copy it again")
            view = view[count:]
        self._checksum.follow(offset + wanted)

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on; fewer at the end of the file."""
        block = bytearray(size)
        count = self._read(offset, memoryview(block))
        self._checksum.follow(offset + count)
        return bytes(memoryview(block)[:count])

    def record(self) -> FileRecord:
        """The file's name, size and CRC-32."""
        return self._checksum.record()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _read(self, offset: int, view: memoryview) -> int:
        try:
            with self._lock:
                self._file.seek(offset)
                return self._file.readinto(view) or 0
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read: {error.strerror}") from error


class Inflater:
    """Decodes a gzip or zlib stream, forwards only.

    Parameters
    ----------
    file : DataFile
    offset : int
        Where the stream begins.
    """

    def __init__(self, file: DataFile, offset: int = 0) -> None:
        self._file = file
        self._offset = offset
        self._input = file.read(offset, _BLOCK // 4)
        self._offset += len(self._input)
        self._decoder = self._new_decoder()

    def read(self, limit: int) -> bytes:
        """Between 1 and `limit` of the bytes that follow; none at the end.

        Raises
        ------
        SourceError
            If the stream is damaged, or ends too early.
        """
        while True:
            if self._decoder.eof:
                # gzip files may have several members; what else follows a stream is not ours.
                self._input = self._decoder.unused_data or self._next_block()
                if not self._input.startswith(_GZIP):
                    return b""
                self._decoder = self._new_decoder()
            elif self._decoder.needs_input and not self._input:
                self._input = self._next_block()
                if not self._input:
                    raise SourceError(f"{self._file.path}: is cut short: its compressed data end too early: copy it again")
            try:
                data: bytes = self._decoder.decompress(self._input, limit)
            except _DECODER_ERROR as error:
                raise SourceError(f"{self._file.path}: cannot be decompressed, the file is damaged: {error}") from error
            self._input = b""
            if data:
                return data

    def read_into(self, out: npt.NDArray[Any]) -> None:
        """Fill the contiguous array `out` with the bytes that follow.

        Raises
        ------
        SourceError
            If the stream is damaged, or ends too early.
        """
        view = bytes_of(out)
        while view:
            data = self.read(min(len(view), _BLOCK))
            if not data:
                raise SourceError(f"{self._file.path}: is cut short: its compressed data end too early: copy it again")
            view[: len(data)] = data
            view = view[len(data) :]

    def skip(self, count: int | None = None) -> None:
        """Pass over `count` bytes, or over all the rest: only at its end does a stream tell whether it was whole."""
        while count is None or count > 0:
            data = self.read(_BLOCK if count is None else min(count, _BLOCK))
            if not data:
                if count is None:
                    return
                raise SourceError(f"{self._file.path}: is cut short: its compressed data end too early: copy it again")
            count = None if count is None else count - len(data)

    def _new_decoder(self) -> Any:
        flag = igzip_lib.DECOMP_GZIP if self._input.startswith(_GZIP) else igzip_lib.DECOMP_ZLIB
        return igzip_lib.IgzipDecompressor(flag=flag)

    def _next_block(self) -> bytes:
        block = self._file.read(self._offset, _BLOCK // 4)
        self._offset += len(block)
        return block


def read_head(file: DataFile, size: int) -> bytes:
    """First `size` bytes of a file, decompressed if it is gzip; fewer if it is shorter."""
    head = file.read(0, size)
    if not head.startswith(_GZIP):
        return head
    out = b""
    stream = Inflater(file)
    while len(out) < size and (data := stream.read(size - len(out))):
        out += data
    return out


class _Blocks:
    """Hands blocks of one size on: isal compresses each write by itself, and how many there are depends on memory and threads."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._rest = bytearray()

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data)
        start = 0
        while len(self._rest) + len(view) - start >= _BLOCK:
            stop = start + _BLOCK - len(self._rest)
            self._stream.write(self._rest + view[start:stop] if self._rest else view[start:stop])
            self._rest.clear()
            start = stop
        self._rest += view[start:]
        return len(view)

    def flush(self) -> None:
        self._stream.write(self._rest)
        self._rest.clear()


@contextmanager
def gzip_stream(file: Path | IO[bytes], threads: int) -> Iterator[IO[bytes]]:
    """A gzip stream to write, into a new file or from where an open one stands; the same bytes however they come in pieces."""
    try:
        with igzip_threaded.open(file, "wb", compresslevel=1, threads=threads, block_size=_BLOCK) as stream:
            blocks = _Blocks(cast(IO[bytes], stream))
            yield cast(IO[bytes], blocks)
            blocks.flush()
    except OSError as error:
        # A thread's error is raised again and again, and becomes its own context, which contextlib would follow forever.
        error.__context__ = None
        raise


def companion(header: Path, name: str) -> Path:
    """The file that a header names: beside it or below, elsewhere only where that is allowed.

    Raises
    ------
    SourceError
    """
    pure = (PurePosixPath(name), PureWindowsPath(name))
    leads_out = any(p.is_absolute() or p.drive or p.root or ".." in p.parts for p in pure)
    if not name.strip() or "\0" in name or (leads_out and not is_outside_allowed()):
        raise SourceError(
            f"{header}: names the file {name!r}: only files in the same folder are opened: move it there and correct the name, or "
            "allow it with --allow-outside"
        )
    path = header.parent / name
    if not path.is_file():
        raise SourceError(f"{header}: names the file {name!r}, which is not there: put it into {header.parent}")
    check_inside(path, header)
    return path


def check_members(files: Iterable[Path], named: Path) -> None:
    """Refuse files of an image that are links out of their folder, and not to where the one that the user has named really is.

    Raises
    ------
    SourceError
    """
    for file in files:
        if file.is_symlink() and not (named.is_file() and is_inside(file, named)):
            check_inside(file, file.with_name("_"))


def check_inside(path: Path, owner: Path) -> None:
    """Refuse a file whose name leads out of the folder of the image that it belongs to, by symbolic links.

    Raises
    ------
    SourceError
    """
    if not is_inside(path, owner):
        raise SourceError(
            f"{path}: is a link to {path.resolve()}, outside of the folder of its image: copy it there, or allow it with "
            "--allow-outside"
        )
