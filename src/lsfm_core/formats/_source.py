"""What every input format offers to the ingest: planes, one after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.geometry import Shape3

__all__ = ["FileRecord", "Source"]


@dataclass(frozen=True)
class FileRecord:
    """A file whose bytes went into a plane: name, size in bytes, CRC-32."""

    name: str
    size: int
    crc32: int


class Source(ABC):
    """A volume that gives its planes (axis 0) on request.

    Attributes
    ----------
    name : str
        For messages.
    shape : tuple of 3 int
        Planes, rows, columns.
    dtype : numpy.dtype
        Native byte order.
    """

    name: str
    shape: Shape3
    dtype: np.dtype[Any]

    @abstractmethod
    def read_plane(self, index: int, out: npt.NDArray[Any]) -> FileRecord | None:
        """Fill `out` (rows, columns) with plane `index`; called from several threads at once.

        Returns
        -------
        FileRecord or None
            The file that was read, where a plane has one of its own.

        Raises
        ------
        SourceError
            If the plane is missing, damaged, or not like the others.
        """

    def close(self) -> None:
        """Let go of open files."""
