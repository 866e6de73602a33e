"""Nodes that Celery's workers execute: sent as Celery's messages, watched by their results.

A Celery worker announces nothing in our store. So what is out is known from the outbox alone, and
how it ended from the result backend: an id whose state is final there ends its attempt. An attempt
that is unheard of is doubted: while a worker says that it knows it, or it waits in its queue, it is
left alone; see `_is_lost` for the rest.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from flowq.app.binding import REPR
from flowq.app.celeryworkers import Answer, CeleryWorkers
from flowq.app.messages import Sender
from flowq.app.taskresults import TaskResults
from flowq.backends import ResultStore, TaskMeta, WatchedResults
from flowq.backends.recorded import Recorded
from flowq.broker.bell import Bell
from flowq.broker.codec import Bundle, Item, Report, ReportKind
from flowq.broker.messages import TaskMessage, iso
from flowq.core.graph import Spec
from flowq.core.ids import node_id
from flowq.errors import (
    BackendUnavailable,
    BrokerError,
    CanvasError,
    EncodeError,
    FlowqError,
    ImproperlyConfigured,
    MessageDecodeError,
)
from flowq.payload import encode_args, encode_error
from flowq.store import Store
from flowq.worker.call import error_arguments, fill

if TYPE_CHECKING:
    from flowq.app.base import Flowq
    from flowq.coordinator.service import CoordinatorService

log = logging.getLogger("flowq.coordinator")

#: All results are looked at that often (seconds); where nobody is told of them, more often.
SWEEP, POLL = 1.0, 0.1
#: What is out is compared with the lanes that often (seconds).
ADOPT = 1.0
#: So many are looked at together; of those that are polled one by one, fewer.
_TOGETHER, _SINGLY = 500, 50
#: Workers are asked about what has been out so long (seconds), and again after as long.
DOUBT = 30.0
#: An attempt that no worker has known so often, with an empty queue, may be lost.
UNKNOWN = 3
#: Seconds that a hard time limit may be late.
GRACE = 60.0
#: A coordinator waits that long (seconds) for the broker to take a message.
_PATIENCE = 1.0
#: So many are asked about at once.
_ASKED = 1_000
_NAMESPACE = UUID("0f0c7c8e-5f0e-4a57-9a62-6c3a5b1f3a7d")
#: With these, sending a node again would go no better: it has failed.
_HOPELESS = (EncodeError, MessageDecodeError, CanvasError, ImproperlyConfigured, KeyError)
_ENDED = {
    "SUCCESS": ReportKind.SUCCESS,
    "FAILURE": ReportKind.FAILURE,
    "REVOKED": ReportKind.FAILURE,
}


class Out:
    """One attempt that is out."""

    __slots__ = (
        "attempt", "doubted", "heard", "holder", "idx", "lane", "limit", "queue", "run", "started",
        "unknown",
    )  # fmt: skip

    def __init__(
        self, lane: int, run: int, idx: int, attempt: int, queue: str, limit: float | None
    ) -> None:
        self.lane, self.run, self.idx, self.attempt = lane, run, idx, attempt
        self.queue, self.limit = queue, limit
        #: When a sign of it was seen last, and when it was asked about last.
        self.heard = self.doubted = time.monotonic()
        #: The worker that had it when it was last heard of.
        self.holder: str | None = None
        self.started = False
        self.unknown = 0

    @property
    def triple(self) -> tuple[int, int, int]:
        """Which attempt of what."""
        return self.run, self.idx, self.attempt

    def report(self, kind: ReportKind, frame: bytes = b"", extra: Any = None) -> Report:
        """A report on it."""
        report = Report(self.run, self.idx, self.attempt, kind, ended=time.time())
        report.frame, report.extra = frame, extra
        return report


class CeleryNodes:
    """Sends nodes to Celery's workers and watches for their results. Driven by a coordinator.

    Args:
        app: Its result backend and broker are the Celery app's.
        store: Holds stored payloads.
        results: The result backend.
        workers: Who is asked about what is out long.
    """

    def __init__(
        self, app: Flowq, store: Store, results: TaskResults, workers: CeleryWorkers
    ) -> None:
        self._sender, self._workers = Sender(app, results, patience=_PATIENCE), workers
        self._results: ResultStore = results.default
        self._pushed = self._results if isinstance(self._results, WatchedResults) else None
        self._recorded = Recorded(store)
        self._accept = tuple(app.conf.accept_content)
        self._patience = float(app.conf.celery_lost_after)
        self._service: CoordinatorService | None = None
        self._out: dict[str, Out] = {}
        self._bell, self._lock = Bell(), threading.Lock()
        #: Ids whose state may have changed; filled by the backend's thread.
        self._news: set[str] = set()
        self._unseen: list[str] = []
        self._next_look = self._next_adopt = 0.0
        #: When each worker answered last.
        self._answered: dict[str, float] = {}

    def attach(self, service: CoordinatorService) -> None:
        """Say whose nodes these are."""
        self._service = service

    # -- sending -------------------------------------------------------------------------

    def publish(self, bundle: Bundle) -> Bundle | None:
        """Send what is for Celery's workers; gives the rest of the bundle, None if there is none.

        Raises:
            BrokerError: A message was not accepted; all of it may be published again.
        """
        rest, reply_to = [], self._reply_to()
        for item in bundle.items:
            spec = bundle.specs[item.spec]
            if not spec.foreign:
                rest.append(item)
                continue
            triple = item.run, item.idx, item.attempt
            out = Out(bundle.lane, *triple, bundle.queue, spec.time_limit)
            task_id = attempt_id(bundle.runs[item.run], item.idx, item.attempt)
            try:
                message = self._message(task_id, bundle, item, spec, reply_to)
                options = {"compression": spec.compression} if spec.compression else None
                self._results.expect(task_id)
                self._sender.publish(message, bundle.queue, options)
            except _HOPELESS as exc:
                frame = encode_error(exc, node_id=task_id, task=spec.task)
                self._put(out.lane, out.report(ReportKind.FAILURE, frame))
                continue
            self._hold(task_id, out)
        return msgspec.structs.replace(bundle, items=rest) if rest else None

    def _reply_to(self) -> str | None:
        try:
            return self._results.reply_to
        except BackendUnavailable as exc:
            raise BrokerError(str(exc)) from exc

    def _message(
        self, task_id: str, bundle: Bundle, item: Item, spec: Spec, reply_to: str | None
    ) -> TaskMessage:
        whole = self._recorded.whole
        item.args = whole(item.args)
        for given in item.inputs:
            given.frame = whole(given.frame)
        call = fill(item, self._accept)
        args = call.args if call.failed is None else error_arguments(call, False, None)
        run = UUID(bytes=bundle.runs[item.run])
        own = json.loads(spec.headers) if spec.headers else {}
        return TaskMessage(
            task=spec.task,
            id=task_id,
            frame=encode_args(args, call.kwargs, spec.serializer),
            root_id=str(run),
            parent_id=node_id(run, item.inputs[0].parent) if item.inputs else None,
            group=node_id(run, item.group) if item.group >= 0 else None,
            group_index=item.group_index if item.group_index >= 0 else None,
            retries=item.retries,
            expires=iso(datetime.fromtimestamp(item.expires_at, UTC)) if item.expires_at else None,
            timelimit=(spec.time_limit, spec.soft_time_limit),
            argsrepr=spec.argsrepr or repr(args)[:REPR],
            kwargsrepr=spec.kwargsrepr or repr(call.kwargs)[:REPR],
            ignore_result=False,
            stamps=dict(own.pop("stamps", None) or {}),
            stamped_headers=own.pop("stamped_headers", None),
            headers=own,
            reply_to=reply_to,
            priority=item.priority or None,
        )

    def _hold(self, task_id: str, out: Out) -> None:
        if not self._out:
            self._next_look = time.monotonic() + (SWEEP if self._pushed else POLL)
        self._out[task_id] = out
        if self._service is not None:
            self._service.fleet.elsewhere.add(out.triple)
            self._service.fleet.foreign.add(out.queue)
        if self._pushed is not None:
            self._pushed.watch(task_id, self._heard)

    def _let_go(self, task_id: str) -> Out:
        out = self._out.pop(task_id)
        if self._service is not None:
            self._service.fleet.elsewhere.discard(out.triple)
        if self._pushed is not None:
            self._pushed.unwatch(task_id)
        return out

    # -- as the coordinator drives it ------------------------------------------------------

    def handles(self) -> list[int]:
        """Descriptors that become readable when a result has come."""
        return [self._bell.fileno()]

    def timeout(self) -> float:
        """Seconds until `turn` has something to do."""
        due = min(self._next_look, self._next_adopt) if self._out else self._next_adopt
        return max(0.0, due - time.monotonic())

    def turn(self) -> None:
        """Look at what has ended, at what a former owner had sent, and at what may be lost."""
        now = time.monotonic()
        self._bell.still()
        if now >= self._next_adopt:
            self._next_adopt = now + ADOPT
            self._adopt()
            self._doubt(now)
        with self._lock:
            news, self._news = self._news, set()
        try:
            if news:
                self._look(task_id for task_id in news if task_id in self._out)
            if self._out and now >= self._next_look:
                self._next_look = now + (SWEEP if self._pushed else POLL)
                self._sweep()
        except FlowqError as exc:
            log.warning("results of Celery's workers cannot be read: %s", exc)
            self._next_look = time.monotonic() + SWEEP

    def close(self) -> None:
        """Close connections. A second call does nothing."""
        for task_id in list(self._out):
            self._let_go(task_id)
        self._sender.close()
        self._workers.close()
        self._bell.close()

    def _heard(self, task_id: str) -> None:
        """Called in the backend's thread."""
        with self._lock:
            self._news.add(task_id)
            if self._bell.fileno() >= 0:
                self._bell.ring()

    def _sweep(self) -> None:
        """Look at all that are out; of those that are asked for one by one, the next few."""
        if self._pushed is not None:
            self._look(list(self._out))
            return
        if not self._unseen:
            self._unseen = list(self._out)
        few, self._unseen = self._unseen[:_SINGLY], self._unseen[_SINGLY:]
        self._look(task_id for task_id in few if task_id in self._out)

    def _look(self, ids: Iterable[str]) -> None:
        wanted = list(ids)
        for start in range(0, len(wanted), _TOGETHER):
            metas = load_many(self._results, wanted[start : start + _TOGETHER])
            for task_id, meta in metas.items():
                self._found(task_id, self._out[task_id], meta)

    def _found(self, task_id: str, out: Out, meta: TaskMeta) -> None:
        kind = _ENDED.get(meta.state)
        if kind is not None:
            self._tell(task_id, out.report(kind, meta.frame or b"jnull"))
        elif meta.state == "STARTED" and not out.started:
            out.started, out.heard = True, time.monotonic()
            out.holder = _hostname(meta)
            self._put(out.lane, out.report(ReportKind.STARTED))

    def _tell(self, task_id: str, report: Report) -> None:
        self._put(self._let_go(task_id).lane, report)

    def _put(self, lane: int, report: Report) -> None:
        if self._service is not None and lane in self._service.lanes:
            self._service.lanes[lane].own.put([report])

    def _adopt(self) -> None:
        """Bring what is out into line with the lanes: a former owner's too, and no cancelled."""
        if self._service is None:
            return
        seen, lanes = set(), self._service.lanes
        for lane_id, lane in lanes.items():
            for triple, queue, uid, limit in lane.foreign_out():
                task_id = attempt_id(uid, triple[1], triple[2])
                seen.add(task_id)
                if task_id not in self._out:
                    self._results.expect(task_id)
                    self._hold(task_id, Out(lane_id, *triple, queue, limit))
        gone = {each: self._let_go(each) for each in list(self._out) if each not in seen}
        # Of a lane that is still ours it was cancelled; of another, its new owner watches it.
        self._workers.revoke(task_id for task_id, out in gone.items() if out.lane in lanes)

    # -- doubting ----------------------------------------------------------------------------

    def _doubt(self, now: float) -> None:
        """Ask the workers for what has been out long, and give up what is lost."""
        answer = self._workers.answer()
        if answer is not None:
            self._judge(answer, now)
        old = [task_id for task_id, out in self._out.items() if now - out.doubted > DOUBT]
        names_only = bool(self._out) and not self._answered
        if (old or names_only) and self._workers.ask(
            old[:_ASKED] or list(self._out)[:1], (self._out[each].queue for each in old[:_ASKED])
        ):
            for task_id in old[:_ASKED]:
                self._out[task_id].doubted = now

    def _judge(self, answer: Answer, now: float) -> None:
        self._answered.update(dict.fromkeys(answer.known, now))
        silent = {
            name
            for name, last in self._answered.items()
            if name not in answer.known and now - last < self._patience
        }
        for task_id in answer.asked:
            out = self._out.get(task_id)
            if out is not None and self._is_lost(task_id, out, answer, silent, now):
                log.warning("no worker knows task %s any more; it counts as lost", task_id)
                self._workers.revoke([task_id])
                self._tell(task_id, out.report(ReportKind.LOST, extra="no worker knows it"))

    def _is_lost(
        self, task_id: str, out: Out, answer: Answer, silent: set[str], now: float
    ) -> bool:
        """Whether an attempt may be sent again.

        Never while a worker knows it or its queue is not empty, three times in a row. If the worker
        that had it answers and does not know it, that is all. A worker that is silent may be busy
        or gone: then the hard time limit has to have passed, or `celery_lost_after` if there is
        none. So it is with one that was never heard of while any worker is silent.
        """
        holder = answer.holder(task_id)
        if holder is not None:
            out.holder, out.heard, out.unknown = holder, now, 0
            return False
        if answer.waiting.get(out.queue, 1):
            out.unknown = 0
            return False
        out.unknown += 1
        if out.unknown < UNKNOWN:
            return False
        if out.holder in answer.known or (out.holder is None and not silent):
            return True
        limit = self._patience if out.limit is None else out.limit + GRACE
        return now - out.heard > limit


