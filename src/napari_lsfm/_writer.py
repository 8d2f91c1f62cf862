"""Writer: layers become channels of a file, as they are or not at all."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lsfm_core import (
    CancelToken,
    IngestRequest,
    InputError,
    LabelTable,
    LsfmError,
    Orientation,
    PlaneFunction,
    Space,
    edit_lsfm,
    ingest_channel,
    open_lsfm,
)
from napari_lsfm._settings import current_settings
from napari_lsfm._views import Recoded, Shaded
from napari_lsfm._window import current_viewer, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_lsfm._layers import LayerData

    ProgressCallback = Callable[[str, int, int], None]

__all__ = ["NotSavedError", "matrix_of", "write_layers"]

#: As in napari.yaml; the first is that of new files.
_ENDINGS = (".h5", ".hdf5")


class NotSavedError(LsfmError):
    """Layers were not saved, for a reason that is a ValueError.

    napari takes a ValueError of a writer for the lack of one, and would say only that.
    """


def write_layers(path: str | os.PathLike[str], layers: Sequence[LayerData]) -> list[str]:
    """Save layers as channels of an LSFM file; one that exists gets more channels, and none is replaced.

    Where a layer does not tell how the specimen lies, it lies as the other layers do, and if none tells, as the settings say.

    In a window it returns when all is written, but the window stays alive, and a dialog can stop it.

    Parameters
    ----------
    path : path
        Without one of our endings, ``.h5`` is added.
    layers : sequence of LayerData
        Of type image or labels; multiscale or not. Colours become a channel of kind components; a layer of two axes one plane, as
        thick as its rows are apart; one of four axes a channel for each step of the first, as ``name_t000``.

    Returns
    -------
    list of str
        The path of what was written.

    Raises
    ------
    NotSavedError
        If something of a layer would be lost, or has no place in a file; then nothing is written.
    LsfmError
        As `lsfm_core.ingest_channel`; then the file has none of the new channels.
    """
    target = Path(path)
    if target.suffix.lower() not in _ENDINGS:
        target = target.with_name(target.name + _ENDINGS[0])
    try:
        _save(target, layers)
    except ValueError as error:
        raise NotSavedError(str(error)) from error
    return [str(target)]


def _save(path: Path, layers: Sequence[LayerData]) -> None:
    world = _world_orientation(layers)
    channels = [_Channel.of(layer, world) for layer in map(_as_volume, chain.from_iterable(map(_moments, layers)))]
    names = [channel.name for channel in channels]
    if path.exists():
        with open_lsfm(path, detached=True) as file:
            names += list(file)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: there would be two channels {', '.join(map(repr, twice))}: rename the layer first")
    work = partial(_write, path, channels)
    if _has_window():
        from napari_lsfm._workers import wait_for

        adds = path.exists()
        wait_for(work, f"Save {path.name}")
        written = ", ".join(f"{channel.name!r} ({channel.kind})" for channel in channels)
        tell(f"{path.absolute()}: {'added' if adds else 'made, with'} channel{'s' if len(channels) > 1 else ''} {written}")
    else:
        work()


def _has_window() -> bool:
    """Whether somebody looks at a window of this thread meanwhile; without Qt, nothing of it is imported to find that out."""
    widgets = sys.modules.get("qtpy.QtWidgets")
    is_there = widgets is not None and widgets.QApplication.instance() is not None
    return is_there and threading.current_thread() is threading.main_thread()


def _write(
    path: Path, channels: Sequence[_Channel], progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> None:
    """Write all channels, or none, in one change of the file."""
    with edit_lsfm(path) as editor:
        for number, channel in enumerate(channels, 1):
            request = IngestRequest(path=path, channel=channel.name, image=channel.planes, kind=channel.kind)
            stage = channel.name if len(channels) == 1 else f"{channel.name} ({number} of {len(channels)})"
            ingest_channel(request, editor=editor, progress=_named(progress, stage), cancel=cancel)
            editor.set_look(channel.name, display_range=channel.display_range, colormap=channel.colormap)
            if channel.table:
                editor.set_label_table(channel.name, channel.table.to_json())


def _named(progress: ProgressCallback | None, stage: str) -> ProgressCallback | None:
    return None if progress is None else lambda _, done, total: progress(stage, done, total)


@dataclass(frozen=True)
class _Channel:
    """What is saved of a layer."""

    name: str
    kind: str
    planes: PlaneFunction
    display_range: tuple[float, float] | None
    colormap: str | None
    table: LabelTable

    @classmethod
    def of(cls, layer: LayerData, world: Orientation) -> _Channel:
        data, meta, kind = layer
        name = meta["name"]
        about = meta.get("metadata", {}).get("lsfm", {})
        array = data[0] if meta.get("multiscale") else data
        values = array.shape[3:] if meta.get("rgb") else ()
        if len(array.shape) != 3 + len(values):
            axes = ", ".join(meta.get("axis_labels") or ())
            raise InputError(
                f"layer {name!r} has {len(array.shape)} axes ({axes}), a channel has three: take a volume out of it first"
            )
        if isinstance(array, Shaded):
            array = array.source
        if np.dtype(array.dtype).kind not in "uifb":
            raise InputError(f"layer {name!r} has voxels of type {array.dtype}: a file holds integers and floats")
        affine = world.direction @ _world_mm_from_voxel(name, meta)[:3]
        shape = array.shape[:3]
        box = about.get("box") or [[0, n] for n in shape]
        # Who computed something from our layer may have cut it, and kept what it says of itself.
        if any(stop > n for (_, stop), n in zip(box, shape, strict=True)):
            box = [[0, n] for n in shape]
        space = Space(shape, np.vstack([affine, (0, 0, 0, 1)])).crop(*zip(*box, strict=True))
        planes = _planes(name, array, box, kind, about.get("ids"))
        limits = meta.get("contrast_limits") if kind == "image" and not values else None
        dtype = _dtype(array, about.get("ids"))
        each = int(values[0]) if values else 1
        return cls(
            name=name,
            kind="components" if values else kind,
            planes=PlaneFunction(space.shape, dtype, planes, components=each, space=space, name=f"layer {name!r}"),
            display_range=None if limits is None else (float(limits[0]), float(limits[1])),
            colormap=_colormap(meta) if kind == "image" and not values else None,
            table=_table(about) if kind == "labels" else LabelTable(),
        )


def _moments(layer: LayerData) -> Iterator[LayerData]:
    """The volumes of a layer of four axes, one for each step of the first; any other layer as it is."""
    data, meta, kind = layer
    array = data[0] if meta.get("multiscale") else data
    if len(array.shape) - bool(meta.get("rgb")) != 4:
        yield layer
        return
    matrix = matrix_of(meta, 4)
    if np.any(matrix[0, 1:4]) or np.any(matrix[1:4, 0]):
        raise InputError(f"layer {meta['name']!r}: its first axis, of four, is turned against the others: it is no time")
    placed = _placed(meta, matrix[1:, 1:], lambda units: units[1:])
    for index in range(array.shape[0]):
        yield array[index], {**placed, "name": f"{meta['name']}_t{index:03d}"}, kind


def _as_volume(layer: LayerData) -> LayerData:
    """A layer of two axes as one plane, which is as thick as its rows are apart; any other layer as it is."""
    data, meta, kind = layer
    array = data[0] if meta.get("multiscale") else data
    if len(array.shape) - bool(meta.get("rgb")) != 2:
        return layer
    matrix = np.eye(4)
    matrix[1:, 1:] = matrix_of(meta, 2)
    matrix[0, 0] = np.linalg.norm(matrix[1:3, 1])
    return np.asarray(array)[None], _placed(meta, matrix, lambda units: (units[0], *units)), kind


def _placed(meta: Mapping[str, Any], matrix: npt.NDArray[np.float64], of_units: Callable[[Any], Any]) -> dict[str, Any]:
    """Keywords of a layer that has one resolution, and a matrix in the place of its scale and all else."""
    others = ("scale", "translate", "rotate", "shear", "axis_labels")
    units = {} if meta.get("units") is None else {"units": of_units(meta["units"])}
    return {**{key: meta[key] for key in meta if key not in others}, "multiscale": False, "affine": matrix, **units}


def _world_orientation(layers: Sequence[LayerData]) -> Orientation:
    """Where napari's z, y and x grow toward: as the layers that came from a file know it."""
    abouts = [meta.get("metadata", {}).get("lsfm", {}) for _, meta, _ in layers]
    known = {about["axcodes"] for about in abouts if about.get("axcodes")} or _axcodes_on_screen()
    if len(known) > 1:
        raise InputError(f"the layers lie in different ways ({', '.join(sorted(known))}): save them one after the other")
    return Orientation(known.pop() if known else current_settings().orientation)


