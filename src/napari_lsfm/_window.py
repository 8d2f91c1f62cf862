"""napari's window, if there is one: nothing of napari is imported to find that out."""

from __future__ import annotations

import sys
import threading
from typing import Any

__all__ = ["current_viewer", "tell"]


def current_viewer() -> Any:
    """The viewer in front, where this is its thread; None without any."""
    if "napari" not in sys.modules or threading.current_thread() is not threading.main_thread():
        return None
    import napari

    return napari.current_viewer()


def tell(text: str) -> None:
    """Show a message in the corner of the window; nothing where napari is not used."""
    if "napari" in sys.modules:
        from napari.utils.notifications import show_info

        show_info(text)
