"""Channel -> layer tuple: data, geometry and looks. Speaks napari's vocabulary, but imports nothing of it.

napari's world is here the *native frame* of a file: the stored axes of its first channel, in mm, so that a plane of the microscope
is a plane on the screen. Channels that were stored in another orientation are turned to it, lazily.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from lsfm_core import InputError, LabelTable, Orientation, Space, linear_way
from napari_lsfm._labels import label_looks
from napari_lsfm._views import OverTime, Recoded, Shaded

if TYPE_CHECKING:
    from lsfm_core import Channel, ChannelView, Level, LsfmFile, ViewLevel, Volume

__all__ = [
    "LayerData",
    "affine_in_space",
    "layer_tuple",
    "layer_tuples",
    "native_frame",
    "placement",
    "view_tuples",
    "volume_layer",
]

LayerData = tuple[Any, dict[str, Any], str]

#: Their sums stay distinguishable.
_COLORMAPS = ("green", "magenta", "cyan", "yellow", "red", "blue")
_PERCENTILES = (0.5, 99.8)
#: Longest edge of the box that contrast limits are taken from; the coarsest level of our own pyramids is within it.
_SAMPLE_EDGE = 256


def layer_tuples(file: LsfmFile, leave_out: Collection[str] = ()) -> list[LayerData]:
    """Layer tuples of a file's channels, in order; vectors have no layer, components that are no colours one each.

    Parameters
    ----------
    file : LsfmFile
    leave_out : collection of str
        Channels of which there are to be none.

    Returns
    -------
    list of LayerData
    """
    channels = [channel for name, channel in file.channels.items() if name not in leave_out]
    images = sum(channel.kind == "image" for channel in channels)
    colormaps = cycle(_COLORMAPS if images > 1 else ("gray",))
    moments = [time for channel in channels for time in channel.timepoints]
    times = range(min(moments, default=0), max(moments, default=0) + 1)
    layers = []
    for channel in channels:
        if channel.kind == "components" and not _are_colours(channel.levels[0]):
            values = channel.levels[0].shape[3]
            layers += [layer_tuple(file, channel, colormap="gray", times=times, component=value) for value in range(values)]
        elif channel.kind != "vectors":
            colormap = next(colormaps) if channel.kind == "image" else None
            layers.append(layer_tuple(file, channel, colormap=colormap, times=times))
    return layers


def native_frame(file: LsfmFile, channel: Channel) -> Orientation:
    """The axes along which a channel is shown: the stored ones of the first channel that shares its world."""
    # Channels without a known orientation have a world of their own, so they also have their own native frame.
    peers = [other for other in file.channels.values() if (other.orientation is None) == (channel.orientation is None)]
    return peers[0].orientation or peers[0].space.orientation


def _are_colours(array: Any) -> bool:
    return array.shape[3:] in ((3,), (4,)) and array.dtype.name in ("uint8", "uint16")


def layer_tuple(
    file: LsfmFile, channel: Channel, *, colormap: str | None = None, times: range = range(1), component: int | None = None
) -> LayerData:
    """Layer tuple of one channel of kind image, labels or components; reads no voxels if the channel has a display range.

    Parameters
    ----------
    file : LsfmFile
        Open; the layer reads from it.
    channel : Channel
    colormap : str, optional
        For images that bring none.
    times : range
        BigDataViewer's timepoints; if there are several, the layer has time as its first axis.
    component : int, optional
        Which value of each voxel is shown, of components that are no colours.

    Returns
    -------
    data, keywords, layer type
        As napari takes them. ``metadata["lsfm"]`` names the ``path`` by which the file was opened, the ``xml`` if that was
        BigDataViewer's, the ``channel``, its ``kind``, the ``axcodes`` of the layer's axes (None where the file does not record
        how the specimen lay), the ``box`` of stored voxels among those that are shown (first and last + 1 along each axis), and
        of labels that are shown under other numbers the ``ids`` that these stand for.
    """
    native = native_frame(file, channel)
    levels, space, box = _levels_along(channel.levels, native)
    if component is not None:
        levels = [level[..., component] for level in levels]
    about: dict[str, Any] = {
        "path": str(file.opened_as),
        "xml": None if file.named_xml is None else str(file.named_xml),
        "channel": channel.name,
        "kind": channel.kind,
        "axcodes": None if channel.orientation is None else native.axcodes,
        "box": box,
    }
    keywords: dict[str, Any] = {
        "name": channel.name if component is None else f"{channel.name} [{component}]",
        "multiscale": len(levels) > 1,
        **placement(space, native),
        "units": ("mm" if channel.unit == "mm" else "pixel",) * 3,
        "axis_labels": ("z", "y", "x"),
        "metadata": {"lsfm": about},
    }
    levels, looks = _dressed(file, channel, levels, about, colormap, component)
    keywords |= looks
    if len(times) > 1:
        levels = _over_time(file, channel, native, times, levels)
        keywords |= _with_time(keywords, times)
    return levels if len(levels) > 1 else levels[0], keywords, "labels" if channel.kind == "labels" else "image"


def view_tuples(
    file: LsfmFile, view: ChannelView, native: Orientation, *, through: Sequence[str] = (), space: str | None = None
) -> list[LayerData]:
    """Layer tuples of a channel that is seen through transforms, which `layer_tuple` gives of one as it is stored.

    Parameters
    ----------
    file : LsfmFile
        Open; the layer reads from it.
    view : ChannelView
    native : Orientation
        Of the axes along which it is shown.
    through : sequence of str
        The transforms, as `TransformStep` spells them.
    space : str, optional
        What the space is called where the view lies.

    Returns
    -------
    list of LayerData
        One, or one for each of components that are no colours. ``metadata["lsfm"]`` has ``kind``, ``axcodes``, ``box``, and of
        labels ``ids`` and their ``table``, as in `layer_tuple`; it has no ``channel``, since the voxels are not that channel's;
        what is seen tells ``view``: its ``path``, ``channel``, ``through`` (names, and the ``chain`` itself) and ``space``.
    """
    channel = file[view.channel]
    components: Sequence[int | None] = (None,)
    if channel.kind in ("components", "vectors") and not _are_colours(view.levels[0]):
        components = range(view.shape[3])
    shown, space_of_first, box = _levels_along(view.levels, native)
    tuples: list[LayerData] = []
    for component in components:
        levels = shown if component is None else [level[..., component] for level in shown]
        about: dict[str, Any] = {
            "kind": channel.kind if component is None else "image",
            "axcodes": native.axcodes,
            "box": box,
            "view": {
                "path": str(file.opened_as),
                "channel": channel.name,
                "through": list(through),
                "chain": view.chain,
                "space": space,
            },
        }
        if channel.kind == "labels":
            about["table"] = LabelTable.from_json(file.label_table(channel.name))
        suffix = "" if component is None else f" [{component}]"
        keywords = {
            "name": f"{channel.name}{suffix} in {space}" if space else f"{channel.name}{suffix}, carried",
            "multiscale": len(levels) > 1,
            **placement(space_of_first, native),
            "units": ("mm",) * 3,
            "axis_labels": ("z", "y", "x"),
            "metadata": {"lsfm": about},
        }
        levels, looks = _dressed(file, channel, levels, about, "gray", component)
        tuples.append(
            (levels if len(levels) > 1 else levels[0], keywords | looks, "labels" if channel.kind == "labels" else "image")
        )
    return tuples


def _dressed(
    file: LsfmFile, channel: Channel, levels: list[Any], about: dict[str, Any], colormap: str | None, component: int | None
) -> tuple[list[Any], dict[str, Any]]:
    """Levels as napari shows them, and how they look; `about` gets the ids of labels that are shown under other numbers."""
    if channel.kind == "components" and component is None:
        return [_in_8_bits(level, _contrast_limits(channel)) for level in levels], {"rgb": True, "blending": "translucent_no_depth"}
    if channel.kind != "labels":
        colours = channel.colormap or colormap
        return levels, {"contrast_limits": _contrast_limits(channel), "colormap": colours, "blending": "additive"}
    ids, looks = label_looks(LabelTable.from_json(file.label_table(channel.name)), channel.dtype)
    if ids is not None:
        about["ids"] = ids
        levels = [Recoded(level, ids) for level in levels]
    return levels, looks


def _in_8_bits(colours: Any, limits: tuple[float, float]) -> Any:
    """Colours as napari shows them: other types than uint8 have their range in its stead."""
    return colours if colours.dtype == np.uint8 else Shaded(colours, *limits)


def affine_in_space(file: LsfmFile, channel: str, space: str) -> np.ndarray[Any, Any]:
    """The affine (4, 4) of a channel's layer that shows it in another space, exactly: all else of the layer stays.

    Parameters
    ----------
    file : LsfmFile
    channel : str
    space : str
        Its name, or that of a channel that lives there.

    Raises
    ------
    LsfmError
        If no affines of the file lead there, or it is not recorded how the channel lies.
    """
    own = file[channel]
    if own.orientation is None:
        raise InputError(f"{file.path}: channel {channel!r} has no orientation recorded: nothing tells where its world lies")
    native = native_frame(file, own)
    native_from_world = np.eye(4)
    native_from_world[:3, :3] = native.direction.T
    there_from_own = np.eye(4)
    if own.space_name is None or space not in (own.space_name, channel):
        there_from_own = linear_way(file, channel, space).inverse().matrix
    placed = placement(_levels_along(own.levels, native)[1], native).get("affine", np.eye(4))
    affine: np.ndarray[Any, Any] = native_from_world @ there_from_own @ native_from_world.T @ placed
    return affine


def volume_layer(
    volume: Volume,
    name: str,
    contrast_limits: tuple[float, float] | None = None,
    table: LabelTable | None = None,
    axcodes: str | None = None,
) -> LayerData:
    """Layer tuple of an image in memory.

    Parameters
    ----------
    volume : Volume
        Of kind image, labels or components, with mm along the native frame's axes in the place of R, A, S. Components that are no
        colours become a first axis.
    name : str
    contrast_limits : tuple of 2 float, optional
        Of an image; napari chooses some where they are missing.
    table : LabelTable, optional
        Of labels: then they look as in their file. ``metadata["lsfm"]`` has the ``table``, and the ``ids`` as in `layer_tuple`.
    axcodes : str, optional
        Where the native frame's axes grow toward, as ``metadata["lsfm"]`` tells then.
    """
    # In the native frame the axes are the world's own, which RAS stands for here.
    frame = Orientation("RAS")
    reorientation = volume.space.reorientation_to(frame)
    keywords: dict[str, Any] = {
        "name": name,
        **placement(volume.space.reoriented(reorientation), frame),
        "units": ("mm",) * 3,
        "axis_labels": ("z", "y", "x"),
    }
    about: dict[str, Any] = {} if axcodes is None else {"kind": volume.kind, "axcodes": axcodes}
    if volume.kind == "image" and contrast_limits is not None and contrast_limits[0] < contrast_limits[1]:
        keywords["contrast_limits"] = contrast_limits
    data: Any = reorientation.apply(volume.array)
    if volume.kind == "labels" and table:
        ids, looks = label_looks(table, volume.array.dtype)
        keywords |= looks
        about |= {"kind": "labels", "table": table, "ids": ids}
        data = data if ids is None else Recoded(data, ids)
    if about:
        keywords["metadata"] = {"lsfm": about}
    if volume.kind == "components" and _are_colours(data):
        keywords["rgb"] = True
        data = _in_8_bits(data, contrast_limits or (0.0, float(max(1, data.max()))))
    elif volume.kind == "components":
        keywords |= {**_with_time(keywords, range(data.shape[3])), "axis_labels": ("c", "z", "y", "x")}
        data = np.moveaxis(data, -1, 0)
    return data, keywords, "labels" if volume.kind == "labels" else "image"


def _levels_along(own: Sequence[Level | ViewLevel], native: Orientation) -> tuple[list[Any], Space, list[list[int]]]:
    """Levels with their axes along those of `native`, the space of the first, and the box of what is stored of it.

    napari takes the ratio of two levels' shapes for their scale. So all are padded to where that is the factor exactly.
    """
    finest = own[0]
    factors = np.divide([level.factors for level in own], finest.factors)
    # A foreign file's levels may have been reduced by broken factors, which no padding makes exact: they are left out.
    exact = np.flatnonzero(np.isclose(factors, factors.round(), atol=1e-3).all(axis=1))
    whole = factors.round().astype(int)
    step = np.lcm.reduce(whole[exact], axis=0)
    shape = -(-np.array(finest.space.shape) // step) * step
    reorientation = finest.space.reorientation_to(native)
    flips = tuple(slice(None, None, -1 if flip else 1) for flip in reorientation.flips)
    levels: list[Any] = []
    for index in exact:
        values = own[index].shape[3:]
        data = own[index].data.padded((*(shape // whole[index]).tolist(), *values))
        axes = (*reorientation.axes, *range(3, 3 + len(values)))
        # Not through napari's affine: it cannot slice along axes that are exchanged there.
        levels.append(data.transpose(axes)[flips])
    padding = shape - finest.space.shape
    box = [
        [int(padding[axis]) if flip else 0, int(shape[axis]) if flip else finest.space.shape[axis]]
        for axis, flip in zip(reorientation.axes, reorientation.flips, strict=True)
    ]
    return levels, finest.space.crop((0, 0, 0), shape.tolist()).reoriented(reorientation), box


def _over_time(file: LsfmFile, channel: Channel, native: Orientation, times: range, first: Sequence[Any]) -> list[OverTime]:
    """Levels with time before their axes; at a time at which the channel was not imaged, it is dark."""

    @cache
    def levels_at(time: int) -> list[Any]:
        if time not in channel.timepoints:
            return [np.broadcast_to(np.zeros((), level.dtype), level.shape) for level in first]
        return _levels_along(file.levels_at(channel.name, time), native)[0]

    return [OverTime(lambda time, index=index: levels_at(time)[index], times, level) for index, level in enumerate(first)]


def _with_time(keywords: Mapping[str, Any], times: range) -> dict[str, Any]:
    """Keywords for one more axis in front; BigDataViewer's files do not tell how long a step is."""
    longer: dict[str, Any] = {
        "scale": (1.0, *keywords["scale"]),
        "units": ("pixel", *keywords["units"]),
        "axis_labels": ("t", *keywords["axis_labels"]),
    }
    if "translate" in keywords:
        return {**longer, "translate": (float(times.start), *keywords["translate"])}
    affine = np.eye(5)
    affine[1:, 1:] = keywords["affine"]
    affine[0, -1] = times.start
    return {**longer, "affine": affine}


def placement(space: Space, native: Orientation) -> dict[str, Any]:
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
