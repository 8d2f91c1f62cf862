"""Transforms taken out, for other programs: the chain in its parts, or as one displacement field."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lsfm_core.durable import check_new, new_files
from lsfm_core.errors import InputError, MemoryBudgetError
from lsfm_core.export._names import open_chain, reference_space, with_way
from lsfm_core.export._opened import inputs_of, opened
from lsfm_core.export._spaces import check_spaces
from lsfm_core.export._transform_files import place_landmarks, write_landmarks, write_scene
from lsfm_core.export.plan import BASE_BYTES
from lsfm_core.export.request import TransformRequest
from lsfm_core.formats import OutputImage, open_sink
from lsfm_core.geometry import Reorientation, Space, voxel_count
from lsfm_core.progress import CancelToken, Progress, ProgressCallback, size_text
from lsfm_core.provenance import LoggedFile, logged_files, recorded
from lsfm_core.spaces import resolve_space
from lsfm_core.store import LsfmFile
from lsfm_core.threads import default_threads
from lsfm_core.transforms import Affine, DisplacementField, Transform

__all__ = ["TransformExportRequest", "TransformExportResult", "describe_transform", "export_transform"]

_OPERATION = "export-transform"
_ANTS = "antsApplyTransforms -d 3"
_FIELDS = (".nii", ".nii.gz", ".nrrd", ".mha")
_TEXTS = (".tfm", ".txt", ".mat")
_HDF5 = ".h5"
#: Points that are carried through the chain at once.
_POINTS = 2**17
_MM = {"um": 0.001, "mm": 1.0}
#: Of a field in ITK's own form: as it is held, and as it is written.
_ITK_BYTES = 24 * 3

TransformFormat = Literal["itk", "ants", "slicer", "field", "bigwarp", "rfc5"]


class TransformExportRequest(TransformRequest):
    """Transforms between a channel and another space, to take out.

    As in ITK's files, what is written maps a point of the outer space to the channel's: as it is, it carries the image outward.

    Attributes
    ----------
    format : {"itk", "ants", "slicer", "field", "bigwarp", "rfc5"}
        ``itk``: one file, an affine (.tfm, .txt, .mat, .h5) or a composite of all (.h5). ``ants``: a file for each transform, under
        a prefix, with the inverses of fields that have them, and a text with the command lines. ``field``: all as one displacement
        field (.nii, .nii.gz, .nrrd, .mha). ``slicer``: what 3D Slicer reads, by the name's ending one of the first or the last.
        ``bigwarp``: landmarks (.csv), through which BigWarp's thin-plate spline comes near to the chain. ``rfc5``: a scene of
        OME-Zarr as RFC-5 proposes it (.zarr), which is experimental.
    output : Path
        The file, or the prefix.
    reference : str, optional
        For a field, and for landmarks: a channel or an image on whose grid they lie. Default: that of the outermost displacement
        field.
    landmark_unit : {"um", "mm"}
        Of BigWarp's landmarks.
    overwrite : bool
        Whether the output may be replaced.
    """

    format: TransformFormat = "itk"
    output: Path
    reference: str | None = None
    landmark_unit: Literal["um", "mm"] = "mm"
    overwrite: bool = False


@dataclass(frozen=True)
class TransformExportResult:
    """What was taken out.

    Attributes
    ----------
    paths : tuple of Path
    text : str
        What it is, in words.
    warnings : tuple of str
    seconds : float
    written : LoggedFile
        Size and checksum, as the log has them.
    """

    paths: tuple[Path, ...]
    text: str
    warnings: tuple[str, ...]
    seconds: float
    written: LoggedFile


def describe_transform(file: LsfmFile, request: TransformExportRequest) -> str:
    """What `export_transform` would do, in words, one fact per line.

    Raises
    ------
    LsfmError
        As `export_transform`, as far as it can be known beforehand.
    """
    ends = _ends(file, request)
    request = with_way(file, request)
    warnings = check_spaces(file, request)
    job = _Job(file, request, ends)
    lines = [f"through {line}" for line in job.chain.describe().splitlines()]
    return "\n".join([*lines, f"makes   {job.words()}", *(f"warning {warning}" for warning in warnings)])


def export_transform(
    request: TransformExportRequest,
    *,
    file: LsfmFile | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> TransformExportResult:
    """Write transforms as other programs read them.

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        record = stack.enter_context(recorded(request.path, _OPERATION, request))
        file = opened(request, file, stack)
        record.open(file.path, file.named_xml)
        ends = _ends(file, request)
        request = with_way(file, request)
        warnings = check_spaces(file, request)
        record.inputs = inputs_of(file, request, request.reference)
        job = _Job(file, request, ends)
        with new_files(job.paths, request.overwrite) as partials:
            job.write(partials, progress, cancel)
        record.output = written = logged_files(request.output, job.paths)
    return TransformExportResult(tuple(job.paths), job.words(), warnings, time.perf_counter() - began, written)


