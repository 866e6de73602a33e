"""Update lanes as rows of the store: for fleets without Redis and without an AMQP broker.

Nobody is woken: the reader looks again after 2 ms while there is news, after 50 ms at rest. It
looks for more when little is left of what it has.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from flowq.backends.held import HeldLane
from flowq.backends.outage import Outage
from flowq.broker.codec import Report, encode_reports
from flowq.errors import StoreError
from flowq.store import Store
from flowq.store.updates import drop_updates, put_update, read_updates

_SOON, _SELDOM = 0.002, 0.050
#: Records in one look.
_RECORDS = 100


class InboxLaneWriter:
    """Contract: `backends.LaneWriter`.

    Args:
        store: Left open.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, lane_id: int, reports: list[Report]) -> None:
        """As `LaneWriter.put`.

        Raises:
            StoreError: The store is away, or full.
        """
        put_update(self._store, lane_id, encode_reports(reports))

    def close(self) -> None:
        """As `LaneWriter.close`; the store stays open."""


class InboxLaneReader:
    """Contract: `backends.LaneReader`.

    Args:
        store: Left open.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lanes: dict[int, HeldLane] = {}
        self._acked: list[Any] = []
        #: Rows that are here and not acknowledged.
        self._held: set[Any] = set()
        self._pause, self._next = _SOON, 0.0
        self._outage = Outage("reading workers' reports stands still")

    def open(self, lane_id: int) -> HeldLane:
        """As `LaneReader.open`."""
        self._next = 0.0
        lane = self._lanes[lane_id] = HeldLane(self._done)
        return lane

    def leave(self, lane_id: int) -> None:
        """As `LaneReader.leave`."""
        lane = self._lanes.pop(lane_id, None)
        if lane is not None:
            self._held = {key for key in self._held if not lane.knows(key)}
            self._guarded(self._delete)

    def handles(self) -> list[int]:
        """As `LaneReader.handles`: none."""
        return []

    def timeout(self) -> float:
        """As `LaneReader.timeout`."""
        if not self._lanes:
            return 3600.0
        return max(self._outage.wait, self._next - time.monotonic(), 0.0)

    def refill(self) -> None:
        """As `LaneReader.refill`."""
        if self._lanes and not self.timeout():
            self._guarded(self._look)

    def close(self) -> None:
        """As `LaneReader.close`; the store stays open."""
        self._guarded(self._delete)
        self._lanes.clear()
        self._held.clear()

    def _done(self, key: Any) -> None:
        self._acked.append(key)
        self._held.discard(key)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except StoreError as exc:
            self._outage.failed(exc)
        else:
            self._outage.over()

    def _look(self) -> None:
        self._delete()
        if len(self._held) >= _RECORDS:
            return
        found = read_updates(self._store, self._lanes, _RECORDS, sorted(self._held))
        for key, lane_id, body in found:
            self._held.add(key)
            self._lanes[lane_id].add(key, body)
        self._pause = _SOON if found else min(self._pause * 1.3, _SELDOM)
        self._next = time.monotonic() + (0.0 if len(found) == _RECORDS else self._pause)

    def _delete(self) -> None:
        if self._acked:
            drop_updates(self._store, self._acked)
            self._acked.clear()
