"""Label tables of the kinds that atlases and spreadsheets come with."""

from __future__ import annotations

import colorsys
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsfm_core import SourceError
from lsfm_core.regions import Label, LabelTable, rgb_of

#: What every spelling below says: a root, two parts, and a part of a part whose id no float64 holds.
BIG = 2**53 + 1
EXPECTED = [
    Label(997, "root", "root", (255, 255, 255), None),
    Label(8, "Basic cell groups, and regions", "grey", (191, 218, 227), 997),
    Label(315, "Isocörtex", "Iso", (0, 2, 104), 8),
    Label(BIG, "Rest", "RS", (24, 128, 100), 997),
]


def parents(label: Label) -> list[int]:
    """The path from the top to a label, itself included."""
    by_id = {item.id: item for item in EXPECTED}
    return [*(parents(by_id[label.parent]) if label.parent is not None else ()), label.id]


def hexed(label: Label) -> str:
    return "{:02X}{:02X}{:02X}".format(*label.rgb or ())


def flat() -> list[dict[str, Any]]:
    """As BrainGlobe's structures.json has them."""
    return [
        {"acronym": x.acronym, "id": x.id, "name": x.name, "structure_id_path": parents(x), "rgb_triplet": list(x.rgb or ())}
        for x in EXPECTED
    ]


def nested(parent: int | None = None) -> list[dict[str, Any]]:
    """As Allen's structure graph has them."""
    return [
        {"id": x.id, "atlas_id": -1, "acronym": x.acronym, "name": x.name, "color_hex_triplet": hexed(x), "graph_order": 3,
         "parent_structure_id": parent, "children": nested(x.id)}
        for x in EXPECTED
        if x.parent == parent
    ]  # fmt: skip


def table(rows: list[list[Any]], separator: str = ",") -> str:
    return "\n".join(separator.join(f'"{cell}"' if separator in str(cell) else str(cell) for cell in row) for row in rows) + "\n"


def paths(form: str) -> list[str]:
    return [form.join(map(str, parents(x))) for x in EXPECTED]


