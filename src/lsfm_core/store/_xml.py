"""BigDataViewer's XML (SpimData 0.2): read and write. The only module that reverses axes to x, y, z.

BigDataViewer reads the file in the platform's charset and parses numbers strictly, so we write pure ASCII with character
references, and no white space around numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import defusedxml.ElementTree
import numpy as np
import numpy.typing as npt
from defusedxml.common import DefusedXmlException

from lsfm_core.errors import FormatError
from lsfm_core.geometry import Shape3, Triple, mm_per

__all__ = ["BdvXml", "View", "parse_xml", "renamed_xml", "render_xml"]

_ATTRIBUTES = ("illumination", "channel", "tile", "angle")


@dataclass(frozen=True)
class View:
    """One BigDataViewer setup; everything in array order (planes, rows, columns).

    Attributes
    ----------
    setup : int
    name : str
    shape : tuple of 3 int
    voxel_size_mm : tuple of 3 float, or None
        None where the XML gives no unit of length.
    world_from_voxel : array (4, 4)
        From the view's first registration; in mm where the unit is a length, else in the XML's unit.
    moves : bool
        Whether timepoints are registered differently.
    """

    setup: int
    name: str
    shape: Shape3
    voxel_size_mm: Triple | None
    world_from_voxel: npt.NDArray[np.float64]
    moves: bool = False


@dataclass(frozen=True)
class BdvXml:
    """What we understand of a BigDataViewer XML file."""

    hdf5: str
    views: tuple[View, ...] = field(default_factory=tuple)


def parse_xml(data: bytes, name: str) -> BdvXml:
    """Read an XML file's content; entities and anything from outside are refused.

    Raises
    ------
    FormatError
        If it is not SpimData with an HDF5 image loader; `name` is the file to name.
    """
    root = _parse(data, name)
    hdf5 = root.find("SequenceDescription/ImageLoader/hdf5")
    if hdf5 is None or not (hdf5.text or "").strip():
        raise FormatError(f"{name}: no <hdf5> file in its ImageLoader: not a BigDataViewer HDF5 data set")
    try:
        views = tuple(_parse_view(setup, root) for setup in root.iterfind("SequenceDescription/ViewSetups/ViewSetup"))
    except ValueError as error:
        raise FormatError(f"{name}: {error}") from error
    return BdvXml((hdf5.text or "").strip(), views)


def _parse(data: bytes, name: str) -> Element:
    try:
        root: Element = defusedxml.ElementTree.fromstring(data, forbid_dtd=True)
    except (ElementTree.ParseError, DefusedXmlException, ValueError) as error:
        raise FormatError(f"{name}: not readable as XML: {error}") from error
    if root.tag != "SpimData":
        raise FormatError(f"{name}: the root element is <{root.tag}>, expected <SpimData>: not a BigDataViewer XML")
    return root


def _parse_view(setup: Element, root: Element) -> View:
    index = int(setup.findtext("id", "0"))
    size = [int(v) for v in setup.findtext("size", "").split()]
    if len(size) != 3:
        raise ValueError(f"setup {index} has no <size> of three numbers")
    mm = mm_per(setup.findtext("voxelSize/unit", ""))
    voxel = [float(v) for v in setup.findtext("voxelSize/size", "").split()]
    known = mm is not None and len(voxel) == 3 and min(voxel) > 0
    registrations = [
        _parse_registration(item, index)
        for item in root.iterfind("ViewRegistrations/ViewRegistration")
        if item.get("setup") == str(index)
    ] or [np.eye(4)]
    world = registrations[0][:, [2, 1, 0, 3]].copy()
    world[:3] *= mm or 1.0
    return View(
        setup=index,
        name=setup.findtext("name", f"setup {index}").strip(),
        shape=(size[2], size[1], size[0]),
        voxel_size_mm=(voxel[2] * mm, voxel[1] * mm, voxel[0] * mm) if known and mm is not None else None,
        world_from_voxel=world,
        moves=not all(np.allclose(other, registrations[0]) for other in registrations),
    )


def _parse_registration(item: Element, setup: int) -> npt.NDArray[np.float64]:
    world_from_xyz: npt.NDArray[np.float64] = np.eye(4)
    for affine in item.iterfind("ViewTransform/affine"):
        numbers = [float(v) for v in (affine.text or "").split()]
        if len(numbers) != 12:
            raise ValueError(f"setup {setup} has an affine of {len(numbers)} numbers, expected 12")
        # The last listed acts first on voxels.
        world_from_xyz = world_from_xyz @ np.vstack([np.reshape(numbers, (3, 4)), [0, 0, 0, 1]])
    return world_from_xyz


def render_xml(hdf5: str, views: Sequence[View], previous: bytes | None = None, timepoints: Sequence[int] = (0,)) -> bytes:
    """The XML for an HDF5 file.

    Parameters
    ----------
    hdf5 : str
        The HDF5 file's name, beside the XML.
    views : sequence of View
    previous : bytes, optional
        The XML that is to be replaced. Elements that we do not write are kept. Of a view whose name and size stay the same its
        registrations are, too, for somebody may have aligned it, and its angle, tile and the like.
    timepoints : sequence of int
        What the HDF5 file has, ascending; what the previous XML says wins.
    """
    old = _parse(previous, hdf5) if previous is not None else Element("SpimData", version="0.2")
    root = Element("SpimData", {"version": "0.2", **old.attrib})
    _text(root, "BasePath", ".", type="relative")
    sequence = SubElement(root, "SequenceDescription")
    loader = SubElement(sequence, "ImageLoader", format="bdv.hdf5")
    _text(loader, "hdf5", hdf5, type="relative")
    old_loader = old.find("SequenceDescription/ImageLoader")
    loader.extend(e for e in (() if old_loader is None else old_loader) if e.tag != "hdf5")
    setups = SubElement(sequence, "ViewSetups")
    old_setups = old.find("SequenceDescription/ViewSetups")
    kept = {}
    for view in views:
        before = old.find(f"SequenceDescription/ViewSetups/ViewSetup[id='{view.setup}']")
        if before is not None and _same_view(before, view):
            kept[view.setup] = before
        setups.append(_setup(view, before, view.setup in kept))
    for attribute in _ATTRIBUTES:
        block = SubElement(setups, "Attributes", name=attribute)
        used = dict.fromkeys(setup.findtext(f"attributes/{attribute}", "") for setup in setups.iterfind("ViewSetup"))
        theirs = {before.findtext(f"attributes/{attribute}") for before in kept.values()}
        names = {str(view.setup): view.name for view in views} if attribute == "channel" else {}
        for index in used:
            item = old.find(f"SequenceDescription/ViewSetups/Attributes[@name='{attribute}']/*[id='{index}']")
            if item is None or index not in theirs:
                item = Element(attribute.capitalize())
                _text(item, "id", index)
                _text(item, "name", names.get(index, index))
            block.append(item)
    if old_setups is not None:
        others = (e for e in old_setups if e.tag != "ViewSetup" and e.get("name") not in _ATTRIBUTES)
        setups.extend(others)
    old_timepoints = old.find("SequenceDescription/Timepoints")
    if old_timepoints is None:
        element = SubElement(sequence, "Timepoints", type="range")
        _text(element, "first", str(timepoints[0]))
        _text(element, "last", str(timepoints[-1]))
    else:
        sequence.append(old_timepoints)
    sequence.extend(e for e in old.iterfind("SequenceDescription/*") if sequence.find(e.tag) is None)
    registrations = SubElement(root, "ViewRegistrations")
    for view in views:
        theirs_too = old.findall(f"ViewRegistrations/ViewRegistration[@setup='{view.setup}']") if view.setup in kept else []
        registrations.extend(theirs_too or [_registration(view, timepoint) for timepoint in timepoints])
    root.extend(e for e in old if root.find(e.tag) is None)
    return _serialized(root)


def renamed_xml(data: bytes, name: str, hdf5: str) -> bytes:
    """An XML file's content, for an HDF5 file of another name that holds the same.

    Raises
    ------
    FormatError
        If it is not SpimData with an HDF5 image loader; `name` is the file to name.
    """
    parse_xml(data, name)
    root = _parse(data, name)
    for element in root.iterfind("SequenceDescription/ImageLoader/hdf5"):
        element.text = hdf5
        element.set("type", "relative")
    return _serialized(root)


def _serialized(root: Element) -> bytes:
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="us-ascii", xml_declaration=True)
    return text + b"\n"


def _setup(view: View, before: Element | None, same: bool) -> Element:
    setup = Element("ViewSetup")
    _text(setup, "id", str(view.setup))
    _text(setup, "name", view.name)
    _text(setup, "size", " ".join(str(n) for n in reversed(view.shape)))
    old_voxel = before.find("voxelSize") if before is not None else None
    if view.voxel_size_mm is None and old_voxel is not None:
        setup.append(old_voxel)
    else:
        voxel = SubElement(setup, "voxelSize")
        _text(voxel, "unit", "pixel" if view.voxel_size_mm is None else "mm")
        _text(voxel, "size", " ".join(_number(v) for v in reversed(view.voxel_size_mm or (1.0, 1.0, 1.0))))
    attributes = SubElement(setup, "attributes")
    for attribute in _ATTRIBUTES:
        value = str(view.setup if attribute == "channel" else 0)
        if same and before is not None:
            value = before.findtext(f"attributes/{attribute}", value)
        _text(attributes, attribute, value)
    if before is not None:
        attributes.extend(e for e in before.iterfind("attributes/*") if attributes.find(e.tag) is None)
        setup.extend(e for e in before if setup.find(e.tag) is None)
    return setup


def _registration(view: View, timepoint: int) -> Element:
    registration = Element("ViewRegistration", timepoint=str(timepoint), setup=str(view.setup))
    transform = SubElement(registration, "ViewTransform", type="affine")
    _text(transform, "Name", "RAS mm from voxel")
    world_from_xyz = view.world_from_voxel[:3, [2, 1, 0, 3]]
    _text(transform, "affine", " ".join(_number(v) for v in world_from_xyz.ravel()))
    return registration


def _same_view(before: Element, view: View) -> bool:
    size = " ".join(str(n) for n in reversed(view.shape))
    return before.findtext("name") == view.name and before.findtext("size", "").split() == size.split()


def _text(parent: Element, tag: str, text: str, **attributes: str) -> None:
    SubElement(parent, tag, attributes).text = text


def _number(value: float) -> str:
    # repr gives the shortest text that reads back as the same number; no "-0.0", which some parsers print oddly.
    return repr(float(value) + 0.0)
