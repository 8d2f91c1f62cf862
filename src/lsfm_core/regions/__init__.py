"""Regions: what the ids of a labels channel mean, and where they lie."""

from lsfm_core.regions.table import Label, LabelTable, read_label_table

__all__ = ["Label", "LabelTable", "read_label_table"]
