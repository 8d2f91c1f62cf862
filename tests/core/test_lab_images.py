"""Images as microscopes and their programs leave them: odd OME-XML, sets of files, names of all kinds, stacks in parts."""

from __future__ import annotations

import gzip
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from lsfm_core.cli import main
from lsfm_core.errors import InputError, LsfmError, SourceError
from lsfm_core.formats import Source, open_source
from lsfm_core.store import open_lsfm

from . import children

Array = np.ndarray[Any, Any]
PER_PLANE = (
    '<TiffData IFD="0" FirstZ="{z}" FirstC="{c}" FirstT="0" PlaneCount="1">'
    '<UUID FileName="{name}">urn:uuid:{name}</UUID></TiffData>'
)


@pytest.fixture
def truth() -> Array:
    return np.random.default_rng(5).integers(0, 60000, (6, 11, 13), dtype=np.uint16)


def read(image: Any, **options: Any) -> tuple[Array, Source]:
    with closing(open_source(image, **options)) as source:
        out = np.zeros((*source.shape, source.components) if source.components > 1 else source.shape, source.dtype)
        for index in range(source.shape[0]):
            source.read_plane(index, out[index])
    return out, source


def notes(source: Source) -> str:
    return " | ".join(source.facts.get("notes", ()))


def write_planes(folder: Path, planes: Array, name: Callable[[int], str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, plane in enumerate(planes):
        tifffile.imwrite(folder / name(index), plane, metadata=None)
    return folder


def ome_xml(shape: Sequence[int], tiff_data: str = "<TiffData/>", *, uuid: str = "", channels: str = "", **changes: Any) -> str:
    sizes = {"C": 1, "T": 1, **dict(zip("ZYX", shape, strict=True)), **{k: v for k, v in changes.items() if k in tuple("CTZYX")}}
    attributes = {
        "Type": "uint16", "DimensionOrder": "XYZCT", "PhysicalSizeX": "4", "PhysicalSizeY": "4", "PhysicalSizeZ": "5",
        **{f"Size{axis}": size for axis, size in sizes.items()}, **{k: v for k, v in changes.items() if len(k) > 1},
    }  # fmt: skip
    text = " ".join(f'{key}="{value}"' for key, value in attributes.items() if value is not None)
    root = f' UUID="urn:uuid:{uuid}"' if uuid else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
        f'{root}><Image ID="Image:0"><Pixels ID="Pixels:0" {text}>{channels}{tiff_data}</Pixels></Image></OME>'
    )


def write_pages(path: Path, pages: Array, description: str | bytes | None) -> Path:
    data = description.encode() if isinstance(description, str) else description
    with tifffile.TiffWriter(path) as tiff:
        for index, page in enumerate(pages):
            tiff.write(page, description=data if index == 0 else None, metadata=None, contiguous=False, photometric="minisblack")
    return path


# --- sets of OME-TIFF files -----------------------------------------------------------------------------------------------------


def binary_only(master: str) -> str:
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<BinaryOnly MetadataFile="{master}" UUID="urn:uuid:{master}"/></OME>'
    )


def write_binary_only(folder: Path, truth: Array, *, master_is_tiff: bool = True, own_without_uuid: bool = False) -> list[Path]:
    folder.mkdir()
    files = [folder / f"s_{z:03d}.ome.tif" for z in range(len(truth))]
    blocks = "".join(PER_PLANE.format(z=z, c=0, name=file.name) for z, file in enumerate(files))
    if own_without_uuid:
        # What has no file is in the master.
        blocks = blocks.replace(f'<UUID FileName="{files[0].name}">urn:uuid:{files[0].name}</UUID>', "")
    full = ome_xml(truth.shape, blocks, uuid=files[0].name)
    if not master_is_tiff:
        (folder / "set.companion.ome").write_text(full)
    for z, file in enumerate(files):
        xml = full if z == 0 and master_is_tiff else binary_only(files[0].name if master_is_tiff else "set.companion.ome")
        write_pages(file, truth[z : z + 1], xml)
    return files


@pytest.mark.parametrize("options", [{}, {"own_without_uuid": True}, {"master_is_tiff": False}])
def test_sets_with_a_master_by_any_of_their_files(options: dict[str, bool], truth: Array, tmp_path: Path) -> None:
    files = write_binary_only(tmp_path / "set", truth, **options)
    named: list[Path | str] = [files[0], files[3], files[-1], tmp_path / "set", tmp_path / "set" / "s_*.ome.tif"]
    if options.get("master_is_tiff") is False:
        named.append(tmp_path / "set" / "set.companion.ome")
    for image in named:
        voxels, source = read(image)
        np.testing.assert_array_equal(voxels, truth)
        assert source.voxel_size_mm == pytest.approx((0.005, 0.004, 0.004)), image


def test_missing_members_are_named(truth: Array, tmp_path: Path) -> None:
    files = write_binary_only(tmp_path / "set", truth)
    files[2].unlink()
    for image in (files[0], files[4], tmp_path / "set"):
        with pytest.raises(SourceError, match=r"1 of 6 files that are not there: 's_002\.ome\.tif'"):
            open_source(image)
    files[0].unlink()
    with pytest.raises(SourceError, match=r"leaves its metadata to the file 's_000\.ome\.tif', which is not there"):
        open_source(files[3])


def test_members_that_are_links_out_of_the_folder_are_not_opened(truth: Array, tmp_path: Path) -> None:
    files = write_binary_only(tmp_path / "set", truth)
    files[2].rename(tmp_path / "elsewhere.tif")
    files[2].symlink_to(tmp_path / "elsewhere.tif")
    with pytest.raises(LsfmError, match=r"s_002\.ome\.tif"):
        open_source(files[0])


