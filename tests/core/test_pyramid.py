"""Planning levels, and the kernels that make them, against straightforward numpy."""

from __future__ import annotations

from itertools import pairwise, product
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsfm_core.pyramid import Kind, block_mean, block_mode, block_sum, plan_levels, reducer, sum_dtype, sums_to_mean

shapes = st.tuples(*[st.integers(1, 12)] * 3)


def naive_mean(array: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """Pad with NaN, average what exists, round as numpy does."""
    pad = [(0, -n % f) for n, f in zip(array.shape, factors, strict=True)]
    padded = np.pad(array.astype(np.longdouble), pad, constant_values=np.nan)
    split = [size for n, f in zip(padded.shape, factors, strict=True) for size in (n // f, f)]
    mean = np.nanmean(padded.reshape(split), axis=(1, 3, 5))
    return (np.rint(mean) if array.dtype.kind in "ui" else mean).astype(array.dtype)


@given(
    hnp.arrays(st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32]), shapes),
    st.tuples(*[st.integers(1, 5)] * 3),
)
def test_integer_means_are_numpys(array: np.ndarray, factors: tuple[int, int, int]) -> None:
    np.testing.assert_array_equal(block_mean(array, factors), naive_mean(array, factors))


@pytest.mark.parametrize("shape", [(5, 7, 9), (4, 6, 7), (6, 5, 4), (1, 2, 3)])
def test_means_of_noise_are_numpys_with_any_rest(shape: tuple[int, int, int]) -> None:
    """Every voxel is another, so that each that is forgotten, or taken for its neighbour, shows."""
    noise = np.random.default_rng(0).permutation(np.prod(shape) * 100)[: np.prod(shape)].reshape(shape).astype(np.uint16)
    for factors in product((1, 2, 3, 4), repeat=3):
        np.testing.assert_array_equal(block_mean(noise, factors), naive_mean(noise, factors), err_msg=str(factors))


@pytest.mark.parametrize("factors", [(1, 1, 2), (2, 1, 2), (2, 2, 2), (4, 2, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_halves_are_rounded_to_even(factors: tuple[int, int, int], dtype: type) -> None:
    """All sums of a block that lie about the first ties, which numpy rounds likewise."""
    voxels = int(np.prod(factors))
    sums = np.arange(0, 6 * voxels + 1)
    blocks = np.zeros((len(sums), voxels), dtype)
    for block, total in zip(blocks, sums, strict=True):
        block[:] = total // voxels
        block[: total % voxels] += 1
    if dtype is np.int16:
        blocks, sums = -blocks, -sums
    array = blocks.reshape(-1, *factors).transpose(1, 0, 2, 3).reshape(factors[0], -1, factors[2])
    np.testing.assert_array_equal(block_mean(array, factors).ravel(), np.rint(sums / voxels).astype(dtype))


@given(
    hnp.arrays(np.float32, shapes, elements=st.floats(-1e6, 1e6, width=32)),
    st.tuples(*[st.sampled_from([1, 2, 4])] * 3),
)
def test_float_means_are_numpys(array: np.ndarray, factors: tuple[int, int, int]) -> None:
    np.testing.assert_allclose(block_mean(array, factors), naive_mean(array, factors), rtol=1e-6)


def naive_mode(labels: np.ndarray, step: tuple[int, int, int]) -> np.ndarray:
    out = np.empty([-(-n // s) for n, s in zip(labels.shape, step, strict=True)], labels.dtype)
    for index in np.ndindex(out.shape):
        block = labels[tuple(slice(i * s, i * s + s) for i, s in zip(index, step, strict=True))]
        values, counts = np.unique(block, return_counts=True)
        out[index] = values[counts.argmax()]
    return out


@given(
    hnp.arrays(np.uint64, st.tuples(*[st.integers(1, 7)] * 3), elements=st.sampled_from([0, 1, 2, 2**64 - 1])),
    st.tuples(*[st.sampled_from([1, 2])] * 3),
)
def test_the_mode_is_the_most_frequent_then_the_smallest(labels: np.ndarray, step: tuple[int, int, int]) -> None:
    np.testing.assert_array_equal(block_mode(labels, step), naive_mode(labels, step))


@pytest.mark.parametrize("step", [(1, 2, 2), (2, 1, 2), (2, 2, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1)])
def test_a_mode_counts_along_each_axis_as_far_as_its_step(step: tuple[int, int, int]) -> None:
    """The first voxel of each block is outvoted by the others, or has the larger id where two are left."""
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[:: step[0], :: step[1], :: step[2]] = 9
    # What lies beyond a block, along an axis that is not reduced, is of other ids.
    ids = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    np.testing.assert_array_equal(block_mode(labels, step), 0)
    np.testing.assert_array_equal(block_mode(ids, step), ids[:: step[0], :: step[1], :: step[2]])


@given(hnp.arrays(np.uint16, shapes), st.data())
def test_sums_in_two_steps_are_sums_in_one(array: np.ndarray, data: st.DataObject) -> None:
    twice = block_sum(block_sum(array, (2, 1, 2), np.uint32), (2, 2, 2), np.uint32)
    once = block_sum(array, (4, 2, 4), np.uint32)
    np.testing.assert_array_equal(twice, once)
    # A part of a level is made from its sums as the whole is.
    start = [data.draw(st.integers(0, n - 1)) for n in once.shape]
    part = once[tuple(slice(s, None) for s in start)]
    whole = sums_to_mean(once, (4, 2, 4), np.uint16, (0, 0, 0), array.shape)
    np.testing.assert_array_equal(
        sums_to_mean(part, (4, 2, 4), np.uint16, start, array.shape), whole[tuple(slice(s, None) for s in start)]
    )


@pytest.mark.parametrize(
    ("dtype", "voxels"), [(np.uint8, 2**24), (np.uint16, 2**16), (np.int16, 2**16), (np.uint16, 2**18), (np.uint32, 2**21)]
)
def test_sums_never_overflow(dtype: type, voxels: int) -> None:
    for extreme in (np.iinfo(dtype).min, np.iinfo(dtype).max):
        limits = np.iinfo(sum_dtype(dtype, voxels))
        assert limits.min <= int(extreme) * voxels <= limits.max


@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 40000), st.integers(1, 40000)),
    st.tuples(*[st.floats(0.0002, 0.05)] * 3),
    st.sampled_from([1, 2, 4, 8]),
)
def test_plans_hold_their_promises(shape: tuple[int, int, int], voxel: tuple[float, float, float], itemsize: int) -> None:
    levels = plan_levels(shape, voxel, itemsize)
    assert levels[0].factors == (1, 1, 1)
    assert levels[0].shape == shape
    assert max(levels[-1].shape) <= 256
    assert all(max(level.shape) > 256 for level in levels[:-1])
    for finer, coarser in pairwise(levels):
        steps = [b // a for a, b in zip(finer.factors, coarser.factors, strict=True)]
        assert set(steps) <= {1, 2}
        assert 2 in steps
        # A chunk is reduced by itself: it ends where blocks of the next level end, or covers its axis.
        assert all(c % s == 0 or c == n for c, s, n in zip(finer.chunks, steps, finer.shape, strict=True))
    for level in levels:
        assert level.shape == tuple(-(-n // f) for n, f in zip(shape, level.factors, strict=True))
        assert np.prod(level.chunks) * itemsize <= 2**20
        assert all(1 <= c <= n for c, n in zip(level.chunks, level.shape, strict=True))


def test_factors_are_bigdataviewers() -> None:
    # What ProposeMipmaps of bigdataviewer-core gives for 1000 x 2000 x 2000 voxels of 5 x 1 x 1.
    assert [level.factors for level in plan_levels((1000, 2000, 2000), (5, 1, 1), 2)] == [
        (1, 1, 1),
        (1, 2, 2),
        (1, 4, 4),
        (2, 8, 8),
        (4, 16, 16),
    ]


def test_a_chunk_is_as_large_as_it_may_be_and_no_larger() -> None:
    for itemsize in (1, 2, 4, 8):
        chunks = plan_levels((5000, 5000, 5000), (1, 1, 1), itemsize)[0].chunks
        assert np.prod(chunks, dtype=int) * itemsize == 2**20
    # Components of which no power of two fills a megabyte.
    for itemsize in (3, 6, 12):
        size = int(np.prod(plan_levels((5000, 5000, 5000), (1, 1, 1), itemsize)[0].chunks, dtype=int)) * itemsize
        assert 2**19 < size <= 2**20


def test_chunks_are_cubes_in_the_world() -> None:
    voxel = (0.01, 0.002, 0.002)
    chunks = plan_levels((500, 5000, 5000), voxel, 2)[0].chunks
    extent = np.multiply(chunks, voxel)
    assert extent.max() / extent.min() <= 2
    assert np.prod(chunks) * 2 == 2**20
    # One voxel of the long axis is as long as all others together.
    for axis in range(3):
        long = np.where(np.arange(3) == axis, 1, 0.001)
        extent = plan_levels((5000, 5000, 5000), long, 2)[0].chunks * long
        assert extent.max() / extent.min() <= 2


@pytest.mark.parametrize("kind", get_args(Kind))
def test_labels_alone_are_reduced_to_what_is_most(kind: Kind) -> None:
    voxels = np.random.default_rng(0).integers(0, 3, (4, 6, 8)).astype(np.uint16)
    maker = reducer(kind, voxels.dtype)
    sums = maker.reduce(voxels, (2, 2, 2), maker.carried_dtype((2, 2, 2)))
    naive = naive_mode(voxels, (2, 2, 2)) if kind == "labels" else naive_mean(voxels, (2, 2, 2))
    np.testing.assert_array_equal(maker.finish(sums, (2, 2, 2), (0, 0, 0), voxels.shape), naive)
