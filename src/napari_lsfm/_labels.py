"""How regions look: their atlas' colours, and what napari says of the one under the mouse."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lsfm_core import LabelTable

__all__ = ["label_looks"]

#: napari sends numbers up to here to the graphics card as they are; larger ones it would need numba to map.
_MAX_NUMBER = 65535


def label_looks(
    table: LabelTable, dtype: np.dtype[Any], *, own_ids: bool = False
) -> tuple[npt.NDArray[Any] | None, dict[str, Any]]:
    """Keywords of a labels layer for a label table.

    Parameters
    ----------
    table : LabelTable
    dtype : numpy.dtype
        Of the ids in the voxels.
    own_ids : bool
        Show ids as they are in any case; for large ones napari needs numba then.

    Returns
    -------
    ids : array or None
        Number shown -> id, as `napari_lsfm._views.Recoded` takes it; None where ids are shown as they are.
    keywords : dict
        Empty for an empty table: napari then colours every id in its own way.
    """
    listed = [label for label in table.values() if label.id != 0 and 0 < label.id <= np.iinfo(dtype).max]
    if not listed or len(listed) > _MAX_NUMBER - 2:
        return None, {}
    ids = None
    numbers = np.array([label.id for label in listed], dtype)
    if np.iinfo(dtype).max > _MAX_NUMBER and not own_ids:
        ids = np.concatenate([np.zeros(1, dtype), numbers])
        numbers = np.arange(1, len(ids))
    unlisted = "gray"
    colours: dict[int | None, Any] = {None: unlisted, 0: "transparent"}
    for number, label in zip(numbers.tolist(), listed, strict=True):
        colours[number] = unlisted if label.rgb is None else (*np.divide(label.rgb, 255).tolist(), 1.0)
    features = {
        "index": [0, *numbers.tolist()],
        "region": ["background", *(f"{label.acronym}: {label.name}" if label.acronym else label.name for label in listed)],
        "id": [0, *(label.id for label in listed)],
    }
    if ids is not None:
        features["index"].append(len(ids))
        features["region"].append("not in the label table")
        features["id"].append(None)
    return ids, {"colormap": colours, "features": features}
