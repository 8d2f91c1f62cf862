"""LsfmFile: open, list, read and write one HDF5 file with its BigDataViewer XML."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, count
from math import inf
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from lsfm_core.confinement import is_inside
from lsfm_core.durable import DatasetReader, DetachedFile, has_locks, is_marked, recover
from lsfm_core.errors import (
    BusyError,
    ChecksumError,
    DamagedError,
    FormatError,
    InputError,
    MissingError,
    StorageError,
    UnknownChannelError,
    check_file,
)
from lsfm_core.geometry import Orientation, Space, Triple, check_voxel_size
from lsfm_core.hdf5_filters import find_filters
from lsfm_core.provenance import LogRecord
from lsfm_core.pyramid import Kind
from lsfm_core.store import _digest, _metadata, _paths
from lsfm_core.store._broken import reading, reads_structure
from lsfm_core.store._elsewhere import inside
from lsfm_core.store._log import read_log
from lsfm_core.store._parts import Parts
from lsfm_core.store._xml import View, parse_xml, render_xml, with_voxel_size
from lsfm_core.store.channel import Channel, Level, Sides, own_space
from lsfm_core.store.lazy import ChunkCache, LazyLevel, TableOf
from lsfm_core.transforms import Affine

__all__ = ["FORMAT_VERSION", "LsfmFile", "named_xml", "open_lsfm", "target_path"]

FORMAT_VERSION = 1
# SimpleITK's pixel ids, which lsfmpy recorded: how the bits of its int16 data sets are meant.
_LEGACY_DTYPES = {0: "i1", 1: "u1", 2: "i2", 3: "u2", 4: "i4", 5: "u4", 6: "i8", 7: "u8", 8: "f4", 9: "f8"}


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
        groups = self.h5.get(_paths.LSFM, {})
        self.check_digests([_paths.LSFM])
        ours = {name: self._read_channel(name) for name in groups if f"{name}/{_paths.IMAGE}" in groups}
        found = ours | self._read_views(ours)
        # In the order in which they were written; those that BigDataViewer does not show come last.
        ages = {name: (inf if channel.setup is None else channel.setup, name) for name, channel in found.items()}
        return MappingProxyType({name: found[name] for name in sorted(found, key=ages.__getitem__)})

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
        levels = tuple(self._view_levels(timepoint, channel.setup, channel.space.world_from_voxel))
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
        return {setup for setup in map(_paths.setup_index, self.h5) if setup is not None}

    @property
    @reads_structure
    def first_timepoint(self) -> int:
        """BigDataViewer's number of the file's first timepoint, at which our channels stand."""
        return min((t for t in map(_paths.timepoint_index, self.h5) if t is not None), default=0)

    def _forget(self) -> None:
        """Read the channels anew when they are asked for next."""
        for name in ("channels", "_times"):
            self.__dict__.pop(name, None)

    # --- reading ------------------------------------------------------------------------------------------------------------

    def _read_channel(self, name: str) -> Channel:
        group = self.h5[_paths.channel(name)]
        if _paths.FORMAT_VERSION not in group.attrs:
            return self._read_legacy(name)
        version = int(group.attrs[_paths.FORMAT_VERSION])
        if version > FORMAT_VERSION:
            raise FormatError(
                f"{self.path}: channel {name!r} has format version {version}; this program reads up to {FORMAT_VERSION}"
            )
        levels = []
        indices = self._level_indices(_paths.image(name))
        nodes = [_paths.level(name, index) for index in indices]
        self.check_digests([_paths.channel(name), _paths.image(name), *nodes, *(f"{node}/{_paths.CELLS}" for node in nodes)])
        for index in indices:
            node = self.h5[_paths.level(name, index)]
            factors = tuple(float(f) for f in node.attrs[_paths.FACTORS])
            affine = np.asarray(node.attrs[_paths.WORLD_FROM_VOXEL])
            found = self._parts.find(f"{node.name}/{_paths.CELLS}")
            if found is None:
                raise FormatError(f"{self.path}: {node.name}/{_paths.CELLS} is missing, or lies in a file that is")
            table_of = partial(_table_of, str(group.attrs[_paths.UUID]), index) if _paths.UUID in group.attrs else None
            levels.append(self._level(index, found[0], factors, affine, group.attrs[_paths.DATA_TYPE], found[1], table_of))
        setup = int(group.attrs[_paths.SETUP])
        levels, remarks = self._placed_by_xml(setup, levels)
        return Channel(
            name=name,
            kind=group.attrs[_paths.KIND],
            levels=tuple(levels),
            orientation=levels[0].space.orientation if remarks else Orientation(group.attrs[_paths.AXCODES]),
            unit=group.attrs[_paths.UNIT],
            display_range=_display_range(group),
            setup=setup if setup >= 0 else None,
            partner=group.attrs.get(_paths.PARTNER),
            affines=self._affine_names(group),
            written_by=group.attrs[_paths.WRITER],
            remarks=remarks,
            timepoints=self._timepoints_of(setup),
            colormap=group.attrs.get(_paths.COLORMAP),
            space_name=self._space_name(name, group.attrs[_paths.KIND]),
            inner_space=group.attrs.get(_paths.INNER),
            _sources=inside(group[_paths.SOURCES], self.path) if _paths.SOURCES in group else None,
        )

    def _placed_by_xml(self, setup: int, levels: list[Level]) -> tuple[list[Level], tuple[str, ...]]:
        """Levels of a channel of ours, where the XML by which the file was opened puts them; and a remark if that is elsewhere."""
        view = None if self.named_xml is None else self._xml_views().get(setup)
        own = levels[0].space
        if self.named_xml is None or view is None or not (view.registered and view.placed) or view.voxel_size_mm is None:
            return levels, ()
        if view.shape != own.shape:
            return levels, ()
        # Somebody has aligned or calibrated it since it was written.
        space = Space(own.shape, view.world_from_voxel)
        if space.same_grid(own):
            return levels, ()
        moved = [
            replace(level, space=Space(level.space.shape, space.level(level.factors, level.space.shape).world_from_voxel))
            for level in levels
        ]
        return moved, (f"placed by the registration in {self.named_xml.name}, which is not the one that was recorded with it",)

    def _read_legacy(self, name: str) -> Channel:
        """A channel of lsfmpy 0.1.0: voxel sizes, but no orientation; uint16 kept in int16."""
        image = self.h5[_paths.image(name)]
        spacing = np.atleast_2d(image.attrs[_paths.LEGACY_SPACING]).astype(float)
        labels = bool(image.attrs.get(_paths.LEGACY_SEGMENTATION, False))
        vectors = bool(image.attrs.get(_paths.LEGACY_MULTICHANNEL, False))
        intended = _LEGACY_DTYPES.get(int(image.attrs.get(_paths.LEGACY_PIXEL_TYPE, -1)))
        remarks = ["written by lsfmpy: it records no orientation, so exports need one to be given"]
        levels: list[Level] = []
        for index in self._level_indices(_paths.image(name)):
            cells = self.h5[_paths.level(name, index)][_paths.CELLS]
            factors = tuple(float(f) for f in spacing[min(index, len(spacing) - 1)] / spacing[0])
            dtype = cells.dtype
            if intended is not None and cells.dtype == np.int16 and np.dtype(intended) == np.uint16:
                dtype = np.dtype(intended)
                if index == 0:
                    remarks.append("16-bit data in signed integers: what was above 32767 was stored as 32767 and is lost")
            affine = np.diag([*spacing[0], 1.0])
            level0 = Space(levels[0].space.shape if levels else cells.shape[:3], affine)
            levels.append(self._level(index, cells, factors, level0.level(factors, cells.shape[:3]).world_from_voxel, dtype))
        setup = self._legacy_setup(name)
        view = self._xml_views().get(setup) if setup is not None else None
        if view is not None and view.shape[0] < levels[0].shape[0]:
            remarks.append(f"the XML says {view.shape[0]} planes, the file has {levels[0].shape[0]}: the last ones are padding")
        kind: Kind = "labels" if labels else "vectors" if vectors else "image"
        return Channel(
            name=name,
            kind=kind,
            levels=tuple(levels),
            orientation=None,
            unit="mm",
            display_range=None,
            setup=setup,
            partner=None,
            affines=self._affine_names(self.h5[_paths.channel(name)]),
            written_by="lsfmpy",
            remarks=tuple(remarks),
            space_name=self._space_name(name, kind),
            inner_space=self.h5[_paths.channel(name)].attrs.get(_paths.INNER),
        )

    def _read_views(self, ours: Mapping[str, Channel]) -> dict[str, Channel]:
        """Channels that are not ours: one per setup of BigDataViewer's that none of ours has."""
        setups = sorted(self.setups.difference(channel.setup for channel in ours.values() if channel.setup is not None))
        # Ours need no XML, so that one which cannot be read does not matter to them.
        views = self._xml_views() if setups else {}
        # Where users gave something to such a channel, its group has its name.
        groups = {n: g for n, g in self.h5.get(_paths.LSFM, {}).items() if n not in ours and isinstance(g, h5py.Group)}
        names = {int(group.attrs[_paths.SETUP]): name for name, group in groups.items() if _paths.SETUP in group.attrs}
        taken = {*ours, *names.values()}
        channels: dict[str, Channel] = {}
        first: Space | None = None
        for setup in setups:
            view = views.get(setup)
            if self._voxel_size_mm is not None:
                view = with_voxel_size(view or View(setup, "", (1, 1, 1), None, np.eye(4)[:, [2, 1, 0, 3]]), self._voxel_size_mm)
            timepoints = self._timepoints_of(setup)
            # Of the world's axes, which are BigDataViewer's, planes lie along the third.
            affine = np.eye(4)[[2, 1, 0, 3]] if view is None else view.world_from_voxel
            levels = self._view_levels(timepoints[0], setup, affine)
            if not levels:
                continue
            name = names.get(setup)
            first = first or levels[0].space
            if name is None:
                wanted = [] if view is None or not view.name else [view.name]
                name = next(n for n in chain(wanted, _other_names(setup)) if n not in taken)
            taken.add(name)
            group = groups.get(name)
            remarks = ["a BigDataViewer file: it records no orientation, so exports need one to be given"]
            if view is not None and view.moves:
                remarks.append("its timepoints are registered differently: all of them are placed as the first one is")
            if view is not None and not view.placed:
                remarks.append(
                    "the voxel size does not tell the unit of the XML's registration: it is placed as if there were none"
                )
            channels[name] = Channel(
                name=name,
                kind="image",
                levels=tuple(levels),
                orientation=None,
                unit="mm" if view is not None and view.voxel_size_mm is not None else "pixel",
                display_range=None if group is None else _display_range(group),
                setup=setup,
                partner=None,
                affines=() if group is None else self._affine_names(group),
                written_by="",
                remarks=tuple(remarks),
                timepoints=timepoints,
                foreign=True,
                colormap=None if group is None else group.attrs.get(_paths.COLORMAP),
                space_name=self._space_name(name, "image"),
                attributes=() if view is None else view.attributes,
                _first=first,
            )
        return channels

    @cached_property
    def _times(self) -> tuple[int, ...]:
        """All timepoints of the file: asked for by each of its setups, which can be thousands."""
        return tuple(sorted(t for t in map(_paths.timepoint_index, self.h5) if t is not None))

    def _timepoints_of(self, setup: int) -> tuple[int, ...]:
        """The timepoints at which a setup has voxels; the first one where it has none."""
        times = self._times if setup >= 0 else ()
        cells = [(time, f"{_paths.view_level(time, setup, 0)}/{_paths.CELLS}") for time in times]
        return tuple(time for time, place in cells if self._parts.find(place) is not None) or (self.first_timepoint,)

    def _view_levels(self, timepoint: int, setup: int, affine: npt.NDArray[np.float64]) -> list[Level]:
        """The pyramid of one view of BigDataViewer's; `affine` is that of its level 0."""
        levels: list[Level] = []
        if self._parts.find(f"{_paths.view_level(timepoint, setup, 0)}/{_paths.CELLS}") is None:
            return levels
        root = self.h5[_paths.setup(setup)]
        for index, row in enumerate(np.atleast_2d(root[_paths.RESOLUTIONS][()])):
            factor = tuple(float(f) for f in row[::-1])
            found = self._parts.find(f"{_paths.view_level(timepoint, setup, index)}/{_paths.CELLS}")
            if found is None:
                continue
            node = found[0]
            dtype = node.dtype
            if dtype == np.int16 and _paths.DATA_TYPE not in root.attrs:
                dtype = np.dtype(np.uint16)  # BigDataViewer's way of keeping uint16
            base = Space(levels[0].space.shape if levels else node.shape, affine)
            levels.append(self._level(index, node, factor, base.level(factor, node.shape).world_from_voxel, dtype, found[1]))
        return levels

    def _legacy_setup(self, name: str) -> int | None:
        """The setup whose cells are a link to this channel's."""
        cells = f"/{_paths.level(name, 0)}/{_paths.CELLS}"
        for setup in sorted(s for s in map(_paths.setup_index, self.h5) if s is not None):
            link = self.h5.get(f"{_paths.view_level(0, setup, 0)}/{_paths.CELLS}", getlink=True)
            if isinstance(link, h5py.SoftLink) and link.path == cells:
                return setup
        return None

    def _space_name(self, name: str, kind: Kind) -> str | None:
        group = self.h5.get(_paths.channel(name))
        recorded: str | None = None if group is None else group.attrs.get(_paths.SPACE)
        return own_space(name) if recorded is None and kind in ("image", "components") else recorded

    def _affine_names(self, group: h5py.Group) -> tuple[str, ...]:
        affines = group.get(_paths.AFFINES, {})
        return tuple(name for name in affines if isinstance(affines[name], h5py.Dataset))

    def _level_indices(self, group: str) -> list[int]:
        return sorted(int(name) for name in self.h5[group] if name.isdigit())

    def _level(
        self,
        index: int,
        cells: h5py.Dataset,
        factors: tuple[float, ...],
        world_from_voxel: npt.NDArray[np.float64],
        dtype: npt.DTypeLike | None = None,
        owner: h5py.File | DetachedFile | None = None,
        table_of: TableOf | None = None,
    ) -> Level:
        find_filters(cells)
        owner = owner or self._open_file
        access = DatasetReader(owner, cells, _identity) if isinstance(owner, DetachedFile) else None
        data = LazyLevel.of(
            cells, cache=self.cache, dtype=dtype, max_read_bytes=self._max_read_bytes, access=access, table_of=table_of
        )
        space = Space(cells.shape[:3], world_from_voxel)
        return Level(index, data, (factors[0], factors[1], factors[2]), space)

    def _xml_views(self) -> dict[int, View]:
        if not self._heeds_xml or not self.xml_path.exists():
            return {}
        return {view.setup: view for view in parse_xml(self.xml_path.read_bytes(), str(self.xml_path)).views}


