"""What a channel's values are in each region: volumes, means, medians, in one pass and in bounded memory.

Labels are looked up for the channel's voxels, and not the channel carried to the labels: then each value counts as it was measured,
once, and the volumes are those of this specimen. Interpolated values would be smoother than the image, and behind a registration
every specimen has the atlas' volumes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import field_validator, model_validator

from lsfm_core._request import told
from lsfm_core.arrays import ChunkCache
from lsfm_core.durable import check_new, new_files
from lsfm_core.errors import ChecksumError, InputError, MemoryBudgetError
from lsfm_core.export._csv import text_cell, write_rows
from lsfm_core.export._divided import files_of, refuse_shard, shared_request
from lsfm_core.export._histograms import Histograms
from lsfm_core.export._names import chains_around, native_space, numeric_remarks, with_way
from lsfm_core.export._opened import inputs_of, opened
from lsfm_core.export._region import find_midline, label_level
from lsfm_core.export._spaces import check_spaces
from lsfm_core.export.plan import BASE_BYTES
from lsfm_core.export.request import SHARD_TIP, TransformRequest
from lsfm_core.geometry import Space, voxel_count
from lsfm_core.parallel import PASSING, Divided, Division, Item, Maker, Part, Share, check_shard, checksum, make_with
from lsfm_core.progress import CancelToken, Progress, ProgressCallback, size_text
from lsfm_core.provenance import Draft, LoggedFile, logged_files, recorded
from lsfm_core.regions import Hemisphere, Label, LabelTable, sweep_blocks
from lsfm_core.resample import LOOPS_BYTES, Resampled, VoxelSource, is_worth_loops
from lsfm_core.store import Level, LsfmFile, open_lsfm
from lsfm_core.threads import default_threads
from lsfm_core.transforms import TransformChain

__all__ = [
    "RegionRow",
    "RegionTable",
    "RegionTablePlan",
    "RegionTableRequest",
    "divide_table",
    "open_table",
    "plan_region_table",
    "region_table",
]

Side = Literal["both", "left", "right"]
Extent = Literal["own", "with_descendants"]

_OPERATION = "region-table"
_SEPARATORS = {".csv": ",", ".txt": ",", ".tsv": "\t"}
#: What counting takes, whatever the block.
_COUNTING_BYTES = 16 * 2**20
#: Part of the memory for the histograms.
_HISTOGRAMS_PART = 0.5


class RegionTableRequest(TransformRequest):
    """What to tell of a channel's values, region by region.

    `transforms`, or `to_space`, lead from the channel to the space where the labels live. Without them that is the channel's own,
    or the way there is found by the names of spaces that the file records.

    Attributes
    ----------
    labels_channel : str
        The channel that tells the region of each voxel.
    level : int
        The pyramid level of the channel whose voxels are counted. Deviations and percentiles of a coarser one are those of means.
    timepoint : int, optional
        BigDataViewer's number of the time that is meant, where the channel was imaged at several. Default: the first.
    side : bool
        Tell of both halves of each region as well.
    midline_mm : float, optional
        R of the plane between the sides, in the world of the labels. Default: the median of all labelled voxels.
    threshold : float, optional
        Tell what volume has values above it.
    percentiles : tuple of float
        Which are told beside the median.
    output : Path, optional
        A table whose name ends in .csv, .tsv (separated by tabs) or .txt.
    overwrite : bool
        Whether `output` may be replaced.
    shard : str, optional
        Measure one part of the channel only, ``"2/3"`` the second of three; `make_shard` carries it out.
    """

    labels_channel: str = told(..., "Labels channel", "The channel that tells the regions")
    level: int = told(0, "Level", "Pyramid level whose voxels are measured", ge=0)
    timepoint: int | None = told(None, "Timepoint", "BigDataViewer's number of the time", empty="the first", ge=0)
    side: bool = told(False, "Sides", "Tell of the left and the right of each region as well")
    midline_mm: float | None = told(
        None, "Midline (mm)", "R between left and right", unit="mm", empty="from the labels", allow_inf_nan=False
    )
    threshold: float | None = told(None, "Threshold", "Tell what volume has values above it", empty="none", allow_inf_nan=False)
    percentiles: tuple[float, ...] = told((5, 25, 75, 95), "Percentiles", "Percentiles beside the median")
    output: Path | None = told(None, "Output", "The table: .csv, .tsv or .txt")
    overwrite: bool = told(False, "Overwrite", "Replace the output if it exists")
    shard: str | None = told(None, "Shard", SHARD_TIP, empty="all of it")

    #: Behind all transforms, whose only purpose it is to lead there.
    labels_in: ClassVar[str] = "output"

    @field_validator("shard")
    @classmethod
    def _check_shard(cls, value: str | None) -> str | None:
        return value if value is None else check_shard(value)

    @field_validator("percentiles")
    @classmethod
    def _check_percentiles(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        wrong = [number for number in value if not 0 <= number <= 100]
        if wrong:
            raise InputError(f"percentiles: expected numbers from 0 to 100, found {', '.join(f'{number:g}' for number in wrong)}")
        return tuple(sorted({*value}))

    @model_validator(mode="after")
    def _check_together(self) -> RegionTableRequest:
        if self.midline_mm is not None and not self.side:
            raise InputError("midline: only sides are divided there: ask for them as well (--side), or leave it out")
        if self.output is not None and self.output.suffix.lower() not in _SEPARATORS:
            raise InputError(f"output {self.output}: is a table: choose a name that ends in {', '.join(_SEPARATORS)}")
        return self


@dataclass(frozen=True, kw_only=True)
class RegionRow:
    """What is known of a region, or of one side of it.

    Attributes
    ----------
    id : int
        0 stands for all voxels in no region: outside of the labels' image, or where the label is 0. It has no sides.
    acronym, name : str
        "" if not known.
    parent : int or None
        The region that it is a part of.
    side : {"both", "left", "right"}
    extent : {"own", "with_descendants"}
        Voxels whose label is the id itself, or those of all parts of the region too.
    voxels : int
        Of the channel's level.
    volume_mm3 : float
        In the channel's own space.
    mean, std, median : float or None
        Of the values; None where there is no voxel. `std` divides by the number of voxels.
    percentiles : tuple of float or None
        Those that were asked for.
    volume_above_mm3, fraction_above : float or None
        Of the voxels whose values are above the threshold.
    """

    id: int
    acronym: str
    name: str
    parent: int | None
    side: Side
    extent: Extent
    voxels: int
    volume_mm3: float
    mean: float | None
    std: float | None
    median: float | None
    percentiles: tuple[float | None, ...]
    volume_above_mm3: float | None
    fraction_above: float | None


@dataclass(frozen=True, eq=False)
class RegionTable:
    """A table of regions.

    Attributes
    ----------
    rows : tuple of RegionRow
        Of all regions that are in the label table or have voxels, and of 0, in the order of ids.
    request : RegionTableRequest
    path : Path or None
        The file that was written.
    warnings : tuple of str
        What the user should look at.
    seconds : float
    written : LoggedFile or None
        Size and checksum of `path`, as the log has them.
    """

    rows: tuple[RegionRow, ...]
    request: RegionTableRequest
    path: Path | None
    warnings: tuple[str, ...]
    seconds: float
    written: LoggedFile | None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `to_pandas` and of the file."""
        above = ("volume_above_mm3", "fraction_above") if self.request.threshold is not None else ()
        each = (f"p{number:g}" for number in self.request.percentiles)
        place = ("region_id", "acronym", "name", "parent_id", "side", "extent")
        return (*place, "voxels", "volume_mm3", "mean", "std", "median", *each, *above)

    def records(self) -> Iterator[tuple[Any, ...]]:
        """The cells of each row, in the order of `columns`."""
        for row in self.rows:
            above = (row.volume_above_mm3, row.fraction_above) if self.request.threshold is not None else ()
            place = (row.id, row.acronym, row.name, row.parent, row.side, row.extent)
            yield (*place, row.voxels, row.volume_mm3, row.mean, row.std, row.median, *row.percentiles, *above)

    def to_pandas(self) -> Any:
        """The table as a `pandas.DataFrame`; what is not known is NaN, or of parents <NA>."""
        import pandas

        frame = pandas.DataFrame.from_records(list(self.records()), columns=list(self.columns))
        return frame.astype({"parent_id": "Int64", **dict.fromkeys(self.columns[7:], np.float64)})


