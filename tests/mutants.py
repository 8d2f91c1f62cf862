"""Would the tests notice? Plants small faults in the core, one at a time, and lists those that the tests of the place do not find.

``make mutants``, or ``python tests/mutants.py [ROOM …]``: LSFM_MUTANTS faults (60), drawn by LSFM_SEED (1) from the rooms (all).
What cosmic-ray turns, exchanges or counts one further is planted in a copy of the project, never here; a place that may be
changed in several ways is drawn as often as any other. First those tests of the room are run that reach the line, as coverage
saw them do, then all of the room's.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from coverage import CoverageData

ROOT = Path(__file__).parents[1]

#: Modules of src/lsfm_core, and the quicker of the tests that are meant for them (tests/core/test_….py).
ROOMS = {
    "confinement": ("confinement.py", "hostile surroundings"),
    "durable": ("durable", "safety surroundings detached resume outputs"),
    "export": ("export/_blocks.py export/plan.py", "export export_errors export_words slices labels_exact"),
    "fields": ("formats/_field.py", "fields"),
    "geometry": ("geometry.py", "geometry export transforms"),
    "info": ("info.py", "info"),
    "ingest": ("ingest/_slabs.py ingest/plan.py", "plan_ingest ingest resume components"),
    "lines": ("xml_text.py plain.py tables.py records.py", "xml_text label_tables points metadata"),
    "metadata": ("metadata.py", "metadata"),
    "provenance": ("provenance.py", "provenance cli"),
    "pyramid": ("pyramid.py", "pyramid edit"),
    "regions": ("regions", "regions label_tables"),
    "resample": ("resample.py", "labels_exact export transforms"),
    "spaces": ("spaces.py", "spaces"),
    "store": ("store/_chunks.py store/_digest.py store/verify.py store/_xml.py", "lazy digests store bdv_xml edit foreign"),
    "transforms": ("transforms", "transforms elastix fields"),
}
#: Of types, of what is not run, and identity where equality is meant, which is the same of small numbers.
WITHOUT = re.compile(r"BitOr|Variable|RemoveDecorator|Comparison\w*_(Eq|NotEq|Lt|LtE|Gt|GtE)_Is")
#: Seconds for the tests of a line, half of those for the tests of a room.
LIMIT = 300


class Mutant(NamedTuple):
    room: str
    module: str
    line: int
    before: str
    after: str

    @property
    def text(self) -> str:
        lines = difflib.unified_diff(self.before.splitlines(), self.after.splitlines(), lineterm="", n=0)
        return "\n".join(f"    {line}" for line in lines if line[:2] not in ("--", "++", "@@"))


def draw(room: str, number: int, dice: random.Random) -> list[Mutant]:
    """Places are drawn first, then what is done to each."""
    places = defaultdict(list)
    for name in ROOMS[room][0].split():
        path = ROOT / "src/lsfm_core" / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            nodes = list(ast_nodes(get_ast(file.read_text(encoding="utf-8"))))
            for operator in filter(lambda name: not WITHOUT.search(name), operator_names()):
                planter = get_operator(operator)()
                positions = [start for node in nodes for start, _ in planter.mutation_positions(node)]
                for occurrence, place in enumerate(positions):
                    places[file, place].append((operator, occurrence))
    drawn = []
    for place in dice.sample(sorted(places), min(number, len(places))):
        file, (line, _) = place
        operator, occurrence = dice.choice(places[place])
        before = file.read_text(encoding="utf-8")
        after = mutate_code(before, get_operator(operator)(), occurrence)
        drawn.append(Mutant(room, str(file.relative_to(ROOT)), line, before, after))
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


class Copy:
    """The project in a folder of its own, where faults are planted."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.clock = 10**9
        shutil.copytree(ROOT, self.root, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "demo"), symlinks=True)
        if (ROOT.parent / "shared").exists():
            (folder / "shared").symlink_to((ROOT.parent / "shared").resolve())
        (folder / "tmp").mkdir()
        # CI: hypothesis draws the same each time, and lets examples take the time that they take.
        ours = {"PYTHONPATH": str(self.root / "src"), "TMPDIR": str(folder / "tmp"), "CI": "true"}
        self.environment = {"LSFM_KILLS": "1", **os.environ, **ours}

    def write(self, module: str, text: str) -> None:
        path = self.root / module
        path.write_text(text, encoding="utf-8")
        # Python knows compiled code by seconds and size, which may well stay the same.
        self.clock += 10
        os.utime(path, (self.clock, self.clock))

    def run(self, tests: list[str], limit: float, *before: str) -> tuple[str, str]:
        """What became of it, and the first test that failed."""
        command = [sys.executable, *before, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        with (self.root / "output").open("w+") as output:
            child = subprocess.Popen(
                command, cwd=self.root, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )
            try:
                code = child.wait(limit)
            except subprocess.TimeoutExpired:
                return "timed out", ""
            finally:
                with contextlib.suppress(ProcessLookupError):  # and whatever the tests have started
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            output.seek(0)
            text = output.read()
        failed = re.findall(r"^(?:FAILED|ERROR) (.*)", text, re.MULTILINE)
        return ("survived" if code == 0 else "killed"), (failed or text.strip().splitlines()[-1:] or [""])[0]

    def reached(self, files: list[str]) -> CoverageData:
        """Which tests reach which line, when there is no fault."""
        settings = self.root / "coveragerc"
        settings.write_text("[run]\ndynamic_context = test_function\nsource = src/lsfm_core\ndata_file = coverage.data\n")
        outcome, failed = self.run(files, 7200, "-m", "coverage", "run", f"--rcfile={settings}")
        if outcome != "survived":
            sys.exit(f"without any fault: {outcome}: {failed}")
        data = CoverageData(str(self.root / "coverage.data"))
        data.read()
        return data


def main(rooms: list[str]) -> None:
    number, seed = int(os.environ.get("LSFM_MUTANTS", "60")), os.environ.get("LSFM_SEED", "1")
    mutants = [
        mutant
        for index, room in enumerate(rooms)
        for mutant in draw(room, (number + index) // len(rooms), random.Random(f"{seed} {room}"))
    ]
    tests = {room: [f"tests/core/test_{name}.py" for name in ROOMS[room][1].split()] for room in {m.room for m in mutants}}
    found = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        data = copy.reached(list(dict.fromkeys(file for files in tests.values() for file in files)))
        print(f"{len(mutants)} faults, drawn by seed {seed}; without them all tests pass", flush=True)
        for mutant in mutants:
            lines = data.contexts_by_lineno(str(copy.root / mutant.module))
            contexts = {context for line in statement(mutant.before, mutant.line) for context in lines.get(line, ())}
            # "tests.core.test_geometry.test_codes" is how coverage calls it; files in their order, for what they share.
            names = {tuple(context.rsplit(".", 2)[1:]) for context in contexts if ".test_" in context}
            files = tests[mutant.room]
            chosen = [f"{file}::{test}" for file in files for name, test in sorted(names) if Path(file).stem == name]
            copy.write(mutant.module, mutant.after)
            outcome, by = copy.run(chosen, LIMIT) if chosen else ("survived", "")
            if outcome == "survived":
                outcome, by = copy.run(files, 2 * LIMIT)
            copy.write(mutant.module, mutant.before)
            found[mutant.room].append(outcome)
            print(f"{outcome}: {mutant.module}:{mutant.line} {by}\n{mutant.text}", flush=True)
    for room, outcomes in found.items():
        survived = outcomes.count("survived")
        print(f"{room}: {len(outcomes) - survived} of {len(outcomes)} found, {outcomes.count('timed out')} of them by time")


if __name__ == "__main__":
    main(sys.argv[1:] or list(ROOMS))
