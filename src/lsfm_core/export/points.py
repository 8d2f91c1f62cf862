"""Points, such as cells, carried along the way that images go, and counted by region.

A chain maps the output to the image; points that are found in the image go the other way, through its inverse.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import chain as joined
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import field_serializer, field_validator, model_validator

from lsfm_core._request import told
from lsfm_core.durable import check_new, new_files
from lsfm_core.errors import InputError, MemoryBudgetError
from lsfm_core.export._brainglobe import write_all_points, write_summary
from lsfm_core.export._csv import text_cell, write_rows
from lsfm_core.export._markers import write_markers
from lsfm_core.export._names import chains_around, native_space, numeric_remarks, open_chain, reference_space, with_way
from lsfm_core.export._opened import inputs_of, opened
from lsfm_core.export._region import find_midline, label_level
from lsfm_core.export._spaces import check_spaces
from lsfm_core.export.plan import BASE_BYTES
from lsfm_core.export.point_files import COLUMNS, Place, PointListTable, is_markers, open_table
from lsfm_core.export.request import TransformRequest
from lsfm_core.geometry import Space
from lsfm_core.progress import CancelToken, Progress, ProgressCallback, size_text
from lsfm_core.provenance import Draft, LoggedFile, logged_files, recorded
from lsfm_core.regions import Hemisphere, Label, LabelTable, count_sides
from lsfm_core.store import LsfmFile
from lsfm_core.threads import default_threads
from lsfm_core.transforms import TransformChain

__all__ = ["PointsRequest", "PointsResult", "RegionCount", "RegionMeasures", "describe_points", "transform_points"]

FloatArray = npt.NDArray[np.float64]

_ADDED: dict[Place, tuple[str, str, str]] = {
    "native-voxel": ("z_vox", "y_vox", "x_vox"),
    "native-mm": ("R_mm", "A_mm", "S_mm"),
    "output-mm": ("R_mm", "A_mm", "S_mm"),
    "output-voxel": ("i_vox", "j_vox", "k_vox"),
}
_OPERATION = "transform-points"
_TABLES = (".csv", ".tsv", ".txt")
_MARKERS = ".xml"
_OTHER = {"native": "output", "output": "native"}
#: Of a region, of its left and of its right.
_MEASURES = (
    "count",
    "count_with_descendants",
    "volume_mm3",
    "volume_with_descendants_mm3",
    "density_per_mm3",
    "density_with_descendants_per_mm3",
)
_PLACES = {
    "native-voxel": "voxels of the image",
    "native-mm": "mm in the image's world",
    "output-mm": "mm behind the transforms",
    "output-voxel": "voxels of the reference",
}
#: 1 nm, and a millionth of a voxel.
_DECIMALS = 6
#: A point on the face between two voxels belongs to the one with the larger index, whatever the rounding. Voxels.
_FACE_SLACK = 1e-9
#: Positions in all spaces, their copies while they are mapped, and the order of the chunks that they lie in.
_POINT_BYTES = 256
#: A crop of a displacement field, as stored and as it is worked with.
_FIELD_BYTES = 64 * 2**20
_ROWS_AT_ONCE = 2**16
#: Rows that are worth that the compiled loop is loaded, and numbers of which it tells all decimals as Python does.
_MANY_ROWS = 2**18
_LARGEST = 1e9


class PointsRequest(TransformRequest):
    """Points to carry from one space to another, and what to tell of them.

    Positions are told in one of four ways. ``native-voxel``: indices of the channel's voxels in array order (planes, rows,
    columns), whole numbers being voxel centres. ``native-mm``: R, A, S in the channel's own world. ``output-mm``: R, A, S behind
    the transforms, without any the same as native-mm. ``output-voxel``: indices of the voxels of `reference` in the order of its
    exports, i, j, k: that of nibabel for a file, R, A, S for a channel.

    Attributes
    ----------
    points : path or array-like (n, 3)
        A CSV file, the XML of cellfinder or of ImageJ's Cell Counter, or the positions themselves.
    columns : tuple of 3 str, optional
        The columns of the CSV file that hold the positions, in the order above. Default: by their names, see docs/points.md.
    marker_type : tuple of int, optional
        Which markers of an XML file are meant. Default: 2, cellfinder's cells.
    source, target : {"native-voxel", "native-mm", "output-mm", "output-voxel"}
        What the positions are, and what they become.
    level : int, optional
        The pyramid level whose voxels native-voxel indices count. Default 0.
    reference : str, optional
        For output-voxel: a channel of the file, or the path of an image.
    labels_channel : str, optional
        The channel that tells the region of each point.
    labels_in : str
        The space the labels live in: as in `RegionSelection`.
    midline_mm : float, optional
        R of the plane between the sides that counts are told by, in the world of the labels. Default: the median of all labelled
        voxels.
    counts : Path or True, optional
        A CSV file for the counts per region; True: count for the result only.
    output : Path, optional
        A CSV file with the columns of the input, the positions in the target, and the regions; or, of voxels of the channel, the
        XML that cellfinder reads.
    layout : {"own", "brainglobe"}
        ``brainglobe``: `output` and `counts` have the columns of brainmapper's ``all_points.csv`` and ``summary.csv`` instead.
        Positions are voxels of the channel and of the atlas as they are stored; the atlas is `reference`, or else `labels_channel`.
    overwrite : bool
        Whether `output` and `counts` may be replaced.

    The names of both end in .csv, .tsv or .txt, or, of `output`, in .xml.
    """

    points: Any = told(..., "Points", "A table of points (CSV), or the XML of cellfinder or of ImageJ's Cell Counter")
    columns: tuple[str, str, str] | None = told(
        None, "Columns", "The columns of a table that hold the positions, in the order of their space", empty="by their names"
    )
    marker_type: tuple[int, ...] | None = told(
        None, "Type of marker", "Which markers of an XML file are meant; cellfinder's cells are of type 2", empty="2: cells"
    )
    source: Place = told("native-voxel", "They are", "What the positions are; mm are R, A, S", words=_PLACES)
    target: Place = told("output-mm", "They become", "What the positions are to become; mm are R, A, S", words=_PLACES)
    level: int | None = told(None, "Level", "The level of the pyramid whose voxels are counted", empty="0, the finest", ge=0)
    reference: str | None = told(
        None, "Reference", "The channel or image whose voxels are meant, where positions are voxels of the output", empty="none"
    )
    labels_channel: str | None = told(None, "Labels", "The channel whose labels tell the region of each point", empty="none")
    labels_in: str = told(
        "native", "Labels lie in", "The space the labels live in: that of the image, or one that transforms lead to"
    )
    midline_mm: float | None = told(
        None,
        "Midline (mm)",
        "R of the plane between the hemispheres, by which points are counted for each side",
        unit="mm",
        empty="from the labels",
        allow_inf_nan=False,
    )
    counts: Path | Literal[True] | None = told(
        None, "Counts", "A table (CSV) of how many points are in each region, its volume and density", empty="none"
    )
    output: Path | None = told(
        None,
        "Table",
        "The points' table with the new positions and the regions (CSV); of voxels of the channel also cellfinder's XML",
        empty="none: into the viewer only",
    )
    layout: Literal["own", "brainglobe"] = told(
        "own",
        "Columns are",
        "Whether the tables have the columns of brainmapper's all_points.csv and summary.csv",
        words={"own": "the input's, and ours", "brainglobe": "BrainGlobe's"},
    )
    overwrite: bool = told(False, "Existing files", "Whether files of these names may be replaced", words="may be replaced")

    @field_validator("points")
    @classmethod
    def _check_points(cls, value: Any) -> Path | FloatArray:
        if isinstance(value, (str, os.PathLike)):
            return Path(value)
        try:
            points = np.array(value, np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"points: neither the path of a CSV file nor an array of numbers: {error}") from error
        if points.size == 0:
            return points.reshape(0, 3)
        if points.ndim != 2 or points.shape[1] != 3:
            raise InputError(f"points: expected an array (n, 3), found one of shape {points.shape}")
        wrong = np.flatnonzero(~np.isfinite(points).all(axis=1))
        if len(wrong):
            more = f" (and {len(wrong) - 10} more)" if len(wrong) > 10 else ""
            raise InputError(f"points: not finite at {', '.join(map(str, wrong[:10].tolist()))}{more}: correct or remove them")
        return points

    @field_serializer("points", when_used="json")
    def _name_points(self, value: Any) -> str | dict[str, str]:
        # What Python held in its memory has no name.
        return str(value) if isinstance(value, Path) else {"type": type(value).__name__}

    @model_validator(mode="after")
    def _check_together(self) -> PointsRequest:
        ends = (self.source, self.target)
        if self.columns is not None and not isinstance(self.points, Path):
            raise InputError("columns: only a CSV file has them; an array has its columns in the order of its space")
        if self.reference is None and "output-voxel" in ends:
            raise InputError("output-voxel: needs a reference, the channel or image whose voxels are meant")
        self._check_layout()
        if self.reference is not None and "output-voxel" not in ends and self.layout == "own":
            raise InputError("reference: its voxels only matter from or to output-voxel")
        if self.level is not None and "native-voxel" not in ends:
            raise InputError("level: only matters from or to native-voxel")
        if self.labels_channel is None and self.counts is not None:
            raise InputError("counts: needs the channel that tells the regions (labels_channel)")
        if self.labels_channel is None and self.labels_in != "native":
            raise InputError("labels_in: tells where labels live: give their channel as well (labels_channel), or leave it out")
        if self.midline_mm is not None and self.counts is None:
            raise InputError("midline: only counts are told by side: ask for them as well, or leave it out")
        if self.marker_type is not None and not is_markers(self.points):
            raise InputError("marker_type: only an XML file of markers has types: leave it out")
        if is_markers(self.points) and (self.source != "native-voxel" or self.columns is not None):
            raise InputError(f"points: {self.points} is native-voxel: planes, rows and columns, of which none need to be named")
        if is_markers(self.output) and self.target != "native-voxel":
            raise InputError(f"output {self.output}: XML holds native-voxel positions: ask for these, or name a CSV file")
        for name, path in (("output", self.output), ("counts", self.counts)):
            if isinstance(path, Path) and path.suffix.lower() not in (*_TABLES, *([_MARKERS] if name == "output" else [])):
                raise InputError(f"{name} {path}: is written as CSV: choose a name that ends in {', '.join(_TABLES)}")
        tables = [path.resolve() for path in (self.points, self.output) if isinstance(path, Path)]
        if isinstance(self.counts, Path) and self.counts.resolve() in tables:
            raise InputError(f"counts: {self.counts} is the table of the points as well: choose another name")
        return self

    def _check_layout(self) -> None:
        if self.layout == "own":
            return
        if self.labels_channel is None:
            raise InputError("layout: BrainGlobe's tables tell regions: give the channel of the labels (labels_channel)")
        if not isinstance(self.output, Path) and not isinstance(self.counts, Path):
            raise InputError("layout: tells of files: name the table of the points (output), or the counts")
        if is_markers(self.output):
            raise InputError(f"output {self.output}: BrainGlobe's table of points is CSV: choose such a name")
        if self.target.startswith("native"):
            raise InputError(f"target {self.target}: BrainGlobe's tables tell of the atlas: leave the target out")


@dataclass(frozen=True, kw_only=True)
class RegionMeasures:
    """Points of a region, and its size: its own, where the label is its id, and with those of all its parts.

    Attributes
    ----------
    count : int
    count_with_descendants : int or None
        None if the label table has no tree.
    volume_mm3 : float or None
        Of the voxels with this id; None for 0.
    volume_with_descendants_mm3 : float or None
    """

    count: int
    count_with_descendants: int | None
    volume_mm3: float | None
    volume_with_descendants_mm3: float | None

    @property
    def density_per_mm3(self) -> float | None:
        """Points per mm3 of the region's own voxels; None if it has none."""
        return self.count / self.volume_mm3 if self.volume_mm3 else None

    @property
    def density_with_descendants_per_mm3(self) -> float | None:
        """Points per mm3 of the region with all its parts; None if these have no voxels."""
        if self.count_with_descendants is None or not self.volume_with_descendants_mm3:
            return None
        return self.count_with_descendants / self.volume_with_descendants_mm3


