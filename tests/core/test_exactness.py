"""Exports judged by others: SimpleITK, ANTs, nibabel, BrainGlobe, and plain numpy."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ants
import imagecodecs
import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
import tifffile
import zarr
from brainglobe_space import AnatomicalSpace
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lsfm_core import (
    CancelledError,
    CancelToken,
    ExistsError,
    ExportRequest,
    IngestRequest,
    InputError,
    MemoryBudgetError,
    MergeRequest,
    RegionSelection,
    SlicesRequest,
    SourceError,
    StorageError,
    Volume,
    export_blocks,
    export_channel,
    export_chunks,
    export_slices,
    ingest_channel,
    iter_chunks,
    iter_slices,
    merge_chunks,
)
from lsfm_core.export.merge import plan_merge

from .effort import examples
from .test_geometry import CODES

Array = npt.NDArray[Any]

WARP = "transforms/template_to_structural_1Warp.nii.gz"
INVERSE_WARP = "transforms/template_to_structural_1InverseWarp.nii.gz"
AFFINE = "transforms/template_to_structural_0GenericAffine.mat"
SIGNAL = "transforms/structural_to_signal_affine.txt"
TO_TEMPLATE = ("structural_to_template", "warp")
LPS = np.array([-1.0, -1.0, 1.0])
METHODS = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor, "bspline": sitk.sitkBSpline}


# --- the judges' images: geometry set up from affines in array order, not by the code under test --------------------------------


def place(image: sitk.Image, affine: Array) -> sitk.Image:
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def itk_image(array: Array, affine: Array) -> sitk.Image:
    """Array axes 0, 1, 2 are ITK's x, y, z."""
    axes = (2, 1, 0, *range(3, array.ndim))
    return place(sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(axes)), isVector=array.ndim == 4), affine)


def itk_array(image: sitk.Image) -> Array:
    array = sitk.GetArrayFromImage(image)
    return array.transpose(2, 1, 0, *range(3, array.ndim))


def ants_image(array: Array, affine: Array) -> Any:
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    data = np.ascontiguousarray(array, np.float32)
    return ants.from_numpy(data, origin=lps[:3, 3].tolist(), spacing=spacing.tolist(), direction=lps[:3, :3] / spacing)


def by_itk(
    array: Array,
    affine: Array,
    shape: Sequence[int],
    grid: Array,
    transform: sitk.Transform | None = None,
    method: str = "linear",
    fill: float = 0,
) -> Array:
    """One resample of a whole image, in float64, or of the type itself for nearest neighbours."""
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(place(sitk.Image([int(n) for n in shape], sitk.sitkUInt8), grid))
    resampler.SetTransform(transform or sitk.Transform())
    resampler.SetInterpolator(METHODS[method])
    resampler.SetDefaultPixelValue(fill)
    if method != "nearest":
        resampler.SetOutputPixelType(sitk.sitkVectorFloat64 if array.ndim == 4 else sitk.sitkFloat64)
    return itk_array(resampler.Execute(itk_image(array, affine)))


def read_field(path: Path) -> sitk.Transform:
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))


def volume_of(**fields: Any) -> Volume:
    result = export_channel(ExportRequest(**fields)).volume
    assert result is not None
    return result


def assert_rounded(found: Array, expected: Array) -> None:
    """Each voxel is the whole number nearest to what is expected; a float32 can tell 65535.496 from 65535.5, but not more."""
    difference = np.abs(found - np.asarray(expected, np.float64))
    assert difference.max() < 0.504


# --- the specimen, read without the code under test -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def structural(brain_data: Path) -> tuple[Array, Array]:
    """Array (planes, rows, columns) and affine: planes grow to anterior, rows to inferior, columns to right."""
    array = np.stack([tifffile.imread(plane) for plane in sorted((brain_data / "structural_tiff").iterdir())])
    affine = [[0, 0, 0.04, 0], [0.05, 0, 0, 0], [0, -0.04, 0, 0.04 * (array.shape[1] - 1)], [0, 0, 0, 1]]
    return array, np.array(affine, float)


@pytest.fixture(scope="module")
def signal(brain_data: Path) -> tuple[Array, Array]:
    array = tifffile.imread(brain_data / "signal_stack.tif")
    affine = [[0, 0, 0.05, 0], [0.06, 0, 0, 0], [0, -0.05, 0, 0.05 * (array.shape[1] - 1)], [0, 0, 0, 1]]
    return array, np.array(affine, float)


@pytest.fixture(scope="module")
def template(brain_data: Path) -> nibabel.Nifti1Image:
    return nibabel.load(brain_data / "template_100um.nii.gz")


@pytest.fixture(scope="module")
def annotation(brain_data: Path) -> nibabel.Nifti1Image:
    return nibabel.load(brain_data / "annotation_in_structural_100um.nii.gz")


# --- through the transforms of a registration -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("channel", ["autofluo", "cfos"])
def test_a_channel_in_the_template_is_what_ants_makes_of_it(
    channel: str, registered_file: Path, brain_data: Path, template: nibabel.Nifti1Image, request: pytest.FixtureRequest
) -> None:
    files, names, fixture = [AFFINE, WARP], TO_TEMPLATE, "structural"
    if channel == "cfos":
        files, names, fixture = [SIGNAL, *files], ("signal_to_structural", *names), "signal"
    array, affine = request.getfixturevalue(fixture)
    volume = volume_of(
        path=registered_file,
        channel=channel,
        transforms=names,
        reference=str(brain_data / "template_100um.nii.gz"),
        level=0,
        antialias=False,
    )
    assert volume.array.dtype == np.uint16
    assert volume.array.shape == template.shape
    np.testing.assert_allclose(volume.space.world_from_voxel, template.affine, atol=1e-6)
    by_ants = ants.apply_transforms(
        ants_image(np.zeros(template.shape), template.affine),
        ants_image(array, affine),
        [str(brain_data / file) for file in reversed(files)],
        "linear",
    ).numpy()
    assert by_ants.max() > 300
    assert_rounded(volume.array, by_ants)
    chain = [read_field(brain_data / f) if f.endswith("nii.gz") else sitk.ReadTransform(str(brain_data / f)) for f in files]
    assert_rounded(volume.array, by_itk(array, affine, template.shape, template.affine, sitk.CompositeTransform(chain)))


def test_labels_of_the_template_in_the_specimen_are_what_ants_makes_of_them(
    registered_file: Path, brain_data: Path, annotation: nibabel.Nifti1Image
) -> None:
    labels = nibabel.load(registered_file.parent / "template_atlas.nii.gz")
    ids = np.asarray(labels.dataobj)
    fields = {"path": registered_file, "channel": "template_atlas", "reference": "atlas"}
    by_names = [
        volume_of(**fields, transforms=(warp, "structural_to_template:invert")).array for warp in ("warp:invert", "inverse_warp")
    ]
    np.testing.assert_array_equal(*by_names)
    by_ants = ants.apply_transforms(
        ants_image(np.zeros(annotation.shape), annotation.affine),
        ants_image(ids, labels.affine),
        [str(brain_data / AFFINE), str(brain_data / INVERSE_WARP)],
        "nearestNeighbor",
        whichtoinvert=[True, False],
    ).numpy()
    assert len(np.unique(by_ants)) > 500
    np.testing.assert_array_equal(by_names[0], by_ants)
    # The way back of a way there: most voxels have their label again.
    assert (by_names[0] == np.asarray(annotation.dataobj)).mean() > 0.95


def test_an_inverted_affine_alone(
    registered_file: Path, brain_data: Path, template: nibabel.Nifti1Image, annotation: nibabel.Nifti1Image
) -> None:
    labels = nibabel.load(registered_file.parent / "template_atlas.nii.gz")
    volume = volume_of(
        path=registered_file, channel="template_atlas", reference="atlas", transforms=f"{brain_data / AFFINE}:invert"
    )
    inverse = sitk.ReadTransform(str(brain_data / AFFINE)).GetInverse()
    expected = by_itk(np.asarray(labels.dataobj), labels.affine, annotation.shape, annotation.affine, inverse, "nearest")
    np.testing.assert_array_equal(volume.array, expected)


