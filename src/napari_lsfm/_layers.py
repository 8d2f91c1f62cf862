"""Channel -> layer tuple: data, geometry and looks. Speaks napari's vocabulary, but imports nothing of it.

napari's world is here the *native frame* of a file: the stored axes of its first channel, in mm, so that a plane of the microscope
is a plane on the screen. Channels that were stored in another orientation are turned to it, lazily.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from lsfm_core import Channel, LazyLevel, Orientation, Space, Volume

__all__ = ["LayerData", "layer_tuple", "layer_tuples", "volume_layer"]

LayerData = tuple[Any, dict[str, Any], str]

#: Their sums stay distinguishable.
_COLORMAPS = ("green", "magenta", "cyan", "yellow", "red", "blue")
_PERCENTILES = (0.5, 99.8)
#: Longest edge of the box that contrast limits are taken from; the coarsest level of our own pyramids is within it.
_SAMPLE_EDGE = 256


def layer_tuples(*, path: Path, channels: Sequence[Channel]) -> list[LayerData]:
    """Layer tuples of a file's channels, in order; vectors have no layer.

    Parameters
    ----------
    path : Path
        The file, for the layers' metadata.
    channels : sequence of Channel

    Returns
    -------
    list of LayerData
    """
    images = sum(channel.kind == "image" for channel in channels)
    colormaps = cycle(_COLORMAPS if images > 1 else ("gray",))
    # Channels without a known orientation have a world of their own, so they also have their own native frame.
    frames: dict[bool, Orientation] = {}
    layers = []
    for channel in channels:
        native = frames.setdefault(channel.orientation is None, channel.orientation or channel.space.orientation)
        if channel.kind != "vectors":
            colormap = next(colormaps) if channel.kind == "image" else None
            layers.append(layer_tuple(path=path, channel=channel, native=native, colormap=colormap))
    return layers


def layer_tuple(*, path: Path, channel: Channel, native: Orientation, colormap: str | None = None) -> LayerData:
    """Layer tuple of one channel of kind image or labels; reads no voxels if the channel has a display range.

    Parameters
    ----------
    path : Path
        The channel's file.
    channel : Channel
    native : Orientation
        Of the frame in which the layer is shown: its axes are napari's z, y and x.
    colormap : str, optional
        For images.

    Returns
    -------
    data, keywords, layer type
        As napari takes them. ``metadata["lsfm"]`` names the path, the channel, its kind, and the axis codes of the layer's axes
        (None where the file does not record how the specimen lay).
    """
    levels, space = _levels_along(channel, native)
    keywords: dict[str, Any] = {
        "name": channel.name,
        "multiscale": len(levels) > 1,
        **_placement(space, native),
        "units": ("mm" if channel.unit == "mm" else "pixel",) * 3,
        "axis_labels": ("z", "y", "x"),
        "metadata": {
            "lsfm": {
                "path": str(path),
                "channel": channel.name,
                "kind": channel.kind,
                "axcodes": None if channel.orientation is None else native.axcodes,
            }
        },
    }
    if channel.kind == "image":
        keywords |= {"contrast_limits": _contrast_limits(channel), "colormap": colormap, "blending": "additive"}
    return levels if len(levels) > 1 else levels[0], keywords, channel.kind


def volume_layer(volume: Volume, name: str) -> LayerData:
    """Layer tuple of an image in memory.

    Parameters
    ----------
    volume : Volume
        Of kind image or labels, with mm along the native frame's axes in the place of R, A, S.
    name : str
    """
    from lsfm_core import Orientation

    # In the native frame the axes are the world's own, which RAS stands for here.
    frame = Orientation("RAS")
    reorientation = volume.space.reorientation_to(frame)
    keywords = {
        "name": name,
        **_placement(volume.space.reoriented(reorientation), frame),
        "units": ("mm",) * 3,
        "axis_labels": ("z", "y", "x"),
    }
    return reorientation.apply(volume.array), keywords, volume.kind


def _levels_along(channel: Channel, native: Orientation) -> tuple[list[LazyLevel | _Transposed], Space]:
    """Levels with their axes along those of `native`, and the space of the first.

    napari takes the ratio of two levels' shapes for their scale. So all are padded to where that is the factor exactly.
    """
    finest = channel.levels[0]
    factors = np.divide([level.factors for level in channel.levels], finest.factors)
    # A foreign file's levels may have been reduced by broken factors, which no padding makes exact: they are left out.
    exact = np.flatnonzero(np.isclose(factors, factors.round(), atol=1e-3).all(axis=1))
    whole = factors.round().astype(int)
    step = np.lcm.reduce(whole[exact], axis=0)
    shape = -(-np.array(finest.space.shape) // step) * step
    reorientation = finest.space.reorientation_to(native)
    flips = tuple(slice(None, None, -1 if flip else 1) for flip in reorientation.flips)
    levels: list[LazyLevel | _Transposed] = []
    for index in exact:
        data = channel.levels[index].data.padded(tuple((shape // whole[index]).tolist()))
        # Not through napari's affine: it cannot slice along axes that are exchanged there.
        levels.append((data if reorientation.axes == (0, 1, 2) else _Transposed(data, reorientation.axes))[flips])
    return levels, finest.space.crop((0, 0, 0), shape.tolist()).reoriented(reorientation)


def _placement(space: Space, native: Orientation) -> dict[str, Any]:
    """Scale and translate, as napari calls them; for an oblique space, scale and affine."""
    native_from_world = np.eye(4)
    native_from_world[:3, :3] = native.direction.T
    native_from_voxel = native_from_world @ space.world_from_voxel
    scale = space.voxel_size_mm
    if space.is_axis_aligned:
        return {"scale": scale, "translate": tuple(native_from_voxel[:3, 3].tolist())}
    # The voxel size stays in the scale: napari reads it there to centre the voxels of coarse levels in 3D.
    return {"scale": scale, "affine": native_from_voxel @ np.diag([*np.reciprocal(scale), 1.0])}


def _contrast_limits(channel: Channel) -> tuple[float, float]:
    """The stored display range; else percentiles of the middle of the coarsest level. Never two equal numbers."""
    if channel.display_range is not None and channel.display_range[0] < channel.display_range[1]:
        return channel.display_range
    coarsest = channel.levels[-1].data
    starts = [max(0, (n - _SAMPLE_EDGE) // 2) for n in coarsest.shape]
    sample = np.asarray(coarsest[tuple(slice(start, start + _SAMPLE_EDGE) for start in starts)])
    values = sample[np.isfinite(sample)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, _PERCENTILES)
    if low == high:
        # A few bright spots on nothing.
        low, high = values.min(), values.max()
    return float(low), float(high) if low < high else float(low) + 1


class _Transposed:
    """A lazy level whose axes stand in another order; `axes` names for each axis the level's own."""

    def __init__(self, level: LazyLevel, axes: tuple[int, ...]) -> None:
        self._level = level
        self._axes = axes

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._level.shape[axis] for axis in self._axes)

    @property
    def chunks(self) -> tuple[int, ...]:
        return tuple(self._level.chunks[axis] for axis in self._axes)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._level.dtype

    @property
    def ndim(self) -> int:
        return self._level.ndim

    @property
    def size(self) -> int:
        return self._level.size

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> _Transposed:
        items = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis not in items:
            items.append(Ellipsis)
        place = items.index(Ellipsis)
        items[place : place + 1] = [slice(None)] * (self.ndim - len(items) + 1)
        own = [item for _, item in sorted(zip(self._axes, items, strict=True), key=lambda pair: pair[0])]
        kept = [axis for axis, item in zip(self._axes, items, strict=True) if isinstance(item, slice)]
        return _Transposed(self._level[tuple(own)], tuple(sorted(kept).index(axis) for axis in kept))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self._level.__array__(dtype, copy).transpose(self._axes)
