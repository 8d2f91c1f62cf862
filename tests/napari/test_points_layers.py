"""Points in napari: opened over their image, and saved as voxels of it again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import napari
import npe2
import numpy as np
import pandas
import pytest
from napari.layers import Points
from napari.utils.notifications import notification_manager

from lsfm_core import InputError, PointsRequest, open_lsfm, read_points, transform_points
from napari_lsfm._points import channel_voxels, get_points_reader, points_layer

from .conftest import Specimen, ingest_volume

NEEDS_DISPLAY = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)


def write_cells(path: Path, zyx: Any) -> Path:
    """As cellfinder does."""
    root = ElementTree.Element("CellCounter_Marker_File")
    markers = ElementTree.SubElement(ElementTree.SubElement(root, "Marker_Data"), "Marker_Type")
    ElementTree.SubElement(markers, "Type").text = "2"
    for z, y, x in np.asarray(zyx).tolist():
        marker = ElementTree.SubElement(markers, "Marker")
        for name, value in (("MarkerX", x), ("MarkerY", y), ("MarkerZ", z)):
            ElementTree.SubElement(marker, name).text = str(value)
    ElementTree.ElementTree(root).write(path)
    return path


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., napari.Viewer], npe2pm: Any) -> Iterator[napari.Viewer]:
    """A shown window with our plugin and napari's own readers and writers."""
    with npe2pm.tmp_plugin(package="napari"), npe2pm.tmp_plugin(package="napari-lsfm"):
        yield make_napari_viewer(show=True)


def test_only_points_are_taken(tmp_path: Path, specimen_file: Path) -> None:
    cells = write_cells(tmp_path / "cells.xml", [[1, 2, 3]])
    other = tmp_path / "cells.csv"
    other.write_text("name,age\nA,3\n")
    assert get_points_reader(str(cells)) is not None and get_points_reader([cells]) is not None
    for path in (specimen_file.with_suffix(".xml"), specimen_file, other, tmp_path / "none.xml", [cells, other], []):
        assert get_points_reader(path) is None


@NEEDS_DISPLAY
@pytest.mark.parametrize("name", ["cells.xml", "cells.csv", "points.csv", "all_points.csv"])
def test_cells_lie_where_they_were_found(
    viewer: napari.Viewer, specimen_file: Path, specimen: Specimen, tmp_path: Path, name: str
) -> None:
    cells = np.array(specimen.spots)
    path = tmp_path / name
    if name.endswith(".xml"):
        write_cells(path, cells)
    else:
        axes = {"cells.csv": "z,y,x", "points.csv": "axis-0,axis-1,axis-2"}.get(name, "R_mm,A_mm,S_mm")
        # The specimen's planes grow toward anterior, its rows toward inferior, its columns toward right.
        scaled = np.stack([cells[:, 2] * 0.04, cells[:, 0] * 0.05, (300 - cells[:, 1]) * 0.04], axis=1)
        pandas.DataFrame(scaled if "mm" in axes else cells, columns=axes.split(",")).to_csv(path, index=False)
    (image,) = viewer.open(specimen_file, plugin="napari-lsfm")
    notification_manager.records.clear()
    (points,) = viewer.open(path, plugin="napari-lsfm")
    assert isinstance(points, Points) and points.name == path.stem
    assert f"{name}: 4 points" in notification_manager.records[0].message and "autofluo" in notification_manager.records[0].message
    for place, spot in zip(points.data, cells, strict=True):
        world = points.data_to_world(place)
        # The brightest voxel around is the one that the point is in.
        voxel = np.rint(image.world_to_data(world)).astype(int)
        assert np.asarray(image.data[0][tuple(voxel)]) == specimen.volume[tuple(spot)]
    assert points.get_status(world, world=True)["coords"].startswith("R,A,S")


@NEEDS_DISPLAY
@pytest.mark.parametrize("ending", [".xml", ".csv"])
def test_what_is_saved_is_in_voxels_of_the_channel(viewer: napari.Viewer, tmp_path: Path, ending: str) -> None:
    """Also of a channel that is stored in another orientation than it is shown in, and of points that were moved or added."""
    volume = np.random.default_rng(0).integers(0, 999, (20, 30, 40)).astype("u2")
    path = ingest_volume(tmp_path / "brain.h5", "autofluo", volume)
    ingest_volume(path, "cfos", volume.transpose(1, 2, 0), (0.04, 0.04, 0.05), "SLP")
    layers = viewer.open(path, plugin="napari-lsfm")
    viewer.layers.selection.active = layers[1]
    cells = np.array([[3, 4, 5], [29, 0, 19]])
    (points,) = viewer.open(write_cells(tmp_path / "cells.xml", cells), plugin="napari-lsfm")
    assert points.metadata["lsfm"]["points"]["channel"] == "cfos"
    with open_lsfm(path) as file:
        world = file["cfos"].space.to_world([[7, 8, 9]])[0]
    # In napari's world: along A, I and R.
    points.add(points.world_to_data((world[1], -world[2], world[0])))
    target = tmp_path / f"saved{ending}"
    viewer.layers.selection = {points}
    viewer.layers.save(str(target), selected=True, plugin="napari-lsfm")
    np.testing.assert_allclose(read_points(target).points, [*cells, (7, 8, 9)], atol=1e-6)
    # As the core takes them: without a way, R, A, S of each.
    result = transform_points(PointsRequest(path=path, channel="cfos", points=target))
    np.testing.assert_allclose(result.points[-1], world, atol=1e-6)
    assert result.outside == 0


@NEEDS_DISPLAY
def test_napari_keeps_its_own_tables(viewer: napari.Viewer, tmp_path: Path) -> None:
    """Nobody who saves points as CSV, and names no plugin, gets other files than before."""
    viewer.add_points([[1.0, 2.0, 3.0]])
    viewer.layers.save(str(tmp_path / "own.csv"))
    assert pandas.read_csv(tmp_path / "own.csv").columns.tolist() == ["index", "axis-0", "axis-1", "axis-2"]
    assert {reader.plugin_name for reader in npe2.PluginManager.instance().iter_compatible_readers(["table.csv"])} == {"napari"}


def test_points_without_an_image() -> None:
    from lsfm_core import PointList

    data, keywords, kind = points_layer(PointList(np.ones((2, 3)), "native-voxel", {"type": [1, 2]}), "cells")
    layer = Points(data, **keywords)
    assert kind == "points" and layer.features["type"].tolist() == [1, 2]
    np.testing.assert_array_equal(channel_voxels(layer.data, keywords), np.ones((2, 3)))
    with pytest.raises(InputError, match="open the image"):
        points_layer(PointList(np.ones((2, 3)), "native-mm"), "cells")
    with pytest.raises(InputError, match="have 2 axes"):
        channel_voxels(np.ones((4, 2)), {"name": "flat"})
