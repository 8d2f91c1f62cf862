"""Verify that a file is whole, and agrees with itself and with its XML."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, filterfalse, islice, pairwise, product
from math import prod
from pathlib import Path

import h5py
import numpy as np

from lsfm_core.arrays import ChunkCache
from lsfm_core.arrays.chunks import Grid
from lsfm_core.errors import FormatError, LsfmError
from lsfm_core.geometry import voxel_count
from lsfm_core.hdf5_damage import reading
from lsfm_core.progress import CancelToken, Progress, ProgressCallback, size_text
from lsfm_core.pyramid import block_mean, block_mode
from lsfm_core.store import _paths
from lsfm_core.store.channel import Channel, Level
from lsfm_core.store.file import LsfmFile
from lsfm_core.store.opening import open_lsfm
from lsfm_core.threads import shared_pool

__all__ = ["Defect", "VerifyReport", "box_text", "compare_xml", "structure_defects", "verify_file"]

#: Level-0 voxels that are compared at once.
_BLOCK_VOXELS = 2**23
#: Of one level, that are listed.
_MOST_DEFECTS = 1000


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong.

    Attributes
    ----------
    message : str
    channel : str or None
    level : int or None
    start, stop : tuple of int, or None
        The box of voxels that is hit, in array order.
    timepoint : int or None
        BigDataViewer's number, where the channel has several.
    """

    message: str
    channel: str | None = None
    level: int | None = None
    start: tuple[int, ...] | None = None
    stop: tuple[int, ...] | None = None
    timepoint: int | None = None

    def __str__(self) -> str:
        place = "" if self.channel is None else f"channel {self.channel!r}"
        if self.timepoint is not None:
            place += f", timepoint {self.timepoint}"
        if self.level is not None:
            place += f", level {self.level}"
        if self.start is not None and self.stop is not None:
            place += f", voxels {box_text(self.start, self.stop)}"
        return f"{place}: {self.message}" if place else self.message


@dataclass(frozen=True)
class VerifyReport:
    """What was looked at, and what is wrong.

    Attributes
    ----------
    path : Path
    chunks : int
        Chunks that were read, of all timepoints, and compared with their checksums where they have one.
    raw_bytes : int
        Their size, decoded.
    defects : tuple of Defect
        Empty if all is well.
    unchecked_chunks : int
        Those that carry no checksum, so that nothing tells whether what was decoded is what was written.
    """

    path: Path
    chunks: int
    raw_bytes: int
    defects: tuple[Defect, ...]
    unchecked_chunks: int = 0

    def describe(self) -> str:
        """What was found, in words."""
        if self.defects:
            return f"{len(self.defects)} defect(s) found"
        read = f"{self.chunks} chunks, {size_text(self.raw_bytes)} decoded"
        checked = self.chunks - self.unchecked_chunks
        if not self.unchecked_chunks:
            return f"all well: {read}, every checksum right"
        right = f"the checksums of {checked} are right, {self.unchecked_chunks} have none" if checked else "none has a checksum"
        return f"nothing wrong found: {read}; {right}, so that all that is known is that they can be decoded"


