"""Recipes: requests in a YAML file, carried out one after the other; and requests that the log remembers.

A step is the name of an operation with the fields of its request, so that whatever can be asked for can stand in a recipe. Steps
that only read share one open file; one that changes it finds it closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import yaml
from pydantic.json_schema import models_json_schema

from lsfm_core._request import Request
from lsfm_core.edits import (
    AddMetadataRequest,
    AffineRequest,
    Edit,
    LinkSpacesRequest,
    RemoveChannelRequest,
    RemoveMetadataRequest,
    RenameChannelRequest,
    RenameSpaceRequest,
    SealRequest,
    SetSpaceRequest,
    XmlRequest,
    apply_edit,
    describe_edit,
    describe_xml,
)
from lsfm_core.errors import CancelledError, ExistsError, InputError, LsfmError, MissingError, UnknownChannelError, check_file
from lsfm_core.export import (
    ExportPlan,
    ExportRequest,
    MergeRequest,
    PointsRequest,
    RegionTableRequest,
    SlicesRequest,
    TransformExportRequest,
    describe_points,
    describe_transform,
    export_channel,
    export_chunks,
    export_slices,
    export_transform,
    lay_out_chunks,
    make_shard,
    merge_chunks,
    plan_export,
    plan_merge,
    plan_pieces,
    plan_region_table,
    plan_slices,
    region_table,
    transform_points,
)
from lsfm_core.ingest import IngestRequest, ingest_channel, plan_ingest
from lsfm_core.preview import PreviewRequest, describe_preview, preview_file
from lsfm_core.progress import CancelToken, ProgressCallback
from lsfm_core.provenance import LogRecord
from lsfm_core.register import (
    AddAtlasRequest,
    ImportRegistrationRequest,
    RegisterRequest,
    RegistrationInputsRequest,
    add_atlas,
    describe_atlas,
    describe_inputs,
    describe_register,
    import_registration,
    plan_registration,
    register_channel,
    write_inputs,
)
from lsfm_core.store import LinkRequest, RepackRequest, link_files, open_lsfm, plan_link, plan_repack, repack_file, write_xml
from lsfm_core.upgrade import UpgradeRequest, plan_upgrade, upgrade_file

__all__ = [
    "OPERATIONS",
    "Operation",
    "Outlook",
    "Recipe",
    "Step",
    "Work",
    "read_recipe",
    "recipe_entry",
    "recipe_fields",
    "recipe_schema",
    "recorded_steps",
]


#: After them something that was there need not be in the way.
_TAKE_AWAY = frozenset({"remove-channel", "rename-channel", "remove-metadata"})
#: Values of a recipe, aliases written out.
_MOST_NODES = 1_000_000
_ENDS_OF_LINES = frozenset("\x85\u2028\u2029")


@dataclass(frozen=True)
class Operation:
    """What a recipe can ask for.

    Attributes
    ----------
    request : type of Request
    run : callable
        Takes the request, the open file (None if it needs none), a progress callback and a cancel token; gives the result.
    plan : callable
        Takes the request and the open file; gives what would be done, as a plan that can describe itself or in words, and raises
        as `run` would.
    changes : bool
        Whether it changes the recipe's file, or makes it: then it opens the file itself.
    divides : bool
        Whether it takes an executor as well, or makes a shard.
    """

    request: type[Request]
    run: Callable[..., Any]
    plan: Callable[[Any, Any], Any]
    changes: bool = False
    divides: bool = False

    @property
    def has_file(self) -> bool:
        """Whether it works with the recipe's file."""
        return "path" in self.request.model_fields

    @property
    def reads_file(self) -> bool:
        """Whether it takes that file open."""
        return self.has_file and not self.changes

    @property
    def needs_output(self) -> bool:
        """Whether it must name an output, since a recipe leaves nothing in memory."""
        return "output" in self.request.model_fields and not self.changes


