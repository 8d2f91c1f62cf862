"""A file of lsfmpy as one of ours: without padding, in its true type, with an orientation, and with levels that are means.

Everything else comes along: affines, fields, labels, what was noted, the log. What lsfmpy had lost already is counted and told.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic import field_validator

from lsfm_core._request import Request, told
from lsfm_core.arrays import LazyLevel
from lsfm_core.errors import ExistsError, InputError, check_file
from lsfm_core.formats import FieldConvention
from lsfm_core.geometry import Orientation, Triple, voxel_count
from lsfm_core.ingest import IngestRequest, ingest_channel
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.provenance import LoggedFile, recorded
from lsfm_core.pyramid import Kind
from lsfm_core.store import Channel, LsfmEditor, LsfmFile, check_folder, edit_lsfm, open_lsfm, target_path

__all__ = ["ChannelUpgrade", "UpgradeReport", "UpgradeRequest", "plan_upgrade", "upgrade_file"]

#: As lsfmpy is known by in `Channel.written_by`.
_LSFMPY = "lsfmpy"
#: What it stored for all that was brighter, of images in 16 bits without a sign.
_SATURATED = 32767
#: Voxels that are counted at once.
_COUNTED_BYTES = 2**27
#: As its log tells of an image that it wrote.
_TRUE_SHAPE = re.compile(r"^data_shape=array\(\[\s*(\d+),", re.MULTILINE)


class UpgradeRequest(Request):
    """A file of lsfmpy, to be made anew as one of ours.

    Attributes
    ----------
    path : Path
        The new file.
    old : Path
        The file of lsfmpy, or its XML; it is only read.
    orientation : str, optional
        Axis codes in array order, as ``AIR``: of all channels that were made from planes.
    orientations : dict of str to str
        The same of single channels, by their names: those that lsfmpy had from NIfTI files are stored in the order of these files'
        axes.
    origins_mm : dict of str to tuple of 3 float
        R, A, S of the centre of the voxel that is first in R, A and S, of single channels. Default: 0, 0, 0.
    field_convention : {"lps-displacement", "ras-displacement", "lps-position", "ras-position"}
        What the vectors of displacement fields are: lsfmpy kept the numbers of their files, which for ITK and ANTs are
        displacements along L, P, S.
    compression : int
        Deflate level 0 (none) to 3.
    memory_bytes : int
        Bound of the process' resident size.
    threads : int, optional
        Default: the cores this process may use.
    """

    path: Path
    old: Path = told(..., "Old file", "The file of lsfmpy, or its XML; it is only read")
    orientation: str | None = told(
        None,
        "Orientation",
        "Of channels that were made from planes: the side toward which planes, rows and columns grow, as AIR",
        empty="AIR",
    )
    orientations: dict[str, str] = told({}, "Orientations", "The same of single channels, by their names")
    origins_mm: dict[str, Triple] = told(
        {}, "Origins (mm)", "Of single channels: R, A, S of the centre of the voxel that is first in all three", unit="mm"
    )
    field_convention: FieldConvention = told(
        "lps-displacement", "Vectors are", "What the vectors of displacement fields are: lsfmpy kept the numbers of their files"
    )
    compression: int = told(1, "Compression", "Without loss; better takes longer", ge=0, le=3)
    memory_bytes: int = told(2 * 10**9, "Memory (GB)", "Memory to use at most", unit="GB", gt=0)
    threads: int | None = told(None, "Threads", "How many cores to use", empty="all cores", gt=0)

    @field_validator("orientation")
    @classmethod
    def _check_orientation(cls, value: str | None) -> str | None:
        return None if value is None else Orientation.from_user(value).axcodes

    @field_validator("orientations")
    @classmethod
    def _check_orientations(cls, value: Mapping[str, str]) -> dict[str, str]:
        return {name: Orientation.from_user(code).axcodes for name, code in value.items()}


@dataclass(frozen=True)
class ChannelUpgrade:
    """A channel of the new file.

    Attributes
    ----------
    name : str
    kind : {"image", "labels", "vectors", "components"}
    shape : tuple of int
        Planes, rows, columns.
    dtype : str
    voxel_size_mm : tuple of 3 float
    orientation : Orientation
    padding : int
        Planes at the end that lsfmpy had added, and that are left out.
    saturated : int or None
        Voxels that have the largest value that lsfmpy could keep: what was brighter is lost. None where nothing can have been lost,
        or where it was not counted yet.
    affines : tuple of str
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    voxel_size_mm: Triple
    orientation: Orientation
    padding: int
    saturated: int | None
    affines: tuple[str, ...]

    def describe(self) -> str:
        """In words."""
        size, voxel = " x ".join(map(str, self.shape)), " x ".join(f"{v:g}" for v in self.voxel_size_mm)
        parts = [f"{self.name}: {self.kind}, {size} {self.dtype}, {voxel} mm, {self.orientation.describe()}"]
        if self.padding:
            parts.append(f"{self.padding} planes of padding left out")
        if self.saturated == 0:
            parts.append("no voxel is saturated")
        if self.affines:
            parts.append(f"with {', '.join(self.affines)}")
        return "; ".join(parts)


