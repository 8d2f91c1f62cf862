"""What a request's names and paths stand for: spaces, and transforms between them."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError, SourceError, StorageError
from lsfm_core.export.request import TransformRequest, TransformStep
from lsfm_core.formats import FieldConvention, is_field, open_source
from lsfm_core.geometry import Orientation, Reorientation, Space
from lsfm_core.spaces import find_way, stored_field, stored_transform
from lsfm_core.store import Channel, LsfmFile
from lsfm_core.transforms import Affine, DisplacementField, InverseField, Transform, TransformChain, read_transforms

__all__ = [
    "chains_around",
    "named_files",
    "native_space",
    "numeric_remarks",
    "open_chain",
    "place_of",
    "reference_space",
    "with_way",
]

Array = npt.NDArray[Any]
_Request = TypeVar("_Request", bound=TransformRequest)

#: Fields from files that are larger than this are unpacked into a temporary file.
_IN_MEMORY_BYTES = 64 * 2**20


def native_space(file: LsfmFile, channel: Channel, request: TransformRequest) -> Space:
    """Space of level 0, with the orientation from the request where the file has none.

    Raises
    ------
    InputError
        If the orientation or the voxel size is missing, or given although it is recorded.
    """
    given = request.voxel_size_mm
    if channel.unit == "mm" and channel.name == request.channel and given is not None:
        size = " x ".join(f"{v:.6g}" for v in channel.space.voxel_size_mm)
        raise InputError(f"{file.path}: channel {channel.name!r} has voxels of {size} mm: leave --voxel-size out")
    if channel.orientation is not None:
        if request.orientation not in (None, channel.orientation.axcodes):
            raise InputError(
                f"{file.path}: channel {channel.name!r} is recorded as {channel.orientation}, the request says "
                f"{request.orientation}: leave the orientation out"
            )
        return channel.space
    missing = []
    if request.orientation is None:
        missing.append(
            "no orientation recorded: give --orientation, three letters for planes, rows, columns, each the side toward which the "
            "index grows"
        )
    if channel.unit != "mm" and given is None:
        missing.append(
            "no voxel size in a unit of length: give --voxel-size P,R,C, the edges of a voxel along planes, rows and columns in mm"
        )
    if request.orientation is None or missing:
        raise InputError(f"{file.path}: channel {channel.name!r} has {'; and '.join(missing)}")
    if channel.unit != "mm" and given is not None:
        channel = file.with_voxel_size(given)[channel.name]
    return channel.oriented(Orientation(request.orientation))


def with_way(file: LsfmFile, request: _Request) -> _Request:
    """A request that names the space where the result lies, with the transforms that lead there; any other as it is.

    Labels whose space is known, and lies on that way, are met there.

    Raises
    ------
    InputError
        As `lsfm_core.spaces.find_way`.
    """
    if request.to_space is None:
        return request
    way = find_way(file, request.channel, request.to_space, request.via, invertible=request.numeric_inverse)
    steps = tuple(map(TransformStep.parse, way.steps))
    changes: dict[str, Any] = {"transforms": steps, "to_space": None, "via": ()}
    places = ["native", *(step.name for step in steps)]
    region: Any = getattr(request, "region", None)
    named: Any = region or request
    labels = getattr(named, "labels_channel", None)
    space = file[labels].space_name if labels is not None else None
    if labels is not None and named.labels_in == "native" and space in way.spaces:
        place = {"labels_in": places[way.spaces.index(space)]}
        changes |= {"region": region.model_copy(update=place)} if region is not None else place
    return request.model_copy(update=changes)


def open_chain(file: LsfmFile, request: TransformRequest) -> TransformChain:
    """The request's transforms, from the image outward.

    Raises
    ------
    InputError
        If one is not there, is something else than the request says, or has no inverse where one is asked for.
    SourceError
        If a file cannot be read.
    """
    transforms: list[Transform] = []
    for step in request.transforms:
        found = _find(file, request, step)
        wanted = {"affine": Affine, "field": DisplacementField, None: Transform}[step.type]
        for item in found:
            if not isinstance(item, wanted):
                raise InputError(
                    f"{file.path}: transform {step.name!r}: the request says {step.type}, but it is: {item.describe()}"
                )
        transforms.extend([item.inverse() for item in reversed(found)] if step.invert else found)
    names = {step.name for step in request.transforms}
    for name in request.numeric_inverse:
        if name not in names:
            raise InputError(f"numeric inverse of {name!r}: no transform of the chain has that name")
    return TransformChain(transforms)


def numeric_remarks(*chains: TransformChain) -> list[str]:
    """How exact the numeric inverses among the transforms of chains are, in sentences."""
    used = {step.name: step for chain in chains for step in chain.transforms}
    remarks = []
    for step in used.values():
        if isinstance(step, InverseField):
            median, maximum = step.residual()
            remarks.append(
                f"{step.name}: found numerically; there and back misses by {median:.2g} mm (median), {maximum:.2g} mm (maximum)"
            )
    return remarks


def chains_around(file: LsfmFile, request: TransformRequest, space: str) -> tuple[TransformChain, TransformChain]:
    """The chain from the image to a space on the way, and the one from there to the output.

    Parameters
    ----------
    space : str
        ``"native"``, ``"output"``, or the name of the transform on whose outer side it is.

    Raises
    ------
    InputError
        As `open_chain`; also if there is no such space.
    """
    count = place_of(request, space)

    def part(steps: tuple[TransformStep, ...]) -> TransformChain:
        inverse = tuple(name for name in request.numeric_inverse if name in {step.name for step in steps})
        return open_chain(file, request.model_copy(update={"transforms": steps, "numeric_inverse": inverse}))

    return part(request.transforms[:count]), part(request.transforms[count:])


def place_of(request: TransformRequest, space: str) -> int:
    """How many transforms lie between the image and a space on the way, which is named as in `chains_around`.

    Raises
    ------
    InputError
        If there is no such space.
    """
    names = [step.name for step in request.transforms]
    if space not in ("native", "output", *names):
        known = ", ".join(names) or "none"
        raise InputError(f"labels_in {space!r}: expected native, output, or the name of a transform of the chain ({known})")
    count = {"native": 0, "output": len(names)}.get(space)
    return names.index(space) + 1 if count is None else count


def reference_space(file: LsfmFile, reference: str) -> Space:
    """The grid of a channel of the file, in RAS order, or of an image file, in the order of its own axes, fastest first.

    Other programs name a file's axes so; a result on this grid then has the same shape and affine for them as the reference.

    Raises
    ------
    InputError
        If there is no such image, or it does not tell where its voxels are.
    """
    if reference in file:
        channel = file[reference]
        if channel.orientation is None:
            raise InputError(f"{file.path}: channel {reference!r} has no orientation recorded: it cannot be a reference")
        return channel.space.reoriented(channel.space.reorientation_to(Orientation("RAS")))
    if not Path(reference).exists():
        raise InputError(f"reference {reference!r}: {file.path} has no such channel, and there is no such file")
    try:
        source = open_source(reference)
    except SourceError:
        # A displacement field can be a reference as well.
        source = open_source(reference, kind="vectors", judge=False)
    source.close()
    if source.space is None:
        raise InputError(f"reference {reference}: does not tell where its voxels are: use a NIfTI, NRRD or MetaImage file")
    return source.space.reoriented(Reorientation((2, 1, 0), (False, False, False)))


def named_files(file: LsfmFile, request: TransformRequest, reference: str | None) -> list[Path]:
    """Those of a request's transforms and its reference that are files of their own, and not stored in this one."""
    names = [step.name for step in request.transforms] + ([reference] if reference is not None else [])
    stored = {*file, *(affine for channel in file.channels.values() for affine in channel.affines)}
    stored |= {f"{channel.name}/{affine}" for channel in file.channels.values() for affine in channel.affines}
    return [Path(name) for name in dict.fromkeys(names) if name not in stored and Path(name).exists()]


