"""Displacement fields as programs keep them: who wrote one, what its numbers mean, and how they become RAS mm displacements.

Headers tell less than they should: one intent of NIfTI stands for LPS displacements (ITK, ANTs), for RAS ones and absolute
positions (NiftyReg), and for positions (SPM). What a file's own words say counts. Where there are none, its numbers are looked at:
positions grow with the grid, displacements do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import SourceError
from lsfm_core.formats._source import Source, WrappedSource
from lsfm_core.geometry import Orientation, Shape3, Space

__all__ = ["FIELD_CONVENTIONS", "FieldConvention", "FieldSource", "FieldWords", "field_source"]

FieldConvention = Literal["lps-displacement", "ras-displacement", "lps-position", "ras-position", "grid-position"]
Array = npt.NDArray[Any]

_OPTION = "--field-convention"
_MEANINGS: dict[FieldConvention, str] = {
    "lps-displacement": "displacements in mm along L, P, S",
    "ras-displacement": "displacements in mm along R, A, S",
    "lps-position": "absolute positions in mm along L, P, S",
    "ras-position": "absolute positions in mm along R, A, S",
    "grid-position": "absolute positions in mm along the axes of the grid, from its first voxel",
}
#: In few words.
FIELD_CONVENTIONS: dict[FieldConvention, str] = {
    "lps-displacement": "displacements, LPS",
    "ras-displacement": "displacements, RAS",
    "lps-position": "positions, LPS",
    "ras-position": "positions, RAS",
    "grid-position": "positions in its grid",
}
#: Planes that are looked at, and points along each side of one.
_PROBED_PLANES = 5
_PROBED_SIDE = 40
#: Of what is compressed only the beginning is read: to come to its end takes as long as to read it all.
_PROBED_DEPTH = 48
#: Part of the numbers' variation that must be linear in the place before they are held for positions.
_LEAST_EXPLAINED = 0.5


@dataclass(frozen=True)
class FieldWords:
    """What a file's header says of its vectors.

    Attributes
    ----------
    found : str
        In the words of messages.
    convention : FieldConvention or None
        What it means; None if it does not say.
    certain : bool
        Whether it says so, or nothing says otherwise.
    unusable : str
        Why such vectors cannot be used; "" if they can.
    mm : float
        The unit of the numbers.
    """

    found: str
    convention: FieldConvention | None
    certain: bool = False
    unusable: str = ""
    mm: float = 1.0


def field_source(
    source: Source,
    words: FieldWords,
    convention: FieldConvention | None,
    reopen: Callable[[], Source],
    *,
    judge: bool,
) -> FieldSource:
    """Vectors of whatever program as RAS mm displacements.

    Parameters
    ----------
    source : Source
        Of the vectors as they are stored; closed if they cannot be used.
    words : FieldWords
    convention : FieldConvention, optional
        What the user says that they mean; it wins.
    reopen : callable
        Another source of the same, which is read first.
    judge : bool
        Whether the numbers are looked at, where the header does not tell; otherwise they are taken as most of its kind are.

    Raises
    ------
    SourceError
        If they are no displacements, or it is not clear what they are.
    """
    notes: list[str] = []
    remark = ""
    try:
        chosen = convention
        if chosen is not None:
            remark = f"its vectors are {_MEANINGS[chosen]}, as {_OPTION} says"
        if chosen is not None:
            if words.unusable:
                notes.append(f"{words.found}: {words.unusable}; they are taken for {_MEANINGS[chosen]}, as {_OPTION} says")
            elif words.certain and words.convention != chosen:
                said = "" if words.convention is None else f", which are {_MEANINGS[words.convention]}"
                notes.append(f"{words.found}{said}: they are taken for {_MEANINGS[chosen]}, as {_OPTION} says")
        elif not judge:
            chosen = words.convention or "ras-displacement"
        elif words.unusable:
            raise SourceError(f"{source.name}: {words.found}: {words.unusable}")
        elif words.convention is None:
            raise SourceError(f"{source.name}: {words.found}: what its vectors mean is not known: {_advice()}")
        else:
            chosen = words.convention
            if not words.certain and source.space is not None:
                _check_numbers(source, words, chosen, reopen)
            if chosen != "lps-displacement":
                remark = f"{words.found}: its vectors are {_MEANINGS[chosen]}"
    except SourceError:
        source.close()
        raise
    return FieldSource(source, chosen, words.mm, notes, remark)


class FieldSource(WrappedSource):
    """Another source's vectors as displacements along R, A, S in mm.

    Parameters
    ----------
    source : Source
    convention : FieldConvention
        What its vectors are.
    mm : float
        Their unit.
    notes : sequence of str
        What the user should know of them.
    remark : str
        Who wrote them, and what they were taken for; "" where that is nothing special.
    """

    def __init__(
        self, source: Source, convention: FieldConvention, mm: float = 1.0, notes: Sequence[str] = (), remark: str = ""
    ) -> None:
        super().__init__(source, *notes)
        self._mm = mm
        self.convention = convention
        if remark:
            self.facts = {**self.facts, "acquisition": {**source.facts.get("acquisition", {}), "vectors": remark}}
        self._place = source.space

    def settle(self, space: Space) -> None:
        self._place = space

    def _change(self, start: Shape3, values: Array, out: Array) -> None:
        if self.convention.endswith("-displacement"):
            if self._mm != 1:
                np.multiply(values, self._mm, out=out)
            if self.convention.startswith("lps"):
                # Not a product: that would stumble over NaN.
                np.negative(out[..., :2], out=out[..., :2])
            return
        if self._place is None:
            raise SourceError(
                f"{self.name}: holds absolute positions, but does not tell where its voxels are: write it with "
                "--voxel-size and --orientation"
            )
        for offset, plane in enumerate(out):
            rows, columns = (first + np.arange(n) for first, n in zip(start[1:], plane.shape, strict=False))
            plane[...] = _ras(plane, self.convention, self._mm, self._place) - _centres(
                self._place, start[0] + offset, rows, columns
            )


def _ras(vectors: Array, convention: FieldConvention, mm: float, space: Space) -> npt.NDArray[np.float64]:
    """Vectors of a convention along R, A, S in mm; positions are in the space's own world."""
    values = vectors.astype(np.float64) * mm
    if convention == "grid-position":
        axes = space.world_from_voxel[:3, :3] / np.asarray(space.voxel_size_mm)
        along: npt.NDArray[np.float64] = values @ axes.T + space.world_from_voxel[:3, 3]
        return along
    turned: npt.NDArray[np.float64] = values * np.diag(Orientation(convention[:3].upper()).direction)
    return turned


