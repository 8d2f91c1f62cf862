"""The form that imports a registration: what was found, the spaces as they will be, and the proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lsfm_core import (
    CancelToken,
    Comparison,
    ImportRegistrationRequest,
    ImportReport,
    InputError,
    LsfmError,
    RegistrationPlan,
    SpaceGraph,
    compare_registration,
    describe_spaces,
    import_registration,
    open_lsfm,
    plan_registration,
    planned_spaces,
)
from napari_lsfm._reader import get_reader, present_layers
from napari_lsfm._widgets._comparison import show_comparison
from napari_lsfm._widgets._facts import FileFacts, origin_of, show_channel
from napari_lsfm._widgets.fields import Choice, ChoiceOrFile, FileField, PathsField, SpacePicture, Tick, Words, make_field
from napari_lsfm._widgets.forms._file_form import FileForm
from napari_lsfm._widgets.forms._sections import peek
from napari_lsfm._workers import Job, Latest

if TYPE_CHECKING:
    import napari
    from magicgui.widgets import Widget
    from qtpy.QtWidgets import QWidget

__all__ = ["RegistrationForm"]

#: Stands for the atlas' space as long as that has no name.
_ATLAS = "space of the atlas"
_IMAGES = "Images (*.nii *.nii.gz *.nrrd *.mha *.mhd *.tif *.tiff);;All files (*)"
_TABLES = "Label tables (*.txt *.csv *.tsv *.label *.json);;All files (*)"


@dataclass(frozen=True)
class Outlook:
    """What a dry run tells: what would be done, the spaces as they will be, and why it cannot be done yet."""

    plan: RegistrationPlan
    graph: SpaceGraph
    missing: str = ""


class RegistrationForm(FileForm):
    """Store a registration that another program has made, and prove it by the program's own result.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    request_type = ImportRegistrationRequest
    operation = "import-registration"
    action = "Import"
    width_hint = 420
    sections: ClassVar = {
        "Registration": ("registration", "tool", "found"),
        "Brain": ("path", "channel", "atlas_space", "name", "replace"),
        "Spaces as they will be": ("spaces",),
        "Proof": ("result", "moved", "prove", "show_comparison"),
        "Where the program does not tell": (
            "fixed", "atlas_image", "landmark_unit", "field_error_vox", "one_way", "mirrored", "labels", "labels_channel",
        ),
        "Work": ("memory_bytes", "threads"),
    }  # fmt: skip
    folded = ("Where the program does not tell", "Work")
    needed: ClassVar = {"registration": "registration", "channel": "channel", "atlas_space": "atlas space"}

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        self._lacks: tuple[str, ...] = ()
        self._known: Path | None = None
        self.found, self.spaces = Words(), SpacePicture()
        super().__init__(napari_viewer)
        self.atlas_space.native.lineEdit().setPlaceholderText("such as allen_mouse_25um")
        self.native.setAcceptDrops(True)
        self.native.dropped.connect(self._on_dropped)
        self.panel.finished.connect(self._on_finished)
        self.path.native.start(napari_viewer)

    def _make(self, name: str) -> Widget | tuple[str, QWidget, str]:
        match name:
            case "found":
                return "", self.found, "What was found, and what will be stored"
            case "spaces":
                return "", self.spaces, "The spaces of the file, with what comes in"
            case "registration":
                return make_field(ImportRegistrationRequest, name, PathsField)
            case "path":
                return make_field(ImportRegistrationRequest, name, FileField)
            case "channel":
                return make_field(ImportRegistrationRequest, name, Choice)
            case "atlas_space":
                return make_field(ImportRegistrationRequest, name, Choice, typed=True, choices=[("", None)])
            case "atlas_image":
                return make_field(ImportRegistrationRequest, name, ChoiceOrFile, choices=[("none", None)], pattern=_IMAGES)
            case "show_comparison":
                tip = "Show both images of the proof in a window: over each other, as a checkerboard, or in turn"
                return Tick(True, name=name, label="Show", text="both images in a window", tooltip=tip)
            case "result" | "moved":
                return make_field(ImportRegistrationRequest, name, pattern=_IMAGES)
            case "labels":
                return make_field(ImportRegistrationRequest, name, pattern=_TABLES)
        return make_field(ImportRegistrationRequest, name)

    def _on_dropped(self, paths: Sequence[str]) -> None:
        """Take a file of ours as the one that gets the registration, everything else as that."""
        ours = [path for path in paths if Path(path).is_file() and get_reader(path) is not None]
        if len(ours) > 1:
            self.panel.complain(f"{len(ours)} files were dropped that could get the registration: drop one of them at most.")
            return
        if ours:
            self.path.value = ours[0]
        others = [Path(path) for path in paths if path not in ours]
        if others:
            self.registration.value = others

    # --- what can be chosen -------------------------------------------------------------------------------------------------

    def _on_facts(self, facts: FileFacts) -> None:
        super()._on_facts(facts)
        with self._filling():
            # Not again, when the file was changed.
            keeps = self.channel.native.has_wish or facts.path == self._known
            self._known = facts.path
            images = facts.of_kind("image", "labels", "components")
            self.channel.offer((f"{name} ({facts.channels[name].kind})", name) for name in images)
            origin = origin_of(self._viewer.layers.selection.active)
            if origin is not None and origin["path"] == str(facts.path) and origin["channel"] in images and not keeps:
                self.channel.value = origin["channel"]
            self.atlas_space.offer([("", None), *((name, name) for name in facts.spaces)])
            self.atlas_image.offer([("none", None), *((name, name) for name in images)])
        pending, self._pending = self._pending, None
        if pending is not None:
            pending()
        self._changed()

    def __call__(self, request: ImportRegistrationRequest) -> None:
        """Show a request, as soon as its file was looked into."""

        def fill() -> None:
            super(RegistrationForm, self).__call__(request)

        self._once_known(request.path, fill)

    # --- the request --------------------------------------------------------------------------------------------------------

    def _missing(self) -> Sequence[str]:
        empty = [name for name in ("registration", "channel") if peek(self[name]) is None]
        return [*empty, *(name for name in self._lacks if peek(self[name]) is None)]

    def _hindrance(self) -> str:
        # The name of the atlas' space some programs tell.
        empty = [name for name in self._missing() if name not in self._lacks]
        if not empty:
            return ""
        self._forget()
        return f"Still to be given: {self._called(empty)}. Drop the program's folder here, or choose it."

    def _look_ahead(self) -> None:
        self._lacks = ()
        super()._look_ahead()

    def _plan(self, request: ImportRegistrationRequest, cancel: CancelToken) -> Outlook:
        missing = ""
        try:
            plan = plan_registration(request)
        except InputError as error:
            if request.atlas_space is not None or not str(error).startswith("atlas_space:"):
                raise
            missing = str(error)
            plan = plan_registration(request.model_copy(update={"atlas_space": _ATLAS}))
        with open_lsfm(request.path) as file:
            return Outlook(plan, planned_spaces(plan, describe_spaces(file)), missing)

    def _on_plan(self, outlook: Outlook) -> None:
        self._lacks = ("atlas_space",) if outlook.missing else ()
        super()._on_plan(outlook)
        self._enable(ready=not outlook.missing)

    def _say_plan(self, outlook: Outlook) -> None:
        plan = outlook.plan
        files = ", ".join(file.name for file in plan.found.files)
        inner, outer = plan.places[0], plan.places[-1]
        self.found.say(
            "\n".join(
                [f"{plan.found.tool}: {files}", *(step.describe() for step in plan.found.steps), f"from {inner!r} to {outer!r}"]
            )
        )
        self.spaces.show_graph(outlook.graph)
        new = [name for name in (*plan.names, *plan.inverses) if name is not None]
        self.spaces.mark(transforms=new)
        count = f"{len(new)} transform{'s' * (len(new) != 1)}"
        labels = f" and labels {plan.labels_channel!r}" if plan.labels_channel is not None else ""
        if outlook.missing:
            self.outlook.say(f"Found a registration of {plan.found.tool}. Still to be given: atlas space.")
        else:
            self.outlook.say(f"Stores {count}{labels} in {plan.path.name}, in one change.\nProof: {plan.evidence}")
        self._warn(plan.found.notes)

    def _complain(self, text: str) -> None:
        self._forget()
        super()._complain(text)

    def _forget(self) -> None:
        """Show nothing of what was found before."""
        self.found.say("")
        self.spaces.show_graph(None)

    # --- doing it -----------------------------------------------------------------------------------------------------------

    def _begin(self, request: ImportRegistrationRequest) -> Job:
        said, show = self._says(), self.show_comparison.value
        return self.panel.run(
            lambda progress, cancel: _import(request, show, progress, cancel),
            f"Import {request.channel}",
            lambda done: self._on_done(request, said, *done),
        )

    def _on_done(
        self, request: ImportRegistrationRequest, said: Any, report: ImportReport, comparison: Comparison | None, note: str
    ) -> str:
        proof = report.proof.describe() if report.proof is not None else f"not proven: {report.not_proven}"
        if self._says() == said:
            self._done = said, f"Done: {request.path.name} holds the registration of {report.tool}."
        if report.labels_channel is not None:
            self._show_labels(request.path, report.labels_channel)
        if comparison is not None:
            facts = FileFacts.read(request.path)
            show_comparison(comparison, facts.frame(request.channel), f"{request.path.name}: proof", proof)
        stored = ", ".join(link.name for link in report.transforms)
        lines = [f"Imported in {report.seconds:.1f} s: {stored}", proof, note, *(f"Warning: {text}" for text in report.warnings)]
        return "\n".join(line for line in lines if line)

    def _show_labels(self, path: Path, channel: str) -> None:
        opener = Latest(self.native)
        opener.answered.connect(lambda layers: show_channel(self._viewer, layers, channel))
        opener.failed.connect(self.panel.complain)
        opener.ask(lambda _: present_layers(path))

    def _on_finished(self) -> None:
        try:
            self.path.native.look_now()
        except LsfmError as error:
            self._on_failed(str(error))


def _import(
    request: ImportRegistrationRequest, show: bool, progress: Any, cancel: Any
) -> tuple[ImportReport, Comparison | None, str]:
    """The work itself; where both images cannot be shown, the import is made all the same."""
    report = import_registration(request, progress=progress, cancel=cancel)
    if report.proof is None or not show:
        return report, None, ""
    try:
        return report, compare_registration(request, progress=progress, cancel=cancel), ""
    except LsfmError as error:
        return report, None, f"The images are not shown: {error}"
