"""The command line ``lsfm-core``: parse, call, map errors to exit codes.

Exit codes: 0 done; 1 an error that the message explains; 2 a command line that cannot be read; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

# Only the errors: the rest of the core is imported by the command that needs it, so that --help comes at once.
from lsfm_core.errors import FormatError, InputError, LsfmError

if TYPE_CHECKING:
    from lsfm_core.metadata import ImageMetadata
    from lsfm_core.progress import ProgressCallback
    from lsfm_core.store import Channel, LsfmFile

_QUESTIONS = {
    "voxel_size": "voxel size along planes, rows, columns, with its unit (such as 5, 4, 4 um; empty: not known)",
    "orientation": "side toward which planes, rows, columns grow, one each of R/L, A/P, S/I (such as AIR; empty: not known)",
}
_MEMORY_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    parser = _build_parser()
    arguments = parser.parse_args(argv)
    command: Callable[[argparse.Namespace], None] = arguments.command
    # tifffile logs what it finds odd in a file; what matters of it comes as an error of ours.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with _terminate_as_interrupt():
            command(arguments)
    except LsfmError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"lsfm-core {arguments.verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = getattr(arguments, "resume", False)
        outcome = "repeat the command line to go on from the last checkpoint" if kept else "nothing was changed"
        print(f"lsfm-core {arguments.verb}: interrupted; {outcome}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Somebody closed the pipe we print to (`lsfm-core info … | head`).
        sys.stdout = None
        return 1
    return 0


# --- the commands ---------------------------------------------------------------------------------------------------------------


def _write(arguments: argparse.Namespace) -> None:
    from lsfm_core.geometry import Orientation
    from lsfm_core.ingest import IngestRequest, ingest_channel

    orientation = arguments.orientation
    if arguments.origin_letters is not None:
        orientation = Orientation.from_origin(arguments.origin_letters).axcodes
    request = IngestRequest(
        path=arguments.file,
        channel=arguments.channel,
        image=arguments.image,
        image_channel=_index_or_name(arguments.image_channel),
        kind=arguments.kind,
        labels=arguments.labels,
        ontology=arguments.ontology,
        inverse_of=arguments.inverse_of,
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
    with _bar(arguments) as progress:
        report = ingest_channel(request, progress=progress)
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not arguments.quiet:
        raw = report.raw_bytes / 1e6
        what = f"{report.kind}, {_by(report.space.shape)} {report.dtype}, {len(report.levels)} level(s)"
        print(f"{report.path}: channel {report.channel!r}, {what}")
        print(f"  {report.space.orientation.describe()}")
        print(f"  {raw:.1f} MB -> {report.stored_bytes / 1e6:.1f} MB in {report.seconds:.1f} s ({raw / report.seconds:.0f} MB/s)")


def _dump_metadata(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from lsfm_core.metadata import describe_image, read_metadata

    metadata = describe_image(
        arguments.image,
        channel=_index_or_name(arguments.image_channel),
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
        print(f"not known: {', '.join(metadata.missing)}: fill in, or give as options of write", file=sys.stderr)


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
                print(error, file=sys.stderr)
                continue
            if _ask(f"{orientation.describe()}. Is that right? [y/n]").lower() in ("y", "yes"):
                metadata = metadata.updated(orientation=orientation.axcodes)
                break
    return metadata


def _ask(question: str) -> str:
    """What a person answers; empty at the end of the input. Not `input`, which asks on stdout, where the JSON goes."""
    print(question, end=": ", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _write_affine(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from lsfm_core.store import edit_lsfm
    from lsfm_core.transforms import Affine

    affine = Affine.read(Path(arguments.affine))
    with edit_lsfm(arguments.file) as editor:
        editor.write_affine(arguments.channel, arguments.name, affine.matrix, affine.to_itk(), arguments.replace)
    if not arguments.quiet:
        print(f"{arguments.file}: affine {arguments.name!r} of channel {arguments.channel!r}")
        print(f"  {affine.describe()}")
        print("  it maps a point of the output space to the image, as ITK and ANTs write it")


def _remove_channel(arguments: argparse.Namespace) -> None:
    from lsfm_core.store import edit_lsfm

    with edit_lsfm(arguments.file) as editor:
        editor.remove_channel(arguments.channel)
    if not arguments.quiet:
        print(f"{arguments.file}: channel {arguments.channel!r} removed; its space in the file is not given back")


def _rename_channel(arguments: argparse.Namespace) -> None:
    from lsfm_core.store import edit_lsfm

    with edit_lsfm(arguments.file) as editor:
        editor.rename_channel(arguments.channel, arguments.new_name)
    if not arguments.quiet:
        print(f"{arguments.file}: channel {arguments.channel!r} is now {arguments.new_name!r}")


def _recover(arguments: argparse.Namespace) -> None:
    from lsfm_core.store import recover_lsfm

    found = recover_lsfm(arguments.file)
    if not arguments.quiet:
        print(f"{arguments.file}: {'the interrupted change was undone' if found else 'nothing to undo'}")


def _verify(arguments: argparse.Namespace) -> None:
    from lsfm_core.store import verify_file

    with _bar(arguments) as progress:
        report = verify_file(arguments.file, levels=arguments.levels, progress=progress)
    for defect in report.defects:
        print(f"{report.path}: {defect}")
    if report.defects:
        raise FormatError(f"{report.path}: {len(report.defects)} defect(s) found")
    if not arguments.quiet:
        print(f"{report.path}: all well: {report.chunks} chunks, {report.raw_bytes / 1e6:.1f} MB decoded, every checksum right")


def _info(arguments: argparse.Namespace) -> None:
    from lsfm_core.store import open_lsfm

    with open_lsfm(arguments.file) as file:
        channels = [file[arguments.channel]] if arguments.channel else list(file.channels.values())
        if arguments.json:
            print(json.dumps({"path": str(file.path), "channels": [_channel_facts(file, c) for c in channels]}, indent=2))
            return
        print(f"{file.path}: {len(file)} channel(s), {file.path.stat().st_size / 1e6:.1f} MB")
        print(f"  BigDataViewer XML: {file.xml_path.name if file.xml_path.exists() else 'none'}")
        for channel in channels:
            print("\n".join(_channel_lines(channel)))


def _export(arguments: argparse.Namespace) -> None:
    from lsfm_core.export import ExportRequest, export_channel, plan_export
    from lsfm_core.store import open_lsfm

    request = ExportRequest(
        path=arguments.file,
        channel=arguments.channel,
        output=arguments.output,
        level=arguments.level,
        resolution_mm=arguments.resolution,
        output_orientation=arguments.output_orientation,
        orientation=arguments.orientation,
        interpolation=arguments.interpolation,
        antialias=arguments.antialias,
        overwrite=arguments.overwrite,
        memory_bytes=arguments.memory,
        threads=arguments.threads,
    )
    if arguments.dry_run:
        with open_lsfm(request.path) as file:
            print(plan_export(file, request).describe())
        return
    with _bar(arguments) as progress:
        result = export_channel(request, progress=progress)
    if not arguments.quiet:
        print(f"{result.path}: {result.path.stat().st_size / 1e6:.1f} MB in {result.seconds:.1f} s" if result.path else "")
        print(result.plan.describe())


def _channel_facts(file: LsfmFile, channel: Channel) -> dict[str, Any]:
    space = channel.space
    return {
        "name": channel.name,
        "kind": channel.kind,
        "dtype": str(channel.dtype),
        "axcodes": channel.orientation.axcodes if channel.orientation else None,
        "origin_letters": channel.orientation.origin_letters if channel.orientation else None,
        "unit": channel.unit,
        "world_from_voxel": space.world_from_voxel.tolist(),
        "extent": list(space.bounds.size_mm),
        "display_range": channel.display_range,
        "bdv_setup": channel.setup,
        "inverse": channel.partner,
        "affines": list(channel.affines),
        "acquisition": file.acquisition(channel.name),
        "levels": [
            {
                "shape": list(level.shape),
                "voxel_size": list(level.space.voxel_size_mm),
                "factors": list(level.factors),
                "chunks": list(level.data.chunks),
                "raw_bytes": level.data.nbytes,
                "stored_bytes": level.stored_bytes,
            }
            for level in channel.levels
        ],
        "sources": [{"name": s.name, "size": s.size, "crc32": s.crc32} for s in channel.sources],
        "written_by": channel.written_by,
        "remarks": list(channel.remarks),
    }


def _channel_lines(channel: Channel) -> Iterator[str]:
    setup = "not in BigDataViewer" if channel.setup is None else f"BigDataViewer setup {channel.setup}"
    yield f"\n{channel.name}: {channel.kind}, {channel.dtype}, {setup}" + (
        f", written by {channel.written_by}" if channel.written_by else ""
    )
    if channel.orientation is None:
        yield "  orientation  not recorded"
    else:
        both = f"{channel.orientation} (origin at {channel.orientation.origin_letters})"
        yield f"  orientation  {both}: {channel.orientation.describe()}"
        r, a, s = channel.space.bounds.size_mm
        yield f"  extent       {r:.3f} x {a:.3f} x {s:.3f} mm (R, A, S): {channel.space.bounds}"
    if channel.sources:
        total = sum(source.size for source in channel.sources) / 1e6
        names = f"{channel.sources[0].name} … {channel.sources[-1].name}" if len(channel.sources) > 1 else channel.sources[0].name
        yield f"  sources      {len(channel.sources)} file(s), {total:.1f} MB: {names}"
    if channel.affines:
        yield f"  affines      {', '.join(channel.affines)}"
    if channel.partner:
        yield f"  inverse      {channel.partner}"
    rows = [("level", "shape", f"voxel ({channel.unit})", "factors", "chunk", "raw MB", "stored MB")]
    rows.extend(
        (
            str(level.index),
            _by(level.shape),
            _by(f"{v:.6g}" for v in level.space.voxel_size_mm),
            _by(f"{f:g}" for f in level.factors),
            _by(level.data.chunks),
            f"{level.data.nbytes / 1e6:.1f}",
            f"{level.stored_bytes / 1e6:.1f}",
        )
        for level in channel.levels
    )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for remark in channel.remarks:
        yield f"  warning: {remark}"


# --- parsing --------------------------------------------------------------------------------------------------------------------


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lsfm-core",
        description="Pack light-sheet stacks into one HDF5/BigDataViewer file, and take pieces of it out in RAS space.",
    )
    parser.add_argument("--version", action=_Version, help="show the versions of this program and its libraries, and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)

    write = _add_verb(
        verbs, "write", _write, "put an image into a file as a new channel",
        "lsfm-core write brain.h5 --channel autofluo --image planes/ --voxel-size 0.05,0.04,0.04 --orientation AIR",
    )  # fmt: skip
    _add_write_options(write)
    write.add_argument(
        "--kind", choices=("image", "labels", "vectors"), default="image", help="what the voxels are (default image)"
    )
    write.add_argument(
        "--labels", metavar="FILE", help="for labels: what the ids mean (ITK-SNAP description, CSV, Allen structure tree)"
    )
    write.add_argument(
        "--ontology",
        metavar="FILE",
        help="for labels: the tree of structures that they belong to (Allen structure tree, or CSV with parents), joined by id, "
        "else by acronym",
    )
    write.add_argument(
        "--inverse-of", metavar="NAME", help="for vectors: the channel that holds the inverse of this displacement field"
    )

    field = _add_verb(
        verbs, "write-field", _write, "put a displacement field into a file, with its inverse declared",
        "lsfm-core write-field brain.h5 --channel warp --image 1Warp.nii.gz --inverse-of inverse_warp",
    )  # fmt: skip
    _add_write_options(field)
    field.add_argument("--inverse-of", metavar="NAME", help="the channel that holds the inverse of this field")
    field.set_defaults(kind="vectors", labels=None, ontology=None)

    dump = _add_verb(
        verbs, "dump-metadata", _dump_metadata, "show what an image tells of itself, as JSON for write --metadata",
        "lsfm-core dump-metadata planes/ --ask --output meta.json",
    )  # fmt: skip
    dump.add_argument("image", metavar="IMAGE", help="as write takes it")
    dump.add_argument("--image-channel", metavar="C", help="which channel of an image that has several: its index or name")
    dump.add_argument("--kind", choices=("image", "labels", "vectors"), help="what the voxels are (default image)")
    dump.add_argument("--like", metavar="JSON", help="take what the image does not tell from the metadata of another one")
    dump.add_argument("--ask", action="store_true", help="ask for what is missing then")
    dump.add_argument("--output", metavar="JSON", help="file to write (default: print it)")
    dump.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    dump.add_argument("--schema", action=_Schema, help="print the JSON Schema of such files, and exit")

    affine = _add_verb(
        verbs, "write-affine", _write_affine, "keep an affine transform with a channel",
        "lsfm-core write-affine brain.h5 --channel autofluo --name to_template --affine 0GenericAffine.mat",
    )  # fmt: skip
    affine.add_argument("file", help="the HDF5 file")
    affine.add_argument("--channel", required=True, metavar="NAME", help="the channel that it belongs to")
    affine.add_argument("--name", required=True, help="name of the transform, unique in its channel")
    affine.add_argument(
        "--affine", required=True, metavar="FILE", help="ITK file (.txt .tfm .mat .xfm .h5) or 4 x 4 text matrix in RAS mm"
    )
    affine.add_argument("--replace", action="store_true", help="replace an affine of that name")

    remove = _add_verb(
        verbs, "remove-channel", _remove_channel, "remove a channel",
        "lsfm-core remove-channel brain.h5 --channel autofluo",
    )  # fmt: skip
    remove.add_argument("file", help="the HDF5 file")
    remove.add_argument("--channel", required=True, metavar="NAME")

    rename = _add_verb(
        verbs, "rename-channel", _rename_channel, "give a channel another name",
        "lsfm-core rename-channel brain.h5 --channel autofluo --to structural",
    )  # fmt: skip
    rename.add_argument("file", help="the HDF5 file")
    rename.add_argument("--channel", required=True, metavar="NAME")
    rename.add_argument("--to", required=True, dest="new_name", metavar="NAME")

    recover = _add_verb(
        verbs, "recover", _recover, "undo what an interrupted write has left",
        "lsfm-core recover brain.h5",
    )  # fmt: skip
    recover.add_argument("file", help="the HDF5 file")

    verify = _add_verb(
        verbs, "verify", _verify, "check a file: structure, XML, and every chunk's checksum",
        "lsfm-core verify brain.h5 --levels",
    )  # fmt: skip
    verify.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    verify.add_argument("--levels", action="store_true", help="also compute every coarser level anew, and compare")

    info = _add_verb(
        verbs, "info", _info, "show what is in a file",
        "lsfm-core info brain.h5",
    )  # fmt: skip
    info.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    info.add_argument("--channel", metavar="NAME", help="show this channel only")
    info.add_argument("--json", action="store_true", help="print JSON, for programs")

    export = _add_verb(
        verbs, "export", _export, "take a channel out, in RAS orientation",
        "lsfm-core export brain.h5 --channel autofluo --resolution 0.1 --output brain_100um.nii.gz",
    )  # fmt: skip
    export.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    export.add_argument("--channel", required=True, metavar="NAME")
    export.add_argument("--output", required=True, help=".nii or .nii.gz")
    export.add_argument("--level", type=int, metavar="L", help="pyramid level to read (default: the best for the resolution)")
    export.add_argument(
        "--resolution",
        type=_numbers(1, 3),
        metavar="MM",
        help="voxel size of the output in mm, one number or three (default: that of the level)",
    )
    export.add_argument(
        "--output-orientation", default="RAS", metavar="CODE", help="axis codes of the output (default RAS), or native"
    )
    export.add_argument("--orientation", metavar="CODE", help="how the stored image lies, for files that do not record it")
    export.add_argument("--interpolation", choices=("linear", "nearest"), help="default: nearest for labels, else linear")
    export.add_argument(
        "--no-antialias",
        dest="antialias",
        action="store_false",
        help="interpolate only: do not average a source that is more than twice as fine as the output",
    )
    export.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    export.add_argument("--dry-run", action="store_true", help="print what would be done, and stop")
    _add_resources(export)
    return parser


def _add_verb(
    verbs: Any, name: str, command: Callable[[argparse.Namespace], None], summary: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=f"example: {example}"
    )
    parser.set_defaults(command=command)
    parser.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def _add_write_options(write: argparse.ArgumentParser) -> None:
    write.add_argument("file", help="the HDF5 file; made if it is not there")
    write.add_argument("--channel", required=True, metavar="NAME", help="name of the new channel")
    write.add_argument(
        "--image",
        required=True,
        help="TIFF series (a folder, one of its files, a quoted glob, or a pattern such as img_%%04d.tif), TIFF stack, OME-TIFF, "
        "NIfTI, NRRD, MHA or Zarr",
    )
    write.add_argument("--image-channel", metavar="C", help="which channel of an image that has several: its index or name")
    write.add_argument(
        "--voxel-size", type=_numbers(3), metavar="P,R,C", help="millimetres, for planes, rows, columns, if the image does not tell"
    )
    orientation = write.add_mutually_exclusive_group()
    orientation.add_argument(
        "--orientation",
        metavar="CODE",
        help="for planes, rows and columns the side toward which the index grows: R or L, A or P, S or I (nibabel's axis codes), "
        "as AIR",
    )
    orientation.add_argument(
        "--origin-orientation",
        dest="origin_letters",
        metavar="CODE",
        help="the same, told by the side where the first voxel lies (BrainGlobe, ITK-SNAP), as psl",
    )
    write.add_argument(
        "--origin",
        type=_numbers(3),
        metavar="R,A,S",
        help="position in mm of the centre of the voxel that is first in R, A and S (default 0,0,0); for minus signs write "
        "--origin=-1,2,3",
    )
    write.add_argument(
        "--metadata", metavar="JSON", help="what else is known of the image, as dump-metadata writes it; options win over it"
    )
    write.add_argument("--replace", action="store_true", help="replace a channel of that name")
    write.add_argument(
        "--resume",
        action="store_true",
        help="if interrupted, keep what is finished; and go on from what an interrupted command line like this one has left",
    )
    write.add_argument(
        "--compression-level", dest="compression", type=int, choices=range(4), default=1, help="0 none, 1 fast (default) to 3"
    )
    write.add_argument(
        "--uint16-as-int16", action="store_true", help="keep uint16 as the same bits in int16, for BigDataViewer before 10.4.6"
    )
    _add_resources(write)


def _index_or_name(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdigit() else text


def _add_resources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memory", type=_memory, default=2 * 10**9, metavar="SIZE", help="memory to use at most (default 2GB)")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all cores")


def _numbers(*counts: int) -> Callable[[str], Any]:
    """A parser of comma-separated numbers; one number alone is not a tuple."""

    def parse(text: str) -> float | tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) not in counts:
            expected = " or ".join(str(count) for count in counts)
            raise argparse.ArgumentTypeError(f"expected {expected} number(s) separated by commas, found {text!r}")
        return values[0] if len(values) == 1 else values

    return parse


def _memory(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", text.strip().upper())
    if not match or match.group(2) not in _MEMORY_UNITS:
        raise argparse.ArgumentTypeError(f"expected a size such as 500MB, 2GB or 4GiB, found {text!r}")
    return int(float(match.group(1)) * _MEMORY_UNITS[match.group(2)])


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        import platform
        from importlib.metadata import version

        import h5py

        print(f"lsfm-core {version('napari-lsfm')}")
        libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "h5py", "SimpleITK", "tifffile", "nibabel"))
        print(f"Python {platform.python_version()}, HDF5 {h5py.version.hdf5_version}, {libraries}")
        parser.exit()


class _Schema(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from lsfm_core.metadata import metadata_schema

        print(json.dumps(metadata_schema(), indent=2))
        parser.exit()


# --- the terminal ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _bar(arguments: argparse.Namespace) -> Iterator[ProgressCallback | None]:
    """A progress bar with rate and time left on stderr, if a person is looking."""
    if arguments.quiet:
        yield None
        return
    from tqdm import tqdm

    # disable=None: no bar where stderr is no terminal.
    with tqdm(unit="B", unit_scale=True, disable=None, leave=False) as bar:

        def show(stage: str, done: int, total: int) -> None:
            bar.set_description(stage, refresh=False)
            bar.total = total
            bar.update(done - bar.n)

        yield show


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let a batch system's SIGTERM undo the work as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _by(values: Any) -> str:
    return " x ".join(str(v) for v in values)


if __name__ == "__main__":
    sys.exit(main())
