"""TIFF out: volumes for ImageJ, or as OME-TIFF, and single planes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import tifffile

from lsfm_core.formats._raw import RawSink
from lsfm_core.formats._sink import OutputFormat, OutputImage, dtype_set

__all__ = ["TiffOutput", "write_tiff_plane"]

#: Offsets of 32 bits must reach over the voxels, each page's tags, and the metadata.
_CLASSIC_BYTES = 2**32 - 2**25
_PAGE_BYTES = 1024
_IMAGEJ_DTYPES = dtype_set("u1 u2 f4")
_UM_PER_MM = 1e3
_UM_PER_CM = 1e4


class TiffOutput(OutputFormat):
    """TIFF that ImageJ understands where it can hold the image, else OME-TIFF; neither is compressed."""

    name = "TIFF"
    axis = 0
    # Those of OME-TIFF; ImageJ has fewer.
    dtypes = dtype_set("u1 i1 u2 i2 u4 i4 f4 f8")

    @contextmanager
    def open(self, paths: Sequence[Path], image: OutputImage, threads: int) -> Iterator[RawSink]:
        (path,) = paths
        big = self.disk_bytes(path, image) > _CLASSIC_BYTES
        imagej = not big and _fits_imagej(image) and not path.name.lower().endswith((".ome.tif", ".ome.tiff"))
        with tifffile.TiffWriter(path, bigtiff=big, imagej=imagej, ome=not imagej, byteorder="<") as tiff:
            # Tags and metadata first; the voxels, which all stand together, are filled in later.
            place = tiff.write(
                shape=image.shape,
                dtype=image.stored,
                photometric="rgb" if image.is_colour else "minisblack",
                planarconfig="contig" if image.components > 1 else None,
                extrasamples=["unassalpha"] if image.is_colour and image.components == 4 else None,
                returnoffset=True,
                **(_imagej(image) if imagej else _ome(image)),
            )
        with path.open("r+b") as file:
            file.seek(cast(tuple[int, int], place)[0])
            yield RawSink(image, self.axis, [file])

    def notes(self, image: OutputImage) -> Iterator[str]:
        several = image.components > 1 and not _is_rgb24(image)
        if several or image.dtype.name in ("float64", "int8"):
            what = f"{image.components} values per voxel" if several else f"voxels of type {image.dtype.name}"
            yield f"ImageJ by itself does not read TIFF with {what} rightly: open it there by Plugins > Bio-Formats"
        elif self.disk_bytes(Path(), image) > _CLASSIC_BYTES:
            yield "ImageJ by itself does not read TIFF beyond 4 GB: open it there by Plugins > Bio-Formats"

    def disk_bytes(self, path: Path, image: OutputImage) -> int:
        return image.nbytes + _PAGE_BYTES * image.space.shape[0]


def _fits_imagej(image: OutputImage) -> bool:
    # tifffile takes planes of one column for rows of a single plane.
    if image.space.shape[2] == 1:
        return False
    if image.components > 1:
        return _is_rgb24(image)
    return image.dtype.newbyteorder("=") in _IMAGEJ_DTYPES


def _is_rgb24(image: OutputImage) -> bool:
    return image.is_colour and image.components == 3 and image.dtype.itemsize == 1


def _sizes_um(image: OutputImage) -> tuple[float, ...]:
    # Without the dust of binary fractions: 0.0041 mm are 4.1 µm.
    return tuple(float(f"{size * _UM_PER_MM:.12g}") for size in image.space.voxel_size_mm)


def _imagej(image: OutputImage) -> dict[str, Any]:
    z, y, x = _sizes_um(image)
    return {
        "resolution": (1 / x, 1 / y),
        "metadata": {
            "axes": "ZYXS"[: len(image.shape)],
            "spacing": z,
            "unit": "um",
            "Info": json.dumps(image.facts()),
        },
    }


def _ome(image: OutputImage) -> dict[str, Any]:
    _, y, x = _sizes_um(image)
    sizes = zip("ZYX", _sizes_um(image), strict=True)
    return {
        # For readers that do not look into the XML.
        "resolution": (_UM_PER_CM / x, _UM_PER_CM / y),
        "resolutionunit": "CENTIMETER",
        "metadata": {
            "axes": "ZYXS"[: len(image.shape)],
            "Name": image.name or "image",
            "Description": json.dumps(image.facts()),
            # The same for the same export: files can then be told apart by their bytes.
            "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(image.facts()))),
            # Micrometres are what a reader takes that does not look at the unit.
            **{f"PhysicalSize{axis}": size for axis, size in sizes},
            **{f"PhysicalSize{axis}Unit": "µm" for axis in "ZYX"},
            "Channel": {"Name": image.name or "image"},
        },
    }


def write_tiff_plane(path: Path, plane: npt.NDArray[Any], pixel_size_mm: tuple[float, float] | None) -> None:
    """Write one plane, with its pixel size (rows, columns) in the resolution tags."""
    options: dict[str, Any] = {}
    is_colour = plane.shape[2:] == (3,) or (plane.shape[2:] == (4,) and plane.dtype.name in ("uint8", "uint16"))
    if plane.ndim == 3:
        options["planarconfig"] = "contig"
    if is_colour and plane.shape[2] == 4:
        options["extrasamples"] = ["unassalpha"]
    if pixel_size_mm is not None:
        rows, columns = pixel_size_mm
        options |= {"resolution": (10 / columns, 10 / rows), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, np.ascontiguousarray(plane), photometric="rgb" if is_colour else "minisblack", metadata=None, **options)
