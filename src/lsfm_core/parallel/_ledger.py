"""What is known of an output that is made in shards: a folder beside it, which all of them share.

``OUTPUT.lsfm-shards`` holds::

    job.json                what is asked for, of which file, in how many items and shards
    shard-002-….jsonl       what was made of the items of a shard, a line each; every run has a file of its own
    0000/, 0001/, …         the parts themselves, until they are joined
    joined.json             that they have been, and what came of it

Nothing in it is ever changed by two processes, so that it needs no lock, which not all file systems of clusters have.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from lsfm_core.durable import write_file
from lsfm_core.errors import InputError, MissingError, StorageError
from lsfm_core.parallel._batches import checksum, part_folder, program_version
from lsfm_core.parallel._divided import Divided
from lsfm_core.parallel._items import Item, Part
from lsfm_core.provenance import LoggedFile

__all__ = ["Ledger", "check_shard", "is_joined", "shard_of", "shard_range", "shards_folder"]

_FORMAT, _VERSION = "lsfm shards", 1
_JOB, _JOINED = "job.json", "joined.json"
_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")
#: Who has made the folder writes into it at once, unless it died.
_FIRST_SECONDS = 10.0
#: What does not change the result.
_ASIDE = {"shard", "threads", "memory_bytes", "overwrite"}
_MOST_BYTES = 2**26

State = Literal["done", "missing", "damaged"]


def check_shard(text: str) -> str:
    """``2/3``, the second of three.

    Raises
    ------
    InputError
    """
    match = _SHARD.fullmatch(text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        hint = ": they count from 1 (--array=1-N)" if match is not None and int(match[1]) == 0 else ""
        raise InputError(f"shard: expected which of how many, such as 2/3, found {text!r}{hint}")
    return f"{int(match[1])}/{int(match[2])}"


def shard_of(text: str) -> tuple[int, int]:
    """The number of a shard, from 1, and how many there are."""
    number, _, count = check_shard(text).partition("/")
    return int(number), int(count)


def shard_range(items: int, shard: str) -> tuple[int, int]:
    """Which of the items are a shard's: those that lie beside each other read the same chunks."""
    number, count = shard_of(shard)
    return items * (number - 1) // count, items * number // count


def shards_folder(output: Path) -> Path:
    """Where everything about the shards of an output is kept."""
    return output.with_name(f"{output.name}.lsfm-shards")


def is_joined(output: Path) -> bool:
    """Whether an output stands there that was made of shards, whose record is kept."""
    return (shards_folder(output) / _JOINED).is_file()


