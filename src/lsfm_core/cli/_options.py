"""Options and ways of speaking that the commands share."""

from __future__ import annotations

import argparse
import difflib
import importlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from lsfm_core.cli._exit import Exit
from lsfm_core.cli._json import add_json, as_json, print_json, tell

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from lsfm_core._request import Request
    from lsfm_core.parallel import ShardResult
    from lsfm_core.progress import ProgressCallback
    from lsfm_core.recipes import Outlook, Step

__all__ = [
    "KINDS",
    "Parser",
    "PrintSchema",
    "Told",
    "Waive",
    "add_dask",
    "add_division",
    "add_field_convention",
    "add_placement",
    "add_request",
    "add_resources",
    "add_transforms",
    "add_verb",
    "add_voxel_size",
    "apply",
    "bar",
    "by",
    "dask_of",
    "memory",
    "numbers",
    "option_names",
    "orientation_code",
    "outlook_json",
    "path_of",
    "shard_words",
    "show_plan",
]

#: What voxels can be: `lsfm_core.pyramid.Kind`, whose room would take numpy with it.
KINDS = ("image", "labels", "vectors", "components")
_EXAMPLE = "example: "
_MEMORY_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


#: A number without a unit is GB up to the one, and bytes from the other on.
_MOST_GB, _LEAST_BYTES = 256, 10**6


#: Options by another name than that of the field that they fill.
_FIELDS = {
    "select": "region", "origin_letters": "origin_orientation",
    "compression": "compression_level", "start": "range", "stop": "range", "step": "range", "new_name": "to", "source": "from",
    "target": "to", "margin_mm": "margin", "margin_vox": "margin", "transforms": "transform", "origin_mm": "origin",
    "size_mm": "size", "resolution_mm": "resolution", "overlap_mm": "overlap", "midline_mm": "midline", "memory_bytes": "memory",
    "voxel_size_mm": "voxel_size", "replace": "overwrite",
}  # fmt: skip


