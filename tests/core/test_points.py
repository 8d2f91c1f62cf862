"""Points through the chain of the images, against SimpleITK, nibabel, plain csv and arithmetic."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsfm_core import (
    CancelledError,
    CancelToken,
    ExistsError,
    IngestRequest,
    InputError,
    LsfmError,
    MemoryBudgetError,
    MissingError,
    PointsRequest,
    PointsResult,
    SourceError,
    ingest_channel,
    open_lsfm,
    transform_points,
)
from lsfm_core.arrays import stored
from lsfm_core.cli import main

from .effort import examples

Points = npt.NDArray[np.float64]
CHAIN = ("signal_to_structural", "structural_to_template", "warp")
#: The regions of what lies in the signal channel, whose labels lie behind the first of them.
REGIONS: Any = {"transforms": CHAIN[:1], "labels_channel": "atlas", "labels_in": "output"}
#: Planes, rows, columns of the signal channel, mm, and how many rows it has; its orientation is AIR.
SIGNAL_MM, SIGNAL_ROWS = np.array([0.06, 0.05, 0.05]), 154


@pytest.fixture(scope="module")
def brain(registered_file: Path) -> Path:
    """The specimen with its two channels, its labels, and the transforms between them."""
    return registered_file


@pytest.fixture(scope="module")
def cells(brain_data: Path) -> Points:
    return np.loadtxt(brain_data / "signal_cells_voxel_zyx.csv", delimiter=",", skiprows=1)


class Oracle:
    """SimpleITK's own transforms, one after the other, point by point."""

    def __init__(self, folder: Path) -> None:
        def field(name: str) -> Any:
            return sitk.DisplacementFieldTransform(sitk.ReadImage(str(folder / name), sitk.sitkVectorFloat64))

        inner = sitk.ReadTransform(str(folder / "structural_to_signal_affine.txt"))
        outer = sitk.ReadTransform(str(folder / "template_to_structural_0GenericAffine.mat"))
        self.to_native = [field("template_to_structural_1Warp.nii.gz"), outer, inner]
        self.to_output = [inner.GetInverse(), outer.GetInverse(), field("template_to_structural_1InverseWarp.nii.gz")]

    @staticmethod
    def run(steps: Sequence[Any], ras: Points) -> Points:
        mapped = []
        for r, a, s in ras.tolist():
            point = (-r, -a, s)
            for step in steps:
                point = step.TransformPoint(point)
            mapped.append((-point[0], -point[1], point[2]))
        return np.array(mapped)


@pytest.fixture(scope="module")
def oracle(brain_data: Path) -> Oracle:
    return Oracle(brain_data / "transforms")


def signal_mm(zyx: Points) -> Points:
    """AIR: planes grow toward A, rows toward I, columns toward R."""
    z, y, x = zyx.T
    return np.stack([x * SIGNAL_MM[2], z * SIGNAL_MM[0], (SIGNAL_ROWS - 1 - y) * SIGNAL_MM[1]], axis=1)


def signal_zyx(ras: Points) -> Points:
    r, a, s = ras.T
    return np.stack([a / SIGNAL_MM[0], SIGNAL_ROWS - 1 - s / SIGNAL_MM[1], r / SIGNAL_MM[2]], axis=1)


Carry = Callable[..., PointsResult]


@pytest.fixture(scope="module")
def carry(brain: Path) -> Carry:
    """Carry points of the signal channel, unless told otherwise."""

    def run(points: Any, **fields: Any) -> PointsResult:
        return transform_points(PointsRequest(**{"path": brain, "channel": "cfos", "points": points, **fields}))

    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# --- spaces -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cells_arrive_where_simpleitk_brings_them(brain_data: Path, carry: Carry, cells: Points, oracle: Oracle) -> None:
    result = carry(brain_data / "signal_cells_voxel_zyx.csv", transforms=CHAIN)
    expected = oracle.run(oracle.to_output, signal_mm(cells))
    assert len(result.points) == 6000 and result.outside == 0 and not result.warnings
    np.testing.assert_allclose(result.points, expected, rtol=0, atol=1e-6)


def test_points_of_the_output_come_back_as_simpleitk_brings_them(carry: Carry, cells: Points, oracle: Oracle) -> None:
    outer = oracle.run(oracle.to_output, signal_mm(cells))
    # Some lie outside of the field's domain, where nothing moves.
    outer[:20] += 30
    expected = oracle.run(oracle.to_native, outer)
    in_mm = carry(outer, transforms=CHAIN, source="output-mm", target="native-mm")
    np.testing.assert_allclose(in_mm.points, expected, rtol=0, atol=1e-6)
    assert in_mm.outside >= 20 and not in_mm.warnings
    in_voxels = carry(outer, transforms=CHAIN, source="output-mm", target="native-voxel")
    np.testing.assert_allclose(in_voxels.points, signal_zyx(expected), rtol=0, atol=1e-4)


def test_there_and_back_is_as_exact_as_the_pair_of_fields(brain_data: Path, carry: Carry, cells: Points, oracle: Oracle) -> None:
    reference = str(brain_data / "template_100um.nii.gz")
    there = carry(cells, transforms=CHAIN, target="output-voxel", reference=reference)
    image = nib.load(reference)
    expected = nib.affines.apply_affine(np.linalg.inv(image.affine), oracle.run(oracle.to_output, signal_mm(cells)))
    np.testing.assert_allclose(there.points, expected, rtol=0, atol=1e-5)

    back = carry(there.points, transforms=CHAIN, source="output-voxel", reference=reference, target="native-voxel")
    ours = np.percentile(np.linalg.norm(back.points - cells, axis=1), 99)
    # ANTs' two fields are not exact inverses of each other: half of the cells miss by 0.003 voxels, one in a hundred by 0.018.
    around = oracle.run(oracle.to_native, oracle.run(oracle.to_output, signal_mm(cells)))
    theirs = np.percentile(np.linalg.norm(signal_zyx(around) - cells, axis=1), 99)
    assert ours < 0.05
    assert ours <= theirs + 1e-6


#: World axis of each letter, and whether the index grows along it or against it.
LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
CODES = ["".join(code) for code in permutations("RLAPSI", 3) if len({LETTERS[letter][0] for letter in code}) == 3]