def _divisible(whole: Callable[..., Any]) -> Callable[..., Any]:
    """All of an operation, by an executor too, or the shard of it that is asked for."""

    def run(
        request: Any,
        file: Any,
        progress: ProgressCallback | None,
        cancel: CancelToken | None,
        executor: Executor | None = None,
    ) -> object:
        if request.shard is not None:
            return make_shard(request, file=file, progress=progress, cancel=cancel)
        return whole(request, file=file, executor=executor, progress=progress, cancel=cancel)

    return run


def _export(request: ExportRequest, **options: Any) -> object:
    return (export_channel if request.grid is None else export_chunks)(request, **options)


@dataclass(frozen=True)
class _ChunksPlan:
    """The plan of the whole, and how many chunks it is divided into."""

    whole: ExportPlan
    chunks: int

    def describe(self) -> str:
        return f"{self.whole.describe()}\nchunks  {self.chunks}"


def _plan_export(request: ExportRequest, file: Any) -> ExportPlan | _ChunksPlan:
    # Who only wants to know does not say where it is to go; nobody keeps it in memory for that.
    plan = plan_pieces(file, request, 2) if request.output is None else plan_export(file, request)
    return plan if request.grid is None else _ChunksPlan(plan, len(lay_out_chunks(plan.target, request)))


def _edit(request: type[Edit]) -> Operation:
    return Operation(request, lambda edit, *_: apply_edit(edit), lambda edit, _: describe_edit(edit), changes=True)


#: By the names that they have on the command line and in the log.
OPERATIONS: Mapping[str, Operation] = {
    "write": Operation(
        IngestRequest,
        lambda request, _, progress, cancel: ingest_channel(request, progress=progress, cancel=cancel),
        lambda request, _: plan_ingest(request),
        changes=True,
    ),
    "write-affine": _edit(AffineRequest),
    "remove-channel": _edit(RemoveChannelRequest),
    "rename-channel": _edit(RenameChannelRequest),
    "add-metadata": _edit(AddMetadataRequest),
    "remove-metadata": _edit(RemoveMetadataRequest),
    "set-space": _edit(SetSpaceRequest),
    "rename-space": _edit(RenameSpaceRequest),
    "link-spaces": _edit(LinkSpacesRequest),
    "import-registration": Operation(
        ImportRegistrationRequest,
        lambda request, _, progress, cancel: import_registration(request, progress=progress, cancel=cancel),
        lambda request, _: plan_registration(request),
        changes=True,
    ),
    "add-atlas": Operation(
        AddAtlasRequest,
        lambda request, _, progress, cancel: add_atlas(request, progress=progress, cancel=cancel),
        lambda request, _: describe_atlas(request),
        changes=True,
    ),
    "register": Operation(
        RegisterRequest,
        lambda request, _, progress, cancel: register_channel(request, progress=progress, cancel=cancel),
        lambda request, _: describe_register(request),
        changes=True,
    ),
    "registration-inputs": Operation(
        RegistrationInputsRequest,
        lambda request, file, progress, cancel: write_inputs(request, file=file, progress=progress, cancel=cancel),
        lambda request, file: describe_inputs(file, request),
    ),
    "upgrade": Operation(
        UpgradeRequest,
        lambda request, _, progress, cancel: upgrade_file(request, progress=progress, cancel=cancel),
        lambda request, _: plan_upgrade(request),
        changes=True,
    ),
    "seal": _edit(SealRequest),
    "repack": Operation(
        RepackRequest,
        lambda request, _, progress, cancel: repack_file(request, progress=progress, cancel=cancel),
        lambda request, _: plan_repack(request),
        changes=True,
    ),
    "link": Operation(LinkRequest, lambda request, *_: link_files(request), lambda request, _: plan_link(request), changes=True),
    "xml": Operation(
        XmlRequest,
        lambda request, *_: write_xml(request.path, overwrite=request.overwrite),
        lambda request, _: describe_xml(request),
        changes=True,
    ),
    "export": Operation(ExportRequest, _divisible(_export), _plan_export, divides=True),
    "export-slices": Operation(
        SlicesRequest, _divisible(export_slices), lambda request, file: plan_slices(file, request), divides=True
    ),
    "transform-points": Operation(
        PointsRequest,
        lambda request, file, progress, cancel: transform_points(request, file=file, progress=progress, cancel=cancel),
        lambda request, file: describe_points(file, request),
    ),
    "export-transform": Operation(
        TransformExportRequest,
        lambda request, file, progress, cancel: export_transform(request, file=file, progress=progress, cancel=cancel),
        lambda request, file: describe_transform(file, request),
    ),
    "region-table": Operation(
        RegionTableRequest, _divisible(region_table), lambda request, file: plan_region_table(file, request), divides=True
    ),
    "merge": Operation(
        MergeRequest,
        lambda request, _, progress, cancel: merge_chunks(request, progress=progress, cancel=cancel),
        lambda request, _: plan_merge(request),
    ),
    "preview": Operation(
        PreviewRequest,
        lambda request, file, *_: preview_file(request, file=file),
        lambda request, file: describe_preview(file, request),
    ),
}


