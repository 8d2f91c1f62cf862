"""Boxes of TIFF pages: of tiles and strips only those that a box meets are read and decoded."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tifffile import COMPRESSION, PLANARCONFIG, PREDICTOR, TIFF, TiffPage

from lsfm_core.errors import SourceError
from lsfm_core.formats._files import Checksum, DataFile, Inflater, bytes_of, read_at
from lsfm_core.formats._source import cuts
from lsfm_core.geometry import Shape3

__all__ = ["CACHE_BYTES", "Pieces", "Strip", "TiffBoxes", "is_stream", "page_pieces", "page_unit", "plain_pieces"]

#: Tables of tiles and strips that are kept.
CACHE_BYTES = 16 * 2**20
_DEFLATE = {COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE}
_JPEG = {6, 7, 33007, 34892}
#: A single strip that is larger is unpacked row by row, where its compression allows it.
_LARGEST_STRIP = 4 * 2**20
#: Of a page, for its object and its decoder.
_PAGE_BYTES = 8192
_MOST_STREAMS = 16


class Pieces(Protocol):
    """A page's voxels in its file, by pieces."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes itself."""

    def read(self, row: int, column: int, out: npt.NDArray[Any]) -> int:
        """Fill `out` (rows, columns[, samples]) from a row and column on; gives the byte in the file where what was read ends.

        Raises
        ------
        SourceError
        """


class _Plain:
    """Numbers that stand in the file as they are, row by row."""

    nbytes = _PAGE_BYTES

    def __init__(
        self, path: Path, offset: int, size: tuple[int, int], stored: np.dtype[Any], samples: int, *, is_planar: bool
    ) -> None:
        self._path = path
        self._offset = offset
        self._size = size
        self._stored = stored
        # One whole plane of a value follows the other, or a voxel's values stand together.
        self._parts = samples if is_planar else 1
        self._voxel = stored.itemsize * samples // self._parts

    def read(self, row: int, column: int, out: npt.NDArray[Any]) -> int:
        rows, columns = self._size
        end = 0
        with read_at(self._path) as read:
            for part in range(self._parts):
                target = out if self._parts == 1 else out[..., part]
                direct = target.flags.c_contiguous and target.dtype == self._stored
                buffer = target if direct else np.empty(target.shape, self._stored)
                first = self._offset + ((part * rows + row) * columns + column) * self._voxel
                pieces = [buffer] if buffer.shape[1] == columns else buffer
                for number, piece in enumerate(pieces):
                    read(first + number * columns * self._voxel, bytes_of(piece))
                end = first + ((len(out) - 1) * columns + out.shape[1]) * self._voxel
                if not direct:
                    target[...] = buffer
        return end


