"""HDF5 files that are neither ours nor BigDataViewer's: single datasets (ilastik's, Fiji's, anybody's), and Imaris files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lsfm_core.errors import DamagedError, InputError, SourceError, StorageError
from lsfm_core.formats._channels import channel_key, check_one_timepoint, pick_channel
from lsfm_core.formats._geometry import voxel_size_or_none
from lsfm_core.formats.arrays import ArraySource
from lsfm_core.geometry import Triple, mm_per
from lsfm_core.hdf5_filters import check_filters
from lsfm_core.hdf5_links import check_links
from lsfm_core.hdf5_links import inside as within

__all__ = ["is_hdf5", "open_hdf5", "split_name"]

_MOST_LISTED = 20
_SPACE = "zyx"
#: Where Fiji's plugins keep the size of a voxel, along the array's axes.
_ELEMENT_SIZE = "element_size_um"
_MM_PER_UM = 1e-3


def is_hdf5(path: Path) -> bool:
    """Whether there is such a file, and it is HDF5."""
    return path.is_file() and bool(h5py.is_hdf5(path))


def split_name(path: Path) -> tuple[Path, str] | None:
    """File and dataset of a name such as ``file.h5:/path/to/dataset``, or ``file.h5/path/to/dataset``; None for any other name."""
    text = str(path)
    if not path.exists():
        for colon in reversed([match.start() for match in re.finditer(":", text)]):
            if is_hdf5(Path(text[:colon])):
                return Path(text[:colon]), text[colon + 1 :]
        for parent in path.parents:
            if is_hdf5(parent):
                return parent, path.relative_to(parent).as_posix()
    return None


class _Volume:
    """Planes, rows and columns of a dataset that may have further axes, and padding behind its voxels.

    Parameters
    ----------
    dataset : h5py.Dataset
    space : sequence of 3 int
        Its axes of planes, rows and columns.
    fixed : mapping of int to int
        The indices along the others.
    shape : sequence of 3 int, optional
        What is more is padding.
    """

    def __init__(
        self, dataset: h5py.Dataset, space: Sequence[int], fixed: Mapping[int, int], shape: Sequence[int] | None = None
    ) -> None:
        self._dataset = dataset
        self._index: list[Any] = [fixed.get(axis, slice(None)) for axis in range(dataset.ndim)]
        self._axes = tuple(space)
        self.shape = tuple(shape or (dataset.shape[axis] for axis in space))
        self.dtype = dataset.dtype
        self.chunks = None if dataset.chunks is None else tuple(dataset.chunks[axis] for axis in space)

    def __getitem__(self, index: tuple[Any, ...]) -> npt.NDArray[Any]:
        place = list(self._index)
        for axis, n, wanted in zip(self._axes, self.shape, (*index, *[slice(None)] * 3), strict=False):
            start, stop, _ = (wanted if isinstance(wanted, slice) else slice(wanted, wanted + 1)).indices(n)
            place[axis] = slice(start, stop)
        return np.asarray(self._dataset[tuple(place)])


class _Hdf5Source(ArraySource):
    """A volume in an HDF5 file, which stays open as long as the source is."""

    def __init__(self, file: h5py.File, volume: _Volume, name: str, size: Triple | None, facts: Mapping[str, Any]) -> None:
        super().__init__(volume, name=name, voxel_size_mm=size, facts=facts)
        self._file = file

    def close(self) -> None:
        super().close()
        self._file.close()


def open_hdf5(path: Path, inside: str | None, channel: int | str | None) -> ArraySource:
    """Open a volume in an HDF5 file.

    Parameters
    ----------
    path : Path
    inside : str, optional
        The dataset; None for the only one, or for an Imaris file.
    channel : int or str, optional

    Raises
    ------
    InputError
        If it is not clear which dataset is meant, or it is no volume.
    SourceError, FormatError, DamagedError, StorageError
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if error.errno:
            raise StorageError(f"{path}: cannot be opened: {error.strerror or error}") from error
        raise DamagedError(f"{path}: cannot be opened as HDF5: {error}") from error
    try:
        if inside is None and "DataSetInfo" in file and "DataSet" in file:
            return _open_imaris(path, file, channel)
        if inside is not None:
            check_links(file, path, inside)
        dataset = within(_dataset(path, file, inside), path)
        return _open_dataset(path, file, dataset, channel)
    except BaseException as error:
        file.close()
        if isinstance(error, KeyError | TypeError | ValueError | RuntimeError | OSError) and type(error).__module__ == "builtins":
            raise SourceError(f"{path}: its structure cannot be read: {error}") from error
        raise


