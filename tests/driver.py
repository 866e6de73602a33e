"""Drives the machine over a compiled graph in memory, in any order of events.

Stands for store, coordinator and workers at once: applies decisions as deltas, dispatches what
is READY, lets tasks do what `play` says, and delivers reports late, out of order and twice. A
`random.Random` decides all of that, so a seed repeats a run. After each decision it checks
what must hold in every state.
"""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flowq.core import compiler, machine
from flowq.core.canvas import Signature
from flowq.core.flow import Flow
from flowq.core.graph import Bind, Edge, Graph, Kind, Node, On, Spec
from flowq.core.machine import Decision, Fact, NodeState, OutEdge
from flowq.core.states import ACTIVE, TERMINAL, TRANSITIONS, Event, State
from tests.oracle import Act, Play, error

NOISE = {"retry": Event.RETRIED, "lost": Event.LOST, "requeue": Event.RETURNED}
ENDS = {"ok": Event.SUCCEEDED, "fail": Event.FAILED, "ignore": Event.IGNORED}

#: Arrows taken by every run of every driver in this process.
ARROWS: Counter[tuple[State, Event]] = Counter()


class Binder:
    """Freezes what the driver needs to know; arguments are JSON."""

    by_call = False

    def spec(self, task: str, options: Mapping[str, Any], *_: Any) -> Spec:
        return Spec(task, priority=options.get("priority", 0))

    def encode(self, args: Any, kwargs: Mapping[str, Any], spec: Spec) -> bytes:
        return json.dumps([list(args), kwargs]).encode()


class Broken(AssertionError):
    """Something that must hold in every state does not."""