@dataclass(frozen=True)
class Step:
    """One request of a recipe.

    Attributes
    ----------
    place : str
        For messages: ``"step 2 (export)"``.
    name : str
        Of the operation.
    operation : Operation
    request : Request
    """

    place: str
    name: str
    operation: Operation
    request: Any


@dataclass(frozen=True)
class Outlook:
    """What a step would do.

    Attributes
    ----------
    text : str
        In words, one fact per line.
    plan : object or None
        The operation's plan; None where it has none but words, or cannot be planned yet.
    """

    text: str
    plan: Any = None


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


class Work:
    """Steps being carried out or planned one after the other; as a context manager it closes the file in the end.

    Parameters
    ----------
    file : Path or None
        The HDF5 file of the steps.

    Attributes
    ----------
    done : list of Step
        Those that were carried out.
    """

    def __init__(self, file: Path | None) -> None:
        self.done: list[Step] = []
        self._path = file
        self._stack = ExitStack()
        self._file: Any = None
        self._planned: list[Step] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def run(
        self,
        step: Step,
        *,
        executor: Executor | None = None,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
    ) -> Any:
        """Carry a step out, by an executor if it can be divided; gives what the operation does.

        Raises
        ------
        LsfmError
        """
        # What follows need not be long enough to ask itself.
        if cancel is not None and cancel.cancelled:
            raise CancelledError(f"{step.place}: cancelled before it began")
        options = {"executor": executor} if step.operation.divides and executor is not None else {}
        result = step.operation.run(step.request, self._file_for(step), progress, cancel, **options)
        self.done.append(step)
        return result

    def plan(self, step: Step) -> Outlook:
        """What a step would do; of what depends on steps before it, as far as that can be told.

        Raises
        ------
        LsfmError
            As `run`, for reasons that the steps before it cannot remove.
        """
        earlier = list(self._planned)
        self._planned.append(step)
        changed = [other for other in earlier if other.operation.changes and step.operation.has_file]
        try:
            plan = step.operation.plan(step.request, self._file_for(step))
        except LsfmError as error:
            # An earlier step may have to make what this one reads, or to change the file first.
            reasons = [other for other in earlier if _makes_for(other, step)]
            reasons = reasons or [other for other in changed if self._may_remove(other, step, error)]
            if not reasons:
                raise
            return Outlook(f"cannot be planned before {reasons[0].place} is done: {error}")
        text = plan if isinstance(plan, str) else plan.describe()
        remark = f"(as the file is before {changed[0].place})\n" if changed else ""
        return Outlook(remark + text, None if isinstance(plan, str) else plan)

    def _may_remove(self, earlier: Step, step: Step, error: LsfmError) -> bool:
        """Whether a change of the file may remove the reason why a step cannot be done."""
        if isinstance(error, ExistsError):
            return earlier.name in _TAKE_AWAY and step.operation.changes
        if isinstance(error, MissingError):
            return self._path is not None and not self._path.exists()
        # An ingest asks the file for nothing else.
        return isinstance(error, UnknownChannelError if step.name == "write" else InputError)

    def _file_for(self, step: Step) -> Any:
        if step.operation.changes:
            self._close()
        elif step.operation.reads_file and self._file is None and self._path is not None:
            self._file = self._stack.enter_context(open_lsfm(self._path))
        return self._file if step.operation.reads_file else None

    def _close(self) -> None:
        self._stack.close()
        self._file = None


