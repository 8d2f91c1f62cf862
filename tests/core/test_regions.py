"""Regions, against plain csv and numpy: what they are called, what is part of them, and where they lie."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsfm_core import (
    CancelledError,
    CancelToken,
    ChunkCache,
    IngestRequest,
    InputError,
    Label,
    LabelTable,
    LazyLevel,
    Level,
    LsfmFile,
    Orientation,
    RegionSelection,
    SourceError,
    Space,
    TransformRequest,
    UnknownRegionError,
    find_region,
    ingest_channel,
    open_lsfm,
)
from lsfm_core.cli import main
from lsfm_core.regions import (
    Hemisphere,
    LabelSet,
    RegionVoxels,
    count_labels,
    locate_region,
    midline_mm,
    read_label_table,
    surface_points,
    voxels,
)
from lsfm_core.testing import write_series

from .effort import examples

# 5 has been remapped to 15001 in the voxels, 7 belongs to nothing, and 2 and 9 have no voxels of their own.
LABELS = """id,name,acronym,r,g,b
0,Clear Label,,0,0,0
3,"Field one, deep",F1,10,20,30
15001,Middle,MID,1,1,1
7,Scar,,9,9,9
"""
ONTOLOGY = """id;acronym;name;parent_structure_id;color_hex_triplet
9;root;Root;;FFFFFF
2;TOP;Top;9;00FF00
5;MID;Middle structure;2;0000FF
3;F1;Field one deep;5;FF0000
4;f1;Fibre one;5;
"""


@pytest.fixture
def write_table(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture
def small(write_table: Callable[[str, str], Path]) -> LabelTable:
    table, _ = read_label_table(write_table("labels.csv", LABELS), write_table("tree.csv", ONTOLOGY))
    assert table is not None
    return table


@pytest.fixture(scope="session")
def allen(brain_data: Path) -> LabelTable:
    table, warnings = read_label_table(brain_data / "allen_labels_itksnap.txt", brain_data / "allen_structure_tree.csv")
    assert table is not None and warnings == []
    return table


@pytest.fixture(scope="session")
def atlas(brain_data: Path) -> np.ndarray:
    """Ids in the order in which the file stores them: planes grow to superior, rows to anterior, columns to the right."""
    return np.asarray(nib.load(brain_data / "annotation_in_structural_100um.nii.gz").dataobj).T


@pytest.fixture(scope="session")
def atlas_file(brain_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LsfmFile]:
    path = tmp_path_factory.mktemp("atlas") / "atlas.h5"
    image = str(brain_data / "annotation_in_structural_100um.nii.gz")
    ingest_channel(IngestRequest(path=path, channel="atlas", image=image, kind="labels"))
    with open_lsfm(path) as file:
        yield file


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few chunks, as a large volume has."""
    monkeypatch.setattr(voxels, "_BLOCK_BYTES", 4 * 200)


