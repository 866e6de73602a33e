"""A canvas run in this process, by plain recursion; outcomes are those of `docs/outcomes.md`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from flowq import errors
from flowq.app.calling import new_id
from flowq.app.eagerresult import EagerGroupResult, EagerResult
from flowq.core.canvas import Signature, check_rule
from flowq.core.signature import as_list
from flowq.worker.plan import Plan
from flowq.worker.request import Context

#: Options that belong to an element itself and are not handed to its parts.
_OWN = frozenset(
    [
        *("link", "link_error", "join", "task_id", "node_name"),
        *("group_id", "group_index", "chord", "root_id", "parent_id", "reply_to"),
    ]
)
_NOTHING: Mapping[str, Any] = {}


class Ended(NamedTuple):
    """How an element ended."""

    #: An EagerResult, or an EagerGroupResult where it ends in a group.
    result: Any
    #: Whether it has a value.
    ok: bool
    value: Any = None
    #: What failed, when it has none; None: something in it was ignored.
    cause: EagerResult | None = None
    #: Failures that count as the element's own, in order; its errbacks are told of the first.
    points: tuple[EagerResult, ...] = ()
    #: Of an element that ends in a group: that group's members.
    members: tuple[Ended, ...] = ()
    #: Of a chain that ends in a group: that group's own failure. The chain's errbacks are not told
    #: of it (those of the members are), those of what is around the chain are.
    tail: tuple[EagerResult, ...] = ()


class _Error:
    """Stands among the arguments of an errback for the failure it is told of."""

    def __init__(self, failed: EagerResult) -> None:
        self.failed = failed


def apply_canvas(app: Any, sig: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a canvas and return its result object; `args` and `kwargs` are those of the call."""
    return _Eager(app).element(sig, args, kwargs, _NOTHING, first=True).result


def follow_task(app: Any, result: EagerResult, link: Any, link_error: Any) -> None:
    """Run what is linked to a task that has ended."""
    ended = _of_task(result)
    options = {"link": as_list(link), "link_error": as_list(link_error)}
    _Eager(app).links(options, ended)
    _Eager(app).errbacks(options, ended.points)


