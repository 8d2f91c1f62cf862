"""The form of an export: whatever can be asked for, what it will give, and the result in the viewer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QCheckBox, QFileDialog, QLineEdit, QPushButton

from lsfm_core import (
    CancelledError,
    CancelToken,
    ExportPlan,
    ExportRequest,
    InputError,
    LsfmError,
    MemoryBudgetError,
    Orientation,
    RegionSelection,
    SourceError,
    Volume,
    export_channel,
    export_chunks,
    lay_out_chunks,
    open_lsfm,
    open_source,
    plan_export,
    size_text,
)
from lsfm_core.transforms import Affine
from napari_lsfm._layers import volume_layer
from napari_lsfm._viewing import attend
from napari_lsfm._widgets._box import BoxLayer, plane_axis, with_extent
from napari_lsfm._widgets._chain import ChainEditor
from napari_lsfm._widgets._facts import FileFacts, Frame, layers_of, origin_of
from napari_lsfm._widgets._fields import (
    Choice,
    PathEdit,
    Section,
    Text,
    beside,
    browse_button,
    numbers,
    one_or_three,
    stacked,
)
from napari_lsfm._widgets._form import CopyButton, Form
from napari_lsfm._widgets._picker import FilePicker
from napari_lsfm._widgets._piece import PieceSection
from napari_lsfm._workers import Latest, in_words

if TYPE_CHECKING:
    import napari

__all__ = ["ExportWidget"]

_DELAY_MS = 250
#: Larger results stay on the disk.
_MAX_SHOWN_BYTES = 10**9
_CODES = ("RAS", "LPS", "LAS", "PIR", "AIR")
_DEFAULT = "default"
#: Of space; before them a viewer may have time.
_AXES = 3
_FORMATS = ".nii, .nii.gz, .nrrd, .mha, .tif, .ome.tif, .ome.zarr or .npy"
_FILTER = "Images (*.nii *.nii.gz *.nrrd *.mha *.tif *.ome.tif *.ome.zarr *.npy);;All files (*)"
_INTERPOLATIONS = {
    "image": ("linear", "nearest", "bspline"),
    "labels": ("nearest", "mode"),
    "vectors": ("linear",),
    "components": ("linear", "nearest"),
}
#: Seconds on one core, as measured on a mouse brain: per GB that is read and decoded, written, and compressed in each format; per
#: billion voxels of the result that are interpolated, or carried through a displacement field. Only roughly right elsewhere.
_BEGIN_S, _READ_S, _WRITE_S, _FIELD_S = 0.1, 12.0, 3.0, 400.0
_COMPRESS_S = {".nii.gz": 12.0, ".nrrd": 12.0, ".ome.zarr": 45.0}
_METHOD_S = {"nearest": 30.0, "linear": 60.0, "mode": 600.0, "bspline": 2000.0}
#: How much longer than that it took, since napari was started, for each way and format.
_slowness: dict[tuple[str, str], float] = {}


@dataclass(frozen=True)
class _Outlook:
    """What a dry run tells."""

    plan: ExportPlan
    chunks: int | None
    suffix: str

    @property
    def text(self) -> str:
        plan = self.plan
        parts = "" if self.chunks is None else f" in {self.chunks} chunk{'s' if self.chunks > 1 else ''}"
        where = {"": "in memory", **dict.fromkeys(_COMPRESS_S, "on disk before compression")}.get(self.suffix, "on disk")
        how = _way(plan)
        seconds = _guess_seconds(plan, self.suffix) * _slowness.get((how, self.suffix), 1)
        warnings = "".join(f"\nwarning: {warning}" for warning in plan.warnings)
        return (
            f"{_by(plan.target.shape)} voxels{parts} of {_by(plan.target.voxel_size_mm)} mm\n"
            f"{plan.dtype}, {plan.target.orientation}, {how}, level {plan.level.index} is read\n"
            f"{size_text(plan.output_bytes)} {where}\n"
            f"at most {size_text(plan.peak_bytes)} of memory, about {max(1, round(seconds))} s{warnings}"
        )


@dataclass(frozen=True)
class _Done:
    """What came of an export."""

    plan: ExportPlan
    volume: Volume | None
    said: str
    reference: Volume | None = None


class ExportWidget(Form):
    """Take a channel out of a file, or a piece of it, into whatever format and space.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self._facts: FileFacts | None = None
        self._pending: Callable[[], None] | None = None
        self._is_filling = False
        self._is_ready = False
        self._box = BoxLayer(napari_viewer, "export box", editable=True, parent=self)
        self._box.changed.connect(self._on_box_dragged)
        self._planner = Latest(self, _DELAY_MS)
        self._planner.answered.connect(self._on_outlook)
        self._planner.failed.connect(self._complain)
        self._build()
        self._connect()
        self.file.start()

    # --- the form -----------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.piece = PieceSection()
        content = stacked(self._build_image(), self.piece, self._build_space(), self._build_voxels(), self._build_output())
        # As high as it mostly is, so that the form does not jump.
        self.outlook = Text(least_lines=5)
        self.outlook.setAccessibleName("outlook")
        self.outlook.setToolTip("What the export will give, or what is wrong with it")
        self.copy = CopyButton("export", self._nameable_request, self.panel)
        self.go = QPushButton("Export")
        self.go.setToolTip("Do it; the form can be changed meanwhile")
        self._lay_out(content, self.outlook, beside(self.copy, self.go))

    def _build_image(self) -> Section:
        section = Section("Image")
        self.file = FilePicker(self._viewer)
        section.row("File", self.file, "The file to export from: those that are open here, or any other")
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
        self.timepoint = Choice()
        section.row("Timepoint", self.timepoint, "Which one to export; at first the one that is seen")
        self.level = Choice()
        section.row("Level", self.level, "What is read; automatic: the coarsest that is as fine as the result")
        self.resolution = QLineEdit()
        self.resolution.setPlaceholderText("as stored")
        section.row(
            "Resolution (mm)",
            self.resolution,
            "Voxel size of the result: one number, or three with commas; empty: that of the level",
        )
        self._image = section
        return section

    def _build_space(self) -> Section:
        section = Section("Into another space")
        self.chain = ChainEditor()
        section.row("", self.chain, "")
        self.reference = Choice()
        browse = browse_button("Choose an image file as reference", self._browse_reference)
        section.row("Reference", beside(self.reference, browse), "An image whose voxels the result takes: a channel, or a file")
        return section

    def _build_voxels(self) -> Section:
        section = Section("Voxels")
        self.output_orientation = Choice()
        self.output_orientation.setEditable(True)
        self.output_orientation.offer([(_DEFAULT, None), ("native", "native"), *((code, code) for code in _CODES)])
        section.row(
            "Orientation",
            self.output_orientation,
            "Toward which sides the result's axes grow; default: RAS, or as the reference; native: as the image is stored. "
            "Any other code can be typed",
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
        self.output = PathEdit("none: into the viewer only")
        browse = browse_button("Choose where to write", self._browse_output)
        tip = f"Its ending is the format: {_FORMATS}. For chunks, a folder"
        section.row("File", beside(self.output, browse), tip)
        self.output.explain(tip)
        self.overwrite = QCheckBox("if it is there already")
        section.row("Replace", self.overwrite, "Whether the output may take the place of what has its name")
        self.memory = QLineEdit("2")
        section.row("Memory (GB)", self.memory, "What the export may take at most")
        self.show_result = QCheckBox("as a layer")
        self.show_result.setChecked(True)
        section.row(
            "Show",
            self.show_result,
            "Add the result to the viewer if it is below 1 GB; what was carried into another space gets a window of its own",
        )
        return section

    @property
    def _edits(self) -> tuple[QLineEdit, ...]:
        return self.orientation, self.resolution, self.fill, self.output, self.memory

    def _connect(self) -> None:
        self.file.left.connect(self._on_left)
        self.file.chosen.connect(self._on_facts)
        self.file.failed.connect(self._complain)
        self.channel.chosen.connect(self._on_channel)
        self.piece.what.chosen.connect(self._on_piece)
        self.piece.changed.connect(self._changed)
        self.chain.changed.connect(self._on_chain)
        self.output_orientation.editTextChanged.connect(self._changed)
        for choice in (self.timepoint, self.level, self.reference, self.interpolation):
            choice.chosen.connect(self._changed)
        for edit in self._edits:
            edit.textChanged.connect(self._changed)
        for box in (self.antialias, self.overwrite):
            box.toggled.connect(self._changed)
        self.piece.from_view.clicked.connect(self._take_view)
        self.piece.from_shape.clicked.connect(self._take_shape)
        self.go.clicked.connect(self._start)
        self.panel.finished.connect(lambda: self._enable(ready=self._is_ready))

    # --- files and channels -------------------------------------------------------------------------------------------------

    def fill_in(self, request: ExportRequest) -> None:
        """Show a request, as soon as its file was looked into."""
        self._when_known(request.path, request.channel, lambda: self._show_request(request))

    def take_region(self, path: Path, channel: str, region: RegionSelection) -> None:
        """Let the piece be a region; all else stays, the transforms above all."""
        self._when_known(path, channel, lambda: self.piece.show_region(region))

    def _when_known(self, path: Path, channel: str, fill: Callable[[], None]) -> None:
        def apply() -> None:
            was_filling, self._is_filling = self._is_filling, True
            self.channel.value = channel
            self._on_channel()
            fill()
            self._is_filling = was_filling
            self._on_chain()

        if self._facts is not None and self._facts.path == path:
            apply()
        else:
            self._pending = apply
            self.file.choose(path)

    def _on_left(self) -> None:
        self._facts = None
        self._planner.forget()
        self._box.hide()
        self.piece.shapes.setEnabled(False)
        self.outlook.say("…")
        self._enable(ready=False)

    def _on_facts(self, facts: FileFacts) -> None:
        self._facts = facts
        self.piece.shapes.setEnabled(True)
        self._is_filling = True
        self.channel.offer((f"{name} ({channel.kind})", name) for name, channel in facts.channels.items())
        origin = origin_of(self._viewer.layers.selection.active)
        if origin is not None and origin["path"] == str(facts.path):
            self.channel.value = origin["channel"]
        self.piece.offer_labels(facts.of_kind("labels"))
        self._offer_reference(None)
        self._is_filling = False
        if self._pending is None:
            self._on_channel()
        else:
            pending, self._pending = self._pending, None
            pending()

    def _show_request(self, request: ExportRequest) -> None:
        self.orientation.setText(request.orientation or "")
        self.timepoint.value = request.timepoint
        self.level.value = request.level
        self.resolution.setText(_joined(request.resolution_mm))
        self.chain.set_steps(request.transforms, request.numeric_inverse)
        self.piece.offer_spaces([step.name for step in self.chain.steps])
        self._offer_reference(request.reference)
        self.interpolation.value = request.interpolation
        self.output_orientation.setEditText(request.output_orientation or _DEFAULT)
        self.antialias.setChecked(request.antialias)
        self.fill.setText(f"{request.fill:g}")
        self.output.setText("" if request.output is None else str(request.output))
        self.overwrite.setChecked(request.overwrite)
        self.memory.setText(f"{request.memory_bytes / 1e9:g}")
        self.piece.fill_in(request)

    def _on_channel(self) -> None:
        if self._facts is None or self.channel.value is None:
            return
        channel = self._facts.channels[self.channel.value]
        was_filling, self._is_filling = self._is_filling, True
        levels = [(f"{level.index}: {_by(level.space.voxel_size_mm)} {channel.unit}", level.index) for level in channel.levels]
        self.level.offer([("automatic", None), *levels])
        kinds = _INTERPOLATIONS[channel.kind]
        self.interpolation.offer([(f"default ({kinds[0]})", None), *((kind, kind) for kind in kinds)])
        self.chain.set_facts(self._facts, channel.name)
        self._image.show_row(self.orientation, channel.orientation is None)
        self.timepoint.offer((str(time), time) for time in channel.timepoints)
        if self._viewer.dims.ndim > _AXES:
            self.timepoint.value = round(self._viewer.dims.point[-_AXES - 1])
        self._image.show_row(self.timepoint, self.timepoint.count() > 1)
        self._is_filling = was_filling
        self._on_chain()

    def _on_chain(self) -> None:
        self.piece.offer_spaces([step.name for step in self.chain.steps])
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
        if self.piece.what.value == "grid":
            path = QFileDialog.getExistingDirectory(self, "A folder for the chunks", "")
        else:
            path, _ = QFileDialog.getSaveFileName(
                self, "Where to write", self.output.text() or str(self._suggested()), _FILTER,
                options=QFileDialog.Option.DontConfirmOverwrite,
            )  # fmt: skip
        if path:
            self.output.setText(path)

    def _suggested(self) -> Path:
        path = self.file.path or Path("image.h5")
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
            "timepoint": self.timepoint.value if self.timepoint.count() > 1 else None,
            "level": self.level.value,
            "resolution_mm": one_or_three(self.resolution.text(), "resolution") if self.resolution.text().strip() else None,
            "transforms": self.chain.steps,
            "numeric_inverse": self.chain.numeric_inverse,
            "reference": self.reference.value,
            "output_orientation": None if orientation in ("", _DEFAULT) else orientation,
            "interpolation": self.interpolation.value,
            "antialias": self.antialias.isChecked(),
            "fill": numbers(self.fill.text(), "fill value", 1, finite=False)[0],
            "output": self.output.text().strip() or None,
            "overwrite": self.overwrite.isChecked(),
            "memory_bytes": round(numbers(self.memory.text(), "memory", 1)[0] * 1e9),
            **self.piece.fields(),
        }
        return ExportRequest(**fields)

    @property
    def _has_no_orientation(self) -> bool:
        return self._facts is not None and self._facts.channels[self.channel.value].orientation is None

    def _changed(self, *_: object) -> None:
        if self._is_filling or self._facts is None:
            return
        self._draw_box()
        try:
            request = self.request()
        except LsfmError as error:
            self._planner.forget()
            self._complain(in_words(error))
            return
        self.outlook.say("…")
        self._planner.ask(lambda cancel: _look_ahead(request, cancel))

    def _on_outlook(self, outlook: _Outlook) -> None:
        self.antialias.setEnabled(outlook.plan.method not in ("nearest", "mode"))
        self.outlook.say(f"{outlook.text}\n{self.output.whole}".rstrip())
        self.chain.say(outlook.plan.chain.describe() if outlook.plan.chain.transforms else "")
        self._enable(ready=True)

    def _complain(self, text: str) -> None:
        self.outlook.complain(text)
        self._enable(ready=False)

    def _enable(self, *, ready: bool) -> None:
        self._is_ready = ready
        self.go.setEnabled(ready and not self.panel.is_busy)

    # --- the box ------------------------------------------------------------------------------------------------------------

    def _on_piece(self) -> None:
        self.piece.show_rows()
        if self.piece.can_draw and self._facts is not None and self.piece.has_no_box:
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

    def _bounds(self) -> Any:
        """(2, 3) lower and upper corner of the image, native mm."""
        assert self._facts is not None
        return self._facts.bounds(self.channel.value)

    def _middle(self) -> Any:
        """A box in the middle of the image, half as long."""
        bounds = self._bounds()
        return bounds + [[0.25], [-0.25]] * np.ptp(bounds, axis=0)

    def _draw_box(self) -> None:
        """Draw what the numbers say, if they say something that can be drawn."""
        if self.piece.can_draw and self._facts is not None and layers_of(self._viewer, self._facts.path):
            try:
                lower, upper = self._frame().box_to_native(*self.piece.box())
            except LsfmError:
                return
            if np.isfinite([lower, upper]).all() and (lower < upper).all():
                self._box.show(lower, upper, self._bounds(), self._voxel_size())
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
        self.piece.show_box(low, high)
        self._is_filling = was_filling

    def _on_box_dragged(self, lower: Any, upper: Any) -> None:
        self._show_box(lower, upper)
        self._changed()

    def _take_view(self) -> None:
        assert self._facts is not None
        if self._viewer.dims.ndisplay == 3 or not layers_of(self._viewer, self._facts.path):
            self._complain("Show a plane of the file first: only that has edges.")
            return
        height, width = self._viewer.canvas.viewbox_size(self._viewer.layers)
        half = np.array([height, width]) / self._viewer.scene.camera.zoom / 2
        middle = np.array(self._viewer.scene.camera.center[-2:])
        seen = [axis - (self._viewer.dims.ndim - 3) for axis in self._viewer.dims.displayed]
        image = self._bounds()
        ends = np.full((2, 3), np.nan)
        ends[:, seen] = np.clip([middle - half, middle + half], image[0, seen], image[1, seen])
        if (np.ptp(ends[:, seen], axis=0) <= 0).any():
            self._complain("The image is out of view.")
            return
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
        box = self._box.box if self._box.box is not None else self._middle()
        seen = np.where(np.isnan(ends), box, ends)
        across = plane_axis(self._viewer)
        if np.isnan(ends[:, across]).any():
            seen = with_extent(box, seen, across, float(self._viewer.dims.point[-3:][across]))
        self._on_box_dragged(*seen)

    # --- doing it -----------------------------------------------------------------------------------------------------------

    def _nameable_request(self) -> ExportRequest:
        """The request, if its result has a name that others can use."""
        request = self.request()
        if request.output is None:
            raise InputError("output: commands and recipes write files: name one")
        return request

    def _start(self) -> None:
        try:
            request = self.request()
        except LsfmError as error:
            self._complain(in_words(error))
            return
        show = self.show_result.isChecked() or request.output is None
        # What transforms lead to is turned as the image is; where an unrecorded orientation puts that, does not matter there.
        frame = self._facts.frame(request.channel) if request.transforms else self._frame()
        looks = self._facts.channels[request.channel].display_range, self._facts.tables.get(request.channel)
        work = _export(request, show)
        self.panel.run(work, f"Export {request.channel}", lambda done: self._on_done(request, done, frame, looks))
        self._enable(ready=self._is_ready)

    def _on_done(self, request: ExportRequest, done: _Done, frame: Frame, looks: tuple[Any, Any]) -> str:
        """Show the result, which looks like the channel: with its display range, or its label table."""
        if done.volume is None:
            return done.said
        name = request.channel if request.output is None else request.output.name
        placed = Volume(done.volume.array, frame.place(done.volume.space), done.volume.kind)
        data, keywords, kind = volume_layer(placed, name, *looks, frame.axcodes)
        if request.transforms:
            why = f"it lies in the space of {request.transforms[-1]}"
        elif self._viewer.layers and not layers_of(self._viewer, request.path):
            why = "this one shows something else"
        else:
            # napari gives it another name where there is one of that name already.
            layer = getattr(self._viewer, f"add_{kind}")(data, **keywords)
            return f"{done.said}; shown as layer {layer.name!r}"
        import napari

        other = napari.Viewer(title=f"{name} of {request.path.name}")
        attend(other)
        if done.reference is not None:
            beneath = Volume(done.reference.array, frame.place(done.reference.space), done.reference.kind)
            below, looks_below, kind_below = volume_layer(beneath, Path(request.reference).name, axcodes=frame.axcodes)
            getattr(other, f"add_{kind_below}")(below, **looks_below)
            # Both are seen where they agree, and where they do not.
            keywords |= {"opacity": 0.5} if kind == "labels" else {"colormap": "green", "blending": "additive"}
        getattr(other, f"add_{kind}")(data, **keywords)
        return f"{done.said}; shown in a window of its own, since {why}"

    def _let_go(self) -> None:
        self.file.let_go()
        self._box.close()
        super()._let_go()


