"""What forms share that carry something into another space: the choice of the space, and the transforms that lead there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsfm_core import Channel, SpaceGraph, TransformRequest, Way, describe_spaces, find_way, open_lsfm
from napari_lsfm._points import channel_in_view
from napari_lsfm._widgets._facts import FileFacts
from napari_lsfm._widgets.fields import ChainField, Choice, FileField, Listed, SpaceField, make_field
from napari_lsfm._widgets.forms._file_form import FileForm
from napari_lsfm._widgets.forms._sections import peek
from napari_lsfm._workers import Latest

if TYPE_CHECKING:
    import napari
    from magicgui.widgets import Widget
    from qtpy.QtWidgets import QWidget

__all__ = ["TransformForm"]


class TransformForm(FileForm):
    """A form of a `TransformRequest`: of what goes from an image to another space, an export or points.

    Where a space is chosen, the transforms are those that the core finds; to change them by hand is to choose no space.
    """

    request_type: type[TransformRequest]

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        #: The transforms that were found, and which of them are inverted numerically.
        self._found: tuple[Any, ...] = ()
        self._numeric: tuple[str, ...] = ()
        self._no_way = ""
        self._is_looking = False
        super().__init__(viewer)
        draw = self.to_space.native.picture.show_graph
        # What is wrong with the file, others say.
        self._graphs = Latest(self.native, answered=draw, failed=lambda _: draw(None))
        self._finder = Latest(self.native, answered=self._on_way, failed=self._on_no_way)
        self.channel.changed.connect(self._on_channel)
        self.to_space.changed.connect(self._on_space)
        self.via.changed.connect(self._look_for_way)
        self.transforms.changed.connect(self._on_transforms)
        self.to_space.native.picture.picked.connect(self._on_picked)
        self._show_rows(False, "via")

    def _make(self, name: str) -> Widget | tuple[str, QWidget, str]:
        if name == "via":
            return make_field(self.request_type, name, Listed, empty="the shortest way", value=None)
        kinds = {"path": FileField, "channel": Choice, "to_space": SpaceField, "transforms": ChainField}
        return make_field(self.request_type, name, kinds.get(name) or (Choice if name.endswith("labels_in") else None))

    @property
    def is_busy(self) -> bool:
        """Whether the form looks into its file, has not yet said what will come of what it says, or is at work."""
        return self._graphs.is_busy or self._is_looking or super().is_busy

    def __call__(self, request: TransformRequest) -> None:
        """Show a request, as soon as its file was looked into."""
        self._when_known(request.path, request.channel, lambda: self._show_request(request))

    def _when_known(self, path: Path, channel: str, fill: Callable[[], None]) -> None:
        def apply() -> None:
            with self._filling():
                self.channel.value = channel
                fill()
            self._on_channel()

        self._once_known(path, apply)

    def _show_request(self, request: TransformRequest) -> None:
        if request.to_space is not None and self._facts is not None:
            self._offer_spaces(self._facts, request.to_space)
        self.transforms.native.allow_numeric(bool(request.numeric_inverse))
        super().__call__(request)
        self._found, self._numeric = (), request.numeric_inverse

    def _on_left(self) -> None:
        super()._on_left()
        self._graphs.forget()
        self._finder.forget()
        self._is_looking = False
        self.to_space.native.picture.show_graph(None)

    def _on_facts(self, facts: FileFacts) -> None:
        super()._on_facts(facts)
        self._offer_spaces(facts)
        self._graphs.ask(lambda _: _graph(facts.path))
        with self._filling():
            is_wished = self.channel.native.has_wish
            self.channel.offer((f"{name} ({channel.kind})", name) for name, channel in facts.channels.items())
            shown = channel_in_view(self._viewer)
            if shown is not None and shown[0] == str(facts.path) and not is_wished:
                self.channel.value = shown[1]
            none = [("none", None)]
            labels = self.get_widget("labels_channel")
            if labels is not None:
                labels.offer([*(none if None in labels.choices else ()), *facts.of_kind("labels")])
            self.reference.offer([*none, *facts.channels])
        fill, self._pending = self._pending or self._on_channel, None
        fill()

    def _on_channel(self) -> None:
        chosen = self.channel.native
        if self._facts is None or chosen.chosen is None or chosen.has_wish:
            self._changed()
            return
        channel = self._facts.channels[self.channel.value]
        with self._filling():
            self.transforms.native.set_facts(self._facts, channel.name)
            self._show_rows(channel.orientation is None, "orientation")
            self._offer_of(channel, self._facts)
        self._on_chain()
        self._look_for_way()

    def _offer_of(self, channel: Channel, facts: FileFacts) -> None:
        """Offer what there is to choose of a channel."""
        raise NotImplementedError

    def _offer_spaces(self, facts: FileFacts, *more: str) -> None:
        with self._filling():
            # A channel stands for the space that it lives in, if a request says so.
            extra = [name for name in more if name in facts.channels and name not in facts.spaces]
            self.to_space.offer([("none: as it lies, or by transforms", None), *((name, name) for name in (*facts.spaces, *extra))])

    # --- the way ------------------------------------------------------------------------------------------------------------

    @property
    def _leaves(self) -> bool:
        """Whether the result lies elsewhere than the image."""
        return self._space is not None or bool(self.transforms.value)

    @property
    def _space(self) -> str | None:
        space: str | None = peek(self.to_space)
        return space

    def _on_space(self, *_: object) -> None:
        self._show_rows(self._space is not None, "via")
        if not self._is_filling:
            self._numeric = ()
            if self._space is None and self.transforms.value == self._found:
                self._take_steps(())
            self._look_for_way()

    def _on_picked(self, box: Any) -> None:
        """A transform that is clicked decides between ways."""
        if box.kind != "space" and self._space is not None:
            self.via.value = (box.names[0],)

    def _look_for_way(self, *_: object) -> None:
        self._no_way = ""
        self.to_space.native.picture.mark(() if self._space is None else (self._space,))
        space, channel, via, facts = self._space, peek(self.channel), peek(self.via) or (), self._facts
        if self._is_filling or space is None or channel is None or facts is None:
            self._finder.forget()
            self._is_looking = False
            self.transforms.native.ask_numeric(False)
            return
        lone = self.transforms.native.fields_without_inverse
        may_invert = self.transforms.native.is_numeric_allowed
        self._is_looking = True
        self._finder.ask(lambda _: _search(facts.path, channel, space, via, lone if may_invert else ()))
        self._changed()

    def _on_way(self, way: Way) -> None:
        self._is_looking = False
        self._take_steps(way.steps)
        stems = [step.removesuffix(":invert") for step in way.steps]
        self.to_space.native.picture.mark(way.spaces, stems)
        self.transforms.native.ask_numeric(bool(self.transforms.native.numeric_inverse))
        self._changed()

    def _on_no_way(self, message: str) -> None:
        self._is_looking = False
        self._take_steps(())
        self._no_way = f"To space: {message}"
        self.transforms.native.ask_numeric("--numeric-inverse" in message)
        self._changed()

    def _take_steps(self, steps: tuple[str, ...]) -> None:
        with self._filling():
            self.transforms.value = steps
        self._found, self._numeric = self.transforms.value, self.transforms.native.numeric_inverse
        self._on_chain()

    def _on_transforms(self, *_: object) -> None:
        if not self._is_filling and self._space is not None:
            if self.transforms.value == self._found:
                # Whether fields may be inverted has changed.
                self._look_for_way()
                return
            with self._filling():
                self.to_space.value = None
        self._on_chain()

    def _on_chain(self) -> None:
        """The transforms are others, and with them the spaces in which labels can lie."""
        places = self.get_widget("labels_in")
        if places is not None:
            names = [step.name for step in self.transforms.value]
            between = [(f"behind {name}", name) for name in names[:-1]]
            places.offer([("image", "native"), *between, *([("output", "output")] if names else [])])

    # --- the request --------------------------------------------------------------------------------------------------------

    def _given(self) -> dict[str, Any]:
        given = super()._given()
        if given["to_space"] is None:
            return given | {"via": (), "numeric_inverse": self.transforms.native.numeric_inverse}
        return given | {"via": given.get("via") or (), "transforms": (), "numeric_inverse": self._numeric}

    def _hindrance(self) -> str:
        return "…" if self._is_looking else super()._hindrance()

    def _look_ahead(self) -> None:
        if self._no_way:
            self._complain(self._no_way)
        else:
            super()._look_ahead()


def _graph(path: Path) -> SpaceGraph:
    with open_lsfm(path) as file:
        return describe_spaces(file)


def _search(path: Path, channel: str, space: str, via: tuple[str, ...], invertible: tuple[str, ...]) -> Way:
    with open_lsfm(path) as file:
        return find_way(file, channel, space, via, invertible=invertible)
