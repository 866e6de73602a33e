"""When reports are committed: at once when idle, in batches under load."""

from __future__ import annotations

import time

#: Under load reports wait for company, at most so many or so long (seconds); load means so many
#: nodes handed out for each slot.
BATCH_REPORTS, BATCH_SECONDS, BUSY_NODES = 200, 0.002, 8
#: A program that submits less often than this (seconds) is not waited for.
LONGEST_GAP = 0.010
#: So many submissions, without a wait between them, are a flow.
_FLOW = 4


class Pace:
    """Decides whether reports that wait are due."""

    def __init__(self) -> None:
        self._since = self._submitted_at = 0.0
        #: Seconds from one submission to the next, while they follow each other.
        self._gap = BATCH_SECONDS
        self._count = 0

    def submitted(self, somebody_waits: bool) -> None:
        """Note a submission, and whether a caller waits for a run to end meanwhile."""
        now = time.monotonic()
        gap = now - self._submitted_at
        self._submitted_at = now
        if somebody_waits or gap >= 2 * LONGEST_GAP:
            self._count = 0
            return
        self._count += 1
        self._gap += (gap - self._gap) / 8

    def waits(self) -> None:
        """Note that a caller begins to wait for a run to end."""
        self._count = 0

    @property
    def flowing(self) -> bool:
        """Whether a program goes on submitting, and waits for nothing yet."""
        if self._count < _FLOW:
            return False
        return time.monotonic() - self._submitted_at < 2 * self._rest

    @property
    def _rest(self) -> float:
        return min(max(self._gap, BATCH_SECONDS), LONGEST_GAP)

    def due(self, waiting: int, load: float) -> bool:
        """Whether to commit `waiting` reports now.

        Args:
            waiting: How many there are; none are never due.
            load: Nodes handed out for each slot.
        """
        if not waiting:
            return False
        flowing = self.flowing  # then its next submission commits them
        if not (load >= BUSY_NODES or flowing) or waiting >= BATCH_REPORTS:
            self._since = 0.0
            return True
        now = time.monotonic()
        if not self._since:
            self._since = now
        elif now - self._since >= (2 * self._rest if flowing else BATCH_SECONDS):
            self._since = 0.0
            return True
        return False
