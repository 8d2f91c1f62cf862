"""Lazy views index as numpy does, and read no more than they are asked for."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsfm_core import LazyArray
from napari_lsfm._views import OverTime, Recoded, Shaded

SHAPE = (5, 7, 6)
IDS = np.array([0, 614454277, 3, 997], np.uint32)
LABELS = np.random.default_rng(0).choice(np.append(IDS, 12), SHAPE).astype(np.uint32)
MOVIE = np.random.default_rng(1).integers(0, 99, (4, *SHAPE), np.uint16)


class Lazy(LazyArray):
    """What a view stands on: an array that is not numpy's, and whose chunks are of one voxel."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        super().__init__(array.shape, array.dtype, (1,) * array.ndim)
        self.array = array

    def _fill(self, box: tuple[range, ...], out: np.ndarray[Any, Any], cached: bool) -> None:
        out[...] = self.array[np.ix_(*box)]


def expected_numbers() -> np.ndarray[Any, Any]:
    numbers = np.full(SHAPE, 4)
    for number, key in enumerate(IDS):
        numbers[key == LABELS] = number
    return numbers


VIEWS: dict[str, tuple[LazyArray, np.ndarray[Any, Any]]] = {
    "transposed": (Recoded(Lazy(LABELS).transpose(2, 0, 1), IDS), expected_numbers().transpose(2, 0, 1)),
    "recoded": (Recoded(Lazy(LABELS), IDS), expected_numbers()),
    "shaded": (Shaded(Lazy(MOVIE[0]), 10, 61), np.rint((MOVIE[0].clip(10, 61) - 10.0) * 5).astype(np.uint8)),
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


@pytest.mark.parametrize("index", [(slice(1, 4), slice(None, None, -2)), (3,), (Ellipsis, None, slice(2))], ids=str)
def test_the_ids_of_a_part_are_those_of_the_part(index: Any) -> None:
    np.testing.assert_array_equal(Recoded(Lazy(LABELS), IDS)[index].source, LABELS[index])
    turned = Recoded(LABELS, IDS).transpose()[index]
    np.testing.assert_array_equal(turned.source, LABELS.transpose()[index])


@pytest.mark.parametrize("name", VIEWS)
def test_views_go_to_other_processes(name: str) -> None:
    view, array = VIEWS[name]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(view[1:4])), array[1:4])


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