def _find(file: LsfmFile, request: TransformRequest, step: TransformStep) -> list[Transform]:
    may_invert = step.name in request.numeric_inverse
    stored = stored_transform(file, step.name, request.channel)
    if stored is not None and stored.affine is not None:
        return [file.affine(stored.channel, stored.affine)]
    if stored is not None:
        return [stored_field(file, stored.channel, may_invert)]
    path = Path(step.name)
    if not path.is_file():
        raise InputError(
            f"{file.path}: transform {step.name!r}: neither a file, nor stored: it has "
            + "; ".join(
                f"{what} {', '.join(names) or 'none'}"
                for what, names in (
                    ("affines", [f"{c.name}/{name}" for c in file.channels.values() for name in c.affines]),
                    ("displacement fields", [c.name for c in file.channels.values() if c.kind == "vectors"]),
                )
            )
        )
    if is_field(path):
        return [_field_file(path, may_invert, request.field_convention)]
    return read_transforms(path)


def _field_file(path: Path, may_invert: bool, convention: FieldConvention | None) -> DisplacementField:
    source = open_source(path, kind="vectors", field_convention=convention)
    try:
        if source.space is None:
            raise InputError(
                f"{path}: does not tell where its voxels are, so it cannot be used as a displacement field: put it into the file "
                "with its voxel size and orientation first (write-field --voxel-size --orientation), and name its channel"
            )
        vectors = _Spill((*source.shape, 3), source.dtype)
        plane = np.empty((*source.shape[1:], 3), source.dtype)
        for index in range(source.shape[0]):
            source.read_plane(index, plane)
            vectors.append(plane)
    finally:
        source.close()
    note = str(source.facts.get("acquisition", {}).get("vectors", ""))
    return DisplacementField(source.space, vectors, name=str(path), may_invert=may_invert, note=note)


