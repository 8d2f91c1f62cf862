"""An open file to change: channels are written, replaced, renamed and removed, and what users gave to them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lsfm_core import durable
from lsfm_core.arrays import ChunkCache
from lsfm_core.errors import InputError
from lsfm_core.geometry import Space
from lsfm_core.hdf5_damage import changes_structure
from lsfm_core.provenance import Draft, LogRecord
from lsfm_core.pyramid import Kind, LevelPlan
from lsfm_core.store import _digest, _log, _metadata, _paths
from lsfm_core.store._checks import check_channel_name, check_key, check_new_affine, check_new_channel, check_new_key, is_setup
from lsfm_core.store._writer import ChannelWriter, begin_channel, stored_table
from lsfm_core.store.channel import Channel, Sides, own_space
from lsfm_core.store.file import LsfmFile

__all__ = [
    "LsfmEditor",
]


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
        return self._writer(name, self.h5[_paths.INCOMPLETE])

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
        group = begin_channel(
            self.h5,
            kind=kind,
            dtype=dtype,
            stored=np.dtype(np.int16) if uint16_as_int16 and dtype == np.uint16 else dtype,
            components=components,
            levels=levels,
            space=space,
            compression=compression,
        )
        return self._writer(name, group)

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

    @changes_structure
    def set_proof(self, channel: str, text: str, affine: str | None = None) -> None:
        """Record what tells whether a transform is right: of an affine of a channel, or of a displacement field.

        Raises
        ------
        UnknownChannelError
        """
        self._note("set-proof", transform=channel if affine is None else f"{channel}/{affine}", text=text)
        node = self._group_of(channel) if affine is None else self.h5[_paths.affine(self[channel].name, affine)]
        node.attrs[_paths.PROOF] = text

    @changes_structure
    def rename_space(self, old: str, new: str) -> None:
        """Give a space another name, wherever it is recorded; what lives in it without a record gets one."""
        self._note("rename-space", space=old, new_name=new)
        for channel in list(self.channels.values()):
            if channel.space_name == old and channel.kind in ("image", "components"):
                self._group_of(channel.name).attrs[_paths.SPACE] = new
        self._rename_space(old, new)

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
    def carry_log(self, records: Sequence[LogRecord]) -> None:
        """Take in the records of another file, as they are."""
        _log.add_records(self.h5, records)

    @changes_structure
    def seal(self) -> None:
        """Take down anew what every chunk of ours is known by, whatever was recorded of it; walks all chunk indices."""
        self._note("seal")
        self.h5.pop(_paths.DIGESTS, None)
        for uuid, level, cells in self.own_levels():
            _digest.put_chunk_table(self.h5, uuid, level, stored_table(cells))

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

    def _writer(self, name: str, group: h5py.Group) -> ChannelWriter:
        return ChannelWriter(self.path, group, check=self._raw.check, appear=partial(self._add, name))

    def _note(self, operation: str, **arguments: Any) -> None:
        """Take down what is done, for the log of changes that no request describes."""
        self._draft.changes.append((operation, arguments))


def _record(attributes: h5py.AttributeManager, values: dict[str, str | None]) -> None:
    """Set those that have a value, and leave no other."""
    for key, value in values.items():
        if value is not None:
            attributes[key] = value
        elif key in attributes:
            del attributes[key]
