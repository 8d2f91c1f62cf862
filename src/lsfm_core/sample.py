"""A synthetic specimen as a folder of files, such as a lab has them: all that the examples of the manual need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.durable import new_file
from lsfm_core.errors import ExistsError, LsfmError, StorageError
from lsfm_core.geometry import Orientation, Space
from lsfm_core.regions import Label, LabelTable
from lsfm_core.testing import PHANTOM_REGIONS, phantom, phantom_regions, phantom_warp, write_phantom_series

__all__ = ["write_sample"]

_CELLS = 6000
#: The phantom's core stands for a region that everybody knows.
_CORE, _CA1 = 549, 382
_TABLE = LabelTable(
    [
        *(
            replace(label, parent=_CA1 if label.parent == _CORE else label.parent)
            for label in PHANTOM_REGIONS.values()
            if label.id != _CORE
        ),
        Label(1080, "Hippocampal region", "HIP", (126, 208, 75), 8),
        Label(_CA1, "Field CA1", "CA1", (126, 208, 75), 1080),
    ]
)


def write_sample(folder: Path) -> Mapping[str, str]:
    """Write two channels, an annotation with its tables, transforms to a template, and cells.

    Parameters
    ----------
    folder : Path
        Made, with those it is in.

    Returns
    -------
    mapping
        What was written, by name, and what it is.

    Raises
    ------
    ExistsError, StorageError
        If there is something in the folder already; if it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExistsError(f"{folder}: is there already, and not empty: choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_file(folder, overwrite=folder.exists()) as made:
            made.mkdir()
            return {**_images(made), **_tables(made), **_transforms(made)}
    except OSError as error:
        if isinstance(error, LsfmError):
            raise
        raise StorageError(f"{folder}: the sample cannot be written: {error}") from error


_STRUCTURAL = Space.from_orientation((270, 193, 271), (0.05, 0.04, 0.04), Orientation("AIR"))
_SIGNAL = Space.from_orientation((225, 154, 217), (0.06, 0.05, 0.05), Orientation("AIR"))
_TEMPLATE = Space.from_orientation((114, 132, 80), (0.1, 0.1, 0.1), Orientation("RAS"))


def _images(folder: Path) -> dict[str, str]:
    import tifffile

    write_phantom_series(folder / "structural_tiff")
    z, y, x = (1000 * size for size in _SIGNAL.voxel_size_mm)
    tifffile.imwrite(
        folder / "signal_stack.tif", phantom(_SIGNAL), imagej=True, resolution=(1 / x, 1 / y),
        metadata={"axes": "ZYX", "spacing": z, "unit": "um"},
    )  # fmt: skip
    _save(folder / "template_100um.nii.gz", _template(), _TEMPLATE)
    inside = np.argwhere(phantom_regions(_SIGNAL))
    cells = inside[np.sort(np.random.default_rng(11).choice(len(inside), _CELLS, replace=False))]
    np.savetxt(folder / "signal_cells_voxel_zyx.csv", cells, "%d", ",", header="z,y,x", comments="")
    return {
        "structural_tiff": "planes of a brain, 0.05 mm apart, pixels of 0.04 mm; AIR",
        "signal_stack.tif": "another channel of it, an ImageJ stack; AIR",
        "template_100um.nii.gz": "the space of an atlas",
        "signal_cells_voxel_zyx.csv": "cells, as voxels of the signal",
    }


def _template() -> npt.NDArray[np.uint16]:
    """What the structural image is, carried to the template: its middle is pushed along R."""
    image, shift = phantom(_TEMPLATE), phantom_warp(_TEMPLATE)[..., 0] / _TEMPLATE.voxel_size_mm[0]
    right = np.arange(image.shape[0])
    carried = np.empty_like(image)
    for a, s in np.ndindex(image.shape[1:]):
        carried[:, a, s] = np.rint(np.interp(right + shift[:, a, s], right, image[:, a, s]))
    return carried


def _tables(folder: Path) -> dict[str, str]:
    ras = _STRUCTURAL.reoriented(_STRUCTURAL.reorientation_to(Orientation("RAS"))).with_resolution((0.1, 0.1, 0.1))
    regions = phantom_regions(ras)
    regions[regions == _CORE] = _CA1
    _save(folder / "annotation.nii.gz", regions, ras)
    colours = {key: label.rgb or (0, 0, 0) for key, label in _TABLE.items()}
    lines = [f'{key} {" ".join(map(str, colours[key]))} 1 1 1 "{label.name} ({label.acronym})"\n' for key, label in _TABLE.items()]
    (folder / "labels_itksnap.txt").write_text("".join(lines), "utf-8")
    rows = [
        f"{key},{label.acronym},{label.name},{label.parent or ''},{'{:02X}{:02X}{:02X}'.format(*colours[key])}\n"
        for key, label in _TABLE.items()
    ]
    header = "id,acronym,name,parent_structure_id,color_hex_triplet\n"
    (folder / "structure_tree.csv").write_text(header + "".join(rows), "utf-8")
    return {
        "annotation.nii.gz": "regions, in the structural channel's space",
        "labels_itksnap.txt": "their names, as ITK-SNAP has them",
        "structure_tree.csv": "what is part of what, as the Allen atlas has it",
    }


def _transforms(folder: Path) -> dict[str, str]:
    import SimpleITK as sitk

    def middle(space: Space) -> npt.NDArray[np.float64]:
        return np.add(space.bounds.lower_mm, space.bounds.upper_mm) / 2

    # All images have the brain in their middle. In ITK's files right and anterior are negative.
    for name, source, target in (
        ("0GenericAffine.mat", _TEMPLATE, _STRUCTURAL),
        ("structural_to_signal_affine.txt", _STRUCTURAL, _SIGNAL),
    ):
        transform = sitk.AffineTransform(3)
        transform.SetTranslation(((middle(target) - middle(source)) * (-1, -1, 1)).tolist())
        sitk.WriteTransform(transform, str(folder / name))
    warp = phantom_warp(_TEMPLATE) * np.array([-1, -1, 1], np.float32)
    for name, field in (("1Warp.nii.gz", warp), ("1InverseWarp.nii.gz", -warp)):
        _save(folder / name, field[:, :, :, None, :], _TEMPLATE, intent="vector")
    return {
        "0GenericAffine.mat, 1Warp.nii.gz, 1InverseWarp.nii.gz": "from the structural channel to the template, as ANTs writes them",
        "structural_to_signal_affine.txt": "from a structural point to that of the signal, for ITK",
    }


def _save(path: Path, voxels: npt.NDArray[Any], space: Space, intent: str = "none") -> None:
    import nibabel

    image = nibabel.Nifti1Image(voxels, space.world_from_voxel)
    image.header.set_xyzt_units("mm")
    image.header.set_intent(intent)
    nibabel.save(image, path)
