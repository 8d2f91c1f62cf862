"""From TIFF planes to one file, and out again as NIfTI, by the command line alone; then a picture of what came out.

    python examples/demo.py

Takes the mouse brain in ../shared/data where that is there, else a synthetic one. Everything goes to demo/, which is made anew.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import numpy.typing as npt

from lsfm_core import cli
from lsfm_core.testing import write_phantom_series

BRAIN = Path("../shared/data/mouse_brain/structural_tiff")
DEMO = Path("demo")
#: Pixels of the picture per voxel, and between the slices.
ZOOM = 3
GAP = 8


def main() -> int:
    """Run the demo; returns an exit code."""
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    if BRAIN.is_dir():
        image, voxel_size, orientation = BRAIN, (0.05, 0.04, 0.04), "AIR"
    else:
        image = DEMO / "planes"
        voxel_size, orientation = write_phantom_series(image)
    file, nifti, picture = DEMO / "brain.h5", DEMO / "brain_100um.nii.gz", DEMO / "brain.png"
    size = ",".join(map(str, voxel_size))
    for command in (
        f"write {file} --channel autofluo --image {image} --voxel-size {size} --orientation {orientation}",
        f"info {file}",
        f"export {file} --channel autofluo --resolution 0.1 --output {nifti}",
    ):
        print(f"\n$ lsfm-core {command}", flush=True)
        if code := cli.main(shlex.split(command)):
            return code
    picture.write_bytes(imagecodecs.png_encode(middle_slices(nifti)))
    print(f"""
Look at
  {picture}   the middle slices of the export: from the right, from behind, from above
  {nifti}   in any NIfTI viewer
  {file.with_suffix(".xml")}   in Fiji: Plugins > BigDataViewer > Open XML/HDF5
  {file}    in napari: make setup, and then .venv-napari/bin/napari --plugin napari-lsfm {file}""")
    return 0


def middle_slices(path: Path) -> npt.NDArray[np.uint8]:
    """Sagittal, coronal and horizontal slice of a RAS image, side by side: A or R is to the right, S or A is up."""
    volume = np.asarray(nibabel.load(path).dataobj)
    low, high = np.percentile(volume, (1, 99.8))
    grey = (np.clip((volume - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    slices = [grey.take(n // 2, axis).T[::-1].repeat(ZOOM, 0).repeat(ZOOM, 1) for axis, n in enumerate(grey.shape)]
    height = max(piece.shape[0] for piece in slices)
    frames = [np.zeros((height, piece.shape[1] + GAP), np.uint8) for piece in slices]
    for frame, piece in zip(frames, slices, strict=True):
        top = (height - piece.shape[0]) // 2
        frame[top : top + piece.shape[0], : piece.shape[1]] = piece
    return np.hstack(frames)


if __name__ == "__main__":
    sys.exit(main())
