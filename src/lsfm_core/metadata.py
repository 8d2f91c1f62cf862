"""What an image tells of itself, as JSON that a person can complete and `write` takes: see docs/metadata.md.

The schema has a version. Lengths carry their unit; they are read in any of the known ones, and written in millimetres. A field that
is null is not known.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from lsfm_core.durable import new_file
from lsfm_core.errors import InputError, SourceError, check_file
from lsfm_core.formats import PlanesAre, Source, kind_of
from lsfm_core.geometry import Orientation, Shape3, Space, Triple, check_voxel_size
from lsfm_core.images import open_source
from lsfm_core.pyramid import Kind

__all__ = ["ImageMetadata", "VoxelSize", "describe_image", "metadata_schema", "plain_json", "read_metadata"]

#: Whoever names an image where metadata are expected should not wait until it is in memory.
_LARGEST_FILE = 2**24
_POWER_OF_MM = {"nm": -6, "um": -3, "\u00b5m": -3, "\u03bcm": -3, "mm": 0, "cm": 1, "m": 3}
_LONGEST_ECHO = 60

# Both micro signs of Unicode.
Unit = Literal["nm", "um", "\u00b5m", "\u03bcm", "mm", "cm", "m"]
DType = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]
# Longer than any voxel or way, and short enough to reckon with.
_Coordinate = Annotated[float, Field(ge=-1e15, le=1e15)]
_Length = Annotated[float, Field(gt=0, le=1e15)]
_Count = Annotated[int, Field(gt=0)]
_Row = tuple[_Coordinate, _Coordinate, _Coordinate, _Coordinate]


class _Part(BaseModel):
    """Frozen; takes each type as it is (no number from a text), and no field that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Shape(_Part):
    """Number of voxels along each axis of the array, slowest first."""

    planes: _Count
    rows: _Count
    columns: _Count


class _Lengths(_Part):
    unit: Unit
    """Of the three numbers."""

    def in_mm(self) -> Self:
        """The same lengths in millimetres."""
        power = _POWER_OF_MM[self.unit]
        # Decimal, so that 1.62 um are 0.00162 mm and not 0.0016200000000000001.
        scaled = {name: float(Decimal(repr(value)).scaleb(power)) for name, value in self if name != "unit"}
        return self.model_copy(update={**scaled, "unit": "mm"})


class VoxelSize(_Lengths):
    """Edge lengths of a voxel along the axes of the array."""

    planes: _Length
    """Distance from one plane to the next."""
    rows: _Length
    columns: _Length

    @classmethod
    def from_text(cls, text: str) -> VoxelSize:
        """Read what a person types: three numbers and their unit, as ``5, 4, 4 um``.

        Raises
        ------
        InputError
        """
        match = re.fullmatch(r"(.*?)\s*([^\W\d_]+)", text.strip())
        numbers = re.split(r"[\s,;]+", match.group(1).strip()) if match else []
        try:
            planes, rows, columns = (float(number) for number in numbers)
        except ValueError:
            raise InputError(f"{text.strip()!r}: expected three numbers and their unit, such as 5, 4, 4 um") from None
        try:
            return cls(planes=planes, rows=rows, columns=columns, unit=cast(Unit, match.group(2) if match else "")).in_mm()
        except ValidationError as error:
            raise InputError(_defects(error)) from error

    @property
    def triple_mm(self) -> Triple:
        """Planes, rows, columns."""
        size = self.in_mm()
        return size.planes, size.rows, size.columns


class Origin(_Lengths):
    """Position of the centre of the voxel that is first in right, anterior and superior."""

    right: _Coordinate
    anterior: _Coordinate
    superior: _Coordinate

    @property
    def triple_mm(self) -> Triple:
        """R, A, S."""
        origin = self.in_mm()
        return origin.right, origin.anterior, origin.superior


