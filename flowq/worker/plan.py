"""What has to be known of a task before it runs, worked out once per definition.

Most tasks override no hook; asking the class of each item again would cost more than the body.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

#: Hooks of this package do nothing; those of other modules are the user's.
_OURS: Final = ("flowq.app.", "flowq.worker.")

Hook = Callable[..., Any]


class Plan:
    """How to call one task, and which of its hooks somebody wrote."""

    __slots__ = (
        "after_return",
        "before_start",
        "body",
        "is_async",
        "on_failure",
        "on_retry",
        "on_success",
        "takes_error",
        "task",
    )

    def __init__(self, task: Any) -> None:
        #: The task this was made for; another object of that name needs a new plan.
        self.task = task
        body = task if _written(task, "__call__") is not None else task.run
        self.body: Callable[..., Any] = body
        self.is_async = _is_async(task.run)
        #: Whether it is an errback of the new style: (request, exc, traceback).
        self.takes_error = takes_error(task)
        self.before_start = _written(task, "before_start")
        self.on_success = _written(task, "on_success")
        self.on_failure = _written(task, "on_failure")
        self.on_retry = _written(task, "on_retry")
        self.after_return = _written(task, "after_return")


def _is_async(run: Any) -> bool:
    """Whether a callable makes coroutines: an async function, or an object called as one."""
    while isinstance(run, functools.partial):
        run = run.func
    return inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(type(run).__call__)


def _written(task: Any, name: str) -> Hook | None:
    """A hook of the task when the user wrote it, else None."""
    if name in getattr(task, "__dict__", ()):
        return getattr(task, name)  # type: ignore[no-any-return]
    for cls in type(task).__mro__:
        found = vars(cls).get(name)
        if found is None:
            continue
        module = getattr(inspect.unwrap(found) if callable(found) else found, "__module__", "")
        if str(module).startswith(_OURS) or cls is object:
            return None
        return getattr(task, name)  # type: ignore[no-any-return]
    return None


def takes_error(task: Any) -> bool:
    """Whether a task called as an errback gets (request, exc, traceback) and not just an id.

    As Celery decides: functions that take more than one positional argument and are not bound.
    Class-based and bound tasks count as old style.
    """
    if getattr(task, "bind", False) or getattr(task, "bound", False):
        return False
    run = task.run
    if inspect.ismethod(run) and run.__self__ is task:
        return False
    try:
        parameters = inspect.signature(run).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = 0
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            return True
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            positional += 1
    return positional > 1
