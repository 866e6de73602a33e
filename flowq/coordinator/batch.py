"""What one commit will write: collected while facts are folded, written in one go.

A node has one delta and one line of its story a commit, however many events it saw. Deltas
name the state, attempt and generation they start from; if any of them matches no row, the
whole batch is undone (`StaleState`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from flowq.coordinator.view import RunView
from flowq.core.graph import Graph
from flowq.core.states import RUN_TERMINAL
from flowq.errors import LaneLost, StaleState
from flowq.store import Store
from flowq.store.store import Begun

_pack = msgspec.msgpack.Encoder().encode


class Delta:
    """Change of one node within the batch."""

    __slots__ = (
        "before_attempt", "before_state", "began", "detail", "ended", "events", "generation",
        "hits", "order", "unmet", "view",
    )  # fmt: skip

    def __init__(self, view: RunView, index: int) -> None:
        self.view = view
        self.before_state = view.states[index]
        self.before_attempt = view.attempt[index]
        self.generation = view.generation[index]
        self.events: list[str] = []
        #: Place of its last event among the batch's; stories are written in this order.
        self.order = 0
        self.unmet = self.hits = 0
        self.began: float | None = None
        self.ended: float | None = None
        self.detail: bytes | None = None


class Message(NamedTuple):
    """One outbox row in the making."""

    id: int
    queue: str
    priority: int
    items: list[tuple[int, int, int]]


class Fence(NamedTuple):
    """Who may write to a lane."""

    lane_id: int
    owner: str
    epoch: int


class Batch:
    """Collects; `write` puts it all into an open transaction."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._order = 0
        self.deltas: dict[tuple[int, int], Delta] = {}
        self.runs: dict[int, tuple[RunView, str]] = {}
        self.results: list[tuple[Any, ...]] = []
        self.result_drops: list[tuple[int, int]] = []
        self.payloads: dict[bytes, bytes] = {}
        self.timers: list[tuple[Any, ...]] = []
        self.timers_done: list[tuple[int, int, str]] = []
        self.timer_drops: list[tuple[int, int]] = []
        self.timer_run_drops: list[tuple[int]] = []
        self.logs: list[tuple[Any, ...]] = []
        self.metas: list[tuple[str, int, int]] = []
        self.args: list[tuple[bytes, int, int]] = []
        self.unbound: list[tuple[int, int]] = []
        self.reopened: list[tuple[Any, ...]] = []
        self.stories: list[tuple[Any, ...]] = []
        #: Reports that changed nothing: (view, node, what); told behind the batch's changes.
        self.discards: list[tuple[RunView, int, str]] = []
        self.graphs: list[tuple[Any, ...]] = []
        #: Runs submitted in this batch, whose nodes are written as they are at its end.
        self.fresh: dict[int, tuple[RunView, Graph, int]] = {}
        self.edges: list[tuple[Any, ...]] = []
        self.messages: list[Message] = []
        self.outbox_left: dict[int, int] = {}
        self.outbox_gone: set[int] = set()
        self.settled: list[int] = []
        self.inbox_done: list[tuple[int]] = []
        #: Nodes that became READY in this batch, in order.
        self.ready: list[tuple[RunView, int]] = []
        self.finished: list[RunView] = []

    def run(self, view: RunView) -> None:
        """Note that a run's head changes; its state before is what guards the write."""
        if view.run_id not in self.runs:
            self.runs[view.run_id] = (view, view.run_state._value_)

    def delta(self, view: RunView, index: int) -> Delta:
        """The node's delta, begun now if it has none; call before the view changes."""
        key = (view.run_id, index)
        found = self.deltas.get(key)
        if found is None:
            if key[0] not in self.runs:
                self.run(view)
            found = self.deltas[key] = Delta(view, index)
        return found

    def happened(self, view: RunView, index: int, event: str) -> Delta:
        """Note one event of a node; call before the view changes."""
        delta = self.delta(view, index)
        delta.events.append(event)
        self._order = delta.order = self._order + 1
        return delta

    def story(
        self, view: RunView, index: int, before: str, after: str, cause: str,
        detail: bytes | None = None,
    ) -> None:  # fmt: skip
        """Add one line to a node's story."""
        view.seq += 1
        self.stories.append(
            (view.run_id, view.seq, index, view.generation[index], view.attempt[index], before)
            + (after, cause, self.now, None, None, None, detail)
        )

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write that anybody waits for."""
        return not (
            self.deltas or self.runs or self.inbox_done or self.logs or self.metas or self.stories
            or self.discards or self.timer_run_drops or self.timers or self.timers_done
            or self.timer_drops or self.messages
        )  # fmt: skip

    # -- writing -------------------------------------------------------------------------

    def write(self, store: Store, cursor: Any, fence: Fence) -> None:
        """Write everything into the open transaction.

        Raises:
            LaneLost: Another coordinator owns the lane now.
            StaleState: A row is not what the batch was decided on.
        """
        sql = store.sql
        store.database.fence(cursor, fence, _lost(fence))
        many = cursor.executemany
        if self.payloads:
            frames = sorted(self.payloads.items())  # in one order everywhere: no deadlocks
            many(sql.payload_insert, [(digest, data, self.now) for digest, data in frames])
        self._write_graphs(store, cursor, fence)
        self._write_nodes(store, cursor)
        if self.result_drops:
            many(sql.result_delete, self.result_drops)
        if self.results:
            many(sql.result_insert, self.results)
        if self.stories:
            many(sql.transition_insert, self.stories)
        self._write_outbox(sql, cursor, fence.lane_id)
        if self.timers:  # before the drops: what ended in this batch needs none that it set
            many(sql.timer_set, self.timers)
        if self.timer_run_drops:
            many(sql.timer_delete_run, self.timer_run_drops)
        if self.timers_done:
            many(sql.timer_done, self.timers_done)
        if self.timer_drops:
            many(sql.timer_delete, self.timer_drops)
        for statement, rows in (
            (sql.log_insert, self.logs),
            (sql.node_meta, self.metas),
            (sql.node_args, self.args),
            (sql.edge_unbind, self.unbound),
            (sql.inbox_delete, self.inbox_done),
        ):
            if rows:
                many(statement, rows)
        self._write_runs(store, cursor, fence.lane_id)

    def _write_graphs(self, store: Store, cursor: Any, fence: Fence) -> None:
        for run_id, graph, first_node, first_spec, prefix, priority in self.graphs:
            store.insert_graph(
                cursor, run_id, fence.lane_id, graph, priority,
                first_node=first_node, first_spec=first_spec, prefix=prefix,
            )  # fmt: skip
        for run_id, (view, graph, priority) in self.fresh.items():
            begun = {
                index: Begun(
                    view.states[index]._value_, view.unmet[index], view.attempt[index],
                    view.hits[index], view.cause[index], view.outbox.get(index, 0),
                )
                for of, index in self.deltas
                if of == run_id
            }  # fmt: skip
            store.insert_graph(cursor, run_id, fence.lane_id, graph, priority, begun=begun)
        if self.edges:
            cursor.executemany(store.sql.edge_insert, self.edges)

    def _write_nodes(self, store: Store, cursor: Any) -> None:
        if self.reopened:
            _exactly(store, cursor, store.sql.node_reopen, self.reopened)
        rows, fresh = [], self.fresh
        # a child's line comes after those of the parents that released it
        deltas = sorted(self.deltas.items(), key=_in_order)
        for (run_id, index), delta in deltas:
            view = delta.view
            state = view.states[index]
            if run_id not in fresh:
                rows.append(
                    (state._value_, view.attempt[index], view.retries[index], view.crashes[index])
                    + (delta.unmet, delta.hits, view.cause[index], view.outbox.get(index, 0))
                    + (view.kind[index], view.need[index], run_id, index)
                    + (delta.before_state._value_, delta.before_attempt, delta.generation)
                )
            if delta.events:
                view.seq += 1
                self.stories.append(
                    (run_id, view.seq, index, delta.generation, view.attempt[index])
                    + (delta.before_state._value_, state._value_, ",".join(delta.events), self.now)
                    + (delta.began, delta.ended, None, delta.detail)
                )
        if rows:
            _exactly(store, cursor, store.sql.node_delta, rows)
        for view, index, what in self.discards:
            now = view.states[index].value
            self.story(view, index, now, now, f"discarded:{what}")

    def _write_outbox(self, sql: Any, cursor: Any, lane_id: int) -> None:
        if self.outbox_gone:
            cursor.executemany(sql.outbox_delete, [(lane_id, i) for i in self.outbox_gone])
        left = [(n, lane_id, i) for i, n in self.outbox_left.items() if i not in self.outbox_gone]
        if left:
            cursor.executemany(sql.outbox_left, left)
        settled = [(self.now, lane_id, i) for i in self.settled if i not in self.outbox_gone]
        if settled:
            cursor.executemany(sql.outbox_settle, settled)
        if self.messages:
            cursor.executemany(
                sql.outbox_insert,
                [
                    (lane_id, m.id, m.queue, m.priority, _pack(m.items), len(m.items), self.now)
                    for m in self.messages
                ],
            )

    def _write_runs(self, store: Store, cursor: Any, lane_id: int) -> None:
        steps: list[tuple[Any, ...]] = []
        rows: list[tuple[Any, ...]] = []
        for run_id, (view, before) in self.runs.items():
            state, of = view.run_state, (run_id, lane_id, before)
            if run_id in self.fresh and state == before and view.open_count == len(view):
                continue  # as it was inserted
            if state == before and state not in RUN_TERMINAL:  # an index is spared
                steps.append((view.open_count, len(view), view.started_at, *of))
                continue
            ended = self.now if state in RUN_TERMINAL else None
            rows.append(
                (state._value_, view.open_count, len(view), view.run_generation)
                + (view.started_at, ended, *of)
            )
        if steps:
            _exactly(store, cursor, store.sql.run_step, steps)
        if rows:
            _exactly(store, cursor, store.sql.run_delta, rows)


def _in_order(entry: tuple[tuple[int, int], Delta]) -> int:
    return entry[1].order


def _lost(fence: Fence) -> LaneLost:
    return LaneLost(f"lane {fence.lane_id} was taken over by another coordinator")


def _exactly(store: Store, cursor: Any, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Run a guarded statement; every row of it must change one row of the table."""
    store.database.expect(
        cursor,
        statement,
        rows,
        lambda changed: StaleState(
            f"{len(rows) - changed} of {len(rows)} rows had changed under a batch"
        ),
    )
