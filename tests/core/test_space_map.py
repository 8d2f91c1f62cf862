"""The picture of spaces: every box is there, none lies on another, no line runs through one, and strangers' names stay text."""

from __future__ import annotations

import random
import re
import shlex
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from lsfm_core import SpaceGraph, SpaceMap, draw_spaces, lay_out_spaces
from lsfm_core.cli import main
from lsfm_core.spaces import PlacedChannel, SpaceNode, TransformLink
from lsfm_core.testing import write_series

STEPS = np.linspace(0, 1, 40)[:, None]
SVG = "{http://www.w3.org/2000/svg}"
EVIL = "</text><script>x</script>&\"'\x1b[2J\u202e"


def space(name: str | None, *channels: str) -> SpaceNode:
    return SpaceNode(name, tuple(PlacedChannel(channel, "image") for channel in channels))


def affine(name: str, inner: str | None, outer: str | None) -> TransformLink:
    return TransformLink(name, "affine", inner, outer, f"{name}:invert")


def graph_of(spaces: list[SpaceNode], *links: TransformLink) -> SpaceGraph:
    return SpaceGraph(Path("brain.h5"), tuple(spaces), links)


def registered() -> SpaceGraph:
    """Two images of a brain, one of them registered by an affine and a pair of fields, whose names are sorted otherwise."""
    spaces = [
        space("allen", "annotation"),
        space("middle"),
        space("native of autofluo", "autofluo"),
        space("native of cfos", "cfos"),
    ]
    back = TransformLink("a_back", "field", "allen", "middle", "warp", (0.002, 0.05), 64)
    warp = TransformLink("warp", "field", "middle", "allen", "a_back", (0.001, 0.04), 64)
    return graph_of(
        spaces, back, warp, affine("linear", "native of autofluo", "middle"), affine("same", "native of cfos", "native of autofluo")
    )


