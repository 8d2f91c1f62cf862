"""Numbers that are read when they are needed: one, or none, three, or one for all axes; lengths with a unit of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit, QWidget

from lsfm_core import InputError
from lsfm_core.geometry import mm_per
from napari_lsfm._widgets.fields._base import Field
from napari_lsfm._widgets.fields._rows import beside

__all__ = ["Number", "Numbers", "OneOrThree", "number"]


def number(text: str, *, unit: str | None = None, whole: bool = False, finite: bool = True) -> float:
    """A number; where it is a length, ``50 um`` is 0.05.

    Parameters
    ----------
    text : str
    unit : str, optional
        "mm": a length. (What has another one has no unit in the text.)
    whole : bool
    finite : bool

    Raises
    ------
    InputError
    """
    digits, factor = text.strip(), 1.0
    match = re.fullmatch(r"(.*\d\.?)\s*([^\W\d_]+)", digits)
    if unit == "mm" and match is not None and (found := mm_per(match[2])) is not None:
        digits, factor = match[1], found
    try:
        value = float(digits) * factor
    except ValueError:
        raise InputError(f"{text.strip()!r} is no {'whole ' if whole else ''}number" if digits else "expected a number") from None
    if whole and not value.is_integer():
        raise InputError(f"{text.strip()!r} is no whole number")
    if finite and not isfinite(value):
        raise InputError(f"{text.strip()!r} is no number to count with")
    # A tenth of a thousandth of a millionth: 50 um are 0.05 mm, and no dust more.
    return round(value, 13) if factor != 1 else value


def number_text(value: float) -> str:
    """As short as tells it to a tenth of a micrometre, where it is one of mm; whole and small numbers as they are."""
    if not isfinite(value):
        return f"{value:g}"
    return f"{value:g}" if abs(value) < 1e-3 else f"{round(float(value), 4) + 0.0:.10g}"


class _NumberEdit(QLineEdit):
    """One number; empty is None, if that is allowed."""

    edited = Signal()

    def __init__(
        self,
        parent: QWidget | None = None,
        *,
        unit: str | None = None,
        empty: str = "",
        whole: bool = False,
        optional: bool = False,
        finite: bool = True,
    ) -> None:
        super().__init__(parent)
        self._unit, self._whole, self._optional, self._finite = unit, whole, optional, finite
        self._scale = 1e9 if unit == "GB" else 1.0
        self.setPlaceholderText(empty)
        self.textChanged.connect(lambda _: self.edited.emit())

    def read(self) -> Any:
        if not self.text().strip() and self._optional:
            return None
        value = number(self.text(), unit=self._unit, whole=self._whole and self._scale == 1, finite=self._finite)
        return round(value * self._scale) if self._whole else value * self._scale

    def write(self, value: Any) -> None:
        self.setText("" if value is None else number_text(value / self._scale))


class Number(Field, editor=_NumberEdit):
    """A number, or none where nothing stands.

    Parameters
    ----------
    value : float, optional
    unit : str, optional
        ``"mm"``: other units of length can be typed with it; ``"GB"``: the value is in bytes.
    empty : str
        What is meant where nothing stands.
    whole, optional, finite : bool
        Whether it must be whole, may be left out, and must not be infinite or NaN.
    """


class _NumbersEdit(QWidget):
    """Three numbers in a row; all of them empty is None."""

    edited = Signal()

    def __init__(
        self,
        parent: QWidget | None = None,
        *,
        unit: str | None = None,
        axes: Sequence[str] = "RAS",
        whole: bool = False,
        optional: bool = False,
        positive: bool = False,
    ) -> None:
        super().__init__(parent)
        self._unit, self._axes, self._whole, self._optional, self._positive = unit, axes, whole, optional, positive
        self.edits = self.marked = [QLineEdit() for _ in axes]
        for axis, edit in zip(axes, self.edits, strict=True):
            edit.setMinimumWidth(40)
            edit.setPlaceholderText(axis)
            edit.setAccessibleName(axis)
            edit.textChanged.connect(lambda _: self.edited.emit())
        beside(*self.edits, into=self)

    @property
    def texts(self) -> list[str]:
        return [edit.text().strip() for edit in self.edits]

    def read(self) -> tuple[float, ...] | None:
        texts = self.texts
        if self._optional and not any(texts):
            return None
        missing = [axis for axis, text in zip(self._axes, texts, strict=True) if not text]
        if missing:
            raise InputError(f"still to be given: {', '.join(missing)} (expected three numbers)")
        try:
            values = tuple(number(text, unit=self._unit, whole=self._whole) for text in texts)
        except InputError as error:
            raise InputError(f"expected three {'whole ' if self._whole else ''}numbers, but {error}") from None
        if self._positive and min(values) <= 0:
            raise InputError(f"must be greater than 0, found {min(values):g}")
        return tuple(map(int, values)) if self._whole else values

    def write(self, values: Sequence[float] | float | None) -> None:
        """Show numbers, or nothing; one number stands for three. Tells of it once."""
        three = [None] * 3 if values is None else [values] * 3 if isinstance(values, int | float) else values
        texts = ["" if value is None else number_text(value) for value in three]
        if texts != self.texts:
            self.blockSignals(True)
            for edit, text in zip(self.edits, texts, strict=True):
                edit.setText(text)
            self.blockSignals(False)
            self.edited.emit()


class Numbers(Field, editor=_NumbersEdit):
    """Three numbers, along planes, rows and columns or R, A and S.

    Parameters
    ----------
    value : sequence of 3 float, or float, optional
    unit : str, optional
        As for `Number`.
    axes : sequence of str
        What each is of.
    whole, optional, positive : bool
        Whether they must be whole, may be left out together, and must be more than 0.
    """

    @property
    def edits(self) -> list[QLineEdit]:
        """The three fields."""
        return list(self.native.edits)

    @property
    def texts(self) -> list[str]:
        """What stands there."""
        return list(self.native.texts)


class _OneOrThreeEdit(_NumberEdit):
    def read(self) -> Any:
        parts = self.text().split(",")
        if not self.text().strip() and self._optional:
            return None
        if len(parts) not in (1, 3) or not all(part.strip() for part in parts):
            found = repr(self.text()) if self.text().strip() else "nothing"
            raise InputError(f"expected one number or 3 numbers with commas, found {found}")
        # A unit at the end is meant for all.
        last = re.search(r"[^\W\d_]+\s*$", parts[-1])
        if last is not None and all(re.fullmatch(r"[\d.+\-\s]+", part) for part in parts[:-1]):
            parts = [part + last[0] for part in parts[:-1]] + parts[-1:]
        try:
            values = tuple(number(part, unit=self._unit) for part in parts)
        except InputError as error:
            raise InputError(f"expected one number or 3 numbers with commas, but {error}") from None
        return values[0] if len(values) == 1 else values

    def write(self, value: Any) -> None:
        values = () if value is None else value if isinstance(value, Sequence) else (value,)
        self.setText(", ".join(map(number_text, values)))


class OneOrThree(Number, editor=_OneOrThreeEdit):
    """A number that holds for all axes, or one for each, with commas between them."""
