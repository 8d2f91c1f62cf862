"""How far an ingest has come, and what its image was when it began."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

from isal import isal_zlib

from lsfm_core.errors import InputError
from lsfm_core.records import FileRecord

__all__ = ["DIGESTS", "IngestState", "digest_of", "stamps_of"]

#: How many digests there are.
DIGESTS = 2**256
#: What may stand beside an image and change with the ingest.
_NO_IMAGES = frozenset({".h5", ".hdf5", ".xml", ".partial"})


@dataclass
class IngestState:
    """How far an ingest has come: what a checkpoint has to note, besides what is in the file.

    Attributes
    ----------
    planes : int
        Planes of the source that are done.
    records : list of FileRecord
        The files that they came from.
    non_finite : int
        Voxels among them that are NaN or infinite.
    stored_bytes : int
        Encoded bytes that were written, of all levels.
    stamps : dict of str to (int, int)
        Size and time of last change, in ns, of each file of the image when the ingest began.
    digest : int
        Sum of `digest_of` level, first voxel and CRC-32 of every chunk that was written, modulo `DIGESTS`: whatever their order.
    """

    planes: int = 0
    records: list[FileRecord] = field(default_factory=list)
    non_finite: int = 0
    stored_bytes: int = 0
    digest: int = 0
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)

    def to_note(self, fingerprint: str) -> bytes:
        return json.dumps({"fingerprint": fingerprint, **asdict(self)}).encode()

    @classmethod
    def from_note(cls, note: bytes, fingerprint: str, path: Path) -> IngestState:
        values = json.loads(note)
        if values.pop("fingerprint") != fingerprint:
            raise InputError(
                f"{path}: the ingest that was interrupted had another image or other options: repeat its command line, or leave "
                "out --resume to undo it and start anew"
            )
        stamps = {name: (size, time) for name, (size, time) in values.get("stamps", {}).items()}
        return cls(**{**values, "records": [FileRecord(**record) for record in values["records"]], "stamps": stamps})

    def check_unchanged(self, stamps: Mapping[str, tuple[int, int]], image: str, path: Path) -> None:
        """Refuse to go on with an image of which something that was read is not what it was.

        Parameters
        ----------
        stamps : mapping
            As `IngestState.stamps`, of now.
        image : str
            For messages.
        path : Path

        Raises
        ------
        InputError
        """
        records = {record.name: record for record in self.records}
        for name, stamp in self.stamps.items():
            record = records.get(Path(name).name)
            # Of a series, files that were not read yet may change; and one that was only copied anew is the same.
            if stamps.get(name) == stamp or (records and record is None):
                continue
            if record is not None and name in stamps and _is_same(Path(name), record):
                continue
            raise InputError(
                f"{path}: {name} has changed since the interrupted ingest read it, so that old and new planes of {image} would be "
                "mixed: leave out --resume to start anew"
            )


def stamps_of(image: object) -> dict[str, tuple[int, int]]:
    """Size and time of last change, in ns, of the files of an image; nothing where it is none of files."""
    if not isinstance(image, str | os.PathLike):
        return {}
    place = Path(image)
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file())
    else:
        # A name with a pattern stands for files of its folder, and a header may have its voxels in a file of the same stem.
        alike = place.parent.glob(f"{escape(place.stem)}.*" if place.is_file() else f"*{escape(place.suffix)}")
        files = sorted(file for file in alike if file.is_file() and file.suffix.lower() not in _NO_IMAGES)
    status = {str(file): file.stat() for file in files}
    return {name: (one.st_size, one.st_mtime_ns) for name, one in status.items()}


def _is_same(file: Path, record: FileRecord) -> bool:
    crc, size = 0, 0
    with suppress(OSError), file.open("rb") as stream:
        while data := stream.read(2**22):
            crc, size = isal_zlib.crc32(data, crc), size + len(data)
    return (size, crc) == (record.size, record.crc32)


def digest_of(*facts: Any) -> int:
    """SHA-256 of facts that JSON can hold, as a number."""
    return int.from_bytes(hashlib.sha256(json.dumps(facts).encode()).digest(), "big")
