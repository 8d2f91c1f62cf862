"""Ids of labels through every way of resampling: exact however large, and the true majority of what a voxel covers."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from lsfm_core import ExportRequest, IngestRequest, LsfmError, export_channel, ingest_channel
from lsfm_core.geometry import Orientation, Space
from lsfm_core.resample import resample

Array = np.ndarray[Any, Any]

SHAPE = (23, 30, 37)
#: Neighbours that float64 cannot tell apart.
LARGE = np.array([0, 2**53, 2**53 + 1, 2**60 + 1, 2**60 + 2, 2**63 - 1], np.uint64)


def blobs(ids: Array, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Array:
    """Regions of a few voxels, and single ones."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, len(ids), [-(-n // 4) for n in shape])
    index = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)[tuple(slice(n) for n in shape)]
    speckle = random.random(shape) < 0.3
    return ids[np.where(speckle, random.integers(0, len(ids), shape), index)]


def write(path: Path, labels: Array, kind: str = "labels", orientation: str = "RAS", voxel: float = 0.1) -> Path:
    ingest_channel(
        IngestRequest(path=path, channel="a", image=labels, kind=kind, voxel_size_mm=(voxel,) * 3, orientation=orientation)
    )
    return path


def export(path: Path, **options: Any) -> Any:
    volume = export_channel(ExportRequest(path=path, channel="a", **options)).volume
    assert volume is not None
    return volume


# --- large ids ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint64", "int64"])
@pytest.mark.parametrize("kind", ["labels", "image"])
def test_nearest_keeps_ids_that_floats_cannot(dtype: str, kind: str, tmp_path: Path) -> None:
    labels = blobs(LARGE).astype(dtype)
    path = write(tmp_path / "a.h5", labels, kind)
    volume = export(path, resolution_mm=0.07, level=0, interpolation="nearest")
    index = [
        np.clip(np.rint((np.arange(n) + 0.5) * 0.7 - 0.5), 0, m - 1).astype(int)
        for n, m in zip(volume.array.shape, SHAPE, strict=True)
    ]
    np.testing.assert_array_equal(volume.array, labels[np.ix_(*index)])


@pytest.mark.parametrize("interpolation", ["nearest", "mode"])
def test_large_ids_survive_transforms_cuboids_and_files(interpolation: str, tmp_path: Path) -> None:
    labels = blobs(LARGE)
    path = write(tmp_path / "a.h5", labels)
    turn = sitk.Euler3DTransform((1, 1, 1), 0.2, 0.1, 0.3)
    sitk.WriteTransform(turn, tmp_path / "turn.tfm")
    ids = set(labels.ravel().tolist())
    for options in (
        {"transforms": (str(tmp_path / "turn.tfm"),), "resolution_mm": 0.13},
        {"origin_mm": (0.33, 0.4, 0.5), "size_mm": 1.1, "resolution_mm": 0.11},
    ):
        found = export(path, interpolation=interpolation, **options).array
        assert set(found.ravel().tolist()) <= ids and len(np.unique(found)) == len(LARGE)
        for suffix in (".nii.gz", ".nrrd", ".mha", ".ome.zarr", ".npy"):
            export_channel(
                ExportRequest(
                    path=path, channel="a", interpolation=interpolation, output=tmp_path / f"b{suffix}", overwrite=True, **options
                )
            )
        for suffix in (".nii.gz", ".nrrd", ".mha"):
            image = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / f"b{suffix}"))
            np.testing.assert_array_equal(image.transpose(2, 1, 0), found)


def test_a_fill_value_is_given_outside_of_large_ids() -> None:
    space = Space.from_orientation((3, 3, 3), (1, 1, 1), Orientation("RAS"), None)
    labels = np.full((3, 3, 3), 2**60 + 1, np.int64)
    found = resample(labels, space, space.crop((-2, 0, 0), (3, 3, 3)), "nearest", -7)
    assert (found[:2] == -7).all() and (found[2:] == 2**60 + 1).all()


# --- majorities -----------------------------------------------------------------------------------------------------------------


def by_hand(labels: Array, low: Array, high: Array) -> Any:
    """The id that shares most volume with a box of continuous indices; of several the smallest."""
    shares: dict[int, float] = {}
    first, last = np.floor(low + 0.5).astype(int), np.ceil(high + 0.5).astype(int)
    for index in product(*(range(max(0, a), min(n, b)) for a, b, n in zip(first, last, labels.shape, strict=True))):
        place = np.array(index)
        sides = np.minimum(high, place + 0.5) - np.maximum(low, place - 0.5)
        if (sides > 1e-9).all():
            shares[int(labels[index])] = shares.get(int(labels[index]), 0) + float(sides.prod())
    most = max(shares.values())
    return min(label for label, share in shares.items() if share > most - 1e-7)


