"""The piece of an image that an export takes: all of it, a box, the surroundings of a region, or a grid of chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QLineEdit, QPushButton

from lsfm_core import ExportRequest, InputError, RegionSelection
from napari_lsfm._widgets._fields import Choice, NumbersEdit, Section, beside, numbers, one_or_three, optional

__all__ = ["PieceSection"]


class PieceSection(Section):
    """Rows for each kind of piece, of which those of the chosen one are shown; ``changed`` comes when a field does."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__("Piece")
        self._has_transforms = False
        self.what = Choice(
            [("Whole image", "whole"), ("Box", "box"), ("Region of the brain", "region"), ("Grid of chunks", "grid")]
        )
        self.row("What", self.what, "All of the image, a box of it, the surroundings of a brain region, or many chunks")
        self.corner = NumbersEdit()
        self.row(
            "Corner (mm)",
            self.corner,
            "The box's outer corner with the smallest R, A, S (right, anterior, superior), in the world of the output",
        )
        self.extent = NumbersEdit()
        self.row("Size (mm)", self.extent, "Its extent along R, A, S")
        self.from_view = QPushButton("Current view")
        self.from_view.setToolTip("Make the box what is seen on the screen; across the screen it keeps its thickness")
        self.from_shape = QPushButton("Selected shape")
        self.from_shape.setToolTip("Make the box go around the selected shapes of a shapes layer")
        self.shapes = beside(self.from_view, self.from_shape)
        self.row("Take", self.shapes, "Fill in the numbers from the viewer; or drag the yellow box there")
        self.snap = QCheckBox("to voxel faces")
        self.row("Snap", self.snap, "Move the box to the nearest voxel faces, so that voxels are copied, not interpolated")

        self.labels = Choice()
        self.row("Labels", self.labels, "The channel whose labels are meant")
        self.regions = QLineEdit()
        self.regions.setPlaceholderText("CA1; TH")
        self.row("Regions", self.regions, "Ids, acronyms or names, with semicolons between them")
        self.parts = QCheckBox("with all their parts")
        self.row("Parts", self.parts, "All regions that the ontology knows as parts of them")
        self.side = Choice([("both", None), ("left", "left"), ("right", "right")])
        self.row("Hemisphere", self.side, "One side of the brain only")
        self.midline = QLineEdit()
        self.midline.setPlaceholderText("from the labels")
        self.row("Midline (mm)", self.midline, "R of the plane between the sides; empty: the middle of all that is labelled")
        self.margin = QLineEdit("0")
        self.margin_unit = Choice([("mm", "mm"), ("voxels", "vox")])
        self.margin_unit.setAccessibleName("unit of the margin")
        self.row("Margin", beside(self.margin, self.margin_unit), "How much is added around the region, on every side")
        self.masked = QCheckBox("nothing but the region")
        self.row("Mask", self.masked, "Give all voxels outside of the region the fill value")
        self.labels_in = Choice()
        self.row("Labels lie in", self.labels_in, "The space of the labels: the image's own, or one that the transforms lead to")

        self.chunk = NumbersEdit(values=(1, 1, 1))
        self.row("Chunk (mm)", self.chunk, "Size of a chunk along R, A, S")
        self.overlap = QLineEdit("0")
        self.row("Overlap (mm)", self.overlap, "What neighbouring chunks share: one number, or three (R, A, S) with commas")
        self.count = NumbersEdit(values=(0, 0, 0))
        self.row("Chunks", self.count, "How many along R, A, S; 0, 0, 0: as many as the whole image takes")
        self.first = NumbersEdit()
        self.row("First corner (mm)", self.first, "R, A, S of the first chunk's corner, where the number of chunks is given")
        self._rows = {
            "box": (self.corner, self.extent, self.shapes, self.snap),
            "region": (
                self.labels, self.regions, self.parts, self.side, self.midline, self.margin.parentWidget(), self.masked,
                self.labels_in,
            ),
            "grid": (self.chunk, self.overlap, self.count, self.first),
        }  # fmt: skip

        for choice in (self.labels, self.side, self.margin_unit, self.labels_in):
            choice.chosen.connect(self.changed)
        for edit in (self.regions, self.midline, self.margin, self.overlap):
            edit.textChanged.connect(lambda _: self.changed.emit())
        for box in (self.snap, self.parts, self.masked):
            box.toggled.connect(lambda _: self.changed.emit())
        for triple in (self.corner, self.extent, self.chunk, self.count, self.first):
            triple.edited.connect(self.changed)

    @property
    def can_draw(self) -> bool:
        """Whether the piece is a box in the world that the viewer shows: that behind transforms is another."""
        return self.what.value == "box" and not self._has_transforms

    @property
    def has_no_box(self) -> bool:
        """Whether none of the box's numbers stands there."""
        return not any(self.corner.texts + self.extent.texts)

    def box(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Lower and upper corner of the box, R, A, S mm.

        Raises
        ------
        InputError
        """
        corner, extent = np.array(self.corner.read("corner")), np.array(self.extent.read("size"))
        return corner, corner + extent

    def show_box(self, lower: Any, upper: Any) -> None:
        """Fill in the numbers of a box, R, A, S mm."""
        self.corner.show_values(lower)
        self.extent.show_values(np.subtract(upper, lower))

    def offer_labels(self, names: Sequence[str]) -> None:
        """Offer the channels that a region can be looked for in."""
        self.labels.offer((name, name) for name in names)

    def offer_spaces(self, transforms: Sequence[str]) -> None:
        """Offer the spaces in which labels can lie: the image's, and those that the transforms lead to."""
        self._has_transforms = bool(transforms)
        between = [(f"behind {name}", name) for name in transforms[:-1]]
        self.labels_in.offer([("image", "native"), *between, *([("output", "output")] if transforms else [])])
        self.show_rows()

    def show_rows(self) -> None:
        """Show what belongs to the chosen kind of piece."""
        for piece, fields in self._rows.items():
            for field in fields:
                self.show_row(field, piece == self.what.value)
        self.show_row(self.labels_in, self.what.value == "region" and self._has_transforms)
        self.show_row(self.shapes, self.can_draw)

    def fill_in(self, request: ExportRequest) -> None:
        """Show the piece of a request."""
        self.snap.setChecked(request.snap)
        self.what.value = "whole"
        if request.grid is not None:
            self.what.value = "grid"
            self.count.show_values(request.grid)
            self.chunk.show_values(_three(request.size_mm))
            overlap = request.overlap_mm if isinstance(request.overlap_mm, tuple) else (request.overlap_mm,)
            self.overlap.setText(", ".join(f"{length:g}" for length in overlap))
            if request.origin_mm is not None:
                self.first.show_values(request.origin_mm)
        elif request.origin_mm is not None:
            self.what.value = "box"
            self.corner.show_values(request.origin_mm)
            self.extent.show_values(_three(request.size_mm))
        elif request.region is not None:
            self.show_region(request.region)

    def show_region(self, region: RegionSelection) -> None:
        """Let the piece be a region."""
        self.what.value = "region"
        self.labels.value = region.labels_channel
        self.regions.setText("; ".join(map(str, region.select)))
        self.parts.setChecked(region.include_descendants)
        self.side.value = region.side
        self.midline.setText("" if region.midline_mm is None else f"{region.midline_mm:g}")
        self.margin_unit.value = "vox" if region.margin_vox else "mm"
        self.margin.setText(f"{region.margin_vox or region.margin_mm:g}")
        self.masked.setChecked(region.mask)
        self.labels_in.value = region.labels_in

    def fields(self) -> dict[str, Any]:
        """The fields of an `ExportRequest` that name the piece.

        Raises
        ------
        InputError
            If one cannot be read.
        """
        match self.what.value:
            case "box":
                return {
                    "origin_mm": self.corner.read("corner"),
                    "size_mm": self.extent.read("size"),
                    "snap": self.snap.isChecked(),
                }
            case "region":
                return {"region": self._region()}
            case "grid":
                grid = self._counts()
                first = {} if grid == (0, 0, 0) else {"origin_mm": self.first.read("first corner")}
                overlap = one_or_three(self.overlap.text(), "overlap")
                return {"grid": grid, "size_mm": self.chunk.read("chunk"), "overlap_mm": overlap, **first}
        return {}

    def _region(self) -> RegionSelection:
        if self.labels.value is None:
            raise InputError("labels: the file has no channel of that kind")
        selectors = tuple(part.strip() for part in self.regions.text().split(";") if part.strip())
        if not selectors:
            raise InputError("regions: name at least one, by its id, acronym or name")
        (margin,) = numbers(self.margin.text(), "margin", 1)
        if self.margin_unit.value == "vox" and margin != int(margin):
            raise InputError(f"margin: expected a whole number of voxels, found {margin:g}")
        return RegionSelection(
            labels_channel=self.labels.value,
            select=selectors,
            include_descendants=self.parts.isChecked(),
            side=self.side.value,
            midline_mm=optional(self.midline.text(), "midline") if self.side.value else None,
            mask=self.masked.isChecked(),
            labels_in=self.labels_in.value,
            **({"margin_vox": int(margin)} if self.margin_unit.value == "vox" else {"margin_mm": margin}),
        )

    def _counts(self) -> tuple[int, int, int]:
        counts = self.count.read("chunks")
        if any(count != int(count) for count in counts):
            raise InputError(f"chunks: expected whole numbers, found {', '.join(self.count.texts)}")
        return int(counts[0]), int(counts[1]), int(counts[2])


def _three(value: Any) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,) * 3
