"""Atlases as BrainGlobe keeps them: a folder with a reference, an annotation, structures, and how it lies."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from lsfm_core._request import Request
from lsfm_core.errors import InputError, MissingError, OrientationError, SourceError
from lsfm_core.geometry import Orientation, Triple, check_voxel_size
from lsfm_core.ingest import IngestReport, IngestRequest, ingest_channel
from lsfm_core.progress import CancelToken, ProgressCallback
from lsfm_core.provenance import logged_files, recorded
from lsfm_core.pyramid import Kind
from lsfm_core.regions import LabelTable
from lsfm_core.store import edit_lsfm, target_path

__all__ = ["AddAtlasRequest", "AtlasReport", "add_atlas", "describe_atlas"]

_CACHE = ".brainglobe"


class AddAtlasRequest(Request):
    """An atlas of BrainGlobe to put into a file, with a space of its own.

    Attributes
    ----------
    path : Path
        The HDF5 file, made if it is not there.
    atlas : str
        A folder with ``metadata.json``, ``reference.tiff``, ``annotation.tiff`` and ``structures.json`` or ``.csv``; or the name of
        an atlas that BrainGlobe has downloaded, such as ``allen_mouse_25um``.
    space : str, optional
        The name of its space, with which those of its channels begin. Default: that of the atlas.
    replace : bool
        Whether channels of the same names give way.
    memory_bytes : int
        Bound of the process' resident size.
    threads : int, optional
    """

    path: Path
    atlas: str
    space: str | None = None
    replace: bool = False
    memory_bytes: int = Field(default=2 * 10**9, gt=0)
    threads: int | None = Field(default=None, gt=0)


@dataclass(frozen=True)
class AtlasReport:
    """What was put into a file.

    Attributes
    ----------
    path : Path
    space : str
    channels : tuple of IngestReport
    """

    path: Path
    space: str
    channels: tuple[IngestReport, ...]

    def describe(self) -> str:
        """In words."""
        names = ", ".join(f"{report.channel} ({report.kind})" for report in self.channels)
        return f"{self.path}: space {self.space!r} with {names}"


@dataclass(frozen=True)
class _Atlas:
    """What a folder holds."""

    name: str
    voxel_size_mm: Triple
    orientation: str
    reference: Path
    annotation: Path
    structures: Path


def describe_atlas(request: AddAtlasRequest) -> str:
    """What `add_atlas` would do, in words."""
    found = _read(request.atlas)
    count = len(LabelTable.read(found.structures))
    voxel = " x ".join(f"{v:g}" for v in found.voxel_size_mm)
    space = request.space or found.name
    return (
        f"reads   {found.reference.parent}: voxels of {voxel} mm, {Orientation(found.orientation).describe()}\n"
        f"makes   space {space!r} with channels {space}_reference (image) and {space}_annotation (labels, {count} structures)"
    )


def add_atlas(
    request: AddAtlasRequest, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> AtlasReport:
    """Put an atlas into a file: its reference, and its annotation with the structures' table, in a space of its own.

    Raises
    ------
    LsfmError
        In every case the file is as it was before.
    """
    found = _read(request.atlas)
    space = request.space or found.name
    reports = []
    path = target_path(request.path)
    with recorded(path, "add-atlas", request) as record, edit_lsfm(request.path) as editor:
        parts: tuple[tuple[str, Kind, Path, Path | None], ...] = (
            ("reference", "image", found.reference, None),
            ("annotation", "labels", found.annotation, found.structures),
        )
        for part, kind, image, table in parts:
            wanted = IngestRequest(
                path=request.path,
                channel=f"{space}_{part}",
                image=image,
                kind=kind,
                labels=table,
                voxel_size_mm=found.voxel_size_mm,
                orientation=found.orientation,
                space=space,
                replace=request.replace,
                memory_bytes=request.memory_bytes,
                threads=request.threads,
            )
            reports.append(ingest_channel(wanted, editor=editor, progress=progress, cancel=cancel))
        record.inputs += [logged_files(file, [file]) for file in (found.reference, found.annotation, found.structures)]
    return AtlasReport(path, space, tuple(reports))


def _read(atlas: str) -> _Atlas:
    folder = Path(atlas)
    if not folder.is_dir():
        cached = sorted(Path.home().glob(f"{_CACHE}/{atlas}_v*")) if re.fullmatch(r"[\w.-]+", atlas) else []
        if not cached:
            raise MissingError(
                f"{atlas}: no such folder, and BrainGlobe has no atlas of that name in {Path.home() / _CACHE}: download it there "
                "(brainglobe install -a NAME), or name a folder with metadata.json, reference.tiff, annotation.tiff and "
                "structures.json"
            )
        folder = cached[-1]
    told = _metadata(folder / "metadata.json")
    try:
        size = [float(v) / 1000 for v in told["resolution"]]
        voxel = check_voxel_size((size[0], size[1], size[2]))
        axcodes = Orientation.from_origin(str(told.get("orientation", "asr"))).axcodes
    except (KeyError, TypeError, ValueError, IndexError, OrientationError) as error:
        raise SourceError(
            f"{folder / 'metadata.json'}: expected resolution (three numbers, um) and orientation (as asr), found "
            f"{told.get('resolution')!r} and {told.get('orientation')!r}"
        ) from error
    name = str(told.get("name") or folder.name)
    end = f"_{size[0] * 1000:g}um"
    files = [_one(folder, *names) for names in (("reference.tiff",), ("annotation.tiff",), ("structures.json", "structures.csv"))]
    return _Atlas(name if name.endswith("um") else name + end, voxel, axcodes, *files)


def _metadata(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingError(
            f"{path}: is not there: it tells the atlas' resolution (um) and orientation: write one beside the images"
        )
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(told, dict):
        raise SourceError(f"{path}: expected a JSON object")
    return told


def _one(folder: Path, *names: str) -> Path:
    for name in names:
        for candidate in (folder / name, folder / name.replace(".tiff", ".tif")):
            if candidate.is_file():
                return candidate
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder")
    raise MissingError(f"{folder}: there is no {' or '.join(names)}")
