"""A grid of chunks: an image, or a part of it, in pieces that overlap; and what was made of the pieces, put together again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from lsfm_core.durable import new_files_in_folder
from lsfm_core.errors import InputError
from lsfm_core.export._blocks import iter_slabs
from lsfm_core.export._files import numbered
from lsfm_core.export.channel import open_logged, open_planned, read_volume, write_volume
from lsfm_core.export.plan import ExportPlan, chunk_voxels
from lsfm_core.export.request import ExportRequest
from lsfm_core.export.volume import Volume
from lsfm_core.formats import check_output, output_axis, output_paths
from lsfm_core.geometry import Orientation, Shape3, Space, voxel_count
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.provenance import LoggedFile, logged_files, sha256
from lsfm_core.store import LsfmFile

__all__ = ["Chunk", "ChunkBox", "ChunksResult", "export_chunks", "iter_chunks", "lay_out_chunks"]

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
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> ChunksResult:
    """Write the chunks of a grid into a folder, with a manifest that tells where each belongs.

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    began = time.perf_counter()
    if request.output is None:
        raise InputError("grid: name a folder for the chunks, or use iter_chunks to have them one by one")
    pattern = request.output if "%" in request.output.name else request.output / _NAME
    with open_logged("export", request, axis=output_axis(pattern), file=file) as (_, plan, record):
        boxes = lay_out_chunks(plan.target, request)
        names = [numbered(pattern, box.index) for box in boxes]
        outputs = [output_paths(name) for name in names]
        manifest = pattern.with_name(MANIFEST)
        flat = [path for paths in outputs for path in paths]
        with new_files_in_folder([*flat, manifest], request.overwrite) as partials:
            firsts = np.cumsum([0, *map(len, outputs)]).tolist()
            check_output(names[0], plan.image, overwrite=request.overwrite, makes_folder=True)
            report = _report(plan, boxes, progress, cancel)
            rows = []
            for box, name, first in zip(boxes, names, firsts, strict=False):
                part = plan.crop(box.starts, box.stops)
                write_volume(part, partials[first], iter_slabs(part, report), overwrite=False)
                rows.append(_row(box, name, part.target, partials[first]))
            facts = plan.image.facts() | {"format": MANIFEST_FORMAT, "version": MANIFEST_VERSION}
            request_json = request.model_dump(mode="json", exclude_defaults=True)
            size, step = chunk_voxels(
                plan.target.reoriented(plan.target.reorientation_to(Orientation("RAS"))).voxel_size_mm, request
            )
            layout = {
                "chunk_voxels_ras": list(size),
                "overlap_voxels_ras": [a - b for a, b in zip(size, step, strict=True)],
                "request": request_json,
                "chunks": rows,
            }
            partials[-1].write_text(json.dumps(facts | layout, indent=1) + "\n", "utf-8")
        # Of the chunks alone: the manifest tells of the request as well.
        record.output = written = logged_files(request.output, flat)
    return ChunksResult(plan, manifest, len(boxes), time.perf_counter() - began, written)


def _report(plan: ExportPlan, boxes: Sequence[ChunkBox], progress: ProgressCallback | None, cancel: CancelToken | None) -> Progress:
    voxels = sum(voxel_count([b - a for a, b in zip(box.starts, box.stops, strict=True)]) for box in boxes)
    return Progress("export", voxels * plan.dtype.itemsize * plan.components, progress, cancel)


def _row(box: ChunkBox, name: Path, space: Space, written: Path) -> dict[str, object]:
    return {
        "index_ras": list(box.index),
        "file": name.name,
        "start": list(box.starts),
        "shape": list(space.shape),
        "origin_mm": list(space.bounds.lower_mm),
        "size_mm": list(space.bounds.size_mm),
        "world_from_voxel": space.world_from_voxel.tolist(),
        "sha256": _sha256(written),
    }


def _sha256(path: Path) -> str:
    """Of a file, or of all files of a folder in the order of their names."""
    return sha256(*(file for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if file.is_file()))
