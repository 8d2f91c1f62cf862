"""Planes of a view through an affine and a field: ``python bench_views.py [--folder FOLDER]``.

The file of `bench_napari`, 104 GB large, is seen turned and warped at full resolution, so that none of its planes lies along one of
the image's. Prints a table in Markdown, times in ms; docs/performance.md tells what the rows mean.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import bench_napari
import numpy as np

#: Of the planes: as many pixels as the canvas of `bench_napari` has, of about the image's own size.
PIXELS = (800, 1000)
TURN_DEGREES, SHRINK, FIELD_STEP_MM, FIELD_MM = 5.0, 0.97, 0.1, 0.05
#: MiB.
CACHE = 512


def chain_around(centre: Any) -> Any:
    """A turn around a point, and a smooth field over all of the image."""
    from lsfm_core import Affine, DisplacementField, Orientation, Space, TransformChain

    cosine, sine = np.cos(np.radians(TURN_DEGREES)), np.sin(np.radians(TURN_DEGREES))
    turn = np.eye(4)
    # Around S, then around R: all three axes lean.
    turn[:3, :3] = (
        SHRINK * np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]
    )
    turn[:3, 3] = centre - turn[:3, :3] @ centre
    shape = tuple(int(n * size / FIELD_STEP_MM) + 3 for n, size in zip(bench_napari.SHAPE, bench_napari.VOXEL_SIZE_MM, strict=True))
    domain = Space.from_orientation(shape, (FIELD_STEP_MM,) * 3, Orientation("ARS"))
    waves = np.indices(shape, dtype=np.float32)
    vectors = np.stack([FIELD_MM * np.sin(waves[(axis + 1) % 3] / 5) for axis in range(3)], axis=-1)
    return TransformChain([Affine(turn), DisplacementField(domain, vectors, name="waves")])


def measure(level: Any, planes: Sequence[int], rows: slice, columns: slice, cache: Any, cold: bool) -> list[tuple[float, float]]:
    """Seconds, and those of the processor, of each plane; cold ones with an empty cache."""
    found = []
    for plane in planes:
        if cold:
            limit, cache.max_bytes = cache.max_bytes, 0
            with cache.limited(0):
                pass
            cache.max_bytes = limit
        began, used = time.perf_counter(), time.process_time()
        np.asarray(level[plane, rows, columns])
        found.append((time.perf_counter() - began, time.process_time() - used))
    return found


def rows_of(path: Path) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """A name, and the times of its planes."""
    from lsfm_core import ChunkCache, open_lsfm, view_channel

    cache = ChunkCache(CACHE * 2**20)
    with open_lsfm(path, cache=cache) as file:
        space = file["autofluo"].space
        (first, last), (low, high) = bench_napari.WINDOW
        middle = np.array([(bench_napari.PLANES.start + bench_napari.PLANES.stop) / 2, (first + last) / 2, (low + high) / 2])
        chain = chain_around(space.to_world([middle])[0])
        level = view_channel(file, "autofluo", through=chain, grid=space).levels[0]
        at = middle.astype(int)
        rows, columns = (slice(at[axis] - n // 2, at[axis] + n // 2) for axis, n in ((1, PIXELS[0]), (2, PIXELS[1])))
        # Before anything is timed, loops are loaded.
        measure(level, [at[0]], rows, columns, cache, cold=False)
        planes = list(range(at[0] - 20, at[0] + 20))
        yield "cold", measure(level, planes[::4], rows, columns, cache, cold=True)
        measure(level, planes, rows, columns, cache, cold=False)
        yield "warm", measure(level, planes, rows, columns, cache, cold=False)


def main() -> None:
    """Make the file, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the file is kept, and looked for")
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp())
    path = folder / "large.h5"
    if not path.exists():
        bench_napari.write_file(path)
    print("| plane of 1000 x 800, affine + field | p50 | p95 | longest | processor p50 | p95 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, times in rows_of(path):
        (wall, used) = np.transpose(times) * 1000
        numbers = [*np.percentile(wall, (50, 95)), wall.max(), *np.percentile(used, (50, 95))]
        print(f"| {name} | {' | '.join(f'{number:.0f}' for number in numbers)} |")


if __name__ == "__main__":
    main()
