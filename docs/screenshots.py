"""Make the pictures of the documentation anew, of napari from the real window: ``python docs/screenshots.py [specimen]``.

They show the real specimen, a folder with the files that `take_in` names, if it is there; else a synthetic brain is made for them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import napari
from napari.settings import get_settings
from qtpy.QtCore import QEventLoop, QTimer

from lsfm_core import ExportRequest, PreviewRequest, edit_lsfm, preview_file
from lsfm_core.cli import main as run
from lsfm_core.testing import write_phantom_file, write_phantom_series
from napari_lsfm._arrows import field_layer
from napari_lsfm._through import add_view, open_view, space_of

IMAGES = Path(__file__).resolve().parent / "images"
SPECIMEN = Path(__file__).resolve().parents[2] / "shared" / "data" / "mouse_brain"
SIZE = (1280, 800)


@dataclass(frozen=True)
class Shown:
    """What the pictures show: a file, its channels, and the planes of the image."""

    brain: Path
    labels: str
    field: str
    planes: Path
    cortex: int
    limits: tuple[int, int]
    through: tuple[str, ...]


def take_in(specimen: Path) -> Shown:
    """Make the file of the real specimen: image, atlas, and the way to the template."""
    brain, planes = Path("brain.h5"), Path("planes")
    planes.symlink_to(specimen / "structural_tiff")
    transforms = specimen / "transforms"
    name = "template_to_structural"
    for line in (
        ["write", "--channel=autofluo", "--image=planes", "--voxel-size=0.05,0.04,0.04", "--orientation=AIR"],
        [
            "write", "--channel=atlas", "--kind=labels", f"--image={specimen / 'annotation_in_structural_100um.nii.gz'}",
            f"--labels={specimen / 'allen_labels_itksnap.txt'}", f"--ontology={specimen / 'allen_structure_tree.csv'}",
            "--space=autofluo",
        ],
        ["write-field", "--channel=warp", f"--image={transforms / f'{name}_1InverseWarp.nii.gz'}"],
        [
            "write-field", "--channel=to_template", f"--image={transforms / f'{name}_1Warp.nii.gz'}", "--inverse-of=warp",
            "--from=aligned", "--to=template",
        ],
        [
            "write-affine", "--channel=autofluo", "--name=affine", f"--affine={transforms / f'{name}_0GenericAffine.mat'}",
            "--to=aligned",
        ],
    ):  # fmt: skip
        verb, *options = line
        if run([verb, str(brain), *options]):
            raise SystemExit(f"the specimen in {specimen} could not be taken in")
    return Shown(brain, "atlas", "warp", planes, 315, (0, 350), ("affine", "to_template"))


def make_up() -> Shown:
    """Make a synthetic brain."""
    brain, planes = Path("brain.h5"), Path("planes")
    write_phantom_series(planes)
    write_phantom_file(brain)
    # Noise would make up most of the picture.
    return Shown(brain, "regions", "warp", planes, 312782628, (150, 900), ("warp",))


def settle(milliseconds: int = 500) -> None:
    """Let the window lay itself out, draw, and tidy up."""
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def wait_until(is_so: Callable[[], bool]) -> None:
    """Let the window go on until something is so, for a minute at most."""
    for _ in range(300):
        if is_so():
            return
        settle(200)


@contextmanager
def form_beside(shown: Shown, name: str, target: Path) -> Iterator[tuple[napari.Viewer, Any]]:
    """A file's channels, and a form of the plugin in use; what the window looks like in the end is saved."""
    viewer = napari.Viewer(show=True)
    try:
        viewer.window.resize(*SIZE)
        viewer.open(shown.brain, plugin="napari-lsfm")
        viewer.layers[shown.labels].opacity = 0.4
        viewer.layers["autofluo"].contrast_limits = shown.limits
        viewer.layers.selection.active = viewer.layers["autofluo"]
        _, form = viewer.window.add_plugin_dock_widget("napari-lsfm", name)
        settle()
        viewer.fit_to_view(margin=0.04)
        yield viewer, form
        settle(2000)
        viewer.screenshot(str(target), canvas_only=False, flash=False)
    finally:
        viewer.close()


