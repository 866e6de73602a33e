"""The coordinator of a fleet's lane: workers are elsewhere, and may be gone.

What differs from the embedded engine is the sweep. There, what the pool holds is known at any
time; here workers say so in their heartbeats, a moment late, and one that is cut off says nothing.
So a message counts as missing only if its queue is empty and nobody has said for two sweeps that
he holds an attempt of it; and what a worker held whose lease has passed is taken from it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from flowq.backends import UpdateLane
from flowq.broker.codec import Report, ReportKind
from flowq.coordinator.coordinator import RESEND_SECONDS, Coordinator
from flowq.coordinator.fleet import Attempt, Fleet, attempts
from flowq.core.states import State

#: A message that nobody holds is sent again after this time even if its queue never runs empty.
UNHEARD_SECONDS = 60.0
#: A message sent so often, and never heard of, counts as a crash of what it carries: it may be what
#: ends the workers that take it.
SENDS = 5
_CUT_OFF = "its worker was lost"


class OwnReports:
    """An update lane with reports of the coordinator's own in front of the workers'.

    Args:
        lane: Where workers' reports come in.
    """

    def __init__(self, lane: UpdateLane) -> None:
        self._lane = lane
        self._own: deque[Report] = deque()
        self._taken = 0

    def put(self, reports: list[Report]) -> None:
        """Add reports of the coordinator's own; they are in no queue and may be made again."""
        self._own.extend(reports)

    def take(self, limit: int) -> list[Report]:
        """As `UpdateLane.take`."""
        found = list(self._own)[self._taken : self._taken + limit]
        self._taken += len(found)
        return found + self._lane.take(limit - len(found))

    def ack(self, count: int) -> None:
        """As `UpdateLane.ack`."""
        own = min(count, self._taken)
        for _ in range(own):
            self._own.popleft()
        self._taken -= own
        self._lane.ack(count - own)

    def rewind(self) -> None:
        """As `UpdateLane.rewind`."""
        self._taken = 0
        self._lane.rewind()

    def __len__(self) -> int:
        return len(self._own) + len(self._lane)