class Driver:
    """One run: the view of the machine, and everybody around it."""

    def __init__(self, graph: Graph, play: Play, rng: random.Random, duplicates: float = 0.2):
        self.play, self.rng, self.duplicates = play, rng, duplicates
        self.nodes: list[Node] = []
        self.states: list[NodeState] = []
        self.specs: list[Spec] = []
        self.outs: list[list[OutEdge]] = []
        self.ins: list[list[Edge]] = []
        self.values: dict[int, Any] = {}
        self.ready: list[int] = []
        self.flying: list[Fact] = []
        self.past: list[Fact] = []
        self.fragments: dict[tuple[int, int], Signature] = {}
        self.now = 0.0
        self.results, self.compiled = graph.results, len(graph.nodes)
        self.add(graph, "")

    # -- the port ---------------------------------------------------------------------------

    def node(self, index: int) -> NodeState:
        return copy.copy(self.states[index])

    def out_edges(self, index: int) -> Sequence[OutEdge]:
        return self.outs[index]

    def parents(self, index: int) -> Iterable[tuple[int, int]]:
        return [(edge.parent, edge.on) for edge in self.ins[index]]

    # -- store ------------------------------------------------------------------------------

    def add(self, graph: Graph, prefix: str, waiter: int = -1) -> int:
        """Insert a graph or fragment; `waiter` is the node that it replaces."""
        base, spec_base = len(self.nodes), len(self.specs)
        self.specs += graph.specs
        for i, node in enumerate(graph.nodes):
            if prefix:
                node.path = f"{prefix}/{node.path}" if node.path else prefix
            if node.spec >= 0:
                node.spec += spec_base
            self.nodes.append(node)
            self.outs.append([])
            self.ins.append([])
            self.states.append(
                NodeState(
                    base + i, node.kind, State.PENDING, 0, 0, 0, 0, node.unmet, 0, node.need,
                    -1, 5, node.eta, node.expires,
                )
            )  # fmt: skip
        for edge in graph.edges:
            self.connect(edge.parent + base, edge.child + base, edge)
        if waiter >= 0:
            tail = graph.results[0] + base
            self.connect(tail, waiter, Edge(0, 0, 1 << 20, On.ALWAYS, Bind.NONE))
        for index in range(base, len(self.nodes)):
            self.ins[index].sort(key=lambda edge: edge.slot)
        for index in reversed(range(base, len(self.nodes))):  # children before parents
            if self.told(index) == "revoke_early" and self.states[index].state not in TERMINAL:
                self.feed(Fact(index, Event.REVOKED))
        return base

    def told(self, index: int) -> str:
        node = self.nodes[index]
        return "" if node.spec < 0 else str(json.loads(node.args)[1].get("do", ""))

    def connect(self, parent: int, child: int, edge: Edge) -> None:
        self.outs[parent].append(OutEdge(child, edge.on))
        self.ins[child].append(Edge(parent, child, edge.slot, edge.on, edge.bind, edge.path))

    def feed(self, fact: Fact) -> Decision:
        """Give one fact to the machine and write what it decides."""
        decision = machine.advance(self, fact, now=self.now)
        self.write(decision)
        return decision

    def write(self, decision: Decision) -> None:
        for index, (unmet, hits) in decision.counts.items():
            old, new = self.states[index], decision.nodes[index]
            if (old.unmet - unmet, old.hits + hits) != (new.unmet, new.hits):
                raise Broken(f"counts of {self.nodes[index].path!r} are not its deltas")
        for index, new in decision.nodes.items():
            self.states[index].cause = new.cause
        for step in decision.transitions:
            state = self.states[step.node]
            arrow = (step.before, step.event)
            if state.state is not step.before or TRANSITIONS.get(arrow) is not step.after:
                raise Broken(f"{step} from {state.state}")
            ARROWS[arrow] += 1
            state.state = step.after
            self.became(step.node, step.after)
        for index, new in decision.nodes.items():
            self.states[index] = copy.copy(new)
        for timer in decision.timers:
            if timer.kind != "expires":
                self.flying.append(Fact(timer.node, Event.DUE))

    def became(self, index: int, state: State) -> None:
        if state is State.READY:
            self.ready.append(index)
        elif state is State.SUCCESS and self.states[index].kind == Kind.JOIN:
            self.values[index] = list(self.items(index))
        elif state is State.SUCCESS and self.states[index].kind == Kind.PASS:
            self.values[index] = self.values[self.ins[index][-1].parent]

    def items(self, index: int) -> Iterable[Any]:
        for edge in self.ins[index]:
            if edge.bind == Bind.ITEM:
                if self.states[edge.parent].state is State.SUCCESS:
                    yield self.values[edge.parent]
                elif self.nodes[index].need < 0:
                    yield self.error_of(edge.parent)

    def error_of(self, index: int) -> Any:
        state = self.states[index]
        ended = state.state in (State.FAILURE, State.REVOKED)
        root = index if ended else state.cause
        return error(self.nodes[root].path if root >= 0 else None)

    # -- workers ----------------------------------------------------------------------------

    def act(self, index: int) -> Act:
        node = self.nodes[index]
        args, kwargs = json.loads(node.args)
        front: list[Any] = []
        failed = False
        for edge in self.ins[index]:
            parent = self.states[edge.parent].state
            if edge.bind == Bind.TEMPLATE:
                put(json.loads(edge.path), [args, kwargs], self.input(edge.parent))
            elif edge.bind == Bind.PREPEND and edge.on == On.SUCCESS:
                front.append(self.input(edge.parent))
            elif edge.bind == Bind.PREPEND and parent is State.FAILURE and not failed:
                front.append(self.error_of(edge.parent))
                failed = True
        return self.play(self.specs[node.spec].task, [*front, *args], kwargs)

    def input(self, parent: int) -> Any:
        if self.states[parent].state is State.SUCCESS:
            return self.values[parent]
        return self.error_of(parent)

    def dispatch(self, index: int) -> None:
        """Send a READY node out; its reports start flying."""
        if self.states[index].state is not State.READY:
            return
        self.feed(Fact(index, Event.DISPATCHED))
        act = self.act(index)
        attempt = self.states[index].attempt
        begun = Fact(index, Event.BEGAN, attempt)
        noisy = attempt <= len(act.noise)
        if act.value != "expire" and self.rng.random() < 0.6:
            self.flying.append(begun)
        if noisy:
            event = NOISE[act.noise[attempt - 1]]
            self.flying.append(Fact(index, event, attempt, 1.0))
        elif act.kind == "revoke":
            self.flying.append(Fact(index, Event.REVOKED))
        elif act.kind == "replace":
            self.fragments[index, attempt] = act.value
            self.flying.append(Fact(index, Event.REPLACED, attempt))
        elif act.kind == "fail" and act.value == "lost":
            self.flying.append(Fact(index, Event.LOST, attempt))
        else:
            if act.kind == "ok":
                self.values[index] = json.loads(json.dumps(act.value))
            late = act.value == "expire" and self.rng.random() < 0.5
            self.flying.append(Fact(index, ENDS[act.kind], -1 if late else attempt))

    def deliver(self, fact: Fact) -> None:
        before = self.states[fact.index].state
        decision = self.feed(fact)
        if fact.event is Event.REPLACED and decision.transitions:
            self.splice(fact)
        if (
            decision.transitions
            and before in ACTIVE
            and self.states[fact.index].state not in ACTIVE
        ):
            self.contradict(fact)

    def splice(self, fact: Fact) -> None:
        canvas = self.fragments[fact.index, fact.attempt]
        fragment = compiler.compile_canvas(canvas, Binder())
        path = self.nodes[fact.index].path
        first = self.add(fragment, f"{path}/r" if path else "r", fact.index)
        self.write(machine.start(self, range(first, len(self.nodes)), now=self.now))

    def contradict(self, fact: Fact) -> None:
        """Another story about the same attempt comes too late to be heard."""
        if fact.attempt < 0 or self.rng.random() >= self.duplicates:
            return
        for event in (Event.SUCCEEDED, Event.FAILED, Event.LOST, Event.IGNORED, Event.RETRIED):
            self.unheard(Fact(fact.index, event, fact.attempt))

    def unheard(self, fact: Fact) -> None:
        decision = machine.advance(self, fact, now=self.now)
        if decision.transitions or decision.counts or decision.timers:
            raise Broken(f"heard twice: {fact} in {self.states[fact.index].state}")

    # -- the run ----------------------------------------------------------------------------

    def run(self) -> None:
        """Go on until nothing can happen any more."""
        self.write(machine.start(self, range(len(self.nodes)), now=self.now))
        while self.ready or self.flying:
            self.now += 1.0
            if self.now > 100.0 * (len(self.nodes) + 10):
                raise Broken("the run does not end")
            n = self.rng.randrange(len(self.ready) + len(self.flying))
            if n < len(self.ready):
                self.dispatch(_take(self.ready, n))
            else:
                fact = _take(self.flying, n - len(self.ready))
                self.deliver(fact)
                self.past.append(fact)
                if self.rng.random() < self.duplicates:
                    again = self.rng.choice(self.past)
                    if (
                        again.event is not Event.DUE
                        or self.states[again.index].state is not State.RETRY
                    ):
                        self.unheard(again)
            if self.rng.random() < 0.1:
                self.recount()
        self.recount()

    def recount(self) -> None:
        """`unmet` and `hits` of what waits equal a count of its in-edges."""
        for state in self.states:
            if state.state is not State.PENDING:
                continue
            edges = self.ins[state.index]
            if state.kind == Kind.PASS:
                edges = [edge for edge in edges if edge.on == On.ALWAYS]
            ends = [(self.states[edge.parent].state, edge.on) for edge in edges]
            unmet = sum(end not in TERMINAL for end, _ in ends)
            hits = sum(
                end in TERMINAL and (on == On.ALWAYS or end == (State.SUCCESS, State.FAILURE)[on])
                for end, on in ends
            )
            if (state.unmet, state.hits) != (unmet, hits):
                path = self.nodes[state.index].path
                raise Broken(f"{path!r}: unmet {state.unmet}, recounted {unmet}")

    def errbacks(self) -> int:
        """How many errback elements were called: those with a failure edge that hit."""
        called = set()
        for index, edges in enumerate(self.ins):
            ends = [(edge.on, self.states[edge.parent].state) for edge in edges]
            if (On.FAILURE, State.FAILURE) in ends:
                called.add(_errback_of(self.nodes[index].path))
        return len(called - {""})


def drive(canvas: Signature | Flow, play: Play, seed: int, duplicates: float = 0.2) -> Driver:
    """Compile a canvas and run it to its end."""
    graph = compiler.compile_canvas(canvas, Binder())
    driver = Driver(graph, play, random.Random(seed), duplicates)
    driver.run()
    return driver


def _take(items: list[Any], n: int) -> Any:
    items[n], items[-1] = items[-1], items[n]
    return items.pop()


def _errback_of(path: str) -> str:
    """Path of the errback that a node is in, empty for none."""
    parts = path.split("/")
    while parts and not (parts[-1][0] == "e" and parts[-1][1:].isdigit()):
        parts.pop()
    return "/".join(parts)


def put(where: list[Any], target: Any, value: Any) -> None:
    """Set the value at a place inside nested lists and dicts."""
    for key in where[:-1]:
        target = target[key]
    target[where[-1]] = value
