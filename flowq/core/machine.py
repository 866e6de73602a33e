"""The machine: one reported fact in, what changes out. Pure; the only place that decides.

Theory of the file. `TRANSITIONS` (states.py) decides the node that an event names. Then the
*consequences* are worked off a queue until nothing changes: each node that has ended tells its
children, a child's `unmet` goes down (and `hits` up, if the edge waited for that outcome), and
`_verdict` says whether the child fires, can never fire, or still waits. Joins and passes end
by themselves, so they tell their children in the same call.

What does not fit the table, and why:

- LOST and over `max_crashes` is FAILED: the count decides the event, not the arrow.
- A task whose time has not come stays PENDING when it is unblocked; a timer brings DUE.
- PENDING, all parents in, no hit: BLOCKED or BROKEN. A join is BLOCKED only if the block came
  from before its group, that is if every missing parent's cause has a lower index than the
  join itself (the compiler numbers a join before its members), or was not needed. A pass
  takes over the outcome of what replaced it.
- A report about an old attempt, or about a node that has ended, is *discarded*: an empty
  decision that says so. Everything may arrive twice.

A cause is the node that made something not happen: itself FAILURE or REVOKED, or a node that
raised Ignore (whose cause is itself). -1 means none: the node was not needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from flowq.core.graph import Kind, On
from flowq.core.moments import EPOCH
from flowq.core.states import ACTIVE, TERMINAL, TRANSITIONS, Event, State
from flowq.errors import InvalidTransition

NO_CAUSE = -1


class NodeState(msgspec.Struct, gc=False):
    """One node as the machine sees it."""

    index: int
    kind: int
    state: State
    generation: int
    attempt: int
    retries: int
    crashes: int
    unmet: int
    hits: int
    need: int
    cause: int
    max_crashes: int
    eta: float
    expires: float


class OutEdge(NamedTuple):
    """What a node's end means to a child."""

    child: int
    on: int


class GraphView(Protocol):
    """The small read port through which the machine sees a run.

    Cheap and without side effects; the answers hold for the length of one `advance`.
    """

    def node(self, index: int) -> NodeState:
        """A copy of one node's state, which the machine may change."""
        ...

    def out_edges(self, index: int) -> Sequence[OutEdge]:
        """Edges to children, in the order of the graph."""
        ...

    def parents(self, index: int) -> Iterable[tuple[int, int]]:
        """(parent, on) of a node's in-edges, in slot order."""
        ...


class Fact(msgspec.Struct, gc=False):
    """One event about one node.

    `attempt` is the attempt it speaks of; -1 for what is not about an attempt. `delay` is the
    seconds until a retry.
    """

    index: int
    event: Event
    attempt: int = -1
    delay: float = 0.0


class Transition(NamedTuple):
    """One change of state, in the order in which it happened."""

    node: int
    before: State
    event: Event
    after: State
    cause: int = NO_CAUSE


class Timer(NamedTuple):
    """Command: wake this node at an epoch time."""

    node: int
    kind: str  #: eta | retry | expires
    due_at: float


class Decision(NamedTuple):
    """What one fact changes.

    `nodes` holds each touched node's state after it, by index: the values to write. `counts`
    holds, by index, how far `unmet` went down and `hits` up.
    """

    transitions: list[Transition]
    nodes: dict[int, NodeState]
    counts: dict[int, tuple[int, int]]
    timers: list[Timer]
    discarded: bool = False


_DISCARDED = Decision([], {}, {}, [], discarded=True)
_EMPTY = Decision([], {}, {}, [])
_HIT = {
    (State.SUCCESS, On.SUCCESS): True,
    (State.FAILURE, On.FAILURE): True,
    (State.SUCCESS, On.ALWAYS): True,
    (State.FAILURE, On.ALWAYS): True,
    (State.SKIPPED, On.ALWAYS): True,
    (State.REVOKED, On.ALWAYS): True,
}


def is_hit(state: State, on: int) -> bool:
    """Whether a parent that ended like this is what an edge waited for."""
    return (state, on) in _HIT


