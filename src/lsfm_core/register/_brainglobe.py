"""What brainreg and brainglobe-registration leave: the sample's way to the atlas, without a word on where its voxels are.

brainreg tells positions in mm, brainglobe-registration elastix' transforms between images whose voxels have no size and place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import InputError, MissingError, SourceError
from lsfm_core.formats import Source, open_source
from lsfm_core.formats._source import WrappedSource
from lsfm_core.formats.brainreg import brainreg_files, open_brainreg
from lsfm_core.geometry import LPS_FROM_RAS, Orientation, Shape3, Space
from lsfm_core.register._found import FieldStep, Found, PlacedSource, Result, flattened
from lsfm_core.transforms import Affine
from lsfm_core.transforms.elastix import read_elastix_stages
from lsfm_core.transforms.staged import Stage, StagedTransform

__all__ = ["find_brainglobe_registration", "find_brainreg"]

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
        return None  # its deformation fields are others
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


def find_brainglobe_registration(files: Sequence[Path], native: Space, atlas: Space | None, error_vox: float) -> Found | None:
    """A folder of brainglobe-registration: elastix' parameter files, both ways, in voxels.

    Parameters
    ----------
    native, atlas
        As `find_brainreg` takes them.
    error_vox : float
        How far a field may be off that stands for splines.

    Raises
    ------
    MissingError, SourceError, InputError
    """
    known = next((file for file in files if file.name == _OTHER), None)
    if known is None:
        return None
    folder, told = known.parent, _told(known)
    chains = {}
    for way in ("", "Inverse"):
        numbered = sorted(folder.glob(f"{way}TransformParameters.[0-9]*.txt"), key=lambda file: int(file.name.split(".")[1]))
        if not numbered:
            raise MissingError(f"{folder}: there are no {way}TransformParameters.0.txt and following: put them beside {_OTHER}")
        chains[way] = read_elastix_stages(numbered[-1])
    grid = chains[""].grid
    if grid is None or any(stage.added for chain in chains.values() for stage in chain.transform.stages):
        raise SourceError(f"{folder}: its parameter files are not those of brainglobe-registration: name them with --tool elastix")
    name = str(told.get("atlas", "")) or None
    standard = next(iter(sorted(folder.glob("downsampled_standard*.tif*"))), None)
    if atlas is None:
        atlas = _atlas(folder, name, standard or folder / "downsampled_standard.tiff")
    own = atlas.reoriented(atlas.reorientation_to(Orientation.from_origin(_ATLAS_ORIENTATION)))
    # The sample is scaled as it was loaded, from face to face.
    sample = _scaled(native, grid.shape)
    turned = np.eye(4)
    turned[:3, :3] = np.reshape(told.get("atlas_transform_matrix", np.eye(3)), (3, 3))
    turned[:3, 3] = np.ravel(told.get("atlas_offset", (0, 0, 0)))
    to_atlas, to_sample = _itk(own.world_from_voxel @ turned), _itk(sample.world_from_voxel)
    there = StagedTransform(
        [Stage(to_sample.GetInverse()), *chains[""].transform.stages, Stage(to_atlas)], name=chains[""].files[-1].name
    )
    back = [Stage(to_atlas.GetInverse()), *chains["Inverse"].transform.stages, Stage(to_sample)]
    linear = there.linear_part
    affine, field = flattened(there, linear, sample, there.name, error_vox)
    first = Stage(_itk_affine(linear))
    name_back = chains["Inverse"].files[-1].name
    _, inverse = flattened(
        StagedTransform([first, *back], name=name_back), Affine(np.eye(4), name=name_back), sample, name_back, error_vox
    )
    registered = folder / "registered_atlas.tiff"
    used = (
        known,
        *chains[""].files,
        *chains["Inverse"].files,
        *(file for file in (registered, standard) if file is not None and file.is_file()),
    )
    return Found(
        "brainglobe-registration",
        (affine, replace(field, inverse=inverse)),
        used,
        fixed="channel",
        result=Result(standard, atlas, inner=True) if standard is not None else None,
        labels=partial(_labels, registered, sample) if registered.is_file() else None,
        atlas=name,
    )


def _scaled(native: Space, shape: Sequence[int]) -> Space:
    """As many voxels over the same extent, in the same order."""
    step = np.array(native.shape) / np.array(shape)
    affine = native.world_from_voxel.copy()
    affine[:3, :3] = affine[:3, :3] * step
    affine[:3, 3] += native.world_from_voxel[:3, :3] @ (step / 2 - 0.5)
    return Space((shape[0], shape[1], shape[2]), affine)


def _itk(world_from_voxel: Any) -> Any:
    """From what ITK takes for x, y, z of an image without a place, voxels in the array's reverse order, to LPS mm."""
    import SimpleITK as sitk

    matrix = (LPS_FROM_RAS @ world_from_voxel)[:, [2, 1, 0, 3]]
    return sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())


def _itk_affine(affine: Affine) -> Any:
    import SimpleITK as sitk

    parameters, centre = affine.to_itk()
    return sitk.AffineTransform(parameters[:9].tolist(), parameters[9:].tolist(), centre.tolist())


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