class Ledger:
    """What is known of one output's items."""

    def __init__(self, output: Path, folder: Path | None) -> None:
        self.output = output
        self.place = shards_folder(output)
        #: Where files of items are in the end.
        self.folder = folder
        self._file: Path | None = None

    @classmethod
    def of(cls, output: Path) -> Ledger:
        """Of an output that is being made, or was.

        Raises
        ------
        MissingError, InputError
        """
        folder = cls(output, None).job().get("folder")
        return cls(output, None if folder is None else Path(str(folder)))

    # --- the job ----------------------------------------------------------------------------------------------------------------

    def begin(self, divided: Divided, shards: int) -> None:
        """Make the ledger, or see that it is of the same work.

        Raises
        ------
        InputError
            If it is of another.
        StorageError
        """
        own = _job(divided, shards)
        self.place.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.place.mkdir()
        except FileExistsError:
            until = time.monotonic() + _FIRST_SECONDS
            while not (self.place / _JOB).is_file() and time.monotonic() < until:
                time.sleep(0.1)
        if not (self.place / _JOB).is_file():
            _write(self.place / _JOB, own)
        known = self.job()
        if known != own:
            raise InputError(f"{self.place}: {_difference(known, own)}: finish that, remove the folder, or choose another output")

    def job(self) -> dict[str, Any]:
        """What is asked for.

        Raises
        ------
        MissingError, InputError
        """
        path = self.place / _JOB
        if not path.is_file():
            raise MissingError(f"{self.output}: there is no {self.place.name} beside it: it is not being made in shards")
        job = _read(path)
        if job.get("format") != _FORMAT or job.get("version") != _VERSION or not isinstance(job.get("items"), list):
            raise InputError(f"{path}: is not what version {_VERSION} of '{_FORMAT}' has there")
        return job

    def items(self) -> list[Item]:
        """All items of the job."""
        rows = self.job()["items"]
        return [Item(n, name, tuple(low), tuple(high), size) for n, (name, low, high, size) in enumerate(rows)]

    # --- its items --------------------------------------------------------------------------------------------------------------

    def add(self, part: Part) -> None:
        """Note what was made, for good."""
        if self._file is None:
            self._file = self.place / f"shard-{part.shard or 0:03d}-{secrets.token_hex(4)}.jsonl"
        line = {
            "item": part.item.number,
            "files": [[path.name, n, digest] for path, n, digest in zip(part.paths, part.sizes, part.digests, strict=True)],
            "shard": part.shard,
            "host": part.host,
            "seconds": round(part.seconds, 3),
            "time": time.time(),
        }
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def parts(self) -> dict[int, Part]:
        """What was made of each item, wherever its files are by now; they need not be whole."""
        items = self.items()
        lines: dict[int, dict[str, Any]] = {}
        for path in sorted(self.place.glob("shard-*.jsonl")):
            for text in path.read_text("utf-8", errors="replace").splitlines():
                # The last line of who was killed.
                with suppress(ValueError, KeyError, TypeError):
                    line = json.loads(text)
                    number = int(line["item"])
                    if number < len(items) and float(line["time"]) >= lines.get(number, {"time": 0.0})["time"]:
                        lines[number] = line
        found = {}
        for number, line in lines.items():
            with suppress(ValueError, KeyError, TypeError):
                names = [(str(name), int(size), str(digest)) for name, size, digest in line["files"]]
                paths = tuple(self._place(number, name) for name, _, _ in names)
                sizes, digests = tuple(size for _, size, _ in names), tuple(digest for _, _, digest in names)
                found[number] = Part(items[number], paths, sizes, digests, line["shard"], str(line["host"]), float(line["seconds"]))
        return found

    def _place(self, number: int, name: str) -> Path:
        if Path(name).name != name:
            raise ValueError(name)
        own = part_folder(self.place, number) / name
        return own if self.folder is None or own.exists() else self.folder / name

    def state(self, part: Part | None, *, thorough: bool = True) -> State:
        """Whether an item's files are there, and as they were made; `thorough` reads them."""
        if part is None or not all(path.exists() for path in part.paths):
            return "missing"
        for path, size, digest in zip(part.paths, part.sizes, part.digests, strict=True):
            if path.is_file() and path.stat().st_size != size:
                return "damaged"
            if thorough and checksum(path) != (size, digest):
                return "damaged"
        return "done"

    # --- the whole --------------------------------------------------------------------------------------------------------------

    def joined(self) -> dict[str, Any] | None:
        """What is known of the output once its parts have been joined."""
        path = self.place / _JOINED
        return _read(path) if path.is_file() else None

    def close(self, written: LoggedFile, outputs: Sequence[Path]) -> None:
        """Note that the output is there, and remove the parts."""
        files = [[path.name, *checksum(path)] for path in outputs]
        _write(self.place / _JOINED, {"written": written.model_dump(mode="json"), "files": files})
        for folder in self.place.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)

    def is_whole(self) -> bool:
        """Whether what was joined is there as it was made; of a folder, what is not one of the items."""
        known, home = self.joined(), self.folder or self.output.parent
        if known is None:
            return False
        files = [(home / name, size, digest) for name, size, digest in known["files"]]
        return all(path.exists() and checksum(path) == (size, digest) for path, size, digest in files)

    def put_back(self, items: Iterable[Item]) -> None:
        """Let files that were made anew be among the others of a folder that is there."""
        assert self.folder is not None
        parts = self.parts()
        for item in items:
            for path in parts[item.number].paths:
                target = self.folder / path.name
                if target.is_dir():
                    shutil.rmtree(target)
                path.replace(target)


def _job(divided: Divided, shards: int) -> dict[str, Any]:
    request = {
        name: value for name, value in divided.request.model_dump(mode="json", exclude_defaults=True).items() if name not in _ASIDE
    }
    request |= {"path": str(Path(str(request["path"])).resolve()), "output": str(divided.output.absolute())}
    inputs = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in divided.division.inputs()]
    job = {
        "format": _FORMAT,
        "version": _VERSION,
        "program": program_version(),
        "operation": divided.operation,
        "request": request,
        "shards": shards,
        "inputs": inputs,
        "folder": None if divided.folder is None else str(divided.folder.absolute()),
        "items": [[item.name, list(item.starts), list(item.stops), item.nbytes] for item in divided.items],
    }
    known: dict[str, Any] = json.loads(json.dumps(job))
    return known


def _difference(known: dict[str, Any], own: dict[str, Any]) -> str:
    """What tells two jobs apart, in words."""
    if known["operation"] != own["operation"]:
        return f"holds shards of {known['operation']}, not of {own['operation']}"
    if known["request"] != own["request"]:
        fields = sorted(
            name for name in {*known["request"], *own["request"]} if known["request"].get(name) != own["request"].get(name)
        )
        told = "; ".join(f"{name}: {known['request'].get(name)}, not {own['request'].get(name)}" for name in fields)
        return f"holds shards of another request ({told})"
    if known["shards"] != own["shards"]:
        return f"the work was divided into {known['shards']} shards, not {own['shards']}"
    if known["program"] != own["program"]:
        return f"its shards were made by version {known['program']} of napari-lsfm, and this is {own['program']}"
    if known["inputs"] != own["inputs"]:
        changed = ", ".join(path for path, *_ in _others(known["inputs"], own["inputs"]))
        return f"its shards were made of {changed} as it was then, and it has changed since"
    return "its shards were divided otherwise"


def _others(known: Iterable[Any], own: Iterable[Any]) -> list[Any]:
    there = list(own)
    return [row for row in known if row not in there] or there


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES * 8:
            raise ValueError("too large")
        value = json.loads(path.read_text("utf-8"))
        if not isinstance(value, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error
    return value


def _write(path: Path, value: dict[str, Any]) -> None:
    write_file(path, json.dumps(value).encode(), shared=True)
