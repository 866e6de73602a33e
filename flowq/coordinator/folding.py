"""Facts into a batch: what workers report, what timers bring, what people ask for.

Everything here changes views and a `Batch`, nothing else; the machine decides each change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowq.broker.codec import Report, ReportKind
from flowq.coordinator.batch import Batch
from flowq.coordinator.view import RunView
from flowq.core.graph import Bind, Kind, On, decode_graph
from flowq.core.ids import node_id
from flowq.core.machine import Decision, Fact, advance, is_hit, outcome, start
from flowq.core.states import RUN_TERMINAL, TERMINAL, Event, RunState, State
from flowq.errors import TaskRevokedError, WorkerLostError
from flowq.payload import NONE, encode_error, encode_list
from flowq.store import Store
from flowq.store.store import reference_to

#: Report kind -> event, where the kind alone decides it.
EVENTS: dict[int, Event] = {
    ReportKind.STARTED: Event.BEGAN,
    ReportKind.SUCCESS: Event.SUCCEEDED,
    ReportKind.FAILURE: Event.FAILED,
    ReportKind.RETRY: Event.RETRIED,
    ReportKind.LOST: Event.LOST,
    ReportKind.IGNORED: Event.IGNORED,
    ReportKind.RETURNED: Event.RETURNED,
    ReportKind.EXPIRED: Event.FAILED,
    ReportKind.EXTEND: Event.REPLACED,
}

#: Plain numbers for the way that every node goes: looking members up costs more than comparing.
_SUCCESS, _LOST = int(ReportKind.SUCCESS), int(ReportKind.LOST)
_PROGRESS = int(ReportKind.PROGRESS)
assert ReportKind.LOG == _PROGRESS + 1


class Folder:
    """Folds facts into a batch.

    Args:
        store: Where queues of fragments are looked up; nothing is written here.
        lane_id: The lane whose runs these are.
        inline_bytes: Frames larger than this become payload rows.
        queue_ids: Ids of the lane's queues by name.
    """

    def __init__(
        self,
        store: Store,
        lane_id: int,
        *,
        inline_bytes: int,
        queue_ids: Callable[[set[str]], dict[str, int]],
    ) -> None:
        self._store, self._lane_id, self._inline = store, lane_id, inline_bytes
        self._queue_ids = queue_ids
        self._log_seq = 0

    # -- reports -------------------------------------------------------------------------

    def report(self, batch: Batch, view: RunView, report: Report) -> bool:
        """Fold one report; False if it was discarded. A second call discards it."""
        index, kind = report.idx, report.kind
        if index >= len(view):
            return False
        if report.log:
            self._log(batch, view, report)
        if kind >= _PROGRESS:
            return kind == ReportKind.LOG or self._progress(batch, view, report)
        if view.run_state in RUN_TERMINAL:
            return self._discard(batch, view, report)
        event = EVENTS[kind]
        if kind == _LOST and report.extra == "terminated":
            event = Event.REVOKED  # ended by request, not by an accident
        delay = 0.0 if kind == _SUCCESS else self._delay(report)
        fact = Fact(index, event, report.attempt, delay)
        decision = advance(view, fact, now=batch.now)
        if decision.discarded:
            return self._discard(batch, view, report)
        if not decision.transitions:
            return True
        if kind == _SUCCESS:  # first: a join that this lets fire reads it
            self._result(batch, view, index, report.frame)
        elif kind == ReportKind.EXTEND:
            self._splice(batch, view, report, decision)
            return True
        else:
            self._errors(view, report, decision)
        self.absorb(batch, view, decision)
        delta = batch.delta(view, index)
        delta.began = report.began or delta.began
        delta.ended = report.ended or delta.ended
        if kind == _SUCCESS:
            return True
        if kind in (ReportKind.FAILURE, ReportKind.RETRY, ReportKind.LOST, ReportKind.EXPIRED):
            delta.detail = view.errors.get(index) or report.frame or None
        if kind == ReportKind.RETRY and report.args:
            # the new arguments are whole: what parents gave must not be bound once more
            view.args[index] = report.args
            batch.args.append((report.args, view.run_id, index))
            view.unbind(index)
            batch.unbound.append((view.run_id, index))
        return True

    def _delay(self, report: Report) -> float:
        extra = report.extra
        return float(extra) if isinstance(extra, int | float) else 0.0

    def _errors(self, view: RunView, report: Report, decision: Decision) -> None:
        """Keep the error of what failed; lost and expired nodes get one made here."""
        index = report.idx
        if view.states[index] in TERMINAL or decision.nodes[index].state is not State.FAILURE:
            return
        frame = report.frame
        if report.kind == ReportKind.LOST:
            crashes = decision.nodes[index].crashes
            why = f"its process ended ({report.extra}) {crashes} time(s) while it ran"
            frame = encode_error(WorkerLostError(why), node_id=self._id(view, index))
        elif report.kind == ReportKind.EXPIRED:
            frame = encode_error(TaskRevokedError("expired"), node_id=self._id(view, index))
        view.errors[index] = frame

    def _id(self, view: RunView, index: int) -> str:
        return node_id(view.uid, index)

    def _discard(self, batch: Batch, view: RunView, report: Report) -> bool:
        if report.kind not in (ReportKind.STARTED, ReportKind.RETURNED):
            name = ReportKind(report.kind).name.lower()
            batch.discards.append((view, report.idx, f"{name} of attempt {report.attempt}"))
        return False

    def _progress(self, batch: Batch, view: RunView, report: Report) -> bool:
        index = report.idx
        if report.attempt != view.attempt[index] or view.states[index] in TERMINAL:
            return False
        batch.metas.append((report.frame[1:].decode(), view.run_id, index))
        return True

    def _log(self, batch: Batch, view: RunView, report: Report) -> None:
        at = report.ended or batch.now
        first = int(batch.now * 1000) % 1_000_000_000
        for stream, text in report.log or ():
            self._log_seq += 1
            row = (view.run_id, report.idx, report.attempt, self._log_seq + first, at, stream)
            batch.logs.append((*row, storable(text)))

    # -- results -------------------------------------------------------------------------

    def _result(self, batch: Batch, view: RunView, index: int, frame: bytes) -> None:
        spec = view.specs[view.spec_no[index]]
        if spec.ignore_result and not view.out_edges(index):
            return
        frame = frame or NONE
        size = len(frame)
        if size > self._inline and frame[:1] != b"r":
            digest, reference = reference_to(frame)
            batch.payloads[digest], frame = frame, reference
        view.frames[index] = frame
        batch.results.append((view.run_id, index, view.generation[index], frame, size))

    # -- what the machine decided --------------------------------------------------------

    def absorb(self, batch: Batch, view: RunView, decision: Decision) -> None:
        """Take a decision over into the view and the batch."""
        for index, (unmet, hits) in decision.counts.items():
            delta = batch.delta(view, index)
            delta.unmet += unmet
            delta.hits += hits
        for index, _, event, _, _ in decision.transitions:
            batch.happened(view, index, event._value_)
        for node in decision.nodes.values():
            view.put(node)
        for index, _, event, after, _ in decision.transitions:
            self._entered(batch, view, index, event, after)
        for timer in decision.timers:
            view.timers.add(timer.node)
            if timer.kind == "expires":
                view.deadlines[timer.node] = timer.due_at
            batch.timers.append((view.run_id, timer.node, timer.kind, self._lane_id, timer.due_at))
        if view.open_count == 0 and view.run_state not in RUN_TERMINAL:
            self.finish(batch, view)

    def _entered(self, batch: Batch, view: RunView, index: int, event: Event, after: State) -> None:
        """Bookkeeping for one node that entered a state."""
        if after is not State.STARTED and index in view.outbox:
            self.left_message(batch, view, index)
        if after is State.READY:
            batch.ready.append((view, index))
        elif after in TERMINAL:
            view.open_count -= 1
            batch.run(view)
            if index in view.timers:
                view.timers.discard(index)
                batch.timer_drops.append((view.run_id, index))
            if event is Event.RESOLVED and view.kind[index] == Kind.JOIN:
                self._keep_partial(batch, view, index)

    #: Set by the coordinator: tells its books that a node left its outbox message.
    left_message: Callable[[Batch, RunView, int], None]

    def _keep_partial(self, batch: Batch, view: RunView, index: int) -> None:
        """Fix the list of a join that fired without the values of all its members: what is
        read later, also after a retry of those, is what was there when it fired."""
        members = [e.parent for e in view.in_edges(index) if e.bind == Bind.ITEM]
        if view.need[index] == len(members):
            return
        always = view.need[index] == -1
        if always and all(view.states[member] is State.SUCCESS for member in members):
            return
        frames = []
        for member in members:
            if view.states[member] is State.SUCCESS:
                frames.append(self.value_frame(view, member))
            elif always:
                frames.append(self.error_frame(view, member))
        self_frame = encode_list(frames)
        view.frames[index] = self_frame
        batch.results.append(
            (view.run_id, index, view.generation[index], self_frame, len(self_frame))
        )

    #: Set by the coordinator: the value of a node that succeeded, from view or store.
    value_frame: Callable[[RunView, int], bytes]
    #: Likewise: whether a message of this very lane carries a node's attempt.
    is_out: Callable[[RunView, int], bool]

    #: Likewise: go on waiting for an attempt that is run elsewhere.
    keep: Callable[[Batch, RunView, int], None]

    #: Likewise: the error of one that did not.
    error_frame: Callable[[RunView, int], bytes]

    def finish(self, batch: Batch, view: RunView) -> None:
        """End a run none of whose nodes can run any more."""
        batch.run(view)
        good = outcome([view.node(i) for i in view.results], view)
        view.run_state = RunState.SUCCESS if good else RunState.FAILURE
        batch.finished.append(view)

    def begin(self, batch: Batch, view: RunView) -> None:
        """First look at a submitted run: roots are dispatched, empty joins resolve."""
        if view.run_state in RUN_TERMINAL:
            return
        batch.run(view)
        view.started_at = view.started_at or batch.now
        waiting = [
            i for i, state in enumerate(view.states)
            if state is State.PENDING and view.unmet[i] == 0
        ]  # fmt: skip
        known = len(batch.ready)
        self.absorb(batch, view, start(view, waiting, now=batch.now))
        batch.ready[known:] = _ready(view)  # in place of those that `start` added: once each

    # -- fragments -----------------------------------------------------------------------

    def _splice(self, batch: Batch, view: RunView, report: Report, decision: Decision) -> None:
        """Put a fragment in a node's place: the node becomes a pass on the fragment's tail."""
        graph = decode_graph(report.frame)
        index = report.idx
        queues = self._queue_ids({spec.queue for spec in graph.specs})
        self.absorb(batch, view, decision)
        delta = batch.delta(view, index)
        delta.began, delta.ended = report.began or None, report.ended or None
        first_spec, first = len(view.specs), len(view)
        name, path = self._names(view, index)
        batch.graphs.append((view.run_id, graph, first, first_spec, (name, path), 0))
        view.append(graph, [(queues[spec.queue], spec.priority) for spec in graph.specs])
        tail = first + graph.results[0]
        slot = 1 + max((edge.slot for edge in view.in_edges(index)), default=-1)
        view.link(tail, index, slot, On.ALWAYS, Bind.NONE)
        batch.edges.append((view.run_id, index, slot, tail, int(On.ALWAYS), int(Bind.NONE), None))
        self._roots(batch, view, first, graph)

    def _names(self, view: RunView, index: int) -> tuple[str, str]:
        row = self._store.one(self._store.sql.node_place, (view.run_id, index))
        if row is None:  # made in this very batch
            return f"node {index}", f"f{index}/r"
        return str(row[0]), f"{row[1]}/r" if row[1] else "r"

    def _roots(self, batch: Batch, view: RunView, first: int, graph: Any) -> None:
        """Start a fragment's roots; those the insert makes READY are READY in the view too."""
        later = []
        for offset, node in enumerate(graph.nodes):
            if node.unmet:
                continue
            if node.kind == Kind.TASK and not node.eta and not node.expires:
                view.states[first + offset] = State.READY
                batch.ready.append((view, first + offset))
            else:
                later.append(first + offset)
        if later:
            self.absorb(batch, view, start(view, later, now=batch.now))

    # -- timers and people ---------------------------------------------------------------

    def timer(self, batch: Batch, view: RunView, index: int, kind: str) -> None:
        """A timer came due. One that is out of date is only removed."""
        batch.timers_done.append((view.run_id, index, kind))
        if view.run_state in RUN_TERMINAL or index >= len(view):
            return
        state = view.states[index]
        if kind == "expires":
            if state in (State.PENDING, State.READY, State.RETRY):
                frame = encode_error(TaskRevokedError("expired"), node_id=self._id(view, index))
                view.errors[index] = frame
                self.absorb(batch, view, advance(view, Fact(index, Event.FAILED), now=batch.now))
                batch.delta(view, index).detail = frame
            return
        if state is State.RETRY or (state is State.PENDING and kind == "eta"):
            self.absorb(batch, view, advance(view, Fact(index, Event.DUE), now=batch.now))

    def revoke(self, batch: Batch, view: RunView, index: int) -> None:
        """Revoke one node; what follows on success is skipped. Ended nodes stay as they are."""
        if view.run_state in RUN_TERMINAL or not 0 <= index < len(view):
            return
        if view.states[index] in TERMINAL:
            return
        self.absorb(batch, view, advance(view, Fact(index, Event.REVOKED), now=batch.now))

    def cancel(self, batch: Batch, view: RunView) -> None:
        """Cancel a run: every node that has not ended is REVOKED. A second call does nothing."""
        if view.run_state in RUN_TERMINAL:
            return
        batch.run(view)
        view.run_state = RunState.CANCELLED
        for index in view.live():
            batch.happened(view, index, Event.REVOKED.value)
            view.states[index] = State.REVOKED
            view.cause[index] = index
            if index in view.outbox:
                self.left_message(batch, view, index)
        view.timers.clear()
        view.open_count = 0
        batch.timer_run_drops.append((view.run_id,))
        batch.ready = [pair for pair in batch.ready if pair[0] is not view]
        batch.finished.append(view)

    def pause(self, batch: Batch, view: RunView, pause: bool) -> None:
        """Pause or go on. In the state asked for already, nothing changes."""
        before, after = RunState.RUNNING, RunState.PAUSED
        if not pause:
            before, after = after, before
        if view.run_state is before:
            batch.run(view)
            view.run_state = after
            if not pause:
                self._offer(batch, view)

    def _offer(self, batch: Batch, view: RunView) -> None:
        """Have all READY nodes of a run dispatched with this batch, each once."""
        batch.ready = [pair for pair in batch.ready if pair[0] is not view] + _ready(view)

    def reopen(self, batch: Batch, view: RunView) -> None:
        """Retry by a person: failed and revoked nodes, and all behind them that did not
        succeed, wait again, one generation up. Nothing to retry: nothing changes."""
        heads = [i for i, s in enumerate(view.states) if s in (State.FAILURE, State.REVOKED)]
        if not heads or view.run_state in (RunState.RUNNING, RunState.PAUSED):
            return
        again: set[int] = set()
        todo = list(heads)
        while todo:
            index = todo.pop()
            if index in again or view.states[index] not in TERMINAL:
                continue
            if view.states[index] is State.SUCCESS:
                continue
            again.add(index)
            todo += [child for child, _ in view.out_edges(index)]
        batch.run(view)
        view.run_state = RunState.RUNNING
        view.run_generation += 1
        self._reopen_nodes(batch, view, sorted(again))

    def _reopen_nodes(self, batch: Batch, view: RunView, again: list[int]) -> None:
        inside = set(again)
        for index in again:
            before, attempt = view.states[index], view.attempt[index]
            old_generation = view.generation[index]
            view.generation[index] = view.run_generation
            unmet = hits = 0
            for edge in view.in_edges(index):
                if view.kind[index] == Kind.PASS and edge.on != On.ALWAYS:
                    continue
                state = view.states[edge.parent]
                if edge.parent in inside or state not in TERMINAL:
                    unmet += 1
                elif is_hit(state, edge.on):
                    hits += 1
            batch.reopened.append(
                (view.run_generation, unmet, hits, view.run_id, index, before.value)
                + (attempt, old_generation)
            )
            batch.story(view, index, before.value, "PENDING", Event.REOPENED.value)
        for index in again:
            view.states[index] = State.PENDING
        for row in batch.reopened[-len(again) :]:
            index = row[4]
            view.unmet[index], view.hits[index] = row[1], row[2]
            view.retries[index] = view.crashes[index] = 0
            view.cause[index] = -1
            view.errors.pop(index, None)
        view.open_count += len(again)
        heads = [i for i in again if view.unmet[i] == 0]
        self.absorb(batch, view, start(view, heads, now=batch.now))

    def adopt(self, batch: Batch, view: RunView) -> None:
        """A run came over from a lane whose owner died: what it had begun is lost, what it
        had only queued is handed back, what was ready waits for the window here. What Celery's
        workers have did not die with it."""
        for index, state in enumerate(list(view.states)):
            if state not in (State.QUEUED, State.STARTED) or self.is_out(view, index):
                continue
            if view.specs[view.spec_no[index]].foreign:
                self.keep(batch, view, index)
                continue
            begun = state is State.STARTED or view.node(index).max_crashes == 0
            view.outbox.pop(index, None)
            report = Report(
                view.run_id, index, view.attempt[index],
                ReportKind.LOST if begun else ReportKind.RETURNED,
                extra="the process that owned it was killed",
            )  # fmt: skip
            self.report(batch, view, report)
        if view.run_state not in RUN_TERMINAL:
            self._offer(batch, view)


def _ready(view: RunView) -> list[tuple[RunView, int]]:
    return [(view, i) for i, state in enumerate(view.states) if state is State.READY]


def storable(text: str) -> str:
    """Text without what a database refuses: NULs and lone surrogates become signs of their own."""
    if text.isprintable():
        return text
    return text.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()