@dataclass(frozen=True)
class UpgradeReport:
    """What an upgrade did, or would do.

    Attributes
    ----------
    path, old : Path
        The new file, and the old one.
    channels : tuple of ChannelUpgrade
    notes, records : int
        Pairs of metadata, and records of the log, that came along.
    warnings : tuple of str
        What is lost or not known.
    old_bytes, new_bytes : int
        Size of both files; of the new one 0 before it is made.
    seconds : float
    """

    path: Path
    old: Path
    channels: tuple[ChannelUpgrade, ...]
    notes: int
    records: int
    warnings: tuple[str, ...]
    old_bytes: int
    new_bytes: int
    seconds: float

    def describe(self) -> str:
        """In words, one fact per line."""
        lines = [f"{self.old} -> {self.path}", *(f"  {channel.describe()}" for channel in self.channels)]
        lines.append(f"  {self.notes} note(s) and {self.records} record(s) of the log come along")
        return "\n".join([*lines, *(f"warning {warning}" for warning in self.warnings)])


@dataclass(frozen=True)
class _Part:
    """A channel, and what asks for it in the new file."""

    channel: Channel
    result: ChannelUpgrade
    request: IngestRequest
    narrowed: bool
    kept: int


def plan_upgrade(request: UpgradeRequest) -> UpgradeReport:
    """Find out what an upgrade would do; nothing is written, and no voxel counted.

    Raises
    ------
    LsfmError
        As `upgrade_file`, as far as it can be known beforehand.
    """
    began = time.monotonic()
    with _opened(request) as old:
        return _report(request, old, _parts(request, old), (), began)