class _Formatter(argparse.HelpFormatter):
    """Leaves an example on its line, so that it can be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return indent + text if text.startswith(_EXAMPLE) else super()._fill_text(text, width, indent)


class Told(str):
    """Help that a field of a request tells, whose module is loaded only when it is shown: ``export.ExportRequest.fill``.

    Parameters
    ----------
    field : str
        Module in the core, request and field.
    more : str
        What only the command line has to say, after it.
    """

    __slots__ = ("more",)
    more: str

    def __new__(cls, field: str, more: str = "") -> Self:
        told = super().__new__(cls, field)
        told.more = more
        return told

    @property
    def words(self) -> str:
        """The help."""
        module, request, field = self.split(".")
        model = getattr(importlib.import_module(f"lsfm_core.{module}"), request)
        text = str(model.model_fields[field].description)
        small = text[1:2].islower() or text.startswith("A ")
        return f"{text[0].lower() + text[1:] if small else text}{self.more}".replace("%", "%%")


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, and that takes options between positional arguments."""

    _parsing = False

    def format_help(self) -> str:
        """The help, with what requests tell of options."""
        for action in self._actions:
            if isinstance(action.help, Told):
                action.help = action.help.words
        return super().format_help()

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Formatter, **options)
        # No option of ours begins so: -1,2,3 and -3,, and -inf are values.
        self._negative_number_matcher = re.compile(r"-(\.?\d|inf)")

    def error(self, message: str) -> NoReturn:
        self.exit(Exit.USAGE, f"{self.prog}: {message}; for usage see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # Before Python 3.13 an optional positional is taken for absent at the first option. The parser of all verbs cannot do
        # it the other way, and needs not.
        if self._parsing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._check_options(args or ())
        self._parsing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._parsing = False

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # All commands in the message would hide the one that was meant.
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            near = difflib.get_close_matches(value, action.choices, n=1)
            self.error(f"there is no command {value}" + "".join(f"; did you mean {command}?" for command in near))
        super()._check_value(action, value)

    def _check_options(self, words: Sequence[str]) -> None:
        """Complain of an option that there is not, before what is missing since it was misspelt."""
        for word in itertools.takewhile(lambda word: word != "--", words):
            name = word.partition("=")[0]
            if not name.startswith("--") or " " in name or any(option.startswith(name) for option in self._option_string_actions):
                continue
            near = difflib.get_close_matches(name, self._option_string_actions, n=1)
            self.error(f"there is no option {name}" + "".join(f"; did you mean {option}?" for option in near))


class Verbs(argparse._SubParsersAction):  # type: ignore[type-arg]
    """The commands: of those that nobody has asked for, only what the list of all of them says, since options take time to make.

    Attributes
    ----------
    wanted : str or None
        The command that is asked for, or a text that is none; None: all are.
    """

    wanted: str | None = None

    def add_parser(self, name: str, **options: Any) -> Any:
        if self.wanted in (None, name):
            return super().add_parser(name, **options)
        self._choices_actions.append(self._ChoicesPseudoAction(name, (), options["help"]))
        unmade: Any = _Unmade()
        self._name_parser_map[name] = unmade
        return unmade


class _Unmade:
    """Takes every option, and makes none."""

    def __getattr__(self, _: str) -> Callable[..., _Unmade]:
        return lambda *_, **__: self


def add_verb(
    verbs: Any, name: str, command: Callable[[argparse.Namespace], int | None], summary: str, example: str
) -> argparse.ArgumentParser:
    """A command's parser, with what all commands have."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=_EXAMPLE + example
    )
    parser.set_defaults(command=command, parser=parser)
    parser.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="open files outside of a data set's folder that it names or links to; only for data whose makers you know",
    )
    return parser


class Waive(argparse.Action):
    """A switch with which another option need not be given."""

    def __init__(self, option_strings: Sequence[str], dest: str, waives: argparse.Action | None = None, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=False, **options)
        self._waives = waives

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object) -> None:
        setattr(namespace, self.dest, True)
        if self._waives is not None:
            self._waives.required = False


def add_request(
    parser: argparse.ArgumentParser,
    request_of: Callable[[argparse.Namespace], Request],
    operation: str | None = None,
    *,
    waives: argparse.Action | None = None,
) -> None:
    """Let a command be told what to do by a request: it can be shown before it runs, as a step of a recipe too.

    Parameters
    ----------
    parser : ArgumentParser
    request_of : callable
        Fills the request.
    operation : str, optional
        Its name, where the command has another one.
    waives : Action, optional
        An option that is not needed to be told.
    """
    parser.set_defaults(request_of=request_of, operation=operation)
    add_json(parser)
    parser.add_argument(
        "--dry-run", action=Waive, waives=waives, help="print what would be done, and a recipe's step for it, and stop"
    )


def show_plan(arguments: argparse.Namespace) -> None:
    """What a command would do, and how a recipe asks for it."""
    from lsfm_core.recipes import OPERATIONS, Step, Work, recipe_entry

    request, name = arguments.request_of(arguments), arguments.operation or arguments.verb
    step = Step(name, name, OPERATIONS[name], request)
    with Work(getattr(request, "path", None)) as work:
        outlook = work.plan(step)
    if arguments.json:
        print_json(outlook_json(step, outlook))
    elif not arguments.quiet:
        lacks_output = step.operation.needs_output and getattr(request, "output", None) is None
        print(f"{outlook.text}\n\n{'' if lacks_output else recipe_entry(name, request)}", end="")


def outlook_json(step: Step, outlook: Outlook) -> dict[str, Any]:
    """What a step would do: how a recipe asks for it, its plan where there is one, and all in words."""
    from lsfm_core.recipes import recipe_fields

    return {
        "operation": step.name,
        "request": recipe_fields(step.request),
        "plan": as_json(outlook.plan),
        "text": outlook.text.splitlines(),
    }


def apply(arguments: argparse.Namespace) -> None:
    """Carry an edit out."""
    from lsfm_core.edits import apply_edit

    report = apply_edit(arguments.request_of(arguments))
    tell(arguments, report, lambda: f"{arguments.file}: {report.text}")


def add_resources(parser: argparse.ArgumentParser) -> None:
    """Options of commands that work for long."""
    parser.add_argument(
        "--memory",
        type=memory,
        default=2 * 10**9,
        metavar="SIZE",
        help=Told("export.ExportRequest.memory_bytes", ", as 500MB or 2GB (default 2GB)"),
    )
    parser.add_argument("--threads", type=int, metavar="N", help=Told("export.ExportRequest.threads", " (default: all)"))


def add_division(parser: argparse.ArgumentParser) -> None:
    """Options of commands whose work can be divided among processes and machines."""
    division = parser.add_argument_group("on many machines")
    division.add_argument(
        "--shard", metavar="I/N", help=Told("export.ExportRequest.shard", "; 'lsfm-core status OUTPUT' tells how far all are")
    )
    add_dask(division)


def add_dask(parser: Any) -> None:
    """The option of commands whose work Dask can share out."""
    parser.add_argument(
        "--dask",
        metavar="WHERE",
        help="let workers of Dask's do the work: the scheduler's address, its scheduler file (.json), or local:N for N on this "
        "machine",
    )


@contextmanager
def dask_of(arguments: argparse.Namespace, inputs: Callable[[], Sequence[Path]]) -> Iterator[Executor | None]:
    """The executor that a command line asks for; `inputs` gives the files that all workers must see."""
    if arguments.dask is None:
        yield None
        return
    if arguments.shard is not None:
        from lsfm_core.errors import InputError

        raise InputError("--dask and --shard: either a scheduler shares the work out, or jobs do that know nothing of each other")
    from lsfm_core.parallel import cluster

    with cluster(arguments.dask, inputs()) as executor:
        yield executor


def shard_words(result: ShardResult) -> str:
    """What a shard has come to."""
    kept = result.items - result.made
    there = f", {kept} were there" if kept else ""
    made = f"{result.path}: shard {result.shard}: {result.made} of {result.items} item(s) made{there}"
    if result.missing:
        return f"{made}; {result.missing} of all are missing"
    return f"{made}; none is missing: " + ("put together, complete" if result.written is not None else "complete")


def add_placement(parser: Any) -> None:
    """What files of other programs may not record of an image."""
    parser.add_argument("--orientation", type=orientation_code, metavar="CODE", help=Told("export.ExportRequest.orientation"))
    add_voxel_size(parser)


def add_voxel_size(parser: Any) -> None:
    """The size of voxels, where nothing tells it."""
    parser.add_argument("--voxel-size", type=numbers(3), metavar="P,R,C", help=Told("export.ExportRequest.voxel_size_mm", " (mm)"))


def add_transforms(parser: Any, *names: str) -> None:
    """The way from an image to another space: what commands on images and on points have in common.

    Parameters
    ----------
    parser : ArgumentParser
    *names : str
        How the option is spelled that names the space.
    """
    add_placement(parser)
    many: dict[str, Any] = {"action": "append", "default": [], "metavar": "NAME"}
    more = "; NAME:invert for its inverse. Repeat it. Long form: name=NAME,order=1,type=affine|field,invert=yes|no"
    parser.add_argument("--transform", dest="transforms", help=Told("export.ExportRequest.transforms", more), **many)
    more = "; the shortest way through the transforms of the file is taken"
    parser.add_argument(*names, dest="to_space", metavar="SPACE", help=Told("export.ExportRequest.to_space", more))
    parser.add_argument("--via", help=Told("export.ExportRequest.via", "; repeat it, nearest to the image first"), **many)
    parser.add_argument("--numeric-inverse", help=Told("export.ExportRequest.numeric_inverse", "; repeat it"), **many)
    add_field_convention(parser, "export.ExportRequest")


def add_field_convention(parser: Any, request: str) -> None:
    """What the vectors of fields mean; `request` tells of which fields."""
    parser.add_argument(
        "--field-convention",
        choices=("lps-displacement", "ras-displacement", "lps-position", "ras-position", "grid-position"),
        # All of them in one word would be wider than a terminal.
        metavar="CONVENTION",
        help=Told(
            f"{request}.field_convention",
            ": lps-displacement or ras-displacement, lps-position or ras-position (displacements or absolute positions, mm along "
            "L, P, S or R, A, S), or grid-position (along the axes of the grid from its first voxel)",
        ),
    )


class PrintSchema(argparse.Action):
    """Print a JSON Schema, and exit; `schema` names the function of the core that gives it, whose module is loaded only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, schema: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)
        self._module, self._function = schema.split(".")

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        schema = getattr(importlib.import_module(f"lsfm_core.{self._module}"), self._function)()
        print(json.dumps(schema, indent=2))
        parser.exit()


