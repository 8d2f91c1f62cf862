"""What images tell of themselves: JSON out, JSON in, and who wins."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsfm_core import (
    ExistsError,
    IngestRequest,
    InputError,
    LsfmError,
    MissingError,
    Orientation,
    SourceError,
    Space,
    ingest_channel,
    open_lsfm,
)
from lsfm_core.cli import main
from lsfm_core.formats import PlaneFunction, Source
from lsfm_core.metadata import ImageMetadata, VoxelSize, describe_image, metadata_schema, read_metadata
from lsfm_core.records import FileRecord
from lsfm_core.testing import write_series

from . import children
from .effort import examples

SHAPE = (5, 40, 30)
#: All that must be there.
BARE: dict[str, Any] = {"schema_version": 1, "shape": None, "dtype": None, "voxel_size": None, "orientation": None}
UM = {"unit": "um", "planes": 5, "rows": 4, "columns": 4}
JSON_ORIGIN = {"unit": "mm", "right": 7, "anterior": 8, "superior": 9}


class Told(Source):
    """An image that tells whatever the test wants."""

    def __init__(self, **told: Any) -> None:
        self.name, self.shape, self.dtype = "told", SHAPE, np.dtype(np.uint16)
        for name, value in told.items():
            setattr(self, name, value)

    def read_plane(self, index: int, out: np.ndarray) -> FileRecord | None:
        out[:] = index
        return None


def affine_space(*angles: float) -> Space:
    """A space that is oblique if there are angles."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix(), (3, 3)) if angles else np.eye(3)
    matrix[:3, :3] = matrix[:3, :3] @ Orientation("PIR").direction @ np.diag((0.05, 0.04, 0.03))
    matrix[:3, 3] = (-3.5, 4.25, 1.75)
    return Space(SHAPE, matrix)


ALIGNED, OBLIQUE = affine_space(), affine_space(0.3, -0.2, 0.1)


