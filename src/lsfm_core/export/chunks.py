"""A grid of chunks: an image, or a part of it, in pieces that overlap; and what was made of the pieces, put together again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lsfm_core.durable import new_files_in_folder
from lsfm_core.errors import InputError
from lsfm_core.export._blocks import iter_slabs
from lsfm_core.export._divided import check_absent, files_of, logged_parts, put_part, refuse_shard, shared_plan
from lsfm_core.export._files import numbered
from lsfm_core.export._opened import open_logged, open_planned
from lsfm_core.export.channel import read_volume, write_volume
from lsfm_core.export.plan import ExportPlan, chunk_voxels
from lsfm_core.export.request import ExportRequest
from lsfm_core.export.volume import Volume
from lsfm_core.formats import check_output, output_axis, output_paths
from lsfm_core.geometry import Orientation, Shape3, Space, voxel_count
from lsfm_core.parallel import Divided, Division, Item, Maker, Part, Share, checksum, make_with
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.provenance import LoggedFile, logged_files
from lsfm_core.store import LsfmFile

__all__ = ["Chunk", "ChunkBox", "ChunkLayout", "ChunksResult", "divide_chunks", "export_chunks", "iter_chunks", "lay_out_chunks"]

MANIFEST = "manifest.json"
MANIFEST_FORMAT = "lsfm chunks"
MANIFEST_VERSION = 1
_MOST_CHUNKS = 1_000_000
_NAME = "chunk_%02d_%02d_%02d.nii.gz"


@dataclass(frozen=True)
class ChunkBox:
    """One chunk of a grid.

    Attributes
    ----------
    index : tuple of 3 int
        Its number along R, A and S, from 0.
    starts, stops : tuple of 3 int
        Its voxels in the whole result, array order.
    """

    index: Shape3
    starts: Shape3
    stops: Shape3


@dataclass(frozen=True)
class Chunk:
    """A chunk and its voxels."""

    box: ChunkBox
    volume: Volume


@dataclass(frozen=True)
class ChunksResult:
    """What an export of chunks gave.

    Attributes
    ----------
    plan : ExportPlan
        Of the whole.
    manifest : Path
        JSON file that lists the chunks; see docs/exports.md.
    count : int
    seconds : float
    written : LoggedFile
        Size and checksum of the chunks, as the log has them.
    """

    plan: ExportPlan
    manifest: Path
    count: int
    seconds: float
    written: LoggedFile

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should look at."""
        return self.plan.warnings


