"""What stands beside a file while it is changed, under which names, and how it is taken away; never beside a link to the file."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from lsfm_core.confinement import is_inside
from lsfm_core.durable._disk import reason_of, sync_directory, write_file
from lsfm_core.durable._lock import lock_path
from lsfm_core.errors import LsfmError, StorageError

__all__ = [
    "checkpoint_path",
    "clear",
    "journal_path",
    "opened",
    "partial_path",
    "place_xml",
    "real_path",
    "remove_parts",
    "telling",
    "unnamed",
    "unsettled",
    "waiting_xml",
    "waits",
    "xml_partial_path",
    "xml_path",
]

#: Begins the comment at the end of a waiting XML that tells where it belongs, from the HDF5 file's folder.
_PLACE = "<!--lsfm-core: for "


def journal_path(path: Path) -> Path:
    """Where the journal of a file stands."""
    real = real_path(path)
    return real.with_name(real.name + "-journal")


def checkpoint_path(path: Path) -> Path:
    """Where the way back to the latest checkpoint stands."""
    real = real_path(path)
    return real.with_name(real.name + "-checkpoint")


def partial_path(path: Path) -> Path:
    """Where a file is written before it exists."""
    real = real_path(path)
    return real.with_name(real.name + ".partial")


def xml_partial_path(path: Path) -> Path:
    """Where the XML of a file waits for the change that it goes with."""
    return partial_path(xml_path(path))


def xml_path(path: Path) -> Path:
    return real_path(path).with_suffix(".xml")


def real_path(path: Path) -> Path:
    return Path(os.path.realpath(path))


def unnamed(path: Path) -> list[Path]:
    """Where small files are written before they have their names."""
    return [place.with_name(place.name + ".new") for place in (journal_path(path), checkpoint_path(path), xml_partial_path(path))]


def waits(path: Path) -> bool:
    """Whether an interrupted writer has left what it can be resumed from."""
    partial = partial_path(path)
    left = journal_path(path).exists() if path.exists() else partial.exists() and partial.stat().st_size > 0
    return left and checkpoint_path(path).exists()


def unsettled(folder: Path) -> list[Path]:
    """The files in a folder beside which something stands that an interrupted writer has left, or a writer is using."""
    endings = [place(Path("x")).name[1:] for place in (journal_path, checkpoint_path, partial_path, lock_path)]
    endings += [f"{ending}.new" for ending in endings[:2]]
    found = {
        Path(folder, entry.name.removesuffix(ending))
        for ending in endings
        for entry in os.scandir(folder)
        if entry.name.endswith(ending) and entry.is_file() and Path(entry.name.removesuffix(ending)).suffix in (".h5", ".hdf5")
    }
    return sorted(found)


def opened(path: Path) -> io.FileIO:
    """A file to be written, or its partial one if it does not exist, which is made then."""
    target = real_path(path) if path.exists() else partial_path(path)
    try:
        return open(target, "r+b" if target.exists() else "x+b", buffering=0)
    except OSError as error:
        raise StorageError(f"{path}: cannot be opened for writing: {reason_of(error)}") from error


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Tell of what goes wrong before a file is changed as errors of ours."""
    try:
        yield
    except OSError as error:
        if isinstance(error, LsfmError):
            raise
        raise StorageError(
            f"{path}: what stands beside it cannot be put in order: {reason_of(error)}; nothing was changed"
        ) from error


def waiting_xml(data: bytes, path: Path, xml: Path) -> bytes:
    """What waits at `xml_partial_path` of `path` for an XML that need not have the file's stem: it says itself where it belongs."""
    xml = real_path(xml)
    if xml == xml_path(path):
        return data
    place = quote(Path(os.path.relpath(xml, real_path(path).parent)).as_posix())
    return data.rstrip() + f"\n{_PLACE}{place}-->\n".encode("ascii")


def place_xml(path: Path) -> None:
    """Let the XML that waits for a change take its place, unless somebody has done it meanwhile."""
    partial = xml_partial_path(path)
    with suppress(FileNotFoundError):
        data, _, last = partial.read_bytes().rstrip().rpartition(b"\n")
        if not (last.startswith(_PLACE.encode()) and last.endswith(b"-->")):
            os.replace(partial, xml_path(path))
            return
        xml = real_path(path).parent / unquote(last[len(_PLACE) : -3].decode("ascii", "replace"))
        # Written by nobody but us it is the one that was read before; whatever else it may name stays as it is.
        is_ours = xml.suffix.lower() == ".xml" and xml.is_file() and is_inside(real_path(path), xml)
        if is_ours and b"<SpimData" in xml.read_bytes()[:4096]:
            write_file(xml, data + b"\n")
        partial.unlink()


def remove_parts(path: Path) -> None:
    checkpoint_path(path).unlink(missing_ok=True)
    for place in (*unnamed(path), xml_partial_path(path), partial_path(path)):
        place.unlink(missing_ok=True)


def clear(path: Path) -> None:
    """Remove everything that stands beside a file, the journal last."""
    remove_parts(path)
    journal_path(path).unlink(missing_ok=True)
    sync_directory(real_path(path).parent)
