"""The embedded engine: coordinator and worker, turn by turn, in this process.

Nothing starts before the first submission; reading needs the store only. A turn is all the work
there is: collect reports from the pool, fold and commit them, publish, feed the pool. It is made by
the engine's thread, or by a thread that submits and so stores its run on the way; a lock sees to it
that there is one at a time. So a step of a chain costs no change of thread, and a long task's next
one is begun only after its own result is committed. Task code runs in the pool's children.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.app import admitting, bare, closing, retention
from flowq.app.bareresults import results_of
from flowq.app.client import Client
from flowq.app.collecting import collection_paused
from flowq.app.current import notebook
from flowq.app.driving import Driver
from flowq.app.lanes import LaneLock
from flowq.app.pace import BATCH_SECONDS, Pace
from flowq.app.pools import make_worker
from flowq.app.revoking import Revoking, judged, revoked
from flowq.backends.memory import MemoryLane
from flowq.backends.recorded import Recorded
from flowq.broker.codec import Bundle, Report
from flowq.broker.transport import MemoryTransport
from flowq.coordinator import Coordinator, Fence
from flowq.store import NewRun
from flowq.worker import standard
from flowq.worker.wait import wait

if TYPE_CHECKING:
    from flowq.app.base import Flowq
    from flowq.coordinator.view import RunView
    from flowq.core.graph import Graph

log = logging.getLogger("flowq")

#: How long a change made by another process may go unnoticed, in seconds.
POLL_SECONDS = 0.05
#: Seconds that tasks get to finish when the process ends.
GRACE_SECONDS = 10.0
#: The same where the process is a notebook's kernel, which is killed if it takes its time.
KERNEL_GRACE_SECONDS = 1.0


class Engine(Client):
    """Coordinator and worker of one app in this process, besides what a client is.

    Args:
        app: Whose tasks run here.
    """

    def __init__(self, app: Flowq) -> None:
        super().__init__(app, results_of(app))
        self._pid = os.getpid()
        self._lane_lock: LaneLock | None = None
        self.updates = MemoryLane()
        self._bare: deque[Bundle] = deque()
        self._bell = -1
        self.thread: threading.Thread | None = None
        self._stopping = False
        self.worker: Any = None
        self.coordinator: Coordinator | None = None
        self._transport: MemoryTransport | None = None
        self.hands = 0
        self._next_prune = 0.0
        self.pace = Pace()
        self._waiters.on_wait = self._awaited
        self._seen = 0
        #: Held by whoever makes a turn; the last of them, and turns so far.
        self.turning = threading.Lock()
        self.turner = self.turns = 0
        #: Has a thread that waits make turns meanwhile.
        self._driver: Driver | None = None
        #: When the engine's thread looks at timers next, by the store's clock.
        self._wakes_at = 0.0
        #: Cancelled runs that the worker, which belongs to who makes a turn, is to drop.
        self._dropped: deque[int] = deque()
        self._revoking = Revoking()
        #: Runs that ended, and whose waiters are still to be woken.
        self._over: deque[int] = deque()
        self._draining = False
        self._recorded = Recorded(self.store)

    # -- starting ------------------------------------------------------------------------

    def start(self, *, work: bool = True) -> None:
        """Start the lane, the pool (unless `work` is False) and the engine's thread.

        A second call does nothing.
        """
        if self.thread is not None and (self.worker is not None or not work):
            return
        with self._lock:
            if self.thread is not None:
                if self.worker is not None or not work:
                    return
                self.close()  # it was started to act on a run only; now there is work
            standard.occupy()
            self.store.make_folder()
            self._lane_lock = LaneLock(self.store, self.owner)
            if work:  # first, for the pool's processes come up while the rest is made
                keep = [self._lane_lock.fd]
                made = make_worker(self.app, answer=self._answer, keep=keep, early=self.early)
                self.worker, self.hands = made
            store = self.open()
            self.lane_id = store.make_lane(
                str(self.app.main or ""), "embedded", self.owner, str(self._lane_lock.path)
            )
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._transport = MemoryTransport()
            self.coordinator = Coordinator(
                store,
                Fence(self.lane_id, self.owner, 1),
                self.updates,
                publish=self._publish,
                slots=lambda queue: self.hands,
                held=self._held,
                on_change=self._changed,
                inline_bytes=int(self.app.conf.inline_payload_bytes),
                store_id=self.owner[:12],
            )
            self.coordinator.dispatcher.clock = self.app.clock.forward
            self.coordinator.start()  # before a submitting thread may have it make a turn
            self._stopping = False
            self._driver = Driver(self) if self.worker is not None else None
            self.thread = threading.Thread(target=self._main, name="flowq-engine", daemon=True)
            atexit.register(self.close, KERNEL_GRACE_SECONDS if notebook() else GRACE_SECONDS)
            self.thread.start()

    @property
    def is_started(self) -> bool:
        """Whether there is a lane of this process's, and a worker for it."""
        return self.thread is not None and self.worker is not None

    def _publish(self, bundle: Bundle) -> None:
        transport, worker = self._transport, self.worker
        assert transport is not None
        if worker is not None:
            worker.permit(bundle.runs)  # a cancelled run may have been retried
            if not transport.waiting and worker.wants():
                with contextlib.suppress(errors.FlowqError):  # the next `collect` says it too
                    worker.offer([self._resolved(bundle)])
                return
        transport.publish(bundle)

    def _held(self) -> set[tuple[int, int, int]] | None:
        """Attempts that the worker has; None while messages wait: those are not lost either."""
        if self._transport is not None and self._transport.waiting:
            return None
        return self.worker.held() if self.worker is not None else set()

    # -- the thread ----------------------------------------------------------------------

    def _main(self) -> None:
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        for handle in self.worker.handles() if self.worker is not None else ():
            poll.register(handle, select.POLLIN)
        try:
            self._loop(poll)
        except BaseException as exc:
            self.fail(exc)

    def _loop(self, poll: Any) -> None:
        next_poll = retry_at = 0.0
        bell = select.poll()
        bell.register(self._bell, select.POLLIN)
        while not self._stopping:
            now = time.monotonic()
            if now >= next_poll:
                next_poll = now + POLL_SECONDS
                self._look_outside()
            if self.turns and now >= self._next_prune:  # not before there was work to do
                self._next_prune = now + retention.prune_some(self.store, self.app.conf)
            if self.pace.flowing or self._stands_by:  # who submits, or waits, makes the turns
                turns = self.turns
                self.wake_waiters()
                bell.poll(BATCH_SECONDS * 1000)
                self._quiet()
                if not self._is_asked and (self.turns != turns or self._stands_by):
                    continue
            rest = min(next_poll - now, self.rest())
            rest = max(0.0, rest, min(retry_at - now, POLL_SECONDS))
            self._wakes_at = self.store.now() + rest
            self.wake_waiters()
            if now < retry_at:  # reports stay where they are, and so readable
                heard = bell.poll(rest * 1000)
            else:
                heard = wait(poll, rest, self.worker)
            if any(fd == self._bell for fd, _ in heard):
                self._quiet()
            try:
                if time.monotonic() >= retry_at:
                    with self.turning, collection_paused():
                        self.turn()
                    self.trouble = None
            except errors.StoreUnavailable as exc:
                now = time.monotonic()
                self.notify(f"{exc} (trying again)")
                retry_at = now + 1.0
                self.trouble = self.trouble or (now, exc)
                if self.store.folder is not None and not self.store.folder.is_dir():
                    raise

    def turn(self) -> None:
        """One turn: collect, advance, publish, feed. For whoever holds `turning`."""
        assert self.coordinator is not None
        assert self._transport is not None
        worker, coordinator = self.worker, self.coordinator
        self.turns += 1
        self.turner = threading.get_ident()
        if worker is not None:
            if self._draining:  # here, for only who makes a turn may touch the worker
                self._draining = False
                worker.drain()
            reports = worker.collect()
            if reports:
                self.route(reports)
        if (
            self.pace.due(len(self.updates), self._load())
            or coordinator.submissions
            or coordinator.inbox_rung
            or self.store.now() >= coordinator.wake_at()
        ):
            coordinator.step()
        if worker is None:
            return
        while self._dropped:
            worker.revoke(self._dropped.popleft())
        while self._bare:
            self.route(self._revoking.sift(self._bare.popleft(), self._transport.publish))
        if not self._revoking.is_idle:
            self.route(self._revoking.tell(worker, self._transport))
        while self._transport.waiting and (room := worker.wants()):
            worker.offer([self._resolved(bundle) for bundle in self._transport.take(room)])

    @property
    def is_awaited(self) -> bool:
        """Whether somebody in this process waits for a run to end."""
        return bool(self._waiters)

    def wake_for_timers(self) -> None:
        """After a turn of another thread: have this engine's wake in time for what it set."""
        if self.coordinator is not None and self.coordinator.wake_at() < self._wakes_at:
            self.ring()

    def _awaited(self) -> None:
        """Somebody waits: turns are this thread's again."""
        if self.pace.flowing:
            self.pace.waits()
            self.ring()
        else:
            self.pace.waits()

    def _load(self) -> float:
        """Nodes handed out for each slot."""
        return self.worker.load / max(1, self.hands) if self.worker is not None else 0.0

    @property
    def _is_asked(self) -> bool:
        """Whether somebody rang for a turn, and none was made since."""
        assert self.coordinator is not None
        asked = self._bare or self._revoking.is_asked or self._draining
        return bool(asked) or self.coordinator.inbox_rung

    @property
    def _stands_by(self) -> bool:
        return self._driver is not None and self._driver.at_work

    @property
    def turner_is_here(self) -> bool:
        """Whether the calling thread is in the middle of a turn."""
        return self.turning.locked() and self.turner == threading.get_ident()

    def drive(self, ended: threading.Event, timeout: float | None) -> None:
        """Make turns in the caller's thread for a moment, or until something has ended."""
        if self._driver is not None and not self._stopping:
            self._driver.drive(ended, timeout)

    def rest(self) -> float:
        """Seconds until a turn is due though nothing is heard from the pool."""
        coordinator = self.coordinator
        assert coordinator is not None
        if self._is_asked or coordinator.submissions:
            return 0.0
        if len(self.updates):
            return BATCH_SECONDS
        wait = coordinator.wake_at() - self.store.now()
        return min(wait, self.worker.timeout()) if self.worker is not None else wait

    def _quiet(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def ring(self) -> None:
        """Wake the engine's thread; from any thread."""
        if self._bell >= 0:
            os.eventfd_write(self._bell, 1)

    def _look_outside(self) -> None:
        """Notice what other processes wrote to the store."""
        changed = self.store.changed() if self.store.database.dialect == "sqlite" else -1
        if changed != self._seen or changed < 0:
            self._seen = changed
            self.coordinator.inbox_rung = True  # type: ignore[union-attr]

    def route(self, reports: list[Report]) -> None:
        """Node reports go to the lane, those of bare tasks to the result store."""
        nodes = []
        for report in reports:
            if report.run:
                nodes.append(report)
            else:
                self.outcomes.bare(self.results, judged(report), self._bare_as_run)
        if nodes:
            self.updates.put(nodes)

    def _resolved(self, bundle: Bundle) -> Bundle:
        """Children have no store: put stored payloads into the message for them."""
        recorded = self._recorded
        for item in bundle.items:
            if item.args[:1] == b"r":
                item.args = recorded.whole(item.args)
            for each in item.inputs:
                if each.frame[:1] in (b"r", b"l"):
                    each.frame = recorded.whole(each.frame)
        return bundle

    def _changed(self, changed: list[int], ended: list[RunView]) -> None:
        for view in ended:
            if view.to_backend:
                self.outcomes.to_backend(self.results, view)
            if view.run_state == "CANCELLED":
                self._dropped.append(view.run_id)
            self.known.ended(view)
            self._over.append(view.run_id)
        for listener in list(self._listeners):
            listener(changed)

    def wake_waiters(self) -> None:
        """Wake who waits for what has ended: last, for they need the interpreter's lock."""
        if not self._over:
            return
        with contextlib.suppress(IndexError):  # several threads may be at it
            while True:
                self._waiters.wake(self._over.popleft())
        if self._driver is not None:
            self._driver.nudge()

    def fail(self, exc: BaseException) -> None:
        """No turn can be made any more: whoever waits is told why."""
        self.failure = exc
        if not isinstance(exc, errors.FlowqError):
            log.exception("the engine stopped")
        while self.coordinator is not None and self.coordinator.submissions:
            self.coordinator.submissions.popleft().fail(exc)
        self._waiters.wake_all()

    # -- submitting ---------------------------------------------------------------------

    def _admit(self, new: NewRun, graph: Graph) -> tuple[int, str]:
        run_id, uid = admitting.admit(self, new, graph)
        self.known.admitted(run_id, uid, graph)
        return run_id, uid

    def _kill(self, place: tuple[int, int], task_id: str, signal: Any) -> None:
        self._revoking.kill(place, signal)
        self.ring()

    def _revoke_bare(self, task_id: str, terminate: bool, signal: Any) -> None:
        self._revoking.ask(task_id, terminate, signal)
        self.ring()

    @property
    def works_here(self) -> bool:
        """Always: nobody else advances this process's lane."""
        return True

    def lane_for(self, parent_run: int | None) -> int:
        """The lane of what a task submits: this process's own."""
        return self.lane_id

    def submitted(self) -> None:
        """Tell the coordinator that its inbox holds something."""
        if self.coordinator is not None:
            self.coordinator.inbox_rung = True
        self.ring()

    def follow_definitions(self, graph: Graph | None = None) -> None:
        """Have the pool know tasks as they are defined now; a cell may have changed them.

        Raises:
            CanvasError: A task of `graph` cannot be sent to the pool's children.
        """
        definitions = getattr(getattr(self.worker, "pool", None), "definitions", None)
        if definitions is not None:
            definitions.follow()
            for spec in graph.specs if graph is not None and definitions.problems else ():
                if spec.task in definitions.problems:
                    raise errors.CanvasError(definitions.problems[spec.task])

    def send_bare(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> str:
        """Send one task the short road: no run, no store; its outcome stays in this process."""
        self.check()
        task_id, bundle = bare.bundle_of(self, name, args, kwargs, options)
        about_to_send = getattr(self.results, "about_to_send", None)
        if about_to_send is not None:  # some task has a backend of its own
            about_to_send(task_id, name)
        self.start()
        self.follow_definitions()
        self._bare.append(bundle)
        self.ring()
        return task_id

    def _bare_as_run(self, report: Report) -> None:
        """A bare task retries or is replaced: it becomes a run of the same id."""
        if self._revoking.covers(report.id):
            self.outcomes.bare(self.results, revoked(report.id), self._bare_as_run)
            return
        new, graph = self.outcomes.as_run(self.app, self.lane_id, report, self.store.now())
        self.store.submit(new, graph)
        self.submitted()

    def _answer(self, what: str, body: bytes, reply: Callable[[bool, bytes], None]) -> None:
        """A task asks for something that only this process may do."""
        from flowq.app.child import answer

        try:
            reply(True, answer(self, what, body, lambda: self))
        except Exception as exc:
            reply(False, str(exc).encode())

    # -- closing -------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no more work; what runs is finished. `close` waits for it."""
        self.hands = 0
        self._draining = True
        self.ring()

    @property
    def drained(self) -> bool:
        """Whether all that ran when `drain` was called has ended and is recorded."""
        worker = self.worker
        if worker is None or self.thread is None:
            return True
        return not self._draining and not worker.busy and not len(self.updates)

    def close(self, grace: float = GRACE_SECONDS) -> None:
        """Finish what runs for at most `grace` seconds and stop. A second call does nothing."""
        if os.getpid() != self._pid:
            return  # a fork's copy, called as it exits: all of it is still the parent's
        with self._lock:
            thread, self.thread = self.thread, None
        if thread is None:
            self.store.close()
            return
        atexit.unregister(self.close)
        self._stopping = True
        self.ring()
        thread.join()
        if self._driver is not None:
            self._driver.close()
        closing.wind_down(self, grace)
        if self._transport is not None:
            self._transport.close()
        os.close(self._bell)
        self._bell = -1
        if self._lane_lock is not None:
            self._lane_lock.release()
        self.store.close()
