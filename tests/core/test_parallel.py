"""Work beyond one machine: items made in shards, by executors and by Dask's workers; always what one machine makes."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import lsfm_core
from lsfm_core import (
    CancelledError,
    CancelToken,
    ExportRequest,
    InputError,
    MissingError,
    StorageError,
    export_channel,
    export_chunks,
    make_shard,
    open_lsfm,
    region_table,
    shards_status,
)
from lsfm_core.cli import main
from lsfm_core.export import RegionTableRequest
from lsfm_core.parallel import Division, Item, Maker, Share, carry_out, cluster
from lsfm_core.progress import Progress

DOCS = Path(__file__).parents[2] / "docs"

CASES = {
    "a.nii.gz": "export --channel autofluo --transform moved --resolution 0.03",
    "a.npy": "export --channel autofluo",
    "a.ome.zarr": "export --channel atlas",
    "chunks": "export --channel autofluo --grid 0,0,0 --size 0.5 --overlap 0.1",
    "planes/s_%03d.tif": "export-slices --channel autofluo --axis 1 --range 2,20,3",
    "table.csv": "region-table --channel autofluo --labels-channel atlas --side",
}


def command(file: Path, case: str, folder: Path, *more: str) -> list[str]:
    verb, *options = CASES[case].split()
    return [verb, str(file), *options, "--output", str(folder / case), "--quiet", *more]


def content(folder: Path, case: str) -> dict[str, Any]:
    """All files of an output, unpacked; of manifests what does not tell where and how it was made."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and ".lsfm-shards/" not in name:
            found[name] = path.read_bytes()
            if path.suffix == ".gz":
                found[name] = gzip.decompress(found[name])
            if path.name == "manifest.json":
                facts = json.loads(found[name])
                facts.pop("shards", None)
                facts["request"].pop("output")
                for row in facts["chunks"]:
                    row.pop("shard", None)
                found[name] = facts
    assert found, case
    return found


@pytest.fixture(scope="module")
def brain(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parallel") / "brain.h5"
    path.write_bytes(small_file.read_bytes())
    return path


@pytest.fixture(scope="module")
def whole(brain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one machine makes of all cases, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("whole")
    for number, case in enumerate(CASES):
        place = folder / str(number)
        place.mkdir()
        assert main(command(brain, case, place)) == 0
    return folder


def expected(whole: Path, case: str) -> dict[str, Any]:
    return content(whole / str([*CASES].index(case)), case)


# --- shards ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_union_of_shards_is_what_one_machine_makes(case: str, brain: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / case
    assert main(command(brain, case, tmp_path, "--shard", "2/3")) == 0
    assert main(["status", str(output), "--quiet"]) == 1
    parts = tmp_path / f"{case}.lsfm-shards"
    made = [path for path in parts.rglob("*") if path.is_file() and path.parent.name == "0000"]
    if made:
        made[0].write_bytes(b"damaged")
        assert main(["status", str(output), "--quiet"]) == 4
        status = shards_status(output)
        (bad,) = (item for item in status.items if item.state == "damaged")
        assert bad.shard == 2 and bad.name in status.describe()
        # Only that is made again.
        before = {path: path.stat().st_mtime_ns for path in made[1:]}
        assert main(command(brain, case, tmp_path, "--shard", "2/3")) == 0
        assert {path: path.stat().st_mtime_ns for path in made[1:]} == before
        assert shards_status(output).count("damaged") == 0
    for shard in ("3/3", "1/3"):
        # Of this little there is but one item of the table, which another shard has.
        assert (
            case == "table.csv"
            or [path for path in tmp_path.rglob("*") if ".lsfm-shards" not in str(path) and path.is_file()] == []
        )
        assert main(command(brain, case, tmp_path, "--shard", shard)) == 0
    assert content(tmp_path, case) == expected(whole, case)
    assert main(["status", str(output), "--quiet"]) == 0
    # Nothing is left to do.
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert main(command(brain, case, tmp_path, "--shard", "1/3")) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == times
    assert main(["status", str(output), "--quiet"]) == 0


def test_a_manifest_tells_which_shard_made_what_and_merge_reads_it(brain: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        assert main(command(brain, "chunks", tmp_path, "--shard", f"{number}/2")) == 0
    manifest = json.loads((tmp_path / "chunks" / "manifest.json").read_text())
    shards = [row["shard"] for row in manifest["chunks"]]
    assert manifest["shards"] == 2 and shards == sorted(shards) and {*shards} == {1, 2}
    assert main(["merge", str(tmp_path / "chunks"), "--output", str(tmp_path / "all.nii"), "--quiet"]) == 0
    with open_lsfm(brain) as file:
        ras = np.asarray(file["autofluo"].levels[0]).transpose(2, 0, 1)[:, :, ::-1]
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "all.nii").dataobj), ras)
    # A chunk that somebody has worked on is not replaced without a word; one that is gone is made again.
    rows = manifest["chunks"]
    (tmp_path / "chunks" / rows[0]["file"]).write_bytes(b"worked on")
    (tmp_path / "chunks" / rows[1]["file"]).unlink()
    states = [item.state for item in shards_status(tmp_path / "chunks").items]
    assert states[:2] == ["damaged", "missing"] and {*states[2:]} == {"done"}
    assert main(command(brain, "chunks", tmp_path, "--shard", "1/2")) == 1
    assert main(command(brain, "chunks", tmp_path, "--shard", "1/2", "--overwrite")) == 0
    assert shards_status(tmp_path / "chunks").complete


