"""Chains of transforms as OME-Zarr (RFC-5) and as BigWarp's landmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.export._csv import write_rows
from lsfm_core.geometry import Orientation, Space
from lsfm_core.transforms import Affine, DisplacementField, Transform
from lsfm_core.transforms.spline import ThinPlateSpline

__all__ = ["Landmarks", "place_landmarks", "write_landmarks", "write_scene"]

FloatArray = npt.NDArray[np.float64]
#: Gives the displacements of a field on a grid, R, A, S mm, in slabs across its first axis.
Slabs = Callable[[Transform, Space], Iterator[npt.NDArray[np.float32]]]

#: The version whose proposal for transforms is written.
_VERSION = "0.6rc0"
_AXES = (("z", "inferior to superior"), ("y", "posterior to anterior"), ("x", "left to right"))
#: R, A, S to z, y, x.
_ZYX = np.eye(3)[::-1]
_CHUNK = 64
_FIELDS = "coordinateTransformations"

#: Landmarks along each axis that are tried, and voxels by which what lies between them may be off.
_NUMBERS = (3, 4, 6, 8)
_WANTED_VOX = 0.1
_TRIED = 2000


def write_scene(path: Path, parts: Sequence[Transform], ends: tuple[str, str], slabs: Slabs) -> None:
    """Write a scene of OME-Zarr: how a point of the outer space comes to the inner one, and back where that is known.

    Parameters
    ----------
    path : Path
        A folder that is made.
    parts : sequence of Affine or DisplacementField
        From the image outward.
    ends : (str, str)
        The names of the inner and of the outer space.
    slabs : callable
    """
    import zarr

    root = zarr.open_group(str(path), mode="w-", zarr_format=3)
    inner, outer = ends

    def steps(part: Transform, name: str) -> Iterator[dict[str, Any]]:
        if isinstance(part, Affine):
            matrix = _ZYX @ part.matrix[:3, :3] @ _ZYX
            yield _affine(matrix, _ZYX @ part.matrix[:3, 3])
        elif isinstance(part, DisplacementField):
            turn = _write_field(root, f"{_FIELDS}/{name}", part, slabs)
            into = [] if turn is None else [_affine(turn, np.zeros(3))]
            back = [] if turn is None else [_affine(turn.T, np.zeros(3))]
            yield from (*into, {"type": "displacements", "path": f"{_FIELDS}/{name}", "interpolation": "linear"}, *back)

    # The outermost is applied first to a point.
    there = [step for number, part in reversed(list(enumerate(parts))) for step in steps(part, f"field{number}")]
    whole: dict[str, Any] = {"type": "sequence", "transformations": there}
    backward = [part.inverse() if isinstance(part, Affine) else getattr(part, "partner", None) for part in parts]
    if all(part is not None for part in backward):
        back = [step for number, part in enumerate(backward) if part is not None for step in steps(part, f"inverse_field{number}")]
        whole = {"type": "bijection", "forward": whole, "inverse": {"type": "sequence", "transformations": back}}
    axes = [{"name": name, "type": "space", "unit": "millimeter", "longName": words} for name, words in _AXES]
    whole |= {"name": f"{outer} to {inner}", "input": {"name": outer}, "output": {"name": inner}}
    scene = {
        "coordinateSystems": [{"name": name, "axes": axes} for name in (outer, inner)],
        "coordinateTransformations": [
            {**whole, "name": f"{outer} to {inner}", "input": {"name": outer}, "output": {"name": inner}}
        ],
    }
    root.attrs["ome"] = {"version": _VERSION, "scene": scene}


def _affine(matrix: FloatArray, shift: FloatArray) -> dict[str, Any]:
    return {"type": "affine", "affine": np.column_stack([matrix, shift]).tolist()}


def _write_field(root: Any, place: str, field: DisplacementField, slabs: Slabs) -> FloatArray | None:
    """Write a field along its own axes; gives the turn from z, y, x to these, if they are others."""
    space = field.space.reoriented(field.space.reorientation_to(Orientation("SAR")))
    size = np.asarray(space.voxel_size_mm)
    # From R, A, S to along the axes.
    along = (space.world_from_voxel[:3, :3] / size).T
    group = root.create_group(place)
    array = group.create_array(
        "s0", shape=(3, *space.shape), chunks=(3, *(min(_CHUNK, n) for n in space.shape)), dtype="float32",
        dimension_names=["c", "z", "y", "x"],
    )  # fmt: skip
    begin = 0
    for slab in slabs(field, space):
        turned = np.moveaxis(slab @ along.T.astype(np.float32), -1, 0)
        array[:, begin : begin + len(slab)] = turned
        begin += len(slab)
    axes = [{"name": "c", "type": "displacement", "discrete": True}]
    axes += [{"name": name, "type": "space", "unit": "millimeter"} for name, _ in _AXES]
    first = along @ space.world_from_voxel[:3, 3]
    system = {"name": "physical", "axes": axes}
    placed = {
        "type": "sequence",
        "input": {"path": "s0"},
        "output": {"name": "physical"},
        "transformations": [
            {"type": "scale", "scale": [1.0, *size.tolist()]},
            {"type": "translation", "translation": [0.0, *first.tolist()]},
        ],
    }
    image = {"coordinateSystems": [system], "datasets": [{"path": "s0", "coordinateTransformations": [placed]}]}
    group.attrs["ome"] = {"version": _VERSION, "multiscales": [image]}
    turn = along @ _ZYX
    return None if np.allclose(turn, np.eye(3), atol=1e-9) else turn


class Landmarks:
    """Pairs of points, the thin-plate spline through which stands for a chain.

    Attributes
    ----------
    outer, inner : array (n, 3)
        R, A, S mm.
    off_mm : (float, float)
        By how much the spline is off between them: median, largest of those that were tried.
    """

    def __init__(self, chain: Transform, grid: Space, count: int, points: FloatArray, goals: FloatArray) -> None:
        steps = [np.linspace(0, n - 1, count if n > 1 else 1) for n in grid.shape]
        self.outer: FloatArray = grid.to_world(np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3))
        self.inner: FloatArray = chain.map_points(self.outer)
        spline = ThinPlateSpline(self.outer, self.inner, name="landmarks")
        off = np.linalg.norm(spline.map_points(points) - goals, axis=1)
        self.off_mm = float(np.median(off)), float(off.max())


def place_landmarks(chain: Transform, grid: Space) -> Landmarks:
    """As many landmarks on a grid as are needed for a tenth of a voxel, or 512."""
    index = np.random.default_rng(0).uniform(0, 1, (_TRIED, 3)) * (np.array(grid.shape) - 1)
    points = grid.to_world(index)
    goals = chain.map_points(points)
    for count in _NUMBERS:
        landmarks = Landmarks(chain, grid, count, points, goals)
        if landmarks.off_mm[1] <= _WANTED_VOX * min(grid.voxel_size_mm):
            break
    return landmarks


def write_landmarks(path: Path, landmarks: Landmarks, moving: Space, fixed: Space, unit_mm: float) -> None:
    """Write landmarks as BigWarp has them: of each its place in the moving and in the fixed image, x, y, z from the first voxel."""
    pairs = [
        space.to_voxel(points)[:, ::-1] * np.asarray(space.voxel_size_mm)[::-1] / unit_mm
        for points, space in ((landmarks.inner, moving), (landmarks.outer, fixed))
    ]
    rows = (",".join([f'"Pt-{number}"', '"true"', *map(repr, row)]) for number, row in enumerate(np.column_stack(pairs).tolist()))
    write_rows(path, [], rows)
