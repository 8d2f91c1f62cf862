"""Whether transforms are what the tool meant: its own result is made anew with them, and compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lsfm_core.geometry import Space
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.transforms import Affine, DisplacementField, Transform

__all__ = ["Lookup", "Proof", "likeliest_cause", "prove"]

FloatArray = npt.NDArray[np.float64]

#: Correlation from which on a result counts as made anew.
LEAST = 0.95
#: By how much the correlation of another reading may be better: so much, or what leaves a third of what is missing to 1.
SLACK, _LEFT, _NOTHING = 0.005, 1 / 3, 1e-4
#: Voxels of the result that are compared: all of a small one, else blocks all over it.
_MOST = 2_000_000
_BLOCK = 24
#: Voxels with which other readings are tried.
_TRIED = 30_000
_FEWEST = 100
_MIRROR = np.diag([-1.0, -1.0, 1.0])


class Lookup(Protocol):
    """An image whose values can be asked for anywhere."""

    space: Space

    def values(self, points: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Values at points (n, 3), RAS mm, interpolated linearly, and which of them lie in the image."""


@dataclass(frozen=True)
class Proof:
    """How well transforms make a tool's result anew.

    Attributes
    ----------
    result : str
        What was compared with.
    correlation : float
        Pearson's.
    mean_difference : float
        Of absolute values, as part of the range that the result's values have.
    within_percent : float
        Share of voxels whose values differ by less than a hundredth of that range.
    voxels : int
        How many were compared.
    """

    result: str
    correlation: float
    mean_difference: float
    within_percent: float
    voxels: int

    def short(self) -> str:
        """What is kept with the transforms."""
        return f"proven against {self.result}: r = {self.correlation:.4f}"

    def describe(self) -> str:
        return (
            f"proven against {self.result}: r = {self.correlation:.4f}, mean absolute difference "
            f"{self.mean_difference:.3%} of the range, "
            f"{self.within_percent:.2%} of {self.voxels} voxels within 1 %"
        )


