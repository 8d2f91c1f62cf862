"""Would the tests notice? Plants small faults in the core, one at a time, and lists those that the tests of the place do not find.

``make mutants``, or ``python tests/mutants.py [ROOM …]``: LSFM_MUTANTS faults (60), drawn by LSFM_SEED (1) from the rooms (all).
What cosmic-ray turns, exchanges or counts one further is planted in a copy of the project, never here; a place that may be
changed in several ways is drawn as often as any other. Those tests of the room come first that reach the line, as coverage
saw them do; all others only where these find nothing.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from coverage import Coverage, CoverageData
from rooms import CORE

ROOT = Path(__file__).parents[1]

#: Of types, of what is not run, and identity where equality is meant, which is the same of small numbers.
WITHOUT = re.compile(r"BitOr|Variable|RemoveDecorator|Comparison\w*_(Eq|NotEq|Lt|LtE|Gt|GtE)_Is")
#: Seconds for the tests of a line, half of those for the tests of a room.
LIMIT = 300
OPTIONS = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
#: What all children use, and no fault changes.
PRELOADED = "dask.array h5py hypothesis.extra.numpy nibabel pandas pydantic SimpleITK tifffile xarray zarr"


class Mutant(NamedTuple):
    module: str
    line: int
    before: str
    after: str

    @property
    def changed(self) -> list[str]:
        return list(difflib.unified_diff(self.before.splitlines(), self.after.splitlines(), lineterm="", n=0))[3:]


def draw(root: Path, room: str, number: int, dice: random.Random) -> list[Mutant]:
    """Places are drawn first, then what is done to each."""
    places = defaultdict(list)
    for name in CORE[room].modules.split():
        path = root / "src/lsfm_core" / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path] * (path.suffix == ".py"):
            nodes = list(ast_nodes(get_ast(file.read_text(encoding="utf-8"))))
            for operator in filter(lambda name: not WITHOUT.search(name), operator_names()):
                planter = get_operator(operator)()
                positions = [start for node in nodes for start, _ in planter.mutation_positions(node)]
                for occurrence, place in enumerate(positions):
                    places[file, place].append((operator, occurrence))
    drawn = []
    for file, place in dice.sample(sorted(places), min(number, len(places))):
        operator, occurrence = dice.choice(places[file, place])
        before = file.read_text(encoding="utf-8")
        after = mutate_code(before, get_operator(operator)(), occurrence)
        with contextlib.suppress(SyntaxError):  # rare, and nobody would need to find it
            compile(after, file, "exec")
            drawn.append(Mutant(str(file.relative_to(root)), place[0], before, after))
    return drawn


def statement(source: str, line: int) -> set[int]:
    """The lines of the smallest statement around one, without what stands indented below it."""
    found = {line}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= node.end_lineno:
            inner = [child.lineno for child in getattr(node, "body", [])]
            lines = set(range(node.lineno, min([node.end_lineno + 1, *inner])))
            found = lines if line in lines else found
    return found


class Contexts:
    """Tells coverage which test runs; fixtures, which may serve others too, count as none."""

    def __init__(self, coverage: Coverage) -> None:
        self.coverage = coverage

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        self.coverage.switch_context(item.nodeid.partition("[")[0])
        yield
        self.coverage.switch_context("")


class Copy:
    """The project in a folder of its own, where faults are planted."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.clock = 10**9
        self.data, self.known = CoverageData(no_disk=True), set()
        shutil.copytree(ROOT, self.root, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "demo"), symlinks=True)
        if (ROOT.parent / "shared").exists():
            (folder / "shared").symlink_to((ROOT.parent / "shared").resolve())
        (folder / "tmp").mkdir()
        for name in [name for name in os.environ if name.startswith("LSFM_")]:  # a soak's numbers
            del os.environ[name]
        # CI: hypothesis draws the same each time, and lets examples take the time that they take.
        os.environ |= {"PYTHONPATH": str(self.root / "src"), "TMPDIR": str(folder / "tmp"), "CI": "true", "LSFM_KILLS": "1"}
        for name in PRELOADED.split():
            importlib.import_module(name)

    def write(self, module: str, text: str) -> None:
        path = self.root / module
        path.write_text(text, encoding="utf-8")
        # Python knows compiled code by seconds and size, which may well stay the same.
        self.clock += 10
        os.utime(path, (self.clock, self.clock))

    def run(self, tests: list[str], limit: float, measured: bool = False) -> tuple[str, str]:
        """What became of it, and the first test that failed."""
        child = multiprocessing.get_context("fork").Process(target=self._run, args=(tests, measured))
        child.start()
        child.join(limit)
        late = child.is_alive()
        with contextlib.suppress(ProcessLookupError):  # and whatever the tests have started
            os.killpg(child.pid, signal.SIGKILL)
        child.join()
        text = (self.root / "output").read_text()
        if late or child.exitcode == 0:
            return ("timed out" if late else "survived"), ""
        failed = re.findall(r"^(?:FAILED|ERROR) (.*)", text, re.MULTILINE)
        return "killed", (failed or text.strip().splitlines()[-1:] or [""])[0]

    def _run(self, tests: list[str], measured: bool) -> None:
        os.setsid()
        os.chdir(self.root)
        tempfile.tempdir = None
        sys.path.insert(0, str(self.root / "src"))
        output = os.open("output", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if measured:
            coverage = Coverage("coverage.data", source=["src/lsfm_core"], config_file=False)
            with coverage.collect():
                code = pytest.main([*OPTIONS, *tests], [Contexts(coverage)])
            coverage.save()
        else:
            code = pytest.main([*OPTIONS, *tests])
        sys.stdout.flush()
        os._exit(code)

    def reached(self, files: list[str]) -> CoverageData:
        """Which tests reach which line, when there is no fault; files are run once."""
        if new := [file for file in files if file not in self.known]:
            outcome, failed = self.run(new, 7200, measured=True)
            if outcome != "survived":
                sys.exit(f"without any fault: {outcome}: {failed}")
            data = CoverageData(str(self.root / "coverage.data"))
            data.read()
            self.data.update(data)
            self.known.update(new)
        return self.data


def main(rooms: list[str]) -> None:
    number, seed = int(os.environ.get("LSFM_MUTANTS", "60")), os.environ.get("LSFM_SEED", "1")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        for index, room in enumerate(rooms):
            mutants = draw(copy.root, room, (number + index) // len(rooms), random.Random(f"{seed} {room}"))
            files = [f"tests/core/test_{name}.py" for name in CORE[room].tests.split()]
            data = copy.reached(files) if mutants else copy.data
            outcomes = found[room] = []
            print(f"{room}: {len(mutants)} faults, drawn by seed {seed}; without them all tests pass", flush=True)
            for mutant in mutants:
                lines = data.contexts_by_lineno(str(copy.root / mutant.module))
                contexts = {context for line in statement(mutant.before, mutant.line) for context in lines.get(line, ())}
                # In the order of files, for what they share.
                chosen = [test for file in files for test in sorted(contexts) if test.startswith(f"{file}::")]
                copy.write(mutant.module, mutant.after)
                outcome, by = copy.run(chosen, LIMIT) if chosen else ("survived", "")
                # Others may reach it by children, or by fixtures.
                if outcome == "survived":
                    outcome, by = copy.run(files, 2 * LIMIT)
                copy.write(mutant.module, mutant.before)
                outcomes.append(outcome)
                print(f"{outcome}: {mutant.module}:{mutant.line} {by}", *mutant.changed, sep="\n    ", flush=True)
    for room, outcomes in found.items():
        survived = outcomes.count("survived")
        print(f"{room}: {len(outcomes) - survived} of {len(outcomes)} found, {outcomes.count('timed out')} of them by time")


if __name__ == "__main__":
    main(sys.argv[1:] or list(CORE))
