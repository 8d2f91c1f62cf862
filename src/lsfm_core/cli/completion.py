"""Completion of command lines: a few lines for each shell, which ask this program what could come next.

The parser is asked rather than printed into the scripts, so that they never grow old, and know the channels of the file at hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lsfm_core.cli._options import add_verb

__all__ = ["add_commands", "candidates"]

# Each gives the words up to the cursor, the last of them perhaps empty, with a = before each, so that none is taken for an option
# of this command. Where there are no candidates the shell offers files.
_SCRIPTS = {
    "bash": r"""_lsfm_core() {
    local candidate words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    COMPREPLY=()
    while IFS= read -r candidate; do
        COMPREPLY+=("$(printf '%q' "$candidate")")
    done < <("$1" completion bash "${words[@]/#/=}" 2>/dev/null)
}
complete -o default -F _lsfm_core lsfm-core
""",
    "zsh": r"""#compdef lsfm-core
_lsfm_core() {
    local -a typed found
    typed=("${(@Q)words[2,CURRENT]}")
    found=("${(@f)$("$words[1]" completion zsh "${typed[@]/#/=}" 2>/dev/null)}")
    if [[ -n "$found" ]]; then compadd -- "${found[@]}"; else _files; fi
}
compdef _lsfm_core lsfm-core
""",
    "fish": r"""function __lsfm_core
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] completion fish =$words[2..-1] 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c lsfm-core -f -a '(__lsfm_core)'
""",
}
_CHANNEL_OPTIONS = frozenset({"--channel", "--labels-channel", "--inverse-of", "--reference"})
_FILE_SUFFIXES = frozenset({".h5", ".hdf5", ".xml"})


def add_commands(verbs: Any) -> None:
    """Let the parser know the commands of this module."""
    completion = add_verb(
        verbs, "completion", _completion, "print a script that lets a shell complete lsfm-core's command lines",
        "lsfm-core completion bash",
    )  # fmt: skip
    completion.add_argument("shell", choices=tuple(_SCRIPTS), help="bash and zsh: source what is printed; fish: pipe it to source")
    completion.add_argument("words", nargs="*", default=[], help=argparse.SUPPRESS)


def _completion(arguments: argparse.Namespace) -> None:
    from lsfm_core.cli import build_parser

    if not arguments.words:
        print(_SCRIPTS[arguments.shell], end="")
    else:
        print("".join(f"{candidate}\n" for candidate in candidates(build_parser(), [word[1:] for word in arguments.words])), end="")


def candidates(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """What the last word could become.

    Parameters
    ----------
    parser : ArgumentParser
    words : sequence of str
        Those after the program's name, up to the cursor; the last may be empty.
    """
    *before, current = words or [""]
    verbs = next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    verb = verbs.get(before[0]) if before else None
    if verb is None:
        return _beginning([*verbs, *parser._option_string_actions] if not before else [], current)
    option, equals, value = current.partition("=")
    if equals and option.startswith("--"):
        return [f"{option}={found}" for found in _beginning(_values(verb, option, before), value)]
    # bash takes --option=value for three words.
    before, current = [word for word in before if word != "="], current.removeprefix("=")
    if before[-1] in verb._option_string_actions and verb._option_string_actions[before[-1]].nargs != 0:
        return _beginning(_values(verb, before[-1], before), current)
    if current.startswith("-"):
        return _beginning(
            (name for name, action in verb._option_string_actions.items() if action.help != argparse.SUPPRESS), current
        )
    positionals = [action for action in verb._actions if not action.option_strings and action.choices is not None]
    return _beginning((choice for action in positionals for choice in action.choices or ()), current)


def _values(verb: argparse.ArgumentParser, option: str, before: Sequence[str]) -> Iterable[str]:
    action = verb._option_string_actions.get(option)
    if action is None:
        return ()
    if action.choices is not None:
        return map(str, action.choices)
    if option not in _CHANNEL_OPTIONS:
        return ()
    path = next((Path(word) for word in before[1:] if Path(word).suffix.lower() in _FILE_SUFFIXES), None)
    return _channels(path) if path is not None and path.is_file() else ()


def _channels(path: Path) -> tuple[str, ...]:
    from lsfm_core.errors import LsfmError
    from lsfm_core.store import open_lsfm

    try:
        with open_lsfm(path) as file:
            return tuple(file)
    except LsfmError:
        return ()


def _beginning(words: Iterable[str], start: str) -> list[str]:
    return [word for word in words if word.startswith(start)]
