"""The store as the rest of flowq sees it: lanes, submission, and all that it inherits."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from flowq.core.graph import Edge, Graph, Node
from flowq.core.states import State
from flowq.errors import IdempotencyConflict
from flowq.store.pruning import Pruning
from flowq.store.rows import LaneRow

#: Ids of runs that are fetched at once, where they are.
_IDS = 64
#: Places in a row of `node_insert`: the state, with `unmet` behind it, and the arguments.
_STATE, _ARGS = 7, 13

_READY, _PENDING = State.READY.value, State.PENDING.value
_encode = msgspec.json.Encoder().encode
_encode_spec = msgspec.msgpack.Encoder().encode


class Begun(NamedTuple):
    """A new node that is past its first state when it is written, in the order of the columns."""

    state: str
    unmet: int
    attempt: int
    hits: int
    cause: int
    outbox_id: int


_NONE_BEGUN: Mapping[int, Begun] = {}


class NewRun(msgspec.Struct):
    """Everything a submission writes about a run, besides its graph."""

    uid: str
    lane_id: int
    app: str
    name: str
    title: str = ""
    target: str | None = None
    priority: int = 0
    tags: Mapping[str, str] = {}
    idempotency_key: str | None = None
    digest: bytes | None = None
    parent_run: int | None = None
    parent_node: int | None = None
    rerun_of: int | None = None
    to_backend: bool = False
    code_hash: str | None = None


class Store(Pruning):
    """One open store. Safe to use from any thread."""

    def __init__(self, url: str, *, synchronous: str = "FULL") -> None:
        super().__init__(url, synchronous=synchronous)
        self._queues: dict[int, dict[str, int]] = {}
        self._ids: deque[int] = deque()
        self._ids_of = os.getpid()

    # -- lanes and queues ----------------------------------------------------------------

    def make_lane(self, app: str, kind: str, owner: str, liveness: str | None) -> int:
        """Make a lane and return its id."""
        return self.write(  # type: ignore[no-any-return]
            lambda cursor: self.make_lane_in(cursor, app, kind, owner, liveness)
        )

    def make_lane_in(
        self, cursor: Any, app: str, kind: str, owner: str, liveness: str | None
    ) -> int:
        """`make_lane`, inside the caller's transaction."""
        cursor.execute(self.sql.lane_insert, (app, kind, owner, time.time() + 30.0, liveness))
        return int(cursor.fetchone()[0])

    def lanes(self) -> list[LaneRow]:
        """All lanes."""
        return [LaneRow(*row) for row in self.rows(self.sql.lane_list)]

    def queue_ids(
        self, lane_id: int, names: Iterable[str], cursor: Any, *, remember: bool = True
    ) -> dict[str, int]:
        """Ids of a lane's queues by name; missing ones are made in the open transaction.

        `remember`: keep them for later calls; not where somebody else may undo the transaction.
        """
        known = self._queues.get(lane_id, {})
        wanted = set(names)
        if not wanted <= known.keys():
            for name in sorted(wanted - known.keys()):
                cursor.execute(self.sql.queue_insert, (lane_id, name))
            cursor.execute(self.sql.queue_list, (lane_id,))
            known = {str(name): int(key) for key, name in cursor.fetchall()}
            if remember:
                self._queues[lane_id] = known
        return known

    def knows_queues(self, lane_id: int, names: Iterable[str]) -> bool:
        """Whether the ids of these queues are remembered, so that they need not be made."""
        return set(names) <= self._queues.get(lane_id, {}).keys()

    def forget_queues(self) -> None:
        """Drop what is cached about queues: a transaction that made some was rolled back."""
        self._queues.clear()

    def _move_large(self, cursor: Any, graph: Graph, rows: list[tuple[Any, ...]]) -> None:
        """Write arguments over the inline limit as payload rows, and refer to them."""
        for i, node in enumerate(graph.nodes):
            if len(node.args) > self.inline_bytes:
                digest, reference = reference_to(node.args)
                cursor.execute(self.sql.payload_insert, (digest, node.args, self.now()))
                rows[i] = (*rows[i][:_ARGS], reference, *rows[i][_ARGS + 1 :])

    # -- submitting ----------------------------------------------------------------------

    def submit(self, new: NewRun, graph: Graph) -> tuple[int, str, bool]:
        """Write a run in one transaction and return (id, uid, whether it is new).

        A second call with the same idempotency key and digest finds the first's run.

        Raises:
            IdempotencyConflict: The key belongs to a run of another canvas.
        """
        try:
            return self.write(lambda cursor: self.submit_in(cursor, new, graph))  # type: ignore[no-any-return]
        except Exception:
            self.forget_queues()
            raise

    def submit_in(
        self,
        cursor: Any,
        new: NewRun,
        graph: Graph,
        *,
        announce: bool = True,
        remember: bool = True,
    ) -> tuple[int, str, bool]:
        """`submit`, inside the caller's transaction.

        `announce` puts it into the lane's inbox; `remember` as for `queue_ids`.
        """
        run_id, uid, is_new = self.insert_run(cursor, new, graph)
        if is_new:
            self.insert_graph(cursor, run_id, new.lane_id, graph, new.priority, remember=remember)
            if announce:
                cursor.execute(self.sql.inbox_insert, (new.lane_id, run_id, "submitted", None))
        return run_id, uid, is_new

    def insert_run(
        self, cursor: Any, new: NewRun, graph: Graph, started_at: float | None = None
    ) -> tuple[int, str, bool]:
        """Write a run without its graph; as `submit`, inside the caller's transaction."""
        sql, count = self.sql, len(graph.nodes)
        row = (
            (new.uid, new.lane_id, new.app, new.name, new.target, new.title, new.priority, count)
            + (count, _encode(graph.results).decode(), new.digest)
            + (new.idempotency_key, self.now(), started_at, new.parent_run, new.parent_node)
            + (new.rerun_of, int(new.to_backend), new.code_hash)
        )
        if self.database.reserves_ids and new.idempotency_key is None:
            run_id = self._reserved_id(cursor)
            cursor.execute(sql.run_insert_as, (run_id, *row))
        else:
            cursor.execute(sql.run_insert, row)
            found = cursor.fetchone()
            if found is None:
                return self._same_key(cursor, new)
            run_id = int(found[0])
        if new.tags:
            cursor.executemany(
                sql.tag_insert, [(run_id, key, value) for key, value in new.tags.items()]
            )
        return run_id, new.uid, True

    def _reserved_id(self, cursor: Any) -> int:
        """A run's id that nobody else gets, whatever becomes of the transaction."""
        if self._ids_of != os.getpid():  # after a fork they are the parent's
            self._ids_of, self._ids = os.getpid(), deque()
        while True:
            with contextlib.suppress(IndexError):
                return self._ids.popleft()
            cursor.execute(self.sql.run_ids, (_IDS,))
            self._ids.extend(int(row[0]) for row in cursor.fetchall())

    def _same_key(self, cursor: Any, new: NewRun) -> tuple[int, str, bool]:
        cursor.execute(self.sql.run_by_key, (new.idempotency_key,))
        row = cursor.fetchone()
        if row is None or bytes(row[2] or b"") != (new.digest or b""):
            raise IdempotencyConflict(
                f"idempotency key {new.idempotency_key!r} belongs to a run of another canvas: "
                "use another key, or submit the same canvas"
            )
        return int(row[0]), str(row[1]), False

    def insert_graph(
        self,
        cursor: Any,
        run_id: int,
        lane_id: int,
        graph: Graph,
        priority: int = 0,
        *,
        first_node: int = 0,
        first_spec: int = 0,
        prefix: tuple[str, str] = ("", ""),
        remember: bool = True,
        begun: Mapping[int, Begun] = _NONE_BEGUN,
    ) -> None:
        """Write specs, nodes and edges, shifted for a fragment that joins a live run.

        `prefix` = what goes before the fragment's names and paths; `begun` = nodes that are past
        their first state already.
        """
        sql = self.sql
        cursor.executemany(
            sql.spec_insert,
            [
                (run_id, first_spec + no, spec.task, spec.queue, _encode_spec(spec))
                for no, spec in enumerate(graph.specs)
            ],
        )
        names = {spec.queue for spec in graph.specs}
        queues = self.queue_ids(lane_id, names, cursor, remember=remember)
        where = [
            (first_spec + no, queues[spec.queue], spec.priority + priority)
            for no, spec in enumerate(graph.specs)
        ]
        rows = [
            _node_row(run_id, first_node + i, node, where, prefix)
            for i, node in enumerate(graph.nodes)
        ]
        self._move_large(cursor, graph, rows)
        if begun:
            further = [
                (*rows[i][:_STATE], now.state, now.unmet, *rows[i][_STATE + 2 :], *now[2:])
                for i, now in begun.items()
            ]
            cursor.executemany(sql.node_insert_begun, further)
            rows = [row for i, row in enumerate(rows) if i not in begun]
        if rows:
            cursor.executemany(sql.node_insert, rows)
        if graph.edges:
            edges = [_edge_row(run_id, first_node, edge) for edge in graph.edges]
            cursor.executemany(sql.edge_insert, edges)
        aliases = [
            (node.alias, run_id, first_node + i) for i, node in enumerate(graph.nodes) if node.alias
        ]
        if aliases:
            cursor.executemany(sql.alias_insert, aliases)