@dataclass(frozen=True, kw_only=True)
class RegionCount(RegionMeasures):
    """How many points are in a region, and on which side of it.

    Attributes
    ----------
    id : int
        0 stands for all points in no region: outside of the labels' image, or where the label is 0.
    acronym, name : str
        "" if not known.
    left, right : RegionMeasures or None
        Of one side alone; None if there is no midline, since nothing has a label.
    """

    id: int
    acronym: str
    name: str
    left: RegionMeasures | None
    right: RegionMeasures | None


@dataclass(frozen=True, eq=False)
class PointsResult:
    """Where the points are.

    Attributes
    ----------
    points : array (n, 3)
        In the target space, in the order of the input.
    region_ids : array (n,) or None
        The label under each point, in the labels' own type; 0 outside of their image. None without labels.
    counts : tuple of RegionCount, or None
        In the order of ids: all that are in the label table or have voxels, and 0. None where they were not asked for.
    outside : int
        How many points are outside of the channel's image.
    path, counts_path : Path or None
        The files that were written.
    warnings : tuple of str
        What the user should look at.
    seconds : float
    written : LoggedFile or None
        Size and checksum of `path`, or without it of `counts_path`, as the log has them.
    """

    points: FloatArray
    region_ids: npt.NDArray[Any] | None
    counts: tuple[RegionCount, ...] | None
    outside: int
    path: Path | None
    counts_path: Path | None
    warnings: tuple[str, ...]
    seconds: float
    written: LoggedFile | None