class ImageMetadata(_Part):
    """What an image tells of itself, and what a person knows besides; a field that is null is not known."""

    schema_version: Literal[1]
    """Version of this schema."""
    image: str | None = None
    """The image that was described."""
    format: str | None = None
    """Its file format."""
    kind: Kind | None = None
    """What the voxels are; image unless told."""
    channel: int | str | None = None
    """Index (from 0) or name of the channel that was described, where the image has several."""
    channel_names: tuple[str, ...] = ()
    """All its channels; empty text for one without a name."""
    shape: Shape | None
    dtype: DType | None
    """Type of the voxels' values."""
    voxel_size: VoxelSize | None
    orientation: str | None
    """For planes, rows and columns the side toward which the index grows: R or L, A or P, S or I. AIR: planes toward anterior, rows
    toward inferior, columns toward right."""
    origin: Origin | None = None
    world_from_voxel: tuple[_Row, _Row, _Row, _Row] | None = None
    """For an image that lies oblique: matrix from (plane, row, column, 1) to right, anterior and superior in mm. Then origin is
    null, and voxel_size and orientation, if they are there, say what follows from it."""
    acquisition: dict[str, JsonValue] = {}
    """What the file tells of the microscope and the recording, in the file's own words."""
    notes: tuple[str, ...] = ()
    """What the user should know; not read."""
    missing: tuple[str, ...] = ()
    """The fields that are null and without which the image cannot be written; worked out anew when read."""

    @field_validator("voxel_size", "origin")
    @classmethod
    def _convert(cls, value: _Lengths | None) -> _Lengths | None:
        return None if value is None else value.in_mm()

    @field_validator("voxel_size")
    @classmethod
    def _check_voxel_size(cls, value: VoxelSize | None) -> VoxelSize | None:
        if value is not None:
            check_voxel_size(value.triple_mm, "voxel_size")
        return value

    @field_validator("orientation")
    @classmethod
    def _check_orientation(cls, value: str | None) -> str | None:
        return None if value is None else Orientation.from_user(value).axcodes

    @model_validator(mode="after")
    def _check_geometry(self) -> Self:
        space = self.space((1, 1, 1))
        if space is not None:
            found = []
            if self.origin is not None:
                found.append("origin")
            if self.voxel_size is not None and not np.allclose(self.voxel_size.triple_mm, space.voxel_size_mm, rtol=1e-4, atol=0):
                found.append(f"voxel_size {list(self.voxel_size.triple_mm)} mm, the matrix {list(space.voxel_size_mm)} mm")
            if self.orientation not in (None, space.orientation.axcodes):
                found.append(f"orientation {self.orientation}, the matrix {space.orientation}")
            if found:
                raise InputError(f"world_from_voxel: is contradicted: the JSON says {'; '.join(found)}: set one of the two to null")
        needed = () if space is not None else ("voxel_size", "orientation")
        object.__setattr__(self, "missing", tuple(name for name in needed if getattr(self, name) is None))
        return self

    def updated(self, **fields: Any) -> ImageMetadata:
        """These metadata with other values for some fields.

        Raises
        ------
        InputError
            That names each value which cannot be.
        """
        try:
            return ImageMetadata(**{**dict(self), **fields})
        except ValidationError as error:
            raise InputError(_defects(error)) from error

    def space(self, shape: Shape3) -> Space | None:
        """The space of an image of that shape, where `world_from_voxel` tells it."""
        return None if self.world_from_voxel is None else Space(shape, np.array(self.world_from_voxel))

    def wishes(self, own: Space | None) -> dict[str, Any]:
        """What is told of the geometry, by the names of the ingest's request, as far as it is not the image's `own`."""
        told: dict[str, Any] = {"origin_mm": self.origin.triple_mm if self.origin else None}
        if self.world_from_voxel is None:
            size = self.voxel_size.triple_mm if self.voxel_size else None
            told["voxel_size_mm"] = None if own is not None and size == own.voxel_size_mm else size
            told["orientation"] = None if own is not None and self.orientation == own.orientation.axcodes else self.orientation
        return {name: value for name, value in told.items() if value is not None}

    def contradictions(self, source: Source, kind: Kind) -> list[str]:
        """Each fact that is another one in the image, which is going to be read as `kind`: both values."""
        found = []
        if self.shape is not None:
            for (axis, told), own in zip(self.shape, source.shape, strict=True):
                if told != own:
                    found.append(f"{axis}: {told}, but the image has {own}")
        if self.kind not in (None, kind):
            found.append(f"kind: {self.kind}, but the image is to be written as {kind}")
        # Labels that are stored as floats are given as integers.
        elif self.dtype not in (None, str(source.dtype)) and (self.kind or "image") == kind:
            found.append(f"dtype: {self.dtype}, but the image has {source.dtype}")
        return found

    def to_json(self) -> str:
        """JSON text that `read_metadata` takes, in ASCII, which any terminal and pipe can carry."""
        return json.dumps(self.model_dump(mode="json"), indent=2)

    def write(self, path: Path, *, overwrite: bool = False) -> None:
        """Write `to_json` to a file.

        Raises
        ------
        ExistsError, StorageError
        """
        with new_file(path, overwrite) as partial:
            partial.write_text(self.to_json() + "\n", encoding="ascii")


