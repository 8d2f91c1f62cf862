"""What can be asked of an export: one object, filled alike by the command line, widgets, recipes and scripts."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lsfm_core._request import Request, told
from lsfm_core.errors import InputError
from lsfm_core.formats import FIELD_CONVENTIONS, OUTPUT_SUFFIXES, FieldConvention
from lsfm_core.geometry import Orientation, Triple, check_voxel_size
from lsfm_core.parallel import check_shard

__all__ = ["ExportRequest", "Method", "RegionSelection", "TransformRequest", "TransformStep"]

Method = Literal["linear", "nearest", "bspline", "mode"]
SHARD_TIP = "Make only this part of the work, such as 2/3, the second of three; whoever makes the last one joins all"
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

    path: Path = told(..., "File", "The HDF5 file, or its BigDataViewer XML")
    channel: str = told(..., "Channel", "The channel to take")
    orientation: str | None = told(
        None,
        "Orientation",
        "How the stored image lies, for files that do not record it: three letters for planes, rows and columns, each the side "
        "toward which they are counted, as AIR",
        empty="such as AIR",
    )
    voxel_size_mm: Triple | None = told(
        None,
        "Voxel size (mm)",
        "Edges of a voxel, for planes, rows, columns, for files without a unit of length",
        unit="mm",
        empty="planes, rows, columns",
    )
    transforms: Annotated[tuple[TransformStep, ...], BeforeValidator(_parse_steps, json_schema_input_type=_Steps)] = told(
        (),
        "Transforms",
        "The transforms between the image and the output, nearest to the image first: names of affines or displacement fields in "
        "the file, or paths of such",
    )
    to_space: str | None = told(
        None, "To space", "The space to go to, instead of the transforms: a name, or a channel that lives there", empty="its own"
    )
    via: tuple[str, ...] = told((), "By way of", "Spaces or transforms on the way to that space, where several are equally short")
    numeric_inverse: tuple[str, ...] = told(
        (), "Invert fields numerically", "Displacement fields without a stored inverse that may be inverted numerically"
    )
    field_convention: FieldConvention | None = told(
        None,
        "Vectors are",
        "What the vectors of a displacement field are that is named by its path, if its file does not say or says otherwise",
        words=FIELD_CONVENTIONS,
    )
    memory_bytes: int = told(2 * 10**9, "Memory (GB)", "Memory to use at most", unit="GB", gt=0)
    threads: int | None = told(None, "Threads", "How many cores to use", empty="all cores", gt=0)

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

    labels_channel: str = told(..., "Labels", "The channel whose labels are meant")
    select: Annotated[
        tuple[str | int, ...],
        BeforeValidator(lambda v: (v,) if isinstance(v, (str, int)) else v, json_schema_input_type=_Regions),
    ] = told(..., "Regions", "Ids, acronyms or names", min_length=1, empty="CA1; TH")
    include_descendants: bool = told(
        False, "Parts", "All regions that the ontology knows as parts of them", words="with all their parts"
    )
    side: Literal["left", "right"] | None = told(None, "Hemisphere", "One side of the brain only", empty="both")
    midline_mm: float | None = told(
        None,
        "Midline (mm)",
        "R of the plane between the hemispheres; else the middle of all that is labelled",
        unit="mm",
        empty="from the labels",
        allow_inf_nan=False,
    )
    margin_mm: float = told(
        0, "Margin (mm)", "How much is added around the region, on every side", unit="mm", ge=0, allow_inf_nan=False
    )
    margin_vox: int = told(0, "Margin (voxels)", "The same in voxels of the output", ge=0)
    mask: bool = told(False, "Mask", "Give voxels outside the region the fill value", words="nothing but the region")
    labels_in: str = told(
        "native",
        "Labels lie in",
        "The space of the labels: native, the image's own; output, behind all transforms; or the name of "
        "a transform, on the outer side of that one",
    )

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
    shard : str, optional
        Make one part of the work only, ``"2/3"`` the second of three; `make_shard` carries it out.
    """

    output: Path | None = told(
        None, "File", "Its ending is the format: .nii, .nii.gz, .nrrd, .mha, .tif, .ome.tif, .ome.zarr or .npy; for a grid a folder"
    )
    level: int | None = told(None, "Level", "Pyramid level to read; else the best for the resolution", empty="automatic", ge=0)
    timepoint: int | None = told(None, "Timepoint", "Which of the times that info lists; else the first", ge=0)
    resolution_mm: float | tuple[float, float, float] | None = told(
        None,
        "Resolution (mm)",
        "Voxel size of the output, one number or three; else that of the level, the reference or the displacement field",
        unit="mm",
        empty="as stored",
    )
    output_orientation: str | None = told(
        None,
        "Orientation",
        "Toward which sides the output's axes grow, or native: as the image is stored; else RAS, or as the reference",
        empty="default",
    )
    reference: str | None = told(None, "Reference", "A channel or an image file, whose grid the output takes", empty="none")
    origin_mm: tuple[float, float, float] | None = told(
        None,
        "Corner (mm)",
        "The box's outer corner with the smallest R, A, S (right, anterior, superior), in the output's world",
        unit="mm",
        empty="R, A, S",
    )
    size_mm: float | tuple[float, float, float] | None = told(
        None, "Size (mm)", "Its extent along R, A, S", unit="mm", empty="R, A, S"
    )
    snap: bool = told(
        False,
        "Snap",
        "Move the box to the nearest voxel faces, so that voxels are copied, not interpolated",
        words="to voxel faces",
    )
    region: RegionSelection | None = told(None, "Region", "The surroundings of a part of the brain")
    grid: tuple[int, int, int] | None = told(
        None,
        "Blocks",
        "How many blocks along R, A, S; 0,0,0: as many as the whole image, or the region, takes",
        empty="R, A, S",
    )
    overlap_mm: float | tuple[float, float, float] = told(
        0.0, "Overlap (mm)", "What neighbouring blocks share: one number, or three (R, A, S)", unit="mm"
    )
    interpolation: Method | None = told(
        None,
        "Interpolation",
        "How values between voxels are found; mode: for labels, the most frequent id; else nearest for labels, and linear",
        empty="default",
    )
    antialias: bool = told(
        True,
        "Average",
        "Average the image first where it is more than twice as fine as the output",
        words="where the result is coarser",
    )
    fill: float = told(0, "Fill value", "Value where the image has none")
    overwrite: bool = told(False, "Replace", "Replace the output if it exists", words="if it is there already")
    shard: str | None = told(None, "Shard", SHARD_TIP, empty="all of it")

    @field_validator("shard")
    @classmethod
    def _check_shard(cls, value: str | None) -> str | None:
        return value if value is None else check_shard(value)

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
