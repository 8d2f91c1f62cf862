"""The command that carries a recipe out."""

from __future__ import annotations

import argparse
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

from lsfm_core.cli._json import add_json, as_json, print_json, say, warn
from lsfm_core.cli._options import PrintSchema, add_verb, bar, outlook_json
from lsfm_core.errors import LsfmError

__all__ = ["add_commands"]


def add_commands(verbs: Any) -> None:
    """Let the parser know the commands of this module."""
    run = add_verb(
        verbs, "run", _run, "carry out a recipe: several commands, as a YAML file lists them",
        "lsfm-core run recipe.yaml --dry-run",
    )  # fmt: skip
    run.add_argument("recipe", metavar="RECIPE", help="YAML file with file: and steps:; its paths are meant from its folder")
    add_json(run)
    run.add_argument("--dry-run", action="store_true", help="print what would be done, and stop")
    run.add_argument(
        "--schema", action=PrintSchema, schema="recipes.recipe_schema", help="print the JSON Schema of recipes, and exit"
    )


def _run(arguments: argparse.Namespace) -> None:
    from lsfm_core.recipes import Work, read_recipe

    recipe = read_recipe(Path(arguments.recipe))
    told: list[dict[str, Any]] = []
    talks = not (arguments.quiet or arguments.json)
    with chdir(recipe.path.parent), Work(recipe.file) as work:
        for step in recipe.steps:
            began = time.perf_counter()
            arguments.done, arguments.step = work.done, step
            output = getattr(step.request, "output", None)
            named = step.place if output is None else f"{step.place}: {output}"
            try:
                if arguments.dry_run:
                    outlook = work.plan(step)
                    told.append({"step": step.place, **outlook_json(step, outlook)})
                    if talks:
                        say(f"{named}\n{outlook.text}")
                    continue
                with bar(arguments) as progress:
                    result = work.run(step, progress=progress, cancel=arguments.cancel)
            except LsfmError as error:
                raise type(error)(f"{recipe.path}: {step.place}: {error}") from error
            warn(f"{step.place}: {warning}" for warning in getattr(result, "warnings", ()))
            told.append({"step": step.place, "operation": step.name, "result": as_json(result)})
            if talks:
                say(f"{named} in {time.perf_counter() - began:.1f} s")
    if arguments.json:
        print_json(told)
