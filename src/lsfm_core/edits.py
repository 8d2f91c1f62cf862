"""Changes of a file that write no voxels: affines, names of channels, metadata, and BigDataViewer's XML beside it.

An edit is a request as any other: it can be shown before it is made, it stands in recipes, and the log has all of it.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field, JsonValue, model_validator

from lsfm_core._request import Request
from lsfm_core.errors import InputError
from lsfm_core.provenance import logged_files, recorded
from lsfm_core.spaces import (
    UNKNOWN,
    StoredTransform,
    check_one_space,
    known_spaces,
    resolve_space,
    stored_transform,
    stored_transforms,
)
from lsfm_core.store import (
    LsfmEditor,
    LsfmFile,
    Sides,
    check_channel_name,
    check_key,
    check_new_affine,
    check_new_channel,
    check_new_key,
    edit_lsfm,
    open_lsfm,
    parse_xml,
    previous_xml,
)
from lsfm_core.transforms import Affine

__all__ = [
    "AddMetadataRequest",
    "AffineRequest",
    "Edit",
    "EditReport",
    "LinkSpacesRequest",
    "RemoveChannelRequest",
    "RemoveMetadataRequest",
    "RenameChannelRequest",
    "RenameSpaceRequest",
    "SealRequest",
    "SetSpaceRequest",
    "XmlRequest",
    "apply_edit",
    "describe_edit",
    "describe_xml",
]

_Row = tuple[float, float, float, float]
#: A value that is shown in full.
_LONGEST_VALUE = 60


class Edit(Request):
    """A change of a file.

    Attributes
    ----------
    path : Path
        The HDF5 file, or its BigDataViewer XML.
    """

    #: The name that it has on the command line, in recipes and in the log.
    operation: ClassVar[str]
    #: Whether a file is changed that is not what was recorded of it.
    accepts_damage: ClassVar[bool] = False

    path: Path

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that it reads besides."""
        return ()

    @abstractmethod
    def describe(self, file: LsfmFile) -> str:
        """What would change, in words.

        Raises
        ------
        LsfmError
            If it cannot be changed so.
        """

    @abstractmethod
    def make(self, editor: LsfmEditor) -> None:
        """Change it."""


class AffineRequest(Edit):
    """An affine transform to keep with a channel.

    Attributes
    ----------
    channel : str
    name : str
        Unique in its channel.
    affine : Path, or 4 tuples of 4 float
        A file of ITK's or ANTs', or a text file with a 4 x 4 matrix, RAS mm; or the matrix itself. It maps a point of the output
        space to the image.
    replace : bool
        Whether an affine of that name gives way.
    from_space : str, optional
        The space toward the image, on its inner side: a name, or a channel that lives there. Default: that of the channel.
    to_space : str, optional
        The space toward the output, on its outer side. Default: not known.
    """

    operation = "write-affine"

    channel: str
    name: str
    affine: Path | tuple[_Row, _Row, _Row, _Row]
    replace: bool = False
    from_space: str | None = None
    to_space: str | None = None

    @property
    def inputs(self) -> tuple[Path, ...]:
        return (self.affine,) if isinstance(self.affine, Path) else ()

    def describe(self, file: LsfmFile) -> str:
        check_new_affine(file, self.channel, self.name, self.replace)
        old = " in place of the one that it has" if self.name in file[self.channel].affines else ""
        return (
            f"channel {self.channel!r} gets affine {self.name!r}{old}\n"
            f"  {self._read().describe()}\n"
            "  it maps a point of the output space to the image, as ITK and ANTs write it\n"
            f"  it leads {_way(file, self._sides(file), file[self.channel].space_name)}"
        )

    def make(self, editor: LsfmEditor) -> None:
        affine = self._read()
        sides = self._sides(editor)
        editor.write_affine(self.channel, self.name, affine.matrix, affine.to_itk(), self.replace)
        editor.set_sides(self.channel, self.name, sides)

    def _sides(self, file: LsfmFile) -> Sides:
        return Sides(*(None if text is None else resolve_space(file, text) for text in (self.from_space, self.to_space)))

    def _read(self) -> Affine:
        return Affine.read(self.affine) if isinstance(self.affine, Path) else Affine(np.array(self.affine))


