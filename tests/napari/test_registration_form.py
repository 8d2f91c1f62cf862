"""The form that imports a registration, and the picture of spaces: against SimpleITK, and what was planted."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
import SimpleITK as sitk
from magicgui.widgets import Container
from napari._qt.qt_main_window import _QtMainWindow
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QRadioButton

from lsfm_core import (
    ImportRegistrationRequest,
    IngestRequest,
    InputError,
    edit_lsfm,
    import_registration,
    ingest_channel,
    open_lsfm,
)
from lsfm_core.spaces import PlacedChannel, SpaceGraph, SpaceNode, TransformLink
from lsfm_core.store import Sides
from napari_lsfm._widgets._comparison import checkerboard
from napari_lsfm._widgets.fields import SpaceField
from napari_lsfm._widgets.forms.export import ExportForm
from napari_lsfm._widgets.forms.registration import RegistrationForm

from .conftest import copy_as

pytestmark = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)

TIMEOUT_MS = 120_000


def smooth(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """An image without symmetry."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return ((noise - noise.min()) / np.ptp(noise) * 4000).astype(np.uint16)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A brain, and in ``reg`` what ANTs would have written: an affine, a field with its inverse, and SimpleITK's result of both."""
    folder = tmp_path_factory.mktemp("run")
    moving = sitk.GetImageFromArray(smooth((24, 26, 28), 1))
    moving.SetSpacing((0.1, 0.1, 0.1))
    sitk.WriteImage(moving, str(folder / "moving.nii.gz"))
    ingest_channel(IngestRequest(path=folder / "brain.h5", channel="autofluo", image=folder / "moving.nii.gz"))
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((0.15, -0.1, 0.05))
    affine.Rotate(0, 1, 0.1)
    move = np.array((0.08, 0.03, -0.05))

    def field(by: np.ndarray) -> sitk.Image:
        how = {"size": moving.GetSize(), "outputSpacing": moving.GetSpacing()}
        return sitk.TransformToDisplacementField(sitk.TranslationTransform(3, by.tolist()), sitk.sitkVectorFloat64, **how)

    (folder / "reg").mkdir()
    sitk.WriteTransform(affine, str(folder / "reg" / "reg_0GenericAffine.mat"))
    for name, by in (("Warp", move), ("InverseWarp", -move)):
        sitk.WriteImage(sitk.Cast(field(by), sitk.sitkVectorFloat32), str(folder / "reg" / f"reg_1{name}.nii.gz"))
    warped = sitk.Resample(moving, moving, sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field(move))]))
    sitk.WriteImage(warped, str(folder / "reg" / "reg_Warped.nii.gz"))
    return folder


@pytest.fixture
def study(run: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "study"))


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., napari.Viewer], npe2pm: Any, study: Path) -> Iterator[napari.Viewer]:
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        viewer = make_napari_viewer(show=True)
        viewer.window.resize(1280, 800)
        viewer.open(study / "brain.h5", plugin="napari-lsfm")
        yield viewer
        for window in list(_QtMainWindow._instances):
            if window._qt_viewer.viewer is not viewer:
                window._qt_viewer.viewer.close()


def open_form(viewer: napari.Viewer, title: str, qtbot: QtBot) -> Any:
    _, form = viewer.window.add_plugin_dock_widget("napari-lsfm", title)
    form._soon.setInterval(0)
    settle(form, qtbot)
    return form


@pytest.fixture
def form(viewer: napari.Viewer, qtbot: QtBot) -> RegistrationForm:
    return open_form(viewer, "Import a registration", qtbot)


def settle(form: Any, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not form.is_busy, timeout=TIMEOUT_MS)


def stored(study: Path) -> tuple[list[str], list[str]]:
    with open_lsfm(study / "brain.h5") as file:
        return list(file), list(file["autofluo"].affines)


def names(form: Any) -> set[str | None]:
    """What the picture shows."""
    return {name for box in form.spaces.canvas.map.boxes for name in box.names}