def open_lsfm(
    path: str | os.PathLike[str],
    *,
    cache: ChunkCache | None = None,
    max_read_bytes: int | None = None,
    detached: bool = False,
) -> LsfmFile:
    """Open a file for reading: ours, lsfmpy's, or any BigDataViewer HDF5; also by its XML.

    Parameters
    ----------
    path : path
        ``.h5``, or a BigDataViewer ``.xml`` that leads to it: then registrations, voxel sizes and names are those of this XML, and
        otherwise those of the one beside the file that has its stem.
    cache : ChunkCache, optional
        To share decoded chunks, and their limit in bytes, between files.
    max_read_bytes : int, optional
        Make ``np.asarray`` of a larger view an error.
    detached : bool
        Keep no writer away. Voxels are then those from before a change until it is complete; a channel that was replaced or
        removed cannot be read after it.

    Raises
    ------
    FormatError
        If it is no HDF5 file, or has neither our structure nor BigDataViewer's; `DamagedError` if it cannot be read as HDF5.
    StorageError
        If it cannot be read. `MissingError` if it is not there, `BusyError` if a writer is at work.
    """
    target, xml = Path(path), named_xml(path)
    if xml is not None:
        target = _hdf5_of_xml(xml)
    check_file(path if target == Path(path) else target)
    try:
        recover(target)
    except BusyError:
        if not detached:
            raise
    # In the middle of a change it has another signature for all but us.
    if not h5py.is_hdf5(target) and not is_marked(target):
        raise FormatError(f"{target}: not an HDF5 file; lsfm-core write FILE.h5 --image puts an image into one")
    try:
        # Where no lock keeps writers away from readers, only a detached one sees what is done to the file meanwhile.
        opened = DetachedFile(target) if detached or not has_locks(target) else h5py.File(target, "r")
        file = LsfmFile(target, opened, cache or ChunkCache(), max_read_bytes, xml)
        known = _paths.LSFM in file.h5 or any(
            isinstance(file.h5.get(_paths.setup(setup)), h5py.Group) and _paths.RESOLUTIONS in file.h5[_paths.setup(setup)]
            for setup in file.setups
        )
    except BlockingIOError as error:
        raise BusyError(f"{target}: another program is writing to it: try again when it is done") from error
    except StorageError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if "locking flag" in str(error):  # in this process, which holds the lock itself
            raise BusyError(f"{target}: is being repacked: try again when it is done") from error
        if getattr(error, "errno", None):
            raise StorageError(f"{target}: cannot be opened as HDF5: {error}") from error
        raise DamagedError(f"{target}: cannot be opened as HDF5: the file is damaged: {error}") from error
    if not known:
        file.close()
        raise FormatError(
            f"{target}: HDF5, but with neither /LSFM nor BigDataViewer's sNN/resolutions inside: not a file for lsfm-core"
        )
    return file


