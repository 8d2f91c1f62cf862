"""The tree of an HDF5 file, copied object by object into another: groups, links, types, attributes and small datasets.

Why not HDF5's own H5Ocopy: it keeps the encodings of a file that a newer library wrote, which BigDataViewer cannot read; makes two
datasets of one that has two names; and empties references. Elements of fixed size are carried over as the bits that they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5a, h5d, h5g, h5o, h5r, h5s, h5t

from lsfm_core.arrays.chunks import Grid, bits_dtype

__all__ = ["Node", "TreeCopy", "address", "difference", "has_pointers", "nodes_of", "read_box"]

Array = npt.NDArray[Any]
Box = tuple[tuple[int, ...], tuple[int, ...]]
#: h5py.Group, Dataset or Datatype; h5py has no types for mypy.
Node: TypeAlias = Any

#: What is read at once of a dataset without chunks.
_SLAB_BYTES = 2**24
# The only name that a type can get at first; it is taken away at once.
_NAMELESS = b"lsfm-core nameless type"


def address(node: Node) -> int:
    """What tells whether two names of a file lead to the same object."""
    where: int = h5o.get_info(node.id).addr
    return where


def nodes_of(file: h5py.File, without: Collection[str]) -> dict[int, Node]:
    """Every object that hard links lead to, once, by its address; a group comes before what is in it.

    Parameters
    ----------
    file : h5py.File
    without : collection of str
        Names in the root group that are passed over.
    """
    root = file["/"]
    found: dict[int, Node] = {address(root): root}
    groups = [root]
    for group in groups:
        for name, link in _links(group, without):
            if isinstance(link, h5py.HardLink):
                node = group[name]
                if found.setdefault(address(node), node) is node and isinstance(node, h5py.Group):
                    groups.append(node)
    return found


class TreeCopy:
    """The copy of a tree, in the making.

    Parameters
    ----------
    nodes : mapping from addresses to objects
        What is to be copied; the root comes first.
    target : h5py.File
        Empty.
    without : collection of str
        Names in the root group that are passed over.
    """

    def __init__(self, nodes: Mapping[int, Node], target: h5py.File, without: Collection[str]) -> None:
        self._nodes = nodes
        self._target = target
        self._without = without
        self._copies: dict[int, Node] = {next(iter(nodes)): target["/"]}

    def build(self, creation: Callable[[h5py.Dataset], h5py.h5p.PropDCID]) -> None:
        """Make all objects, with their links and attributes; the datasets are empty.

        Parameters
        ----------
        creation : callable
            Gives the properties that the copy of a dataset is made with.
        """
        # Types first: datasets and attributes share them.
        for where, node in sorted(self._nodes.items(), key=lambda item: not isinstance(item[1], h5py.Datatype)):
            if where not in self._copies:
                self._copies[where] = self._empty(node, creation)
        for where, node in self._nodes.items():
            if isinstance(node, h5py.Group):
                copy = self._copies[where]
                for name, link in _links(node, self._without):
                    copy[name] = self._copies[address(node[name])] if isinstance(link, h5py.HardLink) else link
        for where, node in self._nodes.items():
            for attribute in map(_encoded, node.attrs):
                found = h5a.open(node.id, attribute)
                made = h5a.create(self._copies[where].id, attribute, self._type(found.get_type()), found.get_space())
                if found.get_space().get_simple_extent_type() != h5s.NULL:
                    values, memory = _read_attribute(found)
                    made.write(self._translated(values), memory)

    def copy_of(self, node: Node) -> Any:
        """The object that an object has become."""
        return self._copies[address(node)]

    def copy_values(self, dataset: h5py.Dataset) -> None:
        """Carry over the values of a dataset through HDF5, as far as they were ever written."""
        copy = self.copy_of(dataset)
        for box in _boxes(dataset):
            values, memory = read_box(dataset, box)
            in_memory, in_file = _spaces(copy, box)
            copy.id.write(in_memory, in_file, self._translated(values), memory)

    def _empty(self, node: Node, creation: Callable[[h5py.Dataset], h5py.h5p.PropDCID]) -> Node:
        if isinstance(node, h5py.Group):
            return h5py.Group(h5g.create(self._target.id, None, gcpl=node.id.get_create_plist()))
        if isinstance(node, h5py.Datatype):
            kind = _oldest(node.id)
            kind.commit(self._target.id, _NAMELESS)
            self._target.id.unlink(_NAMELESS)
            return h5py.Datatype(kind)
        kind = self._type(node.id.get_type())
        return h5py.Dataset(h5d.create(self._target.id, None, kind, node.id.get_space(), creation(node)))

    def _type(self, kind: h5t.TypeID) -> h5t.TypeID:
        shared = self._copies.get(h5o.get_info(kind).addr) if kind.committed() else None
        return _oldest(kind) if shared is None else shared.id

    def _translated(self, values: Array) -> Array:
        """Let references lead to the copies of what they lead to."""
        if values.dtype.names:
            for name in values.dtype.names:
                values[name] = self._translated(values[name])
        elif values.dtype.hasobject:
            for index in np.ndindex(values.shape):
                if isinstance(values[index], np.ndarray):
                    self._translated(values[index])
                elif isinstance(values[index], h5r.Reference) and values[index]:
                    values[index] = self._reference(values[index])
        return values

    def _reference(self, value: h5r.Reference) -> h5r.Reference:
        root = next(iter(self._nodes.values())).id
        try:
            copy = self._copies[h5o.get_info(h5r.dereference(value, root)).addr].id
        except (KeyError, ValueError, RuntimeError):  # to something that was removed
            return type(value)()
        if isinstance(value, h5r.RegionReference):
            return h5r.create(copy, b".", h5r.DATASET_REGION, h5r.get_region(value, root))
        return h5r.create(copy, b".", h5r.OBJECT)


def difference(
    nodes: Mapping[int, Node], copy: h5py.File, without: Collection[str], apart: Callable[[h5py.Dataset], bool]
) -> str | None:
    """The first place where a finished copy is not what it was made from, or None.

    Parameters
    ----------
    nodes, without
        As `TreeCopy` got them.
    copy : h5py.File
    apart : callable
        Tells of which datasets of `nodes` the values are not to be compared.
    """
    places = {where: address(copy[node.name]) for where, node in nodes.items()}
    for node in nodes.values():
        twin = copy[node.name]
        if isinstance(node, h5py.Group):
            links = list(_links(node, without))
            if {name for name, _ in links} != set(twin):
                return f"{node.name}: members"
            for name, link in links:
                other = twin.get(name, getlink=True)
                if type(link) is not type(other) or _destination(link) != _destination(other):
                    return f"{node.name}: link {name}"
                if isinstance(link, h5py.HardLink) and places[address(node[name])] != address(twin[name]):
                    return f"{node.name}: link {name}"
        if set(node.attrs) != set(twin.attrs):
            return f"{node.name}: attributes"
        for attribute in map(_encoded, node.attrs):
            pair = [h5a.open(owner.id, attribute) for owner in (node, twin)]
            if pair[0].shape != pair[1].shape or not pair[0].get_type().equal(pair[1].get_type()):
                return f"{node.name}: attribute {attribute.decode()}"
            if pair[0].get_space().get_simple_extent_type() != h5s.NULL:
                found, expected = (_comparable(_read_attribute(each)[0]) for each in pair)
                if found != expected:
                    return f"{node.name}: attribute {attribute.decode()}"
        if isinstance(node, h5py.Dataset):
            if node.shape != twin.shape or node.maxshape != twin.maxshape or not node.id.get_type().equal(twin.id.get_type()):
                return f"{node.name}: shape or type"
            if not apart(node):
                for box in _boxes(node):
                    if _comparable(read_box(node, box)[0]) != _comparable(read_box(twin, box)[0]):
                        return f"{node.name}: values"
    return None


def has_pointers(kind: h5t.TypeID) -> bool:
    """Whether elements of a type lead to somewhere else in the file, so that their bits mean nothing in another one."""
    if kind.detect_class(h5t.VLEN) or kind.detect_class(h5t.REFERENCE):
        return True
    try:
        return bool(kind.dtype.hasobject)  # texts of any length
    except TypeError:  # numpy has no such type: a number of an odd kind
        return False


def read_box(dataset: h5py.Dataset, box: Box) -> tuple[Array, h5t.TypeID | None]:
    """Elements of a box, as bits where they can be, and the type that HDF5 has to be told when they are written."""
    kind = dataset.id.get_type()
    start, stop = box
    in_memory, in_file = _spaces(dataset, box)
    values, memory = _room(kind, tuple(b - a for a, b in zip(start, stop, strict=True)))
    dataset.id.read(in_memory, in_file, values, memory)
    return values, memory


def _read_attribute(attribute: h5a.AttrID) -> tuple[Array, h5t.TypeID | None]:
    values, memory = _room(attribute.get_type(), attribute.shape)
    attribute.read(values, memory)
    return values, memory


def _room(kind: h5t.TypeID, shape: tuple[int, ...]) -> tuple[Array, h5t.TypeID | None]:
    if has_pointers(kind):
        return np.empty(shape, kind.dtype), None
    return np.zeros(shape, bits_dtype(kind)), kind


def _spaces(dataset: h5py.Dataset, box: Box) -> tuple[Any, Any]:
    start, stop = box
    if not start:
        return h5s.ALL, h5s.ALL
    count = tuple(b - a for a, b in zip(start, stop, strict=True))
    in_file = dataset.id.get_space()
    in_file.select_hyperslab(start, count)
    return h5s.create_simple(count), in_file


def _boxes(dataset: h5py.Dataset) -> Iterator[Box]:
    """Boxes that together cover what was ever written of a dataset; nothing of what lies in other files."""
    if dataset.is_virtual or dataset.external or dataset.shape is None or not dataset.size or not dataset.id.get_storage_size():
        return
    if dataset.chunks is not None:
        grid = Grid(dataset.shape, dataset.chunks)
        yield from map(grid.box, map(int, grid.written(dataset)))
    elif not dataset.shape:
        yield (), ()
    else:
        row = dataset.id.get_type().get_size() * dataset.size // dataset.shape[0]
        grid = Grid(dataset.shape, (min(dataset.shape[0], max(1, _SLAB_BYTES // row)), *dataset.shape[1:]))
        yield from map(grid.box, range(grid.counts[0]))


def _links(group: h5py.Group, without: Collection[str]) -> Iterator[tuple[str, Any]]:
    for name in group:
        if group.name != "/" or name not in without:
            yield name, group.get(name, getlink=True)


def _destination(link: Any) -> tuple[Any, ...]:
    return tuple(getattr(link, part, None) for part in ("filename", "path"))


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _comparable(values: Any) -> Any:
    """What can be compared between files: everything but where a reference leads."""
    if isinstance(values, np.ndarray):
        if values.dtype.names and values.dtype.hasobject:
            return [_comparable(values[name]) for name in values.dtype.names]
        return [_comparable(value) for value in values.ravel()] if values.dtype.hasobject else values.tobytes()
    return None if isinstance(values, h5r.Reference) else values


def _oldest(kind: h5t.TypeID) -> h5t.TypeID:
    """The same type, to be encoded in the oldest way that knows it: compounds, enumerations and arrays bring theirs along."""
    if isinstance(kind, h5t.TypeCompoundID):
        made = h5t.create(h5t.COMPOUND, kind.get_size())
        for index in range(kind.get_nmembers()):
            made.insert(kind.get_member_name(index), kind.get_member_offset(index), _oldest(kind.get_member_type(index)))
        return made
    if isinstance(kind, h5t.TypeEnumID):
        made = h5t.enum_create(_oldest(kind.get_super()))
        for index in range(kind.get_nmembers()):
            made.enum_insert(kind.get_member_name(index), kind.get_member_value(index))
        return made
    if isinstance(kind, h5t.TypeArrayID):
        return h5t.array_create(_oldest(kind.get_super()), kind.get_array_dims())
    if isinstance(kind, h5t.TypeVlenID):
        return h5t.vlen_create(_oldest(kind.get_super()))
    return kind.copy()
