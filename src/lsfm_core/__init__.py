"""Headless core of napari-lsfm: pack cleared-brain light-sheet stacks into one file, and take any piece of it out again."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsfm_core.ingest import ingest

__all__ = ["ingest"]
