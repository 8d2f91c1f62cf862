"""The written file judged by programs that are not ours: h5py's own filters, plain numpy, npy2bdv, and Bio-Formats."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import npy2bdv
import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from lsfm_core import IngestReport
from lsfm_core.cli import main
from lsfm_core.testing import write_series

Array = npt.NDArray[Any]
Ingester = Callable[..., IngestReport]

# Three levels, and no size that 2 or a chunk divides: every chunk has blocks that are cut.
SHAPE = (21, 523, 45)
# Several chunks in each level, most of them without cut blocks.
LARGE_SHAPE = (72, 523, 160)
DTYPES = ("uint8", "uint16", "int16", "uint32", "float32")


def specimen(dtype: str, shape: tuple[int, int, int] = SHAPE) -> Array:
    """Noise over the whole range of a dtype, its extremes included."""
    rng = np.random.default_rng(11)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.normal(0, 1e4, shape).astype(kind)
    limits = np.iinfo(kind)
    image = rng.integers(limits.min, limits.max, shape, kind, endpoint=True)
    image[:2, :4, :4] = limits.max
    image[-2:, -4:, -4:] = limits.min
    return image


def padded_means(image: Array, factors: tuple[int, int, int]) -> Array:
    """Block means in the most pedestrian way: float64, padded with NaN to whole blocks."""
    padding = [(0, -n % f) for n, f in zip(image.shape, factors, strict=True)]
    blocks = np.pad(image.astype(np.float64), padding, constant_values=np.nan)
    split = [part for n, f in zip(blocks.shape, factors, strict=True) for part in (n // f, f)]
    means = np.nanmean(blocks.reshape(split), axis=(1, 3, 5))
    return (np.rint(means) if image.dtype.kind in "ui" else means).astype(image.dtype)


@pytest.mark.parametrize("shape", [SHAPE, LARGE_SHAPE], ids=["small", "large"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_h5py_reads_every_level(dtype: str, shape: tuple[int, int, int], tmp_path: Path, ingest_series: Ingester) -> None:
    image = specimen(dtype, shape)
    report = ingest_series(write_series(tmp_path / "in", image))
    assert [level.factors for level in report.levels] == [(1, 1, 1), (2, 2, 2), (4, 4, 4)]
    with h5py.File(tmp_path / "brain.h5") as file:
        for index, level in enumerate(report.levels):
            cells = file[f"t00000/s00/{index}/cells"]
            expected = padded_means(image, level.factors)
            assert cells.dtype == image.dtype
            if image.dtype.kind == "f" and index:
                np.testing.assert_allclose(cells[()], expected, rtol=1e-6)
            else:
                np.testing.assert_array_equal(cells[()], expected)


def test_chunks_go_through_shuffle_deflate_and_fletcher32(tmp_path: Path, ingest_series: Ingester) -> None:
    ingest_series(write_series(tmp_path / "in", specimen("uint16")))
    with h5py.File(tmp_path / "brain.h5") as file:
        for index in range(3):
            cells = file[f"t00000/s00/{index}/cells"]
            plist = cells.id.get_create_plist()
            filters = [plist.get_filter(n)[0] for n in range(plist.get_nfilters())]
            assert filters == [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32]
            chunks = [cells.id.get_chunk_info(n) for n in range(cells.id.get_num_chunks())]
            assert len(chunks) == np.prod([-(-n // c) for n, c in zip(cells.shape, cells.chunks, strict=True)])
            # A bit that is set would mean a filter that was skipped.
            assert {chunk.filter_mask for chunk in chunks} == {0}


@pytest.mark.parametrize("compression", [0, 1])
@pytest.mark.parametrize("from_end", [2, 5], ids=["checksum", "data"])
def test_hdf5_notices_a_flipped_bit(compression: int, from_end: int, tmp_path: Path, ingest_series: Ingester) -> None:
    ingest_series(write_series(tmp_path / "in", specimen("uint16")), compression=compression)
    path = tmp_path / "brain.h5"
    with h5py.File(path) as file:
        chunk = file["t00000/s00/0/cells"].id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset + chunk.size - from_end)
        (octet,) = raw.read(1)
        raw.seek(-1, 1)
        raw.write(bytes([octet ^ 0x10]))
    with h5py.File(path) as file, pytest.raises(OSError, match=r"filter|checksum"):
        file["t00000/s00/0/cells"][:1, :1, :1]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_npy2bdv_reads_voxels_and_sizes(dtype: str, tmp_path: Path, ingest_series: Ingester) -> None:
    image = specimen(dtype)
    flipped = image[::-1].copy()
    report = ingest_series(write_series(tmp_path / "in", image))
    ingest_series(write_series(tmp_path / "in2", flipped), channel="other", voxel_size_mm=(0.005, 0.004, 0.003))
    for name in ("brain.h5", "brain.xml"):
        editor = npy2bdv.BdvEditor(str(tmp_path / name), mode="r")
        try:
            assert (editor.ntimes, editor.nchannels, editor.nsetups) == (1, 2, 2)
            assert editor.dtype == image.dtype
            np.testing.assert_array_equal(editor.read_view(channel=0), image)
            np.testing.assert_array_equal(editor.read_view(channel=1, z=3), flipped[3])
            for index, level in enumerate(report.levels):
                assert editor.read_view(ilevel=index).shape == level.shape
            assert editor.get_view_property("view_shape") == SHAPE[::-1]
            assert editor.get_view_property("voxel_size", channel=0) == (0.004, 0.004, 0.005)
            assert editor.get_view_property("voxel_size", channel=1) == (0.003, 0.004, 0.005)
        finally:
            editor.finalize()


# --- Bio-Formats ----------------------------------------------------------------------------------------------------------------


# Bio-Formats goes by the size of an element alone: it takes signed 16 bits for unsigned, and cannot read 32 bits.
@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "shown"), [("uint8", "uint8"), ("uint16", "uint16"), ("int16", "uint16")])
def test_bioformats_reads_voxels_and_sizes(
    dtype: str, shown: str, tmp_path: Path, ingest_series: Ingester, bioformats: Callable[..., str]
) -> None:
    image = specimen(dtype)
    report = ingest_series(write_series(tmp_path / "in", image))
    xml = tmp_path / "brain.xml"
    said = bioformats("ImageInfo", "-nopix", "-nometa", "-noflat", xml)
    facts = dict(re.findall(r"^\t(\S[^=\n]*?) = (\S+)", said, re.MULTILINE))
    assert {"SizeZ": "21", "SizeT": "1", "SizeC": "1", "Height": "523", "Width": "45", "Pixel type": shown}.items() <= facts.items()
    assert "Series count = 1\n" in said
    assert re.findall(r"sizeX\[\d\] = (\d+)", said) == [str(level.shape[2]) for level in report.levels]

    # Without -noflat each level counts as a series.
    for index, plane in {"uint8": ((0, 10),), "uint16": ((0, 10), (1, 7)), "int16": ((1, 7),)}[dtype]:
        out = tmp_path / f"level{index}.tif"
        bioformats("ImageConverter", "-series", str(index), "-range", str(plane), str(plane), xml, out)
        with tifffile.TiffFile(out) as tiff:
            voxels = tiff.pages.first.asarray().view(dtype)
        np.testing.assert_array_equal(voxels, padded_means(image, report.levels[index].factors)[plane])


def test_bioformats_finds_a_file_whose_name_has_an_ampersand(
    tmp_path: Path, ingest_series: Ingester, bioformats: Callable[..., str]
) -> None:
    ingest_series(write_series(tmp_path / "in", specimen("uint16")))
    for suffix in (".h5", ".xml"):
        (tmp_path / f"brain{suffix}").rename(tmp_path / f"a&b <c>{suffix}")
    assert main(["xml", str(tmp_path / "a&b <c>.h5")]) == 0
    said = bioformats("ImageInfo", "-nopix", "-nometa", "-noflat", tmp_path / "a&b <c>.xml")
    assert "SizeZ = 21\n" in said
    assert ElementTree.parse(tmp_path / "a&b <c>.xml").findtext(".//hdf5") == "a&b <c>.h5"


# --- the XML --------------------------------------------------------------------------------------------------------------------


def test_xml_is_what_bigdataviewer_parses(tmp_path: Path, ingest_series: Ingester) -> None:
    series = write_series(tmp_path / "in", specimen("uint8"))
    for channel in ("Kanał µ & <β>", "other"):
        ingest_series(series, channel=channel)
    data = (tmp_path / "brain.xml").read_bytes()
    assert data.isascii(), "BigDataViewer reads it in the platform's charset"
    root = ElementTree.fromstring(data)
    assert (root.tag, root.get("version")) == ("SpimData", "0.2")
    loader = root.find("SequenceDescription/ImageLoader")
    assert loader is not None and loader.get("format") == "bdv.hdf5"
    hdf5 = loader.find("hdf5")
    assert hdf5 is not None and (hdf5.get("type"), hdf5.text) == ("relative", "brain.h5")
    setups = root.findall("SequenceDescription/ViewSetups/ViewSetup")
    assert [setup.findtext("name") for setup in setups] == ["Kanał µ & <β>", "other"]
    for attribute in ("illumination", "channel", "tile", "angle"):
        declared = {e.text for e in root.iterfind(f"SequenceDescription/ViewSetups/Attributes[@name='{attribute}']/*/id")}
        assert declared == {setup.findtext(f"attributes/{attribute}") for setup in setups}, "an undeclared one crashes readers"
    registered = [(view.get("timepoint"), view.get("setup")) for view in root.iterfind("ViewRegistrations/ViewRegistration")]
    assert registered == [("0", setup.findtext("id")) for setup in setups] == [("0", "0"), ("0", "1")]
    # AIR: planes run to anterior, rows to inferior, columns to right; the first voxel in R, A and S is at 0 mm.
    right_anterior_superior = [0.004, 0, 0, 0, 0, 0, 0.005, 0, 0, -0.004, 0, 0.004 * 522]
    for affine in root.iterfind("ViewRegistrations/ViewRegistration/ViewTransform[@type='affine']/affine"):
        np.testing.assert_allclose([float(n) for n in (affine.text or "").split(" ")], right_anterior_superior, atol=1e-12)
    strict = ("affine", "size", "id", "first", "last", "hdf5", "BasePath")
    texts = [element.text for tag in strict for element in root.iter(tag)]
    assert all(text and text == text.strip() for text in texts), "white space makes its parser fail"
