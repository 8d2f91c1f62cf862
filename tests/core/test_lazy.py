"""Chunks and lazy levels, against h5py."""

from __future__ import annotations

import multiprocessing
import pickle
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lsfm_core import (
    ChecksumError,
    ChunkCache,
    IngestRequest,
    InputError,
    LazyLevel,
    MemoryBudgetError,
    StorageError,
    edit_lsfm,
    ingest_channel,
    open_lsfm,
)
from lsfm_core.arrays import chunks
from lsfm_core.arrays.chunks import ChunkCodec
from lsfm_core.threads import default_threads, share_out

from .effort import examples

SHAPE = (23, 34, 45)
DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "u8", "i8", "f8", "f2"]
FILTERS: dict[str, dict[str, Any]] = {
    "ours": {"compression": 1, "shuffle": True, "fletcher32": True},
    "plain": {},
    "gzip only": {"compression": 9},
    "shuffle only": {"shuffle": True},
    "checksum only": {"fletcher32": True},
    "scale-offset": {"scaleoffset": 0, "compression": 4},
    "lzf": {"compression": "lzf"},
}


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.uint16)


@pytest.fixture(scope="module")
def datasets(data: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, h5py.Dataset]:
    file = h5py.File(tmp_path_factory.mktemp("lazy") / "x.h5", "w")
    for name, options in FILTERS.items():
        file.create_dataset(name, data=data, chunks=(8, 16, 7), **options)
    file["contiguous"] = data
    file["big-endian"] = data.astype(">u2")
    sparse = file.create_dataset("sparse", SHAPE, "u2", chunks=(8, 16, 7), fillvalue=9, compression=1)
    sparse[:5, :5, :5] = data[:5, :5, :5]
    return {name: file[name] for name in file}


@st.composite
def indices(draw: st.DrawFn) -> Any:
    """Anything that numpy takes with integers, slices and an ellipsis."""
    bound = st.one_of(st.none(), st.integers(-60, 60))
    items: list[Any] = []
    for n in SHAPE[: draw(st.integers(0, 3))]:
        step = draw(st.one_of(st.none(), st.integers(-9, 9).filter(bool)))
        items.append(draw(st.one_of(st.integers(-n, n - 1), st.builds(slice, bound, bound, st.just(step)))))
    if draw(st.booleans()):
        items.insert(draw(st.integers(0, len(items))), Ellipsis)
    for _ in range(draw(st.integers(0, 2))):
        items.insert(draw(st.integers(0, len(items))), None)
    return tuple(items)


@st.composite
def gathering(draw: st.DrawFn) -> Any:
    """Anything that numpy takes with arrays of integers or booleans among the rest."""
    items: list[Any] = []
    length = draw(st.integers(0, 4))
    axis = 0
    while axis < 3:
        n = SHAPE[axis]
        kind = draw(st.sampled_from(["integers", "grid", "mask", "masks", "list", "rest", "flag"]))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        if kind == "masks" and axis < 2:
            items.append(rng.random(SHAPE[axis : axis + 2]) < 0.01)
            axis += 1
        elif kind == "integers":
            items.append(rng.integers(-n, n, draw(st.sampled_from([length, 1]))))
        elif kind == "list":
            items.append(rng.integers(-n, n, length).tolist())
        elif kind == "grid":
            items.append(rng.integers(0, n, (draw(st.integers(1, 3)), 1)).astype(np.uint8))
        elif kind == "mask":
            items.append(rng.random(n) < 0.2)
        elif kind == "flag":
            items.append(draw(st.sampled_from([True, False, np.True_])))
            axis -= 1
            if len(items) > 3:
                break
        else:
            items.append(draw(st.one_of(st.integers(-n, n - 1), st.slices(n), st.none())))
            axis -= items[-1] is None
            if len(items) > 5:
                break
        axis += 1
        if draw(st.integers(0, 3)) == 0:
            break
    if draw(st.booleans()):
        items.insert(draw(st.integers(0, len(items))), Ellipsis)
    return tuple(items)


@pytest.mark.parametrize("name", [*FILTERS, "contiguous", "big-endian", "sparse"])
@given(index=indices())
@settings(max_examples=examples(60), deadline=None)
def test_every_index_reads_what_numpy_would(name: str, index: Any, datasets: dict[str, h5py.Dataset]) -> None:
    dataset = datasets[name]
    level = LazyLevel.of(dataset, cache=ChunkCache(2**16), dtype=dataset.dtype)
    expected = dataset[...][index]
    view = level[index]
    assert view.shape == expected.shape
    got = np.asarray(view)
    assert got.dtype == dataset.dtype
    np.testing.assert_array_equal(got, expected)


