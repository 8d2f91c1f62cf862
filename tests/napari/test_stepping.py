"""Going through planes in napari: none is waited for, however a layer lies, and those read in the background do not pile up."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import napari
import npy2bdv
import numpy as np
import pytest
from napari._app_model import get_app_model
from napari.components import ViewerModel
from napari.layers import Layer
from napari.settings import get_settings
from napari.utils.notifications import Notification, notification_manager
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QApplication

from lsfm_core import ChunkCache, IngestRequest, LazyLevel, edit_lsfm, ingest_channel
from lsfm_core.arrays import stored
from lsfm_core.testing import PHANTOM_REGIONS
from napari_lsfm import _reader
from napari_lsfm._reader import read_layers
from napari_lsfm._settings import Settings

from .conftest import ingest_volume

window = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)

SHAPE = (80, 90, 100)


@pytest.fixture(scope="module")
def volume() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.uint16)


@pytest.fixture(scope="module")
def ours(volume: np.ndarray[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image, one that lies otherwise, and labels with large ids."""
    path = ingest_volume(tmp_path_factory.mktemp("ours") / "brain.h5", "autofluo", volume)
    ingest_volume(path, "turned", np.ascontiguousarray(volume[::-1].transpose(2, 0, 1)), (0.04, 0.05, 0.04), "RPI")
    ids = np.array([0, *PHANTOM_REGIONS], np.uint32)[volume % (len(PHANTOM_REGIONS) + 1)]
    ingest_channel(
        IngestRequest(path=path, channel="regions", image=ids, kind="labels", voxel_size_mm=(0.05, 0.04, 0.04), orientation="AIR")
    )
    with edit_lsfm(path) as editor:
        editor.set_label_table("regions", PHANTOM_REGIONS.to_json())
    return path


