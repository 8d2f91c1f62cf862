"""How a specimen lies in its image: chosen in words or letters, and shown."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QGridLayout, QLabel, QLineEdit, QWidget

from lsfm_core import Orientation, OrientationError, Space
from lsfm_core.testing import phantom
from napari_lsfm._widgets.fields._base import Field
from napari_lsfm._widgets.fields._choice import ChoiceEdit
from napari_lsfm._widgets.fields._picture import Grey, Picture
from napari_lsfm._widgets.fields._rows import Rows, beside
from napari_lsfm._words import Words

__all__ = ["OrientationEdit", "OrientationField", "edge_letters", "phantom_slices"]

_AXES = ("planes", "rows", "columns")
_SIDES = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}
_EDGE = 96
#: The phantom's voxels, and its spot in the right hemisphere against its centre (R, A, S), in mm: slices are cut there.
_VOXEL_MM = 0.25
_SPOT_MM = (2.2, 1.0, -0.6)
#: What is darker is noise.
_DARKEST, _BRIGHTEST = 110, 1000


class OrientationEdit(Rows):
    """Three choices, the two spellings of the code, and pictures of a brain that lies so. One changes all others."""

    edited = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._orientation: Orientation | None = None
        self._error: OrientationError | None = None
        self.axes = tuple(ChoiceEdit() for _ in _AXES)
        for name, choice in zip(_AXES, self.axes, strict=True):
            choice.offer([("…", None), *((word, letter) for letter, word in _SIDES.items())])
            self.row(
                f"{name.capitalize()} toward",
                choice,
                f"The side of the body that lies in the direction in which {name} are counted",
            )
            choice.edited.connect(self._on_axes)
        self.toward = QLineEdit()
        self.toward.setPlaceholderText("AIR")
        self.toward.textEdited.connect(lambda text: self._take(text, Orientation, self.toward))
        self.origin = QLineEdit()
        self.origin.setPlaceholderText("psl")
        self.origin.setToolTip("The same by the sides where the first voxel lies (BrainGlobe, ITK-SNAP)")
        self.origin.setAccessibleName("code by the first voxel's sides")
        self.origin.textEdited.connect(lambda text: self._take(text, Orientation.from_origin, self.origin))
        tip = "The sides toward which planes, rows and columns are counted (nibabel's axis codes)"
        self.row("Code", beside(self.toward, QLabel("first voxel at"), self.origin), tip)
        self.toward.setToolTip(tip)
        self.pictures = tuple(Picture(_EDGE) for _ in _AXES)
        self.row("", self._build_pictures(), "A model brain as it would be stored so: compare it with your image")
        self.words = Words()
        self.row("", self.words, "What the code says")
        self.warning = Words()
        self.row("", self.warning, "What is unusual about the code")
        self.setFocusProxy(self.axes[0])
        self._show(None)

    @property
    def orientation(self) -> Orientation | None:
        """What is chosen, if that is something."""
        return self._orientation

    @property
    def marked(self) -> list[QWidget]:
        """What gets a frame: the letters if some were typed."""
        return [self.toward] if self.toward.text() or self.origin.text() else list(self.axes)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was chosen or typed."""
        return not (any(choice.currentData() for choice in self.axes) or self.toward.text() or self.origin.text())

    def read(self) -> str | None:
        """The axis codes, or None if nothing was chosen.

        Raises
        ------
        OrientationError
        """
        if self._error is not None:
            raise self._error
        return self._orientation.axcodes if self._orientation is not None else None

    def write(self, axcodes: str | None) -> None:
        """Show a code, or none."""
        self._take(axcodes or "", Orientation, None)

    def _build_pictures(self) -> QWidget:
        row = QWidget()
        grid = QGridLayout(row)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(3)
        for column, (picture, (down, right)) in enumerate(zip(self.pictures, _in_slice(_AXES), strict=True)):
            caption = QLabel(f"{down} ↓\n{right} →")
            caption.setAlignment(Qt.AlignmentFlag.AlignCenter)
            picture.setAccessibleName(f"slice with {down} downward and {right} to the right")
            grid.addWidget(picture, 0, column)
            grid.addWidget(caption, 1, column)
        return row

    def _on_axes(self) -> None:
        self._take("".join(choice.currentData() or "?" for choice in self.axes).replace("???", ""), Orientation, self.axes[0])

    def _take(self, text: str, parse: Callable[[str], Orientation], changed: QWidget | None) -> None:
        self._orientation = self._error = None
        try:
            self._orientation = parse(text.strip()) if text.strip() else None
        except OrientationError as error:
            self._error = error
        self._show(changed)
        self.edited.emit()

    def _show(self, changed: QWidget | None) -> None:
        """Write it everywhere but where the user is at work."""
        found = self._orientation
        for edit, text in ((self.toward, found.axcodes if found else ""), (self.origin, found.origin_letters if found else "")):
            if edit is not changed:
                edit.setText(text)
        if changed is not self.axes[0]:
            for choice, letter in zip(self.axes, found.axcodes if found else (None, None, None), strict=True):
                with QSignalBlocker(choice):
                    choice.write(letter)
        slices = phantom_slices(found) if found else (None, None, None)
        for axis, (picture, image) in enumerate(zip(self.pictures, slices, strict=True)):
            picture.show_image(image, "?")
            picture.show_letters(edge_letters(found, axis) if found else ())
        self.words.say(
            found.describe().replace("; ", "\n").replace("->", "→") if found else "Not chosen: the image does not tell it."
        )
        self.show_row(self.warning, found is not None and found.is_mirrored)
        if found is not None and found.is_mirrored:
            self.warning.warn(
                f"{found} is a mirror image of what a camera sees, unless the planes come toward it: right and left may be "
                "swapped. Check it against the specimen."
            )


class OrientationField(Field, editor=OrientationEdit):
    """How a specimen lies in its image, as axis codes, with a picture of it; None where nothing was chosen."""

    is_wide = True


def edge_letters(orientation: Orientation, axis: int) -> tuple[str, str, str, str]:
    """The sides of the body at the left, right, upper and lower edge of a slice across an array axis.

    The first of the other two axes is drawn downward, the second to the right.
    """
    down, right = _in_slice(orientation.axcodes)[axis]
    up, left = _in_slice(orientation.origin_letters.upper())[axis]
    return left, right, up, down


def phantom_slices(orientation: Orientation) -> tuple[Grey, ...]:
    """Three slices of a model brain that lies so, across each array axis; all go through the spot in its right hemisphere."""
    space, brain = _phantom()
    turn = space.reorientation_to(orientation)
    image = turn.apply(brain)
    centre = np.add(space.bounds.lower_mm, space.bounds.upper_mm) / 2
    (spot,) = space.reoriented(turn).to_voxel([centre + _SPOT_MM]).round().astype(int)
    return tuple(np.ascontiguousarray(image.take(spot[axis], axis=axis)) for axis in range(3))


def _in_slice(names: tuple[str, ...] | str) -> list[tuple[str, str]]:
    """For a slice across each axis, the names of the two that lie in it."""
    first, second, third = names
    return [(second, third), (first, third), (first, second)]


@cache
def _phantom() -> tuple[Space, Grey]:
    space = Space.from_orientation((43, 59, 32), (_VOXEL_MM,) * 3, Orientation("RAS"))
    return space, ((phantom(space).clip(_DARKEST, _BRIGHTEST) - _DARKEST) * (255 / (_BRIGHTEST - _DARKEST))).astype(np.uint8)
