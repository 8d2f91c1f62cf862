"""Recipes: requests in a YAML file, carried out one after the other with one open file; and requests that the log remembers.

A step is the name of an operation with the fields of its request, so that whatever can be asked for can stand in a recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import models_json_schema

from lsfm_core._request import Request
from lsfm_core.errors import InputError
from lsfm_core.export import (
    ExportRequest,
    MergeRequest,
    PointsRequest,
    SlicesRequest,
    export_channel,
    export_chunks,
    export_slices,
    lay_out_chunks,
    merge_chunks,
    plan_export,
    plan_slices,
    transform_points,
)
from lsfm_core.progress import CancelToken, ProgressCallback

__all__ = ["OPERATIONS", "Operation", "Recipe", "Step", "read_recipe", "recipe_entry", "recipe_schema"]


@dataclass(frozen=True)
class Operation:
    """What a recipe can ask for.

    Attributes
    ----------
    request : type of Request
    run : callable
        Takes the request, the open file (None if it needs none), a progress callback and a cancel token; gives the result.
    describe : callable
        Takes the request and the open file; gives what would be done, in words.
    besides : tuple of str
        Fields that name further outputs, which a replay leaves out.
    """

    request: type[Request]
    run: Callable[[Any, Any, ProgressCallback | None, CancelToken | None], Any]
    describe: Callable[[Any, Any], str]
    besides: tuple[str, ...] = ()

    @property
    def reads_file(self) -> bool:
        """Whether it works with the recipe's file."""
        return "path" in self.request.model_fields


def _export(request: ExportRequest, file: Any, progress: ProgressCallback | None, cancel: CancelToken | None) -> object:
    export = export_channel if request.grid is None else export_chunks
    return export(request, file=file, progress=progress, cancel=cancel)


def _describe_export(request: ExportRequest, file: Any) -> str:
    plan = plan_export(file, request)
    chunks = "" if request.grid is None else f"\nchunks  {len(lay_out_chunks(plan.target, request))}"
    return plan.describe() + chunks


def _export_slices(request: SlicesRequest, file: Any, progress: ProgressCallback | None, cancel: CancelToken | None) -> object:
    return export_slices(request, file=file, progress=progress, cancel=cancel)


def _transform_points(request: PointsRequest, file: Any, progress: ProgressCallback | None, cancel: CancelToken | None) -> object:
    return transform_points(request, file=file, progress=progress, cancel=cancel)


def _describe_points(request: PointsRequest, _: Any) -> str:
    return f"carries {request.points} from {request.source} to {request.target}"


def _merge(request: MergeRequest, _: Any, progress: ProgressCallback | None, cancel: CancelToken | None) -> object:
    return merge_chunks(request, progress=progress, cancel=cancel)


#: By the names that they have on the command line and in the log.
OPERATIONS: Mapping[str, Operation] = {
    "export": Operation(ExportRequest, _export, _describe_export),
    "export-slices": Operation(SlicesRequest, _export_slices, lambda request, file: plan_slices(file, request).describe()),
    "transform-points": Operation(PointsRequest, _transform_points, _describe_points, ("counts",)),
    "merge": Operation(MergeRequest, _merge, lambda request, _: f"merges {request.manifest} into {request.output}"),
}


@dataclass(frozen=True)
class Step:
    """One request of a recipe.

    Attributes
    ----------
    place : str
        For messages: ``"step 2 (export)"``.
    operation : Operation
    request : Request
    """

    place: str
    operation: Operation
    request: Any


@dataclass(frozen=True)
class Recipe:
    """A recipe that can be carried out; the paths of its requests are meant from the folder of its file.

    Attributes
    ----------
    path : Path
        Of the recipe.
    file : Path or None
        The HDF5 file that its steps work with; None where none of them needs one.
    steps : tuple of Step
    """

    path: Path
    file: Path | None
    steps: tuple[Step, ...]


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises
    ------
    InputError
        That names every defect of every step.
    """
    try:
        content = yaml.load(path.read_text("utf-8"), _Loader)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as a recipe: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list):
        raise InputError(f"{path}: expected a recipe: file: brain.h5, and steps: a list of operations with their fields")
    file, items = content.get("file"), content["steps"]
    defects = [f"{key}: unknown; a recipe has file and steps" for key in content if key not in ("file", "steps")]
    if file is not None and not isinstance(file, str):
        defects.append(f"file: expected a path, found {file!r}")
        file = None
    if not items:
        defects.append("steps: there are none")
    steps = []
    for number, item in enumerate(items, 1):
        try:
            steps.append(_read_step(number, item, file))
        except InputError as error:
            defects.append(str(error))
    if defects:
        raise InputError(f"{path}: " + "; ".join(defects))
    return Recipe(path, None if file is None else Path(file), tuple(steps))


def _read_step(number: int, item: object, file: str | None) -> Step:
    place = f"step {number}"
    known = ", ".join(OPERATIONS)
    if not isinstance(item, dict) or len(item) != 1:
        raise InputError(f"{place}: expected one operation ({known}) with its fields, found {item!r}")
    ((name, fields),) = item.items()
    operation = OPERATIONS.get(name)
    if operation is None:
        raise InputError(f"{place}: unknown operation {name!r}; there are: {known}")
    place = f"{place} ({name})"
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise InputError(f"{place}: expected the fields of the request, found {fields!r}")
    defects = []
    if fields.get("output") is None:
        defects.append("output: is missing: a recipe leaves nothing in memory")
    if "path" in fields:
        defects.append("path: is the recipe's file: leave it out")
    if operation.reads_file:
        if file is None:
            defects.append("file: is missing in the recipe")
        fields = {**fields, "path": file or "."}
    try:
        request = operation.request(**fields)
    except InputError as error:
        defects.append(str(error))
    if defects:
        raise InputError(f"{place}: " + "; ".join(defects))
    return Step(place, operation, request)


def recipe_entry(operation: str, request: Request) -> str:
    """The step of a recipe that asks for this, as YAML: a list of one."""
    fields = request.model_dump(mode="json", exclude_defaults=True, exclude={"path"})
    text: str = yaml.safe_dump([{operation: fields}], sort_keys=False, allow_unicode=True)
    return text


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of recipes."""
    references, definitions = models_json_schema([(o.request, "validation") for o in OPERATIONS.values()])
    schemas = definitions["$defs"]
    choices = []
    for name, operation in OPERATIONS.items():
        reference = references[operation.request, "validation"]
        schema = schemas[reference["$ref"].rpartition("/")[2]]
        schema["properties"].pop("path", None)
        schema["required"] = sorted({*schema["required"], "output"} - {"path"})
        choices.append({"type": "object", "properties": {name: reference}, "required": [name], "additionalProperties": False})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lsfm recipe",
        "type": "object",
        "properties": {
            "file": {"type": "string", "description": "The HDF5 file; like all paths, meant from the recipe's folder."},
            "steps": {"type": "array", "minItems": 1, "items": {"oneOf": choices}},
        },
        "required": ["steps"],
        "additionalProperties": False,
        "$defs": schemas,
    }


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice, of which YAML would forget the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        double = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if double is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {double!r} comes twice", node.start_mark)
        return super().construct_mapping(node, deep)
