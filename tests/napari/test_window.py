"""The plugin in a real window: the pixels on the canvas are the voxels of the file, in 2D at every level and in 3D."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari
import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from .conftest import RAMP_MAX, VOXEL_SIZE_MM, Specimen

pytestmark = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)

Pixels = npt.NDArray[Any]


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., napari.Viewer], npe2pm: Any) -> Iterator[napari.Viewer]:
    """A shown window in which our reader is the only one."""
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        viewer = make_napari_viewer(show=True)
        viewer.window.resize(1200, 900)
        yield viewer


def canvas(viewer: napari.Viewer) -> Pixels:
    """(height, width) brightness of what the canvas shows."""
    return viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(float).mean(axis=-1)


def canvas_position(viewer: napari.Viewer, pixels: Pixels, world: npt.ArrayLike) -> Pixels:
    """Row and column on the canvas of a world position (last axis: z, y, x), while y and x are shown."""
    centre = np.array(viewer.scene.camera.center)[-2:]
    middle = (np.array(pixels.shape) - 1) / 2
    return (np.asarray(world)[..., -2:] - centre) * viewer.scene.camera.zoom + middle


def rendered_voxels(viewer: napari.Viewer, pixels: Pixels, shape: tuple[int, ...]) -> tuple[Pixels, Pixels]:
    """Brightness of the canvas where each voxel of a plane should be, and whether that is on the canvas."""
    rows, columns = shape[1:]
    inferior = (np.arange(rows) - (rows - 1)) * VOXEL_SIZE_MM[1]
    right = np.arange(columns) * VOXEL_SIZE_MM[2]
    places = canvas_position(viewer, pixels, np.stack(np.meshgrid(inferior, right, indexing="ij"), axis=-1)).round().astype(int)
    inside = ((places >= 0) & (places < pixels.shape)).all(axis=-1)
    found = np.zeros((rows, columns))
    found[inside] = pixels[tuple(places[inside].T)]
    return found, inside


def centre_of_brightness(pixels: Pixels) -> Pixels:
    """In canvas pixels; what the contrast limits turned black has no weight."""
    return np.array([(axis * pixels).sum() for axis in np.indices(pixels.shape)]) / pixels.sum()


def look_at(viewer: napari.Viewer, voxel: tuple[int, int, int], pixels_per_mm: float) -> Pixels:
    """Put a voxel into the middle of a canvas that is black but for bright spots; its world position."""
    (layer,) = viewer.layers
    viewer.canvas.background_color_override = "black"
    layer.contrast_limits = (RAMP_MAX, 2500)
    world = np.array(layer.data_to_world(voxel))
    viewer.dims.set_point(range(3), world)
    viewer.scene.camera.center = world
    viewer.scene.camera.zoom = pixels_per_mm
    return world


def test_plane_is_drawn_where_it_belongs(viewer: napari.Viewer, specimen_file: Path, specimen: Specimen) -> None:
    viewer.open(specimen_file, plugin="napari-lsfm")
    viewer.reset_view()
    plane, *spot = specimen.spots[0]
    viewer.dims.set_current_step(0, plane)
    (layer,) = viewer.layers
    expected = np.clip(specimen.volume[plane], *layer.contrast_limits)
    for level in (None, 0, 1):
        layer.locked_data_level = level
        found, inside = rendered_voxels(viewer, canvas(viewer), specimen.volume.shape)
        assert inside.all(), "the whole plane is in view"
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98
        assert found[tuple(spot)] > 0.9 * found.max()


def test_levels_are_drawn_at_the_same_place(viewer: napari.Viewer, long_specimen_file: Path, long_specimen: Specimen) -> None:
    viewer.open(long_specimen_file, plugin="napari-lsfm")
    (layer,) = viewer.layers
    world = look_at(viewer, long_specimen.spots[-1], 400)
    for level in range(4):
        layer.locked_data_level = level
        pixels = canvas(viewer)
        offset = centre_of_brightness(pixels) - canvas_position(viewer, pixels, world)
        # Within a voxel of level 0, though one of the coarsest level is eight of them wide.
        assert np.abs(offset).max() < 400 * VOXEL_SIZE_MM[1], f"level {level}"


def test_zoom_chooses_the_level_and_keeps_the_place(
    viewer: napari.Viewer, long_specimen_file: Path, long_specimen: Specimen
) -> None:
    viewer.open(long_specimen_file, plugin="napari-lsfm")
    (layer,) = viewer.layers
    for zoom, coarse in ((400, False), (4, True)):
        world = look_at(viewer, long_specimen.spots[-1], zoom)
        pixels = canvas(viewer)
        assert (layer.data_level > 0) == coarse
        row, column = canvas_position(viewer, pixels, world)
        # The other spot lies 35 mm further left.
        pixels[:, : int(column - 15 * zoom) if coarse else 0] = 0
        assert np.abs(centre_of_brightness(pixels) - (row, column)).max() < max(1, zoom * VOXEL_SIZE_MM[1])


def test_volume_is_drawn_at_the_same_place_from_every_level(viewer: napari.Viewer, specimen_file: Path, specimen: Specimen) -> None:
    viewer.open(specimen_file, plugin="napari-lsfm")
    (layer,) = viewer.layers
    viewer.dims.ndisplay = 3
    look_at(viewer, specimen.spots[0], 300)
    assert layer.data_level == 1, "the coarsest, until another is asked for"
    for level in (None, 0):
        layer.locked_data_level = level
        pixels = canvas(viewer)
        offset = centre_of_brightness(pixels) - (np.array(pixels.shape) - 1) / 2
        assert np.abs(offset).max() < 300 * VOXEL_SIZE_MM[1], f"level {level}"
    viewer.dims.ndisplay = 2
    assert canvas(viewer).any()


def test_real_brain_is_drawn(viewer: napari.Viewer, brain_file: Path, brain_data: Path) -> None:
    viewer.open(brain_file, plugin="napari-lsfm")
    viewer.reset_view()
    viewer.dims.set_current_step(0, 135)
    (layer,) = viewer.layers
    plane = tifffile.imread(brain_data / "mouse_brain" / "structural_tiff" / "image_0135.tif")
    found, inside = rendered_voxels(viewer, canvas(viewer), (270, *plane.shape))
    assert inside.all()
    assert np.corrcoef(found.ravel(), np.clip(plane, *layer.contrast_limits).ravel())[0, 1] > 0.95
