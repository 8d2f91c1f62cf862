"""Zarr in: arrays of version 2 and 3, and images of OME-Zarr 0.4 and 0.5. And out: OME-Zarr 0.5 [1]_ with a pyramid.

.. [1] https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from lsfm_core.errors import InputError, LsfmError, SourceError
from lsfm_core.formats._channels import channel_key, check_one_timepoint, pick_channel
from lsfm_core.formats._geometry import voxel_size_or_none
from lsfm_core.formats._sink import ALL_DTYPES, OutputFormat, OutputImage, Sink
from lsfm_core.formats.arrays import ArraySource
from lsfm_core.geometry import Shape3, Triple, mm_per, voxel_count
from lsfm_core.pyramid import LevelPlan, plan_levels, reducer

__all__ = ["OmeZarrOutput", "open_zarr"]

_SUPPORTED = ("0.4", "0.5")
#: Planes are kept until they fill a layer of chunks; chunks of large planes are made flat, so that no layer is larger than this.
_LAYER_BYTES = 128 * 2**20
_COLOURS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"), ("opacity", "FFFFFF"))


def open_zarr(path: Path, channel: int | str | None) -> ArraySource:
    """Open a folder that holds a Zarr array or an OME-Zarr image, of which the finest level is taken.

    Raises
    ------
    SourceError
        If the metadata are damaged, or tell of no image.
    InputError
        If it is not clear which image or channel is meant.
    """
    try:
        return _open(path, channel)
    except LsfmError:
        raise
    except Exception as error:  # zarr trusts what it parses, and so do we here
        raise SourceError(f"{path}: its Zarr metadata are damaged, or not supported: {type(error).__name__}: {error}") from error


def _open(path: Path, channel: int | str | None) -> ArraySource:
    node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Array):
        leading = node.shape[:-3]
        if math.prod(leading) != 1:
            raise InputError(
                f"{path}: is an array of shape {node.shape}, whose first axes are not named: give one volume, or an OME-Zarr image"
            )
        if channel is not None:
            pick_channel(str(path), ("",), channel)
        return _source(path, node, (0,) * len(leading), None, {"format": f"Zarr {node.metadata.zarr_format}"})
    attributes: dict[str, Any] = dict(node.attrs)
    ome = attributes.get("ome", attributes)
    if "multiscales" not in ome:
        if "bioformats2raw.layout" in ome and "0" in node and "1" not in node:
            return _open(path / "0", channel)
        members = ", ".join(sorted(name for name, _ in node.members())[:10])
        raise InputError(
            f"{path}: is no OME-Zarr image: give the path of an image or array in it (it holds: {members or 'nothing'})"
        )
    if len(ome["multiscales"]) != 1:
        raise InputError(f"{path}: holds {len(ome['multiscales'])} images: save one of them as a file of its own")
    return _open_image(path, node, ome, channel)


def _open_image(path: Path, group: zarr.Group, ome: Mapping[str, Any], channel: int | str | None) -> ArraySource:
    image = ome["multiscales"][0]
    version = str(ome.get("version", image.get("version", "0.4")))
    axes = image.get("axes", ())
    if version not in _SUPPORTED or not all(isinstance(axis, dict) for axis in axes):
        raise SourceError(f"{path}: is OME-Zarr {version}: versions {' and '.join(_SUPPORTED)} can be read")
    array = group[image["datasets"][0]["path"]]
    kinds = [axis.get("type", "space") for axis in axes]
    if not isinstance(array, zarr.Array) or len(kinds) != array.ndim or kinds[-3:] != ["space"] * 3 or kinds.count("space") != 3:
        raise SourceError(
            f"{path}: has the axes {[axis.get('name') for axis in axes]}: expected three in space, after time and channel"
        )
    prefix = [0] * (array.ndim - 3)
    facts: dict[str, Any] = {"format": f"OME-Zarr {version}"}
    picked = False
    for axis, kind in enumerate(kinds[:-3]):
        if kind == "time":
            check_one_timepoint(str(path), array.shape[axis], array.shape[-3])
        elif kind == "channel":
            labels = [str(entry.get("label", "")) for entry in ome.get("omero", {}).get("channels", ())]
            names = (labels + [""] * array.shape[axis])[: array.shape[axis]]
            prefix[axis] = pick_channel(str(path), names, channel)
            picked = True
            if len(names) > 1:
                facts |= {"channel": channel_key(names, prefix[axis]), "channel_names": names}
        elif array.shape[axis] != 1:
            raise SourceError(f"{path}: has an axis of type {kind!r}: only time, channel and space are known")
    if channel is not None and not picked:
        pick_channel(str(path), ("",), channel)
    if image.get("name"):
        facts["acquisition"] = {"name": str(image["name"])}
    return _source(path, array, tuple(prefix), _voxel_size(image, axes), facts)


def _source(
    path: Path, array: zarr.Array[Any], prefix: tuple[int, ...], size: Triple | None, facts: Mapping[str, Any]
) -> ArraySource:
    return ArraySource(array, name=str(path), prefix=prefix, voxel_size_mm=size, facts=facts)


def _voxel_size(image: Mapping[str, Any], axes: Any) -> Triple | None:
    """The level's scale and, where there is one, the image's own; in mm, if all three axes have a unit."""
    sizes = [mm_per(axis.get("unit")) or math.nan for axis in axes[-3:]]
    for place in (image["datasets"][0], image):
        for step in place.get("coordinateTransformations", ()):
            if step.get("type") == "scale" and "scale" in step:
                sizes = [size * float(factor) for size, factor in zip(sizes, step["scale"][-3:], strict=True)]
    return voxel_size_or_none(sizes)


class _Level:
    """One level on its way to the file: it gathers planes until they fill a layer of chunks, and carries them on to the next."""

    def __init__(
        self, image: OutputImage, plan: LevelPlan, array: zarr.Array[Any], coarser: _Level | None, pool: ThreadPoolExecutor
    ) -> None:
        self._image = image
        self._factors = plan.factors
        self._pool = pool
        self._array = array
        self._coarser = coarser
        self._step = (1, 1, 1) if coarser is None else tuple(np.floor_divide(coarser._factors, plan.factors))
        self._reducer = reducer(image.kind, image.dtype)
        self._carried = self._reducer.carried_dtype(plan.factors)
        self._layer = np.empty((plan.chunks[0], *plan.shape[1:], *image.shape[3:]), image.dtype)
        self._written = self._filled = 0
        # Planes that wait for the others of their block.
        self._rest = np.empty((0, *self._layer.shape[1:]), self._carried)

    def add(self, carried: npt.NDArray[Any]) -> None:
        """Take the planes that follow; `lsfm_core.pyramid.Reducer` says what is carried."""
        voxels = carried
        if self._factors != (1, 1, 1):
            start = (self._written + self._filled, 0, 0)
            voxels = self._reducer.finish(carried, self._factors, start, self._image.space.shape)
        while len(voxels):
            part = voxels[: len(self._layer) - self._filled]
            self._layer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            voxels = voxels[len(part) :]
            if self._filled == len(self._layer):
                self._write_layer()
        if self._coarser is not None:
            if len(self._rest):
                carried = np.concatenate((self._rest, carried))
            whole = len(carried) - len(carried) % self._step[0]
            self._rest = carried[whole:].copy()
            if whole:
                self._coarser.add(self._reducer.reduce(carried[:whole], self._step, self._coarser._carried))

    def finish(self) -> None:
        """Write what is left, here and in the coarser levels."""
        self._write_layer()
        if self._coarser is not None:
            if len(self._rest):
                self._coarser.add(self._reducer.reduce(self._rest, self._step, self._coarser._carried))
            self._coarser.finish()

    def _write_layer(self) -> None:
        layer = self._layer[: self._filled]
        if self._image.components > 1:
            layer = np.moveaxis(layer, -1, 0)
        edges = [range(0, n, step) for n, step in zip(layer.shape, self._array.chunks, strict=True)]

        def write(start: tuple[int, ...]) -> None:
            box = [slice(a, min(a + step, n)) for a, step, n in zip(start, self._array.chunks, layer.shape, strict=True)]
            planes = slice(self._written, self._written + self._filled)
            self._array[(*box[:-3], planes, *box[-2:])] = layer[tuple(box)]

        # Chunk by chunk: when one fails, zarr goes on with the others that it was given, in a folder that is being removed.
        list(self._pool.map(write, product(*edges)))
        self._written += self._filled
        self._filled = 0


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

    @contextmanager
    def open(self, paths: Sequence[Path], image: OutputImage, threads: int) -> Iterator[_ZarrSink]:
        (path,) = paths
        plans = _plan(image)
        group = zarr.create_group(path, zarr_format=3, attributes={"ome": _metadata(image, plans), "lsfm": image.facts()})
        # NGFF wants channels before space.
        channels = (image.components,) if image.components > 1 else ()
        levels: list[_Level] = []
        pool = ThreadPoolExecutor(threads)
        for index, plan in reversed(list(enumerate(plans))):
            array = group.create_array(
                str(index),
                shape=(*channels, *plan.shape),
                chunks=(*(1 for _ in channels), *plan.chunks),
                dtype=image.stored,
                dimension_names=[*("c" for _ in channels), "z", "y", "x"],
            )
            levels.append(_Level(image, plan, array, levels[-1] if levels else None, pool))
        with pool:
            yield _ZarrSink(image, levels[-1])

    def disk_bytes(self, path: Path, image: OutputImage) -> int:
        return sum(voxel_count(plan.shape) for plan in _plan(image)) * image.components * image.dtype.itemsize


def _plan(image: OutputImage) -> list[LevelPlan]:
    plans = plan_levels(image.space.shape, image.space.voxel_size_mm, image.dtype.itemsize)
    return [replace(plan, chunks=_flat_enough(plan, image.dtype.itemsize * image.components)) for plan in plans]


def _flat_enough(plan: LevelPlan, itemsize: int) -> Shape3:
    """The plan's chunks, or flatter and wider ones of the same size, of which a layer is not too large."""
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
