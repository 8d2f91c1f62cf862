"""Commands that change a file, or take down what an image tells of itself."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._json import remark, tell, warn
from lsfm_core.cli._options import (
    KINDS,
    PrintSchema,
    Told,
    add_field_convention,
    add_request,
    add_resources,
    add_verb,
    apply,
    bar,
    by,
    numbers,
    orientation_code,
    path_of,
)
from lsfm_core.errors import InputError
from lsfm_core.progress import size_text

if TYPE_CHECKING:
    from lsfm_core.edits import (
        AffineRequest,
        LinkSpacesRequest,
        RemoveChannelRequest,
        RenameChannelRequest,
        RenameSpaceRequest,
        SetSpaceRequest,
    )
    from lsfm_core.ingest import IngestReport, IngestRequest
    from lsfm_core.metadata import ImageMetadata

__all__ = ["add_commands"]


_QUESTIONS = {
    "voxel_size": "voxel size along planes, rows, columns, with its unit (such as 5, 4, 4 um; empty: not known)",
    "orientation": "side toward which planes, rows, columns grow, one each of R/L, A/P, S/I (such as AIR; empty: not known)",
}


def add_commands(verbs: Any) -> None:
    """Let the parser know the commands of this module."""
    write = add_verb(
        verbs, "write", _write, "put an image into a file as a new channel",
        "lsfm-core write brain.h5 --channel autofluo --image planes/ --voxel-size 0.05,0.04,0.04 --orientation AIR",
    )  # fmt: skip
    _add_write_options(write)
    write.add_argument("--kind", choices=KINDS, default="image", help=Told("ingest.IngestRequest.kind", " (default image)"))
    write.add_argument("--labels", metavar="FILE", help=Told("ingest.IngestRequest.labels"))
    write.add_argument(
        "--ontology",
        metavar="FILE",
        help=Told("ingest.IngestRequest.ontology"),
    )
    write.add_argument("--inverse-of", metavar="NAME", help=Told("ingest.IngestRequest.inverse_of"))
    add_field_convention(write, "ingest.IngestRequest")
    write.add_argument(
        "--space", "--to", dest="space", metavar="SPACE",
        help=Told("ingest.IngestRequest.space", " (default: for images its own, else not known)"),
    )  # fmt: skip
    write.add_argument("--from", dest="from_space", metavar="SPACE", help=Told("ingest.IngestRequest.from_space"))

    field = add_verb(
        verbs, "write-field", _write, "put a displacement field into a file, with its inverse declared",
        "lsfm-core write-field brain.h5 --channel warp --image 1Warp.nii.gz --inverse-of inverse_warp",
    )  # fmt: skip
    _add_write_options(field)
    field.add_argument("--inverse-of", metavar="NAME", help="the channel that holds the inverse of this field")
    add_field_convention(field, "ingest.IngestRequest")
    field.add_argument(
        "--to", "--space", dest="space", metavar="SPACE",
        help="the space toward the output, where the field's grid lies: a name, or a channel that lives there (default: not known)",
    )  # fmt: skip
    field.add_argument("--from", dest="from_space", metavar="SPACE", help="the space toward the image (default: not known)")
    field.set_defaults(kind="vectors", labels=None, ontology=None)

    dump = add_verb(
        verbs, "dump-metadata", _dump_metadata, "show what an image tells of itself, as JSON for write --metadata",
        "lsfm-core dump-metadata planes/ --ask --output meta.json",
    )  # fmt: skip
    dump.add_argument("image", metavar="IMAGE", help="as write takes it")
    dump.add_argument("--image-channel", metavar="C", help=Told("ingest.IngestRequest.image_channel"))
    dump.add_argument("--planes-are", choices=("time", "channels"), help=Told("ingest.IngestRequest.planes_are"))
    dump.add_argument("--kind", choices=KINDS, help=Told("ingest.IngestRequest.kind", " (default image)"))
    dump.add_argument("--like", metavar="JSON", help="take what the image does not tell from the metadata of another one")
    dump.add_argument("--ask", action="store_true", help="ask for what is missing then")
    dump.add_argument("--output", metavar="JSON", help="file to write (default: print it)")
    dump.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    dump.add_argument(
        "--schema", action=PrintSchema, schema="metadata.metadata_schema", help="print the JSON Schema of such files, and exit"
    )

    affine = add_verb(
        verbs, "write-affine", apply, "keep an affine transform with a channel",
        "lsfm-core write-affine brain.h5 --channel autofluo --name to_template --affine 0GenericAffine.mat",
    )  # fmt: skip
    affine.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    affine.add_argument("--channel", required=True, metavar="NAME", help="the channel that it belongs to")
    affine.add_argument("--name", required=True, help="name of the transform, unique in its channel")
    affine.add_argument(
        "--affine",
        required=True,
        metavar="FILE",
        help="ITK file (.txt .tfm .mat .xfm .h5), elastix' TransformParameters of affine kind, or 4 x 4 text matrix in RAS mm",
    )
    affine.add_argument(
        "--from", dest="from_space", metavar="SPACE",
        help="the space toward the image: a name, or a channel that lives there (default: that of the channel)",
    )  # fmt: skip
    affine.add_argument(
        "--to", dest="to_space", metavar="SPACE", help="the space toward the output, in the same way (default: not known)"
    )
    affine.add_argument("--overwrite", "--replace", dest="replace", action="store_true", help="replace an affine of that name")
    add_request(affine, _affine_request)

    space = add_verb(
        verbs, "set-space", apply, "record the space that a channel lives in, or those that a transform joins",
        "lsfm-core set-space brain.h5 --channel atlas --space autofluo",
    )  # fmt: skip
    space.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    space.add_argument("--channel", metavar="NAME", help="the channel")
    space.add_argument(
        "--space", metavar="SPACE", help="the space that it lives in: a name, or another channel that lives there; ?: not known"
    )
    space.add_argument("--transform", metavar="NAME", help="or the transform: an affine, or a displacement field")
    space.add_argument("--from", dest="from_space", metavar="SPACE", help="the space toward the image")
    space.add_argument("--to", dest="to_space", metavar="SPACE", help="the space toward the output")
    add_request(space, _space_request)

    respace = add_verb(
        verbs, "rename-space", apply, "give a space another name, for all that lies in it or leads there",
        "lsfm-core rename-space brain.h5 --space template --to allen_mouse_25um",
    )  # fmt: skip
    respace.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    respace.add_argument("--space", required=True, metavar="SPACE", help="its present name, or a channel that lives there")
    respace.add_argument("--to", required=True, dest="new_name", metavar="NAME", help="its new name")
    add_request(respace, _respace_request)

    join = add_verb(
        verbs, "link-spaces", apply, "say that two spaces are one, as of channels that were imaged together",
        "lsfm-core link-spaces brain.h5 --space cfos --to autofluo",
    )  # fmt: skip
    join.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    join.add_argument("--space", required=True, metavar="SPACE", help="the one whose name goes, or a channel that lives there")
    join.add_argument("--to", required=True, dest="to_space", metavar="SPACE", help="the one whose name stays for both")
    add_request(join, _link_request)

    remove = add_verb(
        verbs, "remove-channel", apply, "remove a channel",
        "lsfm-core remove-channel brain.h5 --channel autofluo",
    )  # fmt: skip
    remove.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    remove.add_argument("--channel", required=True, metavar="NAME", help="the channel to remove")
    add_request(remove, _remove_request)

    rename = add_verb(
        verbs, "rename-channel", apply, "give a channel another name",
        "lsfm-core rename-channel brain.h5 --channel autofluo --to structural",
    )  # fmt: skip
    rename.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    rename.add_argument("--channel", required=True, metavar="NAME", help="its present name")
    rename.add_argument("--to", required=True, dest="new_name", metavar="NAME", help="its new name")
    add_request(rename, _rename_request)

    recover = add_verb(
        verbs, "recover", _recover, "undo what an interrupted write has left, or clear a folder of what interrupted commands have",
        "lsfm-core recover brain.h5",
    )  # fmt: skip
    recover.add_argument("file", help="the HDF5 file, or a folder: outputs that had begun to take their place are completed there")
    recover.add_argument("--dry-run", action="store_true", help="of a folder: only tell what would be done")
    decision = recover.add_mutually_exclusive_group()
    decision.add_argument(
        "--discard-journal",
        action="store_true",
        help="where the journal is missing, damaged or another file's: remove it, and take the file as it is, whole or not",
    )
    decision.add_argument(
        "--force",
        action="store_true",
        help="apply a journal that is damaged, or not the file's, as far as it goes; without file locks: take the file "
        "from a writer that may be alive on another machine",
    )


def _add_write_options(write: argparse.ArgumentParser) -> None:
    write.add_argument("file", help="the HDF5 file; made if it is not there")
    write.add_argument("--channel", required=True, metavar="NAME", help=Told("ingest.IngestRequest.channel"))
    write.add_argument(
        "--image",
        required=True,
        type=path_of,
        help=Told("ingest.IngestRequest.image", "; quote patterns"),
    )
    write.add_argument("--image-channel", metavar="C", help=Told("ingest.IngestRequest.image_channel"))
    write.add_argument("--planes-are", choices=("time", "channels"), help=Told("ingest.IngestRequest.planes_are"))
    write.add_argument("--voxel-size", type=numbers(3), metavar="P,R,C", help=Told("ingest.IngestRequest.voxel_size_mm", " (mm)"))
    orientation = write.add_mutually_exclusive_group()
    orientation.add_argument(
        "--orientation",
        type=orientation_code,
        metavar="CODE",
        help=Told("ingest.IngestRequest.orientation"),
    )
    orientation.add_argument(
        "--origin-orientation",
        dest="origin_letters",
        metavar="CODE",
        help="the same, told by the side where the first voxel lies (BrainGlobe, ITK-SNAP), as psl",
    )
    write.add_argument(
        "--origin",
        type=numbers(3),
        metavar="R,A,S",
        help=Told("ingest.IngestRequest.origin_mm", " (mm)"),
    )
    write.add_argument("--metadata", metavar="JSON", help=Told("ingest.IngestRequest.metadata"))
    write.add_argument(
        "--overwrite",
        "--replace",
        dest="replace",
        action="store_true",
        help=Told("ingest.IngestRequest.replace"),
    )
    write.add_argument(
        "--resume",
        action="store_true",
        help=Told("ingest.IngestRequest.resume"),
    )
    write.add_argument(
        "--compression-level",
        dest="compression",
        type=int,
        choices=range(4),
        default=1,
        help=Told("ingest.IngestRequest.compression", ": 0 none, 1 fast (default) to 3"),
    )
    write.add_argument("--uint16-as-int16", action="store_true", help=Told("ingest.IngestRequest.uint16_as_int16"))
    add_resources(write)
    add_request(write, _request, "write")


def _request(arguments: argparse.Namespace) -> IngestRequest:
    from lsfm_core.geometry import Orientation
    from lsfm_core.ingest import IngestRequest

    orientation = arguments.orientation
    if arguments.origin_letters is not None:
        orientation = Orientation.from_origin(arguments.origin_letters).axcodes
    return IngestRequest(
        path=arguments.file,
        channel=arguments.channel,
        image=arguments.image,
        image_channel=arguments.image_channel,
        planes_are=arguments.planes_are,
        kind=arguments.kind,
        labels=arguments.labels,
        ontology=arguments.ontology,
        inverse_of=arguments.inverse_of,
        field_convention=arguments.field_convention,
        space=arguments.space,
        from_space=arguments.from_space,
        replace=arguments.replace,
        resume=arguments.resume,
        uint16_as_int16=arguments.uint16_as_int16,
        voxel_size_mm=arguments.voxel_size,
        orientation=orientation,
        origin_mm=arguments.origin,
        metadata=arguments.metadata,
        memory_bytes=arguments.memory,
        threads=arguments.threads,
        compression=arguments.compression,
    )


def _write(arguments: argparse.Namespace) -> None:
    from lsfm_core.ingest import ingest_channel

    with bar(arguments) as progress:
        report = ingest_channel(_request(arguments), progress=progress, cancel=arguments.cancel)
    warn(report.warnings)
    tell(arguments, report, lambda: _words(report, arguments.space is not None or arguments.from_space is not None))


def _words(report: IngestReport, with_space: bool) -> str:
    space = f"  {report.in_space}\n" if with_space else ""
    sizes = f"{size_text(report.raw_bytes)} -> {size_text(report.stored_bytes)}"
    return (
        f"{report.path}: channel {report.channel!r}, {report.kind}, {by(report.space.shape)} {report.dtype}, "
        f"{len(report.levels)} level(s)\n"
        f"  {report.space.orientation.describe()}\n"
        f"{space}  {sizes} in {report.seconds:.1f} s ({size_text(report.raw_bytes / report.seconds)}/s)"
    )


def _dump_metadata(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from lsfm_core.metadata import describe_image, read_metadata

    metadata = describe_image(
        arguments.image,
        channel=arguments.image_channel,
        planes_are=arguments.planes_are,
        kind=arguments.kind,
        like=read_metadata(Path(arguments.like)) if arguments.like is not None else None,
    )
    if arguments.ask:
        metadata = _ask_for_missing(metadata)
    if arguments.output is None:
        print(metadata.to_json())
    else:
        metadata.write(Path(arguments.output), overwrite=arguments.overwrite)
        if not arguments.quiet:
            print(f"{arguments.output}: metadata of {arguments.image}")
    if metadata.missing and not arguments.quiet:
        remark(f"not known: {', '.join(metadata.missing)}: fill in, or give as options of write")


def _ask_for_missing(metadata: ImageMetadata) -> ImageMetadata:
    """Ask for each field that is missing; an empty answer leaves it so."""
    from lsfm_core.geometry import Orientation
    from lsfm_core.metadata import VoxelSize

    for name in metadata.missing:
        while answer := _ask(_QUESTIONS[name]):
            try:
                if name == "voxel_size":
                    metadata = metadata.updated(voxel_size=VoxelSize.from_text(answer))
                    break
                orientation = Orientation(answer)
            except InputError as error:
                remark(str(error))
                continue
            if _ask(f"{orientation.describe()}. Is that right? [y/n]").lower() in ("y", "yes"):
                metadata = metadata.updated(orientation=orientation.axcodes)
                break
    return metadata


def _ask(question: str) -> str:
    """What a person answers; empty at the end of the input. Not `input`, which asks on stdout, where the JSON goes."""
    print(question, end=": ", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _affine_request(arguments: argparse.Namespace) -> AffineRequest:
    from lsfm_core.edits import AffineRequest

    return AffineRequest(
        path=arguments.file,
        channel=arguments.channel,
        name=arguments.name,
        affine=arguments.affine,
        replace=arguments.replace,
        from_space=arguments.from_space,
        to_space=arguments.to_space,
    )


def _space_request(arguments: argparse.Namespace) -> SetSpaceRequest:
    from lsfm_core.edits import SetSpaceRequest

    return SetSpaceRequest(
        path=arguments.file,
        channel=arguments.channel,
        space=arguments.space,
        transform=arguments.transform,
        from_space=arguments.from_space,
        to_space=arguments.to_space,
    )


def _respace_request(arguments: argparse.Namespace) -> RenameSpaceRequest:
    from lsfm_core.edits import RenameSpaceRequest

    return RenameSpaceRequest(path=arguments.file, space=arguments.space, new_name=arguments.new_name)


def _link_request(arguments: argparse.Namespace) -> LinkSpacesRequest:
    from lsfm_core.edits import LinkSpacesRequest

    return LinkSpacesRequest(path=arguments.file, space=arguments.space, to_space=arguments.to_space)


def _remove_request(arguments: argparse.Namespace) -> RemoveChannelRequest:
    from lsfm_core.edits import RemoveChannelRequest

    return RemoveChannelRequest(path=arguments.file, channel=arguments.channel)


def _rename_request(arguments: argparse.Namespace) -> RenameChannelRequest:
    from lsfm_core.edits import RenameChannelRequest

    return RenameChannelRequest(path=arguments.file, channel=arguments.channel, new_name=arguments.new_name)


def _recover(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from lsfm_core.errors import InputError
    from lsfm_core.provenance import recorded
    from lsfm_core.store import recover_folder, recover_lsfm

    if Path(arguments.file).is_dir():
        if arguments.discard_journal:
            raise InputError(f"{arguments.file}: is a folder: --discard-journal is for one file, of which it is decided")
        done = recover_folder(arguments.file, force=arguments.force, dry_run=arguments.dry_run)
        if not arguments.quiet:
            print("\n".join(done) or f"{arguments.file}: nothing to clear away")
        return
    if arguments.dry_run:
        raise InputError(f"{arguments.file}: is no folder: --dry-run tells of a folder what would be cleared away")
    options = {"force": arguments.force, "discard_journal": arguments.discard_journal}
    with recorded(Path(arguments.file), "recover", {name: True for name, value in options.items() if value}) as record:
        done = recover_lsfm(arguments.file, **options)
        record.settled = not done
    if not arguments.quiet:
        print(f"{arguments.file}: {'; '.join(done) or 'nothing to undo'}")