def target_path(path: str | os.PathLike[str]) -> Path:
    """The HDF5 file that is meant by a name under which something is to be written: an XML that is there stands for its file.

    Raises
    ------
    InputError
        If no file of ours can have that name.
    MissingError, FormatError
        If the XML's file is not there, or it cannot be read.
    """
    target = Path(path)
    if not os.fspath(path) or target.is_dir():
        raise InputError(f"{os.fspath(path) or repr('')}: is a folder, not a file: name one in it, such as {target / 'brain.h5'}")
    if target.suffix.lower() == ".xml":
        if not target.exists():
            raise MissingError(
                f"{target}: no such file: name the HDF5 file, {target.with_suffix('.h5')}; its XML is made beside it"
            )
        return _hdf5_of_xml(target)
    # One that is there was named by somebody else.
    if target.suffix.lower() not in (".h5", ".hdf5") and not h5py.is_hdf5(target) and not is_marked(target):
        raise InputError(f"{target}: is no name of an HDF5 file: it ends in .h5 or .hdf5")
    return target


def named_xml(path: str | os.PathLike[str]) -> Path | None:
    """The BigDataViewer XML that a name under which a file is opened stands for, or None."""
    return Path(path) if Path(path).suffix.lower() == ".xml" else None


def _hdf5_of_xml(path: Path) -> Path:
    check_file(path)
    content = parse_xml(path.read_bytes(), str(path))
    # Programs on Windows write its separators. Without this, a name that has a backslash in it.
    spellings = dict.fromkeys(Path(content.base, content.hdf5).as_posix().replace(*pair) for pair in (("", ""), ("\\", "/")))
    places = [Path(os.path.normpath(path.parent / spelling)) for spelling in spellings]
    target = next((place for place in places if place.is_file()), places[-1])
    # An XML from a stranger must not make us open files elsewhere.
    if not is_inside(target, path):
        raise FormatError(
            f"{path}: its HDF5 file {content.hdf5} lies outside its folder: allow it with "
            "--allow-outside, or open the HDF5 file itself"
        )
    if not target.is_file():
        raise MissingError(f"{path}: its HDF5 file {content.hdf5} is missing")
    return target


def _table_of(uuid: str, level: int, dataset: h5py.Dataset) -> npt.NDArray[np.uint32] | None:
    """What the chunks of a level of ours are known by."""
    return _digest.chunk_table(dataset.file, uuid, level)


def _identity(dataset: h5py.Dataset) -> tuple[Any, ...]:
    """Different for another dataset that stands, under the same name, where this one stood."""
    owner = _paths.channel_of(dataset.name)
    written = dataset.file[owner].attrs.get(_paths.UUID) if owner else None
    return written, h5py.h5o.get_info(dataset.id).addr, dataset.shape, dataset.dtype, dataset.chunks


def _display_range(group: h5py.Group) -> tuple[float, float] | None:
    """The contrast limits that somebody has chosen for a channel, or else those that were measured."""
    limits = group.attrs.get(_paths.DISPLAY_RANGE, group.attrs.get(_paths.PERCENTILES))
    return None if limits is None else (float(limits[0]), float(limits[-1]))


def _other_names(setup: int) -> Iterator[str]:
    """What a setup can be called whose name in the XML another channel has."""
    yield f"setup {setup}"
    yield from (f"setup {setup} ({number})" for number in count(2))
