"""TIFF in: a volume in one file, or in a set of OME-TIFF files, page by page."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from tifffile import TiffFile, TiffPage

from lsfm_core.errors import InputError, SourceError
from lsfm_core.formats._channels import channel_key, check_one_timepoint, pick_channel
from lsfm_core.formats._files import Checksum, bytes_of, companion
from lsfm_core.formats._geometry import voxel_size_or_none
from lsfm_core.formats._ome import OmeImage, metadata_file, parse_ome
from lsfm_core.formats._own import own_facts, take_place
from lsfm_core.formats._source import Source
from lsfm_core.formats.tiff import TIFF_SUFFIXES, Plane, TiffSeries, check_page, find_series, read_page
from lsfm_core.geometry import Shape3, Triple, mm_per
from lsfm_core.records import FileRecord

__all__ = ["TiffStack", "open_tiff"]

#: A file that claims to hold more than this many times its size is taken for a bomb; zstd makes more of blank planes.
_MAX_RATIO = 2000
_MAX_ZSTD_RATIO = 50_000
_ZSTD = {34926, 50000}
_IDLE_FILES = 4
_LONGEST_TEXT = 1000
_TEXT_TAGS = ("Make", "Model", "Software", "DateTime", "Artist", "HostComputer", "ImageDescription")


@dataclass(frozen=True)
class _Place:
    """Where a plane is: a page of a file, or (`offset`) bytes of it that need no decoding."""

    file: Path
    page: int
    offset: int | None = None


@dataclass(frozen=True)
class _Volume:
    """What a file's metadata say: planes of the picked channel, and the facts."""

    places: list[_Place]
    voxel_size_mm: Triple | None
    facts: dict[str, Any]
    #: The JSON text of our own exports, or whatever stands in its place.
    own: str | None = None


