"""The layer in the process: the values used last, for a while, within bounds."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class Local:
    """Frames by key, the least recently used going first. Safe to use from any thread.

    Args:
        size: Most entries; 0: keep nothing.
        max_bytes: Most bytes of all frames together; a larger one is not kept.
        clock: Seconds; for tests.
    """

    def __init__(
        self, size: int, max_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size, self._max_bytes, self._now = size, max_bytes, clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> bytes | None:
        """The frame, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry[1] <= self._now():
                self._drop(key)
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: str, frame: bytes, ttl: float | None) -> None:
        """Keep a frame for `ttl` seconds, None: for as long as there is room."""
        with self._lock:
            self._drop(key)
            if not self._size or len(frame) > self._max_bytes or (ttl is not None and ttl <= 0):
                return
            until = float("inf") if ttl is None else self._now() + ttl
            self._entries[key] = (frame, until)
            self._bytes += len(frame)
            while len(self._entries) > self._size or self._bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def drop(self, key: str) -> None:
        """Forget a key; one that is not there is no matter."""
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= len(entry[0])
