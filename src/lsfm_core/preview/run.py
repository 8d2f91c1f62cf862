"""A preview carried out."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lsfm_core.durable import check_new, new_file
from lsfm_core.errors import InputError
from lsfm_core.preview._planes import extent
from lsfm_core.preview.page import render_page
from lsfm_core.preview.picture import Layout, Picture, draw_picture, outlined
from lsfm_core.preview.request import PreviewRequest, Projection
from lsfm_core.store import LsfmFile, open_lsfm

__all__ = ["PreviewResult", "describe_preview", "preview_file"]

_SLICES: dict[Projection, str] = {"middle": "middle slices", "max": "maximum projections"}


@dataclass(frozen=True, eq=False)
class PreviewResult:
    """What a preview gave.

    Attributes
    ----------
    image : array (rows, columns, 3), uint8, or None
        The picture; None for a page.
    layout : Layout or None
        What stands where in the picture.
    path : Path or None
        The file that was written.
    seconds : float
    warnings : tuple of str
        What the user should look at.
    """

    image: npt.NDArray[np.uint8] | None
    layout: Layout | None
    path: Path | None
    seconds: float
    warnings: tuple[str, ...]


def describe_preview(file: LsfmFile, request: PreviewRequest) -> str:
    """What `preview_file` would do, in words; no voxel is read.

    Raises
    ------
    LsfmError
        As `preview_file`, as far as it can be known beforehand.
    """
    if request.output is not None:
        check_new(request.output, request.overwrite)
    file = _ready(file, request)
    names = _shown(file, request)
    drawn, warnings = outlined(file, names, request)
    if not request.is_page:
        for name in names:
            extent(file, name, request)
    what = "a page about" if request.is_page else f"{_SLICES[request.projection]} of"
    channels = ", ".join(repr(file[name].name) for name in names)
    over = "" if len(drawn) == len(names) else f" over {', '.join(repr(name) for name in names if name in drawn)}"
    labels = "" if request.labels_channel is None else f", with the outlines of {request.labels_channel!r}{over}"
    return "\n".join([f"makes   {request.output}: {what} {channels}{labels}", *(f"warning {warning}" for warning in warnings)])


def preview_file(request: PreviewRequest, *, file: LsfmFile | None = None) -> PreviewResult:
    """Draw a file's channels, or write a page about it.

    Parameters
    ----------
    request : PreviewRequest
    file : LsfmFile, optional
        The request's file, where it is open already.

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    from PIL import Image

    began = time.perf_counter()
    picture: Picture | None = None
    with open_lsfm(request.path) if file is None else nullcontext(file) as given:
        opened = _ready(given, request)
        _, warnings = outlined(opened, _shown(opened, request), request)
        if request.output is not None:
            with new_file(request.output, request.overwrite) as partial:
                if request.is_page:
                    # Names in a file from elsewhere may be no text.
                    partial.write_text(render_page(opened, request), "utf-8", "replace")
                else:
                    picture = draw_picture(opened, _shown(opened, request), request)
                    Image.fromarray(picture.image).save(partial, "PNG")
        else:
            picture = draw_picture(opened, _shown(opened, request), request)
    image, layout = (picture.image, picture.layout) if picture is not None else (None, None)
    return PreviewResult(image, layout, request.output, time.perf_counter() - began, warnings)


def _ready(file: LsfmFile, request: PreviewRequest) -> LsfmFile:
    """The file with the voxel size of the request, if there is something to draw."""
    if not (len(file) or request.is_page):
        setups = ", ".join(map(str, sorted(file.setups)))
        empty = f"BigDataViewer's setups {setups} have no voxels" if setups else "it has no channels"
        raise InputError("; ".join([f"{file.path}: there is nothing to draw: {empty}", *file.remarks]))
    return file if request.voxel_size_mm is None else file.with_voxel_size(request.voxel_size_mm)


def _shown(file: LsfmFile, request: PreviewRequest) -> tuple[str, ...]:
    if request.channels or request.is_page:
        return request.channels or tuple(file)
    return tuple(name for name, channel in file.channels.items() if channel.kind in ("image", "components")) or tuple(file)
