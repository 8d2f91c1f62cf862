"""A displacement field as arrows, from points of its space to where it carries them."""

from __future__ import annotations

import os

import numpy as np

from lsfm_core import InputError, Space, open_lsfm
from napari_lsfm._layers import LayerData, native_frame, placement

__all__ = ["field_layer"]


def field_layer(path: str | os.PathLike[str], channel: str, *, max_vectors: int = 20_000) -> LayerData:
    """Layer tuple of a displacement field: arrows from points of its space to where it carries them.

    Parameters
    ----------
    path : path
    channel : str
        Of kind vectors.
    max_vectors : int
        The field is thinned out to about as many.

    Raises
    ------
    LsfmError
        If there is no such channel, or it holds something else.
    """
    with open_lsfm(path, detached=True) as file:
        field = file[channel]
        if field.kind != "vectors":
            raise InputError(f"{file.path}: channel {channel!r} holds {field.kind}, no displacement field")
        native = native_frame(file, field)
        # The coarsest level that is still finer than what is shown; each is the mean of the finer one.
        level = next((level for level in reversed(field.levels) if np.prod(level.space.shape) >= max_vectors), field.levels[0])
        step = max(1, round((np.prod(level.space.shape) / max_vectors) ** (1 / 3)))
        first = [min(step // 2, (n - 1) // 2) for n in level.space.shape]
        vectors = np.asarray(level[tuple(slice(start, None, step) for start in first)])
    this_from_thin = np.diag([step, step, step, 1.0])
    this_from_thin[:3, 3] = first
    space = Space(vectors.shape[:3], level.space.world_from_voxel @ this_from_thin)
    turn = space.reorientation_to(native)
    space, vectors = space.reoriented(turn), turn.apply(vectors).reshape(-1, 3).astype(float)
    starts = np.indices(space.shape).reshape(3, -1).T
    lengths = np.linalg.norm(vectors, axis=1)
    # In voxels of the thinned field, so that a step of napari's slider goes from one layer of arrows to the next.
    data = np.stack([starts, vectors @ space.voxel_from_world[:3, :3].T], axis=1)
    keep = np.isfinite(lengths)
    keywords = {
        "name": channel,
        **placement(space, native),
        "units": ("mm",) * 3,
        "axis_labels": ("z", "y", "x"),
        "features": {"length_mm": lengths[keep]},
        "edge_color": "length_mm",
        "edge_colormap": "viridis",
        "edge_width": 0.15,
        "vector_style": "arrow",
        "metadata": {
            "lsfm": {
                "path": str(path),
                "channel": channel,
                "kind": "vectors",
                "axcodes": None if field.orientation is None else native.axcodes,
            }
        },
    }
    return data[keep], keywords, "vectors"
