"""Make the pictures of the documentation anew, of napari from the real window: ``python docs/screenshots.py [brain.h5]``.

Without a file, a synthetic brain is made for it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import napari
from qtpy.QtCore import QEventLoop, QTimer

from lsfm_core import ExportRequest, IngestRequest, PreviewRequest, edit_lsfm, ingest_channel, preview_file
from lsfm_core.testing import write_phantom_file, write_phantom_series

IMAGES = Path(__file__).resolve().parent / "images"
SIZE = (1280, 800)


def make_brain(folder: Path) -> Path:
    """Ingest the synthetic brain."""
    voxel_size_mm, orientation = write_phantom_series(folder / "series")
    path = folder / "brain.h5"
    ingest_channel(
        IngestRequest(
            path=path, channel="autofluo", image=str(folder / "series"), voxel_size_mm=voxel_size_mm, orientation=orientation
        )
    )
    return path


def settle(milliseconds: int = 500) -> None:
    """Let the window lay itself out, draw, and tidy up."""
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


@contextmanager
def form_beside(brain: Path, name: str, target: Path) -> Iterator[tuple[napari.Viewer, Any]]:
    """A file's channels, and a form of the plugin in use; what the window looks like in the end is saved."""
    viewer = napari.Viewer(show=True)
    try:
        viewer.window.resize(*SIZE)
        viewer.open(brain, plugin="napari-lsfm")
        viewer.layers["regions"].opacity = 0.4
        # Noise would make up most of the picture.
        viewer.layers["autofluo"].contrast_limits = (150, 900)
        viewer.layers.selection.active = viewer.layers["autofluo"]
        _, form = viewer.window.add_plugin_dock_widget("napari-lsfm", name)
        settle()
        viewer.fit_to_view(margin=0.04)
        yield viewer, form
        settle(2000)
        viewer.screenshot(str(target), canvas_only=False, flash=False)
    finally:
        viewer.close()


def take_forms(images: Path) -> None:
    """Show each form as it is used, with files in the current folder."""
    write_phantom_series(Path("planes"))
    brain = Path("brain.h5")
    write_phantom_file(brain)
    with edit_lsfm(brain) as editor:
        editor.set_metadata("animal", "mouse 42")
        editor.set_metadata("stain", "none", channel="autofluo")
    with form_beside(brain, "Ingest", images / "ingest.png") as (_, form):
        form.path.setText("planes")
        form.voxel_size.show_values((50, 40, 40))
        form.orientation.choose("AIR")
        form.target.setText("brain.h5")
        form.channel.setText("second scan")
    with form_beside(brain, "Export", images / "export.png") as (viewer, form):
        viewer.layers["regions"].visible = False
        settle(1000)
        form.fill_in(
            ExportRequest(
                path=brain, channel="autofluo", origin_mm=(4, 4, 2), size_mm=(5, 6, 4), resolution_mm=0.05, output="piece.nii.gz"
            )
        )
    with form_beside(brain, "Regions", images / "region-form.png") as (viewer, form):
        viewer.layers["regions"].visible = False
        settle(1000)
        form.search.setText("cortex")
        form.select({312782628})
    with form_beside(brain, "Information and log", images / "info.png"):
        pass


def take_screenshot(brain: Path, target: Path) -> None:
    """Show the middle plane of a file's first channel, and save the window."""
    viewer = napari.Viewer(show=True)
    try:
        viewer.window.resize(*SIZE)
        viewer.open(brain, plugin="napari-lsfm")
        scale_bar = viewer.canvas.overlays.scale_bar
        scale_bar.visible = True
        scale_bar.font_size = 14
        # What is fitted before the docks are laid out would fit another canvas.
        settle()
        viewer.fit_to_view(margin=0.04)
        target.parent.mkdir(parents=True, exist_ok=True)
        viewer.screenshot(str(target), canvas_only=False, flash=False)
    finally:
        viewer.close()


def take_regions(target: Path) -> None:
    """Show the sample: its image under its regions, and the arrows of its warp."""
    viewer = napari.Viewer(show=True)
    try:
        viewer.window.resize(*SIZE)
        viewer.open_sample("napari-lsfm", "brain")
        viewer.layers["regions"].opacity = 0.5
        viewer.layers.selection.active = viewer.layers["regions"]
        settle()
        viewer.fit_to_view(margin=0.04)
        viewer.screenshot(str(target), canvas_only=False, flash=False)
    finally:
        viewer.close()


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("brain", type=Path, nargs="?", help="a file to show instead of the synthetic brain")
    brain = parser.parse_args().brain
    with tempfile.TemporaryDirectory() as folder:
        shown = brain or make_brain(Path(folder))
        take_screenshot(shown, IMAGES / "napari.png")
        preview_file(PreviewRequest(path=shown, size=300, output=IMAGES / "preview.png", overwrite=True))
        take_regions(IMAGES / "regions.png")
    # Names without folders are read more easily, and are the same each time.
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        take_forms(IMAGES)


if __name__ == "__main__":
    main()
