"""What our fields have in common: each is a widget of magicgui around a small editor of Qt."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from magicgui.backends._qtpy.widgets import QBaseValueWidget
from magicgui.types import Undefined
from magicgui.widgets.bases import ValueWidget
from qtpy.QtWidgets import QWidget

from lsfm_core import InputError

__all__ = ["Field", "marked"]


class Field(ValueWidget[Any]):
    """A widget with a value, as all of magicgui are; `native` is its editor.

    An editor is a QWidget with ``read()``, which raises `InputError` where what stands there cannot be read, ``write(value)``, and
    a signal ``edited``. Subclasses name theirs: ``class Number(Field, editor=NumberEdit)``.

    Parameters
    ----------
    value : Any, optional
    **keywords
        As all of magicgui's widgets take them: name, label, tooltip and so on.
    """

    #: Whether it has a row of a form for itself, without a label before it.
    is_wide: ClassVar[bool] = False
    _backend: ClassVar[type[QBaseValueWidget]]

    def __init_subclass__(cls, editor: type[QWidget] | None = None, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if editor is not None:
            cls._backend = type(f"{cls.__name__}Backend", (_Backend,), {"editor": editor})

    def __init__(self, value: Any = Undefined, *, nullable: bool = True, **keywords: Any) -> None:
        keywords["widget_type"] = self._backend
        super().__init__(value, nullable=nullable, **keywords)

    @property
    def words(self) -> str:
        """What messages call it: its label without a unit, as ``voxel size``."""
        return re.sub(r" \(.*\)$", "", self.label).lower() or self.name

    def get_value(self) -> Any:
        """What stands there.

        Raises
        ------
        InputError
            That names the field, and says what is wrong with it.
        """
        try:
            return self.native.read()
        except InputError as error:
            raise InputError(f"{self.words}: {error}") from None

    def _on_value_change(self, value: Any = None) -> None:
        try:
            value = self.native.read()
        except InputError:
            # Whoever reads it is told.
            value = None
        self.changed.emit(value)


class _Backend(QBaseValueWidget):
    editor: ClassVar[type[QWidget]]

    def __init__(self, **keywords: Any) -> None:
        super().__init__(self.editor, "read", "write", "edited", **keywords)


def marked(widget: QWidget) -> list[QWidget]:
    """The parts of an editor that get a frame where something is wrong or missing."""
    return list(getattr(widget, "marked", [widget]))
