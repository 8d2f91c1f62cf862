"""How loops are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["FACE_SLACK", "compiled"]

#: A point that lies on a field's face but for rounding is inside at the lower face and outside at the upper one. Voxels.
FACE_SLACK = 1e-10

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function when it is first called with some types, keep what came of it for other processes, and run it unlocked."""
    try:
        return cast(Function, numba.njit(nogil=True, error_model="numpy", cache=True)(function))
    except RuntimeError:  # there is no folder that can be written: each process compiles for itself
        return cast(Function, numba.njit(nogil=True, error_model="numpy")(function))
