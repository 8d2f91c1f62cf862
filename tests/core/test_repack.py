"""Repack: everything is as it was but the storage; the old file or the new one, whole, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import npy2bdv
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsfm_core import (
    BusyError,
    CancelledError,
    CancelToken,
    ChecksumError,
    ExistsError,
    FormatError,
    IngestRequest,
    InputError,
    LsfmError,
    MemoryBudgetError,
    MissingError,
    RepackReport,
    RepackRequest,
    StorageError,
    ingest_channel,
    open_lsfm,
    repack_file,
    verify_file,
    write_xml,
)
from lsfm_core.cli import main
from lsfm_core.durable import JournaledFile, _change, _disk, partial_path
from lsfm_core.store import edit_lsfm, repack
from lsfm_core.testing import write_series

from . import children
from .effort import examples

Ingester = Callable[..., Any]
OURS = [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32]


def run(path: Path, **fields: Any) -> RepackReport:
    return repack_file(RepackRequest(path=path, **fields))


# --- two files, walked by h5py alone -------------------------------------------------------------------------------------------


LEFT_OUT = ("LSFM_INCOMPLETE", "LSFM_DIGESTS")


def differences(first: h5py.File, second: h5py.File, without: tuple[str, ...] = ()) -> list[str]:
    """Everything in which two files differ, but how data are stored."""
    found: list[str] = []
    twins: dict[int, int] = {}

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, h5py.Empty) or isinstance(b, h5py.Empty):
            return isinstance(a, h5py.Empty) and isinstance(b, h5py.Empty) and a.dtype == b.dtype
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if a.dtype.names and a.dtype.hasobject:
            return all(same(a[name], b[name]) for name in a.dtype.names)
        if not a.dtype.hasobject:
            return a.tobytes() == b.tobytes()
        return all(same_one(x, y) for x, y in zip(a.ravel(), b.ravel(), strict=True))

    def same_one(x: Any, y: Any) -> bool:
        if isinstance(x, h5py.RegionReference):
            return bool(x) == bool(y) and (not x or (first[x].name == second[y].name and same(first[x][x], second[y][y])))
        if isinstance(x, h5py.Reference):
            return bool(x) == bool(y) and (not x or first[x].name == second[y].name)
        return same(x, y) if isinstance(x, np.ndarray) else x == y

    def sources(dataset: h5py.Dataset) -> list[Any]:
        return [(s.file_name, s.dset_name, s.src_space.get_select_bounds()) for s in dataset.virtual_sources()]

    def walk(a: Any, b: Any) -> None:
        where = f"{a.name}: "
        if type(a) is not type(b):
            found.append(f"{where}{a} {b}")
            return
        # Two names of one object stay two names of one object.
        pair = [h5py.h5o.get_info(node.id).addr for node in (a, b)]
        if pair[0] in twins:
            if twins[pair[0]] != pair[1]:
                found.append(f"{where}other object")
            return
        if pair[1] in twins.values():
            found.append(f"{where}was another object")
        twins[pair[0]] = pair[1]
        if list(a.attrs) != list(b.attrs):
            found.append(f"{where}attributes {list(a.attrs)} {list(b.attrs)}")
        for name in set(a.attrs) & set(b.attrs):
            kinds = [h5py.h5a.open(node.id, name.encode()).get_type() for node in (a, b)]
            if not same(a.attrs[name], b.attrs[name]) or not kinds[0].equal(kinds[1]):
                found.append(f"{where}attribute {name}")
        if isinstance(a, h5py.Dataset):
            if (a.shape, a.maxshape, a.dtype) != (b.shape, b.maxshape, b.dtype) or not a.id.get_type().equal(b.id.get_type()):
                found.append(f"{where}shape or type")
            elif a.is_virtual != b.is_virtual or (a.is_virtual and sources(a) != sources(b)):
                found.append(f"{where}virtual sources")
            elif a.name not in without and not same(a[()], b[()]):
                found.append(f"{where}data")
            if not same(a.fillvalue, b.fillvalue):
                found.append(f"{where}fill value")
        if isinstance(a, h5py.Datatype) and a.dtype != b.dtype:
            found.append(f"{where}type")
        if isinstance(a, h5py.Group):
            # Digests are made anew; verify compares them with what there is.
            names, others = ([name for name in group if group.name != "/" or name not in LEFT_OUT] for group in (a, b))
            if names != others:
                found.append(f"{where}members {names} {others}")
            for name in set(names) & set(others):
                links = [node.get(name, getlink=True) for node in (a, b)]
                if [type(links[0]), vars(links[0])] != [type(links[1]), vars(links[1])]:
                    found.append(f"{where}link {name}")
                elif isinstance(links[0], h5py.HardLink):
                    walk(a[name], b[name])

    walk(first["/"], second["/"])
    return found


def compare(old: Path, new: Path, without: tuple[str, ...] = ()) -> None:
    with h5py.File(old) as first, h5py.File(new) as second:
        assert differences(first, second, without) == []


def in_our_bounds(path: Path) -> None:
    """Superblock 0, and of the filters only those that BigDataViewer knows."""
    assert path.read_bytes()[8] == 0

    def check(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            plist = node.id.get_create_plist()
            assert {plist.get_filter(index)[0] for index in range(plist.get_nfilters())} <= set(OURS), name

    with h5py.File(path) as file:
        file.visititems(check)


# --- everything survives -------------------------------------------------------------------------------------------------------


def rich(path: Path, libver: Any = None) -> Path:
    """A file with whatever HDF5 can hold, beside a setup that makes it one of BigDataViewer's."""
    rng = np.random.default_rng(1)
    with h5py.File(path, "w", libver=libver, track_order=True) as file:
        voxels = rng.integers(0, 99, (20, 33, 17)).astype("i2")
        file.create_dataset("t00000/s00/0/cells", data=voxels, chunks=(8, 8, 8), compression="gzip", fillvalue=7)
        file["s00/resolutions"] = np.ones((1, 3))
        file["s00/subdivisions"] = np.full((1, 3), 8, "i4")
        cells = file["t00000/s00/0/cells"]
        file["zz/again"] = cells
        file["zz/loop"] = file["zz"]
        file["aa/soft"] = h5py.SoftLink("/zz/again")
        file["aa/nowhere"] = h5py.SoftLink("/no/such")
        file["aa/external"] = h5py.ExternalLink("other.h5", "/x")
        file["LSFM_INCOMPLETE/cells"] = np.arange(9)
        file["log/x"] = np.bytes_(b"text with \0 inside")
        pair = np.dtype([("a", ">i2"), ("b", "S5"), ("c", "f4", (2,))], align=True)
        file["table"] = np.array([(1, b"x", (1, 2)), (-5, b"abcde", (3, 4))], pair)
        file["type"] = pair
        file.create_dataset("typed", (3,), dtype=file["type"])
        file["strings"] = np.array(["", "µ", "long " * 99], h5py.string_dtype())
        ragged = file.create_dataset("ragged", (5,), h5py.vlen_dtype("u2"), chunks=(2,), maxshape=(None,))
        ragged[0], ragged[1] = [1, 2], [3]
        file["empty"] = h5py.Empty("f4")
        file["nothing"] = np.empty((0, 3), "u1")
        file["bool"] = np.array([True, False])
        file.create_dataset("big endian", data=rng.normal(size=(9, 9)).astype(">f8"), chunks=(4, 5), shuffle=True)
        file.create_dataset("lzf", data=np.arange(1000, dtype="u4"), chunks=(100,), compression="lzf", fletcher32=True)
        file.create_dataset("offset", data=np.arange(100, dtype="i4").reshape(10, 10), chunks=(4, 4), scaleoffset=0)
        file.create_dataset("szip", data=np.arange(256, dtype="u2"), chunks=(64,), compression="szip")
        file.create_dataset("sparse", (10**6, 10**6, 10**3), "u1", maxshape=(None,) * 3, chunks=(64, 64, 64), fillvalue=3)[
            9**5, 9**5, 9
        ] = 1
        file.create_dataset("never", (50,), "u1", chunks=(8,), fillvalue=9)
        file.create_dataset("grows", (5, 2), "u1", maxshape=(None, 7), chunks=(99, 7))[1] = 5
        file.create_dataset("checked first", data=rng.integers(0, 9, 64), chunks=(16,), dcpl=_checksum_first())
        layout = h5py.VirtualLayout((20, 17), "i2")
        layout[...] = h5py.VirtualSource(".", "t00000/s00/0/cells", voxels.shape)[:, 3]
        file.create_virtual_dataset("virtual", layout)
        file["references"] = np.array([cells.ref, file["zz"].ref, h5py.Reference()], h5py.ref_dtype)
        file["regions"] = np.array([cells.regionref[2:4, 5, 6]], h5py.regionref_dtype)
        mixed = file.create_dataset("mixed", (1,), [("ref", h5py.ref_dtype), ("n", "i4"), ("s", h5py.string_dtype())])
        mixed[0] = (cells.ref, 5, "x")
        lists = file.create_dataset("lists", (1,), h5py.vlen_dtype(h5py.ref_dtype))
        lists[0] = np.array([cells.ref, file["log"].ref], h5py.ref_dtype)
        cells.dims[0].label = "z"
        file["scale"] = np.arange(20)
        file["scale"].make_scale("depth")
        cells.dims[0].attach_scale(file["scale"])
        for node in (file, cells, file["zz"], file["type"]):
            node.attrs["z last"] = 1
            node.attrs["a first"] = ["a", "µ"]
            node.attrs["flag"] = True
            node.attrs["none"] = h5py.Empty("i8")
            node.attrs["fixed"] = np.bytes_(b"abc")
            node.attrs["pair"] = np.zeros(2, pair)
            node.attrs["where"] = cells.ref
            node.attrs["colour"] = np.array(1, h5py.enum_dtype({"red": 1, "blue": -2}, "i1"))
            node.attrs["complex"] = 1 + 2j
            node.attrs["opaque"] = np.array([b"ab"], h5py.opaque_dtype(np.dtype("V2")))
            node.attrs.create("typed", np.zeros((), pair), dtype=file["type"])
    return path


