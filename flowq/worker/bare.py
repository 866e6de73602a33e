"""Bare tasks on a worker: Celery's messages taken, run as items, their outcomes recorded.

A message is acknowledged when its body begins, or with `acks_late` when it has ended, as Celery
does it. What its message asks for besides (callbacks, errbacks, the rest of a chain, a chord that
is counted in Redis) is done when it has ended. What must wait longer than a moment becomes a run of
one node where there is a coordinator, for a worker's memory is no place to wait.
"""

from __future__ import annotations

import heapq
import itertools
import json
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

from flowq.backends import ResultRequest, ResultStore, TaskMeta
from flowq.backends.outcomes import meta_of
from flowq.broker.codec import ON_THE_WAY, VERSION, Bundle, Item, Report, ReportKind
from flowq.broker.delivery import Delivery
from flowq.broker.messages import TaskMessage
from flowq.core.graph import Spec
from flowq.errors import CanvasError, EncodeError, FlowqError, MessageDecodeError, NotRegistered
from flowq.payload import encode_error
from flowq.worker.baretask import Conversion, Durable, Held, Policy, Sending
from flowq.worker.embeds import Following, FollowUp, failed, has_embeds, replaced, succeeded
from flowq.worker.shown import chosen

log = logging.getLogger("flowq.worker")

#: A wait up to that (seconds) may be in memory; a longer one is a run's where that is possible.
SHORT_WAIT: Final = 1.0
#: What the backend did not take is tried again that often (seconds), so many outcomes at most.
AGAIN_EVERY: Final = 1.0
UNSTORED: Final = 10_000
#: Header that counts how often a child died of a task that was given back each time.
CRASHES: Final = "flowq-crashes"
_REVOKED: Final = 50_000


