"""Zeiss LSM in: TIFF whose pages alternate with thumbnails and hold all channels, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tifffile import TiffFile, TiffPageSeries

from lsfm_core.errors import InputError, SourceError
from lsfm_core.formats._channels import PlanesAre, channel_key, check_one_timepoint, pick_channel
from lsfm_core.formats._files import Checksum
from lsfm_core.formats._geometry import voxel_size_or_none
from lsfm_core.formats._source import Source
from lsfm_core.records import FileRecord

__all__ = ["open_lsm"]

_MM_PER_M = 1000.0


class _LsmSource(Source):
    """Planes of one channel; tifffile reads one page at a time, since it mends what LSM files say of their pages."""

    def __init__(
        self, path: Path, tiff: TiffFile, series: TiffPageSeries, axes: str, channel: int, facts: Mapping[str, Any]
    ) -> None:
        sizes = dict(zip(axes, series.shape, strict=True))
        self.name = str(path)
        self.shape = (sizes.get("Z", 1), sizes["Y"], sizes["X"])
        self.dtype = np.dtype(series.dtype).newbyteorder("=")
        self.read_bytes = sizes.get("C", 1) * sizes["Y"] * sizes["X"] * self.dtype.itemsize
        self.facts = facts
        self._tiff = tiff
        self._pages = series.pages
        self._channel = channel
        # Where the page has the axis of channels, if it has one.
        page_axes = axes.replace("Z", "").replace("T", "")
        self._axis = page_axes.index("C") if "C" in page_axes else None
        self._checksum = Checksum(path)
        self._lock = threading.Lock()

    def read_plane(self, index: int, out: npt.NDArray[Any]) -> None:
        with self._lock:
            try:
                page = self._pages[index]
                pixels = np.asarray(None if page is None else page.asarray(maxworkers=1))
                out[:] = pixels if self._axis is None else pixels.take(self._channel, self._axis)
            except Exception as error:  # decoders raise whatever they like on damaged data
                raise SourceError(f"{self.name}: plane {index} cannot be decoded, the file is damaged: {error}") from error

    def file_records(self) -> Sequence[FileRecord]:
        return [self._checksum.record()]

    def close(self) -> None:
        self._tiff.close()


def open_lsm(path: Path, channel: int | str | None, planes_are: PlanesAre | None) -> Source:
    """Open a Zeiss LSM file.

    Raises
    ------
    SourceError
        If it is damaged, or holds lines or positions rather than a stack.
    InputError
        If it is not clear which channel is meant, or it has several time points.
    """
    try:
        tiff = TiffFile(path)
    except Exception as error:  # whatever a damaged header leads to
        raise SourceError(f"{path}: not a readable TIFF, empty or damaged: {error}") from error
    try:
        return _open(path, tiff, channel, planes_are)
    except BaseException as error:
        tiff.close()
        if isinstance(error, Exception) and not isinstance(error, SourceError | InputError):
            # tifffile trusts what it parses.
            raise SourceError(f"{path}: its Zeiss LSM metadata cannot be read: {error}") from error
        raise


def _open(path: Path, tiff: TiffFile, channel: int | str | None, planes_are: PlanesAre | None) -> Source:
    if planes_are is not None:
        raise InputError(f"{path}: is a Zeiss LSM file, which tells its planes: leave out --planes-are {planes_are}")
    metadata: dict[str, Any] = tiff.lsm_metadata or {}
    series = tiff.series[0]
    axes = "".join(axis for axis, n in zip(series.axes, series.shape, strict=True) if n > 1 or axis in "ZYX")
    if set(axes) - set("TZCYX") or not {"Y", "X"} <= set(axes):
        raise SourceError(f"{path}: is a Zeiss LSM file of the axes {series.axes}: save one volume as OME-TIFF, in Fiji")
    axes = series.axes
    sizes = dict(zip(axes, series.shape, strict=True))
    check_one_timepoint(str(path), sizes.get("T", 1), 2)
    colours = metadata.get("ChannelColors") or {}
    told = [str(text).strip() for text in colours.get("ColorNames", ())]
    names = (told + [""] * sizes.get("C", 1))[: sizes.get("C", 1)]
    picked = pick_channel(str(path), names, channel, planes=sizes.get("Z", 1), offer=False)
    facts: dict[str, Any] = {"format": "Zeiss LSM"}
    if len(names) > 1:
        facts |= {"channel": channel_key(names, picked), "channel_names": names}
    source = _LsmSource(path, tiff, series, axes, picked, facts)
    if len(series.pages) != source.shape[0] or any(page is None for page in series.pages):
        raise SourceError(f"{path}: tells of {source.shape[0]} planes, and has {len(series.pages)}: the recording was interrupted")
    source.voxel_size_mm = voxel_size_or_none([_MM_PER_M * float(metadata.get(f"VoxelSize{axis}", float("nan"))) for axis in "ZYX"])
    return source
