"""What the channels of an open file are, as models: of ours, of lsfmpy's, and of others' setups.

A file can have ten thousand setups. So everything that many of them share is read once, and a dataset is looked for once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, count
from math import inf
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lsfm_core.arrays import ChunkCache, TableOf
from lsfm_core.durable import DetachedFile
from lsfm_core.errors import FormatError
from lsfm_core.geometry import Orientation, Space, Triple
from lsfm_core.hdf5_links import inside
from lsfm_core.pyramid import Kind
from lsfm_core.store import _digest, _paths
from lsfm_core.store._levels import level_of
from lsfm_core.store._parts import Parts
from lsfm_core.store._xml import View, with_voxel_size
from lsfm_core.store.channel import Channel, Level, own_space

__all__ = ["FORMAT_VERSION", "ChannelReader", "first_timepoint", "setups"]

FORMAT_VERSION = 1
# SimpleITK's pixel ids, which lsfmpy recorded: how the bits of its int16 data sets are meant.
_LEGACY_DTYPES = {0: "i1", 1: "u1", 2: "i2", 3: "u2", 4: "i4", 5: "u4", 6: "i8", 7: "u8", 8: "f4", 9: "f8"}


def setups(h5: h5py.File) -> set[int]:
    """BigDataViewer's setups, also those that have no voxels."""
    return {setup for setup in map(_paths.setup_index, h5) if setup is not None}


def first_timepoint(h5: h5py.File) -> int:
    """BigDataViewer's number of the first timepoint of a file."""
    return min((t for t in map(_paths.timepoint_index, h5) if t is not None), default=0)


