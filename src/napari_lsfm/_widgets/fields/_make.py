"""Fields of requests as fields of forms, with the words and limits that stand in the request."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from magicgui.types import Undefined
from magicgui.widgets import Widget, create_widget
from pydantic import BaseModel

from napari_lsfm._widgets.fields._choice import Choice
from napari_lsfm._widgets.fields._numbers import Number, Numbers, OneOrThree
from napari_lsfm._widgets.fields._text import PathField, Text, Texts
from napari_lsfm._widgets.fields._tick import Tick

__all__ = ["make_field", "nested"]


def make_field(request: type[BaseModel], name: str, widget: type[Widget] | None = None, /, **options: Any) -> Widget:
    """The widget of a field of a request.

    Parameters
    ----------
    request : type of Request
    name : str
        Of the field; of a part of a nested request ``region.side``.
    widget : type of Widget, optional
        Default: what suits the field's type.
    **options
        Of the widget, before those that the request tells: its ``label``, ``name``, ``value`` and so on.

    Returns
    -------
    Widget
    """
    outer, _, inner = name.partition(".")
    info = request.model_fields[outer]
    if inner:
        return make_field(nested(request, outer), inner, widget, **options)
    suited, told = _suited(info)
    options = {"tooltip": info.description, "label": info.title, "name": outer} | (told if widget is None else {}) | options
    named = {key: options.pop(key) for key in ("name", "label")}
    value = options.pop("value", Undefined if info.is_required() else info.default)
    return create_widget(value, info.annotation, widget_type=widget or suited, options=options, **named)


def nested(request: type[BaseModel], name: str) -> type[BaseModel]:
    """The request that a field holds."""
    annotation = request.model_fields[name].annotation
    model: type[BaseModel] = next(part for part in _alternatives(annotation) if part is not type(None))
    return model


def _suited(info: Any) -> tuple[type[Widget], dict[str, Any]]:
    """What widget a field's type takes, and the options that the request tells."""
    extra = dict(info.json_schema_extra or {})
    parts = _alternatives(info.annotation)
    kinds = {get_origin(part) or part for part in parts}
    optional = type(None) in parts
    empty, unit, words = extra.get("empty", ""), extra.get("unit"), extra.get("words", {})
    limits = {name: value for limit in info.metadata for name in ("ge", "le") if (value := getattr(limit, name, None)) is not None}
    if bool in kinds:
        return Tick, {"text": words or ""}
    if Literal in kinds or {"ge", "le"} <= limits.keys():
        values = [value for part in parts if get_origin(part) is Literal for value in get_args(part)]
        values = values or list(range(limits["ge"], limits["le"] + 1))
        texts = [(words.get(value, words.get(str(value), str(value))), value) for value in values]
        return Choice, {"choices": [*([(empty or "none", None)] if optional else []), *texts]}
    if tuple in kinds and float in kinds:
        return OneOrThree, {"unit": unit, "empty": empty, "optional": optional}
    triples = [get_args(part) for part in parts if get_origin(part) is tuple and len(get_args(part)) == 3]
    if triples and Ellipsis not in triples[0]:
        axes = empty.split(", ") if empty else "RAS"
        return Numbers, {"unit": unit, "axes": axes, "optional": optional, "whole": int in triples[0]}
    if tuple in kinds:
        return Texts, {"empty": empty}
    if int in kinds and str not in kinds:
        return Number, {"unit": unit, "empty": empty, "whole": True, "optional": optional}
    if float in kinds:
        finite = any(getattr(limit, "allow_inf_nan", None) is False for limit in info.metadata)
        return Number, {"unit": unit, "empty": empty, "optional": optional, "finite": finite}
    if Path in kinds or Any in kinds:
        return PathField, {"empty": empty}
    return Text, {"empty": empty}


def _alternatives(annotation: Any) -> list[Any]:
    """What a type could be: the parts of a union, without what is only said about them."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        return [part for alternative in get_args(annotation) for part in _alternatives(alternative)]
    return [annotation]
