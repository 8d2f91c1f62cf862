"""The form that shows a channel through transforms, without exporting it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lsfm_core import CancelToken, Channel, ExportRequest, LsfmError
from napari_lsfm._linked import link
from napari_lsfm._through import add_view, open_view, space_of, windows
from napari_lsfm._widgets._facts import FileFacts
from napari_lsfm._widgets.fields import Choice, ChoiceOrFile, make_field
from napari_lsfm._widgets.forms._export_work import by
from napari_lsfm._widgets.forms._transform_form import TransformForm
from napari_lsfm._workers import Job, in_words

if TYPE_CHECKING:
    import napari
    from magicgui.widgets import Widget
    from qtpy.QtWidgets import QWidget

__all__ = ["ThroughForm"]

_REFERENCES = "Images (*.nii *.nii.gz *.nrrd *.mha);;All files (*)"


class ThroughForm(TransformForm):
    """Show a channel in another space: a layer that computes what is looked at."""

    request_type = ExportRequest
    operation = "export"
    action = "Show"
    sections: ClassVar = {
        "Image": ("path", "channel", "orientation"),
        "In another space": ("to_space", "via", "transforms", "reference", "resolution_mm"),
        "Where": ("window",),
    }

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        # What is looked at is no command: an export of the same is one.
        self.copy.hide()
        self._is_new = True
        layers = napari_viewer.layers.events
        self._listen(self._on_layers, layers.inserted, layers.removed)
        self._show_rows(False, "orientation")
        self._on_layers()
        self.path.native.start(napari_viewer)

    def _make(self, name: str) -> Widget | tuple[str, QWidget, str]:
        match name:
            case "reference":
                return make_field(ExportRequest, name, ChoiceOrFile, choices=[("none", None)], pattern=_REFERENCES)
            case "window":
                tip = "In a linked window the same place of the brain is shown as in this one, whichever of them is moved"
                return Choice("linked", name=name, label="Window", tooltip=tip, choices=windows(self._viewer))
        return super()._make(name)

    def _show_request(self, request: ExportRequest) -> None:
        self._is_new = False
        super()._show_request(request)

    # --- what can be chosen -------------------------------------------------------------------------------------------------

    def _on_layers(self, event: Any = None) -> None:
        self.window.offer(windows(self._viewer))

    def _offer_of(self, channel: Channel, facts: FileFacts) -> None:
        if self._is_new and not self._leaves:
            # An atlas, if there is one: where labels lie, and the image does not.
            labels = {other.space_name for other in facts.channels.values() if other.kind == "labels"}
            others = [space for space in facts.spaces if space in labels - {channel.space_name}]
            self.to_space.value = next(iter(others), None)
        self._is_new = False

    def _on_chain(self) -> None:
        self._changed()

    def _plan(self, request: ExportRequest, cancel: CancelToken) -> Any:
        return open_view(request)[1]

    def _say_plan(self, view: Any) -> None:
        size = by(view.space.voxel_size_mm)
        levels = f"{len(view.levels)} resolution{'s' if len(view.levels) > 1 else ''}"
        way = ", ".join(view.through) or "no transform"
        voxels = f"{by(view.shape)} voxels of {size} mm, in {levels}"
        self.outlook.say("\n".join((voxels, f"through {way}", "planes are computed when they are looked at")))
        self._warn(view.warnings)
        self.transforms.native.say(view.chain.describe() if view.chain.transforms else "")

    def _begin(self, request: ExportRequest) -> Job:
        target = self.window.value

        return self.panel.run(
            lambda **_: open_view(request), f"Show {request.channel}", lambda found: self._on_opened(request, target, *found)
        )

    def _on_opened(self, request: ExportRequest, target: Any, file: Any, view: Any) -> str:
        """Add the layers."""
        space = request.to_space or space_of(file, view)
        viewer = target
        if target in ("new", "linked"):
            import napari

            viewer = napari.Viewer(title=f"{request.channel} in {space or 'its own space'}")
        try:
            said = f"shown as layer {add_view(viewer, file, view, space)[0].name!r}"
        except LsfmError as error:
            if viewer is not target:
                viewer.close()
            return f"Not shown: {in_words(error)}"
        if target == "linked":
            try:
                said += f"; {link(self._viewer, viewer)}"
            except LsfmError as error:
                said += f"; not linked: {in_words(error)}"
        return said


def show_through(viewer: napari.viewer.Viewer, request: ExportRequest) -> ThroughForm:
    """Open the form with the way and the grid of a request, as other forms offer it."""
    dock, form = viewer.window.add_plugin_dock_widget("napari-lsfm", "Show in another space", tabify=True)
    dock.show()
    dock.raise_()
    form(request)
    opened: ThroughForm = form
    return opened
