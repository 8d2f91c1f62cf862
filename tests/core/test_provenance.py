"""Every operation leaves a record, which costs nothing, loses nothing, and can be run again."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import os
import shlex
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import lsfm_core
from lsfm_core import (
    CancelledError,
    CancelToken,
    ExportRequest,
    FormatError,
    IngestRequest,
    LogRecord,
    RegionTableRequest,
    SlicesRequest,
    StorageError,
    TransformStep,
    UnknownChannelError,
    edit_lsfm,
    export_channel,
    export_chunks,
    export_slices,
    ingest_channel,
    open_lsfm,
)
from lsfm_core.cli import main
from lsfm_core.cli._lines import _parsed, command_line
from lsfm_core.formats._files import gzip_stream
from lsfm_core.progress import size_text
from lsfm_core.provenance import recorded, side_folder
from lsfm_core.store import LsfmFile
from lsfm_core.testing import write_series

from . import children

VOXELS = np.random.default_rng(11).integers(0, 65536, (19, 34, 27), dtype=np.uint16)


@pytest.fixture
def brain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file in the working directory, in whose log is its ingest."""
    # For children, which start in another folder than these tests.
    monkeypatch.setenv("PYTHONPATH", str(Path(lsfm_core.__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    ingest_channel(request("brain.h5"))
    return tmp_path / "brain.h5"


def request(path: Path | str, channel: str = "signal", image: Any = VOXELS) -> IngestRequest:
    return IngestRequest(path=path, channel=channel, image=image, voxel_size_mm=(0.05, 0.04, 0.04), orientation="AIR")


def log(path: Path) -> tuple[LogRecord, ...]:
    with open_lsfm(path) as file:
        return file.log()


def waiting(path: Path) -> list[str]:
    folder = path.with_name(path.name + "-log")
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


def stored(path: Path) -> list[str]:
    with h5py.File(path) as file:
        return sorted(file["log"])


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- what is recorded -------------------------------------------------------------------------------------------------------


def test_an_ingest_is_recorded_in_the_file_with_all_that_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    series = write_series(tmp_path / "planes of mine", VOXELS)
    before = datetime.now(UTC)
    words = ["write", "brain.h5", "--channel", "a", "--image", str(series), "--voxel-size", "5,4,4", "--orientation", "AIR"]
    assert main(words) == 0
    assert not side_folder(tmp_path / "brain.h5").exists()
    with h5py.File("brain.h5") as file:
        ((name, node),) = file["log"].items()
        facts = json.loads(node.asstr()[()])
    assert ":" not in name
    assert name == facts["name"]
    assert facts["version"] == 1
    assert before <= datetime.fromisoformat(facts["time"]) <= datetime.now(UTC)
    assert name.startswith(datetime.fromisoformat(facts["time"]).strftime("%Y-%m-%dT%H%M%S"))
    assert datetime.fromisoformat(facts["time"]).utcoffset() == timedelta(0)
    assert shlex.split(facts["command"]) == ["lsfm-core", *words]
    assert IngestRequest(**facts["request"]) == request("brain.h5", "a", str(series)).model_copy(
        update={"voxel_size_mm": (5.0, 4.0, 4.0)}
    )
    assert (facts["operation"], facts["channel"], facts["outcome"]) == ("write", "a", "done")
    assert facts["folder"] == str(tmp_path)
    assert facts["user"]
    assert facts["host"]
    assert {"lsfm-core", "HDF5", "h5py", "SimpleITK", "numpy", "Python", "platform"} <= facts["versions"].keys()
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["seconds"] > 0
    files = b"".join(path.read_bytes() for path in sorted(series.iterdir()))
    (source,) = facts["inputs"]
    assert source == {"path": str(series), "count": 19, "size": len(files), "checksum": f"crc32:{zlib.crc32(files):08x}"}


def test_an_export_is_recorded_beside_the_file_which_it_does_not_touch(brain: Path) -> None:
    before, modified = brain.read_bytes(), brain.stat().st_mtime_ns
    matrix = np.diag([1.0, 1, 1, 1])
    np.savetxt("shift.txt", matrix)
    result = export_channel(ExportRequest(path="brain.h5", channel="signal", transforms=("shift.txt",), output="x.nii.gz"))
    assert brain.read_bytes() == before
    assert brain.stat().st_mtime_ns == modified
    (name,) = waiting(brain)
    record = log(brain)[-1]
    assert name == f"{record.name}.json"
    assert (record.operation, record.channel, record.outcome, record.command) == ("export", "signal", "done", None)
    data = Path("x.nii.gz").read_bytes()
    assert record.output is not None
    assert record.output.model_dump() == {"path": "x.nii.gz", "count": 1, "size": len(data), "checksum": f"sha256:{sha(data)}"}
    assert result.written == record.output
    own, shift = record.inputs
    assert (own.path, own.size, own.checksum) == ("brain.h5", len(before), None)
    assert (shift.path, shift.checksum) == ("shift.txt", f"sha256:{sha(Path('shift.txt').read_bytes())}")


def test_several_files_have_one_checksum(brain: Path) -> None:
    export_channel(ExportRequest(path=brain, channel="signal", output="x.ome.zarr"))
    export_slices(SlicesRequest(path=brain, channel="signal", output="p/%d.png", axis=2))
    Path("c").mkdir()
    Path("c/foreign.txt").write_text("not of the export")
    chunks = export_chunks(ExportRequest(path=brain, channel="signal", grid=(0, 0, 0), size_mm=0.5, output="c"))
    zarr, planes, pieces = (record.output for record in log(brain)[-3:])
    expected = {
        "x.ome.zarr": sorted(path for path in Path("x.ome.zarr").rglob("*") if path.is_file()),
        "p/%d.png": [Path(f"p/{number}.png") for number in range(34)],
        "c": [Path("c") / row["file"] for row in json.loads(chunks.manifest.read_text())["chunks"]],
    }
    for output, (name, files) in zip((zarr, planes, pieces), expected.items(), strict=True):
        lines = "".join(f"{sha(file.read_bytes())}\n" for file in files)
        assert output is not None
        assert (output.path, output.count, output.checksum) == (name, len(files), f"sha256:{sha(lines.encode())}")
        assert output.size == sum(file.stat().st_size for file in files)


def test_what_fails_or_is_cancelled_is_recorded(brain: Path) -> None:
    before = brain.read_bytes()
    with pytest.raises(UnknownChannelError):
        export_channel(ExportRequest(path=brain, channel="other", output="x.nii"))
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        export_channel(ExportRequest(path=brain, channel="signal", output="x.nii"), cancel=token)
    with pytest.raises(CancelledError):
        ingest_channel(request(brain, "second"), cancel=token)
    with pytest.raises(UnknownChannelError), edit_lsfm(brain) as editor:
        editor.rename_channel("other", "third")
    assert brain.read_bytes() == before
    records = log(brain)[1:]
    assert [(r.operation, r.outcome, r.output) for r in records] == [
        ("export", "failed", None),
        ("export", "cancelled", None),
        ("write", "cancelled", None),
        ("rename-channel", "failed", None),
    ]
    assert "no channel 'other'" in records[0].message
    assert records[3].request == {"channel": "other", "new_name": "third"}


def test_nothing_is_left_beside_what_is_no_file_of_ours(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["data"] = 1
    (tmp_path / "text.h5").write_text("text")
    for name in ("foreign.h5", "text.h5"):
        with pytest.raises(FormatError):
            export_channel(ExportRequest(path=tmp_path / name, channel="a", output=tmp_path / "x.nii"))
    with pytest.raises(StorageError):
        export_channel(ExportRequest(path=tmp_path / "none.h5", channel="a", output=tmp_path / "x.nii"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign.h5", "text.h5"]


def test_an_export_into_memory_leaves_no_record(brain: Path) -> None:
    export_channel(ExportRequest(path=brain, channel="signal"))
    assert waiting(brain) == []


def test_a_file_named_by_its_xml_or_a_link_has_one_log(brain: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.h5").symlink_to(brain)
    export_channel(ExportRequest(path=brain.with_suffix(".xml"), channel="signal", output="a.nii"))
    export_channel(ExportRequest(path=tmp_path / "elsewhere" / "link.h5", channel="signal", output="b.nii"))
    assert len(waiting(brain)) == 2
    assert [entry.name for entry in (tmp_path / "elsewhere").iterdir()] == ["link.h5"]


def test_edits_are_recorded_as_their_commands_are_named(brain: Path) -> None:
    np.savetxt("a.txt", np.eye(4))
    assert main(["write-affine", "brain.h5", "--channel", "signal", "--name", "t", "--affine", "a.txt"]) == 0
    assert main(["rename-channel", "brain.h5", "--channel", "signal", "--to", "new"]) == 0
    with edit_lsfm(brain) as editor:
        editor.rename_channel("new", "-newer")
    with edit_lsfm(brain) as editor:
        editor.set_metadata("specimen", "7")
        editor.remove_channel("-newer")
    with edit_lsfm(brain):
        pass
    affine, rename, by_python, both = log(brain)[1:]
    assert (affine.operation, affine.request["affine"], affine.inputs[0].path) == ("write-affine", "a.txt", "a.txt")
    assert rename.operation == "rename-channel"
    assert rename.request == {"path": "brain.h5", "channel": "signal", "new_name": "new"}
    assert command_line(by_python, "my brain.h5") == "lsfm-core rename-channel 'my brain.h5' --channel=new --to=-newer"
    assert both.operation == "edit"
    assert both.command is None
    assert both.request == {
        "changes": [
            {"add-metadata": {"channel": None, "values": {"specimen": "7"}, "overwrite": False}},
            {"remove-channel": {"channel": "-newer"}},
        ]
    }


def test_entries_of_lsfmpy_are_read(legacy_file: Path) -> None:
    # Other tests export from it.
    records = [record for record in log(legacy_file) if record.text]
    assert [r.operation for r in records] == [
        "write_channel", "write_affine", "add_metadata", "write_channel", "write_channel", "export_image",
    ]  # fmt: skip
    assert records[0].time == datetime(2026, 11, 22, 10, 31, 21, tzinfo=UTC)
    assert records[0].channel == "autofluo"
    assert records[0].command is not None
    assert records[0].command.startswith("python lsfmpy write --hdf-path /data/mouse42/legacy.h5")
    assert "output_resolution=array([0.1, 0.1, 0.1])" in records[5].text


# --- where it is kept -------------------------------------------------------------------------------------------------------


def test_the_next_change_takes_the_records_in(brain: Path) -> None:
    for number in range(3):
        export_channel(ExportRequest(path=brain, channel="signal", output=f"{number}.nii"))
    before = log(brain)
    assert len(waiting(brain)) == 3
    with edit_lsfm(brain) as editor:
        editor.set_metadata("key", "value")
    assert not side_folder(brain).exists()
    after = log(brain)
    assert after[:-1] == before
    assert sorted(record.name for record in after) == stored(brain)


def test_a_change_that_fails_takes_nothing_in(brain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_channel(ExportRequest(path=brain, channel="signal", output="x.nii"))
    before, kept = brain.read_bytes(), waiting(brain)
    monkeypatch.setattr(LsfmFile, "render_xml", lambda *_: 1 / 0)  # after the records have been put into the file
    with pytest.raises(ZeroDivisionError), edit_lsfm(brain) as editor:
        editor.set_metadata("key", "value")
    assert brain.read_bytes() == before
    assert set(kept) < set(waiting(brain))
    assert [(r.operation, r.outcome) for r in log(brain)][1:] == [("export", "done"), ("add-metadata", "failed")]


_DIES = """
import os, sys
from lsfm_core.store import edit
edit.drop_merged = lambda *_: os._exit(9)
with edit.edit_lsfm(sys.argv[1]) as editor:
    editor.set_metadata("key", "value")
"""


def test_a_writer_that_dies_after_its_commit_doubles_nothing(brain: Path) -> None:
    for number in range(2):
        export_channel(ExportRequest(path=brain, channel="signal", output=f"{number}.nii"))
    assert children.run([sys.executable, "-c", _DIES, brain], check=False).returncode == 9
    assert len(waiting(brain)) == 2
    assert len(stored(brain)) == 4
    names = [record.name for record in log(brain)]
    assert len(names) == len(set(names)) == 4
    with edit_lsfm(brain) as editor:
        editor.set_metadata("key", "other", overwrite=True)
    assert waiting(brain) == []
    assert len(stored(brain)) == len(log(brain)) == 5


_EXPORTS_WHEN_TOLD = """
import sys
from lsfm_core import ExportRequest, export_channel
print("ready", flush=True)
sys.stdin.readline()
export_channel(ExportRequest(path=sys.argv[1], channel="signal", output=sys.argv[2] + ".nii"))
"""


def test_twenty_exports_at_once_are_all_recorded(brain: Path) -> None:
    command = [sys.executable, "-c", _EXPORTS_WHEN_TOLD, str(brain)]
    # A reader's lock, too, is no reason to wait.
    with open_lsfm(brain), ExitStack() as stack:
        running = [
            stack.enter_context(children.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for number in range(20)
        ]
        for child in running:
            assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        for child in running:
            assert child.stdin is not None
            child.stdin.close()
        assert [child.wait(timeout=120) for child in running] == [0] * 20
    assert len(waiting(brain)) == 20
    assert len(stored(brain)) == 1
    with edit_lsfm(brain) as editor:
        editor.set_metadata("key", "value")
    assert waiting(brain) == []
    records = log(brain)
    assert len(stored(brain)) == len(records) == 22
    outputs = {Path(r.output.path).name: r.output.checksum for r in records if r.operation == "export" and r.output is not None}
    assert outputs == {f"{n}.nii": f"sha256:{sha(Path(f'{n}.nii').read_bytes())}" for n in range(20)}


def test_where_no_folder_can_be_made_the_record_is_beside_the_output(brain: Path) -> None:
    side_folder(brain).write_text("in the way")
    export_channel(ExportRequest(path=brain, channel="signal", output="x.nii"))
    record = LogRecord.model_validate_json(Path("x.nii.log.json").read_text())
    assert record.output is not None
    assert record.output.checksum == f"sha256:{sha(Path('x.nii').read_bytes())}"
    Path("y.nii.log.json").mkdir()
    export_channel(ExportRequest(path=brain, channel="signal", output="y.nii"))
    assert Path("y.nii").is_file()
    assert sorted(path.name for path in brain.parent.iterdir()) == [
        "brain.h5", "brain.h5-log", "brain.settings.xml", "brain.xml", "x.nii", "x.nii.log.json", "y.nii", "y.nii.log.json",
    ]  # fmt: skip


def test_damaged_records_are_passed_over_and_stay(brain: Path) -> None:
    export_channel(ExportRequest(path=brain, channel="signal", output="x.nii"))
    for name, text in {"empty": "", "list": "[]", "short": '{"name": "short"}'}.items():
        (side_folder(brain) / f"{name}.json").write_text(text)
    assert len(log(brain)) == 2
    with edit_lsfm(brain) as editor:
        editor.set_metadata("key", "value")
    assert len(log(brain)) == 3
    assert waiting(brain) == ["empty.json", "list.json", "short.json"]


def test_something_else_in_the_logs_place_stops_no_change(brain: Path) -> None:
    with h5py.File(brain, "r+") as file:
        del file["log"]
        file["log"] = "somebody's"
        # As a program does that changes our part of a file.
        del file["LSFM_DIGESTS"], file.attrs["LSFM_has_digests"]
    with edit_lsfm(brain) as editor:
        editor.set_metadata("key", "value")
    assert [record.operation for record in log(brain)] == ["add-metadata"]


def test_a_record_is_one_small_file_and_one_sync(brain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ExportRequest(path=brain, channel="signal")
    synced: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), sync(file)))
    for count in range(1, 6):
        with recorded(brain, "export", asked):
            pass
        assert len(waiting(brain)) == count
        # Of the file, and of the folder that has it.
        assert len(synced) <= 2 * count
    assert all((brain.with_name(f"{brain.name}-log") / name).stat().st_size < 20_000 for name in waiting(brain))


# --- the commands -----------------------------------------------------------------------------------------------------------


def test_log_shows_what_is_asked_for(brain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", "brain.h5", "--channel", "signal", "--output", "x.nii", "--quiet"])
    main(["export", "brain.h5", "--channel", "other", "--output", "y.nii", "--quiet"])
    capsys.readouterr()

    def shown(*options: str) -> list[int]:
        capsys.readouterr()
        assert main(["log", "brain.h5", "--json", *options]) == 0
        return [entry["number"] for entry in json.loads(capsys.readouterr().out)]

    assert shown() == [1, 2, 3]
    assert shown("--operation", "export") == [2, 3]
    assert shown("--channel", "other") == [3]
    # The name of the command counts, as well as that of what it did.
    assert main(["write-field", "brain.h5", "--channel", "warp", "--image", "none.nii"]) == 3
    assert shown("--operation", "write-field") == [4]
    assert shown("--operation", "write") == [1, 4]
    main(["add-metadata", "brain.h5", "a=1", "b=2"])
    main(["remove-metadata", "brain.h5", "c"])
    assert shown("--operation", "add-metadata") == [5]
    assert shown("--operation", "remove-metadata") == [6]
    with edit_lsfm("brain.h5") as editor:
        editor.set_metadata("d", 1)
        editor.remove_metadata("a")
    capsys.readouterr()
    assert shown("--operation", "remove-metadata") == [6, 7]
    for options in (["--operation", "exprot"], ["--channel", "nope"]):
        assert main(["log", "brain.h5", *options]) == 0
        said = capsys.readouterr()
        assert said.out == ""
        assert "no record matches; there are operations: write, export, write-field, " in said.err
        assert said.err.endswith("channels: signal, other, warp\n")
    second = log(brain)[1].time
    assert shown("--since", second.isoformat()) == [2, 3, 4, 5, 6, 7]
    assert shown("--until", second.isoformat()) == [1]
    assert shown("--since", (second + timedelta(days=1)).astimezone().strftime("%Y-%m-%d")) == []
    with pytest.raises(SystemExit):
        main(["log", "brain.h5", "--since", "yesterday"])
    capsys.readouterr()
    assert main(["log", "brain.h5"]) == 0
    text = capsys.readouterr().out
    assert "lsfm-core export brain.h5 --channel other --output y.nii --quiet" in text
    assert "no channel 'other'" in text
    assert f"x.nii: {size_text(Path('x.nii').stat().st_size)}, sha256:{sha(Path('x.nii').read_bytes())}" in text


REQUESTS: dict[str, Callable[[Path], Any]] = {
    "plain": lambda path: ExportRequest(path=path, channel="signal", output="x.nii"),
    "cuboid": lambda path: ExportRequest(
        path=path, channel="signal", output="x.nii", origin_mm=(-0.1, 0.2, 0.3), size_mm=(0.5, 0.6, 0.25), fill=-1.5, level=0
    ),
    "chain": lambda path: ExportRequest(
        path=path,
        channel="signal",
        output="a b's.nii",
        transforms=(TransformStep(name="w", invert=True, type="field", order=2), TransformStep(name="-a", order=1)),
        numeric_inverse=("w",),
        reference="ref.nii",
        antialias=False,
        interpolation="bspline",
        resolution_mm=0.07,
        threads=3,
        memory_bytes=10**9,
    ),
    "region": lambda path: ExportRequest(
        path=path,
        channel="signal",
        output="x.nii",
        region={"labels_channel": "l", "select": ["CA1", "a, b"], "side": "left", "mask": True, "margin_vox": 3, "midline_mm": -2},
    ),
    "grid": lambda path: ExportRequest(path=path, channel="signal", output="c", grid=(0, 0, 0), size_mm=0.5, overlap_mm=0.1),
    "slices": lambda path: SlicesRequest(path=path, channel="signal", output="%d.png", axis=2, start=-4, step=2, roi=(1, 2, 3, 4)),
    "look": lambda path: SlicesRequest(path=path, channel="signal", output="%d.png", as_stored=True, contrast=(-1.5, 20)),
    "full": lambda path: SlicesRequest(path=path, channel="signal", output="%d.png", contrast="full"),
    "table": lambda path: RegionTableRequest(
        path=path,
        channel="signal",
        labels_channel="l",
        to_space="atlas",
        via=("a", "b"),
        side=True,
        midline_mm=-2,
        threshold=-0.5,
        percentiles=(0.5, 99),
        level=2,
        output="x.tsv",
        overwrite=True,
    ),
    "write": lambda path: request(path, "b", "planes").model_copy(update={"origin_mm": (-1.0, 0.0, 2.5), "compression": 3}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_become_command_lines(name: str, tmp_path: Path) -> None:
    asked = REQUESTS[name](tmp_path / "my brain.h5")
    slices = dict.fromkeys(("slices", "look", "full"), "export-slices")
    operation = {**slices, "write": "write", "table": "region-table"}.get(name, "export")
    record = LogRecord(name="n", time=datetime.now(UTC), operation=operation, request=asked.model_dump(mode="json"))
    line = command_line(record, "unused")
    assert line is not None
    program, *words = shlex.split(line)
    assert program == "lsfm-core"
    assert _parsed(words) == asked


def test_lines_of_the_log_can_be_run(brain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_channel(ExportRequest(path="brain.h5", channel="signal", output="x.nii.gz", resolution_mm=0.1))
    with contextlib.chdir("/"):
        assert main(["log", str(brain), "--command"]) == 0
    first, line = capsys.readouterr().out.splitlines()
    assert first.startswith("# 1 write: no command line")
    command = "lsfm-core export brain.h5 --channel=signal --output=x.nii.gz --resolution=0.1"
    assert line == f"cd {shlex.quote(str(tmp_path))} && {command}  # 2"
    data = Path("x.nii.gz").read_bytes()
    Path("x.nii.gz").unlink()
    (tmp_path / "lsfm-core").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lsfm_core.cli "$@"\n')
    (tmp_path / "lsfm-core").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", line], cwd="/", env=environment, check=True, capture_output=True)
    assert Path("x.nii.gz").read_bytes() == data


def test_gzip_does_not_depend_on_pieces_and_threads() -> None:
    data = np.random.default_rng(0).integers(0, 50, 5_000_003, dtype=np.uint8).tobytes()

    def compressed(threads: int, *pieces: int) -> bytes:
        file = io.BytesIO()
        with gzip_stream(file, threads) as stream:
            start = 0
            for piece in itertools.cycle(pieces):
                stream.write(data[start : start + piece])
                start += piece
                if start >= len(data):
                    break
        return file.getvalue()

    whole = compressed(1, len(data))
    assert gzip.decompress(whole) == data
    for pieces in ((2**20,), (100_000,), (352, 3 * 2**20 + 17), (2**20 - 1, 1, 5)):
        for threads in (1, 3):
            assert compressed(threads, *pieces) == whole, (pieces, threads)


FORMATS = [".nii", ".nii.gz", ".nrrd", ".mha", ".tif", ".ome.tif", ".ome.zarr", ".npy"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_replay_gives_the_same_bytes(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "brain.h5"
    # Several blocks of gzip's, so that pieces and threads could make a difference.
    image = np.random.default_rng(5).integers(0, 99, (60, 110, 80), dtype=np.uint16)
    ingest_channel(request(path, "signal", image))
    output = tmp_path / f"x{suffix}"
    memory = (230 if suffix == ".ome.zarr" else 200) * 10**6
    first = ExportRequest(path=path, channel="signal", output=output, resolution_mm=0.03, threads=1, memory_bytes=memory)
    written = export_channel(first).written
    assert written is not None
    # Other pieces, and other threads.
    other = first.model_copy(update={"output": tmp_path / f"y{suffix}", "threads": 4, "memory_bytes": 2 * 10**9})
    again = export_channel(other).written
    assert again is not None
    assert again.checksum == written.checksum
    assert main(["replay", str(path), "2"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["replay", str(path), "2", "--output", str(tmp_path / f"z{suffix}")]) == 0
    assert "identical" in capsys.readouterr().out
    assert main(["replay", str(path), log(path)[1].name, "--overwrite"]) == 0


def test_replay_of_pieces_and_from_elsewhere(brain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savetxt("a.txt", np.diag([1.0, 1, 1, 1]))
    export_chunks(ExportRequest(path="brain.h5", channel="signal", grid=(0, 0, 0), size_mm=0.5, output="c"))
    export_slices(SlicesRequest(path="brain.h5", channel="signal", output="p_%d.tif", step=3))
    export_channel(ExportRequest(path="brain.h5", channel="signal", transforms="a.txt", output="x.nii"))
    (tmp_path / "sub").mkdir()
    with contextlib.chdir(tmp_path / "sub"):
        assert main(["replay", "../brain.h5", "2", "--output", "d"]) == 0
        assert main(["replay", "../brain.h5", "3", "--output", "q_%d.tif"]) == 0
        assert main(["replay", "../brain.h5", "4", "--output", "y.nii"]) == 0
    assert Path("sub/y.nii").read_bytes() == Path("x.nii").read_bytes()
    assert Path("sub/q_3.tif").read_bytes() == Path("p_3.tif").read_bytes()
    assert capsys.readouterr().out.count("identical") == 3


def test_replay_says_what_differs(brain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matrix = np.eye(4)
    np.savetxt("a.txt", matrix)
    export_channel(ExportRequest(path="brain.h5", channel="signal", transforms="a.txt", output="x.nii"))
    matrix[0, 3] = 0.013
    np.savetxt("a.txt", matrix)
    assert main(["replay", "brain.h5", "2", "--output", "y.nii"]) == 1
    assert "a.txt has changed" in capsys.readouterr().err
    assert main(["replay", "brain.h5", "1"]) == 3
    assert "was in the memory of a Python program" in capsys.readouterr().err
    assert main(["replay", "brain.h5", "77"]) != 0
    assert "no record '77'" in capsys.readouterr().err
