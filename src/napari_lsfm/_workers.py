"""Long work beside the window: the only room that knows threads and Qt's signals.

The core reports progress by calling back, in the worker's thread, as often as it likes; here the latest report is kept and shown
a few times a second, so that the window never has more to do than it can.
"""

from __future__ import annotations

import atexit
import re
import time
from collections.abc import Callable
from typing import Any

from napari.qt.threading import FunctionWorker, create_worker
from napari.utils import progress as activity
from qtpy.QtCore import QEventLoop, QObject, QThreadPool, QTimer, Signal
from qtpy.QtWidgets import QApplication, QDialog, QHBoxLayout, QMainWindow, QProgressBar, QPushButton, QVBoxLayout, QWidget

from lsfm_core import (
    CancelledError,
    CancelToken,
    ExportRequest,
    ImportRegistrationRequest,
    IngestRequest,
    LsfmError,
    PointsRequest,
    size_text,
)
from napari_lsfm._words import Words

__all__ = ["Job", "JobPanel", "Latest", "front_window", "in_words", "wait_for"]

_SHOW_EVERY_MS = 100
_SMOOTHING_S = 3.0
#: Work that is done sooner needs no dialog.
_PATIENCE_MS = 300
_DIALOG_WIDTH = 420
#: How long the program's end waits for threads.
_LAST_MS = 5000


def _await_last() -> None:
    """Let threads end before Qt does: what they tell then would reach nobody, and end the program with a complaint."""
    QThreadPool.globalInstance().waitForDone(_LAST_MS)


atexit.register(_await_last)


class Job(QObject):
    """One call of the core in a thread of its own.

    Signals come in the window's thread: ``progressed(stage, done, total)``, then one of ``returned(result)``, ``failed(message)``
    and ``cancelled()``, and at last ``finished()``.

    Parameters
    ----------
    function : callable
        ``function(progress=…, cancel=…)``, as the core's functions take them.
    title : str
        For napari's activity dock.
    parent : QObject, optional
        When it goes, the job is cancelled.
    """

    progressed = Signal(str, object, object)
    returned = Signal(object)
    failed = Signal(str)
    cancelled = Signal()
    finished = Signal()

    def __init__(self, function: Callable[..., Any], title: str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._token = CancelToken()
        self._latest: tuple[str, int, int] | None = None
        self._shown: tuple[str, int, int] | None = None
        self._activity = activity(total=100, desc=title)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._show)
        self._worker: FunctionWorker[Any] = create_worker(_outcome, function, progress=self._keep, cancel=self._token)
        self._worker.returned.connect(self._on_outcome)
        self._worker.finished.connect(self._on_finished)
        if parent is not None:
            # Not a slot of this object, which is gone by then.
            parent.destroyed.connect(self._token.cancel)

    def start(self) -> Job:
        """Begin; signals should be connected by now."""
        self._timer.start(_SHOW_EVERY_MS)
        self._worker.start()
        return self

    def cancel(self) -> None:
        """Ask the work to stop and undo itself."""
        self._token.cancel()

    def _keep(self, stage: str, done: int, total: int) -> None:
        self._latest = (stage, done, total)

    def _show(self) -> None:
        if self._latest is not None and self._latest != self._shown:
            self._shown = self._latest
            stage, done, total = self._latest
            self._activity.n = round(100 * done / total) if total else 0
            self._activity.refresh()
            self.progressed.emit(stage, done, total)

    def _on_outcome(self, outcome: tuple[Any, Exception | None]) -> None:
        # What was done so far is no news beside what came of it.
        self._timer.stop()
        result, error = outcome
        if error is None:
            self.returned.emit(result)
        elif isinstance(error, CancelledError):
            self.cancelled.emit()
        else:
            self.failed.emit(_message(error))

    def _on_finished(self) -> None:
        self._activity.close()
        self.finished.emit()