def _hostname(meta: TaskMeta) -> str | None:
    """Name of the worker that a STARTED record tells of."""
    if not meta.meta:
        return None
    told = json.loads(meta.meta).get("meta")
    name = told.get("hostname") if isinstance(told, dict) else None
    return name if isinstance(name, str) else None


def attempt_id(uid: bytes, idx: int, attempt: int) -> str:
    """Id of an attempt in Celery's messages: the node's own for the first one."""
    own = node_id(UUID(bytes=uid), idx)
    return own if attempt == 1 else str(uuid.uuid5(_NAMESPACE, f"{own} {attempt}"))


def id_at_celery(store: Store, run_id: int, idx: int) -> str:
    """Id by which Celery's workers know a node's latest attempt."""
    row = store.one(store.sql.node_one, (run_id, idx))
    uid = UUID(store.run_by_id(run_id).uid).bytes
    return attempt_id(uid, idx, int(row[3]) if row else 1)


def load_many(results: ResultStore, ids: list[str]) -> dict[str, TaskMeta]:
    """States of many tasks, those that have any; one that cannot be read is a failure."""
    if isinstance(results, WatchedResults):
        try:
            return results.load_many(ids)
        except MessageDecodeError:
            log.debug("a record among %d cannot be read; looking at each", len(ids))
    found = {}
    for task_id in ids:
        try:
            meta = results.load(task_id)
        except MessageDecodeError as exc:
            meta = TaskMeta("FAILURE", encode_error(exc, node_id=task_id))
        if meta is not None:
            found[task_id] = meta
    return found
