"""A preview carried out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lsfm_core.formats import new_file
from lsfm_core.preview.page import render_page
from lsfm_core.preview.picture import Layout, Picture, draw_picture
from lsfm_core.preview.request import PreviewRequest
from lsfm_core.store import LsfmFile, open_lsfm

__all__ = ["PreviewResult", "preview_file"]


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
    """

    image: npt.NDArray[np.uint8] | None
    layout: Layout | None
    path: Path | None
    seconds: float


def preview_file(request: PreviewRequest) -> PreviewResult:
    """Draw a file's channels, or write a page about it.

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    from PIL import Image

    began = time.perf_counter()
    picture: Picture | None = None
    with open_lsfm(request.path) as file:
        if request.output is not None:
            with new_file(request.output, request.overwrite) as partial:
                if request.is_page:
                    # Names in a file from elsewhere may be no text.
                    partial.write_text(render_page(file, request), "utf-8", "replace")
                else:
                    picture = draw_picture(file, _shown(file, request), request)
                    Image.fromarray(picture.image).save(partial, "PNG")
        else:
            picture = draw_picture(file, _shown(file, request), request)
    image, layout = (picture.image, picture.layout) if picture is not None else (None, None)
    return PreviewResult(image, layout, request.output, time.perf_counter() - began)


def _shown(file: LsfmFile, request: PreviewRequest) -> tuple[str, ...]:
    if request.channels:
        return request.channels
    return tuple(name for name, channel in file.channels.items() if channel.kind == "image") or tuple(file)
