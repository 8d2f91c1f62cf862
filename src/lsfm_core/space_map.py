"""A picture of the spaces of a file: boxes for spaces and for the transforms between them, laid out in layers, as SVG.

Images are carried from left to right, or downward. Each transform has a box of its own between those of its spaces, so that no
words ever lie on each other; lines that pass a layer get a place there as well, and cross no box.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal
from xml.etree import ElementTree as ET

from lsfm_core.plain import plain
from lsfm_core.spaces import UNKNOWN, SpaceGraph, SpaceNode, TransformLink
from lsfm_core.store import own_space

__all__ = ["MapBox", "MapLine", "SpaceMap", "draw_spaces", "lay_out_spaces"]

BoxKind = Literal["space", "affine", "field"]
Point = tuple[float, float]

#: White letters can be read on them, and they stand out on dark and on light; so do the lines.
_COLOURS = {"space": "#3b6fb6", "affine": "#7a5ca8", "field": "#2e7d5b", "unknown": "#6b6b6b"}
_LINE, _MARK = "#8a8a8a", "#e8871e"
_FONT_PX, _LINE_PX, _CHAR_PX, _BOLD_PX = 12, 17, 7.2, 8.0
_PADDING, _MARGIN, _GAP, _APART = 10, 8, 30, 14
_ARROW = 8
#: Longer names are shortened in the middle; whole ones stand in the tooltips.
_LONGEST = 24
_MOST_CHANNELS = 8
_SWEEPS = 12


@dataclass(frozen=True)
class MapBox:
    """A box of the picture.

    Attributes
    ----------
    kind : {"space", "affine", "field"}
    names : tuple of str or None
        The space; or the transform, and its inverse where that is a transform of its own. None is a space that is not known.
    words : tuple of str
        What stands in it, line by line.
    title : str
        All of it in words, with whole names.
    x, y, width, height : float
        Its place in the picture, pixels.
    """

    kind: BoxKind
    names: tuple[str | None, ...]
    words: tuple[str, ...]
    title: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class MapLine:
    """A line between a space and a transform.

    Attributes
    ----------
    box : int
        The transform's place among the boxes.
    path : str
        As SVG spells it.
    arrow : tuple of (float, float)
        The corners of an arrow's head at the space, if there is one.
    """

    box: int
    path: str
    arrow: tuple[Point, ...]


@dataclass(frozen=True)
class SpaceMap:
    """Where everything stands in a picture of spaces.

    Attributes
    ----------
    width, height : float
        Pixels.
    boxes : tuple of MapBox
        The spaces first.
    lines : tuple of MapLine
    """

    width: float
    height: float
    boxes: tuple[MapBox, ...]
    lines: tuple[MapLine, ...]

    def at(self, x: float, y: float) -> MapBox | None:
        """The box at a place, if there is one."""
        inside = (box for box in self.boxes if box.x <= x <= box.x + box.width and box.y <= y <= box.y + box.height)
        return next(inside, None)

    def element(self, spaces: Collection[str | None] = (), transforms: Collection[str] = ()) -> ET.Element:
        """The picture as an element of SVG, in which some boxes are marked."""
        marked = {
            index
            for index, box in enumerate(self.boxes)
            if not {*box.names}.isdisjoint(spaces if box.kind == "space" else transforms)
        }
        size = {"width": f"{self.width:g}", "height": f"{self.height:g}", "viewBox": f"0 0 {self.width:g} {self.height:g}"}
        look = {"font-family": "DejaVu Sans, Segoe UI, Helvetica, Arial, sans-serif", "font-size": str(_FONT_PX)}
        svg = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, **look, "role": "img"})
        svg.set("aria-label", "spaces, and the transforms between them")
        for line in self.lines:
            colour = _MARK if line.box in marked else _LINE
            thick = "3" if line.box in marked else "1.5"
            ET.SubElement(svg, "path", {"d": line.path, "fill": "none", "stroke": colour, "stroke-width": thick})
            if line.arrow:
                corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in line.arrow)
                ET.SubElement(svg, "polygon", {"points": corners, "fill": colour})
        for index, box in enumerate(self.boxes):
            svg.append(_drawn(box, is_marked=index in marked))
        return svg

    def svg(self, spaces: Collection[str | None] = (), transforms: Collection[str] = ()) -> str:
        """The picture as the text of an SVG file.

        Parameters
        ----------
        spaces, transforms : collection of str
            Names of those that are to be marked.
        """
        return ET.tostring(self.element(spaces, transforms), "unicode")


def draw_spaces(graph: SpaceGraph) -> str:
    """A picture of the spaces of a file, as the text of an SVG file that needs nothing else."""
    return lay_out_spaces(graph).svg()


@dataclass(eq=False)
class _Edge:
    """A transform between two spaces, by their numbers; of two that are each other's inverse both."""

    links: tuple[TransformLink, ...]
    begin: int
    end: int
    #: Whether it is laid out from its end to its begin, which breaks a circle.
    is_back: bool = False

    @property
    def low(self) -> int:
        return self.end if self.is_back else self.begin

    @property
    def high(self) -> int:
        return self.begin if self.is_back else self.end


