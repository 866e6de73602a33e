"""A Lamport clock: a number that only grows, carried in messages and events to order them."""

from __future__ import annotations

import threading


class LamportClock:
    """A logical clock; safe to use from several threads."""

    __slots__ = ("_lock", "value")

    def __init__(self, value: int = 0) -> None:
        #: The latest time seen or given; never falls.
        self.value = value
        self._lock = threading.Lock()

    def forward(self) -> int:
        """Advance for something that happens here (a send, an event) and return its time."""
        with self._lock:
            self.value += 1
            return self.value

    def adjust(self, other: int) -> int:
        """Advance past the time of something received and return the time of receiving.

        Repeating: safe; the clock moves on by at least one each time.
        """
        with self._lock:
            self.value = max(self.value, other) + 1
            return self.value

    def __repr__(self) -> str:
        return f"<LamportClock {self.value}>"
