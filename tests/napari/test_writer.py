"""What is saved of a layer, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication, QDialog, QLabel, QPushButton

from lsfm_core import (
    CancelledError,
    IngestRequest,
    LsfmError,
    Orientation,
    edit_lsfm,
    ingest_channel,
    open_lsfm,
    verify_file,
)
from lsfm_core.cli import main
from lsfm_core.testing import PHANTOM_REGIONS, write_phantom_file
from napari_lsfm._reader import read_layers
from napari_lsfm._writer import NotSavedError, write_layers

from .conftest import AXCODES, Specimen, ingest_volume

VOLUME = np.random.default_rng(0).integers(0, 999, (6, 9, 11)).astype(np.uint16)


def save(path: Path, *layers: Layer) -> Path:
    """Save layers as napari does."""
    assert write_layers(str(path), [layer.as_layer_data_tuple() for layer in layers]) == [str(path)]
    return path


def image(data: Any = VOLUME, **keywords: Any) -> Image:
    return Image(data, **{"units": "um", "name": "image", **keywords})


# --- what is kept ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["AIR", "RSP", "LPI"])
def test_a_layer_of_ours_is_saved_as_it_was(tmp_path: Path, specimen: Specimen, stored: str) -> None:
    path = ingest_volume(tmp_path / "brain.h5", "first", specimen.volume[:20])
    turn = specimen.space.reorientation_to(Orientation(stored))
    turned = np.ascontiguousarray(turn.apply(specimen.volume))
    ingest_volume(path, "second", turned, specimen.space.reoriented(turn).voxel_size_mm, stored)
    layers = [Layer.create(*layer) for layer in read_layers(path)]
    assert layers[1].data[0].shape != specimen.volume.shape, "or there is no padding that could be saved"
    copy = save(tmp_path / "copy.h5", *layers)
    with open_lsfm(path) as before, open_lsfm(copy) as after:
        assert list(after) == ["first", "second"]
        for name in after:
            turn = before[name].space.reorientation_to(Orientation(AXCODES))
            assert after[name].space.same_grid(before[name].space.reoriented(turn))
            np.testing.assert_array_equal(after[name].levels[0].data, turn.apply(np.asarray(before[name].levels[0].data)))
            assert after[name].dtype == before[name].dtype


def test_regions_are_saved_with_their_ids_and_names(tmp_path: Path) -> None:
    path = tmp_path / "phantom.h5"
    write_phantom_file(path)
    (layer,) = [Layer.create(*layer) for layer in read_layers(path) if layer[2] == "labels"]
    # As it comes, and as somebody has computed it from what is shown.
    computed = Labels(np.asarray(layer.data), name="computed", units="mm", scale=layer.scale, metadata=layer.metadata)
    layer.name = "copied"
    save(path, layer, computed)
    with open_lsfm(path) as file:
        for name in ("copied", "computed"):
            assert file[name].kind == "labels" and file[name].dtype == np.uint32
            np.testing.assert_array_equal(file[name].levels[0].data, file["regions"].levels[0].data)
            assert file.label_table(name) == PHANTOM_REGIONS.to_json()


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "?"])
def test_every_type_is_kept(tmp_path: Path, dtype: str) -> None:
    volume = (VOLUME % 100).astype(dtype)
    with open_lsfm(save(tmp_path / "brain.h5", image(volume))) as file:
        np.testing.assert_array_equal(file["image"].levels[0].data, volume)
        assert file["image"].dtype == (np.uint8 if dtype == "?" else dtype)


@pytest.mark.parametrize("unit", ["um", "mm", "nm", "micrometer"])
def test_place_and_size_are_kept_in_mm(tmp_path: Path, unit: str) -> None:
    mm = {"mm": 1, "nm": 1e-6}.get(unit, 1e-3)
    angle = np.deg2rad(20)
    rotate = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.array([[1, 0, 0, 1], [0, 1, 0.25, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
    layer = image(scale=(5, 4, 3), translate=(7, 8, 9), rotate=rotate, shear=(0.1, 0, 0.2), affine=affine, units=unit)
    with open_lsfm(save(tmp_path / "brain.h5", layer)) as file:
        space = file["image"].space
    for voxel in np.ndindex(2, 2, 2):
        world = Orientation("AIR").direction @ layer.data_to_world(voxel) * mm
        np.testing.assert_allclose(space.to_world([voxel])[0], world, rtol=1e-9, atol=1e-12)


def test_looks_are_kept(tmp_path: Path) -> None:
    magenta = image(name="m", colormap="magenta", contrast_limits=(10, 700))
    own = image(name="o", colormap="#ff8000")
    path = save(tmp_path / "brain.h5", magenta, own)
    first, second = (Layer.create(*layer) for layer in read_layers(path))
    assert (first.name, first.colormap.name, first.contrast_limits) == ("m", "magenta", [10, 700])
    np.testing.assert_allclose(second.colormap.colors[-1][:3], (1, 128 / 255, 0), atol=1e-6)


def test_of_a_pyramid_the_finest_level_is_saved(tmp_path: Path) -> None:
    layer = image([VOLUME, VOLUME[::2, ::2, ::2]], multiscale=True)
    with open_lsfm(save(tmp_path / "brain.h5", layer)) as file:
        np.testing.assert_array_equal(file["image"].levels[0].data, VOLUME)


def test_a_file_gets_more_channels_while_it_is_shown(tmp_path: Path, specimen_file: Path) -> None:
    path = tmp_path / "brain.h5"
    shutil.copy(specimen_file, path)
    (shown,) = (Layer.create(*layer) for layer in read_layers(path))
    drawn = Labels(np.ones((6, 9, 11), np.int32), name="drawn", units="mm")
    save(path, drawn)
    with open_lsfm(path) as file:
        assert list(file) == ["autofluo", "drawn"]
    assert np.asarray(shown.data[0][70]).any()


# --- which way up ---------------------------------------------------------------------------------------------------------------


def test_a_new_layer_lies_as_those_on_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ingest_volume(tmp_path / "brain.h5", "autofluo", VOLUME, orientation="SPL")
    viewer = ViewerModel()
    viewer.layers.extend(Layer.create(*layer) for layer in read_layers(path))
    monkeypatch.setattr("napari.current_viewer", lambda: viewer)
    with open_lsfm(save(tmp_path / "drawn.h5", Labels(np.ones((6, 9, 11), np.uint8), name="drawn", units="mm"))) as file:
        assert file["drawn"].orientation == Orientation("SPL")


def test_without_a_hint_the_settings_decide(tmp_path: Path, plugin_settings: Any, npe2pm: Any) -> None:
    from napari.settings import get_plugin_settings

    with npe2pm.tmp_plugin(package="napari-lsfm"):
        get_plugin_settings("napari-lsfm").saving.orientation = "LSA"
        path = save(tmp_path / "brain.h5", image())
    with open_lsfm(path) as file:
        # napari's z grows toward left, y toward superior, x toward anterior; its first voxel lies at 0.
        np.testing.assert_allclose(file["image"].space.to_world([(0, 0, 0), (1, 2, 3)]), [(0, 0, 0), (-1e-3, 3e-3, 2e-3)])


@pytest.mark.parametrize(("components", "dtype"), [(3, "uint8"), (4, "uint8"), (3, "uint16"), (2, "float32"), (3, "float32")])
@pytest.mark.parametrize("stored", ["AIR", "RSP"])
def test_components_are_shown_and_saved_as_they_are(tmp_path: Path, components: int, dtype: str, stored: str) -> None:
    path = ingest_volume(tmp_path / "brain.h5", "first", VOLUME)
    voxels = np.random.default_rng(0).integers(0, 200, (300, 5, 6, components)).astype(dtype)
    request = {"voxel_size_mm": (0.001, 0.002, 0.003), "orientation": stored}
    ingest_channel(IngestRequest(path=path, channel="c", image=voxels, kind="components", **request))
    _, *layers = [Layer.create(*layer) for layer in read_layers(path)]
    is_colour = dtype != "float32"
    assert [layer.name for layer in layers] == (["c"] if is_colour else [f"c [{value}]" for value in range(components)])
    assert all(layer.rgb == is_colour for layer in layers)
    with open_lsfm(path) as before, open_lsfm(save(tmp_path / "copy.h5", *layers)) as after:
        turn = before["c"].space.reorientation_to(Orientation(AXCODES))
        expected = turn.apply(voxels)
        for number, layer in enumerate(layers):
            assert after[layer.name].space.same_grid(before["c"].space.reoriented(turn))
            assert after[layer.name].kind == ("components" if is_colour else "image")
            np.testing.assert_array_equal(after[layer.name].levels[0], expected if is_colour else expected[..., number])
            if is_colour:
                shown = np.asarray(layer.data[0])
                assert shown.dtype == np.uint8


def test_colours_of_a_new_layer(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (5, 6, 7, 3)).astype(np.uint8)
    with open_lsfm(save(tmp_path / "a.h5", image(colours, rgb=True, scale=(5, 4, 3)))) as file:
        assert file["image"].kind == "components"
        assert file["image"].space.voxel_size_mm == pytest.approx((0.005, 0.004, 0.003))
        np.testing.assert_array_equal(file["image"].levels[0], colours)


def test_each_moment_becomes_a_channel(tmp_path: Path) -> None:
    movie = np.random.default_rng(0).integers(0, 255, (3, 5, 6, 7)).astype(np.uint8)
    layer = image(movie, scale=(9, 5, 4, 3), translate=(7, 1000, 2000, 3000), units=("s", "um", "um", "um"))
    with open_lsfm(save(tmp_path / "a.h5", layer)) as file:
        assert list(file) == ["image_t000", "image_t001", "image_t002"]
        for index, channel in enumerate(file.channels.values()):
            np.testing.assert_array_equal(channel.levels[0], movie[index])
            assert channel.space.voxel_size_mm == pytest.approx((0.005, 0.004, 0.003))
            assert sorted(np.abs(channel.space.world_from_voxel[:3, 3])) == pytest.approx([1, 2, 3])


@pytest.mark.parametrize("rgb", [False, True])
def test_a_plane_becomes_a_volume_of_one(rgb: bool, tmp_path: Path) -> None:
    plane = np.random.default_rng(0).integers(0, 255, (6, 7, 3) if rgb else (6, 7)).astype(np.uint8)
    layer = image(plane, scale=(4, 3), units="um", rgb=rgb)
    with open_lsfm(save(tmp_path / "a.h5", layer)) as file:
        np.testing.assert_array_equal(file["image"].levels[0], plane[None])
        assert file["image"].space.voxel_size_mm == pytest.approx((0.004, 0.004, 0.003))


# --- what is refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (image(np.zeros((2, 2, 5, 6, 7), np.uint8)), "has 5 axes"),
        (image(units="pixel"), "no lengths"),
        (image(units="s"), "no lengths"),
        (Labels(np.full((5, 6, 7), -3, np.int16), name="image", units="um"), "label -3"),
        (image(name=" blank"), "blanks at the ends"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_be_lost_is_refused(tmp_path: Path, layer: Layer, message: str) -> None:
    with pytest.raises(LsfmError, match=message):
        save(tmp_path / "brain.h5", layer)
    assert not list(tmp_path.iterdir())


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    # napari itself cannot show them, but other plugins may hand them in.
    with pytest.raises(NotSavedError, match="complex64"):
        write_layers(tmp_path / "brain.h5", [(np.zeros((5, 6, 7), np.complex64), {"name": "image", "units": ("um",) * 3}, "image")])


def test_no_channel_is_replaced(tmp_path: Path, specimen_file: Path) -> None:
    path = tmp_path / "brain.h5"
    shutil.copy(specimen_file, path)
    before = path.read_bytes()
    with pytest.raises(NotSavedError, match="two channels 'autofluo': rename the layer"):
        save(path, image(name="new"), image(name="autofluo"))
    with pytest.raises(NotSavedError, match="two channels 'twin'"):
        save(path, image(name="twin"), image(name="twin"))
    assert path.read_bytes() == before


def test_numbers_that_stand_for_no_region_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "phantom.h5"
    write_phantom_file(path)
    (layer,) = [Layer.create(*layer) for layer in read_layers(path) if layer[2] == "labels"]
    computed = np.asarray(layer.data)
    computed[3, 4, 5] = 99
    with pytest.raises(LsfmError, match="99, which stands for no region"):
        save(tmp_path / "copy.h5", Labels(computed, name="x", units="mm", metadata=layer.metadata))


def test_layers_that_lie_in_different_ways_are_refused(tmp_path: Path) -> None:
    layers = []
    for axcodes in ("AIR", "LPS"):
        path = ingest_volume(tmp_path / f"{axcodes}.h5", axcodes, VOLUME, orientation=axcodes)
        layers += [Layer.create(*layer) for layer in read_layers(path)]
    with pytest.raises(NotSavedError, match="lie in different ways"):
        save(tmp_path / "both.h5", *layers)


# --- through npe2 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".h5", ".hdf5"])
def test_napari_finds_the_writer(tmp_path: Path, npe2pm: Any, suffix: str) -> None:
    viewer = ViewerModel()
    viewer.add_layer(image())
    viewer.add_layer(Labels(np.ones((6, 9, 11), np.uint8), name="labels", units="um"))
    path = tmp_path / f"brain{suffix}"
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        assert viewer.layers.save(str(path)) == [str(path)]
        # napari takes a ValueError of a writer for the lack of one, and would say only that.
        with pytest.raises(NotSavedError, match="two channels"):
            viewer.layers.save(str(path))
        viewer.add_points(np.zeros((1, 3)))
        with pytest.warns(UserWarning, match="No data written"):
            assert not viewer.layers.save(str(tmp_path / "points.h5"))
    with edit_lsfm(path) as file:
        assert [(channel.name, channel.kind) for channel in file.channels.values()] == [("image", "image"), ("labels", "labels")]


# --- in a window ----------------------------------------------------------------------------------------------------------------

needs_display = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)


class Slow:
    """A volume whose planes take a while, and which tells when one is asked for."""

    dtype, ndim = np.dtype(np.uint16), 3

    def __init__(self, asked: threading.Event, planes: int) -> None:
        self._asked = asked
        self.shape = (planes, 30, 40)

    def __getitem__(self, index: Any) -> Any:
        self._asked.set()
        time.sleep(0.02)
        return np.full(self.shape, 7, np.uint16)[index]


def slow_layer(asked: threading.Event, name: str, planes: int = 50) -> Any:
    meta = {"name": name, "scale": (1, 1, 1), "translate": (0, 0, 0), "units": ("um",) * 3}
    return Slow(asked, planes), meta, "image"


def during_save(action: Callable[[QDialog], None], asked: threading.Event) -> QTimer:
    """Do something with the dialog, once it is there and planes are being read."""
    timer = QTimer(QApplication.instance())

    def look() -> None:
        dialog = QApplication.activeModalWidget()
        if isinstance(dialog, QDialog) and dialog.isVisible() and asked.is_set():
            timer.stop()
            action(dialog)

    timer.timeout.connect(look)
    timer.start(20)
    return timer


@needs_display
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("how", ["button", "close", "escape"])
def test_a_save_that_is_cancelled_leaves_the_file_as_it_was(
    make_napari_viewer: Any, qtbot: QtBot, tmp_path: Path, existing: bool, how: str
) -> None:
    make_napari_viewer(show=True)
    path = tmp_path / "brain.h5"
    if existing:
        save(path, image(name="before"))
    asked = threading.Event()
    seen = []

    def cancel(dialog: QDialog) -> None:
        seen.append(dialog.windowTitle())
        (stop,) = (button for button in dialog.findChildren(QPushButton) if button.text() == "Cancel")
        if how == "button":
            qtbot.mouseClick(stop, Qt.MouseButton.LeftButton)
        elif how == "close":
            dialog.close()
        else:
            qtbot.keyClick(dialog, Qt.Key.Key_Escape)

    # The first one is written when the second one is stopped.
    layers = [image(name="first").as_layer_data_tuple(), slow_layer(asked, "second")]
    timer = during_save(cancel, asked)
    with pytest.raises(CancelledError):
        write_layers(path, layers)
    assert seen == ["Save brain.h5"] and not timer.isActive()
    if existing:
        with open_lsfm(path) as file:
            assert list(file) == ["before"]
        assert not verify_file(path).defects
    else:
        assert not list(tmp_path.iterdir())


@needs_display
@pytest.mark.bindings
def test_the_window_lives_while_layers_are_saved(make_napari_viewer: Any, tmp_path: Path) -> None:
    make_napari_viewer(show=True)
    asked, texts, turns = threading.Event(), [], []
    beat = QTimer()

    def tick() -> None:
        if asked.is_set():
            turns.append(None)
        dialog = QApplication.activeModalWidget()
        if dialog is not None:
            texts.extend(label.text() for label in dialog.findChildren(QLabel))

    beat.timeout.connect(tick)
    beat.start(10)
    assert write_layers(tmp_path / "brain.h5", [slow_layer(asked, "slow", 200)]) == [str(tmp_path / "brain.h5")]
    assert any(text.startswith("slow: ") for text in texts), "how far it is"
    # Without a thread it would stand still for all of it, and the timer would have no turn.
    assert len(turns) > 20
    with open_lsfm(tmp_path / "brain.h5") as file:
        assert (np.asarray(file["slow"].levels[0].data) == 7).all()


def test_a_save_that_fails_takes_back_what_it_wrote(tmp_path: Path) -> None:
    bad = Labels(np.array([[[0, 1], [2, -3]]], np.int32), name="bad", units="mm")
    with pytest.raises(NotSavedError, match="-3"):
        save(tmp_path / "brain.h5", image(), bad)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("existing", [False, True])
def test_a_save_that_is_killed_leaves_no_layer_without_the_others(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "brain.h5"
    if existing:
        save(path, image(name="before"))
    script = f"""
