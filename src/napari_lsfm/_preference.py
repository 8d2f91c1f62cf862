"""napari's preference that has our files opened by this plugin without a question, and the offer to set it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from napari_lsfm._settings import current_settings, decline_offer
from napari_lsfm._window import current_viewer, tell

__all__ = ["offer_to_open_always", "open_always"]

_PLUGIN = "napari-lsfm"
#: As in napari.yaml, of files of images.
_ENDINGS = ("*.h5", "*.hdf5", "*.xml")
#: After a file was opened napari stores what its dialog was told to remember.
_DELAY_MS = 500


def open_always() -> None:
    """Set napari's own preference that has our files opened by this plugin without a question.

    The dialog's box "Remember this choice" would store the same, for one ending at a time: napari's builtin reader claims .h5 and
    .hdf5, too, and no plugin can outdo it. Files that are not ours still get the dialog.
    """
    from napari.settings import get_settings

    plugins = get_settings().plugins
    plugins.extension2reader = {**plugins.extension2reader, **dict.fromkeys(_ENDINGS, _PLUGIN)}
    tell(f"{', '.join(_ENDINGS)} are opened with LSFM from now on. It can be changed in napari's Preferences > Plugins.")


def offer_to_open_always(path: Path) -> None:
    """Offer that preference in a message, where napari asks who is to read such a file; once in a session.

    Parameters
    ----------
    path : Path
        Of a file that was opened by this plugin just now.
    """
    if current_viewer() is None:
        return
    from qtpy.QtCore import QTimer

    QTimer.singleShot(_DELAY_MS, lambda: _offer(f"*{path.suffix.lower()}", path.name))


def _offer(ending: str, name: str) -> None:
    from napari.settings import get_settings

    # Who has chosen another plugin for such files has decided.
    is_open = ending in _ENDINGS and ending not in get_settings().plugins.extension2reader
    if is_open and current_settings().offers_preference and _is_asked(name) and current_viewer() is not None:
        _offer_once()


def _is_asked(name: str) -> bool:
    """Whether napari asks who is to read a file of such a name."""
    from npe2 import PluginManager

    readers = PluginManager.instance().iter_compatible_readers([name])
    return len({reader.plugin_name for reader in readers}) > 1


@cache
def _offer_once() -> None:
    from napari.utils.notifications import Notification, NotificationSeverity, notification_manager

    actions: Any = (("Yes, always", lambda _: open_always()), ("No, ask me", lambda _: decline_offer()))
    notification_manager.dispatch(Notification("Always open such files with LSFM?", NotificationSeverity.INFO, actions))
