"""Items made by an executor, many at a time in one task, and each task again if its worker is lost.

A scheduler pays for each task, whatever it does: so items go out in batches that take some seconds, and no more of them than
keep all workers busy. What a batch makes goes into a folder that all see; what comes back are names and checksums.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures import CancelledError as FutureCancelledError
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

from isal import isal_zlib

from lsfm_core.errors import CancelledError, InputError, LsfmError, MissingError, StorageError
from lsfm_core.parallel._items import Division, Item, Maker, Part, Share
from lsfm_core.progress import CancelToken, Progress
from lsfm_core.provenance import sha256
from lsfm_core.threads import default_threads

__all__ = ["PASSING", "carry_out", "checksum", "crc_of", "part_folder", "program_version"]

#: A batch is to take about so long: little beside what a scheduler needs for a task, and all that is lost with a worker.
_BATCH_SECONDS = 5.0
_MOST_ITEMS = 1000
#: Batches that wait for each worker while it makes one.
_AHEAD = 2
#: What fails so often fails for good.
_TRIES = 3
#: A scheduler tells of a worker's death after it has tried some others: that is no proof that it was the batch's fault.
_LOSSES = 3
#: Workers of whom an executor does not tell.
_UNKNOWN_SLOTS = 64
_LOOK_SECONDS = 0.25
#: Workers that were lost come back within a moment, or a batch system sends others: after this nobody will.
_GONE_SECONDS = 300.0
_SLOTS_SECONDS = 5.0
#: What a worker has open is let go after nobody has asked for it for so long.
_IDLE_SECONDS = 10.0
_STOP, _STOP_SECONDS = "stop", 15.0
#: Files of so many items lie in one folder.
_FOLDER_ITEMS = 1000
#: What a file is called that is joined with others soon, and then removed: it is not worth a checksum that takes its time.
PASSING = ".part"


@cache
def program_version() -> str:
    """Of this package, as it is installed."""
    return metadata.version("napari-lsfm")


@dataclass(frozen=True)
class _Batch:
    """Items for one task: all that a worker needs to know."""

    division: Division
    items: tuple[Item, ...]
    folder: str
    home: str
    version: str
    owner: tuple[str, int]
    threads: int | None
    tasks: int
    shard: int | None


@dataclass
class _Out:
    """A batch that was given to the executor."""

    items: tuple[Item, ...]
    failures: int = 0
    losses: int = 0


def carry_out(
    division: Division,
    items: Sequence[Item],
    executor: Executor,
    folder: Path,
    progress: Progress,
    *,
    shard: int | None = None,
    threads: int | None = None,
) -> Iterator[Part]:
    """Make items by an executor; gives each part as soon as its batch is done, in any order.

    Parameters
    ----------
    division : Division
    items : sequence of Item
    executor : concurrent.futures.Executor
        Or what has its `submit`, and gives something with `done`, `result` and `cancel`.
    folder : Path
        Where parts go; workers on other machines must see it under the same name.
    progress : Progress
        Advanced by what items count.
    shard : int, optional
        The shard of which they are.
    threads : int, optional
        For each item, if somebody has said how many.

    Raises
    ------
    LsfmError
        The error of a batch that has failed three times.
    """
    folder = folder.resolve()
    waiting = deque(items)
    again: deque[_Out] = deque()
    running: dict[Any, _Out] = {}
    size = 1
    slots = _Slots(executor)
    each, tasks = _share_of(executor, threads)
    facts = (str(folder), str(Path.cwd()), program_version(), (socket.gethostname(), os.getpid()), each, tasks, shard)
    try:
        while waiting or again or running:
            most = _AHEAD * slots.count()
            while (waiting or again) and len(running) < most:
                out = again.popleft() if again else _Out(tuple(_taken(waiting, size)))
                running[executor.submit(make_batch, _Batch(division, out.items, *facts))] = out
            for future in _finished(running):
                out = running.pop(future)
                try:
                    seconds, parts = future.result()
                except BrokenExecutor as error:
                    # Of distributed it is one task's; a pool of processes is broken as a whole.
                    if isinstance(executor, ProcessPoolExecutor):
                        raise StorageError(
                            "a worker process has ended before its time: it was killed, or the machine was out of memory"
                        ) from error
                    again.append(_lost(out, error))
                except (Exception, FutureCancelledError) as error:  # noqa: BLE001 (raised in the end)
                    again.append(_lost(out, error) if _is_loss(error) else _failed(out, error))
                else:
                    rest = -(-len(waiting) // most)
                    fitting = int(_BATCH_SECONDS * len(parts) / max(seconds, 1e-6))
                    size = max(1, min(fitting, 2 * max(size, len(parts)), rest, _MOST_ITEMS))
                    for part in parts:
                        progress.advance(part.item.nbytes)
                        yield part
            progress.advance(0)
    finally:
        _stop(running, folder)


def part_folder(folder: Path, number: int) -> Path:
    """Where the files of an item lie, so that no folder has more than some thousand."""
    return folder / f"{number // _FOLDER_ITEMS:04d}"


def checksum(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file, or of all files of a folder in the order of their names; CRC-32 of what is on its way only."""
    if path.suffix == PASSING:
        with path.open("rb") as file:
            data = file.read()
        return len(data), crc_of(data)
    files = [file for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if file.is_file()]
    return sum(file.stat().st_size for file in files), sha256(*files)


