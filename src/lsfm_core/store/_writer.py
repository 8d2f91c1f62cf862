"""The parts of a channel that is being made: its group, its chunks, and what these are known by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

import h5py
import numpy as np
import numpy.typing as npt

from lsfm_core.arrays import ChunkCache, LazyLevel
from lsfm_core.arrays.chunks import ChunkCodec, Grid, checksum_of
from lsfm_core.geometry import Shape3, Space
from lsfm_core.hdf5_damage import changes_structure
from lsfm_core.pyramid import Kind, LevelPlan
from lsfm_core.records import FileRecord
from lsfm_core.store import _digest, _paths
from lsfm_core.store._model import FORMAT_VERSION

__all__ = [
    "ChannelWriter",
    "begin_channel",
    "stored_table",
]


def begin_channel(
    h5: h5py.File,
    *,
    kind: Kind,
    dtype: np.dtype[Any],
    stored: np.dtype[Any],
    components: int,
    levels: Sequence[LevelPlan],
    space: Space,
    compression: int,
) -> h5py.Group:
    """The group of a channel that is not complete, without voxels; `stored` is the type in which those of `dtype` are kept."""
    h5.pop(_paths.INCOMPLETE, None)
    group = h5.create_group(_paths.INCOMPLETE)
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
            stored,
            chunks=plan.chunks + last,
            shuffle=compression > 0,
            compression=compression or None,
            fletcher32=True,
        )
    return group


class ChannelWriter:
    """Takes the chunks of a channel that is being made.

    Parameters
    ----------
    path : Path
        The file that gets the channel.
    group : h5py.Group
        From `begin_channel`.
    check : callable
        Raises what went wrong in writing.
    appear : callable
        Lets the finished channel take its place.
    """

    def __init__(self, path: Path, group: h5py.Group, *, check: Callable[[], None], appear: Callable[[], None]) -> None:
        self.path = path
        self._group = group
        self._check = check
        self._appear = appear
        image = group[_paths.IMAGE]
        self._cells = [image[str(index)][_paths.CELLS] for index in range(len(image))]
        # To ask the file takes longer than to write a chunk into its memory.
        self._chunks: list[tuple[int, ...]] = [cells.chunks for cells in self._cells]
        self._codecs = [codec for codec in map(ChunkCodec.of, self._cells) if codec is not None]
        # What each chunk is known by; 0 for those that were written before an interrupt, and for which the file is asked.
        self._tables = [np.zeros(Grid(cells.shape, cells.chunks).counts, np.uint32) for cells in self._cells]

    def codec(self, level: int) -> ChunkCodec:
        """Codec of a level; encoding is safe in any thread."""
        return self._codecs[level]

    @changes_structure
    def write_chunk(self, level: int, start: Shape3, data: bytes) -> None:
        """Store an encoded chunk whose first voxel is `start`; only from the thread that opened the file."""
        chunks = self._chunks[level]
        place = start + (0,) * (len(chunks) - 3)
        self._cells[level].id.write_direct_chunk(place, data)
        self._check()
        self._tables[level][tuple(a // c for a, c in zip(place, chunks, strict=True))] = checksum_of(data)

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
            _digest.put_chunk_table(self._group.file, self._group.attrs[_paths.UUID], level, stored_table(cells, table))
        self._appear()


def stored_table(cells: h5py.Dataset, known: npt.NDArray[np.uint32] | None = None) -> npt.NDArray[np.uint32]:
    """What the chunks of a level are known by; those that are not `known`, as they stand in the file."""
    grid = Grid(cells.shape, cells.chunks)
    table = np.zeros(grid.counts, np.uint32) if known is None else known
    flat = table.reshape(-1)
    for number in grid.written(cells):
        if not flat[number]:
            flat[number] = checksum_of(cells.id.read_direct_chunk(grid.box(int(number))[0])[1])
    return table