@given(first=indices(), second=indices())
@settings(max_examples=examples(100), deadline=None)
def test_indices_compose(first: Any, second: Any, datasets: dict[str, h5py.Dataset], data: np.ndarray) -> None:
    level = LazyLevel.of(datasets["ours"], cache=ChunkCache())
    try:
        expected = data[first][second]
    except IndexError:
        with pytest.raises(IndexError):
            level[first][second]
        return
    np.testing.assert_array_equal(np.asarray(level[first][second]), expected)


@example(index=(slice(None), np.arange(34) % 9 == 0, Ellipsis, np.arange(45) % 12 == 0), before=())
@given(index=gathering(), before=st.sampled_from([(), (slice(None, None, -1),), (Ellipsis, slice(40, 3, -2))]))
@settings(max_examples=examples(200), deadline=None)
def test_arrays_as_indices_give_what_numpy_gives(
    index: Any, before: Any, datasets: dict[str, h5py.Dataset], data: np.ndarray
) -> None:
    level = LazyLevel.of(datasets["ours"], cache=ChunkCache())[before]
    try:
        expected = data[before][index]
    except IndexError:
        with pytest.raises(IndexError):
            level[index]
        return
    found = np.asarray(level[index])
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_scattered_elements_are_read_without_all_that_lies_between(tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 99, (64, 512, 512), np.uint16)
    places = np.random.default_rng(4).integers(0, [[64], [8], [512]], (3, 30))
    places[1, ::2] += 500
    with h5py.File(tmp_path / "x.h5", "w") as file:
        level = LazyLevel.of(file.create_dataset("x", data=values, chunks=(16, 32, 32)), cache=(cache := ChunkCache()))
        np.testing.assert_array_equal(level[tuple(places)], values[tuple(places)])
        assert cache.nbytes < values.nbytes / 4
        with pytest.raises(MemoryBudgetError, match="would take"):
            LazyLevel.of(file["x"], cache=ChunkCache(), max_read_bytes=1000)[[0, 1]]


@given(order=st.permutations(range(3)), first=indices(), second=indices())
@settings(max_examples=examples(80), deadline=None)
def test_axes_in_another_order(order: Any, first: Any, second: Any, datasets: dict[str, h5py.Dataset], data: np.ndarray) -> None:
    view, expected = LazyLevel.of(datasets["ours"], cache=ChunkCache()).transpose(order), data.transpose(order)
    try:
        expected = expected[first].transpose()[second]
    except IndexError:
        with pytest.raises(IndexError):
            view[first].transpose()[second]
        return
    view = view[first].transpose()[second]
    np.testing.assert_array_equal(np.asarray(view), expected)
    assert len(view.chunks) == view.ndim and all(chunk >= 1 for chunk in view.chunks)
    out = np.zeros(expected.shape, expected.dtype, order="F")
    np.testing.assert_array_equal(view.read(out=out), expected)


@given(cut=indices(), index=indices())
@settings(max_examples=examples(60), deadline=None)
def test_a_part_that_is_padded_is_zero_where_the_part_ends(
    cut: Any, index: Any, datasets: dict[str, h5py.Dataset], data: np.ndarray
) -> None:
    part = LazyLevel.of(datasets["ours"], cache=ChunkCache())[cut]
    expected = np.zeros([n + 3 for n in part.shape], np.uint16)
    expected[tuple(slice(n) for n in part.shape)] = data[cut]
    padded = part.padded(expected.shape)
    try:
        expected = expected[index]
    except IndexError:
        return
    np.testing.assert_array_equal(np.asarray(padded[index]), expected)


def test_nothing_is_assigned(datasets: dict[str, h5py.Dataset]) -> None:
    with pytest.raises(InputError, match="change a copy"):
        LazyLevel.of(datasets["ours"], cache=ChunkCache())[0] = 1


