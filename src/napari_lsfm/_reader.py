"""Reader: refuses cheaply what is not ours, then gives lazy layers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Its names are loaded when they are used, so this costs nothing when napari asks about a file of another kind.
import lsfm_core
from napari_lsfm._preference import offer_to_open_always
from napari_lsfm._settings import current_settings
from napari_lsfm._window import current_viewer, tell

if TYPE_CHECKING:
    from napari_lsfm._layers import LayerData

__all__ = ["get_reader", "present_layers", "read_layers"]

PathOrPaths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

# HDF5's, and that of a file of ours in the middle of a change.
_SIGNATURES = (b"\x89HDF\r\n\x1a\n", b"\x89LS")
#: An XML declaration and some comments may precede BigDataViewer's root element.
_HEAD_BYTES = 4096
#: More than any plane or coarsest level takes: who asks for more in one piece did not mean to.
MAX_READ_BYTES = 2 * 2**30


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerData]] | None:
    """Reader of a file of ours, of lsfmpy's, or of any BigDataViewer HDF5, also by its XML; napari asks for it.

    Parameters
    ----------
    path : str, path, or sequence of them
        Of several files, each must be readable.

    Returns
    -------
    callable or None
        `read_layers`, or None for everything else; never raises. HDF5 that is damaged is accepted, for `read_layers` to say so.
    """
    try:
        paths = _as_paths(path)
        accepted = bool(paths) and all(_is_readable(p) for p in paths)
    except Exception:  # noqa: BLE001
        # napari asks every reader about every file: one that cannot even be looked at is for another to explain.
        return None
    return read_layers if accepted else None


def read_layers(path: PathOrPaths) -> list[LayerData]:
    """Layers of one or more files: one per image or labels channel, whose voxels are read when they are shown.

    Files are not kept from being changed: layers show what was there when they were opened.

    Raises
    ------
    LsfmError
        If a file is broken, in use by a writer of another kind, or has nothing that could be shown; says what to do.
    """
    layers: list[LayerData] = []
    for one in _as_paths(path):
        file, shown = _opened(one)
        if not shown:
            raise lsfm_core.InputError(_nothing_shown(file))
        layers += shown
        offer_to_open_always(one)
    if any(_nbytes(data) > chunk_cache().max_bytes for data, _, _ in layers):
        _tell_of_background()
    return layers


def present_layers(path: Path) -> list[LayerData]:
    """As `read_layers` of one file, which need not have anything that could be shown."""
    return _opened(path)[1]


def _opened(path: Path) -> tuple[lsfm_core.LsfmFile, list[LayerData]]:
    from napari_lsfm._layers import layer_tuples
    from napari_lsfm._viewing import attend_current

    attend_current()
    cache = chunk_cache()
    cache.max_bytes = current_settings().cache_mib * 2**20
    file = lsfm_core.open_lsfm(path, cache=cache, max_read_bytes=MAX_READ_BYTES, detached=True)
    refused = _too_large(file)
    layers = layer_tuples(file, leave_out=refused)
    if refused and not layers:
        raise next(iter(refused.values()))
    for name, error in refused.items():
        from napari.utils.notifications import show_warning

        show_warning(f"Channel {name!r} is not shown: {error}")
    return file, layers


def _too_large(file: lsfm_core.LsfmFile) -> dict[str, lsfm_core.MemoryBudgetError]:
    """Channels of which a single chunk would take too much memory, and why."""
    refused = {}
    for name, channel in file.channels.items():
        try:
            for level in channel.levels:
                level.data.check_decodable()
        except lsfm_core.MemoryBudgetError as error:
            refused[name] = error
    return refused


def _nothing_shown(file: lsfm_core.LsfmFile) -> str:
    """Why there is no layer of a file."""
    fields = ", ".join(name for name, channel in file.channels.items() if channel.kind == "vectors")
    if fields:
        return (
            f"{file.path}: holds no images, only displacement fields ({fields}): Layers > Visualize > Show displacement field "
            "shows them"
        )
    setups = ", ".join(str(setup) for setup in sorted(file.setups))
    found = f"BigDataViewer's setups {setups} have no voxels" if setups else "it has no channels"
    return "; ".join([f"{file.path}: there is nothing to show: {found}", *file.remarks])


def _as_paths(path: PathOrPaths) -> list[Path]:
    return [Path(path)] if isinstance(path, str | os.PathLike) else [Path(one) for one in path]


def _is_readable(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if path.suffix.lower() == ".xml":
        return b"<SpimData" in head.replace(b"\0", b"")  # UTF-16 has these between the letters
    if not head.startswith(_SIGNATURES):
        return False
    try:
        lsfm_core.open_lsfm(path, detached=True).close()
    except lsfm_core.LsfmError as error:
        # One that is damaged, or in use, may well be ours: reading it will say what is wrong.
        return isinstance(error, lsfm_core.DamagedError) or not isinstance(error, lsfm_core.FormatError)
    return True


def _nbytes(data: Any) -> int:
    finest = data[0] if isinstance(data, list) else data
    return int(finest.size * finest.dtype.itemsize)


@cache
def _tell_of_background() -> None:
    """Say, once, how napari can be kept from waiting for a file that is read as one goes."""
    if current_viewer() is None:
        return
    from napari.settings import get_settings

    if not get_settings().experimental.async_:
        tell(
            "This image is read as you look at it. If the window should not wait for that: "
            "Layers > Visualize > Read planes in the background."
        )


@cache
def chunk_cache() -> lsfm_core.ChunkCache:
    """Decoded chunks of all open files together, and of the planes that come next."""
    return lsfm_core.ChunkCache(0, reads_ahead=True)
