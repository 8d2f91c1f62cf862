"""Put an image into a file as a new channel: the form of the core's `IngestRequest`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from qtpy.QtWidgets import QWidget

from lsfm_core import (
    CancelToken,
    ImageMetadata,
    IngestPlan,
    IngestReport,
    IngestRequest,
    InputError,
    plan_ingest,
    size_text,
)
from napari_lsfm._reader import present_layers
from napari_lsfm._widgets._facts import show_channel
from napari_lsfm._widgets.fields import Choice, OrientationField, Words, edge_letters, make_field
from napari_lsfm._widgets.forms._form import Form
from napari_lsfm._widgets.forms._ingest_found import FoundImage
from napari_lsfm._widgets.forms._ingest_work import (
    Image,
    can_be_ingested,
    ingest,
    kinds_in,
    volume_of,
    voxel_size_of,
)
from napari_lsfm._workers import Job, Latest

if TYPE_CHECKING:
    import napari
    from magicgui.widgets import Widget

__all__ = ["IngestForm"]

_DELAY_MS = 300
_HDF5 = "HDF5 files (*.h5 *.hdf5)"
_TABLES = "Label tables (*.txt *.csv *.tsv *.label);;All files (*)"
_TARGETS = (".h5", ".hdf5", ".xml")
_MAKES = {
    "file": "Makes {file} with channel {channel}:",
    "channel": "Adds channel {channel} to {file}:",
    "replacement": "Replaces channel {channel} of {file}:",
}
#: Rows that a kind of image alone has.
_OF_KIND = {"labels": ("labels", "ontology"), "vectors": ("inverse_of", "field_convention", "from_space")}


class IngestForm(Form):
    """Put an image, or a layer, into a file."""

    request_type = IngestRequest
    operation = "write"
    action = "Import"
    width_hint = 420
    sections: ClassVar = {
        "Image": (
            "layer", "image", "kind", "image_channel", "planes_are",
            "labels", "ontology", "inverse_of", "field_convention", "found",
        ),
        "Geometry": ("voxel_size_mm", "origin_mm", "metadata"),
        "How the specimen lies": ("orientation",),
        "Target": ("path", "holds", "channel", "space", "from_space", "replace"),
        "Work and storage": ("memory_bytes", "threads", "compression", "uint16_as_int16"),
    }  # fmt: skip
    folded = ("Work and storage",)
    needed: ClassVar = {
        "image": "image",
        "voxel_size_mm": "voxel size",
        "orientation": "orientation",
        "path": "target file",
        "channel": "name of the channel",
    }

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        #: What the image tells of its geometry: as long as the form says the same, the request leaves it to the image.
        self._own_size: list[str] = []
        self._own_code: str | None = None
        self._is_new = True
        self.found, self.holds = FoundImage(), Words()
        self.thumbnail, self.facts = self.found.thumbnail, self.found.facts
        super().__init__(viewer)
        self.found.described.connect(self._on_described)
        self.found.changed.connect(self._changed)
        self._looker = Latest(self.native, _DELAY_MS, answered=self._on_target, failed=self._on_no_target)
        self.layer.changed.connect(self._on_layer)
        self.kind.changed.connect(self._on_kind)
        for name in ("image", "image_channel", "planes_are", "field_convention"):
            self[name].changed.connect(self._describe)
        self.path.changed.connect(self._look_at_target)
        self.native.setAcceptDrops(True)
        self.native.dropped.connect(self._on_dropped)
        self.panel.finished.connect(self._look_at_target)
        self._listen(self._on_layers, viewer.layers.events.inserted, viewer.layers.events.removed)
        self._on_layers()
        self._on_kind()

    def _make(self, name: str) -> Widget | tuple[str, QWidget, str]:
        match name:
            case "layer":
                tip = "A file or folder on the disk, or a layer of this viewer"
                return Choice(name=name, label="From", tooltip=tip, choices=[("file or folder", None)])
            case "found":
                return "", self.found, "What was found, and the middle plane"
            case "holds":
                return "It holds", self.holds, "Channels that are in the file already"
            case "inverse_of":
                return make_field(IngestRequest, name, Choice, choices=[("none", None)])
            case "orientation":
                return make_field(IngestRequest, name, OrientationField)
        options: dict[str, dict[str, Any]] = {
            "image": {"modes": ("folder", "file")},
            "path": {"modes": ("save",), "pattern": _HDF5, "suffix": ".h5"},
            "labels": {"pattern": _TABLES},
            "ontology": {"pattern": _TABLES},
            "metadata": {"pattern": "JSON files (*.json)"},
            "voxel_size_mm": {"positive": True},
        }
        return make_field(IngestRequest, name, **options.get(name, {}))

    def _on_dropped(self, paths: Sequence[str]) -> None:
        """Take a file of ours as the target, everything else as the image."""
        targets = [path for path in paths if path.lower().endswith(_TARGETS)]
        images = [path for path in paths if path not in targets]
        if len(targets) > 1 or len(images) > 1:
            self.panel.complain(
                f"{len(paths)} files were dropped, and none was taken: drop one image and one target file at most. A series is "
                "taken by its folder, or by a pattern such as img_*_C01.tif."
            )
            return
        if targets:
            self.path.value = targets[0]
        if images:
            self.layer.value = None
            self.image.value = images[0]

    # --- the image ----------------------------------------------------------------------------------------------------------

    def _on_layers(self, event: Any = None) -> None:
        active = self._viewer.layers.selection.active
        layers = sorted((layer for layer in self._viewer.layers if can_be_ingested(layer)), key=lambda layer: layer is not active)
        before = self.layer.value
        self.layer.offer([("file or folder", None), *((f"layer {layer.name}", layer) for layer in layers)])
        if before is not self.layer.value:
            self._on_layer()

    def _on_layer(self) -> None:
        layer = self.layer.value
        self._show_rows(layer is None, "image")
        if layer is not None:
            colours = getattr(layer, "rgb", False)
            self.kind.value = "labels" if type(layer).__name__ == "Labels" else "components" if colours else "image"
        self._describe()

    def _on_kind(self) -> None:
        for kind, names in _OF_KIND.items():
            self._show_rows(self.kind.value == kind, *names)
        self.space.native.setPlaceholderText("its own" if self.kind.value == "image" else "not known")
        self._describe()

    def _image(self) -> Image | None:
        layer, path = self.layer.value, self.image.value
        if layer is None and path is None:
            return None
        image = path if layer is None else volume_of(layer)
        # Regions under their own ids, if they are shown under other numbers.
        image = getattr(image, "source", image)
        convention = self.field_convention.value if self.kind.value == "vectors" else None
        channel, planes_are = self.image_channel.value, self.planes_are.value
        return Image(path if layer is None else layer, image, channel, self.kind.value, planes_are, convention)

    def _describe(self) -> None:
        asked, before = self._image(), self.found.asked
        if asked is None or before is None or asked.place != before.place:
            self._forget_image()
        self.found.look_at(asked)
        self._changed()

    def _forget_image(self) -> None:
        """Empty what the image before has told."""
        if self._own_size and self.voxel_size_mm.texts == self._own_size:
            self.voxel_size_mm.value = None
        if self._own_code is not None and self._code == self._own_code:
            self.orientation.value = None
        self._own_size, self._own_code, self._is_new = [], None, True

    @property
    def _code(self) -> str | None:
        found = self.orientation.native.orientation
        return None if found is None else found.axcodes

    def _on_described(self, metadata: ImageMetadata) -> None:
        if self._is_new:
            self._is_new = False
            self._take_over(metadata)
        self._show_facts()

    def _take_over(self, metadata: ImageMetadata) -> None:
        """Fill in what a new image or layer tells."""
        layer = self.layer.value
        size = voxel_size_of(layer) if layer is not None else None
        if size is not None:
            self.voxel_size_mm.value = size
        if metadata.voxel_size is not None:
            self.voxel_size_mm.value = metadata.voxel_size.triple_mm
            self._own_size = self.voxel_size_mm.texts
        if metadata.orientation is not None:
            self._own_code = self.orientation.value = metadata.orientation

    def _show_facts(self) -> None:
        try:
            size = self.voxel_size_mm.value or "not known"
        except InputError:
            size = "not clear"
        self.found.show_facts(size, is_oriented=self._code is not None)

    # --- the target ---------------------------------------------------------------------------------------------------------

    def _look_at_target(self) -> None:
        path = self._target()
        if path is None:
            self._looker.forget()
        else:
            self._looker.ask(lambda _: kinds_in(path))
        self.holds.say("")
        self._changed()

    def _target(self) -> Path | None:
        return None if self.path.value is None else Path(self.path.value)

    def _on_target(self, channels: Mapping[str, str]) -> None:
        path = self._target()
        is_new = path is not None and not channels and not path.exists()
        self.holds.say("nothing, it is new" if is_new else ", ".join(channels) or "no channel")
        self.inverse_of.offer([("none", None), *((name, name) for name, kind in channels.items() if kind == "vectors")])
        self._changed()

    def _on_no_target(self, message: str) -> None:
        self.holds.complain(message)
        self._changed()

    # --- the request --------------------------------------------------------------------------------------------------------

    def __call__(self, request: IngestRequest) -> None:
        """Show a request; its image is a path."""
        self.layer.value = None
        super().__call__(request)

    def _given(self) -> dict[str, Any]:
        image = self._image()
        given = super()._given() | {"image": None if image is None else image.image}
        if self.voxel_size_mm.texts == self._own_size:
            given["voxel_size_mm"] = None
        if given["orientation"] == self._own_code:
            given["orientation"] = None
        return given

    def _missing(self) -> Sequence[str]:
        if self._done_words:
            return ()
        # A metadata file may tell of the geometry: the core says what is missing then.
        told = self.metadata.value is not None
        is_missing = {
            "image": self._image() is None,
            "voxel_size_mm": not told and not any(self.voxel_size_mm.texts),
            "orientation": not told and self.orientation.native.is_empty,
            "path": self.path.value is None,
            "channel": self.channel.value is None,
        }
        return [name for name in self.needed if is_missing[name]]

    def _says(self) -> tuple[Any, ...]:
        image = self._image()
        place = None if image is None else (image.place, image.channel, image.kind)
        return place, self.path.value, self.channel.value

    def _hindrance(self) -> str:
        missing = self._missing()
        if missing:
            return f"Still to be given: {self._called(missing)}."
        return "" if self.found.metadata is not None or self.found.complaint else "…"

    def _look_ahead(self) -> None:
        self._show_facts()
        code = self.orientation.native.orientation
        self.thumbnail.show_letters(edge_letters(code, 0) if code is not None else ())
        super()._look_ahead()

    def _plan(self, request: IngestRequest, cancel: CancelToken) -> IngestPlan:
        if self.found.complaint:
            raise InputError("The image cannot be used: see above.")
        return plan_ingest(request)

    def _say_plan(self, plan: IngestPlan) -> None:
        made = _MAKES[plan.makes].format(channel=repr(plan.channel), file=plan.path.name)
        levels = f"{len(plan.levels)} level{'s' if len(plan.levels) > 1 else ''}"
        memory = size_text(plan.memory.peak_bytes)
        self.outlook.say(
            f"{made} {levels}, {size_text(plan.raw_bytes)} before compression, at most {memory} of memory.\n{plan.path.absolute()}"
        )
        self._warn(plan.warnings)

    def _nameable_request(self) -> IngestRequest:
        request = self.request()
        if not isinstance(request.image, str | os.PathLike):
            raise InputError("image: a layer is known in this window only: commands and recipes read files")
        return request

    # --- doing it -----------------------------------------------------------------------------------------------------------

    def _begin(self, request: IngestRequest) -> Job:
        return self.panel.run(ingest(request), f"Ingest {request.channel}", lambda report: self._on_done(request, report))

    def _on_done(self, request: IngestRequest, report: IngestReport) -> str:
        opener = Latest(
            self.native,
            answered=lambda layers: show_channel(self._viewer, layers, request.channel),
            failed=self.panel.complain,
        )
        opener.ask(lambda _: present_layers(request.path))
        if self.channel.value == request.channel:
            # There is one of that name now: the next one needs another.
            self.channel.value = None
            self._done = self._says(), f"Done: {request.path.absolute()} holds channel {request.channel!r}."
        raw, stored = report.raw_bytes, report.stored_bytes
        said = [f"Channel {report.channel!r} written: {size_text(raw)}, stored in {size_text(stored)}, {report.seconds:.1f} s."]
        if report.kind == "vectors":
            said.append("Displacement fields are not shown.")
        return "\n".join([*said, *(f"Warning: {warning}" for warning in report.warnings)])
