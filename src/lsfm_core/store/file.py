"""LsfmFile: open, list, read and write one HDF5 file with its BigDataViewer XML."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self

import h5py
import numpy as np
import numpy.typing as npt

from lsfm_core.errors import BusyError, ExistsError, FormatError, InputError, LsfmError, StorageError, UnknownChannelError
from lsfm_core.geometry import Orientation, Shape3, Space, Triple
from lsfm_core.pyramid import LevelPlan
from lsfm_core.store import _journal, _paths
from lsfm_core.store._chunks import ChunkCodec
from lsfm_core.store._xml import View, parse_xml, render_xml
from lsfm_core.store.lazy import ChunkCache, LazyLevel

__all__ = ["Channel", "ChannelWriter", "Level", "LsfmFile", "SourceFile", "edit_lsfm", "open_lsfm"]

Kind = Literal["image", "labels", "vectors"]

FORMAT_VERSION = 1
#: HDF5 1.10.5, which BigDataViewer carries, reads these; superblock 0 also survives a writer that died.
_LIBVER = ("earliest", "v110")
# SimpleITK's pixel ids, which lsfmpy recorded: how the bits of its int16 data sets are meant.
_LEGACY_DTYPES = {0: "i1", 1: "u1", 2: "i2", 3: "u2", 4: "i4", 5: "u4", 6: "i8", 7: "u8", 8: "f4", 9: "f8"}
_BDV_TYPES = frozenset({"uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"})


@dataclass(frozen=True)
class SourceFile:
    """A file that a channel was made from: its name, size in bytes, and CRC-32 of its bytes."""

    name: str
    size: int
    crc32: int


@dataclass(frozen=True)
class Level:
    """One level of a channel's pyramid; 0 is the finest.

    Attributes
    ----------
    index : int
    data : LazyLevel
        The voxels, in array order; ``level[...]`` is the same as ``level.data[...]``.
    factors : tuple of 3 float
        Level-0 voxels per voxel of this level.
    space : Space
    stored_bytes : int
        Size in the file, compressed.
    """

    index: int
    data: LazyLevel
    factors: Triple
    space: Space
    stored_bytes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in array order; vectors have their three components last."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        return self.data.dtype

    def __getitem__(self, index: Any) -> LazyLevel:
        return self.data[index]


@dataclass(frozen=True)
class Channel:
    """A named image with one pyramid.

    Attributes
    ----------
    name : str
    kind : {"image", "labels", "vectors"}
    levels : tuple of Level
        Finest first.
    orientation : Orientation or None
        None where the file does not record how the specimen lay; `Space` then only tells voxel sizes.
    unit : str
        Of the world: ``"mm"``, or ``"pixel"`` where the file gives no length.
    display_range : tuple of 2 float, or None
        Contrast limits for a first look.
    setup : int or None
        BigDataViewer's setup, if it has one.
    sources : tuple of SourceFile
    written_by : str
        Program and version, or "" where unknown.
    remarks : tuple of str
        What is odd about this channel, in sentences.
    """

    name: str
    kind: Kind
    levels: tuple[Level, ...]
    orientation: Orientation | None
    unit: str
    display_range: tuple[float, float] | None
    setup: int | None
    sources: tuple[SourceFile, ...]
    written_by: str
    remarks: tuple[str, ...]

    @property
    def space(self) -> Space:
        """Space of level 0."""
        return self.levels[0].space

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        return self.levels[0].dtype


class LsfmFile:
    """One open file; get it from `open_lsfm` or `edit_lsfm`.

    Works as a mapping from channel names, in the order in which they were written, and as a context manager.
    """

    def __init__(self, path: Path, h5: h5py.File, cache: ChunkCache, max_read_bytes: int | None) -> None:
        self.path = path
        self._h5 = h5
        self._cache = cache
        self._max_read_bytes = max_read_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; its lazy levels cannot be read any more."""
        self._h5.close()

    @cached_property
    def channels(self) -> Mapping[str, Channel]:
        """All channels by name.

        Raises
        ------
        FormatError
            If the file's structure is broken; names the place.
        """
        try:
            if _paths.LSFM in self._h5:
                groups = self._h5[_paths.LSFM]
                names = [name for name in groups if f"{name}/{_paths.IMAGE}" in groups]
                return MappingProxyType({name: self._read_channel(name) for name in sorted(names, key=self._age)})
            return MappingProxyType(self._read_views())
        except (KeyError, OSError, TypeError, IndexError) as error:
            raise FormatError(f"{self.path}: its structure is broken: {error}") from error

    def __getitem__(self, name: str) -> Channel:
        if name not in self.channels:
            known = ", ".join(self.channels) or "none"
            raise UnknownChannelError(f"{self.path}: no channel {name!r}; it has: {known}")
        return self.channels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.channels)

    def __len__(self) -> int:
        return len(self.channels)

    def __contains__(self, name: object) -> bool:
        return name in self.channels

    @property
    def xml_path(self) -> Path:
        """Where BigDataViewer's XML stands: beside the file, with its stem."""
        return self.path.with_suffix(".xml")

    # --- reading ------------------------------------------------------------------------------------------------------------

    def _age(self, name: str) -> tuple[int, str]:
        setup = self._h5[_paths.channel(name)].attrs.get(_paths.SETUP)
        return (len(self._h5) if setup is None or setup < 0 else int(setup), name)

    def _read_channel(self, name: str) -> Channel:
        group = self._h5[_paths.channel(name)]
        if _paths.FORMAT_VERSION not in group.attrs:
            return self._read_legacy(name)
        version = int(group.attrs[_paths.FORMAT_VERSION])
        if version > FORMAT_VERSION:
            raise FormatError(f"{self.path}: channel {name!r} has format version {version}; this program reads up to {FORMAT_VERSION}")
        levels = []
        for index in self._level_indices(_paths.image(name)):
            node = self._h5[_paths.level(name, index)]
            factors = tuple(float(f) for f in node.attrs[_paths.FACTORS])
            levels.append(self._level(index, node[_paths.CELLS], factors, np.asarray(node.attrs[_paths.WORLD_FROM_VOXEL])))
        percentiles = group.attrs.get(_paths.PERCENTILES)
        setup = int(group.attrs[_paths.SETUP])
        table = self._h5[_paths.sources(name)][()] if _paths.SOURCES in group else ()
        return Channel(
            name=name,
            kind=group.attrs[_paths.KIND],
            levels=tuple(levels),
            orientation=Orientation(group.attrs[_paths.AXCODES]),
            unit=group.attrs[_paths.UNIT],
            display_range=None if percentiles is None else (float(percentiles[0]), float(percentiles[-1])),
            setup=setup if setup >= 0 else None,
            sources=tuple(SourceFile(row["name"].decode(), int(row["size"]), int(row["crc32"])) for row in table),
            written_by=group.attrs[_paths.WRITER],
            remarks=(),
        )

    def _read_legacy(self, name: str) -> Channel:
        """A channel of lsfmpy 0.1.0: voxel sizes, but no orientation; uint16 kept in int16."""
        image = self._h5[_paths.image(name)]
        spacing = np.atleast_2d(image.attrs[_paths.LEGACY_SPACING]).astype(float)
        labels = bool(image.attrs.get(_paths.LEGACY_SEGMENTATION, False))
        vectors = bool(image.attrs.get(_paths.LEGACY_MULTICHANNEL, False))
        intended = _LEGACY_DTYPES.get(int(image.attrs.get(_paths.LEGACY_PIXEL_TYPE, -1)))
        remarks = ["written by lsfmpy: it records no orientation, so exports need one to be given"]
        levels = []
        for index in self._level_indices(_paths.image(name)):
            cells = self._h5[_paths.level(name, index)][_paths.CELLS]
            factors = tuple(float(f) for f in spacing[min(index, len(spacing) - 1)] / spacing[0])
            dtype = cells.dtype
            if intended is not None and cells.dtype == np.int16 and np.dtype(intended) == np.uint16:
                dtype = np.dtype(intended)
                if index == 0:
                    remarks.append("16-bit data in signed integers: what was above 32767 was stored as 32767 and is lost")
            affine = np.diag([*spacing[0], 1.0])
            level0 = Space(levels[0].space.shape if levels else cells.shape[:3], affine)
            levels.append(self._level(index, cells, factors, level0.level(factors, cells.shape[:3]).world_from_voxel, dtype))
        view = next((v for v in self._xml_views().values() if v.shape != levels[0].shape[:3]), None)
        if not labels and not vectors and view is not None and view.shape[0] < levels[0].shape[0]:
            remarks.append(f"the XML says {view.shape[0]} planes, the file has {levels[0].shape[0]}: the last ones are padding")
        return Channel(
            name=name,
            kind="labels" if labels else "vectors" if vectors else "image",
            levels=tuple(levels),
            orientation=None,
            unit="mm",
            display_range=None,
            setup=None,
            sources=(),
            written_by="lsfmpy",
            remarks=tuple(remarks),
        )

    def _read_views(self) -> dict[str, Channel]:
        """Channels of a BigDataViewer file that is not ours: one per setup, first timepoint."""
        views = self._xml_views()
        channels = {}
        timepoint = min((int(n[1:]) for n in self._h5 if n[:1] == "t" and n[1:].isdigit()), default=0)
        for setup in sorted(s for s in map(_paths.setup_index, self._h5) if s is not None):
            root = self._h5[_paths.setup(setup)]
            factors = [tuple(float(f) for f in row[::-1]) for row in np.atleast_2d(root[_paths.RESOLUTIONS][()])]
            view = views.get(setup)
            affine = np.eye(4) if view is None else _calibrated(view)
            levels: list[Level] = []
            for index, factor in enumerate(factors):
                node = self._h5.get(f"{_paths.view_level(timepoint, setup, index)}/{_paths.CELLS}")
                if node is None:
                    continue
                dtype = node.dtype
                if dtype == np.int16 and _paths.DATA_TYPE not in root.attrs:
                    dtype = np.dtype(np.uint16)  # BigDataViewer's way of keeping uint16
                base = Space(levels[0].space.shape if levels else node.shape, affine)
                levels.append(self._level(index, node, factor, base.level(factor, node.shape).world_from_voxel, dtype))
            if not levels:
                continue
            name = view.name if view is not None and view.name not in channels else f"setup {setup}"
            channels[name] = Channel(
                name=name,
                kind="image",
                levels=tuple(levels),
                orientation=None,
                unit="mm" if view is not None and view.voxel_size_mm is not None else "pixel",
                display_range=None,
                setup=setup,
                sources=(),
                written_by="",
                remarks=("a BigDataViewer file: it records no orientation, so exports need one to be given",),
            )
        return channels

    def _level_indices(self, group: str) -> list[int]:
        return sorted(int(name) for name in self._h5[group] if name.isdigit())

    def _level(
        self,
        index: int,
        cells: h5py.Dataset,
        factors: tuple[float, ...],
        world_from_voxel: npt.NDArray[np.float64],
        dtype: npt.DTypeLike | None = None,
    ) -> Level:
        data = LazyLevel.of(cells, cache=self._cache, dtype=dtype, max_read_bytes=self._max_read_bytes)
        space = Space(cells.shape[:3], world_from_voxel)
        return Level(index, data, (factors[0], factors[1], factors[2]), space, int(cells.id.get_storage_size()))

    def _xml_views(self) -> dict[int, View]:
        if not self.xml_path.exists():
            return {}
        return {view.setup: view for view in parse_xml(self.xml_path.read_bytes(), str(self.xml_path)).views}

    # --- writing ------------------------------------------------------------------------------------------------------------

    def create_channel(
        self,
        name: str,
        *,
        kind: Kind,
        dtype: npt.DTypeLike,
        levels: Sequence[LevelPlan],
        space: Space,
        compression: int,
    ) -> ChannelWriter:
        """Make a channel's structure, ready for its chunks; only inside `edit_lsfm`.

        Raises
        ------
        ExistsError
            If there is a channel of that name.
        InputError
            If the name cannot be used.
        """
        check_channel_name(name)
        if _paths.channel(name) in self._h5:
            raise ExistsError(f"{self.path}: channel {name!r} exists already: choose another name")
        dtype = np.dtype(dtype)
        group = self._h5.create_group(_paths.channel(name))
        # BigDataViewer has no type for float16, and knows nothing of vectors: such channels are not among its setups.
        setup = self._next_setup() if kind != "vectors" and dtype.name in _BDV_TYPES else -1
        group.attrs.update(
            {
                _paths.FORMAT_VERSION: FORMAT_VERSION,
                _paths.KIND: kind,
                _paths.UNIT: "mm",
                _paths.AXCODES: space.orientation.axcodes,
                _paths.SETUP: setup,
                _paths.WRITER: f"lsfm-core {metadata.version('napari-lsfm')}",
            }
        )
        self._h5.create_group(_paths.image(name)).attrs.update(
            {
                _paths.LEGACY_SPACING: np.array([space.level(p.factors, p.shape).voxel_size_mm for p in levels]),
                _paths.LEGACY_ORIGIN: np.zeros((len(levels), 3)),
                _paths.LEGACY_SHAPE: np.array([p.shape for p in levels]),
                _paths.LEGACY_MULTICHANNEL: kind == "vectors",
                _paths.LEGACY_SEGMENTATION: kind == "labels",
            }
        )
        targets = []
        for index, plan in enumerate(levels):
            node = self._h5.create_group(_paths.level(name, index))
            node.attrs[_paths.FACTORS] = np.array(plan.factors, dtype=np.float64)
            node.attrs[_paths.WORLD_FROM_VOXEL] = space.level(plan.factors, plan.shape).world_from_voxel
            cells = node.create_dataset(
                _paths.CELLS,
                plan.shape,
                dtype,
                chunks=plan.chunks,
                shuffle=compression > 0,
                compression=compression or None,
                fletcher32=True,
            )
            targets.append((cells, ChunkCodec.of(cells)))
        if setup >= 0:
            self._link_setup(name, setup, dtype, levels)
        self.__dict__.pop("channels", None)
        return ChannelWriter(group, [(cells, codec) for cells, codec in targets if codec is not None])

    def _next_setup(self) -> int:
        return 1 + max((s for s in map(_paths.setup_index, self._h5) if s is not None), default=-1)

    def _link_setup(self, name: str, setup: int, dtype: np.dtype[Any], levels: Sequence[LevelPlan]) -> None:
        root = self._h5.create_group(_paths.setup(setup))
        root.attrs[_paths.DATA_TYPE] = dtype.name
        root[_paths.RESOLUTIONS] = np.array([p.factors[::-1] for p in levels], dtype=np.float64)
        root[_paths.SUBDIVISIONS] = np.array([p.chunks[::-1] for p in levels], dtype=np.int32)
        for index in range(len(levels)):
            view = self._h5.create_group(_paths.view_level(0, setup, index))
            view[_paths.CELLS] = h5py.SoftLink(f"/{_paths.level(name, index)}/{_paths.CELLS}")
        self._h5.attrs[_paths.SETUPS_COUNT] = setup + 1

    def _render_xml(self) -> bytes:
        views = [
            View(c.setup, c.name, c.space.shape, c.space.voxel_size_mm, c.space.world_from_voxel)
            for c in self.channels.values()
            if c.setup is not None
        ]
        previous = self.xml_path.read_bytes() if self.xml_path.exists() else None
        return render_xml(self.path.name, views, previous)