class TiffStack(Source):
    """A volume whose planes are pages of TIFF files; see `open_tiff`."""

    def __init__(
        self,
        name: str,
        places: Sequence[_Place],
        plane: Plane,
        stored: np.dtype[Any],
        voxel_size_mm: Triple | None,
        facts: Mapping[str, Any],
    ) -> None:
        self.name = name
        self.shape: Shape3 = (len(places), plane.rows, plane.columns)
        self.components = plane.samples
        self.dtype = plane.dtype
        self.voxel_size_mm = voxel_size_mm
        self.facts = {**facts, "kind": "components"} if plane.is_colour else facts
        self._plane = plane
        self._places = places
        self._stored = stored
        self._checksums = {place.file: Checksum(place.file) for place in places}
        self._lock = threading.Lock()
        # TiffFile is not thread-safe: whoever reads takes one, and gives it back.
        self._idle: list[tuple[Path, TiffFile]] = []

    def read_plane(self, index: int, out: npt.NDArray[Any]) -> None:
        place = self._places[index]
        with self._borrowed(place.file) as tiff:
            if place.offset is None:
                end = self._decode(place, tiff, out)
            else:
                end = self._copy(place.file, tiff, place.offset, out)
        self._checksums[place.file].follow(end)

    def file_records(self) -> Sequence[FileRecord]:
        return [checksum.record() for checksum in self._checksums.values()]

    def close(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop()[1].close()

    def _decode(self, place: _Place, tiff: TiffFile, out: npt.NDArray[Any]) -> int:
        page = _page(place.file, tiff, place.page)
        plane = _check_alike(f"{place.file}: page {place.page}", page, self._plane)
        end = _check_extent(f"{place.file}: page {place.page}", page, tiff.filehandle.size)
        try:
            out[:] = read_page(page, plane)
        except Exception as error:  # decoders raise whatever they like on damaged data
            raise SourceError(f"{place.file}: page {place.page} cannot be decoded, the file is damaged: {error}") from error
        return end

    def _copy(self, file: Path, tiff: TiffFile, offset: int, out: npt.NDArray[Any]) -> int:
        direct = out.flags.c_contiguous and out.dtype == self._stored
        buffer = out if direct else np.empty(out.shape, self._stored)
        view = bytes_of(buffer)
        end = offset + len(view)
        try:
            tiff.filehandle.seek(offset)
            while view:
                count = tiff.filehandle.readinto(cast(bytearray, view))
                if not count:
                    raise SourceError(f"{file}: is cut short: a plane ends at byte {end}: copy it again")
                view = view[count:]
        except OSError as error:
            raise SourceError(f"{file}: cannot be read: {error.strerror}") from error
        if not direct:
            out[:] = buffer
        return end

    @contextmanager
    def _borrowed(self, file: Path) -> Iterator[TiffFile]:
        with self._lock:
            mine = next((entry for entry in self._idle if entry[0] == file), None)
            if mine is not None:
                self._idle.remove(mine)
        tiff = _open(file) if mine is None else mine[1]
        try:
            yield tiff
        finally:
            with self._lock:
                self._idle.append((file, tiff))
                surplus = self._idle.pop(0)[1] if len(self._idle) > _IDLE_FILES else None
            if surplus is not None:
                surplus.close()


def open_tiff(image: Path, channel: int | str | None) -> Source:
    """Open a volume in one TIFF file or a set of OME-TIFF files, or else a series of single-plane files.

    A file is a volume if it has several pages, or if its metadata tell of several planes. Else it is a plane of the series beside
    it.

    Parameters
    ----------
    image : path
        A file, or whatever `find_series` takes.
    channel : int or str, optional
        Index or name, where the file holds several.

    Raises
    ------
    SourceError
        If a file is damaged, cut short, or not what its header or its metadata say.
    InputError
        If nothing is there, or it is not clear which volume is meant.
    """
    if image.is_file() and image.suffix.lower() not in TIFF_SUFFIXES:
        raise InputError(f"{image}: unknown format: TIFF, NIfTI, NRRD, MetaImage, .npy and Zarr can be read (see docs/inputs.md)")
    files = [image] if image.is_file() else find_series(image)
    source = _open_stack(files[0], channel) if len(files) == 1 else None
    if source is not None:
        return source
    if channel is not None:
        pick_channel(str(image), ("",), channel)
    return TiffSeries(find_series(image))


def _open_stack(path: Path, channel: int | str | None) -> TiffStack | None:
    """The volume in a file, or None if it has a single page and tells of no other."""
    tiff = _open(path)
    try:
        first = _page(path, tiff, 0)
        count = _page_count(path, tiff)
        volume = _describe(path, tiff, first, count, channel)
        if volume is None:
            return None
        plane = check_page(path, first)
        stored = np.dtype(first.dtype).newbyteorder(tiff.byteorder)
        places = _locate(path, tiff, first, plane, volume.places)
    finally:
        tiff.close()
    source = TiffStack(str(path), places, plane, stored, volume.voxel_size_mm, volume.facts)
    take_place(source, volume.own, "its own JSON")
    return source


def _describe(path: Path, tiff: TiffFile, first: TiffPage, count: int, channel: int | str | None) -> _Volume | None:
    if tiff.is_lsm or tiff.is_stk:
        raise SourceError(f"{path}: is a {'Zeiss LSM' if tiff.is_lsm else 'MetaMorph STK'} file: save it as OME-TIFF")
    check_page(path, first)
    try:
        ome = tiff.ome_metadata if tiff.is_ome else None
        imagej = dict(tiff.imagej_metadata or {}) if tiff.is_imagej else None
        shaped = tiff.shaped_metadata
    except Exception as error:  # tifffile trusts what it parses
        raise SourceError(f"{path}: its metadata cannot be read: {error}") from error
    if ome:
        return _describe_ome(path, tiff, ome, count, channel)
    if imagej is not None:
        return _describe_imagej(path, first, imagej, count, channel)
    places = [_Place(path, 0)]
    if count > 1:
        # Small pictures of the others are no planes.
        places = [_Place(path, index) for index in range(count) if not _page(path, tiff, index).is_reduced]
    elif shaped and shaped[0].get("truncated"):
        places = _contiguous(path, first, math.prod(int(n) for n in shaped[0]["shape"]) // max(1, math.prod(first.shape)))
    if len(places) < 2:
        return None
    axes = [int(n) for n in (shaped[0].get("shape", ()) if shaped and len(shaped) == 1 else ())][: -len(first.shape)]
    if sum(n > 1 for n in axes) > 1:
        raise SourceError(
            f"{path}: its pages count along several axes ({' x '.join(map(str, axes))}), and nothing tells what they are: save one "
            "volume a file"
        )
    if channel is not None:
        pick_channel(str(path), ("",), channel)
    return _Volume(places, None, {"format": "TIFF", "acquisition": _texts(first)})


def _texts(page: TiffPage) -> dict[str, str]:
    found = {}
    for name in _TEXT_TAGS:
        tag = page.tags.get(name)
        if tag is not None and isinstance(tag.value, str) and tag.value.strip():
            found[name] = tag.value.strip()[:_LONGEST_TEXT]
    return found


# --- ImageJ ---------------------------------------------------------------------------------------------------------------------


def _describe_imagej(
    path: Path, first: TiffPage, metadata: dict[str, Any], count: int, channel: int | str | None
) -> _Volume | None:
    def number(key: str) -> int:
        try:
            return max(1, int(metadata.get(key, 1)))
        except (TypeError, ValueError) as error:
            raise SourceError(f"{path}: its ImageJ metadata say {key}={metadata[key]!r}: expected a whole number") from error

    images, channels, slices, frames = (number(key) for key in ("images", "channels", "slices", "frames"))
    if channels * slices * frames == 1:
        slices = images
    own = metadata.get("Info")
    if count == images == 1 and own_facts(own) is None:
        return None
    if channels * slices * frames != images or count not in (1, images):
        raise SourceError(
            f"{path}: its ImageJ metadata tell of {images} planes ({channels} channels, {slices} slices, {frames} frames), the "
            f"file has {count} pages: it is cut short or damaged"
        )
    check_one_timepoint(str(path), frames, slices)
    # ImageJ writes files beyond 4 GB with a single page: the other planes follow without.
    places = _contiguous(path, first, images) if count == 1 else [_Place(path, index) for index in range(images)]
    labels = metadata.get("Labels") if channels > 1 else None
    names = [_channel_label(labels, index, images) for index in range(channels)]
    picked = pick_channel(str(path), names, channel)
    scalars = {
        key: value
        for key, value in metadata.items()
        if isinstance(value, (int, float)) or (isinstance(value, str) and len(value) <= 200)
    }
    facts: dict[str, Any] = {
        "format": "ImageJ TIFF",
        "acquisition": {key: value for key, value in scalars.items() if not isinstance(value, float) or math.isfinite(value)},
    }
    if channels > 1:
        facts |= {"channel": channel_key(names, picked), "channel_names": names}
    return _Volume(places[picked::channels], _imagej_voxel_size(first, metadata), facts, own)


def _channel_label(labels: Any, index: int, images: int) -> str:
    """ImageJ has labels for planes, not for channels; one that stands before the first plane of a channel is its name."""
    if not isinstance(labels, (list, tuple)) or len(labels) != images:
        return ""
    return str(labels[index]).strip()


def _imagej_voxel_size(first: TiffPage, metadata: Mapping[str, Any]) -> Triple | None:
    unit = metadata.get("unit")
    units = [mm_per(metadata.get(key, unit)) for key in ("zunit", "yunit", "unit")]
    if any(mm is None for mm in units):
        return None
    sizes = []
    try:
        # ImageJ itself takes a negative spacing for its opposite.
        sizes.append(abs(float(metadata["spacing"])))
        for tag in ("YResolution", "XResolution"):
            numerator, denominator = first.tags[tag].value
            sizes.append(denominator / numerator)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return voxel_size_or_none([size * (mm or 0) for size, mm in zip(sizes, units, strict=True)])


def _contiguous(path: Path, first: TiffPage, count: int) -> list[_Place]:
    """Planes that follow the first one's without pages of their own."""
    if not first.is_final or first.dtype is None or check_page(path, first).is_planar:
        raise SourceError(f"{path}: tells of {count} planes, has a single page, and that is compressed: it is cut short or damaged")
    size = math.prod(first.shape) * first.dtype.itemsize
    end = first.dataoffsets[0] + count * size
    if end > first.parent.filehandle.size:
        raise SourceError(
            f"{path}: is cut short: its {count} planes would end at byte {end}, the file has {first.parent.filehandle.size}: "
            "copy it again"
        )
    return [_Place(path, 0, first.dataoffsets[0] + index * size) for index in range(count)]


# --- OME ------------------------------------------------------------------------------------------------------------------------


def _describe_ome(path: Path, tiff: TiffFile, xml: str, count: int, channel: int | str | None) -> _Volume | None:
    reference = metadata_file(str(path), xml)
    if reference is not None:
        master = companion(path, reference)
        try:
            xml = master.read_text("utf-8") if master.suffix == ".ome" else _xml_of(master)
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{master}: cannot be read: {error}") from error
    image = parse_ome(str(path), xml)
    is_plane = count == 1 and image.sizes["Z"] * image.sizes["C"] * image.sizes["T"] == 1
    if is_plane and own_facts(image.description) is None:
        return None
    check_one_timepoint(str(path), image.sizes["T"], image.sizes["Z"])
    picked = pick_channel(str(path), image.channel_names, channel)
    first = _page(path, tiff, 0)
    wanted = (image.sizes["Y"], image.sizes["X"])
    plane = check_page(path, first)
    told = Plane(*wanted, image.samples, image.dtype)
    if plane.describe() != told.describe():
        raise SourceError(f"{path}: its OME-XML tells of planes of {told.describe()}, but the pages are {plane.describe()}")
    facts: dict[str, Any] = {"format": "OME-TIFF", "acquisition": image.acquisition}
    if image.sizes["C"] > 1:
        facts |= {"channel": channel_key(image.channel_names, picked), "channel_names": list(image.channel_names)}
    return _Volume(_ome_places(path, image, tiff, count, picked), image.voxel_size_mm, facts, image.description)


def _xml_of(master: Path) -> str:
    tiff = _open(master)
    try:
        return tiff.ome_metadata or ""
    finally:
        tiff.close()


def _ome_places(path: Path, image: OmeImage, tiff: TiffFile, count: int, channel: int) -> list[_Place]:
    """Where the XML says that the planes of a channel are, checked against the files."""
    names = {block.file for block in image.blocks if block.file is not None}
    # Users rename files; a set of one file means this one, whatever it was called.
    renamed = not image.has_uuid and len(names) == 1 and not (path.parent / next(iter(names))).is_file()
    planes = image.sizes["Z"] * image.sizes["C"] * image.sizes["T"]
    found: dict[int, _Place] = {}
    used: set[int] = set()
    for block in image.blocks:
        own = block.file is None or renamed or block.file == path.name
        file = path if own else companion(path, str(block.file))
        # Of sets with a plane a file, the others are opened when they are read: there may be thousands.
        pages = count if own else block.page + 1 if block.count == 1 else _count_pages(file)
        number = min(planes, pages) - block.page if block.count is None else block.count
        if number > planes or block.page + number > pages:
            last = block.page + number - 1
            raise SourceError(
                f"{path}: its OME-XML tells of planes on pages {block.page} to {last} of {file.name}, which has {pages}"
            )
        for step in range(number):
            z, c, _ = image.plane_index(block, step)
            if own:
                used.add(block.page + step)
            if c == channel:
                found[z] = _Place(file, block.page + step)
    missing = next((z for z in range(image.sizes["Z"]) if z not in found), None)
    if missing is not None or len(found) > image.sizes["Z"]:
        raise SourceError(
            f"{path}: its OME-XML tells of {image.sizes['Z']} planes, but gives a page for {len(found)} only (none for plane "
            f"{missing}): the file is cut short, or belongs to a set that was taken apart"
        )
    if len(used) < count and any(not _page(path, tiff, index).is_reduced for index in set(range(count)) - used):
        raise SourceError(f"{path}: has {count} pages, but its OME-XML tells of {len(used)} of them only: one of the two is wrong")
    return [found[z] for z in range(image.sizes["Z"])]


def _count_pages(file: Path) -> int:
    tiff = _open(file)
    try:
        return _page_count(file, tiff)
    finally:
        tiff.close()


# --- pages ----------------------------------------------------------------------------------------------------------------------


def _locate(path: Path, tiff: TiffFile, first: TiffPage, plane: Plane, places: Sequence[_Place]) -> list[_Place]:
    """Look at every page of `path` that is to be read: all must be alike, and be there; note those that need no decoding."""
    size = tiff.filehandle.size
    octets = plane.rows * plane.columns * plane.samples * plane.dtype.itemsize
    own = sum(place.file == path for place in places)
    ratio = 1 if first.compression == 1 else _MAX_ZSTD_RATIO if first.compression in _ZSTD else _MAX_RATIO
    if own * octets * min(1, first.bitspersample / (8 * plane.dtype.itemsize)) > ratio * size:
        raise SourceError(
            f"{path}: tells of {own} planes of {plane.describe()}, which are {own * octets} bytes, but "
            f"has {size}{'' if ratio == 1 else ', compressed'}: its header is wrong, or it is damaged"
        )
    located = []
    for place in places:
        if place.file != path or place.offset is not None:
            located.append(place)
            continue
        page = _page(path, tiff, place.page)
        what = f"{path}: page {place.page}"
        is_planar = _check_alike(what, page, plane).is_planar
        _check_extent(what, page, size)
        located.append(_Place(path, place.page, page.dataoffsets[0] if page.is_final and not is_planar else None))
    return located


def _check_alike(what: str, page: TiffPage, first: Plane) -> Plane:
    plane = check_page(what, page)
    if plane.describe() != first.describe():
        raise SourceError(f"{what}: is {plane.describe()}, others are {first.describe()}: all planes must be alike")
    return plane


def _check_extent(what: str, page: TiffPage, size: int) -> int:
    """Where a page's pixels end in the file."""
    end = max((offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
    if not end or end > size:
        raise SourceError(f"{what}: is cut short: its pixels end at byte {end}, the file has {size}: copy it again")
    if page.compression == 1:
        need = math.prod(page.shape) * page.bitspersample // 8
        if sum(page.databytecounts) < need or (page.is_final and page.dataoffsets[0] + need > size):
            raise SourceError(
                f"{what}: tells of {' x '.join(map(str, page.shape))} {page.dtype}, which are {need} bytes, but has "
                f"{sum(page.databytecounts)}: its header is wrong, or it is damaged"
            )
    return end


def _open(path: Path) -> TiffFile:
    try:
        return TiffFile(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # struct.error, IndexError, TiffFileError …: whatever a damaged header leads to
        raise SourceError(f"{path}: not a readable TIFF, empty or damaged: {error}") from error


def _page(path: Path, tiff: TiffFile, index: int) -> TiffPage:
    try:
        page = tiff.pages.get(index, aspage=True)
    except Exception as error:  # whatever a damaged page leads to
        raise SourceError(f"{path}: page {index} cannot be read, the file is cut short or damaged: {error}") from error
    if not isinstance(page, TiffPage):
        raise SourceError(f"{path}: page {index} cannot be read, the file is cut short or damaged")
    return page


def _page_count(path: Path, tiff: TiffFile) -> int:
    """Number of pages, if their chain has a proper end."""
    end = -1
    with suppress(Exception):
        count = len(tiff.pages)
        tiff.filehandle.seek(tiff.pages.next_page_offset or 0)
        end = int.from_bytes(tiff.filehandle.read(tiff.tiff.offsetsize), "big")
    if end != 0:
        raise SourceError(f"{path}: is cut short or damaged: its last page is not where the one before says")
    return count
