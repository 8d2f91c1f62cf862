"""Lazy views index as numpy does, and read no more than they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_lsfm._views import OverTime, Recoded, Transposed, View

SHAPE = (5, 7, 6)
IDS = np.array([0, 614454277, 3, 997], np.uint32)
LABELS = np.random.default_rng(0).choice(np.append(IDS, 12), SHAPE).astype(np.uint32)
MOVIE = np.random.default_rng(1).integers(0, 99, (4, *SHAPE), np.uint16)


class Lazy:
    """What a view stands on: an array that is not numpy's, and whose chunks are of one voxel."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array, self.shape, self.dtype, self.chunks = array, array.shape, array.dtype, (1,) * array.ndim

    def __getitem__(self, index: Any) -> Lazy:
        return Lazy(self.array[index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.array, dtype)


def expected_numbers() -> np.ndarray[Any, Any]:
    numbers = np.full(SHAPE, 4)
    for number, key in enumerate(IDS):
        numbers[key == LABELS] = number
    return numbers


VIEWS: dict[str, tuple[View, np.ndarray[Any, Any]]] = {
    "transposed": (Transposed(Lazy(LABELS), (2, 0, 1)), LABELS.transpose(2, 0, 1)),
    "recoded": (Recoded(Lazy(LABELS), IDS), expected_numbers()),
    "over time": (OverTime(lambda time: Lazy(MOVIE[time - 3]), range(3, 7), Lazy(MOVIE[0])), MOVIE),
}
ITEM = st.one_of(st.integers(-4, 3), st.slices(4))


@pytest.mark.parametrize("name", VIEWS)
@given(first=st.lists(ITEM, max_size=3), second=st.lists(st.slices(4), max_size=1), cut=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_views_index_as_numpy(name: str, first: list[Any], second: list[Any], cut: int) -> None:
    view, array = VIEWS[name]
    for index in (tuple(first), (Ellipsis, *first), (*first[:cut], Ellipsis, *first[cut:])):
        found, wanted = view[index], array[index]
        np.testing.assert_array_equal(found, wanted)
        if wanted.ndim:
            np.testing.assert_array_equal(found[tuple(second)], wanted[tuple(second)])


def test_views_describe_themselves() -> None:
    for view, array in VIEWS.values():
        assert (view.shape, view.ndim, view.size, len(view)) == (array.shape, array.ndim, array.size, len(array))
        assert len(view.chunks) == view.ndim
        assert np.asarray(view).dtype == view.dtype


def test_only_the_times_that_are_read_are_asked_for() -> None:
    asked: list[int] = []

    def at(time: int) -> Lazy:
        asked.append(time)
        return Lazy(MOVIE[time])

    view = OverTime(at, range(4), Lazy(MOVIE[0]))
    part = view[1:3, 2][:, 4]
    assert part.shape == (2, 6) and not asked
    np.testing.assert_array_equal(part, MOVIE[1:3, 2, 4])
    assert asked == [1, 2]
