"""Who steps through planes finds the next ones decoded; who jumps, or works with other views, notices nothing."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsfm_core import ChunkCache, LazyLevel, StorageError
from lsfm_core.arrays import stored
from lsfm_core.arrays.chunks import ChunkCodec

from .effort import examples

SHAPE, CHUNKS = (48, 40, 60), (8, 16, 16)
CHUNK_BYTES = 8 * 16 * 16 * 2
#: Of a plane across the first axis.
PLANE_CHUNKS = 3 * 4


@pytest.fixture(scope="module")
def data() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.uint16)


@pytest.fixture(scope="module")
def dataset(data: np.ndarray[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[h5py.Dataset]:
    with h5py.File(tmp_path_factory.mktemp("ahead") / "x.h5", "w") as file:
        yield file.create_dataset("x", data=data, chunks=CHUNKS, compression=1, shuffle=True, fletcher32=True)


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many chunks each read had to wait for; those that did not wait are not listed."""
    counts: list[int] = []
    share_out = stored.share_out

    def counting(work: Callable[[Any], object], items: list[Any]) -> None:
        counts.append(len(items))
        share_out(work, items)

    monkeypatch.setattr(stored, "share_out", counting)
    return counts


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Where the chunks lie that were decoded, in whatever thread."""
    offsets: list[tuple[int, ...]] = []
    read = ChunkCodec.read

    def noting(self: ChunkCodec, dataset: h5py.Dataset, offset: tuple[int, ...], expected: int | None) -> Any:
        offsets.append(offset)
        return read(self, dataset, offset, expected)

    monkeypatch.setattr(ChunkCodec, "read", noting)
    return offsets


def reading_ahead(dataset: h5py.Dataset, max_bytes: int = 2**24) -> LazyLevel:
    return LazyLevel.of(dataset, cache=ChunkCache(max_bytes, reads_ahead=True))


def settle(level: LazyLevel) -> None:
    """Look at a plane for as long as there is something to be done."""
    ahead = level._store.cache.ahead
    assert ahead is not None
    # Only so that a hang ends some day: a busy machine may take its time.
    until = time.monotonic() + 300
    while ahead._is_at_work or ahead._waiting:
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("turned", [slice(None), slice(None, None, -1)], ids=["up", "down"])
@pytest.mark.parametrize("across", [0, 1, 2])
def test_who_steps_waits_for_the_first_plane_only(
    across: int, turned: slice, dataset: h5py.Dataset, data: np.ndarray[Any, Any], waited: list[int]
) -> None:
    # Longer than what is stored, so that some planes and parts of planes are padding.
    whole_level = reading_ahead(dataset)
    level = whole_level.padded((56, 48, 64))
    whole = np.pad(data, [(0, 8), (0, 8), (0, 4)])
    turn = (slice(None),) * across + (turned,)
    for position in range(level.shape[across]):
        plane = (slice(None),) * across + (position,)
        np.testing.assert_array_equal(np.asarray(level[turn][plane]), whole[turn][plane])
        settle(whole_level)
    assert len(waited) == 1


def test_who_jumps_has_nothing_decoded_but_what_is_seen(dataset: h5py.Dataset, decoded: list[Any]) -> None:
    level = reading_ahead(dataset)
    for position in (3, 41, 20, 4, 33, 12, 25, 9):
        np.asarray(level[position])
        settle(level)
    assert len(decoded) == 6 * PLANE_CHUNKS and len({offset[0] for offset in decoded}) == 6


def test_thick_planes_are_followed_as_well(dataset: h5py.Dataset, data: np.ndarray[Any, Any], waited: list[int]) -> None:
    level = reading_ahead(dataset)
    for position in range(SHAPE[0] - 5):
        np.testing.assert_array_equal(np.asarray(level[position : position + 5]), data[position : position + 5])
        settle(level)
    assert len(waited) == 1


@pytest.mark.parametrize("elsewhere", [(40,), (6, slice(20)), "another dataset"], ids=["jump", "box", "level"])
def test_the_plan_is_given_up_when_somebody_looks_elsewhere(
    elsewhere: Any, dataset: h5py.Dataset, decoded: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    level = reading_ahead(dataset)
    other = LazyLevel.of(dataset, cache=level._store.cache)
    goes_on, read = threading.Event(), ChunkCodec.read

    def slow(self: ChunkCodec, dataset: h5py.Dataset, offset: tuple[int, ...], expected: int | None) -> Any:
        if offset[0] == 8:
            assert goes_on.wait(10)
        return read(self, dataset, offset, expected)

    monkeypatch.setattr(ChunkCodec, "read", slow)
    for position in range(4):
        np.asarray(level[position])
    # The first chunk of the next layer is under way, and the others are waiting.
    threading.Timer(0.1, goes_on.set).start()
    np.asarray(other[0] if elsewhere == "another dataset" else level[elsewhere])
    settle(level)
    assert len([offset for offset in decoded if offset[0] == 8]) <= 1


def test_no_chunk_is_decoded_twice(dataset: h5py.Dataset, decoded: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    level = reading_ahead(dataset)
    begun, goes_on, read = threading.Event(), threading.Event(), ChunkCodec.read

    def slow(self: ChunkCodec, dataset: h5py.Dataset, offset: tuple[int, ...], expected: int | None) -> Any:
        if offset == (8, 0, 0):
            begun.set()
            assert goes_on.wait(10)
        return read(self, dataset, offset, expected)

    monkeypatch.setattr(ChunkCodec, "read", slow)
    for position in range(4):
        np.asarray(level[position])
    assert begun.wait(10)
    threading.Timer(0.1, goes_on.set).start()
    np.asarray(level[8])
    for position in range(9, SHAPE[0]):
        np.asarray(level[position])
    settle(level)
    assert len(decoded) == len({*decoded}) == 6 * PLANE_CHUNKS


def test_nothing_is_decoded_ahead_while_somebody_waits(dataset: h5py.Dataset, decoded: list[Any]) -> None:
    level = reading_ahead(dataset)
    ahead = level._store.cache.ahead
    assert ahead is not None
    with ahead.paused():
        for position in range(4):
            np.asarray(level[position])
        time.sleep(0.1)
        assert len(decoded) == PLANE_CHUNKS
    settle(level)
    assert len(decoded) == 2 * PLANE_CHUNKS


@pytest.mark.parametrize(("planes", "expected"), [(2.5, PLANE_CHUNKS), (1.5, PLANE_CHUNKS // 2), (0.5, 0)])
def test_no_more_is_decoded_than_the_cache_holds_beside_what_is_shown(
    planes: float, expected: int, dataset: h5py.Dataset, decoded: list[Any], waited: list[int]
) -> None:
    level = reading_ahead(dataset, int(planes * PLANE_CHUNKS * CHUNK_BYTES))
    for position in range(4):
        np.asarray(level[position])
        settle(level)
    assert len([offset for offset in decoded if offset[0] == 8]) == expected
    assert len(waited) == (1 if planes > 1 else 4), "what is shown stays in the cache"


def test_layers_shown_together_share_the_cache(dataset: h5py.Dataset, waited: list[int]) -> None:
    cache = ChunkCache(2**24, reads_ahead=True)
    levels = [LazyLevel.of(dataset, cache=cache) for _ in range(3)]
    for position in range(SHAPE[0]):
        for level in levels:
            np.asarray(level[position])
        settle(levels[0])
    assert waited == [PLANE_CHUNKS] * 3


def test_errors_are_for_those_who_read_the_plane(dataset: h5py.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    level, read = reading_ahead(dataset), ChunkCodec.read

    def broken(self: ChunkCodec, dataset: h5py.Dataset, offset: tuple[int, ...], expected: int | None) -> Any:
        if offset[0] == 8:
            raise StorageError("the disk is gone")
        return read(self, dataset, offset, expected)

    monkeypatch.setattr(ChunkCodec, "read", broken)
    for position in range(8):
        np.asarray(level[position])
        settle(level)
    with pytest.raises(OSError, match="the disk is gone"):
        np.asarray(level[8])
    np.asarray(level[16])


def test_a_file_that_was_closed_is_left_alone(data: np.ndarray[Any, Any], tmp_path: Path) -> None:
    threads = threading.active_count()
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", data=data, chunks=CHUNKS, compression=1)
        level = reading_ahead(dataset)
        store = level._store
        for position in range(3):
            np.asarray(level[position])
    settle(level)
    # Nor does anything of what watched it hold it.
    ahead = store.cache.ahead
    del level, store
    gc.collect()
    assert ahead is not None and not ahead._courses
    assert threading.active_count() <= threads + 8, "those of the shared pool"


@given(positions=st.lists(st.integers(0, SHAPE[0] - 1), min_size=1, max_size=12), planes=st.floats(0.3, 4))
@settings(max_examples=examples(30), deadline=None)
def test_planes_are_the_same_with_and_without(
    positions: list[int], planes: float, dataset: h5py.Dataset, data: np.ndarray[Any, Any]
) -> None:
    level = reading_ahead(dataset, int(planes * PLANE_CHUNKS * CHUNK_BYTES))
    for position in positions:
        np.testing.assert_array_equal(np.asarray(level[position, ::-1]), data[position, ::-1])
    assert level._store.cache.nbytes <= level._store.cache.max_bytes