def _checksum_first() -> Any:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_fletcher32()
    plist.set_shuffle()
    plist.set_deflate(2)
    return plist


@pytest.mark.parametrize("libver", [None, "latest"])
@pytest.mark.parametrize("change", [{}, {"compression": 2}, {"compression": 0}, {"rechunk": (5, 64, 4)}], ids=str)
def test_everything_survives(change: dict[str, Any], libver: Any, tmp_path: Path) -> None:
    old, new = rich(tmp_path / "old.h5", libver), tmp_path / "new.h5"
    before = old.read_bytes()
    # A piece of "sparse" only: the whole would not fit into memory.
    with h5py.File(old) as file:
        ghost = file["sparse"].name
    report = run(old, output=new, **change)
    assert old.read_bytes() == before
    assert report.new_bytes == new.stat().st_size
    compare(old, new, (ghost, "/s00/subdivisions"))
    in_our_bounds(new)
    with h5py.File(old) as first, h5py.File(new) as second:
        for name in ("sparse", "never"):
            assert second[name].id.get_num_chunks() == first[name].id.get_num_chunks() < 2
        assert second["sparse"][9**5, 9**5, 8:11].tolist() == [3, 1, 3]
        assert second["typed"].id.get_type().committed()
        cells = second["t00000/s00/0/cells"]
        chunks = change.get("rechunk", (8, 8, 8))
        assert cells.chunks == tuple(min(c, n) for c, n in zip(chunks, cells.shape, strict=True))
        np.testing.assert_array_equal(second["s00/subdivisions"][()], [cells.chunks[::-1]])
        filters = [cells.id.get_create_plist().get_filter(n)[0] for n in range(cells.id.get_create_plist().get_nfilters())]
        if "compression" in change:
            assert filters == (OURS if change["compression"] else OURS[2:])
        assert [name for name, _ in cells.attrs.items()][-11:-9] != sorted(cells.attrs)[:2]
    # And once more, in place.
    run(new)
    compare(old, new, (ghost, "/s00/subdivisions"))


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Steps that make a file."""
    dtype = st.sampled_from(["u1", "<i2", ">u2", "<f4", ">f8", "c8", "S3", "V5", "?"])
    shape = st.lists(st.integers(1, 12), min_size=3, max_size=4)
    name = st.sampled_from(["cells", "x", "y", "µ", "with blank"])
    storage = st.sampled_from(["none", "gzip", "lzf", "plain", "fletcher", "shuffle"])
    dataset = st.tuples(st.just("dataset"), name, dtype, shape, st.integers(1, 13), storage, st.booleans(), st.integers(0, 2**31))
    link = st.tuples(st.sampled_from(["hard", "soft", "external"]), name, st.integers(0, 9))
    attribute = st.tuples(st.just("attribute"), name, st.integers(0, 9), st.one_of(st.integers(-9, 9), st.text("aµ", max_size=3)))
    group = st.tuples(st.just("group"), name)
    return draw(st.lists(st.one_of(dataset, link, attribute, group), max_size=12))


def plant(file: h5py.File, steps: list[tuple[Any, ...]]) -> None:
    file["s00/resolutions"] = np.ones((1, 3))
    nodes: list[Any] = [file["s00"]]
    for number, (step, last, *rest) in enumerate(steps):
        groups = [node for node in nodes if isinstance(node, h5py.Group)]
        group = groups[number % len(groups)]
        name = f"{number}/{last}"
        if step == "group":
            nodes.append(group.create_group(name))
        elif step == "attribute":
            nodes[rest[0] % len(nodes)].attrs[name] = rest[1]
        elif step == "hard":
            group[name] = nodes[rest[0] % len(nodes)]
        elif step == "soft":
            group[name] = h5py.SoftLink(nodes[rest[0] % len(nodes)].name)
        elif step == "external":
            group[name] = h5py.ExternalLink(f"{rest[0]}.h5", "/a")
        else:
            dtype, shape, side, storage, part, seed = rest
            options: dict[str, Any] = {
                "none": {},
                "gzip": {"compression": "gzip", "shuffle": True},
                "lzf": {"compression": "lzf"},
                "plain": {},
                "fletcher": {"fletcher32": True},
                "shuffle": {"shuffle": True},
            }[storage]
            if storage != "none":
                options["chunks"] = tuple(min(side, n) for n in shape)
            values = np.frombuffer(np.random.default_rng(seed).bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype)
            values = values.reshape(shape) if dtype != "?" else (np.arange(np.prod(shape)) % 3 > 0).reshape(shape)
            node = group.create_dataset(name, shape, dtype, **options)
            half = shape[0] // 2 if part else shape[0]
            node[:half] = values[:half]
            nodes.append(node)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    trees(),
    st.one_of(st.none(), st.integers(0, 3)),
    st.one_of(st.none(), st.tuples(*[st.integers(1, 14)] * 3)),
    st.sampled_from([None, "latest"]),
)
def test_random_trees_survive(steps: list[Any], level: int | None, chunks: Any, libver: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder) / "old.h5", Path(folder) / "new.h5"
        with h5py.File(old, "w", libver=libver) as file:
            plant(file, steps)
        run(old, output=new, compression=level, rechunk=chunks, memory_bytes=95_000_000, threads=2)
        compare(old, new)
        in_our_bounds(new)


# --- what it is for -------------------------------------------------------------------------------------------------------------


def two_channels(tmp_path: Path, ingest_series: Ingester, volume: Any, name: str = "brain.h5", **fields: Any) -> Path:
    for channel in ("gone", "stays"):
        image = write_series(tmp_path / channel, volume if channel == "stays" else volume[::-1])
        ingest_series(image, path=tmp_path / name, channel=channel, **fields)
    return tmp_path / name


def test_the_space_of_a_removed_channel_is_given_back(
    tmp_path: Path, ingest_series: Ingester, volume: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = two_channels(tmp_path, ingest_series, volume)
    (tmp_path / "fresh").mkdir()
    ingest_series(tmp_path / "stays", path=tmp_path / "fresh" / "brain.h5", channel="stays")
    fresh = (tmp_path / "fresh" / "brain.h5").stat().st_size
    path.chmod(0o640)
    with edit_lsfm(path) as editor:
        editor.remove_channel("gone")
    full = path.stat().st_size
    assert main(["repack", str(path), "--dry-run"]) == 0
    said = re.search(r"-> at most about ([\d.]+) MB; (\d+) chunks copied, 0 encoded", capsys.readouterr().out)
    assert said is not None and fresh <= float(said[1]) * 1e6 + 1e5 < 1.1 * fresh + 1e5
    assert path.stat().st_size == full
    with path.open("rb") as old:
        before = old.read()
        assert main(["repack", str(path)]) == 0
        old.seek(0)
        assert old.read() == before, "replaced, not written over"
    assert f"{said[2]} chunks copied, 0 encoded anew; read back and compared" in capsys.readouterr().out
    assert path.stat().st_size == pytest.approx(fresh, rel=0.02)
    assert fresh < 0.6 * full
    assert path.stat().st_mode & 0o777 == 0o640
    assert not list(tmp_path.glob("*.partial"))
    assert verify_file(path, levels=True).defects == ()
    with open_lsfm(path) as file:
        np.testing.assert_array_equal(np.asarray(file["stays"].levels[0][...]), volume)


@pytest.mark.parametrize(
    ("change", "recoded"),
    [({"compression": 3}, True), ({"compression": 0}, True), ({"compression": 1}, False), ({"rechunk": (16, 32, 200)}, True)],
    ids=str,
)
def test_channels_of_all_kinds(change: dict[str, Any], recoded: bool, tmp_path: Path, ingest_series: Ingester, volume: Any) -> None:
    path = two_channels(tmp_path, ingest_series, volume)
    ingest_series(write_series(tmp_path / "ids", volume % 7), channel="ids", kind="labels")
    field = np.random.default_rng(0).normal(size=(9, 30, 11, 3)).astype("f4")
    ingest_series_array(path, field)
    before = path.read_bytes()
    new = tmp_path / "new.h5"
    report = run(path, output=new, **change)
    assert path.read_bytes() == before
    assert report.recoded_chunks > 9 * report.copied_chunks if recoded else not report.recoded_chunks
    tables = [f"/s{setup:02d}/subdivisions" for setup in range(3)] if "rechunk" in change else []
    compare(path, new, tuple(tables))
    assert verify_file(new, levels=True).defects == ()
    in_our_bounds(new)
    with open_lsfm(new) as file:
        assert list(file) == ["gone", "stays", "ids", "warp"]
        if "rechunk" in change:
            assert file["stays"].levels[0].data.chunks == (16, 32, 83)
            assert file["warp"].levels[0].data.chunks == (9, 30, 11, 3)
    with h5py.File(new) as file:
        cells = file["LSFM/stays/IMAGE/0/cells"]
        if change.get("compression"):
            assert cells.compression_opts == change["compression"]
    # The new XML is the old one, but for the name.
    assert (tmp_path / "new.xml").read_text() == (tmp_path / "brain.xml").read_text().replace("brain.h5", "new.h5")


def ingest_series_array(path: Path, field: Any) -> None:
    request = IngestRequest(path=path, channel="warp", image=field, kind="vectors", voxel_size_mm=(1, 1, 1), orientation="RAS")
    ingest_channel(request)


@pytest.mark.parametrize("change", [{}, {"compression": 1}, {"rechunk": (32, 32, 32)}], ids=str)
def test_lsfmpys_file(change: dict[str, Any], legacy_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "mouse42.h5"
    for source in (legacy_file, legacy_file.with_suffix(".xml")):
        shutil.copyfile(source, tmp_path / source.name)
    run(path, **change)
    compare(legacy_file, path, ("/s00/subdivisions",))
    in_our_bounds(path)
    assert {str(d) for d in verify_file(path).defects} == {str(d) for d in verify_file(legacy_file).defects}
    with open_lsfm(path) as file, open_lsfm(legacy_file) as old:
        assert list(file) == list(old)
        for name in old:
            assert file[name].remarks == old[name].remarks
            np.testing.assert_array_equal(np.asarray(file[name].levels[0][...]), np.asarray(old[name].levels[0][...]))


# --- others judge it ------------------------------------------------------------------------------------------------------------


def newest(path: Path, volume: Any) -> Path:
    """What a careless program writes: the newest HDF5, and a filter that BigDataViewer does not know."""
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("t00000/s00/0/cells", data=volume, chunks=(16, 16, 16), compression="lzf")
        file["s00/resolutions"], file["s00/subdivisions"] = np.ones((1, 3)), np.full((1, 3), 16, "i4")
        file["s00"].attrs["dataType"] = "uint16"
        file["s00"].attrs["flag"] = True
    write_xml(path)
    return path


@pytest.mark.slow
def test_bioformats_reads_a_repacked_file(tmp_path: Path, volume: Any, bioformats: Callable[..., str]) -> None:
    path = newest(tmp_path / "new.h5", volume)
    out = tmp_path / "plane.tif"
    with pytest.raises(AssertionError):
        bioformats("ImageConverter", "-range", "10", "10", path.with_suffix(".xml"), out)
    for change in ({}, {"rechunk": (7, 64, 32)}):
        run(path, **change)
        bioformats("ImageConverter", "-overwrite", "-range", "10", "10", path.with_suffix(".xml"), out)
        np.testing.assert_array_equal(tifffile.imread(out), volume[10])


def test_npy2bdv_reads_a_repacked_file(tmp_path: Path, ingest_series: Ingester, volume: Any) -> None:
    path = two_channels(tmp_path, ingest_series, volume)
    run(path, output=tmp_path / "new.h5", rechunk=(8, 100, 30), compression=2)
    editor = npy2bdv.BdvEditor(str(tmp_path / "new.h5"), mode="r")
    try:
        assert editor.nsetups == 2
        np.testing.assert_array_equal(editor.read_view(channel=1), volume)
        np.testing.assert_array_equal(editor.read_view(channel=0), volume[::-1])
    finally:
        editor.finalize()


# --- nothing is ever lost -------------------------------------------------------------------------------------------------------

_FOREVER = """
import sys
from lsfm_core import RepackRequest, repack_file
print("go", flush=True)
for number in range(10**9):
    repack_file(RepackRequest(path=sys.argv[1], compression=number % 4, rechunk=(8 + number % 9, 40, 64)))
