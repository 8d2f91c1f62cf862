"""Changing a file: channels are written, replaced, renamed and removed, as one transaction."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

import h5py
import numpy as np
import numpy.typing as npt

from lsfm_core import durable
from lsfm_core.errors import (
    BusyError,
    ExistsError,
    FormatError,
    InputError,
    LsfmError,
    MissingError,
    StorageError,
    UnfinishedError,
    check_file,
)
from lsfm_core.geometry import Shape3, Space
from lsfm_core.provenance import Draft, joined, recorded
from lsfm_core.pyramid import Kind, LevelPlan
from lsfm_core.records import FileRecord
from lsfm_core.store import _digest, _metadata, _paths
from lsfm_core.store._broken import changes_structure, changing, reading
from lsfm_core.store._chunks import ChunkCodec, Grid, checksum_of
from lsfm_core.store._log import drop_merged, merge_log
from lsfm_core.store._settings import render_settings, write_settings
from lsfm_core.store._xml import parse_xml
from lsfm_core.store.channel import Channel, Sides, own_space
from lsfm_core.store.file import FORMAT_VERSION, LsfmFile, named_xml, open_lsfm, target_path
from lsfm_core.store.lazy import ChunkCache, LazyLevel

__all__ = [
    "LIBVER",
    "ChannelWriter",
    "LsfmEditor",
    "check_channel_name",
    "edit_lsfm",
    "is_setup",
    "recover_folder",
    "recover_lsfm",
    "write_xml",
]

#: HDF5 1.10.5, which BigDataViewer carries, reads these; superblock 0 also survives a writer that died.
LIBVER = ("earliest", "v110")
_BDV_TYPES = frozenset({"uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"})


class LsfmEditor(LsfmFile):
    """One file, open for changes; get it from `edit_lsfm`."""

    def __init__(self, path: Path, h5: h5py.File, raw: durable.JournaledFile, draft: Draft, xml: Path | None) -> None:
        super().__init__(path, h5, ChunkCache(0), None, xml)
        self.ignore_digests()
        self._raw = raw
        self._draft = draft
        self._replaced: dict[str, Space] = {}
        #: What was done with the leftovers of an interrupted change, in words.
        self.recovered: tuple[str, ...] = ()

    @property
    def note(self) -> bytes | None:
        """What was noted at the checkpoint from which an interrupted change goes on; None if it begins."""
        return self._raw.note

    @changes_structure
    def checkpoint(self, note: bytes) -> None:
        """Make what is written so far a place from which an interrupted change can be resumed.

        Parameters
        ----------
        note : bytes
            Given back as `LsfmEditor.note` to the one who resumes.

        Raises
        ------
        StorageError
        """
        self.h5.flush()
        self._raw.checkpoint(note)

    @changes_structure
    def resume_channel(self, name: str) -> ChannelWriter:
        """The writer of the channel that was being written at the checkpoint."""
        return ChannelWriter(self, name, self.h5[_paths.INCOMPLETE])

    @changes_structure
    def create_channel(
        self,
        name: str,
        *,
        kind: Kind,
        dtype: npt.DTypeLike,
        components: int,
        levels: Sequence[LevelPlan],
        space: Space,
        compression: int,
        replace: bool = False,
        uint16_as_int16: bool = False,
    ) -> ChannelWriter:
        """Start a channel; it is there once its writer's `ChannelWriter.finish` has been called.

        Parameters
        ----------
        name : str
        kind : {"image", "labels", "vectors", "components"}
        dtype : dtype
            Of a voxel, or of a vector's components.
        components : int
            1, 3 for vectors, or as many as there are.
        levels : sequence of LevelPlan
        space : Space
            Of level 0.
        compression : int
            Deflate level; 0 for none.
        replace : bool
            Whether a channel of that name gives way.
        uint16_as_int16 : bool
            Keep uint16 as the same bits in int16 and name no type, for BigDataViewer before 10.4.6.

        Raises
        ------
        ExistsError
            If there is a channel of that name, and it may not be replaced.
        InputError
            If the name cannot be used.
        """
        check_channel_name(name)
        self._note("create-channel", channel=name, kind=kind, replace=replace)
        check_new_channel(self, name, replace)
        dtype = np.dtype(dtype)
        plain = uint16_as_int16 and dtype == np.uint16
        self.h5.pop(_paths.INCOMPLETE, None)
        group = self.h5.create_group(_paths.INCOMPLETE)
        group.attrs.update(
            {
                _paths.FORMAT_VERSION: FORMAT_VERSION,
                _paths.KIND: kind,
                _paths.DATA_TYPE: dtype.name,
                _paths.UNIT: "mm",
                _paths.AXCODES: space.orientation.axcodes,
                _paths.WRITER: f"lsfm-core {metadata.version('napari-lsfm')}",
                _paths.UUID: uuid4().hex,
            }
        )
        image = group.create_group(_paths.IMAGE)
        image.attrs.update(
            {
                _paths.LEGACY_SPACING: np.array([space.level(p.factors, p.shape).voxel_size_mm for p in levels]),
                _paths.LEGACY_ORIGIN: np.zeros((len(levels), 3)),
                _paths.LEGACY_SHAPE: np.array([p.shape for p in levels]),
                _paths.LEGACY_MULTICHANNEL: components > 1,
                _paths.LEGACY_SEGMENTATION: kind == "labels",
            }
        )
        last = (components,) if components > 1 else ()
        for index, plan in enumerate(levels):
            node = image.create_group(str(index))
            node.attrs[_paths.FACTORS] = np.array(plan.factors, dtype=np.float64)
            node.attrs[_paths.WORLD_FROM_VOXEL] = space.level(plan.factors, plan.shape).world_from_voxel
            node.create_dataset(
                _paths.CELLS,
                plan.shape + last,
                np.int16 if plain else dtype,
                chunks=plan.chunks + last,
                shuffle=compression > 0,
                compression=compression or None,
                fletcher32=True,
            )
        return ChannelWriter(self, name, group)

    @changes_structure
    def remove_channel(self, name: str) -> None:
        """Remove a channel; its space in the file is not given back.

        Raises
        ------
        UnknownChannelError
        """
        self._note("remove-channel", channel=name)
        self._remove(self[name])
        # What lies in its space must not seem to lie in that of another image which is given its name later.
        self._rename_space(own_space(name), f"{own_space(name)}, removed")

    def _remove(self, channel: Channel) -> None:
        if channel.setup is not None:
            del self.h5[_paths.setup(channel.setup)]
            for timepoint in [t for t in self.h5 if _paths.timepoint_index(t) is not None]:
                self.h5[timepoint].pop(_paths.setup(channel.setup), None)
            if channel.foreign:
                self._gone.add(channel.setup)
        if channel.partner is not None and channel.partner in self:
            del self.h5[_paths.channel(channel.partner)].attrs[_paths.PARTNER]
        # By this group the file is known as one of ours, even without a channel.
        self.h5.require_group(_paths.LSFM).pop(channel.name, None)
        self._forget()

    @changes_structure
    def rename_channel(self, name: str, new_name: str) -> None:
        """Give a channel another name.

        Raises
        ------
        UnknownChannelError, ExistsError, InputError
        """
        self._note("rename-channel", channel=name, new_name=new_name)
        check_channel_name(new_name)
        channel = self[name]
        check_new_channel(self, new_name)
        if channel.foreign:
            if _paths.channel(name) in self.h5:
                self.h5.move(_paths.channel(name), _paths.channel(new_name))
            group = self.h5.require_group(_paths.channel(new_name))
            group.attrs[_paths.SETUP] = channel.setup
            if channel.setup is not None:
                self._new_names[channel.setup] = new_name
            self._rename_space(own_space(name), own_space(new_name))
            return
        self.h5.move(_paths.channel(name), _paths.channel(new_name))
        if channel.setup is not None:
            del self.h5[_paths.view(channel.timepoints[0], channel.setup)]
            self._link_levels(new_name, channel.timepoints[0], channel.setup, len(channel.levels))
        if channel.partner is not None and channel.partner in self:
            self.h5[_paths.channel(channel.partner)].attrs[_paths.PARTNER] = new_name
        self._rename_space(own_space(name), own_space(new_name))

    @changes_structure
    def set_partners(self, first: str, second: str) -> None:
        """Record that two displacement fields are each other's inverse.

        Raises
        ------
        UnknownChannelError
        InputError
            If one is no displacement field.
        """
        self._note("set-partners", first=first, second=second)
        for name, other in ((first, second), (second, first)):
            if self[name].kind != "vectors":
                raise InputError(f"{self.path}: channel {name!r} holds {self[name].kind}: only displacement fields have an inverse")
            self.h5[_paths.channel(name)].attrs[_paths.PARTNER] = other
        self._forget()

    @changes_structure
    def set_label_table(self, name: str, text: str) -> None:
        """Keep a label table, as JSON text, with a labels channel.

        Raises
        ------
        UnknownChannelError
        InputError
            If the channel holds no labels.
        """
        self._note("set-label-table", channel=name)
        if self[name].kind != "labels":
            raise InputError(f"{self.path}: channel {name!r} holds {self[name].kind}: only labels have a label table")
        self.h5.pop(_paths.labels(name), None)
        self.h5[_paths.labels(name)] = text

    @changes_structure
    def set_acquisition(self, name: str, text: str) -> None:
        """Keep what is known of a channel's acquisition, as the text of a JSON object.

        Raises
        ------
        UnknownChannelError
        """
        self._note("set-acquisition", channel=name, acquisition=text)
        group = self._group_of(name)
        group.pop(_paths.ACQUISITION, None)
        group[_paths.ACQUISITION] = text

    @changes_structure
    def set_look(self, name: str, *, display_range: tuple[float, float] | None = None, colormap: str | None = None) -> None:
        """Keep how a viewer should show a channel at first.

        Parameters
        ----------
        name : str
        display_range : tuple of 2 float, optional
            Instead of the one that was measured.
        colormap : str, optional
            A name that viewers know, or ``#rrggbb``.

        Raises
        ------
        UnknownChannelError
        """
        attributes = self._group_of(name).attrs
        if display_range is not None:
            attributes[_paths.DISPLAY_RANGE] = np.asarray(display_range, dtype=np.float64)
        if colormap is not None:
            attributes[_paths.COLORMAP] = colormap
        self._forget()

    @changes_structure
    def set_metadata(self, key: str, value: Any, *, channel: str | None = None, overwrite: bool = False) -> None:
        """Note something of a channel, or of the whole file; it stays when the channel is renamed or replaced.

        Parameters
        ----------
        key : str
            Printable.
        value : JSON value
            Text, number, boolean, None, list, or object with texts for keys; numbers must be finite.
        channel : str, optional
            None for the whole file.
        overwrite : bool
            Whether the value that the key has gives way.

        Raises
        ------
        UnknownChannelError, ExistsError, InputError
        """
        plain = check_new_key(self, key, value, channel, overwrite)
        self._note("add-metadata", channel=channel, values={key: plain}, overwrite=overwrite)
        if channel is not None:
            self._group_of(channel)
        _metadata.put(self.h5.require_group(_paths.metadata(channel)), key, plain)

    @changes_structure
    def remove_metadata(self, key: str, *, channel: str | None = None) -> None:
        """Remove what was noted under a key.

        Raises
        ------
        UnknownChannelError
        InputError
            If there is no such key.
        """
        check_key(self, key, channel)
        self._note("remove-metadata", channel=channel, key=key)
        _metadata.remove(self.h5[_paths.metadata(channel)], key)

    @changes_structure
    def write_affine(
        self,
        channel: str,
        name: str,
        ras_matrix: npt.NDArray[np.float64],
        itk: tuple[npt.ArrayLike, npt.ArrayLike],
        replace: bool,
    ) -> None:
        """Store an affine transform with a channel.

        Parameters
        ----------
        channel, name : str
        ras_matrix : array (4, 4)
            Maps a point of the output space to the input space, RAS mm.
        itk : (array (12,), array (3,))
            The same as ITK's parameters (matrix row by row, translation) and fixed parameters (centre), LPS mm.
        replace : bool
            Whether an affine of that name gives way.

        Raises
        ------
        UnknownChannelError, ExistsError, InputError
        """
        matrix = np.asarray(ras_matrix).tolist()
        self._note("write-affine", channel=channel, name=name, affine=matrix, replace=replace)
        check_new_affine(self, channel, name, replace)
        group = self._group_of(channel).require_group(_paths.AFFINES)
        parts = {name: ras_matrix, f"{_paths.ITK_PARAMS}/{name}": itk[0], f"{_paths.FIXED_ITK_PARAMS}/{name}": itk[1]}
        for path, values in parts.items():
            group.pop(path, None)
            group[path] = np.asarray(values, dtype=np.float64)
        self._forget()

    @changes_structure
    def set_space(self, channel: str, space: str | None, inner: str | None = None) -> None:
        """Record the space that a channel lives in.

        Parameters
        ----------
        channel : str
        space : str or None
            Its name, of a displacement field that of its outer side; None: not known, or, of an image, its own.
        inner : str, optional
            Of a displacement field: its inner side; None: not known.

        Raises
        ------
        UnknownChannelError
        """
        self._note("set-space", channel=channel, space=space, from_space=inner)
        _record(self._group_of(channel).attrs, {_paths.SPACE: space, _paths.INNER: inner})
        self._forget()

    @changes_structure
    def set_sides(self, channel: str, affine: str, sides: Sides) -> None:
        """Record the spaces that an affine of a channel joins; None for its inner one: the channel's.

        Raises
        ------
        UnknownChannelError
        """
        self._note("set-space", transform=f"{channel}/{affine}", from_space=sides.inner, to_space=sides.outer)
        attributes = self.h5[_paths.affine(self[channel].name, affine)].attrs
        _record(attributes, {_paths.INNER: sides.inner, _paths.OUTER: sides.outer})

    def _rename_space(self, old: str, new: str) -> None:
        """Let every record of a space have its new name."""
        for group in self.h5.get(_paths.LSFM, {}).values():
            affines = [node for node in group.get(_paths.AFFINES, {}).values() if isinstance(node, h5py.Dataset)]
            for node in (group, *affines):
                for key in (_paths.SPACE, _paths.INNER, _paths.OUTER):
                    if node.attrs.get(key) == old:
                        node.attrs[key] = new
        self._forget()

    @changes_structure
    def seal(self) -> None:
        """Take down anew what every chunk of ours is known by, whatever was recorded of it; walks all chunk indices."""
        self._note("seal")
        self.h5.pop(_paths.DIGESTS, None)
        for uuid, level, cells in self.own_levels():
            _digest.put_chunk_table(self.h5, uuid, level, _stored_table(cells))

    def _add(self, name: str) -> None:
        """Let the finished channel take its place, and its name."""
        group = self.h5[_paths.INCOMPLETE]
        setup, timepoint = None, self.first_timepoint
        if name in self:
            setup, timepoint = self[name].setup, self[name].timepoints[0]
            self._replaced[name] = self[name].space
            # What users gave to the channel stays with its name; what is known of the old image goes with it.
            for part in (_paths.AFFINES, _paths.METADATA):
                if f"{_paths.channel(name)}/{part}" in self.h5:
                    self.h5.move(f"{_paths.channel(name)}/{part}", f"{group.name}/{part}")
            self._remove(self[name])
        levels = group[_paths.IMAGE]
        dtype = group.attrs[_paths.DATA_TYPE]
        shown = is_setup(group.attrs[_paths.KIND], np.dtype(dtype))
        if shown and setup is None:
            setup = 1 + max(self.setups, default=-1)
        group.attrs[_paths.SETUP] = setup if shown and setup is not None else -1
        self.h5.move(_paths.INCOMPLETE, _paths.channel(name))
        if shown and setup is not None:
            root = self.h5.create_group(_paths.setup(setup))
            if levels["0"][_paths.CELLS].dtype.name == dtype:
                root.attrs[_paths.DATA_TYPE] = dtype
            count = len(levels)
            nodes = [levels[str(index)] for index in range(count)]
            root[_paths.RESOLUTIONS] = np.array([node.attrs[_paths.FACTORS][::-1] for node in nodes], dtype=np.float64)
            root[_paths.SUBDIVISIONS] = np.array([node[_paths.CELLS].chunks[::-1] for node in nodes], dtype=np.int32)
            self._link_levels(name, timepoint, setup, count)
            self.h5.attrs[_paths.SETUPS_COUNT] = 1 + max(self.setups)
        self._forget()
        old = self._replaced.pop(name, None)
        if old is not None and setup is not None and not old.same_grid(self[name].space):
            # The XML's registration was that of the old image.
            self._gone.add(setup)

    def _group_of(self, name: str) -> h5py.Group:
        """The group of a channel, made where it is another program's setup to which nobody has given anything yet."""
        channel = self[name]
        if channel.foreign:
            try:
                check_channel_name(name)
            except InputError as error:
                raise InputError(f"{self.path}: {error}: rename the channel first") from error
            self.h5.require_group(_paths.channel(name)).attrs[_paths.SETUP] = channel.setup
        return self.h5[_paths.channel(name)]

    def _link_levels(self, name: str, timepoint: int, setup: int, count: int) -> None:
        for index in range(count):
            view = self.h5.create_group(_paths.view_level(timepoint, setup, index))
            view[_paths.CELLS] = h5py.SoftLink(f"/{_paths.level(name, index)}/{_paths.CELLS}")

    def _note(self, operation: str, **arguments: Any) -> None:
        """Take down what is done, for the log of changes that no request describes."""
        self._draft.changes.append((operation, arguments))


