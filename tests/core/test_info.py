"""What `info` tells, from the library and at the command line, and how little of a file it touches."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import jsonschema
import numpy as np
import pytest

from lsfm_core import IngestRequest, Orientation, Space, UnknownChannelError, describe_file, ingest_channel, open_lsfm
from lsfm_core.cli import main
from lsfm_core.formats.arrays import ArraySource
from lsfm_core.info import FileInfo, info_schema
from lsfm_core.pyramid import plan_levels
from lsfm_core.records import FileRecord
from lsfm_core.store import edit_lsfm
from lsfm_core.testing import write_series
from lsfm_core.transforms import Affine

from . import children

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a file with something of each kind. Not to be changed: `everything` is a copy."""
    tmp_path = tmp_path_factory.mktemp("made")
    path = tmp_path / "brain.h5"
    volume = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)
    series = write_series(tmp_path / "series", volume)
    (tmp_path / "labels.csv").write_text("id,name,parent,color\n1,Whole,,\n2,Part,1,0A141E\n")
    request = {"path": path, "voxel_size_mm": (0.05, 0.04, 0.03), "orientation": "AIR"}
    ingest_channel(IngestRequest(**request, channel="autofluo", image=str(series)))
    ingest_channel(
        IngestRequest(
            **request, channel="atlas", image=str(series), kind="labels", labels=tmp_path / "labels.csv", space="autofluo"
        )
    )
    sides = {"space": "template", "from_space": "aligned"}
    for name, inverse in (("inverse_warp", {}), ("warp", {"inverse_of": "inverse_warp", **sides})):
        source = ArraySource(np.zeros((4, 4, 4, 3), np.float32), kind="vectors")
        source.space = Space.from_orientation((4, 4, 4), (0.1, 0.1, 0.1), Orientation("SAR"))
        ingest_channel(IngestRequest(path=path, channel=name, kind="vectors", image=source, **inverse))
    with edit_lsfm(path) as editor:
        affine = Affine(np.array([[2.0, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]))
        editor.write_affine("autofluo", "to_template", affine.matrix, affine.to_itk(), False)
        editor.set_metadata("specimen", "mouse-42")
        editor.set_metadata("antibodies", ["c-Fos", {"dilution": 0.002}], channel="autofluo")
        editor.set_acquisition("autofluo", json.dumps({"objective": "4x"}))
    return tmp_path


@pytest.fixture
def everything(made: Path, tmp_path: Path) -> Path:
    """A file with something of each kind."""
    return Path(shutil.copytree(made, tmp_path, dirs_exist_ok=True)) / "brain.h5"


def run(*arguments: str | Path) -> str:
    """What a command line prints, in a process of its own."""
    command = [sys.executable, "-m", "lsfm_core.cli", *map(str, arguments)]
    return children.run(command, capture_output=True, text=True, check=True).stdout


def masked(facts: Any) -> Any:
    """Without what differs from machine to machine, and from version to version."""
    if isinstance(facts, dict):
        # A source's size, but not the extent's.
        own = {"bytes", "stored_bytes", "path", "crc32"} | ({"size"} if "crc32" in facts else set())
        return {key: "#" if key in own else masked(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [masked(value) for value in facts]
    if isinstance(facts, float):
        return round(facts, 9)
    return re.sub(r"lsfm-core [\w.+]+", "lsfm-core #", facts) if isinstance(facts, str) else facts


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("info", ["info", "brain.h5", "--sources", "--json"]),
        ("verify", ["verify", "brain.h5", "--json"]),
        ("metadata", ["get-metadata", "brain.h5", "--channel", "autofluo", "--json"]),
    ],
)
def test_json_is_what_it_was(name: str, arguments: list[str], everything: Path) -> None:
    found = masked(json.loads(run(arguments[0], everything, *arguments[2:])))
    assert found == json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))


def test_the_json_keeps_to_its_schema(everything: Path, legacy_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["info", "--schema"])
    schema = json.loads(capsys.readouterr().out)
    assert schema == info_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in (everything, legacy_file):
        assert main(["info", str(path), "--json"]) == 0
        text = capsys.readouterr().out
        assert text.isascii()
        jsonschema.validate(json.loads(text), schema)
        assert FileInfo.model_validate_json(text).to_json() == text.strip()
    described = [definition for definition in schema["$defs"].values() if definition.get("type") == "object"]
    assert all("description" in definition for definition in described)


def test_the_table_tells_of_everything(everything: Path) -> None:
    text = run("info", everything)
    for line in (
        "brain.h5: 4 channel(s)",
        "autofluo: image, uint16, BigDataViewer setup 0, written by lsfm-core",
        "BigDataViewer XML: brain.xml",
        "specimen: mouse-42",
        "AIR (origin at psl): axis 0 planes: posterior -> anterior",
        "to_template: rotates by 0.00 degrees, stretches by 2.0000 x 1.0000 x 1.0000, moves the origin by (1.000, 2.000, 3.000)",
        'antibodies: ["c-Fos", {"dilution": 0.002}]',
        "objective: 4x",
        "3 file(s)",
        "2 entries, 1 with colour, with ontology",
        "space        native of autofluo",
        "(1.000, 2.000, 3.000) mm R, A, S; from native of autofluo to ?",
        "adds a displacement",
        "to the input space; from aligned to template",
        "to the input space; from template to aligned",
        "inverse      inverse_warp",
    ):
        assert line in text
    assert "warning" not in text
    assert "timepoints" not in text
    only = run("info", everything, "--channel", "atlas")
    assert "\natlas: labels" in only
    assert "\nautofluo:" not in only