"""


@pytest.mark.slow
def test_a_killed_repack_leaves_the_old_file_or_the_new_one(tmp_path: Path, ingest_series: Ingester, volume: Any) -> None:
    path = two_channels(tmp_path, ingest_series, volume)
    dice = random.Random(1)
    left = 0
    kills = int(os.environ.get("LSFM_KILLS", "3"))
    for kill in range(10 * kills):
        if kill >= kills and left:
            break  # on a busy machine the first ones may all come before the work begins
        with children.Popen([sys.executable, "-c", _FOREVER, str(path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stdout.readline() == b"go\n"
            time.sleep(dice.uniform(0, 0.6))
            child.send_signal(signal.SIGKILL)
        left += partial_path(path).exists()
        assert verify_file(path).defects == ()
        assert not partial_path(path).exists(), "whoever opens the file next clears up"
        with open_lsfm(path) as file:
            np.testing.assert_array_equal(np.asarray(file["stays"].levels[0][...]), volume)
            np.testing.assert_array_equal(np.asarray(file["gone"].levels[0][...]), volume[::-1])
    assert left, "no kill hit a running repack: change the delays"


@pytest.mark.parametrize("change", [{}, {"compression": 2}, {"rechunk": (9, 9, 9)}], ids=str)
@pytest.mark.parametrize("compression", [0, 1])
def test_a_flipped_bit_is_found_and_the_file_left(
    compression: int, change: dict[str, Any], tmp_path: Path, ingest_series: Ingester, volume: Any
) -> None:
    path = two_channels(tmp_path, ingest_series, volume, compression=compression)
    with h5py.File(path) as file:
        cells = file["LSFM/stays/IMAGE/0/cells"]
        chunk = cells.id.get_chunk_info(1)
        box = ", ".join(f"{o}:{min(o + c, n)}" for o, c, n in zip(chunk.chunk_offset, cells.chunks, cells.shape, strict=True))
    flip(path, chunk.byte_offset + chunk.size // 2)
    before = path.read_bytes()
    for output in (None, tmp_path / "new.h5"):
        with pytest.raises(ChecksumError, match=re.escape(f"channel 'stays', level 0, voxels [{box}]")):
            run(path, output=output, **change)
        assert path.read_bytes() == before
        assert {p.name for p in tmp_path.iterdir()} == {
            "brain.h5",
            "brain.h5-log",
            "brain.settings.xml",
            "brain.xml",
            "gone",
            "stays",
        }


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as raw:
        raw.seek(place)
        (octet,) = raw.read(1)
        raw.seek(place)
        raw.write(bytes([octet ^ 0x10]))


@pytest.mark.parametrize("change", [{}, {"compression": 0}], ids=str)
@pytest.mark.parametrize("what", ["chunk", "attribute", "dataset", "link", "missing chunk"])
def test_what_the_disk_spoils_is_found(
    what: str, change: dict[str, Any], tmp_path: Path, ingest_series: Ingester, volume: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = two_channels(tmp_path, ingest_series, volume)
    before = path.read_bytes()
    flush = h5py.File.flush

    def spoil(file: h5py.File) -> None:
        cells = file["LSFM/stays/IMAGE/0/cells"]
        if what == "attribute":
            file["LSFM/stays"].attrs["axcodes"] = "RAS"
        elif what == "dataset":
            file["LSFM/stays/SOURCES"][0] = (b"x", 1, 2)
        elif what == "link":
            del file["t00000/s01/0/cells"]
            file["t00000/s01/0/cells"] = h5py.SoftLink("/LSFM/gone/IMAGE/0/cells")
        elif what == "chunk":
            mask, data = cells.id.read_direct_chunk((0, 0, 0))
            cells.id.write_direct_chunk((0, 0, 0), data[:100] + bytes([data[100] ^ 1]) + data[101:], mask)
        else:
            del file["LSFM/stays/IMAGE/0/cells"]
            file["LSFM/stays/IMAGE/0"].create_dataset("cells", cells.shape, cells.dtype, chunks=cells.chunks, fletcher32=True)
        flush(file)

    monkeypatch.setattr(h5py.File, "flush", spoil)
    with pytest.raises((StorageError, ChecksumError), match="partial"):
        run(path, **change)
    assert path.read_bytes() == before


def test_only_one_at_a_time(tmp_path: Path, ingest_series: Ingester, volume: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = two_channels(tmp_path, ingest_series, volume)
    with open_lsfm(path), pytest.raises(BusyError):
        run(path)
    with edit_lsfm(path), pytest.raises(BusyError):
        run(path)
    seen = []

    def others(stage: str, done: int, total: int) -> None:
        with pytest.raises(BusyError):
            open_lsfm(path)
        with pytest.raises(BusyError), edit_lsfm(path):
            pass
        with pytest.raises(BusyError):
            run(path)
        with pytest.raises((BusyError, ExistsError)):
            run(tmp_path / "other.h5", output=path, overwrite=True)
        assert partial_path(path).exists()
        seen.append(stage)

    shutil.copyfile(path, tmp_path / "other.h5")
    repack_file(RepackRequest(path=path), progress=lambda *a: others(*a) if a[1] in (0, a[2]) else None)
    assert seen == ["repack", "repack", "verify", "verify"]
    # Somebody who had opened the old file, and gets its lock when it is replaced.
    real = _change.lock

    def late(file: Any, place: Path) -> Any:
        monkeypatch.setattr(_change, "lock", real)
        run(path)
        return real(file, place)

    monkeypatch.setattr(_change, "lock", late)
    with pytest.raises(BusyError, match="replaced"):
        JournaledFile(path)
    assert verify_file(path).defects == ()


@pytest.mark.slow
def test_cancel_and_ctrl_c(tmp_path: Path, ingest_series: Ingester, volume: Any) -> None:
    path = two_channels(tmp_path, ingest_series, volume)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    for stage in ("repack", "verify"):
        for output in (None, tmp_path / "new.h5"):
            token = CancelToken()

            def stop(now: str, done: int, total: int, stage: str = stage, token: CancelToken = token) -> None:
                if now == stage and done:
                    token.cancel()

            with pytest.raises(CancelledError, match="nothing was changed"):
                repack_file(RepackRequest(path=path, output=output, rechunk=(8, 32, 32)), progress=stop, cancel=token)
            assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    command = [sys.executable, "-m", "lsfm_core.cli", "repack", str(path), "--rechunk", "2,4,4"]
    for delay, code in [(0, signal.SIGTERM), (0.3, signal.SIGINT)]:
        with children.Popen(command, stderr=subprocess.PIPE, text=True) as child:
            while not partial_path(path).exists():
                time.sleep(0.01)
            time.sleep(delay)
            child.send_signal(code)
            message = child.communicate(timeout=60)[1]
        assert child.returncode == 130
        assert "interrupted; nothing was changed" in message
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_a_full_disk(tmp_path: Path, ingest_series: Ingester, volume: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = two_channels(tmp_path, ingest_series, volume)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(repack.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 10**6}))
        with pytest.raises(StorageError, match=r"may need .* 1\.0 MB are free"):
            run(path)
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system allows no mount namespaces")
    disk = tmp_path / "disk"
    disk.mkdir()
    # The disk is found to be full only while the file is written.
    code = (
        "import shutil, sys; shutil.disk_usage = lambda place: type('Usage', (), {'free': 10**12});"
        "from lsfm_core.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    script = f"""