class _Eager:
    """Runs elements one after another."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def element(
        self,
        sig: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        over: Mapping[str, Any],
        *,
        first: bool = False,
    ) -> Ended:
        """Run one element and what is linked to it; `over` are options from outside.

        `first`: nothing stands before it, so an empty group is an empty list.
        """
        if not isinstance(sig, Signature):
            sig = self._app.signature(sig)
        kind = sig.get("subtask_type")
        if kind == "chunks":
            sig, kind = sig.group(), "group"
        if kind == "chain":
            ended = self._chain(sig, args, kwargs, over, first)
        elif kind == "group":
            if not sig.tasks and not first:
                return Ended(_handed_on(self._app, args), True, args[0] if args else None)
            ended = self._group(sig, args, kwargs, over)
        elif kind == "chord":
            ended = self._chord(sig, args, kwargs, over)
        else:
            ended = self._task(sig, args, kwargs, over)
        options = sig["options"]
        if options:
            self.links(options, ended)
            if kind != "group":  # one errback for the element
                self.errbacks(options, ended.points)
            for member in ended.members:  # and one for each member of the group at its end
                self.errbacks(options, member.points)
        return ended._replace(points=ended.points + ended.tail, tail=())

    def _task(
        self,
        sig: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        over: Mapping[str, Any],
    ) -> Ended:
        task = self._app.tasks[sig["task"]]
        if args and isinstance(args[0], _Error):
            args = (*_told(task, args[0].failed), *args[1:])
        merged, named, options = sig._merge(args, kwargs, over)
        options = {k: v for k, v in options.items() if k not in ("link", "link_error")}
        return _of_task(task.apply(merged, named, throw=False, **options))

    def _chain(
        self,
        sig: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        over: Mapping[str, Any],
        first: bool,
    ) -> Ended:
        tasks = [task for task in sig.tasks if not _vanishes(task)]
        if not tasks:
            raise errors.CanvasError("nothing to run: the chain is empty")
        options = {**sig.options, **over}
        points: list[EagerResult] = []
        before: Ended | None = None
        for i, task in enumerate(tasks):
            if before is None:
                own = {k: v for k, v in options.items() if k not in _OWN}
                ended = self.element(task, args, kwargs, own, first=first)
            else:
                ended = self.element(task, (before.value,), None, _NOTHING)
                _start_of(ended.result).parent = before.result
            last = i == len(tasks) - 1
            if not (last and ended.members):
                points.extend(ended.points)
            if last:
                tail = ended.points if ended.members else ()
                return ended._replace(points=tuple(points), tail=tail)
            if not ended.ok:
                stop = _blocked(self._app, ended, options.get("task_id") or new_id())
                return Ended(stop, False, None, ended.cause, tuple(points))
            before = ended
        raise AssertionError("unreachable: a chain has a last element")

    def _group(
        self,
        sig: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        over: Mapping[str, Any],
    ) -> Ended:
        members = tuple(self._members(sig, args, kwargs, over))
        rule = check_rule(sig.options.get("join", "all"))
        values = [m.value for m in members if m.ok]
        fired = len(values) >= _need(rule, len(members))
        if fired and rule == "always":
            values = [m.value if m.ok else _error_of(m) for m in members]
        gid = sig.options.get("task_id") or new_id()
        results = [m.result for m in members]
        if fired:
            group = EagerGroupResult(gid, results, values, app=self._app)
            return Ended(group, True, values, members=members)
        cause = next((m.cause for m in members if not m.ok and m.cause is not None), None)
        failed = _failed_join(self._app, gid, cause)
        group = EagerGroupResult(gid, results, failed.error, failed=True, app=self._app)
        return Ended(group, False, None, failed, (failed,), members)

    def _members(
        self,
        sig: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        over: Mapping[str, Any],
    ) -> list[Ended]:
        """Run the members; a group directly inside is part of this one."""
        over = {**{k: v for k, v in sig.options.items() if k not in _OWN}, **over}
        if sig.immutable:
            args, kwargs = (), None
        found: list[Ended] = []
        for task in sig.tasks:
            if _splices(task):
                inner = self._members(task, args, kwargs, over)
                for member in inner:
                    self.errbacks(task.options, member.points)
                found.extend(inner)
            elif not _vanishes(task):
                found.append(self.element(task, args, kwargs, over, first=True))
        return found

    def _chord(
        self,
        sig: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        over: Mapping[str, Any],
    ) -> Ended:
        body = sig.body
        if body is None or _vanishes(body):
            raise errors.CanvasError("a chord needs a body: write chord(header, body)")
        options = {k: v for k, v in {**sig.options, **over}.items() if k not in _OWN}
        header = sig.tasks.clone(sig.args) if sig.args else sig.tasks
        members = self.element(header, args, kwargs, options, first=True)
        if not members.ok:
            assert members.cause is not None
            stop = _blocked(self._app, members, sig.options.get("task_id") or body.id or new_id())
            point = members.cause
            if point.name is None:  # errbacks see the body's id, not that of the join
                point.id, point._name = stop.id, body["task"]
            return Ended(stop, False, None, members.cause, (point,))
        rest = {k: v for k, v in options.items() if k not in ("countdown", "eta")}
        body = body.clone(kwargs=sig.kwargs.get("kwargs")) if sig.kwargs.get("kwargs") else body
        ended = self.element(body, (members.value,), None, rest)
        _start_of(ended.result).parent = members.result
        return ended._replace(members=())

    # -- links ------------------------------------------------------------------------------

    def links(self, options: Mapping[str, Any], ended: Ended) -> None:
        """Run the callbacks of an element that has a value."""
        if ended.ok:
            for callback in as_list(options.get("link")):
                self.element(callback, (ended.value,), None, _NOTHING, first=True)

    def errbacks(self, options: Mapping[str, Any], points: tuple[EagerResult, ...]) -> None:
        """Run errbacks, each once, if there is a failure to tell them of."""
        if points:
            for errback in as_list(options.get("link_error")):
                self.element(errback, (_Error(points[0]),), None, _NOTHING, first=True)


# -- small pieces -------------------------------------------------------------------------------


def _of_task(result: EagerResult) -> Ended:
    if result.state == "SUCCESS":
        return Ended(result, True, result.result)
    failed = (result,) if result.state in ("FAILURE", "REJECTED") else ()
    return Ended(result, False, None, failed[0] if failed else None, failed)


def _told(task: Any, failed: EagerResult) -> tuple[Any, ...]:
    """First arguments of an errback: new style with the exception, old style with the id."""
    if not Plan(task).takes_error:
        return (failed.id,)
    request = Context(id=failed.id, task=failed.name, called_directly=False)
    return request, failed.result, failed.traceback


def _vanishes(sig: Any) -> bool:
    return sig.get("subtask_type") == "chain" and all(map(_vanishes, sig.tasks))


def _splices(sig: Any) -> bool:
    options = sig["options"]
    return sig.get("subtask_type") == "group" and not options.get("link") and "join" not in options


def _need(rule: str, count: int) -> int:
    if rule.startswith("at_least:"):
        return int(rule[9:])
    return {"all": count, "any": 1, "always": 0}[rule]


def _error_of(member: Ended) -> Exception:
    error = member.cause.error if member.cause is not None else None
    return error if error is not None else errors.TaskSkipped("the task was ignored")


def _failed_join(app: Any, gid: str, first: EagerResult | None) -> EagerResult:
    """The failure of a join; `original` is the first member's own."""
    why = f"Dependency {first.id} raised {first.result!r}" if first else "a member was ignored"
    error = errors.ChordError(why)
    if first is not None:
        error.__cause__ = first.error
    return EagerResult(gid, error, "FAILURE", app=app, original=first)


def _blocked(app: Any, ended: Ended, task_id: str) -> EagerResult:
    """What stands for the end of an element that was stopped."""
    before, failed = ended.result, ended.cause
    if failed is None:
        signal = errors.Ignore("a task before this one was ignored")
        return EagerResult(task_id, signal, "IGNORED", app=app, parent=before)
    error, text = failed.error, failed.traceback
    return EagerResult(
        task_id, error, "FAILURE", traceback=text, app=app, parent=before, original=failed
    )


def _handed_on(app: Any, args: tuple[Any, ...]) -> EagerResult:
    return EagerResult(new_id(), args[0] if args else None, "SUCCESS", app=app)


def _start_of(result: Any) -> Any:
    """The first result of what an element left behind: walk to the start of its parents."""
    while result._parent is not None:
        result = result._parent
    return result
