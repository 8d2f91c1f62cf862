"""BigDataViewer's XML (SpimData 0.2): read and write. The only module that reverses axes to x, y, z.

BigDataViewer reads the file in the platform's charset and parses numbers strictly, so we write pure ASCII with character
references, and no white space around numbers.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from types import MappingProxyType
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement
from xml.sax.saxutils import escape

import defusedxml.ElementTree
import numpy as np
import numpy.typing as npt
from defusedxml.common import DefusedXmlException

from lsfm_core.errors import FormatError, LsfmError, StorageError
from lsfm_core.geometry import Shape3, Triple, mm_per
from lsfm_core.plain import plain
from lsfm_core.progress import size_text
from lsfm_core.xml_text import decode_xml

__all__ = ["BdvXml", "View", "parse_xml", "read_xml", "renamed_xml", "render_xml", "with_voxel_size"]

#: 10,000 setups with 20 timepoints take less.
_LARGEST_XML = 256 * 10**6
_MOST_TIMEPOINTS = 10**6
_ATTRIBUTES = ("illumination", "channel", "tile", "angle")
#: A registration may stretch an image by so much, and its unit is still known by the voxels' size.
_STRETCH = 1.1


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
        From the view's first registration; in mm where the unit of the voxel size is a length, else in the XML's unit.
    timepoints : tuple of int
        At which there are voxels; not read from an XML.
    moves : bool
        Whether timepoints are registered differently.
    placed : bool
        False where the voxel size does not tell the unit of the registration, so that `world_from_voxel` is the voxel size alone.
    registered : bool
        Whether the XML has a registration of it.
    attributes : tuple of (str, str)
        What it is a view of: ``channel``, ``tile``, ``angle``, ``illumination`` and whatever else the XML names, by their names.
    """

    setup: int
    name: str
    shape: Shape3
    voxel_size_mm: Triple | None
    world_from_voxel: npt.NDArray[np.float64]
    timepoints: tuple[int, ...] = (0,)
    moves: bool = False
    placed: bool = True
    registered: bool = True
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class BdvXml:
    """What we understand of a BigDataViewer XML file.

    Attributes
    ----------
    hdf5 : str
        The HDF5 file, as it is written there.
    base : str
        The folder from which that is meant, itself meant from the XML's; "" where the HDF5 file's path is absolute.
    """

    hdf5: str
    views: tuple[View, ...] = field(default_factory=tuple)
    base: str = ""


