"""Points in the columns of BrainGlobe's brainmapper: ``all_points.csv`` and ``summary.csv``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lsfm_core.export._csv import text_cell, write_rows

if TYPE_CHECKING:
    from lsfm_core.export.points import RegionCount

__all__ = ["write_all_points", "write_summary"]

FloatArray = npt.NDArray[np.float64]

_POINTS = (
    *(f"coordinate_{where}_axis_{axis}" for where in ("raw", "atlas") for axis in range(3)),
    "structure_name",
    "hemisphere",
)
_SUMMARY = (
    "structure_name",
    *("left_cell_count", "right_cell_count", "total_cells"),
    *(f"{side}_volume_mm3" for side in ("left", "right", "total")),
    "left_cells_per_mm3",
    "right_cells_per_mm3",
)
_DECIMALS = 6
_AT_ONCE = 2**16


def write_all_points(
    path: Path,
    raw: FloatArray,
    atlas: FloatArray,
    ids: npt.NDArray[Any],
    is_left: npt.NDArray[np.bool_],
    names: Mapping[int, str],
) -> None:
    """Write points that are in a region, as brainmapper does.

    Parameters
    ----------
    raw, atlas : array (n, 3)
        Voxels of the image and of the atlas, in the order in which these are stored.
    ids : array (n,)
        Of regions; 0 in none.
    is_left : array (n,)
    names : mapping of int to str
        Of regions; one without a name is told by its id.
    """

    def rows() -> Iterator[str]:
        inside = np.flatnonzero(ids != 0)
        for start in range(0, len(inside), _AT_ONCE):
            part = inside[start : start + _AT_ONCE]
            places = (np.round(np.column_stack([raw[part], atlas[part]]), _DECIMALS) + 0.0).tolist()
            regions = [text_cell(names.get(key) or str(key), ",") for key in ids[part].tolist()]
            sides = np.where(is_left[part], "left", "right").tolist()
            for place, region, side in zip(places, regions, sides, strict=True):
                yield ",".join([*map(repr, place), region, side])

    write_rows(path, [",".join(_POINTS)], rows())


def write_summary(path: Path, counts: Sequence[RegionCount]) -> None:
    """Write how many points are in each region, on each side, as brainmapper does: regions with points or a volume, by name."""
    lines = []
    for row in sorted(counts, key=lambda row: row.name or str(row.id)):
        if row.id == 0 or not (row.count or row.volume_mm3):
            continue
        sides = [row.left, row.right]
        numbers: list[float | None] = [*(side.count if side else 0 for side in sides), row.count]
        numbers += [*(side.volume_mm3 if side else 0.0 for side in sides), row.volume_mm3]
        numbers += [side.density_per_mm3 if side else None for side in sides]
        lines.append(",".join([text_cell(row.name or str(row.id), ","), *map(_number, numbers)]))
    write_rows(path, [",".join(_SUMMARY)], lines)


def _number(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.7g}"
