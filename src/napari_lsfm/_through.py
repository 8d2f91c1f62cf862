"""Channels seen through transforms: opened, and put into a window of the user's choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lsfm_core import ChannelView, ExportRequest, InputError, LsfmFile, Orientation, TransformStep, open_lsfm, view_channel
from napari_lsfm import _reader
from napari_lsfm._layers import native_frame, view_tuples
from napari_lsfm._settings import current_settings
from napari_lsfm._viewing import attend, attended, shown_axcodes

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

__all__ = ["add_view", "open_view", "space_of", "space_shown", "windows"]

#: Of a request: what a view is asked for by other names.
_NAMED = frozenset({"path", "channel", "transforms", "to_space", "via", "reference"})


def open_view(request: ExportRequest) -> tuple[LsfmFile, ChannelView]:
    """A channel as a request would have it exported, and the file that it is read from, which stays open with it.

    Raises
    ------
    LsfmError
        As `lsfm_core.view_channel`.
    """
    cache = _reader.chunk_cache()
    cache.max_bytes = current_settings().cache_mib * 2**20
    file = open_lsfm(request.path, cache=cache, max_read_bytes=_reader.MAX_READ_BYTES, detached=True)
    others = {name: getattr(request, name) for name in request.model_fields_set - _NAMED}
    way: dict[str, Any] = {"to": request.to_space, "via": request.via} if request.to_space else {"through": request.transforms}
    return file, view_channel(file, request.channel, **way, grid=request.reference, **others)


def add_view(viewer: ViewerModel, file: LsfmFile, view: ChannelView, space: str | None) -> list[Layer]:
    """Add the layers of a view to a viewer, along the axes of what that shows.

    Parameters
    ----------
    viewer : napari.Viewer
    file, view
        As `open_view` gives them.
    space : str or None
        What the space is called where the view lies.

    Raises
    ------
    InputError
        If the viewer shows layers of which one lies otherwise than another.
    """
    attend(viewer)
    native = Orientation(shown_axcodes(viewer) or native_frame(file, file[view.channel]).axcodes)
    told = {layer.metadata.get("lsfm", {}).get("axcodes") for layer in viewer.layers} - {None}
    if len(told) > 1:
        raise InputError(f"layers of this window lie along different axes ({', '.join(sorted(told))}): choose a window of its own")
    return [
        getattr(viewer, f"add_{kind}")(data, **keywords)
        for data, keywords, kind in view_tuples(file, view, native, through=view.through, space=space)
    ]


def space_of(file: LsfmFile, view: ChannelView) -> str | None:
    """The recorded name of the space that a view's transforms lead to; None where it is not known."""
    if not view.through:
        return file[view.channel].space_name
    step = TransformStep.parse(view.through[-1])
    owner, slash, name = step.name.rpartition("/")
    owner = owner if slash else view.channel
    sides = None
    if owner in file and name in file[owner].affines:
        sides = file.affine_sides(owner, name)
    elif step.name in file and file[step.name].kind == "vectors":
        sides = file.field_sides(step.name)
    return None if sides is None else sides.inner if step.invert else sides.outer


def space_shown(viewer: ViewerModel) -> str | None:
    """The space that the views of a viewer lie in; None if they tell of none, or of several."""
    views = [layer.metadata.get("lsfm", {}).get("view") for layer in viewer.layers]
    spaces = {view["space"] for view in views if view}
    return spaces.pop() if len(spaces) == 1 else None


def windows(viewer: ViewerModel) -> list[tuple[str, Any]]:
    """The windows in which a view can be shown, each with its text: this one, others that show our layers, and new ones (None)."""
    # napari hands proxies to plugins.
    own = getattr(viewer, "__wrapped__", viewer)
    others = [other for other in attended() if other is not own and other.layers]
    return [
        ("a window of its own, linked", "linked"),
        ("a window of its own", "new"),
        ("this window", own),
        *((f"{other.title}: {space_shown(other) or other.layers[0].name}", other) for other in others),
    ]