class RemoveChannelRequest(Edit):
    """A channel to remove; what the file keeps of its space, a repack gives back.

    Attributes
    ----------
    channel : str
    """

    operation = "remove-channel"

    channel: str

    def describe(self, file: LsfmFile) -> str:
        times = file[self.channel].timepoints
        several = f", at all {len(times)} timepoints" if len(times) > 1 else ""
        return f"channel {self.channel!r} goes{several}; a repack gives back what the file keeps of its space"

    def make(self, editor: LsfmEditor) -> None:
        editor.remove_channel(self.channel)


class RenameChannelRequest(Edit):
    """A channel to give another name.

    Attributes
    ----------
    channel, new_name : str
    """

    operation = "rename-channel"

    channel: str
    new_name: str

    def describe(self, file: LsfmFile) -> str:
        check_channel_name(self.new_name)
        name = file[self.channel].name
        check_new_channel(file, self.new_name)
        return f"channel {name!r} becomes {self.new_name!r}"

    def make(self, editor: LsfmEditor) -> None:
        editor.rename_channel(self.channel, self.new_name)


class SetSpaceRequest(Edit):
    """The space in which a channel lives, or those that a transform joins.

    A space is told by its name, or by that of a channel which lives in it; ``"?"`` takes back what is recorded.

    Attributes
    ----------
    channel : str, optional
    space : str, optional
        In which the channel lives; of a displacement field that of its outer side, where its grid lies.
    transform : str, optional
        An affine (``channel/name`` where several channels have one of that name), or a displacement field; instead of a channel.
    from_space : str, optional
        The space toward the image, on the transform's inner side. Default: as it is.
    to_space : str, optional
        The space toward the output, on its outer side. Default: as it is.
    """

    operation = "set-space"

    channel: str | None = None
    space: str | None = None
    transform: str | None = None
    from_space: str | None = None
    to_space: str | None = None

    @model_validator(mode="after")
    def _check_what(self) -> SetSpaceRequest:
        sides = (self.from_space, self.to_space)
        if (self.channel is None) == (self.transform is None):
            raise InputError("set-space: name either a channel, with its space, or a transform, with the spaces that it joins")
        if self.channel is not None and (self.space is None or sides != (None, None)):
            raise InputError("set-space: a channel has one space (--space); a transform (--transform) has those that it joins")
        if self.transform is not None and (self.space is not None or sides == (None, None)):
            raise InputError("set-space: a transform joins two spaces: name one of them, or both (--from, --to)")
        return self

    def describe(self, file: LsfmFile) -> str:
        if self.channel is not None:
            name = file[self.channel].name
            space = None if self.space is None else resolve_space(file, self.space, new_channel=name)
            own = (
                " (an image without a record lives in its own)"
                if space is None and file[name].kind in ("image", "components")
                else ""
            )
            return f"channel {name!r} lives in {_known(file, space)}{own}"
        found, sides = self._transform(file)
        return f"transform {self.transform!r} leads {_way(file, sides, file[found.channel].space_name if found.affine else None)}"

    def make(self, editor: LsfmEditor) -> None:
        if self.channel is not None and self.space is not None:
            channel = editor[self.channel]
            space = resolve_space(editor, self.space, new_channel=channel.name)
            editor.set_space(channel.name, space, channel.inner_space)
            return
        found, sides = self._transform(editor)
        if found.affine is None:
            editor.set_space(found.channel, sides.outer, sides.inner)
        else:
            editor.set_sides(found.channel, found.affine, sides)

    def _transform(self, file: LsfmFile) -> tuple[StoredTransform, Sides]:
        """What is meant, and the sides that it gets."""
        name = self.transform or ""
        found = stored_transform(file, name)
        if found is None:
            raise InputError(f"{file.path}: transform {name!r}: no affine or displacement field of that name is stored")
        given = zip((self.from_space, self.to_space), found.sides, strict=True)
        return found, Sides(*(old if text is None else resolve_space(file, text) for text, old in given))


