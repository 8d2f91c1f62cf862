"""Previews: what stands where in the picture, against landmarks that nibabel has turned; and the page, opened in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import nibabel
import npy2bdv
import numpy as np
import pytest
from PIL import Image

from lsfm_core import (
    ExistsError,
    IngestRequest,
    InputError,
    LsfmError,
    Orientation,
    PreviewRequest,
    PreviewResult,
    Space,
    UnknownChannelError,
    ingest_channel,
    preview_file,
)
from lsfm_core.cli import main
from lsfm_core.preview import Panel
from lsfm_core.store import edit_lsfm
from lsfm_core.testing import PHANTOM_ORIENTATION, phantom

CODES = ["RAS", "AIR", "LPI", "SPL", "IRP", "PIR"]
VOXEL_RAS = (0.2, 0.1, 0.15)
SHAPE_RAS = (60, 110, 50)
#: Where the bright plates lie, as a part of the extent toward R, A and S.
PLATES = {"R": (0.70, 0.80), "A": (0.82, 0.92), "S": (0.60, 0.70)}
OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


def turned(ras: np.ndarray, code: str) -> np.ndarray:
    """A RAS array in another orientation, by nibabel."""
    ornt = nibabel.orientations
    return ornt.apply_orientation(ras, ornt.ornt_transform(ornt.axcodes2ornt("RAS"), ornt.axcodes2ornt(code)))


def voxel_size(code: str) -> tuple[float, ...]:
    return tuple(VOXEL_RAS["RLAPSI".index(letter) // 2] for letter in code)


def ingest(path: Path, name: str, ras: np.ndarray, code: str = "RAS", **fields: Any) -> None:
    request = {"voxel_size_mm": voxel_size(code), "orientation": code, **fields}
    ingest_channel(IngestRequest(path=path, channel=name, image=turned(ras, code), **request))


def plates() -> np.ndarray:
    """Three plates: each is bright all across, so that it is seen in both views that it stands upright in."""
    volume = np.full(SHAPE_RAS, 50, np.uint16)
    for axis, (low, high) in enumerate(PLATES.values()):
        inside = slice(round(low * SHAPE_RAS[axis]), round(high * SHAPE_RAS[axis]))
        volume[tuple(inside if k == axis else slice(None) for k in range(3))] += 1000
    return volume


def look(path: Path, **fields: Any) -> PreviewResult:
    return preview_file(PreviewRequest(path=path, **fields))


def panel(result: PreviewResult, view: str, channel: str = "signal") -> Panel:
    assert result.layout is not None
    return next(p for p in result.layout.panels if (p.view, p.channel) == (view, channel))


def pixels(result: PreviewResult, part: Panel) -> np.ndarray:
    assert result.image is not None
    left, top, right, bottom = part.box
    return result.image[top:bottom, left:right]


def toward(grey: np.ndarray, part: Panel, letter: str) -> np.ndarray:
    """Mean brightness from the side that is opposite to a letter to the side where it stands; whichever that is."""
    _, top, right, bottom = part.box
    (text,) = [text for text in part.letters if text.text == letter]
    if text.y < top or text.y >= bottom:
        profile = grey.mean(axis=1)
        return profile[::-1] if text.y < top else profile
    profile = grey.mean(axis=0)
    return profile if text.x >= right else profile[::-1]


# --- where things are -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", ["middle", "max"])
@pytest.mark.parametrize("code", CODES)
def test_what_lies_right_is_drawn_where_the_letter_r_stands(code: str, projection: str, tmp_path: Path) -> None:
    ingest(tmp_path / "brain.h5", "signal", plates() if projection == "middle" else corner(), code)
    result = look(tmp_path / "brain.h5", projection=projection, size=200)
    for view, letters in (("sagittal", "AS"), ("coronal", "RS"), ("horizontal", "RA")):
        part = panel(result, view)
        grey = pixels(result, part)[:, :, 0].astype(float)
        for letter in letters:
            profile = toward(grey, part, letter)
            bright = np.flatnonzero(profile > (profile.min() + profile.max()) / 2)
            low, high = PLATES[letter]
            assert bright.min() / len(profile) == pytest.approx(low, abs=0.02), (view, letter)
            assert (bright.max() + 1) / len(profile) == pytest.approx(high, abs=0.02), (view, letter)


def corner() -> np.ndarray:
    """Only what the three plates have in common."""
    return np.where(plates() >= 3000, 4000, 50).astype(np.uint16)


def test_the_phantoms_spot_is_on_its_right(tmp_path: Path) -> None:
    space = Space.from_orientation((68, 49, 68), (0.2, 0.16, 0.16), Orientation(PHANTOM_ORIENTATION))
    fields = {"voxel_size_mm": (0.2, 0.16, 0.16), "orientation": PHANTOM_ORIENTATION}
    ingest_channel(IngestRequest(path=tmp_path / "brain.h5", channel="signal", image=phantom(space), **fields))
    with h5py.File(tmp_path / "brain.h5", "r+") as file:
        file["LSFM/signal"].attrs["display_percentiles"] = (0.0, 1500.0)
        del file["LSFM_DIGESTS"]
    result = look(tmp_path / "brain.h5", projection="max", size=200)
    # 2.2 mm right, 1 mm anterior and 0.6 mm inferior of the middle.
    for view, (across, up) in {"sagittal": (1.0, -0.6), "coronal": (2.2, -0.6), "horizontal": (2.2, 1.0)}.items():
        grey = pixels(result, panel(result, view))[:, :, 0]
        row, column = np.argwhere(grey > 200).mean(axis=0)
        assert result.layout is not None
        found = np.array([column - grey.shape[1] / 2, grey.shape[0] / 2 - row]) * result.layout.pixel_mm
        assert found == pytest.approx((across, up), abs=0.15), view


def test_one_of_the_codes_is_mirrored() -> None:
    assert {Orientation(code).is_mirrored for code in CODES} == {True, False}


def test_letters_stand_at_the_edges_by_convention(tmp_path: Path) -> None:
    ingest(tmp_path / "brain.h5", "signal", plates(), "SPL")
    result = look(tmp_path / "brain.h5", size=200)
    for view, right, top in (("sagittal", "A", "S"), ("coronal", "R", "S"), ("horizontal", "R", "A")):
        part = panel(result, view)
        x0, y0, x1, y1 = part.box
        places = {text.text: (text.x, text.y) for text in part.letters}
        assert set(places) == {right, OPPOSITE[right], top, OPPOSITE[top]}
        assert places[right][0] >= x1 and y0 < places[right][1] < y1
        assert places[OPPOSITE[right]][0] < x0 and y0 < places[OPPOSITE[right]][1] < y1
        assert places[top][1] < y0 and x0 < places[top][0] < x1
        assert places[OPPOSITE[top]][1] >= y1 and x0 < places[OPPOSITE[top]][0] < x1
        # Each is really drawn there.
        assert result.image is not None
        for x, y in places.values():
            assert result.image[y - 6 : y + 7, x - 6 : x + 7].max() > 200


def test_pixels_are_square_and_the_scale_bar_is_as_long_as_it_says(tmp_path: Path) -> None:
    ingest(tmp_path / "brain.h5", "signal", plates(), "AIR")
    result = look(tmp_path / "brain.h5", size=300)
    assert result.layout is not None and result.image is not None
    extent = dict(zip("RAS", np.multiply(VOXEL_RAS, SHAPE_RAS), strict=True))
    assert result.layout.pixel_mm == pytest.approx(max(extent.values()) / 300)
    for view, (across, up) in {"sagittal": "AS", "coronal": "RS", "horizontal": "RA"}.items():
        x0, y0, x1, y1 = panel(result, view).box
        assert (x1 - x0) * result.layout.pixel_mm == pytest.approx(extent[across], abs=result.layout.pixel_mm)
        assert (y1 - y0) * result.layout.pixel_mm == pytest.approx(extent[up], abs=result.layout.pixel_mm)
    bar = result.layout.bar
    drawn = (result.image[bar.y] > 200).all(axis=1)[: bar.x1 + 3]
    assert np.flatnonzero(drawn).tolist() == list(range(bar.x0, bar.x1))
    assert drawn.sum() == pytest.approx(bar.length_mm / result.layout.pixel_mm, abs=0.5)
    assert f"{bar.length_mm:g} mm" in [text.text for text in result.layout.texts]


def test_channels_have_one_scale_and_a_row_each(tmp_path: Path) -> None:
    ingest(tmp_path / "brain.h5", "signal", plates())
    ingest(tmp_path / "brain.h5", "half", plates()[:30, :55, :25], "PIR")
    result = look(tmp_path / "brain.h5", size=200)
    assert result.layout is not None
    assert [p.channel for p in result.layout.panels] == ["signal"] * 3 + ["half"] * 3
    for view in ("sagittal", "coronal", "horizontal"):
        whole, half = panel(result, view).box, panel(result, view, "half").box
        assert half[1] > whole[3]
        assert whole[2] - whole[0] == pytest.approx(2 * (half[2] - half[0]), abs=1)
    captions = " ".join(text.text for text in result.layout.texts)
    assert "60 x 110 x 50 voxels of 0.2 x 0.1 x 0.15 mm" in captions
    assert re.search(r"PIR .* 6\.00 x 5\.50 x 3\.75 mm", captions)


def test_contrast_is_the_stored_range(tmp_path: Path) -> None:
    path = tmp_path / "brain.h5"
    ingest(path, "signal", plates())
    with h5py.File(path, "r+") as file:
        file["LSFM/signal"].attrs["display_percentiles"] = (50.0, 2050.0)
        del file["LSFM_DIGESTS"]
    result = look(path, size=200)
    coronal = pixels(result, panel(result, "coronal"))
    assert coronal.min() == 0
    assert int(np.median(coronal[:, int(0.75 * coronal.shape[1])])) == pytest.approx(255 / 2, abs=2)


def test_values_that_are_no_numbers_do_not_spoil_the_contrast(tmp_path: Path) -> None:
    volume = np.linspace(0, 1, np.prod(SHAPE_RAS), dtype=np.float32).reshape(SHAPE_RAS)
    volume[::7, ::7, ::7] = np.nan
    volume[3::7, ::7, ::7] = np.inf
    ingest(tmp_path / "brain.h5", "signal", volume)
    for projection in ("middle", "max"):
        result = look(tmp_path / "brain.h5", size=110, projection=projection)
        grey = pixels(result, panel(result, "coronal"))[:, :, 0].mean(axis=0)
        assert grey[5] < 60 and grey[-5] > 200


def test_an_oblique_image_lies_as_its_affine_says(tmp_path: Path) -> None:
    volume = np.zeros((60, 60, 60), np.uint16)
    volume[45:50, 27:33, 27:33] = 1000
    turn = np.radians(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "oblique.nii")
    ingest_channel(IngestRequest(path=tmp_path / "brain.h5", channel="signal", image=str(tmp_path / "oblique.nii")))
    result = look(tmp_path / "brain.h5", size=300, projection="max")
    part = panel(result, "horizontal")
    rows, columns = np.nonzero(pixels(result, part)[:, :, 0] > 100)
    corners = nibabel.affines.apply_affine(affine, [(x, y, 0) for x in (-0.5, 59.5) for y in (-0.5, 59.5)])
    assert result.layout is not None
    pixel = result.layout.pixel_mm
    found = (corners[:, 0].min() + columns.mean() * pixel, corners[:, 1].max() - rows.mean() * pixel)
    assert found == pytest.approx(nibabel.affines.apply_affine(affine, (47, 29.5, 29.5))[:2], abs=0.7)


# --- labels and vectors ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Two regions side by side along R, red and green, in a box; and an image."""
    path, table = tmp_path / "brain.h5", tmp_path / "table.csv"
    table.write_text("id,name,color_hex_triplet\n3,red one,FF0000\n4,green one,00FF00\n")
    labels = np.zeros(SHAPE_RAS, np.uint16)
    labels[15:30, 20:90, 10:40] = 3
    labels[30:45, 20:90, 10:40] = 4
    ingest(path, "signal", np.full(SHAPE_RAS, 7, np.uint16))
    ingest(path, "atlas", labels, "PIR", kind="labels", labels=table)
    return path


