"""NIfTI out, streamed in slabs along the last axis (the file's slowest)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import nibabel
import numpy as np
import numpy.typing as npt
from isal import igzip_threaded

from lsfm_core.errors import InputError
from lsfm_core.formats._output import new_file
from lsfm_core.geometry import Space

__all__ = ["NiftiSink", "nifti_sink"]

_SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT: the world is the specimen's own


class NiftiSink:
    """Takes slabs along axis 2, in order."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, slab: npt.NDArray[Any]) -> None:
        """Append an array (n0, n1, planes); NIfTI runs fastest along axis 0."""
        self._file.write(memoryview(np.ascontiguousarray(slab.T)).cast("B"))


@contextmanager
def nifti_sink(path: Path, space: Space, dtype: np.dtype[Any], *, overwrite: bool, threads: int) -> Iterator[NiftiSink]:
    """Make a .nii or .nii.gz file with sform and qform in mm.

    Raises
    ------
    InputError
        If NIfTI has no such voxel type.
    ExistsError, StorageError
    """
    header = _header(path, space, dtype)
    with new_file(path, overwrite) as partial:
        if path.name.endswith(".gz"):
            file = cast(IO[bytes], igzip_threaded.open(partial, "wb", compresslevel=1, threads=threads))
        else:
            file = open(partial, "wb")  # noqa: SIM115
        with file:
            file.write(header)
            yield NiftiSink(file)


def _header(path: Path, space: Space, dtype: np.dtype[Any]) -> bytes:
    kind = nibabel.Nifti1Header if max(space.shape) < 2**15 else nibabel.Nifti2Header
    header = kind()
    try:
        header.set_data_dtype(dtype)
    except nibabel.spatialimages.HeaderDataError as error:
        raise InputError(f"{path}: NIfTI cannot hold voxels of type {dtype}: export to another format") from error
    header.set_data_shape(space.shape)
    header.set_sform(space.world_from_voxel, code=_SCANNER)
    header.set_qform(space.world_from_voxel, code=_SCANNER)
    header.set_xyzt_units("mm")
    # Single-file NIfTI: four bytes that say "no extensions" stand before the data.
    header["vox_offset"] = header.sizeof_hdr + 4
    return cast(bytes, header.binaryblock) + b"\0\0\0\0"
