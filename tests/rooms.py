"""Which tests are meant for which room: for ``make test-quick``, ``make mutants``, and whoever looks for them.

``python tests/rooms.py [ROOM …]`` runs the quick tests of the rooms; without any, of those that were touched since the branch left
main: all of their tests but those that are marked ``slow``, which take more than two seconds each.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Room(NamedTuple):
    #: Files or folders below src/lsfm_core, or src/napari_lsfm.
    modules: str
    #: tests/core/test_….py, or tests/napari/test_….py: those that find most come first.
    tests: str


CORE = {
    "arrays": Room("arrays", "lazy ahead detached"),
    "cli": Room("cli", "cli verbs export_command interactive lsfmpy"),
    "cohort": Room("cohort.py", "cohort"),
    "confinement": Room("confinement.py hdf5_links.py hdf5_damage.py", "hostile surroundings"),
    "durable": Room("durable", "safety surroundings detached resume outputs crashes faults"),
    "edits": Room("edits.py", "edit operations"),
    "export": Room("export", "export export_errors export_words slices labels_exact views exactness boxes components memory"),
    "fields": Room("formats/_field.py", "fields"),
    "filters": Room("hdf5_filters.py", "hdf5_sources"),
    "formats": Room("formats images.py", "sources sinks lab_images boxes components hdf5_sources return"),
    "geometry": Room("geometry.py", "geometry export transforms"),
    "info": Room("info.py", "info"),
    "ingest": Room("ingest", "plan_ingest ingest resume components memory"),
    "kernels": Room("kernels threads.py", "kernels pyramid"),
    "lines": Room("xml_text.py plain.py tables.py records.py", "xml_text label_tables points metadata"),
    "menu": Room("__init__.py __init__.pyi errors.py progress.py _request.py", "public rooms"),
    "metadata": Room("metadata.py", "metadata"),
    "parallel": Room("parallel", "parallel"),
    "points": Room("export/points.py export/point_files.py", "points point_files"),
    "preview": Room("preview", "preview"),
    "provenance": Room("provenance.py", "provenance cli"),
    "pyramid": Room("pyramid.py", "pyramid kernels"),
    "recipes": Room("recipes.py", "recipes operations"),
    "regions": Room("regions", "regions label_tables region_table"),
    "register": Room("register", "register"),
    "resample": Room("resample", "kernels labels_exact export transforms"),
    "sample": Room("sample.py testing.py", "readme"),
    "space_map": Room("space_map.py", "space_map"),
    "spaces": Room("spaces", "spaces"),
    "store": Room("store", "link digests store bdv_xml bdv_settings edit foreign repack oracles"),
    "transforms": Room("transforms", "transforms elastix fields"),
    "upgrade": Room("upgrade.py", "lsfmpy"),
}
PLUGIN = {
    "forms": Room(
        "_widgets _words.py", "forms export_widget info_widget ingest_widget region_widget registration_form points_form tree"
    ),
    "layers": Room("_layers.py _arrows.py _labels.py _sample.py _preference.py", "layers spaces"),
    "plain": Room("_plain.py _commands.py", "plain"),
    "points of layers": Room("_points.py", "points_layers"),
    "reader": Room("_reader.py", "reader"),
    "through": Room("_through.py _positions.py _linked.py", "through"),
    "viewing": Room("_viewing.py _settings.py", "viewing stepping"),
    "views": Room("_views.py", "views"),
    "window": Room("__init__.py napari.yaml _window.py _workers.py _failures.py", "window"),
    "writer": Room("_writer.py", "writer"),
}
_KINDS = (("core", "lsfm_core", CORE), ("napari", "napari_lsfm", PLUGIN))


def touched() -> list[str]:
    """Files that differ from where the branch left main, committed or not."""

    def git(*words: str) -> list[str]:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")

    (base, *_) = git("merge-base", "HEAD", "main")
    new = git("ls-files", "--others", "--exclude-standard", "src", "tests")
    return [*filter(None, git("diff", "--name-only", base)), *filter(None, new)]


def found_by(rooms: list[str], files: list[str]) -> dict[str, list[Path]]:
    """The files of tests that are meant for rooms, and for files of the project; those of tests stand for themselves."""
    found: dict[str, list[Path]] = {}
    for kind, package, table in _KINDS:
        names: list[str] = []
        for name, room in table.items():
            places = [f"src/{package}/{module}" for module in room.modules.split()]
            hit = any(file == place or file.startswith(f"{place}/") for file in files for place in places)
            names += room.tests.split() if name in rooms or hit else []
        own = [Path(file).stem.removeprefix("test_") for file in files if file.startswith(f"tests/{kind}/test_")]
        paths = [ROOT / "tests" / kind / f"test_{name}.py" for name in dict.fromkeys([*own, *names])]
        found[kind] = [path for path in paths if path.exists()]
    return found


def slow_tests(path: Path) -> int:
    """How many functions of a file are marked so."""
    marks = [ast.unparse(mark) for node in ast.parse(path.read_text("utf-8")).body for mark in getattr(node, "decorator_list", ())]
    return marks.count("pytest.mark.slow")


def main(rooms: list[str]) -> int:
    if unknown := set(rooms) - CORE.keys() - PLUGIN.keys():
        sys.exit(f"no room {', '.join(sorted(unknown))}; there are: {', '.join([*CORE, *PLUGIN])}")
    chosen = found_by(rooms, [] if rooms else touched())
    if not any(chosen.values()):
        sys.exit("nothing was touched since the branch left main: name rooms (ROOMS=…)")
    code, left_out = 0, 0
    for kind, paths in chosen.items():
        python = ROOT / (".venv/bin/python" if kind == "core" else ".venv-napari/bin/python")
        if not paths:
            continue
        if not python.exists():
            print(f"left out, for {python.parents[1].name} is not made: {', '.join(path.stem for path in paths)}")
            continue
        print(f"== {kind}: {' '.join(path.stem.removeprefix('test_') for path in paths)}", flush=True)
        command = [python, "-m", "pytest", "-q", "-m", "not slow", "-n", "auto", "--dist", "worksteal", *paths]
        environment = {**os.environ, **({"QT_QPA_PLATFORM": "xcb"} if kind == "napari" else {})}
        ended = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        code = code or (0 if ended == 5 else ended)  # 5: all were slow
        left_out += sum(map(slow_tests, paths))
    print(f"{left_out} slow tests of these files were left out: make test runs them")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
