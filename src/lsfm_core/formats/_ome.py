"""OME-XML: sizes, channels, voxel size, and which page of which file is which plane."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from defusedxml.ElementTree import fromstring

from lsfm_core.errors import InputError, SourceError
from lsfm_core.formats._channels import PlanesAre
from lsfm_core.formats._geometry import voxel_size_or_none
from lsfm_core.geometry import Triple, mm_per
from lsfm_core.xml_text import decode_xml

__all__ = ["OmeBlock", "OmeImage", "metadata_file", "parse_ome"]

_DTYPES = {"int8", "int16", "int32", "uint8", "uint16", "uint32"}
_OTHER_DTYPES = {"float": "float32", "double": "float64", "bit": "bool"}
_MAX_COUNT = 10**7
_LONGEST_TEXT = 40


@dataclass(frozen=True)
class OmeBlock:
    """A ``TiffData`` element: pages `page`, `page` + 1 … hold planes from (`z`, `c`, `t`) on.

    `count` is None where the element does not tell how many; `file` is None for the file that the XML stands in, and `is_own` says
    that the file's id is that of the XML's own.
    """

    page: int
    z: int
    c: int
    t: int
    count: int | None
    file: str | None
    is_own: bool = False


@dataclass(frozen=True)
class OmeImage:
    """The one image of an OME-XML document; sizes in voxels, voxel size in mm along planes, rows, columns.

    `has_uuid` says that files are told apart by more than their names, `samples` how many values a pixel has; ``sizes["C"]`` does
    not count them.
    """

    sizes: dict[str, int]
    order: str
    dtype: np.dtype[Any]
    voxel_size_mm: Triple | None
    channel_names: tuple[str, ...]
    blocks: tuple[OmeBlock, ...]
    has_uuid: bool
    acquisition: dict[str, Any]
    samples: int = 1
    description: str | None = None
    #: What the XML says in place of a voxel size.
    no_voxel_size: str | None = None

    def with_planes(self, name: str, planes_are: PlanesAre | None) -> OmeImage:
        """The image whose planes are its time points or channels.

        Raises
        ------
        InputError
            If it has planes.
        """
        axis = {"time": "T", "channels": "C", None: "Z"}[planes_are]
        if axis == "Z":
            return self
        if self.sizes["Z"] > 1:
            raise InputError(f"{name}: has {self.sizes['Z']} planes besides: leave out --planes-are {planes_are}")
        swap = str.maketrans(f"Z{axis}", f"{axis}Z")
        blocks = tuple(replace(block, **{axis.lower(): block.z, "z": getattr(block, axis.lower())}) for block in self.blocks)
        return replace(
            self,
            sizes={key.translate(swap): size for key, size in self.sizes.items()},
            order=self.order.translate(swap),
            blocks=blocks,
            channel_names=("",) if axis == "C" else self.channel_names,
        )

    def plane_index(self, block: OmeBlock, step: int) -> tuple[int, int, int]:
        """(z, c, t) of the plane `step` pages after a block's first."""
        position = {"Z": block.z, "C": block.c, "T": block.t}
        flat, weight = 0, 1
        for axis in self.order[2:]:
            flat += position[axis] * weight
            weight *= self.sizes[axis]
        flat += step
        for axis in self.order[2:]:
            flat, position[axis] = divmod(flat, self.sizes[axis])
        return position["Z"], position["C"], position["T"]


def metadata_file(name: str, xml: bytes) -> str | None:
    """Name of the file that holds the metadata of a whole set, where this file only refers to it."""
    root = _parse(name, xml)
    reference = _child(root, "BinaryOnly")
    return None if reference is None else reference.get("MetadataFile")


