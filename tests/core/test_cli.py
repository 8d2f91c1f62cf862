"""The command line: what a person types, and what comes back."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from lsfm_core.cli import build_parser, main
from lsfm_core.cli._options import memory
from lsfm_core.progress import size_text
from lsfm_core.testing import write_series

from . import children


def test_the_main_job(
    brain_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], info_json: Callable[[Path], Any]
) -> None:
    path, output = tmp_path / "brain.h5", tmp_path / "brain_100um.nii.gz"
    write = [
        "write",
        str(path),
        "--channel",
        "autofluo",
        "--image",
        str(brain_data / "structural_tiff"),
        "--voxel-size",
        "0.05,0.04,0.04",
    ]
    assert main([*write, "--origin-orientation", "psl"]) == 0
    assert "posterior -> anterior" in capsys.readouterr().out
    assert main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    assert "AIR (origin at psl)" in text
    assert "270 x 193 x 271" in text
    facts = info_json(path)["channels"][0]
    assert facts["axcodes"] == "AIR"
    assert [level["shape"] for level in facts["levels"]] == [[270, 193, 271], [135, 97, 136]]
    export = ["export", str(path), "--channel", "autofluo", "--resolution", "0.1", "--output", str(output)]
    assert main([*export, "--dry-run"]) == 0
    assert "108 x 135 x 77 voxels of 0.1" in capsys.readouterr().out
    assert not output.exists()
    assert main(export) == 0
    image = nibabel.load(output)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.shape == (108, 135, 77)
    assert np.asarray(image.dataobj).max() > 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nowhere.h5"], "nowhere.h5: no such file"),
        (["info", __file__], "not an HDF5 file; lsfm-core write FILE.h5 --image"),
        (
            ["write", "x.h5", "--channel", "a", "--image", "nowhere", "--voxel-size", "1,1,1", "--orientation", "AAR"],
            "names one body axis twice",
        ),
        (
            ["write", "x.h5", "--channel", "a", "--image", "nowhere", "--voxel-size", "1,0,1", "--orientation", "AIR"],
            "positive length",
        ),
        (
            ["write", "x.h5", "--channel", "a", "--image", "nowhere", "--voxel-size", "1,1,1", "--orientation", "AIR"],
            "nowhere: no file found",
        ),
    ],
)
def test_errors_are_one_line_and_a_code(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 3
    text = capsys.readouterr().err
    assert message in text
    assert text.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert main([*arguments, "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["write", "x.h5"],
        ["write", "x.h5", "--channel", "a", "--image", "b", "--voxel-size", "1,2", "--orientation", "AIR"],
        ["write", "x.h5", "--channel", "a", "--image", "b", "--voxel-size", "1,2,x", "--orientation", "AIR"],
        ["export", "x.h5", "--channel", "a", "--output", "b.nii", "--resolution", "1,2"],
        ["export", "x.h5", "--channel", "a", "--output", "b.nii", "--memory", "lots"],
        ["export", "x.h5", "--channel", "a", "--output", "--overwrite"],
    ],
)
def test_unreadable_command_lines_are_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert text.endswith(f"for usage see lsfm-core{' ' + arguments[0] if arguments[1:] else ''} --help\n")
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--chanel", "a", "--output", "b.nii"], "there is no option --chanel; did you mean --channel?"),
        (["--chanel=a"], "there is no option --chanel; did you mean --channel?"),
        (["--frobnicate", "--output"], "there is no option --frobnicate; for usage"),
        # An option may be shortened.
        (["--chan", "a"], "the following arguments are required: --output"),
    ],
)
def test_a_misspelt_option_is_named_first(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "x.h5", *words])
    assert f"lsfm-core export: {message}" in capsys.readouterr().err


def test_a_misspelt_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for word, message in (
        ("exprt", "there is no command exprt; did you mean export?"),
        ("xyzzy", "there is no command xyzzy; for"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([word, "x.h5"])
        assert caught.value.code == 2
        assert f"lsfm-core: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["info closed.h5", "export closed.h5 --channel a --output a.nii", "write b.h5 --channel a --image closed.h5"]
)
def test_a_file_that_may_not_be_read_is_told(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "closed.h5").touch()
    opened = io.open

    def refuse(file: object, *arguments: object, **options: object) -> object:
        # Root may read whatever its mode says.
        if Path(str(file)).name == "closed.h5":
            raise PermissionError(errno.EACCES, "Permission denied", file)
        return opened(file, *arguments, **options)

    monkeypatch.setattr(io, "open", refuse)
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 1
    assert capsys.readouterr().err == f"lsfm-core {words.split(maxsplit=1)[0]}: closed.h5: cannot be read: Permission denied\n"
    assert not (tmp_path / "b.h5").exists()


def test_an_interrupt_before_the_command_has_begun_is_one_line() -> None:
    program = """