def test_another_process_opens_the_file_itself(tmp_path: Path, data: np.ndarray) -> None:
    path = tmp_path / "brain.h5"
    for name in ("first", "second"):
        voxels = data if name == "first" else data[::-1]
        ingest_channel(IngestRequest(path=path, channel=name, image=voxels, voxel_size_mm=(1, 1, 1), orientation="RAS"))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for detached in (False, True):
            with open_lsfm(path, detached=detached) as file:
                levels = [file[name].levels[0].data for name in ("first", "second")]
                views = [levels[0], levels[1].transpose(2, 0, 1)[::-2], levels[0].padded((30, 34, 45))[5:, 3]]
                expected = [data, data[::-1].transpose(2, 0, 1)[::-2], np.pad(data, [(0, 7), (0, 0), (0, 0)])[5:, 3]]
                for found, voxels in zip(pool.map(np.asarray, views), expected, strict=True):
                    np.testing.assert_array_equal(found, voxels)
                blocks = levels[0][::-1].to_dask()
                np.testing.assert_array_equal(blocks.compute(scheduler="processes", num_workers=1, pool=pool), data[::-1])
                pickled = [pickle.dumps(level) for level in levels]
    with edit_lsfm(path) as editor:
        editor.remove_channel("first")
    ingest_channel(IngestRequest(path=path, channel="second", image=data, voxel_size_mm=(1, 1, 1), orientation="RAS", replace=True))
    for level in pickled:
        with pytest.raises(StorageError, match="open the file again"):
            pickle.loads(level)


@given(index=indices())
@settings(max_examples=examples(100), deadline=None)
def test_a_padded_level_is_zero_beyond_what_is_stored(index: Any, datasets: dict[str, h5py.Dataset], data: np.ndarray) -> None:
    padded = LazyLevel.of(datasets["ours"], cache=ChunkCache()).padded((30, 34, 64))
    expected = np.zeros((30, 34, 64), np.uint16)
    expected[tuple(slice(n) for n in SHAPE)] = data
    np.testing.assert_array_equal(np.asarray(padded[index]), expected[index])


@pytest.mark.parametrize(
    "index", [23, (0, -35), (0, 0, 0, 0), (Ellipsis, Ellipsis), "x", 1.0, [0.5], np.ones(3, bool), [23], ([0, 1], [0, 1, 2])]
)
def test_other_indices_are_errors(index: Any, datasets: dict[str, h5py.Dataset]) -> None:
    with pytest.raises(IndexError):
        LazyLevel.of(datasets["ours"], cache=ChunkCache())[index]


def test_indexing_reads_nothing_and_reading_only_what_is_needed(datasets: dict[str, h5py.Dataset]) -> None:
    cache = ChunkCache()
    level = LazyLevel.of(datasets["ours"], cache=cache)
    view = level[3:6, ..., ::2]
    assert cache.nbytes == 0
    np.asarray(view[0, 0, :2])
    assert cache.nbytes == 8 * 16 * 7 * 2


def test_the_cache_keeps_its_limit_and_gives_back_what_it_has(datasets: dict[str, h5py.Dataset]) -> None:
    chunk = 8 * 16 * 7 * 2
    cache = ChunkCache(3 * chunk)
    level = LazyLevel.of(datasets["ours"], cache=cache)
    np.asarray(level[...])
    assert cache.nbytes == 3 * chunk
    before = np.asarray(level[:4, :4, :4])
    np.testing.assert_array_equal(np.asarray(level[:4, :4, :4]), before)
    level.read(cached=False)
    assert cache.nbytes == 3 * chunk


def test_reads_above_the_limit_are_refused(datasets: dict[str, h5py.Dataset]) -> None:
    level = LazyLevel.of(datasets["ours"], cache=ChunkCache(), max_read_bytes=1000)
    np.asarray(level[0, :10])
    with pytest.raises(MemoryBudgetError, match="coarser level"):
        np.asarray(level)


def test_uint16_kept_as_int16_is_read_as_uint16(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(16, 64, 64)
    with h5py.File(tmp_path / "bdv.h5", "w") as file:
        dataset = file.create_dataset("x", data=values.view(np.int16), chunks=(8, 32, 32), compression=1)
        level = LazyLevel.of(dataset, cache=ChunkCache(), dtype=np.uint16)
        np.testing.assert_array_equal(np.asarray(level), values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(8, 16, 8), (5, 16, 3)])
def test_hdf5_reads_what_the_codec_writes(dtype: str, size: tuple[int, int, int], tmp_path: Path) -> None:
    block = np.random.default_rng(1).integers(0, 100, size).astype(dtype)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", (8, 16, 8), dtype, chunks=(8, 16, 8), **FILTERS["ours"])
        codec = ChunkCodec.of(dataset)
        assert codec is not None
        dataset.id.write_direct_chunk((0, 0, 0), codec.encode(block))
        file.flush()
        np.testing.assert_array_equal(dataset[tuple(slice(n) for n in size)], block)
        np.testing.assert_array_equal(
            codec.decode(dataset.id.read_direct_chunk((0, 0, 0))[1])[tuple(slice(n) for n in size)], block
        )