def numbers(*counts: int) -> Callable[[str], Any]:
    """A parser of comma-separated numbers; one number alone is not a tuple."""

    def parse(text: str) -> float | tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) not in counts:
            expected = " or ".join(str(count) for count in counts)
            raise argparse.ArgumentTypeError(f"expected {expected} number(s) separated by commas, found {text!r}")
        return values[0] if len(values) == 1 else values

    return parse


def path_of(text: str) -> str:
    """A path as shells mean it: not all of them put the home folder for a ``~`` behind an equals sign."""
    path = Path(text)
    return str(path.expanduser()) if text.startswith("~/") and not path.exists() else text


def memory(text: str) -> int:
    """Bytes of a size such as 2GB. A small number alone, 2, is so many GB, as lsfmpy had it; a large one is bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)(B?)", text.strip().upper())
    if not match or match.group(2) not in _MEMORY_UNITS:
        raise argparse.ArgumentTypeError(f"expected a size such as 500MB, 2GB or 4GiB, found {text!r}")
    number = float(match.group(1))
    if not match.group(2) and not match.group(3) and number < _LEAST_BYTES:
        if number > _MOST_GB:
            raise argparse.ArgumentTypeError(f"expected a size with its unit, such as 500MB or 2GB, found {text!r}")
        return int(number * 10**9)
    return int(number * _MEMORY_UNITS[match.group(2)])


def orientation_code(text: str) -> str:
    """Axis codes; in small letters they are those of BrainGlobe, which name the other side."""
    from lsfm_core.errors import InputError
    from lsfm_core.geometry import Orientation

    try:
        if text.strip().islower():
            Orientation.from_user(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def option_names(message: str, parser: argparse.ArgumentParser) -> str:
    """A message of the core, which speaks to forms, scripts and recipes too, with a command's options for the fields of requests.

    Fields that are common words are only meant where they stand before a colon that begins what is said.
    """
    options = {}
    for action in parser._actions:
        option = next((name for name in action.option_strings if name.startswith("--")), None)
        if option is not None:
            options[action.dest] = options[option[2:].replace("-", "_")] = option
    options |= {field: options[name] for field, name in _FIELDS.items() if name in options}
    for field, option in options.items():
        if "_" in field:
            message = re.sub(rf"(?<![\w/\\.'\"-]){field}(?![\w/\\'\"-]|\.\w)", option, message)
        # Also where pydantic says which of several values it is.
        words = field.replace("_", "[_ ]")
        message = re.sub(rf"(^|; ){words}(?=: |, value \d+: )", rf"\g<1>{option}", message)
    return message


@contextmanager
def bar(arguments: argparse.Namespace) -> Iterator[ProgressCallback | None]:
    """A progress bar with rate and time left on stderr, if a person is looking; for work that `arguments.cancel` can stop."""
    arguments.stops_itself = True
    if arguments.quiet:
        yield None
        return
    from tqdm import tqdm

    # disable=None: no bar where stderr is no terminal.
    with tqdm(unit="B", unit_scale=True, disable=None, leave=False) as bar:

        def show(stage: str, done: int, total: int) -> None:
            bar.set_description(stage, refresh=False)
            bar.total = total
            bar.update(done - bar.n)

        yield show


def by(values: Any) -> str:
    """``2 x 3 x 4``."""
    return " x ".join(str(v) for v in values)
