"""Digests of what HDF5 itself keeps no checksum of: attributes, tables, links, and which chunk lies where.

A flipped bit in an affine mirrors an image; one in a chunk index gives a chunk to another place, or none. Voxels' own checksums see
neither. So each change ends with a CRC-32 of every object in our part of the file (`structure`), and each level of ours has a table
with the checksum of the chunk that belongs at each place. docs/format.md specifies both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from zlib import crc32

import h5py
import numpy as np
import numpy.typing as npt

from lsfm_core.hdf5_damage import RAISED
from lsfm_core.store import _paths

__all__ = ["chunk_table", "differences", "is_expected", "object_digest", "put_chunk_table", "read", "write"]

#: Room for the text is taken in such pieces, so that most changes find enough in what is there.
_PIECE = 4096
_UNREADABLE = -1


def read(h5: h5py.File) -> dict[str, int] | None:
    """The digest of each object by its path; None where a file has none, or it is damaged itself (`is_expected` tells which)."""
    try:
        text = bytes(h5[f"{_paths.DIGESTS}/{_paths.STRUCTURE}"][()]).rstrip(b" ")
        checksum, _, content = text.partition(b"\n")
        found: dict[str, int] = json.loads(content)
        return found if int(checksum, 16) == crc32(content) else None
    except RAISED:
        return None


def is_expected(h5: h5py.File) -> bool:
    """Whether a file once had digests."""
    return _paths.DIGESTS in h5 or _paths.HAS_DIGESTS in h5.attrs


def write(h5: h5py.File) -> None:
    """Take down what our part of the file is now."""
    h5.attrs[_paths.HAS_DIGESTS] = True
    group = h5.require_group(_paths.DIGESTS)
    tables = group.require_group(_paths.CHUNK_TABLES)
    for stale in set(tables) - set(_owners(h5)):
        del tables[stale]
    content = json.dumps(dict(_objects(h5)), separators=(",", ":"), sort_keys=True).encode()
    text = b"%08x\n%s" % (crc32(content), content)
    if _paths.STRUCTURE in group and len(text) > group[_paths.STRUCTURE].dtype.itemsize:
        del group[_paths.STRUCTURE]
    if _paths.STRUCTURE not in group:
        group.create_dataset(_paths.STRUCTURE, (), f"S{-(-len(text) // _PIECE) * _PIECE}")
    # HDF5 pads texts with zeros, of which numpy knows none.
    node = group[_paths.STRUCTURE]
    node[()] = np.bytes_(text.ljust(node.dtype.itemsize))


def differences(h5: h5py.File, recorded: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Objects of our part of the file that are not what was recorded: their paths, and what is wrong with them."""
    found = dict(_objects(h5))
    for path in sorted(recorded.keys() | found.keys()):
        if path not in found:
            yield path, "is missing"
        elif path not in recorded:
            yield path, "was not there when the file was written"
        elif found[path] == _UNREADABLE:
            yield path, "cannot be read"
        elif found[path] != recorded[path]:
            yield path, "is not what was written"


def object_digest(h5: h5py.File, path: str) -> int:
    """The digest of one object, as it is now; the log counts as one, for it has many."""
    paths = [path]
    try:
        if path == _paths.LOG:
            paths = [f"{path}/{name}" for name in sorted(h5[path])]
        return crc32(b"\0".join(part for each in paths for part in (each.encode(), *_content(h5, each))))
    except RAISED:
        return _UNREADABLE


def put_chunk_table(h5: h5py.File, uuid: str, level: int, table: npt.NDArray[np.uint32]) -> None:
    """Keep what the chunks of a level are known by.

    Parameters
    ----------
    h5 : h5py.File
    uuid : str
        Of the channel.
    level : int
    table : array, one element a chunk
        The Fletcher-32 checksum at the end of each stored chunk.
    """
    h5[_paths.chunk_table(uuid, level)] = table


def chunk_table(h5: h5py.File, recorded: Mapping[str, int] | None, uuid: str, level: int) -> npt.NDArray[np.uint32] | None:
    """What `put_chunk_table` kept; None where there is none, or it is not what was `recorded`."""
    path = _paths.chunk_table(uuid, level)
    if recorded is None or path not in recorded or object_digest(h5, path) != recorded[path]:
        return None
    table: npt.NDArray[np.uint32] = h5[path][()]
    return table


def _owners(h5: h5py.File) -> Iterator[str]:
    """The ids of the channels in the file, which its chunk tables are named by."""
    for name, node in h5.get(_paths.LSFM, {}).items():
        if isinstance(node, h5py.Group) and _paths.UUID in node.attrs:
            yield str(h5[_paths.channel(name)].attrs[_paths.UUID])


def _objects(h5: h5py.File) -> Iterator[tuple[str, int]]:
    """The path and digest of every object in our part of the file."""
    yield from ((path, object_digest(h5, path)) for path in ("/", _paths.LOG) if path in h5)
    roots = [_paths.LSFM, _paths.METADATA, f"{_paths.DIGESTS}/{_paths.CHUNK_TABLES}"]
    for setup in _own_setups(h5):
        times = [name for name in h5 if _paths.timepoint_index(name) is not None]
        roots += [_paths.setup(setup), *(f"{time}/{_paths.setup(setup)}" for time in times)]
    for root in roots:
        if root in h5:
            yield from _below(h5, root)


def _own_setups(h5: h5py.File) -> Iterator[int]:
    """BigDataViewer's setups that are channels of ours."""
    for name in h5.get(_paths.LSFM, {}):
        try:
            attributes = h5[_paths.channel(name)].attrs
            if _paths.FORMAT_VERSION in attributes and int(attributes[_paths.SETUP]) >= 0:
                yield int(attributes[_paths.SETUP])
        except RAISED:  # `_below` tells of it
            continue


def _below(h5: h5py.File, path: str) -> Iterator[tuple[str, int]]:
    """An object and all that hard links below it lead to."""
    yield path, object_digest(h5, path)
    try:
        node = h5[path]
        members = node if isinstance(node, h5py.Group) else ()
        names = [name for name in members if isinstance(node.get(name, getlink=True), h5py.HardLink)]
    except RAISED:
        return
    for name in names:
        yield from _below(h5, f"{path}/{name}")


def _content(h5: h5py.File, path: str) -> Iterable[bytes]:
    """All of an object that has a meaning, but voxels and the digests themselves."""
    node = h5[path]
    for name in sorted(node.attrs):
        yield from (name.encode("utf-8", "surrogateescape"), _bits(node.attrs[name]))
    if isinstance(node, h5py.Dataset):
        plist = node.id.get_create_plist()
        filters = [plist.get_filter(index)[:3] for index in range(plist.get_nfilters())]
        yield repr((str(node.dtype), node.shape, node.maxshape, node.chunks, filters, node.is_virtual, node.external)).encode()
        yield _bits(node.fillvalue)
        if path.rpartition("/")[2] != _paths.CELLS:
            yield _bits(node[()])
    elif path != "/":  # where others keep things, too
        for name in sorted(node):
            link = node.get(name, getlink=True)
            kind = type(link).__name__, getattr(link, "filename", ""), getattr(link, "path", "")
            yield repr((name, *kind)).encode("utf-8", "surrogateescape")


def _bits(value: Any) -> bytes:
    if isinstance(value, h5py.Empty):
        return repr(value.dtype).encode()
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    array = np.asarray(value)
    if array.dtype.hasobject:
        return repr(array.tolist()).encode("utf-8", "surrogateescape")
    return repr((array.dtype.descr, array.shape)).encode() + array.tobytes()
