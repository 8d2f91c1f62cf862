"""What was made of the chunks of an export, put together again into one image."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from lsfm_core._request import Request
from lsfm_core.durable import hidden_folder, settle_outputs
from lsfm_core.errors import InputError, MemoryBudgetError, SourceError, StorageError, check_file
from lsfm_core.export._files import check_not_read
from lsfm_core.export.chunks import MANIFEST, MANIFEST_VERSION
from lsfm_core.export.plan import BASE_BYTES
from lsfm_core.formats import OUTPUT_SUFFIXES, OutputImage, Source, check_output, cuts, open_sink, open_source, output_memory
from lsfm_core.geometry import Shape3, Space, voxel_count
from lsfm_core.progress import CancelToken, Progress, ProgressCallback, size_text
from lsfm_core.pyramid import Kind
from lsfm_core.threads import default_threads

__all__ = ["MergePlan", "MergeRequest", "MergeResult", "merge_chunks", "plan_merge"]

Array = npt.NDArray[Any]
_Numbers4: TypeAlias = tuple[float, float, float, float]

# Files whose voxels run fastest along the first axis; our sources give their planes along the last.
_FASTEST_FIRST = (".nii", ".nii.gz", ".nrrd", ".mha")
_SLAB_BYTES = 16 * 2**20
#: So much of a result is read at once, or a plane; small voxels count as what becomes of them while labels are numbered.
_READ_BYTES, _LEAST_ITEM = 8 * 2**20, 4
_RELABEL_COPIES = 4


class MergeRequest(Request):
    """Which results to put together, and how.

    Attributes
    ----------
    manifest : Path
        As `export_chunks` wrote it, or its folder.
    output : Path
        In one of the formats of docs/outputs.md.
    results : Path, optional
        Folder with one file for each chunk, named as the chunk is; the ending may be another one. Default: the manifest's.
    kind : {"image", "labels", "vectors", "components"}, optional
        Default: what the chunks are.
    relabel : bool
        For labels that were numbered anew in every chunk: number them through, and join those that neighbouring chunks have in
        common where they overlap.
    overwrite : bool
    memory_bytes : int
        Beyond it, the whole is put together in a temporary file.
    threads : int, optional
    """

    manifest: Path
    output: Path
    results: Path | None = None
    kind: Kind | None = None
    relabel: bool = False
    overwrite: bool = False
    memory_bytes: int = Field(default=2 * 10**9, gt=0)
    threads: int | None = Field(default=None, gt=0)


@dataclass(frozen=True)
class MergeResult:
    """What a merge gave.

    Attributes
    ----------
    path : Path
    space : Space
    dtype : numpy.dtype
    labels : int or None
        How many there are, where they were numbered anew.
    seconds : float
    """

    path: Path
    space: Space
    dtype: np.dtype[Any]
    labels: int | None
    seconds: float


@dataclass(frozen=True)
class _Piece:
    """One result: its file, its place in the whole, and the part of it that goes there (without half of each overlap)."""

    index: Shape3
    file: Path
    starts: Shape3
    stops: Shape3
    core_starts: Shape3
    core_stops: Shape3

    def core(self, low: Shape3, high: Shape3, array: Array) -> tuple[Shape3, Array]:
        """What of a box of this piece goes into the whole, perhaps nothing, and where that begins."""
        start = _triple([max(a, c) for a, c in zip(low, self.core_starts, strict=True)])
        stop = [max(a, min(b, c)) for a, b, c in zip(start, high, self.core_stops, strict=True)]
        part: Array = array[tuple(slice(a - c, b - c) for a, b, c in zip(start, stop, low, strict=True))]
        return start, part


class _Reader:
    """The voxels of a piece, of which a box is read at a time; in order, if the file can be read forwards only.

    Attributes
    ----------
    axis : int
        Of the array, along which the file's planes follow each other.
    dtype : numpy.dtype
    each : tuple of int
        The values of a voxel; empty where it has one.
    """

    def __init__(self, piece: _Piece, kind: Kind) -> None:
        self.piece = piece
        self.axis = 2 if piece.file.name.endswith(_FASTEST_FIRST) else 0
        self._source: Source | None = None
        if piece.file.name.endswith(".npy"):
            array = self._array()
            self.dtype, self.each, shape = array.dtype, array.shape[3:], array.shape[:3]
        else:
            source = self._source = open_source(piece.file, kind=kind, judge=False)
            self.dtype, self.each = source.dtype, (source.components,) if source.components > 1 else ()
            shape = source.shape[::-1] if self.axis else source.shape
        wanted = tuple(b - a for a, b in zip(piece.starts, piece.stops, strict=True))
        if shape != wanted:
            self.close()
            raise SourceError(
                f"{piece.file}: has shape {(*shape, *self.each)}, but its chunk {wanted}: save the result on the chunk's grid"
            )

    def read(self, low: Sequence[int], high: Sequence[int]) -> Array:
        """The box ``low:high`` of the whole, which lies in the piece."""
        starts = [a - c for a, c in zip(low, self.piece.starts, strict=True)]
        sizes = [b - a for a, b in zip(low, high, strict=True)]
        if self._source is None:
            return np.array(self._array()[tuple(slice(a, a + n) for a, n in zip(starts, sizes, strict=True))])
        if self.axis:
            starts, sizes = starts[::-1], sizes[::-1]
        box = np.empty((*sizes, *self.each), self.dtype)
        self._source.read_box(_triple(starts), box)
        return box.transpose(2, 1, 0, *range(3, box.ndim)) if self.axis else box

    def all(self) -> Iterator[tuple[Shape3, Shape3, Array]]:
        """Every voxel once, in slabs along the axis: where each begins and ends in the whole, and its voxels."""
        for low, high in self.slabs(self.piece.starts, self.piece.stops):
            yield low, high, self.read(low, high)

    def slabs(self, low: Shape3, high: Shape3) -> Iterator[tuple[Shape3, Shape3]]:
        """A box cut along the axis."""
        plane = voxel_count([b - a for k, (a, b) in enumerate(zip(low, high, strict=True)) if k != self.axis])
        thickness = max(1, _READ_BYTES // (plane * max(_LEAST_ITEM, self.dtype.itemsize * voxel_count(self.each))))
        unit = 1 if self._source is None else self._source.unit[0]
        thickness = max(1, thickness // unit) * unit if thickness >= unit else thickness
        first = self.piece.starts[self.axis]
        for part in cuts(low[self.axis] - first, high[self.axis] - first, thickness):
            a, b = list(low), list(high)
            a[self.axis], b[self.axis] = first + part.start, first + part.stop
            yield _triple(a), _triple(b)

    def close(self) -> None:
        """Let go of the file."""
        if self._source is not None:
            self._source.close()

    def _array(self) -> Array:
        # Mapped anew for each box: pages that were touched count as the process' memory.
        try:
            array: Array = np.load(self.piece.file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.piece.file}: cannot be read: {error}") from error
        return array


@dataclass(frozen=True)
class MergePlan:
    """What a merge will do, decided before it starts.

    Attributes
    ----------
    output : Path
    image : OutputImage
        The whole.
    axis : int
        Of the whole, along which the output takes its slabs.
    pieces : tuple
        What it is put together of.
    in_memory : bool
        Whether there is memory for the whole, or it is put together in a temporary file.
    """

    output: Path
    image: OutputImage
    axis: int
    pieces: tuple[_Piece, ...]
    in_memory: bool

    def describe(self) -> str:
        """The plan in words, one fact per line."""
        image = self.image
        voxels = (
            f"{' x '.join(map(str, image.space.shape))} voxels, {image.dtype}{_each(image.shape[3:])}, {image.space.orientation}"
        )
        return "\n".join(
            [
                f"reads   {len(self.pieces)} piece(s), from {self.pieces[0].file} on",
                f"makes   {self.output}: {voxels} ({image.kind})",
                f"size    {size_text(image.nbytes)} uncompressed",
            ]
        )


def plan_merge(request: MergeRequest) -> MergePlan:
    """Decide everything about a merge; of the results the first is read.

    Raises
    ------
    LsfmError
        As `merge_chunks`, as far as it can be known beforehand.
    """
    path = request.manifest / MANIFEST if request.manifest.is_dir() else request.manifest
    facts = _read_manifest(path)
    kind: Kind = request.kind or facts.kind
    space = Space(facts.shape[:3], np.array(facts.world_from_voxel))
    pieces = _pieces(path, facts, request.results or path.parent)
    if request.relabel and kind != "labels":
        raise InputError("relabel: only labels are numbered; say that the results are labels (--kind labels)")
    check_not_read(request.output, [path, *(piece.file for piece in pieces)])
    with closing(_Reader(pieces[0], kind)) as first:
        dtype = np.dtype(np.uint32) if request.relabel else first.dtype
        components = voxel_count(first.each)
    if kind == "image" and components > 1:
        kind = "components"
    image = OutputImage(space, dtype, kind, components, facts.name)
    axis = check_output(request.output, image, overwrite=request.overwrite)
    need = _need_bytes(request, image, axis, pieces)
    if need > request.memory_bytes:
        raise MemoryBudgetError(
            f"{request.output}: putting {' x '.join(map(str, image.space.shape))} voxels together needs at least {size_text(need)} "
            f"of memory, {size_text(request.memory_bytes)} were given: raise the memory (--memory)"
        )
    return MergePlan(request.output, image, axis, tuple(pieces), need + image.nbytes <= request.memory_bytes)


def _need_bytes(request: MergeRequest, image: OutputImage, axis: int, pieces: Sequence[_Piece]) -> int:
    """Memory beside the whole: what is read of a piece, what its labels become, what is written, and what the format takes."""
    itemsize = image.dtype.itemsize * image.components
    read = 0
    for piece in pieces:
        shape = [b - a for a, b in zip(piece.starts, piece.stops, strict=True)]
        plane = voxel_count(shape[:2] if piece.file.name.endswith(_FASTEST_FIRST) else shape[1:]) * itemsize
        # What is read is there as the file's bytes and as voxels, and its place in the whole is mapped.
        read = max(read, 3 * max(plane, min(_READ_BYTES, voxel_count(shape) * itemsize)))
    if request.relabel:
        read *= _RELABEL_COPIES
    plane = image.nbytes // image.shape[axis]
    written = 3 * max(plane, min(_SLAB_BYTES, image.nbytes)) + output_memory(request.output, image, request.memory_bytes)
    return BASE_BYTES + max(read, written)


def merge_chunks(
    request: MergeRequest, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> MergeResult:
    """Put results together: every voxel comes from the chunk in which it lies farther from the edge.

    Raises
    ------
    InputError
        If the manifest is none, or results are missing.
    SourceError
        If a result cannot be read, or does not have its chunk's shape.
    LsfmError
        In every case no file is left or changed.
    """
    began = time.perf_counter()
    plan = plan_merge(request)
    pieces, image, kind, dtype = plan.pieces, plan.image, plan.image.kind, plan.image.dtype
    numbers = _join(pieces, cancel) if request.relabel else None
    report = Progress("merge", image.nbytes, progress, cancel)
    threads = request.threads or default_threads()
    with hidden_folder(request.output) as folder:
        whole = _Whole(image, folder / "whole", plan.in_memory, plan.axis)
        for number, piece in enumerate(pieces):
            with closing(_Reader(piece, kind)) as reader:
                if numbers is None and (reader.dtype != dtype or reader.each != image.shape[3:]):
                    raise SourceError(
                        f"{piece.file}: has voxels of type {reader.dtype}{_each(reader.each)}, {pieces[0].file.name} of "
                        f"{dtype}{_each(image.shape[3:])}: save all as one type"
                    )
                for low, high, slab in reader.all():
                    start, part = piece.core(low, high, slab)
                    report.advance(whole.put(start, part if numbers is None else numbers.apply(number, part)))
        with open_sink(
            request.output, image, overwrite=request.overwrite, threads=threads, memory_bytes=request.memory_bytes
        ) as sink:
            for slab in whole.slabs():
                sink.write(slab)
                report.advance(0)
    return MergeResult(request.output, image.space, dtype, None if numbers is None else numbers.count, time.perf_counter() - began)


class _Row(BaseModel):
    """What a manifest tells of a chunk."""

    file: str = Field(pattern=r"^[^/\\\x00]+$")
    index_ras: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt]
    start: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt]
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]

    @property
    def stop(self) -> Shape3:
        """The voxel past its last."""
        (a, b, c), (d, e, f) = self.start, self.shape
        return a + d, b + e, c + f


class _Manifest(BaseModel):
    """What a merge needs of a manifest."""

    format: Literal["lsfm chunks"]
    version: Literal[1]
    name: str
    kind: Kind
    shape: tuple[PositiveInt, PositiveInt, PositiveInt] | tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    world_from_voxel: tuple[_Numbers4, _Numbers4, _Numbers4, _Numbers4]
    chunks: list[_Row] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_places(self) -> _Manifest:
        for row in self.chunks:
            if any(stop > size for stop, size in zip(row.stop, self.shape, strict=False)):
                raise ValueError(f"{row.file} reaches out of the image of {self.shape} voxels")
        return self


def _read_manifest(path: Path) -> _Manifest:
    settle_outputs(path)
    check_file(path)
    try:
        return _Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.errors()[0] if isinstance(error, ValidationError) else {"msg": str(error), "loc": ()}
        place = "".join(f"{part}: " for part in reason["loc"])
        raise InputError(
            f"{path}: is no manifest of chunks, version {MANIFEST_VERSION}, as an export writes one: {place}{reason['msg']}"
        ) from error


def _pieces(manifest: Path, facts: _Manifest, folder: Path) -> list[_Piece]:
    rows = facts.chunks
    cuts = [_cuts({(row.start[axis], row.stop[axis]) for row in rows}) for axis in range(3)]
    pieces, missing = [], []
    for row in rows:
        name = _stem(row.file)
        files = [folder / f"{name}{suffix}" for suffix in OUTPUT_SUFFIXES if (folder / f"{name}{suffix}").exists()]
        if len(files) != 1:
            missing.append(f"{name}.*: {'not there' if not files else 'several: ' + ', '.join(file.name for file in files)}")
            continue
        core = [cuts[axis][start] for axis, start in enumerate(row.start)]
        low, high = _triple([a for a, _ in core]), _triple([b for _, b in core])
        pieces.append(_Piece(row.index_ras, files[0], row.start, row.stop, low, high))
    if missing:
        more = f" (and {len(missing) - 5} more)" if len(missing) > 5 else ""
        raise InputError(f"{folder}: results of {manifest}: {'; '.join(missing[:5])}{more}")
    return pieces


def _cuts(ranges: set[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """What the chunks that begin at each place give to the whole: where two overlap, each gives the half nearer to its middle."""
    ordered = sorted(ranges)
    middles = [(end + start) // 2 for (_, end), (start, _) in pairwise(ordered)]
    edges = [ordered[0][0], *middles, ordered[-1][1]]
    return {start: cut for (start, _), cut in zip(ordered, pairwise(edges), strict=True)}


def _stem(name: str) -> str:
    suffix = max((s for s in OUTPUT_SUFFIXES if name.endswith(s)), key=len, default="")
    return name.removesuffix(suffix)


class _Whole:
    """The image while it is put together: in memory if there is room, else in a file."""

    def __init__(self, image: OutputImage, path: Path, in_memory: bool, axis: int) -> None:
        self._image = image
        self._axis = axis
        # The slowest axis first, so that a slab is one run of bytes.
        self._order = (axis, *(k for k in range(len(image.shape)) if k != axis))
        self._shape = tuple(image.shape[k] for k in self._order)
        self._path = path
        self._array: Array | None = None
        if in_memory:
            self._array = np.zeros(self._shape, image.dtype)
        else:
            try:
                with path.open("wb") as file:
                    # The room is taken now where that can be done: to find the disk full while the file is mapped ends the process.
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, image.nbytes)
                    else:
                        file.truncate(image.nbytes)
            except OSError as error:
                raise StorageError(
                    f"{path.parents[2]}: no temporary file of {size_text(image.nbytes)} can be made there: {error.strerror}: "
                    "make room, or raise the memory"
                ) from error

    def put(self, start: Shape3, part: Array) -> int:
        """Store a box of voxels; returns how many bytes it has."""
        # Mapped for a part at a time: pages that were touched count as the process' memory.
        target = self._array
        if target is None:
            target = np.memmap(self._path, self._image.dtype, "r+", shape=self._shape)
        box = [slice(a, a + n) for a, n in zip(start, part.shape, strict=False)]
        target[tuple(box[k] for k in self._order if k < 3)] = part.transpose(self._order)
        return part.nbytes

    def slabs(self) -> Iterator[Array]:
        plane = self._image.nbytes // self._shape[0]
        step = max(1, _SLAB_BYTES // plane)
        back = tuple(int(k) for k in np.argsort(self._order))
        for start in range(0, self._shape[0], step):
            count = min(step, self._shape[0] - start)
            if self._array is not None:
                slab = self._array[start : start + count]
            else:
                data = np.fromfile(self._path, self._image.dtype, count * plane // self._image.dtype.itemsize, offset=start * plane)
                slab = data.reshape(count, *self._shape[1:])
            yield slab.transpose(back)


@dataclass(frozen=True)
class _Numbers:
    """New numbers for the labels of each piece: sorted old ids, and what each becomes."""

    old: list[Array]
    new: list[Array]
    count: int

    def apply(self, piece: int, array: Array) -> Array:
        result: Array = self.new[piece][np.searchsorted(self.old[piece], array)]
        return result


def _join(pieces: Sequence[_Piece], cancel: CancelToken | None) -> _Numbers:
    """Number the labels of all pieces through.

    Labels of two pieces are one if, where the pieces overlap, they share more than half of the voxels that either has there.
    """
    report = Progress("join", len(pieces), None, cancel)
    old: list[Array] = []
    firsts: list[int] = []
    seen = [np.zeros(1, bool)]
    total = 0
    for piece in pieces:
        with closing(_Reader(piece, "labels")) as reader:
            ids = inner = np.zeros(1, reader.dtype)
            for low, high, slab in reader.all():
                if slab.dtype.kind not in "ui" or slab.ndim != 3 or slab.min() < 0:
                    raise SourceError(
                        f"{piece.file}: holds {reader.dtype}{_each(reader.each)}: labels are integers from 0 in three axes"
                    )
                ids = np.union1d(ids, slab)
                inner = np.union1d(inner, piece.core(low, high, slab)[1])
        old.append(ids)
        firsts.append(total)
        seen.append(np.isin(ids[1:], inner))
        total += len(ids) - 1
        report.advance(1)
    # All labels in one row, 0 the background; each leads to the first that it is joined with.
    roots = np.arange(total + 1)

    def root(label: int) -> int:
        while roots[label] != label:
            roots[label] = roots[roots[label]]
            label = int(roots[label])
        return label

    for one, other in _neighbours(pieces):
        for left, right in _shared(pieces[one], pieces[other], old[one], old[other]):
            lower, higher = sorted((root(firsts[one] + left), root(firsts[other] + right)))
            roots[higher] = lower
        report.advance(0)
    # Of a label that has no voxel in the whole, since another chunk saw it otherwise there, no number is used up.
    ends = np.array([root(label) for label in range(total + 1)])
    used = np.unique(ends[np.concatenate(seen)])
    numbers = np.zeros(total + 1, np.uint32)
    numbers[used] = np.arange(1, len(used) + 1)
    numbers = numbers[ends]
    new = [numbers[[0, *range(first + 1, first + len(ids))]] for first, ids in zip(firsts, old, strict=True)]
    return _Numbers(old, new, len(used))


def _shared(one: _Piece, other: _Piece, old_one: Array, old_other: Array) -> Iterator[tuple[int, int]]:
    """Places in the two lists of ids of labels that are the same where the pieces overlap."""
    low = [max(a, b) for a, b in zip(one.starts, other.starts, strict=True)]
    high = [min(a, b) for a, b in zip(one.stops, other.stops, strict=True)]
    found: list[tuple[Array, Array]] = []
    with closing(_Reader(one, "labels")) as first, closing(_Reader(other, "labels")) as second:
        # Files of which one runs along another axis, and perhaps forwards only, are not gone through together.
        together = first.axis == second.axis
        for start, stop in first.slabs(_triple(low), _triple(high)) if together else [(low, high)]:
            i = np.searchsorted(old_one, first.read(start, stop).ravel())
            j = np.searchsorted(old_other, second.read(start, stop).ravel())
            found.append(np.unique(i.astype(np.int64) * len(old_other) + j, return_counts=True))
    pairs, place = np.unique(np.concatenate([keys for keys, _ in found]), return_inverse=True)
    shared = np.bincount(place, np.concatenate([counts for _, counts in found]))
    left, right = np.divmod(pairs, len(old_other))
    union = np.bincount(left, shared)[left] + np.bincount(right, shared)[right] - shared
    same = (2 * shared > union) & (left > 0) & (right > 0)
    yield from zip(left[same].tolist(), right[same].tolist(), strict=True)


def _neighbours(pieces: Sequence[_Piece]) -> Iterator[tuple[int, int]]:
    """Pieces that follow on each other along an axis, and overlap.

    What two pieces share across a corner, they share with the one between them as well.
    """
    place = {piece.index: number for number, piece in enumerate(pieces)}
    for number, piece in enumerate(pieces):
        for axis in range(3):
            i, j, k = (n + (axis == other) for other, n in enumerate(piece.index))
            follower = place.get((i, j, k))
            if follower is not None:
                after = pieces[follower]
                if all(
                    max(a, b) < min(c, d) for a, b, c, d in zip(piece.starts, after.starts, piece.stops, after.stops, strict=True)
                ):
                    yield number, follower


def _each(shape: Sequence[int]) -> str:
    return f" x {shape[0]}" if shape else ""


def _triple(values: Sequence[int]) -> Shape3:
    a, b, c = values
    return a, b, c