@dataclass(frozen=True)
class RegionTablePlan:
    """Every decision of a region table.

    Attributes
    ----------
    channel : str
    level : Level
        Whose voxels are counted.
    space : Space
        Of that level, in the channel's own world.
    labels : str
    labels_level : Level
        Whose labels are looked up.
    labels_space : Space
    chain : TransformChain
        Maps points of the channel's world to that of the labels.
    copies : bool
        Whether both have the same voxels, so that labels are taken as they are.
    midline_mm : float or None
    loops : bool
        Whether labels are looked up by compiled loops; else by ITK, with the same labels.
    threads : int
    block_bytes : int
        What a thread may take to look labels up.
    histogram_bytes : int
        What all histograms may take.
    peak_bytes : int
    warnings : tuple of str
    """

    channel: str
    level: Level
    space: Space
    labels: str
    labels_level: Level
    labels_space: Space
    chain: TransformChain
    copies: bool
    midline_mm: float | None
    loops: bool
    threads: int
    block_bytes: int
    histogram_bytes: int
    peak_bytes: int
    warnings: tuple[str, ...]
    _way: str = field(repr=False)
    _table: LabelTable = field(repr=False)

    def describe(self) -> str:
        """The plan in words, one fact per line."""
        size = " x ".join(map(str, self.level.shape))
        edges = " x ".join(f"{edge:.6g}" for edge in self.space.voxel_size_mm)
        how = "the same voxels" if self.copies else "the nearest label of each voxel"
        lines = [
            f"reads   channel {self.channel!r}, level {self.level.index}: {size} voxels of {edges} mm, {self.level.dtype}",
            *(f"through {line}" for line in self._way.splitlines()),
            f"labels  of channel {self.labels!r}, level {self.labels_level.index}: {how}; {len(self._table)} in its table",
            *([] if self.midline_mm is None else [f"sides   of R = {self.midline_mm:.3f} mm in the world of the labels"]),
            f"memory  at most {size_text(self.peak_bytes)}, {self.threads} threads",
            *(f"warning {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)


def region_table(
    request: RegionTableRequest,
    *,
    file: LsfmFile | None = None,
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> RegionTable:
    """Measure a channel in every region: volume, mean, deviation, median and percentiles, and what is above a threshold.

    Values of up to 16 bits are counted one by one. Of others the median and the percentiles are within 1/4096 of themselves.

    Parameters
    ----------
    request : RegionTableRequest
    file : LsfmFile, optional
        The request's file, where it is open already.
    executor : concurrent.futures.Executor, optional
        Who counts; docs/clusters.md tells what can be one. Default: threads of this process. It needs an output.
    progress : callable, optional
    cancel : CancelToken, optional

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    refuse_shard(request)
    if executor is not None:
        return _divided(request, file, executor, progress, cancel)
    if request.output is None:
        return _measured(request, file, Draft(request.path, _OPERATION, request), progress, cancel)
    with recorded(request.path, _OPERATION, request) as record:
        result = _measured(request, file, record, progress, cancel)
        record.output = logged_files(request.output, [request.output])
        return replace(result, written=record.output)


def plan_region_table(file: LsfmFile, request: RegionTableRequest) -> RegionTablePlan:
    """Decide everything about a region table, before any voxel is counted.

    Raises
    ------
    LsfmError
        As `region_table`, as far as it can be known beforehand.
    """
    if request.output is not None:
        check_new(request.output, request.overwrite)
        if request.output.resolve() in (file.path.resolve(), file.xml_path.resolve()):
            raise InputError(f"{request.output}: belongs to the file of the channels: choose another name")
    channel, labels = file[request.channel], file[request.labels_channel]
    if channel.kind not in ("image", "labels"):
        raise InputError(f"{file.path}: channel {channel.name!r} holds {channel.kind}, and no single values to measure")
    finest, labels_space = label_level(file, labels, request)
    request = _with_way(file, request)
    warnings = list(check_spaces(file, request))
    levels = channel.levels if request.timepoint is None else file.levels_at(channel.name, request.timepoint)
    if request.level >= len(levels):
        raise InputError(
            f"{file.path}: channel {channel.name!r} has no level {request.level}; it has levels 0 to {len(levels) - 1}"
        )
    level = levels[request.level]
    space = native_space(file, channel, request).level(level.factors, level.shape[:3])
    inward = chains_around(file, request, "output")[0]
    chain = inward.inverse()
    warnings += numeric_remarks(chain)
    midline = None
    if request.side:
        midline = request.midline_mm if request.midline_mm is not None else find_midline(labels, labels_space)
    copies = False
    labels_level = finest
    if not chain.transforms:
        # Where both have the same pyramid, its labels are the most frequent of what each voxel covers.
        for item in labels.levels:
            there = labels_space.level(item.factors, item.shape[:3])
            if there.same_grid(space):
                copies, labels_level, labels_space = True, item, there
                break
    level.data.check_decodable()
    labels_level.data.check_decodable()
    block = max(voxel_count(np.subtract(stop, start).tolist()) for start, stop in _blocks(level))
    each = block * (level.dtype.itemsize + 4) + _COUNTING_BYTES
    lookup = max(block * 16, 16 * 2**20)
    available = request.memory_bytes - BASE_BYTES - level.data.decode_bytes - labels_level.data.decode_bytes
    loops = not copies and is_worth_loops(space, chain, "nearest") and available >= 2 * LOOPS_BYTES
    available -= LOOPS_BYTES if loops else 0
    histograms = int(available * _HISTOGRAMS_PART)
    most = (available - histograms) // (each + lookup)
    if most < 1:
        need = int(BASE_BYTES + level.data.decode_bytes + labels_level.data.decode_bytes + (each + lookup) / (1 - _HISTOGRAMS_PART))
        raise MemoryBudgetError(
            f"{file.path}: channel {channel.name!r}: a region table needs at least {size_text(need)} of memory, "
            f"{size_text(request.memory_bytes)} were given: raise the memory"
        )
    threads = int(min(request.threads or default_threads(), most))
    return RegionTablePlan(
        channel=channel.name,
        level=level,
        space=space,
        labels=labels.name,
        labels_level=labels_level,
        labels_space=labels_space,
        chain=chain,
        copies=copies,
        midline_mm=midline,
        loops=loops,
        threads=threads,
        block_bytes=lookup,
        histogram_bytes=histograms,
        peak_bytes=request.memory_bytes - (available - histograms) + threads * (each + lookup),
        warnings=tuple(warnings),
        _way=inward.describe() if inward.transforms else "",
        _table=LabelTable.from_json(file.label_table(labels.name)),
    )


def _with_way(file: LsfmFile, request: RegionTableRequest) -> RegionTableRequest:
    """The request with the transforms that lead to the labels, where it names none and the spaces of both are recorded."""
    here, there = file[request.channel].space_name, file[request.labels_channel].space_name
    if not request.transforms and request.to_space is None and None not in (here, there) and here != there:
        request = request.model_copy(update={"to_space": there})
    return with_way(file, request)


def _measured(
    request: RegionTableRequest,
    file: LsfmFile | None,
    record: Draft,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> RegionTable:
    began = time.perf_counter()
    with open_table(request, file, record) as (_, plan):
        keys = _Keys()
        histograms = Histograms(plan.level.dtype, request.threshold, plan.histogram_bytes * 3 // 4)
        report = Progress("regions", plan.level.data.nbytes, progress, cancel)
        _count(plan, keys, histograms, _blocks(plan.level), report)
    table = _table_of(request, plan, keys, histograms)
    if request.output is not None:
        with new_files([request.output], request.overwrite) as (partial,):
            _write(partial, table, _SEPARATORS[request.output.suffix.lower()])
    return replace(table, seconds=time.perf_counter() - began)


@contextmanager
def open_table(
    request: RegionTableRequest, file: LsfmFile | None, record: Draft | None = None
) -> Iterator[tuple[LsfmFile, RegionTablePlan]]:
    """The file of a request, open, and the plan for it."""
    with ExitStack() as stack:
        file = opened(request, file, stack)
        with file.cache.limited(file.cache.max_bytes, request.memory_bytes - BASE_BYTES):
            plan = plan_region_table(file, request)
        if record is not None:
            record.open(file.path, file.named_xml)
            record.inputs = inputs_of(file, _with_way(file, request), None)
        # Blocks that lie beside each other look labels up in the same chunks.
        stack.enter_context(file.cache.limited(plan.histogram_bytes // 4, request.memory_bytes - BASE_BYTES))
        yield file, plan


def _table_of(request: RegionTableRequest, plan: RegionTablePlan, keys: _Keys, histograms: Histograms) -> RegionTable:
    warnings = list(plan.warnings)
    if histograms.non_finite:
        warnings.append(f"{histograms.non_finite} values are infinite or no numbers: they count as voxels, and as nothing else")
    if histograms.codes == [0]:
        warnings.append(
            f"no voxel is in a region of channel {plan.labels!r}: do its labels lie where the transforms lead, or in the "
            "channel's own space?"
        )
    rows = tuple(_rows(request, plan, keys, histograms))
    return RegionTable(rows, request, request.output, tuple(warnings), 0.0, None)


# --- in items -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Counts(Division):
    request: RegionTableRequest

    @contextmanager
    def opened(self, share: Share) -> Iterator[Maker]:
        request: RegionTableRequest = shared_request(self.request, share)
        with (
            open_lsfm(request.path, cache=ChunkCache(0), detached=True) as file,
            open_table(request, file) as (_, plan),
        ):

            def make(item: Item, place: Path, cancel: CancelToken) -> list[Path]:
                keys = _Keys()
                histograms = Histograms(plan.level.dtype, request.threshold, plan.histogram_bytes * 3 // 4)
                blocks = sweep_blocks(plan.level.data, item.starts, item.stops)
                _count(plan, keys, histograms, blocks, Progress("regions", 0, None, cancel))
                path = place / f"{item.number:07d}{PASSING}"
                counted: dict[str, Any] = histograms.dump() | {"ids": np.array([*keys.numbers], plan.labels_level.dtype)}
                with path.open("wb") as file:
                    np.savez_compressed(file, **counted)
                return [path]

            yield make

    def inputs(self) -> list[Path]:
        return files_of(self.request)


def divide_table(plan: RegionTablePlan, request: RegionTableRequest, tables: list[RegionTable] | None = None) -> Divided:
    """Bars of blocks are an item each; whoever joins adds up what was counted, and puts the table into `tables` as well."""
    assert request.output is not None
    output = request.output

    def join(parts: Iterable[Part], overwrite: bool) -> LoggedFile:
        keys = _Keys()
        histograms = Histograms(plan.level.dtype, request.threshold, plan.histogram_bytes * 3 // 4)
        for part in parts:
            _absorb(part, keys, histograms)
        table = _table_of(request, plan, keys, histograms)
        with new_files([output], overwrite) as (partial,):
            _write(partial, table, _SEPARATORS[output.suffix.lower()])
        if tables is not None:
            tables.append(table)
        return logged_files(output, [output])

    bars = dict.fromkeys((start[:2], stop[:2]) for start, stop in _blocks(plan.level))
    width, voxel = plan.level.shape[2], plan.level.dtype.itemsize
    items = [
        Item(number, f"planes {a} to {c - 1}, rows {b} to {d - 1}", (a, b, 0), (c, d, width), (c - a) * (d - b) * width * voxel)
        for number, ((a, b), (c, d)) in enumerate(bars)
    ]
    return Divided(
        operation=_OPERATION,
        request=request,
        plan=plan,
        division=_Counts(request.model_copy(update={"shard": None, "output": None})),
        items=items,
        output=output,
        folder=None,
        outputs=(output,),
        check=lambda overwrite: check_new(output, overwrite),
        join=join,
        threads=request.threads,
        warnings=plan.warnings,
    )


def _absorb(part: Part, keys: _Keys, histograms: Histograms) -> None:
    (path,) = part.paths
    if checksum(path)[1] != part.digests[0]:
        raise ChecksumError(f"{path}: {part.item.name}: is not as it was made by {part.host}")
    with np.load(path, allow_pickle=False) as dumped:
        counted = {name: dumped[name] for name in dumped.files}
    own = [keys.numbers.setdefault(key, len(keys.numbers)) for key in counted.pop("ids").tolist()]
    histograms.absorb(counted, lambda code: 2 * own[code // 2] + code % 2)


def _divided(
    request: RegionTableRequest,
    file: LsfmFile | None,
    executor: Executor,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> RegionTable:
    began = time.perf_counter()
    if request.output is None:
        raise InputError("executor: makes what stands in an output: name one")
    tables: list[RegionTable] = []
    with recorded(request.path, _OPERATION, request) as record, open_table(request, file, record) as (_, plan):
        divided = divide_table(plan, request, tables)
        record.output = make_with(divided, executor, overwrite=request.overwrite, progress=progress, cancel=cancel)
    return replace(tables[0], seconds=time.perf_counter() - began, written=record.output)


# --- counting -------------------------------------------------------------------------------------------------------------------


class _Keys:
    """Numbers for ids, as they come: 0 for 0. Twice the number is the code of the right side, or of both, one more of the left."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {0: 0}
        self._lock = threading.Lock()

    def of(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
        """The number of each id of an array of any shape."""
        flat = ids.reshape(-1)
        # Regions are large: a number is looked up once for each run of an id, not for each voxel.
        starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        found, places = np.unique(flat[starts], return_inverse=True)
        with self._lock:
            numbers = np.array([self.numbers.setdefault(key, len(self.numbers)) for key in found.tolist()], np.uint32)
        return np.repeat(numbers[places], np.diff(starts, append=flat.size)).reshape(ids.shape)


def _count(
    plan: RegionTablePlan,
    keys: _Keys,
    histograms: Histograms,
    blocks: Iterable[tuple[tuple[int, ...], tuple[int, ...]]],
    report: Progress,
) -> None:
    """Put every voxel of some blocks of the channel into the histogram of its region and side."""
    side = None if plan.midline_mm is None else Hemisphere("left", plan.midline_mm, plan.labels_space)
    labels = plan.labels_level.data

    def read(low: Sequence[int], high: Sequence[int]) -> npt.NDArray[np.uint32]:
        """Codes of a box of the labels' voxels."""
        codes = keys.of(labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].read())
        codes *= 2
        if side is not None:
            codes += side.mask(low, high) & (codes > 0)
        return codes

    # The ids as they are read, and their runs; codes, and the mask of a side.
    source = VoxelSource(plan.labels_space, np.dtype(np.uint32), (), read, 2 * labels.dtype.itemsize + 16)
    name = f"labels of channel {plan.labels!r}"
    carried = Resampled(source, plan.space, plan.chain, "nearest", 0, max_bytes=plan.block_bytes, name=name, loops=plan.loops)

    def measure(box: tuple[tuple[int, ...], tuple[int, ...]]) -> int:
        start, stop = box
        codes = read(start, stop) if plan.copies else carried.read_box(start, stop)
        values = plan.level.data[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].read(cached=False)
        histograms.add(codes.reshape(-1), values.reshape(-1))
        return int(values.nbytes)

    with ThreadPoolExecutor(plan.threads, thread_name_prefix="lsfm-regions") as pool:
        try:
            for nbytes in pool.map(measure, blocks):
                report.advance(nbytes)
        finally:
            pool.shutdown(cancel_futures=True)


def _blocks(level: Level) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    return sweep_blocks(level.data, (0, 0, 0), level.shape)


# --- the table ------------------------------------------------------------------------------------------------------------------


def _rows(request: RegionTableRequest, plan: RegionTablePlan, keys: _Keys, histograms: Histograms) -> Iterator[RegionRow]:
    table = plan._table
    has_tree = any(label.parent is not None for label in table.values())
    ids = sorted({0, *table, *(key for key, number in keys.numbers.items() if histograms.voxels((2 * number, 2 * number + 1)))})
    wanted = (50.0, *request.percentiles)
    each = plan.space.voxel_volume_mm3
    for key in ids:
        label = table.get(key, Label(key, "")) if key else Label(0, "no region")
        extents: dict[Extent, tuple[int, ...]] = {"own": (key,)}
        if has_tree and key:
            extents["with_descendants"] = table.descendants(key)
        for side in ("both", "left", "right") if request.side and key else ("both",):
            for extent, parts in extents.items():
                numbers = [keys.numbers[part] for part in parts if part in keys.numbers]
                offsets = {"both": (0, 1), "left": (1,), "right": (0,)}[side]
                codes = [2 * number + offset for number in numbers for offset in offsets]
                voxels = histograms.voxels(codes)
                found = histograms.measures(codes, wanted)
                yield RegionRow(
                    id=key,
                    acronym=label.acronym or "",
                    name=label.name,
                    parent=label.parent,
                    side=side,
                    extent=extent,
                    voxels=voxels,
                    volume_mm3=voxels * each,
                    mean=found.mean,
                    std=found.std,
                    median=found.percentiles[0],
                    percentiles=found.percentiles[1:],
                    volume_above_mm3=None if found.above is None else found.above * each,
                    fraction_above=None if found.above is None or not voxels else found.above / voxels,
                )


def _write(path: Path, table: RegionTable, separator: str) -> None:
    rows = (separator.join(_cell(value, separator) for value in record) for record in table.records())
    write_rows(path, [separator.join(table.columns)], rows)


def _cell(value: Any, separator: str) -> str:
    if isinstance(value, str):
        return text_cell(value, separator)
    # Many images keep their voxel size in float32, of whose digits no more mean something.
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.7g}"
