"""Commands that look at a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._exit import Exit
from lsfm_core.cli._json import add_json, as_json, print_json, remark
from lsfm_core.cli._options import PrintSchema, add_verb, add_voxel_size, bar
from lsfm_core.errors import InputError
from lsfm_core.progress import size_text

if TYPE_CHECKING:
    from lsfm_core.info import ChannelInfo

__all__ = ["add_commands"]


def add_commands(verbs: Any) -> None:
    """Let the parser know the commands of this module."""
    verify = add_verb(
        verbs, "verify", _verify, "check a file: structure, XML, and every chunk's checksum",
        "lsfm-core verify brain.h5 --levels",
    )  # fmt: skip
    verify.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    verify.add_argument("--levels", action="store_true", help="also compute every coarser level anew, and compare")

    add_json(verify)

    info = add_verb(
        verbs, "info", _info, "show what is in a file",
        "lsfm-core info brain.h5",
    )  # fmt: skip
    info.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    info.add_argument("--channel", metavar="NAME", help="show this channel only")
    info.add_argument("--sources", action="store_true", help="list every file that a channel was made from, with its CRC-32")
    add_voxel_size(info)
    add_json(info)
    info.add_argument("--schema", action=PrintSchema, schema="info.info_schema", help="print the JSON Schema of --json, and exit")

    spaces = add_verb(
        verbs, "spaces", _spaces, "show the spaces of a file, what lies in them, and the transforms between them",
        "lsfm-core spaces brain.h5 --output spaces.svg",
    )  # fmt: skip
    spaces.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    spaces.add_argument("--output", metavar="FILE.svg", help="also draw them, as a picture (SVG)")
    spaces.add_argument("--overwrite", action="store_true", help="replace the picture if it exists")
    add_json(spaces)


def _verify(arguments: argparse.Namespace) -> int:
    from lsfm_core.store import verify_file

    with bar(arguments) as progress:
        report = verify_file(arguments.file, levels=arguments.levels, progress=progress, cancel=arguments.cancel)
    if arguments.json:
        print_json(as_json(report))
    else:
        for defect in report.defects:
            print(f"{report.path}: {defect}")
    if report.defects:
        remark(f"lsfm-core verify: {report.path}: {report.describe()}")
        return Exit.INTEGRITY
    if not (arguments.quiet or arguments.json):
        print(f"{report.path}: {report.describe()}")
    return Exit.DONE


def _spaces(arguments: argparse.Namespace) -> None:
    from lsfm_core.durable import check_new, new_file
    from lsfm_core.space_map import draw_spaces
    from lsfm_core.spaces import describe_spaces
    from lsfm_core.store import open_lsfm

    output = None if arguments.output is None else Path(arguments.output)
    if output is not None:
        if output.suffix.lower() != ".svg":
            raise InputError(f"output {output}: the spaces are drawn as .svg")
        check_new(output, arguments.overwrite)
    with open_lsfm(arguments.file) as file:
        graph = describe_spaces(file)
    if output is not None:
        with new_file(output, arguments.overwrite) as partial:
            # Names in a file from elsewhere may be no text.
            partial.write_text(draw_spaces(graph), "utf-8", "replace")
    if arguments.json:
        print_json(as_json(graph))
    else:
        print(f"{graph.path}: {len(graph.spaces)} space(s), {len(graph.transforms)} transform(s)\n{graph.describe()}")


def _info(arguments: argparse.Namespace) -> None:
    from lsfm_core.info import describe_file, note_text
    from lsfm_core.store import open_lsfm

    with open_lsfm(arguments.file) as opened:
        file = opened if arguments.voxel_size is None else opened.with_voxel_size(arguments.voxel_size)
        facts = describe_file(file, arguments.channel, sources=arguments.sources)
        count = len(file)
    if arguments.json:
        print(facts.to_json())
        return
    print(f"{facts.path}: {count} channel(s), {size_text(facts.bytes)}")
    print(f"  BigDataViewer XML: {facts.xml.words}")
    for key, value in facts.metadata.items():
        print(f"  {key}: {note_text(value)}")
    for warning in facts.warnings:
        print(f"  warning: {warning}")
    for channel in facts.channels:
        print("\n".join(_channel_lines(channel)))


def _channel_lines(channel: ChannelInfo) -> Iterator[str]:
    from lsfm_core.info import note_text

    yield f"\n{channel.name}: {channel.summary}"
    notes = (("metadata", f"{key}: {note_text(value)}") for key, value in channel.metadata.items())
    for name, value in (*channel.facts(), *notes):
        yield f"  {name:<11}  {value}"
    rows = channel.level_table()
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for warning in channel.warnings:
        yield f"  warning: {warning}"
