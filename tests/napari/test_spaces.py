"""Layers in the space of another channel, and what forms say of spaces that do not fit."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer
from pytestqt.qtbot import QtBot

from lsfm_core import InputError
from lsfm_core.cli import main
from napari_lsfm import _commands
from napari_lsfm._commands import show_in_space
from napari_lsfm._reader import read_layers
from napari_lsfm._widgets.forms.export import ExportForm
from napari_lsfm._widgets.forms.ingest import IngestForm
from napari_lsfm._widgets.forms.regions import RegionsForm

from .conftest import answer_dialog, ingest_volume

window = pytest.mark.skipif(
    sys.platform == "linux" and not os.environ.get("DISPLAY"), reason="needs a display: run it under xvfb-run"
)

#: From structural points to the signal's, and from the template's to structural ones, RAS mm.
SIGNAL_FROM_STRUCTURAL = np.array([[1.02, 0.05, 0, 0.125], [-0.04, 0.99, 0.1, -0.375], [0.01, -0.1, 1.01, 0.641], [0, 0, 0, 1]])
STRUCTURAL_FROM_TEMPLATE = np.array([[1.1, 0, 0.02, 1.0], [0, 0.9, 0, -2.0], [0, 0.03, 1.2, 0.5], [0, 0, 0, 1]])
#: napari's axes are A, I, R in every file here, whose first channel is stored so.
NATIVE_FROM_RAS = np.array([[0.0, 1, 0], [0, 0, -1], [1, 0, 0]])


@pytest.fixture
def brain(tmp_path: Path) -> Path:
    """Three images, of which the last lies otherwise, and affines from each to the next."""
    voxels = np.random.default_rng(1).integers(0, 900, (20, 24, 28)).astype(np.uint16)
    path = ingest_volume(tmp_path / "brain.h5", "structural", voxels)
    ingest_volume(path, "signal", voxels[2:], (0.06, 0.05, 0.05))
    ingest_volume(path, "turned", voxels[:, 3:], (0.05, 0.04, 0.03), "RSP")
    for name, matrix in (("s2s", SIGNAL_FROM_STRUCTURAL), ("t2s", STRUCTURAL_FROM_TEMPLATE)):
        np.savetxt(tmp_path / f"{name}.txt", matrix)
    for words in (
        ["write-affine", "--channel=signal", "--name=to_structural", f"--affine={tmp_path / 's2s.txt'}", "--to=structural"],
        ["write-affine", "--channel=structural", "--name=to_template", f"--affine={tmp_path / 't2s.txt'}", "--to=template"],
        ["set-space", "--channel=turned", "--space=signal"],
    ):
        assert main([words[0], str(path), *words[1:], "--quiet"]) == 0
    return path


@pytest.fixture
def viewer(brain: Path, monkeypatch: pytest.MonkeyPatch) -> ViewerModel:
    viewer = ViewerModel()
    for layer in read_layers(brain):
        viewer.add_layer(Layer.create(*layer))
    return viewer


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is told in the corner of the window."""
    texts: list[str] = []
    monkeypatch.setattr(_commands, "tell", texts.append)
    return texts


# napari says that it cannot slice askew; so do we.
@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_a_layer_lies_where_affine_maths_puts_it(viewer: ViewerModel, said: list[str]) -> None:
    structural_from_signal = np.linalg.inv(SIGNAL_FROM_STRUCTURAL)
    index = np.random.default_rng(2).uniform(0, 15, (40, 3))
    # By hand: AIR with its first voxel in R, A and S at 0; columns toward R, planes toward A, rows toward I.
    signal = np.stack([0.05 * index[:, 2], 0.06 * index[:, 0], 0.05 * (23 - index[:, 1])], axis=1)
    before = viewer.layers["signal"].data_to_world(index[0])
    np.testing.assert_allclose(before, NATIVE_FROM_RAS @ signal[0], atol=1e-9)
    for space, there in (
        ("structural", structural_from_signal),
        ("template", np.linalg.inv(STRUCTURAL_FROM_TEMPLATE) @ structural_from_signal),
        ("native of structural", structural_from_signal),
        ("signal", np.eye(4)),
    ):
        show_in_space(viewer, viewer.layers["signal"], space)
        expected = (signal @ there[:3, :3].T + there[:3, 3]) @ NATIVE_FROM_RAS.T
        found = [viewer.layers["signal"].data_to_world(place) for place in index]
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert space in said[-1]
        assert ("tilted by" in said[-1]) == (space != "signal")
    # The other way, through the inverse.
    show_in_space(viewer, viewer.layers["structural"], "signal")
    ras = np.array([0.04 * 5, 0.05 * 3, 0.04 * (23 - 4), 1])
    np.testing.assert_allclose(
        viewer.layers["structural"].data_to_world((3, 4, 5)), NATIVE_FROM_RAS @ (SIGNAL_FROM_STRUCTURAL @ ras)[:3], atol=1e-9
    )


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_a_layer_whose_axes_were_turned_for_the_viewer_lies_there_as_well(viewer: ViewerModel, said: list[str]) -> None:
    layer = viewer.layers["turned"]
    before = np.array([layer.data_to_world(corner) for corner in ((0, 0, 0), (3, 5, 7))])
    show_in_space(viewer, layer, "structural")
    ras = before @ NATIVE_FROM_RAS
    there = np.linalg.inv(SIGNAL_FROM_STRUCTURAL)
    expected = (ras @ there[:3, :3].T + there[:3, 3]) @ NATIVE_FROM_RAS.T
    np.testing.assert_allclose([layer.data_to_world(corner) for corner in ((0, 0, 0), (3, 5, 7))], expected, atol=1e-9)


