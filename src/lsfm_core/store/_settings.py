"""BigDataViewer's display settings, ``NAME.settings.xml`` beside the XML: without them it shows all channels white at once.

What somebody else has written, or changed, is never touched: a file of ours ends with the checksum of what it says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from isal import isal_zlib

from lsfm_core.durable import write_file
from lsfm_core.store._xml import parse_xml
from lsfm_core.store.channel import Channel

__all__ = ["render_settings", "settings_path", "write_settings"]

#: Their sums stay distinguishable.
_COLORS = {
    "green": "00ff00", "magenta": "ff00ff", "cyan": "00ffff", "yellow": "ffff00", "red": "ff0000", "blue": "0000ff",
}  # fmt: skip
_WHITE = "ffffff"
#: How many groups of sources BigDataViewer has; with another number it reads nothing.
_GROUPS = 10
_FULL_RANGE = (-(2**31), 2**31 - 1)
_MARK = re.compile(rb"<!--lsfm-core ([0-9a-f]{8})-->\s*$")


def settings_path(xml: Path) -> Path:
    """Where BigDataViewer looks for the settings of a data set."""
    return xml.with_name(f"{xml.stem}.settings.xml")


def render_settings(xml: bytes, name: str, channels: Mapping[str, Channel]) -> bytes | None:
    """Display ranges, colours, and what is shown at first: images, and no labels.

    Parameters
    ----------
    xml : bytes
        The data set's; its setups are the sources.
    name : str
        For messages.
    channels : mapping of str to Channel

    Returns
    -------
    bytes or None
        None where the range of an image is not known: BigDataViewer then looks for one itself.
    """
    shown = {channel.setup: channel for channel in channels.values() if channel.setup is not None}
    setups = sorted(view.setup for view in parse_xml(xml, name).views)
    if not setups or any(setup not in shown or _range(shown[setup]) is None for setup in setups):
        return None
    sources = [shown[setup] for setup in setups]
    root = Element("Settings")
    root.append(_viewer_state(sources))
    assignments = SubElement(root, "SetupAssignments")
    converters, groups = SubElement(assignments, "ConverterSetups"), SubElement(assignments, "MinMaxGroups")
    images = sum(source.kind == "image" for source in sources)
    colors = cycle(_COLORS.values() if images > 1 else [_WHITE])
    for index, source in enumerate(sources):
        low, high = _range(source) or (0, 1)
        color = _color(source.colormap) or (next(colors) if source.kind == "image" else _WHITE)
        # As Java has it: opaque, in 32 bits with a sign.
        argb = int(color, 16) + 0xFF000000 - 2**32
        _fill(converters, "ConverterSetup", id=source.setup, min=low, max=high, color=argb, groupId=index)
        _fill(
            groups, "MinMaxGroup", id=index, fullRangeMin=_FULL_RANGE[0], fullRangeMax=_FULL_RANGE[1], rangeMin=min(0, low),
            rangeMax=max(65535, high), currentMin=low, currentMax=high,
        )  # fmt: skip
    transforms = SubElement(root, "ManualSourceTransforms")
    for _ in sources:
        transform = SubElement(transforms, "SourceTransform", type="affine")
        SubElement(transform, "affine").text = "1.0 0.0 0.0 0.0 0.0 1.0 0.0 0.0 0.0 0.0 1.0 0.0"
    SubElement(root, "Bookmarks")
    ElementTree.indent(root)
    data: bytes = ElementTree.tostring(root, encoding="us-ascii", xml_declaration=True) + b"\n"
    return data + f"<!--lsfm-core {isal_zlib.crc32(data):08x}-->\n".encode()


def write_settings(xml: Path, data: bytes | None) -> None:
    """Let the settings be there, unless somebody else's are; what goes wrong here is no reason to fail."""
    path = settings_path(xml)
    with suppress(OSError):
        if os.path.lexists(path) and not (path.is_file() and _is_ours(path.read_bytes())):
            return
        if data is None:
            path.unlink(missing_ok=True)
        elif not path.exists() or path.read_bytes() != data:
            write_file(path, data)


def _is_ours(data: bytes) -> bool:
    mark = _MARK.search(data)
    return mark is not None and isal_zlib.crc32(data[: mark.start()]) == int(mark[1], 16)


def _viewer_state(sources: Sequence[Channel]) -> Element:
    state = Element("ViewerState")
    listed = SubElement(state, "Sources")
    images = [index for index, source in enumerate(sources) if source.kind == "image"]
    active = images or range(len(sources))
    for index in range(len(sources)):
        _fill(listed, "Source", active=str(index in active).lower())
    groups = SubElement(state, "SourceGroups")
    for index in range(_GROUPS):
        group = _fill(groups, "SourceGroup", active=str(index == 0).lower(), name=f"group {index + 1}")
        if index < len(sources):
            SubElement(group, "id").text = str(index)
    values = {"DisplayMode": "fs", "Interpolation": "nlinear", "CurrentSource": active[0], "CurrentGroup": 0, "CurrentTimePoint": 0}
    for tag, value in values.items():
        SubElement(state, tag).text = str(value)
    return state


def _fill(parent: Element, tag: str, **values: object) -> Element:
    element = SubElement(parent, tag)
    for name, value in values.items():
        SubElement(element, name).text = str(value)
    return element


def _range(channel: Channel) -> tuple[float, float] | None:
    """Contrast limits, of integers in whole numbers, which old versions of BigDataViewer ask for."""
    limits = channel.display_range
    if limits is None:
        return None if channel.kind == "image" else (0, 65535)
    low, high = limits
    if channel.dtype.kind in "ui":
        low, high = round(low), round(high)
    return (low, high) if low < high else (low, low + 1)


def _color(colormap: str | None) -> str | None:
    if colormap is None:
        return None
    if colormap.startswith("#") and len(colormap) == 7:
        return colormap[1:]
    return _COLORS.get(colormap, _WHITE if colormap in ("gray", "grey") else None)