@pytest.fixture(scope="module")
def movie(volume: np.ndarray[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("movie") / "movie.h5"
    writer = npy2bdv.BdvWriter(str(path), subsamp=((1, 1, 1),), blockdim=((8, 32, 32),), compression="gzip")
    for moment in range(2):
        writer.append_view(volume + moment, time=moment, voxel_size_xyz=(4, 4, 5), voxel_units="um")
    writer.write_xml()
    writer.close()
    return path


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> ChunkCache:
    """The reader's cache, empty."""
    fresh = ChunkCache(reads_ahead=True)
    monkeypatch.setattr(_reader, "chunk_cache", lambda: fresh)
    return fresh


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many chunks each read had to wait for."""
    counts: list[int] = []
    share_out = stored.share_out

    def counting(work: Callable[[Any], object], items: list[Any]) -> None:
        counts.append(len(items))
        share_out(work, items)

    monkeypatch.setattr(stored, "share_out", counting)
    return counts


def settle(cache: ChunkCache) -> None:
    """What happens while somebody looks at a plane."""
    assert cache.ahead is not None
    # Only so that a hang ends some day: a busy machine may take its time.
    until = time.monotonic() + 300
    while cache.ahead._is_at_work:
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", ["autofluo", "turned", "regions", "movie"])
def test_stepping_waits_for_the_first_plane_only(
    name: str,
    axis: int,
    backward: bool,
    ours: Path,
    movie: Path,
    volume: np.ndarray[Any, Any],
    reading: ChunkCache,
    waited: list[int],
) -> None:
    tuples = read_layers(movie) if name == "movie" else [layer for layer in read_layers(ours) if layer[1]["name"] == name]
    (layer,) = [Layer.create(*layer) for layer in tuples]
    viewer = ViewerModel()
    viewer.add_layer(layer)
    axis += layer.ndim - 3
    viewer.dims.order = (
        *(k for k in range(layer.ndim) if k < layer.ndim - 3),
        axis,
        *({*range(layer.ndim - 3, layer.ndim)} - {axis}),
    )
    count = SHAPE[axis - layer.ndim + 3]
    planes = range(count - 1, -1, -1) if backward else range(count)
    for at in range(2 if name == "movie" else 1):
        if name == "movie":
            viewer.dims.set_current_step(0, at)
        viewer.dims.set_current_step(axis, planes[0])
        settle(reading)
        waited.clear()
        for plane in planes[1:]:
            viewer.dims.set_current_step(axis, plane)
            shown = np.asarray(layer._slice.image.raw)
            wanted = volume.take(plane, axis=axis - layer.ndim + 3)
            if name == "regions":
                wanted = np.append(0, np.arange(1, len(PHANTOM_REGIONS) + 1))[wanted % (len(PHANTOM_REGIONS) + 1)]
            np.testing.assert_array_equal(shown, wanted + (at if name == "movie" else 0))
            settle(reading)
        assert not waited


# --- planes read in the background ----------------------------------------------------------------------------------------------


@dataclass
class Reads:
    """The threads in which planes are read; in the background that takes until it is allowed."""

    threads: list[threading.Thread]
    allowed: threading.Event


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    reads, read = Reads([], threading.Event()), LazyLevel.read
    reads.allowed.set()

    def noting(self: LazyLevel, **options: Any) -> Any:
        reads.threads.append(threading.current_thread())
        assert threading.current_thread() is threading.main_thread() or reads.allowed.wait(10)
        return read(self, **options)

    monkeypatch.setattr(LazyLevel, "read", noting)
    return reads


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., napari.Viewer], npe2pm: Any) -> Iterator[napari.Viewer]:
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        yield make_napari_viewer(show=True)


@pytest.fixture
def told() -> Iterator[list[Notification]]:
    """What napari says meanwhile."""
    notification_manager.records.clear()
    with notification_manager:
        yield notification_manager.records


def toggle(viewer: napari.Viewer) -> None:
    get_app_model().commands.execute_command("napari-lsfm.read_in_background").result()


@window
def test_the_window_goes_on_while_planes_are_read(
    viewer: napari.Viewer,
    ours: Path,
    volume: np.ndarray[Any, Any],
    reads: Reads,
    told: list[Notification],
    qtbot: QtBot,
) -> None:
    toggle(viewer)
    assert get_settings().experimental.async_
    assert "Render Layers Asynchronously" in told[-1].message
    layer = viewer.add_layer(Layer.create(*read_layers(ours)[0]))
    qtbot.waitUntil(lambda: layer.loaded)
    reads.threads.clear()
    reads.allowed.clear()
    for plane in range(10, 60):
        viewer.dims.set_current_step(0, plane)
        QApplication.processEvents()
    reads.allowed.set()
    qtbot.waitUntil(lambda: layer.loaded)
    assert len(reads.threads) <= 2, "planes that were passed meanwhile are not read any more"
    assert threading.main_thread() not in reads.threads
    np.testing.assert_array_equal(layer._slice.image.raw, volume[59])
    toggle(viewer)
    assert not get_settings().experimental.async_
    reads.threads.clear()
    viewer.dims.set_current_step(0, 3)
    assert {*reads.threads} == {threading.main_thread()}


@window
def test_the_viewer_may_be_closed_while_a_plane_is_read(
    make_napari_viewer: Callable[..., napari.Viewer],
    ours: Path,
    reads: Reads,
    told: list[Notification],
    qtbot: QtBot,
) -> None:
    get_settings().experimental.async_ = True
    viewer = make_napari_viewer(show=True)
    viewer.add_layer(Layer.create(*read_layers(ours)[0]))
    reads.threads.clear()
    reads.allowed.clear()
    for plane in range(10, 14):
        viewer.dims.set_current_step(0, plane)
    qtbot.waitUntil(lambda: bool(reads.threads))
    threading.Timer(0.2, reads.allowed.set).start()
    viewer.close()
    qtbot.wait(300)
    assert not told
    assert not reads.threads[-1].is_alive()


def test_it_is_told_once_how_the_window_need_not_wait(
    monkeypatch: pytest.MonkeyPatch, ours: Path, tmp_path: Path, told: list[Notification]
) -> None:
    monkeypatch.setattr(_reader, "_tell_of_background", cache(_reader._tell_of_background.__wrapped__))
    monkeypatch.setattr(_reader, "current_settings", lambda: Settings(cache_mib=1))
    viewer = ViewerModel()
    monkeypatch.setattr(napari, "current_viewer", lambda: viewer)
    small = ingest_volume(tmp_path / "small.h5", "small", np.zeros((5, 5, 5), np.uint16))
    read_layers(small)
    assert not told
    for _ in range(2):
        read_layers(ours)
    assert ["Read planes in the background" in notification.message for notification in told] == [True]
