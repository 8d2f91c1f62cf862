"""NRRD in: ``.nrrd``, and ``.nhdr`` with its data beside it. And out: ``.nrrd``, compressed with gzip."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import SourceError
from lsfm_core.formats._field import FieldWords
from lsfm_core.formats._files import DataFile, companion, gzip_stream
from lsfm_core.formats._geometry import check_lengths, space_from_xyz, voxel_size_or_none
from lsfm_core.formats._raw import RawLayout, RawSink, RawSource
from lsfm_core.formats._sink import OutputFormat, OutputImage, dtype_set
from lsfm_core.formats._source import Source
from lsfm_core.geometry import LPS_FROM_RAS, Space, Triple, mm_per

__all__ = ["NrrdOutput", "open_nrrd"]

_LONGEST_HEADER = 2**20
_DTYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPE_BY_NAME = {name: dtype for dtype, names in _DTYPES.items() for name in names}
_SIDES = {"right": "R", "left": "L", "anterior": "A", "posterior": "P", "superior": "S", "inferior": "I"}
_VECTOR_KINDS = {"vector", "2-vector", "3-vector", "4-vector", "covariant-vector", "normal", "point"}
_COLOUR_KINDS = {"rgb-color", "rgba-color", "3-color", "4-color"}
#: A key/value pair, which says of vectors that they are no displacements.
_KIND_KEY = "lsfm_kind"
_VECTOR = re.compile(r"none|\(([^)]*)\)")


def open_nrrd(path: Path, kind: str) -> Source:
    """Open a NRRD file.

    Raises
    ------
    SourceError
        If the header is damaged, or tells of something else than one volume, or (kind ``vectors``) of something else than
        three floats per voxel. Axes whose kind is neither colours nor vectors are taken for
        several values per voxel only if kind is ``components``.
    """
    fields, attributes, end = _read_header(path)
    sizes = _numbers(path, fields, "sizes", int)
    kinds = fields.get("kinds", "").split()
    axes = list(range(len(sizes)))
    component_axis = _component_axis(fields, kinds, kind)
    found = f"sizes {fields.get('sizes')} of kinds {fields.get('kinds', 'unknown')}"
    if kind == "vectors" and (
        len(sizes) != 4
        or component_axis not in (0, 3)
        or any(text.lower() in _COLOUR_KINDS for text in kinds)
        or sizes[component_axis] != 3
        or attributes.get(_KIND_KEY) == "components"
    ):
        raise SourceError(f"{path}: is no displacement field: expected 3 components of kind vector and 3 axes, found {found}")
    if len(sizes) == 4 and component_axis in (0, 3):
        axes.remove(component_axis)
    elif len(sizes) != 3:
        advice = ", or say --kind components if these are values of a voxel" if len(sizes) == 4 and kind == "image" else ""
        raise SourceError(f"{path}: is not one volume: expected 3 axes, found {found}: save one as a file of its own{advice}")
    shape = (sizes[axes[2]], sizes[axes[1]], sizes[axes[0]])
    stored = _dtype(path, fields)
    if kind == "vectors" and stored.kind != "f":
        raise SourceError(f"{path}: is no displacement field: its components are {stored}, expected floats")
    frame = _frame(fields)
    space, voxel_size, notes = _geometry(path, fields, frame, axes, shape)
    components = 1 if component_axis is None or len(sizes) == 3 else sizes[component_axis]
    layout = _layout(path, fields, end, shape, stored, components, component_axis)
    told = {name: text for name, text in attributes.items() if name != _KIND_KEY}
    facts = {
        "format": "NRRD",
        "notes": notes,
        "acquisition": {**({"content": fields["content"]} if "content" in fields else {}), **told},
    }
    is_colour = components > 1 and any(text.lower() in _COLOUR_KINDS for text in kinds)
    if attributes.get(_KIND_KEY) == "components" or is_colour:
        facts["kind"] = "components"
    words = _words(path, fields, attributes, frame) if kind == "vectors" else None
    return RawSource(path, layout, space=space, voxel_size_mm=voxel_size, facts=facts, words=words)


def _component_axis(fields: Mapping[str, str], kinds: Sequence[str], kind: str) -> int | None:
    """The axis along which the values of one voxel stand, where there is one beyond doubt, or one was asked for."""
    told = [axis for axis, text in enumerate(kinds) if text.lower() in _VECTOR_KINDS | _COLOUR_KINDS]
    # ITK calls the values of a VectorImage a list; others leave their kind open.
    if not told and kind in ("components", "vectors"):
        told = [axis for axis, text in enumerate(kinds) if text.lower() not in ("domain", "space")]
        if not kinds:
            words = [match.group() for match in _VECTOR.finditer(fields.get("space directions", ""))]
            told = [axis for axis, word in enumerate(words) if word == "none"]
    return told[0] if len(told) == 1 else None


def _read_header(path: Path) -> tuple[dict[str, str], dict[str, str], int]:
    """Fields, the user's key/value pairs, and where the header ends."""
    file = DataFile(path)
    try:
        head = file.read(0, _LONGEST_HEADER)
    finally:
        file.close()
    if not head.startswith(b"NRRD000"):
        raise SourceError(f"{path}: is not a NRRD file, or is empty")
    blank = re.search(rb"\n\r?\n", head)
    if blank is None and len(head) == _LONGEST_HEADER:
        raise SourceError(f"{path}: its NRRD header has no end")
    end = blank.end() if blank else len(head)
    fields, attributes = {}, {}
    for line in head[:end].decode("utf-8", "replace").splitlines()[1:]:
        # Whichever comes first: a field is "name: value", a key/value pair "key:=value".
        match = re.match(r"([^#:][^:]*):(=| )(.*)", line)
        if match:
            name, mark, value = match.groups()
            if mark == "=":
                attributes[name] = value
            else:
                fields[name.strip().lower().replace("centerings", "centers")] = value.strip()
    return fields, attributes, end


