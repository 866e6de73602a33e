"""``|``: what becomes of two values side by side. The upgrade table of Celery 5.7.

Values are told apart by their ``subtask_type`` and made through their family, so these rules
serve the core's classes and the public ones alike.
"""

from __future__ import annotations

from typing import Any

from flowq.core.signature import Signature, as_list, bare_clone


def compose(left: Any, right: Any) -> Signature:
    """Apply the upgrade table of ``|``; neither operand is changed."""
    make: dict[str, Any] = dict(left._family)
    if left.subtask_type == "chain":
        merged: Signature = bare_clone(left, {})
        flat = [task.clone() for task in left.tasks]
        chain_append(flat, right)
        merged["kwargs"] = {"tasks": flat}
        return merged
    joined: Signature
    if left.subtask_type in ("chord", "group") and right.subtask_type != "chain":
        flat = [left.clone()]
        chain_append(flat, right)
        joined = flat[0] if len(flat) == 1 else make["chain"](*flat)
    elif left.subtask_type == "group":
        joined = make["chord"](left.clone(), right.clone()) if right else left
    elif left.subtask_type == "chord":
        joined = _extend_body(left, right) if right else left
    else:
        joined = make["chain"](left, right)
    return joined


def chain_append(flat: list[Any], item: Any) -> None:
    """Add one element to a chain under construction, upgrading what stands before it."""
    if item.subtask_type == "chain":
        if not item:
            return
        head, *rest = _pushed_down(item)
        chain_append(flat, head)
        for task in rest:
            chain_append(flat, task)
        return
    if item.subtask_type == "chunks":
        item = item.group()
    if flat and item.subtask_type == "group" and not item.tasks:
        return  # an empty group inside a chain hands the value on (Celery 5.7)
    last = flat[-1] if flat else None
    if last is not None and last.subtask_type == "group":
        flat[-1] = last._class("chord")(last, item)
    elif last is not None and last.subtask_type == "chord":
        flat[-1] = _extend_body(last, item)
    else:
        flat.append(item)


def _pushed_down(item: Any) -> list[Any]:
    """Elements of a chain that dissolves into another: its options move onto them."""
    tasks = [task.clone() for task in item.tasks]
    options = dict(item.options)
    for errback in as_list(options.pop("link_error", None)):
        for task in tasks:
            task.link_error(errback)
    for callback in as_list(options.pop("link", None)):
        tasks[-1].link(callback)
    if "task_id" in options:
        tasks[-1].set(task_id=options.pop("task_id"))
    for key in ("root_id", "parent_id", "group_id", "chord"):
        options.pop(key, None)
    if options:
        tasks[0].set(**{**options, **tasks[0].options})
    return tasks


def _extend_body(left: Any, right: Any) -> Any:
    copy = left.clone()
    copy.body = right.clone() if copy.body is None else compose(copy.body, right)
    return copy
