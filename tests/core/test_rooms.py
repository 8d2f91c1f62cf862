"""The table of rooms and their tests: nothing is missing in it, and the page for contributors shows it."""

from __future__ import annotations

from pathlib import Path

from ..rooms import CORE, PLUGIN, ROOT, found_by, slow_tests  # noqa: TID252 - pytest imports files by their paths


def test_every_module_has_a_room_and_every_test_is_found() -> None:
    for package, kind, table in (("lsfm_core", "core", CORE), ("napari_lsfm", "napari", PLUGIN)):
        source, tests = ROOT / "src" / package, ROOT / "tests" / kind
        rooms = {name for room in table.values() for name in room.modules.split()}
        files = {path.relative_to(source) for path in source.rglob("*.py*") if path.suffix in (".py", ".pyi")}
        assert {file for file in files if not {str(file), *map(str, file.parents)} & rooms} == set()
        meant = {name for room in table.values() for name in room.tests.split()}
        assert {path.stem.removeprefix("test_") for path in tests.glob("test_*.py")} - meant == set()


def test_the_page_shows_the_table() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text("utf-8")
    for room, (modules, tests) in {**CORE, **PLUGIN}.items():
        assert f"| {room} | `{'`, `'.join(modules.split())}` | {', '.join(tests.split())} |" in page


def test_what_was_touched_leads_to_its_tests() -> None:
    def names(found: list[Path]) -> list[str]:
        return [path.stem.removeprefix("test_") for path in found]

    found = found_by([], ["src/lsfm_core/spaces/_ways.py", "src/lsfm_core/spacesuit.py", "README.md", "tests/core/test_lazy.py"])
    assert (names(found["core"]), found["napari"]) == (["lazy", *CORE["spaces"].tests.split()], [])
    found = found_by(["pyramid", "writer"], [])
    assert (names(found["core"]), names(found["napari"])) == (["pyramid", "kernels"], ["writer"])
    assert slow_tests(ROOT / "tests" / "core" / "test_memory.py") > 5 > slow_tests(Path(__file__)) == 0