def test_a_dropped_folder_is_imported_proven_and_compared(
    form: RegistrationForm, viewer: napari.Viewer, study: Path, qtbot: QtBot, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Still to be given: registration" in form.outlook.text() and not form.spaces.isVisible()
    form.native.dropped.emit([str(study / "reg")])
    settle(form, qtbot)
    # What is there is told before the atlas has a name; that alone is missing.
    assert "ANTs: reg_0GenericAffine.mat, reg_1InverseWarp.nii.gz, reg_1Warp.nii.gz" in form.found.text()
    assert "Still to be given: atlas space" in form.outlook.text() and not form.button.isEnabled()
    with pytest.raises(InputError, match="still to be given: atlas space"):
        form.request()
    form.atlas_space.value = "atlas"
    settle(form, qtbot)
    assert form.button.isEnabled() and "compared with reg_Warped.nii.gz" in form.outlook.text()
    new = {f"autofluo_to_atlas_{part}" for part in ("affine", "warp", "inverse_warp")}
    assert names(form) == {"native of autofluo", "atlas", *new} and stored(study) == (["autofluo"], [])
    expected = ImportRegistrationRequest(
        path=study / "brain.h5", registration=study / "reg", channel="autofluo", atlas_space="atlas"
    )
    assert form.request() == expected
    assert "import-registration" in copy_as(form.copy, "Command line", qtbot)
    with qtbot.waitSignal(form.panel.finished, timeout=TIMEOUT_MS):
        form.go()
    settle(form, qtbot)
    assert "proven against reg_Warped.nii.gz: r = 1.0000" in form.panel.text and "Done" in form.outlook.text()
    assert not form.button.isEnabled()
    with open_lsfm(study / "brain.h5") as file:
        assert file.field_sides("autofluo_to_atlas_warp") == Sides("autofluo_to_atlas_affine", "atlas")
        assert [record.operation for record in file.log()] == ["write", "import-registration"]
    assert [layer.name for layer in viewer.layers] == ["autofluo"]
    (window,) = (window for window in _QtMainWindow._instances if window._qt_viewer.viewer is not viewer)
    theirs, ours, board = window._qt_viewer.viewer.layers
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(study / "reg" / "reg_Warped.nii.gz")))
    inside = (ours.data > 0) & (theirs.data > 0)
    assert inside.mean() > 0.5 and np.abs(theirs.data - ours.data)[inside].max() < 0.01
    assert np.corrcoef(np.sort(theirs.data.ravel()), np.sort(warped.ravel().astype(float)))[0, 1] > 0.999
    assert theirs.visible and ours.visible and not board.visible

    def choose(way: str) -> None:
        next(button for button in window.findChildren(QRadioButton) if button.text() == way).click()

    choose("checkerboard")
    assert board.visible and not (theirs.visible or ours.visible)
    choose("flicker")
    assert theirs.visible and not ours.visible
    qtbot.waitUntil(lambda: ours.visible and not theirs.visible, timeout=TIMEOUT_MS)
    choose("overlay")
    assert theirs.visible and ours.visible and not board.visible
    assert "Traceback" not in capsys.readouterr().err


def test_tiles_take_turns_along_every_axis() -> None:
    board = checkerboard(np.zeros((20, 30, 10)), np.ones((20, 30, 10)))
    # Edges are a tenth of the longest axis.
    for place, value in (((0, 0, 0), 0), ((3, 0, 0), 1), ((0, 3, 0), 1), ((0, 0, 3), 1), ((3, 3, 0), 0), ((2, 2, 2), 0)):
        assert board[place] == value, place


def test_a_contradiction_stores_nothing_and_names_the_cause(form: RegistrationForm, study: Path, qtbot: QtBot) -> None:
    path = study / "reg" / "reg_0GenericAffine.mat"
    sitk.WriteTransform(sitk.ReadTransform(str(path)).GetInverse(), str(path))
    form(ImportRegistrationRequest(path=study / "brain.h5", registration=study / "reg", channel="autofluo", atlas_space="atlas"))
    settle(form, qtbot)
    assert form.button.isEnabled()
    with qtbot.waitSignal(form.panel.finished, timeout=TIMEOUT_MS):
        form.go()
    assert "contradicts the transforms" in form.panel.text and "reg_0GenericAffine.mat is inverted" in form.panel.text
    settle(form, qtbot)
    assert stored(study) == (["autofluo"], []) and form.button.isEnabled()


