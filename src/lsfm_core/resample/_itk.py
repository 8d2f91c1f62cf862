"""An array in one space to voxels of another by ITK."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from lsfm_core.geometry import Space

__all__ = ["Interpolation", "exact_float", "itk_bytes_per_voxel", "reach", "resample", "rounded"]

Array = npt.NDArray[Any]
Interpolation = Literal["linear", "nearest", "bspline"]

_INTERPOLATORS = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor, "bspline": sitk.sitkBSpline}
# Voxels around a point that its value can depend on. A cubic B-spline's coefficients depend on the whole image, but at a distance
# of d voxels by 0.27**d only: of what lies beyond 24 voxels 1e-14 is left.
_REACH = {"linear": 1, "nearest": 1, "bspline": 24}


def reach(interpolation: Interpolation) -> int:
    """How many voxels around a point its value depends on; a part of an image with so much margin gives what the whole would."""
    return _REACH[interpolation]


def itk_bytes_per_voxel(dtype: np.dtype[Any], interpolation: Interpolation) -> int:
    """What ITK and the rounding hold for each voxel of the result, at most."""
    if interpolation == "nearest":
        return dtype.itemsize * (3 if dtype.kind in "ui" and dtype.itemsize == 8 else 1)
    return 2 * exact_float(dtype).itemsize + dtype.itemsize


def resample(
    array: Array,
    space: Space,
    target: Space,
    interpolation: Interpolation = "linear",
    fill: float = 0,
    transform: sitk.Transform | None = None,
) -> Array:
    """Values of an image at the voxel centres of another grid.

    Parameters
    ----------
    array : array (a, b, c), or (a, b, c, components)
        In array order.
    space : Space
        Of `array`.
    target : Space
        Of the result.
    interpolation : {"linear", "nearest", "bspline"}
    fill : float
        Value outside the image's outer faces. Between them and the outermost voxel centres the outermost values hold.
    transform : SimpleITK.Transform, optional
        Maps a point of the result's world to the image's world, LPS mm. Default: both are in the same world.

    Returns
    -------
    array
        Of `target`'s shape (with the components) and of `array`'s dtype; integers are rounded to nearest and saturate. Nearest
        neighbours are exact; what is interpolated of 64-bit integers is so up to 2**53.
    """
    dtype = array.dtype
    if interpolation == "nearest" and dtype.kind in "ui" and dtype.itemsize == 8:
        return _nearest_halves(array, space, target, fill, transform)
    if dtype == np.float16:
        array = array.astype(np.float32)
    elif dtype.kind == "b":
        array = array.view(np.uint8)
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    _place(image, space)
    origin, spacing, direction = target.to_itk()
    # ITK would cut off the fraction of integers, so interpolate to floats that hold every value of the type. ITK computes in
    # float64; to come back in float32 also heals halves that rounding has moved, so that blocks agree with the whole image.
    pixel_type = image.GetPixelID() if interpolation == "nearest" else _pixel_type(exact_float(dtype), array.ndim == 4)
    resampler = sitk.ResampleImageFilter()
    # One thread: callers run blocks side by side, and ITK would take all cores for each of them.
    resampler.SetNumberOfWorkUnits(1)
    resampler.SetSize([int(n) for n in reversed(target.shape)])
    resampler.SetOutputOrigin(origin)
    resampler.SetOutputSpacing(spacing)
    resampler.SetOutputDirection(direction)
    resampler.SetInterpolator(_INTERPOLATORS[interpolation])
    resampler.SetDefaultPixelValue(float(fill))
    resampler.SetOutputPixelType(pixel_type)
    if transform is not None:
        resampler.SetTransform(transform)
    result = resampler.Execute(image)
    values: Array = sitk.GetArrayViewFromImage(result)
    return values.copy() if values.dtype == dtype else rounded(values.copy(), dtype).astype(dtype)


def rounded(values: Array, dtype: np.dtype[Any]) -> Array:
    """Floats, which are overwritten, such that a cast makes them values of a type: of integers the nearest that there is."""
    if dtype.kind in "ui":
        limits = np.iinfo(dtype)
        # The largest 64-bit integers are no floats; the next float above them would wrap around.
        top = np.float64(limits.max) if int(np.float64(limits.max)) <= limits.max else np.nextafter(np.float64(limits.max), 0)
        np.rint(values, out=values)
        np.clip(values, limits.min, top, out=values)
    return values


def _nearest_halves(array: Array, space: Space, target: Space, fill: float, transform: sitk.Transform | None) -> Array:
    """Nearest 64-bit integers, as two halves of 32 bits: ITK passes all numbers through float64, which does not hold them all."""
    # What is outside becomes 0, and so the fill value when it is taken back.
    away = np.array(int(fill)).astype(array.dtype)
    halves = np.ascontiguousarray(array ^ away).view(np.uint32).reshape(*array.shape[:3], -1)
    values = resample(halves, space, target, "nearest", 0, transform)
    back: Array = values.view(array.dtype).reshape(*target.shape, *array.shape[3:])
    back ^= away
    return back


def exact_float(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The float type that holds every value of `dtype`."""
    return np.dtype(np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64)


def _pixel_type(dtype: np.dtype[Any], vector: bool) -> int:
    if vector:
        return int(sitk.sitkVectorFloat32 if dtype == np.float32 else sitk.sitkVectorFloat64)
    return int(sitk.sitkFloat32 if dtype == np.float32 else sitk.sitkFloat64)


def _place(image: sitk.Image, space: Space) -> None:
    origin, spacing, direction = space.to_itk()
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
