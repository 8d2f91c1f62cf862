"""NumPy's own format out: an array, and beside it a JSON file that says where its voxels are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lsfm_core.formats._raw import RawSink
from lsfm_core.formats._sink import ALL_DTYPES, OutputFormat, OutputImage

__all__ = ["NpyOutput"]


class NpyOutput(OutputFormat):
    """A .npy file and a .json file."""

    name = "NumPy's format"
    axis = 0
    dtypes = ALL_DTYPES
    companions = (".json",)

    @contextmanager
    def open(self, paths: Sequence[Path], image: OutputImage, threads: int) -> Iterator[RawSink]:
        path, beside = paths
        beside.write_text(json.dumps(image.facts(), indent=2, ensure_ascii=False) + "\n", "utf-8")
        with path.open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(image.stored), "fortran_order": False, "shape": image.shape}
            np.lib.format.write_array_header_1_0(file, header)
            yield RawSink(image, self.axis, [file])
