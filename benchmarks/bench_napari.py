"""A file of 100 GB in napari's window: ``python bench_napari.py [--folder FOLDER]``, under a screen or xvfb-run.

With ``--forms`` the forms only: how long it takes to open each, and how they keep the window waiting at work.

The file is as large as it says, but most of its chunks were never written: only those around the places that are visited hold
tissue and noise. The same moves are made on an image of the same levels that lies in memory, which is napari's own floor, and
ingest and export are run by their forms. Prints tables in Markdown, times in ms; docs/performance.md tells what the rows mean.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
#: How long somebody looks at each plane who browses; one that takes longer to come is late.
STEP_S = 0.1
#: What a user notices.
LONG_S = 0.05
#: How often the GUI thread is looked at, and what stands in the paths of our code.
SAMPLE_S, OURS = 0.004, ("/lsfm_core/", "/napari_lsfm/")
#: Between two keys that are pressed.
KEY_MS = 20
#: By their names in the menus, and how often each is opened.
FORMS, OPENINGS = ("Import an image", "Export", "Points", "Regions", "Information and log", "This level as a plain layer"), 5
#: Of the image that is ingested and exported.
SERIES = (120, 1000, 1200)


LONG = f"> {LONG_S * 1000:.0f}"
SILENCES = ("silence of the window", "p95", "longest", LONG, "longest on the processor", LONG, "longest of ours", LONG)


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
    """How long reads take, how long the GUI thread does not come to answer, and in whose code it is meanwhile."""

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        from lsfm_core import LazyLevel

        self.reads: list[float] = []
        self.processor: list[float] = []
        #: Each silence; what the processor did for the window meanwhile, and how much of that was ours.
        self.silences: list[tuple[float, float, float]] = []
        self._beat, self._used = time.perf_counter(), time.thread_time()
        self._samples: list[bool] = []
        self._timer = QTimer()
        self._timer.timeout.connect(self._tick)
        self._timer.start(2)
        threading.Thread(target=self._watch, args=(threading.get_ident(),), daemon=True).start()
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
        now, used = time.perf_counter(), time.thread_time()
        samples, self._samples = self._samples, []
        busy = used - self._used
        self.silences.append((now - self._beat, busy, busy * sum(samples) / max(1, len(samples))))
        self._beat, self._used = now, used

    def _watch(self, thread: int) -> None:
        """Look, again and again, which of both programs the GUI thread is in: the one that was called last."""
        while True:
            time.sleep(SAMPLE_S)
            frame = sys._current_frames().get(thread)
            while frame is not None and not any(part in frame.f_code.co_filename for part in ("lsfm", "/napari/", "/vispy/")):
                frame = frame.f_back
            self._samples.append(
                frame is not None and any(part in frame.f_code.co_filename for part in ("lsfm_core", "napari_lsfm"))
            )

    @contextmanager
    def listening(self, row: str, rows: list[list[str]]) -> Iterator[None]:
        """Add a row about the silences within the block."""
        settle(50)
        self.silences.clear()
        yield
        settle(50)
        silences, busy, ours = np.array(self.silences).T
        usual = np.percentile(silences[silences > SAMPLE_S], 95)
        counts = [str((each > LONG_S).sum()) for each in (silences, busy, ours)]
        rows.append([row, ms(usual), ms(silences.max()), counts[0], ms(busy.max()), counts[1], ms(ours.max()), counts[2]])


class Shown:
    """A layer in a window, and how one moves in it."""

    def __init__(self, viewer: Any, layer: Any) -> None:
        self.viewer, self.layer = viewer, layer
        self._canvas = viewer.window._qt_viewer.canvas.native

    def look(self, zoom: float | None) -> None:
        """All of the plane, or the window at full resolution."""
        self.viewer.dims.set_current_step(0, PLANES[128])
        if zoom is None:
            self.viewer.reset_view()
        else:
            centre = [-(SHAPE[1] - sum(WINDOW[0]) / 2) * VOXEL_SIZE_MM[1], sum(WINDOW[1]) / 2 * VOXEL_SIZE_MM[2]]
            self.viewer.scene.camera.center = (0, *centre)
            self.viewer.scene.camera.zoom = zoom
        settle()

    @property
    def depth(self) -> int:
        """Planes that lie in the same chunks."""
        level = self.layer.data_level
        return int(getattr(self.layer.data[level], "chunks", (64,))[0] * self.layer.downsample_factors[level][0])

    def step(self, plane: int) -> float:
        """Seconds until a plane is drawn."""
        from qtpy.QtWidgets import QApplication

        began = time.perf_counter()
        self.viewer.dims.set_current_step(0, plane)
        while not self.layer.loaded:
            settle(1)
        self._canvas.repaint()
        QApplication.processEvents()
        return time.perf_counter() - began


def planes(shown: Shown, clock: Clock, cache: Any, name: str, rows: list[list[str]]) -> None:
    """Planes that are decoded already, and such that are not, at both zooms."""
    for zoom, view in ((None, "overview"), (1 / VOXEL_SIZE_MM[1], "full resolution")):
        shown.look(zoom)
        for state, places in (
            ("cold", [PLANES[37 * k % len(PLANES)] for k in range(33)]),
            ("warm", [PLANES[0] + (7 * k) % shown.depth for k in range(150)]),
        ):
            if state == "cold" and cache is None:
                continue  # what lies in memory is never cold
            # Warm planes may lie in two layers of chunks.
            for place in (max(places), places[0]):
                shown.step(place)
            settle(100)
            clock.take()
            times, parts = [], []
            for place in places[1:]:
                if state == "cold":
                    forget(cache)
                times.append(shown.step(place))
                parts.append(clock.take())
            reads, processor = zip(*parts, strict=True)
            rows.append([f"{name}, {view}, {state}", *spread(times), *spread(reads), ms(np.median(processor))])


def browse(shown: Shown, cache: Any, name: str, rows: list[list[str]]) -> None:
    """Step slowly through three layers of chunks."""
    shown.look(1 / VOXEL_SIZE_MM[1])
    if cache is not None:
        forget(cache)
    times = []
    shown.step(PLANES[0])
    start = time.perf_counter()
    for count, plane in enumerate(PLANES[1 : 3 * shown.depth], 1):
        due = start + count * STEP_S
        settle(max(0.0, due - time.perf_counter()) * 1000)
        shown.step(plane)
        times.append(time.perf_counter() - due)
    rows.append([name, str(len(times)), str(sum(t > STEP_S for t in times)), *spread(times)])


def jump(shown: Shown, cache: Any, moves: int) -> int:
    """Look at random places at random zooms, without a pause; gives the most that the cache held."""
    from qtpy.QtWidgets import QApplication

    rng, largest = np.random.default_rng(1), 0
    shown.look(1 / VOXEL_SIZE_MM[1])
    for place in rng.integers(PLANES.start, PLANES.stop, moves):
        shown.viewer.scene.camera.zoom = float(rng.choice([100, 250, 500, 800]))
        shown.viewer.dims.set_current_step(0, int(place))
        QApplication.processEvents()
        largest = max(largest, 0 if cache is None else cache.nbytes)
    return largest


def run(path: Path, moves: int, folder: Path) -> None:
    """Open the file in a window, move, and print the tables."""
    import napari
    from napari.settings import get_settings
    from qtpy.QtWidgets import QApplication

    from napari_lsfm._reader import chunk_cache, read_layers

    viewer = napari.Viewer(show=True)
    viewer.window.resize(CANVAS[0] + 400, CANVAS[1] + 100)
    # What napari imports and compiles for its first image is not ours.
    viewer.add_image(np.zeros((2, 9, 9), np.uint16), units="mm")
    settle()
    viewer.layers.clear()
    settle()
    began, used = time.perf_counter(), time.process_time()
    ((data, keywords, kind),) = read_layers(path)
    opened = time.perf_counter() - began
    shown = Shown(viewer, viewer.add_layer(napari.layers.Layer.create(data, keywords, kind)))
    viewer.window._qt_viewer.canvas.native.repaint()
    QApplication.processEvents()
    first = time.perf_counter() - began, time.process_time() - used
    cache, clock = chunk_cache(), Clock()
    drawn, slow, quiet = [], [], []
    largest = 0
    planes(shown, clock, cache, "ours", drawn)
    for in_background in (False, True):
        get_settings().experimental.async_ = in_background
        name = "ours, in the background" if in_background else "ours"
        with clock.listening(f"{name}: browsing", quiet):
            browse(shown, cache, name, slow)
        with clock.listening(f"{name}: {moves} random moves", quiet):
            largest = max(largest, jump(shown, cache, moves))
    get_settings().experimental.async_ = False
    viewer.layers.clear()
    # Of one plane each, again and again: 100 GB would not fit.
    noise = np.random.default_rng(2)
    peer = [np.broadcast_to(noise.integers(300, 700, level.shape[1:], np.uint16), level.shape) for level in data]
    shown = Shown(viewer, viewer.add_layer(napari.layers.Layer.create(peer, keywords | {"metadata": {}}, kind)))
    planes(shown, clock, None, "numpy", drawn)
    with clock.listening("numpy: browsing", quiet):
        browse(shown, None, "numpy", slow)
    with clock.listening(f"numpy: {moves} random moves", quiet):
        jump(shown, None, moves)
    viewer.layers.clear()
    del peer, shown
    opened_forms = open_forms(viewer, folder)
    forms(viewer, clock, folder, quiet)
    viewer.close()
    size = round(float(np.prod(SHAPE)) * 2 / 1e9)
    print(f"{size} GB opened in {ms(opened)} ms; first pixels after {ms(first[0])} ms, {ms(first[1])} of the processor's.")
    print(f"The cache held {largest >> 20} MiB at most, its limit is {cache.max_bytes >> 20}. Load {os.getloadavg()[0]:.1f}.\n")
    table(["plane", "p50", "p95", "longest", "reading p50", "p95", "longest", "processor p50"], drawn)
    table([f"browsing, {1 / STEP_S:.0f} planes a second", "planes", "late", "p50", "p95", "longest"], slow)
    table(SILENCES, quiet)
    table(["a form is opened, processor", "first", "p50 of the others", "longest", "p50 of our part"], opened_forms)


def run_forms(folder: Path) -> None:
    """Open the forms, let them work, and print the tables."""
    import napari

    viewer, quiet = napari.Viewer(show=True), []
    settle()
    opened_forms = open_forms(viewer, folder)
    forms(viewer, Clock(), folder, quiet)
    viewer.close()
    print(f"Load {os.getloadavg()[0]:.1f}.\n")
    table(SILENCES, quiet)
    table(["a form is opened, processor", "first", "p50 of the others", "longest", "p50 of our part"], opened_forms)


def open_forms(viewer: Any, folder: Path) -> list[list[str]]:
    """Open each form several times beside an image, and say how long the processor takes until it is drawn."""
    from lsfm_core.testing import write_phantom_file
    from napari_lsfm._reader import read_layers

    path, rows = folder / "phantom.h5", []
    write_phantom_file(path)
    for data, keywords, kind in read_layers(path):
        getattr(viewer, f"add_{kind}")(data, **keywords)
    settle(3000)
    for name in FORMS:
        times, ours, make = [], [], None
        for _ in range(OPENINGS):
            began = time.thread_time()
            if make is None:
                dock, form = viewer.window.add_plugin_dock_widget("napari-lsfm", name)
                make = type(form)
            else:
                form = make(viewer)
                ours.append(time.thread_time() - began)
                # Of which napari's dock takes its share, with the settings that it stores.
                dock = viewer.window.add_dock_widget(form, name=name)
            form.native.grab()
            times.append(time.thread_time() - began)
            settle(1000)
            viewer.window.remove_dock_widget(dock)
            settle(200)
        rows.append([name, ms(times[0]), ms(np.median(times[1:])), ms(max(times[1:])), ms(np.median(ours))])
    viewer.layers.clear()
    settle()
    return rows


def forms(viewer: Any, clock: Clock, folder: Path, rows: list[list[str]]) -> None:
    """Ingest a series, and export what came of it, by the forms."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    from lsfm_core.testing import write_series
    from napari_lsfm._widgets.forms.export import ExportForm
    from napari_lsfm._widgets.forms.ingest import IngestForm

    smooth = sum(np.sin(axis / 40) for axis in np.indices(SERIES, np.float32, sparse=True))
    series = write_series(folder / "series", (400 + 90 * smooth).astype(np.uint16))
    target = folder / "ingested.h5"
    ingest = IngestForm(viewer)
    viewer.window.add_dock_widget(ingest, area="right")
    settle()
    with clock.listening(f"ingest of {np.prod(SERIES) * 2 / 1e6:.0f} MB", rows):
        texts = [
            (ingest.image.edit, str(series)),
            (ingest.orientation.native.toward, "AIR"),
            (ingest.path.edit, str(target)),
            (ingest.channel.native, "x"),
        ]
        for field, text in (*texts, *((edit, "0.005") for edit in ingest.voxel_size_mm.edits)):
            QTest.keyClicks(field, text, Qt.KeyboardModifier.NoModifier, KEY_MS)
        wait_for(ingest.button.isEnabled)
        ingest.button.click()
        wait_for(lambda: not ingest.panel.is_busy and bool(viewer.layers))
    viewer.window.remove_dock_widget(ingest.native)
    export = ExportForm(viewer)
    viewer.window.add_dock_widget(export, area="right")
    settle()
    with clock.listening("export of the same", rows):
        QTest.keyClicks(export.output.edit, str(folder / "exported.nii"), Qt.KeyboardModifier.NoModifier, KEY_MS)
        wait_for(export.button.isEnabled)
        export.button.click()
        wait_for(lambda: not export.panel.is_busy)
    assert (folder / "exported.nii").stat().st_size > np.prod(SERIES) * 2
    viewer.window.remove_dock_widget(export.native)
    settle()


