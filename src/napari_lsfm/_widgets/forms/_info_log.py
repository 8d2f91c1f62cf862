"""What was done with a file, newest first, and the command lines that do it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QHeaderView,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from lsfm_core import LogRecord, command_line, size_text
from napari_lsfm._widgets.fields import Words, beside

__all__ = ["LogTable"]

_TITLES = ("", "Date", "Operation", "Channel", "Outcome")
_MOST_ROWS = 6


class LogTable(QWidget):
    """Records in a table, and all of the chosen one below it."""

    def __init__(self) -> None:
        super().__init__()
        self._path = Path()
        self._records: list[tuple[int, LogRecord]] = []
        self.table = QTableWidget(0, len(_TITLES))
        self.table.setHorizontalHeaderLabels(list(_TITLES))
        self.table.verticalHeader().hide()
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setTabKeyNavigation(False)
        self.table.setAccessibleName("log")
        self.table.setToolTip("What was done with the file, the newest first; choose one to see all of it")
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(_TITLES.index("Channel"), QHeaderView.ResizeMode.Stretch)
        header.setHighlightSections(False)
        self.table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.details = Words()
        self.details.setAccessibleName("record")
        self.copy = QPushButton("Copy command")
        self.copy.setToolTip("Put a command line that does the same again into the clipboard")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for part in (self.table, self.details, beside(self.copy)):
            column.addWidget(part)
        self.table.itemSelectionChanged.connect(self._on_chosen)
        self.copy.clicked.connect(lambda: QApplication.clipboard().setText(self._command or ""))
        self.show_log(self._path, ())

    def show_log(self, path: Path, records: Sequence[LogRecord]) -> None:
        """Show the log of a file; the record that is chosen stays so."""
        chosen = self._chosen
        name = chosen.name if chosen is not None and path == self._path else None
        self._path = path
        self._records = list(enumerate(records, 1))[::-1]
        with QSignalBlocker(self.table):
            self.table.clearSelection()
            self.table.setRowCount(len(self._records))
            for row, (number, record) in enumerate(self._records):
                cells = (str(number), f"{record.time:%Y-%m-%d}", record.operation, record.channel or "", record.outcome)
                for column, text in enumerate(cells):
                    self.table.setItem(row, column, QTableWidgetItem(text))
                if record.name == name:
                    self.table.selectRow(row)
        rows = min(max(1, len(self._records)), _MOST_ROWS)
        self.table.setFixedHeight(
            self.table.horizontalHeader().sizeHint().height() + rows * self.table.verticalHeader().defaultSectionSize() + 4
        )
        self._on_chosen()

    @property
    def _chosen(self) -> LogRecord | None:
        rows = self.table.selectionModel().selectedRows()
        return self._records[rows[0].row()][1] if rows else None

    def _on_chosen(self) -> None:
        record = self._chosen
        # A terminal begins at home.
        self._command = None if record is None else command_line(record, str(self._path), folder=Path.home())
        self.copy.setEnabled(self._command is not None)
        self.details.setVisible(record is not None)
        self.details.say("" if record is None else "\n".join(_lines(record)))


def _lines(record: LogRecord) -> Iterator[str]:
    who = f" by {record.user}@{record.host}" if record.host else ""
    seconds = "" if record.seconds is None else f" in {record.seconds:.1f} s"
    yield f"{record.time:%Y-%m-%d %H:%M:%S} UTC: {record.outcome}{seconds}{who}"
    if record.message:
        yield record.message
    yield record.command or "asked for by Python"
    if record.output is not None:
        yield f"made {record.output.path} ({size_text(record.output.size)})"