def advance(view: GraphView, fact: Fact, *, now: float) -> Decision:
    """Decide what one reported fact changes in a run.

    Safe to repeat: a fact that `view` already reflects gives an empty or discarded decision.

    Args:
        view: The run as stored.
        fact: One fact about one of its nodes.
        now: Epoch seconds of the store's clock; timers are dated from it.

    Returns:
        Transitions in order, the touched nodes' new states, counter changes and timers.

    Raises:
        InvalidTransition: The event can never follow the node's state: a bug in a sender.
    """
    work = _Work(view, now)
    node = work.node(fact.index)
    event = fact.event
    if fact.attempt >= 0:
        if fact.attempt != node.attempt or node.state not in ACTIVE:
            return _DISCARDED  # also a late FAILED after LOST, RETRY or a replacement
    elif event is Event.DUE and node.state is State.PENDING and not _waits_for_time(node):
        return _EMPTY
    if event is Event.LOST:
        node.crashes += 1
        if node.crashes > node.max_crashes:
            event = Event.FAILED
    after = TRANSITIONS.get((node.state, event))
    if after is None:
        if fact.attempt >= 0 or node.state in TERMINAL or event is Event.DUE:
            return _EMPTY if event in (Event.BEGAN, Event.DUE) else _DISCARDED
        raise InvalidTransition(fact.index, node.state, event)
    work.apply(node, event, after, fact)
    work.settle()
    return Decision(work.transitions, work.nodes, work.counts, work.timers)


def start(view: GraphView, indexes: Iterable[int], *, now: float) -> Decision:
    """Decide about nodes that wait for nothing: first call for a run or a fragment.

    Tasks become READY (or wait for their time), empty joins resolve. Nodes that are not
    PENDING are left alone, so a second call changes nothing.
    """
    work = _Work(view, now)
    for index in indexes:
        node = work.node(index)
        if node.state is State.PENDING and node.unmet == 0:
            work.verdict(node)
    work.settle()
    return Decision(work.transitions, work.nodes, work.counts, work.timers)


