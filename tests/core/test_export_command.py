"""Requests as command lines: the command's own parser, behind a shell, understands what was meant."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsfm_core import ExportRequest, IngestRequest, InputError, PointsRequest, RegionSelection, TransformStep, request_command
from lsfm_core.cli import build_parser, main


def read_back(words: list[str]) -> Any:
    """By way of a real shell."""
    script = f"{sys.executable} -c 'import sys, json; print(json.dumps(sys.argv[1:]))' {shlex.join(words)}"
    through_shell: list[str] = json.loads(subprocess.check_output(["/bin/sh", "-c", script]))
    assert through_shell == words
    arguments = build_parser().parse_args(through_shell[1:])
    return arguments.request_of(arguments)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"path": "odd name; $(date)'s.h5", "output": "it's here.nii.gz", "channel": "-c"},
        {"level": 0, "resolution_mm": (0.1, 0.025, 1 / 3), "output_orientation": "lps", "interpolation": "bspline", "fill": -5.5},
        {"origin_mm": (-1.5, 0, 1e-7), "size_mm": 2, "snap": True, "overwrite": True, "antialias": False, "threads": 3},
        {"output": "chunks", "grid": (0, 0, 0), "size_mm": (1, 2, 3), "overlap_mm": 0.1, "memory_bytes": 123_456_789},
        {
            "transforms": (
                "a", "b:invert", TransformStep(name="c", type="field", invert=True), "/a,b/c.mat", TransformStep(name="d:invert"),
            ),
            "numeric_inverse": ("b", "c"), "reference": "template 100.nii.gz", "orientation": "AIR",
        },
        {"region": RegionSelection(labels_channel="atlas", select=("Field CA1, part", 7, -3), include_descendants=True)},
        {"region": RegionSelection(labels_channel="atlas", select=("TH",), side="left", midline_mm=-0.5, margin_mm=0.2, mask=True)},
        {"region": RegionSelection(labels_channel="atlas", select=("TH",), margin_vox=3, labels_in="output")},
    ],
)  # fmt: skip
def test_an_export_command_says_what_the_request_says(fields: dict[str, Any]) -> None:
    request = ExportRequest(**({"path": "brain.h5", "channel": "autofluo", "output": "out.nii.gz"} | fields))
    found = read_back(request_command(request))
    if request.region is not None:
        # The command line has no other numbers than texts here; both are looked up alike.
        ids = tuple(map(str, request.region.select))
        request = request.model_copy(update={"region": request.region.model_copy(update={"select": ids})})
    assert found == request


@pytest.mark.parametrize(
    "fields",
    [
        {"points": Path("odd name; $(date)'s.csv"), "channel": "-c", "columns": ("a", "b c", "d"), "level": 2},
        {"points": Path("cells.xml"), "marker_type": (1, 2), "transforms": ("a", "b:invert"), "numeric_inverse": ("b",)},
        {
            "points": Path("p.tsv"), "source": "native-mm", "target": "output-voxel", "reference": "t.nii",
            "overwrite": True, "labels_channel": "atlas", "labels_in": "output", "midline_mm": -0.5, "counts": Path("n.csv"),
            "memory_bytes": 123_456_789,
        },
        {"points": Path("p.csv"), "to_space": "template", "via": ("structural",), "orientation": "AIR", "threads": 3},
    ],
)  # fmt: skip
def test_a_command_for_points_says_what_the_request_says(fields: dict[str, Any]) -> None:
    request = PointsRequest(**({"path": "brain.h5", "channel": "cfos", "output": "out.csv"} | fields))
    assert read_back(request_command(request)) == request


def test_points_that_are_no_file_have_no_command() -> None:
    with pytest.raises(InputError, match="path"):
        request_command(PointsRequest(path="brain.h5", channel="cfos", points=np.zeros((1, 3)), output="out.csv"))
    with pytest.raises(InputError, match="name one"):
        request_command(PointsRequest(path="brain.h5", channel="cfos", points="cells.csv"))


def test_defaults_are_left_out() -> None:
    request = ExportRequest(path="brain.h5", channel="autofluo", output="out.nii.gz")
    assert request_command(request) == ["lsfm-core", "export", "brain.h5", "--channel=autofluo", "--output=out.nii.gz"]


def test_what_no_export_command_can_say_is_refused() -> None:
    with pytest.raises(InputError, match="name one"):
        request_command(ExportRequest(path="brain.h5", channel="autofluo"))
    region = RegionSelection(labels_channel="atlas", select=("TH",), margin_mm=1, margin_vox=1)
    with pytest.raises(InputError, match="margin_vox"):
        request_command(ExportRequest(path="brain.h5", channel="autofluo", output="out.nii", region=region))


@pytest.mark.parametrize(
    "fields",
    [
        {"image": "planes/img_*_C01.tif", "voxel_size_mm": (0.05, 0.00162, 1 / 3), "orientation": "AIR", "image_channel": 1},
        {"image": "-atlas; $(date)'s.nii.gz", "kind": "labels", "labels": "it's.txt", "ontology": "tree.csv", "replace": True},
        {"image": "warp.nii.gz", "kind": "vectors", "inverse_of": "back", "origin_mm": (-1.5, 0, 1e-7), "metadata": "m.json"},
        {"image": "a.tif", "memory_bytes": 123_456_789, "threads": 3, "compression": 0, "uint16_as_int16": True, "resume": True},
    ],
)
def test_an_ingest_says_what_the_request_says(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    request = IngestRequest(**({"path": "brain.h5", "channel": "-autofluo"} | fields))
    found: list[IngestRequest] = []

    def ingest(request: IngestRequest, **_: Any) -> None:
        found.append(request)
        raise InputError("that is all")

    monkeypatch.setattr("lsfm_core.ingest.ingest_channel", ingest)
    assert main(shlex.split(shlex.join(request_command(request)))[1:]) != 0
    assert found == [request]


def test_an_array_has_no_request_command() -> None:
    with pytest.raises(InputError, match="path"):
        request_command(IngestRequest(path="brain.h5", channel="a", image=np.zeros((2, 2, 2))))
    with pytest.raises(InputError, match="checkpoint_seconds"):
        request_command(IngestRequest(path="brain.h5", channel="a", image="a.tif", checkpoint_seconds=5))
