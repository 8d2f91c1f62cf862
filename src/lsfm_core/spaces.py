"""Spaces by their names: which a text stands for, which transforms of a file join two, and the way from one to another.

Each channel lives in a space, and each transform joins two: it maps a point of its outer space to its inner one, as ITK's files do,
and so carries an image from the inner to the outer one. docs/exports.md tells how they are recorded and what is checked by them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from lsfm_core.errors import InputError
from lsfm_core.provenance import as_command_line
from lsfm_core.pyramid import Kind
from lsfm_core.store import LsfmFile, Sides, own_space
from lsfm_core.transforms import Affine, DisplacementField, Transform

__all__ = [
    "UNKNOWN",
    "PlacedChannel",
    "SpaceGraph",
    "SpaceNode",
    "StoredTransform",
    "TransformLink",
    "Way",
    "describe_spaces",
    "find_way",
    "find_ways",
    "known_spaces",
    "linear_way",
    "resolve_space",
    "round_trip",
    "set_space_command",
    "stored_field",
    "stored_transform",
    "stored_transforms",
]

#: Stands for a space that is not known.
UNKNOWN = "?"
_INVERT = ":invert"
#: Voxels along each axis of a block whose points are tried.
_BLOCK = 4


@dataclass(frozen=True)
class StoredTransform:
    """A transform that is stored in a file.

    Attributes
    ----------
    channel : str
        With which an affine is stored; of a displacement field its own name.
    affine : str or None
        The affine's name; None for a displacement field.
    sides : Sides
    """

    channel: str
    affine: str | None
    sides: Sides


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
    """

    name: str
    kind: Literal["affine", "field"]
    inner: str | None
    outer: str | None
    inverse: str | None
    residual_mm: tuple[float, float] | None = None
    sampled: int = 0
    mirrors: bool = False

    def describe(self) -> str:
        """In words, on one line."""
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


@dataclass(frozen=True)
class Way:
    """A way from one space to another, through transforms of a file.

    Attributes
    ----------
    steps : tuple of str
        The transforms, as ``--transform`` takes them, the first one nearest to the image.
    spaces : tuple of str
        Where it begins, and where each of the transforms leads to.
    """

    steps: tuple[str, ...]
    spaces: tuple[str, ...]

    def __add__(self, other: Way) -> Way:
        return Way(self.steps + other.steps, self.spaces + other.spaces[1:])

    def __str__(self) -> str:
        return ", ".join(self.steps) or "no transform"


def stored_transforms(file: LsfmFile) -> Iterator[StoredTransform]:
    """All affines and displacement fields of a file."""
    for channel in file.channels.values():
        for affine in channel.affines:
            yield StoredTransform(channel.name, affine, file.affine_sides(channel.name, affine))
        if channel.kind == "vectors":
            yield StoredTransform(channel.name, None, file.field_sides(channel.name))


def stored_transform(file: LsfmFile, name: str, channel: str | None = None) -> StoredTransform | None:
    """The transform of a file that a name stands for: ``affine``, ``channel/affine``, or a displacement field; None if none does.

    Parameters
    ----------
    channel : str, optional
        Whose affines come first.

    Raises
    ------
    InputError
        If several channels have an affine of that name.
    """
    owner, slash, affine = name.rpartition("/")
    if slash and owner in file and affine in file[owner].affines:
        return StoredTransform(owner, affine, file.affine_sides(owner, affine))
    if channel is not None and name in file[channel].affines:
        return StoredTransform(channel, name, file.affine_sides(channel, name))
    if name in file and file[name].kind == "vectors":
        return StoredTransform(name, None, file.field_sides(name))
    owners = [owner for owner, found in file.channels.items() if name in found.affines]
    if len(owners) > 1:
        choices = ", ".join(f"{owner}/{name}" for owner in owners)
        raise InputError(f"{file.path}: transform {name!r} is stored with several channels: say which: {choices}")
    return StoredTransform(owners[0], name, file.affine_sides(owners[0], name)) if owners else None


def known_spaces(file: LsfmFile) -> set[str]:
    """The names of spaces that occur in a file."""
    names = {channel.space_name for channel in file.channels.values()}
    names.update(name for transform in stored_transforms(file) for name in transform.sides)
    return {name for name in names if name is not None}


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
    name, (inner, outer) = _short_name(file, transform, None), transform.sides
    if transform.affine is not None:
        matrix = file.affine(transform.channel, transform.affine).matrix
        return TransformLink(name, "affine", inner, outer, f"{name}{_INVERT}", mirrors=bool(np.linalg.det(matrix[:3, :3]) < 0))
    # What another program wrote does not tell how its vectors are meant.
    if file[transform.channel].orientation is None:
        return TransformLink(name, "field", inner, outer, None)
    field = stored_field(file, transform.channel)
    if field.partner is None:
        return TransformLink(name, "field", inner, outer, None)
    residual, sampled = round_trip(field, field.partner)
    return TransformLink(name, "field", inner, outer, field.partner.name, residual, sampled)


