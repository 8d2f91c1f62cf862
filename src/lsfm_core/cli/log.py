"""Commands that show what was done with a file, and do it again."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import chdir, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._json import as_json, print_json, remark
from lsfm_core.cli._lines import command_line
from lsfm_core.cli._options import add_verb, bar
from lsfm_core.errors import InputError, LsfmError
from lsfm_core.progress import size_text

if TYPE_CHECKING:
    from lsfm_core.provenance import LoggedFile, LogRecord
    from lsfm_core.store import LsfmFile

__all__ = ["add_commands"]


def add_commands(verbs: Any) -> None:
    """Let the parser know the commands of this module."""
    log = add_verb(
        verbs, "log", _log, "show what was done with a file, exports included",
        "lsfm-core log brain.h5 --operation export --since 2026-11-01",
    )  # fmt: skip
    log.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    log.add_argument("--operation", metavar="OP", help="show these only, such as write or export; or a command's name")
    log.add_argument("--channel", metavar="NAME", help="show what was done with this channel only")
    log.add_argument("--since", type=_time, metavar="TIME", help="such as 2026-11-22 or 2026-11-22T10:31, local time")
    log.add_argument("--until", type=_time, metavar="TIME", help="before this time")
    shown = log.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print whole records as JSON, for programs")
    shown.add_argument("--command", dest="as_commands", action="store_true", help="print lines for a shell that do the same again")

    replay = add_verb(
        verbs, "replay", _replay, "do something again, and compare what it gives with what it gave then",
        "lsfm-core replay brain.h5 7 --output again.nii.gz",
    )  # fmt: skip
    replay.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    replay.add_argument("record", metavar="N", help="number of the record, as log shows it, or its name")
    replay.add_argument("--output", metavar="OTHER", help="where to write; an ingest: to another HDF5 file (default: as recorded)")
    replay.add_argument("--overwrite", action="store_true", help="replace what is there: the output, the channel, the value")


def _log(arguments: argparse.Namespace) -> None:
    from lsfm_core.store import open_lsfm

    with open_lsfm(arguments.file) as file:
        numbered = list(enumerate(file.log(), 1))
    chosen = [
        (number, record)
        for number, record in numbered
        if arguments.operation in (None, *_names(record))
        and arguments.channel in (None, record.channel)
        and (arguments.since is None or record.time >= arguments.since)
        and (arguments.until is None or record.time < arguments.until)
    ]
    if not chosen:
        records = [record for _, record in numbered]
        operations = ", ".join(dict.fromkeys(name for record in records for name in _names(record))) or "none"
        channels = ", ".join(dict.fromkeys(record.channel for record in records if record.channel)) or "none"
        remark(f"{file.path}: no record matches; there are operations: {operations}; channels: {channels}")
    if arguments.json:
        print_json([{"number": number, **as_json(record)} for number, record in chosen])
        return
    describe = _command_lines if arguments.as_commands else _lines
    for number, record in chosen:
        print("\n".join(describe(number, record, file.path.resolve())))


def _names(record: LogRecord) -> Iterator[str]:
    """What somebody may call what a record tells of: the operation, the command that it came from, its changes."""
    yield record.operation
    yield from (record.command or "").split()[1:2]
    for change in record.request.get("changes", ()):
        yield from change


def _lines(number: int, record: LogRecord, _: Path) -> Iterator[str]:
    seconds = "" if record.seconds is None else f" in {record.seconds:.1f} s"
    who = f", {record.user}@{record.host}" if record.host else ""
    channel = f" {record.channel!r}" if record.channel else ""
    yield f"{number:4}  {record.time:%Y-%m-%d %H:%M:%S} UTC  {record.operation}{channel}: {record.outcome}{seconds}{who}"
    if record.message:
        yield f"      {record.message}"
    yield f"      {record.command or 'Python'}"
    if record.output is not None:
        yield f"      -> {_described(record.output)}"


def _described(output: LoggedFile) -> str:
    count = f"{output.count} files, " if output.count > 1 else ""
    return f"{output.path}: {count}{size_text(output.size)}, {output.checksum}"


def _command_lines(number: int, record: LogRecord, path: Path) -> Iterator[str]:
    line = command_line(record, str(path), folder=Path.cwd())
    if line is not None:
        yield f"{line}  # {number}"
        return
    from lsfm_core.recipes import recipe_entry, recorded_steps

    try:
        steps = recorded_steps(record, path)
    except InputError as error:
        yield f"# {number} {record.operation}: no command line or recipe does the same ({error}); log --json shows what is recorded"
        return
    yield f"# {number} {record.operation}: for a recipe in {record.folder}"
    for step in steps:
        yield from (f"#   {text}" for text in recipe_entry(step.name, step.request).splitlines())


def _replay(arguments: argparse.Namespace) -> None:
    from lsfm_core.recipes import Work, recorded_path, recorded_steps
    from lsfm_core.store import open_lsfm

    with open_lsfm(arguments.file) as file:
        path = file.path.resolve()
        number, record = _pick(file, arguments.record)
    what = f"{arguments.file}: record {number} ({record.operation})"
    path = recorded_path(record, path)
    if record.outcome != "done":
        raise InputError(f"{what}: {record.outcome}: only what was done can be replayed")
    try:
        steps = recorded_steps(record, path, _changes(arguments, record, path))
    except InputError as error:
        raise InputError(f"{what}: cannot be replayed: {error}") from error
    if arguments.output is not None and record.operation != "write" and not hasattr(steps[0].request, "output"):
        raise InputError(f"{what}: has changed the file itself, so there is no --output")
    # The names in a request are meant from where it was made.
    folder = Path(record.folder)
    with chdir(folder) if folder.is_dir() else nullcontext(), Work(path) as work:
        for step in steps:
            with bar(arguments) as progress:
                result = work.run(step, progress=progress, cancel=arguments.cancel)
        then, now = record.output, getattr(result, "written", None)
        made = arguments.output or (now.path if now is not None else "")
        if then is not None and then.checksum is not None and now is not None and now.checksum != then.checksum:
            causes = "; ".join(_differences(record, result)) or "the channel may have changed since, or the name another format"
            raise LsfmError(f"{made}: differs from what record {number} made: {now.checksum}, then {then.checksum} ({causes})")
    if arguments.quiet:
        return
    if then is None or then.checksum is None or now is None:
        print(f"{what}: done again; it has no checksum to compare with")
    else:
        print(f"{made}: identical to what record {number} made: {now.checksum}")


def _changes(arguments: argparse.Namespace, record: LogRecord, path: Path) -> dict[str, Any]:
    """Fields of what is replayed that have another value than they had."""
    changes: dict[str, Any] = {"path": path, "overwrite": arguments.overwrite, "replace": arguments.overwrite}
    # Of points one table is compared, the first that there was.
    main = "output" if record.request.get("output") is not None or record.operation != "transform-points" else "counts"
    if main == "output":
        changes["counts"] = None
    if arguments.output is not None:
        output = Path(arguments.output).absolute()
        # In another file there is no channel to be the inverse of.
        changes |= {"path": output, "inverse_of": None} if record.operation == "write" else {main: output}
    return changes


def _pick(file: LsfmFile, text: str) -> tuple[int, LogRecord]:
    records = file.log()
    for number, record in enumerate(records, 1):
        if text in (str(number), record.name):
            return number, record
    raise InputError(f"{file.path}: no record {text!r}: its log has {len(records)}, numbered from 1")


def _differences(record: LogRecord, result: Any) -> Iterator[str]:
    """What is not as it was when an operation was recorded, of which a replay has given this."""
    from lsfm_core.provenance import current_versions, logged_files

    for name, version in current_versions().items():
        if record.versions.get(name, version) != version:
            yield f"{name} is {version}, was {record.versions[name]}"
    # Of images, the ingest has taken the checksum.
    now = {file.path: file.checksum for file in getattr(result, "inputs", ())}
    for file in record.inputs:
        if file.checksum is not None:
            checksum = now[file.path] if file.path in now else logged_files(file.path, [Path(file.path)]).checksum
            if checksum != file.checksum:
                yield f"{file.path} has changed"


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a time such as 2026-11-22 or 2026-11-22T10:31, found {text!r}") from error
