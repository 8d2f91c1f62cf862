"""Decoded chunks that are kept for whoever reads them next."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt

from lsfm_core.arrays._ahead import ReadAhead

__all__ = ["ChunkCache"]

Array = npt.NDArray[Any]

#: Decoded chunks that one file keeps unless its opener says otherwise.
DEFAULT_CACHE_BYTES = 256 * 2**20
#: What one chunk may take while it is decoded, unless a budget says otherwise; as the commands' own default.
DEFAULT_DECODE_BYTES = 2 * 10**9


class ChunkCache:
    """Decoded chunks, least recently used first out, bounded in bytes; safe to share between files and threads.

    Parameters
    ----------
    max_bytes : int
    reads_ahead : bool
        For who looks at planes: while one is stepped through after the other, the next ones' chunks are decoded in the background.
    """

    def __init__(self, max_bytes: int = DEFAULT_CACHE_BYTES, *, reads_ahead: bool = False) -> None:
        self.max_bytes = max_bytes
        #: What a single chunk may take while it is decoded: one that needs more is not read.
        self.decode_bytes = DEFAULT_DECODE_BYTES
        #: Who fills it in the background.
        self.ahead = ReadAhead() if reads_ahead else None
        self._bytes = 0
        self._chunks: OrderedDict[tuple[Any, ...], Array] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...]) -> Array | None:
        """The chunk, or None if it is not here."""
        with self._lock:
            chunk = self._chunks.get(key)
            if chunk is not None:
                self._chunks.move_to_end(key)
            return chunk

    def put(self, key: tuple[Any, ...], chunk: Array) -> None:
        """Keep a chunk, dropping the ones unused for longest."""
        if chunk.nbytes > self.max_bytes:
            return
        with self._lock:
            if key not in self._chunks:
                self._bytes += chunk.nbytes
            self._chunks[key] = chunk
            self._shrink()

    @contextmanager
    def limited(self, max_bytes: int, decode_bytes: int | None = None) -> Iterator[None]:
        """Hold at most so many bytes within the block, and let a single chunk take no more than `decode_bytes` to be decoded."""
        before, self.max_bytes = self.max_bytes, max_bytes
        decoding, self.decode_bytes = self.decode_bytes, self.decode_bytes if decode_bytes is None else decode_bytes
        with self._lock:
            self._shrink()
        try:
            yield
        finally:
            self.max_bytes, self.decode_bytes = before, decoding

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def _shrink(self) -> None:
        while self._bytes > self.max_bytes:
            _, dropped = self._chunks.popitem(last=False)
            self._bytes -= dropped.nbytes
