"""One level of a layer, or a box of it, as an ordinary layer: what plugins take that know nothing of several resolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from lsfm_core import CancelledError, CancelToken, InputError, LabelTable, MemoryBudgetError, open_lsfm, size_text
from napari_lsfm._labels import label_looks
from napari_lsfm._views import Recoded

if TYPE_CHECKING:
    import napari.layers

    from napari_lsfm._layers import LayerData

__all__ = ["PlainPiece", "plain_levels", "plain_piece"]

#: Of an array in memory. Who needs more takes one that is read when it is needed.
_MAX_BYTES = 2**31
#: Of a block of a dask array: with many small ones, dask is busy with its graph.
_BLOCK_BYTES = 2**26
_AXES = 3
#: Voxels: shapes of napari's are in float32.
_SLACK = 1e-3
#: What is still true of a piece.
_KEPT = frozenset({"axcodes", "kind", "table"})
_LOOKS = ("opacity", "blending", "contrast_limits", "gamma", "colormap", "interpolation2d", "interpolation3d", "rendering")


@dataclass(frozen=True)
class PlainPiece:
    """What an ordinary layer will hold.

    Attributes
    ----------
    data : lazy array
        Three axes, and a fourth of colours; labels with their own ids.
    layer_type : {"image", "labels"}
    nbytes : int
        What the array takes when it is in memory.
    describe : callable
        Gives the keywords of the layer; of labels it looks into their file.
    """

    data: Any
    layer_type: str
    nbytes: int
    describe: Callable[[], dict[str, Any]]

    @cached_property
    def keywords(self) -> dict[str, Any]:
        """Of the layer."""
        return self.describe()

    def lazy(self) -> LayerData:
        """A layer of a dask array, which is read when it is needed: each time, but for what is in the cache."""
        import dask.array

        data, chunks = self.data, _blocks(self.data)
        if isinstance(data, np.ndarray):
            return dask.array.from_array(data, chunks), self.keywords, self.layer_type
        # An array of ours reads nothing while it is indexed, so that dask asks for what is wanted of a block, not for all of it.
        array = dask.array.from_array(data, chunks, name=False, asarray=True, meta=np.empty((0,) * data.ndim, data.dtype))
        return array, self.keywords, self.layer_type

    def loaded(self, progress: Callable[[str, int, int], None] | None = None, cancel: CancelToken | None = None) -> LayerData:
        """A layer of an array in memory.

        Raises
        ------
        MemoryBudgetError
            If it takes more than 2 GiB.
        CancelledError
        """
        if self.nbytes > _MAX_BYTES:
            raise MemoryBudgetError(
                f"{self.keywords['name']}: takes {size_text(self.nbytes)}, and an array in memory 2 GiB at most: take a coarser "
                "level, a smaller piece, or let it be read when it is needed"
            )
        array = np.empty(self.data.shape, self.data.dtype)
        thick = max(1, min(self.data.shape[0], _blocks(self.data)[0]))
        for start in range(0, len(array), thick):
            array[start : start + thick] = np.asarray(self.data[start : start + thick])
            if cancel is not None and cancel.cancelled:
                raise CancelledError("reading was cancelled")
            if progress is not None:
                progress("read", array[: start + thick].nbytes, array.nbytes)
        return array, self.keywords, self.layer_type


def plain_levels(layer: napari.layers.Layer) -> list[tuple[int, ...]]:
    """Shapes of a layer's levels along its three axes of space, without padding; the finest first."""
    return [tuple(stop - start for start, stop in _stored_box(layer, level)) for level in range(len(_levels(layer)))]


