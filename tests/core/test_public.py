"""The menu: what `lsfm_core` offers, and that the core stands without a GUI."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import lsfm_core
from lsfm_core import errors


def test_every_name_on_the_menu_exists_and_is_documented() -> None:
    for name in lsfm_core.__all__:
        assert getattr(lsfm_core, name).__doc__, name
    assert lsfm_core.__all__ == sorted(lsfm_core.__all__, key=lambda name: (name[0].islower(), name))
    assert dir(lsfm_core) == sorted(lsfm_core.__all__)


def test_type_checkers_read_the_same_menu() -> None:
    package = Path(lsfm_core.__file__).parent
    assert (package / "py.typed").is_file()
    named = [node for node in ast.parse((package / "__init__.pyi").read_text()).body if isinstance(node, ast.ImportFrom)]
    # In a stub, only what is named twice is public.
    assert all(alias.asname == alias.name for node in named for alias in node.names)
    assert [alias.name for node in named for alias in node.names] == sorted(
        lsfm_core.__all__, key=lambda name: (room_of(name), name)
    )
    for node in named:
        assert all(room_of(alias.name) == node.module for alias in node.names)


def room_of(name: str) -> str:
    """Where a public thing is defined, or for types that are aliases, where it is at home."""
    module: str = getattr(getattr(lsfm_core, name), "__module__", "")
    assert module.startswith("lsfm_core."), name
    return module.split(".")[1]


def test_importing_it_enters_no_room() -> None:
    script = "import sys, lsfm_core; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "h5py", "pydantic", "typing"} & {*modules}
    assert [name for name in modules if name.startswith("lsfm_core.")] == []


def test_the_recipe_for_conda_asks_for_what_pip_does() -> None:
    root = Path(__file__).parents[2]
    wanted = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    listed = yaml.safe_load((root / "conda.recipe" / "recipe.yaml").read_text("utf-8"))["requirements"]["run"]
    # It calls one of them otherwise.
    names = [line.replace("python-isal", "isal").replace(" ", "") for line in listed]
    assert names == ["python>=3.11", *(line.lower().replace("_", "-") for line in wanted)]


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="frobnicate"):
        lsfm_core.frobnicate  # noqa: B018


def test_every_error_is_on_the_menu_and_in_the_tree() -> None:
    tree = [value for value in vars(errors).values() if isinstance(value, type) and value.__module__ == errors.__name__]
    assert {error.__name__ for error in tree} <= set(lsfm_core.__all__)
    assert errors.__doc__ is not None
    for error in tree:
        assert error.__name__ in errors.__doc__
        assert issubclass(error, errors.LsfmError)
        assert str(error("a message")) == "a message"


def test_the_core_imports_no_gui() -> None:
    script = """
import sys, importlib, pkgutil, lsfm_core
for module in pkgutil.walk_packages(lsfm_core.__path__, "lsfm_core."):
    importlib.import_module(module.name)
print(*sys.modules)
"""
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"napari", "qtpy", "magicgui", "PyQt6", "PySide6"} & {name.split(".")[0] for name in modules}