class ChannelWriter:
    """Takes the chunks of a channel that is being made."""

    def __init__(self, group: h5py.Group, levels: Sequence[tuple[h5py.Dataset, ChunkCodec]]) -> None:
        self._group = group
        self._levels = levels

    def codec(self, level: int) -> ChunkCodec:
        """Codec of a level; encoding is safe in any thread."""
        return self._levels[level][1]

    def write_chunk(self, level: int, start: Shape3, data: bytes) -> None:
        """Store an encoded chunk whose first voxel is `start`; only from the thread that opened the file."""
        self._levels[level][0].id.write_direct_chunk(start, data)

    def set_display_percentiles(self, values: Sequence[float]) -> None:
        """Record low to high percentiles of the voxel values, for first contrast limits."""
        self._group.attrs[_paths.PERCENTILES] = np.asarray(values, dtype=np.float64)

    def set_sources(self, sources: Sequence[SourceFile]) -> None:
        """Record which files the channel was made from."""
        if not sources:
            return
        names = [source.name.encode() for source in sources]
        row = np.dtype([("name", f"S{max(map(len, names))}"), ("size", "<u8"), ("crc32", "<u4")])
        table = np.array([(name, s.size, s.crc32) for name, s in zip(names, sources, strict=True)], row)
        self._group.create_dataset(_paths.SOURCES, data=table)


