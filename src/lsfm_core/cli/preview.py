"""The command that shows a file at a glance."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._json import tell, warn
from lsfm_core.cli._options import add_placement, add_request, add_verb

if TYPE_CHECKING:
    from lsfm_core.preview import PreviewRequest

__all__ = ["add_commands"]


def add_commands(verbs: Any) -> None:
    """Let the parser know the command of this module."""
    preview = add_verb(
        verbs, "preview", _preview, "draw a file's channels, or write a page about it",
        "lsfm-core preview brain.h5 --channel autofluo --labels-channel atlas --output preview.png",
    )  # fmt: skip
    preview.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    preview.add_argument(
        "--channel",
        dest="channels",
        action="append",
        default=[],
        metavar="NAME",
        help="repeat it for several (default: all images; in a page all channels)",
    )
    preview.add_argument("--labels-channel", metavar="NAME", help="draw the outlines of these labels over the images")
    preview.add_argument(
        "--projection", choices=("middle", "max"), default="middle", help="middle slices or maximum projections (default middle)"
    )
    preview.add_argument("--size", type=int, metavar="PIXELS", help="along the specimen's longest edge (default 600)")
    add_placement(preview)
    preview.add_argument("--timepoint", type=int, metavar="N", help="which of the times that info lists (default: the first)")
    preview.add_argument("--html", action="store_true", help="write a page with all that is known of the file (.html)")
    preview.add_argument("--output", required=True, help="a picture (.png) or a page (.html)")
    preview.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    add_request(preview, _request)


def _request(arguments: argparse.Namespace) -> PreviewRequest:
    from lsfm_core.errors import InputError
    from lsfm_core.preview import PreviewRequest

    request = PreviewRequest(
        path=arguments.file,
        channels=tuple(arguments.channels),
        labels_channel=arguments.labels_channel,
        projection=arguments.projection,
        orientation=arguments.orientation,
        voxel_size_mm=arguments.voxel_size,
        timepoint=arguments.timepoint,
        output=arguments.output,
        overwrite=arguments.overwrite,
        **({"size": arguments.size} if arguments.size is not None else {}),
    )
    if arguments.html and not request.is_page:
        raise InputError(f"output {request.output}: a page (--html) must end in .html")
    return request


def _preview(arguments: argparse.Namespace) -> None:
    from lsfm_core.preview import preview_file

    result = preview_file(_request(arguments))
    warn(result.warnings)
    what = "a page" if result.layout is None else f"{result.layout.width} x {result.layout.height} pixels"
    tell(arguments, result, lambda: f"{result.path}: {what} in {result.seconds:.1f} s")
