"""A file of 100 GB in napari's window: ``python bench_napari.py [--async] [--folder FOLDER]``, under a screen or xvfb-run.

The file is as large as it says, but most of its chunks were never written: only those around the places that are visited hold
tissue and noise. Planes are stepped through at full resolution and in the overview. *Cold* planes need chunks that are not decoded
yet (they may lie in the system's file cache), *warm* ones do not. A plane's time is from the step of the slider until the canvas is
drawn; *reading* is our part of it, and *processor* what that takes of all cores' time. Prints JSON, times in ms.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SHAPE = (4000, 3600, 3600)
VOXEL_SIZE_MM = (0.002, 0.002, 0.002)
CANVAS = (1000, 800)
#: Planes that can be visited, and rows and columns of the window at full resolution.
PLANES, WINDOW = range(2000, 2256), ((1400, 2200), (1300, 2300))


def write_file(path: Path) -> None:
    """A channel as an ingest leaves it, with data only where the benchmark looks."""
    from lsfm_core import Orientation, Space, edit_lsfm
    from lsfm_core.pyramid import plan_levels

    space = Space.from_orientation(SHAPE, VOXEL_SIZE_MM, Orientation("AIR"))
    levels = plan_levels(SHAPE, VOXEL_SIZE_MM, 2)
    rng = np.random.default_rng(0)
    with edit_lsfm(path) as editor:
        writer = editor.create_channel(
            "autofluo", kind="image", dtype=np.uint16, components=1, levels=levels, space=space, compression=1
        )
        for index, plan in enumerate(levels):
            codec = writer.codec(index)
            smooth = sum(np.sin(axis / 9) for axis in np.indices(plan.chunks, sparse=True))
            data = codec.encode((400 + 90 * smooth + rng.normal(0, 12, plan.chunks)).astype(np.uint16))
            box = [(PLANES.start, PLANES.stop), *(WINDOW if index == 0 else ((0, n) for n in SHAPE[1:]))]
            if index == 1:
                continue  # neither zoom shows it
            ranges = [
                range(low // f // c * c, -(-high // f), c) for (low, high), f, c in zip(box, plan.factors, plan.chunks, strict=True)
            ]
            for start in product(*ranges):
                if all(s < n for s, n in zip(start, plan.shape, strict=True)):
                    writer.write_chunk(index, (start[0], start[1], start[2]), data)
        writer.finish(percentiles=(200.0, 700.0), non_finite=0, sources=())


class Clock:
    """How long the GUI thread spends in our reads, and how long it does not come to answer."""

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        from lsfm_core import LazyLevel

        self.reads: list[float] = []
        self.processor: list[float] = []
        self.gaps: list[float] = []
        self._beat = time.perf_counter()
        self._timer = QTimer()
        self._timer.timeout.connect(self._tick)
        self._timer.start(2)
        read = LazyLevel.read

        def timed(level: LazyLevel, **options: Any) -> npt.NDArray[Any]:
            began, used = time.perf_counter(), time.process_time()
            try:
                return read(level, **options)
            finally:
                self.reads.append(time.perf_counter() - began)
                self.processor.append(time.process_time() - used)

        LazyLevel.read = timed  # type: ignore[method-assign]

    def take(self) -> tuple[float, float]:
        """Seconds of reading, and of the processor, since this was asked last."""
        total = sum(self.reads), sum(self.processor)
        self.reads.clear()
        self.processor.clear()
        return total

    def _tick(self) -> None:
        now = time.perf_counter()
        self.gaps.append(now - self._beat)
        self._beat = now


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """In ms."""
    return {f"p{q}": round(float(np.percentile(seconds, q)) * 1000, 1) for q in (50, 95, 100)}


def run(path: Path, asynchronous: bool, moves: int) -> dict[str, Any]:
    """Open the file in a window, and step."""
    import napari
    from napari.settings import get_settings
    from qtpy.QtWidgets import QApplication

    from napari_lsfm._reader import chunk_cache, read_layers

    get_settings().experimental.async_ = asynchronous
    viewer = napari.Viewer(show=True)
    viewer.window.resize(CANVAS[0] + 400, CANVAS[1] + 100)
    canvas = viewer.window._qt_viewer.canvas
    # What napari imports and compiles for its first image is not ours.
    viewer.add_image(np.zeros((2, 9, 9), np.uint16), units="mm")
    settle()
    viewer.layers.clear()
    settle()
    began, used = time.perf_counter(), time.process_time()
    (layer_tuple,) = read_layers(path)
    opened = time.perf_counter() - began
    layer = viewer.add_layer(napari.layers.Layer.create(*layer_tuple))
    canvas.native.repaint()
    QApplication.processEvents()
    first_pixels = time.perf_counter() - began, time.process_time() - used
    # What lies in the file is in the middle.
    viewer.dims.set_current_step(0, PLANES[128])
    viewer.reset_view()
    settle()
    cache = chunk_cache()
    clock = Clock()

    def step(plane: int) -> float:
        began = time.perf_counter()
        viewer.dims.set_current_step(0, plane)
        canvas.native.repaint()
        QApplication.processEvents()
        return time.perf_counter() - began

    rng = np.random.default_rng(1)
    results: dict[str, Any] = {
        "reader": round(opened * 1000),
        "first pixels": round(first_pixels[0] * 1000),
        "first pixels, processor": round(first_pixels[1] * 1000),
    }
    largest = 0
    for zoom, name in ((None, "overview"), (1 / VOXEL_SIZE_MM[1], "full resolution")):
        if zoom is not None:
            centre = [-(SHAPE[1] - sum(WINDOW[0]) / 2) * VOXEL_SIZE_MM[1], sum(WINDOW[1]) / 2 * VOXEL_SIZE_MM[2]]
            viewer.scene.camera.center = (0, *centre)
            viewer.scene.camera.zoom = zoom
            settle()
        depth = layer.data[layer.data_level].chunks[0] * int(layer.downsample_factors[layer.data_level][0])
        results[name] = {"level": int(layer.data_level), "chunk planes": depth}
        for state, places in (
            ("cold", [PLANES[37 * k % len(PLANES)] for k in range(17)]),
            ("warm", [PLANES[0] + (7 * k) % depth for k in range(150)]),
        ):
            step(places[0])
            clock.take()
            times, parts = [], []
            for place in places[1:]:
                if state == "cold":
                    forget(cache)
                times.append(step(place))
                parts.append(clock.take())
            reads, processor = zip(*parts, strict=True)
            results[name][state] = {
                "plane": percentiles(times), "reading": percentiles(reads), "processor": percentiles(processor)
            }  # fmt: skip
    clock.gaps.clear()
    for place in rng.integers(PLANES.start, PLANES.stop, moves):
        viewer.scene.camera.zoom = float(rng.choice([100, 250, 500, 800]))
        step(int(place))
        largest = max(largest, cache.nbytes)
    settle()
    results["random moves"] = {
        "number": moves,
        "cache MiB at most": round(largest / 2**20),
        "cache limit MiB": cache.max_bytes // 2**20,
        "reading": percentiles(clock.reads),
        "silence of the GUI thread": percentiles(clock.gaps),
    }
    viewer.close()
    return results


def forget(cache: Any) -> None:
    """Empty a chunk cache."""
    limit, cache.max_bytes = cache.max_bytes, 0
    cache.put(("nothing",), np.zeros(0, np.uint8))
    cache.max_bytes = limit


def settle() -> None:
    """Let the window do what it has to."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    QTimer.singleShot(700, loop.quit)
    loop.exec()


def main() -> None:
    """Make the file, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the file here, and take it if it is there")
    parser.add_argument("--moves", type=int, default=500)
    parser.add_argument("--async", dest="asynchronous", action="store_true", help="with napari's asynchronous slicing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "napari.yaml")
        path = (options.folder or Path(folder)) / "large.h5"
        if not path.exists():
            write_file(path)
        result = run(path, options.asynchronous, options.moves)
    result["file GB"] = round(float(np.prod(SHAPE)) * 2 / 1e9)
    result["load"] = os.getloadavg()[0]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