@pytest.mark.parametrize("resolution", [0.2, 0.3, 0.4, 0.6, 0.25, (0.1, 0.37, 0.5), 0.08])
@pytest.mark.parametrize("orientation", ["RAS", "PIL"])
def test_mode_is_the_majority_of_what_a_voxel_covers(resolution: Any, orientation: str, tmp_path: Path) -> None:
    labels = blobs(np.arange(5, dtype=np.uint16))
    path = write(tmp_path / "a.h5", labels, orientation=orientation)
    volume = export(path, resolution_mm=resolution, output_orientation="native", interpolation="mode")
    step = np.broadcast_to(resolution, 3) / 0.1
    ras = Space.from_orientation(SHAPE, (0.1,) * 3, Orientation(orientation), None)
    starts = ras.to_voxel([volume.space.world_from_voxel[:3, 3]])[0]
    random = np.random.default_rng(1)
    for index in random.integers(0, volume.array.shape, (400, 3)):
        centre = starts + index * step
        assert volume.array[tuple(index)] == by_hand(labels, centre - step / 2, centre + step / 2), index


def test_mode_reads_the_finest_level_and_says_what_it_counts(tmp_path: Path) -> None:
    labels = blobs(np.arange(4, dtype=np.uint8), shape=(40, 48, 600))
    path = write(tmp_path / "a.h5", labels)
    plan = export_channel(ExportRequest(path=path, channel="a", resolution_mm=0.4, interpolation="mode")).plan
    assert plan.level.index == 0
    assert "most frequent id of the 4 x 4 x 4 voxels of level 0 that each voxel covers" in plan.describe()
    found = export(path, resolution_mm=0.4, interpolation="mode").array
    blocks = labels.reshape(10, 4, 12, 4, 150, 4).transpose(0, 2, 4, 1, 3, 5).reshape(10, 12, 150, 64)
    counts = np.stack([(blocks == label).sum(axis=-1) for label in range(4)])
    np.testing.assert_array_equal(found, counts.argmax(axis=0))


def test_mode_does_not_depend_on_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.h5", blobs(np.arange(5, dtype=np.uint16)))
    sitk.WriteTransform(sitk.Euler3DTransform((1, 1, 1), 0.2, 0.1, 0.3), tmp_path / "turn.tfm")
    for options in ({"resolution_mm": 0.25}, {"resolution_mm": 0.25, "transforms": (str(tmp_path / "turn.tfm"),)}):
        whole = export(path, interpolation="mode", **options).array
        with monkeypatch.context() as patch:
            patch.setattr("lsfm_core.export.plan._BLOCK_VOXELS", 50)
            patch.setattr("lsfm_core.export.plan._LEAST_BLOCK_BYTES", 20000)
            np.testing.assert_array_equal(export(path, interpolation="mode", **options).array, whole)


def test_mode_through_a_turn_counts_points_within_each_voxel(tmp_path: Path) -> None:
    labels = blobs(np.arange(1, 5, dtype=np.uint16))
    path = write(tmp_path / "a.h5", labels)
    turn = sitk.Euler3DTransform((-1, -1, 1), 0.2, 0.1, 0.3)
    sitk.WriteTransform(turn, tmp_path / "turn.tfm")
    volume = export(path, transforms=(str(tmp_path / "turn.tfm"),), resolution_mm=0.3, interpolation="mode")
    # No more than a voxel of the image apart: three of them are as long as one of the result, however turned.
    counts = 3
    step = 0.3 / counts
    image = np.zeros(volume.array.shape, np.uint16)
    for index in np.ndindex(*volume.array.shape):
        centre = volume.space.to_world([index])[0]
        found: dict[int, int] = {}
        for part in product(range(counts), repeat=3):
            point = centre + (np.array(part) - (counts - 1) / 2) * step
            inner = np.array(turn.TransformPoint((point * (-1, -1, 1)).tolist())) * (-1, -1, 1) / 0.1
            place = np.floor(inner + 0.5).astype(int)
            if (inner > -0.5).all() and (inner < np.array(SHAPE) - 0.5).all():
                label = int(labels[tuple(place)])
                found[label] = found.get(label, 0) + 1
        if found:
            image[index] = min(label for label, count in found.items() if count == max(found.values()))
        if index[0] >= 3:
            break
    same = image[:3] == volume.array[:3]
    assert same.mean() > 0.999


# --- snap -----------------------------------------------------------------------------------------------------------------------


def test_snap_of_an_oblique_image_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(blobs(np.arange(5, dtype=np.uint16)))
    image.SetSpacing((0.1, 0.1, 0.1))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0, 0, 0.3).GetMatrix())
    sitk.WriteImage(image, tmp_path / "a.nrrd")
    ingest_channel(IngestRequest(path=tmp_path / "a.h5", channel="a", image=tmp_path / "a.nrrd"))
    with pytest.raises(LsfmError, match=r"oblique.*--snap"):
        export(tmp_path / "a.h5", origin_mm=(-1.5, -1.5, 1), size_mm=0.5, snap=True)
