"""Commands that take pieces out of a file."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._json import tell, warn
from lsfm_core.cli._options import (
    KINDS,
    Told,
    Waive,
    add_division,
    add_request,
    add_resources,
    add_transforms,
    add_verb,
    bar,
    by,
    dask_of,
    numbers,
    shard_words,
)
from lsfm_core.progress import size_text

if TYPE_CHECKING:
    from lsfm_core.export import (
        ChunksResult,
        ExportPlan,
        ExportRequest,
        ExportResult,
        MergeRequest,
        SlicesPlan,
        SlicesRequest,
        SlicesResult,
    )

__all__ = ["add_commands"]

_REGION_OPTIONS = ("labels_channel", "labels_in", "include_descendants", "side", "midline", "margin", "mask")


def add_commands(verbs: Any) -> None:
    """Let the parser know the commands of this module."""
    export = add_verb(
        verbs, "export", _export, "take a channel out, or a piece of it, in RAS orientation or in atlas space",
        "lsfm-core export brain.h5 --channel autofluo --resolution 0.1 --output brain_100um.nii.gz",
    )  # fmt: skip
    _add_image_options(export)
    output = export.add_argument(
        "--output",
        required=True,
        help=Told("export.ExportRequest.output", ", or FOLDER/name_%d_%d_%d.tif"),
    )
    add_division(export)
    add_request(export, _export_request, waives=output)
    _add_interactive(export, output)
    grid = export.add_argument_group("in chunks")
    grid.add_argument(
        "--grid",
        type=_counts,
        metavar="N,N,N",
        help=Told("export.ExportRequest.grid", " (each of --size, from --origin or the region's corner)"),
    )
    grid.add_argument(
        "--overlap", type=numbers(1, 3), default=0.0, metavar="MM", help=Told("export.ExportRequest.overlap_mm", " (mm, default 0)")
    )

    slices = add_verb(
        verbs, "export-slices", _export_slices, "take single planes out, one file each",
        "lsfm-core export-slices brain.h5 --channel autofluo --axis 0 --level 1 --range 20,400,2 --output 'slices/s_%04d.tif'",
    )  # fmt: skip
    _add_image_options(slices)
    slices.add_argument(
        "--axis",
        type=int,
        choices=range(3),
        default=0,
        help="axis of the output that planes are across; in RAS 0: sagittal, 1: coronal, 2: horizontal (default 0)",
    )
    slices.add_argument(
        "--range", type=_range, default=(None, None, None), metavar="START,STOP,STEP", help="which planes; None or nothing: all"
    )
    slices.add_argument(
        "--roi",
        type=_roi,
        metavar="OX,OY,SX,SY",
        help="first column, first row, columns and rows to keep of each picture",
    )
    slices.add_argument(
        "--as-stored",
        action="store_true",
        help="the planes as the output has them, its axes as rows and columns (default: as anatomists hold them: superior up, in "
        "horizontal planes anterior; left at the left, in sagittal planes posterior)",
    )
    slices.add_argument(
        "--contrast",
        type=_contrast,
        metavar="LOW,HIGH|full",
        help="values that PNG, in 8 bits, shows black and white; full: all of the type (default: the channel's display range). "
        "TIFF keeps values; labels get their colours",
    )
    output = slices.add_argument("--output", required=True, metavar="PATTERN", help="such as 'slices/s_%%04d.tif' or .png")
    add_division(slices)
    add_request(slices, _slices_request, waives=output)
    _add_interactive(slices, output)

    merge = add_verb(
        verbs, "merge", _merge, "put together what was made of the chunks of an export",
        "lsfm-core merge chunks/ --results segmented/ --kind labels --relabel --output cells.tif",
    )  # fmt: skip
    merge.add_argument("manifest", help="the chunks' manifest.json, or their folder")
    merge.add_argument(
        "--results", metavar="FOLDER", help="one file for each chunk, of the same name but for the ending (default: the chunks)"
    )
    merge.add_argument("--output", required=True, help="as export takes it")
    merge.add_argument("--kind", choices=KINDS, help="what the results are (default: what the chunks are)")
    merge.add_argument(
        "--relabel", action="store_true", help="labels were numbered in each chunk: number them through, join them across overlaps"
    )
    merge.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    add_request(merge, _merge_request)
    add_resources(merge)


def _add_interactive(parser: argparse.ArgumentParser, output: argparse.Action) -> None:
    parser.add_argument(
        "--interactive",
        action=Waive,
        waives=output,
        help="end in IPython, with the data as result and the open file as lsfm; needs no --output",
    )


def _add_image_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help=Told("export.ExportRequest.path"))
    parser.add_argument("--channel", required=True, metavar="NAME", help=Told("export.ExportRequest.channel"))
    parser.add_argument("--level", type=int, metavar="L", help=Told("export.ExportRequest.level"))
    parser.add_argument("--timepoint", type=int, metavar="N", help=Told("export.ExportRequest.timepoint"))
    parser.add_argument(
        "--resolution",
        type=numbers(1, 3),
        metavar="MM",
        help=Told("export.ExportRequest.resolution_mm", " (mm)"),
    )
    parser.add_argument("--output-orientation", metavar="CODE", help=Told("export.ExportRequest.output_orientation"))
    parser.add_argument(
        "--interpolation",
        choices=("linear", "nearest", "bspline", "mode"),
        help=Told("export.ExportRequest.interpolation"),
    )
    parser.add_argument(
        "--no-antialias",
        dest="antialias",
        action="store_false",
        help="interpolate only: do not average a source that is more than twice as fine as the output",
    )
    parser.add_argument("--fill", type=float, default=0, metavar="VALUE", help=Told("export.ExportRequest.fill", " (default 0)"))
    parser.add_argument("--overwrite", action="store_true", help=Told("export.ExportRequest.overwrite"))

    space = parser.add_argument_group("into another space")
    add_transforms(space, "--to", "--to-space")
    space.add_argument("--reference", metavar="IMAGE", help=Told("export.ExportRequest.reference"))

    box = parser.add_argument_group("a cuboid")
    box.add_argument(
        "--origin",
        type=numbers(3),
        metavar="R,A,S",
        help=Told("export.ExportRequest.origin_mm", " (mm)"),
    )
    box.add_argument("--size", type=numbers(1, 3), metavar="MM", help=Told("export.ExportRequest.size_mm", " (mm)"))
    box.add_argument("--snap", action="store_true", help=Told("export.ExportRequest.snap"))

    region = parser.add_argument_group("a region")
    region.add_argument(
        "--region", action="append", metavar="LABEL", help=Told("export.RegionSelection.select", "; repeat it for several")
    )
    region.add_argument("--labels-channel", metavar="NAME", help=Told("export.RegionSelection.labels_channel"))
    region.add_argument(
        "--labels-in",
        metavar="SPACE",
        help=Told("export.RegionSelection.labels_in", " (default native)"),
    )
    region.add_argument("--include-descendants", action="store_true", help=Told("export.RegionSelection.include_descendants"))
    region.add_argument("--side", choices=("left", "right"), help=Told("export.RegionSelection.side"))
    region.add_argument("--midline", type=float, metavar="MM", help=Told("export.RegionSelection.midline_mm", " (mm)"))
    region.add_argument(
        "--margin",
        type=_margin,
        metavar="MM",
        help=Told("export.RegionSelection.margin_mm", ": 0.2 or 0.2mm, or 3vox (voxels of the output)"),
    )
    region.add_argument("--mask", action="store_true", help=Told("export.RegionSelection.mask"))
    add_resources(parser)


def _fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `_add_image_options` has read, as fields of a request."""
    from lsfm_core.errors import InputError
    from lsfm_core.export import RegionSelection

    region = None
    given = [name for name in _REGION_OPTIONS if getattr(arguments, name) not in (None, False)]
    if arguments.region is not None:
        if arguments.labels_channel is None:
            raise InputError("--region: name the channel with the labels as well (--labels-channel)")
        region = RegionSelection(
            labels_channel=arguments.labels_channel,
            select=tuple(arguments.region),
            include_descendants=arguments.include_descendants,
            side=arguments.side,
            midline_mm=arguments.midline,
            mask=arguments.mask,
            labels_in=arguments.labels_in or "native",
            **(arguments.margin or {}),
        )
    elif given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"{options}: tell how a region is cut out: name one (--region), or leave it out")
    return {
        "path": arguments.file,
        "channel": arguments.channel,
        "output": arguments.output,
        "level": arguments.level,
        "timepoint": arguments.timepoint,
        "resolution_mm": arguments.resolution,
        "output_orientation": arguments.output_orientation,
        "orientation": arguments.orientation,
        "voxel_size_mm": arguments.voxel_size,
        "interpolation": arguments.interpolation,
        "antialias": arguments.antialias,
        "fill": arguments.fill,
        "transforms": tuple(arguments.transforms),
        "to_space": arguments.to_space,
        "via": tuple(arguments.via),
        "numeric_inverse": tuple(arguments.numeric_inverse),
        "field_convention": arguments.field_convention,
        "reference": arguments.reference,
        "origin_mm": arguments.origin,
        "size_mm": arguments.size,
        "snap": arguments.snap,
        "region": region,
        "overwrite": arguments.overwrite,
        "memory_bytes": arguments.memory,
        "threads": arguments.threads,
        "shard": arguments.shard,
    }


