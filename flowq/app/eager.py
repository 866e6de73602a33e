"""Running in this process: `apply()` of a task or a canvas, by plain recursion.

A canvas run here gives what `docs/outcomes.md` says of it. Retries follow at once, their delays are
not waited for; `replace` runs what it is given in place. Nothing is stored.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.app.calling import new_id
from flowq.app.result import EagerResult, GroupResult
from flowq.core.canvas import check_rule
from flowq.worker import request as calls
from flowq.worker.plan import Plan
from flowq.worker.request import Context
from flowq.worker.retrying import autoretry

if TYPE_CHECKING:
    from flowq.app.task import Task

#: Options of a canvas that belong to its end, not to its first task.
_AT_THE_END = ("link", "link_error", "task_id", "join", "root_id", "parent_id", "group_id")


# -- one task -----------------------------------------------------------------------------------


def apply_task(
    task: Task,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    throw: bool | None = None,
    link: Any = None,
    link_error: Any = None,
    task_id: str | None = None,
    retries: int = 0,
    **options: Any,
) -> EagerResult:
    """Run one task, its retries, and what is linked to it.

    Args:
        task: The task.
        args: Positional arguments.
        kwargs: Keyword arguments.
        throw: Raise its error; None: as `task_eager_propagates` says.
        link: Signatures to run with the result.
        link_error: Signatures to run if it fails.
        task_id: Id to show; none: a new one.
        retries: Retries already behind it.
        options: headers and the like, seen as `self.request` fields.
    """
    fields = _fields(task, task_id or new_id(), options)
    state, value, text = _attempts(task, args, kwargs, retries, fields)
    result = EagerResult(fields["id"], value, state, traceback=text, name=task.name, app=task.app)
    if state == "SUCCESS":
        for callback in _listed(link):
            _apply_any(task.app, callback, (value,))
    elif state == "FAILURE":
        for errback in _listed(link_error):
            call_errback(task.app, errback, result)
    if throw if throw is not None else task.app.conf.task_eager_propagates:
        result.maybe_throw()
    return result


def _fields(task: Task, task_id: str, options: dict[str, Any]) -> dict[str, Any]:
    parent = calls.current()
    within = parent is not None and not parent.called_directly
    known = {k: v for k, v in options.items() if k in Context.__annotations__ and v is not None}
    return {
        "id": task_id,
        "task": task.name,
        "root_id": (parent.root_id or parent.id) if parent and within else task_id,
        "parent_id": parent.id if parent and within else None,
        "hostname": socket.gethostname(),
        "origin": f"{os.getpid()}@{socket.gethostname()}",
        "delivery_info": {
            "is_eager": True,
            "exchange": options.get("exchange"),
            "routing_key": options.get("routing_key") or options.get("queue"),
            "priority": options.get("priority"),
        },
        "is_eager": True,
        "called_directly": False,
        "correlation_id": task_id,
        **known,
    }


def _attempts(
    task: Task, args: tuple[Any, ...], kwargs: dict[str, Any], retries: int, fields: dict[str, Any]
) -> tuple[str, Any, str | None]:
    """Run the body until it ends for good: (state, value or exception, traceback text)."""
    from flowq.worker.execution import ExceptionInfo

    plan = Plan(task)
    task_id = fields["id"]
    while True:
        context = Context(fields, args=args, kwargs=kwargs, retries=retries)
        calls.push(task, context)
        try:
            _call(plan.before_start, task_id, args, kwargs)
            value = plan.body(*args, **kwargs)
            if plan.is_async:
                value = asyncio.run(value)
        except (errors.Ignore, errors.Reject) as signal:
            return ("IGNORED" if isinstance(signal, errors.Ignore) else "REJECTED"), signal, None
        except Exception as exc:
            asked = exc if isinstance(exc, errors.Retry) else autoretry(task, exc, retries)
            reason = exc if asked is None else _reason(asked, exc)
            info = ExceptionInfo(reason)
            state = "FAILURE" if asked is None else "RETRY"
            hook = plan.on_failure if asked is None else plan.on_retry
            _call(hook, reason, task_id, args, kwargs, info)
            _call(plan.after_return, state, reason, task_id, args, kwargs, info)
            if asked is None:
                return state, reason, info.traceback
            args = args if asked.new_args is None else tuple(asked.new_args)
            kwargs = kwargs if asked.new_kwargs is None else dict(asked.new_kwargs)
            retries += 1
        else:
            _call(plan.on_success, value, task_id, args, kwargs)
            _call(plan.after_return, "SUCCESS", value, task_id, args, kwargs, None)
            return "SUCCESS", value, None
        finally:
            calls.pop()


def _reason(asked: errors.Retry, exc: Exception) -> Exception:
    return asked.exc if isinstance(asked.exc, Exception) else exc


def _call(hook: Callable[..., Any] | None, *args: Any) -> None:
    if hook is not None:
        hook(*args)


def call_errback(app: Any, errback: Any, failed: EagerResult) -> None:
    """Run an errback for a failed element: new style with the exception, old style with the id."""
    sig = app.signature(errback)
    if sig.immutable or sig.get("subtask_type") is not None:
        _apply_any(app, sig, ())
        return
    task = app.tasks[sig.task]
    if Plan(task).takes_error:
        request = Context(id=failed.id, task=failed.name, called_directly=False)
        first: tuple[Any, ...] = (request, failed.result, failed.traceback)
    else:
        first = (failed.id,)
    sig.apply(first, throw=False)


# -- canvases -----------------------------------------------------------------------------------


def apply_canvas(app: Any, sig: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a composed canvas: an EagerResult, or a GroupResult where it ends in a group.

    Its own options are on it already; `args` and `kwargs` are those of the call.
    """
    return _BY_KIND[sig["subtask_type"]](app, sig, args, kwargs)