@settings(max_examples=examples(15), deadline=None)
@given(
    code=st.sampled_from(CODES),
    index=hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.just(3)), elements=st.floats(-50, 50)),
)
def test_voxels_of_every_orientation_lie_where_its_letters_say(
    tmp_path_factory: pytest.TempPathFactory, code: str, index: Points
) -> None:
    path = tmp_path_factory.mktemp("codes") / "brain.h5"
    shape, size = (3, 5, 4), (0.03, 0.01, 0.02)
    ingest_channel(IngestRequest(path=path, channel="c", image=np.zeros(shape, np.uint8), voxel_size_mm=size, orientation=code))
    there = transform_points(PointsRequest(path=path, channel="c", points=index, target="native-mm")).points
    for axis, letter in enumerate(code):
        world, sign = LETTERS[letter]
        first = 0 if sign > 0 else (shape[axis] - 1)
        np.testing.assert_allclose(there[:, world], sign * (index[:, axis] - first) * size[axis], atol=1e-12)
    back = transform_points(PointsRequest(path=path, channel="c", points=there, source="native-mm", target="native-voxel")).points
    np.testing.assert_allclose(back, index, atol=1e-9)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A channel whose levels have different factors along their axes."""
    path = tmp_path_factory.mktemp("pyramid") / "brain.h5"
    image = np.zeros((20, 200, 301), np.uint8)
    ingest_channel(IngestRequest(path=path, channel="c", image=image, voxel_size_mm=(0.02, 0.005, 0.005), orientation="AIR"))
    return path


@settings(max_examples=examples(20), deadline=None)
@given(index=hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.just(3)), elements=st.floats(-50, 50)))
def test_voxel_i_of_a_level_lies_at_f_i_plus_half_of_f_minus_1(pyramid: Path, index: Points) -> None:
    with open_lsfm(pyramid) as file:
        factors = [level.factors for level in file["c"].levels]
    assert len(factors) > 1 and len(set(factors[1])) > 1
    for level, factor in enumerate(factors):
        f = np.array(factor)
        mm = transform_points(PointsRequest(path=pyramid, channel="c", points=index, level=level, target="native-mm")).points
        fine = f * index + (f - 1) / 2
        expected = np.stack([fine[:, 2] * 0.005, fine[:, 0] * 0.02, (199 - fine[:, 1]) * 0.005], axis=1)
        np.testing.assert_allclose(mm, expected, atol=1e-12)
        request = PointsRequest(path=pyramid, channel="c", points=mm, source="native-mm", target="native-voxel", level=level)
        np.testing.assert_allclose(transform_points(request).points, index, atol=1e-9)


def test_a_channel_as_reference_counts_the_voxels_of_its_ras_exports(carry: Carry) -> None:
    # The atlas is stored as SAR with its first voxel at 0, 0, 0, so an index is a position in tenths of a millimetre.
    result = carry([[1.0, 2.0, 3.0]], channel="autofluo", source="native-mm", target="output-voxel", reference="atlas")
    np.testing.assert_allclose(result.points, [[10, 20, 30]], atol=1e-9)


@pytest.mark.slow
def test_only_those_who_go_outward_need_an_inverse(brain_data: Path, carry: Carry) -> None:
    warp = str(brain_data / "transforms" / "template_to_structural_1Warp.nii.gz")
    points = np.array([[5.0, 6.0, 4.0]])
    carry(points, transforms=(warp,), source="output-mm", target="native-mm")
    np.testing.assert_array_equal(carry(points, transforms=(warp,), source="native-mm", target="native-mm").points, points)
    with pytest.raises(InputError, match=r"1Warp.*has no inverse.*register"):
        carry(points, transforms=(warp,))
    inverted = carry(points, transforms=(warp,), numeric_inverse=(warp,), source="native-mm")
    assert re.search(r"found numerically.*mm \(median\).*mm \(maximum\)", inverted.warnings[0])
    back = carry(inverted.points, transforms=(warp,), source="output-mm", target="native-mm").points
    np.testing.assert_allclose(back, points, atol=1e-4)


def test_a_file_without_orientation_asks_for_one(legacy_file: Path) -> None:
    request = {"path": legacy_file, "channel": "autofluo", "points": [[0, 0, 0]], "target": "native-mm"}
    with pytest.raises(InputError, match="orientation"):
        transform_points(PointsRequest(**request))
    assert transform_points(PointsRequest(**request, orientation="AIR")).points[0, 2] > 0


# --- regions ----------------------------------------------------------------------------------------------------------------------


def annotation_under(brain_data: Path, ras: Points) -> npt.NDArray[Any]:
    image = nib.load(brain_data / "annotation_in_structural_100um.nii.gz")
    voxels = np.asarray(image.dataobj)
    matrix = np.linalg.inv(image.affine)
    index = np.floor(ras @ matrix[:3, :3].T + matrix[:3, 3] + 0.5).astype(int)
    inside = ((index >= 0) & (index < voxels.shape)).all(axis=1)
    ids = np.zeros(len(ras), voxels.dtype)
    ids[inside] = voxels[tuple(index[inside].T)]
    return ids


def test_regions_are_the_annotation_under_the_points(brain_data: Path, carry: Carry, cells: Points, oracle: Oracle) -> None:
    expected = annotation_under(brain_data, oracle.run(oracle.to_output[:1], signal_mm(cells)))
    result = carry(cells, transforms=CHAIN[:1], labels_channel="atlas", labels_in="output", target="native-mm")
    np.testing.assert_array_equal(result.region_ids, expected)
    assert result.region_ids is not None and result.region_ids.dtype == np.uint16 and (expected != 0).mean() > 0.9

    # From the other side, and with points that are outside of everything.
    anywhere = np.random.default_rng(4).uniform(-2, 14, (20_000, 3))
    result = carry(anywhere, channel="autofluo", source="native-mm", labels_channel="atlas")
    np.testing.assert_array_equal(result.region_ids, annotation_under(brain_data, anywhere))


def test_the_label_is_that_of_the_voxel_around_the_point(tmp_path: Path) -> None:
    # Ids that no float64 can hold; the type has to stay.
    labels = np.array([[[2**64 - 1, 2**53 + 1, 7]]], np.uint64)
    path = tmp_path / "labels.h5"
    fields = {"path": path, "channel": "l", "voxel_size_mm": (1, 1, 1), "orientation": "SAR"}
    ingest_channel(IngestRequest(**fields, image=labels, kind="labels"))
    x = np.array([-0.51, -0.5, 0, 0.49, 0.5, 1.49, 2, 2.49, 2.5, 1e300])
    points = np.stack([0 * x, 0 * x, x], axis=1)
    result = transform_points(PointsRequest(path=path, channel="l", points=points, labels_channel="l"))
    first, second = 2**64 - 1, 2**53 + 1
    assert result.region_ids is not None
    assert result.region_ids.tolist() == [0, first, first, first, second, second, 7, 7, 0, 0]
    assert result.outside == 3


def test_each_chunk_of_the_labels_is_read_once(brain: Path, carry: Carry, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Counter[tuple[int, ...]] = Counter()
    original = stored._Store._read

    def read(store: Any, index: tuple[int, ...]) -> Any:
        reads[index] += 1
        return original(store, index)

    monkeypatch.setattr(stored._Store, "_read", read)
    anywhere = np.random.default_rng(5).uniform(0, [269, 192, 270], (5000, 3))
    carry(anywhere, channel="autofluo", labels_channel="atlas")
    with open_lsfm(brain) as file:
        level = file["atlas"].levels[0]
        chunks = np.prod([-(-n // c) for n, c in zip(level.shape, level.data.chunks, strict=True)])
    assert len(reads) == chunks > 1 and set(reads.values()) == {1}


def structure_of_label(brain_data: Path) -> dict[int, int]:
    """Allen's own id of every label: its id, else that of its acronym."""
    tree = rows_of(brain_data / "allen_structure_tree.csv")
    by_acronym = {row["acronym"]: int(row["id"]) for row in tree}
    own = set(by_acronym.values())
    found = {}
    for line in (brain_data / "allen_labels_itksnap.txt").read_text().splitlines():
        match = re.match(r'\s*(\d+) .*"(?:.*\(([^()]+)\)|[^"]*)"\s*$', line)
        if match:
            key = int(match[1])
            found[key] = key if key in own else by_acronym.get(match[2] or "", -1)
    return found


