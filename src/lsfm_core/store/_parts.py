"""The other HDF5 files that a data set is made of: BigDataViewer's partitions, to which a master file has external links.

HDF5 follows such links by itself, but to wherever they point, and not where a file is read through Python as a viewer's is. So they
are followed here, and only within the data set's folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import h5py

from lsfm_core.confinement import is_inside
from lsfm_core.durable import DetachedFile
from lsfm_core.errors import FormatError, LsfmError, StorageError
from lsfm_core.hdf5_links import inside

__all__ = ["Parts"]

#: More links one after the other are taken for a circle.
_MOST_LINKS = 16

#: `h5py.File` or `DetachedFile`.
_File: TypeAlias = Any


class Parts:
    """Finds datasets of an open file, wherever they lie.

    Parameters
    ----------
    path : Path
        Of the file.
    file : h5py.File or DetachedFile
        The others are opened likewise.

    Attributes
    ----------
    lost : dict of str to str
        Files that are missing or cannot be read, and what is wrong with them.
    """

    def __init__(self, path: Path, file: _File) -> None:
        self._path = path
        self._file = file
        self._others: dict[Path, _File | None] = {}
        self.lost: dict[str, str] = {}

    def find(self, place: str) -> tuple[h5py.Dataset, _File] | None:
        """A dataset, and the file that it lies in; None where there is none.

        Raises
        ------
        FormatError
            If it leads out of the data set's folder.
        """
        found = self._follow(self._file, self._path, place, 0)
        if found is None:
            return None
        dataset, file, path = found
        inside(dataset, path, own=path)
        if (dataset.is_virtual or dataset.external) and isinstance(file, DetachedFile):
            # What lies in files besides, HDF5 finds only through a file of its own.
            plain = self._others[Path(f"{path}:{dataset.name}")] = h5py.File(path, "r", locking=False)
            return plain[dataset.name], plain
        return dataset, file

    def close(self) -> None:
        """Close all files but the first."""
        for file in self._others.values():
            if file is not None:
                file.close()

    def _follow(self, file: _File, path: Path, place: str, links: int) -> tuple[h5py.Dataset, _File, Path] | None:
        if links > _MOST_LINKS:
            raise FormatError(f"{self._path}: {place}: too many links, one to the other")
        h5 = file.h5 if isinstance(file, DetachedFile) else file
        group, walked = h5py.h5g.open(h5.id, b"/"), ""
        parts = [part for part in place.split("/") if part not in ("", ".")]
        for index, part in enumerate(parts):
            name = part.encode("utf-8", "surrogateescape")
            if not isinstance(group, h5py.h5g.GroupID) or not group.links.exists(name):
                return None
            kind = group.links.get_info(name).type
            if kind == h5py.h5l.TYPE_HARD:
                group, walked = h5py.h5o.open(group, name), f"{walked}/{part}"
                continue
            target, rest = group.links.get_val(name), "/".join(parts[index + 1 :])
            if kind == h5py.h5l.TYPE_EXTERNAL:
                other = self._other(path, os.fsdecode(target[0]))
                return None if other is None else self._follow(*other, f"{_text(target[1])}/{rest}", links + 1)
            start = "" if target.startswith(b"/") else f"{walked}/"
            return self._follow(file, path, f"{start}{_text(target)}/{rest}", links + 1)
        return (h5py.Dataset(group), file, path) if isinstance(group, h5py.h5d.DatasetID) else None

    def _other(self, path: Path, name: str) -> tuple[_File, Path] | None:
        place = path.resolve().parent / name
        if not is_inside(place, self._path):
            raise FormatError(
                f"{self._path}: a link leads to {place}, outside of the folder of the data set: move it there, or allow it with "
                "--allow-outside"
            )
        if place not in self._others:
            try:
                if not place.is_file():
                    raise StorageError("is missing")
                self._others[place] = DetachedFile(place) if isinstance(self._file, DetachedFile) else h5py.File(place, "r")
            except (LsfmError, OSError, RuntimeError) as error:
                self._others[place] = None
                self.lost[name] = "is missing" if not place.is_file() else f"cannot be read: {error}"
        file = self._others[place]
        return None if file is None else (file, place)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
