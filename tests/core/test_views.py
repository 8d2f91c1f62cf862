"""Channels in another space without an export: the export's voxels, SimpleITK's, and planted ones."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from lsfm_core import (
    Affine,
    ChannelView,
    ChunkCache,
    DisplacementField,
    ExportRequest,
    IngestRequest,
    InputError,
    LsfmError,
    Orientation,
    Space,
    StorageError,
    TransformChain,
    chain_to,
    export_channel,
    ingest_channel,
    open_lsfm,
    view_channel,
)
from lsfm_core.cli import main

VOXEL_SIZE_MM = (0.05, 0.04, 0.03)


def ingest(path: Path, channel: str, image: np.ndarray[Any, Any], **fields: Any) -> Path:
    place = {"voxel_size_mm": VOXEL_SIZE_MM, "orientation": "AIR"}
    ingest_channel(IngestRequest(path=path, channel=channel, image=image, **place | fields))
    return path


def means(image: np.ndarray[Any, Any], *factors: int) -> np.ndarray[Any, Any]:
    """Of blocks, of sizes that the factors divide."""
    a, b, c = (n // f for n, f in zip(image.shape, factors, strict=True))
    blocks = image.reshape(a, factors[0], b, factors[1], c, factors[2])
    return np.rint(blocks.mean(axis=(1, 3, 5))).astype(image.dtype)


# --- the real brain -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def to_template(brain_data: Path) -> sitk.Transform:
    """From the template's points to those of the structural channel, as ANTs has them."""
    folder = brain_data / "transforms"
    field = sitk.ReadImage(str(folder / "template_to_structural_1Warp.nii.gz"), sitk.sitkVectorFloat64)
    affine = sitk.ReadTransform(str(folder / "template_to_structural_0GenericAffine.mat"))
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])


@pytest.fixture(scope="module")
def planes(brain_data: Path) -> np.ndarray[Any, Any]:
    """The structural channel, as it lies on disk."""
    files = sorted((brain_data / "structural_tiff").iterdir())
    return np.stack([sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files])


def structural(planes: np.ndarray[Any, Any], factors: tuple[int, int, int]) -> sitk.Image:
    """The structural channel, as block means where voxels are to be larger, in the place where the file says that they lie."""
    # The last block along an odd axis has one voxel only.
    odd = [(0, -n % f) for n, f in zip(planes.shape, factors, strict=True)]
    sums, counts = np.pad(planes.astype(np.uint32), odd), np.pad(np.ones(planes.shape, np.uint32), odd)
    for axis, factor in enumerate(factors):
        shape = (*sums.shape[:axis], -1, factor, *sums.shape[axis + 1 :])
        sums, counts = (part.reshape(shape).sum(axis=axis + 1, dtype=np.uint32) for part in (sums, counts))
    reduced = np.rint(sums / counts).astype(np.uint16)
    image = sitk.GetImageFromArray(reduced)
    # Planes go to anterior, rows to inferior, columns to right; the voxel that is first in R, A and S lies at 0.
    size = np.array([0.05, 0.04, 0.04])
    centre = (np.array(factors) - 1) / 2 * size
    image.SetSpacing((size * factors)[::-1].tolist())
    image.SetDirection([-1, 0, 0, 0, 0, -1, 0, -1, 0])
    image.SetOrigin([-centre[2], -centre[0], (planes.shape[1] - 1) * size[1] - centre[1]])
    return image


def itk_grid(space: Space) -> sitk.Image:
    grid = sitk.Image(space.shape, sitk.sitkUInt16)
    lps = np.diag([-1, -1, 1]) @ space.world_from_voxel[:3]
    grid.SetSpacing(space.voxel_size_mm)
    grid.SetDirection((lps[:, :3] / space.voxel_size_mm).ravel().tolist())
    grid.SetOrigin(lps[:, 3].tolist())
    return grid


