"""Others' files: each module reads one format as a source of planes, or writes one as a sink."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.durable import check_new, new_file, new_files, settle_outputs
from lsfm_core.errors import InputError, SourceError, StorageError, check_file
from lsfm_core.formats._channels import PlanesAre, pick_channel
from lsfm_core.formats._convert import converted
from lsfm_core.formats._field import FIELD_CONVENTIONS, FieldConvention, FieldSource, field_source
from lsfm_core.formats._grey import as_grey
from lsfm_core.formats._palette import with_palette
from lsfm_core.formats._sink import ALL_DTYPES, OutputFormat, OutputImage, Sink
from lsfm_core.formats._source import Source, cuts
from lsfm_core.formats.arrays import ArrayLike, ArraySource, PlaneFunction
from lsfm_core.progress import size_text
from lsfm_core.pyramid import Kind

__all__ = [
    "FIELD_CONVENTIONS",
    "OUTPUT_SUFFIXES",
    "FieldConvention",
    "OutputImage",
    "PlaneFunction",
    "PlanesAre",
    "Sink",
    "Source",
    "check_output",
    "check_plane",
    "cuts",
    "is_field",
    "kind_of",
    "open_sink",
    "open_source",
    "output_axis",
    "output_memory",
    "output_notes",
    "output_paths",
    "pick_channel",
    "write_plane",
]

#: What `open_sink` can write.
OUTPUT_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".tif", ".tiff", ".ome.tif", ".ome.tiff", ".ome.zarr", ".npy")

_NIFTI = (".nii", ".nii.gz")
_PAIR = (".hdr", ".img", ".hdr.gz", ".img.gz")
_NRRD = (".nrrd", ".nhdr")
_META = (".mha", ".mhd")
#: What a file is larger than its voxels at most: deflate's worst, the names and headers of many chunks.
_OVERHEAD = 0.01
_HEADER_BYTES = 2**14
_ZIPPED = (".zip", ".ozx")
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


def open_source(
    image: str | os.PathLike[str] | ArrayLike | Source,
    *,
    channel: int | str | None = None,
    kind: Kind = "image",
    field_convention: FieldConvention | None = None,
    judge: bool = True,
    planes_are: PlanesAre | None = None,
) -> Source:
    """Open an image for ingest.

    Parameters
    ----------
    image : path, array-like or Source
        A TIFF series (its folder, one of its files, a glob, or a printf pattern); a TIFF, NIfTI, NRRD, MetaImage or .npy file; a
        Zarr or OME-Zarr folder; an Imaris file; a dataset of an HDF5 file, ``file.h5:/path/to/dataset``, or the only one in it; an
        array (planes, rows, columns), lazy or not; or a `PlaneFunction`.
    channel : int or str, optional
        Name, or else index, for files that hold several.
    kind : {"image", "labels", "vectors", "components"}
        Labels must be whole numbers; floats are taken if they are, and become uint32. Vectors are displacement fields; whatever the
        file's convention, they are delivered as RAS mm, in the order R, A, S. Components are several values per voxel, as they are
        stored; what holds them beyond doubt is taken as such where an image was asked for, too: see `kind_of`.
    field_convention : FieldConvention, optional
        For vectors: what they mean; wins over what the file says. Default: what its header tells, checked against its numbers.
    judge : bool
        Whether vectors of unknown meaning are refused; who wants only their grid takes them as they are.
    planes_are : {"time", "channels"}, optional
        For TIFF files that have several time points or channels of a single plane each: these are the planes.

    Raises
    ------
    MissingError
        If nothing is there.
    InputError
        If it is not clear which image is meant, or the format cannot hold what was asked for.
    SourceError
        If the file is damaged, or not what was asked for.
    """
    if not isinstance(image, (str, os.PathLike)):
        if isinstance(image, Source):
            source = image
        elif isinstance(image, ArrayLike):
            source = ArraySource(image, kind=kind)
        else:
            raise InputError(
                f"{type(image).__name__}: is neither a path nor an array: wrap functions and iterators in PlaneFunction"
            )
        _check_channel(source, channel)
    elif not os.fspath(image):
        raise InputError("image: is empty: name a file or folder")
    else:
        settle_outputs(Path(image))
        source = _open_path(Path(image), channel, kind, planes_are)
    try:
        _check_components(source, kind)
    except SourceError:
        source.close()
        raise
    if kind == "vectors" and source.words is not None:
        source = field_source(
            source, source.words, field_convention, lambda: _open_path(Path(str(image)), channel, kind, planes_are), judge=judge
        )
    elif kind == "vectors" and field_convention is not None:
        source = FieldSource(source, field_convention)
    return converted(source, kind)


def kind_of(source: Source, kind: Kind) -> Kind:
    """What is made of a source that was opened as `kind`: an image with several values per voxel is of kind components."""
    return "components" if kind == "image" and source.components > 1 else kind


def _check_components(source: Source, kind: Kind) -> None:
    values = f"{source.components} value{'s' if source.components > 1 else ''} per voxel ({source.dtype})"
    if kind == "image" and source.components == 3 and source.dtype.kind == "f" and source.facts.get("kind") != "components":
        raise SourceError(
            f"{source.name}: has {values}, and does not tell whether they are displacements: say --kind vectors for a displacement "
            "field, or --kind components for anything else"
        )
    if kind == "components" and source.components == 1:
        raise SourceError(f"{source.name}: has {values}: say --kind image")
    if kind == "labels" and source.components > 1:
        raise SourceError(f"{source.name}: has {values}, labels are one whole number: save the ids as one")
    if kind == "vectors" and (source.components != 3 or source.dtype.kind != "f"):
        raise SourceError(f"{source.name}: is no displacement field: it has {values}, expected 3 floats: say --kind components")


def _open_path(path: Path, channel: int | str | None, kind: Kind, planes_are: PlanesAre | None) -> Source:
    name = path.name.lower()
    is_zarr = (path.is_dir() and (name.endswith(".zarr") or _is_zarr(path))) or (name.endswith(_ZIPPED) and path.is_file())
    # Each format's library is imported only where it is used: some take longer than all the rest.
    if name.endswith(_NIFTI + _PAIR + _NRRD + _META):
        if name.endswith(_NIFTI + _PAIR):
            from lsfm_core.formats.nifti import open_nifti as open_file
        elif name.endswith(_NRRD):
            from lsfm_core.formats.nrrd import open_nrrd as open_file
        else:
            from lsfm_core.formats.metaimage import open_metaimage as open_file
        check_file(path)
        source = open_file(path, kind)
        _check_channel(source, channel)
        return source
    from lsfm_core.formats.hdf5 import is_hdf5, open_hdf5, split_name

    inside = split_name(path)
    if inside is not None or is_hdf5(path):
        if kind == "vectors":
            raise InputError(
                f"{path}: displacement fields are not read from single HDF5 datasets: use NIfTI, NRRD or MetaImage files"
            )
        file, dataset = inside or (path, None)
        return open_hdf5(file, dataset, channel)
    if kind == "vectors" and not is_zarr:
        from lsfm_core.formats.brainreg import brainreg_files, open_brainreg

        files = brainreg_files(path)
        if files is not None:
            return open_brainreg(files)
    if name.endswith(".raw") and path.is_file():
        from lsfm_core.formats.mesospim import open_mesospim

        source = open_mesospim(path)
        _check_channel(source, channel)
    elif name.endswith(".npy") and path.is_file():
        from lsfm_core.formats.npy import open_npy

        source = open_npy(path, kind)
        _check_channel(source, channel)
    elif is_zarr:
        from lsfm_core.formats.ome_zarr import open_zarr

        source = open_zarr(path, channel, kind, planes_are)
    else:
        from lsfm_core.formats.tiff_stack import open_tiff

        source = open_tiff(path, channel, planes_are)
        source = with_palette(source, kind)
        if kind in ("image", "labels"):
            source = as_grey(source)
    if kind == "vectors" and source.facts.get("kind") != "vectors":
        source.close()
        raise InputError(
            f"{path}: displacement fields are read from NIfTI, NRRD and MetaImage files, from brainreg's "
            "deformation_field_0..2.tiff, from arrays, and from our own exports"
        )
    return source


def is_field(path: Path) -> bool:
    """Whether the name is that of a file which can hold a displacement field."""
    from lsfm_core.formats.brainreg import brainreg_files

    return path.name.lower().endswith(_NIFTI + _NRRD + _META) or brainreg_files(path) is not None


def _is_zarr(path: Path) -> bool:
    return any((path / file).is_file() for file in _ZARR_FILES)


def _check_channel(source: Source, channel: int | str | None) -> None:
    """Refuse to pick a channel where there is but one, unless it is that one."""
    if channel is None:
        return
    try:
        pick_channel(source.name, ("",), channel)
    except InputError:
        source.close()
        raise


def check_output(path: Path, image: OutputImage, *, overwrite: bool, makes_folder: bool = False) -> int:
    """Find out all that can be known before the work of writing an image begins.

    Parameters
    ----------
    path : Path
    image : OutputImage
    overwrite : bool
    makes_folder : bool
        Whether its folder will be made if it is not there.

    Returns
    -------
    int
        The array axis along which `open_sink` will want its slabs.

    Raises
    ------
    InputError
        If the name's ending is of no known format, or the format cannot hold the image's type.
    ExistsError
        If something of that name is there, and may not be replaced.
    StorageError
        If there is no folder for it, or too little room on the disk.
    """
    output = _output_format(path)
    if image.dtype.newbyteorder("=") not in output.dtypes:
        holds_all = "" if output.dtypes >= ALL_DTYPES else ": .npy and .ome.zarr can"
        raise InputError(f"{path}: {output.name} cannot hold voxels of type {image.dtype}{holds_all}")
    for name in output_paths(path):
        if not makes_folder or name.parent.is_dir():
            check_new(name, overwrite)
        if name.exists() and not (_is_zarr(name) if output.is_folder else name.is_file()):
            raise StorageError(f"{name}: is no {output.name} that could be replaced: choose another name")
    need = int(output.disk_bytes(path, image) * (1 + _OVERHEAD)) + _HEADER_BYTES
    free = shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir())).free
    if need > free:
        raise StorageError(
            f"{path}: may need {size_text(need)}, and {size_text(free)} are free on its disk: make room, or choose another folder"
        )
    return output.axis


def output_notes(path: Path, image: OutputImage) -> tuple[str, ...]:
    """What users should know of an image in the format that a name says."""
    return tuple(_output_format(path).notes(image))


@contextmanager
def open_sink(path: Path, image: OutputImage, *, overwrite: bool, threads: int, memory_bytes: int | None = None) -> Iterator[Sink]:
    """Make an output in the format that its name says; see docs/outputs.md.

    Parameters
    ----------
    path : Path
    image : OutputImage
    overwrite : bool
    threads : int
    memory_bytes : int, optional
        The budget of the whole process, of which the format takes `output_memory`.

    Nothing has its name until the block ends well and all planes were given; what was there before stays until then.

    Raises
    ------
    InputError, ExistsError, StorageError
        As `check_output` does; also if writing fails.
    """
    check_output(path, image, overwrite=overwrite)
    output = _output_format(path, memory_bytes)
    with new_files(output_paths(path), overwrite) as partials, output.open(partials, image, threads) as sink:
        yield sink
        sink.finish()


def check_plane(path: Path, dtype: np.dtype[Any]) -> None:
    """Find out whether planes of a type can be written under a name.

    Raises
    ------
    InputError
        If the format is unknown, or cannot hold the type.
    """
    name = path.name.lower()
    if name.endswith(".png"):
        if dtype.name not in ("uint8", "uint16"):
            raise InputError(f"{path}: PNG cannot hold pixels of type {dtype}: write a .tif file")
    elif not name.endswith((".tif", ".tiff")):
        raise InputError(f"{path}: unknown format of a plane: use .tif or .png")
    elif dtype.newbyteorder("=") not in ALL_DTYPES:
        raise InputError(f"{path}: TIFF cannot hold pixels of type {dtype}: make them integers or floats")


def write_plane(path: Path, plane: npt.NDArray[Any], *, pixel_size_mm: tuple[float, float] | None, overwrite: bool) -> None:
    """Write one plane as a TIFF or PNG file.

    Parameters
    ----------
    path : Path
        ``.tif``, ``.tiff`` or ``.png``.
    plane : array (rows, columns) or (rows, columns, values)
        Three values are colours, four of uint8 or uint16 colours with opacity.
    pixel_size_mm : tuple of 2 float, optional
        Along rows and columns, which TIFF keeps: the distance from one row to the next, and from one column to the next.
    overwrite : bool

    Raises
    ------
    InputError
        As `check_plane`; also if the array is no plane.
    ExistsError, StorageError
    """
    check_plane(path, plane.dtype)
    if plane.ndim not in (2, 3):
        raise InputError(f"{path}: an array of shape {plane.shape} is no plane: expected rows, columns, or rows, columns, values")
    if path.name.lower().endswith(".png") and plane.shape[2:] not in ((), (3,), (4,)):
        raise InputError(f"{path}: PNG holds 1, 3 or 4 values per pixel, not {plane.shape[2]}: write a .tif file")
    if path.name.lower().endswith(".png"):
        import imagecodecs

        with new_file(path, overwrite) as partial:
            partial.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(plane, plane.dtype.newbyteorder("="))))
    else:
        from lsfm_core.formats.tiff_output import write_tiff_plane

        with new_file(path, overwrite) as partial:
            write_tiff_plane(partial, plane, pixel_size_mm)


def _output_format(path: Path, memory_bytes: int | None = None) -> OutputFormat:
    """The format that a name's ending stands for."""
    name = path.name.lower()
    # As in `_open_path`, nothing is imported before it is needed.
    if name.endswith(_NIFTI):
        from lsfm_core.formats.nifti import NiftiOutput

        return NiftiOutput()
    if name.endswith(".nrrd"):
        from lsfm_core.formats.nrrd import NrrdOutput

        return NrrdOutput()
    if name.endswith(".mha"):
        from lsfm_core.formats.metaimage import MetaImageOutput

        return MetaImageOutput()
    if name.endswith((".tif", ".tiff")):
        from lsfm_core.formats.tiff_output import TiffOutput

        return TiffOutput()
    if name.endswith(".ome.zarr"):
        from lsfm_core.formats.ome_zarr import OmeZarrOutput

        return OmeZarrOutput(memory_bytes)
    if name.endswith(".npy"):
        from lsfm_core.formats.npy import NpyOutput

        return NpyOutput()
    raise InputError(f"{path}: unknown output format: use one of {', '.join(OUTPUT_SUFFIXES)}")


def output_axis(path: Path) -> int:
    """The array axis along which the format of this name is written; raises as `output_paths`."""
    return _output_format(path).axis


def output_memory(path: Path, image: OutputImage, memory_bytes: int) -> int:
    """What writing an image takes in memory beside its slabs, within a budget of the whole process; raises as `output_paths`."""
    return _output_format(path, memory_bytes).memory_bytes(image)


def output_paths(path: Path) -> list[Path]:
    """An output and the files that come with it.

    Raises
    ------
    InputError
        If the name's ending is of no known format.
    """
    return [path, *(path.with_suffix(suffix) for suffix in _output_format(path).companions)]
