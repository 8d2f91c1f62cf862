"""Exit codes, which scripts rely on: docs/cli.md promises them."""

from __future__ import annotations

from enum import IntEnum

from lsfm_core.errors import (
    ChecksumError,
    ContradictionError,
    FormatError,
    InputError,
    LsfmError,
    MissingError,
    SourceError,
    UnfinishedError,
)

__all__ = ["Exit"]


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INPUT = 3
    INTEGRITY = 4
    INTERRUPTED = 130

    @classmethod
    def of(cls, error: LsfmError) -> Exit:
        """The code that tells of an error."""
        if isinstance(error, (ChecksumError, ContradictionError, UnfinishedError)):
            return cls.INTEGRITY
        if isinstance(error, (InputError, SourceError, FormatError, MissingError)):
            return cls.INPUT
        return cls.FAILED