def test_a_flat_table_of_labels_has_no_ontology(small_file: Path) -> None:
    with open_lsfm(small_file) as file:
        facts = describe_file(file)
    labels = {channel.name: channel.labels for channel in facts.channels}
    assert labels["autofluo"] is None and labels["atlas"] is not None
    assert (labels["atlas"].entries, labels["atlas"].with_colour, labels["atlas"].has_ontology) == (2, 0, False)


def test_labels_whose_space_is_not_known_are_warned_of(everything: Path) -> None:
    assert main(["set-space", str(everything), "--channel", "atlas", "--space", "?", "--quiet"]) == 0
    text = run("info", everything)
    assert "space        not recorded" in text
    (warning,) = (line for line in text.splitlines() if "warning" in line)
    assert f"lsfm-core set-space {everything} --channel atlas --space NAME" in warning


def test_lsfmpys_faults_are_warned_of(legacy_file: Path, tmp_path: Path) -> None:
    for name in ("mouse42.h5", "mouse42.xml"):
        shutil.copyfile(legacy_file.parent / name, tmp_path / name)
    with open_lsfm(tmp_path / "mouse42.h5") as file:
        facts = describe_file(file)
        with pytest.raises(UnknownChannelError):
            describe_file(file, "nothing")
    assert facts.metadata == {"specimen": "mouse-42"}
    assert facts.written_by == ("lsfmpy",)
    assert facts.xml.state == "disagrees"
    assert any("9 channels, there are 3" in warning for warning in facts.warnings)
    assert any("(128, 193, 271)" in warning and "(133, 193, 271)" in warning for warning in facts.warnings)
    channel = facts.channels[0]
    assert channel.axcodes is None and channel.extent is None
    for fault in ("no orientation", "32767", "padding"):
        assert any(fault in warning for warning in channel.warnings)
    assert "not recorded" in (facts.channels[1].field or "")


def test_the_state_of_the_xml_and_mirrored_images(everything: Path, tmp_path: Path) -> None:
    def facts() -> FileInfo:
        with open_lsfm(everything) as file:
            return describe_file(file)

    assert facts().xml.state == "present"
    assert facts().channels[0].left_handed is False
    xml = everything.with_suffix(".xml")
    xml.write_text(xml.read_text().replace("<size>5 4 3</size>", "<size>5 4 7</size>"))
    assert facts().xml.state == "disagrees"
    assert any("(7, 4, 5)" in defect for defect in facts().xml.defects)
    xml.unlink()
    assert facts().xml.state == "missing"
    request = IngestRequest(
        path=tmp_path / "m.h5", channel="a", image=str(tmp_path / "series"), voxel_size_mm=(1, 1, 1), orientation="PIR"
    )
    ingest_channel(request)
    with open_lsfm(tmp_path / "m.h5") as file:
        (channel,) = describe_file(file).channels
    assert channel.left_handed is True
    assert "left-handed" in channel.warnings[0]


@pytest.fixture(scope="session")
def vast_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 GB of voxels by its shape: each of 43,000 chunks is ten bytes of rubbish."""
    path, shape = tmp_path_factory.mktemp("vast") / "vast.h5", (2048, 3072, 3584)
    space = Space.from_orientation(shape, (0.005, 0.004, 0.004), Orientation("AIR"))
    levels = plan_levels(shape, space.voxel_size_mm, 2)
    with edit_lsfm(path) as editor:
        writer = editor.create_channel(
            "autofluo", kind="image", dtype="u2", components=1, levels=levels, space=space, compression=1
        )
        for index, level in enumerate(levels):
            for start in itertools.product(*[range(0, n, c) for n, c in zip(level.shape, level.chunks, strict=True)]):
                writer.write_chunk(index, start, b"0123456789")
        sources = [FileRecord(f"plane_{index:04d}.tif", 22_000_000, index) for index in range(shape[0])]
        writer.finish(percentiles=(), non_finite=0, sources=sources)
    return path


@pytest.mark.slow
def test_a_vast_file_is_described_without_its_voxels(vast_file: Path) -> None:
    calls = []
    sys.setprofile(lambda frame, event, argument: calls.append(event))
    try:
        with open_lsfm(vast_file) as file:
            facts = describe_file(file)
    finally:
        sys.setprofile(None)
    level = facts.channels[0].levels[0]
    assert level.raw_bytes == 2048 * 3072 * 3584 * 2
    chunks = np.prod([-(-n // c) for n, c in zip(level.shape, level.chunks, strict=True)])
    assert level.stored_bytes == 10 * chunks
    # Who goes through them one by one has something to call for each.
    started = sum(event in ("call", "c_call") for event in calls)
    assert started < chunks
    assert facts.channels[0].sources is not None
    assert facts.channels[0].sources.count == 2048


def test_the_table_of_sources_is_read_when_asked_for(everything: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    plain = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, *index: read.append(self.name) or plain(self, *index))
    with open_lsfm(everything) as file:
        channel = file["autofluo"]
        assert not [name for name in read if name.endswith("SOURCES")]
        assert [source.name for source in channel.sources] == [f"plane_{index:04d}.tif" for index in range(3)]
        assert len(channel.sources) == 3
    assert len([name for name in read if name.endswith("SOURCES")]) == 1
