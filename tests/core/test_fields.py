"""Displacement fields of other programs: each gives the displacements that it stands for, or is refused by its name."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from lsfm_core import ExportRequest, IngestRequest, export_channel, ingest_channel, open_lsfm
from lsfm_core.cli import main
from lsfm_core.errors import InputError, MissingError, SourceError
from lsfm_core.formats import open_source
from lsfm_core.formats.brainreg import open_brainreg
from lsfm_core.metadata import describe_image

Array = np.ndarray[Any, Any]

SHAPE = (12, 11, 10)
AFFINE = np.array([[0.2, 0.01, 0, -3], [-0.01, 0.25, 0.02, 5], [0, 0.01, -0.3, 40], [0, 0, 0, 1]])


def displacements(shape: tuple[int, int, int] = SHAPE) -> Array:
    """Smooth, RAS mm, on x, y, z."""
    i = np.stack(np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij"), -1)
    x, y, z = np.moveaxis(i, -1, 0)
    return 0.3 * np.stack([np.sin(3 * x) + y, 0.5 * np.cos(2 * y) - z, 0.7 * x * z], -1)


def positions(affine: Array = AFFINE, shape: tuple[int, int, int] = SHAPE) -> Array:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


U, POSITIONS = displacements(), positions()
LPS = np.array((-1, -1, 1))


def nifti(path: Path, vectors: Array, intent: int = 1007, name: str = "", p1: float = 0, description: str = "") -> Path:
    image = nibabel.Nifti1Image(vectors[:, :, :, None].astype(np.float32), AFFINE)
    image.header["intent_code"] = intent
    image.header["intent_name"] = name
    image.header["intent_p1"] = p1
    image.header["descrip"] = description
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def load(path: Path, **options: Any) -> Array:
    """Displacements on x, y, z."""
    with closing(open_source(path, kind="vectors", **options)) as source:
        planes = np.empty((*source.shape, 3), source.dtype)
        for index, plane in enumerate(planes):
            source.read_plane(index, plane)
    return planes.transpose(2, 1, 0, 3)


# --- who wrote it ---------------------------------------------------------------------------------------------------------------

WRITERS = {
    "ants": (U * LPS, {}),
    "itk_dispvect": (U, {"intent": 1006}),
    "niftyreg_displacement": (U, {"name": "NREG_TRANS", "p1": 1}),
    "niftyreg_positions": (POSITIONS + U, {"name": "NREG_TRANS", "p1": 0}),
    "spm_mapping": (POSITIONS + U, {"name": "Mapping", "description": "Deformation field"}),
    "spm_segment": (POSITIONS + U, {"intent": 0, "description": "Deformation"}),
    "spm_inverse": (POSITIONS + U, {"intent": 0, "description": "Inverse Deformation"}),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_field_is_read_as_its_writer_means_it(writer: str, suffix: str, tmp_path: Path) -> None:
    vectors, header = WRITERS[writer]
    found = load(nifti(tmp_path / f"field{suffix}", vectors, **header))
    np.testing.assert_allclose(found, U, atol=1e-5)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"name": "NREG_TRANS", "p1": 2}, "control points of cubic B-splines"),
        ({"name": "NREG_TRANS", "p1": 3}, "velocity field"),
        ({"name": "NREG_TRANS", "p1": 5}, "control points of a velocity field"),
        ({"name": "NREG_TRANS", "p1": 6}, "linear splines"),
        ({"name": "NREG_TRANS", "p1": 77}, "NREG_TRANS 77.*not known"),
        ({"intent": 2006}, "FNIRT.*FSL"),
        ({"intent": 2007}, "coefficients of cubic B-splines of FNIRT"),
        ({"intent": 2018}, "TOPUP"),
        ({"intent": 0, "description": "Flow field"}, "velocity field"),
        ({"description": "Velocity field"}, "velocity field"),
        ({"intent": 0}, "with intent 0.*--field-convention"),
        ({"intent": 1001}, "with intent 1001.*--field-convention"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_name(header: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(nifti(tmp_path / "a.nii.gz", U, **header), kind="vectors")


@pytest.mark.parametrize("frame", ["ras", "lps"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_positions_that_nothing_names_are_refused_until_somebody_does(frame: str, suffix: str, tmp_path: Path) -> None:
    path, vectors = tmp_path / f"a{suffix}", (POSITIONS + U) * (LPS if frame == "lps" else 1)
    if suffix.startswith(".nii"):
        nifti(path, vectors)
    else:
        itk_field(path, vectors)
    with pytest.raises(SourceError, match=f"absolute positions.*--field-convention {frame}-position"):
        open_source(path, kind="vectors")
    np.testing.assert_allclose(load(path, field_convention=f"{frame}-position"), U, atol=2e-5)
    grid_only = open_source(path, kind="vectors", judge=False)
    assert grid_only.space is not None
    grid_only.close()


def test_displacements_that_a_text_calls_positions_are_refused(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", U, intent=0, description="Deformation")
    with pytest.raises(SourceError, match=r"look like displacements.*--field-convention"):
        open_source(path, kind="vectors")


@pytest.mark.parametrize("degrees", [(0, 0, 180), (90, 0, 0), (0, 90, 90), (30, 20, 10)])
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4])
def test_a_field_with_its_affine_within_is_taken_for_displacements(degrees: Any, scale: float, tmp_path: Path) -> None:
    # As ANTs composes them: such displacements grow with the grid as well.
    turn = sitk.Euler3DTransform((0, 0, 0), *np.radians(degrees).tolist())
    matrix = scale * np.reshape(turn.GetMatrix(), (3, 3))
    u = POSITIONS @ matrix.T - POSITIONS + U
    np.testing.assert_allclose(load(nifti(tmp_path / "a.nii", u * LPS)), u, atol=2e-5)
    path = nifti(tmp_path / "b.nii", POSITIONS @ matrix.T + U, name="NREG_TRANS")
    np.testing.assert_allclose(load(path), u, atol=2e-5)


# --- NRRD and MetaImage ---------------------------------------------------------------------------------------------------------


def itk_field(path: Path, vectors: Array) -> Path:
    """Vectors on x, y, z as they stand, on the grid of `AFFINE`, which ITK holds in LPS."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(vectors.transpose(2, 1, 0, 3)).astype(np.float32), isVector=True)
    spacing = np.linalg.norm(AFFINE[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((AFFINE[:3, 3] * LPS).tolist())
    columns = AFFINE[:3, :3] / spacing
    image.SetDirection((LPS[:, None] * columns).ravel().tolist())
    sitk.WriteImage(image, path)
    return path


def slicer(path: Path, direction: str) -> Path:
    """As 3D Slicer writes a grid transform."""
    itk_field(path, U * LPS)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\n\n", f"\ndisplacement field type:={direction}\n\n".encode(), 1))
    return path


def test_a_field_of_slicer_tells_its_direction(tmp_path: Path) -> None:
    np.testing.assert_allclose(load(slicer(tmp_path / "a.nrrd", "resampling")), U, atol=1e-6)
    path = slicer(tmp_path / "b.nrrd", "modeling")
    with pytest.raises(SourceError, match=r"3D Slicer \(displacement field type modeling\).*the other way"):
        open_source(path, kind="vectors")
    np.testing.assert_allclose(load(path, field_convention="lps-displacement"), U, atol=1e-6)


def test_a_measurement_frame_says_where_nrrd_vectors_point(tmp_path: Path) -> None:
    path = itk_field(tmp_path / "a.nrrd", U)
    content = path.read_bytes().replace(b"left-posterior-superior", b"right-anterior-superior")
    path.write_bytes(content.replace(b"\n\n", b"\nmeasurement frame: (1,0,0) (0,1,0) (0,0,1)\n\n", 1))
    np.testing.assert_allclose(load(path), U, atol=1e-6)
    path.write_bytes(content.replace(b"\n\n", b"\nmeasurement frame: (0,1,0) (1,0,0) (0,0,1)\n\n", 1))
    with pytest.raises(SourceError, match="measurement frame"):
        open_source(path, kind="vectors")
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"disagree.*--field-convention"):
        open_source(path, kind="vectors")
    np.testing.assert_allclose(load(path, field_convention="ras-displacement"), U, atol=1e-6)


# --- brainreg -------------------------------------------------------------------------------------------------------------------


def brainreg(folder: Path, voxel: float = 0.2, offset: float = 0) -> Path:
    folder.mkdir()
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    for component in range(3):
        field = (index * voxel + offset + U)[..., component]
        tifffile.imwrite(folder / f"deformation_field_{component}.tiff", field.astype(np.float32))
    return folder


@pytest.mark.parametrize("named", ["", "deformation_field_0.tiff", "deformation_field_2.tiff", "deformation_field_*.tiff"])
@pytest.mark.parametrize("orientation", ["RAS", "PIR", "LPI"])
def test_the_three_stacks_of_brainreg_are_one_field(named: str, orientation: str, tmp_path: Path) -> None:
    image = brainreg(tmp_path / "out") / named
    file = tmp_path / "a.h5"
    request = IngestRequest(path=file, channel="f", image=image, kind="vectors", voxel_size_mm=(0.2,) * 3, orientation=orientation)
    report = ingest_channel(request)
    assert any("first voxel" in warning for warning in report.warnings)
    # Component k is along array axis k, which grows toward the k-th letter.
    truth = np.zeros_like(U)
    for axis, letter in enumerate(orientation):
        world = next(k for k, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        truth[..., world] = U[..., axis] * (1 if letter in "RAS" else -1)
    with open_lsfm(file) as opened:
        np.testing.assert_allclose(opened["f"].levels[0][:].read(), truth, atol=1e-5)


def test_planes_of_brainreg_are_read_by_many_threads_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"deformation_field_{component}.tiff" for component in range(3)]
    planes = np.arange(30, dtype=np.float32)[:, None, None] + np.zeros((30, 9, 11), np.float32)
    for component, file in enumerate(files):
        tifffile.imwrite(file, planes + 1000 * component)
    seek = tifffile.FileHandle.seek

    def slowly(handle: tifffile.FileHandle, *place: int) -> int:
        """Other threads have their turn between finding a place and reading it."""
        found: int = seek(handle, *place)
        time.sleep(1e-4)
        return found

    with closing(open_brainreg(files)) as source, ThreadPoolExecutor(8) as pool:
        monkeypatch.setattr(tifffile.FileHandle, "seek", slowly)

        def read(index: int) -> np.ndarray:
            out = np.empty((9, 11, 3), np.float32)
            source.read_plane(index, out)
            return out

        for index, found in enumerate(pool.map(read, range(30))):
            np.testing.assert_array_equal(found, np.broadcast_to(index + np.float32([0, 1000, 2000]), (9, 11, 3)))


def test_brainreg_tells_its_voxel_beside_the_field_or_is_asked(tmp_path: Path) -> None:
    folder = brainreg(tmp_path / "out")
    with closing(open_source(folder, kind="vectors")) as source:
        assert source.voxel_size_mm is None
    (folder / "brainreg.json").write_text('{"atlas": "allen_mouse_25um"}')
    with closing(open_source(folder, kind="vectors")) as source:
        assert source.voxel_size_mm == (0.025,) * 3
    (folder / "deformation_field_1.tiff").unlink()
    with pytest.raises(MissingError, match=r"deformation_field_1\.tiff is not there"):
        open_source(folder, kind="vectors")


# --- what is said of it ---------------------------------------------------------------------------------------------------------


def said(path: Path, **options: Any) -> tuple[str | None, str]:
    """What is kept of the vectors with the channel, and what the user is warned of."""
    with closing(open_source(path, kind="vectors", **options)) as source:
        return source.facts.get("acquisition", {}).get("vectors"), " ".join(source.facts.get("notes", ()))


def test_what_vectors_were_taken_for_is_kept_unless_they_are_itks(tmp_path: Path) -> None:
    assert said(nifti(tmp_path / "ants.nii", U * LPS)) == (None, "")
    kept, warned = said(nifti(tmp_path / "niftyreg.nii", POSITIONS + U, name="NREG_TRANS"))
    assert kept is not None and "NREG_TRANS 0" in kept and "absolute positions in mm along R, A, S" in kept and not warned
    kept, _ = said(brainreg(tmp_path / "out"))
    assert kept is not None and "along the axes of the grid" in kept
    kept, warned = said(tmp_path / "ants.nii", field_convention="ras-displacement")
    assert kept is not None and "along R, A, S, as --field-convention says" in kept


def test_the_option_against_a_files_words_is_warned_of(tmp_path: Path) -> None:
    velocities = nifti(tmp_path / "a.nii", U, name="NREG_TRANS", p1=3)
    assert "velocity field" in said(velocities, field_convention="ras-displacement")[1]
    named = nifti(tmp_path / "b.nii", U, name="NREG_TRANS", p1=1)
    assert "along R, A, S: they are taken for" in said(named, field_convention="lps-displacement")[1]
    for path, convention in ((named, "ras-displacement"), (nifti(tmp_path / "c.nii", U), "ras-displacement")):
        assert said(path, field_convention=convention)[1] == ""


def test_the_header_of_a_field_is_described_whatever_its_numbers_are(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", POSITIONS + U)
    shape = describe_image(path, kind="vectors").shape
    assert shape is not None and (shape.planes, shape.rows, shape.columns) == SHAPE[::-1]


# --- the option -----------------------------------------------------------------------------------------------------------------


def test_the_option_wins_over_a_files_own_words_and_says_so(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", U * LPS, name="NREG_TRANS", p1=1)
    file = tmp_path / "a.h5"
    request = IngestRequest(path=file, channel="f", image=path, kind="vectors", field_convention="lps-displacement")
    warnings = ingest_channel(request).warnings
    assert any("NREG_TRANS 1" in warning and "--field-convention" in warning for warning in warnings)
    with open_lsfm(file) as opened:
        np.testing.assert_allclose(opened["f"].levels[0][:].read().transpose(2, 1, 0, 3), U, atol=1e-6)
    with pytest.raises(InputError, match="field_convention"):
        IngestRequest(path=file, channel="f", image=path, field_convention="lps-displacement")


def test_the_command_line_takes_the_option_wherever_a_field_is_read(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", POSITIONS + U)
    file = tmp_path / "a.h5"
    write = ["write-field", str(file), "--channel", "f", "--image", str(path), "--quiet"]
    assert main(write) != 0
    assert main([*write, "--field-convention", "ras-position"]) == 0
    image = np.random.default_rng(0).integers(0, 999, SHAPE[::-1], np.uint16)
    nibabel.save(nibabel.Nifti1Image(image.T, AFFINE), tmp_path / "image.nii")
    ingest_channel(IngestRequest(path=file, channel="i", image=tmp_path / "image.nii"))
    results = []
    for index, transform in enumerate((["f"], [str(path), "--field-convention", "ras-position"])):
        output = tmp_path / f"out{index}.nii"
        assert main(["export", str(file), "--channel", "i", "--output", str(output), "--quiet", "--transform", *transform]) == 0
        results.append(np.asarray(nibabel.load(output).dataobj))
    assert results[0].any()
    np.testing.assert_array_equal(*results)
    assert main(["export", str(file), "--channel", "i", "--output", str(tmp_path / "x.nii"), "--transform", str(path)]) != 0


# --- a real one -----------------------------------------------------------------------------------------------------------------


def test_a_real_warp_in_other_programs_words_carries_to_the_same_voxels(brain_data: Path, tmp_path: Path) -> None:
    ants = brain_data / "transforms" / "template_to_structural_1Warp.nii.gz"
    image: Any = nibabel.load(ants)
    lps = np.asarray(image.dataobj)[:, :, :, 0].astype(np.float64)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in lps.shape[:3]], indexing="ij"), -1)
    place = index @ image.affine[:3, :3].T + image.affine[:3, 3]
    u = lps * LPS
    variants = {"niftyreg": (u, "NREG_TRANS", 1), "positions": (place + u, "NREG_TRANS", 0), "spm": (place + u, "Mapping", 0)}
    file = tmp_path / "brain.h5"
    template = brain_data / "template_100um.nii.gz"
    ingest_channel(IngestRequest(path=file, channel="i", image=template))
    request = {"path": file, "channel": "i", "resolution_mm": 0.2}
    truth = export_channel(ExportRequest(**request, transforms=(str(ants),))).volume
    assert truth is not None
    for name, (vectors, intent_name, p1) in variants.items():
        path = tmp_path / f"{name}.nii"
        variant = nibabel.Nifti1Image(vectors[:, :, :, None], image.affine)
        variant.header.set_intent(1007, name=intent_name)
        variant.header["intent_p1"] = p1
        variant.header.set_xyzt_units("mm")
        nibabel.save(variant, path)
        found = export_channel(ExportRequest(**request, transforms=(str(path),))).volume
        assert found is not None
        off = np.abs(found.array.astype(np.int64) - truth.array)
        # In float64 positions are exact to 1e-14 mm: only a rounding tie can fall otherwise.
        assert off.max() <= 1 and np.count_nonzero(off) <= 1e-5 * off.size


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["list", "none", "???", "covariant-vector", None])
def test_a_nrrd_field_is_one_however_its_writer_calls_its_components(kind: str | None, last: bool, tmp_path: Path) -> None:
    vectors, directions = np.moveaxis((U * LPS).astype(np.float32), -1, 0), [[np.nan] * 3, *(AFFINE[:3, :3].T * LPS).tolist()]
    kinds = [kind, "domain", "domain", "domain"]
    if last:
        vectors, directions, kinds = np.moveaxis(vectors, 0, -1), directions[1:] + directions[:1], kinds[1:] + kinds[:1]
    header = {"space": "left-posterior-superior", "space directions": directions, "space origin": AFFINE[:3, 3] * LPS}
    nrrd.write(str(tmp_path / "a.nrrd"), vectors, header | ({} if kind is None else {"kinds": kinds}))
    np.testing.assert_allclose(load(tmp_path / "a.nrrd"), U, atol=1e-6)
