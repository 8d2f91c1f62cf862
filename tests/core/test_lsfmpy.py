"""The table of lsfmpy's words in docs/lsfmpy.md, run row by row."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import tifffile

from lsfm_core import open_lsfm
from lsfm_core.cli import main
from lsfm_core.testing import write_series

PAGE = (Path(__file__).parents[2] / "docs" / "lsfmpy.md").read_text("utf-8")
TABLE = PAGE[PAGE.index("| lsfmpy | here |") : PAGE.index("**Orientation.**")]
NEW = "write --hdf-path new.h5 --channel-name c"
WRITE = f"{NEW} --voxel-size 0.3,0.2,0.1 --orientation AIR"
EXPORT = "export --hdf-path a.h5 --channel-name c"
#: A line for each row of the table, by how the row begins; exit code 2 where the table says that it is refused.
ROWS = {
    "`--hdf-path FILE`": "info --hdf-path a.h5",
    "`--channel-name`": f"{EXPORT} --output channel.npy",
    "`write --image-path FILE`": f"{WRITE} --image-path volume.tif",
    "`write --image-path FOLDER/FIRST": f"{WRITE} --image-path planes/Z000000.tif --file-name-format Z%06d.tif",
    "`write --is-segmentation True`": f"{WRITE} --image-path volume.tif --is-segmentation True",
    "`write --is-multichannel True`": f"{NEW} --image-path field.nii.gz --is-multichannel True",
    "`write --n-cpus`": f"{WRITE} --image-path volume.tif --n-cpus 2",
    "`write --slab-memory-size`": f"{WRITE} --image-path volume.tif --slab-memory-size 2",
    "`write --metadata-path FILE`": f"{NEW} --image-path volume.tif --metadata-path theirs.json --orientation AIR",
    "`write --memory 2`": f"{WRITE} --image-path volume.tif --memory 2",
    "`write --bdv-xml`": f"{WRITE} --image-path volume.tif --bdv-xml new.xml",
    "`write-affine": "write-affine --hdf-path a.h5 --channel-name c --affine-name t --affine-path affine.txt",
    "`add-metadata": "add-metadata a.h5 --m-key specimen --m-value mouse-42",
    "`export --output-path`": f"{EXPORT} --output-path coarse.nii.gz --output-resolution [0.6,0.6,0.6]",
    "`export --input-resolution-level`": f"{EXPORT} --output-path level.npy --input-resolution-level 0",
    "`export --phys-origin`": f"{EXPORT} --output-path cuboid.nii.gz --phys-origin 0.35,1.05,0.7 --phys-size 1.0,0.9,0.8",
    "`export --segmentation-name`": f"{EXPORT} --output-path region.nii.gz --segmentation-name labels --region-id 7",
    "`export --grid-size`": f"{EXPORT} --output-path chunks --grid-size 2,1,1 --phys-origin 0,0,0 --phys-size 1,1,1 --overlap-mm 0",
    "`export --grid-size 0,0,0": f"{EXPORT} --output-path all --grid-size 0,0,0 --phys-origin 1,1,1 --phys-size 1,1,1",
    "`export --slicing-range": f"{EXPORT} --axis 1 --output-path s/%04d.tif --slicing-range 1,6,2 --extract-roi 1,2,4,3",
    "`show-log`": "show-log --hdf-path a.h5",
    "`dump-metadata": "dump-metadata --input-file volume.tif",
    "`export --input-orientation`": f"{EXPORT} --output-path x.npy --input-orientation RPI",
    "`add-transform": "add-transform --name t --ordn 0 --transform-type affine - export --hdf-path a.h5 --channel-name c",
}  # fmt: skip
VOLUME = np.random.default_rng(6).integers(0, 60000, (12, 14, 16), dtype=np.uint16)


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shutil.copytree(made, tmp_path, dirs_exist_ok=True))
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the lines of the table take. Not to be changed: `folder` is a copy."""
    folder = tmp_path_factory.mktemp("made")
    with contextlib.chdir(folder):
        write_inputs(folder)
    return folder


def write_inputs(tmp_path: Path) -> None:
    tifffile.imwrite("volume.tif", VOLUME)
    planes = write_series(tmp_path / "series", VOLUME)
    (tmp_path / "planes").mkdir()
    for number, plane in enumerate(sorted(planes.glob("*.tif"))):
        shutil.copy(plane, tmp_path / "planes" / f"Z{number:06d}.tif")
    labels = np.zeros(VOLUME.shape, np.uint16)
    labels[3:6, 4:8, 5:9] = 7
    tifffile.imwrite("labels.tif", labels)
    field = nib.Nifti1Image(np.zeros((4, 5, 6, 1, 3), np.float32), np.eye(4))
    field.header.set_intent(1007)
    nib.save(field, "field.nii.gz")
    np.savetxt("affine.txt", np.eye(4))
    # As its log shows what it knows of an image.
    sizes = {
        "image_size_x": 16,
        "image_size_y": 14,
        "image_size_z": 12,
        "voxel_size_x": 0.1,
        "voxel_size_y": 0.2,
        "voxel_size_z": 0.3,
    }
    theirs = {"file_path": "/data/volume.tif", **sizes, "bits_per_sample": 16, "file_type": "MultipleTiff"}
    Path("theirs.json").write_text(json.dumps(theirs))
    place = ["--voxel-size", "0.3,0.2,0.1", "--orientation", "AIR", "--quiet"]
    assert main(["write", "a.h5", "--channel", "c", "--image", "volume.tif", *place]) == 0
    assert main(["write", "a.h5", "--channel", "labels", "--kind", "labels", "--image", "labels.tif", *place]) == 0


