"""Output files and folders: complete under their name, or not there at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lsfm_core.errors import ExistsError, LsfmError, MissingError, StorageError

__all__ = ["check_new", "new_file", "new_files", "new_files_in_folder"]


def check_new(path: Path, overwrite: bool) -> None:
    """See whether an output may be made.

    Raises
    ------
    ExistsError
        If `path` exists and may not be replaced.
    StorageError
        If there is no folder to hold it.
    """
    if path.exists() and not overwrite:
        raise ExistsError(f"{path}: exists already: choose another name, or allow to overwrite it")
    if not path.parent.is_dir():
        raise MissingError(f"{path}: there is no folder {path.parent}")


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
    with new_files([path], overwrite) as (partial,):
        yield partial


@contextmanager
def new_files(paths: Sequence[Path], overwrite: bool) -> Iterator[list[Path]]:
    """As `new_file`, for files or folders that belong together: all get their names, or none does.

    Raises
    ------
    ExistsError, StorageError
        As `new_file` does.
    """
    for path in paths:
        check_new(path, overwrite)
    # Keeps the suffixes, by which writers choose their format.
    partials = [_hidden(path, "partial") for path in paths]
    try:
        yield partials
        _put_in_place(partials, paths)
    except OSError as error:
        if isinstance(error, LsfmError):
            raise
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise StorageError(f"{paths[0]}: cannot be written: {reason}") from error
    finally:
        for partial in partials:
            _remove(partial)


@contextmanager
def new_files_in_folder(paths: Sequence[Path], overwrite: bool) -> Iterator[list[Path]]:
    """As `new_files`, in a folder that is made, with those it is in, and removed again if nothing comes of it.

    Raises
    ------
    ExistsError, StorageError
    """
    folder = paths[0].parent
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        try:
            folder.mkdir(exist_ok=True, parents=True)
        except OSError as error:
            raise StorageError(f"{folder}: no folder of that name can be made: {error.strerror}") from error
        with new_files(paths, overwrite) as partials:
            yield partials
    finally:
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _hidden(path: Path, what: str) -> Path:
    return path.with_name(f".{what}-{os.getpid()}-{path.name}")


def _put_in_place(partials: Sequence[Path], paths: Sequence[Path]) -> None:
    if len(paths) == 1 and not paths[0].is_dir():
        partials[0].replace(paths[0])
        return
    # Neither a folder nor two files can be exchanged in one step: the old ones step aside until the new ones are there.
    aside: list[tuple[Path, Path]] = []
    placed: list[Path] = []
    try:
        for partial, path in zip(partials, paths, strict=True):
            if path.exists():
                path.rename(_hidden(path, "old"))
                aside.append((_hidden(path, "old"), path))
            partial.rename(path)
            placed.append(path)
    except BaseException:
        for path in placed:
            _remove(path)
        for old, path in aside:
            old.rename(path)
        raise
    for old, _ in aside:
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
