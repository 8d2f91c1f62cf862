"""Key-value pairs in a group: texts are its attributes, as lsfmpy keeps them; all else is one JSON object in a dataset beside them.

Not all of it as attributes: HDF5 has none for nested values, and holds each attribute that is no text to 64 KiB. The text of an
attribute lies in the file's heap, and can be of any length.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py

from lsfm_core.errors import InputError
from lsfm_core.hdf5_links import inside
from lsfm_core.store import _paths

__all__ = ["check", "put", "read", "remove"]

#: A key stands in the group's object header, whose messages are limited.
_LONGEST_KEY = 255


def read(group: h5py.Group | None, path: Path) -> dict[str, Any]:
    """All pairs of a group of the file at `path`, in order of keys; none where there is no group."""
    if group is None:
        return {}
    if _paths.METADATA_JSON in group:
        inside(group[_paths.METADATA_JSON], path)
    return dict(sorted({**_objects(group), **{key: _plain(value) for key, value in group.attrs.items()}}.items()))


def check(key: str, value: Any) -> str:
    """Refuse keys that cannot be shown, and values that are no JSON; the value as JSON text.

    Raises
    ------
    InputError
    """
    if not key.isprintable() or not key.strip() or len(key) > _LONGEST_KEY:
        raise InputError(f"metadata key {key!r}: use printable characters, not only blanks, and at most {_LONGEST_KEY} of them")
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"metadata {key!r}: expected texts, finite numbers, lists and objects of them: {error}") from error


def put(group: h5py.Group, key: str, value: Any) -> None:
    """Set a pair that `check` has passed."""
    remove(group, key)
    # HDF5 ends a text at the first NUL.
    if isinstance(value, str) and "\0" not in value:
        group.attrs[key] = value
    else:
        _set_objects(group, {**_objects(group), key: value})


def remove(group: h5py.Group, key: str) -> None:
    """Remove a pair, if it is there."""
    if key in group.attrs:
        del group.attrs[key]
    objects = _objects(group)
    if key in objects:
        del objects[key]
        _set_objects(group, objects)


def _objects(group: h5py.Group) -> dict[str, Any]:
    if _paths.METADATA_JSON not in group:
        return {}
    objects: dict[str, Any] = json.loads(group[_paths.METADATA_JSON].asstr()[()])
    return objects


def _set_objects(group: h5py.Group, objects: dict[str, Any]) -> None:
    group.pop(_paths.METADATA_JSON, None)
    if objects:
        group[_paths.METADATA_JSON] = json.dumps(objects)


def _plain(value: Any) -> Any:
    """What others put into an attribute: numpy's scalars and arrays, bytes, nothing at all."""
    if isinstance(value, h5py.Empty):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else value.tolist()
