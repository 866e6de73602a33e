"""The worker: takes bundles, feeds a pool, gives reports. Step-driven, in one thread.

It owns nothing but its queue: the caller reads messages, sends reports and sleeps on `handles`.
An item is held from `offer` until its last report, so that a message that comes twice runs once.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Final

import msgspec

from flowq.broker.codec import ON_THE_WAY, Bundle, Item, Report, ReportKind
from flowq.core.graph import Spec
from flowq.errors import WrongState
from flowq.worker.backlog import Backlog
from flowq.worker.estimates import ON_ITS_WAY, PART_LEAST, SMALL, TINY, Estimates
from flowq.worker.hand import Entry
from flowq.worker.pool import (
    Answer,
    Doing,
    Part,
    Pool,
    Question,
    Returned,
    Target,
    refuse,
    signal_number,
)
from flowq.worker.progress import Progress
from flowq.worker.rates import PAUSE, Rates

#: Items of one part at most.
PART_ITEMS: Final = 64
#: A part is to take that long at most (seconds), by what is known of its tasks.
PART_SECONDS: Final = 0.025
#: Revoked runs that are remembered.
_REVOKED: Final = 10_000


class Worker:
    """Runs what it is offered; see the methods, which one thread calls.

    Args:
        pool: Where bodies run; stopped by `stop`.
        hands: How many parts the pool runs at a time.
        answer: What to do with questions of tasks (submissions); None refuses them.
        rates: Whether tasks keep to rate limits here.
        clock: Epoch seconds.
        monotonic: Seconds on the monotonic clock.
    """

    def __init__(
        self,
        pool: Pool,
        hands: int,
        *,
        answer: Answer | None = None,
        rates: bool = True,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool = pool
        #: How many parts the pool runs at a time; see `grow` and `shrink`.
        self.hands = hands
        #: Task -> (hard, soft) time limits that replace those it came with.
        self._limits: dict[str, tuple[float | None, float | None]] = {}
        #: None: no task is held back.
        self._rates = Rates() if rates else None
        self._answer = answer or refuse
        self._clock, self._now = clock, monotonic
        self._backlog = Backlog()
        self._held: dict[Hashable, Entry] = {}
        self._revoked: OrderedDict[int, None] = OrderedDict()
        #: Bare tasks that were asked back from a hand, to be revoked if they come.
        self._asked_back: set[str] = set()
        self._estimates = Estimates()
        self._expected, self._is_small = self._estimates.expected, self._estimates.is_small
        self._out: list[Report] = []
        self._progress = Progress()
        self._draining = False
        #: No nodes are taken before this monotonic time.
        self._not_before = 0.0
        #: Told of each bare task whose body is about to begin, by its id.
        self.begun: Callable[[str], None] = lambda task_id: None

    # -- taking -----------------------------------------------------------------------------

    def offer(self, bundles: Iterable[Bundle]) -> None:
        """Take bundles and feed the pool.

        Items that are held already, and those of revoked runs, are dropped: the one will be
        reported, the others are of no interest. When draining, everything goes back.
        """
        for bundle in bundles:
            if self._limits:
                bundle.specs = [self._limited(spec) for spec in bundle.specs]
            for item in bundle.items:
                key = item.id if not item.run else (item.run, item.idx, item.attempt)
                if key in self._held or item.run in self._revoked:
                    continue
                self._held[key] = (bundle, item)
                if self._draining:
                    self._give_back(item)
                elif self._rates is None or not self._waits(self._rates, bundle, item):
                    self._backlog.add((bundle, item))
        self.feed()

    def _waits(self, rates: Rates, bundle: Bundle, item: Item) -> bool:
        """Whether an item is over its task's rate: it waits at its gate, or is given back."""
        if item.run and not rates.set:
            return False
        gate = rates.gate(bundle.specs[item.spec], item)
        if gate is None:
            return False
        delay = gate.delay(self._now()) if item.run else 0.0
        if delay:
            self._not_before = self._now() + PAUSE
            self._give_back(item, delay)
        else:
            rates.add(gate, bundle, item)
        return True

    def wants(self) -> int:
        """How many more messages to take now; 0 when there is enough to do.

        Never more than free hands while tasks are long or not known; a little ahead when they
        are small.
        """
        if self._draining or (self._not_before and self._now() < self._not_before):
            return 0
        if not self._backlog:
            return self.pool.free(True)
        free = self.pool.free(False)
        if free > len(self._backlog):
            return free - len(self._backlog)
        seconds = 0.0
        for number, (bundle, item) in enumerate(self._backlog):
            known = self._expected(bundle, item)
            if known > SMALL or number > PART_ITEMS:
                return 0
            seconds += known
        return 1 if seconds < PART_SECONDS * self.hands else 0

    def feed(self) -> None:
        """Give the pool what it can take, the most urgent first; late items expire here."""
        rates, share = self._rates, 0
        while True:
            if rates is not None and rates.gates:
                for admitted in rates.due(self._now()):
                    self._backlog.add(admitted)
            entry = self._backlog.first()
            if entry is None:
                return
            small = self._is_small(*entry)
            if not self.pool.free(small):
                return
            share = share or max(1, min(PART_ITEMS, -(-len(self._backlog) // self.hands)))
            part = self._small_part(share) if small else [self._backlog.pop()]
            part = [each for each in part if not self._expired(each[1])]
            if part:
                for bundle, item in part:
                    if rates is not None and rates.gates:
                        rates.begun(bundle.specs[item.spec].task, item, self._now())
                    if not item.run:
                        self.begun(item.id)
                self.pool.submit(Part(part, small=small))

    # -- giving -----------------------------------------------------------------------------

    def handles(self) -> list[int]:
        """File descriptors to sleep on; readable when `collect` has something to do."""
        return self.pool.handles()

    def collect(self) -> list[Report]:
        """Reports since the last call, in order for each item; feeds the pool.

        Call it when a handle is readable, and every 50 ms while `busy`.
        """
        reports, self._out = self._out, []
        for news in self.pool.collect():
            if isinstance(news, Report):
                if news.kind in ON_THE_WAY:
                    self._on_the_way(news, reports)
                else:
                    self._end(news)
                    reports.append(news)
            elif isinstance(news, Returned):
                self._take_back(news.entries)
            elif isinstance(news, Question):
                self._answer(*news)
        if self._progress:
            reports += self._progress.due(self._now())
        if self._backlog or (self._rates is not None and self._rates.gates):
            self.feed()
        if self._out:
            reports += self._out
            self._out = []
        return reports

    @property
    def busy(self) -> bool:
        """Whether anything is held."""
        return bool(self._held) or bool(self._out)

    @property
    def load(self) -> int:
        """How many items are held."""
        return len(self._held)

    @property
    def ends_at_once(self) -> bool:
        """Whether what it holds is a single item, known to take next to no time."""
        if len(self._held) != 1:
            return False
        return self._expected(*next(iter(self._held.values()))) <= TINY

    @property
    def throttled(self) -> int:
        """How many of them wait because of their task's rate limit."""
        return self._rates.waiting if self._rates is not None else 0

    def timeout(self) -> float:
        """Seconds until `collect` has something to give or to begin; infinite if nothing is known.

        That is what waits for its task's rate. While anything else is held, call `collect` every
        50 ms besides.
        """
        if self._out:
            return 0.0
        return self._rates.timeout(self._now()) if self._rates is not None else float("inf")

    def held(self) -> set[Hashable]:
        """Keys of what it holds: (run, idx, attempt), or the id of a bare task."""
        return set(self._held)

    # -- being told -------------------------------------------------------------------------

    def revoke(self, run: int) -> None:
        """Drop what has not begun of a run, and what may still come of it; nothing is reported.

        Repeating: does nothing more. What runs goes on; see `kill`.
        """
        self._revoked[run] = None
        while len(self._revoked) > _REVOKED:
            self._revoked.popitem(last=False)
        if self._rates is not None:
            for _, item in self._rates.take(lambda item: item.run == run):
                self._forget(item)
        for _, item in self._backlog.take(lambda entry: entry[1].run == run):
            self._forget(item)
        if any(isinstance(key, tuple) and key[0] == run for key in self._held):
            self.pool.recall()

    def permit(self, runs: Iterable[int]) -> None:
        """Take items of these runs again, also if they were revoked before."""
        if self._revoked:
            for run in runs:
                self._revoked.pop(run, None)

    def kill(self, target: Target, number: str | int | None = None) -> None:
        """End the process that runs a node or a bare task; it is reported LOST ("terminated").

        Args:
            target: Names it.
            number: Signal to use, as 15, "SIGTERM" or "TERM"; none: SIGKILL. One that the task
                survives changes nothing; SIGUSR1 raises SoftTimeLimitExceeded in its body.

        Raises:
            WrongState: There is no such signal.
        """
        self.pool.recall(target, signal_number(number))

    def revoke_task(self, task_id: str) -> bool:
        """Drop a bare task that has not begun, and report it REVOKED.

        One that waits with a hand, behind another, is asked back and dropped when it comes.

        Returns:
            False if it is not here or runs. True is no promise: the hand may begin it meanwhile.
        """

        def is_it(item: Item) -> bool:
            return item.id == task_id and not item.run

        found = self._rates.take(is_it) if self._rates is not None else []
        found = found or self._backlog.take(lambda entry: is_it(entry[1]))
        for _, item in found:
            self._drop(item)
        if found or task_id not in self._held:
            return bool(found)
        if any(is_it(doing.item) for doing in self.pool.running()):
            return False
        self._asked_back.add(task_id)
        self.pool.recall()
        return True

    def _drop(self, item: Item) -> None:
        self._forget(item)
        self._out.append(_of(item, ReportKind.REVOKED))

    # -- being changed ----------------------------------------------------------------------

    def limit_time(self, task: str, hard: float | None, soft: float | None) -> None:
        """Set a task's time limits in seconds, for what is taken from now on; None: no limit."""
        self._limits[task] = (hard, soft)

    def _limited(self, spec: Spec) -> Spec:
        limits = self._limits.get(spec.task)
        if limits is None:
            return spec
        return msgspec.structs.replace(spec, time_limit=limits[0], soft_time_limit=limits[1])

    def limit_rate(self, task: str, per_second: float) -> None:
        """Set how often a second a task may begin here; 0 for any number.

        Nodes and bare tasks count together. What is over the rate waits; of nodes that would wait
        over a second some hundred do, and others are given back (RETURNED, extra = seconds).

        Raises:
            WrongState: This worker takes no notice of rate limits.
        """
        rates = self._rates
        if rates is None:
            raise WrongState("this worker has worker_disable_rate_limits set: it limits no task")
        entries = self._backlog.take(lambda entry: entry[0].specs[entry[1].spec].task == task)
        for _, item in entries:
            rates.gone(task, item)
        entries += rates.limit(task, per_second)
        for bundle, item in entries:
            if not self._waits(rates, bundle, item):
                self._backlog.add((bundle, item))
        self.feed()

    def grow(self, n: int) -> None:
        """Add so many hands.

        Raises:
            WrongState: The pool cannot be resized, or has no room for them.
        """
        self._resize(self.hands + n)
        self.feed()

    def shrink(self, n: int) -> None:
        """Take so many hands away; those that are busy end after their task.

        Raises:
            WrongState: The pool cannot be resized, or none would be left.
        """
        self._resize(self.hands - n)

    def _resize(self, hands: int) -> None:
        if hands != self.hands:
            self.pool.resize(hands)
            self.hands = hands

    # -- being looked at --------------------------------------------------------------------

    def active(self) -> list[Doing]:
        """What runs now."""
        return self.pool.running()

    def reserved(self) -> list[Entry]:
        """What was taken and has not begun."""
        running = {id(doing.item) for doing in self.pool.running()}
        return [entry for entry in self._held.values() if id(entry[1]) not in running]

    def drain(self) -> None:
        """Warm shutdown: give back (RETURNED) whatever has not begun; what runs ends in its time.

        `collect` goes on giving reports until `busy` is false. Repeating: does nothing more.
        """
        self._draining = True
        for _, item in self._backlog.take():
            self._give_back(item)
        if self._rates is not None:
            for _, item in self._rates.take(lambda item: True):
                self._give_back(item)
        self.pool.recall()

    def stop(self, grace: float = 0.0) -> list[Report]:
        """End the pool after at most `grace` seconds; gives the last reports."""
        self.drain()
        reports: list[Report] = []
        try:
            reports = self.collect()
        finally:
            self.pool.stop(grace)
        return reports + self.collect()

    # -- parts ------------------------------------------------------------------------------

    def _small_part(self, share: int) -> list[Entry]:
        """Take small items off the front: a hand's share, or more if that is next to nothing."""
        count, seconds = 0, 0.0

        def fits(entry: Entry) -> bool:
            nonlocal count, seconds
            if count >= share and seconds + count * ON_ITS_WAY >= PART_LEAST:
                return False
            if seconds >= PART_SECONDS or not self._is_small(*entry):
                return False
            count, seconds = count + 1, seconds + self._expected(*entry)
            return True

        return self._backlog.pop_while(fits)

    def _expired(self, item: Item) -> bool:
        if not item.expires_at or self._clock() < item.expires_at:
            return False
        self._forget(item)
        self._out.append(_of(item, ReportKind.EXPIRED))
        return True

    def _take_back(self, entries: list[Entry]) -> None:
        for bundle, item in reversed(entries):
            if item.run in self._revoked:
                self._forget(item)
            elif item.id in self._asked_back and not item.run:
                self._drop(item)
            elif self._draining:
                self._give_back(item)
            else:
                self._backlog.put_back((bundle, item))

    def _give_back(self, item: Item, delay: float | None = None) -> None:
        self._forget(item)
        report = _of(item, ReportKind.RETURNED)
        report.extra = delay
        self._out.append(report)

    def _forget(self, item: Item) -> None:
        key = item.id if not item.run else (item.run, item.idx, item.attempt)
        entry = self._held.pop(key, None)
        if self._asked_back:
            self._asked_back.discard(item.id)
        if entry is not None and self._rates is not None and self._rates.gates:
            self._rates.gone(entry[0].specs[item.spec].task, item)

    def _end(self, report: Report) -> None:
        """Count the time that an item took, and hold it no longer."""
        key = report.id if not report.run else (report.run, report.idx, report.attempt)
        entry = self._held.pop(key, None)
        if self._progress:
            self._progress.forget(key)
        if self._asked_back:
            self._asked_back.discard(report.id)
        if entry is None:
            return
        task = entry[0].specs[entry[1].spec].task
        took = report.ended - report.began
        if took >= 0.0 and report.kind != ReportKind.LOST:
            self._estimates.note(task, took)

    def _on_the_way(self, report: Report, reports: list[Report]) -> None:
        if report.kind != ReportKind.PROGRESS:
            reports.append(report)
            return
        key = report.id if not report.run else (report.run, report.idx, report.attempt)
        self._progress.note(key, report)


def _of(item: Item, kind: ReportKind) -> Report:
    return Report(item.run, item.idx, item.attempt, kind, id=item.id)