class _Segments:
    """Tiles or strips, which tifffile decodes."""

    def __init__(self, path: Path, page: TiffPage) -> None:
        self._path = path
        self._size = (int(page.imagelength), int(page.imagewidth))
        length, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        self._steps = (int(length), int(width))
        self._is_planar = page.samplesperpixel > 1 and page.planarconfig == PLANARCONFIG.SEPARATE
        self._parts = int(page.samplesperpixel) if self._is_planar else 1
        self._across = math.ceil(self._size[1] / self._steps[1])
        self._offsets = np.array(page.dataoffsets, np.uint64)
        self._counts = np.array(page.databytecounts, np.uint64)
        self._nodata = page.nodata
        self._decode = page.decode
        self._options: dict[str, Any] = {"_fullsize": False}
        if page.compression in _JPEG:
            self._options |= {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        self.nbytes = _PAGE_BYTES + self._offsets.nbytes + self._counts.nbytes

    def read(self, row: int, column: int, out: npt.NDArray[Any]) -> int:
        down = math.ceil(self._size[0] / self._steps[0])
        end = 0
        with read_at(self._path) as read:
            for part in range(self._parts):
                target = out[..., part] if self._is_planar else out
                for rows in cuts(row, row + out.shape[0], self._steps[0]):
                    for columns in cuts(column, column + out.shape[1], self._steps[1]):
                        index = (part * down + rows.start // self._steps[0]) * self._across + columns.start // self._steps[1]
                        offset, count = int(self._offsets[index]), int(self._counts[index])
                        end = max(end, offset + count)
                        place = target[rows.start - row : rows.stop - row, columns.start - column : columns.stop - column]
                        if not offset or not count:
                            place[...] = self._nodata
                            continue
                        data = bytearray(count)
                        read(offset, memoryview(data))
                        decoded: Any = self._decode(bytes(data), index, **self._options)
                        pixels, (_, _, top, left, _), _ = decoded
                        found = pixels[0, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
                        place[...] = found.reshape(place.shape)
        return end


class Strip:
    """A single strip that is one stream of deflate, of which rows can be read one after the other."""

    def __init__(self, path: Path, page: TiffPage) -> None:
        self.path = path
        self.offset = int(page.dataoffsets[0])
        self.size = (int(page.imagelength), int(page.imagewidth))
        self.samples = int(page.samplesperpixel)
        self.predictor = int(page.predictor)
        # Differences of floats are kept byte by byte, in an order of their own.
        order = "=" if self.predictor == PREDICTOR.FLOATINGPOINT else page.parent.byteorder
        self.stored = np.dtype(page.dtype).newbyteorder(order)
        self.nbytes = _PAGE_BYTES


class _RowStream:
    """The rows of a `Strip`, one after the other; whoever goes back begins anew.

    Parameters
    ----------
    strip : Strip
    checksum : Checksum
        Of its file; it comes along.
    """

    def __init__(self, strip: Strip, checksum: Checksum) -> None:
        self._strip = strip
        self._file = DataFile(strip.path, checksum)
        self._stream: Inflater | None = None
        self._next = 0

    def read(self, row: int, column: int, out: npt.NDArray[Any]) -> int:
        """As `Pieces.read`."""
        strip = self._strip
        row_bytes = strip.size[1] * strip.samples * strip.stored.itemsize
        if self._stream is None or row < self._next:
            self._stream, self._next = Inflater(self._file, strip.offset), 0
        self._stream.skip((row - self._next) * row_bytes)
        rows = np.empty((len(out), strip.size[1], strip.samples), strip.stored)
        self._stream.read_into(rows)
        self._next = row + len(out)
        rows = rows.astype(rows.dtype.newbyteorder("="), copy=False)
        if strip.predictor != PREDICTOR.NONE:
            rows = TIFF.UNPREDICTORS[strip.predictor](rows, axis=-2)
        out[...] = rows[:, column : column + out.shape[1]].reshape(out.shape)
        return strip.offset

    @property
    def is_done(self) -> bool:
        """Whether its last row was read."""
        return self._next == self._strip.size[0]

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def page_unit(page: TiffPage) -> tuple[int, int] | None:
    """Rows and columns of a page that can only be read together; None where it can only be decoded as a whole."""
    if page.is_final:
        return 1, 1
    if page.jpegheader is not None or page.imagedepth > 1:
        return None
    if is_stream(page):
        return 1, int(page.imagewidth)
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    return min(int(rows), int(page.imagelength)), min(int(columns), int(page.imagewidth))


def is_stream(page: TiffPage) -> bool:
    """Whether a page is a `Strip`."""
    return (
        len(page.dataoffsets) == 1
        and not page.is_tiled
        and page.jpegheader is None
        and page.compression in _DEFLATE
        and page.fillorder == 1
        and page.bitspersample in (8, 16, 32, 64)
        and page.predictor in (PREDICTOR.NONE, PREDICTOR.HORIZONTAL, PREDICTOR.FLOATINGPOINT)
        and math.prod(page.shape) * np.dtype(page.dtype).itemsize > _LARGEST_STRIP
    )


def page_pieces(path: Path, page: TiffPage) -> Pieces | Strip | None:
    """How a page's voxels stand in its file; None where it can only be decoded as a whole."""
    if page_unit(page) is None:
        return None
    if page.is_final:
        stored = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
        size, samples = (int(page.imagelength), int(page.imagewidth)), int(page.samplesperpixel)
        is_planar = samples > 1 and page.planarconfig == PLANARCONFIG.SEPARATE
        return _Plain(path, int(page.dataoffsets[0]), size, stored, samples, is_planar=is_planar)
    return Strip(path, page) if is_stream(page) else _Segments(path, page)


def plain_pieces(path: Path, offset: int, size: tuple[int, int], stored: np.dtype[Any], samples: int) -> Pieces:
    """Numbers that stand in a file without a page of their own."""
    return _Plain(path, offset, size, stored, samples, is_planar=False)


class TiffBoxes:
    """The boxes of a volume's planes.

    Parameters
    ----------
    pieces_of : callable
        Gives the `Pieces` of a plane; what was given last is kept.
    checksum_of : callable
        Gives the checksum of a plane's file, which follows what is read.
    name_of : callable
        What a plane is called in messages.
    """

    def __init__(
        self,
        pieces_of: Callable[[int], Pieces | Strip | None],
        checksum_of: Callable[[int], Checksum],
        name_of: Callable[[int], str],
    ) -> None:
        self._pieces_of = pieces_of
        self._checksum_of = checksum_of
        self._name_of = name_of
        self._lock = threading.Lock()
        self._known: OrderedDict[int, Pieces | Strip | None] = OrderedDict()
        self._streams: OrderedDict[int, _RowStream] = OrderedDict()

    def read(self, start: Shape3, out: npt.NDArray[Any]) -> bool:
        """Fill `out` (rows, columns[, samples]) with a part of plane ``start[0]``; False if that can only be read as a whole.

        Raises
        ------
        SourceError
        """
        index, row, column = start
        try:
            pieces = self._pieces(index)
            if pieces is None:
                return False
            if isinstance(pieces, Strip):
                end = self._read_stream(index, pieces, row, column, out)
            else:
                end = pieces.read(row, column, out)
        except SourceError:
            raise
        except Exception as error:  # decoders raise whatever they like on damaged data
            raise SourceError(f"{self._name_of(index)} cannot be decoded, the file is damaged: {error}") from error
        self._checksum_of(index).follow(end)
        return True

    def close(self) -> None:
        """Let go of open files."""
        with self._lock:
            while self._streams:
                self._streams.popitem()[1].close()

    def _pieces(self, index: int) -> Pieces | Strip | None:
        with self._lock:
            if index in self._known:
                self._known.move_to_end(index)
                return self._known[index]
        pieces = self._pieces_of(index)
        with self._lock:
            self._known[index] = pieces
            while sum(0 if known is None else known.nbytes for known in self._known.values()) > CACHE_BYTES:
                self._known.popitem(last=False)
        return pieces

    def _read_stream(self, index: int, strip: Strip, row: int, column: int, out: npt.NDArray[Any]) -> int:
        with self._lock:
            stream = self._streams.pop(index, None)
        if stream is None:
            stream = _RowStream(strip, self._checksum_of(index))
        try:
            end = stream.read(row, column, out)
        except BaseException:
            stream.close()
            raise
        with self._lock:
            surplus = [stream] if stream.is_done else []
            if not surplus:
                self._streams[index] = stream
                surplus = [self._streams.popitem(last=False)[1]] if len(self._streams) > _MOST_STREAMS else []
        for old in surplus:
            old.close()
        return end
