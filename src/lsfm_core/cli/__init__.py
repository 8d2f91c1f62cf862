"""The command line ``lsfm-core``: parse, call, map errors to exit codes.

Exit codes: 0 done; 1 an error that the message explains; 2 a command line that cannot be read; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# Only the errors: the rest of the core is imported by the command that needs it, so that --help comes at once.
from lsfm_core.cli import export, look, points, preview, write
from lsfm_core.errors import LsfmError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    parser = _build_parser()
    arguments = parser.parse_args(argv)
    command: Callable[[argparse.Namespace], None] = arguments.command
    # tifffile logs what it finds odd in a file; what matters of it comes as an error of ours.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    interrupted = threading.Event()
    try:
        with _interruptible(interrupted):
            command(arguments)
    except (LsfmError, KeyboardInterrupt) as error:
        if arguments.debug:
            traceback.print_exc()
        # An interrupt that falls into a callback comes back as an error of the library that called.
        if interrupted.is_set() or isinstance(error, KeyboardInterrupt):
            kept = getattr(arguments, "resume", False)
            outcome = "repeat the command line to go on from the last checkpoint" if kept else "nothing was changed"
            print(f"lsfm-core {arguments.verb}: interrupted; {outcome}", file=sys.stderr)
            return 130
        print(f"lsfm-core {arguments.verb}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Somebody closed the pipe we print to (`lsfm-core info … | head`).
        sys.stdout = None
        return 1
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lsfm-core",
        description="Pack light-sheet stacks into one HDF5/BigDataViewer file, and take pieces of it out in RAS space.",
    )
    parser.add_argument("--version", action=_Version, help="show the versions of this program and its libraries, and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    for commands in (write, look, preview, export, points):
        commands.add_commands(verbs)
    return parser


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        import platform
        from importlib.metadata import version

        import h5py

        print(f"lsfm-core {version('napari-lsfm')}")
        libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "h5py", "SimpleITK", "tifffile", "nibabel"))
        print(f"Python {platform.python_version()}, HDF5 {h5py.version.hdf5_version}, {libraries}")
        parser.exit()


@contextmanager
def _interruptible(interrupted: threading.Event) -> Iterator[None]:
    """Let Ctrl-C, and a batch system's SIGTERM, stop and undo the work; the event then tells of it."""

    def interrupt(*_: object) -> None:
        interrupted.set()
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
