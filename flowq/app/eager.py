"""Running in this process: `apply()` of a task or a canvas, by plain recursion.

A canvas run here gives what `docs/outcomes.md` says of it. Retries follow at once, their delays are
not waited for; `replace` runs what it is given in place. Nothing is stored.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.app.calling import new_id
from flowq.app.eagerresult import EagerResult
from flowq.worker import request as calls
from flowq.worker.plan import Plan
from flowq.worker.request import Context
from flowq.worker.retrying import autoretry

if TYPE_CHECKING:
    from flowq.app.task import Task


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
    if link or link_error:
        from flowq.app.eagercanvas import follow_task

        follow_task(task.app, result, link, link_error)
    if throw if throw is not None else task.app.conf.task_eager_propagates:
        result.maybe_throw()
    return result


def _fields(task: Task, task_id: str, options: Mapping[str, Any]) -> dict[str, Any]:
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
            value = _body(plan, task, context, args, kwargs)
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


def _body(plan: Plan, task: Task, context: Context, args: Any, kwargs: Any) -> Any:
    """What the body returns, or what takes its place."""
    try:
        value = plan.body(*args, **kwargs)
        return _complete(task, context, value) if plan.is_async else value
    except errors.Replaced as swap:
        canvas: Any = swap.canvas
        return canvas.apply().get(disable_sync_subtasks=False)


def _complete(task: Task, context: Context, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)

    def run() -> Any:
        calls.push(task, context)
        try:
            return asyncio.run(coroutine)
        finally:
            calls.pop()

    with ThreadPoolExecutor(1, "flowq-eager") as threads:
        return threads.submit(contextvars.copy_context().run, run).result()


def _reason(asked: errors.Retry, exc: Exception) -> Exception:
    return asked.exc if isinstance(asked.exc, Exception) else exc


def _call(hook: Callable[..., Any] | None, *args: Any) -> None:
    if hook is not None:
        hook(*args)