def ms(seconds: float) -> str:
    """In ms, with as many digits as are good for anything."""
    return f"{seconds * 1000:.1f}" if seconds < 0.01 else f"{seconds * 1000:.0f}"


def spread(seconds: Sequence[float]) -> list[str]:
    """Half are shorter, 95 % are, all are."""
    return [ms(float(np.percentile(seconds, q))) for q in (50, 95, 100)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print it in Markdown."""
    for cells in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(cells)} |")
    print()


def forget(cache: Any) -> None:
    """Empty a chunk cache."""
    with cache.limited(0):
        pass


def settle(milliseconds: float = 700) -> None:
    """Let the window do what it has to."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    QTimer.singleShot(round(milliseconds), loop.quit)
    loop.exec()


def wait_for(condition: Callable[[], bool]) -> None:
    """Let the window live until something is so."""
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        settle(20)


def main() -> None:
    """Make the file, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the file here, and take it if it is there")
    parser.add_argument("--moves", type=int, default=500)
    parser.add_argument("--forms", action="store_true", help="the forms only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "napari.yaml")
        if options.forms:
            run_forms(Path(folder))
            return
        path = (options.folder or Path(folder)) / "large.h5"
        if not path.exists():
            write_file(path)
        run(path, options.moves, Path(folder))


if __name__ == "__main__":
    main()