class _Spill:
    """An array that is filled plane by plane and then read by boxes: in memory if small, else in an unnamed temporary file.

    Not memory-mapped: pages that were touched would count as the process' memory. Of each plane only the rows of a box are read:
    whole planes, of all that a box meets, would be many times the box.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        self._planes: list[Array] = []
        self._row_bytes = int(np.prod(shape[2:])) * dtype.itemsize
        self._lock = threading.Lock()
        large = self._row_bytes * shape[0] * shape[1] > _IN_MEMORY_BYTES
        self._file = tempfile.TemporaryFile(buffering=0) if large else None  # noqa: SIM115 (it goes with the last reference to it)

    def __getstate__(self) -> dict[str, Any]:
        if self._file is not None:
            raise InputError(
                "a displacement field that is a file of its own, and larger than 64 MiB, goes to no other process: put it into the "
                "file of the image first (write-field), and name it"
            )
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def append(self, plane: Array) -> None:
        if self._file is None:
            self._planes.append(plane.copy())
            return
        view = plane.view(np.uint8).reshape(-1).data
        while view:
            view = view[self._file.write(view) :]

    def __getitem__(self, index: tuple[slice, ...]) -> Array:
        planes, rows, columns = (range(n)[part] for n, part in zip(self.shape, index, strict=False))
        out = np.empty((len(planes), len(rows), len(columns), *self.shape[3:]), self.dtype)
        for place, plane in enumerate(planes):
            out[place] = self._rows(plane, rows)[:, columns.start : columns.stop]
        return out

    def _rows(self, plane: int, rows: range) -> Array:
        if self._file is None:
            return self._planes[plane][rows.start : rows.stop]
        found = np.empty((len(rows), *self.shape[2:]), self.dtype)
        view = found.view(np.uint8).reshape(-1).data
        with self._lock:
            self._file.seek((plane * self.shape[1] + rows.start) * self._row_bytes)
            while view:
                count = self._file.readinto(view)
                if not count:
                    raise StorageError("the temporary file of a displacement field ends before it should: the disk may be failing")
                view = view[count:]
        return found
