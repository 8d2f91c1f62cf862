"""The base of request objects: one per operation, filled alike by the command line, widgets, scripts and recipes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lsfm_core.errors import InputError

__all__ = ["Request"]


class Request(BaseModel):
    """A frozen, validated request; unknown fields are refused.

    Raises
    ------
    InputError
        That names every field which is wrong, all at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False, ser_json_inf_nan="strings")

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            defects = []
            for item in error.errors():
                cause = item.get("ctx", {}).get("error")
                place = ".".join(str(part) for part in item["loc"])
                # Our own messages name the field already.
                defects.append(str(cause) if isinstance(cause, InputError) else f"{place}: {item['msg'].lower()}")
            raise InputError("; ".join(defects)) from error
