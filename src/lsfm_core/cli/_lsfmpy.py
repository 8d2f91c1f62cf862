"""lsfmpy 0.1.0's command lines, put into our words before they are parsed; docs/lsfmpy.md has the whole map.

What is known of them is what its own files record in their logs. An option is translated if it certainly means the same; else the
user is told which of ours to use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["UsageError", "in_our_words"]


class UsageError(Exception):
    """A command line of lsfmpy whose meaning is not certain here; the message names what to write instead."""


# An empty name: the value becomes a positional argument.
_OPTIONS = {
    "--hdf-path": "",
    "--channel-name": "--channel",
    "--image-path": "--image",
    "--metadata-path": "--metadata",
    "--slicing-range": "--range",
    "--extract-roi": "--roi",
    "--input-file": "",
    "--n-cpus": "--threads",
    "--affine-name": "--name",
    "--affine-path": "--affine",
    "--m-key": "",
    "--m-value": "",
    "--output-path": "--output",
    "--output-resolution": "--resolution",
    "--input-resolution-level": "--level",
    "--phys-origin": "--origin",
    "--phys-size": "--size",
    "--segmentation-name": "--labels-channel",
    "--region-id": "--region",
    "--grid-size": "--grid",
    "--overlap-mm": "--overlap",
}
# Options that are true or false, and what they stand for when true.
_SWITCHES = {"--is-segmentation": ("--kind", "labels"), "--is-multichannel": ("--kind", "vectors")}
_REFUSED = {
    "--input-orientation": "its letters are not nibabel's: give --orientation, for planes, rows and columns the side toward which "
    "the index grows",
    "--slab-memory-size": "it limits a slab: give --memory SIZE, which limits the whole command",
    "--bdv-xml": "leave it out: BigDataViewer's XML always stands beside the file, under its name",
    "--ordn": "give --transform NAME or NAME:invert, once for each transform, the one nearest to the image first",
    "--transform-type": "give --transform NAME or NAME:invert: what a transform is, is read from it",
}
_PATTERN = "--file-name-format"
_VERBS = {"show-log": "log", "show_log": "log"}
_ADD_TRANSFORM = (
    "lsfmpy's add-transform: which of its transforms comes first, and which way it goes, is not certain: give export --transform "
    "NAME or NAME:invert, once for each, the one nearest to the image first"
)


def in_our_words(argv: Sequence[str]) -> list[str]:
    """A command line with lsfmpy's options replaced by ours; any other as it is.

    Raises
    ------
    UsageError
        If an option of lsfmpy's is not certain to mean what one of ours does.
    """
    if argv[:1] == ["add-transform"]:
        raise UsageError(_ADD_TRANSFORM)
    if argv[:1] == ["completion"]:
        return list(argv)
    positional: dict[str, str] = {}
    options: list[str] = []
    pattern = None
    words = list(argv[1:])
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        # lsfmpy takes - and _ alike.
        name = name[:2] + name[2:].replace("_", "-")
        if name in _REFUSED:
            raise UsageError(f"{word}: {_REFUSED[name]}")
        if name not in _OPTIONS and name not in _SWITCHES and name != _PATTERN:
            options.append(word)
            continue
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else "True"
        if name in _SWITCHES:
            options += _SWITCHES[name] if value.lower() == "true" else ()
        elif value == "None":
            continue
        elif name == _PATTERN:
            pattern = value
        elif _OPTIONS[name]:
            options += [f"{_OPTIONS[name]}={_numbers(value)}"]
        else:
            positional[name] = value
    if pattern is not None:
        options = [_series(option, pattern) for option in options]
    verb = _VERBS.get(argv[0], argv[0].replace("_", "-")) if argv else ""
    if verb == "export" and any(option.startswith(("--range=", "--roi=")) for option in options):
        # What lsfmpy's export did, one of ours does that is named for it; its planes were the matrix itself.
        verb = "export-slices"
        options.append("--as-stored")
    named = [positional[name] for name in ("--hdf-path", "--input-file") if name in positional]
    noted = [positional[name] for name in ("--m-key", "--m-value") if name in positional]
    # A file that comes first stays before what is noted of it.
    first = [options.pop(0)] if noted and options and not options[0].startswith("-") else []
    return [*([verb] if argv else []), *named, *first, *noted, *options]


def _numbers(value: str) -> str:
    """Numbers without the brackets that Python writes around them."""
    return value[1:-1].replace(" ", "") if value[:1] + value[-1:] in ("[]", "()") else value


def _series(option: str, pattern: str) -> str:
    """The image's folder with the pattern of its planes' names, which lsfmpy takes apart."""
    name, _, image = option.partition("=")
    return f"--image={Path(image).parent / pattern}" if name == "--image" else option
