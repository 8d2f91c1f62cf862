"""Whether what a request brings together lies in one space: by the names that are recorded, else by what the boxes tell."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from lsfm_core.errors import InputError
from lsfm_core.export._names import native_space, place_of, with_way
from lsfm_core.export.request import TransformRequest
from lsfm_core.geometry import Box
from lsfm_core.spaces import Way, find_ways, set_space_command, stored_transform
from lsfm_core.store import Channel, LsfmFile, Sides, own_space

__all__ = ["check_spaces"]

#: Kinds of channels of which the box tells what labels are made for.
_IMAGES = ("image", "components")


def check_spaces(
    file: LsfmFile, request: TransformRequest, *, labels: tuple[str, str] | None = None, may_transform: bool = True
) -> tuple[str, ...]:
    """Refuse a chain, labels or a reference of another space than the one in which they are used.

    Parameters
    ----------
    file : LsfmFile
    request : TransformRequest
        An `ExportRequest` or a `PointsRequest`; of others the chain is looked at.
    labels : tuple of 2 str, optional
        A labels channel, and where it is taken to lie, as `RegionSelection.labels_in` says it. Default: those of the request.
    may_transform : bool
        Whether who asks could name transforms, so that some are advised.

    Returns
    -------
    tuple of str
        What could not be known, in sentences.

    Raises
    ------
    InputError
        If recorded names contradict each other, or the labels' box is that of another image; it names the spaces and what would be
        right.
    """
    request = with_way(file, request)
    places = _Places(file, request, may_transform)
    named: Any = getattr(request, "region", None) or request
    if labels is None and getattr(named, "labels_channel", None) is not None:
        labels = named.labels_channel, named.labels_in
    reference = getattr(request, "reference", None)
    doubts = [
        None if labels is None else places.check_labels(*labels),
        # The path of an image has no name to compare.
        places.check_reference(file[reference]) if reference is not None and reference in file else None,
    ]
    return tuple(doubt for doubt in doubts if doubt is not None)


class _Places:
    """The spaces along a request's chain, from that of the image outward; None where one is not known."""

    def __init__(self, file: LsfmFile, request: TransformRequest, may_transform: bool) -> None:
        self._file, self._request, self._may_transform = file, request, may_transform
        self._channel = file[request.channel]
        self._steps = [str(step) for step in request.transforms]
        stored = [stored_transform(file, step.name, self._channel.name) for step in request.transforms]
        self._is_stored = [transform is not None for transform in stored]
        sides = [
            Sides(None, None) if transform is None else transform.sides.swapped() if step.invert else transform.sides
            for transform, step in zip(stored, request.transforms, strict=True)
        ]
        self._check_chain(sides)
        # What is not known of the end of one step, the beginning of the next one tells.
        ends = [self._channel.space_name, *(side.outer for side in sides)]
        begins = [*(side.inner for side in sides), None]
        self._names = [begin if end is None else end for end, begin in zip(ends, begins, strict=True)]

    def _check_chain(self, sides: Sequence[Sides]) -> None:
        own = Sides(None, self._channel.space_name)
        words = [f"channel {self._channel.name!r} lies", *(f"transform {step!r} leads to" for step in self._steps)]
        for index, (before, after) in enumerate(pairwise([own, *sides])):
            if None in (before.outer, after.inner) or before.outer == after.inner:
                continue
            step = self._request.transforms[index]
            end = next((side.outer for side in reversed(sides) if side.outer is not None), None)
            advice = self._ways(own.outer or sides[0].inner, after.inner if end is None else end)
            wrong = set_space_command(self._file, transform=step.name, **{"to" if step.invert else "from": "SPACE"})
            raise InputError(
                f"{self._file.path}: the transforms do not fit each other: {words[index]}{' in' if index == 0 else ''} space "
                f"{before.outer!r}, but transform {self._steps[index]!r} leads on from {after.inner!r}: is one left out, "
                f"inverted that should not be, or their order wrong? {advice}If what is recorded is wrong: {wrong}"
            )

    # --- labels ---------------------------------------------------------------------------------------------------------------

    def check_labels(self, name: str, labels_in: str) -> str | None:
        """What cannot be known of labels that are taken to lie somewhere along the chain, if anything."""
        labels, index = self._file[name], place_of(self._request, labels_in)
        wanted = self._names[index]
        if wanted == labels.space_name and wanted is not None:
            return None
        if labels.kind != "labels" or (index == 0 and name == self._channel.name):
            return None  # of what is none, others tell
        if wanted is not None and labels.space_name is not None:
            raise InputError(
                f"{self._file.path}: the labels of channel {name!r} lie in space {labels.space_name!r}, but {self._where(index)} "
                f"{wanted!r}: they would cut out the wrong anatomy. {self._labels_advice(labels.space_name)}If what is recorded is "
                f"wrong: {self._set_space(name, wanted)}"
            )
        found = self._evidence(labels, index)
        if labels.space_name is None:
            known = f", and {self._where(index)} {wanted!r}" if wanted is not None else ""
            settle = self._set_space(name, wanted)
            return (
                f"the space that the labels of channel {name!r} lie in is not recorded{known}, so it cannot be known whether they "
                f"fit{found}; if they do, this records it: {settle}"
            )
        return (
            f"the labels of channel {name!r} lie in space {labels.space_name!r}; whether {self._where(index, 'there')} is not "
            f"recorded, so it cannot be known whether they fit{found}{self._settle_place(index, labels.space_name)}"
        )

    def _evidence(self, labels: Channel, index: int) -> str:
        """What the labels' box tells, in words; refuses it where it is that of an image elsewhere."""
        box = self._box(labels)
        if box is None:
            return ""
        tolerance = np.abs(labels.space.world_from_voxel[:3, :3]).sum(axis=1)
        wanted = self._names[index]
        there: list[Channel] = []
        elsewhere: list[Channel] = []
        candidates = 0
        for image in self._file.channels.values():
            is_here = (index == 0 and image.name == self._channel.name) or (wanted is not None and image.space_name == wanted)
            if image.name == labels.name or (image.kind not in _IMAGES and not is_here):
                continue
            other = self._box(image)
            candidates += is_here
            if other is not None and _is_same(box, other, tolerance):
                (there if is_here else elsewhere).append(image)
        if candidates and elsewhere and not there:
            image, named = elsewhere[0], "" if wanted is None else f", {wanted!r}"
            raise InputError(
                f"{self._file.path}: the space that the labels of channel {labels.name!r} lie in is not recorded, and their box is "
                f"that of channel {image.name!r}, while {self._where(index)} another space{named}: "
                f"they would cut out the wrong anatomy. If they lie in that of {image.name!r}, this records it: "
                f"{self._set_space(labels.name, image.space_name)}. {self._labels_advice(image.space_name)}If they do fit, this "
                f"records it: {self._set_space(labels.name, wanted)}"
            )
        if there and elsewhere:
            return f" (their box is that of channel {there[0].name!r}, as it should be, but that of {elsewhere[0].name!r} as well)"
        if there:
            return f" (their box is that of channel {there[0].name!r}, as it should be)"
        return f" (their box is that of channel {elsewhere[0].name!r})" if elsewhere else ""

    def _box(self, channel: Channel) -> Box | None:
        if channel.orientation is not None:
            return channel.space.bounds
        if self._request.orientation is None or channel.unit != "mm":
            return None
        return native_space(self._file, channel, self._request).bounds

    def _labels_advice(self, space: str | None) -> str:
        """How labels of a space can be met by the chain, as a sentence; empty where nothing is known."""
        if space is None:
            return ""
        if not self._may_transform:
            there = [image.name for image in self._file.channels.values() if image.kind in _IMAGES and image.space_name == space]
            return f"They fit --channel {shlex.quote(there[0])}. " if there else ""
        if space in self._names:
            return f"They are met with --labels-in {shlex.quote(self._spell_place(self._names.index(space)))}. "
        start, end = self._names[0], self._names[-1]
        ways = [] if start is None else find_ways(self._file, start, space, self._channel.name)
        if len(ways) != 1:
            return _several(ways)
        steps, place = [*ways[0].steps], "output"
        onward = find_ways(self._file, space, end, self._channel.name) if self._steps and end is not None else []
        if len(onward) == 1 and onward[0].steps:
            place = ways[0].steps[-1].removesuffix(":invert")
            steps += onward[0].steps
        return f"They are met with {_options(steps)} --labels-in {shlex.quote(place)}. "

    # --- the reference --------------------------------------------------------------------------------------------------------

    def check_reference(self, reference: Channel) -> str | None:
        """What cannot be known of a channel whose grid the result takes, if anything."""
        last, wanted = len(self._steps), self._names[-1]
        if reference.name == self._channel.name and not self._steps:
            return None
        if wanted is not None and reference.space_name is not None:
            if wanted == reference.space_name:
                return None
            ways = self._ways(self._names[0], reference.space_name)
            raise InputError(
                f"{self._file.path}: the reference {reference.name!r} lies in space {reference.space_name!r}, but "
                f"{self._where(last)} {wanted!r}. {ways}If what is recorded is wrong: {self._set_space(reference.name, wanted)}"
            )
        if reference.space_name is None:
            return (
                f"the space that the reference {reference.name!r} lies in is not recorded, so it cannot be known whether the "
                f"result lies there; if it does, this records it: {self._set_space(reference.name, wanted)}"
            )
        if self._steps and not self._is_stored[-1]:
            return None  # nobody can record it of a file
        return (
            f"the reference {reference.name!r} lies in space {reference.space_name!r}; whether {self._where(last, 'there')} is "
            f"not recorded, so it cannot be known{self._settle_place(last, reference.space_name)}"
        )

    # --- words ----------------------------------------------------------------------------------------------------------------

    def _where(self, index: int, what: str = "in") -> str:
        """What lies at a place of the chain: ``channel 'cfos' lies in``."""
        if index == 0:
            return f"channel {self._channel.name!r} lies {what}"
        if index == len(self._steps):
            return f"the result lies {what}"
        return f"transform {self._steps[index - 1]!r} leads {'to' if what == 'in' else what}"

    def _spell_place(self, index: int) -> str:
        return "native" if index == 0 else "output" if index == len(self._steps) else self._request.transforms[index - 1].name

    def _ways(self, start: str | None, end: str | None) -> str:
        """The way from one space to another, as a sentence; empty where there is none."""
        if start is None or end is None:
            return ""
        ways = find_ways(self._file, start, end, self._channel.name)
        return (
            f"From {start!r} to {end!r} leads {_options(ways[0].steps)}. " if len(ways) == 1 and ways[0].steps else _several(ways)
        )

    def _set_space(self, channel: str, space: str | None) -> str:
        return set_space_command(self._file, channel=channel, space="NAME" if space is None else self._spell(space))

    def _settle_place(self, index: int, space: str) -> str:
        """The command that records that a place of the chain lies in a space."""
        if index == 0:
            return f"; if it does, this records it: {self._set_space(self._channel.name, space)}"
        if not self._is_stored[index - 1]:
            return ": only transforms that are stored in the file have names of spaces"
        step = self._request.transforms[index - 1]
        side = {"from" if step.invert else "to": self._spell(space)}
        return f"; if it does, this records it: {set_space_command(self._file, transform=step.name, **side)}"

    def _spell(self, space: str) -> str:
        """A space by a channel's name, where it is this one's own."""
        return next((name for name in self._file if own_space(name) == space), space)


def _is_same(box: Box, other: Box, tolerance: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> bool:
    apart = np.abs(np.subtract([box.lower_mm, box.upper_mm], [other.lower_mm, other.upper_mm]))
    return bool((apart <= np.asarray(tolerance) * (1 + 1e-6)).all())


def _options(steps: Sequence[str]) -> str:
    return " ".join(f"--transform {shlex.quote(step)}" for step in steps)


def _several(ways: Sequence[Way]) -> str:
    """A sentence for ways of which none is the one; empty where there is none at all."""
    return f"Several ways lead there: {'; '.join(_options(way.steps) for way in ways)}. " if len(ways) > 1 else ""
