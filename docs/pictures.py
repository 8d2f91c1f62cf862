"""Run `docs/first-hour.md` on the real brain, and put what it prints and its pictures into the docs: ``pictures.py [FOLDER]``.

The folder has the specimen's files, by default `../shared/data/mouse_brain`.
"""

from __future__ import annotations

import io
import re
import shlex
import sys
import tempfile
from contextlib import chdir, redirect_stdout
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from lsfm_core.cli import main as lsfm_core

DOCS = Path(__file__).resolve().parent
SPECIMEN = DOCS.parents[1] / "shared" / "data" / "mouse_brain"
#: The page's names of files, and the specimen's.
NAMES = {
    "structural_tiff": "structural_tiff",
    "signal_stack.tif": "signal_stack.tif",
    "signal_cells_voxel_zyx.csv": "signal_cells_voxel_zyx.csv",
    "annotation.nii.gz": "annotation_in_structural_100um.nii.gz",
    "labels_itksnap.txt": "allen_labels_itksnap.txt",
    "structure_tree.csv": "allen_structure_tree.csv",
    "template_100um.nii.gz": "template_100um.nii.gz",
    "0GenericAffine.mat": "transforms/template_to_structural_0GenericAffine.mat",
    "1Warp.nii.gz": "transforms/template_to_structural_1Warp.nii.gz",
    "1InverseWarp.nii.gz": "transforms/template_to_structural_1InverseWarp.nii.gz",
    "structural_to_signal_affine.txt": "transforms/structural_to_signal_affine.txt",
}
#: A command, with or without what it prints; a block of Python, after which what it prints may stand.
STEP = re.compile(
    r"```console\n\$ lsfm-core (?P<shown>.*?)\n.*?```|^    lsfm-core (?P<line>.*?)$"
    r"|```python\n(?P<code>.*?)```(?:\n\n```text\n.*?```)?",
    re.DOTALL | re.MULTILINE,
)
VOLUME = npt.NDArray[np.float64]


def lay_out(specimen: Path, folder: Path) -> None:
    """The specimen's files under the names of the page."""
    for name, real in NAMES.items():
        (folder / name).symlink_to(specimen / real)


def run(page: str) -> str:
    """The page, with what its commands print when they are run here."""

    def step(match: re.Match[str]) -> str:
        words = match["shown"] or match["line"]
        out = io.StringIO()
        with redirect_stdout(out):
            if words:
                if lsfm_core(shlex.split(words)):
                    sys.exit(f"failed: lsfm-core {words}")
            else:
                exec(compile(match["code"], "first-hour.md", "exec"), {})
        if match["line"]:
            return match[0]
        if match["shown"]:
            return f"```console\n$ lsfm-core {words}\n{out.getvalue().strip()}\n```"
        return f"```python\n{match['code']}```\n\n```text\n{out.getvalue().rstrip()}\n```"

    return STEP.sub(step, page)


def volume(path: str, *, grown: int = 1) -> tuple[VOLUME, VOLUME]:
    """Voxels of an export, each as often as it takes to be as large as 0.1 mm over `grown`; and the place of the first."""
    image = nibabel.load(path)
    data = np.asarray(image.dataobj, float)
    for axis in range(3):
        data = data.repeat(grown, axis)
    return data, image.affine


def grey(plane: VOLUME, limits: tuple[float, float]) -> Image.Image:
    """A plane whose axes are toward right and superior, or anterior and superior, as one looks at it."""
    low, high = limits
    octets = (np.clip((plane - low) / (high - low), 0, 1) ** 0.8 * 255).astype(np.uint8)
    return Image.fromarray(octets.T[::-1])


def draw(target: Path) -> None:
    """Native, in the atlas, and the thalamus: a coronal plane of each above, a sagittal one below."""
    lsfm_core(["export", "brain.h5", "--channel=autofluo", "--resolution=0.05", "--output=native.nii.gz", "--quiet"])
    lsfm_core(["export", "brain.h5", "--channel=autofluo", "--to=allen", "--resolution=0.05", "--output=carried.nii.gz", "--quiet"])
    thalamus, place = volume("thalamus.nii.gz")
    centre = np.round(np.array(thalamus.shape) / 2).astype(int)
    world = place @ [*centre, 1]
    columns = []
    for title, name, voxel in (
        ("as it was imaged", "native.nii.gz", None),
        ("in the atlas", "carried.nii.gz", world),
        ("its thalamus", "thalamus.nii.gz", world),
    ):
        data, affine = volume(name)
        at = np.array(data.shape) // 2 if voxel is None else np.round(np.linalg.solve(affine, voxel)[:3]).astype(int)
        # The sagittal plane stands beside the midline.
        limits = (0.0, float(np.percentile(data[data > 0], 99.5)))
        columns.append((title, grey(data[:, at[1]], limits), grey(data[at[0] + 15], limits)))
    width = max(max(a.width, b.width) for _, a, b in columns)
    heights = [max(column[row].height for column in columns) for row in (1, 2)]
    gap, head = 10, 26
    sheet = Image.new("L", (3 * width + 4 * gap, head + sum(heights) + 2 * gap), 0)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    for number, (title, *planes) in enumerate(columns):
        left, top = gap + number * (width + gap), head
        pen.text((left + width / 2, 5), title, 255, font=font, anchor="ma")
        for plane, height in zip(planes, heights, strict=True):
            sheet.paste(plane, (left + (width - plane.width) // 2, top + (height - plane.height) // 2))
            top += height + gap
    sheet.quantize(64).save(target, optimize=True)


def main() -> None:
    """Make all of it anew."""
    specimen = Path(sys.argv[1] if len(sys.argv) > 1 else SPECIMEN).resolve()
    page = DOCS / "first-hour.md"
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        lay_out(specimen, Path())
        page.write_text(run(page.read_text("utf-8")), "utf-8")
        with Image.open("preview.png") as preview:
            preview.convert("RGB").quantize(128).save(DOCS / "images" / "first-hour-preview.png", optimize=True)
        draw(DOCS / "images" / "brain.png")


if __name__ == "__main__":
    main()
