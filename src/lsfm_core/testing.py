"""Synthetic specimens for tests, demos and plugins: small, deterministic, and unmistakable in every direction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from lsfm_core.formats import PlaneFunction
from lsfm_core.geometry import Orientation, Space
from lsfm_core.ingest import IngestRequest, ingest_channel
from lsfm_core.pyramid import Kind
from lsfm_core.regions import Label, LabelTable
from lsfm_core.store import edit_lsfm

__all__ = [
    "PHANTOM_ORIENTATION",
    "PHANTOM_REGIONS",
    "PHANTOM_VOXEL_SIZE_MM",
    "phantom",
    "phantom_regions",
    "phantom_warp",
    "write_phantom_file",
    "write_phantom_series",
    "write_series",
]

PHANTOM_VOXEL_SIZE_MM = (0.05, 0.04, 0.04)
PHANTOM_ORIENTATION = "AIR"


PHANTOM_REGIONS = LabelTable(
    [
        Label(997, "root", "root", (255, 255, 255)),
        Label(8, "Basic cell groups and regions", "grey", (191, 218, 227), 997),
        # As the Allen atlas has it, an id that 16 bits do not hold.
        Label(312782628, "Cortex of the phantom", "CTX", (112, 255, 113), 8),
        Label(549, "Core of the phantom", "TH", (255, 112, 128), 8),
        Label(507, "Olfactory bulbs", "MOB", (154, 210, 189), 8),
        Label(614454277, "Spot of the right side", "SPT", (255, 217, 70), 549),
        Label(73, "Ventricles", "VS", (170, 170, 170), 997),
    ]
)


def phantom(space: Space) -> npt.NDArray[np.uint16]:
    """A brain-like image, about 10 x 13 x 7 mm, in whatever orientation `space` has.

    Left and right differ (a bright spot lies in the right hemisphere), so do front and back (the olfactory bulbs), and top and
    bottom (the cortex is above).

    Returns
    -------
    array (planes, rows, columns), uint16
    """
    shapes = _shapes(space)
    brain, bulbs, ventricle, spot = shapes.brain, shapes.bulbs, shapes.ventricle, shapes.spot
    hemisphere, superior = np.abs(shapes.right), shapes.superior
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


def phantom_regions(space: Space) -> npt.NDArray[np.uint32]:
    """The regions of the phantom; `PHANTOM_REGIONS` names them."""
    shapes = _shapes(space)
    brain, superior = shapes.brain, shapes.superior
    regions = np.zeros(space.shape, np.uint32)
    for region, where in (
        (507, (shapes.bulbs < 1) & (brain >= 1)),
        (549, brain < 1),
        (312782628, (brain < 1) & (brain > 0.72) & (superior > -0.6)),
        (73, (shapes.ventricle < 1) & (brain < 1)),
        (614454277, (shapes.spot < 1) & (brain < 1)),
    ):
        regions[where] = region
    return regions


def phantom_warp(space: Space) -> npt.NDArray[np.float32]:
    """A displacement field (planes, rows, columns, 3), RAS mm: pushes the middle to the right by up to 0.8 mm.

    Its inverse is its negative.
    """
    centre = np.add(space.bounds.lower_mm, space.bounds.upper_mm) / 2
    _, anterior, superior = np.moveaxis(space.to_world(np.indices(space.shape).reshape(3, -1).T) - centre, -1, 0)
    field = np.zeros((*space.shape, 3), np.float32)
    # It does not depend on where along the direction of the push a point lies.
    field[..., 0] = (0.8 * np.exp(-(anterior**2 + superior**2) / 8)).reshape(space.shape)
    return field


def write_phantom_file(path: Path) -> None:
    """Make a small file of the phantom, with planes that lie further apart than their pixels.

    It holds the image, its regions at a lower resolution, and a warp with its inverse.
    """
    space = Space.from_orientation((90, 193, 271), (0.15, 0.04, 0.04), Orientation(PHANTOM_ORIENTATION))
    below = space.with_resolution((0.15, 0.08, 0.08))
    coarse = space.with_resolution((0.4, 0.4, 0.4))
    warp = phantom_warp(coarse)
    channels: list[tuple[str, Kind, Space, npt.NDArray[Any], str | None]] = [
        ("autofluo", "image", space, phantom(space), None),
        ("regions", "labels", below, phantom_regions(below), None),
        ("warp", "vectors", coarse, warp, None),
        ("inverse warp", "vectors", coarse, -warp, "warp"),
    ]
    for name, kind, own, array, inverse_of in channels:
        image = PlaneFunction(own.shape, array.dtype, array, components=3 if kind == "vectors" else 1, space=own)
        ingest_channel(IngestRequest(path=path, channel=name, image=image, kind=kind, inverse_of=inverse_of))
    with edit_lsfm(path) as editor:
        editor.set_label_table("regions", PHANTOM_REGIONS.to_json())


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


@dataclass(frozen=True)
class _Shapes:
    """For each voxel (or broadcast to it), mm from the middle, and for each body of the phantom a distance, below 1 inside."""

    right: npt.NDArray[np.float32]
    superior: npt.NDArray[np.float32]
    brain: npt.NDArray[np.float32]
    bulbs: npt.NDArray[np.float32]
    ventricle: npt.NDArray[np.float32]
    spot: npt.NDArray[np.float32]


def _shapes(space: Space) -> _Shapes:
    box = space.bounds
    centre = np.add(box.lower_mm, box.upper_mm) / 2
    index = np.indices(space.shape, dtype=np.float32, sparse=True)
    affine = space.world_from_voxel
    # An axis that does not count is left out: along it, little has to be computed.
    right, anterior, superior = (
        sum(affine[row, axis] * index[axis] for axis in range(3) if affine[row, axis]) + affine[row, 3] - centre[row]
        for row in range(3)
    )
    hemisphere = np.abs(right)
    return _Shapes(
        right=right,
        superior=superior,
        brain=(hemisphere / 4.8) ** 2 + ((anterior + 0.8) / 5.4) ** 2 + (superior / 3.4) ** 2,
        bulbs=((hemisphere - 0.9) / 1.0) ** 2 + ((anterior - 5.0) / 1.5) ** 2 + ((superior - 0.3) / 1.1) ** 2,
        ventricle=((hemisphere - 1.2) / 0.5) ** 2 + ((anterior + 0.5) / 1.8) ** 2 + ((superior - 0.8) / 0.5) ** 2,
        spot=((right - 2.2) / 0.35) ** 2 + ((anterior - 1.0) / 0.35) ** 2 + ((superior + 0.6) / 0.35) ** 2,
    )
