"""Files whose HDF5 is damaged, or was made to harm: whatever h5py and our reading make of one becomes one error of ours.

A structure that a flipped bit has hit can give any type where another is expected, names that are no text, sizes beyond all memory.
h5py tells of it with a dozen of Python's own errors, and so does the code that takes apart what h5py has read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from lsfm_core.errors import FormatError, LsfmError, StorageError

__all__ = ["RAISED", "changes_structure", "changing", "reading", "reads_structure"]

P = ParamSpec("P")
R = TypeVar("R")

#: What damaged HDF5, and the code that takes apart what was read of it, may raise.
RAISED = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, SystemError, TypeError, ValueError)


class _HasPath(Protocol):
    @property
    def path(self) -> Path: ...


Self = TypeVar("Self", bound=_HasPath)


@contextmanager
def reading(path: str | os.PathLike[str], what: str = "its structure is broken") -> Iterator[None]:
    """Within the block nothing but HDF5 is read, so that what fails is the file's fault.

    Raises
    ------
    FormatError
        That says `what` is wrong.
    StorageError
        If the operating system could not read.
    """
    try:
        yield
    except LsfmError:
        raise
    except RAISED as error:
        raise _translated(path, what, error) from error


@contextmanager
def changing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within the block other things are done as well: only what h5py itself raises is the file's fault.

    Raises
    ------
    FormatError, StorageError
        As `reading`.
    """
    try:
        yield
    except LsfmError:
        raise
    except RAISED as error:
        if not _is_h5py(error.__traceback__):
            raise
        raise _translated(path, "its structure is broken", error) from error


def reads_structure(method: Callable[Concatenate[Self, P], R]) -> Callable[Concatenate[Self, P], R]:
    """A method of something with a `path`, that does nothing but read HDF5: it raises as `reading` does."""
    return _within(reading, method)


def changes_structure(method: Callable[Concatenate[Self, P], R]) -> Callable[Concatenate[Self, P], R]:
    """A method of something with a `path`, that changes HDF5: it raises as `changing` does."""
    return _within(changing, method)


def _within(
    block: Callable[[Path], AbstractContextManager[None]], method: Callable[Concatenate[Self, P], R]
) -> Callable[Concatenate[Self, P], R]:
    @wraps(method)
    def translated(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with block(self.path):
            return method(self, *args, **kwargs)

    return translated


def _translated(path: str | os.PathLike[str], what: str, error: BaseException) -> LsfmError:
    if isinstance(error, OSError) and error.errno:
        return StorageError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}")
    reason = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    return FormatError(f"{os.fspath(path)}: {what}: {reason or type(error).__name__}")


def _is_h5py(trace: TracebackType | None) -> bool:
    """Whether an error comes out of h5py, at whatever depth of it."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module: Any = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return str(module).partition(".")[0] == "h5py"
