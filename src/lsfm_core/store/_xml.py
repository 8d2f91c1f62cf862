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

__all__ = ["BdvXml", "View", "parse_xml", "render_xml"]

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
        From the view's registration; in mm where the unit is a length, else in the XML's unit.
    """

    setup: int
    name: str
    shape: Shape3
    voxel_size_mm: Triple | None
    world_from_voxel: npt.NDArray[np.float64]


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
    world_from_xyz = np.eye(4)
    registration = next((r for r in root.iterfind("ViewRegistrations/ViewRegistration") if r.get("setup") == str(index)), None)
    if registration is not None:
        for affine in registration.iterfind("ViewTransform/affine"):
            numbers = [float(v) for v in (affine.text or "").split()]
            if len(numbers) != 12:
                raise ValueError(f"setup {index} has an affine of {len(numbers)} numbers, expected 12")
            # The last listed acts first on voxels.
            world_from_xyz = world_from_xyz @ np.vstack([np.reshape(numbers, (3, 4)), [0, 0, 0, 1]])
    world = world_from_xyz[:, [2, 1, 0, 3]].copy()
    world[:3] *= mm or 1.0
    return View(
        setup=index,
        name=setup.findtext("name", f"setup {index}").strip(),
        shape=(size[2], size[1], size[0]),
        voxel_size_mm=(voxel[2] * mm, voxel[1] * mm, voxel[0] * mm) if known and mm is not None else None,
        world_from_voxel=world,
    )


def render_xml(hdf5: str, views: Sequence[View], previous: bytes | None = None) -> bytes:
    """The XML for an HDF5 file.

    Parameters
    ----------
    hdf5 : str
        The HDF5 file's name, beside the XML.
    views : sequence of View
    previous : bytes, optional
        The XML that is to be replaced. Elements that we do not write are kept, and so is the registration of a view whose name and
        size stay the same: somebody may have aligned it.
    """
    old = _parse(previous, hdf5) if previous is not None else Element("SpimData", version="0.2")
    root = Element("SpimData", {"version": "0.2", **old.attrib})
    _text(root, "BasePath", ".", type="relative")
    sequence = SubElement(root, "SequenceDescription")
    loader = SubElement(sequence, "ImageLoader", format="bdv.hdf5")
    _text(loader, "hdf5", hdf5, type="relative")
    setups = SubElement(sequence, "ViewSetups")
    kept = set()
    for view in views:
        before = old.find(f"SequenceDescription/ViewSetups/ViewSetup[id='{view.setup}']")
        if _same_view(before, view):
            kept.add(view.setup)
        setups.append(_setup(view, before))
    for attribute in _ATTRIBUTES:
        block = SubElement(setups, "Attributes", name=attribute)
        for index, name in [(v.setup, v.name) for v in views] if attribute == "channel" else [(0, "0")]:
            item = SubElement(block, attribute.capitalize())
            _text(item, "id", str(index))
            _text(item, "name", name)
    old_timepoints = old.find("SequenceDescription/Timepoints")
    if old_timepoints is None:
        timepoints = SubElement(sequence, "Timepoints", type="range")
        _text(timepoints, "first", "0")
        _text(timepoints, "last", "0")
    else:
        sequence.append(old_timepoints)
    sequence.extend(e for e in old.iterfind("SequenceDescription/*") if sequence.find(e.tag) is None)
    registrations = SubElement(root, "ViewRegistrations")
    for view in views:
        before = old.find(f"ViewRegistrations/ViewRegistration[@setup='{view.setup}']")
        registrations.append(before if before is not None and view.setup in kept else _registration(view))
    root.extend(e for e in old if root.find(e.tag) is None)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="us-ascii", xml_declaration=True)
    return text + b"\n"


def _setup(view: View, before: Element | None) -> Element:
    setup = Element("ViewSetup")
    _text(setup, "id", str(view.setup))
    _text(setup, "name", view.name)
    _text(setup, "size", " ".join(str(n) for n in reversed(view.shape)))
    voxel = SubElement(setup, "voxelSize")
    _text(voxel, "unit", "mm")
    _text(voxel, "size", " ".join(_number(v) for v in reversed(view.voxel_size_mm or (1.0, 1.0, 1.0))))
    attributes = SubElement(setup, "attributes")
    for attribute in _ATTRIBUTES:
        _text(attributes, attribute, str(view.setup if attribute == "channel" else 0))
    if before is not None:
        attributes.extend(e for e in before.iterfind("attributes/*") if attributes.find(e.tag) is None)
        setup.extend(e for e in before if setup.find(e.tag) is None)
    return setup


def _registration(view: View) -> Element:
    registration = Element("ViewRegistration", timepoint="0", setup=str(view.setup))
    transform = SubElement(registration, "ViewTransform", type="affine")
    _text(transform, "Name", "RAS mm from voxel")
    world_from_xyz = view.world_from_voxel[:3, [2, 1, 0, 3]]
    _text(transform, "affine", " ".join(_number(v) for v in world_from_xyz.ravel()))
    return registration


def _same_view(before: Element | None, view: View) -> bool:
    size = " ".join(str(n) for n in reversed(view.shape))
    return before is not None and before.findtext("name") == view.name and before.findtext("size", "").split() == size.split()


def _text(parent: Element, tag: str, text: str, **attributes: str) -> None:
    SubElement(parent, tag, attributes).text = text


def _number(value: float) -> str:
    # repr gives the shortest text that reads back as the same number; no "-0.0", which some parsers print oddly.
    return repr(float(value) + 0.0)
