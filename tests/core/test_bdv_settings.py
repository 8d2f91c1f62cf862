"""What BigDataViewer shows at first, and how channels are numbered for it and for others' readers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import npy2bdv
import numpy as np
import pytest

from lsfm_core import IngestRequest, edit_lsfm, ingest_channel
from lsfm_core.cli import main

Array = np.ndarray[Any, Any]


@pytest.fixture
def brain(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    data = {"a": rng.integers(100, 900, (6, 8, 10), dtype=np.uint16), "b": rng.random((6, 8, 10), dtype=np.float32)}
    data |= {"atlas": rng.integers(0, 9, (6, 8, 10), dtype=np.uint32)}
    for name, array in data.items():
        kind: Any = "labels" if name == "atlas" else "image"
        ingest_channel(
            IngestRequest(
                path=tmp_path / "brain.h5", channel=name, image=array, kind=kind, voxel_size_mm=(1, 1, 1), orientation="SAR"
            )
        )
    return tmp_path / "brain.h5"


def settings(path: Path) -> ElementTree.Element:
    """As BigDataViewer reads it, with the counts that it insists on."""
    root = ElementTree.parse(path.with_name("brain.settings.xml")).getroot()
    count = len(ElementTree.parse(path.with_suffix(".xml")).findall(".//ViewSetup"))
    assert len(root.findall("ViewerState/Sources/Source")) == count
    assert len(root.findall("ViewerState/SourceGroups/SourceGroup")) == 10
    assert len(root.findall("SetupAssignments/ConverterSetups/ConverterSetup")) == count
    assert len(root.findall("ManualSourceTransforms/SourceTransform")) == count
    groups = [group.findtext("id") for group in root.findall("SetupAssignments/MinMaxGroups/MinMaxGroup")]
    assert groups == [setup.findtext("groupId") for setup in root.findall("SetupAssignments/ConverterSetups/ConverterSetup")]
    return root


def test_images_are_shown_in_their_ranges_and_labels_are_not(brain: Path) -> None:
    root = settings(brain)
    assert [source.findtext("active") for source in root.findall("ViewerState/Sources/Source")] == ["true", "true", "false"]
    a, b, _ = root.findall("SetupAssignments/ConverterSetups/ConverterSetup")
    assert 100 <= int(a.findtext("min", "")) < int(a.findtext("max", "")) <= 900
    assert 0 <= float(b.findtext("min", "")) < float(b.findtext("max", "")) <= 1
    # 0xff00ff00 and 0xffff00ff as Java's int.
    assert [a.findtext("color"), b.findtext("color")] == ["-16711936", "-65281"]
    with edit_lsfm(brain) as editor:
        editor.set_look("a", display_range=(7, 70), colormap="#ff0000")
    a = settings(brain).findall("SetupAssignments/ConverterSetups/ConverterSetup")[0]
    assert [a.findtext(tag) for tag in ("min", "max", "color")] == ["7", "70", "-65536"]


def test_settings_follow_the_channels_and_are_never_taken_from_a_user(brain: Path) -> None:
    assert main(["rename-channel", str(brain), "--channel", "b", "--to", "c"]) == 0
    assert main(["remove-channel", str(brain), "--channel", "a"]) == 0
    assert len(settings(brain).findall("ViewerState/Sources/Source")) == 2
    path = brain.with_name("brain.settings.xml")
    changed = path.read_bytes().replace(b"<active>false<", b"<active>true<")
    path.write_bytes(changed)
    assert main(["remove-channel", str(brain), "--channel", "c"]) == 0
    assert path.read_bytes() == changed
    path.unlink()
    assert main(["xml", str(brain)]) == 0
    assert len(settings(brain).findall("ViewerState/Sources/Source")) == 1
    copy = brain.with_name("copy.h5")
    assert main(["repack", str(brain), "--output", str(copy)]) == 0
    assert copy.with_name("copy.settings.xml").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_settings_that_cannot_be_written_block_nothing(brain: Path) -> None:
    brain.with_name("brain.settings.xml").unlink()
    brain.with_name("brain.settings.xml").mkdir()
    assert main(["remove-channel", str(brain), "--channel", "a"]) == 0


def test_channels_are_numbered_without_gaps(brain: Path) -> None:
    with edit_lsfm(brain) as editor:
        editor.remove_channel("b")
    root = ElementTree.parse(brain.with_suffix(".xml"))
    assert [e.text for e in root.iterfind(".//ViewSetup/attributes/channel")] == ["0", "1"]
    names = {e.findtext("id"): e.findtext("name") for e in root.iterfind(".//Attributes[@name='channel']/Channel")}
    assert names == {"0": "a", "1": "atlas"}
    reader = npy2bdv.BdvEditor(str(brain))
    try:
        assert reader.read_view(channel=0).shape == (6, 8, 10)
    finally:
        reader.finalize()


def test_other_programs_limits_are_told_when_they_are_met(tmp_path: Path) -> None:
    def write(name: str, channel: str, array: Array, kind: Any = "image", edge: float = 1) -> tuple[str, ...]:
        size = (edge, edge, edge)
        return ingest_channel(
            IngestRequest(path=tmp_path / name, channel=channel, image=array, kind=kind, voxel_size_mm=size, orientation="SAR")
        ).warnings

    image = np.ones((6, 8, 10), np.uint16)
    assert write("brain.h5", "a", image) == ()
    assert write("brain.h5", "same", image) == ()
    # What BigDataViewer does not show, Bio-Formats does not either.
    assert write("brain.h5", "field", np.ones((6, 8, 10, 3), np.float32), "vectors") == ()
    (said,) = write("brain.h5", "ids", image.astype(np.uint32), "labels")
    assert "differ in type:" in said and "Bio-Formats" in said and "Open XML/HDF5" in said
    (said,) = write("brain.h5", "larger", np.ones((7, 9, 11), np.uint16), edge=2)
    assert "differ in size, type, voxel size:" in said
    (said,) = write("Gehirn_\u00c4.h5", "a", image)
    assert "Bio-Formats" in said and "ASCII" in said
    assert write("a&b.h5", "a", image) == ()
