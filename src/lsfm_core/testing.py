"""Synthetic specimens for tests, demos and plugins: small, deterministic, and unmistakable in every direction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from lsfm_core.geometry import Orientation, Space

__all__ = ["PHANTOM_ORIENTATION", "PHANTOM_VOXEL_SIZE_MM", "phantom", "write_phantom_series", "write_series"]

PHANTOM_VOXEL_SIZE_MM = (0.05, 0.04, 0.04)
PHANTOM_ORIENTATION = "AIR"


def phantom(space: Space) -> npt.NDArray[np.uint16]:
    """A brain-like image, about 10 x 13 x 7 mm, in whatever orientation `space` has.

    Left and right differ (a bright spot lies in the right hemisphere), so do front and back (the olfactory bulbs), and top and
    bottom (the cortex is above).

    Returns
    -------
    array (planes, rows, columns), uint16
    """
    box = space.bounds
    centre = np.add(box.lower_mm, box.upper_mm) / 2
    index = np.indices(space.shape, dtype=np.float32, sparse=True)
    affine = space.world_from_voxel
    right, anterior, superior = (
        sum(affine[row, axis] * index[axis] for axis in range(3)) + affine[row, 3] - centre[row] for row in range(3)
    )
    hemisphere = np.abs(right)
    brain = (hemisphere / 4.8) ** 2 + ((anterior + 0.8) / 5.4) ** 2 + (superior / 3.4) ** 2
    bulbs = ((hemisphere - 0.9) / 1.0) ** 2 + ((anterior - 5.0) / 1.5) ** 2 + ((superior - 0.3) / 1.1) ** 2
    ventricle = ((hemisphere - 1.2) / 0.5) ** 2 + ((anterior + 0.5) / 1.8) ** 2 + ((superior - 0.8) / 0.5) ** 2
    spot = ((right - 2.2) / 0.35) ** 2 + ((anterior - 1.0) / 0.35) ** 2 + ((superior + 0.6) / 0.35) ** 2
    image = np.zeros(space.shape, np.float32)
    image += 420 * (brain < 1)
    image += 260 * ((brain < 1) & (brain > 0.72) & (superior > -0.6))
    image += 520 * ((bulbs < 1) & (brain >= 1))
    image -= 330 * ((ventricle < 1) & (brain < 1))
    image += 900 * (spot < 1)
    # The fissure between the hemispheres.
    image *= 1 - 0.5 * ((hemisphere < 0.08) & (superior > 0.5))
    noise = np.random.default_rng(7).normal(60, 12, space.shape)
    return np.clip(image + noise, 0, 65535).astype(np.uint16)


def write_phantom_series(folder: Path) -> tuple[tuple[float, float, float], str]:
    """Write the phantom as a TIFF series of 270 planes of 193 x 271.

    Returns
    -------
    voxel_size_mm, axcodes
        As `lsfm_core.IngestRequest` takes them: the TIFFs do not carry them.
    """
    space = Space.from_orientation((270, 193, 271), PHANTOM_VOXEL_SIZE_MM, Orientation(PHANTOM_ORIENTATION))
    write_series(folder, phantom(space))
    return PHANTOM_VOXEL_SIZE_MM, PHANTOM_ORIENTATION


def write_series(folder: Path, volume: npt.NDArray[Any], name: str = "plane_{:04d}.tif", **options: Any) -> Path:
    """Write each plane of `volume` to its own TIFF; `options` go to `tifffile.imwrite`. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, plane in enumerate(volume):
        tifffile.imwrite(folder / name.format(index), plane, **options)
    return folder
