"""Decode what the next planes need while somebody looks at this one.

Who steps through a stack meets a new layer of chunks every few planes, and would wait for all of it at once. But it is known
beforehand: the same chunks, one layer on. This happens on stored axes, so whatever views are on top of a level need not know.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import ReferenceType, WeakKeyDictionary, ref

import numpy as np

from lsfm_core.threads import shared_pool

__all__ = ["ReadAhead"]

Place = tuple[int, ...]

#: So many steps in one direction are no chance any more.
_STEPS = 2


class _Store(Protocol):
    """What this asks of a dataset with its cache."""

    @property
    def chunks(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def cached(self, index: Place) -> Any: ...
    def chunk(self, index: Place, keep: bool) -> Any: ...


@dataclass(frozen=True)
class _Course:
    """How one dataset is gone through."""

    axes: tuple[range, ...]
    #: Steps one after the other along one axis, with the sign of their direction.
    across: int
    steps: int
    read_at: int
    nbytes: int


class ReadAhead:
    """Watches which planes are read, and fills the cache with the next layer of chunks.

    It does not get in the way: it decodes one chunk at a time, in a thread of the shared pool that it gives back when nothing is to
    be done, and stops while somebody waits for chunks. It keeps no file open, and what fails is left to whoever reads that plane.
    """

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._courses: WeakKeyDictionary[_Store, _Course] = WeakKeyDictionary()
        self._waiting: deque[tuple[ReferenceType[_Store], Place]] = deque()
        self._reads = 0
        self._readers = 0
        self._is_at_work = False
        self._is_decoding = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the processor to the caller within the block; a chunk that is being decoded is completed first."""
        with self._state:
            self._readers += 1
            self._state.wait_for(lambda: not self._is_decoding)
        try:
            yield
        finally:
            with self._state:
                self._readers -= 1
                self._go_on()

    def follow(self, store: _Store, axes: Sequence[range], met: Sequence[Place], max_bytes: int) -> None:
        """Take note of a read that begins.

        Parameters
        ----------
        store : _Store
            What is read.
        axes : sequence of range
            Which part of it, in stored indices.
        met : sequence of chunk indices
        max_bytes : int
            What the cache holds.
        """
        if not met:
            return
        with self._state:
            course = self._note(store, tuple(axes), len(met) * math.prod(store.chunks) * store.dtype.itemsize)
            if abs(course.steps) < _STEPS:
                return
            across, forward = course.across, course.steps > 0
            edge = (max if forward else min)(index[across] for index in met)
            layer = edge + (1 if forward else -1)
            self._waiting = deque(item for item in self._waiting if item[0]() is not store)
            if not 0 <= layer * store.chunks[across] < store.shape[across]:
                return
            ahead = [(*index[:across], layer, *index[across + 1 :]) for index in met if index[across] == edge]
            # All that is on the screen has its place in the cache first; the rest is shared out in proportion.
            shown = sum(other.nbytes for other in self._courses.values())
            room = int(len(ahead) * min(1.0, max_bytes / shown - 1)) if shown < max_bytes else 0
            self._waiting.extend((ref(store), index) for index in ahead[:room] if store.cached(index) is None)
            self._go_on()

    def _note(self, store: _Store, axes: tuple[range, ...], nbytes: int) -> _Course:
        before = self._courses.pop(store, None)
        moved = None if before is None else _moved(before.axes, axes)
        across, steps = 0, 0
        if before is None or moved is None or abs(moved[1]) > max(1, store.chunks[moved[0]] // 2):
            # Whoever looks elsewhere does not go on where he was, in this layer or in another.
            self._waiting.clear()
        elif moved[1] == 0:
            across, steps = before.across, before.steps
        else:
            across, sign = moved[0], 1 if moved[1] > 0 else -1
            steps = before.steps + sign if before.across == across and before.steps * sign >= 0 else sign
        self._reads += 1
        self._courses[store] = course = _Course(axes, across, steps, self._reads, nbytes)
        # Each layer that is shown is read at every step; what was not read for long is not shown any more.
        for other, its in list(self._courses.items()):
            if self._reads - its.read_at > 2 * len(self._courses):
                del self._courses[other]
        return course

    def _go_on(self) -> None:
        if self._waiting and not self._readers and not self._is_at_work:
            self._is_at_work = True
            shared_pool().submit(self._work)

    def _work(self) -> None:
        while True:
            with self._state:
                self._is_decoding = False
                self._state.notify_all()
                if self._readers or not self._waiting:
                    self._is_at_work = False
                    return
                owner, index = self._waiting.popleft()
                store = owner()
                self._is_decoding = store is not None
            try:
                if store is not None:
                    store.chunk(index, keep=True)
            except Exception:  # noqa: BLE001
                # Nobody asked for it. Who does will be told; the rest of this layer is likely to fail as well.
                with self._state:
                    self._waiting.clear()
            # A file that nobody shows any more is to be closed.
            del store


def _moved(before: Sequence[range], after: Sequence[range]) -> tuple[int, int] | None:
    """Along which axis, and how far, a view of the same form is from another; None if it is another view altogether."""
    differ = [axis for axis, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    if not differ:
        return 0, 0
    (axis, *more) = differ
    old, new = before[axis], after[axis]
    return None if more or (len(old), old.step) != (len(new), new.step) else (axis, new.start - old.start)
