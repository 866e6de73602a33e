"""Random canvases and flows, by grammar; what their tasks do; and a histogram of their shapes.

A task does what its arguments say: ``do="retry,lost:ok"`` asks for one retry, dies once and
then succeeds. Its value names it and digests what it was given, so that a wrong argument
anywhere shows in the result. `play` is that table; oracle and driver both ask it.
"""

from __future__ import annotations

import json
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from flowq.core import canvas as cv
from flowq.core.canvas import Signature, chain, chord, chunks, expand, group, xmap, xstarmap
from flowq.core.flow import Flow
from tests.oracle import UNKNOWN, Act, Subset

TASKS = ("work.do", "work.größe", "do")
#: How a task may end, and how often each is drawn in stormy canvases.
ENDINGS = {
    "ok": 30,
    "fail": 5,
    "ignore": 2,
    "reject": 1,
    "timeout": 1,
    "expire": 1,
    "poison": 1,
    "revoke": 2,
    "revoke_early": 1,
    "data": 1,
    "replace": 3,
}
NOISE = ("retry", "lost", "requeue")
MAX_CRASHES = 5


class Undetermined(Exception):
    """The shape of the run depends on timing; such a canvas is not compared."""


def unknown_in(value: Any) -> bool:
    """Whether any part of a value is left to timing."""
    if isinstance(value, Mapping):
        return any(unknown_in(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(unknown_in(item) for item in value)
    return value is UNKNOWN or isinstance(value, Subset)


def play(task: str, args: list[Any], kwargs: dict[str, Any]) -> Act:
    """What a task does that is told this."""
    if task in (cv.MAP, cv.STARMAP):
        name = kwargs["task"]["task"]
        acts = [play(name, [x] if task == cv.MAP else [*x], {}) for x in kwargs["it"]]
        failed = any(act.kind != "ok" for act in acts)
        return Act("fail") if failed else Act("ok", [act.value for act in acts])
    if task == cv.EXPAND:
        return _expand(args, kwargs)
    told = next((a for a in args if isinstance(a, str) and a.startswith("do=")), "do=ok")
    noise, _, ending = str(kwargs.get("do", told[3:])).rpartition(":")
    before = tuple(noise.split(",")) if noise else ()
    if ending == "replace":
        return Act("replace", Signature.from_dict(kwargs["with"]), before)
    if ending == "poison":
        return Act("fail", "lost", (*before, *["lost"] * (MAX_CRASHES - before.count("lost"))))
    if ending in ("fail", "reject", "timeout", "expire"):
        return Act("fail", ending, before)
    if ending in ("ignore", "revoke", "revoke_early"):
        return Act(ending, None, before)
    given = {k: v for k, v in kwargs.items() if k not in ("do", "with")}
    value = UNKNOWN
    if not unknown_in([args, given]):
        text = json.dumps([task, args, given], sort_keys=True)
        value = f"{kwargs.get('v', '?')}:{zlib.crc32(text.encode()):08x}"
    if ending.startswith("list"):
        known = value is not UNKNOWN
        return Act(
            "ok", [f"{value}.{i}" if known else value for i in range(int(ending[4:]))], before
        )
    if ending == "data":  # looks like a signature, is data
        value = {"task": "never.run", "args": [], "kwargs": {}, "options": {}, "was": value}
    return Act("ok", None if ending == "none" else value, before)


def _expand(args: list[Any], kwargs: dict[str, Any]) -> Act:
    items = args[0] if args else None
    if items is UNKNOWN or isinstance(items, Subset):
        raise Undetermined
    if not isinstance(items, list | tuple):
        return Act("fail", "fail")
    body = Signature.from_dict(kwargs["body"])
    return Act("replace", group([body.clone((x,)) for x in items], join=kwargs["join"]))


# --- the grammar -----------------------------------------------------------------------------


class _Grammar:
    """Draws one canvas; about `leaves` tasks at most, at most `depth` levels.

    `number` gives a whole number between two bounds: Hypothesis' own draws shrink well but
    cluster, those from one drawn seed spread evenly. Half of the canvases are of each kind.
    """

    def __init__(self, number: Callable[[int, int], int], leaves: int, storm: int) -> None:
        self.number, self.leaves, self.storm = number, leaves, storm
        self.count = self.linked = 0
        self.built: list[Signature] = []

    def chance(self, percent: int) -> bool:
        return self.number(0, 99) >= 100 - percent  # shrinks towards no

    def pick(self, weights: Mapping[str, int]) -> str:
        at = self.number(0, sum(weights.values()) - 1)
        for key, weight in weights.items():
            if at < weight:
                return key
            at -= weight
        raise AssertionError

    def label(self) -> str:
        self.count += 1
        return f"n{self.count}"

    # -- elements ---------------------------------------------------------------------------

    def element(self, depth: int, links: bool = True) -> Signature:
        weights = {"task": 10}
        if depth > 0 and self.leaves > 1:
            weights = {"task": 2, "chain": 7, "group": 6, "chord": 5, "expand": 2}
        if self.leaves > 1:
            weights |= {"map": 1, "starmap": 1, "chunks": 1}
        kind = self.pick(weights)
        made = getattr(self, f"_{kind}")(max(depth - 1, 0))
        if links and not any(made is other for other in self.built):
            outside, self.built = self.built, []  # a callback that holds its owner has no end
            self.linked += 1
            self.decorate(made, depth)
            self.built = outside
            self.linked -= 1
        if self.chance(4):
            made = Signature.from_dict(json.loads(json.dumps(made)))
        self.built.append(made)
        return made

    def several(self, depth: int, size: int) -> list[Signature]:
        """Elements, fewer than `size` when the leaves run out."""
        found: list[Signature] = []
        while len(found) < size and (len(found) < 2 or self.leaves > 0):
            found.append(self.element(depth))
        return found

    def solid(self, depth: int, links: bool = True) -> Signature:
        """An element that is not empty."""
        while True:
            made = self.element(depth, links)
            if list(cv.members(made)) or not isinstance(made, chain | group):
                return made
            depth = 0

    def decorate(self, sig: Signature, depth: int) -> None:
        share = 16 if list(cv.members(sig)) else 8
        empty = isinstance(sig, chain | group | chunks) and not len(sig)
        if self.leaves > 0 and self.chance(share) and not empty:
            callback = self.solid(self.number(0, min(depth, 2)), self.chance(30))
            if isinstance(sig, chord) and self.chance(50):
                sig.append_to_list_option("link", callback)  # as a dict of Celery's may have it
            else:
                sig.link(callback)
            if self.chance(15):
                sig.link(callback)  # kept once
        if self.leaves > 0 and self.chance(share + 6):
            errback = self.solid(0 if self.chance(70) else min(depth, 2), self.chance(30))
            sig.on_error(errback) if self.chance(50) else sig.link_error(errback)

    def script(self, depth: int) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"v": self.label()}
        if not self.storm or self.chance(100 - self.storm):
            return kwargs
        ending = self.pick(ENDINGS)
        if ending == "replace" and self.leaves <= 0:
            ending = "fail"
        noise = [NOISE[self.number(0, 2)] for _ in range(self.number(1, 2))]
        if ending != "revoke_early" and self.chance(25):
            kwargs["do"] = f"{','.join(noise)}:{ending}"
        elif ending != "ok":
            kwargs["do"] = ending
        if ending == "replace":
            inner = self.solid(self.number(0, 2))
            kwargs["with"] = json.loads(json.dumps(inner)) if self.chance(50) else inner
        return kwargs

    def _task(self, depth: int) -> Signature:
        self.leaves -= 1
        if self.built and self.chance(5):
            again = self.built[self.number(0, len(self.built) - 1)]
            if not again.get("subtask_type") and not again.options:
                return again  # the same object in two places
        kwargs = self.script(depth)
        if self.chance(15):
            kwargs["ключ"] = [None, {"a": 1.5}]
        args = [["x", 1, None, [2], {"k": "v"}][self.number(0, 4)]] * self.number(0, 1)
        name = TASKS[0 if self.chance(85) else self.number(1, 2)]
        options = {"priority": self.number(0, 9)} if self.chance(5) else {}
        if self.chance(5):
            options["countdown"] = 3
        return Signature(name, args, kwargs, options, immutable=self.chance(15))

    def _chain(self, depth: int) -> Signature:
        size = self.number(0, 1) if self.chance(10) else self.number(2, 4)
        parts: list[Any] = self.several(depth, size)
        if parts and self.chance(10):
            parts.insert(self.number(0, len(parts)), [chain(), group()][self.number(0, 1)])
        if self.chance(40):
            return chain(*parts) if self.chance(50) else chain(iter(parts))
        if parts and self.chance(60):
            made = parts[0]
            for part in parts[1:]:
                made = made | part
            return made
        return chain(json.loads(json.dumps(parts)))

    def _group(self, depth: int, header: bool = False) -> Signature:
        size = self.number(0, 1) if self.chance(20) else self.number(2, 4)
        if self.leaves > 20 and self.chance(5):
            size = self.number(8, 16)
            depth = 0
        parts = self.several(depth, size)
        size = len(parts)  # it ends early when there are leaves enough
        if size and self.chance(8):
            parts.append(chain())
        rule = self.rule(size) if size or header else "all"
        return group(*parts, join=rule) if self.chance(50) else self.lazy(parts, rule)

    def lazy(self, parts: list[Signature], rule: str) -> Signature:
        return group((part for part in parts), join=rule)

    def rule(self, size: int) -> str:
        if self.chance(70) or (self.linked and not size):
            return "all"
        return ["any", cv.at_least(self.number(1, max(size, 1))), "always"][self.number(0, 2)]

    def _chord(self, depth: int) -> Signature:
        header = self._group(depth, header=True)
        body = self.solid(depth)
        if self.chance(15):
            return chord(header, body, args=["extra"], kwargs={"more": 1})
        if self.chance(40) and not (isinstance(body, group) and not body.tasks):
            return header | body
        return chord(header if self.chance(70) else header.tasks, body, join=self.rule(len(header)))

    def _expand(self, depth: int) -> Signature:
        size = [0, 1, 2, 3, 7][self.number(0, 4)]
        kept, self.leaves = self.leaves, max(1, self.leaves // max(size, 1))
        body = self.solid(min(depth, 2), links=self.chance(50))
        if size and self.chance(25):
            lists = Signature("work.do", (), {"v": self.label(), "do": f"list{self.number(0, 2)}"})
            body = lists | expand(body)
        self.leaves = kept - size
        made = expand(body, join=self.rule(size))
        if self.chance(15):
            made["args"] = ([f"i{i}" for i in range(size)],)
            made["immutable"] = True
            return made
        if self.chance(15):
            return made  # over whatever comes; not a list: it fails
        return Signature("work.do", (), {"v": self.label(), "do": f"list{size}"}) | made

    def items(self) -> list[Any]:
        self.leaves -= 1
        bad = "do=fail" if self.storm and self.chance(25) else "y"
        return [["x", 1, bad, None][i] for i in range(self.number(0, 4))]

    def _map(self, depth: int) -> Signature:
        return xmap("work.do", self.items())

    def _starmap(self, depth: int) -> Signature:
        return xstarmap(Signature("work.do"), [[item, 1] for item in self.items()])

    def _chunks(self, depth: int) -> Signature:
        made = chunks("work.do", [[item] for item in self.items()], self.number(1, 3))
        return made.group() if self.chance(50) else made


@st.composite
def _numbers(draw: Callable[..., Any]) -> Callable[[int, int], int]:
    if draw(st.booleans()):
        return random.Random(draw(st.integers(0, 2**32))).randint
    return lambda low, high: draw(st.integers(low, high)) if high > low else low


@st.composite
def canvases(draw: Callable[..., Any], leaves: int = 64, depth: int = 8) -> Signature:
    """A canvas of any shape, sometimes sent through JSON."""
    return canvas_by(draw(_numbers()), leaves, depth)


def canvas_by(number: Callable[[int, int], int], leaves: int = 64, depth: int = 8) -> Signature:
    """The canvas that a source of numbers makes; `random.Random(seed).randint` is one."""
    most = (2, 4, 8, 16, leaves // 2, leaves)[number(0, 5)]
    grammar = _Grammar(number, min(most, leaves), (0, 15, 40, 100)[number(0, 3)])
    made = grammar.solid(number(0, depth))
    if grammar.chance(10):
        made = made.clone((["given", ["l"], None][number(0, 2)],))
    return Signature.from_dict(json.loads(json.dumps(made))) if grammar.chance(25) else made


@st.composite
def flows(draw: Callable[..., Any], nodes: int = 14) -> Flow:
    """A random DAG: data references anywhere in arguments, order, failure edges, rules."""
    return flow_by(draw(_numbers()), nodes)


def flow_by(number: Callable[[int, int], int], nodes: int = 14) -> Flow:
    """The flow that a source of numbers makes."""
    grammar = _Grammar(number, 40, (0, 15, 60)[number(0, 2)])
    flow, handles = Flow("dag"), []
    simple: list[bool] = []
    for i in range(number(1, nodes)):
        before = [h for h in handles if grammar.chance(min(90, 250 // len(handles)))]
        data, after = before[: len(before) // 2], before[len(before) // 2 :]
        composite = not data and grammar.chance(15)
        sig = grammar.solid(2) if composite else grammar._task(1)
        if not composite:
            sig = sig.replace(*_with_handles(grammar, sig, data))
            grammar.decorate(sig, 1)
        options: dict[str, Any] = {"after": after}
        tasks = [h for h, plain in zip(handles, simple, strict=True) if plain]
        if tasks and grammar.chance(12):
            options = {"on_failure": [tasks[grammar.number(0, len(tasks) - 1)]]}
        elif before and grammar.chance(20):
            options["join"] = grammar.rule(len(before)) if not data else "always"
        name = f"step {i}" if grammar.chance(30) else None
        handles.append(flow.add(sig, name=name, **options))
        simple.append(not composite)
    if grammar.chance(30):
        flow = Flow.from_dict(json.loads(json.dumps(flow.to_dict())))
    return flow


def _with_handles(grammar: _Grammar, sig: Signature, data: list[Any]) -> tuple[Any, Any]:
    args, kwargs = list(sig.args), dict(sig.kwargs)
    for i, handle in enumerate(data):
        place = grammar.number(0, 3)
        if place == 0:
            args.append(handle)
        elif place == 1:
            args.append(["in", [handle, handle]])
        elif place == 2:
            kwargs[f"h{i}"] = handle
        else:
            kwargs[f"h{i}"] = {"deep": [{"er": handle}]}
    return args, kwargs


# --- the histogram ---------------------------------------------------------------------------

SHAPES = tuple(
    """task immutable chain chord group:0 group:1 group:n group-in-group chord:0 map starmap chunks
    expand expand-in-expand link:task link:chain link:group link:chord link:expand link:map
    errback:task errback:chain errback:group errback:chord errback:expand errback:map
    replace:task replace:chain replace:group replace:chord do:ok do:fail do:ignore do:reject
    do:timeout do:expire do:poison do:revoke do:revoke_early do:data do:list0 do:list1 do:list3
    do:list7 noise:retry noise:lost noise:requeue rule:all rule:any rule:at_least rule:always
    shared depth:4 depth:6 leaves:32 leaves:64 flow flow:data flow:after flow:on_failure
    flow:rule flow:canvas""".split()  # noqa: SIM905
)


def histogram(canvas: Signature | Flow) -> Counter[str]:
    """Count the shapes in a canvas or flow; the keys are among `SHAPES`."""
    seen: Counter[str] = Counter()
    ids: Counter[int] = Counter()
    roots = [canvas] if isinstance(canvas, Signature) else [n.signature for n in canvas.nodes]
    if isinstance(canvas, Flow):
        seen["flow"] += 1
        for node in canvas.nodes:
            seen["flow:after"] += bool(node.after)
            seen["flow:on_failure"] += bool(node.on_failure)
            seen["flow:rule"] += node.join != "all"
            seen["flow:canvas"] += bool(list(cv.members(node.signature)))
            seen["flow:data"] += "NodeHandle" in repr(node.signature) or "<" in repr(node.signature)
    deepest = max(_walk(root, 1, seen, ids) for root in roots)
    leaves = seen["task"]
    seen["shared"] += any(n > 1 for n in ids.values())
    seen["depth:4"] += deepest >= 4
    seen["depth:6"] += deepest >= 6
    seen["leaves:32"] += leaves >= 32
    seen["leaves:64"] += leaves >= 48
    return seen


def _walk(sig: Signature, depth: int, seen: Counter[str], ids: Counter[int]) -> int:
    kind = {"xmap": "map", "xstarmap": "starmap"}.get(sig.get("subtask_type") or "task")
    kind = kind or sig.get("subtask_type") or "task"
    for name, shape in (("link", "link"), ("link_error", "errback")):
        if sig.options.get(name):
            seen[f"{shape}:{'map' if kind in ('starmap', 'chunks') else kind}"] += 1
    seen["group:" + "01n"[min(len(sig.tasks), 2)] if isinstance(sig, group) else kind] += 1
    if isinstance(sig, group):
        seen["rule:" + sig.options.get("join", "all").partition(":")[0]] += 1
        seen["group-in-group"] += any(isinstance(t, group) for t in sig.tasks)
    if isinstance(sig, chord):
        seen["chord:0"] += not sig.tasks.tasks
    inner = [*_inside(sig)]
    if isinstance(sig, expand):
        seen["expand-in-expand"] += any(isinstance(x, expand) for x in _below(sig.body))
    if kind == "task":
        ids[id(sig)] += 1
        seen["immutable"] += sig.immutable
        noise, _, ending = sig.kwargs.get("do", "ok").rpartition(":")
        seen[f"do:{ending}"] += 1
        seen.update(f"noise:{n}" for n in noise.split(",") if n)
        if "with" in sig.kwargs:
            inner.append(Signature.from_dict(sig.kwargs["with"]))
            what = inner[-1].get("subtask_type") or "task"
            seen[f"replace:{what}"] += 1
    return max((_walk(part, depth + 1, seen, ids) for part in inner), default=depth)


def _inside(sig: Signature) -> Iterator[Signature]:
    yield from cv.members(sig)
    for name in ("link", "link_error"):
        yield from sig.options.get(name) or ()


def _below(sig: Signature) -> Iterator[Signature]:
    yield sig
    for part in cv.members(sig):
        yield from _below(part)
