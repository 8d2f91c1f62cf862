"""Reading planes and boxes through LazyLevel against h5py's own slicing: ``python bench_read.py <file> <repeats>``.

Cold means that no decoded chunk is kept from before; the file itself lies in the system's cache for both. h5py runs twice: as it
comes, and with a chunk cache as large as ours. Prints one line of JSON: for each piece and reader, the median seconds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lsfm_core import ChunkCache, open_lsfm

CACHE_BYTES = 256 * 2**20
BOXES = {"box 64": (64, 64, 64), "box 200": (200, 200, 200), "voxel": (1, 1, 1)}

Array = npt.NDArray[Any]
Index = tuple[slice | int, ...]
Reader = Callable[[Index], Array]


def pieces(shape: tuple[int, ...], repeats: int) -> dict[str, list[Index]]:
    """What is read: planes across each axis, and boxes, at random places that are the same in every run."""
    rng = np.random.default_rng(5)
    whole = slice(None)
    chosen: dict[str, list[Index]] = {
        f"plane {name}": [(*(whole,) * axis, int(place)) for place in rng.integers(0, shape[axis], repeats)]
        for axis, name in enumerate("zyx")
    }
    for name, size in BOXES.items():
        starts = [[int(rng.integers(0, max(1, n - s))) for n, s in zip(shape, size, strict=True)] for _ in range(repeats)]
        chosen[name] = [tuple(slice(a, a + s) for a, s in zip(start, size, strict=True)) for start in starts]
    return chosen


def time_ours(path: Path, index: Index) -> tuple[float, float, Array]:
    """Seconds for a first and a second read through a new cache."""
    with open_lsfm(path, cache=ChunkCache(CACHE_BYTES)) as file:
        level = file["c"].levels[0]
        return time_twice(lambda item: np.asarray(level[item]), index)


def time_h5py(path: Path, index: Index, **options: Any) -> tuple[float, float, Array]:
    """The same through h5py."""
    with h5py.File(path, **options) as file:
        return time_twice(file["t00000/s00/0/cells"].__getitem__, index)


def time_twice(read: Reader, index: Index) -> tuple[float, float, Array]:
    """Seconds of two reads of the same, and what was read."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        array = read(index)
        times.append(time.perf_counter() - began)
    return times[0], times[1], array


def run(path: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds by piece, then by reader and state of its cache."""
    with h5py.File(path) as file:
        shape = file["t00000/s00/0/cells"].shape
    readers: dict[str, Callable[[Index], tuple[float, float, Array]]] = {
        "ours": lambda index: time_ours(path, index),
        "h5py": lambda index: time_h5py(path, index),
        "h5py 256 MiB": lambda index: time_h5py(path, index, rdcc_nbytes=CACHE_BYTES, rdcc_nslots=100_003),
    }
    results: dict[str, dict[str, float]] = {}
    for name, places in pieces(shape, repeats).items():
        times: dict[str, list[float]] = {}
        for index in places:
            arrays = []
            for reader, measure in readers.items():
                cold, warm, array = measure(index)
                times.setdefault(f"{reader} cold", []).append(cold)
                times.setdefault(f"{reader} warm", []).append(warm)
                arrays.append(array)
            if not all(np.array_equal(arrays[0], other) for other in arrays[1:]):
                raise SystemExit(f"{name} {index}: the readers do not agree")
        results[name] = {key: statistics.median(values) for key, values in times.items()}
    return results


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]))))
