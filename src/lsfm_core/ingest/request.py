"""What can be asked of an ingest: one object, filled alike by the command line, widgets, recipes and scripts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import WithJsonSchema, field_serializer, field_validator, model_validator

from lsfm_core._request import Request, told
from lsfm_core.errors import InputError
from lsfm_core.formats import FIELD_CONVENTIONS, FieldConvention, PlanesAre
from lsfm_core.geometry import Orientation, Triple, check_voxel_size
from lsfm_core.pyramid import Kind
from lsfm_core.store import check_channel_name

__all__ = ["IngestRequest"]


class IngestRequest(Request):
    """What to put into a file, and how.

    Voxel size, orientation and origin may be left out where the metadata file or the image tells them; given ones win over the
    file's, and those over the image's.

    Attributes
    ----------
    path : Path
        The HDF5 file (.h5 or .hdf5), made if it is not there, else the channel is added; or the XML of one that is there.
    channel : str
        Name of the new channel.
    image : str, path, or array-like
        What `lsfm_core.formats.open_source` takes: a TIFF series or stack, OME-TIFF, NIfTI, NRRD, MHA, Zarr, or in Python any array
        or a function that gives planes. Also a channel of a file like this one or of BigDataViewer's, by its HDF5 file or XML.
    image_channel : int or str, optional
        Which channel of an image that has several: its name, or else its index; ``name:1`` and ``index:1`` where 1 could be either.
    planes_are : {"time", "channels"}, optional
        For files that have several time points or channels of a single plane each: these are the planes.
    kind : {"image", "labels", "vectors", "components"}
    voxel_size_mm : tuple of 3 float, optional
        Planes, rows, columns.
    orientation : str, optional
        Axis codes in array order: where each index grows toward, as ``AIR``.
    origin_mm : tuple of 3 float, optional
        R, A, S position of the centre of the voxel that is first in R, A and S. Default: the image's own, or 0, 0, 0.
    metadata : Path, optional
        JSON file that tells of the image, as `lsfm_core.metadata.describe_image` makes it. It must not contradict the image's shape
        and type.
    labels : Path, optional
        For labels: a table of what the ids mean, as `LabelTable.read` takes it.
    ontology : Path, optional
        For labels: a table of the structures that they belong to, with parents, which is joined to that of the labels by id, else
        by acronym. Without `labels` it is the label table itself.
    inverse_of : str, optional
        For vectors: the channel that holds the inverse of this displacement field.
    space : str, optional
        The space that it lies in: a name, or a channel of the file that lives there; of vectors the space toward the output, where
        the field's grid lies. Default: for an image its own, else not known.
    from_space : str, optional
        For vectors: the space toward the image, to which the field maps points. Default: not known.
    field_convention : {"lps-displacement", "ras-displacement", "lps-position", "ras-position", "grid-position"}, optional
        For vectors: what they mean, where the file does not say, or says otherwise. The first four are in mm; ``grid-position`` is
        along the axes of the grid, from its first voxel. Default: what the file says.
    replace : bool
        Whether a channel of that name gives way.
    resume : bool
        If the ingest is interrupted, keep what is finished, for the same request to go on from there; and go on from what an
        interrupted one has left. Otherwise an interrupted ingest is rolled back.
    checkpoint_seconds : float
        How often a resumable ingest secures what it has done.
    memory_bytes : int
        Bound of the process' resident size.
    threads : int, optional
        Default: the cores this process may use.
    compression : int
        Deflate level 0 (none) to 3.
    uint16_as_int16 : bool
        Keep uint16 as the same bits in int16, for BigDataViewer before 10.4.6.
    """

    path: Path = told(
        ..., "File", "The HDF5 file; made if it is not there, else the channel is added to it", empty="new or existing file"
    )
    channel: str = told(..., "Channel", "Name of the new channel", empty="such as autofluo")
    image: Annotated[Any, WithJsonSchema({"type": "string"})] = told(
        ...,
        "Image",
        "TIFF series (a folder, one of its files, or a pattern such as img_*_C01.tif or img_%04d.tif), TIFF stack, "
        "OME-TIFF, NIfTI, NRRD, MHA, Zarr, Imaris, a dataset in HDF5 (file.h5:/dataset), or a BigDataViewer file",
        empty="drop it here, or choose",
    )
    image_channel: int | str | None = told(
        None,
        "Channel of it",
        "Which channel of an image that has several: its name, or its index (from 0)",
        empty="if it has several",
    )
    planes_are: PlanesAre | None = told(
        None,
        "Planes are",
        "Of a file whose time points or channels have a single plane each: these are the planes",
        empty="slices",
        words={"time": "time points"},
    )
    kind: Kind = told(
        "image", "Kind", "What the voxels are", words={"vectors": "displacement field", "components": "components (colours)"}
    )
    voxel_size_mm: tuple[float, float, float] | None = told(
        None,
        "Voxel size (mm)",
        "Distance from one plane to the next, from row to row, from column to column, if the image does not tell",
        unit="mm",
        empty="planes, rows, columns",
    )
    orientation: str | None = told(
        None,
        "Orientation",
        "For planes, rows and columns the side toward which the index grows: R or L, A or P, S or I (nibabel's axis codes), as AIR",
        empty="AIR",
    )
    origin_mm: tuple[float, float, float] | None = told(
        None,
        "Origin (mm)",
        "R, A, S of the centre of the voxel that is first in right, anterior and superior; else the image's own, or 0,0,0",
        unit="mm",
        empty="R, A, S",
    )
    metadata: Path | None = told(
        None,
        "Metadata (JSON)",
        "What else is known of the image, as dump-metadata writes it; what is given here wins over it",
        empty="none",
    )
    labels: Path | None = told(
        None, "Label table", "For labels: what the ids mean (ITK-SNAP description, colour table, CSV, JSON)", empty="none"
    )
    ontology: Path | None = told(
        None,
        "Ontology",
        "For labels: the tree of structures that they belong to (Allen structure tree, or CSV with parents), "
        "joined by id, else by acronym",
        empty="none",
    )
    inverse_of: str | None = told(
        None, "Inverse of", "For vectors: the channel that holds the inverse of this displacement field", empty="none"
    )
    field_convention: FieldConvention | None = told(
        None,
        "Vectors are",
        "What the vectors of a displacement field are, if its file does not say or says otherwise",
        empty="as the file tells",
        words=FIELD_CONVENTIONS,
    )
    space: str | None = told(
        None,
        "Space",
        "The space that it lies in: a name, or a channel that lives there; of vectors the space toward the output",
        empty="not known",
    )
    from_space: str | None = told(None, "From space", "For vectors: the space toward the image", empty="not known")
    replace: bool = told(
        False, "Replace", "Replace a channel of that name; affines and metadata stay", words="a channel of that name"
    )
    resume: bool = told(
        False, "Resume", "If interrupted, keep what is finished; and go on from what an interrupted ingest like this one has left"
    )
    checkpoint_seconds: float = told(30.0, "Secure every (s)", "How often a resumable ingest secures what it has done", gt=0)
    memory_bytes: int = told(2 * 10**9, "Memory (GB)", "Memory to use at most", unit="GB", gt=0)
    threads: int | None = told(None, "Threads", "How many cores to use", empty="all cores", gt=0)
    compression: int = told(
        1,
        "Compression",
        "Without loss; better takes longer",
        ge=0,
        le=3,
        words={"0": "none", "1": "fast", "2": "better", "3": "best, slow"},
    )
    uint16_as_int16: bool = told(
        False, "Keep uint16", "Keep uint16 as the same bits in int16, for BigDataViewer before 10.4.6", words="as int16"
    )

    @field_validator("orientation")
    @classmethod
    def _check_orientation(cls, value: str | None) -> str | None:
        return None if value is None else Orientation.from_user(value).axcodes

    @field_validator("voxel_size_mm")
    @classmethod
    def _check_voxel_size(cls, value: Triple | None) -> Triple | None:
        return None if value is None else check_voxel_size(value)

    @field_validator("image_channel")
    @classmethod
    def _check_image_channel(cls, value: int | str | None) -> str | None:
        # A number may be a name, whether it was typed as a text or not.
        return None if value is None else str(value)

    @field_validator("image")
    @classmethod
    def _check_image(cls, value: Any) -> Any:
        # As the log names it: see `_name_image`.
        if isinstance(value, Mapping):
            raise InputError("image: was in the memory of a Python program, and nobody has kept it: give the path of one")
        return value

    @field_validator("channel")
    @classmethod
    def _check_channel(cls, value: str) -> str:
        check_channel_name(value)
        return value

    @field_serializer("image", when_used="json")
    def _name_image(self, value: Any) -> str | dict[str, str]:
        # What Python held in its memory has no name.
        return os.fspath(value) if isinstance(value, str | os.PathLike) else {"type": type(value).__name__}

    @model_validator(mode="after")
    def _check_kind(self) -> IngestRequest:
        for name in ("labels", "ontology"):
            if getattr(self, name) is not None and self.kind != "labels":
                raise InputError(f"{name}: only a channel of kind labels has a label table, not {self.kind}")
        if self.inverse_of is not None and self.kind != "vectors":
            raise InputError(f"inverse_of: only a channel of kind vectors can be the inverse of another, not {self.kind}")
        if self.field_convention is not None and self.kind != "vectors":
            raise InputError(f"field_convention: only vectors (--kind vectors) have one, not {self.kind}")
        if self.from_space is not None and self.kind != "vectors":
            raise InputError(f"from_space: only a channel of kind vectors leads from one space to another, not {self.kind}")
        return self
