"""The command that carries a recipe out."""

from __future__ import annotations

import argparse
import time
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsfm_core.cli._exit import Exit
from lsfm_core.cli._json import add_json, as_json, print_json, remark, say, warn
from lsfm_core.cli._options import PrintSchema, add_dask, add_verb, bar, dask_of, outlook_json
from lsfm_core.errors import InputError, LsfmError

if TYPE_CHECKING:
    from lsfm_core.cohort import Cohort

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
    cohort = run.add_argument_group("for many files")
    cohort.add_argument(
        "--files",
        action="append",
        metavar="PATTERN",
        help="carry the recipe out for each file of a pattern, such as 'cohort/*.h5', instead of its own; repeat it for several",
    )
    cohort.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of the step that has it, or of one: 2.output or export.output; file is the recipe's file; {stem}, {name}, "
        "{folder} and {path} in the value stand for those of each file",
    )
    cohort.add_argument("--jobs", type=int, default=1, metavar="N", help="so many files at the same time, in processes (default 1)")
    cohort.add_argument("--continue", dest="resume", action="store_true", help="pass over what an earlier run has done")
    cohort.add_argument("--shard", metavar="I/N", help="only this part of the files, such as 2/3, the second third")
    add_dask(run)
    run.add_argument(
        "--schema", action=PrintSchema, schema="recipes.recipe_schema", help="print the JSON Schema of recipes, and exit"
    )


def _run(arguments: argparse.Namespace) -> int:
    from lsfm_core.cohort import values_of
    from lsfm_core.recipes import Work, read_recipe

    if arguments.files is not None:
        return _run_cohort(arguments)
    given = {"--jobs": arguments.jobs != 1, "--continue": arguments.resume, "--shard": arguments.shard is not None}
    for option in (option for option, is_given in given.items() if is_given):
        raise InputError(f"{option}: is for many files: name them (--files), or leave it out")
    recipe = read_recipe(Path(arguments.recipe), changes=values_of(_changes(arguments)))
    told: list[dict[str, Any]] = []
    talks = not (arguments.quiet or arguments.json)
    with (
        dask_of(arguments, lambda: [] if recipe.file is None else [recipe.path.parent / recipe.file]) as executor,
        chdir(recipe.path.parent),
        Work(recipe.file) as work,
    ):
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
                    result = work.run(step, executor=executor, progress=progress, cancel=arguments.cancel)
            except LsfmError as error:
                raise type(error)(f"{recipe.path}: {step.place}: {error}") from error
            warn(f"{step.place}: {warning}" for warning in getattr(result, "warnings", ()))
            told.append({"step": step.place, "operation": step.name, "result": as_json(result)})
            if talks:
                say(f"{named} in {time.perf_counter() - began:.1f} s")
    if arguments.json:
        print_json(told)
    return Exit.DONE


def _run_cohort(arguments: argparse.Namespace) -> int:
    from lsfm_core.cohort import cohort_of, run_cohort
    from lsfm_core.parallel import check_shard

    cohort = cohort_of(Path(arguments.recipe), arguments.files, _changes(arguments))
    if arguments.jobs < 1:
        raise InputError(f"--jobs: must be at least 1, found {arguments.jobs}")
    if arguments.jobs > 1 and arguments.dask is not None:
        raise InputError("--jobs and --dask: either processes of this machine do it, or Dask's workers")
    if arguments.dry_run:
        return _show_cohort(arguments, cohort)
    shard = None if arguments.shard is None else check_shard(arguments.shard)
    with dask_of(arguments, lambda: [file for file in cohort.files if file.is_file()]) as executor, bar(arguments) as progress:
        rows = run_cohort(
            cohort,
            resume=arguments.resume,
            executor=executor,
            jobs=arguments.jobs,
            shard=shard,
            progress=progress,
            cancel=arguments.cancel,
        )
    for row in rows:
        warn(f"{Path(row.file).name}: {warning}" for warning in row.warnings)
    if arguments.json:
        print_json(as_json(rows))
    elif not arguments.quiet:
        width = max((len(Path(row.file).name) for row in rows), default=4)
        say(f"{'file':<{width}}  steps  seconds  error")
        for row in rows:
            say(f"{Path(row.file).name:<{width}}  {f'{row.steps}/{row.of}':>5}  {row.seconds:>7.1f}  {row.error}".rstrip())
    failed = [row for row in rows if row.error]
    if failed:
        remark(f"lsfm-core run: {len(failed)} of {len(rows)} files failed; --continue goes on with them: {failed[0].error}")
    return Exit.FAILED if failed else Exit.DONE


def _show_cohort(arguments: argparse.Namespace, cohort: Cohort) -> int:
    from lsfm_core.recipes import Work

    told = []
    with chdir(cohort.recipe.parent):
        for file in cohort.files:
            recipe = cohort.recipe_for(file)
            with Work(recipe.file) as work:
                for step in recipe.steps:
                    outlook = work.plan(step)
                    told.append({"file": str(file), "step": step.place, **outlook_json(step, outlook)})
                    if not (arguments.quiet or arguments.json):
                        say(f"{file.name}: {step.place}\n{outlook.text}")
    if arguments.json:
        print_json(told)
    return Exit.DONE


def _changes(arguments: argparse.Namespace) -> dict[str, str]:
    pairs = [text.partition("=") for text in arguments.changes]
    for key, equals, _ in pairs:
        if not equals or not key:
            raise InputError(f"--set {key}: expected FIELD=VALUE")
    return {key: value for key, _, value in pairs}
