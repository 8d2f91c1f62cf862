"""Requests as command lines that can be run again."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsfm_core.errors import InputError, LsfmError

if TYPE_CHECKING:
    from lsfm_core._request import Request
    from lsfm_core.provenance import LogRecord

__all__ = ["command_line", "request_command"]

# Options by the field of the request that they fill; those that are not here need more than their value.
_OPTIONS = {
    "write": {
        "channel": "--channel", "image": "--image", "image_channel": "--image-channel", "planes_are": "--planes-are",
        "kind": "--kind", "labels": "--labels", "ontology": "--ontology", "inverse_of": "--inverse-of", "replace": "--replace",
        "resume": "--resume", "uint16_as_int16": "--uint16-as-int16", "voxel_size_mm": "--voxel-size",
        "orientation": "--orientation", "origin_mm": "--origin",
        "metadata": "--metadata", "memory_bytes": "--memory", "threads": "--threads",
        "compression": "--compression-level", "space": "--space", "from_space": "--from",
        "field_convention": "--field-convention",
    },
    "export": {
        "channel": "--channel", "output": "--output", "level": "--level", "timepoint": "--timepoint",
        "resolution_mm": "--resolution", "output_orientation": "--output-orientation", "orientation": "--orientation",
        "voxel_size_mm": "--voxel-size",
        "interpolation": "--interpolation", "fill": "--fill", "numeric_inverse": "--numeric-inverse", "reference": "--reference",
        "origin_mm": "--origin", "size_mm": "--size", "snap": "--snap", "overwrite": "--overwrite", "memory_bytes": "--memory",
        "threads": "--threads", "grid": "--grid", "overlap_mm": "--overlap", "axis": "--axis", "roi": "--roi",
        "as_stored": "--as-stored", "contrast": "--contrast", "shard": "--shard",
        "field_convention": "--field-convention", "to_space": "--to-space", "via": "--via",
    },
    "export-transform": {
        "channel": "--channel", "orientation": "--orientation", "voxel_size_mm": "--voxel-size", "to_space": "--to-space",
        "via": "--via", "numeric_inverse": "--numeric-inverse", "field_convention": "--field-convention", "format": "--format",
        "output": "--output", "reference": "--reference", "landmark_unit": "--landmark-unit", "overwrite": "--overwrite",
        "memory_bytes": "--memory", "threads": "--threads",
    },
    "registration-inputs": {
        "channel": "--channel", "resolution_mm": "--resolution", "output": "--output", "overwrite": "--overwrite",
        "memory_bytes": "--memory", "threads": "--threads",
    },
    "register": {
        "channel": "--channel", "to_image": "--to-image", "space": "--space", "resolution_mm": "--resolution",
        "transform": "--transform", "name": "--name", "seed": "--seed", "replace": "--overwrite", "memory_bytes": "--memory",
        "threads": "--threads",
    },
    "add-atlas": {
        "atlas": "--atlas", "space": "--space", "replace": "--overwrite", "memory_bytes": "--memory", "threads": "--threads",
    },
    "import-registration": {
        "channel": "--channel", "atlas_space": "--atlas-space", "name": "--name", "tool": "--tool", "fixed": "--fixed",
        "atlas_image": "--atlas-image", "landmark_unit": "--landmark-unit",
        "field_convention": "--field-convention", "field_error_vox": "--field-error", "result": "--result", "moved": "--moved",
        "one_way": "--one-way", "mirrored": "--mirrored", "labels": "--labels", "labels_channel": "--labels-channel",
        "replace": "--overwrite", "memory_bytes": "--memory", "threads": "--threads",
    },
    "transform-points": {
        "channel": "--channel", "orientation": "--orientation", "voxel_size_mm": "--voxel-size", "to_space": "--to-space",
        "via": "--via", "numeric_inverse": "--numeric-inverse", "field_convention": "--field-convention", "source": "--from",
        "target": "--to", "columns": "--columns", "marker_type": "--marker-type", "level": "--level", "reference": "--reference",
        "labels_channel": "--labels-channel", "labels_in": "--labels-in", "midline_mm": "--midline", "output": "--output",
        "layout": "--layout",
        "counts": "--counts", "overwrite": "--overwrite", "memory_bytes": "--memory", "threads": "--threads",
    },
    "rename-space": {"space": "--space", "new_name": "--to"},
    "link-spaces": {"space": "--space", "to_space": "--to"},
    "write-affine": {
        "channel": "--channel", "name": "--name", "affine": "--affine", "replace": "--overwrite", "from_space": "--from",
        "to_space": "--to",
    },
    "set-space": {
        "channel": "--channel", "space": "--space", "transform": "--transform", "from_space": "--from", "to_space": "--to",
    },
    "rename-channel": {"channel": "--channel", "new_name": "--to"},
    "remove-channel": {"channel": "--channel"},
    "seal": {},
    "add-metadata": {"channel": "--channel", "overwrite": "--overwrite"},
    "remove-metadata": {"channel": "--channel"},
    "repack": {
        "output": "--output", "compression": "--compression-level", "rechunk": "--rechunk", "overwrite": "--overwrite",
        "memory_bytes": "--memory", "threads": "--threads",
    },
    "region-table": {
        "channel": "--channel", "labels_channel": "--labels-channel", "level": "--level", "timepoint": "--timepoint",
        "side": "--side", "midline_mm": "--midline", "threshold": "--threshold", "percentiles": "--percentiles",
        "output": "--output", "overwrite": "--overwrite", "orientation": "--orientation", "voxel_size_mm": "--voxel-size",
        "to_space": "--to-space", "via": "--via", "numeric_inverse": "--numeric-inverse", "field_convention": "--field-convention",
        "memory_bytes": "--memory", "threads": "--threads", "shard": "--shard",
    },
    "upgrade": {
        "orientation": "--orientation", "field_convention": "--field-convention", "compression": "--compression-level",
        "memory_bytes": "--memory", "threads": "--threads",
    },
    "xml": {"overwrite": "--overwrite"},
    "link": {"overwrite": "--overwrite"},
}  # fmt: skip
_OPTIONS["export-slices"] = _OPTIONS["export"]
_REGION = {
    "labels_channel": "--labels-channel", "select": "--region", "include_descendants": "--include-descendants", "side": "--side",
    "midline_mm": "--midline", "mask": "--mask", "labels_in": "--labels-in",
}  # fmt: skip
# Options that are given once for each value.
_REPEATED = {"--marker-type", "--numeric-inverse", "--region", "--via"}


def command_line(record: LogRecord, file: str, *, folder: Path | None = None) -> str | None:
    """A command line that does again what a record tells of; None where no command line can say it.

    Parameters
    ----------
    record : LogRecord
    file : str
        How to name the HDF5 file, where the request does not.
    folder : Path, optional
        From where it will be run; if the record was made elsewhere, the line goes there first. Default: from there.
    """
    line = _command_line(record, file)
    if line is None or folder is None or not record.folder or folder == Path(record.folder):
        return line
    return f"cd {shlex.quote(record.folder)} && {line}"


def _command_line(record: LogRecord, file: str) -> str | None:
    from lsfm_core.provenance import as_command_line
    from lsfm_core.recipes import recorded_steps

    command = record.command or ""
    # A recipe, or a replay, does other things as well.
    if command.startswith("lsfm-core ") and not command.startswith(("lsfm-core run ", "lsfm-core replay ")):
        return command
    try:
        steps = recorded_steps(record, Path(file))
    except InputError:
        return None
    words = _words(steps[0].name, steps[0].request) if len(steps) == 1 else None
    return None if words is None else as_command_line(words)


def request_command(request: Request) -> list[str]:
    """The words of the command line that carries a request out; ``shlex.join`` quotes them for a shell.

    Raises
    ------
    InputError
        If no command line can say it: an export without an output, an image or points that are no file, margins in mm and in
        voxels at once.
    """
    from lsfm_core.export import PointsRequest
    from lsfm_core.ingest import IngestRequest
    from lsfm_core.recipes import OPERATIONS

    operation = next(name for name, known in OPERATIONS.items() if known.request is type(request))
    if isinstance(request, IngestRequest):
        if not isinstance(request.image, str | os.PathLike):
            raise InputError("image: the command line reads files: give the path of one")
    else:
        if isinstance(request, PointsRequest) and not isinstance(request.points, os.PathLike):
            raise InputError("points: the command line reads files: give the path of one")
        if getattr(request, "output", "is not asked for") is None:
            raise InputError("output: the command line writes a file: name one")
    words = _words(operation, request)
    if words is None:
        raise InputError(f"no command line can say this: {request.model_dump(mode='json', exclude_defaults=True)}")
    return ["lsfm-core", *words]


def _words(operation: str, request: Any) -> list[str] | None:
    """A command line without the program's name; None if none can say this."""
    if operation not in _OPTIONS:
        return None
    fields = request.model_dump(mode="json", exclude_defaults=True)
    about = [str(request.points), f"--file={request.path}"] if operation == "transform-points" else [str(request.path)]
    if operation == "upgrade":
        about.insert(0, str(request.old))
    words = [operation, *about, *_arguments(operation, fields)]
    return words if _parsed(words) == _as_typed(request) else None