def _ends(file: LsfmFile, request: TransformExportRequest) -> tuple[str, str]:
    """Names of the inner and of the outer space."""
    outer = resolve_space(file, request.to_space) if request.to_space is not None else None
    inner = file[request.channel].space_name or request.channel
    return inner, outer or "output"


class _Job:
    """A request that fits its file: what will be written, and how."""

    def __init__(self, file: LsfmFile, request: TransformExportRequest, ends: tuple[str, str]) -> None:
        self._request = request
        self._ends = ends
        self.chain = open_chain(file, request)
        if not self.chain.transforms:
            raise InputError("transform: name one, or the space to which they lead (--to): without any there is nothing to write")
        name = request.output.name.lower()
        kind = request.format
        if kind == "slicer":
            kind = "field" if name.endswith(_FIELDS) else "itk"
        self.kind = kind
        self._parts = list(self.chain.folded)
        self.paths: list[Path] = [request.output]
        if kind == "field":
            self._check_name(_FIELDS)
            self._grid = self._field_grid(file)
        elif kind == "bigwarp":
            self._check_name((".csv",))
            self._native = file[request.channel].space
            self._grid = self._landmark_grid(file)
            self._landmarks = place_landmarks(self.chain, self._grid)
        elif kind == "rfc5":
            self._check_parts()
            self._check_name((".zarr",))
        else:
            self._check_parts()
            if kind == "itk":
                linear = all(isinstance(part, Affine) for part in self._parts)
                self._check_name((*_TEXTS, _HDF5) if linear else (_HDF5,))
                self._check_memory()
            else:
                self._check_prefix()
                self._files = list(self._ants_files())
                self.paths = [*(path for path, _ in self._files), self._named("README.txt")]
        for path in self.paths:
            check_new(path, request.overwrite)

    def words(self) -> str:
        """What is written, in words."""
        if self.kind == "field":
            size = " x ".join(map(str, self._grid.shape))
            count = len(self._parts)
            return f"{self._request.output}, a displacement field of {size} voxels, which stands for {count} transform(s)"
        if self.kind == "bigwarp":
            (median, most), unit = self._landmarks.off_mm, self._request.landmark_unit
            return (
                f"{self._request.output}, {len(self._landmarks.outer)} landmarks in {unit} from the first voxel of each image; "
                f"between them BigWarp's thin-plate spline is off by {median:.2g} mm (median), {most:.2g} mm (maximum)"
            )
        if self.kind == "rfc5":
            return f"{self._request.output}, a scene of OME-Zarr with {len(self._parts)} transform(s) (RFC-5, experimental)"
        if self.kind == "ants":
            return f"{', '.join(path.name for path in self.paths)} in {self._request.output.parent}"
        return f"{self._request.output}, {len(self._parts)} transform(s) of ITK"

    def write(self, partials: Sequence[Path], progress: ProgressCallback | None, cancel: CancelToken | None) -> None:
        """Write all files under names that they have for now."""
        if self.kind == "field":
            self._write_field(partials[0], self.chain, self._grid, progress, cancel)
        elif self.kind == "itk":
            self._write_itk(partials[0])
        elif self.kind == "bigwarp":
            unit_mm = _MM[self._request.landmark_unit]
            write_landmarks(partials[0], self._landmarks, self._native, self._grid, unit_mm)
        elif self.kind == "rfc5":
            self._write_scene(partials[0], progress, cancel)
        else:
            for partial, (_, part) in zip(partials, self._files, strict=False):
                if isinstance(part, Affine):
                    _write_affine(partial, part)
                else:
                    self._write_field(partial, part, _file_order(part.space), progress, cancel)
            partials[-1].write_text(self._ants_readme(), "utf-8")

    # --- checks ---------------------------------------------------------------------------------------------------------------

    def _check_name(self, endings: Sequence[str]) -> None:
        if not self._request.output.name.lower().endswith(tuple(endings)):
            raise InputError(
                f"{self._request.output}: format {self._request.format} of this chain is written as {', '.join(endings)}: "
                "choose such a name"
            )

    def _check_parts(self) -> None:
        for part in self._parts:
            if not isinstance(part, (Affine, DisplacementField)):
                raise InputError(
                    f"transform {part.name!r}: is only found numerically, so that no file can hold it by itself: write "
                    "all as one field "
                    "(--format field)"
                )

    def _check_memory(self) -> None:
        voxels = sum(voxel_count(part.space.shape) for part in self._parts if isinstance(part, DisplacementField))
        need = BASE_BYTES + voxels * _ITK_BYTES
        if need > self._request.memory_bytes:
            raise MemoryBudgetError(
                f"{self._request.output}: ITK's files are written from the memory, which takes {size_text(need)}: give "
                "more (--memory), or "
                "write a file for each transform (--format ants) or one field (--format field)"
            )

    def _check_prefix(self) -> None:
        if self._request.output.name.lower().endswith((*_FIELDS, *_TEXTS, _HDF5)):
            raise InputError(
                f"{self._request.output}: ANTs' files are several: name what they begin with, such as reg/to_template_"
            )

    def _landmark_grid(self, file: LsfmFile) -> Space:
        """As its voxels are stored, since BigWarp counts from the first."""
        reference = self._request.reference
        if reference is not None and reference in file:
            return file[reference].space
        # The last axis runs fastest.
        return _file_order(self._field_grid(file)) if reference is not None else self._outermost()

    def _field_grid(self, file: LsfmFile) -> Space:
        if self._request.reference is not None:
            return reference_space(file, self._request.reference)
        return _file_order(self._outermost())

    def _outermost(self) -> Space:
        domain = next((part.space for part in reversed(self._parts) if isinstance(part, DisplacementField)), None)
        if domain is None or self.chain.domain is None:
            raise InputError(
                "reference: the outermost transform is no displacement field, so that the grid is not known: name an "
                "image or a channel "
                "on it (--reference), or write the transforms as they are (--format itk)"
            )
        return domain

    # --- writing --------------------------------------------------------------------------------------------------------------

    def _write_field(
        self, path: Path, transform: Transform, grid: Space, progress: ProgressCallback | None, cancel: CancelToken | None
    ) -> None:
        image = OutputImage(grid, np.dtype(np.float32), "vectors", 3, self._request.output.name)
        threads = self._request.threads or default_threads()
        report = Progress("field", image.nbytes, progress, cancel)
        with open_sink(path, image, overwrite=False, threads=threads, memory_bytes=self._request.memory_bytes) as sink:
            for slab in _slabs(transform, grid, sink.axis, self._request.memory_bytes):
                sink.write(slab)
                report.advance(slab.nbytes)

    def _write_scene(self, path: Path, progress: ProgressCallback | None, cancel: CancelToken | None) -> None:
        fields = [part for part in self._parts if isinstance(part, DisplacementField)]
        fields += [part.partner for part in fields if part.partner is not None]
        report = Progress("field", sum(voxel_count(field.space.shape) * 12 for field in fields), progress, cancel)

        def slabs(transform: Transform, grid: Space) -> Iterator[npt.NDArray[np.float32]]:
            for slab in _slabs(transform, grid, 0, self._request.memory_bytes):
                yield slab
                report.advance(slab.nbytes)

        write_scene(path, self._parts, self._ends, slabs)

    def _write_itk(self, path: Path) -> None:
        import SimpleITK as sitk

        if all(isinstance(part, Affine) for part in self._parts):
            (affine,) = self._parts
            assert isinstance(affine, Affine)
            _write_affine(path, affine)
            return
        parts: list[Any] = []
        for part in self._parts:
            if isinstance(part, Affine):
                parts.append(_itk_affine(part))
            elif isinstance(part, DisplacementField):
                vectors = np.asarray(part.vectors[:, :, :]).astype(np.float64) * (-1, -1, 1)
                image = sitk.GetImageFromArray(vectors, isVector=True)
                origin, spacing, direction = part.space.to_itk()
                image.SetOrigin(origin)
                image.SetSpacing(spacing)
                image.SetDirection(direction)
                parts.append(sitk.DisplacementFieldTransform(image))
        sitk.WriteTransform(sitk.CompositeTransform(parts), str(path))

    # --- ANTs -----------------------------------------------------------------------------------------------------------------

    def _named(self, ending: str) -> Path:
        return self._request.output.with_name(self._request.output.name + ending)

    def _ants_files(self) -> Iterator[tuple[Path, Affine | DisplacementField]]:
        for number, part in enumerate(self._parts):
            if isinstance(part, Affine):
                yield self._named(f"{number}GenericAffine.mat"), part
            elif isinstance(part, DisplacementField):
                yield self._named(f"{number}Warp.nii.gz"), part
                if part.partner is not None:
                    yield self._named(f"{number}InverseWarp.nii.gz"), part.partner

    def _ants_readme(self) -> str:
        there = " ".join(f"-t {shlex.quote(path.name)}" for path, _ in reversed(self._files) if "InverseWarp" not in path.name)
        back = None
        names = {path.name for path, _ in self._files}
        steps = []
        for number, part in enumerate(self._parts):
            prefix = f"{self._request.output.name}{number}"
            if isinstance(part, Affine):
                steps.append(f"-t {shlex.quote(f'[{prefix}GenericAffine.mat,1]')}")
            elif f"{prefix}InverseWarp.nii.gz" in names:
                steps.append(f"-t {shlex.quote(f'{prefix}InverseWarp.nii.gz')}")
            else:
                break
        else:
            back = " ".join(steps)
        lines = [
            f"Transforms between channel {self._request.channel!r} and another space, as ANTs takes them.",
            "",
            f"The channel, in the other space: {_ANTS} -i channel.nii.gz -r reference.nii.gz -o out.nii.gz {there}",
        ]
        if back is not None:
            lines.append(f"The other way: {_ANTS} -i image.nii.gz -r channel.nii.gz -o out.nii.gz {back}")
            lines.append("Points go the contrary way to images: those of the channel take the transforms of the second line.")
        return "\n".join(lines) + "\n"