def reference_to(frame: bytes) -> tuple[bytes, bytes]:
    """(hash, reference frame) of a frame that is to be a payload row."""
    digest = blake2b(frame, digest_size=32).digest()
    return digest, b"r" + digest


def is_root(node: Node) -> bool:
    """Whether a node may run as soon as it is stored."""
    return not (node.unmet or node.kind or node.eta or node.expires)  # Kind.TASK is 0


def _node_row(
    run_id: int,
    index: int,
    node: Node,
    where: list[tuple[int, int, int]],
    prefix: tuple[str, str],
) -> tuple[Any, ...]:
    no, queue_id, priority = where[node.spec] if node.spec >= 0 else (-1, 0, 0)
    state = _READY if is_root(node) else _PENDING
    name, path = node.name, node.path
    if prefix[0]:
        name = f"{prefix[0]}/{name}"
        path = f"{prefix[1]}/{path}" if path else prefix[1]
    return (run_id, index, no, queue_id, priority, int(node.kind), node.need, state) + (
        node.unmet,
        node.eta,
        node.expires,
        name,
        path,
        node.args or None,
        node.retries,
    )


def _edge_row(run_id: int, first: int, edge: Edge) -> tuple[Any, ...]:
    return (
        run_id,
        first + edge.child,
        edge.slot,
        first + edge.parent,
        int(edge.on),
        int(edge.bind),
        edge.path or None,
    )
