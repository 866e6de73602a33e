"""Nodes that Celery's workers execute: sent as Celery's messages, watched by their results.

A Celery worker announces nothing in our store. So what is out is known from the outbox alone, and
how it ended from the result backend: an id whose state is final there ends its attempt. An attempt
that no worker knows any more, that waits in no queue and has left no result, was lost with its
worker, which had acknowledged it; it counts as a crash (ENGINE.md, decision 25).
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from flowq.app.messages import Sender
from flowq.app.taskresults import TaskResults
from flowq.backends import ResultStore, TaskMeta
from flowq.backends.recorded import Recorded
from flowq.broker.codec import Bundle, Item, Report, ReportKind
from flowq.broker.messages import TaskMessage
from flowq.core.graph import Spec
from flowq.core.ids import node_id
from flowq.errors import FlowqError
from flowq.payload import encode_args, encode_error
from flowq.store import Store
from flowq.worker.call import error_arguments, fill

if TYPE_CHECKING:
    from flowq.app.base import Flowq
    from flowq.coordinator.service import CoordinatorService

log = logging.getLogger("flowq.coordinator")

#: Results are looked at that often (seconds) while something is out, and the outbox while not.
LOOK, ADOPT = 0.005, 1.0
#: Workers are asked for what has been out so long (seconds), and again after as long.
DOUBT = 30.0
#: An attempt that no worker has known so often, with an empty queue, is lost.
UNKNOWN = 3
_NAMESPACE = UUID("0f0c7c8e-5f0e-4a57-9a62-6c3a5b1f3a7d")
_ENDED = {
    "SUCCESS": ReportKind.SUCCESS,
    "FAILURE": ReportKind.FAILURE,
    "REVOKED": ReportKind.FAILURE,
}


class Out:
    """One attempt that is out."""

    __slots__ = ("attempt", "idx", "lane", "queue", "run", "since", "started", "unknown")

    def __init__(self, lane: int, run: int, idx: int, attempt: int, queue: str) -> None:
        self.lane, self.run, self.idx, self.attempt = lane, run, idx, attempt
        self.queue = queue
        self.since = time.monotonic()
        self.started = False
        self.unknown = 0

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
        known: Asks the workers which of some ids they know; None if nobody answered.
        depth: How many messages wait in a queue; None if it is not known. Both may take their time,
            and are called in a thread of their own.
    """

    def __init__(
        self,
        app: Flowq,
        store: Store,
        results: TaskResults,
        *,
        known: Callable[[list[str]], set[str] | None],
        depth: Callable[[str], int | None],
    ) -> None:
        self._sender = Sender(app, results)
        self._results: ResultStore = results.default
        self._recorded = Recorded(store)
        self._accept = tuple(app.conf.accept_content)
        self._known, self._depth = known, depth
        self._service: CoordinatorService | None = None
        self._out: dict[str, Out] = {}
        self._next_look = self._next_adopt = 0.0
        self._doubting: threading.Thread | None = None
        #: What the workers said they know, and how much waited where meanwhile; None: no answer.
        self._found: tuple[set[str], dict[str, int | None]] | None = None
        self._asked: list[str] = []

    def attach(self, service: CoordinatorService) -> None:
        """Say whose nodes these are."""
        self._service = service

    # -- sending -------------------------------------------------------------------------

    def publish(self, bundle: Bundle) -> Bundle | None:
        """Send what is for Celery's workers; gives the rest of the bundle, None if there is none.

        Raises:
            BrokerError: A message was not accepted; all of it may be published again.
        """
        rest = []
        for item in bundle.items:
            spec = bundle.specs[item.spec]
            if not spec.foreign:
                rest.append(item)
                continue
            out = Out(bundle.lane, item.run, item.idx, item.attempt, bundle.queue)
            task_id = attempt_id(bundle.runs[item.run], item.idx, item.attempt)
            self._hold(task_id, out)
            try:
                message = self._message(task_id, bundle, item, spec)
            except FlowqError as exc:  # arguments that cannot be put together: the node's failure
                self._tell(
                    task_id,
                    out.report(
                        ReportKind.FAILURE, encode_error(exc, node_id=task_id, task=spec.task)
                    ),
                )
                continue
            self._results.expect(task_id)
            self._sender.publish(message, bundle.queue)
        return msgspec.structs.replace(bundle, items=rest) if rest else None

    def _message(self, task_id: str, bundle: Bundle, item: Item, spec: Spec) -> TaskMessage:
        whole = self._recorded.whole
        item.args = whole(item.args)
        for given in item.inputs:
            given.frame = whole(given.frame)
        call = fill(item, self._accept)
        args = call.args if call.failed is None else error_arguments(call, False, None)
        frame = encode_args(args, call.kwargs, spec.serializer)
        run = str(UUID(bytes=bundle.runs[item.run]))
        return TaskMessage(
            task=spec.task,
            id=task_id,
            frame=frame,
            root_id=run,
            retries=item.retries,
            timelimit=(spec.time_limit, spec.soft_time_limit),
            argsrepr=repr(args)[:1024],
            kwargsrepr=repr(call.kwargs)[:1024],
            ignore_result=False,
            reply_to=self._results.reply_to,
            priority=item.priority or None,
        )

    def _hold(self, task_id: str, out: Out) -> None:
        self._out[task_id] = out
        if self._service is not None:
            self._service.fleet.elsewhere.add((out.run, out.idx, out.attempt))
            self._service.fleet.foreign.add(out.queue)

    # -- as the coordinator drives it ------------------------------------------------------

    def timeout(self) -> float:
        """Seconds until `turn` has something to do."""
        due = self._next_look if self._out else self._next_adopt
        return max(0.0, due - time.monotonic())

    def turn(self) -> None:
        """Look at what has ended, at what a former owner had sent, and at what may be lost."""
        now = time.monotonic()
        if now >= self._next_adopt:
            self._next_adopt = now + ADOPT
            self._adopt()
            self._doubt(now)
        if self._out and now >= self._next_look:
            self._next_look = now + LOOK
            self._look()

    def close(self) -> None:
        """Close connections. A second call does nothing."""
        self._sender.close()

    def _look(self) -> None:
        try:
            metas = load_many(self._results, list(self._out))
        except FlowqError as exc:
            log.warning("results of Celery's workers cannot be read: %s", exc)
            self._next_look = time.monotonic() + ADOPT
            return
        for task_id, meta in metas.items():
            out = self._out.get(task_id)
            if out is None:
                continue
            kind = _ENDED.get(meta.state)
            if kind is not None:
                self._tell(task_id, out.report(kind, meta.frame or b"jnull"))
            elif meta.state == "STARTED" and not out.started:
                out.started = True
                self._put(out.lane, out.report(ReportKind.STARTED))

    def _tell(self, task_id: str, report: Report) -> None:
        out = self._out.pop(task_id)
        if self._service is not None:
            self._service.fleet.elsewhere.discard((out.run, out.idx, out.attempt))
        self._put(out.lane, report)

    def _put(self, lane: int, report: Report) -> None:
        if self._service is not None and lane in self._service.lanes:
            self._service.lanes[lane].own.put([report])

    def _adopt(self) -> None:
        """Bring what is out into line with the lanes: a former owner's too, and no cancelled."""
        if self._service is None:
            return
        seen = set()
        for lane_id, lane in self._service.lanes.items():
            for triple, queue, uid in lane.foreign_out():
                task_id = attempt_id(uid, triple[1], triple[2])
                seen.add(task_id)
                if task_id not in self._out:
                    self._hold(task_id, Out(lane_id, *triple, queue))
                    self._results.expect(task_id)
        for task_id in [each for each in self._out if each not in seen]:
            out = self._out.pop(task_id)
            self._service.fleet.elsewhere.discard((out.run, out.idx, out.attempt))

    # -- doubting ----------------------------------------------------------------------------

    def _doubt(self, now: float) -> None:
        """Ask the workers for what has been out long, and give up what none of them knows."""
        if self._doubting is not None and self._doubting.is_alive():
            return
        if self._doubting is not None:
            self._judge(now)
        old = [task_id for task_id, out in self._out.items() if now - out.since > DOUBT]
        if old:
            self._asked = old
            queues = {self._out[task_id].queue for task_id in old}
            self._doubting = threading.Thread(
                target=self._ask, args=(old, queues), name="flowq-doubt", daemon=True
            )
            self._doubting.start()

    def _ask(self, ids: list[str], queues: set[str]) -> None:
        try:
            known = self._known(ids)
            waiting = {queue: self._depth(queue) for queue in queues}
        except FlowqError as exc:
            log.warning("Celery's workers cannot be asked: %s", exc)
            known = None
        self._found = None if known is None else (known, waiting)

    def _judge(self, now: float) -> None:
        self._doubting, found = None, self._found
        if found is None:
            return
        known, waiting = found
        for task_id in self._asked:
            out = self._out.get(task_id)
            if out is None:
                continue
            out.since = now
            there = task_id in known or waiting.get(out.queue) != 0
            out.unknown = 0 if there else out.unknown + 1
            if out.unknown >= UNKNOWN:
                log.warning("no worker knows task %s any more; it counts as lost", task_id)
                self._tell(task_id, out.report(ReportKind.LOST, extra="no worker knows it"))


def attempt_id(uid: bytes, idx: int, attempt: int) -> str:
    """Id of an attempt in Celery's messages: the node's own for the first one."""
    own = node_id(UUID(bytes=uid), idx)
    return own if attempt == 1 else str(uuid.uuid5(_NAMESPACE, f"{own} {attempt}"))


def load_many(results: ResultStore, ids: Iterable[str]) -> dict[str, TaskMeta]:
    """States of many tasks, those that have any."""
    many = getattr(results, "load_many", None)
    if many is not None:
        return many(ids)  # type: ignore[no-any-return]
    found = {task_id: results.load(task_id) for task_id in ids}
    return {task_id: meta for task_id, meta in found.items() if meta is not None}
