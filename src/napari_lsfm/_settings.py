"""What the user has chosen in napari's preferences; napari.yaml declares it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

__all__ = ["Settings", "current_settings", "decline_offer"]


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
    offers_preference : bool
        Whether to offer that files of ours are opened without napari's question.
    """

    cache_mib: int = 512
    volume_mib: int = 512
    orientation: str = "AIR"
    offers_preference: bool = True


def current_settings() -> Settings:
    """The settings as they are now."""
    stored = _stored()
    if stored is None:
        return Settings()
    return Settings(stored.memory.cache_mib, stored.memory.volume_mib, stored.saving.orientation, stored.opening.offers_preference)


def decline_offer() -> None:
    """Never offer again that files of ours are opened without napari's question; before napari 0.9, not in this session."""
    stored = _stored()
    if stored is not None:
        stored.opening.offers_preference = False


def _stored() -> Any:
    """What napari keeps; None where it keeps nothing."""
    if "napari" not in sys.modules:
        return None
    try:
        from napari.settings import get_plugin_settings

        return get_plugin_settings("napari-lsfm")
    except (ImportError, KeyError):
        return None