@dataclass(eq=False)
class _Place:
    """What takes room in a layer: a box, or a line that passes."""

    along: float
    across: float
    kind: BoxKind | None = None
    names: tuple[str | None, ...] = ()
    words: tuple[str, ...] = ()
    title: str = ""
    before: list[_Place] = field(default_factory=list)
    after: list[_Place] = field(default_factory=list)
    start: float = 0.0
    #: Of its middle.
    centre: float = 0.0


def lay_out_spaces(graph: SpaceGraph, *, downward: bool = False) -> SpaceMap:
    """Find a place for each space and each transform.

    Parameters
    ----------
    graph : SpaceGraph
    downward : bool
        Whether images are carried downward, where there is more height than width, and not to the right.
    """
    spaces = list(graph.spaces)
    sides = {side for link in graph.transforms for side in (link.inner, link.outer)}
    spaces += [SpaceNode(name, ()) for name in sorted(sides, key=str) if name not in {space.name for space in spaces}]
    number = {space.name: index for index, space in enumerate(spaces)}
    edges = list(_edges(graph.transforms, number))
    _turn_pairs(edges, spaces)
    ranks = _ranks(edges, len(spaces))
    layers: list[list[_Place]] = [[] for _ in range(2 * max(ranks, default=0) + 2)]
    nodes = [_space_place(space, downward) for space in spaces]
    for node, rank in zip(nodes, ranks, strict=True):
        layers[2 * rank].append(node)
    ways = []
    for edge in edges:
        box = _transform_place(edge, downward)
        last = 2 * ranks[edge.high] if edge.low != edge.high else 2 * ranks[edge.low] + 2
        between = [box, *(_Place(0, _APART) for _ in range(2 * ranks[edge.low] + 2, last))]
        for layer, place in enumerate(between, 2 * ranks[edge.low] + 1):
            layers[layer].append(place)
        way = [nodes[edge.low], *between, *([nodes[edge.high]] if edge.low != edge.high else [])]
        for before, after in pairwise(way):
            before.after.append(after)
            after.before.append(before)
        ways.append((edge, way))
    _order(layers)
    _settle(layers)
    return _finished(layers, nodes, ways, downward)


# --- what there is -------------------------------------------------------------------------------------------------------------


def _edges(links: Sequence[TransformLink], number: dict[str | None, int]) -> Iterator[_Edge]:
    """The transforms; a field and its inverse are one."""
    by_name = {link.name: link for link in links if link.kind == "field"}
    done = set()
    for link in links:
        if link.name in done:
            continue
        other = by_name.get(link.inverse or "") if link.kind == "field" else None
        is_pair = other is not None and other is not link and (other.outer, other.inner) == (link.inner, link.outer)
        pair = (link, other) if other is not None and is_pair else (link,)
        done |= {part.name for part in pair}
        yield _Edge(pair, number[link.inner], number[link.outer])


def _turn_pairs(edges: Sequence[_Edge], spaces: Sequence[SpaceNode]) -> None:
    """Let what leads both ways lead away from the images: from the spaces that nothing else leads to."""
    reached = {edge.end for edge in edges if len(edge.links) == 1}
    begins = {edge.begin for edge in edges if len(edge.links) == 1} - reached
    native = {
        index for index, space in enumerate(spaces) if any(space.name == own_space(channel.name) for channel in space.channels)
    }
    beside = defaultdict(list)
    for edge in edges:
        beside[edge.begin].append(edge.end)
        beside[edge.end].append(edge.begin)
    far = dict.fromkeys((begins | (native - reached)) or {0}, 0)
    queue = deque(far)
    while queue:
        here = queue.popleft()
        for there in beside[here]:
            if there not in far:
                far[there] = far[here] + 1
                queue.append(there)
    for edge in edges:
        if len(edge.links) == 2 and far.get(edge.begin, 0) > far.get(edge.end, 0):
            edge.begin, edge.end, edge.links = edge.end, edge.begin, edge.links[::-1]


