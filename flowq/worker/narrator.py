"""What a worker tells of its tasks as events: of nodes and bare tasks alike, never waiting."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from flowq.broker.codec import ON_THE_WAY, Bundle, Report, ReportKind
from flowq.broker.events import EventSender
from flowq.errors import FlowqError
from flowq.payload import decode_error, error_repr, frame_repr
from flowq.worker.baretask import Held
from flowq.worker.call import id_of
from flowq.worker.shown import of_call
from flowq.worker.worker import Worker

_TEXT: Final = 1024
#: Nodes whose public ids are remembered until they end.
_KNOWN: Final = 100_000


class Narrator:
    """Tells of the worker's life and, if asked to, of each task's. A `service.Companion`.

    Args:
        sender: Where events go.
        worker: Its load is in the heartbeats.
    """

    def __init__(self, sender: EventSender, worker: Worker) -> None:
        self._sender, self._worker = sender, worker
        self._ids: OrderedDict[tuple[int, int, int], str] = OrderedDict()
        #: Ids of tasks that were told to have begun.
        self._started: set[str] = set()
        self._processed = 0
        self._closed = False

    def start(self) -> None:
        """Say that the worker is there."""
        self._sender.start()
        self._sender.worker("online")

    def switch(self, on: bool) -> bool:
        """Send events of tasks, or do not; whether that changes anything."""
        changed = self._sender.tasks != on
        self._sender.tasks = on
        return changed

    def beat(self) -> None:
        """Send a heartbeat now."""
        self._sender.worker("heartbeat", self._worker.load, self._processed)

    # -- as a companion of the loop --------------------------------------------------------

    def handles(self) -> list[int]:
        """None."""
        return []

    def timeout(self) -> float:
        """Seconds until the next heartbeat."""
        return self._sender.timeout()

    def turn(self) -> None:
        """Send the heartbeat that is due."""
        self._sender.keep_up(self._worker.load, self._processed)

    def close(self) -> None:
        """Say that the worker is gone. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._sender.worker("offline", 0, self._processed)
            self._sender.stop(1.0)

    # -- nodes -----------------------------------------------------------------------------

    def taken(self, bundle: Bundle) -> None:
        """Nodes were taken."""
        if not self._sender.tasks:
            return
        for item in bundle.items:
            uid = self._ids[item.run, item.idx, item.attempt] = id_of(bundle, item)
            spec = bundle.specs[item.spec]
            args, kwargs = of_call(item.args, spec.argsrepr, spec.kwargsrepr, _TEXT)
            self._sender.received(uid, spec.task, args, kwargs, retries=item.retries)
        while len(self._ids) > _KNOWN:
            self._ids.popitem(last=False)

    def reported(self, report: Report) -> None:
        """Something became of a node."""
        if report.kind not in ON_THE_WAY:
            self._processed += 1
        if self._sender.tasks:
            key = (report.run, report.idx, report.attempt)
            uid = self._ids.get(key)
            if uid is not None:
                self._tell(uid, report)
                if report.kind not in ON_THE_WAY:
                    self._ids.pop(key, None)

    # -- bare tasks --------------------------------------------------------------------------

    def bare(self, event: str, held: Held, report: Report | None) -> None:
        """Something became of a bare task; see `BareTasks.listener`."""
        if report is not None and event != "started":
            self._processed += 1
        if not self._sender.tasks:
            return
        message = held.message
        if event == "received":
            args, kwargs = message.argsrepr, message.kwargsrepr
            if args is None or kwargs is None:
                args, kwargs = of_call(held.item.args, args or "", kwargs or "", _TEXT)
            self._sender.received(
                message.id, message.task, args, kwargs,
                root_id=message.root_id, parent_id=message.parent_id,
                retries=message.retries or 0, eta=message.eta, expires=message.expires,
            )  # fmt: skip
        elif report is not None:
            self._tell(message.id, report)

    # -- both ----------------------------------------------------------------------------------

    def _tell(self, uid: str, report: Report) -> None:
        kind, sender = report.kind, self._sender
        if kind == ReportKind.STARTED:
            self._started.add(uid)
            sender.started(uid)
            return
        begun = uid in self._started
        if kind not in ON_THE_WAY:
            self._started.discard(uid)
        if kind == ReportKind.SUCCESS:
            if not begun:
                sender.started(uid)  # short ones are not reported as begun; monitors expect it
            took = max(0.0, report.ended - report.began)
            sender.succeeded(uid, frame_repr(report.frame, _TEXT), took)
        elif kind == ReportKind.FAILURE:
            sender.failed(uid, *_error(report.frame))
        elif kind == ReportKind.LOST:
            sender.failed(uid, f"WorkerLostError({str(report.extra)!r})")
        elif kind == ReportKind.RETRY:
            sender.retried(uid, *_error(report.frame))
        elif kind in (ReportKind.EXPIRED, ReportKind.REVOKED):
            ended = report.extra == "terminated"
            sender.revoked(uid, expired=kind == ReportKind.EXPIRED, terminated=ended)
        elif kind == ReportKind.RETURNED:
            sender.rejected(uid, requeue=True)


def _error(frame: bytes) -> tuple[str, str]:
    try:
        info = decode_error(frame)
    except FlowqError:
        return "", ""
    return error_repr(info), info.traceback or ""
