"""Points, such as cells, as a layer over the image that they were found in: read from files, and written to files again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import lsfm_core
from napari_lsfm._layers import native_frame
from napari_lsfm._window import current_viewer, tell

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lsfm._layers import LayerData

__all__ = ["channel_in_view", "channel_voxels", "get_points_reader", "points_layer", "read_points_layers", "write_points_layer"]

FloatArray = npt.NDArray[np.float64]
PathOrPaths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_AXES = 3
#: How wide a point is drawn, mm: seen at the scale of a brain, and with the cell inside of it when one looks closely.
_WIDTH_MM = 0.06
_PIXELS = (6, 10_000)
_COLOUR = "#ffd23f"


def get_points_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerData]] | None:
    """Reader of cellfinder's XML and of tables of points; napari asks for it.

    Parameters
    ----------
    path : str, path, or sequence of them

    Returns
    -------
    callable or None
        `read_points_layers`; None if one of the files is none of points. Never raises.
    """
    paths = _as_paths(path)
    return read_points_layers if paths and all(map(lsfm_core.is_point_file, paths)) else None


def read_points_layers(path: PathOrPaths) -> list[LayerData]:
    """A layer of points of each file, over the channel that is looked at: that of the active layer, else the first of an image.

    Raises
    ------
    LsfmError
        If a file cannot be read; or if it holds R, A, S and there is no channel to tell where these are.
    """
    shown = _channel_in_window()
    layers = []
    for one in _as_paths(path):
        found = lsfm_core.read_points(one)
        layers.append(points_layer(found, one.stem, *(shown or (None, None))))
        where = "taken as voxels; to see them in place, open their image first"
        if shown:
            way = "voxels" if found.place == "native-voxel" else "R, A, S in the world"
            where = f"taken as {way} of channel {shown[1]!r} of {Path(shown[0]).name}"
        tell("; ".join([f"{one.name}: {len(found.points)} points, {where}", *found.remarks]))
    return layers


def points_layer(found: lsfm_core.PointList, name: str, path: str | None = None, channel: str | None = None) -> LayerData:
    """Layer tuple of points over a channel.

    Parameters
    ----------
    found : PointList
    name : str
        Of the layer.
    path, channel : str, optional
        Of the image. Without it points lie in a world of voxels.

    Returns
    -------
    LayerData
        In voxels along the native frame's axes. ``metadata["lsfm"]`` has ``kind`` ``"points"``, ``axcodes``, and in ``points`` the
        ``path`` and the ``channel``, and ``native_from_voxel``: mm along the axes of napari's world, from the channel's voxels.
    """
    features = {key: list(values) for key, values in found.columns.items()}
    looks = {
        "name": name,
        "features": features,
        "face_color": "transparent",
        "border_color": _COLOUR,
        "border_width": 0.15,
        "canvas_size_limits": _PIXELS,
    }
    if path is None or channel is None:
        if found.place != "native-voxel":
            raise lsfm_core.InputError(f"{name}: holds R, A, S in mm: open the image of these points first")
        return found.points, {**looks, "axis_labels": ("z", "y", "x"), "size": 5}, "points"
    with lsfm_core.open_lsfm(path, detached=True) as file:
        own = file[channel]
        native = native_frame(file, own)
    native_from_world = np.eye(_AXES + 1)
    native_from_world[:_AXES, :_AXES] = native.direction.T
    turned = own.space.reoriented(own.space.reorientation_to(native))
    world = found.points if found.place == "native-mm" else own.space.to_world(found.points)
    native_from_turned = native_from_world @ turned.world_from_voxel
    scale = np.asarray(turned.voxel_size_mm)
    placed: dict[str, Any] = {"scale": scale, "affine": native_from_turned @ np.diag([*np.reciprocal(scale), 1.0])}
    if turned.is_axis_aligned:
        placed = {"scale": scale, "translate": native_from_turned[:_AXES, -1]}
    about = {
        "kind": "points",
        "axcodes": None if own.orientation is None else native.axcodes,
        "points": {
            "path": str(path), "channel": channel, "native_from_voxel": (native_from_world @ own.space.world_from_voxel).tolist()
        },
    }  # fmt: skip
    unit = "mm" if own.unit == "mm" else "pixel"
    keywords = {
        **looks,
        **placed,
        "units": (unit,) * _AXES,
        "axis_labels": ("z", "y", "x"),
        # napari draws a point as wide as so many voxels along the first axis.
        "size": max(1.0, _WIDTH_MM / float(scale.max())),
        "metadata": {"lsfm": about},
    }
    return turned.to_voxel(world), keywords, "points"


def write_points_layer(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write a layer of points as voxels of the channel that they lie over; napari asks for it.

    Parameters
    ----------
    path : str
        Ending in .xml (cellfinder's; whole voxels), .csv, .tsv or .txt. A file of that name is replaced: napari has asked.
    data : array (n, 3)
    meta : mapping
        Of the layer, as napari gives it.

    Returns
    -------
    list of str
        The path of what was written.

    Raises
    ------
    NotSavedError
        If the points have more or less than three axes, or something of them cannot be written.
    """
    from napari_lsfm._writer import NotSavedError

    try:
        points = channel_voxels(data, meta)
        lsfm_core.write_points(path, points, _features(meta), overwrite=True)
    except ValueError as error:
        raise NotSavedError(str(error)) from error
    return [str(path)]


