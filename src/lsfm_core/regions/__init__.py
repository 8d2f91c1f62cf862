"""Regions: what the ids of a labels channel mean, and where they lie."""

from lsfm_core.regions.table import Label, LabelTable, read_label_table, rgb_of
from lsfm_core.regions.voxels import (
    Hemisphere,
    LabelSet,
    RegionVoxels,
    count_labels,
    count_sides,
    locate_region,
    midline_mm,
    surface_points,
    sweep_blocks,
)

__all__ = [
    "Hemisphere",
    "Label",
    "LabelSet",
    "LabelTable",
    "RegionVoxels",
    "count_labels",
    "count_sides",
    "locate_region",
    "midline_mm",
    "read_label_table",
    "rgb_of",
    "surface_points",
    "sweep_blocks",
]
