"""What an export says of itself, and the pieces that are named by a region and a grid at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lsfm_core import ExportRequest, InputError, RegionSelection, export_channel, export_chunks, iter_chunks
from lsfm_core.cli import main


def volume_and_chunks(path: Path, region: RegionSelection, grid: tuple[int, int, int]) -> None:
    """Chunks of a region are the piece of the region, voxel for voxel."""
    fields = {"path": path, "channel": "autofluo", "region": region}
    whole = export_channel(ExportRequest(**fields)).volume
    assert whole is not None
    built = np.zeros(whole.array.shape, whole.array.dtype)
    count = 0
    for chunk in iter_chunks(ExportRequest(**fields, grid=grid, size_mm=1.1, overlap_mm=0.2)):
        place = tuple(slice(a, b) for a, b in zip(chunk.box.starts, chunk.box.stops, strict=True))
        if grid == (0, 0, 0):
            built[place] = chunk.volume.array
        else:
            expected = whole.array[place]
            np.testing.assert_array_equal(chunk.volume.array[tuple(map(slice, expected.shape))], expected)
        count += 1
    if grid == (0, 0, 0):
        np.testing.assert_array_equal(built, whole.array)
        assert count > 8
    else:
        assert count == np.prod(grid)


@pytest.mark.parametrize("grid", [(0, 0, 0), (2, 1, 2)])
@pytest.mark.parametrize("mask", [False, True])
def test_a_region_in_chunks_is_the_region(registered_file: Path, grid: tuple[int, int, int], mask: bool) -> None:
    region = RegionSelection(labels_channel="atlas", select="CA1", side="left", margin_vox=2, mask=mask)
    volume_and_chunks(registered_file, region, grid)


def test_an_origin_of_all_chunks_is_passed_over_with_a_word(
    registered_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"path": registered_file, "channel": "autofluo", "grid": (0, 0, 0), "size_mm": 6, "resolution_mm": 0.4}
    here = export_chunks(ExportRequest(**fields, output=tmp_path / "a"))
    there = export_chunks(ExportRequest(**fields, origin_mm=(3, 3, 3), output=tmp_path / "b"))
    chunks = [json.loads(result.manifest.read_text())["chunks"] for result in (here, there)]
    assert chunks[0] == chunks[1]
    words = f"export {registered_file} --channel autofluo --grid 0,0,0 --origin 3,3,3 --size 6 --dry-run"
    assert main(words.split()) == 0
    assert "origin  passed over" in capsys.readouterr().out


def test_the_region_and_its_size_are_told(registered_file: Path, brain_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.asarray(nib.load(brain_data / "annotation_in_structural_100um.nii.gz").dataobj)
    words = f"export {registered_file} --channel autofluo --region CA1 --labels-channel atlas --dry-run"
    assert main(words.split()) == 0
    said = capsys.readouterr().out
    assert re.search(rf"^region  .*CA1, id 382\): {np.count_nonzero(labels == 382)} voxels of channel 'atlas'", said, re.MULTILINE)
    # Without an output there is no step for a recipe.
    assert "- export:" not in said


def test_a_size_of_no_whole_voxels_is_told(registered_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"export {registered_file} --channel autofluo --origin 3,3,3 --dry-run --size"
    assert main([*words.split(), "0.5"]) == 0
    assert "size    0.48 x 0.5 x 0.48 mm, not 0.5 x 0.5 x 0.5 mm: whole voxels of 0.04 x 0.05 x 0.04 mm" in capsys.readouterr().out
    assert main([*words.split(), "0.4"]) == 0
    assert "not 0.4" not in capsys.readouterr().out


def test_the_background_is_asked_back(registered_file: Path) -> None:
    region = RegionSelection(labels_channel="atlas", select=0)
    with pytest.raises(InputError, match=r"region 0 is the background.*is that meant\?"):
        export_channel(ExportRequest(path=registered_file, channel="autofluo", region=region))
