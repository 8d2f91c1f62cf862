"""What commands tell: in words, or results and plans as JSON for programs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

from lsfm_core.plain import plain

__all__ = ["add_json", "as_json", "nobody_listens", "print_json", "remark", "say", "tell", "warn"]

#: Shapes of arrays whose values are told: numbers, and affines.
_TOLD = ((), (4, 4))


def add_json(parser: Any) -> None:
    """The option of commands that can speak to programs."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def tell(arguments: argparse.Namespace, result: object, words: Callable[[], str]) -> None:
    """Say what a command has done, in the way that was asked for."""
    if arguments.json:
        print_json(as_json(result))
    elif not arguments.quiet:
        say(words())


def say(text: str) -> None:
    """Print, whether somebody still reads it or not: work that is not done yet must not end with the reader."""
    try:
        print(text)
    except BrokenPipeError:
        nobody_listens()


def nobody_listens() -> None:
    """Send what is left for stdout, and what follows, to nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def remark(text: str) -> None:
    """Say something beside the results, on one line of stderr."""
    print(plain(text), file=sys.stderr)


def warn(warnings: Iterable[str]) -> None:
    """Tell each warning, on a line of stderr."""
    for warning in warnings:
        remark(f"warning: {warning}")


def print_json(value: object) -> None:
    """In ASCII, which every terminal and every program reads."""
    print(json.dumps(value, indent=2))


def as_json(value: Any) -> Any:
    """A result or a plan as JSON has it: its fields by their names.

    Arrays are told by shape and type, for they stand in the output; chains of transforms in their own words.
    """
    from dataclasses import fields, is_dataclass

    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [as_json(item) for item in value]
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value) if not field.name.startswith("_")}
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return value.tolist() if value.shape in _TOLD else {"shape": list(value.shape), "dtype": str(value.dtype)}
    return value.describe().splitlines() if hasattr(value, "describe") else str(value)
