"""The reference evaluator: what must become of a canvas, by plain recursion over its values.

Written from docs/outcomes.md, knows neither compiler nor machine. `play` says what a task does,
by what the task is told. What the rules leave to timing is UNKNOWN."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flowq.core.canvas import Signature
from flowq.core.flow import Flow
from flowq.core.states import RunState, State

SUCCESS, FAILURE, SKIPPED, REVOKED = State.SUCCESS, State.FAILURE, State.SKIPPED, State.REVOKED
#: How a task may end that is neither replaced nor stopped before: its state, and as a cause.
ENDS = {
    "ok": (SUCCESS, ""),
    "ignore": (SKIPPED, "ignored"),
    "revoke": (REVOKED, "revoked"),
    "revoke_early": (REVOKED, "revoked"),
}
UNKNOWN: Any = type("Unknown", (), {"__repr__": lambda self: "UNKNOWN"})()


@dataclass
class Subset:
    """At least `size` of these values, in order; which were there in time, only timing knows."""

    size: int
    of: list[Any]


@dataclass
class Act:
    """What one task does: attempts that do not end it, then how it ends."""

    kind: str  #: ok fail ignore revoke revoke_early replace (expand does that, too)
    value: Any = None  #: the result, or the canvas that replaces
    noise: tuple[str, ...] = ()


@dataclass
class Out:
    """How an element ended, and which node those that wait for it are SKIPPED by."""

    state: State
    value: Any = None
    cause: str | None = None


@dataclass
class In:
    """What an element is given: arguments to prepend, or the news that they never come."""

    args: tuple[Any, ...] = ()
    blocked: bool = False
    cause: str | None = None
    start: bool = False


@dataclass
class Expected:
    """Outcome and number of attempts by path, how causes ended, errback calls, the run."""

    nodes: dict[str, Out] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str | None, str] = field(default_factory=dict)
    errbacks: int = 0
    run: RunState = RunState.SUCCESS
    result: Any = None


Points = list[str]  #: nodes whose FAILURE means that an element failed
Play = Callable[[str, list[Any], dict[str, Any]], Act]


def evaluate(canvas: Signature | Flow, play: Play) -> Expected:
    """Say what becomes of every position of a canvas or flow, and of its run."""
    oracle = Oracle(play)
    if isinstance(canvas, Flow):
        from tests.oracle_flow import results  # the same for a flow's nodes

        return oracle.conclude(results(oracle, canvas))
    return oracle.conclude([oracle.element(canvas, "", In(start=True))[0]])


def error(path: str | None) -> dict[str, Any]:
    """The error of the node at `path`, as a value."""
    return {"error": path}


def _kind(sig: Signature) -> str:
    return sig.get("subtask_type") or "task"


def _vanishes(sig: Signature) -> bool:
    return _kind(sig) == "chain" and all(map(_vanishes, sig.kwargs["tasks"]))


def _dissolves(sig: Signature) -> bool:
    """A group directly inside a group, unless its rule or callbacks need a join of its own."""
    own = sig.options.get("link") or sig.options.get("join", "all") != "all"
    return _kind(sig) == "group" and not own


def _ends_in_group(sig: Signature) -> bool:
    if _kind(sig) == "chain":
        tail = [task for task in sig.kwargs["tasks"] if not _vanishes(task)][-1]
        return _kind(tail) in ("group", "chunks")
    return _kind(sig) == "group"


def _at(path: str, segment: str) -> str:
    return f"{path}/{segment}" if path else segment


def _then(out: Out) -> In:
    return In((out.value,)) if out.state == SUCCESS else In((), True, out.cause)


class Oracle:
    def __init__(self, play: Play) -> None:
        self.play, self.expected = play, Expected()
        self.numbers: Counter[str] = Counter()
        self.members: dict[str, list[tuple[str, Points]]] = {}  #: by the path of their join

    def put(self, path: str, out: Out, reason: str = "", attempts: int = 0) -> Out:
        assert path not in self.expected.nodes, path
        self.expected.nodes[path] = out
        self.expected.attempts[path] = attempts
        self.expected.reasons[path] = reason
        return out

    def numbered(self, path: str, letter: str) -> str:
        self.numbers[_at(path, letter)] += 1
        return _at(path, f"{letter}{self.numbers[_at(path, letter)] - 1}")

    def element(
        self, sig: Signature, path: str, given: In, chained: bool = True
    ) -> tuple[Out, Points]:
        """Evaluate one element and its links; say how it ended and where it can fail."""
        if _kind(sig) == "chunks":
            sig = sig.group()  # type: ignore[attr-defined]
        kind = _kind(sig)
        if kind == "group" and not sig.kwargs["tasks"] and chained and not given.start:
            value = given.args[0] if given.args else None
            out, points = Out(SKIPPED if given.blocked else SUCCESS, value, given.cause), []
        else:
            out, points = getattr(self, f"_{kind}", self._task)(sig, path, given)
        for callback in sig.options.get("link") or ():
            self.element(callback, self.numbered(path, "l"), _then(out))
        last = self.members[points[-1]] if points and _ends_in_group(sig) else []
        if kind != "group":  # one errback for the element
            self.errbacks(sig, path, points[:-1] if last else points)
        for member, inner in last:  # and one for each member of the group at its end
            self.errbacks(sig, member, inner)
        return out, points

    def errbacks(self, sig: Signature, path: str, points: Points) -> None:
        for errback in sig.options.get("link_error") or () if points else ():
            failed = [p for p in points if self.expected.nodes[p].state == FAILURE]
            self.expected.errbacks += bool(failed)
            told = error(failed[0]) if len(failed) == 1 else UNKNOWN
            given = In((told,), blocked=not failed, start=True)
            self.element(errback, self.numbered(path, "e"), given)

    def _chain(self, sig: Signature, path: str, given: In) -> tuple[Out, Points]:
        points: Points = []
        out = Out(SUCCESS)
        for i, task in enumerate(sig.kwargs["tasks"]):
            if not _vanishes(task):
                out, more = self.element(task, _at(path, f"c{i}"), given)
                points, given = points + more, _then(out)
        return out, points

    def _chord(self, sig: Signature, path: str, given: In) -> tuple[Out, Points]:
        head = In((*given.args, *sig.args), given.blocked, given.cause, given.start)
        out, _ = self.element(sig.kwargs["header"], path, head, chained=False)
        body = sig.kwargs["body"].clone(kwargs=sig.kwargs.get("kwargs"))
        out, points = self.element(body, _at(path, "b"), _then(out))
        return out, [_at(path, "j"), *points]

    def _group(self, sig: Signature, path: str, given: In) -> tuple[Out, Points]:
        here, members = _at(path, "j"), list(self.spliced(sig, path, given))
        outs = [out for _, out, _ in members]
        self.members[here] = [(member, points) for member, _, points in members]
        values = [out.value for out in outs if out.state == SUCCESS]
        need = needed(sig.options.get("join", "all"), len(outs))
        first = next((out.cause for out in outs if out.state != SUCCESS), None)
        if given.blocked and all(o.state == SKIPPED and o.cause == given.cause for o in outs):
            return self.put(here, Out(SKIPPED, None, given.cause)), [here]
        if len(values) < need:
            self.put(here, Out(FAILURE, None, first), "failure")
            return Out(FAILURE, None, here), [here]
        if need < 0:
            values = [o.value if o.state == SUCCESS else error(o.cause) for o in outs]
        elif need < len(values):
            return self.put(here, Out(SUCCESS, Subset(need, values))), [here]
        return self.put(here, Out(SUCCESS, values)), [here]

    def spliced(self, sig: Signature, path: str, given: In) -> Iterator[tuple[str, Out, Points]]:
        """Evaluate the members of a group; groups directly inside dissolve."""
        for i, member in enumerate(sig.kwargs["tasks"]):
            here = _at(path, f"g{i}")
            if _dissolves(member):
                inner = list(self.spliced(member, here, given))
                for where, _, points in inner:
                    self.errbacks(member, where, points)
                yield from inner
            elif not _vanishes(member):
                yield here, *self.element(member, here, given, chained=False)

    def _task(self, sig: Signature, path: str, given: In) -> tuple[Out, Points]:
        args = [*sig.args] if sig.immutable else [*given.args, *sig.args]
        act = self.play(sig.task, args, dict(sig.kwargs))
        state, reason, tries = (*ENDS.get(act.kind, (FAILURE, "failure")), len(act.noise) + 1)
        if act.kind == "revoke_early":
            tries = 0
        elif given.blocked:
            return self.put(path, Out(SKIPPED, None, given.cause)), [path]
        elif act.kind == "replace":
            return self.replaced(act.value, path, tries), [path]
        out = (act.value, None) if state == SUCCESS else (None, path)
        return self.put(path, Out(state, *out), reason, tries), [path]

    def replaced(self, canvas: Signature, path: str, tries: int) -> Out:
        """A node that was replaced takes the outcome and value of what took its place."""
        out, _ = self.element(canvas, _at(path, "r"), In(start=True))
        reason = self.expected.reasons.get(out.cause, "")
        if state := {"failure": FAILURE, "revoked": REVOKED}.get(reason):
            self.put(path, Out(state, None, out.cause), reason, tries)
            return Out(state, None, path)
        return self.put(path, out, "", tries)

    def conclude(self, results: list[Out]) -> Expected:
        """The last table: the run's outcome from its result nodes."""
        expected = self.expected
        if any(expected.reasons.get(o.cause) in ("failure", "revoked") for o in results):
            expected.run = RunState.FAILURE
        else:
            values = [o.value if o.state == SUCCESS else None for o in results]
            expected.result = values[0] if len(values) == 1 else values
        return expected


def needed(rule: str, size: int) -> int:
    return {"all": size, "any": 1, "always": -1}.get(rule) or int(rule.partition(":")[2] or 0)