class FleetLane(Coordinator):
    """Advances the runs of one lane whose workers announce themselves in the store.

    Args:
        fleet: What is known of them; refreshed by the caller before a turn.
        updates: Where their reports come in.
    """

    def __init__(
        self, store: Any, fence: Any, updates: UpdateLane, fleet: Fleet, **more: Any
    ) -> None:
        self.own = OwnReports(updates)
        super().__init__(store, fence, self.own, **more)
        self.fence, self.fleet = fence, fleet
        self.dispatcher.free_at, self.dispatcher.rate_of = fleet.free_at, fleet.rate_of
        self._missing: dict[int, float] = {}
        self._sends: dict[int, int] = {}

    def start(self) -> None:
        """Read the outbox. What was not known to be published, and nobody holds, goes out now.

        Raises:
            LaneLost: Another coordinator owns the lane by now.
        """
        self._check_lane()
        self._refresh()
        held = self.fleet.held
        for key, message in list(self.dispatcher.messages.items()):
            heard_of = any((run, idx, attempt) in held for run, idx, attempt in message[3])
            if not message[2] and not heard_of and not self._again(key, self._now()):
                return

    @property
    def is_due(self) -> bool:
        """Whether a turn has something to do."""
        rung = self.inbox_rung or bool(self.submissions) or bool(len(self.own))
        return rung or self._now() >= self.wake_at()

    def sweep_soon(self) -> None:
        """Look at the next step for what was lost: a worker has gone. Repeatable."""
        self._swept = 0.0

    def _sweep(self, now: float) -> None:
        """Take from lapsed workers what they held, and publish again what nobody has."""
        self._swept = now
        self._check_lane()
        out = self._out()
        taken = self._of_lapsed(out)
        if taken:
            self.own.put(taken)
        drained: dict[str, bool] = {}
        held = self.fleet.held
        messages = self.dispatcher.messages
        for key in [key for key in self._missing if key not in messages]:
            del self._missing[key]
            self._sends.pop(key, None)
        for key, message in list(messages.items()):
            if now - RESEND_SECONDS < message[2] <= now:
                continue
            if any((run, idx, attempt) in held for run, idx, attempt in message[3]):
                self._missing.pop(key, None)
            elif not message[2]:  # the broker refused it, or nobody knows whether it took it
                if not self._again(key, now):
                    return
            elif self._is_missing(key, message, now, drained) and not self._resend(key, now):
                return

    def foreign_out(self) -> Iterator[tuple[Attempt, str, bytes, float | None]]:
        """Attempts that Celery's workers have: which, its queue, its run's uid, its time limit."""
        for message in list(self.dispatcher.messages.values()):
            queue = self.dispatcher.queues.get(message[0])
            for run, idx, attempt in message[3] if message[2] else ():  # what the broker has
                view = self._view(run) if queue is not None else None
                if view is None or queue is None or view.attempt[idx] != attempt:
                    continue
                number = view.spec_no[idx]
                spec = view.specs[number] if number >= 0 else None
                if spec is not None and spec.foreign and idx in view.outbox:
                    yield (run, idx, attempt), queue.name, view.uid.bytes, spec.time_limit

    def _out(self) -> dict[Attempt, int]:
        """Attempts that are out, and the message that carries each."""
        return {
            (run, idx, attempt): key
            for key, message in self.dispatcher.messages.items()
            for run, idx, attempt in message[3]
        }

    def _of_lapsed(self, out: dict[Attempt, int]) -> list[Report]:
        found = []
        for row in self.fleet.lapsed:
            for attempt in attempts(row):
                if attempt in out and attempt not in self.fleet.held:
                    report = self._taken_back(attempt)
                    if report is not None:
                        found.append(report)
        return found

    def _taken_back(self, attempt: Attempt) -> Report | None:
        """What to fold for an attempt whose worker is gone: a crash if it had begun."""
        run, idx, number = attempt
        view = self._view(run)
        if view is None or view.attempt[idx] != number:
            return None
        begun = view.states[idx] is State.STARTED or view.node(idx).max_crashes == 0
        kind = ReportKind.LOST if begun else ReportKind.RETURNED
        return Report(run, idx, number, kind, extra=_CUT_OFF if begun else None)

    def _is_missing(
        self, key: int, message: list[Any], now: float, drained: dict[str, bool]
    ) -> bool:
        """Whether a message was lost: unheard of in two sweeps while its queue was empty."""
        queue = self.dispatcher.queues.get(message[0])
        if queue is None:
            return False
        if queue.name not in drained:
            drained[queue.name] = self.fleet.drained(queue.name)
        unheard = now - message[2] > UNHEARD_SECONDS and self.fleet.serves(queue.name)
        if not drained[queue.name] and not unheard:
            self._missing.pop(key, None)
            return False
        since = self._missing.setdefault(key, now)
        return now - since >= RESEND_SECONDS

    def _resend(self, key: int, now: float) -> bool:
        """Publish the same attempts once more; those that may not run twice are given up.

        False if the broker refused: then the next sweep goes on.
        """
        self._missing.pop(key, None)
        if self._sends.get(key, 0) >= SENDS:
            del self._sends[key]
            self.own.put(self._lost(key, all_of_it=True))
            return True
        once = self._lost(key, all_of_it=False)
        if once:
            self.own.put(once)
            return True  # the rest of the message follows when these have left it
        if not self._again(key, now):
            return False
        self._sends[key] = self._sends.get(key, 0) + 1
        return True

    def _lost(self, key: int, *, all_of_it: bool) -> list[Report]:
        """LOST for the attempts of a message; else only for nodes that must not run twice."""
        found = []
        for run, idx, attempt in self.dispatcher.messages[key][3]:
            view = self._view(run)
            if view is None or view.attempt[idx] != attempt or idx not in view.outbox:
                continue
            if all_of_it or view.node(idx).max_crashes == 0:
                found.append(Report(run, idx, attempt, ReportKind.LOST, extra=_CUT_OFF))
        return found