def read_xml(path: Path) -> bytes:
    """The bytes of an XML file.

    Raises
    ------
    StorageError
        If it cannot be read.
    FormatError
        If it is larger than any that is meant.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would let us wait forever
            raise StorageError(f"{path}: is no file, and no BigDataViewer XML")
        with path.open("rb") as file:
            data = file.read(_LARGEST_XML + 1)
            if len(data) > _LARGEST_XML:
                raise _too_large(str(path), os.fstat(file.fileno()).st_size)
    except OSError as error:
        if isinstance(error, LsfmError):
            raise
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
    return data


def _too_large(name: str, size: int) -> FormatError:
    return FormatError(f"{name}: is {size_text(size)} large, and an XML of {size_text(_LARGEST_XML)} at most is read")


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
        registrations: dict[str | None, list[Element]] = {}
        for item in root.iterfind("ViewRegistrations/ViewRegistration"):
            registrations.setdefault(item.get("setup"), []).append(item)
        setups = root.iterfind("SequenceDescription/ViewSetups/ViewSetup")
        words = {
            (block.get("name"), item.findtext("id", "").strip()): plain((item.findtext("name") or "").strip())
            for block in root.iterfind("SequenceDescription/ViewSetups/Attributes")
            for item in block
        }
        views = _named(_parse_view(setup, registrations, words) for setup in setups)
    except ValueError as error:
        raise FormatError(f"{name}: {error}") from error
    base = "" if hdf5.get("type") == "absolute" else (root.findtext("BasePath") or "").strip()
    return BdvXml((hdf5.text or "").strip(), views, base)


def _parse(data: bytes, name: str) -> Element:
    if len(data) > _LARGEST_XML:
        raise _too_large(name, len(data))
    try:
        root: Element = defusedxml.ElementTree.fromstring(decode_xml(data), forbid_dtd=True)
    except (ElementTree.ParseError, DefusedXmlException, ValueError) as error:
        raise FormatError(f"{name}: not readable as XML: {error}") from error
    if root.tag != "SpimData":
        raise FormatError(f"{name}: the root element is <{root.tag}>, expected <SpimData>: not a BigDataViewer XML")
    return root


def _parse_view(
    setup: Element, registered: Mapping[str | None, Sequence[Element]], words: Mapping[tuple[str | None, str], str]
) -> View:
    index = int(setup.findtext("id", "0"))
    size = [int(v) for v in setup.findtext("size", "").split()]
    if len(size) != 3:
        raise ValueError(f"setup {index} has no <size> of three numbers")
    mm = mm_per(setup.findtext("voxelSize/unit", ""))
    voxel = [float(v) for v in setup.findtext("voxelSize/size", "").split()]
    found = registered.get(str(index), ())
    registrations = [_parse_registration(item, index) for item in found] or [np.eye(4)]
    world: npt.NDArray[np.float64] | None = registrations[0]
    size_mm, edges = None, np.ones(3)
    if mm is not None and len(voxel) == 3 and min(voxel) > 0:
        size_mm = (voxel[2] * mm, voxel[1] * mm, voxel[0] * mm)
        edges = np.array(voxel) * mm
        world = _in_mm(registrations[0], np.array(voxel), mm)
    attributes = [(item, plain((item.text or "").strip())) for item in setup.iterfind("attributes/*")]
    return View(
        setup=index,
        name=plain((setup.findtext("name") or "").strip()),
        shape=(size[2], size[1], size[0]),
        voxel_size_mm=size_mm,
        world_from_voxel=(np.diag([*edges, 1.0]) if world is None else world)[:, [2, 1, 0, 3]],
        moves=not all(np.allclose(other, registrations[0]) for other in registrations[1:]),
        placed=world is not None,
        registered=bool(found),
        attributes=tuple((item.tag, words.get((item.tag, text)) or text) for item, text in attributes if text),
    )


def _named(views: Iterable[View]) -> tuple[View, ...]:
    """Views with names: those without one are called by what tells them from the others."""
    views = tuple(views)
    told = [{pair for view in views for pair in view.attributes if pair[0] == tag} for tag in _ATTRIBUTES]
    varying = [tag for tag, pairs in zip(_ATTRIBUTES, told, strict=True) if len(pairs) > 1]

    def name_of(view: View) -> str:
        if view.name:
            return view.name
        return ", ".join(f"{tag} {text}" for tag, text in view.attributes if tag in varying) or f"setup {view.setup}"

    return tuple(replace(view, name=name_of(view)) for view in views)


def with_voxel_size(view: View, voxel_size_mm: Triple) -> View:
    """A view whose XML gives no unit of length, with voxels of this size (planes, rows, columns); any other as it is."""
    if view.voxel_size_mm is not None:
        return view
    xyz = [2, 1, 0, 3]
    world = _in_mm(view.world_from_voxel[:, xyz], np.array(voxel_size_mm[::-1]), 1.0)
    placed = np.diag([*voxel_size_mm[::-1], 1.0]) if world is None else world
    return replace(view, voxel_size_mm=voxel_size_mm, world_from_voxel=placed[:, xyz], placed=world is not None)


def _in_mm(world_from_xyz: npt.NDArray[np.float64], voxel: npt.NDArray[np.float64], mm: float) -> npt.NDArray[np.float64] | None:
    """A registration that maps to mm, whatever unit it maps to; None where the voxel size does not tell that.

    Some programs map to lengths. BigStitcher maps to the smallest edge of a voxel, along all axes; others leave voxels as they
    are, whatever their edges.

    Parameters
    ----------
    world_from_xyz : array (4, 4)
    voxel : array (3,)
        Its edges along x, y, z in a unit of `mm` millimetres.
    """
    linear = world_from_xyz[:3, :3]
    if not np.isfinite(world_from_xyz).all() or np.linalg.matrix_rank(linear) < 3:
        return None
    ratio = voxel / np.linalg.norm(linear, axis=0)  # how long the registration's unit is, by each axis
    smallest = float(voxel.min())
    spread, unit = min((float(np.abs(np.log(ratio / unit)).max()), unit) for unit in (1.0, smallest))
    if spread <= np.log(_STRETCH):
        scale = np.full(3, unit)
    elif ratio.max() <= ratio.min() * _STRETCH:
        scale = np.full(3, float(np.exp(np.log(ratio).mean())))
    elif np.allclose(linear, np.eye(3), atol=_STRETCH - 1):
        scale = voxel
    else:
        return None
    return np.diag([*scale * mm, 1.0]) @ world_from_xyz


def _parse_registration(item: Element, setup: int) -> npt.NDArray[np.float64]:
    world_from_xyz: npt.NDArray[np.float64] = np.eye(4)
    for affine in item.iterfind("ViewTransform/affine"):
        numbers = [float(v) for v in (affine.text or "").split()]
        if len(numbers) != 12:
            raise ValueError(f"setup {setup} has an affine of {len(numbers)} numbers, expected 12")
        # The last listed acts first on voxels.
        world_from_xyz = world_from_xyz @ np.vstack([np.reshape(numbers, (3, 4)), [0, 0, 0, 1]])
    return world_from_xyz


def render_xml(
    hdf5: str,
    views: Sequence[View],
    previous: bytes | None = None,
    *,
    others: Collection[int] = (),
    gone: Collection[int] = (),
    names: Mapping[int, str] = MappingProxyType({}),
) -> bytes:
    """The XML for an HDF5 file.

    Parameters
    ----------
    hdf5 : str
        The HDF5 file's name, beside the XML.
    views : sequence of View
        Of every setup that has voxels.
    previous : bytes, optional
        The XML that is to be replaced. Elements that we do not write are kept. Of a view whose name and size stay the same its
        registrations are, too, for somebody may have aligned it, and its angle, tile and the like.
    others : collection of int
        Setups that another program made: what the previous XML says of them stays as it stands.
    gone : collection of int
        Setups of others that are removed: nothing of them is kept, even if one of `views` has the number now.
    names : mapping of int to str
        Setups of others that get another name.
    """
    old = _parse(previous, hdf5) if previous is not None else Element("SpimData", version="0.2")
    for path in ("SequenceDescription/ViewSetups", "SequenceDescription/MissingViews", "ViewRegistrations"):
        for parent in old.iterfind(path):
            for element in [e for e in parent if _setup_of(e) in gone]:
                parent.remove(element)
    root = Element("SpimData", {"version": "0.2", **old.attrib})
    _text(root, "BasePath", ".", type="relative")
    sequence = SubElement(root, "SequenceDescription")
    loader = SubElement(sequence, "ImageLoader", format="bdv.hdf5")
    _text(loader, "hdf5", hdf5, type="relative")
    old_loader = old.find("SequenceDescription/ImageLoader")
    loader.extend(e for e in (() if old_loader is None else old_loader) if e.tag != "hdf5")
    before = {_setup_of(e): e for e in old.iterfind("SequenceDescription/ViewSetups/ViewSetup")}
    foreign = {setup: element for setup, element in before.items() if setup in others}
    ours = [view for view in views if view.setup not in foreign]
    kept = foreign | {v.setup: before[v.setup] for v in ours if v.setup in before and _same_view(before[v.setup], v)}
    sequence.append(_setups(views, before, foreign, kept, names, old))
    old_timepoints = old.find("SequenceDescription/Timepoints")
    present = sorted({timepoint for view in views for timepoint in view.timepoints}) or [0]
    if old_timepoints is None:
        element = SubElement(sequence, "Timepoints", type="range")
        _text(element, "first", str(present[0]))
        _text(element, "last", str(present[-1]))
        timepoints: Iterable[int] = range(present[0], present[-1] + 1)
    else:
        sequence.append(old_timepoints)
        timepoints = _timepoints(old_timepoints) or present
    old_missing = old.find("SequenceDescription/MissingViews")
    missing = Element("MissingViews")
    missing.extend(e for e in (() if old_missing is None else old_missing) if _setup_of(e) in foreign)
    for view in ours:
        for timepoint in timepoints:
            if timepoint not in view.timepoints:
                SubElement(missing, "MissingView", timepoint=str(timepoint), setup=str(view.setup))
    if len(missing) or old_missing is not None:
        sequence.append(missing)
    sequence.extend(e for e in old.iterfind("SequenceDescription/*") if sequence.find(e.tag) is None)
    registrations = SubElement(root, "ViewRegistrations")
    registrations.extend(e for e in old.iterfind("ViewRegistrations/ViewRegistration") if _setup_of(e) in kept)
    registered = {_setup_of(e) for e in registrations}
    for view in views:
        if view.setup not in registered:
            registrations.extend(_registration(view, timepoint) for timepoint in view.timepoints)
    root.extend(e for e in old if root.find(e.tag) is None)
    return _serialized(root)


def _setups(
    views: Sequence[View],
    before: Mapping[int, Element],
    foreign: Mapping[int, Element],
    kept: Mapping[int, Element],
    names: Mapping[int, str],
    old: Element,
) -> Element:
    """All setups, and what their attributes mean."""
    elements = dict(foreign)
    for setup, name in names.items():
        element = foreign.get(setup)
        if element is not None:
            found = element.find("name")
            if found is None:
                found = Element("name")
                element.insert(1, found)
            found.text = name
    taken = {element.findtext("attributes/channel") for element in kept.values()}
    for view in views:
        if view.setup not in foreign:
            same = view.setup in kept
            channel = view.setup
            while not same and str(channel) in taken:
                channel += 1
            taken.add(str(channel))
            elements[view.setup] = _setup(view, before.get(view.setup), same, channel)
    setups = Element("ViewSetups")
    setups.extend(elements[setup] for setup in sorted(elements))
    for attribute in _ATTRIBUTES:
        place = f"attributes/{attribute}"
        block = SubElement(setups, "Attributes", name=attribute)
        theirs = {element.findtext(place) for element in kept.values()}
        meant = {elements[view.setup].findtext(place): view.name for view in views} if attribute == "channel" else {}
        for index in dict.fromkeys(setup.findtext(place) for setup in setups.iterfind("ViewSetup")):
            if not index:
                continue
            item = old.find(f"SequenceDescription/ViewSetups/Attributes[@name='{attribute}']/*[id='{index}']")
            if item is None or index not in theirs:
                item = Element(attribute.capitalize())
                _text(item, "id", index)
                _text(item, "name", meant.get(index, index))
            block.append(item)
    setups.extend(
        e for e in old.iterfind("SequenceDescription/ViewSetups/*") if e.tag != "ViewSetup" and e.get("name") not in _ATTRIBUTES
    )
    _close_gaps(setups, [element for setup, element in elements.items() if setup not in foreign], foreign.values())
    return setups


def _close_gaps(setups: Element, ours: Iterable[Element], foreign: Iterable[Element]) -> None:
    """Number our channels without gaps, which some readers cannot do with; those of others keep their numbers."""
    place = "attributes/channel"
    fixed = {element.findtext(place) for element in foreign}
    used = {element.findtext(place, "") for element in ours} - fixed
    free = (str(number) for number in count() if str(number) not in fixed)
    numbers = dict(zip(sorted((text for text in used if text.isdecimal()), key=int), free, strict=False))
    items = setups.iterfind("Attributes[@name='channel']/*/id")
    for item in [*items, *(e for e in setups.iterfind(f"ViewSetup/{place}"))]:
        item.text = numbers.get(item.text or "", item.text)


def _setup_of(element: Element) -> int:
    """The setup that an element tells of; -1 where that is no number."""
    text = element.findtext("id", "") if element.tag == "ViewSetup" else element.get("setup", "")
    return int(text) if text.strip().isdecimal() else -1


def _timepoints(element: Element) -> list[int]:
    """The timepoints that a data set has, as SpimData lists them: a range, one by one, or as ``0-4, 7, 10-20:2``."""
    runs: list[range] = []
    try:
        if element.get("type") == "range":
            runs.append(range(int(element.findtext("first", "")), int(element.findtext("last", "")) + 1))
        elif element.get("type") == "list":
            runs += [range(number, number + 1) for number in (int(item.findtext("id", "")) for item in element)]
        else:
            for part in element.findtext("integerpattern", "").split(","):
                ends, _, step = part.partition(":")
                first, _, last = ends.partition("-")
                runs.append(range(int(first), int(last or first) + 1, int(step or 1)))
    except ValueError:
        return []
    # Nobody has so many: the numbers of a file that was made to harm, or is damaged.
    if sum((run.stop - run.start) // run.step for run in runs) > _MOST_TIMEPOINTS:
        return []
    return [number for run in runs for number in run]


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
    for element in root.iterfind("BasePath"):
        element.text = "."
        element.set("type", "relative")
    return _serialized(root)


def _serialized(root: Element) -> bytes:
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="us-ascii", xml_declaration=True)
    for element in root.iterfind("SequenceDescription/ImageLoader/hdf5"):
        name = element.text or ""
        escaped = escape(name)
        # Bio-Formats takes of a name only what follows its last reference; BigDataViewer reads it either way.
        if escaped != name and name.isascii() and "]]>" not in name:
            text = text.replace(f">{escaped}</hdf5>".encode(), f"><![CDATA[{name}]]></hdf5>".encode(), 1)
    return text + b"\n"


def _setup(view: View, before: Element | None, same: bool, channel: int) -> Element:
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
        value = str(channel if attribute == "channel" else 0)
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
