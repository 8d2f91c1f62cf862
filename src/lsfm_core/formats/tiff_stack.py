"""TIFF in: a volume in one file, or in a set of OME-TIFF files, page by page."""

from __future__ import annotations

import math
import re
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
from lsfm_core.formats._channels import PlanesAre, channel_key, check_one_timepoint, pick_channel
from lsfm_core.formats._files import Checksum, bytes_of
from lsfm_core.formats._geometry import voxel_size_or_none
from lsfm_core.formats._joined import JoinedSource
from lsfm_core.formats._lsm import open_lsm
from lsfm_core.formats._ome import parse_ome
from lsfm_core.formats._ome_set import OmeReader, OmeVolume, find_ome_volume
from lsfm_core.formats._own import own_facts, take_place
from lsfm_core.formats._series import TIFF_SUFFIXES, are_parts, check_parts, find_series, select_files
from lsfm_core.formats._source import Source, with_notes
from lsfm_core.formats._tiff_boxes import CACHE_BYTES, Pieces, Strip, TiffBoxes, is_stream, page_pieces, page_unit, plain_pieces
from lsfm_core.formats.tiff import Plane, TiffSeries, check_page, is_small_copy, read_page
from lsfm_core.geometry import Shape3, Triple, mm_per
from lsfm_core.records import FileRecord
from lsfm_core.xml_text import decode_xml

__all__ = ["TiffStack", "open_tiff"]

#: A file that claims to hold more than this many times its size is taken for a bomb; zstd makes more of blank planes.
_MAX_RATIO = 2000
_MAX_ZSTD_RATIO = 50_000
_ZSTD = {34926, 50000}
_IDLE_FILES = 4
_LONGEST_TEXT = 1000
#: Of how many kinds of names in a folder the first file is asked for OME-XML.
_MOST_HEADS = 3
_SHORTEST_OME = 40
_OME = re.compile(r"<(?:\w+:)?OME[\s>]")
#: Microscopes' own formats, which other programs convert.
_OTHER_FORMATS = {
    ".czi": "Zeiss CZI cannot be read: save it as OME-TIFF, in ZEN or Fiji",
    ".nd2": "Nikon ND2 cannot be read: save it as OME-TIFF, in NIS-Elements or Fiji",
    ".lif": "Leica LIF cannot be read: save it as OME-TIFF, in LAS X or Fiji",
    ".oir": "Olympus OIR cannot be read: save it as OME-TIFF, in Fiji",
    ".stk": "MetaMorph STK cannot be read: save it as OME-TIFF, in Fiji",
    ".vsi": "Olympus VSI cannot be read: save it as OME-TIFF, in Fiji",
}
#: ScanImage from version 4 on lists the channels, version 3 has their number.
_SAVED_CHANNELS = re.compile(r"(?:channelsSave|hChannels\.channelSave) *= *\[?([\d ;,]+)|numberOfChannelsSave *= *(\d+)")
_SLICES = re.compile(r"hStackManager\.(?:actualN|n)umSlices *= *(\d+)")
_FRAMES_PER_SLICE = re.compile(r"hStackManager\.framesPerSlice *= *(\d+)")
_TEXT_TAGS = ("Make", "Model", "Software", "DateTime", "Artist", "HostComputer", "ImageDescription")


@dataclass(frozen=True)
class _Place:
    """Where a plane is: a page of a file, or (`offset`) bytes of it that need no decoding."""

    file: Path
    page: int
    offset: int | None = None


