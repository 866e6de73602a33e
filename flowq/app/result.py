"""Result objects: where the outcome of what was sent is read.

They hold an id and ask the engine (the port is in `outcome`). A result of a node can be made from
its id in any process; parents and children come from the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowq.app import current
from flowq.app.asyncresult import AsyncResult
from flowq.app.eagerresult import EagerResult
from flowq.app.groupresult import GroupResult, ResultSet
from flowq.app.outcome import Outcome
from flowq.app.waiting import allow_join_result, assert_will_not_block, denied_join_result

if TYPE_CHECKING:
    from flowq.app.base import Flowq

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "Outcome",
    "ResultSet",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_for",
    "result_from_tuple",
]


def result_from_tuple(data: Any, app: Flowq | None = None) -> Any:
    """Rebuild a result from what `as_tuple` gave, lists in the place of tuples included."""
    if isinstance(data, AsyncResult | ResultSet):
        return data
    app = app if app is not None else current.get_current()
    head, nodes = data
    if isinstance(head, list | tuple):
        task_id, parent = head
    else:
        task_id, parent = head, None
    above = result_from_tuple(parent, app) if parent else None
    if nodes is None:
        return AsyncResult(task_id, app=app, parent=above)
    members = [result_from_tuple(child, app) for child in nodes]
    if task_id is None:
        return ResultSet(members, app=app)
    return GroupResult(task_id, members, parent=above, app=app)


def result_for(app: Any, node: str) -> Any:
    """The result object of a node: a GroupResult for the join of a group."""
    outcome = app._engine().lookup(node)
    if outcome is not None and outcome.members is not None:
        return GroupResult(node, app=app)
    return AsyncResult(node, app=app)