def describe_image(
    image: Any,
    *,
    channel: int | str | None = None,
    kind: Kind | None = None,
    like: ImageMetadata | None = None,
    planes_are: PlanesAre | None = None,
) -> ImageMetadata:
    """What an image tells of itself; planes of a series are counted.

    Parameters
    ----------
    image, channel, kind, planes_are
        As `lsfm_core.formats.open_source` takes them.
    like : ImageMetadata, optional
        Of an image from the same microscope: geometry and facts of acquisition that this one does not tell.

    Raises
    ------
    InputError, SourceError
    """
    source = open_source(image, channel=channel, kind=kind or "image", planes_are=planes_are, judge=False)
    try:
        if kind_of(source, kind or "image") != (kind or "image"):
            kind = kind_of(source, "image")
        own = _from_source(source, str(image) if isinstance(image, (str, os.PathLike)) else source.name, kind)
    except ValidationError as error:
        raise SourceError(f"{source.name}: what it tells of itself cannot be: {_defects(error)}") from error
    finally:
        source.close()
    return own if like is None else _completed(own, like)


_LSFMPY_KEYS = {f"{name}_{letter}" for name in ("image_size", "voxel_size") for letter in "xyz"}


def read_metadata(path: Path) -> ImageMetadata:
    """Read and check a JSON file.

    Raises
    ------
    InputError
        That names every field which is missing, unknown, of a wrong type or unit, or impossible, all at once.
    MissingError
        If there is no such file.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    # The latter for names that no file can have.
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if len(data) > _LARGEST_FILE:
        raise InputError(f"{path}: is larger than {_LARGEST_FILE // 2**20} MiB: give the JSON file that dump-metadata has written")
    try:
        text = data.decode("utf-8-sig")
        # Python's parser, to refuse what the other lets pass, and to name line and column.
        facts = json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON: {error}") from error
    if isinstance(facts, dict) and "schema_version" not in facts and _LSFMPY_KEYS & facts.keys():
        text = json.dumps(_from_lsfmpy(facts))
    try:
        return ImageMetadata.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path}: {_defects(error)}: correct it (lsfm-core dump-metadata --schema prints the rules)") from error


def _from_lsfmpy(facts: dict[str, Any]) -> dict[str, Any]:
    """What lsfmpy's dump-metadata wrote, in our words: x are columns, y rows, z planes; lengths are mm."""

    def three(name: str, **more: str) -> dict[str, Any] | None:
        values = {along: facts.get(f"{name}_{letter}") for along, letter in (("planes", "z"), ("rows", "y"), ("columns", "x"))}
        return None if None in values.values() else {**values, **more}

    return {
        "schema_version": 1,
        "shape": three("image_size"),
        # It knows how many bits there are, and not what they mean; nor toward which side an index grows.
        "dtype": None,
        "voxel_size": three("voxel_size", unit="mm"),
        "orientation": None,
        "image": str(facts.get("file_path", "")),
        "acquisition": {key: value for key, value in facts.items() if key not in _LSFMPY_KEYS},
    }