def test_counts_add_up_and_follow_the_tree(brain_data: Path, tmp_path: Path, carry: Carry, cells: Points) -> None:
    path = tmp_path / "counts.csv"
    result = carry(cells, transforms=CHAIN[:1], labels_channel="atlas", labels_in="output", counts=path)
    assert result.region_ids is not None and result.counts is not None and result.counts_path == path
    measures = (
        "count,count_with_descendants,volume_mm3,volume_with_descendants_mm3,density_per_mm3,density_with_descendants_per_mm3"
    )
    sides = ",".join(f"{side}_{name}" for side in ("left", "right") for name in measures.split(","))
    assert path.read_text().startswith(f"region_id,acronym,name,{measures},{sides}\n0,,no region,")
    rows = {int(row["region_id"]): row for row in rows_of(path)}
    assert list(rows) == sorted(rows) == [row.id for row in result.counts]
    assert sum(int(row["count"]) for row in rows.values()) == len(cells)
    points = Counter(result.region_ids.tolist())
    assert {key: int(row["count"]) for key, row in rows.items() if row["count"] != "0"} == points

    # By the path that the Allen table spells out for each structure, which we do not read.
    structures = structure_of_label(brain_data)
    found = Counter(dict.fromkeys(structures.values(), 0))
    for key, count in points.items():
        found[structures.get(key, -1)] += count if key else 0
    below: Counter[int] = Counter()
    for row in rows_of(brain_data / "allen_structure_tree.csv"):
        for above in row["structure_id_path"].strip("/").split("/"):
            below[int(above)] += found[int(row["id"])]
    compared = {key: structures.get(key, key) for key in rows if key}
    assert len(compared) > 1000 and below[997] > 5000
    assert {key: int(rows[key]["count_with_descendants"]) for key in compared} == {
        key: below[structure] for key, structure in compared.items()
    }

    voxels = Counter(np.asarray(nib.load(brain_data / "annotation_in_structural_100um.nii.gz").dataobj).ravel().tolist())
    for row in result.counts[1:]:
        assert row.volume_mm3 == pytest.approx(voxels[row.id] * 1e-3, rel=1e-6)
        if voxels[row.id]:
            assert row.density_per_mm3 == pytest.approx(row.count / (voxels[row.id] * 1e-3), rel=1e-6)
            assert float(rows[row.id]["density_per_mm3"]) == pytest.approx(row.density_per_mm3, rel=1e-6)
        else:
            assert row.density_per_mm3 is None and rows[row.id]["density_per_mm3"] == ""
    assert rows[0]["volume_mm3"] == "" and result.counts[0].volume_mm3 is None


def test_counts_of_regions_with_their_parts_and_by_side(
    brain_data: Path, tmp_path: Path, carry: Carry, allen_parts: Callable[[str], set[int]]
) -> None:
    rng = np.random.default_rng(8)
    anywhere = rng.uniform(0, [10.8, 13.5, 7.7], (20_000, 3))
    path = tmp_path / "counts.csv"
    carry(anywhere, channel="autofluo", source="native-mm", labels_channel="atlas", counts=path, midline_mm=5.23)
    image = nib.load(brain_data / "annotation_in_structural_100um.nii.gz")
    voxels, under = np.asarray(image.dataobj), annotation_under(brain_data, anywhere)
    right_of = np.einsum("ijkl,l->ijk", np.stack(np.indices(voxels.shape), -1), image.affine[0, :3]) + image.affine[0, 3]
    rows = {row["acronym"]: row for row in rows_of(path)}
    for acronym in ("Isocortex", "CA1", "TH", "root"):
        parts = list(allen_parts(acronym))
        for side, chosen, there in (
            ("", anywhere[:, 0] > -9, right_of > -9),
            ("left_", anywhere[:, 0] < 5.23, right_of < 5.23),
            ("right_", anywhere[:, 0] >= 5.23, right_of >= 5.23),
        ):
            own = [int(rows[acronym]["region_id"])]
            for ids, infix in ((own, ""), (parts, "_with_descendants")):
                count = np.count_nonzero(np.isin(under[chosen], ids))
                volume = np.count_nonzero(np.isin(voxels[there], ids)) * 1e-3
                assert int(rows[acronym][f"{side}count{infix}"]) == count
                assert float(rows[acronym][f"{side}volume{infix}_mm3"]) == pytest.approx(volume, rel=1e-6)
                density = rows[acronym][f"{side}density{infix}_per_mm3"]
                assert float(density) == pytest.approx(count / volume, rel=1e-6) if volume else density == ""
    cortex = rows["Isocortex"]
    assert float(cortex["volume_mm3"]) == 0 and float(cortex["volume_with_descendants_mm3"]) > 50
    # The median of all labelled voxels, where nobody says.
    carry(anywhere, channel="autofluo", source="native-mm", labels_channel="atlas", counts=path, overwrite=True)
    middle = np.median(right_of[voxels != 0])
    left = np.count_nonzero(np.isin(voxels[right_of < middle - 1e-9], list(allen_parts("root")))) * 1e-3
    assert float({row["acronym"]: row for row in rows_of(path)}["root"]["left_volume_with_descendants_mm3"]) == pytest.approx(left)


