"""An image in memory, with its place in the world, and its way to other libraries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.geometry import LPS_FROM_RAS, Space
from lsfm_core.pyramid import Kind

__all__ = ["Volume"]

Array = npt.NDArray[Any]
_WORLD_AXES = ("x", "y", "z")
_INTENT_VECTOR = 1007


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels, and where they are.

    Attributes
    ----------
    array : array (a, b, c), or (a, b, c, components)
        In array order. Displacement vectors are RAS mm, in the order R, A, S.
    space : Space
    kind : {"image", "labels", "vectors", "components"}
    """

    array: Array
    space: Space
    kind: Kind = "image"

    def to_sitk(self) -> Any:
        """As a SimpleITK image: LPS mm, index order x, y, z = array axes 2, 1, 0; displacement vectors in LPS."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(self._lps_vectors(), isVector=self.array.ndim == 4)
        origin, spacing, direction = self.space.to_itk()
        image.SetOrigin(origin)
        image.SetSpacing(spacing)
        image.SetDirection(direction)
        return image

    def to_nibabel(self) -> Any:
        """As a nibabel image in RAS mm; displacement vectors as ITK and ANTs write them (x, y, z, 1, 3; intent 1007; LPS)."""
        import nibabel

        array = self._lps_vectors()
        if array.ndim == 4:
            array = array[:, :, :, None, :]
        # nibabel asks for the type by name where a 64-bit integer could be meant by mistake.
        image = nibabel.Nifti1Image(array, self.space.world_from_voxel, dtype=array.dtype)
        image.header.set_xyzt_units("mm")
        if self.array.ndim == 4:
            image.header.set_intent(_INTENT_VECTOR)
        return image

    def to_xarray(self) -> Any:
        """As an xarray DataArray (needs xarray).

        Its dimensions are named x, y, z after the world axes that they run along, with the voxels' RAS mm as coordinates; of an
        oblique image they are i, j, k, without coordinates. The affine is the attribute ``world_from_voxel``.
        """
        import xarray

        dims, coords = ["i", "j", "k"], {}
        if self.space.is_axis_aligned:
            direction = self.space.orientation.direction
            for axis in range(3):
                world = int(np.argmax(np.abs(direction[:, axis])))
                dims[axis] = _WORLD_AXES[world]
                steps = np.arange(self.space.shape[axis])
                affine = self.space.world_from_voxel
                start = affine[world, 3]
                coords[dims[axis]] = start + affine[world, axis] * steps
        if self.array.ndim == 4:
            dims.append("component")
        attributes = {"units": "mm", "world_from_voxel": self.space.world_from_voxel.tolist(), "kind": self.kind}
        return xarray.DataArray(self.array, dims=dims, coords=coords, attrs=attributes)

    def _lps_vectors(self) -> Array:
        return self.array * np.diag(LPS_FROM_RAS)[:3].astype(self.array.dtype) if self.kind == "vectors" else self.array
