"""What every output format takes: an image's description, and then its voxels, slab after slab."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError
from lsfm_core.formats._own import OWN_FORMAT, OWN_VERSION
from lsfm_core.geometry import Space, voxel_count
from lsfm_core.pyramid import Kind

__all__ = ["ALL_DTYPES", "OutputFormat", "OutputImage", "Sink", "dtype_set"]

#: Slabs are cut to pieces of this size before they are turned, converted or averaged, so that no copy is larger.
_PIECE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class OutputImage:
    """An image that is to be written.

    Attributes
    ----------
    space : Space
        Array order is that of the slabs, and of what the format's customary reader gives back.
    dtype : numpy.dtype
    kind : {"image", "labels", "vectors", "components"}
    components : int
        Values per voxel; where there are several, they are the last axis of the slabs. Vectors have 3: displacements in mm, in the
        order R, A, S.
    name : str
        Of the channel, for formats that keep one.
    """

    space: Space
    dtype: np.dtype[Any]
    kind: Kind = "image"
    components: int = 1
    name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the voxels as an array: three axes, and the components where there are several."""
        return (*self.space.shape, self.components) if self.components > 1 else self.space.shape

    @property
    def stored(self) -> np.dtype[Any]:
        """The type as files have it, little-endian."""
        return self.dtype.newbyteorder("<")

    @property
    def is_colour(self) -> bool:
        """Whether the components are red, green, blue and, of four, opacity."""
        return self.kind in ("image", "components") and self.components in (3, 4) and self.dtype.name in ("uint8", "uint16")

    @property
    def nbytes(self) -> int:
        """Size of the voxels."""
        return voxel_count(self.shape) * self.dtype.itemsize

    def facts(self) -> dict[str, Any]:
        """What is known of the image, ready for JSON, for formats that have no other place for it."""
        return {
            "format": OWN_FORMAT,
            "version": OWN_VERSION,
            "name": self.name,
            "kind": self.kind,
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "components": self.components,
            "vector_frame": "RAS" if self.kind == "vectors" else None,
            "axcodes": self.space.orientation.axcodes,
            "unit": "mm",
            "voxel_size_mm": list(self.space.voxel_size_mm),
            "world_from_voxel": self.space.world_from_voxel.tolist(),
        }


class Sink(ABC):
    """Takes an image's voxels in slabs, in order.

    Attributes
    ----------
    axis : int
        The array axis along which the slabs come: the slowest one in the file.
    """

    def __init__(self, image: OutputImage, axis: int) -> None:
        self.axis = axis
        self._image = image
        self._done = 0

    def write(self, slab: npt.NDArray[Any]) -> None:
        """Append planes.

        Parameters
        ----------
        slab : array
            Of the image's shape and type, but with any number of planes along `axis`.

        Raises
        ------
        InputError
            If it is of another shape or type, or there are more planes than the image has.
        """
        wanted, planes = self._image.shape, slab.shape[self.axis]
        if (
            slab.shape != (*wanted[: self.axis], planes, *wanted[self.axis + 1 :])
            or slab.dtype != self._image.dtype
            or self._done + planes > wanted[self.axis]
        ):
            raise InputError(
                f"slab of shape {slab.shape} and type {slab.dtype} after {self._done} planes does not fit an image of shape "
                f"{wanted} and type {self._image.dtype} that is written along axis {self.axis}"
            )
        step = max(1, _PIECE_BYTES * planes // max(1, slab.nbytes))
        for start in range(0, planes, step):
            self._append(slab[(slice(None),) * self.axis + (slice(start, min(start + step, planes)),)])
            self._done += min(step, planes - start)

    @abstractmethod
    def _append(self, planes: npt.NDArray[Any]) -> None:
        """Take a piece of a slab; `_done` planes came before."""

    def finish(self) -> None:
        """Write what is left, when all planes have been given.

        Raises
        ------
        InputError
            If planes are missing.
        """
        if self._done != self._image.shape[self.axis]:
            raise InputError(f"{self._done} of {self._image.shape[self.axis]} planes were given")


class OutputFormat(ABC):
    """One format, as `open_sink` sees it.

    Attributes
    ----------
    name : str
        For messages.
    axis : int
        Of its sinks.
    dtypes : frozenset of numpy.dtype
        What it can hold exactly.
    companions : tuple of str
        Suffixes of files that belong to the output; each stands instead of its own.
    is_folder : bool
    """

    name: str
    axis: int
    dtypes: frozenset[np.dtype[Any]]
    companions: tuple[str, ...] = ()
    is_folder: bool = False

    @abstractmethod
    def open(self, paths: Sequence[Path], image: OutputImage, threads: int) -> AbstractContextManager[Sink]:
        """Make the output and its companions under the names `paths`, which are temporary but have the right suffixes."""

    def notes(self, image: OutputImage) -> Iterator[str]:
        """What users should know of such an output."""
        return iter(())

    def memory_bytes(self, image: OutputImage) -> int:
        """What the format takes in memory beside the slabs that it is given, and a copy of each."""
        return 0

    def disk_bytes(self, path: Path, image: OutputImage) -> int:
        """What the voxels take on the disk at worst, were they not compressible."""
        return image.nbytes


def dtype_set(codes: str) -> frozenset[np.dtype[Any]]:
    """``"u1 f4"`` as types."""
    return frozenset(map(np.dtype, codes.split()))


ALL_DTYPES = dtype_set("u1 i1 u2 i2 u4 i4 u8 i8 f2 f4 f8")
