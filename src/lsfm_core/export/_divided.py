"""What all divided exports have in common: their plan where items are made, and what becomes of the files of these."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lsfm_core.arrays import ChunkCache
from lsfm_core.durable import check_new
from lsfm_core.errors import InputError
from lsfm_core.export._names import named_files
from lsfm_core.export._opened import open_planned
from lsfm_core.export.plan import BASE_BYTES, ExportPlan
from lsfm_core.export.request import ExportRequest, TransformRequest
from lsfm_core.parallel import Part, Share
from lsfm_core.provenance import LoggedFile, logged_files
from lsfm_core.store import LsfmFile, open_lsfm

__all__ = [
    "ITEM_BYTES",
    "check_absent",
    "files_of",
    "logged_parts",
    "put_part",
    "refuse_shard",
    "shared_plan",
    "shared_request",
    "thickness_of",
]

#: What an item makes: large beside what it reads around it, small beside a worker's memory.
ITEM_BYTES = 32 * 2**20
#: Of so many an output is made at least, where it has as many planes: workers that are done wait for one of them only.
_LEAST_ITEMS = 16


def thickness_of(planes: int, plane_bytes: int) -> int:
    """How many planes an item makes; whatever the machine, so that all agree."""
    return max(1, min(ITEM_BYTES // max(1, plane_bytes), -(-planes // _LEAST_ITEMS)))


def shared_request(request: Any, share: Share, held_bytes: int = 0) -> Any:
    """The request with what of a machine one item may take, beside `held_bytes`."""
    memory = share.memory_bytes(request.memory_bytes, BASE_BYTES) - held_bytes
    return request.model_copy(update={"threads": share.threads, "memory_bytes": max(1, memory)})


@contextmanager
def shared_plan(request: ExportRequest, share: Share, axis: int, held_bytes: int = 0) -> Iterator[tuple[LsfmFile, ExportPlan]]:
    """The plan of an export, where some of its items are made; no writer is kept away for as long as the file is kept open."""
    own = shared_request(request, share, held_bytes)
    with open_lsfm(request.path, cache=ChunkCache(0), detached=True) as file, open_planned(own, axis=axis, file=file) as planned:
        yield planned


def files_of(request: TransformRequest) -> list[Path]:
    """The files that a request reads: those who make items must see them."""
    with open_lsfm(request.path, detached=True) as file:
        return [file.path, *named_files(file, request, getattr(request, "reference", None))]


def refuse_shard(request: Any) -> None:
    """See that all of an operation is asked for.

    Raises
    ------
    InputError
    """
    if request.shard is not None:
        raise InputError(f"shard: {request.shard} is a part of the work only: make_shard makes it")


def check_absent(paths: Sequence[Path], check: Callable[[bool], None]) -> None:
    """See that none of many files is there, in a folder that may not be either."""
    check(False)
    if paths[0].parent.is_dir():
        for path in paths:
            check_new(path, overwrite=False)


def put_part(source: Path, target: Path) -> None:
    """Let a file or folder that was made for an item be at its place as well, without a copy where that can be."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_put_file)
    else:
        _put_file(source, target)


def _put_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not all file systems have links
        shutil.copyfile(source, target)


def logged_parts(name: Path | None, files: Sequence[Path], parts: Sequence[Part]) -> LoggedFile:
    """What the log says of the files of all items, whose checksums are known."""
    assert name is not None
    if any(path.is_dir() for path in files[:1]):
        return logged_files(name, files)
    digests = [digest for part in parts for digest in part.digests]
    several = "".join(f"{digest}\n" for digest in digests)
    digest = digests[0] if len(digests) == 1 else hashlib.sha256(several.encode()).hexdigest()
    size = sum(size for part in parts for size in part.sizes)
    return LoggedFile(path=os.fspath(name), count=len(digests), size=size, checksum=f"sha256:{digest}")
