"""One output that is made in items, by an executor: its parts stand in a hidden folder beside it until they have been joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lsfm_core._request import Request
from lsfm_core.durable import hidden_folder
from lsfm_core.parallel._batches import carry_out, let_go
from lsfm_core.parallel._items import Division, Item, Part
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.provenance import LoggedFile

__all__ = ["Divided", "make_with"]


@dataclass(frozen=True)
class Divided:
    """An operation's plan, divided.

    Attributes
    ----------
    operation : str
    request : Request
    plan : object
        As the operation has it.
    division : Division
    items : sequence of Item
        In the order in which parts are joined.
    output : Path
        As the request names it: a file, a folder or a pattern of names.
    folder : Path or None
        Where the files of items are in the end, if they are the output's own.
    outputs : tuple of Path
        Files and folders that joining makes; beside those of the items.
    check : callable
        Raises if the output cannot be made, given whether it may replace what is there.
    join : callable
        Given all parts, one by one in order, and whether something may be replaced, it makes the output; gives what the log says of
        it.
    threads : int or None
        For each item, if somebody has said how many.
    warnings : tuple of str
    """

    operation: str
    request: Request
    plan: Any
    division: Division
    items: Sequence[Item]
    output: Path
    folder: Path | None
    outputs: tuple[Path, ...]
    check: Callable[[bool], None]
    join: Callable[[Iterable[Part], bool], LoggedFile]
    threads: int | None
    warnings: tuple[str, ...]

    def warned(self, warnings: Iterable[str]) -> Divided:
        """The same, with more to look at."""
        return replace(self, warnings=(*self.warnings, *warnings))

    @property
    def nbytes(self) -> int:
        """What all items count."""
        return sum(item.nbytes for item in self.items)


def make_with(
    divided: Divided,
    executor: Executor,
    *,
    overwrite: bool,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> LoggedFile:
    """Have all items made by an executor, and join them as they come.

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    divided.check(overwrite)
    report = Progress(divided.operation, divided.nbytes, progress, cancel)
    # Beside the folder, where that is still to be made.
    beside = next(path for path in (divided.output, *divided.output.parents) if path.parent.exists())
    with hidden_folder(beside) as folder:
        try:
            parts = carry_out(divided.division, divided.items, executor, folder, report, threads=divided.threads)
            return divided.join(_in_order(parts), overwrite)
        finally:
            let_go()


def _in_order(parts: Iterable[Part]) -> Iterator[Part]:
    """Parts by the numbers of their items, each as soon as all before it are there."""
    early: dict[int, Part] = {}
    number = 0
    for part in parts:
        early[part.item.number] = part
        while number in early:
            yield early.pop(number)
            number += 1
