"""The log inside a file: JSON texts of ours, lsfmpy's entries, and what waits beside the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np

from lsfm_core.hdf5_links import inside
from lsfm_core.provenance import LogRecord, clear_partials, side_folder, side_records
from lsfm_core.store import _paths

__all__ = ["add_records", "drop_merged", "merge_log", "read_log"]

# HDF5 keeps at most 64 KiB in an object's header.
_COMPACT_BYTES = 60_000
_LEGACY_NAME = re.compile(r"(\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d)_(.*?)\d*$")
_LEGACY_CHANNEL = re.compile(r"^channel_name='(.*)'$", re.MULTILINE)
_LEGACY_COMMAND = re.compile(r"^cmdline=(.*\S)", re.MULTILINE)


def read_log(h5: h5py.File, path: Path) -> tuple[LogRecord, ...]:
    """All records, inside and beside the file, by time."""
    found = {record.name: record for record in _stored(h5, path)}
    found |= {record.name: record for record, _ in side_records(path).values()}
    return tuple(sorted(found.values(), key=lambda record: (record.time, record.name)))


def merge_log(h5: h5py.File, path: Path, record: LogRecord) -> list[Path]:
    """Put a record into an open file, with those that wait beside it.

    Returns
    -------
    list of Path
        Files beside it that are of no more use once the change is committed.
    """
    group = h5.require_group(_paths.LOG)
    waiting = side_records(path)
    for name, text in [(record.name, record.model_dump_json()), *((other.name, text) for other, text in waiting.values())]:
        # One that died between its commit and `drop_merged` has left its records here as well.
        if name not in group:
            _put(group, name, text)
    return list(waiting)


def add_records(h5: h5py.File, records: Sequence[LogRecord]) -> None:
    """Put another file's records into an open file; lsfmpy's stay what it wrote."""
    group = h5.require_group(_paths.LOG)
    for record in records:
        if record.name not in group:
            _put(group, record.name, record.text or record.model_dump_json())


def drop_merged(path: Path, files: Sequence[Path]) -> None:
    """Remove records that are now in the file; any that stay, since somebody holds them open, are known by their names."""
    for file in files:
        with suppress(OSError):
            file.unlink()
    clear_partials(side_folder(path))
    with suppress(OSError):
        side_folder(path).rmdir()


def _put(group: h5py.Group, name: str, text: str) -> None:
    """Store a text; a short one in its object's header, which spares the journal the pages of HDF5's heap of texts."""
    data = np.bytes_(text.encode())
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.COMPACT if data.itemsize < _COMPACT_BYTES else h5py.h5d.CONTIGUOUS)
    kind = h5py.h5t.py_create(h5py.string_dtype("utf-8", data.itemsize), logical=True)
    node = h5py.h5d.create(group.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR), layout)
    node.write(h5py.h5s.ALL, h5py.h5s.ALL, np.asarray(data), mtype=kind)


def _stored(h5: h5py.File, path: Path) -> Iterator[LogRecord]:
    group = h5.get(_paths.LOG)
    if not isinstance(group, h5py.Group):
        return
    for name, node in group.items():
        if not isinstance(node, h5py.Dataset) or node.shape != () or node.dtype.kind not in "SO":
            continue
        text = inside(node, path)[()]
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        legacy = _LEGACY_NAME.match(name)
        if legacy is None:
            with suppress(ValueError):
                yield LogRecord.model_validate_json(text)
        else:
            yield _legacy_record(name, legacy[1], legacy[2], text)


def _legacy_record(name: str, time: str, operation: str, text: str) -> LogRecord:
    channel, command = _LEGACY_CHANNEL.search(text), _LEGACY_COMMAND.search(text)
    return LogRecord(
        name=name,
        time=datetime.strptime(time, "%Y-%m-%d_%H:%M:%S").replace(tzinfo=UTC),
        operation=operation,
        channel=channel[1] if channel else None,
        command=command[1] if command else None,
        text=text,
    )