def transform_points(
    request: PointsRequest,
    *,
    file: LsfmFile | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> PointsResult:
    """Carry points from one space to another, find their regions, and count them.

    Parameters
    ----------
    request : PointsRequest
    file : LsfmFile, optional
        The request's file, where it is open already.
    progress : callable, optional
    cancel : CancelToken, optional

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    main = request.output or (request.counts if isinstance(request.counts, Path) else None)
    if main is None:
        return _carry(request, file, Draft(request.path, _OPERATION, request), progress, cancel)
    with recorded(request.path, _OPERATION, request) as record:
        result = _carry(request, file, record, progress, cancel)
        record.output = logged_files(main, [main])
        return replace(result, written=record.output)


def _carry(
    request: PointsRequest,
    file: LsfmFile | None,
    record: Draft,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> PointsResult:
    began = time.perf_counter()
    counts_path = request.counts if isinstance(request.counts, Path) else None
    paths = _outputs(request)
    with ExitStack() as stack:
        file = opened(request, file, stack)
        request = with_way(file, request)
        record.open(file.path, file.named_xml)
        record.inputs = inputs_of(file, request, request.reference)
        if isinstance(request.points, Path):
            record.inputs.append(logged_files(request.points, [request.points]))
        way, labels, table, given, spare = _prepared(file, request)
        stack.enter_context(file.cache.limited(spare // 2, spare))

        stage = Progress("points", given.nbytes, progress, cancel)
        at_mm = way.to_mm(given)
        stage.advance(given.nbytes)
        points = way.to_target(at_mm)
        outside = len(points) - int(np.count_nonzero(_voxels(way.native, at_mm["native"])[1]))
        warnings = [*(table.remarks if table is not None else ()), *way.remarks]
        # Points found in the image are in it; those from elsewhere need not be.
        if outside > (0 if request.source.startswith("native") else len(points) / 2):
            warnings.append(
                f"{outside} of {len(points)} points are outside of channel {request.channel!r}: are they {request.source}, with "
                "their columns in the right order?"
            )
        ids = counts = None
        if labels is not None:
            in_labels = way.to_labels(at_mm)
            ids = labels.under(in_labels, spare // 2, progress, cancel)
            if len(ids) and not ids.any():
                warnings.append(
                    f"no point is in a region of channel {labels.channel.name!r}: do its labels lie in the space that labels_in "
                    f"names ({request.labels_in})?"
                )
            if request.counts is not None:
                counts = labels.count(ids, in_labels, request.midline_mm, progress, cancel)
        in_voxels: tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]] | None = None
        if request.layout == "brainglobe" and labels is not None and ids is not None and request.output is not None:
            atlas = _stored_grid(file, request).to_voxel(at_mm["output"])
            in_voxels = way.native.to_voxel(at_mm["native"]), atlas, labels.on_left(in_labels, request.midline_mm)
            if nowhere := int((ids == 0).sum()):
                warnings.append(f"{nowhere} of {len(ids)} points are in no region, and left out, as BrainGlobe does")

    with new_files(paths, request.overwrite) as partials:
        partial = dict(zip(paths, partials, strict=True))
        if is_markers(request.output):
            write_markers(partial[request.output], points)
        elif in_voxels is not None and ids is not None and labels is not None and request.output is not None:
            write_all_points(partial[request.output], *in_voxels[:2], ids, in_voxels[2], labels.full_names)
        elif request.output is not None:
            names = _added(request.target, labels is not None)
            separator, decimal = (",", ".") if table is None else (table.separator, table.decimal)
            rows = joined.from_iterable(_cells(points, ids, {} if labels is None else labels.names, separator, decimal))
            if table is not None:
                table.write(partial[request.output], names, rows)
            else:
                write_rows(partial[request.output], [",".join(names)], rows)
        if counts_path is not None and counts is not None:
            (_write_counts if request.layout == "own" else write_summary)(partial[counts_path], counts)
    seconds = time.perf_counter() - began
    return PointsResult(points, ids, counts, outside, request.output, counts_path, tuple(warnings), seconds, None)


def describe_points(file: LsfmFile, request: PointsRequest) -> str:
    """What `transform_points` would do, in words, one fact per line; the table is read.

    Raises
    ------
    LsfmError
        As `transform_points`, as far as it can be known beforehand.
    """
    request = with_way(file, request)
    way, labels, table, given, _ = _prepared(file, request)
    lines = [
        f"reads   {len(given)} points of {table.path if table is not None else 'an array'}, {request.source}",
        *(f"through {line}" for line in open_chain(file, request).describe().splitlines() if request.transforms),
        f"makes   {request.target} positions" + "".join(f", {path}" for path in _outputs(request)),
        *([f"regions of channel {labels.channel.name!r}"] if labels is not None else []),
        *(f"warning {remark}" for remark in way.remarks),
    ]
    return "\n".join(lines)


def _prepared(file: LsfmFile, request: PointsRequest) -> tuple[_Way, _Labels | None, PointListTable | None, FloatArray, int]:
    """The way, the labels if there are any, the table and its positions (n, 3), and what is left of the memory beside them."""
    for path in _outputs(request):
        check_new(path, request.overwrite)
        if path.resolve() in (file.path.resolve(), file.xml_path.resolve()):
            raise InputError(f"{path}: belongs to the file of the channels: choose another name")
    doubts = check_spaces(file, request)
    way = _Way(file, request)
    way.remarks[:0] = doubts
    labels = None if request.labels_channel is None else _Labels(file, request, request.labels_channel)
    table, given = _read(request, labels is not None)
    return way, labels, table, given, _spare_bytes(request, len(given))


def _outputs(request: PointsRequest) -> list[Path]:
    return [path for path in (request.output, request.counts) if isinstance(path, Path)]


# --- places ---------------------------------------------------------------------------------------------------------------------


class _Way:
    """From positions in one space, by way of mm on the native side and behind the transforms, to those in another.

    Attributes
    ----------
    native : Space
        Of level 0 of the channel.
    remarks : list of str
        How exact the way is, where that is not known beforehand; and what is not known of the spaces.
    """

    def __init__(self, file: LsfmFile, request: PointsRequest) -> None:
        self.native = native_space(file, file[request.channel], request)
        self._source, self._target = (self._grid(file, request, place) for place in (request.source, request.target))
        self._begins, self._ends = (place.partition("-")[0] for place in (request.source, request.target))
        chain = open_chain(file, request)
        self._chain: TransformChain | None = None
        self._labels_in = request.labels_in
        self._to_labels: TransformChain | None = None
        # Not every chain has an inverse, and not everybody needs one.
        if self._begins == "output":
            self._chain = chain
        elif self._ends == "output":
            self._chain = chain.inverse()
        if request.labels_channel is not None:
            inner, outer = chains_around(file, request, request.labels_in)
            self._to_labels = outer if self._begins == "output" else inner.inverse()
        self.remarks = numeric_remarks(*(way for way in (self._chain, self._to_labels) if way is not None))

    def to_mm(self, given: FloatArray) -> dict[str, FloatArray]:
        """Given positions (n, 3) as R, A, S mm: ``"native"`` and, where it is needed, ``"output"``."""
        at_mm = {self._begins: given if self._source is None else self._source.to_world(given)}
        if self._chain is not None:
            at_mm[_OTHER[self._begins]] = self._chain.map_points(at_mm[self._begins])
        return at_mm

    def to_labels(self, at_mm: dict[str, FloatArray]) -> FloatArray:
        """What `to_mm` gave, as R, A, S mm in the world of the labels."""
        if self._labels_in in at_mm or self._to_labels is None:
            return at_mm[self._labels_in]
        return self._to_labels.map_points(at_mm[self._begins])

    def to_target(self, at_mm: dict[str, FloatArray]) -> FloatArray:
        """What `to_mm` gave, as positions (n, 3) in the target."""
        world = at_mm[self._ends]
        return world if self._target is None else self._target.to_voxel(world)

    def _grid(self, file: LsfmFile, request: PointsRequest, place: Place) -> Space | None:
        """The grid whose voxels a place counts; None where it is in mm."""
        if place == "output-voxel" and request.reference is not None:
            return reference_space(file, request.reference)
        if place != "native-voxel":
            return None
        levels = file[request.channel].levels
        if request.level is not None and request.level >= len(levels):
            raise InputError(
                f"{file.path}: channel {request.channel!r} has no level {request.level}; it has levels 0 to {len(levels) - 1}"
            )
        level = levels[request.level or 0]
        return self.native.level(level.factors, level.shape[:3])


def _voxels(space: Space, points_mm: FloatArray) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Indices (m, 3) of the voxels that points (n, 3) are in, and which of the points are in one (n,)."""
    index = np.floor(space.to_voxel(points_mm) + (0.5 + _FACE_SLACK))
    inside: npt.NDArray[np.bool_] = np.all((index >= 0) & (index < space.shape), axis=1)
    return index[inside].astype(np.intp), inside


# --- regions --------------------------------------------------------------------------------------------------------------------


class _Labels:
    """The labels channel of a request.

    Attributes
    ----------
    channel : Channel
    names : dict of int to str
        Acronym, or else name, of every id that has one.
    full_names : dict of int to str
    """

    def __init__(self, file: LsfmFile, request: PointsRequest, name: str) -> None:
        self.channel = file[name]
        self._level, self._space = label_level(file, self.channel, request)
        self._table = LabelTable.from_json(file.label_table(name))
        self._has_tree = any(label.parent is not None for label in self._table.values())
        self._threads = request.threads or default_threads()
        self.names = {key: label.acronym or label.name for key, label in self._table.items() if key != 0}
        self.full_names = {key: label.name for key, label in self._table.items() if key != 0}

    def under(
        self, points_mm: FloatArray, max_bytes: int, progress: ProgressCallback | None, cancel: CancelToken | None
    ) -> npt.NDArray[Any]:
        """The label (n,) of the voxel that each point (n, 3) is in; 0 outside. Each chunk is read once."""
        index, inside = _voxels(self._space, points_mm)
        chunks = np.array(self._level.data.chunks)
        chunk = index // chunks
        key = np.ravel_multi_index(tuple(chunk.T), tuple(-(-np.array(self._space.shape) // chunks)))
        order = np.argsort(key, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(key[order])) + 1) if len(order) else []
        chunk_bytes = int(chunks.prod()) * self._level.dtype.itemsize
        found = np.zeros(len(index), self._level.dtype)

        def look_up(group: npt.NDArray[np.intp]) -> None:
            low = chunk[group[0]] * chunks
            box = self._level[tuple(slice(a, b) for a, b in zip(low, np.minimum(low + chunks, self._space.shape), strict=True))]
            found[group] = box.read(cached=False)[tuple((index[group] - low).T)]

        report = Progress("regions", len(groups) * chunk_bytes, progress, cancel)
        # A chunk is there as stored, unpacked, and cut out.
        threads = max(1, min(self._threads, max_bytes // (3 * chunk_bytes)))
        with ThreadPoolExecutor(threads, thread_name_prefix="lsfm-points") as pool:
            for _ in pool.map(look_up, groups):
                report.advance(chunk_bytes)
        ids = np.zeros(len(inside), found.dtype)
        ids[inside] = found
        return ids

    def on_left(self, points_mm: FloatArray, midline: float | None) -> npt.NDArray[np.bool_]:
        """Which points (n, 3) are on the left."""
        left: npt.NDArray[np.bool_] = points_mm[:, 0] < self._midline(midline)[0] - _FACE_SLACK
        return left

    def _midline(self, asked: float | None) -> tuple[float, bool]:
        """R of the plane between the sides, and whether there are sides."""
        if asked is not None:
            return asked, True
        try:
            return find_midline(self.channel, self._space), True
        except InputError:  # there is no label at all, and so no side
            return 0.0, False

    def count(
        self,
        ids: npt.NDArray[Any],
        points_mm: FloatArray,
        midline: float | None,
        progress: ProgressCallback | None,
        cancel: CancelToken | None,
    ) -> tuple[RegionCount, ...]:
        """How many points have each id, and how large its region is; reads all labels, for the volumes.

        A point is on the left if its R is below the midline, and a voxel if that of its centre is.
        """
        midline, has_labels = self._midline(midline)
        voxels, left_voxels = count_sides(
            self._level.data, Hemisphere("left", midline, self._space), progress=progress, cancel=cancel
        )
        is_left = self.on_left(points_mm, midline)
        points, left_points = _numbers(ids), _numbers(ids[is_left])
        sides: list[tuple[dict[int, int], dict[int, int]]] = [(points, voxels)]
        if has_labels:
            sides += [(left_points, left_voxels), (_less(points, left_points), _less(voxels, left_voxels))]
        counts = []
        for key in sorted({0, *self._table, *voxels}):
            parts = self._table.descendants(key) if key and self._has_tree else None
            whole, *halves = (self._measures(key, parts, *side) for side in sides)
            left, right = halves or (None, None)
            label = self._table.get(key, Label(key, ""))
            acronym, name = (label.acronym or "", label.name) if key else ("", "no region")
            counts.append(RegionCount(id=key, acronym=acronym, name=name, left=left, right=right, **asdict(whole)))
        return tuple(counts)

    def _measures(self, key: int, parts: Sequence[int] | None, points: dict[int, int], voxels: dict[int, int]) -> RegionMeasures:
        own = points.get(key, 0)
        with_parts, volume, volume_with_parts = (own if self._has_tree else None), None, None
        if key:
            volume = voxels.get(key, 0) * self._space.voxel_volume_mm3
        if parts is not None:
            with_parts = sum(points.get(part, 0) for part in parts)
            volume_with_parts = sum(voxels.get(part, 0) for part in parts) * self._space.voxel_volume_mm3
        return RegionMeasures(
            count=own, count_with_descendants=with_parts, volume_mm3=volume, volume_with_descendants_mm3=volume_with_parts
        )


def _stored_grid(file: LsfmFile, request: PointsRequest) -> Space:
    """The atlas' voxels, in the order in which they are stored."""
    name = request.reference
    if name is None and request.labels_channel is not None:
        last = request.transforms[-1].name if request.transforms else request.labels_in
        if request.labels_in not in ("output", last):
            raise InputError(
                "reference: the labels do not live in the atlas, so that its voxels are not known: name a channel or an image there"
            )
        name = request.labels_channel
    assert name is not None
    return file[name].space if name in file else reference_space(file, name)


def _numbers(ids: npt.NDArray[Any]) -> dict[int, int]:
    """How often each id is there."""
    return dict(zip(*(values.tolist() for values in np.unique(ids, return_counts=True)), strict=True))


def _less(all_of: dict[int, int], some: dict[int, int]) -> dict[int, int]:
    return {key: count - some.get(key, 0) for key, count in all_of.items()}


# --- tables ---------------------------------------------------------------------------------------------------------------------


def _read(request: PointsRequest, with_regions: bool) -> tuple[PointListTable | None, FloatArray]:
    """The table of the points, if there is one, and the positions (n, 3) in the source."""
    if not isinstance(request.points, Path):
        return None, request.points
    table = open_table(request.points, request.marker_type)
    if request.output is not None and not is_markers(request.output) and request.layout == "own":
        present = {name.strip().casefold() for name in table.header}
        taken = [name for name in _added(request.target, with_regions) if name.casefold() in present]
        if taken:
            raise InputError(f"{table.path}: line 1: has columns {', '.join(taken)} already, which the output gets: rename them")
    columns = table.find(request.columns) if request.columns is not None else table.find(*COLUMNS[request.source])
    return table, table.read(columns)


def _spare_bytes(request: PointsRequest, points: int) -> int:
    """What is left of the budget beside the points."""
    needed = BASE_BYTES + _FIELD_BYTES + points * _POINT_BYTES
    if needed > request.memory_bytes:
        raise MemoryBudgetError(
            f"{points} points need about {size_text(needed)}, more than the {size_text(request.memory_bytes)} given: raise the "
            "memory, or carry them in parts"
        )
    return request.memory_bytes - needed


def _added(target: Place, with_regions: bool) -> list[str]:
    """Names of the columns that the output has beside those of the input."""
    return [*_ADDED[target], *(("region_id", "region") if with_regions else ())]


def _cells(
    points: FloatArray, ids: npt.NDArray[Any] | None, names: dict[int, str], separator: str, decimal: str
) -> Iterator[list[str]]:
    """Those columns, separated, some rows after the other."""
    for start in range(0, len(points), _ROWS_AT_ONCE):
        part = points[start : start + _ROWS_AT_ONCE]
        rows = _told(part, separator, decimal, compiled=len(points) >= _MANY_ROWS)
        if ids is not None:
            keys, places = np.unique(ids[start : start + _ROWS_AT_ONCE], return_inverse=True)
            ends = [f"{separator}{key}{separator}{text_cell(names.get(key, ''), separator)}" for key in keys.tolist()]
            rows = [row + ends[place] for row, place in zip(rows, places.tolist(), strict=True)]
        yield rows


def _told(points: FloatArray, separator: str, decimal: str, *, compiled: bool) -> list[str]:
    """Positions as rows of text."""
    if compiled and np.abs(points).max() < _LARGEST:
        from lsfm_core.kernels.digits import MOST_BYTES, decimals

        out = np.empty(points.size * MOST_BYTES, np.uint8)
        scaled = np.rint(points * 10.0**_DECIMALS).astype(np.int64)
        length = decimals(out, scaled, _DECIMALS, ord(decimal), ord(separator))
        return out[:length].tobytes().decode("ascii").splitlines()
    form = separator.join([f"%.{_DECIMALS}f"] * 3) + "\n"
    # Zero is added because a rounded -0.0000001 would be written as -0.
    values = np.round(points, _DECIMALS) + 0.0
    text = (form * len(values)) % tuple(values.ravel().tolist())
    return (text if decimal == "." else text.replace(".", decimal)).splitlines()


def _write_counts(path: Path, counts: Sequence[RegionCount]) -> None:
    measures = [name for name in _MEASURES if any(getattr(row, name) is not None for row in counts) or "descendants" not in name]
    sides = [side for side in ("left", "right") if any(getattr(row, side) is not None for row in counts)]
    header = ["region_id", "acronym", "name", *measures, *(f"{side}_{name}" for side in sides for name in measures)]
    rows = []
    for row in counts:
        parts = [row, *(getattr(row, side) for side in sides)]
        numbers = (_number(getattr(part, name)) for part in parts for name in measures)
        rows.append(",".join([str(row.id), text_cell(row.acronym, ","), text_cell(row.name, ","), *numbers]))
    write_rows(path, [",".join(header)], rows)


def _number(value: float | None) -> str:
    # Many images keep their voxel size in float32, of whose digits no more mean something.
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.7g}"
