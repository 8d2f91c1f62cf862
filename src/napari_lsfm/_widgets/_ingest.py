"""Put an image into a file as a new channel: the form of the core's `IngestRequest`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QCheckBox, QFileDialog, QHBoxLayout, QLabel, QLineEdit, QPushButton, QWidget

from lsfm_core import (
    BusyError,
    CancelledError,
    CancelToken,
    ImageMetadata,
    IngestPlan,
    IngestReport,
    IngestRequest,
    InputError,
    LsfmError,
    VoxelSize,
    describe_image,
    ingest_channel,
    open_lsfm,
    open_source,
    plan_ingest,
    size_text,
)
from napari_lsfm._layers import LayerData
from napari_lsfm._reader import present_layers
from napari_lsfm._widgets._closed import ClosedFile
from napari_lsfm._widgets._facts import layers_of, lsfm_paths, origin_of
from napari_lsfm._widgets._fields import Choice, NumbersEdit, PathEdit, Section, Text, beside, numbers, stacked
from napari_lsfm._widgets._form import CopyButton, Form
from napari_lsfm._widgets._orientation import OrientationSection, edge_letters
from napari_lsfm._widgets._picture import Grey, Picture, as_grey
from napari_lsfm._workers import ERROR_STYLE, WARNING_STYLE, Latest, in_words

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

__all__ = ["IngestWidget"]

_DELAY_MS = 300
_PAUSE_MS = 150
_WIDTH = 420
_THUMBNAIL = 130
_HDF5 = "HDF5 files (*.h5 *.hdf5)"
_TABLES = "Label tables (*.txt *.csv *.tsv *.label);;All files (*)"
_MAKES = {
    "file": "Makes {file} with channel {channel}:",
    "channel": "Adds channel {channel} to {file}:",
    "replacement": "Replaces channel {channel} of {file}:",
}
_CONVENTIONS = [
    ("as the file tells", None),
    ("displacements, LPS", "lps-displacement"),
    ("displacements, RAS", "ras-displacement"),
    ("positions, LPS", "lps-position"),
    ("positions, RAS", "ras-position"),
    ("positions in its grid", "grid-position"),
]
_MISSING_STYLE = "border: 1px solid #c77d0a;"


@dataclass(frozen=True)
class _Image:
    """What is to be described and read: its path or layer, and the arguments of `describe_image`."""

    place: Any
    image: Any
    channel: int | str | None
    kind: str
    planes_are: str | None = None
    convention: str | None = None


class IngestWidget(Form):
    """Put an image, or a layer, into a file.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, _WIDTH)
        self._asked: _Image | None = None
        self._metadata: ImageMetadata | None = None
        self._complaint = ""
        #: What the image tells of its geometry: as long as the form says the same, the request leaves it to the image.
        self._own_size: list[str] = []
        self._own_code: str | None = None
        self._is_new = True
        #: What was written last, and what the form said then: nothing is missing as long as it says the same.
        self._written = ""
        self._said_then: tuple[Any, ...] | None = None
        self._retry: IngestRequest | None = None
        self._closed: ClosedFile | None = None
        self._describer = Latest(self, _DELAY_MS)
        self._describer.answered.connect(self._on_described)
        self._describer.failed.connect(self._on_undescribed)
        self._painter = Latest(self)
        self._painter.answered.connect(self._on_painted)
        self._painter.failed.connect(self._on_undescribed)
        self._looker = Latest(self, _DELAY_MS)
        self._looker.answered.connect(self._on_target)
        self._looker.failed.connect(self._on_no_target)
        self._planner = Latest(self)
        self._planner.answered.connect(self._on_plan)
        self._planner.failed.connect(self._complain)
        # Not at every key: to look at all fields takes longer than the next key.
        self._soon = QTimer(self, singleShot=True, interval=_PAUSE_MS)
        self._soon.timeout.connect(self._look_ahead)
        self._build()
        self._connect()
        self._on_layers()
        self._on_kind()

    # --- the form -----------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.setAcceptDrops(True)
        self.orientation = OrientationSection()
        image, voxels, target, storage = self._build_image(), self._build_voxels(), self._build_target(), self._build_storage()
        content = stacked(image, voxels, self.orientation, target, storage)
        self.outlook = Text(least_lines=3)
        self.outlook.setAccessibleName("outlook")
        self.outlook.setToolTip("What will be written, what is still to be given, or what is wrong")
        self.doubts = Text()
        self.doubts.setAccessibleName("warnings")
        self.doubts.setToolTip("What should be looked at before")
        self.doubts.hide()
        self.copy = CopyButton("write", self._nameable_request, self.panel)
        self.go = QPushButton("Ingest")
        self.go.setToolTip("Write the channel; the form can be changed meanwhile")
        self._lay_out(content, self.outlook, self.doubts, beside(self.copy, self.go))

    def _build_image(self) -> Section:
        section = self._image_section = Section("Image")
        self.origin_of_image = Choice([("file or folder", None)])
        section.row("From", self.origin_of_image, "A file or folder on the disk, or a layer of this viewer")
        self.path = PathEdit("drop it here, or choose")
        folder = _button("Folder…", "Choose a folder: a TIFF series, or Zarr", self._browse_folder)
        file = _button("File…", "Choose a file: TIFF, OME-TIFF, NIfTI, NRRD, MetaImage", self._browse_image)
        tip = "A folder or file, one file of a series, or a pattern such as img_*_C01.tif"
        self._path_row = _path_row(section, "Path", self.path, tip, folder, file)
        self.kind = Choice(
            [("image", "image"), ("labels", "labels"), ("displacement field", "vectors"), ("components (colours)", "components")]
        )
        section.row("Kind", self.kind, "What the voxels are")
        self.image_channel = QLineEdit()
        self.image_channel.setPlaceholderText("if it has several")
        section.row(
            "Channel of it", self.image_channel, "Name of the channel, or else its index (from 0), where the image has several"
        )
        self.planes_are = Choice([("slices", None), ("time points", "time"), ("channels", "channels")])
        section.row("Planes are", self.planes_are, "What the file takes its planes for, if it says that it has a single one")
        self.labels = self._table_row(section, "Label table", "What the ids mean: ITK-SNAP description, CSV, Allen structure tree")
        self.ontology = self._table_row(
            section, "Ontology", "The tree of structures that the labels belong to: Allen structure tree, or CSV with parents"
        )
        self.partner = Choice([("none", None)])
        section.row("Inverse of", self.partner, "The displacement field in the target file that this one is the inverse of")
        self.convention = Choice(_CONVENTIONS)
        section.row("Vectors are", self.convention, "What the vectors say, where the file does not tell, or tells it wrongly")
        self.thumbnail = Picture(_THUMBNAIL)
        self.thumbnail.setAccessibleName("middle plane of the image")
        self.thumbnail.show_image(None, "no image")
        self.thumbnail.setFixedWidth(self.thumbnail.sizeHint().width())
        self.facts = QLabel()
        self.facts.setWordWrap(True)
        self.facts.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.facts.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        found = QWidget()
        row = QHBoxLayout(found)
        row.setContentsMargins(0, 4, 0, 0)
        row.addWidget(self.thumbnail, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(self.facts, 1)
        section.row("", found, "What was found, and the middle plane")
        return section

    def _table_row(self, section: Section, label: str, tip: str) -> PathEdit:
        edit = PathEdit("none")
        _path_row(section, label, edit, tip, _button("…", f"Choose: {label.lower()}", lambda: self._browse(edit, label, _TABLES)))
        return edit

    def _build_voxels(self) -> Section:
        section = Section("Geometry")
        self.voxel_size = NumbersEdit(("planes", "rows", "columns"))
        section.row(
            "Voxel size (µm)", self.voxel_size, "Distance from one plane to the next, from row to row, from column to column"
        )
        self.origin = NumbersEdit()
        section.row(
            "Origin (mm)",
            self.origin,
            "R, A, S position of the centre of the voxel that is first in right, anterior and superior; empty: its own, or 0",
        )
        self.metadata = PathEdit("none")
        choose = _button("…", "Choose a metadata file", lambda: self._browse(self.metadata, "Metadata", "JSON files (*.json)"))
        tip = "What else is known of the image, as lsfm-core dump-metadata writes it; the form wins over it"
        _path_row(section, "Metadata (JSON)", self.metadata, tip, choose)
        return section

    def _build_target(self) -> Section:
        section = Section("Target")
        self.target = PathEdit("new or existing file")
        tip = "The HDF5 file; made if it is not there, else the channel is added to it"
        choose = _button("…", "Choose a new or an existing file", self._browse_target)
        _path_row(section, "File", self.target, tip, choose)
        self.holds = QLabel()
        self.holds.setWordWrap(True)
        section.row("It holds", self.holds, "Channels that are in the file already")
        self.channel = QLineEdit()
        self.channel.setPlaceholderText("such as autofluo")
        section.row("Channel", self.channel, "Name of the new channel")
        self.space = QLineEdit()
        tip = "The space that it lies in: a name, or a channel that lives there; of a displacement field where it leads to"
        section.row("Space", self.space, tip)
        self.from_space = QLineEdit()
        self.from_space.setPlaceholderText("not known")
        section.row("From space", self.from_space, "The space that the displacement field leads from, toward the image")
        self._target_section = section
        self.replace = QCheckBox("a channel of that name")
        section.row("Replace", self.replace, "Whether a channel of that name gives way")
        return section

    def _build_storage(self) -> Section:
        section = Section("Work and storage")
        self.memory = QLineEdit("2")
        section.row("Memory (GB)", self.memory, "What the whole program may take at most while it writes")
        self.threads = QLineEdit()
        self.threads.setPlaceholderText("all cores")
        section.row("Threads", self.threads, "How many cores to use; empty: all")
        self.compression = Choice([("none", 0), ("fast", 1), ("better", 2), ("best, slow", 3)])
        self.compression.value = 1
        section.row("Compression", self.compression, "Without loss; better takes longer")
        self.as_int16 = QCheckBox("as int16")
        section.row("Keep uint16", self.as_int16, "The same bits in int16, for BigDataViewer before 10.4.6")
        return section

    def _connect(self) -> None:
        self.origin_of_image.chosen.connect(self._on_origin_of_image)
        self.kind.chosen.connect(self._on_kind)
        self.planes_are.chosen.connect(self._describe)
        self.convention.chosen.connect(self._describe)
        for edit in (self.path, self.image_channel):
            edit.textChanged.connect(self._describe)
        self.target.textChanged.connect(self._look_at_target)
        texts = (self.labels, self.ontology, self.metadata, self.channel, self.space, self.from_space, self.memory, self.threads)
        for edit in texts:
            edit.textChanged.connect(self._changed)
        for triple in (self.voxel_size, self.origin):
            triple.edited.connect(self._changed)
        for choice in (self.partner, self.compression):
            choice.chosen.connect(self._changed)
        for box in (self.replace, self.as_int16):
            box.toggled.connect(self._changed)
        self.orientation.changed.connect(self._changed)
        self.go.clicked.connect(self._start)
        self.panel.finished.connect(self._on_finished)
        self._listen(self._on_layers, self._viewer.layers.events.inserted, self._viewer.layers.events.removed)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:  # noqa: N802
        """Take files and folders."""
        if any(url.isLocalFile() for url in event.mimeData().urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: N802
        """Take a file of ours as the target, everything else as the image."""
        event.acceptProposedAction()
        paths = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        targets = [path for path in paths if path.lower().endswith((".h5", ".hdf5", ".xml"))]
        images = [path for path in paths if path not in targets]
        if len(targets) > 1 or len(images) > 1:
            self.panel.complain(
                f"{len(paths)} files were dropped, and none was taken: drop one image and one target file at most. A series is "
                "taken by its folder, or by a pattern such as img_*_C01.tif."
            )
            return
        if targets:
            self.target.setText(targets[0])
        if images:
            self.origin_of_image.value = None
            self.path.setText(images[0])

    # --- the image ----------------------------------------------------------------------------------------------------------

    def _on_layers(self, event: Any = None) -> None:
        active = self._viewer.layers.selection.active
        layers = sorted((layer for layer in self._viewer.layers if _can_be_ingested(layer)), key=lambda layer: layer is not active)
        before = self.origin_of_image.value
        self.origin_of_image.offer([("file or folder", None), *((f"layer {layer.name}", layer) for layer in layers)])
        if before is not self.origin_of_image.value:
            self._on_origin_of_image()

    def _on_origin_of_image(self) -> None:
        layer = self.origin_of_image.value
        self._image_section.show_row(self._path_row, layer is None)
        if layer is not None:
            colours = getattr(layer, "rgb", False)
            self.kind.value = "labels" if type(layer).__name__ == "Labels" else "components" if colours else "image"
        self._describe()

    def _on_kind(self) -> None:
        kind = self.kind.value
        for row, visible in (
            (self.labels.parentWidget(), kind == "labels"),
            (self.ontology.parentWidget(), kind == "labels"),
            (self.partner, kind == "vectors"),
            (self.convention, kind == "vectors"),
        ):
            self._image_section.show_row(row, visible)
        self._target_section.show_row(self.from_space, kind == "vectors")
        self.space.setPlaceholderText("its own" if kind == "image" else "not known")
        self._describe()

    def _image(self) -> _Image | None:
        layer = self.origin_of_image.value
        text = self.path.text().strip()
        channel = self.image_channel.text().strip()
        if layer is None and not text:
            return None
        image = text if layer is None else _volume_of(layer)
        # Regions under their own ids, if they are shown under other numbers.
        image = getattr(image, "source", image)
        convention = self.convention.value if self.kind.value == "vectors" else None
        return _Image(text if layer is None else layer, image, channel or None, self.kind.value, self.planes_are.value, convention)

    def _describe(self) -> None:
        asked = self._image()
        if asked is None or self._asked is None or asked.place != self._asked.place:
            self._forget_image()
        self._asked, self._metadata, self._complaint = asked, None, ""
        self._painter.forget()
        if asked is None:
            self._describer.forget()
            self.thumbnail.show_image(None, "no image")
        else:
            self.thumbnail.show_image(None, "…")
            self._describer.ask(
                lambda _: describe_image(asked.image, channel=asked.channel, kind=asked.kind, planes_are=asked.planes_are)
            )
        self._changed()

    def _forget_image(self) -> None:
        """Empty what the image before has told."""
        if self._own_size and self.voxel_size.texts == self._own_size:
            for edit in self.voxel_size.edits:
                edit.clear()
        if self._own_code is not None and self.orientation.toward.text() == self._own_code:
            self.orientation.choose("")
        self._own_size, self._own_code, self._is_new = [], None, True

    def _on_described(self, metadata: ImageMetadata) -> None:
        asked = self._asked
        if asked is None:
            return
        self._metadata = metadata
        if self._is_new:
            self._is_new = False
            self._take_over(metadata)
        self._painter.ask(lambda cancel: _middle_plane(asked, cancel))
        self._show_facts()
        self._changed()

    def _take_over(self, metadata: ImageMetadata) -> None:
        """Fill in what a new image or layer tells."""
        layer = self.origin_of_image.value
        size = _voxel_size_um(layer) if layer is not None else None
        if size is not None:
            self.voxel_size.show_values(size)
        if metadata.voxel_size is not None:
            self.voxel_size.show_values([1000 * length for length in metadata.voxel_size.triple_mm])
            self._own_size = self.voxel_size.texts
        if metadata.orientation is not None:
            self._own_code = metadata.orientation
            self.orientation.choose(metadata.orientation)

    def _on_undescribed(self, message: str) -> None:
        self._complaint = message
        self.thumbnail.show_image(None, "cannot be used")
        self._changed()

    def _on_painted(self, image: Grey) -> None:
        self.thumbnail.show_image(image)

    def _show_facts(self) -> None:
        metadata = self._metadata
        self.facts.setStyleSheet(ERROR_STYLE if self._complaint else "")
        if self._complaint or metadata is None or metadata.shape is None:
            waiting = "TIFF, OME-TIFF, NIfTI, NRRD, MetaImage, Zarr, or a layer" if self._asked is None else "looking …"
            self.facts.setText(escape(self._complaint) or waiting)
            return
        shape = (metadata.shape.planes, metadata.shape.rows, metadata.shape.columns)
        voxels = np.prod(shape, dtype=float) * np.dtype(metadata.dtype).itemsize * (3 if self.kind.value == "vectors" else 1)
        lines = [
            f"{metadata.format or 'image'}, {shape[0]} plane{'s' if shape[0] != 1 else ''}",
            f"{_by(shape)} voxels",
            f"{metadata.dtype}, {size_text(voxels)}",
        ]
        try:
            size = self._voxel_size()
            lines.append(
                f"{_by(n * mm for n, mm in zip(shape, size, strict=True))} mm" if size else _missing("voxel size not known")
            )
        except InputError:
            lines.append(_missing("voxel size not clear"))
        if metadata.orientation is None and self.orientation.orientation is None:
            lines.append(_missing("orientation not known"))
        elif metadata.world_from_voxel is not None:
            lines.append("lies oblique")
        lines += map(escape, metadata.notes)
        self.facts.setText("<br>".join(lines))

    # --- the target ---------------------------------------------------------------------------------------------------------

    def _look_at_target(self) -> None:
        path = self._target()
        if path is None:
            self._looker.forget()
        else:
            self._looker.ask(lambda _: _kinds_in(path))
        self.holds.setText("")
        self._changed()

    def _target(self) -> Path | None:
        text = self.target.text().strip()
        return Path(text) if text else None

    def _on_target(self, channels: Mapping[str, str]) -> None:
        self.holds.setStyleSheet("")
        path = self._target()
        is_new = path is not None and not channels and not path.exists()
        self.holds.setText("nothing, it is new" if is_new else ", ".join(channels) or "no channel")
        self.partner.offer([("none", None), *((name, name) for name, kind in channels.items() if kind == "vectors")])
        self._changed()

    def _on_no_target(self, message: str) -> None:
        self.holds.setStyleSheet(ERROR_STYLE)
        self.holds.setText(message)
        self._changed()

    # --- the request --------------------------------------------------------------------------------------------------------

    def request(self) -> IngestRequest:
        """What the form says.

        Raises
        ------
        InputError
            That says what is missing or wrong.
        """
        image, target = self._image(), self._target()
        missing = self._missing()
        if image is None or target is None or missing:
            raise InputError(f"still to be given: {', '.join(missing)}")
        is_labels, is_vectors = image.kind == "labels", image.kind == "vectors"
        return IngestRequest(
            path=target,
            channel=self.channel.text().strip(),
            image=image.image,
            image_channel=image.channel,
            planes_are=image.planes_are,
            field_convention=image.convention,
            kind=image.kind,
            voxel_size_mm=None if self.voxel_size.texts == self._own_size else self._voxel_size(),
            orientation=None if self.orientation.read() == self._own_code else self.orientation.read(),
            origin_mm=self.origin.read("origin") if any(self.origin.texts) else None,
            metadata=_path_or_none(self.metadata),
            labels=_path_or_none(self.labels) if is_labels else None,
            ontology=_path_or_none(self.ontology) if is_labels else None,
            inverse_of=self.partner.value if is_vectors else None,
            space=self.space.text().strip() or None,
            from_space=(self.from_space.text().strip() or None) if is_vectors else None,
            replace=self.replace.isChecked(),
            memory_bytes=round(1e9 * numbers(self.memory.text(), "memory", 1)[0]),
            threads=_whole(self.threads.text(), "threads"),
            compression=self.compression.value,
            uint16_as_int16=self.as_int16.isChecked(),
        )

    def _voxel_size(self) -> tuple[float, float, float] | None:
        texts = self.voxel_size.texts
        return VoxelSize.from_text(f"{', '.join(texts)} um").triple_mm if any(texts) else None

    def _missing(self) -> list[str]:
        """What only the user can tell, and has not; marked where it belongs."""
        # A metadata file may tell of the geometry: the core says what is missing then.
        told = bool(self.metadata.text().strip())
        missing = {
            "image": (self._image() is None, (self.path,)),
            "voxel size": (not told and not any(self.voxel_size.texts), self.voxel_size.edits),
            "orientation": (not told and not self.orientation.toward.text() and not self._has_axes(), self.orientation.axes),
            "target file": (self._target() is None, (self.target,)),
            "name of the channel": (not self.channel.text().strip(), (self.channel,)),
        }
        for is_missing, fields in missing.values():
            style = _MISSING_STYLE if is_missing else ""
            for field in fields:
                if field.styleSheet() != style:
                    field.setStyleSheet(style)
        return [name for name, (is_missing, _) in missing.items() if is_missing]

    def _says(self) -> tuple[Any, ...]:
        """What the form asks for, as far as another choice of it is another wish."""
        image = self._image()
        place = None if image is None else (image.place, image.channel, image.kind)
        return place, self.target.text().strip(), self.channel.text().strip()

    def _has_axes(self) -> bool:
        return any(choice.value for choice in self.orientation.axes) or bool(self.orientation.origin.text())

    def _changed(self) -> None:
        self.go.setEnabled(False)
        self._planner.forget()
        self._soon.start()

    def _look_ahead(self) -> None:
        """Say what is missing, or ask what the request will give."""
        self.doubts.hide()
        is_done = self._said_then == self._says()
        missing = [] if is_done else self._missing()
        self._show_facts()
        code = self.orientation.orientation
        self.thumbnail.show_letters(edge_letters(code, 0) if code is not None else ())
        if is_done:
            self.outlook.praise(self._written)
            return
        self._said_then = None
        if missing:
            self.outlook.say(f"Still to be given: {', '.join(missing)}.")
            return
        if self._complaint:
            self._complain("The image cannot be used: see above.")
            return
        try:
            request = self.request()
        except LsfmError as error:
            self._complain(in_words(error))
            return
        self.outlook.say("…")
        if self._metadata is not None:
            self._planner.ask(lambda _: plan_ingest(request))

    def _on_plan(self, plan: IngestPlan) -> None:
        made = _MAKES[plan.makes].format(channel=repr(plan.channel), file=plan.path.name)
        levels = f"{len(plan.levels)} level{'s' if len(plan.levels) > 1 else ''}"
        memory = size_text(plan.memory.peak_bytes)
        self.outlook.say(
            f"{made} {levels}, {size_text(plan.raw_bytes)} before compression, at most {memory} of memory.\n{plan.path.absolute()}"
        )
        self.doubts.warn("\n".join(f"Warning: {warning}" for warning in plan.warnings))
        self.doubts.setVisible(bool(plan.warnings))
        self.go.setEnabled(not self.panel.is_busy)

    def _complain(self, text: str) -> None:
        self.outlook.complain(text)
        self.go.setEnabled(False)

    # --- doing it -----------------------------------------------------------------------------------------------------------

    def _nameable_request(self) -> IngestRequest:
        """The request, if its image has a name that others can use."""
        request = self.request()
        if not isinstance(request.image, str | os.PathLike):
            raise InputError("image: a layer is known in this window only: commands and recipes read files")
        return request

    def _start(self) -> None:
        try:
            request = self.request()
        except LsfmError as error:
            self._complain(in_words(error))
            return
        self._run(request)

    def _run(self, request: IngestRequest) -> None:
        is_shown = self._shown_as(request.path) is not None
        self.panel.run(_ingest(request, is_shown), f"Ingest {request.channel}", lambda report: self._on_done(request, report))
        self.go.setEnabled(False)

    def _shown_as(self, path: Path) -> Path | None:
        """The path by which this viewer shows a file: it may have been opened by another name."""
        return next((shown for shown in lsfm_paths(self._viewer) if path.exists() and shown.samefile(path)), None)

    def _on_done(self, request: IngestRequest, report: IngestReport | None) -> str:
        if report is None:
            self._retry = request
            return f"{request.path.name} is shown here: its layers are closed meanwhile …"
        self._show_layers(request.path, [request.channel])
        if self.channel.text().strip() == request.channel:
            # There is one of that name now: the next one needs another.
            self.channel.clear()
            self._written = f"Done: {request.path.absolute()} holds channel {request.channel!r}."
            self._said_then = self._says()
        raw, stored = report.raw_bytes, report.stored_bytes
        said = [f"Channel {report.channel!r} written: {size_text(raw)}, stored in {size_text(stored)}, {report.seconds:.1f} s."]
        if report.kind == "vectors":
            said.append("Displacement fields are not shown.")
        if self._closed is not None:
            said.append("The file's layers were closed meanwhile, and are open again.")
        return "\n".join([*said, *(f"Warning: {warning}" for warning in report.warnings)])

    def _on_finished(self) -> None:
        if self._retry is not None:
            request, self._retry = self._retry, None
            self._closed = ClosedFile(self._viewer, self._shown_as(request.path) or request.path)
            self._run(request)
            return
        if self._closed is not None:
            self._show_layers(self._closed.path, [])
        self._look_at_target()

    def _show_layers(self, path: Path, channels: Sequence[str]) -> None:
        """Open channels of a file as layers, and those that were closed."""
        opener = Latest(self)
        opener.answered.connect(lambda layers: self._on_opened(layers, channels))
        opener.failed.connect(self.panel.complain)
        opener.ask(lambda _: present_layers(path))

    def _on_opened(self, layers: Sequence[LayerData], channels: Sequence[str]) -> None:
        closed, self._closed = self._closed, None
        wanted = set(channels) | (closed.channels if closed is not None else set())
        # All of a channel's first: it may have several layers.
        for _, keywords, _ in layers:
            about = keywords["metadata"]["lsfm"]
            for old in layers_of(self._viewer, Path(about["path"]), about["channel"]) if about["channel"] in wanted else ():
                self._viewer.layers.remove(old)
        for data, keywords, kind in layers:
            name = keywords["metadata"]["lsfm"]["channel"]
            if name in wanted:
                layer = getattr(self._viewer, f"add_{kind}")(data, **keywords)
                if closed is not None:
                    closed.restore(layer, name)
        if closed is not None:
            closed.restore_view()

    # --- dialogs ------------------------------------------------------------------------------------------------------------

    def _browse_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Folder of the image", self.path.text())
        if path:
            self.path.setText(path)

    def _browse_image(self) -> None:
        self._browse(self.path, "Image", "All files (*)")

    def _browse(self, edit: QLineEdit, title: str, pattern: str) -> None:
        path, _ = QFileDialog.getOpenFileName(self, title, edit.text() or self.path.text(), pattern)
        if path:
            edit.setText(path)

    def _browse_target(self) -> None:
        option = QFileDialog.Option.DontConfirmOverwrite
        path, _ = QFileDialog.getSaveFileName(self, "Target file, new or existing", self.target.text(), _HDF5, options=option)
        if path:
            self.target.setText(path if Path(path).suffix else f"{path}.h5")


def _ingest(request: IngestRequest, is_shown: bool) -> Callable[..., IngestReport | None]:
    """The work; its result is None where the file is busy because this viewer shows it."""

    def work(progress: Any, cancel: CancelToken) -> IngestReport | None:
        try:
            return ingest_channel(request, progress=progress, cancel=cancel)
        except BusyError:
            if not is_shown:
                raise
            return None

    return work


def _middle_plane(asked: _Image, cancel: CancelToken) -> Grey:
    source = open_source(
        asked.image,
        channel=asked.channel,
        kind=asked.kind,
        planes_are=asked.planes_are,
        field_convention=asked.convention,
    )
    try:
        plane = np.empty(source.shape[1:] + ((source.components,) if source.components > 1 else ()), source.dtype)
        middle = source.shape[0] // 2
        # Compressed files are read from the front in any case; plane by plane it can be stopped.
        for index in range(0 if source.forward_only else middle, middle + 1):
            if cancel.cancelled:
                raise CancelledError(f"{source.name}: cancelled")
            source.read_plane(index, plane)
    finally:
        source.close()
    return as_grey(plane, asked.kind, 2 * _THUMBNAIL)


def _kinds_in(path: Path) -> dict[str, str]:
    """Names and kinds of the channels in a file; none if it is not there."""
    if not path.exists():
        return {}
    with open_lsfm(path) as file:
        return {name: channel.kind for name, channel in file.channels.items()}


def _can_be_ingested(layer: Layer) -> bool:
    """Volumes and planes that are not in a file of ours already; the layers of those are padded."""
    return type(layer).__name__ in ("Image", "Labels") and layer.ndim in (2, 3) and origin_of(layer) is None


def _volume_of(layer: Layer) -> Any:
    """The finest level of a layer; a layer of two axes as one plane."""
    data = layer.data[0] if layer.multiscale else layer.data
    return np.asarray(data)[None] if layer.ndim == 2 else data


def _voxel_size_um(layer: Layer) -> list[float] | None:
    """From a layer's scale, if its units are lengths."""
    if not all(unit.is_compatible_with("mm") for unit in layer.units):
        return None
    sizes = [float((scale * unit).to("um").magnitude) for scale, unit in zip(layer.scale, layer.units, strict=True)]
    # A single plane is as thick as its rows are apart, until somebody knows better.
    return sizes if len(sizes) == 3 else [sizes[0], *sizes]


def _path_row(section: Section, label: str, edit: PathEdit, tip: str, *buttons: QPushButton) -> QWidget:
    row = section.row(label, beside(edit, *buttons), tip)
    edit.explain(tip)
    edit.setAccessibleName(label)
    return row


def _button(text: str, tip: str, pressed: Callable[[], None]) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    button.setAccessibleName(tip)
    button.setFixedWidth(button.fontMetrics().horizontalAdvance(text) + 18)
    button.clicked.connect(lambda _: pressed())
    return button


def _path_or_none(edit: QLineEdit) -> Path | None:
    text = edit.text().strip()
    return Path(text) if text else None


def _whole(text: str, name: str) -> int | None:
    """A whole number, or None if there is none.

    Raises
    ------
    InputError
    """
    if not text.strip():
        return None
    if not text.strip().isdigit():
        raise InputError(f"{name}: {text.strip()!r} is no whole number")
    return int(text)


def _missing(text: str) -> str:
    return f'<span style="{WARNING_STYLE}">{text}</span>'


def _by(values: Any) -> str:
    return " x ".join(f"{value:.6g}" for value in values)
