"""Output files and folders: complete under their name, or not there at all; and what belongs together, all or nothing.

What is being made stands in a hidden folder beside its place, ``.lsfm-<token>.partial``::

    owner      who makes it, and under which names; locked as long as its maker lives
    new/       what is being made, under the names that it will have
    commit     the journal: which renames make it take its place; from when all of it is complete and permanent until they are done
    old/       what it takes the place of, until then

One file, and a folder where nothing was, take their place in one step, without a journal; a folder is exchanged in one step where
the system can. Everything else is journaled: whoever touches one of the names next, or `clear_folder`, completes what was begun.
What has no journal is litter as soon as its maker is dead.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lsfm_core.durable._disk import reason_of, sync_directory, write_file
from lsfm_core.durable._litter import clear_litter
from lsfm_core.durable._work import COMMIT, MAKING, Move, Work, hidden_in, identity, made_folder, who
from lsfm_core.errors import BusyError, ExistsError, LsfmError, MissingError, StorageError, UnfinishedError

__all__ = ["check_new", "clear_folder", "hidden_folder", "new_file", "new_files", "new_files_in_folder", "settle_outputs"]

_SYNC_THREADS = 8
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


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
    """Give a temporary name for `path`; what was written there gets the real name when the block ends well, else it is removed.

    Raises
    ------
    ExistsError
        If `path` exists and may not be replaced.
    BusyError
        If somebody else is just making it.
    StorageError
        If writing fails.
    """
    with new_files([path], overwrite) as (partial,):
        yield partial


@contextmanager
def new_files(paths: Sequence[Path], overwrite: bool) -> Iterator[list[Path]]:
    """As `new_file`, for files or folders that belong together: all get their names, or none does, even if the process is killed.

    Within a set that is being made it gives the names themselves: these get theirs with the set.

    Raises
    ------
    ExistsError, BusyError, StorageError
        As `new_file` does.
    """
    if paths and all(path.parent in MAKING for path in paths):
        for path in paths:
            check_new(path, overwrite)
        yield [*paths]
        return
    _settle_names(paths)
    for path in paths:
        check_new(path, overwrite)
    with _telling(paths), ExitStack() as stack:
        works = {folder: stack.enter_context(made_folder(folder)) for folder in dict.fromkeys(path.parent for path in paths)}
        home = next(iter(works.values()), None)
        for folder, work in works.items():
            work.own([path.name for path in paths if path.parent == folder], home=None if work is home else home)
        moves = [works[path.parent].move(path) for path in paths]
        yield [move.partial for move in moves]
        # Somebody may have made it meanwhile.
        for path in paths:
            check_new(path, overwrite)
        _put_in_place([*works.values()], moves)


@contextmanager
def new_files_in_folder(paths: Sequence[Path], overwrite: bool) -> Iterator[list[Path]]:
    """As `new_files`, in one folder, which is made with those it is in: all of it gets its name in one step.

    Raises
    ------
    ExistsError, BusyError, StorageError
    """
    folder = paths[0].parent
    _settle_names([folder])
    if folder.is_dir():
        with new_files(paths, overwrite) as partials:
            yield partials
        return
    if os.path.lexists(folder):
        raise StorageError(f"{folder}: no folder of that name can be made: something else is there")
    top = next(path for path in (folder, *folder.parents) if path.parent.exists())
    if not top.parent.is_dir():
        raise StorageError(f"{folder}: no folder of that name can be made: {top.parent} is no folder")
    _settle_names([top])
    with _telling(paths), made_folder(top.parent) as work:
        work.own([top.name], shares=True)
        made = work.new / folder.relative_to(top.parent)
        made.mkdir(parents=True)
        MAKING.add(made)
        try:
            yield [made / path.name for path in paths]
        finally:
            MAKING.discard(made)
        try:
            _put_in_place([work], [work.move(top)], fresh=True)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Somebody has made the folder meanwhile, for other files.
            folder.mkdir(parents=True, exist_ok=True)
            for path in paths:
                check_new(path, overwrite)
            _put_in_place([work], [Move(made / path.name, work.old / path.name, path) for path in paths])


@contextmanager
def hidden_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` for what is needed until that is made; it goes with the block, or as litter once its maker is dead.

    Raises
    ------
    StorageError
    """
    with _telling([path]), made_folder(path.parent) as work:
        work.own([path.name], shares=True)
        yield work.new


def settle_outputs(path: Path) -> None:
    """Complete what a dead process has begun to put in place, before somebody reads it.

    Parameters
    ----------
    path : Path
        A file, a folder, or a pattern of names in a folder.

    Raises
    ------
    BusyError
        If somebody is just putting it in place.
    UnfinishedError
        If nobody can complete it from here.
    """
    for folder, whole in ((path, True), (path.parent, not path.exists())):
        for place in hidden_in(folder):
            work = Work(place)
            said = work.said()
            targets = said.get("targets", ())
            if targets and (whole or path.name in targets) and work.has_begun:
                _settle(work, said, folder / (targets[0] if whole else path.name), making=False)


def _settle_names(paths: Sequence[Path]) -> None:
    """See that nobody else is at what is about to be made, and complete or remove what dead processes have left of it."""
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, wanted in names.items():
        for place in hidden_in(folder):
            work = Work(place)
            said = work.said()
            meant = wanted.intersection(said.get("targets", ()))
            # An empty one that nobody has put a name to is of who died just before, or after, all else.
            if meant or not said:
                _settle(work, said, folder / min(meant or wanted), making=bool(said))