def _numbers(path: Path, fields: Mapping[str, str], name: str, kind: type[int]) -> list[int]:
    try:
        return [kind(text) for text in fields[name].split()]
    except (KeyError, ValueError) as error:
        raise SourceError(
            f"{path}: its NRRD header says {name}: {fields.get(name, '(nothing)')}: expected whole numbers"
        ) from error


def _dtype(path: Path, fields: Mapping[str, str]) -> np.dtype[Any]:
    name, endian = fields.get("type", "").lower(), fields.get("endian", "").lower()
    code = _DTYPE_BY_NAME.get(name)
    if code is None:
        raise SourceError(f"{path}: has voxels of type {name!r}: only integers and floats of up to 64 bits can be used")
    if code[1] == "1":
        return np.dtype(code)
    if endian not in ("little", "big"):
        raise SourceError(f"{path}: its NRRD header does not tell the order of bytes (endian: little or big)")
    return np.dtype(code).newbyteorder("<" if endian == "little" else ">")


def _frame(fields: Mapping[str, str]) -> str | None:
    """Three letters, where the header names a body's axes."""
    space = fields.get("space", "")
    letters = "".join(_SIDES.get(word, "") for word in space.lower().split("-")) or space.upper()
    return letters if len(letters) == 3 and len({*letters} & {*"RLAPSI"}) == 3 else None


def _words(path: Path, fields: Mapping[str, str], attributes: Mapping[str, str], frame: str | None) -> FieldWords:
    """What the header says of a field's vectors."""
    found = f"vectors in the space {fields.get('space', 'unknown')!r}"
    direction = attributes.get("displacement field type", "")
    measured = fields.get("measurement frame")
    if direction.lower() not in ("", "resampling"):
        return FieldWords(
            f"{found} of 3D Slicer (displacement field type {direction})",
            None,
            unusable="it maps the other way, from the moving image to the fixed one: invert it in Slicer, and save that",
        )
    if measured is not None and _vectors(path, "measurement frame", measured) != np.eye(3).tolist():
        return FieldWords(found, None, unusable=f"they have a measurement frame of their own ({measured}): save them without")
    if frame == "LPS":
        return FieldWords(found, "lps-displacement")
    if frame == "RAS" and measured is not None:
        return FieldWords(f"{found} with a measurement frame", "ras-displacement")
    return FieldWords(f"{found}, in which programs disagree about their components", None)


def _vectors(path: Path, name: str, text: str) -> list[list[float]]:
    """``(1,0,0) none (0,1,0)`` as lists; ``none`` is an empty one."""
    try:
        found = [[] if m.group() == "none" else [float(v) for v in m.group(1).split(",")] for m in _VECTOR.finditer(text)]
    except ValueError as error:
        raise SourceError(f"{path}: its NRRD header says {name}: {text}: expected vectors like (1,0,0)") from error
    return found


