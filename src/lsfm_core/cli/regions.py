"""The command that tells what a channel is like in each region."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._json import tell, warn
from lsfm_core.cli._options import add_division, add_request, add_resources, add_transforms, add_verb, bar, dask_of, shard_words

if TYPE_CHECKING:
    from lsfm_core.export import RegionTable, RegionTableRequest

__all__ = ["add_commands"]


def add_commands(verbs: Any) -> None:
    """Let the parser know the command of this module."""
    table = add_verb(
        verbs, "region-table", _region_table, "measure a channel in each region: volume, mean, median, and more",
        "lsfm-core region-table brain.h5 --channel cfos --labels-channel atlas --side --threshold 1500 --output regions.csv",
    )  # fmt: skip
    table.add_argument("file", metavar="H5", help="the HDF5 file, or its BigDataViewer XML")
    table.add_argument("--channel", required=True, metavar="NAME", help="the channel whose values are measured")
    table.add_argument("--labels-channel", required=True, metavar="NAME", help="the channel that tells the regions")
    add_transforms(table, "--to-space")
    table.add_argument("--level", type=int, default=0, metavar="L", help="pyramid level whose voxels are measured (default 0)")
    table.add_argument("--timepoint", type=int, metavar="T", help="BigDataViewer's number of the time (default: the first)")
    table.add_argument("--side", action="store_true", help="tell of the left and the right of each region as well")
    table.add_argument("--midline", type=float, metavar="MM", help="R between left and right (default: from the labels)")
    table.add_argument("--threshold", type=float, metavar="VALUE", help="tell what volume has values above it")
    table.add_argument(
        "--percentiles",
        type=_numbers,
        default=(5.0, 25.0, 75.0, 95.0),
        metavar="P,P,...",
        help="percentiles beside the median (default 5,25,75,95)",
    )
    output = table.add_argument("--output", required=True, metavar="CSV", help="the table: .csv, .tsv or .txt")
    table.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    add_division(table)
    add_request(table, _request, waives=output)
    add_resources(table)


def _request(arguments: argparse.Namespace) -> RegionTableRequest:
    from lsfm_core.export import RegionTableRequest

    return RegionTableRequest(
        path=arguments.file,
        channel=arguments.channel,
        labels_channel=arguments.labels_channel,
        orientation=arguments.orientation,
        voxel_size_mm=arguments.voxel_size,
        transforms=arguments.transforms,
        to_space=arguments.to_space,
        via=arguments.via,
        numeric_inverse=arguments.numeric_inverse,
        field_convention=arguments.field_convention,
        level=arguments.level,
        timepoint=arguments.timepoint,
        side=arguments.side,
        midline_mm=arguments.midline,
        threshold=arguments.threshold,
        percentiles=arguments.percentiles,
        output=arguments.output,
        overwrite=arguments.overwrite,
        memory_bytes=arguments.memory,
        threads=arguments.threads,
        shard=arguments.shard,
    )


def _region_table(arguments: argparse.Namespace) -> None:
    from lsfm_core.export import files_of, make_shard, region_table

    request = _request(arguments)
    if request.shard is not None and arguments.dask is None:
        with bar(arguments) as progress:
            made = make_shard(request, progress=progress, cancel=arguments.cancel)
        warn(made.warnings)
        tell(arguments, made, lambda: shard_words(made))
        return
    with dask_of(arguments, lambda: files_of(request)) as executor, bar(arguments) as progress:
        result = region_table(request, executor=executor, progress=progress, cancel=arguments.cancel)
    warn(result.warnings)
    tell(arguments, result, lambda: _words(result))


def _words(result: RegionTable) -> str:
    whole = [row for row in result.rows if row.side == "both" and row.extent == "own" and row.id]
    some = [row for row in whole if row.voxels]
    voxels = sum(row.voxels for row in some)
    return (
        f"{result.path}: {len(whole)} regions of channel {result.request.labels_channel!r}, {len(some)} of them with {voxels} "
        f"voxels of channel {result.request.channel!r}, in {result.seconds:.1f} s"
    )


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part.strip())
