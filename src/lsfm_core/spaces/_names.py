"""What stands for a space, or for a transform that joins two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lsfm_core.errors import InputError
from lsfm_core.provenance import as_command_line
from lsfm_core.store import LsfmFile, Sides, own_space
from lsfm_core.transforms import DisplacementField

__all__ = [
    "INVERT",
    "UNKNOWN",
    "StoredTransform",
    "known_spaces",
    "resolve_space",
    "set_space_command",
    "short_name",
    "stored_field",
    "stored_transform",
    "stored_transforms",
]

#: Stands for a space that is not known.
UNKNOWN = "?"
#: What is behind the name of a transform that is passed the other way.
INVERT = ":invert"


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


def resolve_space(file: LsfmFile | None, text: str, *, new_channel: str | None = None) -> str | None:
    """The space that a text stands for: the one of this name, or else that in which the channel of this name lives.

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
    is_new = text == new_channel
    # All spaces are looked for only where the name of one could be hidden.
    if not is_new and (file is None or text not in file):
        return text
    if file is not None and text in known_spaces(file):
        return text
    if is_new or file is None:
        return own_space(text)
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


def short_name(file: LsfmFile, transform: StoredTransform, channel: str | None) -> str:
    """What ``--transform`` takes for a transform, where the affines of one channel need not be named in full."""
    if transform.affine is None:
        return transform.channel
    full = f"{transform.channel}/{transform.affine}"
    owners: Sequence[str] = [name for name, found in file.channels.items() if transform.affine in found.affines]
    is_field = transform.affine in file and file[transform.affine].kind == "vectors"
    return transform.affine if transform.channel == channel or (len(owners) == 1 and not is_field) else full
