"""Files that are damaged, or made to harm: one error of ours, never a hang, a crash, or somebody else's file in an export."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import zarr

from lsfm_core import (
    FormatError,
    InputError,
    MergeRequest,
    MissingError,
    SourceError,
    allow_outside,
    merge_chunks,
    open_lsfm,
    open_source,
)
from lsfm_core.cli import main

from . import children

#: Files with bytes exchanged; a soak asks for more.
DAMAGED = int(os.environ.get("LSFM_DAMAGED", "24"))

# Does everything with each file that it is given, and names what was raised that is no LsfmError. A child: HDF5 may crash.
_USE = """
import faulthandler, shutil, signal, sys, traceback
from pathlib import Path
import numpy as np
from lsfm_core import *

faulthandler.enable()
faulthandler.dump_traceback_later(600, exit=True)

def look(path):
    with open_lsfm(path) as file:
        describe_file(file)
        file.log(), file.metadata(), file.remarks
        for name, channel in file.channels.items():
            channel.sources, file.label_table(name), file.acquisition(name), file.metadata(name)
            [file.affine(name, affine) for affine in channel.affines]

def export(path):
    output = path.with_name("out.nii")
    output.unlink(missing_ok=True)
    export_channel(ExportRequest(path=path, channel="autofluo", output=output, resolution_mm=0.1))

def region(path):
    selection = RegionSelection(select=("A",), labels_channel="atlas")
    export_channel(ExportRequest(path=path, channel="autofluo", region=selection))

def repack(path):
    repack_file(RepackRequest(path=path, output=path.with_name("repacked.h5"), overwrite=True))

def note(path):
    apply_edit(AddMetadataRequest(path=path, values={"k": "v"}))

def rename(path):
    apply_edit(RenameChannelRequest(path=path, channel="autofluo", new_name="other"))

def add(path):
    image = np.zeros((5, 6, 7), np.uint8)
    ingest_channel(IngestRequest(path=path, channel="new", image=image, voxel_size_mm=(1, 1, 1), orientation="AIR"))

for name in sys.argv[1:]:
    for use in (look, verify_file, export, region, repack, note, rename, add):
        path = Path(name).with_name("used") / "brain.h5"
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        shutil.copy(name, path)
        try:
            use(path)
        except LsfmError:
            pass
        except BaseException as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            print(f"{name}: {use.__name__}: {type(error).__name__}: {error} ({frame.filename}:{frame.lineno})")
