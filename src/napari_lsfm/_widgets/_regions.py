"""The form of brain regions: choose some, see where they are and how large, and hand them to the export."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QLineEdit,
    QPushButton,
    QSizePolicy,
)

from lsfm_core import (
    CancelToken,
    ExportRequest,
    InputError,
    LabelTable,
    LsfmError,
    Orientation,
    RegionSelection,
    TransformRequest,
    Volume,
    check_spaces,
    count_labels,
    find_region,
    open_lsfm,
)
from napari_lsfm._layers import volume_layer
from napari_lsfm._widgets._box import BoxLayer, plane_axis
from napari_lsfm._widgets._facts import FileFacts, Frame, layers_of
from napari_lsfm._widgets._fields import Choice, Section, Text, beside, numbers, optional, stacked
from napari_lsfm._widgets._form import CopyButton, Form
from napari_lsfm._widgets._picker import FilePicker
from napari_lsfm._widgets.fields._tree import RegionTree, RegionView
from napari_lsfm._workers import Latest, in_words

if TYPE_CHECKING:
    import napari

__all__ = ["RegionWidget"]

_TREE_HEIGHT = 200
_INDENTATION = 12
#: Around the text of a cell, and the colour before an id.
_CELL_MARGIN, _SWATCH = 16, 24
_DELAY_MS = 100
#: Of the picture of a region in the viewer; of a larger one a coarser level is shown.
_MAX_LOOK_VOXELS = 2**25
#: Of those, as many are enough to find a region's middle.
_MIDDLE_VOXELS = 2**21
#: Of labels that are looked through for regions without voxels, once all else is shown; it takes some seconds.
_MAX_SWEEP_VOXELS, _SWEEP_DELAY_MS = 2**31, 1000
_COLOUR = "#ffd23f"
_LAYER = "selected region"
#: A name that lists more regions than these is not read by anybody.
_NAMED = 3


@dataclass(frozen=True)
class _Measured:
    """Where a region is, and how large."""

    count: int
    volume_mm3: float
    lower_mm: tuple[float, float, float]
    upper_mm: tuple[float, float, float]
    middle_mm: tuple[float, float, float]
    look: Volume
    refusal: str
    """Why it cannot be cut out of the image as it stands; empty if it can."""
    warnings: tuple[str, ...]


class RegionWidget(Form):
    """Choose regions of a labels channel, by name, in the tree of parts, or by clicking at them.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self._facts: FileFacts | None = None
        self._ids: set[int] = set()
        self._table = LabelTable()
        self._selectors: dict[int, str | int] = {}
        self._layer: Any = None
        self._is_oblique = False
        self._middle: Any = None
        self._goes_there = False
        self._box = BoxLayer(napari_viewer, "region box", editable=False, parent=self)
        self._measurer = Latest(self, _DELAY_MS)
        self._measurer.answered.connect(self._on_measured)
        self._measurer.failed.connect(self._complain)
        self._asker = Latest(self)
        self._asker.answered.connect(self._on_asked)
        self._asker.failed.connect(self._complain)
        # An error will be told when a region is measured.
        self._sweeper = Latest(self, _SWEEP_DELAY_MS)
        self._build()
        self._sweeper.answered.connect(self.regions.mark_empty)
        self._connect()
        self._listen(self._restyle, napari_viewer.events.theme)
        napari_viewer.mouse_drag_callbacks.append(self._on_click)
        self.file.start()

    # --- the form -----------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        source = Section("Labels")
        self.file = FilePicker(self._viewer)
        source.row("File", self.file, "The file with the labels: those that are open here, or any other")
        self.labels = Choice()
        source.row("Channel", self.labels, "The channel whose labels are meant")

        regions = Section("Regions")
        self.search = QLineEdit()
        self.search.setPlaceholderText("id, acronym or name")
        self.search.setClearButtonEnabled(True)
        regions.row("Search", self.search, "Show what has this in its id, acronym or name; Enter takes the best, or gives it back")
        self.regions = RegionTree(self)
        self.tree = RegionView(self.regions)
        self.tree.setMinimumHeight(_TREE_HEIGHT)
        self.tree.setIndentation(_INDENTATION)
        self.tree.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self._restyle()
        regions.row("", self.tree, "Tick a region to take it with all its parts")
        self.tree.setAccessibleName("regions")
        self.pick = QCheckBox("in the viewer")
        self.pick.setChecked(True)
        regions.row(
            "Click",
            self.pick,
            "A click at a plane of the brain takes the region there, without its parts; with Control, in addition to others",
        )
        self.clear = QPushButton("Clear")
        self.clear.setToolTip("Choose nothing")
        self.find = QPushButton("Show")
        self.find.setToolTip("Go to the middle of what is chosen, in the viewer")
        self.find.setEnabled(False)

        piece = Section("Piece")
        self.side = Choice([("both", None), ("left", "left"), ("right", "right")])
        piece.row("Hemisphere", self.side, "One side of the brain only")
        self.midline = QLineEdit()
        self.midline.setPlaceholderText("from the labels")
        piece.row("Midline (mm)", self.midline, "R of the plane between the hemispheres; empty: the middle of all that is labelled")
        self.margin = QLineEdit("0")
        piece.row("Margin (mm)", self.margin, "How much is added to the box, on every side")
        self.mask = QCheckBox("nothing but the region")
        piece.row("Mask", self.mask, "What is outside of the region, but in its box, is left out of the export")
        self.image = Choice()
        piece.row("Image", self.image, "What to export there")

        self.summary = Text(least_lines=4)
        self.summary.setAccessibleName("summary")
        self.summary.setToolTip("How large the chosen regions are together, or what is wrong")
        self.copy = CopyButton("export", self.request, self.panel)
        self.go = QPushButton("Export…")
        self.go.setToolTip("Fill the region into the export form, where it can be carried into another space")
        self._lay_out(
            stacked(source, regions, piece, growing=regions), self.summary, beside(self.clear, self.find, self.copy, self.go)
        )

    def _connect(self) -> None:
        self.file.left.connect(self._on_left)
        self.file.chosen.connect(self._on_facts)
        self.file.failed.connect(self._complain)
        self.labels.chosen.connect(self._on_labels)
        self.search.textChanged.connect(self._on_search)
        self.search.returnPressed.connect(self._on_enter)
        self.regions.ticked.connect(self._on_ticked)
        self.clear.clicked.connect(lambda: self.select(()))
        for choice in (self.side, self.image):
            choice.chosen.connect(self._changed)
        for edit in (self.midline, self.margin):
            edit.textChanged.connect(self._changed)
        self.find.clicked.connect(self.show_in_viewer)
        self.go.clicked.connect(self._open_export)

    def _restyle(self, event: Any = None) -> None:
        """Give the boxes in the tree the looks of napari's, which it leaves to the system: there, dark on dark."""
        theme = self._viewer.theme
        self.tree.setStyleSheet(
            "QTreeView::indicator { width: 12px; height: 12px; border: 1px solid gray; border-radius: 2px; }"
            f'QTreeView::indicator:checked {{ background: #4560c4; image: url("theme_{theme}:/check.svg"); }}'
            f'QTreeView::indicator:indeterminate {{ background: gray; image: url("theme_{theme}:/minus.svg"); }}'
        )

    # --- files and the tree -------------------------------------------------------------------------------------------------

    def _on_left(self) -> None:
        self._facts = None
        self._ids.clear()
        self._forget_look()
        self.go.setEnabled(False)
        self.summary.say("…")

    def _on_facts(self, facts: FileFacts) -> None:
        self._facts = facts
        self.labels.offer((name, name) for name in facts.of_kind("labels"))
        self._on_labels()

    def _offer_images(self) -> None:
        """Offer all channels, those first that lie where the labels do."""
        if self._facts is None or self.labels.value is None:
            self.image.offer(())
            return
        channels = self._facts.channels
        space = channels[self.labels.value].space_name

        def place(name: str) -> tuple[bool, bool]:
            return channels[name].kind != "image", space is not None and channels[name].space_name != space

        self.image.offer((name, name) for name in sorted(channels, key=place))

    def _on_labels(self) -> None:
        self._offer_images()
        self._ids.clear()
        self._forget_look()
        self._table = LabelTable() if self._facts is None or self.labels.value is None else self._facts.tables[self.labels.value]
        self.regions.show_table(self._table)
        self._fit_columns()
        self._fold()
        # An acronym is read more easily than an id, where it names one region only.
        times = Counter(label.acronym for label in self._table.values())
        self._selectors = {
            key: label.acronym
            for key, label in self._table.items()
            if label.acronym and times[label.acronym] == 1 and not label.acronym.isdigit() and ";" not in label.acronym
        }
        self._on_search(self.search.text())
        self._changed()
        self._sweeper.forget()
        if self._table and self._facts is not None and self.labels.value is not None:
            path, channel = self._facts.path, self.labels.value
            if np.prod(self._facts.channels[channel].space.shape, dtype=np.int64) <= _MAX_SWEEP_VOXELS:
                self._sweeper.ask(lambda cancel: _occurring(path, channel, cancel))

    def _fit_columns(self) -> None:
        """Make acronyms and ids as wide as the longest; to let Qt look at every row takes longer than to show them."""
        for column, texts in ((1, [label.acronym or "" for label in self._table.values()]), (2, [str(key) for key in self._table])):
            longest = max(texts, key=len, default="")
            width = self.tree.fontMetrics().horizontalAdvance(longest) + _CELL_MARGIN + (_SWATCH if column == 2 else 0)
            self.tree.header().resizeSection(column, max(width, self.tree.header().sectionSizeHint(column)))
        self.tree.fit_names()

    def _fold(self) -> None:
        """Show the tops of the tree and their parts only."""
        self.tree.collapseAll()
        self.tree.expandToDepth(0)

    def _on_search(self, text: str) -> None:
        current = self.regions.key_at(self.tree.currentIndex())
        found = self._table.search(text, len(self._table)) if text.strip() else ()
        self.regions.show_only([label.id for label in found] if text.strip() else None)
        if text.strip():
            self.tree.expandAll()
        else:
            self._fold()
        if found:
            self._go_to(found[0].id)
        elif current is not None:
            self._go_to(current)

    def _go_to(self, key: int) -> None:
        self.tree.bring(self.regions.index_of(key))

    def _on_enter(self) -> None:
        text = self.search.text().strip()
        found = self._table.search(text, 1) if text else ()
        if found:
            self._on_ticked(found[0].id, self.regions.state(found[0].id) != Qt.CheckState.Checked)
        elif text.isdigit() and not self._table:
            self.select({*self._ids, int(text)})
        elif text:
            self._complain(f"No region has {text!r} in its id, acronym or name.")

    def show_in_viewer(self) -> None:
        """Go to the middle of what is chosen: its plane, and the camera too."""
        if self._middle is None:
            return
        dims, camera = self._viewer.dims, self._viewer.scene.camera
        first = dims.ndim - len(self._middle)
        dims.set_point(range(first, dims.ndim), self._middle)
        seen = [float(self._middle[axis - first]) for axis in dims.displayed]
        camera.center = (*camera.center[: -len(seen)], *seen)

    def _on_ticked(self, key: int, is_on: bool) -> None:
        # Who ticks a region or searches for it wants to see it; who clicks at one does.
        self._goes_there = is_on
        parts = self._table.descendants(key)
        self.select(self._ids | {*parts} if is_on else self._ids - {*parts})

    # --- what is chosen -----------------------------------------------------------------------------------------------------

    @property
    def selected(self) -> frozenset[int]:
        """Ids that are chosen, parts included."""
        return frozenset(self._ids)

    def select(self, ids: Iterable[int]) -> None:
        """Choose some ids, and none of their parts unless these are among them."""
        self._ids = {*ids}
        self.regions.choose(self._ids)
        self._changed()

    def selection(self) -> RegionSelection:
        """What the form says.

        Raises
        ------
        InputError
            If nothing is chosen, or a field cannot be read.
        """
        if self._facts is None or self.labels.value is None:
            raise InputError("The file has no channel with labels.")
        if not self._ids:
            raise InputError("Choose a region: search for it, tick it in the tree, or click at it in the viewer.")
        tops = self.regions.whole()
        covered = {part for top in tops for part in self._table.descendants(top)}
        # Where some are chosen without their parts, there is no shorter way than to name all.
        with_parts = covered == self._ids and covered != {*tops}
        return RegionSelection(
            labels_channel=self.labels.value,
            select=tuple(self._selectors.get(key, key) for key in (tops if with_parts else sorted(self._ids))),
            include_descendants=with_parts,
            side=self.side.value,
            midline_mm=optional(self.midline.text(), "midline") if self.side.value else None,
            margin_mm=numbers(self.margin.text(), "margin", 1)[0],
            mask=self.mask.isChecked(),
        )

    def request(self) -> ExportRequest:
        """The export of the region, into a file beside the brain's own.

        Raises
        ------
        InputError
            As `selection`.
        """
        region = self.selection()
        assert self._facts is not None
        path = self._facts.path
        output = path.with_name(f"{path.stem}_{self.image.value}_{'_'.join(self._names()[:_NAMED])}.nii.gz")
        return ExportRequest(path=path, channel=self.image.value, region=region, output=output)

    def _names(self) -> list[str]:
        """Short names of what is chosen, the topmost only, fit for a file name."""
        tops = self.regions.whole() or sorted(self._ids)
        names = [self._table[key].acronym or str(key) if key in self._table else str(key) for key in tops]
        return ["".join(c if c.isalnum() or c in "-." else "-" for c in name) for name in names]

    # --- how large it is, and where -----------------------------------------------------------------------------------------

    def _changed(self, *_: object) -> None:
        try:
            selection = self.selection()
        except LsfmError as error:
            self._measurer.forget()
            self._forget_look()
            (self._complain if self._ids else self.summary.say)(in_words(error))
            self.go.setEnabled(False)
            return
        assert self._facts is not None
        path, image = self._facts.path, self.image.value
        self.summary.say("…")
        self.go.setEnabled(True)
        self._measurer.ask(lambda cancel: _measure(path, selection, image, cancel))

    def _on_measured(self, measured: _Measured) -> None:
        assert self._facts is not None
        names = self._names()
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        size = np.subtract(measured.upper_mm, measured.lower_mm)
        ends = zip("RAS", measured.lower_mm, measured.upper_mm, strict=True)
        box = ", ".join(f"{axis} {low:.2f} to {high:.2f}" for axis, low, high in ends)
        doubts = [f"\nwarning: {text}" for text in measured.warnings]
        (self._complain if measured.refusal else self.summary.say)(
            f"{', '.join(names[:_NAMED])}{more}\n"
            f"{measured.volume_mm3:.4g} mm³, {measured.count:,} voxels\n"
            f"box of {size[0]:.2f} x {size[1]:.2f} x {size[2]:.2f} mm (R, A, S)\n{box}"
            f"{''.join(doubts)}{measured.refusal and chr(10)}{measured.refusal}"
        )
        if not layers_of(self._viewer, self._facts.path):
            return
        frame = self._frame
        space = frame.place(measured.look.space)
        self._show_look(Volume(measured.look.array, space, "labels"))
        voxel = space.reoriented(space.reorientation_to(Orientation("RAS"))).voxel_size_mm
        box = frame.box_to_native(measured.lower_mm, measured.upper_mm)
        self._middle = np.linalg.inv(frame.ras_from_native)[:3] @ (*measured.middle_mm, 1)
        self.find.setEnabled(True)
        if self._goes_there:
            self._goes_there = False
            self._bring_into_view(*box)
        self._box.show(*box, self._facts.bounds(self.labels.value), voxel)

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
        return self._facts.frame(self.labels.value)

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
        self._measurer.forget()
        self._middle = None
        self.find.setEnabled(False)
        self._box.hide()
        if self._layer in self._viewer.layers:
            self._viewer.layers.remove(self._layer)
        self._layer = None

    def _complain(self, text: str) -> None:
        self.summary.complain(text)

    # --- the viewer ---------------------------------------------------------------------------------------------------------

    def _on_click(self, viewer: Any, event: Any) -> Iterator[None]:
        """Take what is clicked at; a drag moves the camera as ever."""
        yield
        if event.type == "mouse_move":
            return
        active = viewer.layers.selection.active
        is_tool = active is not None and str(active.mode) not in ("pan_zoom", "Mode.PAN_ZOOM")
        if not self.pick.isChecked() or is_tool or viewer.dims.ndisplay != 2 or self._facts is None or self.labels.value is None:
            return
        path, channel = self._facts.path, self.labels.value
        space = self._facts.channels[channel].space
        voxel = np.rint(space.to_voxel([self._frame.to_ras(event.position[-3:])])[0]).astype(int)
        if layers_of(viewer, path) and ((voxel >= 0) & (voxel < space.shape)).all():
            adds = bool({"Control", "Shift"} & {str(getattr(key, "name", key)) for key in event.modifiers})
            self._asker.ask(lambda _: (_label_at(path, channel, voxel.tolist()), adds))

    def _on_asked(self, answer: tuple[int, bool]) -> None:
        key, adds = answer
        if key == 0:
            return
        if not adds:
            self.select({key})
        else:
            self.select(self._ids ^ {key})
        self._go_to(key)

    # --- handing it over ----------------------------------------------------------------------------------------------------

    def _open_export(self) -> None:
        try:
            request = self.request()
        except LsfmError as error:
            self._complain(in_words(error))
            return
        assert request.region is not None
        dock, form = self._viewer.window.add_plugin_dock_widget("napari-lsfm", "Export", tabify=True)
        dock.show()
        dock.raise_()
        form.take_region(request.path, request.channel, request.region)

    def _let_go(self) -> None:
        self._viewer.mouse_drag_callbacks.remove(self._on_click)
        self.file.let_go()
        self._forget_look()
        self._box.close()
        super()._let_go()


