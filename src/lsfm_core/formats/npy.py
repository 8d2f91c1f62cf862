"""NumPy's own format, in and out: an array, and beside it a JSON file that says where its voxels are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lsfm_core.errors import SourceError
from lsfm_core.formats._own import own_facts, take_place
from lsfm_core.formats._raw import RawLayout, RawSink, RawSource
from lsfm_core.formats._sink import ALL_DTYPES, OutputFormat, OutputImage
from lsfm_core.formats._source import Source
from lsfm_core.formats.arrays import ArraySource
from lsfm_core.pyramid import Kind

__all__ = ["NpyOutput", "open_npy"]

_LARGEST_JSON = 2**20


def open_npy(path: Path, kind: Kind) -> Source:
    """Open a .npy file, and the JSON file of that name which our exports have beside it.

    Raises
    ------
    SourceError
        If the file is damaged or cut short, or holds Python objects.
    InputError
        If the array is no volume.
    """
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise SourceError(f"{path}: is no .npy file of numbers, or is cut short or damaged: {error}") from error
    if not isinstance(array, np.memmap):
        raise SourceError(f"{path}: is no .npy file: save the array by itself, with numpy.save")
    told = _beside(path)
    own = own_facts(told)
    if own is not None and own.shape == array.shape and kind == "image" and array.ndim == 4:
        kind = own.kind
    source: Source = ArraySource(array, name=str(path), kind=kind, facts={"format": "npy"})
    if array.flags.c_contiguous and array.dtype.kind != "b":
        # Not mapped: pages that were touched would count as the process' memory.
        layout = RawLayout(path, array.offset, source.shape, array.dtype, components=source.components, interleaved=True)
        source = RawSource(path, layout, space=None, voxel_size_mm=None, facts=source.facts)
    take_place(source, told, str(path.with_suffix(".json").name))
    return source


def _beside(path: Path) -> object:
    """What the JSON file beside an array holds, if there is one that can be read; others' files may have that name."""
    beside = path.with_suffix(".json")
    try:
        return beside.read_text("utf-8") if beside.is_file() and beside.stat().st_size <= _LARGEST_JSON else None
    except (OSError, UnicodeDecodeError):
        return None


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
