"""Sample data: a synthetic brain with regions and a displacement field, made when it is first asked for."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from napari_lsfm._layers import LayerData

__all__ = ["open_sample"]


def open_sample() -> list[LayerData]:
    """Layers of the synthetic brain: its image, its regions, and how the warp moves it."""
    from napari_lsfm._arrows import field_layer
    from napari_lsfm._reader import read_layers

    path = Path(_folder().name) / "sample.h5"
    if not path.exists():
        from lsfm_core.testing import write_phantom_file

        write_phantom_file(path)
    return [*read_layers(path), field_layer(path, "warp", max_vectors=4000)]


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Goes with the program."""
    return tempfile.TemporaryDirectory(prefix="napari-lsfm-")
