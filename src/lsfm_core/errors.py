"""Everything that lsfm_core raises on purpose.

    LsfmError
    ├── InputError            (ValueError)       a request that cannot be carried out as it was made
    │   ├── OrientationError                     letters that do not name three different body axes
    │   ├── UnknownChannelError (KeyError)       no such channel in the file
    │   └── UnknownRegionError  (KeyError)       no such region in the channel's label table
    ├── SourceError           (ValueError)       an input image is missing, damaged, or not what it claims
    │   └── ContradictionError                   a registration is not what its program's own result tells
    ├── FormatError           (ValueError)       a file is not ours, not BigDataViewer's, or is broken
    │   ├── DamagedError                         an HDF5 file is cut short or broken
    │   └── ChecksumError                        stored data do not match their checksum
    ├── ExistsError           (FileExistsError)  a channel or an output is there already
    ├── StorageError          (OSError)          reading or writing failed: disk full, no permission
    │   ├── BusyError                            another process holds the file
    │   ├── UnfinishedError                      a file is in the middle of a change that only its user can settle
    │   └── MissingError (FileNotFoundError)     there is no such file or folder
    ├── MemoryBudgetError     (MemoryError)      the job cannot be done within the memory given
    └── CancelledError                           the caller's cancel token was set

Each message names the file, what is wrong with it, and what to do. Each class also derives from the built-in that callers would
expect, so that ``except ValueError`` keeps working for those who do not know this tree.
"""

from __future__ import annotations

import os
from pathlib import Path


class LsfmError(Exception):
    """Base of every error that lsfm_core raises on purpose."""

    def __str__(self) -> str:
        # KeyError would show its message in quotation marks.
        return str(self.args[0]) if self.args else ""


class InputError(LsfmError, ValueError):
    """A request that cannot be carried out as it was made."""


class OrientationError(InputError):
    """Letters that do not name three different body axes."""


class UnknownChannelError(InputError, KeyError):
    """The file has no channel of that name."""


class UnknownRegionError(InputError, KeyError):
    """The label table has no region of that id, acronym or name."""


class SourceError(LsfmError, ValueError):
    """An input image is missing, damaged, or not what it claims to be."""


class ContradictionError(SourceError):
    """A registration whose transforms do not make the result that its program has left."""


class FormatError(LsfmError, ValueError):
    """A file is neither ours nor BigDataViewer's, or its structure is broken."""


class DamagedError(FormatError):
    """An HDF5 file that is cut short or broken, so that nobody can tell whose it is."""


class ChecksumError(FormatError):
    """Stored data do not match their checksum."""


class ExistsError(LsfmError, FileExistsError):
    """A channel or an output file is there already."""


class StorageError(LsfmError, OSError):
    """Reading or writing failed: disk full, no permission, device gone."""


class BusyError(StorageError):
    """Another process holds the file."""


class UnfinishedError(StorageError):
    """A file in the middle of a change whose journal is missing, damaged or another's: only its user can tell what is right."""


class MissingError(StorageError, FileNotFoundError):
    """There is no such file or folder."""


class MemoryBudgetError(LsfmError, MemoryError):
    """The job cannot be done within the memory that it was given."""


class CancelledError(LsfmError):
    """The caller's cancel token was set."""


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse a name under which there is no file, or none that may be read.

    Raises
    ------
    MissingError
        That says what is there instead.
    StorageError
        If it cannot be read.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        is_folder = name and Path(path).is_dir()
        raise MissingError(f"{name or repr(name)}: {'is a folder, not a file' if is_folder else 'no such file'}")
    try:
        # Libraries tell of this in words of their own, or not at all.
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise StorageError(f"{name}: cannot be read: {error.strerror}") from error