def test_labels_without_a_label_have_no_sides(tmp_path: Path) -> None:
    path, counts = tmp_path / "labels.h5", tmp_path / "counts.csv"
    empty = np.zeros((2, 3, 4), np.uint8)
    fields = {"path": path, "channel": "l", "voxel_size_mm": (1, 1, 1), "orientation": "SAR", "kind": "labels"}
    ingest_channel(IngestRequest(**fields, image=empty))
    transform_points(PointsRequest(path=path, channel="l", points=[[0, 0, 0]], labels_channel="l", counts=counts))
    assert counts.read_text() == "region_id,acronym,name,count,volume_mm3,density_per_mm3\n0,,no region,1,,\n"


def test_without_a_tree_nothing_is_counted_along_it(tmp_path: Path) -> None:
    path, counts, output = tmp_path / "labels.h5", tmp_path / "counts.csv", tmp_path / "out.csv"
    fields = {"path": path, "channel": "l", "voxel_size_mm": (1, 1, 1), "orientation": "SAR"}
    # No voxel has the 0 that points outside get, and 0 has a name that is none of a region.
    table = write_cells(tmp_path / "labels.csv", "id,name\n0,Clear Label\n5,Five\n")
    ingest_channel(IngestRequest(**fields, image=np.array([[[70_000, 5, 5]]], np.uint32), kind="labels", labels=table))
    points = [[0, 0, 1], [0, 0, 0], [0, 0, 9]]
    request = PointsRequest(path=path, channel="l", points=points, labels_channel="l", counts=counts, output=output)
    transform_points(request)
    assert counts.read_text() == (
        "region_id,acronym,name,count,volume_mm3,density_per_mm3,left_count,left_volume_mm3,left_density_per_mm3,right_count,"
        "right_volume_mm3,right_density_per_mm3\n"
        "0,,no region,1,,,0,,,1,,\n5,,Five,1,2,0.5,0,0,,1,2,0.5\n70000,,,1,1,1,1,1,1,0,0,\n"
    )
    assert [line.split(",")[3:] for line in output.read_text().splitlines()[1:]] == [["5", "Five"], ["70000", ""], ["0", ""]]

    (tmp_path / "labels.h5").unlink()
    (tmp_path / "labels.xml").unlink()
    ingest_channel(IngestRequest(**fields, image=np.array([[[70_000, 5, 5]]], np.uint32), kind="labels"))
    transform_points(request.model_copy(update={"overwrite": True}))
    assert [line.split(",")[:4] for line in counts.read_text().splitlines()[1:]] == [
        ["0", "", "no region", "1"],
        ["5", "", "", "1"],
        ["70000", "", "", "1"],
    ]


# --- tables -----------------------------------------------------------------------------------------------------------------------


def write_cells(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding)
    return path


def test_the_output_has_the_input_s_columns_and_the_new_ones(tmp_path: Path, carry: Carry) -> None:
    source = write_cells(tmp_path / "cells.csv", 'X;note;y;Z;"a;b"\n10;"é;1";20;30; x \n\n11.5;=1+1;21;31;\n', "utf-8-sig")
    result = carry(source, target="native-mm", output=tmp_path / "out.csv", **REGIONS)
    assert result.path == tmp_path / "out.csv"
    lines = result.path.read_text("utf-8").splitlines()
    assert lines[0] == 'X;note;y;Z;"a;b";R_mm;A_mm;S_mm;region_id;region'
    assert lines[1].startswith('10;"é;1";20;30; x ;0.500000;1.800000;6.650000;')
    assert lines[2].startswith("11.5;=1+1;21;31;;0.575000;1.860000;6.600000;") and len(lines) == 3


def test_region_columns_name_the_region(brain_data: Path, tmp_path: Path, carry: Carry) -> None:
    source = brain_data / "signal_cells_voxel_zyx.csv"
    fields = {"transforms": CHAIN[:1], "labels_channel": "atlas", "labels_in": "output", "output": tmp_path / "out.csv"}
    result = carry(source, **fields)
    assert result.region_ids is not None
    rows = rows_of(tmp_path / "out.csv")
    assert [int(row["region_id"]) for row in rows] == result.region_ids.tolist()
    text = (brain_data / "allen_labels_itksnap.txt").read_text()
    acronyms = {int(key): acronym for key, acronym in re.findall(r'^\s*(\d+) .*\(([^()]+)\)"\s*$', text, re.MULTILINE)}
    inside = [row for row in rows if row["region_id"] != "0"]
    assert len(inside) > 5000 and all(row["region"] == acronyms[int(row["region_id"])] for row in inside)
    assert {row["region"] for row in rows if row["region_id"] == "0"} == {""}
    written = np.array([[float(row[name]) for name in ("R_mm", "A_mm", "S_mm")] for row in rows])
    np.testing.assert_allclose(written, result.points, rtol=0, atol=5.01e-7)


