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
        if name is not None:
            if name in self._names:
                raise CanvasError(f"two nodes of {self!r} are called {name!r}: rename one")
            self._names.add(name)
        node = FlowNode(
            what,
            tuple(h.index for h in self._own(after, "after")),
            tuple(h.index for h in self._own(on_failure, "on_failure")),
            check_rule(join),
            name,
        )
        self.nodes.append(node)
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
    def from_networkx(cls, graph: Any, name: str = "flow") -> Self:
        """Build from a networkx DiGraph whose nodes carry a ``signature`` attribute.

        An edge with ``data=True`` passes the parent's result as a positional argument, in the
        order of the graph's edges; any other edge only orders.

        Raises:
            CycleFound: The graph has a cycle; one is named.
            CanvasError: A node has no signature.
        """
        import networkx

        try:
            order = list(networkx.lexicographical_topological_sort(graph, key=str))
        except networkx.NetworkXUnfeasible:
            steps = [str(a) for a, _ in networkx.find_cycle(graph)]
            raise CycleFound(f"cycle: {' -> '.join([*steps, steps[0]])}; remove one edge") from None
        flow = cls(name)
        handles: dict[Any, NodeHandle] = {}
        for key in order:
            sig = graph.nodes[key].get("signature")
            if not isinstance(sig, Signature):
                raise CanvasError(f"node {key!r} of the graph has no signature attribute")
            data = [p for p, _, d in graph.in_edges(key, data=True) if d.get("data")]
            rest = [p for p, _, d in graph.in_edges(key, data=True) if not d.get("data")]
            if data:
                sig = sig.replace(args=(*(handles[p] for p in data), *sig.args))
            join = graph.nodes[key].get("join", "all")
            after = [handles[p] for p in rest]
            handles[key] = flow.add(sig, after=after, join=join, name=str(key))
        return flow

    def to_networkx(self) -> Any:
        """A DiGraph of this flow: node attributes signature, name, join; edge attribute data."""
        import networkx

        graph = networkx.DiGraph(name=self.name)
        for index, node in enumerate(self.nodes):
            key = node.name or index
            graph.add_node(key, signature=node.signature, join=node.join, index=index)
        keys = [node.name or index for index, node in enumerate(self.nodes)]
        for index, node in enumerate(self.nodes):
            for parent in (*node.after, *node.on_failure):
                graph.add_edge(keys[parent], keys[index], data=False)
            for parent in handles_in(node.signature):
                graph.add_edge(keys[parent], keys[index], data=True)
        return graph


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