def parse_ome(name: str, xml: bytes) -> OmeImage:
    """Read an OME-XML document.

    Parameters
    ----------
    name : str
        Of the file, for messages.
    xml : bytes
        Of any version of the schema, in whatever encoding.

    Raises
    ------
    SourceError
        If it is not valid, or tells of no grey-scale image.
    InputError
        If it tells of several images.
    """
    root = _parse(name, xml)
    images = [image for image in root if _tag(image) == "Image" and _child(image, "Pixels") is not None]
    if len(images) > 1:
        names = ", ".join(repr(image.get("Name", image.get("ID", "?"))) for image in images[:10])
        raise InputError(f"{name}: holds {len(images)} images ({names}): save one of them as a file of its own")
    if not images:
        raise SourceError(f"{name}: its OME-XML tells of no image")
    image = images[0]
    pixels = next(child for child in image if _tag(child) == "Pixels")
    sizes = {axis: _integer(name, pixels, f"Size{axis}", None) for axis in "XYZCT"}
    # Before 2008-09 the type had another name, and channels stood beside the pixels.
    kind = pixels.get("Type", pixels.get("PixelType", "")).lower()
    order = pixels.get("DimensionOrder", "")
    channels = [child for child in pixels if _tag(child) == "Channel"]
    channels = channels or [child for child in image if _tag(child) in ("LogicalChannel", "ChannelInfo")]
    if kind not in _DTYPES and kind not in _OTHER_DTYPES:
        raise SourceError(f"{name}: its OME-XML tells of pixels of type {kind!r}: only integers and floats can be used")
    if sorted(order) != sorted("XYZCT") or not order.startswith("XY"):
        raise SourceError(f"{name}: its OME-XML tells of an unknown order of dimensions, {order!r}")
    if min(sizes.values()) < 1 or max(sizes.values()) > _MAX_COUNT:
        raise SourceError(f"{name}: its OME-XML tells of impossible sizes: {sizes}")
    # Each channel of several samples is counted as so many in SizeC.
    samples = {_integer(name, channel, "SamplesPerPixel", 1) for channel in channels} or {1}
    each = samples.pop()
    if samples or each < 1 or sizes["C"] % each:
        raise SourceError(f"{name}: its OME-XML tells of channels of different numbers of samples: save one of them by itself")
    sizes["C"] //= each
    description = _child(image, "Description")
    voxel_size, no_voxel_size = _voxel_size(image, pixels)
    channel_names = [channel.get("Name", "") for channel in channels] + [""] * sizes["C"]
    return OmeImage(
        sizes=sizes,
        order=order,
        dtype=np.dtype(_OTHER_DTYPES.get(kind, kind)),
        voxel_size_mm=voxel_size,
        channel_names=tuple(channel_names[: sizes["C"]]),
        blocks=_blocks(name, pixels, root.get("UUID")),
        has_uuid="UUID" in root.attrib,
        acquisition=_acquisition(root, image, channels),
        samples=each,
        description=None if description is None else description.text,
        no_voxel_size=no_voxel_size,
    )


def _parse(name: str, xml: bytes) -> Element:
    try:
        root: Element = fromstring(decode_xml(xml))
    except Exception as error:  # defusedxml's and the parser's errors have no common base
        raise SourceError(f"{name}: its OME-XML cannot be read: {error}") from error
    return root


def _tag(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _child(element: Element, tag: str) -> Element | None:
    return next((child for child in element if _tag(child) == tag), None)


def _integer(name: str, element: Element, attribute: str, default: int | None) -> int:
    text = element.get(attribute)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError as error:
        raise SourceError(f"{name}: its OME-XML says {attribute}={text!r} in {_tag(element)}: expected a whole number") from error


def _voxel_size(image: Element, pixels: Element) -> tuple[Triple | None, str | None]:
    """Along planes, rows, columns; or what the XML says instead."""
    sizes, complaints = [], []
    for axis in "ZYX":
        name = f"PhysicalSize{axis}"
        # The first versions of the schema had it at the image.
        text = pixels.get(name, image.get(f"PixelSize{axis}"))
        # The schema's default unit is the micrometre.
        unit = pixels.get(f"{name}Unit", "µm")
        mm = mm_per(unit)
        try:
            size = float(text or "nan") * (mm or float("nan"))
        except ValueError:
            size = float("nan")
        sizes.append(size)
        if not (np.isfinite(size) and size > 0):
            found = "is not there" if text is None else f"is {text[:_LONGEST_TEXT]!r}"
            complaints.append(f"{name} {found}" if text is None or mm is not None else f"{name}Unit is {unit[:_LONGEST_TEXT]!r}")
    return voxel_size_or_none(sizes), ", ".join(complaints) or None


def _blocks(name: str, pixels: Element, own_uuid: str | None) -> tuple[OmeBlock, ...]:
    blocks = []
    for element in pixels:
        if _tag(element) != "TiffData":
            continue
        uuid = _child(element, "UUID")
        file = None if uuid is None else uuid.get("FileName")
        is_own = bool(uuid is not None and own_uuid and (uuid.text or "").strip() == own_uuid.strip())
        page, z, c, t = (_integer(name, element, key, 0) for key in ("IFD", "FirstZ", "FirstC", "FirstT"))
        default = 1 if "IFD" in element.attrib else None
        told = next((key for key in ("PlaneCount", "NumPlanes") if key in element.attrib), None)
        count = _integer(name, element, told, 0) if told is not None else default
        if min(page, z, c, t, count or 0) < 0:
            raise SourceError(f"{name}: its OME-XML counts pages or planes below zero: {dict(element.attrib)}")
        blocks.append(OmeBlock(page, z, c, t, count, file, is_own))
    return tuple(blocks) or (OmeBlock(0, 0, 0, 0, None, None),)


def _acquisition(root: Element, image: Element, channels: list[Element]) -> dict[str, Any]:
    """What a reader of the file may want to know later, as the XML spells it."""
    facts: dict[str, Any] = {}
    date = _child(image, "AcquisitionDate")
    if image.get("Name"):
        facts["name"] = image.get("Name")
    if date is not None and date.text:
        facts["date"] = date.text
    for element in root.iter():
        if _tag(element) in ("Objective", "Microscope", "Detector"):
            facts.setdefault(_tag(element).lower(), _attributes(element))
    facts["channels"] = [_attributes(channel) for channel in channels]
    return facts


def _attributes(element: Element) -> dict[str, str]:
    return {key.rpartition("}")[2]: value for key, value in element.attrib.items() if key != "ID"}
