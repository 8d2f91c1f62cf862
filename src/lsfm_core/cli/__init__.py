"""The command line ``lsfm-core``: parse, call, map errors to exit codes.

A command that does not come to a good end says one line on stderr, and its exit code is one of `Exit`.
"""

from __future__ import annotations

import argparse
import io
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import IO, Any, cast

# Only the errors: the rest of the core is imported by the command that needs it, so that --help comes at once.
from lsfm_core.cli import (
    completion,
    divided,
    export,
    log,
    look,
    maintain,
    metadata,
    points,
    preview,
    regions,
    register,
    run,
    sample,
    write,
)
from lsfm_core.cli._exit import Exit
from lsfm_core.cli._json import nobody_listens, remark
from lsfm_core.cli._lines import command_line, request_command
from lsfm_core.cli._lsfmpy import UsageError, in_our_words
from lsfm_core.cli._options import Parser, Verbs, option_names, show_plan
from lsfm_core.errors import ExistsError, LsfmError
from lsfm_core.plain import plain
from lsfm_core.progress import CancelToken

__all__ = ["build_parser", "command_line", "main", "request_command"]

_LIBRARIES = ("numpy", "h5py", "SimpleITK", "tifffile", "nibabel", "zarr")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    # A name that the output's encoding does not know is no reason to fail; stderr does the same of itself.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _main(argv)
        finally:
            # Also of --help: at the end of the interpreter nobody could do anything about it.
            sys.stdout.flush()
    except BrokenPipeError:
        # Somebody has read enough (`lsfm-core info … | head`). What was to be done is done: commands speak afterwards.
        nobody_listens()
        return Exit.DONE
    except KeyboardInterrupt:
        # Before the command has begun: libraries take a moment to load.
        remark("lsfm-core: interrupted; nothing was changed")
        return Exit.INTERRUPTED


def _main(argv: Sequence[str] | None) -> int:
    given = [*(sys.argv[1:] if argv is None else argv)]
    try:
        words = in_our_words(_as_option(given))
    except UsageError as error:
        build_parser("").error(str(error))
    first = words[0] if words else ""
    # Options of the program itself may stand before a command.
    parser = build_parser("" if first in ("-h", "--help") else None if first.startswith("-") else first)
    arguments = parser.parse_args(words)
    command: Callable[[argparse.Namespace], int | None] = arguments.command
    if "request_of" in arguments and arguments.dry_run:
        command = show_plan
    # They log what they find odd in a file; what matters of it comes as an error of ours.
    for library in ("tifffile", "zarr", "nibabel.global"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    from lsfm_core.confinement import allow_outside
    from lsfm_core.provenance import running

    arguments.cancel, arguments.stops_itself = CancelToken(), False
    # Of a recipe: the steps that are done, and the one that is not.
    arguments.done, arguments.step = [], None
    interrupted = threading.Event()
    try:
        confinement = allow_outside() if getattr(arguments, "allow_outside", False) else nullcontext()
        # A session is a terminal's own business.
        is_session = getattr(arguments, "interactive", False)
        shown = nullcontext() if is_session else redirect_stdout(cast(IO[str], _Shown(sys.stdout)))
        with _interruptible(arguments, interrupted), running(given), confinement, shown:
            code = command(arguments)
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - a person gets a line to act on
        # What an interrupt falls into may make an error of its own of it.
        if interrupted.is_set() or isinstance(error, KeyboardInterrupt):
            return _complain(arguments, _interruption(arguments), Exit.INTERRUPTED)
        done = f"; done before it, and kept: {_places(arguments)}" if arguments.done else ""
        if isinstance(error, LsfmError):
            # The core speaks to forms and scripts as well, and names no options.
            may_overwrite = isinstance(error, ExistsError) and ("overwrite" in arguments or "replace" in arguments)
            message = option_names(str(error), arguments.parser)
            return _complain(arguments, f"{message}{' (--overwrite)' if may_overwrite else ''}{done}", Exit.of(error))
        bug = f"unexpected {type(error).__name__}: {error}: this is a bug: repeat the command with --debug and report its output"
        return _complain(arguments, f"{bug}{done}", Exit.FAILED)
    return code or Exit.DONE


def _interruption(arguments: argparse.Namespace) -> str:
    """What an interrupt has left."""
    if getattr(arguments, "files", None):
        return "interrupted; what is done of each file is kept: --continue goes on with the rest"
    if arguments.step is None:
        kept = getattr(arguments, "resume", False)
        return f"interrupted; {'repeat the command line to go on from the last checkpoint' if kept else 'nothing was changed'}"
    kept = getattr(arguments.step.request, "resume", False)
    parts = [f"interrupted in {arguments.step.place}{', which can be resumed' if kept else ''}"]
    if arguments.done:
        parts.append(f"done before it, and kept: {_places(arguments)}")
    elif not kept:
        parts.append("nothing was changed")
    return "; ".join(parts)


def _places(arguments: argparse.Namespace) -> str:
    return ", ".join(step.place for step in arguments.done)


def _complain(arguments: argparse.Namespace, message: str, code: Exit) -> Exit:
    """One line on stderr, after the way there if it is wanted."""
    if arguments.debug:
        traceback.print_exc()
    remark(f"lsfm-core {arguments.verb}: {' '.join(message.split())}")
    return code


def _as_option(words: list[str]) -> list[str]:
    """lsfmpy's way to ask for a session at the end, ``-- --interactive``, in ours."""
    return [*words[:-2], words[-1]] if words[-2:] == ["--", "--interactive"] else words


def build_parser(wanted: str | None = None) -> Parser:
    """The parser of all commands, or of one among all their names; none has the options of an empty text."""
    parser = Parser(
        prog="lsfm-core",
        description="Pack light-sheet stacks into one HDF5/BigDataViewer file, and take pieces of it out in RAS space.",
        epilog="exit codes: 0 done; 1 failed; 2 command line not understood; 3 bad input; 4 a file is damaged; 130 interrupted",
    )
    parser.add_argument("--version", action=_Version, help="show the versions of this program and its libraries, and exit")
    verbs = cast(Verbs, parser.add_subparsers(dest="verb", metavar="COMMAND", required=True, action=Verbs))
    verbs.wanted = wanted
    kinds = (write, look, metadata, preview, log, export, divided, run, points, regions, register, maintain, sample, completion)
    for commands in kinds:
        commands.add_commands(verbs)
    return parser


class _Shown:
    """A stream to a person, or to a program that reads lines: no name in a file can make a terminal do anything."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(plain(text, lines=True))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        import platform
        from importlib.metadata import version

        import h5py

        print(f"lsfm-core {version('napari-lsfm')}")
        libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
        print(f"Python {platform.python_version()}, HDF5 {h5py.version.hdf5_version}, {libraries}")
        parser.exit()


@contextmanager
def _interruptible(arguments: argparse.Namespace, interrupted: threading.Event) -> Iterator[None]:
    """Let Ctrl-C, and a batch system's SIGTERM, stop and undo the work; the event then tells of it.

    Long work stops itself at its next step: an exception out of nowhere may fall into a callback of HDF5's, or into a destructor,
    and be lost there. At a second signal it comes all the same.
    """

    def interrupt(*_: object) -> None:
        again = interrupted.is_set()
        interrupted.set()
        arguments.cancel.cancel()
        if again or not arguments.stops_itself:
            raise KeyboardInterrupt

    try:
        previous = [(code, signal.signal(code, interrupt)) for code in (signal.SIGINT, signal.SIGTERM)]
    except ValueError:  # not in the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        for code, handler in previous:
            signal.signal(code, handler)
