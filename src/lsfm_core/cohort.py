"""A recipe carried out for each of many files, which know nothing of each other: those that fail do not keep the others from it.

What was done of each is kept in a folder beside the recipe, ``RECIPE.lsfm-run``, a small file for each: so a run goes on where
another has stopped, wherever that was.
"""

from __future__ import annotations

import glob
import hashlib
import json
import multiprocessing
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lsfm_core.durable import write_file
from lsfm_core.errors import CancelledError, InputError, LsfmError
from lsfm_core.parallel import Division, Item, Maker, Share, carry_out, shard_range
from lsfm_core.progress import CancelToken, Progress, ProgressCallback
from lsfm_core.provenance import sha256
from lsfm_core.recipes import Recipe, Work, read_recipe
from lsfm_core.threads import limit_threads

__all__ = ["Cohort", "FileRow", "cohort_of", "run_cohort", "values_of"]

_PLACE = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class FileRow:
    """How a recipe went for one file.

    Attributes
    ----------
    file : str
        As its pattern has found it.
    steps : int
        That are done, in this run or before.
    of : int
        That the recipe has.
    seconds : float
    error : str
        Why it did not go on; "" if all is done.
    warnings : tuple of str
    """

    file: str
    steps: int
    of: int
    seconds: float
    error: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cohort:
    """A recipe and the files that it is for.

    Attributes
    ----------
    recipe : Path
        Absolute.
    files : tuple of Path
        Absolute.
    changes : tuple of (str, str)
        Fields and their values, in which ``{stem}``, ``{name}``, ``{folder}`` and ``{path}`` stand for those of a file.
    """

    recipe: Path
    files: tuple[Path, ...]
    changes: tuple[tuple[str, str], ...]

    def recipe_for(self, file: Path) -> Recipe:
        """The recipe for one of the files.

        Raises
        ------
        LsfmError
            As `read_recipe`.
        """
        return read_recipe(self.recipe, file=str(file), changes=values_of(dict(self.changes), file))


def values_of(changes: Mapping[str, str], file: Path | None = None) -> dict[str, Any]:
    """Values as a recipe has them, of texts in which names in braces stand for those of a file.

    Raises
    ------
    InputError
    """
    return {key: _value(text, file) for key, text in changes.items()}


