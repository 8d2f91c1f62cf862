"""What a window shows of an import: the spaces as they will be, and afterwards the two images that the proof has compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lsfm_core.export import Volume
from lsfm_core.geometry import voxel_count
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.register._found import AffineStep
from lsfm_core.register.plan import RegistrationPlan, plan_of, result_of
from lsfm_core.register.request import ImportRegistrationRequest
from lsfm_core.register.run import chain_of, images_of, is_compared
from lsfm_core.spaces import PlacedChannel, SpaceGraph, SpaceNode, TransformLink
from lsfm_core.store import open_lsfm

__all__ = ["Comparison", "compare_registration", "planned_spaces"]

#: Voxels of images that are shown.
_LOOKED_AT = 8_000_000


@dataclass(frozen=True, eq=False)
class Comparison:
    """The program's own result, and what is to be like it, on one grid.

    Attributes
    ----------
    result, made : Volume
        The program's; and the image that it was made of, carried through what was imported. A result on the inner
        side is carried itself, and the image is as it is.
    result_name, made_name : str
        The result's file; the channel, or the file that was moved.
    """

    result: Volume
    made: Volume
    result_name: str
    made_name: str


def planned_spaces(plan: RegistrationPlan, graph: SpaceGraph) -> SpaceGraph:
    """The spaces of a file, whose graph is given, as an import will make them."""
    links = []
    for index, (name, inverse) in enumerate(zip(plan.names, plan.inverses, strict=True)):
        inner, outer = plan.places[index], plan.places[index + 1]
        if isinstance(plan.found.steps[index], AffineStep):
            links.append(TransformLink(name, "affine", inner, outer, f"{name}:invert"))
            continue
        links.append(TransformLink(name, "field", inner, outer, inverse))
        if inverse is not None:
            links.append(TransformLink(inverse, "field", outer, inner, name))
    new = {link.name for link in links} | {f"{plan.channel}/{name}" for name in plan.names}
    labels = () if plan.labels_channel is None else (PlacedChannel(plan.labels_channel, "labels"),)
    nodes = []
    for node in graph.spaces:
        stay = tuple(channel for channel in node.channels if channel.name not in {*new, plan.labels_channel})
        is_own = any(channel.name == plan.channel for channel in node.channels)
        nodes.append(SpaceNode(node.name, stay + labels * is_own))
    known = {node.name for node in nodes}
    nodes += [SpaceNode(place, ()) for place in plan.places if place not in known]
    return SpaceGraph(graph.path, tuple(nodes), (*(link for link in graph.transforms if link.name not in new), *links))


def compare_registration(
    request: ImportRegistrationRequest, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> Comparison | None:
    """The two images that the proof of an import has compared, to be looked at; None if there was nothing to compare with.

    Parameters
    ----------
    request : ImportRegistrationRequest
        As it was carried out.

    Raises
    ------
    LsfmError
    """
    with open_lsfm(request.path) as file:
        plan = plan_of(file, request.model_copy(update={"replace": True}))
        result = result_of(request, plan)
        if result is None or not is_compared(request, plan):
            return None
        chain = chain_of(file, plan)
        outer, inner, grid = images_of(file, request, plan, result, chain)
        coarser = max(1.0, (voxel_count(grid.shape) / _LOOKED_AT) ** (1 / 3))
        grid = grid.with_resolution([size * coarser for size in grid.voxel_size_mm])
        arrays = [np.zeros(grid.shape, np.float32) for _ in range(2)]
        report = Progress("show", voxel_count(grid.shape), progress, cancel)
        for index in range(grid.shape[0]):
            points = grid.crop((index, 0, 0), (index + 1, *grid.shape[1:])).to_world(
                np.indices((1, *grid.shape[1:])).reshape(3, -1).T
            )
            for array, image, places in zip(arrays, (outer, inner), (points, chain.map_points(points)), strict=True):
                array[index] = image.values(places)[0].reshape(grid.shape[1:])
            report.advance(len(points))
        theirs, ours = reversed(arrays) if result.inner else arrays
        moved = request.moved.name if request.moved is not None else plan.channel
        return Comparison(Volume(theirs, grid), Volume(ours, grid), result.path.name, moved)
