"""The command that tells how far an output is that is made in shards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lsfm_core.cli._exit import Exit
from lsfm_core.cli._json import add_json, tell
from lsfm_core.cli._options import add_verb

__all__ = ["add_commands"]


def add_commands(verbs: Any) -> None:
    """Let the parser know the command of this module."""
    status = add_verb(
        verbs, "status", _status, "tell which items of an output made in shards are done, missing or damaged",
        "lsfm-core status chunks/",
    )  # fmt: skip
    status.add_argument("output", metavar="OUTPUT", help="as --output named it: a file, a folder or a pattern")
    add_json(status)


def _status(arguments: argparse.Namespace) -> int:
    from lsfm_core.parallel import shards_status

    status = shards_status(Path(arguments.output))
    tell(arguments, status, status.describe)
    return Exit.DONE if status.complete else Exit.INTEGRITY if status.count("damaged") else Exit.FAILED