class _Work:
    """The working copy of one decision."""

    __slots__ = ("_ended", "_now", "_view", "counts", "nodes", "timers", "transitions")

    def __init__(self, view: GraphView, now: float) -> None:
        self._view, self._now = view, now
        self.nodes: dict[int, NodeState] = {}
        self.counts: dict[int, tuple[int, int]] = {}
        self.transitions: list[Transition] = []
        self.timers: list[Timer] = []
        self._ended: list[NodeState] = []

    def node(self, index: int) -> NodeState:
        found = self.nodes.get(index)
        if found is None:
            found = self.nodes[index] = self._view.node(index)
        return found

    def apply(self, node: NodeState, event: Event, after: State, fact: Fact) -> None:
        """Carry out the event that was reported."""
        if event is Event.RETRIED:
            node.retries += 1
            self.timers.append(Timer(node.index, "retry", self._now + fact.delay))
        elif event is Event.IGNORED or after in (State.FAILURE, State.REVOKED):
            node.cause = node.index
        elif event is Event.DISPATCHED:
            node.attempt += 1
        elif event is Event.REPLACED:
            # from now on it waits for one edge, the fragment's; late parents no longer count
            self.counts[node.index] = (node.unmet - 1, -node.hits)
            node.kind, node.need, node.unmet, node.hits = Kind.PASS, 1, 1, 0
        self._move(node, event, after, node.cause)

    def settle(self) -> None:
        """Tell the children of what ended, until nothing more ends."""
        for parent in self._ended:  # it grows as they end
            state = parent.state
            for child_index, on in self._view.out_edges(parent.index):
                child = self.node(child_index)
                if child.state is not State.PENDING:
                    continue
                if child.kind == Kind.PASS:
                    if on == On.ALWAYS:
                        self._count(child, 1)
                        self._end_pass(child, parent)
                    continue
                hit = int((state, on) in _HIT)
                self._count(child, hit)
                self.verdict(child)
        self._ended.clear()

    def _count(self, child: NodeState, hit: int) -> None:
        child.unmet -= 1
        child.hits += hit
        unmet, hits = self.counts.get(child.index, (0, 0))
        self.counts[child.index] = (unmet + 1, hits + hit)

    def verdict(self, node: NodeState) -> None:
        """Say whether a waiting node fires, can never fire, or still waits."""
        need = node.need
        if need >= 0:
            if node.hits >= need:
                self._fire(node)
            elif node.unmet == 0:
                self._give_up(node)
        elif node.unmet == 0:
            if node.hits == 0 and self._blocked_from_before(node):
                self._give_up(node)
            else:
                self._fire(node)

    def _fire(self, node: NodeState) -> None:
        if node.kind != Kind.TASK:
            self._move(node, Event.RESOLVED, State.SUCCESS, NO_CAUSE)
            return
        if node.expires:
            due = node.expires if node.expires > EPOCH else self._now + node.expires
            self.timers.append(Timer(node.index, "expires", due))
        if node.eta:
            due = node.eta if node.eta > EPOCH else self._now + node.eta
            if due > self._now:
                self.timers.append(Timer(node.index, "eta", due))
                return
        self._move(node, Event.UNBLOCKED, State.READY, NO_CAUSE)

    def _give_up(self, node: NodeState) -> None:
        cause = self._cause(node)
        if node.kind == Kind.TASK or self._blocked_from_before(node):
            self._move(node, Event.BLOCKED, State.SKIPPED, cause)
        else:
            self._move(node, Event.BROKEN, State.FAILURE, cause)

    def _end_pass(self, node: NodeState, tail: NodeState) -> None:
        """Give a replaced node the outcome of the fragment's tail."""
        if tail.state is State.SUCCESS:
            self._move(node, Event.RESOLVED, State.SUCCESS, NO_CAUSE)
            return
        cause = _root(tail)
        why = State.SKIPPED if cause == NO_CAUSE else self._view_node(cause).state
        if why is State.FAILURE:
            self._move(node, Event.BROKEN, State.FAILURE, cause)
        elif why is State.REVOKED:
            self._move(node, Event.REVOKED, State.REVOKED, cause)
        else:
            self._move(node, Event.BLOCKED, State.SKIPPED, cause)

    def _missing(self, node: NodeState) -> list[tuple[NodeState, int]]:
        """In-edges that were no hit, in slot order."""
        found = [(self._view_node(p), on) for p, on in self._view.parents(node.index)]
        return [(p, on) for p, on in found if (p.state, on) not in _HIT]

    def _view_node(self, index: int) -> NodeState:
        found = self.nodes.get(index)
        return self._view.node(index) if found is None else found

    def _cause(self, node: NodeState) -> int:
        """The node that made `node` impossible; -1 if it was merely not needed."""
        for parent, on in self._missing(node):
            if on == On.FAILURE:
                return NO_CAUSE
            return _root(parent)
        return NO_CAUSE

    def _blocked_from_before(self, node: NodeState) -> bool:
        """Whether all that a join misses was stopped by something in front of its group."""
        if node.kind != Kind.JOIN:
            return False
        missing = False
        for index, on in self._view.parents(node.index):
            parent = self._view_node(index)
            hit = (parent.state, on) in _HIT
            missing = missing or not hit
            if index < node.index:
                continue  # stands in front of the group itself
            if hit or parent.state is not State.SKIPPED or not self._cut_off(parent, node.index):
                return False
        return missing

    def _cut_off(self, node: NodeState, join: int) -> bool:
        """Whether a skipped node of a join's group was stopped by something before the group.

        A cause below the join stands before it. One above it is inside, or in the fragment of a
        replaced node before it: then the way to it leaves the group at that node.
        """
        if node.cause < join:
            return True
        while node.kind != Kind.PASS and node.cause != node.index:
            missing = self._missing(node)
            if not missing:
                return False
            node = missing[0][0]
            if node.index < join:
                return True
            if node.state is not State.SKIPPED:
                return False
        return False

    def _move(self, node: NodeState, event: Event, after: State, cause: int) -> None:
        if event not in (Event.UNBLOCKED, Event.RESOLVED):
            node.cause = cause
        if TRANSITIONS.get((node.state, event)) is not after:
            raise InvalidTransition(node.index, node.state, event)
        self.transitions.append(Transition(node.index, node.state, event, after, cause))
        node.state = after
        if after in TERMINAL:
            self._ended.append(node)


def _waits_for_time(node: NodeState) -> bool:
    """Whether a PENDING node has all it needs but its time."""
    fired = node.hits >= node.need if node.need >= 0 else node.unmet == 0
    return fired and node.kind == Kind.TASK


def _root(node: NodeState) -> int:
    """Where a node's not having succeeded comes from."""
    if node.state in (State.FAILURE, State.REVOKED):
        return node.index
    return node.cause


def outcome(results: Sequence[NodeState], view: GraphView) -> bool:
    """Whether a finished run succeeded: no result node failed or was cut off by a failure."""
    for node in results:
        if node.state in (State.FAILURE, State.REVOKED):
            return False
        if node.state is State.SKIPPED:
            cause = node.cause
            if cause != NO_CAUSE and view.node(cause).state in (State.FAILURE, State.REVOKED):
                return False
    return True
