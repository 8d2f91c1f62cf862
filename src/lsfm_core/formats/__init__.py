"""Others' files: each module reads one format as a source of planes, or writes one as a sink."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lsfm_core.errors import InputError
from lsfm_core.formats._source import FileRecord, Source
from lsfm_core.formats.tiff import TiffSeries, find_series
from lsfm_core.geometry import Space
from lsfm_core.pyramid import Kind

if TYPE_CHECKING:
    from lsfm_core.formats.nifti import NiftiSink

__all__ = ["FileRecord", "Source", "open_sink", "open_source"]


def open_source(image: Any, *, channel: int | str | None = None, kind: Kind = "image") -> Source:
    """Open an image for ingest: a TIFF series by its folder, one of its files, a glob, or a printf pattern.

    Raises
    ------
    InputError, SourceError
    """
    return TiffSeries(find_series(image))


def open_sink(
    path: Path, space: Space, dtype: np.dtype[Any], *, overwrite: bool, threads: int
) -> AbstractContextManager[NiftiSink]:
    """Make an output file, in the format that its name says; it takes slabs along axis 2, in order.

    Raises
    ------
    InputError
        For a name whose format is not known.
    ExistsError, StorageError
    """
    if path.name.lower().endswith((".nii", ".nii.gz")):
        # Not at the top: nibabel takes 0.1 s to import, and most commands need no NIfTI.
        from lsfm_core.formats.nifti import nifti_sink

        return nifti_sink(path, space, dtype, overwrite=overwrite, threads=threads)
    raise InputError(f"{path}: unknown output format: use .nii or .nii.gz")
