"""How long work reports what it has done, and how it is told to stop; and how much that is, in words."""

from __future__ import annotations

import threading
from collections.abc import Callable

from lsfm_core.errors import CancelledError

__all__ = ["CancelToken", "Progress", "ProgressCallback", "size_text"]

ProgressCallback = Callable[[str, int, int], None]
"""Called as ``callback(stage, done, total)``, both counted in bytes of image data, from the thread that started the work."""


class CancelToken:
    """A flag that any thread may set to stop work in progress; the work then raises `CancelledError` and undoes itself."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop at the next chance."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` has been called."""
        return self._event.is_set()


class Progress:
    """One stage of work: counts what is done, tells the callback, and stops when the token says so."""

    def __init__(self, stage: str, total: int, callback: ProgressCallback | None = None, cancel: CancelToken | None = None) -> None:
        self._stage = stage
        self._total = total
        self._done = 0
        self._callback = callback
        self._cancel = cancel
        self.advance(0)

    def advance(self, amount: int) -> None:
        """Count `amount` more bytes as done.

        Raises
        ------
        CancelledError
            If the cancel token has been set.
        """
        if self._cancel is not None and self._cancel.cancelled:
            raise CancelledError(f"{self._stage}: cancelled; nothing was changed")
        self._done += amount
        if self._callback is not None:
            self._callback(self._stage, self._done, self._total)


def size_text(nbytes: float) -> str:
    """A number of bytes for people, in powers of 1000: ``"12.3 MB"``."""
    unit, name = next((u, n) for u, n in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")) if nbytes >= u or u == 1)
    count = nbytes / unit
    digits = ".1e" if count >= 1e6 else ".0f" if count >= 100 or unit == 1 else ".1f"
    return f"{count:{digits}} {name}"
