"""Numbers as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.kernels._compiled import compiled

__all__ = ["MOST_BYTES", "decimals"]

Array = npt.NDArray[Any]

#: Of one number, with a sign, a point, and what separates it.
MOST_BYTES = 24


@compiled
def decimals(out: Array, values: Array, places: int, point: int, separator: int) -> int:
    """Rows of numbers with so many decimals, each row a line.

    Parameters
    ----------
    out : array (n * m * MOST_BYTES,), uint8
        Gets the text.
    values : array (n, m), int64
        In units of the last decimal.
    places : int
        How many decimals: one or more.
    point, separator : int
        The characters before the decimals, and between numbers.

    Returns
    -------
    int
        Length of the text.
    """
    digits = np.empty(MOST_BYTES, np.uint8)
    at = 0
    for n in range(values.shape[0]):
        for k in range(values.shape[1]):
            value = values[n, k]
            if value < 0:
                out[at] = 45
                at += 1
                value = -value
            count = 0
            while value > 0 or count <= places:
                digits[count] = 48 + value % 10
                value //= 10
                count += 1
            while count > 0:
                if count == places:
                    out[at] = point
                    at += 1
                count -= 1
                out[at] = digits[count]
                at += 1
            out[at] = separator if k + 1 < values.shape[1] else 10
            at += 1
    return at