def _measure(path: Path, selection: RegionSelection, image: str | None, cancel: CancelToken) -> _Measured:
    refusal, warnings = "", ()
    with open_lsfm(path) as file:
        region = find_region(file, TransformRequest(path=path, channel=selection.labels_channel), selection, cancel=cancel)
        look = region.look(file[selection.labels_channel].levels, _MAX_LOOK_VOXELS)
        try:
            if image is not None:
                warnings = check_spaces(file, ExportRequest(path=path, channel=image, region=selection))
        except LsfmError as error:
            # The region is where it is; only the image is another's.
            refusal = in_words(error)
    box = region.box.grown(selection.margin_mm)
    count = region.voxels.count
    volume_mm3 = count * region.space.voxel_volume_mm3
    return _Measured(count, volume_mm3, box.lower_mm, box.upper_mm, _middle(look), look, refusal, warnings)


def _middle(look: Volume) -> tuple[float, float, float]:
    """R, A, S of the voxel of a region that is nearest to its centre of mass, which may lie outside."""
    step = max(1, round((look.array.size / _MIDDLE_VOXELS) ** (1 / 3)))
    voxels = np.argwhere(look.array[::step, ::step, ::step]) * step
    if not len(voxels):
        voxels = np.argwhere(look.array)
    nearest = voxels[np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()]
    r, a, s = look.space.to_world([nearest])[0]
    return float(r), float(a), float(s)


def _occurring(path: Path, channel: str, cancel: CancelToken) -> set[int]:
    # Of the finest level: a coarser one may have lost small regions.
    with open_lsfm(path) as file:
        return {*count_labels(file[channel].levels[0].data, cancel=cancel)}


def _label_at(path: Path, channel: str, voxel: list[int]) -> int:
    with open_lsfm(path) as file:
        i, j, k = voxel
        return int(file[channel].levels[0][i : i + 1, j : j + 1, k : k + 1].read()[0, 0, 0])
