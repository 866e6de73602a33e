"""What a running task knows about its call, and the stack that says which task is running.

The stack belongs to the thread: a task that calls another one directly puts it on top for that
time. A thread that a task starts itself sees no request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Context:
    """One call of a task, with Celery's field names (``self.request``).

    Fields that were not given read as the defaults below; assigning to one changes this call only.
    A bare ``Context()`` is what a task sees that is called directly.
    """

    #: Id of the node or bare task; None when called directly.
    id: str | None = None
    #: Name of the task.
    task: str | None = None
    #: Id of the run; the id of the first task for bare ones.
    root_id: str | None = None
    #: Id of the first parent whose result came in, or of the task that sent this one.
    parent_id: str | None = None
    #: Id of the group's join node.
    group: str | None = None
    #: Place in the group.
    group_index: int | None = None
    #: Positional arguments of the call, parents' results included.
    args: Any = None
    #: Keyword arguments of the call.
    kwargs: Any = None
    #: How often it was retried before this call.
    retries: int = 0
    eta: Any = None
    expires: Any = None
    #: (hard, soft) in seconds, each may be None.
    timelimit: Any = (None, None)
    hostname: str | None = None
    delivery_info: Any = None
    reply_to: str | None = None
    correlation_id: str | None = None
    callbacks: Any = None
    errbacks: Any = None
    chord: Any = None
    chain: Any = None
    #: Whether the task was called as a function and not by a worker.
    called_directly: bool = True
    is_eager: bool = False
    headers: Any = None
    properties: Any = None
    stamps: Any = None
    stamped_headers: Any = None
    origin: str | None = None
    ignore_result: bool = False
    replaced_task_nesting: int = 0
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    utc: bool = True
    lang: str = "py"
    loglevel: int | None = None
    logfile: str | None = None
    timelimits: Any = None
    #: Number of this dispatch, from 1; 0 for bare tasks.
    attempt: int = 0
    #: Public id of the run; None for bare tasks.
    run_id: str | None = None
    #: Integer key of the run and index of the node; 0 and 0 for bare tasks.
    run: int = 0
    node: int = 0
    #: Short name of the node in its run, where it is known.
    node_name: str | None = None
    #: Takes (state, meta) of update_state() to the parent; None when nobody listens.
    report_progress: Callable[[str | None, Any], None] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.update(*args, **kwargs)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set fields, as ``dict.update``."""
        self.__dict__.update(*args, **kwargs)

    def get(self, key: str, default: Any = None) -> Any:
        """A field, or `default` when there is none of that name."""
        return getattr(self, key, default)

    def clear(self) -> None:
        """Forget every field that was given."""
        self.__dict__.clear()

    @property
    def children(self) -> list[Any]:
        """What this call submitted so far, for results that can be walked."""
        found: list[Any] = self.__dict__.setdefault("_children", [])
        return found

    def __repr__(self) -> str:
        return f"<Context: {self.__dict__!r}>"


class _Calls(threading.local):
    """(task, context) of the calls that this thread is in, the innermost last."""

    def __init__(self) -> None:
        self.stack: list[tuple[Any, Context]] = []


_calls = _Calls()


def push(task: Any, context: Context) -> None:
    """Begin a call in this thread; every push needs its `pop`."""
    _calls.stack.append((task, context))


def pop() -> Context | None:
    """End the innermost call of this thread; None when there is none."""
    stack = _calls.stack
    if not stack:
        return None
    _, context = stack.pop()
    return context


def current() -> Context | None:
    """The innermost call of this thread, of whatever task."""
    stack = _calls.stack
    return stack[-1][1] if stack else None


def current_task() -> Any:
    """The task this thread is running, or None."""
    stack = _calls.stack
    return stack[-1][0] if stack else None


def of(task: Any) -> Context | None:
    """The innermost call of this task in this thread, or None."""
    stack: list[tuple[object, Context]] = _calls.stack
    for owner, context in reversed(stack):
        if owner is task:
            return context
    return None


class RequestStack:
    """One task's view of the thread's stack, as Celery's ``task.request_stack``."""

    __slots__ = ("_task",)

    def __init__(self, task: Any) -> None:
        self._task = task

    def push(self, context: Context) -> None:
        """Begin a call of this task."""
        push(self._task, context)

    def pop(self) -> Context | None:
        """End the innermost call."""
        return pop()

    @property
    def top(self) -> Context | None:
        """The innermost call of this task, or None."""
        return of(self._task)