import os, signal, sys
import numpy as np
from napari_lsfm._writer import write_layers

class Killer:
    shape, ndim, dtype, size = (3, 4, 5), 3, np.dtype(np.uint8), 60
    def __getitem__(self, index):
        if index[0] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.ones((4, 5), np.uint8)

def meta(name):
    return {{"name": name, "units": ("mm",) * 3}}

write_layers({str(path)!r}, [(np.ones((3, 4, 5), np.uint8), meta("first"), "image"), (Killer(), meta("second"), "image")])
"""
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert child.returncode == -9, child.stderr
    assert main(["recover", str(tmp_path), "--quiet"]) == 0
    if existing:
        with open_lsfm(path) as file:
            assert list(file) == ["before"]
        assert not verify_file(path).defects
    else:
        assert not path.exists()
    layers = [image(name=name) for name in ("first", "second")]
    save(path, *layers)
    with open_lsfm(path) as file:
        assert list(file) == ["before"] * existing + ["first", "second"]


def test_without_qt_a_save_is_simply_done(tmp_path: Path) -> None:
    """As npe2 calls it in a script: nothing of Qt is imported."""
    script = f"""
import sys
import numpy as np
from napari_lsfm._writer import NotSavedError, write_layers
meta = {{"name": "image", "scale": (1, 1, 1), "units": ("um",) * 3, "metadata": {{"lsfm": {{"axcodes": "AIR"}}}}}}
print(write_layers({str(tmp_path / "brain.h5")!r}, [(np.ones((3, 4, 5), np.uint8), meta, "image")]))
assert not any(name.startswith(("PyQt6", "PySide6")) for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "brain.h5" in done.stdout