def _slabs(transform: Transform, grid: Space, axis: int, memory_bytes: int) -> Iterator[npt.NDArray[np.float32]]:
    """Displacements of a transform on a grid, R, A, S mm, in slabs across an axis."""
    plane = voxel_count(grid.shape) // grid.shape[axis]
    step = int(np.clip((memory_bytes - BASE_BYTES) // 4 // (plane * 12 + 1), 1, max(1, _POINTS // plane)))
    for begin in range(0, grid.shape[axis], step):
        starts, stops = [0, 0, 0], list(grid.shape)
        starts[axis], stops[axis] = begin, min(begin + step, grid.shape[axis])
        slab = grid.crop(starts, stops)
        vectors = np.empty((voxel_count(slab.shape), 3), np.float32)
        for first in range(0, len(vectors), _POINTS):
            index = np.stack(np.unravel_index(np.arange(first, min(first + _POINTS, len(vectors))), slab.shape), axis=-1)
            centres = slab.to_world(index)
            vectors[first : first + len(index)] = transform.map_points(centres) - centres
        yield vectors.reshape(*slab.shape, 3)


def _file_order(space: Space) -> Space:
    """The same grid in the order of the axes of others' files, fastest first."""
    return space.reoriented(Reorientation((2, 1, 0), (False, False, False)))


def _itk_affine(affine: Affine) -> Any:
    import SimpleITK as sitk

    parameters, centre = affine.to_itk()
    return sitk.AffineTransform(parameters[:9].tolist(), parameters[9:].tolist(), centre.tolist())


def _write_affine(path: Path, affine: Affine) -> None:
    import SimpleITK as sitk

    sitk.WriteTransform(_itk_affine(affine), str(path))