@dataclass
class _Unit:
    """What must be read together of any of some pages: the largest of their tiles and strips."""

    rows: int = 1
    columns: int = 1
    is_stream: bool = False
    #: Whether a page can only be decoded as a whole.
    is_page: bool = False

    def add(self, page: TiffPage) -> None:
        """Take a page into account."""
        unit = page_unit(page)
        self.is_stream |= is_stream(page)
        if unit is None:
            self.is_page = True
        else:
            self.rows, self.columns = max(self.rows, unit[0]), max(self.columns, unit[1])


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
        unit: _Unit,
        voxel_size_mm: Triple | None,
        facts: Mapping[str, Any],
    ) -> None:
        self.name = name
        self._unit = unit
        self.rows_in_order = unit.is_stream
        self.box_bytes = CACHE_BYTES
        self.shape: Shape3 = (len(places), plane.rows, plane.columns)
        self.components = plane.samples
        self.dtype = plane.dtype
        self.voxel_size_mm = voxel_size_mm
        self.facts = {**facts, "kind": "components"} if plane.is_colour else facts
        self.palette = plane.palette
        self._plane = plane
        self._places = places
        self._stored = stored
        self._checksums = {place.file: Checksum(place.file) for place in places}
        self._boxes = TiffBoxes(self._pieces, lambda index: self._checksums[self._places[index].file], self._name_of)
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

    @property
    def unit(self) -> Shape3:
        return super().unit if self._unit.is_page else (1, self._unit.rows, self._unit.columns)

    def read_box(self, start: Shape3, out: npt.NDArray[Any]) -> None:
        for offset, plane in enumerate(out):
            place = (start[0] + offset, *start[1:])
            if not self._boxes.read(place, plane):
                super().read_box(place, plane[None])

    @property
    def files(self) -> set[Path]:
        """Where the planes are."""
        return set(self._checksums)

    def file_records(self) -> Sequence[FileRecord]:
        return [checksum.record() for checksum in self._checksums.values()]

    def close(self) -> None:
        self._boxes.close()
        with self._lock:
            while self._idle:
                self._idle.pop()[1].close()

    def _name_of(self, index: int) -> str:
        place = self._places[index]
        return f"{place.file}: page {place.page}"

    def _pieces(self, index: int) -> Pieces | Strip | None:
        place = self._places[index]
        if place.offset is not None:
            return plain_pieces(place.file, place.offset, self.shape[1:], self._stored, self._plane.samples)
        with self._borrowed(place.file) as tiff:
            page = _page(place.file, tiff, place.page)
            _check_alike(self._name_of(index), page, self._plane)
            _check_extent(self._name_of(index), page, tiff.filehandle.size)
            return page_pieces(place.file, page)

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


def open_tiff(image: Path, channel: int | str | None, planes_are: PlanesAre | None = None) -> Source:
    """Open a volume in one TIFF file, in a set of OME-TIFF files, in the parts of a stack, or in a series of single-plane files.

    A file is a volume if it has several pages, or if its metadata tell of several planes. Else it is a plane of the series beside
    it.

    Parameters
    ----------
    image : path
        A file, or whatever `find_series` takes.
    channel : int or str, optional
        Name or index, where the file holds several.
    planes_are : {"time", "channels"}, optional
        What the file takes its planes for.

    Raises
    ------
    SourceError
        If a file is damaged, cut short, or not what its header or its metadata say.
    InputError
        If nothing is there, or it is not clear which volume is meant.
    """
    is_file = image.is_file()
    if is_file and _is_xml(image):
        return _open_named(image, channel, planes_are)
    if is_file and image.suffix.lower() not in (*TIFF_SUFFIXES, ".lsm"):
        known = _OTHER_FORMATS.get(image.suffix.lower(), "unknown format")
        raise InputError(f"{image}: {known}: TIFF, NIfTI, NRRD, MetaImage, .npy and Zarr can be read (see docs/inputs.md)")
    if is_file:
        source = _open_stack(image, channel, planes_are)
        if source is None:
            return _open_series(image, channel)
        return _continued(image, source, channel, planes_are) if isinstance(source, TiffStack) else source
    return _open_set(image, channel, planes_are) or _open_series(image, channel, planes_are)


def _open_series(image: Path, channel: int | str | None, planes_are: PlanesAre | None = None) -> Source:
    """A series of planes, or a stack in several parts, as the names tell."""
    series = find_series(image)
    first = _open_stack(series.files[0], channel, planes_are) if not image.is_file() or len(series.files) == 1 else None
    if first is not None and len(series.files) > 1:
        rest = [_open_part(file, channel, planes_are) for file in series.files[1:]]
        try:
            check_parts(series.files, [part.shape[0] for part in (first, *rest)])
        except InputError:
            for part in (first, *rest):
                part.close()
            raise
        source: Source = JoinedSource([first, *rest])
    elif first is not None:
        source = first
    else:
        if channel is not None:
            pick_channel(str(image), ("",), channel)
        size, facts = _plane_facts(series.files[0])
        source = TiffSeries(series.files, voxel_size_mm=size, facts=facts)
    if series.notes:
        source.facts = with_notes(source.facts, *series.notes)
    return source