def _ranks(edges: Sequence[_Edge], count: int) -> list[int]:
    """How many spaces at most lie before each, without going in circles."""
    onward = defaultdict(list)
    for edge in edges:
        if edge.begin != edge.end:
            onward[edge.begin].append(edge)
    entered = {edge.end for edge in edges if edge.begin != edge.end}
    order: list[int] = []
    state: Counter[int] = Counter()

    for first in sorted(range(count), key=lambda node: node in entered):
        way = [] if state[first] else [(first, iter(onward[first]))]
        state[first] = state[first] or 1
        while way:
            node, rest = way[-1]
            following = next(rest, None)
            if following is None:
                state[node] = 2
                order.append(node)
                way.pop()
            elif state[following.end] == 1:
                following.is_back = True
            elif not state[following.end]:
                state[following.end] = 1
                way.append((following.end, iter(onward[following.end])))
    ranks = [0] * count
    forward = [edge for edge in edges if edge.begin != edge.end]
    for node in reversed(order):
        for edge in forward:
            if edge.low == node:
                ranks[edge.high] = max(ranks[edge.high], ranks[node] + 1)
    # What begins somewhere stands beside where it leads to.
    for node in order:
        after = [ranks[edge.high] for edge in forward if edge.low == node]
        if after and not any(edge.high == node for edge in forward):
            ranks[node] = min(after) - 1
    return ranks


def _space_place(space: SpaceNode, downward: bool) -> _Place:
    name = UNKNOWN if space.name is None else space.name
    channels = [channel.name if channel.kind == "image" else f"{channel.name} ({channel.kind})" for channel in space.channels]
    shown = channels if len(channels) <= _MOST_CHANNELS else channels[: _MOST_CHANNELS - 1]
    more = [f"and {len(channels) - len(shown)} more"] if len(shown) < len(channels) else []
    title = [f"space {name}" if space.name is not None else "not recorded", *channels]
    return _box("space", (space.name,), [name, *shown, *more], "\n".join(title), downward)


def _transform_place(edge: _Edge, downward: bool) -> _Place:
    link = edge.links[0]
    if link.kind == "affine":
        words = [link.name, "affine, invertible", *(["mirrors space"] if link.mirrors else [])]
    elif len(edge.links) == 2:
        misses = f", misses by {link.residual_mm[0]:.2g} mm" if link.residual_mm is not None else ""
        words = [link.name, f"field{misses}", f"inverse: {shortened(edge.links[1].name, _LONGEST - 9)}"]
    else:
        words = [link.name, "field", "inverse: numeric only" if link.inverse is None else f"inverse: {link.inverse}"]
    title = "\n".join(part.describe() for part in edge.links)
    return _box(link.kind, tuple(part.name for part in edge.links), words, title, downward)


def _box(kind: BoxKind, names: tuple[str | None, ...], words: Iterable[str], title: str, downward: bool) -> _Place:
    lines = tuple(shortened(plain(text), _LONGEST + 6 * bool(index)) for index, text in enumerate(words))
    wide = max(_columns(text) * (_CHAR_PX if index else _BOLD_PX) for index, text in enumerate(lines)) + 2 * _PADDING
    high = len(lines) * _LINE_PX + _PADDING
    along, across = (high, wide) if downward else (wide, high)
    return _Place(along, across, kind, names, lines, plain(title, lines=True))


def shortened(text: str, longest: int) -> str:
    """A text that is not longer than that: of a longer one its begin and its end."""
    if _columns(text) <= longest:
        return text
    half = (longest - 1) // 2
    while _columns(text[:half]) + _columns(text[-half:]) >= longest and half > 1:
        half -= 1
    return f"{text[:half]}…{text[-half:]}"


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


# --- where it stands -----------------------------------------------------------------------------------------------------------


def _order(layers: Sequence[list[_Place]]) -> None:
    """Let each place stand among its neighbours', again and again, so that few lines cross."""
    rank = {place: (index + 0.5) / len(layer) for layer in layers for index, place in enumerate(layer)}

    def mean(near: Sequence[_Place], own: float) -> float:
        return sum(rank[other] for other in near) / len(near) if near else own

    for sweep in range(_SWEEPS):
        is_onward = sweep % 2 == 0
        for layer in layers if is_onward else reversed(layers):
            wishes = {place: mean(place.before if is_onward else place.after, rank[place]) for place in layer}
            layer.sort(key=wishes.__getitem__)
            rank |= {place: (index + 0.5) / len(layer) for index, place in enumerate(layer)}


def _settle(layers: Sequence[list[_Place]]) -> None:
    """Give each place its middle across the layers: as near to its neighbours' as the others in its layer allow."""
    for layer in layers:
        _spread(layer, [0.0] * len(layer))
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wishes = []
            for place in layer:
                near = [other.centre for other in (*place.before, *place.after)]
                wishes.append(sum(near) / len(near) if near else place.centre)
            _spread(layer, wishes)
    start = float(_MARGIN)
    for layer in layers:
        along = max((place.along for place in layer), default=0.0)
        for place in layer:
            if place.kind is None:
                # Straight past the boxes beside it.
                place.along = along
            place.start = start + (along - place.along) / 2
        start += along + _GAP if layer else 0
    least = min((place.centre - place.across / 2 for layer in layers for place in layer), default=0.0)
    for layer in layers:
        for place in layer:
            place.centre += _MARGIN - least