def cohort_of(recipe: Path, patterns: Sequence[str], changes: Mapping[str, str]) -> Cohort:
    """Find the files, and check the recipe for all of them before any is touched.

    Raises
    ------
    InputError
        If a pattern finds nothing, the recipe is wrong, or two files would make the same.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        paths = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))  # noqa: PTH111
        if not paths:
            raise InputError(f"--files {pattern}: there is no such file")
        found |= dict.fromkeys(Path(os.path.abspath(path)) for path in paths)  # noqa: PTH100
    cohort = Cohort(Path(os.path.abspath(recipe)), tuple(found), tuple(changes.items()))  # noqa: PTH100
    made: dict[Path, Path] = {}
    for file in cohort.files:
        for step in cohort.recipe_for(file).steps:
            output = getattr(step.request, "output", None)
            if output is None:
                continue
            output = cohort.recipe.parent / output
            if made.setdefault(output, file) != file:
                raise InputError(
                    f"{cohort.recipe}: {step.place}: output: {output} would be made of {made[output].name} and of {file.name}: put "
                    "{stem} into its name (--set output=...)"
                )
    return cohort


def run_cohort(
    cohort: Cohort,
    *,
    resume: bool = False,
    executor: Executor | None = None,
    jobs: int = 1,
    shard: str | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> tuple[FileRow, ...]:
    """Carry a recipe out for each file.

    Parameters
    ----------
    cohort : Cohort
    resume : bool
        Pass over what an earlier run has done of the same recipe.
    executor : concurrent.futures.Executor, optional
        Who does it; else `jobs` processes of this machine, or this one.
    jobs : int
    shard : str, optional
        Of the files, ``"2/3"`` the second third.
    progress : callable, optional
        Counts files.
    cancel : CancelToken, optional

    Returns
    -------
    tuple of FileRow
        One for each file, in their order.

    Raises
    ------
    CancelledError
    LsfmError
    """
    files = cohort.files if shard is None else cohort.files[slice(*shard_range(len(cohort.files), shard))]
    place = _place(cohort)
    place.mkdir(exist_ok=True)
    work = _Files(cohort, resume)
    done = {file: row for file in files if resume and (row := _known(cohort, file)) is not None and not row.error}
    items = [Item(number, str(file)) for number, file in enumerate(files) if file not in done]
    report = Progress("files", len(items), progress, cancel)
    # The recipe's paths are meant from its folder, by all who work on it.
    with chdir(cohort.recipe.parent), _executor(executor, jobs) as workers:
        for _ in carry_out(work, items, workers, place, report):
            pass
    rows = (done.get(file) or _known(cohort, file) for file in files)
    return tuple(row for row in rows if row is not None)


@contextmanager
def _executor(executor: Executor | None, jobs: int) -> Iterator[Executor]:
    if executor is not None:
        yield executor
    elif jobs > 1:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield pool
    else:
        with ThreadPoolExecutor(1, thread_name_prefix="lsfm-cohort") as thread:
            yield thread


@dataclass(frozen=True)
class _Files(Division):
    """Each file an item, whose row is written where all see it."""

    cohort: Cohort
    resume: bool

    @contextmanager
    def opened(self, share: Share) -> Iterator[Maker]:
        if share.tasks == 1 and multiprocessing.parent_process() is not None:
            limit_threads(share.threads)

        def make(item: Item, _: Path, cancel: CancelToken) -> list[Path]:
            _run(self.cohort, Path(item.name), self.resume, cancel)
            return []

        yield make


def _run(cohort: Cohort, file: Path, resume: bool, cancel: CancelToken) -> None:
    before = _known(cohort, file) if resume else None
    done = 0 if before is None else before.steps
    began, spent = time.perf_counter(), 0.0 if before is None else before.seconds
    warnings: list[str] = [] if before is None else [*before.warnings]
    steps = 0

    def note(error: str) -> None:
        seconds = round(spent + time.perf_counter() - began, 3)
        _write(cohort, FileRow(str(file), done, steps, seconds, error, tuple(warnings)))

    try:
        recipe = cohort.recipe_for(file)
        steps = len(recipe.steps)
        with Work(recipe.file) as work:
            for step in recipe.steps[done:]:
                place = step.place
                try:
                    result = work.run(step, cancel=cancel)
                except CancelledError:
                    note(f"{place}: stopped")
                    raise
                except LsfmError as error:
                    note(f"{place}: {error}")
                    return
                warnings += [f"{place}: {warning}" for warning in getattr(result, "warnings", ())]
                done += 1
                note("" if done == steps else "stopped")
    except CancelledError:
        raise
    except LsfmError as error:
        note(str(error))
    except Exception as error:  # noqa: BLE001 (the other files are not to suffer from it)
        note(f"unexpected {type(error).__name__}: {error}: this is a bug")


def _place(cohort: Cohort) -> Path:
    return cohort.recipe.with_name(f"{cohort.recipe.name}.lsfm-run")


def _row_path(cohort: Cohort, file: Path) -> Path:
    token = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    return _place(cohort) / f"{file.name}-{token}.json"


def _asked(cohort: Cohort) -> str:
    """What tells this recipe, with its changes, from others."""
    return hashlib.sha256(json.dumps([sha256(cohort.recipe), cohort.changes]).encode()).hexdigest()


def _known(cohort: Cohort, file: Path) -> FileRow | None:
    with suppress(OSError, ValueError, TypeError, LookupError):
        known = json.loads(_row_path(cohort, file).read_text("utf-8"))
        if known.pop("asked") == _asked(cohort):
            return FileRow(**{**known, "warnings": tuple(known["warnings"])})
    return None


def _write(cohort: Cohort, row: FileRow) -> None:
    text = json.dumps({"asked": _asked(cohort), **row.__dict__}) + "\n"
    write_file(_row_path(cohort, Path(row.file)), text.encode(), shared=True)


def _value(text: str, file: Path | None) -> Any:
    """The value of a field: with a file's names in the places for them, or else as YAML has it."""
    if file is None or not _PLACE.search(text):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {text}: is no value: {' '.join(str(error).split())}") from error
    known = {"stem": file.stem, "name": file.name, "folder": str(file.parent), "path": str(file)}
    unknown = [name for name in _PLACE.findall(text) if name not in known]
    if unknown:
        there = ", ".join(f"{{{name}}}" for name in known)
        raise InputError(f"--set {text}: {{{unknown[0]}}} stands for nothing; there are {there}")
    return _PLACE.sub(lambda match: known[match[1]], text)