def test_files_that_tell_of_themselves_only(truth: Array, tmp_path: Path) -> None:
    """Plane 0 is in the last file: the XML counts, not the names."""
    files = [tmp_path / f"p_{5 - z}.ome.tif" for z in range(6)]
    for z, file in enumerate(files):
        own = PER_PLANE.format(z=z, c=0, name=file.name)
        write_pages(file, truth[z : z + 1], ome_xml(truth.shape, own, uuid=file.name))
    for image in (files[0], files[2], tmp_path):
        voxels, source = read(image)
        np.testing.assert_array_equal(voxels, truth)
        assert source.voxel_size_mm == pytest.approx((0.005, 0.004, 0.004))
    files[3].unlink()
    for image in (files[0], tmp_path):
        with pytest.raises(SourceError, match=r"6 planes, but gives a page for 5 only \(none for plane 3"):
            open_source(image)


def test_two_images_that_tell_of_themselves_only(truth: Array, tmp_path: Path) -> None:
    for scan in (1, 2):
        for z in range(6):
            name = f"scan{scan}_{z}.ome.tif"
            xml = ome_xml(truth.shape, PER_PLANE.format(z=z, c=0, name=name), uuid=name)
            write_pages(tmp_path / name, truth[z : z + 1] + scan, xml)
    with pytest.raises(InputError, match="as both say"):
        open_source(tmp_path)
    np.testing.assert_array_equal(read(tmp_path / "scan1_0.ome.tif")[0], truth + 1)
    np.testing.assert_array_equal(read(tmp_path / "scan2_*.ome.tif")[0], truth + 2)


@pytest.mark.parametrize("other", ["[01 x 00]_C00", "[00 x 00]_C01"])
def test_a_file_of_a_tile_stands_for_its_own(other: str, truth: Array, tmp_path: Path) -> None:
    """Neither tiles nor channels know of each other in what these files tell."""
    for head, volume in (("[00 x 00]_C00", truth), (other, truth[::-1])):
        for z, plane in enumerate(volume):
            name = f"raw_{head}_xyz-Table Z{z:04d}.ome.tif"
            own = PER_PLANE.format(z=z, c=0, name=name)
            write_pages(tmp_path / name, plane[None], ome_xml(truth.shape, own, uuid=name))
    for head, volume in (("[00 x 00]_C00", truth), (other, truth[::-1])):
        np.testing.assert_array_equal(read(tmp_path / f"raw_{head}_xyz-Table Z0002.ome.tif")[0], volume)
    with pytest.raises(InputError, match="as both say"):
        open_source(tmp_path)


def test_channels_of_a_set_by_pattern_or_by_name(truth: Array, tmp_path: Path) -> None:
    name = "c{c}_z{z}.ome.tif"
    blocks = "".join(PER_PLANE.format(z=z, c=c, name=name.format(z=z, c=c)) for c in range(2) for z in range(6))
    channels = '<Channel ID="C:0" Name="488"/><Channel ID="C:1" Name="561"/>'
    for c in range(2):
        for z in range(6):
            write_pages(
                tmp_path / name.format(z=z, c=c), truth[z : z + 1] + c, ome_xml(truth.shape, blocks, channels=channels, C=2)
            )
    np.testing.assert_array_equal(read(tmp_path, channel="561")[0], truth + 1)
    np.testing.assert_array_equal(read(tmp_path / "c1_*.tif")[0], truth + 1)
    np.testing.assert_array_equal(read(tmp_path / "c0_z%d.ome.tif")[0], truth)
    with pytest.raises(InputError, match=r"2 channels \(0 '488', 1 '561'\): pick one"):
        open_source(tmp_path)


def test_renamed_and_partial_sets_go_by_their_names(truth: Array, tmp_path: Path) -> None:
    blocks = "".join(PER_PLANE.format(z=z, c=0, name=f"old_{z}.ome.tif") for z in range(6))
    for z in range(6):
        write_pages(tmp_path / f"new_{z}.ome.tif", truth[z : z + 1], ome_xml(truth.shape, blocks))
    voxels, source = read(tmp_path)
    np.testing.assert_array_equal(voxels, truth)
    assert "names are not there" in notes(source)
    (tmp_path / "new_5.ome.tif").unlink()
    with pytest.raises(SourceError, match="6 planes, and the series has 5 files"):
        open_source(tmp_path)


# --- LaVision -------------------------------------------------------------------------------------------------------------------


def lavision_xml(shape: Sequence[int], tiff_data: str, pixel_type: str = "uint16") -> str:
    z, y, x = shape
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2008-02"><Image ID="Image:1" '
        'DefaultPixels="P:1"><LogicalChannel ID="LC:1" Name="488" SamplesPerPixel="1"/><Pixels ID="P:1" DimensionOrder="XYZTC" '
        f'PixelType="{pixel_type}" BigEndian="false" SizeX="{x}" SizeY="{y}" SizeZ="{z}" SizeT="1" SizeC="1" PhysicalSizeX="1.625" '
        f'PhysicalSizeY="1.625" PhysicalSizeZ="5">{tiff_data}</Pixels></Image></OME>'
    )


@pytest.mark.parametrize("tiff_data", ["each", "empty", "none", "own"])
@pytest.mark.parametrize("pixel_type", ["uint16", "Uint16"])
def test_series_of_lavision(tiff_data: str, pixel_type: str, truth: Array, tmp_path: Path) -> None:
    names = [f"16-17-27_0_8X_UltraII_C00_xyz-Table Z{z:04d}.ome.tif" for z in range(6)]
    each = [PER_PLANE.format(z=z, c=0, name=name).replace("PlaneCount", "NumPlanes") for z, name in enumerate(names)]
    for z, name in enumerate(names):
        data = {"each": "".join(each), "empty": "<TiffData/>", "none": "", "own": each[z]}[tiff_data]
        write_pages(tmp_path / name, truth[z : z + 1], lavision_xml(truth.shape, data, pixel_type))
    for image in (tmp_path, tmp_path / names[2], tmp_path / "*Table Z*.tif", tmp_path / "*Z%04d.ome.tif"):
        voxels, source = read(image)
        np.testing.assert_array_equal(voxels, truth)
        assert source.voxel_size_mm == pytest.approx((0.005, 0.001625, 0.001625))
    odd = "16-17-27_0_8X_UltraII_C00_UltraII Filter0000.ome.tif"
    tifffile.imwrite(tmp_path / odd, truth[0, :5, :5], metadata=None)
    voxels, source = read(tmp_path)
    np.testing.assert_array_equal(voxels, truth)
    assert odd in notes(source)


