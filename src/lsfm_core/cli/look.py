"""Commands that look at a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._exit import Exit
from lsfm_core.cli._options import PrintSchema, add_verb, bar, by

if TYPE_CHECKING:
    from lsfm_core.info import ChannelInfo

__all__ = ["add_commands"]

#: get-metadata and --json tell the rest.
_LONGEST_VALUE = 100


def add_commands(verbs: Any) -> None:
    """Let the parser know the commands of this module."""
    verify = add_verb(
        verbs, "verify", _verify, "check a file: structure, XML, and every chunk's checksum",
        "lsfm-core verify brain.h5 --levels",
    )  # fmt: skip
    verify.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    verify.add_argument("--levels", action="store_true", help="also compute every coarser level anew, and compare")

    verify.add_argument("--json", action="store_true", help="print JSON, for programs")

    info = add_verb(
        verbs, "info", _info, "show what is in a file",
        "lsfm-core info brain.h5",
    )  # fmt: skip
    info.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    info.add_argument("--channel", metavar="NAME", help="show this channel only")
    info.add_argument("--sources", action="store_true", help="list every file that a channel was made from, with its CRC-32")
    info.add_argument("--json", action="store_true", help="print JSON, for programs")
    info.add_argument("--schema", action=PrintSchema, schema="info.info_schema", help="print the JSON Schema of --json, and exit")


def _verify(arguments: argparse.Namespace) -> int:
    from lsfm_core.store import verify_file

    with bar(arguments) as progress:
        report = verify_file(arguments.file, levels=arguments.levels, progress=progress, cancel=arguments.cancel)
    if arguments.json:
        print(json.dumps(asdict(report), default=str, indent=2))
    else:
        for defect in report.defects:
            print(f"{report.path}: {defect}")
    if report.defects:
        print(f"lsfm-core verify: {report.path}: {len(report.defects)} defect(s) found", file=sys.stderr)
        return Exit.INTEGRITY
    if not (arguments.quiet or arguments.json):
        print(f"{report.path}: all well: {report.chunks} chunks, {report.raw_bytes / 1e6:.1f} MB decoded, every checksum right")
    return Exit.DONE


def _info(arguments: argparse.Namespace) -> None:
    from lsfm_core.info import describe_file
    from lsfm_core.store import open_lsfm

    with open_lsfm(arguments.file) as file:
        facts = describe_file(file, arguments.channel, sources=arguments.sources)
        count = len(file)
    if arguments.json:
        print(facts.to_json())
        return
    print(f"{facts.path}: {count} channel(s), {facts.bytes / 1e6:.1f} MB")
    xml = {"present": facts.xml.name, "missing": "none", "disagrees": f"{facts.xml.name}, which disagrees with the file"}
    print(f"  BigDataViewer XML: {xml[facts.xml.state]}")
    for key, value in facts.metadata.items():
        print(f"  {key}: {_short(value)}")
    for warning in facts.warnings:
        print(f"  warning: {warning}")
    for channel in facts.channels:
        print("\n".join(_channel_lines(channel)))


def _channel_lines(channel: ChannelInfo) -> Iterator[str]:
    setup = "not in BigDataViewer" if channel.bdv_setup is None else f"BigDataViewer setup {channel.bdv_setup}"
    writer = f", written by {channel.written_by}" if channel.written_by else ""
    yield f"\n{channel.name}: {channel.kind}, {channel.dtype}, {setup}{writer}"
    for name, value in _channel_rows(channel):
        yield f"  {name:<11}  {value}"
    rows = [("level", "shape", f"voxel ({channel.unit})", "factors", "chunk", "raw MB", "stored MB")]
    rows.extend(
        (
            str(index),
            by(level.shape),
            by(f"{v:.6g}" for v in level.voxel_size),
            by(f"{f:g}" for f in level.factors),
            by(level.chunks),
            f"{level.raw_bytes / 1e6:.1f}",
            f"{level.stored_bytes / 1e6:.1f}",
        )
        for index, level in enumerate(channel.levels)
    )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for warning in channel.warnings:
        yield f"  warning: {warning}"


def _channel_rows(channel: ChannelInfo) -> Iterator[tuple[str, str]]:
    """What is known of a channel besides its levels, a name and a text each."""
    if channel.extent is None:
        yield "orientation", "not recorded"
    else:
        yield "orientation", f"{channel.axcodes} (origin at {channel.origin_letters}): {channel.orientation}"
        box = channel.extent
        sides = (f"{name} {low:.3f}..{high:.3f}" for name, low, high in zip("RAS", box.lower, box.upper, strict=True))
        yield "extent", f"{by(f'{v:.3f}' for v in box.size)} mm (R, A, S): {by(sides)}"
    if channel.sources is not None:
        sources = channel.sources
        names = f"{sources.first} … {sources.last}" if sources.count > 1 else sources.first
        yield "sources", f"{sources.count} file(s), {sources.bytes / 1e6:.1f} MB: {names}"
        for source in sources.files or ():
            yield "", f"{source.crc32:08x}  {source.size:>12}  {source.name}"
    for affine in channel.affines:
        yield "affine", f"{affine.name}: {affine.words}"
    if channel.field is not None:
        yield "field", channel.field
        yield "inverse", channel.inverse or "none"
    if channel.labels is not None:
        ontology = "with" if channel.labels.has_ontology else "without"
        yield "labels", f"{channel.labels.entries} entries, {channel.labels.with_colour} with colour, {ontology} ontology"
    for title, facts in (("metadata", channel.metadata), ("acquisition", channel.acquisition)):
        for key, value in facts.items():
            yield title, f"{key}: {_short(value)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
