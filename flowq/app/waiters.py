"""Threads that wait for runs of this process, and the one that wakes them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


class Waiters:
    """Events by run. Safe from any thread; a wake-up that finds nobody is no error."""

    def __init__(self) -> None:
        #: Called when somebody begins to wait.
        self.on_wait: Callable[[], None] = lambda: None
        self._events: dict[int, list[threading.Event]] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def waiting(self, run_id: int) -> Iterator[threading.Event]:
        """An event that is set when the run ends, for as long as the block lasts.

        Enter first and look at the store then: an end in between is not missed.
        """
        event = threading.Event()
        self.on_wait()
        with self._lock:
            self._events.setdefault(run_id, []).append(event)
        try:
            yield event
        finally:
            with self._lock:
                events = self._events.get(run_id, [])
                if event in events:
                    events.remove(event)
                if not events:
                    self._events.pop(run_id, None)

    def wake(self, run_id: int) -> None:
        """Wake whoever waits for a run."""
        for event in self._events.get(run_id, ()):
            event.set()

    def wake_all(self) -> None:
        """Wake everybody: what they wait for will not come, or has to be looked at anew."""
        for run_id in list(self._events):
            self.wake(run_id)

    def __bool__(self) -> bool:
        return bool(self._events)
