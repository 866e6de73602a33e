"""Flow: the explicit builder for graphs that a canvas cannot express.

    flow = Flow("report")
    a = flow.add(load.s())
    b = flow.add(clean.s(a))
    flow.add(report.s(b, a), after=[c])

A handle anywhere inside arguments is a data dependency; `after` adds order without data.
Handles exist only once their node does, so a cycle cannot be written down; `from_networkx`
checks for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from flowq.core.canvas import Signature, check_rule
from flowq.errors import CanvasError, CycleFound

_HANDLE = "__flow_node__"


class NodeHandle:
    """Stands for one node of a flow, and for its result inside arguments."""

    __slots__ = ("flow", "index", "name")

    def __init__(self, flow: Flow, index: int, name: str | None) -> None:
        self.flow, self.index, self.name = flow, index, name

    def __repr__(self) -> str:
        return f"<{self.name or f'node {self.index}'} of {self.flow!r}>"


class FlowNode:
    """One entry of a flow: what runs, after what, under which rule."""

    __slots__ = ("after", "join", "name", "on_failure", "signature")

    def __init__(
        self,
        signature: Signature,
        after: tuple[int, ...],
        on_failure: tuple[int, ...],
        join: str,
        name: str | None,
    ) -> None:
        self.signature, self.after, self.on_failure = signature, after, on_failure
        self.join, self.name = join, name


class Flow:
    """A graph of tasks, built node by node.

    Args:
        name: Shown in lists; no meaning beyond that.
    """

    def __init__(self, name: str = "flow") -> None:
        self.name = name
        self.nodes: list[FlowNode] = []
        self._names: set[str] = set()

    def add(
        self,
        what: Signature,
        *,
        after: Iterable[NodeHandle] = (),
        on_failure: Iterable[NodeHandle] = (),
        join: str = "all",
        name: str | None = None,
    ) -> NodeHandle:
        """Add a task or canvas and return its handle.

        Args:
            what: A signature or any canvas; handles in its arguments become dependencies.
            after: Nodes that must have succeeded before, without passing a value.
            on_failure: Run only if one of these ends in FAILURE (the error is prepended).
            join: Rule over all in-edges: all, any, at_least(n), always (errors as values).
            name: Node name, unique in the flow; the task's short name by default.

        Raises:
            CanvasError: Not a signature, a foreign handle, or a name used twice.
        """
        if not isinstance(what, Signature):
            hint = " (did you forget .s()?)" if callable(what) else ""
            raise CanvasError(f"Flow.add() takes a signature or canvas, not {what!r}{hint}")
        if name is not None and name in self._names:
            raise CanvasError(f"two nodes of {self!r} are called {name!r}: rename one")
        first = tuple(h.index for h in self._own(after, "after"))
        failing = tuple(h.index for h in self._own(on_failure, "on_failure"))
        if join != "all":
            check_rule(join, len(first) + len(failing) + len(handles_in(what)))
        self.nodes.append(FlowNode(what, first, failing, join, name))
        if name is not None:
            self._names.add(name)
        return NodeHandle(self, len(self.nodes) - 1, name)

    def _own(self, handles: Iterable[NodeHandle], where: str) -> list[NodeHandle]:
        if isinstance(handles, NodeHandle):
            handles = [handles]
        found = list(handles)
        for handle in found:
            if not isinstance(handle, NodeHandle) or handle.flow is not self:
                raise CanvasError(f"{where}= takes nodes of the same flow, not {handle!r}")
        return found

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        return f"Flow({self.name!r}, {len(self.nodes)} nodes)"

    # -- JSON ----------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back."""
        return {
            "flow": self.name,
            "nodes": [
                {
                    "signature": _mark(node.signature),
                    "after": list(node.after),
                    "on_failure": list(node.on_failure),
                    "join": node.join,
                    "name": node.name,
                }
                for node in self.nodes
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], family: type[Signature] = Signature) -> Self:
        """Rebuild a flow from `to_dict`'s data."""
        flow = cls(data["flow"])
        for entry in data["nodes"]:
            sig = family.from_dict(_unmark(flow, entry["signature"]))
            flow.add(
                sig,
                after=[NodeHandle(flow, i, None) for i in entry["after"]],
                on_failure=[NodeHandle(flow, i, None) for i in entry["on_failure"]],
                join=entry["join"],
                name=entry["name"],
            )
        return flow

    # -- networkx ------------------------------------------------------------------------

    @classmethod
    def from_networkx(cls, graph: Any, name: str | None = None) -> Self:
        """Build from a networkx DiGraph whose nodes carry a ``signature`` attribute.

        Other node attributes: ``name`` (default: the key as text; None: no name) and ``join``. An
        edge with ``data=True`` passes the parent's result: where a handle in the signature
        refers to it, else as a positional argument, in the order of the graph's edges; with
        ``on_failure=True`` the node runs if the parent fails; any other edge only orders. What
        `to_networkx` gave comes back as the same flow.

        Args:
            graph: The graph; it is not changed.
            name: Of the flow; None: the graph's name, if it has one.

        Raises:
            CycleFound: The graph has a cycle; one is named.
            CanvasError: A node has no signature, or refers to one that has no edge to it.
        """
        flow = cls(name if name is not None else graph.graph.get("name") or "flow")
        handles: dict[Any, NodeHandle] = {}
        for key in _in_order(graph):
            sig = graph.nodes[key].get("signature")
            if not isinstance(sig, Signature):
                raise CanvasError(f"node {key!r} of the graph has no signature attribute")
            parents = [(p, edge) for p, _, edge in graph.in_edges(key, data=True)]
            handles[key] = flow.add(
                _connected(
                    sig, graph, key, [p for p, edge in parents if edge.get("data")], handles
                ),
                after=[handles[p] for p in _order_only(parents)],
                on_failure=[handles[p] for p in _picked(parents, "on_failure")],
                join=graph.nodes[key].get("join", "all"),
                name=graph.nodes[key].get("name", str(key)),
            )
        return flow

    def to_networkx(self) -> Any:
        """A DiGraph of this flow, which `from_networkx` reads back.

        Node attributes: signature, join, name, index. Edge attributes: data (whether the result
        is passed), after and on_failure (place among the node's parents of that kind, from 1).
        """
        import networkx

        graph = networkx.DiGraph(name=self.name)
        keys = [node.name or index for index, node in enumerate(self.nodes)]
        for index, node in enumerate(self.nodes):
            about = {"signature": node.signature, "join": node.join, "name": node.name}
            graph.add_node(keys[index], index=index, **about)
        for index, node in enumerate(self.nodes):
            for parent in handles_in(node.signature):
                graph.add_edge(keys[parent], keys[index], data=True)
            for kind in ("after", "on_failure"):
                for place, parent in enumerate(getattr(node, kind), 1):
                    graph.add_edge(keys[parent], keys[index], **{kind: place})
        for _, _, edge in graph.edges(data=True):
            edge.setdefault("data", False)
        return graph