def itk_planes(image: sitk.Image, space: Space, chain: sitk.Transform, planes: slice) -> np.ndarray[Any, Any]:
    """Some of the planes that SimpleITK makes on a grid, in array order."""
    grid = itk_grid(space)[planes]
    carried = sitk.Resample(image, grid, chain, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    return np.rint(sitk.GetArrayFromImage(carried)).transpose(2, 1, 0)


def test_levels_are_what_itk_makes_of_the_finest_that_does_not_alias(
    registered_file: Path, planes: np.ndarray[Any, Any], to_template: sitk.Transform
) -> None:
    with open_lsfm(registered_file) as file:
        view = view_channel(file, "autofluo", to="template", resolution_mm=0.05)
        assert [level.shape for level in view.levels] == [(228, 264, 160), (114, 132, 80)]
        # Twice the voxels of level 0 are no finer than the view's second level, after an affine that shrinks by some percent.
        assert [level.source_level for level in view.levels] == [0, 1]
        for level, factors, part in ((view.levels[0], (1, 1, 1), slice(90, 94)), (view.levels[1], (2, 2, 2), slice(45, 49))):
            expected = itk_planes(structural(planes, factors), level.space, to_template, part)
            found = np.asarray(level[part])
            assert found.std() > 50
            apart = np.abs(found - expected)
            assert apart.max() <= 1
            assert np.count_nonzero(apart) <= 1e-4 * found.size


@pytest.mark.parametrize(
    ("channel", "fields"),
    [
        ("autofluo", {"to_space": "template", "reference": "template_atlas"}),
        ("cfos", {"transforms": ("signal_to_structural", "structural_to_template", "warp"), "fill": 7}),
        ("atlas", {"to_space": "template"}),
        ("atlas", {"to_space": "cfos", "output_orientation": "PIR", "resolution_mm": (0.2, 0.1, 0.07)}),
        ("autofluo", {"resolution_mm": 0.13}),
        ("autofluo", {"output_orientation": "LPS", "origin_mm": (2, 3, 1), "size_mm": (5, 4, 3)}),
        ("cfos", {"output_orientation": "native"}),
        ("autofluo", {"resolution_mm": 0.1, "interpolation": "bspline", "origin_mm": (2, 3, 1), "size_mm": (2, 2, 2)}),
    ],
)
def test_the_finest_level_is_the_export(registered_file: Path, channel: str, fields: dict[str, Any]) -> None:
    words = {"to_space": "to", "transforms": "through", "reference": "grid"}
    with open_lsfm(registered_file) as file:
        view = view_channel(file, channel, **{words.get(name, name): value for name, value in fields.items()})
        volume = export_channel(ExportRequest(path=registered_file, channel=channel, **fields), file=file).volume
        assert volume is not None
        assert (view.dtype, view.kind) == (volume.array.dtype, volume.kind)
        np.testing.assert_array_equal(view.space.world_from_voxel, volume.space.world_from_voxel)
        np.testing.assert_array_equal(np.asarray(view), volume.array)
        # Any part is that part of it.
        np.testing.assert_array_equal(np.asarray(view[len(view) // 2]), volume.array[len(view) // 2])
        np.testing.assert_array_equal(np.asarray(view[3:9, ::-5, 7]), volume.array[3:9, ::-5, 7])


def test_the_chain_to_a_space_carries_points_as_itk_does(registered_file: Path, to_template: sitk.Transform) -> None:
    points = np.array([[5.1, 5.5, 5.4], [3.0, 8.0, 4.2], [9.9, 12.9, 7.8], [60, 0, 0]])
    lps = np.array([-1, -1, 1])
    expected = np.array([to_template.TransformPoint(point) for point in (points * lps).tolist()]) * lps
    with open_lsfm(registered_file) as file:
        for way in ({"to": "template"}, {"through": ("structural_to_template", "warp")}):
            chain = chain_to(file, "autofluo", **way)
            np.testing.assert_allclose(chain.map_points(points), expected, atol=1e-5)
        # And back, by the stored inverse: where that is good.
        np.testing.assert_allclose(chain.inverse().map_points(expected[:2]), points[:2], atol=0.02)
        assert chain_to(file, "autofluo").map_points(points).tolist() == points.tolist()
        with pytest.raises(LsfmError, match="no transforms that are stored lead"):
            chain_to(file, "autofluo", to="moon")


# --- planted voxels -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def moved_file(tmp_path: Path) -> tuple[Path, np.ndarray[Any, Any]]:
    """An image, labels, and an affine that moves both by whole voxels: (4, -8, 12)."""
    image = np.random.default_rng(5).integers(0, 60000, (64, 80, 272), dtype=np.uint16)
    path = ingest(tmp_path / "brain.h5", "signal", image)
    ingest(path, "labels", image // 9000, kind="labels", space="signal")
    # From the output's points to the image's, R A S: columns grow to R, planes to A, rows to I.
    matrix = np.eye(4)
    matrix[:3, 3] = 12 * 0.03, 4 * 0.05, 8 * 0.04
    np.savetxt(tmp_path / "move.txt", matrix)
    words = ["--channel", "signal", "--name", "move", "--affine", str(tmp_path / "move.txt"), "--to", "there", "--quiet"]
    assert main(["write-affine", str(path), *words]) == 0
    return path, image


def test_all_levels_are_block_means_at_the_place_that_the_transform_says(moved_file: tuple[Path, np.ndarray[Any, Any]]) -> None:
    path, image = moved_file
    with open_lsfm(path) as file:
        space = file["signal"].space
        view = view_channel(file, "signal", to="there", grid=space)
        assert [(level.shape, level.factors) for level in view.levels] == [
            ((64, 80, 272), (1, 1, 1)),
            ((32, 40, 136), (2, 2, 2)),
        ]
        expected = np.zeros_like(image)
        expected[:60, 8:, :260] = image[4:, :72, 12:]
        np.testing.assert_array_equal(np.asarray(view), expected)
        coarse = np.asarray(view.levels[1])
        # A level is made of blocks of the image, so those at its faces are whole.
        np.testing.assert_array_equal(coarse[:30, 4:, :130], means(image[4:, :72, 12:], 2, 2, 2))
        labels = view_channel(file, "labels", through="signal/move", grid=space)
        assert set(np.unique(np.asarray(labels.levels[1]))) <= set(np.unique(image // 9000))
        np.testing.assert_array_equal(np.asarray(labels), expected // 9000)


def test_what_alternates_from_voxel_to_voxel_becomes_grey_and_not_one_of_both(tmp_path: Path) -> None:
    stripes = np.zeros((40, 40, 520), np.uint16)
    stripes[:, :, ::2] = 1000
    path = ingest(tmp_path / "brain.h5", "signal", stripes, voxel_size_mm=(0.03, 0.03, 0.03))
    with open_lsfm(path) as file:
        # By a tenth of a voxel beside the pyramid's own grid, in which nothing could alias.
        moved = Affine(np.array([[1, 0, 0, 0.003], [0, 1, 0, 0.003], [0, 0, 1, 0.003], [0, 0, 0, 1.0]]))
        view = view_channel(file, "signal", through=TransformChain([moved]), grid=file["signal"].space)
        assert np.ptp(np.asarray(view)[2:-2, 2:-2, 2:-2]) >= 800
        for level in view.levels[1:]:
            inside = np.asarray(level)[2:-2, 2:-2, 2:-2]
            assert abs(inside.astype(int) - 500).max() <= 1
        coarse = view_channel(file, "signal", through=moved, resolution_mm=0.1)
        assert abs(np.asarray(coarse)[2:-2, 2:-2, 2:-2].astype(int) - 500).max() <= 170  # three of four voxels, for a third


def test_transforms_may_be_those_of_a_program(moved_file: tuple[Path, np.ndarray[Any, Any]]) -> None:
    path, _ = moved_file
    with open_lsfm(path) as file:
        grid = Space.from_orientation((40, 50, 60), (0.05, 0.04, 0.06), Orientation("RAS"))
        vectors = np.random.default_rng(0).normal(0, 0.05, (8, 8, 8, 3)).astype(np.float32)
        domain = Space.from_orientation((8, 8, 8), (0.9, 0.4, 0.5), Orientation("RAS"), (-0.5, -0.2, -0.1))
        own = TransformChain([file.affine("signal", "move"), DisplacementField(domain, vectors, name="wild")])
        view = view_channel(file, "signal", through=own, grid=grid)
        image = sitk.GetImageFromArray(np.asarray(file["signal"].levels[0]))
        own_space = file["signal"].space
        image.SetSpacing(own_space.voxel_size_mm[::-1])
        image.SetDirection([-1, 0, 0, 0, 0, -1, 0, -1, 0])
        image.SetOrigin([0, 0, 79 * 0.04])
        lps = sitk.GetImageFromArray((vectors * (-1, -1, 1)).transpose(2, 1, 0, 3).astype(np.float64), isVector=True)
        lps.SetSpacing(domain.voxel_size_mm)
        lps.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
        lps.SetOrigin([0.5, 0.2, -0.1])
        move = sitk.TranslationTransform(3, [-0.36, -0.2, 0.32])
        chain = sitk.CompositeTransform([move, sitk.DisplacementFieldTransform(lps)])
        apart = np.abs(np.asarray(view) - itk_planes(image, grid, chain, slice(0, 40)))
        assert apart.max() <= 1
        assert np.count_nonzero(apart) <= 1e-3 * apart.size
        back = pickle.loads(pickle.dumps(view))
        np.testing.assert_array_equal(np.asarray(back[7]), np.asarray(view[7]))


def test_dask_and_xarray_read_it_with_its_millimetres(moved_file: tuple[Path, np.ndarray[Any, Any]]) -> None:
    path, image = moved_file
    with open_lsfm(path) as file:
        view = view_channel(file, "signal", to="there", grid=file["signal"].space)
        array = view.to_dask()
        assert (array.shape, array.dtype) == (image.shape, image.dtype)
        data, coarse = view.to_xarray(), view.to_xarray(1)
        assert data.dims == coarse.dims == ("y", "z", "x")
        # Whoever reads it in another process, or when the file is closed, opens it again.
        frozen = pickle.dumps(view)
        expected = image[10, 12:20, 30]
        np.testing.assert_array_equal(array[6, 20:28, 18].compute(), expected)
        np.testing.assert_array_equal(data.sel(y=6 * 0.05, x=18 * 0.03, method="nearest")[20:28].to_numpy(), expected)
        np.testing.assert_allclose(data.z[:2], [79 * 0.04, 78 * 0.04])
        np.testing.assert_allclose(coarse.x[:2], [0.015, 0.075])
    again: ChannelView = pickle.loads(frozen)
    np.testing.assert_array_equal(np.asarray(again[6, 20:28, 18]), expected)


# --- what cannot be shown -------------------------------------------------------------------------------------------------------


def test_what_leads_nowhere_is_one_error(registered_file: Path) -> None:
    with open_lsfm(registered_file) as file:
        for words, fields in (
            ("no transforms that are stored lead", {"to": "moon"}),
            ("neither a file, nor stored", {"through": "nothing"}),
            ("transform 'signal_to_structural'|leads|lies", {"through": ("warp", "structural_to_template")}),
            ("lies wholly outside", {"origin_mm": (900, 0, 0), "size_mm": 1}),
            ("2\\^31", {"resolution_mm": 1e-9}),
            ("more voxels along an axis than can be counted", {"resolution_mm": 1e-30}),
            ("not both", {"to": "template", "through": TransformChain()}),
            ("no region", {"region": None}),
            ("no mode", {"interpolation": "mode"}),
            ("no such channel", {"grid": "elsewhere.nii"}),
        ):
            with pytest.raises(LsfmError, match=words):
                view_channel(file, "autofluo", **fields)
        with pytest.raises(InputError, match="cannot be mixed"):
            view_channel(file, "atlas", interpolation="linear")


def test_a_field_that_has_no_inverse_or_folds_is_refused_where_that_is_needed(tmp_path: Path) -> None:
    path = ingest(tmp_path / "brain.h5", "signal", np.ones((30, 30, 30), np.uint16))
    vectors = np.zeros((12, 12, 12, 3))
    # Back by more than the way from one voxel to the next.
    vectors[6:, :, :, 0] = -0.5
    domain = Space.from_orientation((12, 12, 12), (0.1, 0.1, 0.1), Orientation("RAS"))
    with open_lsfm(path) as file:
        field = DisplacementField(domain, vectors, name="folded")
        with pytest.raises(InputError, match="has no inverse"):
            view_channel(file, "signal", through=TransformChain([field]).inverse())
        field.may_invert = True
        with pytest.raises(InputError, match="folded"):
            view_channel(file, "signal", through=TransformChain([field]).inverse())
        # Forward, each point of the result has its place.
        assert np.asarray(view_channel(file, "signal", through=field)).max() == 1


@pytest.mark.parametrize("detached", [False, True])
def test_a_file_that_was_replaced_is_told(moved_file: tuple[Path, np.ndarray[Any, Any]], tmp_path: Path, detached: bool) -> None:
    path, _ = moved_file
    other = ingest(tmp_path / "other.h5", "signal", np.ones((64, 80, 272), np.uint16))
    with open_lsfm(path, detached=detached, cache=ChunkCache(0)) as file:
        view = view_channel(file, "signal", to="there")
        before, frozen = np.asarray(view[9]), pickle.dumps(view)
        os.replace(other, path)
        # Whoever has a file open keeps what was there; nobody else takes the other file's voxels for it.
        np.testing.assert_array_equal(np.asarray(view[9]), before)
        with pytest.raises(StorageError, match="open the file again"):
            np.asarray(pickle.loads(frozen)[9])
    with pytest.raises(LsfmError):
        np.asarray(view[40])


def test_a_channel_that_was_replaced_is_told(moved_file: tuple[Path, np.ndarray[Any, Any]]) -> None:
    path, image = moved_file
    # As viewers open files: others may write.
    with open_lsfm(path, detached=True, cache=ChunkCache(0)) as file:
        view = view_channel(file, "signal", through="move")
        assert np.asarray(view[9]).any()
        ingest(path, "signal", image[::-1].copy(), replace=True)
        with pytest.raises(StorageError, match="open the file again"):
            np.asarray(view[9])


# --- memory ---------------------------------------------------------------------------------------------------------------------

_PLANES = """
import sys
import numpy as np
from lsfm_core import Affine, ChunkCache, DisplacementField, Orientation, Space, TransformChain, open_lsfm, view_channel
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
with open_lsfm(sys.argv[1], cache=ChunkCache(16 * 2**20)) as file:
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    domain = Space.from_orientation((20, 20, 20), (0.5, 0.5, 0.5), Orientation("RAS"))
    field = DisplacementField(domain, np.full((20, 20, 20, 3), 0.03, np.float32))
    chain = TransformChain([Affine(turn), field])
    view = view_channel(file, "signal", through=chain, resolution_mm=0.01, origin_mm=(-2, 0, 0), size_mm=(6, 4, 3))
    np.asarray(view[300:301, 300:301, :10])
    before = peak()
    for axis in range(3):
        for index in range(0, view.shape[axis], 250):
            np.asarray(view[(slice(None),) * axis + (index,)])
    for level in view.levels[1:]:
        np.asarray(level[level.shape[0] // 2])
    print(peak() - before)
"""


def test_planes_take_no_more_than_the_cache_and_a_little(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(200, 400, (4, 600, 500), dtype=np.uint16)
    # Eight times what the cache holds.
    image = np.concatenate([noise] * 40)
    path = tmp_path / "brain.h5"
    place: dict[str, Any] = {"voxel_size_mm": (0.01, 0.01, 0.01), "orientation": "AIR"}
    ingest_channel(IngestRequest(path=path, channel="signal", image=image, **place))
    child = subprocess.run([sys.executable, "-c", _PLANES, path], capture_output=True, text=True, check=False, timeout=300)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) < (16 + 100) * 2**20
