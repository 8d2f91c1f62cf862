"""Every group, dataset and attribute name inside our HDF5 files. No other module spells one."""

from __future__ import annotations

import re

# --- BigDataViewer's names ---------------------------------------------------------------------------------------------------
CELLS = "cells"
RESOLUTIONS = "resolutions"
SUBDIVISIONS = "subdivisions"
DATA_TYPE = "dataType"
_SETUP = re.compile(r"s(\d{2,})$")
_TIMEPOINT = re.compile(r"t(\d{5,})$")

# --- ours; the layout is lsfmpy's, so that its users find their way ---------------------------------------------------------
LSFM = "LSFM"
IMAGE = "IMAGE"
AFFINES = "AFFINES"
ITK_PARAMS = "ITK_PARAMS"
FIXED_ITK_PARAMS = "FIXED_ITK_PARAMS"
SOURCES = "SOURCES"
LABELS = "LABELS"
ACQUISITION = "ACQUISITION"
# A channel that is being written stands here until it is complete.
INCOMPLETE = "LSFM_INCOMPLETE"
# Key-value pairs, of the file and of each channel: texts are attributes of this group, all else is a dataset inside it.
METADATA = "extended_metadata"
METADATA_JSON = "JSON"
LOG = "log"
# What tells of flipped bits: a text with the digest of every object of ours, and of each level what its chunks are known by.
DIGESTS = "LSFM_DIGESTS"
STRUCTURE = "structure"
CHUNK_TABLES = "chunks"
HAS_DIGESTS = "LSFM_has_digests"

# Attributes of /LSFM/<channel>
FORMAT_VERSION = "format_version"
KIND = "kind"
UNIT = "unit"
AXCODES = "axcodes"
SETUP = "bdv_setup"
PERCENTILES = "display_percentiles"
DISPLAY_RANGE = "display_range"
COLORMAP = "colormap"
NON_FINITE = "non_finite_voxels"
PARTNER = "inverse"
# The space that a channel lives in. Of a displacement field, and of an affine (there on its dataset), the spaces on both sides.
SPACE = "space"
INNER = "from"
OUTER = "to"
# Of transforms that were imported: whether their program's own result was made anew with them.
PROOF = "proof"
WRITER = "written_by"
UUID = "uuid"
# Attributes of /LSFM/<channel>/IMAGE/<L>
WORLD_FROM_VOXEL = "world_from_voxel"
FACTORS = "factors"
# Attributes that lsfmpy wrote on /LSFM/<channel>/IMAGE, and its readers expect
LEGACY_SPACING = "spacing"
LEGACY_ORIGIN = "origin"
LEGACY_SHAPE = "shape"
LEGACY_PIXEL_TYPE = "pixel_type"
LEGACY_MULTICHANNEL = "is_multichannel"
LEGACY_SEGMENTATION = "is_segmentation"
# lsfmpy's and our counters on the root
SETUPS_COUNT = "BDV_setups_count"
LEGACY_CHANNELS_COUNT = "LSFM_setups_count"


def channel(name: str) -> str:
    """Group of a channel."""
    return f"{LSFM}/{name}"


def channel_of(path: str) -> str | None:
    """Group of the channel that something lies in, or None outside of ours."""
    parts = path.strip("/").split("/")
    return channel(parts[1]) if parts[0] == LSFM and len(parts) > 2 else None


def image(name: str) -> str:
    """Group of a channel's pyramid."""
    return f"{LSFM}/{name}/{IMAGE}"


def level(name: str, index: int) -> str:
    """Group of one level of a channel."""
    return f"{LSFM}/{name}/{IMAGE}/{index}"


def affine(name: str, affine_name: str) -> str:
    """Dataset of an affine: 4 x 4, RAS mm."""
    return f"{LSFM}/{name}/{AFFINES}/{affine_name}"


def acquisition(name: str) -> str:
    """Dataset with the facts of acquisition: JSON text."""
    return f"{LSFM}/{name}/{ACQUISITION}"


def metadata(name: str | None) -> str:
    """Group of a channel's key-value pairs; of the file's for None."""
    return METADATA if name is None else f"{LSFM}/{name}/{METADATA}"


def labels(name: str) -> str:
    """Dataset with the label table: JSON text."""
    return f"{LSFM}/{name}/{LABELS}"


def sources(name: str) -> str:
    """Dataset with the names, sizes and checksums of the files a channel was made from."""
    return f"{LSFM}/{name}/{SOURCES}"


def chunk_table(uuid: str, level_index: int) -> str:
    """Dataset with what the chunks of a level are known by."""
    return f"{DIGESTS}/{CHUNK_TABLES}/{uuid}/{level_index}"


def setup(index: int) -> str:
    """BigDataViewer's group of a setup's resolutions and data type."""
    return f"s{index:02d}"


def view(timepoint: int, setup_index: int) -> str:
    """BigDataViewer's group of a view."""
    return f"t{timepoint:05d}/s{setup_index:02d}"


def view_level(timepoint: int, setup_index: int, level_index: int) -> str:
    """BigDataViewer's group of one level of a view."""
    return f"{view(timepoint, setup_index)}/{level_index}"


def setup_index(name: str) -> int | None:
    """The setup that a root group's name stands for, or None."""
    match = _SETUP.match(name)
    return int(match.group(1)) if match else None


def timepoint_index(name: str) -> int | None:
    """The timepoint whose views a root group holds, or None."""
    match = _TIMEPOINT.match(name)
    return int(match.group(1)) if match else None
