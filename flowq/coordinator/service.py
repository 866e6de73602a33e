"""The coordinator of a fleet as a service: the lanes it owns, driven step by step by one thread.

A process, a thread of the submitting program, or a worker's own loop may drive it: sleep on
`handles` for at most `timeout`, then call `turn`. Lanes come by lease (`Leases`), shared with the
other live coordinators, or are given once (`fences`), as to a program that owns its own lane.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from flowq.backends import LaneReader
from flowq.broker.codec import Bundle
from flowq.config import mask_url
from flowq.coordinator.batch import Fence
from flowq.coordinator.dispatch import WINDOW_FACTOR
from flowq.coordinator.fleet import Fleet
from flowq.coordinator.fleetlane import FleetLane
from flowq.coordinator.leases import Leases
from flowq.coordinator.view import RunView
from flowq.errors import LaneLost, StoreUnavailable
from flowq.store import Store
from flowq.store.members import announce, forget_lapsed, leave
from flowq.store.rows import MemberRow

log = logging.getLogger("flowq.coordinator")

#: The inbox is looked at that often (seconds): right after news, and at rest.
SOON, SELDOM = 0.005, 0.050
#: Rows of processes are read that often (seconds).
FLEET_SECONDS = 1.0
#: After the store failed, it is tried again so much later (seconds).
_RETRY_SECONDS = 1.0
#: Another's lanes are looked at so long after its lease has ended (seconds).
_AFTER = 0.1
#: Rows of processes that are long gone are removed that often (seconds).
_TIDY_SECONDS = 300.0


class Companion(Protocol):
    """Something that is driven with a coordinator."""

    def handles(self) -> list[int]:
        """Descriptors that become readable when a turn is due."""
        ...

    def timeout(self) -> float:
        """Seconds until a turn is due."""
        ...

    def turn(self) -> None:
        """Do what is due, without waiting."""
        ...

    def close(self) -> None:
        """End. A second call does nothing."""
        ...


class CoordinatorService:
    """Advances the runs of many lanes.

    Args:
        store: The only truth.
        reader: Where workers' reports come in.
        publish: Puts a bundle on its queue; raises BrokerError.
        depth: How many messages wait on a node queue, by its task queue; None if not known.
        store_id: Name of the store in messages.
        tend: Keeps the broker's connection alive; called every second or so.
        on_close: Closes what `publish` and the like had open.
        leases: How lanes are had; None for the lanes of `fences` only.
        fences: Lanes that belong to this process whatever happens.
        name: How it is called in lists.
        inline_bytes: Larger frames become payload rows.
        clock: The app's logical clock, carried in messages.
        on_change: Called after each commit with runs that changed and views of those that ended.
    """

    def __init__(
        self,
        store: Store,
        reader: LaneReader,
        *,
        publish: Callable[[Bundle], None],
        depth: Callable[[str], int | None],
        store_id: str,
        tend: Callable[[], None] = lambda: None,
        on_close: Callable[[], None] = lambda: None,
        leases: Leases | None = None,
        fences: Sequence[Fence] = (),
        name: str = "",
        inline_bytes: int = 64 * 1024,
        clock: Callable[[], int] = lambda: 0,
        on_change: Callable[[list[int], list[RunView]], None] = lambda changed, ended: None,
    ) -> None:
        self.store, self._reader, self._publish = store, reader, publish
        self._store_id, self._leases, self._inline = store_id, leases, inline_bytes
        self._clock, self._on_change, self._tend = clock, on_change, tend
        self._on_close = on_close
        self.name = name or f"coordinator@{socket.gethostname()}"
        self.fleet = Fleet(store, depth)
        self.lanes: dict[int, FleetLane] = {}
        self._fences = list(fences)
        #: Set from any thread when the inbox may hold something.
        self.rung = True
        self._next_look = self._next_fleet = self._next_lease = self._next_tidy = 0.0
        #: Not before that time, after the store had failed; and whether that was said.
        self._retry_at, self._in_trouble = 0.0, False
        self._pause = SOON
        self._known_slots: dict[str, int] = {}
        #: What else is driven with it: who watches nodes that are run elsewhere.
        self.companions: list[Companion] = []
        self._known_lapsed: set[str] = set()

    @property
    def described(self) -> str:
        """What it does, in a line."""
        return f"coordinates the runs of {mask_url(self.store.url)}, lease by lease; ready."

    # -- driving -------------------------------------------------------------------------

    def handles(self) -> list[int]:
        """Descriptors that become readable when reports came in; ask before each sleep.

        None while a store that failed is left alone: what is readable stays so until it is read.
        """
        if time.monotonic() < self._retry_at:
            return []
        mine = self._reader.handles()
        return [*mine, *(fd for companion in self.companions for fd in companion.handles())]

    def timeout(self) -> float:
        """Seconds until a turn is due even if nothing is heard."""
        now = time.monotonic()
        if now < self._retry_at:
            return self._retry_at - now
        if self.rung or any(len(lane.own) for lane in self.lanes.values()):
            return 0.0
        due = min(self._next_look, self._next_fleet, self._next_lease) - now
        stored = self.store.now()
        for lane in self.lanes.values():
            due = min(due, lane.wake_at() - stored)
        due = min([due, *(companion.timeout() for companion in self.companions)])
        return max(0.0, min(due, self._reader.timeout()))

    def turn(self) -> None:
        """Look at everything that may have come in, and advance the lanes that have something.

        A store that fails is tried again a second later; nothing is lost meanwhile.
        """
        now = time.monotonic()
        if now < self._retry_at:
            return
        try:
            self._turn(now)
        except StoreUnavailable as exc:
            if not self._in_trouble:
                log.warning("%s (trying again)", exc)
            self._in_trouble, self._retry_at = True, now + _RETRY_SECONDS
            return
        if self._in_trouble:
            log.warning("%s: the store is back", self.name)
            self._in_trouble = False

    def _turn(self, now: float) -> None:
        if now >= self._next_fleet:
            self._next_fleet = now + FLEET_SECONDS
            self._look_at_fleet()
        if now >= self._next_lease:
            self._keep_leases(now)
        for companion in self.companions:
            companion.turn()
        self._reader.refill()
        if self.rung or now >= self._next_look:
            self._look_at_inbox(now)
        for lane_id, lane in list(self.lanes.items()):
            if lane.is_due:
                self._step(lane_id, lane)

    def close(self) -> None:
        """Give the lanes back, so that others take them at once. A second call does nothing."""
        for companion in self.companions:
            companion.close()
        for lane_id in list(self.lanes):
            self.lanes.pop(lane_id)
            self._reader.leave(lane_id)
        with contextlib.suppress(StoreUnavailable):
            if self._leases is not None:
                for lane_id in list(self._leases.epochs):
                    self._leases.release(lane_id)
                leave(self.store, self._leases.owner)
        self._reader.close()
        self._on_close()

    # -- lanes ---------------------------------------------------------------------------

    def _step(self, lane_id: int, lane: FleetLane) -> None:
        try:
            lane.step()
        except LaneLost as exc:
            log.warning("%s", exc)
            self._drop(lane_id)

    def _open(self, fence: Fence) -> None:
        lane = FleetLane(
            self.store,
            fence,
            self._reader.open(fence.lane_id),
            self.fleet,
            publish=self._publish,
            slots=lambda queue: self._slots(fence.lane_id, queue),
            on_change=self._on_change,
            inline_bytes=self._inline,
            store_id=self._store_id,
        )
        lane.dispatcher.clock = self._clock
        try:
            lane.start()
        except LaneLost as exc:
            log.warning("%s", exc)
            self._reader.leave(fence.lane_id)
            return
        self.lanes[fence.lane_id] = lane

    def _drop(self, lane_id: int) -> None:
        if self.lanes.pop(lane_id, None) is not None:
            self._reader.leave(lane_id)
        if self._leases is not None:
            self._leases.epochs.pop(lane_id, None)

    def _keep_leases(self, now: float) -> None:
        """Say that this coordinator lives, renew what it has, take what is free."""
        leases = self._leases
        if leases is None:
            self._next_lease = now + 3600.0
            for fence in self._fences:
                if fence.lane_id not in self.lanes:
                    self._open(fence)
            return
        self._next_lease = now + leases.seconds / 3
        self._announce(leases)
        for lane_id in leases.renew():
            log.warning("lane %s was taken over by another coordinator", lane_id)
            self._drop(lane_id)
        gained, beyond = leases.share(self.fleet.coordinators)
        for lane_id in beyond:
            if self.lanes.pop(lane_id, None) is not None:
                self._reader.leave(lane_id)
            leases.release(lane_id)
        for lane_id in gained:
            self._open(Fence(lane_id, leases.owner, leases.epochs[lane_id]))
        # one that dies right after it renewed leaves nobody waiting for longer than its lease
        ends = leases.others_until - self.store.lease_now() + _AFTER
        self._next_lease = min(self._next_lease, now + max(_AFTER, ends))
        if gained or beyond:
            log.info("%s has %d lanes now", self.name, len(self.lanes))
        if now >= self._next_tidy:
            self._next_tidy = now + _TIDY_SECONDS
            forget_lapsed(self.store)

    def _announce(self, leases: Leases) -> None:
        until = self.store.lease_now() + leases.seconds
        row = MemberRow(
            leases.owner, self.name, socket.gethostname(), os.getpid(), [], 0, until,
            "running", "coordinator", b"",
        )  # fmt: skip
        announce(self.store, row)
        self.fleet.refresh()

    # -- looking -------------------------------------------------------------------------

    def _look_at_inbox(self, now: float) -> None:
        """Find out which lanes somebody wrote to; the pause until the next look adapts."""
        self.rung = False
        found = False
        for (lane_id,) in self.store.rows(self.store.sql.lanes_with_news):
            lane = self.lanes.get(lane_id)
            if lane is not None:
                lane.inbox_rung = found = True
        self._pause = SOON if found else min(self._pause * 1.3, SELDOM)
        self._next_look = now + self._pause

    def _look_at_fleet(self) -> None:
        """Read who lives; where there is more room now, what waits is dispatched.

        What a worker held that is gone is taken back now, not at the next sweep.
        """
        self._tend()
        self.fleet.refresh()
        lapsed = {row.id for row in self.fleet.lapsed}
        if lapsed - self._known_lapsed:
            for lane in self.lanes.values():
                lane.sweep_soon()
        self._known_lapsed = lapsed
        names = {q.name for lane in self.lanes.values() for q in lane.dispatcher.queues.values()}
        slots = {name: self.fleet.slots(name) for name in names}
        if any(count > self._known_slots.get(name, 0) for name, count in slots.items()):
            for lane_id, lane in list(self.lanes.items()):
                self._step(lane_id, lane)
        self._known_slots = slots

    def _slots(self, lane_id: int, queue: str) -> int:
        """A lane's part of a queue's slots: what its sister lanes have not filled, at least one.

        Windows are per lane, and one coordinator has many lanes; together they are to fill the
        workers once.
        """
        others = 0
        for other_id, lane in self.lanes.items():
            if other_id != lane_id:
                others += sum(
                    len(each.out) for each in lane.dispatcher.queues.values() if each.name == queue
                )
        return max(1, self.fleet.slots(queue) - others // WINDOW_FACTOR)
