"""What is in a file, told of its structure alone: no voxel is read, so that a file of any size answers at once.

The models are the JSON that ``lsfm-core info --json`` prints; their schema has a version. They also put themselves into words, so
that the command line and the plugin say the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from lsfm_core.progress import size_text
from lsfm_core.pyramid import Kind
from lsfm_core.regions import LabelTable
from lsfm_core.spaces import UNKNOWN, set_space_command
from lsfm_core.store import Channel, Level, LsfmFile, Sides, compare_xml

__all__ = [
    "AffineInfo", "ChannelInfo", "ExtentInfo", "FileInfo", "LabelsInfo", "LevelInfo", "SourcesInfo", "XmlInfo", "describe_file",
    "info_schema", "note_text",
]  # fmt: skip

#: The JSON tells the rest.
_LONGEST_NOTE = 100

_Triple = tuple[float, float, float]
_Row = tuple[float, float, float, float]
_Matrix = tuple[_Row, _Row, _Row, _Row]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LevelInfo(_Part):
    """One level of a channel's pyramid, the finest first; everything in array order (planes, rows, columns)."""

    shape: tuple[int, ...]
    """In voxels; vectors and components have their values last."""
    voxel_size: _Triple
    """In the channel's unit."""
    factors: _Triple
    """Level-0 voxels per voxel."""
    chunks: tuple[int, ...]
    raw_bytes: int
    """Size of the voxels."""
    stored_bytes: int
    """Size in the file, compressed."""


class ExtentInfo(_Part):
    """The box around the image, to the voxels' outer faces, along R, A and S, in the channel's unit."""

    size: _Triple
    lower: _Triple
    upper: _Triple


class AffineInfo(_Part):
    """An affine transform that is kept with a channel."""

    name: str
    matrix: _Matrix
    """Maps a point of the output space to the image's, RAS mm."""
    words: str
    """What it does."""
    from_space: str | None
    """The space on its inner side, toward the image; null where that is not known."""
    to_space: str | None
    """The space on its outer side, toward the output."""
    proof: str | None
    """Of one that was imported: whether its program's own result was made anew with it."""


class LabelsInfo(_Part):
    """The label table of a channel of labels."""

    entries: int
    has_ontology: bool
    """Whether the table tells what is part of what."""
    with_colour: int
    """How many entries have a colour."""


class SourceInfo(_Part):
    """A file that the image was made from."""

    name: str
    size: int
    crc32: int


class SourcesInfo(_Part):
    """The files that an image was made from."""

    count: int
    bytes: int
    first: str
    last: str
    files: tuple[SourceInfo, ...] | None = None
    """All of them, where they were asked for."""


class XmlInfo(_Part):
    """BigDataViewer's XML beside the file."""

    name: str
    path: str
    named: bool
    """Whether the file was opened by it; else it is the one beside the file, with its stem."""
    state: Literal["present", "missing", "disagrees"]
    defects: tuple[str, ...]
    """What it does not say as the file has it."""

    @property
    def words(self) -> str:
        """Its name, and what is wrong with it."""
        name = f"{self.path}, by which the file was opened" if self.named else self.name
        return {"present": name, "missing": "none", "disagrees": f"{name}, which disagrees with the file"}[self.state]


