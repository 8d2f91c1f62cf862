"""Images that lie in HDF5 files: single datasets, ilastik's, Fiji's, Imaris', and channels of BigDataViewer's and our own files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import npy2bdv
import numpy as np
import pytest

from lsfm_core import IngestRequest, InputError, ingest_channel, open_lsfm, open_source
from lsfm_core.cli import main
from lsfm_core.errors import FormatError, SourceError

from . import children

Array = np.ndarray[Any, Any]


@pytest.fixture
def voxels() -> Array:
    return np.random.default_rng(5).integers(0, 60000, (6, 10, 14), dtype=np.uint16)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(name: str, channel: int | str | None = None, kind: Any = "image") -> tuple[Array, Any]:
    """All planes of a source, and its voxel size."""
    source = open_source(name, channel=channel, kind=kind)
    planes = np.empty(source.shape, source.dtype)
    for index, plane in enumerate(planes):
        source.read_plane(index, plane)
    source.close()
    return planes, source.voxel_size_mm


def tags(keys: str) -> str:
    return json.dumps({"axes": [{"key": key, "typeFlags": 2, "resolution": 0, "description": ""} for key in keys]})


@pytest.mark.parametrize("name", ["x.h5:/a/b", "x.h5:a/b", "x.h5/a/b", "x.h5", "x.h5:/a"])
def test_a_dataset_is_named_by_its_path(name: str, voxels: Array) -> None:
    with h5py.File("x.h5", "w") as h5:
        h5.create_dataset("a/b", data=voxels, chunks=(2, 5, 5))
    planes, size = read(name)
    np.testing.assert_array_equal(planes, voxels)
    assert size is None


def test_several_datasets_are_listed(voxels: Array) -> None:
    with h5py.File("x.h5", "w") as h5:
        h5["raw"], h5["seg"], h5["table"] = voxels, voxels.astype("u1"), np.zeros(3)
    with pytest.raises(InputError, match=r"several datasets: /raw \(6 x 10 x 14, uint16\), /seg .*x\.h5:/raw"):
        read("x.h5")
    with pytest.raises(InputError, match="no dataset /rew; it has: /raw"):
        read("x.h5:/rew")
    with pytest.raises(InputError, match="axes are not named"):
        read("x.h5:/table")
    np.testing.assert_array_equal(read("x.h5:seg", kind="labels")[0], voxels.astype("u1"))


@pytest.mark.parametrize(("keys", "pick"), [("zyx", None), ("tzyxc", 1), ("czyx", "1"), ("zcyx", 1), ("zyxc", 1)])
def test_ilastiks_axistags_tell_the_axes(keys: str, pick: Any, voxels: Array) -> None:
    stored = voxels if pick is None else np.stack([voxels // 2, voxels])
    stored = np.moveaxis(stored, 0, keys.replace("t", "").index("c")) if pick is not None else stored
    stored = stored[np.newaxis] if "t" in keys else stored
    with h5py.File("x.h5", "w") as h5:
        h5.create_dataset("exported_data", data=stored, chunks=True).attrs["axistags"] = tags(keys)
    np.testing.assert_array_equal(read("x.h5", pick)[0], voxels)
    if pick is not None:
        with pytest.raises(InputError, match="2 channels"):
            read("x.h5")


def test_fijis_element_size_is_the_voxel_size(voxels: Array) -> None:
    with h5py.File("x.h5", "w") as h5:
        h5["t0/channel0"] = voxels
        h5["t0/channel0"].attrs["element_size_um"] = np.array([5, 4, 3], "f4")
    planes, size = read("x.h5:/t0/channel0")
    np.testing.assert_array_equal(planes, voxels)
    np.testing.assert_allclose(size, (0.005, 0.004, 0.003))


def characters(text: str) -> Array:
    """A text as Imaris keeps it."""
    return np.array([letter.encode() for letter in text], "S1")


def write_imaris(path: str, channels: dict[str, Array], pad: int = 3) -> None:
    with h5py.File(path, "w") as h5:
        image = h5.create_group("DataSetInfo/Image")
        z, y, x = next(iter(channels.values())).shape
        facts = {"X": x, "Y": y, "Z": z, "ExtMin0": 10, "ExtMin1": -4, "ExtMin2": 0, "Unit": "um"}
        facts |= {"ExtMax0": 10 + x * 1.5, "ExtMax1": -4 + y * 2.5, "ExtMax2": z * 5}
        for key, value in facts.items():
            image.attrs[key] = characters(str(value))
        for index, (name, data) in enumerate(channels.items()):
            h5.create_group(f"DataSetInfo/Channel {index}").attrs["Name"] = characters(name)
            group = h5.create_group(f"DataSet/ResolutionLevel 0/TimePoint 0/Channel {index}")
            for key in "XYZ":
                group.attrs[f"ImageSize{key}"] = characters(str(facts[key]))
            padded = np.pad(data, [(0, pad)] * 3, constant_values=7)
            group.create_dataset("Data", data=padded, chunks=(2, 8, 8), compression="gzip")
            coarse = h5.create_group(f"DataSet/ResolutionLevel 1/TimePoint 0/Channel {index}")
            coarse.create_dataset("Data", data=padded[:, ::2, ::2])


def test_an_imaris_file(voxels: Array) -> None:
    write_imaris("a.ims", {"GFP": voxels, "561": voxels // 3})
    planes, size = read("a.ims", "561")
    np.testing.assert_array_equal(planes, voxels // 3)
    np.testing.assert_allclose(size, (0.005, 0.0025, 0.0015))
    np.testing.assert_array_equal(read("a.ims", 0)[0], voxels)
    with pytest.raises(InputError, match="'GFP', 1 '561'"):
        read("a.ims")
    command = ["write", "brain.h5", "--channel", "a", "--image", "a.ims", "--image-channel", "GFP", "--orientation", "SAR"]
    assert main(command) == 0
    with open_lsfm("brain.h5") as file:
        np.testing.assert_array_equal(np.asarray(file["a"].levels[0].data), voxels)
        np.testing.assert_allclose(file["a"].space.voxel_size_mm, (0.005, 0.0025, 0.0015))


def test_chunks_that_are_several_planes_high_are_decoded_once(voxels: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File("x.h5", "w") as h5:
        h5.create_dataset("a", data=np.tile(voxels, (4, 1, 1)), chunks=(8, 10, 14), compression="gzip")
    reads = 0
    original = h5py.Dataset.__getitem__

    def counted(self: h5py.Dataset, index: Any, *rest: Any) -> Any:
        nonlocal reads
        reads += 1
        return original(self, index, *rest)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    read("x.h5")
    assert reads == 3


@pytest.mark.parametrize("name", ["Blosc", "Zstd", "LZ4", "Bitshuffle"])
def test_filters_are_found_in_hdf5plugin(name: str, voxels: Array) -> None:
    voxels = np.tile(np.arange(320, dtype=np.uint16), (6, 32, 1))  # what can be compressed: else they store it as it is
    with h5py.File("x.h5", "w") as h5:
        h5.create_dataset("a", data=voxels, chunks=(2, 32, 320), **getattr(hdf5plugin, name)())
        h5.create_dataset("t00000/s00/0/cells", data=voxels, chunks=(2, 32, 320), **getattr(hdf5plugin, name)())
        h5["s00/resolutions"] = np.ones((1, 3))
        h5["s00"].attrs["dataType"] = "uint16"
    # In a process of its own, where nobody has loaded them.
    code = (
        "import numpy as np, lsfm_core as l; s = l.open_source('x.h5:/a'); p = np.empty(s.shape[1:], s.dtype); s.read_plane(2, p);"
        "f = l.open_lsfm('x.h5'); q = np.asarray(f['setup 0'].levels[0].data[2]); assert (p == q).all(); print(p.sum(dtype='i8'))"
    )
    run = children.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.stderr) == (str(voxels[2].sum(dtype="i8")), "")
    # Without the plugin, the filter is named, and HDF5 itself is silent.
    code = f"import sys; sys.modules['hdf5plugin'] = None; import importlib.util as u; u.find_spec = lambda n: None; {code}"
    for opened in ("x.h5:/a", "x.h5"):
        text = (
            code
            if opened == "x.h5:/a"
            else code.replace("s = l.open_source('x.h5:/a'); p = np.empty(s.shape[1:], s.dtype); s.read_plane(2, p);", "")
        )
        run = children.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
        last = run.stderr.strip().splitlines()[-1]
        full = {"Zstd": "Zstandard", "Bitshuffle": "bitshuffle"}.get(name, name)
        assert full in last, run.stderr
        assert "pip install hdf5plugin" in last
        assert "HDF5-DIAG" not in run.stderr


def write_bdv(path: Path, volumes: list[Array], **options: Any) -> None:
    writer = npy2bdv.BdvWriter(str(path), nchannels=len(volumes), overwrite=True)
    for index, volume in enumerate(volumes):
        writer.append_view(volume, channel=index, **options)
    writer.write_xml()
    writer.close()


@pytest.mark.parametrize("opened", ["other.h5", "other.xml"])
def test_a_setup_of_a_bigdataviewer_file_in_pixels(opened: str, voxels: Array) -> None:
    write_bdv(Path("other.h5"), [voxels // 2, voxels])
    common = ["write", "brain.h5", "--channel", "a", "--image", opened, "--orientation", "SAR"]
    assert main([*common, "--image-channel", "1"]) != 0
    assert main([*common, "--image-channel", "1", "--voxel-size", "0.005,0.004,0.003"]) == 0
    with open_lsfm("brain.h5") as file:
        np.testing.assert_array_equal(np.asarray(file["a"].levels[0].data), voxels)
        np.testing.assert_allclose(np.diag(file["a"].space.world_from_voxel[:3, [2, 1, 0]]), (0.003, 0.004, 0.005))
    with pytest.raises(InputError, match=r"2 channels \(0 'setup 0', 1 'setup 1'\)"):
        read(opened)
    with pytest.raises(InputError, match="no channel 7"):
        read(opened, 7)


def test_a_setup_named_by_a_number_is_told_from_the_number_of_another(voxels: Array) -> None:
    """As everywhere: a name counts before a number, and what may be either is asked back."""
    write_bdv(Path("other.h5"), [voxels // 2, voxels])
    xml = Path("other.xml").read_text().replace(">setup 0<", ">1<").replace(">setup 1<", ">488<")
    Path("other.xml").write_text(xml)
    with pytest.raises(InputError, match=r"name:1 or index:1"):
        read("other.xml", "1")
    for picked, expected in (("name:1", voxels // 2), ("index:1", voxels), ("0", voxels // 2), ("488", voxels)):
        np.testing.assert_array_equal(read("other.xml", picked)[0], expected)


def test_a_channel_of_ours_keeps_its_place(voxels: Array) -> None:
    array = np.arange(np.prod((6, 10, 14)), dtype=np.float32).reshape(6, 10, 14)
    for name, data in (("a", voxels), ("b", array)):
        ingest_channel(
            IngestRequest(
                path="brain.h5", channel=name, image=data, voxel_size_mm=(3, 2, 1), orientation="PIR", origin_mm=(1, 2, 3)
            )
        )
    assert main(["write", "copy.h5", "--channel", "c", "--image", "brain.h5", "--image-channel", "b"]) == 0
    # Into the file that it comes from, as well.
    assert main(["write", "brain.h5", "--channel", "c", "--image", "brain.h5", "--image-channel", "b"]) == 0
    for path in ("copy.h5", "brain.h5"):
        with open_lsfm("brain.h5") as file, open_lsfm(path) as other:
            np.testing.assert_array_equal(np.asarray(other["c"].levels[0].data), array)
            assert other["c"].space.same_grid(file["b"].space)


def test_a_link_to_nowhere_is_not_taken_for_the_only_other_dataset(voxels: Array) -> None:
    with h5py.File("x.h5", "w") as file:
        file["volume"] = voxels
        file["outside"] = h5py.ExternalLink("gone.h5", "/x")
        file["inside"] = h5py.SoftLink("/gone")
    for name in ("outside", "inside"):
        with pytest.raises(SourceError, match=f"/?{name} is no dataset, or a link to one that is not there"):
            read(f"x.h5:/{name}")
    np.testing.assert_array_equal(read("x.h5")[0], voxels)


def test_what_is_no_volume_is_refused(voxels: Array) -> None:
    with h5py.File("x.h5", "w") as h5:
        h5["a"] = np.zeros((2, 3, 4, 5))
        h5["b"] = np.zeros((3, 4, 5))
        h5["b"].attrs["axistags"] = tags("zy")
    with pytest.raises(InputError, match="axes are not named"):
        read("x.h5:a")
    with pytest.raises(SourceError, match="axistags tell 2 axes"):
        read("x.h5:b")
    Path("y.ims").write_bytes(Path("x.h5").read_bytes()[:3000])
    with pytest.raises((SourceError, FormatError)):
        read("y.ims")
