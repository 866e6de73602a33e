"""Canvas -> graph: the only place that knows what chain, group and chord mean.

`compile_canvas` walks a canvas once and writes nodes and edges. What each element means is
`docs/outcomes.md`; how it is laid out:

- An element is compiled against a `_Source`: the parents whose end it waits for. Its first
  nodes get one edge from each of them; what follows inside gets edges of its own.
- It yields a `_Part`: its *tail* (the node whose value is the element's), and the nodes whose
  FAILURE means that the element failed. Errbacks hang on those, as one node that fires at the
  first hit. Members of a group keep their parts apart, for each gets its own errback.
- A group always ends in a join, also where nothing follows: its value is then one node's.
- A join's index is lower than those of its members. So a join can tell a block that came from
  before the group (cause below its own index) from a failure inside it.
- Nothing here asks a registry, a clock or a serialiser: the `Binder` freezes options and
  encodes arguments. Compiling the same canvas twice gives the same bytes.

Options of a composite reach what Celery's do: a chain's its first element, a group's
every member, a chord's header and body (a countdown only the header).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from flowq.core import canvas as cv
from flowq.core.canvas import Signature
from flowq.core.dictform import as_value
from flowq.core.flow import Flow, NodeHandle, handles_in
from flowq.core.graph import Bind, Edge, Graph, Kind, Node, On, Spec
from flowq.core.moments import moment
from flowq.core.recursion import deep_recursion
from flowq.core.signature import as_list
from flowq.errors import CanvasError, LimitExceeded

#: Option keys that belong to an element itself and are not handed to its parts.
_OWN = frozenset(
    (
        *("link", "link_error", "join", "task_id", "group_id", "group_index", "chord"),
        *("root_id", "parent_id", "reply_to", "node_name"),
    )
)
_NO_OPTIONS: Mapping[str, Any] = {}


class Binder(Protocol):
    """What compiling needs from outside.

    Both must be pure for the time of one call: equal input, equal output.
    """

    by_call: bool  #: Whether `spec` looks at arguments.

    def spec(
        self, task: str, options: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Spec:
        """Freeze a task's options; raises NotRegistered for an unknown name."""
        ...

    def encode(self, args: Any, kwargs: Mapping[str, Any], spec: Spec) -> bytes:
        """Encode [args, kwargs] as a frame; raises UnserialisableArgument."""
        ...


class _Source(NamedTuple):
    """What an element waits for."""

    parents: tuple[int, ...] = ()
    on: On = On.SUCCESS
    need: int | None = None  #: None: all of them
    bind: Bind = Bind.PREPEND


class _Part(NamedTuple):
    """A compiled element."""

    tail: int
    fails: tuple[int, ...]
    members: tuple[_Part, ...] = ()  #: of a group: each member's part
    places: tuple[str, ...] = ()  #: and its path


_START = _Source()


def compile_canvas(
    canvas: Signature | Flow, binder: Binder, *, max_nodes: int = 1_000_000, max_nesting: int = 1000
) -> Graph:
    """Compile a canvas or a flow into a graph.

    Args:
        canvas: What to run. It is not changed.
        binder: Freezes options and encodes arguments.
        max_nodes: Refuse more nodes than this.
        max_nesting: Refuse deeper nesting than this.

    Raises:
        CanvasError: The canvas is empty, too large, too deep, or names an unknown task.
        UnserialisableArgument: An argument cannot travel.
    """
    compiler = _Compiler(binder, max_nodes, max_nesting)
    with deep_recursion(max_nesting):
        if isinstance(canvas, Flow):
            results = compiler.flow(canvas)
        elif isinstance(canvas, Signature):
            results = [compiler.element(canvas, _START, "", "", _NO_OPTIONS).tail]
        else:
            raise CanvasError(f"cannot run {canvas!r}: give a signature, a canvas or a Flow")
    return compiler.graph(results)


