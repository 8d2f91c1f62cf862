"""What is refused before anything is changed: names that cannot be, or are somebody else's."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lsfm_core.errors import ExistsError, FormatError, InputError, MissingError
from lsfm_core.hdf5_damage import reading
from lsfm_core.pyramid import Kind
from lsfm_core.store import _metadata, _paths
from lsfm_core.store._xml import parse_xml, read_xml
from lsfm_core.store.file import LsfmFile

__all__ = [
    "check_channel_name",
    "check_folder",
    "check_key",
    "check_new_affine",
    "check_new_channel",
    "check_new_key",
    "check_stem",
    "is_setup",
]


_BDV_TYPES = frozenset({"uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"})


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
    InputError
    """
    xml = path.with_suffix(".xml")
    if path.exists() and not xml.exists():
        return
    for suffix in {".h5", ".hdf5"} - {path.suffix.lower()}:
        other = path.with_suffix(suffix)
        if other.exists() and not (path.exists() and path.samefile(other)):
            with suppress(FormatError):
                if xml.exists() and parse_xml(read_xml(xml), str(xml)).hdf5 == path.name:
                    continue
            raise InputError(f"{path}: {xml.name} beside it is that of {other.name}, and cannot be both's: take another name")


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
    InputError
        If another name has to be taken.
    """
    if name in file and not replace:
        more = "" if replace is None else ", or replace it"
        raise ExistsError(f"{file.path}: channel {name!r} exists already: choose another name{more}")
    with reading(file.path):
        is_taken = name not in file and _paths.channel(name) in file.h5
    if is_taken:
        raise InputError(
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


def _owner(channel: str | None) -> str:
    return "of the file" if channel is None else f"of channel {channel!r}"
