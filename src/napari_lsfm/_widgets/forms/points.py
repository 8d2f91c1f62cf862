"""The form of points: carry cells into another space, tell and count their regions, and save all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lsfm_core import (
    CancelToken,
    Channel,
    InputError,
    LabelTable,
    PointList,
    PointsRequest,
    PointsResult,
    describe_points,
    open_lsfm,
    read_points,
    transform_points,
)
from napari_lsfm._points import points_layer
from napari_lsfm._viewing import attend
from napari_lsfm._widgets._facts import FileFacts
from napari_lsfm._widgets.fields import Choice, ChoiceOrFile, Listed, PathField, Tick, make_field
from napari_lsfm._widgets.forms._transform_form import TransformForm
from napari_lsfm._workers import Job
from napari_lsfm._writer import matrix_of

if TYPE_CHECKING:
    import napari
    from magicgui.widgets import Widget

__all__ = ["PointsForm"]

_AXES = 3
_TABLES = "Points (*.csv *.tsv *.txt *.xml);;All files (*)"
#: More regions than these are for the table.
_NAMED = 5
_MARKED = "point_type"


class PointsForm(TransformForm):
    """Carry points through a chain of transforms, and count them by region."""

    request_type = PointsRequest
    operation = "transform-points"
    action = "Carry"
    sections: ClassVar = {
        "Points": ("points", "voxels_of", "source", "columns", "marker_type", "path", "channel", "orientation"),
        "Into another space": ("to_space", "via", "transforms", "target", "reference"),
        "Regions": ("labels_channel", "labels_in", "midline_mm", "counts"),
        "Output": ("output", "overwrite", "memory_bytes", "threads", "show_result"),
    }

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.points.changed.connect(self._on_points)
        self.labels_channel.changed.connect(self._on_labels)
        self.target.changed.connect(self._on_chain)
        layers = napari_viewer.layers.events
        self._listen(self._on_layers, layers.inserted, layers.removed, layers.renamed)
        self._on_layers()
        active = napari_viewer.layers.selection.active
        if active in self.points.native.values:
            self.points.value = active
        self._on_points()
        self.path.native.start(napari_viewer)

    def _make(self, name: str) -> Widget:
        match name:
            case "points":
                tip = "A points layer of the viewer, or a file: a table (CSV), or cellfinder's XML"
                return make_field(PointsRequest, name, ChoiceOrFile, pattern=_TABLES, tooltip=tip)
            case "voxels_of":
                tip = (
                    "What the positions of the layer mean: the place where they are seen, or voxels of an image. Plugins that do "
                    "not place their points, such as cellfinder, leave them in voxels of the layer that they worked on"
                )
                return Choice(None, name=name, label="They lie", tooltip=tip, choices=[("where they are seen", None)])
            case "columns" | "marker_type":
                empty = "by their names" if name == "columns" else "2: cells"
                return make_field(PointsRequest, name, Listed, kind=str if name == "columns" else int, empty=empty)
            case "labels_channel":
                return make_field(PointsRequest, name, Choice, choices=[("none", None)])
            case "reference":
                return make_field(PointsRequest, name, ChoiceOrFile, choices=[("none", None)])
            case "counts" | "output":
                return make_field(PointsRequest, name, PathField, modes=("save",), pattern=_TABLES, suffix=".csv", empty="none")
            case "show_result":
                tip = "Add the points to the viewer, with their regions; those in another space get a window of their own"
                return Tick(True, name=name, label="Show", text="as a layer", tooltip=tip)
        return super()._make(name)

    # --- what can be chosen -------------------------------------------------------------------------------------------------

    def _on_layers(self, event: Any = None) -> None:
        from napari.layers import Image, Labels, Points

        layers = list(self._viewer.layers)
        points = [layer for layer in layers if isinstance(layer, Points) and layer.ndim == _AXES]
        images = [layer for layer in layers if isinstance(layer, Image | Labels) and layer.ndim >= _AXES]
        before = self.points.native.chosen
        self.points.offer((layer.name, layer) for layer in points)
        self.voxels_of.offer([("where they are seen", None), *((f"in voxels of {layer.name}", layer) for layer in images)])
        if self.points.native.chosen != before:
            self._on_points()
        self._changed()

    def _on_points(self) -> None:
        points = self._points()
        is_layer = points is not None and not isinstance(points, Path)
        is_table = isinstance(points, Path) and points.suffix.lower() != ".xml"
        self._show_rows(is_layer, "voxels_of")
        self._show_rows(is_table, "source", "columns")
        self._show_rows(isinstance(points, Path) and not is_table, "marker_type")
        if is_layer:
            self._suppose(points)
        self._changed()

    def _suppose(self, points: Any) -> None:
        """Choose what a layer of points tells of itself: the channel that it lies over; that its places are voxels of a layer."""
        told = points.metadata.get("lsfm", {}).get("points")
        with self._filling():
            if told is not None and self._facts is not None and str(self._facts.path) == told["path"]:
                self.channel.value = told["channel"]
            found = None
            if told is None and _MARKED in points.metadata and not np.any(points.translate):
                # cellfinder gives its points the scale of what it worked on, and no place.
                same = [layer for layer in self.voxels_of.choices if layer is not None and not layer.multiscale]
                found = next((layer for layer in same if np.allclose(layer.scale[-_AXES:], points.scale)), None)
            self.voxels_of.value = found

    def _on_facts(self, facts: FileFacts) -> None:
        super()._on_facts(facts)
        self._on_points()

    def _offer_of(self, channel: Channel, facts: FileFacts) -> None:
        for field, what in ((self.output, "points"), (self.counts, "counts")):
            field.native.start = str(facts.path.with_name(f"{facts.path.stem}_{what}.csv"))

    def _on_chain(self) -> None:
        super()._on_chain()
        self._show_rows(self.target.value == "output-voxel", "reference")
        self._on_labels()

    def _on_labels(self) -> None:
        has_labels = self.labels_channel.value is not None
        self._show_rows(has_labels, "counts", "midline_mm")
        self._show_rows(has_labels and self._leaves, "labels_in")
        self._changed()

    def _show_request(self, request: PointsRequest) -> None:
        # Of positions that Python held, all but these.
        points = str(request.points) if isinstance(request.points, Path) else self.points.value
        super()._show_request(request.model_copy(update={"points": points}))
        self._on_points()

    # --- the request --------------------------------------------------------------------------------------------------------

    def _given(self) -> dict[str, Any]:
        given = super()._given()
        if given.get("counts") is None:
            given.pop("midline_mm", None)
        points = self._points()
        if points is None:
            raise InputError("points: open cells or other points, choose their file with the … button, or add a points layer")
        if isinstance(points, Path):
            return given | {"points": points}
        return given | {"points": self._voxels(points), "source": "native-voxel"}

    def _points(self) -> Any:
        """A path, a layer, or None."""
        points = self.points.value
        return Path(points) if isinstance(points, str) else points

    def _voxels(self, layer: Any) -> Any:
        """The positions of a layer as voxels of the channel."""
        assert self._facts is not None
        other = self.voxels_of.value
        _, meta, _ = (layer if other is None else other).as_layer_data_tuple()
        matrix = matrix_of(meta, _AXES if other is None else other.ndim)
        places = np.asarray(layer.data, float)
        if other is not None and other.ndim > _AXES:
            places = np.hstack([np.zeros((len(places), other.ndim - _AXES)), places])
        native = (places @ matrix[:-1, :-1].T + matrix[:-1, -1])[:, -_AXES:]
        frame = self._facts.frame(self.channel.value, self.orientation.value)
        matrix = frame.ras_from_native
        return self._facts.channels[self.channel.value].space.to_voxel(native @ matrix[:_AXES, :_AXES].T + matrix[:_AXES, -1])

    def _hindrance(self) -> str:
        if self._points() is None:
            return "Open cells or other points, choose their file with the … button, or add a points layer."
        return ""

    def _plan(self, request: PointsRequest, cancel: CancelToken) -> str:
        with open_lsfm(request.path) as file:
            return describe_points(file, request)

    def _say_plan(self, plan: str) -> None:
        lines = plan.splitlines()
        warnings = [line.removeprefix("warning").strip() for line in lines if line.startswith("warning")]
        text = "\n".join(" ".join(line.split()) for line in lines if not line.startswith("warning"))
        # In the form's own words.
        for place, words in PointsRequest.model_fields["target"].json_schema_extra["words"].items():
            text = text.replace(f"{place} positions", f"positions: {words}").replace(place, words)
        points = self._points()
        self.outlook.say(text if isinstance(points, Path) else text.replace("an array", f"layer {points.name!r}"))
        self._warn(warnings)

    def _nameable_request(self) -> PointsRequest:
        request = self.request()
        if not isinstance(request.points, Path):
            raise InputError("points: commands and recipes read files: save the layer first, and choose its file")
        if request.output is None:
            raise InputError("table: commands and recipes write files: name one")
        return request

    # --- doing it -----------------------------------------------------------------------------------------------------------

    def _begin(self, request: PointsRequest) -> Job:
        assert self._facts is not None
        table = LabelTable() if request.labels_channel is None else self._facts.tables[request.labels_channel]
        layer = self._points()
        name = layer.stem if isinstance(layer, Path) else layer.name
        features = {} if isinstance(layer, Path) else {str(key): list(layer.features[key]) for key in layer.features}
        frame = self._facts.frame(request.channel)
        show = self.show_result.value and request.target != "output-voxel"

        def work(progress: Any, cancel: Any) -> tuple[PointsResult, dict[str, list[Any]]]:
            result = transform_points(request, progress=progress, cancel=cancel)
            more = features
            if show and isinstance(request.points, Path):
                found = read_points(request.points, columns=request.columns, marker_type=request.marker_type)
                more = {key: list(values) for key, values in found.columns.items()}
            return result, more | _regions(result, table)

        def done(outcome: tuple[PointsResult, dict[str, list[Any]]]) -> str:
            result, columns = outcome
            # What was said before need not be said again.
            said = _summary(result, columns, [text for text in result.warnings if text not in self.doubts.text()])
            if show:
                said += self._show(request, result, columns, name, frame.ras_from_native)
            return said

        return self.panel.run(work, f"Carry {name}", done)

    def _show(self, request: PointsRequest, result: PointsResult, columns: dict[str, list[Any]], name: str, frame: Any) -> str:
        if not (request.transforms or request.to_space) or request.target.startswith("native"):
            place = "native-voxel" if request.target == "native-voxel" else "native-mm"
            found = PointList(result.points, place, columns)
            data, keywords, _ = points_layer(found, name, str(request.path), request.channel)
            added = self._viewer.add_points(data, **keywords)
            return f"\nshown as layer {added.name!r}"
        import napari

        where = f"space {request.to_space}" if request.to_space else f"the space of {request.transforms[-1]}"
        other = napari.Viewer(title=f"{name} of {request.path.name}")
        attend(other)
        native = (result.points - frame[:_AXES, -1]) @ np.linalg.inv(frame[:_AXES, :_AXES]).T
        found = PointList(np.empty((0, _AXES)), "native-voxel")
        keywords = points_layer(found, name, str(request.path), request.channel)[1]
        about = {key: value for key, value in keywords["metadata"]["lsfm"].items() if key != "points"}
        size = keywords["size"] * max(keywords["scale"])
        keywords |= {
            "scale": (1.0,) * _AXES,
            "translate": (0.0,) * _AXES,
            "features": columns,
            "size": size,
            "metadata": {"lsfm": about},
        }
        keywords.pop("affine", None)
        other.add_points(native, **keywords)
        return f"\nshown in a window of its own, since they lie in {where}"


def _regions(result: PointsResult, table: LabelTable) -> dict[str, list[Any]]:
    """What was found of the region of each point."""
    if result.region_ids is None:
        return {}
    ids = result.region_ids.tolist()
    names = {key: table[key].acronym or table[key].name if key in table else "" for key in {*ids}}
    return {"region_id": ids, "region": [names[key] if key else "" for key in ids]}


def _summary(result: PointsResult, columns: dict[str, list[Any]], warnings: Sequence[str]) -> str:
    """What came of it, in words."""
    count = len(result.points)
    lines = [f"{count} points in {result.seconds:.1f} s"]
    if result.region_ids is not None:
        inside = Counter(name or f"id {key}" for key, name in zip(columns["region_id"], columns["region"], strict=True) if key)
        most = ", ".join(f"{name} {number}" for name, number in inside.most_common(_NAMED))
        lines.append(f"{sum(inside.values())} of them in {len(inside)} regions{f': {most}' if most else ''}")
    lines += [path.name for path in (result.path, result.counts_path) if path is not None]
    return "\n".join([*lines, *(f"Warning: {warning}" for warning in warnings)])
