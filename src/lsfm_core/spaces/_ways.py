"""Ways from one space to another."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lsfm_core.errors import InputError
from lsfm_core.spaces._names import (
    INVERT,
    UNKNOWN,
    StoredTransform,
    known_spaces,
    resolve_space,
    set_space_command,
    short_name,
    stored_transform,
    stored_transforms,
)
from lsfm_core.store import LsfmFile
from lsfm_core.transforms import Affine

__all__ = ["Way", "check_one_space", "find_way", "find_ways", "linear_way"]

#: What an affine may differ from one that moves nothing (mm, and per mm).
_NOTHING = 1e-6


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
    return _linear(file, _only(file, ways), channel)


def _linear(file: LsfmFile, way: Way, channel: str | None = None) -> Affine:
    """The affines of a way as one."""
    matrix = Affine(np.eye(4))
    for step in way.steps:
        found = stored_transform(file, step.removesuffix(INVERT), channel)
        if found is not None and found.affine is not None:
            affine = file.affine(found.channel, found.affine)
            matrix = matrix @ (affine.inverse() if step.endswith(INVERT) else affine)
    return Affine(matrix.matrix, name=str(way))


def check_one_space(file: LsfmFile, first: str, second: str) -> None:
    """Refuse to take two spaces for one between which transforms lead that move points.

    Raises
    ------
    InputError
    """
    for start, end in ((first, second), (second, first)):
        for way in find_ways(file, start, end):
            affines = [stored_transform(file, step.removesuffix(INVERT)) for step in way.steps]
            linear = all(found is not None and found.affine is not None for found in affines)
            if not linear or not np.allclose(_linear(file, way).matrix, np.eye(4), atol=_NOTHING):
                raise InputError(
                    f"{file.path}: space {start!r} and space {end!r} are not one: {way} leads from one to the "
                    "other, and moves points"
                )


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
            through = [step.removesuffix(INVERT) for step in onward[0].steps if step.removesuffix(INVERT) in lone]
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
    transform = stored_transform(file, place.removesuffix(INVERT), channel)
    if transform is None:
        space = resolve_space(file, place)
        if space not in known_spaces(file):
            raise InputError(f"{file.path}: via {place!r}: there is no space, channel or transform of that name")
        return find_ways(file, start, str(space), channel, invertible=invertible)
    return [
        way + Way((name,), (inner, outer))
        for name, inner, outer in _steps(file, transform, channel, invertible)
        if not place.endswith(INVERT) or name.endswith(INVERT)
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
    name = short_name(file, transform, channel)
    yield name, inner, outer
    # The inverse of a field is one of the fields itself, or there is none that comes without being asked for.
    if transform.affine is not None or transform.channel in invertible:
        yield f"{name}{INVERT}", outer, inner
