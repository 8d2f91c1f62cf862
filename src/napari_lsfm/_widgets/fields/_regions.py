"""The choice of brain regions: by name, or in the tree of parts."""

from __future__ import annotations

from collections.abc import Iterable

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QLineEdit, QSizePolicy, QVBoxLayout, QWidget

from lsfm_core import LabelTable
from napari_lsfm._widgets.fields._base import Field
from napari_lsfm._widgets.fields._tree import RegionTree, RegionView

__all__ = ["RegionsField"]

_TREE_HEIGHT = 200
_INDENTATION = 12
#: Around the text of a cell, and the colour before an id.
_CELL_MARGIN, _SWATCH = 16, 24


class _RegionsEdit(QWidget):
    """A search above the tree.

    ``picked(is_on)`` tells that the user has taken a region, or given it back, by its name or its box; ``unknown(text)`` that
    nothing has that name. ``edited()`` comes with every change.
    """

    edited = Signal()
    picked = Signal(bool)
    unknown = Signal(str)

    def __init__(self, parent: QWidget | None = None, *, table: LabelTable | None = None) -> None:
        super().__init__(parent)
        self._ids: frozenset[int] = frozenset()
        self.search = QLineEdit()
        self.marked = [self.search]
        self.search.setPlaceholderText("id, acronym or name")
        self.search.setClearButtonEnabled(True)
        self.search.setAccessibleName("search")
        self.search.setToolTip("Show what has this in its id, acronym or name; Enter takes the best, or gives it back")
        self.model = RegionTree(self)
        self.tree = RegionView(self.model)
        self.tree.setMinimumHeight(_TREE_HEIGHT)
        self.tree.setIndentation(_INDENTATION)
        self.tree.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.tree.setAccessibleName("regions")
        self.tree.setToolTip("Tick a region to take it with all its parts")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.search)
        column.addWidget(self.tree, 1)
        self.setFocusProxy(self.search)
        self.search.textChanged.connect(self._on_search)
        self.search.returnPressed.connect(self._on_enter)
        self.model.ticked.connect(self._on_ticked)
        self.show_table(table or LabelTable())

    def read(self) -> frozenset[int]:
        """Ids that are chosen, parts included."""
        return self._ids

    def write(self, ids: Iterable[int] | None) -> None:
        """Choose some ids, and none of their parts unless these are among them."""
        self._ids = frozenset(ids or ())
        self.model.choose(self._ids)
        self.edited.emit()

    def show_table(self, table: LabelTable) -> None:
        """Show these regions instead; without a word of it, none is chosen."""
        self._ids, self.table = frozenset(), table
        self.model.show_table(table)
        self._fit_columns()
        self._fold()
        self._on_search(self.search.text())

    def go_to(self, key: int) -> None:
        """Bring a region into sight."""
        self.tree.bring(self.model.index_of(key))

    def restyle(self, theme: str) -> None:
        """Give the boxes in the tree the looks of napari's, which it leaves to the system: there, dark on dark."""
        self.tree.setStyleSheet(
            "QTreeView::indicator { width: 12px; height: 12px; border: 1px solid gray; border-radius: 2px; }"
            f'QTreeView::indicator:checked {{ background: #4560c4; image: url("theme_{theme}:/check.svg"); }}'
            f'QTreeView::indicator:indeterminate {{ background: gray; image: url("theme_{theme}:/minus.svg"); }}'
        )

    def _fit_columns(self) -> None:
        """Make acronyms and ids as wide as the longest; to let Qt look at every row takes longer than to show them."""
        for column, texts in ((1, [label.acronym or "" for label in self.table.values()]), (2, [str(key) for key in self.table])):
            longest = max(texts, key=len, default="")
            width = self.tree.fontMetrics().horizontalAdvance(longest) + _CELL_MARGIN + (_SWATCH if column == 2 else 0)
            self.tree.header().resizeSection(column, max(width, self.tree.header().sectionSizeHint(column)))
        self.tree.fit_names()

    def _fold(self) -> None:
        """Show the tops of the tree and their parts only."""
        self.tree.collapseAll()
        self.tree.expandToDepth(0)

    def _on_search(self, text: str) -> None:
        current = self.model.key_at(self.tree.currentIndex())
        found = self.table.search(text, len(self.table)) if text.strip() else ()
        self.model.show_only([label.id for label in found] if text.strip() else None)
        if text.strip():
            self.tree.expandAll()
        else:
            self._fold()
        if found:
            self.go_to(found[0].id)
        elif current is not None:
            self.go_to(current)

    def _on_enter(self) -> None:
        text = self.search.text().strip()
        found = self.table.search(text, 1) if text else ()
        if found:
            self._on_ticked(found[0].id, self.model.state(found[0].id) != Qt.CheckState.Checked)
        elif text.isdigit() and not self.table:
            self.write({*self._ids, int(text)})
        elif text:
            self.unknown.emit(text)

    def _on_ticked(self, key: int, is_on: bool) -> None:
        parts = {*self.table.descendants(key)}
        self.picked.emit(is_on)
        self.write(self._ids | parts if is_on else self._ids - parts)


class RegionsField(Field, editor=_RegionsEdit):
    """Ids of regions.

    Parameters
    ----------
    value : iterable of int, optional
    table : LabelTable, optional
        The regions to choose from.
    """

    is_wide = True
