"""The chain of transforms from an image to another space: what can be chosen, in which order, and a picture of it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QFileDialog, QListWidget, QMenu, QVBoxLayout, QWidget

from lsfm_core import TransformStep
from napari_lsfm._widgets._facts import FileFacts, StoredTransform
from napari_lsfm._widgets.fields._base import Field
from napari_lsfm._widgets.fields._rows import beside, small_button
from napari_lsfm._words import Words

__all__ = ["ChainField"]

#: Names of image files, which as transforms are displacement fields.
_FIELDS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
_FILTER = "Transforms (*.txt *.tfm *.mat *.xfm *.h5 *.nii *.nii.gz *.nrrd *.mha *.mhd);;All files (*)"
#: White letters can be read on them, and they stand out on dark and on light.
_COLOURS = {"image": "#3b6fb6", "affine": "#7a5ca8", "field": "#2e7d5b", "output": "#a8611a"}


class _ChainEdit(QWidget):
    """A list of transforms, nearest to the image first."""

    edited = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._stored: dict[str, StoredTransform] = {}
        self._channel = ""
        self._steps: list[TransformStep] = []
        self._asked = False
        self._list = QListWidget()
        self.marked = [self._list]
        self._list.setAccessibleName("transforms")
        self._list.setToolTip("From the image outward: the first is nearest to the image, the last to the output")
        self._list.currentRowChanged.connect(lambda _: self._enable())
        self._add = small_button("Add", "Add a transform that is stored in the file, or one from a file of its own")
        # The arrow beside its text has to have room, too.
        self._add.setMinimumWidth(self._add.minimumWidth() + 16)
        self._menu = QMenu(self._add)
        self._menu.aboutToShow.connect(self._offer)
        self._add.setMenu(self._menu)
        self._remove = small_button("✕", "Take the chosen transform out")
        self._up = small_button("↑", "Move it nearer to the image")
        self._down = small_button("↓", "Move it nearer to the output")
        self._invert = small_button(
            "Invert", "Take the inverse: of any affine, and of a displacement field whose inverse is stored"
        )
        self._invert.setCheckable(True)
        self._numeric = QCheckBox("Invert fields numerically")
        self._numeric.setToolTip(
            "Also allow displacement fields whose inverse is not stored to be inverted; how well that goes is told below"
        )
        self._picture = Words()
        self._words = Words()
        self._picture.setToolTip("The way from the image to the output")
        self._remove.clicked.connect(self._on_remove)
        self._up.clicked.connect(lambda: self._move(-1))
        self._down.clicked.connect(lambda: self._move(1))
        self._invert.clicked.connect(self._on_invert)
        self._numeric.toggled.connect(self._on_numeric)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for part in (
            self._list,
            beside(self._add, self._remove, self._up, self._down, self._invert),
            self._numeric,
            self._picture,
            self._words,
        ):
            column.addWidget(part)
        self._show()

    def read(self) -> tuple[TransformStep, ...]:
        return tuple(self._steps)

    @property
    def numeric_inverse(self) -> tuple[str, ...]:
        """Names of the fields that are inverted numerically."""
        return tuple(step.name for step in self._steps if step.invert and not self._has_inverse(step))

    @property
    def names(self) -> list[str]:
        """What can be added of what the file holds; each transform can be there once."""
        used = {step.name for step in self._steps}
        return [name for name in self._stored if name not in used]

    def set_facts(self, facts: FileFacts, channel: str) -> None:
        """Offer what a file holds for a channel; steps that it does not have are taken out."""
        self._stored = {stored.name: stored for stored in facts.transforms(channel)}
        self._channel = channel
        self._steps = [step for step in self._steps if step.name in self._stored or Path(step.name).is_file()]
        self._show()

    def write(self, steps: Iterable[TransformStep | str]) -> None:
        self._steps = [TransformStep.parse(step) if isinstance(step, str) else step for step in steps or ()]
        self._show()
        self.edited.emit()

    @property
    def fields_without_inverse(self) -> tuple[str, ...]:
        """Names of the file's fields whose inverse is not stored."""
        return tuple(stored.name for stored in self._stored.values() if not stored.has_inverse)

    @property
    def is_numeric_allowed(self) -> bool:
        """Whether such fields may be inverted."""
        return self._numeric.isChecked()

    def ask_numeric(self, asked: bool = True) -> None:
        """Let it be asked for, also where no transform that is listed needs it."""
        self._asked = asked
        self._enable()

    def allow_numeric(self, allowed: bool = True) -> None:
        """Let fields be inverted whose inverse is not stored."""
        self._numeric.setChecked(allowed)

    def add(self, name: str) -> None:
        """Add a transform at the outer end."""
        self._steps.append(TransformStep(name=name))
        self._show(len(self._steps) - 1)
        self.edited.emit()

    def say(self, text: str) -> None:
        """Spell the chain out."""
        self._words.say(text)
        self._words.setVisible(bool(text))

    def _offer(self) -> None:
        self._menu.clear()
        for name in self.names:
            action = self._menu.addAction(f"{name} ({_KINDS[self._stored[name].kind]})")
            action.triggered.connect(lambda _, name=name: self.add(name))
        self._menu.addSeparator()
        self._menu.addAction("From a file…").triggered.connect(lambda _: self._browse())

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "A transform", "", _FILTER)
        if path:
            self.add(path)

    def _kind(self, step: TransformStep) -> str:
        if step.name in self._stored:
            return self._stored[step.name].kind
        return "field" if step.name.lower().endswith(_FIELDS) else "affine"

    def _has_inverse(self, step: TransformStep) -> bool:
        return self._stored[step.name].has_inverse if step.name in self._stored else self._kind(step) == "affine"

    def _on_remove(self) -> None:
        row = self._list.currentRow()
        del self._steps[row]
        self._show(min(row, len(self._steps) - 1))
        self.edited.emit()

    def _move(self, by: int) -> None:
        row = self._list.currentRow()
        self._steps[row], self._steps[row + by] = self._steps[row + by], self._steps[row]
        self._show(row + by)
        self.edited.emit()

    def _on_invert(self, inverted: bool) -> None:
        row = self._list.currentRow()
        self._steps[row] = self._steps[row].model_copy(update={"invert": inverted})
        self._show(row)
        self.edited.emit()

    def _on_numeric(self, allowed: bool) -> None:
        if not allowed and self.numeric_inverse:
            self._steps = [step if self._has_inverse(step) else TransformStep(name=step.name) for step in self._steps]
            self._show(self._list.currentRow())
        self._enable()
        self.edited.emit()

    def _show(self, row: int = -1) -> None:
        self._list.clear()
        for number, step in enumerate(self._steps, 1):
            inverted = ", inverted" if step.invert else ""
            self._list.addItem(f"{number}.  {_short(step.name)}  ({_KINDS[self._kind(step)]}{inverted})")
            self._list.item(number - 1).setToolTip(step.name)
        self._list.setVisible(bool(self._steps))
        self._list.setFixedHeight(self._list.count() * max(self._list.sizeHintForRow(0), 16) + 2 * self._list.frameWidth() + 8)
        self._list.setCurrentRow(row)
        nodes = [(self._channel or "image", "image")]
        nodes += [(_short(step.name) + (" ⁻¹" if step.invert else ""), self._kind(step)) for step in self._steps]
        self._picture.say(" → ".join(_node(*node) for node in [*nodes, ("output", "output")]))
        self._picture.setVisible(bool(self._steps))
        self.say("")
        self._enable()

    def _enable(self) -> None:
        row = self._list.currentRow()
        chosen = 0 <= row < len(self._steps)
        self._remove.setEnabled(chosen)
        self._up.setEnabled(chosen and row > 0)
        self._down.setEnabled(chosen and row < len(self._steps) - 1)
        self._invert.setEnabled(chosen and (self._has_inverse(self._steps[row]) or self._numeric.isChecked()))
        self._invert.setChecked(chosen and self._steps[row].invert)
        needs = any(not self._has_inverse(step) for step in self._steps)
        self._numeric.setVisible(needs or self._asked)


class ChainField(Field, editor=_ChainEdit):
    """The transforms between an image and the output, as a tuple of `TransformStep`, nearest to the image first."""

    is_wide = True


_KINDS = {"affine": "affine", "field": "displacement field"}


def _short(name: str) -> str:
    return Path(name).name if Path(name).is_absolute() else name


def _node(name: str, kind: str) -> str:
    text = escape(name).replace(" ", "&nbsp;")
    return f'<span style="background-color: {_COLOURS[kind]}; color: white;">&nbsp;{text}&nbsp;</span>'