def test_what_cannot_be_taken_is_said_in_the_form(
    form: RegistrationForm, study: Path, qtbot: QtBot, capfd: pytest.CaptureFixture[str]
) -> None:
    (study / "empty").mkdir()
    form.atlas_space.value = "atlas"
    form.registration.value = study / "empty"
    settle(form, qtbot)
    assert "no registration is found there" in form.outlook.text() and not form.button.isEnabled() and not form.found.text()
    form.registration.value = study / "nowhere"
    settle(form, qtbot)
    assert "no such file or folder" in form.outlook.text()
    # Of another run, a field that is not the other's inverse; of none, a field that is gone when it is wanted.
    shutil.copytree(study / "reg", study / "mixed")
    shutil.copy(study / "mixed" / "reg_1Warp.nii.gz", study / "mixed" / "reg_1InverseWarp.nii.gz")
    form.registration.value = study / "mixed"
    settle(form, qtbot)
    with qtbot.waitSignal(form.panel.finished, timeout=TIMEOUT_MS):
        form.go()
    assert "the files are of two runs" in form.panel.text
    form.registration.value = [
        study / "reg" / f"reg_{part}" for part in ("0GenericAffine.mat", "1Warp.nii.gz", "1InverseWarp.nii.gz")
    ]
    settle(form, qtbot)
    assert form.button.isEnabled() and "Stores 3 transforms" in form.outlook.text()
    (study / "reg" / "reg_1Warp.nii.gz").unlink()
    with qtbot.waitSignal(form.panel.finished, timeout=TIMEOUT_MS):
        form.go()
    assert "reg_1Warp.nii.gz: no such file or folder" in form.panel.text
    form.native.dropped.emit([str(study / "brain.h5"), str(shutil.copy(study / "brain.h5", study / "copy.h5"))])
    assert "drop one of them at most" in form.panel.text
    settle(form, qtbot)
    assert stored(study) == (["autofluo"], []) and "Traceback" not in capfd.readouterr().err


def test_a_window_that_is_closed_meanwhile_leaves_nothing(
    form: RegistrationForm, viewer: napari.Viewer, study: Path, qtbot: QtBot, capfd: pytest.CaptureFixture[str]
) -> None:
    form.registration.value, form.atlas_space.value = study / "reg", "atlas"
    job = form.go()
    viewer.window.remove_dock_widget(form.native)
    with qtbot.waitSignal(job._worker.finished, timeout=TIMEOUT_MS, raising=False):
        pass
    assert stored(study) == (["autofluo"], []) and "Traceback" not in capfd.readouterr().err


def test_the_real_brains_registration_comes_in(
    brain_file: Path, brain_data: Path, viewer: napari.Viewer, tmp_path: Path, qtbot: QtBot
) -> None:
    path, data = tmp_path / "real.h5", brain_data / "mouse_brain"
    shutil.copy(brain_file, path)
    form = open_form(viewer, "Import a registration", qtbot)
    files = sorted((data / "transforms").glob("template_to_structural_*"))
    form(ImportRegistrationRequest(path=path, registration=files, channel="autofluo", atlas_space="allen", prove=False))
    settle(form, qtbot)
    assert "rotates by 4.29 degrees" in form.found.text()
    with qtbot.waitSignal(form.panel.finished, timeout=TIMEOUT_MS):
        form.go()
    settle(form, qtbot)
    with open_lsfm(path) as file:
        assert file.field_sides("autofluo_to_allen_warp") == Sides("autofluo_to_allen_affine", "allen")


# --- the picture of spaces -----------------------------------------------------------------------------------------------------


def click(field: Any, name: str, qtbot: QtBot) -> None:
    """At the box of a space or a transform."""
    canvas = field.native.picture.canvas
    box = next(box for box in canvas.map.boxes if name in box.names)
    place = QPoint(round((box.x + box.width / 2) * canvas._scale), round((box.y + box.height / 2) * canvas._scale))
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=place)