@pytest.mark.parametrize("odd", [["preview.tif"], ["thumb.tif", "Filter0000.tif"], ["15-00-00_plane_0.tif"]])
def test_odd_files_beside_a_series_are_left_out_and_named(odd: list[str], truth: Array, tmp_path: Path) -> None:
    write_planes(tmp_path, truth, lambda z: f"16-17-27_plane_{z}.tif")
    for name in odd:
        tifffile.imwrite(tmp_path / name, truth[0, :4], metadata=None)
    voxels, source = read(tmp_path)
    np.testing.assert_array_equal(voxels, truth)
    assert all(name in notes(source) for name in odd)


def test_several_series_are_listed(truth: Array, tmp_path: Path) -> None:
    write_planes(tmp_path, truth, lambda z: f"red_{z}.tif")
    write_planes(tmp_path, truth, lambda z: f"green_{z}.tif")
    with pytest.raises(
        InputError, match=r"6 files green_0\.tif … green_5\.tif; 6 files red_0\.tif … red_5\.tif: name one series by"
    ):
        open_source(tmp_path)
    np.testing.assert_array_equal(read(tmp_path / "red_*.tif")[0], truth)


# --- encodings and units --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", ["utf-8", "UTF-16", "utf-16LE", "ISO-8859-1", "windows-1252", "us-ascii", None])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "cp1252", "utf-16", "utf-8-sig"])
def test_ome_xml_in_any_encoding(declared: str | None, encoding: str, truth: Array, tmp_path: Path) -> None:
    xml = ome_xml(truth.shape, PhysicalSizeXUnit="µm", PhysicalSizeYUnit="µm", PhysicalSizeZUnit="µm")
    declaration = "" if declared is None else f'<?xml version="1.0" encoding="{declared}"?>'
    xml = xml.replace('<?xml version="1.0" encoding="UTF-8"?>', declaration)
    voxels, source = read(write_pages(tmp_path / "a.tif", truth, xml.encode(encoding)))
    np.testing.assert_array_equal(voxels, truth)
    assert source.voxel_size_mm == pytest.approx((0.005, 0.004, 0.004))


