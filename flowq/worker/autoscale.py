"""As many slots as the work asks for, between a least and a most."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from flowq.errors import WrongState
from flowq.worker.worker import Worker

log = logging.getLogger("flowq.worker")

#: A slot that was not needed for so long (seconds) goes.
KEEP_ALIVE: Final = 30.0
#: The load is looked at that often (seconds).
_EVERY: Final = 0.5


class Autoscaler:
    """Grows the pool at once when tasks wait, and shrinks it by and by. A `service.Companion`.

    Args:
        worker: Whose pool.
        most: Slots at most.
        least: Slots at least.
        backlog: How many tasks wait, those of the worker's own queue not counted.
        changed: Told of the number of slots after a change.
    """

    def __init__(
        self,
        worker: Worker,
        most: int,
        least: int,
        *,
        backlog: Callable[[], int] = lambda: 0,
        changed: Callable[[int], None] = lambda hands: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker, self._most, self._least = worker, most, least
        self._backlog, self._changed, self._now = backlog, changed, monotonic
        self._next = 0.0
        #: Since when there have been more slots than it needs.
        self._idle_since = monotonic()

    @property
    def bounds(self) -> tuple[int, int]:
        """(most, least)."""
        return self._most, self._least

    def limit(self, most: int | None, least: int | None) -> tuple[int, int]:
        """Set the bounds and return those in force; None leaves one as it is.

        Raises:
            WrongState: The most would be less than the least.
        """
        new = (most or self._most, self._least if least is None else max(1, least))
        if new[0] < new[1]:
            raise WrongState(f"at most {new[0]} slots is less than at least {new[1]}")
        self._most, self._least = new
        self._next = 0.0
        return new

    def handles(self) -> list[int]:
        """None."""
        return []

    def timeout(self) -> float:
        """Seconds until the load is looked at again."""
        return max(0.0, self._next - self._now())

    def turn(self) -> None:
        """Resize the pool if it is time to."""
        now = self._now()
        if now < self._next:
            return
        self._next = now + _EVERY
        hands, wanted = self._worker.hands, self._needed_now()
        needed = wanted + 1 if wanted else 0  # one more: when it is busy too, more may wait
        if needed >= hands:
            self._idle_since = now
        if hands > self._most:
            self._shrink(hands - self._most)
        elif hands < self._least or (wanted >= hands and hands < self._most):
            # what waits on the broker is not known: bundles are taken for idle slots only
            self._grow(min(self._most, max(wanted, 2 * hands, self._least)) - hands)
        elif hands > self._least and now - self._idle_since > KEEP_ALIVE:
            self._idle_since = now
            self._shrink(hands - max(self._least, needed))

    def _needed_now(self) -> int:
        return self._worker.load - self._worker.throttled + self._backlog()

    def _grow(self, n: int) -> None:
        try:
            self._worker.grow(n)
        except WrongState as exc:
            log.warning("autoscale stays at %d slots: %s", self._worker.hands, exc)
            self._most = self._worker.hands
            return
        log.info("autoscale: %d slots", self._worker.hands)
        self._changed(self._worker.hands)

    def _shrink(self, n: int) -> None:
        self._worker.shrink(n)
        log.info("autoscale: %d slots", self._worker.hands)
        self._changed(self._worker.hands)

    def close(self) -> None:
        """Nothing to close."""
