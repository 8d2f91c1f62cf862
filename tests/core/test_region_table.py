"""A channel measured in each region, against numpy on whole arrays and labels that SimpleITK has carried."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import SimpleITK as sitk
import tifffile

from lsfm_core import (
    IngestRequest,
    InputError,
    MemoryBudgetError,
    RegionRow,
    RegionTable,
    RegionTableRequest,
    ingest_channel,
    open_lsfm,
    region_table,
    request_command,
)
from lsfm_core.cli import main
from lsfm_core.export import _histograms

SHAPE = (30, 26, 40)
#: 1 has parts 2 and 3, 3 has part 4, which has no voxel of its own; 7 is in no table.
TREE = "id,acronym,name,parent\n1,W,whole,\n2,A,=first part,1\n3,B,second part,1\n4,C,no voxels,3\n9,N,never drawn,\n"
PARTS = {1: {1, 2, 3, 4}, 2: {2}, 3: {3, 4}, 4: {4}, 9: {9}, 7: {7}}
PERCENTILES = (5, 25, 75, 95)


@pytest.fixture(scope="module")
def labels() -> np.ndarray[Any, Any]:
    found = np.zeros(SHAPE, np.uint32)
    found[2:28, 2:24, 3:37] = 1
    found[5:20, 5:20, 5:30] = 2
    found[10:25, 8:18, 12:36] = 3
    found[20:27, 2:8, 20:30] = 7
    return found


@pytest.fixture(scope="module")
def values() -> np.ndarray[Any, Any]:
    found = np.random.default_rng(1).poisson(300, SHAPE).astype(np.uint16)
    found[12, 10, 10:20] = 65535
    return found


@pytest.fixture(scope="module")
def path(labels: np.ndarray[Any, Any], values: np.ndarray[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Channels of several types on the voxels of the labels, whose last axis grows toward R."""
    folder = tmp_path_factory.mktemp("table")
    (folder / "tree.csv").write_text(TREE)
    place = {"path": folder / "brain.h5", "voxel_size_mm": (0.05, 0.04, 0.03), "orientation": "AIR"}
    ingest_channel(IngestRequest(channel="atlas", kind="labels", image=labels, labels=folder / "tree.csv", space="here", **place))
    floats = (values.astype(np.float32) - 310) / 7
    floats[6, 6, 6:9] = np.nan, np.inf, -np.inf
    for name, image in {
        "signal": values,
        "bytes": (values % 251).astype(np.uint8),
        "signed": (values.astype(np.int32) - 300).clip(-32768, 32767).astype(np.int16),
        "wide": values.astype(np.int32) * 40_000 - 10_000_000,
        "floats": floats,
    }.items():
        ingest_channel(IngestRequest(channel=name, image=image, space="here", **place))
    return folder / "brain.h5"


def rows_of(table: RegionTable) -> dict[tuple[int, str, str], RegionRow]:
    return {(row.id, row.side, row.extent): row for row in table.rows}


def compare(
    table: RegionTable, key: tuple[int, str, str], values: np.ndarray[Any, Any], each_mm3: float, tolerance: float = 0
) -> None:
    """A row against numpy's numbers of the values that belong to it."""
    row = rows_of(table)[key]
    assert row.voxels == values.size
    assert row.volume_mm3 == pytest.approx(values.size * each_mm3, rel=1e-6)
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        assert (row.mean, row.std, row.median) == (None,) * 3 and set(row.percentiles) == {None}
        return
    assert row.mean == pytest.approx(finite.mean(), rel=1e-9) and row.std == pytest.approx(finite.std(), rel=1e-9, abs=1e-9)
    wanted = np.percentile(finite, [50, *table.request.percentiles])
    # Neighbours in order, between which percentiles lie, are off by as much as each of them.
    largest = tolerance * np.abs(finite).max() if tolerance else 0
    np.testing.assert_allclose([row.median, *row.percentiles], wanted, rtol=max(tolerance, 1e-12), atol=largest and 1e-9)
    if table.request.threshold is not None:
        above = int((finite > table.request.threshold).sum())
        assert row.volume_above_mm3 == pytest.approx(above * each_mm3, rel=1e-6)
        assert row.fraction_above == pytest.approx(above / values.size)


