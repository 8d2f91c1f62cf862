"""Output files: complete under their name, or not there at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lsfm_core.errors import ExistsError, LsfmError, StorageError

__all__ = ["new_file"]


@contextmanager
def new_file(path: Path, overwrite: bool) -> Iterator[Path]:
    """Give a temporary name beside `path`; what was written there gets the real name when the block ends well, else it is removed.

    Raises
    ------
    ExistsError
        If `path` exists and may not be replaced.
    StorageError
        If writing fails.
    """
    if path.exists() and not overwrite:
        raise ExistsError(f"{path}: exists already: choose another name, or allow to overwrite it")
    if not path.parent.is_dir():
        raise StorageError(f"{path}: there is no folder {path.parent}")
    # Keeps the suffixes, by which writers choose their format.
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if isinstance(error, LsfmError):
            raise
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise StorageError(f"{path}: cannot be written: {reason}") from error
    finally:
        partial.unlink(missing_ok=True)
