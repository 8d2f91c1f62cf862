"""Regions, against plain csv and numpy: what they are called, what is part of them, and where they lie."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lsfm_core import IngestRequest, InputError, Label, LabelTable, SourceError, UnknownRegionError, open_lsfm
from lsfm_core.cli import main
from lsfm_core.regions import read_label_table
from lsfm_core.testing import write_series

# 5 has been remapped to 15001 in the voxels, 7 belongs to nothing, and 2 and 9 have no voxels of their own.
LABELS = """id,name,acronym,r,g,b
0,Clear Label,,0,0,0
3,"Field one, deep",F1,10,20,30
15001,Middle,MID,1,1,1
7,Scar,,9,9,9
"""
ONTOLOGY = """id;acronym;name;parent_structure_id;color_hex_triplet
9;root;Root;;FFFFFF
2;TOP;Top;9;00FF00
5;MID;Middle structure;2;0000FF
3;F1;Field one deep;5;FF0000
4;f1;Fibre one;5;
"""


@pytest.fixture
def write_table(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture
def small(write_table: Callable[[str, str], Path]) -> LabelTable:
    table, _ = read_label_table(write_table("labels.csv", LABELS), write_table("tree.csv", ONTOLOGY))
    assert table is not None
    return table


@pytest.fixture(scope="session")
def allen(brain_data: Path) -> LabelTable:
    table, warnings = read_label_table(brain_data / "allen_labels_itksnap.txt", brain_data / "allen_structure_tree.csv")
    assert table is not None and warnings == []
    return table


@pytest.fixture(scope="session")
def allen_parts(brain_data: Path) -> Callable[[str], set[int]]:
    """Voxel ids of a structure and of all below it, found by climbing from each row of the CSV."""
    with open(brain_data / "allen_structure_tree.csv", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    lines = re.findall(
        r'^ *(\d+) .*"(?:.*\S) \(([^()]+)\)" *$', (brain_data / "allen_labels_itksnap.txt").read_text(), re.MULTILINE
    )
    voxel_id = {acronym: int(key) for key, acronym in lines}

    def parts(acronym: str) -> set[int]:
        found = set()
        for row in rows.values():
            above = row
            while above["acronym"] != acronym and above["parent_structure_id"]:
                above = rows[above["parent_structure_id"]]
            if above["acronym"] == acronym:
                found.add(int(row["id"]) if row["id"] in dict(lines) else voxel_id[row["acronym"]])
        return found

    return parts


# --- tables ---------------------------------------------------------------------------------------------------------------------


def test_an_ontology_is_joined_by_id_then_by_acronym(write_table: Callable[[str, str], Path]) -> None:
    table, warnings = read_label_table(write_table("labels.csv", LABELS), write_table("tree.csv", ONTOLOGY))
    assert list((table or {}).values()) == [
        Label(9, "Root", "root", (255, 255, 255)),
        Label(2, "Top", "TOP", (0, 255, 0), 9),
        Label(15001, "Middle", "MID", (1, 1, 1), 2),
        Label(3, "Field one, deep", "F1", (10, 20, 30), 15001),
        Label(4, "Fibre one", "f1", None, 15001),
        Label(0, "Clear Label", None, (0, 0, 0)),
        Label(7, "Scar", None, (9, 9, 9)),
    ]
    assert len(warnings) == 1
    assert warnings[0].startswith("1 label(s) are not in the ontology") and "'Scar' (id 7)" in warnings[0]


def test_an_id_counts_for_more_than_an_acronym(write_table: Callable[[str, str], Path]) -> None:
    labels = write_table("labels.csv", "id,name,acronym\n2,Middle,MID\n60,Middle left,MID\n61,F one,F1\n")
    table, warnings = read_label_table(labels, write_table("tree.csv", ONTOLOGY))
    assert table is not None
    assert table[2].parent == 9
    # Of two labels of one structure, both have its parent, and its parts belong to the one that has its id, else to the first.
    assert table[60].parent == 2
    assert table.children(60) == (61, 4)
    assert 5 not in table and 3 not in table
    assert len(warnings) == 1 and "'Middle' (MID, id 2)" in warnings[0]


def test_one_table_alone_is_the_label_table(write_table: Callable[[str, str], Path]) -> None:
    tree = write_table("tree.csv", ONTOLOGY)
    assert read_label_table(None, tree) == (LabelTable.read(tree), [])
    assert read_label_table(tree, None) == (LabelTable.read(tree), [])
    assert read_label_table(None, None) == (None, [])


def test_unknown_parents_are_told_and_circles_refused(write_table: Callable[[str, str], Path]) -> None:
    table, warnings = read_label_table(None, write_table("tree.csv", "id,name,parent\n1,Part,99\n2,Whole,\n3,Part of two,2\n"))
    assert table is not None
    assert [label.parent for label in table.values()] == [None, None, 2]
    assert len(warnings) == 1 and "1 region(s)" in warnings[0] and "'Part' (id 1) is a part of 99" in warnings[0]
    circle = write_table("circle.csv", "id,name,parent\n8,Outside,4\n4,Egg,5\n5,Hen,6\n6,Chick,4\n7,Own,7\n")
    with pytest.raises(SourceError, match=r"circle.csv: .*4 -> 5 -> 6 -> 4; .*7 -> 7"):
        read_label_table(None, circle)


def test_circles_in_a_file_from_elsewhere_do_not_hang() -> None:
    table = LabelTable.from_json(LabelTable([Label(1, "hen", parent=2), Label(2, "egg", parent=1)]).to_json())
    assert table.descendants(1) == (1, 2)
    assert table.path(1) == (2, 1)


def test_the_tree(small: LabelTable) -> None:
    assert small.children(15001) == (3, 4)
    assert small.descendants(9) == (9, 2, 15001, 3, 4)
    assert small.descendants(3) == (3,)
    assert small.path(4) == (9, 2, 15001, 4)
    assert small.path(7) == (7,)


@pytest.mark.parametrize(
    ("selector", "found"),
    [(3, 3), ("3", 3), (" 3 ", 3), ("F1", 3), ("f1", 4), ("mid", 15001), ("TOP", 2), ("field ONE, deep", 3), ("scar", 7), ("0", 0)],
)
def test_every_spelling_of_a_region(selector: str | int, found: int, small: LabelTable) -> None:
    assert small.find(selector) is small[found]


def test_numbers_may_be_acronyms() -> None:
    table = LabelTable([Label(3, "ventricle", "10"), Label(4, "nerve", "3")])
    assert table.find("10").id == 3
    assert table.find("3").id == 3


def test_ambiguous_and_unknown_regions(small: LabelTable) -> None:
    twins = LabelTable([Label(1, "Nucleus left", "N"), Label(2, "Nucleus right", "n"), Label(3, "both"), Label(4, "Both")])
    assert twins.find("N").id == 1
    with pytest.raises(InputError, match=re.escape("'both' (id 3) or 'Both' (id 4)")):
        twins.find("both")
    with pytest.raises(InputError, match=re.escape("'Nucleus a' (XY, id 1) or 'Nucleus b' (Xy, id 2)")):
        LabelTable([Label(1, "Nucleus a", "XY"), Label(2, "Nucleus b", "Xy")]).find("xy")
    with pytest.raises(UnknownRegionError, match=re.escape("no region 'Midle': did you mean 'Middle' (MID, id 15001)?")):
        small.find("Midle")
    with pytest.raises(UnknownRegionError, match=re.escape("no region '5': the label table has 7 others")):
        small.find(5)
    with pytest.raises(UnknownRegionError):
        small.find("")
    with pytest.raises(KeyError):
        small.find("nowhere")


def test_suggestions_from_the_allen_table(allen: LabelTable) -> None:
    with pytest.raises(UnknownRegionError, match=re.escape("no region 'thalmus': did you mean 'Thalamus' (TH, id 549)")):
        allen.find("thalmus")


def test_without_a_table_ids_alone_are_known() -> None:
    table = LabelTable.from_json(None)
    assert table.select(["382", 2**63 + 1, 382], include_descendants=True) == (382, 2**63 + 1)
    with pytest.raises(UnknownRegionError, match="no label table, so a region is named by its id only"):
        table.find("CA1")


def test_selections(small: LabelTable) -> None:
    assert small.select(["Scar", "MID", "F1", 7], include_descendants=False) == (7, 15001, 3)
    assert small.select(["F1", "MID"], include_descendants=True) == (3, 15001, 4)


def test_search_ranks_what_equals_before_what_begins_before_what_contains(allen: LabelTable) -> None:
    found = [label.acronym for label in allen.search("ca1", 100)]
    assert found[:2] == ["CA1", "CA1slm"]
    assert "SubG" not in found
    assert allen.search("549", 1)[0].acronym == "TH"
    # A prefix of an acronym, then of a name, then what is inside of either.
    small = LabelTable([Label(1, "Old part of it", "OP"), Label(2, "Part", "A"), Label(3, "z", "PAR"), Label(4, "None", "N")])
    assert [label.id for label in small.search("par", 9)] == [3, 2, 1]
    assert [label.id for label in small.search("Part", 9)] == [2, 1]
    assert [label.id for label in small.search("", 2)] == [1, 2]


def test_descendants_are_those_of_the_csv(allen: LabelTable, allen_parts: Callable[[str], set[int]]) -> None:
    # PTLp and VIS hold areas whose ids were remapped; CB none.
    for acronym in ("TH", "PTLp", "VIS", "CB", "root", "CA1"):
        parts = allen.descendants(allen.find(acronym).id)
        assert set(parts) == allen_parts(acronym), acronym
        assert len(set(parts)) == len(parts)
        assert parts[0] == allen.find(acronym).id
    assert allen.find("VISa1").id == 15009
    assert 15009 in allen.descendants(allen.find("PTLp").id)


def test_write_keeps_the_joined_table(brain_data: Path, tmp_path: Path, allen: LabelTable) -> None:
    path = tmp_path / "atlas.h5"
    arguments = ["write", path, "--channel", "atlas", "--kind", "labels", "--quiet"]
    arguments += ["--image", brain_data / "annotation_in_structural_100um.nii.gz"]
    arguments += ["--labels", brain_data / "allen_labels_itksnap.txt", "--ontology", brain_data / "allen_structure_tree.csv"]
    assert main([str(argument) for argument in arguments]) == 0
    with open_lsfm(path) as file:
        text = file.label_table("atlas")
    assert text is not None
    rows = {row["id"]: row for row in json.loads(text)}
    assert len(rows) == 1327
    assert rows[15009] | {"parent": rows[rows[15009]["parent"]]["acronym"]} == {
        "id": 15009,
        "name": "Anterior area, layer 1",
        "acronym": "VISa1",
        "rgb": [0, 159, 172],
        "parent": "VISa",
    }
    assert dict(LabelTable.from_json(text)) == dict(allen)


def test_what_does_not_fit_is_told_by_write(
    write_table: Callable[[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_series(tmp_path / "ids", np.ones((3, 4, 5), np.uint8))
    arguments = ["write", tmp_path / "x.h5", "--channel", "ids", "--kind", "labels", "--image", images]
    arguments += ["--voxel-size", "1,1,1", "--orientation", "RAS", "--labels", write_table("labels.csv", LABELS)]
    assert main([*map(str, arguments), "--ontology", str(write_table("tree.csv", ONTOLOGY))]) == 0
    assert "warning: 1 label(s) are not in the ontology" in capsys.readouterr().err


def test_an_ontology_is_for_labels_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ontology: only a channel of kind labels"):
        IngestRequest(path=tmp_path / "x.h5", channel="x", image=np.zeros((2, 2, 2)), ontology=tmp_path / "tree.csv")
