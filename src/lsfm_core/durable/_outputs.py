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
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from lsfm_core.durable._disk import reason_of, sync_directory, write_file
from lsfm_core.durable._litter import clear_litter
from lsfm_core.durable._lock import fate, ourselves, try_lock
from lsfm_core.errors import BusyError, ExistsError, LsfmError, MissingError, StorageError, UnfinishedError

__all__ = ["check_new", "clear_folder", "hidden_folder", "new_file", "new_files", "new_files_in_folder", "settle_outputs"]

_PREFIX, _SUFFIX = ".lsfm-", ".partial"
_OWNER, _NEW, _OLD, _COMMIT = "owner", "new", "old", "commit"
#: A folder whose maker has not yet said who it is, or died before, is taken for dead after this.
_NAMELESS_SECONDS = 5
_SYNC_THREADS = 8
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100

#: Where this process makes things: what is made in one of these belongs to a set already.
_making: set[Path] = set()


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
    if paths and all(path.parent in _making for path in paths):
        for path in paths:
            check_new(path, overwrite)
        yield [*paths]
        return
    _settle_names(paths)
    for path in paths:
        check_new(path, overwrite)
    with _telling(paths), ExitStack() as stack:
        works = {folder: stack.enter_context(_made(folder)) for folder in dict.fromkeys(path.parent for path in paths)}
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
    with _telling(paths), _made(top.parent) as work:
        work.own([top.name], shares=True)
        made = work.new / folder.relative_to(top.parent)
        made.mkdir(parents=True)
        _making.add(made)
        try:
            yield [made / path.name for path in paths]
        finally:
            _making.discard(made)
        try:
            _put_in_place([work], [work.move(top)], fresh=True)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Somebody has made the folder meanwhile, for other files.
            folder.mkdir(parents=True, exist_ok=True)
            for path in paths:
                check_new(path, overwrite)
            _put_in_place([work], [_Move(made / path.name, work.old / path.name, path) for path in paths])


