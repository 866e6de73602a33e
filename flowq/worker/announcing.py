"""How a fleet's worker says that it lives, and what it holds.

A row in the store, brought up to date every few seconds, and soon after something was taken that
is not done at once. Coordinators run elsewhere what a worker held whose row has lapsed, and send
again what no worker says it holds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Hashable

import msgspec

from flowq.errors import StoreUnavailable
from flowq.store import Store
from flowq.store.members import announce, leave
from flowq.store.rows import MemberRow

log = logging.getLogger("flowq.worker")

#: What was taken so long ago (seconds) and is still held is announced without waiting for the time.
SETTLED = 0.25
_pack = msgspec.msgpack.Encoder().encode


class Announcer:
    """Keeps the worker's row; for one thread.

    Args:
        store: Where the row is.
        row: The row as it begins; `queues`, `slots` and `state` may be changed.
        held: Keys of what the worker holds now; those of nodes are tuples.
        every: Seconds between two announcements.
        lease: Seconds that one of them is good for.
        monotonic: Seconds on the monotonic clock.
    """

    def __init__(
        self,
        store: Store,
        row: MemberRow,
        *,
        held: Callable[[], Collection[Hashable]],
        every: float,
        lease: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self.row, self._held = store, row, held
        self._every, self._lease, self._now = every, lease, monotonic
        self._next = self._next_glance = 0.0
        #: Nodes held at the last glance, and those that were announced.
        self._glanced: frozenset[Hashable] = frozenset()
        self._told: frozenset[Hashable] = frozenset()
        self._quiet = False

    def timeout(self) -> float:
        """Seconds until `keep_up` has something to do."""
        return max(0.0, min(self._next, self._next_glance) - self._now())

    def soon(self) -> None:
        """Announce at the next call: something that matters has changed."""
        self._next = 0.0

    def keep_up(self) -> None:
        """Announce what is due. A store that cannot be reached is tried again next time."""
        now = self._now()
        if now >= self._next_glance:
            self._next_glance = now + SETTLED
            nodes = frozenset(key for key in self._held() if isinstance(key, tuple))
            if (nodes & self._glanced) - self._told:
                self._next = 0.0
            self._glanced = nodes
        if now < self._next:
            return
        self._told = frozenset(key for key in self._held() if isinstance(key, tuple))
        self.row.held = _pack(list(self._told))
        self._tell()
        # a store that is away may have kept us waiting: what else there is to do comes first
        self._next = max(now + self._every, 2 * self._now() - now)

    def _tell(self) -> None:
        try:
            self.row.expires_at = self._store.lease_now() + self._lease
            announce(self._store, self.row)
        except StoreUnavailable as exc:
            if not self._quiet:
                log.warning("this worker cannot say that it lives: %s", exc)
            self._quiet = True
            return
        if self._quiet:
            log.warning("this worker says again that it lives")
        self._quiet = False

    def leave(self) -> None:
        """Take the row away: the worker ends and holds nothing. Repeating: does nothing."""
        try:
            leave(self._store, self.row.id)
        except StoreUnavailable as exc:
            log.warning("this worker's row stays until it lapses: %s", exc)
