"""When reports are committed: at once when idle, in batches under load."""

from __future__ import annotations

import time

#: Under load reports wait for company, at most so many or so long (seconds); load means so many
#: nodes handed out for each slot.
BATCH_REPORTS, BATCH_SECONDS, BUSY_NODES = 200, 0.002, 8
#: A program that submits less often than this (seconds) is not waited for.
LONGEST_GAP = 0.010


class Pace:
    """Decides whether reports that wait are due."""

    def __init__(self) -> None:
        self._since = self._submitted_at = 0.0
        #: Seconds from one submission to the next, while they follow each other.
        self._gap = BATCH_SECONDS

    def submitted(self) -> None:
        """Note a submission."""
        now = time.monotonic()
        gap = now - self._submitted_at
        if gap < 2 * LONGEST_GAP:
            self._gap += (gap - self._gap) / 8
        self._submitted_at = now

    def due(self, waiting: int, load: float, somebody_waits: bool) -> bool:
        """Whether to commit `waiting` reports now.

        Args:
            waiting: How many there are; none are never due.
            load: Nodes handed out for each slot.
            somebody_waits: Whether a caller waits for a run to end.
        """
        if not waiting:
            return False
        now = time.monotonic()
        # a program that goes on submitting, and waits for nothing yet, commits them itself
        gap = min(max(self._gap, BATCH_SECONDS), LONGEST_GAP)
        flowing = not somebody_waits and now - self._submitted_at < 2 * gap
        busy = load >= BUSY_NODES or flowing
        if not busy or waiting >= BATCH_REPORTS:
            self._since = 0.0
            return True
        if not self._since:
            self._since = now
        elif now - self._since >= (2 * gap if flowing else BATCH_SECONDS):
            self._since = 0.0
            return True
        return False