def _makes_for(earlier: Step, later: Step) -> bool:
    """Whether a step names what an earlier one makes, or its folder, or what lies in it."""
    output = getattr(earlier.request, "output", None)
    if output is None:
        return False
    names = [Path(text) for text in _texts(later.request.model_dump(mode="json", exclude={"path", "output"}))]
    return any(name == output or name in output.parents[:-1] or output in name.parents for name in names)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        items: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for item in items:
            yield from _texts(item)


def read_recipe(path: Path, *, file: str | None = None, changes: Mapping[str, Any] = MappingProxyType({})) -> Recipe:
    """Read and check a recipe.

    Parameters
    ----------
    path : Path
    file : str, optional
        To be worked with instead of the recipe's own.
    changes : mapping
        Values of fields: ``output`` of the only step that has one, ``export.output`` of the steps of an operation, ``2.output`` of
        the second step, ``file`` of the recipe.

    Raises
    ------
    InputError
        That names every defect of every step.
    MissingError
        If there is no such file.
    """
    check_file(path)
    try:
        content = yaml.load(path.read_text("utf-8"), _Loader)
    except (OSError, UnicodeError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as a recipe: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list):
        raise InputError(f"{path}: expected a recipe: file: brain.h5, and steps: a list of operations with their fields")
    content, defects = _changed(content, file, changes)
    file, items = content.get("file"), content["steps"]
    defects += [f"{key}: unknown; a recipe has file and steps" for key in content if key not in ("file", "steps")]
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
    defects += _collisions(steps)
    if defects:
        raise InputError(f"{path}: " + "; ".join(defects))
    return Recipe(path, None if file is None else Path(file), tuple(steps))


def _changed(content: dict[Any, Any], file: str | None, changes: Mapping[str, Any]) -> tuple[dict[Any, Any], list[str]]:
    """A recipe with other values, and what is wrong with these."""
    defects, steps = [], [*content["steps"]]
    own = content if file is None else {**content, "file": file}
    for key, value in changes.items():
        if key == "file":
            own = {**own, "file": value}
            continue
        step, _, field = key.rpartition(".")
        meant = []
        for number, item in enumerate(steps, 1):
            name = next(iter(item), None) if isinstance(item, dict) and len(item) == 1 else None
            operation = OPERATIONS.get(str(name))
            if operation is not None and step in ("", str(number), name) and field in operation.request.model_fields:
                meant.append((number, name))
        if not meant or (not step and len(meant) > 1):
            which = f"steps {', '.join(str(number) for number, _ in meant)} have" if meant else "no step has"
            defects.append(f"{key}: {which} such a field: name the step, as 1.{field} or export.{field}")
            continue
        for number, name in meant:
            fields = steps[number - 1][name]
            steps[number - 1] = {name: {**fields, field: value} if isinstance(fields, dict) else fields}
    return {**own, "steps": steps}, defects


