"""The table of lsfmpy's words in docs/lsfmpy.md, run row by row."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
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
    return tmp_path


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
