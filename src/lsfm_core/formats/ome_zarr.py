"""Zarr in: arrays of version 2 and 3, and images of OME-Zarr 0.4 and 0.5. And out: OME-Zarr 0.5 [1]_ with a pyramid.

.. [1] https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

import math
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from lsfm_core.confinement import is_outside_allowed
from lsfm_core.errors import InputError, LsfmError, SourceError, StorageError
from lsfm_core.formats._channels import PlanesAre, channel_key, check_one_timepoint, pick_channel
from lsfm_core.formats._files import bytes_of, check_inside
from lsfm_core.formats._geometry import voxel_size_or_none
from lsfm_core.formats._own import OwnFacts, own_facts, take_place
from lsfm_core.formats._sink import ALL_DTYPES, OutputFormat, OutputImage, Sink
from lsfm_core.formats._source import with_notes
from lsfm_core.formats.arrays import ArraySource
from lsfm_core.geometry import Orientation, Shape3, Space, Triple, mm_per, voxel_count
from lsfm_core.pyramid import Kind, LevelPlan, plan_levels, reducer

__all__ = ["OmeZarrOutput", "open_zarr"]

_SUPPORTED = ("0.1", "0.2", "0.3", "0.4", "0.5")
#: Version 0.1 and 0.2 name no axes, and 0.3 tells no types; some writers of later versions do not, either.
_AXES = "tczyx"
_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
#: Planes are kept until they fill a layer of chunks; chunks of large planes are made flat, so that no layer is larger than this.
_LAYER_BYTES = 128 * 2**20
#: Layers that are larger than this part of what is left of the memory beside the process itself are kept in files.
_LEAST_LAYER_BYTES, _LAYER_PART = 8 * 2**20, 6
_PROCESS_BYTES = 256 * 2**20
#: Zarr, its event loop, and the chunks that are encoded at the same time.
_LIBRARY_BYTES = 40 * 2**20
#: So much of what is carried is reduced at once: the mode of labels takes a multiple of it.
_BAND_BYTES = 2 * 2**20
#: Where an axis leads to, by RFC-4's words; those for animals as they are meant in a brain.
_SIDES = {
    "left": "L", "right": "R", "anterior": "A", "posterior": "P", "superior": "S", "inferior": "I",
    "rostral": "A", "caudal": "P", "dorsal": "S", "ventral": "I",
}  # fmt: skip
_WHICH_AXIS = str.maketrans("LPI", "RAS")
_META_FILES = {"zarr.json", ".zarray", ".zgroup"}
_COLOURS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"), ("opacity", "FFFFFF"))


def open_zarr(path: Path, channel: int | str | None, kind: Kind = "image", planes_are: PlanesAre | None = None) -> ArraySource:
    """Open a folder, or a zip file, that holds a Zarr array or an OME-Zarr image, of which the finest level is taken.

    Of kind ``components`` all channels are the values of a voxel, unless one is picked.

    Raises
    ------
    SourceError
        If the metadata are damaged, or tell of no image.
    InputError
        If it is not clear which image or channel is meant.
    """
    try:
        place, inner = _zipped(path) if path.is_file() else (_Folder(path), "")
        return _open(path, place, channel, kind, planes_are, inner)
    except LsfmError:
        raise
    except Exception as error:  # zarr trusts what it parses, and so do we here
        raise SourceError(f"{path}: its Zarr metadata are damaged, or not supported: {type(error).__name__}: {error}") from error


class _Folder(zarr.storage.WrapperStore[Any]):
    """A folder from which nothing is read to which a link in it leads, unless that is in it as well."""

    def __init__(self, store: Path | zarr.storage.LocalStore) -> None:
        super().__init__(zarr.storage.LocalStore(store, read_only=True) if isinstance(store, Path) else store)
        self._is_free = is_outside_allowed()

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        self._check(key)
        return await super().get(key, prototype, byte_range)

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        key_ranges = list(key_ranges)
        for key, _ in key_ranges:
            self._check(key)
        return await super().get_partial_values(prototype, key_ranges)

    def _check(self, key: str) -> None:
        if not self._is_free:
            check_inside(self._store.root / key, self._store.root / "_")


def _zipped(path: Path) -> tuple[Any, str]:
    """What `zarr.open` takes for a zip file, and the folder in it where the image is."""
    with zipfile.ZipFile(path) as archive:
        roots = {PurePosixPath(name).parent for name in archive.namelist() if PurePosixPath(name).name in _META_FILES}
    if not roots:
        raise SourceError(f"{path}: is a zip file that holds no Zarr image")
    root = min(roots, key=lambda folder: len(folder.parts))
    return zarr.storage.ZipStore(path, mode="r"), "" if root == PurePosixPath(".") else str(root)


def _open(path: Path, place: Any, channel: int | str | None, kind: Kind, planes_are: PlanesAre | None, inner: str) -> ArraySource:
    node = zarr.open(place, mode="r", path=inner or None)
    if isinstance(node, zarr.Array):
        leading = node.shape[:-3]
        facts: dict[str, Any] = {"format": f"Zarr {node.metadata.zarr_format}"}
        names = _dimension_names(node)
        if math.prod(leading) != 1 and names[-3:] == list("zyx") and set(names[:-3]) <= {"t", "c"}:
            prefix = _picked(path, names[:-3], leading, channel, facts)
            return ArraySource(node, name=str(path), prefix=prefix, facts=facts)
        if math.prod(leading) != 1:
            raise InputError(
                f"{path}: is an array of shape {node.shape}, whose first axes are not named: give one volume, or an OME-Zarr image"
            )
        if channel is not None:
            pick_channel(str(path), ("",), channel)
        return ArraySource(node, name=str(path), prefix=(0,) * len(leading), facts=facts)
    attributes: dict[str, Any] = dict(node.attrs)
    ome = attributes.get("ome", attributes)
    if "multiscales" not in ome:
        if "bioformats2raw.layout" in ome and "0" in node and "1" not in node:
            return _open(path, place, channel, kind, planes_are, f"{inner}/0".lstrip("/"))
        # Zarr warns of each file that is none of its own.
        with warnings.catch_warnings(action="ignore"):
            members = ", ".join(sorted(name for name, _ in node.members())[:10])
        raise InputError(
            f"{path}: is no OME-Zarr image: give the path of an image or array in it (it holds: {members or 'nothing'})"
        )
    if len(ome["multiscales"]) != 1:
        raise InputError(f"{path}: holds {len(ome['multiscales'])} images: save one of them as a file of its own")
    return _open_image(path, node, ome, channel, kind, planes_are)


def _dimension_names(array: zarr.Array[Any]) -> list[str]:
    """Of the axes of an array, in small letters; xarray keeps them among the attributes in Zarr 2."""
    told = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    names = [str(name).lower() for name in told] if isinstance(told, (list, tuple)) else []
    return names if len(names) == array.ndim else []


def _picked(
    path: Path, names: Sequence[str], sizes: Sequence[int], channel: int | str | None, facts: dict[str, Any]
) -> tuple[int, ...]:
    """The indices along axes of time and channels; what is known of channels goes into the facts."""
    prefix = [0] * len(names)
    for axis, (name, size) in enumerate(zip(names, sizes, strict=True)):
        if name == "t":
            check_one_timepoint(str(path), size, 2)
        else:
            prefix[axis] = pick_channel(str(path), [""] * size, channel)
            facts |= {"channel": prefix[axis], "channel_names": [""] * size} if size > 1 else {}
    if channel is not None and "c" not in names:
        pick_channel(str(path), ("",), channel)
    return tuple(prefix)


def _named_axes(axes: Sequence[Any], count: int) -> list[dict[str, Any]]:
    """Axes with their types, which their names tell where nothing else does."""
    found = [dict(axis) if isinstance(axis, dict) else {"name": str(axis)} for axis in axes or _AXES[-count:]]
    for axis in found:
        axis["type"] = axis.get("type") or _TYPES.get(str(axis.get("name")).lower(), "of no known type")
    return found


def _open_image(
    path: Path,
    group: zarr.Group,
    ome: Mapping[str, Any],
    channel: int | str | None,
    kind: Kind,
    planes_are: PlanesAre | None,
) -> ArraySource:
    image = ome["multiscales"][0]
    version = str(ome.get("version", image.get("version", "0.4")))
    if version not in _SUPPORTED:
        raise SourceError(f"{path}: is OME-Zarr {version}: versions {', '.join(_SUPPORTED)} can be read")
    array = group[image["datasets"][0]["path"]]
    axes = _named_axes(image.get("axes", ()), array.ndim if isinstance(array, zarr.Array) else 0)
    kinds = [axis["type"] for axis in axes]
    if planes_are is not None:
        raise InputError(f"{path}: --planes-are is for TIFF files: save the Zarr image with its planes along z")
    if not isinstance(array, zarr.Array) or len(kinds) != array.ndim or kinds[-3:] != ["space"] * 3 or kinds.count("space") != 3:
        raise SourceError(
            f"{path}: has the axes {[axis.get('name') for axis in axes]}: expected three in space, after time and channel"
        )
    prefix = [0] * (array.ndim - 3)
    facts: dict[str, Any] = {"format": f"OME-Zarr {version}"}
    picked = False
    # Our own exports say what they are.
    own = own_facts(group.attrs.get("lsfm"))
    several = False
    for axis, what in enumerate(kinds[:-3]):
        if what == "time":
            check_one_timepoint(str(path), array.shape[axis], 2)
        elif what == "channel" and axis == array.ndim - 4 and array.shape[axis] > 1 and _are_values(own, kind) and channel is None:
            several = True
        elif what == "channel":
            labels = [str(entry.get("label", "")) for entry in ome.get("omero", {}).get("channels", ())]
            names = (labels + [""] * array.shape[axis])[: array.shape[axis]]
            prefix[axis] = pick_channel(str(path), names, channel)
            picked = True
            if len(names) > 1:
                facts |= {"channel": channel_key(names, prefix[axis]), "channel_names": names}
        elif array.shape[axis] != 1:
            raise SourceError(f"{path}: has an axis of type {what!r}: only time, channel and space are known")
    if channel is not None and not picked:
        pick_channel(str(path), ("",), channel)
    if image.get("name"):
        facts["acquisition"] = {"name": str(image["name"])}
    size, first = _placement(image, axes)
    order = [str(axis.get("name")).lower() for axis in axes[-3:]]
    if sorted(order) == sorted("zyx") and order != list("zyx"):
        facts["notes"] = [f"planes, rows and columns are its axes {', '.join(order)}, in the order in which it has them"]
    if several:
        prefix = prefix[:-1]
        kind = "components" if kind == "image" else kind
    source = ArraySource(
        array, name=str(path), prefix=tuple(prefix), kind=kind, components_first=several, voxel_size_mm=size, facts=facts
    )
    _take_orientation(source, axes, first)
    before = source.space
    take_place(source, dict(group.attrs).get("lsfm"), "lsfm in its attributes")
    if own is not None and before is not None and source.space is not before and _was_moved(own.space, before):
        note = "lsfm in its attributes tells of another place than its axes do: the axes were taken"
        source.space, source.facts = before, with_notes(source.facts, note)
    return source


def _are_values(own: OwnFacts | None, kind: Kind) -> bool:
    """Whether channels are the values of a voxel."""
    several = ("components", "vectors")
    return kind == "components" or (own is not None and own.kind in several and kind in ("image", own.kind))


def _placement(image: Mapping[str, Any], axes: Any) -> tuple[Triple | None, list[float]]:
    """Voxel size, if all three axes have a unit, and how far along its axes the first voxel is, in mm.

    The level's transformations come first, then, where there are any, the image's own.
    """
    units = [mm_per(axis.get("unit")) or math.nan for axis in axes[-3:]]
    sizes, first = list(units), [0.0, 0.0, 0.0]
    is_scaled = False
    for place in (image["datasets"][0], image):
        for step in place.get("coordinateTransformations", ()):
            if step.get("type") == "scale" and "scale" in step:
                factors = [float(factor) for factor in step["scale"][-3:]]
                sizes = [size * factor for size, factor in zip(sizes, factors, strict=True)]
                is_scaled = True
                first = [offset * factor for offset, factor in zip(first, factors, strict=True)]
            elif step.get("type") == "translation" and "translation" in step:
                first = [a + float(b) * unit for a, b, unit in zip(first, step["translation"][-3:], units, strict=True)]
    # A unit alone is no size.
    return voxel_size_or_none(sizes) if is_scaled else None, first


def _take_orientation(source: ArraySource, axes: Any, first: Sequence[float]) -> None:
    """Let the source lie as RFC-4 tells: each axis names the sides that it leads from and to, and is counted that way.

    The RFC's drafts had a text where it has an object now.
    """
    told = [axis.get("orientation", axis.get("anatomicalOrientation")) for axis in axes[-3:]]
    values = [str(value.get("value") if isinstance(value, dict) else value).lower().replace("_", "-") for value in told]
    letters = "".join(_SIDES.get(value.rpartition("-to-")[2], "?") for value in values)
    size = source.voxel_size_mm
    problem = None
    if all(value is None for value in told):
        if size is not None and np.abs(np.divide(first, size)).max() > 1:
            problem = "its axes have a translation, but no orientation: the translation was not used, --origin can tell the place"
    elif "?" in letters or len(set(letters.translate(_WHICH_AXIS))) != 3:
        problem = f"its axes have the orientation {', '.join(values)}, which was not understood: it was not used"
    elif size is not None and np.isfinite(first).all():
        direction = Orientation(letters).direction
        affine = np.eye(4)
        affine[:3, :3] = direction * size
        affine[:3, 3] = direction @ first
        source.space = Space(source.shape, affine)
    if problem is not None:
        source.facts = with_notes(source.facts, problem)


def _was_moved(own: Space, told: Space) -> bool:
    """Whether the axes tell of another place than those would that we write for a space."""
    there = told.offset_mm
    return own.orientation != told.orientation or not np.allclose(own.offset_mm, there, rtol=0, atol=0.01 * min(own.voxel_size_mm))


class _Level:
    """One level on its way to the file: it gathers planes until they fill a layer of chunks, and carries them on to the next."""

    def __init__(
        self,
        image: OutputImage,
        plan: LevelPlan,
        array: zarr.Array[Any],
        coarser: _Level | None,
        pool: ThreadPoolExecutor,
        folder: Path | None,
    ) -> None:
        self._image = image
        self._factors = plan.factors
        self._pool = pool
        self._array = array
        self._coarser = coarser
        self._step = (1, 1, 1) if coarser is None else tuple(np.floor_divide(coarser._factors, plan.factors))
        self._reducer = reducer(image.kind, image.dtype)
        self._carried = self._reducer.carried_dtype(plan.factors)
        self._layer = _Layer((min(plan.chunks[0], plan.shape[0]), *plan.shape[1:], *image.shape[3:]), image.dtype, folder)
        self._written = self._filled = 0
        # Planes that wait for the others of their block.
        self._rest = np.empty((0, *self._layer.shape[1:]), self._carried)

    def close(self) -> None:
        """Let go of the layer."""
        self._layer.close()

    def add(self, carried: npt.NDArray[Any]) -> None:
        """Take the planes that follow; `lsfm_core.pyramid.Reducer` says what is carried."""
        voxels = carried
        if self._factors != (1, 1, 1):
            first, full = self._written + self._filled, self._image.space.shape
            voxels = np.empty(carried.shape, self._image.dtype)
            for place, rows in _bands(carried, (1, 1)):
                voxels[place, rows] = self._reducer.finish(
                    carried[place, rows], self._factors, (first + place.start, rows.start, 0), full
                )
        while len(voxels):
            part = voxels[: self._layer.shape[0] - self._filled]
            self._layer.put(self._filled, part)
            self._filled += len(part)
            voxels = voxels[len(part) :]
            if self._filled == self._layer.shape[0]:
                self._write_layer()
        if self._coarser is not None:
            if len(self._rest):
                carried = np.concatenate((self._rest, carried))
            whole = len(carried) - len(carried) % self._step[0]
            self._rest = carried[whole:].copy()
            if whole:
                self._coarser.add(self._reduced(carried[:whole], self._coarser._carried))

    def finish(self) -> None:
        """Write what is left, here and in the coarser levels."""
        self._write_layer()
        if self._coarser is not None:
            if len(self._rest):
                self._coarser.add(self._reduced(self._rest, self._coarser._carried))
            self._coarser.finish()

    def _reduced(self, carried: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """What the next level carries of it."""
        planes, rows, _ = self._step
        shape = [-(-n // step) for n, step in zip(carried.shape, self._step, strict=False)]
        out = np.empty((*shape, *carried.shape[3:]), dtype)
        for place, band in _bands(carried, (planes, rows)):
            part = self._reducer.reduce(carried[place, band], self._step, dtype)
            a, b = place.start // planes, band.start // rows
            out[a : a + part.shape[0], b : b + part.shape[1]] = part
        return out

    def _write_layer(self) -> None:
        height, width = self._array.chunks[-2:]
        several = self._image.components > 1

        def write(place: tuple[int, int, int]) -> None:
            value, row, column = place
            planes = slice(self._written, self._written + self._filled)
            box = (planes, slice(row, min(row + height, self._layer.shape[1])), slice(column, min(column + width, band.shape[2])))
            voxels = band[:, :, box[2]]
            # NGFF wants channels before space.
            self._array[(value, *box) if several else box] = voxels[..., value] if several else voxels

        if self._filled:
            for row in range(0, self._layer.shape[1], height):
                band = self._layer.rows(self._filled, slice(row, min(row + height, self._layer.shape[1])))
                # Chunk by chunk: when one fails, zarr goes on with the others that it was given, in a folder that is being removed.
                list(self._pool.map(write, product(range(self._image.components), [row], range(0, band.shape[2], width))))
        self._written += self._filled
        self._filled = 0


class _Layer:
    """Planes that wait for the others of their chunks: in memory, or in a file without a name."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], folder: Path | None) -> None:
        self.shape = shape
        self._dtype = dtype
        self._array = np.empty(shape, dtype) if folder is None else None
        self._file = None if folder is None else tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._row_bytes = voxel_count(shape[2:]) * dtype.itemsize

    def put(self, plane: int, planes: npt.NDArray[Any]) -> None:
        """Store whole planes."""
        if self._array is not None:
            self._array[plane : plane + len(planes)] = planes
            return
        assert self._file is not None
        self._file.seek(plane * self.shape[1] * self._row_bytes)
        for one in planes:
            view = bytes_of(np.ascontiguousarray(one, self._dtype))
            while view:
                view = view[self._file.write(view) :]

    def rows(self, planes: int, rows: slice) -> npt.NDArray[Any]:
        """Rows of the first `planes` planes."""
        if self._array is not None:
            return self._array[:planes, rows]
        assert self._file is not None
        out = np.empty((planes, rows.stop - rows.start, *self.shape[2:]), self._dtype)
        for plane, part in enumerate(out):
            self._file.seek((plane * self.shape[1] + rows.start) * self._row_bytes)
            view = bytes_of(part)
            while view:
                count = self._file.readinto(view)
                if not count:
                    raise StorageError("a scratch file ends before it should: the disk may be failing")
                view = view[count:]
        return out

    def close(self) -> None:
        """Let go of the memory or the file."""
        self._array = None
        if self._file is not None:
            self._file.close()