def stored_field(file: LsfmFile, name: str, may_invert: bool = False) -> DisplacementField:
    """A displacement field of a file, with its inverse if it has one.

    Parameters
    ----------
    may_invert : bool
        Whether it may be inverted numerically, if it has none.

    Raises
    ------
    InputError
        If the file does not record how its vectors are meant.
    """
    channel = file[name]
    if channel.orientation is None:
        raise InputError(
            f"{file.path}: displacement field {name!r} was written by a program that does not record how its vectors are meant: "
            "give the field's own file instead"
        )
    partner = None
    if channel.partner is not None and channel.partner in file:
        other = file[channel.partner]
        partner = DisplacementField(other.space, other.levels[0].data, name=other.name)
    return DisplacementField(channel.space, channel.levels[0].data, name=name, partner=partner, may_invert=may_invert)


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


def resolve_space(file: LsfmFile | None, text: str, *, new_channel: str | None = None) -> str | None:
    """The space that a text stands for: that in which the channel of this name lives, or else the one of this name.

    Parameters
    ----------
    file : LsfmFile or None
        None where there is none yet.
    text : str
    new_channel : str, optional
        A channel that is not there yet, whose name stands for its own space.

    Returns
    -------
    str or None
        None for `UNKNOWN`.

    Raises
    ------
    InputError
        If no space can have such a name, or it is the name of a channel of which it is not known where it lives.
    """
    if text == UNKNOWN:
        return None
    if not text or text != text.strip() or not text.isprintable():
        raise InputError(f"space {text!r}: use one or more printable characters, no blanks at the ends")
    if text == new_channel:
        return own_space(text)
    if file is None or text not in file:
        return text
    space = file[text].space_name
    if space is None:
        raise InputError(
            f"{file.path}: in which space channel {text!r} lies is not recorded, so its name cannot stand for one: record it first "
            f"(set-space --channel {text} --space NAME), or give another name"
        )
    return space


def set_space_command(file: LsfmFile, **options: str) -> str:
    """The command line that records a space; with its options (``channel``, ``space``, ``transform``, ``from``, ``to``)."""
    words = (word for name, value in options.items() for word in (f"--{name}", value))
    return as_command_line(["set-space", str(file.path), *words])


def linear_way(file: LsfmFile, channel: str, space: str) -> Affine:
    """The way that carries a channel into a space, through affines of the file alone.

    Parameters
    ----------
    channel : str
    space : str
        Its name, or that of a channel that lives there.

    Returns
    -------
    Affine
        As all transforms, it maps a point of that space to the channel's world; its inverse places the channel there.

    Raises
    ------
    UnknownChannelError
    InputError
        If it is not known where one of them lies, there is no such way, or there are several that are equally short.
    """
    start, end = _ends(file, channel, space)
    ways = find_ways(file, start, end, channel, linear=True)
    if not ways:
        others = find_ways(file, start, end, channel)
        through = f": through {others[0]} only, which is not linear; export the channel that way" if others else ""
        raise InputError(f"{file.path}: no affines that are stored lead from space {start!r} to {end!r}{through}")
    way = _only(file, ways)
    matrix = Affine(np.eye(4))
    for step in way.steps:
        found = stored_transform(file, step.removesuffix(_INVERT), channel)
        if found is not None and found.affine is not None:
            affine = file.affine(found.channel, found.affine)
            matrix = matrix @ (affine.inverse() if step.endswith(_INVERT) else affine)
    return Affine(matrix.matrix, name=str(way))


def find_way(file: LsfmFile, channel: str, space: str, via: Sequence[str] = (), *, invertible: Collection[str] = ()) -> Way:
    """The way that carries a channel into a space: the only shortest one through the transforms of the file.

    Parameters
    ----------
    channel : str
    space : str
        Its name, or that of a channel that lives there.
    via : sequence of str
        What lies on the way, from the image outward: spaces, channels that live there, or transforms.
    invertible : collection of str
        Displacement fields without an inverse that may be passed the other way.

    Raises
    ------
    UnknownChannelError
    InputError
        If it is not known where one of them lies, there is no such way, or there are several that are equally short.
    """
    start, end = _ends(file, channel, space)
    ways = [Way((), (start,))]
    for place in (*via, None):
        found = [way + onward for way in ways for onward in _onward(file, way.spaces[-1], place, end, channel, invertible)]
        ways = [way for way in found if len(way.steps) == min(len(other.steps) for other in found)]
    if not ways:
        lone = [name for name, found in file.channels.items() if found.kind == "vectors" and found.partner not in file]
        onward = [] if via or invertible else find_ways(file, start, end, channel, invertible=lone)
        if onward:
            through = [step.removesuffix(_INVERT) for step in onward[0].steps if step.removesuffix(_INVERT) in lone]
            raise InputError(
                f"{file.path}: from space {start!r} to {end!r} leads only the inverse of {', '.join(through)}, which is "
                "not stored: allow "
                f"that it is found numerically ({' '.join(f'--numeric-inverse {name}' for name in through)})"
            )
        passing = f" by way of {', '.join(via)}" if via else ""
        known = sorted({transform.sides.outer or UNKNOWN for transform in stored_transforms(file)} | {start})
        raise InputError(
            f"{file.path}: no transforms that are stored lead from space {start!r} to {end!r}{passing}; spaces that occur: "
            f"{', '.join(known)}; 'lsfm-core spaces {file.path}' shows what leads where"
        )
    return _only(file, ways)


