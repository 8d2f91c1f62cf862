"""How many threads work, and the ones in which readers decode, whichever file they read."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

__all__ = ["default_threads", "limit_threads", "share_out", "shared_pool"]

Item = TypeVar("Item")


_limits: list[int] = []


def limit_threads(count: int) -> None:
    """Let this process take fewer threads by default, since others work beside it on the same machine."""
    _limits[:] = [count]


def default_threads() -> int:
    """Worker threads when the user names no number: the cores that this process may use."""
    return min(_cores(), *_limits) if _limits else _cores()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


@cache
def shared_pool() -> ThreadPoolExecutor:
    """The threads in which readers decode, shared by every open file of the process."""
    return ThreadPoolExecutor(default_threads(), thread_name_prefix="lsfm-decode")


def share_out(work: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Do `work` on every item, in this thread and in idle ones of the shared pool.

    If work fails, no more is begun, and the error of the first item in order that failed is raised. That this thread works too
    saves the time until another wakes up, and lets work share out in turn: it never waits for a pool that is busy.
    """
    waiting = deque(enumerate(items))
    failures: list[tuple[int, BaseException]] = []

    def run() -> None:
        while True:
            try:
                position, item = waiting.popleft()
            except IndexError:
                return
            try:
                work(item)
            except BaseException as error:  # noqa: BLE001 (raised below)
                failures.append((position, error))
                waiting.clear()

    helpers = [shared_pool().submit(run) for _ in range(min(len(waiting), default_threads()) - 1)]
    run()
    for helper in helpers:
        if not helper.cancel():
            helper.result()
    if failures:
        raise min(failures, key=lambda failure: failure[0])[1]
