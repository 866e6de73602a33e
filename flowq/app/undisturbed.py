"""Ctrl-C waits for the end of what must not be left half done."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` takes 10 us longer, for an enum
import threading
from typing import Any

_SIGINT = int(_signal.SIGINT)


class Undisturbed:
    """Has Ctrl-C wait for the end of a block: half a turn would lose what the pool has said.

    A second one is not held back, for the block may be waiting for a lock. In other threads than
    the main one, where Ctrl-C never comes, the block is as any other.
    """

    __slots__ = ("_handler", "_held")

    def __enter__(self) -> None:
        self._handler: Any = None
        self._held: list[Any] = []
        if threading.current_thread() is threading.main_thread():
            handler = _signal.getsignal(_SIGINT)
            if callable(handler):
                self._handler = handler
                _signal.signal(_SIGINT, self._hold)

    def _hold(self, _number: int, frame: Any) -> None:
        self._held.append(frame)
        _signal.signal(_SIGINT, self._handler)

    def __exit__(self, *exc: object) -> None:
        if self._handler is not None:
            _signal.signal(_SIGINT, self._handler)
            if self._held:
                self._handler(_SIGINT, self._held[0])
