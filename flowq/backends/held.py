"""`HeldLane`: the reader's end of one update lane whose records wait on a server.

A record is what one `put` handed in: many reports, acknowledged to the server when the last of
them is. Acknowledging goes by reports, because the coordinator folds as many as it likes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable
from itertools import islice

from flowq.broker.codec import Report, decode_reports
from flowq.broker.signing import UNSEALED, Seal
from flowq.errors import MessageDecodeError

log = logging.getLogger("flowq.backends")


class HeldLane:
    """Contract: `backends.UpdateLane`. Records come in through `add`.

    Args:
        done: Called with the server's key of each record that may be deleted there.
        seal: Is on the records.
    """

    def __init__(self, done: Callable[[Hashable], None], seal: Seal = UNSEALED) -> None:
        self._waiting: deque[Report] = deque()
        self._taken: deque[Report] = deque()
        #: (key, reports of it that are not acknowledged), in order; None: nothing to delete.
        self._records: deque[tuple[Hashable, int]] = deque()
        self._known: set[Hashable] = set()
        self._done, self._seal = done, seal

    def add(self, key: Hashable, body: bytes) -> None:
        """Take in a record from the server; one that is here already changes nothing."""
        if key in self._known:
            return
        try:
            reports = decode_reports(self._seal.open(body))
        except MessageDecodeError as exc:
            log.error("dropped from an update lane: %s", exc)
            reports = []
        if not reports:
            self._done(key)
            return
        self._known.add(key)
        self._records.append((key, len(reports)))
        self._waiting.extend(reports)

    def knows(self, key: Hashable) -> bool:
        """Whether a record is here and not acknowledged."""
        return key in self._known

    def lost(self) -> None:
        """The server will bring everything again: keep only what was taken, under no key."""
        kept, taken = [], len(self._taken)
        for _, count in self._records:
            if taken <= 0:
                break
            kept.append((None, count))
            taken -= count
        for _ in range(len(self._waiting) + taken):
            self._waiting.pop()
        self._records = deque(kept)
        self._known.clear()

    def put(self, reports: list[Report]) -> None:
        """As `UpdateLane.put`; these are in no queue outside."""
        if reports:
            self._records.append((None, len(reports)))
            self._waiting.extend(reports)

    def take(self, limit: int) -> list[Report]:
        """As `UpdateLane.take`."""
        found = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        self._taken.extend(found)
        return found

    def ack(self, count: int) -> None:
        """As `UpdateLane.ack`."""
        for _ in range(count):
            self._taken.popleft()
        while count:
            key, left = self._records[0]
            if left > count:
                self._records[0] = (key, left - count)
                return
            count -= left
            self._records.popleft()
            if key is not None:
                self._known.discard(key)
                self._done(key)

    def rewind(self) -> None:
        """As `UpdateLane.rewind`."""
        self._waiting.extendleft(islice(reversed(self._taken), len(self._taken)))
        self._taken.clear()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._taken)
