"""One shard of an output's items, made without knowing of the others; whoever makes the last joins all."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsfm_core.errors import BusyError, ChecksumError, ExistsError
from lsfm_core.parallel._batches import carry_out, let_go
from lsfm_core.parallel._divided import Divided
from lsfm_core.parallel._ledger import Ledger, State, shard_of, shard_range
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.provenance import LoggedFile

__all__ = ["ItemState", "ShardResult", "ShardsStatus", "make_shard", "shards_status"]


@dataclass(frozen=True)
class ShardResult:
    """What a shard gave.

    Attributes
    ----------
    plan : object
        Of the whole, as the operation has it.
    shard : str
        Which of how many: ``"2/3"``.
    items : int
        That belong to it.
    made : int
        Of these, now; the others were there.
    missing : int
        Items of all shards that are still to be made.
    path : Path
        The output, as it was asked for; it is there once nothing is missing.
    warnings : tuple of str
    written : LoggedFile or None
        Size and checksum of the output, if this shard was the last and has joined it.
    """

    plan: Any
    shard: str
    items: int
    made: int
    missing: int
    path: Path
    warnings: tuple[str, ...]
    written: LoggedFile | None

    @property
    def complete(self) -> bool:
        """Whether the output is there."""
        return not self.missing


@dataclass(frozen=True)
class ItemState:
    """How an item is.

    Attributes
    ----------
    number : int
    name : str
    state : {"done", "missing", "damaged"}
    shard : int
        To which it belongs, from 1.
    """

    number: int
    name: str
    state: State
    shard: int


@dataclass(frozen=True)
class ShardsStatus:
    """How far an output is that is made in shards.

    Attributes
    ----------
    path : Path
    operation : str
    shards : int
    joined : bool
        Whether the output stands there.
    items : tuple of ItemState
    """

    path: Path
    operation: str
    shards: int
    joined: bool
    items: tuple[ItemState, ...]

    def count(self, state: State) -> int:
        """How many items are so."""
        return sum(item.state == state for item in self.items)

    @property
    def complete(self) -> bool:
        """Whether all is done."""
        return self.joined and self.count("done") == len(self.items)

    def describe(self) -> str:
        """In words, a line for each shard in which something is left to do."""
        counts = ", ".join(f"{self.count(state)} {state}" for state in ("done", "missing", "damaged"))
        lines = [f"{self.path}: {self.operation} in {self.shards} shards, {len(self.items)} items: {counts}"]
        states: dict[int, Counter[str]] = {}
        for item in self.items:
            states.setdefault(item.shard, Counter())[item.state] += 1
        for shard, found in sorted(states.items()):
            if found["done"] < sum(found.values()):
                bad = [f"{item.name} ({item.state})" for item in self.items if item.shard == shard and item.state != "done"]
                more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
                lines.append(
                    f"shard   {shard}/{self.shards}: {found['done']} of {sum(found.values())} done; {', '.join(bad[:3])}{more}"
                )
        if self.complete:
            lines.append("output  complete")
        elif self.count("done") == len(self.items):
            lines.append("output  not joined yet: repeat any shard")
        return "\n".join(lines)


def make_shard(
    divided: Divided,
    shard: str,
    *,
    overwrite: bool,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> ShardResult:
    """Make what a shard's items lack; if nothing is missing of any then, join all.

    Raises
    ------
    LsfmError
        What was made of the items is kept.
    """
    number, count = shard_of(shard)
    ledger = Ledger(divided.output, divided.folder)
    if not ledger.place.exists():
        divided.check(overwrite)
    ledger.begin(divided, count)
    mine = divided.items[slice(*shard_range(len(divided.items), shard))]

    def result(made: int, missing: int, written: LoggedFile | None) -> ShardResult:
        return ShardResult(divided.plan, shard, len(mine), made, missing, divided.output, divided.warnings, written)

    before = ledger.joined()
    stands = before is not None and divided.folder is not None
    if before is not None and not stands and ledger.is_whole():
        return result(0, 0, None)
    if not stands:
        divided.check(overwrite)
    known = ledger.parts()
    states = {item.number: ledger.state(known.get(item.number)) for item in mine}
    todo = [item for item in mine if states[item.number] != "done"]
    changed = [item.name for item in todo if stands and states[item.number] == "damaged"]
    if changed and not overwrite:
        raise ExistsError(f"{divided.folder}: {', '.join(changed[:3])}: not as this shard has made it: allow to overwrite it")
    report = Progress(divided.operation, sum(item.nbytes for item in todo), progress, cancel)
    with ThreadPoolExecutor(1, thread_name_prefix="lsfm-shard") as pool:
        try:
            for part in carry_out(divided.division, todo, pool, ledger.place, report, shard=number, threads=divided.threads):
                ledger.add(part)
        finally:
            let_go()
    if stands:
        ledger.put_back(todo)
    parts = ledger.parts()
    missing = sum(ledger.state(parts.get(item.number), thorough=False) != "done" for item in divided.items)
    if ledger.joined() != before:
        # Somebody else was done at the same moment, and has joined them.
        return result(len(todo), 0, None)
    written = None
    if not missing and not (stands and ledger.is_whole()):
        written = _join(divided, ledger, overwrite=overwrite or stands)
    return result(len(todo), missing, written)


def _join(divided: Divided, ledger: Ledger, *, overwrite: bool) -> LoggedFile | None:
    parts = ledger.parts()
    try:
        written = divided.join((parts[item.number] for item in divided.items), overwrite)
    except BusyError:
        # Another shard was done at the same moment, and is joining them.
        return None
    except ChecksumError as error:
        raise ChecksumError(f"{error}: repeat its shard, which makes it anew") from error
    ledger.close(written, divided.outputs)
    return written


def shards_status(output: Path) -> ShardsStatus:
    """Look at all items of an output that is made in shards; every file is read.

    Raises
    ------
    MissingError
        If it is not.
    LsfmError
    """
    ledger = Ledger.of(output)
    job = ledger.job()
    items, parts = ledger.items(), ledger.parts()
    joined, count = ledger.joined() is not None, int(job["shards"])
    ranges = [range(*shard_range(len(items), f"{number}/{count}")) for number in range(1, count + 1)]
    shards = [number for number, own in enumerate(ranges, 1) for _ in own]
    if joined and ledger.folder is None:
        # Its parts have become one file.
        state: State = "done" if ledger.is_whole() else "damaged" if output.exists() else "missing"
        states = [state for _ in items]
    else:
        states = [ledger.state(parts.get(item.number)) for item in items]
    found = tuple(
        ItemState(item.number, item.name, *told) for item, told in zip(items, zip(states, shards, strict=True), strict=True)
    )
    return ShardsStatus(output, str(job["operation"]), count, joined, found)