class _Compiler:
    """Collects the nodes and edges of one compilation."""

    def __init__(self, binder: Binder, max_nodes: int, max_nesting: int) -> None:
        self._binder, self._max_nodes, self._max_nesting = binder, max_nodes, max_nesting
        self._specs: dict[Spec, int] = {}
        self._by_task: dict[str, tuple[Spec, int]] = {}
        self._nodes: list[Node] = []
        self._edges: list[Edge] = []
        self._names: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._depth = 0
        self._flow_tails: list[int] | None = None

    def graph(self, results: list[int]) -> Graph:
        return Graph(list(self._specs), self._nodes, self._edges, results)

    # -- elements ------------------------------------------------------------------------

    def element(
        self, sig: Signature, source: _Source, path: str, suffix: str, over: Mapping[str, Any]
    ) -> _Part:
        """Compile one element and what is linked to it; `over` are options from outside."""
        kind = sig.get("subtask_type")
        if kind is None or kind in ("xmap", "xstarmap"):
            part = self._task(sig, source, path, suffix, over)
        else:
            part = self._composite(kind, sig, source, path, suffix, over)
        options = sig["options"]
        if options and ("link" in options or "link_error" in options):
            self._links(sig, part, path, suffix)
        return part

    def _composite(
        self,
        kind: str,
        sig: Signature,
        source: _Source,
        path: str,
        suffix: str,
        over: Mapping[str, Any],
    ) -> _Part:
        self._depth += 1
        if self._depth > self._max_nesting:
            raise LimitExceeded(
                f"the canvas nests deeper than {self._max_nesting} levels: raise max_nesting "
                "or write a chain as chain(a, b, ...)"
            )
        try:
            if kind == "chunks":
                sig, kind = sig.group(), "group"  # type: ignore[attr-defined]
            if kind == "chain":
                return self._chain(sig, source, path, suffix, over)  # type: ignore[arg-type]
            if kind == "group":
                if (
                    not sig["kwargs"]["tasks"]
                    and len(source.parents) == 1
                    and source == _Source(source.parents)
                ):
                    return _Part(source.parents[0], ())  # of nothing: hands its input on
                return self._group(sig, source, path, suffix, over)  # type: ignore[arg-type]
            if kind == "chord":
                return self._chord(sig, source, path, suffix, over)  # type: ignore[arg-type]
            if kind == "expand":
                self._check_names(sig)
                return self._task(sig, source, path, suffix, over)
        finally:
            self._depth -= 1
        raise CanvasError(f"unknown canvas type {kind!r}")

    def _task(
        self, sig: Signature, source: _Source, path: str, suffix: str, over: Mapping[str, Any]
    ) -> _Part:
        options = sig["options"]
        if over:
            options = {**options, **over}
        name = sig["task"]
        if options or self._binder.by_call:
            spec, number = self._spec(name, options, sig.get("args") or (), sig["kwargs"])
        else:
            known = self._by_task.get(name)
            if known is None:
                known = self._by_task[name] = self._spec(name, options, (), {})
            spec, number = known
        args, kwargs = sig.get("args") or (), sig["kwargs"]
        refs: list[tuple[int, list[Any]]] = []
        if self._flow_tails is not None:
            args, kwargs = self._take_handles([list(args), kwargs], refs)
        index = self._add(
            Node(
                number,
                Kind.TASK,
                self._name(options.get("node_name") or name.rpartition(".")[2], suffix),
                path,
                args=self._binder.encode(args, kwargs, spec),
            )
        )
        if spec.expires:
            self._nodes[index].expires = spec.expires
        if options:
            self._times(self._nodes[index], options)
        self._connect(index, source, immutable=sig.get("immutable", False))
        for tail, where in refs:
            self._edge(tail, index, On.SUCCESS, Bind.TEMPLATE, where)
        return _Part(index, (index,))

    def _chain(
        self, sig: cv.chain, source: _Source, path: str, suffix: str, over: Mapping[str, Any]
    ) -> _Part:
        tasks = [t for t in sig.tasks if not _is_empty_chain(t)]
        if not tasks:
            raise CanvasError("nothing to run: the chain is empty")
        options = {**sig.options, **over}
        first = {k: v for k, v in options.items() if k not in _OWN}
        fails: list[int] = []
        part = _Part(-1, ())
        for i, task in enumerate(tasks):
            part = self.element(task, source, _under(path, f"c{i}"), suffix, first)
            source, first = _Source((part.tail,)), {}
            if i < len(tasks) - 1 or not part.members:
                fails.extend(part.fails)
        self._alias(part.tail, options)
        for errback in as_list(options.get("link_error")):
            self._errback(errback, tuple(fails), path, suffix)
            for member, place in zip(part.members, part.places):
                self._errback(errback, member.fails, place, suffix)
        if part.members:
            fails.extend(part.fails)
        return _Part(part.tail, tuple(fails))

    def _group(
        self, sig: cv.group, source: _Source, path: str, suffix: str, over: Mapping[str, Any]
    ) -> _Part:
        options = sig.options
        rule = options.get("join", "all")
        join = self._add(Node(-1, Kind.JOIN, self._name("join", suffix), _under(path, "j"), need=0))
        parts: list[_Part] = []
        places: list[str] = []
        self._members(sig, source, path, suffix, over, parts, places)
        edges = self._edges
        for slot, part in enumerate(parts):
            edges.append(Edge(part.tail, join, slot, On.SUCCESS, Bind.ITEM))
        node = self._nodes[join]
        node.unmet = len(parts)
        node.need = _need(rule, len(parts))
        if not parts and source.parents:
            self._connect(join, source, immutable=True)
            node.need += max(_need(rule, 0), 0)
        self._alias(join, options)
        return _Part(join, (join,), tuple(parts), tuple(places))

    def _members(
        self,
        sig: cv.group,
        source: _Source,
        path: str,
        suffix: str,
        over: Mapping[str, Any],
        parts: list[_Part],
        places: list[str],
    ) -> None:
        options = sig.options
        if options:
            over = {**{k: v for k, v in options.items() if k not in _OWN}, **over}
        prefix = path + "/g" if path else "g"
        for i, task in enumerate(sig.tasks):
            where, mark = f"{prefix}{i}", f"{suffix}[{i}]"
            kind = task.get("subtask_type")
            if kind == "group" and _can_splice(task):
                before = len(parts)
                self._members(task, source, where, mark, over, parts, places)  # type: ignore[arg-type]
                for errback in as_list(task.options.get("link_error")):
                    for part, place in zip(parts[before:], places[before:]):
                        self._errback(errback, part.fails, place, mark)
            elif not _is_empty_chain(task):
                given = source
                if kind in ("group", "chunks") and not len(task):
                    given = source._replace(bind=Bind.NONE)  # not in a chain: its value is []
                parts.append(self.element(task, given, where, mark, over))
                places.append(where)

    def _chord(
        self, sig: cv.chord, source: _Source, path: str, suffix: str, over: Mapping[str, Any]
    ) -> _Part:
        header, body = sig.tasks, sig.body
        if body is None or _is_empty_chain(body):
            raise CanvasError(
                "a chord needs a body: write chord(header, body) or group(...) | body"
            )
        if sig.args:
            header = header.clone(sig.args)
        if sig.kwargs.get("kwargs"):
            body = body.clone(kwargs=sig.kwargs["kwargs"])
        options = {k: v for k, v in {**sig.options, **over}.items() if k not in _OWN}
        head = self._group(header, source, path, suffix, options)
        self._links(header, head, path, suffix)
        rest = {k: v for k, v in options.items() if k not in ("countdown", "eta")}
        tail = self.element(body, _Source((head.tail,)), _under(path, "b"), suffix, rest)
        self._alias(tail.tail, sig.options)
        return _Part(tail.tail, (head.tail, *tail.fails))

    # -- links ---------------------------------------------------------------------------

    def _links(self, sig: Signature, part: _Part, path: str, suffix: str) -> None:
        options = sig["options"]
        for callback in as_list(options.get("link")):
            value = as_value(sig._family, callback)
            where = _under(path, f"l{self._number(path, 'l')}")
            self.element(value, _Source((part.tail,)), where, suffix, _NO_OPTIONS)
        if sig.get("subtask_type") == "chain":
            return  # its errbacks are one node over all elements, made there
        for errback in as_list(options.get("link_error")):
            value = as_value(sig._family, errback)
            if sig.get("subtask_type") in ("group", "chunks"):
                for member, place in zip(part.members, part.places):
                    self._errback(value, member.fails, place, suffix)
            else:
                self._errback(value, part.fails, path, suffix)

    def _errback(self, errback: Any, fails: tuple[int, ...], path: str, suffix: str) -> None:
        if not fails:
            return
        value = as_value(Signature._family, errback)
        where = _under(path, f"e{self._number(path, 'e')}")
        source = _Source(tuple(sorted(set(fails))), On.FAILURE, need=1)
        self.element(value, source, where, suffix, _NO_OPTIONS)

    # -- flows ---------------------------------------------------------------------------

    def flow(self, flow: Flow) -> list[int]:
        """Compile a flow; returns its result nodes: those that only errbacks follow, if any."""
        if not flow.nodes:
            raise CanvasError(f"nothing to run: {flow!r} has no nodes")
        tails: list[int] = []
        parts: list[_Part] = []
        self._flow_tails = tails
        results: list[int] = []
        used: set[int] = set()
        for i, entry in enumerate(flow.nodes):
            part = self._flow_node(i, entry, parts)
            parts.append(part)
            tails.append(part.tail)
            used.update(entry.after, handles_in(entry.signature))
        for i, entry in enumerate(flow.nodes):
            waits = entry.after or handles_in(entry.signature)
            if i not in used and (waits or not entry.on_failure):
                results.append(tails[i])
        return results or [tails[-1]]

    def _flow_node(self, i: int, entry: Any, parts: list[_Part]) -> _Part:
        sig, path = entry.signature, f"f{i}"
        over = {"node_name": entry.name} if entry.name else _NO_OPTIONS
        after = _Source(tuple(parts[p].tail for p in entry.after), bind=Bind.NONE)
        simple = sig.get("subtask_type") in (None, "xmap", "xstarmap", "expand")
        if entry.on_failure:
            fails = sorted({f for p in entry.on_failure for f in parts[p].fails})
            more = after.parents or handles_in(sig)
            if (more and (len(fails) > 1 or not simple)) or entry.join != "all":
                raise CanvasError(
                    f"node {i} of the flow mixes on_failure= of several nodes with other needs "
                    "or a join rule: put a node of its own between"
                )
            part = self.element(sig, _Source(tuple(fails), On.FAILURE, need=1), path, "", over)
            for parent in after.parents:
                self._edge(parent, part.tail, On.SUCCESS, Bind.NONE)
                self._nodes[part.tail].need += 1
            return part
        if entry.join == "always" and not simple:
            after = after._replace(on=On.ALWAYS)
        elif entry.join != "all" and not simple and after.parents:
            gate = self._add(Node(-1, Kind.JOIN, self._name("gate", ""), f"{path}/w", need=0))
            self._connect(gate, after, immutable=True)
            self._nodes[gate].need = _need(entry.join, len(after.parents))
            after = _Source((gate,), bind=Bind.NONE)
        part = self.element(sig, after, path, "", over)
        if entry.join != "all" and simple:
            node = self._nodes[part.tail]
            node.need = _need(entry.join, node.unmet)
        return part

    def _take_handles(
        self, value: Any, refs: list[tuple[int, list[Any]]], path: tuple[Any, ...] = ()
    ) -> Any:
        """Copy a value with each handle replaced by None and its place noted."""
        if isinstance(value, NodeHandle):
            tails = self._flow_tails
            if tails is None or value.index >= len(tails):
                raise CanvasError(f"{value!r} is used before it is added, or in another flow")
            refs.append((tails[value.index], list(path)))
            return None
        if isinstance(value, Signature):
            return value
        if isinstance(value, Mapping):
            return {k: self._take_handles(v, refs, (*path, k)) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._take_handles(v, refs, (*path, i)) for i, v in enumerate(value)]
        return value

    # -- small pieces --------------------------------------------------------------------

    def _add(self, node: Node) -> int:
        index = len(self._nodes)
        if index >= self._max_nodes:
            raise LimitExceeded(
                f"the canvas has more than {self._max_nodes} nodes: raise max_nodes or use "
                "chunks()/map() for tiny items"
            )
        self._nodes.append(node)
        return index

    def _connect(self, index: int, source: _Source, *, immutable: bool) -> None:
        if not source.parents:
            node = self._nodes[index]
            node.need = 0 if node.unmet == 0 else node.need
            return
        bind = Bind.NONE if immutable else source.bind
        for parent in source.parents:
            self._edge(parent, index, source.on, bind)
        node = self._nodes[index]
        node.need = len(source.parents) if source.need is None else source.need

    def _edge(
        self, parent: int, child: int, on: On, bind: Bind, where: list[Any] | None = None
    ) -> None:
        node = self._nodes[child]
        path = msgspec.json.encode(where) if where is not None else b""
        self._edges.append(Edge(parent, child, node.unmet, on, bind, path))
        node.unmet += 1
        if where is not None:
            node.need += 1

    def _spec(
        self, task: str, options: Mapping[str, Any], args: Any, kwargs: Any
    ) -> tuple[Spec, int]:
        spec = self._binder.spec(task, options, args, kwargs)
        return spec, self._specs.setdefault(spec, len(self._specs))

    def _name(self, base: str, suffix: str) -> str:
        name = base + suffix
        seen = self._names.get(name, 0) + 1
        self._names[name] = seen
        return name if seen == 1 else f"{name}#{seen}"

    def _number(self, path: str, letter: str) -> int:
        key = f"{path}/{letter}"
        number = self._numbers.get(key, 0)
        self._numbers[key] = number + 1
        return number

    def _alias(self, index: int, options: Mapping[str, Any]) -> None:
        if options.get("task_id"):
            self._nodes[index].alias = options["task_id"]

    def _times(self, node: Node, options: Mapping[str, Any]) -> None:
        node.alias = options.get("task_id") or node.alias
        node.eta = moment(options, "eta", "countdown")
        node.expires = moment(options, "expires", "expires") or node.expires

    def _check_names(self, sig: Signature) -> None:
        """Look every task up that an expand will need, so that a typo is found now."""
        for part in cv.members(sig):
            if part.get("subtask_type") in (None, "xmap", "xstarmap"):
                self._spec(part["task"], _NO_OPTIONS, part.get("args") or (), part["kwargs"])
            self._check_names(part)


def _need(rule: str, count: int) -> int:
    if rule == "all":
        return count
    if rule == "any":
        return 1
    return -1 if rule == "always" else int(rule.partition(":")[2])


def _can_splice(task: Signature) -> bool:
    options = task["options"]
    return not options or ("link" not in options and "join" not in options)


def _is_empty_chain(task: Signature) -> bool:
    return task.get("subtask_type") == "chain" and not task.tasks  # type: ignore[attr-defined]


def _under(path: str, segment: str) -> str:
    return f"{path}/{segment}" if path else segment
