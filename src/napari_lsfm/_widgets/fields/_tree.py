"""Regions as a tree of parts with check boxes, as Qt asks for it: row by row, and only those that are seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from qtpy.QtCore import QAbstractItemModel, QModelIndex, QObject, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QResizeEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTreeView

from lsfm_core import Label, LabelTable

__all__ = ["RegionTree", "RegionView"]

_HEADERS = ("Region", "Acronym", "Id")
_FAINT = QColor("gray")
_TOP = QModelIndex()
#: Width of a check box and the space around a name.
_BOX = 40


class RegionTree(QAbstractItemModel):
    """The regions of a label table, each below the one that it is a part of, and those that were chosen without being listed.

    A region is checked if it is chosen with all its parts, and partially if some of that is. ``ticked(id, is_on)`` tells of the
    user's clicks at a box; whoever hears of it says what is chosen then.
    """

    ticked = Signal(object, bool)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._fill(LabelTable())

    @property
    def keys(self) -> tuple[int, ...]:
        """Ids of all regions, whether or not they are shown."""
        return tuple(self._keys)

    def show_table(self, table: LabelTable) -> None:
        """Show these regions instead; none is chosen, and of none it is known that it is empty."""
        self.beginResetModel()
        self._fill(table)
        self.endResetModel()

    def show_only(self, shown: Collection[int] | None) -> None:
        """Show these regions only, and what they are part of; None: all."""
        self.beginResetModel()
        self._arrange(shown)
        self.endResetModel()

    def choose(self, ids: Iterable[int]) -> None:
        """Check these, and nothing else."""
        self._chosen = frozenset(ids)
        for key in sorted(self._chosen - self._above.keys()):
            row = len(self._parts[None])
            self.beginInsertRows(_TOP, row, row)
            self._add(key, None)
            self._all[key] = 1
            self._parts[None].append(key)
            self._rows[key] = row
            self.endInsertRows()
        self._some = self._count(self._chosen)
        self._tell_of_change()

    def mark_empty(self, occurring: Collection[int]) -> None:
        """Grey out what has no voxels, nor have its parts; those with some are given."""
        self._present = self._count(key for key in occurring if key in self._above)
        self._tell_of_change()

    def state(self, key: int) -> Qt.CheckState:
        """How much of a region is chosen."""
        if not self._some[key]:
            return Qt.CheckState.Unchecked
        return Qt.CheckState.Checked if self._some[key] == self._all[key] else Qt.CheckState.PartiallyChecked

    def is_empty(self, key: int) -> bool:
        """Whether it is known that neither a region nor its parts have voxels."""
        return self._present is not None and not self._present[key]

    def whole(self) -> list[int]:
        """The topmost regions that are checked."""
        full = {key for key in self._keys if self.state(key) == Qt.CheckState.Checked}
        return [key for key in self._keys if key in full and self._above[key] not in full]

    def index_of(self, key: int) -> QModelIndex:
        """Where a region stands; nowhere if it is not shown."""
        return self.createIndex(self._rows[key], 0, self._numbers[key]) if key in self._rows else QModelIndex()

    def key_at(self, index: QModelIndex) -> int | None:
        """The region that stands somewhere."""
        return self._keys[index.internalId()] if index.isValid() else None

    # --- what Qt asks -------------------------------------------------------------------------------------------------------

    def index(self, row: int, column: int, parent: QModelIndex = _TOP) -> QModelIndex:
        parts = self._parts.get(self.key_at(parent), ())
        return self.createIndex(row, column, self._numbers[parts[row]]) if 0 <= row < len(parts) else QModelIndex()

    def parent(self, index: QModelIndex | None = None) -> Any:
        """Place of what a region is a part of; without an index, the object that owns this one."""
        if index is None:
            return super().parent()
        key = self.key_at(index)
        above = None if key is None else self._above[key]
        return QModelIndex() if above is None else self.index_of(above)

    def rowCount(self, parent: QModelIndex = _TOP) -> int:  # noqa: N802
        return 0 if parent.column() > 0 else len(self._parts.get(self.key_at(parent), ()))

    def columnCount(self, parent: QModelIndex = _TOP) -> int:  # noqa: N802
        return len(_HEADERS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: N802
        return _HEADERS[section] if role == Qt.ItemDataRole.DisplayRole else None

    def flags(self, index: QModelIndex) -> Qt.ItemFlag:
        """All can be chosen, empty ones too."""
        if not index.isValid():
            return Qt.ItemFlag.NoItemFlags
        usual = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        return usual | Qt.ItemFlag.ItemIsUserCheckable if index.column() == 0 else usual

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        key = self.key_at(index)
        if key is None:
            return None
        label, column = self.label(key), index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return (label.name, label.acronym or "", str(key))[column]
        if role == Qt.ItemDataRole.CheckStateRole and column == 0:
            return self.state(key)
        if role == Qt.ItemDataRole.ToolTipRole:
            way = " > ".join(self.label(part).name for part in reversed([*self._up(key)]))
            return f"{way}\nNo voxel of this channel belongs to it, nor to its parts" if self.is_empty(key) else way
        if role == Qt.ItemDataRole.DecorationRole and column == 2 and label.rgb is not None:
            return QColor(*label.rgb)
        if role == Qt.ItemDataRole.ForegroundRole and self.is_empty(key):
            return _FAINT
        return None

    def setData(self, index: QModelIndex, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:  # noqa: N802
        if role != Qt.ItemDataRole.CheckStateRole:
            return False
        self.ticked.emit(self.key_at(index), Qt.CheckState(value) == Qt.CheckState.Checked)
        return True

    def label(self, key: int) -> Label:
        """What is known of a region."""
        return self._table.get(key, Label(key, f"label {key}"))

    # ------------------------------------------------------------------------------------------------------------------------

    def _fill(self, table: LabelTable) -> None:
        self._table = table
        self._keys: list[int] = []
        self._numbers: dict[int, int] = {}
        self._above: dict[int, int | None] = {}
        for key, label in table.items():
            self._add(key, label.parent if label.parent in table else None)
        # Parents that run in a circle have no top: it is cut where one comes back.
        for key in table:
            way = [key]
            while (above := self._above[way[-1]]) is not None:
                if above in way:
                    self._above[way[-1]] = None
                    break
                way.append(above)
        self._chosen: frozenset[int] = frozenset()
        self._all = self._count(self._keys)
        self._some: Counter[int] = Counter()
        self._present: Counter[int] | None = None
        self._arrange(None)

    def _add(self, key: int, above: int | None) -> None:
        self._numbers[key] = len(self._keys)
        self._keys.append(key)
        self._above[key] = above

    def _arrange(self, shown: Collection[int] | None) -> None:
        self._parts: dict[int | None, list[int]] = {None: []}
        self._rows: dict[int, int] = {}
        with_tops = None if shown is None else self._count(shown)
        for key, above in self._above.items():
            if with_tops is None or key in with_tops:
                parts = self._parts.setdefault(above, [])
                self._rows[key] = len(parts)
                parts.append(key)

    def _up(self, key: int | None) -> Iterator[int]:
        """A region, and all that it is a part of."""
        while key is not None:
            yield key
            key = self._above[key]

    def _count(self, keys: Iterable[int]) -> Counter[int]:
        """For each region, how many of these it has, itself included."""
        return Counter(part for key in keys for part in self._up(key))

    def _tell_of_change(self) -> None:
        """Have what is seen drawn anew; Qt asks for nothing else."""
        last = len(self._parts[None]) - 1
        if last >= 0:
            self.dataChanged.emit(self.index(0, 0), self.index(last, len(_HEADERS) - 1))


class RegionView(QTreeView):
    """Shows a `RegionTree`: no name that is in sight is cut, and every column can be made wider or narrower.

    Parameters
    ----------
    regions : RegionTree
    """

    def __init__(self, regions: RegionTree) -> None:
        super().__init__()
        self.setModel(regions)
        self.setUniformRowHeights(True)
        # One pixel after the other, since columns are wide.
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        header = self.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        # To look at every row takes longer than to show them.
        header.setResizeContentsPrecision(0)
        # Once for all that open together: a search opens a thousand.
        self._soon = QTimer(self, singleShot=True, interval=0)
        self._soon.timeout.connect(self.fit_names)
        self.expanded.connect(lambda _: self._soon.start())
        self.collapsed.connect(lambda _: self._soon.start())
        self.verticalScrollBar().valueChanged.connect(self._on_scrolled)

    def fit_names(self) -> None:
        """Make the names' column as wide as those in sight need, and at least as there is room for."""
        others = sum(self.columnWidth(column) for column in range(1, len(_HEADERS)))
        self.resizeColumnToContents(0)
        self.setColumnWidth(0, max(self.columnWidth(0), self.viewport().width() - others))

    def bring(self, index: QModelIndex) -> None:
        """Open what a region is part of, and bring its row and the beginning of its name into sight."""
        if not index.isValid():
            return
        self.setCurrentIndex(index)
        self.scrollTo(index, QAbstractItemView.ScrollHint.PositionAtCenter)
        self.fit_names()
        # Sideways no further than the name needs, and never past its beginning.
        bar = self.horizontalScrollBar()
        bar.setValue(0)
        first = self.visualRect(index).left()
        last = first + self.fontMetrics().horizontalAdvance(index.data()) + _BOX
        bar.setValue(max(0, min(last - self.viewport().width(), first - self.indentation())))

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        super().resizeEvent(event)
        self.fit_names()

    def _on_scrolled(self, value: int) -> None:
        # Never narrower here: that would move what is being looked at.
        before = self.columnWidth(0)
        self.resizeColumnToContents(0)
        self.setColumnWidth(0, max(self.columnWidth(0), before))
