"""Peak resident size of whole commands, at four times the budget's size of data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

BUDGET = 300_000_000
ALLOWED = BUDGET + 300_000_000


@pytest.fixture(scope="module", params=[(1024, 1024, 600), (3500, 3500, 50)], ids=["many planes", "large planes"])
def large_series(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.2 GB of planes, most of which are links to the same few files."""
    rows, columns, planes = request.param
    folder = tmp_path_factory.mktemp("large") / "series"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(200, 400, (4, rows, columns), dtype=np.uint16)
    for index in range(planes):
        target = folder / f"{index:04d}.tif"
        if index < len(noise):
            tifffile.imwrite(target, noise[index])
        else:
            os.link(folder / f"{index % len(noise):04d}.tif", target)
    return folder


def test_ingest_and_export_keep_their_budget(large_series: Path, peak_memory: Callable[..., int]) -> None:
    path = large_series.parent / "brain.h5"
    write = ["write", path, "--channel", "x", "--image", large_series, "--voxel-size", "0.004,0.004,0.004", "--orientation", "AIR"]
    assert peak_memory(*write, "--memory", BUDGET) < ALLOWED
    output = large_series.parent / "x.nii"
    export = ["export", path, "--channel", "x", "--output", output, "--memory", BUDGET, "--overwrite"]
    assert peak_memory(*export) < ALLOWED
    assert output.stat().st_size > 4 * BUDGET
    assert peak_memory(*export, "--resolution", "0.006", "--level", "0") < ALLOWED
    for file in (path, output):
        file.unlink()