@pytest.mark.parametrize(
    ("source", "header", "order"),
    [
        ("native-voxel", "z,y,x", (0, 1, 2)),
        ("native-voxel", "index,axis-0,axis-1,axis-2", (1, 2, 3)),
        ("native-voxel", ",0,1,2", (1, 2, 3)),
        ("native-voxel", "z_vox\tY_VOX\tx_vox", (0, 1, 2)),
        ("native-voxel", "axis-0,x,y,z", (3, 2, 1)),
        ("native-mm", "a,s,r", (2, 0, 1)),
        ("output-mm", "x,y,z,S_mm,A_mm,R_mm", (5, 4, 3)),
        ("output-mm", "id,Z, Y ,X", (3, 2, 1)),
        ("output-voxel", "k,j,i", (2, 1, 0)),
        ("output-voxel", "i_vox,j_vox,k_vox", (0, 1, 2)),
    ],
)
def test_columns_are_known_by_their_names(
    tmp_path: Path, carry: Carry, source: str, header: str, order: tuple[int, int, int]
) -> None:
    separator = "\t" if "\t" in header else ","
    values = [float(10 + k) for k in range(header.count(separator) + 1)]
    file = write_cells(tmp_path / "cells.csv", f"{header}\n{separator.join(map(str, values))}\n")
    fields = {"source": source, "target": source, "reference": "cfos" if source == "output-voxel" else None}
    np.testing.assert_allclose(carry(file, **fields).points, [[values[k] for k in order]], atol=1e-9)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize("quotes", ["", '"'])
def test_tables_of_spreadsheets(tmp_path: Path, carry: Carry, encoding: str, quotes: str) -> None:
    text = f"Größe;z;{quotes}y{quotes};x;0,1\n1,50;12,5;{quotes}3{quotes};4,25;007\n\n1e5;1,0E1;2;3;=1+1\n"
    file = write_cells(tmp_path / "cells.csv", text, encoding)
    result = carry(file, target="native-voxel", output=tmp_path / "out.csv")
    np.testing.assert_allclose(result.points, [[12.5, 3, 4.25], [10, 2, 3]], atol=1e-9)
    # Other columns are nobody's business, and the new ones are numbers for the same program.
    assert (tmp_path / "out.csv").read_text("utf-8") == (
        f"Größe;z;{quotes}y{quotes};x;0,1;z_vox;y_vox;x_vox\n"
        f"1,50;12,5;{quotes}3{quotes};4,25;007;12,500000;3,000000;4,250000\n1e5;1,0E1;2;3;=1+1;10,000000;2,000000;3,000000\n"
    )


def test_brainmapper_s_table_is_known(tmp_path: Path, carry: Carry) -> None:
    names = [f"coordinate_{space}_axis_{axis}" for space in ("raw", "atlas") for axis in range(3)]
    header = ",".join([*names, "structure_name", "hemisphere"])
    file = write_cells(tmp_path / "all_points.csv", f'{header}\n10,20,30,1,2,3,"Field CA1, left",left\n')
    result = carry(file, target="native-voxel", output=tmp_path / "out.csv")
    np.testing.assert_allclose(result.points, [[10, 20, 30]], atol=1e-9)
    assert rows_of(tmp_path / "out.csv")[0]["structure_name"] == "Field CA1, left"


def markers(types: dict[int, list[tuple[float, float, float]]], properties: str = "") -> str:
    def places(points: list[tuple[float, float, float]]) -> str:
        return "".join(f"<Marker><MarkerX>{x}</MarkerX><MarkerY>{y}</MarkerY><MarkerZ>{z}</MarkerZ></Marker>" for z, y, x in points)

    kinds = "".join(f"<Marker_Type><Type>{kind}</Type>{places(points)}</Marker_Type>" for kind, points in types.items())
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<CellCounter_Marker_File><Image_Properties><Image_Filename>placeholder.tif'
        f"</Image_Filename>{properties}</Image_Properties><Marker_Data><Current_Type>1</Current_Type>{kinds}</Marker_Data>"
        "</CellCounter_Marker_File>"
    )


def test_cells_of_cellfinder(tmp_path: Path, carry: Carry, cells: Points) -> None:
    some = [tuple(row) for row in cells[:300].tolist()]
    file = write_cells(tmp_path / "cells.xml", markers({1: some[:100], 2: some[100:]}))
    result = carry(file, target="native-mm", output=tmp_path / "out.csv", **REGIONS)
    np.testing.assert_allclose(result.points, signal_mm(cells[100:300]), atol=1e-9)
    assert "left out: 100 of type 1 (no cells)" in result.warnings[0]
    rows = rows_of(tmp_path / "out.csv")
    assert list(rows[0]) == ["z", "y", "x", "type", "R_mm", "A_mm", "S_mm", "region_id", "region"]
    assert [[float(row[name]) for name in "zyx"] for row in rows] == cells[100:300].tolist() and rows[0]["type"] == "2"
    both = carry(file, target="native-voxel", marker_type=(1, 2), output=tmp_path / "again.xml")
    np.testing.assert_allclose(both.points, cells[:300], atol=1e-9)
    assert not both.warnings
    again = carry(tmp_path / "again.xml", target="native-voxel")
    np.testing.assert_allclose(again.points, np.rint(cells[:300]), atol=1e-9)


