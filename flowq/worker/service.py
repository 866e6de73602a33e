"""A worker of a fleet: one loop that takes messages, feeds the pool and hands reports in.

Everything that may wait is a descriptor or a time: the pool's pipes, the broker's socket, a bell
for other threads. Nothing here blocks but the hand-in of reports, and that within bounds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Final, Protocol, cast

from flowq.backends.recorded import Recorded
from flowq.broker.codec import Bundle, Item, Report, ReportKind, decode_bundle
from flowq.broker.consumer import Consumer, Delivery
from flowq.broker.mailbox import Mailbox
from flowq.broker.signing import UNSEALED, Seal
from flowq.errors import FlowqError, MessageDecodeError, StoreUnavailable
from flowq.store import Store
from flowq.worker.announcing import Announcer
from flowq.worker.bare import BareTasks
from flowq.worker.controlled import Errands
from flowq.worker.reporting import Attempt, Reporting
from flowq.worker.wait import wait
from flowq.worker.worker import Worker

log = logging.getLogger("flowq.worker")

#: While something runs, the pool is looked at that often (seconds).
TICK: Final = 0.050
#: The broker's connection is looked at that often (seconds) while nothing can be taken.
LOOK: Final = 1.0
#: Cancelled runs are looked for that often (seconds).
CANCELLED_EVERY: Final = 2.0
#: Runs whose lane is remembered.
_RUNS: Final = 100_000
#: Seconds that the last reports and rows get once everything has ended.
_LAST: Final = 3.0


class Nodes:
    """What a worker that executes nodes of runs has besides: the store, and the ways to it.

    Args:
        store: Holds large payloads, and the worker's row.
        store_id: Bundles of other stores are refused.
        reporting: Takes reports to their lanes.
        announcer: Says that the worker lives.
        seal: Is on the bundles.
    """

    def __init__(
        self,
        store: Store,
        store_id: str,
        reporting: Reporting,
        announcer: Announcer,
        seal: Seal = UNSEALED,
    ) -> None:
        self.store, self.store_id = store, store_id
        self.reporting, self.announcer, self._seal = reporting, announcer, seal
        self._recorded = Recorded(store)
        self._lanes: OrderedDict[int, int] = OrderedDict()
        self._next_look = self._next_try = 0.0
        #: Bundles whose payloads cannot be read yet: the store is away.
        self.unread: deque[Bundle] = deque()

    def accept(self, body: bytes) -> Bundle | None:
        """Read a bundle and put stored payloads into it.

        None for one that cannot be run here, and for one that is put by until the store is back.
        """
        try:
            bundle = decode_bundle(self._seal.open(body))
        except MessageDecodeError as exc:
            log.error("%s; it is dropped, its nodes are sent again", exc)
            return None
        if bundle.store_id != self.store_id:
            log.error("a message of store %s is not for this one; dropped", bundle.store_id)
            return None
        waiting = self.reporting.keys() if len(self.reporting) else ()
        for item in bundle.items:
            self._lanes[item.run] = bundle.lane
            self._lanes.move_to_end(item.run)
        while len(self._lanes) > _RUNS:
            self._lanes.popitem(last=False)
        if waiting:
            bundle.items = [
                item for item in bundle.items if (item.run, item.idx, item.attempt) not in waiting
            ]
        if self.unread:  # one try at a time: each of them may wait for the store
            self.unread.append(bundle)
            return None
        found = self._resolved(bundle)
        if found is None:
            self.unread.append(bundle)
        return found

    def again(self, now: float) -> Bundle | None:
        """Try once more, every second or so, what could not be read before."""
        if not self.unread or now < self._next_try:
            return None
        bundle = self._resolved(self.unread[0])
        if bundle is not None:
            self.unread.popleft()
        return bundle

    def unread_keys(self) -> set[Hashable]:
        """Attempts in the bundles that are put by."""
        return {(i.run, i.idx, i.attempt) for bundle in self.unread for i in bundle.items}

    def _resolved(self, bundle: Bundle) -> Bundle | None:
        try:
            bundle.items = [item for item in bundle.items if self._resolve(item)]
        except StoreUnavailable as exc:
            log.warning("a message waits for what the store holds of it: %s", exc)
            self._next_try = time.monotonic() + LOOK
            return None
        return bundle

    def _resolve(self, item: Item) -> bool:
        """Put stored payloads in; False if one is gone, as its run is then."""
        try:
            if item.args[:1] == b"r":
                item.args = self._recorded.whole(item.args)
            for each in item.inputs:
                if each.frame[:1] in (b"r", b"l"):
                    each.frame = self._recorded.whole(each.frame)
        except KeyError as exc:
            log.error("payload %s of a message is gone; its task is dropped", exc)
            return False
        return True

    def report(self, report: Report) -> None:
        """Hand a report on to the lane that its attempt came from."""
        lane = self._lanes.get(report.run)
        if lane is not None:
            self.reporting.add(lane, report)

    def cancelled(self, runs: set[int], now: float) -> list[int]:
        """Those of the runs that were cancelled; looks every few seconds, else finds none."""
        if now < self._next_look:
            return []
        self._next_look = now + CANCELLED_EVERY
        states = self.store.sql.run_state
        with contextlib.suppress(FlowqError):  # an optimisation: the coordinator discards anyway
            return [run for run in runs if self._state(states, run) in (None, "CANCELLED")]
        return []

    def _state(self, sql: str, run: int) -> str | None:
        row = self.store.one(sql, (run,))
        return None if row is None else str(row[0])


def _handed_back(key: Hashable, begun: set[Hashable]) -> Report:
    """What is said of an item that the worker did not finish."""
    kind = ReportKind.LOST if key in begun else ReportKind.RETURNED
    extra = "its worker was stopped" if key in begun else None
    if isinstance(key, tuple):
        run, idx, attempt = cast(Attempt, key)
        return Report(run, idx, attempt, kind, extra=extra)
    return Report(0, 0, 1, kind, ended=time.time(), extra=extra, id=str(key))


class Companion(Protocol):
    """Something else that a worker's loop drives: a coordinator, or what watches the load."""

    def handles(self) -> list[int]:
        """Descriptors to sleep on."""
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


