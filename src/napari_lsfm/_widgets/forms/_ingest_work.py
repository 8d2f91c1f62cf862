"""The work of an ingest form, for threads, and what it asks of files and layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lsfm_core import (
    CancelledError,
    CancelToken,
    IngestReport,
    IngestRequest,
    ingest_channel,
    open_lsfm,
    open_source,
)
from napari_lsfm._widgets._facts import origin_of
from napari_lsfm._widgets.fields import Grey, as_grey

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["Image", "can_be_ingested", "ingest", "kinds_in", "middle_plane", "volume_of", "voxel_size_of"]


@dataclass(frozen=True)
class Image:
    """What is to be described and read: its path or layer, and the arguments of `describe_image`."""

    place: Any
    image: Any
    channel: int | str | None
    kind: str
    planes_are: str | None = None
    convention: str | None = None


def ingest(request: IngestRequest) -> Callable[..., IngestReport]:
    """The work itself."""
    return lambda progress, cancel: ingest_channel(request, progress=progress, cancel=cancel)


def middle_plane(asked: Image, edge: int, cancel: CancelToken) -> Grey:
    """A small picture of it."""
    source = open_source(
        asked.image,
        channel=asked.channel,
        kind=asked.kind,
        planes_are=asked.planes_are,
        field_convention=asked.convention,
    )
    try:
        plane = np.empty(source.shape[1:] + ((source.components,) if source.components > 1 else ()), source.dtype)
        middle = source.shape[0] // 2
        # Compressed files are read from the front in any case; plane by plane it can be stopped.
        for index in range(0 if source.forward_only else middle, middle + 1):
            if cancel.cancelled:
                raise CancelledError(f"{source.name}: cancelled")
            source.read_plane(index, plane)
    finally:
        source.close()
    return as_grey(plane, asked.kind, edge)


def kinds_in(path: Path) -> dict[str, str]:
    """Names and kinds of the channels in a file; none if it is not there."""
    if not path.exists():
        return {}
    with open_lsfm(path) as file:
        return {name: channel.kind for name, channel in file.channels.items()}


def can_be_ingested(layer: Layer) -> bool:
    """Volumes and planes that are not in a file of ours already; the layers of those are padded."""
    return type(layer).__name__ in ("Image", "Labels") and layer.ndim in (2, 3) and origin_of(layer) is None


def volume_of(layer: Layer) -> Any:
    """The finest level of a layer; a layer of two axes as one plane."""
    data = layer.data[0] if layer.multiscale else layer.data
    return np.asarray(data)[None] if layer.ndim == 2 else data


def voxel_size_of(layer: Layer) -> list[float] | None:
    """From a layer's scale, if its units are lengths."""
    if not all(unit.is_compatible_with("mm") for unit in layer.units):
        return None
    sizes = [float((scale * unit).to("mm").magnitude) for scale, unit in zip(layer.scale, layer.units, strict=True)]
    # A single plane is as thick as its rows are apart, until somebody knows better.
    return sizes if len(sizes) == 3 else [sizes[0], *sizes]
