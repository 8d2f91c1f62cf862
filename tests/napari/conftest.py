"""Fixtures of the plugin's tests: a specimen with known bright spots, and files that hold it."""

from __future__ import annotations

import atexit
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Where both bindings are installed, qtpy and pytest-qt would each choose for themselves.
os.environ["PYTEST_QT_API"] = os.environ.setdefault("QT_API", "pyqt6")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Windows of several processes on one screen would take each other's focus.
    _reader, _writer = os.pipe()
    _screen = subprocess.Popen(
        ["Xvfb", "-displayfd", str(_writer), "-screen", "0", "1600x1000x24", "-nolisten", "tcp"],
        pass_fds=[_writer],
        stderr=subprocess.DEVNULL,
    )
    atexit.register(_screen.wait)
    atexit.register(_screen.terminate)  # the last that is registered comes first
    os.environ["DISPLAY"] = f":{os.read(_reader, 16).decode().strip()}"

import h5py
import napari
import numpy as np
import numpy.typing as npt
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QAction
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QComboBox, QMenu, QPushButton

from lsfm_core import ChunkCache, IngestRequest, Orientation, Space, ingest_channel
from lsfm_core.cli import main
from lsfm_core.testing import write_series
from napari_lsfm import _reader

Volume = npt.NDArray[np.uint16]

REAL_DATA = Path(__file__).parents[3] / "shared" / "data"
VOXEL_SIZE_MM = (0.05, 0.04, 0.04)
AXCODES = "AIR"
#: Brightest that a specimen is far from its spots.
RAMP_MAX = 400


@dataclass(frozen=True)
class Specimen:
    """A volume with bright spots in the dark, its space, and the voxels in which the spots are centred."""

    volume: Volume
    space: Space
    spots: tuple[tuple[int, int, int], ...]


def make_specimen(shape: tuple[int, int, int], spots: Sequence[tuple[int, int, int]]) -> Specimen:
    """Spots of different sizes and brightness on a ramp, so that no flip or exchange of axes goes unseen."""
    grid = np.indices(shape, dtype=np.float32, sparse=True)
    image = 100 + sum(weight * axis / n for weight, axis, n in zip((40, 80, 160), grid, shape, strict=True))
    for number, spot in enumerate(spots):
        distance = sum((axis - centre) ** 2 for axis, centre in zip(grid, spot, strict=True))
        image = image + (2400 - 500 * number) * np.exp(-distance / (2 * (7 - number) ** 2))
    space = Space.from_orientation(shape, VOXEL_SIZE_MM, Orientation(AXCODES))
    return Specimen(image.astype(np.uint16), space, tuple(spots))


def ingest_volume(
    path: Path,
    channel: str,
    volume: npt.NDArray[Any],
    voxel_size_mm: Sequence[float] = VOXEL_SIZE_MM,
    orientation: str = AXCODES,
) -> Path:
    """Ingest a volume by way of a TIFF series beside the file."""
    series = write_series(path.parent / f"{path.stem}-{channel}", volume)
    a, b, c = voxel_size_mm
    ingest_channel(IngestRequest(path=path, channel=channel, image=str(series), voxel_size_mm=(a, b, c), orientation=orientation))
    return path


def alter_channel(path: Path, channel: str, *, kind: str = "image", world_from_world: npt.ArrayLike | None = None) -> None:
    """Make a channel another kind of channel, or move it in the world."""
    with h5py.File(path, "r+") as h5:
        # As a program does that changes our part of a file.
        h5.pop("LSFM_DIGESTS", None)
        h5.attrs.pop("LSFM_has_digests", None)
        h5[f"LSFM/{channel}"].attrs["kind"] = kind
        for level in h5[f"LSFM/{channel}/IMAGE"].values():
            if world_from_world is not None:
                level.attrs["world_from_voxel"] = np.asarray(world_from_world) @ level.attrs["world_from_voxel"]
        h5.pop("LSFM_DIGESTS", None)


@pytest.fixture(scope="session")
def specimen() -> Specimen:
    """Sizes that the pyramid's factors do not divide, and two levels; one spot is at the far corner."""
    return make_specimen((89, 301, 423), [(44, 80, 120), (44, 220, 330), (15, 150, 60), (80, 285, 408)])


