"""The form of brain regions: choose some, see where they are and how large, and hand them to the export."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtWidgets import QPushButton, QWidget

from lsfm_core import CancelToken, ExportRequest, InputError, LabelTable, RegionSelection, Volume
from napari_lsfm._layers import volume_layer
from napari_lsfm._widgets._box import BoxLayer, plane_axis
from napari_lsfm._widgets._facts import FileFacts, Frame, layers_of
from napari_lsfm._widgets.fields import Choice, FileField, RegionsField, Tick, beside, make_field
from napari_lsfm._widgets.forms._file_form import FileForm
from napari_lsfm._widgets.forms._region_work import Measured, label_at, measure, occurring
from napari_lsfm._widgets.forms.through import show_through
from napari_lsfm._workers import Latest

if TYPE_CHECKING:
    import napari
    from magicgui.widgets import Widget

    from napari_lsfm._widgets.forms.export import ExportForm

__all__ = ["RegionsForm"]

#: Of labels that are looked through for regions without voxels, once all else is shown; it takes some seconds.
_MAX_SWEEP_VOXELS, _SWEEP_DELAY_MS = 2**31, 1000
_COLOUR = "#ffd23f"
_LAYER = "selected region"
#: A name that lists more regions than these is not read by anybody.
_NAMED = 3
_CHOOSE = "Choose a region: search for it, tick it in the tree, or click at it in the viewer."
_NO_LABELS = "The file has no channel with labels."


class RegionsForm(FileForm):
    """Choose regions of a labels channel, by name, in the tree of parts, or by clicking at them."""

    request_type = ExportRequest
    operation = "export"
    action = "Export…"
    least_lines = 4
    sections: ClassVar = {
        "Labels": ("path", "region.labels_channel"),
        "Regions": ("regions", "chosen", "pick"),
        "Piece": ("region.side", "region.midline_mm", "region.margin_mm", "region.mask", "channel"),
    }

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        self._selectors: dict[int, str | int] = {}
        self._layer: Any = None
        self._is_oblique = False
        self._middle: Any = None
        self._goes_there = False
        self._box: BoxLayer | None = None
        super().__init__(napari_viewer)
        root = self.native
        self._box = BoxLayer(napari_viewer, "region box", editable=False, parent=root)
        edit = self.regions.native
        self._asker = Latest(root, answered=self._on_asked, failed=self.outlook.complain)
        # An error will be told when a region is measured.
        self._sweeper = Latest(root, _SWEEP_DELAY_MS, answered=edit.model.mark_empty)
        edit.picked.connect(self._on_picked)
        edit.unknown.connect(lambda text: self.outlook.complain(f"No region has {text!r} in its id, acronym or name."))
        root.grow("regions")
        self.labels_channel.changed.connect(self._on_labels)
        self.side.changed.connect(self._on_side)
        self.clear.clicked.connect(lambda: self.select(()))
        self.find.clicked.connect(self.show_in_viewer)
        self._listen(self._restyle, napari_viewer.events.theme)
        self._restyle()
        self._on_side()
        napari_viewer.mouse_drag_callbacks.append(self._on_click)
        self.path.native.start(napari_viewer)

    def _make(self, name: str) -> Widget | tuple[str, QWidget, str]:
        match name:
            case "path":
                return make_field(ExportRequest, name, FileField)
            case "region.labels_channel":
                return make_field(ExportRequest, name, Choice, label="Channel")
            case "regions":
                return RegionsField(name=name, label="Regions", tooltip="Tick a region to take it with all its parts")
            case "chosen":
                self.clear, self.find = QPushButton("Clear"), QPushButton("Show")
                self.clear.setToolTip("Choose nothing")
                self.find.setToolTip("Go to the middle of what is chosen, in the viewer")
                self.find.setEnabled(False)
                self.look = QPushButton("In another space…")
                self.look.setToolTip("Show the image, or its regions, through transforms, without exporting them")
                self.look.clicked.connect(lambda _: self._on_look())
                return "Chosen", beside(self.clear, self.find, self.look), "What is chosen"
            case "pick":
                tip = (
                    "A click at a plane of the brain takes the region there, without its parts; with Control, in addition to others"
                )
                return Tick(True, name=name, label="Click", text="in the viewer", tooltip=tip)
            case "channel":
                return make_field(ExportRequest, name, Choice, label="Image", tooltip="What to export there")
        return make_field(ExportRequest, name)

    def _restyle(self, event: Any = None) -> None:
        self.regions.native.restyle(self._viewer.theme)

    # --- files and the tree -------------------------------------------------------------------------------------------------

    def _on_left(self) -> None:
        super()._on_left()
        with self._filling():
            self.regions.native.show_table(LabelTable())
        self._forget_look()

    def _on_facts(self, facts: FileFacts) -> None:
        super()._on_facts(facts)
        with self._filling():
            self.labels_channel.offer(facts.of_kind("labels"))
        self._on_labels()

    def _offer_images(self) -> None:
        """Offer all channels, those first that lie where the labels do."""
        labels = self.labels_channel.value
        if self._facts is None or labels is None:
            self.channel.offer(())
            return
        channels = self._facts.channels
        space = channels[labels].space_name

        def place(name: str) -> tuple[bool, bool]:
            return channels[name].kind != "image", space is not None and channels[name].space_name != space

        self.channel.offer(sorted(channels, key=place))

    def _on_labels(self) -> None:
        labels = None if self._facts is None else self.labels_channel.value
        table = LabelTable() if self._facts is None or labels is None else self._facts.tables[labels]
        with self._filling():
            self._offer_images()
            self.regions.native.show_table(table)
        self._forget_look()
        # An acronym is read more easily than an id, where it names one region only.
        times = Counter(label.acronym for label in table.values())
        self._selectors = {
            key: label.acronym
            for key, label in table.items()
            if label.acronym and times[label.acronym] == 1 and not label.acronym.isdigit() and ";" not in label.acronym
        }
        self._changed()
        self._sweeper.forget()
        if table and self._facts is not None and labels is not None:
            path = self._facts.path
            if np.prod(self._facts.channels[labels].space.shape, dtype=np.int64) <= _MAX_SWEEP_VOXELS:
                self._sweeper.ask(lambda cancel: occurring(path, labels, cancel))

    def _on_side(self) -> None:
        self._show_rows(self.side.value is not None, "region.midline_mm")

    def show_in_viewer(self) -> None:
        """Go to the middle of what is chosen: its plane, and the camera too."""
        if self._middle is None:
            return
        dims, camera = self._viewer.dims, self._viewer.scene.camera
        first = dims.ndim - len(self._middle)
        dims.set_point(range(first, dims.ndim), self._middle)
        seen = [float(self._middle[axis - first]) for axis in dims.displayed]
        camera.center = (*camera.center[: -len(seen)], *seen)

    def _on_picked(self, is_on: bool) -> None:
        # Who ticks a region or searches for it wants to see it; who clicks at one does.
        self._goes_there = is_on

    # --- what is chosen -----------------------------------------------------------------------------------------------------

    @property
    def selected(self) -> frozenset[int]:
        """Ids that are chosen, parts included."""
        ids: frozenset[int] = self.regions.value
        return ids

    def select(self, ids: Iterable[int]) -> None:
        """Choose some ids, and none of their parts unless these are among them."""
        self.regions.value = frozenset(ids)

    def selection(self) -> RegionSelection:
        """What the form says.

        Raises
        ------
        InputError
            If nothing is chosen, or a field cannot be read.
        """
        ids, edit = self.selected, self.regions.native
        if self._facts is None or self.labels_channel.value is None:
            raise InputError(_NO_LABELS)
        if not ids:
            raise InputError(_CHOOSE)
        tops = edit.model.whole()
        covered = {part for top in tops for part in edit.table.descendants(top)}
        # Where some are chosen without their parts, there is no shorter way than to name all.
        with_parts = covered == ids and covered != {*tops}
        return RegionSelection(
            labels_channel=self.labels_channel.value,
            select=tuple(self._selectors.get(key, key) for key in (tops if with_parts else sorted(ids))),
            include_descendants=with_parts,
            side=self.side.value,
            midline_mm=self.midline_mm.value if self.side.value else None,
            margin_mm=self.margin_mm.value,
            mask=self.mask.value,
        )

    def _given(self) -> dict[str, Any]:
        """The export of the region, into a file beside the brain's own."""
        region = self.selection()
        assert self._facts is not None
        path, channel = self._facts.path, self.channel.value
        output = path.with_name(f"{path.stem}_{channel}_{'_'.join(self._names_of_chosen()[:_NAMED])}.nii.gz")
        return {"path": path, "channel": channel, "region": region, "output": output}

    def _names_of_chosen(self) -> list[str]:
        """Short names of what is chosen, the topmost only, fit for a file name."""
        edit = self.regions.native
        tops = edit.model.whole() or sorted(self.selected)
        names = [edit.table[key].acronym or str(key) if key in edit.table else str(key) for key in tops]
        return ["".join(c if c.isalnum() or c in "-." else "-" for c in name) for name in names]

    # --- how large it is, and where -----------------------------------------------------------------------------------------

    def _hindrance(self) -> str:
        if self.labels_channel.value is None:
            return _NO_LABELS
        return "" if self.selected else _CHOOSE

    def _changed(self, *_: object) -> None:
        if self._facts is not None:
            if self._hindrance():
                self._forget_look()
            super()._changed()

    def _plan(self, request: ExportRequest, cancel: CancelToken) -> Measured:
        return measure(request, cancel)

    def _complain(self, text: str) -> None:
        self._forget_look()
        super()._complain(text)

    def _say_plan(self, measured: Measured) -> None:
        assert self._facts is not None and self._box is not None
        names = self._names_of_chosen()
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        size = np.subtract(measured.upper_mm, measured.lower_mm)
        ends = zip("RAS", measured.lower_mm, measured.upper_mm, strict=True)
        box = ", ".join(f"{axis} {low:.2f} to {high:.2f}" for axis, low, high in ends)
        (self.outlook.complain if measured.refusal else self.outlook.say)(
            f"{', '.join(names[:_NAMED])}{more}\n"
            f"{measured.volume_mm3:.4g} mm³, {measured.count:,} voxels\n"
            f"box of {size[0]:.2f} x {size[1]:.2f} x {size[2]:.2f} mm (R, A, S)\n{box}"
            f"{measured.refusal and chr(10)}{measured.refusal}"
        )
        self._warn(measured.warnings)
        if not layers_of(self._viewer, self._facts.path):
            return
        frame = self._frame
        space = frame.place(measured.look.space)
        self._show_look(Volume(measured.look.array, space, "labels"))
        place = self._facts.place(self.labels_channel.value)
        ends_mm = frame.box_to_native(measured.lower_mm, measured.upper_mm)
        self._middle = np.linalg.inv(frame.ras_from_native)[:3] @ (*measured.middle_mm, 1)
        self.find.setEnabled(True)
        if self._goes_there:
            self._goes_there = False
            self._bring_into_view(*ends_mm)
        self._box.show(*ends_mm, place.bounds, place.voxel_size_mm)

    def _bring_into_view(self, lower: Any, upper: Any) -> None:
        """Go to a box's middle if it is out of view: its plane is not met, or its middle is beyond the canvas; native mm."""
        viewer = self._viewer
        across = plane_axis(viewer)
        is_met = viewer.dims.ndisplay == 3 or lower[across] <= viewer.dims.point[-3:][across] <= upper[across]
        half = np.array(viewer.canvas.viewbox_size(viewer.layers)) / viewer.scene.camera.zoom / 2
        seen = [axis - (viewer.dims.ndim - 3) for axis in viewer.dims.displayed[-2:]]
        offset = np.abs(np.asarray(self._middle)[seen] - np.array(viewer.scene.camera.center[-2:]))
        if not is_met or (viewer.dims.ndisplay == 2 and (offset > half).any()):
            camera = viewer.scene.camera.center
            self.show_in_viewer()
            if (offset <= half).all():
                viewer.scene.camera.center = camera

    @property
    def _frame(self) -> Frame:
        assert self._facts is not None
        return self._facts.frame(self.labels_channel.value)

    def _show_look(self, look: Volume) -> None:
        """Lay the region over the image; the layer stays when another is chosen, as the user set it up."""
        data, keywords, _ = volume_layer(look, _LAYER)
        if self._layer in self._viewer.layers and ("affine" in keywords) == self._is_oblique:
            self._layer.data = data
            for name in ("scale", "translate", "affine"):
                if name in keywords:
                    setattr(self._layer, name, keywords[name])
            return
        self._forget_look()
        self._is_oblique = "affine" in keywords
        active = self._viewer.layers.selection.active
        colormap = DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", 1: _COLOUR})
        self._layer = self._viewer.add_labels(data, **keywords, colormap=colormap, opacity=0.6)
        self._layer.editable = False
        self._viewer.layers.selection.active = active

    def _forget_look(self) -> None:
        if self._box is None:
            return
        self._middle = None
        self.find.setEnabled(False)
        self._box.hide()
        if self._layer in self._viewer.layers:
            self._viewer.layers.remove(self._layer)
        self._layer = None

    # --- the viewer ---------------------------------------------------------------------------------------------------------

    def _on_click(self, viewer: Any, event: Any) -> Iterator[None]:
        """Take what is clicked at; a drag moves the camera as ever."""
        yield
        if event.type == "mouse_move":
            return
        active = viewer.layers.selection.active
        is_tool = active is not None and str(active.mode) not in ("pan_zoom", "Mode.PAN_ZOOM")
        if not self.pick.value or is_tool or viewer.dims.ndisplay != 2 or self._facts is None or self.labels_channel.value is None:
            return
        path, channel = self._facts.path, self.labels_channel.value
        space = self._facts.channels[channel].space
        voxel = np.rint(space.to_voxel([self._frame.to_ras(event.position[-3:])])[0]).astype(int)
        if layers_of(viewer, path) and ((voxel >= 0) & (voxel < space.shape)).all():
            adds = bool({"Control", "Shift"} & {str(getattr(key, "name", key)) for key in event.modifiers})
            self._asker.ask(lambda _: (label_at(path, channel, voxel.tolist()), adds))

    def _on_asked(self, answer: tuple[int, bool]) -> None:
        key, adds = answer
        if key == 0:
            return
        self.select(self.selected ^ {key} if adds else {key})
        self.regions.native.go_to(key)

    # --- handing it over ----------------------------------------------------------------------------------------------------

    def go(self) -> ExportForm:  # type: ignore[override]
        """Fill what is chosen into the export form, whose transforms stay as they are; the export itself begins there.

        Returns
        -------
        ExportForm

        Raises
        ------
        InputError
            As `request`.
        """
        request = self.request()
        dock, form = self._viewer.window.add_plugin_dock_widget("napari-lsfm", "Export", tabify=True)
        dock.show()
        dock.raise_()
        form.take_region(request.path, request.channel, request.region)
        export: ExportForm = form
        return export

    def _on_look(self) -> None:
        if self._facts is not None and self.channel.value is not None:
            show_through(self._viewer, ExportRequest(path=self._facts.path, channel=self.channel.value))

    def _let_go(self) -> None:
        self._viewer.mouse_drag_callbacks.remove(self._on_click)
        self._forget_look()
        if self._box is not None:
            self._box.close()
        super()._let_go()
