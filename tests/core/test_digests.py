"""Flipped bits anywhere in a file: verify finds each, or it changes nothing; none gives wrong voxels or geometry without a word."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from lsfm_core import (
    ChecksumError,
    IngestRequest,
    RenameChannelRequest,
    RepackRequest,
    SealRequest,
    apply_edit,
    ingest_channel,
    open_lsfm,
    repack_file,
    verify_file,
)
from lsfm_core.cli import main

from . import children

#: Single flips, and from which number on they are drawn; a soak asks for more.
FLIPS = int(os.environ.get("LSFM_FLIPS", "60"))
IMAGE = np.random.default_rng(0).integers(0, 1000, (20, 22, 24)).astype(np.uint16)
PLACE = {"voxel_size_mm": (0.05, 0.04, 0.04), "orientation": "AIR"}

# For each file: what verify says, and all that can be read of it; a child, for HDF5 may crash.
_LOOK = """
import faulthandler, json, sys, zlib
import numpy as np
from lsfm_core import LsfmError, describe_file, open_lsfm, verify_file

faulthandler.dump_traceback_later(900, exit=True)
for name in sys.argv[1:]:
    try:
        defects = [str(defect) for defect in verify_file(name).defects]
    except LsfmError as error:
        defects = [str(error)]
    read = {}
    try:
        with open_lsfm(name) as file:
            for channel in file.channels.values():
                try:
                    levels = [int(np.asarray(level[...]).astype(np.int64).sum()) for level in channel.levels]
                    first = np.asarray(channel.levels[0][...]).tobytes()
                    read[channel.name] = [
                        channel.kind, levels, zlib.crc32(first),
                        [level.space.world_from_voxel.tolist() for level in channel.levels],
                        channel.unit, channel.space_name, file.label_table(channel.name),
                        [file.affine(channel.name, affine).matrix.tolist() for affine in channel.affines],
                    ]
                except LsfmError as error:
                    read[channel.name] = "refused"
    except LsfmError:
        read = "refused"
    print(json.dumps([defects, read]))
