"""Opening a file by its name, or by its XML's, and which file a name stands for."""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from lsfm_core.arrays import ChunkCache
from lsfm_core.confinement import is_inside
from lsfm_core.durable import DetachedFile, has_locks, is_marked, recover
from lsfm_core.errors import BusyError, DamagedError, FormatError, InputError, MissingError, StorageError, check_file
from lsfm_core.store import _paths
from lsfm_core.store._xml import parse_xml, read_xml
from lsfm_core.store.file import LsfmFile

__all__ = ["named_xml", "open_lsfm", "target_path"]


def open_lsfm(
    path: str | os.PathLike[str],
    *,
    cache: ChunkCache | None = None,
    max_read_bytes: int | None = None,
    detached: bool = False,
) -> LsfmFile:
    """Open a file for reading: ours, lsfmpy's, or any BigDataViewer HDF5; also by its XML.

    Parameters
    ----------
    path : path
        ``.h5``, or a BigDataViewer ``.xml`` that leads to it: then registrations, voxel sizes and names are those of this XML, and
        otherwise those of the one beside the file that has its stem.
    cache : ChunkCache, optional
        To share decoded chunks, and their limit in bytes, between files.
    max_read_bytes : int, optional
        Make ``np.asarray`` of a larger view an error.
    detached : bool
        Keep no writer away. Voxels are then those from before a change until it is complete; a channel that was replaced or
        removed cannot be read after it.

    Raises
    ------
    FormatError
        If it is no HDF5 file, or has neither our structure nor BigDataViewer's; `DamagedError` if it cannot be read as HDF5.
    StorageError
        If it cannot be read. `MissingError` if it is not there, `BusyError` if a writer is at work.
    """
    target, xml = Path(path), named_xml(path)
    if xml is not None:
        target = _hdf5_of_xml(xml)
    check_file(path if target == Path(path) else target)
    try:
        recover(target)
    except BusyError:
        if not detached:
            raise
    # In the middle of a change it has another signature for all but us.
    if not h5py.is_hdf5(target) and not is_marked(target):
        raise FormatError(f"{target}: not an HDF5 file; lsfm-core write FILE.h5 --image puts an image into one")
    try:
        # Where no lock keeps writers away from readers, only a detached one sees what is done to the file meanwhile.
        opened = DetachedFile(target) if detached or not has_locks(target) else h5py.File(target, "r")
        file = LsfmFile(target, opened, cache or ChunkCache(), max_read_bytes, xml)
        known = _paths.LSFM in file.h5 or any(
            isinstance(file.h5.get(_paths.setup(setup)), h5py.Group) and _paths.RESOLUTIONS in file.h5[_paths.setup(setup)]
            for setup in file.setups
        )
    except BlockingIOError as error:
        raise BusyError(f"{target}: another program is writing to it: try again when it is done") from error
    except StorageError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if "locking flag" in str(error):  # in this process, which holds the lock itself
            raise BusyError(f"{target}: is being repacked: try again when it is done") from error
        if getattr(error, "errno", None):
            raise StorageError(f"{target}: cannot be opened as HDF5: {error}") from error
        raise DamagedError(f"{target}: cannot be opened as HDF5: the file is damaged: {error}") from error
    if not known:
        file.close()
        raise FormatError(
            f"{target}: HDF5, but with neither /LSFM nor BigDataViewer's sNN/resolutions inside: not a file for lsfm-core"
        )
    return file


def target_path(path: str | os.PathLike[str]) -> Path:
    """The HDF5 file that is meant by a name under which something is to be written: an XML that is there stands for its file.

    Raises
    ------
    InputError
        If no file of ours can have that name.
    MissingError, FormatError
        If the XML's file is not there, or it cannot be read.
    """
    target = Path(path)
    if not os.fspath(path) or target.is_dir():
        raise InputError(f"{os.fspath(path) or repr('')}: is a folder, not a file: name one in it, such as {target / 'brain.h5'}")
    if target.suffix.lower() == ".xml":
        if not target.exists():
            raise MissingError(
                f"{target}: no such file: name the HDF5 file, {target.with_suffix('.h5')}; its XML is made beside it"
            )
        return _hdf5_of_xml(target)
    # One that is there was named by somebody else.
    if target.suffix.lower() not in (".h5", ".hdf5") and not h5py.is_hdf5(target) and not is_marked(target):
        raise InputError(f"{target}: is no name of an HDF5 file: it ends in .h5 or .hdf5")
    return target


def named_xml(path: str | os.PathLike[str]) -> Path | None:
    """The BigDataViewer XML that a name under which a file is opened stands for, or None."""
    return Path(path) if Path(path).suffix.lower() == ".xml" else None


def _hdf5_of_xml(path: Path) -> Path:
    check_file(path)
    content = parse_xml(read_xml(path), str(path))
    # Programs on Windows write its separators. Without this, a name that has a backslash in it.
    spellings = dict.fromkeys(Path(content.base, content.hdf5).as_posix().replace(*pair) for pair in (("", ""), ("\\", "/")))
    places = [Path(os.path.normpath(path.parent / spelling)) for spelling in spellings]
    target = next((place for place in places if place.is_file()), places[-1])
    # An XML from a stranger must not make us open files elsewhere.
    if not is_inside(target, path):
        raise FormatError(
            f"{path}: its HDF5 file {content.hdf5} lies outside its folder: allow it with "
            "--allow-outside, or open the HDF5 file itself"
        )
    if not target.is_file():
        raise MissingError(f"{path}: its HDF5 file {content.hdf5} is missing")
    return target
