"""NIfTI in, plane by plane, and out, in slabs: both along the last axis, the file's slowest."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1PairHeader
from nibabel.nifti2 import Nifti2PairHeader

from lsfm_core.errors import SourceError
from lsfm_core.formats._field import FieldWords
from lsfm_core.formats._files import DataFile, check_members, gzip_stream, read_head
from lsfm_core.formats._geometry import check_lengths, space_from_xyz, voxel_size_or_none
from lsfm_core.formats._raw import RawLayout, RawSink, RawSource
from lsfm_core.formats._sink import OutputFormat, OutputImage, dtype_set
from lsfm_core.formats._source import Source

__all__ = ["NiftiOutput", "open_nifti"]

_SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT: the world is the specimen's own
_HEADERS: dict[bytes, tuple[Any, int]] = {b"n+1\0": (nibabel.Nifti1Header, 344), b"n+2\0": (nibabel.Nifti2Header, 4)}
_DISPLACEMENT, _VECTORS = 1006, 1007
# NiftyReg's intent_p1; positions and displacements are R, A, S.
_NIFTYREG = {
    2: "is a grid of control points of cubic B-splines",
    3: "is a velocity field (positions)",
    4: "is a velocity field (displacements)",
    5: "is a grid of control points of a velocity field",
    6: "is a grid of control points of linear splines",
}
# FSL's own intents.
_FSL = {
    2006: "a field of FNIRT",
    2007: "a grid of coefficients of cubic B-splines of FNIRT",
    2008: "coefficients of a discrete cosine transform of FNIRT",
    2009: "a grid of coefficients of quadratic B-splines of FNIRT",
    2016: "a grid of coefficients of cubic B-splines of TOPUP",
    2017: "a grid of coefficients of quadratic B-splines of TOPUP",
    2018: "a field map of TOPUP",
}
#: What says of values with intent 1007 that they are no displacements, in the header's intent_name.
_COMPONENTS = "components"
_COLOURS = (("R", "G", "B"), ("R", "G", "B", "A"))
_ANALYZE, _MM = "Analyze 7.5", 2
_MM_PER_UNIT = {1: 1e3, 2: 1.0, 3: 1e-3}


def open_nifti(path: Path, kind: str) -> Source:
    """Open a .nii or .nii.gz file of NIfTI-1 or -2, or a pair of .hdr and .img files of NIfTI or Analyze 7.5, by either of them.

    Raises
    ------
    SourceError
        If the header is damaged, or tells of something else than one volume, or (kind ``vectors``) of something else than
        three floats per voxel. Several values per voxel are colours (RGB24, RGBA32) or the fifth axis; the
        fourth, which is time, only if kind is ``components``.
    """
    head_path, data_path = _pair(path)
    head, compressed = _head(head_path)
    if data_path != head_path:
        compressed = _head(data_path)[1]
    name, header = _parse(head_path, head, is_pair=data_path != head_path)
    is_analyze = name == _ANALYZE
    try:
        # int() and the like fail on what damaged headers hold.
        shape = tuple(int(n) for n in header.get_data_shape())
        stored = header.get_data_dtype()
        offset = int(header["vox_offset"]) or (0 if data_path != head_path else header.single_vox_offset)
        slope, intercept = (None, None) if is_analyze else header.get_slope_inter()
        intent = 0 if is_analyze else int(header["intent_code"])
        pixdim = [float(v) for v in header["pixdim"][1:4]]
        unit = _MM if is_analyze else int(header["xyzt_units"]) % 8
        sform, qform = (None, None) if is_analyze else (header.get_sform(coded=True)[0], header.get_qform(coded=True)[0])
    except Exception as error:
        raise SourceError(f"{path}: its NIfTI header is damaged: {error}") from error
    if data_path == head_path and offset < len(header.binaryblock):
        raise SourceError(f"{path}: its NIfTI header is damaged: the voxels would start at byte {offset}, inside the header")
    components = _check_shape(path, shape, intent, stored, kind)
    texts = _acquisition(header)
    packed = stored.fields is not None and components > 1
    if packed:
        stored = np.dtype(np.uint8)
    are_components = packed or texts.get("intent_name") == _COMPONENTS
    if are_components and kind == "vectors":
        raise SourceError(f"{path}: is no displacement field: its values are said to be other components: say --kind components")
    scaling = None if slope is None or (slope, intercept) == (1, 0) else (float(slope), float(intercept or 0))
    notes = []
    if is_analyze:
        notes.append("Analyze 7.5 files do not tell left from right, nor how they lie: look at what you give as orientation")
    if scaling is not None:
        # Ids of up to 32 bits are exact in float64, and must be whole numbers there: see `converted`.
        if kind not in ("image", "components") and not (kind == "labels" and stored.kind in "ui" and stored.itemsize <= 4):
            raise SourceError(
                f"{path}: its values are scaled ({scaling[0]:g} * stored + {scaling[1]:g}), which makes no sense for {kind}: "
                "save it without"
            )
        notes.append(f"stored values were scaled: {scaling[0]:.9g} * stored + {scaling[1]:.9g}")
    if unit not in _MM_PER_UNIT:
        notes.append("the file names no unit of length: millimetres assumed")
    mm = _MM_PER_UNIT.get(unit, 1.0)
    affine = sform if sform is not None else qform
    if sform is not None and qform is not None and not np.allclose(sform, qform, atol=1e-3 * max(pixdim)):
        notes.append("sform and qform put the image at different places: the sform was taken; other programs may take the other")
    planes = (shape[2], shape[1], shape[0])
    return RawSource(
        head_path,
        RawLayout(
            data_path, 0 if compressed else offset, planes, stored, compressed, offset if compressed else 0, components, packed
        ),
        space=None
        if affine is None
        else space_from_xyz(path, planes, "RAS", check_lengths(path, affine[:3, :3]) * mm, check_lengths(path, affine[:3, 3]) * mm),
        voxel_size_mm=voxel_size_or_none([abs(v) * mm for v in reversed(pixdim)]),
        facts={
            "format": name,
            "notes": notes,
            "acquisition": texts,
            **({"kind": "components"} if are_components else {}),
        },
        scaling=scaling,
        exact=kind == "labels",
        words=_words(header, _found(shape, stored, intent), len(shape), texts, mm) if kind == "vectors" else None,
    )


def _pair(path: Path) -> tuple[Path, Path]:
    """Where the header is and where the voxels are: one file, or two that differ in their ending."""
    for header, data in ((".hdr", ".img"), (".HDR", ".IMG")):
        for zipped in ("", ".gz"):
            stem = next((path.name.removesuffix(end + zipped) for end in (header, data) if path.name.endswith(end + zipped)), None)
            if stem is not None:
                return _member(path, stem + header), _member(path, stem + data)
    return path, path


def _member(path: Path, name: str) -> Path:
    """A file of a pair, compressed or not."""
    for candidate in (path.with_name(name), path.with_name(f"{name}.gz")):
        if candidate.is_file():
            check_members([candidate], path)
            return candidate
    raise SourceError(f"{path}: is one of a pair of files, .hdr and .img: {name} is not there: put it into {path.parent}")


def _head(path: Path) -> tuple[bytes, bool]:
    """The first bytes of a file, decompressed, and whether it is compressed."""
    file = DataFile(path)
    try:
        return read_head(file, 540), file.read(0, 2) == b"\x1f\x8b"
    finally:
        file.close()


def _parse(path: Path, head: bytes, is_pair: bool) -> tuple[str, Any]:
    if is_pair:
        return _parse_pair(path, head)
    for number, (magic, (kind, place)) in enumerate(_HEADERS.items(), start=1):
        if head[place : place + 4] == magic and len(head) >= kind.sizeof_hdr:
            try:
                return f"NIfTI-{number}", kind(head[: kind.sizeof_hdr], check=False)
            except Exception as error:  # whatever nibabel meets in a damaged header
                raise SourceError(f"{path}: its NIfTI header is damaged: {error}") from error
    if head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0":
        raise SourceError(f"{path}: is the header of a NIfTI pair: name it .hdr, beside its .img file")
    raise SourceError(f"{path}: is not a NIfTI file, or is cut short")


def _parse_pair(path: Path, head: bytes) -> tuple[str, Any]:
    kinds: tuple[tuple[str, bool, Any], ...] = (
        ("NIfTI-1 pair", head[344:348] == b"ni1\0", Nifti1PairHeader),
        ("NIfTI-2 pair", head[4:8] == b"ni2\0", Nifti2PairHeader),
        (_ANALYZE, int.from_bytes(head[:4], "little") == 348 or int.from_bytes(head[:4], "big") == 348, nibabel.AnalyzeHeader),
    )
    for name, is_it, kind in kinds:
        if is_it and len(head) >= kind.sizeof_hdr:
            try:
                return name, kind(head[: kind.sizeof_hdr], check=False)
            except Exception as error:  # whatever nibabel meets in a damaged header
                raise SourceError(f"{path}: its header is damaged: {error}") from error
    raise SourceError(f"{path}: is not the header of a NIfTI or Analyze image, or is cut short")


def _check_shape(path: Path, shape: tuple[int, ...], intent: int, stored: np.dtype[Any], kind: str) -> int:
    """Number of components, if the header tells of what was asked for."""
    found = _found(shape, stored, intent)
    if kind == "vectors":
        if intent not in _FSL and (shape[3:] not in ((1, 3), (3,)) or stored.kind != "f"):
            raise SourceError(
                f"{path}: is no displacement field: expected x, y, z, 1, 3 floats with intent 1007 (LPS, as ITK and ANTs write) or "
                f"1006 (RAS), found {found}"
            )
        return 3
    if len(shape) >= 3 and all(n == 1 for n in shape[3:]):
        return len(stored.names) if stored.names in _COLOURS else 1
    several = [axis for axis, n in enumerate(shape) if axis > 2 and n != 1]
    if len(shape) < 3 or len(several) > 1 or several[0] > 4 or stored.fields is not None:
        raise SourceError(f"{path}: is not one volume: found {found}: save one 3-D volume as a file of its own")
    if several == [3] and kind != "components":
        raise SourceError(
            f"{path}: is not one volume: found {found}, whose fourth axis is time: save one 3-D volume as a file of its own, or "
            "say --kind components if these are values of one voxel"
        )
    return shape[several[0]]


def _found(shape: tuple[int, ...], stored: np.dtype[Any], intent: int) -> str:
    return f"{' x '.join(map(str, shape))} (x, y, z, …) {stored} with intent {intent}"


def _words(header: Any, found: str, dimensions: int, texts: dict[str, str], mm: float) -> FieldWords:
    """What the header says of a field's vectors; `mm` is the file's unit of length."""
    intent, name, description = int(header["intent_code"]), texts.get("intent_name", ""), texts.get("descrip", "")
    if intent in _FSL:
        return FieldWords(
            found,
            None,
            unusable=f"is {_FSL[intent]} (FSL), which means something only beside the images that were registered: convert it to a "
            "displacement field in mm (wb_command -convert-warpfield -from-fnirt … -to-itk)",
        )
    if name == "NREG_TRANS":
        kind = int(header["intent_p1"])
        found = f"{found} of NiftyReg (NREG_TRANS {kind})"
        if kind in (0, 1):
            return FieldWords(found, "ras-position" if kind == 0 else "ras-displacement", certain=True, mm=mm)
        what = _NIFTYREG.get(kind, "is of a kind that is not known")
        return FieldWords(found, None, unusable=f"it {what}: make a displacement field of it (reg_transform -disp)", mm=mm)
    if re.search("flow|velocit|momentum", f"{name} {description}", re.IGNORECASE):
        return FieldWords(found, None, unusable=f"it says {name or description!r}: is a velocity field: make displacements of it")
    if name == "Mapping":
        return FieldWords(f"{found} of SPM (Mapping)", "ras-position", certain=True, mm=mm)
    if re.match("(forward |inverse )?deformation", description, re.IGNORECASE) and dimensions == 5:
        return FieldWords(f"{found} of SPM ({description})", "ras-position", mm=mm)
    if dimensions == 5 and intent == _DISPLACEMENT:
        return FieldWords(found, "ras-displacement")
    if dimensions == 5 and intent == _VECTORS:
        return FieldWords(found, "lps-displacement")
    return FieldWords(found, None)


def _acquisition(header: Any) -> dict[str, str]:
    names = [name for name in ("descrip", "intent_name", "aux_file") if name in header.keys()]  # noqa: SIM118 (no mapping)
    texts = {name: bytes(header[name].item()).rstrip(b"\0 ").decode("latin-1") for name in names}
    return {name: text for name, text in texts.items() if text}


def _parts(image: OutputImage) -> int:
    """How many blocks of numbers follow each other: NIfTI has the components of bytes beside each other, all others not."""
    return 1 if _packed(image) is not None else image.components


def _packed(image: OutputImage) -> np.dtype[Any] | None:
    """NIfTI's type for colours, which exists for bytes only."""
    if not image.is_colour or image.dtype.itemsize > 1:
        return None
    return np.dtype([(letter, np.uint8) for letter in "RGBA"[: image.components]])


