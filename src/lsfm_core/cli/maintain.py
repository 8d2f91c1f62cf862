"""Commands that make a file, or what stands beside it, anew."""

from __future__ import annotations

import argparse
from typing import Any

from lsfm_core.cli._options import add_resources, add_verb, bar, by

__all__ = ["add_commands"]


def add_commands(verbs: Any) -> None:
    """Let the parser know the commands of this module."""
    repack = add_verb(
        verbs, "repack", _repack, "give back the space of removed channels; compress or chunk a file otherwise",
        "lsfm-core repack brain.h5 --compression-level 3",
    )  # fmt: skip
    repack.add_argument("file", help="the HDF5 file, or its BigDataViewer XML: ours, lsfmpy's, or any BigDataViewer HDF5")
    repack.add_argument("--output", metavar="FILE", help="write a new file, with its XML (default: replace the file)")
    repack.add_argument(
        "--compression-level",
        dest="compression",
        type=int,
        choices=range(4),
        help="compress all voxels anew: 0 none, 1 fast to 3 (default: as they are)",
    )
    repack.add_argument("--rechunk", type=_chunks, metavar="Z,Y,X", help="chunk shape of all voxels (default: as it is)")
    repack.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    repack.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    add_resources(repack)

    xml = add_verb(
        verbs, "xml", _xml, "make the BigDataViewer XML of a file anew",
        "lsfm-core xml brain.h5",
    )  # fmt: skip
    xml.add_argument("file", help="the HDF5 file")
    xml.add_argument("--overwrite", action="store_true", help="replace an XML that cannot be read")


def _chunks(text: str) -> tuple[int, ...]:
    try:
        sides = tuple(int(part) for part in text.split(","))
    except ValueError:
        sides = ()
    if len(sides) != 3:
        raise argparse.ArgumentTypeError(f"expected three whole numbers separated by commas, found {text!r}")
    return sides


def _repack(arguments: argparse.Namespace) -> None:
    from lsfm_core.store import RepackRequest, repack_file

    request = RepackRequest(
        path=arguments.file,
        output=arguments.output,
        compression=arguments.compression,
        rechunk=arguments.rechunk,
        overwrite=arguments.overwrite,
        dry_run=arguments.dry_run,
        memory_bytes=arguments.memory,
        threads=arguments.threads,
    )
    with bar(arguments) as progress:
        report = repack_file(request, progress=progress, cancel=arguments.cancel)
    if arguments.quiet:
        return
    chunks = f"{report.copied_chunks} chunks copied, {report.recoded_chunks} encoded anew"
    if request.dry_run:
        print(f"{report.path}: {report.old_bytes / 1e6:.1f} MB -> at most about {report.new_bytes / 1e6:.1f} MB; {chunks}")
    else:
        sizes = f"{report.old_bytes / 1e6:.1f} MB -> {report.new_bytes / 1e6:.1f} MB in {report.seconds:.1f} s"
        print(f"{report.path}: {sizes}; {chunks}; read back and compared")


def _xml(arguments: argparse.Namespace) -> None:
    from lsfm_core.store import parse_xml, write_xml

    path = write_xml(arguments.file, overwrite=arguments.overwrite)
    if arguments.quiet:
        return
    content = parse_xml(path.read_bytes(), str(path))
    print(f"{path}: {len(content.views)} setup(s) of {content.hdf5}")
    for view in content.views:
        voxels = "" if view.voxel_size_mm is None else f", voxels of {by(f'{v:.6g}' for v in view.voxel_size_mm)} mm"
        print(f"  {view.setup}: {view.name}, {by(view.shape)}{voxels}")
