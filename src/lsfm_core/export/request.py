"""What can be asked of an export: one object, filled alike by the command line, widgets, recipes and scripts."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lsfm_core._request import Request
from lsfm_core.errors import InputError
from lsfm_core.formats import OUTPUT_SUFFIXES, FieldConvention
from lsfm_core.geometry import Orientation, Triple, check_voxel_size

__all__ = ["ExportRequest", "Method", "RegionSelection", "TransformRequest", "TransformStep"]

Method = Literal["linear", "nearest", "bspline", "mode"]
_INVERT = ":invert"
_YES_NO = {"yes": True, "true": True, "no": False, "false": False}


class TransformStep(Request):
    """One transform of a chain.

    Attributes
    ----------
    name : str
        Of an affine or a displacement field that is stored in the file (``channel/name`` where several channels have an affine of
        that name), or else the path of one.
    invert : bool
        Take its inverse.
    type : {"affine", "field"}, optional
        What it must be; it is an error if it is something else.
    order : int, optional
        Its place in the chain, 1 for the one nearest to the image; default: that of the listing.
    """

    name: str = Field(min_length=1)
    invert: bool = False
    type: Literal["affine", "field"] | None = None
    order: int | None = Field(default=None, ge=1)

    @classmethod
    def parse(cls, text: str) -> TransformStep:
        """Read the short form, ``NAME`` or ``NAME:invert``, or the long one, ``name=NAME,order=1,type=field,invert=yes``.

        Raises
        ------
        InputError
        """
        if not text.removesuffix(_INVERT):
            raise InputError(f"transform {text!r}: give the name of an affine or a displacement field, or the path of one")
        if not text.startswith("name="):
            return cls(name=text.removesuffix(_INVERT), invert=text.endswith(_INVERT))
        fields: dict[str, Any] = {}
        for part in text.split(","):
            key, equals, value = part.partition("=")
            if not equals or key not in cls.model_fields:
                raise InputError(f"transform {text!r}: expected name=…,order=…,type=affine|field,invert=yes|no, found {part!r}")
            fields[key] = _YES_NO.get(value, value) if key == "invert" else value
        return cls(**fields)

    def __str__(self) -> str:
        return self.name + (_INVERT if self.invert else "")


_Steps = str | TransformStep | tuple[str | TransformStep, ...]
_Regions = str | int | tuple[str | int, ...]


def _parse_steps(value: Any) -> Any:
    items = [value] if isinstance(value, (str, TransformStep)) else value
    return [TransformStep.parse(item) if isinstance(item, str) else item for item in items]


class TransformRequest(Request):
    """An image of a file and the way from its own (native) space to another one: what exports and points have in common.

    Attributes
    ----------
    path : Path
        The file to read.
    channel : str
    orientation : str, optional
        How the stored image lies, for files that do not record it.
    voxel_size_mm : tuple of 3 float, optional
        Edges of a level-0 voxel along planes, rows and columns, for files that give no unit of length.
    transforms : tuple of TransformStep
        From the image outward: the first is nearest to the image, the last to the output. Texts are read by `TransformStep.parse`.
    to_space : str, optional
        The space where the output lies, instead of the transforms that lead there, which are then found: the only shortest way, by
        the names of spaces that the file records. A name, or a channel that lives there.
    via : tuple of str
        Spaces or transforms on that way, from the image outward, where several are equally short.
    numeric_inverse : tuple of str
        Displacement fields without a partner that may be inverted numerically.
    field_convention : {"lps-displacement", "ras-displacement", "lps-position", "ras-position", "grid-position"}, optional
        What the vectors of fields mean whose files are among the transforms, as in `IngestRequest`. Default: what they say.
    memory_bytes : int
        Bound of the process' resident size.
    threads : int, optional
        Default: the cores this process may use.
    """

    path: Path
    channel: str
    orientation: str | None = None
    voxel_size_mm: Triple | None = None
    transforms: Annotated[tuple[TransformStep, ...], BeforeValidator(_parse_steps, json_schema_input_type=_Steps)] = ()
    to_space: str | None = None
    via: tuple[str, ...] = ()
    numeric_inverse: tuple[str, ...] = ()
    field_convention: FieldConvention | None = None
    memory_bytes: int = Field(default=2 * 10**9, gt=0)
    threads: int | None = Field(default=None, gt=0)

    @field_validator("orientation")
    @classmethod
    def _check_orientation(cls, value: str | None) -> str | None:
        return None if value is None else Orientation.from_user(value).axcodes

    @field_validator("voxel_size_mm")
    @classmethod
    def _check_voxel_size(cls, value: Triple | None) -> Triple | None:
        return None if value is None else check_voxel_size(value)

    @field_validator("transforms")
    @classmethod
    def _check_transforms(cls, value: tuple[TransformStep, ...]) -> tuple[TransformStep, ...]:
        orders = [step.order for step in value if step.order is not None]
        if not orders:
            return value
        if sorted(orders) != list(range(1, len(value) + 1)):
            raise InputError(
                f"transforms: if one has an order, all need theirs, 1 (nearest to the image) to {len(value)}; found "
                f"{', '.join(f'{step.name}: {step.order}' for step in value)}"
            )
        return tuple(sorted(value, key=lambda step: step.order or 0))

    @model_validator(mode="after")
    def _check_way(self) -> TransformRequest:
        if self.to_space is not None and self.transforms:
            raise InputError("to_space: name the space, or the transforms that lead there, not both")
        if self.via and self.to_space is None:
            raise InputError("via: tells of the way to a space: name that as well (--to-space), or leave it out")
        return self


class RegionSelection(Request):
    """A part of the brain, as labels tell it.

    Attributes
    ----------
    labels_channel : str
        The channel whose labels are meant.
    select : tuple of str or int
        Ids, acronyms or names.
    include_descendants : bool
        With all parts that the label table's ontology knows of them.
    side : {"left", "right"}, optional
        One hemisphere only.
    midline_mm : float, optional
        R position of the plane between the hemispheres, in the world of the labels. Default: the median of all labelled voxels.
    margin_mm : float
        How much is added on every side of the bounding box.
    margin_vox : int
        The same in voxels of the output.
    mask : bool
        Give voxels outside the region the fill value.
    labels_in : str
        The space the labels live in: ``"native"``, that of the image; ``"output"``, behind all transforms; or the name of the
        transform on whose outer side it is.
    """

    labels_channel: str
    select: Annotated[
        tuple[str | int, ...],
        BeforeValidator(lambda v: (v,) if isinstance(v, (str, int)) else v, json_schema_input_type=_Regions),
    ] = Field(min_length=1)
    include_descendants: bool = False
    side: Literal["left", "right"] | None = None
    midline_mm: float | None = Field(default=None, allow_inf_nan=False)
    margin_mm: float = Field(default=0, ge=0, allow_inf_nan=False)
    margin_vox: int = Field(default=0, ge=0)
    mask: bool = False
    labels_in: str = "native"

    @model_validator(mode="after")
    def _check_side(self) -> RegionSelection:
        if self.midline_mm is not None and self.side is None:
            raise InputError("midline: only a side is cut off there: choose a side as well, or leave it out")
        return self


class ExportRequest(TransformRequest):
    """What to take out of a file, and how.

    Without `origin_mm` and `size_mm`, `region` or `grid` it is the whole image; without `transforms` it stays in its own world.

    Attributes
    ----------
    output : Path, optional
        A file in one of the formats of docs/outputs.md, or, with `grid`, a folder (for NIfTI chunks) or a file name with a printf
        pattern for three numbers. Without it the voxels come back as a `Volume`.
    level : int, optional
        Pyramid level to read; default: the coarsest that is at least as fine as the result.
    timepoint : int, optional
        BigDataViewer's number of the time that is meant, where the channel was imaged at several. Default: the first.
    resolution_mm : float or tuple of 3 float, optional
        Voxel size of the result, one number or one for each of its axes. Default: that of the level, of the reference, or of the
        displacement field.
    output_orientation : str, optional
        Axis codes of the result, or ``"native"`` for the order in which the image is stored. Default: RAS, or the reference's.
    reference : str, optional
        A channel of the file, or the path of an image, whose grid the result takes.
    origin_mm : tuple of 3 float, optional
        R, A, S of the cuboid's outer corner with the smallest R, A, S, in the world of the output. A grid of 0, 0, 0 chunks passes
        it over.
    size_mm : float or tuple of 3 float, optional
        Extent of the cuboid, or of each chunk of a `grid`, along R, A, S.
    snap : bool
        Move the cuboid to the nearest voxel faces of the level, so that voxels are copied and not interpolated.
    region : RegionSelection, optional
    grid : tuple of 3 int, optional
        How many chunks of `size_mm` along R, A, S, from `origin_mm` or from the corner of the region's box; 0, 0, 0: as many as the
        whole image, or the region, takes.
    overlap_mm : float or tuple of 3 float
        How much neighbouring chunks have in common, along R, A, S.
    interpolation : {"linear", "nearest", "bspline", "mode"}, optional
        Default: nearest for labels, else linear. mode, for labels: where the result is coarser by 2 or more, the most frequent id
        of each 2 voxels along an axis, repeated while a factor of 2 is left, as in the levels of a pyramid.
    antialias : bool
        Whether a source that is finer than the result by more than a factor of 2 is reduced to block means first.
    fill : float
        Value of voxels where the image has none.
    overwrite : bool
        Whether `output` may be replaced.
    """

    output: Path | None = None
    level: int | None = Field(default=None, ge=0)
    timepoint: int | None = Field(default=None, ge=0)
    resolution_mm: float | tuple[float, float, float] | None = None
    output_orientation: str | None = None
    reference: str | None = None
    origin_mm: tuple[float, float, float] | None = None
    size_mm: float | tuple[float, float, float] | None = None
    snap: bool = False
    region: RegionSelection | None = None
    grid: tuple[int, int, int] | None = None
    overlap_mm: float | tuple[float, float, float] = 0.0
    interpolation: Method | None = None
    antialias: bool = True
    fill: float = 0
    overwrite: bool = False

    @field_validator("resolution_mm", "size_mm")
    @classmethod
    def _check_lengths(cls, value: float | Triple | None, info: Any) -> float | Triple | None:
        if value is not None:
            check_voxel_size(three(value), info.field_name.removesuffix("_mm"))
        return value

    @field_validator("origin_mm")
    @classmethod
    def _check_origin(cls, value: Triple | None) -> Triple | None:
        if value is not None and not all(map(isfinite, value)):
            raise InputError(f"origin: expected three finite numbers, found {value}")
        return value

    @field_validator("output_orientation")
    @classmethod
    def _check_output_orientation(cls, value: str | None) -> str | None:
        return value if value is None else "native" if value.lower() == "native" else Orientation(value).axcodes

    @model_validator(mode="after")
    def _check_piece(self) -> ExportRequest:
        if self.grid is not None:
            self._check_grid(self.grid)
        elif (self.origin_mm is None) != (self.size_mm is None):
            raise InputError("a cuboid needs both: origin_mm (R, A, S of its smallest corner, mm) and size_mm (its extent, mm)")
        if self.grid is None and any(three(self.overlap_mm)):
            raise InputError("overlap: only chunks have one: give a grid as well, or leave it out")
        if self.region is not None and self.corner_mm is not None:
            raise InputError("region: choose a region, or a place by its origin, not both")
        if self.snap and self.corner_mm is None:
            raise InputError("snap: only a cuboid can be moved to voxel faces: give origin and size")
        if self.snap and (
            self.transforms or self.to_space is not None or self.resolution_mm is not None or self.reference is not None
        ):
            raise InputError("snap: copies voxels as they are, so it goes with no resolution, transform or reference")
        return self

    @property
    def corner_mm(self) -> Triple | None:
        """`origin_mm`, where it counts."""
        return None if self.grid == (0, 0, 0) else self.origin_mm

    def _check_grid(self, grid: tuple[int, int, int]) -> None:
        if self.size_mm is None:
            raise InputError("grid: needs the size of a chunk (mm)")
        if min(grid) < 0 or (0 in grid and grid != (0, 0, 0)):
            raise InputError(f"grid: expected three positive numbers of chunks, or 0,0,0 for the whole image, found {grid}")
        if grid != (0, 0, 0) and self.origin_mm is None and self.region is None:
            raise InputError("grid: needs the origin of the first chunk (R, A, S, mm), or 0,0,0 chunks for the whole image")
        name = "" if self.output is None else self.output.name
        if "%" not in name and name.lower().endswith(OUTPUT_SUFFIXES):
            raise InputError(
                f"output {self.output}: a grid's chunks are many files: name a folder, or number them, such as "
                "chunks/c_%02d_%02d_%02d.tif"
            )
        overlap, size = three(self.overlap_mm), three(self.size_mm)
        if not all(0 <= o < s for o, s in zip(overlap, size, strict=True)):
            raise InputError(f"overlap: must be at least 0 and less than the chunks' size, found {overlap} of {size} mm")


def three(value: float | Triple) -> Triple:
    """One number for all axes, or three."""
    return value if isinstance(value, tuple) else (float(value),) * 3
