"""One way to take voxels out of a file, measured: ``python bench_export.py <way> <file> <output folder>``.

Each way runs in a process of its own and prints one line of JSON. Before the others, ``prepare`` puts an affine and displacement
fields into the file that `bench_ingest` has made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel  # noqa: F401 (else its import would count as part of the first export)
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from bench_ingest import Result, measured

import lsfm_core.kernels.warp  # noqa: F401 (as nibabel)
from lsfm_core import (
    ExportPlan,
    ExportRequest,
    IngestRequest,
    Space,
    edit_lsfm,
    export_channel,
    ingest_channel,
    open_lsfm,
    plan_export,
)
from lsfm_core.formats import PlaneFunction
from lsfm_core.geometry import Reorientation
from lsfm_core.transforms import Affine

Array = npt.NDArray[Any]

BUDGET = 10**9
FINE_BUDGET = 5 * 10**8
WARP_MM = 0.1
#: 1.3 GB of float32 vectors over the 0.86 GB image.
FINE_WARP_MM = 0.0068
#: Some 70 million voxels of the 0.86 GB image, and 95 million of the 4 GB one.
TRANSFORMED_MM = 0.0079
LARGE_MM = 0.012
COARSE_MM = 0.025
CUBOID_MM = 0.5
STEPS = ("affine", "warp")


def prepare(path: Path, out: Path) -> Result:
    """An affine that turns by 5 degrees, and smooth displacements of up to 0.07 mm, with a vector every 0.1 mm."""
    with open_lsfm(path) as file:
        space = file["c"].space
    turn = np.radians(5)
    matrix = np.eye(4)
    matrix[:2, :2] = 0.97 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centre = space.to_world([np.array(space.shape) / 2])[0]
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre
    affine = Affine(matrix)
    with edit_lsfm(path) as editor:
        editor.write_affine("c", "affine", affine.matrix, affine.to_itk(), replace=True)
    write_warp(path, "warp", space.with_resolution((WARP_MM,) * 3))
    return {}


def prepare_fine(path: Path, out: Path) -> Result:
    """The same displacements every few µm."""
    with open_lsfm(path) as file:
        space = file["c"].space
    write_warp(path, "fine warp", space.with_resolution((FINE_WARP_MM,) * 3))
    return {}


def write_warp(path: Path, name: str, grid: Space) -> None:
    """Store smooth displacements on a grid."""
    vectors = PlaneFunction(grid.shape, np.float32, lambda index: warp_plane(grid, index), components=3, space=grid)
    ingest_channel(IngestRequest(path=path, channel=name, image=vectors, kind="vectors", replace=True))


def warp_plane(grid: Space, index: int) -> npt.NDArray[np.float32]:
    """Displacements (rows, columns, 3) that change over millimetres, and so are the same on every grid but for interpolation."""
    plane = np.indices(grid.shape[1:], dtype=np.float32)
    affine = grid.world_from_voxel.astype(np.float32)
    points = affine[:3, 0] * index + plane[0][..., None] * affine[:3, 1] + plane[1][..., None] * affine[:3, 2] + affine[:3, 3]
    return np.float32(0.04) * np.sin(np.float32(2.5) * points[..., [1, 2, 0]] + np.array([0, 1, 2], np.float32))


def request(path: Path, **fields: Any) -> ExportRequest:
    """For the image of a file, within the budget of this suite."""
    return ExportRequest(**{"path": path, "channel": "c", "memory_bytes": BUDGET, "overwrite": True} | fields)


def exported(wanted: ExportRequest) -> Result:
    """Our export, and what it was."""
    results = []
    result = measured(lambda: results.append(export_channel(wanted)))
    plan = results[0].plan
    return result | {
        "voxels": float(np.prod(plan.target.shape)),
        "output_bytes": float(plan.output_bytes),
        "budget_bytes": float(wanted.memory_bytes),
    }


# --- through an affine and a displacement field ---------------------------------------------------------------------------------


def transformed(path: Path, out: Path) -> Result:
    """This project, to a file."""
    return exported(request(path, transforms=STEPS, resolution_mm=TRANSFORMED_MM, output=out / "transformed.nii"))


def transformed_array(path: Path, out: Path) -> Result:
    """This project, to an array."""
    return exported(request(path, transforms=STEPS, resolution_mm=TRANSFORMED_MM))


def simpleitk(path: Path, out: Path) -> Result:
    """One call of SimpleITK, all in memory; "read_seconds" is what the image took to get there."""
    return one_call(request(path, transforms=STEPS, resolution_mm=TRANSFORMED_MM), out / "transformed.nii")


def antspy(path: Path, out: Path) -> Result:
    """The same by ANTsPy: its call of ITK alone, with the image in memory."""
    import ants

    with open_lsfm(path) as file:
        plan = plan_export(file, request(path, transforms=STEPS, resolution_mm=TRANSFORMED_MM))
        affine, warp = itk_transforms(plan)
        sitk.WriteTransform(affine, out / "affine.mat")
        sitk.WriteImage(warp.GetDisplacementField(), out / "warp.nii.gz")
        moving = ants_image(np.moveaxis(read(plan), (0, 1, 2), (2, 1, 0)), plan.source)
        target = nifti_order(plan.target)
    fixed = ants_image(np.zeros(target.shape[::-1], np.float32), target)
    images = []
    transforms = [str(out / "warp.nii.gz"), str(out / "affine.mat")]
    result = measured(lambda: images.append(ants.apply_transforms(fixed, moving, transforms, interpolator="linear")))
    return result | difference(images[0].numpy(), out / "transformed.nii")


def one_call(wanted: ExportRequest, ours: Path | None = None) -> Result:
    """The voxels of a request by one call of SimpleITK, all in memory."""
    parts: list[Any] = []

    def load() -> None:
        with open_lsfm(wanted.path) as file:
            plan = plan_export(file, wanted)
            image = sitk.GetImageFromArray(read(plan))
            place(image, plan.source)
            parts.extend(
                (plan, image, sitk.CompositeTransform(itk_transforms(plan)) if plan.chain.transforms else sitk.Transform())
            )

    loading = measured(load)
    plan, image, transform = parts
    origin, spacing, direction = nifti_order(plan.target).to_itk()
    size = plan.target.shape
    arguments = (size, transform, sitk.sitkLinear, origin, spacing, direction, 0.0, sitk.sitkFloat32)
    result = measured(lambda: parts.append(sitk.Resample(image, *arguments)))
    result |= {"read_seconds": loading["seconds"], "read_cpu_seconds": loading["cpu_seconds"]}
    return result if ours is None else result | difference(sitk.GetArrayViewFromImage(parts[-1]).T, ours)


def read(plan: ExportPlan) -> Array:
    """All of the plan's level."""
    return plan.level.data.read(cached=False)


