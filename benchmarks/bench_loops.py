"""Compiled loops beside numpy's way to the same, in processor time: ``python benchmarks/bench_loops.py``.

Prints one line of JSON: millions of points a second through an affine and a displacement field, of points whose inverse is found
numerically, and of labels that become modes; by numpy, by loops, and how many times as many that are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lsfm_core import Space, pyramid
from lsfm_core.transforms import Affine, DisplacementField, InverseField, TransformChain, field

SHAPE = (132, 114, 80)
VOXEL_MM = 0.1


def rate(count: int, work: Callable[[], Any]) -> float:
    """Millions a second of the processor, the best of three."""
    times = []
    for _ in range(3):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return count / min(times) / 1e6


def main() -> None:
    """Measure, and print."""
    rng = np.random.default_rng(0)
    place = np.stack(np.meshgrid(*(np.linspace(0, np.pi, n) for n in SHAPE), indexing="ij"), axis=-1)
    vectors = (0.3 * np.sin(place).prod(axis=-1, keepdims=True) ** 2 * np.sin(2 * place)).astype(np.float32)
    warp = DisplacementField(Space(SHAPE, np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1])), vectors)
    matrix = np.eye(4)
    matrix[:3, :3] += 0.05 * rng.normal(size=(3, 3))
    chain, inverse = TransformChain([Affine(matrix), warp]), InverseField(warp)
    points = rng.uniform(0, VOXEL_MM, (10**6, 3)) * SHAPE
    some = points[: 2**18]
    labels = rng.integers(0, 500, (33, 33, 33)).astype(np.uint32).repeat(8, 0).repeat(8, 1).repeat(8, 2)
    labels[rng.random(labels.shape) < 0.02] = 7
    works: dict[str, tuple[int, Callable[[], Any]]] = {
        "points": (len(points), lambda: chain.map_points(points)),
        "inverse": (len(some), lambda: inverse.map_points(some)),
        "modes": (labels.size, lambda: pyramid.block_mode(labels, (2, 2, 2))),
    }
    results: dict[str, dict[str, float]] = {name: {} for name in works}
    for way, many in (("numpy", 2**62), ("loops", 1)):
        field._MANY_POINTS = field._MANY_INVERTED = pyramid._MANY_VOXELS = many
        for name, (count, work) in works.items():
            results[name][way] = rate(count, work)
    for found in results.values():
        found["ratio"] = found["loops"] / found["numpy"]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
