"""What the user has chosen in napari's preferences; napari.yaml declares it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

__all__ = ["Settings", "current_settings"]


@dataclass(frozen=True)
class Settings:
    """The values that hold where napari has none: in versions before 0.9, and in scripts without it.

    Attributes
    ----------
    cache_mib : int
        Decoded chunks of all layers together.
    volume_mib : int
        What the finest level that is shown in 3D may take.
    orientation : str
        Axis codes of napari's world, for layers that do not tell.
    """

    cache_mib: int = 512
    volume_mib: int = 512
    orientation: str = "AIR"


def current_settings() -> Settings:
    """The settings as they are now."""
    if "napari" not in sys.modules:
        return Settings()
    try:
        from napari.settings import get_plugin_settings

        stored = get_plugin_settings("napari-lsfm")
    except (ImportError, KeyError):
        return Settings()
    return Settings(stored.memory.cache_mib, stored.memory.volume_mib, stored.saving.orientation)