class Latest(QObject):
    """The newest of many questions, answered in a thread; for what a form shows while it is being filled in.

    One is answered at a time; whatever else was asked meanwhile, but for the last, never is. Of each that is the last, one signal
    tells, in the window's thread: ``answered(answer)`` or ``failed(message)``.

    Parameters
    ----------
    parent : QObject
        When it goes, the question in progress is cancelled.
    delay_ms : int
        How long questions must have ceased before one is looked at.
    answered, failed : callable, optional
        Slots of the signals.
    """

    answered = Signal(object)
    failed = Signal(str)

    def __init__(
        self,
        parent: QObject,
        delay_ms: int = 0,
        *,
        answered: Callable[[Any], object] | None = None,
        failed: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__(parent)
        for signal, slot in ((self.answered, answered), (self.failed, failed)):
            if slot is not None:
                signal.connect(slot)
        self._question: Callable[[CancelToken], Any] | None = None
        self._running: list[CancelToken] = []
        self._timer = QTimer(self, singleShot=True, interval=delay_ms)
        self._timer.timeout.connect(self._begin)
        running = self._running
        # No slot of this object, which is gone by then.
        self.destroyed.connect(lambda: [token.cancel() for token in running])

    @property
    def is_busy(self) -> bool:
        """Whether the last question is still to be answered."""
        return bool(self._running) or self._question is not None

    def ask(self, question: Callable[[CancelToken], Any]) -> None:
        """Have ``question(cancel)`` called, and forget all before it."""
        self.forget()
        self._question = question
        self._timer.start()

    def forget(self) -> None:
        """Let nothing be answered that was asked so far."""
        self._question = None
        for token in self._running:
            token.cancel()

    def _begin(self) -> None:
        if self._question is None or self._running:
            return
        question, self._question = self._question, None
        token = CancelToken()
        self._running.append(token)
        worker: FunctionWorker[Any] = create_worker(_outcome, question, token)
        worker.returned.connect(self._on_outcome)
        worker.finished.connect(self._on_finished)
        worker.start()

    def _on_outcome(self, outcome: tuple[Any, Exception | None]) -> None:
        answer, error = outcome
        if self._running[0].cancelled:
            return
        if error is None:
            self.answered.emit(answer)
        else:
            self.failed.emit(_message(error))

    def _on_finished(self) -> None:
        self._running.clear()
        if not self._timer.isActive():
            self._begin()


class JobPanel(QWidget):
    """The foot of a form: what is going on, how fast, how long still, a button to stop it; and the outcome in words.

    One job at a time; ``finished`` comes when it is over, however it ended.
    """

    finished = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._job: Job | None = None
        self._rate: _Rate | None = None
        self._bar = QProgressBar()
        self._bar.setAccessibleName("progress")
        self._stop = QPushButton("Cancel")
        self._stop.setToolTip("Stop, and leave nothing behind")
        self._stop.clicked.connect(self.cancel)
        self._text = Words()
        self._text.hide()
        row = QHBoxLayout()
        row.addWidget(self._bar, 1)
        row.addWidget(self._stop)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(row)
        column.addWidget(self._text)
        self._set_busy(False)

    @property
    def is_busy(self) -> bool:
        """Whether a job is under way."""
        return self._job is not None

    @property
    def text(self) -> str:
        """What the panel says."""
        return self._text.text()

    def run(self, function: Callable[..., Any], title: str, on_done: Callable[[Any], str]) -> Job:
        """Start a job; `on_done` takes its result, in the window's thread, and says what came of it."""
        job = Job(function, title, self)
        self._job, self._rate = job, _Rate()
        job.progressed.connect(self._show)
        job.returned.connect(lambda result: self.say(on_done(result)))
        job.failed.connect(self.complain)
        job.cancelled.connect(lambda: self.say("Cancelled; nothing was left behind."))
        job.finished.connect(self._on_finished)
        self._bar.setValue(0)
        self.say(f"{title} …")
        self._set_busy(True)
        return job.start()

    def cancel(self) -> None:
        """Stop the job, if there is one."""
        if self._job is not None:
            self._stop.setEnabled(False)
            self._job.cancel()

    def say(self, text: str) -> None:
        """Show a message."""
        self._text.say(text)
        self._text.setVisible(bool(text))

    def complain(self, text: str) -> None:
        """Show what is wrong."""
        self._text.complain(text)
        self._text.show()

    def _show(self, stage: str, done: int, total: int) -> None:
        if self._rate is not None and total:
            self._bar.setValue(round(100 * done / total))
            self.say(f"{stage}: {self._rate.describe(stage, done, total)}")

    def _on_finished(self) -> None:
        self._job = None
        self._set_busy(False)
        self.finished.emit()

    def _set_busy(self, busy: bool) -> None:
        self._bar.setVisible(busy)
        self._stop.setVisible(busy)
        self._stop.setEnabled(busy)


class _Waiting(QDialog):
    """A dialog that is in the way until a job is over; to close it is to cancel."""

    def __init__(self, title: str) -> None:
        super().__init__(front_window())
        self.setWindowTitle(title)
        self.setMinimumWidth(_DIALOG_WIDTH)
        self.panel = JobPanel()
        self.panel.finished.connect(self.accept)
        QVBoxLayout(self).addWidget(self.panel)

    def reject(self) -> None:
        """Stop the job, and wait for it to undo itself."""
        self.panel.cancel()


def front_window() -> QWidget | None:
    """The window for dialogs to belong to, whose theme they take; None without any."""
    shown = [window for window in QApplication.topLevelWidgets() if isinstance(window, QMainWindow) and window.isVisible()]
    return QApplication.activeWindow() or next(iter(shown), None)


def wait_for(function: Callable[..., Any], title: str) -> Any:
    """Do long work for a caller that waits for its result, while the window stays alive.

    A dialog tells how it goes, and can stop it.

    Parameters
    ----------
    function : callable
        ``function(progress=…, cancel=…)``, called in a thread.
    title : str

    Returns
    -------
    Any
        What the function gives.

    Raises
    ------
    Exception
        What the function raises, `CancelledError` if it was stopped.
    """
    outcomes: list[tuple[Any, Exception | None]] = []
    dialog = _Waiting(title)
    try:
        dialog.panel.run(lambda **keywords: outcomes.append(_outcome(function, **keywords)), title, lambda _: "")
        # Clicks and keys wait that long: the caller does not expect its window to change.
        loop = QEventLoop()
        dialog.panel.finished.connect(loop.quit)
        QTimer.singleShot(_PATIENCE_MS, loop.quit)
        loop.exec(QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents)
        if dialog.panel.is_busy:
            dialog.exec()
    finally:
        dialog.panel.cancel()
        dialog.deleteLater()
    if not outcomes:
        raise CancelledError(f"{title}: the program ends")
    result, error = outcomes[0]
    if error is not None:
        raise error
    return result


class _Rate:
    """Bytes per second of late, and how long the rest takes at that."""

    def __init__(self) -> None:
        self._stage = ""
        self._marks: list[tuple[float, int]] = []

    def describe(self, stage: str, done: int, total: int) -> str:
        """``1.2 GB of 3.4 GB, 400 MB/s, 5 s left``."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._marks = stage, []
        self._marks.append((now, done))
        while now - self._marks[0][0] > _SMOOTHING_S and len(self._marks) > 2:
            self._marks.pop(0)
        text = f"{size_text(done)} of {size_text(total)}"
        first, before = self._marks[0]
        if now > first and done > before:
            rate = (done - before) / (now - first)
            text += f", {size_text(rate)}/s, {_duration((total - done) / rate)} left"
        return text


def _outcome(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> tuple[Any, Exception | None]:
    """What a function gives, or what it raises: of a worker that raises, napari's own listeners fail under PySide6."""
    try:
        return function(*arguments, **keywords), None
    except Exception as error:  # noqa: BLE001
        return None, error


#: What requests call a thing, where that is no word: ``margin_mm``.
_FIELDS = {
    field
    for request in (ExportRequest, IngestRequest, PointsRequest, ImportRegistrationRequest)
    for field in request.model_fields
    if "_" in field
}
_FIELD = re.compile(rf"(?<![^ (])(?:[a-z_]+_(?:mm|vox|bytes)|{'|'.join(sorted(_FIELDS))})(?=[:,) ]|$)")


def in_words(error: LsfmError) -> str:
    """What an error says, where it names fields of a request as forms do: ``margin``, not ``margin_mm``."""
    return _FIELD.sub(lambda field: re.sub("_(mm|vox|bytes)$", "", field[0]).replace("_", " "), str(error))


def _message(error: Exception) -> str:
    if isinstance(error, LsfmError):
        return in_words(error)
    return f"{type(error).__name__}: {error}: this is a fault of the program, please report it"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