class ChannelInfo(_Part):
    """A named image with its pyramid."""

    name: str
    kind: Kind
    dtype: str
    unit: str
    """Of lengths: mm, or pixel where the file gives no length."""
    space: str | None
    """Name of the space that it lives in, of vectors that of the outer side; null where it is not known."""
    from_space: str | None
    """For vectors: the space on the inner side, toward the image."""
    proof: str | None
    """For vectors that were imported: whether their program's own result was made anew with them."""
    axcodes: str | None
    """For planes, rows, columns the side toward which the index grows; null where it is not recorded how the specimen lay."""
    origin_letters: str | None
    """The same by the side where the first voxel lies."""
    orientation: str | None
    """The same in words."""
    left_handed: bool | None
    """Whether columns, rows and planes, taken as x, y and z, are the mirror image of what a camera sees."""
    world_from_voxel: _Matrix
    """Of level 0, from (plane, row, column, 1)."""
    extent: ExtentInfo | None
    """Null where the orientation is."""
    levels: tuple[LevelInfo, ...]
    display_range: tuple[float, float] | None
    bdv_setup: int | None
    bdv_attributes: dict[str, str]
    """What another program's setup is a view of: channel, tile, angle, illumination, by the names in the XML."""
    timepoints: tuple[int, ...]
    """BigDataViewer's numbers of the times at which it was imaged; all else here is told of the first."""
    field: str | None
    """For vectors, in words: from which space to which one they lead."""
    inverse: str | None
    """For vectors: the channel with the inverse field."""
    affines: tuple[AffineInfo, ...]
    labels: LabelsInfo | None
    metadata: dict[str, JsonValue]
    """What users noted of the channel."""
    acquisition: dict[str, JsonValue]
    """What the image's file told of the microscope and the recording."""
    sources: SourcesInfo | None
    written_by: str
    """Program and version; empty where unknown."""
    warnings: tuple[str, ...]
    """What is odd."""

    @property
    def summary(self) -> str:
        """What it is, and who wrote it."""
        setup = "not in BigDataViewer" if self.bdv_setup is None else f"BigDataViewer setup {self.bdv_setup}"
        writer = f", written by {self.written_by}" if self.written_by else ""
        return f"{self.kind}, {self.dtype}, {setup}{writer}"

    def facts(self) -> Iterator[tuple[str, str]]:
        """All but the levels and the metadata in words: a title and a text each."""
        if self.extent is None:
            yield "orientation", "not recorded"
        else:
            yield "orientation", f"{self.axcodes} (origin at {self.origin_letters}): {self.orientation}"
            box = self.extent
            sides = (f"{name} {low:.3f}..{high:.3f}" for name, low, high in zip("RAS", box.lower, box.upper, strict=True))
            yield "extent", f"{_by(f'{v:.3f}' for v in box.size)} mm (R, A, S): {_by(sides)}"
        if self.kind != "vectors":
            yield "space", self.space or "not recorded"
        if self.bdv_attributes:
            yield "view", ", ".join(f"{what} {name}" for what, name in self.bdv_attributes.items())
        if len(self.timepoints) > 1:
            yield "timepoints", ", ".join(map(str, self.timepoints))
        if self.sources is not None:
            sources = self.sources
            names = f"{sources.first} … {sources.last}" if sources.count > 1 else sources.first
            yield "sources", f"{sources.count} file(s), {size_text(sources.bytes)}: {names}"
            for source in sources.files or ():
                yield "", f"{source.crc32:08x}  {source.size:>12}  {source.name}"
        for affine in self.affines:
            proof = f"; {affine.proof}" if affine.proof else ""
            yield "affine", f"{affine.name}: {affine.words}; {_sides(affine.from_space, affine.to_space)}{proof}"
        if self.field is not None:
            yield "field", f"{self.field}; {_sides(self.from_space, self.space)}"
            yield "inverse", self.inverse or "none"
            if self.proof:
                yield "proof", self.proof
        if self.labels is not None:
            ontology = "with" if self.labels.has_ontology else "without"
            yield "labels", f"{self.labels.entries} entries, {self.labels.with_colour} with colour, {ontology} ontology"
        for key, value in self.acquisition.items():
            yield "acquisition", f"{key}: {note_text(value)}"

    def level_table(self) -> list[tuple[str, ...]]:
        """The levels in words: a row of titles, and one for each level."""
        titles = ("level", "shape", f"voxel ({self.unit})", "factors", "chunk", "raw", "stored")
        return [
            titles,
            *(
                (
                    str(index),
                    _by(level.shape),
                    _by(f"{v:.6g}" for v in level.voxel_size),
                    _by(f"{f:g}" for f in level.factors),
                    _by(level.chunks),
                    size_text(level.raw_bytes),
                    size_text(level.stored_bytes),
                )
                for index, level in enumerate(self.levels)
            ),
        ]


class FileInfo(_Part):
    """What is in a file."""

    schema_version: Literal[1] = 1
    path: str
    bytes: int
    xml: XmlInfo
    metadata: dict[str, JsonValue]
    """What users noted of the whole file."""
    written_by: tuple[str, ...]
    """The programs that wrote its channels."""
    channels: tuple[ChannelInfo, ...]
    warnings: tuple[str, ...]
    """What is odd about the file as a whole."""

    def to_json(self) -> str:
        """JSON text in ASCII, which any terminal and pipe can carry."""
        return json.dumps(self.model_dump(mode="json"), indent=2)