def _bands(array: npt.NDArray[Any], step: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Planes and rows of small parts of an array, which begin and end at whole steps."""
    planes, rows = step
    row_bytes = array.nbytes // (array.shape[0] * array.shape[1])
    height = max(1, _BAND_BYTES // max(1, planes * rows * row_bytes)) * rows
    for plane in range(0, array.shape[0], planes):
        for row in range(0, array.shape[1], height):
            yield slice(plane, min(plane + planes, array.shape[0])), slice(row, min(row + height, array.shape[1]))


class _ZarrSink(Sink):
    def __init__(self, image: OutputImage, finest: _Level) -> None:
        super().__init__(image, 0)
        self._finest = finest

    def _append(self, planes: npt.NDArray[Any]) -> None:
        self._finest.add(planes)

    def finish(self) -> None:
        super().finish()
        self._finest.finish()


class OmeZarrOutput(OutputFormat):
    """OME-Zarr 0.5 in zarr's version 3, with a pyramid and the axes' anatomical orientation."""

    name = "OME-Zarr"
    axis = 0
    dtypes = ALL_DTYPES
    is_folder = True

    def __init__(self, memory_bytes: int | None = None) -> None:
        self._layer_bytes = _LAYER_BYTES
        if memory_bytes is not None:
            self._layer_bytes = max(_LEAST_LAYER_BYTES, (memory_bytes - _PROCESS_BYTES) // _LAYER_PART)

    @contextmanager
    def open(self, paths: Sequence[Path], image: OutputImage, threads: int) -> Iterator[_ZarrSink]:
        (path,) = paths
        plans = _plan(image)
        group = zarr.create_group(path, zarr_format=3, attributes={"ome": _metadata(image, plans), "lsfm": image.facts()})
        channels = (image.components,) if image.components > 1 else ()
        levels: list[_Level] = []
        pool = ThreadPoolExecutor(threads)
        try:
            for index, plan in reversed(list(enumerate(plans))):
                array = group.create_array(
                    str(index),
                    shape=(*channels, *plan.shape),
                    chunks=(*(1 for _ in channels), *plan.chunks),
                    dtype=image.stored,
                    dimension_names=[*("c" for _ in channels), "z", "y", "x"],
                )
                folder = path if self._layer(plan, image)[1] else None
                levels.append(_Level(image, plan, array, levels[-1] if levels else None, pool, folder))
            with pool:
                yield _ZarrSink(image, levels[-1])
        finally:
            for level in levels:
                level.close()

    def memory_bytes(self, image: OutputImage) -> int:
        need = _LIBRARY_BYTES
        reduce = reducer(image.kind, image.dtype)
        for plan in _plan(image):
            # What is kept of the layer, and what is carried on: a plane that waits, the same with those that follow it.
            carried = 4 * reduce.carried_dtype(plan.factors).itemsize * voxel_count(plan.shape[1:]) * image.components
            need += self._layer(plan, image)[0] + carried
        return need

    def disk_bytes(self, path: Path, image: OutputImage) -> int:
        return sum(voxel_count(plan.shape) for plan in _plan(image)) * image.components * image.dtype.itemsize

    def _layer(self, plan: LevelPlan, image: OutputImage) -> tuple[int, bool]:
        """What a level's layer takes in memory, and whether that is a band of it only, since it is kept in a file."""
        depth = min(plan.chunks[0], plan.shape[0])
        row = depth * plan.shape[2] * image.components * image.dtype.itemsize
        whole = row * plan.shape[1]
        return (whole, False) if whole <= self._layer_bytes else (row * min(plan.chunks[1], plan.shape[1]), True)


def _plan(image: OutputImage) -> list[LevelPlan]:
    plans = plan_levels(image.space.shape, image.space.voxel_size_mm, image.dtype.itemsize)
    return [replace(plan, chunks=_flat_enough(plan, image.dtype.itemsize * image.components)) for plan in plans]


def _flat_enough(plan: LevelPlan, itemsize: int) -> Shape3:
    """The plan's chunks, or flatter and wider ones of the same size, of which a layer is not too large.

    Whatever the memory: the same image becomes the same file.
    """
    depth, rows, columns = plan.chunks
    while depth > 1 and depth * voxel_count(plan.shape[1:]) * itemsize > _LAYER_BYTES:
        depth //= 2
        if rows < columns:
            rows = min(2 * rows, plan.shape[1])
        else:
            columns = min(2 * columns, plan.shape[2])
    return depth, rows, columns


def _metadata(image: OutputImage, plans: Sequence[LevelPlan]) -> dict[str, Any]:
    channels = [{"name": "c", "type": "channel"}] if image.components > 1 else []
    space = [
        {"name": name, "type": "space", "unit": "millimeter", "orientation": {"type": "anatomical", "value": value}}
        for name, value in zip("zyx", image.space.orientation.directions, strict=True)
    ]
    datasets = []
    for index, plan in enumerate(plans):
        level = image.space.level(plan.factors, plan.shape)
        scale = {"type": "scale", "scale": [1.0 for _ in channels] + list(level.voxel_size_mm)}
        # Along the axes, which is not the way in the world where these are oblique: levels must lie upon each other in the file.
        offset = np.add(image.space.offset_mm, np.subtract(level.voxel_size_mm, image.space.voxel_size_mm) / 2)
        translation = {"type": "translation", "translation": [0.0 for _ in channels] + offset.tolist()}
        datasets.append({"path": str(index), "coordinateTransformations": [scale, translation]})
    multiscale = {
        "name": image.name or "image",
        "axes": channels + space,
        "datasets": datasets,
        "type": "mode" if image.kind == "labels" else "mean",
    }
    metadata: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale]}
    if image.kind == "labels":
        metadata["image-label"] = {}
    if image.is_colour:
        top = np.iinfo(image.dtype).max
        window = {"min": 0, "max": top, "start": 0, "end": top}
        metadata["omero"] = {
            "channels": [{"label": label, "color": colour, "window": window} for label, colour in _COLOURS[: image.components]]
        }
    return metadata
