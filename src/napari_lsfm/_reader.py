"""Reader: refuses cheaply what is not ours, then gives lazy layers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

# Its names are loaded when they are used, so this costs nothing when napari asks about a file of another kind.
import lsfm_core
from napari_lsfm._layers import LayerData, layer_tuples

__all__ = ["get_reader", "read_layers"]

PathOrPaths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
#: napari's way to say that a file was read, but has nothing to show.
Nothing = list[tuple[None]]

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: An XML declaration and some comments may precede BigDataViewer's root element.
_HEAD_BYTES = 4096
#: Decoded chunks of all open files together.
_CACHE_BYTES = 512 * 2**20
#: More than any plane or coarsest level takes: who asks for more in one piece did not mean to.
_MAX_READ_BYTES = 2 * 2**30


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerData] | Nothing] | None:
    """Reader of a file of ours, of lsfmpy's, or of any BigDataViewer HDF5, also by its XML; napari asks for it.

    Parameters
    ----------
    path : str, path, or sequence of them
        Of several files, each must be readable.

    Returns
    -------
    callable or None
        `read_layers`, or None for everything else; never raises.
    """
    try:
        paths = _as_paths(path)
        accepted = bool(paths) and all(_is_readable(p) for p in paths)
    except Exception:  # noqa: BLE001
        # napari asks every reader about every file: one that cannot even be looked at is for another to explain.
        return None
    return read_layers if accepted else None


def read_layers(path: PathOrPaths) -> list[LayerData] | Nothing:
    """Layers of one or more files: one per image or labels channel, whose voxels are read when they are shown.

    A file stays open until its last layer is gone.

    Raises
    ------
    LsfmError
        If a file is broken or in use by a writer; says what to do.
    """
    layers: list[LayerData] = []
    for one in _as_paths(path):
        file = lsfm_core.open_lsfm(one, cache=_chunk_cache(), max_read_bytes=_MAX_READ_BYTES)
        layers += layer_tuples(path=file.path, channels=list(file.channels.values()))
    return layers or [(None,)]


def _as_paths(path: PathOrPaths) -> list[Path]:
    return [Path(path)] if isinstance(path, str | os.PathLike) else [Path(one) for one in path]


def _is_readable(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if path.suffix.lower() == ".xml":
        return b"<SpimData" in head
    if not head.startswith(_HDF5_SIGNATURE):
        return False
    try:
        lsfm_core.open_lsfm(path).close()
    except lsfm_core.BusyError:
        # It may well be ours: reading it will say who is in the way.
        return True
    except lsfm_core.LsfmError:
        return False
    return True


@cache
def _chunk_cache() -> lsfm_core.ChunkCache:
    return lsfm_core.ChunkCache(_CACHE_BYTES)
