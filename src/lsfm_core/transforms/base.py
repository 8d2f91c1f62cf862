"""What every transform can do."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

__all__ = ["FloatArray", "Transform"]

FloatArray = npt.NDArray[np.float64]


class Transform(ABC):
    """Maps points of an outer (output, fixed) space to an inner (input, moving) one.

    Attributes
    ----------
    name : str
        What messages call it; may be empty.
    """

    name: str

    @abstractmethod
    def map_points(self, points: npt.ArrayLike) -> FloatArray:
        """Carry points inward.

        Parameters
        ----------
        points : array (n, 3)
            In the outer space, RAS mm.

        Returns
        -------
        array (n, 3)
            In the inner space, RAS mm.
        """

    @abstractmethod
    def inverse(self) -> Transform:
        """The transform that carries points outward.

        Raises
        ------
        InputError
            If there is none.
        """

    @abstractmethod
    def describe(self) -> str:
        """What the transform does, in words."""