class BareTasks:
    """Takes deliveries and reports of tasks that are no nodes; for one thread.

    Args:
        offer: Takes bundles for the pool.
        convert: Reads messages.
        results: Where outcomes go.
        sending: Publishes what follows.
        durable: Makes runs; None where there is no store.
        max_crashes: A task that is given back when its child dies is given up after so many.
        hostname: What results say of the worker.
    """

    def __init__(
        self,
        offer: Callable[[Iterable[Bundle]], None],
        convert: Conversion,
        results: ResultStore,
        sending: Sending,
        *,
        durable: Durable | None = None,
        max_crashes: int = 5,
        hostname: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._offer, self._convert, self._results = offer, convert, results
        self._sending, self._durable, self._clock = sending, durable, clock
        #: Sends and counts what messages ask for besides.
        self.following: Following | None = None
        #: Tasks that ended, whose sequel could not be sent or counted yet.
        self._unfinished: deque[Report] = deque()
        self._max_crashes, self._hostname = max_crashes, hostname
        self.tasks: dict[str, Held] = {}
        self._scheduled: list[tuple[float, int, Held]] = []
        self._numbers = itertools.count()
        self._revoked: OrderedDict[str, None] = OrderedDict()
        #: Tasks whose process is being ended on request.
        self._terminated: set[str] = set()
        self._unstored: deque[tuple[str, TaskMeta, ResultRequest]] = deque(maxlen=UNSTORED)
        self._next_try = 0.0
        #: Told of each task's course: (event, held, report); for events of Flower and the like.
        self.listener: Callable[[str, Held, Report | None], None] = lambda event, held, report: None

    # -- taking --------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """How many tasks are here, those that wait for their time not counted."""
        return len(self.tasks) - len(self._scheduled) - len(self._unfinished)

    def scheduled(self) -> list[tuple[float, Held]]:
        """Tasks that wait for their time, and until when (epoch seconds)."""
        return [(due, held) for due, _, held in sorted(self._scheduled)]

    def take(self, delivery: Delivery) -> Held | None:
        """Take one message; what cannot be run is refused, with a line in the log, and is None."""
        try:
            message = self._convert.decode(delivery)
        except MessageDecodeError as exc:
            log.error(
                "a message%s in queue %s is dropped: %s", _named(delivery), delivery.queue, exc
            )
            delivery.reject()
            return None
        known = self.tasks.get(message.id)
        if known is not None:
            known.deliveries.append(delivery)
            if known.acked:
                delivery.ack()
            return None
        try:
            spec, item = self._convert.item(message, delivery)
        except FlowqError as exc:
            self._refuse(message, delivery, exc)
            return None
        held = Held(message, spec, item, self._convert.policy(message.task), delivery)
        self.tasks[message.id] = held
        self.listener("received", held, None)
        due = message.due
        if message.id in self._revoked:
            self._end(held, _report(held, ReportKind.REVOKED))
        elif due is not None and due > self._clock():
            self._wait(held, due - self._clock(), None)
        else:
            self._run(held)
        return held

    def _refuse(self, message: TaskMessage, delivery: Delivery, exc: FlowqError) -> None:
        """A task that cannot be run here fails, and with it what waits for it."""
        what = "is not registered here" if isinstance(exc, NotRegistered) else "cannot be run"
        log.error("task %s[%s] %s: %s", message.task, message.id, what, exc)
        spec = Spec(message.task, delivery.queue, ignore_result=bool(message.ignore_result))
        held = Held(message, spec, Item(0, 0, 1, 0, 0, b"", [], id=message.id), Policy(), delivery)
        held.refused = True
        self.tasks[message.id] = held
        frame = encode_error(exc, node_id=message.id, task=message.task)
        self._end(held, _report(held, ReportKind.FAILURE, frame))

    def _run(self, held: Held) -> None:
        item = held.item
        bundle = Bundle(VERSION, "", 0, 0, 0, held.queue, {}, [held.spec], [item])
        self._offer([bundle])

    def begun(self, task_id: str) -> None:
        """A task's body is about to begin: unless it says otherwise, it is acknowledged now."""
        held = self.tasks.get(task_id)
        if held is not None and not held.policy.acks_late:
            held.ack()

    # -- waiting -------------------------------------------------------------------------

    def _wait(self, held: Held, delay: float, report: Report | None) -> None:
        """Have a task run later: as a run if it is worth it, else in its queue, or in memory.

        Args:
            held: The task.
            delay: Seconds.
            report: That it asked to be run again; None for one that came before its time.
        """
        if delay > SHORT_WAIT and self._becomes_run(held, delay, report):
            return
        if delay > SHORT_WAIT and report is not None and held.deliveries:
            eta = datetime.fromtimestamp(self._clock() + delay, UTC)
            held.message.retries = held.item.retries - 1
            hidden, message = chosen(held.message), held.message.retried(eta, report.args)
            message.argsrepr = hidden[0] or message.argsrepr
            message.kwargsrepr = hidden[1] or message.kwargsrepr
            held.message = message
            self._send_back(held)
            return
        heapq.heappush(self._scheduled, (self._clock() + delay, next(self._numbers), held))

    def _durable_for(self, message: TaskMessage) -> Durable | None:
        """What makes a run of a task; None where something follows it or awaits its reply."""
        durable = self._durable
        if durable is None or not durable.is_ready or has_embeds(message) or message.reply_to:
            return None
        return durable

    def _becomes_run(self, held: Held, delay: float, report: Report | None) -> bool:
        """Make a task a run where that is possible; whether it is one now."""
        durable = self._durable_for(held.message)
        if durable is None:
            return False
        try:
            durable.wait(held, delay, report)
        except FlowqError as exc:
            log.warning("task %s does not become a run: %s", held.message.id, exc)
            return False
        self._forget(held)
        held.ack()
        return True

    def timeout(self) -> float:
        """Seconds until `keep_up` has something to do."""
        due = self._scheduled[0][0] - self._clock() if self._scheduled else 3600.0
        if self._unstored or self._unfinished:
            due = min(due, self._next_try - time.monotonic())
        return max(0.0, due)

    def keep_up(self, now: float) -> None:
        """Run what is due, and store again what the backend did not take."""
        while self._scheduled and self._scheduled[0][0] <= self._clock():
            self._run(heapq.heappop(self._scheduled)[2])
        if self._unfinished and now >= self._next_try:
            unfinished, self._unfinished = self._unfinished, deque()
            for report in unfinished:
                self.report(report)
        if self._unstored and now >= self._next_try:
            waiting, self._unstored = self._unstored, deque(maxlen=UNSTORED)
            for task_id, meta, request in waiting:
                self._store(task_id, meta, request)

    # -- outcomes ------------------------------------------------------------------------

    def report(self, report: Report) -> None:
        """Take what the pool says of a task."""
        held = self.tasks.get(report.id)
        if held is None:
            return
        if report.kind == ReportKind.LOST and report.id in self._terminated:
            report.kind, report.extra = ReportKind.REVOKED, "terminated"
        if report.kind in ON_THE_WAY:
            self._on_the_way(held, report)
        elif report.kind == ReportKind.RETRY:
            self._retry(held, report)
        elif report.kind == ReportKind.RETURNED:
            self._give_back(held, report)
        elif report.kind == ReportKind.EXTEND:
            self._replace(held, report)
        elif report.kind == ReportKind.LOST and self._try_again(held):
            return
        else:
            self._end(held, report)

    def _on_the_way(self, held: Held, report: Report) -> None:
        if report.kind == ReportKind.STARTED:
            self.listener("started", held, report)
            if not held.spec.track_started:
                return
        meta = meta_of(report)
        if meta is not None:
            self._store(report.id, meta, self._request(held.message, held.queue))

    def _end(self, held: Held, report: Report) -> None:
        """Send what follows a task, record how it ended, acknowledge: in this order.

        Whoever sees the outcome may rely on what follows having been sent. What cannot be sent or
        counted now is tried again, and the task stays here until it is done.
        """
        meta = meta_of(report)
        assert meta is not None
        meta.name = held.message.task
        try:
            found = self._begin(held, meta)
            self._record(held, meta, report.args)
            if found is not None and self.following is not None:
                self.following.finish(found)
        except FlowqError as exc:
            self._later(report, exc)
            return
        self._forget(held)
        self.listener(_EVENTS.get(meta.state, "failed"), held, report)
        failed = meta.state == "FAILURE"
        if failed and held.policy.acks_late and not held.policy.acks_on_failure:
            held.reject(requeue=False)
        held.ack()

    def _begin(self, held: Held, meta: TaskMeta) -> FollowUp | None:
        """Send what follows; a success whose sequel is not sound becomes a failure."""
        following = self.following
        if following is None or not has_embeds(held.message):
            return None
        if meta.state == "SUCCESS":
            try:
                found = succeeded(held.message, meta.frame, following.rules)
                following.begin(found)
            except (CanvasError, MessageDecodeError, EncodeError) as exc:
                meta.state = "FAILURE"
                meta.frame = encode_error(exc, node_id=held.item.id, task=held.message.task)
            else:
                return found
        if meta.state not in ("FAILURE", "REVOKED"):
            return None
        found = failed(held.message, meta.frame, following.rules, state=meta.state)
        following.begin(found)
        return found

    def _record(self, held: Held, meta: TaskMeta, children: bytes) -> None:
        failed = meta.state == "FAILURE"
        if held.deliveries and (
            not held.spec.ignore_result or (failed and held.policy.store_errors)
        ):
            request = self._request(held.message, held.queue)
            if children:
                request.children = json.loads(children)
            self._store(held.item.id, meta, request)

    def call(self, message: TaskMessage, spec: Spec, item: Item) -> None:
        """Run something in a task's stead that came in no message of its own: an errback."""
        held = Held(message, spec, item, Policy())
        self.tasks[item.id] = held
        self._run(held)

    def _retry(self, held: Held, report: Report) -> None:
        """A task asked to be run again: the same id, one more retry."""
        meta = meta_of(report)
        assert meta is not None
        self._store(report.id, meta, self._request(held.message, held.queue))
        self.listener("retried", held, report)
        delay = float(report.extra) if isinstance(report.extra, int | float) else 0.0
        held.item.retries += 1
        held.message.retries = held.item.retries
        if report.args:
            held.item.args = report.args
        if report.id in self._revoked:  # while it ran
            self._end(held, _report(held, ReportKind.REVOKED))
        else:
            self._wait(held, delay, report)

    def _replace(self, held: Held, report: Report) -> None:
        """Put a canvas in a task's place: as a run, or as messages where something follows it."""
        try:
            durable = self._durable_for(held.message) if report.frame else None
            if durable is not None:
                durable.replace(held, report)
            else:
                self._send_replacement(held, report)
        except (CanvasError, MessageDecodeError, EncodeError) as exc:
            frame = encode_error(exc, node_id=report.id, task=held.message.task)
            self._end(held, _report(held, ReportKind.FAILURE, frame))
            return
        except FlowqError as exc:
            self._later(report, exc)
            return
        self._forget(held)
        held.ack()

    def _send_replacement(self, held: Held, report: Report) -> None:
        if self.following is None or not report.args:
            what = report.extra or "a worker that sends messages, or one with a coordinator"
            raise CanvasError(f"{held.message.task} was replaced, which needs {what}")
        canvas = json.loads(report.args)
        self.following.begin(replaced(held.message, canvas, self.following.rules))

    def _later(self, report: Report, exc: FlowqError) -> None:
        """Keep a report whose consequences could not be recorded or sent, for another try."""
        log.warning("what follows task %s is tried again: %s", report.id, exc)
        self._unfinished.append(report)
        self._next_try = time.monotonic() + AGAIN_EVERY

    def _try_again(self, held: Held) -> bool:
        """Whether a task whose child died goes back to its queue, counted."""
        policy = held.policy
        if not (policy.acks_late and policy.reject_on_worker_lost) or held.acked:
            return False
        headers = held.message.headers
        crashes = int(headers.get(CRASHES) or 0) + 1
        if crashes >= self._max_crashes:
            return False
        headers[CRASHES] = crashes
        log.warning("the process of task %s died; it goes back to its queue", held.item.id)
        return self._send_back(held)

    def _give_back(self, held: Held, report: Report) -> None:
        """A task that was not begun, or asked for it, goes back to its queue."""
        if held.acked:
            self._send_back(held)
            return
        self._forget(held)
        held.reject(requeue=True)

    def _send_back(self, held: Held) -> bool:
        """Publish a task anew, then settle the message it came with."""
        try:
            self._sending.publish(held.message, held.queue)
        except FlowqError as exc:
            log.error("task %s was not given back to queue %s: %s", held.item.id, held.queue, exc)
            held.reject(requeue=True)
            self._forget(held)
            return True
        self._forget(held)
        held.ack()
        return True

    # -- being told ----------------------------------------------------------------------

    def revoke(self, task_ids: Iterable[str]) -> None:
        """Take no such task from now on; what waits for its time ends as REVOKED."""
        ids = set(task_ids)
        for task_id in ids:
            self._revoked[task_id] = None
        while len(self._revoked) > _REVOKED:
            self._revoked.popitem(last=False)
        for entry in [entry for entry in self._scheduled if entry[2].item.id in ids]:
            self._scheduled.remove(entry)
            heapq.heapify(self._scheduled)
            self._end(entry[2], _report(entry[2], ReportKind.REVOKED))

    def terminate(self, task_id: str) -> None:
        """Say that a task's process is about to be ended on request: it ends as REVOKED."""
        self._terminated.add(task_id)

    def revoked(self) -> list[str]:
        """Ids that were revoked, the latest last."""
        return list(self._revoked)

    def drain(self) -> None:
        """Give back what waits for its time: another worker may have it."""
        for _, _, held in self._scheduled:
            self._give_back(held, _report(held, ReportKind.RETURNED))
        self._scheduled.clear()

    def close(self) -> None:
        """Try once more to store what the backend did not take."""
        self.keep_up(float("inf"))
        for task_id, meta, _ in self._unstored:
            log.error("the outcome of task %s, %s, could not be stored", task_id, meta.state)

    # -- parts ---------------------------------------------------------------------------

    def _forget(self, held: Held) -> None:
        self.tasks.pop(held.item.id, None)
        self._terminated.discard(held.item.id)

    def _request(self, message: TaskMessage, queue: str) -> ResultRequest:
        return ResultRequest(
            reply_to=message.reply_to or "",
            correlation_id=message.correlation_id or message.id,
            name=message.task,
            args=message.argsrepr,
            kwargs=message.kwargsrepr,
            retries=message.retries or 0,
            queue=queue,
            worker=self._hostname,
            group_id=message.group or "",
            parent_id=message.parent_id or "",
        )

    def _store(self, task_id: str, meta: TaskMeta, request: ResultRequest) -> None:
        try:
            self._results.store(task_id, meta, request=request)
        except FlowqError as exc:
            if not self._unstored:
                log.warning("outcomes wait until the result backend is back: %s", exc)
            self._unstored.append((task_id, meta, request))
            self._next_try = time.monotonic() + AGAIN_EVERY


_EVENTS: Final = {"SUCCESS": "succeeded", "FAILURE": "failed", "REVOKED": "revoked"}


def _named(delivery: Delivery) -> str:
    """Task and id of a message that cannot be read, as far as its headers say; for a log."""
    found = [(key, delivery.headers.get(key)) for key in ("task", "id")]
    said = [f"{key} {value[:100]!r}" for key, value in found if value and isinstance(value, str)]
    return f" ({', '.join(said)})" if said else ""


def _report(held: Held, kind: ReportKind, frame: bytes = b"") -> Report:
    return Report(0, 0, 1, kind, 0.0, time.time(), frame, id=held.item.id)