mount -t tmpfs -o size={int(len(before) * 1.4)} tmpfs {disk}
cp {path} {disk}
{sys.executable} -c "{code}" repack {disk}/brain.h5; echo "code $?"
ls -A {disk}
cmp {disk}/brain.h5 {path} && echo same
"""
    child = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert child.stdout.split() == ["code", "1", "brain.h5", "brain.h5-log", "same"], child.stderr
    assert "the disk is full" in child.stderr
    assert "Traceback" not in child.stderr


def test_every_write_may_fail(tmp_path: Path, ingest_series: Ingester, volume: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that HDF5 makes while it closes the file, whose errors it keeps to itself."""
    path = two_channels(tmp_path, ingest_series, volume)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    real, calls = _disk.write_all, 0

    def failing(at: int) -> Callable[..., None]:
        def write(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(*arguments)

        return write

    monkeypatch.setattr(_disk, "write_all", failing(0))
    run(path, output=tmp_path / "new.h5")
    total = calls
    for name in ("new.h5", "new.xml", "new.settings.xml"):
        (tmp_path / name).unlink()
    for at in (1, total // 2, total - 1, total):
        calls = 0
        monkeypatch.setattr(_disk, "write_all", failing(at))
        with pytest.raises(StorageError, match="the disk is full"):
            run(path)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_leftovers_of_others_stay(tmp_path: Path, ingest_series: Ingester, volume: Any) -> None:
    """An ingest that waits to be resumed loses nothing to a repack with the same output."""
    path = two_channels(tmp_path, ingest_series, volume)
    target = tmp_path / "new.h5"
    partial = partial_path(target)
    with suppress(RuntimeError), edit_lsfm(target, resume=True) as editor:
        editor.set_metadata("a", "b")
        editor.checkpoint(b"note")
        raise RuntimeError
    before = partial.read_bytes()
    with pytest.raises(BusyError, match="resumed"):
        run(path, output=target)
    assert partial.read_bytes() == before


def test_requests_that_cannot_be(tmp_path: Path, ingest_series: Ingester, volume: Any) -> None:
    path = two_channels(tmp_path, ingest_series, volume)
    other = tmp_path / "other.h5"
    other.write_bytes(b"precious")
    cases: list[tuple[dict[str, Any], type[LsfmError], str]] = [
        ({"output": other}, ExistsError, "exists already"),
        ({"output": tmp_path / "no" / "x.h5"}, StorageError, "no folder"),
        ({"output": tmp_path / "x.xml"}, MissingError, "name the HDF5 file"),
        ({"output": tmp_path / "x.tif"}, InputError, r"ends in \.h5 or \.hdf5"),
        ({"output": tmp_path}, InputError, "is a folder"),
        ({"output": path}, ExistsError, "exists already"),
        ({"output": path.with_suffix(".xml")}, ExistsError, "exists already"),
        ({"compression": 4}, InputError, "compression"),
        ({"rechunk": (0, 1, 1)}, InputError, "rechunk, value 1: must be more than 0"),
        ({"memory_bytes": 1000}, MemoryBudgetError, "raise the memory"),
    ]
    for fields, error, message in cases:
        with pytest.raises(error, match=message):
            run(path, **fields)
    assert other.read_bytes() == b"precious"
    (tmp_path / "x.xml").write_text("mine")
    with pytest.raises(ExistsError):
        run(path, output=tmp_path / "x.h5")
    run(path, output=other, overwrite=True)
    compare(path, other)
    # Its own name as output is in place, if that is meant; a link stays a link.
    (tmp_path / "link.h5").symlink_to(path)
    run(tmp_path / "link.h5", output=path, compression=0, overwrite=True)
    assert (tmp_path / "link.h5").is_symlink()
    with h5py.File(path) as file:
        assert file["LSFM/stays/IMAGE/0/cells"].compression is None
    with h5py.File(tmp_path / "no.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(FormatError):
        run(tmp_path / "no.h5")


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path, peak_memory: Callable[..., int]) -> None:
    path = tmp_path / "big.h5"
    with h5py.File(path, "w") as file:
        cells = file.create_dataset("t00000/s00/0/cells", (192, 512, 1024), "u2", chunks=(1, 256, 1024))
        file["s00/resolutions"], file["s00/subdivisions"] = np.ones((1, 3)), np.full((1, 3), 16, "i4")
        for plane in range(192):
            cells[plane] = plane
    for change in (["--compression-level", "1"], ["--rechunk", "64,64,64"]):
        assert peak_memory("repack", path, *change, "--memory", "100MB") < 110e6


def test_large_chunks_are_counted(tmp_path: Path, peak_memory: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Two chunks of 34 MB, which are decoded as a whole."""
    path = tmp_path / "odd.h5"
    voxels = (np.arange(300)[:, None] % 7 + np.arange(448) % 5).astype("u2")
    packed = zlib.compress(voxels.tobytes() * 125, 1)
    with h5py.File(path, "w") as file:
        cells = file.create_dataset("t00000/s00/0/cells", (250, 300, 448), "u2", chunks=(125, 300, 448), compression=1)
        file["s00/resolutions"], file["s00/subdivisions"] = np.ones((1, 3)), np.array([[448, 300, 125]], "i4")
        for start in (0, 125):
            cells.id.write_direct_chunk((start, 0, 0), packed)
    before = path.read_bytes()
    for change in (["--rechunk", "64,64,64"], ["--compression-level", "2"], []):
        assert main(["repack", str(path), *change, "--memory", "200MB", "--quiet"]) == 1
        told = capsys.readouterr().err
        assert "125 x 300 x 448 voxels need at least" in told, told
        assert told.count("\n") == 1
    assert path.read_bytes() == before
    assert peak_memory("repack", path, "--rechunk", "64,64,64", "--memory", "270MB") < 270e6
    with h5py.File(path) as file:
        assert file["t00000/s00/0/cells"].chunks == (64, 64, 64)
        np.testing.assert_array_equal(file["t00000/s00/0/cells"][100:250:50], np.broadcast_to(voxels, (3, 300, 448)))


# --- the XML --------------------------------------------------------------------------------------------------------------------


def test_xml_made_anew(tmp_path: Path, ingest_series: Ingester, volume: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = two_channels(tmp_path, ingest_series, volume)
    xml = path.with_suffix(".xml")
    good = xml.read_bytes()
    xml.unlink()
    assert main(["xml", str(path)]) == 0
    assert "1: stays, 37 x 301 x 83, voxels of 0.005 x 0.004 x 0.004 mm" in capsys.readouterr().out
    assert xml.read_bytes() == good
    # Stale, and with somebody's additions.
    stale = good.replace(b"83 301 37", b"83 301 40").replace(b"</SpimData>", b"<BoundingBoxes><Box/></BoundingBoxes></SpimData>")
    xml.write_bytes(stale)
    assert main(["xml", str(path), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert verify_file(path).defects == ()
    assert ElementTree.parse(xml).find("BoundingBoxes/Box") is not None
    xml.write_bytes(good[:500])
    assert main(["xml", str(path)]) == 3
    assert "--overwrite" in capsys.readouterr().err
    assert xml.read_bytes() == good[:500]
    assert main(["xml", str(path), "--overwrite"]) == 0
    assert xml.read_bytes() == good
    assert {p.name for p in tmp_path.iterdir()} == {"brain.h5", "brain.h5-log", "brain.settings.xml", "brain.xml", "gone", "stays"}


def test_xml_of_others_keeps_views_and_timepoints(tmp_path: Path) -> None:
    image = np.arange(20 * 30 * 40, dtype="u2").reshape(20, 30, 40)
    writer = npy2bdv.BdvWriter(str(tmp_path / "x.h5"), nangles=2, nilluminations=2)
    for time_point in range(2):
        for angle in range(2):
            for light in range(2):
                writer.append_view(
                    image, time=time_point, angle=angle, illumination=light, voxel_size_xyz=(2, 3, 4), voxel_units="um"
                )
    writer.write_xml()
    writer.close()
    path, xml = tmp_path / "x.h5", tmp_path / "x.xml"
    before = ElementTree.parse(xml)
    write_xml(path)
    after = ElementTree.parse(xml)

    def views(tree: Any) -> list[tuple[str, ...]]:
        setups = tree.findall("SequenceDescription/ViewSetups/ViewSetup")
        return [
            tuple(setup.findtext(f"attributes/{name}") for name in ("illumination", "channel", "tile", "angle")) for setup in setups
        ]

    def registered(tree: Any) -> list[tuple[str, str]]:
        return sorted((r.get("timepoint"), r.get("setup")) for r in tree.iterfind("ViewRegistrations/ViewRegistration"))

    assert views(after) == views(before)
    assert registered(after) == registered(before)
    assert len(registered(after)) == 8
    for name in ("illumination", "channel", "tile", "angle"):
        declared = [[e.text for e in t.iterfind(f".//Attributes[@name='{name}']/*/id")] for t in (before, after)]
        assert declared[0] == declared[1]
    xml.unlink()
    write_xml(path)
    assert registered(ElementTree.parse(xml)) == registered(before)
    xml.write_bytes(b"<Spim")
    with pytest.raises(FormatError, match="overwrite"):
        write_xml(path)
    write_xml(path, overwrite=True)
    with open_lsfm(path) as file:
        assert file["setup 3"].unit == "pixel"
        np.testing.assert_array_equal(np.asarray(file["setup 3"].levels[0][...]), image)
