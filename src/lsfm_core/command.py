"""A request as the words of the command line that asks for the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from lsfm_core.errors import InputError
from lsfm_core.export import ExportRequest, RegionSelection, TransformStep
from lsfm_core.ingest import IngestRequest

__all__ = ["command_line"]


def command_line(request: ExportRequest | IngestRequest) -> list[str]:
    """What a shell would hand to ``lsfm-core`` for this request; ``shlex.join`` quotes it for one.

    Fields that have their defaults are left out.

    Raises
    ------
    InputError
        If the command line cannot say it: an export without an output, or with margins in mm and in voxels at once; an ingest of
        an array.
    """
    if isinstance(request, IngestRequest):
        return ["lsfm-core", "write", _path(request.path), *_ingest(request)]
    if request.output is None:
        raise InputError("output: the command line writes a file: name one")
    words = ["lsfm-core", "export", _path(request.path)]
    for field, value in _told(request):
        match field:
            case "path":
                pass
            case "antialias":
                words.append("--no-antialias")
            case "memory_bytes":
                words.append(f"--memory={value}")
            case "region":
                words += _region(value)
            case "transforms":
                words += [_option("transform", _transform(step)) for step in value]
            case "numeric_inverse":
                words += [_option(field, name) for name in value]
            case _:
                words.append(_option(field, value))
    return words


def _ingest(request: IngestRequest) -> Iterator[str]:
    for field, value in _told(request):
        match field:
            case "path":
                pass
            case "image" if not isinstance(value, str | os.PathLike):
                raise InputError("image: the command line reads files: give the path of one")
            case "checkpoint_seconds":
                raise InputError("checkpoint_seconds: the command line takes the default")
            case "compression":
                yield f"--compression-level={value}"
            case "memory_bytes":
                yield f"--memory={value}"
            case _:
                yield _option(field, value)


def _region(selection: RegionSelection) -> Iterator[str]:
    if selection.margin_mm and selection.margin_vox:
        raise InputError("margin: the command line takes one, in mm or in voxels")
    for field, value in _told(selection):
        match field:
            case "select":
                yield from (_option("region", key) for key in value)
            case "margin_vox":
                yield f"--margin={value}vox"
            case _:
                yield _option(field, value)


def _told(request: ExportRequest | IngestRequest | RegionSelection) -> Iterator[tuple[str, Any]]:
    """Fields that say something else than their defaults do."""
    for name, field in type(request).model_fields.items():
        value = getattr(request, name)
        if field.is_required() or value != field.default:
            yield name, value


def _option(field: str, value: Any) -> str:
    """One word, so that a value may begin with a dash."""
    option = f"--{field.removesuffix('_mm').replace('_', '-')}"
    return option if value is True else f"{option}={_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    # The shortest text that is read back as the same number.
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _transform(step: TransformStep) -> str:
    """The short form where that tells all."""
    if step.type is None and TransformStep.parse(str(step)).model_copy(update={"order": step.order}) == step:
        return str(step)
    kind = f",type={step.type}" if step.type is not None else ""
    return f"name={step.name}{kind},invert={'yes' if step.invert else 'no'}"


def _path(path: Any) -> str:
    text = str(path)
    return f"./{text}" if text.startswith("-") else text
