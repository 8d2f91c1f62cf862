"""The form of an export: whatever can be asked for, what it will give, and the result in the viewer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from qtpy.QtWidgets import QWidget

from lsfm_core import CancelToken, ExportRequest, InputError, LsfmError, RegionSelection, Volume
from napari_lsfm._layers import volume_layer
from napari_lsfm._viewing import attend
from napari_lsfm._widgets._facts import FileFacts, Frame, layers_of, origin_of
from napari_lsfm._widgets.fields import (
    Choice,
    ChoiceOrFile,
    FileField,
    Numbers,
    Tick,
    Words,
    beside,
    make_field,
    small_button,
)
from napari_lsfm._widgets.forms._export_box import DrawnBox
from napari_lsfm._widgets.forms._export_work import Done, Outlook, by, export_and_look, look_ahead
from napari_lsfm._widgets.forms._transform_form import TransformForm
from napari_lsfm._widgets.forms.through import show_through
from napari_lsfm._workers import Job, in_words

if TYPE_CHECKING:
    import napari
    from magicgui.widgets import Widget

__all__ = ["ExportForm"]

_CODES = ("RAS", "LPS", "LAS", "PIR", "AIR")
#: Of space; before them a viewer may have time.
_AXES = 3
_REFERENCES = "Images (*.nii *.nii.gz *.nrrd *.mha);;All files (*)"
_FILTER = "Images (*.nii *.nii.gz *.nrrd *.mha *.tif *.ome.tif *.ome.zarr *.npy);;All files (*)"
_INTERPOLATIONS = {
    "image": ("linear", "nearest", "bspline"),
    "labels": ("nearest", "mode"),
    "vectors": ("linear",),
    "components": ("linear", "nearest"),
}
_REGION = ("labels_channel", "select", "include_descendants", "side", "midline_mm", "margin_mm", "margin_vox", "mask", "labels_in")
#: Rows of each kind of piece.
_PIECES = {
    "box": ("origin_mm", "size_mm", "take", "snap"),
    "region": tuple(f"region.{name}" for name in _REGION),
    "grid": ("about_grid", "block", "overlap_mm", "grid", "first"),
}
_ABOUT_GRID = (
    "Cuts the image into blocks of one size, each in a file of its own, with a list of them (manifest.json): for programs that "
    "cannot take it whole. lsfm-core merge puts their results together."
)


class ExportForm(TransformForm):
    """Take a channel out of a file, or a piece of it, into whatever format and space.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    request_type = ExportRequest
    operation = "export"
    action = "Export"
    #: As high as it mostly is, so that the form does not jump.
    least_lines = 4
    sections: ClassVar = {
        "Image": ("path", "channel", "orientation", "timepoint", "level", "resolution_mm"),
        "Piece": ("what", *(name for names in _PIECES.values() for name in names)),
        "Into another space": ("to_space", "via", "transforms", "reference", "look"),
        "Voxels": ("output_orientation", "interpolation", "antialias", "fill"),
        "Output": ("output", "overwrite", "memory_bytes", "threads", "show_result"),
    }

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self._box = DrawnBox(viewer, self._on_box, self.native)
        self.channel.changed.connect(self._on_channel)
        self.what.changed.connect(self._on_piece)
        self.from_view.clicked.connect(lambda _: self._take(self._box.from_view))
        self.from_shape.clicked.connect(lambda _: self._take(self._box.from_shape))
        # Until a channel is known to need them.
        self._show_rows(False, "orientation", "timepoint")
        self._on_piece()
        self.path.native.start(viewer)

    def _make(self, name: str) -> Widget | tuple[str, QWidget, str]:
        match name:
            case "path":
                return make_field(ExportRequest, name, FileField)
            case "channel" | "timepoint" | "region.labels_channel" | "region.labels_in":
                return make_field(ExportRequest, name, Choice)
            case "level":
                return make_field(ExportRequest, name, Choice, choices=[("automatic", None)])
            case "what":
                tip = "All of the image, a box of it, the surroundings of a brain region, or many blocks of one size"
                kinds = [("Whole image", "whole"), ("Box", "box"), ("Region of the brain", "region"), ("Grid of blocks", "grid")]
                return Choice("whole", name=name, label="What", tooltip=tip, choices=kinds)
            case "origin_mm" | "size_mm":
                return make_field(ExportRequest, name, Numbers, unit="mm")
            case "take":
                return "Take", self._build_take(), "Fill in the numbers from the viewer; or drag the yellow box there"
            case "about_grid":
                words = Words()
                words.say(_ABOUT_GRID)
                return "", words, "What a grid of blocks is for"
            case "block":
                tip = "Size of a block along R, A, S"
                return make_field(
                    ExportRequest, "size_mm", Numbers, unit="mm", name=name, label="Block (mm)", tooltip=tip, value=(1, 1, 1)
                )
            case "grid":
                return make_field(ExportRequest, name, value=(0, 0, 0), optional=False)
            case "first":
                tip = "R, A, S of the first block's corner, where the number of blocks is given"
                return make_field(ExportRequest, "origin_mm", name=name, label="First corner (mm)", tooltip=tip)
            case "reference":
                return make_field(ExportRequest, name, ChoiceOrFile, choices=[("none", None)], pattern=_REFERENCES)
            case "look":
                self.look = small_button("Show without exporting…", "Look at it in another space: only what is seen is computed")
                self.look.clicked.connect(lambda _: self._on_look())
                return "", self.look, "What would be exported, as a layer"
            case "output_orientation":
                codes = [("default", None), ("native", "native"), *((code, code) for code in _CODES)]
                return make_field(ExportRequest, name, Choice, choices=codes, typed=True)
            case "output":
                return make_field(ExportRequest, name, empty="none: into the viewer only", modes=("save",), pattern=_FILTER)
            case "show_result":
                tip = "Add the result to the viewer if it is below 1 GB; what was carried into another space gets its own window"
                return Tick(True, name=name, label="Show", text="as a layer", tooltip=tip)
        return super()._make(name)

    def _build_take(self) -> QWidget:
        tip = "Make the box what is seen on the screen; across the screen it keeps its thickness"
        self.from_view = small_button("Current view", tip)
        self.from_shape = small_button("Selected shape", "Make the box go around the selected shapes of a shapes layer")
        return beside(self.from_view, self.from_shape)

    # --- files and channels -------------------------------------------------------------------------------------------------

    def __call__(self, request: ExportRequest) -> None:
        """Show a request, as soon as its file was looked into."""
        self._when_known(request.path, request.channel, lambda: self._show_request(request))

    def take_region(self, path: Path, channel: str, region: RegionSelection) -> None:
        """Let the piece be a region; all else stays, the transforms above all."""
        self._when_known(path, channel, lambda: self._show_region(region))

    def _when_known(self, path: Path, channel: str, fill: Callable[[], None]) -> None:
        def apply() -> None:
            with self._filling():
                self.channel.value = channel
                fill()
            self._on_chain()
            self._look_for_way()

        self._once_known(path, apply)

    def _on_left(self) -> None:
        super()._on_left()
        self._box.hide()
        self._enable_take()

    def _on_facts(self, facts: FileFacts) -> None:
        super()._on_facts(facts)
        self._enable_take()
        with self._filling():
            has_wish = self.channel.native.has_wish
            self.channel.offer((f"{name} ({channel.kind})", name) for name, channel in facts.channels.items())
            origin = origin_of(self._viewer.layers.selection.active)
            if origin is not None and origin["path"] == str(facts.path) and not has_wish:
                self.channel.value = origin["channel"]
            self.labels_channel.offer((name, name) for name in facts.of_kind("labels"))
            self.reference.offer([("none", None), *((name, name) for name in facts.channels)])
        pending, self._pending = self._pending or self._on_channel, None
        pending()

    def _show_request(self, request: ExportRequest) -> None:
        super().__call__(request)
        self.what.value = "whole"
        if request.grid is not None:
            self.what.value, self.block.value, self.first.value = "grid", request.size_mm, request.origin_mm
        elif request.origin_mm is not None:
            self.what.value = "box"
        elif request.region is not None:
            self._show_region(request.region)

    def _show_region(self, region: RegionSelection) -> None:
        self.what.value = "region"
        for name in _REGION:
            self[name].value = getattr(region, name)

    def _on_channel(self) -> None:
        if self._facts is None or self.channel.native.currentData() is None:
            return
        channel = self._facts.channels[self.channel.value]
        with self._filling():
            levels = [(f"{level.index}: {by(level.space.voxel_size_mm)} {channel.unit}", level.index) for level in channel.levels]
            self.level.offer([("automatic", None), *levels])
            kinds = _INTERPOLATIONS[channel.kind]
            self.interpolation.offer([(f"default ({kinds[0]})", None), *((kind, kind) for kind in kinds)])
            self.transforms.native.set_facts(self._facts, channel.name)
            self.output.native.start = str(self._facts.path.with_name(f"{self._facts.path.stem}_{channel.name}.nii.gz"))
            self._show_rows(channel.orientation is None, "orientation")
            has_wish = self.timepoint.native.has_wish
            self.timepoint.offer((str(time), time) for time in channel.timepoints)
            if self._viewer.dims.ndim > _AXES and not has_wish:
                self.timepoint.value = round(self._viewer.dims.point[-_AXES - 1])
            self._show_rows(len(channel.timepoints) > 1, "timepoint")
        self._on_chain()
        self._look_for_way()

    def _on_chain(self) -> None:
        names = [step.name for step in self.transforms.value]
        between = [(f"behind {name}", name) for name in names[:-1]]
        self.labels_in.offer([("image", "native"), *between, *([("output", "output")] if names else [])])
        self._on_piece()

    # --- the request --------------------------------------------------------------------------------------------------------

    def request(self) -> ExportRequest:
        """What the form says.

        Raises
        ------
        InputError
            If a field cannot be read, or the fields do not fit each other.
        """
        if self._facts is None:
            # A script does not wait for what its file tells.
            if self._failure or self.path.value is None:
                raise InputError(self._failure or "no file is chosen")
            self.path.native.look_now()
        request: ExportRequest = super().request()
        return request

    def _given(self) -> dict[str, Any]:
        if self.what.value == "region" and self.labels_channel.value is None:
            raise InputError("labels: the file has no channel of that kind")
        given = super()._given()
        if self.what.value == "grid":
            given["size_mm"] = self.block.value
            if given["grid"] != (0, 0, 0):
                given["origin_mm"] = self.first.value
        return given

    def _changed(self, *_: object) -> None:
        if self._facts is not None and not self._is_filling:
            self._draw_box()
            super()._changed()

    def _plan(self, request: ExportRequest, cancel: CancelToken) -> Outlook:
        return look_ahead(request, cancel)

    def _say_plan(self, outlook: Outlook) -> None:
        plan = outlook.plan
        self.antialias.enabled = plan.method not in ("nearest", "mode")
        self.outlook.say(f"{outlook.text}\n{self.output.native.whole}".rstrip())
        self._warn(plan.warnings)
        self.transforms.native.say(plan.chain.describe() if plan.chain.transforms else "")

    def _nameable_request(self) -> ExportRequest:
        request = self.request()
        if request.output is None:
            raise InputError("output: commands and recipes write files: name one")
        return request

    # --- the box ------------------------------------------------------------------------------------------------------------

    @property
    def _can_draw(self) -> bool:
        """Whether the piece is a box in the world that the viewer shows: that behind transforms is another."""
        return self.what.value == "box" and not self._leaves

    def _on_piece(self) -> None:
        for piece, names in _PIECES.items():
            self._show_rows(piece == self.what.value, *names)
        if not self._leaves:
            self._show_rows(False, "region.labels_in")
        self._show_rows(self._can_draw, "take")
        # A folder for blocks, else a file.
        self.output.native.mode = "folder" if self.what.value == "grid" else "save"
        if self._can_draw and self._facts is not None and not any(self.origin_mm.texts + self.size_mm.texts):
            self._place_box()
            self._box.begin()
        self._changed()

    def _enable_take(self) -> None:
        for button in (self.from_view, self.from_shape):
            button.setEnabled(self._facts is not None)

    def _place_box(self) -> None:
        assert self._facts is not None
        self._box.look_at(self._facts, self.channel.value, self.orientation.value)

    def _draw_box(self) -> None:
        """Draw what the numbers say, if they say something that can be drawn."""
        if not self._can_draw:
            self._box.hide()
            return
        try:
            self._place_box()
            self._box.show(self.origin_mm.value, self.size_mm.value)
        except LsfmError:
            # The form says it.
            return

    def _on_box(self, lower: Any, upper: Any) -> None:
        """Fill in the numbers of a box, R, A, S mm."""
        with self._filling():
            self.origin_mm.value, self.size_mm.value = lower, np.subtract(upper, lower)
        self._changed()

    def _take(self, take: Callable[[], None]) -> None:
        try:
            self._place_box()
            take()
        except LsfmError as error:
            self._complain(str(error))

    def _on_look(self) -> None:
        try:
            show_through(self._viewer, self.request())
        except LsfmError as error:
            self._complain(in_words(error))

    # --- doing it -----------------------------------------------------------------------------------------------------------

    def _begin(self, request: ExportRequest) -> Job:
        assert self._facts is not None
        show = self.show_result.value or request.output is None
        self._place_box()
        # What transforms lead to is turned as the image is; where an unrecorded orientation puts that, does not matter there.
        frame = self._facts.frame(request.channel) if self._leaves else self._box.frame
        looks = self._facts.channels[request.channel].display_range, self._facts.tables.get(request.channel)
        work = export_and_look(request, show)
        return self.panel.run(work, f"Export {request.channel}", lambda done: self._on_done(request, done, frame, looks))

    def _on_done(self, request: ExportRequest, done: Done, frame: Frame, looks: tuple[Any, Any]) -> str:
        """Show the result, which looks like the channel: with its display range, or its label table."""
        if done.volume is None:
            return done.said
        name = request.channel if request.output is None else request.output.name
        placed = Volume(done.volume.array, frame.place(done.volume.space), done.volume.kind)
        data, keywords, kind = volume_layer(placed, name, *looks, frame.axcodes)
        if done.plan.chain.transforms:
            where = f"space {request.to_space}" if request.to_space else f"the space of {request.transforms[-1]}"
            why = f"it lies in {where}"
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
        self.path.native.let_go()
        self._box.close()
        super()._let_go()
