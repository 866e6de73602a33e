"""`Outage`: how often a server that is away is tried again, and what the log says of it."""

from __future__ import annotations

import logging
import random
import time

log = logging.getLogger("flowq.backends")

_FIRST, _LONGEST = 0.05, 5.0


class Outage:
    """Pauses between attempts that grow, with one warning per outage.

    Args:
        what: What does not work meanwhile, as the log's sentence begins.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._pause = self._not_before = 0.0
        #: When it began; 0.0 while all is well.
        self.since = 0.0

    def failed(self, exc: BaseException) -> None:
        """Note a failed attempt; the next is due after a pause."""
        now = time.monotonic()
        if not self.since:
            self.since = now
            log.warning("%s: %s; it is tried again until it works", self._what, exc)
        self._pause = min(max(_FIRST, self._pause * 2), _LONGEST)
        self._not_before = now + self._pause * random.uniform(0.5, 1.0)

    def over(self) -> None:
        """Note that it works. Repeating: does nothing."""
        if self.since:
            log.info("%s: works again after %.1f s", self._what, time.monotonic() - self.since)
        self.since = self._pause = self._not_before = 0.0

    @property
    def wait(self) -> float:
        """Seconds until the next attempt is due; 0.0 when it is."""
        return max(0.0, self._not_before - time.monotonic()) if self._not_before else 0.0
