"""Taking pieces out: a request becomes a plan, which can be shown before it runs; running it gives arrays or files.

Inside: `request` what can be asked for; `_names` what its names and paths stand for, `_spaces` whether these fit; `_region` the
part of the brain that labels tell; `plan` every decision; `_blocks` the voxels, block by block; `channel`, `chunks` and `slices`
the forms in which they come; `merge` the way back from chunks; `measures` what a channel is like in each region; `volume` an image
in memory; `view` a channel on the grid of an export, of which nothing is computed but what is read.
"""

from lsfm_core.export._divided import files_of
from lsfm_core.export._names import native_space
from lsfm_core.export._region import RegionMask, find_region
from lsfm_core.export._spaces import check_spaces
from lsfm_core.export.channel import ExportResult, export_blocks, export_channel, read_volume
from lsfm_core.export.chunks import ChunksResult, export_chunks, iter_chunks, lay_out_chunks
from lsfm_core.export.measures import (
    RegionRow,
    RegionTable,
    RegionTablePlan,
    RegionTableRequest,
    plan_region_table,
    region_table,
)
from lsfm_core.export.merge import MergePlan, MergeRequest, MergeResult, merge_chunks, plan_merge
from lsfm_core.export.plan import ExportPlan, plan_export, plan_pieces
from lsfm_core.export.point_files import PointList, is_point_file, read_points, write_points
from lsfm_core.export.points import PointsRequest, PointsResult, RegionCount, describe_points, transform_points
from lsfm_core.export.request import ExportRequest, RegionSelection, TransformRequest, TransformStep
from lsfm_core.export.shards import make_shard
from lsfm_core.export.slices import SlicesPlan, SlicesRequest, SlicesResult, export_slices, iter_slices, plan_slices
from lsfm_core.export.transform import TransformExportRequest, TransformExportResult, describe_transform, export_transform
from lsfm_core.export.view import ChannelView, ViewLevel, chain_to, view_channel
from lsfm_core.export.volume import Volume

__all__ = [
    "ChannelView",
    "ChunksResult",
    "ExportPlan",
    "ExportRequest",
    "ExportResult",
    "MergePlan",
    "MergeRequest",
    "MergeResult",
    "PointList",
    "PointsRequest",
    "PointsResult",
    "RegionCount",
    "RegionMask",
    "RegionRow",
    "RegionSelection",
    "RegionTable",
    "RegionTablePlan",
    "RegionTableRequest",
    "SlicesPlan",
    "SlicesRequest",
    "SlicesResult",
    "TransformExportRequest",
    "TransformExportResult",
    "TransformRequest",
    "TransformStep",
    "ViewLevel",
    "Volume",
    "chain_to",
    "check_spaces",
    "describe_points",
    "describe_transform",
    "export_blocks",
    "export_channel",
    "export_chunks",
    "export_slices",
    "export_transform",
    "files_of",
    "find_region",
    "is_point_file",
    "iter_chunks",
    "iter_slices",
    "lay_out_chunks",
    "make_shard",
    "merge_chunks",
    "native_space",
    "plan_export",
    "plan_merge",
    "plan_pieces",
    "plan_region_table",
    "plan_slices",
    "read_points",
    "read_volume",
    "region_table",
    "transform_points",
    "view_channel",
    "write_points",
]
