"""What was done with a file: when, by whom, by which command, from what, and what came of it.

A change puts its record into the file, in the change's own transaction (`lsfm_core.store`). An operation that only reads must not
open the file for writing, nor wait for others that do the same: it leaves its record as a small file in a folder beside it, under a
name that no other has, and the next change takes it into the file. docs/format.md specifies both.

No record is worth a failure: where none can be kept, the operation goes on without.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import re
import secrets
import shlex
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lsfm_core.errors import CancelledError, ChecksumError, FormatError

__all__ = [
    "Draft",
    "LogRecord",
    "LoggedFile",
    "as_command_line",
    "clear_partials",
    "current_versions",
    "joined",
    "logged_files",
    "recorded",
    "running",
    "sha256",
    "side_folder",
    "side_records",
]

LOG_VERSION = 1
_HDF5 = b"\x89HDF\r\n\x1a\n"
_LIBRARIES = ("h5py", "SimpleITK", "numpy", "pydantic", "tifffile", "nibabel", "zarr")
_READ_BYTES = 2**20
#: A record is a few kilobytes; what is larger is none.
_MOST_BYTES = 2**24
# A folder that a change found empty may be removed just when another process has seen it.
_ATTEMPTS = 3
#: A record on its way, which takes a moment: after this one is of somebody who was killed.
_PARTIAL, _PARTIAL_SECONDS = re.compile(r"\.\d{4}-\d\d-\d\dT\d{6}\.\d{6}Z_[a-z-]+_[0-9a-f]{8}\.partial"), 600


class LoggedFile(BaseModel):
    """Files that an operation took or made.

    Attributes
    ----------
    path : str
        As the request has it: of a file, of a folder, or a pattern.
    count : int
        How many files there are.
    size : int
        Bytes of all; of a channel, of its voxels on all levels.
    checksum : str or None
        ``"sha256:…"`` of the file; of several, of their own checksums as lines of hexadecimal digits, in the order of the images,
        or of the names in a folder. ``"crc32:…"`` of what an ingest has read: of all bytes, one file after the other;
        ``"chunks:…"`` of the channel that it has made (docs/format.md). None for our own HDF5 files, whose log tells how they
        came to be.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    count: int = 1
    size: int
    checksum: str | None = None


class LogRecord(BaseModel):
    """One operation on a file.

    Attributes
    ----------
    version : int
        Of this schema.
    name : str
        Unique, in the file and beside it.
    time : datetime
        When it began, UTC. lsfmpy recorded local time, and no zone: it is taken as it is.
    operation : str
        Its name in recipes, as ``"export"``; also where Python asked for it. ``"edit"`` for several changes at once.
    channel : str or None
    outcome : {"done", "failed", "cancelled"}
    message : str
        Why it failed.
    seconds : float or None
    command : str or None
        The command line, quoted for a shell; None where Python asked for it.
    request : dict
        Everything that was asked for: the fields of the operation's request.
    folder : str
        The working directory, from which relative paths are meant.
    user, host : str
    versions : dict of str to str
        Of this program, its libraries, Python and the platform.
    inputs : tuple of LoggedFile
    output : LoggedFile or None
        Of an ingest the channel; None for other changes of the file itself.
    text : str
        What lsfmpy wrote.
    """

    # What a later version adds must not keep this one from reading the rest.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")

    version: int = LOG_VERSION
    name: str
    time: datetime
    operation: str
    channel: str | None = None
    outcome: Literal["done", "failed", "cancelled"] = "done"
    message: str = ""
    seconds: float | None = None
    command: str | None = None
    request: dict[str, Any] = {}
    folder: str = ""
    xml: str | None = None
    user: str = ""
    host: str = ""
    versions: dict[str, str] = {}
    inputs: tuple[LoggedFile, ...] = ()
    output: LoggedFile | None = None
    text: str = ""


