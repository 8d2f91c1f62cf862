"""Others' files: each module reads one format as a source of planes, or writes one as a sink."""

from __future__ import annotations

import os

from lsfm_core.formats._source import FileRecord, Source
from lsfm_core.formats.tiff import TiffSeries, find_series

__all__ = ["FileRecord", "Source", "open_source"]


def open_source(image: str | os.PathLike[str]) -> Source:
    """Open an image for ingest: a TIFF series by its folder, one of its files, a glob, or a printf pattern.

    Raises
    ------
    InputError, SourceError
    """
    return TiffSeries(find_series(image))
