"""Commands about what users noted of a file and its channels."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._json import add_json, print_json
from lsfm_core.cli._options import add_request, add_verb, apply
from lsfm_core.errors import InputError, check_file

if TYPE_CHECKING:
    from lsfm_core.edits import AddMetadataRequest, RemoveMetadataRequest

__all__ = ["add_commands"]


def add_commands(verbs: Any) -> None:
    """Let the parser know the commands of this module."""
    add = add_verb(
        verbs, "add-metadata", apply, "note something of a file or of a channel: texts, numbers, lists, objects",
        "lsfm-core add-metadata brain.h5 --channel autofluo specimen=mouse-42 'stain=anti c-Fos'",
    )  # fmt: skip
    _add_owner(add)
    add.add_argument("pairs", nargs="*", default=[], metavar="KEY=VALUE", help="any number of them; or KEY VALUE")
    add.add_argument("--type", choices=("text", "number", "json"), default="text", help="how values are meant (default text)")
    add.add_argument("--from-json", metavar="FILE", help="note all pairs of the JSON object in this file")
    add.add_argument("--overwrite", action="store_true", help="replace values that are there")
    add_request(add, _add_request)

    get = add_verb(
        verbs, "get-metadata", _get, "show what was noted of a file or of a channel",
        "lsfm-core get-metadata brain.h5 --channel autofluo specimen",
    )  # fmt: skip
    _add_owner(get)
    get.add_argument("key", nargs="?", metavar="KEY", help="print the value of this one only")
    add_json(get)

    remove = add_verb(
        verbs, "remove-metadata", apply, "remove what was noted of a file or of a channel",
        "lsfm-core remove-metadata brain.h5 --channel autofluo specimen",
    )  # fmt: skip
    _add_owner(remove)
    remove.add_argument("key", metavar="KEY", help="what to remove")
    add_request(remove, _remove_request)


def _add_owner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="the HDF5 file, or its BigDataViewer XML")
    parser.add_argument("--channel", metavar="NAME", help="of this channel (default: of the whole file)")


def _add_request(arguments: argparse.Namespace) -> AddMetadataRequest:
    from lsfm_core.edits import AddMetadataRequest

    values = _from_file(arguments.from_json) if arguments.from_json is not None else {}
    values.update({key: _value(key, text, arguments.type) for key, text in _pairs(arguments.pairs)})
    if not values:
        raise InputError("nothing to note: give KEY VALUE, KEY=VALUE or --from-json FILE")
    return AddMetadataRequest(path=arguments.file, channel=arguments.channel, values=values, overwrite=arguments.overwrite)


def _get(arguments: argparse.Namespace) -> None:
    from lsfm_core.store import open_lsfm

    with open_lsfm(arguments.file) as file:
        values = dict(file.metadata(arguments.channel))
    if arguments.key is not None:
        if arguments.key not in values:
            raise InputError(f"{arguments.file}: no metadata {arguments.key!r}; there are: {', '.join(values) or 'none'}")
        value = values[arguments.key]
        if arguments.json:
            print_json(value)
        else:
            print(_text(value))
    elif arguments.json:
        print_json(values)
    else:
        for key, value in values.items():
            print(f"{key}: {_text(value)}")


def _remove_request(arguments: argparse.Namespace) -> RemoveMetadataRequest:
    from lsfm_core.edits import RemoveMetadataRequest

    return RemoveMetadataRequest(path=arguments.file, channel=arguments.channel, key=arguments.key)


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    if len(words) == 2 and "=" not in words[0]:
        return [(words[0], words[1])]
    pairs = [word.partition("=") for word in words]
    for key, equals, _ in pairs:
        if not equals:
            raise InputError(f"{key!r}: expected KEY=VALUE, or one KEY and its VALUE alone (in quotes if it has blanks)")
    return [(key, value) for key, _, value in pairs]


def _value(key: str, text: str, kind: str) -> Any:
    if kind == "text":
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{key}: {text!r} cannot be read as {kind}: {error}") from error
    # JSON's true is a number in Python.
    if kind == "number" and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise InputError(f"{key}: {text!r} is no number: leave --type out for a text, or say --type json")
    return value


def _from_file(name: str) -> dict[str, Any]:
    check_file(name)
    try:
        with open(name, encoding="utf-8") as file:
            values = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{name}: expected a JSON object, whose keys are noted")
    return values


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
