"""A page about a file: everything that `info` tells, with pictures and histograms; one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from importlib import resources
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt

from lsfm_core.preview.picture import draw_picture, outlined
from lsfm_core.preview.request import PreviewRequest
from lsfm_core.progress import size_text
from lsfm_core.provenance import LogRecord
from lsfm_core.pyramid import Kind
from lsfm_core.regions import LabelTable, rgb_of
from lsfm_core.space_map import lay_out_spaces
from lsfm_core.spaces import SpaceGraph, describe_spaces
from lsfm_core.store import Channel, LsfmFile

__all__ = ["render_page"]

Child = ET.Element | str

#: Nothing may be fetched, whatever stands in the file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_FIND = """
for (const box of document.querySelectorAll("input[type=search]")) {
  box.hidden = false;
  const rows = [...box.parentElement.querySelectorAll("li")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  box.addEventListener("input", () => {
    const wanted = box.value.trim().toLowerCase();
    rows.forEach((row, i) => {
      row.hidden = !texts[i].includes(wanted);
      const parts = row.querySelector("details");
      if (parts) parts.open = wanted !== "";
    });
  });
}
"""
# Of pictures, unless another is asked for: about the page's width.
_SIZE = 380
_BINS = 96
# A histogram looks at so many voxels at most, in planes spread over the level.
_HISTOGRAM_VOXELS = 2**22
_CHART = (480, 110)
#: Of the page, where a picture of spaces is to the right.
_MAP_WIDTH = 1060
_LOG_TEXT = 20_000
_NO_PICTURE = "No picture: the file does not record how this channel lies; name it together with its orientation to have one."


def render_page(file: LsfmFile, request: PreviewRequest) -> str:
    """The page as HTML.

    Raises
    ------
    LsfmError
    """
    channels = [file[name] for name in request.channels or tuple(file)]
    style = resources.files(__package__).joinpath("page.css").read_text("utf-8")
    html = _tag(
        "html",
        _tag(
            "head",
            _tag("meta", charset="utf-8"),
            _tag("meta", **{"http-equiv": "Content-Security-Policy", "content": _POLICY}),
            _tag("meta", name="viewport", content="width=device-width"),
            _tag("meta", name="color-scheme", content="light dark"),
            _tag("title", file.path.name),
            _tag("style", style),
        ),
        _tag(
            "body",
            _header(file, channels),
            _tag("main", *_sections(file, channels, request)),
            _tag("script", _FIND),
        ),
        lang="en",
    )
    return "<!DOCTYPE html>\n" + ET.tostring(html, "unicode", method="html")


def _tag(name: str, /, *children: Child, **attributes: str) -> ET.Element:
    """An element; ElementTree escapes every text and attribute when it is written. ``class_`` stands for ``class``."""
    element = ET.Element(name, {key.rstrip("_"): value for key, value in attributes.items()})
    last: ET.Element | None = None
    for child in children:
        if isinstance(child, ET.Element):
            element.append(child)
            last = child
        elif last is None:
            element.text = (element.text or "") + child
        else:
            last.tail = (last.tail or "") + child
    return element


def _table(head: Sequence[str], rows: Iterable[Sequence[Child]]) -> ET.Element:
    return _tag(
        "div",
        _tag(
            "table",
            _tag("thead", _tag("tr", *(_tag("th", cell) for cell in head))),
            _tag("tbody", *(_tag("tr", *(_tag("td", cell) for cell in row)) for row in rows)),
        ),
        class_="scroll",
    )


def _facts(rows: Iterable[tuple[str, Child]]) -> ET.Element:
    return _tag("dl", *(part for name, value in rows for part in (_tag("dt", name), _tag("dd", value))))


# --- the file -------------------------------------------------------------------------------------------------------------------


def _header(file: LsfmFile, channels: Sequence[Channel]) -> ET.Element:
    stat = file.path.stat()
    when = datetime.fromtimestamp(stat.st_mtime).strftime("%Y-%m-%d %H:%M")
    xml = file.xml_path.name if file.xml_path.exists() else "no BigDataViewer XML"
    return _tag(
        "header",
        _tag("h1", file.path.name),
        _tag(
            "p",
            f"{len(file)} channel{'s' * (len(file) != 1)}  ·  {size_text(stat.st_size)}  ·  changed {when}  ·  {xml}",
            class_="muted",
        ),
        _tag("nav", *(_tag("a", channel.name, _tag("span", channel.kind), href=f"#{_anchor(channel)}") for channel in channels)),
    )


def _sections(file: LsfmFile, channels: Sequence[Channel], request: PreviewRequest) -> Iterator[ET.Element]:
    for channel in channels:
        yield _channel(file, channel, request)
    graph = describe_spaces(file)
    if graph.transforms or len(graph.spaces) > 1:
        yield _spaces(graph)
    transforms = list(_transforms(file, channels))
    if transforms:
        yield _tag(
            "section",
            _tag("h2", "Transforms"),
            _tag(
                "p",
                "Each maps a point of its output space to the space of its image, as ITK and ANTs write it; RAS mm.",
                class_="muted",
            ),
            _table(("Name", "Kind", "Belongs to", "What it does"), transforms),
        )
    if file.metadata():
        yield _tag("section", _tag("h2", "Metadata"), _facts((key, _value(value)) for key, value in file.metadata().items()))
    if records := file.log():
        yield _tag("section", _tag("h2", "Log"), *map(_log_entry, records))


def _transforms(file: LsfmFile, channels: Sequence[Channel]) -> Iterator[Sequence[Child]]:
    for channel in channels:
        for name in channel.affines:
            affine = file.affine(channel.name, name)
            rows = "\n".join("  ".join(f"{v:10.5f}" for v in row) for row in affine.matrix)
            more = _tag("details", _tag("summary", affine.describe()), _tag("pre", rows))
            yield name, "affine", channel.name, more
    for channel in channels:
        if channel.kind == "vectors":
            inverse = f"inverse: {channel.partner}" if channel.partner else "no inverse stored"
            what = f"moves points within {channel.space.bounds} mm; nothing outside"
            if channel.orientation is None:
                what = "how its vectors are meant is not recorded"
            yield channel.name, "displacement field", inverse, what


def _spaces(graph: SpaceGraph) -> ET.Element:
    drawn = lay_out_spaces(graph)
    if drawn.width > _MAP_WIDTH:
        drawn = lay_out_spaces(graph, downward=True)
    svg = drawn.element()
    svg.set("class", "map")
    return _tag(
        "section",
        _tag("h2", "Spaces"),
        _tag("p", "Which channels lie in which space, and which transforms carry images where the arrows lead.", class_="muted"),
        _tag("div", svg, class_="scroll"),
        _tag("details", _tag("summary", "In words"), _tag("pre", graph.describe())),
    )


def _log_entry(record: LogRecord) -> ET.Element:
    what = f" {record.operation}{f' {record.channel}' if record.channel else ''}"
    outcome = "" if record.outcome == "done" else f": {record.outcome}"
    # lsfmpy's entries are a text, ours have fields.
    text = record.text or json.dumps(record.model_dump(mode="json", exclude_defaults=True), indent=2, ensure_ascii=False)
    cut = text if len(text) <= _LOG_TEXT else f"{text[:_LOG_TEXT]}\n… and {len(text) - _LOG_TEXT} more characters"
    summary = _tag("summary", _tag("time", f"{record.time:%Y-%m-%d %H:%M:%S}"), what, outcome)
    return _tag("details", summary, _tag("pre", cut), class_="log")


def _value(value: Any) -> Child:
    """A metadata value: a text, or JSON in its own lines."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = None
    return _tag("pre", json.dumps(parsed, indent=2, ensure_ascii=False)) if isinstance(parsed, (dict, list)) else value


# --- a channel ------------------------------------------------------------------------------------------------------------------


def _channel(file: LsfmFile, channel: Channel, request: PreviewRequest) -> ET.Element:
    parts: list[Child] = [_tag("h2", channel.name, _tag("span", f"{channel.kind}  ·  {channel.dtype}"), id=_anchor(channel))]
    parts += [_tag("p", remark, class_="warning") for remark in _remarks(channel)]
    parts.append(_picture(file, channel, request) if _can_be_drawn(channel, request) else _tag("p", _NO_PICTURE, class_="muted"))
    parts.append(_facts(_geometry(channel)))
    parts.append(_levels(channel))
    if channel.kind == "labels":
        parts.append(_labels(LabelTable.from_json(file.label_table(channel.name))))
    else:
        parts.append(_histogram(channel))
    acquisition = file.acquisition(channel.name)
    if acquisition:
        parts += [_tag("h3", "Acquisition"), _facts((key, _value(value)) for key, value in acquisition.items())]
    return _tag("section", *parts)


def _remarks(channel: Channel) -> Iterator[str]:
    yield from channel.remarks
    if channel.orientation is not None and channel.orientation.is_mirrored:
        yield (
            f"orientation {channel.orientation} is left-handed: legal, but more often a mistake that turns left into right; "
            "look at the picture"
        )


def _can_be_drawn(channel: Channel, request: PreviewRequest) -> bool:
    """Whether it is known how a channel lies; a given orientation holds for images, or for the channels that are given with it."""
    is_meant = channel.kind in ("image", "components") or bool(request.channels)
    return channel.orientation is not None or (request.orientation is not None and channel.unit == "mm" and is_meant)


def _picture(file: LsfmFile, channel: Channel, request: PreviewRequest) -> ET.Element:
    from PIL import Image

    drawn, _ = outlined(file, request.channels or tuple(file), request)
    overlaid = request.labels_channel if channel.name in drawn else None
    wanted = {"labels_channel": overlaid} if "size" in request.model_fields_set else {"labels_channel": overlaid, "size": _SIZE}
    picture = draw_picture(file, [channel.name], request.model_copy(update=wanted), titles=False)
    png = io.BytesIO()
    Image.fromarray(picture.image).save(png, "PNG")
    return _tag(
        "img",
        src="data:image/png;base64," + base64.b64encode(png.getvalue()).decode(),
        alt=f"{channel.name}: sagittal, coronal and horizontal view; the letters tell the sides of the body",
        width=str(picture.layout.width),
        height=str(picture.layout.height),
    )


def _geometry(channel: Channel) -> Iterator[tuple[str, Child]]:
    orientation = channel.orientation
    if orientation is None:
        yield "Orientation", "not recorded"
    else:
        yield "Orientation", _tag("span", _tag("b", orientation.axcodes), f" (origin at {orientation.origin_letters})")
        yield "Axes", "; ".join(orientation.directions) + " (planes; rows; columns)"
        r, a, s = channel.space.bounds.size_mm
        yield "Extent", f"{r:.3f} x {a:.3f} x {s:.3f} mm (R, A, S): {channel.space.bounds}"
    if channel.display_range is not None and channel.kind in ("image", "components"):
        yield "Display range", f"{channel.display_range[0]:.6g} to {channel.display_range[1]:.6g}"
    if channel.setup is not None:
        yield "BigDataViewer", f"setup {channel.setup}"
    if channel.written_by:
        yield "Written by", channel.written_by
    if channel.sources:
        total = sum(source.size for source in channel.sources)
        names = channel.sources[0].name + (f" … {channel.sources[-1].name}" if len(channel.sources) > 1 else "")
        yield "Sources", f"{len(channel.sources)} file{'s' * (len(channel.sources) > 1)}, {size_text(total)}: {names}"


def _levels(channel: Channel) -> ET.Element:
    return _table(
        ("Level", "Voxels", f"Voxel size, {channel.unit}", "Factors", "Chunk", "Uncompressed"),
        (
            (
                str(level.index),
                _by(level.shape),
                _by(f"{v:.6g}" for v in level.space.voxel_size_mm),
                _by(f"{f:g}" for f in level.factors),
                _by(level.data.chunks),
                size_text(level.data.nbytes),
            )
            for level in channel.levels
        ),
    )


def _histogram(channel: Channel) -> ET.Element:
    """Counts of voxel values, as a chart with a logarithmic axis; of vectors, of their lengths."""
    level = channel.levels[-1]
    planes = max(1, _HISTOGRAM_VOXELS // int(np.prod(level.shape[1:3])))
    index = np.unique(np.linspace(0, level.shape[0] - 1, min(planes, level.shape[0])).round().astype(int))
    values = np.concatenate([_scalars(np.asarray(level[int(i)]), channel.kind) for i in index])
    if not values.size:
        return _tag("p", "no finite value", class_="muted")
    low, high = float(values.min()), float(values.max())
    counts, edges = np.histogram(values, _BINS, (low, high if high > low else low + 1))
    width, height = _CHART
    heights = np.log1p(counts) / np.log1p(counts.max()) * height
    step = width / _BINS
    path = "".join(f"M{k * step:.1f} {height}v{-h:.1f}h{step - 0.6:.1f}v{h:.1f}z" for k, h in enumerate(heights) if h)
    drawn = [_tag("path", d=path, class_="bars")]
    if channel.display_range is not None and channel.kind in ("image", "components"):
        x0, x1 = (min(max((v - edges[0]) / (edges[-1] - edges[0]), 0), 1) * width for v in channel.display_range)
        drawn.insert(0, _tag("rect", x=f"{x0:.1f}", y="0", width=f"{x1 - x0:.1f}", height=str(height), class_="range"))
    label = f"histogram of {channel.name}"
    svg = _tag("svg", *drawn, viewBox=f"0 0 {width} {height}", preserveAspectRatio="none", role="img", **{"aria-label": label})
    what = "vector lengths, mm" if channel.kind == "vectors" else "voxel values"
    shaded = ", display range shaded" if len(drawn) > 1 else ""
    return _tag(
        "figure",
        svg,
        _tag("div", _tag("span", f"{edges[0]:.5g}"), _tag("span", f"{edges[-1]:.5g}"), class_="axis"),
        _tag("figcaption", f"{what} of level {level.index}, counts logarithmic up to {counts.max():,}{shaded}"),
    )


def _scalars(plane: npt.NDArray[Any], kind: Kind) -> npt.NDArray[np.float32]:
    values = np.linalg.norm(plane, axis=-1) if kind == "vectors" else plane
    finite: npt.NDArray[np.float32] = values[np.isfinite(values)].astype(np.float32)
    return finite


def _labels(table: LabelTable) -> ET.Element:
    if not table:
        return _tag("p", "no label table: the ids have no names", class_="muted")
    # Regions of a circle, in a table from elsewhere, hang on no top.
    tops = [key for key, label in table.items() if label.parent not in table]
    return _tag(
        "details",
        _tag("summary", f"Label table: {len(table)} regions"),
        _tag("input", type="search", placeholder="find a region", hidden="hidden", **{"aria-label": "find a region"}),
        _tag("ul", *(_region(table, key, is_top=True) for key in tops)),
        class_="labels",
    )


def _region(table: LabelTable, key: int, *, is_top: bool) -> ET.Element:
    label = table[key]
    r, g, b = rgb_of(key, table)
    line: list[Child] = [_tag("i", style=f"background:rgb({r},{g},{b})"), label.name]
    if label.acronym:
        line.append(_tag("b", label.acronym))
    line.append(_tag("small", str(key)))
    parts = [_region(table, part, is_top=False) for part in table.children(key)]
    if not parts:
        return _tag("li", *line)
    opened = {"open": "open"} if is_top else {}
    return _tag("li", _tag("details", _tag("summary", *line), _tag("ul", *parts), **opened))


def _anchor(channel: Channel) -> str:
    return f"channel-{quote(channel.name)}"


def _by(values: Iterable[Any]) -> str:
    return " x ".join(str(v) for v in values)
