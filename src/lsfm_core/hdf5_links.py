"""HDF5 whose parts lie in other files: external links, external raw storage, virtual datasets; followed within a folder only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import h5py

from lsfm_core.confinement import is_inside
from lsfm_core.errors import FormatError, MissingError

__all__ = ["check_links", "inside"]

#: More links one after the other are taken for a circle.
_MOST_LINKS = 16
#: Virtual datasets of virtual datasets of …
_DEEPEST = 8
#: HDF5's place for the number of a block in a source's name.
_BLOCK_NUMBER = re.compile(r"%\d*b")


def check_links(h5: h5py.File, path: Path, place: str) -> None:
    """Refuse to open what an external link has elsewhere than in the file's folder; HDF5 would open whatever it names.

    Parameters
    ----------
    h5 : h5py.File
    path : Path
        The file that was opened.
    place : str
        Need not be there.

    Raises
    ------
    FormatError
    """
    for _ in range(_MOST_LINKS):
        place = _first_link(h5, path, place)
        if not place:
            return
    raise FormatError(f"{path}: {place}: too many links, one to the other")


def _first_link(h5: h5py.File, path: Path, place: str) -> str:
    """Where the first soft link of a place leads, with what comes after it; empty if there is none."""
    node: h5py.Group = h5["/"]
    parts = [part for part in place.split("/") if part not in ("", ".")]
    for index, part in enumerate(parts):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if isinstance(link, h5py.ExternalLink):
            file = path.resolve().parent / link.filename
            if not is_inside(file, path):
                raise FormatError(
                    f"{path}: a link leads to {file}, outside of the folder of the data set: move it there, or allow it with "
                    "--allow-outside"
                )
            return ""
        if isinstance(link, h5py.SoftLink):
            start = "" if link.path.startswith("/") else f"{node.name}/"
            return "/".join([f"{start}{link.path}", *parts[index + 1 :]])
        if link is None:
            return ""
        node = node[part]
    return ""


def inside(dataset: h5py.Dataset, path: Path, depth: int = 0, own: Path | None = None) -> h5py.Dataset:
    """The dataset, unless it would give what lies outside of the folder of the file through which it was reached.

    Parameters
    ----------
    dataset : h5py.Dataset
    path : Path
        The file that was opened.
    depth : int
        So many virtual datasets led to this one.
    own : Path, optional
        The file that holds the dataset, where that is known already.

    Raises
    ------
    FormatError
        If some of its values lie in a file elsewhere.
    MissingError
        If they lie in a file that is not there, for which HDF5 would give fill values.
    """
    if own is None:
        # Of a file that is read through Python, HDF5 knows no name.
        own = path if dataset.file.driver == "fileobj" else Path(dataset.file.filename)
        if own != path and not is_inside(own, path):
            raise _refusal(path, dataset, own, "links to")
    if dataset.id.get_create_plist().get_layout() in (h5py.h5d.CHUNKED, h5py.h5d.COMPACT):
        return dataset
    for name, _, _ in dataset.external or ():
        # HDF5 takes these from the working directory.
        if not is_inside(name, path):
            raise _refusal(path, dataset, Path(name), "keeps its values in")
    if not dataset.is_virtual:
        return dataset
    if depth > _DEEPEST:
        raise FormatError(f"{path}: {dataset.name} is made of virtual datasets that lead to each other more than {_DEEPEST} times")
    for source in dataset.virtual_sources():
        for file in _files(own, source.file_name):
            if not is_inside(file, path):
                raise _refusal(path, dataset, file, "takes its values from")
            if file.is_file() and file.samefile(own) and _BLOCK_NUMBER.search(source.dset_name) is None:
                if source.dset_name in dataset.file:
                    inside(dataset.file[source.dset_name], path, depth + 1)
                continue
            if not file.is_file():
                raise MissingError(f"{path}: {dataset.name} takes its values from {file}, which is missing")
            with h5py.File(file, "r") as other:
                if source.dset_name in other:
                    inside(other[source.dset_name], path, depth + 1)
    return dataset


def _files(own: Path, name: str) -> Iterator[Path]:
    """The files that a virtual dataset's source can mean: HDF5 looks in the folder of the dataset's own file first."""
    if name == ".":
        yield own
    elif _BLOCK_NUMBER.search(name) is None:
        yield own.parent / name
    else:
        place = own.parent / name
        yield from sorted(place.parent.glob(_BLOCK_NUMBER.sub("*", place.name))) or [place]


def _refusal(path: Path, dataset: h5py.Dataset, file: Path, verb: str) -> FormatError:
    return FormatError(
        f"{path}: {dataset.name} {verb} {file}, outside of the folder of the data set: move it there, or allow it with "
        "--allow-outside"
    )
