"""The drawing: everything a picture of a graph or run says, as one value that JSON can carry.

`drawing_of` makes it from rows of nodes and edges; `fold.collapse` makes a big one small; every
renderer reads nothing else. The nested groups are rebuilt from the nodes' paths (see `tree`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from flowq.render import timing, tree
from flowq.render.label import plain, short
from flowq.render.tree import Group

#: Run states in which a run's durations are not yet final.
_OPEN = frozenset({"", "RUNNING", "PAUSED"})
#: Words of the compiled graph's numbers, in their order.
_KINDS = ("task", "join", "pass")
_ENDS = ("success", "failure", "always")
_BINDS = ("none", "prepend", "item", "template")


class Node(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One box: a node, or many folded into one (`count` above 1)."""

    id: str
    idx: int = -1
    name: str
    task: str = ""
    kind: str = "task"
    state: str = "PENDING"
    path: str = ""
    began: float | None = None
    ended: float | None = None
    #: Measured, or so far if it runs and the drawing was made with `now`; summed never.
    seconds: float | None = None
    attempt: int = 0
    retries: int = 0
    error: str = ""
    critical: bool = False
    count: int = 1
    #: Nodes per state of a folded box; empty for a single node.
    counts: dict[str, int] = {}
    #: Shortest, median and longest duration of a folded box.
    spread: tuple[float, float, float] | None = None
    #: Names of the first failed members of a folded box.
    failed: list[str] = []


class Edge(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One arrow between two boxes."""

    parent: str
    child: str
    on: str = "success"
    bind: str = "none"
    critical: bool = False
    #: How many edges of the graph this arrow stands for.
    count: int = 1


class Drawing(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A picture of a graph before, during or after its run."""

    title: str = ""
    #: State of the run; empty for a graph that was not submitted.
    state: str = ""
    began: float | None = None
    ended: float | None = None
    seconds: float | None = None
    #: Nodes per state, folded ones counted singly, joins not counted.
    counts: dict[str, int] = {}
    nodes: list[Node] = []
    edges: list[Edge] = []
    root: Group = msgspec.field(default_factory=lambda: Group(id="root", kind="chain"))

    @property
    def total(self) -> int:
        """How many nodes the graph has, joins not counted."""
        return sum(self.counts.values())

    def by_id(self) -> dict[str, Node]:
        """The boxes by id: a new dictionary at each call."""
        return {node.id: node for node in self.nodes}


def drawing_of(
    nodes: Iterable[Any],
    edges: Iterable[Any],
    *,
    title: str = "",
    state: str | None = None,
    finished: float | None = None,
    now: float | None = None,
) -> Drawing:
    """Describe a graph, or a run, as a drawing.

    Args:
        nodes: Objects with the attributes of a NodeRow; all but `idx` may be missing, as in a
            graph that was not submitted.
        edges: Objects with parent and child (values of `idx`), and perhaps `on` and `bind`.
        title: Name of the canvas, flow or run.
        state: State of the run; None before there is one.
        finished: When the run ended, epoch seconds; None while it runs.
        now: If given, running nodes show their time so far.

    The critical path is marked only once the run is over: until then it is not known.
    """
    drawn = [_node(row, now) for row in nodes]
    ids = {node.idx: node.id for node in drawn}
    arrows = [_edge(row, ids) for row in edges if row.parent in ids and row.child in ids]
    tails = tree.tails_of(drawn, arrows)
    if tails:
        arrows = _through(drawn, arrows, tails)
    word = str(state or "")
    if word not in _OPEN or finished is not None:
        _mark_critical(drawn, arrows)
    began = min((node.began for node in drawn if node.began is not None), default=None)
    ended = finished if finished is not None else _last_end(drawn, word, now)
    return Drawing(
        title=plain(title),
        state=word,
        began=began,
        ended=ended,
        seconds=ended - began if ended is not None and began is not None else None,
        counts=count_states(drawn),
        nodes=drawn,
        edges=arrows,
        root=tree.grow(drawn, tails),
    )


def drawing_of_graph(graph: Any, *, title: str = "") -> Drawing:
    """Describe a compiled graph (flowq.core.graph.Graph) that has not run."""
    nodes = [
        Node(
            id=f"n{idx}",
            idx=idx,
            name=node.name,
            path=node.path,
            kind=_word(node.kind, _KINDS, "task"),
            task=graph.specs[node.spec].task if node.spec >= 0 else "",
        )
        for idx, node in enumerate(graph.nodes)
    ]
    return drawing_of(nodes, graph.edges, title=title)


def count_states(nodes: Iterable[Node]) -> dict[str, int]:
    """Nodes per state, joins and passes not counted, folded boxes by what they hold."""
    counts: dict[str, int] = {}
    for node in nodes:
        if node.kind != "task":
            continue
        for state, count in (node.counts or {node.state: node.count}).items():
            counts[state] = counts.get(state, 0) + count
    return counts


def _node(row: Any, now: float | None) -> Node:
    idx = row.idx
    task = plain(getattr(row, "task", "") or "")
    began, ended = getattr(row, "began_at", None), getattr(row, "ended_at", None)
    state = str(getattr(row, "state", None) or "PENDING")
    until = ended if ended is not None else now if state == "STARTED" else None
    return Node(
        id=f"n{idx}",
        idx=idx,
        name=plain(getattr(row, "name", "") or short(task) or f"#{idx}"),
        task=task,
        kind=_word(getattr(row, "kind", None), _KINDS, "task"),
        state=state,
        path=getattr(row, "path", "") or "",
        began=began,
        ended=ended,
        seconds=max(0.0, until - began) if until is not None and began is not None else None,
        attempt=getattr(row, "attempt", 0) or 0,
        retries=getattr(row, "retries", 0) or 0,
        error=plain(getattr(row, "error", "") or ""),
    )


def _edge(row: Any, ids: dict[int, str]) -> Edge:
    return Edge(
        parent=ids[row.parent],
        child=ids[row.child],
        on=_word(getattr(row, "on", None), _ENDS, "success"),
        bind=_word(getattr(row, "bind", None), _BINDS, "none"),
    )


def _word(value: Any, names: Sequence[str], default: str) -> str:
    """A word given as itself or, as the compiled graph has it, as its number."""
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value) if value else default


def _through(nodes: list[Node], edges: list[Edge], tails: set[str]) -> list[Edge]:
    """Lead the edges into a replaced node to the first nodes of what replaced it instead."""
    heads = tree.heads_of(nodes, edges, tails)
    paths = {node.id: node.path for node in nodes}
    found = []
    for edge in edges:
        firsts = heads.get(edge.child)
        if not firsts or tree.inside(paths[edge.parent], paths[edge.child]):
            found.append(edge)
            continue
        found += [
            Edge(parent=edge.parent, child=first, on=edge.on, bind=edge.bind) for first in firsts
        ]
    return found


def _last_end(nodes: list[Node], state: str, now: float | None) -> float | None:
    if state in ("RUNNING", "PAUSED"):
        return now
    return max((node.ended for node in nodes if node.ended is not None), default=None)


def _mark_critical(nodes: list[Node], edges: list[Edge]) -> None:
    spent = {node.id: node.seconds or 0.0 for node in nodes}
    path = timing.longest(spent, [(edge.parent, edge.child) for edge in edges])
    on_path = set(path)
    steps = set(pairwise(path))
    for node in nodes:
        node.critical = node.id in on_path
    for edge in edges:
        edge.critical = (edge.parent, edge.child) in steps