def take_forms(shown: Shown, images: Path) -> None:
    """Show each form as it is used."""
    with edit_lsfm(shown.brain) as editor:
        editor.set_metadata("animal", "mouse 42")
        editor.set_metadata("stain", "none", channel="autofluo")
    with form_beside(shown, "Import an image", images / "ingest.png") as (_, form):
        form.image.value = "planes"
        form.voxel_size_mm.value = (0.05, 0.04, 0.04)
        form.orientation.value = "AIR"
        form.path.value = "brain.h5"
        form.channel.value = "second scan"
        wait_until(lambda: form.button.isEnabled() and form.thumbnail.image is not None)
    with form_beside(shown, "Export", images / "export.png") as (viewer, form):
        viewer.layers[shown.labels].visible = False
        settle(1000)
        form(
            ExportRequest(
                path=shown.brain,
                channel="autofluo",
                origin_mm=(4, 4, 2),
                size_mm=(5, 6, 4),
                resolution_mm=0.05,
                output="piece.nii.gz",
            )
        )
        wait_until(form.button.isEnabled)
    with form_beside(shown, "Regions", images / "region-form.png") as (viewer, form):
        viewer.layers[shown.labels].visible = False
        settle(1000)
        wait_until(lambda: form.labels_channel.value is not None)
        form.regions.native.search.setText("isocortex")
        form.regions.native.search.returnPressed.emit()
        wait_until(form.find.isEnabled)
    with form_beside(shown, "Information and log", images / "info.png"):
        pass


def take_window(shown: Shown, target: Path, *, regions: bool) -> None:
    """Show the middle plane of the image; under its regions, with the arrows of its displacement field, or alone."""
    viewer = napari.Viewer(show=True)
    try:
        viewer.window.resize(*SIZE)
        viewer.open(shown.brain, plugin="napari-lsfm")
        viewer.layers["autofluo"].contrast_limits = shown.limits
        labels = viewer.layers[shown.labels]
        labels.opacity = 0.5
        viewer.layers.selection.active = labels
        if regions:
            data, keywords, _ = field_layer(shown.brain, shown.field, max_vectors=4000)
            viewer.add_vectors(data, **keywords)
            viewer.layers.selection.active = labels
        else:
            viewer.layers.remove(labels)
        scale_bar = viewer.canvas.overlays.scale_bar
        scale_bar.visible = True
        scale_bar.font_size = 14
        # What is fitted before the docks are laid out would fit another canvas.
        settle()
        viewer.fit_to_view(margin=0.04)
        settle()
        viewer.screenshot(str(target), canvas_only=False, flash=False)
    finally:
        viewer.close()


def take_through(shown: Shown, target: Path) -> None:
    """Show the image and its regions through transforms, and the panel of positions."""
    viewer = napari.Viewer(show=True)
    try:
        viewer.window.resize(*SIZE)
        for channel in ("autofluo", shown.labels):
            request = ExportRequest(path=shown.brain, channel=channel, transforms=shown.through, resolution_mm=0.05)
            file, view = open_view(request)
            add_view(viewer, file, view, space_of(file, view) or "template")
        image, labels = viewer.layers
        image.contrast_limits, labels.opacity = shown.limits, 0.4
        viewer.layers.selection.active = image
        _, panel = viewer.window.add_plugin_dock_widget("napari-lsfm", "Position")
        settle()
        viewer.fit_to_view(margin=0.04)
        place = image.data_to_world([n // 2 for n in view.shape])
        viewer.dims.set_point(0, place[0])
        panel.look((place[0], place[1] - 1, place[2] + 1.5))
        settle(2000)
        viewer.screenshot(str(target), canvas_only=False, flash=False)
    finally:
        viewer.close()


def main() -> None:
    """Make all pictures."""
    # Without the offer to do so.
    plugins = get_settings().plugins
    plugins.extension2reader = {**plugins.extension2reader, "*.h5": "napari-lsfm"}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("specimen", type=Path, nargs="?", default=SPECIMEN, help="folder of the real specimen")
    specimen = parser.parse_args().specimen.absolute()
    IMAGES.mkdir(exist_ok=True)
    # Names without folders are read more easily, and are the same each time.
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        shown = take_in(specimen) if specimen.is_dir() else make_up()
        take_window(shown, IMAGES / "napari.png", regions=False)
        take_window(shown, IMAGES / "regions.png", regions=True)
        preview_file(PreviewRequest(path=shown.brain, size=300, output=IMAGES / "preview.png", overwrite=True))
        take_through(shown, IMAGES / "through.png")
        take_forms(shown, IMAGES)


if __name__ == "__main__":
    main()
