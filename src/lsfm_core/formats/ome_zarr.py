"""Zarr in: arrays of version 2 and 3, and images of OME-Zarr 0.4 and 0.5."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr

from lsfm_core.errors import InputError, LsfmError, SourceError
from lsfm_core.formats._channels import check_one_timepoint, pick_channel
from lsfm_core.formats._geometry import voxel_size_or_none
from lsfm_core.formats.arrays import ArraySource
from lsfm_core.geometry import Triple, mm_per

__all__ = ["open_zarr"]

_SUPPORTED = ("0.4", "0.5")


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
            check_one_timepoint(str(path), array.shape[axis])
        elif kind == "channel":
            labels = [str(entry.get("label", "")) for entry in ome.get("omero", {}).get("channels", ())]
            names = (labels + [""] * array.shape[axis])[: array.shape[axis]]
            prefix[axis] = pick_channel(str(path), names, channel)
            picked = True
            if len(names) > 1:
                facts |= {"channel": names[prefix[axis]] or prefix[axis], "channel_names": names}
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