import sys
from lsfm_core.cli import main

class Interrupt:
    def find_spec(self, name, *_):
        if name == "lsfm_core.provenance":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
sys.exit(main(["info", "x.h5"]))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "lsfm-core: interrupted; nothing was changed\n")


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(
    ("verb", "option", "value", "field", "expected"),
    [
        ("write", "--origin", "-1,1,1", "origin_mm", (-1, 1, 1)),
        ("export", "--origin", "-.5,-1,1e-3", "origin_mm", (-0.5, -1, 1e-3)),
        ("export", "--fill", "-inf", "fill", float("-inf")),
        ("export", "--midline", "-0.5", "midline_mm", -0.5),
        ("export-slices", "--range", "-3,,", "start", -3),
    ],
)
def test_values_may_begin_with_a_minus(joined: bool, verb: str, option: str, value: str, field: str, expected: Any) -> None:
    words = [verb, "x.h5", "--channel", "a", *([f"{option}={value}"] if joined else [option, value])]
    words += ["--image", "b"] if verb == "write" else ["--output", "s_%d.tif"]
    words += ["--size", "1"] if words[0] == "export" and option == "--origin" else []
    words += ["--region", "1", "--labels-channel", "l", "--side", "left"] if option == "--midline" else []
    arguments = build_parser().parse_args(words)
    request = arguments.request_of(arguments)
    assert getattr(request.region if option == "--midline" else request, field) == expected


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_names_that_the_output_cannot_encode(environment: dict[str, str], series: Path, ingest_series: Callable[..., Any]) -> None:
    path = ingest_series(series, channel="日本").path
    program = """
import sys
from lsfm_core.cli import main
path = sys.argv[1]
for words in (["info", path], ["info", path, "--json"], ["log", path]):
    assert main(words) == 0, words
assert main(["info", path, "--channel", "\\u010d"]) == 3
main(["write", "--help"])
"""
    command = [sys.executable, "-c", program, str(path)]
    child = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=False)
    assert (child.returncode, b"bug" in child.stderr, child.stderr.count(b"\n")) == (0, False, 1), child.stderr


