"""An image on another grid, through transforms: a lazy array, of which reading any box computes that box.

Two engines give the same values: ITK, which is there at once and knows B-splines, and loops of ours (`lsfm_core.kernels`), which
are several times as fast once they are loaded.

Inside: `_resampled` the lazy image, `_way` a chain as the loops take it, `_itk` ITK.
"""

from lsfm_core.resample._itk import Interpolation, itk_bytes_per_voxel, resample
from lsfm_core.resample._resampled import LOOPS_BYTES, Resampled, VoxelSource, halves, is_worth_loops

__all__ = [
    "LOOPS_BYTES",
    "Interpolation",
    "Resampled",
    "VoxelSource",
    "halves",
    "is_worth_loops",
    "itk_bytes_per_voxel",
    "resample",
]