def upgrade_file(
    request: UpgradeRequest, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> UpgradeReport:
    """Make a file of lsfmpy anew as one of ours; the old one is only read, and the new one is there as a whole or not at all.

    Raises
    ------
    InputError
        If it is no file of lsfmpy, or a channel's orientation is neither recorded nor given; names all of them.
    ExistsError
        If the new file is there already.
    LsfmError
        As `lsfm_core.ingest_channel`.
    """
    began = time.monotonic()
    with _opened(request) as old:
        parts = _parts(request, old)
        path = target_path(request.path)
        done, warnings = [], []
        with recorded(path, "upgrade", request) as record, edit_lsfm(path) as editor:
            record.inputs.append(LoggedFile(path=str(request.old), count=1, size=old.path.stat().st_size))
            for part in parts:
                report = ingest_channel(part.request, editor=editor, progress=progress, cancel=cancel)
                warnings += [f"channel {part.channel.name!r}: {text}" for text in report.warnings]
                saturated = _count_saturated(part, progress, cancel) if part.narrowed else None
                done.append(replace(part, result=replace(part.result, saturated=saturated)))
                _carry_channel(old, part.channel, editor)
            for part in parts:
                partner = part.channel.partner
                if partner is not None and partner in editor:
                    editor.set_partners(part.channel.name, partner)
            for key, value in old.metadata().items():
                editor.set_metadata(key, value)
            editor.carry_log(old.log())
        return _report(request, old, done, warnings, began)


def _opened(request: UpgradeRequest) -> LsfmFile:
    """The old file, open, if it is one of lsfmpy and the new one can be made."""
    check_file(request.old)
    target = target_path(request.path)
    check_folder(target)
    if target.exists():
        raise ExistsError(f"{target}: exists already: an upgrade makes a new file: choose another name")
    old = open_lsfm(request.old)
    if not any(channel.written_by == _LSFMPY for channel in old.channels.values()):
        old.close()
        raise InputError(f"{old.path}: no channel of it was written by lsfmpy: there is nothing to upgrade")
    return old


def _parts(request: UpgradeRequest, old: LsfmFile) -> list[_Part]:
    unknown = [name for name in (*request.orientations, *request.origins_mm) if name not in old]
    if unknown:
        raise InputError(f"{old.path}: there is no channel {unknown[0]!r}; there are: {', '.join(old)}")
    missing = {}
    for channel in old.channels.values():
        if channel.orientation is None and _orientation(request, old, channel) is None:
            missing[channel.name] = "" if not _from_nifti(old, channel) else " (it came from a NIfTI file: that one's axis codes)"
    if missing:
        wanted = "; ".join(f"--orientation '{name}=CODE'{why}" for name, why in missing.items())
        plain = " (--orientation CODE alone is meant for channels from planes)"
        raise InputError(f"{old.path}: how its channels lie is not recorded: give {wanted}{plain}")
    return [_part(request, old, channel) for channel in old.channels.values()]


def _part(request: UpgradeRequest, old: LsfmFile, channel: Channel) -> _Part:
    name, place = channel.name, _orientation(request, old, channel) or channel.orientation
    assert place is not None
    fields: dict[str, Any] = {
        "path": request.path,
        "channel": name,
        "kind": channel.kind,
        "compression": request.compression,
        "memory_bytes": request.memory_bytes,
        "threads": request.threads,
    }
    if channel.orientation is None or name in request.orientations:
        fields["orientation"] = place.axcodes
    if name in request.origins_mm:
        fields["origin_mm"] = request.origins_mm[name]
    padding, narrowed, kept = 0, False, 0
    # Sizes that came from NIfTI files went through float32.
    size = tuple(float(f"{v:.7g}") for v in channel.space.voxel_size_mm)
    if channel.written_by == _LSFMPY:
        data = channel.levels[0].data
        padding, kept = _padding(old, channel, data)
        narrowed = channel.dtype == np.uint16 and _stored_dtype(old, name) == np.int16
        fields |= {"image": data[: data.shape[0] - padding], "voxel_size_mm": size}
        if channel.kind == "vectors":
            fields["field_convention"] = request.field_convention
    else:
        fields |= {"image": str(old.opened_as), "image_channel": f"name:{name}"}
    result = ChannelUpgrade(
        name=name,
        kind=channel.kind,
        shape=(channel.space.shape[0] - padding, *channel.space.shape[1:]),
        dtype=str(channel.dtype),
        voxel_size_mm=(size[0], size[1], size[2]),
        orientation=place,
        padding=padding,
        saturated=None,
        affines=channel.affines,
    )
    return _Part(channel, result, IngestRequest(**fields), narrowed, kept)


def _orientation(request: UpgradeRequest, old: LsfmFile, channel: Channel) -> Orientation | None:
    """What the request says of a channel."""
    code = request.orientations.get(channel.name)
    if code is None and channel.orientation is None and not _from_nifti(old, channel):
        code = request.orientation
    return None if code is None else Orientation(code)


def _from_nifti(old: LsfmFile, channel: Channel) -> bool:
    return channel.written_by == _LSFMPY and bool(old.h5[f"LSFM/{channel.name}/IMAGE"].attrs.get("is_nifti", False))


def _stored_dtype(old: LsfmFile, name: str) -> np.dtype[Any]:
    dtype: np.dtype[Any] = old.h5[f"LSFM/{name}/IMAGE/0/cells"].dtype
    return dtype


def _padding(old: LsfmFile, channel: Channel, data: LazyLevel) -> tuple[int, int]:
    """How many planes at the end are padding, more than the XML or the log tells of and empty; and how many are more, and not."""
    more = 0
    for planes in _true_planes(old, channel):
        if 0 < planes < data.shape[0]:
            more = data.shape[0] - planes
            if not any(np.any(block) for block in _blocks(data[planes:])):
                return more, 0
    return 0, more


def _true_planes(old: LsfmFile, channel: Channel) -> Iterator[int]:
    """What is told of the number of planes."""
    if channel.setup is not None and old.xml_path.is_file():
        for view in old.read_xml().views:
            if view.setup == channel.setup:
                planes, rows, columns = channel.space.shape
                # lsfmpy wrote the sizes in ascending order, so that planes and columns may have changed places.
                if view.shape[1:] == (rows, columns):
                    yield view.shape[0]
                elif view.shape[:2] == (columns, rows) and view.shape[2] <= planes:
                    yield view.shape[2]
    for record in reversed(old.log()):
        found = _TRUE_SHAPE.search(record.text) if record.channel == channel.name else None
        if found is not None:
            yield int(found[1])
            return


def _blocks(data: LazyLevel) -> Iterator[np.ndarray[Any, np.dtype[Any]]]:
    """All voxels, in pieces of whole chunks as large as may be read at once."""
    depth, rows = data.chunks[0], data.chunks[1]
    row_bytes = depth * voxel_count(data.shape[2:]) * data.dtype.itemsize
    rows = max(1, _COUNTED_BYTES // (row_bytes * rows)) * rows
    for plane in range(0, data.shape[0], depth):
        for row in range(0, data.shape[1], rows):
            yield np.asarray(data[plane : plane + depth, row : row + rows])


def _count_saturated(part: _Part, progress: ProgressCallback | None, cancel: CancelToken | None) -> int:
    image: LazyLevel = part.request.image
    report = Progress("count what is saturated", voxel_count(image.shape) * image.dtype.itemsize, progress, cancel)
    count = 0
    for block in _blocks(image):
        count += int(np.count_nonzero(block == _SATURATED))
        report.advance(block.nbytes)
    return count


def _carry_channel(old: LsfmFile, channel: Channel, editor: LsfmEditor) -> None:
    """What a channel has beside its voxels."""
    name = channel.name
    for affine in channel.affines:
        read = old.affine(name, affine)
        editor.write_affine(name, affine, read.matrix, read.to_itk(), False)
        editor.set_sides(name, affine, old.affine_sides(name, affine))
    for key, value in old.metadata(name).items():
        editor.set_metadata(key, value, channel=name)
    table = old.label_table(name)
    if table is not None:
        editor.set_label_table(name, table)
    if channel.space_name is not None or channel.inner_space is not None:
        editor.set_space(name, channel.space_name, channel.inner_space)
    attributes: Mapping[str, Any] = old.h5[f"LSFM/{name}"].attrs if f"LSFM/{name}" in old.h5 else MappingProxyType({})
    limits = attributes.get("display_range")
    if limits is not None or channel.colormap is not None:
        chosen = None if limits is None else (float(limits[0]), float(limits[-1]))
        editor.set_look(name, display_range=chosen, colormap=channel.colormap)


def _report(request: UpgradeRequest, old: LsfmFile, parts: list[_Part], more: Any, began: float) -> UpgradeReport:
    path = target_path(request.path)
    warnings = [warning for part in parts for warning in _warnings(request, old, part)]
    notes = len(old.metadata()) + sum(len(old.metadata(name)) for name in old)
    return UpgradeReport(
        path=path,
        old=old.path,
        channels=tuple(part.result for part in parts),
        notes=notes,
        records=len(old.log()),
        warnings=(*warnings, *more),
        old_bytes=old.path.stat().st_size,
        new_bytes=path.stat().st_size if path.is_file() else 0,
        seconds=time.monotonic() - began,
    )


def _warnings(request: UpgradeRequest, old: LsfmFile, part: _Part) -> Iterator[str]:
    channel, result = part.channel, part.result
    here = f"channel {channel.name!r}"
    if part.narrowed and result.saturated is None:
        yield f"{here}: voxels of {_SATURATED} are counted on the way: lsfmpy kept nothing brighter"
    elif result.saturated:
        total = voxel_count(result.shape)
        yield (
            f"{here}: {result.saturated} of {total} voxels are {_SATURATED}, the most that lsfmpy kept: what was brighter is lost; "
            "only the images themselves have it"
        )
    if part.kept:
        yield f"{here}: has {part.kept} planes more than is told of it, which are not empty: they are kept"
    if _from_nifti(old, channel) and channel.name not in request.origins_mm:
        yield (
            f"{here}: lsfmpy did not keep where the NIfTI file lies: its first voxel in R, A and S is taken to be at 0, 0, 0 "
            f"(--origin '{channel.name}=R,A,S')"
        )
    if channel.kind == "vectors" and channel.written_by == _LSFMPY:
        yield f"{here}: its vectors are taken for {request.field_convention} (--field-convention)"
    if channel.written_by != _LSFMPY and channel.sources:
        yield f"{here}: the list of its {len(channel.sources)} source files does not come along; the log has their checksum"