def _continued(image: Path, source: TiffStack, channel: int | str | None, planes_are: PlanesAre | None) -> Source:
    """The whole stack, if its first part was named, or a word about others that are named like it."""
    if source.files != {image}:
        return source
    try:
        files = find_series(image).files
    except (InputError, SourceError):
        return source
    if len(files) < 2:
        return source
    if files[0] == image and are_parts(files):
        rest = [_open_part(file, channel, planes_are) for file in files[1:]]
        # Cameras begin a new file when one is full.
        is_counted = False
        with suppress(InputError):
            check_parts(files, [part.shape[0] for part in (source, *rest)])
            is_counted = True
        if is_counted and all(part.shape == source.shape for part in rest[:-1]) and rest[-1].shape[0] <= source.shape[0]:
            return JoinedSource([source, *rest])
        for part in rest:
            part.close()
    note = f"this file was taken alone: {files[0].name} … {files[-1].name} are named alike: name the folder if they are one stack"
    source.facts = with_notes(source.facts, note)
    return source


def _open_part(file: Path, channel: int | str | None, planes_are: PlanesAre | None) -> Source:
    """A part of a stack; the last one may have a single page."""
    return _open_stack(file, channel, planes_are) or TiffSeries([file])


def _open_set(image: Path, channel: int | str | None, planes_are: PlanesAre | None) -> Source | None:
    """The set of OME-TIFF files of a folder or pattern; None where there is none, or its files stand for themselves."""
    selection = select_files(image)
    if len(selection.files) < 2:
        return None
    for head in selection.heads[:_MOST_HEADS]:
        xml = _xml_of(head)
        if xml is None:
            continue
        volume = find_ome_volume(head, xml, _READER, channel=channel, planes_are=planes_are, selection=selection)
        if len(volume.files) > 1:
            return _open_ome(volume)
    return None


def _open_named(image: Path, channel: int | str | None, planes_are: PlanesAre | None) -> Source:
    """The set of which a file tells that holds OME-XML and nothing else."""
    xml = _xml_of(image)
    if xml is None:
        raise InputError(f"{image}: is no OME-XML: name the TIFF files themselves")
    return _open_ome(find_ome_volume(image, xml, _READER, channel=channel, planes_are=planes_are))


def _open_stack(path: Path, channel: int | str | None, planes_are: PlanesAre | None) -> Source | None:
    """The volume in a file, or None if it has a single page and tells of no other."""
    tiff = _open(path)
    try:
        first = _page(path, tiff, 0)
        count = _page_count(path, tiff)
        if tiff.is_lsm:
            return open_lsm(path, channel, planes_are)
        if tiff.is_stk:
            raise SourceError(f"{path}: is a MetaMorph STK file: save it as OME-TIFF, in Fiji")
        plane = check_page(path, first)
        xml = _description(tiff)
        if xml is not None:
            ome = find_ome_volume(path, xml, _READER, channel=channel, planes_are=planes_are)
            is_plane = count == 1 and len(ome.pages) == 1
            if is_plane and own_facts(ome.image.description) is None:
                return None
            rest = [index for index in range(count) if index not in ome.used]
            if any(not is_small_copy(_page(path, tiff, index), first) for index in rest):
                told = count - len(rest)
                raise SourceError(
                    f"{path}: has {count} pages, but its OME-XML tells of {told} of them only: one of the two is wrong"
                )
            return _open_ome(ome)
        volume = _describe(path, tiff, first, count, channel, planes_are)
        if volume is None:
            return None
        stored = np.dtype(first.dtype).newbyteorder(tiff.byteorder)
        places, unit = _locate(path, tiff, first, plane, volume.places)
    finally:
        tiff.close()
    source = TiffStack(str(path), places, plane, stored, unit, volume.voxel_size_mm, volume.facts)
    take_place(source, volume.own, "its own JSON")
    return source


