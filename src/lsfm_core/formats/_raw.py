"""Voxels as NIfTI, NRRD and MetaImage keep them: one block of numbers, x fastest, plain or compressed, after or beside a header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lsfm_core.errors import SourceError
from lsfm_core.formats._field import FieldWords
from lsfm_core.formats._files import MAX_DEFLATE_RATIO, DataFile, Inflater, bytes_of
from lsfm_core.formats._sink import OutputImage, Sink
from lsfm_core.formats._source import Source
from lsfm_core.geometry import Orientation, Shape3, Space, Triple, voxel_count
from lsfm_core.records import FileRecord

__all__ = ["RawLayout", "RawSink", "RawSource"]


@dataclass(frozen=True)
class RawLayout:
    """Where the voxels are, and how.

    Attributes
    ----------
    path : Path
        The file that holds them.
    offset : int
        Where they, or the compressed stream, begin in the file; counted from the end if negative.
    shape : tuple of 3 int
        In array order.
    stored : numpy.dtype
        In the file's byte order.
    compressed : bool
        gzip or zlib.
    skip : int
        Bytes of the decompressed stream before the first voxel.
    components : int
        Values per voxel.
    interleaved : bool
        Whether a voxel's components stand together; else one whole volume follows the other.
    """

    path: Path
    offset: int
    shape: Shape3
    stored: np.dtype[Any]
    compressed: bool = False
    skip: int = 0
    components: int = 1
    interleaved: bool = False


class RawSource(Source):
    """Planes of a `RawLayout`.

    Parameters
    ----------
    header : Path
        The file that the user named.
    layout : RawLayout
    space, voxel_size_mm, facts
        As in `Source`.
    scaling : tuple of 2 float, optional
        Slope and intercept: values become ``slope * stored + intercept``, as float32 (float64 if stored so).
    exact : bool
        Whether scaled values are float64 in any case.
    words : FieldWords, optional
        What the file says of its vectors, which are delivered as they are stored.

    Raises
    ------
    SourceError
        If the file cannot hold what its header says, or the numbers are of a type that cannot be used.
    """

    def __init__(
        self,
        header: Path,
        layout: RawLayout,
        *,
        space: Space | None,
        voxel_size_mm: Triple | None,
        facts: Mapping[str, Any],
        scaling: tuple[float, float] | None = None,
        exact: bool = False,
        words: FieldWords | None = None,
    ) -> None:
        self.name = str(header)
        self.shape = layout.shape
        self.components = layout.components
        self.space = space
        self.voxel_size_mm = space.voxel_size_mm if space else voxel_size_mm
        self.forward_only = layout.compressed
        self.rows_in_order = layout.compressed
        self.facts = facts
        self._layout = layout
        self._scaling = scaling
        self.words = words
        if layout.stored.kind not in "uif" or layout.stored.itemsize > 8:
            raise SourceError(
                f"{header}: has voxels of type {layout.stored}: only integers and floats of up to 64 bits can be used"
            )
        if min(layout.shape) < 1:
            raise SourceError(
                f"{header}: is {' x '.join(map(str, layout.shape))} voxels (planes, rows, columns) large: it is empty"
            )
        native = layout.stored.newbyteorder("=")
        scaled = np.dtype(np.float64 if exact or native == np.float64 else np.float32)
        self.dtype = native if scaling is None else scaled
        self._parts = 1 if layout.interleaved else layout.components
        self._voxel = layout.stored.itemsize * (layout.components // self._parts)
        self._part_bytes = voxel_count(layout.shape) * self._voxel
        # How far each component's stream was read.
        self._next = [0] * self._parts
        self._streams: list[Inflater | None] = [None] * self._parts
        self._file = DataFile(layout.path)
        try:
            self._start = self._check_size(header)
        except SourceError:
            self.close()
            raise
        self._header = None if header == layout.path else header

    @property
    def unit(self) -> Shape3:
        return (1, 1, self.shape[2]) if self._layout.compressed else (1, 1, 1)

    @property
    def read_voxel_bytes(self) -> int:
        return (self.dtype.itemsize + self._layout.stored.itemsize) * self.components

    def read_plane(self, index: int, out: npt.NDArray[Any]) -> None:
        self.read_box((index, 0, 0), out[None])

    def read_box(self, start: Shape3, out: npt.NDArray[Any]) -> None:
        for offset, plane in enumerate(out):
            for part in range(self._parts):
                self._read_part(part, (start[0] + offset, *start[1:]), plane if self._parts == 1 else plane[..., part])

    def file_records(self) -> Sequence[FileRecord]:
        records = [self._file.record()]
        if self._header is not None:
            header = DataFile(self._header)
            try:
                records.insert(0, header.record())
            finally:
                header.close()
        return records

    def close(self) -> None:
        self._file.close()

    def _check_size(self, header: Path) -> int:
        """Where the voxels start, if they can all be there."""
        layout = self._layout
        need = voxel_count(layout.shape) * layout.components * layout.stored.itemsize
        size = self._file.size
        start = layout.offset if layout.offset >= 0 else size - need
        claim = f"its header tells of {' x '.join(map(str, layout.shape))} voxels, which are {need} bytes"
        if layout.compressed:
            if need > MAX_DEFLATE_RATIO * size:
                raise SourceError(
                    f"{header}: {claim}; no compression makes them {size} bytes: the header is wrong, or the file is damaged"
                )
        elif start < 0 or start + need > size:
            raise SourceError(
                f"{header}: is cut short: {claim} from byte {max(start, 0)} on, but {layout.path.name} has {size}: copy it again"
            )
        return start

    def _read_part(self, part: int, start: Shape3, target: npt.NDArray[Any]) -> None:
        """A piece of a plane of one component, or of all where these stand together."""
        direct = self._scaling is None and target.flags.c_contiguous and target.dtype == self._layout.stored
        buffer = target if direct else np.empty(target.shape, self._layout.stored)
        first = ((start[0] * self.shape[1] + start[1]) * self.shape[2] + start[2]) * self._voxel
        # Rows stand together where nothing is left out of them.
        pieces = [buffer] if buffer.shape[1] == self.shape[2] else buffer
        for row, piece in enumerate(pieces):
            self._fill(part, first + row * self.shape[2] * self._voxel, piece)
        if self._scaling is not None:
            # NaN and numbers beyond all bounds are kept as they come.
            with np.errstate(all="ignore"):
                np.multiply(buffer, self._scaling[0], out=target, dtype=np.float64, casting="unsafe")
                np.add(target, self._scaling[1], out=target, dtype=np.float64, casting="unsafe")
        elif not direct:
            target[...] = buffer

    def _fill(self, part: int, offset: int, piece: npt.NDArray[Any]) -> None:
        """Read what stands together, from a byte of the component on."""
        if not self._layout.compressed:
            self._file.read_into(self._start + part * self._part_bytes + offset, piece)
            return
        stream = self._stream(part, offset)
        stream.read_into(piece)
        self._next[part] = offset + piece.nbytes
        if part == self._parts - 1 and self._next[part] == self._part_bytes:
            stream.skip()

    def _stream(self, part: int, offset: int) -> Inflater:
        """The stream of one component, at a byte of it."""
        stream = self._streams[part]
        if stream is None:
            # Components that follow each other are read side by side, each by a decoder of its own.
            stream = self._streams[part] = Inflater(self._file, self._start)
            stream.skip(self._layout.skip + part * self._part_bytes)
        if offset < self._next[part]:
            plane_bytes = self._part_bytes // self.shape[0]
            raise SourceError(
                f"{self.name}: plane {offset // plane_bytes} was asked for after plane {(self._next[part] - 1) // plane_bytes}: "
                "compressed files are read forwards"
            )
        stream.skip(offset - self._next[part])
        self._next[part] = offset
        return stream


class RawSink(Sink):
    """Appends voxels to files that are nothing but little-endian numbers from there on.

    Parameters
    ----------
    image : OutputImage
    axis : int
        2 where the file runs fastest along axis 0, 0 where along the last axis.
    streams : sequence of binary files
        One, where a voxel's components stand together; else one for each component.
    vector_frame : str
        Where the components of vectors point in the file.
    """

    def __init__(self, image: OutputImage, axis: int, streams: Sequence[IO[bytes]], vector_frame: str = "RAS") -> None:
        super().__init__(image, axis)
        self._streams = streams
        self._opposite = _opposite(vector_frame) if image.kind == "vectors" else ()

    def _append(self, planes: npt.NDArray[Any]) -> None:
        if len(self._opposite):
            planes = planes.copy(order="K")
            for component in self._opposite:
                np.negative(planes[..., component], out=planes[..., component])
        if self.axis == 2:
            planes = planes.transpose(2, 1, 0, *range(3, planes.ndim))
        for component, stream in enumerate(self._streams):
            part = planes if len(self._streams) == 1 else planes[..., component]
            stream.write(bytes_of(np.ascontiguousarray(part, self._image.stored)))


def _opposite(vector_frame: str) -> Sequence[int]:
    """Components of RAS that are the opposite of the frame's, whose axes are those of RAS otherwise."""
    return tuple(int(component) for component in np.flatnonzero(np.diag(Orientation(vector_frame).direction) < 0))
