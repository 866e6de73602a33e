"""The thread pool: bodies run in threads of this process. Solo is a pool of one.

For bodies that wait for something, and where processes are not wanted. Two things are weaker than
in processes and documented so: only coroutines can be interrupted, where they wait (an attempt
that returns over its time limit is made a FAILURE then), and a body that kills its process kills
everything.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from flowq import errors
from flowq.broker.codec import Item, Report, ReportKind
from flowq.payload import encode_error
from flowq.worker import capture
from flowq.worker.alarm import told_to_stop
from flowq.worker.call import id_of
from flowq.worker.execution import Ended, Executor
from flowq.worker.hand import Hand, Running
from flowq.worker.pool import (
    Doing,
    Entry,
    News,
    Part,
    Returned,
    Target,
    check_size,
    is_target,
)
from flowq.worker.runner import Runner
from flowq.worker.slots import ROOM, Slots

#: Long items are looked for that often, in seconds.
_TICK: Final = 0.010


class _Worker(Hand):
    """A hand that is a thread."""

    def __init__(
        self,
        place: int,
        slots: Slots,
        pool: ThreadPool,
        executor: Callable[[Callable[[Report], None]], Executor],
    ) -> None:
        super().__init__(slots[place])
        self.place = place
        self.orders: queue.SimpleQueue[Part | None] = queue.SimpleQueue()
        self._pool = pool
        self._executor = executor(lambda report: self.send([report]))
        self._runner = Runner(self._executor, self.slot, self, live=pool.live, kept=pool.kept)
        self.thread = threading.Thread(target=self._work, name=f"flowq-pool-{place}", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        capture.use_in_thread(self._runner.capture)
        while True:
            part = self.orders.get()
            if part is None:
                self._executor.close()
                return
            self._runner.run(part.number, part.bundles())

    def stop(self, item: Item, number: int) -> None:
        """End a coroutine, or with SIGUSR1 ask it to; what is no coroutine takes no notice."""
        soft = number == signal.SIGUSR1
        self._executor.stop(item, told_to_stop(number) if soft else Ended())

    def send(self, reports: list[Report]) -> None:
        """Thread: pass reports on."""
        self._pool.heard(self, reports)

    def hand_back(self, part: int, index: int) -> None:
        """Thread: say that items from `index` on of a part will not be begun."""
        self._pool.heard(self, (part, index))


class ThreadPool:
    """A pool of threads; see `Pool` for what it keeps.

    Args:
        threads: How many.
        tasks: Task name -> task.
        solo: Whether it is the pool of one thread, which stays one.
        live: Whether what bare tasks print goes to the log, at the level of `capture.redirect`.
        kept: Characters kept of what an attempt writes.
        clock: Epoch seconds.
        monotonic: Seconds on the monotonic clock.
    """

    def __init__(
        self,
        threads: int,
        tasks: Mapping[str, Any],
        *,
        solo: bool = False,
        live: bool = False,
        kept: int = capture.LIMIT,
        hostname: str = "",
        compile_fragment: Callable[[Any], bytes] | None = None,
        accept: tuple[str, ...] = ("json", "msgpack"),
        max_bytes: int = 64 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._now = clock, monotonic
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._heard: deque[tuple[_Worker, list[Report] | tuple[int, int]]] = deque()
        self._slots = Slots(1 if solo else max(threads, ROOM))
        self._solo, self.live, self.kept = solo, live, kept
        self._next_tick = 0.0
        self._stopped = False
        self._hands: list[_Worker] = []
        #: Told to end; their places are theirs until they have.
        self._leaving: list[_Worker] = []
        self._executor: Callable[[Callable[[Report], None]], Executor] = lambda emit: Executor(
            tasks,
            hostname=hostname,
            compile_fragment=compile_fragment,
            accept=accept,
            emit=emit,
            max_bytes=max_bytes,
        )
        capture.install()
        for place in range(threads):
            self._hands.append(_Worker(place, self._slots, self, self._executor))

    def heard(self, hand: _Worker, news: list[Report] | tuple[int, int]) -> None:
        """Take news from a thread."""
        self._heard.append((hand, news))
        if not self._stopped:
            os.eventfd_write(self._bell, 1)

    # -- the contract -----------------------------------------------------------------------

    def handles(self) -> list[int]:
        """One descriptor that stands for all."""
        return [self._bell]

    def free(self, small: bool) -> int:
        """How many parts it takes now."""
        return sum(1 for hand in self._hands if hand.has_room(small))

    def submit(self, part: Part) -> None:
        """Give a part to an idle thread, or behind a small one."""
        if self._stopped:
            raise errors.WorkerLostError("the pool was stopped")
        ready = [hand for hand in self._hands if hand.has_room(part.small)]
        hand = min(ready, key=lambda each: len(each.parts))
        capture.ensure()
        hand.give(part)
        hand.orders.put(part)

    def collect(self) -> list[News]:
        """Take what the threads said, and look at long items once in a while."""
        news: list[News] = []
        if not self._stopped:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)
        while self._heard:
            hand, said = self._heard.popleft()
            if isinstance(said, tuple):
                entries = hand.handed_back(*said)
                if entries:
                    news.append(Returned(entries))
            else:
                news += self._judge(hand, said)
            self._retire(hand)
        now = self._now()
        if now >= self._next_tick:
            self._next_tick = now + _TICK
            for hand in self._hands:
                self._tick(hand, now, news)
        return news

    def recall(self, kill: Target | None = None, number: int = signal.SIGKILL) -> None:
        """Have everything that has not begun come back; of what runs only coroutines can end."""
        now = self._now()
        for hand in self._hands:
            hand.recall(now)
            running = hand.running(now) if kill is not None else None
            if running is not None and kill is not None and is_target(running.item, kill):
                hand.stop(running.item, number)

    def running(self) -> list[Doing]:
        """What the threads are in now."""
        now, clock = self._now(), self._clock()
        found = []
        for hand in self._hands:
            running = hand.running(now) if hand.parts else None
            if running is not None:
                ident = hand.thread.ident or 0
                found.append(Doing(running.bundle, running.item, clock - running.seconds, ident))
        return found

    def info(self) -> dict[str, Any]:
        """Idents of the threads."""
        hands = sum(1 for hand in self._hands if not hand.leaving)
        return {
            "max-concurrency": hands,
            "threads": hands,
            "processes": [hand.thread.ident for hand in self._hands],
        }

    def resize(self, hands: int) -> None:
        """Start more threads, or have some end."""
        if self._solo:
            raise errors.WrongState(
                "the solo pool is one thread and cannot be resized; use -P threads or prefork"
            )
        check_size(hands, self._slots.count)
        staying = [hand for hand in self._hands if not hand.leaving]
        if hands < len(staying):
            staying.sort(key=lambda hand: (bool(hand.parts), -hand.place))
            for hand in staying[: len(staying) - hands]:
                hand.leaving = True
                hand.recall(self._now())
                self._retire(hand)
        for hand in self._hands:  # one that is busy may as well stay
            if len(staying) < hands and hand.leaving:
                hand.leaving = False
                staying.append(hand)
        self._leaving = [hand for hand in self._leaving if hand.thread.is_alive()]
        taken = {hand.place for hand in self._hands + self._leaving}
        places = (place for place in range(self._slots.count) if place not in taken)
        for _ in range(hands - len(staying)):
            self._hands.append(_Worker(next(places), self._slots, self, self._executor))

    def _retire(self, hand: _Worker) -> None:
        """End a thread that is to leave, once it is idle."""
        if hand.is_spent and hand in self._hands:
            self._hands.remove(hand)
            self._leaving.append(hand)
            hand.orders.put(None)

    def stop(self, grace: float) -> None:
        """Wait for the threads; one that is still in a body then is left to itself."""
        if self._stopped:
            return
        deadline = self._now() + grace
        self.recall()
        hands = self._hands + self._leaving
        for hand in hands:
            hand.orders.put(None)
        for hand in hands:
            hand.thread.join(max(0.0, deadline - self._now()))
        self._stopped = True
        capture.uninstall()
        if not any(hand.thread.is_alive() for hand in hands):
            os.close(self._bell)
            self._slots.close()

    # -- parts ------------------------------------------------------------------------------

    def _judge(self, hand: _Worker, reports: list[Report]) -> list[Report]:
        """Count reports, and make late successes the failures that they are."""
        judged: list[Report] = []
        for report in reports:
            entry = _ended(hand, report)
            hand.take([report])
            judged.append(report if entry is None else _late(report, entry))
        return judged

    def _tick(self, hand: _Worker, now: float, news: list[News]) -> None:
        running = hand.running(now) if hand.parts else None
        if running is None:
            return
        started = hand.started(running, now, self._clock)
        if started is not None:
            news.append(started)
        if hand.is_recalled or running.seconds > 0.1:
            _relieve(hand, running, now, news)


def _relieve(hand: _Worker, running: Running, now: float, news: list[News]) -> None:
    """Take what waits behind an item that runs long."""
    if hand.has_waiting(running):
        hand.recall(now)
        entries = hand.take_back(running, now)
        if entries:
            news.append(Returned(entries))


def _ended(hand: _Worker, report: Report) -> Entry | None:
    """The item that a report ends in SUCCESS, else None."""
    if report.kind != ReportKind.SUCCESS or not hand.parts:
        return None
    part = hand.parts[0]
    return part.entries[part.done]


def _late(report: Report, entry: Entry) -> Report:
    bundle, item = entry
    spec = bundle.specs[item.spec]
    limit = spec.time_limit
    if not limit or report.ended - report.began <= limit:
        return report
    exc = errors.TimeLimitExceeded(
        f"{spec.task} ran over its time limit of {limit:g} s; a thread cannot be interrupted"
    )
    report.kind = ReportKind.FAILURE
    report.frame = encode_error(exc, node_id=id_of(bundle, item), task=spec.task)
    return report