def _look_ahead(request: ExportRequest, cancel: CancelToken) -> _Outlook:
    with open_lsfm(request.path) as file:
        plan = plan_export(file, request, cancel=cancel)
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
        said = (
            f"{plan.channel if result.path is None else result.path.name}: {size_text(plan.output_bytes)} in {result.seconds:.1f} s"
        )
        if show and volume is None and plan.output_bytes <= _MAX_SHOWN_BYTES:
            in_memory = request.model_copy(update={"output": None})
            try:
                volume = export_channel(in_memory, progress=lambda _, *rest: progress("show", *rest), cancel=cancel).volume
            except (CancelledError, MemoryBudgetError):
                # The file is there; only the look at it is not.
                said += "; not shown"
        shown = volume if volume is not None and volume.array.ndim == 3 else None
        return _Done(plan, shown, said, None if shown is None else _read_reference(request, cancel))

    return work


def _read_reference(request: ExportRequest, cancel: CancelToken) -> Volume | None:
    """The image whose space a result was carried into, to be shown beneath it; None if there is none, or it is not to be seen."""
    if request.reference is None or not request.transforms:
        return None
    with open_lsfm(request.path) as file:
        if request.reference in file:
            channel = file[request.reference]
            finest = channel.levels[0]
            is_seen = channel.kind != "vectors" and finest.data.nbytes <= _MAX_SHOWN_BYTES
            return Volume(np.asarray(finest.data), finest.space, channel.kind) if is_seen else None
    try:
        source = open_source(request.reference)
    except SourceError:
        # A displacement field can be a reference as well.
        return None
    with closing(source):
        nbytes = np.prod(source.shape, dtype=float) * source.dtype.itemsize
        if source.space is None or source.components > 1 or nbytes > _MAX_SHOWN_BYTES:
            return None
        array = np.empty(source.shape, source.dtype)
        for index, plane in enumerate(array):
            if cancel.cancelled:
                return None
            source.read_plane(index, plane)
        return Volume(array, source.space)