def test_transforms_from_files_are_those_that_are_stored(
    registered_file: Path, brain_data: Path, tmp_path: Path, template: nibabel.Nifti1Image
) -> None:
    affine, field = sitk.ReadTransform(str(brain_data / AFFINE)), sitk.ReadImage(str(brain_data / WARP))
    for name in ("affine.txt", "affine.tfm", "affine.mat"):
        sitk.WriteTransform(affine, str(tmp_path / name))
    for name in ("warp.nii", "warp.nrrd", "warp.mha"):
        sitk.WriteImage(field, str(tmp_path / name))
    both = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))])
    sitk.WriteTransform(both, str(tmp_path / "both.h5"))
    nibabel.save(nibabel.Nifti1Image(np.zeros(template.shape, np.uint8), template.affine), tmp_path / "grid.nii")
    fields = {"path": registered_file, "channel": "autofluo", "reference": str(tmp_path / "grid.nii"), "resolution_mm": 0.2}
    stored = volume_of(**fields, transforms=TO_TEMPLATE).array
    assert stored.max() > 300
    for chain in (
        [brain_data / AFFINE, brain_data / WARP],
        [tmp_path / "affine.txt", tmp_path / "warp.nii"],
        [tmp_path / "affine.tfm", tmp_path / "warp.nrrd"],
        [tmp_path / "affine.mat", tmp_path / "warp.mha"],
        [tmp_path / "both.h5"],
    ):
        np.testing.assert_array_equal(volume_of(**fields, transforms=tuple(map(str, chain))).array, stored, str(chain))
    # Inverted, a composite goes through its parts backwards.
    sitk.WriteTransform(sitk.CompositeTransform([affine, sitk.TranslationTransform(3, (0.3, 0, 0))]), str(tmp_path / "two.h5"))
    there = {"transforms": (str(tmp_path / "two.h5:invert"), str(tmp_path / "two.h5"))}
    grid = {"origin_mm": (2, 3, 1), "size_mm": 2, "resolution_mm": 0.1, "level": 0, "antialias": False}
    volumes = [volume_of(path=registered_file, channel="autofluo", **grid, **chain).array.astype(int) for chain in (there, {})]
    assert np.abs(np.subtract(*volumes)).max() <= 1


# --- blocks ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Specimen:
    """A file with a synthetic image, and what is in it."""

    path: Path
    levels: tuple[tuple[Array, Array], ...]
    labels: Array
    field: sitk.Transform


def turn(rng: np.random.Generator, most: float = 0.6) -> Array:
    return np.array(sitk.Euler3DTransform((0, 0, 0), *rng.uniform(-most, most, 3)).GetMatrix()).reshape(3, 3)


