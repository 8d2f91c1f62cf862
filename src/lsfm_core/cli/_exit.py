"""Exit codes, which scripts rely on: docs/cli.md promises them."""

from __future__ import annotations

import errno
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

#: Why a file could not be read that may well be whole: what a format makes of it is no bad input.
_OF_THE_SYSTEM = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT})


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
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _OF_THE_SYSTEM:
            return cls.FAILED
        if isinstance(error, (InputError, SourceError, FormatError, MissingError)):
            return cls.INPUT
        return cls.FAILED
