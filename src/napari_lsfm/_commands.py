"""What the menus do: resolution in 3D, planes read in the background, and displacement fields."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from lsfm_core import (
    CancelledError,
    CancelToken,
    InputError,
    LabelTable,
    MemoryBudgetError,
    known_spaces,
    linear_way,
    open_lsfm,
    size_text,
)
from napari_lsfm import _reader
from napari_lsfm._arrows import field_layer
from napari_lsfm._layers import affine_in_space
from napari_lsfm._settings import current_settings
from napari_lsfm._viewing import attend, copy_position
from napari_lsfm._window import tell

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari.layers
    import napari.viewer

    from lsfm_core import LsfmFile

__all__ = [
    "copy_position",
    "editable_copy",
    "finest_level_3d",
    "read_in_background",
    "save_layers",
    "show_automatic",
    "show_field",
    "show_finest_3d",
    "show_in_space",
    "toggle_letters",
]

#: What every graphics card that napari runs on can do at least.
_MIN_TEXTURE_EDGE = 2048
#: Of a copy in memory that can be painted on.
_MAX_COPY_BYTES = 2**31
_SAVE_FILTER = "LSFM files (*.h5 *.hdf5)"
#: Degrees by which planes may be tilted before it is told.
_LEAST_TILT = 0.05


def show_finest_3d(viewer: napari.viewer.Viewer, layer: napari.layers.Layer | None = None) -> None:
    """Show a layer in 3D, at the finest level that the graphics card and the settings' budget allow.

    The level is read first, which can be stopped; then nothing changes.

    Parameters
    ----------
    viewer : napari.Viewer
    layer : Layer, optional
        Default: the active one.
    """
    layer = _multiscale(viewer, layer)
    shapes = [tuple(int(n) for n in shape) for shape in layer.level_shapes]
    level = finest_level_3d(shapes, layer.dtype, current_settings().volume_mib * 2**20, _max_texture_edge())
    volume = _stored_volume(viewer, layer, level)
    # What the cache cannot hold would be read twice.
    if volume is not None and _chunk_bytes(volume) <= _reader.chunk_cache().max_bytes:
        from napari_lsfm._workers import wait_for

        try:
            wait_for(partial(_read, volume), f"Read {layer.name}")
        except CancelledError:
            return
        if layer not in viewer.layers or len(layer.level_shapes) != len(shapes):
            # Closed, or given other voxels, meanwhile.
            return
    # First the level: in 3D napari would read the coarsest one for nothing.
    layer.locked_data_level = level
    viewer.dims.ndisplay = 3
    tell(f"{layer.name}: resolution {level} of {len(shapes)}, {_texture_bytes(shapes[level][-3:], layer.dtype) / 2**20:.0f} MiB")


def show_automatic(viewer: napari.viewer.Viewer, layer: napari.layers.Layer | None = None) -> None:
    """Let napari choose a layer's level again: by the zoom in 2D, the coarsest in 3D."""
    _multiscale(viewer, layer).locked_data_level = None


def read_in_background() -> None:
    """Turn napari's own setting on, or off again, that lets the window go on while planes are read."""
    from napari.settings import get_settings

    experimental = get_settings().experimental
    experimental.async_ = not experimental.async_
    tell(
        "Planes are read in the background: the window goes on, and shows the last plane until the next is there. "
        "It is napari's setting Preferences > Experimental > Render Layers Asynchronously."
        if experimental.async_
        else "Planes are read at once: the window waits for them."
    )


def show_field(viewer: napari.viewer.Viewer) -> None:
    """Ask for a displacement field, of the active layer's file or of another, and show it as arrows."""
    from qtpy.QtWidgets import QFileDialog

    from napari_lsfm._workers import front_window

    active = viewer.layers.selection.active
    path = None if active is None else active.metadata.get("lsfm", {}).get("path")
    fields = _fields(path) if path else []
    if not fields:
        path, _ = QFileDialog.getOpenFileName(front_window(), "Show displacement field of", "", "LSFM files (*.h5 *.hdf5)")
        if not path:
            return
        fields = _fields(path)
    if not fields:
        raise InputError(f"{path}: has no displacement field")
    channel = fields[0]
    if len(fields) > 1:
        chosen = _choose("Show displacement field", fields, fields[0])
        if chosen is None:
            return
        channel = chosen
    data, keywords, _ = field_layer(path, channel)
    viewer.add_vectors(data, **keywords)