def _collisions(steps: Iterable[Step]) -> Iterator[str]:
    """Steps that cannot be done since others before them have made what they make."""
    # Channels by their names, files by their paths.
    made: dict[object, str] = {}
    for step in steps:
        request = step.request
        if step.name in ("remove-channel", "rename-channel"):
            made.pop(request.channel, None)
        field = {"write": "channel", "rename-channel": "new_name"}.get(step.name, "output")
        new = getattr(request, field, None)
        if new in made and not getattr(request, "overwrite", getattr(request, "replace", False)):
            yield f"{step.place}: {field}: {made[new]} makes {str(new)!r} already: choose another name, or replace it"
        if new is not None:
            made[new] = step.place


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
    if operation.needs_output and fields.get("output") is None:
        defects.append("output: is missing: a recipe leaves nothing in memory")
    if "path" in fields:
        defects.append("path: is the recipe's file: leave it out")
    if operation.has_file:
        if file is None:
            defects.append("file: is missing in the recipe")
        fields = {**fields, "path": file or "."}
    try:
        request = operation.request(**fields)
    except InputError as error:
        defects.append(str(error))
    if defects:
        raise InputError(f"{place}: " + "; ".join(defects))
    return Step(place, name, operation, request)


def recorded_path(record: LogRecord, path: Path) -> Path:
    """The name by which the file was opened for what a record tells of, as it is now: that of an XML, or the HDF5 file's."""
    return path if record.xml is None else Path(os.path.normpath(path.parent / record.xml))


def recorded_steps(record: LogRecord, path: Path, changes: Mapping[str, Any] = MappingProxyType({})) -> tuple[Step, ...]:
    """The steps that do again what a record tells of.

    Parameters
    ----------
    record : LogRecord
    path : Path
        The file, for changes whose request does not name it.
    changes : mapping
        Fields to have another value, where a request has them.

    Raises
    ------
    InputError
        If no request says it: it was done by lsfmpy, by parts of Python's interface that no command has, or with what nobody kept.
    """
    asked = record.request.get("changes", []) if record.operation == "edit" else [{record.operation: record.request}]
    if not asked or record.text:
        raise InputError(f"{record.operation}: is recorded without a request")
    steps = []
    for ((name, fields),) in (change.items() for change in asked):
        operation = OPERATIONS.get(name)
        if operation is None:
            raise InputError(f"{name}: is no operation that a recipe can ask for")
        own = {"path": recorded_path(record, path)} if operation.has_file else {}
        other = {key: value for key, value in changes.items() if key in operation.request.model_fields}
        steps.append(Step(name, name, operation, operation.request(**{**own, **fields, **other})))
    return tuple(steps)


def recipe_entry(operation: str, request: Request) -> str:
    """The step of a recipe that asks for this, as YAML: a list of one."""
    fields = recipe_fields(request)
    text: str = yaml.safe_dump([{operation: fields}], sort_keys=False, allow_unicode=True)
    if not _ENDS_OF_LINES & {*text}:
        return text
    # PyYAML writes them as they are, and reads others.
    return str(yaml.safe_dump([{operation: fields}], sort_keys=False))


def recipe_fields(request: Request) -> dict[str, Any]:
    """The fields of a recipe's step that asks for this."""
    return request.model_dump(mode="json", exclude_defaults=True, exclude={"path"})


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of recipes."""
    references, definitions = models_json_schema([(o.request, "validation") for o in OPERATIONS.values()])
    schemas = definitions["$defs"]
    choices = []
    for name, operation in OPERATIONS.items():
        reference = references[operation.request, "validation"]
        schema = schemas[reference["$ref"].rpartition("/")[2]]
        schema["properties"].pop("path", None)
        required = {*schema["required"], *(["output"] if operation.needs_output else [])} - {"path"}
        schema["required"] = sorted(required)
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
    """Refuses a key that comes twice, of which YAML would forget the first, and few words that stand for very many."""

    def compose_document(self) -> yaml.Node | None:
        node = super().compose_document()
        if node is not None and _expanded(node, {}) > _MOST_NODES:
            raise yaml.constructor.ConstructorError(
                None, None, f"its aliases repeat each other to more than {_MOST_NODES} values", node.start_mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        double = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if double is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {double!r} comes twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for when every alias is written out; one that holds itself, for more than are allowed."""
    if id(node) not in known:
        known[id(node)] = _MOST_NODES + 1  # while it is counted: whoever meets it then is inside of it
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(_expanded(part, known) for part in parts))
    return known[id(node)]
