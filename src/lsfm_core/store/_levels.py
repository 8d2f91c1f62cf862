"""A level of a file as a lazy array, that is found again when the file has changed, and in other processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import h5py
import numpy as np

from lsfm_core.arrays import ChunkCache, LazyLevel, TableOf
from lsfm_core.durable import DatasetReader, DetachedFile
from lsfm_core.errors import StorageError
from lsfm_core.hdf5_damage import reading
from lsfm_core.hdf5_filters import find_filters
from lsfm_core.store import _paths

__all__ = ["level_of"]

# What this process has open for levels that came from another one. A forked child shares nothing with its parent: its places in
# the files would be the parent's.
_files: WeakValueDictionary[tuple[Any, ...], DetachedFile] = WeakValueDictionary()
_caches: WeakValueDictionary[tuple[Any, ...], ChunkCache] = WeakValueDictionary()


def level_of(
    owner: h5py.File | DetachedFile,
    cells: h5py.Dataset,
    cache: ChunkCache,
    *,
    dtype: np.dtype[Any] | None = None,
    max_read_bytes: int | None = None,
    table_of: TableOf | None = None,
) -> LazyLevel:
    """The lazy array of a dataset.

    Parameters
    ----------
    owner : h5py.File or DetachedFile
        The file that it lies in.
    cells : h5py.Dataset
    cache, dtype, max_read_bytes, table_of
        As `LazyLevel.of` takes them.
    """
    find_filters(cells)
    # HDF5 finds what lies in files besides only through a file of its own.
    is_plain = bool(cells.is_virtual or cells.external)
    path = str(Path(owner.path if isinstance(owner, DetachedFile) else owner.filename).absolute())

    def reopen(dataset: h5py.Dataset) -> Callable[[], LazyLevel]:
        place = (path, dataset.name, _identity(dataset), is_plain)
        return partial(_reopen, *place, cache.max_bytes, dtype, max_read_bytes, table_of)

    return LazyLevel.of(
        cells,
        cache=cache,
        dtype=dtype,
        max_read_bytes=max_read_bytes,
        access=DatasetReader(owner, cells, _identity) if isinstance(owner, DetachedFile) else None,
        table_of=table_of,
        reopen=reopen,
    )


def _reopen(
    path: str,
    name: str,
    identity: tuple[Any, ...],
    is_plain: bool,
    cache_bytes: int,
    dtype: np.dtype[Any] | None,
    max_read_bytes: int | None,
    table_of: TableOf | None,
) -> LazyLevel:
    """A level that was pickled, wherever this runs."""
    process = os.getpid()
    cache = _caches.setdefault((process, cache_bytes), ChunkCache(cache_bytes))
    with reading(path, "cannot be opened again"):
        owner: Any
        if is_plain:
            owner = h5py.File(path, "r", locking=False)
        else:
            owner = _files.get((process, path))
            if owner is None:
                owner = _files[process, path] = DetachedFile(Path(path))
        h5 = owner if is_plain else owner.h5
        if name not in h5 or _identity(h5[name]) != identity:
            raise StorageError(f"{path}: {name} was changed since it was opened: open the file again")
        return level_of(owner, h5[name], cache, dtype=dtype, max_read_bytes=max_read_bytes, table_of=table_of)


def _identity(dataset: h5py.Dataset) -> tuple[Any, ...]:
    """Different for another dataset that stands, under the same name, where this one stood."""
    owner = _paths.channel_of(dataset.name)
    written = dataset.file[owner].attrs.get(_paths.UUID) if owner else None
    # `h5o.get_info` has the same, but reads all of the chunk index to tell how large that is.
    place = h5py.h5g.get_objinfo(dataset.id, b".").objno
    return written, place, dataset.shape, dataset.dtype, dataset.chunks