def nifti_order(space: Space) -> Space:
    """The grid with its axes the other way round, so that the first of a NIfTI file is ITK's first as well."""
    return space.reoriented(Reorientation((2, 1, 0), (False, False, False)))


def itk_transforms(plan: ExportPlan) -> list[Any]:
    """The plan's affine and field, from the image outward; ITK's composites apply the last one first, too."""
    affine, field = plan.chain.transforms
    parameters, centre = affine.to_itk()
    image = sitk.GetImageFromArray(np.asarray(field.vectors[...]) * (-1.0, -1.0, 1.0), isVector=True)
    place(image, field.space)
    return [
        sitk.AffineTransform(parameters[:9].tolist(), parameters[9:].tolist(), centre.tolist()),
        sitk.DisplacementFieldTransform(image),
    ]


def place(image: sitk.Image, space: Space) -> None:
    """Give an image the space of the array that it was made of."""
    origin, spacing, direction = space.to_itk()
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)


def ants_image(array: Array, space: Space) -> Any:
    """An ANTsPy image of an array whose axes are x, y, z."""
    import ants

    origin, spacing, direction = space.to_itk()
    return ants.from_numpy(array.astype(np.float32), origin, spacing, np.reshape(direction, (3, 3)))


def difference(values: Array, ours: Path) -> Result:
    """How far another's values (x, y, z) are from those that we have written."""
    with ours.open("rb") as file:
        stored = np.memmap(file, np.uint16, "r", 352, values.shape, order="F")
        worst, differing = 0.0, 0
        for index in range(values.shape[2]):
            apart = np.abs(np.rint(values[..., index]) - stored[..., index])
            worst, differing = max(worst, float(apart.max())), differing + int(np.count_nonzero(apart))
    return {"max_difference": worst, "differing_share": differing / values.size}


# --- all else -------------------------------------------------------------------------------------------------------------------


def large(path: Path, out: Path) -> Result:
    """As `transformed`, out of all of level 0, onto a coarser grid."""
    wanted = request(
        path, transforms=STEPS, resolution_mm=LARGE_MM, level=0, antialias=False, interpolation="linear", output=out / "large.nii"
    )
    return exported(wanted)


def fine_warp(path: Path, out: Path) -> Result:
    """Through a field that is larger than the budget."""
    with open_lsfm(path) as file:
        held = file["fine warp"].levels[0].data.nbytes
    wanted = request(
        path, transforms=("affine", "fine warp"), resolution_mm=TRANSFORMED_MM, memory_bytes=FINE_BUDGET, output=out / "fine.nii"
    )
    return exported(wanted) | {"field_bytes": float(held)}


def coarse(path: Path, out: Path) -> Result:
    """The whole image at 25 µm."""
    return exported(request(path, resolution_mm=COARSE_MM, output=out / "coarse.nii.gz"))


def coarse_simpleitk(path: Path, out: Path) -> Result:
    """The same by one call of SimpleITK; not written."""
    return one_call(request(path, resolution_mm=COARSE_MM))


def cuboid(path: Path, out: Path) -> Result:
    """A small piece at full resolution, interpolated where its faces lie between voxels; opening the file counts as well."""
    return exported(request(path, origin_mm=(1.0011, 1.0011, 1.0011), size_mm=CUBOID_MM, output=out / "cuboid.nii"))


def native(path: Path, out: Path) -> Result:
    """Every voxel as it is, in RAS order."""
    return exported(request(path, output=out / "native.nii"))


def native_read(path: Path, out: Path) -> Result:
    """The level read once into memory, and that is all."""

    def work() -> None:
        with open_lsfm(path) as file:
            file["c"].levels[0].data.read(cached=False)

    return measured(work)


WAYS: dict[str, Callable[[Path, Path], Result]] = {
    way.__name__: way
    for way in (
        prepare,
        prepare_fine,
        transformed,
        transformed_array,
        simpleitk,
        antspy,
        large,
        fine_warp,
        coarse,
        coarse_simpleitk,
        cuboid,
        native,
        native_read,
    )
}

if __name__ == "__main__":
    print(json.dumps(WAYS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))))
