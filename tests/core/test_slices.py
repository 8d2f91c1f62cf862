"""Slices for the eye: which way up they lie, and that one sees something."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lsfm_core import IngestRequest, InputError, SlicesRequest, edit_lsfm, export_slices, ingest_channel, iter_slices, open_lsfm
from lsfm_core.cli import main

from .effort import examples

Array = npt.NDArray[Any]
#: World axis of each letter, and whether the index grows along it.
LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
CODES = ["".join(code) for code in permutations("RLAPSI", 3) if len({LETTERS[letter][0] for letter in code}) == 3]
#: Every voxel has a value of its own; along R, A, S.
RAS = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5) * 9


def in_order(ras: Array, code: str) -> Array:
    """A RAS array as axes of other letters have it."""
    turned = ras.transpose([LETTERS[letter][0] for letter in code])
    return turned[tuple(slice(None, None, LETTERS[letter][1]) for letter in code)]


def ingest(path: Path, image: Array, code: str = "RAS", **fields: Any) -> Path:
    size = np.array([0.03, 0.01, 0.02])[[LETTERS[letter][0] for letter in code]]
    ingest_channel(
        IngestRequest(
            path=path, channel="c", image=np.ascontiguousarray(image), voxel_size_mm=tuple(size), orientation=code, **fields
        )
    )
    return path


@settings(max_examples=examples(25), deadline=None)
@given(stored=st.sampled_from(CODES), wanted=st.sampled_from([*CODES, "native"]), axis=st.integers(0, 2))
def test_every_plane_is_held_as_an_anatomist_holds_it(
    tmp_path_factory: pytest.TempPathFactory, stored: str, wanted: str, axis: int
) -> None:
    folder = tmp_path_factory.mktemp("held")
    path = ingest(folder / "a.h5", in_order(RAS, stored), stored)
    request = {"path": path, "channel": "c", "axis": axis, "output_orientation": wanted}
    planes = dict(iter_slices(SlicesRequest(**request)))
    across, sign = LETTERS[(stored if wanted == "native" else wanted)[axis]]
    assert list(planes) == list(range(RAS.shape[across]))
    for index, plane in planes.items():
        seen = RAS.take(index if sign > 0 else RAS.shape[across] - 1 - index, across)
        # What is left are R and A, R and S, or A and S: the later one goes up, the other one to the right.
        np.testing.assert_array_equal(plane, seen.T[::-1])
    as_stored = np.stack([plane for _, plane in iter_slices(SlicesRequest(**request, as_stored=True))])
    np.testing.assert_array_equal(as_stored, np.moveaxis(in_order(RAS, stored if wanted == "native" else wanted), axis, 0))
    part = dict(iter_slices(SlicesRequest(**request, roi=(1, 0, 2, 3), start=1)))
    assert list(part) == list(planes)[1:]
    for index, plane in part.items():
        np.testing.assert_array_equal(plane, planes[index][0:3, 1:3])


def test_tiff_keeps_values_and_the_pixel_size_of_what_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ingest(tmp_path / "a.h5", RAS)
    assert main(["export-slices", str(path), "--channel", "c", "--axis", "1", "--output", str(tmp_path / "s_%d.tif")]) == 0
    assert "coronal, from behind: superior up, right at the right" in capsys.readouterr().out
    with tifffile.TiffFile(tmp_path / "s_2.tif") as tiff:
        np.testing.assert_array_equal(tiff.asarray(), RAS[:, 2].T[::-1])
        tags = tiff.pages[0].tags
        # Columns are along R, 0.03 mm apart, rows along S, 0.02 mm apart: pixels per cm.
        found = [tags[name].value[0] / tags[name].value[1] for name in ("XResolution", "YResolution")]
    np.testing.assert_allclose(found, [10 / 0.03, 10 / 0.02], rtol=1e-6)


def test_png_shows_the_display_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ingest(tmp_path / "a.h5", RAS)
    with edit_lsfm(path) as editor:
        editor.set_look("c", display_range=(90.0, 400.0))

    def png(*options: str) -> Array:
        output = str(tmp_path / "s_%d.png")
        command = ["export-slices", str(path), "--channel", "c", "--axis", "2", "--overwrite", "--output", output, *options]
        assert main(command) == 0
        with Image.open(tmp_path / "s_4.png") as image:
            assert image.mode == "L"
            return np.asarray(image)

    seen = RAS[:, :, 4].T[::-1].astype(float)
    np.testing.assert_array_equal(png(), np.rint(np.clip((seen - 90) / 310, 0, 1) * 255))
    assert "90 black to 400 white (the channel's display range), in 8 bits" in capsys.readouterr().out
    np.testing.assert_array_equal(png("--contrast", "-10,245"), np.clip(seen + 10, 0, 255))
    np.testing.assert_array_equal(png("--contrast", "full"), np.rint(seen / 257))
    np.testing.assert_array_equal(png("--as-stored", "--contrast", "0,510"), np.clip(np.rint(RAS[:, :, 4] / 2), 0, 255))


def test_a_channel_without_a_display_range_is_seen_too(tmp_path: Path) -> None:
    image = np.random.default_rng(2).normal(0.3, 0.1, (8, 40, 50)).astype(np.float32)
    image[0, 0, 0], image[4, 4, 4] = np.nan, 1e6
    path = ingest(tmp_path / "a.h5", image, "ASR")
    with edit_lsfm(path) as editor:
        editor.set_look("c", display_range=(0.0, 0.0))
    export_slices(SlicesRequest(path=path, channel="c", axis=1, output=tmp_path / "%d.png"))
    with Image.open(tmp_path / "3.png") as picture:
        shades = np.asarray(picture)
    assert shades.dtype == np.uint8 and 110 < shades.mean() < 145 and shades.std() > 30
    with pytest.raises(InputError, match=r"float32, whose range has no ends: give --contrast LOW,HIGH"):
        export_slices(SlicesRequest(path=path, channel="c", contrast="full", output=tmp_path / "f%d.png"))


def test_labels_have_the_colours_of_their_table(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("id,name,color\n7,seven,FF8000\n")
    labels = np.zeros((2, 3, 4), np.uint64)
    labels[0, 1, 2], labels[0, 2, 3] = 7, 2**63 + 5
    path = ingest(tmp_path / "a.h5", labels, kind="labels", labels=table)
    export_slices(SlicesRequest(path=path, channel="c", axis=0, as_stored=True, output=tmp_path / "%d.png"))
    with Image.open(tmp_path / "0.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (3, 4, 3)
    assert pixels[1, 2].tolist() == [255, 128, 0] and pixels[0, 0].tolist() == [0, 0, 0] and pixels[2, 3].any()
    with pytest.raises(InputError, match=r"holds labels, which get the colours"):
        export_slices(SlicesRequest(path=path, channel="c", contrast=(0, 1), output=tmp_path / "f%d.png"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"contrast": (5, 5), "output": "%d.png"}, "contrast: expected two numbers"),
        ({"contrast": (0, float("inf")), "output": "%d.png"}, "contrast: expected two numbers"),
        ({"contrast": "full", "output": "%d.tif"}, "contrast: only PNG files"),
        ({"contrast": "some", "output": "%d.png"}, "contrast"),
    ],
)
def test_bad_contrasts_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SlicesRequest(path="a.h5", channel="c", **fields)


def test_the_brain_is_seen(brain_file: Path, tmp_path: Path) -> None:
    """Of its values none is above 1000: as 16 bits they would all be black."""
    export_slices(SlicesRequest(path=brain_file, channel="autofluo", axis=1, start=130, stop=131, output=tmp_path / "%d.png"))
    with Image.open(tmp_path / "130.png") as picture:
        pixels = np.asarray(picture)
    with open_lsfm(brain_file) as file:
        # Stored as AIR: planes toward anterior, rows toward inferior, columns toward right.
        plane = np.asarray(file["autofluo"].levels[0][130])
    assert pixels.shape == plane.shape and 40 < pixels.mean() < 130 and pixels.max() == 255
    assert np.corrcoef(pixels.ravel(), plane.ravel())[0, 1] > 0.95
