"""What is divided, and into what: independent items, each described by what is asked for and a box."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from lsfm_core.progress import CancelToken

__all__ = ["Division", "Item", "Maker", "Part", "Share"]


@dataclass(frozen=True, slots=True)
class Item:
    """One of the independent pieces of an operation's work.

    Attributes
    ----------
    number : int
        Its place in the plan's order, from 0.
    name : str
        For people.
    starts, stops : tuple of int
        The box that it makes, in voxels of what the operation goes through: of the result, or of the level that is measured.
    nbytes : int
        What it counts for progress.
    """

    number: int
    name: str
    starts: tuple[int, ...] = ()
    stops: tuple[int, ...] = ()
    nbytes: int = 1


@dataclass(frozen=True, slots=True)
class Part:
    """What came of an item.

    Attributes
    ----------
    item : Item
    paths : tuple of Path
        Files, or folders.
    sizes : tuple of int
        Their bytes.
    digests : tuple of str
        SHA-256 of each; of a folder, of all its files in the order of their names. CRC-32 of what is joined, and then removed.
    shard : int or None
        By which it was made, from 1.
    host : str
    seconds : float
    """

    item: Item
    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    digests: tuple[str, ...]
    shard: int | None
    host: str
    seconds: float


@dataclass(frozen=True)
class Share:
    """What of a machine one item may take.

    Attributes
    ----------
    threads : int
    tasks : int
        How many items are made at the same time in this process, which share its memory.
    """

    threads: int
    tasks: int

    def memory_bytes(self, budget: int, base: int) -> int:
        """The part of a process' budget, of which everybody needs `base`, that one item may take."""
        return budget if self.tasks < 2 else base + max(0, budget - base) // self.tasks


Maker: TypeAlias = Callable[[Item, Path, CancelToken], Sequence[Path]]
"""Makes an item's files in a folder of its own, and gives their paths."""


class Division(ABC):
    """What is to be made in items; it is pickled, and opened by whoever makes some. Those that are equal make the same."""

    @abstractmethod
    def opened(self, share: Share) -> AbstractContextManager[Maker]:
        """Open what the items need, once for many of them.

        Raises
        ------
        LsfmError
        """

    def inputs(self) -> Sequence[Path]:
        """The files that every worker must see."""
        return ()