@pytest.mark.parametrize(
    ("channel", "threshold"), [("signal", 310), ("bytes", 99.5), ("signed", 0), ("wide", 2_000_000), ("floats", 0.25)]
)
def test_every_region_and_side_is_as_numpy_has_it(
    channel: str, threshold: float, path: Path, labels: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several pieces, so that what they give is put together.
    monkeypatch.setattr(_histograms, "_AT_ONCE", 5000)
    with open_lsfm(path) as file:
        image = np.asarray(file[channel].levels[0])
        request = RegionTableRequest(
            path=path, channel=channel, labels_channel="atlas", side=True, midline_mm=0.6, threshold=threshold
        )
        table = region_table(request, file=file)
    is_left = np.broadcast_to(np.arange(SHAPE[2]) * 0.03 < 0.6 - 1e-6, SHAPE)
    sides = {"both": np.ones(SHAPE, bool), "left": is_left, "right": ~is_left}
    tolerance = 1 / 4096 if channel in ("wide", "floats") else 0
    for key, parts in PARTS.items():
        for side, there in sides.items():
            for extent, ids in (("own", {key}), ("with_descendants", parts)):
                compare(table, (key, side, extent), image[np.isin(labels, list(ids)) & there], 0.05 * 0.04 * 0.03, tolerance)
    compare(table, (0, "both", "own"), image[labels == 0], 0.05 * 0.04 * 0.03, tolerance)
    assert len(table.rows) == 1 + 6 * 3 * 2
    assert bool(table.warnings) == (channel == "floats")


def test_many_bins_of_few_values(path: Path, labels: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # So that values are sorted, and not counted in a table of all that there may be.
    monkeypatch.setattr(_histograms, "_AT_ONCE", 100)
    with open_lsfm(path) as file:
        image = np.asarray(file["wide"].levels[0])
        table = region_table(RegionTableRequest(path=path, channel="wide", labels_channel="atlas"), file=file)
    for key in (0, 2, 7):
        compare(table, (key, "both", "own"), image[labels == key], 0.05 * 0.04 * 0.03, 1 / 4096)


def test_values_of_few_digits_are_exact_in_any_type(tmp_path: Path) -> None:
    image = np.random.default_rng(5).integers(-4000, 4000, (9, 10, 11))
    place = {"path": tmp_path / "b.h5", "voxel_size_mm": (1, 1, 1), "orientation": "RAS", "space": "here"}
    ingest_channel(IngestRequest(channel="atlas", kind="labels", image=(image % 3).astype(np.uint8), **place))
    for dtype in (np.int32, np.int64, np.float32, np.float64, np.float16):
        name = np.dtype(dtype).name
        whole = image // 4 if dtype is np.float16 else image
        ingest_channel(IngestRequest(channel=name, image=whole.astype(dtype), **place))
        table = region_table(RegionTableRequest(path=tmp_path / "b.h5", channel=name, labels_channel="atlas"))
        for key in (1, 2):
            compare(table, (key, "both", "own"), whole[image % 3 == key].astype(np.float64), 1)


def test_other_voxels_get_the_nearest_label(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    atlas = rng.integers(0, 5, (8, 9, 10)).astype(np.uint16)
    image = rng.integers(0, 1000, (40, 30, 35)).astype(np.uint16)
    place = {"path": tmp_path / "brain.h5", "space": "here"}
    ingest_channel(
        IngestRequest(channel="atlas", kind="labels", image=atlas, voxel_size_mm=(0.1, 0.12, 0.11), orientation="RAS", **place)
    )
    ingest_channel(IngestRequest(channel="signal", image=image, voxel_size_mm=(0.023, 0.037, 0.031), orientation="LSA", **place))
    found = rows_of(region_table(RegionTableRequest(path=tmp_path / "brain.h5", channel="signal", labels_channel="atlas")))
    # The first voxel in R, A and S has its centre at 0; here planes grow toward L, rows toward S, columns toward A.
    where = np.stack(np.indices(image.shape), axis=-1) * (0.023, 0.037, 0.031)
    r, s, a = 39 * 0.023 - where[..., 0], where[..., 1], where[..., 2]
    index = np.floor(np.stack([r / 0.1, a / 0.12, s / 0.11], axis=-1) + 0.5).astype(int)
    inside = np.all(index < atlas.shape, axis=-1)
    assert 0 < inside.mean() < 1, "some voxels lie outside of the labels"
    carried = np.zeros(image.shape, int)
    carried[inside] = atlas[tuple(index[inside].T)]
    for key in range(5):
        row = found[key, "both", "own"]
        assert (row.voxels, row.median) == ((carried == key).sum(), np.median(image[carried == key]))
        assert row.volume_mm3 == pytest.approx((carried == key).sum() * 0.023 * 0.037 * 0.031, rel=1e-6)


def test_a_coarser_level_has_the_labels_of_that_level(path: Path) -> None:
    big = path.with_name("levels.h5")
    rng = np.random.default_rng(3)
    atlas = np.repeat(np.repeat(rng.integers(0, 4, (20, 40, 40)), 4, 1), 4, 2).repeat(2, 0).astype(np.uint8)
    image = rng.integers(0, 4000, (40, 160, 160)).astype(np.uint16)
    image = np.tile(image, (1, 2, 2))
    atlas = np.tile(atlas, (1, 2, 2))
    place = {"path": big, "voxel_size_mm": (0.01, 0.01, 0.01), "orientation": "RAS", "space": "here"}
    ingest_channel(IngestRequest(channel="atlas", kind="labels", image=atlas, **place))
    ingest_channel(IngestRequest(channel="signal", image=image, **place))
    with open_lsfm(big) as file:
        assert len(file["signal"].levels) > 1
        level, ids = np.asarray(file["signal"].levels[1]), np.asarray(file["atlas"].levels[1])
        each = file["signal"].levels[1].space.voxel_volume_mm3
        table = region_table(RegionTableRequest(path=big, channel="signal", labels_channel="atlas", level=1), file=file)
    for key in range(4):
        compare(table, (key, "both", "own"), level[ids == key], each)


# --- the real brain -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signal(brain_data: Path) -> np.ndarray[Any, Any]:
    return tifffile.imread(brain_data / "signal_stack.tif")


def on_the_signal(image: sitk.Image, shape: Sequence[int], transform: sitk.Transform) -> np.ndarray[Any, Any]:
    """Labels on the voxels of the signal channel, which lies AIR, as SimpleITK carries them."""
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in reversed(shape)])
    resampler.SetOutputSpacing([0.05, 0.05, 0.06])
    # Columns grow toward R, rows toward I, planes toward A, and ITK's axes toward L, P and S.
    resampler.SetOutputDirection([-1, 0, 0, 0, 0, -1, 0, -1, 0])
    resampler.SetOutputOrigin([0, 0, (shape[1] - 1) * 0.05])
    resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    resampler.SetTransform(transform)
    return sitk.GetArrayFromImage(resampler.Execute(image))


def compare_brain(table: RegionTable, carried: np.ndarray[Any, Any], signal: np.ndarray[Any, Any]) -> None:
    own = {row.id: row for row in table.rows if row.extent == "own" and row.side == "both"}
    ids, counts = np.unique(carried, return_counts=True)
    assert {key for key, row in own.items() if row.voxels} == {*ids.tolist()}
    assert [own[key].voxels for key in ids.tolist()] == counts.tolist()
    for key in ids[np.argsort(counts)[-12:]].tolist():
        compare(table, (key, "both", "own"), signal[carried == key], 0.05 * 0.05 * 0.06)


@pytest.mark.slow
def test_labels_of_another_channel_are_found_by_their_space(
    registered_file: Path,
    brain_data: Path,
    signal: np.ndarray[Any, Any],
    allen_parts: Callable[[str], set[int]],
) -> None:
    affine = sitk.ReadTransform(str(brain_data / "transforms" / "structural_to_signal_affine.txt")).GetInverse()
    annotation = sitk.ReadImage(str(brain_data / "annotation_in_structural_100um.nii.gz"))
    carried = on_the_signal(annotation, signal.shape, affine)
    asked = {"path": registered_file, "channel": "cfos", "labels_channel": "atlas", "threshold": 2000}
    table = region_table(RegionTableRequest(**asked))
    compare_brain(table, carried, signal)
    named = region_table(RegionTableRequest(**asked, transforms=("signal_to_structural",)))
    assert named.rows == table.rows
    row = next(row for row in table.rows if row.acronym == "Isocortex" and row.extent == "with_descendants")
    compare(
        table, (row.id, "both", "with_descendants"), signal[np.isin(carried, list(allen_parts("Isocortex")))], 0.05 * 0.05 * 0.06
    )
    assert sum(row.voxels for row in table.rows if row.extent == "own") == signal.size


@pytest.mark.slow
def test_labels_behind_a_field(registered_file: Path, brain_data: Path, signal: np.ndarray[Any, Any]) -> None:
    warps = brain_data / "transforms"
    field = sitk.ReadImage(str(warps / "template_to_structural_1InverseWarp.nii.gz"), sitk.sitkVectorFloat64)
    way = sitk.CompositeTransform(
        [
            sitk.DisplacementFieldTransform(field),
            sitk.ReadTransform(str(warps / "template_to_structural_0GenericAffine.mat")).GetInverse(),
            sitk.ReadTransform(str(warps / "structural_to_signal_affine.txt")).GetInverse(),
        ]
    )
    template = sitk.ReadImage(str(registered_file.with_name("template_atlas.nii.gz")))
    carried = on_the_signal(template, signal.shape, way)
    request = RegionTableRequest(
        path=registered_file, channel="cfos", labels_channel="template_atlas", to_space="template", side=True, midline_mm=4.0
    )
    table = region_table(request)
    compare_brain(table, carried, signal)
    # Sides are those of the labels' world: of the template, and not of the brain as it lay.
    sides = sitk.GetArrayFromImage(template)
    place = np.array(template.TransformIndexToPhysicalPoint((0, 0, 0)))
    right = -(place[0] + np.arange(sides.shape[2]) * template.GetSpacing()[0] * template.GetDirection()[0])
    halved = np.where(right < 4.0 - 1e-6, sides.astype(np.uint32) * 2 + 1, sides.astype(np.uint32) * 2)
    image = sitk.GetImageFromArray(halved)
    image.CopyInformation(template)
    codes = on_the_signal(image, signal.shape, way)
    found = rows_of(table)
    for key in (row.id for row in table.rows if row.side == "both" and row.extent == "own" and row.voxels > 5000 and row.id):
        assert found[key, "left", "own"].voxels == (codes == 2 * key + 1).sum()
        assert found[key, "right", "own"].voxels == (codes == 2 * key).sum()


# --- the table ------------------------------------------------------------------------------------------------------------------


def test_the_table_is_tidy(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["region-table", str(path), "--channel", "signal", "--labels-channel", "atlas", "--side", "--threshold", "310"]
    assert main([*line, "--percentiles", "10,99.5", "--output", str(tmp_path / "t.csv")]) == 0
    assert "6 regions of channel 'atlas', 4 of them" in capsys.readouterr().out
    result = region_table(
        RegionTableRequest(path=path, channel="signal", labels_channel="atlas", side=True, threshold=310, percentiles=(99.5, 10))
    )
    written = pandas.read_csv(tmp_path / "t.csv", dtype={"parent_id": "Int64"}, keep_default_na=False, na_values=[""])
    frame = result.to_pandas()
    place = ["region_id", "acronym", "name", "parent_id", "side", "extent", "voxels", "volume_mm3", "mean", "std", "median"]
    assert [*written.columns] == [*frame.columns] == [*place, "p10", "p99.5", "volume_above_mm3", "fraction_above"]
    # Spreadsheets would take the name for a formula.
    assert set(written["name"]) == {"no region", "whole", "'=first part", "second part", "no voxels", "never drawn"} | {np.nan}
    assert written["parent_id"].dropna().tolist() == frame["parent_id"].dropna().tolist()
    pandas.testing.assert_frame_equal(written.iloc[:, 6:], frame.iloc[:, 6:], rtol=1e-6)
    assert main([*line, "--output", str(tmp_path / "t.tsv"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["rows"]) == len(frame) and told["path"].endswith("t.tsv")
    with (tmp_path / "t.tsv").open(newline="") as stream:
        assert next(csv.reader(stream, delimiter="\t"))[:3] == ["region_id", "acronym", "name"]


def test_it_is_logged_and_done_again(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = RegionTableRequest(
        path=path, channel="signal", labels_channel="atlas", side=True, midline_mm=-0.5, percentiles=(1,), output=tmp_path / "a.csv"
    )
    region_table(request)
    with open_lsfm(path) as file:
        number, record = len(file.log()), file.log()[-1]
    assert (record.operation, record.outcome) == ("region-table", "done")
    assert request_command(request)[:3] == ["lsfm-core", "region-table", str(path)]
    capsys.readouterr()
    assert main(["log", str(path), "--command"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.endswith(f"# {number}"))
    assert "--side" in line and "--midline=-0.5" in line and "--percentiles=1.0" in line
    assert main(["replay", str(path), str(number), "--output", str(tmp_path / "b.csv")]) == 0
    assert "identical" in capsys.readouterr().out
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_dry_run_tells_the_plan(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["region-table", str(path), "--channel", "signal", "--labels-channel", "atlas", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "the same voxels" in told and "region-table" not in told
    assert main(["region-table", str(path), "--channel", "signal", "--labels-channel", "atlas", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["copies"] is True


WRONG = {
    "no labels": ({"labels_channel": "bytes"}, "channels with labels: atlas"),
    "no level": ({"level": 7}, "levels 0 to 0"),
    "midline": ({"midline_mm": 1.0}, "midline: "),
    "percentiles": ({"percentiles": (5, 101)}, "found 101"),
    "output": ({"output": "a.xlsx"}, "ends in .csv"),
    "onto itself": ({"output": None}, ""),
}


@pytest.mark.parametrize("what", [name for name in WRONG if name != "onto itself"])
def test_what_cannot_be_is_refused(what: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fields, message = WRONG[what]
    with pytest.raises(InputError, match=message):
        region_table(RegionTableRequest(**{"path": path, "channel": "signal", "labels_channel": "atlas", **fields}))
    assert not [*tmp_path.iterdir()]


def test_labels_of_another_space_than_the_transforms_lead_to_are_refused(registered_file: Path) -> None:
    asked = {"path": registered_file, "channel": "autofluo", "transforms": ("structural_to_template",)}
    with pytest.raises(InputError, match="lie in space 'template'"):
        region_table(RegionTableRequest(**asked, labels_channel="template_atlas"))


def test_vectors_have_no_values_to_measure(registered_file: Path) -> None:
    with pytest.raises(InputError, match="vectors, and no single values"):
        region_table(RegionTableRequest(path=registered_file, channel="warp", labels_channel="atlas"))


@pytest.mark.slow
def test_the_memory_is_kept_to_whatever_the_size(tmp_path: Path, peak_memory: Callable[..., int]) -> None:
    rng = np.random.default_rng(8)
    image = np.tile(rng.poisson(500, (32, 256, 256)).astype(np.uint16), (1, 4, 4))
    place = {"path": tmp_path / "big.h5", "orientation": "RAS", "space": "here"}
    ingest_channel(IngestRequest(channel="signal", image=image, voxel_size_mm=(0.01, 0.01, 0.01), **place))
    ids = rng.integers(0, 100, (8, 60, 60)).astype(np.uint8)
    ingest_channel(IngestRequest(channel="ids", image=ids, kind="labels", voxel_size_mm=(0.04, 0.17, 0.17), **place))
    table = ["--channel", "signal", "--labels-channel", "ids", "--memory", "300MB", "--output", tmp_path / "t.csv", "--quiet"]
    assert peak_memory("region-table", tmp_path / "big.h5", *table) <= 300e6
    # All that there may be of everything, everywhere.
    wide = rng.integers(0, 65536, (32, 256, 256), np.uint16)
    ingest_channel(IngestRequest(channel="wide", image=wide, voxel_size_mm=(0.01, 0.04, 0.04), **place))
    with pytest.raises(MemoryBudgetError, match="histograms of the regions need more"):
        region_table(RegionTableRequest(path=tmp_path / "big.h5", channel="wide", labels_channel="ids", memory_bytes=300_000_000))


def test_too_little_memory_is_told_before(path: Path) -> None:
    with pytest.raises(MemoryBudgetError, match="at least"):
        region_table(RegionTableRequest(path=path, channel="signal", labels_channel="atlas", memory_bytes=170 * 2**20))
