"""How much is tried: a part of it with every change, all of it by ``make soak``."""

from __future__ import annotations

import os
from typing import Any

import pytest

EXHAUSTIVE = bool(os.environ.get("LSFM_EXHAUSTIVE"))


def examples(number: int) -> int:
    """So many for hypothesis to draw; each run draws others."""
    return number if EXHAUSTIVE else max(5, number // 4)


def exhaustive(*values: Any) -> Any:
    """A case that shows no other kind of fault than those beside it."""
    return pytest.param(*values, marks=pytest.mark.skipif(not EXHAUSTIVE, reason="only in make soak (LSFM_EXHAUSTIVE)"))
