"""Images whose values are numbers of colours: intensities shown in colours, ids, or real colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError
from lsfm_core.formats._source import Source, WrappedSource, with_notes
from lsfm_core.geometry import Shape3
from lsfm_core.pyramid import Kind

__all__ = ["with_palette"]

_BRIGHTNESS = (0.299, 0.587, 0.114)
#: Of the whole range: rounded shades may be out of order by so much.
_TOLERANCE = 0.01
#: These keep intensities, and the palette that they are shown in.
_SHOW_ONLY = ("ImageJ TIFF", "OME-TIFF")


def with_palette(source: Source, kind: Kind) -> Source:
    """What is meant by a source with a palette: of kind components its colours, of labels the values, and so of shades.

    Parameters
    ----------
    source : Source
    kind : {"image", "labels", "vectors", "components"}
        What was asked for.

    Raises
    ------
    InputError
        If an image was asked for, and the colours are no shades.
    """
    palette = source.palette
    if palette is None or kind == "vectors":
        return source
    if kind == "components":
        return _Coloured(source, palette)
    if kind == "image" and source.facts.get("format") not in _SHOW_ONLY and not _are_shades(palette):
        source.close()
        raise InputError(
            f"{source.name}: its values are numbers of colours in a palette, and these are no shades: say --kind components for "
            "the colours, or --kind labels if the numbers are ids"
        )
    words = "the values are ids" if kind == "labels" else "the values, which it shows in colours, are the intensities"
    source.facts = with_notes(source.facts, f"has a palette: {words}")
    return source


def _are_shades(palette: npt.NDArray[Any]) -> bool:
    """Whether the colours become brighter, or darker, from the first to the last."""
    brightness = np.array(_BRIGHTNESS) @ palette.astype(float)
    steps = np.diff(brightness)
    worst = _TOLERANCE * max(1.0, float(np.ptp(brightness)))
    return bool(np.ptp(brightness) > 0 and ((steps >= -worst).all() or (steps <= worst).all()))


class _Coloured(WrappedSource):
    """The colours themselves, red, green and blue."""

    def __init__(self, source: Source, palette: npt.NDArray[Any]) -> None:
        super().__init__(source, "has a palette: its colours are the values")
        # Bytes are stored as the upper half of a number, or twice.
        is_bytes = bool((palette % 257 == 0).all() or (palette % 256 == 0).all())
        colours = (palette >> 8).astype(np.uint8) if is_bytes else palette.astype(np.uint16)
        self._colours = np.ascontiguousarray(colours.T)
        self.dtype = self._colours.dtype
        self.components = 3
        self.read_bytes += source.shape[1] * source.shape[2] * source.dtype.itemsize
        self.facts = {**self.facts, "kind": "components"}

    def _change(self, start: Shape3, values: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        out[...] = self._colours[np.minimum(values, len(self._colours) - 1)]
