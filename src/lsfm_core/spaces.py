"""Spaces by their names: which a text stands for, which transforms of a file join two, and the way from one to another.

Each channel lives in a space, and each transform joins two: it maps a point of its outer space to its inner one, as ITK's files do,
and so carries an image from the inner to the outer one. docs/exports.md tells how they are recorded and what is checked by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lsfm_core.errors import InputError
from lsfm_core.provenance import as_command_line
from lsfm_core.store import LsfmFile, Sides, own_space
from lsfm_core.transforms import Affine

__all__ = [
    "UNKNOWN",
    "StoredTransform",
    "find_ways",
    "known_spaces",
    "resolve_space",
    "set_space_command",
    "stored_transform",
    "stored_transforms",
]

#: Stands for a space that is not known.
UNKNOWN = "?"


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
    start, end = file[channel].space_name, resolve_space(file, space)
    if start is None or end is None:
        raise InputError(
            f"{file.path}: in which space channel {channel!r} lies is not recorded: "
            f"{set_space_command(file, channel=channel, space='NAME')} records it"
        )
    ways = find_ways(file, start, end, channel, linear=True)
    if len(ways) > 1:
        listing = "; ".join(", ".join(way) for way in ways)
        raise InputError(f"{file.path}: several ways lead from space {start!r} to {end!r}, and none is shorter: {listing}")
    if not ways:
        others = find_ways(file, start, end, channel)
        through = f": through {', '.join(others[0])} only, which is not linear; export the channel that way" if others else ""
        raise InputError(f"{file.path}: no affines that are stored lead from space {start!r} to {end!r}{through}")
    matrix = Affine(np.eye(4))
    for step in ways[0]:
        found = stored_transform(file, step.removesuffix(":invert"), channel)
        if found is not None and found.affine is not None:
            affine = file.affine(found.channel, found.affine)
            matrix = matrix @ (affine.inverse() if step.endswith(":invert") else affine)
    return Affine(matrix.matrix, name=", ".join(ways[0]))


def find_ways(file: LsfmFile, start: str, end: str, channel: str | None = None, *, linear: bool = False) -> list[tuple[str, ...]]:
    """The shortest ways from one space to another through the transforms of a file, as their recorded sides have it.

    Parameters
    ----------
    start, end : str
        The image's side, and the output's.
    channel : str, optional
        The channel that is exported, whose affines need not be named in full.
    linear : bool
        Whether only affines count.

    Returns
    -------
    list of tuple of str
        Of each way the transforms, as ``--transform`` takes them, the first one nearest to the image. Empty if there is no way.
    """
    usable = (found for found in stored_transforms(file) if found.affine is not None or not linear)
    steps = [step for transform in usable for step in _steps(file, transform, channel)]
    ways: list[tuple[str, tuple[str, ...]]] = [(start, ())]
    seen = {start}
    while ways and end not in seen:
        longer = [(outer, (*names, name)) for place, names in ways for name, inner, outer in steps if inner == place]
        ways = [(place, names) for place, names in longer if place not in seen]
        seen.update(place for place, _ in ways)
    return [names for place, names in ways if place == end]


def _steps(file: LsfmFile, transform: StoredTransform, channel: str | None) -> Iterator[tuple[str, str, str]]:
    """How a transform can be a step of a chain: its name there, where it comes from and where it leads."""
    inner, outer = transform.sides
    if inner is None or outer is None or inner == outer:
        return
    name = _short_name(file, transform, channel)
    yield name, inner, outer
    # The inverse of a field is one of the fields itself, or there is none that comes without being asked for.
    if transform.affine is not None:
        yield f"{name}:invert", outer, inner


def _short_name(file: LsfmFile, transform: StoredTransform, channel: str | None) -> str:
    if transform.affine is None:
        return transform.channel
    full = f"{transform.channel}/{transform.affine}"
    owners: Sequence[str] = [name for name, found in file.channels.items() if transform.affine in found.affines]
    is_field = transform.affine in file and file[transform.affine].kind == "vectors"
    return transform.affine if transform.channel == channel or (len(owners) == 1 and not is_field) else full
