"""mesoSPIM in: voxels without a header, and a text beside them that tells what they are."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from lsfm_core.errors import InputError, SourceError
from lsfm_core.formats._geometry import voxel_size_or_none
from lsfm_core.formats._raw import RawLayout, RawSource
from lsfm_core.formats._source import Source

__all__ = ["open_mesospim"]

_ENTRY = re.compile(r"^\[(.+?)\][ \t]*(.*)$", re.MULTILINE)
_LARGEST_TEXT = 2**20


def open_mesospim(path: Path) -> Source:
    """Open a .raw file of uint16 voxels by the ``_meta.txt`` that mesoSPIM-control writes beside it.

    Raises
    ------
    InputError
        If there is no such text.
    SourceError
        If it does not tell what has to be known, or contradicts the size of the file.
    """
    texts = [path.with_name(f"{name}_meta.txt") for name in (path.name, path.stem)]
    text = next((file for file in texts if file.is_file()), None)
    if text is None:
        raise InputError(
            f"{path}: is a raw file, of which nothing is known without {texts[0].name} of mesoSPIM: put that beside it, or save "
            "the image as TIFF"
        )
    try:
        with text.open("rb") as file:
            entries: dict[str, str] = dict(_ENTRY.findall(file.read(_LARGEST_TEXT).decode("utf-8", "replace").replace("\r", "")))
    except OSError as error:
        raise SourceError(f"{text}: cannot be read: {error.strerror}") from error
    planes, x, y = (_count(text, entries, key) for key in ("z_planes", "x_pixels", "y_pixels"))
    binning = [int(n) for n in re.findall(r"\d+", entries.get("camera_binning") or entries.get("binning") or "")]
    size = path.stat().st_size
    if len(binning) == 2 and min(binning) > 0 and size == 2 * planes * (x // binning[0]) * (y // binning[1]):
        x, y = x // binning[0], y // binning[1]
    if size != 2 * planes * x * y:
        raise SourceError(
            f"{path}: has {size} bytes, but {text.name} tells of {planes} planes of {x} x {y} pixels, which are "
            f"{2 * planes * x * y}: the recording was interrupted, or one of the two is of another image"
        )
    pixel, step = (_length(entries, key) for key in ("Pixelsize in um", "z_stepsize"))
    voxel_size = voxel_size_or_none([step * 1e-3, pixel * 1e-3, pixel * 1e-3])
    notes = []
    if x != y:
        # The camera's image is turned by a quarter before it is written.
        notes.append(f"rows are along the camera's x ({x} rows, {y} columns), as mesoSPIM writes them: look at a plane")
    told = {key: value for key, value in entries.items() if value and key != "Metadata for file"}
    facts = {"format": "mesoSPIM raw", "acquisition": told, "notes": notes}
    if voxel_size is None:
        found = [f"{key} is {entries.get(key)!r}" for key in ("z_stepsize", "Pixelsize in um") if not _length(entries, key) > 0]
        facts["untold"] = ", ".join(found)
    layout = RawLayout(path, 0, (planes, x, y), np.dtype("<u2"))
    return RawSource(text, layout, space=None, voxel_size_mm=voxel_size, facts=facts)


def _count(text: Path, entries: dict[str, str], key: str) -> int:
    value = entries.get(key, "").strip()
    if not value.isdecimal() or not 0 < int(value) < 10**7:
        raise SourceError(f"{text}: says {key} {value!r}: expected a number above 0")
    return int(value)


def _length(entries: dict[str, str], key: str) -> float:
    """In micrometres; scanning may go either way."""
    try:
        return abs(float(entries.get(key, "nan")))
    except ValueError:
        return math.nan