class Draft:
    """The record of an operation that is going on, which adds what it comes to know.

    Attributes
    ----------
    path : Path
        Of the HDF5 file that the record belongs to.
    opened : bool
        Whether it has been found to be one of those that have a log.
    xml : str or None
        The XML by which the file was named, from the file's folder.
    settled : bool
        Whether nothing is left to record: it stands in the file itself, or nothing has happened.
    inputs : list of LoggedFile
    output : LoggedFile or None
    changes : list of (str, dict)
        What was done to the file, where nobody said beforehand.
    """

    def __init__(self, path: Path, operation: str, request: BaseModel | Mapping[str, Any] | None) -> None:
        self.path = _resolved(path)
        self.opened = False
        self.xml: str | None = None
        self.settled = False
        self.inputs: list[LoggedFile] = []
        self.output: LoggedFile | None = None
        self.changes: list[tuple[str, dict[str, Any]]] = []
        self._operation = operation
        self._request = request
        self._time = datetime.now(UTC)
        self._began = time.perf_counter()
        # The folder, before somebody changes it.
        self._folder = _folder()

    def open(self, path: Path, xml: Path | None = None) -> None:
        """Tell that the file is open, and which it is, should the request have named its XML."""
        self.path = _resolved(path)
        self.opened = True
        if xml is not None:
            self.xml = Path(os.path.relpath(_resolved(xml), self.path.parent)).as_posix()

    def record(self, error: BaseException | None = None) -> LogRecord:
        """The record as of now: the operation is done, or `error` ends it."""
        operation, request = self._operation, self._request
        if request is None:
            changes = [{name: arguments} for name, arguments in self.changes]
            operation, request = self.changes[0] if len(changes) == 1 else (operation, {"changes": changes})
        fields = request.model_dump(mode="json") if isinstance(request, BaseModel) else dict(request)
        stopped = isinstance(error, CancelledError | KeyboardInterrupt | GeneratorExit)
        return LogRecord(
            # No colon, which Windows refuses in the name of a file.
            name=f"{self._time:%Y-%m-%dT%H%M%S.%fZ}_{operation}_{secrets.token_hex(4)}",
            time=self._time,
            operation=operation,
            channel=fields.get("channel"),
            outcome="done" if error is None else "cancelled" if stopped else "failed",
            message="" if error is None or stopped else str(error) or type(error).__name__,
            seconds=round(time.perf_counter() - self._began, 3),
            command=_COMMAND.get(),
            request=fields,
            folder=self._folder,
            xml=self.xml,
            user=_user(),
            host=_host(),
            versions=dict(current_versions()),
            inputs=tuple(self.inputs),
            output=self.output if error is None else None,
        )


_CURRENT: ContextVar[Draft | None] = ContextVar("lsfm_operation", default=None)
_COMMAND: ContextVar[str | None] = ContextVar("lsfm_command", default=None)


@contextmanager
def running(arguments: Sequence[str]) -> Iterator[None]:
    """Let what happens in the block be recorded as done by a command line, given without the program's name."""
    token = _COMMAND.set(as_command_line(arguments))
    try:
        yield
    finally:
        _COMMAND.reset(token)


def as_command_line(arguments: Sequence[str]) -> str:
    """Arguments of this program as a line for a shell."""
    return shlex.join(["lsfm-core", *arguments])


@contextmanager
def recorded(path: Path, operation: str, request: BaseModel | Mapping[str, Any] | None) -> Iterator[Draft]:
    """Keep a record of what happens in the block, however it ends.

    Parameters
    ----------
    path : Path
        The file that it is done with: HDF5, or its XML. Where there is none in the end, nothing is recorded.
    operation : str
        The name of its command.
    request : BaseModel, mapping, or None
        None: what `Draft.changes` then tells.
    """
    draft = Draft(path, operation, request)
    token = _CURRENT.set(draft)
    try:
        yield draft
    except BaseException as error:
        foreign = isinstance(error, FormatError) and not isinstance(error, ChecksumError) and not draft.opened
        if not draft.settled and not foreign:
            _leave(draft, error)
        raise
    else:
        if not draft.settled:
            _leave(draft, None)
    finally:
        _CURRENT.reset(token)


def joined(path: Path) -> AbstractContextManager[Draft]:
    """The draft of an operation on this file that is going on; else one for changes of which nobody has told beforehand."""
    draft = _CURRENT.get()
    if draft is not None and draft.path == _resolved(path):
        return nullcontext(draft)
    return recorded(path, "edit", None)