class ChannelWriter:
    """Takes the chunks of a channel that is being made."""

    def __init__(self, editor: LsfmEditor, name: str, group: h5py.Group) -> None:
        self._editor = editor
        self._name = name
        self._group = group
        image = group[_paths.IMAGE]
        self._cells = [image[str(index)][_paths.CELLS] for index in range(len(image))]
        self._codecs = [codec for codec in map(ChunkCodec.of, self._cells) if codec is not None]
        # What each chunk is known by; 0 for those that were written before an interrupt, and for which the file is asked.
        self._tables = [np.zeros(Grid(cells.shape, cells.chunks).counts, np.uint32) for cells in self._cells]

    @property
    def path(self) -> Path:
        """The file that gets the channel."""
        return self._editor.path

    def codec(self, level: int) -> ChunkCodec:
        """Codec of a level; encoding is safe in any thread."""
        return self._codecs[level]

    @changes_structure
    def write_chunk(self, level: int, start: Shape3, data: bytes) -> None:
        """Store an encoded chunk whose first voxel is `start`; only from the thread that opened the file."""
        dataset = self._cells[level]
        place = start + (0,) * (dataset.ndim - 3)
        dataset.id.write_direct_chunk(place, data)
        self._editor._raw.check()
        self._tables[level][tuple(a // c for a, c in zip(place, dataset.chunks, strict=True))] = checksum_of(data)

    @changes_structure
    def level(self, index: int) -> LazyLevel:
        """What is written of a level."""
        dtype = self._group.attrs[_paths.DATA_TYPE]
        return LazyLevel.of(self._cells[index], cache=ChunkCache(0), dtype=dtype)

    @changes_structure
    def finish(self, *, percentiles: Sequence[float], non_finite: int, sources: Sequence[FileRecord]) -> None:
        """Record what is known only at the end, and let the channel appear.

        Parameters
        ----------
        percentiles : sequence of float
            Low to high percentiles of the voxel values, for first contrast limits; empty where there are none.
        non_finite : int
            Level-0 voxels that are NaN or infinite.
        sources : sequence of FileRecord
            The files that the channel was made from.
        """
        if percentiles:
            self._group.attrs[_paths.PERCENTILES] = np.asarray(percentiles, dtype=np.float64)
        self._group.attrs[_paths.NON_FINITE] = non_finite
        if sources:
            names = [source.name.encode() for source in sources]
            row = np.dtype([("name", f"S{max(map(len, names))}"), ("size", "<u8"), ("crc32", "<u4")])
            records = np.array([(name, s.size, s.crc32) for name, s in zip(names, sources, strict=True)], row)
            self._group.create_dataset(_paths.SOURCES, data=records)
        for level, (cells, table) in enumerate(zip(self._cells, self._tables, strict=True)):
            _digest.put_chunk_table(self._editor.h5, self._group.attrs[_paths.UUID], level, _stored_table(cells, table))
        self._editor._add(self._name)


def _stored_table(cells: h5py.Dataset, known: npt.NDArray[np.uint32] | None = None) -> npt.NDArray[np.uint32]:
    """What the chunks of a level are known by; those that are not `known`, as they stand in the file."""
    grid = Grid(cells.shape, cells.chunks)
    table = np.zeros(grid.counts, np.uint32) if known is None else known
    flat = table.reshape(-1)
    for number in grid.written(cells):
        if not flat[number]:
            flat[number] = checksum_of(cells.id.read_direct_chunk(grid.box(int(number))[0])[1])
    return table


@contextmanager
def edit_lsfm(path: str | os.PathLike[str], *, resume: bool = False, accept: bool = False) -> Iterator[LsfmEditor]:
    """Change a file, or make one: all changes happen when the block ends well, none if it raises or the process dies.

    The BigDataViewer XML beside the file is made anew; or the XML by which the file was named.

    Parameters
    ----------
    path : path
        ``.h5``, or an ``.xml`` that is there.
    resume : bool
        Keep the way to the latest checkpoint if the block is left early, and go on from one that was left; else whatever an
        interrupted change has left is rolled back.
    accept : bool
        Change the file even if it is not what was recorded of it, and record what it is.

    Raises
    ------
    InputError
        If no file of ours can have that name.
    BusyError
        If another program has the file open.
    ChecksumError
        If the file is damaged, or another program has changed our part of it.
    StorageError
        If writing fails, for example on a full disk; the file is as it was before.
    """
    target = target_path(path)
    with joined(target) as draft, _transaction(target, resume, accept, draft, named_xml(path)) as editor:
        yield editor


@contextmanager
def _transaction(target: Path, resume: bool, accept: bool, draft: Draft, xml: Path | None) -> Iterator[LsfmEditor]:
    check_folder(target)
    found: tuple[str, ...] = ()
    if not (resume and durable.waits(target)):
        found = durable.give_up(target)
        if target.exists():
            with open_lsfm(target) as file:
                if not accept:
                    file.check_digests()
    raw = durable.JournaledFile(target, resume=resume)
    xml_partial = durable.xml_partial_path(target)
    try:
        with changing(target):
            h5 = h5py.File(raw, "w" if raw.is_new else "r+", libver=LIBVER)
        try:
            editor = LsfmEditor(target, h5, raw, draft, xml)
            editor.recovered = found
            draft.open(target, xml)
            yield editor
            with changing(target):
                h5.flush()
                raw.check()
                merged: list[Path] | None = [] if not raw.touched else None
                # What goes wrong here is no reason to fail; that the disk is full, `raw.check` tells.
                with suppress(Exception):
                    if raw.touched:
                        merged = merge_log(h5, target, draft.record())
                if raw.touched:
                    _digest.write(h5)
                h5.flush()
                raw.check()
                previous = editor.xml_path.read_bytes() if editor.xml_path.exists() else None
                xml_data = editor.render_xml(previous)
                settings = render_settings(xml_data, str(editor.xml_path), editor.channels)
                durable.write_file(xml_partial, durable.waiting_xml(xml_data, target, editor.xml_path))
        except BaseException:
            raw.detach()
            raise
        finally:
            h5.close()
        raw.check()
        raw.commit()
    except BaseException as error:
        if raw.is_committed:
            draft.settled = True
            raise
        raw.rollback(to_checkpoint=resume)
        if not resume:
            xml_partial.unlink(missing_ok=True)
        if isinstance(error, Exception):
            raw.check()  # wins over what HDF5 makes of it
        if isinstance(error, OSError) and not isinstance(error, LsfmError):
            raise StorageError(f"{target}: writing failed: {error}; the file is left as it was") from error
        raise
    if merged is not None:
        draft.settled = True
        drop_merged(target, merged)
    write_settings(editor.xml_path, settings)


def recover_lsfm(path: str | os.PathLike[str], *, force: bool = False, discard_journal: bool = False) -> tuple[str, ...]:
    """Roll back what an interrupted change has left, even if it could be resumed.

    Parameters
    ----------
    path : path
    force : bool
        Apply a journal that is damaged, or does not belong to the file, as far as it goes; and take the lock from a writer of whom
        cannot be known whether it is alive.
    discard_journal : bool
        Where the file's journal is missing, damaged or another file's, take the file as it is.

    Returns
    -------
    tuple of str
        What was done, in words; empty if there was nothing to do.

    Raises
    ------
    BusyError
        If the change is still going on.
    UnfinishedError
        If what was left does not belong together, or is damaged, and nothing was said of that.
    MissingError
        If there is no such file, nor anything that an interrupted change has left.
    StorageError
    """
    target = target_path(path)
    found = durable.give_up(target, force=force, discard=discard_journal)
    if not found:
        check_file(target)
    return found


def recover_folder(path: str | os.PathLike[str], *, force: bool = False, dry_run: bool = False) -> tuple[str, ...]:
    """Complete or clear away what processes that are dead have left in a folder: of outputs, and of HDF5 files.

    What an interrupted write could be resumed from stays, and what belongs to a process that lives.

    Parameters
    ----------
    path : path
    force : bool
        Take processes for dead of whom that cannot be known.
    dry_run : bool
        Only tell.

    Returns
    -------
    tuple of str
        What was done, or would be, in words; empty if there was nothing to do.

    Raises
    ------
    MissingError
        If there is no such folder.
    StorageError
    """
    folder = Path(path)
    if not folder.is_dir():
        raise MissingError(f"{folder}: no such folder")
    done = [*durable.clear_folder(folder, dry_run=dry_run, force=force)]
    for file in durable.unsettled(folder):
        if durable.waits(file):
            done.append(f"{file}: left alone: a write of it can be resumed (--resume; 'lsfm-core recover {file}' undoes it)")
        elif dry_run:
            done.append(f"{file}: a write of it was interrupted, or is going on")
        else:
            try:
                done += [f"{file}: {line}" for line in durable.give_up(file, force=force)]
            except (BusyError, UnfinishedError) as error:
                done.append(f"left alone: {error}")
    return tuple(done)


def check_channel_name(name: str, what: str = "channel") -> None:
    """Refuse names that cannot be a group in HDF5 or would hide among its parts.

    Raises
    ------
    InputError
    """
    if not name or name != name.strip() or "/" in name or name in {".", ".."} or not name.isprintable():
        raise InputError(f"{what} name {name!r}: use one or more printable characters, no '/', no blanks at the ends")


def check_stem(path: Path) -> None:
    """Refuse a file whose XML would have to be that of another one, which differs by its suffix only.

    Raises
    ------
    ExistsError
    """
    xml = path.with_suffix(".xml")
    if path.exists() and not xml.exists():
        return
    for suffix in {".h5", ".hdf5"} - {path.suffix.lower()}:
        other = path.with_suffix(suffix)
        if other.exists() and not (path.exists() and path.samefile(other)):
            with suppress(FormatError):
                if xml.exists() and parse_xml(xml.read_bytes(), str(xml)).hdf5 == path.name:
                    continue
            raise ExistsError(f"{path}: {xml.name} beside it is that of {other.name}, and cannot be both's: take another name")


def check_folder(path: Path) -> None:
    """Refuse a file that could not be made.

    Raises
    ------
    MissingError
        If there is no folder to hold it.
    """
    if not path.parent.is_dir():
        raise MissingError(f"{path}: there is no folder {path.parent}")
    check_stem(path)


def is_setup(kind: Kind, dtype: np.dtype[Any]) -> bool:
    """Whether BigDataViewer can show a channel: it has no type for float16, and knows nothing of several values per voxel."""
    return kind not in ("vectors", "components") and dtype.name in _BDV_TYPES


def check_new_channel(file: LsfmFile, name: str, replace: bool | None = None) -> None:
    """Refuse the name of a channel that is there, unless it may be replaced; None where that cannot be asked for.

    Raises
    ------
    ExistsError
    """
    if name in file and not replace:
        more = "" if replace is None else ", or replace it"
        raise ExistsError(f"{file.path}: channel {name!r} exists already: choose another name{more}")
    with reading(file.path):
        is_taken = name not in file and _paths.channel(name) in file.h5
    if is_taken:
        raise ExistsError(
            f"{file.path}: {_paths.channel(name)} holds what was given to a channel that has no voxels any more: take another name"
        )


def check_new_affine(file: LsfmFile, channel: str, name: str, replace: bool) -> None:
    """Refuse a name that cannot be an affine's, or is one's that may not be replaced.

    Raises
    ------
    UnknownChannelError, ExistsError, InputError
    """
    check_channel_name(name, "affine")
    if name in file[channel].affines and not replace:
        raise ExistsError(f"{file.path}: channel {channel!r} has an affine {name!r} already: choose another name, or replace it")
    if name in (_paths.ITK_PARAMS, _paths.FIXED_ITK_PARAMS):
        raise InputError(f"affine name {name!r} is taken by the file format: choose another")


def check_new_key(file: LsfmFile, key: str, value: Any, channel: str | None, overwrite: bool) -> Any:
    """Refuse what cannot be noted, and a key under which something is, unless that may be replaced; the value as JSON has it.

    Raises
    ------
    UnknownChannelError, ExistsError, InputError
    """
    plain = json.loads(_metadata.check(key, value))
    if key in file.metadata(channel) and not overwrite:
        raise ExistsError(f"{file.path}: metadata {key!r} {_owner(channel)} exist already: overwrite them, or choose another key")
    return plain


def check_key(file: LsfmFile, key: str, channel: str | None) -> None:
    """Refuse a key under which nothing is noted.

    Raises
    ------
    UnknownChannelError, InputError
    """
    known = file.metadata(channel)
    if key not in known:
        raise InputError(f"{file.path}: no metadata {key!r} {_owner(channel)}; there are: {', '.join(known) or 'none'}")


def previous_xml(file: LsfmFile, overwrite: bool) -> bytes | None:
    """The XML beside a file, which a new one builds on; None where there is none, or it cannot be read and may give way.

    Raises
    ------
    FormatError
        If it cannot be read, and may not be replaced.
    """
    xml = file.xml_path
    previous = xml.read_bytes() if xml.exists() else None
    if previous is not None:
        try:
            parse_xml(previous, str(xml))
        except FormatError as error:
            if not overwrite:
                raise FormatError(f"{error}; --overwrite replaces it by a new one") from error
            file.ignore_xml()
            return None
    return previous


def write_xml(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Make BigDataViewer's XML beside a file anew; what somebody else has put into the one that is there is kept.

    Parameters
    ----------
    path : path
        The HDF5 file.
    overwrite : bool
        Whether an XML that cannot be read gives way; nothing of it is kept.

    Returns
    -------
    Path
        The XML.

    Raises
    ------
    FormatError
        If the XML that is there cannot be read, and may not be replaced; or the HDF5 file is no file of ours or BigDataViewer's.
    BusyError
        If a writer is at work.
    StorageError
    """
    with recorded(Path(path), "xml", {"path": str(path), "overwrite": overwrite}), open_lsfm(path) as file:
        xml, previous = file.xml_path, previous_xml(file, overwrite)
        try:
            data = file.render_xml(previous)
            durable.write_file(xml, data)
        except OSError as error:
            raise StorageError(f"{xml}: cannot be written: {error.strerror}") from error
        write_settings(xml, render_settings(data, str(xml), file.channels))
    return xml


def _record(attributes: h5py.AttributeManager, values: dict[str, str | None]) -> None:
    """Set those that have a value, and leave no other."""
    for key, value in values.items():
        if value is not None:
            attributes[key] = value
        elif key in attributes:
            del attributes[key]


def _owner(channel: str | None) -> str:
    return "of the file" if channel is None else f"of channel {channel!r}"
