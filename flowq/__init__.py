"""flowq: Celery's canvas made durable.

The public names. Each is loaded from its module when it is first used, so that `import flowq` costs
next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flowq import cache as cache
    from flowq import errors as errors
    from flowq.app.base import Flowq as Flowq
    from flowq.app.calling import new_id as uuid
    from flowq.app.canvas import Signature as Signature
    from flowq.app.canvas import chain as chain
    from flowq.app.canvas import chord as chord
    from flowq.app.canvas import chunks as chunks
    from flowq.app.canvas import expand as expand
    from flowq.app.canvas import group as group
    from flowq.app.canvas import maybe_signature as maybe_signature
    from flowq.app.canvas import signature as signature
    from flowq.app.canvas import xmap as xmap
    from flowq.app.canvas import xstarmap as xstarmap
    from flowq.app.current import current_app as current_app
    from flowq.app.current import current_task as current_task
    from flowq.app.flow import Flow as Flow
    from flowq.app.result import AsyncResult as AsyncResult
    from flowq.app.result import EagerResult as EagerResult
    from flowq.app.result import GroupResult as GroupResult
    from flowq.app.result import ResultSet as ResultSet
    from flowq.app.result import allow_join_result as allow_join_result
    from flowq.app.result import result_from_tuple as result_from_tuple
    from flowq.app.run import Run as Run
    from flowq.app.shared import shared_task as shared_task
    from flowq.app.task import Task as Task
    from flowq.core.canvas import at_least as at_least
    from flowq.core.states import RunState as RunState
    from flowq.core.states import State as State

#: Public name -> (module, name in it); no name: the module itself.
_WHERE: dict[str, tuple[str, str]] = {
    "AsyncResult": ("flowq.app.result", "AsyncResult"),
    "EagerResult": ("flowq.app.result", "EagerResult"),
    "Flow": ("flowq.app.flow", "Flow"),
    "Flowq": ("flowq.app.base", "Flowq"),
    "GroupResult": ("flowq.app.result", "GroupResult"),
    "ResultSet": ("flowq.app.result", "ResultSet"),
    "Run": ("flowq.app.run", "Run"),
    "RunState": ("flowq.core.states", "RunState"),
    "Signature": ("flowq.app.canvas", "Signature"),
    "State": ("flowq.core.states", "State"),
    "Task": ("flowq.app.task", "Task"),
    "allow_join_result": ("flowq.app.result", "allow_join_result"),
    "at_least": ("flowq.core.canvas", "at_least"),
    "cache": ("flowq.cache", ""),
    "chain": ("flowq.app.canvas", "chain"),
    "chord": ("flowq.app.canvas", "chord"),
    "chunks": ("flowq.app.canvas", "chunks"),
    "current_app": ("flowq.app.current", "current_app"),
    "current_task": ("flowq.app.current", "current_task"),
    "errors": ("flowq.errors", ""),
    "expand": ("flowq.app.canvas", "expand"),
    "group": ("flowq.app.canvas", "group"),
    "load_ipython_extension": ("flowq.notebook", "load_ipython_extension"),
    "maybe_signature": ("flowq.app.canvas", "maybe_signature"),
    "result_from_tuple": ("flowq.app.result", "result_from_tuple"),
    "shared_task": ("flowq.app.shared", "shared_task"),
    "signature": ("flowq.app.canvas", "signature"),
    "uuid": ("flowq.app.calling", "new_id"),
    "xmap": ("flowq.app.canvas", "xmap"),
    "xstarmap": ("flowq.app.canvas", "xstarmap"),
}

__all__ = [
    "AsyncResult",
    "EagerResult",
    "Flow",
    "Flowq",
    "GroupResult",
    "ResultSet",
    "Run",
    "RunState",
    "Signature",
    "State",
    "Task",
    "allow_join_result",
    "at_least",
    "cache",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "errors",
    "expand",
    "group",
    "maybe_signature",
    "result_from_tuple",
    "shared_task",
    "signature",
    "uuid",
    "xmap",
    "xstarmap",
]


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _WHERE[name]
    except KeyError:
        raise AttributeError(f"module 'flowq' has no attribute {name!r}") from None
    found = import_module(module)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
