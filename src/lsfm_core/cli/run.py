"""The command that carries a recipe out."""

from __future__ import annotations

import argparse
import json
from contextlib import chdir, nullcontext
from pathlib import Path
from typing import Any

from lsfm_core.cli._options import add_verb, bar
from lsfm_core.errors import LsfmError

__all__ = ["add_commands"]


def add_commands(verbs: Any) -> None:
    """Let the parser know the commands of this module."""
    run = add_verb(
        verbs, "run", _run, "carry out a recipe: several exports, as a YAML file lists them",
        "lsfm-core run exports.yaml --dry-run",
    )  # fmt: skip
    run.add_argument("recipe", metavar="RECIPE", help="YAML file with file: and steps:; its paths are meant from its folder")
    run.add_argument("--dry-run", action="store_true", help="print what would be done, and stop")
    run.add_argument("--schema", action=_Schema, help="print the JSON Schema of recipes, and exit")


def _run(arguments: argparse.Namespace) -> None:
    from lsfm_core.recipes import read_recipe
    from lsfm_core.store import open_lsfm

    recipe = read_recipe(Path(arguments.recipe))
    with chdir(recipe.path.parent), nullcontext() if recipe.file is None else open_lsfm(recipe.file) as file:
        for step in recipe.steps:
            try:
                if arguments.dry_run:
                    print(f"{step.place}: {step.request.output}\n{step.operation.describe(step.request, file)}")
                    continue
                with bar(arguments) as progress:
                    result = step.operation.run(step.request, file, progress, arguments.cancel)
            except LsfmError as error:
                raise type(error)(f"{recipe.path}: {step.place}: {error}") from error
            if not arguments.quiet:
                print(f"{step.place}: {step.request.output} in {result.seconds:.1f} s")


class _Schema(argparse.Action):
    def __init__(self, option_strings: Any, dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from lsfm_core.recipes import recipe_schema

        print(json.dumps(recipe_schema(), indent=2))
        parser.exit()
