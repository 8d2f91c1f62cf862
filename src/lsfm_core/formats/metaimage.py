"""MetaImage in: ``.mha``, and ``.mhd`` with its data beside it. And out: ``.mha``. Its world is ITK's: LPS, in mm."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import SourceError
from lsfm_core.formats._field import FieldWords
from lsfm_core.formats._files import DataFile, companion
from lsfm_core.formats._geometry import check_lengths, space_from_xyz
from lsfm_core.formats._raw import RawLayout, RawSink, RawSource
from lsfm_core.formats._sink import OutputFormat, OutputImage, dtype_set
from lsfm_core.formats._source import Source
from lsfm_core.geometry import LPS_FROM_RAS

__all__ = ["MetaImageOutput", "open_metaimage"]

_LONGEST_HEADER = 2**16
#: The comment of a file whose values are no displacements.
_COMPONENTS = "lsfm components"
_DTYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
# What writers call the same things.
_OTHER_NAMES = {
    "Position": "Offset", "Origin": "Offset", "Rotation": "TransformMatrix", "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}  # fmt: skip
_USED = {
    "ObjectType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData", "CompressedDataSize", "TransformMatrix",
    "Offset", "CenterOfRotation", "ElementSpacing", "ElementSize", "DimSize", "ElementNumberOfChannels", "ElementType",
    "ElementDataFile", "HeaderSize",
}  # fmt: skip


def open_metaimage(path: Path, kind: str) -> Source:
    """Open a MetaImage file.

    Raises
    ------
    SourceError
        If the header is damaged, or tells of something else than one volume, or (kind ``vectors``) of something else than
        three floats per voxel.
    """
    fields, end = _read_header(path)
    sizes = _numbers(path, fields, "DimSize", None, 0)
    channels = int(_numbers(path, fields, "ElementNumberOfChannels", [1], 1)[0])
    element = fields.get("ElementType", "")
    code = _DTYPES.get(element.removesuffix("_ARRAY"))
    are_components = fields.get("Comment") == _COMPONENTS
    is_field = channels == 3 and code is not None and code[0] == "f" and not are_components
    if len(sizes) != 3 or channels < 1 or code is None or (kind == "vectors" and not is_field):
        expected = (
            "a displacement field: expected 3 axes and 3 channels of floats" if kind == "vectors" else "one volume: expected 3 axes"
        )
        raise SourceError(
            f"{path}: is not {expected}, found {len(sizes)} axes and {channels} channel(s) of {element or 'unknown type'}"
        )
    if not _flag(fields, "BinaryData", True):
        raise SourceError(f"{path}: its data are text: save it as binary")
    stored = np.dtype((">" if _flag(fields, "BinaryDataByteOrderMSB", False) else "<") + code)
    spacing = _numbers(path, fields, "ElementSpacing", _numbers(path, fields, "ElementSize", [1, 1, 1], 3), 3)
    # One row per axis of the image: the direction in which it runs.
    direction = np.reshape(_numbers(path, fields, "TransformMatrix", np.eye(3).ravel().tolist(), 9), (3, 3)).T
    # CenterOfRotation is part of the format, but ITK, whose format it is, leaves it out of account.
    origin = _numbers(path, fields, "Offset", [0, 0, 0], 3)
    shape = (int(sizes[2]), int(sizes[1]), int(sizes[0]))
    compressed = _flag(fields, "CompressedData", False)
    return RawSource(
        path,
        RawLayout(
            *_data(path, fields, end, compressed),
            shape=shape,
            stored=stored,
            compressed=compressed,
            components=channels,
            interleaved=True,
        ),
        space=space_from_xyz(path, shape, "LPS", check_lengths(path, direction) * check_lengths(path, spacing), origin),
        voxel_size_mm=None,
        facts={
            "format": "MetaImage",
            "acquisition": {name: text for name, text in fields.items() if name not in _USED and text != _COMPONENTS},
            **({"kind": "components"} if are_components else {}),
        },
        words=FieldWords("vectors of a MetaImage", "lps-displacement") if kind == "vectors" else None,
    )


def _read_header(path: Path) -> tuple[dict[str, str], int]:
    """Fields, and where the header ends: with the line that names the data."""
    file = DataFile(path)
    try:
        head = file.read(0, _LONGEST_HEADER)
    finally:
        file.close()
    last = re.search(rb"^ElementDataFile[ \t]*=[^\n]*(\n|\Z)", head, re.MULTILINE)
    if last is None:
        raise SourceError(f"{path}: is not a MetaImage file, or is cut short: no line ElementDataFile")
    fields = {}
    for line in head[: last.end()].decode("utf-8", "replace").splitlines():
        name, mark, value = line.partition("=")
        if mark:
            fields[_OTHER_NAMES.get(name.strip(), name.strip())] = value.strip()
    return fields, last.end()


def _data(path: Path, fields: Mapping[str, str], end: int, compressed: bool) -> tuple[Path, int]:
    """File and offset of the data."""
    name = fields["ElementDataFile"]
    if name.split(" ")[0] == "LIST" or "%" in name:
        raise SourceError(f"{path}: its data are in several files: save it with its data in one")
    skip = int(_numbers(path, fields, "HeaderSize", [0], 1)[0])
    if skip < -1 or (skip < 0 and compressed):
        raise SourceError(f"{path}: its header says HeaderSize = {skip}: save it again without")
    if name.upper() == "LOCAL":
        return path, end + max(skip, 0)
    return companion(path, name), skip


def _numbers(path: Path, fields: Mapping[str, str], name: str, default: list[float] | None, count: int) -> list[float]:
    """A field's numbers; `count` of them, or any number if it is 0."""
    try:
        values = [float(text) for text in fields[name].split()] if name in fields or default is None else default
    except (KeyError, ValueError) as error:
        raise SourceError(f"{path}: its header says {name} = {fields.get(name, '(nothing)')}: expected numbers") from error
    if (count and len(values) != count) or not np.isfinite(values).all():
        raise SourceError(f"{path}: its header says {name} = {fields.get(name)}: expected {count} numbers")
    return values


def _flag(fields: Mapping[str, str], name: str, default: bool) -> bool:
    text = fields.get(name)
    return default if text is None else text.lower() in ("true", "1", "t", "yes")


class MetaImageOutput(OutputFormat):
    """MetaImage as ITK writes it, not compressed."""

    name = "MetaImage"
    axis = 2
    dtypes = dtype_set("u1 i1 u2 i2 u4 i4 u8 i8 f4 f8")

    @contextmanager
    def open(self, paths: Sequence[Path], image: OutputImage, threads: int) -> Iterator[RawSink]:
        (path,) = paths
        with path.open("wb") as file:
            file.write(_header(image))
            yield RawSink(image, self.axis, [file], "LPS")


def _header(image: OutputImage) -> bytes:
    affine = LPS_FROM_RAS @ image.space.world_from_voxel
    spacing = np.asarray(image.space.voxel_size_mm)
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        **({"Comment": _COMPONENTS} if image.kind != "vectors" and image.components > 1 else {}),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        # One row per axis of the image.
        "TransformMatrix": _text((affine[:3, :3] / spacing).T),
        "Offset": _text(affine[:3, 3]),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": _text(spacing),
        "DimSize": _text(np.asarray(image.space.shape)),
        "ElementNumberOfChannels": str(image.components),
        "ElementType": next(name for name, code in _DTYPES.items() if code == image.stored),
        # The last line: the voxels follow it.
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{name} = {value}\n" for name, value in fields.items()).encode()


def _text(numbers: npt.NDArray[np.float64 | np.int64]) -> str:
    return " ".join(map(repr, numbers.ravel().tolist()))
