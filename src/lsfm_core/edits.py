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
from pydantic import Field, JsonValue

from lsfm_core._request import Request
from lsfm_core.provenance import logged_files, recorded
from lsfm_core.store import (
    LsfmEditor,
    LsfmFile,
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
    "RemoveChannelRequest",
    "RemoveMetadataRequest",
    "RenameChannelRequest",
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
    """

    operation = "write-affine"

    channel: str
    name: str
    affine: Path | tuple[_Row, _Row, _Row, _Row]
    replace: bool = False

    @property
    def inputs(self) -> tuple[Path, ...]:
        return (self.affine,) if isinstance(self.affine, Path) else ()

    def describe(self, file: LsfmFile) -> str:
        check_new_affine(file, self.channel, self.name, self.replace)
        old = " in place of the one that it has" if self.name in file[self.channel].affines else ""
        return (
            f"channel {self.channel!r} gets affine {self.name!r}{old}\n"
            f"  {self._read().describe()}\n"
            "  it maps a point of the output space to the image, as ITK and ANTs write it"
        )

    def make(self, editor: LsfmEditor) -> None:
        affine = self._read()
        editor.write_affine(self.channel, self.name, affine.matrix, affine.to_itk(), self.replace)

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


def apply_edit(edit: Edit) -> EditReport:
    """Change a file that is there.

    Raises
    ------
    LsfmError
        In every case the file is as it was before.
    """
    with open_lsfm(edit.path) as file:
        path = file.path
    with recorded(path, edit.operation, edit) as record, edit_lsfm(path) as editor:
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


def _owner(channel: str | None) -> str:
    return "of the file" if channel is None else f"of channel {channel!r}"


def _short(value: JsonValue) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