def test_strided_blocks_are_encoded_as_their_copies(data: np.ndarray) -> None:
    for dtype in DTYPES:
        volume = data.astype(dtype)
        block = volume[3:11, 2:18, 5:13]
        codec = ChunkCodec(block.dtype, (8, 16, 8))
        assert codec.encode(block) == codec.encode(block.copy())


@pytest.mark.parametrize("where", [10, -2])
def test_a_flipped_bit_is_found_and_placed(where: int, tmp_path: Path, data: np.ndarray) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        info = file.create_dataset("x", data=data, chunks=(8, 16, 7), **FILTERS["ours"]).id.get_chunk_info(4)
    with open(path, "r+b") as raw:
        offset = info.byte_offset + where % info.size
        raw.seek(offset)
        byte = raw.read(1)[0]
        raw.seek(offset)
        raw.write(bytes([byte ^ 4]))
    with h5py.File(path) as file, pytest.raises(ChecksumError, match=r"voxels from \(0, 0, 28\)"):
        np.asarray(LazyLevel.of(file["x"], cache=ChunkCache()))


def test_of_several_damaged_chunks_the_first_is_named(tmp_path: Path, data: np.ndarray) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", data=data, chunks=(8, 16, 7), **FILTERS["ours"])
        for offset in ((8, 16, 7), (8, 16, 14), (16, 0, 0)):
            dataset.id.write_direct_chunk(offset, b"not what was here")
        with pytest.raises(ChecksumError, match=r"x\.h5:/x, voxels from \(8, 16, 7\)"):
            np.asarray(LazyLevel.of(dataset, cache=ChunkCache()))


@pytest.mark.parametrize("size", [100, 8 * 16 * 7 * 2 + 1])
def test_a_chunk_that_inflates_to_another_size_is_damaged(size: int, tmp_path: Path, data: np.ndarray) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", data=data, chunks=(8, 16, 7), **FILTERS["gzip only"])
        level = LazyLevel.of(dataset, cache=ChunkCache())
        np.asarray(level[0, 0, 0])
        dataset.id.write_direct_chunk((0, 0, 7), zlib.compress(bytes(size)))
        with pytest.raises(ChecksumError, match="damaged"):
            np.asarray(level[0, 0, 7])


@pytest.mark.parametrize("name", [name for name in FILTERS if name not in ("scale-offset", "lzf")])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_a_decoded_chunk_outlives_the_next(name: str, dtype: str, tmp_path: Path, data: np.ndarray) -> None:
    values = data.astype(dtype)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", data=values, chunks=(8, 16, 7), **FILTERS[name])
        codec = ChunkCodec.of(dataset)
        assert codec is not None
        read = [codec.read(dataset, (0, 0, x)) for x in (0, 7)]
        for x, chunk in zip((0, 7), read, strict=True):
            np.testing.assert_array_equal(chunk, values[:8, :16, x : x + 7])


def test_threads_read_the_same_level_at_once(datasets: dict[str, h5py.Dataset], data: np.ndarray) -> None:
    level = LazyLevel.of(datasets["ours"], cache=ChunkCache(2**14))
    with ThreadPoolExecutor(8) as pool:
        for array in pool.map(lambda _: np.asarray(level), range(40)):
            np.testing.assert_array_equal(array, data)


def test_a_thread_keeps_little_memory_however_large_the_chunks(tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 2**16, (64, 256, 256), np.uint16)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", data=values, chunks=values.shape, **FILTERS["ours"])
        np.testing.assert_array_equal(np.asarray(LazyLevel.of(dataset, cache=ChunkCache())), values)
    assert sum(kept.nbytes for kept in chunks._scratch.kept.values()) < values.nbytes


def test_shared_work_ends_at_the_first_failure_in_order() -> None:
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        time.sleep(0.1 if item == 0 else 0.01)
        raise ValueError(item)

    with pytest.raises(ValueError, match="0"):
        share_out(work, range(100))
    assert len(begun) <= default_threads()


def test_work_that_shares_out_in_turn_does_not_wait_for_ever() -> None:
    done: list[int] = []
    share_out(lambda _: share_out(lambda _: share_out(done.append, range(8)), range(8)), range(8))
    assert sorted(done) == sorted([*range(8)] * 64)
