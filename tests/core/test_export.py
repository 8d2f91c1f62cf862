"""Whole images out in RAS, against nibabel and SimpleITK."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsfm_core import (
    CancelledError,
    CancelToken,
    ExistsError,
    ExportRequest,
    IngestRequest,
    InputError,
    LsfmError,
    MemoryBudgetError,
    StorageError,
    UnknownChannelError,
    export_channel,
    ingest_channel,
    open_lsfm,
    plan_export,
)
from lsfm_core.export._blocks import iter_slabs
from lsfm_core.progress import Progress
from lsfm_core.testing import write_series

from .effort import examples
from .test_geometry import CODES


@pytest.fixture(scope="module")
def brain(brain_data: Path) -> np.ndarray:
    return np.stack([tifffile.imread(plane) for plane in sorted((brain_data / "structural_tiff").iterdir())])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_native_resolution_is_a_transposition_bit_for_bit(suffix: str, brain: np.ndarray, brain_file: Path, tmp_path: Path) -> None:
    output = tmp_path / f"brain{suffix}"
    export_channel(ExportRequest(path=brain_file, channel="autofluo", output=output))
    image = nibabel.load(output)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.get_data_dtype() == np.uint16
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.header.get_zooms(), (0.04, 0.05, 0.04), rtol=1e-6)
    np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(image.dataobj), brain.transpose(2, 0, 1)[:, :, ::-1])
    # ITK reads the same geometry from its own side.
    origin = sitk.ReadImage(str(output)).TransformIndexToPhysicalPoint((0, 0, 0))
    np.testing.assert_allclose(origin, (0, 0, 0), atol=1e-5)


@given(code=st.sampled_from(CODES), target=st.sampled_from(CODES), level=st.integers(0, 1))
@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_landmark_keeps_its_place_in_every_orientation(
    code: str, target: str, level: int, tmp_path: Path, ingest_series: Callable[..., Any]
) -> None:
    folder = tmp_path / "landmark"
    volume = np.zeros((20, 270, 31), np.uint16)
    volume[6:8, 40:42, 10:12] = 1000
    if not folder.exists():
        write_series(folder, volume)
    path = tmp_path / f"{code}.h5"
    if not path.exists():
        ingest_series(folder, path=path, orientation=code, voxel_size_mm=(0.3, 0.1, 0.2), origin_mm=(1, -2, 3))
    result = export_channel(ExportRequest(path=path, channel="signal", level=level, output_orientation=target)).volume
    assert result is not None
    assert "".join(nibabel.aff2axcodes(result.space.world_from_voxel)) == target
    found = np.argwhere(result.array > 0).mean(axis=0)
    with open_lsfm(path) as file:
        native = file["signal"].space.world_from_voxel
    np.testing.assert_allclose(
        nibabel.affines.apply_affine(result.space.world_from_voxel, found),
        nibabel.affines.apply_affine(native, (6.5, 40.5, 10.5)),
        atol=1e-6,
    )


def whole_image_by_itk(array: np.ndarray, affine: np.ndarray, target: nibabel.Nifti1Image | Any) -> np.ndarray:
    """One SimpleITK resample of a whole image; geometry set up here from nibabel's affines, not by the code under test."""

    def itk(data: np.ndarray, ras: np.ndarray) -> sitk.Image:
        image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
        lps = np.diag([-1, -1, 1, 1]) @ ras
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        return image

    reference = itk(np.zeros(target.array.shape, np.uint8), target.space.world_from_voxel)
    result = sitk.Resample(itk(array, affine), reference, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    return sitk.GetArrayFromImage(result).T


@pytest.mark.slow
@pytest.mark.parametrize(
    ("resolution", "level", "memory"),
    [
        (0.1, None, 10**9),
        (0.1, None, 205_000_000),
        (0.04, None, 10**9),
        ((0.07, 0.11, 0.05), 0, 10**9),
        ((0.07, 0.11, 0.05), 0, 230_000_000),
        (0.06, 1, 225_000_000),
    ],
)
def test_resampling_is_itks(resolution: Any, level: int | None, memory: int, brain_file: Path) -> None:
    request = ExportRequest(
        path=brain_file, channel="autofluo", resolution_mm=resolution, level=level, antialias=False, memory_bytes=memory
    )
    result = export_channel(request)
    assert result.volume is not None
    with open_lsfm(brain_file) as file:
        source = file["autofluo"].levels[result.plan.level.index]
        array, affine = np.asarray(source[...]), source.space.world_from_voxel
    expected = whole_image_by_itk(array, affine, result.volume)
    difference = np.abs(result.volume.array.astype(float) - np.rint(expected))
    # ITK counts one outer face of the image as outside; our voxels on it hold the outermost value.
    inside = difference[:-1, :-1, :-1]
    assert inside.max() <= 1
    assert (inside > 0).mean() < 1e-5


def test_grid_and_level_of_the_real_specimen(brain_file: Path, brain_data: Path) -> None:
    with open_lsfm(brain_file) as file:
        plan = plan_export(file, ExportRequest(path=brain_file, channel="autofluo", resolution_mm=0.1))
        assert plan.level.index == 1
        # The annotation that came with the specimen was made for just this grid.
        annotation = nibabel.load(brain_data / "annotation_in_structural_100um.nii.gz")
        assert plan.target.shape == annotation.shape
        assert plan_export(file, ExportRequest(path=brain_file, channel="autofluo", resolution_mm=0.09)).level.index == 0
        assert "posterior -> anterior" in plan.describe()


def test_coarse_exports_do_not_alias(tmp_path: Path, ingest_series: Callable[..., Any]) -> None:
    stripes = np.zeros((40, 40, 40), np.uint16)
    stripes[:, :, ::4] = 4000
    ingest_series(write_series(tmp_path / "stripes", stripes), voxel_size_mm=(1, 1, 1), orientation="RAS")
    fields = {"path": tmp_path / "brain.h5", "channel": "signal", "resolution_mm": 4.0}
    smooth = export_channel(ExportRequest(**fields))
    assert smooth.plan.reduction == (4, 4, 4)
    assert smooth.volume is not None
    np.testing.assert_array_equal(smooth.volume.array, 1000)
    plain = export_channel(ExportRequest(**fields, antialias=False)).volume
    assert plain is not None
    assert set(np.unique(plain.array)) == {0}


def test_blocks_leave_no_seam(brain_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"path": brain_file, "channel": "autofluo", "resolution_mm": (0.11, 0.13, 0.31), "level": 0}
    whole = export_channel(ExportRequest(**fields)).volume
    monkeypatch.setattr("lsfm_core.export.plan._BLOCK_VOXELS", 300)
    blocks = export_channel(ExportRequest(**fields))
    assert blocks.plan.block[0] < 12
    assert whole is not None
    assert blocks.volume is not None
    difference = np.abs(whole.array.astype(int) - blocks.volume.array)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-5


@pytest.mark.parametrize("shape", [(31, 3, 2), (2, 31, 3), (3, 2, 31), (5, 6, 5)])
def test_a_block_is_halved_along_any_axis(shape: tuple[int, int, int], tmp_path: Path) -> None:
    """Blocks that may hold next to nothing; the image's values are linear in its indices, and different along each."""
    full = np.indices((40, 40, 40)).astype(np.float32)
    image = full[0] + 64 * full[1] + 4096 * full[2]
    path = tmp_path / "a.h5"
    ingest_channel(IngestRequest(path=path, channel="a", image=image, voxel_size_mm=(1, 1, 1), orientation="RAS"))
    request = ExportRequest(path=path, channel="a", origin_mm=(1.7, 2.8, 3.9), size_mm=shape, resolution_mm=1.0)
    with open_lsfm(path) as file:
        plan = plan_export(file, request)
        assert plan.copy is None and plan.target.shape == shape
        first = plan.source.to_voxel([plan.target.world_from_voxel[:3, 3]])[0]
        place = np.indices(shape).astype(float) + first[:, None, None, None]
        expected = place[0] + 64 * place[1] + 4096 * place[2]
        # A voxel takes some tens of bytes, of the image around it and of ITK's.
        for room in (10**7, 4000):
            small = replace(plan, block_bytes=room)
            found = np.concatenate([slab.copy() for slab in iter_slabs(small, Progress("export", small.output_bytes))], plan.axis)
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        with pytest.raises(MemoryBudgetError, match="a single voxel needs more than"):
            list(iter_slabs(replace(plan, block_bytes=10), Progress("export", plan.output_bytes)))


@pytest.mark.parametrize(
    ("low", "size"), [((0, 0, 0), (1, 1, 1)), ((9, 9, 9), (6, 6, 6)), ((7, 0, 9), (2, 5, 14)), ((20, 3, 1), (3, 20, 30))]
)
def test_what_is_read_are_the_chunks_that_the_box_touches(
    low: tuple[int, int, int], size: tuple[int, int, int], tmp_path: Path
) -> None:
    """One voxel around it counts as well, which lies in the same chunks here."""
    shape, chunks = (25, 30, 35), (8, 8, 8)
    with h5py.File(tmp_path / "a.h5", "w") as raw:
        raw["s00/resolutions"], raw["s00/subdivisions"] = np.ones((1, 3)), np.full((1, 3), 8)
        raw.create_dataset("t00000/s00/0/cells", data=np.ones(shape, np.int16), chunks=chunks)
    origin = [(a - 0.5) * 1.0 for a in low]
    fields = {"orientation": "RAS", "voxel_size_mm": (1, 1, 1)}
    with open_lsfm(tmp_path / "a.h5") as file:
        name = next(iter(file))
        request = ExportRequest(path=tmp_path / "a.h5", channel=name, origin_mm=origin, size_mm=size, **fields)
        plan = plan_export(file, request)
    # By hand: every voxel of every chunk that has one in the box.
    touched = np.zeros(shape, bool)
    touched[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = True
    expected = 0
    for start in np.ndindex(4, 4, 5):
        chunk = touched[tuple(slice(8 * a, 8 * a + 8) for a in start)]
        expected += 2 * chunk.size * bool(chunk.any())
    assert plan.read_bytes == expected


def test_vectors_of_unknown_meaning_are_taken_out_as_they_stand(legacy_file: Path, tmp_path: Path) -> None:
    """What lsfmpy stored, and a field of our own."""
    with h5py.File(legacy_file) as raw:
        stored = raw["LSFM/inverse_warp/IMAGE/0/cells"][()]
    field = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
    own = tmp_path / "own.h5"
    placed = {"voxel_size_mm": (1, 1, 1), "orientation": "AIR"}
    ingest_channel(IngestRequest(path=own, channel="warp", image=field, kind="vectors", **placed))
    ingest_channel(IngestRequest(path=own, channel="image", image=field[..., 0], **placed))
    for path, name, kind in ((legacy_file, "inverse_warp", "components"), (own, "warp", "vectors"), (own, "image", "image")):
        with open_lsfm(path) as file:
            assert file[name].kind == ("image" if name == "image" else "vectors")
            guess = {"orientation": "RAS"} if path == legacy_file else {}
            request = ExportRequest(path=path, channel=name, output_orientation="native", **guess)
            assert plan_export(file, request).kind == kind
    found = export_channel(ExportRequest(path=legacy_file, channel="inverse_warp", orientation="RAS")).volume
    assert found is not None
    np.testing.assert_array_equal(found.array, stored)


def test_the_voxel_on_the_outer_face_has_the_outermost_value(brain_file: Path) -> None:
    # 13.5 mm at 1 mm give 14 voxels, the last one centred on the face.
    result = export_channel(ExportRequest(path=brain_file, channel="autofluo", resolution_mm=1.0)).volume
    assert result is not None
    assert result.array.shape == (11, 14, 8)
    assert result.array[:, -1].max() > 0


def test_an_oblique_channel_is_resampled_onto_an_axis_aligned_grid(
    tmp_path: Path, volume: np.ndarray, ingest_series: Callable[..., Any], series: Path
) -> None:
    ingest_series(series, voxel_size_mm=(1, 1, 1))
    path = tmp_path / "brain.h5"
    turn = np.array(sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, 0.3).GetMatrix()).reshape(3, 3)
    with h5py.File(path, "r+") as file:
        for level in file["LSFM/signal/IMAGE"].values():
            affine = level.attrs["world_from_voxel"]
            affine[:3] = turn @ affine[:3]
            level.attrs["world_from_voxel"] = affine
        del file["LSFM_DIGESTS"]
    result = export_channel(ExportRequest(path=path, channel="signal"))
    assert result.volume is not None
    assert result.volume.space.is_axis_aligned
    with open_lsfm(path) as file:
        affine = file["signal"].space.world_from_voxel
        inside = file["signal"].space.bounds
    np.testing.assert_allclose(result.volume.space.bounds.lower_mm, inside.lower_mm, atol=0.51)
    expected = np.rint(whole_image_by_itk(volume, affine, result.volume))
    difference = np.abs(result.volume.array.astype(float) - expected)[1:-1, 1:-1, 1:-1]
    assert (difference > 1).mean() < 1e-5
    native = export_channel(ExportRequest(path=path, channel="signal", output_orientation="native")).volume
    assert native is not None
    np.testing.assert_array_equal(native.array, volume)
    np.testing.assert_allclose(native.space.world_from_voxel, affine)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i4", "f4", "f8", "u8", "i8"])
def test_types_survive_interpolation(dtype: str, tmp_path: Path, ingest_series: Callable[..., Any]) -> None:
    limit = np.iinfo(dtype).max if np.dtype(dtype).kind in "ui" else 3.5
    volume = np.full((9, 9, 9), limit, dtype)
    volume[:4] = 0
    folder = write_series(tmp_path / "typed", volume)
    ingest_series(folder, voxel_size_mm=(1, 1, 1), orientation="RAS")
    output = tmp_path / "typed.nii"
    export_channel(ExportRequest(path=tmp_path / "brain.h5", channel="signal", resolution_mm=0.7, output=output))
    array = np.asarray(nibabel.load(output).dataobj)
    assert array.dtype == np.dtype(dtype)
    assert array.min() == 0
    if np.dtype(dtype).itemsize < 8 or dtype == "f8":
        assert array.max() == volume.max()


def test_nifti_has_no_half_floats(tmp_path: Path, ingest_series: Callable[..., Any]) -> None:
    ingest_series(write_series(tmp_path / "half", np.zeros((3, 3, 3), np.float16)))
    with pytest.raises(InputError, match="float16"):
        export_channel(ExportRequest(path=tmp_path / "brain.h5", channel="signal", output=tmp_path / "x.nii"))
    assert not list(tmp_path.glob("*.nii*"))


def test_lsfmpys_files_need_an_orientation(legacy_file: Path, brain: np.ndarray) -> None:
    with pytest.raises(InputError, match="no orientation recorded"):
        export_channel(ExportRequest(path=legacy_file, channel="autofluo"))
    volume = export_channel(ExportRequest(path=legacy_file, channel="autofluo", orientation="AIR")).volume
    assert volume is not None
    assert volume.array.dtype == np.uint16
    expected = np.minimum(brain[70:198], 32767).transpose(2, 0, 1)[:, :, ::-1]
    np.testing.assert_array_equal(volume.array[:, :128], expected)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"channel": "nope"}, UnknownChannelError, "no channel 'nope'; it has: autofluo"),
        ({"level": 7}, InputError, "levels 0 to 1"),
        ({"level": -1}, InputError, "level"),
        ({"resolution_mm": 0}, InputError, "resolution"),
        ({"resolution_mm": (1, 1)}, InputError, "resolution"),
        ({"output_orientation": "XYZ"}, InputError, "XYZ"),
        ({"orientation": "RAS"}, InputError, "recorded as AIR"),
        ({"path": "/nowhere.h5"}, StorageError, "no such file"),
        ({"memory_bytes": 10**6}, MemoryBudgetError, "at least"),
    ],
)
def test_bad_requests_are_explained(fields: dict[str, Any], error: type[LsfmError], message: str, brain_file: Path) -> None:
    with pytest.raises(error, match=message):
        export_channel(ExportRequest(**{"path": brain_file, "channel": "autofluo", **fields}))