def _describe(
    path: Path, tiff: TiffFile, first: TiffPage, count: int, channel: int | str | None, planes_are: PlanesAre | None
) -> _Volume | None:
    try:
        imagej = dict(tiff.imagej_metadata or {}) if tiff.is_imagej else None
        shaped = tiff.shaped_metadata
    except Exception as error:  # tifffile trusts what it parses
        raise SourceError(f"{path}: its metadata cannot be read: {error}") from error
    if imagej is not None:
        return _describe_imagej(path, first, imagej, count, channel, planes_are)
    places = [_Place(path, 0)]
    notes = []
    if count > 1:
        # Small pictures of the others are no planes.
        small = {index for index in range(1, count) if is_small_copy(_page(path, tiff, index), first)}
        places = [_Place(path, index) for index in range(count) if index not in small]
        if small:
            notes = [f"{len(small)} smaller page(s) were left out: thumbnails, or a pyramid"]
    elif shaped and shaped[0].get("truncated"):
        places = _contiguous(path, first, math.prod(int(n) for n in shaped[0]["shape"]) // max(1, math.prod(first.shape)))
    if len(places) < 2:
        return None
    facts: dict[str, Any] = {"format": "TIFF", "acquisition": _texts(first), "notes": notes}
    letters, sizes = _page_axes(path, tiff, first, shaped)
    if sizes and math.prod(sizes) == len(places):
        numbers, found = _along_axes(path, letters, sizes, channel, planes_are)
        places, facts = [places[number] for number in numbers], facts | found
    elif channel is not None:
        pick_channel(str(path), ("",), channel)
    size = None
    # tifffile keeps them beside the shape where it does not write for ImageJ; mesoSPIM's BigTIFFs are such.
    if shaped and {"spacing", "unit"} <= set(shaped[0]) and not _has_no_resolution(first):
        size, untold = _imagej_voxel_size(first, shaped[0])
        facts |= {} if untold is None else {"untold": untold}
    return _Volume(places, size, facts)


def _page_axes(
    path: Path, tiff: TiffFile, first: TiffPage, shaped: Sequence[Mapping[str, Any]] | None
) -> tuple[str, tuple[int, ...]]:
    """What the pages of a file count, slowest first, as tifffile's JSON, ScanImage or FluoView tell; nothing for all others."""
    if shaped is not None and len(shaped) == 1:
        sizes = tuple(int(n) for n in shaped[0].get("shape", ()))
        letters = str(shaped[0].get("axes", ""))
        count = len(sizes) - len(first.shape)
        return (letters[:count] if len(letters) == len(sizes) else "?" * count), sizes[:count]
    if first.is_scanimage:
        return _scanimage_axes(path, first, len(tiff.pages))
    if tiff.is_fluoview:
        try:
            series = tiff.series[0]
            count = len(series.axes) - len(first.shape)
            return series.axes[:count], tuple(series.shape[:count])
        except Exception as error:  # tifffile trusts what it parses
            raise SourceError(f"{path}: its metadata cannot be read: {error}") from error
    return "", ()


def _scanimage_axes(path: Path, first: TiffPage, count: int) -> tuple[str, tuple[int, ...]]:
    """Of ScanImage's pages, of which each is one channel of one frame."""
    text = f"{first.software}\n{first.description}"
    told = _SAVED_CHANNELS.search(text)
    channels = 1 if told is None else int(told[2]) if told[2] else len(re.findall(r"\d+", told[1]))
    repeats = _FRAMES_PER_SLICE.search(text)
    frames = 1 if repeats is None else int(repeats[1])
    slices, rest = divmod(count, max(1, channels * frames))
    if rest or not slices:
        raise SourceError(
            f"{path}: ScanImage tells of {channels} channel(s), {frames} frame(s) of each plane, and the file has {count} pages: "
            "the recording was interrupted, or is in several files: save the whole planes as OME-TIFF"
        )
    each = int(found[1]) if (found := _SLICES.search(text)) else slices
    volumes = slices // each if each > 0 and slices % each == 0 else 1
    return "TZTC", (volumes, slices // volumes, frames, channels)


def _along_axes(
    path: Path, letters: str, sizes: Sequence[int], channel: int | str | None, planes_are: PlanesAre | None
) -> tuple[list[int], dict[str, Any]]:
    """Numbers of the pages that are the planes of the channel that was asked for, and what is known of channels."""
    long = [(letter, n) for letter, n in zip(letters, sizes, strict=True) if n > 1]
    if len(long) > 1 and {letter for letter, _ in long} - set("ZCT"):
        raise SourceError(
            f"{path}: its pages count along several axes ({' x '.join(str(n) for n in sizes)}), and nothing tells what they are: "
            "save one volume a file"
        )
    count = {letter: dict(long).get(letter, 1) for letter in "ZCT"}
    planes = next((letter for letter, _ in long if letter not in "CT"), "Z")
    if planes_are is not None and planes in dict(long):
        raise InputError(f"{path}: has {dict(long)[planes]} planes besides: leave out --planes-are {planes_are}")
    if planes_are is not None:
        planes = {"time": "T", "channels": "C"}[planes_are]
    depth = dict(long).get(planes, 1)
    if planes != "T":
        check_one_timepoint(str(path), count["T"], depth)
    picked, facts = 0, {}
    if planes != "C":
        names = [""] * count["C"]
        picked = pick_channel(str(path), names, channel, planes=depth)
        if len(names) > 1:
            facts = {"channel": channel_key(names, picked), "channel_names": names}
    index: list[Any] = [slice(None) if letter == planes else picked if letter == "C" else 0 for letter in letters]
    numbers = np.arange(math.prod(sizes)).reshape(sizes)[tuple(index)]
    return [int(number) for number in numbers.ravel()], facts


def _has_no_resolution(first: TiffPage) -> bool:
    """Whether the resolution is what tifffile writes where it was given none."""
    return int(first.resolutionunit) == 1 and tuple(first.resolution) == (1.0, 1.0)


def _texts(page: TiffPage) -> dict[str, str]:
    found = {}
    for name in _TEXT_TAGS:
        tag = page.tags.get(name)
        if tag is not None and isinstance(tag.value, str) and tag.value.strip():
            found[name] = tag.value.strip()[:_LONGEST_TEXT]
    return found


# --- ImageJ ---------------------------------------------------------------------------------------------------------------------


def _describe_imagej(
    path: Path, first: TiffPage, metadata: dict[str, Any], count: int, channel: int | str | None, planes_are: PlanesAre | None
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
    if planes_are is not None and slices > 1:
        raise InputError(f"{path}: has {slices} slices besides: leave out --planes-are {planes_are}")
    if planes_are == "time":
        slices, frames = frames, 1
    elif planes_are == "channels":
        slices, channels = channels, 1
    check_one_timepoint(str(path), frames, slices)
    # ImageJ writes files beyond 4 GB with a single page: the other planes follow without.
    places = _contiguous(path, first, images) if count == 1 else [_Place(path, index) for index in range(images)]
    labels = metadata.get("Labels") if channels > 1 else None
    # Micro-Manager writes channel by channel where it took them so.
    slices_first = str(metadata.get("order", "")).lower() == "zct"
    names = [_channel_label(labels, index * (slices if slices_first else 1), images) for index in range(channels)]
    picked = pick_channel(str(path), names, channel, planes=slices)
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
    size, untold = _imagej_voxel_size(first, metadata)
    if untold is not None:
        facts["untold"] = untold
    chosen = places[picked * slices : (picked + 1) * slices] if slices_first else places[picked::channels]
    return _Volume(chosen, size, facts, own)


def _channel_label(labels: Any, index: int, images: int) -> str:
    """ImageJ has labels for planes, not for channels; one that stands before the first plane of a channel is its name."""
    if not isinstance(labels, (list, tuple)) or len(labels) != images:
        return ""
    return str(labels[index]).strip()


def _imagej_voxel_size(first: TiffPage, metadata: Mapping[str, Any]) -> tuple[Triple | None, str | None]:
    """Along planes, rows, columns; or what the metadata say instead."""
    unit = metadata.get("unit")
    sizes, complaints = [], []
    for key, name, tag in (
        ("zunit", "spacing", None),
        ("yunit", "YResolution", "YResolution"),
        ("unit", "XResolution", "XResolution"),
    ):
        text = metadata.get(key, unit)
        mm = mm_per(text)
        try:
            if tag is None:
                # ImageJ leaves out a spacing of 1, and takes a negative one for its opposite.
                found: Any = metadata.get(name, 1)
                size = abs(float(found))
            else:
                found = first.tags[tag].value
                size = found[1] / found[0]
        except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
            found, size = first.tags[tag].value if tag is not None and tag in first.tags else metadata.get(name), math.nan
        sizes.append(size * (mm or math.nan))
        if mm is None:
            complaints.append(f"unit is {text!r}" if text is not None else "it has no unit")
        elif not (math.isfinite(size) and size > 0):
            complaints.append(f"{name} is {found!r}" if found is not None else f"it has no {name}")
    return voxel_size_or_none(sizes), ", ".join(dict.fromkeys(complaints)) or None


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


def _open_ome(volume: OmeVolume) -> Source:
    """The volume that OME-XML tells of, checked against the first of its files."""
    image = volume.image
    path, page = volume.pages[0]
    facts: dict[str, Any] = {"format": "OME-TIFF", "acquisition": image.acquisition}
    if image.no_voxel_size is not None:
        facts["untold"] = image.no_voxel_size
    if volume.notes:
        facts["notes"] = list(volume.notes)
    if volume.channel is not None and len(image.channel_names) > 1:
        facts |= {"channel": channel_key(image.channel_names, volume.channel), "channel_names": list(image.channel_names)}
    tiff = _open(path)
    try:
        first = _page(path, tiff, page)
        plane = check_page(path, first)
        told = Plane(image.sizes["Y"], image.sizes["X"], image.samples, image.dtype)
        if plane.describe() != told.describe():
            raise SourceError(f"{path}: its OME-XML tells of planes of {told.describe()}, but the pages are {plane.describe()}")
        stored = np.dtype(first.dtype).newbyteorder(tiff.byteorder)
        is_single = _page_count(path, tiff) == 1
        places, unit = _locate(path, tiff, first, plane, [_Place(file, number) for file, number in volume.pages])
    finally:
        tiff.close()
    source: Source
    if is_single and len(volume.files) == len(volume.pages) > 1:
        # Each file is a plane: whether they are alike can be seen before they are read.
        source = TiffSeries([file for file, _ in volume.pages], voxel_size_mm=image.voxel_size_mm, facts=facts)
    else:
        source = TiffStack(str(path), places, plane, stored, unit, image.voxel_size_mm, facts)
    take_place(source, image.description, "its own JSON")
    return source


def _plane_facts(path: Path) -> tuple[Triple | None, dict[str, Any]]:
    """What the first plane of a series tells of all."""
    xml = _xml_of(path)
    if xml is None:
        return None, {}
    image = parse_ome(str(path), xml)
    untold = {} if image.no_voxel_size is None else {"untold": image.no_voxel_size}
    return image.voxel_size_mm, {"acquisition": image.acquisition, **untold}


def _is_xml(path: Path) -> bool:
    return path.name.lower().endswith((".ome", ".ome.xml"))


def _xml_of(path: Path) -> bytes | None:
    """The OME-XML in a TIFF file, or in a file of its own."""
    if _is_xml(path):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
        return data if _OME.search(decode_xml(data)) else None
    tiff = _open(path)
    try:
        return _description(tiff)
    finally:
        tiff.close()


def _description(tiff: TiffFile) -> bytes | None:
    """The bytes of a file's OME-XML, which may be in any encoding: tifffile would make a text of them."""
    try:
        tag = tiff.pages.first.tags.get(270)
        if tag is None or not isinstance(tag.value, str | bytes) or tag.valuebytecount < _SHORTEST_OME:
            return None
        tiff.filehandle.seek(tag.valueoffset)
        data: bytes = tiff.filehandle.read(tag.valuebytecount)
    except Exception as error:  # tifffile trusts what it parses
        raise SourceError(f"{tiff.filename}: its metadata cannot be read: {error}") from error
    return data if _OME.search(decode_xml(data)) else None


def _count_pages(file: Path) -> int:
    """Of a TIFF file; none in one that holds XML only."""
    if _is_xml(file):
        return 0
    tiff = _open(file)
    try:
        return _page_count(file, tiff)
    finally:
        tiff.close()


_READER = OmeReader(_count_pages, _xml_of)


# --- pages ----------------------------------------------------------------------------------------------------------------------


def _locate(path: Path, tiff: TiffFile, first: TiffPage, plane: Plane, places: Sequence[_Place]) -> tuple[list[_Place], _Unit]:
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
    located, unit = [], _Unit()
    for place in places:
        if place.file != path or place.offset is not None:
            located.append(place)
            continue
        page = _page(path, tiff, place.page)
        what = f"{path}: page {place.page}"
        is_planar = _check_alike(what, page, plane).is_planar
        _check_extent(what, page, size)
        unit.add(page)
        located.append(_Place(path, place.page, page.dataoffsets[0] if page.is_final and not is_planar else None))
    return located, unit


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
        # Its pages are read as they are: tifffile would guess where those of ScanImage are.
        return TiffFile(path, is_scanimage=False)
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
