"""Any image that can be ingested: others' files by `formats`, channels of ours and of BigDataViewer's files by `store`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py

from lsfm_core import formats
from lsfm_core.arrays import ChunkCache
from lsfm_core.errors import FormatError, InputError, SourceError, check_file
from lsfm_core.formats import Source, pick_channel
from lsfm_core.formats.arrays import ArrayLike, ArraySource
from lsfm_core.geometry import Orientation, Space, Triple
from lsfm_core.pyramid import Kind
from lsfm_core.store import Channel, LsfmFile, open_lsfm

__all__ = ["open_source"]

_SPIM_DATA = b"<SpimData"
_HEAD_BYTES = 4096


def open_source(
    image: str | os.PathLike[str] | ArrayLike | Source,
    *,
    channel: int | str | None = None,
    kind: Kind = "image",
    **options: Any,
) -> Source:
    """Open an image for ingest.

    Parameters
    ----------
    image : path, array-like or Source
        What `lsfm_core.formats.open_source` takes; or a file of ours or BigDataViewer's, by its HDF5 file or XML.
    channel : int or str, optional
        Index or name, for files that hold several; of BigDataViewer's files the number of the setup.
    kind : {"image", "labels", "vectors", "components"}
    **options
        As `lsfm_core.formats.open_source` takes them.

    Raises
    ------
    MissingError, InputError, SourceError, FormatError
        As `lsfm_core.formats.open_source`.
    """
    file = _stored(Path(image)) if isinstance(image, (str, os.PathLike)) and os.fspath(image) else None
    if file is None:
        return formats.open_source(image, channel=channel, kind=kind, **options)
    try:
        source = _StoredSource(file, _pick(file, channel), kind)
    except BaseException:
        file.close()
        raise
    return formats.open_source(source, kind=kind, **options)


def _stored(path: Path) -> LsfmFile | None:
    """The file, if it is one of ours or BigDataViewer's; None for all else."""
    if not path.is_file():
        return None
    check_file(path)
    if path.suffix.lower() == ".xml":
        with path.open("rb") as head:
            if _SPIM_DATA not in head.read(_HEAD_BYTES).replace(b"\0", b""):
                return None
    elif not h5py.is_hdf5(path):
        return None
    # No writer is kept away: the channel may go into the same file.
    try:
        # Nothing is read twice, so nothing decoded is kept.
        return open_lsfm(path, cache=ChunkCache(0), detached=True)
    except FormatError as error:
        if path.suffix.lower() == ".xml" or type(error) is not FormatError:
            raise
        return None


def _pick(file: LsfmFile, channel: int | str | None) -> Channel:
    names = list(file)
    numbers = [file[name].setup for name in names]
    return file[names[pick_channel(str(file.opened_as), names, channel, numbers=numbers, offer=False)]]


class _StoredSource(ArraySource):
    """A channel of a file, which stays open as long as the source is."""

    def __init__(self, file: LsfmFile, channel: Channel, kind: Kind) -> None:
        vectors = channel.kind == "vectors"
        name = f"{file.opened_as}: channel {channel.name!r}"
        if channel.kind == "components" and kind == "image":
            kind = channel.kind
        if vectors != (kind == "vectors") and not (vectors and kind == "components"):
            raise SourceError(f"{name}: holds {channel.kind}, which does not fit kind {kind}")
        if kind == "vectors" and channel.orientation is None:
            raise SourceError(f"{name}: does not record along which axes its vectors run: give the field's own file")
        if len(channel.timepoints) > 1:
            raise InputError(f"{name}: has {len(channel.timepoints)} time points: save one of them as a file of its own")
        notes = [*channel.remarks] if channel.orientation is not None else []
        facts = {
            "format": "BigDataViewer" if channel.foreign else "lsfm",
            "notes": notes,
            "acquisition": file.acquisition(channel.name),
            "kind": channel.kind,
        }
        size = channel.space.voxel_size_mm if channel.unit == "mm" else None
        super().__init__(channel.levels[0].data, name=name, kind=kind, voxel_size_mm=size, facts=facts)
        if channel.orientation is not None:
            self.space = channel.space
        # A chunk that is so large is unpacked whole for each of its pieces.
        self.read_bytes += channel.levels[0].data.decode_bytes
        self._file = file
        self._channel = channel

    def oriented(self, orientation: Orientation, voxel_size_mm: Triple) -> Space | None:
        if self.space is not None:
            return None
        if self._channel.unit == "mm":
            return self._channel.oriented(orientation) if voxel_size_mm == self.voxel_size_mm else None
        return self._file.with_voxel_size(voxel_size_mm)[self._channel.name].oriented(orientation)

    def close(self) -> None:
        super().close()
        self._file.close()