def test_a_space_is_chosen_by_click_list_and_keys(qtbot: QtBot) -> None:
    field = SpaceField(name="space", label="To space")
    container = Container(widgets=[field])
    qtbot.addWidget(container.native)
    assert container.asdict() == {"space": None}
    field.offer([("none", None), *((name, name) for name in ("a", "b", "c"))])
    spaces = tuple(SpaceNode(name, (PlacedChannel(f"in {name}", "image"),)) for name in "abc")
    links = tuple(TransformLink(x + y, "affine", x, y, f"{x}{y}:invert") for x, y in ("ab", "bc"))
    field.native.picture.show_graph(SpaceGraph(Path("brain.h5"), spaces, links))
    container.native.resize(300, 500)
    with qtbot.waitExposed(container.native):
        container.show()
    heard: list[Any] = []
    field.changed.connect(heard.append)
    click(field, "b", qtbot)
    assert field.value == "b" == heard[-1]
    click(field, "bc", qtbot)
    assert field.value == "b", "a transform is no space"
    # From b, where the click was, over the transform to c.
    canvas = field.native.picture.canvas
    canvas._at = next(i for i, box in enumerate(canvas.map.boxes) if "b" in box.names)
    for key in (Qt.Key.Key_Down, Qt.Key.Key_Down, Qt.Key.Key_Return):
        qtbot.keyClick(canvas, key)
    assert field.value == "c" == heard[-1] and canvas.accessibleDescription().startswith("space c")
    field.value = None
    assert field.value is None


def test_the_export_form_finds_the_way_to_a_space(study: Path, viewer: napari.Viewer, qtbot: QtBot) -> None:
    path = study / "brain.h5"
    import_registration(
        ImportRegistrationRequest(path=path, registration=study / "reg", channel="autofluo", atlas_space="atlas", name="reg")
    )
    form = open_form(viewer, "Export", qtbot)
    assert isinstance(form, ExportForm)
    click(form.to_space, "atlas", qtbot)
    settle(form, qtbot)
    assert form.to_space.value == "atlas" and [str(step) for step in form.transforms.value] == ["reg_affine", "reg_warp"]
    request = form.request()
    assert (request.to_space, request.transforms, request.via) == ("atlas", (), ()) and form.button.isEnabled()
    # Another way that is as short: both are told, and a click decides.
    for name, inner, outer in (("first", "native of autofluo", "middle"), ("second", "middle", "atlas")):
        with edit_lsfm(path) as editor:
            editor.write_affine("autofluo", name, np.eye(4), (np.r_[np.eye(3).ravel(), 0, 0, 0], [0.0] * 3), False)
            editor.set_sides("autofluo", name, Sides(inner, outer))
    form.path.native.look_now()
    settle(form, qtbot)
    assert "first, second; reg_affine, reg_warp" in form.outlook.text() and not form.button.isEnabled()
    assert form.transforms.value == ()
    click(form.to_space, "second", qtbot)
    settle(form, qtbot)
    assert form.via.value == ("second",) and [str(step) for step in form.transforms.value] == ["first", "second"]
    assert form.request().via == ("second",)
    # By hand is without a space.
    form.transforms.native.write(["first"])
    settle(form, qtbot)
    assert form.to_space.value is None
    request = form.request()
    assert [str(step) for step in request.transforms] == ["first"] and request.to_space is None and request.via == ()
    form(request.model_copy(update={"transforms": (), "to_space": "atlas", "via": ("reg_warp",)}))
    settle(form, qtbot)
    assert [str(step) for step in form.transforms.value] == ["reg_affine", "reg_warp"] and form.request().via == ("reg_warp",)
    form.to_space.value = None
    settle(form, qtbot)
    assert form.transforms.value == () and form.request().to_space is None


def test_a_field_without_an_inverse_is_passed_the_other_way_when_that_is_allowed(
    study: Path, viewer: napari.Viewer, qtbot: QtBot
) -> None:
    path = study / "brain.h5"
    ingest_channel(
        IngestRequest(
            path=path,
            channel="lone",
            kind="vectors",
            image=study / "reg" / "reg_1Warp.nii.gz",
            from_space="atlas",
            space="autofluo",
        )
    )
    form = open_form(viewer, "Export", qtbot)
    form.to_space.value = "atlas"
    settle(form, qtbot)
    assert "leads only the inverse of lone" in form.outlook.text() and form.transforms.native._numeric.isVisibleTo(form.native)
    form.transforms.native._numeric.setChecked(True)
    settle(form, qtbot)
    assert [str(step) for step in form.transforms.value] == ["lone:invert"]
    assert form.button.isEnabled(), form.outlook.text()
    request = form.request()
    assert (request.to_space, request.transforms, request.numeric_inverse) == ("atlas", (), ("lone",))