def test_planes_of_imagej_s_cell_counter_are_counted_from_1(tmp_path: Path, carry: Carry) -> None:
    scale = "<X_Calibration>1.0</X_Calibration>"
    file = write_cells(tmp_path / "CellCounter.xml", markers({1: [], 2: [], 3: [(1, 5, 6)], 4: [(9, 9, 9)]}, scale))
    with pytest.raises(InputError, match=r"markers 1 of type 3, 1 of type 4: say which are meant \(--marker-type\)"):
        carry(file, target="native-voxel")
    result = carry(file, target="native-voxel", marker_type=(3,))
    np.testing.assert_allclose(result.points, [[0, 5, 6]], atol=1e-9)
    assert any("counts planes from 1" in warning for warning in result.warnings)
    # There, types are what a user makes of them: 2 need not be the cells, and 1 no others.
    file = write_cells(tmp_path / "CellCounter.xml", markers({1: [(1, 5, 6)], 2: [(9, 9, 9)]}, scale))
    with pytest.raises(InputError, match=r"markers 1 of type 1, 1 of type 2: say which are meant \(--marker-type\)"):
        carry(file, target="native-voxel")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (markers({1: [(1, 2, 3)]}), r"no marker of type 2, but 1 of type 1: say which"),
        (markers({2: [(1, 2, 3)]}).replace("<MarkerY>2", "<MarkerY>b"), r"marker 1: MarkerY is 'b', not a finite"),
        (markers({2: [(1, 2, 3)]}).replace("<MarkerZ>1</MarkerZ>", ""), r"marker 1: MarkerZ is '', not"),
        ("<SpimData/>", r"expected <CellCounter_Marker_File>, found <SpimData>"),
        ("<CellCounter_Marker_File>", r"cells.xml: cannot be read as cellfinder's XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><CellCounter_Marker_File>&b;</CellCounter_Marker_File>', r"cannot be read"),
    ],
)
def test_bad_markers_are_refused(tmp_path: Path, carry: Carry, text: str, message: str) -> None:
    file = write_cells(tmp_path / "cells.xml", text)
    with pytest.raises((InputError, SourceError), match=message):
        carry(file, output=tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_columns_can_be_named(tmp_path: Path, carry: Carry) -> None:
    file = write_cells(tmp_path / "cells.csv", "x,y,z,Cell Z\n1,2,3,4\n")
    result = carry(file, columns=("cell z", "y", "x"), target="native-voxel")
    np.testing.assert_allclose(result.points, [[4, 2, 1]], atol=1e-9)


def test_no_point_is_no_error(tmp_path: Path, carry: Carry) -> None:
    file = write_cells(tmp_path / "cells.csv", "z,y,x,note\n")
    result = carry(file, **REGIONS, output=tmp_path / "out.csv", counts=tmp_path / "counts.csv")
    assert result.points.shape == (0, 3) and not result.warnings
    assert (tmp_path / "out.csv").read_text() == "z,y,x,note,R_mm,A_mm,S_mm,region_id,region\n"
    assert {row["count"] for row in rows_of(tmp_path / "counts.csv")} == {"0"}
    assert carry([]).points.shape == (0, 3)


def test_arrays_get_a_table_of_the_new_columns(tmp_path: Path, carry: Carry) -> None:
    carry([[0, 153, 0], [-1e-9, 153, 1]], target="native-mm", output=tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "R_mm,A_mm,S_mm\n0.000000,0.000000,0.000000\n0.050000,0.000000,0.000000\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"cells.csv: holds no table: the first line must name the columns"),
        ("\n\n", r"cells.csv: holds no table"),
        ("206,87,120\n1,2,3\n", r"cells.csv: line 1: expected columns z,y,x or axis-0.*found 206, 87, 120: name the columns"),
        ("z,x,note\n1,2,3\n", r"found z, x, note"),
        ("z,y,x,Z\n1,2,3,4\n", r"more than one column is called so: z, y, x, Z"),
        ("z,y,x\n1,2,3\n1,b,3\n", r"cells.csv: line 3: y is 'b', not a finite number: correct"),
        ("z,y,x\n1,nan,inf\n", r"line 2: y is 'nan', x is 'inf', not a finite"),
        ("z,y,x\n1,,3\n", r"line 2: y is '', not"),
        ("z;y;x\n1;2,5,5;3\n", r"line 2: y is '2,5,5', not"),
        ("z;y;x\n1;2,5;3\n1;2.5;3\n", r"some coordinates have decimal points, others decimal commas"),
        ("index,axis-0,axis-1,axis-2,axis-3\n0,1,2,3,4\n", r"more than three axes: .*say which three are meant \(--columns\)"),
        ("z,y,x\n1,2\n1,2,3,4\n", r"line 2: 2 cells, but the header has 3; line 3: 4 cells, but"),
        ('z,y,x,n\n1,2,3,"a\nb"\n1,b,3,\n', r"line 4: y is 'b'"),
        (
            "z,y,x\n" + "q,1,1\n" * 12,
            r"^(?!.*line 12).*line 2: z is 'q'.*line 11: z is 'q', not a finite number \(and 2 more lines\)",
        ),
        ("z,y,x\n1,2,__import__('os')\n", r"line 2: x is \"__import__"),
    ],
)
def test_bad_tables_are_refused_by_line(tmp_path: Path, carry: Carry, text: str, message: str) -> None:
    file = write_cells(tmp_path / "cells.csv", text)
    with pytest.raises((InputError, SourceError), match=message):
        carry(file, output=tmp_path / "out.csv")
    assert list(tmp_path.iterdir()) == [file]


def test_unreadable_tables_are_refused(tmp_path: Path, carry: Carry) -> None:
    with pytest.raises(MissingError, match=r"none.csv: no such file"):
        carry(tmp_path / "none.csv")
    with pytest.raises(SourceError, match=r"cells.csv: is no text file: it holds zero bytes"):
        carry(write_cells(tmp_path / "cells.csv", "z,y,x\n1,2,3\n", "utf-16-le"))
    with pytest.raises(SourceError, match=r"cells.csv: cannot be read .*: field larger than"):
        # A quotation mark that is never closed.
        carry(write_cells(tmp_path / "cells.csv", 'z,y,x\n"1,2,3\n' + "1,2,3\n" * 30_000))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"channel": "cfox"}, LsfmError, "no channel 'cfox'; it has: autofluo, cfos"),
        ({"labels_channel": "cfox"}, LsfmError, "no channel 'cfox'"),
        ({"labels_channel": "autofluo"}, InputError, "'autofluo' holds image, not labels"),
        ({"target": "output-voxel"}, InputError, "output-voxel: needs a reference"),
        ({"reference": "atlas"}, InputError, "reference: its voxels only matter"),
        ({"target": "output-voxel", "reference": "nothing.nii"}, InputError, "no such channel, and there is no such file"),
        ({"source": "native-mm", "level": 1}, InputError, "level: only matters"),
        ({"level": 7}, InputError, "'cfos' has no level 7; it has levels 0 to 0"),
        ({"counts": True}, InputError, "counts: needs the channel"),
        ({"midline_mm": 5}, InputError, "midline: only counts"),
        ({"marker_type": (2,)}, InputError, "marker_type: only an XML file"),
        ({"points": "cells.xml", "source": "native-mm"}, InputError, "cells.xml is native-voxel"),
        ({"output": "out.xml"}, InputError, "out.xml: XML holds native-voxel positions"),
        ({"columns": ("a", "b", "c")}, InputError, "columns: only a CSV file has them"),
        ({"points": [[1, 2]]}, InputError, r"expected an array \(n, 3\), found one of shape \(1, 2\)"),
        ({"points": [["a", "b", "c"]]}, InputError, "neither the path of a CSV file nor an array"),
        ({"points": [[1, 2, 3], [1, np.nan, 3], [np.inf, 2, 3]]}, InputError, "not finite at 1, 2: correct"),
        ({"transforms": ("wrap",)}, InputError, "'wrap': neither a file, nor stored"),
        ({"memory_bytes": 10**8}, MemoryBudgetError, "1 points need about .* more than the 100 MB given"),
        ({"source": "voxel"}, InputError, "source"),
    ],
)
def test_bad_requests_are_refused(carry: Carry, fields: dict[str, Any], error: type[LsfmError], message: str) -> None:
    with pytest.raises(error, match=message):
        carry(**{"points": [[1, 2, 3]], **fields})


