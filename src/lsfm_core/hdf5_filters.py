"""HDF5's compression filters that are no part of it: found in hdf5plugin where that is installed, and named where it is not."""

from __future__ import annotations

import importlib.util

import h5py

from lsfm_core.errors import FormatError

__all__ = ["check_filters", "find_filters"]

_NAMES = {
    305: "LZO", 307: "bzip2", 32000: "LZF", 32001: "Blosc", 32004: "LZ4", 32008: "bitshuffle", 32013: "ZFP", 32015: "Zstandard",
    32017: "SZ", 32018: "FCIDECOMP", 32019: "JPEG", 32024: "SZ3", 32026: "Blosc2", 32029: "JPEG-XL",
}  # fmt: skip


def find_filters(dataset: h5py.Dataset) -> list[str]:
    """Names of the filters that a dataset needs and that cannot be had; those of hdf5plugin are loaded if one is needed."""
    missing = _missing(dataset)
    if missing and importlib.util.find_spec("hdf5plugin") is not None:
        importlib.import_module("hdf5plugin")
        missing = _missing(dataset)
    return [f"{_NAMES.get(code, 'unknown')} ({code})" for code in missing]


def check_filters(dataset: h5py.Dataset, name: str) -> None:
    """Refuse a dataset that cannot be decoded here.

    Raises
    ------
    FormatError
        That names the filter, and what would help.
    """
    missing = find_filters(dataset)
    if missing:
        raise FormatError(
            f"{name}: is compressed by the HDF5 filter {', '.join(missing)}, which is missing here: pip install hdf5plugin, or "
            "save it with deflate (gzip)"
        )


def _missing(dataset: h5py.Dataset) -> list[int]:
    filters = dataset.id.get_create_plist()
    codes = [filters.get_filter(index)[0] for index in range(filters.get_nfilters())]
    return [code for code in codes if not h5py.h5z.filter_avail(code)]