def channel_voxels(data: Any, meta: Mapping[str, Any]) -> FloatArray:
    """Points (n, 3) of a layer as indices of voxels of a channel: planes, rows, columns.

    The channel is that which the layer names, else that which is looked at; where there is none, the points are taken as they are.

    Parameters
    ----------
    data : array (n, 3)
    meta : mapping
        Of the layer, as napari gives it.

    Raises
    ------
    InputError
        If they have more or less than three axes.
    """
    from napari_lsfm._writer import matrix_of

    points = np.asarray(data, np.float64)
    name = meta.get("name", "points")
    if points.ndim != 2 or points.shape[1] != _AXES:
        raise lsfm_core.InputError(f"layer {name!r}: its points have {points.shape[-1]} axes, and those of a volume three")
    about = meta.get("metadata", {}).get("lsfm", {}).get("points") or _about(_channel_in_window())
    if about is None:
        return points
    matrix = np.linalg.inv(about["native_from_voxel"]) @ matrix_of(meta, _AXES)
    return points @ matrix[:_AXES, :_AXES].T + matrix[:_AXES, -1]


def channel_in_view(viewer: ViewerModel) -> tuple[str, str] | None:
    """Path and channel of what is looked at: of the active layer, else of the first of a file, of an image if there is one."""
    layers = [viewer.layers.selection.active, *sorted(viewer.layers, key=lambda layer: type(layer).__name__ != "Image")]
    for layer in layers:
        about = {} if layer is None else layer.metadata.get("lsfm", {})
        # Points name the image that they lie over.
        about = about.get("points", about)
        if "path" in about and about.get("kind") != "vectors":
            return about["path"], about["channel"]
    return None


def _about(shown: tuple[str, str] | None) -> dict[str, Any] | None:
    if shown is None:
        return None
    nothing = lsfm_core.PointList(np.empty((0, _AXES)), "native-voxel")
    about: dict[str, Any] = points_layer(nothing, "", *shown)[1]["metadata"]["lsfm"]["points"]
    return about


def _features(meta: Mapping[str, Any]) -> dict[str, list[Any]]:
    features = meta.get("features")
    return {} if features is None else {str(name): list(features[name]) for name in features}


def _channel_in_window() -> tuple[str, str] | None:
    viewer = current_viewer()
    return None if viewer is None else channel_in_view(viewer)


def _as_paths(path: PathOrPaths) -> list[Path]:
    return [Path(path)] if isinstance(path, str | os.PathLike) else [Path(one) for one in path]