def note_text(value: JsonValue) -> str:
    """A value of metadata in one line, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_NOTE else text[: _LONGEST_NOTE - 1] + "…"


def info_schema() -> dict[str, Any]:
    """The JSON Schema of `FileInfo`."""
    return FileInfo.model_json_schema(mode="serialization")


def describe_file(file: LsfmFile, channel: str | None = None, *, sources: bool = False) -> FileInfo:
    """What is in an open file.

    Parameters
    ----------
    file : LsfmFile
    channel : str, optional
        Describe this one only.
    sources : bool
        List every file that an image was made from, not only how many there are.

    Raises
    ------
    UnknownChannelError, FormatError
    """
    chosen = list(file.channels.values()) if channel is None else [file[channel]]
    xml = _xml(file)
    return FileInfo(
        path=str(file.path),
        bytes=file.path.stat().st_size,
        xml=xml,
        metadata=dict(file.metadata()),
        written_by=tuple(sorted({c.written_by for c in file.channels.values()} - {""})),
        channels=tuple(_channel(file, c, sources) for c in chosen),
        warnings=(*file.remarks, *xml.defects),
    )


def _xml(file: LsfmFile) -> XmlInfo:
    defects = tuple(str(defect) for defect in compare_xml(file))
    if not file.xml_path.exists():
        state: Literal["present", "missing", "disagrees"] = "missing"
    else:
        state = "disagrees" if defects else "present"
    named = file.named_xml is not None and file.named_xml.resolve() != file.path.with_suffix(".xml").resolve()
    return XmlInfo(name=file.xml_path.name, path=str(file.xml_path), named=named, state=state, defects=defects)


def _channel(file: LsfmFile, channel: Channel, sources: bool) -> ChannelInfo:
    orientation, box = channel.orientation, channel.space.bounds
    sides = file.field_sides(channel.name) if channel.kind == "vectors" else Sides(None, channel.space_name)
    return ChannelInfo(
        name=channel.name,
        kind=channel.kind,
        dtype=str(channel.dtype),
        unit=channel.unit,
        space=sides.outer,
        from_space=sides.inner,
        proof=file.proof(channel.name) or None,
        axcodes=orientation.axcodes if orientation else None,
        origin_letters=orientation.origin_letters if orientation else None,
        orientation=orientation.describe() if orientation else None,
        left_handed=orientation.is_mirrored if orientation else None,
        world_from_voxel=channel.space.world_from_voxel.tolist(),
        extent=ExtentInfo(size=box.size_mm, lower=box.lower_mm, upper=box.upper_mm) if orientation else None,
        levels=tuple(map(_level, channel.levels)),
        display_range=channel.display_range,
        bdv_setup=channel.setup,
        bdv_attributes=dict(channel.attributes),
        timepoints=channel.timepoints,
        field=_field(channel),
        inverse=channel.partner,
        affines=tuple(_affine(file, channel, name) for name in channel.affines),
        labels=_labels(file, channel),
        metadata=dict(file.metadata(channel.name)),
        acquisition=file.acquisition(channel.name),
        sources=_sources(channel, sources),
        written_by=channel.written_by,
        warnings=(
            *channel.remarks,
            *([orientation.doubt] if orientation and orientation.doubt else []),
            *([_unknown_space(file, channel)] if channel.kind == "labels" and channel.space_name is None else []),
        ),
    )


def _level(level: Level) -> LevelInfo:
    return LevelInfo(
        shape=level.shape,
        voxel_size=level.space.voxel_size_mm,
        factors=level.factors,
        chunks=level.data.chunks,
        raw_bytes=level.data.nbytes,
        stored_bytes=level.stored_bytes,
    )


def _affine(file: LsfmFile, channel: Channel, name: str) -> AffineInfo:
    affine, sides = file.affine(channel.name, name), file.affine_sides(channel.name, name)
    return AffineInfo(
        name=name,
        matrix=affine.matrix.tolist(),
        words=affine.describe(),
        from_space=sides.inner,
        to_space=sides.outer,
        proof=file.proof(channel.name, name) or None,
    )


def _sides(inner: str | None, outer: str | None) -> str:
    return f"from {inner or UNKNOWN} to {outer or UNKNOWN}"


def _unknown_space(file: LsfmFile, channel: Channel) -> str:
    return (
        "the space that these labels lie in is not recorded, so it cannot be known whether they fit what is cut out by them; "
        f"{set_space_command(file, channel=channel.name, space='NAME')} records it"
    )


def _field(channel: Channel) -> str | None:
    if channel.kind != "vectors":
        return None
    if channel.orientation is None:
        return "a displacement field; along which axes its components run is not recorded"
    return "adds a displacement (R, A, S, mm) to a point in its extent, and so leads from the output space to the input space"


def _labels(file: LsfmFile, channel: Channel) -> LabelsInfo | None:
    text = file.label_table(channel.name)
    if text is None:
        return None
    labels = LabelTable.from_json(text).values()
    return LabelsInfo(
        entries=len(labels),
        has_ontology=any(label.parent is not None for label in labels),
        with_colour=sum(label.rgb is not None for label in labels),
    )


def _sources(channel: Channel, every: bool) -> SourcesInfo | None:
    records = channel.sources
    if not records:
        return None
    return SourcesInfo(
        count=len(records),
        bytes=sum(record.size for record in records),
        first=records[0].name,
        last=records[-1].name,
        files=tuple(SourceInfo(name=r.name, size=r.size, crc32=r.crc32) for r in records) if every else None,
    )


def _by(values: Iterable[object]) -> str:
    return " x ".join(map(str, values))
