"""Headless core of napari-lsfm: pack cleared-brain light-sheet stacks into one file, and take any piece of it out again."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsfm_core.arrays import ChunkCache, LazyArray, LazyLevel
    from lsfm_core.cli import command_line, request_command
    from lsfm_core.confinement import allow_outside
    from lsfm_core.edits import (
        AddMetadataRequest,
        AffineRequest,
        RemoveChannelRequest,
        RemoveMetadataRequest,
        RenameChannelRequest,
        RenameSpaceRequest,
        SealRequest,
        SetSpaceRequest,
        apply_edit,
        describe_edit,
    )
    from lsfm_core.errors import (
        BusyError,
        CancelledError,
        ChecksumError,
        DamagedError,
        ExistsError,
        FormatError,
        InputError,
        LsfmError,
        MemoryBudgetError,
        MissingError,
        OrientationError,
        SourceError,
        StorageError,
        UnfinishedError,
        UnknownChannelError,
        UnknownRegionError,
    )
    from lsfm_core.export import (
        ExportPlan,
        ExportRequest,
        ExportResult,
        MergeRequest,
        PointsRequest,
        PointsResult,
        RegionMask,
        RegionSelection,
        SlicesRequest,
        TransformRequest,
        TransformStep,
        Volume,
        check_spaces,
        export_blocks,
        export_channel,
        export_chunks,
        export_slices,
        find_region,
        iter_chunks,
        iter_slices,
        lay_out_chunks,
        merge_chunks,
        plan_export,
        transform_points,
    )
    from lsfm_core.formats import PlaneFunction, Source
    from lsfm_core.geometry import Orientation, Space
    from lsfm_core.images import open_source
    from lsfm_core.info import FileInfo, describe_file
    from lsfm_core.ingest import IngestPlan, IngestReport, IngestRequest, ingest_channel, plan_ingest
    from lsfm_core.metadata import ImageMetadata, VoxelSize, describe_image, read_metadata
    from lsfm_core.preview import PreviewRequest, PreviewResult, preview_file
    from lsfm_core.progress import CancelToken, size_text
    from lsfm_core.provenance import LogRecord
    from lsfm_core.recipes import recipe_entry
    from lsfm_core.regions import Label, LabelTable, count_labels
    from lsfm_core.spaces import SpaceGraph, describe_spaces, known_spaces, linear_way
    from lsfm_core.store import (
        Channel,
        Level,
        LsfmFile,
        RepackReport,
        RepackRequest,
        VerifyReport,
        edit_lsfm,
        open_lsfm,
        plan_repack,
        repack_file,
        verify_file,
        write_xml,
    )

# The menu, and the room that each dish comes from: a room is entered only when something of it is asked for, so that importing
# the package takes no time.
_ROOMS = {
    "arrays": ("ChunkCache", "LazyArray", "LazyLevel"),
    "cli": ("command_line", "request_command"),
    "confinement": ("allow_outside",),
    "edits": (
        "AddMetadataRequest",
        "AffineRequest",
        "RemoveChannelRequest",
        "RemoveMetadataRequest",
        "RenameChannelRequest",
        "RenameSpaceRequest",
        "SealRequest",
        "SetSpaceRequest",
        "apply_edit",
        "describe_edit",
    ),
    "errors": (
        "BusyError", "CancelledError", "ChecksumError", "DamagedError", "ExistsError", "FormatError", "InputError", "LsfmError",
        "MemoryBudgetError", "MissingError", "OrientationError", "SourceError", "StorageError", "UnknownChannelError",
        "UnfinishedError", "UnknownRegionError",
    ),
    "export": (
        "ExportPlan",
        "ExportRequest",
        "ExportResult",
        "MergeRequest",
        "PointsRequest",
        "PointsResult",
        "RegionMask",
        "RegionSelection",
        "SlicesRequest",
        "TransformRequest",
        "TransformStep",
        "Volume",
        "check_spaces",
        "export_blocks",
        "export_channel",
        "export_chunks",
        "export_slices",
        "find_region",
        "iter_chunks",
        "iter_slices",
        "lay_out_chunks",
        "merge_chunks",
        "plan_export",
        "transform_points",
    ),
    "formats": ("PlaneFunction", "Source"),
    "geometry": ("Orientation", "Space"),
    "images": ("open_source",),
    "info": ("FileInfo", "describe_file"),
    "ingest": ("IngestPlan", "IngestReport", "IngestRequest", "ingest_channel", "plan_ingest"),
    "metadata": ("ImageMetadata", "VoxelSize", "describe_image", "read_metadata"),
    "preview": ("PreviewRequest", "PreviewResult", "preview_file"),
    "progress": ("CancelToken", "size_text"),
    "provenance": ("LogRecord",),
    "recipes": ("recipe_entry",),
    "regions": ("Label", "LabelTable", "count_labels"),
    "spaces": ("SpaceGraph", "describe_spaces", "known_spaces", "linear_way"),
    "store": (
        "Channel",
        "Level",
        "LsfmFile",
        "RepackReport",
        "RepackRequest",
        "VerifyReport",
        "edit_lsfm",
        "open_lsfm",
        "plan_repack",
        "repack_file",
        "verify_file",
        "write_xml",
    ),
}  # fmt: skip
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "AddMetadataRequest",
    "AffineRequest",
    "BusyError",
    "CancelToken",
    "CancelledError",
    "Channel",
    "ChecksumError",
    "ChunkCache",
    "DamagedError",
    "ExistsError",
    "ExportPlan",
    "ExportRequest",
    "ExportResult",
    "FileInfo",
    "FormatError",
    "ImageMetadata",
    "IngestPlan",
    "IngestReport",
    "IngestRequest",
    "InputError",
    "Label",
    "LabelTable",
    "LazyArray",
    "LazyLevel",
    "Level",
    "LogRecord",
    "LsfmError",
    "LsfmFile",
    "MemoryBudgetError",
    "MergeRequest",
    "MissingError",
    "Orientation",
    "OrientationError",
    "PlaneFunction",
    "PointsRequest",
    "PointsResult",
    "PreviewRequest",
    "PreviewResult",
    "RegionMask",
    "RegionSelection",
    "RemoveChannelRequest",
    "RemoveMetadataRequest",
    "RenameChannelRequest",
    "RenameSpaceRequest",
    "RepackReport",
    "RepackRequest",
    "SealRequest",
    "SetSpaceRequest",
    "SlicesRequest",
    "Source",
    "SourceError",
    "Space",
    "SpaceGraph",
    "StorageError",
    "TransformRequest",
    "TransformStep",
    "UnfinishedError",
    "UnknownChannelError",
    "UnknownRegionError",
    "VerifyReport",
    "Volume",
    "VoxelSize",
    "allow_outside",
    "apply_edit",
    "check_spaces",
    "command_line",
    "count_labels",
    "describe_edit",
    "describe_file",
    "describe_image",
    "describe_spaces",
    "edit_lsfm",
    "export_blocks",
    "export_channel",
    "export_chunks",
    "export_slices",
    "find_region",
    "ingest_channel",
    "iter_chunks",
    "iter_slices",
    "known_spaces",
    "lay_out_chunks",
    "linear_way",
    "merge_chunks",
    "open_lsfm",
    "open_source",
    "plan_export",
    "plan_ingest",
    "plan_repack",
    "preview_file",
    "read_metadata",
    "recipe_entry",
    "repack_file",
    "request_command",
    "size_text",
    "transform_points",
    "verify_file",
    "write_xml",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def load_ipython_extension(shell: Any) -> None:
    """Give IPython the line magic ``%lsfm``: what ``%load_ext lsfm_core`` calls."""
    importlib.import_module(f"{__name__}.cli.interactive").add_magic(shell)


def __dir__() -> list[str]:
    return sorted(__all__)
