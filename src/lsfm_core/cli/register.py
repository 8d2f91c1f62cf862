"""The commands that bring registrations in."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._json import remark, tell
from lsfm_core.cli._options import add_request, add_resources, add_verb, bar

if TYPE_CHECKING:
    from lsfm_core.register import ImportRegistrationRequest

__all__ = ["add_commands"]

#: `lsfm_core.register.TOOLS`, whose room would take numpy with it.
TOOLS = ("ants", "elastix", "brainreg", "niftyreg", "spm", "bigwarp", "itk")


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
    take.add_argument("--tool", choices=TOOLS, help="whose files are meant, if a folder has those of several programs")
    take.add_argument(
        "--fixed", choices=("atlas", "channel"), help="the image that stayed while the other one was moved (default: the atlas)"
    )
    take.add_argument(
        "--atlas-image",
        metavar="NAME|FILE",
        help="for brainreg and BigWarp: a channel or an image that tells where the atlas' voxels are",
    )
    take.add_argument("--landmark-unit", choices=("um", "mm"), help="for BigWarp: the unit of the landmarks")
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


def _import(arguments: argparse.Namespace) -> None:
    from lsfm_core.register import import_registration

    with bar(arguments) as progress:
        report = import_registration(_request(arguments), progress=progress, cancel=arguments.cancel)
    for warning in report.warnings:
        remark(f"warning: {warning}")
    tell(arguments, report, report.describe)
