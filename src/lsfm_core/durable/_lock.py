"""Who may change a file: HDF5's own lock (flock), or where the file system has none a file that tells of its owner."""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

from lsfm_core.errors import BusyError, StorageError

try:
    import fcntl
except ImportError:  # Windows: opening for writing is already exclusive enough to keep a second writer out
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "CAN_LOCK",
    "LOCK_SECONDS",
    "Hold",
    "drop_dead_lock",
    "fate",
    "flock",
    "has_locks",
    "is_running",
    "is_written",
    "lock",
    "lock_path",
    "ourselves",
    "try_lock",
]

CAN_LOCK = fcntl is not None
#: Who looks in, or has just committed, holds the lock for less than this.
LOCK_SECONDS = 0.2
#: So often a lock file shows that its owner is alive.
_HEARTBEAT_SECONDS = 10.0
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})


def lock_path(path: Path) -> Path:
    """Where the owner of a file is told of, on file systems without locks."""
    real = Path(os.path.realpath(path))
    return real.with_name(real.name + "-lock")


class Hold:
    """The lock on a file; the descriptor's own goes with that, a lock file with `release`."""

    def __init__(self, lock_file: Path | None = None, text: str = "") -> None:
        self._lock_file = lock_file
        self._text = text
        self._done = threading.Event()
        if lock_file is not None:
            threading.Thread(target=self._beat, name="lsfm-lock", daemon=True).start()

    @property
    def is_lost(self) -> bool:
        """Whether somebody has taken it away, in the belief that we are dead."""
        return self._lock_file is not None and _text_of(self._lock_file) != self._text

    def release(self) -> None:
        self._done.set()
        if self._lock_file is not None and not self.is_lost:
            with suppress(OSError):
                self._lock_file.unlink()
        self._lock_file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._done.wait(_HEARTBEAT_SECONDS):
            with suppress(OSError, TypeError):
                os.utime(self._lock_file)  # type: ignore[arg-type]


def lock(file: io.FileIO, path: Path, *, force: bool = False) -> Hold:
    """Take the lock that HDF5 itself takes for writing, or raise `BusyError`.

    Parameters
    ----------
    file : FileIO
    path : Path
        What messages call it, and beside which a lock file stands.
    force : bool
        Take a lock file away from an owner of whom it cannot be known whether it is alive.
    """
    hold = Hold()
    if fcntl is not None and not flock(file, path):
        hold = _lock_file(path, force)
    else:
        # Made by a machine that has this file system without locks.
        drop_dead_lock(path, force=force)
    try:
        # Who waited for the lock may have got that of a file which was replaced meanwhile.
        opened = Path(file.name)
        if not opened.exists() or not os.path.samestat(os.fstat(file.fileno()), opened.stat()):
            raise BusyError(f"{path}: another program has just replaced it: try again")
    except BaseException:
        hold.release()
        raise
    return hold


def has_locks(path: Path) -> bool:
    """Whether the file system of a file has locks."""
    if fcntl is None:
        return True
    with open(path, "rb", buffering=0) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def is_written(file: io.FileIO, path: Path) -> bool:
    """Whether somebody holds the lock of an open file for writing."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        text = _text_of(lock_path(path))
        return text is not None and fate(text) != "dead"
    fcntl.flock(file.fileno(), fcntl.LOCK_UN)
    return False


def try_lock(descriptor: int) -> bool | None:
    """Take a descriptor's lock without waiting; False if somebody else has it, None where there is none."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def flock(file: io.FileIO, path: Path) -> bool:
    """Take the descriptor's lock; False where there is none."""
    if fcntl is None:
        return False
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise BusyError(f"{path}: another program has the file open: close it there, or wait until it is done") from error
            time.sleep(LOCK_SECONDS / 20)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise StorageError(f"{path}: cannot be locked: {error.strerror}") from error


# --- where there are no locks -----------------------------------------------------------------------------------------------------


def _lock_file(path: Path, force: bool) -> Hold:
    """Take the lock by a file; of one that is there, the owner must be dead."""
    place = lock_path(path)
    text = json.dumps({**ourselves(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "token": secrets.token_hex(8)})
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            descriptor = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            try:
                drop_dead_lock(path, force=force)
            except BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_SECONDS / 20)
        except OSError as error:
            raise StorageError(
                f"{path}: its file system has no locks, and the lock file {place.name} cannot be made: {error.strerror}"
            ) from error
        else:
            with open(descriptor, "wb", buffering=0) as file:
                file.write(text.encode())
                os.fsync(file.fileno())
            return Hold(place, text)


def drop_dead_lock(path: Path, *, force: bool = False) -> bool:
    """Remove the lock file of an owner who is dead; whether there was one.

    Parameters
    ----------
    path : Path
    force : bool
        Take an owner for dead of whom that cannot be known.

    Raises
    ------
    BusyError
        If it is alive, or that cannot be known.
    """
    place = lock_path(path)
    text = _text_of(place)
    if text is None:
        return False
    judged = fate(text)
    if judged == "alive" or (judged == "unknown" and not force):
        raise BusyError(f"{path}: {_who(place, text, judged)}")
    # What we take away must be what we have judged, and not the lock of somebody who was quicker.
    aside = place.with_name(f"{place.name}.{secrets.token_hex(4)}")
    try:
        place.rename(aside)
    except FileNotFoundError:
        return False
    if _text_of(aside) != text:
        with suppress(FileExistsError):
            os.link(aside, place)
    aside.unlink(missing_ok=True)
    return True


def _who(place: Path, text: str, fate: str) -> str:
    owner = _parsed(text)
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')} has it open for writing, since {owner.get('since', '?')}"
    if fate == "alive":
        return f"{who}: wait until it is done"
    with suppress(OSError):
        age = max(0.0, time.time() - place.stat().st_mtime)
        who += f", and showed {age:.0f} s ago that it was alive"
    return (
        f"{who}; this file system has no locks, so from here nobody can tell whether it still is: if it is dead, "
        "'lsfm-core recover --force' takes its lock away"
    )


def fate(text: str) -> Literal["alive", "dead", "unknown"]:
    """Whether the owner that a lock file tells of is alive, dead, or in a place that we cannot see."""
    owner, ours = _parsed(text), ourselves()
    if not owner or owner.get("host") != ours["host"]:
        return "unknown"
    if owner.get("boot") != ours["boot"]:
        return "dead" if owner.get("boot") and ours["boot"] else "unknown"
    if owner.get("processes") != ours["processes"]:
        return "unknown"
    started = _started(owner.get("pid"))
    if started is None or (started and owner.get("started") and started != owner["started"]):
        return "dead"
    return "alive"


def ourselves() -> dict[str, Any]:
    """What this process is known by, here and elsewhere."""
    boot = processes = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        # In another container the same number means another process.
        processes = str(Path("/proc/self/ns/pid").readlink())
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "boot": boot, "processes": processes, "started": _started(pid)}


def _started(pid: Any) -> str | None:
    """When a process of this machine began, in its own measure; "" if that is not known, None if there is no such process."""
    if not isinstance(pid, int) or pid <= 0:
        return None
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return ""
    return ""


def is_running(pid: int) -> bool:
    """Whether a process of this machine has a number."""
    return _started(pid) is not None


def _parsed(text: str) -> dict[str, Any]:
    try:
        owner = json.loads(text)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _text_of(place: Path) -> str | None:
    """What a lock file says; None if there is none."""
    try:
        # Of whatever else may have the name we know nothing; a pipe would let us wait forever.
        return place.read_bytes().decode(errors="replace") if place.is_file() else "" if os.path.lexists(place) else None
    except OSError:
        return None
