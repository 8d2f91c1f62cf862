"""A hidden folder in which an output is made, whose it is, and what is done about one whose maker is dead.

``_outputs`` tells what is in it.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from lsfm_core.durable._disk import sync_directory
from lsfm_core.durable._lock import fate, ourselves, try_lock

__all__ = ["COMMIT", "MAKING", "Move", "Work", "hidden_in", "identity", "made_folder", "who"]

_PREFIX, _SUFFIX = ".lsfm-", ".partial"
_OWNER, _NEW, _OLD, COMMIT = "owner", "new", "old", "commit"
#: A folder whose maker has not yet said who it is, or died before, is taken for dead after this.
_NAMELESS_SECONDS = 5

#: Where this process makes things: what is made in one of these belongs to a set already.
MAKING: set[Path] = set()

State = Literal["alive", "dead", "unknown"]


class Move(NamedTuple):
    """What takes the place of what, which steps aside."""

    partial: Path
    aside: Path
    path: Path


@dataclass(frozen=True)
class Work:
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
        return (self.place / COMMIT).exists() or (home is not None and (home / COMMIT).exists())

    def own(self, targets: Sequence[str], *, home: Work | None = None, shares: bool = False) -> None:
        """Say who makes what, in which folder the journal will be if not in this one, and whether others may be at it as well."""
        assert self.owner is not None
        said = ourselves() | {"since": time.strftime("%Y-%m-%d %H:%M:%S"), "targets": targets, "shares": shares}
        said["locked"] = try_lock(self.owner.fileno()) is True
        said["home"] = None if home is None else os.path.relpath(home.place, self.place.parent)
        self.owner.write(json.dumps(said).encode())
        self.owner.flush()
        self.new.mkdir()
        MAKING.add(self.new)

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
            if place is not None and (place / COMMIT).exists():
                changed = _complete(place.parent, _moves(place / COMMIT))
                (place / COMMIT).unlink()
        self.remove()
        return changed

    def remove(self) -> None:
        """Remove the folder; the last of it tells whose it was."""
        for part in (self.new, self.old):
            if part.exists():
                shutil.rmtree(part)
        shutil.rmtree(self.place)

    def move(self, path: Path) -> Move:
        return Move(self.new / path.name, self.old / path.name, path)

    def _home(self, said: dict[str, Any]) -> Path | None:
        home = said.get("home")
        return self.place.parent / str(home) if home is not None and _is_hidden(Path(str(home)).name) else None


@contextmanager
def made_folder(folder: Path) -> Iterator[Work]:
    """A hidden folder in `folder`, until the block ends."""
    place = folder / f"{_PREFIX}{secrets.token_hex(4)}{_SUFFIX}"
    place.mkdir()
    try:
        with open(place / _OWNER, "xb") as owner:
            yield Work(place, owner)
    finally:
        MAKING.discard(place / _NEW)
        Work(place).remove()


def hidden_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if _is_hidden(entry.name) and entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _is_hidden(name: str) -> bool:
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def who(said: dict[str, Any]) -> str:
    if not said:
        return "a process that has not said who it is"
    return f"process {said.get('pid', '?')} on {said.get('host', '?')}, since {said.get('since', '?')},"


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
            if identity(path) != before:
                changed.append(path.name)
                continue
            path.rename(aside)
        partial.rename(path)
        folders.add(path.parent)
    for folder in folders:
        sync_directory(folder)
    return changed


def identity(path: Path) -> list[int] | None:
    """What a file or folder is known by; None if nothing is there."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return [status.st_ino, status.st_size, status.st_mtime_ns]
