"""What was found of an image: its facts in words, and its middle plane."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QWidget

from lsfm_core import ImageMetadata, describe_image, size_text
from napari_lsfm._widgets.fields import Picture, Words
from napari_lsfm._widgets.forms._ingest_work import Image, middle_plane
from napari_lsfm._words import WARNING_STYLE
from napari_lsfm._workers import Latest

__all__ = ["FoundImage"]

_DELAY_MS = 300
_THUMBNAIL = 130


class FoundImage(QWidget):
    """Looks into images, in a thread; ``described(metadata)`` when that is done, ``changed()`` then and when one cannot be used.

    Attributes
    ----------
    asked : Image, optional
        What is looked into.
    metadata : ImageMetadata, optional
        What was found.
    complaint : str
        Why it cannot be used; empty if it can.
    """

    described = Signal(object)
    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.asked: Image | None = None
        self.metadata: ImageMetadata | None = None
        self.complaint = ""
        self.thumbnail, self.facts = Picture(_THUMBNAIL), Words()
        self.thumbnail.setAccessibleName("middle plane of the image")
        self.thumbnail.show_image(None, "no image")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 4, 0, 0)
        row.addWidget(self.thumbnail, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(self.facts, 1)
        self._describer = Latest(self, _DELAY_MS, answered=self._on_described, failed=self._on_failed)
        self._painter = Latest(self, answered=self.thumbnail.show_image, failed=self._on_failed)

    def look_at(self, asked: Image | None) -> None:
        """Look into another image, or none."""
        self.asked, self.metadata, self.complaint = asked, None, ""
        self._painter.forget()
        self.thumbnail.show_image(None, "no image" if asked is None else "…")
        if asked is None:
            self._describer.forget()
            return
        self._describer.ask(
            lambda _: describe_image(asked.image, channel=asked.channel, kind=asked.kind, planes_are=asked.planes_are)
        )

    def show_facts(self, size: Sequence[float] | str, *, is_oriented: bool) -> None:
        """Say what was found, in the light of what the form says.

        Parameters
        ----------
        size : sequence of 3 float, or str
            Of a voxel, mm; or why it is not known.
        is_oriented : bool
            Whether the form tells how the image lies.
        """
        if self.complaint:
            self.facts.complain(escape(self.complaint))
        elif self.asked is None or self.metadata is None or self.metadata.shape is None:
            self.facts.say("TIFF, OME-TIFF, NIfTI, NRRD, MetaImage, Zarr, or a layer" if self.asked is None else "looking …")
        else:
            self.facts.say(_facts(self.metadata, self.asked.kind, size, is_oriented=is_oriented))

    def _on_described(self, metadata: ImageMetadata) -> None:
        asked = self.asked
        if asked is not None:
            self.metadata = metadata
            self._painter.ask(lambda cancel: middle_plane(asked, 2 * _THUMBNAIL, cancel))
            self.described.emit(metadata)
            self.changed.emit()

    def _on_failed(self, message: str) -> None:
        self.complaint = message
        self.thumbnail.show_image(None, "cannot be used")
        self.changed.emit()


def _facts(metadata: ImageMetadata, kind: str, size: Sequence[float] | str, *, is_oriented: bool) -> str:
    assert metadata.shape is not None
    shape = (metadata.shape.planes, metadata.shape.rows, metadata.shape.columns)
    voxels = np.prod(shape, dtype=float) * np.dtype(metadata.dtype).itemsize * (3 if kind == "vectors" else 1)
    lines = [
        f"{metadata.format or 'image'}, {shape[0]} plane{'s' if shape[0] != 1 else ''}",
        f"{_by(shape)} voxels",
        f"{metadata.dtype}, {size_text(voxels)}",
        _doubt(f"voxel size {size}") if isinstance(size, str) else f"{_by(np.multiply(shape, size))} mm",
    ]
    if metadata.orientation is None and not is_oriented:
        lines.append(_doubt("orientation not known"))
    elif metadata.world_from_voxel is not None:
        lines.append("lies oblique")
    return "<br>".join([*lines, *map(escape, metadata.notes)])


def _doubt(text: str) -> str:
    return f'<span style="{WARNING_STYLE}">{text}</span>'


def _by(values: Any) -> str:
    return " x ".join(f"{value:.6g}" for value in values)