def test_outputs_are_made_together_or_not_at_all(tmp_path: Path, brain: Path, carry: Carry) -> None:
    source = write_cells(tmp_path / "cells.csv", "z,y,x\n1,2,3\n")
    output, counts = tmp_path / "out.csv", write_cells(tmp_path / "counts.csv", "old")
    fields = {**REGIONS, "output": output, "counts": counts}
    heard: list[Any] = []
    with pytest.raises(ExistsError, match=r"counts.csv: exists already"):
        transform_points(PointsRequest(path=brain, channel="cfos", points=source, **fields), progress=lambda *a: heard.append(a))
    # Known before any work is done.
    assert not heard
    with pytest.raises(InputError, match=r"cells.csv is the table of the points as well"):
        carry(source, **{**fields, "counts": source, "overwrite": True})
    for own in (brain, brain.with_suffix(".xml")):
        (link := tmp_path / "link.csv").symlink_to(own)
        with pytest.raises(InputError, match="belongs to the file of the channels"):
            carry(source, output=link, overwrite=True)
        link.unlink()
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(CancelledError):
        transform_points(PointsRequest(path=brain, channel="cfos", points=source, **fields, overwrite=True), cancel=cancel)
    assert counts.read_text() == "old" and not output.exists()
    carry(source, **fields, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.csv", "counts.csv", "out.csv"]
    with pytest.raises(InputError, match=r"line 1: has columns R_mm, A_mm, S_mm already"):
        carry(output, target="native-mm", output=tmp_path / "again.csv")
    # In place, where that is allowed.
    carry(source, target="native-mm", output=source, overwrite=True)
    assert source.read_text() == "z,y,x,R_mm,A_mm,S_mm\n1,2,3,0.150000,0.060000,7.550000\n"


def test_points_far_from_the_image_are_remarked(carry: Carry, cells: Points) -> None:
    exchanged = carry(cells[:, ::-1], labels_channel="atlas", transforms=CHAIN[:1], labels_in="output")
    assert 0 < exchanged.outside < 6000
    assert exchanged.warnings[0].startswith(f"{exchanged.outside} of 6000 points are outside of channel 'cfos': are they native-")
    assert carry([[0, 0, 0], [0, 0, -1]]).warnings
    # Who comes from elsewhere is told only if most are outside.
    few, most = np.full((9, 3), 5.0), np.full((9, 3), 5.0)
    few[:4] = most[:5] = 99
    assert not carry(few, source="output-mm").warnings
    assert "are they output-mm" in carry(most, source="output-mm").warnings[0]
    away = carry(cells + 1000, **REGIONS)
    assert away.outside == 6000 and "no point is in a region of channel 'atlas'" in away.warnings[1]


def test_labels_may_live_between_two_transforms(brain_data: Path, brain: Path, carry: Carry) -> None:
    cells = brain_data / "signal_cells_voxel_zyx.csv"
    short = carry(cells, transforms=CHAIN[:1], labels_channel="atlas", labels_in="output")
    long = carry(cells, transforms=CHAIN, labels_channel="atlas", labels_in=CHAIN[0])
    assert short.region_ids is not None and (short.region_ids != 0).sum() > 5000
    np.testing.assert_array_equal(long.region_ids, short.region_ids)
    # From the other side the way to the labels is another one, and leads to the same place.
    back = carry(long.points, transforms=CHAIN, source="output-mm", target="native-mm", labels_channel="atlas", labels_in=CHAIN[0])
    assert (back.region_ids == short.region_ids).mean() > 0.99
    with pytest.raises(InputError, match="expected native, output, or the name of a transform of the chain"):
        carry(cells, transforms=CHAIN, labels_channel="atlas", labels_in="structural")


# --- the command ------------------------------------------------------------------------------------------------------------------


def test_the_command(brain_data: Path, brain: Path, tmp_path: Path, carry: Carry, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> tuple[str, str]:
        assert main(["transform-points", *map(str, arguments)]) == 0
        printed = capsys.readouterr()
        return printed.out, printed.err

    source = brain_data / "signal_cells_voxel_zyx.csv"
    transforms = [word for name in CHAIN for word in ("--transform", name)]
    where = ("--from", "native-voxel", "--to", "output-mm", "--labels-channel", "atlas", "--labels-in", CHAIN[0])
    files = ("--output", tmp_path / "out.csv", "--counts", tmp_path / "counts.csv", "--overwrite")
    out, err = run(source, "--file", brain, "--channel", "cfos", *transforms, *where, *files)
    assert "6000 points, native-voxel -> output-mm, 0 outside of channel 'cfos'" in out and not err
    expected = carry(source, transforms=CHAIN, labels_channel="atlas", labels_in=CHAIN[0], counts=True)
    assert expected.region_ids is not None and expected.counts is not None
    inside = int(np.count_nonzero(expected.region_ids))
    assert f"{inside} of them in {sum(row.count > 0 for row in expected.counts[1:])} regions of 'atlas'" in out
    rows = rows_of(tmp_path / "out.csv")
    np.testing.assert_allclose([float(row["A_mm"]) for row in rows], expected.points[:, 1], atol=5.01e-7)

    out, err = run(
        source, "--file", brain, "--channel", "cfos", "--columns", "x,y,z", "--to", "native-mm", "--quiet",
        "--output", tmp_path / "wrong.csv",
    )  # fmt: skip
    assert not out and err.startswith("warning: ") and "outside of channel 'cfos'" in err


def test_no_name_of_a_region_is_written_as_a_formula_and_numbers_stay(tmp_path: Path) -> None:
    names = {1: "=HYPERLINK(1)", 2: "-2+3", 3: "@x", 4: "+a", 5: "-5", 6: "plain"}
    table, points, file = tmp_path / "labels.csv", tmp_path / "cells.csv", tmp_path / "a.h5"
    table.write_text("id,name\n" + "".join(f"{key},{name}\n" for key, name in names.items()))
    points.write_text("z,y,x,remark\n" + "".join(f"0,0,{key - 1},=of the user\n" for key in names))
    fields: Any = {"path": file, "channel": "a", "voxel_size_mm": (1, 1, 1), "orientation": "SAR"}
    ingest_channel(IngestRequest(**fields, image=np.array([[[*names]]], np.uint16), kind="labels", labels=table))
    output, counts = tmp_path / "out.csv", tmp_path / "counts.csv"
    transform_points(PointsRequest(path=file, channel="a", points=points, labels_channel="a", output=output, counts=counts))
    expected = [name if key in (5, 6) else f"'{name}" for key, name in names.items()]
    with output.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["region"] for row in rows] == expected
    # Of the input, letter by letter; positions to the left and below stay numbers.
    assert {row["remark"] for row in rows} == {"=of the user"}
    assert [float(row["R_mm"]) for row in rows] == [0, 1, 2, 3, 4, 5]
    with counts.open(newline="") as stream:
        assert [row["name"] for row in csv.DictReader(stream)][1:] == expected


def test_tables_in_the_columns_of_brainglobe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    monkeypatch.chdir(tmp_path)
    shape = (12, 14, 10)
    annotation = np.ones(shape, np.uint8)
    annotation[6:] = 2
    annotation[:, :8] = 0
    Path("structures.csv").write_text('id,acronym,name\n1,A,first\n2,B,"second, the other"\n3,C,nowhere\n')
    fields: dict[str, Any] = {"path": "brain.h5", "voxel_size_mm": (0.2, 0.2, 0.2), "orientation": "PIL", "space": "atlas"}
    ingest_channel(IngestRequest(channel="annotation", image=annotation, kind="labels", labels=Path("structures.csv"), **fields))
    fields = {"path": "brain.h5", "voxel_size_mm": (0.1, 0.1, 0.1), "orientation": "AIR"}
    ingest_channel(IngestRequest(channel="cfos", image=np.ones((20, 18, 16), np.uint8), **fields))
    # A point of the atlas lies half a millimetre further in A in the image.
    np.savetxt("move.txt", [[1, 0, 0, 0.0], [0, 1, 0, -0.5], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert main(["write-affine", "brain.h5", "--channel", "cfos", "--name", "move", "--affine", "move.txt", "--to", "atlas"]) == 0
    raw = np.random.default_rng(2).uniform(0, 15, (300, 3))
    pd.DataFrame(raw, columns=[f"coordinate_raw_axis_{axis}" for axis in range(3)]).to_csv("cells.csv", index=False)
    line = "transform-points cells.csv --file brain.h5 --channel cfos --to atlas --labels-channel annotation --midline 0.8"
    assert main([*line.split(), "--layout", "brainglobe", "--output", "all_points.csv", "--counts", "summary.csv", "--quiet"]) == 0
    # AIR and PIL from the first voxel in R, A and S.
    world = np.column_stack([0.1 * raw[:, 2], 0.1 * raw[:, 0] + 0.5, 0.1 * (17 - raw[:, 1])])
    atlas = np.column_stack([11 - world[:, 1] / 0.2, 13 - world[:, 2] / 0.2, 9 - world[:, 0] / 0.2])
    voxel = np.floor(atlas + 0.5).astype(int)
    inside = ((voxel >= 0) & (voxel < shape)).all(axis=1)
    ids = np.zeros(len(raw), int)
    ids[inside] = annotation[tuple(voxel[inside].T)]
    kept = ids > 0
    assert 0 < kept.sum() < len(raw) and {1, 2} <= set(ids)
    names = np.array(["", "first", "second, the other"])
    found = pd.read_csv("all_points.csv")
    assert list(found.columns) == [
        *(f"coordinate_{where}_axis_{axis}" for where in ("raw", "atlas") for axis in range(3)), "structure_name", "hemisphere",
    ]  # fmt: skip
    np.testing.assert_allclose(found.to_numpy()[:, :6].astype(float), np.column_stack([raw, atlas])[kept], atol=2e-6)
    side = np.where(world[:, 0] < 0.8, "left", "right")
    assert found["structure_name"].tolist() == names[ids[kept]].tolist() and found["hemisphere"].tolist() == side[kept].tolist()
    summary = pd.read_csv("summary.csv")
    assert list(summary.columns) == [
        "structure_name", "left_cell_count", "right_cell_count", "total_cells", "left_volume_mm3", "right_volume_mm3",
        "total_volume_mm3", "left_cells_per_mm3", "right_cells_per_mm3",
    ]  # fmt: skip
    assert summary["structure_name"].tolist() == ["first", "second, the other"]
    # The atlas' columns grow to the left; its middle voxels are at R 0.8 and 1.
    for row, key in zip(summary.itertuples(index=False), (1, 2), strict=True):
        counts = [int(((ids == key) & (side == name)).sum()) for name in ("left", "right")]
        volumes = [0.008 * (annotation[:, :, part] == key).sum() for part in (slice(6, None), slice(0, 6))]
        expected = [*counts, sum(counts), *volumes, sum(volumes), *(n / v for n, v in zip(counts, volumes, strict=True))]
        np.testing.assert_allclose(list(row)[1:], expected, rtol=1e-5)
    # What cannot be told so.
    for options in (
        "--layout brainglobe --output x.csv --to native-mm --labels-channel annotation",
        "--layout brainglobe --output x.csv",
    ):
        words = [
            "transform-points",
            "cells.csv",
            "--file",
            "brain.h5",
            "--channel",
            "cfos",
            "--to-space",
            "atlas",
            *options.split(),
        ]
        assert main([*words, "--quiet"]) == 3
    # And in again: brainmapper's table is one of points.
    again = transform_points(PointsRequest(path="brain.h5", channel="cfos", points="all_points.csv", to_space="atlas"))
    np.testing.assert_allclose(again.points, world[kept], atol=1e-6)
