"""What our fields have in common: each is a widget of magicgui around a small editor of Qt."""

from __future__ import annotations

import inspect
import re
from functools import partial
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
    a signal ``edited``; what else it is made with are the field's options. Where only parts of it get a frame when something is
    wrong, it names them as ``marked``. Subclasses name theirs: ``class Tick(Field, editor=TickEdit)``.

    Parameters
    ----------
    value : Any, optional
    **keywords
        The editor's options, and what all of magicgui's widgets take: name, label, tooltip and so on.
    """

    #: Whether it has a row of a form for itself, without a label before it.
    is_wide: ClassVar[bool] = False
    _editor: ClassVar[type[QWidget]]

    def __init_subclass__(cls, editor: type[QWidget] | None = None, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if editor is not None:
            cls._editor = editor

    def __init__(self, value: Any = Undefined, *, nullable: bool = True, **keywords: Any) -> None:
        known = inspect.signature(self._editor.__init__).parameters
        options = {name: keywords.pop(name) for name in [*keywords] if name in known}
        editor = partial(self._editor, **options)
        super().__init__(value, nullable=nullable, **keywords | {"widget_type": _Backend, "backend_kwargs": {"editor": editor}})
        self.native.setAccessibleName(self.label)

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
    def __init__(self, editor: partial[QWidget], **keywords: Any) -> None:
        editor.__name__ = editor.func.__name__  # type: ignore[attr-defined]
        super().__init__(editor, "read", "write", "edited", **keywords)


def marked(widget: QWidget) -> list[QWidget]:
    """The parts of an editor that get a frame where something is wrong or missing."""
    return list(getattr(widget, "marked", [widget]))
