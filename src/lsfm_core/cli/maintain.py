"""Commands that make a file, or what stands beside it, anew."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._json import tell, warn
from lsfm_core.cli._options import add_request, add_resources, add_verb, apply, bar
from lsfm_core.progress import size_text

if TYPE_CHECKING:
    from lsfm_core.edits import SealRequest, XmlRequest
    from lsfm_core.store import LinkRequest, RepackRequest
    from lsfm_core.upgrade import UpgradeRequest

__all__ = ["add_commands"]


def add_commands(verbs: Any) -> None:
    """Let the parser know the commands of this module."""
    link = add_verb(
        verbs, "link", _link, "make a file that shows the channels of others, which lie beside it",
        "lsfm-core link master.h5 autofluo.h5 cfos.h5",
    )  # fmt: skip
    link.add_argument("file", metavar="MASTER", help="the file that is made, with its XML")
    link.add_argument("files", nargs="+", metavar="FILE", help="files whose channels it shows, in its folder or below")
    link.add_argument("--overwrite", action="store_true", help="replace the master if it exists")
    add_request(link, _link_request)

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
    add_request(repack, _repack_request)
    add_resources(repack)

    upgrade = add_verb(
        verbs, "upgrade", _upgrade, "make a file of lsfmpy anew as one of ours, with all that it holds",
        "lsfm-core upgrade mouse42.h5 brain.h5 --orientation AIR --orientation segmentation=RAS",
    )  # fmt: skip
    upgrade.add_argument("old", metavar="OLD", help="the file of lsfmpy, or its XML; it is only read")
    upgrade.add_argument("file", metavar="NEW", help="the HDF5 file to make")
    upgrade.add_argument(
        "--orientation",
        action="append",
        default=[],
        metavar="CODE|NAME=CODE",
        help="of all channels that were made from planes, or of one that is named: for planes, rows and columns the side toward "
        "which the index grows, as AIR; channels from NIfTI files need that file's axis codes; repeat it",
    )
    upgrade.add_argument(
        "--origin",
        action="append",
        default=[],
        metavar="NAME=R,A,S",
        help="where a channel's voxel lies that is first in R, A and S (mm; default: at 0, 0, 0); repeat it",
    )
    upgrade.add_argument(
        "--field-convention",
        choices=("lps-displacement", "ras-displacement", "lps-position", "ras-position"),
        default="lps-displacement",
        metavar="CONVENTION",
        help="what the vectors of displacement fields are: lps-displacement (default, as of ITK and ANTs), "
        "ras-displacement, lps-position or ras-position",
    )
    upgrade.add_argument(
        "--compression-level", dest="compression", type=int, choices=range(4), default=1, help="0 none, 1 fast to 3"
    )
    add_request(upgrade, _upgrade_request)
    add_resources(upgrade)

    seal = add_verb(
        verbs, "seal", apply, "record what the structure of a file and its chunks are now, for verify to compare with",
        "lsfm-core seal brain.h5",
    )  # fmt: skip
    seal.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    add_request(seal, _seal_request)

    xml = add_verb(
        verbs, "xml", _xml, "make the BigDataViewer XML of a file anew",
        "lsfm-core xml brain.h5",
    )  # fmt: skip
    xml.add_argument("file", help="the HDF5 file")
    xml.add_argument("--overwrite", action="store_true", help="replace an XML that cannot be read")
    add_request(xml, _xml_request)


def _chunks(text: str) -> tuple[int, ...]:
    try:
        sides = tuple(int(part) for part in text.split(","))
    except ValueError:
        sides = ()
    if len(sides) != 3:
        raise argparse.ArgumentTypeError(f"expected three whole numbers separated by commas, found {text!r}")
    return sides


def _link_request(arguments: argparse.Namespace) -> LinkRequest:
    from lsfm_core.store import LinkRequest

    return LinkRequest(path=arguments.file, files=tuple(arguments.files), overwrite=arguments.overwrite)


def _link(arguments: argparse.Namespace) -> None:
    from lsfm_core.store import link_files

    report = link_files(_link_request(arguments))
    tell(arguments, report, lambda: report.describe().replace("makes   ", "made    "))


def _repack_request(arguments: argparse.Namespace) -> RepackRequest:
    from lsfm_core.store import RepackRequest

    return RepackRequest(
        path=arguments.file,
        output=arguments.output,
        compression=arguments.compression,
        rechunk=arguments.rechunk,
        overwrite=arguments.overwrite,
        memory_bytes=arguments.memory,
        threads=arguments.threads,
    )


def _repack(arguments: argparse.Namespace) -> None:
    from lsfm_core.store import repack_file

    with bar(arguments) as progress:
        report = repack_file(_repack_request(arguments), progress=progress, cancel=arguments.cancel)
    chunks = f"{report.copied_chunks} chunks copied, {report.recoded_chunks} encoded anew"
    sizes = f"{size_text(report.old_bytes)} -> {size_text(report.new_bytes)} in {report.seconds:.1f} s"
    tell(arguments, report, lambda: f"{report.path}: {sizes}; {chunks}; read back and compared")


def _upgrade_request(arguments: argparse.Namespace) -> UpgradeRequest:
    from lsfm_core.errors import InputError
    from lsfm_core.upgrade import UpgradeRequest

    codes = [text.rpartition("=") for text in arguments.orientation]
    plain = [code for name, _, code in codes if not name]
    if len(plain) > 1:
        raise InputError(f"orientation: {' and '.join(plain)} are given for all channels: name the channel, as NAME=CODE")
    origins = {}
    for text in arguments.origin:
        name, _, numbers = text.rpartition("=")
        if not name:
            raise InputError(f"origin: expected NAME=R,A,S, found {text!r}")
        origins[name] = tuple(numbers.split(","))
    return UpgradeRequest(
        path=arguments.file,
        old=arguments.old,
        orientation=plain[0] if plain else None,
        orientations={name: code for name, _, code in codes if name},
        origins_mm=origins,
        field_convention=arguments.field_convention,
        compression=arguments.compression,
        memory_bytes=arguments.memory,
        threads=arguments.threads,
    )


def _upgrade(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from lsfm_core.upgrade import upgrade_file

    with bar(arguments) as progress:
        report = upgrade_file(_upgrade_request(arguments), progress=progress, cancel=arguments.cancel)
    warn(report.warnings)
    sizes = f"{size_text(report.old_bytes)} -> {size_text(report.new_bytes)} in {report.seconds:.1f} s"
    tell(arguments, report, lambda: f"{replace(report, warnings=()).describe()}\n  {sizes}")


def _seal_request(arguments: argparse.Namespace) -> SealRequest:
    from lsfm_core.edits import SealRequest

    return SealRequest(path=arguments.file)


def _xml_request(arguments: argparse.Namespace) -> XmlRequest:
    from lsfm_core.edits import XmlRequest

    return XmlRequest(path=arguments.file, overwrite=arguments.overwrite)


def _xml(arguments: argparse.Namespace) -> None:
    from lsfm_core.edits import describe_xml
    from lsfm_core.store import write_xml

    request = _xml_request(arguments)
    xml = write_xml(request.path, overwrite=request.overwrite)
    text = describe_xml(request)
    tell(arguments, {"path": xml, "text": text.splitlines()}, lambda: text)
