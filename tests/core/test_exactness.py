"""Exports judged by others: SimpleITK, ANTs, nibabel, BrainGlobe, and plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ants
import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lsfm_core import (
    ExportRequest,
    IngestRequest,
    InputError,
    RegionSelection,
    Volume,
    export_channel,
    ingest_channel,
)

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


@pytest.mark.parametrize("channel", ["autofluo", "cfos"])
def test_a_channel_in_the_template_is_what_ants_makes_of_it(
    channel: str, atlas_file: Path, brain_data: Path, template: nibabel.Nifti1Image, request: pytest.FixtureRequest
) -> None:
    files, names, fixture = [AFFINE, WARP], TO_TEMPLATE, "structural"
    if channel == "cfos":
        files, names, fixture = [SIGNAL, *files], ("signal_to_structural", *names), "signal"
    array, affine = request.getfixturevalue(fixture)
    volume = volume_of(
        path=atlas_file,
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
    atlas_file: Path, brain_data: Path, annotation: nibabel.Nifti1Image
) -> None:
    labels = nibabel.load(atlas_file.parent / "template_atlas.nii.gz")
    ids = np.asarray(labels.dataobj)
    fields = {"path": atlas_file, "channel": "template_atlas", "reference": "atlas"}
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
    atlas_file: Path, brain_data: Path, template: nibabel.Nifti1Image, annotation: nibabel.Nifti1Image
) -> None:
    labels = nibabel.load(atlas_file.parent / "template_atlas.nii.gz")
    volume = volume_of(path=atlas_file, channel="template_atlas", reference="atlas", transforms="structural_to_template:invert")
    inverse = sitk.ReadTransform(str(brain_data / AFFINE)).GetInverse()
    expected = by_itk(np.asarray(labels.dataobj), labels.affine, annotation.shape, annotation.affine, inverse, "nearest")
    np.testing.assert_array_equal(volume.array, expected)


def test_transforms_from_files_are_those_that_are_stored(
    atlas_file: Path, brain_data: Path, tmp_path: Path, template: nibabel.Nifti1Image
) -> None:
    affine, field = sitk.ReadTransform(str(brain_data / AFFINE)), sitk.ReadImage(str(brain_data / WARP))
    for name in ("affine.txt", "affine.tfm", "affine.mat"):
        sitk.WriteTransform(affine, str(tmp_path / name))
    for name in ("warp.nii", "warp.nrrd", "warp.mha"):
        sitk.WriteImage(field, str(tmp_path / name))
    both = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))])
    sitk.WriteTransform(both, str(tmp_path / "both.h5"))
    nibabel.save(nibabel.Nifti1Image(np.zeros(template.shape, np.uint8), template.affine), tmp_path / "grid.nii")
    fields = {"path": atlas_file, "channel": "autofluo", "reference": str(tmp_path / "grid.nii"), "resolution_mm": 0.2}
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
    volumes = [volume_of(path=atlas_file, channel="autofluo", **grid, **chain).array.astype(int) for chain in (there, {})]
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


@settings(deadline=None, max_examples=25)
@given(
    kinds=st.text("AF", max_size=3),
    level=st.integers(0, 1),
    method=st.sampled_from(["linear", "linear", "nearest", "bspline"]),
    fill=st.sampled_from([0, 7, 65535]),
    block=st.integers(60, 3000),
    memory=st.integers(195_000_000, 400_000_000),
    mask=st.booleans(),
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
    try:
        whole = volume_of(**request)
    except InputError as error:
        assume("outside" not in str(error) and "covers" not in str(error))
        raise
    with pytest.MonkeyPatch.context() as patch:
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


def test_blocks_agree_where_voxels_lie_on_faces_and_halfway(atlas_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Round numbers, of which rounding could go either way: every block must go the same."""
    requests: list[dict[str, Any]] = [
        {"channel": "cfos", "resolution_mm": 0.15, "level": 0, "transforms": "signal_to_structural", "reference": "autofluo"},
        {"channel": "autofluo", "resolution_mm": (0.08, 0.1, 0.1), "level": 0, "antialias": False},
        {"channel": "atlas", "resolution_mm": 0.05, "origin_mm": (2, 3, 1), "size_mm": 2.5},
        {"channel": "atlas", "resolution_mm": 0.2, "level": 0},
        {"channel": "atlas", "resolution_mm": 0.2, "level": 0, "interpolation": "mode"},
        {"channel": "autofluo", "resolution_mm": 0.2, "transforms": TO_TEMPLATE, "level": 0},
        {"channel": "warp", "resolution_mm": 0.25, "origin_mm": (1, 1, 1), "size_mm": 4},
    ]
    for fields in requests:
        whole = volume_of(path=atlas_file, **fields).array
        with monkeypatch.context() as patch:
            patch.setattr("lsfm_core.export.plan._BLOCK_VOXELS", 2500)
            np.testing.assert_array_equal(volume_of(path=atlas_file, **fields, memory_bytes=250_000_000).array, whole, str(fields))


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
    # By four it is the mode of modes, as in the levels of a pyramid; a plain count of sixteen may tell otherwise.
    volume = volume_of(**request, resolution_mm=(0.1, 0.08, 0.48))
    np.testing.assert_array_equal(volume.array[:, :, :5], most_frequent(halved))


@pytest.mark.parametrize("channel", ["autofluo", "cfos"])
def test_bsplines_in_blocks_are_those_of_the_whole(
    channel: str, atlas_file: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    array, affine = request.getfixturevalue({"autofluo": "structural", "cfos": "signal"}[channel])
    monkeypatch.setattr("lsfm_core.export.plan._BLOCK_VOXELS", 9000)
    volume = volume_of(
        path=atlas_file,
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
    fill: int, snap: bool, atlas_file: Path, structural: tuple[Array, Array]
) -> None:
    """The image's outer corner is half a voxel below 0: at R -0.02, A -0.025, S -0.02."""
    array, affine = structural
    ras = array.transpose(2, 0, 1)[:, :, ::-1]
    fields = {"path": atlas_file, "channel": "autofluo", "level": 0, "fill": fill, "size_mm": (0.4, 0.5, 0.4)}
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
@settings(deadline=None, max_examples=15)
def test_a_cuboid_is_where_it_was_asked_for(
    origin: tuple[int, int, int], size: tuple[int, int, int], resolution: float, atlas_file: Path, structural: tuple[Array, Array]
) -> None:
    array, affine = structural
    origin_mm, size_mm = np.array(origin) * 0.04 + 0.003, np.array(size) * 0.041
    request = {"path": atlas_file, "channel": "autofluo", "level": 0, "antialias": False, "resolution_mm": resolution}
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
