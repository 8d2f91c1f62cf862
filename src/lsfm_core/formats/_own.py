"""Our own exports on their way back: the JSON that says where their voxels are, in formats that have no other place for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np

from lsfm_core.errors import InputError
from lsfm_core.formats._source import Source
from lsfm_core.geometry import Space
from lsfm_core.pyramid import Kind

__all__ = ["OWN_FORMAT", "OWN_VERSION", "OwnFacts", "own_facts", "take_place"]

OWN_FORMAT, OWN_VERSION = "lsfm image", 1
#: Voxel sizes that a format tells besides are rounded, to micrometres with a few digits or to fractions of whole numbers.
_SAME_SIZE = 1e-4


@dataclass(frozen=True)
class OwnFacts:
    """What the JSON says of an image; see docs/outputs.md.

    Attributes
    ----------
    kind : {"image", "labels", "vectors", "components"}
    shape : tuple of int
        With the components last, where there are several.
    dtype : str
    space : Space
    """

    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    space: Space


def own_facts(told: object) -> OwnFacts | None:
    """The facts that a JSON text, or what was read of one, tells of an image of ours; None if it is none, or not whole."""
    if isinstance(told, str):
        if OWN_FORMAT not in told:
            return None
        try:
            told = json.loads(told)
        except ValueError:
            return None
    if not isinstance(told, Mapping) or (told.get("format"), told.get("version")) != (OWN_FORMAT, OWN_VERSION):
        return None
    try:
        shape = tuple(int(n) for n in told["shape"])
        space = Space((shape[0], shape[1], shape[2]), np.asarray(told["world_from_voxel"], np.float64))
        if told["kind"] not in get_args(Kind):
            return None
        return OwnFacts(told["kind"], shape, str(told["dtype"]), space)
    except (KeyError, TypeError, ValueError, IndexError, InputError):
        return None


def take_place(source: Source, told: object, where: str) -> None:
    """Let a source lie where the JSON of our export says, unless the file was changed since.

    Parameters
    ----------
    source : Source
        Just opened; its space, facts and notes are completed.
    told : object
        The JSON, as text or read; anything else is no business of ours.
    where : str
        Where it stands, for the note.
    """
    own = own_facts(told)
    if own is None:
        return
    shape = (*source.shape, source.components) if source.components > 1 else source.shape
    size = source.voxel_size_mm
    changes = []
    if own.shape != shape:
        changes.append(f"an image of {_by(own.shape)}, the file has {_by(shape)}")
    if own.dtype != source.dtype.name:
        changes.append(f"voxels of type {own.dtype}, the file has {source.dtype}")
    if size is not None and not np.allclose(size, own.space.voxel_size_mm, rtol=_SAME_SIZE, atol=0):
        changes.append(f"a voxel size of {_by(own.space.voxel_size_mm)} mm, the file has {_by(size)}")
    notes = list(source.facts.get("notes", ()))
    if changes:
        notes.append(f"{where} tells of {'; '.join(changes)}: where the image lies was not taken from there")
        source.facts = {**source.facts, "notes": notes}
        return
    source.space = own.space
    source.voxel_size_mm = own.space.voxel_size_mm
    source.facts = {**source.facts, "kind": own.kind, "notes": notes}


def _by(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.9g}" for value in values)