def _learn(request: ExportRequest, plan: ExportPlan, seconds: float) -> None:
    suffix = _suffix(request)
    _slowness[_way(plan), suffix] = seconds / _guess_seconds(plan, suffix)


def _way(plan: ExportPlan) -> str:
    return "copied" if plan.copy is not None else plan.method


def _guess_seconds(plan: ExportPlan, suffix: str) -> float:
    """How long an export takes, before anything was measured."""
    shared = plan.read_bytes * _READ_S + plan.output_bytes * _COMPRESS_S.get(suffix, 0)
    if plan.copy is None:
        fields = sum(not isinstance(transform, Affine) for transform in plan.chain.transforms)
        shared += np.prod(plan.target.shape, dtype=float) * (_METHOD_S[plan.method] + fields * _FIELD_S)
    return float(_BEGIN_S + 1e-9 * (shared / plan.threads + plan.output_bytes * _WRITE_S))


def _suffix(request: ExportRequest) -> str:
    if request.output is None:
        return ""
    name = request.output.name.lower()
    return next((suffix for suffix in _COMPRESS_S if name.endswith(suffix)), ".nii.gz" if request.grid else Path(name).suffix)


def _selected_points(viewer: Any, own: Any) -> Any:
    """World positions of the vertices of selected shapes, else of all of the active shapes layer; None without any."""
    for layer in (viewer.layers.selection.active, *reversed(viewer.layers)):
        if type(layer).__name__ == "Shapes" and layer is not own and layer.nshapes:
            chosen = layer.selected_data or range(layer.nshapes)
            return np.array([layer.data_to_world(vertex) for index in chosen for vertex in layer.data[index]])
    return None


def _joined(value: Any) -> str:
    return "" if value is None else ", ".join(f"{v:g}" for v in (value if isinstance(value, tuple) else (value,)))


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