@pytest.fixture
def planes(tmp_path: Path) -> Path:
    return write_series(tmp_path / "planes", np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE))


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write JSON with these fields beside the bare ones."""

    def run(name: str = "meta.json", **fields: Any) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps({**BARE, **fields}))
        return path

    return run


def ingested_space(tmp_path: Path, image: Any, **fields: Any) -> Space:
    path = tmp_path / f"{len(list(tmp_path.glob('*.h5')))}.h5"
    return ingest_channel(IngestRequest(path=path, channel="a", image=image, **fields)).space


# --- out ------------------------------------------------------------------------------------------------------------------------


def test_a_series_tells_its_shape_and_no_more(planes: Path) -> None:
    metadata = describe_image(planes)
    assert (metadata.format, metadata.dtype, metadata.image) == ("TIFF series", "uint16", str(planes))
    assert dict(metadata.shape or ()) == {"planes": 5, "rows": 40, "columns": 30}
    assert metadata.missing == ("voxel_size", "orientation")
    (planes / "plane_0004.tif").unlink()
    shape = describe_image(planes).shape
    assert shape is not None
    assert shape.planes == 4


def test_ome_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    size = {"PhysicalSizeZ": 5, "PhysicalSizeY": 4, "PhysicalSizeX": 4.5}
    facts = {**size, "Channel": {"Name": ["488", "µ-red"]}, "Name": "brain 7", "AcquisitionDate": "2024-05-01T12:00:00"}
    tifffile.imwrite(path, np.zeros((2, *SHAPE), np.uint16), metadata={"axes": "CZYX", **facts})
    with pytest.raises(InputError, match="2 channels"):
        describe_image(path)
    metadata = describe_image(path, channel=1)
    assert metadata.channel == "µ-red"
    assert metadata.channel_names == ("488", "µ-red")
    assert metadata.voxel_size is not None
    assert metadata.voxel_size.triple_mm == pytest.approx((0.005, 0.004, 0.0045))
    assert metadata.missing == ("orientation",)
    assert metadata.acquisition["name"] == "brain 7"
    assert metadata.acquisition["date"] == "2024-05-01T12:00:00"


def test_imagej(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    metadata = {"axes": "ZYX", "spacing": 5.0, "unit": "um", "Info": "objective 4x"}
    tifffile.imwrite(path, np.zeros(SHAPE, np.uint16), imagej=True, resolution=(1 / 4, 1 / 4), metadata=metadata)
    found = describe_image(path)
    assert found.format == "ImageJ TIFF"
    assert found.voxel_size == VoxelSize(planes=0.005, rows=0.004, columns=0.004, unit="mm")
    assert found.acquisition["Info"] == "objective 4x"


def test_a_full_affine_is_told_in_words_and_an_oblique_one_as_a_matrix_too() -> None:
    aligned, oblique = (describe_image(Told(space=space)) for space in (ALIGNED, OBLIQUE))
    assert aligned.orientation == oblique.orientation == "PIR"
    assert aligned.missing == oblique.missing == ()
    assert aligned.world_from_voxel is None
    assert aligned.origin is not None
    np.testing.assert_allclose(aligned.origin.triple_mm, (-3.5, 4.25 - 4 * 0.05, 1.75 - 39 * 0.04))
    assert oblique.origin is None
    np.testing.assert_array_equal(oblique.world_from_voxel, OBLIQUE.world_from_voxel)


@pytest.mark.parametrize("space", [None, ALIGNED, OBLIQUE])
def test_round_trip(space: Space | None, tmp_path: Path) -> None:
    # Whatever a source brings must become JSON.
    acquisition = {"a": np.float32(1.5), "b": float("nan"), "c": (1, {2: None}), "d": "µ \udcff", "e": Path("x"), "f": np.int64(3)}
    facts = {"format": "x", "channel": 1, "channel_names": ["", "b"], "acquisition": acquisition, "notes": ["odd"]}
    metadata = describe_image(Told(space=space, facts=facts), kind="image")
    assert metadata.acquisition == {"a": 1.5, "b": None, "c": [1, {"2": None}], "d": "µ \\udcff", "e": "x", "f": 3}
    path = tmp_path / "meta.json"
    metadata.write(path)
    assert read_metadata(path) == metadata
    assert json.loads(path.read_text())["missing"] == ([] if space else ["voxel_size", "orientation"])
    jsonschema.validate(json.loads(path.read_text()), metadata_schema())
    before = path.read_bytes()
    with pytest.raises(ExistsError):
        metadata.write(path)
    metadata.write(path, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_an_image_tells_must_be_possible() -> None:
    with pytest.raises(SourceError, match=r"told: .*voxel_size|told: .*planes"):
        describe_image(Told(voxel_size_mm=(1e300, 1, 1)))


def test_the_schema_is_a_schema_and_every_field_is_explained() -> None:
    schema = metadata_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    undocumented = {name for name, field in schema["properties"].items() if "description" not in field}
    assert undocumented <= {"shape", "voxel_size", "origin", "orientation"} - {"orientation"}, undocumented
    jsonschema.validate(BARE, schema)
    for fields in ({"colour": 1}, {"schema_version": 2}, {"voxel_size": {**UM, "unit": "pixel"}}, {"shape": {"planes": 1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**BARE, **fields}, schema)


# --- in -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "number"),
    [("nm", 1620.0), ("um", 1.62), ("µm", 1.62), ("\u03bcm", 1.62), ("mm", 0.00162), ("cm", 0.000162), ("m", 1.62e-6)],
)
def test_every_unit_is_converted_exactly(unit: str, number: float, save: Callable[..., Path]) -> None:
    metadata = read_metadata(save(voxel_size={"unit": unit, "planes": number, "rows": number, "columns": number}))
    assert metadata.voxel_size == VoxelSize(planes=0.00162, rows=0.00162, columns=0.00162, unit="mm")


NO_JSON = {
    "empty": b"",
    "a picture": b"II*\0\x08\0\0\0",
    "cut short": b'{"schema_version": 1',
    "not a number": b'{"schema_version": 1, "voxel_size": NaN}',
    "infinite": b'{"schema_version": 1e999}',
    "deep": b"[" * 100_000,
    "twice": b'{"dtype": "uint8", "dtype": "uint16"}',
    "an expression": b"__import__('os').getcwd()",
    "many digits": b'{"schema_version": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("case", NO_JSON)
def test_what_is_no_json_is_named(case: str, tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    path.write_bytes(NO_JSON[case])
    with pytest.raises(InputError, match=r"meta\.json: is not valid JSON"):
        read_metadata(path)


def test_what_cannot_be_a_metadata_file(tmp_path: Path) -> None:
    large = tmp_path / "large.tif"
    with large.open("wb") as file:
        file.truncate(2**24 + 1)
    for path, error, message in (
        (tmp_path / "none.json", MissingError, r"none\.json: no such file"),
        (tmp_path, MissingError, "is a folder"),
        (large, InputError, "larger than 16 MiB"),
        (Path("\0"), MissingError, "no such file"),
    ):
        with pytest.raises(error, match=message):
            read_metadata(path)
    (tmp_path / "text.json").write_text('"text"')
    with pytest.raises(InputError, match=r"text\.json: input should be an object, found"):
        read_metadata(tmp_path / "text.json")


DEFECTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"schema_version": 2}, ["schema_version: input should be 1, found 2"]),
    ({"colour": "red", "voxelsize": 1}, ["colour: is no field", "voxelsize: is no field"]),
    ({"shape": {"planes": "490", "rows": 0}}, ["shape.planes: ", 'found "490"', "shape.rows: ", "shape.columns: is missing"]),
    ({"shape": [1, 2, 3]}, ["shape: "]),
    ({"dtype": "uint17"}, ["dtype: ", 'found "uint17"']),
    ({"voxel_size": {**UM, "unit": "pixel"}}, ["voxel_size.unit: ", "'um'", 'found "pixel"']),
    ({"voxel_size": {"planes": 5, "rows": 4, "columns": 4}}, ["voxel_size.unit: is missing"]),
    ({"voxel_size": {**UM, "planes": 0, "rows": -1, "columns": "4 um"}}, [f"voxel_size.{name}: " for name in UM if name != "unit"]),
    ({"voxel_size": {**UM, "planes": 5e-324}}, ["voxel_size: every number must be a positive length"]),
    ({"voxel_size": 5}, ["voxel_size: ", "found 5"]),
    ({"orientation": "AAR"}, ["orientation 'AAR' names one body axis twice"]),
    ({"orientation": "up"}, ["orientation 'up': expected three letters"]),
    ({"orientation": ["A", "I", "R"]}, ["orientation: "]),
    ({"channel": True, "kind": "pictures"}, ["channel", "found true", "kind: "]),
    ({"origin": {"right": 0, "anterior": 0, "unit": "mm"}}, ["origin.superior: is missing"]),
    ({"world_from_voxel": [[1, 0, 0, 0], [0, 1, 0], 3]}, [f"world_from_voxel.{place}: " for place in ("1.3", "2", "3")]),
    ({"world_from_voxel": np.diag((1, 0, 1, 1)).tolist()}, ["world_from_voxel is singular"]),
    (
        {"world_from_voxel": np.eye(4).tolist(), "voxel_size": UM, "orientation": "AIR"},
        ["voxel_size [0.005, 0.004, 0.004]", "[1.0, 1.0, 1.0]", "AIR", "RAS"],
    ),
    ({"world_from_voxel": np.eye(4).tolist(), "origin": JSON_ORIGIN}, ["origin"]),
    ({"acquisition": [], "notes": "many", "channel_names": [1]}, ["acquisition: ", "notes: ", "channel_names.0: "]),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "parts"), DEFECTS)
def test_every_defect_is_named_at_once(fields: dict[str, Any], parts: list[str], save: Callable[..., Path]) -> None:
    with pytest.raises(InputError) as caught:
        read_metadata(save(**fields))
    assert "meta.json: " in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_fields_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    path.write_text("{}")
    with pytest.raises(InputError) as caught:
        read_metadata(path)
    assert [name for name in BARE if f"{name}: is missing" not in str(caught.value)] == []


def test_missing_is_worked_out_anew_and_editors_may_leave_a_mark(save: Callable[..., Path]) -> None:
    path = save(voxel_size=UM, missing=["voxel_size", "orientation"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_metadata(path).missing == ("orientation",)


NAMES = st.sampled_from([*ImageMetadata.model_fields, "unit", "planes", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
LIKELY = st.fixed_dictionaries(
    {
        **{name: st.just(value) | JSON for name, value in BARE.items()},
        "voxel_size": st.none() | st.fixed_dictionaries({name: JSON | st.just(value) for name, value in UM.items()}),
        "orientation": st.none() | st.sampled_from(["AIR", "psl"]) | st.text("RLAPSIx", max_size=4),
    },
    optional={
        "world_from_voxel": st.lists(st.lists(st.floats(), min_size=4, max_size=4), min_size=4, max_size=4),
        **dict.fromkeys(("channel", "acquisition", "notes", "missing", "origin"), JSON),
    },
)


def check_fuzzed(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        metadata = read_metadata(path)
    except LsfmError as error:
        assert path.name in str(error)  # noqa: PT017
        return
    metadata.write(path, overwrite=True)
    assert read_metadata(path) == metadata


@given(data=(JSON | LIKELY).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200))
@settings(max_examples=examples(400), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_is_read_or_refused(data: bytes, tmp_path: Path) -> None:
    check_fuzzed(tmp_path / "fuzz.json", data)


@given(data=st.data())
@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    whole = bytearray(describe_image(Told(space=OBLIQUE)).to_json().encode())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    check_fuzzed(tmp_path / "fuzz.json", bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@given(text=st.text() | st.text("0123456789.eE-+,; num", max_size=30))
def test_typed_voxel_sizes_are_understood_or_refused(text: str) -> None:
    try:
        assert VoxelSize.from_text(text).unit == "mm"
    except InputError as error:
        assert "three numbers and their unit" in str(error) or ":" in str(error)  # noqa: PT017


@pytest.mark.parametrize("text", ["5, 4, 4 um", "5 4 4um", " 5;4;4  µm ", "5e3,4e3,4e3 nm", "0.005,0.004,0.004 mm"])
def test_typed_voxel_sizes(text: str) -> None:
    assert VoxelSize.from_text(text).triple_mm == (0.005, 0.004, 0.004)


@pytest.mark.parametrize(
    "text", ["5, 4, 4", "5, 4 um", "um", "5, 4, four um", "5, 4, 4 pixel", "5, 4, nan um", "5, 4, -4 um", "1+1, 2, 2 um"]
)
def test_voxel_sizes_that_make_no_sense(text: str) -> None:
    with pytest.raises(InputError):
        VoxelSize.from_text(text)


# --- like another image ---------------------------------------------------------------------------------------------------------


def test_like_fills_what_the_image_does_not_tell(save: Callable[..., Path]) -> None:
    like = read_metadata(
        save(
            image="other",
            voxel_size=UM,
            orientation="AIR",
            shape={"planes": 9, "rows": 9, "columns": 9},
            acquisition={"a": 1, "b": 1},
        )
    )
    nothing = describe_image(Told(facts={"acquisition": {"b": 2}, "notes": ["odd"]}), like=like)
    assert (nothing.voxel_size, nothing.orientation, nothing.missing) == (like.voxel_size, "AIR", ())
    assert nothing.shape is not None
    assert nothing.shape.planes == 5
    assert nothing.acquisition == {"a": 1, "b": 2}
    assert nothing.notes == ("odd", "taken from the metadata of other: voxel_size, orientation, acquisition.a")
    size = describe_image(Told(voxel_size_mm=(1.0, 1.0, 1.0)), like=like)
    assert size.voxel_size == VoxelSize(planes=1, rows=1, columns=1, unit="mm")
    assert size.orientation == "AIR"
    all_told = describe_image(Told(space=ALIGNED, facts={"acquisition": {"a": 0, "b": 0}}), like=like)
    assert all_told == describe_image(Told(space=ALIGNED, facts={"acquisition": {"a": 0, "b": 0}}))


def test_like_an_oblique_image() -> None:
    like = describe_image(Told(space=OBLIQUE))
    assert describe_image(Told(), like=like).world_from_voxel == like.world_from_voxel
    part = describe_image(Told(voxel_size_mm=(1.0, 1.0, 1.0)), like=like)
    assert (part.orientation, part.world_from_voxel) == ("PIR", None)
    assert describe_image(Told(space=ALIGNED), like=like) == describe_image(Told(space=ALIGNED))


# --- who wins -------------------------------------------------------------------------------------------------------------------

#: What the request, the JSON and the image say of each.
BY_REQUEST: dict[str, Any] = {"voxel_size": (0.1, 0.2, 0.3), "orientation": "RAS", "origin": (1, 2, 3)}
BY_JSON: dict[str, Any] = {"voxel_size": (0.005, 0.004, 0.004), "orientation": "LPI", "origin": (7, 8, 9)}
IN_JSON = {"voxel_size": UM, "orientation": "LPI", "origin": JSON_ORIGIN}
BY_IMAGE: dict[str, Any] = {"voxel_size": (0.05, 0.04, 0.03), "orientation": "PIR"}
IMAGES: dict[str, dict[str, Any]] = {"nothing": {}, "voxel size": {"voxel_size_mm": (0.05, 0.04, 0.03)}, "all": {"space": ALIGNED}}


@pytest.mark.parametrize("in_image", IMAGES)
@pytest.mark.parametrize("in_json", [(), ("voxel_size",), ("orientation",), ("origin",), tuple(IN_JSON)])
@pytest.mark.parametrize("in_request", [(), ("voxel_size",), ("orientation",), ("origin",), tuple(BY_REQUEST)])
def test_the_request_wins_over_the_json_and_the_json_over_the_image(
    in_request: tuple[str, ...], in_json: tuple[str, ...], in_image: str, tmp_path: Path, save: Callable[..., Path]
) -> None:
    request = {name if name == "orientation" else f"{name}_mm": BY_REQUEST[name] for name in in_request}
    metadata = save(**{name: IN_JSON[name] for name in in_json})
    knows = {"nothing": (), "voxel size": ("voxel_size",), "all": ("voxel_size", "orientation")}[in_image]
    expected = {**{name: BY_IMAGE[name] for name in knows}, **{name: BY_JSON[name] for name in in_json}}
    expected |= {name: BY_REQUEST[name] for name in in_request}
    lacking = [name for name in ("voxel_size", "orientation") if name not in expected]
    if lacking:
        with pytest.raises(InputError) as caught:
            ingested_space(tmp_path, Told(**IMAGES[in_image]), metadata=metadata, **request)
        assert f"does not tell its {' and '.join(lacking).replace('_', ' ')}:" in str(caught.value)
        return
    space = ingested_space(tmp_path, Told(**IMAGES[in_image]), metadata=metadata, **request)
    np.testing.assert_allclose(space.voxel_size_mm, expected["voxel_size"])
    assert space.orientation.axcodes == expected["orientation"]
    if "origin" in expected:
        np.testing.assert_allclose(space.first_voxel_mm, expected["origin"], atol=1e-12)
    elif not (in_json or in_request):
        np.testing.assert_array_equal(space.world_from_voxel, ALIGNED.world_from_voxel)


@pytest.mark.parametrize("space", [ALIGNED, OBLIQUE])
def test_an_unchanged_json_changes_nothing(space: Space, tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    describe_image(Told(space=space)).write(path)
    np.testing.assert_array_equal(
        ingested_space(tmp_path, Told(space=space), metadata=path).world_from_voxel, space.world_from_voxel
    )


def test_a_matrix_makes_a_series_oblique_and_options_win_over_it(planes: Path, tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    describe_image(Told(space=OBLIQUE)).write(path)
    np.testing.assert_array_equal(ingested_space(tmp_path, planes, metadata=path).world_from_voxel, OBLIQUE.world_from_voxel)
    given_size = ingested_space(tmp_path, planes, metadata=path, voxel_size_mm=(1, 1, 1))
    np.testing.assert_allclose(given_size.voxel_size_mm, (1, 1, 1))
    assert given_size.orientation.axcodes == "PIR"
    given_orientation = ingested_space(tmp_path, planes, metadata=path, orientation="AIR")
    np.testing.assert_allclose(given_orientation.voxel_size_mm, (0.05, 0.04, 0.03))
    moved = ingested_space(tmp_path, planes, metadata=path, origin_mm=(0, 0, 0)).world_from_voxel
    np.testing.assert_array_equal(moved[:3, :3], OBLIQUE.world_from_voxel[:3, :3])


def test_an_edited_voxel_size_keeps_the_origin_of_the_json(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    metadata = describe_image(Told(space=ALIGNED))
    metadata.updated(voxel_size=VoxelSize.from_text("1 1 1 mm")).write(path)
    space = ingested_space(tmp_path, Told(space=ALIGNED), metadata=path)
    assert metadata.origin is not None
    np.testing.assert_allclose(np.add(space.bounds.lower_mm, 0.5), metadata.origin.triple_mm)


def test_the_json_picks_the_channel_and_the_request_another(tmp_path: Path, save: Callable[..., Path]) -> None:
    path = tmp_path / "a.ome.tif"
    volume = np.stack([np.full(SHAPE, value, np.uint16) for value in (7, 8)])
    tifffile.imwrite(path, volume, metadata={"axes": "CZYX", "Channel": {"Name": ["red", "green"]}})
    fields = {"image": str(path), "metadata": save(channel="green", voxel_size=UM, orientation="AIR")}
    for name, options, value in (("json", {}, 8), ("request", {"image_channel": 0}, 7)):
        ingest_channel(IngestRequest(path=tmp_path / "brain.h5", channel=name, **fields, **options))
        with open_lsfm(tmp_path / "brain.h5") as file:
            assert (np.asarray(file[name].levels[0][...]) == value).all()


# --- contradictions -------------------------------------------------------------------------------------------------------------


def test_contradictions_are_shown_with_both_values_all_at_once(planes: Path, tmp_path: Path, save: Callable[..., Path]) -> None:
    path = save(
        voxel_size=UM, orientation="AIR", shape={"planes": 490, "rows": 40, "columns": 31}, dtype="uint8", kind="image"
    )  # fmt: skip
    with pytest.raises(InputError) as caught:
        ingested_space(tmp_path, planes, metadata=path)
    text = str(caught.value)
    assert "meta.json: contradicts" in text
    for part in ("planes: 490, but the image has 5", "columns: 31, but the image has 30", "dtype: uint8, but the image has uint16"):
        assert part in text
    assert "rows: " not in text
    with pytest.raises(InputError, match="kind: image, but the image is to be written as labels"):
        ingested_space(tmp_path, planes, metadata=path, kind="labels")
    assert not list(tmp_path.glob("*.h5*"))


def test_labels_stored_as_floats_are_no_contradiction(tmp_path: Path) -> None:
    image, path = tmp_path / "labels.nii", tmp_path / "meta.json"
    nibabel.Nifti1Image(np.ones((4, 5, 6), np.float32), np.eye(4)).to_filename(image)
    describe_image(image).write(path)
    ingested_space(tmp_path, image, metadata=path, kind="labels")
    describe_image(image, kind="labels").write(path, overwrite=True)
    assert read_metadata(path).dtype == "uint32"
    ingested_space(tmp_path, image, metadata=path, kind="labels")


def test_a_brain_of_metres_or_micrometres_is_warned_of(tmp_path: Path, planes: Path, save: Callable[..., Path]) -> None:
    for unit, extent in (("m", "120000 x 25000 x 160000 mm"), ("nm", "0.00012 x 2.5e-05 x 0.00016 mm")):
        path = save(voxel_size={**UM, "unit": unit}, orientation="AIR")
        report = ingest_channel(IngestRequest(path=tmp_path / f"{unit}.h5", channel="a", image=planes, metadata=path))
        assert extent in report.warnings[-1]


# --- the command line -----------------------------------------------------------------------------------------------------------


def test_dump_fill_in_and_write(planes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = tmp_path / "meta.json", tmp_path / "brain.h5"
    assert main(["dump-metadata", str(planes), "--output", str(path)]) == 0
    assert "not known: voxel_size, orientation" in capsys.readouterr().err
    write = ["write", str(output), "--channel", "a", "--image", str(planes), "--metadata", str(path)]
    assert main(write) == 3
    assert "does not tell its voxel size and orientation" in capsys.readouterr().err
    path.write_text(json.dumps({**json.loads(path.read_text()), "voxel_size": UM, "orientation": "AIR"}))
    assert main([*write, "--voxel-size", "0.1,0.1,0.1"]) == 0
    with open_lsfm(output) as file:
        assert file["a"].space.voxel_size_mm == (0.1, 0.1, 0.1)
        assert str(file["a"].orientation) == "AIR"
    assert main(["dump-metadata", str(planes), "--output", str(path)]) == 1
    assert "meta.json: exists already" in capsys.readouterr().err
    assert main(["dump-metadata", str(planes), "--output", str(path), "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_like_at_the_command_line(planes: Path, save: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump-metadata", str(planes), "--like", str(save(voxel_size=UM, orientation="AIR"))]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["voxel_size"] == {"unit": "mm", "planes": 0.005, "rows": 0.004, "columns": 0.004}
    assert (found["orientation"], found["missing"]) == ("AIR", [])


def test_the_schema_needs_no_image(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["dump-metadata", "--schema"])
    assert caught.value.code == 0
    assert json.loads(capsys.readouterr().out) == metadata_schema()
    with pytest.raises(SystemExit) as caught:
        main(["dump-metadata"])
    assert caught.value.code == 2


def converse(command: list[str], answers: str) -> tuple[str, str]:
    """Run a command with a person at its terminal: what it prints to stdout, and what the terminal shows."""
    ours, theirs = pty.openpty()
    with children.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True) as child:
        os.close(theirs)
        os.write(ours, answers.encode())
        printed = child.communicate(timeout=60)[0]
        shown = b""
        # Linux ends a terminal without users by an I/O error.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    assert child.returncode == 0, shown
    return printed, shown.decode()


def test_a_person_is_asked_for_what_is_missing(planes: Path) -> None:
    command = [sys.executable, "-m", "lsfm_core.cli", "dump-metadata", str(planes), "--ask"]
    answers = "5, 4, 4\n5, 4, __import__('os')._exit(3) um\n5, 4, 4 um\nAAR\nAIL\nn\nair\ny\n"
    printed, shown = converse(command, answers)
    metadata = json.loads(printed)
    assert metadata["voxel_size"] == {"unit": "mm", "planes": 0.005, "rows": 0.004, "columns": 0.004}
    assert (metadata["orientation"], metadata["missing"]) == ("AIR", [])
    assert "expected three numbers and their unit" in shown
    assert "names one body axis twice" in shown
    assert "axis 2 columns: right -> left. Is that right?" in shown
    assert "axis 2 columns: left -> right. Is that right?" in shown
    assert "not known: " not in shown


@pytest.mark.parametrize("answers", ["\n\n", "\x04\x04"])
def test_a_person_need_not_answer(answers: str, planes: Path) -> None:
    command = [sys.executable, "-m", "lsfm_core.cli", "dump-metadata", str(planes), "--ask"]
    printed, shown = converse(command, answers)
    assert json.loads(printed)["missing"] == ["voxel_size", "orientation"]
    assert "not known: voxel_size, orientation" in shown


def test_planes_from_a_function_are_described_without_making_one() -> None:
    def never(index: int) -> np.ndarray:
        raise AssertionError

    assert describe_image(PlaneFunction(SHAPE, np.uint16, never, space=ALIGNED)).orientation == "PIR"
