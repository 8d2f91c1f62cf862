"""Blocks of voxels that become one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core.kernels._compiled import compiled

__all__ = ["join_octets", "modes"]

Array = npt.NDArray[Any]


@compiled
def join_octets(out: Array, octets: Array) -> None:
    """Numbers (n,), uint16, of their lower and their higher bytes (2, n), uint8."""
    for k in range(len(out)):
        out[k] = np.uint16(octets[0, k]) | np.uint16(np.uint16(octets[1, k]) << 8)


@compiled
def modes(out: Array, labels: Array, steps: tuple[int, int, int]) -> None:
    """Most frequent id of each block; of several equally frequent ones the smallest.

    Parameters
    ----------
    out : array (d, e, f)
    labels : array (a, b, c), integers
    steps : tuple of 3 int
        1 or 2: voxels of a block along each axis; the last one may be smaller.
    """
    size0, size1, size2 = labels.shape
    ids = np.empty(8, labels.dtype)
    for i in range(out.shape[0]):
        a = i * steps[0]
        b = min(a + steps[0], size0) - 1
        for j in range(out.shape[1]):
            c = j * steps[1]
            d = min(c + steps[1], size1) - 1
            for k in range(out.shape[2]):
                e = k * steps[2]
                f = min(e + steps[2], size2) - 1
                one = labels[a, c, e]
                # Where a block is but one voxel thick, that counts twice, and so does everything else.
                if (
                    one == labels[a, c, f]
                    and one == labels[a, d, e]
                    and one == labels[a, d, f]
                    and one == labels[b, c, e]
                    and one == labels[b, c, f]
                    and one == labels[b, d, e]
                    and one == labels[b, d, f]
                ):
                    out[i, j, k] = one
                    continue
                ids[0], ids[1], ids[2], ids[3] = one, labels[a, c, f], labels[a, d, e], labels[a, d, f]
                ids[4], ids[5], ids[6], ids[7] = labels[b, c, e], labels[b, c, f], labels[b, d, e], labels[b, d, f]
                most = 0
                for candidate in ids:
                    count = 0
                    for other in ids:
                        count += candidate == other
                    if count > most or (count == most and candidate < one):
                        most, one = count, candidate
                out[i, j, k] = one