class Chunked:
    """An array that gives pieces when asked, and notes which chunks that took."""

    def __init__(self, array: np.ndarray, chunks: tuple[int, ...]) -> None:
        self.array, self.chunks = array, chunks
        self.shape, self.dtype = array.shape, array.dtype
        self.reads: Counter[tuple[int, ...]] = Counter()

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        touched = [range(part.start // size, -(-part.stop // size)) for part, size in zip(box, self.chunks, strict=True)]
        self.reads.update(product(*touched))
        return self.array[box].copy()


def brute_force(mask: np.ndarray) -> RegionVoxels:
    index = np.argwhere(mask)
    return RegionVoxels(tuple(index.min(axis=0).tolist()), tuple((index.max(axis=0) + 1).tolist()), len(index))


def brute_force_corners(mask: np.ndarray) -> set[tuple[float, ...]]:
    """Corners of each face between a voxel of the region and one that is not."""
    padded = np.pad(mask, 1)
    corners = set()
    for axis, sign in product(range(3), (-1, 1)):
        bare = np.argwhere(padded & ~np.roll(padded, -sign, axis)) - 1
        for first, second in product((-0.5, 0.5), repeat=2):
            offset = [first, second]
            offset.insert(axis, sign * 0.5)
            corners |= set(map(tuple, (bare + offset).tolist()))
    return corners


def corners_of(*arguments: Any, **options: Any) -> set[tuple[float, ...]]:
    corners = [tuple(point) for piece in surface_points(*arguments, **options) for point in piece.tolist()]
    assert len(corners) == len(set(corners))
    return set(corners)


label_volumes = hnp.arrays(
    st.sampled_from(["u1", "u2", ">u2", "i4", "u8"]),
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=14),
    elements=st.integers(0, 4),
)
chunk_shapes = st.tuples(*[st.integers(1, 9)] * 3)


# --- tables ---------------------------------------------------------------------------------------------------------------------


def test_an_ontology_is_joined_by_id_then_by_acronym(write_table: Callable[[str, str], Path]) -> None:
    table, warnings = read_label_table(write_table("labels.csv", LABELS), write_table("tree.csv", ONTOLOGY))
    assert list((table or {}).values()) == [
        Label(9, "Root", "root", (255, 255, 255)),
        Label(2, "Top", "TOP", (0, 255, 0), 9),
        Label(15001, "Middle", "MID", (1, 1, 1), 2),
        Label(3, "Field one, deep", "F1", (10, 20, 30), 15001),
        Label(4, "Fibre one", "f1", None, 15001),
        Label(0, "Clear Label", None, (0, 0, 0)),
        Label(7, "Scar", None, (9, 9, 9)),
    ]
    assert len(warnings) == 1
    assert warnings[0].startswith("1 label(s) are not in the ontology") and "'Scar' (id 7)" in warnings[0]


def test_an_id_counts_for_more_than_an_acronym(write_table: Callable[[str, str], Path]) -> None:
    labels = write_table("labels.csv", "id,name,acronym\n2,Middle,MID\n60,Middle left,MID\n61,F one,F1\n")
    table, warnings = read_label_table(labels, write_table("tree.csv", ONTOLOGY))
    assert table is not None
    assert table[2].parent == 9
    # A structure whose own id is no label's is named, as a parent too, by its label.
    assert table[60].parent == 2
    assert table.children(60) == (61, 4)
    assert 5 not in table and 3 not in table
    assert len(warnings) == 1 and "'Middle' (MID, id 2)" in warnings[0]


def test_two_labels_of_one_structure(write_table: Callable[[str, str], Path]) -> None:
    labels = write_table("labels.csv", "id,name,acronym\n60,Middle left,MID\n5,Middle right,\n3,F one,F1\n61,Middle,MID\n")
    table, warnings = read_label_table(labels, write_table("tree.csv", ONTOLOGY))
    assert table is not None and warnings == []
    assert [table[key].parent for key in (60, 5, 61)] == [2, 2, 2]
    # Parts belong to the one that has the structure's own id.
    assert table.children(5) == (3, 4)
    assert table[5].acronym == "MID"


def test_an_acronym_of_two_structures_joins_nothing(write_table: Callable[[str, str], Path]) -> None:
    tree = write_table("tree.csv", "id,name,acronym,parent\n1,One,X,\n2,Two,X,1\n")
    table, warnings = read_label_table(write_table("labels.csv", "id,name,acronym\n9,Nine,X\n"), tree)
    assert list(table or ()) == [1, 2, 9]
    assert len(warnings) == 1 and "'Nine' (X, id 9)" in warnings[0]


def test_one_table_alone_is_the_label_table(write_table: Callable[[str, str], Path]) -> None:
    tree = write_table("tree.csv", ONTOLOGY)
    assert read_label_table(None, tree) == (LabelTable.read(tree), [])
    assert read_label_table(tree, None) == (LabelTable.read(tree), [])
    assert read_label_table(None, None) == (None, [])


def test_unknown_parents_are_told_and_circles_refused(write_table: Callable[[str, str], Path]) -> None:
    table, warnings = read_label_table(None, write_table("tree.csv", "id,name,parent\n1,Part,99\n2,Whole,\n3,Part of two,2\n"))
    assert table is not None
    assert [label.parent for label in table.values()] == [None, None, 2]
    assert len(warnings) == 1 and "1 region(s)" in warnings[0] and "'Part' (id 1) is a part of 99" in warnings[0]
    circle = write_table("circle.csv", "id,name,parent\n8,Outside,4\n4,Egg,5\n5,Hen,6\n6,Chick,4\n7,Own,7\n")
    with pytest.raises(SourceError, match=r"circle.csv: .*4 -> 5 -> 6 -> 4; .*7 -> 7"):
        read_label_table(None, circle)


def test_circles_in_a_file_from_elsewhere_do_not_hang() -> None:
    table = LabelTable.from_json(LabelTable([Label(1, "hen", parent=2), Label(2, "egg", parent=1)]).to_json())
    assert table.descendants(1) == (1, 2)
    assert table.path(1) == (2, 1)


def test_the_tree(small: LabelTable) -> None:
    assert small.children(15001) == (3, 4)
    assert small.descendants(9) == (9, 2, 15001, 3, 4)
    assert small.descendants(3) == (3,)
    assert small.path(4) == (9, 2, 15001, 4)
    assert small.path(7) == (7,)


@pytest.mark.parametrize(
    ("selector", "found"),
    [(3, 3), ("3", 3), (" 3 ", 3), ("F1", 3), ("f1", 4), ("mid", 15001), ("TOP", 2), ("field ONE, deep", 3), ("scar", 7), ("0", 0)],
)
def test_every_spelling_of_a_region(selector: str | int, found: int, small: LabelTable) -> None:
    assert small.find(selector) is small[found]


def test_numbers_may_be_acronyms() -> None:
    table = LabelTable([Label(3, "ventricle", "10"), Label(4, "nerve", "3")])
    assert table.find("10").id == 3
    assert table.find("3").id == 3


def test_ambiguous_and_unknown_regions(small: LabelTable) -> None:
    twins = LabelTable([Label(1, "Nucleus left", "N"), Label(2, "Nucleus right", "n"), Label(3, "both"), Label(4, "Both")])
    assert twins.find("N").id == 1
    with pytest.raises(InputError, match=re.escape("'both' (id 3) or 'Both' (id 4)")):
        twins.find("both")
    with pytest.raises(InputError, match=re.escape("'Nucleus a' (XY, id 1) or 'Nucleus b' (Xy, id 2)")):
        LabelTable([Label(1, "Nucleus a", "XY"), Label(2, "Nucleus b", "Xy")]).find("xy")
    with pytest.raises(UnknownRegionError, match=re.escape("no region 'Midle': did you mean 'Middle' (MID, id 15001)?")):
        small.find("Midle")
    with pytest.raises(UnknownRegionError, match=re.escape("no region '5': the label table has 7 others")):
        small.find(5)
    with pytest.raises(UnknownRegionError):
        small.find("")
    with pytest.raises(KeyError):
        small.find("nowhere")


def test_suggestions_from_the_allen_table(allen: LabelTable) -> None:
    with pytest.raises(UnknownRegionError, match=re.escape("no region 'thalmus': did you mean 'Thalamus' (TH, id 549)")):
        allen.find("thalmus")


def test_without_a_table_ids_alone_are_known() -> None:
    table = LabelTable.from_json(None)
    assert table.select(["382", 2**63 + 1, 382], include_descendants=True) == (382, 2**63 + 1)
    with pytest.raises(UnknownRegionError, match="no label table, so a region is named by its id only"):
        table.find("CA1")


def test_selections(small: LabelTable) -> None:
    assert small.select(["Scar", "MID", "F1", 7], include_descendants=False) == (7, 15001, 3)
    assert small.select(["F1", "MID"], include_descendants=True) == (3, 15001, 4)


def test_search_ranks_what_equals_before_what_begins_before_what_contains(allen: LabelTable) -> None:
    found = [label.acronym for label in allen.search("ca1", 100)]
    assert found[:2] == ["CA1", "CA1slm"]
    assert "SubG" not in found
    assert allen.search("549", 1)[0].acronym == "TH"
    # A prefix of an acronym, then of a name, then what is inside of either.
    small = LabelTable([Label(1, "Old part of it", "OP"), Label(2, "Part", "A"), Label(3, "z", "PAR"), Label(4, "None", "N")])
    assert [label.id for label in small.search("par", 9)] == [3, 2, 1]
    assert [label.id for label in small.search("Part", 9)] == [2, 1]
    assert [label.id for label in small.search("", 2)] == [1, 2]


def test_descendants_are_those_of_the_csv(allen: LabelTable, allen_parts: Callable[[str], set[int]]) -> None:
    # PTLp and VIS hold areas whose ids were remapped; CB none.
    for acronym in ("TH", "PTLp", "VIS", "CB", "root", "CA1"):
        parts = allen.descendants(allen.find(acronym).id)
        assert set(parts) == allen_parts(acronym), acronym
        assert len(set(parts)) == len(parts)
        assert parts[0] == allen.find(acronym).id
    assert allen.find("VISa1").id == 15009
    assert 15009 in allen.descendants(allen.find("PTLp").id)


def test_write_keeps_the_joined_table(brain_data: Path, tmp_path: Path, allen: LabelTable) -> None:
    path = tmp_path / "atlas.h5"
    arguments = ["write", path, "--channel", "atlas", "--kind", "labels", "--quiet"]
    arguments += ["--image", brain_data / "annotation_in_structural_100um.nii.gz"]
    arguments += ["--labels", brain_data / "allen_labels_itksnap.txt", "--ontology", brain_data / "allen_structure_tree.csv"]
    assert main([str(argument) for argument in arguments]) == 0
    with open_lsfm(path) as file:
        text = file.label_table("atlas")
    assert text is not None
    rows = {row["id"]: row for row in json.loads(text)}
    assert len(rows) == 1327
    assert rows[15009] | {"parent": rows[rows[15009]["parent"]]["acronym"]} == {
        "id": 15009,
        "name": "Anterior area, layer 1",
        "acronym": "VISa1",
        "rgb": [0, 159, 172],
        "parent": "VISa",
    }
    assert dict(LabelTable.from_json(text)) == dict(allen)


def test_what_does_not_fit_is_told_by_write(
    write_table: Callable[[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_series(tmp_path / "ids", np.ones((3, 4, 5), np.uint8))
    arguments = ["write", tmp_path / "x.h5", "--channel", "ids", "--kind", "labels", "--image", images]
    arguments += ["--voxel-size", "1,1,1", "--orientation", "RAS", "--labels", write_table("labels.csv", LABELS)]
    assert main([*map(str, arguments), "--ontology", str(write_table("tree.csv", ONTOLOGY))]) == 0
    assert "warning: 1 label(s) are not in the ontology" in capsys.readouterr().err


def test_an_ontology_is_for_labels_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ontology: only a channel of kind labels"):
        IngestRequest(path=tmp_path / "x.h5", channel="x", image=np.zeros((2, 2, 2)), ontology=tmp_path / "tree.csv")


# --- voxels ---------------------------------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=examples(200), deadline=None)
def test_membership_is_exact_for_every_integer_type(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(["u1", "i1", "u2", "i2", ">u2", ">i4", "u4", "i4", "u8", "i8"])))
    limits = np.iinfo(dtype)
    numbers = st.integers(int(limits.min), int(limits.max)) | st.integers(max(-3, int(limits.min)), 3)
    array = data.draw(hnp.arrays(dtype, (5, 4), elements=numbers))
    wanted = data.draw(st.sets(st.sampled_from(array.ravel().tolist()) | st.integers(-3, 2**64 - 1), max_size=6))
    expected = [[value in wanted for value in row] for row in array.tolist()]
    assert LabelSet(wanted).mask(array).tolist() == expected


def test_large_ids_are_not_rounded() -> None:
    large = np.array([[[2**53, 2**53 + 1, 2**64 - 1, 2**64 - 2, 0]]], np.uint64)
    assert locate_region(large, [2**53 + 1]) == RegionVoxels((0, 0, 1), (1, 1, 2), 1)
    assert locate_region(large, [2**64 - 1, 7]) == RegionVoxels((0, 0, 2), (1, 1, 3), 1)
    assert count_labels(large) == {0: 1, 2**53: 1, 2**53 + 1: 1, 2**64 - 2: 1, 2**64 - 1: 1}


@pytest.mark.parametrize("key", [254, 255])
def test_the_largest_ids_of_a_type(key: int) -> None:
    np.testing.assert_array_equal(np.flatnonzero(LabelSet([key, 256]).mask(np.arange(256, dtype=np.uint8))), [key])


def test_floats_are_no_labels() -> None:
    with pytest.raises(InputError, match="float32"):
        LabelSet([1]).mask(np.ones((2, 2, 2), np.float32))


@pytest.mark.usefixtures("small_blocks")
def test_regions_of_random_volumes() -> None:
    @given(array=label_volumes, chunks=chunk_shapes, ids=st.sets(st.integers(1, 9), min_size=1, max_size=3))
    @settings(max_examples=examples(150), deadline=None)
    def check(array: np.ndarray, chunks: tuple[int, ...], ids: set[int]) -> None:
        labels = Chunked(array, chunks)
        mask = np.isin(array, list(ids))
        if not mask.any():
            with pytest.raises(InputError, match="no voxel of the channel"):
                locate_region(labels, sorted(ids))
            assert corners_of(labels, sorted(ids)) == set()
            return
        region = locate_region(labels, sorted(ids))
        assert region == brute_force(mask)
        assert set(labels.reads.values()) == {1}
        corners = brute_force_corners(mask)
        assert corners_of(labels, sorted(ids)) == corners
        assert corners_of(labels, sorted(ids), region=region) == corners
        labels.reads.clear()
        values, counts = np.unique(array, return_counts=True)
        assert list(count_labels(labels).items()) == list(zip(values.tolist(), counts.tolist(), strict=True))
        assert set(labels.reads.values()) == {1}

    check()


@pytest.mark.usefixtures("small_blocks")
def test_sides_of_oblique_random_volumes() -> None:
    @given(array=label_volumes, chunks=chunk_shapes, seed=st.integers(0, 2**32 - 1), side=st.sampled_from(["left", "right"]))
    @settings(max_examples=examples(100), deadline=None)
    def check(array: np.ndarray, chunks: tuple[int, ...], seed: int, side: str) -> None:
        random = np.random.default_rng(seed)
        affine = np.eye(4)
        affine[:3] = random.normal(size=(3, 4))
        space = Space(array.shape, affine)
        world = np.einsum("rk,kabc->rabc", affine[:3, :3], np.indices(array.shape)) + affine[:3, 3, None, None, None]
        midline = float(np.quantile(world[0], random.uniform(0.1, 0.9)) + 1e-6)
        mask = (array == 1) & ((world[0] < midline) if side == "left" else (world[0] >= midline))
        labels, keep = Chunked(array, chunks), Hemisphere(side, midline, space)
        if not mask.any():
            with pytest.raises(InputError):
                locate_region(labels, [1], keep=keep)
            return
        region = locate_region(labels, [1], keep=keep)
        assert region == brute_force(mask)
        assert corners_of(labels, [1], keep=keep, region=region) == brute_force_corners(mask)

    check()


def test_a_plane_on_the_midline_belongs_to_the_right_whatever_its_dust() -> None:
    labels = np.ones((2, 3, 9), np.uint8)
    for code in ("SAR", "SAL"):
        space = Space.from_orientation(labels.shape, (0.1, 0.1, 0.1), Orientation(code))
        for plane in range(1, 9):
            left = locate_region(labels, [1], keep=Hemisphere("left", plane / 10, space))
            right = locate_region(labels, [1], keep=Hemisphere("right", plane / 10, space))
            assert (left.count, right.count) == (6 * plane, 6 * (9 - plane)), (code, plane)


def test_nothing_found_says_why() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[:, :, 0] = 3
    table = LabelTable([Label(1, "Whole", "W"), Label(2, "Half", "H", parent=1), Label(3, "Bit", parent=2), Label(4, "Lost")])
    space = Space(labels.shape, np.diag([1, 1, 1, 1])[[2, 1, 0, 3]])
    with pytest.raises(InputError, match=re.escape("'Whole' (W, id 1): no voxels of its own, but its parts have some: include")):
        locate_region(labels, [1], table=table)
    with pytest.raises(InputError, match=re.escape("'Bit' (id 3): no voxel lies right of R = 0.500 mm")):
        locate_region(labels, [3], keep=Hemisphere("right", 0.5, space), table=table)
    with pytest.raises(InputError, match=re.escape("'Whole' (W, id 1), 'Half' (H, id 2), 'Bit' (id 3): no voxel lies right of")):
        locate_region(labels, table.descendants(1), keep=Hemisphere("right", 0.5, space), table=table)
    # A part that does lie on that side is no reason to say that the whole has no voxels.
    labels[0, 0, 3] = 3
    labels[0, 0, 0] = 2
    with pytest.raises(InputError, match=re.escape("'Half' (H, id 2): no voxel lies right of")):
        locate_region(labels, [2], keep=Hemisphere("right", 0.5, space), table=table)
    with pytest.raises(InputError, match=re.escape("'Lost' (id 4): no voxel of the channel")):
        locate_region(labels, [4], table=table)
    with pytest.raises(InputError, match="id 9: no voxel of the channel"):
        locate_region(labels, [9])
    with pytest.raises(InputError, match="all 0"):
        midline_mm(np.zeros((4, 4, 4), np.uint8), space)


def test_sweeps_report_and_can_be_cancelled() -> None:
    labels = Chunked(np.ones((40, 50, 60), np.uint16), (16, 16, 16))
    told: list[tuple[str, int, int]] = []
    note = lambda *step: told.append(step)  # noqa: E731
    region = locate_region(labels, [1], progress=note)
    list(surface_points(labels, [1], region=region, progress=note))
    count_labels(labels, progress=note)
    for stage in ("locate", "outline", "count"):
        done = [step[1:] for step in told if step[0] == stage]
        assert done[0] == (0, 240000) and done[-1] == (240000, 240000)
    token = CancelToken()
    token.cancel()
    for work in (locate_region, lambda *args, **options: list(surface_points(*args, **options))):
        with pytest.raises(CancelledError):
            work(labels, [1], cancel=token)


def test_real_regions_are_where_itk_finds_them(atlas: np.ndarray, atlas_file: LsfmFile, allen: LabelTable) -> None:
    level = atlas_file["atlas"].levels[0]
    statistics = sitk.LabelShapeStatisticsImageFilter()
    image = sitk.GetImageFromArray(atlas)
    image.SetSpacing((0.1, 0.1, 0.1))
    statistics.Execute(image)
    counts = count_labels(level.data)
    for label in statistics.GetLabels():
        x, y, z, *sizes = statistics.GetBoundingBox(label)
        assert counts[label] == statistics.GetNumberOfPixels(label)
        assert counts[label] * level.space.voxel_volume_mm3 == pytest.approx(statistics.GetPhysicalSize(label))
        if label in (382, 15009):
            region = locate_region(level.data, [label])
            assert region.starts == (z, y, x)
            assert region.stops == tuple(start + size for start, size in zip((z, y, x), reversed(sizes), strict=True))
            assert region.count == counts[label]
    assert sum(counts.values()) == atlas.size


def test_real_regions_with_all_that_is_part_of_them(
    atlas: np.ndarray, atlas_file: LsfmFile, allen: LabelTable, allen_parts: Callable[[str], set[int]]
) -> None:
    level: LazyLevel = atlas_file["atlas"].levels[0].data
    for acronym in ("TH", "PTLp"):
        ids = allen.select([acronym], include_descendants=True)
        mask = np.isin(atlas, list(allen_parts(acronym)))
        assert mask.sum() > 1000
        region = locate_region(level, ids)
        assert region == brute_force(mask)
        assert corners_of(level, ids, region=region) == brute_force_corners(mask)
    # The isocortex has only layers of areas.
    assert not (atlas == allen.find("Isocortex").id).any()
    with pytest.raises(InputError, match="include_descendants"):
        locate_region(level, allen.select(["Isocortex"], include_descendants=False), table=allen)


def test_sweeps_leave_the_cache_to_others(atlas_file: LsfmFile) -> None:
    cache = ChunkCache()
    with open_lsfm(atlas_file.path, cache=cache) as file:
        level = file["atlas"].levels[0].data
        assert locate_region(level, [382]).count == count_labels(level)[382]
        assert cache.nbytes == 0


def test_the_sides_of_a_real_region(atlas: np.ndarray, atlas_file: LsfmFile) -> None:
    channel = atlas_file["atlas"]
    coarse = channel.levels[-1]
    midline = midline_mm(coarse.data, coarse.space)
    assert midline == pytest.approx(np.median(np.argwhere(atlas)[:, 2] * 0.1))
    left, right = (
        locate_region(channel.levels[0].data, [382], keep=Hemisphere(side, midline, channel.space)) for side in ("left", "right")
    )
    assert left.count + right.count == (atlas == 382).sum()
    assert left.stops[2] <= round(midline / 0.1) <= right.starts[2]
    assert left.count == pytest.approx(right.count, rel=0.1)


def test_the_midline_of_a_large_level_is_near_enough() -> None:
    labels = np.zeros((200, 150, 160), np.uint8)
    labels[20:100, 10:120, 33:121] = 4
    space = Space.from_orientation(labels.shape, (0.1, 0.1, 0.1), Orientation("AIR"))
    assert midline_mm(labels, space) == pytest.approx(7.65, abs=0.1)


_WATCHED_SWEEPS = """
import numpy as np
from lsfm_core.regions import count_labels, locate_region, surface_points

class Ball:
    shape, chunks, dtype = (384, 512, 512), (64, 64, 64), np.dtype(np.uint64)

    def __getitem__(self, box):
        squares = [(axis - 200.0) ** 2 for axis in np.ogrid[box]]
        return np.where(sum(squares) < 150**2, np.uint64(2**60 + 1), np.uint64(0))

def resident(key):
    return int(open("/proc/self/status").read().split(key)[1].split()[0]) * 1024

before = resident("VmRSS:")
region = locate_region(Ball(), [2**60 + 1, 5])
corners = sum(map(len, surface_points(Ball(), [2**60 + 1, 5], region=region)))
print(region.count == count_labels(Ball())[2**60 + 1], region.starts, region.stops, corners > 400_000, resident("VmHWM:") - before)
"""


def test_sweeps_keep_within_their_memory() -> None:
    output = subprocess.run([sys.executable, "-c", _WATCHED_SWEEPS], capture_output=True, text=True, check=True).stdout
    answer, growth = output.rsplit(maxsplit=1)
    assert answer == "True (51, 51, 51) (350, 350, 350) True"
    # The volume has 805 MB.
    assert int(growth) < 64 * 2**20


def test_a_look_at_a_region(atlas: np.ndarray, atlas_file: LsfmFile) -> None:
    request = TransformRequest(path=atlas_file.path, channel="atlas")
    selection = RegionSelection(labels_channel="atlas", select=(382,), side="left")
    region = find_region(atlas_file, request, selection)
    level = atlas_file["atlas"].levels[0]
    wanted = (atlas == 382) & (level.space.to_world(np.argwhere(atlas >= 0))[:, 0] < region.side.midline_mm).reshape(atlas.shape)
    where = np.argwhere(wanted)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    whole = region.look([level], 2**30)
    assert region.voxels.count == whole.array.sum() == len(where)
    assert whole.space.same_grid(level.space.crop(low, high))
    assert np.array_equal(whole.array, wanted[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
    # Every second voxel for a coarser level: the look is at that where the finest is too large.
    factors = (2.0, 2.0, 2.0)
    halves = tuple(n // 2 for n in atlas.shape)
    every_second = tuple(slice(0, 2 * n, 2) for n in halves)
    even = atlas[every_second]
    coarse = Level(1, level.data[every_second], factors, level.space.level(factors, halves))
    small = region.look([level, coarse], whole.array.size - 1)
    assert small.space.voxel_size_mm == pytest.approx(np.multiply(level.space.voxel_size_mm, 2))
    first = np.rint(coarse.space.to_voxel([small.space.world_from_voxel[:3, 3]])[0]).astype(int)
    found = np.argwhere(small.array) + first
    right = coarse.space.to_world(np.argwhere(even == 382))
    assert {*map(tuple, found)} == {*map(tuple, np.argwhere(even == 382)[right[:, 0] < region.side.midline_mm])}
