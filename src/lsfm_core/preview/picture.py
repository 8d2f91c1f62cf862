"""The picture of a file: its channels' views in rows, with letters, captions and a scale bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError
from lsfm_core.export import check_spaces
from lsfm_core.geometry import Triple
from lsfm_core.preview._planes import View, export_request, extent, read_values, read_views
from lsfm_core.preview.request import PreviewRequest
from lsfm_core.regions import LabelTable, rgb_of
from lsfm_core.store import Channel, LsfmFile

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

__all__ = ["Layout", "Panel", "Picture", "ScaleBar", "Text", "draw_picture", "outlined"]

Array = npt.NDArray[Any]
Rgb = tuple[int, int, int]

_BACKGROUND: Rgb = (13, 15, 18)
_BRIGHT: Rgb = (240, 243, 246)
_LETTER: Rgb = (255, 196, 84)
_MUTED: Rgb = (150, 158, 168)
#: View, and where its viewer stands; by the axis that it looks along.
_VIEWS = (("sagittal", "from the right"), ("coronal", "from behind"), ("horizontal", "from above"))
# Part of each outline's colour; the rest is the image below.
_OUTLINE = 0.85
_SEPARATOR = "  ·  "


@dataclass(frozen=True)
class Text:
    """A line of text; `x` and `y` are where its `anchor` (Pillow's two letters) lies."""

    x: int
    y: int
    text: str
    anchor: str
    size: int
    colour: Rgb


@dataclass(frozen=True)
class Panel:
    """Where a view stands.

    Attributes
    ----------
    channel : str
    view : {"sagittal", "coronal", "horizontal"}
    box : tuple of 4 int
        Left, top, right, bottom; the last two are the first pixels outside.
    letters : tuple of Text
        Left, right, top, bottom: sides of the body.
    """

    channel: str
    view: str
    box: tuple[int, int, int, int]
    letters: tuple[Text, Text, Text, Text]


@dataclass(frozen=True)
class ScaleBar:
    """A line from `x0` up to `x1`, `length_mm` long in every panel's scale."""

    x0: int
    x1: int
    y: int
    length_mm: float


@dataclass(frozen=True)
class Layout:
    """Where everything of a picture stands, in pixels.

    Attributes
    ----------
    width, height : int
    pixel_mm : float
    panels : tuple of Panel
        Three per channel: sagittal, coronal, horizontal.
    texts : tuple of Text
        All but the panels' letters.
    bar : ScaleBar
    """

    width: int
    height: int
    pixel_mm: float
    panels: tuple[Panel, ...]
    texts: tuple[Text, ...]
    bar: ScaleBar


@dataclass(frozen=True, eq=False)
class Picture:
    """An image (rows, columns, RGB; uint8), and where what stands in it."""

    image: npt.NDArray[np.uint8]
    layout: Layout


@dataclass(frozen=True, eq=False)
class _Row:
    channel: Channel
    views: tuple[View, ...]
    images: tuple[npt.NDArray[np.uint8], ...]
    caption: str


def outlined(file: LsfmFile, names: Sequence[str], request: PreviewRequest) -> tuple[frozenset[str], tuple[str, ...]]:
    """Over which of some channels the labels are drawn, and what the user should look at.

    Channels of another space are left out where nobody has named them.

    Raises
    ------
    UnknownChannelError
    InputError
        If there are no outlines to draw, or they would be drawn over another anatomy.
    """
    labels = request.labels_channel
    if labels is None:
        return frozenset(), ()
    if file[labels].kind != "labels":
        raise InputError(f"{file.path}: channel {labels!r} holds {file[labels].kind}: only labels have outlines")
    drawn: list[str] = []
    warnings: list[str] = []
    kinds = ("image", "components") if request.is_page else ("image", "components", "vectors")
    images = [name for name in names if file[name].kind in kinds]
    for name in images:
        try:
            warnings += check_spaces(file, export_request(request, name), labels=(labels, "native"), may_transform=False)
        except InputError as error:
            if request.channels or (name == images[-1] and not drawn):
                raise
            warnings.append(f"no outlines are drawn over channel {name!r}: {error}")
        else:
            drawn.append(name)
    return frozenset(drawn), tuple(warnings)


def draw_picture(file: LsfmFile, names: Sequence[str], request: PreviewRequest, *, titles: bool = True) -> Picture:
    """Draw some channels, one row each, with their names if there are to be titles.

    Raises
    ------
    LsfmError
    """
    drawn, _ = outlined(file, names, request)
    pixel_mm = max(max(extent(file, name, request)) for name in names) / request.size
    rows = [_read_row(file, name, request, pixel_mm, name in drawn) for name in names]
    layout = _lay_out(rows, request, pixel_mm, titles)
    return Picture(_draw(rows, layout), layout)


# --- colours --------------------------------------------------------------------------------------------------------------------


def _read_row(file: LsfmFile, name: str, request: PreviewRequest, pixel_mm: float, is_outlined: bool) -> _Row:
    channel = file[name]
    views = read_views(file, name, request, pixel_mm)
    caption = _caption(channel, extent(file, name, request), views[0].level)
    if channel.kind == "labels":
        table = LabelTable.from_json(file.label_table(name))
        return _Row(channel, views, tuple(_filled(view.values, table) for view in views), caption)
    images = _shaded(channel, views, request)
    if request.labels_channel is not None and is_outlined:
        labels = file[request.labels_channel].name
        table = LabelTable.from_json(file.label_table(labels))
        over = read_values(file, labels, request, [view.space for view in views])
        images = tuple(_outlined(image, view.values, table) for image, view in zip(images, over, strict=True))
        caption += f"{_SEPARATOR}outlines: {labels}"
    return _Row(channel, views, images, caption)


def _caption(channel: Channel, extent_mm: Triple, level: int) -> str:
    size = " x ".join(f"{v:.2f}" for v in extent_mm)
    voxel = " x ".join(f"{v:.4g}" for v in channel.space.voxel_size_mm)
    shape = " x ".join(map(str, channel.space.shape))
    facts = [
        f"{shape} voxels of {voxel} mm",
        str(channel.orientation) if channel.orientation is not None else "orientation as given",
        f"{size} mm (R x A x S)",
        f"level {level}",
        *{"image": (), "labels": ("labels",), "vectors": ("length of the vectors",), "components": ()}[channel.kind],
    ]
    return _SEPARATOR.join(facts)


def _shaded(channel: Channel, views: Sequence[View], request: PreviewRequest) -> tuple[npt.NDArray[np.uint8], ...]:
    """Grey values or colours, over the range that is stored for display, or from what is seen where none is."""
    seen = np.concatenate([view.values[np.isfinite(view.values)] for view in views])
    low, high = np.percentile(seen, (0.5, 99.8)) if seen.size else (0.0, 1.0)
    if channel.kind == "vectors":
        low = 0.0
    elif channel.display_range is not None:
        # A projection is brighter than the voxels that the range was found for.
        brightest = np.percentile(seen, 97) if request.projection == "max" and seen.size else -np.inf
        low, high = channel.display_range[0], max(channel.display_range[1], brightest)
    scale = 255 / (high - low) if high > low else 1.0
    finite = [np.nan_to_num(view.values.astype(np.float64), nan=low, posinf=high, neginf=low) for view in views]
    shades = [np.clip((values - low) * scale, 0, 255).astype(np.uint8) for values in finite]
    return tuple(shade if shade.ndim == 3 else np.repeat(shade[:, :, None], 3, axis=2) for shade in shades)


def _filled(labels: Array, table: LabelTable) -> npt.NDArray[np.uint8]:
    ids, index = np.unique(labels, return_inverse=True)
    palette = np.array([rgb_of(int(key), table) if key else (0, 0, 0) for key in ids], np.uint8)
    return palette[index.reshape(labels.shape)]


def _outlined(image: npt.NDArray[np.uint8], labels: Array, table: LabelTable) -> npt.NDArray[np.uint8]:
    """The image with a line of one pixel where a label meets another, in the colour of the one that is left or above."""
    edge = np.zeros(labels.shape, bool)
    owner = labels.copy()
    for here, there in (((slice(None), slice(-1)), (slice(None), slice(1, None))), ((slice(-1),), (slice(1, None),))):
        differs = labels[here] != labels[there]
        edge[here] |= differs
        owner[here] = np.where(differs & (owner[here] == 0), labels[there], owner[here])
    mixed = image * (1 - _OUTLINE) + _filled(owner, table) * _OUTLINE
    return np.where(edge[:, :, None], mixed.astype(np.uint8), image)


# --- layout ---------------------------------------------------------------------------------------------------------------------


def _lay_out(rows: Sequence[_Row], request: PreviewRequest, pixel_mm: float, titles: bool) -> Layout:
    em = max(13, round(request.size / 36))
    margin, gutter = 2 * em, round(1.8 * em)
    widths = [max(row.images[k].shape[1] for row in rows) + 2 * gutter for k in range(3)]
    texts: list[Text] = []
    panels: list[Panel] = []
    y = margin
    for row in rows:
        if titles:
            texts.append(Text(margin, y, row.channel.name, "la", round(1.5 * em), _BRIGHT))
            y += 2 * em
        texts.append(Text(margin, y, row.caption, "la", em, _MUTED))
        top = y + round(2.2 * em)
        height = max(image.shape[0] for image in row.images)
        x = margin
        for view, image, width in zip(row.views, row.images, widths, strict=True):
            left = x + (width - image.shape[1]) // 2
            upper = top + round(1.6 * em) + gutter
            box = (left, upper, left + image.shape[1], upper + image.shape[0])
            name, viewer = _VIEWS[view.across]
            heading = f"{name}, {viewer}"
            if request.projection == "middle":
                heading += f"{_SEPARATOR}{'RAS'[view.across]} {view.space.first_voxel_mm[view.across]:.2f} mm"
            texts.append(Text((box[0] + box[2]) // 2, box[1] - gutter, heading, "ms", em, _MUTED))
            panels.append(Panel(row.channel.name, name, box, _letters(view, box, gutter, round(1.15 * em))))
            x += width
        y = top + round(1.6 * em) + 2 * gutter + height + em
    length_mm = _round_length(max(image.shape[1] for row in rows for image in row.images) * pixel_mm / 4)
    x0 = margin + gutter
    bar = ScaleBar(x0, x0 + round(length_mm / pixel_mm), y + em // 2, length_mm)
    how = "middle slices" if request.projection == "middle" else "maximum projections"
    texts.append(Text(bar.x1 + em // 2, bar.y, f"{length_mm:g} mm", "lm", round(1.15 * em), _BRIGHT))
    ends = [text.x + round(_font(text.size).getlength(text.text)) for text in texts if text.anchor[0] == "l"]
    right = max(margin + sum(widths) - gutter, *ends)
    texts.append(Text(right, bar.y, f"{how}, {pixel_mm:.3g} mm per pixel", "rm", em, _MUTED))
    return Layout(right + gutter + margin, bar.y + margin, pixel_mm, tuple(panels), tuple(texts), bar)


def _letters(view: View, box: tuple[int, int, int, int], gutter: int, size: int) -> tuple[Text, Text, Text, Text]:
    left, top, right, bottom = box
    x, y = (left + right) // 2, (top + bottom) // 2
    letters = view.letters
    return (
        Text(left - gutter // 2, y, letters["left"], "mm", size, _LETTER),
        Text(right + gutter // 2, y, letters["right"], "mm", size, _LETTER),
        Text(x, top - gutter // 2, letters["top"], "mm", size, _LETTER),
        Text(x, bottom + gutter // 2, letters["bottom"], "mm", size, _LETTER),
    )


def _round_length(most_mm: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not more."""
    power = 10.0 ** np.floor(np.log10(most_mm))
    return float(max(step * power for step in (1, 2, 5) if step * power <= most_mm * (1 + 1e-9)))


# --- drawing --------------------------------------------------------------------------------------------------------------------


def _draw(rows: Sequence[_Row], layout: Layout) -> npt.NDArray[np.uint8]:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (layout.width, layout.height), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for panel, image in zip(layout.panels, (image for row in rows for image in row.images), strict=True):
        picture.paste(Image.fromarray(image), panel.box[:2])
    for text in (*layout.texts, *(letter for panel in layout.panels for letter in panel.letters)):
        draw.text((text.x, text.y), text.text, text.colour, _font(text.size), text.anchor)
    bar, half = layout.bar, max(1, layout.height // 500)
    # Pillow's rectangles include their last pixels.
    draw.rectangle((bar.x0, bar.y - half, bar.x1 - 1, bar.y + half), _BRIGHT)
    return np.asarray(picture)


def _font(size: int) -> FreeTypeFont:
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
