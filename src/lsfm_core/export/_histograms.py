"""Values counted by what they belong to: a histogram each, kept as far as it has something in it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import MemoryBudgetError
from lsfm_core.progress import size_text

__all__ = ["Histograms", "Measures"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: A histogram is kept in pages of so many bins, of which most are empty.
_PAGE_BITS = 8
_PAGE = 1 << _PAGE_BITS
#: Bins, and what Python takes for a page of them.
_PAGE_BYTES = 8 * _PAGE + 256
#: Of a float, sign, exponent and the first 11 bits of its fraction tell its bin: each is as wide as 1/2048 of its values.
_DROPPED_BITS = 41
#: Values that are counted at once: what is made of them on the way stays near the processor.
_AT_ONCE = 2**17
_SIGNLESS = np.int64(2**63 - 1)


@dataclass(frozen=True)
class Measures:
    """What some values are like; None where there are none.

    Attributes
    ----------
    mean, std : float or None
        `std` divides by the number of values.
    percentiles : tuple of float or None
        Interpolated between neighbours in order, as numpy does.
    above : int or None
        How many are above the threshold; None without one.
    """

    mean: float | None
    std: float | None
    percentiles: tuple[float | None, ...]
    above: int | None


class Histograms:
    """Histograms by code, filled by several threads.

    Integers of up to 16 bits have a bin each. Other values share bins, whose middle stands for them in percentiles: within 1/4096
    of themselves. Means, deviations and what is above the threshold are exact for all.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the values.
    threshold : float, optional
    max_bytes : int
        What all histograms may take.
    """

    def __init__(self, dtype: np.dtype[np.generic], threshold: float | None, max_bytes: int) -> None:
        self.is_exact = dtype.kind in "uib" and dtype.itemsize <= 2
        #: Values that are no numbers, or infinite: they are counted nowhere else.
        self.non_finite = 0
        self._is_float = dtype.kind == "f"
        self._threshold = threshold
        self._max_bytes = max_bytes
        self._pages: dict[int, dict[int, IntArray]] = {}
        self._page_count = 0
        self._voxels: dict[int, int] = {}
        # Of what is not exact: number, mean, sum of squares of the distances to it, number above the threshold.
        self._moments: dict[int, tuple[int, float, float, int]] = {}
        self._lock = threading.Lock()

    def add(self, codes: npt.NDArray[np.uint32], values: npt.NDArray[np.generic]) -> None:
        """Count values (n,) for the codes (n,) that they belong to, which are small integers.

        Raises
        ------
        MemoryBudgetError
        """
        for start in range(0, len(codes), _AT_ONCE):
            self._add(codes[start : start + _AT_ONCE], values[start : start + _AT_ONCE])

    def _add(self, codes: npt.NDArray[np.uint32], values: npt.NDArray[np.generic]) -> None:
        counts = np.bincount(codes)
        present = np.flatnonzero(counts)
        places = np.zeros(len(counts), np.intp)
        places[present] = np.arange(len(present))
        local = places[codes] if len(present) > 1 else np.zeros(len(codes), np.intp)
        broken = 0
        if self._is_float:
            finite = np.isfinite(values)
            broken = len(values) - int(np.count_nonzero(finite))
            if broken:
                local, values = local[finite], values[finite]
        moments = None if self.is_exact else self._moments_of(local, values.astype(np.float64), len(present))
        found = self._binned(local, values, len(present))
        with self._lock:
            self.non_finite += broken
            for code, count in zip(present.tolist(), counts[present].tolist(), strict=True):
                self._voxels[code] = self._voxels.get(code, 0) + count
            for code, row in zip(present.tolist(), [] if moments is None else moments, strict=moments is not None):
                self._moments[code] = _together([self._moments.get(code, _NO_MOMENTS), row])
            self._merge(present, *found)

    def voxels(self, codes: Iterable[int]) -> int:
        """How many values were added for some codes, non-finite ones too."""
        return sum(self._voxels.get(code, 0) for code in codes)

    @property
    def codes(self) -> list[int]:
        """All that have something."""
        return list(self._voxels)

    def measures(self, codes: Sequence[int], percentiles: Sequence[float]) -> Measures:
        """What the values of some codes are like together.

        Parameters
        ----------
        codes : sequence of int
        percentiles : sequence of float
            0 to 100.
        """
        bins, counts = self._together(codes)
        if not bins.size:
            return Measures(None, None, (None,) * len(percentiles), None if self._threshold is None else 0)
        values = bins.astype(np.float64) if self.is_exact else _value_of(bins)
        number = int(counts.sum())
        if self.is_exact:
            mean = float(np.dot(counts, values)) / number
            squares = float(np.dot(counts, (values - mean) ** 2))
            above = 0 if self._threshold is None else int(counts[values > self._threshold].sum())
        else:
            _, mean, squares, above = _together([self._moments.get(code, _NO_MOMENTS) for code in codes])
        ends = np.cumsum(counts)
        positions = np.asarray(percentiles, np.float64) / 100 * (number - 1)
        ranks = np.floor(positions).astype(np.int64)
        low = values[np.searchsorted(ends, ranks, side="right")]
        high = values[np.searchsorted(ends, np.minimum(ranks + 1, number - 1), side="right")]
        between = low + (high - low) * (positions - ranks)
        return Measures(mean, float(np.sqrt(squares / number)), tuple(between.tolist()), None if self._threshold is None else above)

    def dump(self) -> dict[str, npt.NDArray[Any]]:
        """All that was counted, as arrays that `absorb` takes."""
        pages = [(code, page, counts) for code, own in self._pages.items() for page, counts in own.items()]
        bins = np.array([(code, page) for code, page, _ in pages], np.int64).reshape(-1, 2)
        rows = list(self._moments.items())
        return {
            "voxels": np.array(list(self._voxels.items()), np.int64).reshape(-1, 2),
            "pages": bins,
            "counts": np.array([counts for _, _, counts in pages], np.int64).reshape(-1, _PAGE),
            "moments": np.array([[code, *row] for code, row in rows], np.float64).reshape(-1, 5),
            "non_finite": np.array(self.non_finite),
        }

    def absorb(self, dumped: Mapping[str, npt.NDArray[Any]], code_of: Callable[[int], int]) -> None:
        """Count what others have counted, under codes of ours.

        Raises
        ------
        MemoryBudgetError
        """
        with self._lock:
            self.non_finite += int(dumped["non_finite"])
            for code, count in dumped["voxels"].tolist():
                own = code_of(code)
                self._voxels[own] = self._voxels.get(own, 0) + count
            for code, *row in dumped["moments"].tolist():
                own, (count, mean, squares, above) = code_of(int(code)), row
                moments = (int(count), mean, squares, int(above))
                self._moments[own] = _together([self._moments.get(own, _NO_MOMENTS), moments])
            for (code, page), counts in zip(dumped["pages"].tolist(), dumped["counts"], strict=True):
                self._page(code_of(code), page)[...] += counts

    def _binned(self, local: npt.NDArray[np.intp], values: npt.NDArray[np.generic], number: int) -> tuple[IntArray, ...]:
        """Place of the code, bin, and count, of all bins that have something; in order of the first two."""
        if not values.size:
            return (np.empty(0, np.int64),) * 3
        bins = values.astype(np.int64) if self.is_exact else _bin_of(values)
        low = int(bins.min())
        span = int(bins.max()) - low + 1
        both = local * span + (bins - low)
        if number * span <= 4 * len(both) + 2**16:
            dense = np.bincount(both, minlength=number * span)
            keys = np.flatnonzero(dense)
            counts = dense[keys]
        else:
            keys, counts = np.unique(both, return_counts=True)
        return keys // span, keys % span + low, counts

    def _merge(self, present: npt.NDArray[np.intp], places: IntArray, bins: IntArray, counts: IntArray) -> None:
        pages = bins >> _PAGE_BITS
        starts = np.flatnonzero(np.diff(places, prepend=-1) | np.diff(pages, prepend=pages[:1] - 1))
        stops = [*starts[1:].tolist(), len(bins)]
        for start, stop in zip(starts.tolist(), stops, strict=True):
            own = self._page(int(present[places[start]]), int(pages[start]))
            own[bins[start:stop] & (_PAGE - 1)] += counts[start:stop]

    def _page(self, code: int, page: int) -> IntArray:
        """The bins of a page, of which each is kept once there is something in it."""
        own = self._pages.setdefault(code, {})
        if page not in own:
            self._page_count += 1
            if self._page_count * _PAGE_BYTES > self._max_bytes:
                raise MemoryBudgetError(
                    f"the histograms of the regions need more than {size_text(self._max_bytes)}: raise the memory, or take a "
                    "coarser level"
                )
            own[page] = np.zeros(_PAGE, np.int64)
        return own[page]

    def _together(self, codes: Sequence[int]) -> tuple[IntArray, IntArray]:
        """Bins that have something of some codes, in order, and their counts."""
        merged: dict[int, IntArray] = {}
        for code in codes:
            for page, counts in self._pages.get(code, {}).items():
                merged[page] = merged[page] + counts if page in merged else counts
        if not merged:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        order = sorted(merged)
        counts = np.concatenate([merged[page] for page in order])
        bins = np.concatenate([np.arange(page << _PAGE_BITS, (page + 1) << _PAGE_BITS) for page in order])
        there = counts > 0
        return bins[there], counts[there]

    def _moments_of(self, local: npt.NDArray[np.intp], values: FloatArray, number: int) -> list[tuple[int, float, float, int]]:
        counts = np.bincount(local, minlength=number)
        means = np.bincount(local, values, number) / np.maximum(counts, 1)
        squares = np.bincount(local, (values - means[local]) ** 2, number)
        above = np.zeros(number, np.int64)
        if self._threshold is not None:
            above = np.bincount(local[values > self._threshold], minlength=number)
        return list(zip(counts.tolist(), means.tolist(), squares.tolist(), above.tolist(), strict=True))


_NO_MOMENTS = (0, 0.0, 0.0, 0)


def _together(parts: Iterable[tuple[int, float, float, int]]) -> tuple[int, float, float, int]:
    """Number, mean, sum of squares and number above the threshold of all parts (Chan, Golub and LeVeque 1979)."""
    count, mean, squares, above = _NO_MOMENTS
    for n, m, s, a in parts:
        if n:
            total = count + n
            squares += s + (m - mean) ** 2 * count * n / total
            mean += (m - mean) * n / total
            count, above = total, above + a
    return count, mean, squares, above


def _ordered(bits: IntArray) -> IntArray:
    """The bits of floats as integers in the same order; and back."""
    return bits ^ (bits >> 63 & _SIGNLESS)


def _bin_of(values: npt.NDArray[np.generic]) -> IntArray:
    # Zero is added since there are two of them.
    bits = _ordered((values.astype(np.float64) + 0.0).view(np.int64))
    return (bits + (1 << (_DROPPED_BITS - 1))) >> _DROPPED_BITS


def _value_of(bins: IntArray) -> FloatArray:
    """The middle of bins."""
    return _ordered(bins << _DROPPED_BITS).view(np.float64)