def open_lsfm(
    path: str | os.PathLike[str],
    *,
    cache: ChunkCache | None = None,
    max_read_bytes: int | None = None,
) -> LsfmFile:
    """Open a file for reading: ours, lsfmpy's, or any BigDataViewer HDF5; also by its XML.

    Parameters
    ----------
    path : path
        ``.h5``, or the BigDataViewer ``.xml`` beside it.
    cache : ChunkCache, optional
        To share decoded chunks, and their limit in bytes, between files.
    max_read_bytes : int, optional
        Make ``np.asarray`` of a larger view an error.

    Raises
    ------
    FormatError
        If it is no HDF5 file, or has neither our structure nor BigDataViewer's.
    StorageError
        If it cannot be read. `BusyError` if a writer is at work.
    """
    target = Path(path)
    if target.suffix.lower() == ".xml":
        target = _hdf5_of_xml(target)
    if not target.is_file():
        raise StorageError(f"{target}: no such file")
    _journal.recover(target)
    if not h5py.is_hdf5(target):
        raise FormatError(f"{target}: not an HDF5 file")
    try:
        h5 = h5py.File(target, "r")
    except BlockingIOError as error:
        raise BusyError(f"{target}: another program is writing to it: try again when it is done") from error
    except OSError as error:
        raise StorageError(f"{target}: cannot be opened as HDF5: {error}") from error
    if _paths.LSFM not in h5 and not any(
        _paths.setup_index(n) is not None and isinstance(h5[n], h5py.Group) and _paths.RESOLUTIONS in h5[n] for n in h5
    ):
        h5.close()
        raise FormatError(f"{target}: HDF5, but with neither /LSFM nor BigDataViewer's sNN/resolutions inside: not a file for lsfm-core")
    return LsfmFile(target, h5, cache or ChunkCache(), max_read_bytes)