def _dataset(path: Path, file: h5py.File, inside: str | None) -> h5py.Dataset:
    if inside is not None:
        node = file.get(inside)
        if isinstance(node, h5py.Dataset):
            return node
        if inside in file and not isinstance(node, h5py.Group):
            raise SourceError(
                f"{path}: {inside} is no dataset, or a link to one that is not there: name another, or put its file back"
            )
    found: list[h5py.Dataset] = []

    def look(_: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind in "uifb" and len(node.shape or ()) >= 3:
            found.append(node)

    (file if inside is None or not isinstance(file.get(inside), h5py.Group) else file[inside]).visititems(look)
    if len(found) == 1 and (inside is None or inside in file):
        return found[0]
    listing = ", ".join(f"{d.name} ({' x '.join(map(str, d.shape))}, {d.dtype})" for d in found[:_MOST_LISTED])
    listing += ", …" if len(found) > _MOST_LISTED else ""
    if inside is not None and inside not in file:
        raise InputError(f"{path}: has no dataset {inside}; it has: {listing or 'no volume'}")
    if not found:
        raise InputError(f"{path}: has no dataset of three axes: there is no volume in it")
    raise InputError(f"{path}: has several datasets: {listing}: say which, as {path}:{found[0].name}")


def _open_dataset(path: Path, file: h5py.File, dataset: h5py.Dataset, channel: int | str | None) -> ArraySource:
    name = f"{path}:{dataset.name}"
    check_filters(dataset, name)
    keys = _axis_keys(name, dataset)
    fixed: dict[int, int] = {}
    facts: dict[str, Any] = {"format": "HDF5"}
    space = [axis for axis, key in enumerate(keys) if key in _SPACE]
    if len(space) != 3 or len(set(keys)) != len(keys):
        raise InputError(f"{name}: has the axes {', '.join(keys)}: expected z, y and x, besides t and c")
    planes = dataset.shape[space[0]]
    for axis, key in enumerate(keys):
        if axis in space:
            continue
        fixed[axis] = 0
        if key == "t":
            check_one_timepoint(name, dataset.shape[axis], planes)
        elif key == "c":
            names = [""] * dataset.shape[axis]
            fixed[axis] = pick_channel(name, names, channel, planes=planes, offer=False)
            if len(names) > 1:
                facts |= {"channel": channel_key(names, fixed[axis]), "channel_names": names}
    if "c" not in keys and channel is not None:
        pick_channel(name, ("",), channel)
    order = "".join(keys[axis] for axis in space)
    if order != _SPACE:
        facts["notes"] = [f"planes, rows and columns are its axes {', '.join(order)}, in the order in which it has them"]
    return _Hdf5Source(file, _Volume(dataset, space, fixed), name, _element_size(dataset, space), facts)


def _axis_keys(name: str, dataset: h5py.Dataset) -> list[str]:
    """What the axes of a dataset are: z, y, x, t or c."""
    tags = dataset.attrs.get("axistags")
    if tags is not None:
        keys = [str(axis["key"]) for axis in json.loads(tags)["axes"]]
        if len(keys) == dataset.ndim:
            return keys
        raise SourceError(f"{name}: its axistags tell {len(keys)} axes, it has {dataset.ndim}")
    labels = [dimension.label for dimension in dataset.dims]
    if all(label in (*_SPACE, "t", "c") for label in labels):
        return labels
    # Axes without a length say nothing; what is left must be the volume.
    long = [axis for axis, n in enumerate(dataset.shape) if n > 1]
    last = list(range(dataset.ndim))[-3:] if set(long) <= set(range(dataset.ndim)[-3:]) else long
    if len(last) != 3:
        raise InputError(
            f"{name}: is an array of shape {dataset.shape}, whose axes are not named (no axistags): save one volume of three axes"
        )
    letters = dict(zip(last, _SPACE, strict=True))
    return [letters.get(axis, f"axis {axis}") for axis in range(dataset.ndim)]


def _element_size(dataset: h5py.Dataset, space: Sequence[int]) -> Triple | None:
    size = dataset.attrs.get(_ELEMENT_SIZE)
    values = np.ravel(size).astype(float) if size is not None else np.zeros(0)
    if len(values) == dataset.ndim:
        values = values[list(space)]
    return voxel_size_or_none((values * _MM_PER_UM).tolist()) if len(values) == 3 else None


# --- Imaris ---------------------------------------------------------------------------------------------------------------------


def _open_imaris(path: Path, file: h5py.File, channel: int | str | None) -> ArraySource:
    check_links(file, path, "DataSet/ResolutionLevel 0")
    times = _numbered(file["DataSet/ResolutionLevel 0"], "TimePoint")
    channels = _numbered(times[0], "Channel") if times else []
    if not channels:
        raise SourceError(
            f"{path}: an Imaris file without DataSet/ResolutionLevel 0/TimePoint 0/Channel 0: there is no image in it"
        )
    names = [_text(file, f"DataSetInfo/{Path(group.name).name}", "Name") for group in channels]
    index = pick_channel(str(path), names, channel, planes=2)
    check_links(file, path, f"{channels[index].name}/Data")
    dataset = within(channels[index]["Data"], path)
    check_one_timepoint(str(path), len(times), dataset.shape[0])
    check_filters(dataset, str(path))
    sizes = [_text(file, str(channels[index].name), f"ImageSize{axis}") for axis in "ZYX"]
    if not all(size.isdecimal() for size in sizes):
        sizes = [_text(file, "DataSetInfo/Image", axis) for axis in "ZYX"]
    shape = [int(size) if size.isdecimal() else n for size, n in zip(sizes, dataset.shape, strict=True)]
    if any(not 0 < n <= stored for n, stored in zip(shape, dataset.shape, strict=True)):
        raise SourceError(f"{path}: says {shape} voxels (planes, rows, columns), and stores {list(dataset.shape)}")
    facts: dict[str, Any] = {"format": "Imaris"}
    if len(names) > 1:
        facts |= {"channel": channel_key(names, index), "channel_names": names}
    return _Hdf5Source(file, _Volume(dataset, (0, 1, 2), {}, shape), str(path), _imaris_size(file, shape), facts)


def _numbered(group: h5py.Group, what: str) -> list[h5py.Group]:
    found = [name for name in group if re.fullmatch(rf"{what} \d+", name)]
    return [group[name] for name in sorted(found, key=lambda name: int(name.split()[1]))]


def _imaris_size(file: h5py.File, shape: Sequence[int]) -> Triple | None:
    """The extent of the image, divided by its voxels."""
    mm = mm_per(_text(file, "DataSetInfo/Image", "Unit") or "um")
    try:
        ends = [[float(_text(file, "DataSetInfo/Image", f"Ext{end}{axis}")) for axis in (2, 1, 0)] for end in ("Min", "Max")]
    except ValueError:
        return None
    return None if mm is None else voxel_size_or_none((mm * np.abs(np.subtract(ends[1], ends[0])) / shape).tolist())


def _text(file: h5py.File, place: str, name: str) -> str:
    """An attribute of Imaris', which keeps texts as arrays of characters; empty where there is none."""
    value = file[place].attrs.get(name) if place in file else None
    if value is None:
        return ""
    data = (
        value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else np.asarray(value).astype("S").tobytes()
    )
    return data.rstrip(b"\0").decode("utf-8", "replace").strip()