def show_in_space(viewer: napari.viewer.Viewer, layer: napari.layers.Layer | None = None, space: str | None = None) -> None:
    """Show a layer in the space of another channel, to which affines of its file lead.

    The layer's affine does it, so that no voxel changes. What napari cannot do is told: in 2D it shows the planes as they are
    stored, even if the affine tilts them.

    Parameters
    ----------
    viewer : napari.Viewer
    layer : Layer, optional
        Default: the active one.
    space : str, optional
        Its name, or a channel that lives there. Default: ask.
    """
    layer = layer or viewer.layers.selection.active
    origin = {} if layer is None else layer.metadata.get("lsfm", {})
    if "path" not in origin or origin.get("kind") == "vectors":
        raise InputError("select a layer of a file first: one that shows an image or labels")
    with open_lsfm(origin["path"], detached=True) as file:
        name = origin["channel"]
        if space is None:
            space = _ask_for_space(file, name)
            if space is None:
                return
        affine = affine_in_space(file, name, space)
    whole = np.eye(layer.ndim + 1)
    whole[-4:, -4:] = affine
    if layer.ndim > 3:
        # Of a layer with time, what moves it along time stays.
        whole[:-4, -1] = np.asarray(layer.affine.affine_matrix)[:-4, -1]
    layer.affine = whole
    tilt = _tilt(layer)
    note = (
        f"; its stored planes are tilted by {tilt:.1f}° there, and in 2D napari shows them as if they were not: look in 3D, or "
        "export it through the transforms"
        if tilt > _LEAST_TILT
        else ""
    )
    tell(f"{layer.name} is shown in the space of {space}{note}")


def toggle_letters(viewer: napari.viewer.Viewer) -> None:
    """Show the letters at the canvas' edges, or hide them."""
    attend(viewer).toggle_letters()


def editable_copy(viewer: napari.viewer.Viewer, layer: napari.layers.Layer | None = None) -> None:
    """Add a copy in memory of a layer's finest level, which can be painted on, and saved again.

    Parameters
    ----------
    viewer : napari.Viewer
    layer : Layer, optional
        Of kind image or labels; default: the active one.

    Raises
    ------
    InputError
        If it is another kind of layer.
    MemoryBudgetError
        If it would take more than 2 GiB.
    """
    from napari.layers import Image, Labels
    from napari.utils.transforms import CompositeAffine

    layer = layer or viewer.layers.selection.active
    if not isinstance(layer, Image | Labels):
        raise InputError("select an image or labels layer first")
    data, keywords, layer_type = layer.as_layer_data_tuple()
    about = dict(keywords["metadata"].get("lsfm", {}))
    finest = data[0] if layer.multiscale else data
    box = about.pop("box", [[0, n] for n in finest.shape[: layer.ndim]])
    # Time, and all else that comes before the axes of space, is not padded.
    box = [[0, n] for n in finest.shape[: layer.ndim - len(box)]] + box
    place_of_first = [start for start, _ in box]
    # Nor are colours, which come after them.
    box += [[0, n] for n in finest.shape[layer.ndim :]]
    nbytes = int(np.prod(np.diff(box)) * np.dtype(finest.dtype).itemsize)
    if nbytes > _MAX_COPY_BYTES:
        raise MemoryBudgetError(
            f"layer {layer.name!r} takes {size_text(nbytes)}, and a copy that can be edited 2 GiB at most: export a piece of it "
            "(File > IO Utilities > Export), and edit that"
        )
    if "path" in about and about["kind"] == "labels":
        with open_lsfm(about["path"], detached=True) as file:
            about["table"] = LabelTable.from_json(file.label_table(about["channel"]))
    # It is no more what the file holds.
    about.pop("path", None)
    about.pop("channel", None)
    from napari_lsfm._workers import wait_for

    pieces = tuple(slice(*edges) for edges in box)
    try:
        # An array that the layer does not share.
        copy = wait_for(lambda **_: np.array(finest[pieces]), f"Copy {layer.name}")
    except CancelledError:
        return
    own = ("scale", "translate", "rotate", "shear")
    place = CompositeAffine(**{name: keywords[name] for name in own}, ndim=layer.ndim)
    keywords |= {
        "name": f"{layer.name} (copy)",
        "multiscale": False,
        "translate": place(place_of_first),
        "metadata": {**keywords["metadata"], "lsfm": about},
    }
    layer.visible = layer_type != "labels"
    viewer.layers.selection.active = getattr(viewer, f"add_{layer_type}")(copy, **keywords)


def save_layers(viewer: napari.viewer.Viewer) -> None:
    """Ask for a file, and save the selected layers as its channels.

    Raises
    ------
    InputError
        If none is selected, or one is neither image nor labels.
    """
    from napari.layers import Image, Labels
    from qtpy.QtWidgets import QFileDialog

    from napari_lsfm._workers import front_window
    from napari_lsfm._writer import write_layers

    layers = [layer for layer in viewer.layers if layer in viewer.layers.selection]
    others = [layer.name for layer in layers if not isinstance(layer, Image | Labels)]
    if not layers or others:
        found = f" ({', '.join(map(repr, others))} cannot be saved so)" if others else ""
        raise InputError(f"select one or more image or labels layers first, and nothing else{found}")
    # Channels are added to a file that is there: nothing is overwritten.
    option = QFileDialog.Option.DontConfirmOverwrite
    path, _ = QFileDialog.getSaveFileName(front_window(), "Save selected layers as LSFM channels", "", _SAVE_FILTER, options=option)
    if path:
        write_layers(path, [layer.as_layer_data_tuple() for layer in layers])


