"""The form of an export: whatever can be asked for, what it will give, and the result in the viewer."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QApplication, QCheckBox, QFileDialog, QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget

from lsfm_core import (
    CancelledError,
    ExportPlan,
    ExportRequest,
    InputError,
    LsfmError,
    MemoryBudgetError,
    Orientation,
    RegionSelection,
    Volume,
    command_line,
    export_channel,
    export_chunks,
    lay_out_chunks,
    open_lsfm,
    plan_export,
)
from napari_lsfm._layers import volume_layer
from napari_lsfm._widgets._box import BoxLayer, plane_axis, with_extent
from napari_lsfm._widgets._chain import ChainEditor
from napari_lsfm._widgets._facts import FileFacts, Frame, layers_of, lsfm_paths
from napari_lsfm._widgets._fields import Choice, NumbersEdit, Section, beside, numbers, scrolled
from napari_lsfm._workers import ERROR_STYLE, JobPanel, Latest

if TYPE_CHECKING:
    import napari

__all__ = ["ExportWidget"]

_DELAY_MS = 250
#: Larger results stay on the disk.
_MAX_SHOWN_BYTES = 10**9
_COMPRESSED = (".nii.gz", ".nrrd", ".ome.zarr")
_FORMATS = ".nii, .nii.gz, .nrrd, .mha, .tif, .ome.tif, .ome.zarr or .npy"
_FILTER = "Images (*.nii *.nii.gz *.nrrd *.mha *.tif *.ome.tif *.ome.zarr *.npy);;All files (*)"
_INTERPOLATIONS = {
    "image": ("linear", "nearest", "bspline"),
    "labels": ("nearest", "mode"),
    "vectors": ("linear",),
}
#: Bytes of result per second, as measured in this session: for copies and for interpolation, and for each format.
_rates: dict[tuple[bool, str], float] = {}


@dataclass(frozen=True)
class _Outlook:
    """What a dry run tells."""

    plan: ExportPlan
    chunks: int | None
    suffix: str

    @property
    def text(self) -> str:
        plan = self.plan
        voxel = " × ".join(f"{size:.4g}" for size in plan.target.voxel_size_mm)
        parts = f" in {self.chunks} chunk(s)" if self.chunks is not None else ""
        where = {"": "in memory", **dict.fromkeys(_COMPRESSED, "on disk before compression")}.get(self.suffix, "on disk")
        how = "copied" if plan.copy is not None else plan.method
        text = (
            f"{' × '.join(map(str, plan.target.shape))} voxels{parts} of {voxel} mm\n"
            f"{plan.dtype}, {plan.target.orientation}, {how}, level {plan.level.index} is read\n"
            f"{_size(plan.output_bytes)} {where}, at most {_size(plan.peak_bytes)} of memory"
        )
        rate = _rates.get((plan.copy is not None, self.suffix))
        return text if rate is None else f"{text}, about {max(1, round(plan.output_bytes / rate))} s"


@dataclass(frozen=True)
class _Done:
    """What came of an export."""

    plan: ExportPlan
    volume: Volume | None
    said: str


class ExportWidget(QWidget):
    """Take a channel out of a file, or a piece of it, into whatever format and space.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._facts: FileFacts | None = None
        self._opened: list[Path] = []
        self._pending: ExportRequest | None = None
        self._is_filling = False
        self._box = BoxLayer(napari_viewer, "export box", editable=True, parent=self)
        self._box.changed.connect(self._on_box_dragged)
        self._reader = Latest(self)
        self._reader.answered.connect(self._on_facts)
        self._reader.failed.connect(self._complain)
        self._planner = Latest(self, _DELAY_MS)
        self._planner.answered.connect(self._on_outlook)
        self._planner.failed.connect(self._complain)
        self._build()
        self._connect()
        for event in (napari_viewer.layers.events.inserted, napari_viewer.layers.events.removed):
            event.connect(self._on_layers)
        self._on_layers()

    # --- the form -----------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        content = QWidget()
        sections = QVBoxLayout(content)
        sections.setContentsMargins(2, 2, 2, 2)
        for section in (self._build_image(), self._build_piece(), self._build_space(), self._build_voxels(), self._build_output()):
            sections.addWidget(section)
        sections.addStretch(1)
        self.outlook = QLabel()
        self.outlook.setWordWrap(True)
        self.outlook.setAccessibleName("outlook")
        self.outlook.setToolTip("What the export will give, or what is wrong with it")
        self.outlook.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.outlook.setMinimumHeight(3 * self.outlook.fontMetrics().lineSpacing() + 4)
        self.copy = QPushButton("Copy command")
        self.copy.setToolTip("Put the command line that does the same into the clipboard")
        self.go = QPushButton("Export")
        self.go.setToolTip("Do it; the form can be changed meanwhile")
        self.panel = JobPanel()
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.addWidget(scrolled(content), 1)
        column.addWidget(self.outlook)
        column.addWidget(beside(self.copy, self.go))
        column.addWidget(self.panel)

    def _build_image(self) -> Section:
        section = Section("Image")
        self.file = Choice()
        browse = QPushButton("…")
        browse.setFixedWidth(30)
        browse.setToolTip("Choose a file that is not open here")
        browse.setAccessibleName("open another file")
        browse.clicked.connect(self._browse_file)
        section.row("File", beside(self.file, browse), "The file to export from: those that are open here, or any other")
        self.channel = Choice()
        section.row("Channel", self.channel, "What to export")
        self.orientation = QLineEdit()
        self.orientation.setPlaceholderText("such as AIR")
        section.row(
            "Orientation",
            self.orientation,
            "The file does not record how the specimen lay: three letters for planes, rows and columns, each the side toward which "
            "they are counted",
        )
        self.level = Choice()
        section.row("Level", self.level, "What is read; automatic: the coarsest that is as fine as the result")
        self.resolution = QLineEdit()
        self.resolution.setPlaceholderText("as stored")
        section.row("Voxel size (mm)", self.resolution, "Of the result: one number, or three with commas; empty: that of the level")
        self._image = section
        return section

    def _build_piece(self) -> Section:
        section = Section("Piece")
        self.piece = Choice(
            [("Whole image", "whole"), ("Box", "box"), ("Region of the brain", "region"), ("Grid of chunks", "grid")]
        )
        section.row("What", self.piece, "All of the image, a box of it, the surroundings of a brain region, or many chunks")
        self.corner = NumbersEdit()
        section.row(
            "Corner (mm)", self.corner, "The box's outer corner with the smallest R, A, S (right, anterior, superior), in the world "
            "of the output",
        )  # fmt: skip
        self.size = NumbersEdit()
        section.row("Size (mm)", self.size, "Its extent along R, A, S")
        self.from_view = QPushButton("Current view")
        self.from_view.setToolTip("Make the box what is seen on the screen; across the screen it keeps its thickness")
        self.from_shape = QPushButton("Selected shape")
        self.from_shape.setToolTip("Make the box go around the selected shapes of a shapes layer")
        self.shapes = beside(self.from_view, self.from_shape)
        section.row("Take", self.shapes, "Fill in the numbers from the viewer; or drag the yellow box there")
        self.snap = QCheckBox("to voxel faces")
        section.row("Snap", self.snap, "Move the box to the nearest voxel faces, so that voxels are copied, not interpolated")

        self.labels = Choice()
        section.row("Labels", self.labels, "The channel whose labels are meant")
        self.regions = QLineEdit()
        self.regions.setPlaceholderText("CA1; TH")
        section.row("Regions", self.regions, "Ids, acronyms or names, with semicolons between them")
        self.parts = QCheckBox("with all their parts")
        section.row("Parts", self.parts, "All regions that the ontology knows as parts of them")
        self.side = Choice([("both", None), ("left", "left"), ("right", "right")])
        section.row("Hemisphere", self.side, "One side of the brain only")
        self.margin = QLineEdit("0")
        self.margin_unit = Choice([("mm", "mm"), ("voxels", "vox")])
        self.margin_unit.setAccessibleName("unit of the margin")
        section.row("Margin", beside(self.margin, self.margin_unit), "How much is added around the region, on every side")
        self.mask = QCheckBox("nothing but the region")
        section.row("Mask", self.mask, "Give all voxels outside of the region the fill value")
        self.labels_in = Choice()
        section.row("Labels lie in", self.labels_in, "The space of the labels: the image's own, or one that the transforms lead to")

        self.chunk = NumbersEdit(values=(1, 1, 1))
        section.row("Chunk (mm)", self.chunk, "Size of a chunk along R, A, S")
        self.overlap = QLineEdit("0")
        section.row("Overlap (mm)", self.overlap, "What neighbouring chunks share: one number, or three (R, A, S) with commas")
        self.count = NumbersEdit(values=(0, 0, 0))
        section.row("Chunks", self.count, "How many along R, A, S; 0, 0, 0: as many as the whole image takes")
        self.first = NumbersEdit()
        section.row("First corner (mm)", self.first, "R, A, S of the first chunk's corner, where the number of chunks is given")
        self._rows = {
            "box": (self.corner, self.size, self.shapes, self.snap),
            "region": (
                self.labels, self.regions, self.parts, self.side, self.margin.parentWidget(), self.mask, self.labels_in,
            ),
            "grid": (self.chunk, self.overlap, self.count, self.first),
        }  # fmt: skip
        self._piece = section
        return section

    def _build_space(self) -> Section:
        section = Section("Into another space")
        self.chain = ChainEditor()
        section.row("", self.chain, "")
        self.reference = Choice()
        browse = QPushButton("…")
        browse.setFixedWidth(30)
        browse.setToolTip("Choose an image file as reference")
        browse.setAccessibleName("choose a reference file")
        browse.clicked.connect(self._browse_reference)
        section.row("Reference", beside(self.reference, browse), "An image whose voxels the result takes: a channel, or a file")
        return section

    def _build_voxels(self) -> Section:
        section = Section("Voxels")
        self.output_orientation = Choice()
        self.output_orientation.setEditable(True)
        self.output_orientation.offer(
            [("RAS", None), ("native", "native"), *((code, code) for code in ("LPS", "LAS", "PIR", "AIR"))]
        )
        section.row(
            "Orientation",
            self.output_orientation,
            "Toward which sides the result's axes grow; native: as the image is stored. Any other code can be typed",
        )
        self.interpolation = Choice()
        section.row("Interpolation", self.interpolation, "How values between voxels are found")
        self.antialias = QCheckBox("where the result is coarser")
        self.antialias.setChecked(True)
        section.row("Average", self.antialias, "Average the image first where it is more than twice as fine as the result")
        self.fill = QLineEdit("0")
        section.row("Fill value", self.fill, "Of voxels where the image has none")
        return section

    def _build_output(self) -> Section:
        section = Section("Output")
        self.output = QLineEdit()
        self.output.setPlaceholderText("none: into the viewer only")
        browse = QPushButton("…")
        browse.setFixedWidth(30)
        browse.setToolTip("Choose where to write")
        browse.setAccessibleName("choose the output")
        browse.clicked.connect(self._browse_output)
        section.row("File", beside(self.output, browse), f"Its ending is the format: {_FORMATS}. For chunks, a folder")
        self.overwrite = QCheckBox("if it is there already")
        section.row("Replace", self.overwrite, "Whether the output may take the place of what has its name")
        self.show_result = QCheckBox("as a layer")
        self.show_result.setChecked(True)
        section.row(
            "Show",
            self.show_result,
            "Add the result to the viewer if it is below 1 GB; what was carried into another space gets a window of its own",
        )
        return section

    def _connect(self) -> None:
        self.file.chosen.connect(self._read_file)
        self.channel.chosen.connect(self._on_channel)
        self.piece.chosen.connect(self._on_piece)
        self.chain.changed.connect(self._on_chain)
        self.output_orientation.editTextChanged.connect(self._changed)
        for choice in (self.level, self.labels, self.side, self.margin_unit, self.labels_in, self.reference, self.interpolation):
            choice.chosen.connect(self._changed)
        for edit in (self.orientation, self.resolution, self.regions, self.margin, self.overlap, self.fill, self.output):
            edit.textChanged.connect(self._changed)
        for box in (self.snap, self.parts, self.mask, self.antialias, self.overwrite):
            box.toggled.connect(self._changed)
        for triple in (self.corner, self.size, self.chunk, self.count, self.first):
            triple.edited.connect(self._changed)
        self.from_view.clicked.connect(self._take_view)
        self.from_shape.clicked.connect(self._take_shape)
        self.copy.clicked.connect(self._copy_command)
        self.go.clicked.connect(self._start)

    # --- files and channels -------------------------------------------------------------------------------------------------

    def _on_layers(self, event: Any = None) -> None:
        paths = dict.fromkeys([*lsfm_paths(self._viewer), *self._opened])
        before = self.file.value
        if list(paths) != self.file.values:
            self.file.offer((path.name, path) for path in paths)
            for row, path in enumerate(paths):
                self.file.setItemData(row, str(path), Qt.ItemDataRole.ToolTipRole)
        if self.file.value != before or not paths:
            self._read_file()

    def _browse_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "A file to export from", "", "HDF5 and BigDataViewer (*.h5 *.hdf5 *.xml)")
        if path:
            self.open_file(Path(path))

    def open_file(self, path: Path) -> None:
        """Export from a file, whether it is open in the viewer or not."""
        if path not in self.file.values:
            self._opened.append(path)
            self._on_layers()
        if self.file.value != path:
            self.file.value = path
        elif self._facts is not None:
            self._apply()

    def fill_in(self, request: ExportRequest) -> None:
        """Show a request, as soon as its file was looked into."""
        self._pending = request
        self.open_file(request.path)

    def _read_file(self) -> None:
        path = self.file.value
        self._facts = None
        self._planner.forget()
        if path is None:
            self._complain("Open a file with File > Open File(s)…, or choose one with the … button above.")
        else:
            self._say("…")
            self._reader.ask(lambda _: FileFacts.read(path))

    def _on_facts(self, facts: FileFacts) -> None:
        self._facts = facts
        self._is_filling = True
        self.channel.offer((f"{name} ({channel.kind})", name) for name, channel in facts.channels.items())
        active = self._viewer.layers.selection.active
        origin = active.metadata.get("lsfm", {}) if active is not None else {}
        if origin.get("path") == str(facts.path):
            self.channel.value = origin["channel"]
        self.labels.offer((name, name) for name in facts.of_kind("labels"))
        self.reference.offer([("none", None), *((name, name) for name in facts.channels)])
        self._is_filling = False
        self._apply()

    def _apply(self) -> None:
        """Fill in what was waiting for the file."""
        request, self._pending = self._pending, None
        if request is None:
            self._on_channel()
            return
        self._is_filling = True
        self.channel.value = request.channel
        self._is_filling = False
        self._on_channel()
        self._is_filling = True
        self._show_request(request)
        self._is_filling = False
        self._on_chain()

    def _show_request(self, request: ExportRequest) -> None:
        self.orientation.setText(request.orientation or "")
        self.level.value = request.level
        self.resolution.setText(_joined(request.resolution_mm))
        self.chain.set_steps(request.transforms, request.numeric_inverse)
        self._offer_spaces()
        self._offer_reference(request.reference)
        self.interpolation.value = request.interpolation
        self.output_orientation.setEditText(request.output_orientation or "RAS")
        self.antialias.setChecked(request.antialias)
        self.fill.setText(f"{request.fill:g}")
        self.output.setText("" if request.output is None else str(request.output))
        self.overwrite.setChecked(request.overwrite)
        self.snap.setChecked(request.snap)
        self.piece.value = "whole"
        if request.grid is not None:
            self.piece.value = "grid"
            self.count.show_values(request.grid)
            self.chunk.show_values(_three(request.size_mm))
            self.overlap.setText(_joined(request.overlap_mm))
            if request.origin_mm is not None:
                self.first.show_values(request.origin_mm)
        elif request.origin_mm is not None:
            self.piece.value = "box"
            self.corner.show_values(request.origin_mm)
            self.size.show_values(_three(request.size_mm))
        elif request.region is not None:
            self._show_region(request.region)

    def _show_region(self, region: RegionSelection) -> None:
        self.piece.value = "region"
        self.labels.value = region.labels_channel
        self.regions.setText("; ".join(map(str, region.select)))
        self.parts.setChecked(region.include_descendants)
        self.side.value = region.side
        self.margin_unit.value = "vox" if region.margin_vox else "mm"
        self.margin.setText(f"{region.margin_vox or region.margin_mm:g}")
        self.mask.setChecked(region.mask)
        self.labels_in.value = region.labels_in

    def _on_channel(self) -> None:
        if self._facts is None or self.channel.value is None:
            return
        channel = self._facts.channels[self.channel.value]
        was_filling, self._is_filling = self._is_filling, True
        self.level.offer([
            ("automatic", None),
            *(
                (f"{level.index}: " + " × ".join(f"{size:.4g}" for size in level.space.voxel_size_mm) + f" {channel.unit}", level.index)
                for level in channel.levels
            ),
        ])  # fmt: skip
        kinds = _INTERPOLATIONS[channel.kind]
        self.interpolation.offer([(f"default ({kinds[0]})", None), *((kind, kind) for kind in kinds)])
        self.chain.set_facts(self._facts, channel.name)
        self._image.show_row(self.orientation, channel.orientation is None)
        self._is_filling = was_filling
        self._on_chain()

    def _offer_spaces(self) -> None:
        steps = self.chain.steps
        between = [(f"behind {step.name}", step.name) for step in steps[:-1]]
        self.labels_in.offer([("image", "native"), *between, *([("output", "output")] if steps else [])])
        self._piece.show_row(self.labels_in, self.piece.value == "region" and bool(steps))

    def _on_chain(self) -> None:
        self._offer_spaces()
        self._on_piece()

    def _browse_reference(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "A reference image", "", "Images (*.nii *.nii.gz *.nrrd *.mha);;All files (*)")
        if path:
            self._offer_reference(path)
            self._changed()

    def _offer_reference(self, reference: str | None) -> None:
        channels = [] if self._facts is None else list(self._facts.channels)
        files = [(Path(reference).name, reference)] if reference is not None and reference not in channels else []
        self.reference.offer([("none", None), *((name, name) for name in channels), *files])
        self.reference.value = reference

    def _browse_output(self) -> None:
        if self.piece.value == "grid":
            path = QFileDialog.getExistingDirectory(self, "A folder for the chunks", "")
        else:
            path, _ = QFileDialog.getSaveFileName(
                self, "Where to write", self.output.text() or str(self._suggested()), _FILTER,
                options=QFileDialog.Option.DontConfirmOverwrite,
            )  # fmt: skip
        if path:
            self.output.setText(path)

    def _suggested(self) -> Path:
        path = self.file.value or Path("image.h5")
        return Path(path.with_name(f"{path.stem}_{self.channel.value}.nii.gz"))

    # --- the request --------------------------------------------------------------------------------------------------------

    def request(self) -> ExportRequest:
        """What the form says.

        Raises
        ------
        InputError
            If a field cannot be read, or the fields do not fit each other.
        """
        if self._facts is None:
            raise InputError("the file is still being looked into")
        orientation = self.output_orientation.currentText().strip()
        fields: dict[str, Any] = {
            "path": self._facts.path,
            "channel": self.channel.value,
            "orientation": self.orientation.text().strip() or None if self._has_no_orientation else None,
            "level": self.level.value,
            "resolution_mm": _one_or_three(self.resolution.text(), "voxel size") if self.resolution.text().strip() else None,
            "transforms": self.chain.steps,
            "numeric_inverse": self.chain.numeric_inverse,
            "reference": self.reference.value,
            "output_orientation": None if orientation in ("", "RAS") and self.reference.value is None else orientation or None,
            "interpolation": self.interpolation.value,
            "antialias": self.antialias.isChecked(),
            "fill": numbers(self.fill.text(), "fill value", 1)[0],
            "output": self.output.text().strip() or None,
            "overwrite": self.overwrite.isChecked(),
        }
        match self.piece.value:
            case "box":
                fields |= {
                    "origin_mm": self.corner.read("corner"),
                    "size_mm": self.size.read("size"),
                    "snap": self.snap.isChecked(),
                }
            case "region":
                fields["region"] = self._region()
            case "grid":
                grid = self._counts()
                fields |= {
                    "grid": grid,
                    "size_mm": self.chunk.read("chunk"),
                    "overlap_mm": _one_or_three(self.overlap.text(), "overlap"),
                }
                if grid != (0, 0, 0):
                    fields["origin_mm"] = self.first.read("first corner")
        return ExportRequest(**fields)

    @property
    def _has_no_orientation(self) -> bool:
        return self._facts is not None and self._facts.channels[self.channel.value].orientation is None

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
            mask=self.mask.isChecked(),
            labels_in=self.labels_in.value,
            **({"margin_vox": int(margin)} if self.margin_unit.value == "vox" else {"margin_mm": margin}),
        )

    def _counts(self) -> tuple[int, int, int]:
        counts = self.count.read("chunks")
        if any(count != int(count) for count in counts):
            raise InputError(f"chunks: expected whole numbers, found {', '.join(self.count.texts)}")
        return int(counts[0]), int(counts[1]), int(counts[2])

    def _changed(self, *_: object) -> None:
        if self._is_filling or self._facts is None:
            return
        self._draw_box()
        try:
            request = self.request()
        except LsfmError as error:
            self._planner.forget()
            self._complain(str(error))
            return
        self._say("…")
        self._planner.ask(lambda _: _look_ahead(request))

    def _on_outlook(self, outlook: _Outlook) -> None:
        self._say(outlook.text)
        self.chain.say(outlook.plan.chain.describe() if outlook.plan.chain.transforms else "")
        self.go.setEnabled(not self.panel.is_busy)

    def _say(self, text: str) -> None:
        self.outlook.setStyleSheet("")
        self.outlook.setText(text)

    def _complain(self, text: str) -> None:
        self.outlook.setStyleSheet(ERROR_STYLE)
        self.outlook.setText(text)
        self.go.setEnabled(False)

    # --- the box ------------------------------------------------------------------------------------------------------------

    def _on_piece(self) -> None:
        for piece, fields in self._rows.items():
            for field in fields:
                self._piece.show_row(field, piece == self.piece.value)
        self._piece.show_row(self.labels_in, self.piece.value == "region" and bool(self.chain.steps))
        can_draw = self.piece.value == "box" and not self.chain.steps
        self._piece.show_row(self.shapes, can_draw)
        if can_draw and self._facts is not None and not any(self.corner.texts + self.size.texts):
            self._show_box(*self._middle())
        self._changed()

    def _frame(self) -> Frame:
        assert self._facts is not None
        return self._facts.frame(self.channel.value, self.orientation.text().strip() or None)

    def _voxel_size(self) -> Sequence[float]:
        """Of the channel, along the native axes."""
        assert self._facts is not None
        space = self._facts.frame(self.channel.value).place(self._facts.channels[self.channel.value].space)
        return space.reoriented(space.reorientation_to(Orientation("RAS"))).voxel_size_mm

    def _middle(self) -> tuple[Any, Any]:
        """A box in the middle of the image, half as long, native mm."""
        assert self._facts is not None
        bounds = self._facts.frame(self.channel.value).place(self._facts.channels[self.channel.value].space).bounds
        quarter = np.divide(bounds.size_mm, 4)
        return bounds.lower_mm + quarter, bounds.upper_mm - quarter

    def _draw_box(self) -> None:
        """Draw what the numbers say, if they say something that can be drawn."""
        shown = self._facts is not None and layers_of(self._viewer, self._facts.path)
        if self.piece.value == "box" and shown and not self.chain.steps:
            try:
                corner, size = np.array(self.corner.read("corner")), np.array(self.size.read("size"))
                lower, upper = self._frame().box_to_native(corner, corner + size)
            except LsfmError:
                return
            if np.isfinite([lower, upper]).all() and (lower < upper).all():
                self._box.show(lower, upper, self._voxel_size())
        else:
            self._box.hide()

    def _show_box(self, lower: Any, upper: Any) -> None:
        """Fill in the numbers of a box in native mm."""
        try:
            low, high = self._frame().box_to_ras(lower, upper)
        except LsfmError:
            # Without an orientation nobody can tell; that is what the form says then.
            return
        was_filling, self._is_filling = self._is_filling, True
        self.corner.show_values(low)
        self.size.show_values(high - low)
        self._is_filling = was_filling

    def _on_box_dragged(self, lower: Any, upper: Any) -> None:
        self._show_box(lower, upper)
        self._changed()

    def _take_view(self) -> None:
        assert self._facts is not None
        path = self._facts.path
        layer = next(iter(layers_of(self._viewer, path, self.channel.value) or layers_of(self._viewer, path)), None)
        if layer is None:
            self._complain("The file is not shown here, so there is no view of it: open it first.")
            return
        # Voxels of the level that is shown; they reach half a voxel beyond their centres.
        factors = layer.downsample_factors[layer.data_level] if layer.multiscale else np.ones(3)
        first, last = np.asarray(layer.corner_pixels, dtype=float)
        ends = np.array([layer.data_to_world(edge)[-3:] for edge in (first * factors - 0.5, (last + 1) * factors - 0.5)])
        if self._viewer.dims.ndisplay == 2:
            ends[:, plane_axis(self._viewer)] = np.nan
        self._take(ends)

    def _take_shape(self) -> None:
        points = _selected_points(self._viewer, self._box.layer)
        if points is None:
            self._complain("Select a shape of a shapes layer first.")
            return
        ends = np.full((2, 3), np.nan)
        known = min(3, points.shape[1])
        ends[0, -known:], ends[1, -known:] = points[:, -known:].min(axis=0), points[:, -known:].max(axis=0)
        # A flat shape tells nothing about the axis that it is flat along.
        ends[:, np.ptp(ends, axis=0) == 0] = np.nan
        self._take(ends)

    def _take(self, ends: Any) -> None:
        """Make the box reach from one corner to the other, native mm; along an axis that is NaN it stays, or comes into view."""
        box = self._box.box if self._box.box is not None else np.array(self._middle())
        seen = np.where(np.isnan(ends), box, ends)
        across = plane_axis(self._viewer)
        if np.isnan(ends[:, across]).any():
            seen = with_extent(box, seen, across, float(self._viewer.dims.point[-3:][across]))
        self._on_box_dragged(*seen)

    # --- doing it -----------------------------------------------------------------------------------------------------------

    def _copy_command(self) -> None:
        try:
            text = shlex.join(command_line(self.request()))
        except LsfmError as error:
            self.panel.complain(str(error))
            return
        QApplication.clipboard().setText(text)
        self.panel.say(f"In the clipboard: {text}")

    def _start(self) -> None:
        try:
            request = self.request()
        except LsfmError as error:
            self._complain(str(error))
            return
        show = self.show_result.isChecked() or request.output is None
        frame = self._frame()
        self.go.setEnabled(False)
        job = self.panel.run(_export(request, show), f"Export {request.channel}", lambda done: self._on_done(request, frame, done))
        job.finished.connect(lambda: self.go.setEnabled(True))

    def _on_done(self, request: ExportRequest, frame: Frame, done: _Done) -> str:
        if done.volume is None:
            return done.said
        name = request.channel if request.output is None else request.output.name
        data, keywords, kind = volume_layer(Volume(done.volume.array, frame.place(done.volume.space), done.volume.kind), name)
        if not request.transforms:
            getattr(self._viewer, f"add_{kind}")(data, **keywords)
            return f"{done.said}; shown as layer {name!r}"
        import napari

        other = napari.Viewer(title=f"{request.channel} in the space of {request.transforms[-1]}")
        getattr(other, f"add_{kind}")(data, **keywords)
        return f"{done.said}; shown in a window of its own, since it lies in the space of {request.transforms[-1]}"

    def event(self, event: QEvent) -> bool:
        """Let go of the viewer when napari takes the form out of its window."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self._let_go()
        return bool(super().event(event))

    def _let_go(self) -> None:
        for emitter in (self._viewer.layers.events.inserted, self._viewer.layers.events.removed):
            emitter.disconnect(self._on_layers)
        self._box.close()
        self.panel.cancel()
        self.deleteLater()


def _look_ahead(request: ExportRequest) -> _Outlook:
    with open_lsfm(request.path) as file:
        plan = plan_export(file, request)
        chunks = len(lay_out_chunks(plan.target, request)) if request.grid is not None else None
    return _Outlook(plan, chunks, _suffix(request))


def _export(request: ExportRequest, show: bool) -> Callable[..., _Done]:
    """The work itself, for a thread."""

    def work(progress: Any, cancel: Any) -> _Done:
        if request.grid is not None:
            chunks = export_chunks(request, progress=progress, cancel=cancel)
            _learn(request, chunks.plan, chunks.seconds)
            return _Done(chunks.plan, None, f"{chunks.manifest.parent}: {chunks.count} chunks in {chunks.seconds:.1f} s")
        result = export_channel(request, progress=progress, cancel=cancel)
        plan, volume = result.plan, result.volume
        _learn(request, plan, result.seconds)
        said = f"{plan.channel if result.path is None else result.path.name}: {_size(plan.output_bytes)} in {result.seconds:.1f} s"
        if show and volume is None and plan.output_bytes <= _MAX_SHOWN_BYTES:
            in_memory = request.model_copy(update={"output": None})
            try:
                volume = export_channel(in_memory, progress=lambda _, *rest: progress("show", *rest), cancel=cancel).volume
            except (CancelledError, MemoryBudgetError):
                # The file is there; only the look at it is not.
                said += "; not shown"
        shown = volume if volume is not None and volume.array.ndim == 3 else None
        return _Done(plan, shown, said)

    return work


def _learn(request: ExportRequest, plan: ExportPlan, seconds: float) -> None:
    _rates[plan.copy is not None, _suffix(request)] = plan.output_bytes / max(seconds, 1e-3)


def _suffix(request: ExportRequest) -> str:
    if request.output is None:
        return ""
    name = request.output.name.lower()
    return next((suffix for suffix in _COMPRESSED if name.endswith(suffix)), ".nii.gz" if request.grid else Path(name).suffix)


def _selected_points(viewer: Any, own: Any) -> Any:
    """World positions of the vertices of selected shapes, else of all of the active shapes layer; None without any."""
    layers = [
        layer for layer in (viewer.layers.selection.active, *reversed(viewer.layers)) if layer is not None and layer is not own
    ]
    for layer in layers:
        if type(layer).__name__ == "Shapes" and layer.nshapes:
            chosen = layer.selected_data or range(layer.nshapes)
            return np.array([layer.data_to_world(vertex) for index in chosen for vertex in layer.data[index]])
    return None


def _one_or_three(text: str, name: str) -> float | tuple[float, ...]:
    values = numbers(text, name, 1, 3)
    return values[0] if len(values) == 1 else values


def _three(value: Any) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,) * 3


def _joined(value: Any) -> str:
    return "" if value is None else ", ".join(f"{v:g}" for v in (value if isinstance(value, tuple) else (value,)))


def _size(nbytes: int) -> str:
    unit, name = next((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")) if nbytes >= u or u == 1)
    return f"{nbytes / unit:.3g} {name}"