def logged_files(name: str | os.PathLike[str], files: Sequence[Path]) -> LoggedFile:
    """Size and SHA-256 of files, of which some may be folders; no checksum where one cannot be read."""
    size, digests = 0, []
    with suppress(OSError):
        flat = [file for path in files for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if file.is_file()]
        size = sum(file.stat().st_size for file in flat)
        digests = [sha256(file) for file in flat]
    several = "".join(f"{digest}\n" for digest in digests)
    digest = digests[0] if len(digests) == 1 else hashlib.sha256(several.encode()).hexdigest()
    return LoggedFile(path=os.fspath(name), count=len(digests), size=size, checksum=f"sha256:{digest}" if digests else None)


def sha256(*paths: Path) -> str:
    """Of a file, or of several one after the other, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while data := stream.read(_READ_BYTES):
                digest.update(data)
    return digest.hexdigest()


def side_folder(path: Path) -> Path:
    """Where records wait for the next change of a file."""
    path = _resolved(path)
    return path.with_name(path.name + "-log")


def side_records(path: Path) -> dict[Path, tuple[LogRecord, str]]:
    """The records that wait beside a file, each with its text; what is damaged, or no record, is passed over."""
    found = {}
    with suppress(OSError):
        for file in sorted(side_folder(path).glob("*.json")):
            with suppress(OSError, ValueError):
                if file.is_file() and file.stat().st_size <= _MOST_BYTES:
                    text = file.read_text("utf-8")
                    found[file] = LogRecord.model_validate_json(text), text
    return found


def clear_partials(folder: Path, *, dry_run: bool = False, force: bool = False) -> list[Path]:
    """Remove records that were not completed from a folder, and give their paths.

    Parameters
    ----------
    folder : Path
    dry_run : bool
        Only tell.
    force : bool
        Those as well that have changed a moment ago.
    """
    gone = []
    with suppress(OSError):
        for file in sorted(folder.glob(".*.partial")):
            with suppress(OSError):
                if _PARTIAL.fullmatch(file.name) and (force or time.time() - file.lstat().st_mtime >= _PARTIAL_SECONDS):
                    if not dry_run:
                        file.unlink()
                    gone.append(file)
    return gone


def _leave(draft: Draft, error: BaseException | None) -> None:
    """Put the record beside the file; else, of an operation that is done, beside what it has made."""
    # Whatever goes wrong here is no reason to fail.
    with suppress(Exception):
        # One that is in the middle of a change is known from when it was opened.
        if not (draft.opened and draft.path.exists()) and not _is_hdf5(draft.path):
            return
        record = draft.record(error)
        try:
            _write(side_folder(draft.path), f"{record.name}.json", record)
        except OSError:
            if record.output is not None:
                output = Path(draft._folder, record.output.path)
                _write(output.parent, f"{output.name}.log.json", record)


def _write(folder: Path, name: str, record: LogRecord) -> None:
    """Make a file that is there with all its text, or not at all."""
    partial = folder / f".{record.name}.partial"
    for attempt in range(_ATTEMPTS):
        folder.mkdir(exist_ok=True)
        try:
            partial.write_text(record.model_dump_json(indent=1) + "\n", "utf-8")
            break
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise
    try:
        partial.replace(folder / name)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _resolved(path: Path) -> Path:
    # A log belongs to the file, and not to the links that lead to it.
    return Path(path).resolve()


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_HDF5)) == _HDF5


def _folder() -> str:
    with suppress(OSError):
        return str(Path.cwd())
    return ""  # it was removed


@cache
def _user() -> str:
    # Of a user without a name, in a container, there is at best a number.
    with suppress(KeyError, OSError, ImportError):
        return getpass.getuser()
    return str(os.getuid()) if hasattr(os, "getuid") else ""


@cache
def _host() -> str:
    with suppress(OSError):
        return socket.gethostname()
    return ""


@cache
def current_versions() -> Mapping[str, str]:
    """Of this program, its libraries, Python and the platform."""
    import h5py

    found = {"lsfm-core": "napari-lsfm", **{name: name for name in _LIBRARIES}}
    versions = {}
    for name, distribution in found.items():
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(distribution)
    return versions | {
        "HDF5": h5py.version.hdf5_version,
        "Python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
