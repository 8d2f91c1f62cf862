"""What can be asked of a preview."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from lsfm_core._request import Request
from lsfm_core.errors import InputError
from lsfm_core.geometry import Orientation, Triple, check_voxel_size

__all__ = ["PreviewRequest", "Projection"]

Projection = Literal["middle", "max"]
_SUFFIXES = (".png", ".html")


class PreviewRequest(Request):
    """What to show of a file, and how.

    Attributes
    ----------
    path : Path
        The file to look at.
    channels : tuple of str
        Default: in a picture all images, or if there is none, all channels; in a page all channels.
    labels_channel : str, optional
        Draw the outlines of these labels over the images. Those that lie in another space are refused where `channels` names them,
        and are left without outlines otherwise.
    projection : {"middle", "max"}
        The slices through the middle of the image, or the brightest voxel behind each pixel (of labels the first one that is seen).
    size : int
        Pixels along the longest edge of the largest channel; all views of a picture have the same scale. Default: 600; in a page as
        much as its width takes.
    orientation : str, optional
        How the stored image lies, for files that do not record it.
    voxel_size_mm : tuple of 3 float, optional
        Edges of a level-0 voxel along planes, rows and columns, of channels without a unit of length.
    timepoint : int, optional
        BigDataViewer's number of the time that is shown, which all channels must have. Default: the first of each.
    output : Path, optional
        ``.png`` for a picture, ``.html`` for a page. Without it a picture comes back as an array.
    overwrite : bool
        Whether `output` may be replaced.
    """

    path: Path
    channels: Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)] = ()
    labels_channel: str | None = None
    projection: Projection = "middle"
    size: int = Field(default=600, ge=50, le=4000)
    orientation: str | None = None
    voxel_size_mm: Triple | None = None
    timepoint: int | None = Field(default=None, ge=0)
    output: Path | None = None
    overwrite: bool = False

    @field_validator("orientation")
    @classmethod
    def _check_orientation(cls, value: str | None) -> str | None:
        return None if value is None else Orientation(value).axcodes

    @field_validator("voxel_size_mm")
    @classmethod
    def _check_voxel_size(cls, value: Triple | None) -> Triple | None:
        return None if value is None else check_voxel_size(value)

    @field_validator("output")
    @classmethod
    def _check_output(cls, value: Path | None) -> Path | None:
        if value is not None and value.suffix.lower() not in _SUFFIXES:
            raise InputError(f"output {value}: a preview is a picture (.png) or a page (.html)")
        return value

    @property
    def is_page(self) -> bool:
        """Whether a page is wanted, and not a picture."""
        return self.output is not None and self.output.suffix.lower() == ".html"