class RenameSpaceRequest(Edit):
    """A space to give another name, for all that lies in it and for all transforms that lead there.

    Attributes
    ----------
    space : str
        Its present name, or a channel that lives there.
    new_name : str
        One that no space and no channel of the file has.
    """

    operation = "rename-space"

    space: str
    new_name: str

    def describe(self, file: LsfmFile) -> str:
        old, new = self._names(file)
        return f"space {old!r} becomes {new!r}"

    def make(self, editor: LsfmEditor) -> None:
        editor.rename_space(*self._names(editor))

    def _names(self, file: LsfmFile) -> tuple[str, str]:
        known = known_spaces(file)
        old = resolve_space(file, self.space)
        if old not in known:
            raise InputError(f"{file.path}: no space {self.space!r}; there are: {', '.join(sorted(known)) or 'none'}")
        if self.new_name in file:
            raise InputError(
                f"{file.path}: {self.new_name!r} is a channel, which stands for the space that it lives in: take another name"
            )
        new = resolve_space(file, self.new_name)
        if new is None or new in known:
            raise InputError(
                f"{file.path}: {self.new_name!r} is another space already: take another name; if the two are one, "
                "link-spaces says so"
            )
        return old, new


class LinkSpacesRequest(Edit):
    """Two spaces that are one: the same position is the same point of the specimen in both.

    Attributes
    ----------
    space : str
        The one whose name goes, or a channel that lives there.
    to_space : str
        The one whose name stays, for all that lies in either and for all transforms that lead there.
    """

    operation = "link-spaces"

    space: str
    to_space: str

    def describe(self, file: LsfmFile) -> str:
        old, new = self._names(file)
        channels = [channel.name for channel in file.channels.values() if channel.kind != "vectors" and channel.space_name == old]
        transforms = [found.affine or found.channel for found in stored_transforms(file) if old in found.sides]
        parts = [f"{what} {', '.join(names)}" for what, names in (("channels", channels), ("transforms", transforms)) if names]
        return f"space {old!r} and space {new!r} are one, {new!r}\n  of the former: {'; '.join(parts)}"

    def make(self, editor: LsfmEditor) -> None:
        editor.rename_space(*self._names(editor))

    def _names(self, file: LsfmFile) -> tuple[str, str]:
        known = known_spaces(file)
        old, new = (resolve_space(file, text) for text in (self.space, self.to_space))
        for name, text in ((old, self.space), (new, self.to_space)):
            if name is None or name not in known:
                raise InputError(
                    f"{file.path}: no space {text!r}; there are: {', '.join(sorted(known)) or 'none'}; what is not known of a "
                    "channel or a transform, set-space records"
                )
        assert old is not None and new is not None
        if old == new:
            raise InputError(f"{file.path}: {self.space!r} and {self.to_space!r} are one space already, {new!r}")
        check_one_space(file, old, new)
        return old, new


class AddMetadataRequest(Edit):
    """What to note of a file or a channel: all of it, or nothing.

    Attributes
    ----------
    channel : str, optional
        None for the whole file.
    values : dict
        By their keys: texts, numbers, booleans, None, lists, or objects of these.
    overwrite : bool
        Whether values that are there give way.
    """

    operation = "add-metadata"

    channel: str | None = None
    values: dict[str, JsonValue] = Field(min_length=1)
    overwrite: bool = False

    def describe(self, file: LsfmFile) -> str:
        for key, value in self.values.items():
            check_new_key(file, key, value, self.channel, self.overwrite)
        return f"metadata {_owner(self.channel)}: " + ", ".join(f"{key} = {_short(value)}" for key, value in self.values.items())

    def make(self, editor: LsfmEditor) -> None:
        for key, value in self.values.items():
            editor.set_metadata(key, value, channel=self.channel, overwrite=self.overwrite)