def _as_typed(request: Request) -> Request:
    """The request as a command line has it, on which paths and ids are texts; both are understood alike."""
    image = getattr(request, "image", None)
    if isinstance(image, os.PathLike):
        return request.model_copy(update={"image": str(image)})
    region = getattr(request, "region", None)
    if region is None:
        return request
    return request.model_copy(update={"region": region.model_copy(update={"select": tuple(map(str, region.select))})})


def _parsed(arguments: list[str]) -> object:
    """What a command line asks for, as its own parser has it; None if it cannot be read."""
    from lsfm_core.cli import build_parser

    with suppress(LsfmError, SystemExit), redirect_stderr(StringIO()):
        parsed: argparse.Namespace = build_parser().parse_args(arguments)
        return parsed.request_of(parsed)
    return None


def _arguments(operation: str, fields: Mapping[str, Any]) -> Iterator[str]:
    yield from _options(_OPTIONS[operation], fields)
    if operation == "remove-metadata":
        yield fields["key"]
    yield from fields.get("registration", ())
    if operation == "link":
        yield from fields["files"]
    if fields.get("prove") is False:
        yield "--no-proof"
    if operation == "add-metadata":
        plain = all(isinstance(value, str) for value in fields["values"].values())
        if not plain:
            yield "--type=json"
        yield from (f"{key}={value if plain else json.dumps(value)}" for key, value in fields["values"].items())
    for step in fields.get("transforms", ()):
        plain = step["name"] + (":invert" if "invert" in step else "")
        long = [f"{key}={'yes' if value is True else value}" for key, value in step.items()]
        is_long = {"type", "order"} & step.keys() or step["name"].endswith(":invert")
        yield f"--transform={','.join(long) if is_long else plain}"
    yield from (f"--orientation={name}={code}" for name, code in fields.get("orientations", {}).items())
    yield from (f"--origin={name}={','.join(map(str, place))}" for name, place in fields.get("origins_mm", {}).items())
    if fields.get("antialias") is False:
        yield "--no-antialias"
    if {"start", "stop", "step"} & fields.keys():
        yield f"--range={','.join(str(fields.get(key)) for key in ('start', 'stop', 'step'))}"
    region = fields.get("region")
    if region is not None:
        yield from _options(_REGION, region)
        yield from (f"--margin={region[key]}{key[-3:].strip('_')}" for key in ("margin_mm", "margin_vox") if key in region)


def _options(options: Mapping[str, str], fields: Mapping[str, Any]) -> Iterator[str]:
    for key, option in options.items():
        value = fields.get(key)
        if value is True:
            yield option
        elif isinstance(value, (list, tuple)) and option in _REPEATED:
            yield from (f"{option}={item}" for item in value)
        elif value is not None and value is not False:
            # With the equals sign a value may begin with a minus.
            yield f"{option}={','.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"
