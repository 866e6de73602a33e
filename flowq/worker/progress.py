"""News of update_state() on their way out: the latest of each item, and not too often."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final

from flowq.broker.codec import Report

#: They go out that often per item (seconds).
PROGRESS_EVERY: Final = 0.1


class Progress:
    """What items said of their state; for one thread. False when nothing was said."""

    __slots__ = ("_said",)

    def __init__(self) -> None:
        #: Item -> when its news went out last, and what has not gone out yet.
        self._said: dict[Hashable, tuple[float, Report | None]] = {}

    def __bool__(self) -> bool:
        return bool(self._said)

    def note(self, key: Hashable, report: Report) -> None:
        """Take news of an item; those that have not gone out yet are dropped for them."""
        sent = self._said.get(key, (0.0, None))[0]
        self._said[key] = (sent, report)

    def forget(self, key: Hashable) -> None:
        """An item ended: what it said before is of no interest. Repeating: does nothing."""
        self._said.pop(key, None)

    def due(self, now: float) -> Iterator[Report]:
        """What is to go out now, at the monotonic time `now`."""
        for key, (sent, report) in self._said.items():
            if report is not None and now - sent >= PROGRESS_EVERY:
                self._said[key] = (now, None)
                yield report