def smooth(rng: np.random.Generator, shape: Sequence[int], coarse: int = 6) -> Array:
    """Noise that changes slowly, from -1 to 1."""
    knots = rng.uniform(-1, 1, [max(2, n // coarse) for n in shape])
    image = sitk.GetImageFromArray(knots)
    image.SetSpacing([(n - 1) / max(1, m - 1) for n, m in zip(shape[::-1], knots.shape[::-1], strict=True)])
    return sitk.GetArrayFromImage(sitk.Resample(image, [int(n) for n in shape[::-1]], sitk.Transform()))


@pytest.fixture(scope="module")
def specimen(tmp_path_factory: pytest.TempPathFactory) -> Specimen:
    """Noise on an oblique grid with two levels, labels on it, and a field that covers a part of it."""
    rng = np.random.default_rng(21)
    folder = tmp_path_factory.mktemp("specimen")
    shape = (22, 264, 30)
    affine = np.eye(4)
    affine[:3, :3] = turn(rng, 0.2) @ np.array([[0, 0, 0.1], [0, 0.02, 0], [-0.12, 0, 0]])
    affine[:3, 3] = (1, -2, 4)
    affine = affine.astype(np.float32).astype(float)  # which is what NIfTI keeps of it
    array = rng.integers(0, 65536, shape, dtype=np.uint16)
    labels = np.digitize(smooth(rng, shape), (-0.4, 0, 0.4)).astype(np.uint16)
    field_affine = np.eye(4)
    field_affine[:3, :3] = turn(rng) * 0.2
    field_affine[:3, 3] = affine[:3] @ (8, 60, 2, 1)
    vectors = np.stack([0.3 * smooth(rng, (13, 15, 11), 3) for _ in range(3)], axis=-1)
    field = itk_image(vectors * LPS, field_affine)
    nibabel.save(nibabel.Nifti1Image(array, affine), folder / "image.nii")
    nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "labels.nii")
    sitk.WriteImage(field, str(folder / "field.mha"))
    path = folder / "specimen.h5"
    for channel, kind, file in (
        ("image", "image", "image.nii"),
        ("labels", "labels", "labels.nii"),
        ("field", "vectors", "field.mha"),
    ):
        ingest_channel(IngestRequest(path=path, channel=channel, kind=kind, image=str(folder / file)))
    means = array.reshape(22, 132, 2, 30).mean(axis=2)
    half = affine @ np.array([[1, 0, 0, 0], [0, 2, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 1]])
    return Specimen(path, ((array, affine), (np.rint(means), half)), labels, sitk.DisplacementFieldTransform(field))


def random_affine_file(rng: np.random.Generator, folder: Path, centre: Array) -> tuple[str, sitk.Transform]:
    """One that turns, stretches and shears about a point."""
    linear = turn(rng) @ (np.diag(rng.uniform(0.7, 1.4, 3)) + np.triu(rng.uniform(-0.3, 0.3, (3, 3)), 1))
    itk = sitk.AffineTransform(linear.ravel().tolist(), rng.uniform(-0.5, 0.5, 3).tolist(), (centre * LPS).tolist())
    path = folder / f"{rng.integers(2**62)}.txt"
    sitk.WriteTransform(itk, str(path))
    return str(path), itk


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(25))
@given(
    kinds=st.text("AF", max_size=3),
    level=st.integers(0, 1),
    method=st.sampled_from(["linear", "linear", "nearest", "bspline"]),
    fill=st.sampled_from([0, 7, 65535]),
    block=st.integers(60, 3000),
    memory=st.integers(195_000_000, 400_000_000),
    mask=st.booleans(),
    loops=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_blocks_make_the_whole_that_itk_makes(
    kinds: str,
    level: int,
    method: str,
    fill: int,
    block: int,
    memory: int,
    mask: bool,
    loops: bool,
    seed: int,
    specimen: Specimen,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rng = np.random.default_rng(seed)
    array, affine = specimen.levels[level]
    centre = affine[:3] @ (*(np.array(array.shape) / 2), 1)
    names, parts = [], [sitk.Transform()]
    for kind in kinds:
        name, part = ("field", specimen.field) if kind == "F" else random_affine_file(rng, tmp_path_factory.getbasetemp(), centre)
        names.append(name)
        parts.append(part)
    chain = sitk.CompositeTransform(parts)
    size, resolution = rng.uniform(0.3, 1.5, 3), rng.uniform(0.06, 0.3, 3)
    origin = centre - size / 2 + rng.uniform(-1.5, 1.5, 3)
    request = {
        "path": specimen.path,
        "channel": "image",
        "level": level,
        "transforms": tuple(names),
        "origin_mm": tuple(origin.tolist()),
        "size_mm": tuple(size.tolist()),
        "resolution_mm": tuple(resolution.tolist()),
        "output_orientation": rng.choice(["RAS", "LPS", "AIR"]),
        "interpolation": method,
        "antialias": False,
        "fill": fill,
    }
    if mask:
        del request["origin_mm"], request["size_mm"]
        request["resolution_mm"] = 0.2
        request["region"] = RegionSelection(labels_channel="labels", select=(1, 3), mask=True, labels_in="output")
    with pytest.MonkeyPatch.context() as patch:
        if loops:
            patch.setattr("lsfm_core.resample._resampled._FEW_VOXELS", 0)
            patch.setattr("lsfm_core.resample._resampled._FEW_VOXELS_STRAIGHT", 0)
        try:
            whole = volume_of(**request)
        except InputError as error:
            assume("outside" not in str(error) and "covers" not in str(error))
            raise
        patch.setattr("lsfm_core.export.plan._BLOCK_VOXELS", block)
        blocks = export_channel(ExportRequest(**request, memory_bytes=memory))
    assert blocks.plan.block_count > 1 or whole.array.size <= 2 * block
    assert blocks.volume is not None
    np.testing.assert_array_equal(blocks.volume.array, whole.array)
    grid = whole.space.world_from_voxel
    expected = by_itk(array.astype(float), affine, whole.array.shape, grid, chain, method, fill)
    if mask:
        inside = by_itk(
            np.isin(specimen.labels, (1, 3)).astype(np.uint8), specimen.levels[0][1], whole.array.shape, grid, method="nearest"
        )
        expected[inside == 0] = fill
    assert_rounded(whole.array, np.clip(expected, 0, 65535))


def test_blocks_agree_where_voxels_lie_on_faces_and_halfway(registered_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Round numbers, of which rounding could go either way: every block must go the same."""
    requests: list[dict[str, Any]] = [
        {"channel": "cfos", "resolution_mm": 0.15, "level": 0, "transforms": "signal_to_structural", "reference": "autofluo"},
        {
            "channel": "autofluo",
            "resolution_mm": (0.08, 0.1, 0.1),
            "origin_mm": (2, 3, 1),
            "size_mm": 3,
            "level": 0,
            "antialias": False,
        },
        {"channel": "atlas", "resolution_mm": 0.05, "origin_mm": (2, 3, 1), "size_mm": 2.5},
        {"channel": "atlas", "resolution_mm": 0.2, "level": 0},
        {"channel": "atlas", "resolution_mm": 0.2, "level": 0, "interpolation": "mode"},
        {"channel": "autofluo", "resolution_mm": 0.2, "transforms": TO_TEMPLATE, "level": 0},
        {"channel": "warp", "resolution_mm": 0.25, "origin_mm": (1, 1, 1), "size_mm": 4},
    ]
    for fields in requests:
        whole = volume_of(path=registered_file, **fields).array
        with monkeypatch.context() as patch:
            patch.setattr("lsfm_core.export.plan._BLOCK_VOXELS", 2500)
            np.testing.assert_array_equal(
                volume_of(path=registered_file, **fields, memory_bytes=250_000_000).array, whole, str(fields)
            )


def test_a_reduction_is_the_mean_of_the_voxels_before_it_is_interpolated(specimen: Specimen) -> None:
    array, affine = specimen.levels[0]
    request = {"path": specimen.path, "channel": "image", "level": 0, "output_orientation": "native"}
    means = array.reshape(22, 88, 3, 30).mean(axis=2)
    # NIfTI's planes are across its last axis.
    volume = volume_of(**request, resolution_mm=(0.1, 0.06, 0.12))
    np.testing.assert_array_equal(volume.array, np.rint(means).T)
    # 3.5 times as coarse: means of 3, and what lies between them.
    volume = volume_of(**request, resolution_mm=(0.1, 0.07, 0.12))
    thirds = affine @ np.array([[1, 0, 0, 0], [0, 3, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    expected = by_itk(np.rint(means), thirds, volume.array.shape, volume.space.world_from_voxel)
    assert_rounded(volume.array[:-1, :-1, :-1], expected[:-1, :-1, :-1])


def most_frequent(labels: Array) -> Array:
    """Of blocks of 1 x 2 x 2 voxels; of equally frequent ids the smallest."""
    planes, rows, columns = labels.shape
    blocks = labels.reshape(planes, rows // 2, 2, columns // 2, 2)
    return np.stack([(blocks == label).sum(axis=(2, 4)) for label in range(4)]).argmax(axis=0)


def test_mode_gives_the_most_frequent_id(specimen: Specimen) -> None:
    request = {"path": specimen.path, "channel": "labels", "level": 0, "output_orientation": "native", "interpolation": "mode"}
    labels = specimen.labels.T
    halved = most_frequent(labels[:, :, :20])
    volume = volume_of(**request, resolution_mm=(0.1, 0.04, 0.24))
    np.testing.assert_array_equal(volume.array[:, :, :10], halved)
    assert (halved != labels[:, ::2, :20:2]).mean() > 0.02


@pytest.mark.parametrize("channel", ["autofluo", "cfos"])
def test_bsplines_in_blocks_are_those_of_the_whole(
    channel: str, registered_file: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    array, affine = request.getfixturevalue({"autofluo": "structural", "cfos": "signal"}[channel])
    monkeypatch.setattr("lsfm_core.export.plan._BLOCK_VOXELS", 9000)
    volume = volume_of(
        path=registered_file,
        channel=channel,
        level=0,
        interpolation="bspline",
        antialias=False,
        origin_mm=(-0.5, 5.1, -1.5),
        size_mm=(3.1, 1.2, 3),
        resolution_mm=0.07,
    )
    expected = by_itk(array, affine, volume.array.shape, volume.space.world_from_voxel, method="bspline")
    assert_rounded(volume.array, np.clip(expected, 0, 65535))


def test_bsplines_of_thin_images_and_of_blocks_beside_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsfm_core.export.plan._BLOCK_VOXELS", 2000)
    for size in (1, 2, 3, 4):
        array = np.random.default_rng(size).integers(0, 999, (size, 30, 40), dtype=np.uint16)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"{size}.nii")
        path = tmp_path / f"{size}.h5"
        ingest_channel(IngestRequest(path=path, channel="thin", image=str(tmp_path / f"{size}.nii")))
        box = {"origin_mm": (-9.7, -30.3, 5.1), "size_mm": (14.3, 70.4, 60.2), "resolution_mm": (0.7, 1.1, 1.3)}
        volume = volume_of(path=path, channel="thin", interpolation="bspline", fill=5, **box)
        expected = by_itk(array, np.eye(4), volume.array.shape, volume.space.world_from_voxel, method="bspline", fill=5)
        assert_rounded(volume.array, np.clip(expected, 0, 65535))


# --- places ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [0, 7])
@pytest.mark.parametrize("snap", [True, False])
def test_a_cuboid_that_begins_outside_is_filled_there(
    fill: int, snap: bool, registered_file: Path, structural: tuple[Array, Array]
) -> None:
    """The image's outer corner is half a voxel below 0: at R -0.02, A -0.025, S -0.02."""
    array, affine = structural
    ras = array.transpose(2, 0, 1)[:, :, ::-1]
    fields = {"path": registered_file, "channel": "autofluo", "level": 0, "fill": fill, "size_mm": (0.4, 0.5, 0.4)}
    fields |= {"origin_mm": (-0.23, -0.215, 7.5), "snap": snap}
    volume = volume_of(**fields)
    outside = np.ones((10, 10, 10), bool)
    outside[5:, 4:, :5] = False
    grid = np.diag([0.04, 0.05, 0.04, 1])
    if snap:
        expected = np.full((10, 10, 10), fill, np.uint16)
        expected[5:, 4:, :5] = ras[:5, :6, 188:]
        np.testing.assert_array_equal(volume.array, expected)
        grid[:3, 3] = (-0.2, -0.2, 7.52)
    else:
        # The first voxel's centre is half a voxel inside the corner that was asked for.
        grid[:3, 3] = (-0.21, -0.19, 7.52)
        assert_rounded(volume.array, by_itk(array, affine, (10, 10, 10), grid, fill=fill))
    np.testing.assert_allclose(volume.space.world_from_voxel, grid, atol=1e-9)
    np.testing.assert_array_equal(volume.array[outside], fill)
    assert (volume.array[~outside] != fill).any()


@given(
    origin=st.tuples(*[st.integers(-20, 250)] * 3),
    size=st.tuples(*[st.integers(1, 30)] * 3),
    resolution=st.sampled_from([0.03, 0.04, 0.1]),
)
@settings(deadline=None, max_examples=examples(15))
def test_a_cuboid_is_where_it_was_asked_for(
    origin: tuple[int, int, int],
    size: tuple[int, int, int],
    resolution: float,
    registered_file: Path,
    structural: tuple[Array, Array],
) -> None:
    array, affine = structural
    origin_mm, size_mm = np.array(origin) * 0.04 + 0.003, np.array(size) * 0.041
    request = {"path": registered_file, "channel": "autofluo", "level": 0, "antialias": False, "resolution_mm": resolution}
    request |= {"origin_mm": tuple(origin_mm), "size_mm": tuple(size_mm)}
    upper = (10.82, 13.475, 7.7)
    if (origin_mm >= upper).any() or (origin_mm + size_mm <= -0.15).any():
        with pytest.raises(InputError, match=r"wholly outside.*Result: R .* image: R -0\.020\.\.10\.820 x A .*"):
            volume_of(**request)
        return
    assume((origin_mm < np.array(upper) - 0.3).all() and (origin_mm + size_mm > 0.1).all())
    volume = volume_of(**request)
    assert volume.array.shape == tuple(np.maximum(1, np.rint(size_mm / resolution)).astype(int))
    grid = np.diag([resolution] * 3 + [1])
    grid[:3, 3] = origin_mm + resolution / 2
    np.testing.assert_allclose(volume.space.world_from_voxel, grid, atol=1e-9)
    np.testing.assert_allclose(volume.space.bounds.lower_mm, origin_mm, atol=1e-9)
    assert_rounded(volume.array, by_itk(array, affine, volume.array.shape, grid))


# --- orientations ---------------------------------------------------------------------------------------------------------------


@given(
    code=st.sampled_from(CODES),
    target=st.sampled_from([*CODES, None]),
    angle=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=examples(25))
def test_a_landmark_of_a_nifti_keeps_its_place(
    code: str, target: str | None, angle: float, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A blob, whose centre linear interpolation keeps to 0.03 mm: whole, in a cuboid, and coarser; oblique images as well."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(22, 34, 3)  # so that no edge cuts the blob
    inverse = nibabel.orientations.axcodes2ornt(code)
    affine = nibabel.orientations.inv_ornt_aff(inverse, shape)
    affine = np.diag([*rng.uniform(0.5, 1.5, 3), 1]) @ np.linalg.inv(affine)
    affine[:3, :3] = turn(rng, angle) @ affine[:3, :3]
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    affine = affine.astype(np.float32).astype(float)
    place_vox = rng.uniform(0.4, 0.6, 3) * shape
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), place_vox, strict=True)))
    array = np.rint(60000 * np.exp(-((distance / 2) ** 2) / 2)).astype(np.uint16)
    folder = tmp_path_factory.mktemp("landmark")
    nibabel.save(nibabel.Nifti1Image(array, affine), folder / "image.nii")
    ingest_channel(IngestRequest(path=folder / "x.h5", channel="blob", image=str(folder / "image.nii")))
    true = nibabel.affines.apply_affine(affine, np.array([(array * axis).sum() / array.sum() for axis in np.indices(shape)]))
    request = {"path": folder / "x.h5", "channel": "blob", "output_orientation": target}
    for piece in (
        {},
        {"origin_mm": tuple((true - 12).tolist()), "size_mm": 24.0},
        {"resolution_mm": 0.9},
        {"output_orientation": "native"},
    ):
        fields = request | piece
        if "origin_mm" not in fields and "resolution_mm" not in fields and angle == 0 and fields["output_orientation"] == code:
            np.testing.assert_array_equal(volume_of(**fields).array, array)
        export_channel(ExportRequest(**fields, output=folder / "out.nii", overwrite=True))
        image = nibabel.load(folder / "out.nii")
        if fields["output_orientation"] != "native":
            assert "".join(nibabel.aff2axcodes(image.affine)) == (target or "RAS")
        found = np.asarray(image.dataobj, float)
        centre = [(found * axis).sum() / found.sum() for axis in np.indices(found.shape)]
        np.testing.assert_allclose(nibabel.affines.apply_affine(image.affine, centre), true, atol=0.05, err_msg=str(fields))


@given(code=st.sampled_from(CODES), target=st.sampled_from(CODES))
@settings(deadline=None, max_examples=examples(40))
def test_a_stack_is_turned_as_brainglobe_turns_it(code: str, target: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    def origin(letters: str) -> str:
        return letters.translate(str.maketrans("RLAPSI", "lrpais"))

    array = np.random.default_rng(5).integers(0, 999, (5, 7, 6), dtype=np.uint16)
    path = tmp_path_factory.getbasetemp() / f"{code}.h5"
    if not path.exists():
        np.save(path.with_suffix(".npy"), array)
        source = {"image": array, "orientation": code, "voxel_size_mm": (1, 2, 3)}
        ingest_channel(IngestRequest(path=path, channel="stack", **source))
    found = volume_of(path=path, channel="stack", output_orientation=target).array
    space = AnatomicalSpace(origin(code), shape=array.shape, resolution=(1, 2, 3))
    np.testing.assert_array_equal(found, space.map_stack_to(AnatomicalSpace(origin(target)), array))


# --- several values per voxel ---------------------------------------------------------------------------------------------------


def test_vectors_through_resampling_are_the_same_field(registered_file: Path, brain_data: Path, tmp_path: Path) -> None:
    fields = {"path": registered_file, "channel": "warp"}
    native = volume_of(**fields)
    original = nibabel.load(brain_data / WARP)
    np.testing.assert_array_equal(native.array, np.asarray(original.dataobj)[:, :, :, 0] * LPS.astype(np.float32))
    box = {"origin_mm": (2.03, 3.01, 1.02), "size_mm": (4, 4.5, 3), "resolution_mm": 0.07}
    volume = volume_of(**fields, **box)
    for component in range(3):
        values = np.asarray(original.dataobj)[:, :, :, 0, component].astype(float) * LPS[component]
        expected = by_itk(values, original.affine, volume.array.shape[:3], volume.space.world_from_voxel)
        np.testing.assert_allclose(volume.array[..., component], expected, atol=1e-6)
    # As a file: SimpleITK takes both for the same displacement field, where the finer grid has a voxel.
    warp = read_field(brain_data / WARP)
    for name in ("field.nii.gz", "field.nii", "field.nrrd", "field.mha"):
        export_channel(ExportRequest(**fields, **box, output=tmp_path / name))
        field = read_field(tmp_path / name)
        points = nibabel.affines.apply_affine(volume.space.world_from_voxel, np.random.default_rng(1).integers(1, 40, (200, 3)))
        for point in (points * LPS).tolist():
            np.testing.assert_allclose(field.TransformPoint(point), warp.TransformPoint(point), atol=2e-6)
    via_volume = sitk.DisplacementFieldTransform(sitk.Cast(volume.to_sitk(), sitk.sitkVectorFloat64))
    nibabel.save(volume.to_nibabel(), tmp_path / "by_nibabel.nii")
    via_nibabel = read_field(tmp_path / "by_nibabel.nii")
    for point in (points * LPS).tolist():
        np.testing.assert_allclose(via_volume.TransformPoint(point), warp.TransformPoint(point), atol=2e-6)
        np.testing.assert_allclose(via_nibabel.TransformPoint(point), warp.TransformPoint(point), atol=2e-6)


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "AIR", "SPL"])
def test_a_volume_is_in_the_same_place_for_other_libraries(orientation: str, registered_file: Path) -> None:
    volume = volume_of(path=registered_file, channel="autofluo", output_orientation=orientation, level=1)
    brightest = np.unravel_index(volume.array.argmax(), volume.array.shape)
    image = volume.to_nibabel()
    assert "".join(nibabel.aff2axcodes(image.affine)) == orientation
    world = nibabel.affines.apply_affine(image.affine, brightest)
    value = volume.array.max()
    assert np.asarray(image.dataobj)[brightest] == value
    itk = volume.to_sitk()
    index = itk.TransformPhysicalPointToIndex((world * LPS).tolist())
    assert itk[index] == value
    np.testing.assert_allclose(np.array(itk.TransformIndexToPhysicalPoint(index)) * LPS, world, atol=1e-6)
    data = volume.to_xarray()
    assert data.sel(x=world[0], y=world[1], z=world[2], method="nearest") == value
    np.testing.assert_allclose(data.x[1] - data.x[0], 0.08 * (1 if "R" in orientation else -1))


