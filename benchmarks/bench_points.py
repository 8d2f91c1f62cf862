"""Carry points of a CSV file and count them by region: ``python benchmarks/bench_points.py [POINTS]``.

Prints seconds and processor seconds as JSON: of reading the table and writing it again by Python's csv module alone, cell by cell,
and of `transform_points` from a table to a table, with regions and counts.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lsfm_core import IngestRequest, PointsRequest, ingest_channel, transform_points

SHAPE = (200, 300, 250)


def measured(work: Callable[[], object]) -> dict[str, float]:
    """What some work takes."""
    began, processor = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - processor}


def by_cells(source: Path, target: Path) -> None:
    """Read a table and write it with three more columns, row by row."""
    with source.open(newline="") as given, target.open("w", newline="") as made:
        rows, writer = csv.reader(given), csv.writer(made)
        writer.writerow([*next(rows), "R_mm", "A_mm", "S_mm"])
        for row in rows:
            z, y, x = map(float, row)
            writer.writerow([*row, f"{x:.6f}", f"{y:.6f}", f"{z:.6f}"])


def main() -> None:
    """Measure, and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10**6
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, cells = folder / "brain.h5", folder / "cells.csv"
        blocks = rng.integers(1, 600, tuple(-(-n // 25) for n in SHAPE)).astype(np.uint16)
        labels = np.kron(blocks, np.ones((25, 25, 25), np.uint16))[tuple(map(slice, SHAPE))]
        ingest_channel(
            IngestRequest(path=file, channel="atlas", image=labels, kind="labels", voxel_size_mm=(0.05,) * 3, orientation="AIR")
        )
        np.savetxt(cells, rng.uniform(0, 1, (count, 3)) * (np.array(SHAPE) - 1), "%.3f", ",", header="z,y,x", comments="")
        request = PointsRequest(
            path=file,
            channel="atlas",
            points=cells,
            labels_channel="atlas",
            output=folder / "out.csv",
            counts=folder / "counts.csv",
        )
        results = {
            "csv": measured(lambda: by_cells(cells, folder / "plain.csv")),
            "ours": measured(lambda: transform_points(request)),
        }
    print(json.dumps({"points": count, **results}))


if __name__ == "__main__":
    main()
