"""Every command alike: help, examples, options, exit codes, completion, the manual, and lsfmpy's words."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lsfm_core import (
    BusyError,
    ChecksumError,
    ExistsError,
    ExportRequest,
    FormatError,
    IngestRequest,
    InputError,
    LsfmError,
    MemoryBudgetError,
    MissingError,
    SourceError,
    StorageError,
    UnknownChannelError,
    cli,
)
from lsfm_core.cli import build_parser, look, main
from lsfm_core.cli._lsfmpy import _OPTIONS, _PATTERN, _REFUSED, _SWITCHES, in_our_words
from lsfm_core.cli._options import memory
from lsfm_core.cli.completion import candidates

from . import children
from .effort import exhaustive

DOCS = Path(__file__).parents[2] / "docs"


def verbs() -> dict[str, argparse.ArgumentParser]:
    (action,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(action.choices)


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {name for name in parser._option_string_actions if name.startswith("--")}


# --- help and the manual --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", verbs())
def test_help_tells_every_option_and_fits_a_terminal(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = verbs()[verb]
    text = parser.format_help()
    *lines, example = text.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    # On one line, to be copied.
    assert example == parser.epilog
    for action in parser._actions:
        assert action.help, f"{action.dest} is not explained"
        if action.help != argparse.SUPPRESS:
            assert all(name in text for name in action.option_strings or [action.metavar or action.dest])
    assert {"--quiet", "--debug"} <= options(parser)
    if "--output" in options(parser):
        assert "--overwrite" in options(parser), "what exists can be replaced"


def test_help_says_of_options_what_requests_say_of_their_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10000")
    for verb, request, words in (
        ("export", ExportRequest, {"resolution_mm": "--resolution MM", "fill": "--fill VALUE", "snap": "--snap"}),
        (
            "write",
            IngestRequest,
            {"labels": "--labels FILE", "metadata": "--metadata JSON", "uint16_as_int16": "--uint16-as-int16"},
        ),
    ):
        lines = verbs()[verb].format_help().splitlines()
        for field, option in words.items():
            (line,) = [line for line in lines if line.strip().startswith(f"{option}  ")]
            description = request.model_fields[field].description
            assert description and description[1:] in line


@pytest.mark.parametrize("verb", verbs())
def test_the_example_parses(verb: str) -> None:
    epilog = verbs()[verb].epilog or ""
    words = shlex.split(epilog.removeprefix("example: "))
    assert words[:2] == ["lsfm-core", verb]
    assert build_parser().parse_args(words[1:]).verb == verb


def test_the_manual_lists_every_command() -> None:
    manual = (DOCS / "cli.md").read_text("utf-8")
    (action,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    for choice in action._choices_actions:
        assert f"| `{choice.dest}` | {choice.help} |" in manual
    listed = re.findall(r"^\| `([a-z][a-z-]+)` \|", manual, re.MULTILINE)
    assert set(listed) == set(verbs())
    for option in re.findall(r"^\| `(--[a-z-]+)", manual, re.MULTILINE):
        assert sum(option in options(parser) for parser in verbs().values()) > 1, option


# --- exit codes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError, 3),
        (UnknownChannelError, 3),
        (SourceError, 3),
        (FormatError, 3),
        (MissingError, 3),
        (ChecksumError, 4),
        (StorageError, 1),
        (BusyError, 1),
        (ExistsError, 1),
        (MemoryBudgetError, 1),
        (RuntimeError, 1),
        (KeyboardInterrupt, 130),
    ],
)
def test_exit_codes(
    error: type[BaseException], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: argparse.Namespace) -> None:
        raise error("what\nis wrong")

    monkeypatch.setattr(look, "_info", fail)
    # Those that are kept know of another function.
    monkeypatch.setattr(cli, "build_parser", build_parser)
    assert main(["info", "x.h5"]) == code
    shown = capsys.readouterr().err
    assert shown.startswith("lsfm-core info: ")
    assert shown.count("\n") == 1
    if not issubclass(error, KeyboardInterrupt):
        assert "what is wrong" in shown
        assert ("this is a bug: repeat the command with --debug" in shown) == (not issubclass(error, LsfmError))
        assert main(["info", "x.h5", "--debug"]) == code
        assert "Traceback" in capsys.readouterr().err


def test_the_manual_promises_the_exit_codes() -> None:
    from lsfm_core.cli._exit import Exit

    manual = (DOCS / "cli.md").read_text("utf-8")
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", manual, re.MULTILINE)] == list(Exit)


@pytest.mark.parametrize(
    ("words", "buffered"),
    [
        ("info FILE --json", True),
        ("info FILE --json", False),
        ("verify FILE", False),
        ("info --schema", True),
        ("export --help", False),
        ("completion bash", True),
        ("--version", False),
        exhaustive("verify FILE", True),
        exhaustive("info --schema", False),
        exhaustive("export --help", True),
        exhaustive("completion bash", False),
        exhaustive("--version", True),
    ],
)
def test_who_reads_no_further_is_no_complaint(brain_file: Path, words: str, buffered: bool) -> None:
    child = run_without_reader([str(brain_file) if word == "FILE" else word for word in words.split()], buffered)
    assert (child.returncode, child.stderr) == (0, "")


def test_a_recipe_is_carried_out_whether_somebody_reads_or_not(brain_file: Path, tmp_path: Path) -> None:
    steps = "".join(f"  - export: {{channel: autofluo, resolution_mm: 0.5, output: '{tmp_path}/{n}.npy'}}\n" for n in range(3))
    (tmp_path / "recipe.yaml").write_text(f"file: {brain_file}\nsteps:\n{steps}")
    child = run_without_reader(["run", str(tmp_path / "recipe.yaml")], buffered=False)
    assert (child.returncode, child.stderr) == (0, "")
    assert all((tmp_path / f"{n}.npy").exists() for n in range(3))


def run_without_reader(words: list[str], buffered: bool) -> subprocess.CompletedProcess[str]:
    """A command whose stdout is a pipe that nobody reads any more, written to at once or at the end."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if not buffered:
        environment["PYTHONUNBUFFERED"] = "1"
    command = [sys.executable, "-m", "lsfm_core.cli", *words]
    child = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(writer)
    return child


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("export FILE --channel autofluo --output x.npy --margin 1", "--margin: tell how a region"),
        ("export FILE --channel autofluo --output x.npy --overlap 1", "export: --overlap: only chunks have one"),
        ("export FILE --channel autofluo --output x.npy --resolution 0", "export: --resolution: every number must be"),
        ("export FILE --channel autofluo --output x.npy --threads 0", "export: --threads: must be more than 0"),
        ("transform-points c.csv --file FILE --channel autofluo --output o.csv --counts n.csv", "(--labels-channel)"),
        (
            "transform-points c.csv --file FILE --channel autofluo --output o.csv --labels-in output",
            "points: --labels-in: tells where",
        ),
        ("write FILE --channel b --image c.tif --voxel-size 0,1,1 --orientation AIR", "write: --voxel-size: every number must be"),
    ],
)
def test_errors_name_options(brain_file: Path, line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.replace("FILE", str(brain_file)).split()) == 3
    assert said in capsys.readouterr().err


