"""Every input of a lab, read by us and by somebody else: voxels, geometry, channels, and what happens to damaged files."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsfm_core.errors import InputError, LsfmError, MissingError, SourceError
from lsfm_core.formats import PlaneFunction, Source, arrays, open_source
from lsfm_core.geometry import Space
from lsfm_core.records import FileRecord
from lsfm_core.testing import write_series

from .effort import examples

Array = np.ndarray[Any, Any]

# For an hour of fuzzing instead of a moment: LSFM_FUZZ_SECONDS=3600.
FUZZ_SECONDS = float(os.environ.get("LSFM_FUZZ_SECONDS", "1"))

# Axes that are no axis of the body, and an origin: columns are x, y, z steps in mm of an ITK image.
SPACING = (0.02, 0.03, 0.05)
ORIGIN = (-3.5, 4.25, 1.75)


def read(source: Source, threads: int = 1) -> Array:
    """All planes, in threads if there are several."""
    out = np.zeros((*source.shape, source.components) if source.components > 1 else source.shape, source.dtype)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda index: source.read_plane(index, out[index]), range(source.shape[0])))
    return out


def load(image: Any, threads: int = 1, **options: Any) -> Array:
    with closing(open_source(image, **options)) as source:
        return read(source, 1 if source.forward_only else threads)


def positions(space: Space) -> Array:
    """RAS mm of the corners and of voxels inside, (n, 3), beside their indices in array order."""
    indices = np.array(
        [[a, b, c] for a in (0, 3, space.shape[0] - 1) for b in (0, 5, space.shape[1] - 1) for c in (0, 7, space.shape[2] - 1)]
    )
    return np.hstack([indices, indices @ space.world_from_voxel[:3, :3].T + space.world_from_voxel[:3, 3]])


def assert_same_place(space: Space, image: sitk.Image) -> None:
    for a, b, c, *ras in positions(space):
        lps = image.TransformIndexToPhysicalPoint((int(c), int(b), int(a)))
        np.testing.assert_allclose(ras, np.multiply(lps, (-1, -1, 1)), atol=1e-4)


def rotation() -> list[float]:
    """An oblique direction matrix, row-major."""
    transform = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5)
    return list(transform.GetMatrix())


def itk_image(array: Array, direction: Sequence[float] | None = None, vector: bool = False) -> sitk.Image:
    image = sitk.GetImageFromArray(array, isVector=vector)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(rotation() if direction is None else list(direction))
    return image


@pytest.fixture
def small() -> Array:
    """Noise over the whole range of uint16, three different sizes."""
    return np.random.default_rng(1).integers(0, 65536, (9, 13, 17), dtype=np.uint16)


# --- TIFF: one file -------------------------------------------------------------------------------------------------------------

PLAIN: dict[str, dict[str, Any]] = {
    "plain": {},
    "big endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "tiles": {"tile": (16, 16)},
    "strips": {"rowsperstrip": 5},
    "zlib": {"compression": "zlib"},
    "lzw with predictor": {"compression": "lzw", "predictor": True},
    "zstd tiles": {"compression": "zstd", "tile": (16, 32)},
    "big endian zlib": {"compression": "zlib", "byteorder": ">"},
    "no metadata": {"metadata": None},
}


@pytest.mark.parametrize("make", PLAIN)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_stacks_of_all_makes(make: str, dtype: str, small: Array, tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, small.astype(dtype), photometric="minisblack", **PLAIN[make])
    np.testing.assert_array_equal(load(path, threads=4), tifffile.imread(path))
    with closing(open_source(path)) as source:
        assert (source.shape, source.dtype) == (small.shape, np.dtype(dtype))
        assert (source.space, source.voxel_size_mm, source.forward_only) == (None, None, False)


def test_the_real_imagej_stack(brain_data: Path) -> None:
    path = brain_data / "signal_stack.tif"
    expected = tifffile.imread(path)
    with closing(open_source(path)) as source:
        voxels = read(source, threads=3)
        assert source.voxel_size_mm == pytest.approx((0.06, 0.05, 0.05))
        assert source.file_records() == [FileRecord(path.name, path.stat().st_size, zlib.crc32(path.read_bytes()))]
        assert source.facts["format"] == "ImageJ TIFF"
    np.testing.assert_array_equal(voxels, expected)
    assert (voxels > 32767).sum() == 292 and (voxels == 65535).any()


def imagej(path: Path, array: Array, axes: str, **metadata: Any) -> Path:
    tifffile.imwrite(path, array, imagej=True, resolution=(40, 20), metadata={"axes": axes, **metadata})
    return path


@pytest.mark.parametrize(
    ("unit", "mm"),
    [("um", 1e-3), ("µm", 1e-3), ("micron", 1e-3), ("\\u00B5m", 1e-3), ("mm", 1), ("nm", 1e-6), ("cm", 10), ("inch", 25.4)],
)
def test_imagej_units(unit: str, mm: float, small: Array, tmp_path: Path) -> None:
    path = imagej(tmp_path / "a.tif", small, "ZYX", spacing=2.5, unit=unit.replace("µ", "Q"))
    # tifffile writes ASCII only, ImageJ does not.
    path.write_bytes(path.read_bytes().replace(b"unit=Qm", b"unit=\xb5m"))
    with closing(open_source(path)) as source:
        assert source.voxel_size_mm == pytest.approx((2.5 * mm, 0.05 * mm, 0.025 * mm))


@pytest.mark.parametrize("metadata", [{"unit": "pixel", "spacing": 2}, {"spacing": 2}, {"unit": "um", "spacing": 0}])
def test_imagej_without_a_size_has_none(metadata: dict[str, Any], small: Array, tmp_path: Path) -> None:
    with closing(open_source(imagej(tmp_path / "a.tif", small, "ZYX", **metadata))) as source:
        assert source.voxel_size_mm is None


def test_imagej_leaves_out_a_spacing_of_one(small: Array, tmp_path: Path) -> None:
    with closing(open_source(imagej(tmp_path / "a.tif", small, "ZYX", unit="um"))) as source:
        assert source.voxel_size_mm == pytest.approx((0.001, 0.00005, 0.000025))


def test_imagej_hyperstack_channels(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 65536, (5, 2, 13, 17), dtype=np.uint16)
    labels = [f"{name} {z}" for z in range(5) for name in ("auto", "cfos")]
    path = imagej(tmp_path / "a.tif", data, "ZCYX", Labels=labels)
    np.testing.assert_array_equal(load(path, channel=1), data[:, 1])
    np.testing.assert_array_equal(load(path, channel="auto 0"), data[:, 0])
    with pytest.raises(InputError, match=r"2 channels \(0 'auto 0', 1 'cfos 0'\): pick one"):
        open_source(path)
    for channel in (2, "other", -1):
        with pytest.raises(InputError, match="no channel"):
            open_source(path, channel=channel)
    with closing(open_source(path, channel=1)) as source:
        assert source.facts["channel"] == "cfos 0"


def test_time_series_are_refused(small: Array, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="9 time points"):
        open_source(imagej(tmp_path / "a.tif", small, "TYX"))
    tifffile.imwrite(tmp_path / "b.ome.tif", small, metadata={"axes": "TYX"})
    with pytest.raises(InputError, match="9 time points"):
        open_source(tmp_path / "b.ome.tif")


def write_single_page(path: Path, planes: Array, claimed: int | None = None) -> None:
    """As ImageJ writes beyond 4 GB: one page, the other planes behind it, big-endian."""
    count = len(planes) if claimed is None else claimed
    text = f"ImageJ=1.54f\nimages={count}\nslices={count}\nunit=micron\nspacing=5.0\nloop=false\n"
    tifffile.imwrite(path, planes[0], byteorder=">", description=text, metadata=None, resolution=(0.5, 0.25))
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.dataoffsets[0] + planes[0].nbytes == path.stat().st_size
    with path.open("ab") as file:
        file.write(planes[1:].astype(planes.dtype.newbyteorder(">")).tobytes())


def test_imagej_files_with_one_page_for_all_planes(small: Array, tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    write_single_page(path, small)
    np.testing.assert_array_equal(load(path, threads=4), small)
    with closing(open_source(path)) as source:
        assert source.voxel_size_mm == pytest.approx((0.005, 0.004, 0.002))
    write_single_page(path, small, claimed=10)
    with pytest.raises(SourceError, match=r"large\.tif: is cut short: its 10 planes"):
        open_source(path)


@pytest.mark.slow
def test_imagej_files_beyond_4_gb(tmp_path: Path) -> None:
    """The file has holes, so it takes no space; planes lie beyond what 32 bits can address."""
    plane = np.arange(4096 * 4096, dtype=np.uint16).reshape(4096, 4096)
    path = tmp_path / "huge.tif"
    count = 140
    write_single_page(path, plane[None], claimed=count)
    start = path.stat().st_size - plane.nbytes
    with path.open("r+b") as file:
        file.truncate(start + count * plane.nbytes)
        file.seek(start + 137 * plane.nbytes)
        file.write(plane.astype(">u2").tobytes())
    out = np.ones_like(plane)
    with closing(open_source(path)) as source:
        assert source.shape == (count, 4096, 4096)
        source.read_plane(137, out)
        np.testing.assert_array_equal(out, plane)
        source.read_plane(139, out)
        assert not out.any()


def ome(path: Path, array: Array, axes: str, **metadata: Any) -> Path:
    tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata={"axes": axes, **metadata})
    return path


@pytest.mark.parametrize("axes", ["CZYX", "ZCYX"])
def test_ome_channels_and_sizes(axes: str, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 65536, (3, 3, 13, 17), dtype=np.uint16)
    metadata = {
        "PhysicalSizeX": 0.65, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 700, "PhysicalSizeYUnit": "nm", "PhysicalSizeZ": 0.002,
        "PhysicalSizeZUnit": "mm", "Channel": {"Name": ["auto", "cfos", "auto"]},
    }  # fmt: skip
    path = ome(tmp_path / "a.ome.tif", data, axes, **metadata)
    expected = np.moveaxis(data, axes.index("C"), 0)
    np.testing.assert_array_equal(load(path, channel="cfos"), expected[1])
    np.testing.assert_array_equal(load(path, channel=2), expected[2])
    with closing(open_source(path, channel="1")) as source:
        assert source.voxel_size_mm == pytest.approx((0.002, 0.0007, 0.00065))
        assert source.facts["channel_names"] == ["auto", "cfos", "auto"]
        assert source.facts["channel"] == "cfos"
    with closing(open_source(path, channel=2)) as source:
        # Its name is another one's, too.
        assert source.facts["channel"] == 2
    with pytest.raises(InputError, match="0 'auto', 1 'cfos', 2 'auto'"):
        open_source(path)
    with pytest.raises(InputError, match="more than one channel 'auto'"):
        open_source(path, channel="auto")


@pytest.mark.parametrize("asked", ["561", 561, "name:561", "1", 1, "index:1"])
def test_channels_named_by_their_wavelength(asked: int | str, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 65536, (2, 3, 13, 17), dtype=np.uint16)
    path = ome(tmp_path / "a.ome.tif", data, "CZYX", Channel={"Name": ["488", "561"]})
    np.testing.assert_array_equal(load(path, channel=asked), data[1])
    with closing(open_source(path, channel=asked)) as source:
        np.testing.assert_array_equal(load(path, channel=source.facts["channel"]), data[1])


def test_numbers_that_are_a_name_and_an_index(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 65536, (3, 3, 13, 17), dtype=np.uint16)
    path = ome(tmp_path / "a.ome.tif", data, "CZYX", Channel={"Name": ["1", "0", "2"]})
    for channel in (0, "0"):
        with pytest.raises(
            InputError, match=r"channel '0' is the name of its channel 1, and the index of the one named '1': say name:0 or"
        ):
            open_source(path, channel=channel)
    for asked, expected in (("name:0", 1), ("index:0", 0), ("2", 2), (2, 2)):
        np.testing.assert_array_equal(load(path, channel=asked), data[expected])
        with closing(open_source(path, channel=asked)) as source:
            np.testing.assert_array_equal(load(path, channel=source.facts["channel"]), data[expected])


def test_ome_with_one_channel_and_compression(small: Array, tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, small, ome=True, compression="zlib", tile=(16, 16), metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(load(path, threads=4), small)
    path.rename(tmp_path / "renamed.tif")
    np.testing.assert_array_equal(load(tmp_path / "renamed.tif", channel=0), small)


def write_ome_set(folder: Path, data: Array, files: Sequence[str], per_file: int) -> None:
    """A set of OME-TIFF files with planes of (c, z, y, x), channels fastest; every file holds the metadata of all."""
    folder.mkdir()
    channels, slices, rows, columns = data.shape
    blocks = "".join(
        f'<TiffData FirstC="{n % channels}" FirstZ="{n // channels}" IFD="{n % per_file}" PlaneCount="1">'
        f'<UUID FileName="{files[n // per_file]}">urn:uuid:{n // per_file}</UUID></TiffData>'
        for n in range(channels * slices)
    )
    for number, name in enumerate(files):
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{number}"><Image ID="I:0" Name="brain">'
            f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="{columns}" SizeY="{rows}" SizeZ="{slices}" '
            f'SizeC="{channels}" SizeT="1" PhysicalSizeX="2" PhysicalSizeY="2" PhysicalSizeZ="5">'
            + "".join(f'<Channel ID="Channel:0:{c}" Name="c{c}" SamplesPerPixel="1"/>' for c in range(channels))
            + f"{blocks}</Pixels></Image></OME>"
        )
        with tifffile.TiffWriter(folder / name) as tiff:
            for page in range(per_file):
                z, c = divmod(number * per_file + page, channels)
                tiff.write(data[c, z], description=xml.encode() if page == 0 else None, metadata=None, contiguous=False)


@pytest.mark.parametrize(("files", "per_file"), [(12, 1), (6, 2), (3, 4)])
def test_sets_of_ome_files(files: int, per_file: int, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 65536, (2, 6, 13, 17), dtype=np.uint16)
    names = [f"part_{n:02d}.ome.tif" for n in range(files)]
    folder = tmp_path / "set"
    write_ome_set(folder, data, names, per_file)
    for start in (names[0], names[-1]):
        np.testing.assert_array_equal(load(folder / start, channel="c1", threads=4), data[1])
    with closing(open_source(folder / names[0], channel=0)) as source:
        read(source)
        assert source.voxel_size_mm == pytest.approx((0.005, 0.002, 0.002))
        for record in source.file_records():
            content = (folder / record.name).read_bytes()
            assert (record.size, record.crc32) == (len(content), zlib.crc32(content))
    (folder / names[1]).unlink()
    with pytest.raises(SourceError, match=names[1]):
        load(folder / names[0], channel=0)


def rewrite_ome(path: Path, small: Array, change: Callable[[str], str]) -> None:
    """An OME-TIFF with another XML than its pages deserve."""
    ome(path, small, "ZYX")
    with tifffile.TiffFile(path) as tiff:
        xml = str(tiff.ome_metadata)
    tifffile.imwrite(path, small, description=change(xml).encode(), metadata=None, photometric="minisblack")


_OTHER = '<TiffData FirstZ="0" IFD="0" PlaneCount="1"><UUID FileName="{}">a</UUID></TiffData>'
OME_LIES: dict[str, tuple[Callable[[str], str], str]] = {
    "more planes": (lambda x: x.replace('SizeZ="9"', 'SizeZ="10"'), "tells of 10 planes"),
    "fewer planes": (lambda x: x.replace('SizeZ="9"', 'SizeZ="8"').replace('PlaneCount="9"', 'PlaneCount="8"'), "9 pages"),
    "another size": (lambda x: x.replace('SizeX="17"', 'SizeX="18"'), "13 x 18"),
    "another type": (lambda x: x.replace('Type="uint16"', 'Type="uint8"'), "uint8"),
    "huge": (lambda x: x.replace('SizeZ="9"', 'SizeZ="9999999"'), "planes"),
    "huge count": (lambda x: x.replace('PlaneCount="9"', 'PlaneCount="999999999"'), "pages"),
    "too huge": (lambda x: x.replace('SizeZ="9"', 'SizeZ="99999999999"'), "impossible"),
    "negative": (lambda x: x.replace('SizeZ="9"', 'SizeZ="-9"'), "impossible"),
    "no number": (lambda x: x.replace('SizeZ="9"', 'SizeZ="nine"'), "SizeZ='nine'"),
    "later pages": (lambda x: x.replace('IFD="0"', 'IFD="1"'), "on pages 1 to 9"),
    "negative pages": (lambda x: x.replace('IFD="0"', 'IFD="-1"'), "below zero"),
    "elsewhere": (
        lambda x: x.replace("<TiffData ", "".join(_OTHER.format(name) for name in ("../other.tif", "b.tif")) + "<TiffData "),
        r"'\.\./other\.tif'",
    ),
    "entities": (lambda x: x.replace("<OME", '<!DOCTYPE a [<!ENTITY b "c">]><OME', 1), "cannot be read"),
    "no order": (lambda x: x.replace('DimensionOrder="XYCZT"', 'DimensionOrder="XYQZT"'), "order of dimensions"),
}


@pytest.mark.parametrize("lie", OME_LIES)
def test_ome_that_lies(lie: str, small: Array, tmp_path: Path) -> None:
    change, message = OME_LIES[lie]
    path = tmp_path / "a.ome.tif"
    rewrite_ome(path, small, change)
    with pytest.raises(SourceError, match=message):
        load(path)


def test_one_file_is_a_stack_or_a_member_of_its_series(small: Array, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", small)
    np.testing.assert_array_equal(load(folder / "plane_0004.tif"), small)
    alone = write_series(tmp_path / "alone", small[:1])
    np.testing.assert_array_equal(load(alone / "plane_0000.tif"), small[:1])
    # Two stacks with names like a series: each is a volume of its own.
    for number in (1, 2):
        tifffile.imwrite(tmp_path / f"brain{number}.tif", small + number, photometric="minisblack")
    np.testing.assert_array_equal(load(tmp_path / "brain2.tif"), small + 2)
    single = tmp_path / "folder"
    single.mkdir()
    tifffile.imwrite(single / "stack.tif", small, photometric="minisblack")
    np.testing.assert_array_equal(load(single), small)
    (single / "stack.tif").rename(single / "stack1.tif")
    tifffile.imwrite(single / "stack2.tif", small, photometric="minisblack")
    np.testing.assert_array_equal(load(single), np.concatenate([small, small]))


def test_thumbnails_are_no_planes(small: Array, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for plane in small:
            tiff.write(plane, metadata=None, contiguous=False)
            tiff.write(plane[::4, ::4], subfiletype=1, metadata=None)
    np.testing.assert_array_equal(load(path), small)


def test_colours_that_are_no_rgb_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 8, 9, 4), np.uint8), photometric="separated", metadata=None)
    with pytest.raises(SourceError, match="colours of the kind SEPARATED"):
        open_source(tmp_path / "a.tif")


def test_pages_that_differ_are_named(small: Array, tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for plane in small[:5]:
            tiff.write(plane, metadata=None)
        tiff.write(small[5, :12], metadata=None)
    with pytest.raises(SourceError, match=r"a\.tif: page 5: is 12 x 17"):
        open_source(tmp_path / "a.tif")


def test_unknown_axes_are_not_guessed(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 5, 8, 9), np.uint8), photometric="minisblack")
    with pytest.raises(SourceError, match="several axes"):
        open_source(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("pages", ["at the end", "between"])
def test_truncated_stacks(compression: str | None, pages: str, small: Array, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    if pages == "between":
        with tifffile.TiffWriter(path) as tiff:
            for plane in small:
                tiff.write(plane, metadata=None, contiguous=False, compression=compression)
    else:
        tifffile.imwrite(path, small, photometric="minisblack", compression=compression)
    size = path.stat().st_size
    for cut in (1, 100, size // 2, size - 9, size - 4, size):
        os.truncate(path, size - cut)
        if cut == 1 and pages == "at the end" and compression is None:
            # That was the end of a text: nothing is lost.
            np.testing.assert_array_equal(load(path), small)
            continue
        with pytest.raises(SourceError, match=r"a\.tif"):
            load(path)


@pytest.mark.parametrize("compression", [1, 8, 5])
def test_tiff_bombs(compression: int, tmp_path: Path) -> None:
    """A few kB that claim to be 100 GB, in many pages or in one."""
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, np.zeros((3, 50, 50), np.uint16), photometric="minisblack", metadata=None, compression=compression)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
                page.tags[tag].overwrite(60000)
    with pytest.raises(SourceError, match=r"bomb\.tif.*tells of .*60000 x 60000.* bytes"):
        open_source(path)


def test_checksums_follow_readers_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsfm_core.formats._files._BLOCK", 1000)
    data = np.random.default_rng(0).integers(0, 65536, (40, 60, 50), dtype=np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data, photometric="minisblack")
    with closing(open_source(path)) as source:
        out = np.empty(data.shape, data.dtype)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda index: source.read_plane(index, out[index]), random.Random(1).sample(range(40), 40)))
        np.testing.assert_array_equal(out, data)
        assert source.file_records()[0].crc32 == zlib.crc32(path.read_bytes())


# --- NIfTI ----------------------------------------------------------------------------------------------------------------------


def oblique(scale: float = 1) -> Array:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(rotation(), (3, 3)) @ np.diag(SPACING)
    affine[:3, 3] = ORIGIN
    affine[:3] *= scale
    return affine


def assert_same_place_as_nibabel(space: Space, image: Any, mm: float = 1) -> None:
    for a, b, c, *ras in positions(space):
        np.testing.assert_allclose(ras, nibabel.affines.apply_affine(image.affine, (c, b, a)) * mm, atol=1e-5)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", ["Nifti1", "Nifti2"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_nifti(suffix: str, kind: str, order: str, form: str, small: Array, tmp_path: Path) -> None:
    data = small.T.astype(np.int16)
    header = getattr(nibabel, f"{kind}Header")(endianness=order)
    header.set_data_dtype(np.int16)
    image = getattr(nibabel, f"{kind}Image")(data, None, header)
    image.set_qform(oblique(), code=1 if form == "qform" else 0)
    image.set_sform(oblique(), code=1 if form == "sform" else 0)
    image.header.set_xyzt_units("mm")
    path = tmp_path / f"a{suffix}"
    nibabel.save(image, path)
    theirs = nibabel.load(path)
    with closing(open_source(path)) as source:
        assert (source.shape, source.dtype, source.forward_only) == (small.shape, np.int16, suffix == ".nii.gz")
        np.testing.assert_array_equal(read(source), np.asarray(theirs.dataobj).T)
        assert source.space is not None
        assert_same_place_as_nibabel(source.space, theirs)
        if kind == "Nifti1":
            assert_same_place(source.space, sitk.ReadImage(path))
        assert source.voxel_size_mm == pytest.approx(SPACING[::-1])
        assert source.facts["format"] == f"NIfTI-{kind[-1]}"
        assert source.file_records() == [FileRecord(path.name, path.stat().st_size, zlib.crc32(path.read_bytes()))]


def test_nifti_whose_forms_disagree(small: Array, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(small.T, None)
    image.set_qform(np.diag([*SPACING, 1]), code=1)
    image.set_sform(oblique(), code=1)
    nibabel.save(image, tmp_path / "a.nii")
    with closing(open_source(tmp_path / "a.nii")) as source:
        assert source.space is not None
        assert_same_place_as_nibabel(source.space, nibabel.load(tmp_path / "a.nii"))
        assert any("different places" in note for note in source.facts["notes"])


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("micron", 1e-3), ("meter", 1e3), ("unknown", 1)])
def test_nifti_units(unit: str, mm: float, small: Array, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(small.T, oblique(1 / mm))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    with closing(open_source(tmp_path / "a.nii")) as source:
        assert source.space is not None
        assert_same_place_as_nibabel(source.space, nibabel.load(tmp_path / "a.nii"), mm)
        assert any("no unit" in note for note in source.facts["notes"]) == (unit == "unknown")


def save_nifti(path: Path, data: Array, affine: Array | None = None, **fields: Any) -> Path:
    image = nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def patch(path: Path, offset: int, content: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)
    return path


def test_nifti_with_sizes_only(small: Array, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(small.T, None)
    image.header.set_zooms(SPACING)
    image.header.set_xyzt_units("mm")
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nibabel.save(image, tmp_path / "a.nii")
    with closing(open_source(tmp_path / "a.nii")) as source:
        assert source.space is None
        assert source.voxel_size_mm == pytest.approx(SPACING[::-1])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("dtype", "expected"), [("int16", "float32"), ("uint8", "float32"), ("int32", "float32"), ("float64", "float64")]
)
def test_scaled_nifti(suffix: str, dtype: str, expected: str, small: Array, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image((small.T % 200).astype(dtype), np.eye(4))
    image.header.set_slope_inter(0.25, -3)
    path = tmp_path / f"a{suffix}"
    nibabel.save(image, path)
    theirs = nibabel.load(path)
    with closing(open_source(path)) as source:
        assert source.dtype == expected
        assert any("scaled" in note for note in source.facts["notes"])
        np.testing.assert_allclose(read(source), theirs.get_fdata().T, rtol=1e-6)
    if dtype == "float64":
        with pytest.raises(SourceError, match="makes no sense for labels"):
            open_source(path, kind="labels")


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept"), [("int16", 1, 32768), ("uint32", 1, 3), ("uint16", 0.5, 0), ("int32", 1, 7)]
)
def test_nifti_labels_that_are_whole_after_scaling(
    dtype: str, slope: float, intercept: float, small: Array, tmp_path: Path
) -> None:
    labels = (small % 200).astype(np.float64) + (2**32 - 300 if dtype == "uint32" else 0)
    stored = ((labels - intercept) / slope).astype(dtype)
    header = nibabel.Nifti1Image(stored.T, np.eye(4)).header
    header.set_slope_inter(slope, intercept)
    header["magic"], header["vox_offset"] = b"n+1", 352
    path = tmp_path / "a.nii"
    path.write_bytes(header.binaryblock + b"\0\0\0\0" + stored.tobytes())
    np.testing.assert_array_equal(nibabel.load(path).get_fdata().T, labels)
    voxels = load(path, kind="labels")
    assert voxels.dtype == np.uint32
    np.testing.assert_array_equal(voxels, labels)


def test_nifti_labels_that_scaling_makes_broken_are_refused(small: Array, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(small.T.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(1, 0.5)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(SourceError, match="whole numbers"):
        load(tmp_path / "a.nii", kind="labels")


@pytest.mark.parametrize("slope", [0.0, 1.0, float("nan")])
def test_nifti_slopes_that_mean_nothing(slope: float, small: Array, tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", small.T)
    patch(path, 112, np.array([slope, 0], "<f4").tobytes())
    assert load(path).dtype == np.uint16


def test_nifti_with_trailing_axes_and_real_ones(small: Array, tmp_path: Path) -> None:
    np.testing.assert_array_equal(load(save_nifti(tmp_path / "a.nii", small.T[..., None, None])), small)
    for shape in ((4, 5, 6, 2), (4, 5, 6, 2, 2), (4, 5)):
        path = save_nifti(tmp_path / "b.nii", np.zeros(shape, np.uint8))
        with pytest.raises(SourceError, match=f"is not one volume: found {' x '.join(map(str, shape))}"):
            open_source(path)


NIFTI_DEFECTS: dict[str, tuple[int, bytes, str]] = {
    "zero sform": (280, bytes(48), "geometry is unusable"),
    "singular sform": (280, np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]], "<f4").tobytes(), "geometry is unusable"),
    "infinite sform": (280, np.array([np.inf], "<f4").tobytes(), "geometry is unusable"),
    "huge": (42, np.array([30000, 30000, 30000], "<i2").tobytes(), "cut short: its header tells of 30000 x 30000 x 30000"),
    "negative": (42, np.array([-3], "<i2").tobytes(), "-3"),
    "no magic": (344, b"none", "not a NIfTI"),
    "a pair": (344, b"ni1\0", "pair"),
    "complex": (70, np.array([32], "<i2").tobytes(), "complex64"),
    "unknown type": (70, np.array([77], "<i2").tobytes(), "damaged"),
    "offset inside": (108, np.array([100], "<f4").tobytes(), "inside the header"),
    "no offset": (108, np.array([np.nan], "<f4").tobytes(), "damaged"),
}


@pytest.mark.parametrize("defect", NIFTI_DEFECTS)
@pytest.mark.parametrize("compressed", [False, True])
def test_nifti_defects(defect: str, compressed: bool, small: Array, tmp_path: Path) -> None:
    offset, content, message = NIFTI_DEFECTS[defect]
    path = patch(save_nifti(tmp_path / "a.nii", small.T), offset, content)
    if compressed:
        path = path.with_suffix(".nii.gz")
        path.write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
        message = message.replace("cut short: its", "its")
    with pytest.raises(SourceError, match=message):
        open_source(path)


def test_truncated_and_damaged_nifti(small: Array, tmp_path: Path) -> None:
    plain = save_nifti(tmp_path / "a.nii", small.T)
    os.truncate(plain, plain.stat().st_size - 1)
    with pytest.raises(SourceError, match=r"a\.nii: is cut short"):
        open_source(plain)
    packed = save_nifti(tmp_path / "a.nii.gz", small.T)
    whole = packed.read_bytes()
    for cut in (1, 8, 100, len(whole) // 2, len(whole) - 30, len(whole)):
        packed.write_bytes(whole[:-cut])
        with pytest.raises(SourceError, match=r"a\.nii\.gz"):
            load(packed)
    packed.write_bytes(whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:])
    with pytest.raises(SourceError, match=r"a\.nii\.gz"):
        load(packed)


def test_gzip_of_several_members(small: Array, tmp_path: Path) -> None:
    plain = save_nifti(tmp_path / "a.nii", small.T).read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(b"".join(gzip.compress(plain[n : n + 700]) for n in range(0, len(plain), 700)) + bytes(64))
    np.testing.assert_array_equal(load(path), small)
    # Named as compressed, but it is not.
    (tmp_path / "c.nii.gz").write_bytes(plain)
    np.testing.assert_array_equal(load(tmp_path / "c.nii.gz"), small)


def test_compressed_files_are_read_forwards(small: Array, tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii.gz", small.T)
    out = np.empty(small.shape[1:], small.dtype)
    with closing(open_source(path)) as source:
        source.read_plane(4, out)
        np.testing.assert_array_equal(out, small[4])
        with pytest.raises(SourceError, match="forwards"):
            source.read_plane(3, out)


def test_the_real_annotation(brain_data: Path) -> None:
    path = brain_data / "annotation_in_structural_100um.nii.gz"
    theirs = nibabel.load(path)
    with closing(open_source(path, kind="labels")) as source:
        assert source.shape == theirs.shape[::-1]
        np.testing.assert_array_equal(read(source), np.asarray(theirs.dataobj).T)
        assert source.space is not None
        assert_same_place_as_nibabel(source.space, theirs)
        assert_same_place(source.space, sitk.ReadImage(path))


# --- vectors --------------------------------------------------------------------------------------------------------------------


def ras_of_itk(field: sitk.Image) -> Array:
    """Components as ITK has them, LPS in order x, y, z, turned to RAS."""
    return sitk.GetArrayFromImage(field) * np.array((-1, -1, 1))


@pytest.mark.parametrize("name", ["1Warp", "1InverseWarp"])
def test_the_real_displacement_fields(name: str, brain_data: Path) -> None:
    path = brain_data / "transforms" / f"template_to_structural_{name}.nii.gz"
    field = sitk.ReadImage(path)
    with closing(open_source(path, kind="vectors")) as source:
        assert (source.components, source.dtype, source.forward_only) == (3, np.float32, True)
        voxels = read(source)
        assert source.space is not None
        assert_same_place(source.space, field)
        assert source.file_records()[0].crc32 == zlib.crc32(path.read_bytes())
    np.testing.assert_array_equal(voxels, ras_of_itk(field))
    assert np.abs(voxels).max() > 0.1
    with pytest.raises(SourceError, match="--kind vectors for a displacement field"):
        open_source(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("compressed", [False, True])
def test_displacement_fields_of_itk(suffix: str, dtype: str, compressed: bool, tmp_path: Path) -> None:
    field = itk_image(np.random.default_rng(0).normal(size=(9, 13, 17, 3)).astype(dtype), vector=True)
    path = tmp_path / f"field{suffix}"
    sitk.WriteImage(field, path, useCompression=compressed)
    with closing(open_source(path, kind="vectors")) as source:
        assert (source.shape, source.components, source.dtype) == ((9, 13, 17), 3, np.dtype(dtype))
        np.testing.assert_array_equal(read(source), ras_of_itk(field))
        assert source.space is not None
        assert_same_place(source.space, field)
    with pytest.raises(SourceError, match="--kind vectors for a displacement field, or --kind components"):
        open_source(path)
    np.testing.assert_array_equal(load(path, kind="components"), sitk.GetArrayFromImage(field))


def test_nifti_vectors_of_intent_1006_are_ras(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(17, 13, 9, 1, 3)).astype(np.float32)
    path = save_nifti(tmp_path / "a.nii", data, intent_code=1006)
    voxels = load(path, kind="vectors")
    np.testing.assert_array_equal(voxels, data[:, :, :, 0].transpose(2, 1, 0, 3))
    np.testing.assert_array_equal(voxels, ras_of_itk(sitk.ReadImage(path)))


@pytest.mark.parametrize(
    ("shape", "intent", "dtype"),
    [
        ((5, 6, 7, 1, 3), 0, "float32"),
        ((5, 6, 7, 1, 3), 1001, "float32"),
        ((5, 6, 7, 3), 1007, "float32"),
        ((5, 6, 7, 1, 2), 1007, "float32"),
        ((5, 6, 7, 2, 3), 1007, "float32"),
        ((5, 6, 7), 1007, "float32"),
        ((5, 6, 7, 1, 3), 1007, "int16"),
    ],
)
def test_other_nifti_are_no_displacement_fields(shape: tuple[int, ...], intent: int, dtype: str, tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", np.ones(shape, dtype), intent_code=intent)
    with pytest.raises(SourceError, match=f"{' x '.join(map(str, shape))} .*{dtype} with intent {intent}"):
        open_source(path, kind="vectors")


def test_vectors_where_there_are_none(small: Array, tmp_path: Path) -> None:
    for suffix in (".nrrd", ".mha"):
        sitk.WriteImage(itk_image(small), tmp_path / f"a{suffix}")
        with pytest.raises(SourceError, match="displacement field"):
            open_source(tmp_path / f"a{suffix}", kind="vectors")
    tifffile.imwrite(tmp_path / "a.tif", small)
    with pytest.raises(InputError, match="displacement fields"):
        open_source(tmp_path / "a.tif", kind="vectors")
    with pytest.raises(InputError, match="shape"):
        open_source(small, kind="vectors")


# --- NRRD and MetaImage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"])
def test_itk_formats(suffix: str, compressed: bool, dtype: str, small: Array, tmp_path: Path) -> None:
    image = itk_image(small.astype(dtype))
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(image, path, useCompression=compressed)
    with closing(open_source(path)) as source:
        assert (source.shape, source.dtype, source.forward_only) == (small.shape, np.dtype(dtype), compressed)
        np.testing.assert_array_equal(read(source), small.astype(dtype))
        assert source.space is not None
        assert_same_place(source.space, image)
        records = source.file_records()
        assert {record.name for record in records} == {file.name for file in tmp_path.iterdir()}
        for record in records:
            assert record.crc32 == zlib.crc32((tmp_path / record.name).read_bytes())


def write_nrrd(path: Path, array: Array, *lines: str, data: bytes | None = None) -> Path:
    header = ["NRRD0005", "# made by hand", "type: uint16", f"endian: {'big' if array.dtype.byteorder == '>' else 'little'}",
              f"dimension: {array.ndim}", f"sizes: {' '.join(map(str, array.shape[::-1]))}", *lines]  # fmt: skip
    if not any(line.startswith("encoding") for line in lines):
        header.append("encoding: raw")
    path.write_bytes("\n".join(header).encode() + b"\n\n" + (array.tobytes() if data is None else data))
    return path


@pytest.mark.parametrize(
    ("space", "to_ras"),
    [
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("LAS", (-1, 1, 1)),
    ],
)
def test_spaces_of_nrrd(space: str, to_ras: tuple[int, int, int], small: Array, tmp_path: Path) -> None:
    matrix = np.reshape(rotation(), (3, 3)) @ np.diag(SPACING)
    columns = " ".join(f"({','.join(map(str, matrix[:, n]))})" for n in range(3))
    origin = f"({','.join(map(str, ORIGIN))})"
    path = write_nrrd(
        tmp_path / "a.nrrd", small, f"space: {space}", f"space directions: {columns}", f"space origin: {origin}", "mouse:=42"
    )
    np.testing.assert_array_equal(load(path), small)
    with closing(open_source(path)) as source:
        assert source.space is not None
        for a, b, c, *ras in positions(source.space):
            np.testing.assert_allclose(ras, (matrix @ (c, b, a) + ORIGIN) * to_ras, atol=1e-6)
        assert_same_place(source.space, sitk.ReadImage(path))
        assert source.facts["acquisition"] == {"mouse": "42"}


def test_nrrd_units_spacings_and_other_spaces(small: Array, tmp_path: Path) -> None:
    def sizes(*lines: str) -> Any:
        with closing(open_source(write_nrrd(tmp_path / "a.nrrd", small, *lines))) as source:
            assert source.space is None or "space units: " in lines[-1]
            return source.voxel_size_mm

    assert sizes("spacings: 1 2 3") == (3, 2, 1)
    assert sizes("spacings: 10 20 30", 'units: "um" "um" "um"') == pytest.approx((0.03, 0.02, 0.01))
    assert sizes("spacings: nan 2 3") is None
    assert sizes() is None
    directions = "space directions: (10,0,0) (0,20,0) (0,0,30)"
    assert sizes("space dimension: 3", directions) == (30, 20, 10)
    assert sizes("space: scanner-xyz", directions) == (30, 20, 10)
    assert sizes("space: LPS", directions, 'space units: "um" "um" "um"') == pytest.approx((0.03, 0.02, 0.01))


def test_nrrd_skips_and_byte_orders(small: Array, tmp_path: Path) -> None:
    raw = small.tobytes()
    cases: list[tuple[Array, list[str], bytes]] = [
        (small.astype(">u2"), [], small.astype(">u2").tobytes()),
        (small, ["byte skip: 5"], b"12345" + raw),
        (small, ["byte skip: -1"], b"any" + raw),
        (small, ["encoding: gzip"], gzip.compress(raw)),
        (small, ["encoding: gzip", "byte skip: 5"], gzip.compress(b"12345" + raw)),
    ]
    for array, lines, data in cases:
        np.testing.assert_array_equal(load(write_nrrd(tmp_path / "a.nrrd", array, *lines, data=data)), small)


@pytest.mark.parametrize("name", ["/etc/passwd", "../other.raw", "sub/../../other.raw", "C:\\other.raw", "..\\other.raw", ""])
@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_headers_name_files_of_their_own_folder_only(name: str, suffix: str, small: Array, tmp_path: Path) -> None:
    (tmp_path / "other.raw").write_bytes(small.tobytes())
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / f"a{suffix}"
    if suffix == ".nhdr":
        write_nrrd(path, small, f"data file: {name}", data=b"")
    else:
        path.write_text(f"ObjectType = Image\nNDims = 3\nDimSize = 17 13 9\nElementType = MET_USHORT\nElementDataFile = {name}\n")
    with pytest.raises(SourceError, match="only files in the same folder"):
        open_source(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["sizes: 17 13"], "expected 3 axes"),
        (["sizes: 17 13 x"], "whole numbers"),
        (["sizes: 17 13 99999999999"], "cut short: its header tells of 99999999999 x 13 x 17"),
        (["sizes: 17 13 99999999999", "encoding: gzip"], "no compression"),
        (["sizes: 17 13 -9"], "empty"),
        (["type: block"], "type 'block'"),
        (["endian: middle"], "order of bytes"),
        (["encoding: bzip2"], "'bzip2'"),
        (["encoding: ascii"], "'ascii'"),
        (["data file: LIST"], "several files"),
        (["data file: a%03d.raw 1 9 1"], "several files"),
        (["line skip: 3"], "skip"),
        (["space: RAS", "space directions: (1,0,0) (0,1,0)"], "space directions"),
        (["space: RAS", "space directions: (1,0,0) (1,0,0) (0,0,1)"], "geometry is unusable"),
        (["space: RAS", "space directions: (1,0,a) (1,0,0) (0,0,1)"], "space directions"),
        (["space: RAS", "space directions: (1,0,0) (0,1,0) (0,0,1)", "space origin: (1,2)"], "space origin"),
        (["spacings: 1 1 1", 'units: "mm" "um" "mm"'], "different units"),
    ],
)
def test_nrrd_defects(lines: list[str], message: str, small: Array, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message):
        load(write_nrrd(tmp_path / "a.nrrd", small, *lines))


def test_nrrd_vectors_in_other_spaces_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(itk_image(np.ones((9, 13, 17, 3), np.float32), vector=True), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"left-posterior-superior", b"right-anterior-superior"))
    with pytest.raises(SourceError, match="disagree"):
        open_source(path, kind="vectors")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("DimSize = 17 13 9", "DimSize = 17 13", "expected 3 axes"),
        ("DimSize = 17 13 9", "DimSize = 17 13 nine", "DimSize"),
        ("DimSize = 17 13 9", "DimSize = 17 13 9999999", "cut short"),
        ("DimSize = 17 13 9", "DimSize = 17 13 0", "empty"),
        ("MET_USHORT", "MET_STRING", "MET_STRING"),
        ("BinaryData = True", "BinaryData = False", "text"),
        ("ElementDataFile = LOCAL", "ElementDataFile = LIST", "several files"),
        ("ElementDataFile = LOCAL", "ElementDataFile = a%03d.raw 1 9 1", "several files"),
        ("ElementDataFile = LOCAL", "ElementDataFile = b.raw", "not there"),
        ("ElementDataFile = LOCAL", "", "not a MetaImage"),
        ("ElementSpacing = 0.02", "ElementSpacing = 0", "geometry is unusable"),
        ("ElementSpacing = 0.02", "ElementSpacing = nan", "expected 3 numbers"),
    ],
)
def test_metaimage_defects(old: str, new: str, message: str, small: Array, tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    sitk.WriteImage(itk_image(small), path, useCompression=False)
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode(), 1))
    with pytest.raises(SourceError, match=message):
        load(path)


def test_metaimage_by_hand(small: Array, tmp_path: Path) -> None:
    """Big-endian, and data behind a header of unknown length: both allowed."""
    (tmp_path / "a.raw").write_bytes(b"unknown" + small.astype(">u2").tobytes())
    path = tmp_path / "a.mhd"
    path.write_text(
        "ObjectType = Image\nNDims = 3\nElementByteOrderMSB = True\nHeaderSize = -1\nPosition = 1 2 3\n"
        "ElementSpacing = 0.1 0.2 0.3\nDimSize = 17 13 9\nElementType = MET_USHORT\nElementDataFile = a.raw\n"
    )
    np.testing.assert_array_equal(load(path), small)
    with closing(open_source(path)) as source:
        assert source.space is not None
        assert_same_place(source.space, sitk.ReadImage(path))


# --- Python objects -------------------------------------------------------------------------------------------------------------


class Counting:
    """An array in chunks that counts what is asked of it."""

    def __init__(self, array: Array, chunks: Any) -> None:
        self.array, self.shape, self.dtype, self.chunks = array, array.shape, array.dtype, chunks
        self.asked: list[Any] = []

    def __getitem__(self, index: Any) -> Array:
        self.asked.append(index[-1])
        return self.array[index]


def test_arrays_of_all_makes(small: Array, tmp_path: Path) -> None:
    import dask.array

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=small, chunks=(4, 5, 6))
        file.create_dataset("b", data=small)
        made: list[Any] = [
            small,
            small.astype(">u2"),
            small[::-1, ::2],
            dask.array.from_array(small, chunks=((2, 4, 3), 13, 17)),
            zarr.array(small, chunks=(4, 4, 4)),
            file["a"],
            file["b"],
        ]
        np.save(tmp_path / "a.npy", small)
        made.append(np.load(tmp_path / "a.npy", mmap_mode="r"))
        for array in made:
            np.testing.assert_array_equal(load(array, threads=4), np.asarray(array))


def test_our_own_levels_can_be_ingested_again(brain_file: Path) -> None:
    from lsfm_core import open_lsfm

    with open_lsfm(brain_file) as file:
        level = file["autofluo"].levels[1].data
        np.testing.assert_array_equal(load(level), np.asarray(level))


def test_chunks_are_decoded_once(small: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    array = Counting(small, (4, 5, 6))
    np.testing.assert_array_equal(load(array, threads=4), small)
    assert sorted((s.start, s.stop) for s in array.asked) == [(0, 4), (4, 8), (8, 9)]
    with closing(open_source(array)) as source:
        assert source.read_bytes == 2 * 4 * small[0].nbytes
    # Layers of chunks that are too thick are read in parts.
    monkeypatch.setattr(arrays, "LAYER_BYTES", 2 * small[0].nbytes + 1)
    thick = Counting(small, (9, 5, 6))
    np.testing.assert_array_equal(load(thick), small)
    assert [(s.start, s.stop) for s in thick.asked] == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]
    with closing(open_source(thick)) as source:
        assert source.read_bytes == 4 * small[0].nbytes


def test_functions_and_iterators(small: Array) -> None:
    np.testing.assert_array_equal(load(PlaneFunction(small.shape, "uint16", lambda index: small[index])), small)
    np.testing.assert_array_equal(load(PlaneFunction(small.shape, small.dtype, (plane for plane in small))), small)
    np.testing.assert_array_equal(
        load(PlaneFunction(small.shape, "uint32", [plane.astype(np.uint8) for plane in small % 250])), small % 250
    )
    source = PlaneFunction(small.shape, "uint16", list(small), voxel_size_mm=(3, 2, 1))
    assert (source.forward_only, source.voxel_size_mm) == (True, (3, 2, 1))


def broken(index: int) -> Array:
    raise OSError("camera gone")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda index: np.zeros((3, 4), np.uint16), r"plane 0: expected an array of shape \(13, 17\)"),
        (lambda index: np.zeros((13, 17), np.float32), "found .* float32"),
        (broken, "plane 0 could not be made: OSError: camera gone"),
        ([np.zeros((13, 17), np.uint16)] * 4, "plane 4 is missing"),
    ],
)
def test_functions_that_fail(function: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load(PlaneFunction((9, 13, 17), "uint16", function))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: np.zeros((3, 4)), "shape"),
        (lambda: np.zeros((3, 4, 5), complex), "complex"),
        (lambda: np.zeros((3, 4, 5), "U1"), "type"),
        (lambda: np.zeros((0, 4, 5)), "shape"),
        (lambda: [[[1, 2], [3, 4]]], "neither"),
        (lambda: PlaneFunction((0, 3, 4), "u1", []), "shape"),
        (lambda: PlaneFunction((1, 3, 4), "c8", []), "complex"),
        (lambda: PlaneFunction((1, 3, 4), "u1", [], components=0), "0 components"),
    ],
)
def test_objects_that_are_no_volumes(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(make())


def test_vector_arrays(tmp_path: Path) -> None:
    field = np.random.default_rng(0).normal(size=(4, 5, 6, 3))
    np.testing.assert_array_equal(load(field, kind="vectors"), field)
    planes = PlaneFunction((4, 5, 6), float, list(field), components=3)
    np.testing.assert_array_equal(load(planes, kind="vectors"), field)
    with pytest.raises(SourceError, match="--kind components"):
        open_source(planes)
    with pytest.raises(SourceError, match=r"2 values per voxel \(uint8\), expected 3 floats"):
        open_source(PlaneFunction((4, 5, 6), "u1", [], components=2), kind="vectors")


# --- labels and types -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whole_floats_become_labels(dtype: str, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 2**24, (4, 5, 6)).astype(dtype)
    labels[0, 0, 0] = 2**24
    path = save_nifti(tmp_path / "a.nii.gz", labels.T)
    for image in (path, labels):
        with closing(open_source(image, kind="labels")) as source:
            assert source.dtype == np.uint32
            np.testing.assert_array_equal(read(source), labels)
            assert "uint32" in source.facts["notes"][-1]
    assert load(path).dtype == dtype


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1.5, "float32"), (np.nan, "float32"), (np.inf, "float64"), (-1, "float32"), (2**24 + 2, "float32"), (2.0**32, "float64")],
)
def test_floats_that_are_no_labels(value: float, dtype: str) -> None:
    labels = np.ones((4, 5, 6), dtype)
    labels[2, 3, 4] = value
    with pytest.raises(
        SourceError, match=rf"plane 2 has the value {np.dtype(dtype).type(value)!s} at row 3, column 4".replace("+", r"\+")
    ):
        load(labels, kind="labels")


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint32", "int64", "uint64"])
def test_whole_labels_keep_their_type(dtype: str) -> None:
    labels = np.full((2, 3, 4), np.iinfo(dtype).max, dtype)
    assert load(labels, kind="labels").dtype == dtype
    np.testing.assert_array_equal(load(labels, kind="labels"), labels)


def test_large_ids_survive_as_float64() -> None:
    labels = np.full((2, 3, 4), 614454277.0)
    assert (load(labels, kind="labels") == 614454277).all()


def test_other_types(small: Array) -> None:
    for dtype, expected in ((bool, np.uint8), (np.float16, np.float16)):
        voxels = load((small % 2).astype(dtype))
        assert voxels.dtype == expected
        np.testing.assert_array_equal(voxels, small % 2)


@pytest.mark.parametrize("name", ["stack.tif", "packed.tif", "tagged.ome.tif", "series", "array.zarr"])
def test_truth_values_become_uint8(name: str, small: Array, tmp_path: Path) -> None:
    truth, path = small % 2 == 1, tmp_path / name
    if name == "series":
        path.mkdir()
        for index, plane in enumerate(truth):
            tifffile.imwrite(path / f"p_{index}.tif", plane)
    elif name.endswith(".zarr"):
        zarr.create_array(path, data=truth)
    else:
        kwargs = {"compression": "packbits"} if name == "packed.tif" else {"metadata": {"axes": "ZYX"}}
        tifffile.imwrite(path, truth, **kwargs)
    voxels = load(path)
    assert voxels.dtype == np.uint8
    np.testing.assert_array_equal(voxels, truth)


def test_images_keep_nan_and_inf(tmp_path: Path) -> None:
    image = np.ones((3, 4, 5), np.float32)
    image[1, 2, :3] = np.nan, np.inf, -np.inf
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
    for source in (image, save_nifti(tmp_path / "a.nii", image.T), tmp_path / "a.tif"):
        np.testing.assert_array_equal(load(source), image)


# --- Zarr -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("shape", [(9, 13, 17), (1, 1, 9, 13, 17)])
def test_zarr_arrays(version: int, shape: tuple[int, ...], small: Array, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(path, shape=shape, chunks=(1,) * (len(shape) - 3) + (4, 5, 6), dtype="u2", zarr_format=version)
    array[:] = small.reshape(shape)
    np.testing.assert_array_equal(load(path, threads=4), small)
    # Known by what is in it, whatever it is called.
    path.rename(tmp_path / "b")
    np.testing.assert_array_equal(load(tmp_path / "b", channel=0), small)


def write_ome_zarr(path: Path, data: Array, version: str, *, axes: str = "tczyx", units: bool = True, **image: Any) -> Path:
    group = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)
    types = {"t": "time", "c": "channel"}
    scale = [1.0, 1.0, 2.0, 0.5, 0.25][-data.ndim :]
    for level in range(2):
        voxels = data[..., :: 1 + level, :: 1 + level, :: 1 + level]
        array = group.create_array(str(level), shape=voxels.shape, dtype=data.dtype, chunks=(1,) * (data.ndim - 3) + (4, 5, 6))
        array[:] = voxels
    multiscale = {
        "name": "brain",
        "axes": [
            {"name": name, "type": types.get(name, "space"), **({"unit": "micrometer"} if units and name in "zyx" else {})}
            for name in axes
        ],
        "datasets": [
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [s * (1 + level) for s in scale]}]}
            for level in range(2)
        ],
        **image,
    }
    omero = {"channels": [{"label": "auto"}, {"label": "cfos"}]}
    if version == "0.4":
        group.attrs.update({"multiscales": [{**multiscale, "version": "0.4"}], "omero": omero})
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [multiscale], "omero": omero}
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr(version: str, small: Array, tmp_path: Path) -> None:
    data = np.stack([small, small[::-1]])[None]
    path = write_ome_zarr(tmp_path / "a.ome.zarr", data, version)
    np.testing.assert_array_equal(load(path, channel="cfos", threads=4), small[::-1])
    np.testing.assert_array_equal(load(path, channel=0), small)
    with closing(open_source(path, channel=1)) as source:
        assert source.voxel_size_mm == pytest.approx((0.002, 0.0005, 0.00025))
        assert source.facts["format"] == f"OME-Zarr {version}"
        assert (source.facts["channel"], source.facts["channel_names"]) == ("cfos", ["auto", "cfos"])
        assert source.read_bytes == 2 * 4 * small[0].nbytes
    with pytest.raises(InputError, match=r"2 channels \(0 'auto', 1 'cfos'\)"):
        open_source(path)


def test_ome_zarr_of_other_axes(small: Array, tmp_path: Path) -> None:
    plain = write_ome_zarr(
        tmp_path / "a.zarr", small, "0.5", axes="zyx", coordinateTransformations=[{"type": "scale", "scale": [10, 10, 10]}]
    )
    with closing(open_source(plain)) as source:
        assert source.voxel_size_mm == pytest.approx((0.02, 0.005, 0.0025))
    with closing(open_source(write_ome_zarr(tmp_path / "b.zarr", small, "0.4", axes="zyx", units=False))) as source:
        assert source.voxel_size_mm is None
    with pytest.raises(InputError, match="2 time points"):
        open_source(write_ome_zarr(tmp_path / "c.zarr", np.stack([small, small]), "0.5", axes="tzyx"))
    with pytest.raises(SourceError, match=r"OME-Zarr 0\.9"):
        open_source(write_ome_zarr(tmp_path / "d.zarr", small, "0.9", axes="zyx"))
    with pytest.raises(SourceError, match="expected three in space"):
        open_source(write_ome_zarr(tmp_path / "e.zarr", small, "0.5", axes="czy"))


def test_layout_of_bioformats2raw(small: Array, tmp_path: Path) -> None:
    outer = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    outer.attrs["bioformats2raw.layout"] = 3
    write_ome_zarr(tmp_path / "a.zarr" / "0", small, "0.4", axes="zyx")
    np.testing.assert_array_equal(load(tmp_path / "a.zarr"), small)
    write_ome_zarr(tmp_path / "a.zarr" / "1", small, "0.4", axes="zyx")
    with pytest.raises(InputError, match="0, 1"):
        open_source(tmp_path / "a.zarr")


def test_zarr_defects(small: Array, tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", small, "0.5", axes="zyx")
    chunk = path / "0" / "c" / "1" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"planes 4 to 7 cannot be read"):
        load(path)
    (path / "0" / "zarr.json").write_text("{}")
    with pytest.raises(SourceError, match="metadata are damaged"):
        open_source(path)
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(SourceError, match=r"empty\.zarr"):
        open_source(tmp_path / "empty.zarr")
    four = zarr.create_array(tmp_path / "four.zarr", shape=(2, 3, 4, 5), dtype="u1")
    assert four.ndim == 4
    with pytest.raises(InputError, match="not named"):
        open_source(tmp_path / "four.zarr")


# --- all formats ------------------------------------------------------------------------------------------------------------------


def test_formats_are_imported_only_when_used() -> None:
    heavy = ("nibabel", "zarr", "SimpleITK", "tifffile", "dask")
    code = f"import sys, lsfm_core.formats; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.tif", "a.zarr", "a.jpg"])
def test_what_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises((InputError, MissingError), match=name.replace(".", r"\.")):
        open_source(tmp_path / name)


def test_unknown_formats(tmp_path: Path) -> None:
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE")
    with pytest.raises(InputError, match=r"a\.czi: Zeiss CZI cannot be read: save it as OME-TIFF"):
        open_source(tmp_path / "a.czi")


def test_channels_of_files_that_have_none(small: Array, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", small, photometric="minisblack")
    for image in (save_nifti(tmp_path / "a.nii", small.T), tmp_path / "a.tif", write_series(tmp_path / "series", small), small):
        np.testing.assert_array_equal(load(image, channel=0), small)
        for channel in (1, "cfos"):
            with pytest.raises(InputError, match="no channel"):
                open_source(image, channel=channel)


# --- fuzz -------------------------------------------------------------------------------------------------------------------------


def _fuzz_seeds(folder: Path) -> Iterator[tuple[Path, str]]:
    """Small files of all formats, with the part of each that its header takes."""
    volume = np.random.default_rng(0).integers(0, 255, (4, 5, 6), dtype=np.uint8)
    tifffile.imwrite(folder / "plain.tif", volume, photometric="minisblack", metadata=None)
    tifffile.imwrite(folder / "zlib.tif", volume, photometric="minisblack", compression="zlib", metadata=None)
    imagej(folder / "imagej.tif", volume, "ZYX", spacing=2, unit="um")
    ome(folder / "ome.tif", volume, "ZYX")
    save_nifti(folder / "a.nii", volume.T)
    save_nifti(folder / "b.nii.gz", volume.T)
    save_nifti(folder / "c.nii", np.ones((6, 5, 4, 1, 3), np.float32), intent_code=1007)
    field = itk_image(np.ones((4, 5, 6, 3), np.float32), vector=True)
    for suffix in (".nrrd", ".mha"):
        sitk.WriteImage(itk_image(volume), folder / f"d{suffix}", useCompression=suffix == ".mha")
        sitk.WriteImage(field, folder / f"e{suffix}")
    for path in sorted(folder.iterdir()):
        yield path, "vectors" if path.stem in ("c", "e") else "image"


@pytest.fixture(scope="session")
def fuzz_seeds(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    return list(_fuzz_seeds(tmp_path_factory.mktemp("seeds")))


FUZZ_FILES = ["a.nii", "b.nii.gz", "c.nii", "d.mha", "d.nrrd", "e.mha", "e.nrrd", "imagej.tif", "ome.tif", "plain.tif", "zlib.tif"]


def survive(path: Path, kind: Any) -> None:
    """Read a file that may be anything: only our own errors may come, and not for lack of memory or time."""
    with suppress(LsfmError), closing(open_source(path, kind=kind)) as source:
        if np.prod(source.shape, dtype=float) < 1e7:
            read(source)
            source.file_records()


@pytest.mark.parametrize("name", FUZZ_FILES)
@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_raise_our_errors_only(name: str, data: st.DataObject, fuzz_seeds: list[tuple[Path, str]]) -> None:
    path, kind = next(seed for seed in fuzz_seeds if seed[0].name == name)
    content = bytearray(path.read_bytes())
    length = min(len(content), 700)
    for place in data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    target = path.with_name(f"fuzzed-{path.name}")
    target.write_bytes(content[:cut])
    survive(target, kind)


@pytest.mark.parametrize("name", FUZZ_FILES)
def test_damaged_files_for_some_time(name: str, fuzz_seeds: list[tuple[Path, str]]) -> None:
    """Headers whose bytes were changed at random; LSFM_FUZZ_SECONDS makes it longer."""
    path, kind = next(seed for seed in fuzz_seeds if seed[0].name == name)
    original = path.read_bytes()
    target = path.with_name(f"random-{path.name}")
    seed = 0 if FUZZ_SECONDS <= 1 else time.time_ns()
    choice = random.Random(seed)
    end = time.monotonic() + FUZZ_SECONDS / len(FUZZ_FILES)
    while time.monotonic() < end:
        content = bytearray(original)
        for _ in range(choice.randint(1, 8)):
            content[choice.randrange(min(len(content), 2000))] = choice.choice((0, 1, 255, 127, 32, 48, 57, choice.randrange(256)))
        if choice.random() < 0.1:
            del content[choice.randrange(len(content)) :]
        target.write_bytes(content)
        survive(target, kind)