class NiftiOutput(OutputFormat):
    """NIfTI-1, or -2 for sides that the former cannot count; with sform and qform in mm."""

    name = "NIfTI"
    axis = 2
    dtypes = dtype_set("u1 i1 u2 i2 u4 i4 u8 i8 f4 f8")

    @contextmanager
    def open(self, paths: Sequence[Path], image: OutputImage, threads: int) -> Iterator[RawSink]:
        (path,) = paths
        header, parts = _header(image), _parts(image)
        compressed = path.name.lower().endswith(".gz")
        opened = _gzip_streams(path, parts, threads) if compressed else _streams(path, parts, len(header), image.nbytes // parts)
        with opened as streams:
            streams[0].write(header)
            yield RawSink(image, self.axis, streams, "LPS")

    def disk_bytes(self, path: Path, image: OutputImage) -> int:
        # Compressed components are joined in the end: one of them is then there twice.
        parts = _parts(image) if path.name.lower().endswith(".gz") else 1
        return image.nbytes + (image.nbytes // parts if parts > 1 else 0)


@contextmanager
def _streams(path: Path, parts: int, start: int, size: int) -> Iterator[list[IO[bytes]]]:
    """One file that is written at several places at once: at its beginning, and where the other parts begin."""
    path.touch()
    with ExitStack() as stack:
        streams: list[IO[bytes]] = [stack.enter_context(path.open("r+b")) for _ in range(parts)]
        for part, stream in enumerate(streams[1:], start=1):
            stream.seek(start + part * size)
        yield streams


@contextmanager
def _gzip_streams(path: Path, parts: int, threads: int) -> Iterator[list[IO[bytes]]]:
    """A file for each part, which become one in the end: gzip streams that follow each other are read as one."""
    files = [path, *[path.with_name(f"{path.name}-{part}") for part in range(1, parts)]]
    try:
        with ExitStack() as stack:
            share = max(1, threads // parts)
            yield [stack.enter_context(gzip_stream(file, share)) for file in files]
        with path.open("ab") as whole:
            for file in files[1:]:
                with file.open("rb") as rest:
                    shutil.copyfileobj(rest, whole, 2**20)
                file.unlink()
    finally:
        for file in files[1:]:
            file.unlink(missing_ok=True)


def _header(image: OutputImage) -> bytes:
    space = image.space
    kind: Any = nibabel.Nifti1Header if max(space.shape) < 2**15 else nibabel.Nifti2Header
    header = kind()
    packed = _packed(image)
    header.set_data_dtype(image.dtype if packed is None else packed)
    if _parts(image) > 1:
        header.set_data_shape((*space.shape, 1, image.components))
        header.set_intent("vector", name="" if image.kind == "vectors" else _COMPONENTS)
    else:
        header.set_data_shape(space.shape)
    header.set_sform(space.world_from_voxel, code=_SCANNER)
    header.set_qform(space.world_from_voxel, code=_SCANNER)
    header.set_xyzt_units("mm")
    header["descrip"] = image.name.encode("latin-1", "replace")[:79]
    # Single-file NIfTI: four bytes that say "no extensions" stand before the data.
    header["vox_offset"] = header.sizeof_hdr + 4
    return cast(bytes, header.binaryblock) + b"\0\0\0\0"