def crc_of(data: bytes) -> str:
    """CRC-32 in hexadecimal digits."""
    return f"{isal_zlib.crc32(data):08x}"


def _taken(waiting: deque[Item], count: int) -> Iterator[Item]:
    yield from (waiting.popleft() for _ in range(min(count, len(waiting))))


def _finished(running: dict[Any, _Out]) -> list[Any]:
    """Futures that are done, or none after a moment."""
    if all(isinstance(future, Future) for future in running):
        return list(wait(running, _LOOK_SECONDS, FIRST_COMPLETED).done)
    done = [future for future in running if future.done()]
    if not done:
        time.sleep(_LOOK_SECONDS)
    return done


def _is_loss(error: BaseException) -> bool:
    """Whether a task has failed since its worker was lost."""
    return isinstance(error, FutureCancelledError) or type(error).__name__ in (
        "KilledWorker",
        "CommClosedError",
        "FutureCancelledError",
    )


def _lost(out: _Out, error: BaseException) -> _Out:
    out.losses += 1
    if out.losses >= _LOSSES:
        raise StorageError(
            f"{_named(out.items)}: every worker that was given it has ended before its time: {str(error) or type(error).__name__}: "
            "is there memory enough for each of them (--memory)?"
        ) from error
    return out


def _failed(out: _Out, error: BaseException) -> _Out:
    out.failures += 1
    # Who is told to stop, or asked for what cannot be, will say so again.
    if isinstance(error, (CancelledError, InputError)):
        raise error
    if out.failures >= _TRIES:
        if isinstance(error, LsfmError):
            raise error
        raise StorageError(f"{_named(out.items)}: has failed {_TRIES} times: {type(error).__name__}: {error}") from error
    return out


def _named(items: Sequence[Item]) -> str:
    return items[0].name if len(items) == 1 else f"{items[0].name} to {items[-1].name}"


class _Slots:
    """How many items an executor can make at the same time, of which a cluster's number may change."""

    def __init__(self, executor: Executor) -> None:
        self._executor: Any = executor
        self._count, self._asked = 1, -_SLOTS_SECONDS
        self._seen = time.monotonic()

    def count(self) -> int:
        now = time.monotonic()
        if now - self._asked >= _SLOTS_SECONDS:
            self._asked = now
            client = _client_of(self._executor)
            known = getattr(self._executor, "_max_workers", _UNKNOWN_SLOTS)
            found = known if client is None else sum(client.nthreads().values())
            self._seen = now if found else self._seen
            if now - self._seen > _GONE_SECONDS:
                raise StorageError(f"no worker has been there for {_GONE_SECONDS:.0f} s: start some again, then repeat this")
            self._count = max(1, found)
        return self._count


def _client_of(executor: Any) -> Any:
    """The client behind Dask's executor; None behind others."""
    return executor._client if type(executor).__module__.startswith("distributed.") else None