def test_letters_of_brainglobe_are_asked_back(brain_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("write x.h5 --channel a --image b --orientation psl", f"export {brain_file} --channel autofluo --orientation psl"):
        with pytest.raises(SystemExit) as caught:
            main(line.split())
        assert caught.value.code == 2
        assert "give AIR for that (or write's --origin-orientation psl), or PSL if" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2", 2 * 10**9),
        ("0.5", 5 * 10**8),
        ("500MB", 5 * 10**8),
        ("1GiB", 2**30),
        ("2000000000", 2 * 10**9),
        ("64B", 64),
        ("20000", None),
    ],
)
def test_a_small_number_alone_is_gigabytes(text: str, size: int | None) -> None:
    if size is not None:
        assert memory(text) == size
    else:
        with pytest.raises(argparse.ArgumentTypeError, match="with its unit"):
            memory(text)


def test_nothing_is_made_by_commands_that_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("add-metadata x.h5 a b", "remove-metadata x.h5 a", "remove-channel x.h5 --channel a"):
        verb, name, *rest = command.split()
        assert main([verb, str(tmp_path / name), *rest]) == 3
        assert "no such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- completion -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("inf|", ["info"]),
        ("--v|", ["--version"]),
        ("info --js|", ["--json"]),
        ("write x.h5 --kind |", ["image", "labels", "vectors", "components"]),
        ("write x.h5 --kind=l|", ["--kind=labels"]),
        ("write x.h5 --kind = l|", ["labels"]),
        ("write x.h5 --kind =|", ["image", "labels", "vectors", "components"]),
        ("completion z|", ["zsh"]),
        ("write x.h5 --image |", []),
        ("frobnicate |", []),
        ("info FILE --channel au|", ["auto fluo"]),
        ("export FILE --channel x --labels-channel |", ["auto fluo"]),
        ("info nowhere.h5 --channel |", []),
    ],
)
def test_candidates(typed: str, expected: list[str], tmp_path: Path, series: Path, ingest_series: Callable[..., Any]) -> None:
    if "FILE" in typed:
        ingest_series(series, channel="auto fluo")
    words = typed.removesuffix("|").replace("FILE", str(tmp_path / "brain.h5")).split(" ")
    assert candidates(build_parser(), words) == expected


