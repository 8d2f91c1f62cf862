"""How a chain leads from the voxels of a grid to those of an image, as the compiled loops take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.geometry import Shape3, Space, voxel_count
from lsfm_core.transforms import Affine, DisplacementField, TransformChain

__all__ = ["BoxWay", "Way"]

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]

#: Rounding between two ways to an index, with room to spare. Voxels.
_SLACK = 1e-6
#: By so little may a row lean from a field's axis over the whole grid, and still count as lying along it. Voxels.
_LEAN = 1e-9
#: Voxel centres that are carried at once, through a numeric inverse: that takes twelve times their own size.
_POINTS_AT_ONCE = 2**17
_VECTOR_BYTES = 24


@dataclass(frozen=True)
class BoxWay:
    """The way from a box of the grid; its axes are those of `Way.order`.

    Attributes
    ----------
    arguments : tuple
        ``linear, pushes, vectors, boxes, aligned``, as `lsfm_core.kernels.warp` tells.
    reach : array (2, 3)
        The smallest and largest index of the image that it leads to.
    nbytes : int
        What is held of displacements, and was while they were read.
    """

    arguments: tuple[Array, Array, Array, Array, bool]
    reach: FloatArray
    nbytes: int


class Way:
    """A chain between two grids.

    Parameters
    ----------
    source : Space
        Of the image.
    chain : TransformChain
    target : Space
        Of the result.

    Attributes
    ----------
    order : tuple of 3 int
        The result's axes in the order in which the loops run. Rows are made along the last one, which leads along the image's last
        axis most, so that neighbours in a row are neighbours in memory.
    """

    def __init__(self, source: Space, chain: TransformChain, target: Space) -> None:
        steps = source.voxel_from_world[:3, :3] @ chain.linear @ target.world_from_voxel[:3, :3]
        across = np.abs(steps) / np.linalg.norm(steps, axis=0)
        last = int(across[2].argmax())
        first, second = sorted({0, 1, 2} - {last}, key=lambda axis: -across[0, axis])
        self.order: Shape3 = (first, second, last)
        self._target = target
        others = [index for index, step in enumerate(chain.folded) if not isinstance(step, Affine | DisplacementField)]
        inner = others[0] if others else len(chain.folded)
        #: What loops cannot follow: it is evaluated at the voxel centres, and a field on the grid itself takes its place.
        self._outer = TransformChain(chain.folded[inner:]) if others else None
        self.fields: list[DisplacementField | None] = [None] if others else []
        frame = target.world_from_voxel[:, [*self.order, 3]]
        self._linear: list[FloatArray] = []
        self._pushes: list[FloatArray] = []
        if self._outer is not None:
            self._linear.append(np.eye(4)[:, [*self.order, 3]])
            frame = target.world_from_voxel
        tail = np.eye(4)
        for step in reversed(chain.folded[:inner]):
            if isinstance(step, Affine):
                tail = step.matrix @ tail
            elif isinstance(step, DisplacementField):
                self._lead(step.space, frame, tail)
                self.fields.append(step)
                frame, tail = step.space.world_from_voxel, np.eye(4)
        self._lead(source, frame, tail)
        self._aligned = bool(self.fields) and self._straighten()

    def _lead(self, space: Space, frame: FloatArray, tail: FloatArray) -> None:
        """On to the voxels of a space."""
        if self.fields:
            self._pushes.append((space.voxel_from_world @ tail)[:3, :3])
        self._linear.append(space.voxel_from_world @ tail @ frame)

    def _straighten(self) -> bool:
        """Whether rows run along an axis of the first field, no more than a voxel of it at a step; makes that exact."""
        linear = self._linear[0][:3, :3]
        kept = np.zeros((3, 3))
        axes = np.abs(linear).argmax(axis=1)
        if sorted(axes.tolist()) != [0, 1, 2]:
            return False
        kept[range(3), axes] = linear[range(3), axes]
        lean = np.abs(linear - kept) @ [self._target.shape[axis] for axis in self.order]
        if lean.max() > _LEAN or np.abs(kept[:, 2]).max() > 1:
            return False
        self._linear[0] = self._linear[0].copy()
        self._linear[0][:3, :3] = kept
        return True

    def on_box(self, starts: Sequence[int], stops: Sequence[int], max_bytes: int) -> BoxWay | None:
        """The way from the voxels ``starts:stops`` of the result, of which there are some.

        Parameters
        ----------
        starts, stops : sequence of 3 int
            In the result's own order.
        max_bytes : int
            That may be taken for displacements.

        Returns
        -------
        BoxWay or None
            None if more would be needed: split the box.
        """
        low = np.array([starts[axis] for axis in self.order], np.int64)
        high = np.array([stops[axis] for axis in self.order], np.int64)
        linear = np.ascontiguousarray([matrix[:3] for matrix in self._linear])
        pushes = np.ascontiguousarray(self._pushes).reshape(-1, 3, 3)
        boxes = np.zeros((len(self.fields), 10), np.int64)
        parts: list[Array] = []
        vectors, held = np.empty(0, np.float32), 0
        for index, field in enumerate(self.fields):
            begin, shape, whole = tuple(starts), tuple(b - a for a, b in zip(starts, stops, strict=True)), self._target.shape
            if field is not None:
                reach = self._reach(low, high, linear[: index + 1], pushes[:index], vectors, boxes[:index])
                box = field.box_around(reach)
                begin, shape, whole = box.starts, box.shape if field.meets(reach) else (0, 0, 0), field.space.shape
            # As it is read, and what it is read from, or put together with those of other fields; a numeric inverse takes more.
            held += voxel_count(shape) * _VECTOR_BYTES * (6 if field is None else 1)
            if held > max_bytes:
                return None
            boxes[index] = (sum(part.size for part in parts), *begin, *shape, *whole)
            if voxel_count(shape):
                crop = self._inverse(starts, stops) if field is None else field.read_stored(box)
                parts.append(np.ascontiguousarray(crop).reshape(-1))
                vectors = parts[0] if len(parts) == 1 else np.concatenate(parts)
        vectors = np.require(vectors, requirements=["C", "W"])
        reach = self._reach(low, high, linear, pushes, vectors, boxes)
        return BoxWay((linear, pushes, vectors, boxes, self._aligned), reach, held)

    def _reach(self, low: Array, high: Array, linear: Array, pushes: Array, vectors: Array, boxes: Array) -> FloatArray:
        if len(boxes):
            from lsfm_core.kernels.warp import reach

            found = reach(low, high, linear, pushes, vectors, boxes, self._aligned)
        else:
            corners = np.array(list(product(*zip(low, high - 1, strict=True))), np.float64)
            index = corners @ linear[0, :, :3].T + linear[0, :, 3]
            found = np.stack([index.min(axis=0), index.max(axis=0)])
        return np.asarray(found + np.array([[-_SLACK], [_SLACK]]))

    def _inverse(self, starts: Sequence[int], stops: Sequence[int]) -> FloatArray:
        """What the outer part of the chain adds to the voxel centres of a box, (a, b, c, 3)."""
        assert self._outer is not None
        i, j, k = (np.arange(a, b, dtype=np.float64) for a, b in zip(starts, stops, strict=True))
        along = self._target.world_from_voxel[:3].T
        # Element by element, so that it does not depend on the box.
        centres = (along[0] * i[:, None, None, None] + along[1] * j[:, None, None]) + (along[2] * k[:, None] + along[3])
        points = centres.reshape(-1, 3)
        moved = [self._outer.map_points(points[n : n + _POINTS_AT_ONCE]) for n in range(0, len(points), _POINTS_AT_ONCE)]
        return np.asarray(np.concatenate(moved).reshape(centres.shape) - centres)