def _centres(space: Space, plane: int, rows: Array, columns: Array) -> npt.NDArray[np.float64]:
    """Where voxels of a plane are, R, A, S mm."""
    row, column = np.meshgrid(rows, columns, indexing="ij")
    centres: npt.NDArray[np.float64] = space.to_world(
        np.stack([np.full(row.shape, plane), row, column], axis=-1).reshape(-1, 3)
    ).reshape(*row.shape, 3)
    return centres


def _check_numbers(source: Source, words: FieldWords, convention: FieldConvention, reopen: Callable[[], Source]) -> None:
    """Refuse numbers that look like something else than what they are taken for."""
    points, vectors = _probe(source, reopen)
    fit = _linear_part(points, vectors * words.mm)
    if fit is None:
        return
    # Either reading says which linear map the field is, on the whole: the likelier one distorts less.
    taken = fit
    if convention.startswith("lps"):
        taken = np.diag([-1.0, -1.0, 1.0]) @ fit
    displaced = np.eye(3) + taken
    as_displacement, as_position = _distortion(displaced), _distortion(taken)
    is_position = convention.endswith("-position")
    if (as_position < as_displacement) != is_position:
        slopes = ", ".join(f"{slope:+.2f}" for slope in np.diag(fit))
        looks = "displacements, which stay about the same" if is_position else "absolute positions, which grow with the grid"
        other = "-displacement" if is_position else "-position"
        likely = [name for name in ("ras", "lps") if is_position or np.diag(fit)[0] * (1 if name == "ras" else -1) > 0]
        hint = f"{_OPTION} {' or '.join(name + other for name in likely)}"
        raise SourceError(
            f"{source.name}: {words.found} would mean {_MEANINGS[convention]}, but its numbers look like {looks} (they change by "
            f"{slopes} mm for each mm along R, A, S): {_advice(hint)}"
        )


def _probe(source: Source, reopen: Callable[[], Source]) -> tuple[Array, Array]:
    """Some voxels' positions (n, 3) and vectors as stored, which are finite."""
    points, vectors = [], []
    depth = min(source.shape[0], _PROBED_DEPTH) if source.forward_only else source.shape[0]
    rows, columns = (np.unique(np.linspace(0, n - 1, min(n, _PROBED_SIDE)).astype(int)) for n in source.shape[1:])
    assert source.space is not None
    with closing(reopen()) as other:
        row = np.empty((1, 1, other.shape[2], 3), other.dtype)
        for index in np.unique(np.linspace(0, depth - 1, min(depth, _PROBED_PLANES)).astype(int)).tolist():
            points.append(_centres(source.space, index, rows, columns).reshape(-1, 3))
            for number in rows.tolist():
                other.read_box((index, number, 0), row)
                vectors.append(row[0, 0, columns].astype(np.float64))
    at, values = np.concatenate(points), np.concatenate(vectors)
    # Where nothing is known, programs put zeros or NaN.
    known = np.isfinite(values).all(axis=1) & values.any(axis=1)
    return at[known], values[known]


def _linear_part(points: Array, vectors: Array) -> npt.NDArray[np.float64] | None:
    """How vectors change with the place (3, 3), by least squares; None where the points do not tell."""
    if len(points) < 8:
        return None
    centred = points - points.mean(axis=0)
    if np.linalg.matrix_rank(centred, tol=1e-6 * float(np.abs(centred).max()) * len(points) ** 0.5) < 3:
        return None
    change = vectors - vectors.mean(axis=0)
    solution, *_ = np.linalg.lstsq(centred, change, rcond=None)
    # Positions change with the place, but for what the field displaces: where most is something else, the slope says nothing.
    if ((change - centred @ solution) ** 2).sum() > (1 - _LEAST_EXPLAINED) * (change**2).sum():
        return np.zeros((3, 3))
    fit: npt.NDArray[np.float64] = solution.T
    return fit


def _distortion(matrix: npt.NDArray[np.float64]) -> float:
    """How far a linear map is from one that keeps all lengths."""
    with np.errstate(divide="ignore"):
        return float(np.abs(np.log(np.linalg.svd(matrix, compute_uv=False))).max())


def _advice(hint: str | None = None) -> str:
    choices = "|".join(name for name in _MEANINGS if name != "grid-position")
    return f"say what they are, with {hint or f'{_OPTION} {choices}'}"
