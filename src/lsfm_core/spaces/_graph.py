"""The spaces of a file as a graph."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from lsfm_core.pyramid import Kind
from lsfm_core.spaces._names import INVERT, UNKNOWN, StoredTransform, known_spaces, short_name, stored_field, stored_transforms
from lsfm_core.store import LsfmFile
from lsfm_core.transforms import DisplacementField, Transform

__all__ = ["PlacedChannel", "SpaceGraph", "SpaceNode", "TransformLink", "describe_spaces", "round_trip"]

#: Voxels along each axis of a block whose points are tried.
_BLOCK = 4


@dataclass(frozen=True)
class PlacedChannel:
    """A channel in a space.

    Attributes
    ----------
    name : str
    kind : {"image", "labels", "vectors", "components"}
    """

    name: str
    kind: Kind


@dataclass(frozen=True)
class SpaceNode:
    """A space that occurs in a file.

    Attributes
    ----------
    name : str or None
        None stands for all that is not known.
    channels : tuple of PlacedChannel
        What lies there; displacement fields are transforms, and not told here.
    """

    name: str | None
    channels: tuple[PlacedChannel, ...]


@dataclass(frozen=True)
class TransformLink:
    """A transform between two spaces.

    Attributes
    ----------
    name : str
        As ``--transform`` takes it.
    kind : {"affine", "field"}
    inner, outer : str or None
        The spaces that it joins; it carries an image from the inner to the outer one.
    inverse : str or None
        What leads back: ``NAME:invert`` of an affine, the partner of a field; None where nothing does.
    residual_mm : tuple of 2 float, optional
        Of a field with a partner: how far points come back from where they started, median and largest of those that were tried.
    sampled : int
        How many points were tried.
    mirrors : bool
        Whether an affine turns space into its mirror image.
    proof : str
        Of one that was imported: whether its program's own result was made anew with it.
    """

    name: str
    kind: Literal["affine", "field"]
    inner: str | None
    outer: str | None
    inverse: str | None
    residual_mm: tuple[float, float] | None = None
    sampled: int = 0
    mirrors: bool = False
    proof: str = ""

    def describe(self) -> str:
        """In words, on one line."""
        return f"{self._words()}; {self.proof}" if self.proof else self._words()

    def _words(self) -> str:
        sides = " -> ".join(UNKNOWN if side is None else repr(side) for side in (self.inner, self.outer))
        if self.kind == "affine":
            return f"{sides}: {self.name}, an affine, which can be inverted{'; it mirrors space' if self.mirrors else ''}"
        if self.inverse is None:
            return f"{sides}: {self.name}, a displacement field without an inverse"
        if self.residual_mm is None:
            return f"{sides}: {self.name}, a displacement field with the inverse {self.inverse}"
        median, most = self.residual_mm
        return (
            f"{sides}: {self.name}, a displacement field with the inverse {self.inverse}; there and back misses by {median:.2g} mm "
            f"(median), {most:.2g} mm (maximum) at {self.sampled} points"
        )


@dataclass(frozen=True)
class SpaceGraph:
    """The spaces of a file, and what leads from one to another.

    Attributes
    ----------
    path : Path
    spaces : tuple of SpaceNode
    transforms : tuple of TransformLink
    """

    path: Path
    spaces: tuple[SpaceNode, ...]
    transforms: tuple[TransformLink, ...]

    def describe(self) -> str:
        """In words, one fact per line."""
        lines = []
        for space in self.spaces:
            lines.append(f"space {space.name!r}" if space.name is not None else f"{UNKNOWN} (not recorded)")
            lines += [f"  {channel.kind} {channel.name}" for channel in space.channels]
        return "\n".join([*lines, *(link.describe() for link in self.transforms)])


def describe_spaces(file: LsfmFile) -> SpaceGraph:
    """The spaces of a file, the channels that lie in them, and the transforms between them.

    Of displacement fields with an inverse a few blocks are read, to tell how good it is.
    """
    names = sorted(known_spaces(file))
    channels = [channel for channel in file.channels.values() if channel.kind != "vectors"]
    nodes = [
        SpaceNode(name, tuple(PlacedChannel(c.name, c.kind) for c in channels if c.space_name == name)) for name in (*names, None)
    ]
    links = tuple(_link(file, transform) for transform in stored_transforms(file))
    return SpaceGraph(file.path, tuple(node for node in nodes if node.name is not None or node.channels), links)


def _link(file: LsfmFile, transform: StoredTransform) -> TransformLink:
    name, (inner, outer) = short_name(file, transform, None), transform.sides
    proof = file.proof(transform.channel, transform.affine)
    if transform.affine is not None:
        matrix = file.affine(transform.channel, transform.affine).matrix
        mirrors = bool(np.linalg.det(matrix[:3, :3]) < 0)
        return TransformLink(name, "affine", inner, outer, f"{name}{INVERT}", mirrors=mirrors, proof=proof)
    # What another program wrote does not tell how its vectors are meant.
    if file[transform.channel].orientation is None:
        return TransformLink(name, "field", inner, outer, None)
    field = stored_field(file, transform.channel)
    if field.partner is None:
        return TransformLink(name, "field", inner, outer, None, proof=proof)
    residual, sampled = round_trip(field, field.partner)
    return TransformLink(name, "field", inner, outer, field.partner.name, residual, sampled, proof=proof)


def round_trip(field: DisplacementField, back: Transform) -> tuple[tuple[float, float], int]:
    """How far points of a field's domain come back from where they started, mm; those of 27 small blocks are tried.

    Returns
    -------
    (median, maximum) : tuple of 2 float
    sampled : int
        How many points were tried.
    """
    starts = [np.unique([int(part * max(n - _BLOCK, 0)) for part in (0.2, 0.5, 0.8)]).tolist() for n in field.space.shape]
    corner = np.stack(np.meshgrid(*(np.arange(min(n, _BLOCK)) for n in field.space.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    distances = []
    for start in product(*starts):
        points = field.space.to_world(corner + np.array(start))
        distances.append(np.linalg.norm(back.map_points(field.map_points(points)) - points, axis=1))
    missed = np.concatenate(distances)
    return (float(np.median(missed)), float(missed.max())), len(missed)