def woven(count: int, seed: int) -> SpaceGraph:
    """A random one, with circles, several ways, and a transform that leads nowhere else."""
    choose = random.Random(seed)
    spaces = [space(f"space {i}", *(f"channel {i} {j}" for j in range(choose.randint(0, 3)))) for i in range(count)]
    pairs = [(choose.randint(max(0, i - 6), i - 1), i) for i in range(1, count)]
    pairs += [tuple(choose.sample(range(count), 2)) for _ in range(count // 4)] if count > 1 else []  # type: ignore[misc]
    links = [affine(f"t{n}", spaces[a].name, spaces[b].name) for n, (a, b) in enumerate(pairs)]
    return graph_of(spaces, *links, affine("inside", spaces[0].name, spaces[0].name), affine("off", spaces[-1].name, None))


def boxes(drawn: SpaceMap) -> dict[str | None, tuple[float, float, float, float]]:
    return {box.names[0]: (box.x, box.y, box.x + box.width, box.y + box.height) for box in drawn.boxes}


def points_of(path: str) -> np.ndarray:
    """Points along a path of SVG, by de Casteljau."""
    found, here = [], np.zeros(2)
    for command, numbers in re.findall(r"([MLC])([^MLC]*)", path):
        ends = np.array(numbers.split(), float).reshape(-1, 2)
        row = [here, *ends] if command in "CL" else [ends[-1]]
        while len(row) > 1:
            row = [(1 - STEPS) * one + STEPS * other for one, other in pairwise(row)]
        found.append(np.broadcast_to(row[0], (len(STEPS), 2)))
        here = ends[-1]
    return np.concatenate(found)


@pytest.mark.parametrize("downward", [False, True])
@pytest.mark.parametrize("graph", [registered(), woven(1, 0), *(woven(30, seed) for seed in range(4))])
def test_nothing_lies_on_anything_else(graph: SpaceGraph, downward: bool) -> None:
    drawn = lay_out_spaces(graph, downward=downward)
    assert {box.names[0] for box in drawn.boxes if box.kind == "space"} >= {node.name for node in graph.spaces}
    transforms = [name for box in drawn.boxes if box.kind != "space" for name in box.names]
    assert sorted(map(str, transforms)) == sorted(link.name for link in graph.transforms)
    for one, other in combinations(drawn.boxes, 2):
        apart = one.x + one.width < other.x or other.x + other.width < one.x
        assert apart or one.y + one.height < other.y or other.y + other.height < one.y, (one, other)
    for box in drawn.boxes:
        assert box.x > 0 and box.y > 0 and box.x + box.width < drawn.width and box.y + box.height < drawn.height
        assert drawn.at(box.x + box.width / 2, box.y + box.height / 2) is box
    # All but the ends of lines, at the edges of boxes.
    edges = np.array([[box.x + 1.5, box.y + 1.5, box.x + box.width - 1.5, box.y + box.height - 1.5] for box in drawn.boxes])
    for line in drawn.lines:
        points = points_of(line.path)
        assert (points > 0).all() and (points < (drawn.width, drawn.height)).all()
        inside = (points[:, None] > edges[:, :2]).all(axis=2) & (points[:, None] < edges[:, 2:]).all(axis=2)
        assert not inside.any(), (line, drawn.boxes[np.argwhere(inside)[0][1]])


def test_images_are_carried_to_the_right_and_both_ways_where_both_are_stored() -> None:
    drawn = lay_out_spaces(registered())
    place = boxes(drawn)
    names = ["native of cfos", "same", "native of autofluo", "linear", "middle", "warp", "allen"]
    assert [place[a][2] < place[b][0] for a, b in pairwise(names)] == [True] * 6
    warp = next(box for box in drawn.boxes if "warp" in box.names)
    assert warp.names == ("warp", "a_back") and "misses by 0.001 mm" in warp.words[1]
    heads = {drawn.boxes[line.box].names[0]: [] for line in drawn.lines}
    for line in drawn.lines:
        heads[drawn.boxes[line.box].names[0]] += [line.arrow[0]] if line.arrow else []
    # The tip of an arrow touches its space.
    assert [x for x, _ in heads["linear"]] == [place["middle"][0]]
    assert [x for x, _ in heads["warp"]] == [place["middle"][2], place["allen"][0]]
    downward = boxes(lay_out_spaces(registered(), downward=True))
    assert [downward[a][3] < downward[b][1] for a, b in pairwise(names)] == [True] * 6


def test_circles_end() -> None:
    round_about = graph_of([space(name) for name in "abc"], *(affine(a + b, a, b) for a, b in ("ab", "bc", "ca")))
    drawn = lay_out_spaces(round_about)
    assert len(drawn.boxes) == 6
    # The one that closes the circle has its arrow where it comes in: at the first.
    tip = next(line.arrow[0] for line in drawn.lines if drawn.boxes[line.box].names == ("ca",) and line.arrow)
    assert tip[0] == boxes(drawn)["a"][2]
    many = [space(f"s{n}") for n in range(400)]
    lay_out_spaces(graph_of(many, *(affine(f"t{n}", f"s{n}", f"s{n + 1}") for n in range(399))))


def test_names_from_elsewhere_stay_text_and_long_ones_are_whole_in_the_tooltips() -> None:
    long = "autofluo_of_specimen_42_to_allen_mouse_25um"
    graph = graph_of([space(EVIL, EVIL), space("漢" * 40, long)], affine(long, EVIL, "漢" * 40))
    root = ET.fromstring(draw_spaces(graph))
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == {"svg", "g", "title", "rect", "text", "path", "polygon"}
    titles = "\n".join(str(title.text) for title in root.iter(f"{SVG}title"))
    assert long in titles and "漢" * 40 in titles and "</text><script>x</script>&\"'\\x1b[2J\\u202e" in titles
    texts = [str(text.text) for text in root.iter(f"{SVG}text")]
    assert "autofluo_of…_to_allen_mouse_25um"[-5:] in next(text for text in texts if text.startswith("autofluo_of"))
    assert all(len(text) <= 31 for text in texts) and max(text.count("漢") for text in texts) <= 12
    attributes = " ".join(value for element in root.iter() for value in element.attrib.values())
    assert "http" not in attributes.replace(SVG[1:-1], "")


def test_what_is_marked_is_drawn_otherwise() -> None:
    drawn = lay_out_spaces(registered())
    plain, marked = drawn.svg(), drawn.svg(spaces=["allen"], transforms=["a_back"])
    # The two boxes, the lines of the transform, and their arrows' heads.
    assert plain.count("#e8871e") == 0 and marked.count("#e8871e") == 2 + 2 + 2


def test_the_command_line_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_series(tmp_path / "planes", np.ones((4, 5, 6), np.uint16))
    np.savetxt("shift.txt", np.eye(4))
    lines = (
        "write brain.h5 --channel autofluo --image planes --voxel-size 0.1,0.1,0.1 --orientation SAR",
        "write-affine brain.h5 --channel autofluo --name moved --affine shift.txt --to allen",
        "spaces brain.h5 --output graph.svg",
    )
    for line in lines:
        assert main([*shlex.split(line), "--quiet"]) == 0, line
    texts = [text.text for text in ET.parse("graph.svg").iter(f"{SVG}text")]
    assert texts[:4] == ["allen", "native of autofluo", "autofluo", "moved"]
    before = Path("graph.svg").read_bytes()
    assert main(["spaces", "brain.h5", "--output", "graph.svg"]) == 1 and main(["spaces", "brain.h5", "--output", "graph.png"]) == 3
    assert Path("graph.svg").read_bytes() == before and not list(tmp_path.glob("*.png"))
    assert main(["spaces", "brain.h5", "--output", "graph.svg", "--overwrite"]) == 0
    assert "'native of autofluo' -> 'allen'" in capsys.readouterr().out
    assert main(["preview", "brain.h5", "--html", "--output", "page.html", "--quiet"]) == 0
    page = Path("page.html").read_text("utf-8")
    assert 'class="map"' in page and "space allen" in page
