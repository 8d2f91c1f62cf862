"""The form of an export: whatever can be asked for, what it will give, and the result in the viewer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from qtpy.QtWidgets import QWidget

from lsfm_core import CancelToken, Channel, ExportRequest, InputError, LsfmError, RegionSelection, Volume
from napari_lsfm._layers import volume_layer
from napari_lsfm._viewing import attend
from napari_lsfm._widgets._facts import FileFacts, Frame, Place, layers_of
from napari_lsfm._widgets.fields import BoxField, Choice, ChoiceOrFile, Numbers, Tick, Words, make_field, small_button
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
    "box": ("box", "snap"),
    "region": tuple(f"region.{name}" for name in _REGION),
    "grid": ("about_grid", "block", "overlap_mm", "grid", "first"),
}
_ABOUT_GRID = (
    "Cuts the image into blocks of one size, each in a file of its own, with a list of them (manifest.json): for programs that "
    "cannot take it whole. lsfm-core merge puts their results together."
)


class ExportForm(TransformForm):
    """Take a channel out of a file, or a piece of it, into whatever format and space."""

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
        self.what.changed.connect(self._on_piece)
        self.orientation.changed.connect(self._on_piece)
        # Until a channel is known to need them.
        self._show_rows(False, "orientation", "timepoint")
        self._on_piece()
        self.path.native.start(viewer)

    def _make(self, name: str) -> Widget | tuple[str, QWidget, str]:
        match name:
            case "timepoint" | "region.labels_channel":
                return make_field(ExportRequest, name, Choice)
            case "level":
                return make_field(ExportRequest, name, Choice, choices=[("automatic", None)])
            case "what":
                tip = "All of the image, a box of it, the surroundings of a brain region, or many blocks of one size"
                kinds = [("Whole image", "whole"), ("Box", "box"), ("Region of the brain", "region"), ("Grid of blocks", "grid")]
                return Choice("whole", name=name, label="What", tooltip=tip, choices=kinds)
            case "box":
                return BoxField(name=name, label="Box", tooltip="A box of the image", viewer=self._viewer)
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

    @property
    def origin_mm(self) -> Numbers:
        """The field of the box's corner."""
        return self.box.parts[0]  # type: ignore[no-any-return]

    @property
    def size_mm(self) -> Numbers:
        """The field of its size."""
        return self.box.parts[1]  # type: ignore[no-any-return]

    # --- files and channels -------------------------------------------------------------------------------------------------

    def take_region(self, path: Path, channel: str, region: RegionSelection) -> None:
        """Let the piece be a region; all else stays, the transforms above all."""
        self._when_known(path, channel, lambda: self._show_region(region))

    def _on_left(self) -> None:
        super()._on_left()
        self._on_piece()

    def _show_request(self, request: ExportRequest) -> None:
        super()._show_request(request)
        self.what.value = "whole"
        if request.grid is not None:
            self.what.value, self.block.value, self.first.value = "grid", request.size_mm, request.origin_mm
        elif request.origin_mm is not None:
            self.what.value, self.box.value = "box", (request.origin_mm, request.size_mm)
        elif request.region is not None:
            self._show_region(request.region)

    def _show_region(self, region: RegionSelection) -> None:
        self.what.value = "region"
        for name in _REGION:
            self[name].value = getattr(region, name)

    def _offer_of(self, channel: Channel, facts: FileFacts) -> None:
        levels = [(f"{level.index}: {by(level.space.voxel_size_mm)} {channel.unit}", level.index) for level in channel.levels]
        self.level.offer([("automatic", None), *levels])
        kinds = _INTERPOLATIONS[channel.kind]
        self.interpolation.offer([(f"default ({kinds[0]})", None), *kinds])
        self.output.native.start = str(facts.path.with_name(f"{facts.path.stem}_{channel.name}.nii.gz"))
        is_wished = self.timepoint.native.has_wish
        self.timepoint.offer(channel.timepoints)
        if self._viewer.dims.ndim > _AXES and not is_wished:
            self.timepoint.value = round(self._viewer.dims.point[-_AXES - 1])
        self._show_rows(len(channel.timepoints) > 1, "timepoint")

    def _on_chain(self) -> None:
        super()._on_chain()
        self._on_piece()

    # --- the request --------------------------------------------------------------------------------------------------------

    def _given(self) -> dict[str, Any]:
        if self.what.value == "region" and self.labels_channel.value is None:
            raise InputError("labels: the file has no channel of that kind")
        given = super()._given()
        if self.what.value == "box":
            given["origin_mm"], given["size_mm"] = self.box.value
        elif self.what.value == "grid":
            given["size_mm"] = self.block.value
            if given["grid"] != (0, 0, 0):
                given["origin_mm"] = self.first.value
        return given

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

    def _on_piece(self) -> None:
        for piece, names in _PIECES.items():
            self._show_rows(piece == self.what.value, *names)
        if not self._leaves:
            self._show_rows(False, "region.labels_in")
        # A folder for blocks, else a file.
        self.output.native.mode = "folder" if self.what.value == "grid" else "save"
        box = self.box.native
        # The world behind transforms is another than that which the viewer shows.
        box.look_at(self._place if self.what.value == "box" and not self._leaves else None)
        box.begin()
        self._changed()

    def _place(self) -> Place | None:
        """Where the image lies in the viewer, if it is there."""
        if self._facts is None or self.channel.native.has_wish or not layers_of(self._viewer, self._facts.path):
            return None
        try:
            return self._facts.place(self.channel.value, self.orientation.value)
        except LsfmError:
            # Without an orientation nobody can tell; that is what the form says then.
            return None

    def _on_look(self) -> None:
        try:
            show_through(self._viewer, self.request())
        except LsfmError as error:
            self._complain(in_words(error))

    # --- doing it -----------------------------------------------------------------------------------------------------------

    def _begin(self, request: ExportRequest) -> Job:
        assert self._facts is not None
        show = self.show_result.value or request.output is None
        # What transforms lead to is turned as the image is; where an unrecorded orientation puts that, does not matter there.
        frame = self._facts.frame(request.channel, None if self._leaves else request.orientation)
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
        self.box.native.close_layer()
        super()._let_go()
