"""Rate limits: how often a second a worker begins tasks of a type.

An item over the rate waits at its task's gate, out of everybody's way. A gate lets one item at a
time into the worker's queues, and counts it when it begins, so that neither busy hands nor a long
queue of other tasks turn what waited into a burst.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import Final

from flowq.broker.codec import Bundle, Item
from flowq.core.graph import Spec
from flowq.worker.hand import Entry

#: A node that would wait longer than this (seconds) may be given back for another worker,
PATIENCE: Final = 1.0
#: but so many of a task are kept first: coordinators send what is given back again at once.
KEPT: Final = 256
#: After nodes were given back no others are taken for so long (seconds), or they went in circles.
PAUSE: Final = 0.100
#: It is asked for again after at most so long (seconds): the limit may have changed by then.
LONGEST: Final = 60.0
#: Starts that come late by up to so long (seconds) are made up for where they are closer to each
#: other than that: loops are not that exact.
_SLACK: Final = 0.050


class Gate:
    """What waits of one task."""

    __slots__ = ("_waiting", "free_at", "inside", "promised", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        #: The next start, in monotonic seconds.
        self.free_at = 0.0
        #: The item that was let in and has not begun.
        self.inside: Item | None = None
        #: When the last of those that were given back may come again, in monotonic seconds.
        self.promised = 0.0
        self._waiting: list[tuple[int, int, Entry]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, number: int, entry: Entry) -> None:
        """Have an item wait: behind those of its priority."""
        heapq.heappush(self._waiting, (-entry[1].priority, number, entry))

    def next(self) -> Entry:
        """Let the first one in."""
        entry = heapq.heappop(self._waiting)[2]
        self.inside = entry[1]
        return entry

    def take(self, wanted: Callable[[Item], bool]) -> list[Entry]:
        """Take some out, in order."""
        found = [each for each in self._waiting if wanted(each[2][1])]
        if found:
            self._waiting = [each for each in self._waiting if not wanted(each[2][1])]
            heapq.heapify(self._waiting)
        return [each[2] for each in sorted(found, key=lambda each: each[:2])]

    def begun(self, now: float) -> None:
        """The one inside begins."""
        self.inside = None
        between = 1.0 / self.rate
        earliest = now - _SLACK if between < _SLACK else now
        self.free_at = max(self.free_at, earliest) + between

    def delay(self, now: float) -> float:
        """Seconds after which one more may come, if it is better not to wait here; else 0."""
        if len(self._waiting) < KEPT:
            return 0.0
        ahead = len(self._waiting) + (self.inside is not None)
        wait = max(0.0, self.free_at - now) + ahead / self.rate
        if wait <= PATIENCE:
            return 0.0
        self.promised = max(self.promised, now + wait)
        wait = self.promised - now
        self.promised = min(self.promised + 1.0 / self.rate, now + LONGEST)
        return min(wait, LONGEST)


class Rates:
    """The gates of a worker. For one thread; times are monotonic seconds."""

    def __init__(self) -> None:
        #: Limits that were set here, for nodes and bare tasks.
        self.set: dict[str, float] = {}
        self.gates: dict[str, Gate] = {}
        self._numbers = itertools.count()

    @property
    def waiting(self) -> int:
        """How many items wait for their turn."""
        return sum(map(len, self.gates.values())) if self.gates else 0

    def gate(self, spec: Spec, item: Item) -> Gate | None:
        """The gate that an item has to pass, if any."""
        rate = self.set.get(spec.task)
        if rate is None:
            rate = 0.0 if item.run else spec.rate  # coordinators see to the rates of nodes
        if rate <= 0.0:
            return None
        gate = self.gates.get(spec.task)
        if gate is None:
            gate = self.gates[spec.task] = Gate(rate)
        gate.rate = rate
        return gate

    def add(self, gate: Gate, bundle: Bundle, item: Item) -> None:
        """Have an item wait at its gate."""
        gate.add(next(self._numbers), (bundle, item))

    def limit(self, task: str, rate: float) -> list[Entry]:
        """Set a task's limit, 0 for none, and take out what waits, to be judged anew."""
        self.set[task] = rate
        gate = self.gates.get(task)
        if gate is None:
            return []
        if rate > 0.0:
            gate.free_at -= max(0.0, 1.0 / gate.rate - 1.0 / rate)  # a slow start holds no longer
        gate.promised = 0.0
        return gate.take(lambda item: True)

    def due(self, now: float) -> Iterator[Entry]:
        """Let in what may begin now; then its bundle is in the queues until `begun`."""
        for gate in self.gates.values():
            if gate and gate.inside is None and gate.free_at <= now:
                yield gate.next()

    def begun(self, task: str, item: Item, now: float) -> None:
        """Count an item that begins, if it came through a gate."""
        gate = self.gates.get(task)
        if gate is not None and gate.inside is item:
            gate.begun(now)

    def gone(self, task: str, item: Item) -> None:
        """Note that an item that may have been let in will not begin."""
        gate = self.gates.get(task)
        if gate is not None and gate.inside is item:
            gate.inside = None

    def take(self, wanted: Callable[[Item], bool]) -> list[Entry]:
        """Take some out that wait."""
        return [entry for gate in self.gates.values() for entry in gate.take(wanted)]

    def timeout(self, now: float) -> float:
        """Seconds until one may be let in; infinite if none waits for that."""
        times = [gate.free_at for gate in self.gates.values() if gate and gate.inside is None]
        return max(0.0, min(times) - now) if times else float("inf")
