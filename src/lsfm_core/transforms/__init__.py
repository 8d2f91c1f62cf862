"""Transforms between spaces: affines, displacement fields, and chains of them.

A transform maps a point of its outer (output, fixed) space to its inner (input, moving) space, as ITK's and ANTs' files do;
resampling asks just that. Files are in LPS mm, everything here is in RAS mm.

Inside: `base` what every transform can do, `affine` and `field` the kinds there are, `chain` their order and how it is carried out
block by block, `staged` what only ITK can evaluate, `spline` landmarks, `files` ITK's transform files, `elastix` those of elastix.
"""

from lsfm_core.transforms.affine import Affine
from lsfm_core.transforms.base import Transform
from lsfm_core.transforms.chain import BlockTransform, TransformChain
from lsfm_core.transforms.field import DisplacementField, InverseField
from lsfm_core.transforms.files import read_transforms

__all__ = ["Affine", "BlockTransform", "DisplacementField", "InverseField", "Transform", "TransformChain", "read_transforms"]
