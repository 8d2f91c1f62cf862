"""Geometry as files tell it: checked, and turned from x-fastest to array order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError, SourceError
from lsfm_core.geometry import Orientation, Shape3, Space, Triple

__all__ = ["check_lengths", "space_from_xyz", "voxel_size_or_none"]

# Longer than any voxel or way, and short enough to reckon with.
_LONGEST_MM = 1e15


def voxel_size_or_none(sizes: Sequence[float]) -> Triple | None:
    """Three lengths in mm, or None if one of them is no positive, finite number."""
    a, b, c = (float(size) for size in sizes)
    return (a, b, c) if all(np.isfinite(size) and size > 0 for size in (a, b, c)) else None


def check_lengths(path: Path, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """`values` as float64, or a `SourceError` if they are no numbers, or none that a length in mm could be."""
    array = np.asarray(values, dtype=np.float64)
    if not (np.abs(array) < _LONGEST_MM).all():
        raise SourceError(f"{path}: its geometry is unusable: found {array.tolist()} for lengths in mm")
    return array


def space_from_xyz(path: Path, shape: Shape3, frame: str, axes: npt.ArrayLike, origin: npt.ArrayLike) -> Space:
    """Space of an image whose file lists its axes fastest first.

    Parameters
    ----------
    path : Path
        For the message.
    shape : tuple of 3 int
        In array order.
    frame : str
        Where the file's world axes point: ``LPS`` for ITK's, ``RAS`` for NIfTI's.
    axes : array (3, 3)
        Column n: the step in mm, in that world, from one voxel to the next along the file's axis n.
    origin : array (3,)
        Centre of the first voxel in mm, in that world.

    Raises
    ------
    SourceError
        If the axes do not span a space.
    """
    ras_from_frame = Orientation(frame).direction
    affine = np.eye(4)
    affine[:3, :3] = (ras_from_frame @ check_lengths(path, axes))[:, ::-1]
    affine[:3, 3] = ras_from_frame @ check_lengths(path, origin)
    try:
        return Space(shape, affine)
    except InputError as error:
        raise SourceError(f"{path}: its geometry is unusable: {error}") from error