def prove(
    outer: Lookup,
    inner: Lookup,
    transform: Transform,
    grid: Space,
    name: str,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Proof:
    """Compare an image of the outer space with the one of the inner space, looked up through a transform.

    Parameters
    ----------
    outer, inner : Lookup
    transform : Transform
        Maps points of the outer space to the inner one.
    grid : Space
        At whose voxels they are compared.
    name : str
        Of the result, for messages.

    Notes
    -----
    Where either image has no value nothing is compared. Images that differ by a factor and an offset have a correlation of 1.
    """
    blocks = list(_blocks(grid))
    report = Progress("compare", sum(int(np.prod(block.shape)) for block in blocks) * 24, progress, cancel)
    pairs = []
    for block in blocks:
        points = block.to_world(np.indices(block.shape).reshape(3, -1).T)
        pairs.append(_pairs(outer, inner, points, transform.map_points(points)))
        report.advance(len(points) * 24)
    first, second = np.concatenate(pairs).T
    return _proof(first, second, name)


def likeliest_cause(outer: Lookup, inner: Lookup, transforms: Sequence[Transform], grid: Space) -> tuple[str, float] | None:
    """What else the transforms may mean, if that makes the result better: in words, with the correlation.

    Parameters
    ----------
    transforms : sequence of Transform
        From the image outward, as `lsfm_core.transforms.TransformChain` has them.
    """
    points = np.concatenate([block.to_world(np.indices(block.shape).reshape(3, -1).T) for block in _blocks(grid)])
    points = points[:: max(1, len(points) // _TRIED)]
    there = points
    for step in reversed(transforms):
        there = step.map_points(there)
    own = _correlation(*_pairs(outer, inner, points, there).T)
    least = own + min(SLACK, max((1 - own) * (1 - _LEFT), _NOTHING))
    best: tuple[str, float] | None = None
    for words, reading in _readings(transforms, grid, points):
        pairs = _pairs(outer, inner, points, reading)
        correlation = _correlation(*pairs.T)
        # One that moves most of it out of sight says nothing about the rest.
        if len(pairs) > len(points) / 10 and correlation > max(least, best[1] if best is not None else -1.0):
            best = words, correlation
    return best


def _readings(transforms: Sequence[Transform], grid: Space, points: FloatArray) -> Iterator[tuple[str, FloatArray]]:
    """Other ways to take transforms, each with the places to which it leads."""
    choices = [list(_alternatives(step)) for step in transforms]
    orders = [("", list(range(len(transforms))))]
    if len(transforms) > 1:
        orders.append(("their order is reversed", orders[0][1][::-1]))
    for readings in product(*choices):
        for order_words, order in orders:
            words = [words for words, _ in readings if words] + ([order_words] if order_words else [])
            if words:
                there = points
                for index in reversed(order):
                    there = readings[index][1](there)
                yield " and ".join(words), there
    whole = _inverted(transforms, points)
    if whole is not None:
        yield "they lead the other way (the image that stayed and the one that was moved are exchanged: --fixed)", whole
    # A result that tells nothing of its place may lie otherwise.
    middle = grid.bounds
    for axis, sides in enumerate(("right and left", "front and back", "top and bottom")):
        mirrored = points.copy()
        mirrored[:, axis] = middle.lower_mm[axis] + middle.upper_mm[axis] - mirrored[:, axis]
        for step in reversed(transforms):
            mirrored = step.map_points(mirrored)
        yield f"{sides} are exchanged: the images are mirrored against each other", mirrored


def _alternatives(step: Transform) -> Iterator[tuple[str, Any]]:
    name = step.name
    yield "", step.map_points
    if isinstance(step, Affine):
        yield f"{name} is inverted", step.inverse().map_points
        exchanged = step.matrix.copy()
        exchanged[:3, :3] = _MIRROR @ exchanged[:3, :3] @ _MIRROR
        exchanged[:3, 3] = _MIRROR @ exchanged[:3, 3]
        yield f"{name} is in RAS and not in LPS (or the other way round)", Affine(exchanged).map_points
    elif isinstance(step, DisplacementField):
        if step.partner is not None:
            yield f"{name} and its inverse are exchanged", step.partner.map_points
        yield f"the vectors of {name} are in RAS and not in LPS (or the other way round)", lambda at: at + _move(step, at) @ _MIRROR
        yield f"the vectors of {name} are absolute positions, and no displacements", lambda at: _move(step, at)
        yield f"the vectors of {name} are displacements, and no absolute positions", lambda at: at + at + _move(step, at)


def _move(step: Transform, points: FloatArray) -> FloatArray:
    return step.map_points(points) - points


def _inverted(transforms: Sequence[Transform], points: FloatArray) -> FloatArray | None:
    there = points
    for step in transforms:
        if isinstance(step, Affine):
            there = step.inverse().map_points(there)
        elif isinstance(step, DisplacementField) and step.partner is not None:
            there = step.partner.map_points(there)
        else:
            return None
    return there


def _blocks(grid: Space) -> Iterator[Space]:
    """All of a small grid in slabs, else blocks all over it."""
    count = int(np.prod(grid.shape))
    if count <= _MOST:
        step = max(1, 2**18 // (grid.shape[1] * grid.shape[2]))
        for begin in range(0, grid.shape[0], step):
            yield grid.crop((begin, 0, 0), (min(begin + step, grid.shape[0]), *grid.shape[1:]))
        return
    parts = max(1, round((_MOST / _BLOCK**3) ** (1 / 3)))
    starts = [np.unique(np.linspace(0, max(n - _BLOCK, 0), parts).astype(int)).tolist() for n in grid.shape]
    for start in product(*starts):
        yield grid.crop(start, [min(a + _BLOCK, n) for a, n in zip(start, grid.shape, strict=True)])


def _pairs(outer: Lookup, inner: Lookup, points: FloatArray, there: FloatArray) -> FloatArray:
    """Values of both images (n, 2), where both have one."""
    first, is_outer = outer.values(points)
    second, is_inner = inner.values(there)
    both = is_outer & is_inner & np.isfinite(first) & np.isfinite(second)
    return np.column_stack([first[both], second[both]])


def _correlation(first: FloatArray, second: FloatArray) -> float:
    if len(first) < _FEWEST or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _proof(first: FloatArray, second: FloatArray, name: str) -> Proof:
    extent = float(np.ptp(first)) if len(first) else 0.0
    apart = np.abs(first - second) / extent if extent > 0 else np.ones(len(first))
    mean, share = (float(apart.mean()), float((apart < 0.01).mean())) if len(apart) else (1.0, 0.0)
    return Proof(name, _correlation(first, second), mean, share, len(first))