@contextmanager
def edit_lsfm(path: str | os.PathLike[str]) -> Iterator[LsfmFile]:
    """Change a file, or make one: all changes happen when the block ends well, none if it raises or the process dies.

    The BigDataViewer XML beside the file is made anew.

    Raises
    ------
    BusyError
        If another program has the file open.
    StorageError
        If writing fails, for example on a full disk; the file is as it was before.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise StorageError(f"{target}: there is no folder {target.parent}")
    if target.exists():
        _journal.recover(target)
        open_lsfm(target).close()
    raw = _journal.JournaledFile(target)
    xml_partial = _journal.partial_path(target.with_suffix(".xml"))
    try:
        h5 = h5py.File(raw, "w" if raw.is_new else "r+", libver=_LIBVER)
        try:
            file = LsfmFile(target, h5, ChunkCache(), None)
            yield file
            h5.flush()
            _write_file(xml_partial, file._render_xml())
        except BaseException:
            raw.detach()
            raise
        finally:
            h5.close()
        if raw.error is not None:
            raise raw._fail(raw.error)
        raw.commit()
    except BaseException as error:
        raw.rollback()
        xml_partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, LsfmError):
            raise StorageError(f"{target}: writing failed: {error}; the file is left as it was") from error
        raise
    os.replace(xml_partial, file.xml_path)


def check_channel_name(name: str) -> None:
    """Refuse names that cannot be a group in HDF5 or would hide among its parts.

    Raises
    ------
    InputError
    """
    if not name or name != name.strip() or "/" in name or name in {".", ".."} or not name.isprintable():
        raise InputError(f"channel name {name!r}: use one or more printable characters, no '/', no blanks at the ends")


def _hdf5_of_xml(path: Path) -> Path:
    if not path.is_file():
        raise StorageError(f"{path}: no such file")
    hdf5 = parse_xml(path.read_bytes(), str(path)).hdf5
    target = (path.parent / hdf5).resolve()
    # An XML from a stranger must not make us open files elsewhere.
    if not target.is_relative_to(path.parent.resolve()):
        raise FormatError(f"{path}: its HDF5 file {hdf5} lies outside its folder: open the HDF5 file itself")
    if not target.is_file():
        raise StorageError(f"{path}: its HDF5 file {hdf5} is missing")
    return target


def _calibrated(view: View) -> npt.NDArray[np.float64]:
    """A view's registration where it maps to lengths; some writers (BigStitcher) map to pixels, then only the voxel size counts."""
    if view.voxel_size_mm is None:
        return view.world_from_voxel
    norms = np.linalg.norm(view.world_from_voxel[:3, :3], axis=0)
    if np.allclose(norms, view.voxel_size_mm, rtol=0.05):
        return view.world_from_voxel
    return np.diag([*view.voxel_size_mm, 1.0])


def _write_file(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