def _export_request(arguments: argparse.Namespace) -> ExportRequest:
    from lsfm_core.export import ExportRequest

    return ExportRequest(**_fields(arguments), grid=arguments.grid, overlap_mm=arguments.overlap)


def _slices_request(arguments: argparse.Namespace) -> SlicesRequest:
    from lsfm_core.export import SlicesRequest

    start, stop, step = arguments.range
    return SlicesRequest(
        **_fields(arguments),
        axis=arguments.axis,
        start=start,
        stop=stop,
        step=step,
        as_stored=arguments.as_stored,
        roi=arguments.roi,
        contrast=arguments.contrast,
    )


def _export(arguments: argparse.Namespace) -> None:
    from lsfm_core.export import export_channel, export_chunks, files_of

    request = _export_request(arguments)
    if arguments.interactive:
        from lsfm_core.cli.interactive import explore

        explore(request, arguments)
        return
    if request.shard is not None and arguments.dask is None:
        _make_shard(arguments, request)
        return
    with dask_of(arguments, lambda: files_of(request)) as executor, bar(arguments) as progress:
        if request.grid is not None:
            chunks = export_chunks(request, executor=executor, progress=progress, cancel=arguments.cancel)
            done = f"{chunks.manifest.parent}: {chunks.count} chunks and {chunks.manifest.name} in {chunks.seconds:.1f} s"
            _warn(chunks)
            tell(arguments, chunks, lambda: f"{done}\n{_words(chunks.plan)}")
        else:
            result = export_channel(request, executor=executor, progress=progress, cancel=arguments.cancel)
            size = size_text(result.written.size if result.written is not None else 0)
            _warn(result)
            tell(arguments, result, lambda: f"{result.path}: {size} in {result.seconds:.1f} s\n{_words(result.plan)}")


