"""Labels, vectors, replacing, renaming, removing, affines and partners; and what verify finds."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from lsfm_core import (
    ExistsError,
    FormatError,
    IngestRequest,
    InputError,
    LsfmError,
    MissingError,
    Orientation,
    SourceError,
    Space,
    UnknownChannelError,
    ingest_channel,
    open_lsfm,
)
from lsfm_core.cli import main
from lsfm_core.formats.arrays import ArraySource
from lsfm_core.regions import LabelTable
from lsfm_core.store import edit_lsfm, verify_file
from lsfm_core.testing import write_series
from lsfm_core.transforms import Affine

from .test_pyramid import naive_mode

Ingester = Callable[..., Any]


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i4"])
def test_labels_keep_their_ids_on_every_level(dtype: str, tmp_path: Path, ingest_series: Ingester) -> None:
    ids = np.array([0, 1, 7, np.iinfo(dtype).max], dtype)
    volume = ids[np.random.default_rng(0).integers(0, 4, (11, 290, 15))]
    ingest_series(write_series(tmp_path / "labels", volume), kind="labels")
    with open_lsfm(tmp_path / "brain.h5") as file:
        levels = file["signal"].levels
        assert file["signal"].kind == "labels"
        assert len(levels) == 2
        np.testing.assert_array_equal(np.asarray(levels[0][...]), volume)
        step = tuple(int(f) for f in levels[1].factors)
        np.testing.assert_array_equal(np.asarray(levels[1][...]), naive_mode(volume, (step[0], step[1], step[2])))
    assert verify_file(tmp_path / "brain.h5", levels=True).defects == ()


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_negative_ids_are_no_labels(dtype: str, tmp_path: Path, ingest_series: Ingester) -> None:
    labels = np.zeros((5, 6, 7), dtype)
    labels[3, 4, 5] = 9
    tifffile.imwrite(tmp_path / "good.tif", labels)
    ingest_series(tmp_path / "good.tif", kind="labels", channel="good")
    before = (tmp_path / "brain.h5").read_bytes()
    labels[3, 4, 5] = -1
    tifffile.imwrite(tmp_path / "bad.tif", labels)
    message = f"plane 3 has the value -1 at row 4, column 5: labels must be whole numbers from 0 to {np.iinfo(dtype).max}"
    with pytest.raises(SourceError, match=message):
        ingest_series(tmp_path / "bad.tif", kind="labels", channel="bad")
    with h5py.File(tmp_path / "brain.h5") as file:
        assert list(file["LSFM"]) == ["good"]
        assert file["LSFM/good/IMAGE/0/cells"].dtype == dtype
    assert (tmp_path / "brain.h5").read_bytes() == before
    ingest_series(tmp_path / "bad.tif", channel="bad")


def test_the_real_annotation_with_its_table(brain_data: Path, tmp_path: Path) -> None:
    path, image = tmp_path / "brain.h5", brain_data / "annotation_in_structural_100um.nii.gz"
    table = brain_data / "allen_labels_itksnap.txt"
    assert main(["write", str(path), "--channel", "atlas", "--kind", "labels", "--image", str(image), "--labels", str(table)]) == 0
    with open_lsfm(path) as file:
        text = file.label_table("atlas")
        assert text is not None
        assert LabelTable.from_json(text)[382].acronym == "CA1"
        atlas = file["atlas"]
        truth = nibabel.load(image)
        np.testing.assert_array_equal(np.asarray(atlas.levels[0][...]).T, np.asarray(truth.dataobj))
        np.testing.assert_allclose(atlas.space.world_from_voxel[:, [2, 1, 0, 3]], truth.affine, atol=1e-6)


def test_label_tables_of_all_kinds(brain_data: Path, tmp_path: Path) -> None:
    snap = LabelTable.read(brain_data / "allen_labels_itksnap.txt")
    tree = LabelTable.read(brain_data / "allen_structure_tree.csv")
    assert snap[382].name == tree[382].name == "Field CA1"
    assert snap[382].rgb == tree[382].rgb == (126, 208, 75)
    assert tree[382].parent == 375
    (tmp_path / "plain.csv").write_text("label;name;r;g;b\n5;Hippo;1;2;3\n")
    assert LabelTable.read(tmp_path / "plain.csv")[5].rgb == (1, 2, 3)
    assert dict(LabelTable.from_json(tree.to_json())) == dict(tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no label"),
        ("a,b\n1,2\n", "expected columns id and name"),
        ("id,name\nx,y\n1,z\n", "line 2"),
        ("id,name\n1,y\n1,z\n", "id 1 is listed twice"),
        ('1 2 3 4 1 1 1 "a"\nrubbish\n', "rubbish"),
        ("id,name,color\n1,a,notacolour\n", "line 2"),
    ],
)
def test_broken_label_tables_are_explained(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.txt").write_text(text)
    with pytest.raises(SourceError, match=message):
        LabelTable.read(tmp_path / "table.txt")


def test_real_displacement_fields_are_partners(brain_data: Path, tmp_path: Path, info_json: Callable[[Path], Any]) -> None:
    path = tmp_path / "brain.h5"
    warp, inverse = (brain_data / "transforms" / f"template_to_structural_1{name}.nii.gz" for name in ("Warp", "InverseWarp"))
    assert main(["write-field", str(path), "--channel", "inverse_warp", "--image", str(inverse), "--quiet"]) == 0
    assert (
        main(["write-field", str(path), "--channel", "warp", "--image", str(warp), "--inverse-of", "inverse_warp", "--quiet"]) == 0
    )
    with open_lsfm(path) as file:
        assert file["warp"].partner == "inverse_warp"
        assert file["inverse_warp"].partner == "warp"
        field = np.asarray(file["warp"].levels[0][...])
        truth = sitk.ReadImage(str(warp))
        np.testing.assert_allclose(field * (-1, -1, 1), sitk.GetArrayFromImage(truth), atol=1e-6)
        point = truth.TransformIndexToPhysicalPoint((3, 5, 7))
        np.testing.assert_allclose((file["warp"].space.world_from_voxel @ (7, 5, 3, 1))[:3] * (-1, -1, 1), point, atol=1e-5)
    with edit_lsfm(path) as editor:
        editor.rename_channel("warp", "forward")
    with open_lsfm(path) as file:
        assert file["inverse_warp"].partner == "forward"
    with edit_lsfm(path) as editor:
        editor.remove_channel("forward")
    with open_lsfm(path) as file:
        assert file["inverse_warp"].partner is None
    assert verify_file(path, levels=True).defects == ()


@pytest.mark.parametrize(("height", "folded"), [(1.0, 0), (2.5, 42)])
def test_folds_of_a_field_are_counted_when_it_is_stored(height: float, folded: int, tmp_path: Path) -> None:
    # One of 8 sagittal planes is moved to the right: where the next one should be, or beyond it.
    vectors = np.zeros((6, 7, 8, 3), np.float32)
    vectors[:, :, 2, 0] = height
    source = ArraySource(vectors, kind="vectors")
    source.space = Space.from_orientation((6, 7, 8), (1, 1, 1), Orientation("SAR"))
    report = ingest_channel(IngestRequest(path=tmp_path / "brain.h5", channel="warp", kind="vectors", image=source))
    assert [warning.split(":")[0].split(" (")[0] for warning in report.warnings] == (
        [f"the displacement field folds space in {folded} of 336 voxels"] if folded else []
    )


def test_replacing_keeps_place_setup_and_affines(series: Path, tmp_path: Path, volume: np.ndarray, ingest_series: Ingester) -> None:
    path = tmp_path / "brain.h5"
    ingest_series(series, channel="a")
    ingest_series(series, channel="b")
    with edit_lsfm(path) as editor:
        editor.write_affine("a", "t", np.eye(4), Affine(np.eye(4), np.zeros(3)).to_itk(), False)
    with pytest.raises(ExistsError):
        ingest_series(series, channel="a")
    ingest_series(write_series(tmp_path / "other", volume[:20]), channel="a", replace=True)
    with open_lsfm(path) as file:
        assert list(file) == ["a", "b"]
        assert file["a"].setup == 0
        assert file["a"].affines == ("t",)
        np.testing.assert_array_equal(np.asarray(file["a"].levels[0][...]), volume[:20])
        np.testing.assert_array_equal(np.asarray(file["b"].levels[0][...]), volume)
    assert verify_file(path, levels=True).defects == ()


def test_renaming_and_removing(series: Path, tmp_path: Path, volume: np.ndarray, ingest_series: Ingester) -> None:
    path = tmp_path / "brain.h5"
    for name in "ab":
        ingest_series(series, channel=name)
    for arguments, code in (("--channel x --to y", 3), ("--channel a --to b", 1), ("--channel a --to b/c", 3)):
        before = path.read_bytes()
        assert main(["rename-channel", str(path), *arguments.split()]) == code
        assert path.read_bytes() == before
    assert main(["rename-channel", str(path), "--channel", "a", "--to", "c"]) == 0
    assert main(["remove-channel", str(path), "--channel", "b"]) == 0
    with open_lsfm(path) as file:
        assert list(file) == ["c"]
        np.testing.assert_array_equal(np.asarray(file["c"].levels[0][...]), volume)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["t00000/s00/0/cells"][...], volume)
        assert "s01" not in file
    assert verify_file(path, levels=True).defects == ()
    with pytest.raises(UnknownChannelError), edit_lsfm(path) as editor:
        editor.remove_channel("b")


def test_uint16_as_int16_is_the_same_to_us_and_plain_to_old_viewers(
    series: Path, tmp_path: Path, volume: np.ndarray, ingest_series: Ingester
) -> None:
    ingest_series(series, uint16_as_int16=True)
    with h5py.File(tmp_path / "brain.h5") as file:
        assert "dataType" not in file["s00"].attrs
        np.testing.assert_array_equal(file["t00000/s00/0/cells"][...].view(np.uint16), volume)
    with open_lsfm(tmp_path / "brain.h5") as file:
        assert file["signal"].dtype == np.uint16
        np.testing.assert_array_equal(np.asarray(file["signal"].levels[0][...]), volume)
    assert verify_file(tmp_path / "brain.h5", levels=True).defects == ()


@pytest.mark.parametrize("compression", [0, 2, 3])
def test_compression_levels(compression: int, series: Path, tmp_path: Path, volume: np.ndarray, ingest_series: Ingester) -> None:
    ingest_series(series, compression=compression)
    with h5py.File(tmp_path / "brain.h5") as file:
        np.testing.assert_array_equal(file["t00000/s00/0/cells"][...], volume)
        assert (file["t00000/s00/0/cells"].compression is None) == (compression == 0)


def test_nan_and_inf_are_kept_counted_and_left_out(tmp_path: Path, ingest_series: Ingester) -> None:
    volume = np.random.default_rng(0).random((5, 300, 6)).astype(np.float32)
    volume[2, 3, 4], volume[1, 1, 1], volume[0, 0, 0] = np.nan, np.inf, -np.inf
    report = ingest_series(write_series(tmp_path / "odd", volume))
    assert any("3 voxel(s) are NaN or infinite" in warning for warning in report.warnings)
    with open_lsfm(tmp_path / "brain.h5") as file:
        np.testing.assert_array_equal(np.asarray(file["signal"].levels[0][...]), volume)
        limits = file["signal"].display_range
        assert limits is not None
        assert 0 <= limits[0] < limits[1] <= 1


# --- affines --------------------------------------------------------------------------------------------------------------------


def itk_transforms() -> list[sitk.Transform]:
    affine = sitk.AffineTransform([1.1, 0.1, 0, -0.1, 0.9, 0.05, 0, 0.02, 1.05], [1, 2, 3], [4, 5, 6])
    rigid = sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (4, 5, 6))
    return [
        affine,
        rigid,
        sitk.VersorRigid3DTransform((0, 0, 1), 0.4, (1, 2, 3), (4, 5, 6)),
        sitk.TranslationTransform(3, (1, 2, 3)),
        sitk.CompositeTransform([affine, rigid]),
    ]


@pytest.mark.parametrize("suffix", [".txt", ".tfm", ".h5", ".mat", ".xfm"])
@pytest.mark.parametrize("index", range(5))
def test_every_itk_file_maps_points_as_itk_does(suffix: str, index: int, tmp_path: Path) -> None:
    transform = itk_transforms()[index]
    path = tmp_path / f"t{suffix}"
    try:
        sitk.WriteTransform(transform, str(path))
    except RuntimeError:
        pytest.skip(f"ITK does not write {transform.GetName()} as {suffix}")
    if (suffix, transform.GetName()) == (".mat", "CompositeTransform"):
        pytest.skip("ITK writes this, but cannot read it back")
    affine = Affine.read(path)
    for point in np.random.default_rng(0).normal(size=(5, 3)) * 10:
        expected = np.array(transform.TransformPoint((point * (-1, -1, 1)).tolist())) * (-1, -1, 1)
        np.testing.assert_allclose((affine.matrix @ (*point, 1))[:3], expected, atol=1e-5 if suffix == ".xfm" else 1e-9)
    again = Affine.from_itk(*affine.to_itk())
    np.testing.assert_allclose(again.matrix, affine.matrix, atol=1e-12)


def test_an_affine_is_stored_as_lsfmpy_stored_it(
    series: Path, tmp_path: Path, brain_data: Path, legacy_file: Path, ingest_series: Ingester, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest_series(series, channel="autofluo")
    path = tmp_path / "brain.h5"
    mat = brain_data / "transforms" / "template_to_structural_0GenericAffine.mat"
    write = ["write-affine", str(path), "--channel", "autofluo", "--name", "structural_to_template", "--affine", str(mat)]
    assert main(write) == 0
    assert "rotates by 4.29 degrees" in capsys.readouterr().out
    assert main(write) == 1
    assert "already" in capsys.readouterr().err
    assert main([*write, "--replace"]) == 0
    with h5py.File(path) as ours, h5py.File(legacy_file) as theirs:
        for name in ("structural_to_template", "ITK_PARAMS/structural_to_template", "FIXED_ITK_PARAMS/structural_to_template"):
            a, b = (file[f"LSFM/autofluo/AFFINES/{name}"][...] for file in (ours, theirs))
            np.testing.assert_allclose(a, b, atol=1e-9)


def test_what_is_no_affine_is_refused(tmp_path: Path, brain_data: Path) -> None:
    (tmp_path / "singular.txt").write_text("1 0 0 0\n0 0 0 0\n0 0 1 0\n0 0 0 1\n")
    (tmp_path / "rubbish.txt").write_text("hello")
    (tmp_path / "plain.txt").write_text("# RAS mm\n1 0 0 5\n0 2 0 0\n0 0 1 0\n0 0 0 1\n")
    np.testing.assert_allclose(Affine.read(tmp_path / "plain.txt").matrix @ (1, 1, 1, 1), (6, 2, 1, 1))
    field = sitk.DisplacementFieldTransform(sitk.Image([4, 4, 4], sitk.sitkVectorFloat64, 3))
    sitk.WriteTransform(field, str(tmp_path / "field.h5"))
    for name, error in (
        ("singular.txt", SourceError),
        ("rubbish.txt", SourceError),
        ("field.h5", SourceError),
        ("nothing.mat", MissingError),
    ):
        with pytest.raises(error):
            Affine.read(tmp_path / name)
    with pytest.raises(SourceError, match="not a transform"):
        Affine.read(brain_data / "orientation_reference.png")


# --- verify ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_verify_finds_every_flipped_bit_and_says_where(
    series: Path, tmp_path: Path, volume: np.ndarray, ingest_series: Ingester
) -> None:
    ingest_series(series, channel="first")
    ingest_series(series, channel="second")
    path, copy = tmp_path / "brain.h5", tmp_path / "copy.h5"
    shutil.copy(path, copy)
    shutil.copy(path.with_suffix(".xml"), copy.with_suffix(".xml"))
    chunks = []
    with h5py.File(path) as file:
        for channel in ("first", "second"):
            for level, node in file[f"LSFM/{channel}/IMAGE"].items():
                node["cells"].id.chunk_iter(lambda chunk, where=(channel, int(level)): chunks.append((*where, chunk)))
    dice = random.Random(0)
    for _ in range(60):
        channel, level, chunk = dice.choice(chunks)
        offset, bit = chunk.byte_offset + dice.randrange(chunk.size), dice.randrange(8)
        with open(copy, "r+b") as raw:
            raw.seek(offset)
            byte = raw.read(1)[0]
            raw.seek(offset)
            raw.write(bytes([byte ^ 1 << bit]))
        (defect,) = verify_file(copy).defects
        assert (defect.channel, defect.level, defect.start) == (channel, level, chunk.chunk_offset)
        with open(copy, "r+b") as raw:
            raw.seek(offset)
            raw.write(bytes([byte]))
    assert verify_file(copy).defects == ()


def _edit_h5(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)
            del file["LSFM_DIGESTS"]  # by which each of these would be found

    return run


def _edit_xml(old: str, new: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        xml = path.with_suffix(".xml")
        xml.write_text(xml.read_text().replace(old, new))

    return run


def _shift_level(file: h5py.File) -> None:
    affine = file["LSFM/signal/IMAGE/1"].attrs["world_from_voxel"]
    affine[0, 3] += 0.01
    file["LSFM/signal/IMAGE/1"].attrs["world_from_voxel"] = affine


def _spoil_level(file: h5py.File) -> None:
    file["LSFM/signal/IMAGE/1/cells"][5, 6, 7] += 1


def _drop(*names: str) -> Callable[[h5py.File], None]:
    def run(file: h5py.File) -> None:
        for name in names:
            del file[name]

    return run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_edit_h5(_shift_level), "affine does not follow"),
        (_edit_h5(_spoil_level), r"level 1, voxels \[.*\]: is not what the finer level gives"),
        (_edit_h5(_drop("s00/resolutions")), "resolutions"),
        (_edit_h5(_drop("t00000/s00/1/cells")), "leads nowhere"),
        (lambda path: path.with_suffix(".xml").unlink(), "no brain.xml"),
        (_edit_xml("83 301 37", "83 301 40"), "says .40, 301, 83. voxels"),
        (_edit_xml("0.004 0.004 0.005", "0.004 0.004 0.006"), "says voxels of"),
        (_edit_xml("<id>0</id>\n        <name>signal", "<id>7</id>\n        <name>signal"), "no setup 0"),
        (_edit_xml("</SpimData>", ""), "not readable"),
    ],
)
def test_verify_finds_what_does_not_agree(
    change: Callable[[Path], None],
    message: str,
    series: Path,
    tmp_path: Path,
    ingest_series: Ingester,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ingest_series(series)
    path = tmp_path / "brain.h5"
    assert main(["verify", str(path), "--levels"]) == 0
    change(path)
    assert main(["verify", str(path), "--levels"]) == 4
    output = capsys.readouterr()
    assert re.search(message, output.out)
    assert "defect(s) found" in output.err


def test_verify_of_others_files(legacy_file: Path) -> None:
    report = verify_file(legacy_file)
    assert any("128" in str(defect) and "133" in str(defect) for defect in report.defects)
    assert report.chunks > 0


@pytest.mark.parametrize("change", ["kind", "labels", "inverse"])
def test_requests_that_contradict_themselves(change: str, series: Path, tmp_path: Path, ingest_series: Ingester) -> None:
    fields: dict[str, Any] = {
        "kind": {"kind": "movie"},
        "labels": {"labels": tmp_path / "t.csv"},
        "inverse": {"inverse_of": "x"},
    }[change]
    with pytest.raises(LsfmError, match=change):
        ingest_series(series, **fields)
    assert not (tmp_path / "brain.h5").exists()


def test_lsfmpys_file_can_be_added_to(
    legacy_file: Path, series: Path, tmp_path: Path, volume: np.ndarray, ingest_series: Ingester
) -> None:
    path = tmp_path / "brain.h5"
    shutil.copyfile(legacy_file, path)
    shutil.copyfile(legacy_file.with_suffix(".xml"), path.with_suffix(".xml"))
    ingest_series(series, channel="ours")
    with open_lsfm(path) as file, open_lsfm(legacy_file) as before:
        assert set(file) == {*before, "ours"}
        assert file["ours"].setup == 1
        np.testing.assert_array_equal(np.asarray(file["ours"].levels[0][...]), volume)
        for name in before:
            np.testing.assert_array_equal(np.asarray(file[name].levels[0][...]), np.asarray(before[name].levels[0][...]))


# --- metadata -------------------------------------------------------------------------------------------------------------------

#: Texts are attributes, all else is JSON; each comes back as it was, however large.
NOTES: dict[str, Any] = {
    "text": "mouse-42 µ",
    "empty": "",
    "two lines": "a\nb",
    "with / inside": "c",
    "long text": "x" * 10**6,
    "nul": "a\0b",
    "nothing": None,
    "yes": True,
    "number": 2**60,
    "fraction": 0.1,
    "list": [1, "two", [3.5, None]],
    "long list": list(range(10**5)),
    "nested": {"a": {"b": ["c"]}},
}


def test_metadata_come_back_as_they_were(series: Path, tmp_path: Path, ingest_series: Ingester) -> None:
    ingest_series(series, channel="a")
    path = tmp_path / "brain.h5"
    for channel in (None, "a"):
        with edit_lsfm(path) as editor:
            for key, value in NOTES.items():
                editor.set_metadata(key, value, channel=channel)
        with open_lsfm(path) as file:
            assert file.metadata(channel) == NOTES
            assert list(file.metadata(channel)) == sorted(NOTES)
    with h5py.File(path) as file:
        for group in (file["extended_metadata"], file["LSFM/a/extended_metadata"]):
            texts = {key: value for key, value in NOTES.items() if isinstance(value, str) and key != "nul"}
            assert dict(group.attrs) == texts, "lsfmpy reads texts as attributes"
            assert json.loads(group["JSON"].asstr()[()]) == {key: NOTES[key] for key in NOTES if key not in texts}
    assert verify_file(path).defects == ()


def test_metadata_change_only_when_they_may(series: Path, tmp_path: Path, ingest_series: Ingester) -> None:
    ingest_series(series, channel="a")
    path = tmp_path / "brain.h5"
    # From a text to a number, and back: a key is in one place only.
    for value in ("text", 5, "other", None, 6):
        with edit_lsfm(path) as editor:
            editor.set_metadata("key", value, channel="a", overwrite=True)
            assert editor.metadata("a") == {"key": value}
    before = path.read_bytes()

    def note_two(key: str, value: Any, channel: str | None) -> None:
        with edit_lsfm(path) as editor:
            editor.set_metadata("first", "is not kept either")
            editor.set_metadata(key, value, channel=channel)

    for key, value, channel, error in (
        ("key", "new", "a", ExistsError),
        ("", "a", None, InputError),
        (" ", "a", None, InputError),
        ("a\nb", "a", None, InputError),
        ("k" * 256, "a", None, InputError),
        ("k", float("nan"), None, InputError),
        ("k", np.zeros(3), None, InputError),
        ("k", "a", "nothing", UnknownChannelError),
    ):
        with pytest.raises(error):
            note_two(key, value, channel)
    with pytest.raises(InputError, match="there are: key"), edit_lsfm(path) as editor:
        editor.remove_metadata("nothing", channel="a")
    assert path.read_bytes() == before
    with edit_lsfm(path) as editor:
        editor.remove_metadata("key", channel="a")
    with h5py.File(path) as file:
        assert "JSON" not in file["LSFM/a/extended_metadata"]


def test_metadata_stay_with_a_channels_name(series: Path, tmp_path: Path, ingest_series: Ingester) -> None:
    ingest_series(series, channel="a")
    path = tmp_path / "brain.h5"
    with edit_lsfm(path) as editor:
        editor.set_metadata("stain", "c-Fos", channel="a")
        editor.set_metadata("list", [1], channel="a")
    with edit_lsfm(path) as editor:
        editor.rename_channel("a", "b")
    ingest_series(series, channel="b", replace=True)
    with open_lsfm(path) as file:
        assert file.metadata("b") == {"list": [1], "stain": "c-Fos"}
        assert file.metadata() == {}


def test_lsfmpys_metadata_are_read_and_added_to(legacy_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "mouse42.h5"
    shutil.copyfile(legacy_file, path)
    with h5py.File(path, "r+") as file:
        file["extended_metadata"].attrs.update({"number": 5, "row": np.array([1.5, 2]), "bytes": np.bytes_(b"old")})
        file["extended_metadata"].attrs["hollow"] = h5py.Empty("f")
    with edit_lsfm(path) as editor:
        editor.set_metadata("stain", "c-Fos")
        editor.set_metadata("age", 12)
    with open_lsfm(path) as file:
        mine = {"age": 12, "stain": "c-Fos"}
        theirs = {"bytes": "old", "hollow": "", "number": 5, "row": [1.5, 2], "specimen": "mouse-42"}
        assert file.metadata() == mine | theirs
    with h5py.File(path) as file:
        assert file["extended_metadata"].attrs["specimen"] == "mouse-42"
        assert file["extended_metadata"].attrs["stain"] == "c-Fos"


def test_broken_metadata_are_named(series: Path, tmp_path: Path, ingest_series: Ingester) -> None:
    ingest_series(series)
    with h5py.File(tmp_path / "brain.h5", "r+") as file:
        file["extended_metadata/JSON"] = "{"
    with open_lsfm(tmp_path / "brain.h5") as file, pytest.raises(FormatError, match=r"brain\.h5: its metadata cannot be read"):
        file.metadata()