@pytest.mark.parametrize("projection", ["middle", "max"])
def test_labels_alone_are_filled_with_their_colours(labelled: Path, projection: str) -> None:
    result = look(labelled, channels="atlas", size=220, projection=projection)
    part = panel(result, "coronal", "atlas")
    image = pixels(result, part)
    height, width = image.shape[:2]
    assert tuple(image[height // 2, int(0.4 * width)]) == (255, 0, 0)
    assert tuple(image[height // 2, int(0.6 * width)]) == (0, 255, 0)
    assert tuple(image[height // 2, int(0.1 * width)]) == (0, 0, 0)
    if projection == "max":
        # From the right only the region on the right is seen.
        sagittal = pixels(result, panel(result, "sagittal", "atlas"))
        assert {tuple(colour) for colour in np.unique(sagittal.reshape(-1, 3), axis=0)} == {(0, 0, 0), (0, 255, 0)}


def test_outlines_lie_where_labels_change_and_nowhere_else(labelled: Path) -> None:
    plain, outlined = look(labelled, size=220), look(labelled, size=220, labels_channel="atlas")
    before, after = pixels(plain, panel(plain, "coronal")), pixels(outlined, panel(outlined, "coronal"))
    changed = (before != after).any(axis=2)
    assert outlined.layout is not None
    pixel = outlined.layout.pixel_mm
    # Faces of the regions in pixels from the left and from the top.
    columns = [round(n * VOXEL_RAS[0] / pixel) for n in (15, 30, 45)]
    rows = [round((SHAPE_RAS[2] - n) * VOXEL_RAS[2] / pixel) for n in (40, 10)]
    expected = np.zeros_like(changed)
    expected[rows[0] : rows[1], [c - 1 for c in columns]] = True
    expected[[r - 1 for r in rows], columns[0] : columns[2]] = True
    grown = sum(np.roll(np.pad(expected, 2), (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1))[2:-2, 2:-2] > 0
    assert not (changed & ~grown).any()
    middle = (rows[0] + rows[1]) // 2
    for column, channel in zip(columns, (0, 0, 1), strict=True):
        (found,) = np.flatnonzero(changed[middle, column - 2 : column + 2])
        assert after[middle, column - 2 + found].argmax() == channel
    assert changed[rows[0] - 2 : rows[0] + 2, columns[0] + 3 : columns[2] - 3].any(axis=0).all()


def test_outlines_are_drawn_only_when_asked_for(labelled: Path) -> None:
    result = look(labelled, size=220)
    image = pixels(result, panel(result, "coronal"))
    assert (image == image[:, :, :1]).all()


def test_labels_that_are_elsewhere_leave_the_image_alone(labelled: Path) -> None:
    far = np.ones((20, 20, 20), np.uint16)
    ingest(labelled, "far", far, kind="labels", origin_mm=(100, 100, 100))
    plain, outlined = look(labelled, size=100), look(labelled, size=100, labels_channel="far")
    for view in ("sagittal", "coronal", "horizontal"):
        np.testing.assert_array_equal(pixels(plain, panel(plain, view)), pixels(outlined, panel(outlined, view)))


def test_vectors_show_their_length(tmp_path: Path) -> None:
    vectors = np.zeros((*SHAPE_RAS, 3), np.float32)
    vectors[30:, :, :, :2] = (-3, 4)
    request = {"kind": "vectors", "voxel_size_mm": VOXEL_RAS, "orientation": "RAS"}
    ingest_channel(IngestRequest(path=tmp_path / "brain.h5", channel="warp", image=vectors, **request))
    result = look(tmp_path / "brain.h5", size=100)
    assert result.layout is not None
    grey = pixels(result, panel(result, "coronal", "warp"))[:, :, 0]
    width = grey.shape[1]
    assert grey[:, : width // 2 - 2].max() == 0 and grey[:, width // 2 + 2 :].min() == 255
    assert any("length of the vectors" in text.text for text in result.layout.texts)


# --- how much it takes ----------------------------------------------------------------------------------------------------------


def test_the_smallest_sufficient_level_is_read(tmp_path: Path) -> None:
    volume = np.zeros((300, 300, 300), np.uint8)
    ingest_channel(
        IngestRequest(path=tmp_path / "brain.h5", channel="signal", image=volume, voxel_size_mm=(0.1,) * 3, orientation="RAS")
    )
    for size, level in ((300, 0), (240, 0), (210, 1), (140, 1)):
        for projection in ("middle", "max"):
            layout = look(tmp_path / "brain.h5", size=size, projection=projection).layout
            assert layout is not None
            assert any(f"level {level}" in text.text for text in layout.texts)


# --- files and refusals ---------------------------------------------------------------------------------------------------------


def test_the_command_line_writes_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = tmp_path / "brain.h5", tmp_path / "preview.png"
    ingest(path, "signal", plates())
    assert main(["preview", str(path), "--size", "200", "--output", str(output)]) == 0
    assert "pixels in" in capsys.readouterr().out
    with Image.open(output) as image:
        np.testing.assert_array_equal(np.asarray(image), look(path, size=200).image)
    assert main(["preview", str(path), "--output", str(output)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["preview", str(path), "--output", str(output), "--overwrite", "--quiet"]) == 0
    assert main(["preview", str(path), "--html", "--output", str(output)]) == 3
    assert "must end in .html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"channels": "nothing"}, UnknownChannelError, "no channel 'nothing'; it has: signal"),
        ({"labels_channel": "nothing"}, UnknownChannelError, "no channel 'nothing'"),
        ({"labels_channel": "signal"}, InputError, "holds image"),
        ({"output": "preview.jpg"}, InputError, r"\.png.*\.html"),
        ({"output": "there.png"}, ExistsError, "exists already"),
        ({"size": 3}, InputError, "size"),
        ({"orientation": "LPI"}, InputError, "is recorded as RAS"),
        ({"projection": "mean"}, InputError, "projection"),
    ],
)
def test_refusals(fields: dict[str, Any], error: type[LsfmError], message: str, tmp_path: Path) -> None:
    ingest(tmp_path / "brain.h5", "signal", np.zeros((8, 8, 8), np.uint16))
    (tmp_path / "there.png").touch()
    if "output" in fields:
        fields = {"output": tmp_path / fields["output"]}
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=message):
        look(tmp_path / "brain.h5", **fields)
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_without_orientation_needs_one(tmp_path: Path) -> None:
    path = tmp_path / "bdv.h5"
    writer = npy2bdv.BdvWriter(str(path), nchannels=1, overwrite=True)
    writer.append_view(turned(plates(), "AIR"), channel=0, voxel_size_xyz=(200, 150, 100), voxel_units="um")
    writer.write_xml()
    writer.close()
    with pytest.raises(InputError, match="no orientation recorded"):
        look(path)
    result = look(path, orientation="AIR", size=200)
    assert result.layout is not None
    part = panel(result, "coronal", result.layout.panels[0].channel)
    profile = toward(pixels(result, part)[:, :, 0].astype(float), part, "R")
    assert np.argmax(profile) / len(profile) == pytest.approx(0.75, abs=0.06)
    # A page is an inventory: it can do without.
    look(path, output=tmp_path / "page.html")
    assert "No picture" in (tmp_path / "page.html").read_text()


# --- the page -------------------------------------------------------------------------------------------------------------------

EVIL = "<script>window.harmed=1<" + "\u2215script>"
HARM = '"><img src=x onerror="window.harmed=1"><script>window.harmed=1</script>&amp;'


@pytest.fixture
def rich(labelled: Path) -> Path:
    """A file with everything that a page tells, under names that would like to be code."""
    with edit_lsfm(labelled) as file:
        file.set_metadata("specimen", HARM)
        file.set_metadata("stain", '{"antibody": "c-Fos", "dilution": [1, 1000]}')
        file.write_affine(
            "signal", "to_<b>atlas", np.diag([1.0, 2.0, 1.0, 1.0]), (np.r_[np.diag([1.0, 2, 1]).ravel(), 0, 0, 0], [0.0] * 3), False
        )
        labels = [
            {"id": 1, "name": "root", "acronym": None, "rgb": None, "parent": None},
            {"id": 3, "name": HARM, "acronym": "RED", "rgb": [255, 0, 0], "parent": 1},
            {"id": 4, "name": "green one", "acronym": "GRN", "rgb": [0, 255, 0], "parent": 3},
        ]
        file.set_label_table("atlas", json.dumps(labels))
    ingest(labelled, EVIL, plates(), "LAS")
    with h5py.File(labelled, "r+") as h5:
        h5["log/2026-11-22_10:31:21_write_channel24897"] = HARM
        del h5["LSFM_DIGESTS"]
    return labelled


class Outline(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_tells_everything_and_escapes_it(rich: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["preview", str(rich), "--html", "--output", str(page), "--quiet"]) == 0
    html = page.read_text("utf-8")
    outline = Outline(html)
    assert [tag for tag, _ in outline.tags].count("script") == 1
    pictures = [attributes["src"] for tag, attributes in outline.tags if tag == "img"]
    assert len(pictures) == 3
    for source in pictures:
        assert source is not None and source.startswith("data:image/png;base64,")
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            assert image.width > 500
    for wanted in (
        EVIL, HARM, "RAS (origin at lpi)", "60 x 110 x 50", "0.2 x 0.1 x 0.15", "12.000 x 11.000 x 7.500 mm", "to_<b>atlas",
        "stretches by", '"antibody": "c-Fos"', "GRN", "2026-11-22 10:31:21", "write_channel",
        "left-handed",
    ):  # fmt: skip
        assert wanted in outline.text, wanted
    links = {attributes["href"] for _, attributes in outline.tags if "href" in attributes}
    assert links == {f"#{attributes['id']}" for tag, attributes in outline.tags if tag == "h2" and "id" in attributes}
    assert not {tag for tag, _ in outline.tags} & {"link", "iframe", "object", "b>atlas"}


def test_a_histogram_counts_the_voxels(tmp_path: Path) -> None:
    volume = np.zeros((20, 20, 20), np.uint16)
    volume[:10] = 96
    ingest(tmp_path / "brain.h5", "signal", volume)
    look(tmp_path / "brain.h5", output=tmp_path / "page.html", size=50)
    html = (tmp_path / "page.html").read_text()
    (path,) = re.findall(r'<path d="([^"]*)"', html)
    bars = re.findall(r"M([\d.]+) 110v-([\d.]+)", path)
    # Half of the voxels in the first bin, half in the last: both as high as the chart.
    assert bars == [("0.0", "110.0"), ("475.0", "110.0")]
    assert "up to 4,000" in html


def test_a_circle_of_parents_ends(rich: Path, tmp_path: Path) -> None:
    rows = [{"id": k, "name": f"region {k}", "parent": parent} for k, parent in ((1, None), (2, 1), (3, 4), (4, 3))]
    with edit_lsfm(rich) as file:
        file.set_label_table("atlas", json.dumps([{"acronym": None, "rgb": None, **row} for row in rows]))
    look(rich, output=tmp_path / "page.html", channels="atlas", size=50)
    assert "region 2" in (tmp_path / "page.html").read_text()


def test_a_file_of_lsfmpy_has_its_warnings_and_log_told(legacy_file: Path, tmp_path: Path) -> None:
    look(legacy_file, output=tmp_path / "page.html", orientation="AIR", size=100)
    outline = Outline((tmp_path / "page.html").read_text("utf-8"))
    for wanted in ("the last ones are padding", "was stored as 32767", "mouse-42", "2026-11-22 10:31:23", "structural_to_template"):
        assert wanted in outline.text
    # The orientation is the image's; how the others lie was not told.
    assert outline.text.count("No picture") == 2
    assert [tag for tag, _ in outline.tags].count("img") == 1


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A Chromium without a window."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("the page is opened in Chromium: no chromium and chromedriver on the PATH")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-component-update",
        "disable-sync", "window-size=1280,800", f"user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield window
    finally:
        window.quit()


@pytest.mark.slow
def test_the_page_in_a_browser(rich: Path, tmp_path: Path, browser: Any) -> None:
    page = tmp_path / "page.html"
    look(rich, output=page, labels_channel="atlas")
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    # Chromium's own start page asks for itself before ours is there.
    asked = {request["request"]["url"] for request in sent if not request["documentURL"].startswith("chrome://")}
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    assert browser.execute_script("return window.harmed") is None
    assert browser.execute_script("return [...document.images].map(i => i.naturalWidth > 0)") == [True] * 3
    text = browser.execute_script("return document.body.textContent")
    assert EVIL in text and HARM in text
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")

    def colours() -> tuple[int, int]:
        """Brightness of the page and of its text."""
        script = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        page, text = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in browser.execute_script(script))
        return page, text

    for theme, is_dark in (("light", False), ("dark", True)):
        media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        page_colour, text_colour = colours()
        assert (page_colour < text_colour) == is_dark
        assert abs(page_colour - text_colour) > 400
        with Image.open(io.BytesIO(browser.get_screenshot_as_png())) as shot:
            background = sum(shot.convert("RGB").getpixel((5, 5)))
        assert (background < 200) == is_dark
    # The search leaves the region and what it is a part of.
    details, field = browser.find_element("css selector", ".labels > summary"), browser.find_element("css selector", "input")
    details.click()
    field.send_keys("grn")
    seen = [item.text for item in browser.find_elements("css selector", ".labels li") if item.is_displayed()]
    assert any("green one" in line for line in seen)
    field.clear()
    field.send_keys("nowhere")
    assert not [item for item in browser.find_elements("css selector", ".labels li") if item.is_displayed()]