def test_results_and_plans_as_json(
    series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("points.csv").write_text("z,y,x\n1,2,3\n")
    Path("recipe.yaml").write_text(
        "file: a.h5\nsteps:\n- export: {channel: s, output: again.nii}\n- add-metadata: {values: {k: v}}"
    )

    def told(line: str) -> Any:
        capsys.readouterr()
        assert main([*line.split(), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    write = f"write a.h5 --channel s --image {series} --voxel-size 0.1,0.1,0.1 --orientation AIR"
    plan = told(f"{write} --dry-run")
    assert not Path("a.h5").exists()
    assert (plan["operation"], plan["request"]["orientation"], plan["plan"]["makes"]) == ("write", "AIR", "file")
    assert plan["text"][0].startswith("reads ")
    report = told(write)
    assert report["space"] == plan["plan"]["space"]
    assert report["written"]["checksum"].startswith("chunks:")
    chunks = "export a.h5 --channel s --level 1 --output chunks --grid 0,0,0 --size 4"
    assert told(f"{chunks} --dry-run")["plan"]["chunks"] == told(chunks)["count"] == len(list(Path("chunks").glob("*.gz")))
    export = told("export a.h5 --channel s --output a.nii")
    assert (export["path"], export["plan"]["target"]["shape"]) == ("a.nii", [83, 37, 301])
    assert told("export-slices a.h5 --channel s --range 2,4 --output s_%d.tif")["paths"] == ["s_2.tif", "s_3.tif"]
    assert told("merge chunks --output m.tif")["dtype"] == "uint16"
    assert told("transform-points points.csv --file a.h5 --channel s --output b.csv")["points"]["shape"] == [1, 3]
    assert [step["plan"] is None for step in told("run recipe.yaml --dry-run")] == [False, True]
    steps = told("run recipe.yaml")
    assert [step["operation"] for step in steps] == ["export", "add-metadata"]
    assert steps[0]["result"]["written"]["size"] == Path("again.nii").stat().st_size
    assert told("repack a.h5")["path"] == "a.h5"
    assert told("rename-channel a.h5 --channel s --to t")["text"] == "channel 's' becomes 't'"


def test_overwrite_is_named_where_there_is_such_an_option(
    series: Path,
    ingest_series: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("signal", "other"):
        ingest_series(series, path=Path("brain.h5"), channel=name)
    Path("a.nii").touch()
    for line, end in (
        (f"write brain.h5 --channel signal --image {series} --voxel-size 1,1,1 --orientation AIR", "or replace it (--overwrite)\n"),
        ("export brain.h5 --channel signal --output a.nii", "or allow to overwrite it (--overwrite)\n"),
        ("repack brain.h5 --output brain.h5", "or allow to overwrite it (--overwrite)\n"),
        ("rename-channel brain.h5 --channel signal --to other", "choose another name\n"),
    ):
        assert main(line.split()) == 1
        assert capsys.readouterr().err.endswith(end)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("info ", "'': no such file"),
        ("info folder", "folder: is a folder, not a file"),
        ("export  --channel a --output b.nii", "path: is empty"),
        ("export brain.h5 --channel a --output ", "output: is empty"),
        ("run none.yaml", "none.yaml: no such file"),
        ("merge none.json --output b.nii", "none.json: no such file"),
        ("merge folder --output b.nii", "folder/manifest.json: no such file"),
        ("transform-points none.csv --file brain.h5 --channel signal --output b.csv", "none.csv: no such file"),
        ("transform-points none.csv --file brain.h5 --channel signal --output b.xlsx", "output b.xlsx: is written as CSV"),
        ("transform-points none.csv --file brain.h5 --channel signal --output b.csv --columns z,y", "columns, value 3: is missing"),
        ("transform-points none.csv --file brain.h5 --channel signal --output b.csv --labels-in output", "--labels-in: "),
        ("write brain.h5 --channel l --kind labels --image series --labels none.txt", "none.txt: no such file"),
        ("write brain.h5 --channel l --image folder.nii", "folder.nii: is a folder, not a file"),
        ("write brain.h5 --channel l --image series --metadata none.json", "none.json: no such file"),
        ("add-metadata brain.h5 --from-json none.json", "none.json: no such file"),
    ],
)
def test_what_is_not_there_is_said_plainly(
    line: str,
    message: str,
    series: Path,
    ingest_series: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    ingest_series(series)
    Path("folder").mkdir()
    Path("folder.nii").mkdir()
    more = ["--voxel-size", "1,1,1", "--orientation", "AIR"] if line.startswith("write") else []
    assert main([*line.split(" "), *more]) == 3
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123_456_789, "123 MB"), (9_940_000, "9.9 MB"), (2e30, "2.0e+18 TB")],
)
def test_sizes_in_words(size: float, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("500MB", 5 * 10**8), ("4GiB", 4 * 2**30), ("1.5g", 15 * 10**8), ("1000000", 10**6)]
)
def test_memory_sizes(text: str, size: int) -> None:
    assert memory(text) == size


def test_version_names_the_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    text = capsys.readouterr().out
    for name in ("lsfm-core", "Python", "HDF5", "numpy", "h5py", "SimpleITK", "tifffile", "nibabel", "zarr"):
        assert f"{name} " in text


def test_a_bar_is_shown_at_a_terminal_only(volume: np.ndarray, tmp_path: Path) -> None:
    series = write_series(tmp_path / "series", np.tile(volume, (8, 1, 4)))
    command = f"{sys.executable} -m lsfm_core.cli write brain.h5 --channel a --image {series} --voxel-size 1,1,1 --orientation AIR"
    plain = children.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert plain.stderr == ""
    (tmp_path / "brain.h5").unlink()
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with children.Popen(command.split(), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=theirs) as child:
        os.close(theirs)
        shown = b""
        # Linux ends a terminal without users by an I/O error.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    assert child.returncode == 0
    assert b"ingest" in shown
    assert b"B/s" in shown


def test_help_comes_without_the_heavy_imports() -> None:
    child = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "lsfm_core.cli", "--help"], capture_output=True, text=True, check=True
    )
    modules = {line.rpartition("|")[2].strip() for line in child.stderr.splitlines() if line.startswith("import time:")}
    assert "lsfm_core.cli" in modules or "lsfm_core.errors" in modules
    assert not {"numpy", "h5py", "SimpleITK", "pydantic", "nibabel", "pandas", "tifffile", "zarr"} & modules
    # Python itself and the command line take less than half of that.
    assert len(modules) < 400