def row_of(line: str) -> str:
    """The one that begins most like a line of the table."""
    return max((begin for begin in ROWS if line.startswith(f"| {begin}")), key=len, default="")


def test_every_row_has_a_line() -> None:
    rows = TABLE.strip().splitlines()[2:]
    assert [row_of(line) for line in rows] and {row_of(line) for line in rows} == {*ROWS}


@pytest.mark.parametrize("begin", ROWS)
def test_the_row_is_true(begin: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [line for line in TABLE.splitlines() if row_of(line) == begin]
    if "| refused" in line:
        with pytest.raises(SystemExit) as caught:
            main(ROWS[begin].split())
        assert caught.value.code == 2
        return
    assert main(ROWS[begin].split()) == 0, capsys.readouterr().err


def test_what_they_give(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for begin in (
        "`write --metadata-path FILE`", "`export --phys-origin`", "`export --segmentation-name`", "`export --slicing-range",
        "`export --grid-size`", "`add-metadata",
    ):  # fmt: skip
        assert main(ROWS[begin].split()) == 0
    said = capsys.readouterr().out
    with open_lsfm("new.h5") as file:
        np.testing.assert_allclose(file["c"].space.voxel_size_mm, (0.3, 0.2, 0.1))
        np.testing.assert_array_equal(np.asarray(file["c"].levels[0][:]), VOLUME)
    # The result in RAS: columns, planes, rows from below.
    ras = VOLUME[:, ::-1].transpose(2, 0, 1)
    cuboid = nib.load("cuboid.nii.gz")
    np.testing.assert_array_equal(np.asarray(cuboid.dataobj), ras[4:14, 4:7, 4:8])
    np.testing.assert_array_equal(np.asarray(nib.load("region.nii.gz").dataobj), ras[5:9, 3:6, 6:10])
    assert re.search(r"region  .*7.*: 48 voxels of channel 'labels'", said)
    planes = sorted(Path("s").iterdir())
    assert [path.name for path in planes] == ["0001.tif", "0003.tif", "0005.tif"]
    np.testing.assert_array_equal(tifffile.imread(planes[1]), ras[2:5, 3, 1:5])
    assert len([*Path("chunks").glob("*.nii.gz")]) == 2
    assert main(["get-metadata", "a.h5", "specimen"]) == 0
    assert capsys.readouterr().out == "mouse-42\n"


def test_its_metadata_must_fit_the_image(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(Path("theirs.json").read_text())
    Path("other.json").write_text(json.dumps({**facts, "image_size_z": 13}))
    line = ROWS["`write --metadata-path FILE`"].replace("theirs.json", "other.json")
    assert main(line.split()) == 3
    assert "13" in capsys.readouterr().err and not Path("new.h5").exists()


# --- upgraded ---------------------------------------------------------------------------------------------------------------

PLACES = ["--orientation", "AIR", "--orientation", "segmentation=RAS", "--orientation", "inverse_warp=RAS"]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def means(volume: np.ndarray) -> np.ndarray:
    """Of blocks of 2 x 2 x 2, the last ones of what there is; ties to even."""
    kernel = [np.add.reduceat(volume.astype(float), range(0, volume.shape[0], 2), 0)]
    for axis in (1, 2):
        kernel.append(np.add.reduceat(kernel[-1], range(0, volume.shape[axis], 2), axis))
    counts = np.ones(volume.shape)
    for axis in range(3):
        counts = np.add.reduceat(counts, range(0, counts.shape[axis], 2), axis)
    return np.rint(kernel[-1] / counts).astype(volume.dtype)


def test_an_upgrade_has_all_that_the_old_file_had(legacy_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, new = files(legacy_file.parent), tmp_path / "new.h5"
    assert main(["upgrade", str(legacy_file), str(new), *PLACES, "--quiet"]) == 0
    assert files(legacy_file.parent) == before
    capsys.readouterr()
    assert main(["verify", str(new), "--levels"]) == 0
    with h5py.File(legacy_file) as old, open_lsfm(new) as file:
        image, labels, field = (old[f"LSFM/{name}/IMAGE/0/cells"][:] for name in ("autofluo", "segmentation", "inverse_warp"))
        assert file["autofluo"].dtype == np.uint16 and str(file["autofluo"].orientation) == "AIR"
        np.testing.assert_array_equal(np.asarray(file["autofluo"].levels[0]), image[:128])
        np.testing.assert_array_equal(np.asarray(file["autofluo"].levels[1]), means(image[:128].astype(np.uint16)))
        np.testing.assert_allclose(file["autofluo"].space.world_from_voxel @ (127, 192, 0, 1), (0, 6.35, 0, 1), atol=1e-9)
        np.testing.assert_array_equal(np.asarray(file["segmentation"].levels[0]), labels)
        # lsfmpy kept the numbers of ITK's file, which are along L, P, S.
        np.testing.assert_array_equal(np.asarray(file["inverse_warp"].levels[0]), field * np.float32([-1, -1, 1]))
        np.testing.assert_allclose(file["inverse_warp"].space.world_from_voxel, np.diag([0.4, 0.4, 0.4, 1]))
        affine = old["LSFM/autofluo/AFFINES/structural_to_template"][()]
        np.testing.assert_allclose(file.affine("autofluo", "structural_to_template").matrix, affine, atol=1e-12)
        assert dict(file.metadata()) == {"specimen": "mouse-42"}
        *carried, last = file.log()
        assert {record.name: record.text.encode() for record in carried} == {name: old["log"][name][()] for name in old["log"]}
        assert last.operation == "upgrade" and last.inputs[0].path == str(legacy_file)
    size = re.findall(r"<size>(\S+ \S+ \S+)</size>", new.with_suffix(".xml").read_text())
    assert size[:2] == ["271 193 128", "0.04 0.04 0.05"]


def test_what_is_lost_or_unclear_is_said(legacy_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = shutil.copy(legacy_file, tmp_path / "old.h5"), tmp_path / "new.h5"
    with h5py.File(old, "r+") as h5:
        cells = h5["LSFM/autofluo/IMAGE/0/cells"]
        cells[3, 5:12, 8] = 32767
        cells[130, 2, 2] = 1
    # The XML is not there: the log tells how many planes there were.
    assert main(["upgrade", str(old), str(new), *PLACES, "--origin", "segmentation=1,2,3"]) == 0
    said = capsys.readouterr().err
    assert f"7 of {133 * 193 * 271} voxels are 32767" in said
    assert "'autofluo': has 5 planes more than is told of it, which are not empty: they are kept" in said
    assert "'inverse_warp': lsfmpy did not keep where" in said and "'segmentation': lsfmpy did not" not in said
    assert "'inverse_warp': its vectors are taken for lps-displacement" in said
    with open_lsfm(new) as file:
        assert file["autofluo"].space.shape[0] == 133
        np.testing.assert_allclose(file["segmentation"].space.world_from_voxel[:3, 3], (1, 2, 3))
    with h5py.File(old, "r+") as h5:
        h5["LSFM/autofluo/IMAGE/0/cells"][130, 2, 2] = 0
    assert main(["upgrade", str(old), str(tmp_path / "newer.h5"), *PLACES, "--dry-run"]) == 0
    assert "5 planes of padding left out" in capsys.readouterr().out
    # Neither half a file nor a guess.
    assert main(["upgrade", str(old), str(tmp_path / "newer.h5"), "--orientation", "AIR"]) == 3
    assert "--orientation 'inverse_warp=CODE' (it came from a NIfTI file" in capsys.readouterr().err
    assert main(["upgrade", str(old), str(new), *PLACES]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.h5", "new.settings.xml", "new.xml", "old.h5"]


def test_what_was_added_to_an_old_file_comes_along(legacy_file: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old.h5", tmp_path / "new.h5"
    for suffix in (".h5", ".xml"):
        shutil.copy(legacy_file.with_suffix(suffix), old.with_suffix(suffix))
    table = tmp_path / "labels.csv"
    table.write_text("id,name\n7,seven\n")
    labels = np.zeros((5, 6, 8), np.uint16)
    labels[2, 3, 4] = 7
    np.save(tmp_path / "labels.npy", labels)
    place = "--voxel-size 0.3,0.2,0.1 --orientation PIR --origin 5,6,7 --space autofluo"
    for line in (
        f"write {old} --channel ours --kind labels --image {tmp_path / 'labels.npy'} --labels {table} {place}",
        f"add-metadata {old} --channel ours weeks=12",
        f"set-space {old} --transform inverse_warp --from template --to autofluo",
    ):
        assert main([*line.split(), "--quiet"]) == 0
    assert main(["upgrade", str(old), str(new), *PLACES, "--quiet"]) == 0
    with open_lsfm(old) as before, open_lsfm(new) as file:
        ours = file["ours"]
        np.testing.assert_array_equal(np.asarray(ours.levels[0]), labels)
        np.testing.assert_array_equal(ours.space.world_from_voxel, before["ours"].space.world_from_voxel)
        assert ours.space_name == "native of autofluo" and file.metadata("ours")["weeks"] == "12"
        assert json.loads(file.label_table("ours") or "")[0]["name"] == "seven"
        assert file.field_sides("inverse_warp") == ("template", "native of autofluo")
        assert [record.operation for record in file.log()][-4:] == ["write", "add-metadata", "set-space", "upgrade"]
