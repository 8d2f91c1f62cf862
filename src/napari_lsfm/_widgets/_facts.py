"""What a form must know of a file, and how the file's world lies in napari's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core import Channel, LabelTable, Orientation, Space, known_spaces, open_lsfm
from napari_lsfm._layers import LayerData

__all__ = ["FileFacts", "Frame", "Place", "StoredTransform", "layers_of", "lsfm_paths", "origin_of", "show_channel"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StoredTransform:
    """A transform that is stored in a file.

    Attributes
    ----------
    name : str
        As a `TransformStep` names it.
    kind : {"affine", "field"}
    has_inverse : bool
        Whether its inverse is known: that of every affine, and of a field its partner.
    """

    name: str
    kind: str
    has_inverse: bool


@dataclass(frozen=True)
class Frame:
    """napari's world, mm along the native axes of a file, against the world of an image in it.

    Attributes
    ----------
    ras_from_native : array (4, 4)
    """

    ras_from_native: FloatArray

    @classmethod
    def of(cls, axcodes: str) -> Frame:
        """Of native axes that grow toward these sides, where both worlds have the same zero."""
        ras_from_native = np.eye(4)
        ras_from_native[:3, :3] = Orientation(axcodes).direction
        return cls(ras_from_native)

    @property
    def axcodes(self) -> str | None:
        """Where the native axes grow toward; None where the two worlds do not have the same zero."""
        if self.ras_from_native[:3, 3].any():
            return None
        largest = np.abs(self.ras_from_native[:3, :3]).argmax(axis=0)
        return "".join("LPI RAS"[axis + 4 * (self.ras_from_native[axis, n] > 0)] for n, axis in enumerate(largest))

    def box_to_ras(self, lower: npt.ArrayLike, upper: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """The smallest and largest R, A, S of a box in the native frame."""
        return _box(self.ras_from_native, lower, upper)

    def box_to_native(self, lower: npt.ArrayLike, upper: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """The way back."""
        return _box(np.linalg.inv(self.ras_from_native), lower, upper)

    def to_ras(self, point: npt.ArrayLike) -> FloatArray:
        """R, A, S of a point in the native frame."""
        return np.asarray(self.ras_from_native[:3, :3] @ np.asarray(point) + self.ras_from_native[:3, 3])

    def place(self, space: Space) -> Space:
        """A space with native mm in the place of R, A, S."""
        return Space(space.shape, np.linalg.inv(self.ras_from_native) @ space.world_from_voxel)


@dataclass(frozen=True, eq=False)
class Place:
    """Where an image lies in napari's world.

    Attributes
    ----------
    frame : Frame
    bounds : array (2, 3)
        Lower and upper corner in the native frame, mm.
    voxel_size_mm : tuple of 3 float
        Along the native axes.
    """

    frame: Frame
    bounds: FloatArray
    voxel_size_mm: tuple[float, ...]

    @property
    def middle(self) -> FloatArray:
        """(2, 3) corners of the box in its middle that is half as long."""
        middle: FloatArray = self.bounds + [[0.25], [-0.25]] * np.ptp(self.bounds, axis=0)
        return middle


@dataclass(frozen=True, eq=False)
class FileFacts:
    """What stays of a file when it is closed.

    Attributes
    ----------
    path : Path
    channels : mapping of str to Channel
        Their voxels cannot be read any more.
    tables : mapping of str to LabelTable
        Of the labels channels.
    spaces : tuple of str
        The names of all that occur.
    """

    path: Path
    channels: Mapping[str, Channel]
    tables: Mapping[str, LabelTable]
    spaces: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> FileFacts:
        """Look into a file; for a thread, since a slow disk takes its time."""
        with open_lsfm(path) as file:
            labels = [name for name, channel in file.channels.items() if channel.kind == "labels"]
            tables = {name: LabelTable.from_json(file.label_table(name)) for name in labels}
            return cls(path, dict(file.channels), tables, tuple(sorted(known_spaces(file))))

    def of_kind(self, *kinds: str) -> list[str]:
        """Names of the channels that are of one of some kinds."""
        return [name for name, channel in self.channels.items() if channel.kind in kinds]

    def frame(self, channel: str, orientation: str | None = None) -> Frame:
        """The native frame in which a channel is shown, against the world in which it is exported.

        Parameters
        ----------
        channel : str
        orientation : str, optional
            What an export takes the image to lie like, where the file does not tell.
        """
        own = self.channels[channel]
        # As in `_layers`: channels without an orientation have a frame of their own.
        first = next(c for c in self.channels.values() if (c.orientation is None) == (own.orientation is None))
        shown_from_native = np.eye(4)
        shown_from_native[:3, :3] = (first.orientation or first.space.orientation).direction
        if own.orientation is not None or orientation is None:
            return Frame(shown_from_native)
        exported = own.oriented(Orientation(orientation))
        return Frame(exported.world_from_voxel @ own.space.voxel_from_world @ shown_from_native)

    def place(self, channel: str, orientation: str | None = None) -> Place:
        """Where a channel lies in the native frame; `orientation` as for `frame`."""
        space = self.frame(channel).place(self.channels[channel].space)
        voxel_size = space.reoriented(space.reorientation_to(Orientation("RAS"))).voxel_size_mm
        return Place(self.frame(channel, orientation), np.array([space.bounds.lower_mm, space.bounds.upper_mm]), voxel_size)

    def transforms(self, channel: str) -> Iterator[StoredTransform]:
        """All that can be part of a chain that begins at a channel; its own come first."""
        own = self.channels[channel]
        yield from (StoredTransform(name, "affine", True) for name in own.affines)
        for other in self.channels.values():
            if other.kind == "vectors" and other.orientation is not None and other.name not in own.affines:
                yield StoredTransform(other.name, "field", other.partner in self.channels)
        for other in self.channels.values():
            if other is not own:
                yield from (StoredTransform(f"{other.name}/{name}", "affine", True) for name in other.affines)


def origin_of(layer: Any) -> dict[str, Any] | None:
    """What a layer that shows a channel of a file tells of it; None of all others, what was exported from a file among them."""
    about: dict[str, Any] = {} if layer is None else layer.metadata.get("lsfm", {})
    return about if "path" in about else None


def layers_of(viewer: Any, path: Path, channel: str | None = None) -> list[Any]:
    """Layers that show a file, or one of its channels."""
    found = [(layer, origin_of(layer)) for layer in viewer.layers]
    return [
        layer
        for layer, origin in found
        if origin is not None and Path(origin["path"]) == path and channel in (None, origin["channel"])
    ]


def show_channel(viewer: Any, layers: Sequence[LayerData], channel: str) -> None:
    """Show a channel of a file's layers, which may have several, in the place of those of a channel that it has replaced."""
    new = [(data, keywords, kind) for data, keywords, kind in layers if keywords["metadata"]["lsfm"]["channel"] == channel]
    for _, keywords, _ in new[:1]:
        path = Path(keywords["metadata"]["lsfm"]["path"])
        # It may have been opened by another name.
        for shown in lsfm_paths(viewer):
            for old in layers_of(viewer, shown, channel) if shown.exists() and shown.samefile(path) else ():
                viewer.layers.remove(old)
    for data, keywords, kind in new:
        getattr(viewer, f"add_{kind}")(data, **keywords)


def lsfm_paths(viewer: Any) -> list[Path]:
    """The files that a viewer shows, that of the active layer first."""
    origins = [origin_of(layer) for layer in (viewer.layers.selection.active, *viewer.layers)]
    return list(dict.fromkeys(Path(origin["path"]) for origin in origins if origin is not None))


def _box(matrix: FloatArray, lower: npt.ArrayLike, upper: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    # Frames differ by turns of 90 degrees and shifts, so two corners tell.
    ends = np.stack([lower, upper]) @ matrix[:3, :3].T + matrix[:3, 3]
    return ends.min(axis=0), ends.max(axis=0)