class WorkerService:
    """Runs what its queues hold until it is told to stop.

    Args:
        worker: Feeds the pool.
        consumer: The broker's queues.
        bare: What is done with tasks that are no nodes.
        nodes: What nodes need; None: only bare tasks are taken.
        prefetch: Most bare tasks that are held at once; 0 for any number.
        grace: Seconds that running tasks get at a warm stop; None: as long as they take.
        soft: Seconds that they get at a cold stop.
    """

    def __init__(
        self,
        worker: Worker,
        consumer: Consumer,
        bare: BareTasks,
        *,
        nodes: Nodes | None = None,
        prefetch: Callable[[], int] = lambda: 0,
        grace: float | None = None,
        soft: float = 0.0,
    ) -> None:
        self.worker, self.consumer, self.bare, self.nodes = worker, consumer, bare, nodes
        self._prefetch, self._grace, self._soft = prefetch, grace, soft
        #: Tasks taken since the start, by name.
        self.taken: Counter[str] = Counter()
        #: Told of bundles taken and of reports on nodes; for events.
        self.on_taken: Callable[[Bundle], None] = lambda bundle: None
        self.on_report: Callable[[Report], None] = lambda report: None
        #: Listens to remote control, if anything does.
        self.mailbox: Mailbox | None = None
        #: Calls that other threads wait for.
        self.errands = Errands(self.ring)
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._posted: deque[Callable[[], None]] = deque()
        self._poll = select.poll()
        self._polled: list[int] = []
        #: "" while it runs, then "warm" or "cold".
        self.stopping = ""
        self._deadline = float("inf")
        self._next_look = 0.0
        #: Called at each turn: a coordinator in the same process, autoscaling, events.
        self.companions: list[Companion] = []

    # -- from other threads and signal handlers ------------------------------------------

    def post(self, call: Callable[[], None]) -> None:
        """Have the loop call something; from any thread, or from a signal handler."""
        self._posted.append(call)
        self.ring()

    def ring(self) -> None:
        """Wake the loop; from any thread, or from a signal handler."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self._bell, 1)

    def stop(self, how: str = "warm") -> None:
        """Stop: "warm" finishes what runs, "cold" hands everything back. As `post`, any thread.

        A second call may make a warm stop a cold one, never the other way round.
        """
        self.post(lambda: self._stop(how))

    # -- the loop ------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until stopped. Everything is handed in or handed back when this returns."""
        try:
            while not self._ended():
                self._sleep()
                self.turn()
        finally:
            self._finish()

    def turn(self) -> None:
        """One turn: reports out, messages in. Waits for nothing."""
        while self._posted:
            self._posted.popleft()()
        self.errands.run()
        for report in self.worker.collect():
            self._route(report)
        if self.nodes is not None:  # first, for a run's next node may wait for what is reported
            self.nodes.reporting.flush(self.worker.busy)
        self._take()
        now = time.monotonic()
        self.bare.keep_up(now)
        if self.nodes is not None:
            self._keep_up(self.nodes, now)
        for companion in self.companions:
            companion.turn()

    def _keep_up(self, nodes: Nodes, now: float) -> None:
        nodes.announcer.keep_up()
        self._offer(nodes.again(now))
        if self.worker.busy:
            runs = {key[0] for key in self.worker.held() if isinstance(key, tuple)}
            for run in nodes.cancelled(runs, now):
                self.worker.revoke(run)

    def _route(self, report: Report) -> None:
        if not report.run:
            self.bare.report(report)
        elif self.nodes is not None:
            self.on_report(report)
            self.nodes.report(report)

    # -- being looked at and changed -------------------------------------------------------

    @property
    def prefetch(self) -> int:
        """Most bare tasks that are held at once; 0 for any number."""
        return self._prefetch()

    def announce_queues(self) -> None:
        """Tell coordinators which queues are served, and with how many slots."""
        if self.nodes is not None:
            row = self.nodes.announcer.row
            row.queues = [spec.name for spec in self.consumer.active()]
            row.slots = self.worker.hands
            self.nodes.announcer.soon()

    # -- taking --------------------------------------------------------------------------

    def _room(self) -> tuple[int, int]:
        """How many bundles and how many bare tasks may be taken now."""
        if self.stopping:
            return 0, 0
        nodes = self.worker.wants() if self.nodes is not None and not self.nodes.unread else 0
        limit = self.prefetch
        return nodes, max(0, limit - self.bare.held) if limit else 1000

    def _take(self) -> None:
        nodes, tasks = self._room()
        if not nodes and not tasks:
            now = time.monotonic()
            if now < self._next_look:
                return
            self._next_look = now + LOOK
        for delivery in self.consumer.take(nodes, tasks):
            if delivery.is_node:
                self._take_node(delivery)
            else:
                held = self.bare.take(delivery)
                if held is not None:
                    self.taken[held.message.task] += 1

    def _take_node(self, delivery: Delivery) -> None:
        assert self.nodes is not None
        self._offer(self.nodes.accept(delivery.body))

    def _offer(self, bundle: Bundle | None) -> None:
        if bundle is not None and bundle.items:
            for item in bundle.items:
                self.taken[bundle.specs[item.spec].task] += 1
            self.on_taken(bundle)
            self.worker.permit(bundle.runs)
            self.worker.offer([bundle])

    # -- sleeping ------------------------------------------------------------------------

    def _sleep(self) -> None:
        nodes, tasks = self._room()
        wanted = [self._bell, *self.worker.handles()]
        timeout = TICK if self.worker.load > self.worker.throttled else LOOK
        timeout = min(timeout, self.worker.timeout())
        if nodes or tasks:
            wanted += self.consumer.handles()
            timeout = min(timeout, self.consumer.timeout())
        timeout = min(timeout, self.bare.timeout())
        if self.nodes is not None:
            timeout = min(timeout, self.nodes.reporting.timeout(self.worker.busy))
            timeout = min(timeout, self.nodes.announcer.timeout())
        for companion in self.companions:
            wanted += companion.handles()
            timeout = min(timeout, companion.timeout())
        self._register(wanted)
        if self._posted:
            timeout = 0.0
        wait(self._poll, timeout, self.worker)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def _register(self, wanted: list[int]) -> None:
        if wanted == self._polled:
            return
        for fd in self._polled:
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)
        for fd in wanted:
            self._poll.register(fd, select.POLLIN)
        self._polled = wanted

    # -- stopping ------------------------------------------------------------------------

    def _stop(self, how: str) -> None:
        now = time.monotonic()
        if how == "cold" and self.stopping != "cold":
            log.warning("cold shutdown: what runs is handed back after %g s", self._soft)
            self._deadline = now + self._soft
        elif not self.stopping:
            log.warning("warm shutdown: what runs is finished first")
            self._deadline = now + self._grace if self._grace is not None else float("inf")
        if not self.stopping:
            self.consumer.pause()
            self.bare.drain()
            self.worker.drain()
            if self.nodes is not None:
                self.nodes.announcer.row.state = "draining"
                self.nodes.announcer.soon()
        self.stopping = "cold" if how == "cold" else self.stopping or "warm"

    def _ended(self) -> bool:
        if not self.stopping:
            return False
        return not self.worker.busy or time.monotonic() >= self._deadline

    def _finish(self) -> None:
        """Hand back what still runs, tell everybody, and end the pool."""
        begun = self._begun()
        with contextlib.suppress(FlowqError):  # a pool that could not start has nothing to say
            for report in self.worker.collect():
                self._route(report)
        self.worker.pool.stop(0.0)
        unread = self.nodes.unread_keys() if self.nodes is not None else set()
        for key in self.worker.held() | unread:
            self._route(_handed_back(key, begun))
        if self.mailbox is not None:
            self.mailbox.stop()
        for companion in self.companions:
            companion.close()
        if self.nodes is not None:
            self._hand_in(self.nodes)
        self.bare.close()
        self.consumer.close()
        os.close(self._bell)

    def _begun(self) -> set[Hashable]:
        """What has begun and must not again: acknowledged tasks, nodes that allow no crash."""
        found: set[Hashable] = set()
        for doing in self.worker.active():
            item = doing.item
            if not item.run:
                held = self.bare.tasks.get(item.id)
                if held is not None and held.acked:
                    found.add(item.id)
            elif doing.bundle.specs[item.spec].max_crashes == 0:
                found.add((item.run, item.idx, item.attempt))
        return found

    def _hand_in(self, nodes: Nodes) -> None:
        deadline = time.monotonic() + _LAST
        while len(nodes.reporting) and time.monotonic() < deadline:
            nodes.reporting.flush(busy=False)
            if len(nodes.reporting):
                select.select([], [], [], min(0.05, nodes.reporting.timeout(busy=False)))
        if not len(nodes.reporting):
            nodes.announcer.leave()
