"""The command that carries points."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._json import tell, warn
from lsfm_core.cli._options import add_request, add_resources, add_transforms, add_verb, bar

if TYPE_CHECKING:
    from lsfm_core.export import PointsRequest, PointsResult

__all__ = ["add_commands"]

_PLACES = ("native-voxel", "native-mm", "output-mm", "output-voxel")


def add_commands(verbs: Any) -> None:
    """Let the parser know the command of this module."""
    points = add_verb(
        verbs, "transform-points", _transform_points, "carry points, such as cells, to another space, and count them",
        "lsfm-core transform-points cells.csv --file brain.h5 --channel cfos --transform signal_to_structural "
        "--transform structural_to_template --transform warp --to output-mm --output cells_in_template.csv",
    )  # fmt: skip
    points.add_argument("points", metavar="POINTS", help="CSV, one point a line below the columns' names, or cellfinder's XML")
    points.add_argument("--file", required=True, metavar="H5", help="the HDF5 file, or its BigDataViewer XML")
    points.add_argument("--channel", required=True, metavar="NAME", help="the channel whose space is the native one")
    add_transforms(points, "--to-space")
    points.add_argument(
        "--from",
        dest="source",
        choices=_PLACES,
        default="native-voxel",
        metavar="SPACE",
        help="what the points are: native-voxel (default), voxels of the channel in array order; native-mm or output-mm, R, A, S "
        "in its world or behind the transforms; output-voxel, voxels of the reference",
    )
    points.add_argument(
        "--to",
        dest="target",
        default="output-mm",
        metavar="SPACE",
        help="what they become: one of these (default output-mm); any other name is that of a space, as --to-space takes it",
    )
    points.add_argument(
        "--columns",
        type=_names,
        metavar="A,B,C",
        help="the columns that hold the positions, in the order of their space (default: by their names)",
    )
    points.add_argument(
        "--marker-type",
        action="append",
        type=int,
        metavar="N",
        help="of cellfinder's XML: which markers are meant (default 2, the cells); repeat it for several",
    )
    points.add_argument("--level", type=int, metavar="L", help="pyramid level whose voxels native-voxel counts (default 0)")
    points.add_argument("--reference", metavar="NAME|FILE", help="for output-voxel: the channel or image whose voxels are meant")
    points.add_argument("--labels-channel", metavar="NAME", help="add the region of each point, as this channel tells it")
    points.add_argument(
        "--labels-in",
        default="native",
        metavar="SPACE",
        help="where the labels live: native (default), in the image's own space; output, behind all transforms; or the name of a "
        "transform, on the outer side of that one",
    )
    points.add_argument(
        "--output", required=True, metavar="CSV", help="the input's columns, the new positions, the regions; or .xml for cellfinder"
    )
    points.add_argument(
        "--layout",
        choices=("own", "brainglobe"),
        default="own",
        help="brainglobe: the tables have the columns of brainmapper's all_points.csv and summary.csv (with --labels-channel; the "
        "atlas is --reference, or the labels)",
    )
    points.add_argument("--counts", metavar="CSV", help="points, volume and density of each region, by itself and with its parts")
    points.add_argument(
        "--midline", type=float, metavar="MM", help="R between left and right in the counts (default: from the labels)"
    )
    points.add_argument("--overwrite", action="store_true", help="replace the outputs if they exist")
    add_request(points, _request)
    add_resources(points)


def _request(arguments: argparse.Namespace) -> PointsRequest:
    from lsfm_core.errors import InputError
    from lsfm_core.export import PointsRequest

    target, to_space = arguments.target, arguments.to_space
    if target not in _PLACES:
        if to_space is not None:
            raise InputError(f"--to {target}: expected one of {', '.join(_PLACES)}, since the space is named (--to-space)")
        target, to_space = "output-mm", target
    return PointsRequest(
        path=arguments.file,
        channel=arguments.channel,
        orientation=arguments.orientation,
        voxel_size_mm=arguments.voxel_size,
        transforms=arguments.transforms,
        to_space=to_space,
        via=arguments.via,
        numeric_inverse=arguments.numeric_inverse,
        field_convention=arguments.field_convention,
        points=arguments.points,
        columns=arguments.columns,
        marker_type=arguments.marker_type,
        source=arguments.source,
        target=target,
        level=arguments.level,
        reference=arguments.reference,
        labels_channel=arguments.labels_channel,
        labels_in=arguments.labels_in,
        output=arguments.output,
        layout=arguments.layout,
        midline_mm=arguments.midline,
        counts=arguments.counts,
        overwrite=arguments.overwrite,
        memory_bytes=arguments.memory,
        threads=arguments.threads,
    )


def _transform_points(arguments: argparse.Namespace) -> None:
    from lsfm_core.export import transform_points

    request = _request(arguments)
    with bar(arguments) as progress:
        result = transform_points(request, progress=progress, cancel=arguments.cancel)
    warn(result.warnings)
    tell(arguments, result, lambda: _words(request, result))


def _words(request: PointsRequest, result: PointsResult) -> str:
    text = (
        f"{result.path}: {len(result.points)} points, {request.source} -> {request.target}, {result.outside} outside of channel "
        f"{request.channel!r}, in {result.seconds:.1f} s"
    )
    if result.region_ids is None:
        return text
    inside = int((result.region_ids != 0).sum())
    where = f"{result.counts_path}: " if result.counts_path is not None else ""
    regions = len(set(result.region_ids.tolist()) - {0})
    return f"{text}\n  {where}{inside} of them in {regions} regions of {request.labels_channel!r}"


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))
