"""The work of a form of regions, for threads: how large a region is, and where; which regions occur; what is at a voxel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lsfm_core import (
    CancelToken,
    ExportRequest,
    LsfmError,
    TransformRequest,
    Volume,
    check_spaces,
    count_labels,
    find_region,
    open_lsfm,
)
from napari_lsfm._workers import in_words

__all__ = ["Measured", "label_at", "measure", "occurring"]

#: Of the picture of a region in the viewer; of a larger one a coarser level is shown.
_MAX_LOOK_VOXELS = 2**25
#: Of those, as many are enough to find a region's middle.
_MIDDLE_VOXELS = 2**21

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Measured:
    """Where a region is, and how large."""

    count: int
    volume_mm3: float
    lower_mm: Triple
    upper_mm: Triple
    middle_mm: Triple
    look: Volume
    refusal: str
    """Why it cannot be cut out of the image as it stands; empty if it can."""
    warnings: tuple[str, ...]


def measure(request: ExportRequest, cancel: CancelToken) -> Measured:
    """Find the region of an export."""
    selection = request.region
    assert selection is not None
    refusal, warnings = "", ()
    with open_lsfm(request.path) as file:
        labels = TransformRequest(path=request.path, channel=selection.labels_channel)
        region = find_region(file, labels, selection, cancel=cancel)
        look = region.look(file[selection.labels_channel].levels, _MAX_LOOK_VOXELS)
        try:
            warnings = check_spaces(file, request.model_copy(update={"output": None}))
        except LsfmError as error:
            # The region is where it is; only the image is another's.
            refusal = in_words(error)
    box = region.box.grown(selection.margin_mm)
    count = region.voxels.count
    volume_mm3 = count * region.space.voxel_volume_mm3
    return Measured(count, volume_mm3, box.lower_mm, box.upper_mm, _middle(look), look, refusal, warnings)


def occurring(path: Path, channel: str, cancel: CancelToken) -> set[int]:
    """Ids that some voxel has."""
    # Of the finest level: a coarser one may have lost small regions.
    with open_lsfm(path) as file:
        return {*count_labels(file[channel].levels[0].data, cancel=cancel)}


def label_at(path: Path, channel: str, voxel: list[int]) -> int:
    """The id of a voxel."""
    with open_lsfm(path) as file:
        i, j, k = voxel
        return int(file[channel].levels[0][i : i + 1, j : j + 1, k : k + 1].read()[0, 0, 0])


def _middle(look: Volume) -> Triple:
    """R, A, S of the voxel of a region that is nearest to its centre of mass, which may lie outside."""
    step = max(1, round((look.array.size / _MIDDLE_VOXELS) ** (1 / 3)))
    voxels = np.argwhere(look.array[::step, ::step, ::step]) * step
    if not len(voxels):
        voxels = np.argwhere(look.array)
    nearest = voxels[np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()]
    r, a, s = look.space.to_world([nearest])[0]
    return float(r), float(a), float(s)
