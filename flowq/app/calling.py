"""From a call to the engine: which road it takes, and with which options.

A single task without links or times is sent bare, as in Celery; anything else is submitted as a
run.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.worker import request as calls

if TYPE_CHECKING:
    from flowq.app.base import Flowq
    from flowq.app.task import Task

#: Options that only a persisted run can honour.
_LINKS = ("link", "link_error")
#: With those that a run honours best; of a task known by name alone its message says when.
_LINKS_AND_TIMES = (*_LINKS, "countdown", "eta")
#: Options of the run, not of its tasks.
OF_RUN = frozenset(("run_name", "tags", "idempotency_key", "session"))
#: Those that `submit` calls otherwise.
_RUN_NAMES = {"run_name": "name"}
#: Celery's arguments that have no meaning here.
_WITHOUT_MEANING = ("producer", "connection", "router", "route_name", "result_cls")


def send(
    app: Flowq,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Mapping[str, Any],
    *,
    task: Task | None = None,
) -> Any:
    """Send one task and return its result object.

    Args:
        app: The app to send through.
        name: Name of the task.
        args: Positional arguments, already checked.
        kwargs: Keyword arguments.
        options: Those of the call; they win over the task's own.
        task: The task, where the caller has it; an unknown name is sent all the same.

    Raises:
        errors.UnserialisableArgument: An argument cannot travel.
    """
    options = {k: v for k, v in options.items() if k not in _WITHOUT_MEANING}
    is_child = bool(options.pop("add_to_parent", True))
    if task is None:
        task = app.tasks.get(name)
    if task is not None and app.conf.task_always_eager:
        return _eagerly(task, args, kwargs, options)
    durable = options.pop("durable", None)
    if durable is None:
        durable = task is not None and task.durable
    needs_run = _LINKS if task is None and app.conf.has_fleet else _LINKS_AND_TIMES
    if durable or any(options.get(key) for key in needs_run) or any(k in options for k in OF_RUN):
        from flowq.app.canvas import Signature

        return submit_canvas(app, Signature(name, args, kwargs, options), is_child=is_child)
    if task is not None:
        options = {**task.exec_options(), **options}
    _inherit(app, options)
    try:
        sent = app._engine().send_bare(name, args, kwargs, options)
    except errors.EncodeError as problem:
        raise errors.UnserialisableArgument(f"{name}: {problem}") from problem
    result = app.AsyncResult(sent, task_name=name)
    result.ignored = app.conf.has_fleet and _is_ignored(app, task, options)
    return as_child(result) if is_child else result


def _is_ignored(app: Flowq, task: Task | None, options: Mapping[str, Any]) -> bool:
    """Whether a fleet's worker records no outcome of a call."""
    own = options.get("ignore_result")
    if own is None:
        own = app.conf.task_ignore_result if task is None else task.ignore_result
    return bool(own)


def submit_canvas(app: Flowq, canvas: Any, *, is_child: bool = True) -> Any:
    """Submit a canvas of the caller's own and return the result object of its last element.

    It counts among the children of the task that runs, unless `is_child` is off. Options of the run
    (`run_name`, `tags`, `idempotency_key`, `session`) are taken off the canvas.
    """
    run = app.submit(canvas, **take_run_options(canvas))
    result = result_of(app, run)
    return as_child(result) if is_child else result


def take_run_options(canvas: Any) -> dict[str, Any]:
    """Take the options of the run off a canvas; named as `submit` names them."""
    options = canvas["options"]
    return {_RUN_NAMES.get(k, k): options.pop(k) for k in OF_RUN if k in options}


def result_of(app: Flowq, run: Any) -> Any:
    """The result object of a run's result node: a GroupResult when the canvas ends in a group."""
    from flowq.app.result import AsyncResult, GroupResult

    if run.result_is_group:
        return GroupResult(run.result_id, app=app, run=run)
    return AsyncResult(run.result_id, app=app, run=run)


def new_id() -> str:
    """An id for a bare or eager task, or one chosen before a canvas is sent."""
    return str(uuid.uuid4())


def _eagerly(
    task: Task, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
) -> Any:
    """Run it here, with arguments as a worker would have got them."""
    from flowq import payload

    serializer = options.get("serializer") or task.serializer
    try:
        frame = payload.encode_args(args, kwargs, serializer)
    except errors.EncodeError as problem:
        raise errors.UnserialisableArgument(f"{task.name}: {problem}") from problem
    there, named = payload.decode_args(frame, accept=(serializer,))
    return task.apply(there, named, **options)


def _inherit(app: Flowq, options: dict[str, Any]) -> None:
    """A call made in a task belongs to that task's root, and may take its priority."""
    context = calls.current()
    if context is None or context.called_directly:
        return
    options.setdefault("root_id", context.root_id or context.id)
    options.setdefault("parent_id", context.id)
    if app.conf.task_inherit_parent_priority and options.get("priority") is None:
        options["priority"] = (context.delivery_info or {}).get("priority")


def as_child(result: Any) -> Any:
    """Count a result among the children of the task that runs, if one does."""
    context = calls.current()
    if context is not None and not context.called_directly and calls.current_task().trail:
        context.children.append(result)
    return result