def plain_piece(
    layer: napari.layers.Layer,
    level: int = 0,
    world_box: Sequence[Sequence[float]] | None = None,
    point: Sequence[float] | None = None,
) -> PlainPiece:
    """A level of an image or labels layer, or the part of it within a box.

    Parameters
    ----------
    layer : Image or Labels
    level : int
    world_box : (2, 3) sequence of float, optional
        Lower and upper corner, in the viewer's world. Default: all that is stored.
    point : sequence of float, optional
        Where the viewer is, in its world: of a layer with time, the step that is taken. Default: the first.

    Raises
    ------
    InputError
        If it is another kind of layer, has no such level, or nothing of it is in the box.
    """
    from napari.layers import Image, Labels

    if not isinstance(layer, Image | Labels) or layer.ndim < _AXES:
        raise InputError("select an image or labels layer of three axes first")
    levels = _levels(layer)
    if not 0 <= level < len(levels):
        raise InputError(f"layer {layer.name!r} has levels 0 to {len(levels) - 1}, and no level {level}")
    lead = layer.ndim - _AXES
    data, box = levels[level], np.array(_stored_box(layer, level))
    factors = _factors(layer, level)
    if world_box is not None:
        inside = _voxels_within(layer, np.asarray(world_box, float), factors)
        box = np.stack([np.maximum(box[:, 0], inside[:, 0]), np.minimum(box[:, 1], inside[:, 1])], axis=1)
        if (box[:, 0] >= box[:, 1]).any():
            raise InputError(f"layer {layer.name!r}: nothing of it is in the box")
    moment = () if lead == 0 else _moment(layer, point, lead)
    piece = data[(*moment, *(slice(start, stop) for start, stop in box.tolist()))]
    is_labels, is_recoded = isinstance(layer, Labels), isinstance(piece, Recoded)
    if is_labels and is_recoded:
        piece = piece.source
    nbytes = int(np.prod(piece.shape, dtype=np.int64)) * np.dtype(piece.dtype).itemsize

    def describe() -> dict[str, Any]:
        keywords = _keywords(layer, level, box[:, 0], factors)
        return keywords | _looks_of_ids(layer, np.dtype(piece.dtype), is_recoded) if is_labels else keywords

    return PlainPiece(piece, "labels" if is_labels else "image", nbytes, describe)


def _levels(layer: Any) -> list[Any]:
    return list(layer.data) if layer.multiscale else [layer.data]


def _shape(layer: Any, level: int) -> Any:
    """Of the axes of space, with padding."""
    return np.array(_levels(layer)[level].shape[layer.ndim - _AXES : layer.ndim])


def _factors(layer: Any, level: int) -> Any:
    """How many voxels of the finest level one of this level is wide, along each axis of space."""
    return _shape(layer, 0) / _shape(layer, level)


