"""Make the pictures of the documentation anew, of napari from the real window: ``python docs/screenshots.py [brain.h5]``.

Without a file, a synthetic brain is made for it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import napari
from qtpy.QtCore import QEventLoop, QTimer

from lsfm_core import IngestRequest, PreviewRequest, ingest_channel, preview_file
from lsfm_core.testing import write_phantom_series

IMAGES = Path(__file__).parent / "images"
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


def settle() -> None:
    """Let the window lay itself out, draw, and tidy up."""
    loop = QEventLoop()
    QTimer.singleShot(500, loop.quit)
    loop.exec()


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


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("brain", type=Path, nargs="?", help="a file to show instead of the synthetic brain")
    brain = parser.parse_args().brain
    with tempfile.TemporaryDirectory() as folder:
        shown = brain or make_brain(Path(folder))
        take_screenshot(shown, IMAGES / "napari.png")
        preview_file(PreviewRequest(path=shown, size=300, output=IMAGES / "preview.png", overwrite=True))


if __name__ == "__main__":
    main()