SPELLINGS: dict[str, str] = {
    "structures.json": json.dumps(flat()),
    "graph.json": json.dumps({"success": True, "id": 0, "num_rows": 1, "msg": nested()}),
    "bare_graph.json": json.dumps(nested()[0]),
    "query.json": json.dumps(
        {"msg": [{**row, "structure_id_path": f"/{'/'.join(map(str, row['structure_id_path']))}/"} for row in flat()]}
    ),
    "by_id.json": json.dumps({row["id"]: {key: value for key, value in row.items() if key != "id"} for row in flat()}),
    "lists.csv": table(
        [["id", "acronym", "name", "structure_id_path", "rgb_triplet"]]
        + [[x.id, x.acronym, x.name, list(parents(x)), list(x.rgb or ())] for x in EXPECTED]
    ),
    "slashes.csv": table(
        [["id", "acronym", "name", "structure_id_path", "color_hex_triplet"]]
        + [[x.id, x.acronym, x.name, f"/{path}/", f"#{hexed(x)}"] for x, path in zip(EXPECTED, paths("/"), strict=True)]
    ),
    "columns.tsv": table(
        [["Name", "ID", "Abbreviation", "R", "G", "B", "parent_id"]]
        + [[x.name, x.id, x.acronym, *(x.rgb or ()), x.parent or 0] for x in EXPECTED],
        "\t",
    ),
    # A float for what could be missing, as pandas writes it.
    "floats.csv": table(
        [["id", "name", "acronym", "red", "green", "blue", "parent_structure_id"]]
        + [
            [
                x.id if x.id == BIG else f"{x.id}.0",
                x.name,
                x.acronym,
                *(f"{v}.0" for v in x.rgb or ()),
                f"{x.parent}.0" if x.parent else "nan",
            ]
            for x in EXPECTED
        ]
    ),
    "commas.csv": table(
        [["id", "name", "acronym", "colour", "parent"]]
        + [
            [
                x.id if x.id == BIG else f"{x.id},0",
                x.name,
                x.acronym,
                ", ".join(map(str, x.rgb or ())),
                f"{x.parent},0" if x.parent else "",
            ]
            for x in EXPECTED
        ]
        + [["", "", "", "", ""]],
        ";",
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_every_spelling_gives_the_same_labels(tmp_path: Path, name: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_text(SPELLINGS[name], encoding)
    found = LabelTable.read(path)
    assert sorted(found.values(), key=EXPECTED.index) == EXPECTED
    assert found.descendants(997) and set(found.descendants(8)) == {8, 315}


@pytest.mark.parametrize(
    ("text", "rgb"),
    [
        ("268", (0, 2, 104)),
        ("0x70FF71", (112, 255, 113)),
        ("(24 128 100)", (24, 128, 100)),
        ("rgb(24, 128, 100)", (24, 128, 100)),
        ("[0.2, 1.0, 0.6]", (51, 255, 153)),
        ("24-128-100", None),
        ("[1, 2, 300]", None),
        ("[1, 2]", None),
    ],
)
def test_colours(tmp_path: Path, text: str, rgb: tuple[int, int, int] | None) -> None:
    path = tmp_path / "one.csv"
    path.write_text(f'id,name,color\n5,Five,"{text}"\n')
    if rgb is not None:
        assert LabelTable.read(path)[5].rgb == rgb
    else:
        with pytest.raises(SourceError, match=r"one\.csv: line 2 is no label: .*Five"):
            LabelTable.read(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"msg": []}', r"expected structures with id and name"),
        ("a.json", b'[{"id": 1, "name": "one"}, {"id": 1.5, "name": "two"}]', r"structure 2 is no label: .*1\.5"),
        ("a.json", b'[{"id": 1, "name"', r"begins as JSON, and is none"),
        ("a.json", json.dumps([{"id": "x", "name": "y" * 5000}]).encode(), r"structure 1 is no label: .{90,110}$"),
        ("a.csv", b"\x89PNG\0\0\0", r"no text file"),
        ("a.csv", b"id;name\n1;one\n1,5;half\n", r"line 3 is no label: '1,5;half'"),
        ("a.csv", b"id,name\n1,one,two\n", r"line 2 is no label"),
        ("a.csv", b"id,name\n1,one\n1.0,two\n", r"id 1 is listed twice"),
    ],
)
def test_what_is_no_table_is_refused_in_few_words(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        LabelTable.read(path)


def test_the_allen_tree_as_json_is_the_allen_tree(brain_data: Path, tmp_path: Path) -> None:
    source = brain_data / "allen_structure_tree.csv"
    with source.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    below: dict[str, list[dict[str, Any]]] = {}
    nodes = []
    for row in rows:
        node = {
            "id": int(row["id"]),
            "name": row["name"],
            "acronym": row["acronym"],
            "color_hex_triplet": row["color_hex_triplet"],
            "children": [],
        }
        below[row["id"]] = node["children"]
        nodes.append((node, row["parent_structure_id"].removesuffix(".0")))
    tops = [node for node, parent in nodes if not parent]
    for node, parent in nodes:
        if parent:
            below[parent].append(node)
    (tmp_path / "graph.json").write_text(json.dumps({"success": True, "msg": tops}))
    assert dict(LabelTable.read(tmp_path / "graph.json")) == dict(LabelTable.read(source))


COLOUR_TABLES = {
    "freesurfer": "#No. Label Name:   R   G   B   A\n\n0   Unknown    0   0   0   0\n1   Left-Cerebral-Exterior  70  130 180 0\n",
    "slicer.ctbl": "# Color table file x.ctbl\n# 2 values\n0 Unknown 0 0 0 0\n1 Left-Cerebral-Exterior 70 130 180 255\n",
    "slicer.csv": "LabelValue,Name,Color_R,Color_G,Color_B,Color_A\n0,Unknown,0,0,0,0\n1,Left-Cerebral-Exterior,70,130,180,255\n",
}


@pytest.mark.parametrize("name", COLOUR_TABLES)
def test_colour_tables_of_freesurfer_and_slicer(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(COLOUR_TABLES[name])
    assert list(LabelTable.read(tmp_path / name).values()) == [
        Label(0, "Unknown", None, (0, 0, 0)),
        Label(1, "Left-Cerebral-Exterior", None, (70, 130, 180)),
    ]


@pytest.mark.parametrize(
    "text",
    [f"id,name\n{BIG}.0,a\n", f"id;name\n{BIG},0;a\n", "id,name\n9.007199254740993e15,a\n", f'[{{"id": {BIG}.0, "name": "a"}}]'],
)
def test_no_digit_of_an_id_is_lost_however_it_is_written(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text(text)
    assert list(LabelTable.read(path)) == [BIG]


def test_parentheses_are_acronyms_only_where_labels_have_them(tmp_path: Path) -> None:
    path = tmp_path / "whs.label"
    names = ["Clear Label", "neocortex (layer 1)", "fornix", "optic nerve"]
    path.write_text("".join(f'{key} 1 2 3 1 1 1 "{name}"\n' for key, name in enumerate(names)))
    assert [(label.name, label.acronym) for label in LabelTable.read(path).values()] == [(name, None) for name in names]


def test_an_error_shows_the_beginning_of_a_long_line_only(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,name\n" + "x" * 5000 + ",b\n")
    with pytest.raises(SourceError) as error:
        LabelTable.read(path)
    assert len(str(error.value)) < 300 + len(str(path))


def test_regions_without_a_colour_get_one_that_can_be_told_from_its_neighbours() -> None:
    table = LabelTable([Label(7, "first", rgb=(1, 2, 3))])
    assert rgb_of(7, table) == (1, 2, 3)
    colours = np.array([rgb_of(key, table) for key in [*range(1, 7), *range(8, 2000)]])
    assert colours.min() >= 0 and colours.max() <= 255
    # On black as on white, and neither grey nor glaring.
    assert colours.max(axis=1).min() >= 0.3 * 255
    np.testing.assert_allclose(np.ptp(colours, axis=1) / colours.max(axis=1), 0.55, atol=0.02)
    hues = np.array([colorsys.rgb_to_hsv(*colour)[0] for colour in colours.tolist()])
    apart = np.abs(np.diff(hues))
    assert np.minimum(apart, 1 - apart).min() > 0.2
    assert len(np.unique(colours, axis=0)) > 0.9 * len(colours)


def test_commas_within_quotes_separate_nothing(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text('"id";"remarks, if any, and more, or none";"name"\n1;"a, b";"first, the"\n2;;second\n')
    assert [(label.id, label.name) for label in LabelTable.read(path).values()] == [(1, "first, the"), (2, "second")]
