"""The base of request objects: one per operation, filled alike by the command line, widgets, scripts and recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lsfm_core.errors import InputError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["Request", "told"]

#: What is wrong with a value, by pydantic's names for it; the values of `ctx` are put in.
_DEFECTS = {
    "missing": "is missing",
    "extra_forbidden": "is unknown",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_too_short": "is empty",
    "too_short": "is empty",
    "too_long": "has more than {max_length} values",
}


def told(
    default: Any,
    title: str,
    description: str,
    *,
    unit: str | None = None,
    empty: str | None = None,
    words: str | dict[Any, str] | None = None,
    **limits: Any,
) -> Any:
    """A field of a request with the words that forms, the command line's help and JSON schemas say of it.

    Parameters
    ----------
    default : Any
        ``...`` if it has none.
    title : str
        What a form calls it.
    description : str
        What it is for, to be read after the title; begins with a capital letter, has no full stop.
    unit : str, optional
        Of lengths and sizes, as people type them.
    empty : str, optional
        What is meant where nothing is given.
    words : str or dict of str, optional
        Beside a check box; or what the choices are called, where that is not what they are.
    **limits : Any
        As `pydantic.Field` takes them.
    """
    extra: dict[str, Any] = {"unit": unit, "empty": empty, "words": words}
    known = {name: value for name, value in extra.items() if value is not None}
    return Field(default, title=title, description=description, json_schema_extra=known or None, **limits)


class Request(BaseModel):
    """A frozen, validated request; unknown fields are refused.

    Raises
    ------
    InputError
        That names every field which is wrong, all at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False, ser_json_inf_nan="strings")

    def __init__(self, **fields: Any) -> None:
        # Path("") would be the working directory.
        empty = [f"{name}: is empty" for name, value in fields.items() if isinstance(value, str) and not value]
        if empty:
            raise InputError("; ".join(empty))
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise InputError("; ".join(dict.fromkeys(map(_defect, error.errors())))) from error


def _defect(item: ErrorDetails) -> str:
    """One thing that is wrong, in words that suit whoever has filled the request: a command line, a form, a recipe."""
    context = item.get("ctx", {})
    if isinstance(context.get("error"), InputError):
        # Our own messages name the field already.
        return str(context["error"])
    field, *parts = item["loc"] or ("request",)
    place = str(field).removesuffix("_bytes").removesuffix("_mm")
    # Texts among the parts are types, of which the value could have been any.
    place += "".join(f", value {part + 1}" for part in parts if isinstance(part, int))
    what = _DEFECTS.get(item["type"])
    return f"{place}: {item['msg'].lower() if what is None else what.format(**context)}"
