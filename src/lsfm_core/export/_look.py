"""Planes for the eye: which way up they are held, and which shades their values get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError
from lsfm_core.export.plan import ExportPlan
from lsfm_core.geometry import Orientation
from lsfm_core.regions import LabelTable, rgb_of
from lsfm_core.store import Channel, Level, LsfmFile

__all__ = ["Contrast", "Shades", "View", "shades_for", "view_of"]

Array = npt.NDArray[Any]
Contrast = Literal["full"] | tuple[float, float] | None

_WORDS = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}
#: The views by the body axis that they look along, and where their viewer stands.
_NAMES = {"R": "sagittal, from the right", "A": "coronal, from behind", "S": "horizontal, from above"}
_BODY_AXES = {"R": "R", "L": "R", "A": "A", "P": "A", "S": "S", "I": "S"}


#: Of the values of a channel that has no display range: all between are told apart.
_PERCENTILES = (0.5, 99.8)
_SAMPLE_VOXELS = 2**22


@dataclass(frozen=True)
class View:
    """How planes across an axis become pictures: transposed first, then flipped.

    Attributes
    ----------
    transposed, flips_rows, flips_columns : bool
    text : str
        The same in words.
    """

    transposed: bool
    flips_rows: bool
    flips_columns: bool
    text: str

    def picture(self, plane: Array) -> Array:
        """A plane (rows, columns, or with components after them) as it is held; a view of it."""
        turned = plane.swapaxes(0, 1) if self.transposed else plane
        return turned[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1]

    def turned(self, pair: tuple[Any, Any]) -> tuple[Any, Any]:
        """What belongs to the rows and to the columns of a plane, for those of its picture; and the other way round."""
        return (pair[1], pair[0]) if self.transposed else pair

    def plane_ranges(self, rows: range, columns: range, shape: tuple[int, int]) -> tuple[range, range]:
        """Rows and columns of a picture of some shape as those of the plane."""
        flipped = [
            range(size - part.stop, size - part.start) if flips else part
            for part, size, flips in zip((rows, columns), shape, (self.flips_rows, self.flips_columns), strict=True)
        ]
        a, b = self.turned((flipped[0], flipped[1]))
        return a, b


def view_of(orientation: Orientation, axis: int, as_stored: bool) -> View:
    """The view across an array axis as anatomists hold it: superior up, or else anterior; left at the left, or else posterior.

    Parameters
    ----------
    orientation : Orientation
        Of the result that planes are taken of.
    axis : int
    as_stored : bool
        Leave them as they are instead.
    """
    first, second = (index for index in range(3) if index != axis)
    codes = orientation.axcodes
    if as_stored:
        return View(False, False, False, f"as stored: rows toward {_WORDS[codes[first]]}, columns toward {_WORDS[codes[second]]}")
    # Superior, and else anterior, goes up.
    transposed = "RAS".index(_BODY_AXES[codes[second]]) > "RAS".index(_BODY_AXES[codes[first]])
    rows, columns = (codes[second], codes[first]) if transposed else (codes[first], codes[second])
    up, right = _BODY_AXES[rows], _BODY_AXES[columns]
    text = f"{_NAMES[_BODY_AXES[codes[axis]]]}: {_WORDS[up]} up, {_WORDS[right]} at the right"
    # The first row is the uppermost one.
    return View(transposed, rows == up, columns != right, text)


@dataclass(frozen=True)
class Shades:
    """How values become the 8 bits of a picture.

    Attributes
    ----------
    limits : tuple of 2 float, or None
        What becomes black and white; None where values stay, or are labels.
    table : LabelTable or None
        Of labels, which are drawn in its colours.
    text : str
        The same in words.
    """

    limits: tuple[float, float] | None
    table: LabelTable | None
    text: str

    def picture(self, plane: Array) -> Array:
        """Pixels of a plane: grey, or RGB."""
        if self.table is not None:
            ids, places = np.unique(plane, return_inverse=True)
            palette = np.array([rgb_of(int(key), self.table) if key else (0, 0, 0) for key in ids], np.uint8)
            return palette[places.reshape(plane.shape)]
        if self.limits is None:
            return plane
        low, high = self.limits
        values = np.nan_to_num(plane.astype(np.float64), nan=low, posinf=high, neginf=low)
        shades: Array = np.rint(np.clip((values - low) * (255 / (high - low)), 0, 255)).astype(np.uint8)
        return shades


def shades_for(file: LsfmFile, plan: ExportPlan, contrast: Contrast) -> Shades:
    """What a PNG file gets of a channel's values.

    Raises
    ------
    InputError
        If there is no such contrast of this channel.
    """
    channel = file[plan.channel]
    if channel.kind == "labels":
        if contrast is not None:
            raise InputError(f"{plan.name}: holds labels, which get the colours of their table: leave --contrast out")
        return Shades(
            None, LabelTable.from_json(file.label_table(channel.name)), "labels in the colours of their table, 0 in black"
        )
    if plan.components > 1 and plan.dtype == np.uint8 and contrast is None:
        return Shades(None, None, "colours as they are")
    if contrast == "full":
        if plan.dtype.kind not in "ui":
            raise InputError(f"{plan.name}: has voxels of type {plan.dtype}, whose range has no ends: give --contrast LOW,HIGH")
        limits, why = (float(np.iinfo(plan.dtype).min), float(np.iinfo(plan.dtype).max)), f"all of {plan.dtype}"
    elif contrast is not None:
        limits, why = contrast, "--contrast"
    elif channel.display_range is not None and channel.display_range[0] < channel.display_range[1]:
        limits, why = channel.display_range, "the channel's display range"
    else:
        limits, why = _usual_range(channel), "most values of the channel"
    return Shades(limits, None, f"{limits[0]:.6g} black to {limits[1]:.6g} white ({why}), in 8 bits")


def _usual_range(channel: Channel) -> tuple[float, float]:
    """The range of nearly all values of the coarsest level."""
    level: Level = channel.levels[-1]
    planes = level.shape[0]
    step = max(1, -(-int(np.prod(level.shape)) // _SAMPLE_VOXELS))
    seen = np.concatenate([np.asarray(level[index].read()).ravel() for index in range(planes // 2 % step, planes, step)])
    seen = seen[np.isfinite(seen)]
    low, high = np.percentile(seen, _PERCENTILES) if seen.size else (0.0, 1.0)
    if low == high and seen.size:
        # A few bright spots on nothing.
        low, high = seen.min(), seen.max()
    return float(low), float(high) if low < high else float(low) + 1