def _in_order(graph: Any) -> list[Any]:
    """Keys of a graph, parents first; else as in the flow that it was made of, or as they stand."""
    import networkx

    places = {key: at for at, key in enumerate(graph)}
    ranks = {key: (graph.nodes[key].get("index", at), at) for key, at in places.items()}
    try:
        return list(networkx.lexicographical_topological_sort(graph, key=ranks.__getitem__))
    except networkx.NetworkXUnfeasible:
        steps = [str(a) for a, _ in networkx.find_cycle(graph)]
        raise CycleFound(f"cycle: {' -> '.join([*steps, steps[0]])}; remove one edge") from None


def _picked(parents: list[tuple[Any, dict[str, Any]]], kind: str) -> list[Any]:
    """Parents whose edge is of a kind, as the edges number them."""
    found = [(edge[kind], p) for p, edge in parents if edge.get(kind)]
    return [p for _, p in sorted(found, key=lambda pair: pair[0])]


def _order_only(parents: list[tuple[Any, dict[str, Any]]]) -> list[Any]:
    """Parents that only come first: those marked so, and those whose edges say nothing."""
    kinds = ("data", "after", "on_failure")
    return [
        *_picked(parents, "after"),
        *(p for p, edge in parents if not any(edge.get(kind) for kind in kinds)),
    ]


def _connected(
    sig: Signature, graph: Any, key: Any, parents: list[Any], handles: dict[Any, NodeHandle]
) -> Signature:
    """A node's signature with handles of the new flow: each where one was, the rest in front."""
    places = {graph.nodes[p].get("index"): p for p in parents}
    swap: dict[int, NodeHandle] = {}
    for index in handles_in(sig):
        if index not in places:
            raise CanvasError(
                f"node {key!r} of the graph refers to node {index}, but no data edge comes from it"
            )
        swap[index] = handles[places[index]]
    new = [handles[p] for p in parents if graph.nodes[p].get("index") not in swap]
    if swap:
        sig = _swapped(sig, swap)
    return sig.replace(args=(*new, *sig.args)) if new else sig


def _swapped(value: Any, swap: Mapping[int, NodeHandle]) -> Any:
    """A copy of a value with other handles in it."""
    if isinstance(value, NodeHandle):
        return swap[value.index]
    if isinstance(value, Signature):
        copy = value.clone()
        dict.update(copy, {key: _swapped(item, swap) for key, item in value.items()})
        return copy
    if isinstance(value, Mapping):
        return {key: _swapped(item, swap) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_swapped(item, swap) for item in value)
    return value


def handles_in(value: Any) -> list[int]:
    """Indexes of the flow nodes that a value refers to, in order of appearance."""
    if isinstance(value, NodeHandle):
        return [value.index]
    if isinstance(value, Mapping):
        return [i for item in value.values() for i in handles_in(item)]
    if isinstance(value, list | tuple):
        return [i for item in value for i in handles_in(item)]
    return []


def _mark(value: Any) -> Any:
    if isinstance(value, NodeHandle):
        return {_HANDLE: value.index}
    if isinstance(value, Mapping):
        return {key: _mark(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mark(item) for item in value]
    return value


def _unmark(flow: Flow, value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {_HANDLE}:
            return NodeHandle(flow, value[_HANDLE], None)
        return {key: _unmark(flow, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_unmark(flow, item) for item in value]
    return value
