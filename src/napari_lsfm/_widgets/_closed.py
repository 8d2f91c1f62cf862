"""A file whose layers must give way for a while, and look as before afterwards."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_lsfm._layers import LayerData
from napari_lsfm._widgets._facts import layers_of

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["ClosedFile", "show_again"]

#: How a layer looks, which the file does not tell.
_LOOKS = ("name", "visible", "opacity", "blending", "contrast_limits", "gamma", "colormap")


class ClosedFile:
    """What a viewer showed of a file that had to be closed, to show it again."""

    def __init__(self, viewer: Any, path: Path) -> None:
        self.path = path
        self._viewer = viewer
        camera = viewer.scene.camera
        self._camera = {name: getattr(camera, name) for name in ("center", "zoom", "angles")}
        self._dims = {name: getattr(viewer.dims, name) for name in ("ndisplay", "order", "point")}
        # No layer may be left in a variable here, or the file stays open.
        self._looks = {layer.metadata["lsfm"]["channel"]: _looks(layer, viewer) for layer in layers_of(viewer, path)}
        while shown := layers_of(viewer, path):
            viewer.layers.remove(shown.pop())
        # The file is closed when nothing refers to it any more, and napari's layers are tied up in circles.
        gc.collect()

    @property
    def channels(self) -> set[str]:
        """Those that were shown."""
        return set(self._looks)

    def restore(self, layer: Layer, channel: str) -> None:
        """Let a layer look as before, in its place."""
        if channel in self._looks:
            index, looks = self._looks[channel]
            self._viewer.layers.move(self._viewer.layers.index(layer), index)
            for name, value in looks.items():
                setattr(layer, name, value)

    def restore_view(self) -> None:
        """Look at the same place as before."""
        for name, value in self._dims.items():
            if name == "point":
                self._viewer.dims.set_point(range(len(value)), value)
            else:
                setattr(self._viewer.dims, name, value)
        for name, value in self._camera.items():
            setattr(self._viewer.scene.camera, name, value)


def show_again(viewer: Any, layers: Sequence[LayerData], channels: Sequence[str], closed: ClosedFile | None) -> None:
    """Show channels of a file, and those that were closed, of all its layers."""
    wanted = set(channels) | (closed.channels if closed is not None else set())
    # All of a channel's first: it may have several layers.
    for _, keywords, _ in layers:
        about = keywords["metadata"]["lsfm"]
        for old in layers_of(viewer, Path(about["path"]), about["channel"]) if about["channel"] in wanted else ():
            viewer.layers.remove(old)
    for data, keywords, kind in layers:
        name = keywords["metadata"]["lsfm"]["channel"]
        if name in wanted:
            layer = getattr(viewer, f"add_{kind}")(data, **keywords)
            if closed is not None:
                closed.restore(layer, name)
    if closed is not None:
        closed.restore_view()


def _looks(layer: Layer, viewer: Any) -> tuple[int, dict[str, Any]]:
    """A layer's place in the list, and how it looks; labels have their colours from the file."""
    names = [name for name in _LOOKS if hasattr(layer, name) and (name != "colormap" or type(layer).__name__ != "Labels")]
    return viewer.layers.index(layer), {name: getattr(layer, name) for name in names}