def _ends(file: LsfmFile, channel: str, space: str) -> tuple[str, str]:
    """Where a channel lives, and the space that a text stands for; both are known."""
    start, end = file[channel].space_name, resolve_space(file, space)
    if start is None or end is None:
        raise InputError(
            f"{file.path}: in which space channel {channel!r} lies is not recorded: "
            f"{set_space_command(file, channel=channel, space='NAME')} records it"
            if start is None
            else f"{file.path}: space {space!r}: name one that is known"
        )
    return start, end


def _only(file: LsfmFile, ways: Sequence[Way]) -> Way:
    if len(ways) > 1:
        listing = "; ".join(map(str, ways))
        raise InputError(
            f"{file.path}: several ways lead from space {ways[0].spaces[0]!r} to {ways[0].spaces[-1]!r}, and none is shorter: "
            f"{listing}: name a space or a transform on the way that is meant (--via), or its transforms (--transform)"
        )
    return ways[0]


def _onward(file: LsfmFile, start: str, place: str | None, end: str, channel: str, invertible: Collection[str]) -> list[Way]:
    """The shortest ways from a space to a place that is named, or, without one, to the end."""
    if place is None:
        return find_ways(file, start, end, channel, invertible=invertible)
    transform = stored_transform(file, place.removesuffix(_INVERT), channel)
    if transform is None:
        space = resolve_space(file, place)
        if space not in known_spaces(file):
            raise InputError(f"{file.path}: via {place!r}: there is no space, channel or transform of that name")
        return find_ways(file, start, str(space), channel, invertible=invertible)
    return [
        way + Way((name,), (inner, outer))
        for name, inner, outer in _steps(file, transform, channel, invertible)
        if not place.endswith(_INVERT) or name.endswith(_INVERT)
        for way in find_ways(file, start, inner, channel, invertible=invertible)
    ]


def find_ways(
    file: LsfmFile, start: str, end: str, channel: str | None = None, *, linear: bool = False, invertible: Collection[str] = ()
) -> list[Way]:
    """The shortest ways from one space to another through the transforms of a file, as their recorded sides have it.

    Parameters
    ----------
    start, end : str
        The image's side, and the output's.
    channel : str, optional
        The channel that is exported, whose affines need not be named in full.
    linear : bool
        Whether only affines count.
    invertible : collection of str
        Displacement fields that may be passed the other way as well.

    Returns
    -------
    list of Way
        Empty if there is none.
    """
    usable = (found for found in stored_transforms(file) if found.affine is not None or not linear)
    steps = [step for transform in usable for step in _steps(file, transform, channel, invertible)]
    ways = [Way((), (start,))]
    seen = {start}
    while ways and end not in seen:
        longer = [way + Way((name,), (inner, outer)) for way in ways for name, inner, outer in steps if inner == way.spaces[-1]]
        ways = [way for way in longer if way.spaces[-1] not in seen]
        seen.update(way.spaces[-1] for way in ways)
    return [way for way in ways if way.spaces[-1] == end]


def _steps(
    file: LsfmFile, transform: StoredTransform, channel: str | None, invertible: Collection[str]
) -> Iterator[tuple[str, str, str]]:
    """How a transform can be a step of a chain: its name there, where it comes from and where it leads."""
    inner, outer = transform.sides
    if inner is None or outer is None or inner == outer:
        return
    name = _short_name(file, transform, channel)
    yield name, inner, outer
    # The inverse of a field is one of the fields itself, or there is none that comes without being asked for.
    if transform.affine is not None or transform.channel in invertible:
        yield f"{name}{_INVERT}", outer, inner


def _short_name(file: LsfmFile, transform: StoredTransform, channel: str | None) -> str:
    if transform.affine is None:
        return transform.channel
    full = f"{transform.channel}/{transform.affine}"
    owners: Sequence[str] = [name for name, found in file.channels.items() if transform.affine in found.affines]
    is_field = transform.affine in file and file[transform.affine].kind == "vectors"
    return transform.affine if transform.channel == channel or (len(owners) == 1 and not is_field) else full