def _share_of(executor: Executor, threads: int | None) -> tuple[int | None, int]:
    """Threads of an item, None where its worker decides, and how many items are made in one process."""
    if isinstance(executor, ThreadPoolExecutor):
        return threads or max(1, default_threads() // executor._max_workers), executor._max_workers
    if isinstance(executor, ProcessPoolExecutor):
        return threads or max(1, default_threads() // int(getattr(executor, "_max_workers", 1))), 1
    return threads, 1


def _stop(running: dict[Any, _Out], folder: Path) -> None:
    """Let nothing more be made, and wait for what cannot be stopped at once."""
    if not running:
        return
    with suppress(OSError):
        (folder / _STOP).touch()
    # Workers look for the sign after each block, and before they begin: what is cancelled at once would go on unseen.
    until = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < until and not all(future.done() for future in running):
        time.sleep(_LOOK_SECONDS)
    for future in running:
        future.cancel()
    with suppress(OSError):
        (folder / _STOP).unlink()


# --- where items are made -------------------------------------------------------------------------------------------------------


def make_batch(batch: _Batch) -> tuple[float, list[Part]]:
    """Make the items of a batch; runs wherever the executor has it run.

    Returns
    -------
    seconds : float
    parts : list of Part
    """
    began = time.perf_counter()
    host, folder = socket.gethostname(), Path(batch.folder)
    if batch.version != program_version():
        raise InputError(
            f"the worker on {host} has version {program_version()} of napari-lsfm, and {batch.version} gives it work: install the "
            "same"
        )
    if batch.owner != (host, os.getpid()):
        _go_home(batch.home, host)
    if not folder.is_dir():
        raise MissingError(f"{folder}: the worker on {host} does not see it: it must lie on a file system that all share")
    cancel = _StopSign(folder / _STOP)
    parts = []
    with _kept(batch.division, _share(batch)) as maker:
        for item in batch.items:
            if cancel.cancelled:
                raise CancelledError(f"{item.name}: cancelled before it began")
            parts.append(_made(maker, item, folder, cancel, batch.shard, host))
    return time.perf_counter() - began, parts


def _made(maker: Maker, item: Item, folder: Path, cancel: CancelToken, shard: int | None, host: str) -> Part:
    began = time.perf_counter()
    home = part_folder(folder, item.number)
    home.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder, ignore_cleanup_errors=True) as place:
        made = maker(item, Path(place), cancel)
        sums = [checksum(path) for path in made]
        paths = tuple(home / path.name for path in made)
        for path, target in zip(made, paths, strict=True):
            if shard is not None and path.is_file():
                with open(path, "r+b") as file:
                    os.fsync(file.fileno())
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    seconds = time.perf_counter() - began
    return Part(item, paths, tuple(size for size, _ in sums), tuple(digest for _, digest in sums), shard, host, seconds)


def _go_home(home: str, host: str) -> None:
    """Let relative paths mean what they mean to who has asked."""
    try:
        if os.getcwd() != home:  # noqa: PTH109 (compared as text)
            os.chdir(home)
    except OSError as error:
        raise MissingError(f"{home}: the worker on {host} does not see it: {error.strerror}") from error


def _share(batch: _Batch) -> Share:
    """What an item may take of this machine."""
    worker = _dask_worker()
    tasks = batch.tasks if worker is None else max(1, worker.state.nthreads)
    return Share(batch.threads or (default_threads() if worker is None else 1), tasks)


def _dask_worker() -> Any:
    """The worker of Dask's that runs this; None elsewhere."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


class _StopSign(CancelToken):
    """A token that a file sets, for those who share nothing else; whose folder is gone is not wanted either."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._looked = 0.0

    @property
    def cancelled(self) -> bool:
        now = time.monotonic()
        if not super().cancelled and now - self._looked > _LOOK_SECONDS:
            self._looked = now
            if self._path.exists() or not self._path.parent.exists():
                self.cancel()
        return super().cancelled


class _Kept:
    """What a division needs, open for as long as somebody asks for it."""

    def __init__(self, manager: AbstractContextManager[Maker]) -> None:
        self.stack = ExitStack()
        self.maker = self.stack.enter_context(manager)
        self.users = 0
        self.timer: threading.Timer | None = None


_Key: TypeAlias = tuple[int, Division, Share]
_kept_open: dict[_Key, _Kept] = {}
_lock = threading.Lock()


@contextmanager
def _kept(division: Division, share: Share) -> Iterator[Maker]:
    """What makes a division's items; opened once for all batches that follow each other in a process."""
    key = (os.getpid(), division, share)
    with _lock:
        kept = _kept_open.get(key)
        if kept is None:
            kept = _kept_open[key] = _Kept(division.opened(share))
        kept.users += 1
        if kept.timer is not None:
            kept.timer.cancel()
            kept.timer = None
    try:
        yield kept.maker
    finally:
        with _lock:
            kept.users -= 1
            if not kept.users:
                kept.timer = threading.Timer(_IDLE_SECONDS, _let_go, [key, kept])
                kept.timer.daemon = True
                kept.timer.start()


def _let_go(key: _Key, kept: _Kept) -> None:
    with _lock:
        if not kept.users and _kept_open.get(key) is kept:
            del _kept_open[key]
            kept.stack.close()


def let_go() -> None:
    """Close all that is kept open in this process, and asked for by nobody."""
    with _lock:
        for key, kept in list(_kept_open.items()):
            if not kept.users:
                if kept.timer is not None:
                    kept.timer.cancel()
                del _kept_open[key]
                kept.stack.close()
