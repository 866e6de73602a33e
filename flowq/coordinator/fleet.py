"""The live processes of a fleet, as a coordinator knows them: capacity, and what each holds.

Read from the rows in which they announce themselves, every second or so. What is published and
held by nobody was lost on the way, or with a broker; what a lapsed worker held is to run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from flowq.core.graph import Spec
from flowq.errors import BrokerError
from flowq.store import Store
from flowq.store.members import members
from flowq.store.rows import MemberRow

Attempt = tuple[int, int, int]

#: Longer without a look (seconds) means that the store was away; then workers get so many seconds
#: to announce themselves before they count as lost.
GAP_SECONDS, PATIENCE_SECONDS = 4.0, 10.0
#: Slots that a queue counts for while no live worker announces itself on it.
DEFAULT_SLOTS = 2
#: The same where Celery's workers serve it, who do not say how many they are.
FOREIGN_SLOTS = 64


class Fleet:
    """What is known of the live processes; for one thread.

    Args:
        store: Where they announce themselves.
        depth: How many messages wait on a node queue, by its task queue; None if not known.
    """

    def __init__(
        self,
        store: Store,
        depth: Callable[[str], int | None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._depth = store, depth
        self.workers: list[MemberRow] = []
        self.lapsed: list[MemberRow] = []
        self.coordinators = 1
        self._monotonic = monotonic
        self._refreshed_at: float | None = None
        #: Before that time a lapsed row proves nothing.
        self._trust_from = 0.0
        self._slots: dict[str, int] = {}
        self._workers_on: dict[str, int] = {}
        self._held: set[Attempt] = set()
        #: Attempts that workers have who do not announce themselves, and the queues of those.
        self.elsewhere: set[Attempt] = set()
        self.foreign: set[str] = set()
        #: When each rate-limited task may begin next; for all lanes of this coordinator.
        self.free_at: dict[str, float] = {}

    def refresh(self) -> None:
        """Read the rows anew."""
        now = self._store.lease_now()
        rows = members(self._store)
        self._note_gap()
        alive = [row for row in rows if row.expires_at >= now]
        gone = [row for row in rows if row.expires_at < now and row.kind == "worker"]
        self.lapsed = gone if self._monotonic() >= self._trust_from else []
        self.workers = [row for row in alive if row.kind == "worker"]
        self.coordinators = max(1, sum(row.kind == "coordinator" for row in alive))
        self._slots, self._workers_on, self._held = {}, {}, set()
        for row in self.workers:
            for queue in row.queues if row.state == "running" else ():
                self._slots[queue] = self._slots.get(queue, 0) + row.slots
                self._workers_on[queue] = self._workers_on.get(queue, 0) + 1
            self._held |= attempts(row)

    def _note_gap(self) -> None:
        """After a time without the store nobody could announce himself: give the workers some."""
        now = self._monotonic()
        if self._refreshed_at is not None and now - self._refreshed_at > GAP_SECONDS:
            self._trust_from = now + PATIENCE_SECONDS
        self._refreshed_at = now

    def slots(self, queue: str) -> int:
        """This coordinator's part of the slots that live workers have on a queue."""
        found = self._slots.get(queue)
        if found is None:
            found = FOREIGN_SLOTS if queue in self.foreign else DEFAULT_SLOTS
        return -(-found // self.coordinators)

    def rate_of(self, spec: Spec) -> float:
        """This coordinator's part of how often a second a task may begin.

        The limit of each worker counts for as many as serve its queue, that of the fleet once;
        coordinators share both evenly, as they share the lanes.
        """
        workers = max(1, self._workers_on.get(spec.queue, 1))
        rates = [rate for rate in (spec.rate * workers, spec.global_rate) if rate]
        return min(rates) / self.coordinators

    def serves(self, queue: str) -> bool:
        """Whether a live worker announces itself on a queue."""
        return queue in self._slots

    @property
    def held(self) -> set[Attempt]:
        """Attempts that live workers said to have, or that are known to be elsewhere."""
        return self._held | self.elsewhere if self.elsewhere else self._held

    def drained(self, queue: str) -> bool:
        """Whether no message waits on a node queue, as far as the broker says."""
        try:
            return not self._depth(queue)
        except BrokerError:
            return False


def attempts(row: MemberRow) -> set[Attempt]:
    """What a worker said it holds: (run, node, attempt) of each."""
    if not row.held:
        return set()
    return {(run, idx, attempt) for run, idx, attempt in msgspec.msgpack.decode(row.held)}
