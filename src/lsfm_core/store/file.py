"""An open file to read: its channels, and what was noted of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import h5py
import numpy.typing as npt

from lsfm_core.arrays import ChunkCache
from lsfm_core.durable import DetachedFile
from lsfm_core.errors import (
    ChecksumError,
    InputError,
    StorageError,
    UnknownChannelError,
)
from lsfm_core.geometry import Triple, check_voxel_size
from lsfm_core.hdf5_damage import reading, reads_structure
from lsfm_core.hdf5_links import inside
from lsfm_core.provenance import LogRecord
from lsfm_core.store import _digest, _metadata, _paths
from lsfm_core.store._log import read_log
from lsfm_core.store._model import ChannelReader, first_timepoint, setups
from lsfm_core.store._parts import Parts
from lsfm_core.store._xml import BdvXml, View, parse_xml, read_xml, render_xml
from lsfm_core.store.channel import Channel, Level, Sides
from lsfm_core.transforms import Affine

__all__ = ["LsfmFile"]


class LsfmFile:
    """One file, open for reading; get it from `open_lsfm`.

    Works as a mapping from channel names, in the order in which they were written, and as a context manager.
    """

    def __init__(
        self, path: Path, h5: h5py.File | DetachedFile, cache: ChunkCache, max_read_bytes: int | None, xml: Path | None = None
    ) -> None:
        self.path = path
        #: BigDataViewer's XML by which the file was opened: it tells where setups lie. None if the HDF5 file was named.
        self.named_xml = xml
        self._open_file = h5
        #: Decoded chunks of all levels.
        self.cache = cache
        self._max_read_bytes = max_read_bytes
        self._heeds_xml = True
        self._voxel_size_mm: Triple | None = None
        self._parts = Parts(path, h5)
        #: Whether what is read is compared with its digest: not in the middle of a change.
        self._heeds_digests = True
        self._xml: tuple[bytes, BdvXml] | None = None
        # What a change does to the setups of others, for the XML: those that are removed, and new names.
        self._gone: set[int] = set()
        self._new_names: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def h5(self) -> h5py.File:
        """The open file itself, for what this class does not offer; names of its parts are in docs/format.md."""
        return self._open_file.h5 if isinstance(self._open_file, DetachedFile) else self._open_file

    def close(self) -> None:
        """Close the file; its lazy levels cannot be read any more."""
        self._parts.close()
        self._open_file.close()

    @cached_property
    @reads_structure
    def channels(self) -> Mapping[str, Channel]:
        """All channels by name.

        Raises
        ------
        FormatError
            If the file's structure is broken; names the place.
        """
        return MappingProxyType(self._reader().channels())

    def __getitem__(self, name: str) -> Channel:
        if name not in self.channels:
            known = ", ".join(self.channels) or "none"
            raise UnknownChannelError(f"{self.path}: no channel {name!r}; it has: {known}")
        return self.channels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.channels)

    def __len__(self) -> int:
        return len(self.channels)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        raise InputError(f"{self.path}: is a file of channels, no array: take a level of one, as file['name'].levels[0]")

    def __contains__(self, name: object) -> bool:
        return name in self.channels

    @property
    def xml_path(self) -> Path:
        """Where BigDataViewer's XML stands: the one by which the file was opened, else beside the file, with its stem.

        Beside a link to the file only if it is not beside the file.
        """
        own = Path(os.path.realpath(self.path)).with_suffix(".xml")
        beside = self.path.with_suffix(".xml")
        return self.named_xml or (beside if beside.exists() and not own.exists() else own)

    @property
    def opened_as(self) -> Path:
        """The name by which the file opens like this again: that of its XML, if it was opened by one."""
        return self.named_xml or self.path

    def with_voxel_size(self, voxel_size_mm: Triple) -> LsfmFile:
        """The same open file, whose channels without a unit of length have voxels of this size.

        Parameters
        ----------
        voxel_size_mm : tuple of 3 float
            Of level 0, along planes, rows and columns.

        Raises
        ------
        InputError
            If all channels have a size of their own.
        """
        if not any(channel.unit != "mm" for channel in self.channels.values()):
            raise InputError(f"{self.path}: its channels have voxel sizes in a unit of length: leave --voxel-size out")
        other = LsfmFile(self.path, self._open_file, self.cache, self._max_read_bytes, self.named_xml)
        other._heeds_xml, other._parts = self._heeds_xml, self._parts
        other._voxel_size_mm = check_voxel_size(voxel_size_mm)
        return other

    @reads_structure
    def levels_at(self, name: str, timepoint: int) -> tuple[Level, ...]:
        """The pyramid of a channel at one of its timepoints, which lies where that of the first lies.

        Raises
        ------
        UnknownChannelError
        InputError
            If the channel was not imaged then.
        """
        channel = self[name]
        if timepoint not in channel.timepoints:
            known = ", ".join(map(str, channel.timepoints))
            raise InputError(f"{self.path}: channel {name!r} has no timepoint {timepoint}; it has: {known}")
        if timepoint == channel.timepoints[0] or channel.setup is None:
            return channel.levels
        levels = tuple(self._reader().view_levels(timepoint, channel.setup, channel.space.world_from_voxel))
        if not levels:
            raise StorageError(f"{self.path}: channel {name!r} was removed since it was opened: open the file again")
        return levels

    @property
    @reads_structure
    def remarks(self) -> tuple[str, ...]:
        """What is odd about the file as a whole, in sentences; a channel has remarks of its own."""
        found = []
        if _paths.INCOMPLETE in self.h5:
            found.append("holds the remains of a channel that was never completed")
        count = self.h5.attrs.get(_paths.LEGACY_CHANNELS_COUNT)
        if count is not None and count != len(self):
            found.append(f"{_paths.LEGACY_CHANNELS_COUNT} says {count} channels, there are {len(self)}: lsfmpy counted wrongly")
        # Which parts there are is known when all channels have been looked for.
        len(self)
        found += [f"a part of it, {name}, {fault}" for name, fault in self._parts.lost.items()]
        return tuple(found)

    @reads_structure
    def label_table(self, name: str) -> str | None:
        """The label table of a channel as JSON text (`lsfm_core.regions.LabelTable.from_json` reads it), or None.

        Raises
        ------
        UnknownChannelError
        """
        if _paths.labels(self[name].name) not in self.h5:
            return None
        self.check_digests([_paths.labels(name)])
        text: str = inside(self.h5[_paths.labels(name)], self.path).asstr()[()]
        return text

    @reads_structure
    def acquisition(self, name: str) -> dict[str, Any]:
        """What is known of a channel's acquisition (objective, exposure, …), as the image's format or the user told it.

        Raises
        ------
        UnknownChannelError
        """
        if _paths.acquisition(self[name].name) not in self.h5:
            return {}
        facts: dict[str, Any] = json.loads(inside(self.h5[_paths.acquisition(name)], self.path).asstr()[()])
        return facts

    def metadata(self, channel: str | None = None) -> Mapping[str, Any]:
        """What users noted of a channel, or of the whole file: keys with texts, numbers, lists or nested objects, in order of keys.

        Raises
        ------
        UnknownChannelError
        FormatError
        """
        path = _paths.metadata(None if channel is None else self[channel].name)
        with reading(self.path, "its metadata cannot be read"):
            return MappingProxyType(_metadata.read(self.h5.get(path), self.path))

    @reads_structure
    def affine(self, channel: str, name: str) -> Affine:
        """An affine that is stored with a channel.

        Raises
        ------
        UnknownChannelError
        InputError
            If the channel has no such affine.
        """
        if name not in self[channel].affines:
            known = ", ".join(self[channel].affines) or "none"
            raise InputError(f"{self.path}: channel {channel!r} has no affine {name!r}; it has: {known}")
        group = self.h5[f"{_paths.channel(channel)}/{_paths.AFFINES}"]
        folders = (f"{_paths.ITK_PARAMS}/", f"{_paths.FIXED_ITK_PARAMS}/")
        self.check_digests(f"{_paths.channel(channel)}/{_paths.AFFINES}/{part}{name}" for part in ("", *folders))
        parts = [inside(group[f"{part}/{name}"], self.path)[()] for part in (_paths.ITK_PARAMS, _paths.FIXED_ITK_PARAMS)]
        return Affine.from_itk(parts[0], parts[1], name=name)

    @reads_structure
    def affine_sides(self, channel: str, name: str) -> Sides:
        """The spaces that an affine of a channel joins; its inner one is the channel's, unless another is recorded.

        Raises
        ------
        UnknownChannelError
        """
        attributes = self.h5[_paths.affine(self[channel].name, name)].attrs
        return Sides(attributes.get(_paths.INNER, self[channel].space_name), attributes.get(_paths.OUTER))

    @reads_structure
    def field_sides(self, name: str) -> Sides:
        """The spaces that a displacement field joins; what is not recorded of it, its inverse tells.

        Raises
        ------
        UnknownChannelError
        """
        field = self[name]
        partner = self.channels.get(field.partner or "")
        if partner is None:
            return Sides(field.inner_space, field.space_name)
        return Sides(field.inner_space or partner.space_name, field.space_name or partner.inner_space)

    @reads_structure
    def proof(self, channel: str, affine: str | None = None) -> str:
        """Whether a transform is right, as far as it is recorded, of an affine of a channel or of a displacement field; else "".

        Raises
        ------
        UnknownChannelError
        """
        name = self[channel].name
        node = self.h5.get(_paths.channel(name) if affine is None else _paths.affine(name, affine))
        return "" if node is None else str(node.attrs.get(_paths.PROOF, ""))

    @reads_structure
    def log(self) -> tuple[LogRecord, ...]:
        """What was done with the file, exports included, by time; see docs/provenance.md."""
        self.check_digests([_paths.LOG])
        return read_log(self.h5, self.path)

    @cached_property
    @reads_structure
    def digests(self) -> Mapping[str, int] | None:
        """The recorded digest of every object in our part of the file, by its path; None where there are none."""
        return _digest.read(self.h5)

    @reads_structure
    def differences(self) -> tuple[tuple[str, str], ...]:
        """Objects of our part of the file that are not what was recorded of them: their paths, and what is wrong with them."""
        if self.digests is not None:
            return tuple(_digest.differences(self.h5, self.digests))
        expected = _digest.is_expected(self.h5)
        return (
            ((f"/{_paths.DIGESTS}", "is damaged, so that nothing tells whether the rest is as it was written"),) if expected else ()
        )

    def check_digests(self, paths: Iterable[str] | None = None) -> None:
        """Refuse to go on where objects are not what was recorded of them; default: all of them.

        Raises
        ------
        ChecksumError
            That names the first.
        """
        if self.digests is None or not self._heeds_digests:
            return
        if paths is None:
            defects = self.differences()
        else:
            known = self.digests
            there = [path for path in paths if path in known or path in self.h5]
            defects = tuple((p, "is not what was written") for p in there if _digest.object_digest(self.h5, p) != known.get(p))
        if defects:
            place, what = defects[0]
            raise ChecksumError(
                f"{self.path}: {place} {what}: the file is damaged, or another program has changed it: lsfm-core verify lists all; "
                "lsfm-core seal takes the file as it is"
            )

    def ignore_digests(self) -> None:
        """Read from now on what differs from what was recorded of it as well."""
        self._heeds_digests = False
        self._forget()

    def ignore_xml(self) -> None:
        """Take nothing of the XML from now on (in others' files it gives channels their names and sizes)."""
        self._heeds_xml = False
        self._forget()

    def read_xml(self) -> BdvXml:
        """BigDataViewer's XML, as it is now; of thousands of setups it is not parsed twice.

        Raises
        ------
        FormatError
            If it cannot be read.
        """
        data = read_xml(self.xml_path)
        if self._xml is None or self._xml[0] != data:
            self._xml = data, parse_xml(data, str(self.xml_path))
        return self._xml[1]

    def render_xml(self, previous: bytes | None, hdf5: str | None = None) -> bytes:
        """BigDataViewer's XML for the file as it is now.

        Parameters
        ----------
        previous : bytes or None
            The XML that is to be replaced.
        hdf5 : str, optional
            Another name for the HDF5 file.

        Raises
        ------
        FormatError
            If the previous XML cannot be read.
        """
        views = [
            View(
                c.setup,
                c.name,
                c.space.shape,
                c.space.voxel_size_mm if c.unit == "mm" else None,
                c.space.world_from_voxel,
                c.timepoints,
            )
            for c in self.channels.values()
            if c.setup is not None
        ]
        others = self.setups.difference(c.setup for c in self.channels.values() if not c.foreign)
        place = self.path if self.named_xml is not None else Path(os.path.realpath(self.path))
        name = hdf5 or Path(os.path.relpath(place, self.xml_path.parent)).as_posix()
        return render_xml(name, views, previous, others=others, gone=self._gone, names=self._new_names)

    @reads_structure
    def own_levels(self) -> list[tuple[str, int, h5py.Dataset]]:
        """The levels of all channels that we wrote: the id of the channel, the level's number, and its voxels."""
        ours = [channel for channel in self.channels.values() if not channel.foreign]
        ids = {channel.name: self.h5[_paths.channel(channel.name)].attrs.get(_paths.UUID) for channel in ours}
        return [
            (str(ids[channel.name]), level.index, self.h5[f"{_paths.level(channel.name, level.index)}/{_paths.CELLS}"])
            for channel in ours
            if ids[channel.name] is not None
            for level in channel.levels
        ]

    @property
    @reads_structure
    def setups(self) -> set[int]:
        """BigDataViewer's setups, also those that no channel shows since they have no voxels."""
        return setups(self.h5)

    @property
    @reads_structure
    def first_timepoint(self) -> int:
        """BigDataViewer's number of the file's first timepoint, at which our channels stand."""
        return first_timepoint(self.h5)

    def _forget(self) -> None:
        """Read the channels anew when they are asked for next."""
        self.__dict__.pop("channels", None)

    def _reader(self) -> ChannelReader:
        return ChannelReader(
            self.path,
            self._open_file,
            self._parts,
            cache=self.cache,
            max_read_bytes=self._max_read_bytes,
            xml=self.named_xml,
            read_views=self._views,
            voxel_size_mm=self._voxel_size_mm,
            check=self.check_digests,
            recorded=self.digests,
        )

    def _views(self) -> dict[int, View]:
        if not self._heeds_xml or not self.xml_path.exists():
            return {}
        return {view.setup: view for view in self.read_xml().views}