class RemoveMetadataRequest(Edit):
    """Something noted of a file or a channel that is to be removed.

    Attributes
    ----------
    channel : str, optional
        None for the whole file.
    key : str
    """

    operation = "remove-metadata"

    channel: str | None = None
    key: str

    def describe(self, file: LsfmFile) -> str:
        check_key(file, self.key, self.channel)
        return f"metadata {_owner(self.channel)}: {self.key} goes"

    def make(self, editor: LsfmEditor) -> None:
        editor.remove_metadata(self.key, channel=self.channel)


@dataclass(frozen=True)
class EditReport:
    """What an edit did.

    Attributes
    ----------
    path : Path
        The HDF5 file.
    text : str
        What has changed, in words.
    """

    path: Path
    text: str


def describe_edit(edit: Edit) -> str:
    """What an edit would change, in words; the file is only read.

    Raises
    ------
    LsfmError
        As `apply_edit`.
    """
    with open_lsfm(edit.path) as file:
        return edit.describe(file)


class SealRequest(Edit):
    """A file to be taken as it is: digests of all its objects and tables of all its chunks are made anew."""

    operation = "seal"
    accepts_damage = True

    def describe(self, file: LsfmFile) -> str:
        differences = file.differences()
        if file.digests is None and not differences:
            return "digests of all objects and chunks are made: it has none"
        listing = "".join(f"\n  {place} {what}" for place, what in differences)
        return f"digests of all objects and chunks are made anew{', which takes as right:' + listing if differences else ''}"

    def make(self, editor: LsfmEditor) -> None:
        editor.seal()


def apply_edit(edit: Edit) -> EditReport:
    """Change a file that is there.

    Raises
    ------
    LsfmError
        In every case the file is as it was before.
    """
    with open_lsfm(edit.path) as file:
        path = file.path
    with recorded(path, edit.operation, edit) as record, edit_lsfm(edit.path, accept=edit.accepts_damage) as editor:
        text = edit.describe(editor)
        record.inputs += [logged_files(name, [name]) for name in edit.inputs]
        edit.make(editor)
    return EditReport(path, text)


class XmlRequest(Request):
    """A file whose BigDataViewer XML is to be made anew, by `lsfm_core.write_xml`.

    Attributes
    ----------
    path : Path
        The HDF5 file.
    overwrite : bool
        Whether an XML that cannot be read gives way.
    """

    path: Path
    overwrite: bool = False


def describe_xml(request: XmlRequest) -> str:
    """What would stand in a file's XML, in words; nothing is written.

    Raises
    ------
    LsfmError
        As `lsfm_core.write_xml`.
    """
    with open_lsfm(request.path) as file:
        content = parse_xml(file.render_xml(previous_xml(file, request.overwrite)), str(file.xml_path))
    lines = [f"{file.xml_path}: {len(content.views)} setup(s) of {content.hdf5}"]
    for view in content.views:
        size = "" if view.voxel_size_mm is None else f", voxels of {' x '.join(f'{v:.6g}' for v in view.voxel_size_mm)} mm"
        lines.append(f"  {view.setup}: {view.name}, {' x '.join(map(str, view.shape))}{size}")
    return "\n".join(lines)


def _way(file: LsfmFile, sides: Sides, default: str | None) -> str:
    inner = default if sides.inner is None else sides.inner
    return f"from {_known(file, inner)} to {_known(file, sides.outer)}"


def _known(file: LsfmFile, space: str | None) -> str:
    """A space in words; of a name that was mistyped it is seen that it is new."""
    if space is None:
        return f"{UNKNOWN} (not known)"
    return f"space {space!r}" + ("" if space in known_spaces(file) else ", a name that is new in this file")


def _owner(channel: str | None) -> str:
    return "of the file" if channel is None else f"of channel {channel!r}"


def _short(value: JsonValue) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