def verify_file(
    path: str | os.PathLike[str],
    *,
    levels: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> VerifyReport:
    """Check structure, XML against HDF5, and every chunk's checksum.

    Parameters
    ----------
    path : path
    levels : bool
        Also compute every coarser level anew, and compare.
    progress, cancel
        As everywhere.

    Raises
    ------
    LsfmError
        If the file cannot be opened at all; whatever is wrong inside it is in the report.
    """
    with open_lsfm(path, cache=ChunkCache(2**26)) as file:
        differences = [Defect(f"{place} {what}") for place, what in file.differences()]
        file.ignore_digests()
        try:
            channels = list(file.channels.values())
        except FormatError as error:
            return VerifyReport(file.path, 0, 0, (*differences, Defect(str(error).removeprefix(f"{file.path}: "))))
        defects = [*differences, *structure_defects(file, channels), *compare_xml(file)]
        views = [(channel, time, file.levels_at(channel.name, time)) for channel in channels for time in channel.timepoints]
        passes = sum(level.data.nbytes for _, _, pyramid in views for level in pyramid)
        if levels:
            passes += sum(pyramid[0].data.nbytes * (len(pyramid) - 1) for _, _, pyramid in views)
        report = Progress("verify", passes, progress, cancel)
        chunks = unchecked = raw_bytes = 0
        for _, _, pyramid in views:
            for level in pyramid:
                level.data.check_decodable()
        for channel, time, pyramid in views:
            for level in pyramid:
                for defect in _chunks(channel, level, _when(channel, time)):
                    chunks += 1
                    unchecked += not level.data.has_checksums
                    raw_bytes += voxel_count(level.data.chunks) * level.dtype.itemsize
                    if defect is not None:
                        defects.append(defect)
                report.advance(level.data.nbytes)
        if levels and not any(defect.level is not None for defect in defects):
            for channel, time, pyramid in views:
                for finer, level in pairwise(pyramid):
                    source = finer if channel.kind == "labels" else pyramid[0]
                    defects.extend(_against_finer(channel, source, level, _when(channel, time)))
                    report.advance(pyramid[0].data.nbytes)
        return VerifyReport(file.path, chunks, raw_bytes, tuple(defects), unchecked)


def structure_defects(file: LsfmFile, channels: list[Channel]) -> Iterator[Defect]:
    """Shapes, affines and BigDataViewer's tables against each other."""
    h5 = file.h5
    if _paths.INCOMPLETE in h5:
        yield Defect("holds the remains of a channel that was never completed")
    for channel in channels:
        yield from _pyramid_defects(channel)
        if channel.setup is None:
            continue
        try:
            with reading(file.path, f"BigDataViewer's setup {channel.setup} is broken"):
                defects = list(_setup_defects(h5, channel, channel.setup))
        except FormatError as error:
            defects = [Defect(str(error).removeprefix(f"{file.path}: "), channel.name)]
        yield from defects


def _pyramid_defects(channel: Channel) -> Iterator[Defect]:
    """Where levels do not follow from level 0."""
    first = channel.levels[0]
    for level in channel.levels:
        sizes = [n / f for n, f in zip(first.shape[:3], level.factors, strict=True)]
        expected = tuple(int(-(-size // 1)) for size in sizes)
        # Others may leave out the last voxels, where they fill no whole block.
        whole = tuple(max(1, int(size)) for size in sizes)
        if level.shape[:3] != expected and not (channel.foreign and level.shape[:3] == whole):
            yield Defect(f"has shape {level.shape[:3]}, expected {expected} by its factors", channel.name, level.index)
        if not level.space.same_grid(first.space.level(level.factors, level.shape[:3])):
            yield Defect("its affine does not follow from level 0 and its factors", channel.name, level.index)


def _setup_defects(h5: h5py.File, channel: Channel, setup: int) -> Iterator[Defect]:
    """Where BigDataViewer's part of the file does not say what the channel is."""
    root = h5.get(_paths.setup(setup), {})
    for name, wanted in (
        (_paths.RESOLUTIONS, [level.factors for level in channel.levels]),
        (_paths.SUBDIVISIONS, [level.data.chunks for level in channel.levels]),
    ):
        if name not in root or not np.array_equal(root[name][()][:, ::-1], wanted):
            yield Defect(f"BigDataViewer's {_paths.setup(setup)}/{name} does not say what the levels are", channel.name)
    for timepoint in channel.timepoints:
        for level in channel.levels:
            link = f"{_paths.view_level(timepoint, setup, level.index)}/{_paths.CELLS}"
            cells = h5.get(link)
            if not isinstance(cells, h5py.Dataset):
                message = f"BigDataViewer's {link} leads nowhere"
            elif cells.shape != level.shape:
                message = f"has shape {cells.shape}, at timepoint {channel.timepoints[0]} it is {level.shape}"
            else:
                continue
            yield Defect(message, channel.name, level.index, timepoint=_when(channel, timepoint))


def compare_xml(file: LsfmFile) -> Iterator[Defect]:
    """Where BigDataViewer's XML does not say what the file holds."""
    shown = [channel for channel in file.channels.values() if channel.setup is not None]
    name = file.xml_path.name
    if not file.xml_path.exists():
        if shown:
            yield Defect(f"there is no {name} beside the file: BigDataViewer cannot open it")
        return
    try:
        views = {view.setup: view for view in file.read_xml().views}
    except LsfmError as error:
        yield Defect(str(error))
        return
    for channel in shown:
        view = views.pop(channel.setup, None) if channel.setup is not None else None
        if view is None:
            yield Defect(f"{name} has no setup {channel.setup}", channel.name)
        elif view.shape != channel.levels[0].shape[:3]:
            yield Defect(f"{name} says {view.shape} voxels, the file has {channel.levels[0].shape[:3]}", channel.name)
        elif channel.foreign:
            continue  # whose voxel size the XML alone tells
        elif view.voxel_size_mm is None or not np.allclose(view.voxel_size_mm, channel.space.voxel_size_mm, rtol=1e-4):
            yield Defect(f"{name} says voxels of {view.voxel_size_mm} mm, the file {channel.space.voxel_size_mm}", channel.name)
    for setup in views.keys() - file.setups:
        yield Defect(f"{name} names setup {setup}, which the file does not have")


def _when(channel: Channel, timepoint: int) -> int | None:
    """The timepoint that a defect names: none where there is one only."""
    return timepoint if len(channel.timepoints) > 1 else None


def _chunks(channel: Channel, level: Level, timepoint: int | None) -> Iterator[Defect | None]:
    """For each chunk of a level, what is wrong with it, or None; a damaged level is given up after `_MOST_DEFECTS`."""
    shape, chunks = level.shape, level.data.chunks
    grid = Grid(shape, chunks)
    written = level.data.written_chunks()
    numbers: Iterable[int] = range(prod(grid.counts)) if written is None else written.tolist()

    def check(number: int) -> Defect | None:
        start, stop = grid.box(number)
        try:
            level.data[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].touch()
        except (LsfmError, OSError) as error:
            # The cause, where there is one: the defect names the place in its own words.
            return Defect(str(error.__cause__ or error), channel.name, level.index, start, stop, timepoint)
        return None

    def missing() -> Iterator[Defect]:
        """Chunks that we wrote, and that are not there."""
        there = set(written.tolist()) if written is not None else set()
        for number in filterfalse(there.__contains__, range(prod(grid.counts))):
            yield Defect("was never written", channel.name, level.index, *grid.box(number), timepoint)

    # A slice at a time, so that a file of millions of chunks is not queued at once.
    found = chain.from_iterable(shared_pool().map(check, batch) for batch in _batches(numbers, 256))
    if written is not None and channel.written_by.startswith("lsfm-core") and len(written) < prod(grid.counts):
        found = chain(found, missing())
    defects = 0
    for defect in found:
        defects += defect is not None
        if defects > _MOST_DEFECTS:
            yield Defect("has more defects, which are not listed", channel.name, level.index, timepoint=timepoint)
            return
        yield defect


def _batches(numbers: Iterable[int], size: int) -> Iterator[list[int]]:
    rest = iter(numbers)
    while batch := list(islice(rest, size)):
        yield batch


def _against_finer(channel: Channel, finer: Level, level: Level, timepoint: int | None) -> Iterator[Defect]:
    """Where a level is not what its finer levels give."""
    labels = channel.kind == "labels"
    step = [round(a / b) for a, b in zip(level.factors, finer.factors, strict=True)]
    block = list(level.data.chunks[:3])
    while voxel_count(block) * voxel_count(step) > _BLOCK_VOXELS and max(block) > 1:
        block[block.index(max(block))] //= 2
    for start in product(*[range(0, n, b) for n, b in zip(level.shape, block, strict=False)]):
        stop = tuple(min(a + b, n) for a, b, n in zip(start, block, level.shape, strict=False))
        source = finer[
            tuple(slice(a * s, min(b * s, n)) for a, b, s, n in zip(start, stop, step, finer.shape, strict=False))
        ].read()
        expected = block_mode(source, step) if labels else block_mean(source, step)
        found = level[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].read()
        # Floats are summed in another order here; others round means otherwise.
        floats = found.dtype.kind == "f"
        close = np.allclose(found, expected, rtol=1e-5 if floats else 0, atol=float(channel.foreign and not floats), equal_nan=True)
        if not (close if floats or channel.foreign else np.array_equal(found, expected)):
            yield Defect("is not what the finer level gives", channel.name, level.index, start, stop, timepoint)


def box_text(start: tuple[int, ...], stop: tuple[int, ...]) -> str:
    """A box as numpy would be asked for it."""
    return "[" + ", ".join(f"{a}:{b}" for a, b in zip(start, stop, strict=True)) + "]"