class ChannelReader:
    """Reads the channels of a file as it is now.

    Parameters
    ----------
    path : Path
    opened : h5py.File or DetachedFile
    parts : Parts
        Finds its datasets.
    cache : ChunkCache
    max_read_bytes : int or None
        Of each level.
    xml : Path or None
        The XML by which the file was opened.
    read_views : callable
        Gives BigDataViewer's views of it by their setups; called once, if they are needed.
    voxel_size_mm : tuple of 3 float, or None
        Of views that have no unit of length.
    check : callable
        Given paths in the file, raises if something there is not what was recorded of it.
    recorded : mapping, or None
        The digests.
    """

    def __init__(
        self,
        path: Path,
        opened: h5py.File | DetachedFile,
        parts: Parts,
        *,
        cache: ChunkCache,
        max_read_bytes: int | None,
        xml: Path | None,
        read_views: Callable[[], Mapping[int, View]],
        voxel_size_mm: Triple | None,
        check: Callable[[Iterable[str]], None],
        recorded: Mapping[str, int] | None,
    ) -> None:
        self._path = path
        self._opened = opened
        self._h5 = opened.h5 if isinstance(opened, DetachedFile) else opened
        self._parts = parts
        self._cache = cache
        self._max_read_bytes = max_read_bytes
        self._xml = xml
        self._read_xml = read_views
        self._voxel_size_mm = voxel_size_mm
        self._check = check
        self._recorded = recorded
        self._found: dict[str, tuple[h5py.Dataset, Any] | None] = {}

    def channels(self) -> dict[str, Channel]:
        """All channels by name, in the order in which they were written; those that BigDataViewer does not show come last.

        Raises
        ------
        FormatError
            If the file's structure is broken; names the place.
        """
        groups = self._h5.get(_paths.LSFM, {})
        self._check([_paths.LSFM])
        ours = {name: self._read_channel(name) for name in groups if f"{name}/{_paths.IMAGE}" in groups}
        found = ours | self._read_views(ours)
        ages = {name: (inf if channel.setup is None else channel.setup, name) for name, channel in found.items()}
        return {name: found[name] for name in sorted(found, key=ages.__getitem__)}

    def _read_channel(self, name: str) -> Channel:
        group = self._h5[_paths.channel(name)]
        if _paths.FORMAT_VERSION not in group.attrs:
            return self._read_legacy(name)
        version = int(group.attrs[_paths.FORMAT_VERSION])
        if version > FORMAT_VERSION:
            raise FormatError(
                f"{self._path}: channel {name!r} has format version {version}; this program reads up to {FORMAT_VERSION}"
            )
        levels = []
        indices = self._level_indices(_paths.image(name))
        nodes = [_paths.level(name, index) for index in indices]
        self._check([_paths.channel(name), _paths.image(name), *nodes])
        # Of voxels in other files these have the digest; that they are links, the group's own tells.
        cells = [f"{node}/{_paths.CELLS}" for node in nodes]
        self._check(place for place in cells if not isinstance(self._h5.get(place, getlink=True), h5py.ExternalLink))
        for index in indices:
            node = self._h5[_paths.level(name, index)]
            factors = tuple(float(f) for f in node.attrs[_paths.FACTORS])
            affine = np.asarray(node.attrs[_paths.WORLD_FROM_VOXEL])
            found = self._find(f"{node.name}/{_paths.CELLS}")
            if found is None:
                raise FormatError(f"{self._path}: {node.name}/{_paths.CELLS} is missing, or lies in a file that is")
            uuid = group.attrs.get(_paths.UUID)
            table_of = None
            if uuid is not None:
                table = _paths.chunk_table(str(uuid), index)
                # No more of what was recorded: it goes along to other processes.
                recorded = {table: self._recorded[table]} if self._recorded and table in self._recorded else None
                table_of = partial(_table_of, recorded, str(uuid), index)
            levels.append(
                self._level(
                    index, found[0], factors, Space(found[0].shape[:3], affine), group.attrs[_paths.DATA_TYPE], found[1], table_of
                )
            )
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
            space_name=self._space_name(name, group.attrs[_paths.KIND], group),
            inner_space=group.attrs.get(_paths.INNER),
            _sources=inside(group[_paths.SOURCES], self._path) if _paths.SOURCES in group else None,
        )

    def _placed_by_xml(self, setup: int, levels: list[Level]) -> tuple[list[Level], tuple[str, ...]]:
        """Levels of a channel of ours, where the XML by which the file was opened puts them; and a remark if that is elsewhere."""
        view = None if self._xml is None else self._views.get(setup)
        own = levels[0].space
        if self._xml is None or view is None or not (view.registered and view.placed) or view.voxel_size_mm is None:
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
        return moved, (f"placed by the registration in {self._xml.name}, which is not the one that was recorded with it",)

    def _read_legacy(self, name: str) -> Channel:
        """A channel of lsfmpy 0.1.0: voxel sizes, but no orientation; uint16 kept in int16."""
        image = self._h5[_paths.image(name)]
        spacing = np.atleast_2d(image.attrs[_paths.LEGACY_SPACING]).astype(float)
        labels = bool(image.attrs.get(_paths.LEGACY_SEGMENTATION, False))
        vectors = bool(image.attrs.get(_paths.LEGACY_MULTICHANNEL, False))
        intended = _LEGACY_DTYPES.get(int(image.attrs.get(_paths.LEGACY_PIXEL_TYPE, -1)))
        remarks = ["written by lsfmpy: it records no orientation, so exports need one to be given"]
        levels: list[Level] = []
        for index in self._level_indices(_paths.image(name)):
            cells = self._h5[_paths.level(name, index)][_paths.CELLS]
            factors = tuple(float(f) for f in spacing[min(index, len(spacing) - 1)] / spacing[0])
            dtype = cells.dtype
            if intended is not None and cells.dtype == np.int16 and np.dtype(intended) == np.uint16:
                dtype = np.dtype(intended)
                if index == 0:
                    remarks.append("16-bit data in signed integers: what was above 32767 was stored as 32767 and is lost")
            affine = np.diag([*spacing[0], 1.0])
            level0 = Space(levels[0].space.shape if levels else cells.shape[:3], affine)
            levels.append(self._level(index, cells, factors, level0.level(factors, cells.shape[:3]), dtype))
        setup = self._linked.get(f"/{_paths.level(name, 0)}/{_paths.CELLS}")
        view = self._views.get(setup) if setup is not None else None
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
            affines=self._affine_names(self._h5[_paths.channel(name)]),
            written_by="lsfmpy",
            remarks=tuple(remarks),
            space_name=self._space_name(name, kind, self._h5[_paths.channel(name)]),
            inner_space=self._h5[_paths.channel(name)].attrs.get(_paths.INNER),
        )

    def _read_views(self, ours: Mapping[str, Channel]) -> dict[str, Channel]:
        """Channels that are not ours: one per setup of BigDataViewer's that none of ours has."""
        setups = sorted(self._setups.difference(channel.setup for channel in ours.values() if channel.setup is not None))
        # Ours need no XML, so that one which cannot be read does not matter to them.
        views = self._views if setups else {}
        # Where users gave something to such a channel, its group has its name.
        groups = {n: g for n, g in self._h5.get(_paths.LSFM, {}).items() if n not in ours and isinstance(g, h5py.Group)}
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
            levels = self.view_levels(timepoints[0], setup, affine)
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
                space_name=self._space_name(name, "image", group),
                attributes=() if view is None else view.attributes,
                _first=first,
            )
        return channels

    def _timepoints_of(self, setup: int) -> tuple[int, ...]:
        """The timepoints at which a setup has voxels; the first one where it has none."""
        times = self._times if setup >= 0 else ()
        cells = [(time, f"{_paths.view_level(time, setup, 0)}/{_paths.CELLS}") for time in times]
        return tuple(time for time, place in cells if self._find(place) is not None) or (first_timepoint(self._h5),)

    def view_levels(self, timepoint: int, setup: int, affine: npt.NDArray[np.float64]) -> list[Level]:
        """The pyramid of one view of BigDataViewer's; `affine` is that of its level 0."""
        levels: list[Level] = []
        if self._find(f"{_paths.view_level(timepoint, setup, 0)}/{_paths.CELLS}") is None:
            return levels
        root, base = self._h5[_paths.setup(setup)], None
        for index, row in enumerate(np.atleast_2d(root[_paths.RESOLUTIONS][()])):
            factor = tuple(float(f) for f in row[::-1])
            found = self._find(f"{_paths.view_level(timepoint, setup, index)}/{_paths.CELLS}")
            if found is None:
                continue
            node = found[0]
            dtype = node.dtype
            if dtype == np.int16 and _paths.DATA_TYPE not in root.attrs:
                dtype = np.dtype(np.uint16)  # BigDataViewer's way of keeping uint16
            base = base or Space(node.shape, affine)
            space = base if factor == (1, 1, 1) and node.shape == base.shape else base.level(factor, node.shape)
            levels.append(self._level(index, node, factor, space, dtype, found[1]))
        return levels

    def _space_name(self, name: str, kind: Kind, group: h5py.Group | None) -> str | None:
        recorded: str | None = None if group is None else group.attrs.get(_paths.SPACE)
        return own_space(name) if recorded is None and kind in ("image", "components") else recorded

    def _affine_names(self, group: h5py.Group) -> tuple[str, ...]:
        affines = group.get(_paths.AFFINES, {})
        return tuple(name for name in affines if isinstance(affines[name], h5py.Dataset))

    def _level_indices(self, group: str) -> list[int]:
        return sorted(int(name) for name in self._h5[group] if name.isdigit())

    def _level(
        self,
        index: int,
        cells: h5py.Dataset,
        factors: tuple[float, ...],
        space: Space,
        dtype: npt.DTypeLike | None = None,
        owner: h5py.File | DetachedFile | None = None,
        table_of: TableOf | None = None,
    ) -> Level:
        data = level_of(
            owner or self._opened,
            cells,
            self._cache,
            dtype=None if dtype is None else np.dtype(dtype),
            max_read_bytes=self._max_read_bytes,
            table_of=table_of,
        )
        return Level(index, data, (factors[0], factors[1], factors[2]), space)

    # --- what many channels share -------------------------------------------------------------------------------------------

    @cached_property
    def _views(self) -> Mapping[int, View]:
        return self._read_xml()

    @cached_property
    def _setups(self) -> set[int]:
        return setups(self._h5)

    @cached_property
    def _times(self) -> tuple[int, ...]:
        return tuple(sorted(t for t in map(_paths.timepoint_index, self._h5) if t is not None))

    @cached_property
    def _linked(self) -> dict[str, int]:
        """The setup whose cells are a link to a dataset, by that."""
        found: dict[str, int] = {}
        for setup in sorted(self._setups, reverse=True):
            link = self._h5.get(f"{_paths.view_level(0, setup, 0)}/{_paths.CELLS}", getlink=True)
            if isinstance(link, h5py.SoftLink):
                found[link.path] = setup
        return found

    def _find(self, place: str) -> tuple[h5py.Dataset, Any] | None:
        if place not in self._found:
            self._found[place] = self._parts.find(place)
        return self._found[place]


def _table_of(recorded: Mapping[str, int] | None, uuid: str, level: int, dataset: h5py.Dataset) -> npt.NDArray[np.uint32] | None:
    """What the chunks of a level of ours are known by."""
    return _digest.chunk_table(dataset.file, recorded, uuid, level)


def _display_range(group: h5py.Group) -> tuple[float, float] | None:
    """The contrast limits that somebody has chosen for a channel, or else those that were measured."""
    limits = group.attrs.get(_paths.DISPLAY_RANGE, group.attrs.get(_paths.PERCENTILES))
    return None if limits is None else (float(limits[0]), float(limits[-1]))


def _other_names(setup: int) -> Iterator[str]:
    """What a setup can be called whose name in the XML another channel has."""
    yield f"setup {setup}"
    yield from (f"setup {setup} ({number})" for number in count(2))
