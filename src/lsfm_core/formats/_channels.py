"""Which channel of a file is meant, and what an axis of time or channels is taken for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lsfm_core.errors import InputError

__all__ = ["PlanesAre", "channel_key", "check_one_timepoint", "pick_channel"]

#: Which axis of a file without slices holds the planes.
PlanesAre = Literal["time", "channels"]

_MOST_NAMES = 20
# What a name or an index is told by where one text could be either.
_AS_NAME, _AS_INDEX = "name:", "index:"


def pick_channel(
    name: str,
    names: Sequence[str],
    channel: int | str | None,
    *,
    planes: int = 2,
    offer: bool = True,
    numbers: Sequence[int | None] | None = None,
) -> int:
    """Index of the channel that is asked for by name or by index (from 0); a file's only channel need not be asked for.

    Channels are often named by numbers, as by their wavelength: a name counts before an index.

    Parameters
    ----------
    name : str
        Of the file, for the message.
    names : sequence of str
        One per channel, empty where the file gives none.
    channel : int, str or None
        ``name:488`` and ``index:1`` say which of the two is meant.
    planes : int
        Of each channel: where there is one, the channels may be the planes.
    offer : bool
        Whether that can be told by ``--planes-are``.
    numbers : sequence of int or None, optional
        What the channels are counted by, where that is not their position: None for one that has no number.

    Raises
    ------
    InputError
        If there is no such channel, or there are several and none was picked; it lists them. If the name is one channel's and the
        index is another's.
    """
    indices = list(range(len(names))) if numbers is None else list(numbers)
    listed = [
        (None if index is None else str(index), repr(text) if text else None) for index, text in zip(indices, names, strict=True)
    ]
    listing = ", ".join(" ".join(filter(None, entry)) for entry in listed[:_MOST_NAMES]) or "none"
    listing += ", …" if len(names) > _MOST_NAMES else ""
    if channel is None:
        if len(names) == 1:
            return 0
        advice = ""
        if planes == 1 and offer:
            advice = "; if they are the planes of one volume, say so by --planes-are channels"
        raise InputError(f"{name}: has {len(names)} channels ({listing}): pick one by index or name (--image-channel){advice}")
    text = str(channel)
    by_name = [index for index, other in enumerate(names) if other and text in (other, _AS_NAME + other)]
    number = text.removeprefix(_AS_INDEX)
    by_index = indices.index(int(number)) if number.isdecimal() and int(number) in indices else None
    found = by_name or ([] if by_index is None else [by_index])
    if len(by_name) == 1 and by_index not in (None, by_name[0]):
        raise InputError(
            f"{name}: channel {text!r} is the name of its channel {indices[by_name[0]]}, and the index of the one named "
            f"{names[by_index or 0]!r}: say {_AS_NAME}{text} or {_AS_INDEX}{text}; its channels are {listing}"
        )
    if len(found) != 1:
        problem = "no channel" if not found else "more than one channel"
        raise InputError(f"{name}: has {problem} {channel!r}; its channels are {listing}")
    return found[0]


def channel_key(names: Sequence[str], index: int) -> int | str:
    """What `pick_channel` finds that channel by: its name, where no other has it and it is no other's index."""
    text = names[index]
    if not text or names.count(text) > 1:
        key: int | str = index
        # A name that looks like this index comes before it.
        return f"{_AS_INDEX}{index}" if str(index) in names else key
    if text.isdecimal() and int(text) < len(names) and int(text) != index:
        return _AS_NAME + text
    return text


def check_one_timepoint(name: str, count: int, planes: int) -> None:
    """Refuse time series; where each has a single plane, the times may be the planes.

    Raises
    ------
    InputError
    """
    if count > 1:
        advice = f"if they are the {count} planes of one volume, say so by --planes-are time" if planes == 1 else ""
        advice = advice or "save one of them as a file of its own"
        raise InputError(f"{name}: has {count} time points: {advice}")
