"""Outcomes as result objects read them: of nodes from the store, of bare tasks from memory."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from flowq.app.outcome import Outcome
from flowq.backends import ResultStore, TaskMeta
from flowq.backends.outcomes import meta_of
from flowq.backends.recorded import Recorded
from flowq.broker.codec import Report, ReportKind
from flowq.core import moments
from flowq.core.graph import Bind, Graph, Kind, Node, On, Spec, decode_graph
from flowq.core.ids import node_id
from flowq.core.states import State
from flowq.errors import FlowqError
from flowq.payload import NONE
from flowq.store import NewRun, Store

if TYPE_CHECKING:
    from flowq.app.base import Flowq
    from flowq.coordinator.view import RunView

log = logging.getLogger("flowq")

_KEPT = 100_000


class Outcomes:
    """Puts outcomes together.

    Args:
        store: Where nodes are recorded.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recorded = Recorded(store)
        #: Bare tasks sent from here: id -> (name, spec, argument frame).
        self._sent: OrderedDict[str, tuple[str, Spec, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    # -- nodes ---------------------------------------------------------------------------

    def node(self, store: Store, task_id: str) -> Outcome | None:
        """Outcome of a node by its id, or by the id a caller chose; None if there is none."""
        place = store.locate(task_id)
        return None if place is None else self.at(*place)

    def at(self, run_id: int, idx: int) -> Outcome:
        """Outcome of one node."""
        store, sql = self._store, self._store.sql
        row: Any = store.one(sql.node_outcome, (run_id, idx))
        kind, state, cause = Kind(row[0]), State(row[1]), int(row[2])
        uid = UUID(row[4])
        if state is State.SUCCESS and row[6] is not None:
            shown: str = state.value
            frame: bytes | None = self._recorded.whole(bytes(row[6]))
        else:
            shown, frame = self._shown(run_id, idx, state, cause)
        edges = store.rows(sql.edges_of, (run_id, idx, idx))
        parents = [(e[0], e[4]) for e in edges if e[1] == idx and e[3] == On.SUCCESS]
        members = tuple(node_id(uid, parent) for parent, bind in parents if bind == Bind.ITEM)
        return Outcome(
            shown,
            frame,
            date_done=None if shown in ("PENDING", "STARTED") else _moment(row[7]),
            name=row[5],
            parent=node_id(uid, parents[0][0]) if parents and not members else None,
            members=members if kind is Kind.JOIN else None,
            children=tuple(node_id(uid, e[1]) for e in edges if e[0] == idx),
            meta=json.loads(row[3]) if row[3] else None,
            run=str(uid),
        )

    def _shown(self, run_id: int, idx: int, state: State, cause: int) -> tuple[str, bytes | None]:
        """State as Celery's API has it, and the frame that goes with it."""
        if state is State.SUCCESS:
            return state.value, self._recorded.value(run_id, idx)
        if state in (State.FAILURE, State.REVOKED):
            return state.value, self._recorded.error(run_id, idx)
        if state is State.RETRY:
            detail = self._store.one(self._store.sql.error_get, (run_id, idx))
            return state.value, bytes(detail[0]) if detail else None
        if state is State.SKIPPED:
            if cause in (-1, idx):
                return state.value, self._recorded.error(run_id, idx)
            why: Any = self._store.one(self._store.sql.node_one, (run_id, cause))
            if why[1] == State.SKIPPED:
                return state.value, self._recorded.error(run_id, cause)
            return str(why[1]), self._recorded.error(run_id, cause)
        if state in (State.READY, State.QUEUED):
            return "PENDING", None
        return state.value, None

    # -- bare tasks ----------------------------------------------------------------------

    def sent(self, task_id: str, name: str, spec: Spec, frame: bytes) -> None:
        """Remember that a bare task was sent from here."""
        with self._lock:
            self._sent[task_id] = (name, spec, frame)
            if len(self._sent) > _KEPT:
                self._sent.popitem(last=False)

    def knows(self, task_id: str) -> bool:
        """Whether a bare task of that id was sent from here."""
        return task_id in self._sent

    def forget(self, task_id: str) -> None:
        """Forget it. A second call does nothing."""
        with self._lock:
            self._sent.pop(task_id, None)

    def of_bare(self, results: ResultStore, task_id: str) -> Outcome | None:
        """Outcome of a bare task; PENDING for one that was sent; None for an unknown id."""
        meta = results.load(task_id)
        if meta is None:
            sent = self._sent.get(task_id)
            return Outcome("PENDING", name=sent[0]) if sent else None
        return self.of_meta(task_id, meta)

    def of_meta(self, task_id: str, meta: TaskMeta) -> Outcome:
        """Outcome of a bare task as a result backend has it."""
        sent = self._sent.get(task_id)
        return Outcome(
            meta.state,
            meta.frame or None,
            date_done=_moment(meta.date_done),
            name=sent[0] if sent else meta.name or None,
            meta=msgspec.json.decode(meta.meta) if meta.meta else None,
            extra=meta.extra,
        )

    def bare(self, results: ResultStore, report: Report, go_on: Callable[[Report], None]) -> None:
        """Record what a worker reports of a bare task; a second report changes nothing."""
        meta = meta_of(report)
        if report.kind == ReportKind.STARTED and _tells_more(results, report.id):
            meta = None
        if meta is not None:
            sent = self._sent.get(report.id)
            meta.name = sent[0] if sent is not None else ""
            if meta.state == "SUCCESS" and sent is not None and sent[1].ignore_result:
                meta.frame = NONE
            _store(results, report.id, meta)
        if report.kind in (ReportKind.RETRY, ReportKind.EXTEND):
            go_on(report)

    def as_run(self, app: Flowq, lane_id: int, report: Report, now: float) -> tuple[NewRun, Graph]:
        """What a bare task sent from here becomes when it retries or is replaced; see `run_of`."""
        name, spec, frame = self._sent[report.id]
        return run_of(app, lane_id, report, now, name=name, spec=spec, frame=frame)

    def to_backend(self, results: ResultStore, view: RunView) -> None:
        """Write the outcome of a one-node run to the result store too, under its chosen id."""
        store = self._store
        for (task_id,) in store.rows(store.sql.aliases, (view.run_id,)):
            found = self.at(view.run_id, view.results[0])
            meta = TaskMeta(found.state, found.frame or b"", store.now())
            _store(results, str(task_id), meta)

    def deadline(self, expires: Any) -> float:
        """Epoch time of an `expires` option of a call made now; 0.0: it has none."""
        return moments.deadline(expires, self._store.now())


def _tells_more(results: ResultStore, task_id: str) -> bool:
    """Whether a task has set a state of its own; that it began is noticed only after a while."""
    with contextlib.suppress(FlowqError):
        known = results.load(task_id)
        return known is not None and bool(known.meta)
    return False


def _store(results: ResultStore, task_id: str, meta: TaskMeta) -> None:
    """Record a state; a backend that is away must not stop what goes on."""
    try:
        results.store(task_id, meta)
    except FlowqError as exc:
        log.error("the state %s of task %s was not recorded: %s", meta.state, task_id, exc)


def run_of(
    app: Flowq, lane_id: int, report: Report, now: float, *, name: str, spec: Spec, frame: bytes
) -> tuple[NewRun, Graph]:
    """What a bare task becomes when it retries, waits or is replaced: a run with the same id.

    A retry is a run of one node that waits for its time; a replacement is the canvas that was
    compiled where the task ran.
    """
    from flowq.app.submission import new_uid

    if report.kind == ReportKind.EXTEND:
        graph = decode_graph(report.frame)
        graph.nodes[graph.results[0]].alias = report.id
    else:
        delay = report.extra if isinstance(report.extra, int | float) else 0.0
        node = Node(
            0, Kind.TASK, name.rpartition(".")[2], "", need=0, args=report.args or frame,
            eta=now + delay, alias=report.id, retries=report.attempt,
        )  # fmt: skip
        graph = Graph([spec], [node], [], [0])
    new = NewRun(
        uid=new_uid(), lane_id=lane_id, app=str(app.main or ""), name=name, to_backend=True
    )
    return new, graph


def _moment(at: float | None) -> datetime | None:
    return None if not at else datetime.fromtimestamp(at, UTC)
