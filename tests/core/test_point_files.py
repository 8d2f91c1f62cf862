"""Files of points by themselves: told apart from others, read, and written again."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas
import pytest

from lsfm_core import ExistsError, InputError, SourceError, is_point_file, read_points, write_points

ZYX = np.array([[3.0, 20.0, 10.0], [4.5, 21.25, 0.0], [0.0, 7.0, 8.0]])


def write_xml(path: Path, cells: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Path:
    """As cellfinder does: x, y and z of markers of type 2, and one of type 1."""
    root = ElementTree.Element("CellCounter_Marker_File")
    data = ElementTree.SubElement(root, "Marker_Data")
    for kind, places in ((1, [[9, 9, 9]]), (2, cells.tolist())):
        markers = ElementTree.SubElement(data, "Marker_Type")
        ElementTree.SubElement(markers, "Type").text = str(kind)
        for z, y, x in places:
            marker = ElementTree.SubElement(markers, "Marker")
            for name, value in (("MarkerX", x), ("MarkerY", y), ("MarkerZ", z)):
                ElementTree.SubElement(marker, name).text = str(value)
    ElementTree.ElementTree(root).write(path, xml_declaration=True, encoding="utf-8")
    return path


def test_cells_of_cellfinder(tmp_path: Path) -> None:
    cells = np.array([[3, 20, 10], [4, 21, 0]])
    path = write_xml(tmp_path / "cells.xml", cells)
    assert is_point_file(path)
    read = read_points(path)
    np.testing.assert_array_equal(read.points, cells)
    assert read.place == "native-voxel" and read.columns == {"type": [2, 2]}
    assert any("1 of type 1" in remark for remark in read.remarks)
    np.testing.assert_array_equal(read_points(path, marker_type=(1,)).points, [[9, 9, 9]])


@pytest.mark.parametrize(
    ("header", "place"),
    [
        ("z,y,x", "native-voxel"),
        ("axis-0,axis-1,axis-2", "native-voxel"),
        ("coordinate_raw_axis_0,coordinate_raw_axis_1,coordinate_raw_axis_2", "native-voxel"),
        ("R_mm,A_mm,S_mm", "native-mm"),
    ],
)
def test_tables(tmp_path: Path, header: str, place: str) -> None:
    path = tmp_path / "points.csv"
    frame = pandas.DataFrame(ZYX, columns=header.split(","))
    frame.insert(0, "index", [0, 1, 2])
    frame["region"] = ["CTX", "a, b", "=1"]
    frame.to_csv(path, index=False)
    assert is_point_file(path)
    read = read_points(path)
    np.testing.assert_array_equal(read.points, ZYX)
    assert read.place == place
    assert read.columns == {"index": [0, 1, 2], "region": ["CTX", "a, b", "=1"]}


def test_other_files_are_no_points(tmp_path: Path) -> None:
    for name, text in (
        ("table.csv", "name,age\nA,3\n"),
        ("empty.csv", ""),
        ("image.xml", '<?xml version="1.0"?><SpimData version="0.2"></SpimData>'),
        ("empty.xml", ""),
        ("points.txt.gz", "z,y,x\n1,2,3\n"),
        ("points.h5", "z,y,x\n1,2,3\n"),
    ):
        (tmp_path / name).write_text(text)
        assert not is_point_file(tmp_path / name), name
    assert not is_point_file(tmp_path / "missing.csv") and not is_point_file(tmp_path)
    with pytest.raises(InputError, match="z,y,x"):
        read_points(tmp_path / "table.csv")
    with pytest.raises(SourceError, match="SpimData"):
        read_points(tmp_path / "image.xml")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    columns = {"region": ["CTX", "a, b", "=1"], "size": [1.5, float("nan"), 2.0]}
    write_points(tmp_path / "points.csv", ZYX, columns)
    frame = pandas.read_csv(tmp_path / "points.csv")
    np.testing.assert_array_equal(frame[["z", "y", "x"]], ZYX)
    # A spreadsheet would run the last one as a formula.
    assert frame["region"].tolist() == ["CTX", "a, b", "'=1"]
    np.testing.assert_array_equal(frame["size"], columns["size"])
    np.testing.assert_array_equal(read_points(tmp_path / "points.csv").points, ZYX)
    write_points(tmp_path / "cells.xml", ZYX)
    root = ElementTree.parse(tmp_path / "cells.xml").getroot()
    found = [
        [int(marker.findtext(name, "")) for name in ("MarkerZ", "MarkerY", "MarkerX")]
        for kind in root.iter("Marker_Type")
        if kind.findtext("Type") == "2"
        for marker in kind.iter("Marker")
    ]
    assert found == [[3, 20, 10], [4, 21, 0], [0, 7, 8]]


def test_nothing_is_written_that_cannot_be_read(tmp_path: Path) -> None:
    for name, columns, points, error in (
        ("points.h5", {}, ZYX, InputError),
        ("points.csv", {"Z": [1, 2, 3]}, ZYX, InputError),
        ("points.csv", {}, ZYX * np.nan, InputError),
    ):
        with pytest.raises(error):
            write_points(tmp_path / name, points, columns)
    assert not list(tmp_path.iterdir())
    write_points(tmp_path / "points.csv", ZYX)
    with pytest.raises(ExistsError):
        write_points(tmp_path / "points.csv", ZYX)
    write_points(tmp_path / "points.csv", ZYX[:1], overwrite=True)
    assert len(read_points(tmp_path / "points.csv").points) == 1
