"""Options and ways of speaking that the commands share."""

from __future__ import annotations

import argparse
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lsfm_core.errors import CancelledError

if TYPE_CHECKING:
    from lsfm_core.progress import CancelToken, ProgressCallback

__all__ = ["add_resources", "add_verb", "bar", "by", "cancelled_by_signals", "index_or_name", "memory", "numbers"]

_MEMORY_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def add_verb(
    verbs: Any, name: str, command: Callable[[argparse.Namespace], None], summary: str, example: str
) -> argparse.ArgumentParser:
    """A command's parser, with what all commands have."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=f"example: {example}"
    )
    parser.set_defaults(command=command)
    parser.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def add_resources(parser: argparse.ArgumentParser) -> None:
    """Options of commands that work for long."""
    parser.add_argument("--memory", type=memory, default=2 * 10**9, metavar="SIZE", help="memory to use at most (default 2GB)")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all cores")


def index_or_name(text: str | None) -> int | str | None:
    """A number where the text is one."""
    return int(text) if text is not None and text.isdigit() else text


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


def memory(text: str) -> int:
    """Bytes of a size such as 2GB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", text.strip().upper())
    if not match or match.group(2) not in _MEMORY_UNITS:
        raise argparse.ArgumentTypeError(f"expected a size such as 500MB, 2GB or 4GiB, found {text!r}")
    return int(float(match.group(1)) * _MEMORY_UNITS[match.group(2)])


@contextmanager
def bar(arguments: argparse.Namespace) -> Iterator[ProgressCallback | None]:
    """A progress bar with rate and time left on stderr, if a person is looking."""
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


@contextmanager
def cancelled_by_signals() -> Iterator[CancelToken]:
    """A token that Ctrl-C and SIGTERM set; an exception that comes while HDF5 calls back may get lost there."""
    from lsfm_core.progress import CancelToken

    token = CancelToken()
    try:
        previous = {number: signal.signal(number, lambda *_: token.cancel()) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are somebody else's
        yield token
        return
    try:
        yield token
    except CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def by(values: Any) -> str:
    """``2 x 3 x 4``."""
    return " x ".join(str(v) for v in values)
