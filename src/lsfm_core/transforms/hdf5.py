"""ITK's HDF5 files, in which a displacement field may be larger than the memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lsfm_core.arrays import Box, LazyArray
from lsfm_core.errors import SourceError
from lsfm_core.geometry import Space, voxel_count
from lsfm_core.transforms.base import Transform
from lsfm_core.transforms.field import DisplacementField

__all__ = ["read_parts", "stored_kinds"]

_GROUP = "TransformGroup"
_KIND = "TransformType"
#: As they are spelled today, and as ITK before 5 did.
_FIXED = ("TransformFixedParameters", "TranformFixedParameters")
_VALUES = ("TransformParameters", "TranformParameters")
#: Size, origin, spacing and direction.
_GRID = 18
#: ITK's chunks are 8 MiB.
_CACHE = 2**26


def stored_kinds(path: Path) -> list[str]:
    """The kinds of the transforms in a file, in ITK's spelling.

    Raises
    ------
    SourceError
        If it is none of ITK's.
    """
    try:
        with h5py.File(path) as file:
            group = file[_GROUP]
            return [group[index][_KIND].asstr()[0] for index in sorted(group, key=int)]
    except (OSError, KeyError, ValueError) as error:
        raise SourceError(f"{path}: not readable as an ITK transform: {error}") from error


def read_parts(path: Path) -> list[Any]:
    """The parts of a file: displacement fields, whose vectors are read when they are asked for, and all others as SimpleITK's.

    Raises
    ------
    SourceError
    """
    import SimpleITK as sitk

    kinds = stored_kinds(path)
    parts: list[Any] = []
    with h5py.File(path) as file, tempfile.TemporaryDirectory(prefix="lsfm-transform-") as folder:
        group = file[_GROUP]
        for index, kind in zip(sorted(group, key=int), kinds, strict=True):
            if kind.startswith("CompositeTransform"):
                continue
            if kind.partition("_")[0].endswith("DisplacementFieldTransform"):
                parts.append(_field(path, group[index]))
                continue
            alone = Path(folder, f"{index}.h5")
            with h5py.File(alone, "w") as other:
                group.copy(group[index], other.require_group(_GROUP), name="0")
            parts.append(sitk.ReadTransform(str(alone)))
    return parts


def _field(path: Path, node: h5py.Group) -> Transform:
    fixed, values = (next((node[name] for name in names if name in node), None) for names in (_FIXED, _VALUES))
    if fixed is None or values is None or fixed.shape != (_GRID,) or values.ndim != 1:
        raise SourceError(f"{path}: holds a {node[_KIND].asstr()[0]} whose grid or vectors are missing, or not in three dimensions")
    numbers = np.asarray(fixed[()], dtype=np.float64)
    x, y, z = (int(n) for n in numbers[:3])
    if min(x, y, z) < 1 or values.size != 3 * x * y * z:
        raise SourceError(f"{path}: holds {values.size} values of a displacement field of {x} x {y} x {z} voxels")
    space = Space.from_itk((z, y, x), numbers[3:6].tolist(), numbers[6:9].tolist(), numbers[9:].tolist())
    return DisplacementField(space, _Vectors(path, values, space), name=path.name)


class _Vectors(LazyArray):
    """Vectors in a row, x fastest, LPS, as an array of R, A and S (z, y, x, 3)."""

    def __init__(self, path: Path, values: h5py.Dataset, space: Space) -> None:
        plane = 3 * voxel_count(space.shape[1:])
        planes = max(1, (values.chunks or values.shape)[0] // plane)
        shape = (*space.shape, 3)
        super().__init__(shape, values.dtype.newbyteorder("="), (min(planes, shape[0]), *shape[1:]), name=f"{path}: {values.name}")
        self._file = h5py.File(path, rdcc_nbytes=_CACHE)
        self._values = self._file[values.name]
        self._rows = shape[1]
        self._row = 3 * shape[2]

    def _fill(self, box: Box, out: npt.NDArray[Any], cached: bool) -> None:
        low, high = min(box[1]), max(box[1]) + 1
        rows = np.array(box[1]) - low
        columns, components = np.array(box[2]), np.array(box[3])
        for place, plane in enumerate(box[0]):
            begin = (plane * self._rows + low) * self._row
            try:
                values = self._values[begin : begin + (high - low) * self._row].reshape(high - low, -1, 3)
            except OSError as error:
                raise SourceError(f"{self.name}: cannot be read: {error}") from error
            values[..., :2] *= -1
            out[place] = values[np.ix_(rows, columns, components)]