@contextmanager
def hidden_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` for what is needed until that is made; it goes with the block, or as litter once its maker is dead.

    Raises
    ------
    StorageError
    """
    with _telling([path]), _made(path.parent) as work:
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
        for place in _hidden(folder):
            work = _Work(place)
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
        for place in _hidden(folder):
            work = _Work(place)
            said = work.said()
            meant = wanted.intersection(said.get("targets", ()))
            # An empty one that nobody has put a name to is of who died just before, or after, all else.
            if meant or not said:
                _settle(work, said, folder / min(meant or wanted), making=bool(said))


def _settle(work: _Work, said: dict[str, Any], path: Path, *, making: bool) -> None:
    with work.judged(said) as state:
        begun = work.has_begun
        if state == "alive":
            if begun:
                raise BusyError(f"{path}: is just being put in place by {_who(said)}: try again")
            if making and not said.get("shares"):
                raise BusyError(f"{path}: {_who(said)} is just making it: wait until it is done")
        elif state == "dead":
            try:
                work.settle(said)
            except OSError as error:
                # Litter that is not ours to remove is in nobody's way.
                if begun:
                    raise _unfinished(path, work, f"that cannot be completed from here: {reason_of(error)}") from error
        elif begun:
            kept = f"{_who(said)} may still be at it; if it is dead: 'lsfm-core recover --force {path.parent}'"
            raise _unfinished(path, work, kept)


def _unfinished(path: Path, work: _Work, why: str) -> UnfinishedError:
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
    places = [(place, None) for place in _hidden(folder)] + [(place, whole.name) for place in _hidden(whole.parent)]
    for place, name in places:
        work = _Work(place)
        said = work.said()
        targets = said.get("targets", ())
        if name is not None and name not in targets:
            continue
        with work.judged(said) as state:
            what = f"{', '.join(targets[:3])}{f' and {len(targets) - 3} more' if len(targets) > 3 else ''}" or "an output"
            if state == "alive" or (state == "unknown" and not force):
                whether = "is at work" if state == "alive" else "may still be at work (--force takes it for dead)"
                done.append(f"{place}: left alone: {_who(said)} {whether} on {what}")
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
            gone = f"{place}: removed, which {_who(said)} has left of {what}"
            done.append(put if begun else gone)
    return (*done, *clear_litter(folder, dry_run=dry_run, force=force))


# --- one hidden folder ------------------------------------------------------------------------------------------------------------

State = Literal["alive", "dead", "unknown"]


class _Move(NamedTuple):
    """What takes the place of what, which steps aside."""

    partial: Path
    aside: Path
    path: Path


@dataclass(frozen=True)
class _Work:
    """A hidden folder in which something is, or was, made."""

    place: Path
    owner: IO[bytes] | None = None

    @property
    def new(self) -> Path:
        return self.place / _NEW

    @property
    def old(self) -> Path:
        return self.place / _OLD

    @property
    def has_begun(self) -> bool:
        """Whether it has begun to take its place, here or where it is led from."""
        home = self._home(self.said())
        return (self.place / _COMMIT).exists() or (home is not None and (home / _COMMIT).exists())

    def own(self, targets: Sequence[str], *, home: _Work | None = None, shares: bool = False) -> None:
        """Say who makes what, in which folder the journal will be if not in this one, and whether others may be at it as well."""
        assert self.owner is not None
        said = ourselves() | {"since": time.strftime("%Y-%m-%d %H:%M:%S"), "targets": targets, "shares": shares}
        said["locked"] = try_lock(self.owner.fileno()) is True
        said["home"] = None if home is None else os.path.relpath(home.place, self.place.parent)
        self.owner.write(json.dumps(said).encode())
        self.owner.flush()
        self.new.mkdir()
        _making.add(self.new)

    def said(self) -> dict[str, Any]:
        """What its owner said; nothing where it did not come to that."""
        try:
            said = json.loads(_read(self.place / _OWNER))
        except (OSError, ValueError, RecursionError):
            return {}
        return said if isinstance(said, dict) and isinstance(said.get("targets"), list) else {}

    @contextmanager
    def judged(self, said: dict[str, Any]) -> Iterator[State]:
        """Whether its maker lives; if not, nobody else judges it within the block, where there are locks."""
        with ExitStack() as stack:
            locked: bool | None = None
            with suppress(OSError):
                locked = try_lock(stack.enter_context(open(self.place / _OWNER, "r+b")).fileno())
            yield self._state(said, locked)

    def _state(self, said: dict[str, Any], locked: bool | None) -> State:
        if locked is False:
            return "alive"
        if not said:
            with suppress(OSError):
                if time.time() - self.place.stat().st_mtime < _NAMELESS_SECONDS:
                    return "alive"
            return "dead"
        if locked and said.get("locked"):
            return "dead"
        return fate(json.dumps(said))

    def settle(self, said: dict[str, Any]) -> Sequence[str]:
        """Do the renames that are left, and remove the folder; gives what was changed by others since, and kept."""
        home = self._home(said)
        changed: list[str] = []
        for place in (self.place, home):
            if place is not None and (place / _COMMIT).exists():
                changed = _complete(place.parent, _moves(place / _COMMIT))
                (place / _COMMIT).unlink()
        self.remove()
        return changed

    def remove(self) -> None:
        """Remove the folder; the last of it tells whose it was."""
        for part in (self.new, self.old):
            if part.exists():
                shutil.rmtree(part)
        shutil.rmtree(self.place)

    def move(self, path: Path) -> _Move:
        return _Move(self.new / path.name, self.old / path.name, path)

    def _home(self, said: dict[str, Any]) -> Path | None:
        home = said.get("home")
        return self.place.parent / str(home) if home is not None and _is_hidden(Path(str(home)).name) else None


@contextmanager
def _made(folder: Path) -> Iterator[_Work]:
    """A hidden folder in `folder`, until the block ends."""
    place = folder / f"{_PREFIX}{secrets.token_hex(4)}{_SUFFIX}"
    place.mkdir()
    try:
        with open(place / _OWNER, "xb") as owner:
            yield _Work(place, owner)
    finally:
        _making.discard(place / _NEW)
        _Work(place).remove()


def _hidden(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if _is_hidden(entry.name) and entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _is_hidden(name: str) -> bool:
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def _who(said: dict[str, Any]) -> str:
    if not said:
        return "a process that has not said who it is"
    return f"process {said.get('pid', '?')} on {said.get('host', '?')}, since {said.get('since', '?')},"


@contextmanager
def _telling(paths: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, LsfmError):
            raise
        raise StorageError(f"{paths[0]}: cannot be written: {reason_of(error)}") from error


# --- taking their place -----------------------------------------------------------------------------------------------------------


def _put_in_place(works: Sequence[_Work], moves: Sequence[_Move], *, fresh: bool = False) -> None:
    """Let what was made take its place, all or nothing; `fresh` takes no folder's place that has something in it."""
    _sync([move.partial for move in moves])
    if len(moves) == 1 and (fresh or not moves[0].path.is_dir()):
        moves[0].partial.replace(moves[0].path)
    elif len(moves) > 1 or (moves and not _exchange(moves[0].partial, moves[0].path)):
        _journaled(works, moves)
    for folder in {move.path.parent for move in moves}:
        sync_directory(folder)


def _journaled(works: Sequence[_Work], moves: Sequence[_Move]) -> None:
    """The renames, noted before the first of them."""
    base, journal = works[0].place.parent, works[0].place / _COMMIT
    for work in works:
        work.old.mkdir()
        assert work.owner is not None
        os.fsync(work.owner.fileno())
        sync_directory(work.place)
        sync_directory(work.place.parent)
    noted = [[*(os.path.relpath(place, base) for place in move), _identity(move.path)] for move in moves]
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


def _moves(journal: Path) -> list[tuple[list[str], list[int] | None]]:
    """What a journal says; it need not be one of ours, so that nothing of it is believed.

    Raises
    ------
    OSError
        If it cannot be what a process of ours has left.
    """
    try:
        return [
            ([str(name) for name in (partial, aside, path)], before)
            for partial, aside, path, before in json.loads(_read(journal))["moves"]
        ]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise OSError(errno.EBADMSG, f"{journal} is no journal of renames") from error


def _read(place: Path) -> bytes:
    if not place.is_file():  # a pipe would let us wait forever
        raise OSError(errno.EBADMSG, f"{place} is no file")
    return place.read_bytes()


def _check_move(partial: Path, aside: Path, path: Path) -> None:
    """Refuse a rename that would let what was not made beside a name take its place: a stranger's folder may hold anything.

    Raises
    ------
    OSError
    """
    work = next((folder for folder in partial.parents if _is_hidden(folder.name)), None)
    if work is not None:
        home = Path(os.path.realpath(work.parent))
        inside = (
            (partial, Path(os.path.realpath(work), _NEW)),
            (aside, Path(os.path.realpath(work), _OLD)),
            (path, home),
        )
        if all(Path(os.path.realpath(place.parent), place.name).is_relative_to(folder) for place, folder in inside):
            return
    raise OSError(errno.EBADMSG, f"{path} does not belong to what was made in {partial.parent}")


def _complete(base: Path, moves: Sequence[tuple[list[str], list[int] | None]]) -> list[str]:
    """Do the renames that a dead process has not come to; gives those that were left out, since others changed what is there."""
    changed = []
    folders = set()
    places = [([Path(os.path.normpath(base / name)) for name in names], before) for names, before in moves]
    for (partial, aside, path), _ in places:
        _check_move(partial, aside, path)
    for (partial, aside, path), before in places:
        if not os.path.lexists(partial):
            continue
        if os.path.lexists(path):
            if _identity(path) != before:
                changed.append(path.name)
                continue
            path.rename(aside)
        partial.rename(path)
        folders.add(path.parent)
    for folder in folders:
        sync_directory(folder)
    return changed


def _identity(path: Path) -> list[int] | None:
    """What a file or folder is known by; None if nothing is there."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return [status.st_ino, status.st_size, status.st_mtime_ns]


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
