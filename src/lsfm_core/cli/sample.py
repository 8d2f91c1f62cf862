"""The command that makes a specimen to try the others on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lsfm_core.cli._json import say
from lsfm_core.cli._options import add_verb

__all__ = ["add_commands"]


def add_commands(verbs: Any) -> None:
    """Let the parser know the command of this module."""
    sample = add_verb(
        verbs,
        "sample",
        _sample,
        "write a synthetic specimen, for the examples of the manual",
        "lsfm-core sample specimen",
    )
    sample.add_argument("folder", help="the folder to make")


def _sample(arguments: argparse.Namespace) -> None:
    from lsfm_core.sample import write_sample

    written = write_sample(Path(arguments.folder))
    if not arguments.quiet:
        say("\n".join([f"{arguments.folder}:", *(f"  {name}: {what}" for name, what in written.items())]))