def test_colours_are_exported_as_they_are(tmp_path: Path) -> None:
    array = np.random.default_rng(9).integers(0, 256, (9, 10, 11), dtype=np.uint8)
    path = tmp_path / "rgb.h5"
    colours = np.stack([array, array[::-1], array // 2], axis=-1)
    ingest_channel(
        IngestRequest(path=path, channel="rgb", kind="components", image=colours, voxel_size_mm=(1, 1, 1), orientation="AIR")
    )
    request = {"path": path, "channel": "rgb"}
    ras = colours.transpose(2, 0, 1, 3)[:, :, ::-1]
    np.testing.assert_array_equal(volume_of(**request).array, ras)
    coarse = volume_of(**request, resolution_mm=0.8, antialias=False)
    affine = np.eye(4)
    for component in range(3):
        expected = by_itk(ras[..., component], affine, coarse.array.shape[:3], coarse.space.world_from_voxel)
        assert_rounded(coarse.array[:-1, :-1, :-1, component], expected[:-1, :-1, :-1])
    export_channel(ExportRequest(**request, output=tmp_path / "rgb.tif"))
    assert tifffile.imread(tmp_path / "rgb.tif").shape[-1] == 3


def test_blocks_cover_everything_once(registered_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsfm_core.export.plan._BLOCK_VOXELS", 5000)
    for fields in (
        {"channel": "autofluo", "transforms": TO_TEMPLATE, "resolution_mm": 0.3},
        {"channel": "warp", "origin_mm": (1, 1, 1), "size_mm": 2},
        {"channel": "atlas", "output_orientation": "native"},
    ):
        whole = volume_of(path=registered_file, **fields)
        seen = np.zeros(whole.array.shape[:3], int)
        count = 0
        for start, block in export_blocks(ExportRequest(path=registered_file, **fields)):
            box = tuple(slice(a, a + n) for a, n in zip(start, block.array.shape[:3], strict=True))
            seen[box] += 1
            np.testing.assert_array_equal(block.array, whole.array[box])
            np.testing.assert_allclose(
                nibabel.affines.apply_affine(block.space.world_from_voxel, (0, 0, 0)),
                nibabel.affines.apply_affine(whole.space.world_from_voxel, start),
            )
            count += 1
        assert (seen == 1).all()
        assert count > 1 or fields["channel"] == "atlas", "copied voxels come in slabs"


# --- regions --------------------------------------------------------------------------------------------------------------------


def carried_points(points: Array, *parts: sitk.Transform) -> Array:
    """Points (n, 3), RAS mm, through transforms of which the last applies first."""
    chain = sitk.CompositeTransform([sitk.Transform(), *parts])
    return np.array([chain.TransformPoint(point) for point in (points * LPS).tolist()]) * LPS


def nearest_mask(mask: Array, affine: Array, volume: Volume, *parts: sitk.Transform) -> Array:
    """Whether the voxel nearest to where each voxel centre of a volume goes is in a mask; 2 where two are as near."""
    centres = nibabel.affines.apply_affine(volume.space.world_from_voxel, np.indices(volume.array.shape).reshape(3, -1).T)
    index = nibabel.affines.apply_affine(np.linalg.inv(affine), carried_points(centres, *parts) if parts else centres)
    nearest = np.rint(index).astype(int)
    inside = ((nearest >= 0) & (nearest < mask.shape)).all(axis=1)
    found = np.zeros(len(index), int)
    found[inside] = mask[tuple(nearest[inside].T)]
    found[(np.abs(index - np.floor(index) - 0.5) < 1e-8).any(axis=1)] = 2
    return found.reshape(volume.array.shape)


def faces(mask: Array, affine: Array, *parts: sitk.Transform) -> tuple[Array, Array]:
    """R, A, S bounds of all corners of all voxels in a mask, and of their centres, carried by transforms."""
    # Of those at the rim: transforms that can be inverted bring nothing out from within.
    within = np.pad(mask, 1)
    for axis in range(3):
        within = within & np.roll(within, 1, axis) & np.roll(within, -1, axis)
    index = np.argwhere(mask & ~within[1:-1, 1:-1, 1:-1])
    corners = np.unique((index[:, None] + np.array(list(np.ndindex(2, 2, 2))) - 0.5).reshape(-1, 3), axis=0)
    bounds = []
    for points in (corners, index):
        world = carried_points(nibabel.affines.apply_affine(affine, points), *parts)
        bounds.append(np.stack([world.min(axis=0), world.max(axis=0)]))
    return bounds[0], bounds[1]


def assert_box_fits(volume: Volume, outer: Array, centres: Array, margin_vox: int = 0, margin_mm: float = 0) -> None:
    """All of the region's voxels are in the box, to their faces, and it is less than a voxel of the result larger."""
    voxel = np.array(volume.space.voxel_size_mm)
    lower, upper = np.array(volume.space.bounds.lower_mm), np.array(volume.space.bounds.upper_mm)
    margin = margin_vox * voxel + margin_mm
    excess = np.stack([outer[0] - margin - lower, upper - outer[1] - margin])
    assert (excess > -1e-4 * voxel).all(), excess
    assert (excess < (1 + 1e-3) * voxel).all(), excess
    assert (centres[0] > lower).all() and (centres[1] < upper).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("select", "acronym", "transforms"),
    [
        ((382,), None, ()),
        (("CA1",), None, ()),
        (("Field CA1",), None, ()),
        (("TH",), "TH", ()),
        (("MOB",), None, ()),
        ((382,), None, TO_TEMPLATE),
        (("TH",), "TH", TO_TEMPLATE),
        (("MOB",), None, TO_TEMPLATE),
    ],
)
def test_a_region_is_where_a_search_of_all_voxels_finds_it(
    select: tuple[str | int, ...],
    acronym: str | None,
    transforms: tuple[str, ...],
    registered_file: Path,
    brain_data: Path,
    annotation: nibabel.Nifti1Image,
    allen_parts: Callable[[str], set[int]],
) -> None:
    """MOB reaches to the field's edge."""
    ids = sorted(allen_parts(acronym)) if acronym else [507 if select == ("MOB",) else 382]
    mask = np.isin(np.asarray(annotation.dataobj), ids)
    assert mask.sum() > 5000
    there, back = [], []
    if transforms:
        affine = sitk.ReadTransform(str(brain_data / AFFINE))
        there = [read_field(brain_data / INVERSE_WARP), affine.GetInverse()]
        back = [affine, read_field(brain_data / WARP)]
    outer, centres = faces(mask, annotation.affine, *there)
    region = {"labels_channel": "atlas", "select": select, "include_descendants": acronym is not None}
    request = {"path": registered_file, "channel": "autofluo", "level": 0, "transforms": transforms, "resolution_mm": 0.09}
    fields: dict[str, Any] = request | ({} if transforms else {"resolution_mm": None})
    plain = volume_of(**fields, region=RegionSelection(**region))
    assert_box_fits(plain, outer, centres)
    if isinstance(select[0], str) and select[0].endswith("CA1"):
        return
    for margin in ({"margin_mm": 0.1, "margin_vox": 1}, *([] if transforms else [{"margin_mm": 0.23}, {"margin_vox": 2}])):
        assert_box_fits(volume_of(**fields, region=RegionSelection(**region, **margin)), outer, centres, **margin)
    if select == ("MOB",):
        return
    masked = volume_of(**fields, region=RegionSelection(**region, mask=True), fill=7)
    inside = nearest_mask(mask, annotation.affine, masked, *back)
    np.testing.assert_array_equal(masked.array[inside == 1], plain.array[inside == 1])
    assert (masked.array[inside == 0] == 7).all()
    assert (inside == 1).sum() > 5000
    assert (inside == 2).mean() < 0.3
    if transforms:
        assert not (inside == 2).any()
    # The median of R over all labelled voxels.
    middle = np.median(nibabel.affines.apply_affine(annotation.affine, np.argwhere(np.asarray(annotation.dataobj)))[:, 0])
    right = np.indices(mask.shape)[0] * annotation.affine[0, 0] >= middle - 1e-9
    for side, part in (("left", mask & ~right), ("right", mask & right)):
        plain, masked = (
            volume_of(**fields, region=RegionSelection(**region, mask=mask, side=side), fill=7) for mask in (False, True)
        )
        assert_box_fits(plain, *faces(part, annotation.affine, *there))
        inside = nearest_mask(part, annotation.affine, plain, *back)
        np.testing.assert_array_equal(masked.array[inside == 1], plain.array[inside == 1])
        assert (masked.array[inside == 0] == 7).all()


@pytest.mark.slow
@pytest.mark.parametrize(("select", "size"), [("CA1", 0.21), ("MOB", 0.21), ("scattered", 0.09)])
def test_a_region_is_found_through_a_field_that_has_no_inverse(
    select: str, size: float, registered_file: Path, brain_data: Path, annotation: nibabel.Nifti1Image
) -> None:
    """Every voxel of the whole is asked by SimpleITK: none of the region's is left out, and the box reaches hardly further."""
    ids = np.asarray(annotation.dataobj)
    numbers, counts = np.unique(ids, return_counts=True)
    few = numbers[np.argsort(counts, kind="stable")][:3]
    chosen = {"CA1": [382], "MOB": [507], "scattered": few.tolist()}[select]
    parts = [sitk.ReadTransform(str(brain_data / AFFINE)), read_field(brain_data / WARP)]
    chain = (TO_TEMPLATE[0], str(brain_data / WARP))
    fields: dict[str, Any] = {"path": registered_file, "channel": "atlas", "resolution_mm": size, "interpolation": "nearest"}
    fields["reference"] = str(brain_data / "template_100um.nii.gz")
    whole = volume_of(**fields, transforms=chain)
    middle = np.median(nibabel.affines.apply_affine(annotation.affine, np.argwhere(ids))[:, 0])
    right = np.indices(ids.shape)[0] * annotation.affine[0, 0] >= middle - 1e-9
    # A region may reach out of the reference.
    beyond = whole.space.crop([-8] * 3, [n + 8 for n in whole.array.shape])
    for side, half in ((None, np.ones(ids.shape, bool)), ("left", ~right), ("right", right)):
        part = np.isin(ids, chosen) & half
        if not part.any():
            continue
        found = carried_mask(part, annotation.affine, beyond.world_from_voxel, beyond.shape, parts)
        region = {"labels_channel": "atlas", "select": chosen, "include_descendants": False, "side": side}
        masked = volume_of(**fields, transforms=chain, region=RegionSelection(**region, mask=True), fill=0)
        assert np.count_nonzero(masked.array) == np.count_nonzero(found) > 0
        places = np.argwhere(found)
        wide = volume_of(**fields, transforms=chain, region=RegionSelection(**region, margin_vox=2)) if side is None else None
        for margin, volume in ((0, masked), (2, wide)):
            if volume is None:
                continue
            start = np.rint(beyond.to_voxel([volume.space.first_voxel_mm])[0]).astype(int)
            np.testing.assert_allclose(beyond.to_world([start])[0], volume.space.first_voxel_mm, atol=1e-6)
            stop = start + volume.array.shape
            excess = np.stack([places.min(axis=0) - start, stop - 1 - places.max(axis=0)]) - margin
            assert (excess >= 0).all() and (excess <= 1).all(), excess
        # The quicker way, along the outline through the stored inverse, comes to the same but for what that inverse is off.
        quick = volume_of(**fields, transforms=TO_TEMPLATE, region=RegionSelection(**region))
        for one, other in zip(quick.space.bounds.corners[[0, -1]], masked.space.bounds.corners[[0, -1]], strict=True):
            assert (np.abs(one - other) < 1.01 * size).all()


def carried_mask(mask: Array, affine: Array, grid: Array, shape: Sequence[int], parts: list[sitk.Transform]) -> Array:
    """Which voxels of a grid SimpleITK finds in a mask."""
    images = []
    for array, place in ((mask, affine), (np.zeros(shape, bool), grid)):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T, np.uint8))
        spacing = np.linalg.norm(place[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetOrigin((place[:3, 3] * LPS).tolist())
        image.SetDirection((place[:3, :3] / spacing * LPS[:, None]).ravel().tolist())
        images.append(image)
    carried = sitk.Resample(images[0], images[1], sitk.CompositeTransform(parts), sitk.sitkNearestNeighbor)
    return sitk.GetArrayFromImage(carried).T != 0


def test_the_sides_of_a_region_are_all_of_it(registered_file: Path, annotation: nibabel.Nifti1Image) -> None:
    """Of the labels themselves, at their own resolution."""
    ids = np.asarray(annotation.dataobj)
    found = np.zeros(ids.shape, int)
    for side in ("left", "right"):
        region = RegionSelection(labels_channel="atlas", select="CA1", mask=True, side=side)
        volume = volume_of(path=registered_file, channel="atlas", region=region)
        start = np.rint(np.array(volume.space.first_voxel_mm) / 0.1).astype(int)
        found[tuple(slice(a, a + n) for a, n in zip(start, volume.array.shape, strict=True))] += volume.array == 382
        assert set(np.unique(volume.array)) == {0, 382}
    np.testing.assert_array_equal(found, ids == 382)


def test_labels_that_live_in_the_output(registered_file: Path, brain_data: Path) -> None:
    labels = nibabel.load(registered_file.parent / "template_atlas.nii.gz")
    mask = np.asarray(labels.dataobj) == 382
    region = {"labels_channel": "template_atlas", "select": "CA1", "labels_in": "output"}
    fields = {"path": registered_file, "channel": "cfos", "transforms": ("signal_to_structural", *TO_TEMPLATE)}
    plain = volume_of(**fields, region=RegionSelection(**region), reference=str(brain_data / "template_100um.nii.gz"))
    masked = volume_of(**fields, region=RegionSelection(**region, mask=True), reference="template_atlas", fill=3)
    low = np.argwhere(mask).min(axis=0)
    np.testing.assert_allclose(masked.space.world_from_voxel[:3, 3], low * 0.1, atol=1e-6)
    box = mask[tuple(slice(a, b + 1) for a, b in zip(low, np.argwhere(mask).max(axis=0), strict=True))]
    np.testing.assert_array_equal(masked.array, np.where(box, plain.array, 3))


def test_a_region_all_over_an_oblique_image_keeps_to_its_box(specimen: Specimen) -> None:
    array, affine = specimen.levels[0]
    region = RegionSelection(labels_channel="labels", select=(0, 1, 2, 3), mask=True, margin_vox=1)
    volume = volume_of(path=specimen.path, channel="image", region=region, resolution_mm=0.11, level=0, antialias=False, fill=9)
    outer, centres = faces(np.ones(array.shape, bool), affine)
    assert_box_fits(volume, outer, centres, margin_vox=1)
    expected = by_itk(array, affine, volume.array.shape, volume.space.world_from_voxel, fill=9)
    assert_rounded(volume.array, expected)


# --- planes ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_planes_are_those_of_the_whole(axis: int, suffix: str, registered_file: Path, tmp_path: Path) -> None:
    fields = {"path": registered_file, "channel": "autofluo", "transforms": TO_TEMPLATE, "resolution_mm": (0.4, 0.5, 0.45)}
    whole = np.moveaxis(volume_of(**fields).array, axis, 0)
    step = 1 + axis
    roi = {"start": 7, "stop": -6, "step": step, "roi": (3, 5, 11, 9)}
    for name, options, part in (("all", {}, whole), ("some", roi, whole[7:-6:step, 5:14, 3:14])):
        output = tmp_path / name / f"s_%04d.{suffix}"
        shades = {"contrast": "full"} if suffix == "png" else {}
        result = export_slices(SlicesRequest(**fields, axis=axis, output=output, as_stored=True, **options, **shades))
        files = sorted((tmp_path / name).iterdir())
        assert files == sorted(result.paths)
        first = options.get("start", 0)
        assert [int(file.stem[2:]) for file in files] == [first + step * k if options else k for k in range(len(part))]
        read = tifffile.imread if suffix == "tif" else lambda file: imagecodecs.png_decode(file.read_bytes())
        expected = part if suffix == "tif" else np.rint(part / 257)
        np.testing.assert_array_equal(np.stack([read(file) for file in files]), expected)
    indices, planes = zip(*iter_slices(SlicesRequest(**fields, axis=axis, as_stored=True, **roi)), strict=True)
    assert indices == tuple(range(7, whole.shape[0] - 6, step))
    np.testing.assert_array_equal(np.stack(planes), whole[7:-6:step, 5:14, 3:14])


@pytest.mark.parametrize(
    "name",
    ["plane.tif", "s_%d_%d.tif", "s_%s.tif", "s_%x.tif", "s_%04d%.tif", "s_%%d.tif", "s_%(a)d.tif", "s_%*d.tif", "s_{0}.tif"],
)
def test_names_without_just_one_number_are_refused(name: str, registered_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected 1 number\(s\) in the name"):
        export_slices(SlicesRequest(path=registered_file, channel="atlas", output=tmp_path / name))
    assert list(tmp_path.iterdir()) == []


def test_names_are_taken_as_they_are(registered_file: Path, tmp_path: Path) -> None:
    """Nothing but the number is put in, neither in the name nor in the folder."""
    folder = tmp_path / "%d {0} $HOME ~"
    export_slices(SlicesRequest(path=registered_file, channel="atlas", output=folder / "{0} $HOME %03d.tif", start=5, stop=6))
    assert [path.name for path in folder.iterdir()] == ["{0} $HOME 005.tif"]


# --- chunks and what is made of them --------------------------------------------------------------------------------------------


def read_output(path: Path, shape: Sequence[int]) -> Array:
    """An output as its format's customary library reads it, in the array order of the export; tifffile leaves out axes of 1."""
    name = path.name
    if name.endswith((".nii", ".nii.gz")):
        array = np.asarray(nibabel.load(path).dataobj)
        return array if array.ndim == 3 else array[:, :, :, 0] * LPS.astype(array.dtype)
    if name.endswith((".nrrd", ".mha")):
        array = itk_array(sitk.ReadImage(str(path)))
        return array if array.ndim == 3 else array * LPS.astype(array.dtype)
    if name.endswith(".tif"):
        return tifffile.imread(path).reshape(shape)
    if name.endswith(".zarr"):
        return np.asarray(zarr.open_group(path, mode="r")["0"])
    return np.load(path)


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32),
    orientation=st.sampled_from(["RAS", "LPS", "AIR", "IPL", "native"]),
    suffix=st.sampled_from(["nii.gz", "nii", "nrrd", "mha", "tif", "ome.tif", "npy", "ome.zarr"]),
    way=st.sampled_from(["copy", "affine", "field"]),
    channel=st.sampled_from(["image", "labels"]),
)
@settings(deadline=None, max_examples=examples(5))
def test_chunks_are_the_whole_and_the_manifest_is_true(
    seed: int,
    orientation: str,
    suffix: str,
    way: str,
    channel: str,
    specimen: Specimen,
    registered_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("chunks")
    if way == "copy":
        fields = {"path": registered_file, "channel": "atlas", "output_orientation": orientation}
        size, overlap = rng.uniform(3, 9, 3), rng.uniform(0, 1.5, 3)
    else:
        affine = random_affine_file(rng, folder, specimen.levels[0][1][:3] @ (11, 132, 15, 1))[0]
        orientation = "RAS" if orientation == "native" else orientation
        fields = {"path": specimen.path, "channel": channel, "output_orientation": orientation, "resolution_mm": 0.2}
        fields["transforms"] = (affine,) if way == "affine" else ("field", affine)
        size, overlap = rng.uniform(1, 3, 3), rng.uniform(0, 0.9, 3)
    whole = volume_of(**fields)
    output = folder / "out" / f"c_%d_%02d_%d.{suffix}"
    request = ExportRequest(**fields, grid=(0, 0, 0), size_mm=tuple(size), overlap_mm=tuple(overlap), output=output)
    result = export_chunks(request)
    manifest = json.loads(result.manifest.read_text())
    assert manifest["kind"] == ("image" if channel == "image" and way != "copy" else "labels")
    assert len(manifest["chunks"]) == result.count
    voxel = 0.1 if way == "copy" else 0.2
    assert manifest["chunk_voxels_ras"] == np.rint(size / voxel).astype(int).tolist()
    assert manifest["overlap_voxels_ras"] == np.rint(overlap / voxel).astype(int).tolist()
    assert manifest["shape"] == list(whole.array.shape)
    np.testing.assert_allclose(manifest["world_from_voxel"], whole.space.world_from_voxel)
    seen = np.zeros(whole.array.shape, int)
    for chunk in manifest["chunks"]:
        path = result.manifest.with_name(chunk["file"])
        if path.is_file():
            assert chunk["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        box = tuple(slice(a, a + n) for a, n in zip(chunk["start"], chunk["shape"], strict=True))
        array = read_output(path, chunk["shape"])
        np.testing.assert_array_equal(array, whole.array[box])
        seen[box] += 1
        affine = np.array(chunk["world_from_voxel"])
        corner = nibabel.affines.apply_affine(whole.space.world_from_voxel, chunk["start"])
        np.testing.assert_allclose(nibabel.affines.apply_affine(affine, (0, 0, 0)), corner, atol=1e-9)
        ends = nibabel.affines.apply_affine(affine, [(-0.5, -0.5, -0.5), np.array(chunk["shape"]) - 0.5])
        np.testing.assert_allclose(chunk["origin_mm"], ends.min(axis=0), atol=1e-6)
        np.testing.assert_allclose(chunk["size_mm"], np.ptp(ends, axis=0), atol=1e-6)
        if "nii" in suffix:
            np.testing.assert_allclose(nibabel.load(path).affine, affine, atol=1e-4)
    assert seen.min() == 1
    numbers = np.array([chunk["index_ras"] for chunk in manifest["chunks"]])
    assert (seen.max() > 1) == bool(((np.rint(overlap / voxel) > 0) & (numbers.max(axis=0) > 0)).any())
    # Numbers count along R, A and S.
    origins = np.array([chunk["origin_mm"] for chunk in manifest["chunks"]])
    for axis in range(3):
        assert (np.diff(origins[np.argsort(numbers[:, axis], kind="stable"), axis]) > -1e-6).all()
    for chunk, row in zip(iter_chunks(request), manifest["chunks"], strict=True):
        assert list(chunk.box.starts) == row["start"]
        box = tuple(slice(a, b) for a, b in zip(chunk.box.starts, chunk.box.stops, strict=True))
        np.testing.assert_array_equal(chunk.volume.array, whole.array[box])
    merge_chunks(MergeRequest(manifest=result.manifest, output=folder / f"merged.{suffix}"))
    np.testing.assert_array_equal(read_output(folder / f"merged.{suffix}", whole.array.shape), whole.array)


def test_a_grid_of_given_chunks_begins_at_its_origin(registered_file: Path) -> None:
    request = {"path": registered_file, "channel": "autofluo", "level": 0, "resolution_mm": 0.1, "antialias": False}
    grid = {"grid": (2, 1, 3), "origin_mm": (2, 3, 1), "size_mm": (1, 0.8, 0.5), "overlap_mm": (0.2, 0, 0.1)}
    chunks = list(iter_chunks(ExportRequest(**request, **grid)))
    assert len(chunks) == 6
    whole = volume_of(**request, origin_mm=(2, 3, 1), size_mm=(1.8, 0.8, 1.3)).array
    for chunk in chunks:
        i, j, k = chunk.box.index
        np.testing.assert_allclose(chunk.volume.space.bounds.lower_mm, (2 + 0.8 * i, 3 + 0.8 * j, 1 + 0.4 * k), atol=1e-9)
        assert chunk.volume.array.shape == (10, 8, 5)
        np.testing.assert_array_equal(chunk.volume.array, whole[8 * i : 8 * i + 10, :, 4 * k : 4 * k + 5])


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_merge_of_vectors_is_the_field(in_memory: bool, registered_file: Path, tmp_path: Path) -> None:
    fields = {"path": registered_file, "channel": "warp"}
    export_chunks(ExportRequest(**fields, grid=(0, 0, 0), size_mm=4, overlap_mm=0.5, output=tmp_path / "chunks"))
    memory, too_little = 2 * 10**9, 10**6
    # Where there is just enough for the work, there is none for the whole.
    while not in_memory and memory - too_little > 1000:
        middle = (memory + too_little) // 2
        try:
            plan = plan_merge(MergeRequest(manifest=tmp_path / "chunks", output=tmp_path / "x.nii", memory_bytes=middle))
            memory = middle
        except MemoryBudgetError:
            too_little = middle
    assert in_memory or not plan.in_memory
    for name in ("merged.nii", "merged.mha"):
        merge_chunks(MergeRequest(manifest=tmp_path / "chunks", output=tmp_path / name, memory_bytes=memory))
        export_channel(ExportRequest(**fields, output=tmp_path / f"one_{name}"))
        assert (tmp_path / name).read_bytes() == (tmp_path / f"one_{name}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "chunks",
        "merged.mha",
        "merged.nii",
        "one_merged.mha",
        "one_merged.nii",
    ]


def test_what_lies_near_a_chunks_edge_is_taken_from_its_neighbour(registered_file: Path, tmp_path: Path) -> None:
    """Results that are wrong in the outer half of each overlap, as those of a filter are."""
    fields = {"path": registered_file, "channel": "atlas", "output_orientation": "LSA"}
    whole = volume_of(**fields).array
    chunks = tmp_path / "chunks"
    export_chunks(ExportRequest(**fields, grid=(0, 0, 0), size_mm=4, overlap_mm=0.8, output=chunks))
    for chunk in json.loads((chunks / "manifest.json").read_text())["chunks"]:
        (chunks / chunk["file"]).unlink()
        spoilt = np.full(chunk["shape"], 9999, np.uint16)
        inner = [
            (start + 4 * (start > 0), start + size - 4 * (start + size < n))
            for start, size, n in zip(chunk["start"], chunk["shape"], whole.shape, strict=True)
        ]
        kept = tuple(slice(a - start, b - start) for (a, b), start in zip(inner, chunk["start"], strict=True))
        spoilt[kept] = whole[tuple(slice(*ends) for ends in inner)]
        np.save(chunks / chunk["file"].replace(".nii.gz", ".npy"), spoilt)
    merge_chunks(MergeRequest(manifest=chunks, output=tmp_path / "merged.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "merged.npy"), whole)


@pytest.mark.parametrize("suffix", ["nii.gz", "tif", "npy", "mha"])
def test_blobs_that_were_numbered_in_chunks_are_numbered_once(suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    shape = (60, 66, 54)
    truth, index = np.zeros(shape, np.int32), np.indices(shape)
    for label in range(1, 60):
        radius = rng.uniform(1.5, 4.4)
        distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(index, rng.uniform(0, shape), strict=True)))
        apart = (distance < radius + 1.5) & (truth > 0)
        if not apart.any():
            truth[distance < radius] = label
    ingest_channel(
        IngestRequest(
            path=tmp_path / "x.h5", channel="x", image=(truth > 0).astype(np.uint8), voxel_size_mm=(1, 1, 1), orientation="SAL"
        )
    )
    export_chunks(
        ExportRequest(path=tmp_path / "x.h5", channel="x", grid=(0, 0, 0), size_mm=30, overlap_mm=10, output=tmp_path / "chunks")
    )
    manifest = json.loads((tmp_path / "chunks" / "manifest.json").read_text())
    results = tmp_path / "results"
    results.mkdir()
    turned = truth.transpose(2, 1, 0)[::-1]
    for chunk in manifest["chunks"]:
        box = tuple(slice(a, a + n) for a, n in zip(chunk["start"], chunk["shape"], strict=True))
        ids = turned[box]
        # As any segmentation would: ids from 1, in some order of its own.
        names = rng.permutation(np.unique(ids[ids > 0]))
        table = np.zeros(truth.max() + 1, np.uint16)
        table[names] = np.arange(1, len(names) + 1)
        name = results / chunk["file"].replace(".nii.gz", f".{suffix}")
        if suffix == "tif":
            tifffile.imwrite(name, table[ids])
        elif suffix == "npy":
            np.save(name, table[ids])
        elif suffix == "mha":
            sitk.WriteImage(itk_image(table[ids], np.eye(4)), str(name))
        else:
            nibabel.save(nibabel.Nifti1Image(table[ids], np.eye(4)), name)
    result = merge_chunks(
        MergeRequest(manifest=tmp_path / "chunks", results=results, kind="labels", relabel=True, output=tmp_path / "merged.nii.gz")
    )
    merged = np.asarray(nibabel.load(tmp_path / "merged.nii.gz").dataobj)
    pairs = np.unique(np.stack([turned.ravel(), merged.ravel()]), axis=1)
    blobs = np.unique(truth).size
    assert blobs > 25
    assert pairs.shape[1] == blobs, "a blob has several labels, or a label several blobs"
    assert result.labels == blobs - 1
    assert sorted(np.unique(merged)) == list(range(blobs))


def test_results_that_do_not_fit_are_named(registered_file: Path, tmp_path: Path) -> None:
    chunks, output = tmp_path / "chunks", tmp_path / "merged.nii"
    export_chunks(ExportRequest(path=registered_file, channel="atlas", grid=(0, 0, 0), size_mm=8, overlap_mm=1, output=chunks))
    request = {"manifest": chunks, "output": output}
    first, second = sorted(chunks.glob("*.nii.gz"))[:2]
    image = nibabel.load(first)
    array = np.asarray(image.dataobj)
    results = tmp_path / "results"
    results.mkdir()
    with pytest.raises(InputError, match=r"chunk_00_00_00\.\*: not there.*"):
        merge_chunks(MergeRequest(**request, results=results))
    for path in chunks.glob("*.nii.gz"):
        shutil.copy(path, results)
    tifffile.imwrite(results / "chunk_00_00_00.tif", array)
    with pytest.raises(InputError, match=r"chunk_00_00_00\.\*: several: chunk_00_00_00\.nii\.gz, chunk_00_00_00\.tif"):
        merge_chunks(MergeRequest(**request, results=results))
    (results / "chunk_00_00_00.tif").unlink()
    (results / first.name).unlink()
    for wrong, message in (
        (array[:-1], r"chunk_00_00_00\.npy: has shape"),
        (
            array[..., None].repeat(3, axis=3),
            r"chunk_00_01_00\.nii\.gz: has voxels of type uint16, chunk_00_00_00\.npy of uint16 x 3",
        ),
        (array.astype(np.float64), r"has voxels of type uint16, chunk_00_00_00\.npy of float64"),
    ):
        np.save(results / "chunk_00_00_00.npy", wrong)
        with pytest.raises(SourceError, match=message):
            merge_chunks(MergeRequest(**request, results=results))
    np.save(results / "chunk_00_00_00.npy", np.array([None]), allow_pickle=True)
    with pytest.raises(SourceError, match="cannot be read"):
        merge_chunks(MergeRequest(**request, results=results))
    (results / "chunk_00_00_00.npy").unlink()
    with pytest.raises(InputError, match="nowhere"):
        merge_chunks(MergeRequest(**request, results=tmp_path / "nowhere"))
    with pytest.raises(StorageError, match="no folder"):
        merge_chunks(MergeRequest(manifest=chunks, output=tmp_path / "nowhere" / "x.nii"))
    with pytest.raises(InputError, match="is no manifest of chunks"):
        merge_chunks(MergeRequest(manifest=second, output=output))
    output.write_text("precious")
    with pytest.raises(ExistsError, match="exists already"):
        merge_chunks(MergeRequest(**request))
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        merge_chunks(MergeRequest(**request, overwrite=True), cancel=token)
    assert output.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chunks", "merged.nii", "results"]
