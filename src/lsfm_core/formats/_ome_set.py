"""Where the planes of an OME-TIFF image are: in one file, or in a set of files of which any was named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from lsfm_core.errors import InputError, SourceError
from lsfm_core.formats._channels import PlanesAre, check_one_timepoint, pick_channel
from lsfm_core.formats._files import check_inside, companion
from lsfm_core.formats._ome import OmeBlock, OmeImage, metadata_file, parse_ome
from lsfm_core.formats._series import Selection, find_series, select_files

__all__ = ["OmeReader", "OmeVolume", "find_ome_volume"]

_MOST_NAMED = 5
#: So many files beside a set may be none of it, without a question.
_MOST_ODD = 2

_Page = tuple[Path, int]


@dataclass(frozen=True)
class OmeReader:
    """What has to be known of the files of a set.

    Attributes
    ----------
    pages_of : callable
        Number of pages of a TIFF file.
    xml_of : callable
        OME-XML of a TIFF file, or of one that holds nothing else; None where there is none.
    """

    pages_of: Callable[[Path], int]
    xml_of: Callable[[Path], bytes | None]


@dataclass(frozen=True)
class OmeVolume:
    """One channel of an OME-TIFF image.

    Attributes
    ----------
    image : OmeImage
    channel : int or None
        None where the files were named, and not the channel.
    pages : tuple of (Path, int)
        File and page of each plane.
    notes : tuple of str
    used : frozenset of int
        Pages of the file that was named which the XML tells of, of any channel.
    """

    image: OmeImage
    channel: int | None
    pages: tuple[_Page, ...]
    notes: tuple[str, ...] = ()
    used: frozenset[int] = frozenset({0})

    @property
    def files(self) -> set[Path]:
        return {file for file, _ in self.pages}


def find_ome_volume(
    path: Path,
    xml: bytes,
    reader: OmeReader,
    *,
    channel: int | str | None,
    planes_are: PlanesAre | None,
    selection: Selection | None = None,
) -> OmeVolume:
    """The volume of which a file is a member.

    Parameters
    ----------
    path : Path
        A TIFF file, or one that holds OME-XML only.
    xml : bytes
        Its own OME-XML.
    reader : OmeReader
    channel, planes_are
        As `lsfm_core.formats.open_source` takes them.
    selection : Selection, optional
        The files that were named, where it was not this one.

    Raises
    ------
    SourceError
        If files or planes are missing, or the XML contradicts the files.
    InputError
        If it is not clear which volume is meant.
    """
    base = path
    reference = metadata_file(str(path), xml)
    if reference is not None:
        base = _master(path, reference)
        found = reader.xml_of(base)
        if found is None or metadata_file(str(base), found) is not None:
            raise SourceError(f"{path}: leaves its metadata to {reference!r}, which has none: the set is not whole")
        xml = found
    image = parse_ome(str(base), xml).with_planes(str(path), planes_are)
    sizes = image.sizes
    planes = sizes["Z"] * sizes["C"] * sizes["T"]
    if planes == 1 and base == path and reader.pages_of(path) == 1:
        return OmeVolume(image, 0, ((path, 0),))
    check_one_timepoint(str(path), sizes["T"], sizes["Z"])
    member = _Set(path, base, image, reader, selection, planes_are)
    volume = member.by_names_alone() or member.by_blocks(channel)
    return volume if selection is None else member.checked(volume, selection, channel)


def _master(path: Path, reference: str) -> Path:
    try:
        return companion(path, reference)
    except SourceError:
        found = _beside(path, reference)
        if found is None:
            raise SourceError(
                f"{path}: leaves its metadata to the file {reference!r}, which is not there: put it into {path.parent}"
            ) from None
        return found


def _beside(path: Path, name: str) -> Path | None:
    """A file that another one names, in the same folder or below; what stands before its name is of another machine."""
    for candidate in (name, name.replace("\\", "/"), PureWindowsPath(name).name):
        pure = PurePosixPath(candidate)
        if candidate and not pure.is_absolute() and ".." not in pure.parts and "\0" not in candidate:
            file = path.parent / candidate
            if file.is_file():
                check_inside(file, path)
                return file
    return None


class _Set:
    """A set of files around the one whose XML tells of them."""

    def __init__(
        self,
        path: Path,
        base: Path,
        image: OmeImage,
        reader: OmeReader,
        selection: Selection | None,
        planes_are: PlanesAre | None,
    ) -> None:
        self.path = path
        self.base = base
        self.image = image
        self.reader = reader
        self.selection = selection
        self.planes_are = planes_are
        #: Files that tell of themselves only, as this one does.
        self.siblings: tuple[Path, ...] = ()
        self.names = list(dict.fromkeys(block.file for block in image.blocks if block.file is not None))
        self.files: dict[str, Path | None] = {name: _beside(base, name) for name in self.names}
        # Users rename files: an id tells what a name does not. And a set of one file means this one, whatever it was called.
        own = {block.file for block in image.blocks if block.is_own and block.file is not None}
        if reader.pages_of(base):
            self.files |= dict.fromkeys(own, base)
        if not image.has_uuid and len(self.names) == 1 and self.files[self.names[0]] is None:
            self.files[self.names[0]] = base
        self.is_own = all(file == base for file in self.files.values())

    def by_names_alone(self) -> OmeVolume | None:
        """The volume in the order of its files' names, where the XML does not say which file holds what, or says it wrongly."""
        sizes = self.image.sizes
        gone = not self.is_own and not any(self.files.values())
        if not gone and not self._says_nothing():
            return None
        files = find_series(self.path).files
        if len(files) == 1:
            return None
        if len(files) != sizes["Z"]:
            raise SourceError(
                f"{self.path}: its OME-XML tells of {sizes['Z']} planes, and the series has {len(files)} files "
                f"({files[0].name} … {files[-1].name}): some are missing, or belong to another image"
            )
        notes = ("the files that the OME-XML names are not there: the planes are in the order of their names",) if gone else ()
        return OmeVolume(self.image, None, tuple((file, 0) for file in files), notes)

    def _says_nothing(self) -> bool:
        """Whether the XML does not tell which plane of many this file is: no block, or the same in all files."""
        blocks = self.image.blocks
        if not self.is_own or self.base != self.path or len(blocks) > 1 or self.reader.pages_of(self.path) > 1:
            return False
        if (blocks[0].z, blocks[0].c, blocks[0].t, blocks[0].page) != (0, 0, 0, 0):
            return False
        other = next((file for file in select_files(self.path).files if file != self.path), None)
        xml = None if other is None else self.reader.xml_of(other)
        return xml is None or [replace(b, file=None, is_own=False) for b in self._alike(other or self.path, xml).blocks] == [
            replace(b, file=None, is_own=False) for b in blocks
        ]

    def _alike(self, file: Path, xml: bytes) -> OmeImage:
        return parse_ome(str(file), xml).with_planes(str(file), self.planes_are)

    def by_blocks(self, channel: int | str | None) -> OmeVolume:
        """The volume as the XML tells where its planes are."""
        missing = [name for name, file in self.files.items() if file is None]
        if missing:
            partial = self._part()
            if partial is not None:
                return partial
            shown = ", ".join(repr(name) for name in missing[:_MOST_NAMED]) + (", …" if len(missing) > _MOST_NAMED else "")
            raise SourceError(
                f"{self.path}: its OME-XML names {len(missing)} of {len(self.names)} files that are not there: {shown}: put them "
                f"into {self.base.parent}, or name the others by a pattern"
            )
        found, used = self._own_pages()
        planes = self.image.sizes["Z"] * self.image.sizes["C"]
        if len(found) < planes and self.is_own:
            found = self._with_siblings(found)
        picked = self._picked(found, channel)
        pages = {z: page for (z, c), page in found.items() if c == picked}
        lacking = [z for z in range(self.image.sizes["Z"]) if z not in pages]
        if lacking:
            shown = ", ".join(map(str, lacking[:_MOST_NAMED])) + (" …" if len(lacking) > _MOST_NAMED else "")
            raise SourceError(
                f"{self.path}: its OME-XML tells of {self.image.sizes['Z']} planes, but gives a page for {len(pages)} only (none "
                f"for plane {shown}): the file is cut "
                "short, or belongs to a set that was taken apart"
            )
        return OmeVolume(self.image, picked, tuple(pages[z] for z in range(self.image.sizes["Z"])), used=frozenset(used))

    def checked(self, volume: OmeVolume, selection: Selection, channel: int | str | None) -> OmeVolume:
        """The volume, if it agrees with the files that were named; or that of these files only."""
        if volume.files == {self.path}:
            return volume
        odd = sorted(file.name for file in set(selection.files) - self._members(volume))
        if not selection.is_folder:
            if not volume.files <= set(selection.files):
                return self._part() or volume
            if odd:
                raise InputError(
                    f"{odd[0]}: was named with the others, but is not of their OME-TIFF set: leave it out of the pattern"
                )
            return volume
        if len(odd) > _MOST_ODD or 3 * len(odd) > len(selection.files) - len(odd):
            shown = ", ".join(odd[:_MOST_NAMED]) + (", …" if len(odd) > _MOST_NAMED else "")
            raise InputError(
                f"{self.base.parent}: beside the OME-TIFF set of {self.path.name} ({len(volume.files)} files) there are {len(odd)} "
                f"other files ({shown}): name one file of the set, or a pattern"
            )
        note = (f"left out, since the OME-XML does not name it: {', '.join(odd)}",) if odd else ()
        return replace(volume, notes=(*volume.notes, *note))

    def _members(self, volume: OmeVolume) -> set[Path]:
        """All files of the set, also those of other channels."""
        named = {file for file in self.files.values() if file is not None}
        return named | volume.files | {self.base} | (set(self.siblings) if self.is_own else set())

    def _part(self) -> OmeVolume | None:
        """The files that a pattern names, where they are not all of a set, in the order of their names."""
        if self.selection is None or self.selection.is_folder or len(self.selection.files) < 2:
            return None
        files = self.selection.files
        if self.reader.pages_of(files[0]) > 1:
            return None
        note = f"these are {len(files)} files of an OME-TIFF set of {len(self.names)}: the planes are in the order of their names"
        return OmeVolume(self.image, None, tuple((file, 0) for file in files), (note,))

    def _own_pages(self) -> tuple[dict[tuple[int, int], _Page], set[int]]:
        """By plane and channel, what the blocks of the XML say; and the pages of this file among them."""
        found: dict[tuple[int, int], _Page] = {}
        used: set[int] = set()
        for block in self.image.blocks:
            file = self.files[block.file] if block.file is not None else self.base
            assert file is not None
            for z, c, page in self._block(self.image, block, file):
                if file == self.path:
                    used.add(page)
                found[z, c] = (file, page)
        return found, used

    def _block(self, image: OmeImage, block: OmeBlock, file: Path) -> Iterable[tuple[int, int, int]]:
        """Plane, channel and page of each that a block tells of."""
        planes = image.sizes["Z"] * image.sizes["C"] * image.sizes["T"]
        # Of sets with a plane a file, the others are opened when they are read: there may be thousands.
        is_single = block.count == 1 and file not in (self.base, self.path)
        pages = block.page + 1 if is_single else self.reader.pages_of(file)
        number = min(planes, pages) - block.page if block.count is None else block.count
        if number > planes or block.page + number > pages:
            last = block.page + number - 1
            raise SourceError(
                f"{self.path}: its OME-XML tells of planes on pages {block.page} to {last} of {file.name}, which has {pages}"
            )
        for step in range(number):
            z, c, _ = image.plane_index(block, step)
            yield z, c, block.page + step

    def _with_siblings(self, own: dict[tuple[int, int], _Page]) -> dict[tuple[int, int], _Page]:
        """What the files beside this one say of themselves, where each tells of its own planes only."""
        files = (self.selection or select_files(self.path)).files
        try:
            return self._gathered(own, files)
        except InputError:
            # Tiles or channels that do not know of each other: the file that was named stands for its own.
            near = find_series(self.path).files if self.selection is None else files
            if len(near) >= len(files):
                raise
        return self._gathered(own, near)

    def _gathered(self, own: dict[tuple[int, int], _Page], files: Sequence[Path]) -> dict[tuple[int, int], _Page]:
        found = dict(own)
        self.siblings = ()
        for file in files:
            if file in (self.base, self.path):
                continue
            xml = self.reader.xml_of(file)
            if xml is None:
                continue
            image = self._alike(file, xml)
            if image.sizes != self.image.sizes or {block.file for block in image.blocks} - {None, file.name}:
                continue
            for block in image.blocks:
                for z, c, page in self._block(image, block, file):
                    if (z, c) in found:
                        raise InputError(
                            f"{self.path}: plane {z} is in {found[z, c][0].name} and in {file.name}, as both say: put the files of "
                            "one image into a folder of their own, or name them by a pattern"
                        )
                    found[z, c] = (file, page)
            self.siblings = (*self.siblings, file)
        return found

    def _picked(self, found: dict[tuple[int, int], _Page], channel: int | str | None) -> int:
        """The channel that was asked for, or whose files were named."""
        names = self.image.channel_names
        if channel is None and len(names) > 1 and self.selection is not None and not self.selection.is_folder:
            named = set(self.selection.files)
            of_channel = {c: {page[0] for (_, other), page in found.items() if other == c} for c in range(len(names))}
            covered = [c for c, files in of_channel.items() if files and files <= named]
            if len(covered) == 1:
                return covered[0]
        return pick_channel(str(self.path), names, channel, planes=self.image.sizes["Z"])