def _stored_box(layer: Any, level: int) -> list[tuple[int, int]]:
    """First and last + 1 of the voxels of a level that are no padding."""
    box = layer.metadata.get("lsfm", {}).get("box") or [[0, n] for n in _shape(layer, 0)]
    factors = _factors(layer, level)
    return [(int(start // factor), int(-(-stop // factor))) for (start, stop), factor in zip(box, factors, strict=True)]


def _voxels_within(layer: Any, world_box: Any, factors: Any) -> Any:
    """(3, 2): first and last + 1 of a level's voxels whose centres are within a box of the world."""
    corners = np.array(np.meshgrid(*world_box.T, indexing="ij")).reshape(_AXES, -1).T
    lead = np.zeros((len(corners), layer.ndim - _AXES))
    finest = np.array([layer.world_to_data(corner) for corner in np.hstack([lead, corners])])[:, -_AXES:]
    ends = (np.stack([finest.min(axis=0), finest.max(axis=0)], axis=1) - ((factors - 1) / 2)[:, None]) / factors[:, None]
    return np.stack([np.ceil(ends[:, 0] - _SLACK), np.floor(ends[:, 1] + _SLACK) + 1], axis=1).astype(int)


def _moment(layer: Any, point: Sequence[float] | None, lead: int) -> tuple[int, ...]:
    if point is None:
        return (0,) * lead
    steps = layer.world_to_data(point[-layer.ndim :])[:lead]
    shape = _levels(layer)[0].shape
    return tuple(int(np.clip(round(step), 0, n - 1)) for step, n in zip(steps, shape, strict=False))


def _keywords(layer: Any, level: int, first: Any, factors: Any) -> dict[str, Any]:
    """Where a piece lies, and how it looks: as its layer."""
    from napari.utils.transforms import CompositeAffine

    lead = layer.ndim - _AXES
    _, given, layer_type = layer.as_layer_data_tuple()
    inner = CompositeAffine(**{name: given[name] for name in ("scale", "translate", "rotate", "shear")}, ndim=layer.ndim)
    whole = np.asarray(layer.affine.affine_matrix) @ inner.affine_matrix
    # What is none of space stands before it in both directions, and moves with nothing.
    world_from_finest = np.eye(_AXES + 1)
    world_from_finest[:_AXES, :_AXES], world_from_finest[:_AXES, -1] = whole[lead:-1, lead:-1], whole[lead:-1, -1]
    finest_from_piece = np.diag([*factors, 1.0])
    # A voxel of a coarse level is centred between those of the finest that it stands for.
    finest_from_piece[:_AXES, -1] = first * factors + (factors - 1) / 2
    matrix = world_from_finest @ finest_from_piece
    scale = np.asarray(layer.scale)[lead:] * factors
    about = {key: value for key, value in layer.metadata.get("lsfm", {}).items() if key in _KEPT}
    looks = _LOOKS if layer_type == "image" else ("opacity", "blending")
    return {
        "name": layer.name if len(_levels(layer)) == 1 else f"{layer.name} (level {level})",
        **_placed(matrix, scale),
        "units": layer.units[lead:],
        "axis_labels": layer.axis_labels[lead:],
        "metadata": {"lsfm": about} if about else {},
        **{name: given[name] for name in looks if given.get(name) is not None},
        **({"rgb": True} if given.get("rgb") else {}),
    }


def _placed(matrix: Any, scale: Any) -> dict[str, Any]:
    """Scale and translation where these tell it all, since many plugins know no more; else the scale, and an affine."""
    linear = matrix[:_AXES, :_AXES]
    if np.allclose(linear, np.diag(scale), rtol=1e-9, atol=1e-12):
        return {"scale": scale, "translate": matrix[:_AXES, -1]}
    return {"scale": scale, "affine": matrix @ np.diag([*np.reciprocal(scale), 1.0])}


def _looks_of_ids(layer: Any, dtype: np.dtype[Any], is_recoded: bool) -> dict[str, Any]:
    """How labels look under the ids of their file: in the file's colours where napari can show these."""
    table = _table(layer)
    if not table:
        return {} if is_recoded else {"colormap": layer.colormap, "features": layer.features}
    about = {**{key: value for key, value in layer.metadata["lsfm"].items() if key in _KEPT}, "table": table}
    looks: dict[str, Any] = {"metadata": {"lsfm": about}}
    numbers, _ = label_looks(table, dtype)
    if numbers is None or find_spec("numba") is not None:
        looks |= label_looks(table, dtype, own_ids=True)[1]
    return looks


def _table(layer: Any) -> LabelTable:
    about = layer.metadata.get("lsfm", {})
    if "table" in about or "path" not in about:
        return about.get("table", LabelTable())
    with open_lsfm(about["path"], detached=True) as file:
        return LabelTable.from_json(file.label_table(about["channel"]))


def _blocks(array: Any) -> tuple[int, ...]:
    """Shape of blocks that are made of whole chunks: first along the last axis, so that a plane is in few of them."""
    chunks = list(getattr(array, "chunks", None) or array.shape)
    itemsize = np.dtype(array.dtype).itemsize
    for axis in reversed(range(len(chunks))):
        room = _BLOCK_BYTES // (int(np.prod(chunks, dtype=np.int64)) * itemsize)
        chunks[axis] = min(array.shape[axis], chunks[axis] * max(1, room))
    return tuple(chunks)