def _spread(layer: Sequence[_Place], wishes: Sequence[float]) -> None:
    """Place what stands in a layer where it wishes, in its order, and apart from each other."""
    end = float("-inf")
    for place, wish in zip(layer, wishes, strict=True):
        place.centre = max(wish, end + _APART + place.across / 2)
        end = place.centre + place.across / 2
    if layer:
        shift = sum(place.centre - wish for place, wish in zip(layer, wishes, strict=True)) / len(layer)
        for place in layer:
            place.centre -= shift


def _finished(
    layers: Sequence[Sequence[_Place]], nodes: Sequence[_Place], ways: Sequence[tuple[_Edge, list[_Place]]], downward: bool
) -> SpaceMap:
    places = [*nodes, *(way[1] for _, way in ways)]
    boxes = tuple(_finished_box(place, downward) for place in places)
    lines: list[MapLine] = []
    for index, (edge, way) in enumerate(ways, len(nodes)):
        is_both = len(edge.links) == 2
        heads = (False, False) if edge.begin == edge.end else (edge.is_back or is_both, not edge.is_back or is_both)
        lines.append(_line(index, way[:2], (heads[0], False), downward))
        if len(way) > 2:
            lines.append(_line(index, way[1:], (False, heads[1]), downward))
    width = max((box.x + box.width for box in boxes), default=0) + _MARGIN
    height = max((box.y + box.height for box in boxes), default=0) + _MARGIN
    # Lines that pass take room as well.
    across = max((place.centre + place.across / 2 for layer in layers for place in layer), default=0.0) + _MARGIN
    return SpaceMap(max(width, across if downward else 0), max(height, 0 if downward else across), boxes, tuple(lines))


def _finished_box(place: _Place, downward: bool) -> MapBox:
    assert place.kind is not None
    corner, size = (place.start, place.centre - place.across / 2), (place.along, place.across)
    x, y = reversed(corner) if downward else corner
    width, height = reversed(size) if downward else size
    return MapBox(place.kind, place.names, place.words, place.title, round(x, 1), round(y, 1), round(width, 1), round(height, 1))


def _line(box: int, way: Sequence[_Place], heads: tuple[bool, bool], downward: bool) -> MapLine:
    """A curve from place to place, with an arrow's head at its first or last one."""
    ends: list[tuple[Point, Point]] = []
    for index, place in enumerate(way):
        first = place.start - (_ARROW if heads[1] and index == len(way) - 1 else 0)
        last = place.start + place.along + (_ARROW if heads[0] and index == 0 else 0)
        ends.append(((first, place.centre), (last, place.centre)))

    def spelled(point: Point) -> str:
        x, y = point[::-1] if downward else point
        return f"{x:.1f} {y:.1f}"

    parts = [f"M{spelled(ends[0][1])}"]
    for (before, here), (there, _) in pairwise(ends):
        if before != ends[0][0]:
            parts.append(f"L{spelled(here)}")
        middle = (here[0] + there[0]) / 2
        parts.append(f"C{spelled((middle, here[1]))} {spelled((middle, there[1]))} {spelled(there)}")
    half = _ARROW / 2 + 0.5
    corners: list[Point] = []
    for has_head, (tip, back), across in (
        (heads[0], (ends[0][1][0] - _ARROW, ends[0][1][0]), ends[0][1][1]),
        (heads[1], (ends[-1][0][0] + _ARROW, ends[-1][0][0]), ends[-1][0][1]),
    ):
        if has_head:
            corners = [(tip, across), (back, across - half), (back, across + half)]
    return MapLine(box, "".join(parts), tuple(corner[::-1] if downward else corner for corner in corners))


# --- drawn ---------------------------------------------------------------------------------------------------------------------


def _drawn(box: MapBox, *, is_marked: bool) -> ET.Element:
    group = ET.Element("g")
    ET.SubElement(group, "title").text = box.title
    colour = _COLOURS["unknown" if box.names == (None,) else box.kind]
    shape = {"x": f"{box.x:g}", "y": f"{box.y:g}", "width": f"{box.width:g}", "height": f"{box.height:g}", "fill": colour}
    shape["rx"] = "4" if box.kind == "space" else "12"
    if is_marked:
        shape |= {"stroke": _MARK, "stroke-width": "3"}
    ET.SubElement(group, "rect", shape)
    for index, text in enumerate(box.words):
        place = {"x": f"{box.x + _PADDING:g}", "y": f"{box.y + _PADDING / 2 + (index + 0.75) * _LINE_PX:g}", "fill": "#ffffff"}
        ET.SubElement(group, "text", place | ({} if index else {"font-weight": "bold"})).text = text
    return group
