"""Spaces by their names: which a text stands for, which transforms of a file join two, and the way from one to another.

Each channel lives in a space, and each transform joins two: it maps a point of its outer space to its inner one, as ITK's files do,
and so carries an image from the inner to the outer one. docs/exports.md tells how they are recorded and what is checked by them.
Inside: `_names` what stands for a space or a transform, `_graph` all of a file's, `_ways` from one to another.
"""

from lsfm_core.spaces._graph import PlacedChannel, SpaceGraph, SpaceNode, TransformLink, describe_spaces, round_trip
from lsfm_core.spaces._names import (
    UNKNOWN,
    StoredTransform,
    known_spaces,
    resolve_space,
    set_space_command,
    stored_field,
    stored_transform,
    stored_transforms,
)
from lsfm_core.spaces._ways import Way, check_one_space, find_way, find_ways, linear_way

__all__ = [
    "UNKNOWN",
    "PlacedChannel",
    "SpaceGraph",
    "SpaceNode",
    "StoredTransform",
    "TransformLink",
    "Way",
    "check_one_space",
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