_ASK = {
    "bash": "source <(lsfm-core completion bash); COMP_WORDS=({words}); COMP_CWORD={last}; _lsfm_core lsfm-core; "
    'printf "%s\\n" "${{COMPREPLY[@]}}"',
    "zsh": "compdef() {{ }}; compadd() {{ shift; print -l -- $@ }}; source <(lsfm-core completion zsh); "
    "words=({words}); CURRENT={count}; _lsfm_core",
    "fish": "lsfm-core completion fish | source; complete -C '{line}'",
}


@pytest.mark.slow
@pytest.mark.parametrize("shell", _ASK)
def test_shells_complete(shell: str, tmp_path: Path, series: Path, ingest_series: Callable[..., Any]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    ingest_series(series, channel="auto fluo")
    program = tmp_path / "bin" / "lsfm-core"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lsfm_core.cli "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    for line, expected in (
        ("lsfm-core get-m", ["get-metadata"]),
        ("lsfm-core info brain.h5 --chan", ["--channel"]),
        ("lsfm-core info brain.h5 --channel au", ["auto\\ fluo" if shell == "bash" else "auto fluo"]),
    ):
        words = line.split(" ")
        script = _ASK[shell].format(words=" ".join(words), last=len(words) - 1, count=len(words), line=line)
        child = subprocess.run([shell, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert child.stdout.splitlines() == expected, child.stderr


# --- metadata -------------------------------------------------------------------------------------------------------------------


def test_metadata_at_the_command_line(
    series: Path, tmp_path: Path, ingest_series: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    ingest_series(series)
    path = str(tmp_path / "brain.h5")
    (tmp_path / "more.json").write_text('{"list": [1, null], "deep": {"a": true}}')

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main([*words])
        return code, capsys.readouterr().out

    assert run("add-metadata", path, "specimen", "mouse = 42")[0] == 0
    assert run("add-metadata", path, "a=b=c", "d=", "--channel", "signal")[0] == 0
    assert run("add-metadata", path, "--channel", "signal", "weeks", "-12.5", "--type", "number")[0] == 0
    assert run("add-metadata", path, "--from-json", str(tmp_path / "more.json"))[0] == 0
    assert run("get-metadata", path, "specimen") == (0, "mouse = 42\n")
    assert run("get-metadata", path, "specimen", "--json") == (0, '"mouse = 42"\n')
    assert run("get-metadata", path) == (0, 'deep: {"a": true}\nlist: [1, null]\nspecimen: mouse = 42\n')
    assert run("get-metadata", "--channel", "signal", path) == (0, "a: b=c\nd: \nweeks: -12.5\n")
    before = Path(path).read_bytes()
    assert run("add-metadata", path, "new=1", "specimen=other")[0] == 1
    for words, code in (
        (["n", "true", "--type", "number"], 3),
        (["n", "{", "--type", "json"], 3),
        (["n", "NaN", "--type", "number"], 3),
        (["a", "b", "c"], 3),
        ([], 3),
        (["--from-json", path], 3),
        (["--channel", "none", "a=b"], 3),
        (["\t", "b"], 3),
    ):
        assert run("add-metadata", path, *words)[0] == code, words
    assert run("get-metadata", path, "nothing")[0] == 3
    assert run("remove-metadata", path, "nothing")[0] == 3
    assert Path(path).read_bytes() == before, "all is noted, or nothing"
    assert run("add-metadata", path, "specimen=other", "--overwrite")[0] == 0
    assert run("remove-metadata", path, "deep", "--quiet") == (0, "")
    for verb, expected in (("get-metadata", "list: [1, null]\nspecimen: other\n"),):
        child = children.run(
            [sys.executable, "-m", "lsfm_core.cli", verb, path], capture_output=True, text=True, check=True, timeout=60
        )
        assert child.stdout == expected


# --- lsfmpy ---------------------------------------------------------------------------------------------------------------------


def recorded(path: Path) -> list[list[str]]:
    """The command lines that lsfmpy noted in its file."""
    with h5py.File(path) as file:
        texts = [entry.asstr()[()] for entry in file["log"].values()]
    return [shlex.split(text.split("cmdline=python lsfmpy ")[1]) for text in texts]


def test_what_lsfmpys_file_records_is_translated_or_refused(legacy_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for words in recorded(legacy_file):
        with contextlib.suppress(SystemExit):
            found.append((words[0], in_our_words(words) if words[0] in ("write-affine", "add-metadata") else main(words)))
    assert found == [
        (
            "write-affine",
            [
                "write-affine",
                "/data/mouse42/legacy.h5",
                "--channel=autofluo",
                "--name=structural_to_template",
                "--affine=affine.txt",
            ],
        ),
        ("add-metadata", ["add-metadata", "/data/mouse42/legacy.h5", "specimen", "mouse-42"]),
    ]
    refused = capsys.readouterr().err
    assert refused.count("\n") == 4
    for option in ("leave it out", "NAME:invert"):
        assert option in refused


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("info --hdf-path=a.h5", "info a.h5"),
        ("info --hdf_path a.h5 --channel_name b", "info a.h5 --channel=b"),
        ("write --hdf-path a.h5 --is-segmentation True --is-multichannel False --n-cpus 2", "write a.h5 --kind labels --threads=2"),
        ("write --is-multichannel --hdf-path a.h5", "write a.h5 --kind vectors"),
        ("write --file-name-format Z%06d.tif --image-path d/Z000000.tif", "write --image=d/Z%06d.tif"),
        (
            "export --output-path o.nii --output-resolution [0.1,0.1,0.1] --input-resolution-level None --phys-origin -1,2,3",
            "export --output=o.nii --resolution=0.1,0.1,0.1 --origin=-1,2,3",
        ),
        ("export --segmentation-name s --region-id 5 --grid-size 2,2,2", "export --labels-channel=s --region=5 --grid=2,2,2"),
        ("export a.h5 --channel b --output c.nii", "export a.h5 --channel b --output c.nii"),
        ("completion bash =--hdf-path", "completion bash =--hdf-path"),
        ("show-log --hdf-path a.h5", "log a.h5"),
        ("show_log a.h5", "log a.h5"),
        ("dump-metadata --input-file a.tif", "dump-metadata a.tif"),
        ("add-metadata a.h5 --m-key k --m-value v", "add-metadata a.h5 k v"),
        ("add-metadata --m-key k --m-value v --hdf-path a.h5", "add-metadata a.h5 k v"),
        (
            "export a.h5 --slicing-range [1,5,2] --extract-roi 1,2,3,4 --output s_%d.tif",
            "export-slices a.h5 --range=1,5,2 --roi=1,2,3,4 --output s_%d.tif --as-stored",
        ),
    ],
)
def test_lsfmpys_options(words: str, ours: str) -> None:
    assert in_our_words(words.split()) == ours.split()


@pytest.mark.parametrize("option", [*_REFUSED, "add-transform"])
def test_what_is_not_certain_is_refused_and_explained(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [option] if option == "add-transform" else ["export", "a.h5", option, "x"]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert option in capsys.readouterr().err


def test_lsfmpys_words_hide_none_of_ours_and_lead_to_ours() -> None:
    theirs = {*_OPTIONS, *_SWITCHES, *_REFUSED, _PATTERN}
    known = set().union(*map(options, verbs().values()))
    assert not theirs & known
    assert {name for name in _OPTIONS.values() if name} | {name for name, _ in _SWITCHES.values()} <= known
    page = (DOCS / "lsfmpy.md").read_text("utf-8")
    for name in theirs:
        assert f"{name} " in page or f"{name}`" in page, name


def test_an_affine_by_lsfmpys_command_line(
    series: Path, tmp_path: Path, ingest_series: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest_series(series, channel="autofluo")
    monkeypatch.chdir(tmp_path)
    np.savetxt(tmp_path / "affine.txt", np.eye(4))
    line = "write-affine --hdf-path brain.h5 --channel-name autofluo --affine-name t --affine-path affine.txt"
    children.run([sys.executable, "-m", "lsfm_core.cli", *line.split()], check=True, capture_output=True)
    with h5py.File("brain.h5") as file:
        np.testing.assert_array_equal(file["LSFM/autofluo/AFFINES/t"], np.eye(4))