"""


@pytest.mark.slow
def test_every_flipped_bit_is_found_or_harmless(small_file: Path, tmp_path: Path) -> None:
    data = small_file.read_bytes()
    names = []
    for number in range(FLIPS):
        dice = random.Random(number)
        flipped = bytearray(data)
        flipped[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        # With its XML, of the same name.
        names.append(tmp_path / str(number) / "brain.h5")
        names[-1].parent.mkdir()
        names[-1].write_bytes(flipped)
        shutil.copy(small_file.with_suffix(".xml"), names[-1].parent)
    command = [sys.executable, "-c", _LOOK, str(small_file), *map(str, names)]
    done = children.run(command, capture_output=True, text=True, check=False, timeout=1000)
    assert done.returncode == 0, done.stderr[-3000:]
    (defects, truth), *results = map(json.loads, done.stdout.splitlines())
    assert defects == []
    for name, (found, read) in zip(names, results, strict=True):
        # What was read is right, or refused: whole channels, or the file.
        wrong = {} if read == "refused" else {k: v for k, v in read.items() if v not in ("refused", truth.get(k))}
        assert not wrong, f"{name}: {wrong}"
        if not found:
            assert read == truth, f"{name}: verify says nothing"


def read_all(path: Path) -> None:
    """What anybody who opens a file may read."""
    with open_lsfm(path) as file:
        for channel in file.channels.values():
            np.asarray(channel.levels[0][...])
            file.label_table(channel.name)
        file.log()


def _first_affine(file: h5py.File) -> None:
    matrix = file["LSFM/autofluo/IMAGE/0"].attrs["world_from_voxel"]
    matrix[0, 2] *= -1
    file["LSFM/autofluo/IMAGE/0"].attrs["world_from_voxel"] = matrix


def _exchange_chunks(file: h5py.File) -> None:
    cells = file["LSFM/autofluo/IMAGE/0/cells"]
    cells.id.write_direct_chunk((0, 0, 0), file["LSFM/atlas/IMAGE/0/cells"].id.read_direct_chunk((0, 0, 0))[1])


def _mask_filters(file: h5py.File) -> None:
    cells = file["LSFM/autofluo/IMAGE/0/cells"]
    _, data = cells.id.read_direct_chunk((0, 0, 0))
    # As if it had no checksum: other voxels would pass as well.
    cells.id.write_direct_chunk((0, 0, 0), data[:-4], 0b100)


def _label_table(file: h5py.File) -> None:
    text = file["LSFM/atlas/LABELS"].asstr()[()].replace("first", "worst")
    del file["LSFM/atlas/LABELS"]
    file["LSFM/atlas/LABELS"] = text


def _log(file: h5py.File) -> None:
    name = next(iter(file["log"]))
    del file[f"log/{name}"]


@pytest.mark.parametrize("change", [_first_affine, _exchange_chunks, _mask_filters, _label_table, _log])
def test_what_has_no_checksum_in_hdf5_is_found_by_its_digest(
    change: Callable[[h5py.File], None], small_file: Path, tmp_path: Path
) -> None:
    for suffix in (".h5", ".xml"):
        shutil.copy(small_file.with_suffix(suffix), tmp_path)
    path = tmp_path / "brain.h5"
    assert not verify_file(path).defects
    read_all(path)
    with h5py.File(path, "r+") as file:
        change(file)
    assert verify_file(path).defects
    with pytest.raises(ChecksumError):
        read_all(path)


def test_a_damaged_file_is_not_changed_until_it_is_sealed(small_file: Path, tmp_path: Path) -> None:
    for suffix in (".h5", ".xml"):
        shutil.copy(small_file.with_suffix(suffix), tmp_path)
    path = tmp_path / "brain.h5"
    with h5py.File(path, "r+") as file:
        _first_affine(file)
    before = path.read_bytes()
    with pytest.raises(ChecksumError, match=r"LSFM/autofluo/IMAGE/0 is not what was written.*lsfm-core seal"):
        apply_edit(RenameChannelRequest(path=path, channel="atlas", new_name="other"))
    with pytest.raises(ChecksumError):
        repack_file(RepackRequest(path=path, output=tmp_path / "copy.h5"))
    assert path.read_bytes() == before
    report = apply_edit(SealRequest(path=path))
    assert "LSFM/autofluo/IMAGE/0 is not what was written" in report.text
    apply_edit(RenameChannelRequest(path=path, channel="atlas", new_name="other"))


@pytest.mark.parametrize("by", ["repack", "seal"])
def test_files_without_digests_get_them(by: str, small_file: Path, tmp_path: Path) -> None:
    for suffix in (".h5", ".xml"):
        shutil.copy(small_file.with_suffix(suffix), tmp_path)
    path = tmp_path / "brain.h5"
    with h5py.File(path, "r+") as file:
        del file["LSFM_DIGESTS"], file.attrs["LSFM_has_digests"]
    assert not verify_file(path).defects
    assert main([by, str(path)]) == 0
    assert not verify_file(path).defects
    with h5py.File(path, "r+") as file:
        for level, cells in enumerate(file["LSFM/autofluo/IMAGE"].values()):
            uuid = file["LSFM/autofluo"].attrs["uuid"]
            table = file[f"LSFM_DIGESTS/chunks/{uuid}/{level}"][()]
            stored = cells["cells"].id.read_direct_chunk((0, 0, 0))[1]
            assert table[0, 0, 0] == int.from_bytes(stored[-4:], "little")
        _exchange_chunks(file)
    assert verify_file(path).defects


def test_renaming_replacing_and_removing_keep_digests_right(small_file: Path, tmp_path: Path) -> None:
    for suffix in (".h5", ".xml"):
        shutil.copy(small_file.with_suffix(suffix), tmp_path)
    path = tmp_path / "brain.h5"
    for line in (
        ["rename-channel", str(path), "--channel", "autofluo", "--to", "structural"],
        ["add-metadata", str(path), "--channel", "structural", "gain=2"],
        ["remove-channel", str(path), "--channel", "atlas"],
    ):
        assert main(line) == 0
        assert not verify_file(path, levels=True).defects
    ingest_channel(IngestRequest(path=path, channel="structural", image=IMAGE // 2, replace=True, **PLACE))
    assert not verify_file(path, levels=True).defects
    with open_lsfm(path) as file:
        np.testing.assert_array_equal(file["structural"].levels[0][...], IMAGE // 2)
    with h5py.File(path) as raw:
        assert list(raw["LSFM_DIGESTS/chunks"]) == [raw["LSFM/structural"].attrs["uuid"]]


def test_what_bigdataviewer_reads_of_a_channel_has_digests_too(small_file: Path) -> None:
    with h5py.File(small_file) as file:
        recorded = json.loads(bytes(file["LSFM_DIGESTS/structure"][()]).split(b"\n", 1)[1])
    # Two channels: setups 0 and 1, of one level each.
    parts = [
        f"{place}{part}"
        for s in ("s00", "s01")
        for place, part in ((s, "/resolutions"), (s, "/subdivisions"), ("t00000/", f"{s}/0"))
    ]
    assert set(parts) <= recorded.keys()


@pytest.mark.parametrize("part", ["s00/resolutions", "s01/subdivisions"])
def test_values_that_bigdataviewer_alone_reads_have_digests(part: str, small_file: Path, tmp_path: Path) -> None:
    for suffix in (".h5", ".xml"):
        shutil.copy(small_file.with_suffix(suffix), tmp_path)
    path = tmp_path / "brain.h5"
    with h5py.File(path, "r+") as file:
        file[part][0, 1] += 1
    assert any(f"{part} is not what was written" in str(defect) for defect in verify_file(path).defects)