def test_what_does_not_belong_together_is_refused(
    brain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def complaint(*words: str) -> str:
        assert main(list(words)) in (1, 3)
        return capsys.readouterr().err

    file = tmp_path / "brain.h5"
    file.write_bytes(brain.read_bytes())
    assert main(command(file, "a.npy", tmp_path, "--shard", "1/3")) == 0
    assert re.search("divided into 3 shards, not 4", complaint(*command(file, "a.npy", tmp_path, "--shard", "1/4")))
    other = complaint(*command(file, "a.npy", tmp_path, "--shard", "2/3", "--fill", "7"))
    assert "another request (fill: None, not 7.0)" in other and "a.npy.lsfm-shards" in other
    monkeypatch.setattr("lsfm_core.parallel._ledger.program_version", lambda: "99")
    assert re.search("made by version .* this is 99", complaint(*command(file, "a.npy", tmp_path, "--shard", "2/3")))
    monkeypatch.undo()
    assert main(["add-metadata", str(file), "weeks=12", "--quiet"]) == 0
    assert "brain.h5 as it was then, and it has changed since" in complaint(*command(file, "a.npy", tmp_path, "--shard", "2/3"))
    # An output that an older run left.
    (tmp_path / "old").mkdir()
    assert main(command(file, "a.npy", tmp_path / "old")) == 0
    assert "exists already" in complaint(*command(file, "a.npy", tmp_path / "old", "--shard", "1/2"))
    assert not (tmp_path / "old" / "a.npy.lsfm-shards").exists()
    assert "not being made in shards" in complaint("status", str(tmp_path / "old" / "a.npy"))
    for wrong, said in (("0/3", "count from 1"), ("4/3", "such as 2/3"), ("x", "such as 2/3")):
        assert said in complaint(*command(file, "a.npy", tmp_path, "--shard", wrong))
    assert "--dask and --shard" in complaint(*command(file, "a.npy", tmp_path, "--shard", "2/3", "--dask", "local"))
    with pytest.raises(InputError, match="make_shard"):
        export_channel(ExportRequest(path=file, channel="autofluo", output=tmp_path / "x.npy", shard="1/2"))
    with pytest.raises(InputError, match="name one"):
        make_shard(ExportRequest(path=file, channel="autofluo", shard="1/2"))


def test_the_manual_s_job_array(brain: Path, whole: Path, tmp_path: Path) -> None:
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", (DOCS / "clusters.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "export.sbatch").write_text(
        script.replace("--level 0", "").replace("cfos", "autofluo").replace("--size 1", "--size 0.5")
    )
    (tmp_path / "brain.h5").write_bytes(brain.read_bytes())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "SLURM_ARRAY_TASK_COUNT": "2", "PYTHONPATH": str(Path(lsfm_core.__file__).parents[1])}
    for number in ("2", "1"):
        environment = os.environ | own | {"SLURM_ARRAY_TASK_ID": number}
        subprocess.run(["bash", "export.sbatch"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    chunks = {name: data for name, data in expected(whole, "chunks").items() if name.endswith(".nii.gz")}
    found = {path.relative_to(tmp_path).as_posix(): gzip.decompress(path.read_bytes()) for path in tmp_path.rglob("*.nii.gz")}
    assert found == chunks


# --- executors ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers(Division):
    """Each item writes its number; before, it may wait, or fail as often as it is told."""

    place: Path
    seconds: float = 0
    faults: int = 0
    empty: bool = False

    @contextmanager
    def opened(self, share: Share) -> Iterator[Maker]:
        def make(item: Item, place: Path, cancel: CancelToken) -> list[Path]:
            time.sleep(self.seconds)
            tried = self.place / f"tried-{item.number}"
            if self.faults and item.number == 3:
                with tried.open("a") as file:
                    file.write("x")
                if tried.stat().st_size <= self.faults:
                    raise ZeroDivisionError("planted")
            if self.empty:
                return []
            (place / f"{item.number}.txt").write_text(str(item.number))
            return [place / f"{item.number}.txt"]

        yield make


def items(count: int) -> list[Item]:
    return [Item(number, f"item {number}") for number in range(count)]


def test_any_executor_makes_what_threads_make(brain: Path, whole: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        request = ExportRequest(path=brain, channel="autofluo", transforms=("moved",), resolution_mm=0.03)
        result = export_channel(request.model_copy(update={"output": tmp_path / "a.nii.gz"}), executor=pool)
        assert result.written is not None and result.written.size == (tmp_path / "a.nii.gz").stat().st_size
        grid = ExportRequest(
            path=brain, channel="autofluo", grid=(0, 0, 0), size_mm=0.5, overlap_mm=0.1, output=tmp_path / "chunks"
        )
        export_chunks(grid, executor=pool)
        table = RegionTableRequest(path=brain, channel="autofluo", labels_channel="atlas", side=True, output=tmp_path / "table.csv")
        assert region_table(table, executor=pool).rows == region_table(table.model_copy(update={"output": None})).rows
        with pytest.raises(InputError, match=r"executor: .* name one"):
            export_channel(request, executor=pool)
    found = content(tmp_path, "all")
    assert found == {name: data for case in ("a.nii.gz", "chunks", "table.csv") for name, data in expected(whole, case).items()}


def test_what_fails_is_tried_three_times(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        parts = [*carry_out(Numbers(tmp_path, faults=2), items(9), pool, tmp_path, Progress("x", 9))]
        assert sorted(part.item.number for part in parts) == [*range(9)]
        assert all(part.paths[0].read_text() == str(part.item.number) for part in parts)
        (tmp_path / "tried-3").unlink()
        with pytest.raises(StorageError, match=r"item 3.*failed 3 times: ZeroDivisionError: planted"):
            [*carry_out(Numbers(tmp_path, faults=3), items(9), pool, tmp_path, Progress("x", 9))]


def test_cancelling_stops_the_work_and_leaves_nothing(brain: Path, tmp_path: Path) -> None:
    cancel = CancelToken()

    def stop(stage: str, done: int, total: int) -> None:
        if done:
            cancel.cancel()

    request = ExportRequest(path=brain, channel="autofluo", output=tmp_path / "a.nii")
    with ThreadPoolExecutor(1) as pool, pytest.raises(CancelledError):
        export_channel(request, executor=pool, progress=stop, cancel=cancel)
    assert [*tmp_path.iterdir()] == []


# --- Dask -----------------------------------------------------------------------------------------------------------------------


#: A warning of its own, taken for an error, would keep a worker from being started again.
dask = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def workers(brain: Path) -> Iterator[Any]:
    """Two workers, shared by all that follow."""
    pytest.importorskip("distributed")
    # They find this module by the path that they inherit.
    sys.path.append(str(Path(__file__).parents[2]))
    try:
        with cluster("local:2", [brain]) as executor:
            yield executor
    finally:
        sys.path.pop()


@dask
def test_dask_s_workers_make_what_one_machine_makes(workers: Any, brain: Path, whole: Path, tmp_path: Path) -> None:
    address = workers._client.scheduler.address
    for case in ("a.nii.gz", "planes/s_%03d.tif"):
        assert main(command(brain, case, tmp_path, "--dask", address)) == 0
    found = {name: data for case in ("a.nii.gz", "planes/s_%03d.tif") for name, data in expected(whole, case).items()}
    assert content(tmp_path, "all") == found


@dask
def test_workers_that_are_killed_cost_their_batch_only(workers: Any, tmp_path: Path) -> None:
    killed = []

    def kill() -> None:
        for _ in range(2):
            time.sleep(0.5)
            pid = next(iter(workers._client.run(os.getpid).values()))
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    parts = [*carry_out(Numbers(tmp_path, seconds=0.05), items(60), workers, tmp_path, Progress("x", 60))]
    killer.join()
    assert len(killed) == 2
    assert sorted(part.item.number for part in parts) == [*range(60)]
    assert {path.read_text() for path in (tmp_path / "0000").iterdir()} == {str(number) for number in range(60)}


@dask
def test_many_items_are_few_tasks(workers: Any, tmp_path: Path) -> None:
    scheduler = workers._client.cluster.scheduler
    most, count = 0, 0
    for _ in carry_out(Numbers(tmp_path, empty=True), items(2000), workers, tmp_path, Progress("x", 2000)):
        most, count = max(most, len(scheduler.tasks)), count + 1
    assert count == 2000 and most <= 12


@dask
def test_bad_clusters_are_named_before_work_begins(
    workers: Any, brain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsfm_core.parallel._dask._ANSWER_SECONDS", 1)
    address = workers._client.scheduler.address

    def enter(where: str, *inputs: Path) -> Executor:
        with cluster(where, inputs) as executor:
            return executor

    with pytest.raises(StorageError, match="no scheduler of Dask's answers"):
        enter("tcp://127.0.0.1:9")
    with pytest.raises(MissingError, match=r"no such scheduler file: dask scheduler --scheduler-file"):
        enter(str(tmp_path / "scheduler.json"))
    with pytest.raises(InputError, match="expected an address"):
        enter("node7")
    with pytest.raises(InputError, match="local:N"):
        enter("local:x")
    # The workers see it no more.
    shown = tmp_path / "brain.h5"
    shown.write_bytes(b"x")
    sized = shown.stat()
    monkeypatch.setattr(Path, "stat", lambda path, **_: os.stat_result([*sized[:6], 7, *sized[7:]]))
    with pytest.raises(MissingError, match=r"brain\.h5: the worker at tcp://.* does not see it"):
        enter(address, shown)
    monkeypatch.undo()
    monkeypatch.setattr("lsfm_core.parallel._dask.program_version", lambda: "99")
    with pytest.raises(InputError, match=r"has version .* napari-lsfm, and this is 99"):
        enter(address)
