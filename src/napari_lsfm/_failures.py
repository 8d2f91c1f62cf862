"""What cannot be read of a layer of ours is told in words, and shown as nothing: no error of napari's, and no dark plane."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from lsfm_core import LsfmError

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Layer

__all__ = ["failure_of", "mind_failures"]

#: Whoever goes on through planes is not told the same of each.
_AGAIN_S = 10.0
#: What could not be read of a layer last, and when that was told.
_failures: WeakKeyDictionary[Any, tuple[str, float]] = WeakKeyDictionary()
_lock = threading.Lock()


def mind_failures(layer: Layer) -> None:
    """Have an image or labels layer tell what keeps a plane of it from being read, in napari's own thread or another.

    The layer shows nothing then. Whoever reads its data by himself gets the error, as ever.
    """
    state = getattr(layer, "_slicing_state", None)
    plain: Callable[..., Any] | None = getattr(state, "_make_slice_request_internal", None)
    # Vectors and points are in memory, and are asked for in another way.
    if plain is None or isinstance(plain, _Requests) or layer._type_string not in ("image", "labels"):
        return
    # An instance's own: napari has no place for what is to be done about errors.
    state._make_slice_request_internal = _Requests(layer, plain)


def failure_of(layer: Layer) -> str:
    """Why nothing is shown of a layer at this place; empty if all is well."""
    with _lock:
        return _failures.get(layer, ("", 0.0))[0]


class _Requests:
    """Makes napari's requests for planes."""

    def __init__(self, layer: Layer, plain: Callable[..., Any]) -> None:
        self._layer = layer
        self._plain = plain

    def __call__(self, *arguments: Any, **keywords: Any) -> _Request:
        return _Request(self._layer, self._plain(*arguments, **keywords))


class _Request:
    """A request for a plane, that does not fail but tells."""

    def __init__(self, layer: Layer, plain: Any) -> None:
        self._layer = layer
        self._plain = plain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def __call__(self) -> Any:
        plain = self._plain
        try:
            response = plain()
        except LsfmError as error:
            _tell(self._layer, str(error))
            from napari.layers._scalar_field._slice import _ScalarFieldSliceResponse

            return _ScalarFieldSliceResponse.make_empty(
                slice_input=plain.slice_input, rgb=plain.rgb, request_id=plain.id, dtype=plain.dtype
            )
        with _lock:
            _failures.pop(self._layer, None)
        return response


def _tell(layer: Any, message: str) -> None:
    now = time.monotonic()
    with _lock:
        before, told = _failures.get(layer, ("", 0.0))
        is_news = message != before or now - told > _AGAIN_S
        _failures[layer] = message, now if is_news else told
    if is_news:
        from napari.utils.notifications import show_warning

        show_warning(f"{layer.name}: cannot be shown here: {message}")
