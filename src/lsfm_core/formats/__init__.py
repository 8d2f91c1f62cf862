"""Others' files: each module reads one format as a source of planes, or writes one as a sink."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lsfm_core.errors import InputError, SourceError
from lsfm_core.formats._channels import pick_channel
from lsfm_core.formats._convert import converted
from lsfm_core.formats._output import new_file
from lsfm_core.formats._source import Source
from lsfm_core.formats.arrays import ArrayLike, ArraySource, PlaneFunction
from lsfm_core.geometry import Space
from lsfm_core.pyramid import Kind

if TYPE_CHECKING:
    from lsfm_core.formats.nifti import NiftiSink

__all__ = ["PlaneFunction", "Source", "new_file", "open_sink", "open_source"]

_NIFTI = (".nii", ".nii.gz")
_NRRD = (".nrrd", ".nhdr")
_META = (".mha", ".mhd")
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


def open_source(
    image: str | os.PathLike[str] | ArrayLike | Source, *, channel: int | str | None = None, kind: Kind = "image"
) -> Source:
    """Open an image for ingest.

    Parameters
    ----------
    image : path, array-like or Source
        A TIFF series (its folder, one of its files, a glob, or a printf pattern); a TIFF, NIfTI, NRRD or MetaImage file; a Zarr or
        OME-Zarr folder; an array (planes, rows, columns), lazy or not; or a `PlaneFunction`.
    channel : int or str, optional
        Index or name, for files that hold several.
    kind : {"image", "labels", "vectors"}
        Labels must be whole numbers; floats are taken if they are, and become uint32. Vectors are displacement fields; whatever the
        file's convention, they are delivered as RAS mm, in the order R, A, S.

    Raises
    ------
    InputError
        If nothing is there, it is not clear which image is meant, or the format cannot hold what was asked for.
    SourceError
        If the file is damaged, or not what was asked for.
    """
    if not isinstance(image, (str, os.PathLike)):
        if isinstance(image, Source):
            source = image
        elif isinstance(image, ArrayLike):
            source = ArraySource(image, vectors=kind == "vectors")
        else:
            raise InputError(
                f"{type(image).__name__}: is neither a path nor an array: wrap functions and iterators in PlaneFunction"
            )
        _check_channel(source, channel)
    else:
        source = _open_path(Path(image), channel, kind)
    if source.components != (3 if kind == "vectors" else 1):
        source.close()
        raise SourceError(f"{source.name}: has {source.components} component(s) per voxel, which does not fit kind {kind}")
    return converted(source, kind)


def _open_path(path: Path, channel: int | str | None, kind: Kind) -> Source:
    name = path.name.lower()
    is_zarr = path.is_dir() and (name.endswith(".zarr") or any((path / file).is_file() for file in _ZARR_FILES))
    # Each format's library is imported only where it is used: some take longer than all the rest.
    if name.endswith(_NIFTI + _NRRD + _META):
        if name.endswith(_NIFTI):
            from lsfm_core.formats.nifti import open_nifti as open_file
        elif name.endswith(_NRRD):
            from lsfm_core.formats.nrrd import open_nrrd as open_file
        else:
            from lsfm_core.formats.metaimage import open_metaimage as open_file
        if not path.is_file():
            raise InputError(f"{path}: there is no such file")
        source = open_file(path, kind)
        _check_channel(source, channel)
        return source
    if kind == "vectors":
        raise InputError(f"{path}: displacement fields are read from NIfTI, NRRD and MetaImage files, and from arrays")
    if is_zarr:
        from lsfm_core.formats.ome_zarr import open_zarr

        return open_zarr(path, channel)
    from lsfm_core.formats.tiff_stack import open_tiff

    return open_tiff(path, channel)


def _check_channel(source: Source, channel: int | str | None) -> None:
    """Refuse to pick a channel where there is but one, unless it is that one."""
    if channel is None:
        return
    try:
        pick_channel(source.name, ("",), channel)
    except InputError:
        source.close()
        raise


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
    if path.name.lower().endswith(_NIFTI):
        # Not at the top: nibabel takes 0.1 s to import, and most commands need no NIfTI.
        from lsfm_core.formats.nifti import nifti_sink

        return nifti_sink(path, space, dtype, overwrite=overwrite, threads=threads)
    raise InputError(f"{path}: unknown output format: use .nii or .nii.gz")
