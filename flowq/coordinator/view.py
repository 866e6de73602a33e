"""A run in memory, as the machine sees it: compact arrays, loaded from the store at need.

Only the lane's owner has views, and every change goes through it, so a view equals the rows
as of the last commit plus the batch in the making. After a failed commit views are dropped.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any
from uuid import UUID

import msgspec

from flowq.core.graph import Bind, Graph, Kind, On, Spec, decode_spec
from flowq.core.machine import NodeState, OutEdge
from flowq.core.states import TERMINAL, RunState, State
from flowq.errors import UnknownId
from flowq.store import Store
from flowq.store.store import is_root

_STATES = {str(state): state for state in State}
_FIELDS = ("need", "generation", "attempt", "retries", "crashes", "unmet", "hits", "cause")


def _by_child(row: tuple[int, int, int, int, int]) -> tuple[int, int]:
    return row[1], row[2]


class InEdge(msgspec.Struct, array_like=True, gc=False):
    """One input of a node."""

    parent: int
    slot: int
    on: int
    bind: int


class RunView:
    """One run. Implements `core.machine.GraphView`."""

    __slots__ = (
        "alias", "args", "attempt", "cause", "crashes", "deadlines", "errors", "eta", "expires",
        "extra_in", "extra_out", "frames", "generation", "hits", "in_bind", "in_on", "in_parent",
        "in_slot", "in_start", "kind", "need", "open_count", "out_child", "out_on", "out_place",
        "out_start", "outbox", "paths", "priority", "queue", "results", "retries",
        "run_generation", "run_id", "run_state", "seq", "spec_no", "specs", "started_at", "states",
        "timers", "to_backend", "uid", "unmet",
    )  # fmt: skip

    def __init__(self, run_id: int) -> None:
        self.run_id = run_id
        self.uid = UUID(int=0)
        self.run_state = RunState.RUNNING
        self.run_generation = self.open_count = self.seq = 0
        self.results: list[int] = []
        self.started_at: float | None = None
        self.to_backend = False
        #: Id that a caller chose for the result node of a bare task that became a run; None: not
        #: looked up yet.
        self.alias: str | None = None
        self.specs: list[Spec] = []
        self.states: list[State] = []
        self.kind = bytearray()
        self.spec_no, self.queue, self.priority = array("i"), array("i"), array("i")
        self.need, self.generation, self.attempt = array("i"), array("i"), array("i")
        self.retries, self.crashes, self.cause = array("i"), array("i"), array("i")
        self.unmet, self.hits = array("i"), array("i")
        self.in_start, self.out_start = array("i"), array("i")
        self.in_parent, self.in_slot = array("i"), array("i")
        self.in_on, self.in_bind = bytearray(), bytearray()
        self.out_child, self.out_place, self.out_on = array("i"), array("i"), bytearray()
        self.eta: dict[int, float] = {}
        self.expires: dict[int, float] = {}
        #: Epoch time by which a node must have begun, once that is known.
        self.deadlines: dict[int, float] = {}
        #: Outbox message that carries an active node's attempt.
        self.outbox: dict[int, int] = {}
        #: Nodes that have a row in the timer table.
        self.timers: set[int] = set()
        #: Recently recorded results and errors, and argument frames, by node.
        self.frames: dict[int, bytes] = {}
        self.errors: dict[int, bytes] = {}
        self.args: dict[int, bytes] = {}
        #: (slot, path) of template inputs, by node, where this process made the rows.
        self.paths: dict[int, list[tuple[int, bytes]]] = {}
        #: Edges of fragments that joined later, in front of the arrays' own.
        self.extra_out: dict[int, list[tuple[int, int, int, int]]] = {}
        self.extra_in: dict[int, list[InEdge]] = {}

    # -- loading -------------------------------------------------------------------------

    @classmethod
    def load(cls, store: Store, run_id: int) -> RunView:
        """Read a run.

        Raises:
            UnknownId: It is not in the store.
        """
        sql = store.sql
        head = store.one(sql.run_head, (run_id,))
        if head is None:
            raise UnknownId(f"run number {run_id} is not in the store")
        view = cls(run_id)
        view.uid = UUID(head[1])
        view.run_state = RunState(head[3])
        view.run_generation, view.open_count = head[4], head[6]
        view.results, view.started_at = json.loads(head[7]), head[8]
        view.to_backend = bool(head[9])
        seq = store.one(sql.view_seq, (run_id,))
        view.seq = int(seq[0] or 0) if seq else 0
        view.specs = [decode_spec(row[1]) for row in store.rows(sql.view_specs, (run_id,))]
        view._set_nodes(store.rows(sql.view_nodes, (run_id,)))
        if view.expires:
            view.deadlines = dict(store.rows(sql.view_deadlines, (run_id,)))
        view._set_edges(store.rows(sql.view_edges, (run_id,)))
        return view

    def _set_nodes(self, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        columns = list(zip(*rows, strict=True))
        self.spec_no = array("i", columns[1])
        self.queue = array("i", columns[2])
        self.priority = array("i", columns[3])
        self.kind = bytearray(columns[4])
        self.need = array("i", columns[5])
        self.states = [_STATES[state] for state in columns[6]]
        for name, values in zip(_FIELDS[1:], columns[7:14], strict=True):
            setattr(self, name, array("i", values))
        for index, (outbox, eta, expires) in enumerate(zip(*columns[14:17], strict=True)):
            if outbox and self.states[index] in (State.QUEUED, State.STARTED):
                self.outbox[index] = outbox
            if eta:
                self.eta[index] = eta
            if expires:
                self.expires[index] = expires
            if eta or expires or self.states[index] is State.RETRY:
                self.timers.add(index)

    def _set_edges(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Lay edges out twice, by child (as they come) and by parent."""
        if not rows:
            self.in_start = array("i", bytes(4 * (len(self.states) + 1)))
            self.out_start = self.in_start[:]
            return
        parents, children, slots, ons, binds = zip(*rows, strict=True)
        self.in_parent, self.in_slot = array("i", parents), array("i", slots)
        self.in_on, self.in_bind = bytearray(ons), bytearray(binds)
        self.in_start, self.out_start = self._starts(children), self._starts(parents)
        places = sorted(range(len(rows)), key=parents.__getitem__)
        self.out_place = array("i", places)
        self.out_child = array("i", [children[place] for place in places])
        self.out_on = bytearray([ons[place] for place in places])

    def _starts(self, nodes: Iterable[int]) -> array[int]:
        """Where each node's edges begin, of which `nodes` names one end each; and where all end."""
        counts = [0] * len(self.states)
        for node in nodes:
            counts[node] += 1
        return array("i", accumulate(counts, initial=0))

    @classmethod
    def fresh(
        cls,
        run_id: int,
        uid: str,
        graph: Graph,
        queues: Sequence[tuple[int, int]],
        to_backend: bool,
    ) -> RunView:
        """The view of a run that was submitted just now: equal to what `load` would read."""
        view = cls(run_id)
        view.uid, view.results, view.to_backend = UUID(uid), list(graph.results), to_backend
        view._add_nodes(graph, queues)
        for index, node in enumerate(graph.nodes):
            if is_root(node):
                view.states[index] = State.READY
        edges = graph.edges
        rows = [(e.parent, e.child, e.slot, int(e.on), int(e.bind)) for e in edges]
        rows.sort(key=_by_child)
        view._set_edges(rows)
        view._keep_paths(graph, 0)
        return view

    def append(self, graph: Graph, queues: Sequence[tuple[int, int]]) -> int:
        """Add a fragment's nodes and edges behind the run's own; returns its first index.

        `queues` holds (queue id, priority) of each of the fragment's specs.
        """
        first = len(self.states)
        self._add_nodes(graph, queues)
        for edge in graph.edges:
            self.link(first + edge.parent, first + edge.child, edge.slot, edge.on, edge.bind)
        self._keep_paths(graph, first)
        return first

    def _keep_paths(self, graph: Graph, first: int) -> None:
        """Remember where results go inside arguments, for nodes that may run in this batch."""
        for edge in graph.edges:
            if edge.bind == Bind.TEMPLATE:
                self.paths.setdefault(first + edge.child, []).append((edge.slot, edge.path))

    def _add_nodes(self, graph: Graph, queues: Sequence[tuple[int, int]]) -> None:
        first, first_spec = len(self.states), len(self.specs)
        self.specs.extend(graph.specs)
        count = len(graph.nodes)
        nodes = graph.nodes
        where = [queues[n.spec] if n.spec >= 0 else (0, 0) for n in nodes]
        self.states += [State.PENDING] * count
        self.kind += bytes([n.kind for n in nodes])
        self.spec_no.extend([first_spec + n.spec if n.spec >= 0 else -1 for n in nodes])
        self.queue.extend([queue for queue, _ in where])
        self.priority.extend([priority for _, priority in where])
        self.need.extend([n.need for n in nodes])
        self.unmet.extend([n.unmet for n in nodes])
        self.retries.extend([n.retries for n in nodes])
        zeros = array("i", bytes(4 * count))
        for column in (self.generation, self.attempt, self.crashes, self.hits):
            column.extend(zeros)
        self.cause.extend(array("i", b"\xff" * (4 * count)))
        for index, node in enumerate(nodes, first):
            if node.eta:
                self.eta[index] = node.eta
            if node.expires:
                self.expires[index] = node.expires
            if node.args:
                self.args[index] = node.args
        self.open_count += count

    def link(self, parent: int, child: int, slot: int, on: int, bind: int) -> None:
        """Add one edge to a run that is loaded already."""
        self.extra_out.setdefault(parent, []).append((child, on, bind, slot))
        self.extra_in.setdefault(child, []).append(InEdge(parent, slot, on, bind))

    # -- the machine's port --------------------------------------------------------------

    def node(self, index: int) -> NodeState:
        """A copy of one node's state."""
        no = self.spec_no[index]
        return NodeState(
            index,
            self.kind[index],
            self.states[index],
            self.generation[index],
            self.attempt[index],
            self.retries[index],
            self.crashes[index],
            self.unmet[index],
            self.hits[index],
            self.need[index],
            self.cause[index],
            self.specs[no].max_crashes if no >= 0 else 0,
            self.eta.get(index, 0.0),
            self.expires.get(index, 0.0),
        )

    def out_edges(self, index: int) -> list[OutEdge]:
        """Edges to children."""
        found = []
        if index + 1 < len(self.out_start):
            low, high = self.out_start[index], self.out_start[index + 1]
            child, on = self.out_child, self.out_on
            found = [OutEdge(child[at], on[at]) for at in range(low, high)]
        if self.extra_out:
            found += [OutEdge(edge[0], edge[1]) for edge in self.extra_out.get(index, ())]
        return found

    def parents(self, index: int) -> Iterable[tuple[int, int]]:
        """(parent, on) of in-edges in slot order."""
        return [(edge.parent, edge.on) for edge in self.in_edges(index)]

    # -- for the coordinator -------------------------------------------------------------

    def in_edges(self, index: int) -> list[InEdge]:
        """Inputs in slot order."""
        found = []
        if index + 1 < len(self.in_start):
            found = [
                InEdge(self.in_parent[at], self.in_slot[at], self.in_on[at], self.in_bind[at])
                for at in range(self.in_start[index], self.in_start[index + 1])
            ]
        return found + self.extra_in.get(index, []) if self.extra_in else found

    def unbind(self, index: int) -> None:
        """Let a node's in-edges order it, and no longer bind values."""
        if index + 1 < len(self.in_start):
            for at in range(self.in_start[index], self.in_start[index + 1]):
                self.in_bind[at] = Bind.NONE
        for edge in self.extra_in.get(index, ()):
            edge.bind = Bind.NONE

    def group_of(self, index: int) -> tuple[int, int]:
        """(join, position) of a member of a group; (-1, -1) for others."""
        for edge in self.extra_out.get(index, ()) if self.extra_out else ():
            if edge[2] == Bind.ITEM:
                return edge[0], edge[3]
        if index + 1 < len(self.out_start):
            for at in range(self.out_start[index], self.out_start[index + 1]):
                place = self.out_place[at]
                if self.in_bind[place] == Bind.ITEM:
                    return self.out_child[at], self.in_slot[place]
        return -1, -1

    def body_of(self, join: int) -> int | None:
        """The node that a join's list is prepended to, if there is one."""
        for child, on in self.out_edges(join):
            if on == On.SUCCESS and self.kind[child] == Kind.TASK:
                return child
        return None

    def put(self, node: NodeState) -> None:
        """Take over a node's decided state."""
        index = node.index
        self.states[index] = node.state
        self.kind[index] = node.kind
        self.attempt[index] = node.attempt
        self.retries[index] = node.retries
        self.crashes[index] = node.crashes
        self.unmet[index] = node.unmet
        self.hits[index] = node.hits
        self.need[index] = node.need
        self.cause[index] = node.cause

    def live(self) -> list[int]:
        """Indexes of nodes that have not ended."""
        return [i for i, state in enumerate(self.states) if state not in TERMINAL]

    def __len__(self) -> int:
        return len(self.states)
