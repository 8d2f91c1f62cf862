"""What brainreg leaves: the sample's way to the atlas as absolute positions, without a word on where its voxels are."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError, MissingError, SourceError
from lsfm_core.formats import Source, open_source
from lsfm_core.formats._source import WrappedSource
from lsfm_core.formats.brainreg import brainreg_files, open_brainreg
from lsfm_core.geometry import Orientation, Shape3, Space
from lsfm_core.register._found import FieldStep, Found, PlacedSource, Result

__all__ = ["find_brainreg"]

Array = npt.NDArray[Any]

_ATLAS_UM = re.compile(r"_(\d+(?:\.\d+)?)um$")
_OTHER = "brainglobe-registration.json"
#: Of all atlases of BrainGlobe, by the sides where the first voxel lies.
_ATLAS_ORIENTATION = "asr"


def find_brainreg(files: Sequence[Path], native: Space, atlas: Space | None) -> Found | None:
    """A folder of brainreg.

    Parameters
    ----------
    native : Space
        Of the channel's finest level.
    atlas : Space, optional
        Where the atlas' voxels are, in their own order. Default: the first one in R, A and S at 0, as in all that tells no place.

    Raises
    ------
    MissingError, SourceError, InputError
    """
    fields = [file for file in files if re.fullmatch(r"deformation_field_[012]\.tiff?", file.name, re.IGNORECASE)]
    known = next((file for file in files if file.name == "brainreg.json"), None)
    if not fields and known is None:
        return None
    folder = (fields[0] if fields else known or files[0]).parent
    if (folder / _OTHER).is_file():
        raise InputError(
            f"{folder}: is a folder of brainglobe-registration, whose deformation fields are displacements in voxels of "
            "images without "
            "a place: register with brainreg, elastix or ANTs on images that were exported with theirs (registration-inputs)"
        )
    stacks = brainreg_files(folder / "deformation_field_0.tiff" if not fields else fields[0])
    assert stacks is not None
    for stack in stacks:
        if not stack.is_file():
            raise MissingError(f"{stack}: is not there: a deformation field of brainreg is three files, put it beside the others")
    told = _told(folder / "brainreg.json")
    source = open_brainreg(stacks)
    shape = source.shape
    source.close()
    name = str(told.get("atlas", "")) or None
    sample = _sample(native, shape)
    standard = folder / "downsampled_standard.tiff"
    if atlas is None:
        atlas = _atlas(folder, name, standard)
    step = FieldStep(partial(_open, stacks, sample, atlas), f"{folder / 'deformation_field_0..2.tiff'}")
    registered = folder / "registered_atlas.tiff"
    labels = partial(_labels, registered, sample) if registered.is_file() else None
    used = (*stacks, *(file for file in (known, registered, standard) if file is not None and file.is_file()))
    voxel = " x ".join(f"{v:.5g}" for v in sample.voxel_size_mm)
    return Found(
        "brainreg",
        (step,),
        used,
        fixed="channel",
        result=Result(standard, atlas, inner=True) if standard.is_file() else None,
        labels=labels,
        atlas=name,
        notes=(f"the sample was downsampled to {' x '.join(map(str, shape))} voxels of {voxel} mm in the order of the atlas",),
    )


def _told(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read as JSON: {error}") from error
    return told if isinstance(told, dict) else {}


def _sample(native: Space, shape: Sequence[int]) -> Space:
    """Where the voxels of the downsampled sample are: brainreg lets the centres of the corner voxels stay where they are."""
    turned = native.reoriented(native.reorientation_to(Orientation.from_origin(_ATLAS_ORIENTATION)))
    step = (np.array(turned.shape) - 1) / np.maximum(np.array(shape) - 1, 1)
    affine = turned.world_from_voxel.copy()
    affine[:3, :3] = affine[:3, :3] * step
    return Space((shape[0], shape[1], shape[2]), affine)


def _atlas(folder: Path, name: str | None, standard: Path) -> Space:
    match = _ATLAS_UM.search(name or "")
    if match is None or not standard.is_file():
        raise InputError(
            f"{folder}: where the atlas' voxels are cannot be known without brainreg.json, which names it, and "
            f"{standard.name}: give an "
            "image of the atlas with its geometry (--atlas-image)"
        )
    source = open_source(standard)
    shape = source.shape
    source.close()
    mm = float(match[1]) / 1000
    return Space.from_orientation(shape, (mm, mm, mm), Orientation.from_origin(_ATLAS_ORIENTATION))


def _open(stacks: Sequence[Path], sample: Space, atlas: Space) -> Source:
    return _Positions(open_brainreg(stacks), sample, atlas)


def _labels(path: Path, sample: Space) -> Source:
    return PlacedSource(open_source(path, kind="labels"), sample)


class _Positions(WrappedSource):
    """Positions along the atlas' axes, from its first voxel, as displacements from the sample's voxels."""

    def __init__(self, source: Source, sample: Space, atlas: Space) -> None:
        super().__init__(source)
        self.space, self.voxel_size_mm = sample, sample.voxel_size_mm
        self.words = None
        # All atlases of BrainGlobe are in one orientation, and so are the components.
        own = atlas.reoriented(atlas.reorientation_to(Orientation.from_origin(_ATLAS_ORIENTATION)))
        self._axes = own.world_from_voxel[:3, :3] / np.asarray(own.voxel_size_mm)
        self._first = own.world_from_voxel[:3, 3]
        self._sample = sample

    def _change(self, start: Shape3, values: Array, out: Array) -> None:
        box = self._sample.crop(start, [a + n for a, n in zip(start, out.shape, strict=False)])
        centres = box.to_world(np.indices(box.shape).reshape(3, -1).T).reshape(out.shape)
        out[...] = values.astype(np.float64) @ self._axes.T + self._first - centres