def test_what_no_affine_can_show_is_refused_in_words(brain: Path, viewer: ViewerModel, said: list[str], tmp_path: Path) -> None:
    import SimpleITK as sitk

    layer = viewer.layers["signal"]
    with pytest.raises(InputError, match="no affines that are stored lead from space 'native of signal' to 'elsewhere'"):
        show_in_space(viewer, layer, "elsewhere")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6, 7, 3), np.float32), isVector=True), str(tmp_path / "warp.nrrd"))
    field = ["--channel=warp", f"--image={tmp_path / 'warp.nrrd'}", "--from=template", "--to=beyond"]
    assert main(["write-field", str(brain), *field, "--quiet"]) == 0
    with pytest.raises(InputError, match="through to_structural, to_template, warp only, which is not linear"):
        show_in_space(viewer, layer, "beyond")
    again = [f"--affine={tmp_path / 's2s.txt'}", "--to=structural", "--quiet"]
    assert main(["write-affine", str(brain), "--channel=signal", "--name=other", *again]) == 0
    with pytest.raises(InputError, match=r"several ways lead .*: other; to_structural"):
        show_in_space(viewer, layer, "structural")
    np.testing.assert_array_equal(layer.affine.affine_matrix, np.eye(4))
    with pytest.raises(InputError, match="select a layer of a file"):
        show_in_space(ViewerModel())
    assert not said


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_the_spaces_that_can_be_shown_are_offered(viewer: ViewerModel, said: list[str], qapp: Any) -> None:
    offered: list[Any] = []
    answer_dialog(offered)
    viewer.layers.selection.active = viewer.layers["turned"]
    show_in_space(viewer)
    there = ["native of signal (signal, turned)", "native of structural (structural)", "template"]
    assert offered == [(there, there[1], None)]
    assert "native of structural" in said[-1]


# --- forms ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(brain: Path) -> Path:
    """The same with labels of the first image."""
    words = ["--channel=atlas", "--kind=labels", f"--image={brain.parent / 'brain-structural'}", "--voxel-size=0.05,0.04,0.04"]
    assert main(["write", str(brain), *words, "--orientation=AIR", "--space=structural", "--quiet"]) == 0
    return brain


@window
def test_forms_refuse_and_warn_as_the_core_does(
    labelled: Path, make_napari_viewer: Callable[..., napari.Viewer], npe2pm: Any, qtbot: QtBot
) -> None:
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        viewer = make_napari_viewer()
        viewer.open(labelled, plugin="napari-lsfm")
        _, form = viewer.window.add_plugin_dock_widget("napari-lsfm", "Regions")
        assert isinstance(form, RegionsForm)
        qtbot.waitUntil(lambda: form.labels_channel.native.currentData() == "atlas")
        # First the image in which they lie.
        assert form.channel.value == "structural"
        form.select({7})
        qtbot.waitUntil(lambda: "mm³" in form.outlook.text())
        assert "wrong anatomy" not in form.outlook.text()
        form.channel.value = "signal"
        form._changed()
        qtbot.waitUntil(lambda: "wrong anatomy" in form.outlook.text())
        assert "mm³" in form.outlook.text() and "to_structural" in form.outlook.text()

        form.go()
        _, export = viewer.window.add_plugin_dock_widget("napari-lsfm", "Export")
        assert isinstance(export, ExportForm)
        qtbot.waitUntil(lambda: "wrong anatomy" in export.outlook.text())
        assert not export.button.isEnabled()
        assert main(["set-space", str(labelled), "--channel=atlas", "--space=?", "--quiet"]) == 0
        export._changed()
        qtbot.waitUntil(lambda: "of memory" in export.outlook.text() or "not recorded" in export.outlook.text())
        assert "not recorded" in export.outlook.text()


@window
def test_the_ingest_form_has_the_space(
    brain: Path, make_napari_viewer: Callable[..., napari.Viewer], npe2pm: Any, tmp_path: Path, qtbot: QtBot
) -> None:
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        viewer = make_napari_viewer()
        _, form = viewer.window.add_plugin_dock_widget("napari-lsfm", "Import an image")
        assert isinstance(form, IngestForm)
        form.image.value = str(brain.parent / "brain-structural")
        form.path.value = str(brain)
        form.channel.value = "atlas"
        form.kind.value = "labels"
        form._on_kind()
        assert form.space.native.placeholderText() == "not known"
        form.space.value = "structural"
        form.metadata.value = "none.json"
        assert form.request().space == "structural"
        assert form.request().from_space is None
