"""Commands that look at a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._options import add_verb, bar, by
from lsfm_core.errors import FormatError

if TYPE_CHECKING:
    from lsfm_core.store import Channel, LsfmFile

__all__ = ["add_commands"]


def add_commands(verbs: Any) -> None:
    """Let the parser know the commands of this module."""
    verify = add_verb(
        verbs, "verify", _verify, "check a file: structure, XML, and every chunk's checksum",
        "lsfm-core verify brain.h5 --levels",
    )  # fmt: skip
    verify.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    verify.add_argument("--levels", action="store_true", help="also compute every coarser level anew, and compare")

    info = add_verb(
        verbs, "info", _info, "show what is in a file",
        "lsfm-core info brain.h5",
    )  # fmt: skip
    info.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    info.add_argument("--channel", metavar="NAME", help="show this channel only")
    info.add_argument("--json", action="store_true", help="print JSON, for programs")


def _verify(arguments: argparse.Namespace) -> None:
    from lsfm_core.store import verify_file

    with bar(arguments) as progress:
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
            by(level.shape),
            by(f"{v:.6g}" for v in level.space.voxel_size_mm),
            by(f"{f:g}" for f in level.factors),
            by(level.data.chunks),
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
