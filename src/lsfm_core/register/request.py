"""What can be asked of the import of a registration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from lsfm_core._request import Request
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

    path: Path
    registration: Annotated[
        tuple[Path, ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, (str, Path)) else value, json_schema_input_type=_Paths),
    ] = Field(min_length=1)
    channel: str
    atlas_space: str | None = None
    name: str | None = None
    tool: Tool | None = None
    fixed: Literal["atlas", "channel"] | None = None
    atlas_image: str | None = None
    landmark_unit: Literal["um", "mm"] | None = None
    field_error_vox: float = Field(default=0.01, gt=0, le=0.1)
    result: Path | None = None
    moved: Path | None = None
    prove: bool = True
    one_way: bool = False
    mirrored: bool = False
    labels: Path | None = None
    labels_channel: str | None = None
    replace: bool = False
    memory_bytes: int = Field(default=2 * 10**9, gt=0)
    threads: int | None = Field(default=None, gt=0)

    @field_validator("name", "labels_channel")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if value is not None:
            check_channel_name(value)
        return value
