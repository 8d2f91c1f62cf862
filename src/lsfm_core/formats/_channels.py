"""Which channel of a file is meant."""

from __future__ import annotations

from collections.abc import Sequence

from lsfm_core.errors import InputError

__all__ = ["check_one_timepoint", "pick_channel"]

_MOST_NAMES = 20


def pick_channel(name: str, names: Sequence[str], channel: int | str | None) -> int:
    """Index of the channel that is asked for by index (from 0) or name; a file's only channel need not be asked for.

    Parameters
    ----------
    name : str
        Of the file, for the message.
    names : sequence of str
        One per channel, empty where the file gives none.
    channel : int, str or None

    Raises
    ------
    InputError
        If there is no such channel, or there are several and none was picked; it lists them.
    """
    listing = ", ".join(f"{index} {text!r}" if text else str(index) for index, text in enumerate(names[:_MOST_NAMES]))
    listing += ", …" if len(names) > _MOST_NAMES else ""
    if channel is None:
        if len(names) == 1:
            return 0
        raise InputError(f"{name}: has {len(names)} channels ({listing}): pick one by index or name")
    found = [index for index, text in enumerate(names) if channel in (index, text)]
    if not found and isinstance(channel, str) and channel.isdecimal() and int(channel) < len(names):
        found = [int(channel)]
    if len(found) != 1:
        problem = "no channel" if not found else "more than one channel"
        raise InputError(f"{name}: has {problem} {channel!r}; its channels are {listing}")
    return found[0]


def check_one_timepoint(name: str, count: int) -> None:
    """Refuse time series.

    Raises
    ------
    InputError
    """
    if count > 1:
        raise InputError(
            f"{name}: has {count} time points: save one of them as a file of its own (if they are planes, tell so the program that "
            "wrote them: in ImageJ Image > Properties)"
        )
