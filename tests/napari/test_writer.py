"""What is saved of a layer, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer

from lsfm_core import InputError, LsfmError, Orientation, edit_lsfm, open_lsfm
from lsfm_core.testing import PHANTOM_REGIONS, write_phantom_file
from napari_lsfm._reader import read_layers
from napari_lsfm._writer import write_layers

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


# --- what is refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (image(np.zeros((5, 6, 7, 3), np.uint8), rgb=True), "colours in its voxels"),
        (image(np.zeros((2, 5, 6, 7), np.uint8)), "has 4 axes"),
        (image(np.zeros((6, 7), np.uint8)), "has 2 axes"),
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
    with pytest.raises(InputError, match="complex64"):
        write_layers(tmp_path / "brain.h5", [(np.zeros((5, 6, 7), np.complex64), {"name": "image", "units": ("um",) * 3}, "image")])


def test_no_channel_is_replaced(tmp_path: Path, specimen_file: Path) -> None:
    path = tmp_path / "brain.h5"
    shutil.copy(specimen_file, path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="two channels 'autofluo': rename the layer"):
        save(path, image(name="new"), image(name="autofluo"))
    with pytest.raises(InputError, match="two channels 'twin'"):
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
    with pytest.raises(InputError, match="lie in different ways"):
        save(tmp_path / "both.h5", *layers)


# --- through npe2 ---------------------------------------------------------------------------------------------------------------


def test_napari_finds_the_writer(tmp_path: Path, npe2pm: Any) -> None:
    viewer = ViewerModel()
    viewer.add_layer(image())
    viewer.add_layer(Labels(np.ones((6, 9, 11), np.uint8), name="labels", units="um"))
    path = tmp_path / "brain.h5"
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        assert viewer.layers.save(str(path)) == [str(path)]
        viewer.add_points(np.zeros((1, 3)))
        with pytest.warns(UserWarning, match="No data written"):
            assert not viewer.layers.save(str(tmp_path / "points.h5"))
    with edit_lsfm(path) as file:
        assert [(channel.name, channel.kind) for channel in file.channels.values()] == [("image", "image"), ("labels", "labels")]