def _settle(work: Work, said: dict[str, Any], path: Path, *, making: bool) -> None:
    with work.judged(said) as state:
        begun = work.has_begun
        if state == "alive":
            if begun:
                raise BusyError(f"{path}: is just being put in place by {who(said)}: try again")
            if making and not said.get("shares"):
                raise BusyError(f"{path}: {who(said)} is just making it: wait until it is done")
        elif state == "dead":
            try:
                work.settle(said)
            except OSError as error:
                # Litter that is not ours to remove is in nobody's way.
                if begun:
                    raise _unfinished(path, work, f"that cannot be completed from here: {reason_of(error)}") from error
        elif begun:
            kept = f"{who(said)} may still be at it; if it is dead: 'lsfm-core recover --force {path.parent}'"
            raise _unfinished(path, work, kept)


def _unfinished(path: Path, work: Work, why: str) -> UnfinishedError:
    return UnfinishedError(
        f"{path}: belongs to a set that has only begun to take its place (the rest is in {work.place}), and {why}"
    )


def clear_folder(folder: Path, *, dry_run: bool = False, force: bool = False) -> tuple[str, ...]:
    """Complete, or clear away, all that dead processes have left of outputs in a folder, and of the folder itself.

    Parameters
    ----------
    folder : Path
    dry_run : bool
        Only tell.
    force : bool
        Take makers for dead of whom that cannot be known.

    Returns
    -------
    tuple of str
        What was done, or would be, in words.

    Raises
    ------
    StorageError
    """
    done = []
    whole = folder.resolve()
    places = [(place, None) for place in hidden_in(folder)] + [(place, whole.name) for place in hidden_in(whole.parent)]
    for place, name in places:
        work = Work(place)
        said = work.said()
        targets = said.get("targets", ())
        if name is not None and name not in targets:
            continue
        with work.judged(said) as state:
            what = f"{', '.join(targets[:3])}{f' and {len(targets) - 3} more' if len(targets) > 3 else ''}" or "an output"
            if state == "alive" or (state == "unknown" and not force):
                whether = "is at work" if state == "alive" else "may still be at work (--force takes it for dead)"
                done.append(f"{place}: left alone: {who(said)} {whether} on {what}")
                continue
            begun = work.has_begun
            changed: Sequence[str] = ()
            if not dry_run:
                try:
                    changed = work.settle(said)
                except OSError as error:
                    raise StorageError(f"{place}: cannot be cleared away: {reason_of(error)}") from error
            kept = f"; changed since, and kept as they are: {', '.join(changed)}" if changed else ""
            put = f"{what}: put in place, all of it{kept}"
            gone = f"{place}: removed, which {who(said)} has left of {what}"
            done.append(put if begun else gone)
    return (*done, *clear_litter(folder, dry_run=dry_run, force=force))


@contextmanager
def _telling(paths: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, LsfmError):
            raise
        raise StorageError(f"{paths[0]}: cannot be written: {reason_of(error)}") from error


# --- taking their place -----------------------------------------------------------------------------------------------------------


def _put_in_place(works: Sequence[Work], moves: Sequence[Move], *, fresh: bool = False) -> None:
    """Let what was made take its place, all or nothing; `fresh` takes no folder's place that has something in it."""
    _sync([move.partial for move in moves])
    if len(moves) == 1 and (fresh or not moves[0].path.is_dir()):
        moves[0].partial.replace(moves[0].path)
    elif len(moves) > 1 or (moves and not _exchange(moves[0].partial, moves[0].path)):
        _journaled(works, moves)
    for folder in {move.path.parent for move in moves}:
        sync_directory(folder)


def _journaled(works: Sequence[Work], moves: Sequence[Move]) -> None:
    """The renames, noted before the first of them."""
    base, journal = works[0].place.parent, works[0].place / COMMIT
    for work in works:
        work.old.mkdir()
        assert work.owner is not None
        os.fsync(work.owner.fileno())
        sync_directory(work.place)
        sync_directory(work.place.parent)
    noted = [[*(os.path.relpath(place, base) for place in move), identity(move.path)] for move in moves]
    write_file(journal, json.dumps({"moves": noted}).encode())
    done: list[tuple[Path, Path]] = []
    try:
        for partial, aside, path in moves:
            if os.path.lexists(path):
                path.rename(aside)
                done.append((path, aside))
            partial.rename(path)
            done.append((partial, path))
    except BaseException:
        # Who is killed on the way back leaves the journal, which leads forward again.
        for source, target in reversed(done):
            target.rename(source)
        journal.unlink()
        raise
    for folder in {move.path.parent for move in moves}:
        sync_directory(folder)
    journal.unlink()


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step, where the system can."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _sync(paths: Sequence[Path]) -> None:
    """Make files, and all that is in folders, permanent."""
    files: list[Path] = []
    folders: list[Path] = []
    for path in paths:
        if path.is_dir():
            for root, _, names in os.walk(path):
                folders.append(Path(root))
                files += [Path(root, name) for name in names]
        else:
            files.append(path)
    with ThreadPoolExecutor(min(_SYNC_THREADS, max(1, len(files)))) as pool:
        list(pool.map(_sync_file, files))
    for folder in {*folders, *(path.parent for path in paths)}:
        sync_directory(folder)


def _sync_file(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
