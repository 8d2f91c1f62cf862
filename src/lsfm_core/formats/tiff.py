"""TIFF in: a series of single-plane files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from tifffile import PHOTOMETRIC, PLANARCONFIG, TiffFile, TiffPage

from lsfm_core.errors import SourceError
from lsfm_core.formats._files import Checksum, bytes_of
from lsfm_core.formats._source import Source
from lsfm_core.formats._tiff_boxes import CACHE_BYTES, Pieces, Strip, TiffBoxes, is_stream, page_pieces, page_unit
from lsfm_core.geometry import Shape3, Triple
from lsfm_core.records import FileRecord

__all__ = ["Plane", "TiffSeries", "check_page", "is_small_copy", "read_page"]

_PHOTOMETRICS = {PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR}


class TiffSeries(Source):
    """A volume whose planes are TIFF files.

    Parameters
    ----------
    files : sequence of Path
        In plane order; see `lsfm_core.formats._series`.
    voxel_size_mm, facts
        As in `Source`.

    Raises
    ------
    SourceError
        If a file is no TIFF of numbers, is cut short, or differs from the first in shape or dtype. Files whose size equals the
        first one's are looked into only when their plane is read.
    """

    def __init__(
        self, files: Sequence[Path], *, voxel_size_mm: Triple | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        self.name = str(files[0].parent)
        self.voxel_size_mm = voxel_size_mm
        self.facts = {"format": "TIFF series", **(facts or {})}
        self.files = tuple(files)
        self._boxes = TiffBoxes(self._pieces, self._checksum, lambda index: str(self.files[index]))
        self._checksums: dict[int, Checksum] = {}
        self._unit: tuple[int, int] | None = None
        plane = self._inspect(files[0], finds_unit=True)
        self.box_bytes = CACHE_BYTES
        self.dtype = plane.dtype
        self.shape = (len(files), plane.rows, plane.columns)
        self.components = plane.samples
        self.palette = plane.palette
        if plane.is_colour:
            self.facts = {**self.facts, "kind": "components"}
        # A plane that does not fit should be found before hours of work, not after.
        size = _size(files[0])
        for file in files[1:]:
            if _size(file) != size:
                self._check_like_first(file)

    def read_plane(self, index: int, out: npt.NDArray[Any]) -> FileRecord:
        file = self.files[index]
        with _open(file) as (raw, tiff):
            page, plane = _only_page(file, tiff)
            if (plane.rows, plane.columns) != self.shape[1:] or plane.samples != self.components or plane.dtype != self.dtype:
                self._check_like_first(file)
            size = _size(file)
            _check_complete(file, page, size)
            if page.is_final and not plane.is_planar and out.flags.c_contiguous:
                # Past tifffile, straight to where the voxels are wanted.
                start, stop = page.dataoffsets[0], page.dataoffsets[0] + out.nbytes
                raw.seek(0)
                head = raw.read(start)
                raw.readinto(bytes_of(out))
                crc = isal_zlib.crc32(raw.read(size - stop), isal_zlib.crc32(bytes_of(out), isal_zlib.crc32(head)))
                if np.dtype(page.dtype).newbyteorder(tiff.byteorder) != self.dtype:
                    out.byteswap(inplace=True)
            else:
                try:
                    out[:] = read_page(page, plane)
                except Exception as error:  # decoders raise whatever they like on damaged data
                    raise SourceError(f"{file}: cannot be decoded, the file is damaged: {error}") from error
                raw.seek(0)
                crc = isal_zlib.crc32(raw.read())
        return FileRecord(file.name, size, crc)

    @property
    def unit(self) -> Shape3:
        return super().unit if self._unit is None else (1, *self._unit)

    def read_box(self, start: Shape3, out: npt.NDArray[Any]) -> None:
        for offset, plane in enumerate(out):
            place = (start[0] + offset, *start[1:])
            if not self._boxes.read(place, plane):
                super().read_box(place, plane[None])

    def plane_record(self, index: int) -> FileRecord:
        record = self._checksum(index).record()
        del self._checksums[index]
        return record

    def close(self) -> None:
        self._boxes.close()

    def _pieces(self, index: int) -> Pieces | Strip | None:
        file = self.files[index]
        with _open(file) as (_, tiff):
            page, plane = _only_page(file, tiff)
            if (plane.rows, plane.columns) != self.shape[1:] or plane.samples != self.components or plane.dtype != self.dtype:
                self._check_like_first(file)
            _check_complete(file, page, _size(file))
            return page_pieces(file, page)

    def _checksum(self, index: int) -> Checksum:
        return self._checksums.setdefault(index, Checksum(self.files[index]))

    def _inspect(self, file: Path, *, finds_unit: bool = False) -> Plane:
        with _open(file) as (_, tiff):
            page, plane = _only_page(file, tiff)
            _check_complete(file, page, _size(file))
            if finds_unit:
                self._unit, self.rows_in_order = page_unit(page), is_stream(page)
            return plane

    def _check_like_first(self, file: Path) -> None:
        plane = self._inspect(file)
        first = Plane(*self.shape[1:], self.components, self.dtype)
        if plane.describe() != first.describe():
            raise SourceError(
                f"{file}: is {plane.describe()}, but {self.files[0].name} is {first.describe()}: all planes of a series must be "
                "alike"
            )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise SourceError(f"{file}: cannot be read: {error.strerror}") from error


@contextmanager
def _open(file: Path) -> Iterator[tuple[BufferedReader, TiffFile]]:
    try:
        raw = file.open("rb")
    except OSError as error:
        raise SourceError(f"{file}: cannot be read: {error.strerror}") from error
    with raw:
        try:
            tiff = TiffFile(raw, name=str(file))
        except Exception as error:  # struct.error, IndexError, TiffFileError …: whatever a damaged header leads to
            raise SourceError(f"{file}: not a readable TIFF, empty or damaged: {error}") from error
        with tiff:
            yield raw, tiff


def _only_page(file: Path, tiff: TiffFile) -> tuple[TiffPage, Plane]:
    page = tiff.pages.first
    plane = check_page(file, page)
    # Small pictures of the plane may follow it.
    if any(isinstance(other, TiffPage) and not is_small_copy(other, page) for other in tiff.pages[1:]):
        raise SourceError(f"{file}: has {len(tiff.pages)} pages, a file of a series one: name a file with several planes by itself")
    return page, plane


def is_small_copy(page: TiffPage, first: TiffPage) -> bool:
    """Whether a page is a thumbnail or a level of a pyramid: it says so, or is half as large as the first one at most."""
    return bool(page.is_reduced) or (2 * page.imagelength <= first.imagelength + 1 and 2 * page.imagewidth <= first.imagewidth + 1)


@dataclass(frozen=True)
class Plane:
    """What a page is.

    Attributes
    ----------
    rows, columns : int
    samples : int
        Values per pixel.
    dtype : numpy.dtype
        Native byte order.
    is_planar : bool
        Whether one whole plane of a value follows the other.
    is_colour : bool
        Whether the values are red, green, blue, and perhaps opacity.
    palette : array (3, values), optional
        The colours that the values stand for.
    """

    rows: int
    columns: int
    samples: int
    dtype: np.dtype[Any]
    is_planar: bool = False
    is_colour: bool = False
    palette: npt.NDArray[Any] | None = field(default=None, compare=False)

    def describe(self) -> str:
        """What planes of a volume have in common, in words."""
        return f"{self.rows} x {self.columns}{f' x {self.samples}' if self.samples > 1 else ''} {self.dtype}"


def read_page(page: TiffPage, plane: Plane) -> npt.NDArray[Any]:
    """Its pixels, (rows, columns) or (rows, columns, samples); in one thread. Decoders raise whatever they like on damaged data."""
    pixels: npt.NDArray[Any] = page.asarray(maxworkers=1)
    return np.moveaxis(pixels, 0, -1) if plane.is_planar else pixels


def check_page(what: object, page: TiffPage) -> Plane:
    """What a page is, if it is a plane of numbers, one or several for each pixel.

    Parameters
    ----------
    what : object
        The file, or a page of it, for the message.
    page : TiffPage

    Raises
    ------
    SourceError
    """
    numbers = (*page.shape, page.samplesperpixel, page.bitspersample, page.compression, *page.dataoffsets, *page.databytecounts)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise SourceError(f"{what}: its TIFF header is damaged: texts or several numbers stand for sizes")
    samples = int(page.samplesperpixel)
    is_planar = samples > 1 and page.planarconfig == PLANARCONFIG.SEPARATE
    wanted = () if samples == 1 else (samples,)
    sizes = page.shape[len(wanted) :] if is_planar else page.shape[: len(page.shape) - len(wanted)]
    rest = page.shape[: len(wanted)] if is_planar else page.shape[len(sizes) :]
    if len(sizes) != 2 or tuple(rest) != wanted or min(page.shape) < 1:
        raise SourceError(f"{what}: has pages of shape {page.shape} with {samples} value(s) per pixel: expected rows and columns")
    if samples > 1 and page.photometric not in _PHOTOMETRICS:
        raise SourceError(
            f"{what}: has colours of the kind {getattr(page.photometric, 'name', page.photometric)}: save it as RGB, or in grey"
        )
    if page.dtype is None or page.dtype.kind not in "uifb":
        raise SourceError(f"{what}: has pixels of type {page.dtype or 'unknown'}: only integers and floats can be used")
    dtype = np.dtype(page.dtype).newbyteorder("=")
    is_colour = samples > 1 and page.photometric not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
    palette = page.colormap if samples == 1 and page.photometric == PHOTOMETRIC.PALETTE else None
    if palette is not None and (palette.ndim != 2 or len(palette) != 3 or dtype.kind != "u"):
        raise SourceError(f"{what}: has a palette of shape {palette.shape} for values of type {dtype}: its header is damaged")
    return Plane(int(sizes[0]), int(sizes[1]), samples, dtype, is_planar, is_colour, palette)


def _check_complete(file: Path, page: TiffPage, size: int) -> None:
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if not ends or max(ends) > size:
        raise SourceError(
            f"{file}: is cut short: its pixels end at byte {max(ends, default=0)}, the file has {size}: copy it again"
        )
