"""A level of a layer as an ordinary layer: what plugins get that know nothing of several resolutions."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array
import napari
import numpy as np
import pytest
from napari.layers import Image, Labels, Layer
from pytestqt.qtbot import QtBot

from lsfm_core import InputError, LabelTable, MemoryBudgetError, open_lsfm
from lsfm_core.testing import write_phantom_file
from napari_lsfm._plain import plain_levels, plain_piece
from napari_lsfm._reader import read_layers
from napari_lsfm._widgets.forms.plain import PlainLayerForm

from .conftest import Specimen, ingest_volume

NEEDS_DISPLAY = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)


@pytest.fixture
def image(specimen_file: Path) -> Layer:
    """The specimen, of two levels, padded at their far edges."""
    return Layer.create(*read_layers(specimen_file)[0])


def mean_of_blocks(volume: Any, factors: tuple[int, int, int]) -> Any:
    """Brute force: of whole blocks only."""
    shape = [n // f for n, f in zip(volume.shape, factors, strict=True)]
    whole = volume[tuple(slice(n * f) for n, f in zip(shape, factors, strict=True))].astype(float)
    a, b, c = shape
    return whole.reshape(a, factors[0], b, factors[1], c, factors[2]).mean(axis=(1, 3, 5))


def test_the_finest_level_is_what_was_stored(image: Layer, specimen: Specimen) -> None:
    assert plain_levels(image)[0] == specimen.volume.shape
    piece = plain_piece(image)
    assert piece.nbytes == specimen.volume.nbytes
    for made in (piece.lazy(), piece.loaded()):
        layer = Layer.create(*made)
        assert isinstance(layer, Image) and not layer.multiscale and layer.name == "autofluo (level 0)"
        assert layer.data.shape == specimen.volume.shape and layer.data.dtype == np.uint16
        np.testing.assert_array_equal(np.asarray(layer.data), specimen.volume)
        np.testing.assert_allclose(layer.scale, (0.05, 0.04, 0.04))
        assert [str(unit) for unit in layer.units] == ["millimeter"] * 3 and layer.axis_labels == ("z", "y", "x")
        start = [first for first, _ in image.metadata["lsfm"]["box"]]
        np.testing.assert_allclose(layer.data_to_world((3, 4, 5)), image.data_to_world(np.add(start, (3, 4, 5))))
        assert layer.metadata["lsfm"] == {"kind": "image", "axcodes": "AIR"}
        assert layer.contrast_limits == image.contrast_limits and layer.colormap.name == image.colormap.name


def test_it_does_what_other_plugins_do_with_an_array(image: Layer, specimen: Specimen) -> None:
    data = plain_piece(image).lazy()[0]
    assert isinstance(data, dask.array.Array)
    assert len(data) == len(specimen.volume)
    np.testing.assert_array_equal(np.asarray(data[17]), specimen.volume[17])
    np.testing.assert_array_equal(data.squeeze().copy()[::8, ::8, ::8].compute(), specimen.volume[::8, ::8, ::8])
    np.testing.assert_array_equal(data[10:12].astype(np.float32).compute(), specimen.volume[10:12].astype(np.float32))
    assert int(data.max().compute()) == specimen.volume.max()


def test_a_plane_of_it_reads_no_more_than_the_plane(image: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    kind = type(image.data[0])
    plain = kind.__array__

    def spy(self: Any, *arguments: Any, **keywords: Any) -> Any:
        read.append(self.shape)
        return plain(self, *arguments, **keywords)

    data = plain_piece(image).lazy()[0]
    monkeypatch.setattr(kind, "__array__", spy)
    np.asarray(data[17])
    assert read == [data.shape[1:]]


@pytest.mark.parametrize("level", [0, 1])
def test_a_coarse_level_lies_on_the_finest(image: Layer, specimen: Specimen, level: int) -> None:
    shapes = plain_levels(image)
    piece = plain_piece(image, level)
    layer = Layer.create(*piece.loaded())
    assert layer.data.shape == shapes[level] and layer.name == f"autofluo (level {level})"
    factors = tuple(round(a / b) for a, b in zip(shapes[0], shapes[level], strict=True))
    expected = mean_of_blocks(specimen.volume, factors)
    # Where a block is padded, as rows are at their beginning, it is the mean of what there is.
    near = expected[:, 1:-1, 1:-1]
    flipped = mean_of_blocks(specimen.volume[:, ::-1], factors)[:, ::-1][:, 1:-1, 1:-1]
    found = layer.data[: near.shape[0], 1:-1, 1:-1][:, :, : near.shape[2]].astype(float)
    assert min(abs(found[:, : each.shape[1]] - each).max() for each in (near, flipped)) <= 1
    # The brightest spot comes to lie where it is in the volume.
    brightest = np.unravel_index(layer.data.argmax(), layer.data.shape)
    truth = plain_piece(image).keywords
    world = np.multiply(specimen.spots[0], truth["scale"]) + truth["translate"]
    np.testing.assert_allclose(layer.data_to_world(brightest), world, atol=0.5 * max(layer.scale) + 1e-6)


def test_a_box_is_cut_out(image: Layer, specimen: Specimen) -> None:
    whole = Layer.create(*plain_piece(image).loaded())
    corners = [whole.data_to_world((10, 20, 30)), whole.data_to_world((14, 50, 90))]
    piece = plain_piece(image, 0, corners)
    layer = Layer.create(*piece.lazy())
    np.testing.assert_array_equal(np.asarray(layer.data), specimen.volume[10:15, 20:51, 30:91])
    np.testing.assert_allclose(layer.data_to_world((0, 0, 0)), corners[0])
    with pytest.raises(InputError, match="nothing of it is in the box"):
        plain_piece(image, 0, [[100, 100, 100], [101, 101, 101]])
    with pytest.raises(InputError, match="no level 7"):
        plain_piece(image, 7)


def test_labels_have_their_own_ids_and_names(tmp_path: Path) -> None:
    path = tmp_path / "brain.h5"
    write_phantom_file(path)
    shown = next(Layer.create(*layer) for layer in read_layers(path) if layer[2] == "labels")
    layer = Layer.create(*plain_piece(shown).loaded())
    assert isinstance(layer, Labels)
    with open_lsfm(path) as file:
        stored = np.asarray(file["regions"].levels[0].data)
        turn = file["regions"].space.reorientation_to(file["autofluo"].space.orientation)
        table = LabelTable.from_json(file.label_table("regions"))
    np.testing.assert_array_equal(layer.data, turn.apply(stored))
    assert layer.metadata["lsfm"]["table"] == table and "ids" not in layer.metadata["lsfm"]
    # napari shows the name of a region where the mouse is by these.
    named = dict(zip(layer.features["index"], layer.features["region"], strict=True))
    assert {key: named[key] for key in np.unique(layer.data).tolist() if key} == {
        key: f"{table[key].acronym}: {table[key].name}" for key in np.unique(stored).tolist() if key
    }


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_an_oblique_layer_keeps_its_affine(specimen_file: Path) -> None:
    data, keywords, kind = read_layers(specimen_file)[0]
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    turn[:3, 3] = 1, 2, 3
    oblique = Layer.create(data, {**keywords, "affine": turn}, kind)
    for level in (0, 1):
        layer = Layer.create(*plain_piece(oblique, level).lazy())
        straight = Layer.create(*plain_piece(Layer.create(data, keywords, kind), level).lazy())
        for voxel in ((0, 0, 0), (5, 9, 2)):
            there = turn @ [*straight.data_to_world(voxel), 1]
            np.testing.assert_allclose(layer.data_to_world(voxel), there[:3], atol=1e-9)
        np.testing.assert_allclose(layer.scale, straight.scale)


def test_of_a_layer_with_time_one_step_is_taken() -> None:
    movie = np.random.default_rng(0).integers(0, 99, (4, 5, 6, 7)).astype(np.uint8)
    layer = Image(movie, scale=(1, 2, 3, 4), translate=(10, 0, 0, 0), units=("pixel", "mm", "mm", "mm"))
    piece = plain_piece(layer, point=(12, 0, 0, 0))
    np.testing.assert_array_equal(piece.loaded()[0], movie[2])
    made = Layer.create(*piece.lazy())
    np.testing.assert_allclose(made.scale, (2, 3, 4))
    with pytest.raises(InputError, match="three axes"):
        plain_piece(Image(movie[0, 0]))


def test_an_array_that_memory_may_not_hold_is_refused(image: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_lsfm._plain._MAX_BYTES", 1000)
    with pytest.raises(MemoryBudgetError, match="coarser level"):
        plain_piece(image).loaded()
    plain_piece(image).lazy()


# --- the form -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., napari.Viewer], npe2pm: Any, specimen_file: Path) -> Iterator[napari.Viewer]:
    """A shown window with the specimen."""
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        viewer = make_napari_viewer(show=True)
        viewer.open(specimen_file, plugin="napari-lsfm")
        viewer.reset_view()
        yield viewer


def open_form(viewer: napari.Viewer) -> PlainLayerForm:
    """As the menu does."""
    _, form = viewer.window.add_plugin_dock_widget("napari-lsfm", "This level as a plain layer")
    assert isinstance(form, PlainLayerForm)
    return form


@NEEDS_DISPLAY
@pytest.mark.bindings
def test_the_form_tells_what_it_takes_and_adds_it(viewer: napari.Viewer, qtbot: QtBot, specimen: Specimen) -> None:
    form = open_form(viewer)
    assert form.layer.value.name == "autofluo"
    shape = " x ".join(map(str, specimen.volume.shape))
    assert form.level.choices == (0, 1) and shape in form.takes.value and "read when it is needed" in form.takes.value
    assert "22.7 MB" in form.takes.value, "89 x 301 x 423 voxels of 2 bytes"
    form.in_memory.value = True
    assert "read now" in form.takes.value
    form.button.native.click()
    added = viewer.layers["autofluo (level 0)"]
    assert isinstance(added.data, np.ndarray) and not viewer.layers["autofluo"].visible
    np.testing.assert_array_equal(added.data, specimen.volume)
    # The new layer can be chosen as well, as it comes, and no more when it has gone.
    assert added in form.layer.choices
    viewer.layers.remove(added)
    assert len(form.layer.choices) == 1
    form.level.value, form.planes.value, form.in_memory.value = 1, 3, False
    viewer.dims.set_current_step(0, 44)
    layer = form.go()
    assert isinstance(layer.data, dask.array.Array) and len(layer.data) == 3
    viewer.layers.clear()
    assert not form.button.enabled and "open an image" in form.takes.value


@NEEDS_DISPLAY
def test_what_is_in_view_and_a_shape_can_be_taken(viewer: napari.Viewer, qtbot: QtBot, specimen: Specimen) -> None:
    form = open_form(viewer)
    (layer,) = viewer.layers
    form.piece.value = "shape"
    assert not form.button.enabled and "select a shape" in form.takes.value
    padding = layer.metadata["lsfm"]["box"][1][0]
    first, last = (layer.data_to_world((44, row + padding, column)) for row, column in ((20, 30), (50, 90)))
    rectangle = [[first[1], first[2]], [first[1], last[2]], [last[1], last[2]], [last[1], first[2]]]
    viewer.add_shapes([rectangle])
    form.planes.value = 1
    viewer.dims.set_point(0, layer.data_to_world((44, 0, 0))[0])
    np.testing.assert_array_equal(np.asarray(form.go().data), specimen.volume[44:45, 20:51, 30:91])
    form.layer.value = layer
    form.piece.value, form.planes.value = "view", 0
    viewer.scene.camera.zoom = 400
    viewer.scene.camera.center = layer.data_to_world((44, 150, 200))
    height, width = viewer.canvas.viewbox_size(viewer.layers)
    shape = form.go().data.shape
    assert shape[0] == 89 and abs(shape[1] - height / 400 / 0.04) <= 1 and abs(shape[2] - width / 400 / 0.04) <= 1


# --- other plugins' own widgets -------------------------------------------------------------------------------------------------


@NEEDS_DISPLAY
@pytest.mark.filterwarnings("default")
def test_cellfinder_finds_cells_in_it(make_napari_viewer: Callable[..., napari.Viewer], tmp_path: Path, qtbot: QtBot) -> None:
    """Its widget takes `layer.data` for one array, which of a layer with several resolutions it is not."""
    detect = pytest.importorskip("cellfinder.napari.detect.detect", reason="cellfinder, which needs torch, is not installed")
    cells = np.array([[12, 30, 40], [15, 80, 100], [18, 50, 70]])
    places = np.indices((30, 120, 140))
    volume = np.random.default_rng(0).normal(100, 5, places.shape[1:])
    for cell in cells:
        offset = (places - cell[:, None, None, None]) / np.array([1.2, 3, 3])[:, None, None, None]
        volume += 3000 * np.exp(-np.square(offset).sum(axis=0))
    path = ingest_volume(tmp_path / "cells.h5", "cfos", volume.clip(0).astype(np.uint16), (0.005, 0.002, 0.002))
    viewer = make_napari_viewer()
    shown = viewer.add_layer(Layer.create(*read_layers(path)[0]))
    data, keywords, _ = plain_piece(shown).lazy()
    plain = viewer.add_image(data, **keywords)
    widget = detect.detect_widget()
    viewer.window.add_dock_widget(widget)
    widget.signal_image_opt.signal_image.value = plain
    for name, value in {
        "voxel_size_z": 5, "voxel_size_y": 2, "voxel_size_x": 2, "soma_diameter": 14, "skip_classification": True, "use_gpu": False,
        "start_plane": 0, "end_plane": 0, "analyse_local": False,
    }.items():  # fmt: skip
        widget[name].value = value
    widget()
    qtbot.waitUntil(lambda: "Cell candidates" in viewer.layers, timeout=300_000)
    found = viewer.layers["Cell candidates"].data
    np.testing.assert_array_equal(found[np.argsort(found[:, 0])], cells)


@NEEDS_DISPLAY
@pytest.mark.filterwarnings("default")
def test_brainglobe_registration_reads_it(image: Layer, specimen: Specimen) -> None:
    reason = "brainglobe-registration, which needs ITK, is not installed"
    other = pytest.importorskip("brainglobe_registration.utils.napari", reason=reason)
    layer = Layer.create(*plain_piece(image).lazy())
    np.testing.assert_array_equal(other.get_data_from_napari_layer(layer), specimen.volume)