def metadata_schema() -> dict[str, Any]:
    """The JSON Schema of what `read_metadata` takes."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ImageMetadata.model_json_schema()}


def _from_source(source: Source, name: str, kind: Kind | None) -> ImageMetadata:
    facts, space = plain_json(source.facts), source.space
    voxel_size = source.voxel_size_mm if space is None else space.voxel_size_mm
    aligned = space is not None and space.is_axis_aligned
    matrix: Any = None if space is None or aligned else tuple(map(tuple, space.world_from_voxel.tolist()))
    return ImageMetadata(
        schema_version=1,
        image=plain_json(name),
        format=facts.get("format"),
        kind=kind,
        channel=facts.get("channel"),
        channel_names=tuple(facts.get("channel_names", ())),
        shape=Shape(**_named(("planes", "rows", "columns"), source.shape)),
        dtype=cast(DType, str(source.dtype)),
        voxel_size=VoxelSize(**_named(("planes", "rows", "columns"), voxel_size), unit="mm") if voxel_size else None,
        orientation=space.orientation.axcodes if space else None,
        origin=Origin(**_named(("right", "anterior", "superior"), space.first_voxel_mm), unit="mm") if space and aligned else None,
        world_from_voxel=matrix,
        acquisition=facts.get("acquisition", {}),
        notes=tuple(facts.get("notes", ())),
    )


def _completed(own: ImageMetadata, like: ImageMetadata) -> ImageMetadata:
    """`own` with what `like` knows besides."""
    # A position belongs to an orientation, and a matrix tells all of the geometry.
    names: tuple[str, ...] = ("voxel_size", "orientation", "origin", "world_from_voxel")
    if own.voxel_size is not None:
        names = () if own.orientation is not None else ("orientation", "origin")
    taken: dict[str, Any] = {name: getattr(like, name) for name in names if getattr(like, name) is not None}
    facts = {name: value for name, value in like.acquisition.items() if name not in own.acquisition}
    if not taken and not facts:
        return own
    listing = ", ".join([*taken, *(f"acquisition.{name}" for name in facts)])
    return own.updated(
        **taken,
        acquisition={**own.acquisition, **facts},
        notes=(*own.notes, f"taken from the metadata of {like.image or 'another image'}: {listing}"),
    )


def _named(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


def plain_json(value: Any) -> Any:
    """`value` as JSON can hold it, whatever a file or somebody's source has brought; what it cannot hold becomes None or text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {plain_json(str(key)): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    # Undecodable bytes of file names are no Unicode.
    return str(value).encode("utf-8", "backslashreplace").decode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands there twice")
        found[name] = value
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number that JSON can hold")
    return value


def _defects(error: ValidationError) -> str:
    """Every defect with its place."""
    found = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        cause = item.get("ctx", {}).get("error")
        if item["type"] == "missing":
            text = "is missing (null if it is not known)" if len(item["loc"]) == 1 else "is missing"
        elif item["type"] == "extra_forbidden":
            text = "is no field of this schema"
        elif isinstance(cause, InputError):
            text = str(cause)
        else:
            echo = json.dumps(item["input"], ensure_ascii=False, default=str)
            shown = echo if len(echo) <= _LONGEST_ECHO else f"{echo[:_LONGEST_ECHO]}…"
            text = f"{item['msg'][0].lower()}{item['msg'][1:]}, found {shown}"
        # Our own messages name the field already.
        found.append(text if not place or text.startswith(place) else f"{place}: {text}")
    return "; ".join(found)
