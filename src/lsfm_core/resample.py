"""Resampling: an array in one space to voxels of another, with ITK's interpolation."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from lsfm_core.geometry import Space

__all__ = ["Interpolation", "resample"]

Array = npt.NDArray[Any]
Interpolation = Literal["linear", "nearest"]

_INTERPOLATORS = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}


def resample(array: Array, space: Space, target: Space, interpolation: Interpolation = "linear", fill: float = 0) -> Array:
    """Values of an image at the voxel centres of another grid in the same world.

    Parameters
    ----------
    array : array (a, b, c)
        In array order.
    space : Space
        Of `array`.
    target : Space
        Of the result.
    interpolation : {"linear", "nearest"}
    fill : float
        Value outside the image's outer faces. Between them and the outermost voxel centres the outermost values hold.

    Returns
    -------
    array
        Of `target`'s shape and of `array`'s dtype; integers are rounded to nearest and saturate.
    """
    dtype = array.dtype
    if dtype == np.float16:
        array = array.astype(np.float32)
    image = sitk.GetImageFromArray(array)
    _place(image, space)
    origin, spacing, direction = target.to_itk()
    # ITK would cut off the fraction of integers, so interpolate to floats that hold every value of the type. ITK computes in
    # float64; to come back in float32 also heals halves that rounding has moved, so that blocks agree with the whole image.
    exact = sitk.sitkFloat32 if dtype.itemsize <= 2 or dtype == np.float32 else sitk.sitkFloat64
    pixel_type = image.GetPixelID() if interpolation == "nearest" else exact
    size = [int(n) for n in reversed(target.shape)]
    result = sitk.Resample(
        image, size, sitk.Transform(), _INTERPOLATORS[interpolation], origin, spacing, direction, float(fill), pixel_type
    )
    values: Array = sitk.GetArrayViewFromImage(result)
    if values.dtype == dtype:
        return values.copy()
    if dtype.kind in "ui":
        limits = np.iinfo(dtype)
        # The largest 64-bit integers are no floats; the next float above them would wrap around.
        top = np.float64(limits.max) if int(np.float64(limits.max)) <= limits.max else np.nextafter(np.float64(limits.max), 0)
        values = np.clip(np.rint(values), limits.min, top)
    return values.astype(dtype)


def _place(image: sitk.Image, space: Space) -> None:
    origin, spacing, direction = space.to_itk()
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