"""


@pytest.mark.slow
def test_files_with_bytes_exchanged_at_random_raise_errors_of_ours_only(small_file: Path, tmp_path: Path) -> None:
    data = small_file.read_bytes()
    mutants = []
    for seed in range(DAMAGED):
        dice = random.Random(seed)
        mutant = bytearray(data)
        for _ in range(dice.choice([1, 4, 16, 64])):
            mutant[dice.randrange(len(data))] = dice.randrange(256)
        mutants.append(tmp_path / f"{seed}.h5")
        mutants[-1].write_bytes(mutant)
    done = children.run(
        [sys.executable, "-c", _USE, *map(str, mutants)], capture_output=True, text=True, check=False, timeout=60 + 10 * DAMAGED
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stderr[-3000:]


# --- somebody else's files ----------------------------------------------------------------------------------------------------

SHAPE = (8, 10, 12)
SECRET = np.arange(960, dtype=np.uint16).reshape(SHAPE)
Maker = Callable[[h5py.Group, Path], None]


def _raw_storage(group: h5py.Group, folder: Path) -> None:
    SECRET.tofile(folder / "secret.bin")
    group.create_dataset("cells", SHAPE, "uint16", external=[(str(folder / "secret.bin"), 0, SECRET.nbytes)])


def _virtual(group: h5py.Group, folder: Path) -> None:
    layout = h5py.VirtualLayout(SHAPE, "uint16")
    layout[...] = h5py.VirtualSource(str(_secret_file(folder)), "x", SHAPE)
    group.create_virtual_dataset("cells", layout)


def _virtual_numbered(group: h5py.Group, folder: Path) -> None:
    # Of any number of files: h5py's own layouts cannot say so.
    with h5py.File(folder / "secret0.h5", "w") as file:
        file["x"] = SECRET
    space = h5py.h5s.create_simple(SHAPE, (h5py.h5s.UNLIMITED, *SHAPE[1:]))
    block = space.copy()
    block.select_hyperslab((0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1), (SHAPE[0], 1, 1), SHAPE)
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_virtual(block, f"{folder}/secret%b.h5".encode(), b"x", h5py.h5s.create_simple(SHAPE))
    h5py.h5d.create(group.id, b"cells", h5py.h5t.NATIVE_UINT16, space, layout)


def _virtual_of_virtual(group: h5py.Group, folder: Path) -> None:
    beside = Path(group.file.filename).with_name("beside.h5")
    with h5py.File(beside, "w") as file:
        _virtual(file.create_group("g"), folder)
    layout = h5py.VirtualLayout(SHAPE, "uint16")
    layout[...] = h5py.VirtualSource(beside.name, "g/cells", SHAPE)
    group.create_virtual_dataset("cells", layout)


def _external_link(group: h5py.Group, folder: Path) -> None:
    group["cells"] = h5py.ExternalLink(str(_secret_file(folder)), "x")


def _link_to_a_link(group: h5py.Group, folder: Path) -> None:
    beside = Path(group.file.filename).with_name("beside.h5")
    beside.symlink_to(_secret_file(folder))
    group["cells"] = h5py.ExternalLink(beside.name, "x")


def _secret_file(folder: Path) -> Path:
    path = folder / "secret.h5"
    with h5py.File(path, "w") as file:
        file["x"] = SECRET
    return path


MAKERS = [_raw_storage, _virtual, _virtual_numbered, _virtual_of_virtual, _external_link, _link_to_a_link]


def _data_set(folder: Path, make: Maker, elsewhere: Path) -> Path:
    """A BigDataViewer file whose voxels `make` puts there."""
    folder.mkdir(exist_ok=True)
    elsewhere.mkdir(exist_ok=True)
    path = folder / "dataset.h5"
    with h5py.File(path, "w") as file:
        file["s00/resolutions"] = np.ones((1, 3))
        file["s00/subdivisions"] = np.full((1, 3), 8, np.int32)
        file["s00"].attrs["dataType"] = "uint16"
        make(file.create_group("t00000/s00/0"), elsewhere)
    return path


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "arguments", [["info"], ["verify"], ["repack", "--output", "{}/copy.h5"], ["export-slices", "--channel", "setup 0"]]
)
def test_what_lies_outside_of_the_data_sets_folder_is_refused(
    make: Maker, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _data_set(tmp_path / "data", make, tmp_path / "elsewhere")
    verb, *options = [argument.format(tmp_path) for argument in arguments]
    if verb == "export-slices":
        options += ["--axis", "0", "--range", "0,8", "--orientation", "AIR", "--output", str(tmp_path / "s_%d.tif")]
    assert main([verb, str(path), *options]) in (3, 4)
    said = capsys.readouterr()
    assert re.search(
        r"elsewhere/secret.* outside of the folder of the data set|beside\.h5.* outside of the folder", said.out + said.err
    )
    assert not list(tmp_path.glob("*.*"))


@pytest.mark.parametrize("make", MAKERS)
def test_what_lies_outside_is_read_where_that_is_meant(make: Maker, tmp_path: Path) -> None:
    path = _data_set(tmp_path / "data", make, tmp_path / "elsewhere")
    with allow_outside(), open_lsfm(path) as file:
        np.testing.assert_array_equal(file["setup 0"].levels[0][...], SECRET)


@pytest.mark.parametrize("make", MAKERS)
def test_what_lies_beside_the_data_set_is_read(make: Maker, tmp_path: Path) -> None:
    if make is _raw_storage:
        pytest.skip("HDF5 takes its name from the working directory")
    path = _data_set(tmp_path / "data", make, tmp_path / "data" / "raw")
    with open_lsfm(path) as file:
        np.testing.assert_array_equal(file["setup 0"].levels[0][...], SECRET)


def test_a_virtual_dataset_without_its_source_is_no_black_image(tmp_path: Path) -> None:
    path = _data_set(tmp_path / "data", _virtual, tmp_path / "data" / "raw")
    (tmp_path / "data" / "raw" / "secret.h5").unlink()
    with open_lsfm(path) as file, pytest.raises(MissingError, match=r"secret\.h5, which is missing"):
        file.channels  # noqa: B018


def test_detached_data_of_a_header_that_are_a_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    SECRET.tofile(tmp_path / "secret.raw")
    (tmp_path / "data" / "image.raw").symlink_to(tmp_path / "secret.raw")
    (tmp_path / "data" / "image.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 12 10 8\nElementType = MET_USHORT\nElementDataFile = image.raw\n"
    )
    with pytest.raises(SourceError, match=r"image\.raw: is a link to .*secret\.raw, outside of the folder"):
        open_source(tmp_path / "data" / "image.mhd")
    with allow_outside():
        open_source(tmp_path / "data" / "image.mhd").close()


def _voxels(image: str | Path) -> np.ndarray[Any, Any]:
    source = open_source(image)
    try:
        planes = np.empty(source.shape, source.dtype)
        for index, plane in enumerate(planes):
            source.read_plane(index, plane)
        return planes
    finally:
        source.close()


@pytest.mark.parametrize("make", MAKERS)
def test_a_dataset_as_an_image_is_inside_as_well(make: Maker, tmp_path: Path) -> None:
    """The same by ``file.h5:/path``, also through a group elsewhere."""
    path = _data_set(tmp_path / "data", make, tmp_path / "elsewhere")
    image = f"{path}:/t00000/s00/0/cells"
    with pytest.raises(FormatError, match="outside of the folder of the data set"):
        _voxels(image)
    with allow_outside():
        np.testing.assert_array_equal(_voxels(image), SECRET)


@pytest.mark.parametrize("place", ["/group/x", "/soft/x", "/deep/x"])
def test_no_group_elsewhere_is_opened_for_an_image(place: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path, beside = tmp_path / "data" / "a.h5", tmp_path / "data" / "beside.h5"
    secret = _secret_file(tmp_path)
    with h5py.File(beside, "w") as file:
        file["out"] = h5py.ExternalLink(str(secret), "/")
    with h5py.File(path, "w") as file:
        file["group"] = h5py.ExternalLink(str(secret), "/")
        file["soft"] = h5py.SoftLink("/group")
        file["deep"] = h5py.ExternalLink("beside.h5", "/out")
    with pytest.raises(FormatError, match=r"secret\.h5, outside of the folder"):
        _voxels(f"{path}:{place}")
    with allow_outside():
        np.testing.assert_array_equal(_voxels(f"{path}:{place}"), SECRET)


def _linked_planes(folder: Path, elsewhere: Path) -> Path:
    for index, plane in enumerate(SECRET):
        tifffile.imwrite((elsewhere if index == 3 else folder) / f"plane_{index:02d}.tif", plane)
    (folder / "plane_03.tif").symlink_to(elsewhere / "plane_03.tif")
    return folder


def _pattern(folder: Path, elsewhere: Path) -> Path:
    return _linked_planes(folder, elsewhere) / "plane_%02d.tif"


def _glob(folder: Path, elsewhere: Path) -> Path:
    return _linked_planes(folder, elsewhere) / "plane_*.tif"


def _one_plane(folder: Path, elsewhere: Path) -> Path:
    return _linked_planes(folder, elsewhere) / "plane_00.tif"


def _zarr_array(folder: Path, *, link: str) -> None:
    array = zarr.create_array(folder / "image.zarr", shape=SHAPE, chunks=(4, 10, 12), dtype="uint16", overwrite=True)
    array[...] = SECRET
    target = folder / "image.zarr" / link
    target.rename(folder.parent / "elsewhere" / "moved")
    target.symlink_to(folder.parent / "elsewhere" / "moved")


def _zarr_chunk(folder: Path, elsewhere: Path) -> Path:
    _zarr_array(folder, link="c/1/0/0")
    return folder / "image.zarr"


def _zarr_folder(folder: Path, elsewhere: Path) -> Path:
    _zarr_array(folder, link="c")
    return folder / "image.zarr"


def _pair(folder: Path, elsewhere: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(SECRET), str(folder / "image.hdr"))
    (folder / "image.img").rename(elsewhere / "image.img")
    (folder / "image.img").symlink_to(elsewhere / "image.img")
    return folder / "image.hdr"


def _absolute(folder: Path, elsewhere: Path) -> Path:
    SECRET.tofile(elsewhere / "secret.raw")
    (folder / "image.mhd").write_text(
        f"ObjectType = Image\nNDims = 3\nDimSize = 12 10 8\nElementType = MET_USHORT\nElementDataFile = {elsewhere}/secret.raw\n"
    )
    return folder / "image.mhd"


@pytest.mark.parametrize(
    "make",
    [_linked_planes, _pattern, _glob, _one_plane, _zarr_chunk, _zarr_folder, _pair, _absolute],
    ids=lambda make: make.__name__,
)
def test_parts_of_an_image_that_lie_elsewhere_are_refused(make: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    """Whatever the format: what a link or a name in a folder from a stranger leads to, nobody has asked for."""
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    image = make(folder, elsewhere)
    with pytest.raises(SourceError, match="--allow-outside"):
        _voxels(image)
    with allow_outside():
        np.testing.assert_array_equal(_voxels(image), SECRET)


def test_links_that_stay_inside_and_the_image_that_was_named_are_read(tmp_path: Path) -> None:
    """A folder of links to planes beside it is one thing; an image that its user names by a link another."""
    planes, links = tmp_path / "planes", tmp_path / "links"
    planes.mkdir()
    links.mkdir()
    for index, plane in enumerate(SECRET):
        tifffile.imwrite(planes / f"plane_{index:02d}.tif", plane)
        (links / f"plane_{index:02d}.tif").symlink_to(planes / f"plane_{index:02d}.tif")
    np.testing.assert_array_equal(_voxels(links / "plane_00.tif"), SECRET)
    with pytest.raises(SourceError, match="--allow-outside"):
        _voxels(links)
    (tmp_path / "all").symlink_to(planes)
    np.testing.assert_array_equal(_voxels(tmp_path / "all"), SECRET)
    (planes / "plane_03.tif").rename(planes / "a")
    (planes / "plane_03.tif").symlink_to("a")
    np.testing.assert_array_equal(_voxels(planes), SECRET)


def _planted(folder: Path, moves: list[list[object]], **owner: object) -> Path:
    """What looks as if a process of ours had died while it put a set in place."""
    hidden = folder / ".lsfm-0123abcd.partial"
    for part in ("new", "old"):
        (hidden / part).mkdir(parents=True)
    (hidden / "new" / "a.tif").write_bytes(b"evil")
    (hidden / "owner").write_text(json.dumps({"targets": ["a.tif"], **owner}))
    (hidden / "commit").write_text(json.dumps({"moves": moves}))
    return hidden


@pytest.mark.parametrize(
    "path",
    ["../victim", "{}/victim", "link/victim", ".lsfm-0123abcd.partial/../../victim"],
    ids=["dots", "absolute", "link", "through"],
)
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_no_journal_from_a_stranger_moves_files_elsewhere(path: str, force: list[str], tmp_path: Path) -> None:
    """A folder can come with what says that renames are to be completed: only such as our own would be."""
    folder, victim = tmp_path / "data", tmp_path / "victim"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    victim.write_bytes(b"mine")
    status = victim.stat()
    before = [status.st_ino, status.st_size, status.st_mtime_ns]
    hidden = ".lsfm-0123abcd.partial"
    moves = [[f"{hidden}/new/a.tif", f"{hidden}/old/a.tif", path.format(tmp_path), before]]
    for wrong in (moves, [[str(victim), f"{hidden}/old/a", "a.tif", None]], [[f"{hidden}/new/a.tif", "../victim2", "a.tif", None]]):
        _planted(folder, wrong)
        main(["recover", str(folder), *force])
        assert victim.read_bytes() == b"mine" and {p.name for p in tmp_path.iterdir()} == {"data", "victim"}
        shutil.rmtree(folder / hidden)
        (folder / "a.tif").unlink(missing_ok=True)


def test_a_link_for_a_hidden_folder_is_not_cleared(tmp_path: Path) -> None:
    folder, mine = tmp_path / "data", tmp_path / "mine"
    folder.mkdir()
    (mine / "new").mkdir(parents=True)
    (mine / "commit").write_text("precious")
    (folder / ".lsfm-0123abcd.partial").symlink_to(mine)
    (folder / "b").mkdir()
    other = _planted(folder / "b", [], home="../../mine")
    (other / "commit").unlink()
    for place in (folder, folder / "b"):
        main(["recover", str(place), "--force"])
    assert (mine / "commit").read_text() == "precious" and (mine / "new").is_dir()


@pytest.mark.parametrize("name", ["brain.xml", "brain.h5-lock", "brain.settings.xml", "brain.h5-journal", ".lsfm-0.partial/owner"])
@pytest.mark.parametrize("command", ["info", "verify", "add-metadata a=b", "preview --output {}/a.png"])
def test_pipes_among_the_files_of_a_data_set_let_nobody_wait(command: str, name: str, small_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "brain.h5"
    shutil.copy(small_file, path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    verb, *options = [word.format(tmp_path) for word in command.split()]
    watch = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waits for a pipe"))
    signal.alarm(20)
    try:
        assert main([verb, str(path), *options]) in (0, 1, 3, 4)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, watch)


# --- sizes that no memory holds -----------------------------------------------------------------------------------------------


def test_a_level_of_unbelievable_size_is_no_work_to_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def huge(group: h5py.Group, _: Path) -> None:
        group.create_dataset("cells", (2**40, 2**20, 8), "uint16", chunks=(64, 64, 8))

    path = _data_set(tmp_path / "data", huge, tmp_path)
    assert main(["info", str(path)]) == 0
    assert "1099511627776 x 1048576 x 8" in capsys.readouterr().out
    assert main(["verify", str(path)]) == 4  # there is no XML


def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    def circle(group: h5py.Group, _: Path) -> None:
        group["cells"] = h5py.SoftLink(f"{group.name}/cells")

    with open_lsfm(_data_set(tmp_path / "data", circle, tmp_path)) as file, pytest.raises(FormatError, match="too many links"):
        file.channels  # noqa: B018


# --- texts that do something --------------------------------------------------------------------------------------------------

BDV_XML = """<SpimData version="0.2"><BasePath type="relative">.</BasePath><SequenceDescription>
<ImageLoader format="bdv.hdf5"><hdf5 type="relative">dataset.h5</hdf5></ImageLoader>
<ViewSetups>{setups}</ViewSetups><Timepoints type="range"><first>0</first><last>{last}</last></Timepoints></SequenceDescription>
<ViewRegistrations>{registrations}</ViewRegistrations></SpimData>"""
SETUP = (
    "<ViewSetup><id>{0}</id><name>{1}</name><size>12 10 8</size>"
    "<voxelSize><unit>um</unit><size>4 4 5</size></voxelSize></ViewSetup>"
)
REGISTRATION = '<ViewRegistration timepoint="0" setup="{0}"></ViewRegistration>'


def _plain_data(group: h5py.Group, _: Path) -> None:
    group.create_dataset("cells", data=SECRET, chunks=(8, 8, 8))


def test_no_name_in_a_file_can_command_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _data_set(tmp_path / "data", _plain_data, tmp_path)
    with h5py.File(path, "a") as file:
        file.create_group("extended_metadata").attrs["note"] = "a\x1b]0;title\x07b\u202ec"
    path.with_suffix(".xml").write_text(
        BDV_XML.format(setups=SETUP.format(0, "x\x9b31my\u202ez"), last=0, registrations=REGISTRATION.format(0))
    )
    assert main(["info", str(path)]) == 0
    assert main(["get-metadata", str(path), "note"]) == 0
    assert main(["export", str(path), "--channel", "\x1b[31m", "--output", str(tmp_path / "o.nii")]) == 3
    said = capsys.readouterr()
    assert "x\\x9b31my\\u202ez" in said.out
    assert "a\\x1b]0;title\\x07b\\u202ec" in said.out
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", said.out + said.err)


def test_an_endless_range_of_timepoints_is_no_list_of_them(tmp_path: Path, small_file: Path) -> None:
    path = _data_set(tmp_path / "data", _plain_data, tmp_path)
    path.with_suffix(".xml").write_text(
        BDV_XML.format(setups=SETUP.format(0, "a"), last=10**11, registrations=REGISTRATION.format(0))
    )
    assert main(["add-metadata", str(path), "specimen=mouse-42"]) == 0
    assert main(["info", str(path)]) == 0


def test_a_recipe_whose_aliases_multiply_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (tmp_path / "bomb.yaml").write_text("\n".join([*lines, "steps: *a8"]))
    assert main(["run", str(tmp_path / "bomb.yaml")]) == 3
    assert "its aliases repeat each other" in capsys.readouterr().err
    (tmp_path / "circle.yaml").write_text("steps: &a [*a]\n")
    assert main(["run", str(tmp_path / "circle.yaml")]) == 3
    (tmp_path / "deep.yaml").write_text("steps: " + "[" * 5000 + "]" * 5000)
    assert main(["run", str(tmp_path / "deep.yaml")]) == 3
    assert "this is a bug" not in capsys.readouterr().err


MANIFEST = {
    "format": "lsfm chunks",
    "version": 1,
    "name": "a",
    "kind": "image",
    "shape": [4, 4, 4],
    "world_from_voxel": np.eye(4).tolist(),
    "chunks": [{"file": "chunk.nii.gz", "index_ras": [0, 0, 0], "start": [0, 0, 0], "shape": [4, 4, 4]}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunks": []}, "chunks: .*at least 1"),
        ({"kind": "cake"}, "kind: "),
        ({"shape": [2**40, 1]}, "shape: "),
        ({"world_from_voxel": "no"}, "world_from_voxel: "),
        ({"chunks": [MANIFEST["chunks"][0] | {"file": "../../secret.nii.gz"}]}, "chunks: 0: file: "),  # type: ignore[index]
        ({"chunks": [MANIFEST["chunks"][0] | {"start": [2, 0, 0]}]}, "reaches out of the image"),  # type: ignore[index]
        ({"version": None}, "version: "),
    ],
)
def test_a_manifest_is_not_believed(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(MANIFEST | change))
    with pytest.raises(InputError, match=rf"manifest\.json: is no manifest of chunks.*{message}"):
        merge_chunks(MergeRequest(manifest=path, output=tmp_path / "whole.nii"))