def test_outputs_are_complete_or_absent(brain_file: Path, tmp_path: Path) -> None:
    def request(**fields: Any) -> ExportRequest:
        return ExportRequest(**{"path": brain_file, "channel": "autofluo", "output": tmp_path / "x.nii.gz", **fields})

    token = CancelToken()

    def stop_halfway(stage: str, done: int, total: int) -> None:
        if done:
            token.cancel()

    with pytest.raises(CancelledError):
        export_channel(request(), progress=stop_halfway, cancel=token)
    with pytest.raises(InputError, match="unknown output format"):
        export_channel(request(output=tmp_path / "x.bmp"))
    with pytest.raises(StorageError, match="no folder"):
        export_channel(request(output=tmp_path / "nowhere" / "x.nii"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.nii.gz").write_text("precious")
    with pytest.raises(ExistsError, match="exists already"):
        export_channel(request())
    with pytest.raises(CancelledError):
        export_channel(request(overwrite=True), cancel=token)
    assert (tmp_path / "x.nii.gz").read_text() == "precious"
    export_channel(request(overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["x.nii.gz"]


def test_what_goes_into_a_file_need_not_fit_into_memory(brain_file: Path) -> None:
    request = {"path": brain_file, "channel": "autofluo", "resolution_mm": 0.01, "memory_bytes": 10**9}
    with open_lsfm(brain_file) as file:
        plan = plan_export(file, ExportRequest(**request, output="x.nii"))
        assert plan.output_bytes > 10**9
        with pytest.raises(MemoryBudgetError, match="name an output file"):
            plan_export(file, ExportRequest(**request))