def lay_out_chunks(whole: Space, request: ExportRequest) -> list[ChunkBox]:
    """Divide a grid into the request's chunks, the first at the smallest R, A, S; the last ones end where the grid does.

    Raises
    ------
    InputError
        If there would be too many, or they overlap altogether.
    """
    reorientation = whole.reorientation_to(Orientation("RAS"))
    ras = whole.reoriented(reorientation)
    size, step = chunk_voxels(ras.voxel_size_mm, request)
    # What reaches no further than the overlap with the one before would add nothing.
    counts = [max(1, -(-(n - s + t) // t)) for n, s, t in zip(ras.shape, size, step, strict=True)]
    if voxel_count(counts) > _MOST_CHUNKS:
        raise InputError(
            f"grid: {' x '.join(map(str, counts))} chunks are more than {_MOST_CHUNKS}: make them larger than "
            f"{' x '.join(map(str, size))} voxels"
        )
    boxes = []
    for i, j, k in product(*map(range, counts)):
        low = [number * t for number, t in zip((i, j, k), step, strict=True)]
        high = [min(start + s, n) for start, s, n in zip(low, size, ras.shape, strict=True)]
        x, y, z = reorientation.source_ranges(low, high, whole.shape)
        boxes.append(ChunkBox((i, j, k), (x.start, y.start, z.start), (x.stop, y.stop, z.stop)))
    return boxes


def iter_chunks(
    request: ExportRequest,
    *,
    file: LsfmFile | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Iterator[Chunk]:
    """The chunks of a grid one by one, each made when it is asked for.

    Raises
    ------
    LsfmError
    """
    with open_planned(request, axis=2, file=file) as (_, plan):
        boxes = lay_out_chunks(plan.target, request)
        report = _report(plan, boxes, progress, cancel)
        for box in boxes:
            yield Chunk(box, read_volume(plan.crop(box.starts, box.stops), report))


def export_chunks(
    request: ExportRequest,
    *,
    file: LsfmFile | None = None,
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> ChunksResult:
    """Write the chunks of a grid into a folder, with a manifest that tells where each belongs.

    Parameters
    ----------
    request : ExportRequest
    file : LsfmFile, optional
        The request's file, where it is open already.
    executor : concurrent.futures.Executor, optional
        Who makes the chunks; docs/clusters.md tells what can be one. Default: threads of this process.
    progress : callable, optional
    cancel : CancelToken, optional

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    began = time.perf_counter()
    refuse_shard(request)
    if request.output is None:
        raise InputError("grid: name a folder for the chunks, or use iter_chunks to have them one by one")
    with open_logged("export", request, axis=output_axis(ChunkLayout.pattern(request.output)), file=file) as (_, plan, record):
        layout = ChunkLayout.of(plan, request, request.output)
        if executor is not None:
            written = make_with(
                divide_chunks(plan, request, layout), executor, overwrite=request.overwrite, progress=progress, cancel=cancel
            )
        else:
            report = _report(plan, layout.boxes, progress, cancel)
            with layout.put(request.overwrite) as (partials, rows):
                for box, name, own in zip(layout.boxes, layout.names, partials, strict=True):
                    part = plan.crop(box.starts, box.stops)
                    write_volume(part, own[0], iter_slabs(part, report), overwrite=False)
                    rows.append(_row(box, name, part.target, checksum(own[0])[1]))
            # Of the chunks alone: the manifest tells of the request as well.
            written = logged_files(request.output, layout.files)
        record.output = written
    return ChunksResult(plan, layout.manifest, len(layout.boxes), time.perf_counter() - began, written)


@dataclass(frozen=True)
class ChunkLayout:
    """The chunks of a grid as files.

    Attributes
    ----------
    plan : ExportPlan
        Of the whole.
    request : ExportRequest
    boxes : list of ChunkBox
    names : list of Path
        Of the chunks.
    outputs : list of list of Path
        Each with what belongs to it.
    manifest : Path
    """

    plan: ExportPlan
    request: ExportRequest
    boxes: list[ChunkBox]
    names: list[Path]
    outputs: list[list[Path]]
    manifest: Path

    @classmethod
    def of(cls, plan: ExportPlan, request: ExportRequest, output: Path) -> ChunkLayout:
        """As the request has them."""
        pattern, boxes = cls.pattern(output), lay_out_chunks(plan.target, request)
        names = [numbered(pattern, box.index) for box in boxes]
        return cls(plan, request, boxes, names, [output_paths(name) for name in names], pattern.with_name(MANIFEST))

    @staticmethod
    def pattern(output: Path) -> Path:
        """The name of a chunk, with places for its numbers."""
        return output if "%" in output.name else output / _NAME

    @property
    def files(self) -> list[Path]:
        """All but the manifest."""
        return [path for paths in self.outputs for path in paths]

    def check(self, overwrite: bool) -> None:
        """Refuse what cannot be made."""
        check_output(self.names[0], self.plan.image, overwrite=overwrite, makes_folder=True)

    @contextmanager
    def put(self, overwrite: bool) -> Iterator[tuple[list[list[Path]], list[dict[str, object]]]]:
        """Names to write the chunks under, and the manifest's rows, which are to be filled; all get their names together."""
        with new_files_in_folder([*self.files, self.manifest], overwrite) as partials:
            self.check(overwrite)
            rest = iter(partials)
            rows: list[dict[str, object]] = []
            yield [[next(rest) for _ in paths] for paths in self.outputs], rows
            partials[-1].write_text(json.dumps(self._facts(rows), indent=1) + "\n", "utf-8")

    def _facts(self, rows: Sequence[dict[str, object]]) -> dict[str, object]:
        target = self.plan.target
        size, step = chunk_voxels(target.reoriented(target.reorientation_to(Orientation("RAS"))).voxel_size_mm, self.request)
        shards = {} if self.request.shard is None else {"shards": int(self.request.shard.partition("/")[2])}
        return {
            **self.plan.image.facts(),
            "format": MANIFEST_FORMAT,
            "version": MANIFEST_VERSION,
            "chunk_voxels_ras": list(size),
            "overlap_voxels_ras": [a - b for a, b in zip(size, step, strict=True)],
            "request": self.request.model_dump(mode="json", exclude_defaults=True, exclude={"shard"}),
            **shards,
            "chunks": list(rows),
        }


@dataclass(frozen=True)
class _Chunks(Division):
    request: ExportRequest
    axis: int

    @contextmanager
    def opened(self, share: Share) -> Iterator[Maker]:
        with shared_plan(self.request, share, self.axis) as (_, plan):

            def make(item: Item, place: Path, cancel: CancelToken) -> list[Path]:
                part = plan.crop(item.starts, item.stops)
                path = place / item.name
                write_volume(part, path, iter_slabs(part, Progress("export", 0, None, cancel)), overwrite=False)
                return output_paths(path)

            yield make

    def inputs(self) -> list[Path]:
        return files_of(self.request)


def divide_chunks(plan: ExportPlan, request: ExportRequest, layout: ChunkLayout) -> Divided:
    """Each chunk an item."""
    assert request.output is not None

    def join(parts: Iterable[Part], overwrite: bool) -> LoggedFile:
        made = []
        with layout.put(overwrite) as (partials, rows):
            for part, box, name, own in zip(parts, layout.boxes, layout.names, partials, strict=True):
                for source, partial in zip(part.paths, own, strict=True):
                    put_part(source, partial)
                row = _row(box, name, plan.target.crop(box.starts, box.stops), part.digests[0])
                rows.append(row if part.shard is None else row | {"shard": part.shard})
                made.append(part)
        return logged_parts(layout.request.output, layout.files, made)

    items = [
        Item(number, name.name, box.starts, box.stops, _nbytes(plan, box))
        for number, (box, name) in enumerate(zip(layout.boxes, layout.names, strict=True))
    ]
    return Divided(
        operation="export",
        request=request,
        plan=plan,
        division=_Chunks(request.model_copy(update={"shard": None}), output_axis(layout.names[0])),
        items=items,
        output=request.output,
        folder=layout.manifest.parent,
        outputs=(layout.manifest,),
        check=lambda overwrite: (
            layout.check(overwrite) if overwrite else check_absent([*layout.files, layout.manifest], layout.check)
        ),
        join=join,
        threads=request.threads,
        warnings=plan.warnings,
    )


def _nbytes(plan: ExportPlan, box: ChunkBox) -> int:
    return voxel_count([b - a for a, b in zip(box.starts, box.stops, strict=True)]) * plan.dtype.itemsize * plan.components


def _report(plan: ExportPlan, boxes: Sequence[ChunkBox], progress: ProgressCallback | None, cancel: CancelToken | None) -> Progress:
    return Progress("export", sum(_nbytes(plan, box) for box in boxes), progress, cancel)


def _row(box: ChunkBox, name: Path, space: Space, sha256: str) -> dict[str, object]:
    return {
        "index_ras": list(box.index),
        "file": name.name,
        "start": list(box.starts),
        "shape": list(space.shape),
        "origin_mm": list(space.bounds.lower_mm),
        "size_mm": list(space.bounds.size_mm),
        "world_from_voxel": space.world_from_voxel.tolist(),
        "sha256": sha256,
    }
