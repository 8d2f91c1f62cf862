"""What is known of a file that went into an image."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FileRecord"]


@dataclass(frozen=True)
class FileRecord:
    """A file whose bytes went into an image: name, size in bytes, CRC-32."""

    name: str
    size: int
    crc32: int