def finest_level_3d(shapes: Any, dtype: Any, max_bytes: int, max_edge: int) -> int:
    """Index of the finest level whose volume is within both limits; the coarsest if none is."""
    for level, shape in enumerate(shapes):
        volume = tuple(int(n) for n in shape[-3:])
        if max(volume) <= max_edge and _texture_bytes(volume, dtype) <= max_bytes:
            return level
    return len(shapes) - 1


def _ask_for_space(file: LsfmFile, channel: str) -> str | None:
    """One of the spaces to which affines lead from a channel; None if the user changes his mind."""
    own = file[channel].space_name
    found: dict[str, str] = {}
    for space in sorted(known_spaces(file)):
        with suppress(InputError):
            if space != own:
                linear_way(file, channel, space)
            there = ", ".join(
                other.name for other in file.channels.values() if other.space_name == space and other.kind != "labels"
            )
            found[f"{space} ({there})" if there else space] = space
    if not set(found.values()) - {own}:
        raise InputError(
            f"{file.path}: no affine that is stored leads from channel {channel!r} to another space; write-affine --to and "
            "set-space record where one leads"
        )
    first = next(text for text, space in found.items() if space != own)
    chosen = _choose(f"Show {channel} in space", list(found), first)
    return None if chosen is None else found[chosen]


def _choose(question: str, choices: list[str], first: str) -> str | None:
    """Let the user choose one; None if he changes his mind."""
    from magicgui.widgets import request_values

    from napari_lsfm._workers import front_window

    # Its parent gives a dialog napari's theme.
    field = {"annotation": str, "label": question, "value": first, "options": {"choices": choices}}
    given = request_values({"choice": field}, parent=front_window())
    return None if given is None else given["choice"]


def _tilt(layer: Any) -> float:
    """How far a layer's stored planes are from those along napari's axes, degrees."""
    linear = np.asarray(layer.affine.affine_matrix)[-4:-1, -4:-1] @ np.diag(layer.scale[-3:])
    normals = np.linalg.inv(linear).T
    cosines = np.abs(np.diag(normals)) / np.linalg.norm(normals, axis=0)
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())


def _stored_volume(viewer: Any, layer: Any, level: int) -> Any:
    """What napari will read of a layer of ours, as a lazy array of three axes; None of other layers."""
    if "lsfm" not in layer.metadata:
        return None
    data = layer.data[level]
    # Under their own ids: napari gives labels other numbers when it shows them.
    data = getattr(data, "source", data)
    moment = layer.world_to_data(viewer.dims.point[-layer.ndim :])[: data.ndim - 3]
    return data[tuple(int(np.clip(round(t), 0, n - 1)) for t, n in zip(moment, data.shape, strict=False))] if len(moment) else data


def _chunk_bytes(volume: Any) -> int:
    """What a lazy array's chunks take when they are decoded."""
    whole = [-(-n // chunk) * chunk for n, chunk in zip(volume.shape, volume.chunks, strict=True)]
    return int(np.prod(whole, dtype=np.int64)) * np.dtype(volume.dtype).itemsize


def _read(volume: Any, progress: Callable[[str, int, int], None], cancel: CancelToken) -> None:
    """Read a lazy array into its cache, chunk by chunk along its first axis."""
    total = volume.size * np.dtype(volume.dtype).itemsize
    planes, thick = volume.shape[0], volume.chunks[0]
    for start in range(0, planes, thick):
        np.asarray(volume[start : start + thick])
        if cancel.cancelled:
            raise CancelledError("reading was cancelled")
        progress("read", total * min(start + thick, planes) // planes, total)


def _texture_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    """What napari makes of a volume: of all but small unsigned integers floats."""
    itemsize = np.dtype(dtype).itemsize if np.dtype(dtype) in (np.uint8, np.uint16) else 4
    return int(np.prod(shape, dtype=np.int64)) * itemsize


def _max_texture_edge() -> int:
    try:
        from napari._vispy.utils.gl import get_max_texture_sizes
    except ImportError:
        return _MIN_TEXTURE_EDGE
    return get_max_texture_sizes()[1] or _MIN_TEXTURE_EDGE


def _multiscale(viewer: napari.viewer.Viewer, layer: napari.layers.Layer | None) -> Any:
    layer = layer or viewer.layers.selection.active
    if not getattr(layer, "multiscale", False):
        raise InputError("select a layer that has several resolutions first")
    return layer


def _fields(path: str) -> list[str]:
    with open_lsfm(path, detached=True) as file:
        return [name for name, channel in file.channels.items() if channel.kind == "vectors"]