def _chain(app: Any, sig: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tasks = sig.tasks
    if not tasks:
        raise errors.CanvasError("nothing to run: the chain is empty")
    first = {k: v for k, v in sig.options.items() if k not in _AT_THE_END}
    previous: Any = None
    for i, task in enumerate(tasks):
        if i == 0:
            result = _apply_any(app, task, args, kwargs, first)
        else:
            result = _apply_any(app, task, (previous.get(),))
        _origin(result).parent = previous
        ok, failed = _ended(result)
        if not ok:
            if failed is not None:
                _errbacks(app, sig, [failed])
            if i == len(tasks) - 1:
                return result
            return _blocked(app, result, failed, sig.options.get("task_id") or new_id())
        previous = result
    _links(app, sig, previous)
    return previous


def _group(app: Any, sig: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> GroupResult:
    options = {k: v for k, v in sig.options.items() if k not in _AT_THE_END}
    results = [_apply_any(app, task, args, kwargs, options) for task in sig.tasks]
    group = GroupResult(sig.options.get("task_id") or new_id(), results, app=app)
    if all(_ended(r)[0] for r in results):
        _links(app, sig, group)
    for result in results:
        failed = _ended(result)[1]
        if failed is not None:
            _errbacks(app, sig, [failed])
    return group


def _chord(app: Any, sig: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    body = sig.body
    if body is None:
        raise errors.CanvasError("a chord needs a body: write chord(header, body)")
    options = {k: v for k, v in sig.options.items() if k not in _AT_THE_END}
    header = sig.tasks.clone(tuple(args) + sig.args, kwargs, **options)
    members = _group(app, header, (), {})
    fired, value = joined(members, header.options.get("join", "all"))
    if not fired:
        failed = _failed_join(app, members, body, sig)
        _errbacks(app, sig, [failed])
        _errbacks(app, body, [failed])
        return _blocked(app, members, failed.original, failed.id)
    rest = {k: v for k, v in options.items() if k not in ("countdown", "eta")}
    result: Any = _apply_any(app, body, (value,), sig.kwargs.get("kwargs") or {}, rest)
    _origin(result).parent = members
    failing = _ended(result)[1]
    if failing is not None:
        _errbacks(app, sig, [failing])
    else:
        _links(app, sig, result)
    return result


def _chunks(app: Any, sig: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> GroupResult:
    return _group(app, sig.group(), args, kwargs)


_BY_KIND: dict[str, Callable[..., Any]] = {
    "chain": _chain,
    "group": _group,
    "chord": _chord,
    "chunks": _chunks,
}


def joined(members: GroupResult, rule: str) -> tuple[bool, list[Any]]:
    """Whether a join fires over results that are all there, and its list of values.

    The list of one that does not fire is empty.
    """
    check_rule(rule)
    values: list[Any] = []
    hits = 0
    for result in members.results:
        ok, failed = _ended(result)
        if ok:
            hits += 1
            values.append(result.get(disable_sync_subtasks=False))
        elif rule == "always":
            values.append(failed.result if failed is not None else errors.TaskSkipped("ignored"))
    count = len(members.results)
    if rule == "all":
        fired = hits == count
    elif rule == "any":
        fired = hits >= 1
    elif rule == "always":
        fired = True
    else:
        fired = hits >= int(rule.partition(":")[2])
    return fired, values if fired else []


# -- small pieces -------------------------------------------------------------------------------


def _apply_any(
    app: Any,
    sig: Any,
    args: Iterable[Any] = (),
    kwargs: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
) -> Any:
    sig = app.signature(sig)
    extra = {k: v for k, v in (options or {}).items() if k not in sig.options}
    return sig.apply(tuple(args), kwargs, throw=False, **extra)


def _ended(result: Any) -> tuple[bool, EagerResult | None]:
    """Whether an element succeeded, and the result that failed in it; neither: it was ignored."""
    if isinstance(result, EagerResult):
        if result.state == "SUCCESS":
            return True, None
        failed = result.original or result
        return False, failed if failed.state == "FAILURE" else None
    ended = [_ended(r) for r in result.results]
    return all(ok for ok, _ in ended), next((f for ok, f in ended if not ok and f), None)


def _origin(result: Any) -> Any:
    """The first result of what an element left behind: walk to the start of its parents."""
    while result.parent is not None:
        result = result.parent
    return result


def _blocked(app: Any, result: Any, failed: Any, task_id: str) -> EagerResult:
    """What stands for an element that never ran because of `failed`; None: it was ignored."""
    if failed is None:
        signal = errors.Ignore("a task before this one was ignored")
        return EagerResult(task_id, signal, "IGNORED", app=app, parent=result)
    return EagerResult(
        task_id,
        failed.result,
        "FAILURE",
        traceback=failed.traceback,
        app=app,
        parent=result,
        original=failed,
    )


def _failed_join(app: Any, members: GroupResult, body: Any, sig: Any) -> EagerResult:
    """The failure that errbacks of a chord see; its id is the body's."""
    first = _ended(members)[1]
    why = f"Dependency {first.id} raised {first.result!r}" if first else "a member was ignored"
    error = errors.ChordError(why)
    if first is not None:
        error.__cause__ = first.result
    task_id = sig.options.get("task_id") or body.options.get("task_id") or new_id()
    return EagerResult(task_id, error, "FAILURE", name=body["task"], app=app, original=first)


def _links(app: Any, sig: Any, result: Any) -> None:
    for callback in _listed(sig.options.get("link")):
        _apply_any(app, callback, (result.get(disable_sync_subtasks=False),))


def _errbacks(app: Any, sig: Any, failed: list[EagerResult]) -> None:
    for errback in _listed(sig.options.get("link_error")):
        for result in failed:
            call_errback(app, errback, result)


def _listed(value: Any) -> list[Any]:
    if not value:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
