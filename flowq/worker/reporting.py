"""What a fleet's worker tells the coordinators: reports by lane, kept until they are accepted.

A lane that cannot be reached is tried again with growing pauses; nothing is dropped, and what
waits here still counts as held, so that nobody runs it again meanwhile.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from flowq.backends import LaneWriter
from flowq.broker.codec import Report
from flowq.errors import FlowqError
from flowq.store import Store
from flowq.store.store import reference_to

log = logging.getLogger("flowq.worker")

#: Reports wait at most so long (seconds) for company while the worker is busy.
COMPANY_SECONDS = 0.005
#: Reports in one record at most.
RECORD = 500
#: A record holds no more frames than that, in bytes.
RECORD_BYTES = 1 << 20
_LONGEST_PAUSE = 5.0

Attempt = tuple[int, int, int]


class Reporting:
    """Buffers reports and hands them in; for one thread.

    Args:
        lanes: Where they go.
        store: Takes large frames before a report refers to them.
        inline_bytes: Larger frames go there.
        monotonic: Seconds on the monotonic clock.
    """

    def __init__(
        self,
        lanes: LaneWriter,
        store: Store,
        *,
        inline_bytes: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lanes, self._store, self._inline = lanes, store, inline_bytes
        self._now = monotonic
        self._waiting: dict[int, list[Report]] = {}
        #: When the oldest report came in; 0.0 while there is none.
        self._since = 0.0
        self._pause, self._not_before = 0.0, 0.0

    def add(self, lane_id: int, report: Report) -> None:
        """Take a report for a lane."""
        self._waiting.setdefault(lane_id, []).append(report)
        self._since = self._since or self._now()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def timeout(self, busy: bool) -> float:
        """Seconds until `flush` has something to do; large while there is nothing."""
        if not self._waiting:
            return 3600.0
        due = self._since + (COMPANY_SECONDS if busy else 0.0)
        return max(0.0, max(due, self._not_before) - self._now())

    def flush(self, busy: bool) -> None:
        """Hand in what is due: at once when the worker is idle, in company when it is busy.

        What is not accepted stays, and is tried again after a pause.
        """
        if not self._waiting or self.timeout(busy) > 0.0:
            return
        for lane_id in list(self._waiting):
            reports = self._waiting[lane_id]
            try:
                while reports:
                    part = self._part(reports)
                    self._lanes.put(lane_id, part)
                    del reports[: len(part)]
            except FlowqError as exc:
                self._fall_back(exc)
                return
            del self._waiting[lane_id]
        self._since = self._pause = 0.0

    def _fall_back(self, exc: FlowqError) -> None:
        if not self._pause:
            log.warning("reports wait until they can be handed in: %s", exc)
        self._pause = min(max(0.05, self._pause * 2), _LONGEST_PAUSE)
        self._not_before = self._now() + self._pause * random.uniform(0.5, 1.0)

    def _part(self, reports: list[Report]) -> list[Report]:
        """The next reports that fit one record, their large frames stored first."""
        size, count = 0, 0
        for report in reports:
            if len(report.frame) > self._inline and report.frame[:1] != b"r":
                self._put_away(report)
            size += len(report.frame) + len(report.args)
            if count and (count == RECORD or size > RECORD_BYTES):
                break
            count += 1
        return reports[:count]

    def _put_away(self, report: Report) -> None:
        digest, reference = reference_to(report.frame)
        store, row = self._store, (digest, report.frame, self._store.now())
        store.write(lambda cursor: cursor.execute(store.sql.payload_insert, row))
        report.frame = reference

    def keys(self) -> set[Attempt]:
        """Attempts whose reports wait here."""
        return {
            (report.run, report.idx, report.attempt)
            for reports in self._waiting.values()
            for report in reports
        }