def _geometry(
    path: Path, fields: Mapping[str, str], frame: str | None, axes: Sequence[int], shape: tuple[int, int, int]
) -> tuple[Space | None, Triple | None, list[str]]:
    notes = []
    units = re.findall(r'"([^"]*)"', fields.get("space units", "")) or re.findall(r'"([^"]*)"', fields.get("units", ""))
    known = {mm for mm in map(mm_per, units) if mm is not None}
    if not known:
        notes.append("the file names no unit of length: millimetres assumed")
    if len(known) > 1:
        raise SourceError(f"{path}: its axes have different units ({', '.join(units)}): save it in millimetres")
    mm = known.pop() if known else 1.0
    if "space directions" in fields:
        vectors = _vectors(path, "space directions", fields["space directions"])
        columns = [vectors[axis] if axis < len(vectors) else [] for axis in axes]
        if any(len(column) != 3 for column in columns):
            raise SourceError(
                f"{path}: its NRRD header says space directions: {fields['space directions']}: expected 3 numbers for each axis"
            )
        matrix = check_lengths(path, columns).T * mm
        if frame is None:
            notes.append(
                f"the space {fields.get('space', '(unnamed)')!r} does not say how the body lies in it: only the voxel size is taken"
            )
            return None, voxel_size_or_none(np.linalg.norm(matrix, axis=0)[::-1].tolist()), notes
        if "space origin" not in fields:
            notes.append("the file names no origin: 0, 0, 0 assumed")
        origin = (_vectors(path, "space origin", fields.get("space origin", "(0,0,0)")) or [[]])[0]
        if len(origin) != 3:
            raise SourceError(
                f"{path}: its NRRD header says space origin: {fields['space origin']}: expected three numbers like (0,0,0)"
            )
        return space_from_xyz(path, shape, frame, matrix, check_lengths(path, origin) * mm), None, notes
    try:
        spacings = [float(text) for text in fields.get("spacings", "").split()]
        return None, voxel_size_or_none([abs(spacings[axis]) * mm for axis in reversed(axes)]), notes
    except (ValueError, IndexError):
        return None, None, notes


def _layout(
    path: Path,
    fields: Mapping[str, str],
    end: int,
    shape: tuple[int, int, int],
    stored: np.dtype[Any],
    components: int,
    component_axis: int | None,
) -> RawLayout:
    encoding = fields.get("encoding", "raw").lower()
    if encoding not in ("raw", "gz", "gzip"):
        raise SourceError(f"{path}: its data are encoded as {encoding!r}: save it as raw or gzip")
    compressed = encoding != "raw"
    name = fields.get("data file", fields.get("datafile"))
    if name is not None and (name.startswith("LIST") or "%" in name):
        raise SourceError(f"{path}: its data are in several files: save it with its data in one")
    (skip,) = _numbers(path, {"byte skip": fields.get("byte skip", fields.get("byteskip", "0")).split(" ")[0]}, "byte skip", int)
    lines = fields.get("line skip", fields.get("lineskip", "0"))
    if lines != "0" or skip < -1 or (skip < 0 and compressed):
        raise SourceError(f"{path}: its header tells to skip lines or bytes in a way that is not supported: save it again without")
    return RawLayout(
        path=path if name is None else companion(path, name),
        offset=-1 if skip < 0 else (end if name is None else 0) + (0 if compressed else skip),
        shape=shape,
        stored=stored,
        compressed=compressed,
        skip=skip if compressed else 0,
        components=components,
        interleaved=component_axis == 0,
    )


class NrrdOutput(OutputFormat):
    """NRRD in ITK's world, with its voxels compressed."""

    name = "NRRD"
    axis = 2
    dtypes = dtype_set("u1 i1 u2 i2 u4 i4 u8 i8 f4 f8")

    @contextmanager
    def open(self, paths: Sequence[Path], image: OutputImage, threads: int) -> Iterator[RawSink]:
        (path,) = paths
        with path.open("wb") as file:
            file.write(_header(image))
            with gzip_stream(file, threads) as stream:
                yield RawSink(image, self.axis, [stream], "LPS")


def _header(image: OutputImage) -> bytes:
    affine = LPS_FROM_RAS @ image.space.world_from_voxel
    components = [image.components] if image.components > 1 else []
    kind = {3: "RGB-color", 4: "RGBA-color"}[image.components] if image.is_colour else "vector"
    fields = {
        "type": {"f4": "float", "f8": "double"}.get(image.dtype.str[1:], image.dtype.name),
        "dimension": 3 + len(components),
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, [*components, *image.space.shape])),
        "space directions": " ".join(["none"] * len(components) + [_vector(column) for column in affine[:3, :3].T]),
        "kinds": " ".join([kind] * len(components) + ["domain"] * 3),
        "endian": "little",
        "encoding": "gzip",
        "space units": '"mm" "mm" "mm"',
        "space origin": _vector(affine[:3, 3]),
    }
    if image.name:
        fields["content"] = " ".join(image.name.split())
    lines = [f"{name}: {value}\n" for name, value in fields.items()]
    if components and image.kind != "vectors":
        lines.append(f"{_KIND_KEY}:=components\n")
    return ("NRRD0005\n" + "".join(lines) + "\n").encode()


def _vector(values: npt.NDArray[np.float64]) -> str:
    return f"({','.join(map(repr, values.tolist()))})"
