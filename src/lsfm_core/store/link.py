"""A master file whose channels lie in other files beside it, as BigDataViewer's partitions do.

What tells of a channel is copied, which is little; each level's voxels are an external link. So several machines can write
channels at the same time, each into a file of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import defusedxml.ElementTree
import h5py
from pydantic import Field

from lsfm_core import durable
from lsfm_core._request import Request, told
from lsfm_core.confinement import is_inside
from lsfm_core.errors import InputError
from lsfm_core.hdf5_damage import changing, reading
from lsfm_core.provenance import recorded
from lsfm_core.store import _digest, _paths
from lsfm_core.store._settings import render_settings, write_settings
from lsfm_core.store._xml import read_xml
from lsfm_core.store.edit import LIBVER
from lsfm_core.store.file import LsfmFile
from lsfm_core.store.opening import open_lsfm, target_path

__all__ = ["LinkReport", "LinkRequest", "link_files", "plan_link"]


class LinkRequest(Request):
    """Which files to link, and from where.

    Attributes
    ----------
    path : Path
        The master file, which is made.
    files : tuple of Path
        The files whose channels it shows, in its folder or below.
    overwrite : bool
        Whether a master that is there may be replaced.
    """

    path: Path = told(..., "File", "The file that shows the channels of the others")
    files: tuple[Path, ...] = Field(min_length=1, title="Files", description="The files whose channels it shows")
    overwrite: bool = told(False, "Replace", "Replace the file if it exists")


@dataclass(frozen=True)
class LinkReport:
    """What a master file shows.

    Attributes
    ----------
    path : Path
    channels : tuple of (str, str)
        Each channel, and the file in which it lies, from the master's folder.
    """

    path: Path
    channels: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        """In words, a line for each channel."""
        return "\n".join([f"makes   {self.path}", *(f"links   channel {name!r} in {file}" for name, file in self.channels)])


@dataclass(frozen=True)
class _Linked:
    """A channel of one of the files, and its setup in both."""

    file: LsfmFile
    name: str
    place: str
    setup: int | None
    own: int | None


def plan_link(request: LinkRequest) -> LinkReport:
    """See what a master would show, and whether it can be made; raises as `link_files`."""
    with ExitStack() as stack:
        return _report(request, _find(request, stack))


def link_files(request: LinkRequest) -> LinkReport:
    """Make a master file, with its XML.

    Raises
    ------
    InputError
        If a file lies elsewhere than in the master's folder, holds channels that are not ours, or two have a channel of one name.
    ExistsError
        If the master is there, and may not be replaced.
    LsfmError
        No file is left or changed.
    """
    with recorded(request.path, "link", request) as record, ExitStack() as stack:
        linked = _find(request, stack)
        with (
            durable.new_file(request.path, request.overwrite) as partial,
            changing(request.path),
            h5py.File(partial, "w", libver=LIBVER) as master,
        ):
            for channel in linked:
                with reading(channel.file.path, f"channel {channel.name!r} cannot be linked"):
                    _link(master, channel)
            master.attrs[_paths.SETUPS_COUNT] = sum(channel.setup is not None for channel in linked)
            master.attrs[_paths.LEGACY_CHANNELS_COUNT] = len(linked)
            _digest.write(master)
        with open_lsfm(request.path) as file:
            record.open(file.path)
            previous = read_xml(file.xml_path) if file.xml_path.exists() else None
            data = file.render_xml(_with_partitions(previous, linked))
            durable.write_file(file.xml_path, data)
            write_settings(file.xml_path, render_settings(data, str(file.xml_path), file.channels))
        return _report(request, linked)


def _report(request: LinkRequest, linked: list[_Linked]) -> LinkReport:
    return LinkReport(request.path, tuple((channel.name, channel.place) for channel in linked))


def _find(request: LinkRequest, stack: ExitStack) -> list[_Linked]:
    """All channels of the files."""
    master = request.path
    if master.suffix.lower() not in (".h5", ".hdf5"):
        raise InputError(f"{master}: is no name of an HDF5 file: it ends in .h5 or .hdf5")
    durable.check_new(master, request.overwrite)
    found: dict[str, _Linked] = {}
    setups = 0
    for path in request.files:
        target = target_path(path)
        if master.exists() and target.exists() and target.samefile(master):
            raise InputError(f"{path}: is the master itself: give it another name")
        if not is_inside(target, master):
            raise InputError(f"{path}: lies outside of the folder of {master}, where links lead nowhere else: move one of them")
        file = stack.enter_context(open_lsfm(path))
        place = Path(os.path.relpath(file.path.resolve(), master.resolve().parent)).as_posix()
        for name, channel in file.channels.items():
            if channel.foreign or _paths.FORMAT_VERSION not in file.h5.get(_paths.channel(name), file.h5).attrs:
                raise InputError(f"{path}: channel {name!r} is not one of ours: write it into a file of its own first")
            if name in found:
                raise InputError(f"{path}: has a channel {name!r}, as {found[name].file.path} has: rename one (rename-channel)")
            setup = None if channel.setup is None else setups
            setups += setup is not None
            found[name] = _Linked(file, name, place, setup, channel.setup)
    if not found:
        raise InputError(f"{master}: the files have no channels")
    return [*found.values()]


def _link(master: h5py.File, channel: _Linked) -> None:
    """All that tells of a channel, and links to its voxels."""
    source = channel.file.h5
    _copy(source, master, _paths.channel(channel.name), channel.place)
    group = master[_paths.channel(channel.name)]
    group.attrs[_paths.SETUP] = -1 if channel.setup is None else channel.setup
    tables = f"{_paths.DIGESTS}/{_paths.CHUNK_TABLES}/{group.attrs.get(_paths.UUID)}"
    if tables in source:
        source.copy(tables, master.require_group(f"{_paths.DIGESTS}/{_paths.CHUNK_TABLES}"))
    if channel.setup is None or channel.own is None:
        return
    source.copy(_paths.setup(channel.own), master, _paths.setup(channel.setup))
    for time, levels in _views(source, channel.own):
        for level in levels:
            there = f"/{_paths.view_level(time, channel.own, level)}/{_paths.CELLS}"
            view = master.require_group(_paths.view_level(time, channel.setup, level))
            view[_paths.CELLS] = h5py.ExternalLink(channel.place, there)


def _copy(source: h5py.File, master: h5py.File, path: str, place: str) -> None:
    """A group with all in it, but voxels, to which it links."""
    group, node = master.require_group(path), source[path]
    for name, value in node.attrs.items():
        group.attrs[name] = value
    for name in node:
        own = f"{path}/{name}"
        if name == _paths.CELLS and _paths.IMAGE in path:
            group[name] = h5py.ExternalLink(place, f"/{own}")
        elif isinstance(node[name], h5py.Group):
            _copy(source, master, own, place)
        else:
            source.copy(own, group)


def _views(h5: h5py.File, setup: int) -> Iterator[tuple[int, list[int]]]:
    for name in h5:
        time = _paths.timepoint_index(name)
        view = None if time is None else h5.get(_paths.view(time, setup))
        if time is not None and view is not None:
            yield time, [int(level) for level in view if level.isdecimal()]


def _with_partitions(previous: bytes | None, linked: list[_Linked]) -> bytes:
    """The XML that is there, or an empty one, with BigDataViewer's list of the files."""
    root = Element("SpimData", version="0.2") if previous is None else defusedxml.ElementTree.fromstring(previous)
    place: Any = root
    for tag in ("SequenceDescription", "ImageLoader"):
        inner = place.find(tag)
        place = SubElement(place, tag) if inner is None else inner
    place.set("format", "bdv.hdf5")
    for partition in place.findall("partition"):
        place.remove(partition)
    if place.find("hdf5") is None:
        SubElement(place, "hdf5", type="relative").text = linked[0].place
    for file in dict.fromkeys(channel.place for channel in linked):
        shown = [channel for channel in linked if channel.place == file and channel.setup is not None]
        times = sorted({time for channel in shown if channel.own is not None for time, _ in _views(channel.file.h5, channel.own)})
        setups, own = [channel.setup for channel in shown], [channel.own for channel in shown]
        if not shown:
            continue
        partition = SubElement(place, "partition")
        SubElement(partition, "path", type="relative").text = file
        SubElement(partition, "timepoints").text = " ".join(map(str, times))
        SubElement(partition, "setups").text = " ".join(map(str, setups))
        if own != setups:
            SubElement(partition, "setupsMapped").text = " ".join(map(str, own))
    return tostring(root)