def _export_slices(arguments: argparse.Namespace) -> None:
    from lsfm_core.export import export_slices, files_of

    request = _slices_request(arguments)
    if arguments.interactive:
        from lsfm_core.cli.interactive import explore

        explore(request, arguments)
        return
    if request.shard is not None and arguments.dask is None:
        _make_shard(arguments, request)
        return
    with dask_of(arguments, lambda: files_of(request)) as executor, bar(arguments) as progress:
        result = export_slices(request, executor=executor, progress=progress, cancel=arguments.cancel)
    names = f"{result.paths[0]} … {result.paths[-1].name}" if len(result.paths) > 1 else str(result.paths[0])
    rows, columns = result.shape
    planes = f"{len(result.paths)} plane(s) of {columns} x {rows} pixels across axis {request.axis}"
    _warn(result)
    tell(arguments, result, lambda: f"{names}: {planes} in {result.seconds:.1f} s\n{_words(result.plan)}")


def _make_shard(arguments: argparse.Namespace, request: ExportRequest) -> None:
    from lsfm_core.export import make_shard

    with bar(arguments) as progress:
        result = make_shard(request, progress=progress, cancel=arguments.cancel)
    warn(result.warnings)
    tell(arguments, result, lambda: shard_words(result))


def _warn(result: ExportResult | ChunksResult | SlicesResult) -> None:
    warn(result.warnings)


def _words(plan: ExportPlan | SlicesPlan) -> str:
    # What it warns of was said on stderr.
    lines = plan.describe().splitlines()
    return "\n".join(line for line in lines if not line.startswith("warning "))


def _merge_request(arguments: argparse.Namespace) -> MergeRequest:
    from lsfm_core.export import MergeRequest

    return MergeRequest(
        manifest=arguments.manifest,
        output=arguments.output,
        results=arguments.results,
        kind=arguments.kind,
        relabel=arguments.relabel,
        overwrite=arguments.overwrite,
        memory_bytes=arguments.memory,
        threads=arguments.threads,
    )


def _merge(arguments: argparse.Namespace) -> None:
    from lsfm_core.export import merge_chunks

    with bar(arguments) as progress:
        result = merge_chunks(_merge_request(arguments), progress=progress, cancel=arguments.cancel)
    found = f", {result.labels} labels" if result.labels is not None else ""
    what = f"{by(result.space.shape)} voxels, {result.dtype}, {result.space.orientation}{found}"
    tell(arguments, result, lambda: f"{result.path}: {what}, in {result.seconds:.1f} s")


def _counts(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"(\d+),(\d+),(\d+)", text.replace(" ", ""))
    if match is None:
        raise argparse.ArgumentTypeError(f"expected three numbers of chunks separated by commas, or 0,0,0, found {text!r}")
    return int(match[1]), int(match[2]), int(match[3])


def _range(text: str) -> tuple[int | None, int | None, int | None]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 3 or not all(re.fullmatch(r"-?\d+|None|", part) for part in parts):
        raise argparse.ArgumentTypeError(f"expected START,STOP,STEP, each a whole number or None, found {text!r}")
    start, stop, step = [int(part) if part not in ("", "None") else None for part in parts] + [None] * (3 - len(parts))
    return start, stop, step


def _contrast(text: str) -> Any:
    return text if text == "full" else numbers(2)(text)


def _roi(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+){3}", text.replace(" ", "")):
        raise argparse.ArgumentTypeError(f"expected OX,OY,SX,SY in whole pixels, found {text!r}")
    return tuple(int(part) for part in text.split(","))


def _margin(text: str) -> dict[str, float | int]:
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(mm|vox)?", text.strip())
    if match is None or (match[2] == "vox" and not match[1].isdigit()):
        raise argparse.ArgumentTypeError(f"expected a margin such as 0.2, 0.2mm or 3vox, found {text!r}")
    return {"margin_vox": int(match[1])} if match[2] == "vox" else {"margin_mm": float(match[1])}