def _axcodes_on_screen() -> set[str]:
    viewer = current_viewer()
    abouts = [] if viewer is None else [layer.metadata.get("lsfm", {}) for layer in viewer.layers]
    return {about["axcodes"] for about in abouts if about.get("axcodes")}


def _world_mm_from_voxel(name: str, meta: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """(4, 4): napari's world, in mm, from voxel indices."""
    import pint

    matrix = matrix_of(meta, 3)
    try:
        units = [
            pint.get_application_registry().Quantity(1, f"{unit:~}" if isinstance(unit, pint.Unit) else unit)
            for unit in meta["units"]
        ]
        factors = [float(unit.to("mm").magnitude) for unit in units]
    except (KeyError, pint.DimensionalityError, pint.UndefinedUnitError):
        told = ", ".join(map(str, meta.get("units") or ())) or "none"
        raise InputError(
            f"layer {name!r}: its units are no lengths ({told}), and a file's voxels have a size: set its scale and its units "
            "first, for example layer.scale = (5, 4, 4); layer.units = 'um'"
        ) from None
    mm: npt.NDArray[np.float64] = np.diag([*factors, 1.0]) @ matrix
    return mm


def matrix_of(meta: Mapping[str, Any], ndim: int) -> npt.NDArray[np.float64]:
    """(ndim + 1, ndim + 1): napari's world, in its units, from indices."""
    from napari.utils.transforms import Affine, CompositeAffine

    inner = CompositeAffine(
        scale=meta.get("scale", np.ones(ndim)),
        translate=meta.get("translate", np.zeros(ndim)),
        rotate=meta.get("rotate"),
        shear=meta.get("shear"),
        ndim=ndim,
    )
    outer = meta.get("affine")
    matrix: npt.NDArray[np.float64] = (
        inner.affine_matrix
        if outer is None
        else Affine(affine_matrix=np.asarray(outer), ndim=ndim).affine_matrix @ inner.affine_matrix
    )
    return matrix


def _dtype(array: Any, ids: npt.NDArray[Any] | None) -> np.dtype[Any]:
    return np.dtype(array.dtype) if ids is None else ids.dtype


def _planes(
    name: str, array: Any, box: Sequence[Sequence[int]], kind: str, ids: npt.NDArray[Any] | None
) -> Iterator[npt.NDArray[Any]]:
    """The planes of a layer, as they are stored."""
    if isinstance(array, Recoded):
        array, ids = array.source, None
    rows, columns = (slice(*edges) for edges in box[1:])
    for index in range(*box[0]):
        plane = np.asarray(array[index, rows, columns])
        if kind == "labels" and plane.dtype.kind != "u" and plane.min() < 0:
            raise InputError(f"layer {name!r}: plane {index} has the label {plane.min()}: ids of regions begin at 0")
        if ids is not None:
            if plane.max() >= len(ids):
                raise InputError(
                    f"layer {name!r}: plane {index} has the label {plane.max()}, which stands for no region of its file"
                )
            plane = ids[plane]
        yield plane


def _colormap(meta: Mapping[str, Any]) -> str | None:
    """Name of a colormap that every napari knows, else its brightest colour."""
    from napari.utils.colormaps import AVAILABLE_COLORMAPS, ensure_colormap

    if meta.get("colormap") is None:
        return None
    colormap = ensure_colormap(meta["colormap"])
    if colormap.name in AVAILABLE_COLORMAPS:
        return str(colormap.name)
    return "#" + "".join(f"{round(255 * part):02x}" for part in colormap.colors[-1][:3])


def _table(about: Mapping[str, Any]) -> LabelTable:
    """The label table that a layer brings, or that of the channel that it came from, if that is still there."""
    if about.get("kind") != "labels":
        return LabelTable()
    if "table" in about:
        table: LabelTable = about["table"]
        return table
    try:
        with open_lsfm(about["path"], detached=True) as file:
            return LabelTable.from_json(file.label_table(about["channel"]))
    except LsfmError:
        return LabelTable()
