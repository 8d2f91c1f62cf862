"""A light-sheet-like TIFF series: smooth tissue, camera offset and shot noise, so that deflate finds as much as in real data."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile

ROWS, COLUMNS = 772, 1084
PLANE_BYTES = 2 * ROWS * COLUMNS
VOXEL_SIZE_MM = (0.005, 0.004, 0.004)

_SEED = 20240607
_OFFSET = 100.0


def make_series(folder: Path, planes: int) -> Path:
    """Folder with the first `planes` planes of an endless series; planes that another length has made are linked, not made again.

    Parameters
    ----------
    folder : Path
        Cache for all lengths; must exist.
    planes : int

    Returns
    -------
    Path
    """
    pool_folder, series = folder / "planes", folder / f"series-{planes}"
    pool_folder.mkdir(exist_ok=True)
    series.mkdir(exist_ok=True)

    def make(index: int) -> None:
        name = f"image_{index:05d}.tif"
        plane, link = pool_folder / name, series / name
        if not plane.exists():
            partial = plane.with_suffix(".partial")
            tifffile.imwrite(partial, _plane(index))
            partial.replace(plane)
        if not link.exists():
            link.hardlink_to(plane)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make, range(planes)))
    return series


def _plane(index: int) -> npt.NDArray[np.uint16]:
    y, x = _grid()
    # Along z everything comes back after some hundred planes, so that every length has the same mixture of tissue and background.
    swell = 0.75 + 0.2 * np.sin(index / 70)
    tissue = 1 / (1 + np.exp(np.clip(30 * (np.hypot(y, 0.8 * x) - swell), -30, 30)))
    folds = 1 + 0.4 * np.sin(9 * y + index / 23) * np.cos(7 * x - index / 31) + 0.2 * np.cos(25 * x + 12 * y + index / 11)
    light = (600 * tissue * folds).astype(np.float32)
    # Above some ten photons the Poisson distribution is a normal one, which is ten times faster to draw.
    noise = np.random.default_rng([_SEED, index]).standard_normal(light.shape, dtype=np.float32)
    return np.rint(_OFFSET + light + np.sqrt(light + 16) * noise).astype(np.uint16)


@cache
def _grid() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    y, x = np.ogrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
    return y, x


if __name__ == "__main__":
    print(json.dumps(str(make_series(Path(sys.argv[1]), int(sys.argv[2])))))
