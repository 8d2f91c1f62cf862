"""Exports into an IPython session: ``lsfm-core export … --interactive``, and the magic ``%lsfm`` of notebooks."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._json import warn
from lsfm_core.cli._options import bar
from lsfm_core.errors import InputError, LsfmError

if TYPE_CHECKING:
    from lsfm_core.export import ExportRequest
    from lsfm_core.progress import CancelToken, ProgressCallback
    from lsfm_core.store import LsfmFile

__all__ = ["add_magic", "explore"]

_BANNER = "result: {result}\nlsfm:   {path}, open for reading; channels {channels}"
_WITH_RESULT = ("export", "export-slices")


def explore(request: ExportRequest, arguments: argparse.Namespace) -> None:
    """Carry a request out, and let the user work on with what it gives.

    Raises
    ------
    LsfmError
        As the export does; `InputError` if there is no IPython.
    """
    if find_spec("IPython") is None:
        raise InputError("--interactive: needs IPython: pip install 'napari-lsfm[interactive]'")
    from IPython import start_ipython
    from traitlets.config import Config

    from lsfm_core.store import open_lsfm

    with open_lsfm(request.path) as file:
        with bar(arguments) as progress:
            result = _result(request, file, progress, arguments.cancel)
        # From here on, Ctrl-C is the session's.
        arguments.stops_itself = False
        config = Config()
        config.TerminalInteractiveShell.banner2 = _BANNER.format(
            result=type(result).__name__, path=file.path, channels=", ".join(file)
        )
        start_ipython(argv=[], user_ns={"result": result, "lsfm": file}, config=config)


def add_magic(shell: Any) -> None:
    """Give an IPython shell the line magic ``%lsfm``.

    ``%lsfm export …`` returns a `Volume`, for a grid a generator of chunks; ``%lsfm export-slices …`` a generator of planes.
    Every other command does what it does elsewhere.
    """
    shell.register_magic_function(_lsfm, magic_name="lsfm")


def _lsfm(line: str) -> Any:
    """Run a command line of lsfm-core; exports return their data, and need no --output."""
    from IPython.core.error import UsageError
    from IPython.utils.process import arg_split  # type: ignore[attr-defined]

    from lsfm_core.cli import build_parser, main
    from lsfm_core.provenance import running

    words = arg_split(line, posix=True)
    if not words or words[0] not in _WITH_RESULT:
        main(words)
        return None
    try:
        arguments = build_parser().parse_args([*words, "--interactive"])
        with running(words), bar(arguments) as progress:
            return _result(arguments.request_of(arguments), None, progress, None)
    except LsfmError as error:
        # Without the way there, but so that what follows in the cell is not run.
        raise UsageError(f"lsfm-core {words[0]}: {error}") from error
    except SystemExit as end:
        if end.code:
            raise UsageError(f"lsfm-core {words[0]}: the command line was not understood") from end
        return None


def _result(request: ExportRequest, file: LsfmFile | None, progress: ProgressCallback | None, cancel: CancelToken | None) -> Any:
    """What a request gives; where it names an output, that is written as well."""
    from lsfm_core.export import (
        SlicesRequest,
        check_spaces,
        export_channel,
        export_chunks,
        export_slices,
        iter_chunks,
        iter_slices,
    )
    from lsfm_core.store import open_lsfm

    with nullcontext(file) if file is not None else open_lsfm(request.path) as opened:
        warn(check_spaces(opened, request))
    if not isinstance(request, SlicesRequest) and request.grid is None:
        return export_channel(request, file=file, keep=True, progress=progress, cancel=cancel).volume
    in_memory = request.model_copy(update={"output": None})
    if isinstance(request, SlicesRequest) and isinstance(in_memory, SlicesRequest):
        if request.output is not None:
            export_slices(request, file=file, progress=progress, cancel=cancel)
        return iter_slices(in_memory, file=file)
    if request.output is not None:
        export_chunks(request, file=file, progress=progress, cancel=cancel)
    return iter_chunks(in_memory, file=file)