@pytest.mark.parametrize(
    ("unit", "mm"),
    [("dm", 100), ("cm", 10), ("m", 1e3), ("nm", 1e-6), ("pm", 1e-9), ("Mm", 1e9), ("Å", 1e-7), ("in", 25.4), ("thou", 0.0254),
     ("li", 25.4 / 12), ("ft", 304.8), ("yd", 914.4), ("pt", 25.4 / 72), ("hm", 1e5), ("dam", 1e4), ("\u03bcm", 1e-3),
     (None, 1e-3)],
)  # fmt: skip
def test_ome_units(unit: str | None, mm: float, truth: Array, tmp_path: Path) -> None:
    xml = ome_xml(truth.shape, PhysicalSizeXUnit=unit, PhysicalSizeYUnit=unit, PhysicalSizeZUnit=unit)
    assert read(write_pages(tmp_path / "a.tif", truth, xml))[1].voxel_size_mm == pytest.approx((5 * mm, 4 * mm, 4 * mm))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"PhysicalSizeZ": 0}, "PhysicalSizeZ is '0'"),
        ({"PhysicalSizeZ": -1}, "PhysicalSizeZ is '-1'"),
        ({"PhysicalSizeX": None}, "PhysicalSizeX is not there"),
        ({"PhysicalSizeYUnit": "pixel"}, "PhysicalSizeYUnit is 'pixel'"),
        ({"PhysicalSizeYUnit": "reference frame"}, "PhysicalSizeYUnit is 'reference frame'"),
    ],
)
def test_voxel_sizes_that_are_none(
    changes: dict[str, Any], found: str, truth: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = write_pages(tmp_path / "a.tif", truth, ome_xml(truth.shape, **changes))
    assert main(["write", str(tmp_path / "b.h5"), "--channel", "c", "--image", str(image), "--orientation", "AIR"]) != 0
    error = capsys.readouterr().err
    assert f"does not tell its voxel size: {found}: give --voxel-size P,R,C in mm" in error
    assert not (tmp_path / "b.h5").exists()


# --- names ----------------------------------------------------------------------------------------------------------------------

NAMES: dict[str, Callable[[int], str]] = {
    "microns": lambda z: f"z_{z * 2.5:.1f}um.tif",
    "microns without zeros": lambda z: f"z_{z * 2.5:g}um.tif",
    "fractions of a micron": lambda z: f"z{z * 0.25:g}.tif",
    "rounded microns": lambda z: f"z_{round(z * 2.5)}.tif",
    "measured": lambda z: f"z_{1000 + z * 2.5 + (-1) ** z * 0.07:.2f}.tif",
    "negative": lambda z: f"img_z{(z - 3) * 10}.tif",
    "negative microns": lambda z: f"img_z{(z - 3) * 2.5:+.1f}.tif".replace("+", ""),
    "signed": lambda z: f"img_z{(z - 3) * 10:+d}.tif",
    "decimal commas": lambda z: f"z_{z * 2.5:.1f}um.tif".replace(".", ",", 1),
    "not padded": lambda z: f"plane{z + 7}.tif",
    "mixed padding": lambda z: f"plane{z + 7:0{2 + z % 2}d}.tif",
    "timestamps": lambda z: f"20240101_2359{55 + z * 7 % 5:02d}_{z:04d}_z{z:03d}.tif",
    "long timestamps": lambda z: f"2024010123595{z:017d}_z{z:03d}.tif",
    "times over midnight": lambda z: f"{(235957 + z * 3) % 235964:06d}_z{z}.tif",
}


@pytest.mark.parametrize("names", NAMES)
def test_names_of_planes(names: str, truth: Array, tmp_path: Path) -> None:
    write_planes(tmp_path, truth, NAMES[names])
    np.testing.assert_array_equal(read(tmp_path)[0], truth)
    np.testing.assert_array_equal(read(tmp_path / NAMES[names](3))[0], truth)


def test_counters_that_begin_again(tmp_path: Path) -> None:
    planes = np.random.default_rng(1).integers(0, 255, (25, 4, 5), dtype=np.uint8)
    write_planes(tmp_path, planes, lambda z: f"part_{z % 10}_z{z:03d}.tif")
    voxels, source = read(tmp_path)
    np.testing.assert_array_equal(voxels, planes)
    assert "several numbers in the names differ" in notes(source)


@pytest.mark.parametrize(
    "name",
    [
        lambda n: f"img_{n:04d}_c{n % 2}.tif",
        lambda n: f"img_{n:04d}_{488 if n % 2 else 561}.tif",
        lambda n: f"img_z{n // 2:04d}_c{n % 2}.tif",
        lambda n: f"tile_x{n % 3}_y{n // 3}_{n:03d}.tif",
        lambda n: f"img_{n:04d}_t{n // 6}.tif",
    ],
)
def test_several_counters_are_refused(name: Callable[[int], str], tmp_path: Path) -> None:
    write_planes(tmp_path, np.zeros((12, 4, 5), np.uint8), name)
    with pytest.raises(InputError, match=r"count along \d numbers .*Name one series by a quoted glob .* or a pattern"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["img_z{z:03d}_c{c}.tif", "img_c{c}_z{z:03d}.tif", "{c}_488_{z:03d}.tif", "z{z:.1f}um_c{c}.tif"])
def test_a_file_stands_for_its_own_channel(name: str, truth: Array, tmp_path: Path) -> None:
    for c in range(2):
        write_planes(tmp_path, truth + c, lambda z, c=c: name.format(z=z, c=c))  # type: ignore[misc]
    np.testing.assert_array_equal(read(tmp_path / name.format(z=4, c=1))[0], truth + 1)


def test_a_missing_position_is_named(truth: Array, tmp_path: Path) -> None:
    write_planes(tmp_path, truth, NAMES["microns"])
    (tmp_path / "z_7.5um.tif").unlink()
    with pytest.raises(SourceError, match=r"1 plane.s. missing .*: number 7\.5: find"):
        open_source(tmp_path)


@pytest.mark.parametrize("folder", ["plain", "with [brackets] and *", "100%d"])
@pytest.mark.parametrize("name", ["a_z{:03d}.tif", "b[1]_z{:03d}.tif"])
def test_patterns_and_odd_paths(folder: str, name: str, truth: Array, tmp_path: Path) -> None:
    place = write_planes(tmp_path / folder, truth, name.format)
    start = name.partition("_")[0]
    for image in (place, place / name.format(2), place / f"{start}_z*.tif", place / "*_z%03d.tif", place / f"{start}_z%03d.tif"):
        np.testing.assert_array_equal(read(image)[0], truth)


def test_pipes_and_broken_links(truth: Array, tmp_path: Path) -> None:
    write_planes(tmp_path, truth, lambda z: f"p_{z}.tif")
    os.mkfifo(tmp_path / "p_6.tif")
    np.testing.assert_array_equal(read(tmp_path)[0], truth)
    with pytest.raises(LsfmError, match=r"p_6\.tif"):
        open_source(tmp_path / "p_6.tif")
    (tmp_path / "p_6.tif").unlink()
    (tmp_path / "p_6.tif").symlink_to("nowhere.tif")
    with pytest.raises(SourceError, match=r"p_6\.tif: cannot be read"):
        open_source(tmp_path)


# --- stacks in parts ------------------------------------------------------------------------------------------------------------

PARTS: dict[str, list[str]] = {
    "numbered": ["scan_0000.tif", "scan_0001.tif", "scan_0002.tif"],
    "PCO": ["scan.tif", "scan@0001.tif", "scan@0002.tif"],
    "Micro-Manager": ["s_MMStack_Pos0.ome.tif", "s_MMStack_Pos0_1.ome.tif", "s_MMStack_Pos0_2.ome.tif"],
}


@pytest.mark.parametrize("names", PARTS)
@pytest.mark.parametrize("last", [1, 2])
def test_stacks_in_parts(names: str, last: int, truth: Array, tmp_path: Path) -> None:
    whole = np.concatenate([truth, truth])[: 4 + last]
    for k, name in enumerate(PARTS[names]):
        tifffile.imwrite(tmp_path / name, whole[2 * k : 2 * k + 2], photometric="minisblack", metadata=None, ome=False)
    for image in (tmp_path, tmp_path / PARTS[names][0], tmp_path / "s*.tif"):
        voxels, source = read(image)
        np.testing.assert_array_equal(voxels, whole)
        assert "3 files were joined" in notes(source)


@pytest.mark.parametrize(
    "names",
    [
        ["b_488.tif", "b_561.tif", "b_640.tif"],
        ["b_488.tif", "b_561.tif"],
        ["b_C00.tif", "b_C01.tif"],
        ["[00 x 00]_b.tif", "[01 x 00]_b.tif", "[02 x 00]_b.tif"],
        ["ch0.tif", "ch1.tif", "ch2.tif"],
        ["tile_0001.tif", "tile_0002.tif"],
        ["m_2024.tif", "m_2025.tif"],
    ],
)
def test_stacks_that_are_no_parts_are_not_joined(names: list[str], truth: Array, tmp_path: Path) -> None:
    for name in names:
        tifffile.imwrite(tmp_path / name, truth, photometric="minisblack", metadata=None)
    with pytest.raises(InputError, match=r"[Nn]ame one"):
        open_source(tmp_path)
    np.testing.assert_array_equal(read(tmp_path / names[0])[0], truth)


@pytest.mark.parametrize("name", ["img_C{0}.tif", "488 561 640", "ch{0}_x.tif"])
def test_channels_of_one_plane_are_no_volume(name: str, truth: Array, tmp_path: Path) -> None:
    numbers = name.split() if name[0] == "4" else ["00", "01", "02"]
    pattern = "img_{0}.tif" if name[0] == "4" else name
    write_planes(tmp_path, truth[:3], lambda z: pattern.format(numbers[z]))
    with pytest.raises(InputError, match=r"the names count channels, or wavelengths \(.*not planes"):
        open_source(tmp_path)


def test_times_are_taken_for_planes_with_a_word(truth: Array, tmp_path: Path) -> None:
    voxels, source = read(write_planes(tmp_path, truth, lambda z: f"img_t{z:03d}.tif"))
    np.testing.assert_array_equal(voxels, truth)
    assert "taken for planes in the order of 'img_t'" in notes(source)


def test_parts_numbered_by_their_first_plane(truth: Array, tmp_path: Path) -> None:
    for start, stop in ((0, 3), (3, 4), (4, 6)):
        tifffile.imwrite(tmp_path / f"z{start:05d}.tif", truth[start:stop], photometric="minisblack", metadata=None)
    np.testing.assert_array_equal(read(tmp_path)[0], truth)


def test_parts_must_be_alike(truth: Array, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a_0000.tif", truth[:3], photometric="minisblack", metadata=None)
    tifffile.imwrite(tmp_path / "a_0001.tif", truth[3:, :5], photometric="minisblack", metadata=None)
    with pytest.raises(SourceError, match=r"a_0001\.tif: has planes of \(5, 13\).*must be alike"):
        open_source(tmp_path)


def test_a_stack_beside_others_is_taken_alone_with_a_word(truth: Array, tmp_path: Path) -> None:
    for n in (1, 2):
        tifffile.imwrite(tmp_path / f"brain{n}.tif", truth + n, photometric="minisblack", metadata=None)
    voxels, source = read(tmp_path / "brain1.tif")
    np.testing.assert_array_equal(voxels, truth + 1)
    assert "this file was taken alone" in notes(source)


# --- planes that are times or channels -------------------------------------------------------------------------------------------


def write_imagej(path: Path, truth: Array, axis: str) -> Path:
    text = f"ImageJ=1.54f\nimages={len(truth)}\n{axis}={len(truth)}\nunit=micron\nspacing=5.0\n"
    with tifffile.TiffWriter(path) as tiff:
        for z, plane in enumerate(truth):
            description = text if z == 0 else None
            tiff.write(plane, description=description, metadata=None, contiguous=False, resolution=(0.25, 0.25), software="")
    return path


@pytest.mark.parametrize(("axis", "planes_are"), [("T", "time"), ("C", "channels")])
@pytest.mark.parametrize("make", ["OME", "ImageJ"])
def test_planes_that_are_times_or_channels(
    make: str, axis: str, planes_are: str, truth: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "a.tif"
    if make == "OME":
        write_pages(image, truth, ome_xml((1, 11, 13), **{axis: 6}))
    else:
        write_imagej(image, truth, "frames" if axis == "T" else "channels")
    with pytest.raises(InputError, match=f"--planes-are {planes_are}"):
        open_source(image)
    voxels, source = read(image, planes_are=planes_are)
    np.testing.assert_array_equal(voxels, truth)
    assert source.voxel_size_mm == pytest.approx((0.005, 0.004, 0.004))
    path = tmp_path / "b.h5"
    command = ["write", str(path), "--channel", "c", "--image", str(image), "--orientation", "AIR", "--planes-are", planes_are]
    assert main(command) == 0
    capsys.readouterr()
    with open_lsfm(path) as file:
        np.testing.assert_array_equal(np.asarray(file["c"].levels[0].data[:]), truth)
    assert main(["log", str(path), "--command"]) == 0
    assert f"--planes-are {planes_are}" in capsys.readouterr().out


def test_planes_are_no_times_where_there_are_planes(truth: Array, tmp_path: Path) -> None:
    image = write_pages(tmp_path / "a.tif", truth, ome_xml(truth.shape))
    with pytest.raises(InputError, match="has 6 planes besides: leave out --planes-are time"):
        open_source(image, planes_are="time")


# --- grey that was saved in colours ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize("make", ["stack", "series"])
def test_grey_saved_as_rgb(make: str, samples: int, truth: Array, tmp_path: Path) -> None:
    colours = np.repeat((truth >> 8).astype(np.uint8)[..., None], samples, axis=-1)
    colours[..., 3:] = 255
    extra = {"extrasamples": ["unassalpha"]} if samples == 4 else {}

    def save() -> Path:
        if make == "stack":
            tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb", metadata=None, **extra)
            return tmp_path / "a.tif"
        for z, plane in enumerate(colours):
            tifffile.imwrite(tmp_path / f"p_{z}.tif", plane, photometric="rgb", metadata=None, **extra)
        return tmp_path

    voxels, source = read(save())
    np.testing.assert_array_equal(voxels, truth >> 8)
    assert source.components == 1
    assert "read as grey" in notes(source)
    assert read(save(), kind="components")[0].shape == (*truth.shape, samples)
    # One coloured pixel, in a plane that is not looked at beforehand.
    colours[1, 3, 4, 1] ^= 1
    with pytest.raises(SourceError, match="plane 1 has colours, others are grey: say --kind components"):
        read(save())
    colours[0, 3, 4, 1] ^= 1
    voxels, source = read(save())
    assert source.components == samples
    np.testing.assert_array_equal(voxels, colours)


# --- mesoSPIM, Analyze, NIfTI pairs, Zarr -----------------------------------------------------------------------------------------


def mesospim_text(planes: int, x: int, y: int, step: str = "5.0") -> str:
    return (
        "[Metadata for file] D:/a.raw\n\n[CFG]\n[Laser] 488 nm\n[Pixelsize in um] 4.0\n"
        f"[z_stepsize] {step}\n[z_planes] {planes}\n\n"
        f"[CAMERA PARAMETERS]\n[x_pixels] {x}\n[y_pixels] {y}\n"
    )


def test_raw_files_of_mesospim(truth: Array, tmp_path: Path) -> None:
    truth = truth[:, :11, :11]
    image = tmp_path / "a.raw"
    truth.astype("<u2").tofile(image)
    with pytest.raises(InputError, match=r"nothing is known without a\.raw_meta\.txt"):
        open_source(image)
    (tmp_path / "a.raw_meta.txt").write_text(mesospim_text(6, 11, 11))
    voxels, source = read(image)
    np.testing.assert_array_equal(voxels, truth)
    assert source.voxel_size_mm == pytest.approx((0.005, 0.004, 0.004))
    assert source.facts["acquisition"]["Laser"] == "488 nm"
    (tmp_path / "a.raw_meta.txt").write_text(mesospim_text(6, 11, 11, "0"))
    assert read(image)[1].facts["untold"] == "z_stepsize is '0'"
    (tmp_path / "a.raw_meta.txt").write_text(mesospim_text(7, 11, 11))
    with pytest.raises(SourceError, match=r"has 1452 bytes, but .* 7 planes of 11 x 11 pixels, which are 1694"):
        open_source(image)


def test_rows_of_mesospim_are_along_x(truth: Array, tmp_path: Path) -> None:
    """The camera's image is turned by a quarter: its x, the larger here, becomes the rows."""
    truth.astype("<u2").tofile(tmp_path / "a.raw")
    (tmp_path / "a.raw_meta.txt").write_text(mesospim_text(6, 11, 13))
    voxels, source = read(tmp_path / "a.raw")
    np.testing.assert_array_equal(voxels, truth)
    assert "11 rows, 13 columns" in notes(source)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair, nibabel.AnalyzeImage])
@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_pairs_of_header_and_data(kind: Any, zipped: str, truth: Array, tmp_path: Path) -> None:
    affine = np.diag([-0.02, 0.03, 0.05, 1.0])
    image = kind(truth.astype(np.int16).T, affine)
    header, data = tmp_path / "a.hdr", tmp_path / "a.img"
    image.to_file_map(image.make_file_map({"header": str(header), "image": str(data)}))
    if zipped:
        for file in (header, data):
            Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    for name in (f"{header}{zipped}", f"{data}{zipped}"):
        voxels, source = read(name)
        np.testing.assert_array_equal(voxels, truth.astype(np.int16))
        assert source.voxel_size_mm == pytest.approx((0.05, 0.03, 0.02))
        if kind is nibabel.AnalyzeImage:
            assert source.space is None
            assert "do not tell left from right" in notes(source)
        else:
            assert source.space is not None
            assert source.space.orientation.axcodes == "SAL"
    Path(f"{data}{zipped}").unlink()
    with pytest.raises(SourceError, match=r"a\.img is not there"):
        open_source(f"{header}{zipped}")


def test_labels_that_were_moved_by_an_intercept(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 2**31 - 1, (5, 6, 7), dtype=np.int32)
    image = nibabel.Nifti1Image(ids, np.eye(4))
    image.header.set_slope_inter(1, 7)
    # Nibabel would take the intercept from the values as it writes them.
    path = tmp_path / "a.nii"
    image.header.set_data_offset(352)
    path.write_bytes(image.header.binaryblock + bytes(4) + ids.tobytes("F"))
    voxels, source = read(path, kind="labels")
    np.testing.assert_array_equal(voxels, (ids.astype(np.int64) + 7).T)
    assert source.dtype == np.uint32


def write_zarr(path: Path, truth: Array, version: str, axes: Any) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    shape = (1, 1, *truth.shape)
    group.create_array("0", shape=shape, dtype=truth.dtype, chunks=(1, 1, 2, 8, 8))[...] = truth[None, None]
    scale = {"type": "scale", "scale": [1, 1, 5, 4, 4]}
    image = {"version": version, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
    group.attrs["multiscales"] = [image if axes is None else {**image, "axes": axes}]
    return path


@pytest.mark.parametrize(
    ("version", "axes", "size"),
    [
        ("0.1", None, None),
        ("0.3", list("tczyx"), None),
        ("0.4", [{"name": name} for name in "tczyx"], None),
        ("0.4", [{"name": name, "unit": "micrometer"} for name in "tczyx"], (0.005, 0.004, 0.004)),
    ],
)
def test_zarr_without_types(version: str, axes: Any, size: Any, truth: Array, tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", truth, version, axes)
    shutil.make_archive(str(tmp_path / "flat.ome.zarr"), "zip", path)
    shutil.make_archive(str(tmp_path / "nested.zarr"), "zip", tmp_path, "a.zarr")
    shutil.copy(tmp_path / "flat.ome.zarr.zip", tmp_path / "b.ozx")
    for image in (path, tmp_path / "flat.ome.zarr.zip", tmp_path / "nested.zarr.zip", tmp_path / "b.ozx"):
        voxels, source = read(image)
        np.testing.assert_array_equal(voxels, truth)
        assert source.voxel_size_mm == (None if size is None else pytest.approx(size))
    shutil.copy(tmp_path / "flat.ome.zarr.zip", tmp_path / "d.zip")
    np.testing.assert_array_equal(read(tmp_path / "d.zip")[0], truth)
    (tmp_path / "c.zarr.zip").write_bytes(b"no zip file")
    with pytest.raises(SourceError, match=r"c\.zarr\.zip"):
        open_source(tmp_path / "c.zarr.zip")


def test_a_unit_without_a_scale_is_no_voxel_size(truth: Array, tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", truth, "0.4", [{"name": name, "unit": "micrometer"} for name in "tczyx"])
    group = zarr.open_group(path)
    image = dict(group.attrs["multiscales"][0])  # type: ignore[index, call-overload, arg-type]
    image["datasets"] = [{"path": image["datasets"][0]["path"]}]
    group.attrs["multiscales"] = [image]
    assert read(path)[1].voxel_size_mm is None


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_arrays_whose_axes_are_named(version: Any, truth: Array, tmp_path: Path) -> None:
    both = np.stack([truth, truth[::-1]])
    options: dict[str, Any] = (
        {"dimension_names": list("czyx")} if version == 3 else {"attributes": {"_ARRAY_DIMENSIONS": list("czyx")}}
    )
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=both.shape, dtype=both.dtype, chunks=(1, 2, 8, 8), zarr_format=version, **options
    )
    array[...] = both
    np.testing.assert_array_equal(read(tmp_path / "a.zarr", channel=1)[0], both[1])
    with pytest.raises(InputError, match="2 channels"):
        open_source(tmp_path / "a.zarr")


@pytest.mark.slow
def test_libraries_do_not_speak_on_stderr(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("0", shape=(4, 5, 6), dtype="uint16")
    (tmp_path / "a.zarr" / "notes.txt").write_text("mine")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((4, 5, 6), np.uint16), photometric="minisblack")
    os.truncate(tmp_path / "b.tif", 200)
    for name in ("a.zarr", "b.tif"):
        command = [sys.executable, "-m", "lsfm_core.cli", "dump-metadata", name]
        result = children.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode != 0
        assert result.stderr.startswith(f"lsfm-core dump-metadata: {name}: ")
        assert result.stderr.count("\n") == 1


# --- pages of other sizes -------------------------------------------------------------------------------------------------------


def test_pyramids_and_thumbnails_that_are_not_flagged(truth: Array, tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for plane in truth:
            tiff.write(plane, metadata=None, contiguous=False)
        tiff.write(truth[0, ::4, ::4], metadata=None)
    voxels, source = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(voxels, truth)
    assert "1 smaller page(s) were left out" in notes(source)


# --- other programs' pages --------------------------------------------------------------------------------------------------------


def write_lsm(path: Path, channels: Array, compression: str | None = None) -> Path:
    """As ZEN does: each plane holds all channels, one after the other, and has a thumbnail behind it. Voxel 5 x 4 x 4 um."""
    count, planes, rows, columns = channels.shape
    names = [(name or f"reserved{n}", code) for n, (name, code) in enumerate(tifffile.TIFF.CZ_LSMINFO)]
    info = np.zeros((), np.dtype([(name, code)[:2] for name, code in names]))
    for name, value in {
        "MagicNumber": 0x0400494C, "StructureSize": info.nbytes, "DimensionX": columns, "DimensionY": rows, "DimensionZ": planes,
        "DimensionChannels": count, "DimensionTime": 1, "VoxelSizeX": 4e-6, "VoxelSizeY": 4e-6, "VoxelSizeZ": 5e-6,
    }.items():  # fmt: skip
        info[name] = value
    several: dict[str, Any] = {"planarconfig": "separate", "extrasamples": [0] * (count - 1)} if count > 1 else {}
    with tifffile.TiffWriter(path, byteorder="<") as tiff:
        for z in range(planes):
            tags = [(34412, 7, info.nbytes, info.tobytes(), True)] if z == 0 else []
            page = channels[:, z] if count > 1 else channels[0, z]
            tiff.write(page, photometric="minisblack", metadata=None, compression=compression, extratags=tags, **several)
            tiff.write(np.zeros((rows // 4, columns // 4), np.uint8), photometric="minisblack", metadata=None, subfiletype=1)
    return path


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_zeiss_lsm(compression: str | None, truth: Array, tmp_path: Path) -> None:
    channels = np.stack([truth, truth[::-1], truth[:, ::-1]])
    file = write_lsm(tmp_path / "a.lsm", channels, compression)
    for index in range(3):
        voxels, source = read(file, channel=index)
        np.testing.assert_array_equal(voxels, channels[index])
        assert source.voxel_size_mm == pytest.approx((0.005, 0.004, 0.004))
    with pytest.raises(InputError, match=r"3 channels .*--image-channel"):
        open_source(file)
    alone = write_lsm(tmp_path / "one.tif", truth[None], compression)
    np.testing.assert_array_equal(read(alone)[0], truth)
    for end in (file.stat().st_size // 2, 200):
        (tmp_path / "cut.lsm").write_bytes(file.read_bytes()[:end])
        with pytest.raises(SourceError):
            open_source(tmp_path / "cut.lsm", channel=0)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize(
    ("software", "description"),
    [
        ("SI.VERSION_MAJOR = 2020\nSI.hChannels.channelSave = [1;2]\nSI.hStackManager.framesPerSlice = 1\n", "frameNumbers = 1\n"),
        ("", "scanimage.SI4.channelsSave = [1;2]\n" + "scanimage.SI4.x = 1\n"),
        ("", "state.configPath=''\rstate.acq.numberOfChannelsSave=2\r"),
    ],
)
def test_channels_of_scanimage_are_told_apart(software: str, description: str, bigtiff: bool, truth: Array, tmp_path: Path) -> None:
    both = np.stack([truth, truth[::-1]], axis=1).astype(np.int16)
    file = tmp_path / "file_00001.tif"
    with tifffile.TiffWriter(file, bigtiff=bigtiff) as tiff:
        for page in both.reshape(-1, *truth.shape[1:]):
            tiff.write(page, photometric="minisblack", metadata=None, contiguous=False, software=software, description=description)
    with pytest.raises(InputError, match="2 channels"):
        open_source(file)
    for channel in (0, 1):
        np.testing.assert_array_equal(read(file, channel=channel)[0], both[:, channel])


def test_repeated_frames_of_scanimage_are_no_planes(truth: Array, tmp_path: Path) -> None:
    head = "SI.VERSION_MAJOR = 2020\nSI.hChannels.channelSave = 1\n"
    for told, message in (
        ("framesPerSlice = 2", "2 time points"),
        ("numSlices = 3", "2 time points"),
        ("framesPerSlice = 4", "6 pages"),
    ):
        with tifffile.TiffWriter(tmp_path / "s.tif") as tiff:
            for page in truth:
                tiff.write(page, metadata=None, contiguous=False, software=f"{head}SI.hStackManager.{told}\n", description="frame")
        with pytest.raises(LsfmError, match=message):
            open_source(tmp_path / "s.tif")


def test_channels_that_micro_manager_wrote_one_after_the_other(truth: Array, tmp_path: Path) -> None:
    text = "ImageJ=1.48\nimages=6\nchannels=2\nslices=3\nhyperstack=true\norder=zct\nunit=um\nspacing=5.0\n"
    write_pages(tmp_path / "a.tif", truth, text)
    for channel, planes in ((0, truth[:3]), (1, truth[3:])):
        np.testing.assert_array_equal(read(tmp_path / "a.tif", channel=channel)[0], planes)


@pytest.mark.parametrize(("axes", "order"), [("CZYX", (0, 1, 2, 3)), ("ZCYX", (1, 0, 2, 3))])
def test_axes_in_tifffiles_json(axes: str, order: tuple[int, ...], truth: Array, tmp_path: Path) -> None:
    both = np.stack([truth, truth[::-1]])
    tifffile.imwrite(tmp_path / "a.tif", both.transpose(order), photometric="minisblack", metadata={"axes": axes})
    np.testing.assert_array_equal(read(tmp_path / "a.tif", channel=1)[0], both[1])
    with pytest.raises(InputError, match="2 channels"):
        open_source(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "t.tif", truth, photometric="minisblack", metadata={"axes": "TYX"})
    with pytest.raises(InputError, match="--planes-are time"):
        open_source(tmp_path / "t.tif")
    np.testing.assert_array_equal(read(tmp_path / "t.tif", planes_are="time")[0], truth)


def test_voxel_size_of_mesospims_bigtiff(truth: Array, tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tiff", bigtiff=True) as tiff:
        for page in truth:
            tiff.write(page[None], contiguous=False, resolution=(0.25, 0.25), metadata={"spacing": 5.0, "unit": "um"})
    voxels, source = read(tmp_path / "a.tiff")
    np.testing.assert_array_equal(voxels, truth)
    assert source.voxel_size_mm == pytest.approx((0.005, 0.004, 0.004))
    # Without a resolution, tifffile writes 1: that is none.
    tifffile.imwrite(tmp_path / "b.tif", truth, photometric="minisblack", metadata={"spacing": 5.0, "unit": "um"})
    assert read(tmp_path / "b.tif")[1].voxel_size_mm is None


def write_palette(path: Path, values: Array, colours: Array, description: str | None = None) -> Path:
    with tifffile.TiffWriter(path) as tiff:
        for index, page in enumerate(values):
            text = description if index == 0 else None
            tiff.write(page, photometric="palette", colormap=colours, metadata=None, contiguous=False, description=text)
    return path


def test_palettes_of_shades_and_of_colours(truth: Array, tmp_path: Path) -> None:
    values = truth.astype(np.uint8)
    grey = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
    green = grey * np.array([[0], [1], [0]], np.uint16)
    for number, shades in enumerate((grey, grey[:, ::-1].copy(), green)):
        voxels, source = read(write_palette(tmp_path / f"shades{number}x.tif", values, shades))
        np.testing.assert_array_equal(voxels, values)
        assert "has a palette" in notes(source)
    colours = np.random.default_rng(3).integers(0, 256, (3, 256), dtype=np.uint16) * np.uint16(257)
    file = write_palette(tmp_path / "colours.tif", values, colours)
    with pytest.raises(InputError, match=r"numbers of colours in a palette.*--kind components.*--kind labels"):
        open_source(file)
    np.testing.assert_array_equal(read(file, kind="labels")[0], values)
    expanded = np.moveaxis(colours[:, values] // 257, 0, -1)
    voxels, source = read(file, kind="components")
    assert voxels.dtype == np.uint8
    np.testing.assert_array_equal(voxels, expanded)
    write_planes(tmp_path / "series", values, lambda z: f"p{z:03d}.tif")
    for z, plane in enumerate(values):
        write_palette(tmp_path / "series" / f"p{z:03d}.tif", plane[None], colours)
    np.testing.assert_array_equal(read(tmp_path / "series", kind="components")[0], expanded)
    text = "ImageJ=1.53t\nimages=6\nslices=6\nunit=um\n"
    np.testing.assert_array_equal(read(write_palette(tmp_path / "imagej.tif", values, colours, text))[0], values)


def test_a_tilde_behind_an_equals_sign_is_the_home_folder(truth: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_planes(tmp_path / "planes", truth, lambda z: f"p{z}.tif")
    argv = ["write", str(tmp_path / "b.h5"), "--channel", "c", "--image=~/planes", "--orientation", "AIR", "--voxel-size", "1,1,1"]
    assert main(argv) == 0
    with open_lsfm(tmp_path / "b.h5") as file:
        np.testing.assert_array_equal(np.asarray(file["c"].levels[0].data), truth)