@pytest.fixture(scope="session")
def specimen_file(specimen: Specimen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The specimen as the only channel of a file; not to be changed."""
    path = tmp_path_factory.mktemp("specimen") / "specimen.h5"
    return ingest_volume(path, "autofluo", specimen.volume)


@pytest.fixture(scope="session")
def long_specimen() -> Specimen:
    """A slender one whose pyramid goes down to an eighth; a spot lies at its far end."""
    return make_specimen((21, 37, 1107), [(10, 18, 200), (10, 18, 1080)])


@pytest.fixture(scope="session")
def long_specimen_file(long_specimen: Specimen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slender specimen as the only channel of a file; not to be changed."""
    path = tmp_path_factory.mktemp("long") / "long.h5"
    return ingest_volume(path, "autofluo", long_specimen.volume)


@pytest.fixture(scope="session")
def brain_data() -> Path:
    """Folder of the real specimen."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real specimen is not beside the project (../shared/data)")
    return REAL_DATA


@pytest.fixture(scope="session")
def brain_file(brain_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real specimen's structural channel, ingested; not to be changed."""
    path = tmp_path_factory.mktemp("brain") / "brain.h5"
    ingest_channel(
        IngestRequest(
            path=path,
            channel="autofluo",
            image=str(brain_data / "mouse_brain" / "structural_tiff"),
            voxel_size_mm=VOXEL_SIZE_MM,
            orientation=AXCODES,
        )
    )
    return path


@pytest.fixture(scope="session")
def registered_file(brain_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real specimen: two images, labels with their ontology, and the way to the template and back; not to be changed."""
    path, data = tmp_path_factory.mktemp("registered") / "brain.h5", brain_data / "mouse_brain"
    warp = data / "transforms" / "template_to_structural_1"
    for line in (
        ("write", "--channel=autofluo", f"--image={data / 'structural_tiff'}", "--voxel-size=0.05,0.04,0.04", "--orientation=AIR"),
        ("write", "--channel=cfos", f"--image={data / 'signal_stack.tif'}", "--orientation=AIR"),
        (
            "write", "--channel=atlas", "--kind=labels", f"--image={data / 'annotation_in_structural_100um.nii.gz'}",
            f"--labels={data / 'allen_labels_itksnap.txt'}", f"--ontology={data / 'allen_structure_tree.csv'}",
        ),
        ("write-field", "--channel=inverse_warp", f"--image={warp}InverseWarp.nii.gz"),
        ("write-field", "--channel=warp", f"--image={warp}Warp.nii.gz", "--inverse-of=inverse_warp"),
        (
            "write-affine", "--channel=autofluo", "--name=structural_to_template",
            f"--affine={data / 'transforms' / 'template_to_structural_0GenericAffine.mat'}",
        ),
        (
            "write-affine", "--channel=cfos", "--name=signal_to_structural",
            f"--affine={data / 'transforms' / 'structural_to_signal_affine.txt'}",
        ),
    ):  # fmt: skip
        verb, *options = line
        assert main([verb, str(path), *options]) == 0
    return path


@pytest.fixture
def registered_viewer(
    make_napari_viewer: Callable[..., napari.Viewer], npe2pm: Any, registered_file: Path
) -> Iterator[napari.Viewer]:
    """A shown window, as large as a small screen, with the registered specimen; our plugin is the only one."""
    with npe2pm.tmp_plugin(package="napari-lsfm"):
        viewer = make_napari_viewer(show=True)
        viewer.window.resize(1280, 800)
        viewer.open(registered_file, plugin="napari-lsfm")
        viewer.reset_view()
        viewer.layers.selection.active = viewer.layers["autofluo"]
        yield viewer


def edit_of(field: Any) -> Any:
    """The part of a form's field that is typed into."""
    native = getattr(field, "native", field)
    return getattr(native, "edit", native)


def answer_dialog(offered: list[Any], answer: str | None = None) -> None:
    """Accept the next question by the keyboard; `offered` gets its choices, the one that stood there, and the dialog's parent."""

    def look() -> None:
        dialog = QApplication.activeModalWidget()
        if dialog is None:
            QTimer.singleShot(20, look)
            return
        box = dialog.findChild(QComboBox)
        offered.append(([box.itemText(index) for index in range(box.count())], box.currentText(), dialog.parent()))
        if answer is not None:
            box.setCurrentText(answer)
        QTest.keyClick(dialog, Qt.Key.Key_Return)

    QTimer.singleShot(20, look)


def copy_as(button: QPushButton, title: str, qtbot: QtBot) -> str:
    """Choose an entry of the menu on a form's Copy button, as a user does; what the clipboard holds then."""

    chosen: list[QAction] = []

    def choose() -> None:
        menu = QApplication.activePopupWidget()
        assert isinstance(menu, QMenu)
        chosen.extend(action for action in menu.actions() if action.text() == title)
        qtbot.mouseClick(menu, Qt.MouseButton.LeftButton, pos=menu.actionGeometry(chosen[0]).center())

    # Whether Qt comes back while the menu is open depends on its version.
    QTimer.singleShot(100, choose)
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(chosen), timeout=5000)
    return QApplication.clipboard().text()


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> ChunkCache:
    """The reader's cache, empty: what is in it afterwards was read meanwhile."""
    fresh = ChunkCache()
    monkeypatch.setattr(_reader, "chunk_cache", lambda: fresh)
    return fresh
